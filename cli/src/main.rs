//! The `twinlog` program.

use std::process::ExitCode;

/// Rows are many small values, made on one thread and dropped on another; see benches/runs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    twinlog_cli::program::run()
}
