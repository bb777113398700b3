//! `twinlog status`: how every link stands.

use std::process::ExitCode;

use anyhow::bail;
use serde::Serialize;
use twinlog_engine::config::{Config, NodeConfig};
use twinlog_engine::status::{EngineStatus, State};

use super::code;
use crate::arguments::Status;
use crate::output::{Output, Tone};
use crate::status_client;

/// One engine's answer, or why there is none.
#[derive(Serialize)]
struct Answer {
    node: String,
    error: Option<String>,
    status: Option<EngineStatus>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    engines: &'a [Answer],
}

pub(super) async fn run(
    config: &Config,
    arguments: &Status,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let nodes: Vec<&NodeConfig> = match &arguments.node {
        Some(name) => vec![config.node(name)?],
        None => config.nodes.iter().collect(),
    };
    if nodes.iter().all(|node| node.listen.is_none()) {
        bail!(
            "no engine can be asked: give each [[node]] a line such as listen = \"127.0.0.1:7401\" \
             and start its engine again"
        );
    }
    loop {
        let answers = ask(&nodes).await;
        let ok = answers.iter().all(healthy);
        if arguments.watch.is_some() && !output.is_json() {
            output.clear()?;
        }
        if output.is_json() {
            output.facts(&Report {
                ok,
                engines: &answers,
            })?;
        } else {
            print(config, &answers, output)?;
        }
        match arguments.watch {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return Ok(code(ok)),
        }
    }
}

async fn ask(nodes: &[&NodeConfig]) -> Vec<Answer> {
    let mut answers = Vec::new();
    for node in nodes {
        let (status, error) = match status_client::status(node).await {
            Ok(status) => (Some(status), None),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        answers.push(Answer {
            node: node.name.clone(),
            error,
            status,
        });
    }
    answers
}

fn healthy(answer: &Answer) -> bool {
    let needs_nobody = |state: State| !matches!(state, State::Halted | State::Stopped);
    answer.status.as_ref().is_some_and(|status| {
        needs_nobody(status.tailer.state)
            && status
                .links
                .iter()
                .all(|link| needs_nobody(link.state) && link.returned == 0)
    })
}

fn print(config: &Config, answers: &[Answer], output: &Output) -> anyhow::Result<()> {
    let mut table = output.table(&[
        "link",
        "state",
        "source",
        "applied",
        "lag s",
        "waiting",
        "trx/s",
        "trx",
        "rows",
        "conflicts",
        "returned",
    ]);
    let mut notes = Vec::new();
    for answer in answers {
        let Some(status) = &answer.status else {
            let why = answer.error.as_deref().unwrap_or_default();
            notes.push(output.paint(Tone::Bad, &format!("engine {}: {why}", answer.node)));
            continue;
        };
        if status.config_digest != config.digest() {
            notes.push(output.paint(
                Tone::Bad,
                &format!(
                    "engine {} runs with another config file (digest {}, here {})",
                    answer.node,
                    status.config_digest,
                    config.digest()
                ),
            ));
        }
        let memory = &status.memory;
        if memory.limit_bytes > 0 {
            let mib = |bytes: u64| bytes.div_ceil(1 << 20);
            let text = format!(
                "engine {}: memory {} MiB, at most {} MiB so far, limit {} MiB",
                status.node,
                mib(memory.resident_bytes),
                mib(memory.peak_bytes),
                mib(memory.limit_bytes)
            );
            notes.push(if memory.peak_bytes > memory.limit_bytes {
                output.paint(Tone::Odd, &text)
            } else {
                text
            });
        }
        for link in &status.links {
            let name = format!("{} -> {}", link.origin, link.target);
            table.add_row(vec![
                comfy_table::Cell::new(&name),
                output.cell(tone(link.state), link.state),
                comfy_table::Cell::new(&link.source_position),
                comfy_table::Cell::new(&link.applied_position),
                comfy_table::Cell::new(format!("{:.1}", link.lag_seconds)),
                comfy_table::Cell::new(link.lag_transactions),
                comfy_table::Cell::new(format!("{:.0}", link.transactions_per_second)),
                comfy_table::Cell::new(link.applied_transactions),
                comfy_table::Cell::new(link.applied_rows),
                comfy_table::Cell::new(link.conflicts.iter().map(|of| of.count).sum::<u64>()),
                if link.returned == 0 {
                    comfy_table::Cell::new(0)
                } else {
                    output.cell(Tone::Bad, link.returned)
                },
            ]);
            if !link.conflicts.is_empty() {
                let kinds: Vec<String> = link
                    .conflicts
                    .iter()
                    .map(|of| format!("{} {} ({} won)", of.count, of.kind, of.winner))
                    .collect();
                notes.push(format!(
                    "link {name}: settled since its start: {}; see `twinlog conflicts list`",
                    kinds.join(", ")
                ));
            }
            if let Some(crash) = &link.source_crash {
                let until = "said until this engine is restarted";
                let text = format!("link {name}: {crash} ({until})");
                notes.push(output.paint(Tone::Odd, &text));
            }
            if let (Some(prepared @ 1..), Some(seconds)) =
                (link.xa_prepared, link.xa_oldest_seconds)
            {
                let text = undecided(&link.origin, prepared, seconds);
                notes.push(if seconds >= twinlog_engine::xa::OLD.as_secs() {
                    output.paint(Tone::Odd, &text)
                } else {
                    text
                });
            }
            let error = said(
                link.state,
                link.last_error.as_ref(),
                link.last_error_seconds_ago,
            );
            if let Some(error) = error {
                notes.push(output.paint(tone(link.state), &format!("link {name}: {error}")));
            }
        }
        let tailer = &status.tailer;
        let on_a_link = |error: &str| {
            let mut links = status.links.iter();
            links.any(|link| {
                let of_link = link.last_error.as_deref();
                of_link.is_some_and(|of_link| of_link.contains(error))
            })
        };
        let error = tailer.last_error.as_ref().filter(|error| !on_a_link(error));
        if let Some(error) = said(tailer.state, error, tailer.last_error_seconds_ago) {
            let text = format!("tailer of {}: {error}", status.node);
            notes.push(output.paint(tone(tailer.state), &text));
        }
    }
    if answers.iter().any(|answer| answer.status.is_some()) {
        output.line(table.trim_fmt())?;
    }
    for note in notes {
        output.line(note)?;
    }
    Ok(())
}

/// XA transactions hold their locks until somebody decides them.
fn undecided(node: &str, number: u64, seconds: u64) -> String {
    let (are, transactions) = if number == 1 {
        ("is", "transaction")
    } else {
        ("are", "transactions")
    };
    let age = humantime::format_duration(std::time::Duration::from_secs(seconds));
    format!(
        "node {node}: {number} XA {transactions} {are} prepared and not decided, the oldest for {age} or \
         longer (XA RECOVER)"
    )
}

/// The last error as it is to be read now: one that is over must not look as if it were not.
fn said(state: State, error: Option<&String>, seconds_ago: Option<u64>) -> Option<String> {
    let error = error?;
    Some(match seconds_ago {
        Some(ago) if state.is_well() => format!("recovered; {ago} s ago: {error}"),
        _ => error.clone(),
    })
}

fn tone(state: State) -> Tone {
    match state {
        State::Streaming => Tone::Good,
        State::CatchingUp | State::Connecting | State::Retrying => Tone::Odd,
        State::Halted | State::Stopped => Tone::Bad,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_is_over_says_so() {
        let error = "node a: gone".to_owned();
        assert_eq!(
            said(State::Streaming, Some(&error), Some(53)).as_deref(),
            Some("recovered; 53 s ago: node a: gone")
        );
        for state in [State::Retrying, State::Halted] {
            assert_eq!(
                said(state, Some(&error), Some(53)).as_deref(),
                Some("node a: gone")
            );
        }
        assert_eq!(said(State::Streaming, None, None), None);
    }
}
