//! One segment of a plan: what becomes of each row, as long as it stays the same in another order.
//! The rules, and why they are enough, stand in [`super::plan`].

use std::collections::HashMap;
use std::sync::Arc;

use super::plan::{Changed, Mapped, Step, push_ordered};
use crate::apply::mapping::Mapping;
use crate::conflict::claim::ImageKeys;
use crate::conflict::key::{KeyHash, KeyMap, row_key};
use crate::row::{Row, RowChange};

/// Whether a change went into a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    /// It has to come behind all that the segment holds. The segment is as it was.
    AfterTheOthers,
    /// It has to be a statement of its own. The segment is as it was.
    Alone,
}

/// What becomes of one row within the segment.
struct Net<'b> {
    /// Of the last image.
    mapping: &'b Arc<Mapping>,
    /// Of the first image.
    first_mapping: &'b Arc<Mapping>,
    /// Any image of the row, and its mapping: names it where neither end is left.
    any: (&'b Arc<Mapping>, &'b Row),
    /// The row before the segment, where there was one.
    first: Option<Image<'b>>,
    /// The row behind it, where there is one.
    last: Option<Image<'b>>,
    /// Another row has taken a unique value of it since it was deleted: it may not come back.
    gone_for_good: bool,
    /// A segment in front of this one, in the same transaction, has written the row: it is there as this
    /// one needs it, and locked.
    written_before: bool,
}

#[derive(Clone, Copy)]
struct Image<'b> {
    row: &'b Row,
    keys: &'b ImageKeys,
}

impl Image<'_> {
    fn holds(&self, value: KeyHash) -> bool {
        self.keys.unique.iter().any(|(_, key)| *key == value)
    }
}

/// Changes of one table, or of all tables around foreign keys.
#[derive(Default)]
pub(super) struct Segment<'b> {
    /// Whether the server minds the foreign keys of its tables as rows are written.
    pub(super) minds_foreign_keys: bool,
    nets: Vec<Net<'b>>,
    by_key: KeyMap<usize>,
    /// The last row, as its number among `nets`, that held a unique value.
    holders: KeyMap<usize>,
    /// All changes, in the log's order.
    log: Vec<Mapped<'b>>,
}

impl<'b> Segment<'b> {
    /// Takes a change, the next in the log's order, if it may be merged with those before it.
    pub(super) fn take(&mut self, mapped: Mapped<'b>) -> Taken {
        let mapping = mapped.mapping;
        if mapping.target.has_opaque_unique_key || self.must_stay(mapped) {
            return Taken::Alone;
        }
        let image = |row: Option<&'b Row>, keys: &'b Option<ImageKeys>| {
            Some(Image {
                row: row?,
                keys: keys.as_ref()?,
            })
        };
        let before = image(mapped.change.before(), &mapped.keys.before);
        let after = image(mapped.change.after(), &mapped.keys.after);
        let parts = match mapped.change {
            RowChange::Update {
                before: b,
                after: a,
            } if !mapping.same_row(b, a) => {
                if !mapping.target.unique_keys.is_empty() {
                    return Taken::Alone;
                }
                [Some((before, None)), Some((None, after))]
            }
            _ => [Some((before, after)), None],
        };
        // Looked at all first, so that nothing is taken by halves.
        let mut places = [(KeyHash::default(), None); 2];
        for (place, (before, after)) in places.iter_mut().zip(parts.into_iter().flatten()) {
            let Some(key) = before
                .or(after)
                .and_then(|image| name(mapping, image.row, image.keys))
            else {
                return Taken::Alone;
            };
            let known = self.by_key.get(&key).copied();
            if !self.may_take(mapping, known, before, after) {
                return Taken::AfterTheOthers;
            }
            *place = (key, known);
        }
        for ((key, known), (before, after)) in places.into_iter().zip(parts.into_iter().flatten()) {
            self.put(mapping, key, known, before, after);
        }
        self.log.push(mapped);
        Taken::Yes
    }

    /// Whether what the server does around foreign keys depends on where the change stands.
    fn must_stay(&self, mapped: Mapped<'b>) -> bool {
        let mapping = mapped.mapping;
        if !self.minds_foreign_keys || !mapping.target.in_foreign_keys() {
            return false;
        }
        match mapped.change {
            RowChange::Insert { .. } => false,
            RowChange::Delete { .. } => mapping
                .target
                .children
                .iter()
                .any(|key| !matches!(key.on_delete.as_str(), "RESTRICT" | "NO ACTION")),
            RowChange::Update { before, after } => {
                !mapping.same_row(before, after) || !mapping.same_for_children(before, after)
            }
        }
    }

    /// Whether a row may go on from `before` to `after`; `known` is its number.
    fn may_take(
        &self,
        mapping: &Mapping,
        known: Option<usize>,
        before: Option<Image<'b>>,
        after: Option<Image<'b>>,
    ) -> bool {
        let family = mapping.target.in_foreign_keys();
        let matters = family || !mapping.target.unique_keys.is_empty();
        if let Some(net) = known.and_then(|number| self.nets.get(number)) {
            // A change must begin where the one before it ended: with the row, or without.
            if net.last.is_some() != before.is_some() || (net.gone_for_good && after.is_some()) {
                return false;
            }
            if !matters {
                return true;
            }
            if net.first.is_none() && after.is_none() {
                return false;
            }
            if let Some(between) = net.last {
                let kept = |value| {
                    [net.first, after]
                        .iter()
                        .flatten()
                        .any(|image| image.holds(value))
                };
                if !between.keys.unique.iter().all(|(_, value)| kept(*value)) {
                    return false;
                }
                let refers_alike = |other: Option<Image<'_>>| {
                    other.is_some_and(|other| mapping.refers_alike(between.row, other.row))
                };
                if family && !refers_alike(net.first) && !refers_alike(after) {
                    return false;
                }
            }
        }
        let held = |image: Option<Image<'b>>| {
            let keys = image.map(|image| image.keys.unique.as_slice());
            let holders = keys.unwrap_or_default().iter();
            holders.filter_map(|(_, value)| self.holders.get(value).copied())
        };
        let is_other = |holder: &usize| known != Some(*holder);
        // The log contradicts itself: the server shall say so.
        if held(before).any(|holder| is_other(&holder)) {
            return false;
        }
        held(after).filter(is_other).all(|holder| {
            let released = self.nets.get(holder).is_some_and(|net| net.last.is_none());
            released && !self.minds_foreign_keys
        })
    }

    fn put(
        &mut self,
        mapping: &'b Arc<Mapping>,
        key: KeyHash,
        known: Option<usize>,
        before: Option<Image<'b>>,
        after: Option<Image<'b>>,
    ) {
        let number = known.unwrap_or(self.nets.len());
        for (_, value) in before.iter().flat_map(|image| &image.keys.unique) {
            self.holders.insert(*value, number);
        }
        for (_, value) in after.iter().flat_map(|image| &image.keys.unique) {
            let holder = self.holders.insert(*value, number);
            if let Some(other) = holder.filter(|holder| *holder != number)
                && let Some(net) = self.nets.get_mut(other)
            {
                net.gone_for_good = true;
            }
        }
        if let Some(net) = self.nets.get_mut(number) {
            net.last = after;
            if after.is_some() {
                net.mapping = mapping;
            }
            return;
        }
        let Some(any) = before.or(after) else { return };
        self.by_key.insert(key, number);
        self.nets.push(Net {
            mapping,
            first_mapping: mapping,
            any: (mapping, any.row),
            first: before,
            last: after,
            gone_for_good: false,
            written_before: false,
        });
    }

    /// A segment that is run in front of this one, with nothing between that has the row, writes it.
    pub(super) fn written_before(&mut self, key: KeyHash) {
        let number = self.by_key.get(&key);
        if let Some(net) = number.and_then(|number| self.nets.get_mut(*number)) {
            net.written_before = true;
        }
    }

    /// Adds the segment's steps, and begins a new one.
    pub(super) fn finish(&mut self, steps: &mut Vec<Step<'b>>) {
        if self.nets.is_empty() {
            return;
        }
        let log = std::mem::take(&mut self.log);
        let nets = std::mem::take(&mut self.nets);
        self.by_key.clear();
        self.holders.clear();
        let depths = if self.minds_foreign_keys {
            match depths(&nets) {
                Some(depths) => depths,
                None => {
                    log.into_iter()
                        .for_each(|mapped| push_ordered(steps, mapped));
                    return;
                }
            }
        } else {
            HashMap::new()
        };
        let depth = |mapping: &Arc<Mapping>| {
            let address = Arc::as_ptr(&mapping.target).addr();
            depths.get(&address).copied().unwrap_or(0)
        };
        let mut deletes: Buckets<'b> = Vec::new();
        let mut inserts: Buckets<'b> = Vec::new();
        let mut changed: Buckets<'b, Changed<'b>> = Vec::new();
        let mut unlocked: Buckets<'b> = Vec::new();
        let mut same: Buckets<'b> = Vec::new();
        let mut came_and_went: Buckets<'b> = Vec::new();
        for net in &nets {
            match (net.first, net.last) {
                (Some(first), None) => bucket(&mut deletes, net.first_mapping, first.row),
                (None, Some(last)) => bucket(&mut inserts, net.mapping, last.row),
                (Some(first), Some(last)) if !same_image(first.row, last.row) => {
                    let alike = Arc::ptr_eq(net.first_mapping, net.mapping);
                    let row = Changed {
                        from: alike.then_some(first.row),
                        to: last.row,
                    };
                    bucket(&mut changed, net.mapping, row);
                    if !net.mapping.target.unique_keys.is_empty() && !net.written_before {
                        bucket(&mut unlocked, net.mapping, last.row);
                    }
                }
                (Some(_), Some(_)) if net.written_before => {}
                // Went back to what it was, or came and went: nothing to change, and yet its key must
                // be locked until the commit.
                (Some(_), Some(last)) => bucket(&mut same, net.mapping, last.row),
                (None, None) => bucket(&mut came_and_went, net.any.0, net.any.1),
            }
        }
        inserts.sort_by_key(|(mapping, _)| depth(mapping));
        deletes.sort_by_key(|(mapping, _)| std::cmp::Reverse(depth(mapping)));
        let inserts = inserts.into_iter().map(|(m, rows)| Step::Insert(m, rows));
        let deletes = deletes.into_iter().map(|(m, rows)| Step::Delete(m, rows));
        let (before, behind): (Vec<Step<'b>>, Vec<Step<'b>>) = if self.minds_foreign_keys {
            (inserts.collect(), deletes.collect())
        } else {
            (deletes.collect(), inserts.collect())
        };
        steps.extend(before);
        steps.extend(unlocked.into_iter().map(|(m, rows)| Step::Lock(m, rows)));
        steps.extend(changed.into_iter().map(|(m, rows)| Step::Upsert(m, rows)));
        steps.extend(behind);
        steps.extend(same.into_iter().map(|(m, rows)| Step::Lock(m, rows)));
        for (mapping, rows) in came_and_went {
            steps.push(Step::Insert(mapping, rows.clone()));
            steps.push(Step::Delete(mapping, rows));
        }
    }
}

/// Names a row within the group. Texts are told apart by their bytes: two rows of a table never have
/// the same, whatever the collation says.
pub(super) fn name(mapping: &Mapping, row: &Row, keys: &ImageKeys) -> Option<KeyHash> {
    if mapping.row_key_is_plain {
        keys.row
    } else {
        row_key(&mapping.target, |column| mapping.value(row, column))
    }
}

/// How far each table, by its address, lies below the parents of all among the segment's; `None`
/// where they refer in a circle.
fn depths(nets: &[Net<'_>]) -> Option<HashMap<usize, usize>> {
    let mut tables: Vec<&Mapping> = Vec::new();
    for net in nets {
        for mapping in [net.mapping, net.first_mapping] {
            if !tables
                .iter()
                .any(|known| Arc::ptr_eq(&known.target, &mapping.target))
            {
                tables.push(mapping);
            }
        }
    }
    let mut depths = HashMap::new();
    while depths.len() < tables.len() {
        let mut found = Vec::new();
        for table in &tables {
            let address = Arc::as_ptr(&table.target).addr();
            if depths.contains_key(&address) {
                continue;
            }
            let parents = tables.iter().filter(|other| {
                let name = (other.target.database.as_str(), other.target.name.as_str());
                let mut keys = table.target.parents.iter();
                keys.any(|key| (key.parent.0.as_str(), key.parent.1.as_str()) == name)
            });
            let above: Option<Vec<usize>> = parents
                .map(|parent| depths.get(&Arc::as_ptr(&parent.target).addr()).copied())
                .collect();
            if let Some(above) = above {
                found.push((address, above.into_iter().max().map_or(0, |most| most + 1)));
            }
        }
        if found.is_empty() {
            return None;
        }
        depths.extend(found);
    }
    Some(depths)
}

fn same_image(one: &Row, other: &Row) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.is(other))
}

type Buckets<'b, R = &'b Row> = Vec<(&'b Arc<Mapping>, Vec<R>)>;

fn bucket<'b, R>(buckets: &mut Buckets<'b, R>, mapping: &'b Arc<Mapping>, row: R) {
    match buckets
        .iter_mut()
        .find(|(known, _)| Arc::ptr_eq(known, mapping))
    {
        Some((_, rows)) => rows.push(row),
        None => buckets.push((mapping, vec![row])),
    }
}
