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
//!
//! A peer that is away for long leaves more of them than memory has room for: beyond a limit those of
//! which nothing was heard lately are put away whole, and of the row that is written again and again
//! its writes ([`super::chain`], [`super::cold`]). What is answered is the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::chain::{Base, Chain};
use super::claim::RowWrite;
use super::cold::{Cold, Cursor};
use super::key::{KeyHash, KeyMap};
use super::merge::{Unmergeable, Write};
use super::resolve::RowAction;
use super::rules::ColumnRule;
use crate::error::{Error, Result};
use crate::position::LogPos;
use crate::row::{Row, RowChange};

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

/// The part of a history in front of its writes, as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeptBase {
    pub(super) base: Base,
    pub(super) rules: Vec<ColumnRule>,
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
    /// The writes, in any order, or some of them; see [`Histories::load_more`].
    pub entries: Vec<Entry>,
    /// End of its last local write, as far as it is known.
    pub last_local: LogPos,
}

/// What of a history is to be kept that is not yet.
#[derive(Debug)]
pub struct Unkept {
    /// What its writes build on, by now.
    pub base: KeptBase,
    /// Writes that are not kept yet, but for those on disk.
    pub entries: Vec<Entry>,
    pub(super) spilled: Vec<Cursor>,
    /// Its first write: what is kept in front of it is in the base.
    pub first: Order,
    /// End of its last local write: once the peer has that, all of it is final.
    pub last_local: LogPos,
}

impl Unkept {
    /// Takes of the writes that are on disk as many as take about `bytes` of memory; none behind the last.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn take_spilled(&mut self, bytes: usize) -> Result<Vec<Entry>> {
        let mut taken = Vec::new();
        let mut weight = 0;
        for cursor in &mut self.spilled {
            while weight < bytes
                && let Some(entry) = cursor.pop()?
            {
                weight += super::chain::weight(&entry);
                taken.push(entry);
            }
        }
        Ok(taken)
    }
}

/// The histories of one node.
#[derive(Debug, Default)]
pub struct Histories {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Those in memory.
    chains: KeyMap<Chain>,
    /// What they take, roughly, in bytes.
    bytes: usize,
    room: Option<Room>,
    /// Those that are not in memory; some that are have an older state there.
    cold: Option<Cold>,
    /// Writes in chains that are not in memory, those counted too that are final by now.
    away: usize,
    acknowledged: Acknowledged,
    /// Why they cannot be trusted any more: folder of the disk that failed, and what it said.
    trouble: Option<(String, String)>,
}

/// How much memory the histories may take, and where the others are.
#[derive(Debug)]
struct Room {
    bytes: usize,
    folder: PathBuf,
}

/// Up to where the writes of each log are at all other nodes. The reader of a log may come by later:
/// what it then reads in front of it is final.
#[derive(Debug, Default)]
pub(super) struct Acknowledged {
    own: LogPos,
    /// With three nodes. Where a log is not among them, nobody waits for it.
    others: BTreeMap<u8, LogPos>,
}

impl Acknowledged {
    /// Whether a node may not have what ends here.
    pub(super) fn is_open(&self, log: Log, end: LogPos) -> bool {
        match log {
            Log::Own => end > self.own,
            Log::Of(place) => self.others.get(&place).is_some_and(|had| end > *had),
        }
    }
}

impl Histories {
    /// With about `bytes` of memory; the others go to `folder`. Without it all are in memory.
    #[must_use]
    pub fn bounded(bytes: usize, folder: &Path) -> Self {
        let folder = folder.to_owned();
        let inner = Inner {
            room: Some(Room { bytes, folder }),
            ..Inner::default()
        };
        Self {
            inner: Mutex::new(inner),
        }
    }

    /// A write of the row, local or applied. It begins a history where there is none and another node
    /// may not have it; one that is in already is not put in twice. All writes of one log come in
    /// their order.
    pub fn record(&self, key: KeyHash, entry: Entry, before: &Before, rules: &[ColumnRule]) {
        self.guarded(|inner| {
            let Origin { log, end } = entry.origin;
            if !inner.find(key)? {
                if !inner.acknowledged.is_open(log, end) {
                    return Ok(());
                }
                let base = Base::new(before.row.clone(), &[(log, end)], &before.seen);
                inner.begin(key, Chain::new(base, rules.to_vec()));
            }
            inner.change(key, |chain, folder| chain.insert(entry, folder))?;
            inner.fit(key)
        });
    }

    /// Whether a row has a history: every foreign write of it must go in.
    #[must_use]
    pub fn holds(&self, key: KeyHash) -> bool {
        self.guarded(|inner| inner.find(key)).unwrap_or(true)
    }

    /// Number of the writes that are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        let inner = self.lock();
        inner.away + inner.chains.values().map(Chain::len).sum::<usize>()
    }

    /// Memory that they take, roughly, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.lock().bytes
    }

    /// Whether any went to disk since the beginning.
    #[must_use]
    pub fn has_spilled(&self) -> bool {
        self.lock().cold.is_some()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let inner = self.lock();
        inner.chains.is_empty() && inner.cold.as_ref().is_none_or(Cold::is_empty)
    }

    /// Whether what the histories say may be trusted: to be asked in front of a commit.
    ///
    /// # Errors
    /// [`Error::Store`] when the disk failed. The histories are of no use any more.
    pub fn trust(&self) -> Result<()> {
        match self.lock().trouble.clone() {
            None => Ok(()),
            Some((path, problem)) => Err(Error::Store { path, problem }),
        }
    }

    /// The row that a history comes to once these writes of it are in. `None` where the row has no
    /// history, or it cannot be read; see [`Self::trust`].
    ///
    /// # Errors
    /// [`Unmergeable`].
    pub fn folded<'e>(
        &self,
        key: KeyHash,
        with: impl Iterator<Item = &'e Entry>,
    ) -> Option<std::result::Result<Option<Row>, Unmergeable>> {
        let mut with: Vec<&Entry> = with.collect();
        with.sort_by_key(|entry| entry.order);
        let folded = self.guarded(|inner| {
            if !inner.find(key)? {
                return Ok(None);
            }
            let folded = inner.change(key, |chain, folder| chain.folded_with(&with, folder))?;
            inner.fit(key)?;
            Ok(folded)
        });
        folded.flatten()
    }

    /// What is to be kept of a row's history once these writes are in it. `None` where the row has
    /// none.
    pub fn unkept_with<'e>(
        &self,
        key: KeyHash,
        with: impl Iterator<Item = &'e Entry>,
    ) -> Option<Unkept> {
        let unkept = self.guarded(|inner| {
            if !inner.find(key)? {
                return Ok(None);
            }
            let unkept = inner.change(key, |chain, folder| Ok(chain.unkept_with(with, folder)))?;
            inner.fit(key)?;
            Ok(unkept.flatten())
        });
        unkept.flatten()
    }

    /// This of the row's history is kept by now.
    pub fn keep(&self, key: KeyHash, unkept: &Unkept) {
        self.guarded(|inner| {
            if inner.find(key)? {
                inner.change(key, |chain, _| {
                    chain.keep(unkept);
                    Ok(())
                })?;
                inner.fit(key)?;
            }
            Ok(())
        });
    }

    /// A history that was kept, unless all of it is final by now. An engine that starts takes it
    /// whole; one that runs only lacks what was committed without its knowing. Gives whether more of
    /// its writes are wanted, if there are more.
    pub fn load(&self, key: KeyHash, kept: Kept, acknowledged: LogPos, starting: bool) -> bool {
        let loaded = self.guarded(|inner| {
            inner.acknowledged.own = inner.acknowledged.own.max(acknowledged);
            let known = &inner.acknowledged;
            let mut ends = kept.entries.iter().map(|entry| entry.origin);
            if !ends.any(|origin| known.is_open(origin.log, origin.end))
                && kept.last_local <= known.own
            {
                return Ok(false);
            }
            let whole = !inner.find(key)?;
            if whole {
                if !starting {
                    return Ok(false);
                }
                let KeptBase { base, rules } = kept.base;
                inner.begin(key, Chain::new(base, rules));
            }
            inner.load(key, kept.entries, whole)?;
            Ok(true)
        });
        loaded.unwrap_or(false)
    }

    /// More of the writes of a history of which the first ones were loaded.
    pub fn load_more(&self, key: KeyHash, entries: Vec<Entry>, starting: bool) {
        self.guarded(|inner| {
            if inner.find(key)? {
                inner.load(key, entries, starting)?;
            }
            Ok(())
        });
    }

    /// A foreign write of the row was applied: it goes in where the row has a history. With two nodes
    /// that is all, since nobody else could have missed it. One that is in already is not put in twice.
    pub fn applied(&self, key: KeyHash, entry: Entry) {
        self.guarded(|inner| {
            if inner.find(key)? {
                inner.change(key, |chain, folder| chain.insert(entry, folder))?;
                inner.fit(key)?;
            }
            Ok(())
        });
    }

    /// All other nodes have everything of this node's log up to here.
    pub fn acknowledge(&self, acknowledged: LogPos) {
        self.guarded(|inner| {
            let further = acknowledged > inner.acknowledged.own;
            inner.acknowledged.own = inner.acknowledged.own.max(acknowledged);
            inner.forget_final()?;
            if let Some(cold) = inner.cold.as_mut().filter(|_| further) {
                cold.drop_front(acknowledged);
                if cold.is_empty() {
                    inner.away = 0;
                }
            }
            Ok(())
        });
    }

    /// All other nodes have everything of the log of the node at `place` up to here: with three nodes,
    /// and to be said first before anything of it is recorded.
    pub fn acknowledge_other(&self, place: u8, acknowledged: LogPos) {
        self.guarded(|inner| {
            let had = inner.acknowledged.others.entry(place).or_default();
            *had = (*had).max(acknowledged);
            inner.forget_final()
        });
    }

    /// Does this, unless the disk has failed before; what it says then is for [`Self::trust`].
    fn guarded<T>(&self, act: impl FnOnce(&mut Inner) -> Result<T>) -> Option<T> {
        let inner = &mut *self.lock();
        if inner.trouble.is_some() {
            return None;
        }
        match act(inner) {
            Ok(done) => Some(done),
            Err(Error::Store { path, problem }) => {
                inner.trouble = Some((path, problem));
                None
            }
            Err(error) => {
                inner.trouble = Some((String::new(), error.to_string()));
                None
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A change that ends early is trouble, and nothing is believed any more.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn folder(&self) -> PathBuf {
        let room = self.room.as_ref();
        room.map(|room| room.folder.clone()).unwrap_or_default()
    }

    /// Has the row's history in memory, if there is one.
    fn find(&mut self, key: KeyHash) -> Result<bool> {
        if self.chains.contains_key(&key) {
            return Ok(true);
        }
        let Some(cold) = &self.cold else {
            return Ok(false);
        };
        let Some(chain) = cold.get(key)? else {
            return Ok(false);
        };
        self.away = self.away.saturating_sub(chain.len());
        // Nothing of it is folded now: that is for between transactions, of which another write may be
        // about to come in.
        if !chain.is_open(&self.acknowledged) {
            return Ok(false);
        }
        self.begin(key, chain);
        Ok(true)
    }

    fn begin(&mut self, key: KeyHash, chain: Chain) {
        self.bytes += chain.weight();
        self.chains.insert(key, chain);
    }

    /// Changes a history that is in memory.
    fn change<T>(
        &mut self,
        key: KeyHash,
        change: impl FnOnce(&mut Chain, &Path) -> Result<T>,
    ) -> Result<Option<T>> {
        let folder = self.folder();
        let Some(chain) = self.chains.get_mut(&key) else {
            return Ok(None);
        };
        self.bytes -= chain.weight();
        let changed = change(chain, &folder);
        self.bytes += chain.weight();
        changed.map(Some)
    }

    fn load(&mut self, key: KeyHash, mut entries: Vec<Entry>, whole: bool) -> Result<()> {
        entries.sort_by_key(|entry| entry.order);
        self.change(key, |chain, folder| {
            let orders: Vec<Order> = entries.iter().map(|entry| entry.order).collect();
            for entry in entries {
                if whole || entry.origin.log != Log::Own {
                    chain.insert(entry, folder)?;
                }
            }
            chain.keep_orders(orders.into_iter());
            Ok(())
        })?;
        self.fit(key)
    }

    /// Puts away histories until those in memory fit there, that of `current` last, and of that its
    /// writes only.
    fn fit(&mut self, current: KeyHash) -> Result<()> {
        let Some(room) = self.room.as_ref().filter(|room| self.bytes > room.bytes) else {
            return Ok(());
        };
        // Not for each write one.
        let wanted = room.bytes - room.bytes / 4;
        let cold = match &mut self.cold {
            Some(cold) => cold,
            None => self.cold.insert(Cold::open(&room.folder)?),
        };
        let others = self.chains.keys().filter(|key| **key != current);
        for key in others.copied().collect::<Vec<_>>() {
            if self.bytes <= wanted {
                return Ok(());
            }
            let Some(mut chain) = self.chains.remove(&key) else {
                continue;
            };
            self.bytes -= chain.weight();
            self.away += chain.len();
            let last = chain.last_end();
            chain.spill(cold)?;
            cold.put(key, &chain, last)?;
        }
        if self.bytes > wanted
            && let Some(chain) = self.chains.get_mut(&current)
        {
            self.bytes -= chain.weight();
            chain.spill(cold)?;
            self.bytes += chain.weight();
        }
        Ok(())
    }

    fn forget_final(&mut self) -> Result<()> {
        let folder = self.folder();
        let mut failed = None;
        let (acknowledged, bytes) = (&self.acknowledged, &mut self.bytes);
        self.chains.retain(|_, chain| {
            *bytes -= chain.weight();
            match chain.settle(acknowledged, &folder) {
                Ok(false) => return false,
                Ok(true) => {}
                Err(error) => failed = Some(error),
            }
            *bytes += chain.weight();
            true
        });
        failed.map_or(Ok(()), Err)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Value;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        /// A write of this node's clients: row, kind, value.
        Local(u8, u8, i64),
        /// One of the other node, so many microseconds behind its last one: it may belong in front of
        /// many of this node's.
        Foreign(u8, u8, i64, u64),
        /// The other node has this node's log up to so many hundredths of it.
        Acknowledged(u64),
        /// The engine is killed and starts again, with what was kept and its own log.
        Restart,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let row = 0..4_u8;
        let kind = 0..8_u8;
        prop::collection::vec(
            prop_oneof![
                6 => (row.clone(), kind.clone(), -5..5_i64).prop_map(|(r, k, v)| Step::Local(r, k, v)),
                3 => (row, kind, -5..5_i64, 1..60_u64)
                    .prop_map(|(r, k, v, b)| Step::Foreign(r, k, v, b)),
                1 => (0..100_u64).prop_map(Step::Acknowledged),
                1 => Just(Step::Restart),
            ],
            1..100,
        )
    }

    /// A row of four values, or the write of one of the kinds on it.
    fn write(kind: u8, value: i64) -> Write {
        let row = |n: i64| -> Row { [n, 2 * n, 3 * n, -n].map(Value::Int).into() };
        match kind {
            0 => Write::Delete,
            1 => Write::Insert(row(value)),
            _ => Write::Update {
                before: row(value),
                after: row(value + i64::from(kind) - 4),
            },
        }
    }

    /// What both stand on: this node's log, and the table of kept histories.
    #[derive(Default)]
    struct Node {
        log: Vec<(KeyHash, Entry)>,
        kept: BTreeMap<u8, Kept>,
    }

    fn key(number: u8) -> KeyHash {
        KeyHash::whole_table("d", &number.to_string())
    }

    const RULES: [ColumnRule; 4] = [
        ColumnRule::Changed,
        ColumnRule::Delta,
        ColumnRule::Max,
        ColumnRule::Later,
    ];

    fn record(histories: &Histories, (key, entry): &(KeyHash, Entry)) {
        let before = Before {
            row: Some([7, 7, 7, 7].map(Value::Int).into()),
            seen: Vec::new(),
        };
        histories.record(*key, entry.clone(), &before, &RULES);
    }

    fn keep(histories: &Histories, node: &mut Node, number: u8, entry: &Entry) {
        let Some(mut unkept) = histories.unkept_with(key(number), std::iter::once(entry)) else {
            return;
        };
        let kept = node.kept.entry(number).or_insert_with(|| Kept {
            base: unkept.base.clone(),
            entries: Vec::new(),
            last_local: LogPos::default(),
        });
        (kept.base, kept.last_local) = (unkept.base.clone(), unkept.last_local);
        let mut entries = unkept.entries.clone();
        loop {
            let more = unkept.take_spilled(150).unwrap();
            if more.is_empty() {
                break;
            }
            entries.extend(more);
        }
        kept.entries.retain(|known| {
            known.order.effective >= unkept.first.effective
                && entries.iter().all(|entry| entry.order != known.order)
        });
        kept.entries.extend(entries);
        histories.applied(key(number), entry.clone());
        histories.keep(key(number), &unkept);
    }

    /// What could not be put away is lost, and nothing is answered any more by what is left.
    #[test]
    fn a_full_disk_ends_the_trust() {
        let folder = tempfile::tempdir().unwrap();
        let histories = Histories::bounded(1, folder.path());
        histories.lock().cold = Some(Cold::on_full_disk(folder.path()));
        histories.trust().unwrap();
        let order = Order {
            effective: 1,
            rank: 1,
            change: 0,
        };
        let entry = Entry {
            order,
            origin: Origin::local(LogPos::new(1, 10)),
            write: write(1, 5),
        };
        record(&histories, &(key(0), entry));
        for _ in 0..2 {
            let error = histories.trust().unwrap_err().to_string();
            assert!(error.contains("No space left"), "{error}");
            assert!(histories.holds(key(1)), "every row is suspect");
            assert_eq!(histories.folded(key(0), std::iter::empty()), None);
            // It does not pass by itself.
            histories.acknowledge(LogPos::new(1, 20));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// With nearly all of it on disk it answers as if all were in memory.
        #[test]
        fn what_is_on_disk_is_answered_alike(steps in steps(), bytes in prop_oneof![Just(1_usize), 500..6000_usize]) {
            let folder = tempfile::tempdir().unwrap();
            let limited = || Histories::bounded(bytes, &folder.path().join("histories"));
            let mut both = [(limited(), Node::default()), (Histories::default(), Node::default())];
            let (mut mine, mut theirs, mut offset, mut foreign) = (1000_u64, 1000_u64, 100, 100);
            let mut acknowledged = LogPos::new(1, 4);
            for step in steps {
                match step {
                    Step::Local(number, kind, value) => {
                        (mine, offset) = (mine + 10, offset + 10);
                        let order = Order { effective: mine, rank: 1, change: 0 };
                        let origin = Origin::local(LogPos::new(1, offset));
                        let entry = Entry { order, origin, write: write(kind, value) };
                        for (histories, node) in &mut both {
                            node.log.push((key(number), entry.clone()));
                            record(histories, &(key(number), entry.clone()));
                        }
                    }
                    Step::Foreign(number, kind, value, behind) => {
                        (theirs, foreign) = (theirs + behind, foreign + 10);
                        // What comes from here on stands behind what is applied.
                        mine = mine.max(theirs);
                        let order = Order { effective: theirs, rank: 0, change: 0 };
                        let origin = Origin::foreign(1, LogPos::new(1, foreign));
                        let entry = Entry { order, origin, write: write(kind, value) };
                        let [one, other] = both.each_ref().map(|(histories, _)| {
                            histories.folded(key(number), std::iter::once(&entry))
                        });
                        prop_assert_eq!(one, other);
                        for (histories, node) in &mut both {
                            keep(histories, node, number, &entry);
                        }
                    }
                    Step::Acknowledged(part) => {
                        let upto = LogPos::new(1, offset * part / 100);
                        acknowledged = acknowledged.max(upto);
                        // What comes from there on has seen it, and so has a later timestamp.
                        let had = |(_, entry): &&(KeyHash, Entry)| entry.origin.end <= acknowledged;
                        let seen = both[0].1.log.iter().filter(had);
                        let seen = seen.map(|(_, entry)| entry.order.effective).max();
                        theirs = theirs.max(seen.unwrap_or(0));
                        for (histories, _) in &both {
                            histories.acknowledge(acknowledged);
                        }
                    }
                    Step::Restart => {
                        for (number, (histories, node)) in both.iter_mut().enumerate() {
                            *histories = if number == 0 { limited() } else { Histories::default() };
                            histories.acknowledge(acknowledged);
                            for (row, kept) in &node.kept {
                                histories.load(key(*row), kept.clone(), acknowledged, true);
                            }
                            let open = |(_, entry): &&(KeyHash, Entry)| entry.origin.end > acknowledged;
                            for local in node.log.iter().filter(open) {
                                record(histories, local);
                            }
                        }
                    }
                }
                for (histories, _) in &both {
                    histories.trust().unwrap();
                }
                for number in 0..4 {
                    let [one, other] = both.each_ref().map(|(histories, _)| {
                        histories.folded(key(number), std::iter::empty())
                    });
                    prop_assert_eq!(one, other);
                }
            }
        }
    }
}
