//! `twinlog wait`: returns when everything that was committed before is applied everywhere.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;
use twinlog_engine::barrier::{self, Outstanding};
use twinlog_engine::config::Config;

use super::code;
use crate::arguments::Wait;
use crate::output::Output;

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    ok: bool,
    seconds: f64,
    outstanding: Vec<Outstanding>,
}

pub(super) async fn run(
    config: &Config,
    arguments: &Wait,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let outstanding = barrier::wait(config, arguments.timeout)
        .await
        .context("cannot wait")?;
    let ok = outstanding.is_empty();
    if output.is_json() {
        output.facts(&Report {
            ok,
            seconds: begun.elapsed().as_secs_f64(),
            outstanding,
        })?;
    } else if ok {
        let millis = begun.elapsed().as_millis();
        output.line(format!(
            "everything is applied everywhere (after {millis} ms)"
        ))?;
    } else {
        anyhow::bail!("{}", unfinished(&outstanding, arguments.timeout));
    }
    Ok(code(ok))
}

/// Says which links have not come that far.
pub(super) fn unfinished(outstanding: &[Outstanding], timeout: Option<Duration>) -> String {
    let links: Vec<String> = outstanding
        .iter()
        .map(|link| format!("{} -> {}", link.origin, link.target))
        .collect();
    let within = timeout.map_or_else(String::new, |timeout| {
        format!(" within {}", humantime::format_duration(timeout))
    });
    format!(
        "not everything is applied{within}: {}; see twinlog status",
        links.join(", ")
    )
}
