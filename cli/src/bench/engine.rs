//! An engine as a process of its own, so that its processor time and memory are its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use twinlog_engine::config::{Config, NodeConfig};
use twinlog_engine::status::{EngineStatus, State};

use crate::sandbox::process::{mortal, spawn_logged, tail};
use crate::status_client;

/// Longest wait for an engine to answer, and for one to end when told to.
const DEADLINE: Duration = Duration::from_secs(60);
/// Between two questions.
const POLL: Duration = Duration::from_millis(50);
/// How much of the end of its log a failure shows, in bytes.
const LOG_TAIL: usize = 4096;

/// `twinlog run --node ..`. Dropping it kills it.
#[derive(Debug)]
pub struct EngineProcess {
    child: Child,
    node: NodeConfig,
    log: PathBuf,
}

impl EngineProcess {
    /// Starts the engine of a node, whose config must have a `listen` address. Its log goes into
    /// `folder`. Does not wait for it.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn start(
        config: &Config,
        config_file: &Path,
        node: &str,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot tell where this program lies")?;
        let log = folder.join(format!("engine-{node}.log"));
        let mut command = mortal(&program);
        command
            .args(["run", "--skip-check", "--node", node, "--config"])
            .arg(config_file)
            .env_remove("TWINLOG_LOG")
            .env_remove("TWINLOG_CONFIG");
        let file =
            File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let child = spawn_logged(command, Some(file))
            .with_context(|| format!("cannot start an engine for node {node}"))?;
        Ok(Self {
            child,
            node: config.node(node)?.clone(),
            log,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it tells about itself.
    ///
    /// # Errors
    /// It does not answer (yet).
    pub async fn status(&self) -> anyhow::Result<EngineStatus> {
        status_client::status(&self.node).await
    }

    /// Says why it will not go on, if so. An engine that does not answer yet is no trouble.
    ///
    /// # Errors
    /// The process has ended (with the end of its log), or its link or tailer is halted.
    pub async fn check(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!(
                "the engine of node {} has ended ({status}); its log ends with:\n{}",
                self.node.name,
                tail(&self.log, 0, LOG_TAIL)
            );
        }
        let Ok(status) = self.status().await else {
            return Ok(());
        };
        let halted = |state: State, error: &Option<String>| {
            (state == State::Halted).then(|| error.clone().unwrap_or_default())
        };
        let link = status
            .links
            .iter()
            .find_map(|link| halted(link.state, &link.last_error));
        match link.or_else(|| halted(status.tailer.state, &status.tailer.last_error)) {
            Some(why) => bail!("the engine of node {} is halted: {why}", self.node.name),
            None => Ok(()),
        }
    }

    /// Waits until its link runs and has nothing to do.
    ///
    /// # Errors
    /// As [`Self::check`]; not within a minute.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            self.check().await?;
            if let Ok(status) = self.status().await
                && !status.links.is_empty()
                && status
                    .links
                    .iter()
                    .all(|link| link.state == State::Streaming)
            {
                return Ok(());
            }
            if begun.elapsed() > DEADLINE {
                bail!(
                    "the engine of node {} is not ready after {DEADLINE:?}; its log ends with:\n{}",
                    self.node.name,
                    tail(&self.log, 0, LOG_TAIL)
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Ends it in order.
    pub async fn stop(mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // An error means that it has ended, which the next loop finds out as well.
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let begun = Instant::now();
        while begun.elapsed() < DEADLINE && matches!(self.child.try_wait(), Ok(None)) {
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for EngineProcess {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
