//! Which changes of a group may be written beside the groups in front of it, that have not been
//! committed yet.
//!
//! Two changes of tables without other keys come to the same in either order if they have no row key in
//! common, of the image before or behind. So a group is cut in two: what has no row key in common with the
//! groups in front is free; what has, and what stands behind such a change in the group and has a row key in
//! common with it, waits until they are committed, and so do all changes of other tables. Each part keeps
//! its order, and where a free change and one that waits have a key in common, the free one stands in front
//! in the log as well.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use super::plan::Mapped;
use crate::conflict::claim::ChangeKeys;
use crate::conflict::key::{KeyHash, Spread};

/// Every row key that the changes of a group claim or leave.
pub type KeySet = HashSet<KeyHash, BuildHasherDefault<Spread>>;

/// Every row key of these changes.
pub(crate) fn key_set<'k>(changes: impl Iterator<Item = &'k ChangeKeys>) -> KeySet {
    let mut set = KeySet::default();
    for keys in changes {
        set.extend(row_keys(keys));
    }
    set
}

fn row_keys(keys: &ChangeKeys) -> impl Iterator<Item = KeyHash> {
    keys.images().filter_map(|image| image.row)
}

/// The changes that are free, and those that wait for the groups that have the keys `taken`.
pub(crate) fn split<'b>(
    changes: impl Iterator<Item = Mapped<'b>>,
    taken: &[Arc<KeySet>],
) -> (Vec<Mapped<'b>>, Vec<Mapped<'b>>) {
    let mut reached = KeySet::default();
    changes.partition(|mapped| {
        let target = &mapped.mapping.target;
        // What such a table's rows depend on besides, keys do not tell. And a unique value that is taken
        // anew locks its neighbours, so that groups wait for each other and give way all the time.
        let waits = target.in_foreign_keys()
            || target.has_opaque_unique_key
            || !target.unique_keys.is_empty()
            || mapped.keys.images().any(|image| image.row.is_none())
            || row_keys(mapped.keys).any(|key| {
                reached.contains(&key) || taken.iter().any(|taken| taken.contains(&key))
            });
        if waits {
            reached.extend(row_keys(mapped.keys));
        }
        !waits
    })
}
