//! Two or three nodes with their clients and engines, run by a seed: writing, reading, applying, crashes and
//! clock jumps in any order, then a drain. What clients write is in `clients`, apply transactions are
//! in `apply`, the end's checks in `check`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;

use twinlog_engine::conflict::key::KeyHash;
use twinlog_engine::conflict::policy::Policy;
use twinlog_engine::conflict::rules::ColumnRule;
use twinlog_engine::conflict::window::Window;
use twinlog_engine::position::marker::Marker;
use twinlog_engine::position::reconcile::{Agreement, reconcile};
use twinlog_engine::position::store::LinkRecord;
use twinlog_engine::position::{LogName, LogPos};
use twinlog_engine::row::{Row, Value};
use twinlog_engine::transaction::Seen;

use super::apply::KINDS;
use super::engine::{Engine, Merging, Places, Start};
use super::random::Random;
use super::server::{Body, CHILDREN, Known, Lock, Logged, Mark, Server, Tables, key_of, row};

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
    /// A transaction is applied though what it had seen of a third node is not here yet.
    NoCausalOrder,
    /// What third nodes wrote is not looked at.
    ThirdNodesForgotten,
    /// What third nodes wrote is not read again at a restart.
    ThirdNodesNotReadAgain,
    /// What arrives of a table that was emptied here is put in as if it had not been.
    EmptiedForgotten,
    /// A TRUNCATE that arrives takes along what was written here.
    EmptiedWhole,
    /// A merged plan does not lock the rows that it only has to hold.
    PlanLocksNothing,
    /// With three nodes, that which stands in front wins, whatever the two had seen of the others.
    PairwisePriority,
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
    /// Turns of a link whose engine has histories on disk.
    pub(crate) spilled: u64,
    /// Conflicts by kind.
    pub(crate) kinds: [u64; KINDS],
}

impl Tally {
    pub(crate) fn add(&mut self, other: Tally) {
        self.transactions += other.transactions;
        self.conflicts += other.conflicts;
        self.races += other.races;
        self.crashes += other.crashes;
        self.spilled += other.spilled;
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
    pub(crate) nodes: usize,
    pub(crate) places: Places,
    /// How columns are merged; empty where rows go as a whole.
    pub(crate) rules: Vec<ColumnRule>,
    /// How much memory an engine has for the histories of merged rows, in bytes; enough without it.
    history_bytes: Option<usize>,
    pub(crate) tables: Rc<Tables>,
    /// Whether the second table is in use.
    pub(crate) children: bool,
    /// Whether clients empty the first one.
    pub(crate) truncates: bool,
    pub(crate) servers: Vec<Server>,
    pub(crate) initial: BTreeMap<i64, Row>,
    engines: Vec<Option<Engine>>,
    /// What each node's store had for each other one, the last at the end.
    stores: Vec<Vec<Vec<Stored>>>,
    time: u64,
    offsets: Vec<i64>,
    pub(crate) payload: i64,
    pub(crate) traits: Traits,
    pub(crate) draining: bool,
    /// Ends of each other node's transactions in the order in which each node applied them.
    pub(crate) applied: Vec<Vec<Vec<LogPos>>>,
    /// Effective timestamps as the engines computed them, by log and index.
    pub(crate) effective: Vec<BTreeMap<usize, u64>>,
    /// Verdicts by key and the two transactions: which node won.
    pub(crate) verdicts: BTreeMap<Meeting, usize>,
    /// What each node's journal says that it met: key, arriving transaction and the other one.
    pub(crate) journal: Vec<BTreeSet<Meeting>>,
    pub(crate) tally: Tally,
    /// Whether to print what happens.
    trace: bool,
}

/// A key, and two transactions that claimed it, each as its node and its end there.
pub(crate) type Meeting = (KeyHash, (usize, LogPos), (usize, LogPos));

/// What a store holds of a link: the engine's own record, and what it would say of third nodes.
#[derive(Debug, Clone)]
struct Stored {
    record: LinkRecord,
    seen: Vec<Known>,
}

thread_local! {
    /// Scratch files of this thread's worlds.
    static FOLDER: tempfile::TempDir =
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder can be made");
}

fn folder(node: usize) -> PathBuf {
    FOLDER.with(|folder| folder.path().join(node.to_string()))
}

fn first_mark(nodes: usize, origin: usize) -> Mark {
    let name = |node: usize| {
        LogName::split(["a.000001", "b.000001", "c.000001"][node])
            .unwrap()
            .0
    };
    let start = LogPos::new(1, 4);
    let nothing = Known {
        position: start,
        clock: 0,
        seen: vec![Seen::default(); nodes],
    };
    let marker = Marker {
        origin: ["a", "b", "c"][origin].into(),
        server_id: 1,
        server_uuid: String::new(),
        log_name: name(origin),
        position: start,
        gtid: String::new(),
        clock: 0,
        seen_name: name((origin + 1) % nodes),
        seen: start,
        seen_clock: 0,
        intent: None,
        intended: None,
        log_birth: 0,
        intent_clock: 0,
        epoch: 1,
        transactions: 0,
        changes: 0,
    };
    Mark {
        marker,
        seen: vec![nothing; nodes],
    }
}

impl World {
    pub(crate) fn new(seed: u64, mutation: Option<Mutation>) -> Self {
        let mut random = Random::new(seed);
        let nodes = if random.percent(40) { 3 } else { 2 };
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
        let truncates = rules.is_empty() && !children && random.percent(50);
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
        // From so little that nearly all is on disk. In one world of ten that merge, for such a world takes
        // ten times as long as another.
        let little = [1, 1200, 3000][(seed / 10 % 3) as usize];
        let history_bytes = (!rules.is_empty() && seed.is_multiple_of(10)).then_some(little);
        let turned = random.below(nodes);
        let places = Places {
            of: (0..nodes)
                .map(|node| ((node + turned) % nodes) as u8)
                .collect(),
        };
        let marks: Vec<Mark> = (0..nodes).map(|node| first_mark(nodes, node)).collect();
        let server = Server::new(unique_keys, initial.clone(), marks);
        Self {
            servers: vec![server; nodes],
            random,
            mutation,
            policy,
            nodes,
            places,
            rules,
            history_bytes,
            tables: Rc::new(Tables::new(hashed)),
            children,
            truncates,
            initial,
            engines: (0..nodes).map(|_| None).collect(),
            stores: vec![vec![Vec::new(); nodes]; nodes],
            time: 10_000,
            offsets: vec![0; nodes],
            payload: 0,
            traits,
            draining: false,
            applied: vec![vec![Vec::new(); nodes]; nodes],
            effective: vec![BTreeMap::new(); nodes],
            verdicts: BTreeMap::new(),
            journal: vec![BTreeSet::new(); nodes],
            tally: Tally::default(),
            trace: false,
        }
    }

    /// Prints what happens, for whoever replays a seed.
    pub(crate) fn traced(self) -> Self {
        Self {
            trace: true,
            ..self
        }
    }

    pub(crate) fn tell(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{}", what());
        }
    }

    /// Runs the seed's world to its end. `Err` says which promise was broken.
    pub(crate) fn run(mut self) -> Result<Tally, String> {
        // Long enough for several conflicts to build on each other.
        for _ in 0..15 + self.random.below(45) {
            let node = self.random.below(self.nodes);
            let outcome = match self.random.below(10) {
                0..=4 => {
                    self.write_locally(node, &[]);
                    Ok(())
                }
                5 => self.tail(node),
                6 => self.stop_or_start(node),
                _ => {
                    let origin = self.another(node);
                    self.settle([node, origin])
                }
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
                self.tell(|| "an engine was killed".to_owned());
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
            for node in 0..self.nodes {
                for origin in (0..self.nodes).filter(|origin| *origin != node) {
                    let outcome = self.settle([node, origin]).and_then(|()| self.tail(node));
                    self.survive(outcome)?;
                }
            }
            if self
                .engines
                .iter()
                .all(|engine| self.has_read_everything(engine.as_ref()))
            {
                let engines = self.engines.iter().flatten();
                let left = engines.flat_map(|engine| &engine.windows).map(Window::len);
                return match left.sum() {
                    0 => Ok(()),
                    left => Err(format!("{left} keys stay in the windows")),
                };
            }
        }
        Err("the links do not come to an end".to_owned())
    }

    fn has_read_everything(&self, engine: Option<&Engine>) -> bool {
        engine.is_some_and(|engine| {
            self.servers.iter().enumerate().all(|(of, server)| {
                let reader = if of == engine.node {
                    &engine.tailer
                } else {
                    &engine.links[of]
                };
                reader.next == server.log.len()
            })
        })
    }

    fn another(&mut self, node: usize) -> usize {
        (node + 1 + self.random.below(self.nodes - 1)) % self.nodes
    }

    fn pass_time(&mut self) {
        self.time += self.random.below(4) as u64;
        if self.random.percent(self.traits.jumps) {
            let node = self.random.below(self.nodes);
            let far = [30, 30, 400][self.random.below(3)];
            self.offsets[node] = self.random.below(2 * far) as i64 - far as i64;
        }
    }

    fn wall_clock(&self, node: usize) -> u64 {
        let now = self.time.saturating_add_signed(self.offsets[node]);
        now - now % self.traits.granularity
    }

    /// Commits to a node's log.
    pub(crate) fn commit(&mut self, node: usize, body: Body) {
        self.tell(|| {
            let end = self.servers[node].end;
            let rows = show(&self.servers[node].rows);
            match &body {
                Body::Local(changes) => {
                    let changes: Vec<_> = changes.iter().map(|change| &change.change).collect();
                    format!("node {node} behind {end}: clients {changes:?}; rows {rows}")
                }
                Body::Emptied(_) => format!("node {node} behind {end}: clients empty the table"),
                Body::LeftOut => format!("node {node} behind {end}: not replicated"),
                Body::Applied(origin, mark) => format!(
                    "node {node} behind {end}: applied {} of node {origin}; rows {rows}",
                    mark.marker.position
                ),
            }
        });
        let committed_at = self.wall_clock(node);
        let rotate = self.random.percent(3);
        self.servers[node].commit(committed_at, body, rotate);
    }

    /// The node's engine, started if it is not running. Whoever takes it out puts it back, unless
    /// it crashes.
    pub(crate) fn take_engine(&mut self, node: usize) -> Result<Engine, Interrupt> {
        if let Some(engine) = self.engines[node].take() {
            return Ok(engine);
        }
        let lost = self.random.percent(25);
        let mut starts = Vec::new();
        for origin in 0..self.nodes {
            if origin == node {
                starts.push(None);
                continue;
            }
            let history = &mut self.stores[node][origin];
            if lost {
                // With all that it knew.
                history.clear();
            } else if !history.is_empty() && self.random.percent(33) {
                // Stale: written, but not to the disk.
                let keep = 1 + self.random.below(history.len());
                history.truncate(keep);
            }
            let kept = history.last();
            let mark = &self.servers[node].marks[origin];
            let resume = reconcile(&mark.marker, kept.map(|kept| &kept.record));
            let by_store = kept.filter(|kept| {
                resume.agreement == Agreement::Same && kept.record.settled == resume.position
            });
            let seen = by_store.map_or(&mark.seen, |kept| &kept.seen).clone();
            starts.push(Some(Start { resume, seen }));
        }
        let logs: Vec<&[Rc<Logged>]> = self.servers.iter().map(|server| &*server.log).collect();
        let merging = Merging {
            rules: self.rules.clone(),
            places: self.places.clone(),
            node,
            room: self.history_bytes.map(|bytes| (bytes, folder(node))),
        };
        let histories = &self.servers[node].histories;
        let (engine, computed) =
            Engine::start(node, &starts, &logs, merging, histories, self.mutation);
        for (log, index, effective) in computed {
            self.note_effective(log, index, effective)?;
        }
        Ok(engine)
    }

    fn stop_or_start(&mut self, node: usize) -> Result<(), Interrupt> {
        let engine = self.take_engine(node)?;
        if !self.random.percent(self.traits.crashes * 10) {
            self.engines[node] = Some(engine);
        }
        Ok(())
    }

    fn tail(&mut self, node: usize) -> Result<(), Interrupt> {
        let mut engine = self.take_engine(node)?;
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
        let own = &self.servers[node].log;
        for (index, effective) in engine.tail(own, most, self.mutation) {
            self.note_effective(node, index, effective)?;
        }
        Ok(())
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

    /// One turn of a link: read some transactions, apply them, keep the place.
    fn settle(&mut self, [node, origin]: [usize; 2]) -> Result<(), Interrupt> {
        let mut engine = self.take_engine(node)?;
        let most = 1 + self.random.below(if self.draining { 12 } else { 6 });
        let mut reads = Vec::new();
        let begun = engine.links[origin].next;
        for _ in 0..most {
            let log = &self.servers[origin].log;
            let mut ahead = engine.links[origin].clone();
            let read = match ahead.read(log, self.mutation) {
                None => break,
                Some(read) => read,
            };
            // Also what is only passed over: a marker says that all in front of it is here.
            if self.mutation != Some(Mutation::NoCausalOrder) && !engine.has_seen(origin, &ahead) {
                break;
            }
            if let Some(read) = read {
                self.note_effective(origin, ahead.next - 1, read.effective)?;
                reads.push(read);
            }
            engine.links[origin] = ahead;
        }
        if engine.links[origin].next == begun {
            self.engines[node] = Some(engine);
            return Ok(());
        }
        self.apply([node, origin], &mut engine, &reads)?;
        let spilled = engine.windows[node].histories().has_spilled();
        self.tally.spilled += u64::from(spilled);
        self.perhaps_crash()?;
        if self.mutation == Some(Mutation::EarlyAcknowledgement) {
            engine.windows[node].acknowledge(self.servers[node].end);
        }
        engine.acknowledge();
        let link = &engine.links[origin];
        let (end, clock, seen) = (link.position, link.clock.value(), link.seen.clone());
        if !self.draining && self.random.percent(5) {
            let marker = Marker {
                position: end,
                clock,
                seen: seen[node].position,
                seen_clock: seen[node].clock,
                ..self.servers[node].marks[origin].marker.clone()
            };
            let seen = seen.clone();
            self.commit_mark([node, origin], Mark { marker, seen });
            self.perhaps_crash()?;
        }
        let marker = &self.servers[node].marks[origin].marker;
        let record = LinkRecord {
            marker: marker.position,
            transactions: marker.transactions,
            gtid: String::new(),
            settled: end,
            clock,
            seen: seen[node].position,
            seen_clock: seen[node].clock,
            log_birth: 0,
            marked: None,
            numbered: None,
            xa_from: None,
        };
        self.stores[node][origin].push(Stored { record, seen });
        self.engines[node] = Some(engine);
        Ok(())
    }

    pub(crate) fn commit_mark(&mut self, [node, origin]: [usize; 2], mark: Mark) {
        self.servers[node].marks[origin] = mark.clone();
        self.commit(node, Body::Applied(origin, Box::new(mark)));
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
