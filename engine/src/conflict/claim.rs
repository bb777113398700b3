//! What a row change claims: the keys that it takes, as against those that it only leaves.
//!
//! A write claims its row key and each unique value of its after image; a delete claims the row key
//! alone (a tombstone). Leaving a unique value is not a claim: counting it as one makes nodes
//! differ (docs/conflicts.md, "What a claim is"). A change of the row key is a delete and an insert.

use super::key::KeyHash;
use crate::row::{Row, RowChange};

/// The keys of one row image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageKeys {
    /// Its row key; `None` where the table has none or the image does not hold it whole.
    pub row: Option<KeyHash>,
    /// Its other unique keys without a NULL in them: number of the key among the schema's
    /// `unique_keys`, and hash.
    pub unique: Vec<(usize, KeyHash)>,
}

/// The keys of a change's images.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChangeKeys {
    /// Of the row before, where there was one.
    pub before: Option<ImageKeys>,
    /// Of the row after, where there is one.
    pub after: Option<ImageKeys>,
}

impl ChangeKeys {
    /// Of a change; `keys` gives those of an image.
    pub fn of(change: &RowChange, keys: impl Fn(&Row) -> ImageKeys) -> Self {
        Self {
            before: change.before().map(&keys),
            after: change.after().map(keys),
        }
    }

    /// Of its images, the one before first.
    pub fn images(&self) -> impl Iterator<Item = &ImageKeys> {
        self.before.iter().chain(&self.after)
    }

    /// The one or two writes that the change is, in their order.
    pub fn writes(self) -> std::iter::Flatten<std::array::IntoIter<Option<RowWrite>, 2>> {
        let writes = match (self.before, self.after) {
            (None, Some(after)) => [Some(RowWrite::Insert { after }), None],
            (Some(before), None) => [Some(RowWrite::Delete { before }), None],
            (Some(before), Some(after)) => {
                if before.row == after.row {
                    let left = before.unique;
                    [Some(RowWrite::Update { after, left }), None]
                } else {
                    [
                        Some(RowWrite::Delete { before }),
                        Some(RowWrite::Insert { after }),
                    ]
                }
            }
            (None, None) => [None, None],
        };
        writes.into_iter().flatten()
    }
}

/// How a key was claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClaimKind {
    /// By an image: a row is there.
    Image,
    /// By a delete, of the row key only.
    Tombstone,
    /// By TRUNCATE, of every row key of the table.
    Emptied,
}

/// One row's write, as keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowWrite {
    /// A row came to be, or was written at a new row key.
    Insert {
        /// Keys of the image.
        after: ImageKeys,
    },
    /// A row changed and kept its row key.
    Update {
        /// Keys of the image.
        after: ImageKeys,
        /// Unique keys of the image before.
        left: Vec<(usize, KeyHash)>,
    },
    /// A row went, or was written at another row key.
    Delete {
        /// Keys of the image that went.
        before: ImageKeys,
    },
}

impl RowWrite {
    /// The one or two writes that a change is, in their order.
    pub fn of(
        change: &RowChange,
        keys: impl Fn(&Row) -> ImageKeys,
    ) -> std::iter::Flatten<std::array::IntoIter<Option<RowWrite>, 2>> {
        ChangeKeys::of(change, keys).writes()
    }

    /// The row key that is written.
    #[must_use]
    pub fn row_key(&self) -> Option<KeyHash> {
        match self {
            RowWrite::Insert { after } | RowWrite::Update { after, .. } => after.row,
            RowWrite::Delete { before } => before.row,
        }
    }

    /// Unique keys that it claims.
    #[must_use]
    pub fn unique_claims(&self) -> &[(usize, KeyHash)] {
        match self {
            RowWrite::Insert { after } | RowWrite::Update { after, .. } => &after.unique,
            RowWrite::Delete { .. } => &[],
        }
    }

    /// Unique keys of the image that was there before.
    #[must_use]
    pub fn left(&self) -> &[(usize, KeyHash)] {
        match self {
            RowWrite::Insert { .. } => &[],
            RowWrite::Update { left, .. } => left,
            RowWrite::Delete { before } => &before.unique,
        }
    }

    /// Every key that it claims: what the window of the node where it was written remembers.
    pub fn claims(&self) -> impl Iterator<Item = (KeyHash, ClaimKind)> {
        let kind = match self {
            RowWrite::Delete { .. } => ClaimKind::Tombstone,
            RowWrite::Insert { .. } | RowWrite::Update { .. } => ClaimKind::Image,
        };
        let unique = self.unique_claims().iter().map(|(_, key)| *key);
        self.row_key()
            .into_iter()
            .chain(unique)
            .map(move |key| (key, kind))
    }
}
