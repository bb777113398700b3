//! Row changes as SQL statements. With [`super::literal`], the only place that builds SQL of rows.

use super::column_set::ColumnSet;
use super::literal::write_literal;
use super::mapping::Mapping;
use crate::connection::quote_identifier;
use crate::decode::event::Flavor;
use crate::error::Result;
use crate::row::Row;
use crate::schema::Unchanged;

/// Writes statements for one table.
#[derive(Debug, Clone, Copy)]
pub struct StatementWriter<'m> {
    mapping: &'m Mapping,
    flavor: Flavor,
}

impl<'m> StatementWriter<'m> {
    /// For the table of `mapping`, in the target's dialect.
    #[must_use]
    pub fn new(mapping: &'m Mapping, flavor: Flavor) -> Self {
        Self { mapping, flavor }
    }

    /// Head of an INSERT up to and with `VALUES`; rows follow through [`Self::push_row`].
    #[must_use]
    pub fn insert_head(&self) -> Vec<u8> {
        let columns: Vec<String> = self
            .mapping
            .written
            .iter()
            .map(|(_, target)| quote_identifier(&self.mapping.target.columns[*target].name))
            .collect();
        format!(
            "INSERT INTO {} ({}) VALUES ",
            self.table(),
            columns.join(",")
        )
        .into_bytes()
    }

    /// Appends `(..)`, with a comma in front unless it is the first.
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`] naming the column that has no faithful literal.
    pub fn push_row(&self, out: &mut Vec<u8>, row: &Row, first: bool) -> Result<()> {
        let written = self.mapping.written.iter();
        let values = written.map(|(source, target)| Filled::Value(*source, *target));
        self.push_filled(out, row, first, values)
    }

    fn push_filled(
        &self,
        out: &mut Vec<u8>,
        row: &Row,
        first: bool,
        columns: impl Iterator<Item = Filled>,
    ) -> Result<()> {
        out.extend_from_slice(if first { b"(" } else { b",(" });
        for (number, column) in columns.enumerate() {
            if number > 0 {
                out.push(b',');
            }
            match column {
                Filled::Value(source, target) => self.push_literal(out, row, source, target)?,
                Filled::By(text) => out.extend_from_slice(text),
            }
        }
        out.push(b')');
        Ok(())
    }

    /// The parts of an INSERT of rows that are there, which sets these columns of theirs: right only where no
    /// other unique key can collide, or the row is known to be there ([`crate::group::Step::Upsert`]).
    #[must_use]
    pub fn upsert(&self, set: ColumnSet) -> Upsert<'m> {
        // MySQL warns on VALUES() for every statement; MariaDB does not know the row alias.
        let (alias, open, close) = match self.flavor {
            Flavor::MySql => (" AS `twinlog new row`", "`twinlog new row`.", ""),
            Flavor::MariaDb => ("", "VALUES(", ")"),
        };
        let mut columns = Vec::new();
        let (mut names, mut assignments) = (Vec::new(), Vec::new());
        for (number, (source, target)) in self.mapping.written.iter().enumerate() {
            let column = &self.mapping.target.columns[*target];
            let name = quote_identifier(&column.name);
            let assigned = set.contains(number) || column.on_update;
            if assigned {
                assignments.push(format!("{name}={open}{name}{close}"));
            }
            // A column of a key has its value whatever is assigned: so does its schema say.
            let value = Filled::Value(*source, *target);
            columns.push(match column.unchanged {
                _ if assigned => value,
                Unchanged::Absent => continue,
                Unchanged::Null => Filled::By(b"NULL"),
                Unchanged::Zero => Filled::By(b"0"),
                Unchanged::Empty => Filled::By(b"''"),
                Unchanged::Value => value,
            });
            names.push(name);
        }
        Upsert {
            writer: *self,
            columns,
            head: format!("INSERT INTO {} ({}) VALUES ", self.table(), names.join(","))
                .into_bytes(),
            tail: format!("{alias} ON DUPLICATE KEY UPDATE {}", assignments.join(",")).into_bytes(),
        }
    }

    /// Head of a DELETE; row keys follow through [`Self::push_key`], then [`Self::delete_tail`].
    #[must_use]
    pub fn delete_head(&self) -> Vec<u8> {
        let mut head = format!("DELETE FROM {} WHERE ", self.table());
        self.push_key_head(&mut head);
        head.into_bytes()
    }

    fn push_key_head(&self, head: &mut String) {
        if let [(_, target)] = self.mapping.row_key[..] {
            head.push_str(&quote_identifier(&self.mapping.target.columns[target].name));
            head.push_str(" IN (");
        }
    }

    /// Appends the row key of a row to a DELETE.
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`].
    pub fn push_key(&self, out: &mut Vec<u8>, row: &Row, first: bool) -> Result<()> {
        if let [(source, target)] = self.mapping.row_key[..] {
            if !first {
                out.push(b',');
            }
            return self.push_literal(out, row, source, target);
        }
        // Both servers use the index for a chain of ORs; for lists of row values not always.
        out.extend_from_slice(if first { b"(" } else { b" OR (" });
        self.push_key_condition(out, row)?;
        out.push(b')');
        Ok(())
    }

    /// Head of a query that locks rows and counts them; row keys follow through [`Self::push_key`],
    /// then [`Self::lock_tail`].
    #[must_use]
    pub fn lock_head(&self) -> Vec<u8> {
        let mut head = format!("SELECT COUNT(*) FROM {} WHERE ", self.table());
        self.push_key_head(&mut head);
        head.into_bytes()
    }

    /// End of a query that locks rows.
    #[must_use]
    pub fn lock_tail(&self) -> Vec<u8> {
        [self.delete_tail(), b" FOR UPDATE"].concat()
    }

    /// End of a DELETE.
    #[must_use]
    pub fn delete_tail(&self) -> &'static [u8] {
        if self.mapping.row_key.len() == 1 {
            b")"
        } else {
            b""
        }
    }

    /// An UPDATE of one row, by the row key of `before`, that sets these columns, and those that the target's
    /// own `ON UPDATE` rules would set.
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`].
    pub fn update(&self, before: &Row, after: &Row, set: ColumnSet) -> Result<Vec<u8>> {
        // There has to be something to set.
        let set = if set.is_empty() { ColumnSet::ALL } else { set };
        let mut out = format!("UPDATE {} SET ", self.table()).into_bytes();
        let mut first = true;
        for (number, (source, target)) in self.mapping.written.iter().enumerate() {
            let column = &self.mapping.target.columns[*target];
            if !set.contains(number) && !column.on_update {
                continue;
            }
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            let name = quote_identifier(&column.name);
            out.extend_from_slice(name.as_bytes());
            out.push(b'=');
            self.push_literal(&mut out, after, *source, *target)?;
        }
        out.extend_from_slice(b" WHERE ");
        self.push_key_condition(&mut out, before)?;
        Ok(out)
    }

    fn push_key_condition(&self, out: &mut Vec<u8>, row: &Row) -> Result<()> {
        for (number, (source, target)) in self.mapping.row_key.iter().enumerate() {
            if number > 0 {
                out.extend_from_slice(b" AND ");
            }
            let name = quote_identifier(&self.mapping.target.columns[*target].name);
            out.extend_from_slice(name.as_bytes());
            out.push(b'=');
            self.push_literal(out, row, *source, *target)?;
        }
        Ok(())
    }

    /// Appends a literal of the image's column `source`, as the target's column `target` takes it.
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`].
    pub fn push_literal(
        &self,
        out: &mut Vec<u8>,
        row: &Row,
        source: usize,
        target: usize,
    ) -> Result<()> {
        let column = &self.mapping.target.columns[target];
        let written = match (row.get(source), self.mapping.source.columns.get(source)) {
            (Some(value), Some(source)) => write_literal(out, value, source, column, self.flavor),
            _ => Err("the row image is shorter than its table map".to_owned()),
        };
        written.map_err(|problem| self.mapping.refuses(target, problem))
    }

    fn table(&self) -> String {
        format!(
            "{}.{}",
            quote_identifier(&self.mapping.target.database),
            quote_identifier(&self.mapping.target.name)
        )
    }
}

/// An INSERT of rows that are there, which sets some of their columns.
#[derive(Debug)]
pub struct Upsert<'m> {
    writer: StatementWriter<'m>,
    /// What the rows hold.
    columns: Vec<Filled>,
    /// Up to and with `VALUES`.
    pub head: Vec<u8>,
    /// Behind the rows.
    pub tail: Vec<u8>,
}

/// What stands for one column of an upsert's rows.
#[derive(Debug, Clone, Copy)]
enum Filled {
    /// The value: column of the image, and of the target.
    Value(usize, usize),
    /// The same for every row.
    By(&'static [u8]),
}

impl Upsert<'_> {
    /// Appends `(..)`, with a comma in front unless it is the first.
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`] naming the column that has no faithful literal.
    pub fn push_row(&self, out: &mut Vec<u8>, row: &Row, first: bool) -> Result<()> {
        let columns = self.columns.iter().copied();
        self.writer.push_filled(out, row, first, columns)
    }
}
