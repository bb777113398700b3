//! The cluster's one config file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that the file says, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Settings of the engine as a program.
    pub engine: EngineConfig,
    /// What is replicated.
    pub replication: ReplicationConfig,
    /// The nodes, in the file's order; the order is part of the cluster's identity.
    pub nodes: Vec<NodeConfig>,
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
    /// First and longest pause between attempts to connect.
    pub backoff: (Duration, Duration),
    /// How long a stop waits for the transaction in hand before it gives up.
    pub shutdown_timeout: Duration,
}

/// `[replication]`
#[derive(Debug, Clone)]
pub struct ReplicationConfig {
    /// Patterns (`*`, `?`) of the databases that are replicated; empty means all but the servers'
    /// own and the engine's.
    pub databases: Vec<String>,
    /// What happens to DDL.
    pub ddl: DdlPolicy,
    /// Most origin transactions in one commit at the target.
    pub group_transactions: usize,
    /// Most row changes in one commit at the target.
    pub group_rows: usize,
    /// Most bytes that transactions between source and apply may take.
    pub queue_bytes: usize,
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
}

impl std::fmt::Debug for NodeConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The options hold a password.
        f.debug_struct("NodeConfig")
            .field("name", &self.name)
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

impl ReplicationConfig {
    /// Whether tables of this database are replicated. `engine_schema` never is.
    #[must_use]
    pub fn includes(&self, database: &str, engine_schema: &str) -> bool {
        const SERVERS_OWN: [&str; 5] = [
            "mysql",
            "information_schema",
            "performance_schema",
            "sys",
            "ndbinfo",
        ];
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
    fn matches(pattern: &[char], text: &[char]) -> bool {
        match (pattern.first(), text.first()) {
            (None, None) => true,
            (Some('*'), _) => {
                matches(&pattern[1..], text) || (!text.is_empty() && matches(pattern, &text[1..]))
            }
            (Some('?'), Some(_)) => matches(&pattern[1..], &text[1..]),
            (Some(p), Some(t)) => p.eq_ignore_ascii_case(t) && matches(&pattern[1..], &text[1..]),
            _ => false,
        }
    }
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    matches(&pattern, &text)
}
