//! The lanes of a link, and the batches that have their turn in them, in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::lane::{Lane, Outcome, Stage, Surroundings, Turn};
use super::prepare::Prepared;
use crate::config::{Config, NodeConfig};
use crate::conflict::window::Window;
use crate::connection::Identity;
use crate::error::{Error, Result};
use crate::group::{Batch, KeySet};
use crate::position::marker::Marker;
use crate::schema::SchemaCatalog;
use crate::status::LinkProgress;

/// Batches that are applied by themselves after one gave way; twice as many each time.
const REST: (usize, usize) = (1, 64);

/// The lanes of one link. `P` is what is noted with each batch for when it is settled.
pub(crate) struct Lanes<P> {
    around: Arc<Surroundings>,
    most: usize,
    idle: Vec<Lane>,
    opened: usize,
    in_hand: VecDeque<InHand<P>>,
    /// Batches that are to go by themselves still.
    rest: usize,
    next_rest: usize,
}

struct InHand<P> {
    task: JoinHandle<(Lane, Turn, Result<Outcome>)>,
    stage: watch::Receiver<Stage>,
    keys: Arc<KeySet>,
    to: Marker,
    begun: Instant,
    place: P,
}

impl<P> Drop for InHand<P> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A batch whose turn is over.
pub(crate) struct Finished<P> {
    pub(crate) batch: Batch,
    /// The marker as it is now; `None` where the batch gave way, with nothing of it left.
    pub(crate) committed: Option<Marker>,
    /// How long its turn took, but for the time that it waited for the batch in front.
    pub(crate) took: Duration,
    pub(crate) place: P,
}

impl<P> Lanes<P> {
    /// The lanes of the link from `origin` to `target`, which is reached by `node`. They are connected
    /// when they are needed first.
    pub(crate) fn new(
        config: &Config,
        node: &NodeConfig,
        [origin, target]: [&Identity; 2],
        window: &Arc<Window>,
        catalog: &Arc<SchemaCatalog>,
        progress: &Arc<LinkProgress>,
    ) -> Self {
        Self {
            around: Arc::new(Surroundings {
                node: node.clone(),
                schema: config.engine.schema.clone(),
                group_time: config.replication.group_time,
                row_events: config.replication.row_events,
                origin: origin.clone(),
                target: target.clone(),
                window: Arc::clone(window),
                catalog: Arc::clone(catalog),
                progress: Arc::clone(progress),
            }),
            most: config.replication.apply_connections,
            idle: Vec::new(),
            opened: 0,
            in_hand: VecDeque::new(),
            rest: 0,
            next_rest: REST.0,
        }
    }

    /// How many batches may have their turn at a time.
    pub(crate) fn most(&self) -> u32 {
        u32::try_from(self.most).unwrap_or(1).max(1)
    }

    /// Whether no batch has its turn.
    pub(crate) fn is_empty(&self) -> bool {
        self.in_hand.is_empty()
    }

    /// Whether the next batch may have its turn at once.
    pub(crate) fn has_room(&self) -> bool {
        self.in_hand.len() < self.most
    }

    /// Whether a batch may go by a lane at all.
    pub(crate) fn in_use(&self) -> bool {
        self.most > 1 && self.rest == 0
    }

    /// Whether the batch behind one that goes by itself may.
    pub(crate) fn in_use_next(&self) -> bool {
        self.most > 1 && self.rest <= 1
    }

    /// A batch went by itself.
    pub(crate) fn passed_by(&mut self) {
        self.rest = self.rest.saturating_sub(1);
    }

    /// The batches that have their turn, by their keys.
    pub(crate) fn keys(&self) -> Vec<Arc<KeySet>> {
        let keys = self.in_hand.iter().map(|one| Arc::clone(&one.keys));
        keys.collect()
    }

    /// The batches, by their keys, beside which the one behind `prepared` will be.
    pub(crate) fn keys_behind(&self, prepared: &Prepared) -> Vec<Arc<KeySet>> {
        let own = prepared.keys.iter().map(Arc::clone);
        let all: Vec<_> = self.keys().into_iter().chain(own).collect();
        let first = all.len().saturating_sub(self.most - 1);
        all.into_iter().skip(first).collect()
    }

    /// Whether the batch was prepared with a mind to those that have their turn.
    pub(crate) fn minded_by(&self, prepared: &Prepared) -> bool {
        let groups = self.in_hand.iter().map(|one| &one.keys);
        prepared.beside(groups).is_some()
    }

    /// Begins the turn of a batch for which [`Self::minded_by`] holds. `committed` is the marker as it
    /// is committed.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) async fn begin(
        &mut self,
        batch: Batch,
        prepared: Prepared,
        committed: &Marker,
        place: P,
    ) -> Result<()> {
        let Some(keys) = prepared.beside(self.in_hand.iter().map(|one| &one.keys)) else {
            return Err(Error::Internal(
                "a batch was not prepared for the lanes that it goes beside".to_owned(),
            ));
        };
        let mut lane = match self.idle.pop() {
            Some(lane) => lane,
            None => {
                self.opened += 1;
                Lane::open(&self.around, self.opened).await?
            }
        };
        let front = self.in_hand.back();
        let from = front.map_or(committed, |front| &front.to).clone();
        let front = front.map(|front| front.stage.clone());
        let Some(turn) = Turn::new(batch, prepared, from) else {
            return Err(Error::Internal("a turn for an empty batch".to_owned()));
        };
        if front.is_some() {
            self.around.progress.beside();
        }
        let to = turn.to.clone();
        let around = Arc::clone(&self.around);
        let (tell, stage) = watch::channel(Stage::Writing);
        let task = tokio::spawn(async move {
            let outcome = lane.take(&turn, &around, front, &tell).await;
            (lane, turn, outcome)
        });
        self.in_hand.push_back(InHand {
            task,
            stage,
            keys,
            to,
            begun: Instant::now(),
            place,
        });
        Ok(())
    }

    /// Waits for the first batch that has its turn. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// The turn's.
    pub(crate) async fn finished(&mut self) -> Result<Finished<P>>
    where
        P: Clone,
    {
        let Some(first) = self.in_hand.front_mut() else {
            return Err(Error::Internal("no batch has its turn".to_owned()));
        };
        let done = (&mut first.task).await;
        let (place, to, whole) = (first.place.clone(), first.to.clone(), first.begun.elapsed());
        self.in_hand.pop_front();
        let (lane, turn, outcome) =
            done.map_err(|join| Error::Internal(format!("a turn failed: {join}")))?;
        let outcome = outcome?;
        let took = whole.saturating_sub(lane.waited());
        self.idle.push(lane);
        let committed = (outcome == Outcome::Committed).then_some(to);
        Ok(Finished {
            batch: turn.batch,
            committed,
            took,
            place,
        })
    }

    /// Whether the batch would only stand in its lane until those in front are done.
    pub(crate) fn gains_nothing(&self, prepared: &Prepared) -> bool {
        !self.is_empty() && !prepared.gains_beside()
    }

    /// A batch gave way: those behind it are applied by themselves for a while.
    pub(crate) fn gave_way(&mut self) {
        self.around.progress.gave_way();
        self.rest();
    }

    /// Has the next batches applied by themselves, if they are not already.
    pub(crate) fn rest(&mut self) {
        if self.rest > 0 {
            return;
        }
        self.rest = self.next_rest;
        self.next_rest = (self.next_rest * 2).min(REST.1);
    }

    /// A batch went through.
    pub(crate) fn went_through(&mut self) {
        self.next_rest = (self.next_rest - 1).max(REST.0);
    }
}
