//! Tells a server that is at work on a statement from one that will never answer.
//!
//! A connection can be half open: a firewall has forgotten it, the host behind it is gone, and TCP
//! says nothing for a quarter of an hour. A limit on how long a statement may take would be wrong
//! for DDL and for lock waits. So when no answer has come for a while, the server is asked over a
//! connection of its own whether it is at work for the first one.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::Duration;

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, IoError, Opts};

/// Bytes a second that a large statement is given to travel: slower than any network between an
/// engine and its own node.
const SLOWEST: u64 = 128 * 1024;

/// Watches one connection.
#[derive(Debug)]
pub(crate) struct Watch {
    opts: Opts,
    /// The connection's number at the server.
    id: u32,
    /// How long a server may say nothing, all in all.
    silence: Duration,
    /// No answer came: the connection is of no use any more.
    lost: bool,
}

impl Watch {
    /// Of the connection that the server calls `id`.
    pub(crate) fn new(opts: Opts, id: u32, silence: Duration) -> Self {
        Self {
            opts,
            id,
            silence,
            lost: false,
        }
    }

    /// Waits for the answer to a statement of `sent` bytes for as long as the server works on it.
    ///
    /// # Errors
    /// The driver's; an I/O error of kind `TimedOut` when neither an answer comes nor the server
    /// says that it is at work.
    pub(crate) async fn answered<T>(
        &mut self,
        sent: usize,
        work: impl Future<Output = mysql_async::Result<T>>,
    ) -> mysql_async::Result<T> {
        if self.lost {
            return Err(self.silent());
        }
        let half = self.silence / 2;
        let mut work = pin!(work);
        // While it is on its way, the server is not at work on it.
        let mut patience = half + Duration::from_secs(sent as u64 / SLOWEST);
        loop {
            if let Ok(answer) = tokio::time::timeout(patience, &mut work).await {
                return answer;
            }
            patience = half;
            let at_work = tokio::time::timeout(half, at_work(&self.opts, self.id)).await;
            if matches!(at_work, Ok(Ok(true))) {
                continue;
            }
            // It may have come while the server was asked.
            if let Ok(answer) = tokio::time::timeout(Duration::ZERO, &mut work).await {
                return answer;
            }
            self.lost = true;
            return Err(self.silent());
        }
    }

    fn silent(&self) -> mysql_async::Error {
        mysql_async::Error::Io(IoError::Io(io::Error::new(
            io::ErrorKind::TimedOut,
            format!(
                "no answer within {}, and the server does not say that it is at work",
                humantime::format_duration(self.silence)
            ),
        )))
    }
}

async fn at_work(opts: &Opts, id: u32) -> mysql_async::Result<bool> {
    let mut conn = Conn::new(opts.clone()).await?;
    let command: Option<String> = conn
        .query_first(format!(
            "SELECT COMMAND FROM information_schema.PROCESSLIST WHERE ID = {id}"
        ))
        .await?;
    conn.disconnect().await?;
    Ok(command.is_some_and(|command| command != "Sleep"))
}
