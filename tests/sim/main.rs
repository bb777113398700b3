//! A deterministic simulator of two and three nodes: the engine's own clock, window, key hashing, detection,
//! resolution and reconciliation against a model of two servers. See docs/conflicts.md.
//!
//! A failing seed prints the command that replays it. `make sim SEEDS=1000000` runs long.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod apply;
mod check;
mod clients;
mod engine;
mod random;
mod server;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use apply::KINDS;
use world::{Mutation, Tally, World};

fn run(seed: u64, mutation: Option<Mutation>) -> Result<Tally, String> {
    World::new(seed, mutation).run()
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs seeds on all cores; panics with the first failing one's replay command.
fn run_seeds(first: u64, count: u64) {
    let started = Instant::now();
    let next = AtomicU64::new(first);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut tally = Tally::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                return tally;
            }
            match run(seed, None) {
                Ok(this) => tally.add(this),
                Err(problem) => panic!(
                    "seed {seed}: {problem}\nreplay: TWINLOG_SIM_SEED={seed} cargo test -p \
                     twinlog-tests --test sim -- --ignored replay"
                ),
            }
        }
    };
    let mut total = Tally::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            total.add(worker.join().unwrap());
        }
    });
    println!("{count} seeds in {:?}: {total:?}", started.elapsed());
    // A simulator that meets nothing proves nothing.
    assert!(total.conflicts > count, "too few conflicts: {total:?}");
    assert!(total.races > count / 10, "too few races: {total:?}");
    assert!(total.crashes > count / 100, "too few crashes: {total:?}");
    assert!(total.spilled > count / 10, "too little on disk: {total:?}");
    assert!(
        total.kinds[..KINDS].iter().all(|kind| *kind > 0),
        "a kind of conflict never came up: {total:?}"
    );
}

#[test]
fn nodes_converge_whatever_happens() {
    let first = from_environment("TWINLOG_SIM_FIRST").unwrap_or(0);
    let count = from_environment("TWINLOG_SIM_SEEDS").unwrap_or(20_000);
    run_seeds(first, count);
}

#[test]
#[ignore = "runs one seed, given in TWINLOG_SIM_SEED"]
fn replay() {
    let seed = from_environment("TWINLOG_SIM_SEED").expect("TWINLOG_SIM_SEED must hold a seed");
    match World::new(seed, None).traced().run() {
        Ok(tally) => println!("seed {seed}: {tally:?}"),
        Err(problem) => panic!("seed {seed}: {problem}"),
    }
}

/// The simulator must find the mutation within so many seeds, and what it finds must say
/// this. What a mutation breaks at last is that the nodes differ; some are caught on the way there.
fn finds(mutation: Mutation, problem_says: &str, seeds: u64) {
    let mut found = Vec::new();
    for seed in 0..seeds {
        if let Err(problem) = run(seed, Some(mutation)) {
            if problem.contains(problem_says) {
                println!("{mutation:?} found by seed {seed}: {problem}");
                return;
            }
            found.push(problem);
        }
    }
    found.truncate(3);
    panic!("{mutation:?} was not found so within {seeds} seeds, but: {found:#?}");
}

#[test]
fn finds_raw_wall_clocks() {
    finds(Mutation::RawWallClock, "INV-CONVERGE", 500);
}

#[test]
fn finds_unique_keys_left_out() {
    // The server itself would refuse the row, and the link stop.
    finds(Mutation::NoUniqueKeys, "a unique value is taken", 500);
}

#[test]
fn finds_releases_taken_for_claims() {
    finds(Mutation::ReleasesClaim, "INV-CONVERGE", 2000);
}

#[test]
fn finds_the_guard_left_out() {
    finds(Mutation::NoGuard, "INV-CONVERGE", 500);
}

#[test]
fn finds_locks_left_out() {
    finds(Mutation::NoLocks, "INV-CONVERGE", 2000);
}

#[test]
fn finds_forgotten_tombstones() {
    finds(Mutation::NoTombstones, "INV-CONVERGE", 500);
}

#[test]
fn finds_late_arrivals_that_displace_nothing() {
    finds(Mutation::NoLateDisplacement, "INV-CONVERGE", 2000);
}

#[test]
fn finds_updates_left_out_for_a_missing_row() {
    finds(Mutation::UpdatesNeedTheirRow, "INV-CONVERGE", 2000);
}

#[test]
fn finds_early_acknowledgement() {
    finds(Mutation::EarlyAcknowledgement, "INV-CONVERGE", 500);
}

#[test]
fn finds_histories_that_are_not_read_again() {
    finds(Mutation::HistoriesForgotten, "INV-CONVERGE", 5000);
}

#[test]
fn finds_merged_writes_left_out_of_the_history() {
    finds(Mutation::NoHistory, "INV-CONVERGE", 5000);
}

#[test]
fn finds_children_written_though_their_parent_was_deleted() {
    finds(Mutation::OrphansStand, "without its parent", 500);
}

#[test]
fn finds_parents_deleted_under_their_children() {
    finds(Mutation::ChildrenStay, "without its parent", 500);
}

#[test]
fn finds_transactions_applied_in_front_of_what_they_had_seen() {
    finds(Mutation::NoCausalOrder, "without a concurrent claim", 500);
}

#[test]
fn finds_third_nodes_left_out() {
    finds(Mutation::ThirdNodesForgotten, "INV-CONVERGE", 1000);
}

#[test]
fn finds_third_nodes_not_read_again() {
    finds(Mutation::ThirdNodesNotReadAgain, "INV-CONVERGE", 5000);
}

#[test]
fn finds_rows_put_into_a_table_that_was_emptied() {
    finds(Mutation::EmptiedForgotten, "INV-CONVERGE", 1000);
}

#[test]
fn finds_rows_that_a_truncate_takes_along() {
    finds(Mutation::EmptiedWhole, "INV-CONVERGE", 1000);
}

#[test]
fn finds_merged_plans_that_do_not_lock_all_their_rows() {
    finds(Mutation::PlanLocksNothing, "INV-NO-SILENCE", 5000);
}

#[test]
fn finds_priority_that_goes_round() {
    finds(Mutation::PairwisePriority, "INV-CONVERGE", 20_000);
}
