//! How far the node's own log was read, kept over restarts of the engine: a log that is shorter
//! afterwards has lost transactions, which the tables may still have and the peer would never get.
//!
//! It is written once a second and not synced, so it may know of less than was read; what it knows was
//! read. Losing it loses a look, never data.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::LogPos;
use super::store::{Store, TailRecord};
use crate::connection::Identity;
use crate::error::{Error, Result};

/// How often it is written while the log grows.
const EVERY: Duration = Duration::from_secs(1);

/// What is known of the node's own log.
#[derive(Debug)]
pub(crate) struct OwnLog {
    store: Arc<Store>,
    of: Identity,
    /// As this engine claimed it.
    epoch: u64,
    /// What an earlier engine has read and this one has not yet.
    expected: Option<TailRecord>,
    kept: (LogPos, Instant),
    warned: bool,
}

impl OwnLog {
    /// Takes up what the engine before this one has left, if `epoch` is the next one behind its own:
    /// else somebody has set positions by hand since (`init --force`, `positions set`), or another
    /// engine ran, and the log may be another one for good reason.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(crate) fn open(store: Arc<Store>, of: Identity, epoch: u64) -> Result<Self> {
        let kept = store.tail()?;
        let expected = kept.filter(|kept| kept.epoch.checked_add(1) == Some(epoch));
        if let Some(expected) = &expected {
            // It holds for the engine behind this one too, until it is reached.
            store.keep_tail(&TailRecord {
                epoch,
                ..expected.clone()
            })?;
        }
        Ok(Self {
            store,
            of,
            epoch,
            expected,
            kept: (LogPos::default(), Instant::now()),
            warned: false,
        })
    }

    /// The log ends here now.
    ///
    /// # Errors
    /// [`Error::LogLost`] where it was longer.
    pub(crate) fn ends_at(&self, end: LogPos) -> Result<()> {
        match &self.expected {
            Some(expected) if expected.read > end => Err(self.lost(expected, end)),
            _ => Ok(()),
        }
    }

    /// The reading has come from `before` to `position`, both boundaries, in a file that was begun at
    /// `birth` (0 where that is not known).
    ///
    /// # Errors
    /// [`Error::LogLost`] where the log is not what it was.
    pub(crate) fn reached(&mut self, before: LogPos, position: LogPos, birth: u32) -> Result<()> {
        let Some(expected) = &self.expected else {
            return Ok(());
        };
        let read = expected.read;
        let another = position.file == read.file
            && ![0, expected.birth].contains(&birth)
            && expected.birth != 0;
        // The file was left for the next one in front of what was read of it.
        if another || (position.file > read.file && before < read) {
            return Err(self.lost(expected, before));
        }
        if position >= read {
            self.expected = None;
        }
        Ok(())
    }

    /// Writes down how far the log was read, if it is time or `now`.
    pub(crate) fn keep(&mut self, position: LogPos, birth: u32, now: bool) {
        if position <= self.kept.0 || !(now || self.kept.1.elapsed() >= EVERY) {
            return;
        }
        // What was expected is not reached yet: it stays.
        if self.expected.is_some() {
            return;
        }
        let record = TailRecord {
            read: position,
            birth,
            epoch: self.epoch,
        };
        if let Err(error) = self.store.keep_tail(&record)
            && !self.warned
        {
            self.warned = true;
            tracing::warn!(node = %self.of.node, %error, "how far the own log was read is not kept");
        }
        self.kept = (position, Instant::now());
    }

    fn lost(&self, expected: &TailRecord, at: LogPos) -> Error {
        let name = &self.of.log_name;
        Error::LogLost {
            node: self.of.node.to_string(),
            problem: format!(
                "it ends at {}, or another file stands there, and this engine has read it up to {}: the \
                 server lost transactions from its log in a crash (sync_binlog other than 1), was reset, \
                 or was restored from a backup. Its tables may have what the other node will never get. \
                 Compare the nodes (`twinlog verify`), make them alike, then stop both engines and run \
                 `twinlog init --force`",
                name.show(at),
                name.show(expected.read)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::event::Flavor;
    use crate::position::LogName;

    async fn own(epoch: u64, folder: &std::path::Path) -> OwnLog {
        let (store, _) = Store::open_within(folder, Duration::from_secs(10))
            .await
            .unwrap();
        let of = Identity {
            node: "a".into(),
            flavor: Flavor::MariaDb,
            version: String::new(),
            server_id: 1,
            uuid: None,
            log_name: LogName::split("bin.000001").unwrap().0,
        };
        OwnLog::open(Arc::new(store), of, epoch).unwrap()
    }

    /// An engine that has read up to 2:500 in a file begun at 7, and has gone.
    async fn before(folder: &std::path::Path) {
        let mut own = own(4, folder).await;
        own.keep(LogPos::new(2, 500), 7, true);
    }

    #[tokio::test]
    async fn a_shorter_log_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        before(folder.path()).await;
        let log = own(5, folder.path()).await;
        assert!(log.ends_at(LogPos::new(2, 499)).is_err());
        assert!(log.ends_at(LogPos::new(3, 4)).is_ok());
        drop(log);
        let at = |offset| LogPos::new(2, offset);
        let cases = [
            (at(400), at(450), 7, true),
            (at(400), at(450), 0, true),
            (at(400), at(450), 8, false),
            (at(499), LogPos::new(3, 4), 0, false),
            (at(500), LogPos::new(3, 4), 0, true),
        ];
        // Each time by another engine: it is not forgotten with the one that has noticed.
        for ((before, position, birth, fits), epoch) in cases.into_iter().zip(6..) {
            let mut log = own(epoch, folder.path()).await;
            assert_eq!(
                log.reached(before, position, birth).is_ok(),
                fits,
                "{before} {position} {birth}"
            );
        }
    }

    #[tokio::test]
    async fn what_people_set_is_not_held_against_them() {
        let folder = tempfile::tempdir().unwrap();
        before(folder.path()).await;
        for epoch in [4, 6, 7] {
            let log = own(epoch, folder.path()).await;
            assert!(log.ends_at(LogPos::new(1, 4)).is_ok(), "{epoch}");
        }
    }
}
