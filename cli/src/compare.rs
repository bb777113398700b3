//! Compares every replicated table of two servers, and says which rows differ.
//!
//! Nothing is locked: the answer means something only while nobody writes. It knows nothing of
//! replication; `includes` says which databases count.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use anyhow::Context as _;
use mysql_async::prelude::Queryable as _;
use mysql_async::{BinaryProtocol, Conn, Opts, QueryResult, Row, Value};
use serde::Serialize;
use twinlog_engine::error::plainly;

/// How many differing rows of one table are named.
const NAMED_DIFFERENCES: usize = 20;
/// With more rows than this that only one side has been seen to have, the search for differences
/// ends: it keeps them in memory.
const MOST_UNMATCHED: usize = 100_000;

/// The outcome for all tables.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Whether both servers have the same tables with the same rows.
    pub equal: bool,
    /// Every table that either server has, by name.
    pub tables: Vec<TableComparison>,
    /// Milliseconds for everything.
    pub ms: u64,
}

impl Comparison {
    /// Rows of the left server.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.tables.iter().filter_map(|table| table.rows.0).sum()
    }

    /// Tables that are not equal.
    pub fn differing(&self) -> impl Iterator<Item = &TableComparison> {
        self.tables.iter().filter(|table| !table.equal)
    }
}

/// The outcome for one table. Pairs are left and right.
#[derive(Debug, Clone, Serialize)]
pub struct TableComparison {
    /// Its database.
    pub database: String,
    /// Its name.
    pub table: String,
    /// Whether it is there on both sides with the same columns and rows.
    pub equal: bool,
    /// How many rows; `None` where the table is missing.
    pub rows: (Option<u64>, Option<u64>),
    /// The servers' own checksums, where they can be compared with each other.
    pub checksums: Option<(u64, u64)>,
    /// Milliseconds.
    pub ms: u64,
    /// What is wrong besides rows (a missing table, other columns).
    pub problem: Option<String>,
    /// The first rows that differ.
    pub differences: Vec<Difference>,
    /// Whether there are more than those.
    pub more_differences: bool,
}

/// One row that is not the same.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct Difference {
    /// Values of its key, as SQL; of all columns where the table has no primary key.
    pub key: String,
    /// In which way.
    pub kind: DifferenceKind,
}

/// In which way a row is not the same.
#[derive(Debug, Clone, Copy, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum DifferenceKind {
    /// The right server does not have it.
    OnlyLeft,
    /// The left server does not have it.
    OnlyRight,
    /// Both have it, with other values.
    Differs,
}

/// A column as far as it matters for comparing: name, type, collation, nullable.
type Column = (String, String, Option<String>, String);

/// Compares the tables of all databases for which `includes` says yes. Each server comes with the
/// name that messages call it by.
///
/// # Errors
/// A server cannot be reached, or refuses to show its tables. A difference is no error.
pub async fn compare(
    (left_name, left): (&str, Opts),
    (right_name, right): (&str, Opts),
    includes: &(dyn Fn(&str) -> bool + Sync),
) -> anyhow::Result<Comparison> {
    let begun = Instant::now();
    let (left, right) = tokio::join!(Side::open(left_name, left), Side::open(right_name, right));
    let (mut left, mut right) = (
        left.with_context(|| format!("node {left_name}"))?,
        right.with_context(|| format!("node {right_name}"))?,
    );
    // The two products compute different checksums.
    let checksums = left.mariadb == right.mariadb;
    let (in_left, in_right) = tokio::join!(left.tables(), right.tables());
    let (in_left, in_right) = (in_left?, in_right?);
    let all: BTreeSet<&(String, String)> = in_left
        .iter()
        .chain(&in_right)
        .filter(|(database, _)| includes(database))
        .collect();
    let mut tables = Vec::new();
    for name in all {
        let begun = Instant::now();
        let mut table = TableComparison {
            database: name.0.clone(),
            table: name.1.clone(),
            equal: false,
            rows: (None, None),
            checksums: None,
            ms: 0,
            problem: None,
            differences: Vec::new(),
            more_differences: false,
        };
        compare_table(
            (&mut left, in_left.contains(name)),
            (&mut right, in_right.contains(name)),
            checksums,
            &mut table,
        )
        .await
        .with_context(|| format!("comparing {}.{}", name.0, name.1))?;
        table.ms = elapsed_ms(begun);
        tables.push(table);
    }
    let (l, r) = tokio::join!(left.conn.disconnect(), right.conn.disconnect());
    l.and(r)?;
    Ok(Comparison {
        equal: tables.iter().all(|table| table.equal),
        tables,
        ms: elapsed_ms(begun),
    })
}

fn elapsed_ms(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}

async fn compare_table(
    (left, in_left): (&mut Side, bool),
    (right, in_right): (&mut Side, bool),
    checksums: bool,
    table: &mut TableComparison,
) -> anyhow::Result<()> {
    let name = format!("{}.{}", quote(&table.database), quote(&table.table));
    let (l, r) = tokio::join!(left.count(&name, in_left), right.count(&name, in_right));
    table.rows = (l?, r?);
    if !(in_left && in_right) {
        let lacking = if in_left { &right.name } else { &left.name };
        table.problem = Some(format!("node {lacking} has no such table"));
        return Ok(());
    }
    let (database, own) = (table.database.clone(), table.table.clone());
    let (l, r) = tokio::join!(
        left.columns(&database, &own),
        right.columns(&database, &own)
    );
    let (left_columns, right_columns) = (l?, r?);
    let named = (left.name.as_str(), left_columns.as_slice());
    if let Some(problem) = columns_differ(named, (&right.name, &right_columns)) {
        table.problem = Some(problem);
        return Ok(());
    }
    if checksums {
        let (l, r) = tokio::join!(left.checksum(&name), right.checksum(&name));
        let (l, r) = (l?, r?);
        table.checksums = Some((l, r));
        if l == r && table.rows.0 == table.rows.1 {
            table.equal = true;
            return Ok(());
        }
    }
    // Different checksums do not prove different rows: the order of the columns counts, for one.
    let key = left.key(&database, &own).await?;
    let columns: Vec<&str> = left_columns
        .iter()
        .map(|(name, ..)| name.as_str())
        .collect();
    find_differences(left, right, &name, &columns, &key, table).await?;
    table.equal = table.differences.is_empty() && table.rows.0 == table.rows.1;
    Ok(())
}

fn columns_differ(
    (left_name, left): (&str, &[Column]),
    (right_name, right): (&str, &[Column]),
) -> Option<String> {
    let by_name = |columns: &[Column]| -> BTreeMap<String, String> {
        columns
            .iter()
            .map(|(name, kind, collation, nullable)| {
                let collation = collation.as_deref().unwrap_or("-");
                (
                    name.to_lowercase(),
                    format!("{kind}, collation {collation}, nullable {nullable}"),
                )
            })
            .collect()
    };
    let (left, right) = (by_name(left), by_name(right));
    let names: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    let differing: Vec<String> = names
        .into_iter()
        .filter(|name| left.get(*name) != right.get(*name))
        .map(|name| {
            let text = |side: &BTreeMap<String, String>| {
                side.get(name).map_or("missing", String::as_str).to_owned()
            };
            format!(
                "{name}: {} at {left_name}, {} at {right_name}",
                text(&left),
                text(&right)
            )
        })
        .collect();
    (!differing.is_empty()).then(|| format!("columns differ: {}", differing.join("; ")))
}

/// Reads both tables side by side in key order. A row waits in memory until its partner comes from
/// the other side, which is at once unless rows are missing.
async fn find_differences(
    left: &mut Side,
    right: &mut Side,
    name: &str,
    columns: &[&str],
    key: &[String],
    table: &mut TableComparison,
) -> anyhow::Result<()> {
    let list = |names: &mut dyn Iterator<Item = &str>| -> String {
        names.map(quote).collect::<Vec<_>>().join(", ")
    };
    // Without a key the whole row is the key, and equal rows are counted.
    let (selected, order, key_length) = if key.is_empty() {
        (
            list(&mut columns.iter().copied()),
            String::new(),
            columns.len(),
        )
    } else {
        let keys = list(&mut key.iter().map(String::as_str));
        let all = list(&mut columns.iter().copied());
        (
            format!("{keys}, {all}"),
            format!(" ORDER BY {keys}"),
            key.len(),
        )
    };
    // Prepared, because a FLOAT read as text has lost digits.
    let sql = format!("SELECT {selected} FROM {name}{order}");
    let (l, r) = tokio::join!(
        left.conn.exec_iter(sql.as_str(), ()),
        right.conn.exec_iter(sql.as_str(), ())
    );
    let (mut from_left, mut from_right) = (l?, r?);
    let mut unmatched = Unmatched::default();
    let mut differs = Vec::new();
    loop {
        let (l, r) = tokio::join!(next(&mut from_left), next(&mut from_right));
        let (l, r) = (l?, r?);
        if l.is_none() && r.is_none() {
            break;
        }
        for (side, row) in [(0, l), (1, r)] {
            let Some(row) = row else { continue };
            let key_text = key_text(&row[..key_length]);
            if unmatched.add(side, &key_text, row) == Met::Differs {
                differs.push(key_text);
            }
        }
        if unmatched.count > MOST_UNMATCHED || differs.len() > NAMED_DIFFERENCES {
            table.more_differences = true;
            break;
        }
    }
    // Dropping a half-read result would leave its rows on the connection.
    from_left.drop_result().await?;
    from_right.drop_result().await?;

    let mut found: Vec<Difference> = differs
        .into_iter()
        .map(|key| Difference {
            key,
            kind: DifferenceKind::Differs,
        })
        .collect();
    // After a search that ended early a row without a partner may have one further on.
    if !table.more_differences {
        let kinds = [DifferenceKind::OnlyLeft, DifferenceKind::OnlyRight];
        for (waiting, kind) in unmatched.waiting.iter().zip(kinds) {
            let mut keys: Vec<&String> = waiting.keys().collect();
            keys.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
            found.extend(keys.into_iter().map(|key| Difference {
                key: key.clone(),
                kind,
            }));
        }
    }
    if found.len() > NAMED_DIFFERENCES {
        found.truncate(NAMED_DIFFERENCES);
        table.more_differences = true;
    }
    if found.is_empty() && table.more_differences {
        table.problem = Some(format!(
            "more than {MOST_UNMATCHED} rows without a partner; the search was given up"
        ));
    }
    table.differences = found;
    Ok(())
}

/// Rows whose partner has not come yet, by key; for left and for right.
#[derive(Default)]
struct Unmatched {
    waiting: [HashMap<String, Vec<Vec<Value>>>; 2],
    count: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Met {
    Nobody,
    Equal,
    Differs,
}

impl Unmatched {
    fn add(&mut self, side: usize, key: &str, row: Vec<Value>) -> Met {
        let others = &mut self.waiting[1 - side];
        if let Some(waiting) = others.get_mut(key) {
            let partner = waiting.pop();
            if waiting.is_empty() {
                others.remove(key);
            }
            self.count -= 1;
            return if partner.is_some_and(|partner| partner == row) {
                Met::Equal
            } else {
                Met::Differs
            };
        }
        self.waiting[side]
            .entry(key.to_owned())
            .or_default()
            .push(row);
        self.count += 1;
        Met::Nobody
    }
}

async fn next(
    result: &mut QueryResult<'_, 'static, BinaryProtocol>,
) -> anyhow::Result<Option<Vec<Value>>> {
    Ok(result.next().await?.map(Row::unwrap))
}

fn key_text(values: &[Value]) -> String {
    let texts: Vec<String> = values.iter().map(|value| value.as_sql(true)).collect();
    texts.join(", ")
}

fn quote(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

struct Side {
    name: String,
    conn: Conn,
    mariadb: bool,
}

impl Side {
    async fn open(name: &str, opts: Opts) -> anyhow::Result<Self> {
        let address = format!("{}:{}", opts.ip_or_hostname(), opts.tcp_port());
        let mut conn = Conn::new(opts)
            .await
            .map_err(|error| anyhow::anyhow!(plainly(&error)))
            .with_context(|| format!("cannot connect to {address}"))?;
        // Bytes as they are stored, and TIMESTAMP the same on both sides.
        conn.query_drop("SET character_set_results = NULL, time_zone = '+00:00'")
            .await?;
        let version: Option<String> = conn.query_first("SELECT VERSION()").await?;
        let mariadb = version.is_some_and(|version| version.contains("MariaDB"));
        Ok(Self {
            name: name.to_owned(),
            conn,
            mariadb,
        })
    }

    async fn tables(&mut self) -> anyhow::Result<BTreeSet<(String, String)>> {
        let tables: Vec<(String, String)> = self
            .conn
            .query(
                "SELECT table_schema, table_name FROM information_schema.tables
                 WHERE table_type = 'BASE TABLE'",
            )
            .await?;
        Ok(tables.into_iter().collect())
    }

    async fn columns(&mut self, database: &str, table: &str) -> anyhow::Result<Vec<Column>> {
        Ok(self
            .conn
            .exec(
                "SELECT column_name, CAST(column_type AS CHAR), collation_name, is_nullable
                 FROM information_schema.columns
                 WHERE table_schema = ? AND table_name = ? ORDER BY ordinal_position",
                (database, table),
            )
            .await?)
    }

    async fn key(&mut self, database: &str, table: &str) -> anyhow::Result<Vec<String>> {
        Ok(self
            .conn
            .exec(
                "SELECT column_name FROM information_schema.statistics
                 WHERE table_schema = ? AND table_name = ? AND index_name = 'PRIMARY'
                 ORDER BY seq_in_index",
                (database, table),
            )
            .await?)
    }

    async fn count(&mut self, name: &str, exists: bool) -> anyhow::Result<Option<u64>> {
        if !exists {
            return Ok(None);
        }
        Ok(self
            .conn
            .query_first(format!("SELECT COUNT(*) FROM {name}"))
            .await?)
    }

    async fn checksum(&mut self, name: &str) -> anyhow::Result<u64> {
        let row: Option<(String, Option<u64>)> = self
            .conn
            .query_first(format!("CHECKSUM TABLE {name} EXTENDED"))
            .await?;
        row.and_then(|(_, checksum)| checksum)
            .with_context(|| format!("the server gives no checksum of {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[i64]) -> Vec<Value> {
        values.iter().map(|value| Value::Int(*value)).collect()
    }

    #[test]
    fn partners_meet_whichever_comes_first() {
        let mut unmatched = Unmatched::default();
        assert_eq!(unmatched.add(0, "1", row(&[1, 5])), Met::Nobody);
        assert_eq!(unmatched.add(1, "2", row(&[2, 6])), Met::Nobody);
        assert_eq!(unmatched.add(1, "1", row(&[1, 5])), Met::Equal);
        assert_eq!(unmatched.add(0, "2", row(&[2, 7])), Met::Differs);
        assert_eq!(unmatched.count, 0);
    }

    #[test]
    fn equal_rows_without_a_key_are_counted() {
        let mut unmatched = Unmatched::default();
        for side in [0, 0, 1] {
            unmatched.add(side, "7", row(&[7]));
        }
        assert_eq!(
            unmatched.count, 1,
            "the second row on the left has no partner"
        );
        assert_eq!(unmatched.waiting[0]["7"].len(), 1);
    }

    #[test]
    fn columns_are_compared_by_name_and_type() {
        let column =
            |name: &str, kind: &str| -> Column { (name.into(), kind.into(), None, "NO".into()) };
        let left = [column("id", "int"), column("v", "int")];
        let right = [column("V", "int"), column("id", "int")];
        assert_eq!(
            columns_differ(("a", &left), ("b", &right)),
            None,
            "order and case are no difference"
        );
        let other = [column("id", "bigint"), column("v", "int")];
        let problem = columns_differ(("a", &left), ("b", &other)).unwrap();
        assert!(
            problem.contains("id: int") && problem.contains("bigint"),
            "{problem}"
        );
    }
}
