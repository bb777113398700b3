//! How much memory the program takes where there is much to hold: one huge transaction, a backlog of
//! tiny ones, many tables, large rows. Runs the program itself, one process for each node, against real
//! servers, and prints a table.
//!
//! `make size` runs it at full size; as a test it is small, against a limit scaled down. `TWINLOG_SIZE_CASE`
//! names one case of those that [`all`] has.

// The setting for tests covers only functions marked as tests, not what they share; a panic is how
// any of them fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use mysql_async::prelude::Queryable as _;
use twinlog_cli::sandbox::{Server, ServerKind, ServerOptions};

/// How large everything is.
#[derive(Debug, Clone, Copy)]
struct Scale {
    /// Of each process.
    memory_mib: u64,
    /// Rows of the huge transaction, and bytes in each.
    huge: (u64, u64),
    /// Transactions of one row each.
    tiny: u64,
    /// Tables, each written.
    tables: u64,
    /// Rows of 16 MiB.
    large: u64,
    /// Merged rows, each written three times.
    merged: u64,
}

const FULL: Scale = Scale {
    memory_mib: 512,
    huge: (5_000_000, 200),
    tiny: 1_000_000,
    tables: 10_000,
    large: 20,
    merged: 1_000_000,
};

const SMALL: Scale = Scale {
    memory_mib: 96,
    huge: (48_000, 1000),
    tiny: 5_000,
    tables: 200,
    large: 2,
    merged: 20_000,
};

/// A cluster of two servers whose engines are not running yet.
struct Cluster {
    kind: ServerKind,
    servers: [Server; 2],
    folder: tempfile::TempDir,
    memory_mib: u64,
}

/// A process of the program; killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Whether it has a file open with this in its path.
    fn has_open(&self, part: &str) -> bool {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.0.id())).unwrap();
        let mut paths = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        paths.any(|path| path.to_string_lossy().contains(part))
    }

    /// Most memory that it ever had, in MiB.
    fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM"))
            .unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib.div_ceil(1024)
    }
}

fn program() -> PathBuf {
    std::env::var_os("TWINLOG_BIN").map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_twinlog")),
        PathBuf::from,
    )
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl Cluster {
    async fn start(kind: ServerKind, scale: Scale) -> Self {
        Self::start_with(kind, scale, "").await
    }

    /// With these lines behind `[replication]`.
    async fn start_with(kind: ServerKind, scale: Scale, rules: &str) -> Self {
        let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let start = |offset| {
            let mut options = ServerOptions::node("size", offset, 2);
            options.extra_args = vec![
                "--innodb-buffer-pool-size=384M".to_owned(),
                "--max-connections=50".to_owned(),
                match kind {
                    ServerKind::MariaDb => "--innodb-log-file-size=1G".to_owned(),
                    ServerKind::MySql => "--innodb-redo-log-capacity=1G".to_owned(),
                },
            ];
            Server::start(kind, base, options)
        };
        let (a, b) = tokio::join!(start(1), start(2));
        let servers = [a.unwrap(), b.unwrap()];
        let folder = tempfile::tempdir_in(base).unwrap();
        let mut config = format!(
            "[engine]\ndata_dir = \"state\"\nmemory = \"{}MiB\"\n[replication]\ndatabases = [\"d\"]\n{rules}\n",
            scale.memory_mib
        );
        for (name, server) in ["a", "b"].iter().zip(&servers) {
            write!(
                config,
                "[[node]]\nname = \"{name}\"\nurl = \"{}\"\nlisten = \"127.0.0.1:{}\"\n",
                server.url(),
                free_port()
            )
            .unwrap();
        }
        std::fs::write(folder.path().join("twinlog.toml"), config).unwrap();
        Self {
            kind,
            servers,
            folder,
            memory_mib: scale.memory_mib,
        }
    }

    async fn both(&self, sql: &str) {
        let (a, b) = tokio::join!(
            self.servers[0].query_drop(sql),
            self.servers[1].query_drop(sql)
        );
        a.unwrap();
        b.unwrap();
    }

    async fn run(&self, sql: &str) {
        self.servers[0].query_drop(sql).await.unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .current_dir(self.folder.path())
            .env_remove("TWINLOG_CONFIG")
            .args(arguments);
        command
    }

    fn done(&self, arguments: &[&str]) {
        let ended = self.command(arguments).output().unwrap();
        let log =
            |name: &str| std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        assert!(
            ended.status.success(),
            "{arguments:?}: {}{}\na: {}\nb: {}",
            String::from_utf8_lossy(&ended.stdout),
            String::from_utf8_lossy(&ended.stderr),
            log("a.log"),
            log("b.log"),
        );
    }

    /// Most memory that the engines ever had, in MiB; `status` says the same.
    fn peaks(&self, engines: [&Running; 2]) -> [u64; 2] {
        let before = engines.map(Running::peak);
        let said = self.command(&["status"]).output().unwrap().stdout;
        let said = String::from_utf8_lossy(&said).into_owned();
        let after = engines.map(Running::peak);
        for (number, node) in ["a", "b"].into_iter().enumerate() {
            let line = said
                .lines()
                .find(|line| line.contains(&format!("engine {node}: memory")));
            let words = line.and_then(|line| line.split_once("at most "));
            let most = words.and_then(|(_, rest)| rest.split(' ').next());
            let most: u64 = most.unwrap_or_else(|| panic!("{said}")).parse().unwrap();
            assert!(
                (before[number]..=after[number]).contains(&most),
                "{before:?} {after:?} {said}"
            );
        }
        after
    }

    fn engines(&self) -> [Running; 2] {
        ["a", "b"].map(|node| self.engine(node))
    }

    fn engine(&self, node: &str) -> Running {
        let log = std::fs::File::create(self.folder.path().join(format!("{node}.log"))).unwrap();
        let mut command = self.command(&["run", "--skip-check", "--node", node]);
        Running(command.stderr(log).stdout(Stdio::null()).spawn().unwrap())
    }

    /// Runs the engines until everything is applied and compared, and says what they took.
    async fn measure(self, what: &str, write: impl Future<Output = ()>, before: bool) -> String {
        self.done(&["init", "--skip-check"]);
        let begun = Instant::now();
        let mut write = Some(write);
        if before && let Some(write) = write.take() {
            write.await;
        }
        let written = begun.elapsed();
        let engines = self.engines();
        if let Some(write) = write.take() {
            write.await;
        }
        let drained = Instant::now();
        self.done(&["wait", "--timeout", "1h"]);
        let drained = drained.elapsed();
        let [a, b] = self.peaks([&engines[0], &engines[1]]);
        self.done(&["verify", "--wait", "10m"]);
        let written = if before {
            written
        } else {
            begun.elapsed() - drained
        };
        let line = format!(
            "| {} | {what} | {:.0} | {:.0} | {a} | {b} | {} |",
            self.kind,
            written.as_secs_f64(),
            drained.as_secs_f64(),
            self.memory_mib
        );
        println!("{line}");
        assert!(
            a.max(b) <= self.memory_mib,
            "more memory than was allowed: {line}"
        );
        line
    }
}

/// One statement of one transaction that makes `rows` rows.
fn numbers(rows: u64) -> String {
    let digits = rows.ilog10() + 1;
    let place = |n: u32| format!("d{n}.n * {}", 10_u64.pow(n));
    let places: Vec<String> = (0..digits).map(place).collect();
    let tables: Vec<String> = (0..digits).map(|n| format!("d.digit d{n}")).collect();
    format!(
        "SELECT n FROM (SELECT {} AS n FROM {}) AS numbers WHERE n < {rows}",
        places.join(" + "),
        tables.join(", ")
    )
}

const DIGITS: &str = "CREATE DATABASE d; CREATE TABLE d.digit (n INT PRIMARY KEY); \
    INSERT INTO d.digit VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9);";

async fn huge(kind: ServerKind, scale: Scale) -> String {
    let cluster = Cluster::start(kind, scale).await;
    let table = "CREATE TABLE d.t (id INT PRIMARY KEY, n INT NOT NULL, pad VARCHAR(1000) NOT NULL)";
    cluster.both(&format!("{DIGITS} {table}")).await;
    let (rows, bytes) = scale.huge;
    let mut client = cluster.servers[0].connect().await.unwrap();
    let write = async move {
        let numbers = numbers(rows);
        client
            .query_drop(format!(
                "INSERT INTO d.t SELECT n, n % 7, REPEAT('x', {bytes}) FROM ({numbers}) AS t"
            ))
            .await
            .unwrap();
    };
    let mib = (rows * (bytes + 10)) >> 20;
    let what = format!("one transaction of {rows} rows, {mib} MiB");
    cluster.measure(&what, write, false).await
}

async fn tiny(kind: ServerKind, scale: Scale) -> String {
    let cluster = Cluster::start(kind, scale).await;
    cluster
        .both(
            "CREATE DATABASE d; CREATE TABLE d.t (id BIGINT PRIMARY KEY, n INT NOT NULL); \
             CREATE DATABASE p",
        )
        .await;
    cluster
        .run(
            "CREATE PROCEDURE p.fill(first BIGINT, behind BIGINT) BEGIN WHILE first < behind DO \
             INSERT INTO d.t VALUES (first, 1); SET first = first + 1; END WHILE; END",
        )
        .await;
    let each = scale.tiny / 4;
    let mut clients = Vec::new();
    for client in 0..4 {
        let mut connection = cluster.servers[0].connect().await.unwrap();
        clients.push(async move {
            let (first, behind) = (client * each, (client + 1) * each);
            connection
                .query_drop(format!("CALL p.fill({first}, {behind})"))
                .await
                .unwrap();
        });
    }
    let write = async move {
        let mut all = tokio::task::JoinSet::new();
        for client in clients {
            all.spawn(client);
        }
        all.join_all().await;
    };
    let what = format!("a backlog of {} transactions of one row", scale.tiny);
    cluster.measure(&what, write, true).await
}

async fn tables(kind: ServerKind, scale: Scale) -> String {
    let cluster = Cluster::start(kind, scale).await;
    cluster.both("CREATE DATABASE d").await;
    let numbers: Vec<u64> = (0..scale.tables).collect();
    for some in numbers.chunks(200) {
        let made: Vec<String> = some
            .iter()
            .map(|n| {
                format!(
                    "CREATE TABLE d.t{n} (id INT PRIMARY KEY, name VARCHAR(100) NOT NULL, n INT, \
                     UNIQUE KEY (name)) DEFAULT CHARSET utf8mb4"
                )
            })
            .collect();
        cluster.both(&made.join(";")).await;
    }
    let mut client = cluster.servers[0].connect().await.unwrap();
    let write = async move {
        // Each in a transaction of its own, then all in one.
        for some in numbers.chunks(200) {
            let rows = some
                .iter()
                .map(|n| format!("INSERT INTO d.t{n} VALUES (1, 'one', {n})"));
            let rows: Vec<String> = rows.collect();
            client.query_drop(rows.join(";")).await.unwrap();
        }
        client.query_drop("BEGIN").await.unwrap();
        for some in numbers.chunks(200) {
            let rows = some.iter().map(|n| format!("UPDATE d.t{n} SET n = n + 1"));
            let rows: Vec<String> = rows.collect();
            client.query_drop(rows.join(";")).await.unwrap();
        }
        client.query_drop("COMMIT").await.unwrap();
    };
    let what = format!("{} tables, each written", scale.tables);
    cluster.measure(&what, write, false).await
}

async fn large(kind: ServerKind, mut scale: Scale) -> String {
    // One such row is in several hands at once: as an event, decoded, as a statement.
    scale.memory_mib = FULL.memory_mib;
    let cluster = Cluster::start(kind, scale).await;
    cluster
        .both("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, n INT, body LONGBLOB)")
        .await;
    let mut client = cluster.servers[0].connect().await.unwrap();
    let write = async move {
        for id in 0..scale.large {
            // A little less than 16 MiB, so that its digits fit into a packet of 64 MiB as well.
            let sql = format!(
                "INSERT INTO d.t VALUES ({id}, 0, REPEAT(CHAR(65 + {id} % 26), 16 * 1024 * 1024 - 1024))"
            );
            client.query_drop(sql).await.unwrap();
        }
        // All in one transaction, with an image before and an image after each.
        client.query_drop("UPDATE d.t SET n = n + 1").await.unwrap();
    };
    let what = format!("{} rows of 16 MiB, one by one and all in one", scale.large);
    cluster.measure(&what, write, false).await
}

/// The engine of b is away while clients of both nodes write merged rows: the engine of a has to
/// remember each write of its own clients, and puts those of the others in their place.
async fn merged(kind: ServerKind, scale: Scale) -> String {
    const RULES: &str = "[[conflict]]\ntables = \"d.t\"\ncolumns = { n = \"delta\" }";
    let cluster = Cluster::start_with(kind, scale, RULES).await;
    let rows = scale.merged;
    let table = "CREATE TABLE d.t (id INT PRIMARY KEY, n INT NOT NULL, pad VARCHAR(100) NOT NULL)";
    cluster.both(&format!("{DIGITS} {table}")).await;
    let filled = numbers(rows);
    cluster
        .both(&format!(
            "INSERT INTO d.t SELECT n, 0, REPEAT('x', 100) FROM ({filled}) AS t"
        ))
        .await;
    cluster.done(&["init", "--skip-check"]);
    let begun = Instant::now();
    let a = cluster.engine("a");
    for _ in 0..3 {
        cluster.run("UPDATE d.t SET n = n + 1").await;
    }
    cluster.servers[1]
        .query_drop("UPDATE d.t SET n = n + 10 WHERE id % 100 = 0")
        .await
        .unwrap();
    // Read here, and settled with the histories.
    let settled = "SELECT COUNT(*) FROM d.t WHERE n = 13";
    let deadline = Instant::now() + std::time::Duration::from_secs(600);
    while cluster.servers[0].query::<u64>(settled).await.unwrap() != [rows / 100] {
        assert!(
            Instant::now() < deadline,
            "the engine of a does not come by"
        );
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let written = begun.elapsed();
    assert!(a.has_open("histories"), "nothing went to disk");
    let drained = Instant::now();
    let b = cluster.engine("b");
    cluster.done(&["wait", "--timeout", "1h"]);
    let drained = drained.elapsed();
    let [a, b] = cluster.peaks([&a, &b]);
    cluster.done(&["verify", "--wait", "10m"]);
    let line = format!(
        "| {} | 3 writes of each of {rows} merged rows, the other engine away | {:.0} | {:.0} | {a} | {b} | {} |",
        cluster.kind,
        written.as_secs_f64(),
        drained.as_secs_f64(),
        cluster.memory_mib
    );
    println!("{line}");
    assert!(
        a.max(b) <= cluster.memory_mib,
        "more memory than was allowed: {line}"
    );
    line
}

/// All cases at the size that the environment asks for.
async fn all(kind: ServerKind) {
    let full = std::env::var("TWINLOG_SIZE").is_ok_and(|size| size == "full");
    let scale = if full { FULL } else { SMALL };
    let only = std::env::var("TWINLOG_SIZE_CASE").unwrap_or_default();
    let wanted = |case: &str| only.is_empty() || only == case;
    let mut lines = Vec::new();
    if wanted("huge") {
        lines.push(huge(kind, scale).await);
    }
    if wanted("tiny") {
        lines.push(tiny(kind, scale).await);
    }
    if wanted("tables") {
        lines.push(tables(kind, scale).await);
    }
    if wanted("large") {
        lines.push(large(kind, scale).await);
    }
    if wanted("merged") {
        lines.push(merged(kind, scale).await);
    }
    println!(
        "\n| server | case | written in s | drained in s | peak MiB, engine of a | of b | limit |\n\
         |---|---|---|---|---|---|---|"
    );
    for line in lines {
        println!("{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb() {
    all(ServerKind::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql() {
    all(ServerKind::MySql).await;
}
