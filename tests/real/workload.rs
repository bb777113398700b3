//! The workload's counters are what other tests measure the engine against, so they are measured
//! against the server here.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use twinlog_cli::sandbox::{Server, ServerKind, ServerOptions};
use twinlog_cli::workload::{Counters, DATABASE, Params, Workload, create_schema};

use crate::{base, until};

async fn started(kind: ServerKind) -> Server {
    let server = Server::start(kind, base(), ServerOptions::node("load", 1, 2))
        .await
        .unwrap();
    let mut conn = server.connect().await.unwrap();
    create_schema(&mut conn, DATABASE).await.unwrap();
    conn.disconnect().await.unwrap();
    server
}

/// Transactions that MySQL has logged.
async fn logged(server: &Server) -> u64 {
    let set: Vec<String> = server.query("SELECT @@global.gtid_executed").await.unwrap();
    let (_, last) = set[0].rsplit_once(['-', ':']).unwrap();
    last.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_counted_transaction_is_one_of_the_log() {
    let server = started(ServerKind::MySql).await;
    let before = logged(&server).await;
    let counters = Arc::new(Counters::default());
    let stop = CancellationToken::new();
    let load = Workload::new(server.opts(), Params::new(4, 0, 7));
    let run = load.run(stop.clone(), Arc::clone(&counters));
    let end = async {
        until(Duration::from_secs(60), || counters.transactions() > 1500).await;
        stop.cancel();
    };
    let (result, ()) = tokio::join!(run, end);
    result.unwrap();
    assert_eq!(logged(&server).await - before, counters.transactions());
    assert!(counters.rows() > counters.transactions());
    assert_eq!(counters.in_doubt(), 0);
    for table in ["customer", "purchase", "purchase_line", "stock", "visit"] {
        let rows: Vec<u64> = server
            .query(&format!("SELECT COUNT(*) FROM {DATABASE}.{table}"))
            .await
            .unwrap();
        assert!(rows[0] > 0, "{table} is empty");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_come_back_after_the_server_was_killed() {
    let mut server = started(ServerKind::MariaDb).await;
    let counters = Arc::new(Counters::default());
    let stop = CancellationToken::new();
    let mut params = Params::new(3, 1, 8);
    params.reconnect = true;
    let load = Workload::new(server.opts(), params);
    let run = load.run(stop.clone(), Arc::clone(&counters));
    let faults = async {
        until(Duration::from_secs(60), || counters.transactions() > 100).await;
        server.kill9().await;
        server.start_again().await.unwrap();
        let before = counters.transactions();
        until(Duration::from_secs(60), || {
            counters.transactions() > before + 100
        })
        .await;
        stop.cancel();
    };
    let (result, ()) = tokio::join!(run, faults);
    result.unwrap();
}

#[tokio::test]
async fn a_broken_connection_ends_a_run_that_may_not_reconnect() {
    let mut server = started(ServerKind::MariaDb).await;
    let counters = Arc::new(Counters::default());
    let load = Workload::new(server.opts(), Params::new(2, 0, 9));
    let run = load.run(CancellationToken::new(), Arc::clone(&counters));
    let fault = async {
        until(Duration::from_secs(60), || counters.transactions() > 20).await;
        server.kill9().await;
    };
    let (result, ()) = tokio::join!(run, fault);
    assert!(result.is_err());
}
