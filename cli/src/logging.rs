//! The log on standard error.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use crate::arguments::{Arguments, Command, LogFormat};

/// Starts logging as the command line wants it.
pub(crate) fn start(arguments: &Arguments) -> anyhow::Result<()> {
    let global = &arguments.global;
    // Commands that print facts say what they have to say there; an engine has only its log.
    let runs = matches!(arguments.command, Command::Run(_));
    let own = match (global.quiet, global.verbose, runs) {
        (true, ..) => "error",
        (false, 0, false) => "warn",
        (false, 0, true) => "info",
        (false, 1, _) => "debug",
        (false, ..) => "trace",
    };
    let others = if global.verbose > 2 { "debug" } else { "warn" };
    let levels = global.log_filter.clone().unwrap_or_else(|| {
        format!("{others},twinlog={own},twinlog_cli={own},twinlog_engine={own}")
    });
    let filter = EnvFilter::try_new(&levels).with_context(|| {
        format!("--log-filter {levels:?} cannot be read; write such as info,twinlog_engine=debug")
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match global.log_format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Human => builder
            .with_ansi(std::io::stderr().is_terminal() && !no_color())
            .init(),
    }
    Ok(())
}

/// Whether the user wants no colours (no-color.org).
pub(crate) fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}
