//! Wires the stages of one node's engine. No logic of its own.
//!
//! The way through: [`crate::source`] -> [`crate::decode`] -> [`crate::assemble`] ->
//! [`crate::origin`] (together: [`crate::log_reader`]) -> [`crate::group`] -> [`crate::apply`] ->
//! [`crate::position`]. One engine has one tailer of its own node's log and one link for each other
//! node.

use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::agreement;
use crate::config::{Config, NodeConfig};
use crate::conflict::kept;
use crate::conflict::window::Window;
use crate::connection::{Identity, NodeConnection};
use crate::error::{Error, Result};
use crate::failpoint::{self, Failpoint};
use crate::link::{Link, end_applier, let_apply, read_marker};
use crate::log_reader::Start;
use crate::monitor;
use crate::own_schema;
use crate::position::marker::{MARKER_TABLE, Marker};
use crate::position::own_log::OwnLog;
use crate::position::reconcile::reconcile;
use crate::position::store::{Opened, Store};
use crate::preflight;
use crate::schema::SchemaCatalog;
use crate::status::{self, EngineStatus, LinkProgress, TailProgress};
use crate::tailer::Tailer;

/// How long the end waits for the node to take its lock back.
const GOODBYE: std::time::Duration = std::time::Duration::from_secs(3);

/// How long a store that is locked is tried again.
const LET_GO: std::time::Duration = std::time::Duration::from_secs(1);

/// Starts engines.
#[derive(Debug)]
pub struct Engine;

/// A running engine. Dropping it stops it at once; [`EngineHandle::shutdown`] stops it cleanly.
pub struct EngineHandle {
    node: String,
    stop: CancellationToken,
    now: CancellationToken,
    links: Vec<JoinHandle<()>>,
    background: Vec<JoinHandle<()>>,
    status: status::StatusReader,
    timeout: std::time::Duration,
}

impl Engine {
    /// Starts the engine that runs alongside `node`. Returns once it owns the node; links connect
    /// by themselves and keep trying.
    ///
    /// # Errors
    /// [`Error::Connection`] when the node itself cannot be reached, [`Error::Preflight`] when it
    /// was not set up, [`Error::Fenced`] when another engine runs for it, [`Error::Store`],
    /// [`Error::Config`].
    pub async fn start(config: Arc<Config>, node: &str) -> Result<EngineHandle> {
        let target = config.node(node)?.clone();
        let folder = config.engine.data_dir.join(&target.name);
        let (store, opened) = Store::open_within(&folder, LET_GO).await?;
        if let Opened::MovedAside(aside, problem) = opened {
            tracing::warn!(
                node,
                problem,
                moved_to = %aside.display(),
                "the position store could not be read and was moved aside; positions come from the \
                 marker rows"
            );
        }
        let store = Arc::new(store);
        let mut owner = NodeConnection::open(&target).await?;
        let identity = owner.identity().await?;
        monitor::own(&mut owner, node).await?;
        // An earlier version may have set the node up.
        if is_set_up(&mut owner, &config).await? {
            own_schema::ensure(&mut owner, &config.engine.schema).await?;
            agreement::publish(&mut owner, &config, node).await?;
        }
        preflight::rules::verify(&config, &target).await?;
        let mut markers = Vec::new();
        for origin in config
            .nodes
            .iter()
            .filter(|other| other.name != target.name)
        {
            let marker = claim_epoch(&mut owner, &config.engine.schema, &origin.name).await?;
            markers.push((origin.clone(), marker));
        }
        failpoint::reach(Failpoint::Claimed);
        let stop = CancellationToken::new();
        let now = CancellationToken::new();
        let catalog = Arc::new(SchemaCatalog::new(target.clone()));
        let tail = Arc::new(TailProgress::default());
        let start = tailer_start(&markers, &store, &identity)?;
        let epoch = markers.first().map_or(0, |(_, marker)| marker.epoch);
        let own_log = OwnLog::open(Arc::clone(&store), identity.clone(), epoch)?;
        let (_, end) = owner.log_end(identity.flavor).await?;
        let window = Arc::new(Window::bounded(
            start.position,
            config.replication.window_bytes,
            &folder.join("window"),
        )?);
        if merges(&config) {
            let (schema, histories) = (&config.engine.schema, window.histories());
            kept::load(&mut owner, schema, histories, start.position, true).await?;
        }
        let mut link_tasks = Vec::new();
        let mut background = Vec::new();
        let mut links = Vec::new();
        for (origin, marker) in &markers {
            let progress = Arc::new(LinkProgress::new(&origin.name, &target.name));
            links.push((origin.clone(), Arc::clone(&progress)));
            let link = Link {
                config: Arc::clone(&config),
                origin: origin.clone(),
                target: target.clone(),
                target_identity: identity.clone(),
                window: Arc::clone(&window),
                catalog: Arc::clone(&catalog),
                store: Arc::clone(&store),
                progress,
                tail: Arc::clone(&tail),
                epoch: marker.epoch,
                stop: stop.clone(),
                intended: Arc::default(),
            };
            link_tasks.push(spawn(&now, link.supervise()));
        }
        let tailer = Tailer {
            config: Arc::clone(&config),
            node: target.clone(),
            identity: identity.clone(),
            peer: peer_of(&markers, &identity)?,
            window: Arc::clone(&window),
            catalog,
            progress: Arc::clone(&tail),
            own_log,
            end,
            // The links may still be finishing what they have in hand, and need it for that.
            stop: now.clone(),
            merges: merges(&config),
            rank: rank(&config, &target.name),
        };
        // It writes down how far it came before it ends, and so is not simply dropped.
        background.push(tokio::spawn(tailer.run(start)));
        let watch = monitor::Monitor {
            config: Arc::clone(&config),
            links: links.clone(),
            owner: Some(owner),
            node: target.clone(),
            flavor: identity.flavor,
            epochs: markers
                .iter()
                .map(|(origin, marker)| (origin.name.clone(), marker.epoch))
                .collect(),
            links_stop: stop.clone(),
            end: now.clone(),
        };
        // It gives the node back before it ends, and so is not simply dropped.
        background.push(tokio::spawn(watch.run()));
        let status = status_reader(&config, &identity, window, tail, links);
        if let Some(address) = target.listen {
            let bound = status::serve(address, Arc::clone(&status), now.clone()).await;
            match bound {
                Ok(address) => tracing::info!(node, %address, "status at http://{address}/status"),
                Err(error) => {
                    now.cancel();
                    return Err(error);
                }
            }
        }
        Ok(EngineHandle {
            node: target.name.clone(),
            stop,
            now,
            links: link_tasks,
            background,
            status,
            timeout: config.engine.shutdown_timeout,
        })
    }
}

impl EngineHandle {
    /// Name of the node that the engine runs alongside.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// How it stands now.
    #[must_use]
    pub fn status(&self) -> EngineStatus {
        (self.status)()
    }

    /// Stops cleanly: the group in hand is committed or rolled back, positions are written out.
    /// After `shutdown_timeout` whatever is left is ended; that loses nothing either, it only has
    /// to be applied again. Takes three seconds more at most, for the goodbye.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        let mut links = std::mem::take(&mut self.links);
        let finished = async {
            for task in &mut links {
                let _ = task.await;
            }
        };
        if tokio::time::timeout(self.timeout, finished).await.is_err() {
            tracing::warn!(
                node = self.node,
                "did not stop in time; what was in hand is rolled back by the server"
            );
        }
        // The tailer, the lock on the node and the status page are needed to the end.
        self.now.cancel();
        // A link that was cut off lets go of the store once its task has ended.
        links.retain(|task| !task.is_finished());
        links.append(&mut self.background);
        let deadline = tokio::time::Instant::now() + GOODBYE;
        for task in links {
            if tokio::time::timeout_at(deadline, task).await.is_err() {
                tracing::debug!(
                    node = self.node,
                    "the node did not take its lock back in time"
                );
            }
        }
    }
}

impl Drop for EngineHandle {
    fn drop(&mut self) {
        self.stop.cancel();
        self.now.cancel();
        for task in self.links.iter().chain(&self.background) {
            task.abort();
        }
    }
}

impl std::fmt::Debug for EngineHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineHandle")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// Runs a task that `now` ends at once.
fn spawn(
    now: &CancellationToken,
    task: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<()> {
    let now = now.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = now.cancelled() => {}
            () = task => {}
        }
    })
}

/// Place of a node in the order of nodes, from 0.
pub(crate) fn place(config: &Config, node: &str) -> u8 {
    let place = config.nodes.iter().position(|known| known.name == node);
    place
        .and_then(|place| u8::try_from(place).ok())
        .unwrap_or(u8::MAX)
}

/// Rank of a node's writes among those of the same time: the node that stands first is higher.
pub(crate) fn rank(config: &Config, node: &str) -> u8 {
    u8::from(place(config, node) == 0)
}

/// Whether any rule merges rows.
pub(crate) fn merges(config: &Config) -> bool {
    let mut rules = config.conflicts.sections().iter();
    rules.any(|rule| rule.column_merge || !rule.columns.is_empty())
}

/// Whether `init` has been here.
async fn is_set_up(owner: &mut NodeConnection, config: &Config) -> Result<bool> {
    let sql = format!(
        "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = {} AND TABLE_NAME = '{}'",
        crate::connection::quote_string(&config.engine.schema),
        own_schema::MARKER,
    );
    Ok(owner
        .count(sql.as_bytes(), "looking for the engine's schema")
        .await?
        > 0)
}

/// Raises the epoch of a marker, so that an engine started before is fenced at its next apply.
///
/// One that hangs within an apply transaction holds the marker row for as long as its connection lives,
/// so that is ended first. Nothing is lost: it has committed, or its server rolls it back.
async fn claim_epoch(owner: &mut NodeConnection, schema: &str, origin: &str) -> Result<Marker> {
    read_marker(owner, schema, origin).await?;
    end_applier(owner, origin).await?;
    let sql = format!(
        "UPDATE {}.{MARKER_TABLE} SET epoch = epoch + 1 WHERE origin = {}",
        crate::connection::quote_identifier(schema),
        crate::connection::quote_string(origin)
    );
    let raised = owner.execute(sql, "raising the epoch").await;
    // Not before: an engine that is stale and awake would begin anew.
    let_apply(owner, origin).await?;
    raised?;
    read_marker(owner, schema, origin).await
}

/// The tailer begins where some peer may not yet have seen our log.
fn tailer_start(
    markers: &[(NodeConfig, Marker)],
    store: &Store,
    identity: &Identity,
) -> Result<Start> {
    let mut start: Option<Start> = None;
    for (origin, marker) in markers {
        if !marker.seen_name.same_log(&identity.log_name) {
            return Err(Error::LogLost {
                node: identity.node.to_string(),
                problem: format!(
                    "the log is called {} now and was {} when the link was set up; set the \
                     positions anew with `twinlog positions set`",
                    identity.log_name.file(1),
                    marker.seen_name.file(marker.seen.file)
                ),
            });
        }
        let resume = reconcile(marker, store.link(&origin.name)?.as_ref());
        let this = Start::at(resume.seen, resume.seen_clock);
        if start
            .as_ref()
            .is_none_or(|earliest| this.position < earliest.position)
        {
            start = Some(this);
        }
    }
    start.ok_or_else(|| Error::Config("there is no other node".to_owned()))
}

/// The other node as its marker tells; it need not be reachable yet.
fn peer_of(markers: &[(NodeConfig, Marker)], own: &Identity) -> Result<Identity> {
    let (origin, marker) = markers
        .first()
        .ok_or_else(|| Error::Config("there is no other node".to_owned()))?;
    Ok(Identity {
        node: origin.name.as_str().into(),
        flavor: own.flavor,
        version: String::new(),
        server_id: marker.server_id,
        uuid: crate::gtid::parse_uuid(&marker.server_uuid),
        log_name: marker.log_name.clone(),
    })
}

fn status_reader(
    config: &Config,
    identity: &Identity,
    window: Arc<Window>,
    tail: Arc<TailProgress>,
    links: Vec<(NodeConfig, Arc<LinkProgress>)>,
) -> status::StatusReader {
    let started = Instant::now();
    let digest = config.digest();
    let memory = config.engine.memory as u64;
    let identity = identity.clone();
    Arc::new(move || {
        let tailer = tail.status(
            identity.log_name.show(window.read_position()),
            (window.len(), window.spilled(), window.histories().len()),
        );
        EngineStatus {
            node: identity.node.to_string(),
            twinlog_version: env!("CARGO_PKG_VERSION").to_owned(),
            config_digest: digest.clone(),
            flavor: identity.flavor,
            server_version: identity.version.clone(),
            uptime_seconds: started.elapsed().as_secs(),
            memory: status::MemoryStatus::now(memory),
            links: links
                .iter()
                .map(|(_, progress)| progress.status().given(&tailer))
                .collect(),
            tailer,
        }
    })
}
