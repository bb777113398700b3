//! Two servers that are there anyway, such as a DBA's own: what is looked at before anything is written
//! to them, and what is made at them and taken away again.
//!
//! Only the databases [`DATABASE`] and [`SCHEMA`] are made. No setting of a server is changed, and its
//! own replication is left alone: so only twinlog is measured there.

mod config;
mod databases;
pub mod facts;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, bail};
use tempfile::TempDir;
use twinlog_engine::config::{Config, NodeConfig};
use twinlog_engine::connection::{NodeConnection, quote_string};
use twinlog_engine::preflight::{self, Finding, Level};
use twinlog_engine::{init, own_schema};

use super::arena::{self, Settings};
use super::load::LoadOptions;
use super::master::Master;
use crate::sandbox::ServerKind;
use crate::sandbox::process::free_ports;
use config::Changes;
use databases::Found;
use facts::OwnServer;

/// The database of the load.
pub const DATABASE: &str = "bench";
/// The engines' schema. Its name is fixed so that an account can be granted it beforehand.
pub const SCHEMA: &str = "twinlog_bench";
/// Held at both servers while a benchmark runs.
const LOCK: &str = "twinlog.bench";

/// What may be gone over.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allowed {
    /// Databases of these names that somebody else made are dropped.
    pub drop_existing: bool,
    /// The servers replicate from or to others, which get the load as well.
    pub replication: bool,
}

/// Two servers that are there anyway. Whoever opens them calls [`OwnServers::remove`] in the end.
#[derive(Debug)]
pub struct OwnServers {
    file: PathBuf,
    text: String,
    settings: Vec<String>,
    nodes: [NodeConfig; 2],
    masters: [Master; 2],
    /// As they were found.
    pub found: [OwnServer; 2],
    /// What is no obstacle but wants a person's eye.
    pub warnings: Vec<String>,
    begun: AtomicBool,
    /// Hold [`LOCK`].
    _locks: Vec<NodeConnection>,
    folder: TempDir,
}

impl OwnServers {
    /// Looks at the servers of a config file, and refuses where a benchmark would do harm or nothing
    /// could be measured. Writes nothing to them.
    ///
    /// # Errors
    /// What stands in the way, and what to do about it.
    pub async fn open(
        file: &Path,
        base: Option<&Path>,
        settings: &[String],
        allowed: Allowed,
    ) -> anyhow::Result<Self> {
        let user = Config::load(file).context("the config file is not accepted")?;
        let Ok(nodes) = <[NodeConfig; 2]>::try_from(user.nodes.clone()) else {
            bail!("{} has not two nodes", file.display());
        };
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        let mut connections = Vec::new();
        for node in &nodes {
            let mut connection = NodeConnection::open(node).await?;
            refuse_engine(&user, node, &mut connection).await?;
            for database in [DATABASE, SCHEMA] {
                let found = databases::look(&mut connection, database).await?;
                refuse_database(database, &node.name, found, allowed)?;
            }
            connections.push(connection);
        }
        let folder = arena::folder(base)?;
        let (bench, _) = write_config(file, &text, settings, folder.path())?;
        let mut warnings = judge(&preflight::check(&bench).await, allowed)?;
        let mut found = Vec::new();
        let mut kinds = Vec::new();
        for (node, connection) in nodes.iter().zip(&mut connections) {
            lock(node, connection).await?;
            let server = OwnServer::look(connection, node).await?;
            let kind = if server.version.contains("MariaDB") {
                ServerKind::MariaDb
            } else {
                ServerKind::MySql
            };
            let replicas = replicas(connection, kind).await?;
            if replicas > 0 {
                let says = format!(
                    "node {}: {replicas} {} read its log and will have the database {DATABASE} too",
                    node.name,
                    if replicas == 1 { "replica" } else { "replicas" }
                );
                if !allowed.replication {
                    bail!(
                        "{says}; one that replicates from both nodes would stop at it. If that may be, \
                         give --allow-replication"
                    );
                }
                warnings.push(says);
            }
            found.push(server);
            kinds.push(kind);
        }
        let (Ok(found), [first, second]) = (<[OwnServer; 2]>::try_from(found), &kinds[..]) else {
            bail!("{} has not two nodes", file.display());
        };
        let masters = [
            Master::given(&nodes[0], *first),
            Master::given(&nodes[1], *second),
        ];
        Ok(Self {
            file: file.to_owned(),
            text,
            settings: settings.to_vec(),
            nodes,
            masters,
            found,
            warnings,
            begun: AtomicBool::new(false),
            _locks: connections,
            folder,
        })
    }

    /// How to reach them.
    #[must_use]
    pub fn masters(&self) -> &[Master; 2] {
        &self.masters
    }

    /// Their version; both where they differ.
    #[must_use]
    pub fn version(&self) -> String {
        let [a, b] = &self.found;
        if a.version == b.version {
            a.version.clone()
        } else {
            format!("{} and {}", a.version, b.version)
        }
    }

    /// For the report.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings {
            durable: self.found.iter().all(OwnServer::is_durable),
            server_args: Vec::new(),
            engine: self.settings.clone(),
            own_servers: self.found.to_vec(),
        }
    }

    /// Where engines have their files and logs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Makes the databases anew at both, with the load's tables and rows. No engine may run.
    ///
    /// # Errors
    /// The servers'.
    pub async fn fresh(&self, load: &LoadOptions) -> anyhow::Result<()> {
        self.begun.store(true, Ordering::Relaxed);
        let make = async |node: usize| {
            databases::make(&self.nodes[node], &self.masters[node], load)
                .await
                .with_context(|| format!("node {}", self.nodes[node].name))
        };
        tokio::try_join!(make(0), make(1))?;
        Ok(())
    }

    /// A config file for engines between them that have not run before.
    ///
    /// # Errors
    /// The settings are not accepted, or the folder cannot be written to.
    pub fn config(&self) -> anyhow::Result<(Arc<Config>, PathBuf)> {
        write_config(&self.file, &self.text, &self.settings, self.folder.path())
    }

    /// Takes away what was made. Engines must have ended, or been killed.
    ///
    /// # Errors
    /// What is left at which node, and how to remove it.
    pub async fn remove(&self) -> anyhow::Result<()> {
        if !self.begun.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut left = Vec::new();
        for node in &self.nodes {
            if let Err(error) = databases::remove(node).await {
                left.push(format!("node {}: {error:#}", node.name));
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        bail!("{} ({})", self.left_behind(), left.join("; "))
    }

    /// What is still there when nothing was removed.
    #[must_use]
    pub fn left_behind(&self) -> String {
        format!(
            "the databases {DATABASE} and {SCHEMA} are left at the servers: run the benchmark again, which \
             removes them, or by hand DROP DATABASE {DATABASE}; DROP DATABASE {SCHEMA};"
        )
    }
}

/// Writes the engines' config file into a new folder within `folder`, which only this account may
/// read: it holds what the user's file holds.
fn write_config(
    user: &Path,
    text: &str,
    settings: &[String],
    folder: &Path,
) -> anyhow::Result<(Arc<Config>, PathBuf)> {
    let data = tempfile::Builder::new()
        .prefix("engines-")
        .tempdir_in(folder)?
        .keep();
    let user = std::path::absolute(user)?;
    let changes = Changes {
        folder: user.parent().unwrap_or(Path::new("/")),
        data_dir: &data,
        ports: &free_ports::<2>()?,
        settings,
    };
    let text = config::derive(text, changes)?;
    let file = data.join("twinlog.toml");
    std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    let config = Config::load(&file).context("--set: the engine does not accept it")?;
    Ok((Arc::new(config), file))
}

/// Refuses while an engine of the user's runs, and where one that starts later would read the load in
/// the log and replicate it.
async fn refuse_engine(
    user: &Config,
    node: &NodeConfig,
    connection: &mut NodeConnection,
) -> anyhow::Result<()> {
    init::refuse_running(connection, &node.name).await?;
    let schema = &user.engine.schema;
    if !user.replication.includes(DATABASE, schema) {
        return Ok(());
    }
    let sql = format!(
        "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = {} AND TABLE_NAME = '{}'",
        quote_string(schema),
        own_schema::MARKER
    );
    let set_up = connection
        .count(sql.as_bytes(), "looking for the engine's schema")
        .await?;
    if set_up > 0 {
        bail!(
            "node {} is set up for replication, and the config file's [replication] databases include \
             {DATABASE}: the engines would replicate the benchmark's rows later on. Name the databases \
             that are replicated there, without {DATABASE}, on every host",
            node.name
        );
    }
    Ok(())
}

fn refuse_database(
    database: &str,
    node: &str,
    found: Found,
    allowed: Allowed,
) -> anyhow::Result<()> {
    match found {
        Found::Nothing | Found::Ours => Ok(()),
        Found::Empty | Found::Foreign if allowed.drop_existing => Ok(()),
        Found::Empty | Found::Foreign => bail!(
            "node {node} has a database {database} that twinlog bench has not made: rename it, or, if it \
             may go with all that is in it, give --drop-existing"
        ),
    }
}

/// What `check` found: obstacles are an error, the rest is for a person to see.
fn judge(findings: &[Finding], allowed: Allowed) -> anyhow::Result<Vec<String>> {
    let text = |finding: &Finding| {
        let node = finding.node.as_ref();
        let node = node.map_or_else(String::new, |node| format!("node {node}: "));
        let remedy = finding.remedy.as_ref();
        let remedy = remedy.map_or_else(String::new, |remedy| format!("\n    -> {remedy}"));
        format!("{node}{}{remedy}", finding.message)
    };
    // Tables that are there go before anything is made.
    let findings: Vec<&Finding> = findings
        .iter()
        .filter(|finding| !finding.subject.starts_with("tables."))
        .filter(|finding| !finding.subject.starts_with("schema."))
        .collect();
    // One between the two nodes that is stopped would carry the load once it is started again.
    let forbids = |finding: &&&Finding| match finding.level {
        Level::Pass => false,
        Level::Warn => finding.subject == "server.replication" && !allowed.replication,
        Level::Fail => true,
    };
    let obstacles: Vec<&&Finding> = findings.iter().filter(forbids).collect();
    if !obstacles.is_empty() {
        let texts: Vec<String> = obstacles.iter().map(|finding| text(finding)).collect();
        let only_replication = obstacles.iter().all(|finding| finding.level == Level::Warn);
        bail!(
            "nothing can be measured at these servers as they are, and nothing was changed:\n  {}{}",
            texts.join("\n  "),
            if only_replication {
                "\nIf what replicates may get the benchmark's database too, give --allow-replication"
            } else {
                ""
            }
        );
    }
    let warnings = findings
        .iter()
        .filter(|finding| finding.level == Level::Warn);
    Ok(warnings.map(|finding| text(finding)).collect())
}

async fn lock(node: &NodeConfig, connection: &mut NodeConnection) -> anyhow::Result<()> {
    let sql = format!("SELECT GET_LOCK('{LOCK}', 0)");
    let taken: Option<Option<i64>> = connection
        .first(&sql, "taking the benchmark's lock")
        .await?;
    if taken.flatten() != Some(1) {
        bail!(
            "another twinlog bench runs at the server of node {}",
            node.name
        );
    }
    Ok(())
}

/// How many replicas read the server's log.
async fn replicas(
    connection: &mut NodeConnection,
    kind: ServerKind,
) -> twinlog_engine::Result<usize> {
    let context = "looking for replicas";
    match kind {
        // The list of them asks for another privilege.
        ServerKind::MariaDb => {
            let sql = "SHOW GLOBAL STATUS LIKE 'Slaves_connected'";
            let found: Option<(String, usize)> = connection.first(sql, context).await?;
            Ok(found.map_or(0, |(_, count)| count))
        }
        ServerKind::MySql => {
            let rows: Vec<mysql_async::Row> = match connection.all("SHOW REPLICAS", context).await {
                // Before 8.0.22 it has the old name only.
                Err(twinlog_engine::Error::Server { code: 1064, .. }) => {
                    connection.all("SHOW SLAVE HOSTS", context).await?
                }
                other => other?,
            };
            Ok(rows.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_elses_database_is_left_alone() {
        let go_over = Allowed {
            drop_existing: true,
            ..Allowed::default()
        };
        for (found, allowed) in [
            (Found::Nothing, true),
            (Found::Ours, true),
            (Found::Empty, false),
            (Found::Foreign, false),
        ] {
            let refused = refuse_database(DATABASE, "a", found, Allowed::default()).is_err();
            assert_eq!(refused, !allowed, "{found:?}");
            assert!(refuse_database(DATABASE, "a", found, go_over).is_ok());
        }
    }
}
