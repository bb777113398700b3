//! Detection: is a foreign write concurrent with something that was written here?

use super::key::KeyHash;
use super::window::Window;
use crate::position::LogPos;

/// The first transaction of a group that meets a concurrent local write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meeting {
    /// Which transaction of the group, from 0.
    pub transaction: usize,
    /// Which of its changes, from 0.
    pub change: usize,
    /// End of the local transaction that it meets, in the target's log.
    pub local: LogPos,
}

/// One key that a change of a group claims or leaves.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// Which transaction of the group.
    pub transaction: usize,
    /// Which of its changes.
    pub change: usize,
    /// The key.
    pub key: KeyHash,
    /// What the transaction had seen of this node's log.
    pub seen: LogPos,
}

/// Looks for the first claim that was also written here without the origin having seen it.
///
/// Exact by log order (design section 3): a local write `b` of a key is concurrent with a foreign
/// write `a` exactly when `b` lies behind what the origin had applied of this log before `a`.
/// The keys that a foreign write only leaves have to be among `claims` too: a local claim of one
/// may have taken away the row that it changes.
#[must_use]
pub fn first_meeting(claims: &[Claim], window: &Window) -> Option<Meeting> {
    if window.is_empty() {
        return None;
    }
    claims.iter().find_map(|claim| {
        window
            .concurrent_write(claim.key, claim.seen)
            .map(|local| Meeting {
                transaction: claim.transaction,
                change: claim.change,
                local: local.position,
            })
    })
}
