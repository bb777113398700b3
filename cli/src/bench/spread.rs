//! Median and range of a few runs, and numbers for people.

use serde::Serialize;

/// Median and range.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one; the mean of the two in the middle of an even number.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of these values; `None` when there are none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[half]
        } else {
            (values[half - 1] + values[half]) / 2.0
        };
        Some(Self { median, min, max })
    }

    /// `12.1 s (11.9 to 13.0)`, through `show`.
    pub fn text(&self, show: impl Fn(f64) -> String) -> String {
        let (median, min, max) = (show(self.median), show(self.min), show(self.max));
        if min == max {
            median
        } else {
            format!("{median} ({min}..{max})")
        }
    }
}

/// The median of what is known of these runs, through `show`; `-` where nothing is.
pub fn median_of<R>(
    runs: &[R],
    value: &dyn Fn(&R) -> Option<f64>,
    show: &dyn Fn(f64) -> String,
) -> String {
    let spread = Spread::of(runs.iter().filter_map(value));
    spread.map_or_else(|| "-".to_owned(), |spread| show(spread.median))
}

/// A number with few digits: 1,234 or 12.3 or 0.123.
#[must_use]
pub fn few_digits(value: f64) -> String {
    if value >= 100.0 {
        thousands(value.round() as u64)
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else if value >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

/// Bytes as KiB, MiB or GiB.
#[must_use]
pub fn bytes(value: f64) -> String {
    let mut value = value;
    for unit in ["B", "KiB", "MiB"] {
        if value < 1024.0 {
            return format!("{} {unit}", few_digits(value).trim_end_matches(".00"));
        }
        value /= 1024.0;
    }
    format!("{} GiB", few_digits(value))
}

/// 1234567 as "1,234,567".
#[must_use]
pub fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Spread::of([]), None);
        let odd = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!((odd.median, odd.min, odd.max), (2.0, 1.0, 3.0));
        assert_eq!(Spread::of([4.0, 1.0]).unwrap().median, 2.5);
        assert_eq!(odd.text(few_digits), "2.00 (1.00..3.00)");
        assert_eq!(Spread::of([5.0]).unwrap().text(few_digits), "5.00");
    }

    #[test]
    fn what_is_not_known_has_no_median() {
        let median = |runs: &[Option<f64>]| median_of(runs, &|run| *run, &few_digits);
        assert_eq!(median(&[Some(1.0), None, Some(3.0)]), "2.00");
        assert_eq!(median(&[None]), "-");
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(few_digits(1234.5), "1,235");
        assert_eq!(few_digits(12.34), "12.3");
        assert_eq!(few_digits(0.0123), "0.012");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(bytes(512.0), "512 B");
        assert_eq!(bytes(1536.0), "1.50 KiB");
        assert_eq!(bytes(104_857_600.0), "100 MiB");
    }
}
