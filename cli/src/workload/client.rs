//! One client of the workload: chooses transactions, runs them, remembers which rows are its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Error, Opts, Params as SqlParams, Value, params};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio_util::sync::CancellationToken;

use super::{CLIENTS_PER_NODE, Counters, Params, STOCK_PER_NODE};

/// With more rows than this a client deletes rather than inserts: the load reaches a steady size.
const MOST_ROWS: usize = 400;
/// Articles that all clients of a node take from, so that they wait for each other's locks.
const SHARED_STOCK: u64 = 24;

/// The rows of this client that exist, as of its last commit.
#[derive(Debug, Clone, Default)]
struct Rows {
    customers: Vec<Customer>,
    purchases: Vec<Purchase>,
    visits: Vec<u64>,
    /// Number of the next e-mail address.
    next_email: u64,
}

#[derive(Debug, Clone)]
struct Customer {
    id: u64,
    email: String,
}

#[derive(Debug, Clone)]
struct Purchase {
    id: u64,
    customer: u64,
    lines: u16,
}

pub(super) struct Client {
    opts: Opts,
    database: String,
    owner: u32,
    first_stock: u64,
    reconnect: bool,
    rng: StdRng,
    rows: Rows,
    /// `auto_increment_increment` of the server.
    increment: u64,
}

/// What became of a transaction that did not fail for good.
enum Outcome {
    Committed { rows: u64 },
    RolledBack,
}

impl Client {
    pub(super) fn new(opts: Opts, params: &Params, number: u32) -> Self {
        let owner = params.node_index * CLIENTS_PER_NODE + number;
        Self {
            opts,
            database: params.database.clone(),
            owner,
            first_stock: u64::from(params.node_index + 1) * STOCK_PER_NODE,
            reconnect: params.reconnect,
            rng: StdRng::seed_from_u64(params.seed ^ (u64::from(owner) << 32)),
            rows: Rows::default(),
            increment: 1,
        }
    }

    pub(super) async fn run(
        mut self,
        stop: CancellationToken,
        counters: Arc<Counters>,
    ) -> anyhow::Result<()> {
        while !stop.is_cancelled() {
            match self.session(&stop, &counters).await {
                Err(error) if self.reconnect && is_connection(&error) => {
                    tokio::select! {
                        () = tokio::time::sleep(Duration::from_millis(100)) => {}
                        () = stop.cancelled() => {}
                    }
                }
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("client {} of the workload", self.owner));
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Writes over one connection until stopped.
    async fn session(
        &mut self,
        stop: &CancellationToken,
        counters: &Counters,
    ) -> Result<(), Error> {
        let mut conn = Conn::new(self.opts.clone()).await?;
        conn.query_drop(format!("USE `{}`", self.database)).await?;
        self.load(&mut conn).await?;
        while !stop.is_cancelled() {
            // What a rolled back transaction would have left behind must not be believed.
            let mut draft = self.rows.clone();
            match self.transaction(&mut conn, &mut draft, counters).await {
                Ok(Outcome::Committed { rows }) => {
                    self.rows = draft;
                    if rows > 0 {
                        counters.transactions.fetch_add(1, Ordering::Relaxed);
                        counters.rows.fetch_add(rows, Ordering::Relaxed);
                    }
                }
                Ok(Outcome::RolledBack) => {}
                Err(error) if is_contention(&error) => {
                    counters.deadlocks.fetch_add(1, Ordering::Relaxed);
                    conn.query_drop("ROLLBACK").await?;
                }
                Err(error) => return Err(error),
            }
        }
        conn.disconnect().await
    }

    /// Finds this client's rows: after a broken connection nobody else knows whether the last
    /// transaction was committed.
    async fn load(&mut self, conn: &mut Conn) -> Result<(), Error> {
        let owner = self.owner;
        self.increment = conn
            .query_first("SELECT @@auto_increment_increment")
            .await?
            .unwrap_or(1);
        self.rows.customers = conn
            .exec_map(
                "SELECT id, email FROM customer WHERE owner = ? ORDER BY id",
                (owner,),
                |(id, email)| Customer { id, email },
            )
            .await?;
        self.rows.purchases = conn
            .exec_map(
                "SELECT p.id, p.customer_id,
                        CAST((SELECT COUNT(*) FROM purchase_line l WHERE l.purchase_id = p.id)
                             AS UNSIGNED)
                 FROM purchase p WHERE p.owner = ? ORDER BY p.id",
                (owner,),
                |(id, customer, lines)| Purchase {
                    id,
                    customer,
                    lines,
                },
            )
            .await?;
        self.rows.visits = conn
            .exec("SELECT id FROM visit WHERE owner = ? ORDER BY id", (owner,))
            .await?;
        let last = self
            .rows
            .customers
            .iter()
            .filter_map(|customer| email_number(&customer.email))
            .max();
        self.rows.next_email = self.rows.next_email.max(last.map_or(0, |last| last + 1));
        Ok(())
    }

    async fn transaction(
        &mut self,
        conn: &mut Conn,
        rows: &mut Rows,
        counters: &Counters,
    ) -> Result<Outcome, Error> {
        let choice = self.rng.random_range(0..100);
        if (25..40).contains(&choice) {
            // Without BEGIN: an application's single statement.
            let changed = self.new_customer(conn, rows).await?;
            return Ok(Outcome::Committed { rows: changed });
        }
        conn.query_drop("BEGIN").await?;
        let changed = match choice {
            0..25 => self.new_purchase(conn, rows).await?,
            40..55 => self.change_customers(conn, rows).await?,
            55..67 => self.new_visits(conn, rows).await?,
            67..75 => self.change_visits(conn, rows).await?,
            75..80 => self.delete_visits(conn, rows).await?,
            80..86 => self.change_purchase(conn, rows).await?,
            86..91 => self.delete_purchase(conn, rows).await?,
            91..94 => self.delete_customer(conn, rows).await?,
            94..96 => self.hand_over_email(conn, rows).await?,
            96..98 => self.swap_emails(conn, rows).await?,
            _ => {
                self.new_purchase(conn, rows).await?;
                conn.query_drop("ROLLBACK").await?;
                return Ok(Outcome::RolledBack);
            }
        };
        if let Err(error) = conn.query_drop("COMMIT").await {
            if !matches!(error, Error::Server(_)) {
                counters.in_doubt.fetch_add(1, Ordering::Relaxed);
            }
            return Err(error);
        }
        Ok(Outcome::Committed { rows: changed })
    }

    async fn new_customer(&mut self, conn: &mut Conn, rows: &mut Rows) -> Result<u64, Error> {
        if rows.customers.len() > MOST_ROWS {
            return self.delete_customer(conn, rows).await;
        }
        let email = format!("c{}-{}@example.com", self.owner, rows.next_email);
        rows.next_email += 1;
        self.insert_customer(conn, rows, email).await
    }

    async fn insert_customer(
        &mut self,
        conn: &mut Conn,
        rows: &mut Rows,
        email: String,
    ) -> Result<u64, Error> {
        let name = NAMES.choose(&mut self.rng).copied().unwrap_or("Nobody");
        let birthday = self.rng.random_bool(0.8).then(|| {
            format!(
                "{}-{:02}-{:02}",
                self.rng.random_range(1930..2010),
                self.rng.random_range(1..=12),
                self.rng.random_range(1..=28)
            )
        });
        let interests = self.rng.random_range(0..16_u32);
        conn.exec_drop(
            "INSERT INTO customer (owner, email, name, balance, birthday, interests, created)
             VALUES (:owner, :email, :name, :balance, :birthday, :interests, NOW(6))",
            params! {
                "owner" => self.owner,
                "email" => &email,
                "name" => name,
                "balance" => money(self.rng.random_range(0..1_000_000)),
                "birthday" => birthday,
                "interests" => interests,
            },
        )
        .await?;
        if let Some(id) = conn.last_insert_id() {
            rows.customers.push(Customer { id, email });
        }
        Ok(conn.affected_rows())
    }

    async fn change_customers(&mut self, conn: &mut Conn, rows: &mut Rows) -> Result<u64, Error> {
        let mut changed = 0;
        for _ in 0..self.rng.random_range(1..=3) {
            let Some(customer) = rows.customers.choose(&mut self.rng) else {
                return self.new_customer(conn, rows).await;
            };
            let note = self
                .rng
                .random_bool(0.5)
                .then(|| "größer – 長い 🎈 ".repeat(self.rng.random_range(1..20)));
            conn.exec_drop(
                "UPDATE customer SET balance = balance + ?, status = ?, note = ? WHERE id = ?",
                (
                    money(self.rng.random_range(-50_000..50_000)),
                    self.rng.random_range(1..=4_u8),
                    note,
                    customer.id,
                ),
            )
            .await?;
            changed += conn.affected_rows();
        }
        Ok(changed)
    }

    async fn delete_customer(&mut self, conn: &mut Conn, rows: &mut Rows) -> Result<u64, Error> {
        let free = rows.customers.iter().position(|customer| {
            rows.purchases
                .iter()
                .all(|purchase| purchase.customer != customer.id)
        });
        let Some(free) = free else {
            return self.delete_purchase(conn, rows).await;
        };
        let customer = rows.customers.swap_remove(free);
        conn.exec_drop("DELETE FROM customer WHERE id = ?", (customer.id,))
            .await?;
        Ok(conn.affected_rows())
    }

    /// The address of a deleted customer goes to a new one in the same transaction: whoever changes
    /// the order of the two meets a duplicate key.
    async fn hand_over_email(&mut self, conn: &mut Conn, rows: &mut Rows) -> Result<u64, Error> {
        let free = rows.customers.iter().position(|customer| {
            rows.purchases
                .iter()
                .all(|purchase| purchase.customer != customer.id)
        });
        let Some(free) = free else {
            return self.new_customer(conn, rows).await;
        };
        let old = rows.customers.swap_remove(free);
        conn.exec_drop("DELETE FROM customer WHERE id = ?", (old.id,))
            .await?;
        let deleted = conn.affected_rows();
        Ok(deleted + self.insert_customer(conn, rows, old.email).await?)
    }

    /// Two customers swap a unique value, by way of a third.
    async fn swap_emails(&mut self, conn: &mut Conn, rows: &mut Rows) -> Result<u64, Error> {
        let [.., a, b] = &mut rows.customers[..] else {
            return self.new_customer(conn, rows).await;
        };
        let update = "UPDATE customer SET email = ? WHERE id = ?";
        let aside = format!("swap-{}", a.email);
        let mut changed = 0;
        for (email, id) in [(&aside, a.id), (&a.email, b.id), (&b.email, a.id)] {
            conn.exec_drop(update, (email, id)).await?;
            changed += conn.affected_rows();
        }
        std::mem::swap(&mut a.email, &mut b.email);
        Ok(changed)
    }

    async fn new_purchase(&mut self, conn: &mut Conn, rows: &mut Rows) -> Result<u64, Error> {
        if rows.purchases.len() > MOST_ROWS {
            return self.delete_purchase(conn, rows).await;
        }
        let Some(customer) = rows.customers.choose(&mut self.rng).map(|found| found.id) else {
            return self.new_customer(conn, rows).await;
        };
        conn.exec_drop(
            "INSERT INTO purchase (owner, customer_id, total) VALUES (?, ?, ?)",
            (
                self.owner,
                customer,
                money(self.rng.random_range(100..500_000)),
            ),
        )
        .await?;
        let mut changed = conn.affected_rows();
        let id = conn.last_insert_id().unwrap_or_default();
        let lines = self.rng.random_range(1..=4_u16);
        let skus: Vec<u64> = (0..lines).map(|_| self.sku()).collect();
        let mut values: Vec<Value> = Vec::new();
        for (line, sku) in (1_u16..).zip(&skus) {
            values.extend([
                Value::from(id),
                Value::from(line),
                Value::from(*sku),
                Value::from(self.rng.random_range(1..10)),
                Value::from(money(self.rng.random_range(1..100_000))),
            ]);
        }
        let tuples = vec!["(?, ?, ?, ?, ?)"; skus.len()].join(", ");
        conn.exec_drop(
            format!(
                "INSERT INTO purchase_line (purchase_id, line, sku, quantity, price) VALUES {tuples}"
            ),
            SqlParams::Positional(values),
        )
        .await?;
        changed += conn.affected_rows();
        for sku in skus {
            let weight = self
                .rng
                .random_bool(0.9)
                .then(|| self.rng.random_range(0.0..100.0_f32));
            let tag: [u8; 4] = self.rng.random();
            conn.exec_drop(
                "INSERT INTO stock (sku, on_hand, moves, weight, tag) VALUES (?, 100, 1, ?, ?)
                 ON DUPLICATE KEY UPDATE on_hand = on_hand - 1, moves = moves + 1,
                                         weight = VALUES(weight)",
                (sku, weight, tag.as_slice()),
            )
            .await?;
            // The protocol counts an inserted row as 1 and an updated one as 2; each is one change.
            changed += conn.affected_rows().min(1);
        }
        rows.purchases.push(Purchase {
            id,
            customer,
            lines,
        });
        Ok(changed)
    }

    /// An article: often one that other clients of this node take from as well.
    fn sku(&mut self) -> u64 {
        let shared = self.rng.random_bool(0.3);
        let within = if shared {
            self.rng.random_range(0..SHARED_STOCK)
        } else {
            let own = u64::from(self.owner % CLIENTS_PER_NODE + 1);
            own * 500 + self.rng.random_range(0..500)
        };
        self.first_stock + within
    }

    async fn change_purchase(&mut self, conn: &mut Conn, rows: &mut Rows) -> Result<u64, Error> {
        let Some(purchase) = rows.purchases.choose(&mut self.rng) else {
            return self.new_purchase(conn, rows).await;
        };
        conn.exec_drop(
            "UPDATE purchase SET state = ?, total = total + 0.01 WHERE id = ?",
            (self.rng.random_range(1..=4_u8), purchase.id),
        )
        .await?;
        let mut changed = conn.affected_rows();
        conn.exec_drop(
            "UPDATE purchase_line SET quantity = quantity + 1 WHERE purchase_id = ?",
            (purchase.id,),
        )
        .await?;
        changed += conn.affected_rows();
        Ok(changed)
    }

    async fn delete_purchase(&mut self, conn: &mut Conn, rows: &mut Rows) -> Result<u64, Error> {
        if rows.purchases.is_empty() {
            return Ok(0);
        }
        let purchase = rows
            .purchases
            .swap_remove(self.rng.random_range(0..rows.purchases.len()));
        let mut changed = 0;
        if purchase.lines > 0 {
            conn.exec_drop(
                "DELETE FROM purchase_line WHERE purchase_id = ?",
                (purchase.id,),
            )
            .await?;
            changed += conn.affected_rows();
        }
        conn.exec_drop("DELETE FROM purchase WHERE id = ?", (purchase.id,))
            .await?;
        Ok(changed + conn.affected_rows())
    }

    async fn new_visits(&mut self, conn: &mut Conn, rows: &mut Rows) -> Result<u64, Error> {
        if rows.visits.len() > MOST_ROWS {
            return self.delete_visits(conn, rows).await;
        }
        let count = self.rng.random_range(1..=8_usize);
        let mut values: Vec<Value> = Vec::new();
        for _ in 0..count {
            let mut body = vec![0; self.rng.random_range(0..200)];
            self.rng.fill(&mut body[..]);
            values.extend([
                Value::from(self.owner),
                Value::from(KINDS.choose(&mut self.rng).copied().unwrap_or("view")),
                Value::from(format!(
                    r#"{{"page": {}, "tags": ["a", "ü", null], "ratio": {}}}"#,
                    self.rng.random_range(0..1000),
                    self.rng.random_range(0..8) as f64 / 8.0
                )),
                Value::from(self.rng.random_range(-1e9..1e9_f64)),
                Value::from(body),
                Value::from(format!(
                    "{:02}:{:02}:{:02}.{:03}",
                    self.rng.random_range(0..90),
                    self.rng.random_range(0..60),
                    self.rng.random_range(0..60),
                    self.rng.random_range(0..1000)
                )),
                Value::from(self.rng.random_range(0..512_u16)),
            ]);
        }
        let tuples = vec!["(?, ?, ?, ?, ?, ?, ?, NOW())"; count].join(", ");
        conn.exec_drop(
            format!(
                "INSERT INTO visit (owner, kind, detail, score, body, lasted, flags, at) VALUES {tuples}"
            ),
            SqlParams::Positional(values),
        )
        .await?;
        // The server gives the number of the first row; a statement that says how many rows it
        // inserts gets them in one run.
        if let Some(first) = conn.last_insert_id() {
            rows.visits
                .extend((0..count as u64).map(|n| first + n * self.increment));
        }
        Ok(conn.affected_rows())
    }

    async fn change_visits(&mut self, conn: &mut Conn, rows: &mut Rows) -> Result<u64, Error> {
        let mut changed = 0;
        for _ in 0..self.rng.random_range(1..=3) {
            let Some(id) = rows.visits.choose(&mut self.rng) else {
                return self.new_visits(conn, rows).await;
            };
            conn.exec_drop(
                "UPDATE visit SET score = score / 3, detail = JSON_SET(detail, '$.page', ?),
                                  flags = flags ^ 1 WHERE id = ?",
                (self.rng.random_range(0..1000), id),
            )
            .await?;
            changed += conn.affected_rows();
        }
        Ok(changed)
    }

    async fn delete_visits(&mut self, conn: &mut Conn, rows: &mut Rows) -> Result<u64, Error> {
        let count = self.rng.random_range(1..=10).min(rows.visits.len());
        if count == 0 {
            return Ok(0);
        }
        let ids: Vec<Value> = (0..count)
            .map(|_| {
                let at = self.rng.random_range(0..rows.visits.len());
                Value::from(rows.visits.swap_remove(at))
            })
            .collect();
        let marks = vec!["?"; count].join(", ");
        conn.exec_drop(
            format!("DELETE FROM visit WHERE id IN ({marks})"),
            SqlParams::Positional(ids),
        )
        .await?;
        Ok(conn.affected_rows())
    }
}

const NAMES: &[&str] = &[
    "Ada Lovelace",
    "Jürgen Groß",
    "Łucja Żak",
    "山田 花子",
    "O'Brien \\ \"Pat\"",
    "Zoë 🚀",
];
const KINDS: &[&str] = &["view", "search", "add to basket", "checkout"];

/// Cents as the text of a DECIMAL.
fn money(cents: i64) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    format!("{sign}{}.{:02}", cents.abs() / 100, cents.abs() % 100)
}

/// The last number of `c<owner>-<number>@example.com`.
fn email_number(email: &str) -> Option<u64> {
    email.split_once('@')?.0.rsplit_once('-')?.1.parse().ok()
}

/// Deadlock, lock timeout, and MariaDB's "record has changed since last read".
fn is_contention(error: &Error) -> bool {
    matches!(error, Error::Server(server) if matches!(server.code, 1213 | 1205 | 1020))
}

/// Whether the connection, not the statement, failed: also when the server shuts down (1053,
/// 1927) or has this client killed (1317).
fn is_connection(error: &Error) -> bool {
    match error {
        Error::Server(server) => matches!(server.code, 1053 | 1317 | 1927 | 3169),
        Error::Driver(_) | Error::Io(_) => true,
        Error::Other(_) | Error::Url(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_keeps_its_sign_and_cents() {
        assert_eq!(money(-5), "-0.05");
        assert_eq!(money(123_456), "1234.56");
        assert_eq!(money(-100), "-1.00");
    }

    #[test]
    fn numbers_of_addresses_go_on_after_a_reload() {
        assert_eq!(email_number("c1003-27@example.com"), Some(27));
        assert_eq!(email_number("somebody@example.com"), None);
    }
}
