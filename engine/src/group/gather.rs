//! Gathers what the reader has sent into batches: as much as is there, up to the limits. So groups
//! are small when caught up (latency) and large when behind (throughput), without a timer.

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::origin::Passed;
use crate::position::LogPos;
use crate::transaction::{Huge, Local};

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
    /// Most row changes; one transaction alone may have more.
    pub rows: usize,
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
    /// Their room in the queue; given back when the batch is dropped.
    permits: Vec<OwnedSemaphorePermit>,
}

/// Makes batches from the reader's channel.
#[derive(Debug)]
pub struct Gatherer {
    items: mpsc::Receiver<Item>,
    limits: Limits,
    held: Option<Item>,
}

impl Gatherer {
    /// Takes the channel's receiving end.
    #[must_use]
    pub fn new(items: mpsc::Receiver<Item>, limits: Limits) -> Self {
        Self {
            items,
            limits,
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
        let mut batch = Batch::default();
        let mut rows = 0;
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
                    let full = !batch.transactions.is_empty()
                        && (batch.transactions.len() >= self.limits.transactions
                            || rows + local.changes.len() > self.limits.rows
                            || local.definition.is_some());
                    if full {
                        self.held = Some(Item::Foreign(local, permit));
                        break;
                    }
                    rows += local.changes.len();
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
        Some(batch)
    }
}

impl Batch {
    /// Drops the transactions that are applied up to `committed`.
    pub fn forget(&mut self, committed: LogPos) {
        self.transactions
            .retain(|transaction| transaction.end > committed);
        self.huge = self.huge.take().filter(|huge| huge.head().end > committed);
    }

    /// Row changes in the batch.
    #[must_use]
    pub fn rows(&self) -> usize {
        let huge = self.huge.as_ref().map_or(0, |huge| huge.len());
        let changes = self.transactions.iter();
        changes.map(|one| one.changes.len()).sum::<usize>() + huge
    }
}
