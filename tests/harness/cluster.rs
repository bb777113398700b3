//! Two masters whose engines are processes of the real program, each behind proxies of its own, so
//! that all of it can die: engines, servers and the network between them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use mysql_async::prelude::FromRow;
use tempfile::TempDir;
use twinlog_cli::sandbox::{Server, ServerKind, ServerOptions};
use twinlog_engine::barrier;
use twinlog_engine::config::Config;

use crate::pair::{NODES, PATIENCE};
use crate::proxy::Proxy;

/// Two servers, four proxies, and the config files of two engines.
#[derive(Debug)]
pub struct Cluster {
    /// Nodes a and b.
    pub servers: [Server; 2],
    /// What stands between an engine (first index) and a server (second).
    pub proxies: [[Proxy; 2]; 2],
    /// The config as commands have it: without proxies.
    pub config: Config,
    /// The engines' processes, while they run.
    pub engines: [Option<Child>; 2],
    program: PathBuf,
    folder: TempDir,
}

/// How a cluster is started.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Both servers' kind.
    pub kind: ServerKind,
    /// Whether commits are synced to disk.
    pub durable: bool,
    /// Lines for `[engine]`.
    pub engine: String,
    /// Lines behind `[replication]`.
    pub replication: String,
}

impl ClusterOptions {
    /// Durable servers, engines that try again soon.
    #[must_use]
    pub fn new(kind: ServerKind) -> Self {
        Self {
            kind,
            durable: true,
            engine: String::new(),
            replication: String::new(),
        }
    }
}

impl Cluster {
    /// Two servers with this schema on both, set up; no engine runs. `program` is twinlog.
    pub async fn start(program: &str, options: &ClusterOptions, schema: &str) -> Self {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-servers");
        std::fs::create_dir_all(&base).unwrap();
        let server = |name: &'static str, offset: u32| {
            let mut server = ServerOptions::node(name, offset, 2);
            server.durable = options.durable;
            Server::start(options.kind, &base, server)
        };
        let (a, b) = tokio::join!(server("a", 1), server("b", 2));
        let servers = [a.unwrap(), b.unwrap()];
        let [a, b] = [servers[0].port(), servers[1].port()];
        let proxies = [
            [Proxy::start(a).await, Proxy::start(b).await],
            [Proxy::start(a).await, Proxy::start(b).await],
        ];
        let folder = tempfile::tempdir_in(&base).unwrap();
        let text = |ports: [u16; 2]| {
            let nodes: String = NODES
                .iter()
                .zip(ports)
                .map(|(name, port)| {
                    format!("[[node]]\nname = {name:?}\nurl = \"mysql://root@127.0.0.1:{port}\"\n")
                })
                .collect();
            format!(
                "[engine]\ndata_dir = {:?}\nbackoff_min = \"50ms\"\nbackoff_max = \"500ms\"\n{}\n\
                 [replication]\n{}\n{nodes}",
                folder.path().join("data"),
                options.engine,
                options.replication,
            )
        };
        for (engine, name) in NODES.iter().enumerate() {
            let ports = [proxies[engine][0].port(), proxies[engine][1].port()];
            std::fs::write(folder.path().join(format!("{name}.toml")), text(ports)).unwrap();
        }
        let config = Config::parse(&text([a, b]), &|_| None).unwrap();
        let cluster = Self {
            servers,
            proxies,
            config,
            engines: [None, None],
            program: program.into(),
            folder,
        };
        for server in &cluster.servers {
            server.query_drop(schema).await.unwrap();
        }
        twinlog_engine::init::init(&cluster.config, false)
            .await
            .unwrap();
        cluster
    }

    /// Folder of this cluster's files; `data` in it is the engines'.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What starts the engine of one node; its log goes to a file of the node's.
    #[must_use]
    pub fn command(&self, node: usize) -> Command {
        engine_command(&self.program, self.folder.path(), node)
    }

    /// Starts the engine of one node through programs that set up its surroundings and run what stands
    /// behind them, such as `env --ignore-signal=XFSZ`.
    pub fn start_engine_under(&mut self, node: usize, surroundings: &[&str]) {
        let mut command =
            engine_command_under(&self.program, self.folder.path(), node, surroundings);
        self.engines[node] = Some(command.spawn().unwrap());
    }

    /// Starts the engine of one node, to die at this failpoint if one is given.
    pub fn start_engine(&mut self, node: usize, failpoint: Option<&str>) {
        let mut command = self.command(node);
        if let Some(failpoint) = failpoint {
            command.env(twinlog_engine::failpoint::VARIABLE, failpoint);
        }
        self.engines[node] = Some(command.spawn().unwrap());
    }

    /// Kills the engine of one node as `kill -9` does.
    pub fn kill_engine(&mut self, node: usize) {
        if let Some(mut engine) = self.engines[node].take() {
            engine.kill().unwrap();
            engine.wait().unwrap();
        }
    }

    /// Waits until the engine of one node has ended by itself.
    pub async fn ended(&mut self, node: usize) -> ExitStatus {
        self.ended_within(node, PATIENCE)
            .await
            .unwrap_or_else(|| panic!("the engine still runs:\n{}", self.log(node)))
    }

    /// Likewise, for at most this long.
    pub async fn ended_within(&mut self, node: usize, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            let engine = self.engines[node].as_mut().expect("the engine was started");
            if let Some(status) = engine.try_wait().unwrap() {
                self.engines[node] = None;
                return Some(status);
            }
            if Instant::now() > deadline {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The end of what the engine of one node has logged.
    #[must_use]
    pub fn log(&self, node: usize) -> String {
        let path = self.folder.path().join(format!("{}.log", NODES[node]));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let start = text.len().saturating_sub(6000);
        let start = (start..).find(|at| text.is_char_boundary(*at));
        text[start.unwrap_or(0)..].to_owned()
    }

    /// Waits until the engine of one node has logged this since the log was `from` bytes long.
    pub async fn says(&self, node: usize, from: u64, words: &str) -> String {
        let path = self.folder.path().join(format!("{}.log", NODES[node]));
        let from = usize::try_from(from).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let new = text.get(from..).unwrap_or_default();
            if let Some(line) = new.lines().find(|line| line.contains(words)) {
                return line.to_owned();
            }
            assert!(
                Instant::now() < deadline,
                "{words:?} is not in the log:\n{}",
                self.log(node)
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// How long the log of one node's engine is.
    #[must_use]
    pub fn log_length(&self, node: usize) -> u64 {
        let path = self.folder.path().join(format!("{}.log", NODES[node]));
        std::fs::metadata(path).map_or(0, |file| file.len())
    }

    /// Runs statements at one node.
    pub async fn run(&self, node: usize, sql: &str) {
        self.servers[node].query_drop(sql).await.unwrap();
    }

    /// Rows of a query at one node.
    pub async fn query<T: FromRow + Send + 'static>(&self, node: usize, sql: &str) -> Vec<T> {
        self.servers[node].query(sql).await.unwrap()
    }

    /// Waits until all that was committed before is applied everywhere.
    pub async fn wait_for(&self, patience: Duration) {
        let outstanding = barrier::wait(&self.config, Some(patience)).await.unwrap();
        assert!(
            outstanding.is_empty(),
            "not drained: {outstanding:?}\nlog of a:\n{}\nlog of b:\n{}",
            self.log(0),
            self.log(1)
        );
    }

    /// Every base table of the replicated databases holds the same rows on both nodes.
    pub async fn assert_equal(&self) {
        crate::pair::assert_equal(&self.servers).await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for engine in self.engines.iter_mut().flatten() {
            // It may have ended.
            let _ = engine.kill();
            let _ = engine.wait();
        }
        if std::thread::panicking() {
            for node in [0, 1] {
                eprintln!("log of the engine of {}:\n{}", NODES[node], self.log(node));
            }
        }
    }
}

/// What starts the engine of one node, with the files in `folder`.
#[must_use]
pub fn engine_command(program: &Path, folder: &Path, node: usize) -> Command {
    engine_command_under(program, folder, node, &[])
}

fn engine_command_under(
    program: &Path,
    folder: &Path,
    node: usize,
    surroundings: &[&str],
) -> Command {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(folder.join(format!("{}.log", NODES[node])))
        .unwrap();
    // An engine must not outlive a test that was killed.
    let setpriv = Path::new("/usr/bin/setpriv");
    let mut words: Vec<&std::ffi::OsStr> = Vec::new();
    if setpriv.exists() {
        words.push(setpriv.as_os_str());
        words.extend(["--pdeathsig", "KILL", "--"].map(std::ffi::OsStr::new));
    }
    words.extend(surroundings.iter().map(std::ffi::OsStr::new));
    words.push(program.as_os_str());
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
        .arg("--config")
        .arg(folder.join(format!("{}.toml", NODES[node])))
        .args(["run", "--skip-check", "--node", NODES[node]])
        .env_remove("TWINLOG_LOG")
        .env_remove(twinlog_engine::failpoint::VARIABLE)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    command
}
