//! Do the `[[conflict]]` rules fit the tables of a node? What would not converge is refused before
//! anything runs.

use super::{Finding, some_of};
use crate::config::{Config, NodeConfig};
use crate::connection::NodeConnection;
use crate::error::{Error, Result};
use crate::schema::SchemaCatalog;

/// What the rules come to at one node.
pub(crate) struct Judged {
    /// What forbids running, in words.
    pub problems: Vec<String>,
    /// What is odd.
    pub warnings: Vec<String>,
    /// Tables with their rules, as `shop.items: delta (stock), last_write_wins`.
    pub rules: Vec<String>,
}

/// Looks up each table that a rule matches.
///
/// # Errors
/// The connection's.
pub(crate) async fn judge(config: &Config, node: &NodeConfig) -> Result<Judged> {
    let mut judged = Judged {
        problems: Vec::new(),
        warnings: Vec::new(),
        rules: Vec::new(),
    };
    if config.conflicts.sections().is_empty() {
        return Ok(judged);
    }
    let mut connection = NodeConnection::open(node).await?;
    let tables: Vec<(String, String)> = connection
        .all(
            "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES WHERE TABLE_TYPE = 'BASE \
             TABLE'",
            "listing the tables",
        )
        .await?;
    connection.close().await;
    let schema = &config.engine.schema;
    let tables: Vec<(String, String)> = tables
        .into_iter()
        .filter(|(database, _)| config.replication.includes(database, schema))
        .collect();
    for rule in config.conflicts.unused(&tables) {
        judged.warnings.push(format!(
            "no table matches the [[conflict]] rule {:?}",
            rule.tables
        ));
    }
    let catalog = SchemaCatalog::new(node.clone());
    for (database, table) in &tables {
        let one = [(database.clone(), table.clone())];
        if config.conflicts.unused(&one).len() == config.conflicts.sections().len() {
            continue;
        }
        let Some(table) = catalog.table(database, table).await? else {
            continue;
        };
        match config.conflicts.rule_for(&table) {
            Ok(rule) => judged.rules.push(format!("{table}: {}", rule.name)),
            Err(problem) => judged.problems.push(problem),
        }
    }
    Ok(judged)
}

/// Refuses to run with rules that do not fit.
///
/// # Errors
/// [`Error::Config`] with all problems; the connection's.
pub(crate) async fn verify(config: &Config, node: &NodeConfig) -> Result<()> {
    let judged = judge(config, node).await?;
    for warning in &judged.warnings {
        tracing::warn!(node = node.name, "{warning}");
    }
    if judged.problems.is_empty() {
        return Ok(());
    }
    Err(Error::Config(judged.problems.join("; ")))
}

/// The same as findings of `check`.
pub(super) async fn findings(config: &Config, node: &NodeConfig) -> Vec<Finding> {
    let judged = match judge(config, node).await {
        Ok(judged) => judged,
        Err(error) => {
            let message = format!("cannot be compared with the tables: {error}");
            return vec![Finding::fail("conflict.rules", message).on(&node.name)];
        }
    };
    let mut findings: Vec<Finding> = Vec::new();
    for problem in judged.problems {
        let remedy = "change the [[conflict]] section of the config file, the same on every host";
        findings.push(Finding::fail("conflict.rules", problem).remedy(remedy));
    }
    for warning in judged.warnings {
        findings.push(Finding::warn("conflict.rules", warning));
    }
    if !judged.rules.is_empty() {
        let message = format!("{}; all others last_write_wins", some_of(&judged.rules));
        findings.push(Finding::pass("conflict.rules", message));
    }
    findings
        .into_iter()
        .map(|finding| finding.on(&node.name))
        .collect()
}
