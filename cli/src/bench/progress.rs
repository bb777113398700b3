//! How far a benchmark is, on standard error: standard output is for what it found.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Steps, and a bar below them where there is a terminal.
#[derive(Debug)]
pub struct Progress {
    begun: Instant,
    bar: Option<ProgressBar>,
    quiet: bool,
}

impl Progress {
    /// Shows nothing when `quiet`.
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        let bar = (std::io::stderr().is_terminal() && !quiet).then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self {
            begun: Instant::now(),
            bar,
            quiet,
        }
    }

    /// A new step begins.
    pub fn step(&self, text: &str) {
        if self.quiet {
            return;
        }
        let line = format!("[{:>6.1} s] {text}", self.begun.elapsed().as_secs_f64());
        match &self.bar {
            Some(bar) => {
                bar.set_style(ProgressStyle::default_spinner());
                bar.set_message("");
                bar.println(line);
            }
            None => eprintln!("{line}"),
        }
    }

    /// So much of a whole is done.
    pub fn done(&self, what: &str, done: u64, of: u64) {
        let Some(bar) = &self.bar else { return };
        if bar.length() != Some(of) || bar.message() != what {
            let style =
                "{spinner} {msg} [{wide_bar}] {human_pos}/{human_len} {per_sec}, {eta} left";
            bar.set_style(
                ProgressStyle::with_template(style)
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.set_length(of);
            bar.reset();
            bar.set_message(what.to_owned());
        }
        bar.set_position(done);
    }

    /// A line that changes in place; without a terminal, nothing.
    pub fn show(&self, text: String) {
        if let Some(bar) = &self.bar {
            bar.set_style(ProgressStyle::default_spinner());
            bar.set_message(text);
        }
    }

    /// The bar goes away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
