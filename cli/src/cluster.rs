//! Two throwaway masters joined by two engines in this process: what the demo, the benchmarks and
//! the real-server tests run against.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tempfile::TempDir;
use twinlog_engine::config::Config;
use twinlog_engine::replicator::{Engine, EngineHandle};
use twinlog_engine::status::{EngineStatus, State};
use twinlog_engine::{barrier, init};

use crate::compare::{Comparison, compare};
use crate::sandbox::{Server, ServerKind, ServerOptions};

/// Names of the nodes, in the order of everything that comes in pairs here.
pub const NODES: [&str; 2] = ["a", "b"];

/// Two servers, and the engines once they are joined. Dropping it ends all of them and removes
/// their files. The order of the fields is the order in which they end.
#[derive(Debug)]
pub struct Cluster {
    engines: Vec<EngineHandle>,
    /// The masters, in the order of [`NODES`].
    pub servers: [Server; 2],
    config: Arc<Config>,
    dir: Option<TempDir>,
}

impl Cluster {
    /// Starts two masters with empty databases. `settings` goes into the config file's
    /// `[replication]` section, `extra_args` to both servers.
    ///
    /// # Errors
    /// The servers'; or `settings` are not accepted.
    pub async fn start(
        kind: ServerKind,
        base: &Path,
        durable: bool,
        extra_args: &[String],
        settings: &str,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(base)
            .with_context(|| format!("cannot create {}", base.display()))?;
        let dir = tempfile::Builder::new()
            .prefix("twinlog-")
            .tempdir_in(base)
            .with_context(|| format!("cannot create a folder in {}", base.display()))?;
        let options = |index: u32| {
            let name = NODES[usize::from(index == 1)];
            let mut options = ServerOptions::node(name, index + 1, 2);
            options.durable = durable;
            options.extra_args = extra_args.to_vec();
            options
        };
        let (a, b) = tokio::join!(
            Server::start(kind, dir.path(), options(0)),
            Server::start(kind, dir.path(), options(1))
        );
        let servers = [a?, b?];
        let text = format!(
            "[engine]\ndata_dir = {:?}\n[replication]\n{settings}\n\
             [[node]]\nname = {:?}\nurl = {:?}\n[[node]]\nname = {:?}\nurl = {:?}\n",
            dir.path().join("engines"),
            NODES[0],
            servers[0].url(),
            NODES[1],
            servers[1].url(),
        );
        let config = Arc::new(Config::parse(&text, &|_| None)?);
        Ok(Self {
            engines: Vec::new(),
            servers,
            config,
            dir: Some(dir),
        })
    }

    /// Sets the replication up and starts an engine for each node. What was written before must be
    /// the same on both.
    ///
    /// # Errors
    /// The engine's.
    pub async fn join(&mut self) -> anyhow::Result<()> {
        init::init(&self.config, false).await?;
        for node in NODES {
            self.start_engine(node).await?;
        }
        Ok(())
    }

    /// Starts the engine of one node.
    ///
    /// # Errors
    /// The engine's.
    pub async fn start_engine(&mut self, node: &str) -> anyhow::Result<()> {
        let engine = Engine::start(Arc::clone(&self.config), node)
            .await
            .with_context(|| format!("cannot start the engine of node {node}"))?;
        self.engines.push(engine);
        Ok(())
    }

    /// Stops the engine of one node in order.
    pub async fn stop_engine(&mut self, node: &str) {
        if let Some(at) = self.engines.iter().position(|engine| engine.node() == node) {
            self.engines.swap_remove(at).shutdown().await;
        }
    }

    /// Ends the engine of one node at once, whatever it has in hand.
    pub fn drop_engine(&mut self, node: &str) {
        self.engines.retain(|engine| engine.node() != node);
    }

    /// Stops all engines in order.
    pub async fn stop_engines(&mut self) {
        for engine in self.engines.drain(..) {
            engine.shutdown().await;
        }
    }

    /// The cluster's config.
    #[must_use]
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// How the running engines stand.
    #[must_use]
    pub fn status(&self) -> Vec<EngineStatus> {
        self.engines.iter().map(EngineHandle::status).collect()
    }

    /// What stopped a link or tailer for good, if anything did.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.status().iter().find_map(trouble)
    }

    /// Returns when everything that was committed before the call is applied on both nodes.
    ///
    /// # Errors
    /// Not within `timeout`, or a link has stopped for good: then it says why at once.
    pub async fn drain(&self, timeout: Duration) -> anyhow::Result<()> {
        let halted = async {
            loop {
                if let Some(trouble) = self.trouble() {
                    return trouble;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            outstanding = barrier::wait(&self.config, Some(timeout)) => {
                let outstanding = outstanding?;
                if outstanding.is_empty() {
                    return Ok(());
                }
                let links: Vec<String> = outstanding
                    .iter()
                    .map(|link| format!("{} -> {}", link.origin, link.target))
                    .collect();
                bail!("not drained within {timeout:?}: {}", links.join(", "))
            }
            trouble = halted => bail!(trouble),
        }
    }

    /// Compares all replicated tables of the two masters.
    ///
    /// # Errors
    /// The servers'.
    pub async fn compare(&self) -> anyhow::Result<Comparison> {
        let config = Arc::clone(&self.config);
        compare(
            (NODES[0], self.servers[0].opts()),
            (NODES[1], self.servers[1].opts()),
            &move |database| config.replication.includes(database, &config.engine.schema),
        )
        .await
    }
}

/// What stopped a part of this engine for good.
fn trouble(engine: &EngineStatus) -> Option<String> {
    let why = |error: &Option<String>| error.clone().unwrap_or_default();
    if engine.tailer.state == State::Halted {
        return Some(format!(
            "the tailer of node {} is halted: {}",
            engine.node,
            why(&engine.tailer.last_error)
        ));
    }
    engine
        .links
        .iter()
        .find(|link| link.state == State::Halted)
        .map(|link| {
            format!(
                "link {} -> {} is halted: {}",
                link.origin,
                link.target,
                why(&link.last_error)
            )
        })
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The servers keep their own folders then, which lie in this one.
        if std::env::var_os("TWINLOG_KEEP").is_some_and(|keep| keep == "1")
            && let Some(dir) = self.dir.take()
        {
            let kept = dir.keep();
            tracing::info!(folder = %kept.display(), "kept, because TWINLOG_KEEP is 1");
        }
    }
}
