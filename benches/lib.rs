//! What the micro-benchmarks share. Run them with `cargo bench -p twinlog-benches`.

pub mod group;

use twinlog_engine::decode::event::{EventHeader, Flavor};

/// Captured logs of real servers: a name, whose it is, its bytes.
pub const LOGS: [(&str, Flavor, &[u8]); 2] = [
    (
        "mysql-9.7",
        Flavor::MySql,
        include_bytes!("../engine/fixtures/mysql-9.7.binlog"),
    ),
    (
        "mariadb-10.11",
        Flavor::MariaDb,
        include_bytes!("../engine/fixtures/mariadb-10.11.binlog"),
    ),
];

/// The events of a binlog file with CRC32 checksums, which are taken off. Stops at the first event
/// that is cut short.
#[must_use]
pub fn events(file: &[u8]) -> Vec<(EventHeader, Vec<u8>)> {
    const HEADER: usize = 19;
    const CHECKSUM: usize = 4;
    let mut rest = file.get(4..).unwrap_or_default();
    let mut events = Vec::new();
    while let Some(header) = rest.get(..HEADER) {
        let u32_at = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let length = u32_at(9) as usize;
        let body = length
            .checked_sub(CHECKSUM)
            .and_then(|end| rest.get(HEADER..end));
        let (Some(body), Some(next)) = (body, rest.get(length..)) else {
            break;
        };
        let event = EventHeader {
            timestamp: u32_at(0),
            event_type: header[4],
            server_id: u32_at(5),
            end_log_pos: u32_at(13),
            flags: u16::from_le_bytes([header[17], header[18]]),
        };
        events.push((event, body.to_vec()));
        rest = next;
    }
    events
}
