//! What is written here is read back by the decoder, from logs of real servers.

use super::*;
use crate::decode::Decoder;
use crate::decode::captured::{MARIADB, MYSQL, decode_all};
use crate::decode::event::{Event, EventHeader};
use crate::row::RowChange;
use crate::row::SourceTable;

/// The events of what [`RowsEvent::take`] gave, or of a format description.
fn decoded(decoder: &mut Decoder, mut bytes: &[u8]) -> Event {
    let mut last = None;
    while !bytes.is_empty() {
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let header = EventHeader {
            timestamp: u32_at(0),
            event_type: bytes[4],
            server_id: u32_at(5),
            end_log_pos: u32_at(13),
            flags: u16::from_le_bytes([bytes[17], bytes[18]]),
        };
        let (event, rest) = bytes.split_at(u32_at(9) as usize);
        last = Some(decoder.decode(&header, &event[HEADER..]).unwrap());
        bytes = rest;
    }
    last.unwrap()
}

/// The tables and changes of a log, those within compressed transactions as well.
fn rows(events: Vec<Event>) -> Vec<(std::sync::Arc<SourceTable>, Vec<RowChange>)> {
    let mut found = Vec::new();
    for event in events {
        match event {
            Event::Rows { table, changes, .. } => found.push((table, changes)),
            Event::Payload(inner) => {
                found.extend(rows(inner.into_iter().map(|(_, event)| event).collect()));
            }
            _ => {}
        }
    }
    found
}

fn columns(table: &SourceTable) -> Vec<EventColumn> {
    let columns = table.columns.iter().enumerate();
    let columns = columns.map(|(source, column)| EventColumn {
        kind: column.kind,
        limits: Limits {
            nullable: column.nullable,
            unsigned: column.unsigned == Some(true),
            members: usize::from(u16::MAX),
        },
        source,
    });
    columns.collect()
}

/// Without the optional fields of a table map nothing says that a number is unsigned.
fn unsaid(value: &Value, kind: ColumnKind) -> Value {
    let Value::UInt(number) = *value else {
        return value.clone();
    };
    Value::Int(match kind {
        ColumnKind::Tiny => i64::from(number as u8 as i8),
        ColumnKind::Short => i64::from(number as u16 as i16),
        ColumnKind::Int24 => i64::from((number as u32 as i32) << 8 >> 8),
        ColumnKind::Long => i64::from(number as u32 as i32),
        _ => number.cast_signed(),
    })
}

fn come_back(flavor: Flavor, log: &[u8]) -> usize {
    let mut decoder = Decoder::new(flavor);
    let described = decoded(&mut decoder, &format_description(flavor));
    assert!(matches!(described, Event::FormatDescription { .. }));
    let mut count = 0;
    for (table, changes) in rows(decode_all(flavor, log)) {
        let all: Vec<usize> = (0..table.columns.len()).collect();
        for change in changes {
            let (operation, images) = match &change {
                RowChange::Insert { after } => (Operation::Write, vec![after]),
                RowChange::Update { before, after } => (Operation::Update, vec![before, after]),
                RowChange::Delete { before } => (Operation::Delete, vec![before]),
            };
            let present = vec![all.clone(); images.len()];
            let named = (&*table.database, &*table.name);
            let columns = columns(&table);
            let mut event =
                RowsEvent::begin((flavor, 5), named, &columns, operation, present, true);
            event.push(&images).unwrap();
            let Event::Rows {
                table: back,
                changes,
                flags,
            } = decoded(&mut decoder, &event.take())
            else {
                panic!("no rows");
            };
            assert_eq!((&back.database, &back.name), (&table.database, &table.name));
            assert!(flags.ends_statement() && !flags.no_foreign_key_checks());
            let kinds = |table: &SourceTable| -> Vec<(ColumnKind, bool)> {
                let columns = table.columns.iter();
                columns
                    .map(|column| (column.kind, column.nullable))
                    .collect()
            };
            assert_eq!(kinds(&back), kinds(&table), "{table}");
            let back: Vec<&Row> = changes.iter().flat_map(RowChange::images).collect();
            let expected = images.iter().map(|row| -> Row {
                let values = row.iter().zip(&table.columns);
                values
                    .map(|(value, column)| unsaid(value, column.kind))
                    .collect()
            });
            let expected: Vec<Row> = expected.collect();
            assert_eq!(back, expected.iter().collect::<Vec<_>>(), "{table}");
            count += 1;
        }
    }
    count
}

#[test]
fn rows_of_real_logs_come_back() {
    for (flavor, log) in [(Flavor::MySql, MYSQL), (Flavor::MariaDb, MARIADB)] {
        let count = come_back(flavor, log);
        assert!(count > 50, "{flavor:?}: only {count}");
    }
}

#[test]
fn many_rows_share_an_event_and_the_next_one_begins_anew() {
    let log = rows(decode_all(Flavor::MySql, MYSQL));
    let (table, row) = log
        .iter()
        .find_map(|(table, changes)| match changes.first()? {
            RowChange::Insert { after } => Some((table, after)),
            _ => None,
        })
        .unwrap();
    let mut decoder = Decoder::new(Flavor::MySql);
    let present = vec![(0..table.columns.len()).collect()];
    let columns = columns(table);
    let named = ("d`2", "t");
    let (by, of) = ((Flavor::MySql, 5), Operation::Write);
    let mut event = RowsEvent::begin(by, named, &columns, of, present, false);
    for rows in [3, 1] {
        for _ in 0..rows {
            event.push(&[row]).unwrap();
        }
        assert!(event.bytes() > 0);
        let Event::Rows {
            table,
            changes,
            flags,
        } = decoded(&mut decoder, &event.take())
        else {
            panic!("no rows");
        };
        assert_eq!((&*table.database, changes.len()), ("d`2", rows));
        assert!(flags.no_foreign_key_checks());
        assert_eq!(event.bytes(), 0);
    }
}

#[test]
fn an_image_without_all_columns_says_which_it_has() {
    let kinds = [ColumnKind::Long, ColumnKind::Tiny, ColumnKind::Short];
    let columns: Vec<EventColumn> = kinds
        .into_iter()
        .enumerate()
        .map(|(number, kind)| EventColumn {
            kind,
            limits: Limits {
                nullable: true,
                ..Limits::default()
            },
            // The origin has them in another order.
            source: (number + 1) % 3,
        })
        .collect();
    let present = vec![vec![0], vec![1, 2]];
    let (by, named) = ((Flavor::MariaDb, 1 << 24), ("d", "t"));
    let mut event = RowsEvent::begin(by, named, &columns, Operation::Update, present, true);
    let row: Row = [Value::Int(258), Value::Int(7), Value::Null].into();
    event.push(&[&row, &row]).unwrap();
    let bytes = event.take();
    assert_eq!(bytes[..5], [0, 0, 0, 1, TABLE_MAP]);
    // Count of columns, the two sets of them; then the key, and the NULL of the first of two in front of the other.
    let expected = [3, 0b001, 0b110, 0, 7, 0, 0, 0, 0b01, 2, 1];
    assert!(bytes.ends_with(&expected), "{bytes:?}");
}
