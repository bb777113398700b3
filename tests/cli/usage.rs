//! Everything that needs no server.

use std::os::unix::fs::PermissionsExt as _;

use crate::{run, twinlog};

const GOOD: &str = r#"
[engine]
data_dir = "state"
[[node]]
name = "a"
url = "mysql://twinlog:s3cret@127.0.0.1:1"
[[node]]
name = "b"
url = "mysql://twinlog:s3cret@127.0.0.1:2"
"#;

fn folder(config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("twinlog.toml");
    std::fs::write(&file, config).unwrap();
    // Whatever the umask is.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    folder
}

#[test]
fn help_names_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let help = run(folder.path(), &["--help"]);
    assert_eq!(help.code, Some(0));
    for command in [
        "check",
        "init",
        "run",
        "wait",
        "status",
        "positions",
        "verify",
        "demo",
        "bench",
        "completions",
    ] {
        assert!(
            help.out
                .lines()
                .any(|line| line.trim_start().starts_with(command)),
            "{command} is not in {}",
            help.out
        );
        let own = run(folder.path(), &[command, "--help"]);
        assert_eq!(own.code, Some(0), "{}", own.err);
        assert!(own.out.contains("--config"), "{}", own.out);
    }
    let version = run(folder.path(), &["--version"]);
    assert_eq!(
        version.out.trim(),
        concat!("twinlog ", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn wrong_usage_is_code_2() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        &["chekc"][..],
        &[],
        &["wait", "--timeout", "soon"],
        &["positions", "set", "end"],
        &["check", "-v", "-q"],
    ] {
        let ended = run(folder.path(), arguments);
        assert_eq!(ended.code, Some(2), "{arguments:?}: {}", ended.err);
        assert!(ended.out.is_empty());
    }
    assert!(run(folder.path(), &["chekc"]).err.contains("'check'"));
}

#[test]
fn a_missing_config_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let ended = run(folder.path(), &["check", "--config", "no.toml"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.starts_with("error: "), "{}", ended.err);
    assert!(ended.err.contains("no.toml"), "{}", ended.err);
    let ended: crate::Ended = twinlog(folder.path())
        .arg("status")
        .env("TWINLOG_CONFIG", "elsewhere.toml")
        .output()
        .unwrap()
        .into();
    assert!(ended.err.contains("elsewhere.toml"), "{}", ended.err);
}

#[test]
fn an_unknown_key_is_named_with_the_nearest() {
    let folder = folder(&GOOD.replace("data_dir", "data_dri"));
    let ended = run(folder.path(), &["run"]);
    assert_eq!(ended.code, Some(1));
    for part in [
        "twinlog.toml",
        "line 3",
        "'data_dri'",
        "did you mean 'data_dir'",
    ] {
        assert!(ended.err.contains(part), "'{part}' is not in {}", ended.err);
    }
    assert!(
        !ended.err.contains("Config("),
        "a Debug dump: {}",
        ended.err
    );
}

#[test]
fn unreachable_nodes_are_findings_and_no_secret_is_shown() {
    let folder = folder(GOOD);
    let ended = run(folder.path(), &["check", "-vvv"]);
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    assert!(
        ended.out.contains("FAIL") && ended.out.contains("127.0.0.1:1"),
        "{}",
        ended.out
    );
    assert!(
        ended.out.contains("0 passed") && ended.out.contains("2 failed"),
        "{}",
        ended.out
    );
    assert!(!ended.out.contains('\u{1b}'), "colours without a terminal");
    let both = format!("{}{}", ended.out, ended.err);
    assert!(!both.contains("s3cret"), "{both}");

    let ended = run(folder.path(), &["check", "--json"]);
    assert_eq!(ended.code, Some(1));
    let report = ended.json();
    assert_eq!(report["ok"], false);
    assert_eq!(report["fail"], 2);
    assert_eq!(
        report["findings"][0]["level"], "warn",
        "the file is readable by everyone"
    );
    assert_eq!(report["findings"][1]["subject"], "server.reachable");

    let ended = run(folder.path(), &["check", "--node", "c"]);
    assert!(
        ended.err.contains("no node 'c'") && ended.err.contains("a, b"),
        "{}",
        ended.err
    );
}

#[test]
fn errors_have_their_causes() {
    let folder = folder(GOOD);
    for command in ["wait", "verify"] {
        let ended = run(folder.path(), &[command]);
        assert_eq!(ended.code, Some(1), "{command}");
        assert!(
            ended.err.contains("\n  caused by: "),
            "{command}: {}",
            ended.err
        );
        assert!(ended.out.is_empty(), "{}", ended.out);
    }
    let ended = run(folder.path(), &["init"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("nothing was changed"), "{}", ended.err);
    let ended = run(folder.path(), &["status"]);
    assert!(ended.err.contains("listen = "), "{}", ended.err);
}

#[test]
fn positions_are_not_set_without_a_yes() {
    let folder = folder(GOOD);
    let line = ["positions", "set", "--origin", "a", "--target", "b", "end"];
    let ended = run(folder.path(), &line);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("--yes"), "{}", ended.err);
}

#[test]
fn completions_for_shells() {
    let folder = tempfile::tempdir().unwrap();
    for (shell, mark) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef twinlog"),
        ("fish", "complete -c twinlog"),
    ] {
        let ended = run(folder.path(), &["completions", shell]);
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        assert!(
            ended.out.contains(mark) && ended.out.contains("positions"),
            "{shell}"
        );
    }
}

#[test]
fn logs_as_json_and_wrong_filters() {
    let folder = folder(GOOD);
    let ended = run(
        folder.path(),
        &["wait", "--log-format", "json", "--log-filter", "trace"],
    );
    let lines: Vec<serde_json::Value> = ended
        .err
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(!lines.is_empty(), "{}", ended.err);
    assert!(lines.iter().all(|line| line["level"].is_string()));
    assert!(!ended.err.contains("s3cret"));
    let ended = run(folder.path(), &["wait", "--log-filter", "twinlog=loud"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("--log-filter"), "{}", ended.err);
}
