//! What the marker rows cost in a binlog: the bytes of their events.

use std::path::Path;

use anyhow::Context as _;
use twinlog_engine::own_schema::{LANE, MARKER};

/// Length of an event's header.
const HEADER: usize = 19;
const TABLE_MAP: u8 = 19;
/// Rows of MySQL 5.6 and later, and of MariaDB: write, update, delete; and MySQL's partial update.
const ROWS: [u8; 7] = [23, 24, 25, 30, 31, 32, 39];

/// Bytes of the events of the tables `schema`.marker and `schema`.lane in the binlogs of a stopped or quiet server.
///
/// Counts by the events' headers and table ids alone. An encrypted or compressed log shows nothing.
///
/// # Errors
/// A file cannot be read.
pub fn in_folder(folder: &Path, schema: &str) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_log = name
            .strip_prefix("binlog.")
            .is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
        if is_log {
            let file = std::fs::read(entry.path())
                .with_context(|| format!("cannot read {}", entry.path().display()))?;
            bytes += in_log(&file, schema);
        }
    }
    Ok(bytes)
}

fn in_log(file: &[u8], schema: &str) -> u64 {
    // The marker row, and the sign that stands in front where it comes last.
    let tables = [MARKER, LANE].map(|table| {
        let length = |name: &str| u8::try_from(name.len()).unwrap_or(u8::MAX);
        let mut name = vec![length(schema)];
        name.extend(schema.as_bytes());
        name.extend([0, length(table)]);
        name.extend(table.as_bytes());
        name.push(0);
        name
    });
    let mut rest = file.get(4..).unwrap_or_default();
    let mut own: [Option<&[u8]>; 2] = [None; 2];
    let mut bytes = 0;
    while let Some(header) = rest.get(..HEADER) {
        let length = u32::from_le_bytes([header[9], header[10], header[11], header[12]]) as usize;
        let Some(body) = rest.get(HEADER..length) else {
            break;
        };
        let table = body.get(..6);
        let counts = match header[4] {
            TABLE_MAP => {
                let names = body.get(8..).unwrap_or_default();
                let place = tables.iter().position(|name| names.starts_with(name));
                if let Some(place) = place {
                    own[place] = table;
                }
                place.is_some()
            }
            kind if ROWS.contains(&kind) => table.is_some() && own.contains(&table),
            _ => false,
        };
        if counts {
            bytes += length as u64;
        }
        rest = &rest[length..];
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut event = vec![0; HEADER];
        event[4] = kind;
        event[9..13].copy_from_slice(&u32::try_from(HEADER + body.len()).unwrap().to_le_bytes());
        event.extend(body);
        event
    }

    #[test]
    fn only_the_markers_events_count() {
        let map = |id: u8, names: &[u8]| {
            let mut body = vec![id, 0, 0, 0, 0, 0, 1, 0];
            body.extend(names);
            event(TABLE_MAP, &body)
        };
        let rows = |id: u8| event(31, &[id, 0, 0, 0, 0, 0, 1, 0, 9, 9]);
        let marker = map(7, b"\x07twinlog\0\x06marker\0rest");
        let sign = map(9, b"\x07twinlog\0\x04lane\0rest");
        let counted = (marker.len() + sign.len() + 2 * rows(7).len()) as u64;
        let mut log = b"\xfebin".to_vec();
        for event in [
            sign,
            rows(9),
            marker,
            rows(7),
            map(8, b"\x05bench\0\x06marker\0"),
            rows(8),
        ] {
            log.extend(event);
        }
        log.extend(&rows(7)[..20]);
        assert_eq!(in_log(&log, "twinlog"), counted);
        assert_eq!(in_log(b"", "twinlog"), 0);
    }
}
