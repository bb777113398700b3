//! The `twinlog` program: reads the command line, runs one command, says how it went.

mod arguments;
mod command;
mod logging;
mod output;
mod status_client;

use std::process::ExitCode;

use clap::Parser as _;

use arguments::Arguments;
use output::Output;

fn main() -> ExitCode {
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
