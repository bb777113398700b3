//! The keys of a transaction that does not fit into memory, kept to be looked up once more.

use super::Room;
use super::frames::{Frames, Reader, Writer};
use crate::conflict::key::KeyHash;
use crate::error::Result;

/// Keys that are kept in memory, and that one frame holds.
const HELD: usize = 16 * 1024;

/// Keys, each with whether it is of a row that is merged.
#[derive(Debug)]
pub struct Keys {
    room: Room,
    held: Vec<(KeyHash, bool)>,
    last: Option<(KeyHash, bool)>,
    writer: Option<Writer>,
}

/// All keys, from the first on.
#[derive(Debug)]
pub struct KeyReader {
    reader: Option<Reader>,
    held: Vec<(KeyHash, bool)>,
}

impl Keys {
    /// None yet.
    #[must_use]
    pub fn new(room: &Room) -> Self {
        Self {
            room: room.clone(),
            held: Vec::new(),
            last: None,
            writer: None,
        }
    }

    /// Adds keys. One that repeats the key before it is left out.
    ///
    /// # Errors
    /// [`crate::Error::Store`].
    pub fn extend(&mut self, keys: impl Iterator<Item = (KeyHash, bool)>) -> Result<()> {
        for key in keys {
            if self.last.replace(key) == Some(key) {
                continue;
            }
            self.held.push(key);
            if self.held.len() < HELD {
                continue;
            }
            let writer = match &mut self.writer {
                Some(writer) => writer,
                None => self.writer.insert(self.room.file()?),
            };
            writer.push(&self.held)?;
            self.held.clear();
        }
        Ok(())
    }

    /// Gives them back.
    ///
    /// # Errors
    /// [`crate::Error::Store`].
    pub fn read(self) -> Result<KeyReader> {
        let frames: Option<Frames> = self.writer.map(Writer::finish).transpose()?;
        Ok(KeyReader {
            reader: frames.map(|frames| frames.read()),
            held: self.held,
        })
    }
}

impl KeyReader {
    /// Some more keys; `None` behind the last.
    ///
    /// # Errors
    /// [`crate::Error::Store`].
    pub fn next_keys(&mut self) -> Result<Option<Vec<(KeyHash, bool)>>> {
        if let Some(reader) = &mut self.reader {
            if let Some(keys) = reader.next()? {
                return Ok(Some(keys));
            }
            self.reader = None;
        }
        let held = std::mem::take(&mut self.held);
        Ok((!held.is_empty()).then_some(held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys_come_back_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        for count in [0, 1, HELD, 3 * HELD + 5] {
            let key = |number: usize| KeyHash::whole_table("d", &number.to_string());
            let wanted: Vec<_> = (0..count).map(|n| (key(n), n % 3 == 0)).collect();
            let mut keys = Keys::new(&Room::new(folder.path(), 0));
            let twice = wanted.iter().flat_map(|key| [*key, *key]);
            keys.extend(twice).unwrap();
            let mut reader = keys.read().unwrap();
            let mut found = Vec::new();
            while let Some(more) = reader.next_keys().unwrap() {
                found.extend(more);
            }
            assert_eq!(found, wanted);
        }
    }
}
