//! The row key of a stored row as values, so that a row event can name the row.
//!
//! The server gives each as plain text, by an expression that loses nothing.

use super::mapping::Mapping;
use crate::connection::quote_identifier;
use crate::row::{ColumnKind, Row, Value};

/// The expressions that read the row key, to be selected in their order.
///
/// # Errors
/// The column that is of a type whose stored value cannot be read so.
pub(super) fn expressions(mapping: &Mapping) -> Result<Vec<String>, String> {
    let columns = mapping.row_key.iter().map(|(source, target)| {
        let (source, target) = (
            &mapping.source.columns[*source],
            &mapping.target.columns[*target],
        );
        let name = quote_identifier(&target.name);
        let refuse = || Err(format!("{} ({})", target.name, target.column_type));
        Ok(match source.kind {
            ColumnKind::Float | ColumnKind::Double | ColumnKind::Json { .. } => return refuse(),
            // As text they read otherwise than as stored.
            _ if matches!(target.data_type.as_str(), "uuid" | "inet4" | "inet6") => {
                return refuse();
            }
            ColumnKind::VarChar { .. }
            | ColumnKind::Char { .. }
            | ColumnKind::Blob { .. }
            | ColumnKind::Geometry { .. }
            | ColumnKind::Vector { .. } => format!("HEX({name})"),
            ColumnKind::Timestamp { .. } => format!("CAST(UNIX_TIMESTAMP({name}) AS CHAR)"),
            ColumnKind::Bit { .. } | ColumnKind::Enum { .. } | ColumnKind::Set { .. } => {
                format!("CAST(CAST({name} AS UNSIGNED) AS CHAR)")
            }
            _ => format!("CAST({name} AS CHAR)"),
        })
    });
    columns.collect()
}

/// An image of the table of which only the row key is known: the texts that [`expressions`] gave. `None` where one
/// cannot be read.
pub(super) fn image(mapping: &Mapping, texts: &[String]) -> Option<Row> {
    let mut row = vec![Value::Null; mapping.source.columns.len()];
    if texts.len() != mapping.row_key.len() {
        return None;
    }
    for ((source, target), text) in mapping.row_key.iter().zip(texts) {
        let kind = mapping.source.columns.get(*source)?.kind;
        let unsigned = mapping.target.columns.get(*target)?.unsigned;
        *row.get_mut(*source)? = value(kind, unsigned, text)?;
    }
    Some(row.into())
}

fn value(kind: ColumnKind, unsigned: bool, text: &str) -> Option<Value> {
    Some(match kind {
        ColumnKind::Tiny
        | ColumnKind::Short
        | ColumnKind::Int24
        | ColumnKind::Long
        | ColumnKind::LongLong => match unsigned {
            true => Value::UInt(text.parse().ok()?),
            false => Value::Int(text.parse().ok()?),
        },
        ColumnKind::Decimal { .. } => Value::Decimal(text.into()),
        ColumnKind::Bit { .. } => Value::Bit(text.parse().ok()?),
        ColumnKind::Year => Value::Year(text.parse().ok()?),
        ColumnKind::Enum { .. } => Value::Enum(text.parse().ok()?),
        ColumnKind::Set { .. } => Value::Set(text.parse().ok()?),
        ColumnKind::Date => {
            let [year, month, day] = numbers(text, '-')?;
            Value::Date {
                year: year.try_into().ok()?,
                month: month.try_into().ok()?,
                day: day.try_into().ok()?,
            }
        }
        ColumnKind::Time { .. } => {
            let (negative, text) = match text.strip_prefix('-') {
                Some(rest) => (true, rest),
                None => (false, text),
            };
            let (text, micros) = fraction(text)?;
            let [hours, minutes, seconds] = numbers(text, ':')?;
            Value::Time {
                negative,
                hours: hours.try_into().ok()?,
                minutes: minutes.try_into().ok()?,
                seconds: seconds.try_into().ok()?,
                micros,
            }
        }
        ColumnKind::DateTime { .. } => {
            let (text, micros) = fraction(text)?;
            let (date, time) = text.split_once(' ')?;
            let [year, month, day] = numbers(date, '-')?;
            let [hour, minute, second] = numbers(time, ':')?;
            Value::DateTime {
                year: year.try_into().ok()?,
                month: month.try_into().ok()?,
                day: day.try_into().ok()?,
                hour: hour.try_into().ok()?,
                minute: minute.try_into().ok()?,
                second: second.try_into().ok()?,
                micros,
            }
        }
        ColumnKind::Timestamp { .. } => {
            let (text, micros) = fraction(text)?;
            Value::Timestamp {
                seconds: text.parse().ok()?,
                micros,
            }
        }
        ColumnKind::VarChar { .. }
        | ColumnKind::Char { .. }
        | ColumnKind::Blob { .. }
        | ColumnKind::Geometry { .. }
        | ColumnKind::Vector { .. } => Value::Bytes(bytes(text)?),
        ColumnKind::Float | ColumnKind::Double | ColumnKind::Json { .. } => return None,
    })
}

fn numbers(text: &str, between: char) -> Option<[u32; 3]> {
    let mut parts = text.split(between).map(|part| part.parse().ok());
    let numbers = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(numbers)
}

/// What stands in front of the point, and what is behind it in microseconds.
fn fraction(text: &str) -> Option<(&str, u32)> {
    let Some((whole, digits)) = text.split_once('.') else {
        return Some((text, 0));
    };
    let micros = format!("{digits:0<6}");
    (micros.len() == 6).then_some(())?;
    Some((whole, micros.parse().ok()?))
}

fn bytes(digits: &str) -> Option<Box<[u8]>> {
    let pairs = digits.as_bytes().chunks(2);
    let bytes = pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    bytes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_as_the_log_has_the_values() {
        let read = |kind, text| value(kind, false, text);
        let time = ColumnKind::Time { fsp: 2 };
        assert_eq!(
            read(time, "-838:59:58.25"),
            Some(Value::Time {
                negative: true,
                hours: 838,
                minutes: 59,
                seconds: 58,
                micros: 250_000
            })
        );
        assert_eq!(
            read(
                ColumnKind::DateTime { fsp: 6 },
                "0000-00-00 00:00:00.000001"
            ),
            Some(Value::DateTime {
                year: 0,
                month: 0,
                day: 0,
                hour: 0,
                minute: 0,
                second: 0,
                micros: 1
            })
        );
        let seconds = |seconds, micros| Some(Value::Timestamp { seconds, micros });
        let kind = ColumnKind::Timestamp { fsp: 3 };
        assert_eq!(
            read(kind, "1700000000.120"),
            seconds(1_700_000_000, 120_000)
        );
        assert_eq!(read(kind, "0"), seconds(0, 0));
        let text = ColumnKind::VarChar { max_bytes: 9 };
        assert_eq!(
            read(text, "00FF61"),
            Some(Value::Bytes([0, 255, 97].into()))
        );
        assert_eq!(read(text, "0g"), None);
        assert_eq!(
            value(ColumnKind::LongLong, true, "18446744073709551615"),
            Some(Value::UInt(u64::MAX))
        );
        assert_eq!(read(ColumnKind::Date, "2024-02"), None);
        assert_eq!(read(ColumnKind::Long, ""), None);
    }
}
