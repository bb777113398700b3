//! What commands print: facts on standard output, for people or as JSON; errors on standard error.

use std::io::{IsTerminal as _, Write as _};

use anyhow::Context as _;
use comfy_table::{Cell, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::logging::no_color;

/// Columns of text below which tables are not fitted to the terminal.
const NARROW: u16 = 60;

/// Where and how to print.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
    colour: bool,
}

/// What a piece of text means; shown as a colour where there are colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Good,
    Odd,
    Bad,
    Quiet,
}

impl Output {
    /// Colours only on a terminal, and not against the user's wish.
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            colour: std::io::stdout().is_terminal() && !no_color(),
        }
    }

    /// Whether facts are wanted as JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Prints a line for people.
    pub(crate) fn line(&self, text: impl std::fmt::Display) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}")
            .and_then(|()| out.flush())
            .context("cannot write to standard output")
    }

    /// Prints facts for scripts.
    pub(crate) fn facts(&self, facts: &impl Serialize) -> anyhow::Result<()> {
        self.line(serde_json::to_string_pretty(facts)?)
    }

    /// Text in its tone.
    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => "32",
            Tone::Odd => "33",
            Tone::Bad => "1;31",
            Tone::Quiet => "2",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    /// A table with these headings.
    pub(crate) fn table(&self, headings: &[&str]) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        // A terminal that does not know its width says 0, and a narrow one does better with its own
        // line breaks than with columns of single letters.
        if table.width().is_some_and(|width| width >= NARROW) {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        }
        if self.colour {
            table.enforce_styling();
        }
        if !headings.is_empty() {
            table.set_header(headings);
        }
        table
    }

    /// A cell in its tone.
    pub(crate) fn cell(&self, tone: Tone, text: impl std::fmt::Display) -> Cell {
        let cell = Cell::new(text);
        if !self.colour {
            return cell;
        }
        match tone {
            Tone::Good => cell.fg(comfy_table::Color::Green),
            Tone::Odd => cell.fg(comfy_table::Color::Yellow),
            Tone::Bad => cell.fg(comfy_table::Color::Red),
            Tone::Quiet => cell.fg(comfy_table::Color::DarkGrey),
        }
    }

    /// Clears the screen before the next look of a watched table.
    pub(crate) fn clear(&self) -> anyhow::Result<()> {
        if std::io::stdout().is_terminal() {
            let mut out = std::io::stdout().lock();
            write!(out, "\u{1b}[H\u{1b}[2J")?;
        }
        Ok(())
    }

    /// Says what went wrong, with what led to it.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        // Whoever reads our output may have gone (`| head`): nothing is left to be told.
        let closed = error.chain().any(|cause| {
            cause
                .downcast_ref::<std::io::Error>()
                .is_some_and(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
        });
        if closed {
            return;
        }
        let mut text = format!("error: {error}");
        for cause in error.chain().skip(1) {
            text.push_str(&format!("\n  caused by: {cause}"));
        }
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    /// Asks before something that cannot be undone. Without a terminal there is nobody to ask.
    pub(crate) fn confirm(&self, question: &str) -> anyhow::Result<bool> {
        if !std::io::stdin().is_terminal() {
            anyhow::bail!("{question} There is no terminal to ask at: give --yes to go on");
        }
        let mut err = std::io::stderr().lock();
        write!(err, "{question} [y/N] ").and_then(|()| err.flush())?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        Ok(matches!(
            answer.trim().to_ascii_lowercase().as_str(),
            "y" | "yes"
        ))
    }
}
