//! Policies: which of two concurrent claims of one key wins.
//!
//! A policy converges when its verdicts are one total order over all claims of a key that extends
//! causality (what saw another write comes behind it). Then "every key belongs to its highest
//! claim" is a function of the set of writes, whatever order they arrive in. A policy for which
//! that cannot be shown is not offered; keep-local and take-remote on both sides are not.

use serde::{Deserialize, Serialize};

/// How concurrent writes of a table are settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// The higher (effective timestamp, node) wins.
    ///
    /// Converges: the pair is a total order, and effective timestamps extend causality
    /// ([`crate::clock`]).
    #[default]
    LastWriteWins,
    /// Among concurrent writes that of the node which stands first wins; a write that saw the other
    /// still wins over it.
    ///
    /// Converges with two nodes: put each write `b` of the lower node right behind the last write
    /// of the higher node that it saw. That is a total order: what a later `b` saw includes what an
    /// earlier one saw, so the lower node's own order is kept too. With three nodes "lower" is not
    /// enough to say where a write goes, and this must be shown anew.
    NodePriority,
    /// Nothing is settled: the link stops. Converges as nothing is written.
    Halt,
}

/// Which of the link's two nodes stands first in the order of nodes. The first one wins ties of
/// [`Policy::LastWriteWins`] and all of [`Policy::NodePriority`]. Both engines must hold the same
/// order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeOrder {
    /// The node whose transaction arrives.
    OriginFirst,
    /// The node that it arrives at.
    TargetFirst,
}

/// Whose claim wins, as seen from the target of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Winner {
    /// The write of the target's own client.
    Local,
    /// The write that arrives.
    Remote,
}

impl Policy {
    /// As the config file has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LastWriteWins => "last_write_wins",
            Self::NodePriority => "node_priority",
            Self::Halt => "halt",
        }
    }

    /// The winner of two concurrent claims of one key, by their effective timestamps. `None` where
    /// the policy settles nothing.
    #[must_use]
    pub fn winner(self, order: NodeOrder, remote: u64, local: u64) -> Option<Winner> {
        let first = match order {
            NodeOrder::OriginFirst => Winner::Remote,
            NodeOrder::TargetFirst => Winner::Local,
        };
        match self {
            Policy::LastWriteWins => Some(match remote.cmp(&local) {
                std::cmp::Ordering::Greater => Winner::Remote,
                std::cmp::Ordering::Less => Winner::Local,
                std::cmp::Ordering::Equal => first,
            }),
            Policy::NodePriority => Some(first),
            Policy::Halt => None,
        }
    }
}
