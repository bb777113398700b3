//! The `twinlog` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    twinlog_cli::program::run()
}
