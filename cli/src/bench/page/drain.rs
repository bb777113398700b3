//! The page of `bench drain`.

use super::contender::{Shown, legend};
use super::plot::{self, Axes, Bar, Line};
use super::{OWN_SERVERS, Page, ROWS_COMPARED, beside, lead};
use crate::bench::drain::{Contender, DrainReport, Run};
use crate::bench::spread::{Spread, bytes, few_digits, median_of, thousands};

/// The page.
///
/// # Errors
/// A plot cannot be drawn.
pub fn page(report: &DrainReport) -> anyhow::Result<String> {
    let setting = &report.setting;
    let transactions = report.transactions as f64;
    let title = format!(
        "Draining {} transactions: {}",
        thousands(report.transactions),
        beside(setting, "own replication")
    );
    let lead = lead(setting, "load", ROWS_COMPARED);
    let mut page = Page::new(&title, &lead);
    let runs = || report.contenders.iter().flat_map(|one| &one.runs);
    page.warnings(
        setting,
        runs().filter_map(|run| run.others_share).reduce(f64::max),
    );
    let own = report
        .contenders
        .iter()
        .find(|one| one.contender == Contender::Twinlog);
    let mut cards = Vec::new();
    if let Some(times) = report.times_as_fast {
        cards.push((
            format!("{times:.1} x"),
            "as fast as the fastest native contender".to_owned(),
        ));
    }
    if let Some(own) = own {
        let median = |of: &dyn Fn(&Run) -> Option<f64>| Spread::of(own.runs.iter().filter_map(of));
        cards.push((
            few_digits(own.transactions_per_second.median),
            "transactions applied a second".to_owned(),
        ));
        if let Some(memory) = median(&|run| run.engine_peak_memory_bytes.map(|n| n as f64)) {
            cards.push((
                bytes(memory.max),
                "most memory of the engine at a time".to_owned(),
            ));
        }
        if let Some(cpu) = median(&|run| Some(run.engine_cpu_seconds? / run.target_cpu_seconds?)) {
            cards.push((
                format!("{:.0} %", cpu.median * 100.0),
                "processor time of the engine, of that of the target server".to_owned(),
            ));
        }
    }
    page.cards(&cards);

    let contenders = report.contenders.iter();
    let shown = Shown::all(contenders.map(|one| (&*one.name, one.contender == Contender::Twinlog)));
    let all = || report.contenders.iter().zip(&shown);
    let bars: Vec<Bar> = all().map(|(one, shown)| shown.bar(one.seconds)).collect();
    page.figure(
        "Time to apply the backlog",
        "Median, with the range of all runs. Shorter is better.",
        &plot::bars(&bars, &|value| format!("{} s", few_digits(value)))?,
        &[],
    );
    let line = |run: &Run| run.curve.iter().map(|(x, y)| (*x, *y as f64)).collect();
    let lines: Vec<Line> = all()
        .flat_map(|(one, shown)| one.runs.iter().map(|run| shown.line(line(run))))
        .collect();
    let axes = Axes {
        x: "seconds since the start",
        y: "transactions applied",
        log: false,
        ticks: 9,
        x_label: &|value| few(*value),
        y_label: &|value| thousands(*value as u64),
    };
    page.figure(
        "Transactions applied over time",
        "Every run. A new engine process and START REPLICA both begin at 0, connecting included.",
        &plot::lines(&lines, &axes)?,
        &legend(&shown),
    );
    let rows: Vec<(bool, Vec<String>)> = report
        .contenders
        .iter()
        .map(|one| {
            let of = |value: &dyn Fn(&Run) -> Option<f64>, show: &dyn Fn(f64) -> String| {
                median_of(&one.runs, value, show)
            };
            let count = |value: f64| thousands(value as u64);
            let equal = one.runs.iter().all(|run| run.equal);
            let row = vec![
                one.name.clone(),
                two_lines(one.seconds, " s"),
                two_lines(one.transactions_per_second, ""),
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
                if equal { "equal" } else { "different" }.to_owned(),
            ];
            (one.contender == Contender::Twinlog, row)
        })
        .collect();
    page.table(
        "Figures",
        &[
            "",
            "time",
            "transactions/s",
            "engine CPU s",
            "engine memory",
            "target CPU s",
            "binlog written per transaction",
            "of it marker rows",
            "commits",
            "conflicts settled",
            "rows afterwards",
        ],
        &rows,
    );
    if rows
        .iter()
        .any(|(own, row)| !own && row.last().is_some_and(|text| text == "different"))
    {
        page.warning(
            "Both nodes wrote some of the same rows. Native replication has no conflict handling: it \
             overwrites what it did not see, and the nodes differ afterwards.",
        );
    }
    let method = [
        if setting.is_own() {
            "For each run, a backlog was written at one master while no engine ran, the tables of the other \
             master were read once by every index, and an engine on this machine applied the whole backlog."
        } else {
            "A backlog was written at one master. For each run, the other master was started from a copy of \
             the same data, its tables were read once by every index, and one contender applied the whole \
             backlog. The contenders took turns; another one began each round."
        },
        "The time runs from the start of the engine process, or from START REPLICA, to the moment when the last \
         transaction was seen applied (looked for every 20 ms). All tables were compared afterwards by row count \
         and checksum.",
        if setting.is_own() {
            OWN_SERVERS
        } else {
            "Origin, target, engine and the writing clients share one machine. Compare contenders of one run \
             with each other, not with another machine's."
        },
    ];
    let runs = report.contenders.first().map_or(0, |one| one.runs.len());
    let more = [
        (
            "Backlog",
            format!(
                "{} transactions, {} of binlog ({} each), written in {:.1} s",
                thousands(report.transactions),
                bytes(report.origin_log_bytes as f64),
                bytes(report.origin_log_bytes as f64 / transactions),
                report.written_seconds
            ),
        ),
        ("Runs", format!("{runs} of each contender, in turns")),
        ("Others' processor time", others_share(runs_of(report))),
    ];
    Ok(page.end(setting, &method, &more))
}

fn runs_of(report: &DrainReport) -> impl Iterator<Item = f64> {
    report
        .contenders
        .iter()
        .flat_map(|one| &one.runs)
        .filter_map(|run| run.others_share)
}

/// What other programs took, over all runs.
pub(super) fn others_share(shares: impl Iterator<Item = f64>) -> String {
    Spread::of(shares).map_or_else(
        || "unknown".to_owned(),
        |spread| {
            format!(
                "{} of the machine",
                spread.text(|share| format!("{:.0} %", share * 100.0))
            )
        },
    )
}

/// The median, and below it the range.
pub(super) fn two_lines(spread: Spread, unit: &str) -> String {
    let median = format!("{}{unit}", few_digits(spread.median));
    if spread.min == spread.max {
        return median;
    }
    format!(
        "{median}\n{}..{}",
        few_digits(spread.min),
        few_digits(spread.max)
    )
}

/// A number at an axis.
pub(super) fn few(value: f64) -> String {
    if value >= 10.0 || value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.1}")
    }
}
