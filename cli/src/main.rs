//! The `twinlog` program.
fn main() {}
