//! What events come to.

use super::*;
use crate::decode::event::{LoggedQuery, RowsFlags, SessionContext};
use crate::row::{RowChange, SourceTable, Value};

fn header() -> EventHeader {
    EventHeader {
        timestamp: 7,
        event_type: 0,
        server_id: 1,
        end_log_pos: 100,
        flags: 0,
    }
}

fn begin() -> Event {
    Event::Gtid {
        gtid: None,
        immediate_commit: None,
        original_commit: None,
        standalone: false,
        xa: false,
        two_phase_alter: false,
    }
}

fn query(sql: &str) -> Event {
    let query = LoggedQuery {
        database: "d".into(),
        sql: sql.into(),
        session: SessionContext::default(),
    };
    Event::Query {
        query: Box::new(query),
        error_code: 0,
    }
}

fn row(number: i64, flags: u16) -> Event {
    let table = SourceTable {
        database: "d".into(),
        name: "t".into(),
        columns: Box::default(),
        primary_key: None,
    };
    Event::Rows {
        table: Arc::new(table),
        flags: RowsFlags(flags),
        changes: vec![RowChange::Insert {
            after: Box::new([Value::Int(number)]),
        }],
    }
}

fn assembled(flavor: Flavor, events: Vec<Event>) -> Result<Option<Assembled>> {
    Ok(match groups(flavor, events)?.pop() {
        Some(Group::Transaction(whole)) => Some(whole),
        Some(other) => panic!("{other:?}"),
        None => None,
    })
}

/// Each event stands at a place of its own: the first at 100, the next at 200.
fn groups(flavor: Flavor, events: Vec<Event>) -> Result<Vec<Group>> {
    let folder = tempfile::tempdir().unwrap();
    let room = Room::new(folder.path(), usize::MAX);
    let mut assembler = Assembler::new("a".into(), flavor, "twinlog", room);
    let mut groups = Vec::new();
    for (number, event) in events.into_iter().enumerate() {
        let at = |number: usize| LogPos::new(1, 100 * number as u64);
        groups.extend(assembler.take_event(at(number + 1), at(number + 2), &header(), event)?);
    }
    Ok(groups)
}

fn numbers(events: Vec<Event>) -> Vec<i64> {
    let whole = assembled(Flavor::MariaDb, events).unwrap().unwrap();
    let number = |change: &TableChange| match &change.change {
        RowChange::Insert { after } => match after[0] {
            Value::Int(number) => number,
            _ => panic!("no number"),
        },
        _ => panic!("no insert"),
    };
    whole.changes.iter().map(number).collect()
}

#[test]
fn what_was_rolled_back_is_dropped() {
    let savepoints = || {
        vec![
            begin(),
            row(1, 1),
            query("SAVEPOINT `a`"),
            row(2, 1),
            query("SAVEPOINT b"),
            row(3, 1),
            query("ROLLBACK TO `A`"),
            row(4, 1),
            query("ROLLBACK TO a"),
            row(5, 1),
            Event::Xid,
        ]
    };
    assert_eq!(numbers(savepoints()), [1, 5]);
    // Rows that may have stayed.
    let error = assembled(Flavor::MySql, savepoints()).unwrap_err();
    assert!(error.to_string().contains("rolled back in part"), "{error}");
    let unknown = vec![begin(), row(1, 1), query("ROLLBACK TO b")];
    assert!(assembled(Flavor::MariaDb, unknown).is_err());
    let gone = vec![
        begin(),
        query("SAVEPOINT a"),
        query("SAVEPOINT b"),
        row(1, 1),
        query("ROLLBACK TO a"),
        row(2, 1),
        query("ROLLBACK TO b"),
    ];
    assert!(assembled(Flavor::MariaDb, gone).is_err());
    let all = || vec![begin(), row(1, 1), query("ROLLBACK")];
    assert!(numbers(all()).is_empty());
    assert!(assembled(Flavor::MySql, all()).is_err());
}

#[test]
fn the_last_event_of_a_statement_tells_cascades_from_checks_that_were_off() {
    use ForeignKeyMode::{Engine, Logged, Off};
    let modes = |flags: &[u16]| -> Vec<ForeignKeyMode> {
        let mut events = vec![begin()];
        events.extend(flags.iter().map(|flags| row(1, *flags)));
        events.push(Event::Xid);
        let whole = assembled(Flavor::MySql, events).unwrap().unwrap();
        whole
            .changes
            .iter()
            .map(|change| change.foreign_keys)
            .collect()
    };
    assert_eq!(modes(&[0x12, 0x10, 0x12, 0x11]), [Logged; 4]);
    assert_eq!(
        modes(&[0x11, 0x12, 0x13, 0x12, 0x11]),
        [Logged, Off, Off, Logged, Logged]
    );
    assert_eq!(modes(&[0x02, 0x03, 0x00, 0x01]), [Off, Off, Engine, Engine]);
}

#[test]
fn xa_comes_in_its_two_phases() {
    let prepare = |start: &[&str]| {
        let mut events = vec![begin()];
        events.extend(start.iter().map(|sql| query(sql)));
        events.extend([
            row(1, 1),
            query("SAVEPOINT s"),
            row(2, 1),
            query("XA END X'61',X'',4294967297"),
            Event::XaPrepare { one_phase: false },
        ]);
        events
    };
    let xid = Xid {
        gtrid: b"a".to_vec(),
        bqual: Vec::new(),
        format: 4_294_967_297,
    };
    for (flavor, mut events) in [
        (Flavor::MySql, prepare(&["XA START X'61',X'',4294967297"])),
        (Flavor::MariaDb, prepare(&[])),
    ] {
        let phase = events.len() as u64;
        // In between, a transaction of somebody else.
        events.extend([begin(), row(3, 1), Event::Xid]);
        events.extend([begin(), query("XA COMMIT X'61',X'',4294967297")]);
        events.extend([begin(), query("XA ROLLBACK X'62',X'',1")]);
        let all = groups(flavor, events).unwrap();
        let [
            Group::Prepared(prepared),
            Group::Transaction(between),
            Group::Decided(commit),
            Group::Decided(rollback),
        ] = &all[..]
        else {
            panic!("{all:?}");
        };
        assert_eq!((&prepared.xid, &commit.xid), (&xid, &xid));
        assert_eq!(prepared.whole.changes.len(), 2);
        assert_eq!(prepared.whole.start, LogPos::new(1, 100));
        assert_eq!(prepared.whole.end, LogPos::new(1, 100 * (phase + 1)));
        assert_eq!(between.changes.len(), 1);
        assert!(commit.commit && !rollback.commit);
        assert!(commit.head.changes.is_empty());
        assert_eq!(commit.head.start, LogPos::new(1, 100 * (phase + 4)));
        assert_eq!(commit.head.end, LogPos::new(1, 100 * (phase + 6)));
    }
    // In one phase it is a transaction as any other.
    let mut events = prepare(&["XA START X'61',X'',4294967297"]);
    events.pop();
    events.push(Event::XaPrepare { one_phase: true });
    let whole = assembled(Flavor::MySql, events).unwrap().unwrap();
    assert_eq!(whole.changes.len(), 2);
}

#[test]
fn xa_that_makes_no_sense_is_refused() {
    let end = || query("XA END X'61',X'',1");
    let prepare = || Event::XaPrepare { one_phase: false };
    let mut marker = row(1, 1);
    if let Event::Rows { table, .. } = &mut marker {
        *table = Arc::new(SourceTable {
            database: "twinlog".into(),
            name: MARKER_TABLE.into(),
            columns: Box::default(),
            primary_key: None,
        });
    }
    for (what, events) in [
        ("without an XA END", vec![begin(), row(1, 1), prepare()]),
        ("did not begin", vec![end()]),
        ("did not begin", vec![prepare()]),
        (
            "rows in the second phase",
            vec![begin(), row(1, 1), query("XA COMMIT X'61',X'',1")],
        ),
        (
            "more in it than rows",
            vec![begin(), marker, end(), prepare()],
        ),
        ("as a statement", vec![begin(), query("XA PREPARE 'a'")]),
    ] {
        for flavor in [Flavor::MySql, Flavor::MariaDb] {
            let error = groups(flavor, events.clone()).unwrap_err();
            assert!(error.to_string().contains(what), "{what}: {error}");
        }
    }
    // A file that ends within it: the server died.
    let description = Event::FormatDescription {
        server_version: String::new(),
    };
    let cut = vec![begin(), row(1, 1), end(), description, begin(), Event::Xid];
    assert_eq!(groups(Flavor::MySql, cut).unwrap().len(), 1);
}
