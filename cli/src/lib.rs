//! The twinlog program as a library: what the binary and the real-server tests share.

mod arguments;
pub mod bench;
pub mod cluster;
pub mod command;
pub mod compare;
mod logging;
mod output;
pub mod program;
pub mod sandbox;
mod status_client;
pub mod workload;
