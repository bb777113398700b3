//! A model of one server: a table with a row key and unique keys, in some worlds a second one that
//! refers to it, row locks, a wall clock that jumps, and a log. It knows nothing of replication but
//! the marker row.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use twinlog_engine::apply::column_set::ColumnSet;
use twinlog_engine::apply::mapping::Mapping;
use twinlog_engine::conflict::claim::{ChangeKeys, ClaimKind, RowWrite};
use twinlog_engine::conflict::collation::Weights;
use twinlog_engine::conflict::family::{Dependent, Family, Reference, Related};
use twinlog_engine::conflict::history::{Kept, Unkept};
use twinlog_engine::conflict::key::{KeyHash, image_keys};
use twinlog_engine::group::{Changed, Mapped, Step};
use twinlog_engine::position::LogPos;
use twinlog_engine::position::marker::Marker;
use twinlog_engine::row::{ColumnKind, Row, RowChange, SourceColumn, SourceTable, Value};
use twinlog_engine::schema::{ColumnSchema, ForeignKey, TableSchema, UniqueKey};
use twinlog_engine::transaction::{ForeignKeyMode, Seen};

/// Columns: the row key, two that may be unique, and one that never is.
const UNIQUE_COLUMNS: [usize; 2] = [1, 2];
const COLUMNS: [&str; 6] = ["id", "u1", "u2", "payload", "total", "peak"];
/// Columns that no key holds.
pub(crate) const PAYLOAD: usize = 3;
pub(crate) const TOTAL: usize = 4;
pub(crate) const PEAK: usize = 5;

/// Row keys of the second table begin behind this. Its rows hold the row key of their parent in the
/// first unique column, which is not unique there.
pub(crate) const CHILDREN: i64 = 100;
const PARENT: usize = 1;

/// A value of a key: (0, row key), (column, unique value) or ([`REFERENCE`], row key of a parent that
/// must stay).
pub(crate) type Lock = (usize, i64);
pub(crate) const REFERENCE: usize = 9;

/// A row change with its keys as the engine hashes them.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) change: RowChange,
    pub(crate) keys: ChangeKeys,
    pub(crate) writes: Vec<RowWrite>,
    /// Of each write: what it claims beside its keys.
    pub(crate) claimed: Vec<Vec<(KeyHash, ClaimKind)>>,
    /// Of each write: the keys by which it meets writes of the other table.
    pub(crate) related: Vec<Related>,
}

/// The tables with their foreign key.
#[derive(Debug)]
pub(crate) struct Tables {
    table: [TableSchema; 2],
    family: [Family; 2],
    mapping: [Arc<Mapping>; 2],
}

/// What a transaction in the log is.
#[derive(Debug)]
pub(crate) enum Body {
    /// Written by clients.
    Local(Vec<Change>),
    /// The first table was emptied by a client's TRUNCATE: the deletes of all rows that there may be, as
    /// which it counts.
    Emptied(Vec<Change>),
    /// Written by clients to tables that are not replicated.
    LeftOut,
    /// Applied by the engine; the marker of its origin as it then was.
    Applied(usize, Box<Mark>),
}

/// How far a node has the log of another one, and what that had seen there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) position: LogPos,
    /// The other node's clock there.
    pub(crate) clock: u64,
    /// How far the other node had the logs of all nodes there, by node.
    pub(crate) seen: Vec<Seen>,
}

/// A marker row: the engine's own, which knows of two nodes, and what it would say of the others.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    pub(crate) marker: Marker,
    /// What the origin knew of all nodes at the marker's position, by node.
    pub(crate) seen: Vec<Known>,
}

impl Mark {
    /// What a reader of the log learns from it.
    pub(crate) fn known(&self) -> Known {
        let seen = self.seen.iter().map(|known| Seen {
            position: known.position,
            clock: known.clock,
        });
        Known {
            position: self.marker.position,
            clock: self.marker.clock,
            seen: seen.collect(),
        }
    }
}

/// A transaction in the log.
#[derive(Debug)]
pub(crate) struct Logged {
    pub(crate) start: LogPos,
    pub(crate) end: LogPos,
    pub(crate) committed_at: u64,
    pub(crate) body: Body,
}

#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) rows: BTreeMap<i64, Row>,
    pub(crate) log: Vec<Rc<Logged>>,
    pub(crate) end: LogPos,
    /// The marker row of each origin, by node; its own is never moved.
    pub(crate) marks: Vec<Mark>,
    pub(crate) unique_keys: usize,
    /// The engine's table of histories.
    pub(crate) histories: BTreeMap<KeyHash, Kept>,
}

/// Takes back what an open transaction wrote.
#[derive(Default)]
pub(crate) struct Undo(Vec<(i64, Option<Row>)>);

impl Undo {
    /// Takes over what another one remembers, which was written later.
    pub(crate) fn append(&mut self, later: Undo) {
        self.0.extend(later.0);
    }

    /// Row keys that were written.
    pub(crate) fn written(&self) -> impl Iterator<Item = i64> {
        self.0.iter().map(|(key, _)| *key)
    }
}

pub(crate) fn number(row: &Row, column: usize) -> Option<i64> {
    match row.get(column) {
        Some(Value::Int(number)) => Some(*number),
        _ => None,
    }
}

pub(crate) fn key_of(row: &Row) -> i64 {
    number(row, 0).unwrap_or(0)
}

pub(crate) fn is_child(row: &Row) -> bool {
    key_of(row) > CHILDREN
}

/// Row key of the row's parent, where it is a child that has one.
pub(crate) fn parent_of(row: &Row) -> Option<i64> {
    number(row, PARENT).filter(|_| is_child(row))
}

pub(crate) fn row(key: i64, unique: [Option<i64>; 2], payload: i64) -> Row {
    let value = |value: Option<i64>| value.map_or(Value::Null, Value::Int);
    Box::new([
        Value::Int(key),
        value(unique[0]),
        value(unique[1]),
        Value::Int(payload),
        Value::Int(0),
        Value::Int(0),
    ])
}

fn column(name: &str) -> ColumnSchema {
    ColumnSchema {
        name: name.into(),
        data_type: "bigint".into(),
        column_type: "bigint".into(),
        unsigned: false,
        nullable: true,
        charset: None,
        collation: None,
        generated: false,
        auto_increment: false,
        ..ColumnSchema::default()
    }
}

fn mapping(table: &TableSchema, parents: &[ForeignKey], children: &[ForeignKey]) -> Arc<Mapping> {
    let columns = table.columns.iter().map(|column| SourceColumn {
        name: Some(column.name.as_str().into()),
        kind: ColumnKind::LongLong,
        unsigned: Some(false),
        collation: None,
        nullable: true,
    });
    let source = SourceTable {
        database: table.database.as_str().into(),
        name: table.name.as_str().into(),
        columns: columns.collect(),
        primary_key: None,
    };
    let target = TableSchema {
        parents: parents.to_vec(),
        children: children.to_vec(),
        ..table.clone()
    };
    let mut mapping = Mapping::new(Arc::new(source), Arc::new(target), false).expect("they fit");
    // What goes with its parent is in the log.
    mapping.foreign_keys = ForeignKeyMode::Logged;
    Arc::new(mapping)
}

pub(crate) fn schema(unique_keys: usize) -> TableSchema {
    TableSchema {
        database: "d".into(),
        name: "t".into(),
        row_key: vec![0],
        unique_keys: UNIQUE_COLUMNS[..unique_keys]
            .iter()
            .map(|column| UniqueKey {
                name: format!("u{column}"),
                columns: vec![*column],
                prefixes: vec![None],
            })
            .collect(),
        table_type: "BASE TABLE".into(),
        engine: "InnoDB".into(),
        columns: COLUMNS.map(column).into(),
        has_opaque_unique_key: false,
        parents: Vec::new(),
        children: Vec::new(),
        triggers: false,
        keyed_by_primary: true,
    }
}

/// Database and name of the first table, as the engine knows it.
pub(crate) const EMPTIED: (&str, &str) = ("d", "t");

impl Body {
    /// What clients wrote.
    pub(crate) fn changes(&self) -> &[Change] {
        match self {
            Body::Local(changes) | Body::Emptied(changes) => changes,
            Body::LeftOut | Body::Applied(..) => &[],
        }
    }

    /// Whether clients of the log's node wrote it, and other nodes are to have it.
    pub(crate) fn is_written(&self) -> bool {
        matches!(self, Body::Local(_) | Body::Emptied(_))
    }
}

impl Tables {
    /// Of a world with so many unique keys.
    pub(crate) fn new(unique_keys: usize) -> Self {
        let parent = schema(unique_keys);
        let child = TableSchema {
            name: "c".into(),
            ..schema(0)
        };
        let name = |table: &TableSchema| (table.database.clone(), table.name.clone());
        let key = ForeignKey {
            name: "refers".into(),
            child: name(&child),
            parent: name(&parent),
            on_delete: "CASCADE".into(),
            columns: vec![(COLUMNS[PARENT].into(), COLUMNS[0].into())],
        };
        let dependent = Dependent {
            key: key.clone(),
            child: Arc::new(child.clone()),
        };
        let reference = Reference {
            key: key.clone(),
            parent: Arc::new(parent.clone()),
            columns: vec![PARENT],
        };
        let refers = std::slice::from_ref(&key);
        let mapping = [mapping(&parent, &[], refers), mapping(&child, refers, &[])];
        Self {
            mapping,
            table: [parent, child],
            family: [
                Family {
                    references: Vec::new(),
                    dependents: vec![dependent],
                },
                Family {
                    references: vec![reference],
                    dependents: Vec::new(),
                },
            ],
        }
    }
}

impl Change {
    pub(crate) fn new(change: RowChange, tables: &Tables) -> Self {
        let mut built = Self {
            change,
            keys: ChangeKeys::default(),
            writes: Vec::new(),
            claimed: Vec::new(),
            related: Vec::new(),
        };
        let (before, after) = (built.before(), built.after());
        let which = usize::from(before.or(after).is_some_and(is_child));
        let (schema, family) = (&tables.table[which], &tables.family[which]);
        let weights = Weights::default();
        let keys = ChangeKeys::of(&built.change, |row| {
            image_keys(schema, |column| row.get(column), &weights)
        });
        let writes: Vec<RowWrite> = keys.clone().writes().collect();
        let of_before = |column: usize| before?.get(column);
        let of_after = |column: usize| after?.get(column);
        let claimed = writes
            .iter()
            .map(|write| family.claims(write, of_after, &weights))
            .collect();
        let related = writes
            .iter()
            .map(|write| family.meets(write, of_before, of_after, &weights))
            .collect();
        built.keys = keys;
        built.writes = writes;
        built.claimed = claimed;
        built.related = related;
        built
    }

    /// As the engine merges a group's changes.
    pub(crate) fn mapped<'c>(&'c self, tables: &'c Tables) -> Mapped<'c> {
        let which = usize::from(self.before().or(self.after()).is_some_and(is_child));
        Mapped {
            mapping: &tables.mapping[which],
            change: &self.change,
            keys: &self.keys,
        }
    }

    pub(crate) fn before(&self) -> Option<&Row> {
        match &self.change {
            RowChange::Insert { .. } => None,
            RowChange::Update { before, .. } | RowChange::Delete { before } => Some(before),
        }
    }

    pub(crate) fn after(&self) -> Option<&Row> {
        match &self.change {
            RowChange::Delete { .. } => None,
            RowChange::Update { after, .. } | RowChange::Insert { after } => Some(after),
        }
    }
}

impl Server {
    pub(crate) fn new(unique_keys: usize, rows: BTreeMap<i64, Row>, marks: Vec<Mark>) -> Self {
        Self {
            rows,
            log: Vec::new(),
            end: LogPos::new(1, 4),
            marks,
            unique_keys,
            histories: BTreeMap::new(),
        }
    }

    /// Keeps what is new of a history, as the engine does in its schema.
    pub(crate) fn keep(&mut self, key: KeyHash, unkept: &mut Unkept) {
        let kept = self.histories.entry(key).or_insert_with(|| Kept {
            base: unkept.base.clone(),
            entries: Vec::new(),
            last_local: LogPos::default(),
        });
        kept.base = unkept.base.clone();
        let first = unkept.first.effective;
        kept.entries.retain(|entry| entry.order.effective >= first);
        let mut entries = unkept.entries.clone();
        loop {
            let spilled = unkept.take_spilled(200).expect("the disk works");
            if spilled.is_empty() {
                break;
            }
            entries.extend(spilled);
        }
        for entry in entries {
            kept.entries.retain(|known| known.order != entry.order);
            kept.entries.push(entry);
        }
    }

    /// The other row that holds this value of a unique key (numbered from 0).
    pub(crate) fn holder(&self, unique: usize, image: &Row) -> Option<i64> {
        let column = UNIQUE_COLUMNS[unique];
        let value = number(image, column)?;
        let key = key_of(image);
        self.rows
            .iter()
            .find(|(other, row)| **other != key && number(row, column) == Some(value))
            .map(|(other, _)| *other)
    }

    /// Whether the image could be written at its row key.
    pub(crate) fn fits(&self, image: &Row) -> bool {
        (0..self.unique_keys).all(|unique| self.holder(unique, image).is_none())
    }

    /// The locks that writing or reading `image` for update takes: of its key values, and of the
    /// rows that hold one of them now, whole.
    pub(crate) fn locks_of(&self, image: &Row) -> Vec<Lock> {
        let mut locks = self.key_values(image);
        let at_key = self.rows.get(&key_of(image));
        let holders = (0..self.unique_keys)
            .filter_map(|unique| self.holder(unique, image))
            .filter_map(|key| self.rows.get(&key));
        for held in at_key.into_iter().chain(holders) {
            locks.extend(self.key_values(held));
        }
        locks
    }

    /// The locks that reading the row at the image's row key for update takes: of the row key, and
    /// of the row that is there, whole.
    pub(crate) fn row_locks(&self, image: &Row) -> Vec<Lock> {
        let mut locks = vec![(0, key_of(image))];
        if let Some(held) = self.rows.get(&key_of(image)) {
            locks.extend(self.key_values(held));
        }
        locks
    }

    pub(crate) fn key_values(&self, image: &Row) -> Vec<Lock> {
        let unique = &UNIQUE_COLUMNS[..self.unique_keys];
        let values = std::iter::once(0)
            .chain(unique.iter().copied())
            .filter_map(|column| Some((column, number(image, column)?)));
        let parent = parent_of(image).map(|parent| (REFERENCE, parent));
        values.chain(parent).collect()
    }

    /// Row keys of the children of a row.
    pub(crate) fn children_of(&self, parent: i64) -> Vec<i64> {
        let children = self
            .rows
            .range(CHILDREN..)
            .filter(|(_, row)| parent_of(row) == Some(parent));
        children.map(|(key, _)| *key).collect()
    }

    /// A child whose parent is not there.
    pub(crate) fn orphan(&self) -> Option<&Row> {
        let mut children = self.rows.range(CHILDREN..).map(|(_, row)| row);
        children.find(|row| parent_of(row).is_some_and(|parent| !self.rows.contains_key(&parent)))
    }

    /// Writes or removes the row at a key.
    pub(crate) fn set(&mut self, key: i64, image: Option<Row>, undo: &mut Undo) {
        let before = match image {
            Some(image) => self.rows.insert(key, image),
            None => self.rows.remove(&key),
        };
        undo.0.push((key, before));
    }

    /// Writes a change as an ordinary statement does. `Err` where the server would refuse it or
    /// find no row.
    pub(crate) fn write(&mut self, change: &Change, undo: &mut Undo) -> Result<(), String> {
        let (before, after) = (change.before(), change.after());
        if let Some(before) = before {
            let found = self.rows.get(&key_of(before));
            if found.is_none() {
                return Err(format!("no row {}", key_of(before)));
            }
            self.set(key_of(before), None, undo);
        }
        if let Some(after) = after {
            if self.rows.contains_key(&key_of(after)) {
                return Err(format!("row {} is there already", key_of(after)));
            }
            if !self.fits(after) {
                return Err(format!("row {} has a value that is taken", key_of(after)));
            }
            self.set(key_of(after), Some(after.clone()), undo);
        }
        Ok(())
    }

    /// Does what a statement of a merged plan does with one of its rows. `Err` where the server would
    /// refuse it, or not say of it what the plan expects.
    pub(crate) fn step(
        &mut self,
        step: &Step<'_>,
        changed: Changed<'_>,
        undo: &mut Undo,
    ) -> Result<(), String> {
        let row = changed.to;
        let key = key_of(row);
        let gone = match step {
            Step::Update(_, before, _) => Some(key_of(before)),
            Step::Insert(..) => None,
            Step::Upsert(..) | Step::Delete(..) | Step::Lock(..) => Some(key),
        };
        match gone {
            Some(gone) if !self.rows.contains_key(&gone) => return Err(format!("no row {gone}")),
            None if self.rows.contains_key(&key) => {
                return Err(format!("row {key} is there already"));
            }
            _ => {}
        }
        let after = match step {
            Step::Lock(..) => return Ok(()),
            Step::Delete(..) => None,
            Step::Insert(..) => Some(row.clone()),
            // Only what differs is written: the rest must be as it was at the origin by itself.
            Step::Upsert(mapping, _) | Step::Update(mapping, ..) => {
                let stored = gone.and_then(|gone| self.rows.get(&gone));
                let mut new = stored.cloned().unwrap_or_else(|| row.clone());
                let columns = ColumnSet::of(mapping, &changed);
                for (number, (source, target)) in mapping.written.iter().enumerate() {
                    if columns.contains(number) {
                        new[*target] = row[*source].clone();
                    }
                }
                Some(new)
            }
        };
        if let Some(gone) = gone {
            self.set(gone, None, undo);
        }
        if let Some(after) = after {
            if self.rows.contains_key(&key) || !self.fits(&after) {
                return Err(format!("row {key} has a value that is taken"));
            }
            self.set(key, Some(after), undo);
        }
        Ok(())
    }

    pub(crate) fn roll_back(&mut self, undo: Undo) {
        for (key, before) in undo.0.into_iter().rev() {
            match before {
                Some(row) => self.rows.insert(key, row),
                None => self.rows.remove(&key),
            };
        }
    }

    /// Commits: puts a transaction into the log. A new file begins now and then.
    pub(crate) fn commit(&mut self, committed_at: u64, body: Body, rotate: bool) {
        if rotate {
            self.end = LogPos::new(self.end.file + 1, 4);
        }
        let start = self.end;
        self.end.offset += 100;
        self.log.push(Rc::new(Logged {
            start,
            end: self.end,
            committed_at,
            body,
        }));
    }
}
