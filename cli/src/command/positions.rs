//! `twinlog positions`: where every link stands, and setting that by hand.

use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;
use twinlog_engine::config::Config;
use twinlog_engine::position::operate;

use super::code;
use crate::arguments::PositionsSet;
use crate::output::{Output, Tone};

/// What `positions set --json` prints.
#[derive(Serialize)]
struct Moved<'a> {
    origin: &'a str,
    target: &'a str,
    before: String,
    after: String,
}

pub(super) async fn show(config: &Config, output: &Output) -> anyhow::Result<ExitCode> {
    let reports = operate::report(config).await;
    let all = reports.iter().all(|report| report.error.is_none());
    if output.is_json() {
        output.facts(&reports)?;
        return Ok(code(all));
    }
    let mut table = output.table(&[
        "link",
        "applied",
        "end of log",
        "in the store",
        "trx",
        "rows",
    ]);
    for report in &reports {
        if report.error.is_some() {
            let mut row = vec![format!("{} -> {}", report.origin, report.target)];
            row.push("?".to_owned());
            row.push(report.source.clone().unwrap_or_else(|| "?".to_owned()));
            row.extend(["?"; 3].map(str::to_owned));
            table.add_row(row);
            continue;
        }
        table.add_row(vec![
            format!("{} -> {}", report.origin, report.target),
            report.applied.clone(),
            report.source.clone().unwrap_or_else(|| "?".to_owned()),
            report.stored.clone().unwrap_or_else(|| "-".to_owned()),
            report.transactions.to_string(),
            report.changes.to_string(),
        ]);
    }
    output.line(table.trim_fmt())?;
    for report in &reports {
        if let Some(error) = &report.error {
            let line = format!("link {} -> {}: {error}", report.origin, report.target);
            output.line(output.paint(Tone::Bad, &line))?;
        }
        if let Some(intent) = &report.intent {
            output.line(format!(
                "link {} -> {}: a DDL statement that ends at {intent} was about to run; the engine \
                 finds out at its start whether it did",
                report.origin, report.target
            ))?;
        }
    }
    Ok(code(all))
}

pub(super) async fn set(
    config: &Config,
    arguments: &PositionsSet,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let PositionsSet {
        origin,
        target,
        position,
        yes,
    } = arguments;
    config.node(origin)?;
    config.node(target)?;
    if !yes {
        let question = format!(
            "Everything of node {origin} in front of {position} will count as applied at node \
             {target}: what is not there stays missing, what is there already may be applied \
             again. The engines of both nodes must be stopped. Go on?"
        );
        if !output.confirm(&question)? {
            return Ok(code(false));
        }
    }
    let (before, after) = operate::set(config, origin, target, position)
        .await
        .context("the position was not set")?;
    if output.is_json() {
        output.facts(&Moved {
            origin,
            target,
            before,
            after,
        })?;
    } else {
        output.line(format!(
            "link {origin} -> {target}: {before} is now {after}"
        ))?;
    }
    Ok(code(true))
}
