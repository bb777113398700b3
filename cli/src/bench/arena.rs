//! Two masters to measure on: throwaway ones, durable and the same for every contender.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use mysql_async::prelude::Queryable as _;
use serde::Serialize;
use tempfile::TempDir;
use twinlog_engine::config::Config;

use super::load::{self, LoadOptions};
use super::master::Master;
use super::own::facts::OwnServer;
use crate::cluster::NODES;
use crate::compare::{Comparison, compare};
use crate::sandbox::process::free_ports;
use crate::sandbox::{Server, ServerKind, ServerOptions};

/// What every server of a benchmark is started with, besides the sandbox's own settings: enough
/// memory for the rows, and a redo log that need not be flushed within a run.
fn server_args(kind: ServerKind) -> Vec<String> {
    let redo = match kind {
        ServerKind::MariaDb => "--innodb-log-file-size=512M",
        ServerKind::MySql => "--innodb-redo-log-capacity=512M",
    };
    vec!["--innodb-buffer-pool-size=512M".into(), redo.into()]
}

/// How the throwaway servers are set up.
#[derive(Debug, Clone)]
pub struct ArenaOptions {
    /// Both servers' kind.
    pub kind: ServerKind,
    /// More arguments for both servers.
    pub server_args: Vec<String>,
    /// Lines for the engines' `[replication]`.
    pub settings: Vec<String>,
    /// The database that is replicated.
    pub database: String,
}

/// What a benchmark's servers and engines were set to.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    /// Whether each is durable: `sync_binlog=1`, `innodb_flush_log_at_trx_commit=1`.
    pub durable: bool,
    /// Arguments of both servers, besides the sandbox's own.
    pub server_args: Vec<String>,
    /// Lines of the engines' `[replication]`; empty means the defaults.
    pub engine: Vec<String>,
    /// What was found at servers that were there anyway; empty for throwaway ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub own_servers: Vec<OwnServer>,
}

impl Settings {
    /// Whether the servers were there anyway.
    #[must_use]
    pub fn is_own(&self) -> bool {
        !self.own_servers.is_empty()
    }

    /// What a commit of each server waits for, in words.
    #[must_use]
    pub fn durability(&self) -> String {
        let mut texts: Vec<String> = self.own_servers.iter().map(OwnServer::durability).collect();
        texts.dedup();
        match &texts[..] {
            [] => "sync_binlog=1, innodb_flush_log_at_trx_commit=1 at both servers".to_owned(),
            [one] => format!("{one} at both servers"),
            _ => {
                let nodes = self.own_servers.iter();
                let texts: Vec<String> = nodes
                    .map(|server| format!("{} at {}", server.durability(), server.node))
                    .collect();
                texts.join("; ")
            }
        }
    }

    /// The same in two words.
    #[must_use]
    pub fn durable_or_not(&self) -> &'static str {
        if self.durable {
            "both servers durable"
        } else {
            "servers not durable"
        }
    }
}

impl ArenaOptions {
    /// For the report.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let mut args = server_args(self.kind);
        args.extend(self.server_args.clone());
        Settings {
            durable: true,
            server_args: args,
            engine: self.settings.clone(),
            own_servers: Vec::new(),
        }
    }

    /// How the server of one node is started.
    #[must_use]
    pub fn server(&self, node: usize) -> ServerOptions {
        let number = if node == 0 { 1 } else { 2 };
        let mut options = ServerOptions::node(NODES[node], number, 2);
        options.durable = true;
        options.extra_args = server_args(self.kind);
        options.extra_args.extend(self.server_args.clone());
        options
    }

    /// Writes a config file for engines between these servers into `folder`.
    ///
    /// # Errors
    /// The settings are not accepted, or the folder cannot be written to.
    pub fn config(
        &self,
        servers: [&Server; 2],
        folder: &Path,
    ) -> anyhow::Result<(Arc<Config>, PathBuf)> {
        let data = tempfile::Builder::new()
            .prefix("engines-")
            .tempdir_in(folder)?
            .keep();
        let mut text = format!(
            "[engine]\ndata_dir = {data:?}\n[replication]\ndatabases = [{:?}]\n",
            self.database
        );
        for line in &self.settings {
            text.push_str(line);
            text.push('\n');
        }
        for ((name, server), port) in NODES.iter().zip(servers).zip(free_ports::<2>()?) {
            let url = server.url();
            text.push_str(&format!(
                "[[node]]\nname = {name:?}\nurl = {url:?}\nlisten = \"127.0.0.1:{port}\"\n"
            ));
        }
        let file = data.join("twinlog.toml");
        std::fs::write(&file, &text).with_context(|| format!("cannot write {}", file.display()))?;
        let config = Config::load(&file).context("--set: the engine does not accept it")?;
        Ok((Arc::new(config), file))
    }
}

/// Makes the load's tables and rows at a server, without writing them to its log.
///
/// # Errors
/// The server's.
pub async fn fill(server: &Server, options: &LoadOptions) -> anyhow::Result<()> {
    let mut conn = server.connect().await?;
    conn.query_drop("SET SESSION sql_log_bin = 0").await?;
    load::create(&mut conn, options).await?;
    conn.disconnect().await?;
    Ok(())
}

/// Two fresh masters with the load's tables and rows.
///
/// # Errors
/// The servers'.
pub async fn fresh(
    options: &ArenaOptions,
    load: &LoadOptions,
    folder: &Path,
) -> anyhow::Result<[Server; 2]> {
    let one = async |node: usize| {
        let server = Server::start(options.kind, folder, options.server(node)).await?;
        fill(&server, load).await?;
        anyhow::Ok(server)
    };
    let (a, b) = tokio::try_join!(one(0), one(1))?;
    Ok([a, b])
}

/// Reads all rows of the load's tables by every index, so that each contender begins with the same
/// pages in memory.
///
/// # Errors
/// The server's.
pub async fn warm_up(master: &Master, database: &str) -> anyhow::Result<()> {
    let mut conn = master.connect().await?;
    let indexes: Vec<(String, String)> = conn
        .exec(
            "SELECT DISTINCT table_name, index_name FROM information_schema.statistics \
             WHERE table_schema = ?",
            (database,),
        )
        .await?;
    for (table, index) in indexes {
        conn.query_drop(format!(
            "SELECT COUNT(*) FROM `{database}`.`{table}` FORCE INDEX (`{index}`)"
        ))
        .await?;
    }
    conn.disconnect().await?;
    Ok(())
}

/// Compares the load's tables of both masters.
///
/// # Errors
/// The servers'.
pub async fn compare_rows(masters: &[Master; 2], database: &str) -> anyhow::Result<Comparison> {
    let database = database.to_owned();
    compare(
        (&masters[0].name, masters[0].opts.clone()),
        (&masters[1].name, masters[1].opts.clone()),
        &move |name| name == database,
    )
    .await
}

/// Which tables differ, in words; `None` when none does.
#[must_use]
pub fn differing(comparison: &Comparison) -> Option<String> {
    if comparison.tables.is_empty() {
        return Some("no table was compared".to_owned());
    }
    let names: Vec<String> = comparison
        .differing()
        .map(|table| format!("{}.{}", table.database, table.table))
        .collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// A folder for a benchmark's servers.
///
/// # Errors
/// It cannot be made.
pub fn folder(base: Option<&Path>) -> anyhow::Result<TempDir> {
    let base = base.map_or_else(std::env::temp_dir, Path::to_owned);
    std::fs::create_dir_all(&base).with_context(|| format!("cannot create {}", base.display()))?;
    tempfile::Builder::new()
        .prefix("twinlog-bench-")
        .tempdir_in(&base)
        .with_context(|| format!("cannot create a folder in {}", base.display()))
}
