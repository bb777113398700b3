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
use super::{Backlog, Contender, DrainOptions, Run, both_write, verify_rows, write_contested};
use crate::bench::own::OwnServers;
use crate::bench::progress::Progress;
use crate::bench::spread::Spread;
use crate::bench::{arena, native};

/// Two servers with the load's tables, set up for replication.
pub(super) struct Given {
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

    /// Writes a backlog and has the engine apply it.
    pub(super) async fn drain(
        &mut self,
        options: &DrainOptions,
        contender: Contender,
        progress: &Progress,
    ) -> anyhow::Result<Run> {
        if contender != Contender::Twinlog {
            bail!("the servers' own replication is not set up at servers that are in use");
        }
        let load = &options.load;
        let masters = self.own.masters();
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
        arena::warm_up(&masters[1], &load.database).await?;

        let mut watcher = masters[1].connect().await?;
        let before = native::log_bytes(&mut watcher).await?;
        let task = Task {
            transactions: options.transactions,
            pids: &[],
            progress,
        };
        let (engine, folder) = ((&*self.config, &*self.file), self.own.folder());
        let mut run = applying::by_engine(task, engine, folder, &mut watcher).await?;
        run.target_log_bytes = grown(&mut watcher, before).await?;
        watcher.disconnect().await?;
        if both_write(options) {
            applying::send_back(&self.config, &self.file, folder, options).await?;
        }
        let comparison = arena::compare_rows(masters, &load.database).await?;
        run.equal = comparison.equal;
        run.differing = arena::differing(&comparison);
        verify_rows(options, contender, &run)?;
        Ok(run)
    }
}

/// By how much a server's binlogs have grown. One that was purged meanwhile makes it less.
async fn grown(conn: &mut Conn, before: u64) -> anyhow::Result<u64> {
    Ok(native::log_bytes(conn).await?.saturating_sub(before))
}
