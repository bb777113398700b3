//! May these nodes be joined? Reads each server's settings, privileges and schema, changes nothing,
//! and says what stands in the way and which statement or my.cnf line mends it.
//!
//! The facts are read first, with a few large queries per node; every judgement is a pure
//! function of them.

mod agreement;
mod columns;
mod facts;
pub(crate) mod gtids;
mod privileges;
pub(crate) mod rules;
mod session;
mod settings;
mod tables;

#[cfg(test)]
mod tests;

use crate::config::{Config, DdlPolicy, NodeConfig};
use facts::NodeFacts;
use session::Session;

pub use agreement::{AUTO_INCREMENT_QUERY, AutoIncrement, auto_increment_findings};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Pass,
    /// Replication works; something else may surprise.
    Warn,
    /// The nodes must not be joined like this.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// How much it matters.
    pub level: Level,
    /// The node it is about; `None` for the cluster as a whole.
    pub node: Option<String>,
    /// What was looked at, a short stable name such as `binlog.format`.
    pub subject: &'static str,
    /// What was found.
    pub message: String,
    /// The statement or the my.cnf line that mends it.
    pub remedy: Option<String>,
}

impl Finding {
    fn new(level: Level, subject: &'static str, message: impl Into<String>) -> Self {
        Self {
            level,
            node: None,
            subject,
            message: message.into(),
            remedy: None,
        }
    }

    fn pass(subject: &'static str, message: impl Into<String>) -> Self {
        Self::new(Level::Pass, subject, message)
    }

    fn warn(subject: &'static str, message: impl Into<String>) -> Self {
        Self::new(Level::Warn, subject, message)
    }

    fn fail(subject: &'static str, message: impl Into<String>) -> Self {
        Self::new(Level::Fail, subject, message)
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    fn on(mut self, node: &str) -> Self {
        self.node = Some(node.to_owned());
        self
    }
}

/// Whether any finding forbids joining the nodes.
#[must_use]
pub fn any_fail(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.level == Level::Fail)
}

/// Looks at every node and at how they fit together. A node that cannot be looked at is a finding,
/// not an error.
pub async fn check(config: &Config) -> Vec<Finding> {
    let mut findings: Vec<Finding> = config
        .warnings
        .iter()
        .map(|warning| Finding::warn("config", warning.clone()))
        .collect();
    let looks = config.nodes.iter().map(|node| look(config, node));
    let mut looked = Vec::new();
    for (node, look) in config
        .nodes
        .iter()
        .zip(futures_util::future::join_all(looks).await)
    {
        match look {
            Ok(node_looked) => looked.push(node_looked),
            Err(finding) => findings.push(finding.on(&node.name)),
        }
    }
    findings.extend(agreement::same_server(&mut looked).await);
    if config.replication.ddl == DdlPolicy::Replicate {
        findings.extend(gtids::findings(&mut looked).await);
    }
    let facts: Vec<NodeFacts> = {
        let mut facts = Vec::new();
        for (session, node_facts) in looked {
            session.close().await;
            facts.push(node_facts);
        }
        facts
    };
    for node in &facts {
        findings.extend(judge(config, node));
    }
    for node in &config.nodes {
        // One that cannot be reached has been said to be so.
        if facts.iter().any(|facts| facts.node == node.name) {
            findings.extend(rules::findings(config, node).await);
        }
    }
    if facts.len() > 1 {
        findings.extend(agreement::findings(config, &facts));
    }
    findings
}

/// Looks at one node alone.
pub async fn check_node(config: &Config, node: &NodeConfig) -> Vec<Finding> {
    match look(config, node).await {
        Ok((session, facts)) => {
            session.close().await;
            let mut findings = judge(config, &facts);
            findings.extend(rules::findings(config, node).await);
            findings
        }
        Err(finding) => vec![finding.on(&node.name)],
    }
}

async fn look(config: &Config, node: &NodeConfig) -> Result<(Session, NodeFacts), Finding> {
    let mut session = Session::open(node).await?;
    match NodeFacts::read(&mut session, config, node).await {
        Ok(facts) => Ok((session, facts)),
        Err(error) => Err(Finding::fail(
            "server.reachable",
            format!("cannot be looked at: {error}"),
        )),
    }
}

/// Everything that can be said of one node alone.
fn judge(config: &Config, facts: &NodeFacts) -> Vec<Finding> {
    let mut findings = vec![Finding::pass(
        "server.reachable",
        format!(
            "{} at {} as {}",
            facts.version, facts.address, facts.account
        ),
    )];
    findings.extend(settings::findings(config, facts));
    findings.extend(privileges::findings(config, facts));
    findings.extend(tables::findings(config, facts));
    findings
        .into_iter()
        .map(|finding| finding.on(&facts.node))
        .collect()
}

/// How many things a finding lists before it only counts.
const LISTED: usize = 10;

/// The first few of a list, and the number of the rest.
fn some_of(items: &[String]) -> String {
    let shown = items[..items.len().min(LISTED)].join(", ");
    match items.len().saturating_sub(LISTED) {
        0 => shown,
        rest => format!("{shown} and {rest} more"),
    }
}
