//! References between rows: what a child's image says of its parent, so that a child that was written
//! and a parent that was removed at the same time are found to have met.
//!
//! A delete of a parent row leaves a *tombstone* beside its claim, which stays though the row may come
//! to be again; an image of a child *refers* to its parent's row key. Both are keys of their own in
//! the window. The rule (docs/conflicts.md, "Foreign keys"): an image that refers to a parent whose
//! concurrent delete exists does not stand, whether that delete stands or not.

use std::sync::Arc;

use super::claim::{ClaimKind, RowWrite};
use super::collation::{Requests, Weights};
use super::key::{KeyHash, key_over};
use crate::error::Result;
use crate::row::Value;
use crate::schema::{ForeignKey, SchemaCatalog, TableSchema};

/// A foreign key of a table whose conflicts can be settled.
#[derive(Debug, Clone)]
pub struct Reference {
    /// The constraint.
    pub key: ForeignKey,
    /// The table that is referred to.
    pub parent: Arc<TableSchema>,
    /// The child's columns, in the order of the parent's row key.
    pub columns: Vec<usize>,
}

/// A foreign key by which others refer to a table.
#[derive(Debug, Clone)]
pub struct Dependent {
    /// The constraint.
    pub key: ForeignKey,
    /// The table that refers.
    pub child: Arc<TableSchema>,
}

/// The foreign keys of a table, as far as their conflicts can be settled: to the row key of another
/// table, from a table to which nobody refers in turn, without ON DELETE SET NULL. What meets through
/// others halts.
#[derive(Debug, Clone, Default)]
pub struct Family {
    /// In which it is the child.
    pub references: Vec<Reference>,
    /// In which it is the parent.
    pub dependents: Vec<Dependent>,
}

impl Family {
    /// Reads what is needed of the tables around `table`.
    ///
    /// # Errors
    /// The catalog's.
    pub async fn load(catalog: &SchemaCatalog, table: &Arc<TableSchema>) -> Result<Self> {
        let mut family = Self::default();
        for key in &table.parents {
            if let Some(parent) = catalog.table(&key.parent.0, &key.parent.1).await?
                && let Some(columns) = settles(key, table, &parent)
            {
                family.references.push(Reference {
                    key: key.clone(),
                    parent,
                    columns,
                });
            }
        }
        for key in &table.children {
            if let Some(child) = catalog.table(&key.child.0, &key.child.1).await?
                && settles(key, &child, table).is_some()
            {
                family.dependents.push(Dependent {
                    key: key.clone(),
                    child,
                });
            }
        }
        Ok(family)
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.references.is_empty() && self.dependents.is_empty()
    }

    /// Adds the texts in the references of a child's image.
    pub fn add<'v>(&self, requests: &mut Requests, value: impl Fn(usize) -> Option<&'v Value>) {
        for reference in &self.references {
            requests.add(&reference.parent, |parent| reference.value(parent, &value));
        }
    }

    /// The row keys of the parents to which an image refers, each with its reference.
    pub fn parents<'v>(
        &self,
        value: impl Fn(usize) -> Option<&'v Value>,
        weights: &Weights,
    ) -> Vec<(&Reference, KeyHash)> {
        let refers = |reference: &Reference| {
            key_over(
                &reference.parent,
                &reference.parent.row_key,
                |parent| reference.value(parent, &value),
                weights,
            )
        };
        let references = self.references.iter();
        references
            .filter_map(|reference| Some((reference, refers(reference)?)))
            .collect()
    }

    /// What a local write claims beside its keys; `value` reads its after image.
    pub fn claims<'v>(
        &self,
        write: &RowWrite,
        value: impl Fn(usize) -> Option<&'v Value>,
        weights: &Weights,
    ) -> Vec<(KeyHash, ClaimKind)> {
        match write {
            RowWrite::Delete { before } if !self.dependents.is_empty() => {
                let key = before.row.map(KeyHash::tombstone);
                key.into_iter()
                    .map(|key| (key, ClaimKind::Tombstone))
                    .collect()
            }
            RowWrite::Delete { .. } => Vec::new(),
            RowWrite::Insert { .. } | RowWrite::Update { .. } => {
                let parents = self.parents(value, weights).into_iter();
                parents
                    .map(|(_, key)| (key.referred(), ClaimKind::Image))
                    .collect()
            }
        }
    }

    /// The keys by which a foreign write meets such claims; `before` and `after` read its images.
    pub fn meets<'v>(
        &self,
        write: &RowWrite,
        before: impl Fn(usize) -> Option<&'v Value>,
        after: impl Fn(usize) -> Option<&'v Value>,
        weights: &Weights,
    ) -> Related {
        let tombstones = |parents: Vec<(&Reference, KeyHash)>| {
            parents
                .into_iter()
                .map(|(_, key)| key.tombstone())
                .collect()
        };
        let deletes = matches!(write, RowWrite::Delete { .. });
        let inserts = matches!(write, RowWrite::Insert { .. });
        let referred = match write {
            RowWrite::Delete { before } if !self.dependents.is_empty() => before.row,
            _ => None,
        };
        Related {
            referred: referred.map(KeyHash::referred),
            after: if deletes {
                Vec::new()
            } else {
                tombstones(self.parents(after, weights))
            },
            before: if inserts {
                Vec::new()
            } else {
                tombstones(self.parents(before, weights))
            },
        }
    }
}

/// The keys by which a foreign write meets local writes of other tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Related {
    /// References to the row that it deletes.
    pub referred: Option<KeyHash>,
    /// Deletes of parents of its image: with one of them that does not stand.
    pub after: Vec<KeyHash>,
    /// Deletes of parents of the image before: with one of them that did not stand either, and the
    /// row may be missing.
    pub before: Vec<KeyHash>,
}

impl Related {
    /// All of them.
    pub fn keys(&self) -> impl Iterator<Item = KeyHash> {
        let parents = self.after.iter().chain(&self.before).copied();
        self.referred.into_iter().chain(parents)
    }
}

impl Reference {
    /// The child's value for a column of the parent.
    fn value<'v>(
        &self,
        parent: usize,
        value: impl Fn(usize) -> Option<&'v Value>,
    ) -> Option<&'v Value> {
        let place = self
            .parent
            .row_key
            .iter()
            .position(|column| *column == parent)?;
        value(*self.columns.get(place)?)
    }
}

/// The child's columns in the order of the parent's row key, where conflicts of this foreign key can
/// be settled.
fn settles(key: &ForeignKey, child: &TableSchema, parent: &TableSchema) -> Option<Vec<usize>> {
    let leaf = child.children.is_empty();
    let keeps = matches!(key.on_delete.as_str(), "CASCADE" | "RESTRICT" | "NO ACTION");
    if !leaf || !keeps || key.columns.len() != parent.row_key.len() || parent.row_key.is_empty() {
        return None;
    }
    let column_for = |index: &usize| {
        let name = &parent.columns.get(*index)?.name;
        let mut pairs = key.columns.iter();
        let (of_child, _) = pairs.find(|(_, of_parent)| of_parent.eq_ignore_ascii_case(name))?;
        child.column(of_child)
    };
    parent.row_key.iter().map(column_for).collect()
}
