//! `twinlog bench`: arguments of the benchmarks, and their outcome in words.

mod drain;
mod lag;
mod report;
mod write;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use comfy_table::{Cell, CellAlignment};
use tokio::signal::unix::{SignalKind, signal};

use crate::bench::Setting;
use crate::bench::arena::ArenaOptions;
use crate::bench::joined::Joint;
use crate::bench::load::{Distribution, LoadOptions, Shape};
use crate::bench::spread::bytes;
use crate::output::Output;
use crate::sandbox::ServerKind;

/// `twinlog bench`
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Build a backlog of transactions at one master, and time how fast it is applied at the other: by
    /// twinlog, and by the servers' own parallel replication, from identical copies.
    ///
    /// All rows are compared after each run; a difference is an error.
    Drain(drain::DrainArgs),
    /// Have clients write at both masters: while nothing joins them, while engines do, while the servers'
    /// own two-way replication does.
    ///
    /// All rows are compared after each run; a difference is an error.
    Write(write::WriteArgs),
    /// Write at fixed rates at one master, and time when a transaction is visible at the other: with
    /// twinlog, and with the servers' own replication.
    Lag(lag::LagArgs),
}

/// What all benchmarks take.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// Measure on two throwaway servers of this kind, which are durable and on this machine.
    #[arg(long, value_enum, value_name = "SERVER")]
    sandbox: Option<ServerKind>,
    /// What a transaction does.
    #[arg(long, value_enum, value_name = "SHAPE", default_value_t = Shape::WriteOnly)]
    workload: Shape,
    /// How rows are chosen.
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Distribution::Special)]
    distribution: Distribution,
    /// Tables.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    tables: u32,
    /// Rows of each table.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    rows: u32,
    /// Clients that write at the same time, at each node that is written to.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=900))]
    threads: u32,
    /// Seed of all choices.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// A line for the engines' [replication] settings, such as "group_transactions = 500"; may be
    /// given several times.
    #[arg(long, value_name = "LINE")]
    set: Vec<String>,
    /// An argument for both throwaway servers, such as --server-arg=--innodb-buffer-pool-size=2G; may
    /// be given several times.
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    server_arg: Vec<String>,
    /// Where the throwaway servers have their files [default: the system's temporary folder].
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Write one page with plots, the figures and what they depend on.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
}

/// The database of a sandbox's load.
const DATABASE: &str = "bench";

impl Common {
    fn load(&self, writers: u32) -> anyhow::Result<LoadOptions> {
        let load = LoadOptions {
            database: DATABASE.to_owned(),
            shape: self.workload,
            distribution: self.distribution,
            tables: self.tables,
            rows: self.rows,
            threads: self.threads,
            seed: self.seed,
            node: 0,
            writers,
        };
        load.check()?;
        Ok(load)
    }

    fn arena(&self) -> anyhow::Result<ArenaOptions> {
        let Some(kind) = self.sandbox else {
            bail!("say where to measure: --sandbox mariadb or --sandbox mysql");
        };
        Ok(ArenaOptions {
            kind,
            server_args: self.server_arg.clone(),
            settings: self.set.clone(),
            database: DATABASE.to_owned(),
        })
    }
}

/// Runs a benchmark until it ends or a signal does.
pub(super) async fn run(bench: Bench, output: &Output) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let measuring = async {
        match &bench {
            Bench::Drain(arguments) => drain::run(arguments, output).await,
            Bench::Write(arguments) => write::run(arguments, output).await,
            Bench::Lag(arguments) => lag::run(arguments, output).await,
        }
    };
    tokio::select! {
        code = measuring => code,
        // Leaving this function ends engines and servers and removes their files.
        _ = tokio::signal::ctrl_c() => Ok(interrupted(130)),
        _ = terminate.recv() => Ok(interrupted(143)),
    }
}

/// Twinlog, and the servers' own replication with these workers unless there are none.
fn joints(workers: u32) -> Vec<Joint> {
    let native = (workers > 0).then_some(Joint::Native(workers));
    std::iter::once(Joint::Twinlog).chain(native).collect()
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

fn interrupted(code: u8) -> ExitCode {
    eprintln!("interrupted: servers and engines of the benchmark are ended, their files removed");
    ExitCode::from(code)
}

/// What the figures depend on, in a few lines above the table.
fn describe(setting: &Setting) -> String {
    let (machine, load) = (&setting.machine, &setting.load);
    let mut text = format!(
        "{} {} on {} x {}, {}, {}, {}; {}\n",
        setting.server,
        setting.server_version,
        machine.cores,
        machine.cpu,
        bytes(machine.memory_bytes as f64),
        machine.system,
        machine.kernel,
        setting.date,
    );
    text.push_str(&format!(
        "{} ({}), {} tables x {} rows, {} threads, seed {}; sync_binlog=1, \
         innodb_flush_log_at_trx_commit=1, {}",
        load.shape,
        load.distribution,
        load.tables,
        load.rows,
        load.threads,
        load.seed,
        setting.settings.server_args.join(" "),
    ));
    if !setting.settings.engine.is_empty() {
        text.push_str(&format!("; engine: {}", setting.settings.engine.join(", ")));
    }
    if !setting.optimised {
        text.push_str("\ntwinlog was built without optimisations: its figures mean nothing");
    }
    text
}
