//! Micro-benchmarks of the engine live in this package; see the `[[bench]]` targets.
