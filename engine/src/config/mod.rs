//! The cluster's one config file, checked.
//!
//! Every engine of a cluster reads the same file; [`Config::digest`] is how they find out whether
//! they do. How the text becomes these structs is in `file`.

mod file;
mod section;
mod server;
mod units;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::conflict::rules::ConflictRules;
use crate::error::{Error, Result};

/// Databases that belong to the servers; never replicated.
pub(crate) const SERVERS_OWN: [&str; 5] = [
    "mysql",
    "information_schema",
    "performance_schema",
    "sys",
    "ndbinfo",
];

/// How many nodes this version joins.
pub const MAX_NODES: usize = 2;

/// Everything that the file says, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Settings of the engine as a program.
    pub engine: EngineConfig,
    /// What is replicated.
    pub replication: ReplicationConfig,
    /// How long settled conflicts are remembered.
    pub journal: JournalConfig,
    /// How conflicts are settled.
    pub conflicts: ConflictRules,
    /// The nodes, in the file's order; the order is part of the cluster's identity.
    pub nodes: Vec<NodeConfig>,
    /// What is no error but wants a person's eye, such as a password file that everyone may read.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads and checks a config file. Relative paths inside it start at the file's own folder, so
    /// that every command means the same files, wherever it is run.
    ///
    /// # Errors
    /// [`Error::Config`], naming file, line and key, when the file cannot be read or accepted.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Error::Config(format!("cannot read {}: {error}", path.display())))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut config = file::parse(&text, folder, &|name| std::env::var(name).ok())
            .map_err(|problem| Error::Config(format!("{}: {problem}", path.display())))?;
        if file::holds_password(&text) && server::readable_by_everyone(path) {
            config.warnings.push(format!(
                "{} holds a password and everyone on this machine may read it: chmod 640",
                path.display()
            ));
        }
        Ok(config)
    }

    /// Checks the text of a config file. `env` looks up environment variables.
    ///
    /// # Errors
    /// [`Error::Config`], naming line and key.
    pub fn parse(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        file::parse(text, Path::new(""), env).map_err(Error::Config)
    }

    /// For one of several engines in one process, which share its memory.
    #[must_use]
    pub fn shared_by(mut self, engines: usize) -> Self {
        self.engine.engines = engines.max(1);
        let part = self.engine.share() / 8;
        let replication = &mut self.replication;
        for bytes in [&mut replication.queue_bytes, &mut replication.window_bytes] {
            *bytes = (*bytes).min(part.max(1 << 20));
        }
        self
    }

    /// The node with this name.
    ///
    /// # Errors
    /// [`Error::Config`] with the names that there are.
    pub fn node(&self, name: &str) -> Result<&NodeConfig> {
        self.nodes
            .iter()
            .find(|node| node.name == name)
            .ok_or_else(|| {
                let names: Vec<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
                Error::Config(format!(
                    "there is no node '{name}'; the nodes are {}",
                    names.join(", ")
                ))
            })
    }

    /// A short digest of what all engines of a cluster must agree on: the nodes' names and their
    /// order, the engine's schema, what is replicated and how conflicts are settled. Addresses,
    /// accounts, folders and tuning are left out: they may differ from host to host.
    #[must_use]
    pub fn digest(&self) -> String {
        let hash = xxhash_rust::xxh3::xxh3_64(self.agreed().to_string().as_bytes());
        format!("{hash:016x}")
    }

    /// What [`Self::digest`] is made of, by name.
    #[must_use]
    pub fn agreed(&self) -> serde_json::Value {
        let names: Vec<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
        let mut databases: Vec<String> = self
            .replication
            .databases
            .iter()
            .map(|pattern| pattern.to_ascii_lowercase())
            .collect();
        databases.sort_unstable();
        databases.dedup();
        // JSON, so that no two different lists are written alike. The version changes with the
        // meaning of the rest.
        serde_json::json!({
            "version": 2,
            "nodes": names,
            "schema": self.engine.schema,
            "databases": databases,
            "ddl": self.replication.ddl,
            "drift": self.replication.drift,
            "conflict": self.conflicts,
        })
    }
}

/// `[engine]`
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Folder for the engine's store; one folder per node inside it.
    pub data_dir: PathBuf,
    /// Name of the engine's schema on every node.
    pub schema: String,
    /// How often a server that has nothing to send says so.
    pub heartbeat: Duration,
    /// How long a server may say nothing before its connection counts as broken: no heartbeat, no
    /// answer to a connect, none to a statement that it is not at work on.
    pub silence: Duration,
    /// First and longest pause between attempts to connect.
    pub backoff: (Duration, Duration),
    /// How long a stop waits for the transaction in hand before it gives up.
    pub shutdown_timeout: Duration,
    /// Memory that the process is to stay under, in bytes: queues, window and transactions in hand
    /// are bounded so that it does.
    pub memory: usize,
    /// Engines in this process, which share it. Not from the file.
    pub engines: usize,
}

/// How much memory an engine takes for the largest event, in multiples of it: it is received and decoded
/// on two connections at a time, and written as a statement meanwhile. Measured (`make size`), with room to
/// spare.
pub const MEMORY_PER_EVENT: usize = 16;

impl EngineConfig {
    /// What one engine has of [`Self::memory`].
    #[must_use]
    pub fn share(&self) -> usize {
        self.memory / self.engines.max(1)
    }

    /// Memory that one transaction of one log may take, in bytes; a larger one goes to disk.
    #[must_use]
    pub fn transaction_bytes(&self) -> usize {
        // Two logs are read by each engine, and a transaction is in the queue while the next is read.
        (self.share() / 32).clamp(1 << 20, 64 << 20)
    }

    /// The largest event, in bytes, that an engine holds within [`Self::memory`]. A row is one event, with
    /// both its images where it was changed, and no event is read or sent in pieces.
    #[must_use]
    pub fn event_bytes(&self) -> usize {
        self.share() / MEMORY_PER_EVENT
    }
}

/// `[replication]`
#[derive(Debug, Clone)]
pub struct ReplicationConfig {
    /// Patterns (`*`, `?`) of the databases that are replicated; empty means all but the servers'
    /// own and the engine's.
    pub databases: Vec<String>,
    /// What happens to DDL.
    pub ddl: DdlPolicy,
    /// What happens to a row that is missing, or there, though nobody wrote it concurrently.
    pub drift: DriftPolicy,
    /// Which tables' rows are written as row events and not as SQL.
    pub row_events: RowEventPolicy,
    /// Most origin transactions in one commit at the target.
    pub group_transactions: usize,
    /// Most row changes in one commit at the target.
    pub group_rows: usize,
    /// Most memory that the transactions of one commit may take, in bytes.
    pub group_bytes: usize,
    /// How long one commit's rows should be locked at the target: groups grow and shrink with it.
    pub group_time: Duration,
    /// Connections that apply beside each other where much is waiting.
    pub apply_connections: usize,
    /// Most bytes that transactions between source and apply may take.
    pub queue_bytes: usize,
    /// Memory for what local clients wrote and the peer has not yet; the rest goes to the disk.
    pub window_bytes: usize,
}

/// `[journal]`
#[derive(Debug, Clone)]
pub struct JournalConfig {
    /// How long a settled conflict is kept.
    pub keep: Duration,
}

/// `drift = ".."`
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriftPolicy {
    /// Stop the link.
    Halt,
    /// Take the origin's image, and write it down in the journal.
    Repair,
}

/// `row_events = ".."`
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowEventPolicy {
    /// Those of tables with triggers at the target, and of wide tables where that costs it less.
    Auto,
    /// Those of every table that is column by column the same on both nodes.
    Always,
    /// None: tables with triggers are refused.
    Never,
}

/// `ddl = ".."`
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DdlPolicy {
    /// Run it at the target, once, in its place among the rows.
    Replicate,
    /// Leave it out, and count it.
    Ignore,
    /// Stop the link.
    Halt,
}

/// `[[node]]`
#[derive(Clone)]
pub struct NodeConfig {
    /// Name of the node, unique.
    pub name: String,
    /// How to connect. Never printed: it holds the password.
    pub opts: mysql_async::Opts,
    /// Where this node's engine serves status, metrics and health.
    pub listen: Option<SocketAddr>,
    /// [`EngineConfig::silence`].
    pub silence: Duration,
}

impl NodeConfig {
    /// Where the server is, for messages: `host:port`, or the path of its socket.
    #[must_use]
    pub fn address(&self) -> String {
        match self.opts.socket() {
            Some(socket) => socket.to_owned(),
            None => format!("{}:{}", self.opts.ip_or_hostname(), self.opts.tcp_port()),
        }
    }
}

impl std::fmt::Debug for NodeConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The options hold a password.
        f.debug_struct("NodeConfig")
            .field("name", &self.name)
            .field("address", &self.address())
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

impl ReplicationConfig {
    /// Whether tables of this database are replicated. `engine_schema` never is.
    #[must_use]
    pub fn includes(&self, database: &str, engine_schema: &str) -> bool {
        if SERVERS_OWN
            .iter()
            .any(|own| own.eq_ignore_ascii_case(database))
            || database.eq_ignore_ascii_case(engine_schema)
        {
            return false;
        }
        self.databases.is_empty()
            || self
                .databases
                .iter()
                .any(|pattern| glob_matches(pattern, database))
    }
}

/// Matches `*` (any run) and `?` (one character), without regard to ASCII case.
#[must_use]
pub fn glob_matches(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    // What follows the last star seen, and the text behind its run so far: going back to the last one
    // only is enough, and keeps many stars from taking exponential time.
    let mut star: Option<(&str, &str)> = None;
    loop {
        let (mut behind, mut rest) = (pattern.chars(), text.chars());
        let (wanted, Some(found)) = (behind.next(), rest.next()) else {
            return pattern.chars().all(|c| c == '*');
        };
        match wanted {
            Some('*') => {
                pattern = behind.as_str();
                star = Some((pattern, text));
            }
            Some(c) if c == '?' || c.eq_ignore_ascii_case(&found) => {
                (pattern, text) = (behind.as_str(), rest.as_str());
            }
            _ => {
                let Some((behind_star, run)) = star else {
                    return false;
                };
                let mut run = run.chars();
                run.next();
                (pattern, text) = (behind_star, run.as_str());
                star = Some((pattern, text));
            }
        }
    }
}

#[cfg(test)]
mod tests;
