//! The text of the config file to a checked [`Config`].
//!
//! Walks the parsed tree by hand rather than through serde: every error then knows its line, and an
//! unknown key its nearest right one. The parser's own messages are cut to their first line, since
//! the rest would quote the file, passwords included.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::section::{Problem, Section, at, nearest};
use super::{
    Config, DdlPolicy, DriftPolicy, EngineConfig, JournalConfig, MAX_NODES, NodeConfig,
    ReplicationConfig, RowEventPolicy, server,
};
use crate::apply::lane::MOST_LANES;
use crate::conflict::policy::Policy;
use crate::conflict::rules::{ColumnRule, ConflictRule, ConflictRules};

const TOP: &[&str] = &["engine", "replication", "journal", "conflict", "node"];
const ENGINE: &[&str] = &[
    "data_dir",
    "schema",
    "heartbeat",
    "silence",
    "backoff_min",
    "backoff_max",
    "shutdown_timeout",
    "memory",
];
const REPLICATION: &[&str] = &[
    "databases",
    "ddl",
    "drift",
    "row_events",
    "group_transactions",
    "group_rows",
    "group_bytes",
    "group_time",
    "apply_connections",
    "queue_bytes",
    "window_bytes",
];
const JOURNAL: &[&str] = &["keep"];
const CONFLICT: &[&str] = &["tables", "policy", "columns"];
const NODE: &[&str] = &[
    "name",
    "url",
    "password_file",
    "password_env",
    "ssl_ca",
    "listen",
];

/// Sections and their keys, to say where a misplaced key belongs.
const SECTIONS: &[(&str, &[&str])] = &[
    ("[engine]", ENGINE),
    ("[replication]", REPLICATION),
    ("[journal]", JOURNAL),
    ("[[conflict]]", CONFLICT),
    ("[[node]]", NODE),
];

/// How many heartbeats may be missing, unless `silence` says otherwise.
const MISSED_HEARTBEATS: u32 = 5;
const MIB: usize = 1 << 20;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Parses and checks. Relative paths start at `folder`.
pub(super) fn parse(
    text: &str,
    folder: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, Problem> {
    let document = DeTable::parse(text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        at(
            text,
            &span,
            error.message().lines().next().unwrap_or_default(),
        )
    })?;
    let root = document.get_ref();
    for key in root.keys() {
        match key.get_ref().as_ref() {
            name if TOP.contains(&name) => {}
            name => {
                let belongs = SECTIONS.iter().find(|(_, keys)| keys.contains(&name));
                let problem = match (belongs, nearest(name, TOP.iter().copied())) {
                    (Some((section, _)), _) => {
                        format!("unknown key '{name}': it belongs in {section}")
                    }
                    (None, Some(near)) => format!("unknown key '{name}': did you mean '{near}'?"),
                    (None, None) => format!(
                        "unknown key '{name}': the sections are [engine], [replication], [journal], \
                         [[conflict]], [[node]]"
                    ),
                };
                return Err(at(text, &key.span(), problem));
            }
        }
    }

    let engine = engine(text, root.get("engine"), folder)?;
    let replication = replication(text, root.get("replication"), &engine)?;
    let journal = journal(text, root.get("journal"))?;
    let conflicts = conflicts(text, root.get("conflict"))?;
    let mut warnings = Vec::new();
    let mut nodes = nodes(text, root.get("node"), folder, env, &mut warnings)?;
    for node in &mut nodes {
        node.silence = engine.silence;
    }
    Ok(Config {
        engine,
        replication,
        journal,
        conflicts,
        nodes,
        warnings,
    })
}

/// Whether the text holds a password itself (rather than saying where one is).
pub(super) fn holds_password(text: &str) -> bool {
    let Ok(document) = DeTable::parse(text) else {
        return false;
    };
    let Some(DeValue::Array(nodes)) = document.get_ref().get("node").map(Spanned::get_ref) else {
        return false;
    };
    nodes
        .iter()
        .filter_map(|node| node.get_ref().get("url")?.get_ref().as_str())
        .any(server::url_has_password)
}

fn elsewhere(title: &str) -> Vec<(&'static str, &'static [&'static str])> {
    SECTIONS
        .iter()
        .filter(|(section, _)| *section != title)
        .copied()
        .collect()
}

fn engine<'a>(
    text: &'a str,
    value: Option<&'a Spanned<DeValue<'a>>>,
    folder: &Path,
) -> Result<EngineConfig, Problem> {
    let title = "[engine]";
    let section = Section::open(text, title, value, ENGINE, &elsewhere(title))?;
    let data_dir = section.required("data_dir", "\"/var/lib/twinlog\"")?;
    if data_dir.is_empty() {
        return Err(section.problem("data_dir", "is empty"));
    }
    let schema = section.string("schema")?.unwrap_or("twinlog");
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if schema.is_empty() || schema.len() > 64 || !schema.chars().all(plain) {
        return Err(section.problem("schema", "must be 1 to 64 of the characters a-z 0-9 _"));
    }
    if super::SERVERS_OWN.contains(&schema) {
        return Err(section.problem("schema", format!("'{schema}' is the server's own database")));
    }
    let longest = 10 * MILLISECOND..=HOUR;
    let first = section.duration("backoff_min", 250 * MILLISECOND, longest.clone())?;
    let last = section.duration("backoff_max", (30 * SECOND).max(first), longest)?;
    if first > last {
        return Err(section.problem("backoff_max", "is less than backoff_min"));
    }
    // The server counts heartbeats in milliseconds; longer than five minutes and a dead connection
    // goes unnoticed for as long.
    let heartbeat = section.duration("heartbeat", SECOND, 50 * MILLISECOND..=300 * SECOND)?;
    // Room for a server that is busy, also where heartbeats are very short.
    let usual = MISSED_HEARTBEATS * heartbeat + 5 * SECOND;
    let silence = section.duration("silence", usual, 500 * MILLISECOND..=HOUR)?;
    if silence < 2 * heartbeat {
        return Err(section.problem(
            "silence",
            "is less than twice the heartbeat: a connection that is well would count as broken",
        ));
    }
    Ok(EngineConfig {
        data_dir: folder.join(data_dir),
        schema: schema.to_owned(),
        heartbeat,
        silence,
        backoff: (first, last),
        shutdown_timeout: section.duration("shutdown_timeout", 30 * SECOND, SECOND..=HOUR)?,
        memory: section.size("memory", 512 * MIB, 64 * MIB..=1024 * 1024 * MIB)?,
        engines: 1,
    })
}

fn replication<'a>(
    text: &'a str,
    value: Option<&'a Spanned<DeValue<'a>>>,
    engine: &EngineConfig,
) -> Result<ReplicationConfig, Problem> {
    let title = "[replication]";
    let section = Section::open(text, title, value, REPLICATION, &elsewhere(title))?;
    let databases: Vec<String> = section
        .strings("databases")?
        .into_iter()
        .map(str::to_owned)
        .collect();
    if section.value("databases").is_some() && databases.is_empty() {
        return Err(section.problem(
            "databases",
            "the list is empty: nothing would be replicated; leave the key out for all databases",
        ));
    }
    for pattern in &databases {
        check_glob(pattern, &engine.schema)
            .map_err(|problem| section.problem("databases", format!("'{pattern}' {problem}")))?;
    }
    let ddl = match section.string("ddl")? {
        None | Some("replicate") => DdlPolicy::Replicate,
        Some("ignore") => DdlPolicy::Ignore,
        Some("halt") => DdlPolicy::Halt,
        Some(other) => {
            return Err(section.problem(
                "ddl",
                format!("'{other}' is none of \"replicate\", \"ignore\", \"halt\""),
            ));
        }
    };
    let drift = match section.string("drift")? {
        None | Some("halt") => DriftPolicy::Halt,
        Some("repair") => DriftPolicy::Repair,
        Some(other) => {
            let problem = format!("'{other}' is none of \"halt\", \"repair\"");
            return Err(section.problem("drift", problem));
        }
    };
    let row_events = match section.string("row_events")? {
        None | Some("auto") => RowEventPolicy::Auto,
        Some("always") => RowEventPolicy::Always,
        Some("never") => RowEventPolicy::Never,
        Some(other) => {
            let problem = format!("'{other}' is none of \"auto\", \"always\", \"never\"");
            return Err(section.problem("row_events", problem));
        }
    };
    // What is left is for one transaction in hand, statements and what the allocator keeps.
    let most = engine.memory / 4;
    let part = |key| {
        let bytes = section.size(
            key,
            (64 * MIB).min(engine.memory / 8),
            MIB..=64 * 1024 * MIB,
        )?;
        if bytes > most {
            let problem = "is more than a quarter of [engine] memory: raise that, or lower this";
            return Err(section.problem(key, problem));
        }
        Ok(bytes)
    };
    Ok(ReplicationConfig {
        databases,
        ddl,
        drift,
        row_events,
        group_transactions: section.number("group_transactions", 5000, 1..=100_000)?,
        group_rows: section.number("group_rows", 20_000, 1..=1_000_000)?,
        group_bytes: section.size(
            "group_bytes",
            (16 * MIB).min(engine.memory / 32),
            MIB..=1024 * MIB,
        )?,
        group_time: section.duration("group_time", 250 * MILLISECOND, MILLISECOND..=60 * SECOND)?,
        apply_connections: section.number("apply_connections", 2, 1..=MOST_LANES)?,
        window_bytes: part("window_bytes")?,
        queue_bytes: part("queue_bytes")?,
    })
}

fn journal<'a>(
    text: &'a str,
    value: Option<&'a Spanned<DeValue<'a>>>,
) -> Result<JournalConfig, Problem> {
    let title = "[journal]";
    let section = Section::open(text, title, value, JOURNAL, &elsewhere(title))?;
    Ok(JournalConfig {
        keep: section.duration("keep", 30 * DAY, HOUR..=3650 * DAY)?,
    })
}

fn conflicts<'a>(
    text: &'a str,
    value: Option<&'a Spanned<DeValue<'a>>>,
) -> Result<ConflictRules, Problem> {
    let tables = match value.map(|value| (value.span(), value.get_ref())) {
        None => return Ok(ConflictRules::default()),
        Some((_, DeValue::Array(tables))) => tables,
        Some((span, _)) => {
            let problem = "write [[conflict]], one section for each rule";
            return Err(at(text, &span, problem));
        }
    };
    let title = "[[conflict]]";
    let elsewhere = elsewhere(title);
    let mut rules: Vec<ConflictRule> = Vec::new();
    for table in tables {
        let section = Section::open(text, title, Some(table), CONFLICT, &elsewhere)?;
        let patterns = match section.value("tables").map(Spanned::get_ref) {
            Some(DeValue::String(pattern)) => vec![pattern.as_ref()],
            _ => section.strings("tables")?,
        };
        if patterns.is_empty() {
            let problem = "names no table; write tables = \"shop.*\" or a list of such";
            return Err(section.problem("tables", problem));
        }
        for pattern in &patterns {
            if pattern.split('.').count() != 2 || pattern.split('.').any(str::is_empty) {
                let problem = format!("'{pattern}' is not of the form \"database.table\"");
                return Err(section.problem("tables", problem));
            }
            let twice = rules.iter().any(|rule| {
                let mut known = rule.tables.iter();
                known.any(|known| known.eq_ignore_ascii_case(pattern))
            });
            if twice {
                let problem = format!("'{pattern}' has a rule already: two rules for one table");
                return Err(section.problem("tables", problem));
            }
        }
        let (policy, column_merge) = match section.string("policy")? {
            None | Some("last_write_wins") => (Policy::LastWriteWins, false),
            Some("node_priority") => (Policy::NodePriority, false),
            Some("halt") => (Policy::Halt, false),
            Some("column_merge") => (Policy::LastWriteWins, true),
            Some(other @ ("keep_local" | "take_remote" | "local_wins" | "remote_wins")) => {
                return Err(section.problem(
                    "policy",
                    format!(
                        "'{other}' makes the nodes differ at the first conflict, for each would keep \
                         the other's row: use node_priority, which names one winner for both"
                    ),
                ));
            }
            Some(other) => {
                const NAMES: [&str; 4] =
                    ["last_write_wins", "node_priority", "column_merge", "halt"];
                let hint = nearest(other, NAMES.into_iter())
                    .map_or_else(String::new, |near| format!("; did you mean '{near}'?"));
                let problem = format!("'{other}' is none of {}{hint}", NAMES.join(", "));
                return Err(section.problem("policy", problem));
            }
        };
        rules.push(ConflictRule {
            tables: patterns.into_iter().map(str::to_owned).collect(),
            policy,
            column_merge,
            columns: column_rules(&section)?,
        });
    }
    Ok(ConflictRules::new(rules))
}

/// `columns = { stock = "delta" }`
fn column_rules(section: &Section<'_>) -> Result<BTreeMap<String, ColumnRule>, Problem> {
    let mut rules = BTreeMap::new();
    let table = match section.value("columns").map(Spanned::get_ref) {
        None => return Ok(rules),
        Some(DeValue::Table(table)) => table,
        Some(_) => {
            let problem = "write columns = { name = \"delta\" }";
            return Err(section.problem("columns", problem));
        }
    };
    for (name, rule) in table {
        let rule = match rule.get_ref() {
            DeValue::String(rule) => rule.as_ref(),
            _ => "",
        };
        let rule = match rule {
            "delta" => ColumnRule::Delta,
            "max" => ColumnRule::Max,
            "min" => ColumnRule::Min,
            "later" => ColumnRule::Later,
            _ => {
                let problem = format!(
                    "column {}: the rules are \"delta\", \"max\", \"min\", \"later\"",
                    name.get_ref()
                );
                return Err(section.problem("columns", problem));
            }
        };
        rules.insert(name.get_ref().to_string(), rule);
    }
    Ok(rules)
}

/// Refuses patterns that cannot mean what they seem to.
fn check_glob(pattern: &str, engine_schema: &str) -> Result<(), String> {
    if pattern.is_empty() || pattern.chars().count() > 64 {
        return Err("must be 1 to 64 characters long".to_owned());
    }
    if pattern.contains(['[', ']', '{', '}', '\\', '`', '/', '!']) {
        return Err("holds a character that is no pattern; only * and ? are".to_owned());
    }
    if pattern.contains('%') {
        return Err("looks like a pattern of LIKE; write * for any run of characters".to_owned());
    }
    if pattern.contains('.') {
        return Err("names a table; databases are replicated as a whole".to_owned());
    }
    let own = super::SERVERS_OWN.iter().copied().chain([engine_schema]);
    if own.into_iter().any(|own| own.eq_ignore_ascii_case(pattern)) {
        return Err("is never replicated: it is the server's or the engine's own".to_owned());
    }
    Ok(())
}

fn nodes<'a>(
    text: &'a str,
    value: Option<&'a Spanned<DeValue<'a>>>,
    folder: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    warnings: &mut Vec<String>,
) -> Result<Vec<NodeConfig>, Problem> {
    let tables = match value.map(|value| (value.span(), value.get_ref())) {
        None => return Err("there is no [[node]]; a cluster has two".to_owned()),
        Some((_, DeValue::Array(tables))) => tables,
        Some((span, _)) => {
            return Err(at(text, &span, "write [[node]], one section for each node"));
        }
    };
    let title = "[[node]]";
    let elsewhere = elsewhere(title);
    let mut nodes: Vec<NodeConfig> = Vec::new();
    for table in tables {
        let section = Section::open(text, title, Some(table), NODE, &elsewhere)?;
        let name = section.required("name", "\"a\"")?;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
        if name.is_empty() || name.len() > 32 || !name.chars().all(plain) {
            let problem = "must be 1 to 32 of the characters a-z 0-9 _ -";
            return Err(section.problem("name", problem));
        }
        let listen = section
            .string("listen")?
            .map(|text| {
                text.parse::<SocketAddr>()
                    .ok()
                    .filter(|address| address.port() != 0)
                    .ok_or_else(|| {
                        let problem = "must be an IP address and a port, as in \"10.0.0.1:7401\"";
                        section.problem("listen", problem)
                    })
            })
            .transpose()?;
        let connection = server::connection(&section, folder, env)?;
        warnings.extend(connection.warnings);
        let node = NodeConfig {
            name: name.to_owned(),
            opts: connection.opts,
            listen,
            silence: Duration::ZERO,
        };
        for other in &nodes {
            if other.name == node.name {
                return Err(section.problem("name", format!("two nodes are named '{name}'")));
            }
            if same_server(other, &node) {
                let problem = format!("the same server as node '{}'", other.name);
                return Err(section.problem("url", problem));
            }
            if listen.is_some() && other.listen == listen {
                let problem = format!("node '{}' listens there already", other.name);
                return Err(section.problem("listen", problem));
            }
        }
        nodes.push(node);
    }
    match nodes.len() {
        0 | 1 => Err(format!(
            "a cluster needs two [[node]] sections, the file has {}",
            nodes.len()
        )),
        count if count > MAX_NODES => Err(format!(
            "{count} nodes are not supported yet: this version joins {MAX_NODES}"
        )),
        _ => Ok(nodes),
    }
}

/// Whether two nodes go to the same place, as far as the text shows it; the preflight asks the
/// servers themselves.
fn same_server(a: &NodeConfig, b: &NodeConfig) -> bool {
    let place = |node: &NodeConfig| {
        let host = node.opts.ip_or_hostname().to_ascii_lowercase();
        let host = match host.as_str() {
            "localhost" | "::1" | "[::1]" => "127.0.0.1".to_owned(),
            _ => host,
        };
        (host, node.opts.tcp_port())
    };
    match (a.opts.socket(), b.opts.socket()) {
        (Some(a), Some(b)) => a == b,
        (None, None) => place(a) == place(b),
        _ => false,
    }
}
