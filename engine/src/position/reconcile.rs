//! Where a link goes on: the marker row against the engine's own store. The marker is believed.

use super::LogPos;
use super::marker::Marker;
use super::store::LinkRecord;

/// Where a link goes on and what it knows there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// First position of the origin's log that is not settled.
    pub position: LogPos,
    /// The origin's effective clock there.
    pub clock: u64,
    /// How much of the target's own log the origin had applied there.
    pub seen: LogPos,
    /// The target's effective clock at `seen`.
    pub seen_clock: u64,
    /// When the file of `position` was begun, seconds since 1970; 0 where that is not known.
    pub log_birth: u32,
    /// As [`LinkRecord::marked`], where the store is believed.
    pub marked: Option<LogPos>,
    /// As [`LinkRecord::numbered`], where the store is believed.
    pub numbered: Option<u64>,
    /// As [`LinkRecord::xa_from`], of this log. It may be out of date, and does no harm then.
    pub xa_from: Option<LogPos>,
    /// How marker and store stood to each other.
    pub agreement: Agreement,
}

/// How marker and store stood to each other at a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agreement {
    /// The store was written behind this very marker, and may know of more that needed no write.
    Same,
    /// Nothing was kept: a new store, or one that was moved aside.
    NothingKept,
    /// The marker is further: the engine stopped between the target's commit and its own store.
    StoreBehind,
    /// The marker was set by hand (`init --force`, `positions set`) since.
    SetByHand,
    /// The store is further: the target lost commits (a restored backup, relaxed durability).
    TargetWentBack {
        /// Where the store says that the marker stood.
        kept: LogPos,
    },
}

impl Agreement {
    /// Why a link goes on where it does, for the log.
    #[must_use]
    pub fn because(self) -> &'static str {
        match self {
            Agreement::Same => "marker row and store agree",
            Agreement::NothingKept => "the store knows nothing: by the marker row",
            Agreement::StoreBehind => {
                "the store was behind the marker row, as after a stop right behind a commit: by the \
                 marker row"
            }
            Agreement::SetByHand => "the position was set by hand",
            Agreement::TargetWentBack { .. } => {
                "the target lost commits that the store knows of: by the marker row, what was lost is \
                 applied again"
            }
        }
    }
}

/// Decides where to go on.
///
/// The store's `settled` is used only when the marker stands exactly where it stood when the store
/// was written; else the marker alone counts, so that a stale, lost or lying store can only cost
/// reading again (INV-ONCE).
#[must_use]
pub fn reconcile(marker: &Marker, kept: Option<&LinkRecord>) -> Resume {
    let by_marker = |agreement| Resume {
        position: marker.position,
        clock: marker.clock,
        seen: marker.seen,
        seen_clock: marker.seen_clock,
        log_birth: marker.log_birth,
        marked: None,
        numbered: None,
        xa_from: None,
        agreement,
    };
    match kept {
        None => by_marker(Agreement::NothingKept),
        Some(kept) if kept.marker < marker.position => Resume {
            xa_from: kept.xa_from,
            ..by_marker(Agreement::StoreBehind)
        },
        // Only a person takes the GTID or the count of transactions out of a marker.
        Some(kept) if marker.gtid.is_empty() && !kept.gtid.is_empty() => {
            by_marker(Agreement::SetByHand)
        }
        Some(kept) if kept.marker > marker.position => {
            by_marker(Agreement::TargetWentBack { kept: kept.marker })
        }
        Some(kept) if kept.gtid != marker.gtid || kept.transactions != marker.transactions => {
            by_marker(Agreement::SetByHand)
        }
        Some(kept) if kept.settled >= marker.position && kept.seen >= marker.seen => Resume {
            position: kept.settled,
            clock: kept.clock,
            seen: kept.seen,
            seen_clock: kept.seen_clock,
            log_birth: if kept.log_birth == 0 && kept.settled.file == marker.position.file {
                marker.log_birth
            } else {
                kept.log_birth
            },
            marked: kept.marked,
            numbered: kept.numbered,
            xa_from: kept.xa_from,
            agreement: Agreement::Same,
        },
        Some(_) => by_marker(Agreement::Same),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::LogName;

    fn marker(offset: u64) -> Marker {
        let (name, _) = LogName::split("bin.000001").unwrap();
        Marker {
            origin: "a".into(),
            server_id: 1,
            server_uuid: String::new(),
            log_name: name.clone(),
            position: LogPos::new(1, offset),
            gtid: "g:5".into(),
            clock: 10,
            seen_name: name,
            seen: LogPos::new(9, 9),
            seen_clock: 8,
            intent: None,
            intended: None,
            epoch: 1,
            transactions: 5,
            changes: 0,
            log_birth: 0,
            intent_clock: 0,
        }
    }

    fn kept(marker: u64, settled: u64) -> LinkRecord {
        LinkRecord {
            marker: LogPos::new(1, marker),
            transactions: 5,
            gtid: "g:5".into(),
            settled: LogPos::new(1, settled),
            clock: 20,
            seen: LogPos::new(9, 10),
            seen_clock: 18,
            log_birth: 3,
            marked: Some(LogPos::new(9, 10)),
            numbered: Some(4),
            xa_from: Some(LogPos::new(1, 80)),
        }
    }

    #[test]
    fn the_marker_is_believed() {
        let resume = reconcile(&marker(100), Some(&kept(100, 500)));
        assert_eq!(resume.position, LogPos::new(1, 500));
        assert_eq!((resume.clock, resume.seen_clock), (20, 18));
        assert_eq!((resume.log_birth, resume.numbered), (3, Some(4)));

        let resume = reconcile(&marker(100), Some(&kept(90, 500)));
        assert_eq!(resume.position, LogPos::new(1, 100));
        assert_eq!(resume.agreement, Agreement::StoreBehind);
        assert_eq!((resume.marked, resume.numbered), (None, None));
        assert_eq!(resume.xa_from, Some(LogPos::new(1, 80)));

        let resume = reconcile(&marker(100), Some(&kept(200, 500)));
        assert_eq!(resume.position, LogPos::new(1, 100));
        assert!(matches!(resume.agreement, Agreement::TargetWentBack { .. }));

        let mut by_hand = marker(100);
        by_hand.gtid = String::new();
        let resume = reconcile(&by_hand, Some(&kept(100, 500)));
        assert_eq!(
            resume.position,
            LogPos::new(1, 100),
            "the same place of another log"
        );
        assert_eq!(resume.xa_from, None);
        assert_eq!(resume.agreement, Agreement::SetByHand);

        assert_eq!(reconcile(&marker(100), None).position, LogPos::new(1, 100));
        assert_eq!(
            reconcile(&marker(100), Some(&kept(100, 50))).position,
            LogPos::new(1, 100),
            "a store that is behind itself is not believed"
        );
    }
}
