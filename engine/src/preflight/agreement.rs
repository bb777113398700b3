//! How the nodes fit together: two different servers of one kind, with the same schema.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt as _;

use super::columns;
use super::facts::{Name, NodeFacts, Table};
use super::session::Session;
use super::tables::dotted;
use super::{Finding, some_of};
use crate::config::Config;

/// Reads what [`AutoIncrement`] holds: increment, then offset.
pub const AUTO_INCREMENT_QUERY: &str =
    "SELECT @@GLOBAL.auto_increment_increment, @@GLOBAL.auto_increment_offset";

/// How a node numbers new rows: `offset`, `offset + increment`, ...
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AutoIncrement {
    /// Name of the node.
    pub node: String,
    /// `auto_increment_increment`
    pub increment: u64,
    /// `auto_increment_offset`
    pub offset: u64,
}

/// Whether no two nodes can give out the same AUTO_INCREMENT value.
#[must_use]
pub fn auto_increment_findings(settings: &[AutoIncrement]) -> Vec<Finding> {
    let subject = "server.auto-increment";
    let nodes = settings.len() as u64;
    let mut findings = Vec::new();
    for (index, node) in settings.iter().enumerate() {
        let AutoIncrement {
            node: name,
            increment,
            offset,
        } = node;
        let remedy = format!(
            "SET GLOBAL auto_increment_increment = {nodes}, GLOBAL auto_increment_offset = {}; and \
             the same in my.cnf, then reconnect every client",
            index + 1
        );
        let problem = if *increment < nodes {
            Some(format!(
                "auto_increment_increment = {increment} with {nodes} nodes: they give out the same \
                 values"
            ))
        } else if offset > increment {
            // The server then ignores the offset.
            Some(format!(
                "auto_increment_offset = {offset} is above auto_increment_increment = {increment}, \
                 so the server ignores it"
            ))
        } else {
            // Two such rows of numbers meet exactly where the offsets agree modulo the greatest
            // common divisor of the increments.
            settings[..index]
                .iter()
                .find(|other| {
                    let step = gcd(*increment, other.increment).max(1);
                    offset % step == other.offset % step
                })
                .map(|other| {
                    format!(
                        "auto_increment_offset = {offset} with increment {increment} meets node \
                         {}'s {} with {}: both give out the same values",
                        other.node, other.offset, other.increment
                    )
                })
        };
        findings.push(match problem {
            Some(problem) => Finding::fail(subject, problem).remedy(remedy).on(name),
            None => Finding::pass(
                subject,
                format!("auto_increment_increment = {increment}, auto_increment_offset = {offset}"),
            )
            .on(name),
        });
    }
    findings
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Whether two nodes are one server, reached by two ways: a lock that one session takes is then
/// seen as taken by the other. Exact on both servers, needs no privilege, and unlike names of hosts
/// and folders it is not fooled by copies of one machine.
pub(super) async fn same_server(looked: &mut [(Session, NodeFacts)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let token: u64 = rand::rng().random();
    for first in 0..looked.len() {
        let lock = format!("twinlog_check_{token:016x}_{first}");
        let Some((session, holder)) = looked.get_mut(first) else {
            continue;
        };
        let holder = holder.node.clone();
        let taken = session
            .value(&format!("SELECT GET_LOCK('{lock}', 0)"))
            .await;
        if !matches!(taken.as_ref().map(Option::as_deref), Ok(Some("1"))) {
            continue;
        }
        for (session, other) in looked.iter_mut().skip(first + 1) {
            let seen = session
                .value(&format!("SELECT IS_USED_LOCK('{lock}')"))
                .await;
            if matches!(seen, Ok(Some(_))) {
                findings.push(
                    Finding::fail(
                        "server.same",
                        format!(
                            "nodes {holder} and {} are one and the same server, reached in two ways",
                            other.node
                        ),
                    )
                    .remedy("correct the url of one of them"),
                );
            }
        }
    }
    findings
}

/// Judges how the nodes fit together.
pub(super) fn findings(config: &Config, nodes: &[NodeFacts]) -> Vec<Finding> {
    let mut findings = flavor(nodes);
    if findings.iter().any(|finding| finding.remedy.is_some()) {
        // Everything below would be noise.
        return findings;
    }
    findings.extend(distinct(nodes));
    let settings: Vec<AutoIncrement> = nodes
        .iter()
        .map(|node| AutoIncrement {
            node: node.node.clone(),
            increment: node.number("auto_increment_increment").unwrap_or(1),
            offset: node.number("auto_increment_offset").unwrap_or(1),
        })
        .collect();
    findings.extend(auto_increment_findings(&settings));
    findings.extend(replication(config, nodes));
    findings.extend(equal_settings(nodes));
    findings.extend(schemas(nodes));
    findings
}

fn flavor(nodes: &[NodeFacts]) -> Vec<Finding> {
    let subject = "cluster.flavor";
    let kinds: BTreeSet<bool> = nodes.iter().map(|node| node.maria).collect();
    let listed: Vec<String> = nodes
        .iter()
        .map(|node| format!("{} runs {}", node.node, node.version))
        .collect();
    if kinds.len() > 1 {
        return vec![
            Finding::fail(
                subject,
                format!(
                    "{}: MySQL and MariaDB cannot be joined with each other, their types, \
                     collations and DDL differ",
                    listed.join(", ")
                ),
            )
            .remedy("use two servers of one kind"),
        ];
    }
    let release = |node: &NodeFacts| -> String {
        node.version
            .split(['.', '-'])
            .take(2)
            .collect::<Vec<_>>()
            .join(".")
    };
    let releases: BTreeSet<String> = nodes.iter().map(release).collect();
    if releases.len() > 1 {
        return vec![Finding::warn(
            subject,
            format!(
                "{}: DDL of the newer one may mean nothing to the older one",
                listed.join(", ")
            ),
        )];
    }
    vec![Finding::pass(subject, listed.join(", "))]
}

fn distinct(nodes: &[NodeFacts]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut twins = |variable: &'static str, subject: &'static str, why: &str, remedy: &str| {
        let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
        let mut found = false;
        for node in nodes {
            let value = node.variable(variable);
            if value.is_empty() || value == "0" {
                continue;
            }
            if let Some(other) = seen.insert(value, &node.node) {
                found = true;
                findings.push(
                    Finding::fail(
                        subject,
                        format!(
                            "nodes {other} and {} both have {variable} = {value}: {why}",
                            node.node
                        ),
                    )
                    .remedy(remedy),
                );
            }
        }
        if !found && !seen.is_empty() {
            let values: Vec<&str> = nodes.iter().map(|node| node.variable(variable)).collect();
            let message = format!("{variable} {} are distinct", values.join(", "));
            findings.push(Finding::pass(subject, message));
        }
    };
    twins(
        "server_id",
        "server.id",
        "what came from where could not be told, and changes would go round",
        "SET GLOBAL server_id = another number; on one of them, and the same in its my.cnf",
    );
    twins(
        "server_uuid",
        "server.uuid",
        "one was copied from the other, and their GTIDs would clash",
        "stop one of them, remove auto.cnf from its data directory and start it again",
    );
    findings
}

/// The servers' own replication beside ours.
fn replication(config: &Config, nodes: &[NodeFacts]) -> Vec<Finding> {
    let subject = "server.replication";
    let mut findings = Vec::new();
    for node in nodes {
        let Some(upstreams) = &node.replication else {
            findings.push(
                Finding::warn(
                    subject,
                    "whether the server's own replication runs cannot be seen with this account",
                )
                .on(&node.node),
            );
            continue;
        };
        let stop = if node.maria {
            "STOP ALL SLAVES; RESET SLAVE ALL;"
        } else {
            "STOP REPLICA; RESET REPLICA ALL;"
        };
        let mut quiet = true;
        for upstream in upstreams {
            let peer = nodes
                .iter()
                .filter(|peer| peer.node != node.node)
                .find(|peer| {
                    !upstream.uuid.is_empty() && upstream.uuid == peer.variable("server_uuid")
                        || upstream.server_id != "0"
                            && !upstream.server_id.is_empty()
                            && upstream.server_id == peer.variable("server_id")
                        || config.nodes.iter().any(|known| {
                            known.name == peer.node
                                && known.opts.socket().is_none()
                                && known
                                    .opts
                                    .ip_or_hostname()
                                    .eq_ignore_ascii_case(&upstream.host)
                                && known.opts.tcp_port().to_string() == upstream.port
                        })
                });
            let place = format!("{}:{}", upstream.host, upstream.port);
            let finding = match (peer, upstream.running) {
                (Some(peer), true) => Finding::fail(
                    subject,
                    format!(
                        "the server replicates from node {} ({place}) by itself: every change \
                         would be applied twice",
                        peer.node
                    ),
                )
                .remedy(stop),
                (Some(peer), false) => Finding::warn(
                    subject,
                    format!(
                        "the server's own replication from node {} ({place}) is set up, though \
                         stopped",
                        peer.node
                    ),
                )
                .remedy(stop),
                (None, _)
                    if !node.is_on("log_replica_updates") && !node.is_on("log_slave_updates") =>
                {
                    Finding::fail(
                        subject,
                        format!(
                            "the server replicates from {place} and does not log what it receives: \
                             it would never reach the other node"
                        ),
                    )
                    .remedy("my.cnf: log_replica_updates = ON (log_slave_updates on MariaDB)")
                }
                (None, _) => Finding::warn(
                    subject,
                    format!(
                        "the server replicates from {place}; what it receives is passed on to the \
                         other node as if it had been written here"
                    ),
                ),
            };
            quiet = false;
            findings.push(finding.on(&node.node));
        }
        if quiet {
            findings.push(Finding::pass(subject, "none of its own").on(&node.node));
        }
    }
    findings
}

fn equal_settings(nodes: &[NodeFacts]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let differing = |variables: &[&'static str]| -> Vec<String> {
        variables
            .iter()
            .filter(|variable| {
                let values: BTreeSet<&str> =
                    nodes.iter().map(|node| node.variable(variable)).collect();
                values.len() > 1
            })
            .map(|variable| {
                let values: Vec<String> = nodes
                    .iter()
                    .map(|node| format!("{} on {}", node.variable(variable), node.node))
                    .collect();
                format!("{variable} is {}", values.join(" and "))
            })
            .collect()
    };
    let mut compare = |subject: &'static str,
                       variables: &[&'static str],
                       make: fn(&'static str, String) -> Finding,
                       why: &str| {
        let differing = differing(variables);
        findings.push(if differing.is_empty() {
            Finding::pass(subject, format!("{} equal", variables.join(", ")))
        } else {
            make(subject, format!("{}: {why}", differing.join("; ")))
                .remedy("set the same value in every my.cnf and restart the server")
        });
    };
    compare(
        "server.table-names",
        &["lower_case_table_names"],
        Finding::fail,
        "one and the same name means different tables",
    );
    compare(
        "server.charset",
        &["character_set_server", "collation_server"],
        Finding::warn,
        "a database made without naming them gets another character set at each node",
    );
    compare(
        "server.time-zone",
        &["time_zone", "system_time_zone"],
        Finding::warn,
        "rows agree all the same, but clients of the nodes see other local times",
    );
    compare(
        "server.timestamps",
        &["explicit_defaults_for_timestamp"],
        Finding::warn,
        "a TIMESTAMP column without a default becomes another one at each node",
    );
    compare(
        "server.max-allowed-packet",
        &["max_allowed_packet"],
        Finding::warn,
        "a row that one node takes may be too large for the other",
    );
    findings
}

/// The same tables with the same columns and keys everywhere, compared with the first node.
fn schemas(nodes: &[NodeFacts]) -> Vec<Finding> {
    let Some((first, others)) = nodes.split_first() else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for other in others {
        let mut defaults = Vec::new();
        for (database, collation) in &first.databases {
            match other.databases.get(database) {
                Some(there) if there != collation => defaults.push(format!(
                    "{database} ({collation} on {}, {there} on {})",
                    first.node, other.node
                )),
                _ => {}
            }
        }
        if !defaults.is_empty() {
            findings.push(
                Finding::warn(
                    "schema.database-charset",
                    format!(
                        "default collations of databases differ: {}; new tables will differ",
                        some_of(&defaults)
                    ),
                )
                .remedy("ALTER DATABASE .. COLLATE ..; on one of the nodes"),
            );
        }
        let differences = differences(first, other);
        if differences.is_empty() {
            let message = format!(
                "{} tables are the same on {} and {}",
                first.tables.len(),
                first.node,
                other.node
            );
            findings.push(Finding::pass("schema.same", message));
        } else {
            findings.push(
                Finding::fail(
                    "schema.same",
                    format!("the schemas differ: {}", some_of(&differences)),
                )
                .remedy(
                    "run the CREATE TABLE or ALTER TABLE that is missing on the node that lacks it \
                     (SHOW CREATE TABLE on the other one says how)",
                ),
            );
        }
        let views = |from: &NodeFacts, lacking: &NodeFacts| -> Vec<String> {
            from.views
                .iter()
                .filter(|view| !lacking.views.contains(view))
                .map(|view| format!("{} (not on {})", dotted(view), lacking.node))
                .collect()
        };
        let mut missing = views(first, other);
        missing.extend(views(other, first));
        if !missing.is_empty() {
            findings.push(
                Finding::warn(
                    "schema.views",
                    format!("views that are not everywhere: {}", some_of(&missing)),
                )
                .remedy("run the CREATE VIEW on the node that lacks it"),
            );
        }
    }
    findings
}

fn differences(a: &NodeFacts, b: &NodeFacts) -> Vec<String> {
    let mut found = Vec::new();
    for name in a
        .databases
        .keys()
        .filter(|name| !b.databases.contains_key(*name))
    {
        found.push(format!("database {name} is missing on {}", b.node));
    }
    for name in b
        .databases
        .keys()
        .filter(|name| !a.databases.contains_key(*name))
    {
        found.push(format!("database {name} is missing on {}", a.node));
    }
    let names: BTreeSet<&Name> = a.tables.keys().chain(b.tables.keys()).collect();
    for name in names {
        match (a.tables.get(name), b.tables.get(name)) {
            (Some(one), Some(two)) => {
                found.extend(table_differences(name, (&a.node, one), (&b.node, two)));
            }
            // Of a missing database only the database itself is named.
            (Some(_), None) if b.databases.contains_key(&name.0) => {
                found.push(format!("{} is missing on {}", dotted(name), b.node));
            }
            (None, Some(_)) if a.databases.contains_key(&name.0) => {
                found.push(format!("{} is missing on {}", dotted(name), a.node));
            }
            _ => {}
        }
    }
    found
}

fn table_differences(
    name: &Name,
    (a, one): (&str, &Table),
    (b, two): (&str, &Table),
) -> Vec<String> {
    let mut found = Vec::new();
    let table = dotted(name);
    let columns = |table: &Table| -> BTreeMap<String, String> {
        table
            .columns
            .iter()
            .map(|column| (column.name.to_lowercase(), columns::describe(column)))
            .collect()
    };
    let (mine, theirs) = (columns(one), columns(two));
    for (column, type_here) in &mine {
        match theirs.get(column) {
            None => found.push(format!("{table}.{column} is missing on {b}")),
            Some(there) if there != type_here => found.push(format!(
                "{table}.{column} is {type_here} on {a} but {there} on {b}"
            )),
            Some(_) => {}
        }
    }
    for column in theirs.keys().filter(|column| !mine.contains_key(*column)) {
        found.push(format!("{table}.{column} is missing on {a}"));
    }
    let order = |table: &Table| -> Vec<String> {
        table
            .columns
            .iter()
            .map(|column| column.name.to_lowercase())
            .collect()
    };
    if found.is_empty() && order(one) != order(two) {
        found.push(format!(
            "{table} has its columns in the order ({}) on {a} but ({}) on {b}",
            order(one).join(", "),
            order(two).join(", ")
        ));
    }
    let keys: BTreeSet<&String> = one.indexes.keys().chain(two.indexes.keys()).collect();
    for key in keys {
        match (one.indexes.get(key), two.indexes.get(key)) {
            (Some(here), Some(there)) if here != there => {
                found.push(format!("key {key} of {table} differs between {a} and {b}"));
            }
            // A plain index is a matter of speed; a unique one decides what may stand.
            (Some(index), None) if index.unique => {
                found.push(format!("unique key {key} of {table} is missing on {b}"));
            }
            (None, Some(index)) if index.unique => {
                found.push(format!("unique key {key} of {table} is missing on {a}"));
            }
            _ => {}
        }
    }
    let keys: BTreeSet<&String> = one
        .foreign_keys
        .keys()
        .chain(two.foreign_keys.keys())
        .collect();
    for key in keys {
        match (one.foreign_keys.get(key), two.foreign_keys.get(key)) {
            (Some(here), Some(there)) if here == there => {}
            (Some(_), Some(_)) => found.push(format!(
                "foreign key {key} of {table} differs between {a} and {b}"
            )),
            (Some(_), None) => {
                found.push(format!("foreign key {key} of {table} is missing on {b}"));
            }
            _ => found.push(format!("foreign key {key} of {table} is missing on {a}")),
        }
    }
    found
}
