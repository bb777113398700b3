//! What the window of local writes costs: a claim recorded by the tailer, a key asked for before an apply.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use twinlog_engine::conflict::claim::ClaimKind;
use twinlog_engine::conflict::key::{KeyHash, TableHash};
use twinlog_engine::conflict::window::Window;
use twinlog_engine::position::LogPos;

/// Keys in the window: what a busy node writes in the second or two that its peer is behind.
const KEYS: u64 = 20_000;
/// Keys of one transaction.
const PER_TRANSACTION: u64 = 4;

fn keys(from: u64) -> Vec<KeyHash> {
    // Spread like hashes are: the multiplier is odd, so that no two numbers give the same one.
    (from..from + KEYS)
        .filter_map(|number| {
            let half = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            KeyHash::from_hex(&format!("{half:016x}{number:016x}"))
        })
        .collect()
}

fn filled(keys: &[KeyHash], window: Window) -> Window {
    let table = TableHash::new("bench", "sbtest1");
    for (number, keys) in (1..).zip(keys.chunks(PER_TRANSACTION as usize)) {
        let claims = keys.iter().map(|key| (*key, ClaimKind::Image));
        let recorded = window.record(LogPos::new(1, number * 500), number, claims, [table]);
        assert!(recorded.is_ok());
    }
    window
}

fn window(criterion: &mut Criterion) {
    let (own, others) = (keys(0), keys(KEYS));
    let empty = || Window::new(LogPos::new(1, 4));
    let mut group = criterion.benchmark_group("window");
    group.throughput(Throughput::Elements(KEYS));
    group.bench_function("record", |bencher| {
        bencher.iter_batched(empty, |window| filled(&own, window), BatchSize::LargeInput);
    });
    let window = filled(&own, empty());
    let seen = LogPos::new(1, 4);
    assert!(window.concurrent_write(own[0], seen).is_some());
    for (name, keys) in [("ask, not there", &others), ("ask, there", &own)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for key in keys {
                    let _ = black_box(window.concurrent_write(*key, seen));
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, window);
criterion_main!(benches);
