//! What the config file accepts and how it refuses.

use super::*;

const GOOD: &str = r#"
[engine]
data_dir = "/var/lib/twinlog"
[replication]
databases = ["shop", "crm_*"]
[[node]]
name = "a"
url = "mysql://twinlog:s3cret@10.0.0.1:3306"
listen = "10.0.0.1:7401"
[[node]]
name = "b"
url = "mysql://twinlog:s3cret@10.0.0.2"
listen = "10.0.0.2:7401"
"#;

fn parse(text: &str) -> Result<Config> {
    Config::parse(text, &|_| None)
}

/// The message of the error that this text meets.
fn problem(text: &str) -> String {
    let message = parse(text).expect_err("is refused").to_string();
    assert!(!message.contains("s3cret"), "shows a password: {message}");
    message
}

#[track_caller]
fn refused(from: &str, to: &str, expected: &[&str]) {
    assert!(GOOD.contains(from), "the text holds {from}");
    let message = problem(&GOOD.replacen(from, to, 1));
    for part in expected {
        assert!(message.contains(part), "'{part}' is not in: {message}");
    }
}

#[test]
fn a_short_file_gets_the_defaults() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.engine.data_dir, Path::new("/var/lib/twinlog"));
    assert_eq!(config.engine.schema, "twinlog");
    assert_eq!(config.engine.heartbeat, Duration::from_secs(1));
    assert_eq!(config.engine.silence, Duration::from_secs(10));
    assert_eq!(config.nodes[1].silence, Duration::from_secs(10));
    assert_eq!(
        config.engine.backoff,
        (Duration::from_millis(250), Duration::from_secs(30))
    );
    assert_eq!(config.engine.shutdown_timeout, Duration::from_secs(30));
    assert_eq!(config.replication.ddl, DdlPolicy::Replicate);
    assert_eq!(config.replication.group_transactions, 5000);
    assert_eq!(config.replication.group_rows, 20_000);
    assert_eq!(config.replication.group_bytes, 16 << 20);
    assert_eq!(config.replication.group_time, Duration::from_millis(250));
    assert_eq!(config.replication.apply_connections, 2);
    assert_eq!(config.replication.queue_bytes, 64 << 20);
    assert_eq!(config.nodes.len(), 2);
    assert_eq!(config.nodes[0].address(), "10.0.0.1:3306");
    assert_eq!(config.nodes[1].address(), "10.0.0.2:3306");
    assert_eq!(config.nodes[0].opts.pass(), Some("s3cret"));
    assert!(!config.nodes[0].opts.prefer_socket());
    assert!(config.warnings.is_empty());
    assert_eq!(config.node("b").unwrap().name, "b");
    assert!(config.node("c").unwrap_err().to_string().contains("a, b"));
}

#[test]
fn every_key_is_read() {
    let text = GOOD.replace(
        "[replication]",
        r#"schema = "repl"
heartbeat = "500ms"
silence = "3s"
backoff_min = "1s"
backoff_max = "1m"
shutdown_timeout = "5s"
memory = "4GiB"
[replication]
ddl = "halt"
group_transactions = 1_000
group_rows = 10
group_bytes = "2MiB"
group_time = "50ms"
apply_connections = 1
queue_bytes = "1GiB""#,
    );
    let config = parse(&text).unwrap();
    assert_eq!(config.engine.schema, "repl");
    assert_eq!(config.engine.heartbeat, Duration::from_millis(500));
    assert_eq!(config.engine.silence, Duration::from_secs(3));
    assert_eq!(config.engine.backoff.1, Duration::from_secs(60));
    assert_eq!(config.replication.ddl, DdlPolicy::Halt);
    assert_eq!(config.replication.group_transactions, 1000);
    assert_eq!(config.replication.group_rows, 10);
    assert_eq!(config.replication.group_bytes, 2 << 20);
    assert_eq!(config.replication.group_time, Duration::from_millis(50));
    assert_eq!(config.replication.apply_connections, 1);
    assert_eq!(config.replication.queue_bytes, 1 << 30);
    assert_eq!(config.engine.memory, 4 << 30);
}

#[test]
fn queues_are_parts_of_the_memory() {
    refused(
        "[replication]",
        "[replication]\nqueue_bytes = \"129MiB\"",
        &["queue_bytes", "a quarter of [engine] memory"],
    );
    let small = GOOD.replace("[replication]", "memory = \"64MiB\"\n[replication]");
    let small = parse(&small).unwrap();
    assert_eq!(small.replication.queue_bytes, 8 << 20);
    assert_eq!(small.engine.transaction_bytes(), 2 << 20);
    let shared = small.shared_by(2);
    assert_eq!(shared.replication.window_bytes, 4 << 20);
    assert_eq!(shared.engine.transaction_bytes(), 1 << 20);
}

#[test]
fn unknown_keys_name_line_and_nearest() {
    refused(
        "data_dir",
        "heartbaet = \"1s\"\ndata_dir",
        &["line 3", "'heartbaet'", "'heartbeat'"],
    );
    refused("listen", "lisen", &["line 9", "[[node]]", "'listen'"]);
    refused(
        "[replication]",
        "[replicaton]",
        &["line 4", "'replication'"],
    );
    refused(
        "data_dir",
        "ddl = \"halt\"\ndata_dir",
        &["belongs in [replication]"],
    );
    refused(
        "[engine]",
        "name = \"x\"\n[engine]",
        &["line 2", "belongs in [[node]]"],
    );
    refused(
        "data_dir",
        "zzz = 1\ndata_dir",
        &["'zzz'", "the keys there are data_dir"],
    );
    refused(
        "[[node]]",
        "[[conflict]]\ntables = \"*\"\n[[node]]",
        &["database.table"],
    );
}

#[test]
fn broken_toml_names_the_line_and_shows_no_secret() {
    refused("10.0.0.1:3306\"", "10.0.0.1:3306", &["line 8"]);
    refused("[[node]]", "[node", &["line 6"]);
}

#[test]
fn wrong_types_and_limits() {
    refused(
        "\"/var/lib/twinlog\"",
        "7",
        &["line 3", "data_dir", "not a string"],
    );
    refused(
        "data_dir = \"/var/lib/twinlog\"",
        "",
        &["data_dir is missing"],
    );
    refused("\"shop\"", "1", &["databases"]);
    for (line, expected) in [
        ("group_transactions = 0", "between 1 and 100000"),
        ("group_rows = -5", "between 1 and 1000000"),
        ("group_rows = \"5\"", "not a whole number"),
        ("group_bytes = \"1KiB\"", "between 1MiB and 1GiB"),
        ("group_time = \"2m\"", "between 1ms and 1m"),
        ("apply_connections = 0", "between 1 and 4"),
        ("queue_bytes = \"1KiB\"", "between 1MiB and 64GiB"),
        ("queue_bytes = \"lots\"", "not a size"),
        ("ddl = \"maybe\"", "\"replicate\""),
    ] {
        refused(
            "[[node]]",
            &format!("{line}\n[[node]]"),
            &["line 6", expected],
        );
    }
    for (line, expected) in [
        ("heartbeat = \"0s\"", "between 50ms and 5m"),
        ("heartbeat = \"10\"", "a time such as"),
        ("silence = \"1s\"", "twice the heartbeat"),
        (
            "backoff_min = \"1m\"\nbackoff_max = \"1s\"",
            "less than backoff_min",
        ),
        ("schema = \"mysql\"", "own database"),
        ("schema = \"a`b\"", "a-z"),
    ] {
        refused(
            "[replication]",
            &format!("{line}\n[replication]"),
            &[expected],
        );
    }
}

#[test]
fn patterns_that_cannot_be_meant() {
    for (pattern, expected) in [
        ("", "1 to 64"),
        ("[a-z]", "only * and ?"),
        ("shop%", "write *"),
        ("shop.items", "names a table"),
        ("MySQL", "never replicated"),
        ("twinlog", "never replicated"),
    ] {
        refused(
            "\"crm_*\"",
            &format!("\"{pattern}\""),
            &["line 5", expected],
        );
    }
    refused("[\"shop\", \"crm_*\"]", "[]", &["the list is empty"]);
}

#[test]
fn node_counts_names_and_places() {
    let one = &GOOD[..GOOD.rfind("[[node]]").unwrap()];
    assert!(problem(one).contains("the file has 1"));
    let none = &GOOD[..GOOD.find("[[node]]").unwrap()];
    assert!(problem(none).contains("no [[node]]"));
    let three = format!("{GOOD}[[node]]\nname = \"c\"\nurl = \"mysql://u@c\"\n");
    assert!(problem(&three).contains("not supported yet"));
    refused("\"b\"", "\"a\"", &["line 11", "two nodes are named 'a'"]);
    refused("\"b\"", "\"B\"", &["a-z 0-9"]);
    refused(
        "10.0.0.2\"",
        "10.0.0.1\"",
        &["line 12", "the same server as node 'a'"],
    );
    refused(
        "10.0.0.2:7401",
        "10.0.0.1:7401",
        &["line 13", "listens there already"],
    );
    refused(
        "10.0.0.2:7401",
        "localhost:7401",
        &["IP address and a port"],
    );
    let local = GOOD
        .replace("10.0.0.1:3306", "localhost:3306")
        .replace("10.0.0.2\"", "127.0.0.1\"");
    assert!(problem(&local).contains("the same server"));
    let sockets = GOOD
        .replace("10.0.0.1:3306", "localhost?socket=/run/a.sock")
        .replace("10.0.0.2\"", "localhost?socket=/run/b.sock\"");
    assert_eq!(parse(&sockets).unwrap().nodes[0].address(), "/run/a.sock");
    assert!(problem(&sockets.replace("b.sock", "a.sock")).contains("the same server"));
}

#[test]
fn urls_are_explained_and_never_shown() {
    let url = "mysql://twinlog:s3cret@10.0.0.2";
    refused(url, "postgres://twinlog:s3cret@b", &["must be mysql"]);
    refused(url, "mysql://twinlog:s3cret#x@b", &["password_file"]);
    refused(url, "mysql://10.0.0.2", &["names no account"]);
    refused(url, "mysql://twinlog:s3cret@b/shop", &["names a database"]);
    refused(url, "mysql://twinlog:s3cret@b?sslmode=on", &["'sslmode'"]);
    refused(url, "not a url", &["mysql://account"]);
    let config = parse(GOOD).unwrap();
    let shown = format!("{config:?}");
    assert!(
        !shown.contains("s3cret") && shown.contains("10.0.0.1:3306"),
        "{shown}"
    );
    let tls = GOOD.replace("10.0.0.2\"", "10.0.0.2?require_ssl=true\"");
    assert!(parse(&tls).unwrap().nodes[1].opts.ssl_opts().is_some());
}

#[test]
fn passwords_from_a_file_or_the_environment() {
    let bare = GOOD.replace("twinlog:s3cret@10.0.0.2", "twinlog@10.0.0.2");
    let with = |line: &str| bare.replace("name = \"b\"", &format!("name = \"b\"\n{line}"));
    let env = |name: &str| (name == "B_PASSWORD").then(|| "from env".to_owned());
    let config = Config::parse(&with("password_env = \"B_PASSWORD\""), &env).unwrap();
    assert_eq!(config.nodes[1].opts.pass(), Some("from env"));
    let message = problem(&with("password_env = \"NOT_SET\""));
    assert!(message.contains("NOT_SET is not set"), "{message}");
    let message = problem(&GOOD.replace(
        "name = \"b\"",
        "name = \"b\"\npassword_env = \"B_PASSWORD\"",
    ));
    assert!(message.contains("given twice"), "{message}");

    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("b.secret");
    let file = folder.path().join("cluster.toml");
    std::fs::write(&file, with("password_file = \"b.secret\"")).unwrap();
    let missing = Config::load(&file).unwrap_err().to_string();
    assert!(
        missing.contains("b.secret") && missing.contains("cluster.toml"),
        "{missing}"
    );
    std::fs::write(&secret, "\n").unwrap();
    assert!(
        Config::load(&file)
            .unwrap_err()
            .to_string()
            .contains("is empty")
    );
    std::fs::write(&secret, "from file\n").unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(&file, 0o640);
        mode(&secret, 0o644);
        let config = Config::load(&file).unwrap();
        assert_eq!(config.nodes[1].opts.pass(), Some("from file"));
        assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
        assert!(config.warnings[0].contains("b.secret"));
        mode(&secret, 0o600);
        assert!(Config::load(&file).unwrap().warnings.is_empty());
        // The url of node a holds a password.
        mode(&file, 0o644);
        let warnings = Config::load(&file).unwrap().warnings;
        assert!(warnings[0].contains("cluster.toml"), "{warnings:?}");
    }
}

#[test]
fn relative_paths_start_at_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cluster.toml");
    std::fs::write(&file, GOOD.replace("/var/lib/twinlog", "state")).unwrap();
    let config = Config::load(&file).unwrap();
    assert_eq!(config.engine.data_dir, folder.path().join("state"));
    let missing = Config::load(&folder.path().join("no.toml")).unwrap_err();
    assert!(missing.to_string().contains("no.toml"));
}

#[test]
fn the_digest_covers_what_must_be_agreed_on() {
    let digest = |from: &str, to: &str| parse(&GOOD.replace(from, to)).unwrap().digest();
    let same = digest("", "");
    assert_eq!(same.len(), 16);
    assert_eq!(same, digest("10.0.0.1:3306", "other:3307"));
    assert_eq!(same, digest("/var/lib/twinlog", "/srv/twinlog"));
    assert_eq!(same, digest("\"shop\", \"crm_*\"", "\"crm_*\", \"SHOP\""));
    assert_ne!(same, digest("\"a\"", "\"c\""));
    assert_ne!(same, digest("crm_*", "crm_?"));
    assert_ne!(
        same,
        digest(
            "[[node]]\nname = \"a\"",
            "ddl = \"halt\"\n[[node]]\nname = \"a\""
        )
    );
    // Stable over versions: engines of two versions must be able to tell that they agree.
    assert_eq!(same, "3b088bd168a09d0c");
}

#[test]
fn patterns_match() {
    for (pattern, text, matches) in [
        ("*", "", true),
        ("a*c", "abbbc", true),
        ("a*c", "abbb", false),
        ("?b*", "ABc", true),
        ("a", "ab", false),
        ("*a*b*", "xxaxxbxx", true),
        ("crm_?", "crm_", false),
        ("?l*", "\u{f6}l\u{e9}", true),
        ("*\u{f6}*?", "x\u{f6}", false),
    ] {
        assert_eq!(glob_matches(pattern, text), matches, "{pattern} {text}");
    }
    let stars = "*a".repeat(30);
    assert!(!glob_matches(&stars, &"a".repeat(29)));
}

#[test]
fn what_is_replicated() {
    let replication = parse(GOOD).unwrap().replication;
    assert!(replication.includes("shop", "twinlog"));
    assert!(replication.includes("crm_eu", "twinlog"));
    assert!(!replication.includes("other", "twinlog"));
    let all = ReplicationConfig {
        databases: Vec::new(),
        ..replication
    };
    assert!(all.includes("other", "twinlog"));
    assert!(!all.includes("Twinlog", "twinlog") && !all.includes("mysql", "twinlog"));
}
