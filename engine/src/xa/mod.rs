//! XA in two phases: a log has the rows at XA PREPARE, and they take effect where it has XA COMMIT.
//!
//! What is prepared under a name at a place of a log is a function of the log in front of that place:
//! it is what the last group there says that names it. So nothing is kept for a restart. A reader
//! holds on to what it has seen prepared ([`Held`]); what it does not have, since it began to read
//! behind it or had no room, is looked for in the log ([`search`]) when it is decided. See
//! docs/decisions/0009-xa.md.
//!
//! It does not know what the rows mean, nor what becomes of the transaction.

mod held;
pub(crate) mod search;
pub(crate) mod watch;

pub use held::{Held, Kept};
pub use watch::{OLD, Undecided};
