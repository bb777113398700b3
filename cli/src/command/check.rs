//! `twinlog check`: may the nodes be joined?

use std::process::ExitCode;

use serde::Serialize;
use twinlog_engine::config::Config;
use twinlog_engine::preflight::{self, Finding, Level};

use super::code;
use crate::arguments::Check;
use crate::output::{Output, Tone};

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    pass: usize,
    warn: usize,
    fail: usize,
    findings: &'a [Finding],
}

pub(super) async fn run(
    config: &Config,
    arguments: &Check,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let findings = match &arguments.node {
        Some(name) => preflight::check_node(config, config.node(name)?).await,
        None => preflight::check(config).await,
    };
    print(config, &findings, arguments.problems, output)?;
    Ok(code(!preflight::any_fail(&findings)))
}

/// Prints findings by node, the cluster as a whole last, and a summary.
pub(super) fn print(
    config: &Config,
    findings: &[Finding],
    problems_only: bool,
    output: &Output,
) -> anyhow::Result<()> {
    let count = |level| {
        findings
            .iter()
            .filter(|finding| finding.level == level)
            .count()
    };
    let (pass, warn, fail) = (count(Level::Pass), count(Level::Warn), count(Level::Fail));
    if output.is_json() {
        return output.facts(&Report {
            ok: fail == 0,
            pass,
            warn,
            fail,
            findings,
        });
    }
    let nodes = config.nodes.iter().map(Some).chain([None]);
    for node in nodes {
        let of_node: Vec<&Finding> = findings
            .iter()
            .filter(|finding| finding.node.as_deref() == node.map(|node| node.name.as_str()))
            .filter(|finding| !problems_only || finding.level != Level::Pass)
            .collect();
        if of_node.is_empty() {
            continue;
        }
        output.line(match node {
            Some(node) => format!("node {} ({})", node.name, node.address()),
            None => "all nodes".to_owned(),
        })?;
        let mut table = output.table(&[]);
        for finding in of_node {
            let (tone, word) = match finding.level {
                Level::Pass => (Tone::Good, "PASS"),
                Level::Warn => (Tone::Odd, "WARN"),
                Level::Fail => (Tone::Bad, "FAIL"),
            };
            let mut message = finding.message.clone();
            if let Some(remedy) = finding
                .remedy
                .as_ref()
                .filter(|_| finding.level != Level::Pass)
            {
                message.push_str("\n-> ");
                message.push_str(remedy);
            }
            table.add_row(vec![
                output.cell(tone, word),
                output.cell(Tone::Quiet, finding.subject),
                comfy_table::Cell::new(message),
            ]);
        }
        output.line(table.trim_fmt())?;
        output.line("")?;
    }
    let warnings = if warn == 1 { "warning" } else { "warnings" };
    let summary = format!("{pass} passed, {warn} {warnings}, {fail} failed");
    output.line(match (fail, warn) {
        (0, 0) => output.paint(Tone::Good, &format!("{summary}: the nodes may be joined")),
        (0, _) => output.paint(Tone::Odd, &format!("{summary}: the nodes may be joined")),
        _ => output.paint(Tone::Bad, &format!("{summary}: mend what failed first")),
    })
}
