//! The commands of the program, one file each.

pub(crate) mod bench;
mod check;
mod completions;
mod conflicts;
pub mod demo;
mod init;
mod positions;
mod run;
mod status;
mod verify;
mod wait;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use twinlog_engine::config::Config;

use crate::arguments::{Arguments, Command, Conflicts, Positions};
use crate::output::Output;

/// Where the config file is looked for when nobody says.
const PLACES: [&str; 2] = ["twinlog.toml", "/etc/twinlog/twinlog.toml"];

/// Runs the command.
pub(crate) async fn run(arguments: Arguments, output: &Output) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Completions(completions) => return completions::run(&completions, output),
        Command::Demo(mut demo) => {
            demo.json |= output.is_json();
            return demo::run(demo).await;
        }
        Command::Bench(bench) => {
            let config = arguments.global.config.as_deref();
            return bench::run(bench, config, output).await;
        }
        _ => {}
    }
    let config = load(arguments.global.config.as_deref())?;
    if !matches!(arguments.command, Command::Check(_)) {
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
    }
    match arguments.command {
        Command::Check(arguments) => check::run(&config, &arguments, output).await,
        Command::Init(arguments) => init::run(&config, &arguments, output).await,
        Command::Run(arguments) => run::run(config, &arguments).await,
        Command::Wait(arguments) => wait::run(&config, &arguments, output).await,
        Command::Status(arguments) => status::run(&config, &arguments, output).await,
        Command::Positions(Positions::Show) => positions::show(&config, output).await,
        Command::Positions(Positions::Set(arguments)) => {
            positions::set(&config, &arguments, output).await
        }
        Command::Conflicts(Conflicts::List(arguments)) => {
            conflicts::list(&config, &arguments, output).await
        }
        Command::Conflicts(Conflicts::Show(arguments)) => {
            conflicts::show(&config, &arguments, output).await
        }
        Command::Conflicts(Conflicts::Flip(arguments)) => {
            conflicts::flip(&config, &arguments, output).await
        }
        Command::Verify(arguments) => verify::run(&config, &arguments, output).await,
        Command::Completions(_) | Command::Demo(_) | Command::Bench(_) => Ok(ExitCode::SUCCESS),
    }
}

fn load(given: Option<&Path>) -> anyhow::Result<Config> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => match PLACES.iter().map(PathBuf::from).find(|path| path.exists()) {
            Some(path) => path,
            None => bail!(
                "there is no config file: neither {}; name one with --config FILE or TWINLOG_CONFIG",
                PLACES.join(" nor ")
            ),
        },
    };
    Config::load(&path).context("the config file is not accepted")
}

/// The exit code of a command that may find that something is not as it should be.
fn code(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
