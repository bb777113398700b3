//! The race guard: before a commit, the tailer has to have read all that the target's log holds.

use std::time::Duration;

use super::applier::Applier;
use super::prepare::{PreparedTransaction, meeting};
use crate::conflict::detect::Meeting;
use crate::conflict::window::Window;
use crate::connection::{Identity, NodeConnection};
use crate::error::{Error, Result};
use crate::position::LogPos;
use crate::schema::SchemaCatalog;

/// How long the commit waits, holding row locks, for the tailer to read up to the log's end. It
/// takes a millisecond while the tailer runs; longer means that it lost its connection.
const TAILER_PATIENCE: Duration = Duration::from_secs(5);

/// What the guard found.
pub(super) enum Passage {
    /// Nothing is in the way of the commit.
    Clear,
    /// A concurrent local write.
    Met(Meeting),
    /// DDL changed the tables since they were looked at: a foreign key that was added before our rows were
    /// locked is in the log by now.
    Stale,
}

/// Closes the race with local writers, behind the statements that lock all rows of `prepared` and in front
/// of the commit. `generation` is that of the catalog by which they were prepared.
///
/// # Errors
/// As [`tailer_at_end`]; [`crate::Error::Store`] when the window cannot be trusted.
pub(super) async fn guard(
    connection: &mut NodeConnection,
    target: &Identity,
    window: &Window,
    catalog: &SchemaCatalog,
    (prepared, generation): (&[PreparedTransaction], u64),
) -> Result<Passage> {
    tailer_at_end(connection, target, window).await?;
    if let Some(meeting) = meeting(prepared, window) {
        return Ok(Passage::Met(meeting));
    }
    if catalog.generation() != generation {
        return Ok(Passage::Stale);
    }
    window.trust()?;
    Ok(Passage::Clear)
}

impl Applier {
    /// As [`tailer_at_end`].
    pub(super) async fn tailer_at_end(&mut self) -> Result<()> {
        tailer_at_end(&mut self.connection, &self.target, &self.window).await
    }
}

/// Waits until the tailer has read up to the end that the target's log has now.
///
/// # Errors
/// The connection's, also where the tailer stands still; [`Error::LogLost`].
pub(super) async fn tailer_at_end(
    connection: &mut NodeConnection,
    target: &Identity,
    window: &Window,
) -> Result<()> {
    let mut looks = 0;
    loop {
        let read = window.read_position();
        let (_, end) = connection.log_end(target.flavor).await?;
        if end >= read {
            let waited = tailer_reaches(window, end).await;
            return waited.unwrap_or_else(|| {
                Err(Error::Connection {
                    node: target.node.to_string(),
                    message: format!(
                        "the tailer of this node's own binlog did not reach {} within {} s",
                        target.log_name.show(end),
                        TAILER_PATIENCE.as_secs()
                    ),
                })
            });
        }
        // For a moment a server that rotates may name the file that it leaves; a log that stays
        // behind what was read of it is another one.
        looks += 1;
        if looks > 20 {
            return Err(Error::LogLost {
                node: target.node.to_string(),
                problem: format!(
                    "its own log ends at {}, and was read up to {}: it was reset or restored \
                         under the running engine. Compare the nodes, make them alike, then run \
                         `twinlog init --force`",
                    target.log_name.show(end),
                    target.log_name.show(read)
                ),
            });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits as long as the tailer is at work: it may be in the middle of a large transaction.
async fn tailer_reaches(window: &Window, end: LogPos) -> Option<Result<()>> {
    loop {
        let before = window.stirred();
        let read = tokio::time::timeout(TAILER_PATIENCE, window.read_up_to(end)).await;
        match read {
            Ok(read) => return Some(read),
            Err(_) if window.stirred() == before => return None,
            Err(_) => {}
        }
    }
}
