//! The commands in the order in which an operator gives them, against servers.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use twinlog_cli::sandbox::{Server, ServerKind, ServerOptions};

use crate::{Ended, run, twinlog};

const PASSWORD: &str = "s3cret-of-the-session";
const DEADLINE: Duration = Duration::from_secs(30);

/// A running `twinlog run`; killed when dropped.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Running {
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        let mut command: Command = twinlog(folder);
        let mut child = command
            .arg("run")
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// Waits for a line of the log.
    fn says(&mut self, text: &str) {
        let begun = Instant::now();
        while begun.elapsed() < DEADLINE {
            match self.lines.recv_timeout(DEADLINE) {
                Ok(line) => {
                    let found = line.contains(text);
                    self.seen.push(line);
                    if found {
                        return;
                    }
                }
                Err(_) => break,
            }
        }
        panic!("'{text}' is not in the log: {}", self.seen.join("\n"));
    }

    /// What it has logged so far.
    fn log(&mut self) -> String {
        self.seen.extend(self.lines.try_iter());
        self.seen.join("\n")
    }

    fn signal(&self, signal: Signal) {
        kill(
            Pid::from_raw(i32::try_from(self.child.id()).unwrap()),
            signal,
        )
        .unwrap();
    }

    fn ends(&mut self) -> Option<i32> {
        let begun = Instant::now();
        while begun.elapsed() < DEADLINE {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("still running: {}", self.log());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn good(ended: Ended) -> Ended {
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.out, ended.err);
    ended
}

async fn an_operators_day(kind: ServerKind) {
    let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let start = |offset| {
        let mut options = ServerOptions::node("cli", offset, 2);
        options.durable = true;
        options.extra_args = vec!["--max-allowed-packet=64M".to_owned()];
        Server::start(kind, base, options)
    };
    let (a, b) = tokio::join!(start(1), start(2));
    let (a, b) = (a.unwrap(), b.unwrap());
    // As the README has it, and no more: what the check asks for must be enough to run with.
    let administrative = match kind {
        ServerKind::MySql => {
            "REPLICATION SLAVE, REPLICATION CLIENT, REPLICATION_APPLIER, SESSION_VARIABLES_ADMIN, \
             TRANSACTION_GTID_TAG, SET_ANY_DEFINER, ALLOW_NONEXISTENT_DEFINER, SYSTEM_USER, \
             XA_RECOVER_ADMIN"
        }
        ServerKind::MariaDb => {
            "REPLICATION SLAVE, BINLOG MONITOR, BINLOG REPLAY, BINLOG ADMIN, SLAVE MONITOR, SET USER"
        }
    };
    for server in [&a, &b] {
        server
            .query_drop(&format!(
                "CREATE USER 'twinlog'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';
                 GRANT {administrative} ON *.* TO 'twinlog'@'127.0.0.1';
                 GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, LOCK TABLES, REFERENCES,
                       CREATE VIEW, SHOW VIEW, TRIGGER ON d.* TO 'twinlog'@'127.0.0.1';
                 GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX ON twinlog.*
                       TO 'twinlog'@'127.0.0.1';
                 CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, v INT)"
            ))
            .await
            .unwrap();
    }
    let url = |server: &Server| format!("mysql://twinlog@127.0.0.1:{}", server.port());
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let config = format!(
        "[engine]\ndata_dir = \"state\"\n[replication]\ndatabases = [\"d\"]\n\
         [[node]]\nname = \"a\"\nurl = \"{}\"\nlisten = \"127.0.0.1:{}\"\npassword_file = \"password\"\n\
         [[node]]\nname = \"b\"\nurl = \"{}\"\nlisten = \"127.0.0.1:{}\"\npassword_file = \"password\"\n",
        url(&a),
        free_port(),
        url(&b),
        free_port()
    );
    std::fs::write(folder.join("twinlog.toml"), config).unwrap();
    let password = folder.join("password");
    std::fs::write(&password, format!("{PASSWORD}\n")).unwrap();
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();

    let check = good(run(folder, &["check", "--json"])).json();
    assert_eq!(
        (&check["ok"], &check["warn"]),
        (&true.into(), &0.into()),
        "{check:#}"
    );
    let check = good(run(folder, &["check"]));
    assert!(
        check.out.contains("the nodes may be joined"),
        "{}",
        check.out
    );
    assert!(check.out.contains("node a (127.0.0.1:"), "{}", check.out);

    // Nothing is set up yet.
    let ended = run(folder, &["positions", "show"]);
    assert_eq!(ended.code, Some(1), "{}", ended.out);
    assert!(ended.out.contains("twinlog init"), "{}", ended.out);

    let init = good(run(folder, &["init", "--json"])).json();
    assert_eq!(init["links"].as_array().unwrap().len(), 2);
    assert_eq!(init["links"][0]["kept"], false);
    let again = good(run(folder, &["init"]));
    assert!(again.out.contains("left alone"), "{}", again.out);

    // No engine is running.
    let status = run(folder, &["status", "--json"]);
    assert_eq!(status.code, Some(1));
    assert!(status.json()["engines"][0]["error"].is_string());

    let mut engines = Running::start(folder, &[]);
    engines.says("running; Ctrl-C");
    a.query_drop("INSERT INTO d.t VALUES (1, 1), (2, 2)")
        .await
        .unwrap();
    b.query_drop("INSERT INTO d.t VALUES (3, 3)").await.unwrap();
    a.query_drop(
        "CREATE TABLE d.more (id INT PRIMARY KEY, t INT, CONSTRAINT of_t FOREIGN KEY (t)
         REFERENCES d.t (id)); ALTER TABLE d.more ADD note TEXT; INSERT INTO d.more VALUES (1, 1, 'x');
         CREATE VIEW d.v AS SELECT note FROM d.more; CREATE INDEX i ON d.more (t, id);
         CREATE TABLE d.gone (id INT PRIMARY KEY); DROP TABLE d.gone",
    )
    .await
    .unwrap();
    let waited = run(folder, &["wait", "--timeout", "30s", "--json"]);
    let status = run(folder, &["status"]);
    assert_eq!(waited.code, Some(0), "{}\n{}", status.out, engines.log());
    let wait = waited.json();
    assert_eq!(wait["ok"], true);
    let verify = good(run(folder, &["verify", "--wait", "30s"]));
    assert!(verify.out.contains("a and b are equal"), "{}", verify.out);
    assert!(verify.out.contains("2 tables, 4 rows"), "{}", verify.out);
    let notes: Vec<String> = b.query("SELECT note FROM d.v").await.unwrap();
    assert_eq!(notes, ["x"], "DDL with the documented privileges");
    let status = good(run(folder, &["status", "--json"])).json();
    assert_eq!(status["ok"], true);
    let link = &status["engines"][1]["status"]["links"][0];
    assert_eq!(
        (&link["origin"], &link["target"]),
        (&"a".into(), &"b".into())
    );
    assert_eq!(link["returned"], 0);
    let status = good(run(folder, &["status"]));
    assert!(
        status.out.contains("a -> b") && status.out.contains("b -> a"),
        "{}",
        status.out
    );

    // Positions cannot be pulled away under a running engine, nor can a second one run.
    let set = [
        "positions",
        "set",
        "--origin",
        "a",
        "--target",
        "b",
        "end",
        "--yes",
    ];
    let refused = run(folder, &set);
    assert_eq!(refused.code, Some(1), "{}", refused.out);
    assert!(refused.err.contains("engine"), "{}", refused.err);
    let second = Running::start(folder, &["--skip-check"]).ends();
    assert_eq!(second, Some(1));

    // A transaction in hand that cannot go on holds up a clean stop; a second signal does not wait.
    let mut client = b.connect().await.unwrap();
    client
        .query_drop("BEGIN; SELECT * FROM d.t WHERE id = 2 FOR UPDATE")
        .await
        .unwrap();
    a.query_drop("UPDATE d.t SET v = 20 WHERE id = 2")
        .await
        .unwrap();
    let begun = Instant::now();
    let waiting =
        "SELECT COUNT(*) FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT'";
    while b.query::<u64>(waiting).await.unwrap() == [0] {
        assert!(begun.elapsed() < DEADLINE, "{}", engines.log());
        // InnoDB renews this table only when nobody has read it for 100 ms.
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    engines.signal(Signal::SIGINT);
    engines.says("stopping");
    engines.signal(Signal::SIGINT);
    assert_eq!(engines.ends(), Some(130), "{}", engines.log());
    client.query_drop("ROLLBACK").await.unwrap();
    client.disconnect().await.unwrap();

    let mut engines = Running::start(folder, &["--skip-check"]);
    engines.says("running; Ctrl-C");
    good(run(folder, &["wait", "--timeout", "30s"]));
    let v: Vec<i32> = b.query("SELECT v FROM d.t WHERE id = 2").await.unwrap();
    assert_eq!(v, [20]);
    engines.signal(Signal::SIGTERM);
    engines.says("stopping");
    assert_eq!(engines.ends(), Some(0));
    assert!(!engines.log().contains(PASSWORD));

    a_conflict(folder, [&a, &b]).await;

    let positions = good(run(folder, &["positions", "show", "--json"])).json();
    assert!(positions[0]["applied"].as_str().unwrap().contains(':'));
    let shown = good(run(folder, &["positions", "show"]));
    assert!(shown.out.contains("b -> a"), "{}", shown.out);
    let moved = good(run(folder, &set));
    assert!(moved.out.contains("is now"), "{}", moved.out);

    // A wait that cannot end, and rows that differ.
    let late = run(folder, &["wait", "--timeout", "200ms"]);
    assert_eq!(late.code, Some(1));
    assert!(late.err.contains("within 200ms"), "{}", late.err);
    b.query_drop("UPDATE d.t SET v = 7 WHERE id = 3; INSERT INTO d.t VALUES (9, 9)")
        .await
        .unwrap();
    let verify = run(folder, &["verify"]);
    assert_eq!(verify.code, Some(1));
    assert!(
        verify.out.contains("d.t differs: 3 rows on a, 4 on b"),
        "{}",
        verify.out
    );
    assert!(verify.out.contains("only on b"), "{}", verify.out);
}

/// Both nodes write one row; it is settled, looked at, and taken back.
async fn a_conflict(folder: &Path, [a, b]: [&Server; 2]) {
    let none = good(run(folder, &["conflicts", "list"]));
    assert!(none.out.contains("no conflicts"), "{}", none.out);
    a.query_drop("UPDATE d.t SET v = 21 WHERE id = 2")
        .await
        .unwrap();
    b.query_drop("UPDATE d.t SET v = 22 WHERE id = 2")
        .await
        .unwrap();
    let mut engines = Running::start(folder, &["--skip-check"]);
    engines.says("running; Ctrl-C");
    good(run(folder, &["wait", "--timeout", "30s"]));
    let list = good(run(folder, &["conflicts", "list", "--json"])).json();
    let entries = list.as_array().unwrap();
    assert_eq!(entries.len(), 2, "one in each journal: {list:#}");
    assert_eq!(entries[0]["kind"], "update_origin_differs");
    assert_eq!(entries[0]["winner_node"], entries[1]["winner_node"]);
    let listed = good(run(
        folder,
        &[
            "conflicts",
            "list",
            "--node",
            "b",
            "--table",
            "d.*",
            "--since",
            "1h",
        ],
    ));
    assert!(
        listed.out.contains("d.t") && listed.out.contains("id=2"),
        "{}",
        listed.out
    );
    let other = good(run(
        folder,
        &["conflicts", "list", "--kind", "delete_missing"],
    ));
    assert!(other.out.contains("no conflicts"), "{}", other.out);
    let of_b = entries.iter().find(|entry| entry["node"] == "b").unwrap();
    let id = of_b["id"].to_string();
    let show = good(run(folder, &["conflicts", "show", &id, "--node", "b"]));
    assert!(
        show.out.contains("stands") && show.out.contains("21") && show.out.contains("22"),
        "{}",
        show.out
    );
    let status = good(run(folder, &["status"]));
    assert!(
        status.out.contains("1 update_origin_differs"),
        "{}",
        status.out
    );
    // The other one, everywhere.
    let lost = if of_b["winner_node"] == "b" { 21 } else { 22 };
    let asked = run(folder, &["conflicts", "flip", &id, "--node", "b"]);
    assert_eq!(
        asked.code,
        Some(1),
        "nobody is there to be asked: {}",
        asked.out
    );
    assert!(asked.err.contains("--yes"), "{}", asked.err);
    good(run(
        folder,
        &["conflicts", "flip", &id, "--node", "b", "--yes"],
    ));
    good(run(folder, &["wait", "--timeout", "30s"]));
    for server in [a, b] {
        let v: Vec<i32> = server
            .query("SELECT v FROM d.t WHERE id = 2")
            .await
            .unwrap();
        assert_eq!(v, [lost]);
    }
    let again = run(folder, &["conflicts", "flip", &id, "--node", "b", "--yes"]);
    assert_eq!(again.code, Some(1));
    assert!(again.err.contains("--force"), "{}", again.err);
    let missing = run(folder, &["conflicts", "show", "999"]);
    assert_eq!(missing.code, Some(1));
    engines.signal(Signal::SIGTERM);
    assert_eq!(engines.ends(), Some(0));
}

#[tokio::test]
async fn an_operators_day_with_mariadb() {
    an_operators_day(ServerKind::MariaDb).await;
}

#[tokio::test]
async fn an_operators_day_with_mysql() {
    an_operators_day(ServerKind::MySql).await;
}
