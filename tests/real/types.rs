//! Every column type of each server, with random and edge values, written at both nodes and carried
//! by the engines both ways, under each form that the log may have.

use mysql_async::prelude::Queryable;
use twinlog_cli::sandbox::ServerKind;
use twinlog_engine::decode::event::Flavor;
use twinlog_harness::{Pair, PairOptions};

use crate::fidelity::columns::{Dice, tables};
use crate::fidelity::workload;

/// Distance between the ids of the two nodes.
const APART: usize = 1_000_000;

async fn carried(kind: ServerKind, extra_args: &[&str], rows: usize) {
    let seed = std::env::var("TWINLOG_SEED").map_or(7, |seed| seed.parse().unwrap());
    println!("TWINLOG_SEED={seed}");
    let flavor = match kind {
        ServerKind::MariaDb => Flavor::MariaDb,
        ServerKind::MySql => Flavor::MySql,
    };
    let mut options = PairOptions::new(kind);
    options.extra_args = extra_args.iter().map(|arg| (*arg).to_owned()).collect();
    let tables = tables(flavor);
    let mut schema = "CREATE DATABASE types CHARACTER SET utf8mb4".to_owned();
    for table in &tables {
        schema.push_str(";\n");
        schema.push_str(&table.create("types"));
    }
    // What the JSON values of the generator are made from; it is only read.
    schema.push_str(
        ";\nCREATE DATABASE fidelity_src; CREATE TABLE fidelity_src.opaque (c1 TIMESTAMP(6) NULL, \
         c2 BLOB, c3 TINYBLOB, c4 MEDIUMBLOB, c5 BIT(9), c6 BINARY(3), c7 LONGBLOB); INSERT INTO \
         fidelity_src.opaque VALUES ('2024-02-29 10:11:12.000013', x'ff00', 'tiny', 'medium', 257, \
         'a', 'long')",
    );
    let pair = Pair::start(&options, &schema).await;
    // Each node changes its own rows, then, once it has them, those of the other.
    for round in 0..2 {
        let write = async |node: usize| {
            let mut conn = pair.servers[node].connect().await.unwrap();
            conn.query_drop(
                "SET NAMES utf8mb4, sql_mode='ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO', \
                 time_zone='-03:00'",
            )
            .await
            .unwrap();
            let mut dice = Dice::new(seed * 100 + 10 * round + node as u64);
            let owner = (node + usize::try_from(round).unwrap()) % 2;
            for table in &tables {
                if round == 1 {
                    let gone = format!(
                        "DELETE FROM types.{} WHERE id BETWEEN {} AND {}",
                        table.name,
                        owner * APART,
                        owner * APART + APART - 1
                    );
                    conn.query_drop(gone).await.unwrap();
                }
                workload(&mut conn, "types", table, (owner * APART, rows), &mut dice)
                    .await
                    .unwrap();
            }
        };
        tokio::join!(write(0), write(1));
        pair.wait().await;
        pair.assert_equal().await;
    }
    pair.assert_no_loops();
    let written: u64 = pair.links().iter().map(|link| link.applied_rows).sum();
    assert!(
        written as usize > rows * tables.len() * 6,
        "only {written} changes"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_carries_every_type() {
    carried(ServerKind::MariaDb, &[], 250).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_carries_every_type() {
    carried(ServerKind::MySql, &[], 250).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_carries_compressed_logs_without_metadata_or_checksums() {
    let args = [
        "--log-bin-compress=ON",
        "--log-bin-compress-min-len=10",
        "--binlog-row-metadata=NO_LOG",
        "--binlog-checksum=NONE",
    ];
    carried(ServerKind::MariaDb, &args, 60).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_carries_compressed_logs_without_metadata_or_checksums() {
    let args = [
        "--binlog-transaction-compression=ON",
        "--binlog-row-metadata=MINIMAL",
        "--binlog-row-value-options=PARTIAL_JSON",
        "--binlog-checksum=NONE",
    ];
    carried(ServerKind::MySql, &args, 60).await;
}
