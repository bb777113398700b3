//! The twinlog program as a library: what the binary and the real-server tests share.

pub mod sandbox;
pub mod workload;
