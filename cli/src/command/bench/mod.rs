//! `twinlog bench`: arguments of the benchmarks, and their outcome in words.

mod drain;
mod lag;
mod report;
mod stages;
mod write;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::bail;
use clap::{Args, Subcommand};
use comfy_table::{Cell, CellAlignment};
use tokio::signal::unix::{SignalKind, signal};

use crate::bench::arena::ArenaOptions;
use crate::bench::joined::Joint;
use crate::bench::load::{Distribution, LoadOptions, Shape};
use crate::bench::own::{Allowed, DATABASE, OwnServers, SCHEMA};
use crate::bench::spread::bytes;
use crate::bench::{Place, Setting};
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
    /// Build a backlog at one master, and read it with nothing at the end: only received, also decoded,
    /// also assembled, also prepared as statements; then drain it.
    Stages(stages::StagesArgs),
}

/// What all benchmarks take.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// Measure on two throwaway servers of this kind, which are durable and on this machine; without it,
    /// on the two servers of --config FILE.
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
    /// With --config: do not ask before databases are made at the servers.
    #[arg(long, short)]
    yes: bool,
    /// With --config: drop databases bench and twinlog_bench that somebody else made.
    #[arg(long)]
    drop_existing: bool,
    /// With --config: go on although the servers replicate from or to others, which get the
    /// benchmark's database too.
    #[arg(long)]
    allow_replication: bool,
}

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

    /// Throwaway servers, or those of the config file once they are found fit and a person has agreed;
    /// `None` when not.
    async fn place(&self, config: Option<&Path>, output: &Output) -> anyhow::Result<Option<Place>> {
        if let Some(kind) = self.sandbox {
            return Ok(Some(Place::Throwaway(ArenaOptions {
                kind,
                server_args: self.server_arg.clone(),
                settings: self.set.clone(),
                database: DATABASE.to_owned(),
            })));
        }
        // The file in the present folder is not taken by itself: nobody is to write to servers by
        // leaving something out.
        let Some(config) = config else {
            bail!(
                "say where to measure: --sandbox mariadb or --sandbox mysql for throwaway servers, \
                 --config FILE for two of your own"
            );
        };
        if !self.server_arg.is_empty() {
            bail!("--server-arg is for throwaway servers, with --sandbox");
        }
        let allowed = Allowed {
            drop_existing: self.drop_existing,
            replication: self.allow_replication,
        };
        let own = OwnServers::open(config, self.folder.as_deref(), &self.set, allowed).await?;
        eprintln!("{}", self.plan(&own));
        if !self.yes && !output.confirm("Go on?")? {
            return Ok(None);
        }
        Ok(Some(Place::Own(Arc::new(own))))
    }

    /// What will be done at servers that are there anyway.
    fn plan(&self, own: &OwnServers) -> String {
        let mut text = String::new();
        for server in &own.found {
            text.push_str(&format!("{}\n", server.describe()));
        }
        for warning in &own.warnings {
            text.push_str(&format!("warning: {warning}\n"));
        }
        text.push_str(&format!(
            "The databases {DATABASE} and {SCHEMA} are made at both servers, filled ({} tables of {} rows), \
             written to by {} clients a node, and dropped in the end. Engines and clients run on this \
             machine. Other databases and the servers' settings are left alone; the servers' logs keep what \
             was written, and others have less of the servers meanwhile.",
            self.tables, self.rows, self.threads
        ));
        text
    }
}

impl Bench {
    fn common(&self) -> &Common {
        match self {
            Bench::Drain(arguments) => &arguments.common,
            Bench::Write(arguments) => &arguments.common,
            Bench::Lag(arguments) => &arguments.common,
            Bench::Stages(arguments) => &arguments.common,
        }
    }
}

/// Runs a benchmark until it ends or a signal does.
pub(super) async fn run(
    bench: Bench,
    config: Option<&Path>,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let Some(place) = bench.common().place(config, output).await? else {
        return Ok(ExitCode::FAILURE);
    };
    let measuring = async {
        match &bench {
            Bench::Drain(arguments) => drain::run(arguments, &place, output).await,
            Bench::Write(arguments) => write::run(arguments, &place, output).await,
            Bench::Lag(arguments) => lag::run(arguments, &place, output).await,
            Bench::Stages(arguments) => stages::run(arguments, &place, output).await,
        }
    };
    let code = tokio::select! {
        code = measuring => code,
        // Leaving this function ends engines and servers and removes their files.
        _ = tokio::signal::ctrl_c() => Ok(ExitCode::from(130)),
        _ = terminate.recv() => Ok(ExitCode::from(143)),
    };
    let interrupted = [130, 143].map(ExitCode::from);
    let was_interrupted = matches!(&code, Ok(code) if interrupted.contains(code));
    match &place {
        Place::Throwaway(_) if was_interrupted => {
            eprintln!(
                "interrupted: servers and engines of the benchmark are ended, their files removed"
            );
        }
        Place::Throwaway(_) => {}
        Place::Own(own) => {
            if was_interrupted {
                eprintln!(
                    "interrupted: removing the benchmark's databases; once more to leave them"
                );
            }
            tokio::select! {
                removed = own.remove() => match (removed, &code) {
                    (Err(left), Ok(_)) => return Err(left),
                    // What went wrong first is what is reported.
                    (Err(left), Err(_)) => eprintln!("warning: {left:#}"),
                    (Ok(()), _) => {}
                },
                _ = tokio::signal::ctrl_c() => bail!("interrupted again: {}", own.left_behind()),
                _ = terminate.recv() => bail!("interrupted again: {}", own.left_behind()),
            }
        }
    }
    code
}

/// Twinlog, and the servers' own replication with these workers unless there are none or the servers
/// are in use.
fn joints(place: &Place, workers: u32) -> Vec<Joint> {
    let native = workers > 0 && matches!(place, Place::Throwaway(_));
    let native = native.then_some(Joint::Native(workers));
    std::iter::once(Joint::Twinlog).chain(native).collect()
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
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
        "{} ({}), {} tables x {} rows, {} threads, seed {}; {}",
        load.shape,
        load.distribution,
        load.tables,
        load.rows,
        load.threads,
        load.seed,
        setting.settings.durability(),
    ));
    if !setting.settings.server_args.is_empty() {
        text.push_str(&format!(", {}", setting.settings.server_args.join(" ")));
    }
    if !setting.settings.engine.is_empty() {
        text.push_str(&format!("; engine: {}", setting.settings.engine.join(", ")));
    }
    for server in &setting.settings.own_servers {
        text.push_str(&format!("\n{}", server.describe()));
    }
    if setting.is_own() {
        text.push_str(
            "\nthe servers' own replication is not measured here, since it would have to be set up: see --sandbox",
        );
    }
    if !setting.optimised {
        text.push_str("\ntwinlog was built without optimisations: its figures mean nothing");
    }
    text
}
