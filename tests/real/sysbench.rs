//! sysbench on both nodes at once: everything that one wrote is applied at the other, once.
//!
//! `TWINLOG_SYSBENCH_SECONDS` sets how long (default 8).

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;
use twinlog_cli::sandbox::ServerKind;
use twinlog_harness::{Pair, PairOptions};

const TABLES: u32 = 4;
const ROWS: u32 = 20_000;

fn sysbench(port: u16, node: u32, seconds: u32, command: &str) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("workload/oltp_write_only_range.lua");
    let mut sysbench = Command::new("sysbench");
    sysbench
        .arg(script)
        .args([
            "--db-driver=mysql",
            "--mysql-host=127.0.0.1",
            "--mysql-user=root",
        ])
        .args(["--mysql-db=sbtest", "--threads=8", "--report-interval=0"])
        .args([
            format!("--mysql-port={port}"),
            format!("--tables={TABLES}"),
            format!("--table-size={ROWS}"),
            format!("--first_id={}", 1 + node * ROWS / 2),
            format!("--range_size={}", ROWS / 2),
            format!("--time={seconds}"),
        ])
        .arg(command)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    sysbench
}

/// Transactions that sysbench says it did.
fn transactions(output: &str) -> u64 {
    output
        .lines()
        .find_map(|line| line.trim().strip_prefix("transactions:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("no count in sysbench's output:\n{output}"))
}

async fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .await
        .expect("sysbench is installed by tests/servers/fetch");
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    text
}

async fn two_way(kind: ServerKind) {
    let seconds = std::env::var("TWINLOG_SYSBENCH_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(8);
    let mut options = PairOptions::new(kind);
    // sysbench's old client library knows only this way to log in, and the rows' ids are given.
    options.extra_args = vec!["--innodb-autoinc-lock-mode=2".to_owned()];
    let mut pair = Pair::start(&options, "CREATE DATABASE sbtest").await;
    // Tables and rows go through the link as well: DDL and large transactions.
    run(&mut sysbench(pair.servers[0].port(), 0, seconds, "prepare")).await;
    pair.wait().await;
    pair.assert_equal().await;
    let before = [
        pair.link_to(0).applied_transactions,
        pair.link_to(1).applied_transactions,
    ];
    let (mut on_a, mut on_b) = (
        sysbench(pair.servers[0].port(), 0, seconds, "run"),
        sysbench(pair.servers[1].port(), 1, seconds, "run"),
    );
    let (a, b) = tokio::join!(run(&mut on_a), run(&mut on_b));
    let stopped = std::time::Instant::now();
    pair.wait().await;
    let drained = stopped.elapsed();
    pair.assert_equal().await;
    pair.assert_no_loops();
    let written = [transactions(&a), transactions(&b)];
    let links = [pair.link_to(0), pair.link_to(1)];
    println!(
        "{kind}: {seconds} s on both nodes: a wrote {} transactions, b {}; drained {:.2} s after; \
         equal; commits at a {}, at b {}; retries {} and {}; regrouped {} and {}",
        written[0],
        written[1],
        drained.as_secs_f64(),
        links[0].commits,
        links[1].commits,
        links[0].retries,
        links[1].retries,
        links[0].regrouped,
        links[1].regrouped,
    );
    assert_eq!(
        links[0].applied_transactions - before[0],
        written[1],
        "{:#?}",
        links[0]
    );
    assert_eq!(
        links[1].applied_transactions - before[1],
        written[0],
        "{:#?}",
        links[1]
    );
    assert_eq!(links[0].returned + links[1].returned, 0);
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_two_way_sysbench() {
    two_way(ServerKind::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_two_way_sysbench() {
    two_way(ServerKind::MySql).await;
}
