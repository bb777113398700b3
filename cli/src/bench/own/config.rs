//! The config file of a benchmark's engines between servers that are there anyway: the user's own, with
//! another schema, other folders and addresses, and no database but the benchmark's.

use std::path::Path;

use anyhow::Context as _;
use toml::{Table, Value};

use super::{DATABASE, SCHEMA};

/// What differs from the user's file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Changes<'a> {
    /// Folder of the user's file, where its relative paths begin.
    pub(super) folder: &'a Path,
    /// Where the engines keep their positions.
    pub(super) data_dir: &'a Path,
    /// Ports of this machine, one for each node's engine.
    pub(super) ports: &'a [u16],
    /// Lines for `[replication]`.
    pub(super) settings: &'a [String],
}

/// The text of the engines' file, made of the user's.
///
/// Conflict rules are left out, since they name other tables, and so is `drift`: a difference must not
/// be mended in silence while rows are compared.
pub(super) fn derive(text: &str, changes: Changes<'_>) -> anyhow::Result<String> {
    let mut file: Table = text.parse().context("the config file cannot be read")?;
    let section = |file: &mut Table, name: &str, values: Vec<(&str, Value)>| {
        let section = file
            .entry(name)
            .or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(section) = section {
            for (key, value) in values {
                section.insert(key.to_owned(), value);
            }
        }
    };
    let data_dir = changes.data_dir.to_string_lossy().into_owned();
    let engine = vec![("data_dir", data_dir.into()), ("schema", SCHEMA.into())];
    section(&mut file, "engine", engine);
    let databases = Value::Array(vec![DATABASE.into()]);
    section(&mut file, "replication", vec![("databases", databases)]);
    file.remove("conflict");
    if let Some(Value::Table(replication)) = file.get_mut("replication") {
        replication.remove("drift");
        for line in changes.settings {
            let setting: Table = line
                .parse()
                .with_context(|| format!("--set: {line:?} is no line of a config file"))?;
            for (key, value) in setting {
                anyhow::ensure!(
                    key != "databases",
                    "--set: only the database {DATABASE} is replicated"
                );
                replication.insert(key, value);
            }
        }
    }
    if let Some(Value::Array(nodes)) = file.get_mut("node") {
        for (node, port) in nodes.iter_mut().zip(changes.ports) {
            let Value::Table(node) = node else { continue };
            node.insert("listen".to_owned(), format!("127.0.0.1:{port}").into());
            for key in ["password_file", "ssl_ca"] {
                if let Some(Value::String(path)) = node.get_mut(key) {
                    *path = changes.folder.join(&*path).to_string_lossy().into_owned();
                }
            }
        }
    }
    Ok(file.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinlog_engine::config::Config;

    const TEXT: &str = "[engine]\ndata_dir = \"/var/lib/twinlog\"\nmemory = \"128MiB\"\n\
        [replication]\ndatabases = [\"shop\"]\ndrift = \"repair\"\n\
        [[conflict]]\ntables = \"shop.*\"\npolicy = \"halt\"\n\
        [[node]]\nname = \"east\"\nurl = \"mysql://twinlog:secret@10.0.0.1:3306\"\nlisten = \"10.0.0.1:7401\"\n\
        [[node]]\nname = \"west\"\nurl = \"mysql://twinlog:secret@10.0.0.2:3306\"\n";

    fn derived(settings: &[String]) -> anyhow::Result<Config> {
        let changes = Changes {
            folder: Path::new("/etc/twinlog"),
            data_dir: Path::new("/tmp/bench"),
            ports: &[7001, 7002],
            settings,
        };
        Ok(Config::parse(&derive(TEXT, changes)?, &|_| None)?)
    }

    #[test]
    fn nothing_of_the_users_is_replicated_or_written_to() {
        let config = derived(&[]).unwrap();
        assert_eq!(config.engine.data_dir, Path::new("/tmp/bench"));
        assert_eq!(config.engine.schema, SCHEMA);
        assert_eq!(config.engine.memory, 128 << 20);
        assert_eq!(config.replication.databases, [DATABASE]);
        assert_eq!(
            config.replication.drift,
            twinlog_engine::config::DriftPolicy::Halt
        );
        assert!(config.conflicts.sections().is_empty());
        let listen: Vec<String> = config
            .nodes
            .iter()
            .map(|node| node.listen.unwrap().to_string())
            .collect();
        assert_eq!(listen, ["127.0.0.1:7001", "127.0.0.1:7002"]);
        assert_eq!(config.nodes[1].address(), "10.0.0.2:3306");
    }

    #[test]
    fn settings_are_taken_but_no_databases() {
        let config = derived(&["group_transactions = 7".to_owned()]).unwrap();
        assert_eq!(config.replication.group_transactions, 7);
        for wrong in ["databases = [\"shop\"]", "group_transactions"] {
            let error = derived(&[wrong.to_owned()]).unwrap_err();
            assert!(error.to_string().starts_with("--set"), "{error}");
        }
    }

    #[test]
    fn relative_paths_begin_at_the_users_file() {
        let text = TEXT.replace("twinlog:secret@", "twinlog@").replace(
            "[[node]]",
            "[[node]]\npassword_file = \"password\"\nssl_ca = \"/etc/ca.pem\"",
        );
        let changes = Changes {
            folder: Path::new("/etc/twinlog"),
            data_dir: Path::new("/tmp/bench"),
            ports: &[7001, 7002],
            settings: &[],
        };
        let text = derive(&text, changes).unwrap();
        assert_eq!(text.matches("\"/etc/twinlog/password\"").count(), 2);
        assert_eq!(text.matches("\"/etc/ca.pem\"").count(), 2);
    }
}
