//! How fast decoded events of captured logs become whole transactions.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use twinlog_benches::{LOGS, events};
use twinlog_engine::assemble::Assembler;
use twinlog_engine::decode::Decoder;
use twinlog_engine::decode::event::{Event, Flavor};
use twinlog_engine::position::LogPos;
use twinlog_engine::source::Placed;
use twinlog_engine::spill::Room;

/// Nothing here is large enough to be spilled.
fn room() -> Room {
    Room::new(&std::env::temp_dir(), usize::MAX)
}

/// The log's events, each at its place, up to the first one that the assembler refuses by design (a
/// sequence).
fn placed(flavor: Flavor, file: &[u8]) -> Vec<Placed> {
    let mut decoder = Decoder::new(flavor);
    let mut at = LogPos::new(1, 4);
    let mut all = Vec::new();
    let mut assembler = Assembler::new(Arc::from("a"), flavor, "twinlog", room());
    for (header, body) in events(file) {
        let Ok(event) = decoder.decode(&header, &body) else {
            break;
        };
        let end = at.advanced_to(header.end_log_pos);
        let inside = match event {
            Event::Payload(inner) => inner,
            other => vec![(header, other)],
        };
        for (header, event) in inside {
            let placed = Placed {
                start: at,
                end,
                header,
                event,
            };
            if assembler.take(copy(&placed)).is_err() {
                return all;
            }
            all.push(placed);
        }
        at = end;
    }
    all
}

fn copy(placed: &Placed) -> Placed {
    Placed {
        start: placed.start,
        end: placed.end,
        header: placed.header,
        event: placed.event.clone(),
    }
}

fn assemble(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("assemble");
    for (name, flavor, file) in LOGS {
        let events = placed(flavor, file);
        assert!(events.len() > 20, "{name}: {} events", events.len());
        group.throughput(Throughput::Elements(events.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || events.iter().map(copy).collect::<Vec<_>>(),
                |events| {
                    let mut assembler = Assembler::new(Arc::from("a"), flavor, "twinlog", room());
                    for placed in events {
                        let _ = black_box(assembler.take(placed));
                    }
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, assemble);
criterion_main!(benches);
