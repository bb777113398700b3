//! `twinlog verify`: are the rows equal?

use std::process::ExitCode;

use crate::compare::{Comparison, DifferenceKind, compare};
use anyhow::{Context as _, bail};
use serde::Serialize;
use twinlog_engine::barrier;
use twinlog_engine::config::Config;

use super::{code, wait};
use crate::arguments::Verify;
use crate::output::{Output, Tone};

/// What `--json` prints: the first node compared with each other one.
#[derive(Serialize)]
struct Report {
    equal: bool,
    comparisons: Vec<Pair>,
}

#[derive(Serialize)]
struct Pair {
    left: String,
    right: String,
    #[serde(flatten)]
    comparison: Comparison,
}

pub(super) async fn run(
    config: &Config,
    arguments: &Verify,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    if let Some(timeout) = arguments.wait {
        let outstanding = barrier::wait(config, Some(timeout))
            .await
            .context("cannot wait")?;
        if !outstanding.is_empty() {
            bail!("{}", wait::unfinished(&outstanding, Some(timeout)));
        }
    }
    let Some((first, others)) = config.nodes.split_first() else {
        bail!("there are no nodes");
    };
    let includes = |database: &str| config.replication.includes(database, &config.engine.schema);
    let mut comparisons = Vec::new();
    for other in others {
        let comparison = compare(
            (&first.name, first.opts.clone()),
            (&other.name, other.opts.clone()),
            &includes,
        )
        .await
        .with_context(|| {
            format!(
                "cannot compare node {} with node {}",
                first.name, other.name
            )
        })?;
        comparisons.push(Pair {
            left: first.name.clone(),
            right: other.name.clone(),
            comparison,
        });
    }
    let equal = comparisons.iter().all(|pair| pair.comparison.equal);
    let report = Report { equal, comparisons };
    if output.is_json() {
        output.facts(&report)?;
    } else {
        for pair in &report.comparisons {
            print(pair, output)?;
        }
    }
    Ok(code(equal))
}

fn print(pair: &Pair, output: &Output) -> anyhow::Result<()> {
    let Pair {
        left,
        right,
        comparison,
    } = pair;
    for table in comparison.differing() {
        let name = format!("{}.{}", table.database, table.table);
        let count = |rows: Option<u64>| rows.map_or_else(|| "none".to_owned(), |n| n.to_string());
        let mut line = format!(
            "{name} differs: {} rows on {left}, {} on {right}",
            count(table.rows.0),
            count(table.rows.1)
        );
        if let Some(problem) = &table.problem {
            line.push_str(&format!(": {problem}"));
        }
        output.line(output.paint(Tone::Bad, &line))?;
        for difference in &table.differences {
            let how = match difference.kind {
                DifferenceKind::OnlyLeft => format!("only on {left}"),
                DifferenceKind::OnlyRight => format!("only on {right}"),
                DifferenceKind::Differs => "other values".to_owned(),
            };
            output.line(format!("  {}: {how}", difference.key))?;
        }
        if table.more_differences {
            output.line("  and more")?;
        }
    }
    let count = comparison.tables.len();
    let tables = if count == 1 {
        "1 table".to_owned()
    } else {
        format!("{count} tables")
    };
    let differing = comparison.differing().count();
    let summary = if comparison.equal {
        let rows = comparison.rows();
        output.paint(
            Tone::Good,
            &format!("{left} and {right} are equal: {tables}, {rows} rows"),
        )
    } else {
        output.paint(
            Tone::Bad,
            &format!("{left} and {right} differ in {differing} of {tables}"),
        )
    };
    output.line(format!("{summary} ({} ms)", comparison.ms))
}
