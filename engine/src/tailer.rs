//! Reads this node's own log, so that the apply knows what local clients wrote: fills the window.
//!
//! It runs as long as the engine, over reconnects; what it has read stays in the window until the
//! peer has it.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::apply::mapping::ImageColumns;
use crate::backoff::Backoff;
use crate::config::{Config, NodeConfig};
use crate::conflict::claim::{ClaimKind, RowWrite};
use crate::conflict::collation::{Requests, needs_weights};
use crate::conflict::family::Family;
use crate::conflict::history::{self, Entry, Order, writes_of};
use crate::conflict::key::{KeyHash, TableHash, image_keys};
use crate::conflict::window::Window;
use crate::connection::Identity;
use crate::error::{Disposition, Error, Result};
use crate::failpoint::{self, Failpoint};
use crate::log_reader::{LogReader, Start, Step};
use crate::origin::{IGNORED_DDL, Origin, Passed, Reason, TRIGGER};
use crate::position::LogPos;
use crate::position::own_log::OwnLog;
use crate::row::{RowChange, SourceTable};
use crate::schema::SchemaCatalog;
use crate::spill::Room;
use crate::status::{State, TailProgress};
use crate::transaction::{Huge, Local, Seen};

/// The tailer of one node.
pub(crate) struct Tailer {
    pub config: Arc<Config>,
    pub node: NodeConfig,
    pub identity: Identity,
    pub peer: Identity,
    pub window: Arc<Window>,
    pub catalog: Arc<SchemaCatalog>,
    pub progress: Arc<TailProgress>,
    pub own_log: OwnLog,
    /// End of the log as the engine started.
    pub end: LogPos,
    pub stop: CancellationToken,
    /// Whether any rule merges rows.
    pub merges: bool,
    /// Of this node's writes; see [`Order`].
    pub rank: u8,
}

impl Tailer {
    /// Reads from `start` until stopped or halted.
    pub(crate) async fn run(mut self, start: Start) {
        let mut place = start;
        if let Err(error) = self.own_log.ends_at(self.end) {
            self.halt(&error);
            return;
        }
        let mut backoff = Backoff::new(self.config.engine.backoff);
        let stop = self.stop.clone();
        loop {
            let before = place.position;
            let outcome = tokio::select! {
                () = stop.cancelled() => Err(Error::Stopped),
                outcome = self.read(&mut place) => outcome,
            };
            if place.position > before {
                backoff.reset();
            }
            match outcome {
                Err(Error::Stopped) | Ok(()) => {
                    self.own_log.keep(place.position, place.log_birth, true);
                    self.progress.set_state(State::Stopped, None);
                    return;
                }
                Err(error) if error.disposition() == Disposition::Halt => {
                    self.halt(&error);
                    return;
                }
                Err(error) => {
                    let pause = backoff.next();
                    tracing::warn!(node = self.node.name, %error, ?pause, "the tailer tries again");
                    self.progress
                        .set_state(State::Retrying, Some(error.to_string()));
                    if self.pause(pause).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn halt(&self, error: &Error) {
        tracing::error!(node = self.node.name, %error, "the tailer halted");
        self.progress
            .set_state(State::Halted, Some(error.to_string()));
        // Links that have nothing to do have to learn of it too.
        self.progress.broke();
    }

    async fn pause(&self, pause: Duration) -> Result<()> {
        tokio::select! {
            () = self.stop.cancelled() => Err(Error::Stopped),
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }

    async fn read(&mut self, place: &mut Start) -> Result<()> {
        let mut reader = LogReader::open(
            &self.node,
            &self.identity,
            &self.peer,
            place.clone(),
            &self.config,
            Room::of(&self.config, &self.node.name),
        )
        .await?;
        self.progress.set_state(State::Streaming, None);
        loop {
            let before = reader.position();
            let step = reader.next().await.inspect_err(|_| self.progress.broke())?;
            if reader.position() != before {
                self.window.stir();
            }
            let within = matches!(step, Step::Within);
            match step {
                Step::Transaction(Origin::Huge(huge)) => {
                    self.record_huge(&huge).await?;
                    place.clock = huge.head().effective;
                    place.seen = huge.head().seen;
                    self.reached(place, huge.head().end, reader.birth())?;
                }
                Step::Transaction(Origin::Local(local)) => {
                    self.record(&local).await?;
                    failpoint::reach(Failpoint::Tailed);
                    place.clock = local.effective;
                    place.seen = local.seen;
                    self.reached(place, local.end, reader.birth())?;
                }
                Step::Transaction(Origin::Passed(passed)) => {
                    self.passed(&passed);
                    place.clock = passed.clock;
                    place.seen = passed.seen;
                    place.intended = reader.intended().cloned();
                    self.reached(place, passed.end, reader.birth())?;
                }
                Step::Boundary(position) => self.reached(place, position, reader.birth())?,
                // The file's description, which says when it was begun, comes next.
                Step::Rotated(position) => self.reached(place, position, 0)?,
                Step::Within => {}
            }
            self.own_log.keep(place.position, place.log_birth, false);
            // With the place: a transaction that could not be recorded is read again.
            if !within {
                (place.marked, place.numbered) = (reader.marked(), reader.numbered());
                place.xa_from = reader.xa_from();
            }
        }
    }

    /// Only now may the apply trust the window up to here.
    fn reached(&mut self, place: &mut Start, position: LogPos, log_birth: u32) -> Result<()> {
        self.own_log.reached(place.position, position, log_birth)?;
        place.position = position;
        place.log_birth = log_birth;
        self.progress.begun(position.file, log_birth);
        self.window.advance(position);
        Ok(())
    }

    fn passed(&self, passed: &Passed) {
        match &passed.reason {
            Reason::Applied(marker) => self.window.note_intent(marker.intent),
            Reason::AppliedDefinition => {
                self.catalog.forget();
                self.window.note_applied_definition();
            }
            Reason::UndoneDefinition | Reason::LeftOut(TRIGGER | IGNORED_DDL) => {
                self.catalog.forget();
            }
            Reason::Returned | Reason::LeftOut(_) | Reason::Prepared | Reason::Dropped => {}
        }
    }

    async fn record(&self, local: &Local) -> Result<()> {
        self.define(local)?;
        self.record_rows(local).await
    }

    /// A transaction whose changes are on disk goes into the window part by part. What it claims may
    /// be met there before all of it is in: it was committed, and that is all that counts.
    async fn record_huge(&self, huge: &Huge) -> Result<()> {
        self.define(huge.head())?;
        let mut parts = huge.parts();
        while let Some(part) = parts.next_part()? {
            self.record_rows(&part).await?;
            self.window.stir();
            // Neither reading from disk nor the window gives the thread to others.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn define(&self, local: &Local) -> Result<()> {
        self.progress.local();
        let Some(definition) = &local.definition else {
            return Ok(());
        };
        // The window first: whoever sees the new schema must find out that it is new.
        self.window.record_definition(
            local.end,
            local.effective,
            &definition.tables(),
            definition.effect(),
        )?;
        self.catalog.forget();
        Ok(())
    }

    async fn record_rows(&self, local: &Local) -> Result<()> {
        let mut claims: Vec<(KeyHash, ClaimKind)> = Vec::with_capacity(local.changes.len() * 2);
        let mut tables: Vec<TableHash> = Vec::new();
        let mut columns: Vec<Option<Arc<(ImageColumns, Family)>>> =
            Vec::with_capacity(local.changes.len());
        let mut requests = Requests::default();
        let mut previous: Option<&Arc<SourceTable>> = None;
        for change in &local.changes {
            if previous.is_some_and(|previous| Arc::ptr_eq(previous, &change.table)) {
                columns.push(columns.last().cloned().flatten());
            } else {
                // The database as a whole, too: for a DROP DATABASE.
                for name in [&*change.table.name, ""] {
                    let hash = TableHash::new(&change.table.database, name);
                    if !tables.contains(&hash) {
                        tables.push(hash);
                    }
                }
                // A table that is gone by now: its rows cannot meet anything but its own DROP.
                let schema = self
                    .catalog
                    .table(&change.table.database, &change.table.name)
                    .await?;
                columns.push(match schema {
                    None => None,
                    Some(schema) => {
                        let family = if schema.in_foreign_keys() {
                            Family::load(&self.catalog, &schema).await?
                        } else {
                            Family::default()
                        };
                        let columns = ImageColumns::new(Arc::clone(&change.table), schema);
                        Some(Arc::new((columns, family)))
                    }
                });
                previous = Some(&change.table);
            }
            if let Some(Some(known)) = columns.last() {
                let (columns, family) = &**known;
                let weighs = needs_weights(columns.target());
                for row in change.change.images() {
                    if weighs {
                        requests.add(columns.target(), |column| columns.value(row, column));
                    }
                    family.add(&mut requests, |column| columns.value(row, column));
                }
            }
        }
        let weights = self.catalog.collator().weigh(requests).await?;
        let mut number = local.first_write;
        for (change, columns) in local.changes.iter().zip(&columns) {
            let Some(known) = columns else { continue };
            let (columns, family) = &**known;
            let writes: Vec<RowWrite> = RowWrite::of(&change.change, |row| {
                image_keys(
                    columns.target(),
                    |column| columns.value(row, column),
                    &weights,
                )
            })
            .collect();
            if self.merges {
                number = self.remember(local, &change.change, &writes, columns, number);
            }
            let after = change.change.after();
            for write in writes {
                claims.extend(write.claims());
                let value = |column: usize| columns.value(after?, column);
                claims.extend(family.claims(&write, value, &weights));
            }
        }
        self.window
            .record(local.end, local.effective, claims, tables)
    }
}

impl Tailer {
    /// Puts a write of a merged row into its history; gives the number of the next write.
    fn remember(
        &self,
        local: &Local,
        change: &RowChange,
        writes: &[RowWrite],
        columns: &ImageColumns,
        mut number: u32,
    ) -> u32 {
        // A rule that does not fit is said by the apply, which halts.
        let rule = self.config.conflicts.rule_for(columns.target());
        let rules = rule.map(|rule| rule.columns).unwrap_or_default();
        for (key, write, before) in writes_of(change, writes, |row| columns.ordered(row)) {
            let order = Order {
                effective: local.effective,
                rank: self.rank,
                change: number,
            };
            number += 1;
            let origin = history::Origin::local(local.end);
            let entry = Entry {
                order,
                origin,
                write,
            };
            if !rules.is_empty() {
                let before = history::Before {
                    row: before,
                    // What was applied in front of it is never applied again.
                    seen: Vec::new(),
                };
                self.window.histories().record(key, entry, &before, &rules);
            }
        }
        number
    }
}

impl Start {
    /// A start of which only position and clock are known.
    pub(crate) fn at(position: LogPos, clock: u64) -> Self {
        Self {
            position,
            log_birth: 0,
            clock,
            seen: Seen::default(),
            intended: None,
            marked: None,
            numbered: None,
            xa_from: None,
        }
    }
}
