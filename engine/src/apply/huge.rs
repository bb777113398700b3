//! Applies a transaction whose changes are on disk: part by part, in one transaction of the target.
//!
//! Each part is asked about and written as the ordinary path does with a whole group; parts follow
//! each other in the log's order, so that merging within a part is as right as within a group. Its keys
//! are kept, and looked up once more by the race guard before the commit. What has to be asked of
//! foreign keys is asked when all rows are written, by going through the parts again. If a part meets
//! concurrent writes, all is rolled back and goes the careful way, part by part again: the locks of the
//! parts before are held until the commit.

use super::applier::{Applier, Attempt, Way};
use super::careful::Settled;
use super::execute::{Failure, execute};
use super::foreign_key;
use super::prepare::meeting;
use crate::conflict::detect::Meeting;
use crate::error::{Error, Result};
use crate::failpoint::{self, Failpoint};
use crate::position::LogPos;
use crate::spill::{Keys, Room};
use crate::transaction::{Huge, Local};

impl Applier {
    /// Applies it. On return it is committed with the marker behind it.
    pub(super) async fn apply_huge(&mut self, huge: &Huge) -> Result<()> {
        let head = huge.head();
        // A large row alone is nothing special where there are many of them.
        if huge.weight() > self.config.engine.transaction_bytes() {
            tracing::info!(
                origin = %self.origin.node,
                position = self.origin.log_name.show(head.start),
                changes = huge.len(),
                "applying a transaction that does not fit into memory, from disk"
            );
        }
        if head.definition.is_some() {
            self.define(head).await?;
        }
        match self.apply_parts(huge).await {
            // As for others: the rows may be from before DDL that the tailer has not read yet.
            Err(Error::Schema { .. }) => {
                self.tailer_at_end().await?;
                self.forget_schemas();
                self.apply_parts(huge).await
            }
            other => other,
        }
    }

    async fn apply_parts(&mut self, huge: &Huge) -> Result<()> {
        let mut way = Way::Merged;
        let mut forgotten = false;
        loop {
            let next = match self.attempt_huge(huge, way).await? {
                Attempt::Applied => return Ok(()),
                Attempt::Met(_) if !matches!(way, Way::Careful(_)) => {
                    Way::Careful(super::careful::Scope::Contended)
                }
                Attempt::Met(_) | Attempt::Stale => {
                    return Err(Error::Internal(
                        "an attempt was not repeated though it had to be".to_owned(),
                    ));
                }
                Attempt::Unfit(failure) => match (&failure, way) {
                    (Failure::Refused { code, .. }, _)
                        if matches!(code, 1054 | 1136 | 1146) && !forgotten =>
                    {
                        // Our picture of the table is older than the table: look again, once.
                        self.forget_schemas();
                        forgotten = true;
                        way
                    }
                    (Failure::Refused { code: 1452, .. } | Failure::Orphan { .. }, way)
                        if !matches!(way, Way::Careful(_)) =>
                    {
                        // A client may have removed the parent since we looked: it is in the log by
                        // now.
                        self.tailer_at_end().await?;
                        Way::Careful(super::careful::Scope::Contended)
                    }
                    (_, Way::Merged) => Way::OneByOne,
                    (
                        Failure::Missing { .. } | Failure::Refused { code: 1062, .. },
                        Way::OneByOne | Way::Careful(super::careful::Scope::Contended),
                    ) => Way::Careful(super::careful::Scope::All),
                    _ => return Err(self.unfit(huge.head(), failure)),
                },
            };
            self.progress.regrouped();
            way = next;
        }
    }

    async fn attempt_huge(&mut self, huge: &Huge, way: Way) -> Result<Attempt> {
        let mut looked = false;
        loop {
            let result = self.try_huge(huge, way).await;
            let result = self.rolled_back(result).await;
            match result {
                Ok(Attempt::Stale) => {}
                Ok(Attempt::Unfit(failure)) if self.goes_another_way(&failure, &mut looked) => {}
                result => return self.placed(result, std::slice::from_ref(huge.head())),
            }
        }
    }

    async fn try_huge(&mut self, huge: &Huge, way: Way) -> Result<Attempt> {
        let generation = self.catalog.generation();
        let carefully = matches!(way, Way::Careful(_));
        if carefully {
            self.begin_carefully().await?;
        }
        let head = huge.head();
        let mut marker = self.marker_behind(std::slice::from_ref(head), head);
        marker.changes += (huge.len() - head.changes.len()) as u64;
        self.write_marker(&marker).await?;
        let mut keys = Keys::new(&Room::of(&self.config, &self.target.node));
        let mut settled = Settled::default();
        let mut parts = huge.parts();
        while let Some(mut part) = parts.next_part()? {
            let attempt = match way {
                Way::Merged => self.write_part(&mut part, true, &mut keys).await?,
                Way::OneByOne => self.write_part(&mut part, false, &mut keys).await?,
                Way::Careful(scope) => {
                    let mappings = [self.preparer.map(&mut part).await?];
                    let part = std::slice::from_ref(&part);
                    let weights = self.preparer.weigh_texts(part, &mappings).await?;
                    let mut weighed = self.weigh(part, &mappings, &weights, scope)?;
                    let attempt = self.settle_all(&mut weighed, generation, &mut settled);
                    let attempt = attempt.await?;
                    let quiet = weighed.iter().filter(|change| !change.contended);
                    keys.extend(quiet.flat_map(|change| change.keys()))?;
                    // Not to be held until the end: it has both images of each row.
                    self.write_journal(&mut settled).await?;
                    attempt
                }
            };
            if let Some(attempt) = attempt {
                return Ok(attempt);
            }
        }
        if let Some(orphan) = self.ask_parts(huge).await? {
            return Ok(Attempt::Unfit(orphan));
        }
        let kept = self.write_down(&mut settled).await?;
        self.tailer_at_end().await?;
        if let Some(meeting) = self.meeting(keys, head.seen.position)? {
            if carefully {
                return Err(self.contention("a client wrote a row while it was applied"));
            }
            return Ok(Attempt::Met(meeting));
        }
        if self.catalog.generation() != generation {
            return Ok(Attempt::Stale);
        }
        self.window.trust()?;
        failpoint::reach(Failpoint::HugeWritten);
        self.connection.execute("COMMIT", "committing").await?;
        self.marker = marker;
        self.progress.applied_huge(head, huge.len());
        self.settled(settled, kept);
        Ok(Attempt::Applied)
    }

    /// Writes a part of which no key was met.
    async fn write_part(
        &mut self,
        part: &mut Local,
        merge: bool,
        keys: &mut Keys,
    ) -> Result<Option<Attempt>> {
        let of_part = std::slice::from_mut(part);
        let prepared = self.preparer.prepare(of_part).await?.transactions;
        if let Some(meeting) = meeting(&prepared, &self.window) {
            return Ok(Some(Attempt::Met(meeting)));
        }
        // Of a row that is merged every local write counts: its claim has seen nothing.
        let seen = of_part[0].seen.position;
        let claims = prepared.iter().flat_map(|prepared| &prepared.claims);
        keys.extend(claims.map(|claim| (claim.key, claim.seen != seen)))?;
        // What is asked of foreign keys waits until all parts are written.
        let written = self.preparer.write(of_part, &prepared, merge, &[])?;
        // They stand in the statements now, and on disk.
        part.changes = Vec::new();
        let checks = &mut self.foreign_key_checks;
        match execute(&mut self.connection, None, &written.statements, checks).await {
            Ok(()) => Ok(None),
            Err(Failure::Error(error)) => Err(error),
            Err(failure) => Ok(Some(Attempt::Unfit(failure))),
        }
    }

    /// Asks about foreign keys, with all rows written.
    async fn ask_parts(&mut self, huge: &Huge) -> Result<Option<Failure>> {
        let mut parts = huge.parts();
        while let Some(mut part) = parts.next_part()? {
            let mappings = self.preparer.map(&mut part).await?;
            let of_part = std::slice::from_ref(&part);
            let mappings = std::iter::once(&mappings[..]);
            let questions = foreign_key::questions(of_part, mappings, self.target.flavor)?;
            let orphan = foreign_key::ask(&mut self.connection, &questions).await?;
            if orphan.is_some() {
                return Ok(orphan);
            }
        }
        Ok(None)
    }

    /// The first of the keys that a local client wrote unseen by the origin.
    fn meeting(&self, keys: Keys, seen: LogPos) -> Result<Option<Meeting>> {
        let mut keys = keys.read()?;
        while let Some(some) = keys.next_keys()? {
            if self.window.is_empty() {
                return Ok(None);
            }
            for (key, merges) in some {
                let seen = if merges { LogPos::default() } else { seen };
                if let Some(local) = self.window.concurrent_write(key, seen) {
                    return Ok(Some(Meeting {
                        transaction: 0,
                        change: 0,
                        local: local.position,
                    }));
                }
            }
        }
        Ok(None)
    }
}
