//! Statements about the rows of one key: the locking reads of the careful transaction, and the
//! deletes of rows that are displaced.
//!
//! Each looks for one whole unique key by equality, so that InnoDB locks that record or, where there
//! is none, the gap in which it would be (under REPEATABLE READ).

use super::image;
use super::mapping::Mapping;
use super::statement::StatementWriter;
use crate::conflict::family::{Dependent, Reference};
use crate::connection::quote_identifier;
use crate::decode::event::Flavor;
use crate::error::Result;
use crate::row::{Row, Value};
use crate::schema::TableSchema;

/// Which row is meant.
#[derive(Debug, Clone, Copy)]
pub(super) enum Named<'r> {
    /// The row at the image's row key.
    ByRowKey(&'r Row),
    /// The row, other than the one at the image's row key, that holds the image's value of this
    /// unique key (number among the schema's `unique_keys`).
    Holder(usize, &'r Row),
}

/// Writes the statements of one table.
pub(super) struct Locking<'m> {
    mapping: &'m Mapping,
    writer: StatementWriter<'m>,
}

impl<'m> Locking<'m> {
    pub(super) fn new(mapping: &'m Mapping, flavor: Flavor) -> Self {
        Self {
            mapping,
            writer: StatementWriter::new(mapping, flavor),
        }
    }

    /// Locks the row, or the gap where it would be.
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`] where a value has no literal, as for all of these.
    pub(super) fn lock(&self, named: Named<'_>) -> Result<Vec<u8>> {
        let mut sql = format!("SELECT 1 FROM {}", self.table()).into_bytes();
        self.push_where(&mut sql, named)?;
        sql.extend_from_slice(b" FOR UPDATE");
        Ok(sql)
    }

    /// Likewise, and reads the row as a journal image.
    pub(super) fn read(&self, named: Named<'_>) -> Result<Vec<u8>> {
        self.read_as(&[image::of_stored_row(&self.mapping.target)], named)
    }

    /// Likewise, and reads these expressions.
    pub(super) fn read_as(&self, expressions: &[String], named: Named<'_>) -> Result<Vec<u8>> {
        let expressions = expressions.join(",");
        let mut sql = format!("SELECT {expressions} FROM {}", self.table()).into_bytes();
        self.push_where(&mut sql, named)?;
        sql.extend_from_slice(b" FOR UPDATE");
        Ok(sql)
    }

    /// Locks the parent of a child's image; nothing where it refers to none.
    pub(super) fn lock_parent(&self, reference: &Reference, row: &Row) -> Result<Option<Vec<u8>>> {
        let parent = &reference.parent;
        let mut sql = format!("SELECT 1 FROM {} WHERE ", named(parent)).into_bytes();
        let pairs = parent.row_key.iter().zip(&reference.columns);
        for (number, (of_parent, of_child)) in pairs.enumerate() {
            let Some(source) = self.mapping.image_index(*of_child) else {
                return Ok(None);
            };
            if matches!(row.get(source), None | Some(Value::Null)) {
                return Ok(None);
            }
            if number > 0 {
                sql.extend_from_slice(b" AND ");
            }
            let name = quote_identifier(&parent.columns[*of_parent].name);
            sql.extend_from_slice(name.as_bytes());
            sql.push(b'=');
            self.writer.push_literal(&mut sql, row, source, *of_child)?;
        }
        sql.extend_from_slice(b" FOR UPDATE");
        Ok(Some(sql))
    }

    /// Reads, locked and as journal images, and removes the children that refer to a parent's row.
    pub(super) fn children(&self, dependent: &Dependent, row: &Row) -> Result<(Vec<u8>, Vec<u8>)> {
        let mut condition = Vec::new();
        for (number, (of_child, of_parent)) in dependent.key.columns.iter().enumerate() {
            if number > 0 {
                condition.extend_from_slice(b" AND ");
            }
            condition.extend_from_slice(quote_identifier(of_child).as_bytes());
            condition.push(b'=');
            let target = self.mapping.target.column(of_parent);
            let place = target.and_then(|index| Some((self.mapping.image_index(index)?, index)));
            match place {
                Some((source, target)) => {
                    self.writer
                        .push_literal(&mut condition, row, source, target)?;
                }
                None => condition.extend_from_slice(b"NULL"),
            }
        }
        let table = named(&dependent.child);
        let image = image::of_stored_row(&dependent.child);
        let with = |before: String, after: &[u8]| [before.as_bytes(), &condition, after].concat();
        Ok((
            with(
                format!("SELECT {image} FROM {table} WHERE "),
                b" FOR UPDATE",
            ),
            with(format!("DELETE FROM {table} WHERE "), b""),
        ))
    }

    /// Removes the row.
    pub(super) fn delete(&self, named: Named<'_>) -> Result<Vec<u8>> {
        let mut sql = format!("DELETE FROM {}", self.table()).into_bytes();
        self.push_where(&mut sql, named)?;
        Ok(sql)
    }

    fn push_where(&self, out: &mut Vec<u8>, named: Named<'_>) -> Result<()> {
        out.extend_from_slice(b" WHERE ");
        match named {
            Named::ByRowKey(row) => self.push_columns(out, row, &self.mapping.target.row_key, &[]),
            Named::Holder(number, row) => {
                if let Some(unique) = self.mapping.target.unique_keys.get(number) {
                    self.push_columns(out, row, &unique.columns, &unique.prefixes)?;
                }
                out.extend_from_slice(b" AND NOT (");
                self.push_columns(out, row, &self.mapping.target.row_key, &[])?;
                out.push(b')');
                Ok(())
            }
        }
    }

    fn push_columns(
        &self,
        out: &mut Vec<u8>,
        row: &Row,
        columns: &[usize],
        prefixes: &[Option<u32>],
    ) -> Result<()> {
        for (number, target) in columns.iter().enumerate() {
            if number > 0 {
                out.extend_from_slice(b" AND ");
            }
            let column = &self.mapping.target.columns[*target];
            let name = quote_identifier(&column.name);
            let mut literal = Vec::new();
            match self.mapping.image_index(*target) {
                Some(source) => self
                    .writer
                    .push_literal(&mut literal, row, source, *target)?,
                None => literal.extend_from_slice(b"NULL"),
            }
            let Some(length) = prefixes.get(number).copied().flatten() else {
                out.extend_from_slice(name.as_bytes());
                out.push(b'=');
                out.extend_from_slice(&literal);
                continue;
            };
            // Looks at every row, and locks it: no index serves this.
            out.extend_from_slice(format!("LEFT({name},{length})=LEFT(").as_bytes());
            out.extend_from_slice(&literal);
            out.extend_from_slice(format!(",{length})").as_bytes());
        }
        Ok(())
    }

    fn table(&self) -> String {
        named(&self.mapping.target)
    }
}

/// The table in a statement.
pub(super) fn named(table: &TableSchema) -> String {
    format!(
        "{}.{}",
        quote_identifier(&table.database),
        quote_identifier(&table.name)
    )
}
