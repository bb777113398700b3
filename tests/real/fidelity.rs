//! Values survive: what a server logs for every column type, decoded and written as literals into
//! another table, makes the same rows. The second table's own log must then say the same too.

pub(crate) mod columns;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt;
use mysql_async::prelude::Queryable;
use mysql_async::{BinlogStreamRequest, Conn, Opts, OptsBuilder, Params};
use twinlog_cli::sandbox::{Server, ServerKind, ServerOptions};
use twinlog_engine::apply::literal::{SESSION_SETTINGS, write_literal};
use twinlog_engine::decode::Decoder;
use twinlog_engine::decode::event::{Event, EventHeader, Flavor};
use twinlog_engine::row::{Row, RowChange, SourceTable, Value};
use twinlog_engine::schema::ColumnSchema;

use crate::base;
use columns::{Dice, Table, tables};

#[tokio::test]
async fn every_type_survives_on_mariadb() {
    round_trips(ServerKind::MariaDb, Flavor::MariaDb)
        .await
        .unwrap();
}

#[tokio::test]
async fn every_type_survives_on_mysql() {
    round_trips(ServerKind::MySql, Flavor::MySql).await.unwrap();
}

/// Server settings that change what the log looks like, and an event number that shows that they did.
fn variants(flavor: Flavor) -> &'static [(&'static str, u8)] {
    match flavor {
        Flavor::MySql => &[
            ("binlog_row_metadata=FULL", 31),
            ("binlog_row_metadata=MINIMAL", 31),
            (
                "binlog_row_metadata=FULL, binlog_transaction_compression=ON",
                40,
            ),
            (
                "binlog_row_metadata=FULL, binlog_row_value_options=PARTIAL_JSON",
                39,
            ),
        ],
        Flavor::MariaDb => &[
            ("binlog_row_metadata=FULL", 24),
            ("binlog_row_metadata=MINIMAL", 24),
            ("binlog_row_metadata=NO_LOG", 24),
            (
                "binlog_row_metadata=FULL, log_bin_compress=ON, log_bin_compress_min_len=10",
                167,
            ),
        ],
    }
}

/// What the variants change, back to the servers' defaults.
fn defaults(flavor: Flavor) -> &'static str {
    match flavor {
        Flavor::MySql => {
            "binlog_row_metadata=FULL, binlog_transaction_compression=OFF, \
             binlog_row_value_options=''"
        }
        Flavor::MariaDb => "binlog_row_metadata=FULL, log_bin_compress=OFF",
    }
}

/// Writes, decodes, writes again and compares, with each of the server's log forms.
async fn round_trips(kind: ServerKind, flavor: Flavor) -> Result<()> {
    let server = Server::start(kind, base(), ServerOptions::node("fidelity", 1, 1)).await?;
    let seed = match std::env::var("TWINLOG_SEED") {
        Ok(seed) => seed.parse()?,
        Err(_) => 20_240_229,
    };
    let opts: Opts = OptsBuilder::from_opts(server.opts())
        .client_found_rows(true)
        .into();
    let mut admin = Conn::new(opts.clone()).await?;
    for (index, (variant, event_type)) in variants(flavor).iter().enumerate() {
        set_global(&mut admin, defaults(flavor)).await?;
        set_global(&mut admin, variant).await?;
        let outcome = round_trip(&opts, flavor, seed + index as u64, *event_type).await;
        set_global(&mut admin, defaults(flavor)).await?;
        outcome.with_context(|| format!("{flavor:?}, {variant}, TWINLOG_SEED={seed}"))?;
    }
    admin.disconnect().await?;
    Ok(())
}

async fn set_global(conn: &mut Conn, settings: &str) -> Result<()> {
    let settings = settings.replace(", ", ", GLOBAL ");
    conn.query_drop(format!("SET GLOBAL {settings}")).await?;
    Ok(())
}

async fn round_trip(opts: &Opts, flavor: Flavor, seed: u64, event_type: u8) -> Result<()> {
    const ROWS: usize = 150;
    let tables = tables(flavor);
    let mut conn = Conn::new(opts.clone()).await?;
    conn.query_drop(
        "SET NAMES utf8mb4, sql_mode='ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO', \
         time_zone='+05:30'",
    )
    .await?;
    for database in ["fidelity_src", "fidelity_dst"] {
        conn.query_drop(format!("DROP DATABASE IF EXISTS {database}"))
            .await?;
        conn.query_drop(format!("CREATE DATABASE {database} CHARACTER SET utf8mb4"))
            .await?;
        for table in &tables {
            conn.query_drop(table.create(database)).await?;
        }
    }
    conn.query_drop(
        "CREATE TABLE fidelity_src.opaque (c1 TIMESTAMP(6) NULL, c2 BLOB, c3 TINYBLOB, \
         c4 MEDIUMBLOB, c5 BIT(9), c6 BINARY(3), c7 LONGBLOB)",
    )
    .await?;
    conn.query_drop(
        "INSERT INTO fidelity_src.opaque VALUES ('2024-02-29 10:11:12.000013', x'ff00', 'tiny', \
         'medium', 257, 'a', 'long')",
    )
    .await?;

    let start = position(&mut conn, flavor).await?;
    let mut dice = Dice::new(seed);
    for table in &tables {
        workload(&mut conn, "fidelity_src", table, (0, ROWS), &mut dice)
            .await
            .with_context(|| format!("filling {}", table.name))?;
    }
    let middle = position(&mut conn, flavor).await?;
    let (written, seen) = read_log(opts, flavor, &start, &middle, "fidelity_src").await?;
    ensure!(seen.contains(&event_type), "only events {seen:?}");
    ensure!(
        written.len() > ROWS * tables.len(),
        "only {} changes",
        written.len()
    );

    let mut target = Conn::new(opts.clone()).await?;
    target.query_drop(SESSION_SETTINGS).await?;
    apply(&mut target, flavor, &written).await?;
    let end = position(&mut conn, flavor).await?;
    let (copied, _) = read_log(opts, flavor, &middle, &end, "fidelity_dst").await?;

    let (source, copy) = (last_images(&written)?, last_images(&copied)?);
    ensure!(
        source.len() == copy.len(),
        "{} and {} rows",
        source.len(),
        copy.len()
    );
    for (key, (table, row)) in &source {
        let Some((_, other)) = copy.get(key) else {
            bail!("{key:?} is missing in the copy");
        };
        for (index, (one, two)) in row.iter().zip(other).enumerate() {
            ensure!(
                same(one, two),
                "{key:?}, column {index} ({:?}): {one:?} became {two:?}",
                table.columns[index]
            );
        }
    }
    for table in &tables {
        compare(&mut conn, table).await?;
    }
    target.disconnect().await?;
    conn.disconnect().await?;
    Ok(())
}

/// Inserts, updates (keys too) and deletes, with ids from `first` on.
pub(crate) async fn workload(
    conn: &mut Conn,
    database: &str,
    table: &Table,
    (first, rows): (usize, usize),
    dice: &mut Dice,
) -> Result<()> {
    let name = format!("{database}.{}", table.name);
    conn.query_drop("BEGIN").await?;
    for id in first..first + rows {
        let values: Vec<(&str, String)> = table
            .columns
            .iter()
            .filter_map(|column| Some((column.name.as_str(), column.value(dice)?)))
            .collect();
        let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
        let values: Vec<&str> = values.iter().map(|(_, value)| value.as_str()).collect();
        let insert = format!(
            "INSERT INTO {name} (id, {}) VALUES ({id}, {})",
            names.join(", "),
            values.join(", ")
        );
        run(conn, &insert).await?;
    }
    conn.query_drop("COMMIT").await?;
    for _ in 0..rows {
        let column = &table.columns[dice.below(table.columns.len())];
        let id = first + dice.below(rows);
        if let Some(value) = column.value(dice) {
            run(
                conn,
                &format!("UPDATE {name} SET {}={value} WHERE id={id}", column.name),
            )
            .await?;
        }
    }
    if table.name == "documents" {
        partial_updates(conn, &name, (first, rows), dice).await?;
    }
    for _ in 0..rows / 5 {
        let id = first + dice.below(rows);
        run(conn, &format!("DELETE FROM {name} WHERE id={id}")).await?;
        let id = first + dice.below(rows);
        run(
            conn,
            &format!("UPDATE {name} SET id=id+{rows}+10 WHERE id={id}"),
        )
        .await?;
    }
    Ok(())
}

/// Updates that MySQL may log as changes of a document.
async fn partial_updates(
    conn: &mut Conn,
    name: &str,
    (first, rows): (usize, usize),
    dice: &mut Dice,
) -> Result<()> {
    for _ in 0..rows {
        let number = dice.below(100_000);
        let change = match dice.below(7) {
            0 => format!("c3=JSON_SET(c3, '$.a[0]', {number})"),
            1 => format!("c3=JSON_REPLACE(c3, '$.\"long key \\\\\"q\\\\\"\"', '{number}')"),
            2 => format!("c3=JSON_SET(c3, '$.\"new key\"', JSON_ARRAY({number}, 1.50))"),
            3 => "c3=JSON_REMOVE(c3, '$.a[1]')".to_owned(),
            4 => format!("c3=JSON_SET(c3, '$.a[9]', {number}, '$.b', DATE'2024-01-01')"),
            5 => "c3=JSON_REMOVE(c3, '$.\"new key\"', '$.b')".to_owned(),
            _ => format!("c1={number}, c3=JSON_SET(c3, '$.a[0]', 'x'), c0=JSON_SET(c0, '$[0]', 2)"),
        };
        let id = first + dice.below(rows);
        run(conn, &format!("UPDATE {name} SET {change} WHERE id={id}")).await?;
    }
    Ok(())
}

async fn run(conn: &mut Conn, sql: &str) -> Result<()> {
    let shown: String = sql.chars().take(2000).collect();
    conn.query_drop(sql).await.with_context(|| shown)
}

async fn position(conn: &mut Conn, flavor: Flavor) -> Result<(String, u64)> {
    let statement = match flavor {
        Flavor::MySql => "SHOW BINARY LOG STATUS",
        Flavor::MariaDb => "SHOW MASTER STATUS",
    };
    let row: Option<mysql_async::Row> = conn.query_first(statement).await?;
    let row = row.context("the server has no binlog")?;
    Ok((
        row.get(0).context("no file")?,
        row.get(1).context("no position")?,
    ))
}

type Changes = Vec<(Arc<SourceTable>, RowChange)>;

/// Decodes the log between two positions; gives the changes in one database and the event numbers.
async fn read_log(
    opts: &Opts,
    flavor: Flavor,
    start: &(String, u64),
    end: &(String, u64),
    database: &'static str,
) -> Result<(Changes, BTreeSet<u8>)> {
    let mut conn = Conn::new(opts.clone()).await?;
    if flavor == Flavor::MariaDb {
        conn.query_drop("SET @mariadb_slave_capability=4").await?;
    }
    let request = BinlogStreamRequest::new(4711)
        .with_non_blocking()
        .with_filename(start.0.as_bytes())
        .with_pos(start.1);
    let mut stream = conn.get_binlog_stream(request).await?;
    let mut decoder = Decoder::new(flavor);
    decoder.set_table_filter(Box::new(move |db, _| db == database));
    let mut changes = Vec::new();
    let mut seen = BTreeSet::new();
    let mut file = start.0.clone();
    while let Some(event) = stream.next().await {
        let event = event?;
        if !event.footer().get_checksum_enabled() {
            // The driver unpacks a compressed transaction too, behind the event that holds it.
            continue;
        }
        let raw = event.header();
        let header = EventHeader {
            timestamp: raw.timestamp(),
            event_type: raw.event_type_raw(),
            server_id: raw.server_id(),
            end_log_pos: raw.log_pos(),
            flags: raw.flags_raw(),
        };
        let decoded = decoder.decode(&header, event.data()).with_context(|| {
            format!("{file}:{} (type {})", header.end_log_pos, header.event_type)
        })?;
        if let Event::Rotate { file: next, .. } = &decoded {
            file.clone_from(next);
        }
        seen.insert(header.event_type);
        collect(decoded, database, &mut changes);
        if file == end.0 && u64::from(header.end_log_pos) >= end.1 {
            break;
        }
    }
    Ok((changes, seen))
}

fn collect(event: Event, database: &str, changes: &mut Changes) {
    match event {
        Event::Rows {
            table,
            changes: rows,
            ..
        } if *table.database == *database => {
            changes.extend(rows.into_iter().map(|change| (Arc::clone(&table), change)));
        }
        Event::Payload(events) => {
            for (_, event) in events {
                collect(event, database, changes);
            }
        }
        _ => {}
    }
}

/// Writes the changes to the other database, each before image compared in full.
async fn apply(conn: &mut Conn, flavor: Flavor, changes: &Changes) -> Result<()> {
    let mut schemas: HashMap<String, Vec<ColumnSchema>> = HashMap::new();
    conn.query_drop("BEGIN").await?;
    for (table, change) in changes {
        let name = table.name.to_string();
        if name == "opaque" {
            continue;
        }
        if !schemas.contains_key(&name) {
            let schema = schema(conn, &name).await?;
            schemas.insert(name.clone(), schema);
        }
        let schema = &schemas[&name];
        let sql = statement(table, change, schema, flavor)
            .with_context(|| format!("{table}: {change:?}"))?;
        conn.query_drop(&sql)
            .await
            .with_context(|| format!("{table}: {}", String::from_utf8_lossy(&sql)))?;
        if conn.affected_rows() != 1 {
            let rows = conn.affected_rows();
            let culprits = culprits(conn, table, change, schema, flavor).await?;
            bail!(
                "{rows} rows of {table}, because of {culprits:?}: {}",
                String::from_utf8_lossy(&sql)
            );
        }
    }
    conn.query_drop("COMMIT").await?;
    Ok(())
}

/// The columns whose literal does not compare equal to what the row holds.
async fn culprits(
    conn: &mut Conn,
    table: &SourceTable,
    change: &RowChange,
    schema: &[ColumnSchema],
    flavor: Flavor,
) -> Result<Vec<String>> {
    let (RowChange::Update { before, .. } | RowChange::Delete { before }) = change else {
        bail!("an insert of no row");
    };
    let mut id = Vec::new();
    let mut culprits = Vec::new();
    for ((value, source), target) in before.iter().zip(&table.columns).zip(schema) {
        let mut literal = Vec::new();
        if let Err(error) = write_literal(&mut literal, value, source, target, flavor) {
            bail!(error);
        }
        if id.is_empty() {
            id = literal;
            continue;
        }
        let (literal, id) = (
            String::from_utf8_lossy(&literal),
            String::from_utf8_lossy(&id),
        );
        let column = &target.name;
        let found: Option<Option<bool>> = conn
            .query_first(format!(
                "SELECT {column} <=> {literal} FROM fidelity_dst.{} WHERE id={id}",
                table.name
            ))
            .await?;
        if found != Some(Some(true)) {
            culprits.push(format!(
                "{column} {} {literal} {value:?}",
                target.column_type
            ));
        }
    }
    Ok(culprits)
}

fn statement(
    table: &SourceTable,
    change: &RowChange,
    schema: &[ColumnSchema],
    flavor: Flavor,
) -> Result<Vec<u8>> {
    let name = format!("fidelity_dst.{}", table.name);
    let mut sql = Vec::new();
    let list = |sql: &mut Vec<u8>, row: &Row, between: &str, equals: &str| -> Result<()> {
        let mut first = true;
        for ((value, source), target) in row.iter().zip(&table.columns).zip(schema) {
            if target.generated && equals == "=" {
                continue;
            }
            // At the end of its range a FLOAT(M,D) holds more than it accepts; a VECTOR
            // cannot be compared.
            if equals == "<=>"
                && (target.column_type.starts_with("float(") || target.data_type == "vector")
            {
                continue;
            }
            if !first {
                sql.extend_from_slice(between.as_bytes());
            }
            first = false;
            sql.extend_from_slice(format!("{}{equals}", target.name).as_bytes());
            if let Err(error) = write_literal(sql, value, source, target, flavor) {
                bail!(error);
            }
        }
        Ok(())
    };
    match change {
        RowChange::Insert { after } => {
            sql.extend_from_slice(format!("INSERT INTO {name} SET ").as_bytes());
            list(&mut sql, after, ", ", "=")?;
        }
        RowChange::Update { before, after } => {
            sql.extend_from_slice(format!("UPDATE {name} SET ").as_bytes());
            list(&mut sql, after, ", ", "=")?;
            sql.extend_from_slice(b" WHERE ");
            list(&mut sql, before, " AND ", "<=>")?;
        }
        RowChange::Delete { before } => {
            sql.extend_from_slice(format!("DELETE FROM {name} WHERE ").as_bytes());
            list(&mut sql, before, " AND ", "<=>")?;
        }
    }
    Ok(sql)
}

async fn schema(conn: &mut Conn, table: &str) -> Result<Vec<ColumnSchema>> {
    type Columns = (
        String,
        String,
        String,
        Option<String>,
        Option<String>,
        String,
    );
    let columns: Vec<Columns> = conn
        .exec(
            "SELECT CAST(column_name AS CHAR), CAST(data_type AS CHAR), CAST(column_type AS CHAR), \
             character_set_name, collation_name, CAST(extra AS CHAR) \
             FROM information_schema.columns \
             WHERE table_schema='fidelity_dst' AND table_name=? ORDER BY ordinal_position",
            Params::Positional(vec![table.into()]),
        )
        .await?;
    Ok(columns
        .into_iter()
        .map(
            |(name, data_type, column_type, charset, collation, extra)| ColumnSchema {
                unsigned: column_type.contains("unsigned"),
                generated: extra.contains("GENERATED"),
                name,
                data_type,
                column_type,
                nullable: true,
                charset,
                collation,
                auto_increment: false,
                ..ColumnSchema::default()
            },
        )
        .collect())
}

type Images = HashMap<(String, u64), (Arc<SourceTable>, Row)>;

/// The rows that the changes leave.
fn last_images(changes: &Changes) -> Result<Images> {
    let key = |table: &SourceTable, row: &Row| {
        let id = match row.first() {
            Some(Value::Int(id)) => *id as u64,
            Some(Value::UInt(id)) => *id,
            other => bail!("the key of {table} is {other:?}"),
        };
        Ok((table.name.to_string(), id))
    };
    let mut images = HashMap::new();
    for (table, change) in changes.iter().filter(|(table, _)| *table.name != *"opaque") {
        if let RowChange::Update { before, .. } | RowChange::Delete { before } = change {
            ensure!(
                images.remove(&key(table, before)?).is_some(),
                "{table} has no such row: {before:?}"
            );
        }
        if let RowChange::Update { after, .. } | RowChange::Insert { after } = change {
            images.insert(key(table, after)?, (Arc::clone(table), after.clone()));
        }
    }
    Ok(images)
}

/// Equal to the bit: zeros have signs.
fn same(one: &Value, two: &Value) -> bool {
    match (one, two) {
        (Value::Float(one), Value::Float(two)) => one.to_bits() == two.to_bits(),
        (Value::Double(one), Value::Double(two)) => one.to_bits() == two.to_bits(),
        _ => one == two,
    }
}

/// Compares the two tables as the server sees them.
async fn compare(conn: &mut Conn, table: &Table) -> Result<()> {
    let of = table.name;
    let sums: Vec<(String, Option<u64>)> = conn
        .query(format!(
            "CHECKSUM TABLE fidelity_src.{of}, fidelity_dst.{of}"
        ))
        .await?;
    ensure!(
        sums.len() == 2 && sums[0].1.is_some() && sums[0].1 == sums[1].1,
        "CHECKSUM TABLE {sums:?}"
    );
    let mut differences = Vec::new();
    for column in &table.columns {
        let name = &column.name;
        let bytes = ["VECTOR", "GEO", "POINT", "POLYGON", "MULTI"];
        if bytes.iter().any(|kind| column.definition.starts_with(kind)) {
            differences.push(format!("NOT (HEX(s.{name}) <=> HEX(d.{name}))"));
            continue;
        }
        differences.push(format!(
            "NOT (s.{name} <=> d.{name}) OR NOT (HEX(CAST(s.{name} AS CHAR CHARACTER SET utf8mb4)) \
             <=> HEX(CAST(d.{name} AS CHAR CHARACTER SET utf8mb4)))"
        ));
    }
    let different: Vec<u64> = conn
        .query(format!(
            "SELECT s.id FROM fidelity_src.{of} s LEFT JOIN fidelity_dst.{of} d USING (id) \
             WHERE d.id IS NULL OR {}",
            differences.join(" OR ")
        ))
        .await
        .with_context(|| format!("comparing {of}"))?;
    ensure!(different.is_empty(), "rows {different:?} of {of} differ");
    Ok(())
}
