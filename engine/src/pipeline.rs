//! Applies what a link gathers, batch after batch, and settles each in the log's order: in lanes beside
//! each other where much is waiting, each by itself where not.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::ahead::Ahead;
use crate::apply::applier::Applier;
use crate::apply::lanes::Lanes;
use crate::apply::prepare::Prepared;
use crate::backoff::Backoff;
use crate::error::{Error, Result};
use crate::failpoint::{self, Failpoint};
use crate::group::{Batch, Gatherer};
use crate::gtid::Gtid;
use crate::link::{Link, Reading};
use crate::origin::Reason;
use crate::position::LogPos;
use crate::position::reconcile::Resume;
use crate::position::store::LinkRecord;
use crate::transaction::{Local, Seen};

/// Log behind the marker that a lost store may make us read again before the marker is moved
/// without rows.
const IDLE_MARKER_BYTES: u64 = 8 << 20;
/// But not more often than this, so that two idle engines do not write for each other.
const IDLE_MARKER_PAUSE: Duration = Duration::from_secs(10);
/// Pauses after a deadlock or lock timeout.
const CONTENTION_BACKOFF: (Duration, Duration) =
    (Duration::from_millis(5), Duration::from_millis(500));

/// The apply end of a running link.
pub(crate) struct Pipeline<'l> {
    link: &'l Link,
    applier: Applier,
    gatherer: Gatherer,
    ahead: Ahead,
    lanes: Lanes<Place>,
    /// Behind the last batch that was taken.
    place: Place,
    marker_moved: Instant,
}

/// What is known behind a batch: the way on from there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    end: LogPos,
    clock: u64,
    seen: Seen,
    marked: Option<LogPos>,
    xa_from: Option<LogPos>,
    /// File and when it was begun.
    birth: (u32, u32),
    /// Known only of what ends there itself: behind it there may be more without a write.
    numbered: Option<u64>,
    /// DDL was about to run at the origin and its log has not said yet whether it ran: whoever
    /// goes on reading has to begin in front of that.
    open_intent: bool,
}

impl Place {
    fn new(resume: &Resume) -> Self {
        Self {
            end: resume.position,
            clock: resume.clock,
            seen: Seen {
                position: resume.seen,
                clock: resume.seen_clock,
            },
            marked: resume.marked,
            xa_from: resume.xa_from,
            birth: (resume.position.file, resume.log_birth),
            numbered: None,
            open_intent: false,
        }
    }

    /// The place behind the next batch. `own` is the origin's UUID.
    fn pass(&mut self, batch: &Batch, own: Option<[u8; 16]>) {
        self.end = batch.end;
        self.numbered = None;
        let last = batch.huge.as_ref().map(|huge| huge.head());
        if let Some(last) = last.or(batch.transactions.last()) {
            (self.clock, self.seen) = (last.effective, last.seen);
            self.birth = self.birth.max((last.end.file, last.log_birth));
            self.numbered = own_number(last, own).filter(|_| last.end == self.end);
        }
        if let Some(last) = batch.passed.last() {
            self.xa_from = last.xa_from;
            // Whichever stands later in the log knows more.
            self.clock = self.clock.max(last.clock);
            self.birth = self.birth.max((last.end.file, last.log_birth));
            if last.end == self.end {
                self.numbered = last.numbered;
            }
            if last.seen.position > self.seen.position {
                self.seen = last.seen;
            }
        }
        for passed in &batch.passed {
            match &passed.reason {
                Reason::Applied(marker) => {
                    self.open_intent = marker.intent.is_some();
                    self.marked = Some(marker.position);
                }
                Reason::AppliedDefinition => self.open_intent = false,
                _ => {}
            }
        }
    }
}

impl<'l> Pipeline<'l> {
    pub(crate) fn new(
        link: &'l Link,
        applier: Applier,
        gatherer: Gatherer,
        lanes: Lanes<Place>,
        resume: &Resume,
    ) -> Self {
        Self {
            link,
            ahead: Ahead::new(applier.preparer()),
            applier,
            gatherer,
            lanes,
            place: Place::new(resume),
            marker_moved: Instant::now(),
        }
    }

    /// Runs until stopped, or to the first error.
    pub(crate) async fn run(
        mut self,
        mut reading: Reading,
        mut breaks: watch::Receiver<u64>,
    ) -> Result<()> {
        loop {
            // With batches in hand another one helps only where so much is waiting.
            let takes_next =
                self.lanes.is_empty() || (self.lanes.has_room() && self.ahead.has_next());
            let next = tokio::select! {
                biased;
                () = self.link.stop.cancelled() => {
                    self.finish_for_good().await?;
                    self.link.store.flush()?;
                    failpoint::reach(Failpoint::Stopping);
                    return Ok(());
                }
                finished = self.lanes.finished(), if !self.lanes.is_empty() => {
                    self.finish(finished?).await?;
                    continue;
                }
                batch = self.ahead.next(&mut self.gatherer), if takes_next => batch?,
                // An idle link would not notice that its own node was down, and may have come back
                // without what was applied.
                Ok(()) = breaks.changed() => {
                    return Err(Error::Connection {
                        node: self.link.target.name.clone(),
                        message: "the connection of its tailer broke: looking at the node anew"
                            .to_owned(),
                    });
                }
            };
            let Some((batch, prepared)) = next else {
                self.finish_all().await?;
                return match (&mut reading.0).await {
                    Ok(Ok(())) => Err(Error::Internal("the reader ended by itself".to_owned())),
                    Ok(Err(error)) => Err(error),
                    Err(join) => Err(Error::Internal(format!("the reader failed: {join}"))),
                };
            };
            failpoint::reach(Failpoint::Grouped);
            self.place.pass(&batch, self.applier.origin_uuid());
            self.take(batch, prepared).await?;
        }
    }

    /// Gives a batch to a lane, or applies it.
    async fn take(&mut self, mut batch: Batch, prepared: Option<Prepared>) -> Result<()> {
        let place = self.place;
        let plain = !batch.transactions.is_empty() && !batch.is_definition();
        let behind = prepared.is_some() || batch.is_full();
        if !(plain && behind && self.lanes.in_use()) {
            self.finish_all().await?;
            return self.apply(batch, prepared, place).await;
        }
        let prepared = match prepared {
            Some(prepared) if self.lanes.minded_by(&prepared) => prepared,
            // What is wrong with it is said where it is applied.
            _ => match self
                .applier
                .prepare_beside(&mut batch, self.lanes.keys())
                .await
            {
                Ok(prepared) => prepared,
                Err(_) => {
                    self.finish_all().await?;
                    return self.apply(batch, None, place).await;
                }
            },
        };
        if self.lanes.gains_nothing(&prepared) {
            self.finish_all().await?;
            self.lanes.rest();
            return self.apply(batch, Some(prepared), place).await;
        }
        let beside = self.lanes.keys_behind(&prepared);
        self.ahead
            .prepare_behind(&batch, &mut self.gatherer, Some(beside));
        let committed = self.applier.marker();
        self.lanes.begin(batch, prepared, committed, place).await
    }

    /// Applies a batch by itself, with none in hand.
    async fn apply(
        &mut self,
        mut batch: Batch,
        prepared: Option<Prepared>,
        place: Place,
    ) -> Result<()> {
        // What comes behind DDL may fit its tables only once that has run.
        if !batch.is_definition() {
            let beside = self.lanes.in_use_next().then(Vec::new);
            self.ahead
                .prepare_behind(&batch, &mut self.gatherer, beside);
        }
        let begun = Instant::now();
        let contended = self.apply_patiently(&mut batch, prepared).await?;
        self.gatherer.applied(&batch, begun.elapsed());
        if contended {
            self.gatherer.contended();
        }
        self.lanes.passed_by();
        self.settle(&batch, place).await
    }

    /// What is owed when a lane has finished its batch.
    async fn finish(&mut self, finished: Finished) -> Result<()> {
        if let Some(marker) = finished.committed {
            self.applier.committed(marker);
            self.lanes.went_through();
            // Groups that share the target take longer, and are no less worth their size.
            let took = finished.took / self.lanes.most();
            self.gatherer.applied(&finished.batch, took);
            return self.settle(&finished.batch, finished.place).await;
        }
        // Those behind it have given way to it, in their order.
        let mut left = vec![finished];
        while !self.lanes.is_empty() {
            left.push(self.lanes.finished().await?);
        }
        self.lanes.gave_way();
        for finished in left {
            if finished.committed.is_some() {
                return Err(Error::Internal(
                    "a batch was committed in front of the one before it".to_owned(),
                ));
            }
            self.apply(finished.batch, None, finished.place).await?;
        }
        Ok(())
    }

    /// Waits for all batches in hand.
    async fn finish_all(&mut self) -> Result<()> {
        while !self.lanes.is_empty() {
            let finished = self.lanes.finished().await?;
            self.finish(finished).await?;
        }
        Ok(())
    }

    /// Likewise; one that cannot be finished at once is left for the next start.
    async fn finish_for_good(&mut self) -> Result<()> {
        while !self.lanes.is_empty() {
            let finished = self.lanes.finished().await?;
            if finished.committed.is_none() {
                return Ok(());
            }
            self.finish(finished).await?;
        }
        Ok(())
    }

    /// A batch is applied: says so to the window, the status and the store.
    async fn settle(&mut self, batch: &Batch, place: Place) -> Result<()> {
        if batch.huge.is_some() || !batch.transactions.is_empty() {
            self.marker_moved = Instant::now();
        }
        let link = self.link;
        link.window.acknowledge(place.seen.position);
        link.progress.settled(place.end);
        if place.open_intent {
            return Ok(());
        }
        let committed = self.applier.marker().position;
        let far = place.end.file != committed.file
            || place.end.offset.saturating_sub(committed.offset) > IDLE_MARKER_BYTES;
        if far && self.lanes.is_empty() && self.marker_moved.elapsed() > IDLE_MARKER_PAUSE {
            let seen = (place.seen.position, place.seen.clock);
            self.applier
                .move_marker((place.end, 0), place.clock, seen)
                .await?;
            self.marker_moved = Instant::now();
        }
        failpoint::reach(Failpoint::BeforeStore);
        let marker = self.applier.marker();
        link.store.keep_link(
            &link.origin.name,
            &LinkRecord {
                marker: marker.position,
                transactions: marker.transactions,
                gtid: marker.gtid.clone(),
                settled: place.end,
                clock: place.clock,
                seen: place.seen.position,
                seen_clock: place.seen.clock,
                log_birth: if place.birth.0 == place.end.file {
                    place.birth.1
                } else {
                    0
                },
                marked: place.marked,
                numbered: place.numbered,
                xa_from: place.xa_from,
            },
        )?;
        failpoint::reach(Failpoint::AfterStore);
        Ok(())
    }

    /// Applies a batch, again and again while others hold its locks: a client that keeps a row
    /// locked delays the link, and must not stop it. Says whether they did.
    async fn apply_patiently(
        &mut self,
        batch: &mut Batch,
        mut prepared: Option<Prepared>,
    ) -> Result<bool> {
        let mut backoff = Backoff::new(CONTENTION_BACKOFF);
        let mut contended = false;
        loop {
            match self.applier.apply(batch, prepared.take()).await {
                Err(Error::Contention { code, message, .. }) => {
                    contended = true;
                    self.link.progress.retried();
                    let pause = backoff.next();
                    tracing::debug!(code, message, ?pause, "lock contention: trying again");
                    tokio::select! {
                        () = self.link.stop.cancelled() => return Err(Error::Stopped),
                        () = tokio::time::sleep(pause) => {}
                    }
                    let committed = self.applier.marker().position;
                    batch.forget(committed);
                }
                Err(error) => return Err(error),
                Ok(()) => return Ok(contended),
            }
        }
    }
}

type Finished = crate::apply::lanes::Finished<Place>;

/// Number of a transaction's GTID, if the log's own server gave it out.
fn own_number(local: &Local, own: Option<[u8; 16]>) -> Option<u64> {
    match &local.gtid {
        Some(Gtid::MySql { uuid, tag, number }) if tag.is_empty() && own == Some(*uuid) => {
            Some(*number)
        }
        _ => None,
    }
}
