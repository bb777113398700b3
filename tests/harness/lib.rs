//! What the real-server tests share: a pair of masters, their engines, and what must hold of them.

// The setting for tests covers only functions marked as tests; a panic is how any of this fails.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc
)]

pub mod cluster;
pub mod image;
pub mod ledger;
pub mod pair;
pub mod proxy;

pub use cluster::{Cluster, ClusterOptions};
pub use pair::{Pair, PairOptions};
