//! Writing transactions to the target.

pub mod session;
