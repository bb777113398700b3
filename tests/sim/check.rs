//! What must hold when writes have stopped and the links have drained.

use std::collections::{BTreeMap, BTreeSet};

use twinlog_engine::conflict::claim::RowWrite;
use twinlog_engine::conflict::history::writes_of;
use twinlog_engine::conflict::key::KeyHash;
use twinlog_engine::conflict::merge::step;
use twinlog_engine::conflict::policy::Policy;
use twinlog_engine::position::LogPos;
use twinlog_engine::row::{Row, RowChange};
use twinlog_engine::transaction::Seen;

use super::engine::Reader;
use super::server::{Body, Change, is_child, key_of, parent_of};
use super::world::{World, show};

/// Where a write stands in the total order.
type Rank = (u64, u8, u64, usize);

/// Where a write stands in the two logs.
#[derive(Clone, Copy)]
struct Place {
    node: usize,
    end: LogPos,
    seen: LogPos,
}

impl Place {
    /// Whether neither saw the other.
    fn concurrent(&self, other: &Place) -> bool {
        self.node != other.node && self.end > other.seen && other.end > self.seen
    }
}

impl World {
    pub(crate) fn check(&self) -> Result<(), String> {
        let [a, b] = &self.servers;
        if a.rows != b.rows {
            return Err(format!(
                "INV-CONVERGE: a {} b {}; the rule says {}",
                show(&a.rows),
                show(&b.rows),
                self.standing()
                    .map_or_else(|problem| problem, |rows| show(&rows)),
            ));
        }
        for node in 0..2 {
            let written: Vec<LogPos> = self.servers[1 - node]
                .log
                .iter()
                .filter(|logged| matches!(logged.body, Body::Local(_)))
                .map(|logged| logged.end)
                .collect();
            if written != self.applied[node] {
                return Err(format!(
                    "INV-ONCE, INV-PREFIX: node {node} applied {:?} of {written:?}",
                    self.applied[node]
                ));
            }
        }
        for node in 0..2 {
            let met = self.concurrent_claims(node);
            if let Some(silent) = met.difference(&self.journal[node]).next() {
                return Err(format!("INV-NO-SILENCE: node {node} never said {silent:?}"));
            }
            if let Some(invented) = self.journal[node].difference(&met).next() {
                return Err(format!("node {node} invented {invented:?}"));
            }
        }
        let standing = self.standing()?;
        if standing != a.rows {
            return Err(format!(
                "both nodes hold {} and the rule says {}",
                show(&a.rows),
                show(&standing)
            ));
        }
        Ok(())
    }

    /// Every foreign claim that was concurrent with a local one, with the last of these, by the
    /// order of the two logs alone.
    fn concurrent_claims(&self, node: usize) -> BTreeSet<(KeyHash, LogPos, LogPos)> {
        let mut met = BTreeSet::new();
        let peer = &self.servers[1 - node].log;
        let mut reader = Reader::at(peer, LogPos::new(0, 0), 0, Seen::default());
        let mut last: BTreeMap<KeyHash, LogPos> = BTreeMap::new();
        for logged in &self.servers[node].log {
            let marker = match &logged.body {
                Body::Applied(marker) => marker,
                Body::LeftOut => continue,
                Body::Local(changes) => {
                    let writes = changes.iter().flat_map(|change| &change.writes);
                    last.extend(
                        writes
                            .flat_map(RowWrite::claims)
                            .map(|(key, _)| (key, logged.end)),
                    );
                    continue;
                }
            };
            while peer
                .get(reader.next)
                .is_some_and(|foreign| foreign.end <= marker.position)
            {
                let Some(Some(read)) = reader.read(peer, self.mutation) else {
                    continue;
                };
                let Body::Local(changes) = &read.logged.body else {
                    continue;
                };
                for (key, _) in changes
                    .iter()
                    .flat_map(|c| &c.writes)
                    .flat_map(RowWrite::claims)
                {
                    if let Some(local) = last.get(&key).filter(|local| **local > read.seen.position)
                    {
                        met.insert((key, read.logged.end, *local));
                    }
                }
            }
        }
        met
    }

    /// The rows that stand by the rule, from the set of writes alone: the definition that the
    /// engines' incremental work is measured against.
    fn standing(&self) -> Result<BTreeMap<i64, Row>, String> {
        let mut writes: Vec<(Rank, &Change, &RowWrite)> = Vec::new();
        let mut places: BTreeMap<Rank, Place> = BTreeMap::new();
        // Every delete of a parent, whether it stands or not.
        let mut tombstones: Vec<(i64, Place)> = Vec::new();
        for node in 0..2 {
            let log = &self.servers[node].log;
            let mut reader = Reader::at(log, LogPos::new(0, 0), 0, Seen::default());
            while let Some(read) = reader.read(log, self.mutation) {
                let index = reader.next - 1;
                let (Some(read), Body::Local(changes)) = (read, &log[index].body) else {
                    continue;
                };
                let computed = self.effective[node].get(&index);
                if computed.is_some_and(|computed| *computed != read.effective) {
                    return Err(format!(
                        "an engine computed {computed:?} for transaction {index} of node {node}, \
                         whose effective timestamp is {}",
                        read.effective
                    ));
                }
                let first = u8::from(node == self.first);
                for (place, write) in changes
                    .iter()
                    .flat_map(|change| change.writes.iter().map(move |write| (change, write)))
                    .enumerate()
                {
                    let rank = match self.policy {
                        Policy::NodePriority if first == 0 => {
                            (read.seen.clock, 1, read.effective, place)
                        }
                        Policy::NodePriority => (read.effective, 0, 0, place),
                        _ => (read.effective, first, 0, place),
                    };
                    writes.push((rank, write.0, write.1));
                    let logged = Place {
                        node,
                        end: read.logged.end,
                        seen: read.seen.position,
                    };
                    places.insert(rank, logged);
                    let gone = write.0.before().filter(|row| !is_child(row));
                    if let (RowWrite::Delete { .. }, Some(gone)) = (write.1, gone) {
                        tombstones.push((key_of(gone), logged));
                    }
                }
            }
        }
        writes.sort_by_key(|(rank, _, _)| *rank);
        let mut owners: BTreeMap<KeyHash, usize> = BTreeMap::new();
        for (number, (_, _, write)) in writes.iter().enumerate() {
            owners.extend(write.claims().map(|(key, _)| (key, number)));
        }
        let initial: Vec<Change> = self
            .initial
            .values()
            .map(|row| {
                let after = row.clone();
                let insert = RowChange::Insert { after };
                Change::new(insert, &self.tables)
            })
            .collect();
        // What the writes of each row come to, in that order.
        let mut content: BTreeMap<KeyHash, Option<Row>> = BTreeMap::new();
        for change in &initial {
            let keys = change.writes.iter().filter_map(RowWrite::row_key);
            content.extend(keys.map(|key| (key, change.after().cloned())));
        }
        for (_, change, write) in &writes {
            let of_write = writes_of(&change.change, std::slice::from_ref(write), Row::clone);
            for (key, write, _) in of_write {
                let before = content.get(&key).cloned().flatten();
                let after = step(before.as_ref(), &write, &self.rules)
                    .map_err(|_| "a sum that does not fit".to_owned())?;
                content.insert(key, after);
            }
        }
        let mut rows = BTreeMap::new();
        for change in &initial {
            let unowned = change
                .writes
                .iter()
                .flat_map(RowWrite::claims)
                .all(|(key, _)| !owners.contains_key(&key));
            if let (true, Some(row)) = (unowned, change.after()) {
                rows.insert(key_of(row), row.clone());
            }
        }
        for (number, (rank, change, write)) in writes.iter().enumerate() {
            let orphaned = change.after().and_then(parent_of).is_some_and(|parent| {
                let mut gone = tombstones.iter().filter(|(key, _)| *key == parent);
                gone.any(|(_, gone)| places[rank].concurrent(gone))
            });
            let stands = !orphaned
                && !matches!(write, RowWrite::Delete { .. })
                && write
                    .claims()
                    .all(|(key, _)| owners.get(&key) == Some(&number));
            let row = write.row_key().and_then(|key| content.get(&key).cloned());
            if let (true, Some(Some(row))) = (stands, row) {
                rows.insert(key_of(&row), row);
            }
        }
        Ok(rows)
    }
}
