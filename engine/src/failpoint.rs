//! Named places on the way of a transaction at which a test may have the process die.
//!
//! `TWINLOG_FAILPOINT=name[:nth]` arms one of them for a `twinlog run`: when it is reached for the
//! nth time (the first, if nothing is said) the process aborts, which is to the servers and to the
//! engine's files as `kill -9` is: no destructor runs, nothing is flushed. They are in every build, so
//! that what is killed in tests is what is shipped; unarmed, each costs one relaxed load of a byte.
//! See docs/decisions/0008-failpoints.md.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::Poll;

/// The variable that arms one.
pub const VARIABLE: &str = "TWINLOG_FAILPOINT";

/// A place on the way. The order is the way's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Failpoint {
    /// The engine has claimed the node's epoch and nothing runs yet.
    Claimed = 1,
    /// The link has read an event of the origin's log; a transaction may be open.
    Received,
    /// A whole transaction was read; it is not queued yet.
    Assembled,
    /// The tailer has put a local transaction into the window; the apply does not know yet.
    Tailed,
    /// A batch was gathered.
    Grouped,
    /// The marker was moved within an apply transaction whose rows follow in packets of their own: a
    /// careful one, one from disk, DDL, or one without rows. Ordinary groups send marker and first rows
    /// together, and so have no such moment.
    MarkerWritten,
    /// Marker and all rows of an ordinary group have been answered.
    StatementsSent,
    /// The race guard has let the transaction pass: the next step is to commit.
    Guarded,
    /// COMMIT is on its way and was not answered.
    CommitSent,
    /// COMMIT was answered.
    Committed,
    /// The careful transaction holds its locks and has waited for the tailer.
    CarefulLocked,
    /// The careful transaction has written its rows, its journal is next.
    CarefulSettled,
    /// Rows, journal and histories are written: the next step is to commit.
    CarefulJournalled,
    /// COMMIT of the careful transaction is on its way.
    CarefulCommitSent,
    /// COMMIT of the careful transaction was answered; the histories in memory are as before.
    CarefulCommitted,
    /// The intent of a DDL statement is in the marker row and not committed.
    IntentWritten,
    /// The intent is committed.
    IntentCommitted,
    /// The DDL statement is on its way and was not answered.
    DefinitionSent,
    /// The DDL statement was answered; its marker is next.
    DefinitionRun,
    /// The marker is to be moved without rows.
    MarkerAlone,
    /// A batch is settled; the store does not know.
    BeforeStore,
    /// The store has taken the record into its memory: nothing, or some of it, is on disk.
    StoreHalfWritten,
    /// The store has the record.
    AfterStore,
    /// All parts of a transaction that is on disk are written: the next step is to commit.
    HugeWritten,
    /// The engine is stopping and has written its store out.
    Stopping,
}

/// All of them, with the names by which they are armed.
pub const ALL: [(Failpoint, &str); 25] = [
    (Failpoint::Claimed, "claimed"),
    (Failpoint::Received, "received"),
    (Failpoint::Assembled, "assembled"),
    (Failpoint::Tailed, "tailed"),
    (Failpoint::Grouped, "grouped"),
    (Failpoint::MarkerWritten, "marker-written"),
    (Failpoint::StatementsSent, "statements-sent"),
    (Failpoint::Guarded, "guarded"),
    (Failpoint::CommitSent, "commit-sent"),
    (Failpoint::Committed, "committed"),
    (Failpoint::CarefulLocked, "careful-locked"),
    (Failpoint::CarefulSettled, "careful-settled"),
    (Failpoint::CarefulJournalled, "careful-journalled"),
    (Failpoint::CarefulCommitSent, "careful-commit-sent"),
    (Failpoint::CarefulCommitted, "careful-committed"),
    (Failpoint::IntentWritten, "intent-written"),
    (Failpoint::IntentCommitted, "intent-committed"),
    (Failpoint::DefinitionSent, "definition-sent"),
    (Failpoint::DefinitionRun, "definition-run"),
    (Failpoint::MarkerAlone, "marker-alone"),
    (Failpoint::BeforeStore, "before-store"),
    (Failpoint::StoreHalfWritten, "store-half-written"),
    (Failpoint::AfterStore, "after-store"),
    (Failpoint::HugeWritten, "huge-written"),
    (Failpoint::Stopping, "stopping"),
];

/// The armed one; 0 for none.
static ARMED: AtomicU8 = AtomicU8::new(0);
/// How often the armed one is still to be reached.
static LEFT: AtomicU64 = AtomicU64::new(0);

/// Arms the failpoint that `text` names, such as `committed:3`.
///
/// # Errors
/// What is wrong with the text, and which names there are.
pub fn arm(text: &str) -> Result<(), String> {
    let (name, nth) = text.split_once(':').unwrap_or((text, "1"));
    let known = ALL.iter().find(|(_, known)| *known == name);
    let nth: Option<u64> = nth.parse().ok().filter(|nth| *nth > 0);
    let (Some((point, _)), Some(nth)) = (known, nth) else {
        let names: Vec<&str> = ALL.iter().map(|(_, name)| *name).collect();
        return Err(format!(
            "{VARIABLE}={text:?}: write a name, or a name and a number from 1, such as committed:3; \
             names: {}",
            names.join(", ")
        ));
    };
    LEFT.store(nth, Ordering::Relaxed);
    ARMED.store(*point as u8, Ordering::Relaxed);
    Ok(())
}

/// The process dies here, if this failpoint is armed and it is its turn.
#[inline]
pub fn reach(point: Failpoint) {
    if ARMED.load(Ordering::Relaxed) == point as u8 {
        turn();
    }
}

/// Dies once `step` has begun and waits for somebody, such as a server that was sent a statement;
/// else the same as `step` alone.
pub async fn midway<T>(point: Failpoint, step: impl Future<Output = T>) -> T {
    let mut step = pin!(step);
    let mut begun = false;
    poll_fn(|context| match step.as_mut().poll(context) {
        Poll::Pending if !begun => {
            begun = true;
            reach(point);
            Poll::Pending
        }
        other => other,
    })
    .await
}

#[cold]
fn turn() {
    if LEFT.fetch_sub(1, Ordering::Relaxed) == 1 {
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_given_once_and_in_order() {
        for (index, (point, name)) in ALL.iter().enumerate() {
            assert_eq!(*point as usize, index + 1, "{name}");
            assert_eq!(ALL.iter().filter(|(_, other)| other == name).count(), 1);
        }
    }

    #[test]
    fn a_wrong_name_is_answered_with_the_right_ones() {
        for wrong in ["", "comitted", "committed:0", "committed:x", "committed:"] {
            let message = arm(wrong).unwrap_err();
            assert!(message.contains("committed:3") && message.contains("before-store"));
        }
        assert_eq!(ARMED.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn an_unarmed_step_is_the_step() {
        let step = async {
            tokio::task::yield_now().await;
            7
        };
        assert_eq!(midway(Failpoint::CommitSent, step).await, 7);
        reach(Failpoint::Committed);
    }
}
