//! Two masters that replicate from each other while clients write: by engines, by the servers' own
//! replication, or not at all.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use serde::Serialize;
use tempfile::TempDir;
use twinlog_engine::config::Config;
use twinlog_engine::init;

use super::arena::{self, ArenaOptions};
use super::engine::EngineProcess;
use super::load::LoadOptions;
use super::machine::{cpu_seconds, peak_memory_bytes};
use super::native;
use super::progress::Progress;
use crate::cluster::NODES;
use crate::sandbox::Server;

/// The row of table `probe` that `bench lag` writes; the others are of nodes a and b.
pub const PROBE: u32 = 3;
/// How often the nodes are asked whether they have everything.
const POLL: Duration = Duration::from_millis(10);

/// What joins the masters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Joint {
    /// Nothing: two masters that know nothing of each other.
    Off,
    /// An engine for each, in a process of its own.
    Twinlog,
    /// The servers' own replication both ways, with this many workers at each.
    Native(u32),
}

impl Joint {
    /// For tables.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Joint::Off => "no replication".to_owned(),
            Joint::Twinlog => "twinlog".to_owned(),
            Joint::Native(1) => "native, 1 worker".to_owned(),
            Joint::Native(workers) => format!("native, {workers} workers"),
        }
    }
}

/// Two stopped masters with the load's tables, to make copies of.
#[derive(Debug)]
pub struct Masters {
    options: ArenaOptions,
    database: String,
    stopped: [Server; 2],
    folder: TempDir,
}

impl Masters {
    /// Fills two servers with the load's tables and rows, and stops them.
    ///
    /// # Errors
    /// The servers'.
    pub async fn prepare(
        options: &ArenaOptions,
        load: &LoadOptions,
        base: Option<&Path>,
        progress: &Progress,
    ) -> anyhow::Result<Self> {
        progress.step(&format!(
            "filling two durable {} servers: {} tables x {} rows on each",
            options.kind, load.tables, load.rows
        ));
        let folder = arena::folder(base)?;
        let mut stopped = arena::fresh(options, load, folder.path()).await?;
        for server in &mut stopped {
            let table = format!("`{}`.probe", load.database);
            let row = "(id INT PRIMARY KEY, seq BIGINT NOT NULL) ENGINE=InnoDB";
            server
                .query_drop(&format!(
                    "SET SESSION sql_log_bin = 0; CREATE TABLE {table} {row}; \
                     INSERT INTO {table} VALUES (1, 0), (2, 0), ({PROBE}, 0)"
                ))
                .await?;
            server.stop().await;
        }
        Ok(Self {
            options: options.clone(),
            database: load.database.clone(),
            stopped,
            folder,
        })
    }

    /// The servers' version.
    #[must_use]
    pub fn version(&self) -> &str {
        self.stopped[0].version()
    }

    /// Starts a copy of both and joins them. Returns when the joint is at work.
    ///
    /// # Errors
    /// A server or an engine failed.
    pub async fn join(&self, joint: Joint) -> anyhow::Result<Joined> {
        let folder = self.folder.path();
        let copy = |node: usize| {
            let (kind, options) = (self.options.kind, self.options.server(node));
            let data = self.stopped[node].datadir().to_owned();
            async move { Server::start_on_copy(kind, folder, options, &data).await }
        };
        let (a, b) = tokio::try_join!(copy(0), copy(1))?;
        for server in [&a, &b] {
            arena::warm_up(server, &self.database).await?;
        }
        let (config, file) = self.options.config([&a, &b], folder)?;
        let mut engines = Vec::new();
        match joint {
            Joint::Off => {}
            Joint::Twinlog => {
                init::init(&config, false).await?;
                for node in NODES {
                    engines.push(EngineProcess::start(&config, &file, node, folder)?);
                }
                for engine in &mut engines {
                    engine.ready().await?;
                }
            }
            Joint::Native(workers) => {
                let ends = [native::log_end(&a).await?, native::log_end(&b).await?];
                native::set_up(&b, &a, &ends[0], workers).await?;
                native::set_up(&a, &b, &ends[1], workers).await?;
                for server in [&a, &b] {
                    server.query_drop(native::start(server.kind())).await?;
                }
            }
        }
        // What copying the files left to be written is not to be written during the run.
        tokio::task::spawn_blocking(nix::unistd::sync).await?;
        let watchers = [a.connect().await?, b.connect().await?];
        let mut joined = Joined {
            engines,
            watchers,
            config,
            servers: [a, b],
            database: self.database.clone(),
            joint,
            rounds: 0,
        };
        joined.settle(Duration::from_secs(60)).await?;
        Ok(joined)
    }
}

/// Two running masters and what joins them. Dropping it ends all of it.
#[derive(Debug)]
pub struct Joined {
    engines: Vec<EngineProcess>,
    watchers: [Conn; 2],
    /// The engines' config.
    pub config: Arc<Config>,
    /// The masters.
    pub servers: [Server; 2],
    /// Database of the load.
    pub database: String,
    joint: Joint,
    rounds: i64,
}

/// What the engines have cost so far.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Cost {
    /// Processor seconds of all engines.
    pub cpu_seconds: f64,
    /// The most memory that one of them held at a time.
    pub peak_memory_bytes: u64,
}

impl Joined {
    /// Waits until both nodes have everything that was committed before; gives how long it took.
    /// At once when nothing joins them.
    ///
    /// # Errors
    /// Not within `patience`, or what joins them has stopped.
    pub async fn settle(&mut self, patience: Duration) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        if self.joint == Joint::Off {
            return Ok(begun.elapsed());
        }
        // Each writes a row of its own behind everything else, and waits for the other one's: both
        // kinds of replication commit in the origin's order.
        self.rounds += 1;
        let (round, table) = (-self.rounds, format!("`{}`.probe", self.database));
        for (node, watcher) in self.watchers.iter_mut().enumerate() {
            let sql = format!("UPDATE {table} SET seq = {round} WHERE id = {}", node + 1);
            watcher.query_drop(sql).await?;
        }
        let mut missing = vec![0, 1];
        let mut checked = Instant::now();
        while !missing.is_empty() {
            let mut still = Vec::new();
            for node in missing {
                let sql = format!("SELECT seq FROM {table} WHERE id = {}", 2 - node);
                let seen: Option<i64> = self.watchers[node].query_first(sql).await?;
                if seen != Some(round) {
                    still.push(node);
                }
            }
            missing = still;
            if checked.elapsed() > Duration::from_secs(1) {
                self.check().await?;
                checked = Instant::now();
            }
            if begun.elapsed() > patience {
                bail!(
                    "{}: the nodes have not applied everything after {patience:?}",
                    self.joint.name()
                );
            }
            if !missing.is_empty() {
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(begun.elapsed())
    }

    /// Says what has stopped the joint, if anything has.
    ///
    /// # Errors
    /// That.
    pub async fn check(&mut self) -> anyhow::Result<()> {
        for engine in &mut self.engines {
            engine.check().await?;
        }
        if matches!(self.joint, Joint::Native(_)) {
            for (server, watcher) in self.servers.iter().zip(&mut self.watchers) {
                if let Some(trouble) = native::trouble(watcher, server.kind()).await? {
                    bail!(
                        "the replication of node {} has stopped: {trouble}",
                        server.name()
                    );
                }
            }
        }
        Ok(())
    }

    /// What the engines have cost so far.
    #[must_use]
    pub fn cost(&self) -> Cost {
        let pids = || self.engines.iter().map(EngineProcess::pid);
        Cost {
            cpu_seconds: pids().filter_map(cpu_seconds).sum(),
            peak_memory_bytes: pids().filter_map(peak_memory_bytes).max().unwrap_or(0),
        }
    }

    /// Process ids of the servers.
    #[must_use]
    pub fn server_pids(&self) -> [u32; 2] {
        [self.servers[0].pid(), self.servers[1].pid()]
    }

    /// Conflicts that the engines have settled.
    ///
    /// # Errors
    /// An engine does not answer.
    pub async fn conflicts(&self) -> anyhow::Result<u64> {
        let mut count = 0;
        for engine in &self.engines {
            let status = engine.status().await?;
            let links = status.links.iter().flat_map(|link| &link.conflicts);
            count += links.map(|of| of.count).sum::<u64>();
        }
        Ok(count)
    }

    /// Compares the load's rows; gives which tables differ.
    ///
    /// # Errors
    /// The servers'.
    pub async fn differing(&self) -> anyhow::Result<Option<String>> {
        let comparison =
            arena::compare_rows([&self.servers[0], &self.servers[1]], &self.database).await?;
        Ok(arena::differing(&comparison))
    }

    /// Ends it in order.
    pub async fn stop(self) {
        for engine in self.engines {
            engine.stop().await;
        }
    }
}
