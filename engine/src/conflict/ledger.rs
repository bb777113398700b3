//! Reads the journal, and takes back what a conflict lost ("flip").
//!
//! A flip is an ordinary change of a client at one node: it has seen all that the node has, so it is
//! causally later than both writes of the conflict and stands everywhere.

use serde::Serialize;

use crate::apply::image;
use crate::apply::literal::SESSION_SETTINGS;
use crate::config::{Config, NodeConfig};
use crate::connection::{NodeConnection, quote_identifier, quote_string};
use crate::error::{Error, Result};
use crate::own_schema::CONFLICT;
use crate::schema::{SchemaCatalog, TableSchema};

/// Which entries are wanted.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Pattern of `database.table` with `*` and `?`.
    pub table: Option<String>,
    /// Kind.
    pub kind: Option<String>,
    /// Settled at most this many seconds ago.
    pub since_seconds: Option<u64>,
    /// At most so many, the latest first.
    pub limit: Option<u64>,
}

/// A row image: a literal for each column, `None` for NULL.
pub type Image = Vec<Option<String>>;

/// An entry of the journal.
#[derive(Debug, Clone, Serialize)]
pub struct Recorded {
    /// The node whose journal it stands in.
    pub node: String,
    /// Number in that journal.
    pub id: u64,
    /// When it was settled, UTC.
    pub settled_at: String,
    /// Node whose write arrived.
    pub origin: String,
    /// Database of the row.
    pub database: String,
    /// Table of the row.
    pub table: String,
    /// Kind of conflict.
    pub kind: String,
    /// The table's policy.
    pub policy: String,
    /// `local`, `remote`, `merged`, or `none` where the link halted.
    pub winner: String,
    /// Node whose write stands; empty for both and for none.
    pub winner_node: String,
    /// The table's columns, to which the images are aligned.
    pub columns: Vec<String>,
    /// The row key's columns.
    pub key_columns: Vec<String>,
    /// End of the local transaction in the node's log.
    pub local_position: Option<String>,
    /// Its effective timestamp, microseconds.
    pub local_effective: Option<u64>,
    /// Begin of the transaction that arrived, in its origin's log.
    pub origin_position: String,
    /// Its GTID.
    pub origin_gtid: String,
    /// Its effective timestamp, microseconds.
    pub origin_effective: u64,
    /// The row that stood at the node, or that held the unique value.
    pub local_image: Option<Image>,
    /// The row as the origin had it before its write.
    pub before_image: Option<Image>,
    /// The row that arrived; `None` for a delete.
    pub after_image: Option<Image>,
    /// What stands now, where it is neither.
    pub result_image: Option<Image>,
    /// The keys that both claimed.
    pub met: serde_json::Value,
    /// What else was said.
    pub note: String,
}

impl Recorded {
    /// The row key as `id=7`, from whichever image there is.
    #[must_use]
    pub fn key(&self) -> String {
        let images = [&self.after_image, &self.before_image, &self.local_image];
        let Some(image) = images.into_iter().flatten().next() else {
            return String::new();
        };
        let shown: Vec<String> = self
            .key_columns
            .iter()
            .filter_map(|name| {
                let index = self.columns.iter().position(|column| column == name)?;
                let value = image.get(index)?.as_deref().unwrap_or("NULL");
                Some(format!("{name}={value}"))
            })
            .collect();
        shown.join(", ")
    }
}

/// Entries of a node's journal, the latest first.
///
/// # Errors
/// The connection's; [`Error::Preflight`] where the node was not set up.
pub async fn list(config: &Config, node: &NodeConfig, filter: &Filter) -> Result<Vec<Recorded>> {
    let mut wanted = vec!["TRUE".to_owned()];
    if let Some(table) = &filter.table {
        let like: String = table
            .chars()
            .map(|letter| match letter {
                '*' => "%".to_owned(),
                '?' => "_".to_owned(),
                '%' | '_' | '|' => format!("|{letter}"),
                letter => letter.to_string(),
            })
            .collect();
        wanted.push(format!(
            "CONCAT(database_name, '.', table_name) LIKE {} ESCAPE '|'",
            quote_string(&like)
        ));
    }
    if let Some(kind) = &filter.kind {
        wanted.push(format!("kind = {}", quote_string(kind)));
    }
    if let Some(seconds) = filter.since_seconds {
        wanted.push(format!("settled_at >= NOW(6) - INTERVAL {seconds} SECOND"));
    }
    select(config, node, &wanted.join(" AND "), filter.limit).await
}

/// One entry.
///
/// # Errors
/// As [`list`].
pub async fn entry(config: &Config, node: &NodeConfig, id: u64) -> Result<Option<Recorded>> {
    Ok(select(config, node, &format!("id = {id}"), None)
        .await?
        .pop())
}

async fn select(
    config: &Config,
    node: &NodeConfig,
    wanted: &str,
    limit: Option<u64>,
) -> Result<Vec<Recorded>> {
    let mut connection = NodeConnection::open(node).await?;
    connection
        .execute(SESSION_SETTINGS, "setting up the session")
        .await?;
    let limit = limit.map_or_else(String::new, |limit| format!(" LIMIT {limit}"));
    let sql = format!(
        "SELECT id, CAST(settled_at AS CHAR), origin, database_name, table_name, kind, policy, winner, \
         winner_node, column_names, key_columns, local_position, local_effective, origin_position, \
         origin_gtid, origin_effective, local_image, before_image, after_image, result_image, met, note \
         FROM {}.{CONFLICT} WHERE {wanted} ORDER BY id DESC{limit}",
        quote_identifier(&config.engine.schema)
    );
    let rows: Result<Vec<mysql_async::Row>> =
        connection.all(&sql, "reading the conflict journal").await;
    let rows = match rows {
        Err(Error::Server {
            code: 1049 | 1146, ..
        }) => {
            return Err(Error::Preflight(format!(
                "node {} has no conflict journal: run `twinlog init`",
                node.name
            )));
        }
        rows => rows?,
    };
    connection.close().await;
    rows.into_iter().map(|row| read(&node.name, row)).collect()
}

fn read(node: &str, row: mysql_async::Row) -> Result<Recorded> {
    let malformed = || Error::Internal("a row of the conflict journal does not read".to_owned());
    let text = |index: usize| -> Result<String> {
        row.get_opt(index)
            .and_then(|value| value.ok())
            .ok_or_else(malformed)
    };
    let optional = |index: usize| -> Result<Option<String>> {
        row.get_opt(index)
            .and_then(|value| value.ok())
            .ok_or_else(malformed)
    };
    let number = |index: usize| -> Result<u64> { text(index)?.parse().map_err(|_| malformed()) };
    let json = |text: String| serde_json::from_str(&text).map_err(|_| malformed());
    let image = |index: usize| -> Result<Option<Image>> {
        optional(index)?
            .map(|text| serde_json::from_str(&text).map_err(|_| malformed()))
            .transpose()
    };
    Ok(Recorded {
        node: node.to_owned(),
        id: row
            .get_opt(0)
            .and_then(|value| value.ok())
            .ok_or_else(malformed)?,
        settled_at: text(1)?,
        origin: text(2)?,
        database: text(3)?,
        table: text(4)?,
        kind: text(5)?,
        policy: text(6)?,
        winner: text(7)?,
        winner_node: text(8)?,
        columns: json(text(9)?)?,
        key_columns: json(text(10)?)?,
        local_position: optional(11)?,
        local_effective: optional(12)?.and_then(|text| text.parse().ok()),
        origin_position: text(13)?,
        origin_gtid: text(14)?,
        origin_effective: number(15)?,
        local_image: image(16)?,
        before_image: image(17)?,
        after_image: image(18)?,
        result_image: image(19)?,
        met: serde_json::from_str(&text(20)?).map_err(|_| malformed())?,
        note: text(21)?,
    })
}

/// What a flip would do, or did.
#[derive(Debug, Clone, Serialize)]
pub struct Flip {
    /// The statement.
    pub statement: String,
    /// Whether the row still is what the conflict left.
    pub unchanged: bool,
    /// The row as it is now.
    pub present: Option<Image>,
    /// Whether it was written.
    pub written: bool,
}

/// Writes the losing image of an entry at its node, or, unless `write`, only says what it would
/// write. A row that changed since is left alone unless `force`.
///
/// # Errors
/// [`Error::Conflict`] where there is nothing to flip or the row changed; the server's.
pub async fn flip(node: &NodeConfig, entry: &Recorded, write: bool, force: bool) -> Result<Flip> {
    let refuse = |problem: String| Err(Error::conflict(problem));
    let (stands, lost) = match entry.winner.as_str() {
        "local" => (&entry.local_image, &entry.after_image),
        "remote" => (&entry.after_image, &entry.local_image),
        "none" => {
            return refuse(
                "nothing was settled: the link halted there. Its message says what to do"
                    .to_owned(),
            );
        }
        _ => {
            return refuse("both writes stand in the row: there is no losing image".to_owned());
        }
    };
    let catalog = SchemaCatalog::new(node.clone());
    let Some(table) = catalog.table(&entry.database, &entry.table).await? else {
        return refuse(format!("table {}.{} is gone", entry.database, entry.table));
    };
    let columns: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
    if columns != entry.columns {
        return refuse(format!(
            "table {table} has other columns now ({}) than at the conflict ({})",
            columns.join(", "),
            entry.columns.join(", ")
        ));
    }
    let left_out = |value: &Option<String>| {
        value
            .as_ref()
            .is_some_and(|value| value.starts_with(image::LEFT_OUT))
    };
    if lost.iter().flatten().any(left_out) {
        return refuse(
            "the losing row holds values that are too long for the journal: write it by hand"
                .to_owned(),
        );
    }
    let images = [&entry.after_image, &entry.before_image, &entry.local_image];
    // A lost image names its own row; a lost delete that of the other side.
    let Some(named) = lost.as_ref().or(images.into_iter().flatten().next()) else {
        return refuse("the journal has no image of the row".to_owned());
    };
    let place = condition(&table, named);
    let mut connection = NodeConnection::open(node).await?;
    connection
        .execute(SESSION_SETTINGS, "setting up the session")
        .await?;
    connection.execute("BEGIN", "beginning the flip").await?;
    let name = format!(
        "{}.{}",
        quote_identifier(&table.database),
        quote_identifier(&table.name)
    );
    let look = format!(
        "SELECT {} FROM {name} WHERE {place} FOR UPDATE",
        image::of_stored_row(&table)
    );
    let present: Option<Image> = connection
        .text(look.as_bytes(), "looking at the row")
        .await?
        .and_then(|text| serde_json::from_str(&text).ok());
    // Where another row took the unique value, this one should be absent.
    let expected = stands
        .as_ref()
        .filter(|image| same_row(&table, image, named));
    let unchanged = present.as_ref() == expected;
    let statement = statement(&table, &name, &place, lost.as_ref(), present.is_some());
    let mut flip = Flip {
        statement,
        unchanged,
        present,
        written: false,
    };
    if !write {
        connection.execute("ROLLBACK", "ending the look").await?;
        return Ok(flip);
    }
    if !unchanged && !force {
        return refuse(
            "the row is no longer what the conflict left: somebody wrote it since. Give --force to \
             write the losing image all the same"
                .to_owned(),
        );
    }
    connection
        .execute(&flip.statement, "writing the losing image")
        .await
        .map_err(|error| match error {
            Error::Server { code: 1062, .. } => Error::conflict(
                "another row holds a unique value of the losing image: change or delete that row \
                 first"
                    .to_owned(),
            ),
            error => error,
        })?;
    connection.execute("COMMIT", "committing the flip").await?;
    connection.close().await;
    flip.written = true;
    Ok(flip)
}

fn statement(
    table: &TableSchema,
    name: &str,
    place: &str,
    lost: Option<&Image>,
    present: bool,
) -> String {
    let Some(lost) = lost else {
        return format!("DELETE FROM {name} WHERE {place}");
    };
    let written = table
        .columns
        .iter()
        .zip(lost)
        .filter(|(column, _)| !column.generated);
    let (names, values): (Vec<String>, Vec<&str>) = written
        .map(|(column, value)| {
            let value = value.as_deref().unwrap_or("NULL");
            (quote_identifier(&column.name), value)
        })
        .unzip();
    if present {
        let set: Vec<String> = names
            .iter()
            .zip(&values)
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        format!("UPDATE {name} SET {} WHERE {place}", set.join(", "))
    } else {
        format!(
            "INSERT INTO {name} ({}) VALUES ({})",
            names.join(", "),
            values.join(", ")
        )
    }
}

/// `id=7` over the row key.
fn condition(table: &TableSchema, image: &Image) -> String {
    let parts: Vec<String> = table
        .row_key
        .iter()
        .map(|index| {
            let value = image.get(*index).and_then(Option::as_deref);
            format!(
                "{}={}",
                quote_identifier(&table.columns[*index].name),
                value.unwrap_or("NULL")
            )
        })
        .collect();
    parts.join(" AND ")
}

fn same_row(table: &TableSchema, one: &Image, other: &Image) -> bool {
    table
        .row_key
        .iter()
        .all(|index| one.get(*index) == other.get(*index))
}
