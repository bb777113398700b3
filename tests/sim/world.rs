//! Two nodes with their clients and engines, run by a seed: writing, reading, applying, crashes and
//! clock jumps in any order, then a drain. What clients write is in `clients`, apply transactions are
//! in `apply`, the end's checks in `check`.

use std::collections::{BTreeMap, BTreeSet};

use twinlog_engine::conflict::key::KeyHash;
use twinlog_engine::conflict::policy::{NodeOrder, Policy};
use twinlog_engine::conflict::rules::ColumnRule;
use twinlog_engine::position::marker::Marker;
use twinlog_engine::position::reconcile::reconcile;
use twinlog_engine::position::store::LinkRecord;
use twinlog_engine::position::{LogName, LogPos};
use twinlog_engine::row::{Row, Value};

use super::apply::KINDS;
use super::engine::{Engine, Merging};
use super::random::Random;
use super::server::{Body, CHILDREN, Lock, Server, Tables, key_of, row};

/// Something broken on purpose, to see that the simulator finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// The commit time as it is instead of the clock.
    RawWallClock,
    /// Only row keys are claimed and looked at.
    NoUniqueKeys,
    /// Leaving a unique value counts as claiming it.
    ReleasesClaim,
    /// Nobody waits for the tailer.
    NoGuard,
    /// The careful path takes no locks before it decides.
    NoLocks,
    /// Local deletes are not remembered.
    NoTombstones,
    /// A write that does not stand displaces nothing.
    NoLateDisplacement,
    /// Updates are left out where their row is missing.
    UpdatesNeedTheirRow,
    /// The histories that were kept are not read at a restart.
    HistoriesForgotten,
    /// A merged write that was applied is not put into its row's history.
    NoHistory,
    /// A child whose parent was deleted here is written all the same.
    OrphansStand,
    /// A parent's delete that arrives leaves alone the children that were written here.
    ChildrenStay,
    /// A write of the peer is acknowledged when it is read instead of when the peer has it.
    EarlyAcknowledgement,
}

/// Why a step ended early.
pub(crate) enum Interrupt {
    /// The engine was killed.
    Crash,
    /// A promise is broken.
    Broken(String),
}

impl From<String> for Interrupt {
    fn from(problem: String) -> Self {
        Interrupt::Broken(problem)
    }
}

/// What may be looked at afterwards.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) transactions: u64,
    pub(crate) conflicts: u64,
    pub(crate) races: u64,
    pub(crate) crashes: u64,
    /// Conflicts by kind.
    pub(crate) kinds: [u64; KINDS],
}

impl Tally {
    pub(crate) fn add(&mut self, other: Tally) {
        self.transactions += other.transactions;
        self.conflicts += other.conflicts;
        self.races += other.races;
        self.crashes += other.crashes;
        for (kind, more) in self.kinds.iter_mut().zip(other.kinds) {
            *kind += more;
        }
    }
}

/// How the seed's world is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traits {
    pub(crate) rows: usize,
    pub(crate) values: usize,
    /// Commit times are cut to multiples of this.
    granularity: u64,
    jumps: usize,
    crashes: usize,
    /// How often a local client gets between two steps of an apply.
    races: usize,
}

pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) mutation: Option<Mutation>,
    pub(crate) policy: Policy,
    /// The node that goes first.
    pub(crate) first: usize,
    /// How columns are merged; empty where rows go as a whole.
    pub(crate) rules: Vec<ColumnRule>,
    pub(crate) tables: Tables,
    /// Whether the second table is in use.
    pub(crate) children: bool,
    pub(crate) servers: [Server; 2],
    pub(crate) initial: BTreeMap<i64, Row>,
    engines: [Option<Engine>; 2],
    stores: [Vec<LinkRecord>; 2],
    time: u64,
    offsets: [i64; 2],
    pub(crate) payload: i64,
    pub(crate) traits: Traits,
    pub(crate) draining: bool,
    /// Ends of the peer's transactions in the order in which each node applied them.
    pub(crate) applied: [Vec<LogPos>; 2],
    /// Effective timestamps as the engines computed them, by log and index.
    pub(crate) effective: [BTreeMap<usize, u64>; 2],
    /// Verdicts by key and the two transactions: which node won.
    pub(crate) verdicts: BTreeMap<(KeyHash, LogPos, LogPos), usize>,
    /// What each node's journal says that it met: key, foreign and local transaction.
    pub(crate) journal: [BTreeSet<(KeyHash, LogPos, LogPos)>; 2],
    pub(crate) tally: Tally,
}

fn first_marker(origin: usize) -> Marker {
    let name = |node: usize| LogName::split(["a.000001", "b.000001"][node]).unwrap().0;
    let start = LogPos::new(1, 4);
    Marker {
        origin: ["a", "b"][origin].into(),
        server_id: 1,
        server_uuid: String::new(),
        log_name: name(origin),
        position: start,
        gtid: String::new(),
        clock: 0,
        seen_name: name(1 - origin),
        seen: start,
        seen_clock: 0,
        intent: None,
        intended: None,
        log_birth: 0,
        epoch: 1,
        transactions: 0,
        changes: 0,
    }
}

impl World {
    pub(crate) fn new(seed: u64, mutation: Option<Mutation>) -> Self {
        let mut random = Random::new(seed);
        let mut unique_keys = random.below(3);
        let traits = Traits {
            rows: 2 + random.below(4),
            values: 2 + random.below(4),
            granularity: [1, 1, 20][random.below(3)],
            jumps: [0, 3, 15][random.below(3)],
            crashes: [0, 1, 4][random.below(3)],
            races: [5, 20, 50][random.below(3)],
        };
        let policy = match random.below(3) {
            0 => Policy::NodePriority,
            _ => Policy::LastWriteWins,
        };
        let rules = if policy == Policy::LastWriteWins && random.percent(50) {
            use ColumnRule::{Changed, Delta, Later, Max, Min};
            let payload = [Later, Changed][random.below(2)];
            let peak = [Later, Max, Min, Changed][random.below(4)];
            vec![Later, Later, Later, payload, Delta, peak]
        } else {
            Vec::new()
        };
        // A parent that went because it lost a unique value is none of the foreign keys that the
        // engine settles.
        let children = rules.is_empty() && random.percent(35);
        if children {
            unique_keys = 0;
        }
        let hashed = match mutation {
            Some(Mutation::NoUniqueKeys) => 0,
            _ => unique_keys,
        };
        let mut initial = BTreeMap::new();
        for key in 1..=2_i64 {
            if random.percent(60) {
                initial.insert(key, row(key, [Some(key), Some(key)], 0));
            }
        }
        if children && initial.contains_key(&1) && random.percent(60) {
            let child = row(CHILDREN + 1, [Some(1), None], 0);
            initial.insert(key_of(&child), child);
        }
        let first = random.below(2);
        Self {
            servers: [0, 1]
                .map(|node| Server::new(unique_keys, initial.clone(), first_marker(1 - node))),
            random,
            mutation,
            policy,
            first,
            rules,
            tables: Tables::new(hashed),
            children,
            initial,
            engines: [None, None],
            stores: [Vec::new(), Vec::new()],
            time: 10_000,
            offsets: [0, 0],
            payload: 0,
            traits,
            draining: false,
            applied: [Vec::new(), Vec::new()],
            effective: [BTreeMap::new(), BTreeMap::new()],
            verdicts: BTreeMap::new(),
            journal: [BTreeSet::new(), BTreeSet::new()],
            tally: Tally::default(),
        }
    }

    /// Runs the seed's world to its end. `Err` says which promise was broken.
    pub(crate) fn run(mut self) -> Result<Tally, String> {
        // Long enough for several conflicts to build on each other.
        for _ in 0..15 + self.random.below(45) {
            let node = self.random.below(2);
            let outcome = match self.random.below(10) {
                0..=4 => {
                    self.write_locally(node, &[]);
                    Ok(())
                }
                5 => self.tail(node),
                6 => self.stop_or_start(node),
                _ => self.settle(node),
            };
            self.survive(outcome)?;
            self.pass_time();
        }
        self.drain()?;
        self.check()?;
        Ok(self.tally)
    }

    fn survive(&mut self, outcome: Result<(), Interrupt>) -> Result<(), String> {
        match outcome {
            Ok(()) => Ok(()),
            Err(Interrupt::Crash) => {
                self.tally.crashes += 1;
                Ok(())
            }
            Err(Interrupt::Broken(problem)) => Err(problem),
        }
    }

    fn drain(&mut self) -> Result<(), String> {
        self.draining = true;
        // Two rounds are not enough: what one applies the other has to read past.
        for _ in 0..1000 {
            for node in 0..2 {
                let outcome = self.settle(node).and_then(|()| self.tail(node));
                self.survive(outcome)?;
            }
            let left = (0..2).filter_map(|node| {
                let engine = self.engines[node].as_ref()?;
                let done = engine.link.next == self.servers[1 - node].log.len()
                    && engine.tailer.next == self.servers[node].log.len();
                done.then(|| engine.window.len())
            });
            match left.collect::<Vec<_>>()[..] {
                [0, 0] => return Ok(()),
                [a, b] => return Err(format!("{a} and {b} keys stay in the windows")),
                _ => {}
            }
        }
        Err("the links do not come to an end".to_owned())
    }

    fn pass_time(&mut self) {
        self.time += self.random.below(4) as u64;
        if self.random.percent(self.traits.jumps) {
            let node = self.random.below(2);
            let far = [30, 30, 400][self.random.below(3)];
            self.offsets[node] = self.random.below(2 * far) as i64 - far as i64;
        }
    }

    fn wall_clock(&self, node: usize) -> u64 {
        let now = self.time.saturating_add_signed(self.offsets[node]);
        now - now % self.traits.granularity
    }

    /// Who stands first, for what arrives at `target`.
    pub(crate) fn order(&self, target: usize) -> NodeOrder {
        if self.first == target {
            NodeOrder::TargetFirst
        } else {
            NodeOrder::OriginFirst
        }
    }

    /// Commits to a node's log.
    pub(crate) fn commit(&mut self, node: usize, body: Body) {
        let committed_at = self.wall_clock(node);
        let rotate = self.random.percent(3);
        self.servers[node].commit(committed_at, body, rotate);
    }

    /// The node's engine, started if it is not running. Whoever takes it out puts it back, unless
    /// it crashes.
    pub(crate) fn take_engine(&mut self, node: usize) -> Engine {
        if let Some(engine) = self.engines[node].take() {
            return engine;
        }
        let history = &mut self.stores[node];
        let kept = match self.random.below(4) {
            // Lost, with all that it knew.
            0 => {
                history.clear();
                None
            }
            // Stale: written, but not to the disk.
            1 if !history.is_empty() => {
                let keep = 1 + self.random.below(history.len());
                history.truncate(keep);
                history.last().cloned()
            }
            _ => history.last().cloned(),
        };
        let resume = reconcile(&self.servers[node].marker, kept.as_ref());
        let engine = Engine::start(
            &resume,
            &self.servers[node].log,
            &self.servers[1 - node].log,
        );
        if self.mutation != Some(Mutation::HistoriesForgotten) {
            for (key, kept) in &self.servers[node].histories {
                let histories = engine.window.histories();
                histories.load(*key, kept.clone(), resume.seen, true);
            }
        }
        engine
    }

    fn stop_or_start(&mut self, node: usize) -> Result<(), Interrupt> {
        let engine = self.take_engine(node);
        if !self.random.percent(self.traits.crashes * 10) {
            self.engines[node] = Some(engine);
        }
        Ok(())
    }

    fn tail(&mut self, node: usize) -> Result<(), Interrupt> {
        let mut engine = self.take_engine(node);
        let most = if self.draining {
            usize::MAX
        } else {
            1 + self.random.below(4)
        };
        self.tail_on(node, &mut engine, most)?;
        self.engines[node] = Some(engine);
        Ok(())
    }

    pub(crate) fn tail_on(
        &mut self,
        node: usize,
        engine: &mut Engine,
        most: usize,
    ) -> Result<(), Interrupt> {
        let merging = self.merging(node);
        let own = &self.servers[node].log;
        for (index, effective) in engine.tail(own, most, self.mutation, &merging) {
            self.note_effective(node, index, effective)?;
        }
        Ok(())
    }

    /// How rows are merged at a node.
    pub(crate) fn merging(&self, node: usize) -> Merging {
        let rank = |node: usize| u8::from(node == self.first);
        Merging {
            rules: self.rules.clone(),
            ranks: [rank(node), rank(1 - node)],
        }
    }

    pub(crate) fn note_effective(
        &mut self,
        log: usize,
        index: usize,
        effective: u64,
    ) -> Result<(), Interrupt> {
        let before = self.effective[log].insert(index, effective);
        if before.is_some_and(|before| before != effective) {
            return Err(Interrupt::Broken(format!(
                "transaction {index} of node {log} has two effective timestamps: {before:?} and \
                 {effective}"
            )));
        }
        Ok(())
    }

    /// One turn of the link: read some transactions, apply them, keep the place.
    fn settle(&mut self, node: usize) -> Result<(), Interrupt> {
        let mut engine = self.take_engine(node);
        let most = 1 + self.random.below(if self.draining { 12 } else { 6 });
        let mut reads = Vec::new();
        for _ in 0..most {
            let peer_log = &self.servers[1 - node].log;
            match engine.link.read(peer_log, self.mutation) {
                None => break,
                Some(None) => {}
                Some(Some(read)) => reads.push(read),
            }
            if let Some(read) = reads.last() {
                let (index, effective) = (engine.link.next - 1, read.effective);
                let logged = &self.servers[1 - node].log[index];
                if logged.end == read.logged.end {
                    self.note_effective(1 - node, index, effective)?;
                }
            }
        }
        let Some(end) = engine
            .link
            .next
            .checked_sub(1)
            .map(|last| self.servers[1 - node].log[last].end)
        else {
            self.engines[node] = Some(engine);
            return Ok(());
        };
        self.apply(node, &mut engine, &reads)?;
        self.perhaps_crash()?;
        let (clock, seen) = (engine.link.clock.value(), engine.link.seen);
        engine.window.acknowledge(match self.mutation {
            Some(Mutation::EarlyAcknowledgement) => self.servers[node].end,
            _ => seen.position,
        });
        if !self.draining && self.random.percent(5) {
            let marker = Marker {
                position: end,
                clock,
                seen: seen.position,
                seen_clock: seen.clock,
                ..self.servers[node].marker.clone()
            };
            self.commit_marker(node, marker);
            self.perhaps_crash()?;
        }
        let record = LinkRecord {
            marker: self.servers[node].marker.position,
            transactions: self.servers[node].marker.transactions,
            gtid: String::new(),
            settled: end,
            clock,
            seen: seen.position,
            seen_clock: seen.clock,
            log_birth: 0,
            marked: None,
            numbered: None,
        };
        self.stores[node].push(record);
        self.engines[node] = Some(engine);
        Ok(())
    }

    pub(crate) fn commit_marker(&mut self, node: usize, marker: Marker) {
        self.servers[node].marker = marker.clone();
        self.commit(node, Body::Applied(Box::new(marker)));
    }

    pub(crate) fn perhaps_crash(&mut self) -> Result<(), Interrupt> {
        if self.draining || !self.random.percent(self.traits.crashes) {
            return Ok(());
        }
        Err(Interrupt::Crash)
    }

    /// What others do between two steps of an apply transaction.
    pub(crate) fn interlude(
        &mut self,
        node: usize,
        engine: &mut Engine,
        locked: &[Lock],
    ) -> Result<(), Interrupt> {
        self.perhaps_crash()?;
        if self.draining {
            return Ok(());
        }
        if self.random.percent(self.traits.races) {
            self.tally.races += 1;
            self.write_locally(node, locked);
            self.pass_time();
        }
        if self.random.percent(20) {
            self.tail_on(node, engine, 1)?;
        }
        Ok(())
    }

    pub(crate) fn some(&mut self, percent: usize) -> bool {
        self.random.percent(percent)
    }
}

/// For messages.
pub(crate) fn show(rows: &BTreeMap<i64, Row>) -> String {
    let value = |row: &Row, column: usize| match row.get(column) {
        Some(Value::Int(number)) => number.to_string(),
        _ => "-".to_owned(),
    };
    let rows: Vec<String> = rows
        .values()
        .map(|row| (0..6).map(|c| value(row, c)).collect::<Vec<_>>().join(","))
        .collect();
    format!("{{{}}}", rows.join(" | "))
}
