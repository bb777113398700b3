//! Whether a server still knows the last transaction that was applied of it.
//!
//! A server that was restored, was reset, or lost commits in a crash goes on with a log of its own,
//! which may by now be longer than the old one. Its GTIDs tell: what a peer has applied is among
//! them, or it is not the same history.

use crate::connection::{Identity, NodeConnection};
use crate::decode::event::Flavor;
use crate::error::{Error, Result};
use crate::gtid::Gtid;
use crate::position::marker::Marker;

/// Asks the origin for the GTID that the marker names.
///
/// # Errors
/// [`Error::LogLost`] when it does not have it; the connection's.
pub(crate) async fn verify(
    connection: &mut NodeConnection,
    marker: &Marker,
    origin: &Identity,
) -> Result<()> {
    // Set up or set by hand, or a server without GTIDs.
    if marker.gtid.is_empty() || knows(connection, &marker.gtid, origin.flavor).await? {
        return Ok(());
    }
    Err(Error::LogLost {
        node: origin.node.to_string(),
        problem: format!(
            "the transaction {}, which was applied up to {}, is not among those that the server knows \
             of: it lost committed transactions in a crash (sync_binlog or \
             innodb_flush_log_at_trx_commit other than 1), was restored from a backup, or was reset. \
             What it lost is still at the other node. Compare the nodes (`twinlog verify`), make them \
             alike, then stop both engines and run `twinlog init --force` or `twinlog positions set`",
            marker.gtid,
            marker.log_name.show(marker.position)
        ),
    })
}

async fn knows(connection: &mut NodeConnection, gtid: &str, flavor: Flavor) -> Result<bool> {
    let context = "asking for the GTIDs of the log";
    match flavor {
        Flavor::MySql => {
            let sql = format!("SELECT GTID_SUBSET('{gtid}', @@GLOBAL.gtid_executed)");
            let known: Option<Option<i64>> = connection.first(&sql, context).await?;
            Ok(known.flatten() == Some(1))
        }
        Flavor::MariaDb => {
            let state: Option<String> = connection
                .first("SELECT @@GLOBAL.gtid_binlog_state", context)
                .await?;
            Ok(includes(&state.unwrap_or_default(), gtid))
        }
    }
}

/// Whether a `gtid_binlog_state` (the last number of each domain and server) is at or behind a GTID.
fn includes(state: &str, gtid: &str) -> bool {
    let Some(Gtid::MariaDb {
        domain,
        server_id,
        sequence,
    }) = parse(gtid)
    else {
        return false;
    };
    state.split(',').filter_map(parse).any(|last| {
        matches!(last, Gtid::MariaDb { domain: d, server_id: s, sequence: n }
            if (d, s) == (domain, server_id) && n >= sequence)
    })
}

fn parse(text: &str) -> Option<Gtid> {
    let mut parts = text.trim().splitn(3, '-');
    Some(Gtid::MariaDb {
        domain: parts.next()?.parse().ok()?,
        server_id: parts.next()?.parse().ok()?,
        sequence: parts.next()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_includes_what_is_in_front_of_it() {
        let state = "0-1-100,0-2-90,1-1-5";
        for (gtid, known) in [
            ("0-1-100", true),
            ("0-1-99", true),
            ("0-1-101", false),
            ("0-2-91", false),
            ("0-3-1", false),
            ("1-1-5", true),
            ("2-1-1", false),
        ] {
            assert_eq!(includes(state, gtid), known, "{gtid}");
        }
        assert!(!includes("", "0-1-1"));
        assert!(!includes(state, "no gtid"));
    }
}
