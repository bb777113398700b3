//! A model of one running engine: its tailer, its link's reader and what it knows. The stages
//! themselves (clock, window, reconcile) are the engine's own code; what stands here is the order in
//! which `link`, `tailer` and `origin` call them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use twinlog_engine::clock::Clock;
use twinlog_engine::conflict::claim::ClaimKind;
use twinlog_engine::conflict::history::{self, Before, Entry, Histories, Kept, Order, writes_of};
use twinlog_engine::conflict::key::{KeyHash, TableHash};
use twinlog_engine::conflict::rules::ColumnRule;
use twinlog_engine::conflict::window::Window;
use twinlog_engine::position::LogPos;
use twinlog_engine::position::reconcile::Resume;
use twinlog_engine::row::Row;
use twinlog_engine::transaction::{RowEffect, Seen};

use super::server::{Body, EMPTIED, Known, Logged};
use super::world::Mutation;

/// Reads one log as the loop filter does (`OriginFilter::judge`).
#[derive(Clone)]
pub(crate) struct Reader {
    /// Index of the next transaction.
    pub(crate) next: usize,
    /// Everything in front of this was read.
    pub(crate) position: LogPos,
    pub(crate) clock: Clock,
    /// What the log's node knew of all nodes there, by node.
    pub(crate) seen: Vec<Known>,
}

/// A client's transaction as read.
#[derive(Clone)]
pub(crate) struct Read {
    pub(crate) logged: Rc<Logged>,
    pub(crate) effective: u64,
    pub(crate) seen: Rc<Vec<Known>>,
}

impl Reader {
    pub(crate) fn at(log: &[Rc<Logged>], position: LogPos, clock: u64, seen: Vec<Known>) -> Self {
        Self {
            next: log.partition_point(|logged| logged.start < position),
            position,
            clock: Clock::resume(clock),
            seen,
        }
    }

    /// From the beginning, in a world of so many nodes.
    pub(crate) fn first(log: &[Rc<Logged>], nodes: usize) -> Self {
        let nothing = Known {
            seen: vec![Seen::default(); nodes],
            ..Known::default()
        };
        Self::at(log, LogPos::new(0, 0), 0, vec![nothing; nodes])
    }

    /// The next transaction, if there is one; `Some(None)` where it is not for other nodes.
    pub(crate) fn read(
        &mut self,
        log: &[Rc<Logged>],
        mutation: Option<Mutation>,
    ) -> Option<Option<Read>> {
        let logged = log.get(self.next)?;
        self.next += 1;
        self.position = logged.end;
        if let Body::Applied(origin, mark) = &logged.body {
            self.clock.observe(mark.marker.clock);
            if mark.marker.position > self.seen[*origin].position {
                self.seen[*origin] = mark.known();
            }
            // Whoever applied it had all that it had seen, also where no marker says so: what is left
            // out by rule moves none.
            for (known, theirs) in self.seen.iter_mut().zip(&mark.seen) {
                if theirs.position > known.position {
                    *known = theirs.clone();
                }
            }
            return Some(None);
        }
        let mut effective = self.clock.tick(logged.committed_at);
        if mutation == Some(Mutation::RawWallClock) {
            effective = logged.committed_at;
        }
        if matches!(logged.body, Body::LeftOut) {
            return Some(None);
        }
        Some(Some(Read {
            logged: Rc::clone(logged),
            effective,
            seen: Rc::new(self.seen.clone()),
        }))
    }
}

/// How the world's rows are merged.
#[derive(Debug, Clone)]
pub(crate) struct Merging {
    /// By column; empty where rows are not merged.
    pub(crate) rules: Vec<ColumnRule>,
    pub(crate) places: Places,
    /// The node that keeps the histories.
    pub(crate) node: usize,
    /// How many bytes of memory they may take, and where the others go; all in memory without it.
    pub(crate) room: Option<(usize, PathBuf)>,
}

/// A write for its row's history, and what it built on.
pub(crate) type Part = (KeyHash, Entry, Before);

impl Merging {
    fn log(&self, of: usize) -> history::Log {
        if of == self.node {
            history::Log::Own
        } else {
            history::Log::Of(self.places.of[of])
        }
    }

    /// The writes of a transaction of `origin`.
    pub(crate) fn parts(&self, origin: usize, read: &Read) -> Vec<Part> {
        let Body::Local(changes) = &read.logged.body else {
            return Vec::new();
        };
        if self.rules.is_empty() {
            return Vec::new();
        }
        let seen: Vec<(history::Log, LogPos)> = (0..read.seen.len())
            .filter(|of| *of != origin)
            .map(|of| (self.log(of), read.seen[of].position))
            .collect();
        let mut parts = Vec::new();
        for change in changes {
            for (key, write, row) in writes_of(&change.change, &change.writes, Row::clone) {
                let entry = Entry {
                    order: Order {
                        effective: read.effective,
                        // The one that stands first is the highest.
                        rank: u8::MAX - self.places.of[origin],
                        change: parts.len() as u32,
                    },
                    origin: history::Origin {
                        log: self.log(origin),
                        end: read.logged.end,
                    },
                    write,
                };
                let seen = seen.clone();
                parts.push((key, entry, Before { row, seen }));
            }
        }
        parts
    }
}

/// Where the nodes stand in the order of nodes.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// Place of each node, from 0.
    pub(crate) of: Vec<u8>,
}

impl Places {
    /// What a transaction of `node` had seen of the nodes in front of it
    /// ([`twinlog_engine::conflict::policy::Standing::seen`]).
    pub(crate) fn in_front(&self, node: usize, seen: &[Known]) -> Vec<u64> {
        let mut clocks = vec![0; usize::from(self.of[node])];
        for (place, known) in self.of.iter().zip(seen) {
            if let Some(clock) = clocks.get_mut(usize::from(*place)) {
                *clock = known.clock;
            }
        }
        clocks
    }
}

/// One running engine.
pub(crate) struct Engine {
    pub(crate) node: usize,
    /// Its own node's claims, and with three nodes those of the others that it has applied.
    pub(crate) windows: Vec<Window>,
    pub(crate) tailer: Reader,
    /// Readers of the others' logs; its own node's is never moved.
    pub(crate) links: Vec<Reader>,
    merging: Merging,
}

/// Where an engine begins, for each other node: the place in its log, and what it knew there.
pub(crate) struct Start {
    pub(crate) resume: Resume,
    pub(crate) seen: Vec<Known>,
}

impl Engine {
    /// Begins where these starts (one for each node, none for its own) say. What of the others'
    /// transactions was applied and a third node may not have seen is read again. Gives the effective
    /// timestamps computed on the way, by log and index.
    pub(crate) fn start(
        node: usize,
        starts: &[Option<Start>],
        logs: &[&[Rc<Logged>]],
        merging: Merging,
        kept: &BTreeMap<KeyHash, Kept>,
        mutation: Option<Mutation>,
    ) -> (Self, Vec<(usize, usize, u64)>) {
        let nodes = logs.len();
        // What of a node's log all others have, those left out that have it anyway.
        let had_by_all = |of: usize| {
            let others = (0..nodes).filter(|other| *other != node && *other != of);
            others
                .filter_map(|other| Some(&starts[other].as_ref()?.seen[of]))
                .min_by_key(|known| known.position)
        };
        let again = |of: usize| {
            let known = had_by_all(of)?;
            let seen = known.seen.iter().map(|seen| Known {
                position: seen.position,
                clock: seen.clock,
                seen: vec![Seen::default(); nodes],
            });
            let seen = seen.collect();
            Some(Reader::at(logs[of], known.position, known.clock, seen))
        };
        let link = |of: usize| match &starts[of] {
            None => Reader::first(logs[of], nodes),
            Some(start) => {
                let resume = &start.resume;
                Reader::at(logs[of], resume.position, resume.clock, start.seen.clone())
            }
        };
        let tailer = again(node).unwrap_or_else(|| Reader::first(logs[node], nodes));
        let mut engine = Self {
            node,
            windows: (0..nodes)
                .map(|of| {
                    let first = had_by_all(of).map(|known| known.position);
                    let window = Window::new(first.unwrap_or_default());
                    match &merging.room {
                        Some((bytes, folder)) if of == node => {
                            window.with_histories(Histories::bounded(*bytes, folder))
                        }
                        _ => window,
                    }
                })
                .collect(),
            tailer,
            links: (0..nodes).map(link).collect(),
            merging,
        };
        if nodes > 2 {
            engine.acknowledge();
        }
        if mutation != Some(Mutation::HistoriesForgotten) {
            for (key, kept) in kept {
                let histories = engine.windows[node].histories();
                histories.load(*key, kept.clone(), engine.tailer.position, true);
            }
        }
        if nodes == 2 || mutation == Some(Mutation::ThirdNodesNotReadAgain) {
            return (engine, Vec::new());
        }
        // A row's history has to begin with its first write, whoever wrote it: all logs are taken in the
        // one order that extends causality.
        let mut reads: Vec<(u64, usize, usize, Read)> = Vec::new();
        for (of, log) in logs.iter().enumerate() {
            let Some(mut reader) = again(of) else {
                continue;
            };
            let until = if of == node {
                log.len()
            } else {
                engine.links[of].next
            };
            while reader.next < until {
                if let Some(Some(read)) = reader.read(log, mutation) {
                    reads.push((read.effective, of, reader.next - 1, read));
                }
            }
            if of == node {
                engine.windows[of].advance(reader.position);
                engine.tailer = reader;
            }
        }
        reads.sort_by_key(|(effective, of, index, _)| (*effective, *of, *index));
        let mut computed = Vec::new();
        for (effective, of, index, read) in reads {
            computed.push((of, index, effective));
            engine.remember(of, &read, mutation);
        }
        (engine, computed)
    }

    /// Reads up to `most` transactions of the node's own log into the window; gives the effective
    /// timestamps that it computed, by index in the log.
    pub(crate) fn tail(
        &mut self,
        own: &[Rc<Logged>],
        most: usize,
        mutation: Option<Mutation>,
    ) -> Vec<(usize, u64)> {
        let mut computed = Vec::new();
        for _ in 0..most {
            let Some(read) = self.tailer.read(own, mutation) else {
                break;
            };
            if let Some(read) = read {
                computed.push((self.tailer.next - 1, read.effective));
                self.remember(self.node, &read, mutation);
            }
            self.windows[self.node].advance(own[self.tailer.next - 1].end);
        }
        computed
    }

    /// Puts what a transaction claims into its node's window, and its writes into their histories.
    pub(crate) fn remember(&self, of: usize, read: &Read, mutation: Option<Mutation>) {
        if let Body::Emptied(_) = &read.logged.body {
            let (window, end) = (&self.windows[of], read.logged.end);
            let seen = self.merging.places.in_front(of, &read.seen);
            window.record_seen(end, &seen);
            let recorded =
                window.record_definition(end, read.effective, &[EMPTIED], RowEffect::Emptied);
            recorded.expect("all is in memory");
            return;
        }
        let Body::Local(changes) = &read.logged.body else {
            return;
        };
        if of == self.node || mutation != Some(Mutation::NoHistory) {
            let histories = self.windows[self.node].histories();
            for (key, entry, before) in self.merging.parts(of, read) {
                histories.record(key, entry, &before, &self.merging.rules);
            }
        }
        let mut claims = Vec::new();
        for write in changes.iter().flat_map(|change| &change.writes) {
            if mutation == Some(Mutation::ReleasesClaim) {
                claims.extend(write.left().iter().map(|(_, key)| (*key, ClaimKind::Image)));
            }
            claims.extend(write.claims());
        }
        let beside = changes.iter().flat_map(|change| &change.claimed);
        claims.extend(beside.flatten().copied());
        if mutation == Some(Mutation::NoTombstones) {
            claims.retain(|(_, kind)| *kind != ClaimKind::Tombstone);
        }
        let (database, table) = EMPTIED;
        let tables = [TableHash::new(database, table)];
        let window = &self.windows[of];
        window.record_seen(
            read.logged.end,
            &self.merging.places.in_front(of, &read.seen),
        );
        window
            .record(read.logged.end, read.effective, claims, tables)
            .expect("all is in memory");
    }

    /// The writes of a transaction for the histories of their rows.
    pub(crate) fn parts(&self, origin: usize, read: &Read) -> Vec<Part> {
        self.merging.parts(origin, read)
    }

    /// Forgets what all nodes have, as far as what was read of their logs says.
    pub(crate) fn acknowledge(&self) {
        let nodes = self.windows.len();
        for of in 0..nodes {
            let others = (0..nodes).filter(|other| *other != self.node && *other != of);
            let had = others.map(|other| self.links[other].seen[of].position);
            if let Some(had) = had.min() {
                self.windows[of].acknowledge(had);
                if of != self.node {
                    let place = self.merging.places.of[of];
                    let histories = self.windows[self.node].histories();
                    histories.acknowledge_other(place, had);
                }
            }
        }
    }

    /// Whether it has everything that `origin` had seen of third nodes where `reader` stands in its log.
    pub(crate) fn has_seen(&self, origin: usize, reader: &Reader) -> bool {
        let mut thirds = (0..self.links.len()).filter(|of| *of != origin && *of != self.node);
        thirds.all(|of| self.links[of].position >= reader.seen[of].position)
    }
}
