//! What does not fit into memory of the window: claims by key, and by position so that they can be
//! dropped from the front. A scratch store: an engine that starts fills its window anew from the log.
//!
//! With [`super::store`], the only place that names sled.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Bits of the filter that tells most keys which are not here without looking: 8 MiB.
const FILTER_BITS: u64 = 1 << 26;
/// Memory of the store's own cache.
const CACHE_BYTES: u64 = 16 << 20;
/// Claims that one batch drops.
const DROPPED_AT_ONCE: usize = 4096;

/// Claims on disk. Keys are 16 bytes, positions 16 bytes that sort as they stand in the log.
#[derive(Debug)]
pub struct Overflow {
    path: String,
    folder: PathBuf,
    /// How many stores were thrown away; each has a folder of its own.
    turn: u32,
    claims: sled::Tree,
    by_position: sled::Tree,
    filter: Vec<u64>,
    /// Entries by position.
    entries: usize,
    /// The last of the positions.
    last: [u8; 16],
}

fn trees(folder: &Path, turn: u32) -> Result<(sled::Tree, sled::Tree), sled::Error> {
    let db = sled::Config::new()
        .path(folder.join(turn.to_string()))
        .cache_capacity(CACHE_BYTES)
        // Nothing of it has to outlive the engine.
        .flush_every_ms(None)
        .open()?;
    Ok((db.open_tree("claims")?, db.open_tree("by_position")?))
}

impl Overflow {
    /// An empty one in `folder`; what was there is thrown away.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.display().to_string();
        let trouble = |problem: String| Error::Store {
            path: path.clone(),
            problem: format!("{problem}; check the disk, its free space and the owner"),
        };
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(trouble(error.to_string()));
            }
            _ => {}
        }
        let (claims, by_position) = trees(folder, 0).map_err(|error| trouble(error.to_string()))?;
        Ok(Self {
            claims,
            by_position,
            path: path.clone(),
            folder: folder.to_owned(),
            turn: 0,
            filter: vec![0; (FILTER_BITS / 64) as usize],
            entries: 0,
            last: [0; 16],
        })
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Number of claims, those counted twice whose key was claimed again.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries
    }

    /// The key was claimed at this position; a claim before is overwritten.
    ///
    /// # Errors
    /// [`Error::Store`]: the disk is full, say.
    pub fn put(&mut self, position: [u8; 16], key: [u8; 16], value: &[u8]) -> Result<()> {
        for bit in bits(key) {
            self.filter[(bit / 64) as usize] |= 1 << (bit % 64);
        }
        let place = [position, key].concat();
        let new = self
            .by_position
            .insert(place, &[])
            .map_err(|e| self.trouble(&e))?;
        self.claims
            .insert(key, value)
            .map_err(|e| self.trouble(&e))?;
        self.entries += usize::from(new.is_none());
        self.last = self.last.max(position);
        Ok(())
    }

    /// The last claim of a key.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn get(&self, key: [u8; 16]) -> Result<Option<Vec<u8>>> {
        let set = |bit: u64| self.filter[(bit / 64) as usize] & (1 << (bit % 64)) != 0;
        if self.entries == 0 || !bits(key).into_iter().all(set) {
            return Ok(None);
        }
        let found = self.claims.get(key).map_err(|error| self.trouble(&error))?;
        Ok(found.map(|value| value.to_vec()))
    }

    /// Drops what was claimed up to a position, unless it was claimed again since. `position_of`
    /// gives the position of a claim's value.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn drop_front(
        &mut self,
        upto: [u8; 16],
        position_of: impl Fn(&[u8]) -> Option<[u8; 16]>,
    ) -> Result<()> {
        if self.entries > DROPPED_AT_ONCE && self.last <= upto {
            return self.renew();
        }
        while self.entries > 0 {
            let mut places = sled::Batch::default();
            let mut claims = sled::Batch::default();
            let mut dropped = 0;
            for found in self.by_position.iter().take(DROPPED_AT_ONCE) {
                let (place, _) = found.map_err(|error| self.trouble(&error))?;
                let (position, key) = place.split_at(16);
                if position > &upto[..] {
                    break;
                }
                let claim = self.claims.get(key).map_err(|error| self.trouble(&error))?;
                let last = claim.and_then(|claim| position_of(&claim));
                if last.is_some_and(|last| last[..] == *position) {
                    claims.remove(key);
                }
                places.remove(&place);
                dropped += 1;
            }
            if dropped == 0 {
                return Ok(());
            }
            self.claims
                .apply_batch(claims)
                .map_err(|e| self.trouble(&e))?;
            self.by_position
                .apply_batch(places)
                .map_err(|e| self.trouble(&e))?;
            self.entries -= dropped;
            if self.entries == 0 {
                self.filter.fill(0);
            }
        }
        Ok(())
    }

    /// Throws everything away at once: one by one it would take as long as it took to come.
    fn renew(&mut self) -> Result<()> {
        let (claims, by_position) =
            trees(&self.folder, self.turn + 1).map_err(|error| self.trouble(&error))?;
        let before = (
            std::mem::replace(&mut self.claims, claims),
            std::mem::replace(&mut self.by_position, by_position),
        );
        let folder = self.folder.join(self.turn.to_string());
        self.turn += 1;
        self.entries = 0;
        self.filter.fill(0);
        // Closing it writes out what nobody wants any more.
        std::thread::spawn(move || {
            drop(before);
            let _ = std::fs::remove_dir_all(folder);
        });
        Ok(())
    }

    fn trouble(&self, error: &sled::Error) -> Error {
        Error::Store {
            path: self.path.clone(),
            problem: format!("{error}; check the disk and its free space"),
        }
    }
}

/// Places of a key in the filter; keys are hashes already.
fn bits(key: [u8; 16]) -> [u64; 3] {
    let number = u128::from_le_bytes(key);
    let part = |shift: u32| (number >> shift) as u64 % FILTER_BITS;
    [part(0), part(40), part(80)]
}
