//! `twinlog bench stages`: arguments, and the outcome as a table.

use std::process::ExitCode;

use clap::Args;
use comfy_table::{Cell, Table, presets};

use super::{Common, describe, report, right};
use crate::bench::drain::{Contender, DrainOptions};
use crate::bench::progress::Progress;
use crate::bench::spread::{bytes, few_digits, thousands};
use crate::bench::stages::{StagesReport, run as measure};
use crate::bench::{Place, page};
use crate::output::Output;

/// `twinlog bench stages`
#[derive(Debug, Args)]
pub(crate) struct StagesArgs {
    #[command(flatten)]
    pub(super) common: Common,
    /// Transactions of the backlog.
    #[arg(long, value_name = "N", default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    transactions: u64,
    /// How often each way is gone; median and range are shown.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
}

pub(super) async fn run(
    arguments: &StagesArgs,
    place: &Place,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let common = &arguments.common;
    let options = DrainOptions {
        place: place.clone(),
        load: common.load(1)?,
        transactions: arguments.transactions,
        contenders: vec![Contender::Twinlog],
        runs: arguments.runs,
        base: common.folder.clone(),
    };
    let report_file = report::check(common.report.as_deref())?;
    let progress = Progress::new(output.is_json());
    let outcome = measure(&options, &progress).await?;
    report::write(report_file, || page::stages::page(&outcome))?;
    if output.is_json() {
        output.facts(&outcome)?;
    } else {
        output.line(text(&outcome))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(report: &StagesReport) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "up to",
        "seconds",
        "trx/s",
        "rows/s",
        "CPU s",
        "CPU s of the stage",
        "target CPU s",
    ]);
    for way in &report.ways {
        table.add_row([
            Cell::new(way.name),
            right(way.seconds.text(few_digits)),
            right(way.transactions_per_second.text(few_digits)),
            right(way.rows_per_second.text(few_digits)),
            right(way.cpu_seconds.text(few_digits)),
            right(few_digits(way.added_cpu_seconds.max(0.0))),
            right(
                way.target_cpu_seconds
                    .map_or_else(|| "-".to_owned(), |spread| spread.text(few_digits)),
            ),
        ]);
    }
    let last = report.ways.iter().rev().flat_map(|way| &way.runs);
    let prepared = last
        .filter_map(|run| run.passage)
        .find(|passage| passage.groups > 0);
    let mut text = format!(
        "{}\nbacklog of {} transactions with {} rows: {} of binlog; {} of each way, median (least..most)\n{table}",
        describe(&report.setting),
        thousands(report.transactions),
        thousands(report.rows),
        bytes(report.origin_log_bytes as f64),
        match report.ways.first().map_or(0, |way| way.runs.len()) {
            1 => "1 run".to_owned(),
            runs => format!("{runs} runs"),
        },
    );
    if let Some(passage) = prepared {
        text.push_str(&format!(
            "\nprepared: {} groups, {} statements of {} in all",
            thousands(passage.groups),
            thousands(passage.statements),
            bytes(passage.statement_bytes as f64),
        ));
    }
    text
}
