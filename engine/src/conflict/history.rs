//! The writes of each row that is merged column by column, as long as one of them may still meet
//! another: kept in their total order, so that a write that arrives late is put in its place and the
//! row folded anew ([`super::merge`]).
//!
//! A row has a history from the first local write that the peer has not been seen to have until the
//! last of these is acknowledged. Every foreign write of the row in that time goes in. What stands in
//! front of the first unacknowledged local write is final, for what arrives from now on has seen it:
//! it is folded into the base and forgotten. With three nodes a foreign write counts like a local one
//! until the third node has been seen to have it.
//!
//! A restart must not lose what of a history the logs do not tell any more, so the apply keeps the
//! history of each row that it merges in the engine's schema, in the transaction that merges it. An
//! engine that starts reads them; local writes since come from its own log, and there were no foreign
//! ones, for each of these would have kept the history anew.

use std::collections::{BTreeMap, HashMap, HashSet};
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
pub struct Origin {
    /// The log.
    pub log: Log,
    /// End of the transaction there.
    pub end: LogPos,
}

/// A log, as seen from the node that keeps the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Log {
    /// This node's own.
    Own,
    /// That of the node at this place in the order of nodes.
    Of(u8),
}

impl Origin {
    /// A write of this node's clients.
    #[must_use]
    pub const fn local(end: LogPos) -> Self {
        Self { log: Log::Own, end }
    }

    /// A write of the clients of the node at `place`.
    #[must_use]
    pub const fn foreign(place: u8, end: LogPos) -> Self {
        Self {
            log: Log::Of(place),
            end,
        }
    }
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
    /// What its entries build on.
    base: Base,
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

/// The row in front of a history's writes.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Base {
    row: Option<Row>,
    /// Writes that end in front of this place of a log are in the row. An engine that starts may read
    /// some of them again.
    behind: Vec<(Log, LogPos)>,
}

/// The part of a history in front of its writes, as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeptBase {
    base: Base,
    rules: Vec<ColumnRule>,
}

/// What a write built on.
#[derive(Debug, Clone, Default)]
pub struct Before {
    /// The row as it was then.
    pub row: Option<Row>,
    /// What its transaction had seen of other logs than the one it stands in.
    pub seen: Vec<(Log, LogPos)>,
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
    let locals = entries.filter(|entry| entry.origin.log == Log::Own);
    let ends = locals.map(|entry| entry.origin.end);
    ends.max().unwrap_or_default()
}

/// The histories of one node.
#[derive(Debug, Default)]
pub struct Histories {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    chains: HashMap<KeyHash, Chain>,
    acknowledged: Acknowledged,
}

/// Up to where the writes of each log are at all other nodes. The reader of a log may come by later:
/// what it then reads in front of it is final.
#[derive(Debug, Default)]
struct Acknowledged {
    own: LogPos,
    /// With three nodes. Where a log is not among them, nobody waits for it.
    others: BTreeMap<u8, LogPos>,
}

impl Acknowledged {
    /// Whether a node may not have it yet.
    fn is_open(&self, entry: &Entry) -> bool {
        match entry.origin.log {
            Log::Own => entry.origin.end > self.own,
            Log::Of(place) => {
                let had = self.others.get(&place);
                had.is_some_and(|had| entry.origin.end > *had)
            }
        }
    }
}

impl Histories {
    /// A write of the row, local or applied. It begins a history where there is none and another node
    /// may not have it; one that is in already is not put in twice.
    pub fn record(&self, key: KeyHash, entry: Entry, before: &Before, rules: &[ColumnRule]) {
        let inner = &mut *self.lock();
        if !inner.chains.contains_key(&key) && !inner.acknowledged.is_open(&entry) {
            return;
        }
        let chain = inner.chains.entry(key).or_insert_with(|| {
            let mut base = Base {
                row: before.row.clone(),
                behind: vec![(entry.origin.log, entry.origin.end)],
            };
            for (log, seen) in &before.seen {
                base.holds(*log, *seen);
            }
            Chain {
                row: Ok(before.row.clone()),
                base,
                entries: Vec::new(),
                kept: HashSet::new(),
                odd: 0,
                rules: rules.to_vec(),
            }
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
        let inner = &mut *self.lock();
        inner.acknowledged.own = inner.acknowledged.own.max(acknowledged);
        if !kept
            .entries
            .iter()
            .any(|entry| inner.acknowledged.is_open(entry))
        {
            return;
        }
        let orders: Vec<Order> = kept.entries.iter().map(|entry| entry.order).collect();
        let chains = &mut inner.chains;
        if !starting && !chains.contains_key(&key) {
            return;
        }
        let whole = !chains.contains_key(&key);
        let KeptBase { base, rules } = kept.base;
        let chain = chains.entry(key).or_insert_with(|| Chain {
            row: Ok(base.row.clone()),
            base,
            entries: Vec::new(),
            kept: HashSet::new(),
            odd: 0,
            rules,
        });
        for entry in kept.entries {
            if whole || entry.origin.log != Log::Own {
                chain.insert(entry);
            }
        }
        chain.kept.extend(orders);
    }

    /// A foreign write of the row was applied: it goes in where the row has a history. With two nodes
    /// that is all, since nobody else could have missed it. One that is in already is not put in twice.
    pub fn applied(&self, key: KeyHash, entry: Entry) {
        if let Some(chain) = self.lock().chains.get_mut(&key) {
            chain.insert(entry);
        }
    }

    /// All other nodes have everything of this node's log up to here.
    pub fn acknowledge(&self, acknowledged: LogPos) {
        let inner = &mut *self.lock();
        inner.acknowledged.own = inner.acknowledged.own.max(acknowledged);
        inner.forget_final();
    }

    /// All other nodes have everything of the log of the node at `place` up to here: with three nodes,
    /// and to be said first before anything of it is recorded.
    pub fn acknowledge_other(&self, place: u8, acknowledged: LogPos) {
        let inner = &mut *self.lock();
        let had = inner.acknowledged.others.entry(place).or_default();
        *had = (*had).max(acknowledged);
        inner.forget_final();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is complete before the guard goes.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn forget_final(&mut self) {
        let acknowledged = &self.acknowledged;
        self.chains.retain(|_, chain| chain.settle(acknowledged));
    }
}

impl Base {
    fn contains(&self, entry: &Entry) -> bool {
        let mut behind = self.behind.iter();
        behind.any(|(log, end)| *log == entry.origin.log && entry.origin.end < *end)
    }

    /// Everything of this log that ends in front of `end` is in it.
    fn begins(&mut self, log: Log, end: LogPos) {
        match self.behind.iter_mut().find(|(known, _)| *known == log) {
            Some((_, known)) => *known = (*known).max(end),
            None => self.behind.push((log, end)),
        }
    }

    /// Everything of this log up to `end` is in it.
    fn holds(&mut self, log: Log, end: LogPos) {
        self.begins(log, LogPos::new(end.file, end.offset + 1));
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
                .row
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
        let mut row = self.base.row.clone();
        for entry in all {
            row = step(row.as_ref(), &entry.write, &self.rules)?;
        }
        Ok(row)
    }

    fn is_in(&self, entry: &Entry) -> bool {
        self.base.contains(entry)
            || self
                .entries
                .binary_search_by_key(&entry.order, |known| known.order)
                .is_ok()
    }

    /// Folds what is final into the base; `false` where nothing else is left.
    fn settle(&mut self, acknowledged: &Acknowledged) -> bool {
        let open = |entry: &Entry| acknowledged.is_open(entry);
        let Some(first) = self.entries.iter().position(open) else {
            return false;
        };
        if let Some(Entry { origin, .. }) = self.entries.get(first) {
            self.base.begins(origin.log, origin.end);
        }
        let settled: Vec<Entry> = self.entries.drain(..first).collect();
        for entry in settled {
            self.odd -= usize::from(!self.is_plain(&entry));
            self.kept.remove(&entry.order);
            if let Ok(row) = step(self.base.row.as_ref(), &entry.write, &self.rules) {
                self.base.row = row;
            }
            self.base.holds(entry.origin.log, entry.origin.end);
        }
        true
    }
}
