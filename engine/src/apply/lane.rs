//! A connection that applies a batch beside the batches in front of it.
//!
//! A batch has its turn in a lane: it writes those of its rows that have no key in common with the
//! batches in front which are not committed yet ([`crate::group::split`]), waits until the last of
//! those is committed, writes the rest, and goes on like every apply transaction: the guard, the
//! marker row, COMMIT. So the commits keep the origin's order (INV-PREFIX), each with its marker
//! (INV-ONCE), and what is written at the same time has nothing to do with each other.
//!
//! *The marker row* is locked by the batch in front until that commits, so it is the last that a turn
//! writes. The transaction's first row must tell all the same that an engine writes it, or whoever
//! reads the log would look at all its rows: that is the sign, a row of each lane.
//!
//! *Locks.* Servers lock more than rows, such as the neighbour of a unique value that is taken anew, so
//! the batch in front may come to wait for a lock of this one, which waits for its commit; and no server sees that circle.
//! Nor one with a client in it. So a batch gives way: it waits with its locks only for so long while
//! the one in front is still writing, and then rolls back. Whatever else stands in the way, a
//! concurrent write or a row that does not fit, it gives way to as well: what gave way is applied by
//! the [`super::applier`], which knows what to do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::applier::marker_behind;
use super::execute::{Failure, Head, execute};
use super::foreign_key;
use super::guard::{Passage, guard};
use super::prepare::{Prepared, meeting};
use super::session;
use crate::config::{NodeConfig, RowEventPolicy};
use crate::conflict::window::Window;
use crate::connection::{Identity, NodeConnection, quote_identifier, quote_string};
use crate::error::{Disposition, Error, Result};
use crate::failpoint::{self, Failpoint};
use crate::group::Batch;
use crate::link::take_apply_lock;
use crate::own_schema::LANE;
use crate::position::marker::Marker;
use crate::schema::SchemaCatalog;
use crate::status::LinkProgress;

/// Most lanes of a link.
pub(crate) const MOST_LANES: usize = 4;

/// How long, at least, a batch that has locks waits for the one in front while that is writing; else for
/// as long as a commit's rows should be locked.
const PATIENCE: Duration = Duration::from_millis(100);

/// What the turns of one link have in common.
pub(super) struct Surroundings {
    pub(super) node: NodeConfig,
    pub(super) schema: String,
    /// How long a commit's rows should be locked.
    pub(super) group_time: Duration,
    pub(super) row_events: RowEventPolicy,
    pub(super) origin: Identity,
    pub(super) target: Identity,
    pub(super) window: Arc<Window>,
    pub(super) catalog: Arc<SchemaCatalog>,
    pub(super) progress: Arc<LinkProgress>,
}

/// A connection of its own to the target.
pub(super) struct Lane {
    connection: NodeConnection,
    /// `foreign_key_checks` of its session.
    foreign_key_checks: bool,
    /// The statement that writes its sign.
    sign: String,
    /// How long the last turn waited for the batch in front.
    waited: Duration,
}

/// A batch with what is known of it.
pub(super) struct Turn {
    pub(super) batch: Batch,
    pub(super) prepared: Prepared,
    /// The marker row as the batch in front leaves it.
    pub(super) from: Marker,
    /// And as this one leaves it.
    pub(super) to: Marker,
}

/// How far a turn is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It sends statements, and may wait for locks.
    Writing,
    /// What it could write is written: it waits for no lock of another's.
    Written,
    /// It is committed.
    Committed,
    /// Nothing of it is left.
    GaveWay,
}

/// What became of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is committed, marker and all.
    Committed,
    /// Nothing of it is left: it is to be applied by itself.
    GaveWay,
}

impl Turn {
    /// `None` for a batch without transactions.
    pub(super) fn new(batch: Batch, prepared: Prepared, from: Marker) -> Option<Self> {
        let last = batch.transactions.last()?;
        let to = marker_behind(&from, &batch.transactions, last);
        Some(Self {
            batch,
            prepared,
            from,
            to,
        })
    }
}

impl Lane {
    /// Connects lane `number` of the link.
    ///
    /// # Errors
    /// The connection's.
    pub(super) async fn open(around: &Surroundings, number: usize) -> Result<Self> {
        let origin = &around.origin.node;
        let mut connection = NodeConnection::open(&around.node).await?;
        take_apply_lock(&mut connection, origin, number).await?;
        let nodes = [&around.target, &around.origin];
        session::set_up(&mut connection, nodes, around.row_events).await?;
        let sign = format!(
            "INSERT INTO {}.{LANE} (origin, lane, turns) VALUES ({}, {number}, 1) ON DUPLICATE KEY UPDATE \
             turns = turns + 1",
            quote_identifier(&around.schema),
            quote_string(origin),
        );
        Ok(Self {
            connection,
            foreign_key_checks: true,
            sign,
            waited: Duration::ZERO,
        })
    }

    /// How long the last turn waited for the batch in front.
    pub(super) fn waited(&self) -> Duration {
        self.waited
    }

    /// A batch's turn. `front` is how far the one in front is, `stage` tells that of this one.
    ///
    /// # Errors
    /// The connection's, and what else may pass by itself: nothing of the turn is left then, or it is
    /// not known whether it was committed.
    pub(super) async fn take(
        &mut self,
        turn: &Turn,
        around: &Surroundings,
        front: Option<watch::Receiver<Stage>>,
        stage: &watch::Sender<Stage>,
    ) -> Result<Outcome> {
        let outcome = match self.attempt(turn, around, front, stage).await {
            Ok(Outcome::Committed) => {
                stage.send_replace(Stage::Committed);
                around.progress.applied(&turn.batch.transactions);
                return Ok(Outcome::Committed);
            }
            // Locks, or what the applier will say better.
            Err(Error::Contention { .. }) => Ok(Outcome::GaveWay),
            Err(error) if error.disposition() == Disposition::Halt => Ok(Outcome::GaveWay),
            outcome => outcome,
        };
        let rolled_back = self.connection.execute("ROLLBACK", "rolling back").await;
        stage.send_replace(Stage::GaveWay);
        // If the connection is gone, the first error tells more.
        let outcome = outcome?;
        rolled_back?;
        Ok(outcome)
    }

    async fn attempt(
        &mut self,
        turn: &Turn,
        around: &Surroundings,
        front: Option<watch::Receiver<Stage>>,
        stage: &watch::Sender<Stage>,
    ) -> Result<Outcome> {
        self.waited = Duration::ZERO;
        let Some(written) = &turn.prepared.merged else {
            return Ok(Outcome::GaveWay);
        };
        if meeting(&turn.prepared.transactions, &around.window).is_some() {
            return Ok(Outcome::GaveWay);
        }
        let (free, behind) = written.statements.split_at(written.free);
        let head = Some(Head::Sign(&self.sign));
        let checks = &mut self.foreign_key_checks;
        if !fits(execute(&mut self.connection, head, free, checks).await)? {
            return Ok(Outcome::GaveWay);
        }
        // All that is to be locked is locked: the guard need not wait for the batch in front.
        let whole = behind.is_empty() && written.questions.is_empty();
        if whole && !self.guard(turn, around).await? {
            return Ok(Outcome::GaveWay);
        }
        stage.send_replace(Stage::Written);
        if let Some(front) = front {
            let begun = Instant::now();
            let in_order = committed(front, around.group_time.max(PATIENCE)).await;
            self.waited = begun.elapsed();
            if !in_order {
                return Ok(Outcome::GaveWay);
            }
        }
        if !whole {
            stage.send_replace(Stage::Writing);
            let checks = &mut self.foreign_key_checks;
            if !fits(execute(&mut self.connection, None, behind, checks).await)? {
                return Ok(Outcome::GaveWay);
            }
            let questions = &written.questions;
            if foreign_key::ask(&mut self.connection, questions)
                .await?
                .is_some()
            {
                return Ok(Outcome::GaveWay);
            }
            stage.send_replace(Stage::Written);
            if !self.guard(turn, around).await? {
                return Ok(Outcome::GaveWay);
            }
        }
        failpoint::reach(Failpoint::Guarded);
        let marker = turn.to.update(&around.schema, &turn.from);
        let found = self.connection.execute(marker, "moving the marker").await?;
        // The applier finds out who moved it.
        if found != 1 {
            return Ok(Outcome::GaveWay);
        }
        failpoint::reach(Failpoint::MarkerWritten);
        let commit = self.connection.execute("COMMIT", "committing");
        failpoint::midway(Failpoint::CommitSent, commit).await?;
        failpoint::reach(Failpoint::Committed);
        Ok(Outcome::Committed)
    }

    /// Whether nothing is in the way of the commit.
    async fn guard(&mut self, turn: &Turn, around: &Surroundings) -> Result<bool> {
        failpoint::reach(Failpoint::StatementsSent);
        let (target, window, catalog) = (&around.target, &around.window, &around.catalog);
        let of = (&turn.prepared.transactions[..], turn.prepared.generation);
        let passage = guard(&mut self.connection, target, window, catalog, of).await?;
        Ok(matches!(passage, Passage::Clear))
    }
}

/// Whether the statements went through as planned.
fn fits(executed: Result<(), Failure>) -> Result<bool> {
    match executed {
        Ok(()) => Ok(true),
        Err(Failure::Error(error)) => Err(error),
        Err(_) => Ok(false),
    }
}

/// Waits until the batch in front is committed; says whether it is.
async fn committed(mut front: watch::Receiver<Stage>, patience: Duration) -> bool {
    loop {
        let stage = *front.borrow_and_update();
        let changed = match stage {
            Stage::Committed => return true,
            Stage::GaveWay => return false,
            Stage::Written => front.changed().await,
            Stage::Writing => match tokio::time::timeout(patience, front.changed()).await {
                Ok(changed) => changed,
                Err(_) => return false,
            },
        };
        if changed.is_err() {
            return *front.borrow() == Stage::Committed;
        }
    }
}
