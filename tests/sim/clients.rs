//! What a node's clients write: inserts, updates, deletes, key changes and swaps of a few hot rows,
//! and children of them, as far as the server lets them.

use twinlog_engine::row::{Row, RowChange, Value};

use super::server::{
    Body, CHILDREN, Change, Lock, PAYLOAD, PEAK, REFERENCE, TOTAL, Undo, is_child, key_of, number,
    parent_of, row,
};
use super::world::World;

impl World {
    /// A client's transaction; it waits for nobody, and so leaves alone what is locked.
    pub(crate) fn write_locally(&mut self, node: usize, locked: &[Lock]) {
        if self.random.percent(3) {
            self.commit(node, Body::LeftOut);
            return;
        }
        if self.truncates && self.random.percent(4) {
            self.truncate(node, locked);
            return;
        }
        let wanted = 1 + self.random.below(4);
        let mut changes: Vec<RowChange> = Vec::new();
        let mut undo = Undo::default();
        for _ in 0..wanted * 3 {
            if changes.len() >= wanted {
                break;
            }
            self.propose(node, locked, &mut changes, &mut undo);
        }
        if changes.is_empty() {
            return;
        }
        let changes: Vec<Change> = changes
            .into_iter()
            .map(|change| Change::new(change, &self.tables))
            .collect();
        self.tally.transactions += 1;
        self.commit(node, Body::Local(changes));
    }

    /// Empties the table, which an open transaction that wrote it does not let happen.
    fn truncate(&mut self, node: usize, locked: &[Lock]) {
        if !locked.is_empty() {
            return;
        }
        self.servers[node].rows.clear();
        let keys = 1..=(self.traits.rows as i64);
        let deletes = keys.map(|key| {
            let before = row(key, [None, None], 0);
            Change::new(RowChange::Delete { before }, &self.tables)
        });
        let deletes = deletes.collect();
        self.tally.transactions += 1;
        self.commit(node, Body::Emptied(deletes));
    }

    /// Tries one change (or a swap of three) within a client's transaction.
    fn propose(
        &mut self,
        node: usize,
        locked: &[Lock],
        changes: &mut Vec<RowChange>,
        undo: &mut Undo,
    ) {
        self.payload += 1;
        if self.children && self.random.percent(50) {
            self.propose_child(node, locked, changes, undo);
            return;
        }
        let key = 1 + self.random.below(self.traits.rows) as i64;
        let payload = self.payload;
        let old = self.servers[node].rows.get(&key).cloned();
        let mut propose = |world: &mut Self, before: Option<Row>, after: Option<Row>| {
            world.write_row(node, locked, before, after, changes, undo)
        };
        let Some(old) = old else {
            let unique = [self.some_value(), self.some_value()];
            propose(self, None, Some(row(key, unique, payload)));
            return;
        };
        let unique = [number(&old, 1), number(&old, 2)];
        match self.random.below(10) {
            0 | 1 => {
                if !self.cascade(node, locked, key, changes, undo) {
                    return;
                }
                self.write_row(node, locked, Some(old), None, changes, undo);
            }
            2 | 3 => {
                propose(self, Some(old), Some(row(key, unique, payload)));
            }
            4..=6 => {
                let mut unique = unique;
                unique[self.random.below(2)] = self.some_value();
                propose(self, Some(old), Some(row(key, unique, payload)));
            }
            7 => {
                let to = 1 + self.random.below(self.traits.rows) as i64;
                propose(self, Some(old), Some(row(to, unique, payload)));
            }
            _ => {
                // Two rows change their unique values, by way of NULL.
                let other = 1 + self.random.below(self.traits.rows) as i64;
                let partner = self.servers[node].rows.get(&other).cloned();
                let Some(partner) = partner.filter(|_| other != key) else {
                    return;
                };
                let hole = row(key, [None, None], payload);
                let mine = [number(&partner, 1), number(&partner, 2)];
                if propose(self, Some(old), Some(hole.clone()))
                    && propose(self, Some(partner), Some(row(other, unique, payload)))
                {
                    propose(self, Some(hole), Some(row(key, mine, payload)));
                }
            }
        }
    }

    /// Likewise of a child.
    fn propose_child(
        &mut self,
        node: usize,
        locked: &[Lock],
        changes: &mut Vec<RowChange>,
        undo: &mut Undo,
    ) {
        let payload = self.payload;
        let key = CHILDREN + 1 + self.random.below(self.traits.rows) as i64;
        let other = CHILDREN + 1 + self.random.below(self.traits.rows) as i64;
        let parent = self.random.below(self.traits.rows + 1) as i64;
        let parent = (parent > 0).then_some(parent);
        let old = self.servers[node].rows.get(&key).cloned();
        let same = old.as_ref().and_then(parent_of);
        let after = match (&old, self.random.below(10)) {
            (None, _) | (_, 0..=2) => Some(row(key, [parent, None], payload)),
            (_, 3..=5) => Some(row(key, [same, None], payload)),
            (_, 6 | 7) => Some(row(other, [same, None], payload)),
            _ => None,
        };
        self.write_row(node, locked, old, after, changes, undo);
    }

    /// What the server does with the children of a row that goes: removes them, or refuses.
    fn cascade(
        &mut self,
        node: usize,
        locked: &[Lock],
        parent: i64,
        changes: &mut Vec<RowChange>,
        undo: &mut Undo,
    ) -> bool {
        let server = &self.servers[node];
        let children = server.children_of(parent);
        let is_locked = |key: &i64| locked.contains(&(0, *key));
        if children.iter().any(is_locked)
            || is_locked(&parent)
            || locked.contains(&(REFERENCE, parent))
        {
            return false;
        }
        if !children.is_empty() && self.random.percent(30) {
            return false;
        }
        for child in children {
            let child = self.servers[node].rows.get(&child).cloned();
            self.write_row(node, locked, child, None, changes, undo);
        }
        true
    }

    fn some_value(&mut self) -> Option<i64> {
        let value = self.random.below(self.traits.values + 1) as i64;
        (value > 0).then_some(value)
    }

    fn write_row(
        &mut self,
        node: usize,
        locked: &[Lock],
        before: Option<Row>,
        after: Option<Row>,
        changes: &mut Vec<RowChange>,
        undo: &mut Undo,
    ) -> bool {
        let server = &self.servers[node];
        // As it is by now: an earlier change of the transaction may have merged columns.
        let before = before.map(|row| server.rows.get(&key_of(&row)).cloned().unwrap_or(row));
        let is_locked = |image: &Option<Row>| {
            image.as_ref().is_some_and(|image| {
                let mut values = server.key_values(image).into_iter();
                // Two may refer to one parent.
                values.any(|value| value.0 != REFERENCE && locked.contains(&value))
            })
        };
        if is_locked(&before) || is_locked(&after) {
            return false;
        }
        if !self.refers_well(node, locked, &before, &after) {
            return false;
        }
        let key_stays = match (&before, &after) {
            (Some(before), Some(after)) => key_of(before) == key_of(after),
            _ => false,
        };
        if let Some(after) = &after
            && !key_stays
            && server.rows.contains_key(&key_of(after))
        {
            return false;
        }
        let after = self.merged_columns(&before, after);
        let server = &mut self.servers[node];
        let mut mine = Undo::default();
        if let Some(before) = &before {
            server.set(key_of(before), None, &mut mine);
        }
        if let Some(after) = &after {
            if !server.fits(after) {
                server.roll_back(mine);
                return false;
            }
            server.set(key_of(after), Some(after.clone()), &mut mine);
        }
        undo.append(mine);
        changes.push(match (before, after) {
            (Some(before), Some(after)) => RowChange::Update { before, after },
            (Some(before), None) => RowChange::Delete { before },
            (None, Some(after)) => RowChange::Insert { after },
            (None, None) => return false,
        });
        true
    }

    /// Whether the server's foreign key allows a client's write.
    fn refers_well(
        &self,
        node: usize,
        locked: &[Lock],
        before: &Option<Row>,
        after: &Option<Row>,
    ) -> bool {
        let server = &self.servers[node];
        let was = before.as_ref().and_then(parent_of);
        if let Some(parent) = after.as_ref().and_then(parent_of)
            && was != Some(parent)
            && (!server.rows.contains_key(&parent) || locked.contains(&(0, parent)))
        {
            return false;
        }
        // A row that goes, or gets another key, may have no children.
        let goes = before
            .as_ref()
            .filter(|before| !is_child(before))
            .map(key_of);
        goes.is_none_or(|key| {
            after.as_ref().map(key_of) == Some(key)
                || (server.children_of(key).is_empty() && !locked.contains(&(REFERENCE, key)))
        })
    }

    /// What a client writes into the columns that are merged.
    fn merged_columns(&mut self, before: &Option<Row>, after: Option<Row>) -> Option<Row> {
        let mut after = after?;
        if self.rules.is_empty() {
            return Some(after);
        }
        let was = |column| before.as_ref().and_then(|before| number(before, column));
        let total = was(TOTAL).unwrap_or(0) + self.random.below(7) as i64 - 3;
        after[TOTAL] = Value::Int(total);
        let peak = match was(PEAK) {
            Some(peak) if self.random.percent(40) => peak,
            _ => self.random.below(9) as i64,
        };
        after[PEAK] = Value::Int(peak);
        if let Some(payload) = was(PAYLOAD)
            && self.random.percent(40)
        {
            after[PAYLOAD] = Value::Int(payload);
        }
        Some(after)
    }
}
