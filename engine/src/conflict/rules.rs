//! Which policy a table goes by, as `[[conflict]]` in the config says, and whether it may.
//!
//! Pure: patterns and table definitions in, rules and problems out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::policy::Policy;
use crate::config::glob_matches;
use crate::schema::{ColumnSchema, TableSchema};

/// How concurrent changes of one column are brought together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnRule {
    /// It goes with the row: the later write's value.
    #[default]
    Later,
    /// Changes are added up: present value + (after - before).
    Delta,
    /// The greater value stays.
    Max,
    /// The smaller value stays.
    Min,
    /// The later of the writes that changed the column.
    Changed,
}

/// One `[[conflict]]` section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConflictRule {
    /// Patterns `database.table` with `*` and `?`.
    pub tables: Vec<String>,
    /// What decides about a row as a whole.
    pub policy: Policy,
    /// Columns that only one side changed keep that change.
    pub column_merge: bool,
    /// Columns with a rule of their own, by name.
    pub columns: BTreeMap<String, ColumnRule>,
}

impl ConflictRule {
    fn matches(&self, database: &str, table: &str) -> bool {
        let name = format!("{database}.{table}");
        self.tables
            .iter()
            .any(|pattern| glob_matches(pattern, &name))
    }

    /// Its `policy` as the config file has it.
    #[must_use]
    pub fn policy_name(&self) -> &'static str {
        if self.column_merge {
            "column_merge"
        } else {
            self.policy.as_str()
        }
    }
}

/// What a table goes by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TableRule {
    /// What decides about a row as a whole.
    pub policy: Policy,
    /// A rule for each of the table's columns; empty where all go with the row.
    pub columns: Vec<ColumnRule>,
    /// As the journal calls it.
    pub name: String,
}

impl TableRule {
    /// Whether rows are merged column by column.
    #[must_use]
    pub fn merges(&self) -> bool {
        !self.columns.is_empty()
    }
}

/// All rules of a cluster, in the file's order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ConflictRules(Vec<ConflictRule>);

impl ConflictRules {
    /// Takes the sections.
    #[must_use]
    pub fn new(rules: Vec<ConflictRule>) -> Self {
        Self(rules)
    }

    /// The sections.
    #[must_use]
    pub fn sections(&self) -> &[ConflictRule] {
        &self.0
    }

    /// The rule of a table; `last_write_wins` where no section matches.
    ///
    /// # Errors
    /// What would not converge or not work, and why, in words that name the table.
    pub fn rule_for(&self, table: &TableSchema) -> Result<TableRule, String> {
        let mut matching = self
            .0
            .iter()
            .filter(|rule| rule.matches(&table.database, &table.name));
        let Some(rule) = matching.next() else {
            return Ok(TableRule {
                name: Policy::default().as_str().to_owned(),
                ..TableRule::default()
            });
        };
        if let Some(other) = matching.next() {
            return Err(format!(
                "table {table} has two [[conflict]] rules, {:?} and {:?}: which one holds must not \
                 hang on their order; make the patterns disjoint",
                rule.tables, other.tables
            ));
        }
        let columns = columns_of(rule, table)?;
        Ok(TableRule {
            policy: rule.policy,
            columns,
            name: rule.policy_name().to_owned(),
        })
    }

    /// Sections whose patterns match none of these tables: most likely a slip of the pen.
    #[must_use]
    pub fn unused(&self, tables: &[(String, String)]) -> Vec<&ConflictRule> {
        self.0
            .iter()
            .filter(|rule| {
                !tables
                    .iter()
                    .any(|(database, table)| rule.matches(database, table))
            })
            .collect()
    }
}

fn columns_of(rule: &ConflictRule, table: &TableSchema) -> Result<Vec<ColumnRule>, String> {
    if rule.columns.is_empty() && !rule.column_merge {
        return Ok(Vec::new());
    }
    let mut rules = vec![ColumnRule::Later; table.columns.len()];
    if rule.policy != Policy::LastWriteWins {
        return Err(format!(
            "table {table}: columns with rules of their own go with policy last_write_wins or \
             column_merge only. Merged rows are the sum of all writes in one order of time; under \
             {} the later write need not be the one that stands, and the nodes would differ",
            rule.policy.as_str()
        ));
    }
    if table.in_foreign_keys() {
        return Err(format!(
            "table {table} is in a foreign key, and its rows cannot be merged: a merged row stands \
             for two writes, of which one may lose its parent. Take it out of the rule, or drop the \
             constraint"
        ));
    }
    if let Some(json) = table.columns.iter().find(|c| c.data_type == "json") {
        return Err(format!(
            "table {table} has the JSON column {}, and rows with JSON cannot be merged in this version; \
             take the table out of the rule, or make the column LONGTEXT",
            json.name
        ));
    }
    let keyed = |index: usize| {
        table.row_key.contains(&index)
            || table
                .unique_keys
                .iter()
                .any(|unique| unique.columns.contains(&index))
    };
    if rule.column_merge {
        for (index, column) in table.columns.iter().enumerate() {
            // What a key is made of belongs together, and goes with the later write.
            if !keyed(index) && !column.generated {
                rules[index] = ColumnRule::Changed;
            }
        }
        if !rules.contains(&ColumnRule::Changed) {
            return Err(format!(
                "table {table}: column_merge has nothing to merge, for all of its columns are part of \
                 a key; use last_write_wins"
            ));
        }
    }
    for (name, wanted) in &rule.columns {
        let Some(index) = table.column(name) else {
            let names: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
            return Err(format!(
                "table {table} has no column {name}, for which a [[conflict]] rule asks; its columns \
                 are {}",
                names.join(", ")
            ));
        };
        let column = &table.columns[index];
        if keyed(index) {
            return Err(format!(
                "table {table}: column {name} is part of a key and cannot be merged: a merged key \
                 would be one that no client ever wrote, and could collide"
            ));
        }
        if column.generated {
            return Err(format!(
                "table {table}: column {name} is generated by the server; give the rule to the \
                 columns that it is made of"
            ));
        }
        if *wanted != ColumnRule::Later {
            mergeable(table, column, *wanted)?;
        }
        rules[index] = *wanted;
    }
    Ok(rules)
}

/// Whether the column's type can be added up, or compared, exactly.
fn mergeable(table: &TableSchema, column: &ColumnSchema, rule: ColumnRule) -> Result<(), String> {
    let exact = matches!(
        column.data_type.as_str(),
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "decimal"
    );
    let ordered = exact
        || matches!(
            column.data_type.as_str(),
            "date" | "time" | "datetime" | "timestamp" | "year"
        );
    let name = &column.name;
    let refuse = |why: &str| {
        Err(format!(
            "table {table}: column {name} is {} and cannot be merged by {}: {why}",
            column.column_type,
            match rule {
                ColumnRule::Delta => "delta",
                ColumnRule::Max => "max",
                ColumnRule::Min => "min",
                ColumnRule::Changed | ColumnRule::Later => "column_merge",
            }
        ))
    };
    match (rule, column.data_type.as_str()) {
        (ColumnRule::Delta, "float" | "double") => refuse(
            "sums of floating-point numbers depend on their order, so that the nodes would differ in \
             the last digits; use DECIMAL",
        ),
        (ColumnRule::Delta, _) if !exact => refuse("it is not an exact number"),
        (ColumnRule::Delta | ColumnRule::Max | ColumnRule::Min, _) if column.auto_increment => {
            refuse("it is AUTO_INCREMENT")
        }
        (ColumnRule::Max | ColumnRule::Min, _) if !ordered => refuse(
            "only exact numbers, dates and times have an order that does not hang on a collation or \
             on rounding",
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::UniqueKey;

    fn column(name: &str, data_type: &str) -> ColumnSchema {
        ColumnSchema {
            name: name.into(),
            data_type: data_type.into(),
            column_type: data_type.into(),
            unsigned: false,
            nullable: true,
            charset: None,
            collation: None,
            generated: false,
            auto_increment: false,
            ..ColumnSchema::default()
        }
    }

    fn table() -> TableSchema {
        TableSchema {
            database: "shop".into(),
            name: "items".into(),
            table_type: "BASE TABLE".into(),
            engine: "InnoDB".into(),
            columns: vec![
                column("id", "int"),
                column("code", "int"),
                column("stock", "int"),
                column("price", "double"),
                column("name", "varchar"),
                column("seen_at", "datetime"),
            ],
            row_key: vec![0],
            unique_keys: vec![UniqueKey {
                name: "code".into(),
                columns: vec![1],
                prefixes: vec![None],
            }],
            has_opaque_unique_key: false,
            parents: Vec::new(),
            children: Vec::new(),
            triggers: false,
            keyed_by_primary: true,
        }
    }

    fn rule(tables: &str, columns: &[(&str, ColumnRule)]) -> ConflictRule {
        ConflictRule {
            tables: vec![tables.into()],
            policy: Policy::LastWriteWins,
            column_merge: false,
            columns: columns
                .iter()
                .map(|(name, rule)| ((*name).to_owned(), *rule))
                .collect(),
        }
    }

    fn problem(rules: Vec<ConflictRule>) -> String {
        ConflictRules::new(rules).rule_for(&table()).unwrap_err()
    }

    #[test]
    fn a_table_without_a_rule_goes_by_time() {
        let rules = ConflictRules::new(vec![rule("crm.*", &[])]);
        let found = rules.rule_for(&table()).unwrap();
        assert_eq!(found.policy, Policy::LastWriteWins);
        assert!(!found.merges());
        let tables = [("shop".to_owned(), "items".to_owned())];
        assert_eq!(rules.unused(&tables).len(), 1);
    }

    #[test]
    fn what_cannot_converge_is_refused() {
        let one = |name, wanted| problem(vec![rule("shop.*", &[(name, wanted)])]);
        assert!(one("price", ColumnRule::Delta).contains("depend on their order"));
        assert!(one("name", ColumnRule::Delta).contains("not an exact number"));
        assert!(one("name", ColumnRule::Max).contains("collation"));
        assert!(one("code", ColumnRule::Delta).contains("part of a key"));
        assert!(one("id", ColumnRule::Max).contains("part of a key"));
        assert!(one("stok", ColumnRule::Delta).contains("its columns are id, code"));
        assert!(
            problem(vec![rule("shop.*", &[]), rule("*.items", &[])]).contains("two [[conflict]]")
        );
        let mut priority = rule("*.*", &[("stock", ColumnRule::Delta)]);
        priority.policy = Policy::NodePriority;
        assert!(problem(vec![priority]).contains("would differ"));
    }

    #[test]
    fn columns_get_their_rules() {
        let mut merge = rule("shop.items", &[("stock", ColumnRule::Delta)]);
        merge.column_merge = true;
        let found = ConflictRules::new(vec![merge]).rule_for(&table()).unwrap();
        use ColumnRule::{Changed, Delta, Later};
        assert_eq!(
            found.columns,
            [Later, Later, Delta, Changed, Changed, Changed]
        );
        assert_eq!(found.name, "column_merge");
    }
}
