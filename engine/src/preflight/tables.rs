//! One server's tables: can each be replicated?

use super::columns;
use super::facts::{Name, NodeFacts, Table};
use super::{Finding, some_of};

/// Judges the replicated tables of one server.
pub(super) fn findings(facts: &NodeFacts) -> Vec<Finding> {
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
    findings.push(triggers(facts));
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

fn triggers(facts: &NodeFacts) -> Finding {
    let with = select(facts, |table| !table.triggers.is_empty());
    let Some(first) = with.first() else {
        return Finding::pass("tables.triggers", "none");
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
    let trigger = facts
        .tables
        .get(*first)
        .and_then(|table| table.triggers.first())
        .map(|trigger| quoted(&(first.0.clone(), trigger.clone())))
        .unwrap_or_default();
    Finding::fail(
        "tables.triggers",
        format!(
            "triggers: {}; what they write is in the log already, and at the other node they would \
             fire again and write it twice",
            some_of(&named)
        ),
    )
    .remedy(format!(
        "DROP TRIGGER {trigger}; on every node (do its work in the application or in a generated \
         column), or leave the database out of [replication] databases"
    ))
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
    let how = if !facts.maria && super::privileges::at_least(&facts.version, (9, 6)) {
        "this server writes the cascaded changes into its log, so they arrive at the other node \
         beside the change that caused them, where its own foreign key acts as well"
    } else {
        "this server does not write the cascaded changes into its log; the other node makes them \
         by its own foreign key, which must be the same"
    };
    Some(
        Finding::warn(
            "tables.foreign-keys",
            format!(
                "foreign keys that change rows by themselves: {}; {how}. A concurrent write to such \
                 a row is not seen as one",
                some_of(&with)
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
