//! How fast the decoder turns bytes of captured logs into typed rows.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use twinlog_benches::events;
use twinlog_engine::decode::Decoder;
use twinlog_engine::decode::event::Flavor;

fn decode(criterion: &mut Criterion) {
    let logs: [(&str, Flavor, &[u8]); 2] = [
        (
            "mysql-9.7",
            Flavor::MySql,
            include_bytes!("../../engine/fixtures/mysql-9.7.binlog"),
        ),
        (
            "mariadb-10.11",
            Flavor::MariaDb,
            include_bytes!("../../engine/fixtures/mariadb-10.11.binlog"),
        ),
    ];
    let mut group = criterion.benchmark_group("decode");
    for (name, flavor, file) in logs {
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
