//! Rows brought together column by column: what the writes of a row come to, taken in one order.
//!
//! The content of a row is a *fold*: start with the row as it was, and take all writes in the total
//! order of (effective timestamp, node). Each step gives the row that the write made where nothing
//! came in between, and else brings both together by the columns' rules. Both nodes come to know the
//! same writes, and so fold to the same row, whatever order they arrived in.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::rules::ColumnRule;
use crate::row::{Row, Value};

/// A write of a row, with images in the order of the target table's columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Write {
    /// The row came to be.
    Insert(Row),
    /// It changed.
    Update {
        /// As its node had it before.
        before: Row,
        /// As its node had it then.
        after: Row,
    },
    /// It went.
    Delete,
}

/// A value that cannot be brought together with another: a sum that is no number of the column's
/// kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unmergeable {
    /// Index of the column.
    pub column: usize,
}

/// The row behind a write.
///
/// # Errors
/// [`Unmergeable`] where a sum does not fit.
pub fn step(
    row: Option<&Row>,
    write: &Write,
    rules: &[ColumnRule],
) -> Result<Option<Row>, Unmergeable> {
    match (write, row) {
        (Write::Delete, _) => Ok(None),
        (Write::Insert(after) | Write::Update { after, .. }, None) => Ok(Some(after.clone())),
        (Write::Insert(after), Some(_)) => Ok(Some(after.clone())),
        (Write::Update { before, after }, Some(row)) => {
            let mut merged = after.clone();
            for (column, value) in merged.iter_mut().enumerate() {
                let rule = rules.get(column).copied().unwrap_or_default();
                let (Some(present), Some(was)) = (row.get(column), before.get(column)) else {
                    continue;
                };
                *value = bring_together(rule, present, was, value).ok_or(Unmergeable { column })?;
            }
            Ok(Some(merged))
        }
    }
}

/// One column: what stands, and what a write changed from `before` to `after`.
fn bring_together(
    rule: ColumnRule,
    present: &Value,
    before: &Value,
    after: &Value,
) -> Option<Value> {
    // Nobody came in between: as the write made it, also where it lowers a maximum.
    if present == before {
        return Some(after.clone());
    }
    // Of a column without a value there is nothing to add to or to compare with.
    let some_null = [present, before, after].contains(&&Value::Null);
    Some(match rule {
        ColumnRule::Later => after.clone(),
        ColumnRule::Changed if before == after => present.clone(),
        ColumnRule::Changed => after.clone(),
        ColumnRule::Delta if some_null => after.clone(),
        ColumnRule::Delta => add_difference(present, before, after)?,
        ColumnRule::Max | ColumnRule::Min => {
            let wanted = match rule {
                ColumnRule::Max => Ordering::Greater,
                _ => Ordering::Less,
            };
            match (present, after) {
                (Value::Null, _) => after.clone(),
                (_, Value::Null) => present.clone(),
                _ if compare(after, present)? == wanted => after.clone(),
                _ => present.clone(),
            }
        }
    })
}

/// `present + (after - before)`, exactly.
fn add_difference(present: &Value, before: &Value, after: &Value) -> Option<Value> {
    match (present, before, after) {
        (Value::Decimal(present), Value::Decimal(before), Value::Decimal(after)) => {
            let difference = Digits::parse(after)?.plus(&Digits::parse(before)?.negated());
            let sum = Digits::parse(present)?.plus(&difference);
            Some(Value::Decimal(sum.show().into()))
        }
        (present, before, after) => {
            let sum = whole(present)? + (whole(after)? - whole(before)?);
            match present {
                Value::UInt(_) => u64::try_from(sum).ok().map(Value::UInt),
                _ => i64::try_from(sum).ok().map(Value::Int),
            }
        }
    }
}

fn whole(value: &Value) -> Option<i128> {
    match value {
        Value::Int(number) => Some(i128::from(*number)),
        Value::UInt(number) => Some(i128::from(*number)),
        _ => None,
    }
}

fn compare(one: &Value, other: &Value) -> Option<Ordering> {
    if let (Some(one), Some(other)) = (whole(one), whole(other)) {
        return Some(one.cmp(&other));
    }
    match (one, other) {
        (Value::Decimal(one), Value::Decimal(other)) => {
            let difference = Digits::parse(one)?.plus(&Digits::parse(other)?.negated());
            Some(difference.sign())
        }
        (Value::Year(one), Value::Year(other)) => Some(one.cmp(other)),
        (one, other) => Some(instant(one)?.cmp(&instant(other)?)),
    }
}

/// A date or time as a number that rises with it.
fn instant(value: &Value) -> Option<i128> {
    let clock = |hours: i128, minutes: u8, seconds: u8, micros: u32| {
        ((hours * 60 + i128::from(minutes)) * 60 + i128::from(seconds)) * 1_000_000
            + i128::from(micros)
    };
    let days = |year: u16, month: u8, day: u8| {
        // Not days, but in their order; an invalid date has a place too.
        (i128::from(year) * 16 + i128::from(month)) * 32 + i128::from(day)
    };
    Some(match *value {
        Value::Date { year, month, day } => days(year, month, day),
        Value::DateTime {
            year,
            month,
            day,
            hour,
            minute,
            second,
            micros,
        } => {
            let day = days(year, month, day) * 86_400_000_000;
            day + clock(i128::from(hour), minute, second, micros)
        }
        Value::Timestamp { seconds, micros } => {
            i128::from(seconds) * 1_000_000 + i128::from(micros)
        }
        Value::Time {
            negative,
            hours,
            minutes,
            seconds,
            micros,
        } => {
            let time = clock(i128::from(hours), minutes, seconds, micros);
            if negative { -time } else { time }
        }
        _ => return None,
    })
}

/// A decimal number of any length: the servers have up to 65 digits, more than any integer here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Digits {
    negative: bool,
    /// The lowest first, each 0..=9.
    digits: Vec<u8>,
    /// How many of them stand behind the point.
    scale: usize,
}

impl Digits {
    fn parse(text: &str) -> Option<Self> {
        let (negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = rest.split_once('.').unwrap_or((rest, ""));
        let letters = whole.bytes().chain(fraction.bytes());
        let mut digits = letters
            .map(|letter| letter.is_ascii_digit().then(|| letter - b'0'))
            .collect::<Option<Vec<u8>>>()?;
        digits.reverse();
        Some(Self {
            negative,
            digits,
            scale: fraction.len(),
        })
    }

    fn negated(&self) -> Self {
        Self {
            negative: !self.negative,
            ..self.clone()
        }
    }

    /// With this many digits behind the point.
    fn scaled(&self, scale: usize) -> Vec<u8> {
        let mut digits = vec![0; scale - self.scale];
        digits.extend_from_slice(&self.digits);
        digits
    }

    fn plus(&self, other: &Self) -> Self {
        let scale = self.scale.max(other.scale);
        let (mut one, mut two) = (self.scaled(scale), other.scaled(scale));
        let length = one.len().max(two.len()) + 1;
        one.resize(length, 0);
        two.resize(length, 0);
        let mut digits = Vec::with_capacity(length);
        if self.negative == other.negative {
            let mut carry = 0;
            for (a, b) in one.iter().zip(&two) {
                let sum = a + b + carry;
                digits.push(sum % 10);
                carry = sum / 10;
            }
            return Self {
                negative: self.negative,
                digits,
                scale,
            };
        }
        // The smaller magnitude from the greater.
        let greater = one.iter().rev().cmp(two.iter().rev()) != Ordering::Less;
        let (large, small, negative) = if greater {
            (&one, &two, self.negative)
        } else {
            (&two, &one, other.negative)
        };
        let mut borrow = 0;
        for (a, b) in large.iter().zip(small) {
            let taken = b + borrow;
            borrow = u8::from(*a < taken);
            digits.push(a + 10 * borrow - taken);
        }
        Self {
            negative,
            digits,
            scale,
        }
    }

    fn sign(&self) -> Ordering {
        match (self.digits.iter().all(|digit| *digit == 0), self.negative) {
            (true, _) => Ordering::Equal,
            (false, true) => Ordering::Less,
            (false, false) => Ordering::Greater,
        }
    }

    fn show(&self) -> String {
        let mut text = String::new();
        if self.sign() == Ordering::Less {
            text.push('-');
        }
        let whole = &self.digits[self.scale.min(self.digits.len())..];
        let first = whole.iter().rposition(|digit| *digit != 0).unwrap_or(0);
        let mut shown = whole.get(..=first).unwrap_or(&[]).iter().rev();
        if whole.is_empty() {
            text.push('0');
        }
        text.extend(shown.by_ref().map(|digit| char::from(b'0' + digit)));
        if self.scale > 0 {
            text.push('.');
            let fraction = self.digits[..self.scale].iter().rev();
            text.extend(fraction.map(|digit| char::from(b'0' + digit)));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plus(one: &str, other: &str) -> String {
        Digits::parse(one)
            .unwrap()
            .plus(&Digits::parse(other).unwrap())
            .show()
    }

    #[test]
    fn decimals_are_added_exactly() {
        assert_eq!(plus("1.50", "0.75"), "2.25");
        assert_eq!(plus("0.01", "-0.02"), "-0.01");
        assert_eq!(plus("-5", "5"), "0");
        assert_eq!(plus("-5.00", "5.00"), "0.00");
        let nines = "9".repeat(65);
        assert_eq!(plus(&nines, "1"), format!("1{}", "0".repeat(65)));
        assert_eq!(plus("100", "-1"), "99");
        assert_eq!(plus("0.5", "0.25"), "0.75");
    }

    proptest! {
        #[test]
        fn decimals_add_as_integers_do(a in -1_000_000_i64..1_000_000, b in -1_000_000_i64..1_000_000) {
            let cents = |n: i64| format!("{}{}.{:02}", if n < 0 { "-" } else { "" }, n.abs() / 100, n.abs() % 100);
            prop_assert_eq!(plus(&cents(a), &cents(b)), cents(a + b));
        }
    }

    fn row(values: &[i64]) -> Row {
        values.iter().map(|value| Value::Int(*value)).collect()
    }

    #[test]
    fn columns_are_brought_together_by_their_rules() {
        use ColumnRule::{Changed, Delta, Later, Max, Min};
        let rules = [Later, Delta, Max, Min, Changed, Changed];
        let write = Write::Update {
            before: row(&[0, 10, 10, 10, 1, 1]),
            after: row(&[7, 15, 12, 12, 1, 2]),
        };
        let present = row(&[5, 11, 20, 11, 9, 9]);
        let merged = step(Some(&present), &write, &rules).unwrap().unwrap();
        assert_eq!(merged, row(&[7, 16, 20, 11, 9, 2]));
        // Nobody in between: as it was written, also downwards.
        let lowered = Write::Update {
            before: row(&[0, 1, 9, 0, 0, 0]),
            after: row(&[0, 1, 3, 0, 0, 0]),
        };
        let present = row(&[0, 1, 9, 0, 0, 0]);
        let merged = step(Some(&present), &lowered, &rules).unwrap().unwrap();
        assert_eq!(merged, row(&[0, 1, 3, 0, 0, 0]));
    }

    #[test]
    fn a_sum_that_does_not_fit_is_said() {
        let write = Write::Update {
            before: row(&[0]),
            after: row(&[i64::MAX]),
        };
        let met = step(Some(&row(&[5])), &write, &[ColumnRule::Delta]);
        assert_eq!(met, Err(Unmergeable { column: 0 }));
    }
}
