//! What may stand for a column in an INSERT that is to end as an update which leaves the column as it is
//! (`ON DUPLICATE KEY UPDATE`, the row being there): the shorter, the less has to be written, sent and
//! parsed. The server makes a whole row of the INSERT before it finds the other one, so the row must be one
//! that it takes.

use super::{ColumnSchema, TableSchema};

/// What is written for a column that stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unchanged {
    /// Nothing: the server fills it with a constant.
    Absent,
    /// NULL. To leave the column out would be refused where its default was dropped, which MySQL does not
    /// tell from a default of NULL.
    Null,
    /// The empty text.
    Empty,
    /// The number 0.
    Zero,
    /// Its value.
    #[default]
    Value,
}

impl Unchanged {
    /// Of a column with this `COLUMN_DEFAULT` and this `EXTRA` in lower case, but for what the rest of the
    /// table says ([`keep_values`]).
    pub(super) fn of(column: &ColumnSchema, default: Option<&str>, extra: &str) -> Self {
        // DEFAULT_GENERATED is MySQL's word for an expression. It may have effects (a sequence), or cost.
        let constant = !extra.contains("default_generated") && default.is_none_or(is_constant);
        if column.auto_increment || !constant {
            Unchanged::Value
        } else if default.is_some() {
            Unchanged::Absent
        } else if column.nullable {
            Unchanged::Null
        } else if is_text(&column.data_type) {
            Unchanged::Empty
        } else if is_number(&column.data_type) {
            Unchanged::Zero
        } else {
            Unchanged::Value
        }
    }
}

/// Whether a default is a constant. MariaDB shows expressions and constants in one column, with texts in
/// quotes and calls with their parentheses; MySQL marks expressions elsewhere and shows texts as they are.
fn is_constant(default: &str) -> bool {
    let quoted = default
        .strip_prefix('\'')
        .and_then(|rest| rest.strip_suffix('\''));
    quoted.is_some_and(|text| !text.contains('\'')) || !default.contains(['(', '`'])
}

fn is_number(data_type: &str) -> bool {
    matches!(
        data_type,
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "decimal" | "float" | "double"
    )
}

fn is_text(data_type: &str) -> bool {
    matches!(data_type, "char" | "varchar" | "binary" | "varbinary")
        || data_type.ends_with("text")
        || data_type.ends_with("blob")
}

/// Has the values of all columns kept on which more depends than the column: those of keys and foreign
/// keys, and those that one of the `expressions` (of checks, generated columns, indexes) may name.
pub(super) fn keep_values(table: &mut TableSchema, expressions: &[String]) {
    let unique = table.unique_keys.iter().flat_map(|key| &key.columns);
    let mut kept: Vec<usize> = unique.chain(&table.row_key).copied().collect();
    let children = table.parents.iter().flat_map(|key| &key.columns);
    kept.extend(children.filter_map(|(child, _)| table.column(child)));
    let parents = table.children.iter().flat_map(|key| &key.columns);
    kept.extend(parents.filter_map(|(_, parent)| table.column(parent)));
    let expressions: Vec<String> = expressions.iter().map(|text| text.to_lowercase()).collect();
    let named = |column: &ColumnSchema| {
        // How the server writes such a name within an expression is not worth knowing.
        let plain = !column.name.contains(['`', '"', '\\']);
        let name = column.name.to_lowercase();
        !plain || expressions.iter().any(|text| text.contains(&name))
    };
    for (index, column) in table.columns.iter_mut().enumerate() {
        if kept.contains(&index) || (!expressions.is_empty() && named(column)) {
            column.unchanged = Unchanged::Value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, data_type: &str, nullable: bool) -> ColumnSchema {
        ColumnSchema {
            name: name.to_owned(),
            data_type: data_type.to_owned(),
            nullable,
            ..ColumnSchema::default()
        }
    }

    fn of(data_type: &str, nullable: bool, default: Option<&str>, extra: &str) -> Unchanged {
        let column = column("c", data_type, nullable);
        Unchanged::of(&column, default, extra)
    }

    #[test]
    fn only_what_the_server_fills_with_a_constant_is_left_out() {
        use Unchanged::{Absent, Empty, Null, Value, Zero};
        for (data_type, nullable, default, extra, expected) in [
            ("int", true, None, "", Null),
            // MariaDB's word for a column that may be NULL and says nothing else.
            ("int", true, Some("NULL"), "", Absent),
            ("int", false, Some("0"), "", Absent),
            ("int", false, Some("-1"), "", Absent),
            ("char", false, Some(""), "", Absent),
            ("char", false, Some("''"), "", Absent),
            ("varchar", false, Some("new"), "", Absent),
            ("varchar", false, Some("'a(b)'"), "", Absent),
            (
                "varchar",
                false,
                Some("'a' || nextval(`d`.`s`) || 'b'"),
                "",
                Value,
            ),
            ("bigint", false, Some("1000 + nextval(`d`.`s`)"), "", Value),
            ("datetime", false, Some("2000-01-01 00:00:00"), "", Absent),
            ("longtext", false, None, "", Empty),
            ("varbinary", false, None, "", Empty),
            ("int", false, None, "", Zero),
            ("decimal", false, None, "", Zero),
            ("point", false, None, "", Value),
            ("json", false, None, "", Value),
            ("enum", false, None, "", Value),
            ("bigint", true, Some("nextval(`d`.`s`)"), "", Value),
            ("varchar", true, Some("uuid()"), "", Value),
            ("varchar", true, Some("uuid()"), "default_generated", Value),
            (
                "datetime",
                true,
                Some("CURRENT_TIMESTAMP"),
                "default_generated",
                Value,
            ),
            ("timestamp", false, Some("current_timestamp()"), "", Value),
        ] {
            let found = of(data_type, nullable, default, extra);
            assert_eq!(
                found, expected,
                "{data_type} {nullable} {default:?} {extra}"
            );
        }
    }

    #[test]
    fn what_something_else_depends_on_keeps_its_value() {
        let mut table = TableSchema {
            columns: ["id", "Doc", "other", "q`q"]
                .map(|name| ColumnSchema {
                    unchanged: Unchanged::Absent,
                    ..column(name, "int", true)
                })
                .into(),
            row_key: vec![0],
            ..TableSchema::default()
        };
        let found = |table: &TableSchema| -> Vec<Unchanged> {
            table
                .columns
                .iter()
                .map(|column| column.unchanged)
                .collect()
        };
        keep_values(&mut table, &[]);
        let absent = Unchanged::Absent;
        assert_eq!(found(&table), [Unchanged::Value, absent, absent, absent]);
        keep_values(&mut table, &["json_valid(`doc`)".to_owned()]);
        let value = Unchanged::Value;
        assert_eq!(found(&table), [value, value, absent, value]);
    }
}
