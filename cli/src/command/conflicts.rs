//! `twinlog conflicts`: what was settled, who won, and taking it back.

use std::process::ExitCode;

use anyhow::bail;
use serde::Serialize;
use twinlog_engine::config::{Config, NodeConfig};
use twinlog_engine::conflict::ledger::{self, Filter, Flip, Image, Recorded};

use super::code;
use crate::arguments::{ConflictsFlip, ConflictsList, ConflictsShow};
use crate::output::{Output, Tone};

/// Longest value that a table shows.
const SHOWN: usize = 60;

/// What `conflicts flip --json` prints.
#[derive(Serialize)]
struct Flipped<'a> {
    node: &'a str,
    id: u64,
    #[serde(flatten)]
    flip: &'a Flip,
}

pub(super) async fn list(
    config: &Config,
    arguments: &ConflictsList,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let filter = Filter {
        table: arguments.table.clone(),
        kind: arguments.kind.clone(),
        since_seconds: arguments.since.map(|since| since.as_secs()),
        limit: Some(arguments.limit),
    };
    let nodes: Vec<&NodeConfig> = match &arguments.node {
        Some(name) => vec![config.node(name)?],
        None => config.nodes.iter().collect(),
    };
    let mut entries: Vec<Recorded> = Vec::new();
    for node in nodes {
        entries.extend(ledger::list(config, node, &filter).await?);
    }
    entries.sort_by(|a, b| b.settled_at.cmp(&a.settled_at));
    entries.truncate(usize::try_from(arguments.limit).unwrap_or(usize::MAX));
    if output.is_json() {
        output.facts(&entries)?;
        return Ok(code(true));
    }
    if entries.is_empty() {
        output.line("no conflicts")?;
        return Ok(code(true));
    }
    let headings = [
        "node",
        "id",
        "settled (UTC)",
        "table",
        "row",
        "kind",
        "from",
        "winner",
    ];
    let mut table = output.table(&headings);
    for entry in &entries {
        let winner = if entry.winner == "none" {
            "halted".to_owned()
        } else if entry.winner_node.is_empty() {
            entry.winner.clone()
        } else {
            format!("{} ({})", entry.winner_node, entry.winner)
        };
        table.add_row(vec![
            entry.node.clone(),
            entry.id.to_string(),
            entry.settled_at.clone(),
            format!("{}.{}", entry.database, entry.table),
            shortened(&entry.key()),
            entry.kind.clone(),
            entry.origin.clone(),
            winner,
        ]);
    }
    output.line(table.trim_fmt())?;
    Ok(code(true))
}

pub(super) async fn show(
    config: &Config,
    arguments: &ConflictsShow,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let (_, entry) = find(config, arguments.node.as_deref(), arguments.id).await?;
    if output.is_json() {
        output.facts(&entry)?;
        return Ok(code(true));
    }
    print(&entry, output)?;
    Ok(code(true))
}

pub(super) async fn flip(
    config: &Config,
    arguments: &ConflictsFlip,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let (node, entry) = find(config, arguments.node.as_deref(), arguments.id).await?;
    let plan = ledger::flip(node, &entry, false, arguments.force).await?;
    if !output.is_json() {
        print(&entry, output)?;
        output.line("")?;
        output.line(format!("At node {}: {}", node.name, plan.statement))?;
    }
    if !plan.unchanged && !arguments.force {
        bail!(
            "the row is no longer what the conflict left: somebody wrote it since; give --force to \
             write the losing image all the same"
        );
    }
    if !arguments.yes {
        let question = format!(
            "It is written at node {} as a new change, later than both writes of the conflict, and so \
             stands on every node. Go on?",
            node.name
        );
        if !output.confirm(&question)? {
            return Ok(code(false));
        }
    }
    let done = ledger::flip(node, &entry, true, arguments.force).await?;
    if output.is_json() {
        output.facts(&Flipped {
            node: &node.name,
            id: entry.id,
            flip: &done,
        })?;
    } else {
        output.line(output.paint(Tone::Good, "written"))?;
    }
    Ok(code(true))
}

/// The entry, at the only node where this number stands unless a node is named.
async fn find<'c>(
    config: &'c Config,
    node: Option<&str>,
    id: u64,
) -> anyhow::Result<(&'c NodeConfig, Recorded)> {
    let nodes: Vec<&NodeConfig> = match node {
        Some(name) => vec![config.node(name)?],
        None => config.nodes.iter().collect(),
    };
    let mut found = Vec::new();
    for node in nodes {
        if let Some(entry) = ledger::entry(config, node, id).await? {
            found.push((node, entry));
        }
    }
    if found.len() > 1 {
        bail!("each node has an entry {id} of its own: say which with --node");
    }
    match found.pop() {
        Some(found) => Ok(found),
        None => {
            bail!("no journal has an entry {id}; `twinlog conflicts list` shows those there are")
        }
    }
}

fn print(entry: &Recorded, output: &Output) -> anyhow::Result<()> {
    output.line(format!(
        "{} on {}.{}, settled at {} UTC at node {} (entry {})",
        entry.kind, entry.database, entry.table, entry.settled_at, entry.node, entry.id
    ))?;
    output.line(format!(
        "written at {}: {} (effective {})",
        entry.origin,
        entry.origin_position,
        instant(entry.origin_effective)
    ))?;
    if let (Some(position), Some(effective)) = (&entry.local_position, entry.local_effective) {
        output.line(format!(
            "written at {}: up to {position} (effective {})",
            entry.node,
            instant(effective)
        ))?;
    }
    output.line(why(entry))?;
    if !entry.note.is_empty() {
        output.line(&entry.note)?;
    }
    let local = format!("at {}", entry.node);
    let before = format!("{} before", entry.origin);
    let after = format!("{} after", entry.origin);
    let mut headings = vec!["", "column", &local, &before, &after];
    if entry.result_image.is_some() {
        headings.push("result");
    }
    let mut table = output.table(&headings);
    for (index, column) in entry.columns.iter().enumerate() {
        let value = |image: &Option<Image>| match image {
            None => "-".to_owned(),
            Some(image) => image
                .get(index)
                .and_then(Option::as_deref)
                .unwrap_or("NULL")
                .to_owned(),
        };
        let (local, after) = (value(&entry.local_image), value(&entry.after_image));
        let differs = local != after;
        let mark = if differs { "*" } else { "" };
        let tone = if differs { Tone::Odd } else { Tone::Quiet };
        let mut row = vec![
            output.cell(Tone::Odd, mark),
            output.cell(tone, column),
            output.cell(tone, shortened(&local)),
            output.cell(Tone::Quiet, shortened(&value(&entry.before_image))),
            output.cell(tone, shortened(&after)),
        ];
        if entry.result_image.is_some() {
            row.push(output.cell(tone, shortened(&value(&entry.result_image))));
        }
        table.add_row(row);
    }
    output.line(table.trim_fmt())
}

/// Who won, in words.
fn why(entry: &Recorded) -> String {
    if entry.winner == "none" {
        return "Nothing was settled: the link halted in front of it, and its message in `twinlog \
                status` says what to do."
            .to_owned();
    }
    let stands = match entry.winner.as_str() {
        "merged" => "Both writes stand, merged column by column".to_owned(),
        _ => format!("The write of {} stands", entry.winner_node),
    };
    let reason = match entry.policy.as_str() {
        _ if entry.local_position.is_none() => {
            "no client of this node wrote the row concurrently".to_owned()
        }
        "node_priority" => "policy node_priority: its node stands first in the config".to_owned(),
        policy => {
            format!("policy {policy}: the later effective timestamp, of equals the first node")
        }
    };
    format!("{stands} ({reason}).")
}

/// Microseconds since 1970 as UTC.
fn instant(microseconds: u64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_micros(microseconds);
    humantime::format_rfc3339_micros(time).to_string()
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= SHOWN {
        return text.to_owned();
    }
    let start: String = text.chars().take(SHOWN).collect();
    format!("{start}..")
}
