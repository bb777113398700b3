//! What one reader of a log has seen prepared and not yet decided.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use crate::decode::ddl::Xid;
use crate::position::LogPos;
use crate::transaction::{Assembled, XaPrepared};

/// Most transactions on disk that are held: each is an open file.
const FILES: usize = 16;

/// Transactions that are prepared: their places, and their rows as far as there is room.
#[derive(Debug)]
pub struct Held {
    transactions: HashMap<Xid, Kept>,
    /// Where each begins: the first is asked for at every transaction that is read.
    starts: BTreeSet<LogPos>,
    /// Memory that all held rows may take, in bytes.
    room: usize,
    weight: usize,
    files: usize,
}

/// One of them.
#[derive(Debug)]
pub struct Kept {
    /// Where its first phase begins.
    pub start: LogPos,
    /// Its rows; `None` where there was no room: they stand in the log.
    pub rows: Option<Assembled>,
}

impl Held {
    /// With room for so many bytes of rows.
    #[must_use]
    pub fn new(room: usize) -> Self {
        Self {
            transactions: HashMap::new(),
            starts: BTreeSet::new(),
            room,
            weight: 0,
            files: 0,
        }
    }

    /// Takes what was prepared; gives the place of one that was prepared under the same name before
    /// and never decided: its server lost it in a crash, or it would have refused the name.
    pub fn keep(&mut self, prepared: XaPrepared) -> Option<LogPos> {
        let before = self.take(&prepared.xid);
        let whole = prepared.whole;
        let weight = weight(&whole);
        let file = usize::from(whole.spilled.is_some());
        let fits = self.weight + weight <= self.room && self.files + file <= FILES;
        let start = whole.start;
        if fits {
            self.weight += weight;
            self.files += file;
        }
        let kept = Kept {
            start,
            rows: fits.then_some(whole),
        };
        self.starts.insert(start);
        self.transactions.insert(prepared.xid, kept);
        before.map(|before| before.start)
    }

    /// Takes one that was found in the log further in front, without its rows.
    pub fn learn(&mut self, xid: Xid, start: LogPos) {
        if let Entry::Vacant(vacant) = self.transactions.entry(xid) {
            vacant.insert(Kept { start, rows: None });
            self.starts.insert(start);
        }
    }

    /// Gives the one of this name up.
    pub fn take(&mut self, xid: &Xid) -> Option<Kept> {
        let kept = self.transactions.remove(xid)?;
        self.starts.remove(&kept.start);
        if let Some(rows) = &kept.rows {
            self.weight -= weight(rows);
            self.files -= usize::from(rows.spilled.is_some());
        }
        Some(kept)
    }

    /// Where the first of them begins.
    #[must_use]
    pub fn oldest(&self) -> Option<LogPos> {
        self.starts.first().copied()
    }
}

/// Memory: what is on disk takes none.
fn weight(rows: &Assembled) -> usize {
    let on_disk = rows.spilled.as_ref().map_or(0, |spilled| spilled.weight());
    rows.weight.saturating_sub(on_disk)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(name: &str, offset: u64, weight: usize) -> XaPrepared {
        XaPrepared {
            xid: xid(name),
            whole: Assembled {
                start: LogPos::new(1, offset),
                end: LogPos::new(1, offset + 10),
                gtid: None,
                server_id: 1,
                committed_at: offset,
                statement: None,
                changes: Vec::new(),
                spilled: None,
                weight,
            },
        }
    }

    fn xid(name: &str) -> Xid {
        Xid {
            gtrid: name.into(),
            bqual: Vec::new(),
            format: 1,
        }
    }

    #[test]
    fn rows_are_held_as_far_as_there_is_room() {
        let mut held = Held::new(100);
        assert_eq!(held.keep(prepared("a", 10, 60)), None);
        assert_eq!(held.keep(prepared("b", 20, 60)), None);
        assert_eq!(held.keep(prepared("c", 30, 40)), None);
        assert_eq!(held.oldest(), Some(LogPos::new(1, 10)));
        let b = held.take(&xid("b")).unwrap();
        assert!(b.rows.is_none());
        assert_eq!(b.start, LogPos::new(1, 20));
        assert!(held.take(&xid("b")).is_none());
        assert!(held.take(&xid("a")).unwrap().rows.is_some());
        // Its room is free again.
        held.keep(prepared("d", 40, 60));
        assert!(held.take(&xid("d")).unwrap().rows.is_some());
        assert_eq!(held.oldest(), Some(LogPos::new(1, 30)));
    }

    #[test]
    fn a_name_that_is_prepared_again_stands_for_the_last() {
        let mut held = Held::new(100);
        held.keep(prepared("a", 10, 60));
        assert_eq!(held.keep(prepared("a", 20, 90)), Some(LogPos::new(1, 10)));
        held.learn(xid("a"), LogPos::new(1, 5));
        held.learn(xid("b"), LogPos::new(1, 6));
        let a = held.take(&xid("a")).unwrap();
        assert_eq!((a.start, a.rows.is_some()), (LogPos::new(1, 20), true));
        assert!(held.take(&xid("b")).unwrap().rows.is_none());
        assert_eq!((held.weight, held.oldest()), (0, None));
    }
}
