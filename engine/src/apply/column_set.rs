//! Which columns of their table some changed rows differ in, so that no other need be written.

use crate::group::Changed;
use crate::row::{Row, Value};

use super::mapping::Mapping;

/// Bytes of values, more than have to, that are written rather than to begin another statement for a few
/// rows.
const SHARED_BYTES: usize = 2048;
/// Rows that are worth a statement of their own.
const OWN_STATEMENT_ROWS: usize = 16;

/// Columns, by their numbers in [`Mapping::written`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ColumnSet(u128);

impl ColumnSet {
    /// Every column.
    pub const ALL: Self = Self(u128::MAX);
    /// The highest bit stands for this column and all behind it: to write more than has changed is no
    /// harm.
    const LAST: usize = 127;

    /// The columns in which two images differ.
    #[must_use]
    pub fn differing(mapping: &Mapping, from: &Row, to: &Row) -> Self {
        let mut set = Self::default();
        for (number, (source, _)) in mapping.written.iter().enumerate() {
            let same = match (from.get(*source), to.get(*source)) {
                (Some(from), Some(to)) => from.is(to),
                _ => false,
            };
            if !same {
                set.0 |= 1 << number.min(Self::LAST);
            }
        }
        set
    }

    /// The columns that have to be set for a row to become another image.
    #[must_use]
    pub fn of(mapping: &Mapping, changed: &Changed<'_>) -> Self {
        changed
            .from
            .map_or(Self::ALL, |from| Self::differing(mapping, from, changed.to))
    }

    /// Whether the column is one of them.
    #[must_use]
    pub fn contains(self, number: usize) -> bool {
        self.0 & (1 << number.min(Self::LAST)) != 0
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// Rows that are written by one statement, and the columns that it sets.
#[derive(Debug)]
pub(super) struct Alike<'b> {
    pub(super) columns: ColumnSet,
    pub(super) rows: Vec<&'b Row>,
}

/// Puts rows together that change in the same columns; a few rows with others as well, where that costs
/// less than a statement.
pub(super) fn alike<'b>(mapping: &Mapping, rows: &[Changed<'b>]) -> Vec<Alike<'b>> {
    let mut found: Vec<Alike<'b>> = Vec::new();
    let mut last = 0;
    for changed in rows {
        let columns = ColumnSet::of(mapping, changed);
        let known = |alike: &Alike<'_>| alike.columns == columns;
        // Mostly the one before, or one of a few.
        if !found.get(last).is_some_and(known) {
            last = found.iter().position(known).unwrap_or(found.len());
        }
        match found.get_mut(last) {
            Some(alike) => alike.rows.push(changed.to),
            None => found.push(Alike {
                columns,
                rows: vec![changed.to],
            }),
        }
    }
    if found.len() > 1 {
        share(mapping, found)
    } else {
        found
    }
}

fn share<'b>(mapping: &Mapping, found: Vec<Alike<'b>>) -> Vec<Alike<'b>> {
    let mut shared: Vec<Alike<'b>> = Vec::with_capacity(found.len());
    // Where the next few rows may go.
    let mut open: Option<usize> = None;
    for mut alike in found {
        if alike.rows.len() >= OWN_STATEMENT_ROWS || alike.columns.is_empty() {
            shared.push(alike);
            continue;
        }
        if let Some(with) = open.and_then(|open| shared.get_mut(open)) {
            let more = bytes(mapping, &alike.rows, with.columns.without(alike.columns))
                + bytes(mapping, &with.rows, alike.columns.without(with.columns));
            if more <= SHARED_BYTES && with.rows.len() < OWN_STATEMENT_ROWS {
                with.columns = with.columns.union(alike.columns);
                with.rows.append(&mut alike.rows);
                continue;
            }
        }
        open = Some(shared.len());
        shared.push(alike);
    }
    shared
}

fn bytes(mapping: &Mapping, rows: &[&Row], columns: ColumnSet) -> usize {
    let numbers = mapping.written.iter().enumerate();
    let sources = numbers.filter(|(number, _)| columns.contains(*number));
    let weight = |source| rows.iter().filter_map(move |row| row.get(source));
    sources
        .flat_map(|(_, (source, _))| weight(*source))
        .map(Value::weight)
        .sum()
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::row::{ColumnKind, SourceColumn, SourceTable};
    use crate::schema::{ColumnSchema, TableSchema};

    /// Of a key and that many texts.
    pub(in crate::apply) fn mapping(texts: usize) -> Mapping {
        let names = (0..=texts).map(|number| format!("c{number}"));
        let source = names
            .clone()
            .enumerate()
            .map(|(number, name)| SourceColumn {
                name: Some(name.into()),
                kind: match number {
                    0 => ColumnKind::Long,
                    _ => ColumnKind::Blob { length_bytes: 4 },
                },
                unsigned: Some(false),
                collation: None,
                nullable: true,
            });
        let source = SourceTable {
            database: "d".into(),
            name: "t".into(),
            columns: source.collect(),
            primary_key: None,
        };
        let target = names.enumerate().map(|(number, name)| ColumnSchema {
            name,
            data_type: if number == 0 { "int" } else { "longtext" }.to_owned(),
            nullable: number > 0,
            ..ColumnSchema::default()
        });
        let target = TableSchema {
            database: "d".to_owned(),
            name: "t".to_owned(),
            table_type: "BASE TABLE".to_owned(),
            engine: "InnoDB".to_owned(),
            columns: target.collect(),
            row_key: vec![0],
            ..TableSchema::default()
        };
        Mapping::new(Arc::new(source), Arc::new(target), false).unwrap()
    }

    pub(in crate::apply) fn row(id: i64, texts: &[&str]) -> Row {
        let texts = texts
            .iter()
            .map(|text| Value::Bytes(text.as_bytes().into()));
        std::iter::once(Value::Int(id)).chain(texts).collect()
    }

    fn found(mapping: &Mapping, rows: &[(Row, Row)]) -> Vec<(Vec<usize>, usize)> {
        let changed = rows.iter().map(|(from, to)| Changed {
            from: Some(from),
            to,
        });
        let changed: Vec<Changed<'_>> = changed.collect();
        let columns = |set: ColumnSet| (0..3).filter(|number| set.contains(*number)).collect();
        let alike = alike(mapping, &changed).into_iter();
        alike
            .map(|alike| (columns(alike.columns), alike.rows.len()))
            .collect()
    }

    #[test]
    fn rows_share_a_statement_where_that_costs_less_than_another() {
        let mapping = mapping(2);
        let large = "x".repeat(SHARED_BYTES);
        let first = |id, other: &str| (row(id, &["a", other]), row(id, &["b", other]));
        let second = |id, other: &str| (row(id, &[other, "a"]), row(id, &[other, "b"]));
        assert_eq!(
            found(&mapping, &[first(1, ""), second(2, ""), first(3, "")]),
            [(vec![1, 2], 3)]
        );
        // The value that would have to be written as well is too large for that.
        assert_eq!(
            found(
                &mapping,
                &[first(1, &large), second(2, ""), first(3, &large)]
            ),
            [(vec![1], 2), (vec![2], 1)]
        );
        let many: Vec<(Row, Row)> = (0..2 * OWN_STATEMENT_ROWS as i64)
            .map(|id| {
                if id % 2 == 0 {
                    first(id, "")
                } else {
                    second(id, "")
                }
            })
            .collect();
        let each = OWN_STATEMENT_ROWS;
        assert_eq!(found(&mapping, &many), [(vec![1], each), (vec![2], each)]);
    }

    #[test]
    fn a_zero_and_its_negative_differ() {
        let mapping = mapping(1);
        let of = |value: f64| -> Row { [Value::Int(1), Value::Double(value)].into() };
        let differing = |to| ColumnSet::differing(&mapping, &of(0.0), &of(to));
        assert!(differing(0.0).is_empty());
        assert!(differing(-0.0).contains(1) && !differing(-0.0).contains(0));
    }

    #[test]
    fn columns_behind_the_last_bit_go_together() {
        let mapping = mapping(200);
        let texts = |changed: usize| {
            let mut texts = vec!["a"; 200];
            texts[changed] = "b";
            row(1, &texts)
        };
        let set = ColumnSet::differing(&mapping, &row(1, &["a"; 200]), &texts(180));
        assert!(set.contains(181) && set.contains(150) && !set.contains(100));
    }
}
