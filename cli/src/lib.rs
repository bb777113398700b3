//! The twinlog program as a library: what the binary and the real-server tests share.

pub mod cluster;
pub mod command;
pub mod compare;
pub mod sandbox;
pub mod workload;
