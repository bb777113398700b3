//! Row changes that do not fit into memory: a transaction beyond a limit goes to a file of its own in
//! `data_dir` while it is read, and comes back in parts, as often as it is wanted.
//!
//! A scratch file: it has no name, so that it is gone with the last one who holds it, with the engine
//! at the latest, whatever ends that. The log has the transaction still. It does not know what the rows
//! mean, nor what becomes of them.

mod changes;
pub(crate) mod frames;
mod keys;

pub use changes::{Gathered, Part, Parts, Spilled};
pub use keys::Keys;

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::error::{Error, Result};

/// Most row changes that come back at once; one rows event alone may have more.
pub const PART_CHANGES: usize = if cfg!(test) { 50 } else { 4000 };
/// Memory of them after which no more are added, in bytes.
pub const PART_BYTES: usize = 4 << 20;

/// Where the files are, and from which size on.
#[derive(Debug, Clone)]
pub struct Room {
    folder: PathBuf,
    limit: usize,
}

impl Room {
    /// Transactions that take more than `limit` bytes of memory go to files in `folder`.
    #[must_use]
    pub fn new(folder: &Path, limit: usize) -> Self {
        Self {
            folder: folder.to_owned(),
            limit,
        }
    }

    /// As the engine of `node` has it.
    #[must_use]
    pub fn of(config: &Config, node: &str) -> Self {
        let folder = config.engine.data_dir.join(node).join("spill");
        Self::new(&folder, config.engine.transaction_bytes())
    }

    /// Memory that one transaction may take, in bytes.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    fn file(&self) -> Result<frames::Writer> {
        std::fs::create_dir_all(&self.folder)
            .and_then(|()| tempfile::tempfile_in(&self.folder))
            .map(|file| frames::Writer::new(file, &self.folder))
            .map_err(|error| trouble(&self.folder, &error))
    }
}

fn trouble(folder: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::Store {
        path: folder.display().to_string(),
        problem: format!(
            "a transaction too large for memory cannot be kept on disk: {error}; it needs about as \
             much room as the log takes for it: check the disk, its free space and the owner"
        ),
    }
}
