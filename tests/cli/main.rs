//! Tests of the program as people and scripts meet it: arguments, output, exit codes, signals.

// The setting for tests covers only functions marked as tests, not what they share; a panic is how
// any of them fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bench;
mod bench_own;
mod fault_table;
mod session;
mod usage;

use std::path::Path;
use std::process::{Command, Output};

/// The program, away from whatever surrounds the tests.
fn twinlog(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_twinlog"));
    command
        .current_dir(folder)
        .env_remove("TWINLOG_CONFIG")
        .env_remove("TWINLOG_LOG")
        .env_remove("RUST_BACKTRACE");
    command
}

/// What a finished run printed and how it ended.
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ended {
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.out, self.err))
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs the program to its end.
fn run(folder: &Path, arguments: &[&str]) -> Ended {
    twinlog(folder).args(arguments).output().unwrap().into()
}
