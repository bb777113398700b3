//! One [`Value`] to the bytes that it has in a row image; the reverse of [`crate::decode`].

use super::json;
use crate::decode::value::{DIGIT_BYTES, fraction_unit};
use crate::row::{ColumnKind, Value};

/// What the target's column takes of what its type could hold. The server does not look: it takes the bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    /// NULL. The server would put the default there instead.
    pub(crate) nullable: bool,
    /// No number below zero.
    pub(crate) unsigned: bool,
    /// Members of an ENUM or SET.
    pub(crate) members: usize,
}

/// Appends the value as a column of this kind has it; nothing for NULL.
///
/// # Errors
/// Why it has no such bytes, or the column does not take it; without the value itself.
pub(super) fn write(
    out: &mut Vec<u8>,
    kind: ColumnKind,
    limits: Limits,
    value: &Value,
) -> Result<(), String> {
    let below_zero = match value {
        Value::Int(number) => *number < 0,
        Value::Float(number) => *number < 0.0,
        Value::Double(number) => *number < 0.0,
        Value::Decimal(digits) => {
            digits.starts_with('-') && digits.contains(|digit| ('1'..='9').contains(&digit))
        }
        _ => false,
    };
    if limits.unsigned && below_zero {
        return Err(out_of_range());
    }
    match (kind, value) {
        (_, Value::Null) if limits.nullable => Ok(()),
        (_, Value::Null) => Err("the log has NULL for it, and it takes none".to_owned()),
        (ColumnKind::Tiny, _) => integer(out, value, limits.unsigned, 1),
        (ColumnKind::Short, _) => integer(out, value, limits.unsigned, 2),
        (ColumnKind::Int24, _) => integer(out, value, limits.unsigned, 3),
        (ColumnKind::Long, _) => integer(out, value, limits.unsigned, 4),
        (ColumnKind::LongLong, _) => integer(out, value, limits.unsigned, 8),
        (ColumnKind::Float, Value::Float(number)) => {
            out.extend_from_slice(&number.to_le_bytes());
            Ok(())
        }
        (ColumnKind::Double, Value::Double(number)) => {
            out.extend_from_slice(&number.to_le_bytes());
            Ok(())
        }
        (ColumnKind::Decimal { precision, scale }, Value::Decimal(digits)) => {
            decimal(out, digits, precision, scale)
        }
        (ColumnKind::Bit { bits }, Value::Bit(value)) => {
            big_endian(out, *value, usize::from(bits).div_ceil(8));
            Ok(())
        }
        (ColumnKind::Year, Value::Year(year)) => {
            out.push(year.saturating_sub(1900).to_le_bytes()[0]);
            Ok(())
        }
        (ColumnKind::Date, Value::Date { year, month, day }) => {
            let packed = u64::from(*year) << 9 | u64::from(*month) << 5 | u64::from(*day);
            little_endian(out, packed, 3);
            Ok(())
        }
        (ColumnKind::Time { fsp }, Value::Time { .. }) => {
            time(out, value, fsp);
            Ok(())
        }
        (ColumnKind::DateTime { fsp }, Value::DateTime { .. }) => {
            datetime(out, value, fsp);
            Ok(())
        }
        (ColumnKind::Timestamp { fsp }, Value::Timestamp { seconds, micros }) => {
            big_endian(out, u64::from(*seconds), 4);
            fraction(out, *micros, fsp);
            Ok(())
        }
        (
            ColumnKind::VarChar { max_bytes } | ColumnKind::Char { max_bytes },
            Value::Bytes(text),
        ) => prefixed(out, text, if max_bytes < 256 { 1 } else { 2 }),
        (
            ColumnKind::Blob { length_bytes }
            | ColumnKind::Geometry { length_bytes }
            | ColumnKind::Vector { length_bytes, .. },
            Value::Bytes(bytes),
        ) => prefixed(out, bytes, length_bytes),
        (ColumnKind::Enum { bytes }, Value::Enum(number)) => {
            if usize::from(*number) > limits.members {
                return Err(out_of_range());
            }
            little_endian(out, u64::from(*number), usize::from(bytes));
            Ok(())
        }
        (ColumnKind::Set { bytes }, Value::Set(bits)) => {
            if limits.members < 64 && bits >> limits.members != 0 {
                return Err(out_of_range());
            }
            little_endian(out, *bits, usize::from(bytes));
            Ok(())
        }
        (ColumnKind::Json { length_bytes }, Value::Json(document)) => match document.stored() {
            Some(stored) => prefixed(out, stored, length_bytes),
            None => {
                let tree = document.tree().map_err(|problem| problem.to_string())?;
                prefixed(out, &json::write(&tree)?, length_bytes)
            }
        },
        (kind, _) => Err(format!(
            "the log's value is of another type than its {kind:?}"
        )),
    }
}

fn out_of_range() -> String {
    "the value is out of the column's range".to_owned()
}

fn integer(out: &mut Vec<u8>, value: &Value, unsigned: bool, bytes: usize) -> Result<(), String> {
    let bits = 8 * bytes as u32;
    let (fits, number) = match *value {
        Value::Int(number) => {
            let widest = if unsigned { bits } else { bits - 1 };
            let magnitude = if number < 0 { !number } else { number };
            (
                magnitude.cast_unsigned().checked_shr(widest).unwrap_or(0) == 0,
                number.cast_unsigned(),
            )
        }
        Value::UInt(number) => {
            let widest = if unsigned { bits } else { bits - 1 };
            (number.checked_shr(widest).unwrap_or(0) == 0, number)
        }
        _ => return Err("the log's value is no whole number".to_owned()),
    };
    if !fits {
        return Err(out_of_range());
    }
    little_endian(out, number, bytes);
    Ok(())
}

fn little_endian(out: &mut Vec<u8>, value: u64, bytes: usize) {
    out.extend_from_slice(&value.to_le_bytes()[..bytes.min(8)]);
}

fn big_endian(out: &mut Vec<u8>, value: u64, bytes: usize) {
    out.extend_from_slice(&value.to_be_bytes()[8 - bytes.min(8)..]);
}

fn prefixed(out: &mut Vec<u8>, bytes: &[u8], length_bytes: u8) -> Result<(), String> {
    let (length, width) = (bytes.len() as u64, usize::from(length_bytes));
    if width < 8 && length >> (8 * width) != 0 {
        return Err(format!("a value of {length} bytes is longer than its type"));
    }
    little_endian(out, length, width);
    out.extend_from_slice(bytes);
    Ok(())
}

fn fraction(out: &mut Vec<u8>, micros: u32, fsp: u8) {
    let bytes = usize::from(fsp).div_ceil(2);
    big_endian(out, u64::from(micros / fraction_unit(fsp)), bytes);
}

/// 17 bits of year and month (year * 13 + month), 5 of the day, 5, 6 and 6 of the time; the highest bit says
/// that it is not below zero.
fn datetime(out: &mut Vec<u8>, value: &Value, fsp: u8) {
    let Value::DateTime {
        year,
        month,
        day,
        hour,
        minute,
        second,
        micros,
    } = *value
    else {
        return;
    };
    let date = (u64::from(year) * 13 + u64::from(month)) << 5 | u64::from(day);
    let time = u64::from(hour) << 12 | u64::from(minute) << 6 | u64::from(second);
    big_endian(out, 0x80_0000_0000 | date << 17 | time, 5);
    fraction(out, micros, fsp);
}

/// As one number with its fraction, which counts down below zero, and an offset that makes bytes compare.
fn time(out: &mut Vec<u8>, value: &Value, fsp: u8) {
    let Value::Time {
        negative,
        hours,
        minutes,
        seconds,
        micros,
    } = *value
    else {
        return;
    };
    let bytes = 3 + usize::from(fsp).div_ceil(2);
    let fraction_bits = (bytes - 3) * 8;
    let whole = i64::from(hours) << 12 | i64::from(minutes) << 6 | i64::from(seconds);
    let magnitude = whole << fraction_bits | i64::from(micros / fraction_unit(fsp));
    let packed = if negative { -magnitude } else { magnitude };
    let offset = 0x80_0000_i64 << fraction_bits;
    big_endian(out, (packed + offset).cast_unsigned(), bytes);
}

/// Groups of nine digits in four bytes from the point on, both ways; all bits turned below zero, and the
/// highest one turned once more.
fn decimal(out: &mut Vec<u8>, digits: &str, precision: u8, scale: u8) -> Result<(), String> {
    let wrong = || "a decimal of other digits than its type".to_owned();
    let (negative, digits) = match digits.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, digits),
    };
    let (whole, behind) = digits.split_once('.').unwrap_or((digits, ""));
    let scale = usize::from(scale);
    let wide = usize::from(precision)
        .checked_sub(scale)
        .ok_or_else(wrong)?;
    let whole = whole.trim_start_matches('0');
    if whole.len() > wide || behind.len() != scale {
        return Err(wrong());
    }
    let whole = format!("{whole:0>wide$}");
    let start = out.len();
    let (first, groups) = whole.split_at_checked(wide % 9).ok_or_else(wrong)?;
    let groups = groups.as_bytes().chunks(9);
    for group in std::iter::once(first.as_bytes())
        .chain(groups)
        .chain(behind.as_bytes().chunks(9))
    {
        let mut number = 0_u64;
        for digit in group {
            if !digit.is_ascii_digit() {
                return Err(wrong());
            }
            number = number * 10 + u64::from(digit - b'0');
        }
        let bytes = DIGIT_BYTES.get(group.len()).ok_or_else(wrong)?;
        big_endian(out, number, *bytes);
    }
    let packed = &mut out[start..];
    if negative {
        packed.iter_mut().for_each(|byte| *byte = !*byte);
    }
    if let Some(first) = packed.first_mut() {
        *first ^= 0x80;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_column_does_not_take_is_refused() {
        let taken = |kind, unsigned, value: Value| {
            let limits = Limits {
                nullable: unsigned,
                unsigned,
                members: 3,
            };
            write(&mut Vec::new(), kind, limits, &value).is_ok()
        };
        let tiny = ColumnKind::Tiny;
        for (unsigned, value, fits) in [
            (false, Value::Int(127), true),
            (false, Value::Int(128), false),
            (false, Value::Int(-128), true),
            (false, Value::Int(-129), false),
            (false, Value::UInt(200), false),
            (true, Value::UInt(255), true),
            (true, Value::UInt(256), false),
            (true, Value::Int(-1), false),
        ] {
            assert_eq!(
                taken(tiny, unsigned, value.clone()),
                fits,
                "{unsigned} {value:?}"
            );
        }
        let long = ColumnKind::LongLong;
        assert!(
            taken(long, true, Value::UInt(u64::MAX)) && taken(long, false, Value::Int(i64::MIN))
        );
        assert!(!taken(long, false, Value::UInt(u64::MAX)));
        let decimal = ColumnKind::Decimal {
            precision: 4,
            scale: 2,
        };
        for (unsigned, digits, fits) in [
            (false, "-99.99", true),
            (true, "-99.99", false),
            (true, "-0.00", true),
            (true, "99.99", true),
            (false, "100.00", false),
            (false, "1.5", false),
        ] {
            let value = Value::Decimal(digits.into());
            assert_eq!(taken(decimal, unsigned, value), fits, "{unsigned} {digits}");
        }
        assert!(!taken(ColumnKind::Double, true, Value::Double(-0.5)));
        let (one, two) = (ColumnKind::Enum { bytes: 1 }, ColumnKind::Set { bytes: 1 });
        assert!(taken(one, false, Value::Enum(3)) && !taken(one, false, Value::Enum(4)));
        assert!(taken(two, false, Value::Set(7)) && !taken(two, false, Value::Set(8)));
        let text = ColumnKind::Blob { length_bytes: 1 };
        assert!(taken(text, false, Value::Bytes(vec![0; 255].into())));
        assert!(!taken(text, false, Value::Bytes(vec![0; 256].into())));
        assert!(!taken(text, false, Value::Int(1)));
        assert!(taken(text, true, Value::Null) && !taken(text, false, Value::Null));
    }
}
