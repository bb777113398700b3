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
//!    the others one by one ([`super::settle`]). What has no key in common with the latter comes last,
//!    together;
//! 4. look once more for meetings of those that met nothing, as the ordinary path does;
//! 5. commit rows, marker and journal together.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::applier::{Applier, Attempt};
use super::emptying;
use super::encode::encode;
use super::execute::{Failure, execute};
use super::foreign_key;
use super::locking::{Locking, Named};
use super::mapping::Mapping;
use crate::conflict::claim::{ChangeKeys, RowWrite};
use crate::conflict::collation::Weights;
use crate::conflict::family::Related;
use crate::conflict::history::{self, Unkept};
use crate::conflict::journal::{self, Entry, JournalWinner};
use crate::conflict::kept;
use crate::conflict::key::{KeyHash, image_keys};
use crate::error::{Error, Result};
use crate::failpoint::{self, Failpoint};
use crate::group::{Mapped, coalesced};
use crate::position::LogPos;
use crate::row::{Row, RowChange};
use crate::transaction::Local;

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
pub(super) struct Weighed<'t> {
    pub(super) transaction: &'t Local,
    pub(super) mapping: &'t Arc<Mapping>,
    pub(super) change: &'t RowChange,
    keys: ChangeKeys,
    pub(super) writes: Vec<RowWrite>,
    /// Of each write: the keys by which it meets writes of other tables; see [`crate::conflict::family`].
    pub(super) related: Vec<Related>,
    /// Number of its first write within the transaction.
    pub(super) number: u32,
    pub(super) contended: bool,
}

/// What a careful transaction has to write down.
#[derive(Default)]
pub(super) struct Settled {
    pub(super) entries: Vec<Entry>,
    /// Entries that are written, by kind and winner.
    pub(super) counts: BTreeMap<(&'static str, JournalWinner), u64>,
    /// Writes of rows that are merged, for their histories.
    pub(super) merged: Vec<(KeyHash, history::Entry)>,
}

/// Of each change, whether it must keep its place among those that are settled: it is one, or it has a
/// key in common with one that must. All others may come behind them, together.
fn bound(weighed: &[Weighed<'_>]) -> Vec<bool> {
    let stays = |change: &Weighed<'_>| {
        let target = &change.mapping.target;
        // What collides there is not known by keys alone.
        change.contended || target.in_foreign_keys() || target.has_opaque_unique_key
    };
    let keys: Vec<Vec<KeyHash>> = weighed.iter().map(|w| w.own_keys().collect()).collect();
    spread(weighed.iter().map(stays).collect(), &keys)
}

/// `bound`, with those that have a key in common with one that is, directly or by way of others.
fn spread(mut bound: Vec<bool>, keys: &[Vec<KeyHash>]) -> Vec<bool> {
    let with = |bound: &[bool]| -> HashSet<KeyHash> {
        let bound = bound.iter().zip(keys).filter(|(bound, _)| **bound);
        bound.flat_map(|(_, keys)| keys).copied().collect()
    };
    let mut reached = with(&bound);
    loop {
        for (bound, keys) in bound.iter_mut().zip(keys) {
            *bound |= keys.iter().any(|key| reached.contains(key));
        }
        let further = with(&bound);
        if further.len() == reached.len() {
            return bound;
        }
        reached = further;
    }
}

impl Weighed<'_> {
    /// The keys that its images have, and those that it leaves.
    fn own_keys(&self) -> impl Iterator<Item = KeyHash> {
        self.writes.iter().flat_map(|write| {
            let left = write.left().iter().map(|(_, key)| *key);
            write.claims().map(|(key, _)| key).chain(left)
        })
    }

    /// Every key by which it meets local writes, each with whether it is of a row that is merged.
    pub(super) fn keys(&self) -> impl Iterator<Item = (KeyHash, bool)> {
        let merges = self.mapping.rule.merges();
        let whole = self.mapping.whole_table.into_iter();
        let whole = whole.chain([self.mapping.emptied]);
        let related = self.related.iter().flat_map(Related::keys);
        let others = whole.chain(related).map(|key| (key, false));
        others.chain(self.own_keys().map(move |key| (key, merges)))
    }
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
            mappings.push(self.preparer.map(transaction).await?);
        }
        let transactions = &*transactions;
        let Some(last) = transactions.last() else {
            return Ok(Attempt::Applied);
        };
        let weights = self.preparer.weigh_texts(transactions, &mappings).await?;
        let mut weighed = self.weigh(transactions, &mappings, &weights, scope)?;
        self.begin_carefully().await?;
        let marker = self.marker_behind(transactions, last);
        self.write_marker(&marker).await?;
        let mut settled = Settled::default();
        let attempt = self.settle_all(&mut weighed, generation, &mut settled);
        if let Some(attempt) = attempt.await? {
            return Ok(attempt);
        }
        let questions = foreign_key::questions(
            transactions,
            mappings.iter().map(|mappings| &mappings[..]),
            self.target.flavor,
        )?;
        if let Some(orphan) = foreign_key::ask(&mut self.connection, &questions).await? {
            return Ok(Attempt::Unfit(orphan));
        }
        // Whoever made a trigger for children that go has done so behind the first look, or waits for them.
        let loose = |change: &Weighed<'_>| {
            !change.contended || !change.mapping.family.dependents.is_empty()
        };
        if weighed.iter().any(loose) {
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
        failpoint::reach(Failpoint::CarefulSettled);
        let kept = self.write_down(&mut settled).await?;
        self.window.trust()?;
        failpoint::reach(Failpoint::CarefulJournalled);
        let commit = self.connection.execute("COMMIT", "committing");
        failpoint::midway(Failpoint::CarefulCommitSent, commit).await?;
        failpoint::reach(Failpoint::CarefulCommitted);
        self.marker = marker;
        self.progress.applied(transactions);
        self.settled(settled, kept);
        Ok(Attempt::Applied)
    }

    /// Sets what the next transaction, and only that, must be like.
    pub(super) async fn begin_carefully(&mut self) -> Result<()> {
        let sql = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ";
        let context = "beginning a careful transaction";
        self.connection.execute(sql, context).await.map(|_| ())
    }

    /// What a committed careful transaction leaves to be known.
    pub(super) fn settled(&self, settled: Settled, kept: Vec<(KeyHash, Unkept)>) {
        for ((kind, winner), count) in settled.counts {
            for _ in 0..count {
                self.progress.conflict(kind, winner);
            }
        }
        for (key, entry) in settled.merged {
            self.window.histories().applied(key, entry);
        }
        for (key, unkept) in kept {
            self.window.histories().keep(key, &unkept);
        }
    }

    /// Locks, waits, settles and writes, within the open transaction: steps 1 to 3. Those that are
    /// not `contended` afterwards are to be looked at once more before the commit. Gives what stands
    /// in the way, if something does.
    pub(super) async fn settle_all(
        &mut self,
        weighed: &mut [Weighed<'_>],
        generation: u64,
        settled: &mut Settled,
    ) -> Result<Option<Attempt>> {
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
            return Ok(Some(Attempt::Stale));
        }
        failpoint::reach(Failpoint::CarefulLocked);
        let bound = bound(weighed);
        let (ordered, free): (Vec<_>, Vec<_>) =
            weighed.iter().zip(bound).partition(|(_, bound)| *bound);
        let changes = |some: Vec<(_, bool)>| -> Vec<&Weighed<'_>> {
            some.into_iter().map(|(change, _)| change).collect()
        };
        let (ordered, free) = (changes(ordered), changes(free));
        for run in ordered.chunk_by(|one, next| !one.contended && !next.contended) {
            let attempt = match run {
                [change] if change.contended => self.settle(change, settled).await?,
                run => self.run_plan(run).await?,
            };
            if attempt.is_some() {
                return Ok(attempt);
            }
        }
        self.run_plan(&free).await
    }

    /// Applies changes that meet nothing, as few statements as ever. Gives what stands in the way, if
    /// something does.
    async fn run_plan(&mut self, changes: &[&Weighed<'_>]) -> Result<Option<Attempt>> {
        if changes.is_empty() {
            return Ok(None);
        }
        let steps = coalesced(changes.iter().map(|weighed| Mapped {
            mapping: weighed.mapping,
            change: weighed.change,
            keys: &weighed.keys,
        }));
        let statements = encode(&steps, self.target.flavor)?;
        let checks = &mut self.foreign_key_checks;
        match execute(&mut self.connection, None, &statements, checks).await {
            Ok(()) => Ok(None),
            Err(Failure::Error(error)) => Err(error),
            Err(failure) => Ok(Some(Attempt::Unfit(failure))),
        }
    }

    pub(super) fn weigh<'t>(
        &self,
        transactions: &'t [Local],
        mappings: &'t [Vec<Arc<Mapping>>],
        weights: &Weights,
        scope: Scope,
    ) -> Result<Vec<Weighed<'t>>> {
        let mut weighed = Vec::new();
        for (transaction, mappings) in transactions.iter().zip(mappings) {
            let mut number = transaction.first_write;
            for (change, mapping) in transaction.changes.iter().zip(mappings) {
                let change = &change.change;
                let keys = |row: &Row| {
                    image_keys(
                        &mapping.target,
                        |column| mapping.value(row, column),
                        weights,
                    )
                };
                let keys = ChangeKeys::of(change, keys);
                let writes: Vec<RowWrite> = keys.clone().writes().collect();
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
                    keys,
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
        // A row with a history: every write of it must go in.
        let seen_rows = if change.mapping.rule.merges() {
            LogPos::default()
        } else {
            seen
        };
        for key in change.mapping.whole_table {
            if let Some(local) = self.window.concurrent_write(key, seen) {
                return Err(self.rows_meet_definition(change, local.position));
            }
        }
        let emptied = self.window.concurrent_write(change.mapping.emptied, seen);
        if let Some(emptied) = emptied {
            let mapping = change.mapping;
            let settled = emptying::settles(&mapping.target, &mapping.rule);
            if !settled || change.transaction.unplaced {
                return Err(self.rows_meet_definition(change, emptied.position));
            }
            return Ok(true);
        }
        let mut related = change.related.iter().flat_map(Related::keys);
        if related.any(|key| self.window.concurrent_write(key, seen).is_some()) {
            return Ok(true);
        }
        let mut own = change.own_keys();
        Ok(own.any(|key| self.window.concurrent_write(key, seen_rows).is_some()))
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

    /// The journal, within the transaction.
    pub(super) async fn write_journal(&mut self, settled: &mut Settled) -> Result<()> {
        let schema = &self.config.engine.schema;
        if settled.entries.is_empty() {
            return Ok(());
        }
        let sql = journal::insert(schema, &settled.entries);
        let context = "writing the conflict journal";
        self.connection.execute(sql, context).await?;
        for entry in settled.entries.drain(..) {
            *settled
                .counts
                .entry((entry.kind, entry.winner))
                .or_default() += 1;
        }
        Ok(())
    }

    /// Journal and histories, within the transaction.
    pub(super) async fn write_down(
        &mut self,
        settled: &mut Settled,
    ) -> Result<Vec<(KeyHash, Unkept)>> {
        self.write_journal(settled).await?;
        let schema = &self.config.engine.schema;
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
        let context = "keeping the histories of merged rows";
        for sql in kept::statements(schema, &kept, self.window.acknowledged())? {
            self.connection.execute(sql, context).await?;
        }
        for (key, unkept) in &mut kept {
            loop {
                let entries = unkept.take_spilled(kept::MORE_BYTES)?;
                if entries.is_empty() {
                    break;
                }
                for sql in kept::more(schema, *key, &entries)? {
                    self.connection.execute(sql, context).await?;
                }
            }
        }
        Ok(kept)
    }

    pub(super) fn contention(&self, message: &str) -> Error {
        Error::Contention {
            node: self.target.node.to_string(),
            code: 0,
            message: message.to_owned(),
        }
    }

    fn rows_meet_definition(&self, change: &Weighed<'_>, local: LogPos) -> Error {
        let message = format!(
            "table {}: the transaction of node {} at {} meets DDL of node {} that removed rows \
             without having seen it (it ends at {}). Decide which shall stay, make both nodes alike, \
             then {}",
            change.mapping.target,
            self.origin.node,
            self.origin.log_name.show(change.transaction.start),
            self.target.node,
            self.target.log_name.show(local),
            self.go_on_behind(change.transaction),
        );
        let mut error = self.unsettled_change(change, journal::DEFINITION, &[], message);
        if let Error::Conflict {
            entry: Some(entry), ..
        } = &mut error
        {
            entry.local_position = Some(self.target.log_name.show(local));
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shares_a_key_keeps_its_place() {
        let key = |name: &str| KeyHash::whole_table("d", name);
        let keys = [
            vec![key("a"), key("u")],
            vec![key("c"), key("v")],
            vec![key("b"), key("u")],
            // Only by way of one that stands behind it.
            vec![key("e"), key("w")],
            vec![key("b"), key("w")],
            vec![key("f")],
        ];
        let bound = spread(vec![true, false, false, false, false, false], &keys);
        assert_eq!(bound, [true, false, true, true, true, false]);
        assert_eq!(spread(vec![false; 6], &keys), [false; 6]);
    }
}
