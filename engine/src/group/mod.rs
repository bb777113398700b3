//! Several origin transactions that become visible at the target together, in one commit
//! (INV-PREFIX allows that), and how their changes become few statements.

mod gather;
mod plan;

pub use gather::{Batch, Gatherer, Item, Limits};
pub use plan::{Step, coalesced, one_by_one};
