//! What does not fit into memory of the window: claims by key, dropped from the front by position. A
//! scratch store: an engine that starts fills its window anew from the log.
//!
//! Runs of claims, each sorted by key, in files without names: a claim is written once, whatever its
//! key. A filter tells most keys that are not here without looking; the others are looked for in each
//! run, the latest first. A run goes when all of it lies in front of what is dropped.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Bits of the filter: 8 MiB.
const FILTER_BITS: u64 = 1 << 26;
/// Claims of one run. Until it is full they are in memory: about 12 MiB.
const RUN: usize = 128 * 1024;
/// Every so many claims of a run have their key in memory.
const STEP: usize = 64;

type Key = [u8; 16];
/// Sorts as positions stand in the log.
type Position = [u8; 16];
/// What is claimed besides.
type Value = [u8; 25];
const ENTRY: usize = size_of::<Key>() + size_of::<Position>() + size_of::<Value>();

/// Claims on disk.
#[derive(Debug)]
pub struct Overflow {
    folder: PathBuf,
    /// Claims of which no run was made yet.
    fresh: HashMap<Key, (Position, Value)>,
    /// The latest last.
    runs: Vec<Run>,
    filter: Vec<u64>,
    /// Everything up to here was dropped.
    dropped: Position,
    /// The last of the positions.
    last: Position,
}

/// Claims sorted by key.
#[derive(Debug)]
struct Run {
    file: File,
    entries: usize,
    /// Keys of every [`STEP`]th.
    keys: Vec<Key>,
    last: Position,
}

impl Overflow {
    /// An empty one in `folder`.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn open(folder: &Path) -> Result<Self> {
        let this = Self {
            folder: folder.to_owned(),
            fresh: HashMap::new(),
            runs: Vec::new(),
            filter: vec![0; (FILTER_BITS / 64) as usize],
            dropped: [0; 16],
            last: [0; 16],
        };
        // What an earlier version left there.
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(this.trouble(&error));
            }
            _ => {}
        }
        std::fs::create_dir_all(folder).map_err(|error| this.trouble(&error))?;
        Ok(this)
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of claims, those counted more than once whose key was claimed again, and those that are
    /// dropped already while their run is not.
    #[must_use]
    pub fn len(&self) -> usize {
        let runs = self.runs.iter().map(|run| run.entries);
        self.fresh.len() + runs.sum::<usize>()
    }

    /// The key was claimed at this position, not in front of any before it.
    ///
    /// # Errors
    /// [`Error::Store`]: the disk is full, say.
    pub fn put(&mut self, position: Position, key: Key, value: Value) -> Result<()> {
        for bit in bits(key) {
            self.filter[(bit / 64) as usize] |= 1 << (bit % 64);
        }
        self.last = self.last.max(position);
        self.fresh.insert(key, (position, value));
        if self.fresh.len() >= RUN {
            self.sort()?;
        }
        Ok(())
    }

    /// Makes a run of what is in memory.
    fn sort(&mut self) -> Result<()> {
        let mut entries: Vec<_> = self.fresh.drain().collect();
        entries.sort_unstable_by_key(|(key, _)| *key);
        let mut bytes = Vec::with_capacity(entries.len() * ENTRY);
        for (key, (position, value)) in &entries {
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(position);
            bytes.extend_from_slice(value);
        }
        let written = tempfile::tempfile_in(&self.folder).and_then(|file| {
            file.write_all_at(&bytes, 0)?;
            Ok(file)
        });
        let last = entries.iter().map(|(_, (position, _))| *position).max();
        self.runs.push(Run {
            file: written.map_err(|error| self.trouble(&error))?,
            entries: entries.len(),
            keys: entries.iter().step_by(STEP).map(|(key, _)| *key).collect(),
            last: last.unwrap_or_default(),
        });
        Ok(())
    }

    /// The last claim of a key.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn get(&self, key: Key) -> Result<Option<Value>> {
        let set = |bit: u64| self.filter[(bit / 64) as usize] & (1 << (bit % 64)) != 0;
        if !bits(key).into_iter().all(set) {
            return Ok(None);
        }
        let mut found = self.fresh.get(&key).copied();
        for run in self.runs.iter().rev() {
            if found.is_some() {
                break;
            }
            found = run.get(key).map_err(|error| self.trouble(&error))?;
        }
        let there = found.filter(|(position, _)| *position > self.dropped);
        Ok(there.map(|(_, value)| value))
    }

    /// Drops what was claimed up to a position, unless it was claimed again since.
    pub fn drop_front(&mut self, upto: Position) {
        self.dropped = self.dropped.max(upto);
        if self.is_empty() {
            return;
        }
        if self.last <= upto {
            self.fresh.clear();
            self.runs.clear();
            // Pages of zeros that nobody has touched cost nothing.
            self.filter = vec![0; (FILTER_BITS / 64) as usize];
            return;
        }
        self.runs.retain(|run| run.last > upto);
    }

    fn trouble(&self, error: &std::io::Error) -> Error {
        Error::Store {
            path: self.folder.display().to_string(),
            problem: format!("{error}; check the disk, its free space and the owner"),
        }
    }
}

impl Run {
    fn get(&self, key: Key) -> std::io::Result<Option<(Position, Value)>> {
        let Some(step) = self
            .keys
            .partition_point(|first| *first <= key)
            .checked_sub(1)
        else {
            return Ok(None);
        };
        let first = step * STEP;
        let count = STEP.min(self.entries - first);
        let mut bytes = [0; STEP * ENTRY];
        let bytes = &mut bytes[..count * ENTRY];
        self.file.read_exact_at(bytes, (first * ENTRY) as u64)?;
        let mut entries = bytes.chunks_exact(ENTRY);
        let Some(entry) = entries.find(|entry| entry[..16] == key) else {
            return Ok(None);
        };
        let (mut position, mut value) = ([0; 16], [0; 25]);
        position.copy_from_slice(&entry[16..32]);
        value.copy_from_slice(&entry[32..]);
        Ok(Some((position, value)))
    }
}

/// Places of a key in the filter; keys are hashes already.
fn bits(key: Key) -> [u64; 3] {
    let number = u128::from_le_bytes(key);
    let part = |shift: u32| (number >> shift) as u64 % FILTER_BITS;
    [part(0), part(40), part(80)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_in_runs_are_found_until_they_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let mut overflow = Overflow::open(&folder.path().join("window")).unwrap();
        let key = |number: usize| {
            (number as u128)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
                .to_le_bytes()
        };
        let place = |number: usize| (number as u128 + 1).to_be_bytes();
        let count = 2 * RUN + 1000;
        for number in 0..count {
            overflow
                .put(place(number), key(number), [number as u8; 25])
                .unwrap();
        }
        // Claimed again: the later one counts.
        overflow.put(place(count), key(5), [250; 25]).unwrap();
        let found = |overflow: &Overflow, number| overflow.get(key(number)).unwrap();
        for number in (0..count).step_by(997).filter(|number| *number != 5) {
            assert_eq!(
                found(&overflow, number),
                Some([number as u8; 25]),
                "{number}"
            );
        }
        assert_eq!(found(&overflow, 5), Some([250; 25]));
        assert_eq!(found(&overflow, count + 1), None);
        overflow.drop_front(place(RUN + 10));
        assert_eq!(overflow.len(), RUN + 1001, "the first run is gone");
        assert_eq!(found(&overflow, RUN + 10), None);
        assert!(found(&overflow, RUN + 11).is_some());
        assert_eq!(found(&overflow, 5), Some([250; 25]));
        overflow.drop_front(place(count));
        assert!(overflow.is_empty() && found(&overflow, 5).is_none());
    }
}
