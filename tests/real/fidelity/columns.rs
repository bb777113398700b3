//! The tables of the fidelity test: every column type of each server, with edge values and a
//! generator of random ones.

use twinlog_engine::decode::event::Flavor;

/// A small random number generator (xorshift64*), the same on every machine for one seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.bits() >> 16) as usize % limit.max(1)
    }

    fn pick<'a>(&mut self, from: &'a [String]) -> &'a str {
        let index = self.below(from.len());
        &from[index]
    }
}

type Random = Box<dyn Fn(&mut Dice) -> String + Send>;

pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) definition: String,
    edges: Vec<String>,
    random: Option<Random>,
}

impl Column {
    /// Whether statements give it values; the server computes the others.
    pub(crate) fn is_written(&self) -> bool {
        self.random.is_some()
    }

    /// An SQL expression for a value; `None` for columns that the server computes.
    pub(crate) fn value(&self, dice: &mut Dice) -> Option<String> {
        let random = self.random.as_ref()?;
        Some(match dice.below(8) {
            0 => "NULL".to_owned(),
            1..=3 if !self.edges.is_empty() => dice.pick(&self.edges).to_owned(),
            _ => random(dice),
        })
    }
}

pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) columns: Vec<Column>,
}

impl Table {
    pub(crate) fn create(&self, database: &str) -> String {
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|column| format!("{} {}", column.name, column.definition))
            .collect();
        format!(
            "CREATE TABLE {database}.{} (id INT UNSIGNED PRIMARY KEY, {}) ENGINE=InnoDB",
            self.name,
            columns.join(", ")
        )
    }
}

fn column(
    definition: &str,
    edges: &[&str],
    random: impl Fn(&mut Dice) -> String + Send + 'static,
) -> Column {
    Column {
        name: String::new(),
        definition: definition.to_owned(),
        edges: edges.iter().map(|edge| (*edge).to_owned()).collect(),
        random: Some(Box::new(random)),
    }
}

fn table(name: &'static str, columns: Vec<Column>) -> Table {
    let columns = columns
        .into_iter()
        .enumerate()
        .map(|(index, column)| Column {
            name: if column.name.is_empty() {
                format!("c{index}")
            } else {
                column.name
            },
            ..column
        })
        .collect();
    Table { name, columns }
}

pub(crate) fn tables(flavor: Flavor) -> Vec<Table> {
    let mut tables = vec![
        numbers(),
        times(),
        strings(flavor),
        binaries(flavor),
        shapes(flavor),
    ];
    if flavor == Flavor::MySql {
        tables.push(documents());
    }
    tables
}

fn hex(bytes: impl IntoIterator<Item = u8>) -> String {
    let digits: String = bytes
        .into_iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("x'{digits}'")
}

fn integer(definition: &str, bits: u32, unsigned: bool) -> Column {
    let (low, high) = if unsigned {
        (0, (1_i128 << bits) - 1)
    } else {
        (-(1_i128 << (bits - 1)), (1_i128 << (bits - 1)) - 1)
    };
    let (low_text, high_text) = (low.to_string(), high.to_string());
    let half = (high / 2 + 1).to_string();
    column(
        definition,
        &["0", "1", &low_text, &high_text, &half],
        move |dice| (low + i128::from(dice.bits()) % (high - low + 1)).to_string(),
    )
}

fn decimal(precision: usize, scale: usize) -> Column {
    let nines = format!("{}.{}", "9".repeat(precision - scale), "9".repeat(scale));
    let least = format!("-0.{}1", "0".repeat(scale.saturating_sub(1)));
    column(
        &format!("DECIMAL({precision},{scale})"),
        &["0", "-1", &nines, &format!("-{nines}"), &least],
        move |dice| {
            let mut digits = |most: usize| -> String {
                let count = dice.below(most + 1);
                (0..count)
                    .map(|_| char::from(b'0' + dice.below(10) as u8))
                    .collect()
            };
            let text = format!("0{}.{}0", digits(precision - scale), digits(scale));
            if dice.below(2) == 0 {
                format!("-{text}")
            } else {
                text
            }
        },
    )
}

fn numbers() -> Table {
    let mut columns = Vec::new();
    for (name, bits) in [
        ("TINYINT", 8),
        ("SMALLINT", 16),
        ("MEDIUMINT", 24),
        ("INT", 32),
        ("BIGINT", 64),
    ] {
        columns.push(integer(name, bits, false));
        columns.push(integer(&format!("{name} UNSIGNED"), bits, true));
    }
    columns.push(integer("BOOL", 8, false));
    for (precision, scale) in [
        (65, 30),
        (65, 0),
        (10, 0),
        (5, 5),
        (18, 9),
        (1, 0),
        (30, 29),
    ] {
        columns.push(decimal(precision, scale));
    }
    columns.push(column(
        "DECIMAL(12,4) UNSIGNED",
        &["0", "99999999.9999"],
        |dice| format!("{}.{}", dice.below(10_000_000), dice.below(9999)),
    ));
    let float = |dice: &mut Dice| loop {
        let value = f32::from_bits(dice.bits() as u32);
        if value.is_finite() {
            break format!("{:e}", f64::from(value));
        }
    };
    let double = |dice: &mut Dice| loop {
        let value = f64::from_bits(dice.bits());
        if value.is_finite() {
            break format!("{value:e}");
        }
    };
    columns.push(column(
        "FLOAT",
        &[
            "0",
            "'-0'",
            "0.1",
            "-3.4028234663852886e38",
            "1e-45",
            "16777217",
            "1.17549e-38",
        ],
        float,
    ));
    columns.push(column("FLOAT UNSIGNED", &["0", "0.3"], |dice| {
        format!("{}e-3", dice.below(1 << 30))
    }));
    columns.push(column(
        "FLOAT(9,3)",
        &["0", "-0.001", "999999.999"],
        |dice| format!("{}e-3", dice.below(1 << 30)),
    ));
    columns.push(column(
        "DOUBLE",
        &[
            "0",
            "'-0'",
            "-0e0",
            "0.1",
            "1.7976931348623157e308",
            "5e-324",
            "9007199254740993",
        ],
        double,
    ));
    columns.push(column("DOUBLE(20,5)", &["0", "-0.00001"], |dice| {
        format!("-{}e-5", dice.below(1 << 50))
    }));
    for bits in [1_u32, 7, 8, 12, 63, 64] {
        let most = u64::MAX >> (64 - bits);
        columns.push(column(
            &format!("BIT({bits})"),
            &["0", "1", &most.to_string()],
            move |dice| (dice.bits() & most).to_string(),
        ));
    }
    columns.push(column(
        "YEAR",
        &["0", "'0000'", "1901", "2155", "2000"],
        |dice| (1901 + dice.below(255)).to_string(),
    ));
    columns.push(column(
        "ENUM('a','b','it''s','\u{e9}','')",
        &["1", "5", "'it''s'", "''"],
        |dice| (dice.below(5) + 1).to_string(),
    ));
    let many: Vec<String> = (0..300).map(|index| format!("'m{index}'")).collect();
    columns.push(column(
        &format!("ENUM({})", many.join(",")),
        &["1", "255", "256", "300"],
        |dice| (dice.below(300) + 1).to_string(),
    ));
    for members in [1, 8, 9, 17, 33, 64] {
        let names: Vec<String> = (0..members).map(|index| format!("'m{index}'")).collect();
        let most = u64::MAX >> (64 - members);
        columns.push(column(
            &format!("SET({})", names.join(",")),
            &["0", "''", "'m0'", &most.to_string()],
            move |dice| (dice.bits() & most).to_string(),
        ));
    }
    table("numbers", columns)
}

fn fraction(dice: &mut Dice) -> String {
    match dice.below(3) {
        0 => String::new(),
        1 => ".000001".to_owned(),
        _ => format!(".{:06}", dice.below(1_000_000)),
    }
}

fn clock(dice: &mut Dice) -> String {
    format!(
        "{:02}:{:02}:{:02}",
        dice.below(24),
        dice.below(60),
        dice.below(60)
    )
}

fn times() -> Table {
    let mut columns = vec![column(
        "DATE",
        &[
            "'0000-00-00'",
            "'9999-12-31'",
            "'2023-02-31'",
            "'2024-00-00'",
            "'2024-02-00'",
            "'1000-01-01'",
        ],
        |dice| {
            format!(
                "'{:04}-{:02}-{:02}'",
                dice.below(10_000),
                dice.below(13),
                dice.below(32)
            )
        },
    )];
    for fsp in 0..=6 {
        columns.push(column(
            &format!("TIME({fsp})"),
            &[
                "'00:00:00'",
                "'838:59:59'",
                "'-838:59:59'",
                "'-00:00:00.999999'",
                "'-00:00:01'",
                "'-00:00:00.1'",
                "'-12:34:56.123456'",
            ],
            |dice| {
                let sign = if dice.below(2) == 0 { "-" } else { "" };
                let hours = dice.below(838);
                let (minutes, seconds) = (dice.below(60), dice.below(60));
                let fraction = fraction(dice);
                format!("'{sign}{hours:02}:{minutes:02}:{seconds:02}{fraction}'")
            },
        ));
        columns.push(column(
            &format!("DATETIME({fsp})"),
            &[
                "'0000-00-00 00:00:00'",
                "'9999-12-31 23:59:59'",
                "'2023-02-31 00:00:00'",
                "'0000-01-01 00:00:00.1'",
                "'2024-00-00 10:11:12.000001'",
            ],
            |dice| {
                let date = format!(
                    "{:04}-{:02}-{:02}",
                    dice.below(9999),
                    dice.below(13),
                    dice.below(32)
                );
                format!("'{date} {}{}'", clock(dice), fraction(dice))
            },
        ));
        columns.push(column(
            &format!("TIMESTAMP({fsp}) NULL DEFAULT NULL"),
            &[
                "'0000-00-00 00:00:00'",
                "FROM_UNIXTIME(1)",
                "FROM_UNIXTIME(2147483647)",
                "FROM_UNIXTIME(1.5)",
                "'2024-03-31 01:30:00'",
            ],
            |dice| {
                let seconds = dice.below(2_147_483_646) + 1;
                format!("FROM_UNIXTIME({seconds}.{:06})", dice.below(1_000_000))
            },
        ));
    }
    table("times", columns)
}

/// Pieces that strings are made of: quotes, escapes, control characters, many scripts.
const PIECES: [&str; 24] = [
    "a",
    "Z",
    " ",
    "'",
    "\"",
    "\\",
    "\0",
    "\n",
    "\r\n",
    "\t",
    "\x1a",
    "\x7f",
    "%_",
    "~|{}[]^`@#",
    "\u{e9}\u{fc}\u{df}",
    "\u{20ac}",
    "\u{a5}\u{203e}",
    "\u{65e5}\u{672c}\u{8a9e}",
    "\u{41f}\u{440}",
    "\u{1f600}",
    "\u{5d0}",
    "\u{e44}\u{e17}",
    "\u{3b1}\u{3c9}",
    "\u{feff}",
];

fn text(dice: &mut Dice, pieces: usize) -> String {
    let count = dice.below(pieces + 1);
    (0..count)
        .map(|_| PIECES[dice.below(PIECES.len())])
        .collect()
}

fn characters(definition: &str, charset: &str, pieces: usize) -> Column {
    let charset = charset.to_owned();
    let sql = |charset: &str, text: &str| {
        format!("CONVERT(_utf8mb4 {} USING {charset})", hex(text.bytes()))
    };
    let edges: Vec<String> = ["", " ", "a ", "abc", "0", "\\", "'"]
        .iter()
        .map(|edge| sql(&charset, edge))
        .collect();
    let edges: Vec<&str> = edges.iter().map(String::as_str).collect();
    let definition = definition.replace("{}", &format!("CHARACTER SET {charset}"));
    column(&definition, &edges, {
        let charset = charset.clone();
        move |dice| sql(&charset, &text(dice, pieces))
    })
}

fn strings(flavor: Flavor) -> Table {
    let mut columns = Vec::new();
    let mut charsets = vec![
        "latin1", "latin2", "latin5", "latin7", "ascii", "utf8mb3", "utf8mb4", "ucs2", "utf16",
        "utf16le", "utf32", "sjis", "cp932", "gbk", "gb2312", "big5", "euckr", "ujis", "eucjpms",
        "swe7", "tis620", "koi8r", "koi8u", "cp1250", "cp1251", "cp1256", "cp1257", "greek",
        "hebrew", "cp850", "cp852", "cp866", "armscii8", "geostd8", "macroman", "dec8", "hp8",
    ];
    if flavor == Flavor::MySql {
        charsets.push("gb18030");
    }
    for charset in charsets {
        columns.push(characters("CHAR(10) {}", charset, 6));
        columns.push(characters("VARCHAR(20) {}", charset, 10));
    }
    columns.push(characters("CHAR(255) {}", "utf8mb4", 60));
    columns.push(characters("CHAR(64) {}", "utf8mb4", 30));
    columns.push(characters("CHAR(63) {}", "utf8mb4", 30));
    columns.push(characters("VARCHAR(64) {}", "utf8mb4", 30));
    columns.push(characters("VARCHAR(1000) {}", "utf8mb4", 300));
    columns.push(characters("TINYTEXT {}", "utf8mb4", 20));
    columns.push(characters("TEXT {}", "latin1", 300));
    columns.push(characters("MEDIUMTEXT {}", "utf8mb4", 300));
    columns.push(characters("LONGTEXT {}", "utf16", 300));
    columns.push(column(
        "VARCHAR(30) CHARACTER SET latin1 COLLATE latin1_bin",
        &["''"],
        |dice| {
            let count = dice.below(20);
            format!("_latin1 {}", hex((0..count).map(|_| dice.bits() as u8)))
        },
    ));
    columns.push(column("TEXT CHARACTER SET cp1251", &["''"], |dice| {
        let count = dice.below(20);
        format!("_cp1251 {}", hex((0..count).map(|_| dice.bits() as u8)))
    }));
    // Large ones of any bytes, and of those that have to be escaped.
    for charset in ["latin1", "cp1251", "koi8r", "binary"] {
        let definition = match charset {
            "binary" => "MEDIUMBLOB".to_owned(),
            _ => format!("MEDIUMTEXT CHARACTER SET {charset}"),
        };
        let edges = [
            format!("CONVERT(REPEAT(_latin1 x'27', 70) USING {charset})"),
            format!("CONVERT(REPEAT(_latin1 x'5c27', 3000) USING {charset})"),
            format!("CONVERT(REPEAT(_latin1 x'615c', 40) USING {charset})"),
        ];
        let edges: Vec<&str> = edges.iter().map(String::as_str).collect();
        columns.push(column(&definition, &edges, move |dice| {
            let count = 50 + dice.below(4000);
            let escaped = dice.below(3) == 0;
            let sequence = (0..count).map(|_| match (escaped, dice.bits() as u8) {
                (true, byte) => b"\0'\"\\\n\r\x1aaZ0n\xc3\xa9\xe2\x82\xf0"[usize::from(byte % 16)],
                (false, byte) => byte,
            });
            format!("_{charset} {}", hex(sequence))
        }));
    }
    columns.push(characters("MEDIUMTEXT {}", "gbk", 2000));
    columns.push(characters("MEDIUMTEXT {}", "sjis", 2000));
    columns.push(characters("MEDIUMTEXT {}", "utf8mb4", 2000));
    if flavor == Flavor::MariaDb {
        columns.push(characters(
            "VARCHAR(1000) {} COLLATE utf8mb4_uca1400_ai_ci",
            "utf8mb4",
            30,
        ));
        columns.push(characters(
            "VARCHAR(100) {} COLLATE latin1_swedish_nopad_ci",
            "latin1",
            30,
        ));
        let json = |dice: &mut Dice| format!("'{{\"a\": [1, 2.0, \"{}\"]}}'", dice.bits());
        columns.push(column("JSON", &["'null'", "'{}'"], json));
        columns.push(characters("VARCHAR(500) COMPRESSED {}", "utf8mb4", 200));
        columns.push(characters("TEXT COMPRESSED {}", "latin1", 300));
    }
    table("strings", columns)
}

fn bytes(dice: &mut Dice, most: usize) -> String {
    let count = dice.below(most + 1);
    let zeros = dice.below(4).min(count);
    // Trailing zero bytes are what the log leaves out.
    let sequence: Vec<u8> = (0..count)
        .map(|index| {
            if index + zeros >= count {
                0
            } else {
                dice.bits() as u8
            }
        })
        .collect();
    hex(sequence)
}

fn binaries(flavor: Flavor) -> Table {
    let mut columns = Vec::new();
    let edges = [
        "''", "x'00'", "x'20'", "x'0000'", "'abc'", "x'27'", "x'5c'", "x'ff00'",
    ];
    let mut add = |definition: &str, most: usize| {
        columns.push(column(definition, &edges, move |dice| bytes(dice, most)));
    };
    add("BINARY(3)", 3);
    add("BINARY(16)", 16);
    add("BINARY(255)", 255);
    add("VARBINARY(3)", 3);
    add("VARBINARY(255)", 255);
    add("VARBINARY(256)", 256);
    add("TINYBLOB", 255);
    add("BLOB", 600);
    add("MEDIUMBLOB", 600);
    add("LONGBLOB", 600);
    add("LONGBLOB", 9000);
    if flavor == Flavor::MariaDb {
        add("VARBINARY(300) COMPRESSED", 300);
        add("BLOB COMPRESSED", 600);
        add("LONGBLOB COMPRESSED", 600);
        columns.push(column(
            "BLOB COMPRESSED",
            &["REPEAT('x', 70)", "REPEAT('x', 60000)"],
            |dice| format!("REPEAT('y', {})", dice.below(9000)),
        ));
        columns.push(column(
            "UUID",
            &[
                "'00000000-0000-0000-0000-000000000000'",
                "'ffffffff-ffff-ffff-ffff-ffffffffffff'",
                "'01234567-89ab-1def-8123-456789abcdef'",
                "'01234567-89ab-7def-8123-456789abcdef'",
                "'01234567-89ab-6def-8123-456789abcdef'",
                "'01234567-89ab-1def-0123-4567890000000'",
                "UUID()",
            ],
            |dice| {
                let (a, b) = (dice.bits(), dice.bits());
                let digits = format!("{a:016x}{b:016x}");
                format!("'{digits}'")
            },
        ));
        columns.push(column(
            "INET4",
            &["'0.0.0.0'", "'10.0.0.0'", "'255.255.255.255'"],
            |dice| format!("'{}'", std::net::Ipv4Addr::from(dice.bits() as u32)),
        ));
        columns.push(column(
            "INET6",
            &["'::'", "'::1'", "'::ffff:1.2.3.4'", "'ff00::'"],
            |dice| {
                let address = (u128::from(dice.bits()) << 64) | u128::from(dice.bits());
                format!("'{}'", std::net::Ipv6Addr::from(address))
            },
        ));
    } else {
        columns.push(column(
            "VECTOR(3)",
            &["TO_VECTOR('[0,-1,1e-30]')"],
            |dice| {
                format!(
                    "TO_VECTOR('[{},{}.5,-1e10]')",
                    dice.below(1000),
                    dice.below(1000)
                )
            },
        ));
        columns.push(column("VECTOR(2048)", &["TO_VECTOR('[1]')"], |dice| {
            let count = dice.below(40) + 1;
            let numbers: Vec<String> = (0..count).map(|_| dice.below(99).to_string()).collect();
            format!("TO_VECTOR('[{}]')", numbers.join(","))
        }));
    }
    table("binaries", columns)
}

/// Geometry, and columns that the server computes or hides.
fn shapes(flavor: Flavor) -> Table {
    let srid = if flavor == Flavor::MySql {
        ", 4326"
    } else {
        ""
    };
    let mut columns = vec![
        column("GEOMETRY", &["ST_GeomFromText('POINT(0 0)')"], |dice| {
            format!(
                "ST_GeomFromText('LINESTRING({} 0, 1.5 -{})')",
                dice.below(90),
                dice.below(90)
            )
        }),
        column(
            "POINT",
            &["ST_GeomFromText('POINT(-1e-10 1e10)')"],
            move |dice| {
                let (x, y) = (dice.below(80), dice.below(80));
                format!("ST_GeomFromText('POINT({x} {y})'{srid})")
            },
        ),
        column("POLYGON", &[], |dice| {
            let side = dice.below(50) + 1;
            format!("ST_GeomFromText('POLYGON((0 0, 0 {side}, {side} {side}, {side} 0, 0 0))')")
        }),
        column("GEOMETRYCOLLECTION", &[], |dice| {
            let x = dice.below(50);
            format!("ST_GeomFromText('GEOMETRYCOLLECTION(POINT({x} 1), LINESTRING(0 0, 1 1))')")
        }),
        column("MULTIPOINT", &[], |dice| {
            format!("ST_GeomFromText('MULTIPOINT(1 1, {} 2)')", dice.below(50))
        }),
    ];
    let named = |name: &str, column: Column| Column {
        name: name.to_owned(),
        ..column
    };
    let computed = |definition: &str| Column {
        name: String::new(),
        definition: definition.to_owned(),
        edges: Vec::new(),
        random: None,
    };
    columns.push(named("base", integer("INT", 32, false)));
    columns.push(computed("BIGINT AS (base + 1) VIRTUAL"));
    columns.push(computed("VARCHAR(40) AS (CONCAT('n', base)) STORED"));
    columns.push(integer("INT INVISIBLE", 32, false));
    columns.push(named("word", characters("VARCHAR(20) {}", "utf8mb4", 8)));
    columns.push(computed("VARCHAR(30) AS (UPPER(word)) VIRTUAL"));
    table("shapes", columns)
}

fn documents() -> Table {
    let edges = [
        "'null'",
        "'[]'",
        "'{}'",
        "'\"\"'",
        "'true'",
        "'[1.0, -0.0, 1e300, 5e-324, 0.1, 1e16, 123456789012345678901234567890]'",
        "'[0, -1, 32767, 32768, -32769, 4294967295, 4294967296, -4294967297]'",
        "'[9223372036854775807, 9223372036854775808, 18446744073709551615, -9223372036854775808]'",
        "'{\"a\\\\\\\\b\": \"q\\\\\"uote''s\", \"\": \"\\\\u0000\\\\u0001\\\\n\", \"b\": {\"c\": [[[]]]}}'",
        "CAST(-0e0 AS JSON)",
        "CAST(CAST(5 AS UNSIGNED) AS JSON)",
        "CAST(12345678901 AS JSON)",
        "CAST(1.50 AS JSON)",
        "JSON_ARRAY(CAST(5 AS UNSIGNED), 5, 5000000000, CAST(5000000000 AS UNSIGNED), TRUE, NULL)",
        "JSON_ARRAY(12.340, -0.5, 0.00, CAST(12.34 AS DECIMAL(65,30)), 12345678901234567890.5)",
        "JSON_OBJECT('d', DATE'2024-02-29', 't', TIME'-12:13:14.5', 'dt', TIMESTAMP'2020-01-01 00:00:00.000001')",
        "JSON_OBJECT('b', x'ff00', 'e', x'', 'n', JSON_OBJECT('c', CAST('a' AS BINARY(5))), 'z', 'text')",
        "JSON_ARRAY(CAST(REPEAT('b', 70000) AS BINARY))",
        "(SELECT JSON_ARRAY(c1, c2, c3, c4, c5, c6, c7) FROM fidelity_src.opaque)",
        "(SELECT CAST(c1 AS JSON) FROM fidelity_src.opaque)",
        "(SELECT CAST(c5 AS JSON) FROM fidelity_src.opaque)",
        "CONCAT(REPEAT('[', 100), REPEAT(']', 100))",
        "CONCAT(REPEAT('{\"a\":', 99), '1.5', REPEAT('}', 99))",
        "CONCAT('[', REPEAT('\"0123456789\",', 9000), '1.5]')",
        "CONCAT('{\"k\": \"', REPEAT('\u{1f600}', 20000), '\"}')",
    ];
    fn node(dice: &mut Dice, depth: usize) -> String {
        match dice.below(if depth == 0 { 7 } else { 9 }) {
            0 => dice.bits().to_string(),
            1 => (dice.bits() as i64 >> dice.below(64)).to_string(),
            2 => loop {
                let value = f64::from_bits(dice.bits());
                if value.is_finite() {
                    break format!("{value:e}");
                }
            },
            3 => format!(
                "CONVERT(_utf8mb4 {} USING utf8mb4)",
                hex(text(dice, 9).bytes())
            ),
            4 => format!("{}.{:03}", dice.below(9999), dice.below(1000)),
            5 => "CAST('true' AS JSON)".to_owned(),
            6 => format!("TIMESTAMP'2024-01-01 {}'", clock(dice)),
            7 => {
                let count = dice.below(5);
                let cells: Vec<String> = (0..count).map(|_| node(dice, depth - 1)).collect();
                format!("JSON_ARRAY({})", cells.join(","))
            }
            _ => {
                let count = dice.below(5);
                let members: Vec<String> = (0..count)
                    .map(|index| {
                        let key = format!("CONCAT('k{index}', {})", hex(text(dice, 2).bytes()));
                        format!("CONVERT({key} USING utf8mb4), {}", node(dice, depth - 1))
                    })
                    .collect();
                format!("JSON_OBJECT({})", members.join(","))
            }
        }
    }
    let random = |dice: &mut Dice| format!("JSON_ARRAY({})", node(dice, 3));
    table(
        "documents",
        vec![
            column("JSON", &edges, random),
            integer("INT", 32, false),
            column("JSON", &edges, random),
            column("JSON", &edges[..5], |dice| {
                format!(
                    "JSON_OBJECT('a', JSON_ARRAY({}, 'x', 1.5), 'long key \"q\"', REPEAT('y', {}))",
                    dice.below(1000),
                    dice.below(200)
                )
            }),
        ],
    )
}
