//! A backlog between two throwaway servers, and copies of them for each contender to drain.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tempfile::TempDir;
use twinlog_engine::init;

use super::applying::{self, Task};
use super::{Backlog, Contender, DrainOptions, Ready, Run, both_write, write_contested};
use crate::bench::arena::{self, ArenaOptions};
use crate::bench::load::{self, LoadOptions, Until, Written};
use crate::bench::master::{self, Master};
use crate::bench::native::{self, Counted, LogEnd};
use crate::bench::progress::Progress;
use crate::bench::{Setting, marker_bytes};
use crate::sandbox::Server;

/// Two servers with a backlog between them, at least one of them stopped.
pub(in crate::bench) struct Copies {
    arena: ArenaOptions,
    /// The origin, running, unless each run needs one of its own.
    origin: Option<Server>,
    /// The target, and the origin where each run needs one of its own.
    stopped: Vec<Server>,
    counted: Counted,
    begin: LogEnd,
    backlog: Backlog,
    folder: TempDir,
}

impl Copies {
    /// Starts two servers, sets replication up, and writes the backlog.
    ///
    /// # Errors
    /// The servers'.
    pub(super) async fn prepare(
        options: &DrainOptions,
        arena: &ArenaOptions,
        progress: &Progress,
    ) -> anyhow::Result<(Self, Setting)> {
        let load = &options.load;
        progress.step(&format!(
            "starting two durable {} servers, {} tables x {} rows on each",
            arena.kind, load.tables, load.rows
        ));
        let folder = arena::folder(options.base.as_deref())?;
        let [mut a, mut b] = arena::fresh(arena, load, folder.path()).await?;
        let setting = Setting::now(arena.kind, a.version(), load, arena.settings());
        let (config, _) = arena.config([&a, &b], folder.path())?;
        init::init(&config, false).await?;
        let begin = native::log_end(&a).await?;
        let counted = Counted::from_now(&a).await?;
        let masters = [Master::throwaway(&a), Master::throwaway(&b)];
        if both_write(options) {
            write_contested(&masters[1], load, 0).await?;
        }
        let seconds = write_backlog(&masters[0], load, options.transactions, progress).await?;
        if both_write(options) {
            write_contested(&masters[1], load, 1).await?;
        }
        let transactions = counted.written(&a).await?;
        if transactions != options.transactions {
            bail!(
                "{} transactions were committed at the origin, {transactions} are in its log: \
                 does somebody else write there?",
                options.transactions
            );
        }
        let end = native::log_end(&a).await?;
        let log_bytes = if end.file == begin.file {
            end.offset - begin.offset
        } else {
            let mut conn = a.connect().await?;
            let all = native::log_bytes(&mut conn).await?;
            conn.disconnect().await?;
            all - begin.offset
        };
        progress.step(&format!(
            "the backlog took {seconds:.1} s and {:.1} MB of binlog",
            log_bytes as f64 / 1e6
        ));
        b.stop().await;
        let (origin, stopped) = if both_write(options) {
            a.stop().await;
            (None, vec![b, a])
        } else {
            (Some(a), vec![b])
        };
        let copies = Self {
            arena: arena.clone(),
            origin,
            stopped,
            counted,
            begin,
            backlog: Backlog { seconds, log_bytes },
            folder,
        };
        Ok((copies, setting))
    }

    pub(super) fn backlog(&self) -> Backlog {
        self.backlog
    }

    /// Starts a copy of the target, and of the origin where each run needs one of its own.
    pub(super) async fn ready(&self) -> anyhow::Result<Ready> {
        let folder = self.folder.path();
        let copy = |node: usize, stopped: &Server| {
            let data = stopped.datadir().to_owned();
            let (kind, server) = (self.arena.kind, self.arena.server(node));
            async move { Server::start_on_copy(kind, folder, server, &data).await }
        };
        let mut servers = vec![copy(1, &self.stopped[0]).await?];
        if self.origin.is_none() {
            servers.push(copy(0, &self.stopped[1]).await?);
        }
        let origin = self.origin.as_ref().unwrap_or(&servers[servers.len() - 1]);
        let (config, file) = self.arena.config([origin, &servers[0]], folder)?;
        Ok(Ready {
            masters: [Master::throwaway(origin), Master::throwaway(&servers[0])],
            config,
            file,
            servers,
        })
    }

    /// One contender applies the backlog.
    pub(super) async fn apply(
        &self,
        options: &DrainOptions,
        ready: &Ready,
        contender: Contender,
        progress: &Progress,
    ) -> anyhow::Result<Run> {
        let folder = self.folder.path();
        let target = &ready.servers[0];
        let origin = self.origin.as_ref().or(ready.servers.get(1));
        let origin = origin.context("there is no origin")?;
        let mut watcher = target.connect().await?;
        let log_before = native::log_bytes(&mut watcher).await?;
        let pids = master::pids(&ready.masters);
        let task = Task {
            transactions: options.transactions,
            pids: &pids,
            progress,
        };
        let mut run = match contender {
            Contender::Twinlog => {
                let schema = &ready.config.engine.schema;
                let before = marker_bytes::in_folder(target.datadir(), schema)?;
                let mut run = applying::by_engine(task, ready, folder, &mut watcher).await?;
                let after = marker_bytes::in_folder(target.datadir(), schema)?;
                run.marker_log_bytes = Some(after - before);
                run
            }
            Contender::Native(workers) => {
                native::set_up(target, origin, &self.begin, workers).await?;
                applying::by_server(task, target.kind(), &self.counted, &mut watcher).await?
            }
        };
        run.target_log_bytes = native::log_bytes(&mut watcher).await? - log_before;
        watcher.disconnect().await?;
        match contender {
            Contender::Native(_) => native::remove(target).await?,
            // The other engine has not run: the rows that the target wrote are still to go back.
            Contender::Twinlog if both_write(options) => {
                applying::send_back(ready, folder, options).await?;
            }
            Contender::Twinlog => {}
        }
        Ok(run)
    }
}

/// Writes the backlog at a master; gives the seconds that it took.
///
/// # Errors
/// The server's.
pub(super) async fn write_backlog(
    master: &Master,
    load: &LoadOptions,
    transactions: u64,
    progress: &Progress,
) -> anyhow::Result<f64> {
    progress.step(&format!(
        "writing a backlog of {transactions} transactions ({}, {} threads)",
        load.shape, load.threads
    ));
    let written = Arc::new(Written::default());
    let begun = Instant::now();
    let writing = load::write(&master.opts, load, Until::Count(transactions), &written);
    tokio::pin!(writing);
    loop {
        tokio::select! {
            ended = &mut writing => break ended?,
            () = tokio::time::sleep(Duration::from_millis(200)) => {
                progress.done("backlog", written.transactions(), transactions);
            }
        }
    }
    Ok(begun.elapsed().as_secs_f64())
}
