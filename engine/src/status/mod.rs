//! What an engine tells about itself: as values, over HTTP, as metrics.

mod http;
mod lag;
mod memory;
mod metrics;
mod progress;

pub use http::{StatusReader, serve};
pub use memory::MemoryStatus;
pub use progress::{LinkProgress, TailProgress};

use serde::{Deserialize, Serialize};

use crate::decode::event::Flavor;

/// What a link or tailer is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Opening connections, reading the marker, finding the place.
    Connecting,
    /// Running, with transactions of the source still to be applied.
    CatchingUp,
    /// Running, and everything that the source has is applied.
    Streaming,
    /// Something passed wrong that passes by itself; waiting for the next attempt.
    Retrying,
    /// Stopped until a person acts; `last_error` says what to do.
    Halted,
    /// Stopped because the engine stops.
    Stopped,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            State::Connecting => "connecting",
            State::CatchingUp => "catching up",
            State::Streaming => "streaming",
            State::Retrying => "retrying",
            State::Halted => "HALTED",
            State::Stopped => "stopped",
        })
    }
}

/// One engine, at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EngineStatus {
    /// Name of the node that it runs alongside.
    pub node: String,
    /// twinlog's version.
    pub twinlog_version: String,
    /// Digest of what all engines of a cluster must agree on.
    pub config_digest: String,
    /// The server's dialect.
    pub flavor: Flavor,
    /// The server's version.
    pub server_version: String,
    /// Seconds since the engine started.
    pub uptime_seconds: u64,
    /// Memory of the process, which may run several engines.
    #[serde(default)]
    pub memory: MemoryStatus,
    /// The tailer of the node's own log.
    pub tailer: TailerStatus,
    /// The links that end here, one for each other node.
    pub links: Vec<LinkStatus>,
}

/// The tailer of a node's own log, at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TailerStatus {
    /// What it is doing.
    pub state: State,
    /// How far it has read, `file:offset`.
    pub position: String,
    /// Keys written locally that the peer has not yet been seen to have.
    pub window_keys: usize,
    /// How many of them are on disk, because they did not fit into memory.
    #[serde(default)]
    pub window_spilled: usize,
    /// Writes of merged rows that are remembered.
    #[serde(default)]
    pub window_history: usize,
    /// Transactions of local clients read.
    pub local_transactions: u64,
    /// Why it is not running, or last was not. It stays when that is over: the state tells.
    pub last_error: Option<String>,
    /// Seconds since that error.
    pub last_error_seconds_ago: Option<u64>,
}

/// One link, at one moment. Positions are of the origin's log, `file:offset`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LinkStatus {
    /// The node whose transactions it carries.
    pub origin: String,
    /// The node where they are applied.
    pub target: String,
    /// What it is doing.
    pub state: State,
    /// End of the origin's log, as asked for once a second, or as far as it was read since.
    pub source_position: String,
    /// Everything in front of this has arrived here.
    pub received_position: String,
    /// Everything in front of this is applied (or needed no write).
    pub applied_position: String,
    /// Bytes of the origin's log that are not yet read; `None` across log files.
    pub unread_bytes: Option<u64>,
    /// How far the link is behind: the age of the oldest transaction that has arrived and is not
    /// applied; if none has, but the origin's log goes on, the time since the link had everything;
    /// else 0.
    pub lag_seconds: f64,
    /// Transactions received and not yet applied.
    pub lag_transactions: u64,
    /// Origin transactions applied per second, over the last few seconds.
    pub transactions_per_second: f64,
    /// Origin transactions applied, ever (kept in the marker row).
    pub applied_transactions: u64,
    /// Row changes applied, ever (kept in the marker row).
    pub applied_rows: u64,
    /// Commits at the target that applied them, since the engine started.
    pub commits: u64,
    /// Transactions that did not fit into memory and were applied from disk, since the engine started.
    #[serde(default)]
    pub huge_transactions: u64,
    /// DDL statements run, since the engine started.
    pub ddl_statements: u64,
    /// Transactions in the origin's log that an engine had written there, and that were not sent
    /// back, since the engine started.
    pub loops_prevented: u64,
    /// Changes of this node that came back by another way than an engine (left out). Anything but 0
    /// means that the servers' own replication runs besides.
    pub returned: u64,
    /// Transactions left out by rule (databases or statements that are not replicated).
    pub left_out: u64,
    /// That the origin's server crashed since the engine started and, not syncing each commit, may have
    /// lost what its log and this node have; where, and what to do.
    #[serde(default)]
    pub source_crash: Option<String>,
    /// XA transactions that are prepared at the origin and not decided: they hold their locks there.
    /// `None` where the account may not ask for them.
    #[serde(default)]
    pub xa_prepared: Option<u64>,
    /// Seconds for which this engine has seen the oldest of them prepared; 0 where there is none.
    #[serde(default)]
    pub xa_oldest_seconds: Option<u64>,
    /// AUTO_INCREMENT values outside their origin's residue class.
    pub auto_increment_strays: u64,
    /// Attempts repeated after deadlocks, lock timeouts and lost connections.
    pub retries: u64,
    /// Groups taken apart because their merged statements did not fit.
    pub regrouped: u64,
    /// Groups that were written while the one in front was.
    #[serde(default)]
    pub beside: u64,
    /// Groups that met something on their way beside others, and were applied by themselves.
    #[serde(default)]
    pub gave_way: u64,
    /// Conflicts and repaired drift, by kind and winner, since the engine started. All are in the
    /// journal.
    #[serde(default)]
    pub conflicts: Vec<ConflictCount>,
    /// Why it is not running, or last was not. It stays when that is over: the state tells.
    pub last_error: Option<String>,
    /// Seconds since that error.
    pub last_error_seconds_ago: Option<u64>,
}

/// How often something was settled.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConflictCount {
    /// Kind of conflict, as in the journal.
    pub kind: String,
    /// `local`, `remote` or `merged`.
    pub winner: String,
    /// How often.
    pub count: u64,
}

impl State {
    /// Running: a last error is over.
    #[must_use]
    pub fn is_well(self) -> bool {
        matches!(self, State::CatchingUp | State::Streaming)
    }
}

impl LinkStatus {
    /// The link as it stands given the tailer of the node where it ends: nothing is applied
    /// without knowing what was written there.
    #[must_use]
    pub(crate) fn given(mut self, tailer: &TailerStatus) -> Self {
        let says = match tailer.state {
            State::Halted if self.state != State::Halted => "is halted",
            State::Retrying if self.state.is_well() => "tries again",
            _ => return self,
        };
        self.state = tailer.state;
        self.last_error = Some(format!(
            "the tailer of node {} {says}: {}",
            self.target,
            tailer.last_error.as_deref().unwrap_or_default()
        ));
        self.last_error_seconds_ago = tailer.last_error_seconds_ago;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{LogName, LogPos};

    fn link(state: State, error: Option<&str>) -> LinkStatus {
        let progress = LinkProgress::new("a", "b");
        let (name, _) = LogName::split("binlog.000001").unwrap();
        progress.resumed(name, LogPos::new(1, 4), 0, 0);
        progress.set_state(state, error.map(str::to_owned));
        progress.status()
    }

    fn tailer(state: State) -> TailerStatus {
        let progress = TailProgress::default();
        progress.set_state(state, Some("it is gone".to_owned()));
        progress.status(String::new(), (0, 0, 0))
    }

    #[test]
    fn a_link_stands_no_better_than_the_tailer() {
        let halted = link(State::Streaming, None).given(&tailer(State::Halted));
        assert_eq!(halted.state, State::Halted);
        assert_eq!(
            halted.last_error.as_deref(),
            Some("the tailer of node b is halted: it is gone")
        );
        let retrying = link(State::Streaming, None).given(&tailer(State::Retrying));
        assert_eq!(retrying.state, State::Retrying);
        assert!(retrying.last_error.unwrap().contains("it is gone"));
        // Its own reason is the nearer one.
        let own = link(State::Halted, Some("drift")).given(&tailer(State::Halted));
        assert_eq!(own.last_error.as_deref(), Some("drift"));
        let running = link(State::Streaming, None).given(&tailer(State::Streaming));
        assert_eq!(running.state, State::Streaming);
    }
}
