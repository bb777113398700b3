//! Values as SQL literals that store exactly what the origin's log said.
//!
//! The one place that knows how a value travels in a statement. Character strings travel in the
//! column's own character set, so that nothing is converted on the way.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::decode::event::Flavor;
use crate::row::{ColumnKind, SourceColumn, Value};
use crate::schema::ColumnSchema;

/// The session settings that give the literals their meaning, for both servers: one statement, to
/// be run at the start of each connection that runs statements with them.
///
/// Strict mode so that a value that does not fit is an error and never cut; invalid and zero dates
/// are allowed because the origin may hold them; a 0 in an AUTO_INCREMENT column is a 0; no time
/// zone conversion of TIMESTAMP. The `=` of `WHERE` compares with the column's collation.
pub const SESSION_SETTINGS: &str = "SET NAMES utf8mb4, time_zone='+00:00', \
     sql_mode='STRICT_ALL_TABLES,ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO'";

/// Appends a literal for `target = literal` in INSERT, UPDATE and WHERE, which under
/// [`SESSION_SETTINGS`] stands for exactly `value`. `source` says what the log knew of the column.
///
/// NULL is written as `NULL`; a WHERE has to compare it with `IS` or `<=>`.
///
/// # Errors
/// The value has no faithful literal, or source and target differ in character set. The message
/// names the column.
pub fn write_literal(
    out: &mut Vec<u8>,
    value: &Value,
    source: &SourceColumn,
    target: &ColumnSchema,
    flavor: Flavor,
) -> Result<(), String> {
    match value {
        Value::Null => out.extend_from_slice(b"NULL"),
        Value::Int(value) => match reread(*value, source, target) {
            Some(unsigned) => write_integer(out, false, unsigned),
            None => write_integer(out, *value < 0, value.unsigned_abs()),
        },
        Value::UInt(value) | Value::Bit(value) => write_integer(out, false, *value),
        // The servers compare a SET as a signed number: the 64th member makes it negative.
        Value::Set(bits) => {
            let signed = *bits as i64;
            write_integer(out, signed < 0, signed.unsigned_abs());
        }
        // A FLOAT's value is exact as a double; the server rounds the double back to it.
        Value::Float(value) => {
            let value = f64::from(*value);
            let most = greatest_float(&target.column_type).unwrap_or(f64::MAX);
            write_double(out, value.clamp(-most, most));
        }
        Value::Double(value) => write_double(out, *value),
        Value::Decimal(digits) => out.extend_from_slice(digits.as_bytes()),
        Value::Bytes(bytes) => return write_bytes(out, bytes, source, target, flavor),
        // As text: the number 0 would be the year 2000 in a comparison.
        Value::Year(year) => {
            out.push(b'\'');
            write_padded(out, u32::from(*year), 4);
            out.push(b'\'');
        }
        Value::Date { .. }
        | Value::Time { .. }
        | Value::DateTime { .. }
        | Value::Timestamp { .. } => write_temporal(out, value),
        Value::Enum(0) => {
            return Err(format!(
                "column {}: the ENUM error value '' (number 0), which a strict session refuses: \
                 give the row a valid value at the source",
                target.name
            ));
        }
        Value::Enum(number) => write_integer(out, false, u64::from(*number)),
        Value::Json(json) => {
            return json
                .write_sql_expr(out)
                .map_err(|error| format!("column {}: {error}", target.name));
        }
    }
    Ok(())
}

/// Where the log did not say whether the column is unsigned, the decoder took the bits as signed;
/// the target's schema says what they mean.
fn reread(value: i64, source: &SourceColumn, target: &ColumnSchema) -> Option<u64> {
    if source.unsigned.is_some() || !target.unsigned || value >= 0 {
        return None;
    }
    let mask = match source.kind {
        ColumnKind::Tiny => 0xff,
        ColumnKind::Short => 0xffff,
        ColumnKind::Int24 => 0xff_ffff,
        ColumnKind::Long => 0xffff_ffff,
        _ => u64::MAX,
    };
    Some(value as u64 & mask)
}

/// The greatest value that a FLOAT(M,D) accepts. What it stores may be greater by the rounding to 24
/// bits (999999.999 is stored as 1000000) and would not be accepted again.
fn greatest_float(column_type: &str) -> Option<f64> {
    let (_, behind) = column_type.split_once('(')?;
    let (digits, decimals) = behind.split_once(')')?.0.split_once(',')?;
    let (digits, decimals) = (digits.parse::<i32>().ok()?, decimals.parse::<i32>().ok()?);
    let digits_before = digits.checked_sub(decimals)?;
    let greatest = 10_f64.powi(digits_before) - 10_f64.powi(decimals.checked_neg()?);
    (greatest > 0.0).then_some(greatest)
}

fn write_integer(out: &mut Vec<u8>, negative: bool, mut magnitude: u64) {
    let mut digits = [0_u8; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (magnitude % 10) as u8;
        magnitude /= 10;
        if magnitude == 0 {
            break;
        }
    }
    if negative {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[first..]);
}

/// At least `width` digits.
fn write_padded(out: &mut Vec<u8>, value: u32, width: usize) {
    let digits = value.checked_ilog10().unwrap_or(0) as usize + 1;
    out.extend(std::iter::repeat_n(b'0', width.saturating_sub(digits)));
    write_integer(out, false, u64::from(value));
}

/// Appends a double with an exponent, so that the servers read it as a double and not as a decimal;
/// the digits are the shortest that give back the same bits.
pub(crate) fn write_double(out: &mut Vec<u8>, value: f64) {
    out.extend_from_slice(format!("{value:e}").as_bytes());
}

/// Room for a quoted string. Of a large one the escapes are counted, and some room is set aside for what
/// comes behind it: to outgrow it would double the memory that it takes.
fn reserve_quoted(out: &mut Vec<u8>, bytes: &[u8]) {
    const LARGE: usize = 64 << 10;
    const BEHIND: usize = 4 << 10;
    let more = if bytes.len() < LARGE {
        bytes.len() / 16 + 2
    } else {
        bytes.iter().filter(|byte| escape(**byte).is_some()).count() + BEHIND
    };
    out.reserve(bytes.len() + more);
}

/// Appends a quoted string, its bytes as they are but for quotes, backslashes and NUL.
pub(crate) fn write_quoted(out: &mut Vec<u8>, bytes: &[u8]) {
    reserve_quoted(out, bytes);
    out.push(b'\'');
    let mut rest = bytes;
    while let Some(at) = rest
        .iter()
        .position(|byte| matches!(byte, b'\'' | b'\\' | 0))
    {
        let (plain, special) = rest.split_at(at);
        out.extend_from_slice(plain);
        out.push(b'\\');
        out.push(if special[0] == 0 { b'0' } else { special[0] });
        rest = &special[1..];
    }
    out.extend_from_slice(rest);
    out.push(b'\'');
}

/// Appends a DATE, TIME, DATETIME or TIMESTAMP in quotes; other values not at all.
pub(crate) fn write_temporal(out: &mut Vec<u8>, value: &Value) {
    out.push(b'\'');
    match *value {
        Value::Date { year, month, day } => write_date(out, u32::from(year), month, day),
        Value::Time {
            negative,
            hours,
            minutes,
            seconds,
            micros,
        } => {
            if negative {
                out.push(b'-');
            }
            write_time(out, u32::from(hours), minutes, seconds, micros);
        }
        Value::DateTime {
            year,
            month,
            day,
            hour,
            minute,
            second,
            micros,
        } => {
            write_date(out, u32::from(year), month, day);
            out.push(b' ');
            write_time(out, u32::from(hour), minute, second, micros);
        }
        Value::Timestamp {
            seconds: 0,
            micros: 0,
        } => out.extend_from_slice(b"0000-00-00 00:00:00"),
        Value::Timestamp { seconds, micros } => {
            let (year, month, day) = civil_from_days(seconds / 86_400);
            write_date(out, year, month, day);
            out.push(b' ');
            let second = seconds % 86_400;
            write_time(
                out,
                second / 3600,
                (second / 60 % 60) as u8,
                (second % 60) as u8,
                micros,
            );
        }
        _ => {}
    }
    out.push(b'\'');
}

fn write_date(out: &mut Vec<u8>, year: u32, month: u8, day: u8) {
    write_padded(out, year, 4);
    out.push(b'-');
    write_padded(out, u32::from(month), 2);
    out.push(b'-');
    write_padded(out, u32::from(day), 2);
}

fn write_time(out: &mut Vec<u8>, hours: u32, minutes: u8, seconds: u8, micros: u32) {
    write_padded(out, hours, 2);
    out.push(b':');
    write_padded(out, u32::from(minutes), 2);
    out.push(b':');
    write_padded(out, u32::from(seconds), 2);
    if micros != 0 {
        out.push(b'.');
        write_padded(out, micros, 6);
    }
}

/// Year, month and day of a day since 1970-01-01, for the years of a 32-bit TIMESTAMP.
fn civil_from_days(days: u32) -> (u32, u8, u8) {
    // Years begin in March here, so that the leap day is the last one; 719,468 days lie between
    // 0000-03-01 and 1970-01-01, 146,097 in each 400 years.
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = era * 400 + year_of_era + u32::from(month <= 2);
    (year, month as u8, day as u8)
}

fn write_bytes(
    out: &mut Vec<u8>,
    bytes: &[u8],
    source: &SourceColumn,
    target: &ColumnSchema,
    flavor: Flavor,
) -> Result<(), String> {
    if let Some(charset) = target.charset.as_deref() {
        return write_characters(out, bytes, charset, source, target, flavor);
    }
    match target.data_type.as_str() {
        // The log leaves out trailing zero bytes of these.
        "inet4" => write_fixed::<4>(out, bytes, target, |out, bytes| {
            out.extend_from_slice(Ipv4Addr::from(bytes).to_string().as_bytes());
        }),
        "inet6" => write_fixed::<16>(out, bytes, target, |out, bytes| {
            out.extend_from_slice(Ipv6Addr::from(bytes).to_string().as_bytes());
        }),
        "uuid" => write_fixed::<16>(out, bytes, target, |out, bytes| {
            for (index, byte) in bytes.iter().enumerate() {
                if matches!(index, 4 | 6 | 8 | 10) {
                    out.push(b'-');
                }
                push_hex(out, *byte);
            }
        }),
        "binary" => {
            let length = declared_length(&target.column_type).unwrap_or(bytes.len());
            write_hex(out, bytes, length);
            Ok(())
        }
        "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob"
            if is_shorter_escaped(bytes) =>
        {
            out.extend_from_slice(b"_binary");
            write_escaped(out, bytes);
            Ok(())
        }
        _ => {
            if is_plain(bytes) && matches!(source.kind, ColumnKind::VarChar { .. }) {
                write_quoted(out, bytes);
            } else {
                write_hex(out, bytes, bytes.len());
            }
            Ok(())
        }
    }
}

/// The N of a type such as `binary(N)`.
fn declared_length(column_type: &str) -> Option<usize> {
    let (_, behind) = column_type.split_once('(')?;
    behind.split_once(')')?.0.parse().ok()
}

fn write_fixed<const N: usize>(
    out: &mut Vec<u8>,
    bytes: &[u8],
    target: &ColumnSchema,
    text: impl Fn(&mut Vec<u8>, [u8; N]),
) -> Result<(), String> {
    let mut whole = [0; N];
    match whole.get_mut(..bytes.len()) {
        Some(start) => start.copy_from_slice(bytes),
        None => {
            return Err(format!(
                "column {}: {} bytes for a value of type {}",
                target.name,
                bytes.len(),
                target.data_type
            ));
        }
    }
    out.push(b'\'');
    text(out, whole);
    out.push(b'\'');
    Ok(())
}

fn push_hex(out: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.push(DIGITS[usize::from(byte >> 4)]);
    out.push(DIGITS[usize::from(byte & 15)]);
}

/// Appends `x'..'`, with zero bytes up to `length`.
pub(crate) fn write_hex(out: &mut Vec<u8>, bytes: &[u8], length: usize) {
    out.reserve(length.max(bytes.len()) * 2 + 3);
    out.extend_from_slice(b"x'");
    for byte in bytes {
        push_hex(out, *byte);
    }
    let zeros = length.saturating_sub(bytes.len());
    out.extend(std::iter::repeat_n(b'0', zeros * 2));
    out.push(b'\'');
}

/// How a byte is written behind a backslash, where it has to be.
fn escape(byte: u8) -> Option<u8> {
    Some(match byte {
        0 => b'0',
        b'\n' => b'n',
        b'\r' => b'r',
        0x1a => b'Z',
        b'\'' | b'\\' => byte,
        _ => return None,
    })
}

/// Whether [`write_escaped`] makes less of the bytes than [`write_hex`], which doubles them. Short
/// values stay in hex: nothing is gained, and statements in logs can be read.
fn is_shorter_escaped(bytes: &[u8]) -> bool {
    const SHORT: usize = 64;
    // `_binary` in front, of what `x'..'` has one letter.
    const INTRODUCER: usize = 7;
    bytes.len() > SHORT && {
        let escapes = bytes.iter().filter(|byte| escape(**byte).is_some()).count();
        escapes + INTRODUCER < bytes.len()
    }
}

/// Appends any bytes in quotes. They need an introducer that says what they are: the server finds
/// the end of the string by the character set of statements, utf8mb4 or binary, in neither of which
/// part of a character looks like a quote or a backslash, and then takes the bytes as they are.
fn write_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    reserve_quoted(out, bytes);
    out.push(b'\'');
    for byte in bytes {
        match escape(*byte) {
            Some(escaped) => out.extend_from_slice(&[b'\\', escaped]),
            None => out.push(*byte),
        }
    }
    out.push(b'\'');
}

fn is_plain(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, b' '..=b'~'))
}

/// The name that a character set goes by today.
fn of_today(charset: &str) -> &str {
    if charset == "utf8" {
        "utf8mb3"
    } else {
        charset
    }
}

/// That the log says another character set of a column than this one, which it has at the target.
pub(super) fn other_charset(
    source: &SourceColumn,
    target: &ColumnSchema,
    charset: &str,
    flavor: Flavor,
) -> Option<String> {
    let at_source = charset_of_collation(flavor, source.collation?)?;
    let charset = of_today(charset);
    (at_source != charset).then(|| {
        format!(
            "column {}: its character set is {at_source} at the source but {charset} at the \
             target: make them the same with ALTER TABLE",
            target.name
        )
    })
}

fn write_characters(
    out: &mut Vec<u8>,
    bytes: &[u8],
    charset: &str,
    source: &SourceColumn,
    target: &ColumnSchema,
    flavor: Flavor,
) -> Result<(), String> {
    if let Some(problem) = other_charset(source, target, charset, flavor) {
        return Err(problem);
    }
    let charset = of_today(charset);
    if is_plain(bytes) && is_ascii_compatible(charset) {
        write_quoted(out, bytes);
        return Ok(());
    }
    let text = matches!(charset, "utf8mb4" | "utf8mb3") && std::str::from_utf8(bytes).is_ok();
    out.push(b'_');
    out.extend_from_slice(charset.as_bytes());
    if text {
        write_quoted(out, bytes);
    } else if is_single_byte(charset) && is_shorter_escaped(bytes) {
        write_escaped(out, bytes);
    } else {
        out.push(b' ');
        write_hex(out, bytes, bytes.len());
    }
    Ok(())
}

/// Whether printable ASCII stands for itself in the character set, both ways. Left out are those
/// with wider units and those that give some ASCII codes to other signs (swe7, sjis' backslash).
fn is_ascii_compatible(charset: &str) -> bool {
    matches!(
        charset,
        "utf8mb4"
            | "utf8mb3"
            | "ascii"
            | "latin1"
            | "latin2"
            | "latin5"
            | "latin7"
            | "cp850"
            | "cp852"
            | "cp866"
            | "cp1250"
            | "cp1251"
            | "cp1256"
            | "cp1257"
            | "greek"
            | "hebrew"
            | "koi8r"
            | "koi8u"
            | "gbk"
            | "gb2312"
            | "gb18030"
            | "big5"
            | "euckr"
            | "binary"
    )
}

/// Whether each byte is a character by itself and a backslash is one, so that a string can be
/// escaped byte by byte; in gbk, big5 and their like it may be the second half of a character.
fn is_single_byte(charset: &str) -> bool {
    is_ascii_compatible(charset)
        && !matches!(
            charset,
            "utf8mb4" | "utf8mb3" | "gbk" | "gb2312" | "gb18030" | "big5" | "euckr"
        )
}

/// The character set that a collation number belongs to; `None` for numbers that are not known.
pub(crate) fn charset_of_collation(flavor: Flavor, collation: u16) -> Option<&'static str> {
    let mut number = collation;
    if flavor == Flavor::MariaDb {
        match number {
            // The Unicode 14 collations: a block of 256 for each character set.
            2048.. => {
                let charsets = ["utf8mb3", "utf8mb4", "ucs2", "utf16", "utf32"];
                return charsets.get(usize::from(number - 2048) / 256).copied();
            }
            // Without padding: the padded collation's number and 1024.
            1025..2048 => number -= 1024,
            _ => {}
        }
    }
    Some(match number {
        1 | 84 => "big5",
        2 | 9 | 21 | 27 | 77 => "latin2",
        3 | 69 => "dec8",
        4 | 80 => "cp850",
        5 | 8 | 15 | 31 | 47..=49 | 94 => "latin1",
        6 | 72 => "hp8",
        7 | 74 => "koi8r",
        10 | 82 => "swe7",
        11 | 65 => "ascii",
        12 | 91 => "ujis",
        13 | 88 => "sjis",
        14 | 23 | 50..=52 => "cp1251",
        16 | 71 => "hebrew",
        18 | 89 => "tis620",
        19 | 85 => "euckr",
        20 | 41 | 42 | 79 => "latin7",
        22 | 75 => "koi8u",
        24 | 86 => "gb2312",
        25 | 70 => "greek",
        26 | 34 | 44 | 66 | 99 => "cp1250",
        28 | 87 => "gbk",
        29 | 58 | 59 => "cp1257",
        30 | 78 => "latin5",
        32 | 64 => "armscii8",
        33 | 76 | 83 | 192..=223 | 576..=607 => "utf8mb3",
        35 | 90 | 128..=159 | 640..=671 => "ucs2",
        36 | 68 => "cp866",
        37 | 73 => "keybcs2",
        38 | 43 => "macce",
        39 | 53 => "macroman",
        40 | 81 => "cp852",
        45 | 46 | 224..=247 | 255..=323 | 608..=639 => "utf8mb4",
        54 | 55 | 101..=127 | 672..=703 => "utf16",
        56 | 62 => "utf16le",
        57 | 67 => "cp1256",
        60 | 61 | 160..=191 | 736..=767 => "utf32",
        63 => "binary",
        92 | 93 => "geostd8",
        95 | 96 => "cp932",
        97 | 98 => "eucjpms",
        248..=250 => "gb18030",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(kind: ColumnKind) -> SourceColumn {
        SourceColumn {
            name: None,
            kind,
            unsigned: None,
            collation: None,
            nullable: true,
        }
    }

    fn target(data_type: &str, column_type: &str, charset: Option<&str>) -> ColumnSchema {
        ColumnSchema {
            name: "c".to_owned(),
            data_type: data_type.to_owned(),
            column_type: column_type.to_owned(),
            unsigned: column_type.contains("unsigned"),
            nullable: true,
            charset: charset.map(str::to_owned),
            collation: None,
            generated: false,
            auto_increment: false,
            ..ColumnSchema::default()
        }
    }

    fn literal(value: &Value, source: &SourceColumn, target: &ColumnSchema) -> String {
        let mut out = Vec::new();
        write_literal(&mut out, value, source, target, Flavor::MariaDb).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn bytes(bytes: &[u8], target: &ColumnSchema) -> String {
        let source = source(ColumnKind::VarChar { max_bytes: 100 });
        literal(&Value::Bytes(bytes.into()), &source, target)
    }

    #[test]
    fn unsigned_bits_are_read_by_the_target() {
        let int = target("int", "int(10) unsigned", None);
        let value = Value::Int(-1);
        assert_eq!(
            literal(&value, &source(ColumnKind::Long), &int),
            "4294967295"
        );
        assert_eq!(
            literal(&value, &source(ColumnKind::Int24), &int),
            "16777215"
        );
        let signed = target("int", "int(10)", None);
        assert_eq!(literal(&value, &source(ColumnKind::Long), &signed), "-1");
        let lowest = Value::Int(i64::MIN);
        assert_eq!(
            literal(&lowest, &source(ColumnKind::LongLong), &signed),
            "-9223372036854775808"
        );
    }

    #[test]
    fn strings_travel_in_the_columns_charset() {
        let utf8 = target("varchar", "varchar(9)", Some("utf8mb4"));
        assert_eq!(bytes(b"it's \\", &utf8), r"'it\'s \\'");
        assert_eq!(bytes("\0\u{e9}".as_bytes(), &utf8), "_utf8mb4'\\0\u{e9}'");
        let latin1 = target("varchar", "varchar(9)", Some("latin1"));
        assert_eq!(bytes(b"abc", &latin1), "'abc'");
        assert_eq!(bytes(b"\xe9", &latin1), "_latin1 x'e9'");
        let utf16 = target("varchar", "varchar(9)", Some("utf16"));
        assert_eq!(bytes(b"\0a", &utf16), "_utf16 x'0061'");
    }

    #[test]
    fn large_values_are_escaped_where_that_is_shorter() {
        let written = |value: &[u8], target: &ColumnSchema| {
            let mut out = Vec::new();
            let value = Value::Bytes(value.into());
            let source = source(ColumnKind::VarChar { max_bytes: 100 });
            write_literal(&mut out, &value, &source, target, Flavor::MySql).unwrap();
            out
        };
        let blob = target("longblob", "longblob", None);
        let special = [&[0xff; 70][..], b"\0'\\\n\r\x1a\""].concat();
        let expected = [b"_binary'", &[0xff; 70][..], b"\\0\\'\\\\\\n\\r\\Z\"'"].concat();
        assert_eq!(written(&special, &blob), expected);
        let latin1 = target("text", "text", Some("latin1"));
        assert!(written(&special, &latin1).starts_with(b"_latin1'\xff"));
        // Short, or nothing gained, or backslashes that may be half a character.
        for (value, target, begins) in [
            (&special[6..70], &blob, &b"x'ffff"[..]),
            (&[0; 100][..], &blob, b"x'0000"),
            (
                &special[..],
                &target("text", "text", Some("gbk")),
                b"_gbk x'",
            ),
            (
                &special[..],
                &target("text", "text", Some("sjis")),
                b"_sjis x'",
            ),
            (
                &special[..],
                &target("text", "text", Some("utf16")),
                b"_utf16 x'",
            ),
            (
                &special[..],
                &target("geometry", "geometry", None),
                b"x'ffff",
            ),
        ] {
            let written = written(value, target);
            assert!(written.starts_with(begins), "{target:?}");
        }
        let every: Vec<u8> = (0..=255).collect();
        assert!(written(&every.repeat(100), &blob).len() < 26_500);
    }

    #[test]
    fn fixed_widths_get_their_zeros_back() {
        assert_eq!(
            bytes(b"a", &target("binary", "binary(3)", None)),
            "x'610000'"
        );
        assert_eq!(bytes(&[10], &target("inet4", "inet4", None)), "'10.0.0.0'");
        assert_eq!(bytes(&[], &target("inet6", "inet6", None)), "'::'");
        assert_eq!(
            bytes(&[1], &target("uuid", "uuid", None)),
            "'01000000-0000-0000-0000-000000000000'"
        );
    }

    #[test]
    fn charsets_that_differ_are_refused() {
        let mut latin1 = source(ColumnKind::VarChar { max_bytes: 10 });
        latin1.collation = Some(8);
        let utf8 = target("varchar", "varchar(9)", Some("utf8mb4"));
        let value = Value::Bytes((*b"a").into());
        let mut out = Vec::new();
        let error = write_literal(&mut out, &value, &latin1, &utf8, Flavor::MySql).unwrap_err();
        assert!(
            error.contains("latin1") && error.contains("utf8mb4"),
            "{error}"
        );
    }

    #[test]
    fn dates_of_timestamps() {
        let show = |seconds, micros| {
            let mut out = Vec::new();
            write_temporal(&mut out, &Value::Timestamp { seconds, micros });
            String::from_utf8(out).unwrap()
        };
        assert_eq!(show(0, 0), "'0000-00-00 00:00:00'");
        assert_eq!(show(1, 0), "'1970-01-01 00:00:01'");
        assert_eq!(show(951_782_400, 5), "'2000-02-29 00:00:00.000005'");
        assert_eq!(show(2_147_483_647, 0), "'2038-01-19 03:14:07'");
        assert_eq!(show(u32::MAX, 0), "'2106-02-07 06:28:15'");
    }

    #[test]
    fn floats_are_exact() {
        let show = |value| {
            let mut out = Vec::new();
            write_double(&mut out, value);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(show(-0.0), "-0e0");
        assert_eq!(show(1.0), "1e0");
        assert_eq!(show(f64::from(0.1_f32)), "1.0000000149011612e-1");
        assert_eq!(show(f64::MAX).parse::<f64>().unwrap(), f64::MAX);
    }
}
