//! `twinlog bench lag`: arguments, and the outcome as a table.

use std::process::ExitCode;

use anyhow::ensure;
use clap::Args;
use comfy_table::{Cell, Table, presets};

use super::{Common, describe, joints, report, right};
use crate::bench::lag::{LagOptions, LagReport, run as measure};
use crate::bench::progress::Progress;
use crate::bench::spread::{Spread, few_digits};
use crate::bench::{Place, page};
use crate::output::Output;

/// `twinlog bench lag`
#[derive(Debug, Args)]
pub(crate) struct LagArgs {
    #[command(flatten)]
    pub(super) common: Common,
    /// What the levels are per cent of, in transactions a second [default: measured first, as what the
    /// slowest contender sustains while clients write as fast as they can].
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    /// Levels of load, in per cent.
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "25,50,75,90",
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    levels: Vec<u32>,
    /// How long at each level, in each run.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Workers of the servers' own replication; 0 leaves it out.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(0..=1024))]
    workers: u32,
    /// How often each contender runs; median and range are shown.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
}

pub(super) async fn run(
    arguments: &LagArgs,
    place: &Place,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let common = &arguments.common;
    if let Some(rate) = arguments.rate {
        ensure!(
            (1.0..=1e7).contains(&rate),
            "--rate {rate}: a number of transactions a second, at least 1"
        );
    }
    let options = LagOptions {
        place: place.clone(),
        load: common.load(1)?,
        rate: arguments.rate,
        levels: arguments.levels.clone(),
        seconds: arguments.seconds,
        joints: joints(place, arguments.workers),
        runs: arguments.runs,
        base: common.folder.clone(),
    };
    let report_file = report::check(common.report.as_deref())?;
    let progress = Progress::new(output.is_json());
    let outcome = measure(&options, &progress).await?;
    report::write(report_file, || page::lag::page(&outcome))?;
    if output.is_json() {
        output.facts(&outcome)?;
    } else {
        output.line(text(&outcome))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(report: &LagReport) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "load",
        "trx/s due",
        "written",
        "",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "max ms",
        "from due: p50",
        "p99",
        "others' CPU",
    ]);
    let mut outcomes: Vec<_> = report.contenders.iter().collect();
    outcomes.sort_by_key(|outcome| outcome.level);
    for outcome in outcomes {
        let (commit, due) = (&outcome.from_commit, &outcome.from_due);
        table.add_row([
            right(format!("{} %", outcome.level)),
            right(few_digits(outcome.due_per_second)),
            right(few_digits(outcome.written_per_second.median)),
            Cell::new(&outcome.name),
            right(commit.p50.text(few_digits)),
            right(commit.p99.text(few_digits)),
            right(commit.p999.text(few_digits)),
            right(commit.max.text(few_digits)),
            right(due.p50.text(few_digits)),
            right(due.p99.text(few_digits)),
            right(
                Spread::of(outcome.runs.iter().filter_map(|run| run.others_share)).map_or_else(
                    || "-".to_owned(),
                    |share| format!("{:.0} %", share.median * 100.0),
                ),
            ),
        ]);
    }
    format!(
        "{}\n100 % is {} transactions/s ({}); {} s at each level, {} probes/s, looked for every {} ms; \
         from COMMIT's return at a to visible at b; median (least..most) of the runs in turns\n{table}",
        describe(&report.setting),
        few_digits(report.rate),
        if report.rate_measured {
            "measured: what the slowest contender sustains"
        } else {
            "given"
        },
        report.seconds,
        report.probes_per_second,
        report.resolution_seconds * 1000.0,
    )
}
