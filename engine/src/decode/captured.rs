//! Tests of the whole decoder with logs that real servers wrote, and with damaged copies of them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::event::{Event, EventHeader, Flavor};
use super::{DecodeError, Decoder};
use crate::apply::literal::write_literal;
use crate::row::{RowChange, SourceTable, Value};
use crate::schema::ColumnSchema;

/// Every column type, DDL, XA, compression, tagged GTIDs, partial JSON.
pub(crate) const MYSQL: &[u8] = include_bytes!("../../fixtures/mysql-9.7.binlog");
/// Every column type, DDL, XA, compression, a sequence, a versioned table, a log without metadata.
pub(crate) const MARIADB: &[u8] = include_bytes!("../../fixtures/mariadb-10.11.binlog");

/// The events of a binlog file, checksums taken off.
fn events(mut file: &[u8]) -> Vec<(EventHeader, Vec<u8>)> {
    file = &file[4..];
    let mut events = Vec::new();
    while !file.is_empty() {
        let u32_at = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        let length = u32_at(9) as usize;
        let header = EventHeader {
            timestamp: u32_at(0),
            event_type: file[4],
            server_id: u32_at(5),
            end_log_pos: u32_at(13),
            flags: u16::from_le_bytes([file[17], file[18]]),
        };
        events.push((header, file[19..length - 4].to_vec()));
        file = &file[length..];
    }
    events
}

pub(crate) fn decode_all(flavor: Flavor, file: &[u8]) -> Vec<Event> {
    let mut decoder = Decoder::new(flavor);
    events(file)
        .iter()
        .map(|(header, body)| {
            decoder.decode(header, body).unwrap_or_else(|error| {
                panic!(
                    "event {} ending at {}: {error}",
                    header.event_type, header.end_log_pos
                )
            })
        })
        .collect()
}

/// How many row changes there are, those in compressed transactions included.
fn changes(events: &[Event]) -> usize {
    events
        .iter()
        .map(|event| match event {
            Event::Rows { changes, .. } => changes.len(),
            Event::Payload(inner) => inner
                .iter()
                .map(|(_, event)| changes(std::slice::from_ref(event)))
                .sum(),
            _ => 0,
        })
        .sum()
}

fn count(events: &[Event], is: impl Fn(&Event) -> bool) -> usize {
    events.iter().filter(|event| is(event)).count()
}

#[test]
fn a_mysql_log() {
    let events = decode_all(Flavor::MySql, MYSQL);
    let tagged = |event: &Event| matches!(event, Event::Gtid { gtid: Some(gtid), .. } if gtid.to_string().contains(":twin:"));
    assert_eq!(count(&events, tagged), 1);
    assert_eq!(
        count(&events, |event| matches!(event, Event::Payload(_))),
        2
    );
    assert_eq!(
        count(&events, |event| matches!(
            event,
            Event::XaPrepare { one_phase: false }
        )),
        2
    );
    assert_eq!(
        count(&events, |event| matches!(
            event,
            Event::XaPrepare { one_phase: true }
        )),
        1
    );
    assert!(changes(&events) > 80, "{}", changes(&events));
    let at_its_time = |event: &Event| match event {
        Event::Query { query, .. } => {
            query.sql.starts_with(b"create table ts")
                && query.session.timestamp == 1_700_000_000
                && query.session.sql_mode.is_some()
        }
        _ => false,
    };
    assert_eq!(count(&events, at_its_time), 1);
}

#[test]
fn a_mariadb_log() {
    let events = decode_all(Flavor::MariaDb, MARIADB);
    let standalone = |event: &Event| {
        matches!(
            event,
            Event::Gtid {
                standalone: true,
                ..
            }
        )
    };
    assert!(count(&events, standalone) > 20);
    assert!(
        count(&events, |event| matches!(
            event,
            Event::Gtid { xa: true, .. }
        )) > 3
    );
    let foreign = |event: &Event| matches!(event, Event::Gtid { gtid: Some(gtid), .. } if gtid.to_string().starts_with("5-77-"));
    assert!(count(&events, foreign) >= 2);
    assert!(changes(&events) > 60, "{}", changes(&events));
    let unpacked = |event: &Event| matches!(event, Event::Query { query, .. } if query.sql.ends_with(b"cc (a int)"));
    assert_eq!(count(&events, unpacked), 1);
}

#[test]
fn unwanted_tables_are_left_undecoded() {
    let mut decoder = Decoder::new(Flavor::MySql);
    decoder.set_table_filter(Box::new(|_, table| table == "times"));
    let mut wanted = 0;
    for (header, body) in events(MYSQL) {
        if let Event::Rows { table, changes, .. } = decoder.decode(&header, &body).unwrap() {
            assert_eq!(&*table.name == "times", !changes.is_empty());
            wanted += usize::from(&*table.name == "times");
        }
    }
    assert_eq!(wanted, 3);
}

#[test]
fn rows_without_a_table_map_are_an_error() {
    let mut decoder = Decoder::new(Flavor::MySql);
    let events = events(MYSQL);
    let (header, body) = events
        .iter()
        .find(|(header, _)| header.event_type == 30)
        .unwrap();
    let error = decoder.decode(header, body).unwrap_err();
    assert!(error.0.contains("no table map"), "{error}");
}

#[test]
fn what_cannot_be_replicated_says_what_to_set() {
    let refuse = |event_type: u8, flags: u16| -> Result<Event, DecodeError> {
        let header = EventHeader {
            timestamp: 0,
            event_type,
            server_id: 1,
            end_log_pos: 4,
            flags,
        };
        Decoder::new(Flavor::MySql).decode(&header, &[0; 40])
    };
    assert!(refuse(5, 0).unwrap_err().0.contains("binlog_format=ROW"));
    assert!(refuse(99, 0).unwrap_err().0.contains("event number 99"));
    assert_eq!(refuse(99, 0x80), Ok(Event::Ignorable));
    // MariaDB's own events mean nothing in a log of MySQL.
    assert!(refuse(162, 0).is_err());
}

#[test]
fn a_row_image_that_is_not_full_is_refused() {
    let mut decoder = Decoder::new(Flavor::MySql);
    for (header, mut body) in events(MYSQL) {
        if header.event_type == 30 {
            // Table number, flags, extra data, then the number of columns and their bitmap.
            body[11] &= !2;
            let error = decoder.decode(&header, &body).unwrap_err();
            assert!(error.0.contains("binlog_row_image=FULL"), "{error}");
            assert!(error.0.contains("column 2"), "{error}");
            return;
        }
        decoder.decode(&header, &body).unwrap();
    }
    panic!("no rows");
}

/// xorshift64*: the same damage for the same seed everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 20) as usize % limit.max(1)
    }
}

fn damage(body: &mut Vec<u8>, dice: &mut Dice) {
    for _ in 0..=dice.below(4) {
        let at = dice.below(body.len());
        match dice.below(6) {
            0 => body.truncate(at),
            1 => body.extend((0..dice.below(40)).map(|byte| byte as u8)),
            2 => {
                *body = (0..dice.below(200))
                    .map(|_| dice.below(256) as u8)
                    .collect()
            }
            _ if body.is_empty() => {}
            3 => body[at] = [0, 1, 0x7f, 0x80, 0xfc, 0xfd, 0xfe, 0xff][dice.below(8)],
            4 => body[at] ^= 1 << dice.below(8),
            _ => body[at] = dice.below(256) as u8,
        }
    }
}

/// Reads all that the event holds, as the apply would.
fn use_up(event: &Event, flavor: Flavor) {
    match event {
        Event::Rows { table, changes, .. } => {
            for change in changes {
                match change {
                    RowChange::Insert { after } => write_all(table, after, flavor),
                    RowChange::Delete { before } => write_all(table, before, flavor),
                    RowChange::Update { before, after } => {
                        write_all(table, before, flavor);
                        write_all(table, after, flavor);
                    }
                }
            }
        }
        Event::Payload(inner) => inner.iter().for_each(|(_, event)| use_up(event, flavor)),
        _ => {}
    }
}

fn write_all(table: &SourceTable, row: &[Value], flavor: Flavor) {
    let types = ["int", "binary", "uuid", "inet4", "varchar"];
    for (index, (value, column)) in row.iter().zip(&table.columns).enumerate() {
        let data_type = types[index % types.len()];
        let target = ColumnSchema {
            name: String::new(),
            data_type: data_type.to_owned(),
            column_type: format!("{data_type}({},{})", index % 9, index % 7),
            unsigned: index % 2 == 0,
            nullable: true,
            charset: (data_type == "varchar").then(|| "utf8mb4".to_owned()),
            collation: None,
            generated: false,
            auto_increment: false,
            ..ColumnSchema::default()
        };
        // Damaged values may have no literal; only a panic would be wrong.
        let _ = write_literal(&mut Vec::new(), value, column, &target, flavor);
    }
}

#[test]
fn damaged_logs_never_panic() {
    let passes = 40;
    let seed: u64 = match std::env::var("TWINLOG_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => 42,
    };
    let (mut sound, mut refused) = (0, 0);
    for (flavor, file) in [(Flavor::MySql, MYSQL), (Flavor::MariaDb, MARIADB)] {
        let events = events(file);
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for pass in 0..passes {
            let mut decoder = Decoder::new(flavor);
            for (index, (header, body)) in events.iter().enumerate() {
                let (mut header, mut body) = (*header, body.clone());
                if dice.below(3) == 0 {
                    damage(&mut body, &mut dice);
                }
                if dice.below(50) == 0 {
                    header.event_type = dice.below(256) as u8;
                }
                let outcome = catch_unwind(AssertUnwindSafe(|| {
                    let decoded = decoder.decode(&header, &body);
                    if let Ok(event) = &decoded {
                        use_up(event, flavor);
                    }
                    decoded.is_ok()
                }));
                match outcome {
                    Ok(true) => sound += 1,
                    Ok(false) => refused += 1,
                    Err(_) => panic!("TWINLOG_SEED={seed}, {flavor:?}, pass {pass}, event {index}"),
                }
            }
        }
    }
    // The damage has to reach far, but not everything.
    assert!(
        sound > 1000 && refused > 1000,
        "{sound} sound, {refused} refused"
    );
}
