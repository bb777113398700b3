//! Whether a server's log is still the one that was applied at its peer.
//!
//! A server that was restored, was reset, or lost commits in a crash goes on with a log of its own,
//! which may by now be longer than the old one. The marker row at the peer says what was applied of
//! it: by which server, up to where, in a file that was begun when, and under which GTID. Both
//! engines ask: that of the peer, for it would pass over what took the lost part's place; and the
//! node's own, for what the peer says that it has seen of the log is void.

use crate::connection::{Identity, NodeConnection};
use crate::decode::event::Flavor;
use crate::error::{Error, Result};
use crate::gtid::Gtid;
use crate::link::uuid_text;
use crate::position::LogPos;
use crate::position::marker::Marker;

/// How often a GTID is asked for before it counts as unknown, and the pause between. MySQL names a
/// transaction in `gtid_executed` only when it has committed it in the engine, which is after the
/// peer had it from the log.
const LOOKS: u32 = 20;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(250);

/// Whether `origin` is still the server whose log the marker at node `applied_at` speaks of, with a log
/// that goes up to `position` at least and the last transaction that was applied in it. Gives the log's
/// end.
///
/// # Errors
/// [`Error::LogLost`] when it is not; the connection's.
pub(crate) async fn verify(
    connection: &mut NodeConnection,
    marker: &Marker,
    applied_at: &str,
    origin: &Identity,
    position: LogPos,
) -> Result<LogPos> {
    // Asked after the marker was read, for both move on.
    let (_, end) = connection.log_end(origin.flavor).await?;
    same_log(marker, applied_at, origin, position, end)?;
    file_reaches(connection, applied_at, origin, position, end).await?;
    verify_gtid(connection, marker, origin).await?;
    Ok(end)
}

fn same_log(
    marker: &Marker,
    applied_at: &str,
    origin: &Identity,
    position: LogPos,
    end: LogPos,
) -> Result<()> {
    let lost = |problem: String| {
        Err(Error::LogLost {
            node: origin.node.to_string(),
            problem: format!(
                "{problem}. Make the nodes agree (compare them, copy one to the other), then stop both \
                 engines and run `twinlog init --force` or `twinlog positions set`"
            ),
        })
    };
    let uuid = uuid_text(origin);
    if uuid != marker.server_uuid {
        return lost(format!(
            "its server_uuid is {uuid}, and was {} when the link was set up: it is another server, or \
             was set up anew. If only auto.cnf was lost, put the old server_uuid back into it",
            marker.server_uuid
        ));
    }
    if origin.server_id != marker.server_id {
        return lost(format!(
            "its server_id is {}, and was {} when the link was set up: it is another server, or its \
             settings were changed. If it is the same one, set server_id back",
            origin.server_id, marker.server_id
        ));
    }
    if !origin.log_name.same_log(&marker.log_name) {
        return lost(format!(
            "its log is called {} now, and was {}",
            origin.log_name.file(end.file),
            marker.log_name.file(marker.position.file)
        ));
    }
    if position > end {
        return lost(format!(
            "node {applied_at} has applied its log up to {}, and it ends at {}: it was reset, restored \
             from a backup, or lost committed transactions in a crash",
            origin.log_name.show(position),
            origin.log_name.show(end)
        ));
    }
    Ok(())
}

/// Whether the file of `position`, if the log has gone on in others, goes up to it.
async fn file_reaches(
    connection: &mut NodeConnection,
    applied_at: &str,
    origin: &Identity,
    position: LogPos,
    end: LogPos,
) -> Result<()> {
    if position.file == end.file {
        return Ok(());
    }
    let name = origin.log_name.file(position.file);
    let Some(size) = connection.log_size(&name).await? else {
        // Purged: whoever needs it will say so.
        return Ok(());
    };
    if size >= position.offset {
        return Ok(());
    }
    Err(Error::LogLost {
        node: origin.node.to_string(),
        problem: format!(
            "node {applied_at} has applied its log up to {}, and {name} ends at {size}: it lost committed \
             transactions in a crash (sync_binlog or innodb_flush_log_at_trx_commit other than 1), or was \
             restored from a backup. What it lost is still at node {applied_at}. Compare the nodes \
             (`twinlog verify`), make them alike, then stop both engines and run `twinlog init --force`",
            origin.log_name.show(position),
        ),
    })
}

/// Whether the log file of the marker's position is the one that was applied, by when the file of that
/// name was begun, as far as both are known.
///
/// # Errors
/// [`Error::LogLost`] when it is another one.
pub(crate) fn same_file(
    marker: &Marker,
    applied_at: &str,
    origin: &Identity,
    birth: Option<u32>,
) -> Result<()> {
    match birth {
        Some(birth) if birth != 0 && marker.log_birth != 0 && birth != marker.log_birth => {
            Err(Error::LogLost {
                node: origin.node.to_string(),
                problem: format!(
                    "{} is not the file that node {applied_at} has applied (it was begun at {birth}, \
                     the other at {}, in seconds since 1970): the log was reset, or restored from a \
                     backup. Compare the nodes, make them alike, then stop both engines and run \
                     `twinlog init --force`",
                    origin.log_name.file(marker.position.file),
                    marker.log_birth
                ),
            })
        }
        _ => Ok(()),
    }
}

/// Asks the origin for the GTID that the marker names.
async fn verify_gtid(
    connection: &mut NodeConnection,
    marker: &Marker,
    origin: &Identity,
) -> Result<()> {
    // Set up or set by hand, or a server without GTIDs.
    if marker.gtid.is_empty() {
        return Ok(());
    }
    for look in 0..LOOKS {
        if look > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        if knows(connection, &marker.gtid, origin.flavor).await? {
            return Ok(());
        }
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
