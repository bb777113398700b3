//! XA transactions that a server has prepared and that nobody has decided yet, as it says itself: they
//! hold their locks there, for as long as that takes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::connection::NodeConnection;
use crate::decode::ddl::Xid;
use crate::error::{Error, Result};

/// From when on one is old: a coordinator decides within seconds.
pub const OLD: Duration = Duration::from_secs(300);

/// How many are prepared, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Undecided {
    /// Their number.
    pub number: u64,
    /// For how long the oldest of them has been seen; 0 where there is none.
    pub oldest: Duration,
}

/// Remembers since when each has been prepared.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    since: HashMap<Xid, Since>,
}

#[derive(Debug)]
struct Since {
    first: Instant,
    told: bool,
}

impl Watch {
    /// These are prepared now. Gives also those that have become old since the last time.
    pub(crate) fn see(&mut self, now: Instant, prepared: Vec<Xid>) -> (Undecided, Vec<Xid>) {
        let mut before = std::mem::take(&mut self.since);
        let mut undecided = Undecided {
            number: prepared.len() as u64,
            ..Undecided::default()
        };
        let mut old = Vec::new();
        for xid in prepared {
            let mut since = before.remove(&xid).unwrap_or(Since {
                first: now,
                told: false,
            });
            let age = now.duration_since(since.first);
            undecided.oldest = undecided.oldest.max(age);
            if age >= OLD && !since.told {
                since.told = true;
                old.push(xid.clone());
            }
            self.since.insert(xid, since);
        }
        (undecided, old)
    }
}

/// Asks a server. `None`: the account may not ask (MySQL wants XA_RECOVER_ADMIN).
///
/// # Errors
/// The connection's.
pub(crate) async fn recover(connection: &mut NodeConnection) -> Result<Option<Vec<Xid>>> {
    let context = "asking for prepared XA transactions";
    let rows: Vec<(u64, usize, usize, Vec<u8>)> = match connection.all("XA RECOVER", context).await
    {
        Ok(rows) => rows,
        Err(Error::Server { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let xid = |(format, global, branch, mut data): (u64, usize, usize, Vec<u8>)| {
        let mut bqual = data.split_off(global.min(data.len()));
        bqual.truncate(branch);
        Xid {
            gtrid: data,
            bqual,
            format,
        }
    };
    Ok(Some(rows.into_iter().map(xid).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_becomes_old_once() {
        let xid = |name: &str| Xid {
            gtrid: name.into(),
            bqual: Vec::new(),
            format: 1,
        };
        let mut watch = Watch::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let undecided = |number, oldest| Undecided {
            number,
            oldest: Duration::from_secs(oldest),
        };
        assert_eq!(
            watch.see(at(0), vec![xid("a")]),
            (undecided(1, 0), Vec::new())
        );
        assert_eq!(
            watch.see(at(200), vec![xid("b"), xid("a")]),
            (undecided(2, 200), Vec::new())
        );
        assert_eq!(
            watch.see(at(300), vec![xid("a"), xid("b")]),
            (undecided(2, 300), vec![xid("a")])
        );
        assert_eq!(
            watch.see(at(301), vec![xid("a"), xid("b")]),
            (undecided(2, 301), Vec::new())
        );
        // Decided, and the name used again.
        assert_eq!(
            watch.see(at(302), vec![xid("b")]),
            (undecided(1, 102), Vec::new())
        );
        assert_eq!(
            watch.see(at(303), vec![xid("a")]),
            (undecided(1, 0), Vec::new())
        );
        assert_eq!(watch.see(at(304), Vec::new()).0, undecided(0, 0));
    }
}
