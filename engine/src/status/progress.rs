//! Counters and positions of running links, written by the stages and read by whoever asks.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam::atomic::AtomicCell;
use crossbeam::utils::CachePadded;
use tokio::sync::watch;

use super::lag::{self, Behind, CaughtUp};
use super::{ConflictCount, LinkStatus, State, TailerStatus};
use crate::apply::mapping::Mapping;
use crate::conflict::journal::JournalWinner;
use crate::origin::{Passed, Reason};
use crate::position::{LogName, LogPos};
use crate::row::{RowChange, Value};
use crate::transaction::Local;
use crate::xa::Undecided;

/// Over how long the rate is taken.
const RATE_SPAN: Duration = Duration::from_secs(5);
/// Of how many log files it is remembered when they were begun.
const BIRTHS_KEPT: usize = 256;

/// Progress of one link.
#[derive(Debug)]
pub struct LinkProgress {
    origin: String,
    target: String,
    received: CachePadded<AtomicU64>,
    settled: CachePadded<AtomicU64>,
    source_end: AtomicCell<LogPos>,
    received_end: AtomicCell<LogPos>,
    applied_end: AtomicCell<LogPos>,
    transactions: AtomicU64,
    rows: AtomicU64,
    commits: AtomicU64,
    definitions: AtomicU64,
    huge: AtomicU64,
    loops_prevented: AtomicU64,
    returned: AtomicU64,
    left_out: AtomicU64,
    retries: AtomicU64,
    regrouped: AtomicU64,
    beside: AtomicU64,
    gave_way: AtomicU64,
    strays: AtomicU64,
    /// Commit time of the oldest transaction that is queued, or one not much older.
    oldest_queued: AtomicU64,
    increment: AtomicU64,
    offset: AtomicU64,
    rest: Mutex<Rest>,
}

#[derive(Debug)]
struct Rest {
    state: State,
    name: Option<LogName>,
    last_error: Option<LastError>,
    caught_up: CaughtUp,
    stray_tables: HashSet<String>,
    conflicts: BTreeMap<(&'static str, JournalWinner), u64>,
    rate: VecDeque<(Instant, u64)>,
    undecided: Option<Undecided>,
    /// Where the origin's server crashed without having synced its commits, and what to do.
    crashed: Option<String>,
}

/// An error, and when.
#[derive(Debug, Clone)]
struct LastError {
    message: String,
    at: Instant,
}

impl LastError {
    fn now(message: String) -> Self {
        Self {
            message,
            at: Instant::now(),
        }
    }
}

/// State and last error after being told of a new state. A halt is final: whoever stops the rest
/// afterwards must not hide why.
fn tell(
    state: &mut State,
    last_error: &mut Option<LastError>,
    new_state: State,
    error: Option<String>,
) {
    if *state == State::Halted {
        return;
    }
    *state = new_state;
    if error.is_some() {
        *last_error = error.map(LastError::now);
    }
}

impl LinkProgress {
    /// Of the link from `origin` to `target`.
    #[must_use]
    pub fn new(origin: &str, target: &str) -> Self {
        Self {
            origin: origin.to_owned(),
            target: target.to_owned(),
            received: CachePadded::default(),
            settled: CachePadded::default(),
            source_end: AtomicCell::default(),
            received_end: AtomicCell::default(),
            applied_end: AtomicCell::default(),
            transactions: AtomicU64::default(),
            rows: AtomicU64::default(),
            commits: AtomicU64::default(),
            definitions: AtomicU64::default(),
            huge: AtomicU64::default(),
            loops_prevented: AtomicU64::default(),
            returned: AtomicU64::default(),
            left_out: AtomicU64::default(),
            retries: AtomicU64::default(),
            regrouped: AtomicU64::default(),
            beside: AtomicU64::default(),
            gave_way: AtomicU64::default(),
            strays: AtomicU64::default(),
            oldest_queued: AtomicU64::default(),
            increment: AtomicU64::default(),
            offset: AtomicU64::default(),
            rest: Mutex::new(Rest {
                state: State::Connecting,
                name: None,
                last_error: None,
                caught_up: CaughtUp::unknown(Instant::now()),
                stray_tables: HashSet::new(),
                conflicts: BTreeMap::new(),
                rate: VecDeque::new(),
                undecided: None,
                crashed: None,
            }),
        }
    }

    /// The link goes on from here, with these totals in its marker.
    pub fn resumed(&self, name: LogName, position: LogPos, transactions: u64, rows: u64) {
        self.received_end.store(position);
        self.applied_end.store(position);
        self.transactions.store(transactions, Ordering::Relaxed);
        self.rows.store(rows, Ordering::Relaxed);
        self.received.store(0, Ordering::Relaxed);
        self.settled.store(0, Ordering::Relaxed);
        let mut rest = self.lock();
        rest.name = Some(name);
        if rest.state != State::Halted {
            rest.state = State::CatchingUp;
        }
    }

    /// What the link is doing; an error is kept until the next one. Once halted it stays so.
    pub fn set_state(&self, state: State, error: Option<String>) {
        let rest = &mut *self.lock();
        tell(&mut rest.state, &mut rest.last_error, state, error);
    }

    /// A foreign transaction has arrived, committed at this time (microseconds since 1970).
    pub fn queued(&self, end: LogPos, committed_at: u64) {
        if self.nothing_queued() {
            self.oldest_queued.store(committed_at, Ordering::Relaxed);
        }
        // Counted before its end is told: see `applied_position`.
        self.received.fetch_add(1, Ordering::AcqRel);
        self.received_end.store(end);
    }

    /// Something that needs no write has arrived.
    pub fn passed(&self, passed: &Passed) {
        let counter = match &passed.reason {
            Reason::Applied(_) | Reason::AppliedDefinition | Reason::UndoneDefinition => {
                &self.loops_prevented
            }
            Reason::Returned => &self.returned,
            Reason::LeftOut(_) => &self.left_out,
            Reason::Prepared | Reason::Dropped => {
                self.received_end.store(passed.end);
                return;
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.received_end.store(passed.end);
    }

    /// The reader has come to this position, between transactions.
    pub fn read_to(&self, position: LogPos) {
        self.received_end.store(position);
    }

    /// These transactions were committed at the target.
    pub fn applied(&self, transactions: &[Local]) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        let mut counted = 0;
        let mut rows = 0;
        for transaction in transactions
            .iter()
            .filter(|transaction| !transaction.barrier)
        {
            counted += 1;
            rows += transaction.changes.len() as u64;
        }
        self.transactions.fetch_add(counted, Ordering::Relaxed);
        self.rows.fetch_add(rows, Ordering::Relaxed);
        if let Some(last) = transactions.last() {
            // What is queued behind it was committed later. Before the count: the reader sets the
            // time anew when it finds the queue empty.
            if last.committed_at > 0 {
                self.oldest_queued
                    .store(last.committed_at, Ordering::Relaxed);
            }
            self.applied_end.store(last.end);
        }
        self.settled
            .fetch_add(transactions.len() as u64, Ordering::AcqRel);
    }

    /// A transaction of so many row changes was committed at the target by itself.
    pub fn applied_huge(&self, head: &Local, rows: usize) {
        self.applied(std::slice::from_ref(head));
        self.huge.fetch_add(1, Ordering::Relaxed);
        let rest = rows.saturating_sub(head.changes.len());
        self.rows.fetch_add(rest as u64, Ordering::Relaxed);
    }

    /// Everything in front of this is settled.
    pub fn settled(&self, position: LogPos) {
        self.applied_end.store(position);
    }

    /// A DDL statement was run.
    pub fn definition(&self) {
        self.definitions.fetch_add(1, Ordering::Relaxed);
    }

    /// An attempt is repeated.
    pub fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// A conflict, or drift that was repaired, was settled and written down.
    pub fn conflict(&self, kind: &'static str, winner: JournalWinner) {
        *self.lock().conflicts.entry((kind, winner)).or_default() += 1;
    }

    /// A merged group was taken apart.
    pub fn regrouped(&self) {
        self.regrouped.fetch_add(1, Ordering::Relaxed);
    }

    /// A group is written while one in front of it is.
    pub fn beside(&self) {
        self.beside.fetch_add(1, Ordering::Relaxed);
    }

    /// A group in a lane met something, and is applied by itself.
    pub fn gave_way(&self) {
        self.gave_way.fetch_add(1, Ordering::Relaxed);
    }

    /// The end of the origin's log, as just asked for, and its `auto_increment` settings.
    pub fn source_at(&self, end: LogPos, increment: u64, offset: u64) {
        let (_, applied) = self.places();
        let before = self.source_end.swap(end);
        self.increment.store(increment, Ordering::Relaxed);
        self.offset.store(offset, Ordering::Relaxed);
        let transactions = self.transactions.load(Ordering::Relaxed);
        let now = Instant::now();
        let mut rest = self.lock();
        rest.caught_up.asked(now, applied >= before, applied >= end);
        rest.rate.push_back((now, transactions));
        while rest
            .rate
            .front()
            .is_some_and(|(then, _)| now.duration_since(*then) > RATE_SPAN)
        {
            rest.rate.pop_front();
        }
    }

    /// So many XA transactions are prepared at the origin, if it says so.
    pub fn undecided(&self, undecided: Option<Undecided>) {
        self.lock().undecided = undecided;
    }

    /// The origin's server crashed and may have lost what its log has. It stays said until the engine is
    /// started anew.
    pub fn crashed(&self, message: String) {
        self.lock().crashed = Some(message);
    }

    /// Looks whether an inserted AUTO_INCREMENT value is of its origin's residue class; warns once
    /// for each table. Two masters that both hand out a value collide sooner or later.
    pub fn auto_increment(&self, mapping: &Mapping, change: &RowChange) {
        let (Some(column), RowChange::Insert { after }) = (mapping.auto_increment, change) else {
            return;
        };
        let increment = self.increment.load(Ordering::Relaxed);
        if increment <= 1 {
            return;
        }
        let offset = self.offset.load(Ordering::Relaxed);
        let value = match after.get(column) {
            Some(Value::UInt(value)) => *value,
            Some(Value::Int(value)) if *value > 0 => value.cast_unsigned(),
            _ => return,
        };
        if value % increment == offset % increment {
            return;
        }
        self.strays.fetch_add(1, Ordering::Relaxed);
        let table = mapping.target.to_string();
        if self.lock().stray_tables.insert(table.clone()) {
            tracing::warn!(
                origin = self.origin,
                table,
                increment,
                offset,
                "an AUTO_INCREMENT value outside the origin's class (value mod increment = offset) \
                 was inserted: by hand, by a session with other settings, or before they were set. \
                 If not by intent: SET GLOBAL auto_increment_increment = {increment}, \
                 auto_increment_offset = {offset} at node {}, and let clients reconnect",
                self.origin
            );
        }
    }

    fn nothing_queued(&self) -> bool {
        // What is settled only grows towards what is received: read in this order, equal numbers
        // were equal at some moment between.
        let settled = self.settled.load(Ordering::Acquire);
        settled == self.received.load(Ordering::Acquire)
    }

    /// Where the reader is, and up to where everything is applied or needs no write. The second is
    /// the first when nothing is queued: ends of files and the like never come to the apply.
    fn places(&self) -> (LogPos, LogPos) {
        // The reader's place first: transactions are counted before it moves behind them.
        let received = self.received_end.load();
        let applied = self.applied_end.load();
        if self.nothing_queued() {
            (received, received.max(applied))
        } else {
            (received, applied)
        }
    }

    /// How things stand.
    #[must_use]
    pub fn status(&self) -> LinkStatus {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (received, applied) = self.places();
        // It is asked only once a second.
        let source = self.source_end.load().max(received);
        let settled = load(&self.settled);
        let lag_transactions = load(&self.received).saturating_sub(settled);
        let behind = if lag_transactions > 0 {
            Behind::Queued {
                oldest_committed_at: load(&self.oldest_queued),
            }
        } else if applied < source {
            Behind::Unread
        } else {
            Behind::Nothing
        };
        let rest = self.lock();
        let show = |position: LogPos| match &rest.name {
            Some(name) => name.show(position),
            None => String::new(),
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |elapsed| {
                u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
            });
        let lag_seconds = lag::seconds(behind, now, rest.caught_up.since(Instant::now()));
        let transactions_per_second = match (rest.rate.front(), rest.rate.back()) {
            (Some((from, first)), Some((to, last))) if to > from => {
                last.saturating_sub(*first) as f64 / to.duration_since(*from).as_secs_f64()
            }
            _ => 0.0,
        };
        let state = match rest.state {
            State::CatchingUp | State::Streaming if behind != Behind::Nothing => State::CatchingUp,
            State::CatchingUp | State::Streaming => State::Streaming,
            other => other,
        };
        LinkStatus {
            origin: self.origin.clone(),
            target: self.target.clone(),
            state,
            source_position: show(source),
            received_position: show(received),
            applied_position: show(applied),
            unread_bytes: (source.file == received.file)
                .then(|| source.offset.saturating_sub(received.offset)),
            lag_seconds,
            lag_transactions,
            transactions_per_second,
            applied_transactions: load(&self.transactions),
            applied_rows: load(&self.rows),
            commits: load(&self.commits),
            huge_transactions: load(&self.huge),
            ddl_statements: load(&self.definitions),
            loops_prevented: load(&self.loops_prevented),
            returned: load(&self.returned),
            left_out: load(&self.left_out),
            source_crash: rest.crashed.clone(),
            xa_prepared: rest.undecided.map(|undecided| undecided.number),
            xa_oldest_seconds: rest.undecided.map(|undecided| undecided.oldest.as_secs()),
            auto_increment_strays: load(&self.strays),
            retries: load(&self.retries),
            regrouped: load(&self.regrouped),
            beside: load(&self.beside),
            gave_way: load(&self.gave_way),
            conflicts: rest
                .conflicts
                .iter()
                .map(|((kind, winner), count)| ConflictCount {
                    kind: (*kind).to_owned(),
                    winner: winner.as_str().to_owned(),
                    count: *count,
                })
                .collect(),
            last_error: rest.last_error.as_ref().map(|error| error.message.clone()),
            last_error_seconds_ago: rest
                .last_error
                .as_ref()
                .map(|error| error.at.elapsed().as_secs()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Progress of a node's tailer.
#[derive(Debug)]
pub struct TailProgress {
    transactions: AtomicU64,
    /// When the files that were read last were begun.
    births: Mutex<BTreeMap<u32, u32>>,
    /// How often its connection broke.
    breaks: watch::Sender<u64>,
    rest: Mutex<(State, Option<LastError>)>,
}

impl Default for TailProgress {
    fn default() -> Self {
        Self {
            transactions: AtomicU64::default(),
            births: Mutex::default(),
            breaks: watch::Sender::default(),
            rest: Mutex::new((State::Connecting, None)),
        }
    }
}

impl TailProgress {
    /// A transaction of a local client was read.
    pub fn local(&self) {
        self.transactions.fetch_add(1, Ordering::Relaxed);
    }

    /// The connection from which the log was read broke.
    pub fn broke(&self) {
        self.breaks.send_modify(|breaks| *breaks += 1);
    }

    /// Tells of each time that the connection breaks from now on.
    #[must_use]
    pub fn breaks(&self) -> watch::Receiver<u64> {
        self.breaks.subscribe()
    }

    /// A file of the log was begun then, in seconds since 1970; 0 where that is not known.
    pub fn begun(&self, file: u32, birth: u32) {
        let mut births = self.births.lock().unwrap_or_else(PoisonError::into_inner);
        if birth != 0 && births.insert(file, birth).is_none() && births.len() > BIRTHS_KEPT {
            births.pop_first();
        }
    }

    /// When a file of the log was begun, if that was read.
    #[must_use]
    pub fn birth_of(&self, file: u32) -> Option<u32> {
        let births = self.births.lock().unwrap_or_else(PoisonError::into_inner);
        births.get(&file).copied()
    }

    /// What the tailer is doing; an error is kept until the next one. Once halted it stays so.
    pub fn set_state(&self, state: State, error: Option<String>) {
        let rest = &mut *self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        tell(&mut rest.0, &mut rest.1, state, error);
    }

    /// Why the tailer is halted, if it is.
    #[must_use]
    pub fn halted(&self) -> Option<String> {
        let rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        (rest.0 == State::Halted).then(|| {
            rest.1
                .as_ref()
                .map(|error| error.message.clone())
                .unwrap_or_default()
        })
    }

    /// How things stand; position and window are the window's to tell.
    #[must_use]
    pub fn status(
        &self,
        position: String,
        (window_keys, window_spilled, window_history): (usize, usize, usize),
    ) -> TailerStatus {
        let rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        TailerStatus {
            state: rest.0,
            position,
            window_keys,
            window_spilled,
            window_history,
            local_transactions: self.transactions.load(Ordering::Relaxed),
            last_error: rest.1.as_ref().map(|error| error.message.clone()),
            last_error_seconds_ago: rest.1.as_ref().map(|error| error.at.elapsed().as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> LinkProgress {
        let link = LinkProgress::new("a", "b");
        let (name, _) = LogName::split("binlog.000001").unwrap();
        link.resumed(name, LogPos::new(1, 100), 0, 0);
        link
    }

    #[test]
    fn an_idle_link_is_not_behind_after_a_rotation() {
        let link = link();
        link.source_at(LogPos::new(2, 157), 1, 1);
        assert_eq!(link.status().state, State::CatchingUp);
        // The boundaries of the new file's head are read, and nothing is to be applied.
        link.read_to(LogPos::new(2, 157));
        let status = link.status();
        assert_eq!(status.state, State::Streaming);
        assert_eq!(status.applied_position, "binlog.000002:157");
        assert!(status.lag_seconds.abs() < f64::EPSILON);
    }

    #[test]
    fn what_is_queued_is_not_applied() {
        let link = link();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let committed_at = u64::try_from(now.as_micros()).unwrap() - 30_000_000;
        link.queued(LogPos::new(1, 200), committed_at);
        link.queued(LogPos::new(1, 300), committed_at + 20_000_000);
        link.read_to(LogPos::new(1, 350));
        let status = link.status();
        assert_eq!(status.state, State::CatchingUp);
        assert_eq!(status.applied_position, "binlog.000001:100");
        assert_eq!(status.lag_transactions, 2);
        assert!((29.0..300.0).contains(&status.lag_seconds), "{status:?}");
    }

    #[test]
    fn the_source_is_never_shown_behind_what_was_received() {
        let link = link();
        link.source_at(LogPos::new(1, 120), 1, 1);
        link.queued(LogPos::new(1, 200), 0);
        assert_eq!(link.status().source_position, "binlog.000001:200");
    }

    #[test]
    fn a_halt_is_final() {
        let link = link();
        link.set_state(State::Halted, Some("fenced".to_owned()));
        link.set_state(State::Stopped, None);
        link.set_state(State::Retrying, Some("other".to_owned()));
        let status = link.status();
        assert_eq!(status.state, State::Halted);
        assert_eq!(status.last_error.as_deref(), Some("fenced"));
        assert_eq!(status.last_error_seconds_ago, Some(0));
    }
}
