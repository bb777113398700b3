//! The schema of a target's tables, as its information_schema tells it.

mod catalog;
mod unchanged;

pub use catalog::SchemaCatalog;
pub use unchanged::Unchanged;

/// A table at the target.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TableSchema {
    /// Database name.
    pub database: String,
    /// Table name.
    pub name: String,
    /// `TABLE_TYPE`: `BASE TABLE`, or MariaDB's `SEQUENCE` and `SYSTEM VERSIONED`.
    pub table_type: String,
    /// Storage engine, such as `InnoDB`.
    pub engine: String,
    /// Columns in ordinal order, generated and invisible ones included.
    pub columns: Vec<ColumnSchema>,
    /// The key that names a row: the primary key, or the first unique key without a nullable column.
    /// Empty where there is none.
    pub row_key: Vec<usize>,
    /// Whether `row_key` is the primary key.
    pub keyed_by_primary: bool,
    /// All unique keys but `row_key`, as column indexes.
    pub unique_keys: Vec<UniqueKey>,
    /// Whether it has a unique index over an expression, which cannot be compared by column values
    /// here; the server still enforces it.
    pub has_opaque_unique_key: bool,
    /// Foreign keys in which it is the child.
    pub parents: Vec<ForeignKey>,
    /// Foreign keys in which it is the parent. One that refers to its own table is in both.
    pub children: Vec<ForeignKey>,
    /// Whether it has triggers.
    pub triggers: bool,
}

impl TableSchema {
    /// Whether it has a foreign key or is referenced by one.
    #[must_use]
    pub fn in_foreign_keys(&self) -> bool {
        !self.parents.is_empty() || !self.children.is_empty()
    }

    /// Index of a column by name; column names do not distinguish case.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns
            .iter()
            .position(|column| column.name.eq_ignore_ascii_case(name))
            .or_else(|| {
                let lower = name.to_lowercase();
                self.columns
                    .iter()
                    .position(|column| column.name.to_lowercase() == lower)
            })
    }
}

impl std::fmt::Display for TableSchema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.database, self.name)
    }
}

/// A foreign key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignKey {
    /// Name of the constraint.
    pub name: String,
    /// Database and name of the table that refers.
    pub child: (String, String),
    /// Database and name of the table that is referred to.
    pub parent: (String, String),
    /// `DELETE_RULE`, such as `CASCADE`.
    pub on_delete: String,
    /// Names of the columns: in the child, in the parent.
    pub columns: Vec<(String, String)>,
}

/// A unique key beside the row key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UniqueKey {
    /// Index name.
    pub name: String,
    /// Columns, as indexes into [`TableSchema::columns`].
    pub columns: Vec<usize>,
    /// For each of them, how much of it the key holds: characters, or bytes of a binary column;
    /// `None` for all.
    pub prefixes: Vec<Option<u32>>,
}

impl ColumnSchema {
    /// A number of this unsigned column that was read as a signed one of the column's width.
    #[must_use]
    pub fn as_unsigned(&self, number: i64) -> u64 {
        let bits = number.cast_unsigned();
        match self.data_type.as_str() {
            "tinyint" => bits & 0xFF,
            "smallint" => bits & 0xFFFF,
            "mediumint" => bits & 0xFF_FFFF,
            "int" => bits & 0xFFFF_FFFF,
            _ => bits,
        }
    }

    /// Names of the members of an ENUM or SET, such as `enum('a','it''s')`.
    #[must_use]
    pub fn labels(&self) -> Vec<String> {
        let inner = self
            .column_type
            .split_once('(')
            .and_then(|(_, rest)| rest.rsplit_once(')'))
            .map_or("", |(inner, _)| inner);
        let mut labels = Vec::new();
        let mut current: Option<String> = None;
        let mut letters = inner.chars().peekable();
        while let Some(letter) = letters.next() {
            match (&mut current, letter) {
                (None, '\'') => current = Some(String::new()),
                (None, _) => {}
                (Some(label), '\'') => {
                    if letters.peek() == Some(&'\'') {
                        letters.next();
                        label.push('\'');
                    } else {
                        labels.extend(current.take());
                    }
                }
                (Some(label), letter) => label.push(letter),
            }
        }
        labels
    }

    /// How many there are of them; 0 for columns of other types.
    #[must_use]
    pub fn members(&self) -> usize {
        match self.data_type.as_str() {
            "enum" | "set" => self.labels().len(),
            _ => 0,
        }
    }
}

/// Whether a `DATA_TYPE` (lower case) is GEOMETRY or one of its kinds.
#[must_use]
pub fn is_spatial(data_type: &str) -> bool {
    matches!(
        data_type,
        "geometry"
            | "point"
            | "linestring"
            | "polygon"
            | "multipoint"
            | "multilinestring"
            | "multipolygon"
            | "geometrycollection"
            | "geomcollection"
    )
}

/// A column at the target.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ColumnSchema {
    /// Name as declared.
    pub name: String,
    /// `DATA_TYPE`, lower case: `int`, `varchar`, `uuid`.
    pub data_type: String,
    /// `COLUMN_TYPE`, such as `int(10) unsigned` or `enum('a','b')`.
    pub column_type: String,
    /// For numbers.
    pub unsigned: bool,
    /// Whether NULL is allowed.
    pub nullable: bool,
    /// Character set of character columns, such as `utf8mb4`; `None` for others.
    pub charset: Option<String>,
    /// Collation of character columns.
    pub collation: Option<String>,
    /// Whether the server computes it.
    pub generated: bool,
    /// Whether `SELECT *` leaves it out.
    pub invisible: bool,
    /// Whether it is AUTO_INCREMENT.
    pub auto_increment: bool,
    /// Whether the server sets it by itself where an update does not (`ON UPDATE CURRENT_TIMESTAMP`).
    pub on_update: bool,
    /// What is written for it where an upsert leaves it as it is.
    pub unchanged: Unchanged,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read_with_their_quotes() {
        let of = |column_type: &str| ColumnSchema {
            data_type: column_type.split('(').next().unwrap().to_owned(),
            column_type: column_type.to_owned(),
            ..ColumnSchema::default()
        };
        let column = of("enum('a','it''s','x,y')");
        assert_eq!(column.labels(), ["a", "it's", "x,y"]);
        assert_eq!(column.members(), 3);
        assert_eq!(of("set()").labels(), [""; 0]);
        assert_eq!(of("decimal(1,2)").members(), 0);
    }
}
