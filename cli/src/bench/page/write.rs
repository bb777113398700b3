//! The page of `bench write`.

use super::contender::{Shown, legend};
use super::drain::{few, others_share, two_lines};
use super::plot::{self, Axes, Bar, Line};
use super::{OWN_SERVERS, Page, ROWS_COMPARED, beside, lead};
use crate::bench::joined::Joint;
use crate::bench::spread::{Spread, bytes, few_digits, median_of, thousands};
use crate::bench::write::{WriteOutcome, WriteReport, WriteRun};

/// The page.
///
/// # Errors
/// A plot cannot be drawn.
pub fn page(report: &WriteReport) -> anyhow::Result<String> {
    let setting = &report.setting;
    let title = format!(
        "Writing at both masters: {}",
        beside(setting, "own two-way replication")
    );
    let load = format!("load at both masters for {} s", report.seconds);
    let lead = lead(setting, &load, ROWS_COMPARED);
    let mut page = Page::new(&title, &lead);
    let shares = || {
        let runs = report.contenders.iter().flat_map(|one| &one.runs);
        runs.filter_map(|run| run.others_share)
    };
    page.warnings(setting, shares().reduce(f64::max));
    let mut cards = Vec::new();
    if let (Some(applied), Some(written)) = (report.ratio_applied, report.ratio_written) {
        cards.push((
            format!("{applied:.2} x"),
            "transactions written and applied everywhere a second, of native's".to_owned(),
        ));
        cards.push((
            format!("{written:.2} x"),
            "transactions that clients wrote a second, of native's".to_owned(),
        ));
    }
    let own = report
        .contenders
        .iter()
        .find(|one| one.joint == Joint::Twinlog);
    if let Some(own) = own {
        let memory = own
            .runs
            .iter()
            .map(|run| run.engine_peak_memory_bytes)
            .max();
        cards.push((
            bytes(memory.unwrap_or(0) as f64),
            "most memory of an engine at a time".to_owned(),
        ));
        let share = own
            .runs
            .iter()
            .filter_map(|run| Some(run.engine_cpu_seconds / run.server_cpu_seconds?));
        if let Some(share) = Spread::of(share) {
            cards.push((
                format!("{:.0} %", share.median * 100.0),
                "processor time of both engines, of that of both servers".to_owned(),
            ));
        }
    }
    page.cards(&cards);

    let contenders = report.contenders.iter();
    let shown = Shown::all(contenders.map(|one| (&*one.name, one.joint == Joint::Twinlog)));
    let all = || report.contenders.iter().zip(&shown);
    let bars = |of: &dyn Fn(&WriteOutcome) -> Option<Spread>| -> Vec<Bar> {
        let bars = all().filter_map(|(one, shown)| Some(shown.bar(of(one)?)));
        bars.collect()
    };
    let show = |value: f64| format!("{}/s", few_digits(value));
    page.figure(
        "Written and applied everywhere",
        "Transactions that clients of both masters committed, over the time until both masters had all of them. \
         Median, with the range of all runs. Longer is better.",
        &plot::bars(
            &bars(&|one| one.applied_per_second),
            &show,
        )?,
        &[],
    );
    page.figure(
        "Written by clients",
        "The same over the time of writing alone. A replication that falls behind leaves more of the machine to \
         the clients: look at the time to catch up too.",
        &plot::bars(
            &bars(&|one| Some(one.written_per_second)),
            &show,
        )?,
        &[],
    );
    let lines: Vec<Line> = all()
        .flat_map(|(one, shown)| one.runs.iter().map(|run| shown.line(rates(&run.curve))))
        .collect();
    let axes = Axes {
        x: "seconds since the start",
        y: "transactions/s, both masters",
        log: false,
        ticks: 9,
        x_label: &|value| few(*value),
        y_label: &|value| thousands(*value as u64),
    };
    page.figure(
        "Throughput over time",
        "Every run, by half seconds.",
        &plot::lines(&lines, &axes)?,
        &legend(&shown),
    );
    let rows: Vec<(bool, Vec<String>)> = report
        .contenders
        .iter()
        .map(|one| {
            let of = |value: &dyn Fn(&WriteRun) -> Option<f64>, show: &dyn Fn(f64) -> String| {
                median_of(&one.runs, value, show)
            };
            let engines = one.joint == Joint::Twinlog;
            let rows = match one.joint {
                Joint::Off => "-",
                _ if one.runs.iter().all(|run| run.differing.is_none()) => "equal",
                _ => "different",
            };
            let row = vec![
                one.name.clone(),
                two_lines(one.written_per_second, ""),
                one.applied_per_second
                    .map_or_else(|| "-".to_owned(), |spread| two_lines(spread, "")),
                of(&|run| run.drained_seconds, &|n| format!("{n:.2} s")),
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
                    thousands(n as u64)
                }),
                rows.to_owned(),
            ];
            (engines, row)
        })
        .collect();
    page.table(
        "Figures",
        &[
            "",
            "written/s",
            "written and applied/s",
            "caught up after",
            "engines' CPU s",
            "engine memory",
            "servers' CPU s",
            "conflicts settled",
            "rows afterwards",
        ],
        &rows,
    );
    let method = [
        if setting.is_own() {
            "For each run, the tables were made anew at both masters and read once by every index, and clients \
             wrote at both as fast as the servers took it, each node in its own half of the ids."
        } else {
            "For each run, both masters were started from copies of the same data, their tables were read once \
             by every index, and clients wrote at both as fast as the servers took it, each node in its own \
             half of the ids."
        },
        "Afterwards each node wrote one more row, and the time was taken until the other one had it. The \
         contenders took turns; another one began each round. All tables were compared afterwards by row count \
         and checksum.",
        if setting.is_own() {
            OWN_SERVERS
        } else {
            "Servers, engines and clients share one machine: what replication takes, clients do not get."
        },
    ];
    let runs = report.contenders.first().map_or(0, |one| one.runs.len());
    let more = [
        ("Runs", format!("{runs} of each contender, in turns")),
        ("Others' processor time", others_share(shares())),
    ];
    Ok(page.end(setting, &method, &more))
}

/// Transactions a second between the points of a curve, at their middles.
fn rates(curve: &[(f64, u64)]) -> Vec<(f64, f64)> {
    let between = curve.iter().zip(curve.iter().skip(1));
    between
        .map(|((from, before), (to, after))| {
            let seconds = (to - from).max(1e-9);
            (
                (from + to) / 2.0,
                after.saturating_sub(*before) as f64 / seconds,
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_between_points() {
        let curve = [(0.0, 0), (0.5, 100), (1.5, 300)];
        assert_eq!(rates(&curve), [(0.25, 200.0), (1.0, 200.0)]);
        assert!(rates(&curve[..1]).is_empty());
    }
}
