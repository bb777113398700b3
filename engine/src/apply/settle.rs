//! Settles one change within the careful transaction: decides, writes, and says what to write down.

use std::sync::Arc;

use super::applier::{Applier, Attempt};
use super::careful::{Settled, Weighed};
use super::column_set::ColumnSet;
use super::encode::checks;
use super::execute::{Failure, execute, one};
use super::explain::UNSETTLED;
use super::image;
use super::locking::{Locking, Named};
use super::mapping::Mapping;
use super::row_events::{EventWriter, Path};
use super::statement::StatementWriter;
use super::stored_key;
use crate::config::DriftPolicy;
use crate::conflict::claim::RowWrite;
use crate::conflict::history::{self, Order, Origin, merged, writes_of};
use crate::conflict::journal::{Entry, ImageSql, JournalWinner};
use crate::conflict::key::KeyHash;
use crate::conflict::policy::Standing;
use crate::conflict::resolve::{
    Arrival, Conflict, ConflictKind, Finding, MetKey, Resolution, Rival, RowAction, orphaned,
    resolve, without_its_row,
};
use crate::conflict::window::LocalWrite;
use crate::error::{Error, Result};
use crate::row::{Row, RowChange};
use crate::schema::{ForeignKey, TableSchema};
use crate::transaction::ForeignKeyMode;

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
    /// Settles one change. Gives what stands in the way, if something does.
    pub(super) async fn settle(
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
                standing: Standing {
                    effective: change.transaction.effective,
                    place: self.places[0],
                    // With two nodes nobody stands in front of both.
                    seen: &[],
                },
                present: stored.is_some(),
                policy: change.mapping.rule.policy,
            };
            let (window, place_here) = (&self.window, self.places[1]);
            let row_key = write.row_key();
            let mut resolution = resolve(&arrival, |key| {
                let claim = if Some(key) == row_key {
                    window.concurrent_row_write(key, mapping.emptied, seen)
                } else {
                    window.concurrent_write(key, seen)
                };
                claim.map(|claim| Rival {
                    claim,
                    place: place_here,
                    seen: Arc::default(),
                })
            });
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
            if dependent.child.triggers {
                return Err(self.children_with_triggers(change, &dependent.child));
            }
            // The server need not look: what refers to the parent is what goes.
            self.connection.execute(&delete, context).await?;
            for image in images {
                let child = &dependent.child;
                let named = (child.database.as_str(), child.name.as_str());
                let (kind, remote) = (ConflictKind::ForeignKey.as_str(), JournalWinner::Remote);
                let transaction = change.transaction;
                settled.entries.push(Entry {
                    columns: image::columns_of(child),
                    key_columns: image::key_columns_of(child),
                    local_position: relative
                        .map(|relative| self.target.log_name.show(relative.position)),
                    local_effective: relative.map(|relative| relative.effective),
                    local_image: ImageSql::Text(image),
                    note: "its parent was deleted at the other node",
                    ..self.entry_about(transaction, kind, named, &mapping.rule.name, remote)
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
            origin: Origin::foreign(self.places[0], change.transaction.end),
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
            let message = format!(
                "table {}: the merged value of column {} is out of the column's range (transaction of \
                 node {} at {}). Widen the column, or make both nodes alike, then {}",
                change.mapping.target,
                column.map_or("?", |column| column.name.as_str()),
                self.origin.node,
                self.origin.log_name.show(change.transaction.start),
                self.go_on_behind(change.transaction),
            );
            self.unsettled_change(change, "merge", &[], message)
        })?;
        let (action, row) = merged(resolution.row, present, folded);
        resolution.row = action;
        Ok(row)
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
        // The origin's own delete has seen to its children. What goes for another reason must not
        // leave any behind: the server looks.
        let mut looked = mapping.foreign_keys;
        if !matches!(write, RowWrite::Delete { .. }) && !mapping.target.children.is_empty() {
            looked = ForeignKeyMode::Engine;
        }
        let removes = resolution.row == RowAction::Remove && present;
        let writes = removes || resolution.row == RowAction::Put || !resolution.displace.is_empty();
        if writes && mapping.path == Path::RowEvents {
            let asked = checks(mapping, self.target.flavor);
            let mode = &mut self.foreign_key_checks;
            match execute(&mut self.connection, None, &asked, mode).await {
                Ok(()) => {}
                Err(Failure::Error(error)) => return Err(error),
                Err(failure) => return Ok(Some(Attempt::Unfit(failure))),
            }
        }
        // One after the other: two unique values may be held by one row.
        for number in &resolution.displace {
            let holder = Named::Holder(*number, row);
            let attempt = self.remove(mapping, holder, looked).await?;
            if attempt.is_some() {
                return Ok(attempt);
            }
        }
        let attempt = match resolution.row {
            RowAction::Remove if present => {
                let named = Named::ByRowKey(row);
                self.remove(mapping, named, looked).await?
            }
            RowAction::Keep | RowAction::Remove => None,
            RowAction::Put => {
                let (action, sql) = self.put(mapping, standing, present)?;
                let checked = mapping.foreign_keys;
                self.send_one(mapping, checked, action, &sql).await?
            }
        };
        if attempt.is_some() {
            return Ok(attempt);
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

    /// Removes a row, locked already, if it is there. `looked` says how foreign keys are minded. Gives what stands in the way, if something
    /// does.
    async fn remove(
        &mut self,
        mapping: &Mapping,
        named: Named<'_>,
        looked: ForeignKeyMode,
    ) -> Result<Option<Attempt>> {
        let flavor = self.target.flavor;
        let sql = match (mapping.path, named) {
            (Path::Sql, named) => Locking::new(mapping, flavor).delete(named)?,
            (Path::RowEvents, Named::ByRowKey(row)) => {
                EventWriter::delete(mapping, flavor, looked).of_one(&[row])?
            }
            // Its images are not in this log: a row event needs the key of the row itself.
            (Path::RowEvents, Named::Holder(..)) => match self.stored_key(mapping, named).await? {
                None => return Ok(None),
                Some(row) => EventWriter::delete(mapping, flavor, looked).of_one(&[&row])?,
            },
        };
        self.send_one(mapping, looked, "delete", &sql).await
    }

    async fn send_one(
        &mut self,
        mapping: &Mapping,
        looked: ForeignKeyMode,
        action: &'static str,
        sql: &[u8],
    ) -> Result<Option<Attempt>> {
        let checks = &mut self.foreign_key_checks;
        match one(&mut self.connection, mapping, looked, sql, action, checks).await {
            Ok(_) => Ok(None),
            Err(Failure::Error(error)) => Err(error),
            Err(failure) => Ok(Some(Attempt::Unfit(failure))),
        }
    }

    /// An image of the stored row, with its row key alone; `None` where there is no such row.
    async fn stored_key(&mut self, mapping: &Mapping, named: Named<'_>) -> Result<Option<Row>> {
        let unreadable = |column: &str| Error::Unsupported {
            node: self.origin.node.to_string(),
            position: String::new(),
            what: format!("a conflict over a unique key of table {}", mapping.target),
            problem: format!(
                "a row has to go by a row event, since the table has triggers, and its key cannot be read: {column}"
            ),
        };
        let expressions = stored_key::expressions(mapping).map_err(|column| unreadable(&column))?;
        let sql = Locking::new(mapping, self.target.flavor).read_as(&expressions, named)?;
        let context = "reading the key of a row of a conflict";
        let Some(found) = self.connection.row(&sql, context).await? else {
            return Ok(None);
        };
        let texts = (0..found.len()).map(|index| found.get_opt::<String, _>(index)?.ok());
        let texts: Option<Vec<String>> = texts.collect();
        let image = texts.and_then(|texts| stored_key::image(mapping, &texts));
        image
            .map(Some)
            .ok_or_else(|| unreadable("its text has another form than expected"))
    }

    /// What makes a row, locked already, what it is to be.
    fn put(&self, mapping: &Mapping, row: &Row, present: bool) -> Result<(&'static str, Vec<u8>)> {
        let flavor = self.target.flavor;
        Ok(match (mapping.path, present) {
            (Path::Sql, true) => {
                let writer = StatementWriter::new(mapping, flavor);
                ("update", writer.update(row, row, ColumnSet::ALL)?)
            }
            (Path::Sql, false) => {
                let writer = StatementWriter::new(mapping, flavor);
                let mut sql = writer.insert_head();
                writer.push_row(&mut sql, row, true)?;
                ("insert", sql)
            }
            (Path::RowEvents, true) => {
                let writer = EventWriter::update(mapping, flavor, ColumnSet::ALL);
                ("update", writer.of_one(&[row, row])?)
            }
            (Path::RowEvents, false) => {
                let writer = EventWriter::insert(mapping, flavor);
                ("insert", writer.of_one(&[row])?)
            }
        })
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
        let table = &mapping.target;
        let named = (table.database.as_str(), table.name.as_str());
        let (policy, winner) = (&mapping.rule.name, judged.winner);
        Ok(Entry {
            columns: image::columns(mapping),
            key_columns: image::key_columns(mapping),
            local_position: latest.map(|met| self.target.log_name.show(met.local.position)),
            local_effective: latest.map(|met| met.local.effective),
            local_image: local_image.map_or(ImageSql::None, ImageSql::Text),
            before_image: before,
            after_image: after,
            met: self.met(mapping, judged.met),
            note: judged.note,
            ..self.entry_about(change.transaction, judged.kind, named, policy, winner)
        })
    }

    pub(super) fn met(&self, mapping: &Mapping, met: &[MetKey]) -> String {
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
            let message = format!(
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
            );
            let kind = ConflictKind::ForeignKey.as_str();
            return Err(self.unsettled_change(change, kind, &[], message));
        }
        Ok(keys.next().is_some())
    }

    fn parent_moved(&self, change: &Weighed<'_>) -> Error {
        let message = format!(
            "foreign_key on table {}: the transaction of node {} at {} gives another key to a row that \
             children may refer to, and node {} wrote it or its children concurrently. What the server \
             cascades is not in its log, so this cannot be settled. Make both nodes alike, then {}",
            change.mapping.target,
            self.origin.node,
            self.origin.log_name.show(change.transaction.start),
            self.target.node,
            self.go_on_behind(change.transaction),
        );
        self.unsettled_change(change, ConflictKind::ForeignKey.as_str(), &[], message)
    }

    fn children_with_triggers(&self, change: &Weighed<'_>, child: &TableSchema) -> Error {
        let message = format!(
            "foreign_key on table {}: the transaction of node {} at {} deletes a row to which node {} concurrently wrote \
             children in {child}, which has triggers: removing them would fire these. Make both nodes alike, then {}",
            change.mapping.target,
            self.origin.node,
            self.origin.log_name.show(change.transaction.start),
            self.target.node,
            self.go_on_behind(change.transaction),
        );
        self.unsettled_change(change, ConflictKind::ForeignKey.as_str(), &[], message)
    }

    /// What is said, here and in the journal, of a change that is not settled.
    pub(super) fn unsettled_change(
        &self,
        change: &Weighed<'_>,
        kind: &'static str,
        met: &[MetKey],
        message: String,
    ) -> Error {
        let judged = Judged {
            kind,
            winner: JournalWinner::Nobody,
            met,
            note: UNSETTLED,
        };
        let (before, after) = (change.change.before(), change.change.after());
        let write = change.writes.last();
        let row = after.or(before);
        let entry = write
            .zip(row)
            .map(|(write, row)| self.entry(change, write, row, &judged, None));
        Error::Conflict {
            message,
            // A value that has no literal is no reason not to say the rest.
            entry: entry.and_then(Result::ok).map(Box::new),
        }
    }

    fn halted_by_policy(&self, change: &Weighed<'_>, conflict: &Conflict) -> Error {
        let local = conflict.met.iter().map(|met| met.local.position).max();
        let message = format!(
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
        );
        self.unsettled_change(change, conflict.kind.as_str(), &conflict.met, message)
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
