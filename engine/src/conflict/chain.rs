//! The history of one row: a base, and the writes that are not final in their order, most of them in
//! memory, the others in runs on disk ([`super::cold`]).

use std::collections::{HashSet, VecDeque};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::cold::{Cold, Cursor, Run};
use super::history::{Acknowledged, Entry, KeptBase, Log, Order, Unkept};
use super::merge::{Unmergeable, Write, step};
use super::rules::ColumnRule;
use crate::error::Result;
use crate::position::LogPos;
use crate::row::{Row, Value};

/// Memory of a chain besides its rows and writes, roughly, in bytes.
const CHAIN_BYTES: usize = 400;
/// Likewise of a run that it refers to, and of a write that is kept.
const RUN_BYTES: usize = 200;
const KEPT_BYTES: usize = 40;
/// Runs are brought together up to this many bytes of memory, so that a row that is put away again and
/// again does not come to have as many runs.
const TOGETHER: usize = 1 << 20;

/// The history of one row.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Chain {
    /// What its entries build on.
    base: Base,
    /// By their order.
    #[serde(skip)]
    entries: VecDeque<Entry>,
    /// Which of them are in the engine's schema.
    #[serde(skip)]
    kept: HashSet<Order>,
    /// Memory of the entries, roughly, in bytes.
    #[serde(skip)]
    bytes: usize,
    /// The entries that are on disk. Those of different runs can have to be mixed.
    runs: Vec<Run>,
    /// The last entry of each log that ever was in a run. The entries of a log come in their order, so
    /// that whatever does not lie behind it is in.
    spilled: Vec<(Log, Order)>,
    /// How many of all entries are no plain sums; see [`Chain::is_plain`].
    odd: usize,
    /// The row behind the last entry; `None` as well where a sum did not fit.
    row: std::result::Result<Option<Row>, Unmergeable>,
    rules: Vec<ColumnRule>,
}

/// The row in front of a history's writes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Base {
    row: Option<Row>,
    /// Writes that end in front of this place of a log are in the row. An engine that starts may read
    /// some of them again.
    behind: Vec<(Log, LogPos)>,
}

impl Base {
    /// The row in front of a write, and what is in it.
    pub(super) fn new(row: Option<Row>, behind: &[(Log, LogPos)], seen: &[(Log, LogPos)]) -> Self {
        let mut base = Self {
            row,
            behind: behind.to_vec(),
        };
        for (log, seen) in seen {
            base.holds(*log, *seen);
        }
        base
    }

    fn contains(&self, entry: &Entry) -> bool {
        let mut behind = self.behind.iter();
        behind.any(|(log, end)| *log == entry.origin.log && entry.origin.end < *end)
    }

    /// Everything of this log that ends in front of `end` is in it.
    fn begins(&mut self, log: Log, end: LogPos) {
        match self.behind.iter_mut().find(|(known, _)| *known == log) {
            Some((_, known)) => *known = (*known).max(end),
            None => self.behind.push((log, end)),
        }
    }

    /// Everything of this log up to `end` is in it.
    fn holds(&mut self, log: Log, end: LogPos) {
        self.begins(log, LogPos::new(end.file, end.offset + 1));
    }
}

/// Memory of a write, roughly, in bytes.
pub(super) fn weight(entry: &Entry) -> usize {
    let rows = match &entry.write {
        Write::Insert(after) => row_weight(after),
        Write::Update { before, after } => row_weight(before) + row_weight(after),
        Write::Delete => 0,
    };
    size_of::<Entry>() + rows
}

fn row_weight(row: &Row) -> usize {
    row.iter().map(Value::weight).sum()
}

/// The cursor whose next write comes first.
fn lowest(cursors: &[Cursor]) -> Option<(usize, Order)> {
    let heads = cursors.iter().enumerate();
    let heads = heads.filter_map(|(index, cursor)| Some((index, cursor.head()?.0)));
    heads.min_by_key(|(_, order)| *order)
}

impl Chain {
    /// Without writes.
    pub(super) fn new(base: Base, rules: Vec<ColumnRule>) -> Self {
        Self {
            row: Ok(base.row.clone()),
            base,
            entries: VecDeque::new(),
            kept: HashSet::new(),
            bytes: 0,
            runs: Vec::new(),
            spilled: Vec::new(),
            odd: 0,
            rules,
        }
    }

    /// Number of its writes.
    pub(super) fn len(&self) -> usize {
        let runs = self.runs.iter().map(|run| run.len);
        self.entries.len() + runs.sum::<usize>()
    }

    /// Memory that it takes, roughly, in bytes.
    pub(super) fn weight(&self) -> usize {
        let row = |row: &Option<Row>| row.as_ref().map_or(0, row_weight);
        CHAIN_BYTES
            + row(&self.base.row)
            + self.row.as_ref().map_or(0, row)
            + self.bytes
            + self.kept.len() * KEPT_BYTES
            + self.runs.len() * RUN_BYTES
    }

    pub(super) fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter()
    }

    pub(super) fn runs_mut(&mut self) -> impl Iterator<Item = &mut Run> {
        self.runs.iter_mut()
    }

    /// Puts a write in its place, unless it is in.
    pub(super) fn insert(&mut self, entry: Entry, folder: &Path) -> Result<()> {
        if self.is_in(&entry) {
            return Ok(());
        }
        let row = self.folded_with(&[&entry], folder)?;
        let place = self
            .entries
            .partition_point(|known| known.order < entry.order);
        self.odd += usize::from(!self.is_plain(&entry));
        self.bytes += weight(&entry);
        self.entries.insert(place, entry);
        self.row = row;
        Ok(())
    }

    /// Whether all values of the row that are added up are numbers.
    fn has_numbers(&self, row: &Row) -> bool {
        let mut columns = self.rules.iter().zip(row.iter());
        columns.all(|(rule, value)| *rule == ColumnRule::Later || *value != Value::Null)
    }

    /// Whether the write is an update by sums, whose place among others of the kind does not count:
    /// all columns but the sums are the later update's.
    fn is_plain(&self, entry: &Entry) -> bool {
        let sums = |rule: &ColumnRule| matches!(rule, ColumnRule::Delta | ColumnRule::Later);
        match &entry.write {
            Write::Update { before, after } => {
                self.rules.iter().all(sums) && self.has_numbers(before) && self.has_numbers(after)
            }
            Write::Insert(_) | Write::Delete => false,
        }
    }

    /// `row` with the sums of an update that has its place in front of the last write.
    fn added(&self, row: &Row, entry: &Entry) -> Option<Row> {
        let Write::Update { before, after } = &entry.write else {
            return None;
        };
        let mut with = row.clone();
        for (column, rule) in self.rules.iter().enumerate() {
            if *rule != ColumnRule::Delta {
                continue;
            }
            let one = |row: &Row| -> Option<Row> { Some(Box::new([row.get(column)?.clone()])) };
            let change = Write::Update {
                before: one(before)?,
                after: one(after)?,
            };
            let sum = step(Some(&one(row)?), &change, &[ColumnRule::Delta]).ok()??;
            *with.get_mut(column)? = sum.first()?.clone();
        }
        Some(with)
    }

    /// Order of the last write.
    fn last(&self) -> Option<Order> {
        let runs = self.runs.iter().map(|run| run.last);
        runs.chain(self.entries.back().map(|entry| entry.order))
            .max()
    }

    /// The row with these writes in it, which are in their order.
    pub(super) fn folded_with(
        &self,
        with: &[&Entry],
        folder: &Path,
    ) -> Result<std::result::Result<Option<Row>, Unmergeable>> {
        let new: Vec<&Entry> = with
            .iter()
            .copied()
            .filter(|entry| !self.is_in(entry))
            .collect();
        let last = self.last();
        let plain = self.odd == 0
            && self
                .base
                .row
                .as_ref()
                .is_some_and(|base| self.has_numbers(base))
            && new.iter().all(|entry| self.is_plain(entry));
        if plain || new.first().is_none_or(|first| last < Some(first.order)) {
            return Ok(self.continued(last, &new));
        }
        let mut here: Vec<&Entry> = self.entries.iter().chain(new).collect();
        here.sort_by_key(|entry| entry.order);
        let runs = self.runs.iter().cloned();
        let mut there: Vec<Cursor> = runs.map(|run| Cursor::new(run, folder)).collect();
        let mut here = here.into_iter().peekable();
        let mut row = self.base.row.clone();
        loop {
            let next = match (here.peek(), lowest(&there)) {
                (Some(entry), Some((index, order))) if order < entry.order => there[index].pop()?,
                (None, Some((index, _))) => there[index].pop()?,
                _ => None,
            };
            let folded = match (&next, next.is_none().then(|| here.next()).flatten()) {
                (Some(entry), _) | (None, Some(entry)) => {
                    step(row.as_ref(), &entry.write, &self.rules)
                }
                (None, None) => return Ok(Ok(row)),
            };
            row = match folded {
                Ok(row) => row,
                Err(unmergeable) => return Ok(Err(unmergeable)),
            };
        }
    }

    /// Likewise where nothing has to be mixed: all are behind the last one, or all are sums.
    fn continued(
        &self,
        mut last: Option<Order>,
        new: &[&Entry],
    ) -> std::result::Result<Option<Row>, Unmergeable> {
        let mut row = self.row.clone()?;
        for entry in new {
            row = match &row {
                Some(present) if last > Some(entry.order) => {
                    let sum = self.added(present, entry);
                    Some(sum.ok_or(Unmergeable { column: 0 })?)
                }
                _ => {
                    last = Some(entry.order);
                    step(row.as_ref(), &entry.write, &self.rules)?
                }
            };
        }
        Ok(row)
    }

    fn is_in(&self, entry: &Entry) -> bool {
        let mut spilled = self.spilled.iter();
        self.base.contains(entry)
            || spilled.any(|(log, last)| *log == entry.origin.log && entry.order <= *last)
            || self
                .entries
                .binary_search_by_key(&entry.order, |known| known.order)
                .is_ok()
    }

    /// Whether a node may not have one of its writes yet.
    pub(super) fn is_open(&self, acknowledged: &Acknowledged) -> bool {
        let mut latest = self.entries.iter().rev();
        let mut ends = self.runs.iter().flat_map(|run| &run.ends);
        latest.any(|entry| acknowledged.is_open(entry.origin.log, entry.origin.end))
            || ends.any(|(log, end)| acknowledged.is_open(*log, *end))
    }

    /// Folds what is final into the base; `false` where nothing else is left.
    pub(super) fn settle(&mut self, acknowledged: &Acknowledged, folder: &Path) -> Result<bool> {
        if !self.is_open(acknowledged) {
            return Ok(false);
        }
        let runs = std::mem::take(&mut self.runs).into_iter();
        let mut there: Vec<Cursor> = runs.map(|run| Cursor::new(run, folder)).collect();
        loop {
            let here = self
                .entries
                .front()
                .map(|entry| (entry.order, entry.origin));
            let of = lowest(&there).filter(|(_, order)| here.is_none_or(|here| *order < here.0));
            let head = of.map_or(here, |(index, _)| there[index].head());
            let Some((_, origin)) = head else { break };
            if acknowledged.is_open(origin.log, origin.end) {
                self.base.begins(origin.log, origin.end);
                break;
            }
            let entry = match of {
                Some((index, _)) => there[index].pop()?,
                None => {
                    let entry = self.entries.pop_front();
                    if let Some(entry) = &entry {
                        self.bytes -= weight(entry);
                        self.kept.remove(&entry.order);
                    }
                    entry
                }
            };
            let Some(entry) = entry else { break };
            self.odd -= usize::from(!self.is_plain(&entry));
            if let Ok(row) = step(self.base.row.as_ref(), &entry.write, &self.rules) {
                self.base.row = row;
            }
            self.base.holds(entry.origin.log, entry.origin.end);
        }
        let left = there.into_iter().map(|cursor| cursor.run);
        self.runs = left.filter(|run| run.len > 0).collect();
        Ok(true)
    }

    /// Puts the writes that are in memory into runs.
    pub(super) fn spill(&mut self, cold: &mut Cold) -> Result<()> {
        let kept = std::mem::take(&mut self.kept);
        self.bytes = 0;
        let entries = std::mem::take(&mut self.entries);
        for entry in &entries {
            let log = entry.origin.log;
            match self.spilled.iter_mut().find(|(known, _)| *known == log) {
                Some((_, last)) => *last = (*last).max(entry.order),
                None => self.spilled.push((log, entry.order)),
            }
        }
        let (kept, unkept): (Vec<Entry>, Vec<Entry>) = entries
            .into_iter()
            .partition(|entry| kept.contains(&entry.order));
        for (mut entries, kept) in [(kept, true), (unkept, false)] {
            let mut bytes: usize = entries.iter().map(weight).sum();
            while let Some(last) = self.runs.iter().rposition(|run| run.kept == kept)
                && self.runs[last].len <= entries.len()
                && bytes < TOGETHER
            {
                let mut cursor = Cursor::new(self.runs.remove(last), cold.folder());
                while let Some(entry) = cursor.pop()? {
                    bytes += weight(&entry);
                    entries.push(entry);
                }
                entries.sort_by_key(|entry| entry.order);
            }
            self.runs.extend(cold.run(&entries, kept)?);
        }
        Ok(())
    }

    /// End of the last write of this node's clients, or the end of all ends where another log's may be
    /// waited for.
    pub(super) fn last_end(&self) -> LogPos {
        let ends = self.ends();
        let own = ends.map(|(log, end)| {
            if log == Log::Own {
                end
            } else {
                LogPos::new(u32::MAX, u64::MAX)
            }
        });
        own.max().unwrap_or_default()
    }

    fn ends(&self) -> impl Iterator<Item = (Log, LogPos)> {
        let here = self.entries.iter().map(|entry| entry.origin);
        let there = self.runs.iter().flat_map(|run| run.ends.iter().copied());
        here.map(|origin| (origin.log, origin.end)).chain(there)
    }

    /// What of it is to be kept once these writes are in it.
    pub(super) fn unkept_with<'e>(
        &self,
        with: impl Iterator<Item = &'e Entry>,
        folder: &Path,
    ) -> Option<Unkept> {
        let new = |entry: &&Entry| !self.kept.contains(&entry.order);
        let mut entries: Vec<Entry> = self.entries.iter().filter(new).cloned().collect();
        entries.extend(with.filter(|entry| !self.is_in(entry)).cloned());
        let heads = self.runs.iter().map(|run| run.head.0);
        let orders = self.entries.iter().chain(&entries).map(|entry| entry.order);
        let first = heads.chain(orders).min()?;
        let new = entries
            .iter()
            .map(|entry| (entry.origin.log, entry.origin.end));
        let own = self.ends().chain(new).filter(|(log, _)| *log == Log::Own);
        let last_local = own.map(|(_, end)| end).max().unwrap_or_default();
        let unkept = self.runs.iter().filter(|run| !run.kept).cloned();
        Some(Unkept {
            base: KeptBase {
                base: self.base.clone(),
                rules: self.rules.clone(),
            },
            first,
            last_local,
            entries,
            spilled: unkept.map(|run| Cursor::new(run, folder)).collect(),
        })
    }

    /// These are kept by now, as far as they are still here.
    pub(super) fn keep(&mut self, unkept: &Unkept) {
        self.keep_orders(unkept.entries.iter().map(|entry| entry.order));
        for run in &mut self.runs {
            run.kept |= unkept.spilled.iter().any(|kept| kept.run.is(run));
        }
    }

    pub(super) fn keep_orders(&mut self, orders: impl Iterator<Item = Order>) {
        let entries = &self.entries;
        let here = |order: &Order| {
            let found = entries.binary_search_by_key(order, |known| known.order);
            found.is_ok()
        };
        self.kept.extend(orders.filter(here));
    }
}
