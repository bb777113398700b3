//! `twinlog run`: the engines, until a signal ends them.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use twinlog_engine::Disposition;
use twinlog_engine::config::Config;
use twinlog_engine::failpoint;
use twinlog_engine::preflight::{self, Level};
use twinlog_engine::replicator::{Engine, EngineHandle};
use twinlog_engine::status::{LinkStatus, State};

use crate::arguments::Run;

/// As shells report a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;
/// How often the engines are asked whether they still run.
const WATCH: Duration = Duration::from_secs(1);

pub(super) async fn run(config: Config, arguments: &Run) -> anyhow::Result<ExitCode> {
    if let Some(armed) = std::env::var_os(failpoint::VARIABLE) {
        let armed = armed.to_string_lossy();
        failpoint::arm(&armed).map_err(anyhow::Error::msg)?;
        tracing::warn!(failpoint = %armed, "this engine is to die at a failpoint: a test");
    }
    let mut signals = Signals::listen()?;
    let mut names: Vec<String> = arguments.node.clone();
    if names.is_empty() {
        names = config.nodes.iter().map(|node| node.name.clone()).collect();
    }
    names.dedup();
    let config = Arc::new(config.shared_by(names.len()));
    for name in &names {
        config.node(name)?;
    }
    if !arguments.skip_check {
        tokio::select! {
            () = look(&config, &names) => {}
            () = signals.next() => return Ok(ExitCode::SUCCESS),
        }
    }

    let mut engines = Vec::new();
    for name in &names {
        let started = tokio::select! {
            started = start(&config, name) => Some(started),
            () = signals.next() => None,
        };
        match started {
            Some(Ok(engine)) => engines.push(engine),
            Some(Err(error)) => {
                shut_down(engines, &mut signals).await;
                return Err(error);
            }
            None => return Ok(shut_down(engines, &mut signals).await),
        }
    }
    tracing::info!(nodes = names.join(", "), "running; Ctrl-C or SIGTERM stops");

    let stopped = tokio::select! {
        () = signals.next() => None,
        trouble = first_to_stop(&engines) => Some(trouble),
    };
    let code = shut_down(engines, &mut signals).await;
    match stopped {
        Some(trouble) => bail!("{trouble}"),
        None => Ok(code),
    }
}

/// Looks at the nodes and logs what is not as it should be. It does not forbid the start: what
/// really stands in the way stops the link with a message of its own, and a node that is away now
/// may be back in a moment.
async fn look(config: &Config, names: &[String]) {
    for name in names {
        let Ok(node) = config.node(name) else {
            continue;
        };
        for finding in preflight::check_node(config, node).await {
            let remedy = finding.remedy.as_deref().unwrap_or_default();
            match finding.level {
                Level::Pass => {}
                Level::Warn => {
                    tracing::warn!(
                        node = name,
                        remedy,
                        "{}: {}",
                        finding.subject,
                        finding.message
                    );
                }
                Level::Fail => {
                    tracing::error!(
                        node = name,
                        remedy,
                        "{}: {}",
                        finding.subject,
                        finding.message
                    );
                }
            }
        }
    }
}

/// Starts an engine. A server that is not up yet, as when both start with the machine, is waited
/// for.
async fn start(config: &Arc<Config>, node: &str) -> anyhow::Result<EngineHandle> {
    let (mut pause, longest) = config.engine.backoff;
    loop {
        match Engine::start(Arc::clone(config), node).await {
            Ok(engine) => return Ok(engine),
            Err(error) if error.disposition() == Disposition::Retry => {
                tracing::warn!(node, %error, "cannot start yet, trying again in {pause:?}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(longest);
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot run the engine of node {node}"));
            }
        }
    }
}

/// How the message of [`twinlog_engine::Error::Fenced`] begins.
const FENCED: &str = "fenced: ";

/// Returns when an engine has stopped by itself because another one has its node, with what it
/// says. Any other halt stays to be looked at.
async fn first_to_stop(engines: &[EngineHandle]) -> String {
    loop {
        tokio::time::sleep(WATCH).await;
        for status in engines.iter().map(EngineHandle::status) {
            let gone = |link: &LinkStatus| match link.state {
                State::Stopped => true,
                State::Halted => link
                    .last_error
                    .as_ref()
                    .is_some_and(|error| error.starts_with(FENCED)),
                _ => false,
            };
            let stopped = !status.links.is_empty() && status.links.iter().all(gone);
            if stopped {
                let why = status
                    .links
                    .iter()
                    .find_map(|link| link.last_error.clone())
                    .unwrap_or_else(|| "another engine has taken the node over".to_owned());
                return format!("the engine of node {} has stopped: {why}", status.node);
            }
        }
    }
}

/// Stops all engines cleanly; a signal meanwhile ends it at once.
async fn shut_down(engines: Vec<EngineHandle>, signals: &mut Signals) -> ExitCode {
    if engines.is_empty() {
        return ExitCode::SUCCESS;
    }
    tracing::info!("stopping; once more to stop at once");
    let mut stopping = tokio::task::JoinSet::new();
    for engine in engines {
        stopping.spawn(engine.shutdown());
    }
    tokio::select! {
        _ = stopping.join_all() => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        () = signals.next() => {
            tracing::warn!("stopped at once; what was in hand is rolled back by the servers");
            ExitCode::from(INTERRUPTED)
        }
    }
}

/// Ctrl-C and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?,
            terminate: signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
