//! Policies: which of two concurrent claims of one key wins.
//!
//! A policy converges when its verdicts are one total order over all claims of a key that extends
//! causality (what saw another write comes behind it). Then "every key belongs to its highest
//! claim" is a function of the set of writes, whatever order they arrive in. A policy for which
//! that cannot be shown is not offered; keep-local and take-remote on both sides are not.

use std::cmp::{Ordering, Reverse};

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
    /// Converges: give each write, for every node in their order, the last write of that node which
    /// it had seen (itself, for its own), and compare these lists from the front. What saw another
    /// write has nothing lower in its list and something higher, so the order extends causality; two
    /// writes with one list are one write, so it is total. Where two are concurrent and neither saw
    /// more of the nodes in front of both, the list says that the front one's wins. With two nodes
    /// nobody stands in front of both.
    NodePriority,
    /// Nothing is settled: the link stops. Converges as nothing is written.
    Halt,
}

/// Where a write stands among all writes of a cluster: what every node knows of it alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing<'s> {
    /// Effective timestamp of its transaction, microseconds since 1970; see [`crate::clock`].
    pub effective: u64,
    /// Place of its node in the order of nodes, from 0. The first one wins ties of
    /// [`Policy::LastWriteWins`] and all of [`Policy::NodePriority`]. All engines must hold the same
    /// order.
    pub place: u8,
    /// Of the nodes in front of its own, in their order: effective timestamp of the last write of
    /// each that it had seen; what is missing counts as 0. It is needed only with three nodes and
    /// more.
    pub seen: &'s [u64],
}

/// Whose claim wins, as seen from the target of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Winner {
    /// The write that is known at the target: its own client's, or with three nodes a third one's.
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

    /// The order of two writes, of which neither need have seen the other; [`Ordering::Greater`]
    /// where `one` wins. `None` where the policy settles nothing.
    #[must_use]
    pub fn compare(self, one: &Standing<'_>, other: &Standing<'_>) -> Option<Ordering> {
        match self {
            Policy::LastWriteWins => Some(
                (one.effective, Reverse(one.place)).cmp(&(other.effective, Reverse(other.place))),
            ),
            Policy::NodePriority => Some(by_priority(one, other)),
            Policy::Halt => None,
        }
    }
}

fn by_priority(one: &Standing<'_>, other: &Standing<'_>) -> Ordering {
    let front = usize::from(one.place.min(other.place));
    let seen = |of: &Standing<'_>, place: usize| of.seen.get(place).copied().unwrap_or(0);
    for place in 0..front {
        let by_what_was_seen = seen(one, place).cmp(&seen(other, place));
        if by_what_was_seen.is_ne() {
            return by_what_was_seen;
        }
    }
    match one.place.cmp(&other.place) {
        // Its own writes rise in its log.
        Ordering::Equal => one.effective.cmp(&other.effective),
        Ordering::Less if seen(other, front) >= one.effective => Ordering::Less,
        Ordering::Less => Ordering::Greater,
        Ordering::Greater if seen(one, front) >= other.effective => Ordering::Greater,
        Ordering::Greater => Ordering::Less,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(place: u8, effective: u64, seen: &[u64]) -> Standing<'_> {
        Standing {
            effective,
            place,
            seen,
        }
    }

    #[test]
    fn the_first_node_wins_whatever_the_time() {
        let policy = Policy::NodePriority;
        let (a, b) = (standing(0, 5, &[]), standing(1, 90, &[]));
        assert_eq!(policy.compare(&a, &b), Some(Ordering::Greater));
        assert_eq!(policy.compare(&b, &a), Some(Ordering::Less));
        let saw = standing(1, 90, &[5]);
        assert_eq!(policy.compare(&saw, &a), Some(Ordering::Greater));
    }

    /// Pairwise "the node in front wins" would go round: c saw a, a is in front of b, b in front of c.
    #[test]
    fn three_nodes_do_not_go_round() {
        let (a, b, c) = (
            standing(0, 5, &[]),
            standing(1, 90, &[0]),
            standing(2, 7, &[5, 0]),
        );
        let higher =
            |one, other| Policy::NodePriority.compare(one, other) == Some(Ordering::Greater);
        assert!(higher(&c, &a) && higher(&a, &b) && higher(&c, &b));
    }

    #[test]
    fn ties_go_to_the_node_that_stands_first() {
        let (first, tied, later) = (
            standing(0, 5, &[]),
            standing(1, 5, &[]),
            standing(1, 6, &[]),
        );
        let higher =
            |one, other| Policy::LastWriteWins.compare(one, other) == Some(Ordering::Greater);
        assert!(higher(&first, &tied) && higher(&later, &first));
    }
}
