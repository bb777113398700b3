//! Resolution: what becomes of a foreign write that meets concurrent local ones. Pure: keys and
//! claims in, actions and verdict out; no rows, no time, no server.
//!
//! The rule (docs/conflicts.md has the argument): every key belongs to its highest claim, and a row
//! image stands if and only if its write owns every key that it claims. A target that has applied
//! some set of writes holds exactly the images that stand by that set; [`resolve`] says what changes
//! when one more foreign write joins it. Only the *last* concurrent local claim of a key has to be
//! known, for the claims of one node rise in the order of its log.

use std::cmp::{Ordering, Reverse};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::claim::{ClaimKind, RowWrite};
use super::key::KeyHash;
use super::policy::{Policy, Standing, Winner};
use super::window::LocalWrite;

/// A foreign write that is to be settled.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'w> {
    /// What it writes.
    pub write: &'w RowWrite,
    /// Where its transaction stands.
    pub standing: Standing<'w>,
    /// Whether the target holds a row at the write's row key, behind all that was applied before.
    pub present: bool,
    /// The table's policy.
    pub policy: Policy,
}

/// A claim of another node, the target or a third one, that is concurrent with an arriving write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rival {
    /// That node's last claim of the key.
    pub claim: LocalWrite,
    /// Place of that node in the order of nodes.
    pub place: u8,
    /// What its transaction had seen; see [`Standing::seen`].
    pub seen: Arc<[u64]>,
}

impl Rival {
    /// Where the claim's transaction stands.
    #[must_use]
    pub fn standing(&self) -> Standing<'_> {
        Standing {
            effective: self.claim.effective,
            place: self.place,
            seen: &self.seen,
        }
    }
}

/// What is to be done at the target, and what to say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// First: the rows, other than the one at the write's row key, that hold the write's value of
    /// these unique keys (numbers among the schema's `unique_keys`) go. Fewer rows than keys may be
    /// found.
    pub displace: Vec<usize>,
    /// Then: what becomes of the row at the write's row key.
    pub row: RowAction,
    /// What to write down.
    pub finding: Finding,
}

/// What becomes of the row at a write's row key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowAction {
    /// It stays as it is, or stays absent.
    Keep,
    /// It becomes the write's whole after image, whether or not a row was there: an earlier image
    /// of it may have been passed over here.
    Put,
    /// It goes, if it is there.
    Remove,
}

/// What to write down of a settled write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// No concurrent write; what it met was settled with an earlier one.
    Quiet,
    /// Concurrent writes, settled.
    Conflict(Conflict),
    /// Concurrent writes under [`Policy::Halt`]: roll back and stop the link.
    Halt(Conflict),
    /// No concurrent write, and yet the row is missing or already there.
    Drift,
}

/// A conflict: divergent concurrent writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Its kind.
    pub kind: ConflictKind,
    /// Whether the image (or delete) of the foreign write stands. Some keys may have been decided
    /// the other way; see `met`.
    pub winner: Winner,
    /// The keys that other nodes claimed too, with the verdict of each; with three nodes, each once
    /// for every such node. Empty where an earlier image of
    /// the row had lost and this one finds it missing.
    pub met: Vec<MetKey>,
}

/// One key that both nodes claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetKey {
    /// The key.
    pub key: KeyHash,
    /// `None`: the row key. Else the number among the schema's `unique_keys`.
    pub unique: Option<usize>,
    /// The other node's last claim of it.
    pub local: LocalWrite,
    /// Place of that node in the order of nodes.
    pub place: u8,
    /// Whose it is now.
    pub winner: Winner,
}

/// Kinds of conflict: PostgreSQL's names, seen from the write that arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConflictKind {
    /// An insert of a row key, or with a unique value, that was taken here.
    InsertExists,
    /// An update to a unique value that was taken here by another row.
    UpdateExists,
    /// An update of a row that was written here.
    UpdateOriginDiffers,
    /// An update (or insert) of a row that was deleted here.
    UpdateDeleted,
    /// An update of a row that is missing here because an earlier image of it lost a unique value.
    UpdateMissing,
    /// A delete of a row that was written here.
    DeleteOriginDiffers,
    /// A delete of a row that was deleted here, or of which an earlier image lost a unique value.
    DeleteMissing,
    /// More than one key was claimed here.
    MultipleUniqueConflicts,
    /// A child whose parent was deleted here, or a parent's delete that meets a child written here.
    ForeignKey,
    /// A write of a row, and a TRUNCATE of its table that had not seen it.
    Truncate,
}

impl ConflictKind {
    /// Its name, as in the journal.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InsertExists => "insert_exists",
            Self::UpdateExists => "update_exists",
            Self::UpdateOriginDiffers => "update_origin_differs",
            Self::UpdateDeleted => "update_deleted",
            Self::UpdateMissing => "update_missing",
            Self::DeleteOriginDiffers => "delete_origin_differs",
            Self::DeleteMissing => "delete_missing",
            Self::MultipleUniqueConflicts => "multiple_unique_conflicts",
            Self::ForeignKey => "foreign_key",
            Self::Truncate => "truncate",
        }
    }
}

/// Settles one foreign write.
///
/// `concurrent` gives, for each other node, its last claim of a key that lies behind what the write's
/// transaction had seen of that node ([`super::window::Window::concurrent_write`]). It must be
/// complete up to the end of the target's log, and the write's keys locked, before the answer may be
/// trusted: see docs/conflicts.md, "What the apply owes".
#[must_use]
pub fn resolve<R: IntoIterator<Item = Rival>>(
    arrival: &Arrival<'_>,
    concurrent: impl Fn(KeyHash) -> R,
) -> Resolution {
    let write = arrival.write;
    let keys = write.row_key().map(|key| (None, key)).into_iter().chain(
        write
            .unique_claims()
            .iter()
            .map(|(number, key)| (Some(*number), *key)),
    );
    let mut met: Vec<MetKey> = Vec::new();
    let mut halt = false;
    for (unique, key) in keys {
        for rival in concurrent(key) {
            let order = arrival.policy.compare(&arrival.standing, &rival.standing());
            halt |= order.is_none();
            met.push(MetKey {
                key,
                unique,
                local: rival.claim,
                place: rival.place,
                winner: match order {
                    Some(Ordering::Greater) => Winner::Remote,
                    _ => Winner::Local,
                },
            });
        }
    }
    let lost = met.iter().any(|key| key.winner == Winner::Local);
    // A late arrival displaces even where it does not stand itself: its claims count.
    let mut displace: Vec<usize> = met.iter().filter_map(|key| key.unique).collect();
    displace.dedup();
    displace.retain(|number| {
        let mut of_key = met.iter().filter(|key| key.unique == Some(*number));
        of_key.all(|key| key.winner == Winner::Remote)
    });
    let lost_row = met
        .iter()
        .any(|key| key.unique.is_none() && key.winner == Winner::Local);
    let row = match write {
        _ if lost_row => RowAction::Keep,
        // It owns its row key, so that every older image of the row is superseded, and does not
        // stand: no image of this row does.
        _ if lost => RowAction::Remove,
        RowWrite::Delete { .. } => RowAction::Remove,
        RowWrite::Insert { .. } | RowWrite::Update { .. } => RowAction::Put,
    };
    let finding = finding(arrival, met, lost, halt, &concurrent);
    Resolution {
        displace,
        row,
        finding,
    }
}

fn finding<R: IntoIterator<Item = Rival>>(
    arrival: &Arrival<'_>,
    met: Vec<MetKey>,
    lost: bool,
    halt: bool,
    concurrent: &impl Fn(KeyHash) -> R,
) -> Finding {
    let write = arrival.write;
    // A unique value that the row had before is not what an update is about, once the row itself was
    // met.
    let row_met = met.iter().any(|met| met.unique.is_none());
    let mut telling: Vec<&MetKey> = met
        .iter()
        .filter(|met| {
            let unchanged = |number| write.left().contains(&(number, met.key));
            !(row_met && met.unique.is_some_and(unchanged))
        })
        .collect();
    // Of several nodes that claimed one key, the later claim tells the kind.
    telling.sort_by_key(|met| (met.unique, Reverse(met.local.effective)));
    telling.dedup_by_key(|met| met.unique);
    let kind = match telling.as_slice() {
        [] => {
            // Nothing that it claims was claimed here. A row that is missing was taken away by a
            // claim of a unique value which the row had then.
            let explained = write
                .left()
                .iter()
                .any(|(_, key)| concurrent(*key).into_iter().next().is_some());
            match (write, arrival.present) {
                (RowWrite::Insert { .. }, false)
                | (RowWrite::Update { .. } | RowWrite::Delete { .. }, true) => {
                    return Finding::Quiet;
                }
                (RowWrite::Update { .. }, false) if explained => ConflictKind::UpdateMissing,
                (RowWrite::Delete { .. }, false) if explained => ConflictKind::DeleteMissing,
                _ => return Finding::Drift,
            }
        }
        [only] => match (write, only.unique, only.local.kind) {
            (_, _, ClaimKind::Emptied) => ConflictKind::Truncate,
            (RowWrite::Delete { .. }, _, ClaimKind::Image) => ConflictKind::DeleteOriginDiffers,
            (RowWrite::Delete { .. }, _, ClaimKind::Tombstone) => ConflictKind::DeleteMissing,
            (_, None, ClaimKind::Tombstone) => ConflictKind::UpdateDeleted,
            (RowWrite::Insert { .. }, _, _) => ConflictKind::InsertExists,
            (RowWrite::Update { .. }, None, _) => ConflictKind::UpdateOriginDiffers,
            (RowWrite::Update { .. }, Some(_), _) => ConflictKind::UpdateExists,
        },
        _ => ConflictKind::MultipleUniqueConflicts,
    };
    let winner = if lost { Winner::Local } else { Winner::Remote };
    let conflict = Conflict { kind, winner, met };
    if halt {
        Finding::Halt(conflict)
    } else {
        Finding::Conflict(conflict)
    }
}

/// What becomes of the row at one key of a table that the arriving TRUNCATE empties: the statement is
/// a delete of every row key that there may be (docs/conflicts.md, "TRUNCATE against rows"). `arrival`'s
/// write is that delete.
#[must_use]
pub fn emptied<R: IntoIterator<Item = Rival>>(
    arrival: &Arrival<'_>,
    concurrent: impl Fn(KeyHash) -> R,
) -> Resolution {
    let mut resolution = resolve(arrival, concurrent);
    match &mut resolution.finding {
        Finding::Conflict(conflict) | Finding::Halt(conflict) => {
            conflict.kind = ConflictKind::Truncate;
        }
        // A key without a row, and without a claim: nothing to say.
        Finding::Drift | Finding::Quiet => resolution.finding = Finding::Quiet,
    }
    resolution
}

/// What becomes of an image that refers to a parent whose concurrent delete exists: it does not stand.
/// The keys that it claims are its all the same.
#[must_use]
pub fn orphaned(mut resolution: Resolution) -> Resolution {
    if resolution.row == RowAction::Put {
        resolution.row = RowAction::Remove;
    }
    match &mut resolution.finding {
        Finding::Conflict(conflict) => conflict.winner = Winner::Local,
        Finding::Halt(_) => {}
        Finding::Quiet | Finding::Drift => {
            resolution.finding = Finding::Conflict(Conflict {
                kind: ConflictKind::ForeignKey,
                winner: Winner::Local,
                met: Vec::new(),
            });
        }
    }
    resolution
}

/// What becomes of a write whose row is missing because an earlier image of it had lost its parent: as
/// for any other whose earlier image had lost, no drift.
#[must_use]
pub fn without_its_row(mut resolution: Resolution, write: &RowWrite) -> Resolution {
    if resolution.finding == Finding::Drift {
        let kind = match write {
            RowWrite::Delete { .. } => ConflictKind::DeleteMissing,
            RowWrite::Insert { .. } | RowWrite::Update { .. } => ConflictKind::UpdateMissing,
        };
        resolution.finding = Finding::Conflict(Conflict {
            kind,
            winner: Winner::Remote,
            met: Vec::new(),
        });
    }
    resolution
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conflict::claim::ImageKeys;
    use crate::conflict::collation::Weights;
    use crate::conflict::key::image_keys;
    use crate::position::LogPos;
    use crate::row::Value;
    use crate::schema::{ColumnSchema, TableSchema, UniqueKey};

    fn column(name: &str) -> ColumnSchema {
        ColumnSchema {
            name: name.into(),
            data_type: "int".into(),
            column_type: "int".into(),
            unsigned: false,
            nullable: true,
            charset: None,
            collation: None,
            generated: false,
            auto_increment: false,
            ..ColumnSchema::default()
        }
    }

    fn keys(row: i64, unique: Option<i64>) -> ImageKeys {
        let schema = TableSchema {
            database: "d".into(),
            name: "t".into(),
            table_type: "BASE TABLE".into(),
            engine: "InnoDB".into(),
            columns: ["id", "u"].map(column).into(),
            row_key: vec![0],
            unique_keys: vec![UniqueKey {
                name: "u".into(),
                columns: vec![1],
                prefixes: vec![None],
            }],
            has_opaque_unique_key: false,
            parents: Vec::new(),
            children: Vec::new(),
            triggers: false,
            keyed_by_primary: true,
        };
        let image = [Value::Int(row), unique.map_or(Value::Null, Value::Int)];
        image_keys(&schema, |column| image.get(column), &Weights::default())
    }

    /// Settles `write` at `effective` against local claims, all of them concurrent.
    fn settle(
        write: &RowWrite,
        effective: u64,
        present: bool,
        local: &[(KeyHash, u64, ClaimKind)],
    ) -> Resolution {
        let arrival = Arrival {
            write,
            standing: Standing {
                effective,
                place: 1,
                seen: &[],
            },
            present,
            policy: Policy::LastWriteWins,
        };
        resolve(&arrival, |key| {
            let (_, effective, kind) = local.iter().find(|(claimed, ..)| *claimed == key)?;
            Some(rival(0, *effective, *kind))
        })
    }

    fn rival(place: u8, effective: u64, kind: ClaimKind) -> Rival {
        Rival {
            claim: LocalWrite {
                position: LogPos::new(1, effective),
                effective,
                kind,
            },
            place,
            seen: Arc::default(),
        }
    }

    fn conflict(resolution: &Resolution) -> &Conflict {
        match &resolution.finding {
            Finding::Conflict(conflict) => conflict,
            other => panic!("{other:?}"),
        }
    }

    const X: i64 = 24;
    const Z: i64 = 26;

    /// Design section 3: A wrote (1, x) at 1 and moved row 2 to z at 3, B moved row 2 to x at 2.
    #[test]
    fn a_late_arrival_displaces_though_it_does_not_stand() {
        let image = ClaimKind::Image;
        // At A: b comes by.
        let b = RowWrite::Update {
            after: keys(2, Some(X)),
            left: Vec::new(),
        };
        let x = keys(2, Some(X)).unique[0].1;
        let row_two = keys(2, None).row.unwrap();
        let at_a = settle(&b, 2, true, &[(row_two, 3, image), (x, 1, image)]);
        assert_eq!((at_a.row, &at_a.displace[..]), (RowAction::Keep, &[0][..]));
        let said = conflict(&at_a);
        assert_eq!(said.winner, Winner::Local);
        assert_eq!(said.kind, ConflictKind::MultipleUniqueConflicts);
        // At B: the insert of (1, x), then row 2 to z.
        let local = [(row_two, 2, image), (x, 2, image)];
        let insert = RowWrite::Insert {
            after: keys(1, Some(X)),
        };
        let lost = settle(&insert, 1, false, &local);
        assert_eq!((lost.row, lost.displace.len()), (RowAction::Remove, 0));
        assert_eq!(conflict(&lost).kind, ConflictKind::InsertExists);
        let update = RowWrite::Update {
            after: keys(2, Some(Z)),
            left: Vec::new(),
        };
        let won = settle(&update, 3, true, &local);
        assert_eq!((won.row, won.displace.len()), (RowAction::Put, 0));
        assert_eq!(conflict(&won).winner, Winner::Remote);
    }

    #[test]
    fn ties_go_to_the_node_that_stands_first() {
        let write = RowWrite::Delete {
            before: keys(1, None),
        };
        let local = [(write.row_key().unwrap(), 5, ClaimKind::Image)];
        let settled = settle(&write, 5, true, &local);
        assert_eq!(settled.row, RowAction::Keep);
        assert_eq!(conflict(&settled).kind, ConflictKind::DeleteOriginDiffers);
        assert_eq!(settle(&write, 6, true, &local).row, RowAction::Remove);
    }

    #[test]
    fn a_missing_row_is_drift_unless_a_claim_explains_it() {
        let update = RowWrite::Update {
            after: keys(1, Some(Z)),
            left: keys(1, Some(X)).unique,
        };
        assert_eq!(settle(&update, 5, true, &[]).finding, Finding::Quiet);
        assert_eq!(settle(&update, 5, false, &[]).finding, Finding::Drift);
        let taken = [(keys(1, Some(X)).unique[0].1, 9, ClaimKind::Image)];
        let settled = settle(&update, 5, false, &taken);
        assert_eq!(settled.row, RowAction::Put);
        assert_eq!(conflict(&settled).kind, ConflictKind::UpdateMissing);
    }

    #[test]
    fn halt_settles_nothing() {
        let write = RowWrite::Insert {
            after: keys(1, None),
        };
        let arrival = Arrival {
            write: &write,
            standing: Standing {
                effective: 9,
                place: 0,
                seen: &[],
            },
            present: true,
            policy: Policy::Halt,
        };
        let settled = resolve(&arrival, |_| Some(rival(1, 1, ClaimKind::Image)));
        assert!(matches!(settled.finding, Finding::Halt(_)));
    }

    /// With three nodes a value goes to the write only if it beats both others' claims of it.
    #[test]
    fn a_write_must_beat_every_other_node() {
        let write = RowWrite::Insert {
            after: keys(1, Some(X)),
        };
        let unique = keys(1, Some(X)).unique[0].1;
        let settle = |effective| {
            let arrival = Arrival {
                write: &write,
                standing: Standing {
                    effective,
                    place: 2,
                    seen: &[],
                },
                present: false,
                policy: Policy::LastWriteWins,
            };
            resolve(&arrival, |key| {
                let image = ClaimKind::Image;
                let rivals = [rival(0, 5, image), rival(1, 7, image)];
                rivals.into_iter().filter(move |_| key == unique)
            })
        };
        let lost = settle(6);
        assert_eq!((lost.row, lost.displace.len()), (RowAction::Remove, 0));
        assert_eq!(conflict(&lost).kind, ConflictKind::InsertExists);
        assert_eq!(conflict(&lost).met.len(), 2);
        let won = settle(8);
        assert_eq!((won.row, &won.displace[..]), (RowAction::Put, &[0][..]));
    }
}
