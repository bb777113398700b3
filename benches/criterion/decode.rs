//! How fast the decoder turns bytes of captured logs into typed rows.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use twinlog_benches::{LOGS, events};
use twinlog_engine::decode::Decoder;

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for (name, flavor, file) in LOGS {
        let events = events(file);
        group.throughput(Throughput::Bytes(file.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut decoder = Decoder::new(flavor);
                for (header, body) in &events {
                    let _ = black_box(decoder.decode(header, body));
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
