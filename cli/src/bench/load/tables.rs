//! Tables of the load and their first rows, the same at every node.

use anyhow::Context as _;
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::{LoadOptions, Shape};

/// Rows of one statement.
const BATCH: u32 = 1000;

/// sysbench's table.
const SBTEST: &str = "id INT NOT NULL AUTO_INCREMENT, k INT NOT NULL DEFAULT 0, c CHAR(120) NOT NULL DEFAULT '', \
     pad CHAR(60) NOT NULL DEFAULT '', PRIMARY KEY (id), KEY k (k)";
const UNIQUES: &str = "id INT NOT NULL AUTO_INCREMENT, email VARCHAR(64) NOT NULL, code BIGINT NOT NULL, \
     n INT NOT NULL, c CHAR(120) NOT NULL, PRIMARY KEY (id), UNIQUE KEY email (email), UNIQUE KEY code (code)";
const DOCUMENTS: &str =
    "id BIGINT NOT NULL AUTO_INCREMENT, body MEDIUMTEXT NOT NULL, PRIMARY KEY (id)";

/// Name of table number `number` from 1.
pub(super) fn name(shape: Shape, number: u32) -> String {
    match shape {
        Shape::UniqueKeys => format!("uniques{number}"),
        _ => format!("sbtest{number}"),
    }
}

/// Name of the table of documents that [`Shape::MixedSizes`] has besides.
pub(super) const DOCUMENT_TABLE: &str = "documents";

/// Makes the database, its tables and their rows over this connection. The rows are a function of
/// the options, so that every node gets the same ones.
///
/// # Errors
/// The server's; the database is there already.
pub async fn create(conn: &mut Conn, options: &LoadOptions) -> anyhow::Result<()> {
    let database = &options.database;
    conn.query_drop(format!("CREATE DATABASE `{database}`"))
        .await
        .with_context(|| format!("cannot create database {database}"))?;
    fill(conn, options).await
}

/// Makes the tables and their rows in the database, which must be there.
///
/// # Errors
/// The server's; a table is there already.
pub async fn fill(conn: &mut Conn, options: &LoadOptions) -> anyhow::Result<()> {
    let database = &options.database;
    for number in 1..=options.tables {
        let table = name(options.shape, number);
        let columns = match options.shape {
            Shape::UniqueKeys => UNIQUES,
            _ => SBTEST,
        };
        make(conn, database, &table, columns).await?;
        let mut rng = StdRng::seed_from_u64(options.seed ^ (u64::from(number) << 40));
        let mut id = 1;
        while id <= options.rows {
            let last = options.rows.min(id + BATCH - 1);
            let rows: Vec<String> = (id..=last).map(|id| row(options, &mut rng, id)).collect();
            conn.query_drop(format!(
                "INSERT INTO `{database}`.{table} VALUES {}",
                rows.join(",")
            ))
            .await
            .with_context(|| format!("cannot fill {database}.{table}"))?;
            id = last + 1;
        }
    }
    if options.shape == Shape::MixedSizes {
        make(conn, database, DOCUMENT_TABLE, DOCUMENTS).await?;
    }
    Ok(())
}

async fn make(conn: &mut Conn, database: &str, table: &str, columns: &str) -> anyhow::Result<()> {
    conn.query_drop(format!(
        "CREATE TABLE `{database}`.{table} ({columns}) ENGINE=InnoDB"
    ))
    .await
    .with_context(|| format!("cannot create {database}.{table}"))
}

fn row(options: &LoadOptions, rng: &mut StdRng, id: u32) -> String {
    let c = digits(rng, 10);
    match options.shape {
        Shape::UniqueKeys => format!("({id},'u{id}@example.com',{id},0,'{c}')"),
        _ => {
            let k = options.distribution.choose(rng, 1, options.rows);
            format!("({id},{k},'{c}','{}')", digits(rng, 5))
        }
    }
}

/// Groups of eleven digits joined by `-`, as sysbench fills its columns.
pub(super) fn digits(rng: &mut StdRng, groups: usize) -> String {
    let mut text = String::with_capacity(groups * 12);
    for group in 0..groups {
        if group > 0 {
            text.push('-');
        }
        let mut number: u64 = rng.random_range(0..100_000_000_000);
        for _ in 0..11 {
            text.push(char::from(b'0' + (number % 10) as u8));
            number /= 10;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_have_sysbenchs_lengths() {
        let mut rng = StdRng::seed_from_u64(1);
        assert_eq!(digits(&mut rng, 10).len(), 119);
        assert_eq!(digits(&mut rng, 5).len(), 59);
    }
}
