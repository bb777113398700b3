//! The row changes of one transaction as they gather, in memory and beyond a limit on disk.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::frames::{Frames, Reader, Writer};
use super::{PART_BYTES, PART_CHANGES, Room};
use crate::error::{Error, Result};
use crate::row::{RowChange, SourceTable, Value};
use crate::transaction::{ForeignKeyMode, TableChange};

/// Memory of one change besides its values, roughly, in bytes.
const CHANGE_BYTES: usize = 64;

/// Bytes from which on a value goes into the file by itself, and not in a frame: there it would be in memory
/// once more.
const APART: usize = if cfg!(test) { 250 } else { 64 << 10 };
/// The part of a transaction's memory beyond which a single change goes to disk: besides where it is
/// kept, such a row is in memory as a statement, and as a packet on its way from one server and to the other.
const LARGE: usize = 4;

/// Changes as they are read, in the log's order.
#[derive(Debug, Default)]
pub struct Gathered {
    /// All of them, as long as they fit.
    held: Vec<TableChange>,
    /// Memory that all of them take or would take, roughly, in bytes.
    weight: usize,
    disk: Option<Disk>,
}

#[derive(Debug)]
struct Disk {
    writer: Writer,
    contents: Contents,
    /// Numbers of the tables, by address.
    numbers: HashMap<usize, u32>,
}

/// What there is to know of changes in a file.
#[derive(Debug, Clone, Default)]
struct Contents {
    tables: Vec<Arc<SourceTable>>,
    /// Changes in the file.
    written: usize,
    /// From which change on which mode holds.
    modes: Vec<(usize, ForeignKeyMode)>,
    /// Changes that were rolled back.
    undone: Vec<Range<usize>>,
}

/// Changes in a file.
#[derive(Debug, Clone)]
pub struct Spilled {
    frames: Frames,
    contents: Arc<Contents>,
    weight: usize,
}

/// One rows event, or a run of changes of one table.
#[derive(Serialize, Deserialize)]
struct Frame<C> {
    table: u32,
    changes: C,
    /// Values that stand behind the frame, in their order; the changes have nothing in their places.
    apart: Vec<Apart>,
}

/// A value by itself.
#[derive(Serialize, Deserialize)]
struct Apart {
    /// Its number among the values of the frame's changes.
    number: u32,
    length: u64,
    checksum: u32,
}

impl Gathered {
    /// Number of changes so far, those counted that were rolled back on disk.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.disk {
            Some(disk) => disk.contents.written,
            None => self.held.len(),
        }
    }

    /// Whether nothing was gathered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory that they take or would take, roughly, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Adds changes of one table.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn push(
        &mut self,
        room: &Room,
        table: &Arc<SourceTable>,
        mut changes: Vec<RowChange>,
        mode: ForeignKeyMode,
    ) -> Result<()> {
        let mut largest = 0;
        for change in &changes {
            let weight = weight(change);
            self.weight += weight;
            largest = largest.max(weight);
        }
        if let Some(disk) = &mut self.disk {
            return disk.push(table, &mut changes, mode);
        }
        self.held
            .extend(changes.into_iter().map(|change| TableChange {
                table: Arc::clone(table),
                change,
                foreign_keys: mode,
            }));
        if self.weight > room.limit() || largest > room.limit() / LARGE {
            self.spill(room)?;
        }
        Ok(())
    }

    fn spill(&mut self, room: &Room) -> Result<()> {
        let mut disk = Disk {
            writer: room.file()?,
            contents: Contents::default(),
            numbers: HashMap::new(),
        };
        let mut held = std::mem::take(&mut self.held).into_iter().peekable();
        while let Some(first) = held.next() {
            let (table, mode) = (first.table, first.foreign_keys);
            let mut bytes = weight(&first.change);
            let mut run = vec![first.change];
            while bytes < PART_BYTES / 16
                && let Some(next) = held
                    .next_if(|next| Arc::ptr_eq(&next.table, &table) && next.foreign_keys == mode)
            {
                bytes += weight(&next.change);
                run.push(next.change);
            }
            disk.push(&table, &mut run, mode)?;
        }
        self.disk = Some(disk);
        Ok(())
    }

    /// The changes from number `from` on have this mode.
    pub fn set_mode(&mut self, from: usize, mode: ForeignKeyMode) {
        match &mut self.disk {
            Some(disk) => disk.contents.set_mode(from, mode),
            None => {
                for change in &mut self.held[from..] {
                    change.foreign_keys = mode;
                }
            }
        }
    }

    /// Drops the changes from number `keep` on; gives the number of the next one.
    pub fn truncate(&mut self, keep: usize) -> usize {
        match &mut self.disk {
            Some(disk) => disk.contents.undo(keep),
            None => self.held.truncate(keep),
        }
        self.len()
    }

    /// All changes: in memory, or on disk if they did not fit.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn finish(self) -> Result<(Vec<TableChange>, Option<Spilled>)> {
        let Some(disk) = self.disk else {
            return Ok((self.held, None));
        };
        let spilled = Spilled {
            frames: disk.writer.finish()?,
            contents: Arc::new(disk.contents),
            weight: self.weight,
        };
        Ok((Vec::new(), Some(spilled)))
    }
}

fn weight(change: &RowChange) -> usize {
    change.weight() + CHANGE_BYTES
}

impl Disk {
    /// Writes the changes, and takes large values out of them.
    fn push(
        &mut self,
        table: &Arc<SourceTable>,
        changes: &mut [RowChange],
        mode: ForeignKeyMode,
    ) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let tables = &mut self.contents.tables;
        let number = *self
            .numbers
            .entry(Arc::as_ptr(table).addr())
            .or_insert_with(|| {
                tables.push(Arc::clone(table));
                u32::try_from(tables.len() - 1).unwrap_or(u32::MAX)
            });
        let large = take_large(changes);
        let apart = large.iter().map(|(number, bytes)| Apart {
            number: *number,
            length: bytes.len() as u64,
            checksum: crc32fast::hash(bytes),
        });
        let frame = Frame {
            table: number,
            changes: &*changes,
            apart: apart.collect(),
        };
        self.writer.push(&frame)?;
        for (_, bytes) in large {
            self.writer.push_bytes(&bytes)?;
        }
        self.contents.set_mode(self.contents.written, mode);
        self.contents.written += changes.len();
        Ok(())
    }
}

/// The large values of the changes, each with its number among all of them; nothing is left in their places.
fn take_large(changes: &mut [RowChange]) -> Vec<(u32, Box<[u8]>)> {
    let mut large = Vec::new();
    for (number, value) in (0..).zip(values(changes)) {
        if let Some(bytes) = value.bytes_mut().filter(|bytes| bytes.len() >= APART) {
            large.push((number, std::mem::take(bytes)));
        }
    }
    large
}

fn values(changes: &mut [RowChange]) -> impl Iterator<Item = &mut Value> {
    let images = changes.iter_mut().flat_map(RowChange::images_mut);
    images.flat_map(|row| row.iter_mut())
}

impl Contents {
    fn set_mode(&mut self, from: usize, mode: ForeignKeyMode) {
        while self.modes.last().is_some_and(|(first, _)| *first >= from) {
            self.modes.pop();
        }
        if self.modes.last().is_none_or(|(_, before)| *before != mode) {
            self.modes.push((from, mode));
        }
    }

    fn undo(&mut self, keep: usize) {
        while self.undone.last().is_some_and(|last| last.start >= keep) {
            self.undone.pop();
        }
        if keep < self.written {
            self.undone.push(keep..self.written);
        }
    }

    fn len(&self) -> usize {
        self.written - self.undone.iter().map(Range::len).sum::<usize>()
    }
}

impl Spilled {
    /// Number of changes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.contents.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory that they would take, roughly, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Bytes on disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.frames.bytes()
    }

    /// The tables that the changes are of.
    #[must_use]
    pub fn tables(&self) -> &[Arc<SourceTable>] {
        &self.contents.tables
    }

    /// The changes from the first on, in parts. Reading blocks for as long as the disk takes.
    #[must_use]
    pub fn parts(&self) -> Parts {
        Parts {
            reader: self.frames.read(),
            contents: Arc::clone(&self.contents),
            next: 0,
        }
    }
}

/// Gives the changes in parts.
#[derive(Debug)]
pub struct Parts {
    reader: Reader,
    contents: Arc<Contents>,
    /// Number of the next change in the file.
    next: usize,
}

/// Some changes that follow each other.
pub type Part = Vec<TableChange>;

impl Parts {
    /// The next part; `None` behind the last one. About [`PART_BYTES`] large.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn next_part(&mut self) -> Result<Option<Part>> {
        let mut part = Part::new();
        let mut bytes = 0;
        while part.len() < PART_CHANGES && bytes < PART_BYTES {
            let Some(mut frame) = self.reader.next::<Frame<Vec<RowChange>>>()? else {
                break;
            };
            self.put_back(&mut frame)?;
            let table = self.contents.tables.get(frame.table as usize);
            let table = table.ok_or_else(|| {
                Error::Internal("rows on disk name a table that is not known".to_owned())
            })?;
            for change in frame.changes {
                let number = self.next;
                self.next += 1;
                if self.is_undone(number) {
                    continue;
                }
                bytes += weight(&change);
                part.push(TableChange {
                    table: Arc::clone(table),
                    change,
                    foreign_keys: self.mode(number),
                });
            }
        }
        Ok((!part.is_empty()).then_some(part))
    }

    /// Reads the values that stand behind a frame.
    fn put_back(&mut self, frame: &mut Frame<Vec<RowChange>>) -> Result<()> {
        let mut numbered = (0..).zip(values(&mut frame.changes));
        for apart in &frame.apart {
            let place = numbered.find(|(number, _)| *number == apart.number);
            let place = place.and_then(|(_, value)| value.bytes_mut());
            let place = place.ok_or_else(|| {
                Error::Internal("a value on disk is of none of the rows in front of it".to_owned())
            })?;
            *place = self.reader.bytes(apart.length, apart.checksum)?;
        }
        Ok(())
    }

    fn is_undone(&self, number: usize) -> bool {
        let undone = &self.contents.undone;
        let behind = undone.partition_point(|range| range.end <= number);
        undone
            .get(behind)
            .is_some_and(|range| range.contains(&number))
    }

    fn mode(&self, number: usize) -> ForeignKeyMode {
        let modes = &self.contents.modes;
        let behind = modes.partition_point(|(from, _)| *from <= number);
        let mode = behind.checked_sub(1).and_then(|place| modes.get(place));
        mode.map_or(ForeignKeyMode::Engine, |(_, mode)| *mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Push(usize, u8),
        SetMode(usize),
        Undo(usize),
    }

    fn table(name: &str) -> Arc<SourceTable> {
        Arc::new(SourceTable {
            database: "d".into(),
            name: name.into(),
            columns: Box::default(),
            primary_key: None,
        })
    }

    fn change(number: usize) -> RowChange {
        let number = i64::try_from(number).unwrap();
        let row = |n: i64| -> crate::row::Row {
            Box::new([
                Value::Int(n),
                Value::Float(n as f32),
                Value::Null,
                Value::Decimal("-1.50".into()),
                Value::Bytes(vec![n as u8; n.rem_euclid(300) as usize].into()),
            ])
        };
        match number % 3 {
            0 => RowChange::Insert { after: row(number) },
            1 => RowChange::Delete {
                before: row(number),
            },
            _ => RowChange::Update {
                before: row(number),
                after: row(-1),
            },
        }
    }

    fn all(gathered: Gathered) -> Vec<TableChange> {
        match gathered.finish().unwrap() {
            (held, None) => held,
            (held, Some(spilled)) => {
                assert!(held.is_empty());
                let mut parts = spilled.parts();
                let mut all = Vec::new();
                while let Some(part) = parts.next_part().unwrap() {
                    all.extend(part);
                }
                assert_eq!(all.len(), spilled.len());
                all
            }
        }
    }

    proptest! {
        /// What went to the disk comes back as if all had stayed in memory.
        #[test]
        fn what_is_spilled_comes_back(
            steps in prop::collection::vec(prop_oneof![
                6 => (0..40_usize, 0..3_u8).prop_map(|(count, mode)| Step::Push(count, mode)),
                1 => (0..40_usize).prop_map(Step::SetMode),
                1 => (0..120_usize).prop_map(Step::Undo),
            ], 1..60),
            limit in 0..20_000_usize,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let tables = [table("t"), table("u")];
            let modes = [ForeignKeyMode::Engine, ForeignKeyMode::Logged, ForeignKeyMode::Off];
            let run = |limit: usize| {
                let room = Room::new(folder.path(), limit);
                let mut gathered = Gathered::default();
                let mut number = 0;
                // Places are counted from the back: numbers differ once something was undone.
                let mut boundaries = vec![0];
                for step in &steps {
                    match step {
                        Step::Push(count, mode) => {
                            let changes = (0..*count).map(|more| change(number + more)).collect();
                            let table = &tables[number / 7 % 2];
                            gathered.push(&room, table, changes, modes[usize::from(*mode)]).unwrap();
                            number += count;
                            boundaries.push(gathered.len());
                        }
                        Step::SetMode(back) => {
                            let place = boundaries.len().saturating_sub(1 + back % 5);
                            gathered.set_mode(boundaries[place], ForeignKeyMode::Off);
                        }
                        Step::Undo(back) => {
                            let place = boundaries.len().saturating_sub(1 + back % 7);
                            let next = gathered.truncate(boundaries[place]);
                            boundaries.truncate(place + 1);
                            boundaries.push(next);
                        }
                    }
                }
                all(gathered)
            };
            prop_assert_eq!(run(limit), run(usize::MAX));
        }
    }

    /// Wherever it is: in a frame's head, in a frame, or in a value that stands behind one.
    #[test]
    fn damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let room = Room::new(folder.path(), 0);
        let mut gathered = Gathered::default();
        for number in [3, APART + 3, 4] {
            let changes = vec![change(number)];
            let mode = ForeignKeyMode::Engine;
            gathered.push(&room, &table("t"), changes, mode).unwrap();
        }
        let (_, spilled) = gathered.finish().unwrap();
        let spilled = spilled.unwrap();
        let read = || {
            let mut parts = spilled.parts();
            while parts.next_part()?.is_some() {}
            Ok::<_, Error>(())
        };
        read().unwrap();
        assert!(spilled.bytes() > APART as u64);
        for place in 0..spilled.bytes() {
            spilled.frames.damage(place);
            let error = read().unwrap_err().to_string();
            assert!(error.contains("not what was written"), "{place}: {error}");
            // Once more, and it is as it was.
            spilled.frames.damage(place);
        }
        read().unwrap();
    }
}
