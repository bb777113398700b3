//! The changes of a table with unique keys besides the row key, as segments that stand on each other.
//!
//! A row whose unique value changes time and again would end a segment for all rows of its table each
//! time. Instead the change goes one level up, and the rest stays where it is: a change stands on the
//! first level that is not below one that has its row or one of its unique values. What two changes
//! have neither row nor unique value in common for comes to the same in either order, so only those
//! that have must keep theirs; on one level, [`Segment`] sees to that.

use super::plan::{Mapped, Step, push_ordered};
use super::segment::{Segment, Taken, name};
use crate::conflict::key::{KeyHash, KeyMap};

/// Segments of one table without foreign keys; each is run behind those below it.
#[derive(Default)]
pub(super) struct Levels<'b> {
    segments: Vec<Segment<'b>>,
    /// The highest level that has a row, by its name, or a unique value of one.
    touched: KeyMap<usize>,
}

impl<'b> Levels<'b> {
    /// Takes a change, the next in the log's order. Where it cannot be merged with any other, it becomes
    /// a step behind all that were taken before.
    pub(super) fn take(&mut self, mapped: Mapped<'b>, steps: &mut Vec<Step<'b>>) {
        let (row, values) = keys(mapped);
        let level_of = |key: &KeyHash| self.touched.get(key).copied();
        let row_level = row.as_ref().and_then(level_of);
        let lowest = values.iter().filter_map(level_of).max().max(row_level);
        let lowest = lowest.unwrap_or(0);
        // On the level above no other change has its row or its values.
        for level in [lowest, lowest + 1] {
            if level == self.segments.len() {
                self.segments.push(Segment::default());
            }
            let Some(segment) = self.segments.get_mut(level) else {
                break;
            };
            match segment.take(mapped) {
                Taken::Yes => {
                    if let Some(row) = row.filter(|_| row_level.is_some_and(|below| below < level))
                    {
                        segment.written_before(row);
                    }
                    let keys = row.into_iter().chain(values);
                    self.touched.extend(keys.map(|key| (key, level)));
                    return;
                }
                Taken::AfterTheOthers => {}
                Taken::Alone => break,
            }
        }
        self.finish(steps);
        push_ordered(steps, mapped);
    }

    /// Adds the steps of all levels, and begins anew.
    pub(super) fn finish(&mut self, steps: &mut Vec<Step<'b>>) {
        self.touched.clear();
        for mut segment in self.segments.drain(..) {
            segment.finish(steps);
        }
    }
}

/// The row that a change is of, and the unique values of its images. A change that gives a row another
/// row key stands alone anyway.
fn keys(mapped: Mapped<'_>) -> (Option<KeyHash>, Vec<KeyHash>) {
    let (change, keys) = (mapped.change, mapped.keys);
    let before = change.before().zip(keys.before.as_ref());
    let after = change.after().zip(keys.after.as_ref());
    let row = before
        .or(after)
        .and_then(|(row, keys)| name(mapped.mapping, row, keys));
    let images = [before, after].into_iter().flatten();
    let values = images.flat_map(|(_, keys)| keys.unique.iter().map(|(_, value)| *value));
    (row, values.collect())
}
