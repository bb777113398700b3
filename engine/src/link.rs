//! One link: reads the origin's log and applies it at this node, until stopped or halted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::agreement;
use crate::apply::applier::Applier;
use crate::apply::lane::MOST_LANES;
use crate::apply::lanes::Lanes;
use crate::backoff::Backoff;
use crate::config::{Config, NodeConfig};
use crate::conflict::kept;
use crate::conflict::window::Window;
use crate::connection::{Identity, NodeConnection, quote_string};
use crate::error::{Disposition, Error, Result};
use crate::failpoint::{self, Failpoint};
use crate::group::{Gatherer, Item, Limits};
use crate::lineage;
use crate::log_reader::{LogReader, Start, Step};
use crate::origin::{Origin, Reason};
use crate::pipeline::Pipeline;
use crate::position::LogPos;
use crate::position::marker::{Intended, Marker};
use crate::position::reconcile::{Agreement, Resume, reconcile};
use crate::position::store::Store;
use crate::replicator::merges;
use crate::schema::SchemaCatalog;
use crate::spill::Room;
use crate::status::{LinkProgress, State, TailProgress};
use crate::transaction::Seen;

/// Items between reader and apply; their bytes are bounded besides.
pub(crate) const QUEUE_ITEMS: usize = 32_768;
/// How often to look whether the tailer still runs while waiting for it.
const TAILER_LOOK: Duration = Duration::from_millis(500);

/// One link of this engine.
pub(crate) struct Link {
    pub config: Arc<Config>,
    pub origin: NodeConfig,
    pub target: NodeConfig,
    pub target_identity: Identity,
    pub window: Arc<Window>,
    pub catalog: Arc<SchemaCatalog>,
    pub store: Arc<Store>,
    pub progress: Arc<LinkProgress>,
    pub tail: Arc<TailProgress>,
    pub epoch: u64,
    pub stop: CancellationToken,
    /// As the reader of the origin's log left it: what an engine was about to run at the origin.
    pub intended: Arc<Mutex<Option<Intended>>>,
}

/// Ends a task when dropped.
pub(crate) struct Reading(pub(crate) JoinHandle<Result<()>>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Link {
    /// Runs until stopped or halted, trying again whatever passes by itself.
    pub(crate) async fn supervise(self) {
        let mut backoff = Backoff::new(self.config.engine.backoff);
        let (origin, target) = (&self.origin.name, &self.target.name);
        loop {
            let started = Instant::now();
            let outcome = self.run().await;
            if started.elapsed() > self.config.engine.backoff.1 {
                backoff.reset();
            }
            let error = match outcome {
                Ok(()) | Err(Error::Stopped) => {
                    self.progress.set_state(State::Stopped, None);
                    return;
                }
                Err(error) => error,
            };
            let tail_halted = self.tail.halted();
            if error.disposition() == Disposition::Halt || tail_halted.is_some() {
                let mut message = error.to_string();
                if let Some(cause) = tail_halted {
                    message = format!("the tailer of node {target} is halted: {cause}");
                }
                tracing::error!(origin, target, error = message, "the link halted");
                self.progress.set_state(State::Halted, Some(message));
                return;
            }
            let pause = backoff.next();
            tracing::warn!(origin, target, %error, ?pause, "the link tries again");
            self.progress.retried();
            self.progress
                .set_state(State::Retrying, Some(error.to_string()));
            tokio::select! {
                () = self.stop.cancelled() => {
                    self.progress.set_state(State::Stopped, None);
                    return;
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// From finding the place to the first error.
    async fn run(&self) -> Result<()> {
        let breaks = self.tail.breaks();
        let set_up = async {
            let mut connection = NodeConnection::open(&self.target).await?;
            end_applier(&mut connection, &self.origin.name).await?;
            let marker = self.read_marker(&mut connection).await?;
            let resume = self.find_place(&marker)?;
            let mut origin_connection = NodeConnection::open(&self.origin).await?;
            let origin = origin_connection.identity().await?;
            agreement::compare(&mut origin_connection, &self.config, &self.origin.name).await?;
            // The place to go on from may lie behind the marker that says what was about to run.
            let reverse = read_marker(
                &mut origin_connection,
                &self.config.engine.schema,
                &self.target.name,
            )
            .await?;
            let remembered = lock(&self.intended).clone();
            let intended = reverse.intended.clone().or(remembered);
            self.verify_kinds(&origin)?;
            let (here, there) = (&self.target.name, &self.origin.name);
            let from = resume.position;
            lineage::verify(&mut origin_connection, &marker, here, &origin, from).await?;
            let relaxed = origin_connection.relaxed_settings().await?;
            origin_connection.close().await;
            // The other way about: what the origin says that it has seen of our own log.
            let own = connection.identity().await?;
            let applied = reverse.position;
            let end = lineage::verify(&mut connection, &reverse, there, &own, applied).await?;
            // Until the tailer has caught up with our own log, every commit would wait for it with
            // its row locks held. And what became of DDL that was about to run stands there too.
            self.caught_up(end).await?;
            let birth = self.tail.birth_of(applied.file);
            lineage::same_file(&reverse, there, &own, birth)?;
            if merges(&self.config) {
                // A commit whose answer was lost may have gone through.
                let (schema, histories) = (&self.config.engine.schema, self.window.histories());
                let acknowledged = self.window.acknowledged();
                kept::load(&mut connection, schema, histories, acknowledged, false).await?;
            }
            let start = Start {
                position: resume.position,
                log_birth: resume.log_birth,
                clock: resume.clock,
                seen: Seen {
                    position: resume.seen,
                    clock: resume.seen_clock,
                },
                intended,
                marked: resume.marked,
                numbered: resume.numbered,
                xa_from: resume.xa_from,
            };
            let reader = LogReader::open(
                &self.origin,
                &origin,
                &self.target_identity,
                start,
                &self.config,
                Room::of(&self.config, &self.target.name),
            )
            .await?;
            Ok::<_, Error>((connection, marker, resume, origin, reader, relaxed))
        };
        let (connection, marker, resume, origin, reader, relaxed) = tokio::select! {
            () = self.stop.cancelled() => return Err(Error::Stopped),
            ready = set_up => ready?,
        };
        tracing::info!(
            origin = self.origin.name,
            target = self.target.name,
            position = origin.log_name.show(resume.position),
            because = resume.agreement.because(),
            "the link runs"
        );
        self.progress.resumed(
            origin.log_name.clone(),
            resume.position,
            marker.transactions,
            marker.changes,
        );
        let (sender, items) = mpsc::channel(QUEUE_ITEMS);
        let reading = Reading(tokio::spawn(read(
            reader,
            sender,
            Arc::clone(&self.progress),
            self.config.replication.queue_bytes,
            self.origin.name.clone(),
            Arc::clone(&self.intended),
            relaxed,
        )));
        let lanes = Lanes::new(
            &self.config,
            &self.target,
            [&origin, &self.target_identity],
            &self.window,
            &self.catalog,
            &self.progress,
        );
        let applier = Applier::new(
            connection,
            Arc::clone(&self.config),
            origin,
            self.target_identity.clone(),
            Arc::clone(&self.window),
            Arc::clone(&self.catalog),
            Arc::clone(&self.progress),
            marker,
        )
        .await?;
        let gatherer = Gatherer::new(items, limits(&self.config));
        Pipeline::new(self, applier, gatherer, lanes, &resume)
            .run(reading, breaks)
            .await
    }

    /// Waits until the tailer has read up to `end`, as long as it runs.
    async fn caught_up(&self, end: LogPos) -> Result<()> {
        loop {
            let read = tokio::time::timeout(TAILER_LOOK, self.window.read_up_to(end)).await;
            match (read, self.tail.halted()) {
                (Ok(read), _) => return read,
                (Err(_), Some(cause)) => {
                    return Err(Error::Connection {
                        node: self.target.name.clone(),
                        message: format!("the tailer of its binlog is halted: {cause}"),
                    });
                }
                (Err(_), None) => {}
            }
        }
    }

    fn verify_kinds(&self, origin: &Identity) -> Result<()> {
        if origin.flavor == self.target_identity.flavor {
            return Ok(());
        }
        Err(Error::Preflight(format!(
            "node {} is {} and node {} is {}: both must be MySQL or both MariaDB",
            self.origin.name, origin.version, self.target.name, self.target_identity.version
        )))
    }

    async fn read_marker(&self, connection: &mut NodeConnection) -> Result<Marker> {
        let marker = read_marker(connection, &self.config.engine.schema, &self.origin.name).await?;
        if marker.epoch != self.epoch {
            return Err(Error::Fenced(format!(
                "another engine has been started for node {} (epoch {} after our {}); this one \
                 stops. Run one engine for each node",
                self.target.name, marker.epoch, self.epoch
            )));
        }
        Ok(marker)
    }

    fn find_place(&self, marker: &Marker) -> Result<Resume> {
        let kept = self.store.link(&self.origin.name)?;
        let resume = reconcile(marker, kept.as_ref());
        if let Agreement::TargetWentBack { kept } = resume.agreement {
            tracing::warn!(
                origin = self.origin.name,
                target = self.target.name,
                position = marker.log_name.show(resume.position),
                kept = marker.log_name.show(kept),
                "the target's marker is behind what the store knows: the target lost commits (a \
                 restored backup, or a crash with relaxed durability)"
            );
        }
        Ok(resume)
    }
}

/// Ends the connections that apply what `origin` wrote at this node, if there are any, and takes the
/// lock of the first. Their engine may hang, or the server may not know yet that a connection is broken;
/// until it ends it holds row locks, that of the marker row too, or runs a statement still. A lock of
/// the server's tells which it is; its number alone would not, since a server that was restarted gives
/// the numbers out again. The server gives the lock back when it has rolled back what the connection had
/// open.
///
/// # Errors
/// [`Error::Connection`] where one cannot be ended, or not yet.
pub(crate) async fn end_applier(connection: &mut NodeConnection, origin: &str) -> Result<()> {
    let context = "taking the apply lock";
    let holders = (0..=MOST_LANES).map(|lane| {
        let lock = apply_lock(origin, lane);
        format!("SELECT {lane}, IS_USED_LOCK({lock})")
    });
    let holders = holders.collect::<Vec<_>>().join(" UNION ALL ");
    let mut holders: Vec<(usize, Option<u64>)> = connection.all(&holders, context).await?;
    // That of the applier is taken last, and kept.
    holders.sort_by_key(|(lane, _)| std::cmp::Reverse(*lane));
    for (lane, previous) in holders {
        if let Some(previous) = previous {
            match connection
                .execute(format!("KILL {previous}"), context)
                .await
            {
                // It ended by itself meanwhile.
                Ok(_) | Err(Error::Server { code: 1094, .. }) => {}
                Err(error) => {
                    return Err(Error::Connection {
                        node: connection.node().to_owned(),
                        message: format!(
                            "connection {previous} still applies for this link, under another account, \
                             and cannot be ended ({error}); KILL it"
                        ),
                    });
                }
            }
        }
        if lane == 0 || previous.is_some() {
            take_apply_lock(connection, origin, lane).await?;
        }
        if lane > 0 && previous.is_some() {
            release(connection, &apply_lock(origin, lane)).await?;
        }
    }
    Ok(())
}

/// Takes the lock of the connection that applies in this lane; 0 is that of the applier.
///
/// # Errors
/// [`Error::Connection`] where another connection has it.
pub(crate) async fn take_apply_lock(
    connection: &mut NodeConnection,
    origin: &str,
    lane: usize,
) -> Result<()> {
    let sql = format!("SELECT GET_LOCK({}, 5)", apply_lock(origin, lane));
    let taken: Option<Option<i64>> = connection.first(&sql, "taking the apply lock").await?;
    if taken.flatten() == Some(1) {
        return Ok(());
    }
    Err(Error::Connection {
        node: connection.node().to_owned(),
        message: "the connection that applied before has not ended yet".to_owned(),
    })
}

/// Gives the lock of [`end_applier`] back.
pub(crate) async fn let_apply(connection: &mut NodeConnection, origin: &str) -> Result<()> {
    release(connection, &apply_lock(origin, 0)).await
}

async fn release(connection: &mut NodeConnection, lock: &str) -> Result<()> {
    let sql = format!("DO RELEASE_LOCK({lock})");
    connection
        .execute(sql, "giving back the apply lock")
        .await?;
    Ok(())
}

/// The name, as a literal, of the lock that the connection holds which applies what `origin` wrote.
fn apply_lock(origin: &str, lane: usize) -> String {
    match lane {
        0 => quote_string(&format!("twinlog.apply.{origin}")),
        lane => quote_string(&format!("twinlog.apply.{lane}.{origin}")),
    }
}

/// Reads the marker of one origin at a node.
///
/// # Errors
/// [`Error::Preflight`] when the node was not set up.
pub(crate) async fn read_marker(
    connection: &mut NodeConnection,
    schema: &str,
    origin: &str,
) -> Result<Marker> {
    let node = connection.node().to_owned();
    let not_set_up = || {
        Error::Preflight(format!(
            "node {node} has no position for origin {origin}: run `twinlog init` once, while both \
             nodes hold the same data"
        ))
    };
    let row = connection
        .first::<mysql_async::Row>(&Marker::select(schema, origin), "reading the marker row")
        .await;
    match row {
        Ok(Some(row)) => Marker::from_row(row),
        // Unknown database or table.
        Ok(None)
        | Err(Error::Server {
            code: 1049 | 1146, ..
        }) => Err(not_set_up()),
        Err(error) => Err(error),
    }
}

/// A server's UUID as the marker keeps it.
pub(crate) fn uuid_text(identity: &Identity) -> String {
    identity
        .uuid
        .map(crate::gtid::format_uuid)
        .unwrap_or_default()
}

fn lock(intended: &Mutex<Option<Intended>>) -> MutexGuard<'_, Option<Intended>> {
    intended.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Limits of one commit, as the config file has them.
pub(crate) fn limits(config: &Config) -> Limits {
    Limits {
        transactions: config.replication.group_transactions,
        rows: config.replication.group_rows,
        bytes: config.replication.group_bytes,
        time: config.replication.group_time,
    }
}

/// Reads the origin's log into the queue.
pub(crate) async fn read(
    mut reader: LogReader,
    sender: mpsc::Sender<Item>,
    progress: Arc<LinkProgress>,
    queue_bytes: usize,
    origin: String,
    intended: Arc<Mutex<Option<Intended>>>,
    relaxed: Option<String>,
) -> Result<()> {
    // Room is counted in KiB so that it fits the semaphore's numbers.
    let room_kib = u32::try_from(queue_bytes / 1024).unwrap_or(u32::MAX).max(1);
    let room = Arc::new(Semaphore::new(room_kib as usize));
    let mut warned = false;
    loop {
        let step = reader.next().await?;
        failpoint::reach(Failpoint::Received);
        if let (Some(position), Some(relaxed)) = (reader.crashed(), &relaxed) {
            let message = format!(
                "a file of the log of node {origin} ends without a goodbye: its server crashed. It runs \
                 with {relaxed}: if the machine went down with it, it may have lost commits that the log \
                 has. Compare the nodes (`twinlog verify`); set both to 1"
            );
            tracing::warn!(origin, %position, "{message}");
            progress.crashed(message);
        }
        let item = match step {
            Step::Transaction(Origin::Local(local)) => {
                failpoint::reach(Failpoint::Assembled);
                let weight = u32::try_from(local.weight / 1024 + 1).unwrap_or(u32::MAX);
                // A transaction larger than all the room waits until it is alone.
                let permit = Arc::clone(&room)
                    .acquire_many_owned(weight.min(room_kib))
                    .await
                    .map_err(|_| Error::Stopped)?;
                progress.queued(local.end, local.committed_at);
                Item::Foreign(local, permit)
            }
            Step::Transaction(Origin::Huge(huge)) => {
                // It takes all the room, so that no more than one waits on disk.
                let permit = Arc::clone(&room)
                    .acquire_many_owned(room_kib)
                    .await
                    .map_err(|_| Error::Stopped)?;
                progress.queued(huge.head().end, huge.head().committed_at);
                Item::Huge(huge, permit)
            }
            Step::Transaction(Origin::Passed(passed)) => {
                progress.passed(&passed);
                lock(&intended).clone_from(&reader.intended().cloned());
                match &passed.reason {
                    Reason::Returned if !warned => {
                        warned = true;
                        tracing::warn!(
                            origin,
                            position = %passed.end,
                            "changes of this node came back by another way than an engine and were \
                             left out: is the servers' own replication still set up between the \
                             nodes? STOP REPLICA and RESET REPLICA ALL there"
                        );
                    }
                    Reason::LeftOut(rule) => {
                        tracing::debug!(origin, position = %passed.end, rule, "left out");
                    }
                    _ => {}
                }
                Item::Passed(passed)
            }
            Step::Rotated(position) => {
                progress.read_to(position);
                Item::Rotated(position)
            }
            Step::Boundary(position) => {
                progress.read_to(position);
                continue;
            }
            Step::Within => continue,
        };
        if sender.send(item).await.is_err() {
            return Err(Error::Stopped);
        }
    }
}
