//! What is said when a transaction cannot be applied: where it stands, why, and what to do.

use super::applier::Applier;
use super::execute::Failure;
use crate::connection::Identity;
use crate::error::Error;
use crate::transaction::Local;

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
            Failure::Missing { table, action } => Error::Drift(format!(
                "{action} on {table} (node {}, {position}) does not find its row at node {}, though \
                 nobody there wrote it concurrently: the nodes had drifted apart before. {next}",
                self.origin.node, self.target.node
            )),
            Failure::Orphan {
                table,
                constraint,
                parent,
            } => Error::Conflict(format!(
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
                    1216 | 1217 | 1451 | 1452 => Error::Conflict(format!(
                        "{text}. A foreign key: one node wrote the child, the other removed the \
                         parent"
                    )),
                    1054 | 1136 | 1146 => Error::Schema {
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
        Error::Unsupported { what, problem, .. } => Error::Unsupported {
            node: origin.node.to_string(),
            position: origin.log_name.show(transaction.start),
            what,
            problem,
        },
        other => other,
    }
}
