//! A group of row changes as a link that is behind takes it in one commit, fitted to its table.

use std::sync::Arc;

use twinlog_engine::Result;
use twinlog_engine::apply::mapping::Mapping;
use twinlog_engine::conflict::claim::ChangeKeys;
use twinlog_engine::conflict::collation::Weights;
use twinlog_engine::conflict::key::image_keys;
use twinlog_engine::group::Mapped;
use twinlog_engine::row::{ColumnKind, Row, RowChange, SourceColumn, SourceTable, Value};
use twinlog_engine::schema::{ColumnSchema, TableSchema, UniqueKey};

/// Row changes of a group: what `group_rows` allows.
pub const CHANGES: usize = 20_000;
/// Rows of the table.
const ROWS: u64 = 100_000;

/// Columns of the table: of sysbench's, with a number that may be unique.
const COLUMNS: [(&str, &str); 5] = [
    ("id", "int"),
    ("k", "int"),
    ("code", "bigint"),
    ("c", "varchar"),
    ("pad", "varchar"),
];

/// Changes of one table, with their keys.
#[derive(Debug)]
pub struct Group {
    mapping: Arc<Mapping>,
    changes: Vec<(RowChange, ChangeKeys)>,
}

impl Group {
    /// [`CHANGES`] updates, and deletes with an insert of the same row behind each: three of four fall
    /// on one per cent of the rows, as sysbench chooses. With `unique`, the column `code` is a unique
    /// key, and every update gives it a value that no row has had.
    ///
    /// # Errors
    /// The table does not fit.
    pub fn new(unique: bool) -> Result<Self> {
        let mapping = Arc::new(Mapping::new(
            Arc::new(source()),
            Arc::new(target(unique)),
            false,
        )?);
        let mut draws = Draws(0x9e37_79b9_7f4a_7c15);
        let mut codes: Vec<u64> = (0..ROWS).collect();
        let mut version = 0;
        let mut changes = Vec::with_capacity(CHANGES);
        let weights = Weights::default();
        while changes.len() < CHANGES {
            let id = match draws.below(4) {
                0 => draws.below(ROWS),
                _ => ROWS / 2 + draws.below(ROWS / 100),
            };
            let code = codes[id as usize];
            let before = row(id, code, version);
            version += 1;
            let new = match draws.below(3) {
                0 => vec![
                    RowChange::Delete { before },
                    RowChange::Insert {
                        after: row(id, code, version),
                    },
                ],
                _ => {
                    codes[id as usize] = ROWS + version;
                    vec![RowChange::Update {
                        before,
                        after: row(id, ROWS + version, version),
                    }]
                }
            };
            for change in new {
                let keys = ChangeKeys::of(&change, |row| {
                    image_keys(
                        &mapping.target,
                        |column| mapping.value(row, column),
                        &weights,
                    )
                });
                changes.push((change, keys));
            }
        }
        changes.truncate(CHANGES);
        Ok(Self { mapping, changes })
    }

    /// As the plan takes them.
    pub fn mapped(&self) -> impl Iterator<Item = Mapped<'_>> {
        self.changes.iter().map(|(change, keys)| Mapped {
            mapping: &self.mapping,
            change,
            keys,
        })
    }
}

/// Numbers that look drawn, the same in each run (xorshift).
struct Draws(u64);

impl Draws {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

fn row(id: u64, code: u64, version: u64) -> Row {
    let text = |length: usize| {
        let digits = format!("{version:011}-").repeat(length / 12);
        Value::Bytes(digits.into_bytes().into())
    };
    [
        Value::Int(id as i64),
        Value::Int((version % ROWS) as i64),
        Value::Int(code as i64),
        text(120),
        text(60),
    ]
    .into()
}

fn source() -> SourceTable {
    let columns = COLUMNS.map(|(name, data_type)| SourceColumn {
        name: Some(name.into()),
        kind: match data_type {
            "int" => ColumnKind::Long,
            "bigint" => ColumnKind::LongLong,
            _ => ColumnKind::VarChar { max_bytes: 480 },
        },
        unsigned: Some(false),
        collation: None,
        nullable: false,
    });
    SourceTable {
        database: "bench".into(),
        name: "sbtest1".into(),
        columns: columns.into(),
        primary_key: None,
    }
}

fn target(unique: bool) -> TableSchema {
    let columns = COLUMNS.map(|(name, data_type)| ColumnSchema {
        name: name.into(),
        data_type: data_type.into(),
        column_type: data_type.into(),
        unsigned: false,
        nullable: false,
        charset: (data_type == "varchar").then(|| "utf8mb4".into()),
        collation: (data_type == "varchar").then(|| "utf8mb4_bin".into()),
        generated: false,
        auto_increment: name == "id",
        ..ColumnSchema::default()
    });
    let code = UniqueKey {
        name: "code".into(),
        columns: vec![2],
        prefixes: vec![None],
    };
    TableSchema {
        database: "bench".into(),
        name: "sbtest1".into(),
        table_type: "BASE TABLE".into(),
        engine: "InnoDB".into(),
        columns: columns.into(),
        row_key: vec![0],
        unique_keys: unique.then_some(code).into_iter().collect(),
        has_opaque_unique_key: false,
        parents: Vec::new(),
        children: Vec::new(),
        triggers: false,
        keyed_by_primary: true,
    }
}
