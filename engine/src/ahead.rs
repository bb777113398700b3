//! Prepares one batch while the one before it is applied.

use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::apply::prepare::{Prepared, Preparer};
use crate::error::{Error, Result};
use crate::group::{Batch, Gatherer, KeySet};

/// The batch behind the one that is applied, where so much is waiting.
pub(crate) struct Ahead {
    /// Away while it prepares.
    preparer: Option<Preparer>,
    preparing: Option<JoinHandle<(Preparer, Batch, Option<Prepared>)>>,
}

impl Ahead {
    pub(crate) fn new(preparer: Preparer) -> Self {
        Self {
            preparer: Some(preparer),
            preparing: None,
        }
    }

    /// Begins to prepare the batch behind `batch`, if so much is waiting: the next that
    /// [`Self::next`] gives. `beside` are the groups, by their keys, that it may go beside, where it may
    /// go by a lane.
    pub(crate) fn prepare_behind(
        &mut self,
        batch: &Batch,
        gatherer: &mut Gatherer,
        beside: Option<Vec<Arc<KeySet>>>,
    ) {
        let Some(mut preparer) = self.preparer.take() else {
            return;
        };
        let Some(mut batch) = gatherer.next_if_behind(batch) else {
            self.preparer = Some(preparer);
            return;
        };
        self.preparing = Some(tokio::spawn(async move {
            // What is wrong is found, and said, once it is this batch's turn.
            let prepared = if batch.is_definition() {
                None
            } else {
                let prepared = preparer
                    .prepare_merged(&mut batch.transactions, beside)
                    .await;
                prepared.ok()
            };
            (preparer, batch, prepared)
        }));
    }

    /// Whether the next batch is there already.
    pub(crate) fn has_next(&self) -> bool {
        self.preparing.is_some()
    }

    /// The next batch, with what is known of it; `None` when the reader is gone. Nothing is lost if
    /// the future is dropped while it waits.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub(crate) async fn next(
        &mut self,
        gatherer: &mut Gatherer,
    ) -> Result<Option<(Batch, Option<Prepared>)>> {
        let Some(preparing) = &mut self.preparing else {
            let batch = gatherer.next().await;
            return Ok(batch.map(|batch| (batch, None)));
        };
        let done = preparing.await;
        self.preparing = None;
        match done {
            Ok((preparer, batch, prepared)) => {
                self.preparer = Some(preparer);
                Ok(Some((batch, prepared)))
            }
            Err(join) => Err(Error::Internal(format!("preparing a batch failed: {join}"))),
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        if let Some(preparing) = &self.preparing {
            preparing.abort();
        }
    }
}
