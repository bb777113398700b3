//! One of the two masters that are measured, throwaway or not: how to reach it, and its process where
//! that is ours to look at.

use anyhow::Context as _;
use mysql_async::{Conn, Opts};
use twinlog_engine::config::NodeConfig;
use twinlog_engine::error::plainly;

use crate::sandbox::{Server, ServerKind};

/// One master.
#[derive(Clone)]
pub struct Master {
    /// Name of the node.
    pub name: String,
    /// Which server.
    pub kind: ServerKind,
    /// How to connect. Never printed: it holds the password.
    pub opts: Opts,
    /// The server's process, if it runs on this machine and for the benchmark alone.
    pub pid: Option<u32>,
}

impl Master {
    /// A throwaway server.
    #[must_use]
    pub fn throwaway(server: &Server) -> Self {
        Self {
            name: server.name().to_owned(),
            kind: server.kind(),
            opts: server.opts(),
            pid: Some(server.pid()),
        }
    }

    /// A server that is there anyway.
    #[must_use]
    pub fn given(node: &NodeConfig, kind: ServerKind) -> Self {
        Self {
            name: node.name.clone(),
            kind,
            opts: node.opts.clone(),
            pid: None,
        }
    }

    /// A new connection.
    ///
    /// # Errors
    /// The server is down or refuses.
    pub async fn connect(&self) -> anyhow::Result<Conn> {
        Conn::new(self.opts.clone())
            .await
            .map_err(|error| anyhow::anyhow!(plainly(&error)))
            .with_context(|| format!("cannot connect to node {}", self.name))
    }
}

impl std::fmt::Debug for Master {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Master")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

/// Process ids of those whose processes may be looked at.
#[must_use]
pub fn pids(masters: &[Master; 2]) -> Vec<u32> {
    masters.iter().filter_map(|master| master.pid).collect()
}
