//! From row changes to few statements: changes of one key merged to their last image where that is
//! provably the same, in the log's order where not.
//!
//! Merging is right for a table whose rows can only collide through the row key: no other unique key
//! through which two rows could swap a value, no foreign key whose order matters
//! ([`Mapping::is_simple`]). Since the whole batch becomes visible at once, only the last image of a
//! row matters then, and deletes may go first. All other tables keep the log's order among
//! themselves.

use std::collections::HashMap;
use std::sync::Arc;

use crate::apply::mapping::Mapping;
use crate::conflict::key::{KeyHash, row_key};
use crate::row::{Row, RowChange};

/// One statement's worth of changes, with what the target must report for it.
#[derive(Debug)]
pub enum Step<'b> {
    /// Rows that are new. Found rows: one each.
    Insert(&'b Arc<Mapping>, Vec<&'b Row>),
    /// Rows that exist and get a new image. Found rows: two each, as `ON DUPLICATE KEY UPDATE`
    /// counts; a missing row counts one and so shows.
    Upsert(&'b Arc<Mapping>, Vec<&'b Row>),
    /// Rows that go, named by any of their images. Found rows: one each.
    Delete(&'b Arc<Mapping>, Vec<&'b Row>),
    /// One row from this image to that. Found rows: one.
    Update(&'b Arc<Mapping>, &'b Row, &'b Row),
}

impl<'b> Step<'b> {
    /// The mapping of its table.
    #[must_use]
    pub fn mapping(&self) -> &'b Arc<Mapping> {
        match self {
            Step::Insert(mapping, _)
            | Step::Upsert(mapping, _)
            | Step::Delete(mapping, _)
            | Step::Update(mapping, _, _) => mapping,
        }
    }
}

/// A change with its table's mapping.
pub(super) type Mapped<'b> = (&'b Arc<Mapping>, &'b RowChange);

/// Every change by itself, in the log's order.
#[must_use]
pub fn one_by_one<'b>(changes: impl Iterator<Item = Mapped<'b>>) -> Vec<Step<'b>> {
    changes.map(single).collect()
}

fn single<'b>((mapping, change): Mapped<'b>) -> Step<'b> {
    match change {
        RowChange::Insert { after } => Step::Insert(mapping, vec![after]),
        RowChange::Update { before, after } => Step::Update(mapping, before, after),
        RowChange::Delete { before } => Step::Delete(mapping, vec![before]),
    }
}

/// What becomes of one key within the batch.
struct Net<'b> {
    /// Of the last image.
    mapping: &'b Arc<Mapping>,
    /// Of the first image.
    first_mapping: &'b Arc<Mapping>,
    /// Any image of the row, and its mapping: names it where neither end is left.
    any: (&'b Arc<Mapping>, &'b Row),
    /// The row before the batch, where there was one.
    first: Option<&'b Row>,
    /// The row behind the batch, where there is one.
    last: Option<&'b Row>,
}

/// Changes merged per key where that is right. `None` when the changes of a key contradict each
/// other (an insert of a row that is there): the caller then goes one by one, so that the target
/// says what is wrong.
#[must_use]
pub fn coalesced<'b>(changes: impl Iterator<Item = Mapped<'b>>) -> Option<Vec<Step<'b>>> {
    let mut nets: Vec<Net<'b>> = Vec::new();
    let mut by_key: HashMap<KeyHash, usize> = HashMap::new();
    let mut ordered: Vec<Step<'b>> = Vec::new();
    for (mapping, change) in changes {
        if !mapping.is_simple() {
            push_ordered(&mut ordered, mapping, change);
            continue;
        }
        let mut keep = |before: Option<&'b Row>, after: Option<&'b Row>| -> Option<()> {
            let image = before.or(after)?;
            let key = row_key(&mapping.target, |column| mapping.value(image, column))?;
            match by_key.get(&key) {
                None => {
                    by_key.insert(key, nets.len());
                    nets.push(Net {
                        mapping,
                        first_mapping: mapping,
                        any: (mapping, image),
                        first: before,
                        last: after,
                    });
                }
                Some(index) => {
                    let net = &mut nets[*index];
                    // A change must begin where the one before it ended: with the row, or without.
                    if net.last.is_some() != before.is_some() {
                        return None;
                    }
                    net.last = after;
                    if after.is_some() {
                        net.mapping = mapping;
                    }
                }
            }
            Some(())
        };
        match change {
            RowChange::Insert { after } => keep(None, Some(after))?,
            RowChange::Delete { before } => keep(Some(before), None)?,
            RowChange::Update { before, after } => {
                if mapping.same_row(before, after) {
                    keep(Some(before), Some(after))?;
                } else {
                    keep(Some(before), None)?;
                    keep(None, Some(after))?;
                }
            }
        }
    }
    let mut deletes: Buckets<'b> = Vec::new();
    let mut inserts: Buckets<'b> = Vec::new();
    let mut upserts: Buckets<'b> = Vec::new();
    let mut touched: Vec<Step<'b>> = Vec::new();
    for net in nets {
        match (net.first, net.last) {
            (Some(first), None) => bucket(&mut deletes, net.first_mapping, first),
            (None, Some(last)) => bucket(&mut inserts, net.mapping, last),
            (Some(first), Some(last)) if first != last => {
                bucket(&mut upserts, net.mapping, last);
            }
            // Went back to what it was, or came and went: nothing to change, and yet its key must
            // be locked until the commit, as for every key that was looked up in the window.
            (Some(first), Some(last)) => {
                touched.push(Step::Update(net.mapping, first, last));
            }
            (None, None) => {
                let (mapping, row) = net.any;
                touched.push(Step::Insert(mapping, vec![row]));
                touched.push(Step::Delete(mapping, vec![row]));
            }
        }
    }
    let mut steps = ordered;
    steps.extend(deletes.into_iter().map(|(m, rows)| Step::Delete(m, rows)));
    steps.extend(inserts.into_iter().map(|(m, rows)| Step::Insert(m, rows)));
    steps.extend(upserts.into_iter().map(|(m, rows)| Step::Upsert(m, rows)));
    steps.extend(touched);
    Some(steps)
}

type Buckets<'b> = Vec<(&'b Arc<Mapping>, Vec<&'b Row>)>;

fn bucket<'b>(buckets: &mut Buckets<'b>, mapping: &'b Arc<Mapping>, row: &'b Row) {
    match buckets
        .iter_mut()
        .find(|(known, _)| Arc::ptr_eq(known, mapping))
    {
        Some((_, rows)) => rows.push(row),
        None => buckets.push((mapping, vec![row])),
    }
}

/// Keeps the order; only inserts that follow each other in one table share a statement, whose rows
/// the server takes in their order.
fn push_ordered<'b>(steps: &mut Vec<Step<'b>>, mapping: &'b Arc<Mapping>, change: &'b RowChange) {
    if let (RowChange::Insert { after }, Some(Step::Insert(last, rows))) =
        (change, steps.last_mut())
        && Arc::ptr_eq(last, mapping)
    {
        rows.push(after);
        return;
    }
    steps.push(single((mapping, change)));
}
