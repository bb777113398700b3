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
use super::master::{self, Master};
use super::own::OwnServers;
use super::progress::Progress;
use super::{Place, Setting, native};
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

/// The statements that make the table `probe` in a database, with its rows.
#[must_use]
pub fn probe_table(database: &str) -> String {
    format!(
        "CREATE TABLE `{database}`.probe (id INT PRIMARY KEY, seq BIGINT NOT NULL) ENGINE=InnoDB; \
         INSERT INTO `{database}`.probe VALUES (1, 0), (2, 0), ({PROBE}, 0)"
    )
}

/// Where masters with the load's tables come from, the same rows each time.
#[derive(Debug)]
pub struct Masters {
    load: LoadOptions,
    ground: Ground,
}

#[derive(Debug)]
enum Ground {
    /// Two stopped servers, to make copies of.
    Copies {
        options: ArenaOptions,
        stopped: Box<[Server; 2]>,
        folder: TempDir,
    },
    /// Two servers that are there anyway, whose tables are made anew.
    Own(Arc<OwnServers>),
}

impl Masters {
    /// Fills two throwaway servers with the load's tables and rows, and stops them. Others are filled
    /// as they are joined.
    ///
    /// # Errors
    /// The servers'.
    pub async fn prepare(
        place: &Place,
        load: &LoadOptions,
        base: Option<&Path>,
        progress: &Progress,
    ) -> anyhow::Result<Self> {
        let ground = match place {
            Place::Own(own) => Ground::Own(Arc::clone(own)),
            Place::Throwaway(options) => {
                progress.step(&format!(
                    "filling two durable {} servers: {} tables x {} rows on each",
                    options.kind, load.tables, load.rows
                ));
                let folder = arena::folder(base)?;
                let mut stopped = Box::new(arena::fresh(options, load, folder.path()).await?);
                for server in stopped.iter_mut() {
                    let probe = probe_table(&load.database);
                    server
                        .query_drop(&format!("SET SESSION sql_log_bin = 0; {probe}"))
                        .await?;
                    server.stop().await;
                }
                Ground::Copies {
                    options: options.clone(),
                    stopped,
                    folder,
                }
            }
        };
        Ok(Self {
            load: load.clone(),
            ground,
        })
    }

    /// What is measured on, and how.
    #[must_use]
    pub fn setting(&self) -> Setting {
        match &self.ground {
            Ground::Copies {
                options, stopped, ..
            } => Setting::now(
                options.kind,
                stopped[0].version(),
                &self.load,
                options.settings(),
            ),
            Ground::Own(own) => Setting::of_own(own, &self.load),
        }
    }

    /// Starts a copy of both, or makes their tables anew, and joins them. Returns when the joint is at
    /// work.
    ///
    /// # Errors
    /// A server or an engine failed.
    pub async fn join(&self, joint: Joint) -> anyhow::Result<Joined> {
        let database = self.load.database.clone();
        let (masters, throwaway, (config, file), folder) = match &self.ground {
            Ground::Copies {
                options,
                stopped,
                folder,
            } => {
                let folder = folder.path();
                let copy = |node: usize| {
                    let (kind, server) = (options.kind, options.server(node));
                    let data = stopped[node].datadir().to_owned();
                    async move { Server::start_on_copy(kind, folder, server, &data).await }
                };
                let (a, b) = tokio::try_join!(copy(0), copy(1))?;
                let masters = [Master::throwaway(&a), Master::throwaway(&b)];
                let config = options.config([&a, &b], folder)?;
                (masters, Some([a, b]), config, folder)
            }
            Ground::Own(own) => {
                own.fresh(&self.load).await?;
                (own.masters().clone(), None, own.config()?, own.folder())
            }
        };
        for master in &masters {
            arena::warm_up(master, &database).await?;
        }
        let engines = match (joint, &throwaway) {
            (Joint::Off, _) => Vec::new(),
            (Joint::Twinlog, _) => start_engines(&config, &file, folder).await?,
            (Joint::Native(workers), Some([a, b])) => {
                replicate_natively([a, b], workers).await?;
                Vec::new()
            }
            (Joint::Native(_), None) => {
                bail!("the servers' own replication is not set up at servers that are in use")
            }
        };
        if throwaway.is_some() {
            // What copying the files left to be written is not to be written during the run.
            tokio::task::spawn_blocking(nix::unistd::sync).await?;
        }
        let watchers = [masters[0].connect().await?, masters[1].connect().await?];
        let mut joined = Joined {
            engines,
            watchers,
            config,
            masters,
            _throwaway: throwaway,
            database,
            joint,
            rounds: 0,
        };
        joined.settle(Duration::from_secs(60)).await?;
        Ok(joined)
    }
}

/// Sets replication up, and starts an engine for each node.
async fn start_engines(
    config: &Arc<Config>,
    file: &Path,
    folder: &Path,
) -> anyhow::Result<Vec<EngineProcess>> {
    init::init(config, false).await?;
    let mut engines = Vec::new();
    for node in &config.nodes {
        engines.push(EngineProcess::start(config, file, &node.name, folder)?);
    }
    for engine in &mut engines {
        engine.ready().await?;
    }
    Ok(engines)
}

async fn replicate_natively([a, b]: [&Server; 2], workers: u32) -> anyhow::Result<()> {
    let ends = [native::log_end(a).await?, native::log_end(b).await?];
    native::set_up(b, a, &ends[0], workers).await?;
    native::set_up(a, b, &ends[1], workers).await?;
    for server in [a, b] {
        server.query_drop(native::start(server.kind())).await?;
    }
    Ok(())
}

/// Two running masters and what joins them. Dropping it ends all of it.
#[derive(Debug)]
pub struct Joined {
    engines: Vec<EngineProcess>,
    watchers: [Conn; 2],
    /// The engines' config.
    pub config: Arc<Config>,
    /// The masters.
    pub masters: [Master; 2],
    /// Their servers, where they end with this.
    _throwaway: Option<[Server; 2]>,
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
            for (master, watcher) in self.masters.iter().zip(&mut self.watchers) {
                if let Some(trouble) = native::trouble(watcher, master.kind).await? {
                    bail!(
                        "the replication of node {} has stopped: {trouble}",
                        master.name
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

    /// Process ids of the servers, where they may be looked at.
    #[must_use]
    pub fn server_pids(&self) -> Vec<u32> {
        master::pids(&self.masters)
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
        let comparison = arena::compare_rows(&self.masters, &self.database).await?;
        Ok(arena::differing(&comparison))
    }

    /// Ends it in order.
    pub async fn stop(self) {
        for engine in self.engines {
            engine.stop().await;
        }
    }
}
