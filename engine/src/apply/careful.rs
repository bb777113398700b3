//! The careful transaction: settles the changes that meet concurrent local writes, row by row, and
//! writes down how (docs/conflicts.md, "What the apply owes").
//!
//! In this order, all in one transaction of REPEATABLE READ, whose locking reads also lock the gaps
//! where a key is missing:
//!
//! 1. lock every key of the changes that are to be settled;
//! 2. wait until the tailer has read up to the end that the log has then. No local write of these
//!    keys can be missing in the window now, nor come to be before the commit;
//! 3. go through the changes in the log's order: those that meet nothing as few statements as ever,
//!    the others by [`resolve`];
//! 4. look once more for meetings of those that met nothing, as the ordinary path does;
//! 5. commit rows, marker and journal together.

use std::collections::HashSet;
use std::sync::Arc;

use super::applier::{Applier, Attempt};
use super::execute::{Failure, execute};
use super::foreign_key;
use super::image;
use super::locking::{Locking, Named};
use super::mapping::Mapping;
use super::statement::StatementWriter;
use crate::config::DriftPolicy;
use crate::conflict::claim::RowWrite;
use crate::conflict::collation::Weights;
use crate::conflict::family::Related;
use crate::conflict::history::{self, Order, Origin, Unkept, merged, writes_of};
use crate::conflict::journal::{self, Entry, ImageSql, JournalWinner};
use crate::conflict::kept;
use crate::conflict::key::{KeyHash, image_keys};
use crate::conflict::resolve::{
    Arrival, Conflict, ConflictKind, Finding, MetKey, Resolution, RowAction, orphaned, resolve,
    without_its_row,
};
use crate::conflict::window::LocalWrite;
use crate::error::{Error, Result};
use crate::group::{coalesced, one_by_one};
use crate::position::LogPos;
use crate::row::{Row, RowChange};
use crate::schema::ForeignKey;
use crate::transaction::{ForeignKeyMode, Local};

/// Transactions that are settled in one commit. Local writers of the same rows wait for it.
pub(super) const CAREFUL_TRANSACTIONS: usize = 64;
/// Row changes likewise; one transaction alone may have more.
pub(super) const CAREFUL_CHANGES: usize = 512;
/// Locking reads that are sent at once.
const LOCKS_AT_ONCE: usize = 50;
/// How often a careful transaction begins anew because clients wrote what it had not locked, before
/// it pauses as for a deadlock.
const ROUNDS: usize = 8;

/// Which changes are settled one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Those that meet concurrent local writes.
    Contended,
    /// All: something does not fit, and it is to be found out what.
    All,
}

/// A change with what it writes, as keys.
struct Weighed<'t> {
    transaction: &'t Local,
    mapping: &'t Arc<Mapping>,
    change: &'t RowChange,
    writes: Vec<RowWrite>,
    /// Of each write: the keys by which it meets writes of other tables; see [`crate::conflict::family`].
    related: Vec<Related>,
    /// Number of its first write within the transaction.
    number: u32,
    contended: bool,
}

/// What a careful transaction has to write down.
#[derive(Default)]
struct Settled {
    entries: Vec<Entry>,
    /// Writes of rows that are merged, for their histories.
    merged: Vec<(KeyHash, history::Entry)>,
}

/// What is to become of one write.
struct Outcome<'t> {
    write: &'t RowWrite,
    /// The local write of another table that it met through a foreign key.
    relative: Option<LocalWrite>,
    /// Its image.
    row: &'t Row,
    /// What the row comes to, where it is merged.
    merged: Option<Row>,
    resolution: Resolution,
    /// The row that stands, as a journal image.
    stored: Option<String>,
}

/// What the journal says of a settled write.
struct Judged<'r> {
    kind: &'static str,
    winner: JournalWinner,
    met: &'r [MetKey],
    note: &'static str,
}

impl Applier {
    /// One attempt to settle and apply the transactions in one commit. Anything but
    /// [`Attempt::Applied`] is to be rolled back.
    pub(super) async fn try_careful(
        &mut self,
        transactions: &mut [Local],
        scope: Scope,
    ) -> Result<Attempt> {
        let generation = self.catalog.generation();
        let mut mappings: Vec<Vec<Arc<Mapping>>> = Vec::with_capacity(transactions.len());
        for transaction in transactions.iter_mut() {
            mappings.push(self.map(transaction).await?);
        }
        let transactions = &*transactions;
        let Some(last) = transactions.last() else {
            return Ok(Attempt::Applied);
        };
        let weights = self.weigh_texts(transactions, &mappings).await?;
        let mut weighed = self.weigh(transactions, &mappings, &weights, scope)?;
        // Of this one transaction only.
        self.connection
            .execute(
                "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
                "beginning a careful transaction",
            )
            .await?;
        let marker = self.marker_behind(transactions, last);
        self.write_marker(&marker).await?;
        let mut fresh: Vec<usize> = (0..weighed.len())
            .filter(|index| weighed[*index].contended)
            .collect();
        let mut rounds = 0;
        // Clients may write what was not locked yet, until it is.
        loop {
            let changes: Vec<&Weighed<'_>> = fresh.iter().map(|index| &weighed[*index]).collect();
            self.lock(&changes).await?;
            fresh.clear();
            self.tailer_at_end().await?;
            for (index, change) in weighed.iter_mut().enumerate() {
                if !change.contended && self.meets(change)? {
                    change.contended = true;
                    fresh.push(index);
                }
            }
            if fresh.is_empty() {
                break;
            }
            rounds += 1;
            if rounds == ROUNDS {
                return Err(self.contention("clients keep writing the rows that are settled"));
            }
        }
        if self.catalog.generation() != generation {
            return Ok(Attempt::Stale);
        }
        let mut settled = Settled::default();
        let mut index = 0;
        while index < weighed.len() {
            if weighed[index].contended {
                if let Some(attempt) = self.settle(&weighed[index], &mut settled).await? {
                    return Ok(attempt);
                }
                index += 1;
                continue;
            }
            let behind = weighed[index..].iter().position(|change| change.contended);
            let end = behind.map_or(weighed.len(), |length| index + length);
            let changes = || weighed[index..end].iter().map(|w| (w.mapping, w.change));
            let steps = coalesced(changes()).unwrap_or_else(|| one_by_one(changes()));
            let flavor = self.target.flavor;
            let checks = &mut self.foreign_key_checks;
            match execute(&mut self.connection, flavor, &steps, checks).await {
                Ok(()) => {}
                Err(Failure::Error(error)) => return Err(error),
                Err(failure) => return Ok(Attempt::Unfit(failure)),
            }
            index = end;
        }
        let questions = foreign_key::questions(transactions, &mappings, self.target.flavor)?;
        if let Some(orphan) = foreign_key::ask(&mut self.connection, questions).await? {
            return Ok(Attempt::Unfit(orphan));
        }
        if weighed.iter().any(|change| !change.contended) {
            self.tailer_at_end().await?;
            for change in weighed.iter().filter(|change| !change.contended) {
                if self.meets(change)? {
                    return Err(self.contention("a client wrote a row while it was applied"));
                }
            }
            if self.catalog.generation() != generation {
                return Ok(Attempt::Stale);
            }
        }
        let kept = self.write_down(&settled).await?;
        self.window.trust()?;
        self.connection.execute("COMMIT", "committing").await?;
        self.marker = marker;
        self.progress.applied(transactions);
        for entry in &settled.entries {
            self.progress.conflict(entry.kind, entry.winner);
        }
        for (key, entry) in settled.merged {
            self.window.histories().applied(key, entry);
        }
        for (key, unkept) in kept {
            let orders = unkept.entries.iter().map(|entry| entry.order);
            self.window.histories().keep(key, orders);
        }
        Ok(Attempt::Applied)
    }

    fn weigh<'t>(
        &self,
        transactions: &'t [Local],
        mappings: &'t [Vec<Arc<Mapping>>],
        weights: &Weights,
        scope: Scope,
    ) -> Result<Vec<Weighed<'t>>> {
        let mut weighed = Vec::new();
        for (transaction, mappings) in transactions.iter().zip(mappings) {
            let mut number = 0;
            for (change, mapping) in transaction.changes.iter().zip(mappings) {
                let change = &change.change;
                let keys = |row: &Row| {
                    image_keys(
                        &mapping.target,
                        |column| mapping.value(row, column),
                        weights,
                    )
                };
                let writes: Vec<RowWrite> = RowWrite::of(change, keys).collect();
                let (before, after) = (change.before(), change.after());
                let related = writes.iter().map(|write| {
                    mapping.family.meets(
                        write,
                        |column| mapping.value(before?, column),
                        |column| mapping.value(after?, column),
                        weights,
                    )
                });
                let related = related.collect();
                let mut change = Weighed {
                    transaction,
                    mapping,
                    change,
                    related,
                    writes,
                    number,
                    contended: false,
                };
                number += u32::try_from(change.writes.len()).unwrap_or(2);
                change.contended = self.meets(&change)? || scope == Scope::All;
                weighed.push(change);
            }
        }
        Ok(weighed)
    }

    /// Whether a key that the change claims or leaves was claimed here, unseen by its origin.
    fn meets(&self, change: &Weighed<'_>) -> Result<bool> {
        let seen = change.transaction.seen.position;
        let target = &change.mapping.target;
        // A row with a history: every write of it must go in.
        let seen_rows = if change.mapping.rule.merges() {
            LogPos::default()
        } else {
            seen
        };
        for table in [target.name.as_str(), ""] {
            let key = KeyHash::whole_table(&target.database, table);
            if let Some(local) = self.window.concurrent_write(key, seen) {
                return Err(self.rows_meet_definition(change, local.position));
            }
        }
        let mut related = change.related.iter().flat_map(Related::keys);
        if related.any(|key| self.window.concurrent_write(key, seen).is_some()) {
            return Ok(true);
        }
        Ok(change.writes.iter().any(|write| {
            let left = write.left().iter().map(|(_, key)| *key);
            write
                .claims()
                .map(|(key, _)| key)
                .chain(left)
                .any(|key| self.window.concurrent_write(key, seen_rows).is_some())
        }))
    }

    /// Locks all that the changes claim or leave: one statement for each key, many to a round trip.
    async fn lock(&mut self, changes: &[&Weighed<'_>]) -> Result<()> {
        let mut locks: Vec<Vec<u8>> = Vec::new();
        let mut known: HashSet<Vec<u8>> = HashSet::new();
        for change in changes {
            for sql in self.locks(change)? {
                if known.insert(sql.clone()) {
                    locks.push(sql);
                }
            }
        }
        for together in locks.chunks(LOCKS_AT_ONCE) {
            let sql = together.join(&b";"[..]);
            let context = "locking the rows of a conflict";
            self.connection.execute(&sql, context).await?;
        }
        Ok(())
    }

    fn locks(&self, change: &Weighed<'_>) -> Result<Vec<Vec<u8>>> {
        let locking = Locking::new(change.mapping, self.target.flavor);
        let (before, after) = match change.change {
            RowChange::Insert { after } => (None, Some(after)),
            RowChange::Update { before, after } => (Some(before), Some(after)),
            RowChange::Delete { before } => (Some(before), None),
        };
        let rows = before.into_iter().chain(after).map(Named::ByRowKey);
        let mut locks = rows
            .map(|row| locking.lock(row))
            .collect::<Result<Vec<_>>>()?;
        if let Some(after) = after {
            for reference in &change.mapping.family.references {
                locks.extend(locking.lock_parent(reference, after)?);
            }
        }
        for write in &change.writes {
            for (number, _) in write.unique_claims() {
                if let Some(after) = after {
                    locks.push(locking.lock(Named::Holder(*number, after))?);
                }
            }
        }
        Ok(locks)
    }

    /// Settles one change. Gives what stands in the way, if something does.
    async fn settle(
        &mut self,
        change: &Weighed<'_>,
        settled: &mut Settled,
    ) -> Result<Option<Attempt>> {
        let mapping = change.mapping;
        if change.writes.len() > 1
            && mapping.foreign_keys == ForeignKeyMode::Engine
            && !mapping.target.children.is_empty()
        {
            // As a delete and an insert it would take the children along that its origin's server
            // moved without a word in the log.
            return Err(self.parent_moved(change));
        }
        for (place, write) in change.writes.iter().enumerate() {
            let row = match (write, change.change) {
                (RowWrite::Delete { .. }, RowChange::Update { before, .. })
                | (RowWrite::Delete { .. }, RowChange::Delete { before }) => before,
                (_, RowChange::Insert { after } | RowChange::Update { after, .. }) => after,
                (_, RowChange::Delete { before }) => before,
            };
            let stored = self.stored(change.mapping, Named::ByRowKey(row)).await?;
            let seen = change.transaction.seen.position;
            let arrival = Arrival {
                write,
                effective: change.transaction.effective,
                present: stored.is_some(),
                policy: change.mapping.rule.policy,
                order: self.order,
            };
            let window = &self.window;
            let mut resolution = resolve(&arrival, |key| window.concurrent_write(key, seen));
            let related = &change.related[place];
            let met = |key: &KeyHash| window.concurrent_write(*key, seen);
            let orphan = related.after.iter().find_map(met);
            let relative = orphan.or_else(|| related.referred.as_ref().and_then(met));
            if orphan.is_some() {
                resolution = orphaned(resolution);
            } else if stored.is_none() && related.before.iter().any(|key| met(key).is_some()) {
                resolution = without_its_row(resolution, write);
            }
            match &resolution.finding {
                Finding::Halt(conflict) => {
                    return Err(self.halted_by_policy(change, conflict));
                }
                Finding::Drift if self.config.replication.drift == DriftPolicy::Halt => {
                    return Ok(Some(Attempt::Unfit(drift(change.mapping, write))));
                }
                Finding::Quiet | Finding::Conflict(_) | Finding::Drift => {}
            }
            let merged = self.merge(change, place, stored.is_some(), &mut resolution, settled)?;
            let merged = merged.map(|values| change.mapping.with_values(row, &values));
            if matches!(write, RowWrite::Delete { .. })
                && (relative.is_some() || self.cascaded_unseen(change, &resolution)?)
            {
                self.remove_children(change, row, relative, settled).await?;
            }
            let outcome = Outcome {
                relative,
                write,
                row,
                merged,
                resolution,
                stored,
            };
            let attempt = self.carry_out(change, outcome, settled).await?;
            if attempt.is_some() {
                return Ok(attempt);
            }
        }
        Ok(None)
    }

    /// The stored row as a journal image, locked.
    async fn stored(&mut self, mapping: &Mapping, named: Named<'_>) -> Result<Option<String>> {
        let sql = Locking::new(mapping, self.target.flavor).read(named)?;
        self.connection
            .text(&sql, "reading a row of a conflict")
            .await
    }

    /// A parent's delete removes the children that were written here unseen by its origin: by the
    /// same rule they are not written at its origin.
    async fn remove_children(
        &mut self,
        change: &Weighed<'_>,
        row: &Row,
        relative: Option<LocalWrite>,
        settled: &mut Settled,
    ) -> Result<()> {
        let mapping = change.mapping;
        for dependent in &mapping.family.dependents {
            let locking = Locking::new(mapping, self.target.flavor);
            let (read, delete) = locking.children(dependent, row)?;
            let context = "removing the children of a deleted parent";
            let images = self.connection.texts(&read, context).await?;
            if images.is_empty() {
                continue;
            }
            // The server need not look: what refers to the parent is what goes.
            self.connection.execute(&delete, context).await?;
            for image in images {
                let child = &dependent.child;
                settled.entries.push(Entry {
                    origin: self.origin.node.to_string(),
                    database: child.database.clone(),
                    table: child.name.clone(),
                    kind: ConflictKind::ForeignKey.as_str(),
                    policy: mapping.rule.name.clone(),
                    winner: JournalWinner::Remote,
                    winner_node: self.origin.node.to_string(),
                    columns: image::columns_of(child),
                    key_columns: image::key_columns_of(child),
                    local_position: relative
                        .map(|relative| self.target.log_name.show(relative.position)),
                    local_effective: relative.map(|relative| relative.effective),
                    origin_position: self.origin.log_name.show(change.transaction.start),
                    origin_gtid: change
                        .transaction
                        .gtid
                        .as_ref()
                        .map(ToString::to_string)
                        .unwrap_or_default(),
                    origin_effective: change.transaction.effective,
                    local_image: ImageSql::Text(image),
                    before_image: ImageSql::None,
                    after_image: ImageSql::None,
                    result_image: ImageSql::None,
                    met: "[]".to_owned(),
                    note: "its parent was deleted at the other node",
                });
            }
        }
        Ok(())
    }

    /// Puts the write into its row's history, if the row has one, and gives what the row comes to.
    fn merge(
        &self,
        change: &Weighed<'_>,
        place: usize,
        present: bool,
        resolution: &mut Resolution,
        settled: &mut Settled,
    ) -> Result<Option<Row>> {
        if !change.mapping.rule.merges() {
            return Ok(None);
        }
        let images = |row: &Row| change.mapping.ordered(row);
        let writes = writes_of(change.change, &change.writes, images);
        let Some((key, write, _)) = writes.into_iter().nth(place) else {
            return Ok(None);
        };
        let order = Order {
            effective: change.transaction.effective,
            rank: self.rank,
            change: change.number + u32::try_from(place).unwrap_or(u32::MAX),
        };
        let entry = history::Entry {
            order,
            origin: Origin::Foreign(change.transaction.end),
            write,
        };
        settled.merged.push((key, entry));
        let of_row = settled.merged.iter().filter(|(other, _)| *other == key);
        let of_row = of_row.map(|(_, entry)| entry);
        let Some(folded) = self.window.histories().folded(key, of_row) else {
            return Ok(None);
        };
        let folded = folded.map_err(|unmergeable| {
            let column = change.mapping.target.columns.get(unmergeable.column);
            Error::Conflict(format!(
                "table {}: the merged value of column {} is out of the column's range (transaction of \
                 node {} at {}). Widen the column, or make both nodes alike, then {}",
                change.mapping.target,
                column.map_or("?", |column| column.name.as_str()),
                self.origin.node,
                self.origin.log_name.show(change.transaction.start),
                self.go_on_behind(change.transaction),
            ))
        })?;
        let (action, row) = merged(resolution.row, present, folded);
        resolution.row = action;
        Ok(row)
    }

    /// Journal and histories, within the transaction.
    async fn write_down(&mut self, settled: &Settled) -> Result<Vec<(KeyHash, Unkept)>> {
        let schema = &self.config.engine.schema;
        if !settled.entries.is_empty() {
            let sql = journal::insert(schema, &settled.entries);
            let context = "writing the conflict journal";
            self.connection.execute(sql, context).await?;
        }
        let mut kept: Vec<(KeyHash, Unkept)> = Vec::new();
        for (key, _) in &settled.merged {
            if kept.iter().any(|(known, _)| known == key) {
                continue;
            }
            let of_row = settled.merged.iter().filter(|(other, _)| other == key);
            let with = of_row.map(|(_, entry)| entry);
            let unkept = self.window.histories().unkept_with(*key, with);
            kept.extend(unkept.map(|unkept| (*key, unkept)));
        }
        if kept.is_empty() {
            return Ok(kept);
        }
        for sql in kept::statements(schema, &kept, self.window.acknowledged())? {
            let context = "keeping the histories of merged rows";
            self.connection.execute(sql, context).await?;
        }
        Ok(kept)
    }

    async fn carry_out(
        &mut self,
        change: &Weighed<'_>,
        outcome: Outcome<'_>,
        settled: &mut Settled,
    ) -> Result<Option<Attempt>> {
        let Outcome {
            relative,
            write,
            row,
            merged,
            resolution,
            stored,
        } = outcome;
        let standing = merged.as_ref().unwrap_or(row);
        let mapping = change.mapping;
        let locking = Locking::new(mapping, self.target.flavor);
        let present = stored.is_some();
        let mut local_image = stored;
        if let Finding::Conflict(conflict) = &resolution.finding {
            // The row that holds a unique value is the other side where the row itself is not.
            for number in conflict.met.iter().filter_map(|met| met.unique) {
                if local_image.is_some() {
                    break;
                }
                local_image = self.stored(mapping, Named::Holder(number, row)).await?;
            }
        }
        let mut statements: Vec<(&'static str, Vec<u8>)> = Vec::new();
        for number in &resolution.displace {
            statements.push(("delete", locking.delete(Named::Holder(*number, row))?));
        }
        let writer = StatementWriter::new(mapping, self.target.flavor);
        match resolution.row {
            RowAction::Keep => {}
            RowAction::Remove if !present => {}
            RowAction::Remove => {
                statements.push(("delete", locking.delete(Named::ByRowKey(row))?));
            }
            RowAction::Put if present => {
                statements.push(("update", writer.update(standing, standing)?));
            }
            RowAction::Put => {
                let mut sql = writer.insert_head();
                writer.push_row(&mut sql, standing, true)?;
                statements.push(("insert", sql));
            }
        }
        // The origin's own delete has seen to its children. What goes for another reason must not
        // leave any behind: the server looks.
        let mut looked = mapping.foreign_keys;
        if !matches!(write, RowWrite::Delete { .. }) && !mapping.target.children.is_empty() {
            looked = ForeignKeyMode::Engine;
        }
        for (action, sql) in statements {
            let looked = if action == "delete" {
                looked
            } else {
                mapping.foreign_keys
            };
            let checks = &mut self.foreign_key_checks;
            let sent =
                super::execute::one(&mut self.connection, mapping, looked, &sql, action, checks);
            match sent.await {
                Ok(_) => {}
                Err(Failure::Error(error)) => return Err(error),
                Err(failure) => return Ok(Some(Attempt::Unfit(failure))),
            }
        }
        let judged = match &resolution.finding {
            Finding::Conflict(conflict) => Judged {
                kind: conflict.kind.as_str(),
                winner: match merged {
                    Some(_) if matches!(write, RowWrite::Update { .. }) => JournalWinner::Merged,
                    _ => conflict.winner.into(),
                },
                met: &conflict.met,
                note: "",
            },
            Finding::Drift => Judged {
                kind: match write {
                    RowWrite::Insert { .. } => "drift_exists",
                    RowWrite::Update { .. } | RowWrite::Delete { .. } => "drift_missing",
                },
                winner: JournalWinner::Remote,
                met: &[],
                note: "no concurrent write explains it: repaired from the origin's image",
            },
            Finding::Quiet | Finding::Halt(_) => return Ok(None),
        };
        let mut entry = self.entry(change, write, row, &judged, local_image)?;
        if let (true, Some(relative)) = (judged.kind == "foreign_key", relative) {
            entry.local_position = Some(self.target.log_name.show(relative.position));
            entry.local_effective = Some(relative.effective);
        }
        if let Some(merged) = &merged {
            let writer = StatementWriter::new(mapping, self.target.flavor);
            let image = image::of_log_image(mapping, &writer, merged)?;
            entry.result_image = ImageSql::Expression(image);
        }
        settled.entries.push(entry);
        Ok(None)
    }

    fn entry(
        &self,
        change: &Weighed<'_>,
        write: &RowWrite,
        row: &Row,
        judged: &Judged<'_>,
        local_image: Option<String>,
    ) -> Result<Entry> {
        let mapping = change.mapping;
        let writer = StatementWriter::new(mapping, self.target.flavor);
        let image =
            |row: &Row| image::of_log_image(mapping, &writer, row).map(ImageSql::Expression);
        let (before, after) = match (write, change.change) {
            (RowWrite::Delete { .. }, _) => (image(row)?, ImageSql::None),
            (RowWrite::Update { .. }, RowChange::Update { before, .. }) => {
                (image(before)?, image(row)?)
            }
            _ => (ImageSql::None, image(row)?),
        };
        let latest = judged.met.iter().max_by_key(|met| met.local.position);
        let winner_node = match judged.winner {
            JournalWinner::Local => self.target.node.as_ref(),
            JournalWinner::Remote => self.origin.node.as_ref(),
            JournalWinner::Merged => "",
        };
        let gtid = change.transaction.gtid.as_ref();
        Ok(Entry {
            origin: self.origin.node.to_string(),
            database: mapping.target.database.clone(),
            table: mapping.target.name.clone(),
            kind: judged.kind,
            policy: mapping.rule.name.clone(),
            winner: judged.winner,
            winner_node: winner_node.to_owned(),
            columns: image::columns(mapping),
            key_columns: image::key_columns(mapping),
            local_position: latest.map(|met| self.target.log_name.show(met.local.position)),
            local_effective: latest.map(|met| met.local.effective),
            origin_position: self.origin.log_name.show(change.transaction.start),
            origin_gtid: gtid.map(ToString::to_string).unwrap_or_default(),
            origin_effective: change.transaction.effective,
            local_image: local_image.map_or(ImageSql::None, ImageSql::Text),
            before_image: before,
            after_image: after,
            result_image: ImageSql::None,
            met: self.met(mapping, judged.met),
            note: judged.note,
        })
    }

    fn met(&self, mapping: &Mapping, met: &[MetKey]) -> String {
        let met: Vec<serde_json::Value> = met
            .iter()
            .map(|met| {
                let unique = met
                    .unique
                    .and_then(|number| mapping.target.unique_keys.get(number));
                serde_json::json!({
                    "key": unique.map_or("PRIMARY", |unique| unique.name.as_str()),
                    "winner": met.winner,
                    "local_effective": met.local.effective,
                    "local_position": self.target.log_name.show(met.local.position),
                })
            })
            .collect();
        serde_json::Value::from(met).to_string()
    }

    fn contention(&self, message: &str) -> Error {
        Error::Contention {
            node: self.target.node.to_string(),
            code: 0,
            message: message.to_owned(),
        }
    }

    fn rows_meet_definition(&self, change: &Weighed<'_>, local: LogPos) -> Error {
        Error::Conflict(format!(
            "table {}: the transaction of node {} at {} meets DDL of node {} that removed rows \
             without having seen it (it ends at {}). Decide which shall stay, make both nodes alike, \
             then {}",
            change.mapping.target,
            self.origin.node,
            self.origin.log_name.show(change.transaction.start),
            self.target.node,
            self.target.log_name.show(local),
            self.go_on_behind(change.transaction),
        ))
    }

    /// Whether a parent's delete that lost had taken children along at its origin without a word in
    /// the log: they have to go here too, though the parent stays.
    fn cascaded_unseen(&self, change: &Weighed<'_>, resolution: &Resolution) -> Result<bool> {
        let mapping = change.mapping;
        if mapping.foreign_keys != ForeignKeyMode::Engine || resolution.row != RowAction::Keep {
            return Ok(false);
        }
        let cascades =
            |key: &&ForeignKey| !matches!(key.on_delete.as_str(), "RESTRICT" | "NO ACTION");
        let settled = |key: &ForeignKey| {
            let mut dependents = mapping.family.dependents.iter();
            dependents.any(|dependent| dependent.key == *key)
        };
        let mut keys = mapping.target.children.iter().filter(cascades);
        if let Some(key) = keys.clone().find(|key| !settled(key)) {
            return Err(Error::Conflict(format!(
                "foreign_key {} on table {}: the transaction of node {} at {} deletes a row that node {} \
                 wrote concurrently, and what the server cascaded to ({}) is not in its log. Make both \
                 nodes alike, then {}",
                key.name,
                mapping.target,
                self.origin.node,
                self.origin.log_name.show(change.transaction.start),
                self.target.node,
                key.child.1,
                self.go_on_behind(change.transaction),
            )));
        }
        Ok(keys.next().is_some())
    }

    fn parent_moved(&self, change: &Weighed<'_>) -> Error {
        Error::Conflict(format!(
            "foreign_key on table {}: the transaction of node {} at {} gives another key to a row that \
             children may refer to, and node {} wrote it or its children concurrently. What the server \
             cascades is not in its log, so this cannot be settled. Make both nodes alike, then {}",
            change.mapping.target,
            self.origin.node,
            self.origin.log_name.show(change.transaction.start),
            self.target.node,
            self.go_on_behind(change.transaction),
        ))
    }

    fn halted_by_policy(&self, change: &Weighed<'_>, conflict: &Conflict) -> Error {
        let local = conflict.met.iter().map(|met| met.local.position).max();
        Error::Conflict(format!(
            "{} on table {}, whose policy is `halt`: the transaction of node {} at {} and the one of \
             node {} that ends at {} wrote the same key without having seen each other. Compare the \
             row on both nodes, make both alike, then {}",
            conflict.kind.as_str(),
            change.mapping.target,
            self.origin.node,
            self.origin.log_name.show(change.transaction.start),
            self.target.node,
            self.target.log_name.show(local.unwrap_or_default()),
            self.go_on_behind(change.transaction),
        ))
    }
}

/// What a write is called that neither fits nor met anything.
fn drift(mapping: &Mapping, write: &RowWrite) -> Failure {
    let table = mapping.target.to_string();
    match write {
        RowWrite::Insert { .. } => Failure::Refused {
            table,
            code: 1062,
            message: "the row is there already (key PRIMARY)".to_owned(),
        },
        RowWrite::Update { .. } => Failure::Missing {
            table,
            action: "update",
        },
        RowWrite::Delete { .. } => Failure::Missing {
            table,
            action: "delete",
        },
    }
}
