//! The commands in the order in which an operator gives them, against servers.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use twinlog_cli::sandbox::{Server, ServerKind, ServerOptions};

use crate::{Ended, run, twinlog};

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
        panic!("still running: {}", self.seen.join("\n"));
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
    for server in [&a, &b] {
        server
            .query_drop("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, v INT)")
            .await
            .unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let config = format!(
        "[engine]\ndata_dir = \"state\"\n\
         [[node]]\nname = \"a\"\nurl = \"{}\"\nlisten = \"127.0.0.1:{}\"\n\
         [[node]]\nname = \"b\"\nurl = \"{}\"\nlisten = \"127.0.0.1:{}\"\n",
        a.url(),
        free_port(),
        b.url(),
        free_port()
    );
    std::fs::write(folder.join("twinlog.toml"), config).unwrap();

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
    assert!(ended.err.contains("twinlog init"), "{}", ended.err);

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
    let wait = good(run(folder, &["wait", "--timeout", "30s", "--json"])).json();
    assert_eq!(wait["ok"], true);
    let verify = good(run(folder, &["verify", "--wait", "30s"]));
    assert!(verify.out.contains("a and b are equal"), "{}", verify.out);
    assert!(verify.out.contains("3 rows"), "{}", verify.out);
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

    engines.signal(Signal::SIGTERM);
    engines.says("stopping");
    assert_eq!(engines.ends(), Some(0));

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

#[tokio::test]
async fn an_operators_day_with_mariadb() {
    an_operators_day(ServerKind::MariaDb).await;
}

#[tokio::test]
async fn an_operators_day_with_mysql() {
    an_operators_day(ServerKind::MySql).await;
}
