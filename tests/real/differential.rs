//! The engines beside the servers' own replication: random tables and random transactions go from
//! each node to the other through twinlog, and from node a to a replica of the server's own. All
//! three must hold the same rows, and the same tables.

mod random;

use std::path::Path;
use std::time::{Duration, Instant};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use twinlog_cli::bench::native;
use twinlog_cli::compare::compare;
use twinlog_cli::sandbox::{Server, ServerKind, ServerOptions};
use twinlog_engine::decode::event::Flavor;
use twinlog_engine::init;
use twinlog_harness::{Pair, PairOptions};

use crate::fidelity::columns::Dice;
use random::{RandomTable, Statements};

/// Rounds, each with tables of its own, where `TWINLOG_DIFFERENTIAL_ROUNDS` says nothing.
const ROUNDS: u64 = 2;
/// Tables that each node writes in a round.
const TABLES: usize = 3;
/// Transactions of each node in a round.
const TRANSACTIONS: usize = 30;
/// How long the replica may take for a round.
const PATIENCE: Duration = Duration::from_secs(60);

on_both!(all_hold_the_same_rows, all_hold_the_same_rows_by_row_events);

async fn all_hold_the_same_rows(kind: ServerKind) {
    differential(PairOptions::new(kind)).await;
}

/// Through BINLOG, where a table's rows may go that way. The other test has what SQL makes of the same rows.
async fn all_hold_the_same_rows_by_row_events(kind: ServerKind) {
    let mut options = PairOptions::new(kind);
    options.replication = "row_events = \"always\"".to_owned();
    let pair = differential(options).await;
    for node in [0, 1] {
        assert!(crate::row_events::statements(&pair, node).await > 50);
    }
}

async fn differential(options: PairOptions) -> Pair {
    let seed = number("TWINLOG_SEED").unwrap_or(5);
    let rounds = number("TWINLOG_DIFFERENTIAL_ROUNDS").unwrap_or(ROUNDS);
    println!("TWINLOG_SEED={seed}, {rounds} rounds");
    let mut pair = Pair::servers(&options).await;
    let replica = replica_of(&pair.servers[0], pair.folder()).await;
    init::init(&pair.config, false).await.unwrap();
    pair.start_engine(0).await;
    pair.start_engine(1).await;
    // What the JSON values of the generator are made from; it is only read.
    pair.run(
        0,
        "CREATE DATABASE fidelity_src; CREATE TABLE fidelity_src.opaque (c1 TIMESTAMP(6) NULL, c2 \
         BLOB, c3 TINYBLOB, c4 MEDIUMBLOB, c5 BIT(9), c6 BINARY(3), c7 LONGBLOB, c8 INT PRIMARY \
         KEY); INSERT INTO fidelity_src.opaque VALUES ('2024-02-29 10:11:12.000013', x'ff00', \
         'tiny', 'medium', 257, 'a', 'long', 1)",
    )
    .await;
    pair.wait().await;
    for round in 0..rounds {
        println!("TWINLOG_SEED={} is this round's", seed + round);
        let database = format!("differential_{round}");
        pair.run(0, &format!("CREATE DATABASE {database}")).await;
        pair.wait().await;
        let (a, b) = tokio::join!(
            write(&pair.servers[0], &database, 0, seed + round),
            write(&pair.servers[1], &database, 1, seed + round),
        );
        for statements in [a, b] {
            assert!(
                statements.done > statements.refused,
                "{statements:?}: the generator writes too little that is valid"
            );
        }
        pair.wait().await;
        catch_up(&replica, &pair.servers[0]).await;
        let [node_a, node_b] = &pair.servers;
        assert_same(&database, node_a, node_b).await;
        assert_same(&database, node_a, &replica).await;
        pair.run(0, &format!("DROP DATABASE {database}")).await;
    }
    pair.wait().await;
    pair.assert_no_loops();
    let changes: u64 = pair.links().iter().map(|link| link.applied_rows).sum();
    assert!(changes > rounds * 100, "only {changes} changes");
    pair
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|text| text.parse().unwrap())
}

/// A server that replicates from `source`, from the beginning of its log.
async fn replica_of(source: &Server, folder: &Path) -> Server {
    let options = ServerOptions::node("replica", 3, 3);
    let replica = Server::start(source.kind(), folder, options).await.unwrap();
    let from = native::log_end(source).await.unwrap();
    native::set_up(&replica, source, &from, 1).await.unwrap();
    let start = native::start(source.kind());
    replica.query_drop(start).await.unwrap();
    replica
}

/// Waits until the replica has all that its source has logged.
async fn catch_up(replica: &Server, source: &Server) {
    let end = native::log_end(source).await.unwrap();
    let function = match source.kind() {
        ServerKind::MariaDb => "MASTER_POS_WAIT",
        ServerKind::MySql => "SOURCE_POS_WAIT",
    };
    let wait = format!("SELECT {function}('{}', {}, 1)", end.file, end.offset);
    let mut conn = replica.connect().await.unwrap();
    let begun = Instant::now();
    loop {
        let waited: Option<Option<i64>> = conn.query_first(&wait).await.unwrap();
        if waited.flatten().is_some_and(|events| events >= 0) {
            break;
        }
        let trouble = native::trouble(&mut conn, source.kind()).await.unwrap();
        assert!(
            trouble.is_none(),
            "the server's own replication: {trouble:?}"
        );
        assert!(begun.elapsed() < PATIENCE, "the replica does not catch up");
    }
    conn.disconnect().await.unwrap();
}

/// Makes the tables of a node and writes them.
async fn write(server: &Server, database: &str, node: usize, seed: u64) -> Statements {
    let flavor = match server.kind() {
        ServerKind::MariaDb => Flavor::MariaDb,
        ServerKind::MySql => Flavor::MySql,
    };
    let mut dice = Dice::new(seed * 2 + node as u64);
    let mut conn = server.connect().await.unwrap();
    conn.query_drop(
        "SET NAMES utf8mb4, sql_mode='ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO', \
         time_zone='-03:00'",
    )
    .await
    .unwrap();
    conn.query_drop(format!("USE {database}")).await.unwrap();
    let mut tables = Vec::new();
    while tables.len() < TABLES {
        let name = format!("t{node}_{}", tables.len());
        let table = RandomTable::new(name, flavor, &mut dice);
        // Some sets of columns make a row too long for the server.
        match conn.query_drop(table.create()).await {
            Ok(()) => {
                println!("{}", table.create());
                tables.push(table);
            }
            Err(mysql_async::Error::Server(error)) if matches!(error.code, 1118 | 1071) => {}
            Err(error) => panic!("{error}: {}", table.create()),
        }
    }
    let mut statements = Statements::default();
    for _ in 0..TRANSACTIONS {
        transaction(&mut conn, &tables, &mut dice, &mut statements).await;
    }
    conn.disconnect().await.unwrap();
    statements
}

async fn transaction(
    conn: &mut Conn,
    tables: &[RandomTable],
    dice: &mut Dice,
    statements: &mut Statements,
) {
    conn.query_drop("BEGIN").await.unwrap();
    let count = 1 + dice.below(8);
    let saved = (dice.below(8) == 0).then(|| dice.below(count));
    for index in 0..count {
        if saved == Some(index) {
            conn.query_drop("SAVEPOINT before_it").await.unwrap();
        }
        let sql = tables[dice.below(tables.len())].statement(dice);
        statements.run(conn, &sql).await;
    }
    if saved.is_some() {
        conn.query_drop("ROLLBACK TO before_it").await.unwrap();
    }
    let end = if dice.below(10) == 0 {
        "ROLLBACK"
    } else {
        "COMMIT"
    };
    conn.query_drop(end).await.unwrap();
}

/// Both servers have the same tables in the database, with the same rows. Not by CHECKSUM TABLE
/// alone: MariaDB's changes from one call to the next where a table has a stored generated column.
async fn assert_same(database: &str, one: &Server, other: &Server) {
    let here = |name: &str| name == database;
    let (left, right) = ((one.name(), one.opts()), (other.name(), other.opts()));
    let comparison = compare(left, right, &here).await.unwrap();
    assert_eq!(comparison.tables.len(), 2 * TABLES);
    let differing: Vec<_> = comparison.differing().collect();
    assert!(
        differing.is_empty(),
        "{} and {} differ: {differing:#?}",
        one.name(),
        other.name()
    );
}
