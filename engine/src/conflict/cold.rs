//! Histories of merged rows that memory has no room for, in scratch files without names: writes of a row in
//! runs, each in their order, and whole chains, found by their row's key. An engine that starts has its
//! histories from the node's schema and its log, and not from here.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::chain::Chain;
use super::claims::place;
use super::history::{Entry, Log, Order, Origin};
use super::key::KeyHash;
use crate::error::{Error, Result};
use crate::position::LogPos;
use crate::position::overflow::Overflow;
use crate::spill::frames::{Frames, Reader, framed};

/// A file is not made longer than this, so that what nobody needs any more goes bit by bit.
const SEGMENT: u64 = 64 << 20;
/// Bytes that are written at once.
const CHUNK: usize = 256 << 10;

/// What is on disk.
#[derive(Debug)]
pub(super) struct Cold {
    folder: PathBuf,
    /// Where the last state of each chain is.
    index: Overflow,
    segments: BTreeMap<u32, Segment>,
    /// Number of the next one; none is given twice.
    next: u32,
}

#[derive(Debug)]
struct Segment {
    file: Arc<File>,
    end: u64,
    /// Once the other nodes have this node's log up to here, no chain needs it.
    last: LogPos,
}

/// Writes of one row on disk, in their order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Run {
    segment: u32,
    #[serde(skip)]
    file: Option<Arc<File>>,
    /// From its first write that is still wanted.
    at: u64,
    end: u64,
    /// How many these are.
    pub(super) len: usize,
    /// The first of them.
    pub(super) head: (Order, Origin),
    /// Order of the last one.
    pub(super) last: Order,
    /// Whether they are in the engine's schema.
    pub(super) kept: bool,
    /// The last end in each log.
    pub(super) ends: Vec<(Log, LogPos)>,
}

/// Takes the writes of a run from its front.
#[derive(Debug)]
pub(super) struct Cursor {
    pub(super) run: Run,
    folder: PathBuf,
    reader: Option<Reader>,
    next: Option<Entry>,
}

impl Cold {
    /// An empty one in `folder`.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        Ok(Self {
            folder: folder.to_owned(),
            index: Overflow::open(folder)?,
            segments: BTreeMap::new(),
            next: 0,
        })
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes these, which are in their order and not none.
    pub(super) fn run(&mut self, entries: &[Entry], kept: bool) -> Result<Option<Run>> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Ok(None);
        };
        let (segment, file, at) = self.segment()?;
        let mut end = at;
        let mut buffer = Vec::new();
        let mut ends: BTreeMap<Log, LogPos> = BTreeMap::new();
        for entry in entries {
            let known = ends.entry(entry.origin.log).or_default();
            *known = (*known).max(entry.origin.end);
            buffer = framed(entry, buffer).map_err(|problem| self.trouble(&problem))?;
            if buffer.len() >= CHUNK {
                end = self.append(segment, &buffer)?;
                buffer.clear();
            }
        }
        if !buffer.is_empty() {
            end = self.append(segment, &buffer)?;
        }
        Ok(Some(Run {
            segment,
            file: Some(file),
            at,
            end,
            len: entries.len(),
            head: (first.order, first.origin),
            last: last.order,
            kept,
            ends: ends.into_iter().collect(),
        }))
    }

    /// Puts away a chain whose writes are all in runs. It is not asked for any more once the other
    /// nodes have this node's log up to `last`.
    pub(super) fn put(&mut self, key: KeyHash, chain: &Chain, last: LogPos) -> Result<()> {
        let (segment, _, at) = self.segment()?;
        let bytes = framed(chain, Vec::new()).map_err(|problem| self.trouble(&problem))?;
        let end = self.append(segment, &bytes)?;
        for of in chain.runs().map(|run| run.segment).chain([segment]) {
            if let Some(segment) = self.segments.get_mut(&of) {
                segment.last = segment.last.max(last);
            }
        }
        let mut value = [0; 25];
        value[..4].copy_from_slice(&segment.to_be_bytes());
        value[4..12].copy_from_slice(&at.to_be_bytes());
        value[12..20].copy_from_slice(&end.to_be_bytes());
        self.index.put(place(last), key.to_bytes(), value)
    }

    /// A chain as it was put away last. It stays here, and whoever has it in memory does not ask.
    pub(super) fn get(&self, key: KeyHash) -> Result<Option<Chain>> {
        let Some(value) = self.index.get(key.to_bytes())? else {
            return Ok(None);
        };
        let mut segment = [0; 4];
        segment.copy_from_slice(&value[..4]);
        let number = |from: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&value[from..from + 8]);
            u64::from_be_bytes(bytes)
        };
        let missing = || self.trouble(&"a history is not where it was put");
        let of = self.segments.get(&u32::from_be_bytes(segment));
        let file = Arc::clone(&of.ok_or_else(missing)?.file);
        let frames = Frames::part(file, &self.folder, number(4)..number(12));
        let read = frames.read().next().map_err(|error| self.trouble(&error))?;
        let mut chain: Chain = read.ok_or_else(missing)?;
        for run in chain.runs_mut() {
            let of = self.segments.get(&run.segment).ok_or_else(missing)?;
            run.file = Some(Arc::clone(&of.file));
        }
        Ok(Some(chain))
    }

    /// The other nodes have this node's log up to here.
    pub(super) fn drop_front(&mut self, upto: LogPos) {
        self.index.drop_front(place(upto));
        // A chain in memory has some of its writes there and no last state.
        let in_use = |segment: &Segment| Arc::strong_count(&segment.file) > 1;
        self.segments
            .retain(|_, segment| segment.last > upto || in_use(segment));
    }

    /// The file to write to, and its end.
    fn segment(&mut self) -> Result<(u32, Arc<File>, u64)> {
        let last = self.segments.last_key_value();
        if let Some((number, segment)) = last
            && segment.end < SEGMENT
        {
            return Ok((*number, Arc::clone(&segment.file), segment.end));
        }
        let number = self.next;
        self.next += 1;
        let file = tempfile::tempfile_in(&self.folder).map_err(|error| self.trouble(&error))?;
        let file = Arc::new(file);
        let segment = Segment {
            file: Arc::clone(&file),
            end: 0,
            last: LogPos::default(),
        };
        self.segments.insert(number, segment);
        Ok((number, file, 0))
    }

    fn append(&mut self, segment: u32, bytes: &[u8]) -> Result<u64> {
        let Some(segment) = self.segments.get_mut(&segment) else {
            return Err(self.trouble(&"the file is gone"));
        };
        let (file, at) = (Arc::clone(&segment.file), segment.end);
        segment.end += bytes.len() as u64;
        let end = segment.end;
        let written = file.write_all_at(bytes, at);
        written.map_err(|error| self.trouble(&error))?;
        Ok(end)
    }

    fn trouble(&self, error: &dyn std::fmt::Display) -> Error {
        trouble(&self.folder, error)
    }
}

fn trouble(folder: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::Store {
        path: folder.display().to_string(),
        problem: format!(
            "writes of merged rows that do not fit into memory cannot be kept on disk: {error}; check the \
             disk, its free space and the owner"
        ),
    }
}

impl Run {
    /// Whether it is the same one, of which some may be taken.
    pub(super) fn is(&self, other: &Self) -> bool {
        (self.segment, self.end) == (other.segment, other.end)
    }
}

impl Cursor {
    /// At the run's first write; `folder` is for messages.
    pub(super) fn new(run: Run, folder: &Path) -> Self {
        Self {
            run,
            folder: folder.to_owned(),
            reader: None,
            next: None,
        }
    }

    /// Order and origin of the next write.
    pub(super) fn head(&self) -> Option<(Order, Origin)> {
        (self.run.len > 0).then_some(self.run.head)
    }

    /// Takes it.
    pub(super) fn pop(&mut self) -> Result<Option<Entry>> {
        if self.run.len == 0 {
            return Ok(None);
        }
        let missing = || trouble(&self.folder, &"a run is shorter than it was");
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => {
                let file = self.run.file.clone().ok_or_else(missing)?;
                let frames = Frames::part(file, &self.folder, self.run.at..self.run.end);
                self.reader.insert(frames.read())
            }
        };
        let read = |reader: &mut Reader| -> Result<Entry> {
            let read = reader.next().map_err(|error| trouble(&self.folder, &error));
            read?.ok_or_else(missing)
        };
        let entry = match self.next.take() {
            Some(entry) => entry,
            None => read(reader)?,
        };
        self.run.len -= 1;
        self.run.at = reader.place();
        if self.run.len > 0 {
            let next = read(reader)?;
            self.run.head = (next.order, next.origin);
            self.next = Some(next);
        } else {
            self.reader = None;
        }
        Ok(Some(entry))
    }
}

#[cfg(test)]
impl Cold {
    /// One in which no write goes through.
    pub(super) fn on_full_disk(folder: &Path) -> Self {
        let mut cold = Self::open(folder).unwrap();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let segment = Segment {
            file: Arc::new(full),
            end: 0,
            last: LogPos::default(),
        };
        cold.segments.insert(0, segment);
        cold
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conflict::merge::Write;

    #[test]
    fn a_full_disk_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let mut cold = Cold::on_full_disk(folder.path());
        let entry = Entry {
            order: Order {
                effective: 1,
                rank: 0,
                change: 0,
            },
            origin: Origin::local(LogPos::default()),
            write: Write::Delete,
        };
        let error = cold.run(&[entry], false).unwrap_err().to_string();
        assert!(
            error.contains("No space left") && error.contains("check the disk"),
            "{error}"
        );
    }
}
