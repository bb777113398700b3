//! From row changes to few statements: the changes of a row merged to its last image where that is
//! provably the same, in the log's order where not.
//!
//! The changes are cut into **segments**: runs of the log's order, one after the other; around foreign
//! keys. Of a table without, a change that a segment cannot take goes into the next one and leaves the
//! segment open ([`super::levels`]). Within a
//! segment a row goes from its first image to its last one in one step, rows share statements, and
//! the order is deletes, changed rows, new rows (around foreign keys that the server minds: new rows,
//! changed rows, deletes). A segment ends in front of a change with which that would not be the same:
//!
//! - a unique value would come to a row that another row of the segment has held, unless that one is
//!   deleted by then and stays so, and deletes go first;
//! - a unique value, or a reference to a parent, that a row took within the segment would be left
//!   again, so that no image that is written has it;
//! - a row that came in the segment would go again, in a table where that matters;
//! - a parent's row goes or gets another key where the server cascades without a word in the log, and
//!   whenever a row around such foreign keys gets another row key: this change goes by itself.
//!
//! Tables without foreign keys are cut each by itself, those with foreign keys together.
//!
//! What is said here of a segment that ends holds of a change that goes one level up as well.
//!
//! # Why it comes to the same
//!
//! *Rows.* At both ends of a segment the target's table holds what the log's order makes of it. What
//! lies between is one step for each row; rows do not depend on each other but through keys.
//!
//! *Unique keys.* Say that value v is held, at any time within the segment in the log's order, by the
//! rows H(v). If H(v) is one row, v collides in no order. If it is more, all but the last one were
//! deleted when the next took v, and are not there at the end; they go in the first statements. So
//! no order of the rest collides either.
//!
//! *Foreign keys that the server minds.* New parents come before new children, and both before rows
//! change, so each parent that is referred to at the end is there when a row comes to refer to it: it
//! was there at the start, or is new. Parents go last, children in front of their parents; whoever
//! referred to them at the start has gone, or refers to another. A change of a row never changes what
//! others refer to it by. Tables that refer in a circle keep the log's order.
//!
//! *Locks.* Each key that was looked up in the window must be locked until the commit (see
//! [`crate::apply`]). A row key is: its row is written, or locked by [`Step::Lock`], or comes and
//! goes. A unique value of an image that is written is. One of an image in between is not, but that
//! is why a segment ends before such a value is left: it stands in the first or the last image of its
//! row, and these are written, or are the row's own, which is locked.

use std::collections::HashMap;
use std::sync::Arc;

use super::levels::Levels;
use super::segment::{Segment, Taken};
use crate::apply::mapping::Mapping;
use crate::conflict::claim::ChangeKeys;
use crate::row::{Row, RowChange};
use crate::transaction::ForeignKeyMode;

/// One statement's worth of changes, with what the target must report for it.
#[derive(Debug)]
pub enum Step<'b> {
    /// Rows that are new. Found rows: one each.
    Insert(&'b Arc<Mapping>, Vec<&'b Row>),
    /// Rows that exist and get a new image. Found rows: two each, as `ON DUPLICATE KEY UPDATE`
    /// counts; a missing row counts one and so shows. Where there are unique keys besides, a missing
    /// row could be mistaken for another that holds its value: a [`Step::Lock`] stands in front.
    Upsert(&'b Arc<Mapping>, Vec<Changed<'b>>),
    /// Rows that go, named by any of their images. Found rows: one each.
    Delete(&'b Arc<Mapping>, Vec<&'b Row>),
    /// One row from this image to that. Found rows: one.
    Update(&'b Arc<Mapping>, &'b Row, &'b Row),
    /// Rows that must be there, and are locked. Found rows: one each.
    Lock(&'b Arc<Mapping>, Vec<&'b Row>),
}

/// A row that gets a new image.
#[derive(Debug, Clone, Copy)]
pub struct Changed<'b> {
    /// The image before, in the same mapping; `None` where it is in another, so that the columns are
    /// not known that differ.
    pub from: Option<&'b Row>,
    /// The new image.
    pub to: &'b Row,
}

impl<'b> Step<'b> {
    /// The mapping of its table.
    #[must_use]
    pub fn mapping(&self) -> &'b Arc<Mapping> {
        match self {
            Step::Insert(mapping, _)
            | Step::Upsert(mapping, _)
            | Step::Delete(mapping, _)
            | Step::Lock(mapping, _)
            | Step::Update(mapping, _, _) => mapping,
        }
    }
}

/// A change with its table's mapping and the keys of its images.
#[derive(Debug, Clone, Copy)]
pub struct Mapped<'b> {
    /// How it fits the target's table.
    pub mapping: &'b Arc<Mapping>,
    /// What happened.
    pub change: &'b RowChange,
    /// As the collations compare them.
    pub keys: &'b ChangeKeys,
}

/// Every change by itself, in the log's order.
#[must_use]
pub fn one_by_one<'b>(changes: impl Iterator<Item = Mapped<'b>>) -> Vec<Step<'b>> {
    changes.map(single).collect()
}

fn single(mapped: Mapped<'_>) -> Step<'_> {
    let mapping = mapped.mapping;
    match mapped.change {
        RowChange::Insert { after } => Step::Insert(mapping, vec![after]),
        RowChange::Update { before, after } => Step::Update(mapping, before, after),
        RowChange::Delete { before } => Step::Delete(mapping, vec![before]),
    }
}

/// Changes merged per row, in segments.
#[must_use]
pub fn coalesced<'b>(changes: impl Iterator<Item = Mapped<'b>>) -> Vec<Step<'b>> {
    let mut steps = Vec::new();
    let mut tables: Vec<(usize, Levels<'b>)> = Vec::new();
    let mut tables_by_address: HashMap<usize, usize> = HashMap::new();
    let mut mode = ForeignKeyMode::Engine;
    let mut family = Segment::default();
    family.minds_foreign_keys = true;
    for mapped in changes {
        let target = &mapped.mapping.target;
        if !target.in_foreign_keys() {
            let address = Arc::as_ptr(target).addr();
            let index = *tables_by_address.entry(address).or_insert(tables.len());
            if index == tables.len() {
                tables.push((address, Levels::default()));
            }
            tables[index].1.take(mapped, &mut steps);
            continue;
        }
        if mode != mapped.mapping.foreign_keys {
            family.finish(&mut steps);
            mode = mapped.mapping.foreign_keys;
            family.minds_foreign_keys = mode == ForeignKeyMode::Engine;
        }
        match family.take(mapped) {
            Taken::Yes => {}
            Taken::AfterTheOthers => {
                family.finish(&mut steps);
                // In an empty segment nothing stands against it.
                if !matches!(family.take(mapped), Taken::Yes) {
                    push_ordered(&mut steps, mapped);
                }
            }
            Taken::Alone => {
                family.finish(&mut steps);
                push_ordered(&mut steps, mapped);
            }
        }
    }
    family.finish(&mut steps);
    for (_, mut levels) in tables {
        levels.finish(&mut steps);
    }
    steps
}

/// Adds a change in the log's order. Inserts that follow each other in one table share a statement,
/// whose rows the server takes in their order.
pub(super) fn push_ordered<'b>(steps: &mut Vec<Step<'b>>, mapped: Mapped<'b>) {
    match (mapped.change, steps.last_mut()) {
        (RowChange::Insert { after }, Some(Step::Insert(last, rows)))
            if Arc::ptr_eq(last, mapped.mapping) =>
        {
            rows.push(after);
        }
        _ => steps.push(single(mapped)),
    }
}
