//! One server's settings.

use super::facts::NodeFacts;
use super::{Finding, some_of};
use crate::config::{Config, DdlPolicy};
use crate::preflight::privileges::at_least;

const MIB: u64 = 1 << 20;
/// Below this a link that stands still over a weekend night loses its log.
const SHORT_RETENTION: u64 = 24 * 3600;

/// Judges the settings of one server.
pub(super) fn findings(config: &Config, facts: &NodeFacts) -> Vec<Finding> {
    let mut findings = vec![version(facts)];
    findings.extend(binlog(facts));
    findings.extend(identity(facts));
    findings.extend(gtid(config, facts));
    findings.push(durability(facts));
    findings.push(retention(facts));
    findings.extend(surroundings(facts));
    findings
}

fn version(facts: &NodeFacts) -> Finding {
    let subject = "server.version";
    let (name, supported, tested) = if facts.maria {
        ("MariaDB", (10, 6), "10.11")
    } else {
        ("MySQL", (8, 0), "9.7")
    };
    if !at_least(&facts.version, supported) {
        let (major, minor) = supported;
        return Finding::fail(
            subject,
            format!("{name} {} is older than {major}.{minor}", facts.version),
        )
        .remedy(format!("upgrade the server to {major}.{minor} or later"));
    }
    Finding::pass(
        subject,
        format!("{name} {} (tested with {tested})", facts.version),
    )
}

fn binlog(facts: &NodeFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if facts.is_on("log_bin") {
        findings.push(Finding::pass("binlog.enabled", "log_bin = ON"));
    } else {
        findings.push(
            Finding::fail(
                "binlog.enabled",
                "the binary log is off: nothing tells what was written",
            )
            .remedy("my.cnf: log_bin = binlog, then restart the server"),
        );
    }
    if !facts.sql_log_bin {
        findings.push(
            Finding::fail(
                "binlog.session",
                "sql_log_bin is OFF for the engine's sessions (init_connect?): what it writes \
                 would not be logged",
            )
            .remedy("take SET sql_log_bin out of init_connect"),
        );
    }
    let format = facts.variable("binlog_format");
    // MySQL is about to drop the variable: then ROW is all there is.
    if format.is_empty() || format == "ROW" {
        findings.push(Finding::pass("binlog.format", "binlog_format = ROW"));
    } else {
        findings.push(
            Finding::fail(
                "binlog.format",
                format!("binlog_format = {format}: the log has statements instead of rows"),
            )
            .remedy(
                "SET GLOBAL binlog_format = ROW; and my.cnf: binlog_format = ROW, then reconnect \
                 every client",
            ),
        );
    }
    let image = facts.variable("binlog_row_image");
    // MariaDB 11 has FULL_NODUP too, which leaves the after image's unchanged columns out.
    if image == "FULL" {
        findings.push(Finding::pass("binlog.row-image", "binlog_row_image = FULL"));
    } else {
        findings.push(
            Finding::fail(
                "binlog.row-image",
                format!("binlog_row_image = {image}: rows in the log lack columns"),
            )
            .remedy(
                "SET GLOBAL binlog_row_image = FULL; and my.cnf: binlog_row_image = FULL, then \
                 reconnect every client",
            ),
        );
    }
    let metadata = facts.variable("binlog_row_metadata");
    if metadata == "FULL" {
        findings.push(Finding::pass(
            "binlog.row-metadata",
            "binlog_row_metadata = FULL",
        ));
    } else {
        findings.push(
            Finding::warn(
                "binlog.row-metadata",
                format!(
                    "binlog_row_metadata = {metadata}: the log does not name columns, so they are \
                     matched with the target's by their order, and a table whose columns stand in \
                     another order there gets wrong values"
                ),
            )
            .remedy(
                "SET GLOBAL binlog_row_metadata = FULL; and my.cnf: binlog_row_metadata = FULL",
            ),
        );
    }
    let updates = ["log_replica_updates", "log_slave_updates"]
        .iter()
        .any(|name| facts.is_on(name));
    if updates {
        findings.push(Finding::pass(
            "binlog.replica-updates",
            "log_replica_updates = ON",
        ));
    } else {
        findings.push(
            Finding::warn(
                "binlog.replica-updates",
                "log_replica_updates is OFF: what the server receives by its own replication (an \
                 upstream feeding this master) does not reach its log, nor the other node",
            )
            .remedy(if facts.maria {
                "my.cnf: log_slave_updates = ON, then restart the server"
            } else {
                "my.cnf: log_replica_updates = ON, then restart the server"
            }),
        );
    }
    if facts.is_on("binlog_alter_two_phase") {
        findings.push(
            Finding::fail(
                "binlog.alter-two-phase",
                "binlog_alter_two_phase = ON: an ALTER stands in the log in two parts, at which \
                 the link halts",
            )
            .remedy(
                "SET GLOBAL binlog_alter_two_phase = OFF; and take it out of my.cnf, then \
                 reconnect every client",
            ),
        );
    }
    match &facts.filters {
        Some((only, but)) if !only.is_empty() || !but.is_empty() => {
            let mut set = Vec::new();
            for (name, value) in [("binlog_do_db", only), ("binlog_ignore_db", but)] {
                if !value.is_empty() {
                    set.push(format!("{name} = {value}"));
                }
            }
            findings.push(
                Finding::fail(
                    "binlog.filters",
                    format!("{}: changes are kept out of the log", set.join(", ")),
                )
                .remedy(
                    "take binlog_do_db and binlog_ignore_db out of my.cnf and restart the server; \
                     say what is replicated in [replication] databases",
                ),
            );
        }
        Some(_) => findings.push(Finding::pass("binlog.filters", "none")),
        // Without the privilege, of which there is a finding, the log's end is unknown too.
        None => {}
    }
    findings
}

fn identity(facts: &NodeFacts) -> Option<Finding> {
    (facts.number("server_id") == Some(0)).then(|| {
        Finding::fail(
            "server.id",
            "server_id = 0: the server does not serve its log",
        )
        .remedy("my.cnf: server_id = a number of its own, then restart the server")
    })
}

fn gtid(config: &Config, facts: &NodeFacts) -> Vec<Finding> {
    let subject = "gtid.mode";
    if facts.maria {
        let strict = facts.variable("gtid_strict_mode");
        return vec![Finding::pass(
            subject,
            format!("gtid_strict_mode = {strict}; either is fine"),
        )];
    }
    let mode = facts.variable("gtid_mode");
    let consistent = facts.variable("enforce_gtid_consistency");
    if mode == "ON" && consistent == "ON" {
        return vec![Finding::pass(
            subject,
            "gtid_mode = ON, enforce_gtid_consistency = ON",
        )];
    }
    let message = format!("gtid_mode = {mode}, enforce_gtid_consistency = {consistent}");
    if config.replication.ddl != DdlPolicy::Replicate {
        return vec![Finding::pass(
            subject,
            format!("{message}; needed only where DDL is replicated"),
        )];
    }
    vec![
        Finding::fail(
            subject,
            format!(
                "{message}: DDL is run at the other node under its own GTID, which is how it \
                 happens exactly once"
            ),
        )
        .remedy(
            "my.cnf: gtid_mode = ON, enforce_gtid_consistency = ON, then restart the server; or, \
             without DDL, [replication] ddl = \"halt\"",
        ),
    ]
}

fn durability(facts: &NodeFacts) -> Finding {
    let subject = "server.durability";
    let (sync, flush) = (
        facts.variable("sync_binlog"),
        facts.variable("innodb_flush_log_at_trx_commit"),
    );
    let message = format!("sync_binlog = {sync}, innodb_flush_log_at_trx_commit = {flush}");
    if sync == "1" && flush == "1" {
        return Finding::pass(subject, message);
    }
    Finding::warn(
        subject,
        format!(
            "{message}: a crash of the host may lose transactions that the other node already \
             has, or that its clients were told of"
        ),
    )
    .remedy(
        "SET GLOBAL sync_binlog = 1, GLOBAL innodb_flush_log_at_trx_commit = 1; and the same in \
         my.cnf",
    )
}

fn retention(facts: &NodeFacts) -> Finding {
    let subject = "binlog.retention";
    let seconds = facts
        .number("binlog_expire_logs_seconds")
        .filter(|seconds| *seconds > 0)
        .or_else(|| Some(facts.number("expire_logs_days")? * 24 * 3600))
        .unwrap_or(0);
    if seconds == 0 {
        return Finding::pass(subject, "the log is kept until it is purged by hand");
    }
    let duration = humantime::format_duration(std::time::Duration::from_secs(seconds));
    if seconds < SHORT_RETENTION {
        return Finding::warn(
            subject,
            format!(
                "the log is kept for {duration} only: a node that is away for longer has to be \
                 made anew"
            ),
        )
        .remedy(
            "SET GLOBAL binlog_expire_logs_seconds = 604800; and my.cnf: \
             binlog_expire_logs_seconds = 604800",
        );
    }
    Finding::pass(subject, format!("the log is kept for {duration}"))
}

fn surroundings(facts: &NodeFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let packet = facts.number("max_allowed_packet").unwrap_or(0);
    if packet < 64 * MIB {
        findings.push(
            Finding::warn(
                "server.max-allowed-packet",
                format!(
                    "max_allowed_packet = {packet} bytes: a row larger than that cannot be \
                     written, nor sent from the log"
                ),
            )
            .remedy(
                "SET GLOBAL max_allowed_packet = 67108864; and my.cnf: max_allowed_packet = 64M",
            ),
        );
    } else {
        let message = format!("max_allowed_packet = {} MiB", packet / MIB);
        findings.push(Finding::pass("server.max-allowed-packet", message));
    }
    if facts.is_on("super_read_only") {
        findings.push(
            Finding::fail(
                "server.read-only",
                "super_read_only = ON: nobody may write, the engine neither",
            )
            .remedy("SET GLOBAL super_read_only = OFF, GLOBAL read_only = OFF;"),
        );
    } else if !matches!(facts.variable("read_only"), "OFF" | "0" | "" | "NO_LOCK") {
        findings.push(
            Finding::warn(
                "server.read-only",
                "read_only is on: clients may not write here, and the engine only with a \
                 privilege for it",
            )
            .remedy("SET GLOBAL read_only = OFF;"),
        );
    }
    if facts.is_on("wsrep_on") {
        findings.push(Finding::warn(
            "server.cluster",
            "wsrep_on = ON: a Galera node; what its peers write reaches its log in another way \
             and has not been tested",
        ));
    }
    if !facts.variable("group_replication_group_name").is_empty() {
        findings.push(Finding::warn(
            "server.cluster",
            "the server belongs to a replication group, which has not been tested",
        ));
    }
    if facts.is_on("event_scheduler") && !facts.events.is_empty() {
        let events: Vec<String> = facts
            .events
            .iter()
            .map(|(database, name)| format!("{database}.{name}"))
            .collect();
        findings.push(
            Finding::warn(
                "server.events",
                format!(
                    "the event scheduler runs {}: an event that is enabled on both nodes does its \
                     work twice",
                    some_of(&events)
                ),
            )
            .remedy("ALTER EVENT .. DISABLE; on all nodes but one"),
        );
    }
    findings
}
