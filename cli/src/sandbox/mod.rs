//! Throwaway database servers for the demo, the benchmarks and the real-server tests.
//!
//! A [`Server`] has a data directory, a port and a process of its own and takes all three with it
//! when it is dropped. It knows nothing of replication: what it offers is a freshly initialised
//! master with the settings that twinlog asks of one, and the ways in which a master may die.

mod installation;
pub(crate) mod process;
mod template;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use mysql_async::prelude::{FromRow, Queryable as _};
use mysql_async::{Conn, Opts, OptsBuilder};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tempfile::TempDir;

use installation::Installation;

/// Longest wait for a server to accept connections; crash recovery on a busy machine included.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// Longest wait for an orderly shutdown before the process is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// Pause between two looks at a starting server.
const POLL: Duration = Duration::from_millis(50);
/// Another process may take the chosen port before the server binds it: how often to choose again.
const PORT_ATTEMPTS: usize = 8;
/// How much of the end of the error log a failure shows, in bytes.
const LOG_TAIL: usize = 4096;

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ServerKind {
    /// MariaDB, as installed on the machine.
    #[value(name = "mariadb")]
    MariaDb,
    /// MySQL, unpacked by `tests/servers/fetch` or installed on the machine.
    #[value(name = "mysql")]
    MySql,
}

impl fmt::Display for ServerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ServerKind::MariaDb => "mariadb",
            ServerKind::MySql => "mysql",
        })
    }
}

impl FromStr for ServerKind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "mariadb" => Ok(ServerKind::MariaDb),
            "mysql" => Ok(ServerKind::MySql),
            _ => bail!("unknown server {text:?}: expected mariadb or mysql"),
        }
    }
}

/// What is particular to one server of a sandbox.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Names the server's folder.
    pub name: String,
    /// `server_id`
    pub server_id: u32,
    /// `auto_increment_increment`: how many masters share the sequences.
    pub nodes: u32,
    /// `auto_increment_offset`, from 1.
    pub offset: u32,
    /// More arguments of the server; they come last, so they win over the sandbox's own.
    pub extra_args: Vec<String>,
    /// Whether a commit is synced to disk. Without it a commit still survives `kill -9` of the
    /// server (the operating system has it), only not a crash of the machine.
    pub durable: bool,
}

impl ServerOptions {
    /// Node number `offset` (from 1) of `nodes`, with its number as `server_id`, not durable.
    #[must_use]
    pub fn node(name: &str, offset: u32, nodes: u32) -> Self {
        Self {
            name: name.to_owned(),
            server_id: offset,
            nodes,
            offset,
            extra_args: Vec::new(),
            durable: false,
        }
    }
}

/// A running (or killed) throwaway server. Dropping it kills the process and removes its files,
/// unless the environment says `TWINLOG_KEEP=1`.
#[derive(Debug)]
pub struct Server {
    kind: ServerKind,
    options: ServerOptions,
    installation: Installation,
    child: Option<Child>,
    port: u16,
    data: PathBuf,
    /// After `child`: nothing may be removed under a running server.
    dir: Option<TempDir>,
}

/// Why a start failed: only a taken port is worth another attempt.
enum StartFailure {
    PortTaken(String),
    Other(anyhow::Error),
}

impl Server {
    /// Initialises a fresh data directory below `base_dir` and starts a server on it, on a free
    /// port of the loopback interface. Returns when it accepts connections.
    ///
    /// # Errors
    /// No such server on this machine (the message says how to get it), a folder that cannot be
    /// written, or a server that does not come up (with the tail of its error log).
    pub async fn start(
        kind: ServerKind,
        base_dir: &Path,
        options: ServerOptions,
    ) -> anyhow::Result<Self> {
        Self::start_on(kind, base_dir, options, None).await
    }

    /// The same on a copy of the data directory `prepared` of a stopped server, with its binlogs
    /// and its identity: the two must not meet in one replication.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn start_on_copy(
        kind: ServerKind,
        base_dir: &Path,
        options: ServerOptions,
        prepared: &Path,
    ) -> anyhow::Result<Self> {
        Self::start_on(kind, base_dir, options, Some(prepared.to_owned())).await
    }

    async fn start_on(
        kind: ServerKind,
        base_dir: &Path,
        options: ServerOptions,
        prepared: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        let base = base_dir.to_owned();
        let name = options.name.clone();
        let (installation, dir) = tokio::task::spawn_blocking(move || {
            let installation = installation::find(kind)?;
            std::fs::create_dir_all(&base)
                .with_context(|| format!("cannot create {}", base.display()))?;
            // The server resolves its own paths against its data directory.
            let base = base.canonicalize()?;
            let dir = tempfile::Builder::new()
                .prefix(&format!("{name}-"))
                .tempdir_in(&base)
                .with_context(|| format!("cannot create a folder in {}", base.display()))?;
            let data = dir.path().join("data");
            match prepared {
                Some(prepared) => template::copy_server(&prepared, &data)?,
                None => template::copy(&template::ensure(&installation, &base)?, &data)?,
            }
            std::fs::create_dir(dir.path().join("tmp"))?;
            anyhow::Ok((installation, dir))
        })
        .await??;
        let mut server = Self {
            kind,
            options,
            installation,
            child: None,
            port: 0,
            data: dir.path().join("data"),
            dir: Some(dir),
        };
        let mut taken = String::new();
        for _ in 0..PORT_ATTEMPTS {
            server.port = process::free_port()?;
            match server.launch().await {
                Ok(()) => return Ok(server),
                Err(StartFailure::PortTaken(why)) => taken = why,
                Err(StartFailure::Other(error)) => return Err(error),
            }
        }
        bail!("{kind}: no free port found in {PORT_ATTEMPTS} attempts; last: {taken}")
    }

    /// Which server this is.
    #[must_use]
    pub fn kind(&self) -> ServerKind {
        self.kind
    }

    /// The server's version as its program prints it, such as `10.11.19-MariaDB`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.installation.version
    }

    /// Name given in the options.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// The options that it was started with.
    #[must_use]
    pub fn options(&self) -> &ServerOptions {
        &self.options
    }

    /// Where root may connect, over TCP and without a password.
    #[must_use]
    pub fn url(&self) -> String {
        format!("mysql://root@127.0.0.1:{}", self.port)
    }

    /// The same for the driver. Always TCP: the socket's name is relative to the data directory,
    /// because a long path does not fit into a socket address.
    #[must_use]
    pub fn opts(&self) -> Opts {
        OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(self.port)
            .user(Some("root"))
            .prefer_socket(Some(false))
            .into()
    }

    /// TCP port; stays the same over restarts.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Data directory, with the binlogs in it.
    #[must_use]
    pub fn datadir(&self) -> &Path {
        &self.data
    }

    /// The server's own log.
    #[must_use]
    pub fn error_log(&self) -> PathBuf {
        self.data.with_file_name("error.log")
    }

    /// Process id, or 0 while the server is down.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// A new connection as root.
    ///
    /// # Errors
    /// The server is down or refuses.
    pub async fn connect(&self) -> anyhow::Result<Conn> {
        Conn::new(self.opts())
            .await
            .with_context(|| format!("cannot connect to {} at {}", self.name(), self.url()))
    }

    /// Runs statements (several may be separated by `;`) on a connection of their own.
    ///
    /// # Errors
    /// The server is down, or refuses a statement.
    pub async fn query_drop(&self, sql: &str) -> anyhow::Result<()> {
        let mut conn = self.connect().await?;
        let result = conn.query_drop(sql).await;
        conn.disconnect().await?;
        result.with_context(|| format!("{}: {sql}", self.name()))
    }

    /// Runs a query on a connection of its own and returns all its rows.
    ///
    /// # Errors
    /// The server is down, or refuses the query.
    pub async fn query<T>(&self, sql: &str) -> anyhow::Result<Vec<T>>
    where
        T: FromRow + Send + 'static,
    {
        let mut conn = self.connect().await?;
        let result = conn.query(sql).await;
        conn.disconnect().await?;
        result.with_context(|| format!("{}: {sql}", self.name()))
    }

    /// Kills the process as `kill -9` does and waits until it is gone.
    pub async fn kill9(&mut self) {
        self.signal(Signal::SIGKILL);
        self.gone(None).await;
    }

    /// Starts the server again on the same data and the same port, with the same arguments.
    ///
    /// # Errors
    /// It is still running, or does not come up (with the tail of its error log).
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        if self.child.is_some() {
            bail!("{} is running: stop or kill it first", self.name());
        }
        match self.launch().await {
            Ok(()) => Ok(()),
            Err(StartFailure::Other(error)) => Err(error),
            // The port is part of the node's identity, so there is no choosing another one.
            Err(StartFailure::PortTaken(why)) => Err(anyhow!(
                "{}: port {} was taken while the server was down: {why}",
                self.name(),
                self.port
            )),
        }
    }

    /// Stops the server in order and starts it with other extra arguments.
    ///
    /// # Errors
    /// As [`Server::start_again`].
    pub async fn restart_with(&mut self, extra_args: &[String]) -> anyhow::Result<()> {
        self.stop().await;
        self.options.extra_args = extra_args.to_vec();
        self.start_again().await
    }

    /// Shuts the server down in order; kills it when that takes longer than 30 s.
    pub async fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        if !self.gone(Some(STOP_DEADLINE)).await {
            self.kill9().await;
        }
    }

    fn signal(&self, signal: Signal) {
        // The child has not been reaped, so its id cannot belong to another process.
        if let Some(pid) = self
            .child
            .as_ref()
            .and_then(|child| i32::try_from(child.id()).ok())
        {
            // An error means that the process has ended, which `gone` finds out as well.
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), signal);
        }
    }

    /// Waits until the process has ended, and reaps it. False when the deadline comes first.
    async fn gone(&mut self, deadline: Option<Duration>) -> bool {
        let begun = Instant::now();
        while self.exited().is_none() {
            if self.child.is_none() {
                return true;
            }
            if deadline.is_some_and(|deadline| begun.elapsed() > deadline) {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        true
    }

    /// The exit status of a process that has ended by now.
    fn exited(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok().flatten()?;
        self.child = None;
        Some(status)
    }

    async fn launch(&mut self) -> Result<(), StartFailure> {
        let log = self.error_log();
        let logged_before = std::fs::metadata(&log).map_or(0, |metadata| metadata.len());
        let mut command = self.installation.server();
        command.args(self.arguments());
        let child = process::spawn(command)
            .with_context(|| format!("cannot start {}", self.kind))
            .map_err(StartFailure::Other)?;
        self.child = Some(child);

        let begun = Instant::now();
        loop {
            if let Some(status) = self.exited() {
                let tail = process::tail(&log, logged_before, LOG_TAIL);
                return Err(if process::says_port_taken(&tail) {
                    StartFailure::PortTaken(format!("port {}", self.port))
                } else {
                    StartFailure::Other(anyhow!(
                        "{} {} ended while starting ({status}); {} ends with:\n{tail}",
                        self.kind,
                        self.name(),
                        log.display()
                    ))
                });
            }
            match tokio::time::timeout(Duration::from_secs(5), self.answering_datadir()).await {
                Ok(Ok(datadir)) if Path::new(&datadir) == self.data => return Ok(()),
                // Two servers may listen on one port for a moment of bad luck; this one's clients
                // must not end up in another one's data.
                Ok(Ok(datadir)) => {
                    self.kill9().await;
                    return Err(StartFailure::PortTaken(format!(
                        "port {} belongs to the server on {datadir}",
                        self.port
                    )));
                }
                Ok(Err(error)) if begun.elapsed() > START_DEADLINE => {
                    self.kill9().await;
                    let tail = process::tail(&log, logged_before, LOG_TAIL);
                    return Err(StartFailure::Other(anyhow!(
                        "{} {} accepts no connections after {START_DEADLINE:?} ({error}); {} ends with:\n{tail}",
                        self.kind,
                        self.name(),
                        log.display()
                    )));
                }
                Ok(Err(_)) | Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// Which data directory the server behind the port has.
    async fn answering_datadir(&self) -> anyhow::Result<String> {
        let mut conn = Conn::new(self.opts()).await?;
        let datadir: Option<String> = conn.query_first("SELECT @@datadir").await?;
        conn.disconnect().await?;
        Ok(datadir.unwrap_or_default().trim_end_matches('/').to_owned())
    }

    fn arguments(&self) -> Vec<OsString> {
        let options = &self.options;
        let path = |name: &str, path: &Path| {
            let mut argument = OsString::from(format!("--{name}="));
            argument.push(path);
            argument
        };
        let (sync_binlog, flush_at_commit) = if options.durable { (1, 1) } else { (0, 2) };
        let mut arguments = vec![
            path("datadir", &self.data),
            path("tmpdir", &self.data.with_file_name("tmp")),
            path("log-error", &self.error_log()),
            path("pid-file", &self.data.with_file_name("pid")),
        ];
        let mut add = |argument: String| arguments.push(argument.into());
        for fixed in COMMON_ARGUMENTS {
            add((*fixed).to_owned());
        }
        let of_kind = match self.kind {
            ServerKind::MariaDb => MARIADB_ARGUMENTS,
            ServerKind::MySql => MYSQL_ARGUMENTS,
        };
        for fixed in of_kind {
            add((*fixed).to_owned());
        }
        add(format!("--port={}", self.port));
        add(format!("--server-id={}", options.server_id));
        add(format!("--auto-increment-increment={}", options.nodes));
        add(format!("--auto-increment-offset={}", options.offset));
        add(format!("--sync-binlog={sync_binlog}"));
        add(format!(
            "--innodb-flush-log-at-trx-commit={flush_at_commit}"
        ));
        for extra in &options.extra_args {
            add(extra.clone());
        }
        arguments
    }
}

/// Arguments that both servers take.
const COMMON_ARGUMENTS: &[&str] = &[
    // Relative to the data directory: a socket address holds 107 bytes, a path may be longer.
    "--socket=server.sock",
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--log-bin=binlog",
    "--binlog-format=ROW",
    "--binlog-row-image=FULL",
    "--binlog-row-metadata=FULL",
    "--relay-log=relay",
    "--character-set-server=utf8mb4",
    "--max-allowed-packet=64M",
    // Several servers share a small machine.
    "--innodb-buffer-pool-size=128M",
    "--performance-schema=OFF",
    // The kernel's table of native AIO contexts is small and shared by everything on the machine.
    "--innodb-use-native-aio=0",
];

const MARIADB_ARGUMENTS: &[&str] = &["--log-slave-updates=ON", "--innodb-log-file-size=64M"];

const MYSQL_ARGUMENTS: &[&str] = &[
    "--log-replica-updates=ON",
    "--gtid-mode=ON",
    "--enforce-gtid-consistency=ON",
    "--innodb-redo-log-capacity=64M",
];

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only if the process has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(dir) = self.dir.take()
            && std::env::var_os("TWINLOG_KEEP").is_some_and(|keep| keep == "1")
        {
            let _ = dir.keep();
        }
    }
}
