//! Runs DDL of the origin at the target, exactly once.
//!
//! DDL commits by itself, so no marker can be written in its transaction. Instead the marker first
//! says, committed, which statement is about to be run (the *intent*). After a crash the log of the
//! target tells whether it ran: on MySQL it is run under the origin's own GTID, and the server
//! passes over a GTID that it has; on MariaDB it carries the origin's `server_id`, and the tailer
//! reports such a statement behind the intent. See docs/decisions/0003-ddl.md.

use super::applier::Applier;
use super::session;
use crate::conflict::journal;
use crate::conflict::key::TableHash;
use crate::conflict::policy::Policy;
use crate::conflict::resolve::ConflictKind;
use crate::conflict::window::Window;
use crate::connection::quote_identifier;
use crate::decode::ddl;
use crate::decode::event::Flavor;
use crate::error::{Error, Result};
use crate::failpoint::{self, Failpoint};
use crate::gtid::Gtid;
use crate::position::LogPos;
use crate::position::marker::{Intended, Marker};
use crate::transaction::{Definition, Local, RowEffect};

/// What became of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Defined {
    /// It was run.
    Done,
    /// It would empty a table, and was not run: a client wrote the table since it was looked at.
    Met,
}

impl Applier {
    /// Runs a DDL transaction, and the rows of a `CREATE TABLE .. SELECT` behind it.
    pub(super) async fn apply_definition(&mut self, transaction: &mut Local) -> Result<()> {
        loop {
            if let Some(table) = self.table_to_settle(transaction).await? {
                return self.empty(transaction, &table).await;
            }
            match self.define(transaction).await? {
                Defined::Done => break,
                Defined::Met => {}
            }
        }
        self.apply_rows(std::slice::from_mut(transaction), None)
            .await
    }

    /// Runs the DDL of a transaction. The marker says so once its rows are applied.
    pub(super) async fn define(&mut self, transaction: &Local) -> Result<Defined> {
        let Some(definition) = transaction.definition.clone() else {
            return Err(Error::Internal("no definition to apply".to_owned()));
        };
        // Noted before: it may have been run, or some of it.
        let rerun = self.marker.intent == Some(transaction.end);
        let removes_rows = definition.effect() != RowEffect::Kept;
        if removes_rows || rerun {
            self.tailer_at_end().await?;
        }
        let done = rerun && self.window.definition_was_applied(transaction.end);
        if removes_rows && !done {
            let seen = transaction.seen.position;
            let met = self.refuse_meeting(transaction, &definition, |window, table| {
                window.concurrent_table_write(table, seen)
            });
            // A client may have come since the caller looked.
            if met.is_err() && self.table_to_settle(transaction).await?.is_some() {
                return Ok(Defined::Met);
            }
            met?;
        }
        if !rerun {
            self.refuse_used_gtid(transaction).await?;
        }
        if !done {
            let statement = &definition.statement;
            let intended = (self.target.flavor == Flavor::MariaDb).then(|| Intended {
                sql_mode: statement.session.sql_mode.unwrap_or(0),
                database: statement.database.clone(),
                sql: statement.sql.clone(),
            });
            let intent = Marker {
                intent: Some(transaction.end),
                intent_clock: transaction.effective,
                intended,
                ..self.marker.clone()
            };
            self.write_marker(&intent).await?;
            failpoint::reach(Failpoint::IntentWritten);
            self.connection.execute("COMMIT", "noting the DDL").await?;
            failpoint::reach(Failpoint::IntentCommitted);
            self.marker = intent;
            if self.run(transaction, &definition, rerun).await? == Defined::Met {
                return Ok(Defined::Met);
            }
            failpoint::reach(Failpoint::DefinitionRun);
        }
        self.forget_schemas();
        if removes_rows {
            // A client may have written between the look and a statement of another kind than
            // TRUNCATE, which takes no lock that we could hold before: then it is too late to keep
            // the rows, not to say so.
            self.tailer_at_end().await?;
            let (end, seen) = (transaction.end, transaction.seen.position);
            self.refuse_meeting(transaction, &definition, |window, table| {
                window.table_write_before_definition(end, table, seen)
            })?;
        }
        self.progress.definition();
        Ok(Defined::Done)
    }

    /// A statement that removes rows must not remove rows which the origin had not seen.
    fn refuse_meeting(
        &self,
        local: &Local,
        definition: &Definition,
        written: impl Fn(&Window, TableHash) -> Option<LogPos>,
    ) -> Result<()> {
        for (database, table) in definition.tables() {
            let Some(position) = written(&self.window, TableHash::new(database, table)) else {
                continue;
            };
            let name = if table.is_empty() {
                database.to_owned()
            } else {
                format!("{database}.{table}")
            };
            let message = format!(
                "{:?} of {name} from node {} ({}) meets rows that node {} wrote concurrently (up to \
                 {}). Decide which shall stay, make both nodes alike, then {}",
                definition.ddl.kind,
                self.origin.node,
                self.origin.log_name.show(local.start),
                self.target.node,
                self.target.log_name.show(position),
                self.go_on_behind(local),
            );
            let kind = match definition.effect() {
                RowEffect::Emptied => ConflictKind::Truncate.as_str(),
                _ => journal::DEFINITION,
            };
            let policy = Policy::Halt.as_str();
            let mut entry = self.unsettled(local, kind, (database, table), policy);
            entry.local_position = Some(self.target.log_name.show(position));
            return Err(Error::Conflict {
                message,
                entry: Some(Box::new(entry)),
            });
        }
        Ok(())
    }

    /// The server passes over a statement whose GTID it has, without a word. That is right only if
    /// we ran it before.
    async fn refuse_used_gtid(&mut self, transaction: &Local) -> Result<()> {
        let Some(gtid @ Gtid::MySql { .. }) = &transaction.gtid else {
            return Ok(());
        };
        let used: Option<i64> = self
            .connection
            .first(
                &format!("SELECT GTID_SUBSET('{gtid}', @@GLOBAL.gtid_executed)"),
                "asking whether a GTID was used",
            )
            .await?;
        // Without autocommit the SELECT has opened a transaction.
        self.connection
            .execute("ROLLBACK", "asking whether a GTID was used")
            .await?;
        if used != Some(1) {
            return Ok(());
        }
        Err(Error::LogLost {
            node: self.origin.node.to_string(),
            problem: format!(
                "the DDL at {} has the GTID {gtid}, which node {} has already: the GTIDs of node {} \
                 began anew (RESET BINARY LOGS AND GTIDS, a restored backup), or somebody ran the \
                 statement there under it. If it was run, {}. Else run it at node {} by hand \
                 first",
                self.origin.log_name.show(transaction.start),
                self.target.node,
                self.origin.node,
                self.go_on_behind(transaction),
                self.target.node,
            ),
        })
    }

    async fn run(
        &mut self,
        transaction: &Local,
        definition: &Definition,
        rerun: bool,
    ) -> Result<Defined> {
        let context = format!(
            "{:?} from node {} ({})",
            definition.ddl.kind,
            self.origin.node,
            self.origin.log_name.show(transaction.start)
        );
        let under_gtid = match (self.target.flavor, &transaction.gtid) {
            (Flavor::MySql, Some(gtid @ Gtid::MySql { .. })) => Some(gtid.to_string()),
            (Flavor::MySql, _) => {
                return Err(Error::Unsupported {
                    node: self.origin.node.to_string(),
                    position: self.origin.log_name.show(transaction.start),
                    what: format!("{:?}", definition.ddl.kind),
                    problem: "it has no GTID, without which it cannot be run exactly once: set \
                              gtid_mode=ON on both nodes, run the statement at the other node by \
                              hand, and go on behind it with `twinlog positions set`"
                        .to_owned(),
                });
            }
            (Flavor::MariaDb, _) => None,
        };
        let seen = transaction.seen.position;
        let outcome = self
            .run_in_session((definition, seen), under_gtid.as_deref(), rerun, &context)
            .await;
        if matches!(outcome, Err(Error::Connection { .. })) {
            return outcome;
        }
        // Whatever became of it, the connection is for rows again: a row transaction under a GTID
        // that was used would be passed over in silence.
        self.connection.execute("ROLLBACK", &context).await?;
        if under_gtid.is_some() {
            self.connection
                .execute("SET gtid_next = 'AUTOMATIC'", &context)
                .await?;
        }
        // It commits, which a GTID that was used does not bear.
        if definition.effect() == RowEffect::Emptied {
            self.connection.execute("UNLOCK TABLES", &context).await?;
        }
        for statement in session::apply_session(self.target.flavor, self.origin.server_id) {
            self.connection.execute(&statement, &context).await?;
        }
        self.foreign_key_checks = true;
        outcome.map_err(|error| self.definition_failed(transaction, error))
    }

    async fn run_in_session(
        &mut self,
        (definition, seen): (&Definition, LogPos),
        gtid: Option<&str>,
        rerun: bool,
        context: &str,
    ) -> Result<Defined> {
        for statement in session::ddl_session(&definition.statement, self.target.flavor) {
            self.connection.execute(&statement, context).await?;
        }
        if definition.effect() == RowEffect::Emptied
            && !self.hold_off_clients(definition, seen, context).await?
        {
            return Ok(Defined::Met);
        }
        if let Some(gtid) = gtid {
            self.connection
                .execute(format!("SET gtid_next = '{gtid}'"), context)
                .await?;
        }
        let statement = self.connection.execute(&definition.statement.sql, context);
        let outcome = failpoint::midway(Failpoint::DefinitionSent, statement).await;
        match (outcome, definition.error_code) {
            (Err(Error::Server { code, .. }), expected)
                if (expected != 0 && code == expected)
                    || ddl::tolerates(&definition.ddl, self.target.flavor, code, rerun) =>
            {
                tracing::debug!(
                    code,
                    context,
                    "what was to be dropped is gone, as at the origin"
                );
                Ok(Defined::Done)
            }
            (Err(error), _) => Err(error),
            // What it found to drop may be what it did not find at the origin.
            (Ok(_), expected) if expected != 0 && !rerun => Err(Error::Drift(format!(
                "{context}: it ended at its origin with error {expected}, and without one at node \
                 {}. Compare the nodes and make them alike, then start again",
                self.target.node
            ))),
            (Ok(_), _) => Ok(Defined::Done),
        }
    }

    /// Locks the tables that are to be emptied, so that no client writes them until they are, and looks
    /// once more. Says whether it is so that none wrote them unseen by the origin.
    async fn hold_off_clients(
        &mut self,
        definition: &Definition,
        seen: LogPos,
        context: &str,
    ) -> Result<bool> {
        for (database, table) in definition.tables() {
            let (database, table) = (quote_identifier(database), quote_identifier(table));
            let lock = format!("LOCK TABLES {database}.{table} WRITE");
            self.connection.execute(lock, context).await?;
        }
        self.tailer_at_end().await?;
        let tables = definition.tables();
        let mut hashes = tables
            .iter()
            .map(|(database, table)| TableHash::new(database, table));
        Ok(!hashes.any(|table| self.window.concurrent_table_write(table, seen).is_some()))
    }

    /// Adds the next step to the server's refusal of a DDL statement.
    fn definition_failed(&self, transaction: &Local, error: Error) -> Error {
        match error {
            Error::Server {
                node,
                context,
                code,
                message,
            } => Error::Server {
                node,
                context,
                code,
                message: format!(
                    "{message}. Make the table at node {} as it is at node {}, then {}",
                    self.target.node,
                    self.origin.node,
                    self.go_on_behind(transaction),
                ),
            },
            other => other,
        }
    }
}
