//! A load that collides: both nodes write the same few rows at the same time, so that there are
//! conflicts to settle. Beside a load that never does.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Error, Opts};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio_util::sync::CancellationToken;

use super::Counters;

/// The `[[conflict]]` rule that its counters need: no increment is to be lost.
pub const RULE: &str = "[[conflict]]\ntables = \"shop.counter\"\ncolumns = { n = \"delta\" }";

/// Rows of `counter`.
const COUNTERS: u32 = 3;
/// Rows of `seat`, and as many guests.
const SEATS: u32 = 20;
/// Between two transactions: rivals are to collide, not to take the machine.
const PAUSE: Duration = Duration::from_millis(2);

const TABLES: [&str; 2] = [
    "CREATE TABLE counter (id INT PRIMARY KEY, n BIGINT NOT NULL, who VARCHAR(20) NOT NULL) ENGINE=InnoDB",
    "CREATE TABLE seat (number INT PRIMARY KEY, guest INT NOT NULL, who VARCHAR(20) NOT NULL, UNIQUE KEY (guest)) \
     ENGINE=InnoDB",
];

/// Creates its tables in a database that is there.
///
/// # Errors
/// The server's.
pub async fn create_tables(conn: &mut Conn, database: &str) -> anyhow::Result<()> {
    conn.query_drop(format!("USE `{database}`")).await?;
    for table in TABLES {
        conn.query_drop(table)
            .await
            .context("cannot create a table")?;
    }
    let rows: Vec<String> = (1..=COUNTERS).map(|id| format!("({id}, 0, '-')")).collect();
    let rows = rows.join(", ");
    conn.query_drop(format!("INSERT INTO counter VALUES {rows}"))
        .await?;
    Ok(())
}

/// One client at one node.
#[derive(Debug)]
pub struct Rival {
    opts: Opts,
    database: String,
    name: String,
    rng: StdRng,
}

impl Rival {
    /// `name` is written into the rows.
    #[must_use]
    pub fn new(opts: Opts, database: &str, name: &str, seed: u64) -> Self {
        Self {
            opts,
            database: database.to_owned(),
            name: name.to_owned(),
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Writes until stopped; gives how often it incremented a counter.
    ///
    /// # Errors
    /// A statement failed for another reason than a duplicate key, a deadlock or a lock timeout.
    pub async fn run(
        mut self,
        stop: CancellationToken,
        counters: Arc<Counters>,
    ) -> anyhow::Result<u64> {
        let mut conn = Conn::new(self.opts.clone()).await?;
        conn.query_drop(format!("USE `{}`", self.database)).await?;
        let mut increments = 0;
        while !stop.is_cancelled() {
            let counts = self.rng.random_range(0..2) == 0;
            let statement = if counts {
                self.increment()
            } else {
                self.take_a_seat()
            };
            match conn.query_drop(statement).await {
                Ok(()) => {
                    let rows = conn.affected_rows();
                    if rows > 0 {
                        increments += u64::from(counts);
                        counters.transactions.fetch_add(1, Ordering::Relaxed);
                        counters.rows.fetch_add(rows, Ordering::Relaxed);
                    }
                }
                // The seat is taken, or the guest sits.
                Err(Error::Server(error)) if error.code == 1062 => {}
                Err(Error::Server(error)) if matches!(error.code, 1205 | 1213 | 1020) => {
                    counters.deadlocks.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => return Err(error).context("a rival of the workload"),
            }
            tokio::time::sleep(PAUSE).await;
        }
        conn.disconnect().await?;
        Ok(increments)
    }

    fn increment(&mut self) -> String {
        let id = self.rng.random_range(1..=COUNTERS);
        format!(
            "UPDATE counter SET n = n + 1, who = '{}' WHERE id = {id}",
            self.name
        )
    }

    fn take_a_seat(&mut self) -> String {
        let (seat, guest) = (
            self.rng.random_range(1..=SEATS),
            self.rng.random_range(1..=SEATS),
        );
        let name = &self.name;
        match self.rng.random_range(0..5) {
            0 | 1 => format!("INSERT INTO seat VALUES ({seat}, {guest}, '{name}')"),
            2 => format!("UPDATE seat SET guest = {guest}, who = '{name}' WHERE number = {seat}"),
            3 => format!("UPDATE seat SET number = {guest}, who = '{name}' WHERE number = {seat}"),
            _ => format!("DELETE FROM seat WHERE number = {seat}"),
        }
    }
}

/// What the counters come to at a node.
///
/// # Errors
/// The server's.
pub async fn counted(conn: &mut Conn, database: &str) -> anyhow::Result<u64> {
    let sum: Option<u64> = conn
        .query_first(format!(
            "SELECT CAST(SUM(n) AS UNSIGNED) FROM `{database}`.counter"
        ))
        .await?;
    Ok(sum.unwrap_or(0))
}
