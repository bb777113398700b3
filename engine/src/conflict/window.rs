//! What a node's clients wrote lately: the writes that another node may not have seen yet.
//!
//! An engine has one of its own node. With three nodes and more it needs one besides for each other
//! node whose writes it has applied and a third one may not have seen (docs/conflicts.md, "Three
//! nodes"); positions are always of the log of the node whose writes they are. The local tailer fills it in the order of this node's own log; the apply asks it whether a key
//! was written here behind what the origin had seen. Entries go once the peer's log shows that it
//! has applied them. See `docs/architecture.md` and design decision 0001.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::claim::ClaimKind;
use super::claims::Claims;
use super::history::Histories;
use super::key::{KeyHash, TableHash};
use crate::error::{Error, Result};
use crate::position::LogPos;
use crate::position::overflow::Overflow;
use crate::transaction::RowEffect;

/// Memory of one claim: an entry of the map with its empty neighbours, and one of the queue.
const CLAIM_BYTES: usize = 160;

/// Claims that are put in under one lock.
const CLAIMS_AT_ONCE: usize = 512;

/// The window of one node. All positions are of this node's own log.
#[derive(Debug)]
pub struct Window {
    inner: Mutex<Inner>,
    read: watch::Sender<LogPos>,
    /// Counts what the tailer has done, be it within a transaction.
    stirred: AtomicU64,
    histories: Histories,
}

/// The last local claim of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalWrite {
    /// Where its transaction ends in this node's log.
    pub position: LogPos,
    /// Effective timestamp of its transaction, microseconds since 1970; see [`crate::clock`].
    pub effective: u64,
    /// Whether an image or a delete claimed it.
    pub kind: ClaimKind,
}

#[derive(Debug)]
struct Inner {
    /// Last local claim of each key.
    claims: Claims,
    /// Why the claims cannot be trusted any more: the disk failed.
    trouble: Option<Error>,
    /// What the peer's log shows as applied there. The tailer may come by later: what it then reads
    /// in front of this need not be remembered.
    acknowledged: LogPos,
    /// What the node's transactions had seen of the nodes in front of it, from each end on; see
    /// [`Window::record_seen`].
    seen: VecDeque<(LogPos, Arc<[u64]>)>,
    /// Last local row change of each table (for TRUNCATE and DROP arriving from the peer).
    tables: HashMap<TableHash, LogPos>,
    /// Last local DDL of each table: rows of the peer may still come in the table's old form.
    definitions: HashMap<TableHash, LogPos>,
    /// A peer's DDL of which the engine wrote down that it is about to run it. See
    /// `apply::definition`.
    intent: Option<Intent>,
}

/// DDL of the peer that the engine is about to run, or ran.
#[derive(Debug)]
struct Intent {
    /// Its end in the peer's log.
    origin_end: LogPos,
    /// Once the log shows that it ran: what local clients had written to each table in front of it.
    ran_behind: Option<HashMap<TableHash, LogPos>>,
}

impl Window {
    /// An empty window, all in memory, whose tailer will begin at `start`.
    #[must_use]
    pub fn new(start: LogPos) -> Self {
        Self::with(start, Claims::unlimited())
    }

    /// Likewise, with about `bytes` of memory for its claims; the others go to `folder`. Histories take
    /// as much again, and go to a folder beside it.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn bounded(start: LogPos, bytes: usize, folder: &Path) -> Result<Self> {
        let overflow = Overflow::open(folder)?;
        let claims = Claims::limited(bytes / CLAIM_BYTES, Some(overflow));
        let histories = Histories::bounded(bytes, &folder.with_file_name("histories"));
        Ok(Self::with(start, claims).with_histories(histories))
    }

    /// With these histories, which are empty still.
    #[must_use]
    pub fn with_histories(self, histories: Histories) -> Self {
        histories.acknowledge(self.acknowledged());
        Self { histories, ..self }
    }

    fn with(start: LogPos, claims: Claims) -> Self {
        let histories = Histories::default();
        histories.acknowledge(start);
        Self {
            inner: Mutex::new(Inner {
                claims,
                trouble: None,
                // The peer has everything in front of where the tailer begins. A history that was
                // kept and is final by now must not be taken up again.
                acknowledged: start,
                seen: VecDeque::new(),
                tables: HashMap::new(),
                definitions: HashMap::new(),
                intent: None,
            }),
            read: watch::Sender::new(start),
            stirred: AtomicU64::new(0),
            histories,
        }
    }

    /// A local transaction that ends at `end` claimed these keys, in this order; see
    /// [`super::claim`]. `effective` is its effective timestamp.
    ///
    /// # Errors
    /// [`Error::Store`]: a claim does not fit into memory and could not be written to disk. The
    /// window is of no use any more.
    pub fn record(
        &self,
        end: LogPos,
        effective: u64,
        claims: impl IntoIterator<Item = (KeyHash, ClaimKind)>,
        tables: impl IntoIterator<Item = TableHash>,
    ) -> Result<()> {
        let mut claims = claims.into_iter().peekable();
        // Not for all of a large transaction at once: whoever asks meanwhile need not wait. Nobody
        // trusts the window up to its end before all are in.
        while claims.peek().is_some() {
            let mut inner = self.lock();
            if end <= inner.acknowledged {
                return Ok(());
            }
            for (key, kind) in claims.by_ref().take(CLAIMS_AT_ONCE) {
                let write = LocalWrite {
                    position: end,
                    effective,
                    kind,
                };
                inner.claims.put(key, write)?;
            }
        }
        let mut inner = self.lock();
        if end <= inner.acknowledged {
            return Ok(());
        }
        for table in tables {
            inner.tables.insert(table, end);
        }
        Ok(())
    }

    /// The node's transaction that ends at `end` had seen this of the nodes in front of it, and so
    /// have those behind it until this is said anew: see [`super::policy::Standing::seen`], which
    /// with two nodes is not needed.
    pub fn record_seen(&self, end: LogPos, seen: &[u64]) {
        let mut inner = self.lock();
        if inner.seen.back().is_none_or(|(_, last)| **last != *seen) {
            inner.seen.push_back((end, seen.into()));
        }
    }

    /// What the node's transaction that ends at `end` had seen of the nodes in front of it.
    #[must_use]
    pub fn seen_at(&self, end: LogPos) -> Arc<[u64]> {
        let inner = self.lock();
        let behind = inner.seen.partition_point(|(from, _)| *from <= end);
        let known = behind.checked_sub(1).and_then(|last| inner.seen.get(last));
        known.map(|(_, seen)| Arc::clone(seen)).unwrap_or_default()
    }

    /// A local DDL statement that ends at `end` changed these tables. One that empties or removes
    /// rows meets every row of the peer that it had not seen. `effective` is its effective timestamp.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub fn record_definition(
        &self,
        end: LogPos,
        effective: u64,
        tables: &[(&str, &str)],
        effect: RowEffect,
    ) -> Result<()> {
        let mut inner = self.lock();
        if end <= inner.acknowledged {
            return Ok(());
        }
        for (database, table) in tables {
            inner
                .definitions
                .insert(TableHash::new(database, table), end);
            let (key, kind) = match effect {
                RowEffect::Kept => continue,
                RowEffect::Emptied => (KeyHash::emptied(database, table), ClaimKind::Emptied),
                RowEffect::Removed => (KeyHash::whole_table(database, table), ClaimKind::Tombstone),
            };
            let write = LocalWrite {
                position: end,
                effective,
                kind,
            };
            inner.claims.put(key, write)?;
        }
        Ok(())
    }

    /// The engine wrote down that it will run the DDL which ends at `origin_end` of the peer's log.
    /// An engine that starts repeats what is written; what is known of it stays.
    pub fn note_intent(&self, origin_end: Option<LogPos>) {
        let mut inner = self.lock();
        if inner.intent.as_ref().map(|intent| intent.origin_end) != origin_end {
            inner.intent = origin_end.map(|origin_end| Intent {
                origin_end,
                ran_behind: None,
            });
        }
    }

    /// The log shows a DDL statement that this engine ran for its peer.
    pub fn note_applied_definition(&self) {
        let inner = &mut *self.lock();
        if let Some(intent) = &mut inner.intent
            && intent.ran_behind.is_none()
        {
            intent.ran_behind = Some(inner.tables.clone());
        }
    }

    /// Whether the log shows that the DDL ending at `origin_end` of the peer's log was run here.
    #[must_use]
    pub fn definition_was_applied(&self, origin_end: LogPos) -> bool {
        self.lock()
            .intent
            .as_ref()
            .is_some_and(|intent| intent.origin_end == origin_end && intent.ran_behind.is_some())
    }

    /// The last local write to a table behind `seen` that stands in front of the DDL which ends at
    /// `origin_end` of the peer's log and was run here.
    #[must_use]
    pub fn table_write_before_definition(
        &self,
        origin_end: LogPos,
        table: TableHash,
        seen: LogPos,
    ) -> Option<LogPos> {
        let inner = self.lock();
        let intent = inner
            .intent
            .as_ref()
            .filter(|intent| intent.origin_end == origin_end)?;
        let position = *intent.ran_behind.as_ref()?.get(&table)?;
        (position > seen).then_some(position)
    }

    /// The tailer has read everything in front of `position`.
    pub fn advance(&self, position: LogPos) {
        self.read.send_if_modified(|read| {
            let forward = position > *read;
            if forward {
                *read = position;
            }
            forward
        });
    }

    /// The tailer is at work, though it may not have come to the end of a transaction.
    pub fn stir(&self) {
        self.stirred.fetch_add(1, Ordering::Relaxed);
    }

    /// A number that another one follows as long as the tailer is at work.
    #[must_use]
    pub fn stirred(&self) -> u64 {
        self.stirred.load(Ordering::Relaxed)
    }

    /// How far the tailer has read.
    #[must_use]
    pub fn read_position(&self) -> LogPos {
        *self.read.borrow()
    }

    /// Waits until the tailer has read everything in front of `position`.
    ///
    /// # Errors
    /// [`Error::Stopped`] when the tailer is gone for good.
    pub async fn read_up_to(&self, position: LogPos) -> Result<()> {
        let mut read = self.read.subscribe();
        read.wait_for(|read| *read >= position)
            .await
            .map(|_| ())
            .map_err(|_| Error::Stopped)
    }

    /// The writes of rows that are merged column by column.
    #[must_use]
    pub fn histories(&self) -> &Histories {
        &self.histories
    }

    /// The peer's log shows that it has applied everything up to `acknowledged`: whatever it writes
    /// from now on has seen that.
    pub fn acknowledge(&self, acknowledged: LogPos) {
        self.histories.acknowledge(acknowledged);
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.acknowledged = inner.acknowledged.max(acknowledged);
        inner.claims.drop_front(acknowledged);
        // The last one in front holds for what comes behind it.
        while inner
            .seen
            .get(1)
            .is_some_and(|(from, _)| *from <= acknowledged)
        {
            inner.seen.pop_front();
        }
        inner.tables.retain(|_, position| *position > acknowledged);
        inner
            .definitions
            .retain(|_, position| *position > acknowledged);
    }

    /// How far the peer has this node's log.
    #[must_use]
    pub fn acknowledged(&self) -> LogPos {
        self.lock().acknowledged
    }

    /// The last local claim of `key`, if it lies behind `seen`, so that a write of the peer which
    /// had seen this log up to `seen` is concurrent with it.
    #[must_use]
    pub fn concurrent_write(&self, key: KeyHash, seen: LogPos) -> Option<LocalWrite> {
        let mut inner = self.lock();
        match inner.claims.get(key) {
            Ok(write) => write.filter(|write| write.position > seen),
            Err(error) => {
                inner.trouble = Some(error);
                None
            }
        }
    }

    /// Likewise of a row key, which a TRUNCATE of its table claims too: `emptied` is that of the table
    /// ([`KeyHash::emptied`]).
    #[must_use]
    pub fn concurrent_row_write(
        &self,
        key: KeyHash,
        emptied: KeyHash,
        seen: LogPos,
    ) -> Option<LocalWrite> {
        let own = self.concurrent_write(key, seen);
        let with_all = self.concurrent_write(emptied, seen);
        own.into_iter()
            .chain(with_all)
            .max_by_key(|write| write.position)
    }

    /// Whether what the window says may be trusted: to be asked behind the last look, in front of a
    /// commit.
    ///
    /// # Errors
    /// [`Error::Store`] when claims on disk could not be read.
    pub fn trust(&self) -> Result<()> {
        self.histories.trust()?;
        self.lock().trouble.clone().map_or(Ok(()), Err)
    }

    /// Likewise for any row of a table.
    #[must_use]
    pub fn concurrent_table_write(&self, table: TableHash, seen: LogPos) -> Option<LogPos> {
        let position = *self.lock().tables.get(&table)?;
        (position > seen).then_some(position)
    }

    /// Likewise for the definition of a table.
    #[must_use]
    pub fn concurrent_definition(&self, table: TableHash, seen: LogPos) -> Option<LogPos> {
        let position = *self.lock().definitions.get(&table)?;
        (position > seen).then_some(position)
    }

    /// Keys in the window.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().claims.len().0
    }

    /// Claims that are on disk.
    #[must_use]
    pub fn spilled(&self) -> usize {
        self.lock().claims.len().1
    }

    /// Whether no local write is outstanding.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is complete before the guard goes; a panic elsewhere leaves it sound.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Value;
    use crate::schema::TableSchema;

    fn key(number: i64) -> KeyHash {
        let schema = TableSchema {
            database: "d".into(),
            name: "t".into(),
            table_type: "BASE TABLE".into(),
            engine: "InnoDB".into(),
            columns: vec![crate::schema::ColumnSchema {
                name: "id".into(),
                data_type: "int".into(),
                column_type: "int".into(),
                unsigned: false,
                nullable: false,
                charset: None,
                collation: None,
                generated: false,
                auto_increment: false,
                ..crate::schema::ColumnSchema::default()
            }],
            row_key: vec![0],
            unique_keys: Vec::new(),
            has_opaque_unique_key: false,
            parents: Vec::new(),
            children: Vec::new(),
            triggers: false,
            keyed_by_primary: true,
        };
        let value = Value::Int(number);
        let mut found = None;
        let weights = crate::conflict::collation::Weights::default();
        let keep = |key| found = Some(key);
        super::super::key::row_keys(&schema, |_| Some(&value), &weights, keep);
        found.unwrap()
    }

    #[test]
    fn an_intent_that_is_said_again_is_still_settled() {
        let window = Window::new(LogPos::new(1, 4));
        let (first, second) = (LogPos::new(1, 100), LogPos::new(1, 200));
        window.note_applied_definition();
        window.note_intent(Some(first));
        assert!(!window.definition_was_applied(first));
        window.note_applied_definition();
        window.note_intent(Some(first));
        assert!(window.definition_was_applied(first));
        window.note_intent(Some(second));
        assert!(!window.definition_was_applied(first) && !window.definition_was_applied(second));
    }

    #[test]
    fn a_write_is_concurrent_only_behind_what_was_seen() {
        let window = Window::new(LogPos::new(1, 4));
        let image = |number| (key(number), ClaimKind::Image);
        window
            .record(LogPos::new(1, 100), 10, [image(1), image(2)], [])
            .unwrap();
        window
            .record(
                LogPos::new(1, 200),
                20,
                [image(1), (key(1), ClaimKind::Tombstone)],
                [],
            )
            .unwrap();
        assert_eq!(
            window.concurrent_write(key(1), LogPos::new(1, 199)),
            Some(LocalWrite {
                position: LogPos::new(1, 200),
                effective: 20,
                kind: ClaimKind::Tombstone
            })
        );
        assert_eq!(window.concurrent_write(key(1), LogPos::new(1, 200)), None);
        assert_eq!(window.concurrent_write(key(3), LogPos::new(0, 0)), None);
        window.acknowledge(LogPos::new(1, 150));
        assert_eq!(window.len(), 1, "the later write of key 1 stays");
        assert!(
            window
                .concurrent_write(key(1), LogPos::new(1, 150))
                .is_some()
        );
        window.acknowledge(LogPos::new(1, 200));
        assert!(window.is_empty());
        window
            .record(LogPos::new(1, 180), 19, [image(4)], [])
            .unwrap();
        assert!(window.is_empty(), "the tailer came by later");
    }

    #[test]
    fn what_was_seen_holds_until_it_is_said_anew() {
        let window = Window::new(LogPos::new(1, 4));
        let at = |offset| LogPos::new(1, offset);
        assert!(window.seen_at(at(100)).is_empty());
        window.record_seen(at(100), &[7]);
        window.record_seen(at(200), &[7]);
        window.record_seen(at(300), &[9]);
        assert_eq!(*window.seen_at(at(250)), [7]);
        window.acknowledge(at(200));
        assert_eq!(*window.seen_at(at(250)), [7]);
        window.acknowledge(at(400));
        assert_eq!(*window.seen_at(at(500)), [9]);
    }

    #[test]
    fn the_peer_has_what_lies_in_front_of_the_start() {
        let window = Window::new(LogPos::new(1, 4));
        assert_eq!(window.acknowledged(), LogPos::new(1, 4));
        window.acknowledge(LogPos::new(1, 2));
        assert_eq!(window.acknowledged(), LogPos::new(1, 4), "never backwards");
    }

    #[tokio::test]
    async fn waiting_ends_when_the_tailer_arrives() {
        let window = Window::new(LogPos::new(1, 4));
        let target = LogPos::new(2, 10);
        let wait = window.read_up_to(target);
        window.advance(LogPos::new(1, 900));
        assert_eq!(window.read_position(), LogPos::new(1, 900));
        window.advance(LogPos::new(1, 800));
        assert_eq!(
            window.read_position(),
            LogPos::new(1, 900),
            "never backwards"
        );
        window.advance(target);
        wait.await.unwrap();
    }
}
