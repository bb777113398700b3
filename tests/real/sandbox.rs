//! The sandbox itself: servers that come up, die, come back and leave nothing behind.

use std::path::Path;
use std::time::Duration;

use twinlog_cli::sandbox::{Server, ServerKind, ServerOptions};

use crate::base;

/// A killed and reaped process has no folder in /proc; its id is not given out again so soon.
fn is_running(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

async fn survives_kill(kind: ServerKind) {
    let mut server = Server::start(kind, base(), ServerOptions::node("kill", 1, 2))
        .await
        .unwrap();
    let port = server.port();
    server
        .query_drop(
            "CREATE DATABASE d; CREATE TABLE d.t (id INT AUTO_INCREMENT PRIMARY KEY, v INT);
             INSERT INTO d.t (v) VALUES (1), (2), (3)",
        )
        .await
        .unwrap();

    let first = server.pid();
    server.kill9().await;
    assert!(!is_running(first));
    assert_eq!(server.pid(), 0);
    assert!(server.connect().await.is_err());

    server.start_again().await.unwrap();
    assert_eq!(server.port(), port);
    assert_ne!(server.pid(), first);
    assert!(
        server.start_again().await.is_err(),
        "two servers on one data directory"
    );
    let rows: Vec<(i32, i32)> = server.query("SELECT id, v FROM d.t").await.unwrap();
    assert_eq!(rows, [(1, 1), (3, 2), (5, 3)], "offset 1, increment 2");

    server
        .restart_with(&["--server-id=77".to_owned()])
        .await
        .unwrap();
    let ids: Vec<u32> = server.query("SELECT @@server_id").await.unwrap();
    assert_eq!(ids, [77], "extra arguments win");

    let (pid, dir) = (server.pid(), server.datadir().to_owned());
    assert!(is_running(pid));
    drop(server);
    assert!(!is_running(pid));
    assert!(!dir.exists());
}

#[tokio::test]
async fn mariadb_survives_kill() {
    survives_kill(ServerKind::MariaDb).await;
}

#[tokio::test]
async fn mysql_survives_kill() {
    survives_kill(ServerKind::MySql).await;
}

#[tokio::test]
async fn two_servers_are_two_identities() {
    let options = |offset| ServerOptions::node("pair", offset, 2);
    let (a, b) = tokio::join!(
        Server::start(ServerKind::MySql, base(), options(1)),
        Server::start(ServerKind::MySql, base(), options(2)),
    );
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_ne!(a.port(), b.port());
    let uuid = "SELECT @@server_uuid";
    assert_ne!(
        a.query::<String>(uuid).await.unwrap(),
        b.query::<String>(uuid).await.unwrap()
    );
    for (server, offset) in [(&a, 1_u32), (&b, 2)] {
        let settings: Vec<(u32, u32, u32, String, String)> = server
            .query(
                "SELECT @@server_id, @@auto_increment_increment, @@auto_increment_offset,
                        @@gtid_mode, CONCAT(@@binlog_row_metadata, @@binlog_row_image)",
            )
            .await
            .unwrap();
        assert_eq!(
            settings,
            [(offset, 2, offset, "ON".to_owned(), "FULLFULL".to_owned())]
        );
    }
}

#[tokio::test]
async fn mariadb_logs_what_a_master_must() {
    let mut options = ServerOptions::node("settings", 2, 3);
    options.durable = true;
    let server = Server::start(ServerKind::MariaDb, base(), options)
        .await
        .unwrap();
    let settings: Vec<(String, u32, u32, u32, u32)> = server
        .query(
            "SELECT CONCAT_WS(' ', @@log_bin, @@binlog_format, @@binlog_row_image,
                              @@binlog_row_metadata, @@log_slave_updates),
                    @@auto_increment_increment, @@auto_increment_offset, @@sync_binlog,
                    @@innodb_flush_log_at_trx_commit",
        )
        .await
        .unwrap();
    assert_eq!(settings, [("ON ROW FULL FULL ON".to_owned(), 3, 2, 1, 1)]);
    let anonymous: Vec<u64> = server
        .query("SELECT COUNT(*) FROM mysql.global_priv WHERE User = ''")
        .await
        .unwrap();
    assert_eq!(anonymous, [0]);
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    let mut options = ServerOptions::node("broken", 1, 1);
    options.extra_args = vec!["--no-such-option-anywhere=1".to_owned()];
    let begun = std::time::Instant::now();
    let error = Server::start(ServerKind::MariaDb, base(), options)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("no-such-option-anywhere"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(30), "it did not wait");
}

#[tokio::test]
async fn a_panic_leaves_no_server_behind() {
    let (tell, told) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(async move {
        let server = Server::start(
            ServerKind::MariaDb,
            base(),
            ServerOptions::node("panic", 1, 1),
        )
        .await
        .unwrap();
        tell.send(server.pid()).unwrap();
        panic!("on purpose");
    });
    assert!(task.await.unwrap_err().is_panic());
    assert!(!is_running(told.await.unwrap()));
}
