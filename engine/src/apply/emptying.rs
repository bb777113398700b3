//! Settles a TRUNCATE that meets rows which clients of the target wrote and its origin had not seen
//! (docs/conflicts.md, "TRUNCATE against rows").
//!
//! The statement counts as a delete of every row key that there may be, at its effective timestamp. So
//! the rows go whose last write is lower, and those stay whose last write is higher. Which these are
//! stands in the target's own log, behind what the origin had seen: nothing else has both the keys and
//! the images. All of it is one transaction with the marker:
//!
//! 1. lock every row and every gap of the table, so that no client writes it before the commit;
//! 2. wait until the tailer has read up to the end that the log has then;
//! 3. delete all rows, read the log again from what the origin had seen on, and put back the rows that
//!    stand; each row that was written there goes into the journal, with who won;
//! 4. commit.

use std::collections::HashSet;
use std::sync::Arc;

use super::applier::{Applier, Attempt};
use super::careful::Settled;
use super::execute::{Failure, one};
use super::image;
use super::locking::named;
use super::mapping::Mapping;
use super::statement::StatementWriter;
use crate::conflict::claim::{ClaimKind, ImageKeys, RowWrite};
use crate::conflict::collation::Requests;
use crate::conflict::journal::ImageSql;
use crate::conflict::key::{KeyHash, TableHash, image_keys};
use crate::conflict::policy::{Policy, Standing};
use crate::conflict::resolve::{Arrival, ConflictKind, Finding, Rival, RowAction, emptied};
use crate::conflict::rules::TableRule;
use crate::conflict::window::LocalWrite;
use crate::error::{Error, Result};
use crate::log_reader::{LogReader, Start, Step};
use crate::origin::Origin;
use crate::position::LogPos;
use crate::row::{Row, RowChange};
use crate::schema::TableSchema;
use crate::spill::Room;
use crate::transaction::{Local, RowEffect};

/// Bytes of rows that are put back by one statement.
const PUT_BACK_BYTES: usize = 512 * 1024;
/// Journal entries that are written by one statement.
const ENTRIES_AT_ONCE: usize = 200;

/// Whether a TRUNCATE of the table that meets rows is settled. Merged rows come to more than their own
/// writes, what a foreign key takes along is not in the log, and the rows' triggers would fire.
pub(super) fn settles(table: &TableSchema, rule: &TableRule) -> bool {
    !rule.merges() && !table.in_foreign_keys() && !table.triggers && rule.policy != Policy::Halt
}

/// A TRUNCATE as it is carried out.
struct Emptying<'t> {
    transaction: &'t Local,
    table: Arc<TableSchema>,
    rule: TableRule,
    settled: Settled,
    /// Rows that stand and are not written yet.
    put_back: Vec<u8>,
    /// What these rows are written by.
    mapping: Option<Arc<Mapping>>,
}

/// A row that was written here unseen by the origin, as its last write in the log left it.
struct Met<'m> {
    mapping: &'m Arc<Mapping>,
    key: KeyHash,
    change: &'m RowChange,
    claim: LocalWrite,
}

impl Applier {
    /// The table whose rows a TRUNCATE meets here, if that can be settled.
    pub(super) async fn table_to_settle(
        &mut self,
        transaction: &Local,
    ) -> Result<Option<Arc<TableSchema>>> {
        let Some(definition) = &transaction.definition else {
            return Ok(None);
        };
        let tables = definition.tables();
        let [(database, table)] = tables[..] else {
            return Ok(None);
        };
        if definition.effect() != RowEffect::Emptied {
            return Ok(None);
        }
        self.tailer_at_end().await?;
        let rerun = self.marker.intent == Some(transaction.end);
        if rerun && self.window.definition_was_applied(transaction.end) {
            return Ok(None);
        }
        let (hash, seen) = (TableHash::new(database, table), transaction.seen.position);
        if self.window.concurrent_table_write(hash, seen).is_none() {
            return Ok(None);
        }
        let Some(schema) = self.catalog.table(database, table).await? else {
            return Ok(None);
        };
        let rule = self.config.conflicts.rule_for(&schema);
        Ok(rule
            .is_ok_and(|rule| settles(&schema, &rule))
            .then_some(schema))
    }

    /// Settles a TRUNCATE of the table. On return it is committed with the marker behind it.
    pub(super) async fn empty(
        &mut self,
        transaction: &Local,
        table: &Arc<TableSchema>,
    ) -> Result<()> {
        tracing::info!(
            origin = %self.origin.node,
            position = self.origin.log_name.show(transaction.start),
            %table,
            "settling a TRUNCATE that meets rows which were written here"
        );
        let result = self.try_empty(transaction, table).await;
        match self.rolled_back(result).await? {
            Attempt::Applied => Ok(()),
            Attempt::Unfit(failure) => Err(self.unfit(transaction, failure)),
            // DDL came between: begin anew, with the table as it is now.
            Attempt::Stale | Attempt::Met(_) => {
                self.forget_schemas();
                Err(self.contention("DDL of a client came in front of a TRUNCATE"))
            }
        }
    }

    async fn try_empty(
        &mut self,
        transaction: &Local,
        table: &Arc<TableSchema>,
    ) -> Result<Attempt> {
        let generation = self.catalog.generation();
        let rule = self.config.conflicts.rule_for(table);
        let rule = rule.map_err(|problem| Error::Schema {
            table: table.to_string(),
            problem,
        })?;
        let context = "emptying a table around rows that stand";
        self.begin_carefully().await?;
        let marker = self.marker_behind(std::slice::from_ref(transaction), transaction);
        self.write_marker(&marker).await?;
        let name = named(table);
        let lock = format!("SELECT COUNT(*) FROM {name} FOR UPDATE");
        self.connection.execute(lock, context).await?;
        self.tailer_at_end().await?;
        if self.catalog.generation() != generation {
            return Ok(Attempt::Stale);
        }
        self.connection
            .execute(format!("DELETE FROM {name}"), context)
            .await?;
        let mut emptying = Emptying {
            transaction,
            table: Arc::clone(table),
            rule,
            settled: Settled::default(),
            put_back: Vec::new(),
            mapping: None,
        };
        let until = self.window.read_position();
        if let Some(attempt) = self.read_again(&mut emptying, until).await? {
            return Ok(attempt);
        }
        if let Some(attempt) = self.put_back(&mut emptying).await? {
            return Ok(attempt);
        }
        self.write_journal(&mut emptying.settled).await?;
        self.window.trust()?;
        self.connection.execute("COMMIT", "committing").await?;
        self.marker = marker;
        self.progress.definition();
        self.progress.applied(std::slice::from_ref(transaction));
        self.settled(emptying.settled, Vec::new());
        Ok(Attempt::Applied)
    }

    /// Goes through this node's own log from what the origin had seen up to `until`.
    async fn read_again(
        &mut self,
        emptying: &mut Emptying<'_>,
        until: LogPos,
    ) -> Result<Option<Attempt>> {
        let node = self.config.node(&self.target.node)?;
        let start = Start::at(emptying.transaction.seen.position, 0);
        let mut reader = LogReader::open(
            node,
            &self.target,
            &self.origin,
            start,
            &self.config,
            Room::of(&self.config, &self.target.node),
        )
        .await?;
        while reader.position() < until {
            let attempt = match reader.next().await? {
                Step::Transaction(Origin::Local(local)) => {
                    self.meet_again(emptying, *local).await?
                }
                Step::Transaction(Origin::Huge(huge)) => {
                    let of_table = |local: &Local| {
                        let mut changes = local.changes.iter();
                        changes.any(|change| {
                            TableHash::new(&change.table.database, &change.table.name)
                                == emptying.hash()
                        })
                    };
                    let mut parts = huge.parts();
                    while let Some(part) = parts.next_part()? {
                        if of_table(&part) {
                            return Err(self.too_large(emptying, huge.head().end));
                        }
                    }
                    None
                }
                _ => None,
            };
            if attempt.is_some() {
                return Ok(attempt);
            }
        }
        Ok(None)
    }

    fn too_large(&self, emptying: &Emptying<'_>, local: LogPos) -> Error {
        let transaction = emptying.transaction;
        let table = &emptying.table;
        let named = (table.database.as_str(), table.name.as_str());
        let kind = ConflictKind::Truncate.as_str();
        let mut entry = self.unsettled(transaction, kind, named, &emptying.rule.name);
        entry.local_position = Some(self.target.log_name.show(local));
        Error::Conflict {
            message: format!(
                "TRUNCATE of {table} from node {} ({}) meets rows of a transaction of node {} that does \
                 not fit into memory (it ends at {}). Decide which rows shall stay, make both nodes \
                 alike, then {}",
                self.origin.node,
                self.origin.log_name.show(transaction.start),
                self.target.node,
                self.target.log_name.show(local),
                self.go_on_behind(transaction),
            ),
            entry: Some(Box::new(entry)),
        }
    }

    /// One transaction of the log: its rows that nothing behind it wrote again.
    async fn meet_again(
        &mut self,
        emptying: &mut Emptying<'_>,
        mut local: Local,
    ) -> Result<Option<Attempt>> {
        let hash = emptying.hash();
        local
            .changes
            .retain(|change| TableHash::new(&change.table.database, &change.table.name) == hash);
        let mut mappings: Vec<Arc<Mapping>> = Vec::with_capacity(local.changes.len());
        let mut requests = Requests::default();
        for change in &mut local.changes {
            let known = mappings
                .last()
                .filter(|known| Arc::ptr_eq(&known.source, &change.table));
            let mapping = match known {
                Some(known) => Arc::clone(known),
                None => {
                    let (source, target) = (Arc::clone(&change.table), Arc::clone(&emptying.table));
                    let mut mapping = Mapping::new(source, target, true)?;
                    mapping.rule = emptying.rule.clone();
                    Arc::new(mapping)
                }
            };
            mapping.normalise(&mut change.change);
            for row in change.change.images().filter(|_| mapping.weighs_texts) {
                requests.add(&mapping.target, |column| mapping.value(row, column));
            }
            mappings.push(mapping);
        }
        let weights = self.catalog.collator().weigh(requests).await?;
        // From the end, so that the first one found of a row is its last write.
        let mut known: HashSet<KeyHash> = HashSet::new();
        for (change, mapping) in local.changes.iter().zip(&mappings).rev() {
            let keys = |row: &Row| {
                image_keys(
                    &mapping.target,
                    |column| mapping.value(row, column),
                    &weights,
                )
            };
            let writes: Vec<RowWrite> = RowWrite::of(&change.change, keys).collect();
            for write in writes.iter().rev() {
                let Some(key) = write.row_key().filter(|key| known.insert(*key)) else {
                    continue;
                };
                let seen = emptying.transaction.seen.position;
                let Some(claim) = self.window.concurrent_row_write(key, mapping.emptied, seen)
                else {
                    return Err(Error::Internal(format!(
                        "a row of {} that stands in the log is not in the window",
                        emptying.table
                    )));
                };
                if claim.position != local.end {
                    continue;
                }
                let change = match write {
                    RowWrite::Delete { .. } => change.change.before().cloned(),
                    _ => change.change.after().cloned(),
                };
                let Some(row) = change else { continue };
                let change = match write {
                    RowWrite::Delete { .. } => RowChange::Delete { before: row },
                    _ => RowChange::Insert { after: row },
                };
                let met = Met {
                    mapping,
                    key,
                    change: &change,
                    claim,
                };
                if emptying.is_full_for(mapping)
                    && let Some(attempt) = self.put_back(emptying).await?
                {
                    return Ok(Some(attempt));
                }
                self.judge(emptying, &met)?;
                if emptying.settled.entries.len() >= ENTRIES_AT_ONCE {
                    self.write_journal(&mut emptying.settled).await?;
                }
            }
        }
        // Its mappings are its own.
        self.put_back(emptying).await
    }

    fn judge(&self, emptying: &mut Emptying<'_>, met: &Met<'_>) -> Result<()> {
        let transaction = emptying.transaction;
        let write = RowWrite::Delete {
            before: ImageKeys {
                row: Some(met.key),
                unique: Vec::new(),
            },
        };
        let arrival = Arrival {
            write: &write,
            standing: Standing {
                effective: transaction.effective,
                place: self.places[0],
                seen: &[],
            },
            present: met.claim.kind == ClaimKind::Image,
            policy: emptying.rule.policy,
        };
        let resolution = emptied(&arrival, |_| {
            Some(Rival {
                claim: met.claim,
                place: self.places[1],
                seen: Arc::default(),
            })
        });
        let Finding::Conflict(conflict) = &resolution.finding else {
            return Err(Error::Internal(
                "a row that was met is no conflict".to_owned(),
            ));
        };
        let mapping = met.mapping;
        let writer = StatementWriter::new(mapping, self.target.flavor);
        let table = &emptying.table;
        let named = (table.database.as_str(), table.name.as_str());
        let (kind, policy) = (conflict.kind.as_str(), &mapping.rule.name);
        let winner = conflict.winner.into();
        let mut entry = self.entry_about(transaction, kind, named, policy, winner);
        entry.columns = image::columns(mapping);
        entry.key_columns = image::key_columns(mapping);
        entry.local_position = Some(self.target.log_name.show(met.claim.position));
        entry.local_effective = Some(met.claim.effective);
        entry.met = self.met(mapping, &conflict.met);
        entry.note = "the table was emptied at the other node";
        match met.change {
            RowChange::Insert { after } => {
                let image = image::of_log_image(mapping, &writer, after)?;
                entry.local_image = ImageSql::Expression(image);
                if resolution.row == RowAction::Keep {
                    let first = emptying.put_back.is_empty();
                    if first {
                        emptying.put_back = writer.insert_head();
                    }
                    writer.push_row(&mut emptying.put_back, after, first)?;
                    emptying.mapping = Some(Arc::clone(mapping));
                }
            }
            RowChange::Delete { before } | RowChange::Update { before, .. } => {
                let image = image::of_log_image(mapping, &writer, before)?;
                entry.before_image = ImageSql::Expression(image);
            }
        }
        emptying.settled.entries.push(entry);
        Ok(())
    }

    /// Writes the rows that stand.
    async fn put_back(&mut self, emptying: &mut Emptying<'_>) -> Result<Option<Attempt>> {
        let (sql, mapping) = (
            std::mem::take(&mut emptying.put_back),
            emptying.mapping.take(),
        );
        let Some(mapping) = mapping else {
            return Ok(None);
        };
        let checks = &mut self.foreign_key_checks;
        let looked = mapping.foreign_keys;
        let sent = one(
            &mut self.connection,
            &mapping,
            looked,
            &sql,
            "insert",
            checks,
        );
        match sent.await {
            Ok(_) => Ok(None),
            Err(Failure::Error(error)) => Err(error),
            Err(failure) => Ok(Some(Attempt::Unfit(failure))),
        }
    }
}

impl Emptying<'_> {
    /// Whether what is to be put back has to be written in front of a row of this mapping.
    fn is_full_for(&self, mapping: &Arc<Mapping>) -> bool {
        let same = |kept: &Arc<Mapping>| Arc::ptr_eq(kept, mapping);
        self.put_back.len() >= PUT_BACK_BYTES || !self.mapping.as_ref().is_none_or(same)
    }

    fn hash(&self) -> TableHash {
        TableHash::new(&self.table.database, &self.table.name)
    }
}
