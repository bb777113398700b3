//! Applies batches of one origin to the target, exactly once, in the origin's commit order.
//!
//! The apply transaction (design section 3, "the race"): it moves the marker row, writes its rows
//! and so holds their locks; asks the target for its log's end and waits until the tailer has read
//! that far; looks for concurrent local writes of its keys; and commits, or rolls back. A local
//! write that the check could miss would have to be committed but not yet in front of the log's
//! end, which neither server does while its locks are released. What meets concurrent writes goes
//! through the careful transaction instead: [`super::careful`].

use std::sync::Arc;

use super::careful::{CAREFUL_CHANGES, CAREFUL_TRANSACTIONS, Scope};
use super::execute::{Failure, Head, execute};
use super::explain::at_position;
use super::foreign_key;
use super::guard::{Passage, guard};
use super::prepare::{Prepared, PreparedTransaction, Preparer, Written, meeting};
use super::row_events::{self, Ability};
use super::session;
use crate::config::Config;
use crate::conflict::detect::Meeting;
use crate::conflict::journal;
use crate::conflict::window::Window;
use crate::connection::{Identity, NodeConnection};
use crate::error::{Disposition, ER_NET_PACKET_TOO_LARGE, Error, Result};
use crate::failpoint::{self, Failpoint};
use crate::group::{Batch, KeySet};
use crate::link::read_marker;
use crate::position::LogPos;
use crate::position::marker::Marker;
use crate::replicator::{place, rank};
use crate::schema::SchemaCatalog;
use crate::status::LinkProgress;
use crate::transaction::Local;

/// Writes what one origin sent to one target.
pub struct Applier {
    pub(super) connection: NodeConnection,
    pub(super) config: Arc<Config>,
    pub(super) origin: Identity,
    pub(super) target: Identity,
    pub(super) window: Arc<Window>,
    pub(super) catalog: Arc<SchemaCatalog>,
    pub(super) progress: Arc<LinkProgress>,
    /// The marker row as committed.
    pub(super) marker: Marker,
    /// Places of origin and target in the order of nodes.
    pub(super) places: [u8; 2],
    /// Rank of the origin's writes; see [`crate::conflict::history::Order`].
    pub(super) rank: u8,
    pub(super) preparer: Preparer,
    /// `foreign_key_checks` of the connection's session.
    pub(super) foreign_key_checks: bool,
}

/// What an attempt to apply transactions came to.
pub(super) enum Attempt {
    Applied,
    /// A concurrent local write was met.
    Met(Meeting),
    /// The rows did not fit: as merged, or one by one.
    Unfit(Failure),
    /// DDL changed the tables meanwhile: what was asked about them may not be all.
    Stale,
}

/// How transactions are tried.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    /// As few statements as it goes.
    Merged,
    /// Each change by itself.
    OneByOne,
    /// By the careful transaction.
    Careful(Scope),
}

impl Applier {
    /// Takes over a connection to the target whose marker was read.
    ///
    /// # Errors
    /// The connection's.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is another stage's, made once per link"
    )]
    pub async fn new(
        mut connection: NodeConnection,
        config: Arc<Config>,
        origin: Identity,
        target: Identity,
        window: Arc<Window>,
        catalog: Arc<SchemaCatalog>,
        progress: Arc<LinkProgress>,
        marker: Marker,
    ) -> Result<Self> {
        let (policy, ability) = (config.replication.row_events, Ability::default());
        let nodes = [&target, &origin];
        if let Some(hindrance) = session::set_up(&mut connection, nodes, policy).await? {
            ability.lose(hindrance);
        }
        let places = [&origin, &target].map(|of| place(&config, &of.node));
        let preparer = Preparer::new(
            Arc::clone(&config),
            origin.clone(),
            target.clone(),
            Arc::clone(&window),
            Arc::clone(&catalog),
            Arc::clone(&progress),
            ability,
        );
        let rank = rank(&config, &origin.node);
        Ok(Self {
            rank,
            connection,
            config,
            origin,
            target,
            window,
            catalog,
            progress,
            marker,
            places,
            preparer,
            foreign_key_checks: true,
        })
    }

    /// Another preparer of the same transactions.
    #[must_use]
    pub(crate) fn preparer(&self) -> Preparer {
        self.preparer.another()
    }

    /// The origin's `server_uuid` (MySQL).
    #[must_use]
    pub fn origin_uuid(&self) -> Option<[u8; 16]> {
        self.origin.uuid
    }

    /// The marker row as committed.
    #[must_use]
    pub fn marker(&self) -> &Marker {
        &self.marker
    }

    /// Applies a batch's transactions. On return they are committed with the marker behind them.
    /// `prepared` is what is known of them, where they were prepared ahead.
    ///
    /// # Errors
    /// [`Error::Connection`] and [`Error::Contention`] may be tried again after reading the marker;
    /// [`Error::Conflict`], [`Error::Drift`] and the others stop the link, with everything in front
    /// of the transaction to blame applied.
    pub async fn apply(&mut self, batch: &mut Batch, prepared: Option<Prepared>) -> Result<()> {
        let applied = self.apply_batch(batch, prepared).await;
        if let Err(Error::Conflict {
            entry: Some(entry), ..
        }) = &applied
        {
            let node = self.config.node(&self.target.node)?;
            let schema = &self.config.engine.schema;
            if journal::note_unsettled(node, schema, entry).await? {
                self.progress.conflict(entry.kind, entry.winner);
            }
        }
        applied
    }

    async fn apply_batch(&mut self, batch: &mut Batch, prepared: Option<Prepared>) -> Result<()> {
        if let Some(huge) = &batch.huge {
            return self.apply_huge(huge).await;
        }
        if let [only] = &mut batch.transactions[..]
            && only.definition.is_some()
        {
            self.apply_definition(only).await?;
            return Ok(());
        }
        match self.apply_rows(&mut batch.transactions, prepared).await {
            // DDL of a local client may be so new that the tailer has not read it: then the rows
            // are from before it, and fit as such.
            Err(Error::Schema { .. }) => {
                self.tailer_at_end().await?;
                self.forget_schemas();
                let committed = self.marker.position;
                batch
                    .transactions
                    .retain(|transaction| transaction.end > committed);
                self.apply_rows(&mut batch.transactions, None).await
            }
            other => other,
        }
    }

    /// Applies row transactions: all in one commit if it goes; in parts, and those carefully that
    /// meet concurrent local writes, if not.
    pub(super) async fn apply_rows(
        &mut self,
        transactions: &mut [Local],
        mut prepared: Option<Prepared>,
    ) -> Result<()> {
        let mut done = 0;
        // How many are tried together.
        let mut most = transactions.len();
        while done < transactions.len() {
            let known = match prepared.take() {
                Some(known) if known.generation == self.catalog.generation() => known,
                _ => match self.preparer.prepare(&mut transactions[done..]).await {
                    Ok(rest) => rest.behind(done),
                    // What stands in front of the one to blame is applied all the same: who leaves
                    // that one out must not lose the others.
                    Err(error) if halts(&error) && transactions.len() - done > 1 => {
                        return self.one_transaction_each(&mut transactions[done..]).await;
                    }
                    Err(error) => return Err(error),
                },
            };
            let known = prepared.insert(known);
            let end = transactions.len().min(done + most.max(1));
            let rest = &mut transactions[done..end];
            let attempt = match self.attempt_merged(rest, known, done..end).await {
                // Likewise.
                Err(error) if halts(&error) && end - done > 1 => {
                    self.one_transaction_each(&mut transactions[done..end])
                        .await?;
                    done = end;
                    continue;
                }
                attempt => attempt?,
            };
            match attempt {
                Attempt::Applied => {
                    done = end;
                    most = most.saturating_mul(2);
                }
                Attempt::Met(meeting) => {
                    // A long way to the first meeting goes the ordinary way.
                    let front = meeting.transaction;
                    if front > CAREFUL_TRANSACTIONS {
                        most = front;
                    } else {
                        let front = careful_prefix(&transactions[done..]);
                        self.settle_together(&mut transactions[done..done + front])
                            .await?;
                        done += front;
                        most = transactions.len();
                    }
                }
                // Find out which transaction and row it is, with everything before it applied: by
                // halves, so that one among many costs few attempts.
                Attempt::Unfit(_) if end - done > 1 => {
                    self.progress.regrouped();
                    most = (end - done).div_ceil(2);
                }
                Attempt::Unfit(_) => {
                    self.one_transaction_each(&mut transactions[done..end])
                        .await?;
                    done = end;
                }
                Attempt::Stale => prepared = None,
            }
        }
        Ok(())
    }

    /// Transactions of which some meet concurrent local writes.
    async fn settle_together(&mut self, transactions: &mut [Local]) -> Result<()> {
        let way = Way::Careful(Scope::Contended);
        let alone = transactions.len() == 1;
        let attempt = match self.attempt(transactions, way).await {
            // What stands in front of the one that halts is applied all the same.
            Err(Error::Conflict { .. }) if !alone => Attempt::Stale,
            attempt => attempt?,
        };
        match attempt {
            Attempt::Applied => Ok(()),
            Attempt::Met(_) | Attempt::Unfit(_) | Attempt::Stale => {
                self.progress.regrouped();
                self.one_transaction_each(transactions).await
            }
        }
    }

    async fn one_transaction_each(&mut self, transactions: &mut [Local]) -> Result<()> {
        for index in 0..transactions.len() {
            let one = &mut transactions[index..=index];
            let mut attempt = self.attempt(one, Way::OneByOne).await?;
            if let Attempt::Unfit(Failure::Refused {
                code: 1054 | 1136 | 1146,
                ..
            }) = attempt
            {
                // Our picture of the table is older than the table: look again, once.
                self.forget_schemas();
                attempt = self.attempt(one, Way::OneByOne).await?;
            }
            if matches!(attempt, Attempt::Met(_)) {
                attempt = self.attempt(one, Way::Careful(Scope::Contended)).await?;
            }
            if let Attempt::Unfit(Failure::Refused { code: 1452, .. } | Failure::Orphan { .. }) =
                attempt
            {
                // A client may have removed the parent since we looked: it is in the log by now.
                self.tailer_at_end().await?;
                attempt = self.attempt(one, Way::Careful(Scope::Contended)).await?;
            }
            if let Attempt::Unfit(Failure::Missing { .. } | Failure::Refused { code: 1062, .. }) =
                attempt
            {
                // Each row by itself tells what it is.
                attempt = self.attempt(one, Way::Careful(Scope::All)).await?;
            }
            match attempt {
                Attempt::Applied => {}
                Attempt::Unfit(failure) => return Err(self.unfit(&one[0], failure)),
                Attempt::Met(_) | Attempt::Stale => {
                    return Err(Error::Internal(
                        "an attempt was not repeated though it had to be".to_owned(),
                    ));
                }
            }
        }
        Ok(())
    }

    /// One attempt at these transactions, merged; `range` are their places among those prepared.
    async fn attempt_merged(
        &mut self,
        transactions: &[Local],
        prepared: &mut Prepared,
        range: std::ops::Range<usize>,
    ) -> Result<Attempt> {
        let whole = range.len() == prepared.transactions.len();
        let ahead = prepared.merged.take().filter(|_| whole);
        let generation = prepared.generation;
        let known = &prepared.transactions[range];
        let result = self
            .try_apply(transactions, known, ahead, generation, true)
            .await;
        let result = self.rolled_back(result).await;
        self.placed(result, transactions)
    }

    async fn attempt(&mut self, transactions: &mut [Local], way: Way) -> Result<Attempt> {
        let mut looked = false;
        loop {
            let result = match way {
                Way::Merged | Way::OneByOne => match self.preparer.prepare(transactions).await {
                    Ok(known) => {
                        let merge = matches!(way, Way::Merged);
                        let (generation, known) = (known.generation, known.transactions);
                        self.try_apply(transactions, &known, None, generation, merge)
                            .await
                    }
                    Err(error) => Err(error),
                },
                Way::Careful(scope) => self.try_careful(transactions, scope).await,
            };
            let result = self.rolled_back(result).await;
            match result {
                Ok(Attempt::Stale) => {}
                Ok(Attempt::Unfit(failure)) if self.goes_another_way(&failure, &mut looked) => {}
                result => return self.placed(result, transactions),
            }
        }
    }

    /// The result of an attempt at these transactions; an error that does not know its place has it of the first.
    pub(super) fn placed(
        &self,
        result: Result<Attempt>,
        transactions: &[Local],
    ) -> Result<Attempt> {
        result.map_err(|error| match transactions.first() {
            Some(first) => at_position(&self.origin, error, first),
            None => error,
        })
    }

    /// Whether what did not fit were row events, and SQL may be tried from here on.
    /// `looked`: the tables were looked at once more already.
    pub(super) fn goes_another_way(&mut self, failure: &Failure, looked: &mut bool) -> bool {
        let (origin, target) = (&self.origin.node, &self.target.node);
        match failure {
            Failure::Columns { .. } if !std::mem::replace(looked, true) => {}
            Failure::Settings { .. } => {
                let why = row_events::unsafe_settings(self.target.flavor);
                tracing::warn!(%origin, %target, "no more row events: {why}");
                self.preparer.ability.lose(why);
            }
            Failure::Refused {
                table,
                code: 1105 | ER_NET_PACKET_TOO_LARGE,
                message,
            } if self.preparer.ability.refuse(table) => {
                tracing::warn!(
                    %origin,
                    %target,
                    table,
                    "the target does not take row events of this table: trying SQL: {message}"
                );
            }
            _ => return false,
        }
        self.forget_schemas();
        true
    }

    /// The result of an attempt, with nothing left of it unless it was applied.
    pub(super) async fn rolled_back(&mut self, result: Result<Attempt>) -> Result<Attempt> {
        if !matches!(result, Ok(Attempt::Applied)) {
            // If the connection is gone the server rolls back by itself, and the first error tells
            // more.
            let rolled_back = self.connection.execute("ROLLBACK", "rolling back").await;
            if result.is_ok() {
                rolled_back?;
            }
        }
        result
    }

    /// `ahead` are the statements, if they are written already; `generation` that of the catalog by
    /// which the transactions were prepared.
    async fn try_apply(
        &mut self,
        transactions: &[Local],
        prepared: &[PreparedTransaction],
        ahead: Option<Written>,
        generation: u64,
        merge: bool,
    ) -> Result<Attempt> {
        if let Some(meeting) = meeting(prepared, &self.window) {
            return Ok(Attempt::Met(meeting));
        }
        let Some(last) = transactions.last() else {
            return Ok(Attempt::Applied);
        };
        let written = match ahead {
            Some(written) => written,
            None => self.preparer.write(transactions, prepared, merge, &[])?,
        };
        let marker = self.marker_behind(transactions, last);
        let sql = marker.update(&self.config.engine.schema, &self.marker);
        let statements = &written.statements;
        let checks = &mut self.foreign_key_checks;
        let head = Some(Head::Marker(&sql));
        match execute(&mut self.connection, head, statements, checks).await {
            Ok(()) => {}
            Err(Failure::Error(error)) => return Err(error),
            Err(Failure::MarkerMoved) => return Err(self.marker_moved().await?),
            Err(failure) => return Ok(Attempt::Unfit(failure)),
        }
        failpoint::reach(Failpoint::StatementsSent);
        if let Some(orphan) = foreign_key::ask(&mut self.connection, &written.questions).await? {
            return Ok(Attempt::Unfit(orphan));
        }
        // Closes the race with local writers; see the module's first lines.
        let (target, window, catalog) = (&self.target, &self.window, &self.catalog);
        let of = (prepared, generation);
        match guard(&mut self.connection, target, window, catalog, of).await? {
            Passage::Clear => {}
            Passage::Met(meeting) => return Ok(Attempt::Met(meeting)),
            Passage::Stale => return Ok(Attempt::Stale),
        }
        failpoint::reach(Failpoint::Guarded);
        let commit = self.connection.execute("COMMIT", "committing");
        failpoint::midway(Failpoint::CommitSent, commit).await?;
        failpoint::reach(Failpoint::Committed);
        self.marker = marker;
        self.progress.applied(transactions);
        Ok(Attempt::Applied)
    }

    /// Writes the marker within the open transaction.
    pub(super) async fn write_marker(&mut self, marker: &Marker) -> Result<()> {
        let schema = &self.config.engine.schema;
        let sql = marker.update(schema, &self.marker);
        let found = self.connection.execute(sql, "moving the marker").await?;
        if found == 1 {
            failpoint::reach(Failpoint::MarkerWritten);
            return Ok(());
        }
        Err(self.marker_moved().await?)
    }

    /// Why the marker row is not as it was read.
    async fn marker_moved(&mut self) -> Result<Error> {
        let schema = &self.config.engine.schema;
        let now = read_marker(&mut self.connection, schema, &self.origin.node).await?;
        if now.epoch != self.marker.epoch {
            return Ok(Error::Fenced(format!(
                "the marker row of origin {} at node {} is of epoch {}, after our {}: another \
                 engine has taken this node over. Stop one of the two",
                self.origin.node, self.target.node, now.epoch, self.marker.epoch
            )));
        }
        // A commit of ours whose answer was lost came through behind our back: begin anew from
        // where it left the marker.
        Ok(Error::Connection {
            node: self.target.node.to_string(),
            message: "the marker moved since it was read".to_owned(),
        })
    }

    pub(super) fn marker_behind(&self, transactions: &[Local], last: &Local) -> Marker {
        marker_behind(&self.marker, transactions, last)
    }

    /// What was committed with this marker went by another connection.
    pub(crate) fn committed(&mut self, marker: Marker) {
        self.marker = marker;
    }

    /// Prepares a batch for a lane; `beside` are the groups that are applied at present.
    pub(crate) async fn prepare_beside(
        &mut self,
        batch: &mut Batch,
        beside: Vec<Arc<KeySet>>,
    ) -> Result<Prepared> {
        let transactions = &mut batch.transactions;
        self.preparer
            .prepare_merged(transactions, Some(beside))
            .await
    }

    /// Moves the marker without rows, so that a lost store costs little reading again.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub async fn move_marker(
        &mut self,
        (position, log_birth): (LogPos, u32),
        clock: u64,
        seen: (LogPos, u64),
    ) -> Result<()> {
        let marker = Marker {
            position,
            log_birth,
            clock,
            seen: seen.0,
            seen_clock: seen.1,
            intent: None,
            intent_clock: 0,
            intended: None,
            ..self.marker.clone()
        };
        self.write_marker(&marker).await?;
        failpoint::reach(Failpoint::MarkerAlone);
        self.connection
            .execute("COMMIT", "committing the marker")
            .await?;
        self.marker = marker;
        Ok(())
    }

    /// Forgets what is known of the target's tables, after DDL.
    pub(super) fn forget_schemas(&mut self) {
        self.catalog.forget();
        self.preparer.forget();
    }
}

/// The marker behind these transactions, of which `last` is the last, where it is `from` in front.
pub(super) fn marker_behind(from: &Marker, transactions: &[Local], last: &Local) -> Marker {
    let counted = transactions
        .iter()
        .filter(|transaction| !transaction.barrier);
    let (mut number, mut changes) = (0, 0);
    for transaction in counted {
        number += 1;
        changes += transaction.changes.len() as u64;
    }
    Marker {
        position: last.end,
        log_birth: last.log_birth,
        gtid: last
            .gtid
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        clock: last.effective,
        seen: from.seen.max(last.seen.position),
        seen_clock: from.seen_clock.max(last.seen.clock),
        intent: None,
        intent_clock: 0,
        intended: None,
        transactions: from.transactions + number,
        changes: from.changes + changes,
        ..from.clone()
    }
}

fn halts(error: &Error) -> bool {
    error.disposition() == Disposition::Halt
}

/// How many of the transactions one careful transaction takes.
fn careful_prefix(transactions: &[Local]) -> usize {
    let mut changes = 0;
    let fits = transactions
        .iter()
        .take(CAREFUL_TRANSACTIONS)
        .take_while(|transaction| {
            changes += transaction.changes.len();
            changes <= CAREFUL_CHANGES
        });
    fits.count().max(1)
}
