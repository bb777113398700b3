//! docs/operating.md promises, fault by fault, what an operator sees and which test shows it. The words must
//! be those of the code, and the tests must be there and be run.

use std::path::{Path, PathBuf};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

/// The rows of the table under `## Faults`, as cells.
fn faults() -> Vec<Vec<String>> {
    let text = read("docs/operating.md");
    let table = text.split("\n## Faults\n").nth(1).unwrap();
    let table = table.split("\n## ").next().unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| "));
    let cells = |row: &str| row.split('|').map(|cell| cell.trim().to_owned()).collect();
    // Its head in front.
    rows.skip(1).map(cells).collect()
}

/// What stands between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

fn sources(folder: PathBuf, text: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(path, text);
        } else {
            text.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
}

/// All of the code, with literals that go on in the next line put together.
fn code() -> String {
    let mut text = String::new();
    for package in ["engine/src", "cli/src"] {
        sources(Path::new(ROOT).join(package), &mut text);
    }
    let mut pieces = text.split("\\\n");
    let mut joined = pieces.next().unwrap().to_owned();
    for piece in pieces {
        joined.push_str(piece.trim_start());
    }
    joined
}

#[test]
fn messages_are_those_of_the_code() {
    let code = code();
    let mut checked = 0;
    for row in faults() {
        assert_eq!(row.len(), 7, "five cells: {row:?}");
        for message in quoted(&row[3]) {
            // `..` stands for what differs.
            for part in message.split("..") {
                let part = part.trim_matches([' ', ':', ',']);
                // Fields of the log are not written as they are printed.
                if part.len() > 3 && !part.ends_with('=') {
                    assert!(
                        code.contains(part),
                        "{part:?} of {message:?} is nowhere in the code"
                    );
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 20, "{checked}");
}

#[test]
fn tests_are_there() {
    let mut checked = 0;
    for row in faults() {
        let (mut suite, mut module) = (String::new(), String::new());
        assert!(row[5].contains('`'), "no test: {row:?}");
        for named in quoted(&row[5]) {
            let mut path = named;
            if let Some((of, rest)) = named.split_once(' ') {
                (suite, path) = (of.to_owned(), rest);
                module.clear();
            }
            let unit = format!("engine/src/{}.rs", path.replace("::", "/"));
            if suite.is_empty() || Path::new(ROOT).join(&unit).exists() {
                let size = "tests/size/main.rs".to_owned();
                let text = read(if path == "size" { size } else { unit });
                assert!(
                    text.contains("::test") || text.contains("#[test]"),
                    "{named}: no tests"
                );
                checked += 1;
                continue;
            }
            let mut name = path;
            if let Some((of, rest)) = path.split_once("::") {
                (module, name) = (of.to_owned(), rest);
            } else if module.is_empty() {
                (module, name) = (path.to_owned(), "*");
            }
            let text = read(format!("tests/{suite}/{module}.rs"));
            if name != "*" {
                let declared = format!("async fn {name}(");
                let (before, _) = text
                    .split_once(&declared)
                    .unwrap_or_else(|| panic!("{named}"));
                let by_itself =
                    before.trim_end().ends_with(")]") && before.contains("#[tokio::test");
                let lists = text.split("on_both!(").skip(1);
                let mut listed =
                    lists.flat_map(|list| list.split(')').next().unwrap_or_default().split(','));
                assert!(
                    by_itself || listed.any(|of_list| of_list.trim() == name),
                    "{named} is not run"
                );
            }
            checked += 1;
        }
    }
    assert!(checked > 30, "{checked}");
}
