//! One server's tables: can each be replicated?

use super::columns;
use super::facts::{Name, NodeFacts, Table};
use super::privileges::Grants;
use super::{Finding, some_of};
use crate::config::{Config, RowEventPolicy};

/// Judges the replicated tables of one server.
pub(super) fn findings(config: &Config, facts: &NodeFacts) -> Vec<Finding> {
    let mut findings = vec![Finding::pass(
        "tables.found",
        format!(
            "{} in {}",
            counted(facts.tables.len(), "table"),
            counted(facts.databases.len(), "database")
        ),
    )];
    findings.extend(kinds(facts));
    findings.push(keys(facts));
    findings.push(engines(facts));
    findings.push(triggers(config, facts));
    findings.extend(cascades(facts));
    findings.extend(outside(facts));
    findings.push(types(facts));
    findings
}

/// `1 table`, `2 tables`
fn counted(count: usize, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

/// `shop.items`
pub(super) fn dotted((database, name): &Name) -> String {
    format!("{database}.{name}")
}

/// `` `shop`.`items` ``
fn quoted((database, name): &Name) -> String {
    let quote = |name: &str| format!("`{}`", name.replace('`', "``"));
    format!("{}.{}", quote(database), quote(name))
}

fn ordinary(table: &Table) -> bool {
    table.kind == "BASE TABLE"
}

fn select(facts: &NodeFacts, wanted: impl Fn(&Table) -> bool) -> Vec<&Name> {
    facts
        .tables
        .iter()
        .filter(|(_, table)| ordinary(table) && wanted(table))
        .map(|(name, _)| name)
        .collect()
}

fn listed(names: &[&Name]) -> String {
    some_of(&names.iter().map(|name| dotted(name)).collect::<Vec<_>>())
}

/// MariaDB's sequences and system-versioned tables.
fn kinds(facts: &NodeFacts) -> Option<Finding> {
    let unusual: Vec<String> = facts
        .tables
        .iter()
        .filter(|(_, table)| !ordinary(table))
        .map(|(name, table)| format!("{} ({})", dotted(name), table.kind.to_lowercase()))
        .collect();
    (!unusual.is_empty()).then(|| {
        Finding::fail(
            "tables.kind",
            format!("not replicated: {}", some_of(&unusual)),
        )
        .remedy(
            "use AUTO_INCREMENT in place of a sequence, ALTER TABLE .. DROP SYSTEM VERSIONING, or \
             leave the database out of [replication] databases",
        )
    })
}

/// Whether rows can be told apart.
pub(super) fn has_row_key(table: &Table) -> bool {
    table.indexes.iter().any(|(name, index)| {
        name == "PRIMARY"
            || index.unique
                && !index.nullable
                && index
                    .columns
                    .iter()
                    .all(|(column, prefix)| column.is_some() && prefix.is_none())
    })
}

fn keys(facts: &NodeFacts) -> Finding {
    let without = select(facts, |table| !has_row_key(table));
    let Some(first) = without.first() else {
        let message = "every table has a primary key or a unique key without NULLs";
        return Finding::pass("tables.key", message);
    };
    Finding::fail(
        "tables.key",
        format!(
            "no primary key and no unique key without NULLs: {}; a change cannot tell which row it \
             means",
            listed(&without)
        ),
    )
    .remedy(format!(
        "ALTER TABLE {} ADD COLUMN id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY; or make \
         columns that it has the primary key",
        quoted(first)
    ))
}

fn engines(facts: &NodeFacts) -> Finding {
    let other = |table: &Table| !table.engine.eq_ignore_ascii_case("InnoDB");
    let without = select(facts, other);
    let Some(first) = without.first() else {
        return Finding::pass("tables.engine", "every table is InnoDB");
    };
    let named: Vec<String> = without
        .iter()
        .map(|name| {
            let engine = facts.tables.get(*name).map_or("", |table| &table.engine);
            format!("{} ({engine})", dotted(name))
        })
        .collect();
    Finding::fail(
        "tables.engine",
        format!(
            "not InnoDB: {}; without transactions a change and its position cannot be written \
             together",
            some_of(&named)
        ),
    )
    .remedy(format!("ALTER TABLE {} ENGINE = InnoDB;", quoted(first)))
}

fn triggers(config: &Config, facts: &NodeFacts) -> Finding {
    let subject = "tables.triggers";
    let with = select(facts, |table| !table.triggers.is_empty());
    let Some(first) = with.first() else {
        return Finding::pass(subject, "none");
    };
    let named: Vec<String> = with
        .iter()
        .flat_map(|name| {
            let triggers = facts.tables.get(*name).map(|table| &table.triggers);
            triggers
                .into_iter()
                .flatten()
                .map(|trigger| format!("{} on {}", trigger, dotted(name)))
        })
        .collect();
    let named = some_of(&named);
    let Some((hindrance, remedy)) = no_row_events(config, facts) else {
        return Finding::pass(
            subject,
            format!(
                "triggers: {named}; rows come to these tables as row events, which fire none. Triggers themselves are not \
                 replicated: make them on each node that takes writes"
            ),
        );
    };
    let trigger = facts
        .tables
        .get(*first)
        .and_then(|table| table.triggers.first())
        .map(|trigger| quoted(&(first.0.clone(), trigger.clone())))
        .unwrap_or_default();
    Finding::fail(
        subject,
        format!(
            "triggers: {named}; what they write is in the log already, and SQL at the other node would fire them again. \
             Row events fire none, but cannot be used here: {hindrance}"
        ),
    )
    .remedy(format!(
        "{remedy}; or DROP TRIGGER {trigger}; on every node (do its work in the application or in a generated \
         column), or leave the database out of [replication] databases"
    ))
}

/// What keeps rows from being written to this server as row events, and what to do.
fn no_row_events(config: &Config, facts: &NodeFacts) -> Option<(String, String)> {
    let is = |what: &str, remedy: &str| Some((what.to_owned(), remedy.to_owned()));
    if config.replication.row_events == RowEventPolicy::Never {
        return is(
            "the config says row_events = \"never\"",
            "row_events = \"auto\" in [replication]",
        );
    }
    let grants = Grants::parse(&facts.grants);
    // MariaDB's account has BINLOG REPLAY anyhow, or another finding says that it lacks it.
    let any = ["REPLICATION_APPLIER", "BINLOG_ADMIN", "SUPER"];
    if !facts.maria && !any.iter().any(|privilege| grants.globally(privilege)) {
        let account = super::privileges::quote_account(&facts.account);
        return Some((
            format!("{} lacks REPLICATION_APPLIER", facts.account),
            format!("GRANT REPLICATION_APPLIER ON *.* TO {account}"),
        ));
    }
    if !facts.variable("slave_type_conversions").is_empty() {
        return is(
            "slave_type_conversions is not empty, so that values could be cut",
            "SET GLOBAL slave_type_conversions = ''",
        );
    }
    if !matches!(facts.variable("slave_skip_errors"), "" | "OFF") {
        return is(
            "slave_skip_errors is not OFF, so that rows which are missing or there already could be passed over",
            "slave_skip_errors out of my.cnf",
        );
    }
    if facts.maria && !matches!(facts.variable("slave_exec_mode"), "" | "STRICT") {
        return is(
            "slave_exec_mode is not STRICT, so that rows which are missing or there already would be passed over",
            "SET GLOBAL slave_exec_mode = 'STRICT'",
        );
    }
    if facts.variable("slave_run_triggers_for_rbr") == "ENFORCE" {
        return is(
            "slave_run_triggers_for_rbr is ENFORCE",
            "SET GLOBAL slave_run_triggers_for_rbr = 'NO'",
        );
    }
    None
}

fn cascades(facts: &NodeFacts) -> Option<Finding> {
    let acts = |rule: &str| matches!(rule, "CASCADE" | "SET NULL" | "SET DEFAULT");
    let with: Vec<String> = facts
        .tables
        .iter()
        .flat_map(|(name, table)| {
            table
                .foreign_keys
                .iter()
                .filter(|(_, key)| acts(&key.on_delete) || acts(&key.on_update))
                .map(move |(constraint, _)| format!("{constraint} of {}", dotted(name)))
        })
        .collect();
    if with.is_empty() {
        return None;
    }
    let subject = "tables.foreign-keys";
    let by_themselves = format!(
        "foreign keys that change rows by themselves: {}",
        some_of(&with)
    );
    // From 9.6 on, unless the storage engine does it as before.
    if !facts.maria
        && super::privileges::at_least(&facts.version, (9, 6))
        && !facts.is_on("innodb_native_foreign_keys")
    {
        return Some(Finding::pass(
            subject,
            format!("{by_themselves}; the log has these changes as any others"),
        ));
    }
    Some(
        Finding::warn(
            subject,
            format!(
                "{by_themselves}; this server does not write these changes into its log, the other \
                 node makes them by its own foreign key, which must be the same. A concurrent write \
                 to such a row is not seen as one"
            ),
        )
        .remedy("use ON DELETE RESTRICT and delete the child rows in the application"),
    )
}

/// Foreign keys to tables that are not replicated.
fn outside(facts: &NodeFacts) -> Option<Finding> {
    let with: Vec<String> = facts
        .tables
        .iter()
        .flat_map(|(name, table)| {
            table
                .foreign_keys
                .values()
                .filter(|key| !facts.databases.contains_key(&key.references.0))
                .map(move |key| format!("{} -> {}", dotted(name), dotted(&key.references)))
        })
        .collect();
    (!with.is_empty()).then(|| {
        Finding::fail(
            "tables.foreign-keys",
            format!(
                "foreign keys to tables that are not replicated: {}; a row whose parent is missing \
                 at the other node is refused there",
                some_of(&with)
            ),
        )
        .remedy("add the other database to [replication] databases, or drop the foreign key")
    })
}

fn types(facts: &NodeFacts) -> Finding {
    let unknown: Vec<String> = facts
        .tables
        .iter()
        .filter(|(_, table)| ordinary(table))
        .flat_map(|(name, table)| {
            table
                .columns
                .iter()
                .filter(|column| !columns::is_carried(&column.data_type))
                .map(move |column| {
                    format!("{}.{} ({})", dotted(name), column.name, column.data_type)
                })
        })
        .collect();
    if unknown.is_empty() {
        return Finding::pass("tables.column-types", "all can be carried");
    }
    Finding::fail(
        "tables.column-types",
        format!(
            "columns of types that cannot be carried faithfully: {}",
            some_of(&unknown)
        ),
    )
    .remedy("change the columns' types, or leave the database out of [replication] databases")
}
