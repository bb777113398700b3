//! Counters and positions of running links, written by the stages and read by whoever asks.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam::atomic::AtomicCell;
use crossbeam::utils::CachePadded;

use super::{LinkStatus, State, TailerStatus};
use crate::apply::mapping::Mapping;
use crate::origin::{Passed, Reason};
use crate::position::{LogName, LogPos};
use crate::row::{RowChange, Value};
use crate::transaction::Local;

/// Over how long the rate is taken.
const RATE_SPAN: Duration = Duration::from_secs(5);

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
    loops_prevented: AtomicU64,
    returned: AtomicU64,
    left_out: AtomicU64,
    retries: AtomicU64,
    regrouped: AtomicU64,
    strays: AtomicU64,
    last_commit_time: AtomicU64,
    increment: AtomicU64,
    offset: AtomicU64,
    rest: Mutex<Rest>,
}

#[derive(Debug)]
struct Rest {
    state: State,
    name: Option<LogName>,
    last_error: Option<String>,
    stray_tables: HashSet<String>,
    rate: VecDeque<(Instant, u64)>,
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
            loops_prevented: AtomicU64::default(),
            returned: AtomicU64::default(),
            left_out: AtomicU64::default(),
            retries: AtomicU64::default(),
            regrouped: AtomicU64::default(),
            strays: AtomicU64::default(),
            last_commit_time: AtomicU64::default(),
            increment: AtomicU64::default(),
            offset: AtomicU64::default(),
            rest: Mutex::new(Rest {
                state: State::Connecting,
                name: None,
                last_error: None,
                stray_tables: HashSet::new(),
                rate: VecDeque::new(),
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
        rest.state = State::CatchingUp;
    }

    /// What the link is doing; an error is kept until it runs well again.
    pub fn set_state(&self, state: State, error: Option<String>) {
        let mut rest = self.lock();
        rest.state = state;
        if error.is_some() {
            rest.last_error = error;
        }
    }

    /// A foreign transaction has arrived.
    pub fn received(&self, end: LogPos) {
        self.received.fetch_add(1, Ordering::Relaxed);
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
        self.settled
            .fetch_add(transactions.len() as u64, Ordering::Relaxed);
        if let Some(last) = transactions.last() {
            self.last_commit_time
                .store(last.committed_at, Ordering::Relaxed);
            self.applied_end.store(last.end);
        }
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

    /// A merged group was taken apart.
    pub fn regrouped(&self) {
        self.regrouped.fetch_add(1, Ordering::Relaxed);
    }

    /// The end of the origin's log, as just asked for, and its `auto_increment` settings.
    pub fn source_at(&self, end: LogPos, increment: u64, offset: u64) {
        self.source_end.store(end);
        self.increment.store(increment, Ordering::Relaxed);
        self.offset.store(offset, Ordering::Relaxed);
        let transactions = self.transactions.load(Ordering::Relaxed);
        let now = Instant::now();
        let mut rest = self.lock();
        rest.rate.push_back((now, transactions));
        while rest
            .rate
            .front()
            .is_some_and(|(then, _)| now.duration_since(*then) > RATE_SPAN)
        {
            rest.rate.pop_front();
        }
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

    /// How things stand.
    #[must_use]
    pub fn status(&self) -> LinkStatus {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (source, received, applied) = (
            self.source_end.load(),
            self.received_end.load(),
            self.applied_end.load(),
        );
        let lag_transactions = load(&self.received).saturating_sub(load(&self.settled));
        let behind = lag_transactions > 0 || applied < source;
        let rest = self.lock();
        let show = |position: LogPos| match &rest.name {
            Some(name) => name.show(position),
            None => String::new(),
        };
        let lag_seconds = if behind && load(&self.last_commit_time) > 0 {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0.0, |elapsed| elapsed.as_secs_f64());
            (now - load(&self.last_commit_time) as f64 / 1e6).max(0.0)
        } else {
            0.0
        };
        let transactions_per_second = match (rest.rate.front(), rest.rate.back()) {
            (Some((from, first)), Some((to, last))) if to > from => {
                last.saturating_sub(*first) as f64 / to.duration_since(*from).as_secs_f64()
            }
            _ => 0.0,
        };
        let state = match rest.state {
            State::CatchingUp | State::Streaming if behind => State::CatchingUp,
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
            ddl_statements: load(&self.definitions),
            loops_prevented: load(&self.loops_prevented),
            returned: load(&self.returned),
            left_out: load(&self.left_out),
            auto_increment_strays: load(&self.strays),
            retries: load(&self.retries),
            regrouped: load(&self.regrouped),
            last_error: rest.last_error.clone(),
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
    rest: Mutex<(State, Option<String>)>,
}

impl Default for TailProgress {
    fn default() -> Self {
        Self {
            transactions: AtomicU64::default(),
            rest: Mutex::new((State::Connecting, None)),
        }
    }
}

impl TailProgress {
    /// A transaction of a local client was read.
    pub fn local(&self) {
        self.transactions.fetch_add(1, Ordering::Relaxed);
    }

    /// What the tailer is doing; an error is kept until the next one.
    pub fn set_state(&self, state: State, error: Option<String>) {
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        rest.0 = state;
        if error.is_some() {
            rest.1 = error;
        }
    }

    /// Why the tailer is halted, if it is.
    #[must_use]
    pub fn halted(&self) -> Option<String> {
        let rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        (rest.0 == State::Halted).then(|| rest.1.clone().unwrap_or_default())
    }

    /// How things stand; position and window are the window's to tell.
    #[must_use]
    pub fn status(&self, position: String, window_keys: usize) -> TailerStatus {
        let rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        TailerStatus {
            state: rest.0,
            position,
            window_keys,
            local_transactions: self.transactions.load(Ordering::Relaxed),
            last_error: rest.1.clone(),
        }
    }
}
