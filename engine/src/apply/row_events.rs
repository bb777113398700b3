//! The second path of rows to the target: as row events, through BINLOG statements.
//!
//! What comes that way fires no triggers, on either server, so it is the way of tables that have them
//! (docs/decisions/0013-row-events.md). A row is found by its row key alone and its before image is not
//! compared, as with SQL; and BINLOG does not say how many rows it found, so that what has to be there is counted
//! under locks in front ([`super::encode`]).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::column_set::ColumnSet;
use super::literal::other_charset;
use super::mapping::Mapping;
use super::stored_key;
use crate::config::RowEventPolicy;
use crate::connection::NodeConnection;
use crate::decode::event::Flavor;
use crate::error::{Error, Result};
use crate::row::{ColumnKind, Row};
use crate::row_event::{EventColumn, Limits, Operation, RowsEvent, format_description};
use crate::schema::{TableSchema, Unchanged};
use crate::transaction::ForeignKeyMode;

/// How the rows of a table are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Path {
    /// By multi-row SQL.
    #[default]
    Sql,
    /// By BINLOG statements.
    RowEvents,
}

/// Whether the target takes row events from the engine; one for all connections of a link.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ability(Arc<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Why it does not, and what to do.
    hindrance: OnceLock<&'static str>,
    /// Tables, by database and name, that turned out not to be alike.
    refused: Mutex<HashSet<String>>,
}

impl Ability {
    /// No row events from here on, for this reason, whatever was known before.
    pub(super) fn lose(&self, why: &'static str) {
        // Who lost it first has said why.
        let _ = self.0.hindrance.set(why);
    }

    fn hindrance(&self) -> Option<&'static str> {
        self.0.hindrance.get().copied()
    }

    /// The target has refused an event of this table; whether that is new.
    pub(super) fn refuse(&self, table: &str) -> bool {
        let mut refused = self
            .0
            .refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        refused.insert(table.to_owned())
    }

    fn has_refused(&self, table: &TableSchema) -> bool {
        let refused = self
            .0
            .refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        !refused.is_empty() && refused.contains(&table.to_string())
    }
}

/// Gives 1 where nothing that is set for the whole server changes what a row event does: rows that are missing or
/// there already are passed over, values are cut, triggers fire. To be asked in each transaction that has row
/// events: whoever may can set most of it meanwhile.
pub(super) fn settings_check(flavor: Flavor) -> &'static str {
    match flavor {
        // The mode is the session's own there.
        Flavor::MySql => {
            "SELECT @@GLOBAL.slave_type_conversions = '' AND @@GLOBAL.slave_skip_errors = 'OFF'"
        }
        Flavor::MariaDb => {
            "SELECT @@GLOBAL.slave_type_conversions = '' AND @@GLOBAL.slave_skip_errors = 'OFF' AND \
             @@GLOBAL.slave_exec_mode = 'STRICT' AND @@GLOBAL.slave_run_triggers_for_rbr <> 'ENFORCE'"
        }
    }
}

/// What is wrong where [`settings_check`] does not give 1.
pub(super) fn unsafe_settings(flavor: Flavor) -> &'static str {
    match flavor {
        Flavor::MySql => {
            "at the target slave_type_conversions is not empty (values could be cut) or slave_skip_errors is not OFF (rows \
             that are missing or there already would be passed over); SET GLOBAL replica_type_conversions = '', and take \
             the other one out of its my.cnf"
        }
        Flavor::MariaDb => {
            "at the target slave_type_conversions is not empty (values could be cut), slave_exec_mode is not STRICT or \
             slave_skip_errors is not OFF (rows that are missing or there already would be passed over), or \
             slave_run_triggers_for_rbr is ENFORCE; SET GLOBAL them to '', 'STRICT' and 'NO', and take slave_skip_errors \
             out of its my.cnf"
        }
    }
}

/// Makes a new connection ready for row events, in front of its other settings; says why not where it cannot be.
///
/// # Errors
/// The connection's.
pub(super) async fn begin(
    connection: &mut NodeConnection,
    flavor: Flavor,
) -> Result<Option<&'static str>> {
    let context = "preparing row events";
    let described = binlog(&format_description(flavor));
    match connection.try_execute(&described).await {
        Ok(_) => {}
        // Access denied; a privilege that is missing.
        Err(mysql_async::Error::Server(error)) if matches!(error.code, 1045 | 1227) => {
            return Ok(Some(match flavor {
                Flavor::MySql => "its account may not: GRANT REPLICATION_APPLIER ON *.*",
                Flavor::MariaDb => "its account may not: GRANT BINLOG REPLAY ON *.*",
            }));
        }
        Err(error) => return Err(Error::from_driver(connection.node(), context, error)),
    }
    if flavor == Flavor::MySql {
        // The format description leaves it undetermined.
        let settings = "SET SESSION gtid_next = 'AUTOMATIC', SESSION rbr_exec_mode = 'STRICT'";
        connection.execute(settings, context).await?;
    }
    let asked = settings_check(flavor).as_bytes();
    match connection.count(asked, context).await {
        Ok(1) => {}
        Ok(_) => return Ok(Some(unsafe_settings(flavor))),
        // Unknown system variable.
        Err(Error::Server { code: 1193, .. }) => {
            return Ok(Some(
                "its server has not the settings that would have to be asked for (slave_type_conversions, slave_skip_errors)",
            ));
        }
        Err(error) => return Err(error),
    }
    Ok(None)
}

/// How the rows of a table go.
///
/// # Errors
/// [`Error::Unsupported`] for a table with triggers whose rows cannot go as row events.
pub(super) fn path(
    mapping: &Mapping,
    flavor: Flavor,
    policy: RowEventPolicy,
    ability: &Ability,
) -> Result<Path> {
    let triggers = mapping.target.triggers;
    let wanted = match policy {
        RowEventPolicy::Always => true,
        RowEventPolicy::Auto => triggers || is_wide(mapping),
        RowEventPolicy::Never => triggers,
    };
    if !wanted {
        return Ok(Path::Sql);
    }
    // What a table with triggers is refused for may yet be settled by SQL where there are none.
    if !triggers && (ability.has_refused(&mapping.target) || !settles_all(mapping)) {
        return Ok(Path::Sql);
    }
    let hindrance = match (policy, ability.hindrance()) {
        (RowEventPolicy::Never, _) => Some("the config says row_events = \"never\"".to_owned()),
        (_, Some(hindrance)) => Some(hindrance.to_owned()),
        (_, None) => difference(mapping, flavor),
    };
    match hindrance {
        None => Ok(Path::RowEvents),
        Some(_) if !triggers => Ok(Path::Sql),
        Some(hindrance) => Err(Error::Unsupported {
            node: "origin".to_owned(),
            position: String::new(),
            what: format!("table {}", mapping.source),
            problem: format!(
                "it has triggers at the target, which SQL would fire a second time for every row, and its rows cannot be \
                 written as row events, which fire none: {hindrance}. See to that, drop the triggers there, or leave the \
                 database out of replication.databases; then start again"
            ),
        }),
    }
}

/// Columns that an upsert has to write something for, whatever has changed, from which on row events cost the target
/// less (docs/decisions/0013-row-events.md).
const WIDE: usize = 24;

/// Whether a change of one column costs the target less as a row event than as SQL, which has to name many others.
fn is_wide(mapping: &Mapping) -> bool {
    let stands = mapping.written.iter().filter(|(_, target)| {
        let column = mapping.target.columns.get(*target);
        column.is_some_and(|column| column.unchanged != Unchanged::Absent)
    });
    stands.count() >= WIDE
}

/// Whether every conflict of the table can be settled by row events.
fn settles_all(mapping: &Mapping) -> bool {
    mapping.target.unique_keys.is_empty() || stored_key::expressions(mapping).is_ok()
}

/// Row events name columns by their place and carry bytes without a character set, and the servers take them as they
/// are: what stands in the way of that.
fn difference(mapping: &Mapping, flavor: Flavor) -> Option<String> {
    let target = &mapping.target;
    if flavor == Flavor::MariaDb && !target.keyed_by_primary {
        // It looks for a row by its first unique key, whichever the image has.
        return Some(format!(
            "table {target} has no PRIMARY KEY over whole columns; give it one"
        ));
    }
    let mut held = (0..target.columns.len()).map(|column| mapping.image_index(column).is_some());
    if held.by_ref().any(|held| !held) && held.any(|held| held) {
        return Some(
            "a column that the origin's rows do not have stands in front of others; let the origin's rows be applied before \
             columns are added, or add them at the end"
                .to_owned(),
        );
    }
    let key = mapping
        .row_key
        .iter()
        .filter_map(|(_, column)| target.columns.get(*column));
    if flavor == Flavor::MySql && key.clone().any(|column| column.name == "my_row_id") {
        return Some("its primary key is one that the server generated, which events name in another way; give it one of its own".to_owned());
    }
    target.columns.iter().enumerate().find_map(|(index, column)| {
        let source = mapping.source.columns.get(mapping.image_index(index)?)?;
        if column.generated && flavor == Flavor::MariaDb && mapping.rule.merges() {
            // It would be taken from one of the images that are merged.
            return Some(format!("column {} is generated from columns that may be merged", column.name));
        }
        if column.column_type.ends_with("COMPRESSED*/") {
            return Some(format!("column {} is COMPRESSED", column.name));
        }
        if let ColumnKind::Vector { dimensions, .. } = source.kind
            && column.column_type.to_ascii_lowercase() != format!("vector({dimensions})")
        {
            return Some(format!(
                "column {} is {} at the target and VECTOR({dimensions}) at the origin; make them the same with ALTER TABLE",
                column.name, column.column_type
            ));
        }
        let charset = column.charset.as_deref().unwrap_or("binary");
        other_charset(source, column, charset, flavor)
    })
}

/// The columns of a table's events: those of the target, in its order, as far as the origin has them.
pub(super) fn event_columns(mapping: &Mapping) -> Vec<EventColumn> {
    let columns = mapping.target.columns.iter().enumerate();
    let columns = columns.filter_map(|(index, column)| {
        let source = mapping.image_index(index)?;
        Some(EventColumn {
            kind: mapping.source.columns.get(source)?.kind,
            limits: Limits {
                nullable: column.nullable,
                unsigned: column.unsigned,
                members: column.members(),
            },
            source,
        })
    });
    columns.collect()
}

fn binlog(events: &[u8]) -> Vec<u8> {
    let mut sql = b"BINLOG '".to_vec();
    sql.extend_from_slice(BASE64.encode(events).as_bytes());
    sql.push(b'\'');
    sql
}

/// Writes BINLOG statements of one table and kind, many rows to each.
pub(super) struct EventWriter<'m> {
    mapping: &'m Mapping,
    operation: Operation,
    event: RowsEvent<'m>,
    rows: usize,
}

impl<'m> EventWriter<'m> {
    /// Rows that are new: [`Self::push`] takes each row's image.
    pub(super) fn insert(mapping: &'m Mapping, flavor: Flavor) -> Self {
        let all = (0..mapping.event_columns().len()).collect();
        let mode = mapping.foreign_keys;
        Self::new(mapping, flavor, mode, Operation::Write, vec![all])
    }

    /// Rows that get new values in these columns: [`Self::push`] takes the image that has the row's key, and the new
    /// image.
    pub(super) fn update(mapping: &'m Mapping, flavor: Flavor, set: ColumnSet) -> Self {
        let numbers = mapping.written.iter().enumerate();
        let set = numbers.filter(|(number, _)| set.contains(*number));
        let mut columns: Vec<usize> = set.map(|(_, (_, target))| *target).collect();
        // MariaDB takes a stored one from the image, and leaves it where the image has none.
        let generated = mapping.target.columns.iter().enumerate();
        let generated = generated
            .filter(|(index, column)| column.generated && mapping.image_index(*index).is_some());
        columns.extend(generated.map(|(index, _)| index));
        columns.sort_unstable();
        let (key, mode) = (row_key(mapping), mapping.foreign_keys);
        Self::new(mapping, flavor, mode, Operation::Update, vec![key, columns])
    }

    /// Rows that go: [`Self::push`] takes an image that has the row's key. `mode` says how foreign keys are minded.
    pub(super) fn delete(mapping: &'m Mapping, flavor: Flavor, mode: ForeignKeyMode) -> Self {
        Self::new(
            mapping,
            flavor,
            mode,
            Operation::Delete,
            vec![row_key(mapping)],
        )
    }

    fn new(
        mapping: &'m Mapping,
        flavor: Flavor,
        mode: ForeignKeyMode,
        operation: Operation,
        present: Vec<Vec<usize>>,
    ) -> Self {
        let named = (
            mapping.target.database.as_str(),
            mapping.target.name.as_str(),
        );
        let checks = mode == ForeignKeyMode::Engine;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| u32::try_from(since.as_secs()).unwrap_or(0));
        let columns = mapping.event_columns();
        let event = RowsEvent::begin((flavor, now), named, columns, operation, present, checks);
        Self {
            mapping,
            operation,
            event,
            rows: 0,
        }
    }

    /// What it does, for messages.
    pub(super) fn action(&self) -> &'static str {
        match self.operation {
            Operation::Write => "insert",
            Operation::Update => "update",
            Operation::Delete => "delete",
        }
    }

    /// Adds a row by its images.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming the column whose value has no bytes of its type.
    pub(super) fn push(&mut self, images: &[&Row]) -> Result<()> {
        self.rows += 1;
        let pushed = self.event.push(images);
        pushed.map_err(|(index, problem)| self.mapping.refuses(index, problem))
    }

    /// Rows that it has, and their bytes.
    pub(super) fn held(&self) -> (usize, usize) {
        (self.rows, self.event.bytes())
    }

    /// The statement of the rows that it has; none are left then.
    pub(super) fn statement(&mut self) -> Vec<u8> {
        self.rows = 0;
        binlog(&self.event.take())
    }

    /// The statement of one row.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub(super) fn of_one(mut self, images: &[&Row]) -> Result<Vec<u8>> {
        self.push(images)?;
        Ok(self.statement())
    }
}

fn row_key(mapping: &Mapping) -> Vec<usize> {
    let mut columns: Vec<usize> = mapping.row_key.iter().map(|(_, target)| *target).collect();
    columns.sort_unstable();
    columns
}
