//! Random tables, and random statements that write them.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use twinlog_engine::decode::event::Flavor;

use crate::fidelity::columns::{Column, Dice, tables};

/// How many statements the server took, and how many it refused.
#[derive(Debug, Default)]
pub(super) struct Statements {
    pub(super) done: usize,
    pub(super) refused: usize,
}

impl Statements {
    /// Runs one that may meet a duplicate or a value that does not fit: the server then takes it
    /// back, and nothing of it is in the log.
    pub(super) async fn run(&mut self, conn: &mut Conn, sql: &str) {
        match conn.query_drop(sql).await {
            Ok(()) => self.done += 1,
            Err(mysql_async::Error::Server(error)) => {
                let shown: String = sql.chars().take(2000).collect();
                assert!(
                    !matches!(error.code, 1054 | 1064 | 1136 | 1146),
                    "{error}: {shown}"
                );
                self.refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// A column that keys are made of. It has few values, so that statements meet rows.
struct KeyColumn {
    name: String,
    definition: String,
    values: Vec<String>,
}

/// A table of random columns under random keys.
pub(super) struct RandomTable {
    name: String,
    /// The primary key's columns first, then those of the unique keys.
    keys: Vec<KeyColumn>,
    /// How many of `keys` are the primary key.
    primary: usize,
    /// Columns of each unique key, as indexes into `keys`.
    unique: Vec<Vec<usize>>,
    columns: Vec<Column>,
    /// Definitions of columns that statements need not name.
    defaults: Vec<String>,
    indexed: bool,
}

impl RandomTable {
    /// 1 to 3 columns of primary key, up to two unique keys, 1 to 12 columns of all types.
    pub(super) fn new(name: String, flavor: Flavor, dice: &mut Dice) -> Self {
        let mut keys = Vec::new();
        let primary = 1 + dice.below(3);
        for index in 0..primary {
            keys.push(key_column(format!("p{index}"), flavor, false, dice));
        }
        let mut unique = Vec::new();
        for index in 0..dice.below(3) {
            let mut key = vec![keys.len()];
            keys.push(key_column(format!("u{index}"), flavor, true, dice));
            // Also one that shares a column with the primary key.
            if dice.below(3) == 0 {
                key.push(dice.below(primary));
            }
            unique.push(key);
        }
        let mut known: Vec<Column> = tables(flavor)
            .into_iter()
            .flat_map(|table| table.columns)
            .filter(Column::is_written)
            .collect();
        let count = 1 + dice.below(12);
        let columns = (0..count).map(|index| {
            let mut column = known.swap_remove(dice.below(known.len()));
            column.name = format!("c{index}");
            column
        });
        let columns = columns.collect();
        let defaults = [
            "INT NOT NULL DEFAULT 7",
            "VARCHAR(20) NOT NULL DEFAULT 'it''s'",
            "DECIMAL(12,4) DEFAULT NULL",
            "TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6)",
            "DATETIME DEFAULT CURRENT_TIMESTAMP",
            "BIGINT AS (n + 1) VIRTUAL",
            "VARCHAR(80) AS (CONCAT(n, '-')) STORED",
            "VARCHAR(12) DEFAULT 'hidden' INVISIBLE",
        ];
        let defaults = defaults.iter().filter(|_| dice.below(4) == 0);
        let defaults = defaults.map(|definition| (*definition).to_owned());
        Self {
            name,
            keys,
            primary,
            unique,
            columns,
            defaults: defaults.collect(),
            indexed: dice.below(2) == 0,
        }
    }

    /// The statement that makes it.
    pub(super) fn create(&self) -> String {
        let names = |key: &[usize]| {
            let names = key.iter().map(|index| self.keys[*index].name.as_str());
            names.collect::<Vec<_>>().join(", ")
        };
        let mut parts = Vec::new();
        // The order of the columns is not that of the keys.
        for column in &self.columns {
            parts.push(format!("{} {}", column.name, column.definition));
        }
        for column in &self.keys {
            parts.push(format!("{} {}", column.name, column.definition));
        }
        parts.push("n INT NOT NULL DEFAULT 3".to_owned());
        for (index, definition) in self.defaults.iter().enumerate() {
            parts.push(format!("d{index} {definition}"));
        }
        let primary: Vec<usize> = (0..self.primary).rev().collect();
        parts.push(format!("PRIMARY KEY ({})", names(&primary)));
        for key in &self.unique {
            parts.push(format!("UNIQUE KEY ({})", names(key)));
        }
        if self.indexed {
            parts.push("KEY (p0)".to_owned());
        }
        format!(
            "CREATE TABLE {} ({}) ENGINE=InnoDB",
            self.name,
            parts.join(", ")
        )
    }

    /// One statement that writes some of its rows.
    pub(super) fn statement(&self, dice: &mut Dice) -> String {
        match dice.below(10) {
            0..=4 => self.insert(dice),
            5..=7 => self.update(dice),
            _ => format!("DELETE FROM {} WHERE {}", self.name, self.some_rows(dice)),
        }
    }

    fn insert(&self, dice: &mut Dice) -> String {
        let named: Vec<&Column> = self.columns.iter().filter(|_| dice.below(5) > 0).collect();
        let names = self.keys.iter().map(|column| column.name.as_str());
        let names = names.chain(named.iter().map(|column| column.name.as_str()));
        let names: Vec<&str> = names.collect();
        let rows: Vec<String> = (0..=dice.below(5))
            .map(|_| {
                let mut values: Vec<String> =
                    self.keys.iter().map(|column| column.value(dice)).collect();
                values.extend(named.iter().filter_map(|column| column.value(dice)));
                format!("({})", values.join(", "))
            })
            .collect();
        let (verb, tail) = match dice.below(6) {
            0 => ("REPLACE", String::new()),
            1 => {
                let (name, value) = self.assignment(dice);
                (
                    "INSERT",
                    format!(" ON DUPLICATE KEY UPDATE {name} = {value}"),
                )
            }
            2..=3 => ("INSERT IGNORE", String::new()),
            _ => ("INSERT", String::new()),
        };
        format!(
            "{verb} INTO {} ({}) VALUES {}{tail}",
            self.name,
            names.join(", "),
            rows.join(", ")
        )
    }

    fn update(&self, dice: &mut Dice) -> String {
        let mut assigned: Vec<(String, String)> = Vec::new();
        for _ in 0..=dice.below(3) {
            let (name, value) = self.assignment(dice);
            if assigned.iter().all(|(known, _)| *known != name) {
                assigned.push((name, value));
            }
        }
        let assigned = assigned
            .iter()
            .map(|(name, value)| format!("{name} = {value}"));
        format!(
            "UPDATE IGNORE {} SET {} WHERE {}",
            self.name,
            assigned.collect::<Vec<_>>().join(", "),
            self.some_rows(dice)
        )
    }

    /// A column and its new value; one in twelve is part of a key.
    fn assignment(&self, dice: &mut Dice) -> (String, String) {
        if dice.below(6) > 0 {
            let column = &self.columns[dice.below(self.columns.len())];
            if let Some(value) = column.value(dice) {
                return (column.name.clone(), value);
            }
        }
        // What generated columns are made of.
        if dice.below(2) == 0 {
            return ("n".to_owned(), dice.below(100).to_string());
        }
        let column = &self.keys[dice.below(self.keys.len())];
        (column.name.clone(), column.value(dice))
    }

    fn some_rows(&self, dice: &mut Dice) -> String {
        let column = &self.keys[dice.below(self.keys.len())];
        let comparison = ["=", "=", "<=>", "<", ">="][dice.below(5)];
        format!("{} {comparison} {}", column.name, column.value(dice))
    }
}

impl KeyColumn {
    fn value(&self, dice: &mut Dice) -> String {
        self.values[dice.below(self.values.len())].clone()
    }
}

fn key_column(name: String, flavor: Flavor, nullable: bool, dice: &mut Dice) -> KeyColumn {
    let collations = [
        "utf8mb4 COLLATE utf8mb4_bin",
        "utf8mb4 COLLATE utf8mb4_general_ci",
        "utf8mb4 COLLATE utf8mb4_unicode_ci",
        "latin1 COLLATE latin1_swedish_ci",
        match flavor {
            Flavor::MySql => "utf8mb4 COLLATE utf8mb4_0900_ai_ci",
            Flavor::MariaDb => "utf8mb4 COLLATE utf8mb4_uca1400_as_ci",
        },
    ];
    let collation = collations[dice.below(collations.len())];
    let texts = [
        "'a'", "'A'", "'\u{e1}'", "'b'", "'b '", "'\u{df}'", "'ss'", "''", "'z'", "'Zz'", "'0'",
        "'\\\\'", "'~'", "'aa'", "'c'", "'d'",
    ];
    let list = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
    let numbers = |from: i32, to: i32| (from..to).map(|number| number.to_string()).collect();
    let (definition, mut values): (String, Vec<String>) = match dice.below(11) {
        0 | 1 => ("INT".to_owned(), numbers(-3, 30)),
        2 => {
            let mut values: Vec<String> = numbers(0, 20);
            values.push("9223372036854775808".to_owned());
            values.push("18446744073709551615".to_owned());
            ("BIGINT UNSIGNED".to_owned(), values)
        }
        3 => ("SMALLINT".to_owned(), numbers(-10, 20)),
        4 => (
            format!("VARCHAR(20) CHARACTER SET {collation}"),
            list(&texts),
        ),
        5 => (format!("CHAR(8) CHARACTER SET {collation}"), list(&texts)),
        6 => {
            let values = [
                "x''", "x'00'", "x'0000'", "'a'", "'A'", "x'ff27'", "x'5c'", "' '", "'b'",
            ];
            ("VARBINARY(16)".to_owned(), list(&values))
        }
        7 => {
            let values = (1..25).map(|day| format!("'2024-02-{day:02}'"));
            ("DATE".to_owned(), values.collect())
        }
        8 => {
            let values = (0..25).map(|micros| format!("'2024-02-29 10:11:12.0000{micros:02}'"));
            ("DATETIME(6)".to_owned(), values.collect())
        }
        9 => {
            let values = (-5_i32..20).map(|number| format!("{number}.{}", number.unsigned_abs()));
            ("DECIMAL(10,3)".to_owned(), values.collect())
        }
        _ => {
            let values = [
                "'one'", "'two'", "'three'", "'four'", "'five'", "'six'", "'seven'",
            ];
            let definition = format!("ENUM({}, 'eight')", values.join(", "));
            (definition, list(&values))
        }
    };
    if nullable {
        values.extend(["NULL".to_owned(), "NULL".to_owned()]);
    }
    let definition = format!("{definition}{}", if nullable { "" } else { " NOT NULL" });
    KeyColumn {
        name,
        definition,
        values,
    }
}
