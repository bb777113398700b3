//! One log, read through source, decode, assemble and origin filter: what both the link (of the
//! peer's log) and the tailer (of this node's own log) stand on.

use crate::assemble::{Assembler, Group};
use crate::config::{Config, NodeConfig};
use crate::connection::Identity;
use crate::decode::Decoder;
use crate::decode::event::{Event, Flavor};
use crate::error::{Error, Result};
use crate::gtid::{Gtid, format_uuid};
use crate::origin::{Origin, OriginFilter, Reason};
use crate::own_schema::{BARRIER, LANE, MARKER};
use crate::position::LogPos;
use crate::position::marker::Intended;
use crate::source::{Placed, Source};
use crate::spill::Room;
use crate::transaction::{Assembled, Seen, XaDecided, XaPrepared};
use crate::xa::search::{Found, Search};
use crate::xa::{Held, Kept};

/// Type of the event that a server writes as it shuts down.
const STOP: u8 = 3;

/// Where a log is to be read from and what is known there.
#[derive(Debug, Clone)]
pub struct Start {
    /// A transaction boundary of the log.
    pub position: LogPos,
    /// The log's effective clock there.
    pub clock: u64,
    /// When the file of `position` was begun, seconds since 1970; 0 where that is not known.
    pub log_birth: u32,
    /// What the log's node had seen of the peer's log there.
    pub seen: Seen,
    /// DDL that an engine was about to run at the log's node, of which the log in front of
    /// `position` does not say whether it ran.
    pub intended: Option<Intended>,
    /// Where the log in front of `position` has left the peer's marker row, if that is known.
    pub marked: Option<LogPos>,
    /// Number of the last GTID under the server's own UUID in front of `position` (MySQL), if that
    /// is known.
    pub numbered: Option<u64>,
    /// A boundary of the log behind which all stands that was prepared (XA) and not decided in front
    /// of `position`, as far as that is known. It only saves looking further in front.
    pub xa_from: Option<LogPos>,
}

/// One step of the reading.
#[derive(Debug)]
pub enum Step {
    /// A whole transaction, judged.
    Transaction(Origin),
    /// No transaction is open and everything in front of this position was read.
    Boundary(LogPos),
    /// The log goes on in another file; no transaction is open.
    Rotated(LogPos),
    /// Within a transaction, or nothing new.
    Within,
}

/// Reads one log.
#[derive(Debug)]
pub struct LogReader {
    source: Source,
    assembler: Assembler,
    filter: OriginFilter,
    own_uuid: Option<[u8; 16]>,
    numbered: Option<u64>,
    /// Whether the last event of the log was one with which a server ends a file in order.
    goodbye: bool,
    crashed: Option<LogPos>,
    log_of: Identity,
    peer: Identity,
    /// XA transactions that were seen prepared and not decided.
    held: Held,
    /// As [`Start::xa_from`], as long as what stands there may be prepared still.
    xa_from: Option<LogPos>,
    search: Search,
}

impl LogReader {
    /// Opens the log of `log_of`, as seen together with `peer`. What does not fit into memory goes to
    /// `room`.
    ///
    /// # Errors
    /// Those of [`Source::open`].
    pub async fn open(
        node: &NodeConfig,
        log_of: &Identity,
        peer: &Identity,
        start: Start,
        config: &Config,
        room: Room,
    ) -> Result<Self> {
        let decoder = decoder(log_of.flavor, config);
        let source = Source::open(
            node,
            log_of,
            (start.position, start.log_birth),
            config.engine.heartbeat,
            decoder,
        )
        .await?
        .warning_above(config.engine.event_bytes());
        let schema = &config.engine.schema;
        Ok(Self {
            source,
            held: Held::new(room.limit()),
            xa_from: start.xa_from,
            search: Search::new(node, log_of, config, room.clone()),
            assembler: Assembler::new(log_of.node.clone(), log_of.flavor, schema, room),
            filter: OriginFilter::new(
                log_of.clone(),
                peer.clone(),
                schema.clone(),
                config.replication.clone(),
                start.clock,
                start.seen,
                start.intended,
            )
            .behind_mark(start.marked),
            own_uuid: log_of.uuid,
            numbered: start.numbered,
            // Of what stands in front of the first event nothing is known.
            goodbye: false,
            crashed: None,
            log_of: log_of.clone(),
            peer: peer.clone(),
        })
    }

    /// As [`OriginFilter::intended`].
    #[must_use]
    pub fn intended(&self) -> Option<&Intended> {
        self.filter.intended()
    }

    /// As [`OriginFilter::marked`].
    #[must_use]
    pub fn marked(&self) -> Option<LogPos> {
        self.filter.marked()
    }

    /// As [`Start::xa_from`], for the reader that goes on from here.
    #[must_use]
    pub fn xa_from(&self) -> Option<LogPos> {
        let held = self.held.oldest();
        self.xa_from.into_iter().chain(held).min()
    }

    /// Number of the last GTID read under the server's own UUID (MySQL).
    #[must_use]
    pub fn numbered(&self) -> Option<u64> {
        self.numbered
    }

    /// A server numbers its transactions without a gap (MySQL). One that knows of more transactions
    /// than its log has, for it crashed before the log was synced, goes on behind them.
    fn number(&mut self, placed: &Placed) -> Result<()> {
        let Event::Gtid {
            gtid: Some(Gtid::MySql { uuid, tag, number }),
            ..
        } = &placed.event
        else {
            return Ok(());
        };
        if self.own_uuid != Some(*uuid) || !tag.is_empty() {
            return Ok(());
        }
        let before = self.numbered.replace(*number);
        match before {
            Some(before) if *number != before + 1 => Err(Error::LogLost {
                node: self.source.node().to_owned(),
                problem: format!(
                    "at {} its GTIDs go from number {before} to {number} (UUID {}): the transactions \
                     between are not in the log. The server lost them from its log in a crash with \
                     sync_binlog other than 1, or somebody numbered by hand (GTID_NEXT, gtid_purged). \
                     Compare the nodes (`twinlog verify`), make them alike, then stop both engines \
                     and run `twinlog init --force`; or `twinlog positions set .. {}` if nothing is \
                     missing",
                    self.source.log_name().show(placed.start),
                    format_uuid(*uuid),
                    self.source.log_name().show(placed.start),
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Behind the last event that was read, be it within a transaction.
    #[must_use]
    pub fn position(&self) -> LogPos {
        self.source.position()
    }

    /// When the file that is being read was begun; see [`Source::birth`].
    #[must_use]
    pub fn birth(&self) -> u32 {
        self.source.birth()
    }

    /// Where a file ended since this was asked last without the event with which a server ends one: it
    /// crashed.
    pub fn crashed(&mut self) -> Option<LogPos> {
        self.crashed.take()
    }

    /// Reads on by one event.
    ///
    /// # Errors
    /// Those of the stages. The reader is of no use afterwards.
    pub async fn next(&mut self) -> Result<Step> {
        let placed = self.source.next().await?;
        self.number(&placed)?;
        let rotated = matches!(placed.event, Event::Rotate { .. });
        let heartbeat = matches!(placed.event, Event::Heartbeat);
        // Made up by the server as it goes on to the next file, without one in the log: it crashed.
        // The next format description then drops what was open.
        let artificial = placed.header.end_log_pos == 0;
        let (start, end) = (placed.start, placed.end);
        if artificial && rotated && start.file != end.file && !self.goodbye {
            self.crashed = Some(start);
        }
        if !artificial && !heartbeat {
            self.goodbye = rotated || placed.header.event_type == STOP;
        }
        // Each file is looked through by itself; and what stands there may never be decided.
        if self.xa_from.is_some_and(|place| place.file < end.file) {
            self.xa_from = None;
        }
        if let Some(group) = self.assembler.take(placed)? {
            let mut origin = match group {
                Group::Transaction(transaction) => self.filter.judge(transaction)?,
                Group::Prepared(prepared) => self.prepared(prepared),
                Group::Decided(decided) => self.decided(decided).await?,
            };
            match &mut origin {
                Origin::Local(local) => local.log_birth = self.source.birth(),
                Origin::Huge(huge) => huge.born(self.source.birth()),
                Origin::Passed(passed) => {
                    passed.log_birth = self.source.birth();
                    passed.numbered = self.numbered;
                    passed.xa_from = self.xa_from();
                }
            }
            return Ok(Step::Transaction(origin));
        }
        if heartbeat || !self.assembler.at_boundary() {
            if rotated && !artificial {
                return Err(Error::Binlog {
                    node: self.source.node().to_owned(),
                    position: end.to_string(),
                    problem: "the log rotates within a transaction".to_owned(),
                });
            }
            return Ok(Step::Within);
        }
        Ok(if rotated {
            Step::Rotated(end)
        } else {
            Step::Boundary(end)
        })
    }

    fn prepared(&mut self, prepared: XaPrepared) -> Origin {
        let (xid, end) = (prepared.xid.clone(), prepared.whole.end);
        if let Some(before) = self.held.keep(prepared) {
            tracing::warn!(
                node = %self.log_of.node,
                %xid,
                before = self.log_of.log_name.show(before),
                "an XA transaction is prepared under the name of one that was never decided: the \
                 server lost that one in a crash, and it never takes effect"
            );
        }
        self.filter.passed(end, Reason::Prepared)
    }

    /// The second phase of an XA transaction: its rows are those of the last first phase under its
    /// name, and all else is that of the second.
    async fn decided(&mut self, decided: XaDecided) -> Result<Origin> {
        let kept = match self.held.take(&decided.xid) {
            Some(kept) => kept,
            None => match self.look_for(&decided).await? {
                Some(start) => Kept { start, rows: None },
                None => return Ok(self.filter.passed(decided.head.end, Reason::Dropped)),
            },
        };
        let XaDecided { xid, commit, head } = decided;
        if self.xa_from == Some(kept.start) {
            self.xa_from = None;
        }
        if !commit {
            return Ok(self.filter.passed(head.end, Reason::Dropped));
        }
        let rows = match kept.rows {
            Some(rows) => rows,
            None => self.search.rows(&xid, kept.start).await?,
        };
        self.filter.judge(Assembled {
            changes: rows.changes,
            spilled: rows.spilled,
            weight: rows.weight,
            ..head
        })
    }

    /// Where the rows stand of what is decided here; `None` where it was decided before, or never
    /// takes effect.
    async fn look_for(&mut self, decided: &XaDecided) -> Result<Option<LogPos>> {
        let XaDecided { xid, commit, head } = decided;
        let mut before = head.start;
        loop {
            let (found, others) = self.search.last(xid, before, self.xa_from).await?;
            if before == head.start {
                for (other, start) in others {
                    self.held.learn(other, start);
                }
            }
            match found {
                Ok(Found::Prepared(start)) => return Ok(Some(start)),
                // A server that forgot in a crash what it had decided, and logged, has it prepared
                // again (MariaDB): the rows are locked until it is decided once more.
                Ok(Found::Decided { at, commit: before }) if before == *commit => {
                    tracing::info!(
                        node = %self.log_of.node,
                        %xid,
                        position = self.log_of.log_name.show(head.start),
                        before = self.log_of.log_name.show(at),
                        "an XA transaction is decided as it was before, which its server forgot in a \
                         crash"
                    );
                    return Ok(None);
                }
                // It was not rolled back after all.
                Ok(Found::Decided { at, commit: false }) => before = at,
                Ok(Found::Decided { at, commit: true }) => {
                    return Err(self.refused(
                        head,
                        &format!("XA ROLLBACK {xid}"),
                        &format!(
                            "its XA COMMIT stands at {}, and the server forgot that in a crash: its \
                             rows are at node {} and not at node {}. Take them back there by hand \
                             (`twinlog verify`)",
                            self.log_of.log_name.show(at),
                            self.peer.node,
                            self.log_of.node,
                        ),
                    ));
                }
                Err(_) if !commit => return Ok(None),
                Err(first) => {
                    return Err(self.refused(
                        head,
                        &format!("XA COMMIT {xid}"),
                        &format!(
                            "its XA PREPARE, with its rows, is not in the log, which begins with \
                             {}: that part was purged or reset, or the server lost it in a crash. \
                             Bring its rows over to node {} by hand",
                            self.log_of.log_name.file(first.file),
                            self.peer.node,
                        ),
                    ));
                }
            }
        }
    }

    fn refused(&self, head: &Assembled, what: &str, problem: &str) -> Error {
        let (name, node) = (&self.log_of.log_name, &self.log_of.node);
        Error::Unsupported {
            node: node.to_string(),
            position: name.show(head.start),
            what: what.to_owned(),
            problem: format!(
                "{problem}, then stop both engines and go on behind it with `twinlog positions set \
                 --origin {node} --target {} {}`",
                self.peer.node,
                name.show(head.end)
            ),
        }
    }
}

/// A decoder that leaves out the rows that nobody needs.
pub(crate) fn decoder(flavor: Flavor, config: &Config) -> Decoder {
    let mut decoder = Decoder::new(flavor);
    let rules = config.replication.clone();
    let own = config.engine.schema.clone();
    decoder.set_table_filter(Box::new(move |database, table| {
        if database.eq_ignore_ascii_case(&own) {
            // Nobody reads the others from the log, and a journal can be large.
            return [MARKER, LANE, BARRIER].contains(&table);
        }
        rules.includes(database, &own)
    }));
    // What an engine wrote goes nowhere: its marker says it all. It is the first row, or has a sign
    // there.
    let own = config.engine.schema.clone();
    decoder.set_marker(Box::new(move |database, table| {
        database.eq_ignore_ascii_case(&own) && [MARKER, LANE].contains(&table)
    }));
    decoder
}
