//! Plans against a model of a server: whatever the log, the merged plan goes through, comes to the
//! same rows as the log's order, and locks every key that the log's order would have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::plan::{Changed, Mapped, Step, coalesced};
use super::split::{key_set, split};
use crate::apply::column_set::ColumnSet;
use crate::apply::mapping::Mapping;
use crate::conflict::claim::ChangeKeys;
use crate::conflict::collation::Weights;
use crate::conflict::key::image_keys;
use crate::row::{ColumnKind, Row, RowChange, SourceColumn, SourceTable, Value};
use crate::schema::{ColumnSchema, ForeignKey, TableSchema, UniqueKey};
use crate::transaction::ForeignKeyMode;

/// Columns of every table: row key, two unique values, the parent that is referred to, payload.
const COLUMNS: [&str; 5] = ["id", "u1", "u2", "parent", "n"];
const PARENT: usize = 3;

/// What a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Simple,
    Unique,
    Parent,
    Child,
}
const KINDS: [Kind; 4] = [Kind::Simple, Kind::Unique, Kind::Parent, Kind::Child];

impl Kind {
    fn unique(self) -> &'static [usize] {
        match self {
            Kind::Unique | Kind::Child => &[1, 2],
            Kind::Simple | Kind::Parent => &[],
        }
    }
}

fn mapping(kind: Kind, mode: ForeignKeyMode, on_delete: &str) -> Arc<Mapping> {
    let name = format!("{kind:?}");
    let columns = COLUMNS.map(|name| SourceColumn {
        name: Some(name.into()),
        kind: ColumnKind::Long,
        unsigned: Some(false),
        collation: None,
        nullable: true,
    });
    let source = SourceTable {
        database: "d".into(),
        name: name.as_str().into(),
        columns: columns.into(),
        primary_key: None,
    };
    let reference = ForeignKey {
        name: "child_parent".into(),
        child: ("d".into(), "Child".into()),
        parent: ("d".into(), "Parent".into()),
        on_delete: on_delete.into(),
        columns: vec![("parent".into(), "id".into())],
    };
    let of = |wanted| {
        let reference = (kind == wanted).then(|| reference.clone());
        reference.into_iter().collect()
    };
    let target = TableSchema {
        database: "d".into(),
        name,
        table_type: "BASE TABLE".into(),
        engine: "InnoDB".into(),
        columns: COLUMNS
            .map(|name| ColumnSchema {
                name: name.into(),
                data_type: "int".into(),
                column_type: "int".into(),
                unsigned: false,
                nullable: name != "id",
                charset: None,
                collation: None,
                generated: false,
                auto_increment: false,
                ..ColumnSchema::default()
            })
            .into(),
        row_key: vec![0],
        unique_keys: kind
            .unique()
            .iter()
            .map(|column| UniqueKey {
                name: COLUMNS[*column].into(),
                columns: vec![*column],
                prefixes: vec![None],
            })
            .collect(),
        has_opaque_unique_key: false,
        parents: of(Kind::Child),
        children: of(Kind::Parent),
        triggers: false,
        keyed_by_primary: true,
    };
    let mut mapping = Mapping::new(Arc::new(source), Arc::new(target), false).unwrap();
    mapping.foreign_keys = mode;
    Arc::new(mapping)
}

/// A key: table, column, value.
type Key = (Kind, usize, i64);

/// The rows of a server.
#[derive(Debug, Clone, PartialEq)]
struct Server {
    rows: BTreeMap<Kind, BTreeMap<i64, Row>>,
    minds: bool,
    cascades: bool,
    /// What was written or locked.
    locked: BTreeSet<Key>,
}

fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        _ => None,
    }
}

fn id(row: &Row) -> i64 {
    number(&row[0]).unwrap()
}

fn keys(kind: Kind, row: &Row) -> Vec<Key> {
    let columns = std::iter::once(&0).chain(kind.unique());
    let keys = columns.filter_map(|column| Some((kind, *column, number(&row[*column])?)));
    keys.collect()
}

impl Server {
    fn get(&self, kind: Kind, id: i64) -> Option<&Row> {
        self.rows[&kind].get(&id)
    }

    /// The row, other than the one called `but`, that has one of the row's keys.
    fn collides(&self, kind: Kind, row: &Row, but: Option<i64>) -> Option<i64> {
        let wanted = keys(kind, row);
        // In the order of the indexes.
        wanted.iter().find_map(|key| {
            let mut rows = self.rows[&kind].iter();
            let holder = rows.find(|(id, row)| Some(**id) != but && keys(kind, row).contains(key));
            holder.map(|(id, _)| *id)
        })
    }

    fn put(&mut self, kind: Kind, row: &Row) {
        self.locked.extend(keys(kind, row));
        self.rows
            .get_mut(&kind)
            .unwrap()
            .insert(id(row), row.clone());
    }

    fn take(&mut self, kind: Kind, id: i64) -> Option<Row> {
        let row = self.rows.get_mut(&kind).unwrap().remove(&id)?;
        self.locked.extend(keys(kind, &row));
        Some(row)
    }

    fn has_parent(&self, kind: Kind, row: &Row) -> bool {
        let parent = number(&row[PARENT]).filter(|_| kind == Kind::Child && self.minds);
        parent.is_none_or(|parent| self.get(Kind::Parent, parent).is_some())
    }

    fn insert(&mut self, kind: Kind, row: &Row) -> Result<u64, String> {
        if self.collides(kind, row, None).is_some() || !self.has_parent(kind, row) {
            return Err(format!("insert {kind:?} {row:?}"));
        }
        self.put(kind, row);
        Ok(1)
    }

    fn update(&mut self, kind: Kind, old: i64, row: &Row) -> Result<u64, String> {
        let moved = kind == Kind::Parent && old != id(row) && self.children(old).next().is_some();
        if self.collides(kind, row, Some(old)).is_some()
            || !self.has_parent(kind, row)
            || (moved && self.minds)
        {
            return Err(format!("update {kind:?} {old} to {row:?}"));
        }
        if self.take(kind, old).is_none() {
            return Ok(0);
        }
        self.put(kind, row);
        Ok(1)
    }

    fn children(&self, parent: i64) -> impl Iterator<Item = i64> {
        let rows = self.rows[&Kind::Child].iter();
        let children = rows.filter(move |(_, row)| number(&row[PARENT]) == Some(parent));
        children.map(|(id, _)| *id)
    }

    fn delete(&mut self, kind: Kind, id: i64) -> Result<u64, String> {
        if kind == Kind::Parent && self.minds {
            let children: Vec<i64> = self.children(id).collect();
            if !self.cascades && !children.is_empty() {
                return Err(format!("delete parent {id}"));
            }
            for child in children {
                self.take(Kind::Child, child);
            }
        }
        Ok(self.take(kind, id).map_or(0, |_| 1))
    }

    /// Sets the columns that differ, as the statement does.
    fn upsert(
        &mut self,
        kind: Kind,
        changed: &Changed<'_>,
        mapping: &Mapping,
    ) -> Result<u64, String> {
        let row = changed.to;
        let Some(found) = self.collides(kind, row, None) else {
            return self.insert(kind, row);
        };
        if found != id(row) {
            return Err(format!("{row:?} mistaken for {found}"));
        }
        let from = changed.from.ok_or("the mapping is the same")?;
        let columns = ColumnSet::differing(mapping, from, row);
        let mut new = self.get(kind, found).ok_or("no row")?.clone();
        for (number, (source, target)) in mapping.written.iter().enumerate() {
            if columns.contains(number) {
                new[*target] = row[*source].clone();
            }
        }
        if self.get(kind, found) == Some(&new) {
            return Ok(1);
        }
        self.update(kind, found, &new)?;
        Ok(2)
    }

    fn run(&mut self, step: &Step<'_>) -> Result<(), String> {
        let kind = KINDS
            .into_iter()
            .find(|kind| step.mapping().target.name == format!("{kind:?}"))
            .unwrap();
        let mut many =
            |rows: &[&Row], each: u64, run: &dyn Fn(&mut Self, &Row) -> Result<u64, String>| {
                for row in rows {
                    let found = run(self, row)?;
                    if found != each {
                        return Err(format!("{step:?}: {found} instead of {each}"));
                    }
                }
                Ok(())
            };
        match step {
            Step::Insert(_, rows) => many(rows, 1, &|server, row| server.insert(kind, row)),
            Step::Upsert(mapping, rows) => rows.iter().try_for_each(|changed| {
                let found = self.upsert(kind, changed, mapping)?;
                if found == 2 {
                    Ok(())
                } else {
                    Err(format!("{step:?}: {found} instead of 2"))
                }
            }),
            Step::Delete(_, rows) => many(rows, 1, &|server, row| server.delete(kind, id(row))),
            Step::Update(_, before, after) => many(&[after], 1, &|server, row| {
                server.update(kind, id(before), row)
            }),
            Step::Lock(_, rows) => many(rows, 1, &|server, row| {
                let stored = server.get(kind, id(row)).cloned();
                server
                    .locked
                    .extend(stored.iter().flat_map(|row| keys(kind, row)));
                Ok(u64::from(stored.is_some()))
            }),
        }
    }
}

/// One attempt of a client.
#[derive(Debug, Clone)]
struct Attempt {
    kind: Kind,
    what: u8,
    id: i64,
    other: i64,
    values: [i64; 4],
}

fn attempt() -> impl Strategy<Value = Attempt> {
    let kind = prop::sample::select(KINDS.to_vec());
    (
        kind,
        0..10_u8,
        0..4_i64,
        0..4_i64,
        prop::array::uniform4(0..5_i64),
    )
        .prop_map(|(kind, what, id, other, values)| Attempt {
            kind,
            what,
            id,
            other,
            values,
        })
}

impl Attempt {
    /// What becomes of it at the origin.
    fn run(&self, server: &mut Server) -> Option<RowChange> {
        let image = |id: i64, before: Option<&Row>, changed: u8| -> Row {
            let mut row = vec![Value::Int(id)];
            for (index, value) in self.values.iter().enumerate() {
                // Unique values may be NULL; most changes leave most columns alone.
                let kept = before.filter(|_| changed & (1 << index) == 0);
                row.push(match kept {
                    Some(before) => before[index + 1].clone(),
                    None if *value == 4 && index < 2 => Value::Null,
                    None => Value::Int(*value),
                });
            }
            row.into()
        };
        let before = server.get(self.kind, self.id).cloned();
        let (done, change) = match (before, self.what) {
            (None, _) => {
                let after = image(self.id, None, 0);
                (
                    server.insert(self.kind, &after),
                    RowChange::Insert { after },
                )
            }
            (Some(before), 0..3) => (
                server.delete(self.kind, self.id),
                RowChange::Delete { before },
            ),
            (Some(before), 3) => {
                let after = image(self.other, Some(&before), 0);
                (
                    server.update(self.kind, self.id, &after),
                    RowChange::Update { before, after },
                )
            }
            (Some(before), what) => {
                let after = image(
                    self.id,
                    Some(&before),
                    [1, 2, 4, 8, 8, 15][usize::from(what) - 4],
                );
                (
                    server.update(self.kind, self.id, &after),
                    RowChange::Update { before, after },
                )
            }
        };
        (done == Ok(1)).then_some(change)
    }
}

/// What a random history starts with, and what is written then.
struct Case {
    origin: Server,
    target: Server,
    mappings: [Arc<Mapping>; 4],
    changes: Vec<(usize, RowChange)>,
    keyed: Vec<ChangeKeys>,
}

impl Case {
    fn new(start: &[Attempt], written: &[Attempt], minds: bool, cascades: bool) -> Self {
        let mut origin = Server {
            rows: KINDS
                .into_iter()
                .map(|kind| (kind, BTreeMap::new()))
                .collect(),
            minds,
            cascades,
            locked: BTreeSet::new(),
        };
        for attempt in start {
            let _ = attempt.run(&mut origin);
        }
        origin.locked.clear();
        let target = origin.clone();
        let mode = if minds {
            ForeignKeyMode::Engine
        } else {
            ForeignKeyMode::Logged
        };
        let on_delete = if cascades { "CASCADE" } else { "RESTRICT" };
        let mappings = KINDS.map(|kind| mapping(kind, mode, on_delete));
        let changes: Vec<(usize, RowChange)> = written
            .iter()
            .filter_map(|attempt| {
                let table = KINDS.iter().position(|kind| *kind == attempt.kind)?;
                Some((table, attempt.run(&mut origin)?))
            })
            .collect();
        let weights = Weights::default();
        let keyed: Vec<ChangeKeys> = changes
            .iter()
            .map(|(table, change)| {
                ChangeKeys::of(change, |row| {
                    let mapping = &mappings[*table];
                    image_keys(
                        &mapping.target,
                        |column| mapping.value(row, column),
                        &weights,
                    )
                })
            })
            .collect();
        Self {
            origin,
            target,
            mappings,
            changes,
            keyed,
        }
    }

    fn mapped(&self) -> impl Iterator<Item = Mapped<'_>> {
        self.changes
            .iter()
            .zip(&self.keyed)
            .map(|((table, change), keys)| Mapped {
                mapping: &self.mappings[*table],
                change,
                keys,
            })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2500))]
    #[test]
    fn a_merged_plan_comes_to_the_same(
        start in prop::collection::vec(attempt(), 0..20),
        written in prop::collection::vec(attempt(), 1..40),
        minds in any::<bool>(),
        cascades in any::<bool>(),
    ) {
        let case = Case::new(&start, &written, minds, cascades);
        let (mut target, changes) = (case.target.clone(), &case.changes);
        let steps = coalesced(case.mapped());
        for step in &steps {
            if let Err(problem) = target.run(step) {
                prop_assert!(false, "{}\nchanges: {:#?}\nsteps: {:#?}", problem, changes, steps);
            }
        }
        prop_assert_eq!(&target.rows, &case.origin.rows);
        for (table, change) in changes {
            for key in change.images().flat_map(|row| keys(KINDS[*table], row)) {
                prop_assert!(target.locked.contains(&key), "{:?} is not locked: {:#?}", key, steps);
            }
        }
        prop_assert!(steps.len() <= changes.len() * 3);
    }

    /// The second of two groups, of which what is free runs anywhere among the steps of the first.
    #[test]
    fn a_group_beside_another_comes_to_the_same(
        start in prop::collection::vec(attempt(), 0..20),
        written in prop::collection::vec(attempt(), 1..60),
        cut in 0..100_usize,
        turns in any::<u128>(),
        minds in any::<bool>(),
        cascades in any::<bool>(),
    ) {
        let case = Case::new(&start, &written, minds, cascades);
        let mut target = case.target.clone();
        let cut = case.changes.len() * cut / 100;
        let first = coalesced(case.mapped().take(cut));
        let taken = Arc::new(key_set(case.keyed[..cut].iter()));
        let (free, waiting) = split(case.mapped().skip(cut), &[taken]);
        let number = free.len() + waiting.len();
        prop_assert_eq!(number, case.changes.len() - cut);
        let free = coalesced(free.into_iter());
        let (mut first_steps, mut free_steps) = (first.iter().peekable(), free.iter().peekable());
        let mut turns = (0..128).map(|turn| turns >> turn & 1 == 1).cycle();
        let mut steps = Vec::new();
        while first_steps.peek().is_some() || free_steps.peek().is_some() {
            let of_first = turns.next().unwrap_or(true);
            steps.extend(if of_first { first_steps.next() } else { free_steps.next() });
        }
        let behind = coalesced(waiting.into_iter());
        steps.extend(&behind);
        for step in &steps {
            if let Err(problem) = target.run(step) {
                prop_assert!(false, "{}\nchanges: {:#?}\nsteps: {:#?}", problem, case.changes, steps);
            }
        }
        prop_assert_eq!(&target.rows, &case.origin.rows);
        for (table, change) in &case.changes[cut..] {
            for key in change.images().flat_map(|row| keys(KINDS[*table], row)) {
                prop_assert!(target.locked.contains(&key), "{:?} is not locked: {:#?}", key, steps);
            }
        }
    }
}
