//! The way in with nothing at its end: reads an origin's log through the stages of a link, up to one of
//! them, and writes nothing. For benchmarks, which learn from it what each stage costs.
//!
//! The stages are the link's own: [`crate::source`], [`crate::decode`], [`crate::log_reader`], the
//! link's queue, [`Gatherer`] and [`Preparer`].

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::apply::prepare::Preparer;
use crate::apply::row_events::Ability;
use crate::config::{Config, NodeConfig};
use crate::conflict::window::Window;
use crate::connection::{Identity, NodeConnection};
use crate::error::{Error, Result};
use crate::group::{Gatherer, Item};
use crate::link::{QUEUE_ITEMS, Reading, limits, read, read_marker};
use crate::log_reader::{LogReader, Start, Step, decoder};
use crate::origin::Origin;
use crate::position::LogPos;
use crate::position::marker::Marker;
use crate::schema::SchemaCatalog;
use crate::source::Source;
use crate::spill::Room;
use crate::status::LinkProgress;
use crate::transaction::Seen;

/// Between two looks at the queue.
const LOOK: Duration = Duration::from_millis(1);

/// How far events go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// They are received, and their checksums verified.
    Read,
    /// And decoded to typed rows.
    Decode,
    /// And assembled to whole transactions, which are judged by origin.
    Assemble,
    /// And gathered, fitted to the target's tables, given their keys, merged and written as statements,
    /// which are not sent.
    Prepare,
}

impl Stage {
    /// All of them, the first first.
    pub const ALL: [Stage; 4] = [Stage::Read, Stage::Decode, Stage::Assemble, Stage::Prepare];
}

/// What went through. 0 where the last stage does not know it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Passage {
    /// Events of the log.
    pub events: u64,
    /// Transactions that would be applied.
    pub transactions: u64,
    /// Row changes in them.
    pub rows: u64,
    /// Commits that they would be applied in.
    pub groups: u64,
    /// Statements that would be sent.
    pub statements: u64,
    /// Their bytes.
    pub statement_bytes: u64,
}

/// Reads what `origin` has written since its marker at `target`, up to the present end of its log.
///
/// # Errors
/// Those of the stages; [`Error::Preflight`] where the nodes are not set up.
pub async fn pass(
    config: &Arc<Config>,
    origin: &str,
    target: &str,
    last: Stage,
) -> Result<Passage> {
    let way = Way::open(config, origin, target).await?;
    match last {
        Stage::Read => way.read(false).await,
        Stage::Decode => way.read(true).await,
        Stage::Assemble => way.assemble().await,
        Stage::Prepare => way.prepare().await,
    }
}

/// One link, up to the end of the log as it was at the beginning.
struct Way {
    config: Arc<Config>,
    origin: NodeConfig,
    target: NodeConfig,
    log_of: Identity,
    peer: Identity,
    marker: Marker,
    end: LogPos,
}

impl Way {
    async fn open(config: &Arc<Config>, origin: &str, target: &str) -> Result<Self> {
        let (origin, target) = (config.node(origin)?.clone(), config.node(target)?.clone());
        let mut connection = NodeConnection::open(&target).await?;
        let peer = connection.identity().await?;
        let marker = read_marker(&mut connection, &config.engine.schema, &origin.name).await?;
        connection.close().await;
        let mut connection = NodeConnection::open(&origin).await?;
        let log_of = connection.identity().await?;
        let (_, end) = connection.log_end(log_of.flavor).await?;
        connection.close().await;
        Ok(Self {
            config: Arc::clone(config),
            origin,
            target,
            log_of,
            peer,
            marker,
            end,
        })
    }

    async fn read(self, decode: bool) -> Result<Passage> {
        let heartbeat = self.config.engine.heartbeat;
        let decoder = decoder(self.log_of.flavor, &self.config);
        let start = (self.marker.position, 0);
        let mut source =
            Source::open(&self.origin, &self.log_of, start, heartbeat, decoder).await?;
        let mut passage = Passage::default();
        while source.position() < self.end {
            if decode {
                source.next().await?;
            } else {
                source.pass().await?;
            }
            passage.events += 1;
        }
        Ok(passage)
    }

    async fn reader(&self) -> Result<LogReader> {
        let start = Start::at(self.marker.position, self.marker.clock);
        let start = Start {
            seen: Seen {
                position: self.marker.seen,
                clock: self.marker.seen_clock,
            },
            ..start
        };
        LogReader::open(
            &self.origin,
            &self.log_of,
            &self.peer,
            start,
            &self.config,
            Room::of(&self.config, &self.target.name),
        )
        .await
    }

    async fn assemble(self) -> Result<Passage> {
        let mut reader = self.reader().await?;
        let mut passage = Passage::default();
        while reader.position() < self.end {
            passage.events += 1;
            match reader.next().await? {
                Step::Transaction(Origin::Local(local)) => {
                    passage.transactions += 1;
                    passage.rows += local.changes.len() as u64;
                }
                Step::Transaction(Origin::Huge(huge)) => {
                    passage.transactions += 1;
                    passage.rows += huge.len() as u64;
                }
                _ => {}
            }
        }
        Ok(passage)
    }

    async fn prepare(self) -> Result<Passage> {
        let progress = Arc::new(LinkProgress::new(&self.origin.name, &self.target.name));
        let (sender, items) = mpsc::channel(QUEUE_ITEMS);
        let queue = sender.downgrade();
        // Ends with this function.
        let _reading = Reading(tokio::spawn(read(
            self.reader().await?,
            sender,
            Arc::clone(&progress),
            self.config.replication.queue_bytes,
            self.origin.name.clone(),
            Arc::new(Mutex::default()),
            None,
        )));
        let mut gatherer = Gatherer::new(items, limits(&self.config));
        let mut preparer = Preparer::new(
            Arc::clone(&self.config),
            self.log_of.clone(),
            self.peer.clone(),
            Arc::new(Window::new(self.marker.seen)),
            Arc::new(SchemaCatalog::new(self.target.clone())),
            progress,
            Ability::default(),
        );
        let mut passage = Passage::default();
        let mut end = self.marker.position;
        while end < self.end {
            filled(&queue, self.config.replication.group_transactions).await;
            let next = tokio::time::timeout(self.origin.silence, gatherer.next()).await;
            let mut batch = match next {
                Ok(Some(batch)) => batch,
                Ok(None) => return Err(Error::Internal("the reader ended by itself".to_owned())),
                // The log ends with something that is no transaction.
                Err(_) => break,
            };
            let begun = Instant::now();
            end = batch.end;
            passage.rows += batch.rows() as u64;
            // One on disk is not prepared ahead by a link either, and DDL has no rows.
            passage.transactions += batch.transactions.len() as u64;
            passage.transactions += u64::from(batch.huge.is_some());
            if !batch.transactions.is_empty() && !batch.is_definition() {
                let prepared = preparer
                    .prepare_merged(&mut batch.transactions, None)
                    .await?;
                let (statements, bytes) = prepared.written();
                passage.groups += 1;
                passage.statements += statements as u64;
                passage.statement_bytes += bytes as u64;
            }
            gatherer.applied(&batch, begun.elapsed());
        }
        Ok(passage)
    }
}

/// Waits until as much is in the queue as goes into one commit, or no more comes. A target is slower than
/// nothing at all: only so are groups as large as they are for one that is behind.
async fn filled(queue: &mpsc::WeakSender<Item>, enough: usize) {
    let mut before = 0;
    while let Some(sender) = queue.upgrade() {
        let waiting = sender.max_capacity() - sender.capacity();
        drop(sender);
        if waiting >= enough.min(QUEUE_ITEMS) || waiting > 0 && waiting == before {
            return;
        }
        before = waiting;
        tokio::time::sleep(LOOK).await;
    }
}
