//! Several origin transactions that become visible at the target together, in one commit
//! (INV-PREFIX allows that), and how their changes become few statements.

mod gather;
mod levels;
mod plan;
mod segment;
mod split;
#[cfg(test)]
mod tests;

pub use gather::{Batch, Gatherer, Item, Limits};
pub use plan::{Changed, Mapped, Step, coalesced, one_by_one};
pub use split::KeySet;
pub(crate) use split::{key_set, split};
