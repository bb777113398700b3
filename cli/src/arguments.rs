//! The command line: every argument of every command.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::command::bench::Bench;
use crate::command::demo::DemoArgs;

/// Keeps two MySQL or MariaDB masters in agreement while both take writes.
#[derive(Debug, Parser)]
#[command(
    name = "twinlog",
    version,
    max_term_width = 100,
    disable_help_subcommand = true
)]
#[command(after_help = "Exit codes: 0 success, 1 failure, 2 wrong usage.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The cluster's config file [default: ./twinlog.toml, then /etc/twinlog/twinlog.toml].
    #[arg(
        long,
        short,
        global = true,
        value_name = "FILE",
        env = "TWINLOG_CONFIG"
    )]
    pub(crate) config: Option<PathBuf>,
    /// Print facts as JSON, for scripts.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Log more; twice for everything.
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Log errors only.
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// How the log on standard error is written.
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value = "human"
    )]
    pub(crate) log_format: LogFormat,
    /// Levels by module, such as `info,twinlog_engine::link=debug`; wins over -v and -q.
    #[arg(long, global = true, value_name = "FILTER", env = "TWINLOG_LOG")]
    pub(crate) log_filter: Option<String>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say whether the nodes may be joined, and what mends each obstacle.
    ///
    /// Reads settings, privileges and schemas of every node and changes nothing. Exit code 1 when
    /// anything fails.
    Check(Check),
    /// Make the engine's schema on every node and note where each link begins.
    ///
    /// Links begin at the present end of the logs: the nodes must hold the same data at this moment.
    Init(Init),
    /// Run the engines: all of them in this process, or the one alongside a node.
    ///
    /// Ctrl-C or SIGTERM stops cleanly, a second one at once.
    Run(Run),
    /// Wait until everything that was committed before is applied everywhere.
    Wait(Wait),
    /// Show how every link stands, as the running engines tell it.
    Status(Status),
    /// Show where every link stands in its origin's log, or set it by hand.
    #[command(subcommand)]
    Positions(Positions),
    /// Show which concurrent writes met and how they were settled, and take a verdict back.
    #[command(subcommand)]
    Conflicts(Conflicts),
    /// Compare all replicated rows of the nodes.
    ///
    /// Nothing is locked: the answer means something only while nobody writes.
    Verify(Verify),
    /// Show it all on this machine: two throwaway masters, two engines, a write load on both, and
    /// every table compared in the end.
    Demo(DemoArgs),
    /// Measure twinlog beside the servers' own replication: a backlog, two-way writing, lag.
    #[command(subcommand)]
    Bench(Bench),
    /// Print a completion script, such as `twinlog completions bash > /etc/bash_completion.d/twinlog`.
    Completions(Completions),
}

/// `twinlog check`
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Look at this node only.
    #[arg(long)]
    pub(crate) node: Option<String>,
    /// Leave out what is as it should be.
    #[arg(long)]
    pub(crate) problems: bool,
}

/// `twinlog init`
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Go on although `check` finds obstacles.
    #[arg(long)]
    pub(crate) skip_check: bool,
    /// Begin anew at the present end of the logs, although there are positions already.
    #[arg(long)]
    pub(crate) force: bool,
    /// Do not ask before positions are thrown away.
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// `twinlog run`
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Run the engine alongside this node only; may be given several times.
    #[arg(long)]
    pub(crate) node: Vec<String>,
    /// Do not look at the nodes first (what is found is only logged).
    #[arg(long)]
    pub(crate) skip_check: bool,
}

/// `twinlog wait`
#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// Give up after this long, with exit code 1 [default: never].
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) timeout: Option<Duration>,
}

/// `twinlog status`
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Ask the engine of this node only.
    #[arg(long)]
    pub(crate) node: Option<String>,
    /// Show it again and again, this long apart.
    #[arg(long, value_name = "TIME", value_parser = time, num_args = 0..=1,
          default_missing_value = "1s", require_equals = true)]
    pub(crate) watch: Option<Duration>,
}

/// `twinlog positions`
#[derive(Debug, Subcommand)]
pub(crate) enum Positions {
    /// Show how far each node has applied each other one. Exit code 1 when a node cannot be asked.
    Show,
    /// Set where a link goes on. Everything in front of it counts as applied.
    ///
    /// Refused while the engine of either node runs: stop both, set, start both. Such as
    /// `twinlog positions set --origin a --target b binlog.000012:4711`.
    Set(PositionsSet),
}

/// `twinlog positions set`
#[derive(Debug, Args)]
pub(crate) struct PositionsSet {
    /// The node whose log is read.
    #[arg(long)]
    pub(crate) origin: String,
    /// The node where it is applied.
    #[arg(long)]
    pub(crate) target: String,
    /// `file:offset` of the origin's log, at the start of a transaction; or `end`.
    pub(crate) position: String,
    /// Do not ask.
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// `twinlog conflicts`
#[derive(Debug, Subcommand)]
pub(crate) enum Conflicts {
    /// List the settled conflicts in the nodes' journals, the latest first.
    List(ConflictsList),
    /// Show one conflict: both images side by side, and who won.
    Show(ConflictsShow),
    /// Write the losing image as a new change, which then stands on every node.
    ///
    /// Shows what it will write and asks. Refused where the row was changed since.
    Flip(ConflictsFlip),
}

/// `twinlog conflicts list`
#[derive(Debug, Args)]
pub(crate) struct ConflictsList {
    /// The journal of this node only.
    #[arg(long)]
    pub(crate) node: Option<String>,
    /// Tables, as `shop.*`.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) table: Option<String>,
    /// Kind of conflict, such as `update_origin_differs`.
    #[arg(long)]
    pub(crate) kind: Option<String>,
    /// Settled within this time, such as 1h.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) since: Option<Duration>,
    /// At most so many.
    #[arg(long, default_value_t = 50)]
    pub(crate) limit: u64,
}

/// `twinlog conflicts show`
#[derive(Debug, Args)]
pub(crate) struct ConflictsShow {
    /// Number of the entry.
    pub(crate) id: u64,
    /// The node in whose journal it stands.
    #[arg(long)]
    pub(crate) node: Option<String>,
}

/// `twinlog conflicts flip`
#[derive(Debug, Args)]
pub(crate) struct ConflictsFlip {
    /// Number of the entry.
    pub(crate) id: u64,
    /// The node in whose journal it stands, and where the losing image is written.
    #[arg(long)]
    pub(crate) node: Option<String>,
    /// Write it although the row was changed since.
    #[arg(long)]
    pub(crate) force: bool,
    /// Do not ask.
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// `twinlog verify`
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// First wait until everything is applied everywhere, at most this long.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) wait: Option<Duration>,
}

/// `twinlog completions`
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell.
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// Reads `60s`, `2m 30s`.
fn time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a time such as 60s or 2m"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn watch_takes_an_optional_time() {
        let watch = |line: &[&str]| {
            let line = ["twinlog", "status"].iter().chain(line);
            match Arguments::try_parse_from(line).unwrap().command {
                Command::Status(status) => status.watch,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(watch(&[]), None);
        assert_eq!(watch(&["--watch"]), Some(Duration::from_secs(1)));
        assert_eq!(watch(&["--watch=5s"]), Some(Duration::from_secs(5)));
    }
}
