//! Which writes were concurrent: found in the order of the two logs, never guessed from data.
//!
//! [`key`] names what a row claims (its row key and its unique values), [`claim`] says which of them
//! a change takes, [`window`] remembers what this node's clients wrote that the peer has not seen,
//! [`detect`] compares the two, and [`resolve`] settles by a [`policy`] what was met.

mod chain;
pub mod claim;
mod claims;
mod cold;
pub mod collation;
pub mod detect;
pub mod family;
pub mod history;
pub mod journal;
pub mod kept;
pub mod key;
pub mod ledger;
pub mod merge;
pub mod policy;
pub mod resolve;
pub mod rules;
pub mod window;
