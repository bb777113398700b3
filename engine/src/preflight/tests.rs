//! Judgements over made-up facts; tests/real/check.rs has the same against servers.

use super::facts::{Column, ForeignKey, Index, NodeFacts, Table, Upstream};
use super::*;

fn config(text: &str) -> Config {
    let text = format!(
        "[engine]\ndata_dir = \"x\"\n{text}\n[[node]]\nname = \"a\"\nurl = \"mysql://t@a:3306\"\n\
         [[node]]\nname = \"b\"\nurl = \"mysql://t@b:3306\"\n"
    );
    Config::parse(&text, &|_| None).unwrap()
}

/// A server that nothing is wrong with.
fn facts(node: &str, id: u64) -> NodeFacts {
    let mut facts = NodeFacts {
        node: node.to_owned(),
        version: "9.7.4".to_owned(),
        account: "t@%".to_owned(),
        sql_log_bin: true,
        filters: Some((String::new(), String::new())),
        replication: Some(Vec::new()),
        grants: vec!["GRANT ALL PRIVILEGES ON *.* TO `t`@`%`".to_owned()],
        ..NodeFacts::default()
    };
    for (name, value) in [
        ("log_bin", "ON"),
        ("binlog_format", "ROW"),
        ("binlog_row_image", "FULL"),
        ("binlog_row_metadata", "FULL"),
        ("log_replica_updates", "ON"),
        ("gtid_mode", "ON"),
        ("enforce_gtid_consistency", "ON"),
        ("sync_binlog", "1"),
        ("innodb_flush_log_at_trx_commit", "1"),
        ("binlog_expire_logs_seconds", "2592000"),
        ("max_allowed_packet", "67108864"),
        ("read_only", "OFF"),
        ("auto_increment_increment", "2"),
    ] {
        facts.variables.insert(name.to_owned(), value.to_owned());
    }
    let mut set = |name: &str, value: String| facts.variables.insert(name.to_owned(), value);
    set("server_id", id.to_string());
    set("server_uuid", format!("uuid-{id}"));
    set("auto_increment_offset", id.to_string());
    facts
        .databases
        .insert("shop".to_owned(), "utf8mb4_0900_ai_ci".to_owned());
    facts
        .tables
        .insert(("shop".to_owned(), "items".to_owned()), table());
    facts
}

fn table() -> Table {
    let column = |name: &str, column_type: &str| Column {
        name: name.to_owned(),
        data_type: column_type.split('(').next().unwrap().to_owned(),
        column_type: column_type.to_owned(),
        ..Column::default()
    };
    let mut table = Table {
        kind: "BASE TABLE".to_owned(),
        engine: "InnoDB".to_owned(),
        columns: vec![column("id", "int"), column("price", "decimal(10,2)")],
        ..Table::default()
    };
    table.indexes.insert(
        "PRIMARY".to_owned(),
        Index {
            unique: true,
            nullable: false,
            columns: vec![(Some("id".to_owned()), None)],
        },
    );
    table
}

fn items(facts: &mut NodeFacts) -> &mut Table {
    facts.tables.values_mut().next().unwrap()
}

fn all(config: &Config, nodes: &[NodeFacts]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = nodes.iter().flat_map(|node| judge(config, node)).collect();
    findings.extend(agreement::findings(config, nodes));
    findings
}

/// Breaks node b and expects exactly one finding that is no pass.
#[track_caller]
fn one(level: Level, subject: &str, text: &str, change: impl FnOnce(&mut NodeFacts)) -> Finding {
    let mut nodes = [facts("a", 1), facts("b", 2)];
    change(&mut nodes[1]);
    let mut findings = all(&config(""), &nodes);
    findings.retain(|finding| finding.level != Level::Pass);
    assert_eq!(findings.len(), 1, "{findings:#?}");
    let finding = findings.remove(0);
    assert_eq!(
        (finding.level, finding.subject),
        (level, subject),
        "{finding:#?}"
    );
    assert!(finding.message.contains(text), "{finding:#?}");
    finding
}

fn set(name: &'static str, value: &'static str) -> impl FnOnce(&mut NodeFacts) {
    move |facts| {
        facts.variables.insert(name.to_owned(), value.to_owned());
    }
}

#[test]
fn a_good_pair_passes() {
    let findings = all(&config(""), &[facts("a", 1), facts("b", 2)]);
    assert!(findings.len() > 20);
    for finding in findings {
        assert_eq!(finding.level, Level::Pass, "{finding:#?}");
    }
}

#[test]
fn tables_with_triggers_go_as_row_events_where_that_may_be() {
    let judged = |toml: &str, maria: bool, change: &dyn Fn(&mut NodeFacts)| {
        let mut node = facts("a", 1);
        node.maria = maria;
        items(&mut node).triggers.push("audit".to_owned());
        change(&mut node);
        let mut findings = judge(&config(toml), &node);
        findings.retain(|finding| finding.subject == "tables.triggers");
        assert_eq!(findings.len(), 1);
        let finding = findings.remove(0);
        assert!(
            finding.message.contains("audit on shop.items"),
            "{finding:#?}"
        );
        (finding.level, finding.remedy.unwrap_or_default())
    };
    for maria in [false, true] {
        assert_eq!(judged("", maria, &|_| {}), (Level::Pass, String::new()));
    }
    let never = "[replication]\nrow_events = \"never\"";
    let set = |name: &'static str, value: &'static str| {
        move |facts: &mut NodeFacts| set(name, value)(facts)
    };
    let lossy = set("slave_type_conversions", "ALL_LOSSY");
    let skipping = set("slave_skip_errors", "1062");
    let idempotent = set("slave_exec_mode", "IDEMPOTENT");
    let enforced = set("slave_run_triggers_for_rbr", "ENFORCE");
    let poor = |facts: &mut NodeFacts| {
        facts.grants = vec!["GRANT SELECT ON *.* TO `t`@`%`".to_owned()];
    };
    for (toml, maria, change, remedy) in [
        (
            never,
            false,
            &(|_: &mut NodeFacts| {}) as &dyn Fn(&mut NodeFacts),
            "row_events = \"auto\"",
        ),
        ("", false, &poor, "GRANT REPLICATION_APPLIER ON *.* TO"),
        ("", false, &lossy, "SET GLOBAL slave_type_conversions"),
        ("", false, &skipping, "slave_skip_errors out of my.cnf"),
        ("", true, &idempotent, "SET GLOBAL slave_exec_mode"),
        ("", true, &enforced, "SET GLOBAL slave_run_triggers_for_rbr"),
    ] {
        let (level, found) = judged(toml, maria, change);
        assert_eq!(level, Level::Fail);
        assert!(found.starts_with(remedy), "{found}");
        assert!(found.contains("DROP TRIGGER `shop`.`audit`;"), "{found}");
    }
    // The session's own mode counts there.
    assert_eq!(judged("", false, &idempotent).0, Level::Pass);
}

#[test]
fn each_wrong_setting_has_its_own_finding() {
    use Level::{Fail, Warn};
    for (level, subject, name, value) in [
        (Fail, "binlog.enabled", "log_bin", "OFF"),
        (Fail, "binlog.format", "binlog_format", "STATEMENT"),
        (Fail, "binlog.row-image", "binlog_row_image", "MINIMAL"),
        (
            Warn,
            "binlog.row-metadata",
            "binlog_row_metadata",
            "MINIMAL",
        ),
        (Warn, "binlog.replica-updates", "log_replica_updates", "OFF"),
        (
            Fail,
            "binlog.alter-two-phase",
            "binlog_alter_two_phase",
            "ON",
        ),
        (Fail, "server.id", "server_id", "0"),
        (Fail, "server.id", "server_id", "1"),
        (Fail, "server.uuid", "server_uuid", "uuid-1"),
        (Fail, "gtid.mode", "gtid_mode", "OFF"),
        (Fail, "gtid.mode", "enforce_gtid_consistency", "WARN"),
        (Warn, "server.durability", "sync_binlog", "0"),
        (
            Warn,
            "binlog.retention",
            "binlog_expire_logs_seconds",
            "3600",
        ),
        (Fail, "server.read-only", "super_read_only", "ON"),
        (Warn, "server.read-only", "read_only", "ON"),
        (
            Fail,
            "server.auto-increment",
            "auto_increment_increment",
            "1",
        ),
        (Fail, "server.auto-increment", "auto_increment_offset", "3"),
        (Fail, "server.auto-increment", "auto_increment_offset", "1"),
        (Fail, "server.table-names", "lower_case_table_names", "1"),
        (Warn, "server.charset", "collation_server", "latin1_bin"),
        (Warn, "server.time-zone", "time_zone", "+02:00"),
    ] {
        let finding = one(level, subject, "", set(name, value));
        assert!(finding.remedy.is_some(), "{finding:#?}");
    }
    let mut old = facts("a", 1);
    old.version = "5.7.44".to_owned();
    assert!(any_fail(&judge(&config(""), &old)));
}

#[test]
fn gtids_are_needed_for_ddl_only() {
    let mut node = facts("a", 1);
    set("gtid_mode", "OFF")(&mut node);
    assert!(any_fail(&judge(&config(""), &node)));
    assert!(!any_fail(&judge(
        &config("[replication]\nddl = \"halt\""),
        &node
    )));
}

#[test]
fn tables_that_cannot_be_replicated() {
    let both = |level, subject, text: &str, change: fn(&mut Table)| {
        let mut node = facts("b", 2);
        change(items(&mut node));
        let mut findings = judge(&config(""), &node);
        findings.retain(|finding| finding.level != Level::Pass);
        assert_eq!(findings.len(), 1, "{findings:#?}");
        assert_eq!((findings[0].level, findings[0].subject), (level, subject));
        assert!(findings[0].message.contains(text), "{findings:#?}");
        findings.remove(0).remedy.unwrap()
    };
    let remedy = both(Level::Fail, "tables.key", "shop.items", |table| {
        table.indexes.clear()
    });
    assert!(
        remedy.starts_with("ALTER TABLE `shop`.`items` ADD"),
        "{remedy}"
    );
    both(Level::Fail, "tables.key", "shop.items", |table| {
        let mut index = table.indexes.remove("PRIMARY").unwrap();
        index.nullable = true;
        table.indexes.insert("u".to_owned(), index);
    });
    let remedy = both(
        Level::Fail,
        "tables.engine",
        "shop.items (MyISAM)",
        |table| {
            table.engine = "MyISAM".to_owned();
        },
    );
    assert_eq!(remedy, "ALTER TABLE `shop`.`items` ENGINE = InnoDB;");
    both(
        Level::Fail,
        "tables.column-types",
        "shop.items.price (xmltype)",
        |table| {
            table.columns[1].data_type = "xmltype".to_owned();
        },
    );
    both(Level::Fail, "tables.kind", "sequence", |table| {
        table.kind = "SEQUENCE".to_owned()
    });
    let foreign = |database: &str| ForeignKey {
        references: (database.to_owned(), "p".to_owned()),
        on_update: "RESTRICT".to_owned(),
        on_delete: "CASCADE".to_owned(),
    };
    let mut node = facts("b", 2);
    items(&mut node)
        .foreign_keys
        .insert("fk".to_owned(), foreign("shop"));
    // 9.6 and later log what cascades, unless the storage engine does it.
    for (version, native, level) in [
        ("9.7.4", "OFF", Level::Pass),
        ("9.7.4", "ON", Level::Warn),
        ("9.5.0", "", Level::Warn),
    ] {
        node.version = version.to_owned();
        node.variables
            .insert("innodb_native_foreign_keys".to_owned(), native.to_owned());
        let findings = judge(&config(""), &node);
        let said = findings
            .iter()
            .find(|finding| finding.subject == "tables.foreign-keys")
            .unwrap();
        assert_eq!(said.level, level, "{version}, {native}");
        assert!(said.message.contains("fk of shop.items"), "{said:#?}");
    }
    items(&mut node)
        .foreign_keys
        .insert("fk".to_owned(), foreign("other"));
    assert!(any_fail(&judge(&config(""), &node)));
}

#[test]
fn long_lists_are_counted() {
    let mut node = facts("a", 1);
    for number in 0..25 {
        let table = Table {
            engine: "MEMORY".to_owned(),
            ..table()
        };
        node.tables
            .insert(("shop".to_owned(), format!("m{number:02}")), table);
    }
    let findings = judge(&config(""), &node);
    let finding = findings
        .iter()
        .find(|finding| finding.subject == "tables.engine")
        .unwrap();
    assert!(
        finding.message.contains("m09 (MEMORY) and 15 more"),
        "{finding:#?}"
    );
}

#[test]
fn schema_differences_are_named() {
    let same = |text, change: fn(&mut NodeFacts)| {
        one(Level::Fail, "schema.same", text, change);
    };
    same("shop.items is missing on b", |node| node.tables.clear());
    same("database shop is missing on b", |node| {
        node.tables.clear();
        node.databases.clear();
    });
    same(
        "shop.items.price is decimal(10,2) not null on a but decimal(12,2) not null on b",
        |node| {
            items(node).columns[1].column_type = "decimal(12,2)".to_owned();
        },
    );
    same("shop.items.price is missing on b", |node| {
        items(node).columns.pop();
    });
    same(
        "in the order (id, price) on a but (price, id) on b",
        |node| {
            items(node).columns.reverse();
        },
    );
    same("unique key u of shop.items is missing on a", |node| {
        let index = items(node).indexes.get("PRIMARY").unwrap().clone();
        items(node).indexes.insert("u".to_owned(), index);
    });
    one(Level::Warn, "schema.views", "shop.v (not on a)", |node| {
        node.views.push(("shop".to_owned(), "v".to_owned()));
    });
}

#[test]
fn mixed_servers_are_refused() {
    let mut nodes = [facts("a", 1), facts("b", 2)];
    nodes[1].maria = true;
    nodes[1].version = "10.11.19-MariaDB".to_owned();
    let findings = agreement::findings(&config(""), &nodes);
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!(
        (findings[0].level, findings[0].subject),
        (Level::Fail, "cluster.flavor")
    );
}

#[test]
fn native_replication_beside_ours() {
    let upstream = |host: &str, running| {
        let upstream = Upstream {
            host: host.to_owned(),
            port: "3306".to_owned(),
            running,
            ..Upstream::default()
        };
        move |node: &mut NodeFacts| node.replication = Some(vec![upstream])
    };
    let subject = "server.replication";
    one(Level::Fail, subject, "from node a", upstream("a", true));
    one(Level::Warn, subject, "stopped", upstream("a", false));
    one(
        Level::Warn,
        subject,
        "passed on",
        upstream("elsewhere", true),
    );
    one(Level::Warn, subject, "cannot be seen", |node| {
        node.replication = None
    });
}

#[test]
fn missing_privileges_name_the_grant() {
    let lacking = |maria: bool, toml: &str, grants: &[&str]| {
        let mut node = facts("a", 1);
        node.maria = maria;
        node.grants = grants.iter().map(|line| (*line).to_owned()).collect();
        privileges::findings(&config(toml), &node)
            .into_iter()
            .filter(|finding| finding.level == Level::Fail)
            .map(|finding| finding.remedy.unwrap())
            .collect::<Vec<_>>()
    };
    let tables = "SELECT, INSERT, UPDATE, DELETE, TRIGGER, CREATE, ALTER, DROP, INDEX, LOCK TABLES, REFERENCES, \
                  CREATE VIEW, SHOW VIEW";
    assert_eq!(
        lacking(
            false,
            "",
            &[&format!(
                "GRANT {tables}, REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO x"
            )]
        ),
        ["GRANT REPLICATION_APPLIER, SESSION_VARIABLES_ADMIN ON *.* TO 't'@'%';"]
    );
    assert_eq!(
        lacking(
            true,
            "",
            &[&format!("GRANT {tables}, REPLICATION SLAVE ON *.* TO x")]
        ),
        ["GRANT BINLOG MONITOR, BINLOG REPLAY, BINLOG ADMIN ON *.* TO 't'@'%';"]
    );
    assert_eq!(
        lacking(
            true,
            "[replication]\nddl = \"ignore\"\ndatabases = [\"shop\", \"crm_*\"]",
            &[
                "GRANT REPLICATION SLAVE, BINLOG MONITOR, BINLOG REPLAY, BINLOG ADMIN ON *.* TO x",
                "GRANT SELECT, INSERT, UPDATE, DELETE, TRIGGER ON `shop`.* TO x",
                "GRANT SELECT, INSERT, UPDATE, TRIGGER ON `crm\\_%`.* TO x",
            ]
        ),
        [
            "GRANT DELETE ON `crm\\_%`.* TO 't'@'%';",
            "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX ON `twinlog`.* TO \
             't'@'%';"
        ]
    );
}

#[test]
fn auto_increment_rows_that_meet() {
    let node = |node: &str, increment, offset| AutoIncrement {
        node: node.to_owned(),
        increment,
        offset,
    };
    let fails = |settings: &[AutoIncrement]| any_fail(&auto_increment_findings(settings));
    assert!(!fails(&[node("a", 2, 1), node("b", 2, 2)]));
    assert!(!fails(&[node("a", 10, 3), node("b", 10, 7)]));
    assert!(fails(&[node("a", 2, 1), node("b", 2, 1)]));
    // 1, 3, 5, .. and 2, 5, 8, ..
    assert!(fails(&[node("a", 2, 1), node("b", 3, 2)]));
    assert!(!fails(&[node("a", 2, 1), node("b", 4, 2)]));
    assert!(fails(&[node("a", 1, 1), node("b", 2, 2)]));
    assert!(fails(&[node("a", 2, 1), node("b", 2, 4)]));
}
