//! Prepares transactions for the apply: fits each change to the target's table, names the keys that
//! it claims or leaves, and writes the statements of the merged group. Nothing of it needs the apply's
//! connection, so that it is done for one group while another is applied.

use std::collections::HashMap;
use std::sync::Arc;

use super::encode::{Statement, encode};
use super::explain::at_position;
use super::foreign_key::{self, Question};
use super::mapping::Mapping;
use super::row_events::{self, Ability};
use crate::config::Config;
use crate::conflict::claim::ChangeKeys;
use crate::conflict::collation::{Requests, Weights};
use crate::conflict::detect::{Claim, Meeting, first_meeting};
use crate::conflict::family::Family;
use crate::conflict::key::{KeyHash, TableHash, image_keys};
use crate::conflict::window::Window;
use crate::connection::Identity;
use crate::error::{Error, Result};
use crate::group::{KeySet, Mapped, coalesced, key_set, one_by_one, split};
use crate::position::LogPos;
use crate::row::SourceTable;
use crate::schema::SchemaCatalog;
use crate::status::LinkProgress;
use crate::transaction::{ForeignKeyMode, Local};

/// Mappings that are remembered. Each new table map of the log makes one, also of a known table.
const KNOWN_MAPPINGS: usize = 4096;

/// Prepares transactions of one origin for one target.
pub struct Preparer {
    pub(super) config: Arc<Config>,
    pub(super) origin: Identity,
    pub(super) target: Identity,
    pub(super) window: Arc<Window>,
    pub(super) catalog: Arc<SchemaCatalog>,
    pub(super) progress: Arc<LinkProgress>,
    /// Whether the target takes row events.
    pub(super) ability: Ability,
    mappings: HashMap<(usize, ForeignKeyMode), KnownMapping>,
    generation: u64,
}

struct KnownMapping {
    /// Keeps the address, by which it is found, from being given to another table.
    source: Arc<SourceTable>,
    mapping: Arc<Mapping>,
    /// Made while DDL on the table was not seen by the origin.
    tolerant: bool,
}

/// A group's transactions, prepared.
pub struct Prepared {
    /// Of the catalog, before any table was looked up: if it has risen since, this is stale.
    pub(super) generation: u64,
    /// One for each transaction.
    pub(super) transactions: Vec<PreparedTransaction>,
    /// The statements of all of them, merged, where they were written ahead.
    pub(super) merged: Option<Written>,
    /// Every row key of the group, where that was asked for.
    pub(super) keys: Option<Arc<KeySet>>,
    /// The groups, by their keys, beside which [`Self::merged`] may be written.
    minded: Vec<Arc<KeySet>>,
}

/// What is known of one transaction's changes.
pub(super) struct PreparedTransaction {
    /// One for each change.
    pub(super) mappings: Vec<Arc<Mapping>>,
    /// One for each change.
    keys: Vec<ChangeKeys>,
    /// Every key that it claims or leaves, as of a group of its own.
    pub(super) claims: Vec<Claim>,
}

/// What is sent for some transactions.
pub(super) struct Written {
    pub(super) statements: Vec<Statement>,
    /// How many of them, from the first, may run beside the groups that were minded.
    pub(super) free: usize,
    /// What is asked behind them.
    pub(super) questions: Vec<Question>,
}

impl Preparer {
    pub(crate) fn new(
        config: Arc<Config>,
        origin: Identity,
        target: Identity,
        window: Arc<Window>,
        catalog: Arc<SchemaCatalog>,
        progress: Arc<LinkProgress>,
        ability: Ability,
    ) -> Self {
        let generation = catalog.generation();
        Self {
            config,
            origin,
            target,
            window,
            catalog,
            progress,
            ability,
            mappings: HashMap::new(),
            generation,
        }
    }

    /// Another one of the same transactions, which has looked at nothing yet.
    pub(super) fn another(&self) -> Self {
        Self::new(
            Arc::clone(&self.config),
            self.origin.clone(),
            self.target.clone(),
            Arc::clone(&self.window),
            Arc::clone(&self.catalog),
            Arc::clone(&self.progress),
            self.ability.clone(),
        )
    }

    /// Prepares transactions, their merged statements included. `beside` are the groups in front, by
    /// their keys, that may not be committed when these statements are run; `None` where each group is
    /// applied behind the one before it.
    ///
    /// # Errors
    /// As the apply's: [`Error::Schema`] and [`Error::Unsupported`] where a row does not fit.
    pub async fn prepare_merged(
        &mut self,
        transactions: &mut [Local],
        beside: Option<Vec<Arc<KeySet>>>,
    ) -> Result<Prepared> {
        let mut prepared = self.prepare(transactions).await?;
        let minded = beside.as_deref().unwrap_or_default();
        let written = self.write(transactions, &prepared.transactions, true, minded)?;
        prepared.merged = Some(written);
        if let Some(minded) = beside {
            let keys = prepared.transactions.iter();
            let keys = key_set(keys.flat_map(|prepared| &prepared.keys));
            prepared.keys = Some(Arc::new(keys));
            prepared.minded = minded;
        }
        Ok(prepared)
    }

    /// Prepares transactions.
    pub(super) async fn prepare(&mut self, transactions: &mut [Local]) -> Result<Prepared> {
        let generation = self.catalog.generation();
        let mut mappings: Vec<Vec<Arc<Mapping>>> = Vec::with_capacity(transactions.len());
        for transaction in transactions.iter_mut() {
            mappings.push(self.map(transaction).await?);
        }
        let weights = self.weigh_texts(transactions, &mappings).await?;
        let prepared = transactions.iter().zip(mappings);
        let prepared = prepared.map(|(transaction, mappings)| {
            PreparedTransaction::new(transaction, mappings, &weights)
        });
        Ok(Prepared {
            generation,
            transactions: prepared.collect(),
            merged: None,
            keys: None,
            minded: Vec::new(),
        })
    }

    /// Writes the statements of transactions, merged or one for each change; first those that may run
    /// beside the groups `taken`.
    pub(super) fn write(
        &self,
        transactions: &[Local],
        prepared: &[PreparedTransaction],
        merge: bool,
        taken: &[Arc<KeySet>],
    ) -> Result<Written> {
        let changes = transactions
            .iter()
            .zip(prepared)
            .flat_map(|(transaction, prepared)| {
                let known = prepared.mappings.iter().zip(&prepared.keys);
                let changes = transaction.changes.iter().zip(known);
                changes.map(|(change, (mapping, keys))| Mapped {
                    mapping,
                    change: &change.change,
                    keys,
                })
            });
        let flavor = self.target.flavor;
        let mut behind = Vec::new();
        let steps = if !merge {
            one_by_one(changes)
        } else if taken.is_empty() {
            coalesced(changes)
        } else {
            let (free, waiting) = split(changes, taken);
            behind = coalesced(waiting.into_iter());
            coalesced(free.into_iter())
        };
        let mut statements = encode(&steps, flavor)?;
        let free = statements.len();
        statements.extend(encode(&behind, flavor)?);
        let mappings = prepared.iter().map(|prepared| &prepared.mappings[..]);
        Ok(Written {
            statements,
            free,
            questions: foreign_key::questions(transactions, mappings, flavor)?,
        })
    }

    /// Forgets what is known of the target's tables.
    pub(super) fn forget(&mut self) {
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
                .map_err(|error| at_position(&self.origin, error, transaction))?;
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
            let policy = self.config.replication.row_events;
            mapping.path = row_events::path(&mapping, self.target.flavor, policy, &self.ability)
                .map_err(|error| at_position(&self.origin, error, transaction))?;
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
}

/// The first of the transactions that meets a concurrent local write.
pub(super) fn meeting(prepared: &[PreparedTransaction], window: &Window) -> Option<Meeting> {
    let mut prepared = prepared.iter().enumerate();
    prepared.find_map(|(transaction, prepared)| {
        let meeting = first_meeting(&prepared.claims, window)?;
        Some(Meeting {
            transaction,
            ..meeting
        })
    })
}

impl Prepared {
    /// How many statements were written ahead, and their bytes.
    #[must_use]
    pub fn written(&self) -> (usize, usize) {
        let statements = self.merged.iter().flat_map(|merged| &merged.statements);
        statements.fold((0, 0), |(number, bytes), statement| {
            (number + 1, bytes + statement.sql.len())
        })
    }

    /// The group's keys, where its statements may be run beside all of these groups.
    pub(super) fn beside<'k>(
        &self,
        mut groups: impl Iterator<Item = &'k Arc<KeySet>>,
    ) -> Option<Arc<KeySet>> {
        let minds = |group| self.minded.iter().any(|minded| Arc::ptr_eq(minded, group));
        let keys = self.merged.as_ref().and(self.keys.as_ref())?;
        groups.all(minds).then(|| Arc::clone(keys))
    }

    /// Whether anything of it may run beside the groups that were minded.
    pub(super) fn gains_beside(&self) -> bool {
        self.merged.as_ref().is_some_and(|merged| merged.free > 0)
    }

    /// With nothing known of `number` transactions in front.
    pub(super) fn behind(mut self, number: usize) -> Self {
        let nothing = std::iter::repeat_with(PreparedTransaction::nothing).take(number);
        self.transactions.splice(0..0, nothing);
        self
    }
}

impl PreparedTransaction {
    fn nothing() -> Self {
        Self {
            mappings: Vec::new(),
            keys: Vec::new(),
            claims: Vec::new(),
        }
    }

    fn new(transaction: &Local, mappings: Vec<Arc<Mapping>>, weights: &Weights) -> Self {
        let changes = transaction.changes.iter().zip(&mappings);
        let keys = changes.map(|(change, mapping)| {
            ChangeKeys::of(&change.change, |row| {
                let value = |column| mapping.value(row, column);
                image_keys(&mapping.target, value, weights)
            })
        });
        let keys: Vec<ChangeKeys> = keys.collect();
        let claims = claims(transaction, &mappings, &keys, weights);
        Self {
            mappings,
            keys,
            claims,
        }
    }
}

/// Every key that the transaction claims or leaves.
fn claims(
    transaction: &Local,
    mappings: &[Arc<Mapping>],
    keys: &[ChangeKeys],
    weights: &Weights,
) -> Vec<Claim> {
    let mut claims = Vec::with_capacity(transaction.changes.len() + 4);
    let mut tables: Vec<&Arc<Mapping>> = Vec::new();
    let changes = transaction.changes.iter().zip(mappings).zip(keys);
    for (index, ((change, mapping), keys)) in changes.enumerate() {
        let claim = |key, seen| Claim {
            transaction: 0,
            change: index,
            key,
            seen,
        };
        let all_seen = transaction.seen.position;
        if !tables.iter().any(|known| Arc::ptr_eq(known, mapping)) {
            // DDL that removed rows here, unseen by the origin, meets every row of the table.
            claims.extend(mapping.whole_table.map(|key| claim(key, all_seen)));
            claims.push(claim(mapping.emptied, all_seen));
            tables.push(mapping);
        }
        // A row with a history: every write of it must go in.
        let seen = if mapping.rule.merges() {
            LogPos::default()
        } else {
            all_seen
        };
        if !mapping.family.is_empty() {
            let (before, after) = (change.change.before(), change.change.after());
            for write in keys.clone().writes() {
                let related = mapping.family.meets(
                    &write,
                    |column| mapping.value(before?, column),
                    |column| mapping.value(after?, column),
                    weights,
                );
                claims.extend(related.keys().map(|key| claim(key, all_seen)));
            }
        }
        let mut known: Option<KeyHash> = None;
        for image in keys.images() {
            if image.row != known {
                claims.extend(image.row.map(|key| claim(key, seen)));
                known = image.row;
            }
            claims.extend(image.unique.iter().map(|(_, key)| claim(*key, seen)));
        }
    }
    claims
}
