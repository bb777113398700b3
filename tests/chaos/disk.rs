//! The disk under the engine's own store: full, not to be written to, or with a store of another version
//! of its library. Refused or halted with the reason, or moved aside; nothing is lost.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use twinlog_cli::sandbox::ServerKind;
use twinlog_harness::ledger::{self, Ledger, Style};
use twinlog_harness::pair::PATIENCE;
use twinlog_harness::{Cluster, ClusterOptions};

use crate::TWINLOG;

on_both!(
    the_disk_fills,
    a_store_that_may_only_be_read,
    a_store_of_another_version,
);

const STYLE: Style = Style {
    clients: 1,
    totals: 4,
    hot: 0,
    pause: Duration::from_millis(2),
};

/// A file may not grow any more: to the engine as a full disk is, but for the system's words.
const FULL: &str = "File too large";

async fn started(kind: ServerKind, surroundings: &[&str]) -> (Cluster, Ledger) {
    let mut options = ClusterOptions::new(kind);
    options.durable = false;
    options.engine = "memory = \"64MiB\"".to_owned();
    options.replication = ledger::RULES.to_owned();
    let mut cluster = Cluster::start(TWINLOG, &options, ledger::SCHEMA).await;
    cluster.start_engine(0, None);
    cluster.start_engine_under(1, surroundings);
    cluster.says(1, 0, "the link runs").await;
    let load = Ledger::start(&cluster.servers, STYLE, 1);
    (cluster, load)
}

async fn account(cluster: &Cluster, load: Ledger, besides: [i64; 2]) {
    let load = load.finish().await;
    cluster.wait_for(PATIENCE).await;
    let outcome = load.settle(&cluster.servers, besides).await;
    assert_eq!((outcome.lost, outcome.doubled), (0, 0), "{outcome:?}");
    cluster.assert_equal().await;
}

/// How large files of the engine of node b may become from now on.
fn limit(cluster: &Cluster, bytes: &str) {
    let engine = cluster.engines[1].as_ref().unwrap().id().to_string();
    let status = Command::new("prlimit")
        .args(["--pid", &engine, &format!("--fsize={bytes}:unlimited")])
        .status()
        .unwrap();
    assert!(status.success(), "prlimit");
}

async fn the_disk_fills(kind: ServerKind) {
    // The system's own way with a process that writes too much is to kill it.
    let (mut cluster, load) = started(kind, &["env", "--ignore-signal=XFSZ"]).await;
    load.go_on_for(20).await;
    let from = cluster.log_length(1);

    // A transaction that does not fit into memory finds no room on disk.
    limit(&cluster, "1000000");
    let ten = "(SELECT 0 n UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL \
        SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)";
    cluster
        .run(
            0,
            &format!(
                "INSERT INTO d.p SELECT a.n + 10 * b.n + 100 * c.n + 1000 * e.n + 10000 * f.n, 1 \
                 FROM {ten} a, {ten} b, {ten} c, {ten} e, {ten} f"
            ),
        )
        .await;
    let line = cluster.says(1, from, "the link halted").await;
    for words in [
        "a transaction too large for memory cannot be kept on disk",
        FULL,
        "data/b",
    ] {
        assert!(line.contains(words), "{words:?}: {line}");
    }

    // Room is made, and it goes on. Then the store itself finds none. (The log of the engine is a file
    // too, and has to have its room.)
    cluster.kill_engine(1);
    let from = cluster.log_length(1);
    cluster.start_engine_under(1, &["env", "--ignore-signal=XFSZ"]);
    cluster.says(1, from, "the link runs").await;
    cluster.wait_for(PATIENCE).await;
    let from = cluster.log_length(1);
    limit(&cluster, &(from + 20_000).to_string());
    let line = cluster.says(1, from, "the link halted").await;
    for words in [
        "data/b/positions",
        FULL,
        "check the disk and its free space",
    ] {
        assert!(line.contains(words), "{words:?}: {line}");
    }
    load.go_on_for(20).await;

    // Started with the disk still full: refused, and the store stays where it is.
    cluster.kill_engine(1);
    let from = cluster.log_length(1);
    let full = format!("--fsize={}:unlimited", from + 4000);
    cluster.start_engine_under(1, &["env", "--ignore-signal=XFSZ", "prlimit", &full]);
    let status = cluster.ended(1).await;
    assert_eq!(status.code(), Some(1), "{}", cluster.log(1));
    let line = cluster.says(1, from, "positions: ").await;
    assert!(line.contains("check the disk"), "{line}");
    let log = cluster.log(1);
    assert!(!log.contains("panicked"), "{log}");

    let from = cluster.log_length(1);
    cluster.start_engine(1, None);
    cluster.says(1, from, "the link runs").await;
    account(&cluster, load, [1, 0]).await;
}

/// Root may write where nobody may; so the engine runs without that right of root's.
async fn a_store_that_may_only_be_read(kind: ServerKind) {
    let (mut cluster, load) = started(kind, &[]).await;
    load.go_on_for(20).await;
    cluster.kill_engine(1);
    let folder = cluster.folder().join("data/b");
    let unprivileged: &[&str] = if std::fs::metadata(&folder).unwrap().uid() == 0 {
        &["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    } else {
        &[]
    };
    let before = everything(&folder);
    set_writable(&folder, false);
    let from = cluster.log_length(1);
    cluster.start_engine_under(1, unprivileged);
    let status = cluster.ended(1).await;
    assert_eq!(status.code(), Some(1), "{}", cluster.log(1));
    let line = cluster.says(1, from, "Permission denied").await;
    assert!(
        line.contains("data/b") && line.contains("the owner"),
        "{line}"
    );
    set_writable(&folder, true);
    assert_eq!(everything(&folder), before, "nothing was moved or made");
    let from = cluster.log_length(1);
    cluster.start_engine(1, None);
    cluster.says(1, from, "the link runs").await;
    account(&cluster, load, [0, 0]).await;
}

fn set_writable(path: &Path, writable: bool) {
    let mut mode = std::fs::metadata(path).unwrap().permissions();
    mode.set_mode(if writable {
        mode.mode() | 0o200
    } else {
        mode.mode() & !0o222
    });
    std::fs::set_permissions(path, mode).unwrap();
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            set_writable(&entry.unwrap().path(), writable);
        }
    }
}

/// All paths below, in order.
fn everything(path: &Path) -> Vec<std::path::PathBuf> {
    let mut all = vec![path.to_owned()];
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            all.extend(everything(&entry.unwrap().path()));
        }
    }
    all.sort();
    all
}

/// Of an older and of a newer version of the library that writes it. (That of the records in it is
/// tested where they are written.)
async fn a_store_of_another_version(kind: ServerKind) {
    let (mut cluster, load) = started(kind, &[]).await;
    for (round, version) in ["0.30", "1.2"].into_iter().enumerate() {
        load.go_on_for(20).await;
        cluster.kill_engine(1);
        let conf = cluster.folder().join("data/b/positions/conf");
        // Text with a checksum behind it, which the library does not insist on.
        let conf_text = std::fs::read(&conf).unwrap();
        let text = String::from_utf8_lossy(&conf_text[..conf_text.len() - 4]).into_owned();
        assert!(text.contains("version: 0.34"), "{text:?}");
        let mut changed = text.replace("0.34", version).into_bytes();
        changed.extend(&conf_text[conf_text.len() - 4..]);
        std::fs::write(&conf, changed).unwrap();
        let from = cluster.log_length(1);
        cluster.start_engine(1, None);
        let line = cluster.says(1, from, "was moved aside").await;
        assert!(line.contains("positions.damaged-"), "{line}");
        let line = cluster.says(1, from, "the link runs").await;
        assert!(line.contains("by the marker row"), "{line}");
        let aside = std::fs::read_dir(cluster.folder().join("data/b"))
            .unwrap()
            .filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                name.to_string_lossy().starts_with("positions.damaged-")
            });
        assert_eq!(aside.count(), round + 1);
    }
    account(&cluster, load, [0, 0]).await;
}
