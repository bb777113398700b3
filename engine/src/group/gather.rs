//! Gathers what the reader has sent into batches: as much as is there, up to the limits. So groups
//! are small when caught up (latency) and large when behind (throughput), without a timer.

use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::origin::Passed;
use crate::position::LogPos;
use crate::transaction::{Huge, Local};

/// Items that must wait behind a batch, at least, for the link to count as behind.
const BEHIND: usize = 32;
/// Rows of the first full batch, and of each one after trouble at least.
const FIRST_ROWS: usize = 500;
const FEWEST_ROWS: usize = 50;

/// What the reader sends to the apply, in the log's order.
#[derive(Debug)]
pub enum Item {
    /// A transaction to apply, with the room that it takes in the queue.
    Foreign(Box<Local>, OwnedSemaphorePermit),
    /// One whose changes are on disk: it is applied alone.
    Huge(Box<Huge>, OwnedSemaphorePermit),
    /// A transaction that needs no write.
    Passed(Passed),
    /// The log goes on in another file; nothing is open.
    Rotated(LogPos),
}

/// Limits of one batch.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most origin transactions.
    pub transactions: usize,
    /// Most row changes; one transaction alone may have more, as of bytes.
    pub rows: usize,
    /// Most memory, in bytes.
    pub bytes: usize,
    /// How long a batch should take at the target. Its rows are locked for as long.
    pub time: Duration,
}

/// What is settled together.
#[derive(Debug, Default)]
pub struct Batch {
    /// Transactions to apply in one commit, in order. DDL stands alone.
    pub transactions: Vec<Local>,
    /// Or one whose changes are on disk, and then no other.
    pub huge: Option<Box<Huge>>,
    /// Transactions passed over on the way, behind or between them.
    pub passed: Vec<Passed>,
    /// Behind the last item.
    pub end: LogPos,
    /// Whether there was more than the limits allow.
    full: bool,
    /// Their room in the queue; given back when the batch is dropped.
    permits: Vec<OwnedSemaphorePermit>,
}

/// Makes batches from the reader's channel.
#[derive(Debug)]
pub struct Gatherer {
    items: mpsc::Receiver<Item>,
    limits: Limits,
    /// Rows that are taken at once now: as many as the target writes in [`Limits::time`].
    rows: usize,
    held: Option<Item>,
}

impl Gatherer {
    /// Takes the channel's receiving end.
    #[must_use]
    pub fn new(items: mpsc::Receiver<Item>, limits: Limits) -> Self {
        Self {
            items,
            limits,
            rows: limits.rows.min(FIRST_ROWS),
            held: None,
        }
    }

    /// The next batch: waits for the first item, then takes what is already there. `None` when the
    /// reader is gone. Nothing is lost if the future is dropped while it waits.
    pub async fn next(&mut self) -> Option<Batch> {
        let first = match self.held.take() {
            Some(item) => item,
            None => self.items.recv().await?,
        };
        Some(self.fill(first))
    }

    /// The batch behind `batch`, if so much is waiting that it need not wait for more. To take it
    /// while `batch` is applied would otherwise only make it smaller.
    pub fn next_if_behind(&mut self, batch: &Batch) -> Option<Batch> {
        let waiting = self.items.len();
        if !batch.full || waiting < BEHIND || waiting < batch.transactions.len() {
            return None;
        }
        let first = match self.held.take() {
            Some(item) => item,
            None => self.items.try_recv().ok()?,
        };
        Some(self.fill(first))
    }

    fn fill(&mut self, first: Item) -> Batch {
        let mut batch = Batch::default();
        let (mut rows, mut bytes) = (0, 0);
        let mut item = first;
        loop {
            match item {
                Item::Passed(passed) => {
                    batch.end = passed.end;
                    batch.passed.push(passed);
                }
                Item::Rotated(position) => batch.end = position,
                Item::Huge(huge, permit) => {
                    if !batch.transactions.is_empty() {
                        self.held = Some(Item::Huge(huge, permit));
                        break;
                    }
                    batch.end = huge.head().end;
                    batch.huge = Some(huge);
                    batch.permits.push(permit);
                    break;
                }
                Item::Foreign(local, permit) => {
                    let full = batch.transactions.len() >= self.limits.transactions
                        || rows + local.changes.len() > self.rows
                        || bytes + local.weight > self.limits.bytes;
                    if !batch.transactions.is_empty() && (full || local.definition.is_some()) {
                        batch.full = full;
                        self.held = Some(Item::Foreign(local, permit));
                        break;
                    }
                    rows += local.changes.len();
                    bytes += local.weight;
                    batch.end = local.end;
                    let alone = local.definition.is_some();
                    batch.transactions.push(*local);
                    batch.permits.push(permit);
                    if alone {
                        break;
                    }
                }
            }
            match self.items.try_recv() {
                Ok(next) => item = next,
                Err(_) => break,
            }
        }
        batch
    }

    /// A batch was applied in this time: the next ones may be larger, or must be smaller.
    pub fn applied(&mut self, batch: &Batch, took: Duration) {
        let slow = took > self.limits.time;
        if batch.huge.is_some() || !slow && !batch.full {
            return;
        }
        let goal = self.limits.time.as_secs_f64() / took.as_secs_f64().max(1e-6);
        let rows = batch.rows() as f64 * goal.clamp(0.5, 2.0);
        self.rows = (rows as usize).max(FEWEST_ROWS).min(self.limits.rows);
    }

    /// A batch met others' locks: smaller ones hold fewer and for less time.
    pub fn contended(&mut self) {
        self.rows = (self.rows / 2).max(FEWEST_ROWS).min(self.limits.rows);
    }
}

impl Batch {
    /// Drops the transactions that are applied up to `committed`.
    pub fn forget(&mut self, committed: LogPos) {
        self.transactions
            .retain(|transaction| transaction.end > committed);
        self.huge = self.huge.take().filter(|huge| huge.head().end > committed);
    }

    /// Whether there was more than the limits allow.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Row changes in the batch.
    #[must_use]
    pub fn rows(&self) -> usize {
        let huge = self.huge.as_ref().map_or(0, |huge| huge.len());
        let changes = self.transactions.iter();
        changes.map(|one| one.changes.len()).sum::<usize>() + huge
    }

    /// Whether it is a DDL statement.
    #[must_use]
    pub fn is_definition(&self) -> bool {
        let mut transactions = self.transactions.iter();
        transactions.any(|transaction| transaction.definition.is_some())
    }
}
