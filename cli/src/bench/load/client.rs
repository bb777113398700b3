//! One client of the load: what its transactions do.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Error};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio_util::sync::CancellationToken;

use super::tables::{DOCUMENT_TABLE, digits, name};
use super::{CONTESTED_ROWS, HOT_ROWS, LoadOptions, Shape};

/// Most rows that one statement of [`Shape::MixedSizes`] changes.
pub(super) const LARGEST_RANGE: u32 = 1000;
/// Attempts at one transaction before the load gives up: a load that only rolls back measures nothing.
const ATTEMPTS: u64 = 1000;

/// One client.
#[derive(Debug)]
pub struct Client {
    options: LoadOptions,
    number: u32,
    rng: StdRng,
    /// Makes values that nobody else makes.
    fresh: u64,
}

/// How many clients there have been in this process, on whatever node.
static CLIENTS: AtomicU64 = AtomicU64::new(0);

impl Client {
    /// Client `number` of the load at its node.
    #[must_use]
    pub fn new(options: &LoadOptions, number: u32) -> Self {
        let seed = options.seed ^ (u64::from(options.node) << 56) ^ (u64::from(number + 1) << 32);
        Self {
            options: options.clone(),
            number,
            rng: StdRng::seed_from_u64(seed),
            fresh: (CLIENTS.fetch_add(1, Ordering::Relaxed) + 1) * 1_000_000_000,
        }
    }

    /// The database of its tables.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.options.database
    }

    /// Commits one transaction; gives its row changes and how often the server rolled one back
    /// before. Gives 0 rows when stopped meanwhile.
    ///
    /// # Errors
    /// A statement failed for another reason than a deadlock or lock timeout.
    pub async fn commit(
        &mut self,
        conn: &mut Conn,
        stop: &CancellationToken,
    ) -> anyhow::Result<(u64, u64)> {
        for again in 0..ATTEMPTS {
            if again > 0 && stop.is_cancelled() {
                return Ok((0, again));
            }
            match self.transaction(conn).await {
                Ok(rows) => return Ok((rows, again)),
                Err(error) if is_contention(&error) => {
                    conn.query_drop("ROLLBACK").await?;
                    // Those that collided are not to collide again at once.
                    tokio::time::sleep(Duration::from_millis(again.min(10))).await;
                }
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("client {} of the {} load", self.number, self.options.shape)
                    });
                }
            }
        }
        anyhow::bail!("{ATTEMPTS} transactions of the load were rolled back one after the other")
    }

    async fn transaction(&mut self, conn: &mut Conn) -> Result<u64, Error> {
        match self.options.shape {
            Shape::WriteOnly => {
                conn.query_drop("BEGIN").await?;
                let mut rows = self.update_index(conn).await?;
                rows += self.update_non_index(conn).await?;
                rows += self.delete_insert(conn).await?;
                conn.query_drop("COMMIT").await?;
                Ok(rows)
            }
            Shape::Insert => self.insert(conn).await,
            Shape::UpdateIndex => self.update_index(conn).await,
            Shape::UpdateNonIndex => self.update_non_index(conn).await,
            Shape::UniqueKeys => self.unique_keys(conn).await,
            Shape::HotRows => self.hot_rows(conn).await,
            Shape::MixedSizes => self.mixed_sizes(conn).await,
        }
    }

    fn table(&mut self) -> String {
        let number = self.rng.random_range(1..=self.options.tables);
        name(self.options.shape, number)
    }

    fn id(&mut self) -> u32 {
        let (first, last) = self.options.ids();
        self.options.distribution.choose(&mut self.rng, first, last)
    }

    async fn update_index(&mut self, conn: &mut Conn) -> Result<u64, Error> {
        let sql = format!("UPDATE {} SET k = k + 1 WHERE id = ?", self.table());
        conn.exec_drop(sql, (self.id(),)).await?;
        Ok(conn.affected_rows())
    }

    async fn update_non_index(&mut self, conn: &mut Conn) -> Result<u64, Error> {
        let sql = format!("UPDATE {} SET c = ? WHERE id = ?", self.table());
        let c = digits(&mut self.rng, 10);
        conn.exec_drop(sql, (c, self.id())).await?;
        Ok(conn.affected_rows())
    }

    async fn delete_insert(&mut self, conn: &mut Conn) -> Result<u64, Error> {
        let (table, id) = (self.table(), self.id());
        conn.exec_drop(format!("DELETE FROM {table} WHERE id = ?"), (id,))
            .await?;
        let deleted = conn.affected_rows();
        let row = (
            id,
            self.id(),
            digits(&mut self.rng, 10),
            digits(&mut self.rng, 5),
        );
        let sql = format!("INSERT INTO {table} (id, k, c, pad) VALUES (?, ?, ?, ?)");
        conn.exec_drop(sql, row).await?;
        Ok(deleted + conn.affected_rows())
    }

    async fn insert(&mut self, conn: &mut Conn) -> Result<u64, Error> {
        let sql = format!("INSERT INTO {} (k, c, pad) VALUES (?, ?, ?)", self.table());
        let row = (
            self.id(),
            digits(&mut self.rng, 10),
            digits(&mut self.rng, 5),
        );
        conn.exec_drop(sql, row).await?;
        Ok(conn.affected_rows())
    }

    /// A value that no other client of any node makes, and that no row has from the start.
    fn fresh(&mut self) -> u64 {
        self.fresh += 1;
        self.fresh
    }

    async fn unique_keys(&mut self, conn: &mut Conn) -> Result<u64, Error> {
        let table = self.table();
        conn.query_drop("BEGIN").await?;
        let mut rows = 0;
        if self.rng.random_range(0..20) == 0 {
            // Two rows swap a unique value, by way of a third.
            let (low, high) = (self.id(), self.id());
            let (low, high) = (low.min(high), low.max(high));
            let sql = format!("SELECT code FROM {table} WHERE id = ? FOR UPDATE");
            let first: Option<i64> = conn.exec_first(sql.as_str(), (low,)).await?;
            let second: Option<i64> = conn.exec_first(sql.as_str(), (high,)).await?;
            if let (Some(first), Some(second)) = (first, second)
                && low != high
            {
                let aside = -i64::try_from(self.fresh()).unwrap_or(0);
                let sql = format!("UPDATE {table} SET code = ? WHERE id = ?");
                for (code, id) in [(aside, low), (first, high), (second, low)] {
                    conn.exec_drop(sql.as_str(), (code, id)).await?;
                    rows += conn.affected_rows();
                }
            }
        }
        let sql = format!("UPDATE {table} SET n = n + 1 WHERE id = ?");
        conn.exec_drop(sql, (self.id(),)).await?;
        rows += conn.affected_rows();
        let email = format!("u{}@example.com", self.fresh());
        let sql = format!("UPDATE {table} SET email = ? WHERE id = ?");
        conn.exec_drop(sql, (email, self.id())).await?;
        rows += conn.affected_rows();
        // A row is deleted, and another one with its code inserted in its place.
        let id = self.id();
        let sql = format!("SELECT code FROM {table} WHERE id = ? FOR UPDATE");
        let code: Option<i64> = conn.exec_first(sql, (id,)).await?;
        if let Some(code) = code {
            conn.exec_drop(format!("DELETE FROM {table} WHERE id = ?"), (id,))
                .await?;
            rows += conn.affected_rows();
            let email = format!("u{}@example.com", self.fresh());
            let sql = format!("INSERT INTO {table} (id, email, code, n, c) VALUES (?, ?, ?, 0, ?)");
            let c = digits(&mut self.rng, 10);
            conn.exec_drop(sql, (id, email, code, c)).await?;
            rows += conn.affected_rows();
        }
        conn.query_drop("COMMIT").await?;
        Ok(rows)
    }

    async fn hot_rows(&mut self, conn: &mut Conn) -> Result<u64, Error> {
        let (first, _) = self.options.ids();
        let contested = self.rng.random_range(0..10) == 0;
        let mut ids = [0; 2];
        for id in &mut ids {
            *id = first + self.rng.random_range(0..HOT_ROWS);
        }
        if contested {
            ids[1] = contested_id(&self.options, self.rng.random_range(0..CONTESTED_ROWS));
        }
        // In one order, or all of them wait for each other.
        ids.sort_unstable();
        let sql = format!("UPDATE {} SET k = k + 1, c = ? WHERE id = ?", self.table());
        let mut rows = 0;
        conn.query_drop("BEGIN").await?;
        for id in ids {
            let c = digits(&mut self.rng, 10);
            conn.exec_drop(sql.as_str(), (c, id)).await?;
            rows += conn.affected_rows();
        }
        conn.query_drop("COMMIT").await?;
        Ok(rows)
    }

    async fn mixed_sizes(&mut self, conn: &mut Conn) -> Result<u64, Error> {
        let draw = self.rng.random_range(0..100);
        if draw < 10 {
            let groups = self.rng.random_range(85..2730);
            let body = digits(&mut self.rng, groups);
            let sql = format!("INSERT INTO {DOCUMENT_TABLE} (body) VALUES (?)");
            conn.exec_drop(sql, (body,)).await?;
            return Ok(conn.affected_rows());
        }
        let size = match draw {
            10..80 => self.rng.random_range(1..=3),
            80..97 => self.rng.random_range(10..=30),
            97..99 => 100,
            _ => LARGEST_RANGE,
        };
        let (_, last) = self.options.ids();
        let start = self.id().min(last + 1 - size);
        let sql = format!(
            "UPDATE {} SET k = k + 1, c = ? WHERE id BETWEEN ? AND ?",
            self.table()
        );
        let c = digits(&mut self.rng, 10);
        conn.exec_drop(sql, (c, start, start + size - 1)).await?;
        Ok(conn.affected_rows())
    }
}

/// Contested row number `number` from 0.
pub(super) fn contested_id(options: &LoadOptions, number: u32) -> u32 {
    options.rows - number
}

/// The server rolled the transaction back, and the next one may pass. A duplicate key is among
/// them: another client has taken what this one was about to take.
fn is_contention(error: &Error) -> bool {
    matches!(error, Error::Server(error) if matches!(error.code, 1205 | 1213 | 1020 | 1062))
}

/// Writes each contested row of every other number once, from `first` on, in one transaction each:
/// what another node has written of them.
///
/// # Errors
/// The server's.
pub async fn write_contested(
    conn: &mut Conn,
    options: &LoadOptions,
    first: u32,
) -> anyhow::Result<u64> {
    let mut rng = StdRng::seed_from_u64(options.seed ^ u64::from(first + 1));
    let mut written = 0;
    for table in 1..=options.tables {
        let sql = format!(
            "UPDATE {} SET k = k + 1, c = ? WHERE id = ?",
            name(options.shape, table)
        );
        for number in (first..CONTESTED_ROWS).step_by(2) {
            let row = (digits(&mut rng, 10), contested_id(options, number));
            conn.exec_drop(sql.as_str(), row).await?;
            written += conn.affected_rows();
        }
    }
    Ok(written)
}
