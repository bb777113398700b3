//! Backlogs between two servers that are there anyway: one for each run, since they cannot be copied.
//! The tables are made once; after a run both nodes have the same rows, and the next one goes on there.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use mysql_async::Conn;
use twinlog_engine::config::Config;
use twinlog_engine::init;

use super::applying::{self, Task};
use super::copies::write_backlog;
use super::{Backlog, Contender, DrainOptions, Ready, Run, both_write, write_contested};
use crate::bench::native;
use crate::bench::own::OwnServers;
use crate::bench::progress::Progress;
use crate::bench::spread::Spread;

/// Two servers with the load's tables, set up for replication.
pub(in crate::bench) struct Given {
    own: Arc<OwnServers>,
    config: Arc<Config>,
    file: PathBuf,
    written: Vec<Backlog>,
}

impl Given {
    /// Makes the tables at both, and sets replication up.
    ///
    /// # Errors
    /// The servers'.
    pub(super) async fn prepare(
        options: &DrainOptions,
        own: &Arc<OwnServers>,
        progress: &Progress,
    ) -> anyhow::Result<Self> {
        let load = &options.load;
        progress.step(&format!(
            "filling the database {} at both servers: {} tables x {} rows",
            load.database, load.tables, load.rows
        ));
        own.fresh(load).await?;
        let (config, file) = own.config()?;
        init::init(&config, false).await?;
        Ok(Self {
            own: Arc::clone(own),
            config,
            file,
            written: Vec::new(),
        })
    }

    /// Medians of all backlogs.
    pub(super) fn backlog(&self) -> Backlog {
        let median = |of: &dyn Fn(&Backlog) -> f64| {
            Spread::of(self.written.iter().map(of)).map_or(0.0, |spread| spread.median)
        };
        Backlog {
            seconds: median(&|one| one.seconds),
            log_bytes: median(&|one| one.log_bytes as f64) as u64,
        }
    }

    /// Writes a backlog.
    pub(super) async fn ready(
        &mut self,
        options: &DrainOptions,
        progress: &Progress,
    ) -> anyhow::Result<Ready> {
        let load = &options.load;
        let masters = self.own.masters().clone();
        let mut origin = masters[0].connect().await?;
        if both_write(options) {
            write_contested(&masters[1], load, 0).await?;
        }
        let before = native::log_bytes(&mut origin).await?;
        let seconds = write_backlog(&masters[0], load, options.transactions, progress).await?;
        self.written.push(Backlog {
            seconds,
            log_bytes: grown(&mut origin, before).await?,
        });
        origin.disconnect().await?;
        if both_write(options) {
            write_contested(&masters[1], load, 1).await?;
        }
        Ok(Ready {
            masters,
            config: Arc::clone(&self.config),
            file: self.file.clone(),
            servers: Vec::new(),
        })
    }

    /// The engine applies it.
    pub(super) async fn apply(
        &self,
        options: &DrainOptions,
        ready: &Ready,
        contender: Contender,
        progress: &Progress,
    ) -> anyhow::Result<Run> {
        if contender != Contender::Twinlog {
            bail!("the servers' own replication is not set up at servers that are in use");
        }
        let folder = self.own.folder();
        let mut watcher = ready.masters[1].connect().await?;
        let before = native::log_bytes(&mut watcher).await?;
        let task = Task {
            transactions: options.transactions,
            pids: &[],
            progress,
        };
        let mut run = applying::by_engine(task, ready, folder, &mut watcher).await?;
        run.target_log_bytes = grown(&mut watcher, before).await?;
        watcher.disconnect().await?;
        if both_write(options) {
            applying::send_back(ready, folder, options).await?;
        }
        Ok(run)
    }
}

/// By how much a server's binlogs have grown. One that was purged meanwhile makes it less.
async fn grown(conn: &mut Conn, before: u64) -> anyhow::Result<u64> {
    Ok(native::log_bytes(conn).await?.saturating_sub(before))
}
