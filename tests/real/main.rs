//! Tests against real servers. They need what `tests/servers/fetch` gets; without it they fail
//! rather than skip.

// The setting for tests covers only functions marked as tests, not what they share; a panic is how
// any of them fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod check;
mod compare;
mod ddl_recognition;
mod definition;
mod demo;
mod fidelity;
mod foreign_keys;
mod recovery;
mod sandbox;
mod spine;
mod stopping;
mod sysbench;
mod workload;
