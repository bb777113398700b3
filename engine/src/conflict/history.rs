//! The writes of each row that is merged column by column, as long as one of them may still meet
//! another: kept in their total order, so that a write that arrives late is put in its place and the
//! row folded anew ([`super::merge`]).
//!
//! A row has a history from the first local write that the peer has not been seen to have until the
//! last of these is acknowledged. Every foreign write of the row in that time goes in. What stands in
//! front of the first unacknowledged local write is final, for what arrives from now on has seen it:
//! it is folded into the base and forgotten.
//!
//! A restart must not lose what of a history the logs do not tell any more, so the apply keeps the
//! history of each row that it merges in the engine's schema, in the transaction that merges it. An
//! engine that starts reads them; local writes since come from its own log, and there were no foreign
//! ones, for each of these would have kept the history anew.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::claim::RowWrite;
use super::key::KeyHash;
use super::merge::{Unmergeable, Write, step};
use super::resolve::RowAction;
use super::rules::ColumnRule;
use crate::position::LogPos;
use crate::row::{Row, RowChange, Value};

/// Where a write stands among all writes of its row: effective timestamp, rank of its node (the one
/// that stands first is higher), number of the change within its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Order {
    /// Effective timestamp of its transaction, microseconds.
    pub effective: u64,
    /// 1 for the node that stands first, 0 for the other.
    pub rank: u8,
    /// Change within the transaction.
    pub change: u32,
}

/// Which log a write stands in, and where its transaction ends there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// This node's own.
    Local(LogPos),
    /// The peer's.
    Foreign(LogPos),
}

/// A write in a history.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    /// Local writes in front of this place of the node's own log are in the base. An engine that
    /// starts may read some of them again.
    base_begins: LogPos,
    /// By their order.
    entries: Vec<Entry>,
    /// Which of them are in the engine's schema.
    kept: HashSet<Order>,
    /// How many of them are no plain sums; see [`Chain::is_plain`].
    odd: usize,
    /// The row behind the last entry; `None` as well where a sum did not fit.
    row: Result<Option<Row>, Unmergeable>,
    rules: Vec<ColumnRule>,
}

/// The part of a history in front of its writes, as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeptBase {
    base: Option<Row>,
    base_holds: LogPos,
    base_begins: LogPos,
    rules: Vec<ColumnRule>,
}

/// A history as it is kept.
#[derive(Debug, Clone)]
pub struct Kept {
    /// What its writes build on.
    pub base: KeptBase,
    /// The writes, in any order.
    pub entries: Vec<Entry>,
}

/// What of a history is to be kept that is not yet.
#[derive(Debug, Clone)]
pub struct Unkept {
    /// What its writes build on, by now.
    pub base: KeptBase,
    /// Writes that are not kept yet.
    pub entries: Vec<Entry>,
    /// Its first write: what is kept in front of it is in the base.
    pub first: Order,
    /// End of its last local write: once the peer has that, all of it is final.
    pub last_local: LogPos,
}

fn last_local<'e>(entries: impl Iterator<Item = &'e Entry>) -> LogPos {
    let locals = entries.filter_map(|entry| match entry.origin {
        Origin::Local(end) => Some(end),
        Origin::Foreign(_) => None,
    });
    locals.max().unwrap_or_default()
}

/// The histories of one node.
#[derive(Debug, Default)]
pub struct Histories {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    chains: HashMap<KeyHash, Chain>,
    /// The tailer may come by later than this: what it then reads in front of it is final.
    acknowledged: LogPos,
}

impl Histories {
    /// A local write of the row; `before` is the row as it was then.
    pub fn record(&self, key: KeyHash, entry: Entry, before: Option<&Row>, rules: &[ColumnRule]) {
        let begins = match entry.origin {
            Origin::Local(end) | Origin::Foreign(end) => end,
        };
        let inner = &mut *self.lock();
        if begins <= inner.acknowledged && !inner.chains.contains_key(&key) {
            return;
        }
        let chain = inner.chains.entry(key).or_insert_with(|| Chain {
            base: before.cloned(),
            base_holds: LogPos::default(),
            base_begins: begins,
            entries: Vec::new(),
            kept: HashSet::new(),
            odd: 0,
            row: Ok(before.cloned()),
            rules: rules.to_vec(),
        });
        chain.insert(entry);
    }

    /// Whether a row has a history: every foreign write of it must go in.
    #[must_use]
    pub fn holds(&self, key: KeyHash) -> bool {
        self.lock().chains.contains_key(&key)
    }

    /// Number of the writes that are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        let inner = self.lock();
        inner.chains.values().map(|chain| chain.entries.len()).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().chains.is_empty()
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
        let inner = self.lock();
        let chain = inner.chains.get(&key)?;
        Some(chain.folded_with(&with))
    }

    /// What is to be kept of a row's history once these writes are in it. `None` where the row has
    /// none.
    pub fn unkept_with<'e>(
        &self,
        key: KeyHash,
        with: impl Iterator<Item = &'e Entry>,
    ) -> Option<Unkept> {
        let inner = self.lock();
        let chain = inner.chains.get(&key)?;
        let new = |entry: &&Entry| !chain.kept.contains(&entry.order);
        let mut entries: Vec<Entry> = chain.entries.iter().filter(new).cloned().collect();
        entries.extend(with.filter(|entry| !chain.is_in(entry)).cloned());
        let all = || chain.entries.iter().chain(&entries);
        Some(Unkept {
            base: KeptBase {
                base: chain.base.clone(),
                base_holds: chain.base_holds,
                base_begins: chain.base_begins,
                rules: chain.rules.clone(),
            },
            first: all().map(|entry| entry.order).min()?,
            last_local: last_local(all()),
            entries,
        })
    }

    /// These writes of the row are kept by now.
    pub fn keep(&self, key: KeyHash, orders: impl Iterator<Item = Order>) {
        if let Some(chain) = self.lock().chains.get_mut(&key) {
            chain.kept.extend(orders);
        }
    }

    /// A history that was kept, unless all of it is final by now. An engine that starts takes it
    /// whole; one that runs only lacks what was committed without its knowing.
    pub fn load(&self, key: KeyHash, kept: Kept, acknowledged: LogPos, starting: bool) {
        if last_local(kept.entries.iter()) <= acknowledged {
            return;
        }
        let orders: Vec<Order> = kept.entries.iter().map(|entry| entry.order).collect();
        let chains = &mut self.lock().chains;
        if !starting && !chains.contains_key(&key) {
            return;
        }
        let whole = !chains.contains_key(&key);
        let base = kept.base;
        let chain = chains.entry(key).or_insert_with(|| Chain {
            row: Ok(base.base.clone()),
            base: base.base,
            base_holds: base.base_holds,
            base_begins: base.base_begins,
            entries: Vec::new(),
            kept: HashSet::new(),
            odd: 0,
            rules: base.rules,
        });
        for entry in kept.entries {
            if whole || matches!(entry.origin, Origin::Foreign(_)) {
                chain.insert(entry);
            }
        }
        chain.kept.extend(orders);
    }

    /// Foreign writes of the row were applied. One that is in already is not put in twice.
    pub fn applied(&self, key: KeyHash, entry: Entry) {
        if let Some(chain) = self.lock().chains.get_mut(&key) {
            chain.insert(entry);
        }
    }

    /// The peer has everything of this node's log up to here.
    pub fn acknowledge(&self, acknowledged: LogPos) {
        let inner = &mut *self.lock();
        inner.acknowledged = inner.acknowledged.max(acknowledged);
        let acknowledged = inner.acknowledged;
        inner.chains.retain(|_, chain| chain.settle(acknowledged));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is complete before the guard goes.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one or two writes of a row that a change is, by row key, with the row before; `image` brings a
/// row of the log into the order of the table's columns. Writes without a row key are left out.
pub fn writes_of(
    change: &RowChange,
    writes: &[RowWrite],
    image: impl Fn(&Row) -> Row,
) -> Vec<(KeyHash, Write, Option<Row>)> {
    let (before, after) = match change {
        RowChange::Insert { after } => (None, Some(image(after))),
        RowChange::Update { before, after } => (Some(image(before)), Some(image(after))),
        RowChange::Delete { before } => (Some(image(before)), None),
    };
    let kept = writes.iter().filter_map(|write| {
        let (done, was) = match (write, &before, &after) {
            (RowWrite::Insert { .. }, _, Some(after)) => (Write::Insert(after.clone()), None),
            (RowWrite::Update { .. }, Some(before), Some(after)) => {
                let update = Write::Update {
                    before: before.clone(),
                    after: after.clone(),
                };
                (update, Some(before.clone()))
            }
            (RowWrite::Delete { .. }, Some(before), _) => (Write::Delete, Some(before.clone())),
            _ => return None,
        };
        Some((write.row_key()?, done, was))
    });
    kept.collect()
}

/// What becomes of the row once its history is folded to `row`, given what would become of it
/// without: where the arriving write lost the row key, its part goes in all the same.
#[must_use]
pub fn merged(action: RowAction, present: bool, row: Option<Row>) -> (RowAction, Option<Row>) {
    match (action, row) {
        (RowAction::Put, Some(row)) => (RowAction::Put, Some(row)),
        (RowAction::Keep, Some(row)) if present => (RowAction::Put, Some(row)),
        (action, _) => (action, None),
    }
}

impl Chain {
    fn insert(&mut self, entry: Entry) {
        if self.is_in(&entry) {
            return;
        }
        let row = self.folded_with(&[&entry]);
        let place = self
            .entries
            .partition_point(|known| known.order < entry.order);
        self.odd += usize::from(!self.is_plain(&entry));
        self.entries.insert(place, entry);
        self.row = row;
    }

    /// Whether all values of the row that are added up are numbers.
    fn has_numbers(&self, row: &Row) -> bool {
        let mut columns = self.rules.iter().zip(row.iter());
        columns.all(|(rule, value)| *rule == ColumnRule::Later || *value != Value::Null)
    }

    /// Whether the write is an update by sums, whose place among others of the kind does not count:
    /// all columns but the sums are the later update's.
    fn is_plain(&self, entry: &Entry) -> bool {
        let sums = |rule: &ColumnRule| matches!(rule, ColumnRule::Delta | ColumnRule::Later);
        match &entry.write {
            Write::Update { before, after } => {
                self.rules.iter().all(sums) && self.has_numbers(before) && self.has_numbers(after)
            }
            Write::Insert(_) | Write::Delete => false,
        }
    }

    /// `row` with the sums of an update that has its place in front of the last write.
    fn added(&self, row: &Row, entry: &Entry) -> Option<Row> {
        let Write::Update { before, after } = &entry.write else {
            return None;
        };
        let mut with = row.clone();
        for (column, rule) in self.rules.iter().enumerate() {
            if *rule != ColumnRule::Delta {
                continue;
            }
            let one = |row: &Row| -> Option<Row> { Some(Box::new([row.get(column)?.clone()])) };
            let change = Write::Update {
                before: one(before)?,
                after: one(after)?,
            };
            let sum = step(Some(&one(row)?), &change, &[ColumnRule::Delta]).ok()??;
            *with.get_mut(column)? = sum.first()?.clone();
        }
        Some(with)
    }

    /// The row with these writes in it, which are in their order.
    fn folded_with(&self, with: &[&Entry]) -> Result<Option<Row>, Unmergeable> {
        let new: Vec<&Entry> = with
            .iter()
            .copied()
            .filter(|entry| !self.is_in(entry))
            .collect();
        let mut last = self.entries.last().map(|entry| entry.order);
        let plain = self.odd == 0
            && self
                .base
                .as_ref()
                .is_some_and(|base| self.has_numbers(base))
            && new.iter().all(|entry| self.is_plain(entry));
        if plain || new.first().is_none_or(|first| last < Some(first.order)) {
            let mut row = self.row.clone()?;
            for entry in new {
                row = match &row {
                    Some(present) if last > Some(entry.order) => {
                        let sum = self.added(present, entry);
                        Some(sum.ok_or(Unmergeable { column: 0 })?)
                    }
                    _ => {
                        last = Some(entry.order);
                        step(row.as_ref(), &entry.write, &self.rules)?
                    }
                };
            }
            return Ok(row);
        }
        let mut all: Vec<&Entry> = self.entries.iter().chain(new).collect();
        all.sort_by_key(|entry| entry.order);
        let mut row = self.base.clone();
        for entry in all {
            row = step(row.as_ref(), &entry.write, &self.rules)?;
        }
        Ok(row)
    }

    fn is_in(&self, entry: &Entry) -> bool {
        self.in_base(entry)
            || self
                .entries
                .binary_search_by_key(&entry.order, |known| known.order)
                .is_ok()
    }

    fn in_base(&self, entry: &Entry) -> bool {
        match entry.origin {
            Origin::Local(end) => end < self.base_begins,
            Origin::Foreign(end) => end <= self.base_holds,
        }
    }

    /// Folds what is final into the base; `false` where nothing else is left.
    fn settle(&mut self, acknowledged: LogPos) -> bool {
        let open = |entry: &Entry| matches!(entry.origin, Origin::Local(end) if end > acknowledged);
        let Some(first) = self.entries.iter().position(open) else {
            return false;
        };
        if let Some(Origin::Local(begins)) = self.entries.get(first).map(|entry| entry.origin) {
            self.base_begins = begins;
        }
        let settled: Vec<Entry> = self.entries.drain(..first).collect();
        for entry in settled {
            self.odd -= usize::from(!self.is_plain(&entry));
            self.kept.remove(&entry.order);
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
