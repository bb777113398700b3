//! One column's bytes in a row image to a [`Value`].

use super::event::Flavor;
use super::json::Json;
use super::reader::{DecodeError, Reader, Result, malformed};
use super::table_map::Codec;
use super::unpack;
use crate::row::{ColumnKind, Value};

#[inline]
pub(super) fn decode(
    flavor: Flavor,
    codec: Codec,
    unsigned: Option<bool>,
    reader: &mut Reader<'_>,
) -> Result<Value> {
    let unsigned = unsigned == Some(true);
    Ok(match codec.kind {
        ColumnKind::Tiny => {
            let raw = reader.u8()?;
            integer(unsigned, u64::from(raw), i64::from(raw as i8))
        }
        ColumnKind::Short => {
            let raw = reader.u16()?;
            integer(unsigned, u64::from(raw), i64::from(raw as i16))
        }
        ColumnKind::Int24 => {
            let raw = reader.uint(3)? as u32;
            let signed = ((raw << 8) as i32) >> 8;
            integer(unsigned, u64::from(raw), i64::from(signed))
        }
        ColumnKind::Long => {
            let raw = reader.u32()?;
            integer(unsigned, u64::from(raw), i64::from(raw as i32))
        }
        ColumnKind::LongLong => {
            let raw = reader.u64()?;
            integer(unsigned, raw, raw as i64)
        }
        ColumnKind::Float => Value::Float(f32::from_le_bytes(reader.array()?)),
        ColumnKind::Double => Value::Double(f64::from_le_bytes(reader.array()?)),
        ColumnKind::Decimal { precision, scale } => {
            Value::Decimal(decimal(reader, precision, scale)?)
        }
        ColumnKind::Bit { bits } => Value::Bit(reader.uint_be(usize::from(bits).div_ceil(8))?),
        ColumnKind::Year => match reader.u8()? {
            0 => Value::Year(0),
            offset => Value::Year(1900 + u16::from(offset)),
        },
        ColumnKind::Date => {
            let raw = reader.uint(3)? as u32;
            Value::Date {
                year: (raw >> 9) as u16,
                month: (raw >> 5) as u8 & 15,
                day: raw as u8 & 31,
            }
        }
        ColumnKind::Time { fsp } => time(reader, fsp)?,
        ColumnKind::DateTime { fsp } => {
            let packed = reader.uint_be(5)?;
            let micros = fraction(reader, fsp)?;
            datetime(packed & 0x7f_ffff_ffff, micros)
        }
        ColumnKind::Timestamp { fsp } => Value::Timestamp {
            seconds: reader.uint_be(4)? as u32,
            micros: fraction(reader, fsp)?,
        },
        ColumnKind::VarChar { max_bytes } | ColumnKind::Char { max_bytes } => {
            let length = if max_bytes < 256 {
                usize::from(reader.u8()?)
            } else {
                usize::from(reader.u16()?)
            };
            string(codec, reader.bytes(length)?)?
        }
        ColumnKind::Blob { length_bytes } => string(codec, prefixed(reader, length_bytes)?)?,
        ColumnKind::Geometry { length_bytes } | ColumnKind::Vector { length_bytes, .. } => {
            Value::Bytes(prefixed(reader, length_bytes)?.into())
        }
        ColumnKind::Enum { bytes } => Value::Enum(reader.uint(usize::from(bytes))? as u16),
        ColumnKind::Set { bytes } => Value::Set(reader.uint(usize::from(bytes))?),
        ColumnKind::Json { length_bytes } => {
            if flavor == Flavor::MariaDb {
                return malformed("a binary JSON column, which MariaDB does not have");
            }
            Value::Json(Json::new(prefixed(reader, length_bytes)?))
        }
    })
}

#[inline]
fn integer(unsigned: bool, raw: u64, signed: i64) -> Value {
    if unsigned {
        Value::UInt(raw)
    } else {
        Value::Int(signed)
    }
}

pub(super) fn prefixed<'a>(reader: &mut Reader<'a>, length_bytes: u8) -> Result<&'a [u8]> {
    let length = reader.uint(usize::from(length_bytes))?;
    match usize::try_from(length) {
        Ok(length) => reader.bytes(length),
        Err(_) => malformed(format!("a value of {length} bytes")),
    }
}

fn string(codec: Codec, bytes: &[u8]) -> Result<Value> {
    if codec.compressed {
        return Ok(Value::Bytes(unpack::column(bytes)?.into()));
    }
    Ok(Value::Bytes(bytes.into()))
}

/// The fraction of a second behind DATETIME and TIMESTAMP, in microseconds.
fn fraction(reader: &mut Reader<'_>, fsp: u8) -> Result<u32> {
    let micros = match fsp {
        0 => 0,
        1 | 2 => reader.uint_be(1)? * 10_000,
        3 | 4 => reader.uint_be(2)? * 100,
        _ => reader.uint_be(3)?,
    } as u32;
    if micros > 999_999 {
        return malformed(format!("a fraction of {micros} microseconds"));
    }
    Ok(micros)
}

/// 17 bits of year and month (year * 13 + month), 5 of the day, 5, 6 and 6 of the time.
pub(super) fn datetime(packed: u64, micros: u32) -> Value {
    let date = packed >> 17;
    let year_month = date >> 5;
    Value::DateTime {
        year: (year_month / 13) as u16,
        month: (year_month % 13) as u8,
        day: (date & 31) as u8,
        hour: (packed >> 12) as u8 & 31,
        minute: (packed >> 6) as u8 & 63,
        second: packed as u8 & 63,
        micros,
    }
}

/// Microseconds of one unit of a fraction with so many digits: it is kept in whole bytes.
pub(crate) fn fraction_unit(fsp: u8) -> u32 {
    match fsp {
        0 => 1_000_000,
        1 | 2 => 10_000,
        3 | 4 => 100,
        _ => 1,
    }
}

/// The packed number is stored with an offset so that its bytes compare; a negative value counts
/// down, its fraction included.
fn time(reader: &mut Reader<'_>, fsp: u8) -> Result<Value> {
    let bytes = 3 + usize::from(fsp).div_ceil(2);
    let fraction_bits = (bytes as u32 - 3) * 8;
    let offset = 0x80_0000_i64 << fraction_bits;
    let packed = reader.uint_be(bytes)? as i64 - offset;
    let magnitude = packed.unsigned_abs();
    let micros = (magnitude & ((1 << fraction_bits) - 1)) as u32 * fraction_unit(fsp);
    if micros > 999_999 {
        return malformed(format!("a fraction of {micros} microseconds"));
    }
    let whole = magnitude >> fraction_bits;
    Ok(Value::Time {
        negative: packed < 0,
        hours: (whole >> 12) as u16 & 1023,
        minutes: (whole >> 6) as u8 & 63,
        seconds: whole as u8 & 63,
        micros,
    })
}

/// Bytes that hold 0..=9 decimal digits.
pub(crate) const DIGIT_BYTES: [usize; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];

/// MySQL's packed decimal: groups of nine digits in four bytes, the sign in the highest bit.
pub(super) fn decimal(reader: &mut Reader<'_>, precision: u8, scale: u8) -> Result<Box<str>> {
    let (precision, scale) = (usize::from(precision), usize::from(scale));
    let Some(integer) = precision.checked_sub(scale) else {
        return malformed(format!("DECIMAL({precision},{scale})"));
    };
    let bytes = integer / 9 * 4 + DIGIT_BYTES[integer % 9] + scale / 9 * 4 + DIGIT_BYTES[scale % 9];
    let mut buffer = [0_u8; 128];
    let packed = reader.bytes(bytes)?;
    let Some(buffer) = buffer.get_mut(..bytes).filter(|buffer| !buffer.is_empty()) else {
        return malformed(format!("DECIMAL({precision},{scale})"));
    };
    buffer.copy_from_slice(packed);
    let negative = buffer[0] & 0x80 == 0;
    buffer[0] ^= 0x80;
    if negative {
        for byte in buffer.iter_mut() {
            *byte = !*byte;
        }
    }
    let mut reader = Reader::new(buffer);
    // Sign, a leading zero, the digits, the point.
    let mut text = String::with_capacity(precision + 3);
    if negative {
        text.push('-');
    }
    let digits_from = text.len();
    push_digits(&mut text, &mut reader, integer % 9)?;
    for _ in 0..integer / 9 {
        push_digits(&mut text, &mut reader, 9)?;
    }
    let zeros = text[digits_from..]
        .bytes()
        .take_while(|digit| *digit == b'0')
        .count();
    text.replace_range(digits_from..digits_from + zeros, "");
    if text.len() == digits_from {
        text.push('0');
    }
    if scale > 0 {
        text.push('.');
        for _ in 0..scale / 9 {
            push_digits(&mut text, &mut reader, 9)?;
        }
        push_digits(&mut text, &mut reader, scale % 9)?;
    }
    Ok(text.into())
}

fn push_digits(text: &mut String, reader: &mut Reader<'_>, digits: usize) -> Result<()> {
    const POWERS: [u64; 10] = [
        1,
        10,
        100,
        1_000,
        10_000,
        100_000,
        1_000_000,
        10_000_000,
        100_000_000,
        1_000_000_000,
    ];
    if digits == 0 {
        return Ok(());
    }
    let group = reader.uint_be(DIGIT_BYTES[digits])?;
    if group >= POWERS[digits] {
        return Err(DecodeError("a broken decimal".to_owned()));
    }
    for position in (0..digits).rev() {
        text.push(char::from(b'0' + (group / POWERS[position] % 10) as u8));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: ColumnKind, bytes: &[u8]) -> Value {
        let codec = Codec {
            kind,
            compressed: false,
        };
        let mut reader = Reader::new(bytes);
        let value = decode(Flavor::MySql, codec, None, &mut reader).unwrap();
        assert!(reader.is_empty());
        value
    }

    #[test]
    fn values_are_small() {
        // Rows are held by the million while they wait.
        assert!(size_of::<Value>() <= 24, "{}", size_of::<Value>());
    }

    #[test]
    fn decimals() {
        let read = |precision, scale, bytes: &[u8]| {
            decimal(&mut Reader::new(bytes), precision, scale).unwrap()
        };
        assert_eq!(&*read(5, 2, &[0x80, 0x01, 0x32]), "1.50");
        assert_eq!(&*read(5, 2, &[0x7f, 0xfe, 0xcd]), "-1.50");
        assert_eq!(&*read(2, 2, &[0x80]), "0.00");
        assert_eq!(
            &*read(14, 4, &[0x81, 0x0d, 0xfb, 0x38, 0xd2, 0x04, 0xd2]),
            "1234567890.1234"
        );
    }

    #[test]
    fn times_count_down_below_zero() {
        let half = read(ColumnKind::Time { fsp: 1 }, &[0x7f, 0xff, 0xff, 0xce]);
        assert_eq!(
            half,
            Value::Time {
                negative: true,
                hours: 0,
                minutes: 0,
                seconds: 0,
                micros: 500_000
            }
        );
        let second = read(ColumnKind::Time { fsp: 0 }, &[0x7f, 0xff, 0xff]);
        assert_eq!(
            second,
            Value::Time {
                negative: true,
                hours: 0,
                minutes: 0,
                seconds: 1,
                micros: 0
            }
        );
    }

    #[test]
    fn signs() {
        assert_eq!(read(ColumnKind::Int24, &[0xff, 0xff, 0xff]), Value::Int(-1));
        assert_eq!(read(ColumnKind::Tiny, &[0x80]), Value::Int(-128));
    }
}
