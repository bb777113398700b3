//! `twinlog bench write`: arguments, and the outcome as a table.

use std::process::ExitCode;

use clap::Args;
use comfy_table::{Cell, Table, presets};

use super::{Common, describe, joints, report, right};
use crate::bench::joined::Joint;
use crate::bench::progress::Progress;
use crate::bench::spread::{bytes, few_digits, median_of};
use crate::bench::write::{WriteOptions, WriteReport, WriteRun, run as measure};
use crate::bench::{Place, page};
use crate::output::Output;

/// `twinlog bench write`
#[derive(Debug, Args)]
pub(crate) struct WriteArgs {
    #[command(flatten)]
    pub(super) common: Common,
    /// How long clients write, in each run.
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
    arguments: &WriteArgs,
    place: &Place,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let common = &arguments.common;
    let mut contenders = vec![Joint::Off];
    contenders.extend(joints(place, arguments.workers));
    let options = WriteOptions {
        place: place.clone(),
        load: common.load(2)?,
        seconds: arguments.seconds,
        joints: contenders,
        runs: arguments.runs,
        base: common.folder.clone(),
    };
    let report_file = report::check(common.report.as_deref())?;
    let progress = Progress::new(output.is_json());
    let outcome = measure(&options, &progress).await?;
    report::write(report_file, || page::write::page(&outcome))?;
    if output.is_json() {
        output.facts(&outcome)?;
    } else {
        output.line(text(&outcome))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(report: &WriteReport) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "",
        "written trx/s",
        "applied everywhere trx/s",
        "drained after",
        "engines' CPU s",
        "engine memory",
        "servers' CPU s",
        "conflicts",
        "others' CPU",
        "rows",
    ]);
    for outcome in &report.contenders {
        let of = |value: &dyn Fn(&WriteRun) -> Option<f64>, show: &dyn Fn(f64) -> String| {
            right(median_of(&outcome.runs, value, show))
        };
        let engines = outcome.joint == Joint::Twinlog;
        let seconds = |value: f64| format!("{value:.2} s");
        let percent = |value: f64| format!("{:.0} %", value * 100.0);
        let rows = match outcome.joint {
            Joint::Off => "-",
            _ if outcome.runs.iter().all(|run| run.differing.is_none()) => "equal",
            _ => "DIFFERENT",
        };
        table.add_row([
            Cell::new(&outcome.name),
            right(outcome.written_per_second.text(few_digits)),
            right(
                outcome
                    .applied_per_second
                    .map_or_else(|| "-".to_owned(), |spread| spread.text(few_digits)),
            ),
            of(&|run| run.drained_seconds, &seconds),
            of(
                &|run| engines.then_some(run.engine_cpu_seconds),
                &few_digits,
            ),
            of(
                &|run| engines.then_some(run.engine_peak_memory_bytes as f64),
                &bytes,
            ),
            of(&|run| run.server_cpu_seconds, &few_digits),
            of(&|run| engines.then_some(run.conflicts as f64), &|n| {
                format!("{n:.0}")
            }),
            of(&|run| run.others_share, &percent),
            Cell::new(rows),
        ]);
    }
    let mut text = format!(
        "{}\n{} s of writing at both masters; median (least..most) of {} run{} in turns\n{table}",
        describe(&report.setting),
        report.seconds,
        report.contenders.first().map_or(0, |one| one.runs.len()),
        if report
            .contenders
            .first()
            .is_some_and(|one| one.runs.len() == 1)
        {
            ""
        } else {
            "s"
        },
    );
    if let (Some(written), Some(applied)) = (report.ratio_written, report.ratio_applied) {
        text.push_str(&format!(
            "\nwith twinlog, {written:.2} times as much is written as with native replication, \
             {applied:.2} times as much written and applied everywhere (medians of this run)"
        ));
    }
    text
}
