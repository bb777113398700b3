//! Which writes were concurrent: found in the order of the two logs, never guessed from data.
//!
//! [`key`] names what a row claims (its row key and its unique values), [`window`] remembers what
//! this node's clients wrote that the peer has not seen, and [`detect`] compares the two.

pub mod detect;
pub mod key;
pub mod window;
