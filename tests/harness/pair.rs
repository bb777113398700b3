//! Two masters of one kind, set up for each other, with the engines that run alongside them.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_async::Opts;
use mysql_async::prelude::{FromRow, Queryable};
use tempfile::TempDir;
use twinlog_cli::sandbox::{Server, ServerKind, ServerOptions};
use twinlog_engine::Error;
use twinlog_engine::config::Config;
use twinlog_engine::replicator::{Engine, EngineHandle};
use twinlog_engine::status::{LinkStatus, State};
use twinlog_engine::{barrier, init};

/// How a pair is started.
#[derive(Debug, Clone)]
pub struct PairOptions {
    /// Both servers' kind.
    pub kind: ServerKind,
    /// Arguments for both servers.
    pub extra_args: Vec<String>,
    /// Lines for `[engine]`.
    pub engine: String,
    /// Lines for `[replication]`.
    pub replication: String,
}

impl PairOptions {
    /// Nothing special.
    #[must_use]
    pub fn new(kind: ServerKind) -> Self {
        Self {
            kind,
            extra_args: Vec::new(),
            engine: String::new(),
            replication: String::new(),
        }
    }
}

/// Two masters and their engines.
#[derive(Debug)]
pub struct Pair {
    /// Nodes a and b.
    pub servers: [Server; 2],
    /// The cluster's config, as both engines have it.
    pub config: Arc<Config>,
    /// Running engines of a and b.
    pub engines: [Option<EngineHandle>; 2],
    folder: TempDir,
}

/// Names of the nodes.
pub const NODES: [&str; 2] = ["a", "b"];
/// How long anything may take before a test says that it hangs.
pub const PATIENCE: Duration = Duration::from_secs(120);

impl Pair {
    /// Two servers, without engines.
    pub async fn servers(options: &PairOptions) -> Self {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-servers");
        std::fs::create_dir_all(&base).unwrap();
        let server = |name: &'static str, offset: u32| {
            let mut server = ServerOptions::node(name, offset, 2);
            server.extra_args = options.extra_args.clone();
            Server::start(options.kind, &base, server)
        };
        let (a, b) = tokio::join!(server("a", 1), server("b", 2));
        let servers = [a.unwrap(), b.unwrap()];
        let folder = tempfile::tempdir_in(&base).unwrap();
        let text = format!(
            "[engine]\ndata_dir = {:?}\nheartbeat = \"500ms\"\nbackoff_min = \"50ms\"\nbackoff_max = \"1s\"\n\
             {}\n[replication]\n{}\n{}\n\
             [[node]]\nname = \"a\"\nurl = {:?}\n[[node]]\nname = \"b\"\nurl = {:?}\n",
            folder.path().join("data"),
            options.engine,
            row_events(&options.replication),
            options.replication,
            servers[0].url(),
            servers[1].url(),
        );
        let config = Config::parse(&text, &|_| None).unwrap();
        Self {
            servers,
            config: Arc::new(config),
            engines: [None, None],
            folder,
        }
    }

    /// Two servers with this schema on both, set up, with both engines running.
    pub async fn start(options: &PairOptions, schema: &str) -> Self {
        let mut pair = Self::servers(options).await;
        pair.both(schema).await;
        init::init(&pair.config, false).await.unwrap();
        pair.start_engine(0).await;
        pair.start_engine(1).await;
        pair
    }

    /// Has engines log in with this account instead of root.
    pub fn log_in_as(&mut self, user: &str, password: &str) {
        let mut config = (*self.config).clone();
        for node in &mut config.nodes {
            node.opts = mysql_async::OptsBuilder::from_opts(node.opts.clone())
                .user(Some(user))
                .pass(Some(password))
                .into();
        }
        self.config = Arc::new(config);
    }

    /// Starts the engine of one node.
    pub async fn start_engine(&mut self, node: usize) {
        let engine = Engine::start(Arc::clone(&self.config), NODES[node]).await;
        self.engines[node] = Some(engine.unwrap());
    }

    /// Ends the engine of one node wherever it is, and starts it again once it has let go of its
    /// store.
    pub async fn kill_engine(&mut self, node: usize) {
        self.engines[node] = None;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Engine::start(Arc::clone(&self.config), NODES[node]).await {
                Ok(engine) => {
                    self.engines[node] = Some(engine);
                    return;
                }
                Err(Error::Fenced(_)) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Stops the engine of one node cleanly.
    pub async fn stop_engine(&mut self, node: usize) {
        if let Some(engine) = self.engines[node].take() {
            engine.shutdown().await;
        }
    }

    /// Runs statements at both nodes (before the engines are set up).
    pub async fn both(&self, sql: &str) {
        for server in &self.servers {
            server.query_drop(sql).await.unwrap();
        }
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
    pub async fn wait(&self) {
        self.wait_for(PATIENCE).await;
    }

    /// Likewise, for at most this long.
    pub async fn wait_for(&self, patience: Duration) {
        let outstanding = barrier::wait(&self.config, Some(patience)).await.unwrap();
        assert!(
            outstanding.is_empty(),
            "not drained: {outstanding:?}; {:#?}",
            self.links()
        );
    }

    /// Both links, as far as their engines run.
    #[must_use]
    pub fn links(&self) -> Vec<LinkStatus> {
        self.engines
            .iter()
            .flatten()
            .flat_map(|engine| engine.status().links)
            .collect()
    }

    /// The link that ends at a node.
    #[must_use]
    pub fn link_to(&self, node: usize) -> LinkStatus {
        let engine = self.engines[node].as_ref().expect("the engine runs");
        engine.status().links.remove(0)
    }

    /// Waits until the link that ends at `node` is halted; gives what it says.
    pub async fn halted(&self, node: usize) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let link = self.link_to(node);
            if link.state == State::Halted {
                return link.last_error.unwrap();
            }
            assert!(
                Instant::now() < deadline,
                "not halted: {link:#?}\n{:#?}",
                self.links()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Every base table of the replicated databases holds the same rows on both nodes.
    pub async fn assert_equal(&self) {
        assert_equal(&self.servers).await;
    }

    /// Nothing went round: what engines wrote was recognised, and nothing came back besides.
    pub fn assert_no_loops(&self) {
        for link in self.links() {
            assert_eq!(link.returned, 0, "{link:#?}");
        }
    }

    /// Folder of this pair's files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// `TWINLOG_ROW_EVENTS=always` sends the rows of every test that does not say otherwise as row events.
fn row_events(said: &str) -> String {
    let wanted = std::env::var("TWINLOG_ROW_EVENTS").ok();
    let wanted = wanted.filter(|_| !said.contains("row_events"));
    wanted.map_or(String::new(), |wanted| format!("row_events = {wanted:?}"))
}

/// Every base table of the replicated databases holds the same rows on both servers.
pub(crate) async fn assert_equal(servers: &[Server; 2]) {
    let tables = "SELECT CONCAT('`', TABLE_SCHEMA, '`.`', TABLE_NAME, '`') \
         FROM information_schema.TABLES WHERE TABLE_TYPE = 'BASE TABLE' AND TABLE_SCHEMA NOT IN \
         ('mysql', 'information_schema', 'performance_schema', 'sys', 'twinlog') ORDER BY 1";
    let of_a: Vec<String> = servers[0].query(tables).await.unwrap();
    let of_b: Vec<String> = servers[1].query(tables).await.unwrap();
    assert_eq!(of_a, of_b, "the nodes have different tables");
    for table in of_a {
        let checksum = format!("CHECKSUM TABLE {table} EXTENDED");
        let a: Vec<(String, Option<u64>)> = servers[0].query(&checksum).await.unwrap();
        let b: Vec<(String, Option<u64>)> = servers[1].query(&checksum).await.unwrap();
        if a != b {
            let rows = format!("SELECT * FROM {table} ORDER BY 1");
            let a = dump(servers[0].opts(), &rows).await;
            let b = dump(servers[1].opts(), &rows).await;
            let only = |these: &[String], others: &[String]| -> Vec<String> {
                let others: std::collections::HashSet<&String> = others.iter().collect();
                let only = these.iter().filter(|row| !others.contains(row));
                only.take(20).cloned().collect()
            };
            // MariaDB's checksum changes from one call to the next where a table has a stored generated column.
            if only(&a, &b).is_empty() && only(&b, &a).is_empty() && a.len() == b.len() {
                continue;
            }
            panic!(
                "{table} differs: {} rows at a, {} at b; only at a: {:#?}\nonly at b: {:#?}",
                a.len(),
                b.len(),
                only(&a, &b),
                only(&b, &a)
            );
        }
    }
}

async fn dump(opts: Opts, sql: &str) -> Vec<String> {
    let mut conn = mysql_async::Conn::new(opts).await.unwrap();
    let rows: Vec<mysql_async::Row> = conn.query(sql).await.unwrap();
    rows.into_iter()
        .map(|row| format!("{:?}", row.unwrap()))
        .collect()
}
