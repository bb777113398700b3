//! The engine's own store. The only file that names sled.
//!
//! It holds per link how far the log has been settled, which may be further than the marker row
//! (transactions that needed no write at the target). It is written behind the target's commit and
//! is never believed over the marker: losing it costs reading some log again. sled's flush is not an
//! fsync on Linux, so nothing here may be needed for INV-ONCE.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::failpoint::{self, Failpoint};
use crate::position::LogPos;

/// Version of the records' form; a store of another version is moved aside.
const FORMAT: &[u8] = b"twinlog-store-2";
const FORMAT_KEY: &[u8] = b"format";
const TAIL_KEY: &[u8] = b"tail";

/// Between two attempts at a store that is locked.
const PAUSE: Duration = Duration::from_millis(50);

/// What is kept for one link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRecord {
    /// Where the marker row stood when this was written, in the origin's log.
    pub marker: LogPos,
    /// What else the marker row said then: a marker that was set anew by hand can stand at the same
    /// place of another log.
    pub transactions: u64,
    /// GTID in the marker row.
    pub gtid: String,
    /// Everything in front of this is settled: applied, or needing no write at the target.
    pub settled: LogPos,
    /// The origin's effective clock at `settled`, microseconds since 1970.
    pub clock: u64,
    /// How much of the target's own log the origin had applied at `settled`.
    pub seen: LogPos,
    /// The target's effective clock at `seen`.
    pub seen_clock: u64,
    /// When the log file of `settled` was begun, seconds since 1970; 0 where that is not known.
    #[serde(default)]
    pub log_birth: u32,
    /// Where the origin's log in front of `settled` left its marker row for the target.
    #[serde(default)]
    pub marked: Option<LogPos>,
    /// Number of the last GTID under the origin's own UUID in front of `settled` (MySQL).
    #[serde(default)]
    pub numbered: Option<u64>,
    /// As [`crate::log_reader::Start::xa_from`], of `settled`.
    #[serde(default)]
    pub xa_from: Option<LogPos>,
}

/// How far the node's own log was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TailRecord {
    /// Everything in front of this.
    pub read: LogPos,
    /// When the log file of `read` was begun, seconds since 1970; 0 where that is not known.
    pub birth: u32,
    /// Epoch of the engine that read it.
    pub epoch: u64,
}

/// The store of one node's engine.
#[derive(Debug)]
pub struct Store {
    db: sled::Db,
    path: PathBuf,
}

/// How a store was opened.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// As it was, or new.
    Normal,
    /// What was there could not be read and was moved to this place; an empty one took its place.
    MovedAside(PathBuf, String),
}

impl Store {
    /// Opens or makes the store in `folder`. A damaged store, or one of another version, is moved
    /// aside, for the markers at the target say all that matters.
    ///
    /// # Errors
    /// [`Error::Fenced`] when another engine has it open, [`Error::Store`] when the folder cannot be
    /// written.
    pub fn open(folder: &Path) -> Result<(Self, Opened)> {
        std::fs::create_dir_all(folder).map_err(|error| Error::Store {
            path: folder.display().to_string(),
            problem: format!(
                "cannot make the folder: {error}; check engine.data_dir and its owner"
            ),
        })?;
        let path = folder.join("positions");
        match Self::try_open(&path) {
            Ok(store) => Ok((store, Opened::Normal)),
            Err(Trouble::Locked) => Err(Error::Fenced(format!(
                "another engine is running with {}; one engine runs for a node: stop it first",
                path.display()
            ))),
            Err(Trouble::Unusable(problem)) => Err(Error::Store {
                path: path.display().to_string(),
                problem: format!("{problem}; check the disk, its free space and the owner"),
            }),
            Err(Trouble::Damaged(problem)) => {
                let aside = aside_name(&path);
                std::fs::rename(&path, &aside).map_err(|error| Error::Store {
                    path: path.display().to_string(),
                    problem: format!("{problem}; and it cannot be moved aside: {error}"),
                })?;
                match Self::try_open(&path) {
                    Ok(store) => Ok((store, Opened::MovedAside(aside, problem))),
                    Err(_) => Err(Error::Store {
                        path: path.display().to_string(),
                        problem: "a new store cannot be made; check the disk".to_owned(),
                    }),
                }
            }
        }
    }

    /// As [`Store::open`], but tries one that is locked again for so long. One that this process has just let go of
    /// may be locked for a moment still: sled writes out what it has by threads of its own.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn open_within(folder: &Path, wait: Duration) -> Result<(Self, Opened)> {
        let deadline = Instant::now() + wait;
        loop {
            match Self::open(folder) {
                Err(Error::Fenced(_)) if Instant::now() < deadline => {
                    tokio::time::sleep(PAUSE).await;
                }
                opened => return opened,
            }
        }
    }

    fn try_open(path: &Path) -> Result<Self, Trouble> {
        // Opening damaged files can panic inside sled; that is damage like any other.
        let opened = std::panic::catch_unwind(|| sled::Config::new().path(path).open());
        let db = match opened {
            Ok(Ok(db)) => db,
            Ok(Err(sled::Error::Io(error))) => {
                let text = error.to_string();
                return Err(if text.contains("could not acquire lock") {
                    Trouble::Locked
                } else if error.kind() == std::io::ErrorKind::Other
                    || error.kind() == std::io::ErrorKind::InvalidData
                    || error.kind() == std::io::ErrorKind::UnexpectedEof
                {
                    Trouble::Damaged(text)
                } else {
                    Trouble::Unusable(text)
                });
            }
            Ok(Err(error)) => return Err(Trouble::Damaged(error.to_string())),
            Err(_) => return Err(Trouble::Damaged("it cannot be opened".to_owned())),
        };
        let damaged = |error: sled::Error| Trouble::Damaged(error.to_string());
        match db.get(FORMAT_KEY).map_err(damaged)? {
            Some(format) if format.as_ref() == FORMAT => {}
            Some(_) => return Err(Trouble::Damaged("it is of another version".to_owned())),
            None if db.is_empty() => {
                db.insert(FORMAT_KEY, FORMAT).map_err(damaged)?;
                db.flush().map_err(|error| match error {
                    sled::Error::Io(error) => Trouble::Unusable(error.to_string()),
                    other => Trouble::Damaged(other.to_string()),
                })?;
            }
            None => return Err(Trouble::Damaged("it does not say its version".to_owned())),
        }
        Ok(Self {
            db,
            path: path.to_owned(),
        })
    }

    /// What is kept for the link from `origin`; `None` when nothing is, or nothing readable.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn link(&self, origin: &str) -> Result<Option<LinkRecord>> {
        let bytes = self
            .db
            .get(link_key(origin))
            .map_err(|error| self.trouble(&error))?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// Keeps what is known of the link from `origin`. It reaches the disk within half a second, or
    /// at [`Self::flush`].
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn keep_link(&self, origin: &str, record: &LinkRecord) -> Result<()> {
        let bytes = serde_json::to_vec(record)
            .map_err(|error| Error::Internal(format!("link record: {error}")))?;
        self.db
            .insert(link_key(origin), bytes)
            .map_err(|error| self.trouble(&error))?;
        failpoint::reach(Failpoint::StoreHalfWritten);
        Ok(())
    }

    /// How far the node's own log was read, if that is kept and readable.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn tail(&self) -> Result<Option<TailRecord>> {
        let bytes = self
            .db
            .get(TAIL_KEY)
            .map_err(|error| self.trouble(&error))?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// Keeps how far the node's own log was read.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn keep_tail(&self, record: &TailRecord) -> Result<()> {
        let bytes = serde_json::to_vec(record)
            .map_err(|error| Error::Internal(format!("tail record: {error}")))?;
        self.db
            .insert(TAIL_KEY, bytes)
            .map(|_| ())
            .map_err(|error| self.trouble(&error))
    }

    /// Writes everything out.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn flush(&self) -> Result<()> {
        self.db
            .flush()
            .map(|_| ())
            .map_err(|error| self.trouble(&error))
    }

    fn trouble(&self, error: &sled::Error) -> Error {
        Error::Store {
            path: self.path.display().to_string(),
            problem: format!("{error}; check the disk and its free space, then start again"),
        }
    }
}

enum Trouble {
    Locked,
    Unusable(String),
    Damaged(String),
}

fn link_key(origin: &str) -> Vec<u8> {
    format!("link/{origin}").into_bytes()
}

fn aside_name(path: &Path) -> PathBuf {
    let seconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_millis());
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".damaged-{seconds}"));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opens a store that a test has just let go of.
    async fn again(folder: &Path) -> (Store, Opened) {
        let wait = Duration::from_secs(10);
        Store::open_within(folder, wait).await.unwrap()
    }

    fn record(offset: u64) -> LinkRecord {
        LinkRecord {
            marker: LogPos::new(1, offset),
            transactions: 5,
            gtid: String::new(),
            settled: LogPos::new(1, offset + 10),
            clock: 7,
            seen: LogPos::new(4, 5),
            seen_clock: 6,
            log_birth: 8,
            marked: None,
            numbered: Some(9),
            xa_from: None,
        }
    }

    #[tokio::test]
    async fn keeps_records_and_refuses_a_second_engine() {
        let folder = tempfile::tempdir().unwrap();
        let (store, opened) = Store::open(folder.path()).unwrap();
        assert_eq!(opened, Opened::Normal);
        assert_eq!(store.link("a").unwrap(), None);
        store.keep_link("a", &record(100)).unwrap();
        store.flush().unwrap();
        assert!(matches!(Store::open(folder.path()), Err(Error::Fenced(_))));
        drop(store);
        let (store, _) = again(folder.path()).await;
        assert_eq!(store.link("a").unwrap(), Some(record(100)));
    }

    #[tokio::test]
    async fn a_damaged_store_is_moved_aside() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path()).unwrap();
        store.keep_link("a", &record(100)).unwrap();
        store.flush().unwrap();
        drop(store);
        let conf = folder.path().join("positions/conf");
        std::fs::write(&conf, b"nonsense that is no sled configuration").unwrap();
        let (store, opened) = again(folder.path()).await;
        assert!(matches!(opened, Opened::MovedAside(..)), "{opened:?}");
        assert_eq!(store.link("a").unwrap(), None);
    }

    /// Older and newer; with records that this version could read, and must not.
    #[tokio::test]
    async fn another_version_is_moved_aside() {
        for version in ["twinlog-store-1", "twinlog-store-3", ""] {
            let folder = tempfile::tempdir().unwrap();
            let (store, _) = Store::open(folder.path()).unwrap();
            store.keep_link("a", &record(100)).unwrap();
            store.db.insert(FORMAT_KEY, version).unwrap();
            store.flush().unwrap();
            drop(store);
            let (store, opened) = again(folder.path()).await;
            let Opened::MovedAside(aside, why) = opened else {
                panic!("{version}: {opened:?}");
            };
            assert!(why.contains("another version"), "{why}");
            assert!(aside.join("db").exists());
            assert_eq!(store.link("a").unwrap(), None, "{version}");
        }
    }
}
