//! Looks after a running engine: owns the node for it, asks the origins how far their logs are, and
//! checks the auto-increment settings.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::config::{Config, NodeConfig};
use crate::conflict::journal;
use crate::connection::{NodeConnection, quote_string};
use crate::decode::ddl::Xid;
use crate::decode::event::Flavor;
use crate::error::{Error, Result};
use crate::link::read_marker;
use crate::preflight::{AUTO_INCREMENT_QUERY, AutoIncrement, Level, auto_increment_findings};
use crate::status::{LinkProgress, State};
use crate::xa::OLD;
use crate::xa::watch::{self, Watch};

/// How often the origins are asked for the end of their logs.
const EVERY: Duration = Duration::from_secs(1);
/// How often the auto-increment settings are compared.
const AUTO_INCREMENT_EVERY: Duration = Duration::from_secs(60);
/// How long a server may take to answer. A host that drops packets must not hold up the others, nor
/// the look whether the node is still ours.
const PATIENCE: Duration = Duration::from_secs(5);

/// The name, as a literal, of the lock that the engine of a node holds at its server.
pub(crate) fn lock_name(node: &str) -> String {
    quote_string(&format!("twinlog.engine.{node}"))
}

/// Takes the node for this engine, by a lock that the server gives back when the engine's
/// connection ends, however it ends.
///
/// # Errors
/// [`Error::Fenced`] when another engine has it.
pub(crate) async fn own(connection: &mut NodeConnection, node: &str) -> Result<()> {
    let lock = lock_name(node);
    let context = "taking the engine's lock";
    let taken: Option<Option<i64>> = connection
        .first(&format!("SELECT GET_LOCK({lock}, 3)"), context)
        .await?;
    if taken.flatten() == Some(1) {
        return Ok(());
    }
    let holder: Option<Option<u64>> = connection
        .first(&format!("SELECT IS_USED_LOCK({lock})"), context)
        .await?;
    let holder = holder
        .flatten()
        .map(|id| format!(" (connection {id} of the server)"))
        .unwrap_or_default();
    Err(Error::Fenced(format!(
        "another engine is running for node {node}{holder}; stop it first. If its host is gone, \
         KILL that connection"
    )))
}

/// How often old entries of the journal are looked for.
const PURGE_EVERY: Duration = Duration::from_secs(600);

pub(crate) struct Monitor {
    pub config: Arc<Config>,
    pub links: Vec<(NodeConfig, Arc<LinkProgress>)>,
    pub owner: Option<NodeConnection>,
    pub node: NodeConfig,
    pub flavor: Flavor,
    /// Epoch of each origin's marker, as this engine claimed it.
    pub epochs: Vec<(String, u64)>,
    pub links_stop: CancellationToken,
    /// The engine is at its end: the node is given back.
    pub end: CancellationToken,
}

impl Monitor {
    /// Runs until the engine's end.
    pub(crate) async fn run(mut self) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut connections: HashMap<String, NodeConnection> = HashMap::new();
        let mut compared: Option<Instant> = None;
        let mut purged: Option<Instant> = None;
        let mut watches: HashMap<String, Watch> = HashMap::new();
        let node = self.node.name.clone();
        loop {
            tokio::select! {
                biased;
                () = self.end.cancelled() => {
                    // Said goodbye, the server gives the lock back at once.
                    if let Some(owner) = self.owner.take() {
                        owner.close().await;
                    }
                    return;
                }
                _ = ticks.tick() => {}
            }
            let mut own_settings = None;
            let owned = in_time(&node, self.keep_owning()).await;
            match owned {
                Ok(settings) => own_settings = Some(settings),
                Err(error @ Error::Fenced(_)) => {
                    tracing::error!(node = self.node.name, %error, "stopping");
                    for (_, progress) in &self.links {
                        progress.set_state(State::Halted, Some(error.to_string()));
                    }
                    self.links_stop.cancel();
                    return;
                }
                Err(error) => {
                    tracing::debug!(node = self.node.name, %error, "the node does not answer");
                }
            }
            if purged.is_none_or(|then| then.elapsed() >= PURGE_EVERY) {
                purged = Some(Instant::now());
                if let Some(owner) = &mut self.owner {
                    let keep = self.config.journal.keep.as_secs();
                    match journal::purge(owner, &self.config.engine.schema, keep).await {
                        Ok(0) => {}
                        Ok(rows) => {
                            tracing::info!(
                                node,
                                rows,
                                "the conflict journal was purged of old entries"
                            );
                        }
                        Err(error) => {
                            tracing::warn!(node, %error, "the conflict journal cannot be purged");
                        }
                    }
                }
            }
            let mut settings = Vec::new();
            if let Some(own) = own_settings {
                settings.push(numbering(&self.node, own));
            }
            for (origin, progress) in &self.links {
                let asked = ask(&mut connections, origin, self.flavor);
                match in_time(&origin.name, asked).await {
                    Ok(Answer {
                        end,
                        numbers,
                        prepared,
                    }) => {
                        progress.source_at(end, numbers.0, numbers.1);
                        settings.push(numbering(origin, numbers));
                        let watch = watches.entry(origin.name.clone()).or_default();
                        progress.undecided(prepared.map(|prepared| {
                            let (undecided, old) = watch.see(Instant::now(), prepared);
                            warn_of_old(&origin.name, &old);
                            undecided
                        }));
                    }
                    Err(error) => {
                        tracing::debug!(origin = origin.name, %error, "the origin does not answer");
                    }
                }
            }
            let due = compared.is_none_or(|then| then.elapsed() >= AUTO_INCREMENT_EVERY);
            if due && settings.len() == self.config.nodes.len() {
                compared = Some(Instant::now());
                for finding in auto_increment_findings(&settings) {
                    if finding.level != Level::Pass {
                        tracing::warn!(
                            node = finding.node,
                            remedy = finding.remedy,
                            "{}",
                            finding.message
                        );
                    }
                }
            }
        }
    }

    /// Keeps the connection that holds the lock alive, or takes the lock again.
    async fn keep_owning(&mut self) -> Result<(u64, u64)> {
        let mut connection = match self.owner.take() {
            Some(connection) => connection,
            None => {
                let mut connection = NodeConnection::open(&self.node).await?;
                let owned = own(&mut connection, &self.node.name).await;
                // The lock may still be held by our own connection that broke, or be free again
                // because the engine that took it has stopped since; the epoch tells.
                self.verify_epochs(&mut connection).await?;
                if let Err(taken) = owned {
                    return Err(Error::Connection {
                        node: self.node.name.clone(),
                        message: taken.to_string(),
                    });
                }
                connection
            }
        };
        let settings = auto_increment(&mut connection).await?;
        self.owner = Some(connection);
        Ok(settings)
    }
}

impl Monitor {
    async fn verify_epochs(&self, connection: &mut NodeConnection) -> Result<()> {
        for (origin, epoch) in &self.epochs {
            let marker = read_marker(connection, &self.config.engine.schema, origin).await?;
            if marker.epoch != *epoch {
                return Err(Error::Fenced(format!(
                    "another engine has been started for node {}",
                    self.node.name
                )));
            }
        }
        Ok(())
    }
}

/// Gives up after [`PATIENCE`]; the connection that was used is closed then.
async fn in_time<T>(node: &str, answer: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(PATIENCE, answer)
        .await
        .unwrap_or_else(|_| {
            Err(Error::Connection {
                node: node.to_owned(),
                message: format!("no answer within {} s", PATIENCE.as_secs()),
            })
        })
}

fn warn_of_old(origin: &str, old: &[Xid]) {
    for xid in old {
        tracing::warn!(
            origin,
            %xid,
            "an XA transaction is prepared and was not decided for {}: its rows stay locked, and what \
             the other node writes there waits. XA COMMIT {xid} or XA ROLLBACK {xid}; if it was decided \
             before the server died, as it was then",
            humantime::format_duration(OLD)
        );
    }
}

/// What an origin says of itself.
struct Answer {
    /// End of its log.
    end: crate::position::LogPos,
    /// `auto_increment_increment` and `_offset`.
    numbers: (u64, u64),
    /// XA transactions that it has prepared, if the account may ask.
    prepared: Option<Vec<Xid>>,
}

async fn ask(
    connections: &mut HashMap<String, NodeConnection>,
    origin: &NodeConfig,
    flavor: Flavor,
) -> Result<Answer> {
    let mut connection = match connections.remove(&origin.name) {
        Some(connection) => connection,
        None => NodeConnection::open(origin).await?,
    };
    let (_, end) = connection.log_end(flavor).await?;
    let numbers = auto_increment(&mut connection).await?;
    let prepared = watch::recover(&mut connection).await?;
    connections.insert(origin.name.clone(), connection);
    Ok(Answer {
        end,
        numbers,
        prepared,
    })
}

async fn auto_increment(connection: &mut NodeConnection) -> Result<(u64, u64)> {
    connection
        .first(
            AUTO_INCREMENT_QUERY,
            "asking for the auto-increment settings",
        )
        .await?
        .ok_or_else(|| Error::Internal("a SELECT of variables gave no row".to_owned()))
}

fn numbering(node: &NodeConfig, (increment, offset): (u64, u64)) -> AutoIncrement {
    AutoIncrement {
        node: node.name.clone(),
        increment,
        offset,
    }
}
