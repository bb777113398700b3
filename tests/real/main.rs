//! Tests against real servers. They need what `tests/servers/fetch` gets; without it they fail
//! rather than skip.

// The setting for tests covers only functions marked as tests, not what they share; a panic is how
// any of them fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

/// Makes a test of each function on each kind of server.
macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        mod mariadb {
            $(#[tokio::test(flavor = "multi_thread")] async fn $test() {
                super::$test(super::ServerKind::MariaDb).await;
            })*
        }
        mod mysql {
            $(#[tokio::test(flavor = "multi_thread")] async fn $test() {
                super::$test(super::ServerKind::MySql).await;
            })*
        }
    };
}

mod changed_columns;
mod check;
mod compare;
mod conflicts;
mod ddl_recognition;
mod definition;
mod demo;
mod differential;
mod fidelity;
mod foreign_keys;
mod hot_rows;
mod huge;
mod keys;
mod lanes;
mod lost_log;
mod merging;
mod outcomes;
mod recovery;
mod row_events;
mod sandbox;
mod spine;
mod statements;
mod stopping;
mod sysbench;
mod truncating;
mod types;
mod workload;
mod xa;

use std::path::Path;
use std::time::{Duration, Instant};

/// Where the servers of tests have their folders.
fn base() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// Waits for a condition; fails when it does not come true in time.
async fn until(deadline: Duration, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < deadline, "not within {deadline:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
