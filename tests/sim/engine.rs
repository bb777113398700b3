//! A model of one running engine: its tailer, its link's reader and what it knows. The stages
//! themselves (clock, window, reconcile) are the engine's own code; what stands here is the order in
//! which `link`, `tailer` and `origin` call them.

use std::rc::Rc;

use twinlog_engine::clock::Clock;
use twinlog_engine::conflict::claim::ClaimKind;
use twinlog_engine::conflict::window::Window;
use twinlog_engine::position::LogPos;
use twinlog_engine::position::reconcile::Resume;
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
    ) -> Vec<(usize, u64)> {
        let mut computed = Vec::new();
        for _ in 0..most {
            let Some(read) = self.tailer.read(own, mutation) else {
                break;
            };
            if let Some(read) = read {
                computed.push((self.tailer.next - 1, read.effective));
                self.record(&read, mutation);
            }
            self.window.advance(own[self.tailer.next - 1].end);
        }
        computed
    }

    fn record(&self, read: &Read, mutation: Option<Mutation>) {
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
        if mutation == Some(Mutation::NoTombstones) {
            claims.retain(|(_, kind)| *kind != ClaimKind::Tombstone);
        }
        self.window
            .record(read.logged.end, read.effective, claims, []);
    }
}
