//! The program from its command line to its exit code.

use std::process::ExitCode;

use clap::Parser as _;

use crate::arguments::Arguments;
use crate::output::Output;
use crate::{command, logging};

/// Reads the command line, runs one command, says how it went.
#[must_use]
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let output = Output::new(arguments.global.json);
    let outcome = logging::start(&arguments)
        .and_then(|()| {
            Ok(tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()?)
        })
        .and_then(|runtime| {
            let outcome = runtime.block_on(command::run(arguments, &output));
            // A task that hangs in a system call must not keep the program from ending.
            runtime.shutdown_background();
            outcome
        });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            output.error(&error);
            ExitCode::FAILURE
        }
    }
}
