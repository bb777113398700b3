//! Apply transactions as the engine makes them: the ordinary one, which writes and then asks whether
//! it met anybody, and the careful one, which locks, asks, and settles write by write.

use std::rc::Rc;
use std::sync::Arc;

use twinlog_engine::conflict::claim::RowWrite;
use twinlog_engine::conflict::detect::{Claim, first_meeting};
use twinlog_engine::conflict::family::Related;
use twinlog_engine::conflict::history::{Entry, merged};
use twinlog_engine::conflict::key::{KeyHash, TableHash};
use twinlog_engine::conflict::policy::{Standing, Winner};
use twinlog_engine::conflict::resolve::{
    Arrival, Conflict, ConflictKind, Finding, Rival, RowAction, emptied, orphaned, resolve,
    without_its_row,
};
use twinlog_engine::group::{Changed, Step, coalesced};
use twinlog_engine::position::LogPos;
use twinlog_engine::position::marker::Marker;
use twinlog_engine::row::Row;

use super::engine::{Engine, Read};
use super::server::{Body, Change, EMPTIED, Lock, Mark, Undo, key_of};
use super::world::{Interrupt, Mutation, World, show};

/// What a careful transaction settled, and its writes for the histories.
type Written = (Vec<(LogPos, Conflict)>, Vec<(KeyHash, Entry)>);

fn changes(read: &Read) -> &[Change] {
    read.logged.body.changes()
}

fn empties(read: &Read) -> bool {
    matches!(read.logged.body, Body::Emptied(_))
}

/// Every key that the transactions claim or leave, with what they had seen of a node.
fn claims(reads: &[Read], of: usize, merging: bool) -> Vec<Claim> {
    let mut claims = Vec::new();
    for (transaction, read) in reads.iter().enumerate() {
        for (change, written) in changes(read).iter().enumerate() {
            for write in &written.writes {
                let left = write.left().iter().map(|(_, key)| *key);
                let keys = write.claims().map(|(key, _)| key).chain(left);
                let related = written.related.iter().flat_map(Related::keys);
                let (database, table) = EMPTIED;
                claims.push(Claim {
                    transaction,
                    change,
                    key: KeyHash::emptied(database, table),
                    seen: read.seen[of].position,
                });
                claims.extend(related.map(|key| Claim {
                    transaction,
                    change,
                    key,
                    seen: read.seen[of].position,
                }));
                claims.extend(keys.map(|key| Claim {
                    transaction,
                    change,
                    key,
                    // A row with a history: every write of it must go in.
                    seen: if merging {
                        LogPos::default()
                    } else {
                        read.seen[of].position
                    },
                }));
            }
        }
    }
    claims
}

impl World {
    /// Applies transactions, in as many commits as it takes.
    pub(crate) fn apply(
        &mut self,
        [node, origin]: [usize; 2],
        engine: &mut Engine,
        reads: &[Read],
    ) -> Result<(), Interrupt> {
        // DDL is applied by itself.
        if let Some(first) = reads.iter().position(empties)
            && reads.len() > 1
        {
            self.apply([node, origin], engine, &reads[..first])?;
            self.apply([node, origin], engine, &reads[first..=first])?;
            return self.apply([node, origin], engine, &reads[first + 1..]);
        }
        if let [one] = reads
            && empties(one)
        {
            return self.empty([node, origin], engine, one);
        }
        if reads.is_empty() {
            return Ok(());
        }
        if !self.some(10) && self.ordinary([node, origin], engine, reads)? {
            return Ok(());
        }
        if self.some(50) {
            return self.careful([node, origin], engine, reads);
        }
        for read in reads {
            let one = std::slice::from_ref(read);
            if !self.some(50) || !self.ordinary([node, origin], engine, one)? {
                self.careful([node, origin], engine, one)?;
            }
        }
        Ok(())
    }

    /// A TRUNCATE that arrives: as it is where it meets no rows, and else around those that stand. The
    /// table is locked from the last look on, and so nobody comes between.
    fn empty(
        &mut self,
        [node, origin]: [usize; 2],
        engine: &mut Engine,
        read: &Read,
    ) -> Result<(), Interrupt> {
        self.interlude(node, engine, &[])?;
        self.tail_on(node, engine, usize::MAX)?;
        let (database, table) = EMPTIED;
        let written = TableHash::new(database, table);
        let mut others = (0..self.nodes).filter(|of| *of != origin);
        let meets = others.any(|of| {
            let seen = read.seen[of].position;
            let written = engine.windows[of].concurrent_table_write(written, seen);
            let emptied = KeyHash::emptied(database, table);
            // A third node's may have taken along what this one leaves.
            let emptied = engine.windows[of].concurrent_write(emptied, seen);
            written.is_some() || (self.nodes > 2 && emptied.is_some())
        });
        let mut undo = Undo::default();
        if !meets || self.mutation == Some(Mutation::EmptiedWhole) {
            self.servers[node].rows.clear();
        }
        for change in changes(read) {
            let settled =
                self.settle_write([node, origin], engine, (read, change, 0), &[], &mut undo);
            match settled {
                Ok(Some(conflict)) => self.note([node, origin], read.logged.end, &conflict)?,
                Ok(None) => {}
                Err(interrupt) => return Err(interrupt),
            }
        }
        self.commit_group([node, origin], engine, std::slice::from_ref(read));
        Ok(())
    }

    /// `false` where it had to be rolled back.
    fn ordinary(
        &mut self,
        [node, origin]: [usize; 2],
        engine: &mut Engine,
        reads: &[Read],
    ) -> Result<bool, Interrupt> {
        if self.meets(origin, engine, reads) {
            return Ok(false);
        }
        let mut undo = Undo::default();
        let written = self.write_ordinary([node, origin], engine, reads, &mut undo);
        if !matches!(written, Ok(true)) {
            self.servers[node].roll_back(undo);
            return written;
        }
        self.commit_group([node, origin], engine, reads);
        Ok(true)
    }

    fn write_ordinary(
        &mut self,
        [node, origin]: [usize; 2],
        engine: &mut Engine,
        reads: &[Read],
        undo: &mut Undo,
    ) -> Result<bool, Interrupt> {
        let mut locked: Vec<Lock> = Vec::new();
        let unfit = if self.some(50) {
            self.write_merged(node, engine, reads, &mut locked, undo)?
        } else {
            self.write_in_order(node, engine, reads, &mut locked, undo)?
        };
        self.interlude(node, engine, &locked)?;
        if self.mutation != Some(Mutation::NoGuard) {
            self.tail_on(node, engine, usize::MAX)?;
        }
        if self.meets(origin, engine, reads) {
            return Ok(false);
        }
        // Exact detection: what meets no concurrent claim fits as it is, to the last value.
        if let Some(problem) = unfit {
            return Err(Interrupt::Broken(format!(
                "drift at node {node} without a concurrent claim: {problem}; rows {}",
                show(&self.servers[node].rows)
            )));
        }
        self.every_child_has_its_parent(node)?;
        self.interlude(node, engine, &locked)?;
        Ok(true)
    }

    /// Writes each change by itself. Gives what did not fit.
    fn write_in_order(
        &mut self,
        node: usize,
        engine: &mut Engine,
        reads: &[Read],
        locked: &mut Vec<Lock>,
        undo: &mut Undo,
    ) -> Result<Option<String>, Interrupt> {
        let mut unfit = None;
        for change in reads.iter().flat_map(changes) {
            self.interlude(node, engine, locked)?;
            let server = &mut self.servers[node];
            for image in change.before().into_iter().chain(change.after()) {
                locked.extend(server.locks_of(image));
            }
            if let Some(before) = change.before()
                && let Some(found) = server.rows.get(&key_of(before))
                && found != before
            {
                unfit = Some(format!("row {} is another than it was", key_of(before)));
            }
            if let Err(problem) = server.write(change, undo) {
                unfit = Some(problem);
                break;
            }
        }
        Ok(unfit)
    }

    /// Writes the changes merged, by the engine's own plan. Gives what did not fit.
    fn write_merged(
        &mut self,
        node: usize,
        engine: &mut Engine,
        reads: &[Read],
        locked: &mut Vec<Lock>,
        undo: &mut Undo,
    ) -> Result<Option<String>, Interrupt> {
        let tables = Rc::clone(&self.tables);
        let changes = reads.iter().flat_map(changes);
        for step in coalesced(changes.map(|change| change.mapped(&tables))) {
            self.interlude(node, engine, locked)?;
            let rows: Vec<Changed<'_>> = match &step {
                Step::Insert(_, rows) | Step::Delete(_, rows) | Step::Lock(_, rows) => {
                    rows.iter().map(|to| Changed { from: None, to }).collect()
                }
                Step::Upsert(_, rows) => rows.clone(),
                Step::Update(_, before, after) => {
                    locked.extend(self.servers[node].row_locks(before));
                    let from = Some(*before);
                    vec![Changed { from, to: after }]
                }
            };
            if self.mutation == Some(Mutation::PlanLocksNothing) && matches!(step, Step::Lock(..)) {
                continue;
            }
            let server = &mut self.servers[node];
            for changed in rows {
                let row = changed.to;
                // What it only names is the row's own, and goes with its lock.
                locked.extend(match step {
                    Step::Delete(..) | Step::Lock(..) => server.row_locks(row),
                    _ => server.locks_of(row),
                });
                if let Err(problem) = server.step(&step, changed, undo) {
                    return Ok(Some(problem));
                }
            }
        }
        Ok(None)
    }

    /// Whether the transactions meet a write of another node, or of this one's clients, that they had
    /// not seen.
    fn meets(&self, origin: usize, engine: &Engine, reads: &[Read]) -> bool {
        let mut others = (0..self.nodes).filter(|of| *of != origin);
        others.any(|of| {
            let claims = claims(reads, of, !self.rules.is_empty());
            first_meeting(&claims, &engine.windows[of]).is_some()
        })
    }

    /// What the apply asks the server in front of a commit.
    fn every_child_has_its_parent(&self, node: usize) -> Result<(), Interrupt> {
        match self.servers[node].orphan() {
            None => Ok(()),
            Some(orphan) => Err(Interrupt::Broken(format!(
                "node {node} holds the child {orphan:?} without its parent; rows {}",
                show(&self.servers[node].rows)
            ))),
        }
    }

    fn careful(
        &mut self,
        [node, origin]: [usize; 2],
        engine: &mut Engine,
        reads: &[Read],
    ) -> Result<(), Interrupt> {
        let mut undo = Undo::default();
        match self.write_careful([node, origin], engine, reads, &mut undo) {
            Ok((settled, entries)) => {
                for (end, conflict) in &settled {
                    self.note([node, origin], *end, conflict)?;
                }
                self.commit_group([node, origin], engine, reads);
                let histories = engine.windows[node].histories();
                let mut kept = Vec::new();
                for (key, _) in &entries {
                    let of_row = entries.iter().filter(|(other, _)| other == key);
                    let unkept = histories.unkept_with(*key, of_row.map(|(_, entry)| entry));
                    if let Some(mut unkept) = unkept {
                        self.servers[node].keep(*key, &mut unkept);
                        kept.push((*key, unkept));
                    }
                }
                // With three nodes the commit has put them in.
                if self.nodes == 2 && self.mutation != Some(Mutation::NoHistory) {
                    for (key, entry) in entries {
                        histories.applied(key, entry);
                    }
                }
                for (key, unkept) in kept {
                    histories.keep(key, &unkept);
                }
                histories.trust().expect("the disk works");
                Ok(())
            }
            Err(interrupt) => {
                self.servers[node].roll_back(undo);
                Err(interrupt)
            }
        }
    }

    fn write_careful(
        &mut self,
        [node, origin]: [usize; 2],
        engine: &mut Engine,
        reads: &[Read],
        undo: &mut Undo,
    ) -> Result<Written, Interrupt> {
        let mut locked: Vec<Lock> = Vec::new();
        for change in reads.iter().flat_map(changes) {
            self.interlude(node, engine, &locked)?;
            if self.mutation != Some(Mutation::NoLocks) {
                let server = &self.servers[node];
                // What it only leaves is the row's own, and goes with its lock.
                let before = change.before().map(|image| server.row_locks(image));
                let after = change.after().map(|image| server.locks_of(image));
                locked.extend(before.into_iter().chain(after).flatten());
            }
        }
        self.interlude(node, engine, &locked)?;
        if self.mutation != Some(Mutation::NoGuard) {
            self.tail_on(node, engine, usize::MAX)?;
        }
        self.interlude(node, engine, &locked)?;
        let mut settled = Vec::new();
        let mut entries: Vec<(KeyHash, Entry)> = Vec::new();
        for read in reads {
            let mut merged = engine.parts(origin, read).into_iter();
            for change in changes(read) {
                for place in 0..change.writes.len() {
                    entries.extend(merged.next().map(|(key, entry, _)| (key, entry)));
                    let of_write = (read, change, place);
                    let conflict =
                        self.settle_write([node, origin], engine, of_write, &entries, undo)?;
                    settled.extend(conflict.map(|conflict| (read.logged.end, conflict)));
                }
            }
        }
        self.every_child_has_its_parent(node)?;
        // What was written is locked too: children go with their parent.
        locked.extend(undo.written().map(|key| (0, key)));
        self.interlude(node, engine, &locked)?;
        Ok((settled, entries))
    }

    fn settle_write(
        &mut self,
        [node, origin]: [usize; 2],
        engine: &Engine,
        (read, change, place): (&Read, &Change, usize),
        entries: &[(KeyHash, Entry)],
        undo: &mut Undo,
    ) -> Result<Option<Conflict>, Interrupt> {
        let (write, related) = (&change.writes[place], &change.related[place]);
        let image: &Row = match write {
            RowWrite::Delete { .. } => change.before(),
            RowWrite::Insert { .. } | RowWrite::Update { .. } => change.after(),
        }
        .ok_or_else(|| "a write without its image".to_owned())?;
        let key = key_of(image);
        let pairwise = self.mutation == Some(Mutation::PairwisePriority);
        let in_front = match pairwise {
            true => Vec::new(),
            false => self.places.in_front(origin, &read.seen),
        };
        let arrival = Arrival {
            write,
            standing: Standing {
                effective: read.effective,
                place: self.places.of[origin],
                seen: &in_front,
            },
            present: self.servers[node].rows.contains_key(&key),
            policy: self.policy,
        };
        let thirds_count = self.mutation != Some(Mutation::ThirdNodesForgotten);
        let (database, table) = EMPTIED;
        let row_key = write.row_key();
        let emptied_counts = self.mutation != Some(Mutation::EmptiedForgotten);
        let rivals = |key: KeyHash| {
            let others = (0..engine.windows.len())
                .filter(move |of| *of != origin && (thirds_count || *of == node));
            others.filter_map(move |of| {
                let (window, seen) = (&engine.windows[of], read.seen[of].position);
                let claim = if Some(key) == row_key && emptied_counts {
                    window.concurrent_row_write(key, KeyHash::emptied(database, table), seen)?
                } else {
                    window.concurrent_write(key, seen)?
                };
                Some((of, claim, window.seen_at(claim.position)))
            })
        };
        let places = &self.places.of;
        let concurrent = |key: KeyHash| {
            rivals(key).map(|(of, claim, seen)| Rival {
                claim,
                place: places[of],
                seen: if pairwise { Arc::default() } else { seen },
            })
        };
        let mut resolution = match empties(read) {
            true => emptied(&arrival, concurrent),
            false => resolve(&arrival, concurrent),
        };
        let meets = |key: &KeyHash| rivals(*key).next().is_some();
        if related.after.iter().any(meets) {
            if self.mutation != Some(Mutation::OrphansStand) {
                resolution = orphaned(resolution);
            }
        } else if !arrival.present && related.before.iter().any(meets) {
            resolution = without_its_row(resolution, write);
        }
        if related.referred.as_ref().is_some_and(meets)
            && self.mutation != Some(Mutation::ChildrenStay)
        {
            let server = &mut self.servers[node];
            for child in server.children_of(key) {
                server.set(child, None, undo);
            }
        }
        self.tell(|| {
            format!(
                "node {node} settles {} of node {origin} at {}: {} {image:?}: {resolution:?}",
                read.logged.end,
                read.effective,
                match write {
                    RowWrite::Insert { .. } => "insert",
                    RowWrite::Update { .. } => "update",
                    RowWrite::Delete { .. } => "delete",
                }
            )
        });
        let conflict = match resolution.finding {
            Finding::Quiet => None,
            Finding::Conflict(conflict) => Some(conflict),
            Finding::Halt(_) => return Err("halted".to_owned().into()),
            Finding::Drift => {
                return Err(Interrupt::Broken(format!(
                    "drift at node {node}: {:?} of {image:?}; rows {}",
                    write,
                    show(&self.servers[node].rows)
                )));
            }
        };
        match self.mutation {
            Some(Mutation::NoLateDisplacement)
                if conflict
                    .as_ref()
                    .is_some_and(|conflict| conflict.winner == Winner::Local) =>
            {
                resolution.displace.clear();
            }
            Some(Mutation::UpdatesNeedTheirRow)
                if matches!(write, RowWrite::Update { .. }) && !arrival.present =>
            {
                resolution.row = RowAction::Keep;
            }
            _ => {}
        }
        let mut standing = image;
        let whole;
        if !self.rules.is_empty()
            && let Some(row_key) = write.row_key()
        {
            let of_row = entries.iter().filter(|(key, _)| *key == row_key);
            let of_row = of_row.map(|(_, entry)| entry);
            if let Some(folded) = engine.windows[node].histories().folded(row_key, of_row) {
                let folded = folded.map_err(|_| "a sum that does not fit".to_owned())?;
                let (action, row) = merged(resolution.row, arrival.present, folded);
                resolution.row = action;
                if let Some(row) = row {
                    whole = row;
                    standing = &whole;
                }
            }
        }
        let server = &mut self.servers[node];
        for unique in resolution.displace {
            if let Some(holder) = server.holder(unique, image) {
                server.set(holder, None, undo);
            }
        }
        match resolution.row {
            RowAction::Keep => {}
            RowAction::Remove => server.set(key, None, undo),
            RowAction::Put => {
                if !server.fits(standing) {
                    return Err(Interrupt::Broken(format!(
                        "node {node} refuses the image {standing:?}: a unique value is taken; rows {}",
                        show(&server.rows)
                    )));
                }
                server.set(key, Some(standing.clone()), undo);
            }
        }
        Ok(conflict)
    }

    /// Remembers who won, and sees whether the other nodes said the same.
    fn note(
        &mut self,
        [node, origin]: [usize; 2],
        end: LogPos,
        conflict: &Conflict,
    ) -> Result<(), Interrupt> {
        self.tally.conflicts += 1;
        self.tally.kinds[conflict.kind as usize] += 1;
        for met in &conflict.met {
            let places = &self.places.of;
            let rival = places.iter().position(|place| *place == met.place);
            let rival = rival.ok_or_else(|| "a conflict with nobody".to_owned())?;
            let winner = match met.winner {
                Winner::Local => rival,
                Winner::Remote => origin,
            };
            let (mine, other) = ((origin, end), (rival, met.local.position));
            self.journal[node].insert((met.key, mine, other));
            let pair = (met.key, mine.min(other), mine.max(other));
            let before = self.verdicts.insert(pair, winner);
            if before.is_some_and(|before| before != winner) {
                return Err(Interrupt::Broken(format!(
                    "the nodes disagree about who won between {mine:?} and {other:?}"
                )));
            }
        }
        Ok(())
    }

    fn commit_group(&mut self, [node, origin]: [usize; 2], engine: &Engine, reads: &[Read]) {
        let Some(last) = reads.last() else { return };
        let before = self.servers[node].marks[origin].marker.clone();
        let marker = Marker {
            position: last.logged.end,
            clock: last.effective,
            seen: before.seen.max(last.seen[node].position),
            seen_clock: before.seen_clock.max(last.seen[node].clock),
            transactions: before.transactions + reads.len() as u64,
            ..before
        };
        let ends = reads.iter().map(|read| read.logged.end);
        self.applied[node][origin].extend(ends);
        let seen = last.seen.to_vec();
        self.commit_mark([node, origin], Mark { marker, seen });
        // With two nodes nobody is left who could not have seen it.
        if self.nodes > 2 {
            for read in reads {
                engine.remember(origin, read, self.mutation);
            }
        }
    }
}

/// Number of kinds, for counting them.
pub(crate) const KINDS: usize = ConflictKind::Truncate as usize + 1;
