//! Applies batches of one origin to the target, exactly once, in the origin's commit order.
//!
//! The apply transaction (design section 3, "the race"): it moves the marker row, writes its rows
//! and so holds their locks; asks the target for its log's end and waits until the tailer has read
//! that far; looks for concurrent local writes of its keys; and commits, or rolls back. A local
//! write that the check could miss would have to be committed but not yet in front of the log's
//! end, which neither server does while its locks are released. What meets concurrent writes goes
//! through the careful transaction instead: [`super::careful`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::careful::{CAREFUL_CHANGES, CAREFUL_TRANSACTIONS, Scope};
use super::execute::{Failure, execute};
use super::foreign_key;
use super::mapping::Mapping;
use super::session;
use crate::config::Config;
use crate::conflict::claim::RowWrite;
use crate::conflict::collation::{Requests, Weights};
use crate::conflict::detect::{Claim, Meeting, first_meeting};
use crate::conflict::family::Family;
use crate::conflict::key::{KeyHash, TableHash, image_keys, row_keys};
use crate::conflict::window::Window;
use crate::connection::{Identity, NodeConnection};
use crate::error::{Disposition, Error, Result};
use crate::failpoint::{self, Failpoint};
use crate::group::{Batch, coalesced, one_by_one};
use crate::link::read_marker;
use crate::position::LogPos;
use crate::position::marker::Marker;
use crate::replicator::{place, rank};
use crate::row::{Row, SourceTable};
use crate::schema::SchemaCatalog;
use crate::status::LinkProgress;
use crate::transaction::{ForeignKeyMode, Local};

/// How long the commit waits, holding row locks, for the tailer to read up to the log's end. It
/// takes a millisecond while the tailer runs; longer means that it lost its connection.
const TAILER_PATIENCE: Duration = Duration::from_secs(5);

/// Mappings that are remembered. Each new table map of the log makes one, also of a known table.
const KNOWN_MAPPINGS: usize = 4096;

/// Writes what one origin sent to one target.
pub struct Applier {
    pub(super) connection: NodeConnection,
    pub(super) config: Arc<Config>,
    pub(super) origin: Identity,
    pub(super) target: Identity,
    pub(super) window: Arc<Window>,
    pub(super) catalog: Arc<SchemaCatalog>,
    pub(super) progress: Arc<LinkProgress>,
    /// The marker row as committed.
    pub(super) marker: Marker,
    /// Places of origin and target in the order of nodes.
    pub(super) places: [u8; 2],
    /// Rank of the origin's writes; see [`crate::conflict::history::Order`].
    pub(super) rank: u8,
    mappings: HashMap<(usize, ForeignKeyMode), KnownMapping>,
    generation: u64,
    /// `foreign_key_checks` of the connection's session.
    pub(super) foreign_key_checks: bool,
}

struct KnownMapping {
    /// Keeps the address, by which it is found, from being given to another table.
    source: Arc<SourceTable>,
    mapping: Arc<Mapping>,
    /// Made while DDL on the table was not seen by the origin.
    tolerant: bool,
}

/// What an attempt to apply transactions came to.
pub(super) enum Attempt {
    Applied,
    /// A concurrent local write was met.
    Met(Meeting),
    /// The rows did not fit: as merged, or one by one.
    Unfit(Failure),
    /// DDL changed the tables meanwhile: what was asked about them may not be all.
    Stale,
}

/// How transactions are tried.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    /// As few statements as it goes.
    Merged,
    /// Each change by itself.
    OneByOne,
    /// By the careful transaction.
    Careful(Scope),
}

impl Applier {
    /// Takes over a connection to the target whose marker was read.
    ///
    /// # Errors
    /// The connection's.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is another stage's, made once per link"
    )]
    pub async fn new(
        mut connection: NodeConnection,
        config: Arc<Config>,
        origin: Identity,
        target: Identity,
        window: Arc<Window>,
        catalog: Arc<SchemaCatalog>,
        progress: Arc<LinkProgress>,
        marker: Marker,
    ) -> Result<Self> {
        connection.learn_packet_limit().await?;
        for statement in session::apply_session(target.flavor, origin.server_id) {
            connection
                .execute(&statement, "setting up the apply session")
                .await?;
        }
        let generation = catalog.generation();
        let places = [&origin, &target].map(|of| place(&config, &of.node));
        let rank = rank(&config, &origin.node);
        Ok(Self {
            rank,
            connection,
            config,
            origin,
            target,
            window,
            catalog,
            progress,
            marker,
            places,
            mappings: HashMap::new(),
            generation,
            foreign_key_checks: true,
        })
    }

    /// The origin's `server_uuid` (MySQL).
    #[must_use]
    pub fn origin_uuid(&self) -> Option<[u8; 16]> {
        self.origin.uuid
    }

    /// The marker row as committed.
    #[must_use]
    pub fn marker(&self) -> &Marker {
        &self.marker
    }

    /// Applies a batch's transactions. On return they are committed with the marker behind them.
    ///
    /// # Errors
    /// [`Error::Connection`] and [`Error::Contention`] may be tried again after reading the marker;
    /// [`Error::Conflict`], [`Error::Drift`] and the others stop the link, with everything in front
    /// of the transaction to blame applied.
    pub async fn apply(&mut self, batch: &mut Batch) -> Result<()> {
        if let Some(huge) = &batch.huge {
            return self.apply_huge(huge).await;
        }
        if let [only] = &mut batch.transactions[..]
            && only.definition.is_some()
        {
            self.apply_definition(only).await?;
            return Ok(());
        }
        match self.apply_rows(&mut batch.transactions).await {
            // DDL of a local client may be so new that the tailer has not read it: then the rows
            // are from before it, and fit as such.
            Err(Error::Schema { .. }) => {
                self.tailer_at_end().await?;
                self.forget_schemas();
                let committed = self.marker.position;
                batch
                    .transactions
                    .retain(|transaction| transaction.end > committed);
                self.apply_rows(&mut batch.transactions).await
            }
            other => other,
        }
    }

    /// Applies row transactions: all in one commit if it goes; in parts, and those carefully that
    /// meet concurrent local writes, if not.
    pub(super) async fn apply_rows(&mut self, transactions: &mut [Local]) -> Result<()> {
        let mut rest = transactions;
        while !rest.is_empty() {
            let attempt = match self.attempt(rest, Way::Merged).await {
                // What stands in front of the one to blame is applied all the same: who leaves that
                // one out must not lose the others.
                Err(error) if error.disposition() == Disposition::Halt && rest.len() > 1 => {
                    Attempt::Stale
                }
                attempt => attempt?,
            };
            match attempt {
                Attempt::Applied => return Ok(()),
                Attempt::Met(meeting) => {
                    // A long way to the first meeting goes the ordinary way.
                    let front = meeting.transaction;
                    let (front, carefully) = if front > CAREFUL_TRANSACTIONS {
                        (front, false)
                    } else {
                        (careful_prefix(rest), true)
                    };
                    let (now, later) = rest.split_at_mut(front);
                    if carefully {
                        self.settle_together(now).await?;
                    } else {
                        self.one_transaction_each_if_needed(now).await?;
                    }
                    rest = later;
                }
                // Find out which transaction and row it is, with everything before it applied.
                Attempt::Unfit(_) | Attempt::Stale => {
                    self.progress.regrouped();
                    return self.one_transaction_each(rest).await;
                }
            }
        }
        Ok(())
    }

    /// Transactions in front of a meeting: together, if nobody wrote their keys meanwhile.
    async fn one_transaction_each_if_needed(&mut self, transactions: &mut [Local]) -> Result<()> {
        match self.attempt(transactions, Way::Merged).await? {
            Attempt::Applied => Ok(()),
            Attempt::Met(_) | Attempt::Unfit(_) | Attempt::Stale => {
                self.one_transaction_each(transactions).await
            }
        }
    }

    /// Transactions of which some meet concurrent local writes.
    async fn settle_together(&mut self, transactions: &mut [Local]) -> Result<()> {
        let way = Way::Careful(Scope::Contended);
        let alone = transactions.len() == 1;
        let attempt = match self.attempt(transactions, way).await {
            // What stands in front of the one that halts is applied all the same.
            Err(Error::Conflict(_)) if !alone => Attempt::Stale,
            attempt => attempt?,
        };
        match attempt {
            Attempt::Applied => Ok(()),
            Attempt::Met(_) | Attempt::Unfit(_) | Attempt::Stale => {
                self.progress.regrouped();
                self.one_transaction_each(transactions).await
            }
        }
    }

    async fn one_transaction_each(&mut self, transactions: &mut [Local]) -> Result<()> {
        for index in 0..transactions.len() {
            let one = &mut transactions[index..=index];
            let mut attempt = self.attempt(one, Way::OneByOne).await?;
            if let Attempt::Unfit(Failure::Refused {
                code: 1054 | 1136 | 1146,
                ..
            }) = attempt
            {
                // Our picture of the table is older than the table: look again, once.
                self.forget_schemas();
                attempt = self.attempt(one, Way::OneByOne).await?;
            }
            if matches!(attempt, Attempt::Met(_)) {
                attempt = self.attempt(one, Way::Careful(Scope::Contended)).await?;
            }
            if let Attempt::Unfit(Failure::Refused { code: 1452, .. } | Failure::Orphan { .. }) =
                attempt
            {
                // A client may have removed the parent since we looked: it is in the log by now.
                self.tailer_at_end().await?;
                attempt = self.attempt(one, Way::Careful(Scope::Contended)).await?;
            }
            if let Attempt::Unfit(Failure::Missing { .. } | Failure::Refused { code: 1062, .. }) =
                attempt
            {
                // Each row by itself tells what it is.
                attempt = self.attempt(one, Way::Careful(Scope::All)).await?;
            }
            match attempt {
                Attempt::Applied => {}
                Attempt::Unfit(failure) => return Err(self.unfit(&one[0], failure)),
                Attempt::Met(_) | Attempt::Stale => {
                    return Err(Error::Internal(
                        "an attempt was not repeated though it had to be".to_owned(),
                    ));
                }
            }
        }
        Ok(())
    }

    async fn attempt(&mut self, transactions: &mut [Local], way: Way) -> Result<Attempt> {
        loop {
            let result = match way {
                Way::Merged => self.try_apply(transactions, true).await,
                Way::OneByOne => self.try_apply(transactions, false).await,
                Way::Careful(scope) => self.try_careful(transactions, scope).await,
            };
            if !matches!(result, Ok(Attempt::Applied)) {
                // Whatever it was, nothing of it may stay. If the connection is gone the server
                // rolls back by itself, and the first error tells more.
                let rolled_back = self.connection.execute("ROLLBACK", "rolling back").await;
                if result.is_ok() {
                    rolled_back?;
                }
            }
            if !matches!(result, Ok(Attempt::Stale)) {
                return result;
            }
        }
    }

    async fn try_apply(&mut self, transactions: &mut [Local], merge: bool) -> Result<Attempt> {
        let generation = self.catalog.generation();
        let mut mappings: Vec<Vec<Arc<Mapping>>> = Vec::with_capacity(transactions.len());
        for transaction in transactions.iter_mut() {
            mappings.push(self.map(transaction).await?);
        }
        let weights = self.weigh_texts(transactions, &mappings).await?;
        let claims = claims(transactions, &mappings, &weights);
        if let Some(meeting) = first_meeting(&claims, &self.window) {
            return Ok(Attempt::Met(meeting));
        }
        let Some(last) = transactions.last() else {
            return Ok(Attempt::Applied);
        };
        let marker = self.marker_behind(transactions, last);
        self.write_marker(&marker).await?;
        failpoint::reach(Failpoint::MarkerWritten);
        let changes = || {
            transactions
                .iter()
                .zip(&mappings)
                .flat_map(|(transaction, mappings)| {
                    mappings
                        .iter()
                        .zip(transaction.changes.iter().map(|change| &change.change))
                })
        };
        let steps = if merge { coalesced(changes()) } else { None };
        let steps = steps.unwrap_or_else(|| one_by_one(changes()));
        let flavor = self.target.flavor;
        let checks = &mut self.foreign_key_checks;
        match execute(&mut self.connection, flavor, &steps, checks).await {
            Ok(()) => {}
            Err(Failure::Error(error)) => return Err(error),
            Err(failure) => return Ok(Attempt::Unfit(failure)),
        }
        drop(steps);
        failpoint::reach(Failpoint::StatementsSent);
        let questions = foreign_key::questions(transactions, &mappings, flavor)?;
        if let Some(orphan) = foreign_key::ask(&mut self.connection, questions).await? {
            return Ok(Attempt::Unfit(orphan));
        }
        if let Some(meeting) = self.guard(&claims).await? {
            return Ok(Attempt::Met(meeting));
        }
        // A foreign key that was added before our rows were locked is in the log by now.
        if self.catalog.generation() != generation {
            return Ok(Attempt::Stale);
        }
        self.window.trust()?;
        failpoint::reach(Failpoint::Guarded);
        let commit = self.connection.execute("COMMIT", "committing");
        failpoint::midway(Failpoint::CommitSent, commit).await?;
        failpoint::reach(Failpoint::Committed);
        self.marker = marker;
        self.progress.applied(transactions);
        Ok(Attempt::Applied)
    }

    /// Closes the race with local writers; see the module's first lines.
    async fn guard(&mut self, claims: &[Claim]) -> Result<Option<Meeting>> {
        self.tailer_at_end().await?;
        Ok(first_meeting(claims, &self.window))
    }

    /// Waits until the tailer has read up to the end that the target's log has now.
    pub(super) async fn tailer_at_end(&mut self) -> Result<()> {
        let mut looks = 0;
        loop {
            let read = self.window.read_position();
            let (_, end) = self.connection.log_end(self.target.flavor).await?;
            if end >= read {
                let waited = self.tailer_reaches(end).await;
                return waited.unwrap_or_else(|| {
                    Err(Error::Connection {
                        node: self.target.node.to_string(),
                        message: format!(
                            "the tailer of this node's own binlog did not reach {} within {} s",
                            self.target.log_name.show(end),
                            TAILER_PATIENCE.as_secs()
                        ),
                    })
                });
            }
            // For a moment a server that rotates may name the file that it leaves; a log that stays
            // behind what was read of it is another one.
            looks += 1;
            if looks > 20 {
                return Err(Error::LogLost {
                    node: self.target.node.to_string(),
                    problem: format!(
                        "its own log ends at {}, and was read up to {}: it was reset or restored \
                         under the running engine. Compare the nodes, make them alike, then run \
                         `twinlog init --force`",
                        self.target.log_name.show(end),
                        self.target.log_name.show(read)
                    ),
                });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits as long as the tailer is at work: it may be in the middle of a large transaction.
    async fn tailer_reaches(&self, end: LogPos) -> Option<Result<()>> {
        loop {
            let before = self.window.stirred();
            let read = tokio::time::timeout(TAILER_PATIENCE, self.window.read_up_to(end)).await;
            match read {
                Ok(read) => return Some(read),
                Err(_) if self.window.stirred() == before => return None,
                Err(_) => {}
            }
        }
    }

    /// The next step of a person who has made a transaction's effect good by hand.
    pub(super) fn go_on_behind(&self, transaction: &Local) -> String {
        format!(
            "stop both engines and go on behind it with `twinlog positions set --origin {} --target \
             {} {}`",
            self.origin.node,
            self.target.node,
            self.origin.log_name.show(transaction.end)
        )
    }

    /// Writes the marker within the open transaction.
    pub(super) async fn write_marker(&mut self, marker: &Marker) -> Result<()> {
        let schema = &self.config.engine.schema;
        let sql = marker.update(schema, &self.marker);
        let found = self.connection.execute(sql, "moving the marker").await?;
        if found == 1 {
            return Ok(());
        }
        let now = read_marker(&mut self.connection, schema, &self.origin.node).await?;
        if now.epoch != self.marker.epoch {
            return Err(Error::Fenced(format!(
                "the marker row of origin {} at node {} is of epoch {}, after our {}: another \
                 engine has taken this node over. Stop one of the two",
                self.origin.node, self.target.node, now.epoch, self.marker.epoch
            )));
        }
        // A commit of ours whose answer was lost came through behind our back: begin anew from
        // where it left the marker.
        Err(Error::Connection {
            node: self.target.node.to_string(),
            message: "the marker moved since it was read".to_owned(),
        })
    }

    pub(super) fn marker_behind(&self, transactions: &[Local], last: &Local) -> Marker {
        let counted = transactions
            .iter()
            .filter(|transaction| !transaction.barrier);
        let (mut number, mut changes) = (0, 0);
        for transaction in counted {
            number += 1;
            changes += transaction.changes.len() as u64;
        }
        Marker {
            position: last.end,
            log_birth: last.log_birth,
            gtid: last
                .gtid
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            clock: last.effective,
            seen: self.marker.seen.max(last.seen.position),
            seen_clock: self.marker.seen_clock.max(last.seen.clock),
            intent: None,
            intended: None,
            transactions: self.marker.transactions + number,
            changes: self.marker.changes + changes,
            ..self.marker.clone()
        }
    }

    /// Moves the marker without rows, so that a lost store costs little reading again.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub async fn move_marker(
        &mut self,
        (position, log_birth): (LogPos, u32),
        clock: u64,
        seen: (LogPos, u64),
    ) -> Result<()> {
        let marker = Marker {
            position,
            log_birth,
            clock,
            seen: seen.0,
            seen_clock: seen.1,
            intent: None,
            intended: None,
            ..self.marker.clone()
        };
        self.write_marker(&marker).await?;
        failpoint::reach(Failpoint::MarkerAlone);
        self.connection
            .execute("COMMIT", "committing the marker")
            .await?;
        self.marker = marker;
        Ok(())
    }

    /// Forgets what is known of the target's tables, after DDL.
    pub(super) fn forget_schemas(&mut self) {
        self.catalog.forget();
        self.mappings.clear();
    }

    /// The mapping of each change of a transaction, its numbers read as the target's schema says.
    pub(super) async fn map(&mut self, transaction: &mut Local) -> Result<Vec<Arc<Mapping>>> {
        let generation = self.catalog.generation();
        if generation != self.generation || self.mappings.len() > KNOWN_MAPPINGS {
            self.mappings.clear();
            self.generation = generation;
        }
        let mut mappings: Vec<Arc<Mapping>> = Vec::with_capacity(transaction.changes.len());
        let mut previous: Option<(Arc<SourceTable>, ForeignKeyMode, Arc<Mapping>)> = None;
        for index in 0..transaction.changes.len() {
            let table = Arc::clone(&transaction.changes[index].table);
            let mode = transaction.changes[index].foreign_keys;
            let mapping = match &previous {
                Some((known, of_mode, mapping))
                    if Arc::ptr_eq(known, &table) && *of_mode == mode =>
                {
                    Arc::clone(mapping)
                }
                _ => self.mapping(&table, mode, transaction).await?,
            };
            mapping.normalise(&mut transaction.changes[index].change);
            self.progress
                .auto_increment(&mapping, &transaction.changes[index].change);
            previous = Some((table, mode, Arc::clone(&mapping)));
            mappings.push(mapping);
        }
        Ok(mappings)
    }

    /// The weights of all texts in the transactions' keys.
    pub(super) async fn weigh_texts(
        &self,
        transactions: &[Local],
        mappings: &[Vec<Arc<Mapping>>],
    ) -> Result<Weights> {
        let mut requests = Requests::default();
        for (transaction, mappings) in transactions.iter().zip(mappings) {
            for (change, mapping) in transaction.changes.iter().zip(mappings) {
                for row in change.change.images() {
                    if mapping.weighs_texts {
                        requests.add(&mapping.target, |column| mapping.value(row, column));
                    }
                    mapping
                        .family
                        .add(&mut requests, |column| mapping.value(row, column));
                }
            }
        }
        self.catalog.collator().weigh(requests).await
    }

    async fn mapping(
        &mut self,
        source: &Arc<SourceTable>,
        mode: ForeignKeyMode,
        transaction: &Local,
    ) -> Result<Arc<Mapping>> {
        let table = TableHash::new(&source.database, &source.name);
        let tolerant = self
            .window
            .concurrent_definition(table, transaction.seen.position)
            .is_some();
        let address = Arc::as_ptr(source).addr();
        let known = |mappings: &HashMap<_, KnownMapping>, mode| {
            mappings
                .get(&(address, mode))
                .filter(|known| Arc::ptr_eq(&known.source, source) && known.tolerant == tolerant)
                .map(|known| Arc::clone(&known.mapping))
        };
        if let Some(mapping) = known(&self.mappings, mode) {
            return Ok(mapping);
        }
        let target = self
            .catalog
            .table(&source.database, &source.name)
            .await?
            .ok_or_else(|| Error::Schema {
                table: source.to_string(),
                problem: format!(
                    "node {} has no such table (or the account may not see it); make it as it is \
                     at node {}, then start again",
                    self.target.node, self.origin.node
                ),
            })?;
        // Without foreign keys all rows of a table share a mapping, and so statements.
        let needed = if target.in_foreign_keys() {
            mode
        } else {
            ForeignKeyMode::Engine
        };
        let mapping = if let Some(mapping) = known(&self.mappings, needed) {
            mapping
        } else {
            let mut mapping = Mapping::new(Arc::clone(source), target, tolerant)
                .map_err(|error| self.at(error, transaction))?;
            mapping.foreign_keys = needed;
            if mapping.target.in_foreign_keys() {
                mapping.family = Family::load(&self.catalog, &mapping.target).await?;
            }
            // DDL may have changed what the rule is about.
            mapping.rule = self
                .config
                .conflicts
                .rule_for(&mapping.target)
                .map_err(|problem| Error::Schema {
                    table: source.to_string(),
                    problem,
                })?;
            Arc::new(mapping)
        };
        if needed != mode {
            self.mappings.insert(
                (address, needed),
                KnownMapping {
                    source: Arc::clone(source),
                    mapping: Arc::clone(&mapping),
                    tolerant,
                },
            );
        }
        self.mappings.insert(
            (address, mode),
            KnownMapping {
                source: Arc::clone(source),
                mapping: Arc::clone(&mapping),
                tolerant,
            },
        );
        Ok(mapping)
    }

    /// Adds origin and position to an error that does not know them.
    fn at(&self, error: Error, transaction: &Local) -> Error {
        match error {
            Error::Unsupported { what, problem, .. } => Error::Unsupported {
                node: self.origin.node.to_string(),
                position: self.origin.log_name.show(transaction.start),
                what,
                problem,
            },
            other => other,
        }
    }

    pub(super) fn unfit(&self, transaction: &Local, failure: Failure) -> Error {
        let position = self.origin.log_name.show(transaction.start);
        let next = format!(
            "Compare the row on both nodes and repair node {}; to leave the transaction out instead, \
             {}",
            self.target.node,
            self.go_on_behind(transaction)
        );
        match failure {
            Failure::Error(error) => self.at(error, transaction),
            Failure::Missing { table, action } => Error::Drift(format!(
                "{action} on {table} (node {}, {position}) does not find its row at node {}, though \
                 nobody there wrote it concurrently: the nodes had drifted apart before. {next}",
                self.origin.node, self.target.node
            )),
            Failure::Orphan {
                table,
                constraint,
                parent,
            } => Error::Conflict(format!(
                "{table} (node {}, {position}): a row of {table} at node {} would be left without \
                 its parent in {parent} (foreign key {constraint}): one node wrote the child, the \
                 other removed the parent. {next}",
                self.origin.node, self.target.node
            )),
            Failure::Refused {
                table,
                code,
                message,
            } => {
                let text = format!(
                    "{table} (node {}, {position}): node {} refuses the row: {message} (error \
                     {code}). {next}",
                    self.origin.node, self.target.node
                );
                match code {
                    1216 | 1217 | 1451 | 1452 => Error::Conflict(format!(
                        "{text}. A foreign key: one node wrote the child, the other removed the \
                         parent"
                    )),
                    1054 | 1136 | 1146 => Error::Schema {
                        table,
                        problem: text,
                    },
                    _ => Error::Drift(text),
                }
            }
        }
    }
}

/// How many of the transactions one careful transaction takes.
fn careful_prefix(transactions: &[Local]) -> usize {
    let mut changes = 0;
    let fits = transactions
        .iter()
        .take(CAREFUL_TRANSACTIONS)
        .take_while(|transaction| {
            changes += transaction.changes.len();
            changes <= CAREFUL_CHANGES
        });
    fits.count().max(1)
}

/// Every key that the transactions claim or leave.
pub(super) fn claims(
    transactions: &[Local],
    mappings: &[Vec<Arc<Mapping>>],
    weights: &Weights,
) -> Vec<Claim> {
    let mut claims = Vec::new();
    for (number, (transaction, mappings)) in transactions.iter().zip(mappings).enumerate() {
        let mut previous: Option<&Arc<Mapping>> = None;
        for (index, (change, mapping)) in transaction.changes.iter().zip(mappings).enumerate() {
            if !previous.is_some_and(|previous| Arc::ptr_eq(previous, mapping)) {
                // DDL that removed rows here, unseen by the origin, meets every row of the table.
                let target = &mapping.target;
                for table in [target.name.as_str(), ""] {
                    claims.push(Claim {
                        transaction: number,
                        change: index,
                        key: KeyHash::whole_table(&target.database, table),
                        seen: transaction.seen.position,
                    });
                }
                previous = Some(mapping);
            }
            // A row with a history: every write of it must go in.
            let seen = if mapping.rule.merges() {
                LogPos::default()
            } else {
                transaction.seen.position
            };
            if !mapping.family.is_empty() {
                let keys = |row: &Row| {
                    image_keys(
                        &mapping.target,
                        |column| mapping.value(row, column),
                        weights,
                    )
                };
                for write in RowWrite::of(&change.change, keys) {
                    let (before, after) = (change.change.before(), change.change.after());
                    let related = mapping.family.meets(
                        &write,
                        |column| mapping.value(before?, column),
                        |column| mapping.value(after?, column),
                        weights,
                    );
                    let met = related.keys();
                    claims.extend(met.map(|key| Claim {
                        transaction: number,
                        change: index,
                        key,
                        seen: transaction.seen.position,
                    }));
                }
            }
            for row in change.change.images() {
                row_keys(
                    &mapping.target,
                    |column| mapping.value(row, column),
                    weights,
                    |key| {
                        claims.push(Claim {
                            transaction: number,
                            change: index,
                            key,
                            seen,
                        });
                    },
                );
            }
        }
    }
    claims
}
