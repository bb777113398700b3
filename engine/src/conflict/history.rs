//! The writes of each row that is merged column by column, as long as one of them may still meet
//! another: kept in their total order, so that a write that arrives late is put in its place and the
//! row folded anew ([`super::merge`]).
//!
//! A row has a history from the first local write that the peer has not been seen to have until the
//! last of these is acknowledged. Every foreign write of the row in that time goes in. What stands in
//! front of the first unacknowledged local write is final, for what arrives from now on has seen it:
//! it is folded into the base and forgotten.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::key::KeyHash;
use super::merge::{Unmergeable, Write, step};
use super::rules::ColumnRule;
use crate::position::LogPos;
use crate::row::Row;

/// Where a write stands among all writes of its row: effective timestamp, rank of its node (the one
/// that stands first is higher), number of the change within its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Order {
    /// Effective timestamp of its transaction, microseconds.
    pub effective: u64,
    /// 1 for the node that stands first, 0 for the other.
    pub rank: u8,
    /// Change within the transaction.
    pub change: u32,
}

/// Which log a write stands in, and where its transaction ends there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// This node's own.
    Local(LogPos),
    /// The peer's.
    Foreign(LogPos),
}

/// A write in a history.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its place.
    pub order: Order,
    /// Where it comes from.
    pub origin: Origin,
    /// What it did.
    pub write: Write,
}

#[derive(Debug)]
struct Chain {
    /// The row in front of the first entry.
    base: Option<Row>,
    /// Foreign writes up to here, in the peer's log, are in the base.
    base_holds: LogPos,
    /// By their order.
    entries: Vec<Entry>,
    /// The row behind the last entry; `None` as well where a sum did not fit.
    row: Result<Option<Row>, Unmergeable>,
    rules: Vec<ColumnRule>,
}

/// The histories of one node.
#[derive(Debug, Default)]
pub struct Histories {
    chains: Mutex<HashMap<KeyHash, Chain>>,
}

impl Histories {
    /// A local write of the row. `before` is the row as it was then, `seen` what this node had
    /// applied of the peer's log.
    pub fn record(
        &self,
        key: KeyHash,
        entry: Entry,
        before: Option<&Row>,
        seen: LogPos,
        rules: &[ColumnRule],
    ) {
        let mut chains = self.lock();
        let chain = chains.entry(key).or_insert_with(|| Chain {
            base: before.cloned(),
            base_holds: seen,
            entries: Vec::new(),
            row: Ok(before.cloned()),
            rules: rules.to_vec(),
        });
        chain.insert(entry);
    }

    /// Whether a row has a history: every foreign write of it must go in.
    #[must_use]
    pub fn holds(&self, key: KeyHash) -> bool {
        self.lock().contains_key(&key)
    }

    /// Number of the writes that are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().values().map(|chain| chain.entries.len()).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// The row that a history comes to once these writes of it are in. `None` where the row has no
    /// history.
    ///
    /// # Errors
    /// [`Unmergeable`].
    pub fn folded<'e>(
        &self,
        key: KeyHash,
        with: impl Iterator<Item = &'e Entry>,
    ) -> Option<Result<Option<Row>, Unmergeable>> {
        let mut with: Vec<&Entry> = with.collect();
        with.sort_by_key(|entry| entry.order);
        let chains = self.lock();
        let chain = chains.get(&key)?;
        Some(chain.folded_with(&with))
    }

    /// Foreign writes of the row were applied. One that is in already is not put in twice.
    pub fn applied(&self, key: KeyHash, entry: Entry) {
        if let Some(chain) = self.lock().get_mut(&key) {
            chain.insert(entry);
        }
    }

    /// The peer has everything of this node's log up to here.
    pub fn acknowledge(&self, acknowledged: LogPos) {
        self.lock().retain(|_, chain| chain.settle(acknowledged));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<KeyHash, Chain>> {
        // Every change is complete before the guard goes.
        self.chains.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Chain {
    fn insert(&mut self, entry: Entry) {
        if let Origin::Foreign(end) = entry.origin
            && end <= self.base_holds
        {
            return;
        }
        let place = self
            .entries
            .binary_search_by_key(&entry.order, |known| known.order);
        let Err(place) = place else {
            return;
        };
        if place == self.entries.len() {
            if let Ok(row) = &self.row {
                self.row = step(row.as_ref(), &entry.write, &self.rules);
            }
            self.entries.push(entry);
            return;
        }
        if let Some(row) = self.added(&entry, place) {
            self.row = Ok(Some(row));
            self.entries.insert(place, entry);
            return;
        }
        self.entries.insert(place, entry);
        self.row = self.folded_with(&[]);
    }

    /// The last row with an update in its place, where it is plain what that comes to: sums do not
    /// hang on their order, and all other columns are the later updates'.
    fn added(&self, entry: &Entry, place: usize) -> Option<Row> {
        let sums = |rule: &ColumnRule| matches!(rule, ColumnRule::Delta | ColumnRule::Later);
        let updates = |entry: &Entry| matches!(entry.write, Write::Update { .. });
        let Write::Update { before, after } = &entry.write else {
            return None;
        };
        if !self.rules.iter().all(sums) || !self.entries[place..].iter().all(updates) {
            return None;
        }
        let row = self.row.as_ref().ok()?.as_ref()?;
        let mut with = row.clone();
        for (column, rule) in self.rules.iter().enumerate() {
            if *rule == ColumnRule::Delta {
                let change =
                    |row: &Row| -> Option<Row> { Some(Box::new([row.get(column)?.clone()])) };
                let one = Write::Update {
                    before: change(before)?,
                    after: change(after)?,
                };
                let Ok(Some(sum)) = step(Some(&change(row)?), &one, &[ColumnRule::Delta]) else {
                    return None;
                };
                *with.get_mut(column)? = sum.first()?.clone();
            }
        }
        Some(with)
    }

    fn folded_with(&self, with: &[&Entry]) -> Result<Option<Row>, Unmergeable> {
        // Nothing comes late: go on from the row that is known.
        let late = match (self.entries.last(), with.first()) {
            (Some(last), Some(first)) => first.order < last.order,
            _ => false,
        };
        if !late && !with.is_empty() {
            let mut row = self.row.clone()?;
            for entry in with {
                if !self.is_in(entry) {
                    row = step(row.as_ref(), &entry.write, &self.rules)?;
                }
            }
            return Ok(row);
        }
        if let [only] = with
            && !self.is_in(only)
        {
            let place = self
                .entries
                .partition_point(|entry| entry.order < only.order);
            if let Some(row) = self.added(only, place) {
                return Ok(Some(row));
            }
        }
        let mut all: Vec<&Entry> = self.entries.iter().collect();
        all.extend(with.iter().filter(|entry| !self.is_in(entry)));
        all.sort_by_key(|entry| entry.order);
        let mut row = self.base.clone();
        for entry in all {
            row = step(row.as_ref(), &entry.write, &self.rules)?;
        }
        Ok(row)
    }

    fn is_in(&self, entry: &Entry) -> bool {
        let in_base = matches!(entry.origin, Origin::Foreign(end) if end <= self.base_holds);
        in_base
            || self
                .entries
                .binary_search_by_key(&entry.order, |known| known.order)
                .is_ok()
    }

    /// Folds what is final into the base; `false` where nothing else is left.
    fn settle(&mut self, acknowledged: LogPos) -> bool {
        let open = |entry: &Entry| matches!(entry.origin, Origin::Local(end) if end > acknowledged);
        let Some(first) = self.entries.iter().position(open) else {
            return false;
        };
        for entry in self.entries.drain(..first) {
            if let Ok(row) = step(self.base.as_ref(), &entry.write, &self.rules) {
                self.base = row;
            }
            if let Origin::Foreign(end) = entry.origin {
                self.base_holds = self.base_holds.max(end);
            }
        }
        true
    }
}
