//! One link: reads the origin's log and applies it at this node, until stopped or halted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::agreement;
use crate::ahead::Ahead;
use crate::apply::applier::Applier;
use crate::apply::prepare::Prepared;
use crate::backoff::Backoff;
use crate::config::{Config, NodeConfig};
use crate::conflict::kept;
use crate::conflict::window::Window;
use crate::connection::{Identity, NodeConnection, quote_string};
use crate::error::{Disposition, Error, Result};
use crate::failpoint::{self, Failpoint};
use crate::group::{Batch, Gatherer, Item, Limits};
use crate::gtid::Gtid;
use crate::lineage;
use crate::log_reader::{LogReader, Start, Step};
use crate::origin::{Origin, Reason};
use crate::position::LogPos;
use crate::position::marker::{Intended, Marker};
use crate::position::reconcile::{Agreement, Resume, reconcile};
use crate::position::store::{LinkRecord, Store};
use crate::replicator::merges;
use crate::schema::SchemaCatalog;
use crate::spill::Room;
use crate::status::{LinkProgress, State, TailProgress};
use crate::transaction::{Local, Seen};

/// Items between reader and apply; their bytes are bounded besides.
pub(crate) const QUEUE_ITEMS: usize = 32_768;
/// Log behind the marker that a lost store may make us read again before the marker is moved
/// without rows.
const IDLE_MARKER_BYTES: u64 = 8 << 20;
/// But not more often than this, so that two idle engines do not write for each other.
const IDLE_MARKER_PAUSE: Duration = Duration::from_secs(10);
/// How often to look whether the tailer still runs while waiting for it.
const TAILER_LOOK: Duration = Duration::from_millis(500);
/// Pauses after a deadlock or lock timeout.
const CONTENTION_BACKOFF: (Duration, Duration) =
    (Duration::from_millis(5), Duration::from_millis(500));

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
        self.settle(applier, gatherer, resume, reading, breaks)
            .await
    }

    /// Applies batch after batch.
    async fn settle(
        &self,
        mut applier: Applier,
        mut gatherer: Gatherer,
        resume: Resume,
        mut reading: Reading,
        mut breaks: watch::Receiver<u64>,
    ) -> Result<()> {
        let mut clock = resume.clock;
        let mut seen = Seen {
            position: resume.seen,
            clock: resume.seen_clock,
        };
        let mut marked = resume.marked;
        let mut xa_from = resume.xa_from;
        let mut birth = (resume.position.file, resume.log_birth);
        let mut marker_moved = Instant::now();
        // DDL was about to run at the origin and its log has not said yet whether it ran: whoever
        // goes on reading has to begin in front of that.
        let mut open_intent = false;
        let mut ahead = Ahead::new(applier.preparer());
        loop {
            let batch = tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    self.store.flush()?;
                    failpoint::reach(Failpoint::Stopping);
                    return Ok(());
                }
                batch = ahead.next(&mut gatherer) => batch?,
                // An idle link would not notice that its own node was down, and may have come back
                // without what was applied.
                Ok(()) = breaks.changed() => {
                    return Err(Error::Connection {
                        node: self.target.name.clone(),
                        message: "the connection of its tailer broke: looking at the node anew"
                            .to_owned(),
                    });
                }
            };
            let Some((mut batch, prepared)) = batch else {
                return match (&mut reading.0).await {
                    Ok(Ok(())) => Err(Error::Internal("the reader ended by itself".to_owned())),
                    Ok(Err(error)) => Err(error),
                    Err(join) => Err(Error::Internal(format!("the reader failed: {join}"))),
                };
            };
            failpoint::reach(Failpoint::Grouped);
            let end = batch.end;
            // Known only of what ends there itself: behind it there may be more without a write.
            let mut numbered = None;
            let last = batch.huge.as_ref().map(|huge| huge.head());
            if let Some(last) = last.or(batch.transactions.last()) {
                (clock, seen) = (last.effective, last.seen);
                birth = birth.max((last.end.file, last.log_birth));
                numbered = own_number(last, applier.origin_uuid()).filter(|_| last.end == end);
                marker_moved = Instant::now();
            }
            if let Some(last) = batch.passed.last() {
                xa_from = last.xa_from;
                // Whichever stands later in the log knows more.
                clock = clock.max(last.clock);
                birth = birth.max((last.end.file, last.log_birth));
                if last.end == end {
                    numbered = last.numbered;
                }
                if last.seen.position > seen.position {
                    seen = last.seen;
                }
            }
            for passed in &batch.passed {
                match &passed.reason {
                    Reason::Applied(marker) => {
                        open_intent = marker.intent.is_some();
                        marked = Some(marker.position);
                    }
                    Reason::AppliedDefinition => open_intent = false,
                    _ => {}
                }
            }
            // What comes behind DDL may fit its tables only once that has run.
            if !batch.is_definition() {
                ahead.prepare_behind(&batch, &mut gatherer);
            }
            let begun = Instant::now();
            let contended = self
                .apply_patiently(&mut applier, &mut batch, prepared)
                .await?;
            gatherer.applied(&batch, begun.elapsed());
            if contended {
                gatherer.contended();
            }
            drop(batch);
            self.window.acknowledge(seen.position);
            self.progress.settled(end);
            if open_intent {
                continue;
            }
            let committed = applier.marker().position;
            let far = end.file != committed.file
                || end.offset.saturating_sub(committed.offset) > IDLE_MARKER_BYTES;
            if far && marker_moved.elapsed() > IDLE_MARKER_PAUSE {
                applier
                    .move_marker((end, 0), clock, (seen.position, seen.clock))
                    .await?;
                marker_moved = Instant::now();
            }
            failpoint::reach(Failpoint::BeforeStore);
            self.store.keep_link(
                &self.origin.name,
                &LinkRecord {
                    marker: applier.marker().position,
                    transactions: applier.marker().transactions,
                    gtid: applier.marker().gtid.clone(),
                    settled: end,
                    clock,
                    seen: seen.position,
                    seen_clock: seen.clock,
                    log_birth: if birth.0 == end.file { birth.1 } else { 0 },
                    marked,
                    numbered,
                    xa_from,
                },
            )?;
            failpoint::reach(Failpoint::AfterStore);
        }
    }

    /// Applies a batch, again and again while others hold its locks: a client that keeps a row
    /// locked delays the link, and must not stop it. Says whether they did.
    async fn apply_patiently(
        &self,
        applier: &mut Applier,
        batch: &mut Batch,
        mut prepared: Option<Prepared>,
    ) -> Result<bool> {
        let mut backoff = Backoff::new(CONTENTION_BACKOFF);
        let mut contended = false;
        loop {
            match applier.apply(batch, prepared.take()).await {
                Err(Error::Contention { code, message, .. }) => {
                    contended = true;
                    self.progress.retried();
                    let pause = backoff.next();
                    tracing::debug!(code, message, ?pause, "lock contention: trying again");
                    tokio::select! {
                        () = self.stop.cancelled() => return Err(Error::Stopped),
                        () = tokio::time::sleep(pause) => {}
                    }
                    let committed = applier.marker().position;
                    batch.forget(committed);
                }
                Err(error) => return Err(error),
                Ok(()) => return Ok(contended),
            }
        }
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

/// Ends the connection that applies what `origin` wrote at this node, if there is one, and takes its
/// lock. Its engine may hang, or the server may not know yet that the connection is broken; until it
/// ends it holds row locks, that of the marker row too, or runs a statement still. A lock of the
/// server's tells which it is; its number alone would not, since a server that was restarted gives the
/// numbers out again. The server gives the lock back when it has rolled back what the connection had
/// open.
///
/// # Errors
/// [`Error::Connection`] where it cannot be ended, or not yet.
pub(crate) async fn end_applier(connection: &mut NodeConnection, origin: &str) -> Result<()> {
    let lock = apply_lock(origin);
    let context = "taking the apply lock";
    let node = connection.node().to_owned();
    let previous: Option<Option<u64>> = connection
        .first(&format!("SELECT IS_USED_LOCK({lock})"), context)
        .await?;
    if let Some(previous) = previous.flatten() {
        match connection
            .execute(format!("KILL {previous}"), context)
            .await
        {
            // It ended by itself meanwhile.
            Ok(_) | Err(Error::Server { code: 1094, .. }) => {}
            Err(error) => {
                return Err(Error::Connection {
                    node,
                    message: format!(
                        "connection {previous} still applies for this link, under another account, and \
                         cannot be ended ({error}); KILL it"
                    ),
                });
            }
        }
    }
    let taken: Option<Option<i64>> = connection
        .first(&format!("SELECT GET_LOCK({lock}, 5)"), context)
        .await?;
    if taken.flatten() == Some(1) {
        return Ok(());
    }
    Err(Error::Connection {
        node,
        message: "the connection that applied before has not ended yet".to_owned(),
    })
}

/// Gives the lock of [`end_applier`] back.
pub(crate) async fn let_apply(connection: &mut NodeConnection, origin: &str) -> Result<()> {
    let sql = format!("DO RELEASE_LOCK({})", apply_lock(origin));
    connection
        .execute(sql, "giving back the apply lock")
        .await?;
    Ok(())
}

/// The name, as a literal, of the lock that the connection holds which applies what `origin` wrote.
fn apply_lock(origin: &str) -> String {
    quote_string(&format!("twinlog.apply.{origin}"))
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

/// Number of a transaction's GTID, if the log's own server gave it out.
fn own_number(local: &Local, own: Option<[u8; 16]>) -> Option<u64> {
    match &local.gtid {
        Some(Gtid::MySql { uuid, tag, number }) if tag.is_empty() && own == Some(*uuid) => {
            Some(*number)
        }
        _ => None,
    }
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
