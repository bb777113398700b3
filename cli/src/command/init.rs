//! `twinlog init`: the engine's schema and the first positions.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use twinlog_engine::config::Config;
use twinlog_engine::{init, preflight};

use super::{check, code};
use crate::arguments::Init;
use crate::output::Output;

pub(super) async fn run(
    config: &Config,
    arguments: &Init,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    if !arguments.skip_check {
        let findings = preflight::check(config).await;
        if preflight::any_fail(&findings) {
            check::print(config, &findings, true, output)?;
            bail!("the nodes cannot be joined as they are; nothing was changed");
        }
    }
    if arguments.force && !arguments.yes {
        let question = "Positions that are there will be thrown away, and what was written since \
                        will not be replicated. Go on?";
        if !output.confirm(question)? {
            return Ok(code(false));
        }
    }
    let report = init::init(config, arguments.force)
        .await
        .context("cannot set the nodes up")?;
    if output.is_json() {
        output.facts(&report)?;
        return Ok(code(true));
    }
    let mut table = output.table(&["link", "position", ""]);
    for link in &report.links {
        table.add_row(vec![
            format!("{} -> {}", link.origin, link.target),
            link.position.clone(),
            if link.kept {
                "was there, left alone"
            } else {
                "begins here"
            }
            .to_owned(),
        ]);
    }
    output.line(table.trim_fmt())?;
    output.line("The nodes are set up. Start the engines: twinlog run")?;
    Ok(code(true))
}
