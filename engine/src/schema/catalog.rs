//! The tables of one node as far as they were asked for: read once each, dropped when DDL shows in
//! the log.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::unchanged::{Unchanged, keep_values};
use super::{ColumnSchema, ForeignKey, TableSchema, UniqueKey};
use crate::config::NodeConfig;
use crate::conflict::collation::Collator;
use crate::connection::{NodeConnection, quote_string};
use crate::error::{Error, Result};

type Tables = HashMap<(Box<str>, Box<str>), Arc<TableSchema>>;

/// What it takes to read a table.
#[derive(Debug, Default)]
struct Reader {
    connection: Option<NodeConnection>,
    /// The foreign keys of all tables by their parent, and the generation that they are of. The
    /// servers go through all tables to find the children of one, so that it is done once for all.
    children: Option<(u64, Children)>,
}

/// Foreign keys by their parent.
#[derive(Debug)]
struct Children {
    /// Whether names are compared as the server does that takes `T` and `t` for one table.
    folded: bool,
    by_parent: HashMap<(String, String), Vec<ForeignKey>>,
}

/// Table schemas of one node, with a connection of their own to read them.
#[derive(Debug)]
pub struct SchemaCatalog {
    node: NodeConfig,
    reader: tokio::sync::Mutex<Reader>,
    tables: Mutex<(u64, Tables)>,
    collator: Collator,
}

impl SchemaCatalog {
    /// An empty catalog of `node`.
    #[must_use]
    pub fn new(node: NodeConfig) -> Self {
        Self {
            collator: Collator::new(node.clone()),
            node,
            reader: tokio::sync::Mutex::default(),
            tables: Mutex::default(),
        }
    }

    /// Tells which texts are one key value at the node.
    #[must_use]
    pub fn collator(&self) -> &Collator {
        &self.collator
    }

    /// A table as it is now, or as it was when it was last read; `None` where there is none.
    ///
    /// # Errors
    /// The connection's.
    pub async fn table(&self, database: &str, table: &str) -> Result<Option<Arc<TableSchema>>> {
        let key = (Box::from(database), Box::from(table));
        let generation = {
            let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(schema) = tables.1.get(&key) {
                return Ok(Some(Arc::clone(schema)));
            }
            tables.0
        };
        let mut reader = self.reader.lock().await;
        let mut connection = match reader.connection.take() {
            Some(connection) => connection,
            None => NodeConnection::open(&self.node).await?,
        };
        // A connection that failed is not put back: the next call opens another.
        let schema = read_table(&mut connection, database, table).await?;
        let children = match reader.children.take() {
            // Of this table's own generation: not older than what else is known by now.
            Some((of, children)) if of == generation => children,
            _ => Children::read(&mut connection).await?,
        };
        let schema = schema.map(|(schema, expressions)| {
            let mut schema = TableSchema {
                children: children.of(database, table),
                ..schema
            };
            keep_values(&mut schema, &expressions);
            schema
        });
        reader.children = Some((generation, children));
        reader.connection = Some(connection);
        drop(reader);
        let Some(schema) = schema.map(Arc::new) else {
            return Ok(None);
        };
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        // DDL that came in between may have made this stale: give it, do not keep it.
        if tables.0 == generation {
            tables.1.insert(key, Arc::clone(&schema));
        }
        Ok(Some(schema))
    }

    /// Forgets everything, after DDL.
    pub fn forget(&self) {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.0 += 1;
        tables.1.clear();
    }

    /// Rises whenever something was forgotten; what was derived from an older one is stale.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Children {
    async fn read(connection: &mut NodeConnection) -> Result<Self> {
        let context = "reading the foreign keys of all tables";
        let names: Option<u64> = connection
            .first("SELECT @@lower_case_table_names", context)
            .await?;
        let mut children = Self {
            folded: names.unwrap_or(0) > 0,
            by_parent: HashMap::new(),
        };
        let all = foreign_keys(connection, "REFERENCED_TABLE_NAME IS NOT NULL", context).await?;
        for key in all {
            let parent = children.name(&key.parent.0, &key.parent.1);
            children.by_parent.entry(parent).or_default().push(key);
        }
        Ok(children)
    }

    fn of(&self, database: &str, table: &str) -> Vec<ForeignKey> {
        let keys = self.by_parent.get(&self.name(database, table));
        keys.cloned().unwrap_or_default()
    }

    fn name(&self, database: &str, table: &str) -> (String, String) {
        if self.folded {
            (database.to_lowercase(), table.to_lowercase())
        } else {
            (database.to_owned(), table.to_owned())
        }
    }
}

/// But for its children; with the expressions in which it names its columns.
async fn read_table(
    connection: &mut NodeConnection,
    database: &str,
    table: &str,
) -> Result<Option<(TableSchema, Vec<String>)>> {
    let context = format!("reading the schema of {database}.{table}");
    let of_table = format!(
        "TABLE_SCHEMA = {} AND TABLE_NAME = {}",
        quote_string(database),
        quote_string(table)
    );
    let Some((table_type, engine)) = connection
        .first::<(String, Option<String>)>(
            &format!(
                "SELECT TABLE_TYPE, ENGINE FROM information_schema.TABLES WHERE {of_table} AND \
                 TABLE_TYPE NOT LIKE '%VIEW'"
            ),
            &context,
        )
        .await?
    else {
        return Ok(None);
    };
    let mut expressions: Vec<String> = Vec::new();
    let columns = connection
        .all::<mysql_async::Row>(
            &format!(
                "SELECT COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, IS_NULLABLE, CHARACTER_SET_NAME, \
                 COLLATION_NAME, EXTRA, COLUMN_DEFAULT, GENERATION_EXPRESSION FROM \
                 information_schema.COLUMNS WHERE {of_table} \
                 ORDER BY ORDINAL_POSITION"
            ),
            &context,
        )
        .await?
        .into_iter()
        .map(|row| {
            let generated: Option<Option<String>> = row.get_opt(8).and_then(|value| value.ok());
            let generated = generated.flatten().filter(|text| !text.is_empty());
            expressions.extend(generated);
            column(row).ok_or_else(|| unreadable(database, table))
        })
        .collect::<Result<Vec<_>>>()?;
    let statistics = connection
        .all::<mysql_async::Row>(
            &format!(
                "SELECT INDEX_NAME, COLUMN_NAME, SUB_PART FROM information_schema.STATISTICS \
                 WHERE {of_table} AND NON_UNIQUE = 0 ORDER BY INDEX_NAME, SEQ_IN_INDEX"
            ),
            &context,
        )
        .await?;
    let mut schema = TableSchema {
        database: database.to_owned(),
        name: table.to_owned(),
        table_type,
        engine: engine.unwrap_or_default(),
        columns,
        row_key: Vec::new(),
        unique_keys: Vec::new(),
        has_opaque_unique_key: false,
        parents: Vec::new(),
        children: Vec::new(),
        triggers: false,
        keyed_by_primary: false,
    };
    keys(&mut schema, statistics);
    schema.parents = foreign_keys(
        connection,
        &format!("{of_table} AND REFERENCED_TABLE_NAME IS NOT NULL"),
        &context,
    )
    .await?;
    let triggers: Option<u64> = connection
        .first(
            &format!(
                "SELECT COUNT(*) FROM information_schema.TRIGGERS WHERE EVENT_OBJECT_SCHEMA = {} \
                 AND EVENT_OBJECT_TABLE = {}",
                quote_string(database),
                quote_string(table)
            ),
            &context,
        )
        .await?;
    schema.triggers = triggers.unwrap_or(0) > 0;
    expressions.extend(checks_and_indexes(connection, database, table, &context).await?);
    Ok(Some((schema, expressions)))
}

/// What the expressions of the table's checks and indexes say.
async fn checks_and_indexes(
    connection: &mut NodeConnection,
    database: &str,
    table: &str,
    context: &str,
) -> Result<Vec<String>> {
    let (database, table) = (quote_string(database), quote_string(table));
    // In MySQL names of checks are one for each database; MariaDB says the table, and has no expressions
    // in indexes. Each reads its own comment.
    let sql = format!(
        "SELECT CHECK_CLAUSE FROM information_schema.CHECK_CONSTRAINTS AS checks WHERE \
         CONSTRAINT_SCHEMA = {database} AND \
         /*M! TABLE_NAME = {table} */ \
         /*!80016 CONSTRAINT_NAME IN (SELECT CONSTRAINT_NAME FROM \
         information_schema.TABLE_CONSTRAINTS WHERE TABLE_SCHEMA = {database} AND TABLE_NAME = {table} \
         AND CONSTRAINT_TYPE = 'CHECK') UNION ALL \
         SELECT EXPRESSION FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = {database} AND \
         TABLE_NAME = {table} AND EXPRESSION IS NOT NULL */"
    );
    connection.all::<String>(&sql, context).await
}

/// The foreign keys that a condition on `KEY_COLUMN_USAGE` chooses.
async fn foreign_keys(
    connection: &mut NodeConnection,
    condition: &str,
    context: &str,
) -> Result<Vec<ForeignKey>> {
    let rows = connection
        .all::<mysql_async::Row>(
            &format!(
                "SELECT CONSTRAINT_NAME, TABLE_SCHEMA, TABLE_NAME, REFERENCED_TABLE_SCHEMA, \
                 REFERENCED_TABLE_NAME, COLUMN_NAME, REFERENCED_COLUMN_NAME, (SELECT DELETE_RULE FROM \
                 information_schema.REFERENTIAL_CONSTRAINTS AS rules WHERE rules.CONSTRAINT_SCHEMA = \
                 used.CONSTRAINT_SCHEMA AND rules.TABLE_NAME = used.TABLE_NAME AND \
                 rules.CONSTRAINT_NAME = used.CONSTRAINT_NAME) \
                 FROM information_schema.KEY_COLUMN_USAGE AS used WHERE {condition} \
                 ORDER BY TABLE_SCHEMA, TABLE_NAME, CONSTRAINT_NAME, ORDINAL_POSITION"
            ),
            context,
        )
        .await?;
    let mut keys: Vec<ForeignKey> = Vec::new();
    for row in rows {
        let text = |index: usize| -> Result<String> {
            row.get_opt::<String, _>(index)
                .and_then(|value| value.ok())
                .ok_or_else(|| unreadable("information_schema", "KEY_COLUMN_USAGE"))
        };
        let (name, child) = (text(0)?, (text(1)?, text(2)?));
        let columns = (text(5)?, text(6)?);
        match keys.last_mut() {
            Some(last) if last.name == name && last.child == child => last.columns.push(columns),
            _ => keys.push(ForeignKey {
                name,
                child,
                parent: (text(3)?, text(4)?),
                on_delete: text(7)?,
                columns: vec![columns],
            }),
        }
    }
    Ok(keys)
}

fn unreadable(database: &str, table: &str) -> Error {
    Error::Schema {
        table: format!("{database}.{table}"),
        problem: "information_schema gave a row that cannot be read".to_owned(),
    }
}

fn column(row: mysql_async::Row) -> Option<ColumnSchema> {
    let text = |index: usize| -> Option<String> { row.get_opt::<String, _>(index)?.ok() };
    let optional = |index: usize| -> Option<String> {
        row.get_opt::<Option<String>, _>(index)
            .and_then(|value| value.ok())
            .flatten()
    };
    let column_type = text(2)?;
    let extra = optional(6).unwrap_or_default().to_ascii_lowercase();
    let default = optional(7);
    let mut column = ColumnSchema {
        name: text(0)?,
        data_type: text(1)?.to_ascii_lowercase(),
        unsigned: column_type.to_ascii_lowercase().contains("unsigned"),
        column_type,
        nullable: text(3)?.eq_ignore_ascii_case("yes"),
        charset: optional(4),
        collation: optional(5),
        // MySQL says DEFAULT_GENERATED of a column with an expression as its default; it is stored
        // like any other.
        generated: extra.contains("virtual generated")
            || extra.contains("stored generated")
            || extra.contains("persistent generated"),
        invisible: extra.contains("invisible"),
        auto_increment: extra.contains("auto_increment"),
        on_update: extra.contains("on update"),
        unchanged: Unchanged::default(),
    };
    column.unchanged = Unchanged::of(&column, default.as_deref(), &extra);
    Some(column)
}

fn keys(schema: &mut TableSchema, statistics: Vec<mysql_async::Row>) {
    let mut indexes: Vec<UniqueKey> = Vec::new();
    // An index over an expression cannot be compared by column values.
    let mut unusable: Vec<String> = Vec::new();
    for row in statistics {
        let Some(name) = row.get_opt::<String, _>(0).and_then(|value| value.ok()) else {
            continue;
        };
        let column = row
            .get_opt::<Option<String>, _>(1)
            .and_then(|value| value.ok())
            .flatten()
            .and_then(|column| schema.column(&column));
        let prefix = row
            .get_opt::<Option<u64>, _>(2)
            .and_then(|value| value.ok())
            .flatten();
        if indexes.last().is_none_or(|index| index.name != name) {
            indexes.push(UniqueKey {
                name: name.clone(),
                columns: Vec::new(),
                prefixes: Vec::new(),
            });
        }
        match (column, indexes.last_mut()) {
            (Some(column), Some(index)) => {
                index.columns.push(column);
                let prefix = prefix.and_then(|length| u32::try_from(length).ok());
                index.prefixes.push(prefix);
            }
            _ => unusable.push(name),
        }
    }
    schema.has_opaque_unique_key = indexes.iter().any(|index| unusable.contains(&index.name));
    indexes.retain(|index| !unusable.contains(&index.name));
    let whole = |index: &UniqueKey| index.prefixes.iter().all(Option::is_none);
    let names_rows = |index: &UniqueKey| {
        whole(index)
            && index
                .columns
                .iter()
                .all(|column| !schema.columns[*column].nullable)
    };
    let row_key = indexes
        .iter()
        .position(|index| index.name == "PRIMARY" && whole(index))
        .or_else(|| indexes.iter().position(names_rows));
    if let Some(position) = row_key {
        schema.keyed_by_primary = indexes[position].name == "PRIMARY";
        schema.row_key = indexes.remove(position).columns;
    }
    schema.unique_keys = indexes;
}
