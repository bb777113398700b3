//! The page of `bench lag`.

use super::contender::{Shown, legend};
use super::drain::{others_share, two_lines};
use super::plot::{self, Axes, Line};
use super::{OWN_SERVERS, Page, beside, lead};
use crate::bench::joined::Joint;
use crate::bench::lag::{LagReport, LagRun};
use crate::bench::spread::few_digits;

/// The level that the first lines speak of, if it was measured.
const USUAL_LEVEL: u32 = 50;

/// The page.
///
/// # Errors
/// A plot cannot be drawn.
pub fn page(report: &LagReport) -> anyhow::Result<String> {
    let setting = &report.setting;
    let title = format!("Replication lag: {}", beside(setting, "own replication"));
    let lead = lead(setting, "load at one master at fixed rates", "");
    let mut page = Page::new(&title, &lead);
    let shares = || {
        let runs = report.contenders.iter().flat_map(|one| &one.runs);
        runs.filter_map(|run| run.others_share)
    };
    page.warnings(setting, shares().reduce(f64::max));
    let mut levels: Vec<u32> = report.contenders.iter().map(|one| one.level).collect();
    levels.sort_unstable();
    levels.dedup();
    let usual = if levels.contains(&USUAL_LEVEL) {
        USUAL_LEVEL
    } else {
        levels.first().copied().unwrap_or(USUAL_LEVEL)
    };
    let mut cards = Vec::new();
    for one in report.contenders.iter().filter(|one| one.level == usual) {
        for (name, spread) in [("p50", one.from_commit.p50), ("p99", one.from_commit.p99)] {
            cards.push((
                format!("{} ms", few_digits(spread.median)),
                format!("{name} at {usual} % load, {}", one.name),
            ));
        }
    }
    page.cards(&cards);

    let contenders = report.contenders.iter();
    let shown = Shown::all(contenders.map(|one| (&*one.name, one.joint == Joint::Twinlog)));
    let legend = legend(&shown);
    for level in &levels {
        let at_level = || {
            let all = report.contenders.iter().zip(&shown);
            all.filter(|(one, _)| one.level == *level)
        };
        let points = |run: &LagRun| {
            let curve = run.from_commit.curve.iter();
            curve
                .map(|(percentile, ms)| (nines(*percentile), *ms))
                .collect()
        };
        let lines: Vec<Line> = at_level()
            .flat_map(|(one, shown)| one.runs.iter().map(|run| shown.line(points(run))))
            .collect();
        let axes = Axes {
            x: "percentile of the probes",
            y: "lag, ms",
            log: true,
            // One for each nine.
            ticks: 5,
            x_label: &|value| percentile(*value),
            y_label: &|value| few_digits(*value),
        };
        let due = at_level().next().map_or(0.0, |(one, _)| one.due_per_second);
        page.figure(
            &format!("Lag at {level} % load"),
            &format!(
                "{} transactions/s due. From COMMIT's return at one master to visible at the other; every run. \
                 Lower is better.",
                few_digits(due)
            ),
            &plot::lines(&lines, &axes)?,
            &legend,
        );
    }
    let mut rows = Vec::new();
    for level in &levels {
        for one in report.contenders.iter().filter(|one| one.level == *level) {
            let (commit, due) = (&one.from_commit, &one.from_due);
            rows.push((
                one.joint == Joint::Twinlog,
                vec![
                    format!("{level} %, {}", one.name),
                    few_digits(one.due_per_second),
                    two_lines(one.written_per_second, ""),
                    two_lines(commit.p50, ""),
                    two_lines(commit.p99, ""),
                    two_lines(commit.p999, ""),
                    two_lines(commit.max, ""),
                    two_lines(due.p50, ""),
                    two_lines(due.p99, ""),
                ],
            ));
        }
    }
    page.table(
        "Milliseconds",
        &[
            "load",
            "due/s",
            "written/s",
            "p50",
            "p99",
            "p99.9",
            "max",
            "from due: p50",
            "p99",
        ],
        &rows,
    );
    let method = [
        "The load is open-loop: transactions were due at fixed times, whether or not the servers kept up. A probe \
         committed a numbered row at fixed times, and a reader at the other master noted when it saw which \
         number. Every probe counts, those that became visible together after a stall too, so nothing is left \
         out because something else waited.",
        "Lag is from the moment when the probe's COMMIT returned. \"From due\" is from the moment when the probe was \
         due, and so has what the first master's own commit took, and its stalls, in it.",
        if setting.is_own() {
            OWN_SERVERS
        } else {
            "Both directions are joined; clients write at one master. Servers, engines and clients share one \
             machine."
        },
    ];
    let runs = report.contenders.first().map_or(0, |one| one.runs.len());
    let more = [
        (
            "100 % load",
            format!(
                "{} transactions/s, {}",
                few_digits(report.rate),
                if report.rate_measured {
                    "measured first: what the slowest contender sustains while clients write as fast as they can"
                } else {
                    "given"
                }
            ),
        ),
        (
            "Probes",
            format!(
                "{} a second for {} s at each level, looked for every {} ms",
                report.probes_per_second,
                report.seconds,
                report.resolution_seconds * 1000.0
            ),
        ),
        ("Runs", format!("{runs} of each contender, in turns")),
        ("Others' processor time", others_share(shares())),
    ];
    Ok(page.end(setting, &method, &more))
}

/// Where a percentile stands: each nine as far from the last one.
fn nines(percentile: f64) -> f64 {
    -(1.0 - percentile / 100.0).max(1e-6).log10()
}

/// What is written there.
fn percentile(nines: f64) -> String {
    let percentile = 100.0 * (1.0 - 10_f64.powf(-nines));
    let text = if nines < 1.0 {
        format!("{percentile:.0}")
    } else if nines < 2.0 {
        format!("{percentile:.1}")
    } else {
        format!("{percentile:.2}")
    };
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_nine_is_as_far_as_the_last() {
        assert!((nines(90.0) - 1.0).abs() < 1e-9);
        assert!((nines(99.9) - 3.0).abs() < 1e-9);
        assert_eq!(nines(0.0), 0.0);
        assert_eq!(percentile(0.0), "0");
        assert_eq!(percentile(1.0), "90");
        assert_eq!(percentile(3.0), "99.9");
    }
}
