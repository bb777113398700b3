//! Frames one behind the other in a file: length, checksum, bytes. Between them, where the one in front says
//! so, bytes by themselves: they are neither copied on their way into the file nor out of it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::trouble;
use crate::error::{Error, Result};

/// Length and CRC-32, four bytes each.
const HEAD: usize = 8;
/// Bytes that are written or read at once.
const CHUNK: usize = 256 << 10;

/// Writes frames.
#[derive(Debug)]
pub(super) struct Writer {
    file: File,
    folder: PathBuf,
    buffer: Vec<u8>,
    /// Bytes in the file.
    written: u64,
}

/// A file of whole frames, which may be read by several at once.
#[derive(Debug, Clone)]
pub(crate) struct Frames {
    file: Arc<File>,
    folder: Arc<Path>,
    start: u64,
    end: u64,
}

/// Reads them from the front.
#[derive(Debug)]
pub(crate) struct Reader {
    frames: Frames,
    /// Bytes of the file from `at` on.
    buffer: Vec<u8>,
    /// How much of them was used.
    used: usize,
    at: u64,
}

/// `buffer` with a frame more.
pub(crate) fn framed(
    content: &impl Serialize,
    mut buffer: Vec<u8>,
) -> std::result::Result<Vec<u8>, String> {
    let head = buffer.len();
    buffer.extend_from_slice(&[0; HEAD]);
    buffer = postcard::to_extend(content, buffer).map_err(|error| error.to_string())?;
    let body = &buffer[head + HEAD..];
    let length = u32::try_from(body.len()).map_err(|_| "a row is larger than 4 GiB".to_owned())?;
    let checksum = crc32fast::hash(body);
    buffer[head..head + 4].copy_from_slice(&length.to_le_bytes());
    buffer[head + 4..head + HEAD].copy_from_slice(&checksum.to_le_bytes());
    Ok(buffer)
}

impl Writer {
    /// On an empty file; the folder is for messages.
    pub(super) fn new(file: File, folder: &Path) -> Self {
        Self {
            file,
            folder: folder.to_owned(),
            buffer: Vec::with_capacity(CHUNK),
            written: 0,
        }
    }

    /// Appends a frame.
    pub(super) fn push(&mut self, content: &impl Serialize) -> Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        self.buffer = framed(content, buffer).map_err(|error| trouble(&self.folder, &error))?;
        if self.buffer.len() >= CHUNK {
            self.write()?;
        }
        Ok(())
    }

    /// Appends bytes by themselves. Whoever reads has to know of them.
    pub(super) fn push_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.write()?;
        self.file
            .write_all_at(bytes, self.written)
            .map_err(|error| trouble(&self.folder, &error))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        self.file
            .write_all_at(&self.buffer, self.written)
            .map_err(|error| trouble(&self.folder, &error))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        // A single large frame must not keep its room for the rest of the transaction.
        self.buffer.shrink_to(CHUNK);
        Ok(())
    }

    /// Ends the writing.
    pub(super) fn finish(mut self) -> Result<Frames> {
        self.write()?;
        Ok(Frames {
            file: Arc::new(self.file),
            folder: self.folder.into(),
            start: 0,
            end: self.written,
        })
    }
}

impl Frames {
    /// Those that stand in this part of a file.
    pub(crate) fn part(file: Arc<File>, folder: &Path, part: std::ops::Range<u64>) -> Self {
        Self {
            file,
            folder: folder.into(),
            start: part.start,
            end: part.end,
        }
    }

    /// From the first frame on.
    pub(crate) fn read(&self) -> Reader {
        Reader {
            frames: self.clone(),
            buffer: Vec::new(),
            used: 0,
            at: self.start,
        }
    }

    /// Bytes in the file.
    pub(super) fn bytes(&self) -> u64 {
        self.end
    }
}

impl Reader {
    /// Where the next frame begins in the file.
    pub(crate) fn place(&self) -> u64 {
        self.at + self.used as u64
    }

    /// The next frame; `None` behind the last one.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        if self.at + self.used as u64 == self.frames.end {
            return Ok(None);
        }
        self.fill(HEAD)?;
        let mut head = [0; HEAD];
        head.copy_from_slice(&self.buffer[self.used..self.used + HEAD]);
        let [l0, l1, l2, l3, c0, c1, c2, c3] = head;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let checksum = u32::from_le_bytes([c0, c1, c2, c3]);
        if (length + HEAD) as u64 > self.frames.end - self.place() {
            return Err(self.damaged());
        }
        self.fill(HEAD + length)?;
        let body = &self.buffer[self.used + HEAD..self.used + HEAD + length];
        if crc32fast::hash(body) != checksum {
            return Err(self.damaged());
        }
        let content = postcard::from_bytes(body).map_err(|_| self.damaged())?;
        self.used += HEAD + length;
        Ok(Some(content))
    }

    /// The next `length` bytes, which stand there by themselves.
    pub(super) fn bytes(&mut self, length: u64, checksum: u32) -> Result<Box<[u8]>> {
        if length > self.frames.end - self.place() {
            return Err(self.damaged());
        }
        let length = usize::try_from(length).map_err(|_| self.damaged())?;
        let mut bytes = vec![0; length].into_boxed_slice();
        let here = length.min(self.buffer.len() - self.used);
        let (front, behind) = bytes.split_at_mut(here);
        front.copy_from_slice(&self.buffer[self.used..self.used + here]);
        self.used += here;
        if !behind.is_empty() {
            let place = self.place();
            self.frames
                .file
                .read_exact_at(behind, place)
                .map_err(|error| trouble(&self.frames.folder, &error))?;
            self.at = place + behind.len() as u64;
            self.used = 0;
            self.buffer.clear();
        }
        if crc32fast::hash(&bytes) != checksum {
            return Err(self.damaged());
        }
        Ok(bytes)
    }

    fn damaged(&self) -> Error {
        trouble(
            &self.frames.folder,
            &"what is read is not what was written (a failing disk?)",
        )
    }

    /// Has at least so many unused bytes in the buffer.
    fn fill(&mut self, wanted: usize) -> Result<()> {
        let here = self.buffer.len() - self.used;
        if here >= wanted {
            return Ok(());
        }
        self.buffer.drain(..self.used);
        self.at += self.used as u64;
        self.used = 0;
        self.buffer.shrink_to(CHUNK.max(here));
        let left = usize::try_from(self.frames.end - self.at).unwrap_or(usize::MAX);
        let size = wanted.max(CHUNK).min(left);
        self.buffer.resize(size.max(wanted), 0);
        self.frames
            .file
            .read_exact_at(&mut self.buffer[here..], self.at + here as u64)
            .map_err(|error| trouble(&self.frames.folder, &error))
    }
}

#[cfg(test)]
impl Frames {
    /// Changes the byte at this place.
    pub(super) fn damage(&self, place: u64) {
        let mut byte = [0];
        self.file.read_exact_at(&mut byte, place).unwrap();
        self.file.write_all_at(&[byte[0] ^ 1], place).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whichever write it is that finds no room: of many small frames, of bytes by themselves, or the last.
    #[test]
    fn a_full_disk_is_said() {
        let full = || {
            let file = File::options().write(true).open("/dev/full").unwrap();
            Writer::new(file, Path::new("folder"))
        };
        let says = |result: Result<()>| {
            let error = result.unwrap_err().to_string();
            assert!(
                error.contains("No space left") && error.contains("folder"),
                "{error}"
            );
        };
        let mut small = full();
        says((0..CHUNK).try_for_each(|number| small.push(&number)));
        says(full().push_bytes(&[1]));
        let mut last = full();
        last.push(&1).unwrap();
        says(last.finish().map(|_| ()));
    }
}
