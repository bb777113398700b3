//! What is said when a transaction cannot be applied: where it stands, why, and what to do.

use super::applier::Applier;
use super::execute::Failure;
use crate::conflict::journal::{Entry, ImageSql, JournalWinner};
use crate::conflict::policy::Policy;
use crate::conflict::resolve::ConflictKind;
use crate::connection::Identity;
use crate::error::Error;
use crate::transaction::Local;

/// The note of an entry whose conflict is not settled.
pub(super) const UNSETTLED: &str = "not settled: the link halts in front of it";

impl Applier {
    /// The next step of a person who has made a transaction's effect good by hand.
    pub(super) fn go_on_behind(&self, transaction: &Local) -> String {
        format!(
            "stop both engines and go on behind it with `twinlog positions set --origin {} --target \
             {} {}`",
            self.origin.node,
            self.target.node,
            self.origin.log_name.show(transaction.end)
        )
    }

    /// What the journal says of a transaction that is not settled, as far as it is about a table and
    /// no row of it is known.
    pub(super) fn unsettled(
        &self,
        transaction: &Local,
        kind: &'static str,
        (database, table): (&str, &str),
        policy: &str,
    ) -> Entry {
        let nobody = JournalWinner::Nobody;
        Entry {
            note: UNSETTLED,
            ..self.entry_about(transaction, kind, (database, table), policy, nobody)
        }
    }

    /// What every entry says of the transaction that arrived, without a row.
    pub(super) fn entry_about(
        &self,
        transaction: &Local,
        kind: &'static str,
        (database, table): (&str, &str),
        policy: &str,
        winner: JournalWinner,
    ) -> Entry {
        let winner_node = match winner {
            JournalWinner::Local => self.target.node.as_ref(),
            JournalWinner::Remote => self.origin.node.as_ref(),
            JournalWinner::Merged | JournalWinner::Nobody => "",
        };
        let gtid = transaction.gtid.as_ref();
        Entry {
            origin: self.origin.node.to_string(),
            database: database.to_owned(),
            table: table.to_owned(),
            kind,
            policy: policy.to_owned(),
            winner,
            winner_node: winner_node.to_owned(),
            columns: "[]".to_owned(),
            key_columns: "[]".to_owned(),
            local_position: None,
            local_effective: None,
            origin_position: self.origin.log_name.show(transaction.start),
            origin_gtid: gtid.map(ToString::to_string).unwrap_or_default(),
            origin_effective: transaction.effective,
            local_image: ImageSql::None,
            before_image: ImageSql::None,
            after_image: ImageSql::None,
            result_image: ImageSql::None,
            met: "[]".to_owned(),
            note: "",
        }
    }

    fn orphan(&self, transaction: &Local, table: &str, message: String) -> Error {
        let named = table.split_once('.').unwrap_or(("", table));
        let kind = ConflictKind::ForeignKey.as_str();
        let entry = self.unsettled(transaction, kind, named, Policy::Halt.as_str());
        Error::Conflict {
            message,
            entry: Some(Box::new(entry)),
        }
    }

    pub(super) fn unfit(&self, transaction: &Local, failure: Failure) -> Error {
        let position = self.origin.log_name.show(transaction.start);
        let next = format!(
            "Compare the row on both nodes and repair node {}; to leave the transaction out instead, \
             {}",
            self.target.node,
            self.go_on_behind(transaction)
        );
        match failure {
            Failure::Error(error) => at_position(&self.origin, error, transaction),
            Failure::MarkerMoved => Error::Internal("a moved marker is no row's fault".to_owned()),
            Failure::Columns { table } => Error::Schema {
                problem: format!(
                    "its columns at node {} change while they are looked at; start the engine again",
                    self.target.node
                ),
                table,
            },
            Failure::Settings { table } => Error::Internal(format!(
                "rows of {table} were not tried another way than as row events"
            )),
            Failure::Missing { table, action } => Error::Drift(format!(
                "{action} on {table} (node {}, {position}) does not find its row at node {}, though \
                 nobody there wrote it concurrently: the nodes had drifted apart before. {next}",
                self.origin.node, self.target.node
            )),
            Failure::Orphan {
                table,
                constraint,
                parent,
            } => self.orphan(transaction, &table, format!(
                "{table} (node {}, {position}): a row of {table} at node {} would be left without \
                 its parent in {parent} (foreign key {constraint}): one node wrote the child, the \
                 other removed the parent. {next}",
                self.origin.node, self.target.node
            )),
            Failure::Refused {
                table,
                code,
                message,
            } => {
                let text = format!(
                    "{table} (node {}, {position}): node {} refuses the row: {message} (error \
                     {code}). {next}",
                    self.origin.node, self.target.node
                );
                match code {
                    1216 | 1217 | 1451 | 1452 => {
                        let text = format!(
                            "{text}. A foreign key: one node wrote the child, the other removed the \
                             parent"
                        );
                        self.orphan(transaction, &table, text)
                    }
                    1054 | 1105 | 1136 | 1146 => Error::Schema {
                        table,
                        problem: text,
                    },
                    _ => Error::Drift(text),
                }
            }
        }
    }
}

/// Adds origin and position to an error that does not know them.
pub(super) fn at_position(origin: &Identity, error: Error, transaction: &Local) -> Error {
    match error {
        Error::Unsupported {
            what,
            problem,
            position,
            ..
        } if position.is_empty() => Error::Unsupported {
            node: origin.node.to_string(),
            position: origin.log_name.show(transaction.start),
            what,
            problem,
        },
        other => other,
    }
}
