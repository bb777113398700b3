//! The real program under everything that may befall two masters in two places: killed engines,
//! killed servers, a broken network, a damaged store. What the clients wrote must have taken effect
//! exactly once at each node.

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

mod crash;
mod disk;
mod failpoints;
mod huge;
mod network;
mod prepared;
mod store;
mod storm;

/// The program under test.
const TWINLOG: &str = env!("CARGO_BIN_EXE_twinlog");

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}
