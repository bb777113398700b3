//! `twinlog bench --config` between two servers that are there anyway: what it measures, what it
//! refuses, and that nothing of it is left.

use std::path::Path;
use std::process::Stdio;

use mysql_async::prelude::Queryable as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use twinlog_cli::sandbox::{Server, ServerKind, ServerOptions};

use crate::bench::until_it_writes;
use crate::{Ended, run, twinlog};

const PASSWORD: &str = "s3cret-of-the-bench";
const NODES: [&str; 2] = ["east", "west"];
const SMALL: [&str; 8] = [
    "--tables",
    "1",
    "--rows",
    "2000",
    "--threads",
    "2",
    "--config",
    "twinlog.toml",
];

/// Two servers with the account of a config file.
struct Own {
    servers: [Server; 2],
    folder: tempfile::TempDir,
}

impl Own {
    async fn start(kind: ServerKind) -> Self {
        let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let start = |node: usize| {
            let offset = if node == 0 { 1 } else { 2 };
            Server::start(kind, base, ServerOptions::node(NODES[node], offset, 2))
        };
        let (a, b) = tokio::join!(start(0), start(1));
        let servers = [a.unwrap(), b.unwrap()];
        let administrative = match kind {
            ServerKind::MySql => {
                "REPLICATION SLAVE, REPLICATION CLIENT, REPLICATION_APPLIER, SESSION_VARIABLES_ADMIN"
            }
            ServerKind::MariaDb => {
                "REPLICATION SLAVE, BINLOG MONITOR, BINLOG REPLAY, BINLOG ADMIN, SLAVE MONITOR"
            }
        };
        for server in &servers {
            server
                .query_drop(&format!(
                    "CREATE USER 'twinlog'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'; \
                     GRANT {administrative} ON *.* TO 'twinlog'@'127.0.0.1'; \
                     CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY)"
                ))
                .await
                .unwrap();
        }
        let own = Self {
            servers,
            folder: tempfile::tempdir().unwrap(),
        };
        std::fs::write(own.path().join("password"), PASSWORD).unwrap();
        own.configure("databases = [\"shop\"]");
        own
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn configure(&self, replication: &str) {
        let mut text = format!(
            "[engine]\ndata_dir = \"engines\"\nmemory = \"128MiB\"\n[replication]\n{replication}\n"
        );
        for (name, server) in NODES.iter().zip(&self.servers) {
            text.push_str(&format!(
                "[[node]]\nname = \"{name}\"\nurl = \"mysql://twinlog@127.0.0.1:{}\"\n\
                 password_file = \"password\"\n",
                server.port()
            ));
        }
        std::fs::write(self.path().join("twinlog.toml"), text).unwrap();
    }

    fn bench(&self, arguments: &[&str]) -> Ended {
        let mut all = vec!["bench"];
        all.extend(arguments);
        all.extend(SMALL);
        let ended = run(self.path(), &all);
        assert!(!ended.out.contains(PASSWORD) && !ended.err.contains(PASSWORD));
        assert!(!ended.err.contains("panicked"), "{}", ended.err);
        ended
    }

    /// It does nothing, and says this.
    async fn refuses(&self, arguments: &[&str], says: &[&str]) {
        let mut all = vec!["drain", "--transactions", "100", "--runs", "1"];
        all.extend(arguments);
        let ended = self.bench(&all);
        assert_eq!(ended.code, Some(1), "{} {}", ended.out, ended.err);
        for part in says {
            assert!(ended.err.contains(part), "{part:?}: {}", ended.err);
        }
    }

    /// Measures, with JSON and a page.
    async fn measures(&self, arguments: &[&str]) -> (Value, String) {
        let mut all = arguments.to_vec();
        all.extend(["--yes", "--json", "--report", "out.html", "--runs", "1"]);
        let ended = self.bench(&all);
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        assert!(ended.err.contains("2000 rows"), "{}", ended.err);
        self.nothing_left().await;
        let page = std::fs::read_to_string(self.path().join("out.html")).unwrap();
        assert!(
            page.contains("own replication is not measured"),
            "it says so"
        );
        (ended.json(), page)
    }

    async fn run(&self, node: usize, sql: &str) {
        self.servers[node].query_drop(sql).await.unwrap();
    }

    async fn databases(&self, node: usize) -> Vec<String> {
        let sql = "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME IN \
                   ('bench', 'twinlog_bench', 'twinlog') ORDER BY 1";
        self.servers[node].query(sql).await.unwrap()
    }

    async fn nothing_left(&self) {
        for node in 0..2 {
            assert!(self.databases(node).await.is_empty());
        }
        let left: Vec<_> = std::fs::read_dir(self.path().join("files"))
            .map(|folder| folder.flatten().collect())
            .unwrap_or_default();
        assert!(left.is_empty(), "{left:?}");
    }
}

async fn a_dbas_own_servers(kind: ServerKind) {
    let own = Own::start(kind).await;

    // What the account lacks is said as the statement that gives it, before anything is written.
    let says = ["GRANT SELECT", "ON `bench`.*", "ON `twinlog\\_bench`.*"];
    own.refuses(&["--yes"], &says).await;
    for server in &own.servers {
        let sql = "GRANT ALL ON bench.* TO 'twinlog'@'127.0.0.1'; \
                   GRANT ALL ON `twinlog\\_bench`.* TO 'twinlog'@'127.0.0.1'; \
                   GRANT SELECT ON twinlog.* TO 'twinlog'@'127.0.0.1'";
        server.query_drop(sql).await.unwrap();
    }
    // Nobody is there to ask.
    own.refuses(&[], &["--yes", "dropped in the end", "ms away"])
        .await;
    own.refuses(&["--yes", "--server-arg=--x"], &["--sandbox"])
        .await;
    own.refuses(&["--yes", "--set", "databases = [\"x\"]"], &["--set"])
        .await;
    own.nothing_left().await;

    let (facts, page) = own
        .measures(&["drain", "--transactions", "200", "--folder", "files"])
        .await;
    let [contender] = &facts["contenders"].as_array().unwrap()[..] else {
        panic!("{facts:#}");
    };
    let run = &contender["runs"][0];
    assert_eq!(contender["name"], "twinlog");
    assert_eq!(run["equal"], true);
    assert_eq!(run["curve"].as_array().unwrap().last().unwrap()[1], 200);
    assert_eq!(run["target_cpu_seconds"], Value::Null);
    assert!(run["engine_cpu_seconds"].as_f64().unwrap() > 0.0);
    assert!(facts["origin_log_bytes"].as_f64().unwrap() > 200.0 * 100.0);
    // As the servers are, not as a benchmark would like them.
    let found = facts["setting"]["settings"]["own_servers"]
        .as_array()
        .unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found[1]["node"], "west");
    assert_eq!(found[0]["sync_binlog"], 0);
    assert!(found[0]["round_trip_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(facts["setting"]["settings"]["durable"], false);
    assert!(page.contains("sync_binlog=0") && page.contains("servers not durable"));

    // A benchmark that is interrupted takes away what it made; one that is killed cannot.
    own.interrupted(Signal::SIGINT).await;
    own.nothing_left().await;
    own.interrupted(Signal::SIGKILL).await;
    assert_eq!(own.databases(0).await, ["bench", "twinlog_bench"]);
    own.gone().await;
    let (facts, _) = own.measures(&["write", "--seconds", "1"]).await;
    let names: Vec<&str> = facts["contenders"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["no replication", "twinlog"]);
    let twinlog = &facts["contenders"][1]["runs"][0];
    assert_eq!(twinlog["differing"], Value::Null);
    assert!(twinlog["drained_seconds"].as_f64().unwrap() > 0.0);
    // Somebody else's database is left alone, unless that is what is wanted.
    own.run(1, "CREATE DATABASE bench; CREATE TABLE bench.mine (id INT)")
        .await;
    own.refuses(&["--yes"], &["node west", "bench", "--drop-existing"])
        .await;
    assert_eq!(own.databases(1).await, ["bench"]);
    let mut arguments = vec!["lag", "--seconds", "1", "--rate", "50", "--levels", "100"];
    arguments.push("--drop-existing");
    let (facts, _) = own.measures(&arguments).await;
    let probes = &facts["contenders"][0]["runs"][0]["probes"];
    assert!(probes.as_f64().unwrap() > 100.0, "{facts:#}");

    own.stands_in_the_way(kind).await;
    own.nothing_left().await;
}

impl Own {
    /// Starts a benchmark that would write for long, and sends it a signal when it does.
    async fn interrupted(&self, signal: Signal) {
        let mut child = twinlog(self.path())
            .args(["bench", "drain", "--yes", "--folder", "files"])
            .args(SMALL)
            .args(["--transactions", "100000000"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = until_it_writes(&mut child);
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        kill(pid, signal).unwrap();
        let last: Vec<String> = lines.collect();
        let ended = child.wait().unwrap();
        if signal == Signal::SIGINT {
            assert_eq!(ended.code(), Some(130), "{last:?}");
        } else {
            std::fs::remove_dir_all(self.path().join("files")).unwrap();
        }
    }

    /// Waits until the servers have noticed that a benchmark was killed.
    async fn gone(&self) {
        let begun = std::time::Instant::now();
        for server in &self.servers {
            let mut conn = server.connect().await.unwrap();
            loop {
                let sql = "SELECT IS_FREE_LOCK('twinlog.bench')";
                let free: Option<u8> = conn.query_first(sql).await.unwrap();
                if free == Some(1) {
                    break;
                }
                assert!(begun.elapsed().as_secs() < 20, "the lock is held");
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
    }

    /// Somebody who replicates from a node, until it is dropped.
    async fn reader(&self, node: usize) -> mysql_async::BinlogStream {
        let conn = self.servers[node].connect().await.unwrap();
        let request = mysql_async::BinlogStreamRequest::new(77);
        conn.get_binlog_stream(request).await.unwrap()
    }

    /// What would come into harm, or do some.
    async fn stands_in_the_way(&self, kind: ServerKind) {
        // An engine runs; another benchmark does.
        for (lock, says) in [
            ("twinlog.engine.west", "stop it first"),
            ("twinlog.bench", "another twinlog bench"),
        ] {
            let mut holder = self.servers[1].connect().await.unwrap();
            let sql = format!("SELECT GET_LOCK('{lock}', 0)");
            let taken: Option<u8> = holder.query_first(sql).await.unwrap();
            assert_eq!(taken, Some(1));
            self.refuses(&["--yes"], &["west", says]).await;
            holder.disconnect().await.unwrap();
        }

        // The servers' own replication, also where it is stopped, would carry the load.
        let port = self.servers[0].port();
        let (set_up, remove) = match kind {
            ServerKind::MySql => (
                format!("CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}"),
                "RESET REPLICA ALL",
            ),
            ServerKind::MariaDb => (
                format!("CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}"),
                "RESET SLAVE ALL",
            ),
        };
        self.run(1, &set_up).await;
        self.refuses(&["--yes"], &["west", "own replication", remove])
            .await;
        // .. unless it may have it. On the way: where the engine's time goes is found out here too.
        let stages = ["stages", "--transactions", "100", "--allow-replication"];
        let (facts, _) = self.measures(&stages).await;
        let ways = facts["ways"].as_array().unwrap();
        assert_eq!(ways.len(), 5, "{facts:#}");
        for way in [2, 3] {
            let passage = &ways[way]["runs"][0]["passage"];
            assert_eq!(passage["transactions"], 100, "{facts:#}");
        }
        self.run(1, remove).await;
        // Who replicates from a node gets the load as well.
        let reader = self.reader(0).await;
        let says = ["node east: 1 replica read", "--allow-replication"];
        self.refuses(&["--yes"], &says).await;
        drop(reader);

        // Engines that start later would read it in the log.
        self.configure("");
        self.run(
            0,
            "CREATE DATABASE twinlog; CREATE TABLE twinlog.marker (id INT)",
        )
        .await;
        self.refuses(&["--yes"], &["node east", "replicate the benchmark's rows"])
            .await;
        self.run(0, "DROP DATABASE twinlog").await;
    }
}

#[tokio::test]
async fn a_dbas_own_servers_are_measured_with_mariadb() {
    a_dbas_own_servers(ServerKind::MariaDb).await;
}

#[tokio::test]
async fn a_dbas_own_servers_are_measured_with_mysql() {
    a_dbas_own_servers(ServerKind::MySql).await;
}
