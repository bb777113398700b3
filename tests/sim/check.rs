//! What must hold when writes have stopped and the links have drained.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use twinlog_engine::conflict::claim::RowWrite;
use twinlog_engine::conflict::history::writes_of;
use twinlog_engine::conflict::key::KeyHash;
use twinlog_engine::conflict::merge::step;
use twinlog_engine::conflict::policy::Policy;
use twinlog_engine::position::LogPos;
use twinlog_engine::row::{Row, RowChange};

use super::engine::{Read, Reader};
use super::server::{Body, Change, Known, is_child, key_of, parent_of};
use super::world::{Meeting, World, show};

/// Where a write stands in the total order: by its policy, then within its transaction.
type Rank = (Vec<u64>, usize);

/// Where a write stands in the logs.
#[derive(Clone)]
struct Place {
    node: usize,
    end: LogPos,
    /// What its transaction had seen of each node's log.
    seen: Rc<Vec<Known>>,
}

fn claimed(changes: &[Change]) -> impl Iterator<Item = KeyHash> {
    let writes = changes.iter().flat_map(|change| &change.writes);
    writes.flat_map(RowWrite::claims).map(|(key, _)| key)
}

impl Place {
    /// Whether neither saw the other.
    fn concurrent(&self, other: &Place) -> bool {
        self.node != other.node
            && self.end > other.seen[self.node].position
            && other.end > self.seen[other.node].position
    }
}

impl World {
    pub(crate) fn check(&self) -> Result<(), String> {
        let rows = &self.servers[0].rows;
        if self.servers.iter().any(|server| server.rows != *rows) {
            let held = self.servers.iter().map(|server| show(&server.rows));
            return Err(format!(
                "INV-CONVERGE: the nodes hold {}; the rule says {}",
                held.collect::<Vec<_>>().join(" and "),
                self.standing()
                    .map_or_else(|problem| problem, |rows| show(&rows)),
            ));
        }
        for node in 0..self.nodes {
            for origin in (0..self.nodes).filter(|origin| *origin != node) {
                let log = self.servers[origin].log.iter();
                let written: Vec<LogPos> = log
                    .filter(|logged| logged.body.is_written())
                    .map(|logged| logged.end)
                    .collect();
                let applied = &self.applied[node][origin];
                if written != *applied {
                    return Err(format!(
                        "INV-ONCE, INV-PREFIX: node {node} applied {applied:?} of {written:?}"
                    ));
                }
            }
        }
        for node in 0..self.nodes {
            let met = self.concurrent_claims(node);
            if let Some(silent) = met.difference(&self.journal[node]).next() {
                return Err(format!("INV-NO-SILENCE: node {node} never said {silent:?}"));
            }
            if let Some(invented) = self.journal[node].difference(&met).next() {
                return Err(format!("node {node} invented {invented:?}"));
            }
        }
        let standing = self.standing()?;
        if standing != *rows {
            return Err(format!(
                "the nodes hold {} and the rule says {}",
                show(rows),
                show(&standing)
            ));
        }
        Ok(())
    }

    /// Every claim that arrived at a node while it knew a concurrent one of the same key, with the last
    /// of these of each other node; by the order of the logs alone.
    fn concurrent_claims(&self, node: usize) -> BTreeSet<Meeting> {
        let mut met = BTreeSet::new();
        let mut readers: Vec<Reader> = self
            .servers
            .iter()
            .map(|server| Reader::first(&server.log, self.nodes))
            .collect();
        let mut last: Vec<BTreeMap<KeyHash, LogPos>> = vec![BTreeMap::new(); self.nodes];
        for logged in &self.servers[node].log {
            let (origin, mark) = match &logged.body {
                Body::Applied(origin, mark) => (*origin, mark),
                Body::LeftOut => continue,
                Body::Local(changes) | Body::Emptied(changes) => {
                    last[node].extend(claimed(changes).map(|key| (key, logged.end)));
                    continue;
                }
            };
            let log = &self.servers[origin].log;
            let reader = &mut readers[origin];
            while log
                .get(reader.next)
                .is_some_and(|foreign| foreign.end <= mark.marker.position)
            {
                let Some(Some(read)) = reader.read(log, self.mutation) else {
                    continue;
                };
                let changes = read.logged.body.changes();
                let end = read.logged.end;
                for (of, last) in last.iter().enumerate().filter(|(of, _)| *of != origin) {
                    for key in claimed(changes) {
                        let known = last.get(&key);
                        if let Some(known) = known.filter(|at| **at > read.seen[of].position) {
                            met.insert((key, (origin, end), (of, *known)));
                        }
                    }
                }
                last[origin].extend(claimed(changes).map(|key| (key, end)));
            }
        }
        met
    }

    /// What places a transaction in the total order of the policy.
    fn order_of(&self, node: usize, read: &Read) -> Vec<u64> {
        let place = u64::from(self.places.of[node]);
        if self.policy == Policy::LastWriteWins {
            return vec![read.effective, 3 - place];
        }
        let mut last_of_each = vec![0; self.nodes];
        for (of, known) in read.seen.iter().enumerate() {
            last_of_each[usize::from(self.places.of[of])] = known.clock;
        }
        last_of_each[usize::from(self.places.of[node])] = read.effective;
        last_of_each
    }

    /// The rows that stand by the rule, from the set of writes alone: the definition that the
    /// engines' incremental work is measured against.
    fn standing(&self) -> Result<BTreeMap<i64, Row>, String> {
        let mut writes: Vec<(Rank, &Change, &RowWrite)> = Vec::new();
        let mut places: BTreeMap<Rank, Place> = BTreeMap::new();
        // Every delete of a parent, whether it stands or not.
        let mut tombstones: Vec<(i64, Place)> = Vec::new();
        for node in 0..self.nodes {
            let log = &self.servers[node].log;
            let mut reader = Reader::first(log, self.nodes);
            while let Some(read) = reader.read(log, self.mutation) {
                let index = reader.next - 1;
                let Some(read) = read else { continue };
                let changes = log[index].body.changes();
                let computed = self.effective[node].get(&index);
                if computed.is_some_and(|computed| *computed != read.effective) {
                    return Err(format!(
                        "an engine computed {computed:?} for transaction {index} of node {node}, \
                         whose effective timestamp is {}",
                        read.effective
                    ));
                }
                let by_policy = self.order_of(node, &read);
                for (place, write) in changes
                    .iter()
                    .flat_map(|change| change.writes.iter().map(move |write| (change, write)))
                    .enumerate()
                {
                    let rank = (by_policy.clone(), place);
                    writes.push((rank.clone(), write.0, write.1));
                    let logged = Place {
                        node,
                        end: read.logged.end,
                        seen: Rc::clone(&read.seen),
                    };
                    places.insert(rank, logged.clone());
                    let gone = write.0.before().filter(|row| !is_child(row));
                    if let (RowWrite::Delete { .. }, Some(gone)) = (write.1, gone) {
                        tombstones.push((key_of(gone), logged));
                    }
                }
            }
        }
        writes.sort_by(|(one, ..), (other, ..)| one.cmp(other));
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
