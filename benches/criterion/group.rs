//! How fast the changes of a group become few steps (coalescing), and the steps statements.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use twinlog_benches::group::{CHANGES, Group};
use twinlog_engine::apply::encode::encode;
use twinlog_engine::decode::event::Flavor;
use twinlog_engine::group::{Step, coalesced, one_by_one};

fn group(criterion: &mut Criterion) {
    for (name, unique) in [("row key only", false), ("unique key", true)] {
        let group = match Group::new(unique) {
            Ok(group) => group,
            Err(error) => {
                assert_eq!(error.to_string(), "", "the table must fit");
                return;
            }
        };
        let merged = coalesced(group.mapped());
        let single = one_by_one(group.mapped());
        let rows: usize = merged.iter().map(rows).sum();
        assert!(rows < CHANGES, "nothing is merged");

        let mut plan = criterion.benchmark_group("plan");
        plan.throughput(Throughput::Elements(CHANGES as u64));
        plan.bench_function(name, |bencher| {
            bencher.iter(|| black_box(coalesced(group.mapped())));
        });
        plan.finish();

        let mut statements = criterion.benchmark_group("statements");
        for (way, steps, rows) in [("merged", &merged, rows), ("one by one", &single, CHANGES)] {
            // The same for both but where a unique key forbids what they share.
            if unique && way == "one by one" {
                continue;
            }
            statements.throughput(Throughput::Elements(rows as u64));
            statements.bench_function(format!("{way}, {name}"), |bencher| {
                bencher.iter(|| {
                    let written = encode(steps, Flavor::MySql);
                    assert!(written.is_ok());
                    black_box(written)
                });
            });
        }
        statements.finish();
    }
}

/// Rows that a step writes.
fn rows(step: &Step<'_>) -> usize {
    match step {
        Step::Insert(_, rows) | Step::Delete(_, rows) => rows.len(),
        Step::Upsert(_, rows) => rows.len(),
        Step::Update(..) => 1,
        Step::Lock(..) => 0,
    }
}

criterion_group!(benches, group);
criterion_main!(benches);
