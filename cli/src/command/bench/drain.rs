//! `twinlog bench drain`: arguments, and the outcome as a table.

use std::process::ExitCode;

use clap::Args;
use comfy_table::{Cell, Table, presets};

use super::{Common, describe, report, right};
use crate::bench::drain::{Contender, DrainOptions, DrainReport, Outcome, Run, run as measure};
use crate::bench::progress::Progress;
use crate::bench::spread::{bytes, few_digits, median_of, thousands};
use crate::bench::{Place, page};
use crate::output::Output;

/// `twinlog bench drain`
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    pub(super) common: Common,
    /// Transactions of the backlog.
    #[arg(long, value_name = "N", default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    transactions: u64,
    /// Workers of the servers' own replication, each number a contender; 0 leaves it out.
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "1,4,8,16",
          value_parser = clap::value_parser!(u32).range(0..=1024))]
    workers: Vec<u32>,
    /// Leave twinlog out.
    #[arg(long)]
    no_twinlog: bool,
    /// How often each contender drains; median and range are shown.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
}

pub(super) async fn run(
    arguments: &DrainArgs,
    place: &Place,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let common = &arguments.common;
    let mut contenders = Vec::new();
    if !arguments.no_twinlog {
        contenders.push(Contender::Twinlog);
    }
    let workers = arguments.workers.iter().filter(|workers| **workers > 0);
    if let Place::Throwaway(_) = place {
        contenders.extend(workers.map(|workers| Contender::Native(*workers)));
    }
    anyhow::ensure!(
        !contenders.is_empty(),
        "--no-twinlog leaves nobody to measure, without --workers or at servers of your own"
    );
    let options = DrainOptions {
        place: place.clone(),
        load: common.load(1)?,
        transactions: arguments.transactions,
        contenders,
        runs: arguments.runs,
        base: common.folder.clone(),
    };
    let report_file = report::check(common.report.as_deref())?;
    let progress = Progress::new(output.is_json());
    let outcome = measure(&options, &progress).await?;
    report::write(report_file, || page::drain::page(&outcome))?;
    if output.is_json() {
        output.facts(&outcome)?;
    } else {
        output.line(text(&outcome))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(report: &DrainReport) -> String {
    let transactions = report.transactions as f64;
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "",
        "seconds",
        "trx/s",
        "engine CPU s",
        "engine memory",
        "target CPU s",
        "binlog/trx",
        "of it marker",
        "commits",
        "conflicts",
        "others' CPU",
        "rows",
    ]);
    for outcome in &report.contenders {
        let of = |value: &dyn Fn(&Run) -> Option<f64>, show: &dyn Fn(f64) -> String| {
            right(median_of(&outcome.runs, value, show))
        };
        let count = |value: f64| thousands(value as u64);
        let percent = |value: f64| format!("{:.0} %", value * 100.0);
        table.add_row([
            Cell::new(&outcome.name),
            right(outcome.seconds.text(few_digits)),
            right(outcome.transactions_per_second.text(few_digits)),
            of(&|run| run.engine_cpu_seconds, &few_digits),
            of(
                &|run| run.engine_peak_memory_bytes.map(|n| n as f64),
                &bytes,
            ),
            of(&|run| run.target_cpu_seconds, &few_digits),
            of(
                &|run| Some(run.target_log_bytes as f64 / transactions),
                &bytes,
            ),
            of(
                &|run| run.marker_log_bytes.map(|n| n as f64 / transactions),
                &bytes,
            ),
            of(&|run| run.commits.map(|n| n as f64), &count),
            of(&|run| run.conflicts.map(|n| n as f64), &count),
            of(&|run| run.others_share, &percent),
            Cell::new(rows(outcome)),
        ]);
    }
    let mut text = format!(
        "{}\nbacklog of {} transactions: {:.1} s to write, {} of binlog ({} a transaction); {} run{} \
         of each in turns, median (least..most)\n{table}",
        describe(&report.setting),
        thousands(report.transactions),
        report.written_seconds,
        bytes(report.origin_log_bytes as f64),
        bytes(report.origin_log_bytes as f64 / transactions),
        report
            .contenders
            .first()
            .map_or(0, |first| first.runs.len()),
        if report
            .contenders
            .first()
            .is_some_and(|first| first.runs.len() == 1)
        {
            ""
        } else {
            "s"
        },
    );
    if let Some(times) = report.times_as_fast {
        text.push_str(&format!(
            "\ntwinlog is {times:.2} times as fast as the fastest native contender (medians of this run)"
        ));
    }
    text
}

fn rows(outcome: &Outcome) -> &'static str {
    if outcome.runs.iter().all(|run| run.equal) {
        "equal"
    } else {
        "DIFFERENT"
    }
}
