//! How a table as it was at the origin fits the table at the target.

use std::sync::{Arc, OnceLock};

use super::row_events::{Path, event_columns};
use crate::conflict::collation::{needs_weights, row_key_is_plain};
use crate::conflict::family::Family;
use crate::conflict::key::KeyHash;
use crate::conflict::rules::TableRule;
use crate::error::{Error, Result};
use crate::row::{ColumnKind, Row, RowChange, SourceTable, Value};
use crate::row_event::EventColumn;
use crate::schema::{TableSchema, is_spatial};
use crate::transaction::ForeignKeyMode;

/// Where the columns of a table stand in a row image; what fits is mapped and what does not is
/// absent, without judgement.
#[derive(Debug)]
pub struct ImageColumns {
    source: Arc<SourceTable>,
    target: Arc<TableSchema>,
    image_of: Vec<Option<usize>>,
}

impl ImageColumns {
    /// Matches by name, or by order where the log does not name columns.
    #[must_use]
    pub fn new(source: Arc<SourceTable>, target: Arc<TableSchema>) -> Self {
        let image_of = match_columns(&source, &target);
        Self {
            source,
            target,
            image_of,
        }
    }

    /// The table of the image.
    #[must_use]
    pub fn source(&self) -> &Arc<SourceTable> {
        &self.source
    }

    /// The table at the node.
    #[must_use]
    pub fn target(&self) -> &TableSchema {
        &self.target
    }

    /// The image's value of a column of the node's table.
    #[must_use]
    pub fn value<'row>(&self, row: &'row Row, target_column: usize) -> Option<&'row Value> {
        let index = (*self.image_of.get(target_column)?)?;
        row.get(index)
    }

    /// The image in the order of the node's table.
    #[must_use]
    pub fn ordered(&self, row: &Row) -> Row {
        ordered(&self.target, |column| self.value(row, column))
    }
}

/// A row in the order of a table's columns, its numbers read as the table says; NULL where the image
/// lacks a column.
fn ordered<'v>(table: &TableSchema, value: impl Fn(usize) -> Option<&'v Value>) -> Row {
    let columns = table.columns.iter().enumerate();
    let values = columns.map(|(index, column)| match value(index) {
        None => Value::Null,
        Some(Value::Int(number)) if column.unsigned => Value::UInt(column.as_unsigned(*number)),
        Some(value) => value.clone(),
    });
    values.collect()
}

/// For each target column, its index in the image: by name, or by order where the log does not name
/// columns.
fn match_columns(source: &SourceTable, target: &TableSchema) -> Vec<Option<usize>> {
    let mut image_of = vec![None; target.columns.len()];
    for (index, column) in source.columns.iter().enumerate() {
        let target_index = match column.name.as_deref() {
            Some(name) => target.column(name),
            None => (index < image_of.len()).then_some(index),
        };
        if let Some(target_index) = target_index {
            image_of[target_index] = Some(index);
        }
    }
    image_of
}

/// Columns of an origin's row image against the target's columns.
#[derive(Debug)]
pub struct Mapping {
    /// The table at the origin.
    pub source: Arc<SourceTable>,
    /// The table at the target.
    pub target: Arc<TableSchema>,
    /// Columns to write: (index in the image, index in the target).
    pub written: Vec<(usize, usize)>,
    /// Columns of the row key: (index in the image, index in the target).
    pub row_key: Vec<(usize, usize)>,
    /// For each target column, its index in the image.
    image_of: Vec<Option<usize>>,
    /// Index in the image of the AUTO_INCREMENT column.
    pub auto_increment: Option<usize>,
    /// Image columns whose numbers must be read again as unsigned.
    reread: Vec<(usize, usize)>,
    /// Whether its keys hold texts that the server has to weigh.
    pub weighs_texts: bool,
    /// Whether texts in its row key, if any, are told apart by their bytes.
    pub row_key_is_plain: bool,
    /// Image columns by which its rows refer to others.
    refers_by: Vec<usize>,
    /// Image columns by which others refer to its rows.
    referred_by: Vec<usize>,
    /// The keys that stand for all rows of the table, and of its database.
    pub whole_table: [KeyHash; 2],
    /// The key that stands for the row keys of all rows that the table may have.
    pub emptied: KeyHash,
    /// The foreign keys around the table.
    pub family: Family,
    /// How the table's conflicts are settled.
    pub rule: TableRule,
    /// How foreign keys are minded as the rows are written; all of a mapping's rows are alike in it.
    pub foreign_keys: ForeignKeyMode,
    /// How its rows are written.
    pub path: Path,
    /// Its columns as row events have them, once one is written.
    events: OnceLock<Vec<EventColumn>>,
}

impl Mapping {
    /// Maps `source` onto `target`.
    ///
    /// `tolerant`: DDL on this table was run at the target which the origin had not seen, so that
    /// columns may be there on one side only. Values of columns that the target dropped are left
    /// out; columns that it added take their default, as the DDL gives the same to the origin's row.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for tables without a key or without transactions,
    /// [`Error::Schema`] where the columns differ.
    pub fn new(source: Arc<SourceTable>, target: Arc<TableSchema>, tolerant: bool) -> Result<Self> {
        refuse_unsupported(&source, &target)?;
        let differs = |problem: String| Error::Schema {
            table: source.to_string(),
            problem,
        };
        let image_of = match_columns(&source, &target);
        if source.has_names() {
            let left_over =
                (0..source.columns.len()).find(|index| !image_of.contains(&Some(*index)));
            if let Some(index) = left_over.filter(|_| !tolerant) {
                return Err(differs(format!(
                    "the origin has a column {} that the target has not; make the tables alike \
                     with ALTER TABLE, then start again",
                    source.columns[index].name.as_deref().unwrap_or_default()
                )));
            }
        } else if source.columns.len() != target.columns.len() {
            // Without names only the order is left, and that is sure only while both have the same
            // columns.
            return Err(differs(format!(
                "the origin's row has {} columns and the target's table {}, and the log does not \
                 name them: set binlog_row_metadata=FULL on every node, or make the tables alike",
                source.columns.len(),
                target.columns.len()
            )));
        }
        let mut written = Vec::new();
        let mut reread = Vec::new();
        for (target_index, column) in target.columns.iter().enumerate() {
            let Some(index) = image_of[target_index] else {
                if column.generated || tolerant {
                    continue;
                }
                return Err(differs(format!(
                    "the target has a column {} that the origin has not; make the tables alike \
                     with ALTER TABLE, then start again",
                    column.name
                )));
            };
            let source_column = &source.columns[index];
            if !tolerant && !kind_fits(source_column.kind, &column.data_type) {
                return Err(differs(format!(
                    "column {} is {} at the target and {:?} in the origin's log; make the tables \
                     alike{}",
                    column.name,
                    column.column_type,
                    source_column.kind,
                    if source.has_names() {
                        ""
                    } else {
                        ", or set binlog_row_metadata=FULL so that columns are matched by name"
                    }
                )));
            }
            if source_column.unsigned.is_none() && column.unsigned {
                reread.push((index, target_index));
            }
            if !column.generated {
                written.push((index, target_index));
            }
        }
        let row_key = target
            .row_key
            .iter()
            .map(|target_index| {
                image_of[*target_index]
                    .map(|index| (index, *target_index))
                    .ok_or_else(|| {
                        differs(format!(
                            "the origin's rows have no column {}, part of the target's row key",
                            target.columns[*target_index].name
                        ))
                    })
            })
            .collect::<Result<Vec<_>>>()?;
        let auto_increment = target
            .columns
            .iter()
            .position(|column| column.auto_increment)
            .and_then(|column| image_of[column]);
        let image_columns = |names: &mut dyn Iterator<Item = &String>| {
            let columns = names.filter_map(|name| image_of[target.column(name)?]);
            columns.collect::<Vec<usize>>()
        };
        let parents = target.parents.iter().flat_map(|key| &key.columns);
        let refers_by = image_columns(&mut parents.map(|(child, _)| child));
        let children = target.children.iter().flat_map(|key| &key.columns);
        let referred_by = image_columns(&mut children.map(|(_, parent)| parent));
        let weighs_texts = needs_weights(&target);
        let row_key_is_plain = row_key_is_plain(&target);
        let whole_table =
            [target.name.as_str(), ""].map(|table| KeyHash::whole_table(&target.database, table));
        let emptied = KeyHash::emptied(&target.database, &target.name);
        Ok(Self {
            whole_table,
            emptied,
            row_key_is_plain,
            refers_by,
            referred_by,
            source,
            target,
            written,
            row_key,
            image_of,
            auto_increment,
            reread,
            weighs_texts,
            family: Family::default(),
            rule: TableRule::default(),
            foreign_keys: ForeignKeyMode::Engine,
            path: Path::Sql,
            events: OnceLock::new(),
        })
    }

    /// The image's value of a target column.
    #[must_use]
    pub fn value<'row>(&self, row: &'row Row, target_column: usize) -> Option<&'row Value> {
        let index = (*self.image_of.get(target_column)?)?;
        row.get(index)
    }

    /// The image in the order of the target's table.
    #[must_use]
    pub fn ordered(&self, row: &Row) -> Row {
        ordered(&self.target, |column| self.value(row, column))
    }

    /// The image with the values of a row in the order of the target's table.
    #[must_use]
    pub fn with_values(&self, image: &Row, values: &Row) -> Row {
        let mut image = image.clone();
        for (target, value) in values.iter().enumerate() {
            let place = self
                .image_index(target)
                .and_then(|index| image.get_mut(index));
            if let Some(place) = place {
                *place = value.clone();
            }
        }
        image
    }

    /// Its columns as row events have them: those of the target, in its order, as far as the origin has them.
    pub(super) fn event_columns(&self) -> &[EventColumn] {
        self.events.get_or_init(|| event_columns(self))
    }

    /// Index in the image of a target column.
    #[must_use]
    pub fn image_index(&self, target_column: usize) -> Option<usize> {
        self.image_of.get(target_column).copied().flatten()
    }

    /// That a value of the origin cannot be written into a target column.
    pub(super) fn refuses(&self, target_column: usize, problem: String) -> Error {
        let column = self.target.columns.get(target_column);
        let (name, kind) = column.map_or(("?", "?"), |column| (&column.name, &column.column_type));
        Error::Unsupported {
            node: "origin".to_owned(),
            position: String::new(),
            what: format!("column {name} ({kind}) of table {}", self.source),
            problem,
        }
    }

    /// Whether both images name the same row.
    #[must_use]
    pub fn same_row(&self, before: &Row, after: &Row) -> bool {
        self.row_key
            .iter()
            .all(|(index, _)| before.get(*index) == after.get(*index))
    }

    /// Whether both images refer to the same rows of other tables.
    #[must_use]
    pub fn refers_alike(&self, one: &Row, other: &Row) -> bool {
        let mut columns = self.refers_by.iter();
        columns.all(|index| one.get(*index) == other.get(*index))
    }

    /// Whether rows of other tables may refer to both images alike.
    #[must_use]
    pub fn same_for_children(&self, one: &Row, other: &Row) -> bool {
        let mut columns = self.referred_by.iter();
        columns.all(|index| one.get(*index) == other.get(*index))
    }

    /// Reads numbers as unsigned where only the target's schema says that they are.
    pub fn normalise(&self, change: &mut RowChange) {
        if self.reread.is_empty() {
            return;
        }
        let (first, second) = match change {
            RowChange::Insert { after } => (Some(after), None),
            RowChange::Delete { before } => (Some(before), None),
            RowChange::Update { before, after } => (Some(before), Some(after)),
        };
        for row in [first, second].into_iter().flatten() {
            for (index, target) in &self.reread {
                let column = &self.target.columns[*target];
                if let Some(value) = row.get_mut(*index)
                    && let Value::Int(number) = *value
                {
                    *value = Value::UInt(column.as_unsigned(number));
                }
            }
        }
    }
}

fn refuse_unsupported(source: &SourceTable, target: &TableSchema) -> Result<()> {
    let refuse = |problem: String| {
        Err(Error::Unsupported {
            node: "origin".to_owned(),
            position: String::new(),
            what: format!("table {source}"),
            problem,
        })
    };
    if target.table_type != "BASE TABLE" {
        return refuse(format!(
            "it is a {} at the target: its values or its history are each server's own, and two \
             masters cannot share them; leave it out of replication.databases",
            target.table_type
        ));
    }
    if target.row_key.is_empty() {
        return refuse(
            "it has no primary key (nor a unique key without NULLs), so that its rows cannot be \
             told apart; give it one on both nodes with ALTER TABLE .. ADD PRIMARY KEY, then start \
             again"
                .to_owned(),
        );
    }
    if !target.engine.eq_ignore_ascii_case("innodb") {
        return refuse(format!(
            "its storage engine at the target is {}, which has no transactions, so that a crash \
             could apply a change twice; ALTER TABLE .. ENGINE=InnoDB",
            target.engine
        ));
    }
    Ok(())
}

/// Whether a column of this type at the target can hold what the log's kind says.
fn kind_fits(kind: ColumnKind, data_type: &str) -> bool {
    match kind {
        ColumnKind::Tiny => data_type == "tinyint",
        ColumnKind::Short => data_type == "smallint",
        ColumnKind::Int24 => data_type == "mediumint",
        ColumnKind::Long => data_type == "int",
        ColumnKind::LongLong => data_type == "bigint",
        ColumnKind::Float => data_type == "float",
        ColumnKind::Double => data_type == "double",
        ColumnKind::Decimal { .. } => data_type == "decimal",
        ColumnKind::Bit { .. } => data_type == "bit",
        ColumnKind::Year => data_type == "year",
        ColumnKind::Date => data_type == "date",
        ColumnKind::Time { .. } => data_type == "time",
        ColumnKind::DateTime { .. } => data_type == "datetime",
        ColumnKind::Timestamp { .. } => data_type == "timestamp",
        ColumnKind::VarChar { .. } => matches!(data_type, "varchar" | "varbinary"),
        ColumnKind::Char { .. } => matches!(
            data_type,
            "char" | "binary" | "uuid" | "inet4" | "inet6" | "varchar" | "varbinary"
        ),
        ColumnKind::Blob { .. } => {
            data_type.ends_with("blob") || data_type.ends_with("text") || data_type == "json"
        }
        ColumnKind::Enum { .. } => data_type == "enum",
        ColumnKind::Set { .. } => data_type == "set",
        ColumnKind::Json { .. } => data_type == "json",
        ColumnKind::Geometry { .. } => is_spatial(data_type),
        ColumnKind::Vector { .. } => data_type == "vector",
    }
}
