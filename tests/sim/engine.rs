//! A model of one running engine: its tailer, its link's reader and what it knows. The stages
//! themselves (clock, window, reconcile) are the engine's own code; what stands here is the order in
//! which `link`, `tailer` and `origin` call them.

use std::rc::Rc;

use twinlog_engine::clock::Clock;
use twinlog_engine::conflict::claim::ClaimKind;
use twinlog_engine::conflict::history::{Entry, Order, Origin, writes_of};
use twinlog_engine::conflict::key::KeyHash;
use twinlog_engine::conflict::rules::ColumnRule;
use twinlog_engine::conflict::window::Window;
use twinlog_engine::position::LogPos;
use twinlog_engine::position::reconcile::Resume;
use twinlog_engine::row::Row;
use twinlog_engine::transaction::Seen;

use super::server::{Body, Logged};
use super::world::Mutation;

/// Reads one log as the loop filter does (`OriginFilter::judge`).
pub(crate) struct Reader {
    /// Index of the next transaction.
    pub(crate) next: usize,
    pub(crate) clock: Clock,
    pub(crate) seen: Seen,
}

/// A client's transaction as read.
#[derive(Clone)]
pub(crate) struct Read {
    pub(crate) logged: Rc<Logged>,
    pub(crate) effective: u64,
    pub(crate) seen: Seen,
}

impl Reader {
    pub(crate) fn at(log: &[Rc<Logged>], position: LogPos, clock: u64, seen: Seen) -> Self {
        Self {
            next: log.partition_point(|logged| logged.start < position),
            clock: Clock::resume(clock),
            seen,
        }
    }

    /// The next transaction, if there is one; `Some(None)` where it is not for the other node.
    pub(crate) fn read(
        &mut self,
        log: &[Rc<Logged>],
        mutation: Option<Mutation>,
    ) -> Option<Option<Read>> {
        let logged = log.get(self.next)?;
        self.next += 1;
        if let Body::Applied(marker) = &logged.body {
            self.clock.observe(marker.clock);
            if marker.position > self.seen.position {
                self.seen = Seen {
                    position: marker.position,
                    clock: marker.clock,
                };
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
            seen: self.seen,
        }))
    }
}

/// How the world's rows are merged.
#[derive(Debug, Clone)]
pub(crate) struct Merging {
    /// By column; empty where rows are not merged.
    pub(crate) rules: Vec<ColumnRule>,
    /// Rank of the writes of this node's clients, and of the peer's.
    pub(crate) ranks: [u8; 2],
}

impl Merging {
    /// A transaction's writes as entries of histories.
    pub(crate) fn entries(&self, read: &Read, local: bool) -> Vec<(KeyHash, Entry, Option<Row>)> {
        let Body::Local(changes) = &read.logged.body else {
            return Vec::new();
        };
        if self.rules.is_empty() {
            return Vec::new();
        }
        let (rank, origin) = if local {
            (self.ranks[0], Origin::Local(read.logged.end))
        } else {
            (self.ranks[1], Origin::Foreign(read.logged.end))
        };
        let mut entries = Vec::new();
        for change in changes {
            for (key, write, before) in writes_of(&change.change, &change.writes, Row::clone) {
                let order = Order {
                    effective: read.effective,
                    rank,
                    change: entries.len() as u32,
                };
                let entry = Entry {
                    order,
                    origin,
                    write,
                };
                entries.push((key, entry, before));
            }
        }
        entries
    }
}

/// One running engine.
pub(crate) struct Engine {
    pub(crate) window: Window,
    pub(crate) tailer: Reader,
    pub(crate) link: Reader,
}

impl Engine {
    pub(crate) fn start(resume: &Resume, own: &[Rc<Logged>], peer: &[Rc<Logged>]) -> Self {
        let seen = Seen {
            position: resume.seen,
            clock: resume.seen_clock,
        };
        Self {
            window: Window::new(resume.seen),
            tailer: Reader::at(own, resume.seen, resume.seen_clock, Seen::default()),
            link: Reader::at(peer, resume.position, resume.clock, seen),
        }
    }

    /// Reads up to `most` transactions of the node's own log into the window; gives the effective
    /// timestamps that it computed, by index in the log.
    pub(crate) fn tail(
        &mut self,
        own: &[Rc<Logged>],
        most: usize,
        mutation: Option<Mutation>,
        merging: &Merging,
    ) -> Vec<(usize, u64)> {
        let mut computed = Vec::new();
        for _ in 0..most {
            let Some(read) = self.tailer.read(own, mutation) else {
                break;
            };
            if let Some(read) = read {
                computed.push((self.tailer.next - 1, read.effective));
                self.record(&read, mutation, merging);
            }
            self.window.advance(own[self.tailer.next - 1].end);
        }
        computed
    }

    fn record(&self, read: &Read, mutation: Option<Mutation>, merging: &Merging) {
        for (key, entry, before) in merging.entries(read, true) {
            self.window
                .histories()
                .record(key, entry, before.as_ref(), &merging.rules);
        }
        let Body::Local(changes) = &read.logged.body else {
            return;
        };
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
        self.window
            .record(read.logged.end, read.effective, claims, [])
            .expect("all is in memory");
    }
}
