//! The page of `bench stages`.

use super::contender::Shown;
use super::drain::two_lines;
use super::plot::{self, Bar};
use super::{OWN_SERVERS, Page, lead};
use crate::bench::spread::{bytes, few_digits, thousands};
use crate::bench::stages::{End, StagesReport, WayOutcome};

/// The page.
///
/// # Errors
/// A plot cannot be drawn.
pub fn page(report: &StagesReport) -> anyhow::Result<String> {
    let setting = &report.setting;
    let title = format!(
        "The way of {} transactions through twinlog, by stage",
        thousands(report.transactions)
    );
    let lead = lead(setting, "load", "");
    let mut page = Page::new(&title, &lead);
    page.warnings(setting, None);
    let ways = || report.ways.iter();
    let shown = Shown::all(ways().map(|way| (way.name, way.end == End::Target)));
    let bars = |of: &dyn Fn(&WayOutcome) -> crate::bench::spread::Spread| -> Vec<Bar> {
        let all = ways().zip(&shown);
        all.map(|(way, shown)| shown.bar(of(way))).collect()
    };
    page.figure(
        "Transactions a second, up to each stage",
        "Each way has the stages above it in it. Median, with the range of all runs. Longer is better.",
        &plot::bars(&bars(&|way| way.transactions_per_second), &|value| {
            format!("{}/s", few_digits(value))
        })?,
        &[],
    );
    page.figure(
        "Processor seconds, up to each stage",
        "Of the process that runs the stages. Shorter is better.",
        &plot::bars(&bars(&|way| way.cpu_seconds), &|value| {
            format!("{} s", few_digits(value))
        })?,
        &[],
    );
    let rows: Vec<(bool, Vec<String>)> = ways()
        .map(|way| {
            let row = vec![
                way.name.to_owned(),
                two_lines(way.seconds, " s"),
                two_lines(way.transactions_per_second, ""),
                two_lines(way.rows_per_second, ""),
                two_lines(way.cpu_seconds, ""),
                few_digits(way.added_cpu_seconds.max(0.0)),
                way.target_cpu_seconds
                    .map_or_else(|| "-".to_owned(), |spread| two_lines(spread, "")),
            ];
            (way.end == End::Target, row)
        })
        .collect();
    page.table(
        "Figures",
        &[
            "up to",
            "time",
            "transactions/s",
            "rows/s",
            "CPU s",
            "CPU s of the stage",
            "target CPU s",
        ],
        &rows,
    );
    let method = [
        "A backlog was written at one master. It was read with the engine's own stages, up to each of them in \
         turn, and what came out was thrown away. Then an engine applied it.",
        "The stages run beside each other, so their times do not add up; their processor seconds do.",
        if setting.is_own() {
            OWN_SERVERS
        } else {
            "Servers and stages share one machine."
        },
    ];
    let backlog = format!(
        "{} transactions, {} rows, {} of binlog",
        thousands(report.transactions),
        thousands(report.rows),
        bytes(report.origin_log_bytes as f64)
    );
    let runs = report.ways.first().map_or(0, |one| one.runs.len());
    let more = [
        ("Backlog", backlog),
        ("Runs", format!("{runs} of each way")),
    ];
    Ok(page.end(setting, &method, &more))
}
