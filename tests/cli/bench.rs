//! `twinlog bench` on small sizes: what it prints, what it refuses, what it leaves behind.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::{run, twinlog};

const SMALL: [&str; 8] = [
    "--tables",
    "2",
    "--rows",
    "3000",
    "--threads",
    "4",
    "--runs",
    "1",
];

/// Runs a benchmark of small size with JSON and a page; both must be there.
fn bench(folder: &Path, name: &str, server: &str, arguments: &[&str]) -> (Value, String) {
    let mut all = vec!["bench", name, "--sandbox", server, "--json"];
    all.extend(["--report", "out.html"]);
    all.extend(SMALL);
    all.extend(arguments);
    let ended = run(folder, &all);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let page = std::fs::read_to_string(folder.join("out.html")).unwrap();
    (ended.json(), page)
}

/// The page needs nothing but itself, and says what its figures depend on.
fn assert_page(page: &str, plots: usize) {
    assert!(page.starts_with("<!DOCTYPE html>"));
    for foreign in ["<script", "<link", "<img", "src=", "@import", "url("] {
        assert!(!page.contains(foreign), "{foreign} is in the page");
    }
    assert_eq!(page.matches("<svg").count(), plots);
    for fact in ["sync_binlog=1", "cores", "seed 1", "conflict detection on"] {
        assert!(page.contains(fact), "{fact} is not in the page");
    }
}

fn number(value: &Value, path: &str) -> f64 {
    let found = value.pointer(path).and_then(Value::as_f64);
    found.unwrap_or_else(|| panic!("no number {path} in {value:#}"))
}

fn drains(server: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (facts, page) = bench(
        folder.path(),
        "drain",
        server,
        &["--transactions", "400", "--workers", "2"],
    );
    assert_eq!(facts["bench"], "drain");
    assert_eq!(facts["setting"]["server"], server);
    let contenders = facts["contenders"].as_array().unwrap();
    assert_eq!(contenders.len(), 2, "{facts:#}");
    for contender in contenders {
        let run = &contender["runs"][0];
        assert_eq!(run["equal"], true);
        assert!(number(contender, "/seconds/median") > 0.0);
        let curve = run["curve"].as_array().unwrap();
        let last = curve.last().unwrap();
        assert_eq!(last[1], 400, "{curve:?}");
    }
    let own = &contenders[0]["runs"][0];
    assert!(number(own, "/engine_cpu_seconds") > 0.0);
    assert!(number(own, "/engine_peak_memory_bytes") > 1e6);
    let (marker, all) = (
        number(own, "/marker_log_bytes"),
        number(own, "/target_log_bytes"),
    );
    assert!(0.0 < marker && marker < all, "{own:#}");
    // Several transactions go into one commit.
    assert!(number(own, "/commits") < 400.0);
    assert!(number(&facts, "/times_as_fast") > 0.0);
    assert_page(&page, 2);
}

#[test]
fn a_backlog_is_drained_with_mariadb() {
    drains("mariadb");
}

#[test]
fn a_backlog_is_drained_with_mysql() {
    drains("mysql");
}

#[test]
fn hot_rows_come_into_conflict() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = [
        "--transactions",
        "300",
        "--workers",
        "2",
        "--workload",
        "hot-rows",
    ];
    let (facts, page) = bench(folder.path(), "drain", "mariadb", &arguments);
    let [own, native] = &facts["contenders"].as_array().unwrap()[..] else {
        panic!("{facts:#}");
    };
    let conflicts = number(own, "/runs/0/conflicts");
    assert!((5.0..100.0).contains(&conflicts), "{conflicts}");
    // Settled the same at both nodes; the server's own replication leaves them different.
    assert_eq!(own["runs"][0]["equal"], true);
    assert_eq!(native["runs"][0]["equal"], false);
    assert!(page.contains("no conflict handling"));
}

fn writes(server: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (facts, page) = bench(folder.path(), "write", server, &["--seconds", "2"]);
    let contenders = facts["contenders"].as_array().unwrap();
    assert_eq!(contenders.len(), 3, "{facts:#}");
    for contender in contenders {
        let run = &contender["runs"][0];
        assert!(number(run, "/transactions/0") > 0.0 && number(run, "/transactions/1") > 0.0);
        assert_eq!(run["differing"], Value::Null);
        assert!(run["curve"].as_array().unwrap().len() > 2);
    }
    assert_eq!(contenders[0]["applied_per_second"], Value::Null);
    assert!(number(&facts, "/ratio_applied") > 0.0);
    assert!(number(&contenders[1], "/runs/0/engine_cpu_seconds") > 0.0);
    assert_page(&page, 3);
}

#[test]
fn both_masters_are_written_to_with_mariadb() {
    writes("mariadb");
}

#[test]
fn both_masters_are_written_to_with_mysql() {
    writes("mysql");
}

fn lags(server: &str) {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--seconds", "2", "--rate", "100", "--levels", "50,90"];
    let (facts, page) = bench(folder.path(), "lag", server, &arguments);
    let contenders = facts["contenders"].as_array().unwrap();
    assert_eq!(contenders.len(), 4, "{facts:#}");
    for contender in contenders {
        let run = &contender["runs"][0];
        // 200 a second, the first second left out.
        assert!((300.0..=401.0).contains(&number(run, "/probes")), "{run:#}");
        for of in ["from_commit", "from_due"] {
            let at = |name: &str| number(run, &format!("/{of}/{name}"));
            assert!(0.0 < at("p50") && at("p50") <= at("p99"), "{run:#}");
            assert!(at("p99") <= at("p999") && at("p999") <= at("max"));
        }
        assert!(number(run, "/from_due/max") >= number(run, "/from_commit/max"));
    }
    assert_page(&page, 2);
}

#[test]
fn lag_is_measured_with_mariadb() {
    lags("mariadb");
}

#[test]
fn lag_is_measured_with_mysql() {
    lags("mysql");
}

fn passes_stages(server: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (facts, page) = bench(folder.path(), "stages", server, &["--transactions", "300"]);
    let ways = facts["ways"].as_array().unwrap();
    let ends: Vec<&str> = ways
        .iter()
        .map(|way| way["end"].as_str().unwrap())
        .collect();
    assert_eq!(ends, ["read", "decode", "assemble", "prepare", "target"]);
    // Four row changes a transaction, one fewer where a row is deleted that is not there.
    let rows = number(&facts, "/rows");
    assert!((1000.0..=1200.0).contains(&rows), "{facts:#}");
    let passage = |way: usize, what: &str| number(&ways[way], &format!("/runs/0/passage/{what}"));
    for way in [0, 1] {
        assert!(passage(way, "events") > 1200.0, "{facts:#}");
    }
    for way in [2, 3] {
        assert_eq!(passage(way, "transactions"), 300.0);
        assert_eq!(passage(way, "rows"), rows);
    }
    let (groups, statements) = (passage(3, "groups"), passage(3, "statements"));
    assert!((1.0..300.0).contains(&groups), "{facts:#}");
    // Merged: fewer statements than rows.
    assert!(statements >= groups && statements < rows, "{facts:#}");
    assert!(passage(3, "statement_bytes") > rows, "{facts:#}");
    assert!(number(&ways[4], "/target_cpu_seconds/median") > 0.0);
    assert_page(&page, 2);
}

#[test]
fn stages_are_measured_with_mariadb() {
    passes_stages("mariadb");
}

#[test]
fn stages_are_measured_with_mysql() {
    passes_stages("mysql");
}

#[test]
fn other_loads_are_drained() {
    for workload in ["unique-keys", "mixed-sizes", "insert", "update-index"] {
        let folder = tempfile::tempdir().unwrap();
        let arguments = [
            "--transactions",
            "200",
            "--workers",
            "0",
            "--workload",
            workload,
        ];
        let (facts, _) = bench(folder.path(), "drain", "mariadb", &arguments);
        assert_eq!(facts["contenders"][0]["runs"][0]["equal"], true);
        assert_eq!(facts["times_as_fast"], Value::Null);
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let sandbox = ["bench", "drain", "--sandbox", "mariadb"];
    let cases: [(&[&str], i32, &str); 8] = [
        (&["bench"], 2, "drain"),
        (&["bench", "drain"], 1, "--sandbox mariadb"),
        (&["bench", "drain", "--sandbox", "oracle"], 2, "mysql"),
        (&["bench", "drain", "--runs", "0"], 2, "--runs"),
        (
            &["bench", "lag", "--sandbox", "mysql", "--rate", "0"],
            1,
            "--rate",
        ),
        (
            &[&sandbox[..], &["--no-twinlog", "--workers", "0"]].concat(),
            1,
            "nobody",
        ),
        (
            &[&sandbox[..], &["--workload", "hot-rows", "--rows", "10"]].concat(),
            1,
            "at least",
        ),
        (
            &[&sandbox[..], &["--report", "no/such/folder/out.html"]].concat(),
            1,
            "no/such/folder/out.html",
        ),
    ];
    for (arguments, code, says) in cases {
        let ended = run(folder.path(), arguments);
        assert_eq!(ended.code, Some(code), "{arguments:?}: {}", ended.err);
        assert!(ended.err.contains(says), "{arguments:?}: {}", ended.err);
        assert!(!ended.err.contains("panicked"), "{}", ended.err);
    }
}

#[test]
fn a_wrong_engine_setting_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut arguments = vec![
        "bench",
        "drain",
        "--sandbox",
        "mariadb",
        "--transactions",
        "1",
    ];
    arguments.extend(SMALL);
    arguments.extend(["--set", "group_transaction = 5", "--folder", "servers"]);
    let ended = run(folder.path(), &arguments);
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    assert!(ended.err.contains("--set"), "{}", ended.err);
    assert!(ended.err.contains("group_transactions"), "{}", ended.err);
    assert_nothing_left(&folder.path().join("servers"));
}

/// No server runs on files of this folder, and no benchmark's folder is left in it.
fn assert_nothing_left(servers: &Path) {
    let servers = servers.canonicalize().unwrap();
    let begun = Instant::now();
    loop {
        let running = processes_of(&servers);
        let left: Vec<_> = std::fs::read_dir(&servers)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("twinlog-bench-"))
            .collect();
        if running.is_empty() && left.is_empty() {
            return;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "left behind: {running:?} {left:?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Command lines that name the folder.
fn processes_of(folder: &Path) -> Vec<String> {
    let name = folder.to_str().unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(name) {
            found.push(line);
        }
    }
    found
}

/// Waits until a drain benchmark writes its backlog; gives what it says on standard error from then on.
pub(crate) fn until_it_writes(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut lines = lines.map_while(Result::ok);
    let writing = lines.any(|line| line.contains("writing a backlog"));
    assert!(writing, "it ended before");
    lines
}

#[test]
fn an_interrupted_benchmark_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = twinlog(folder.path())
        .args([
            "bench",
            "drain",
            "--sandbox",
            "mariadb",
            "--folder",
            "servers",
        ])
        .args(SMALL)
        .args(["--transactions", "100000000"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = until_it_writes(&mut child);
    let servers = folder.path().join("servers");
    assert_eq!(processes_of(&servers.canonicalize().unwrap()).len(), 2);
    kill(
        Pid::from_raw(i32::try_from(child.id()).unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    let last: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{last:?}");
    assert_nothing_left(&servers);
}
