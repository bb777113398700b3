//! The `twinlog` program.

use std::process::ExitCode;

/// The values of rows are many and small, come by the thread that reads and go by the one that applies.
/// glibc's allocator takes a quarter of the engine's processor time for that; see `benches/runs`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    twinlog_cli::program::run()
}
