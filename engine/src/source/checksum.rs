//! Checksums of events, which the driver keeps but does not verify.

use mysql_common::binlog::consts::BinlogChecksumAlg;
use mysql_common::binlog::events::Event;

/// Verifies an event's CRC32, where the log has checksums.
pub(super) fn verify(event: &Event) -> Result<(), String> {
    let algorithm = event
        .footer()
        .get_checksum_alg()
        .map_err(|_| "unknown checksum algorithm; this version knows NONE and CRC32".to_owned())?;
    if algorithm != Some(BinlogChecksumAlg::BINLOG_CHECKSUM_ALG_CRC32) {
        return Ok(());
    }
    let Some(stored) = event.checksum() else {
        return Ok(());
    };
    let computed = event.calc_checksum(BinlogChecksumAlg::BINLOG_CHECKSUM_ALG_CRC32);
    if u32::from_le_bytes(stored) == computed {
        Ok(())
    } else {
        Err(format!(
            "checksum of the event is {computed:08x}, the log says {:08x}: the log or the \
             connection damaged it. Check the disk of the server (mysqlbinlog --verify-binlog-checksum)",
            u32::from_le_bytes(stored)
        ))
    }
}
