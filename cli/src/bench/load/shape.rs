//! What the transactions of a load are like, and which rows they choose.

use std::fmt;

use rand::RngExt as _;
use rand::rngs::StdRng;
use serde::Serialize;

/// What a transaction does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// sysbench oltp_write_only: an indexed update, another update, a delete and an insert of one row
    WriteOnly,
    /// sysbench oltp_insert: one row
    Insert,
    /// sysbench oltp_update_index: an indexed column of one row
    UpdateIndex,
    /// sysbench oltp_update_non_index: another column of one row
    UpdateNonIndex,
    /// A table with two secondary unique keys: updates, fresh values, values taken over and swapped
    UniqueKeys,
    /// Two updates of a few hot rows; of 10 % of the transactions, one hits a row that the other node wrote too
    HotRows,
    /// One to 1000 rows, and documents of 1 to 32 KiB
    MixedSizes,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Shape::WriteOnly => "write-only",
            Shape::Insert => "insert",
            Shape::UpdateIndex => "update-index",
            Shape::UpdateNonIndex => "update-non-index",
            Shape::UniqueKeys => "unique-keys",
            Shape::HotRows => "hot-rows",
            Shape::MixedSizes => "mixed-sizes",
        })
    }
}

/// How rows are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Distribution {
    /// sysbench's default: 75 % of the choices fall on 1 % of the rows, the rest around them
    Special,
    /// Every row is as likely as any other
    Uniform,
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Distribution::Special => "special",
            Distribution::Uniform => "uniform",
        })
    }
}

impl Distribution {
    /// A number from `first` to `last`, both included.
    pub fn choose(self, rng: &mut StdRng, first: u32, last: u32) -> u32 {
        match self {
            Distribution::Uniform => rng.random_range(first..=last),
            Distribution::Special => special(rng, first, last),
        }
    }
}

/// `sb_rand_special` of sysbench 1.0.20 with its defaults: `--rand-spec-iter=12
/// --rand-spec-pct=1 --rand-spec-res=75`.
fn special(rng: &mut StdRng, first: u32, last: u32) -> u32 {
    const ITERATIONS: u64 = 12;
    let width = u64::from(last - first);
    if width == 0 {
        return first;
    }
    let draw = rng.random_range(0..width * 4);
    let offset = if draw < width {
        let sum: u64 = (0..ITERATIONS).map(|_| rng.random_range(0..width)).sum();
        sum / ITERATIONS
    } else {
        let few = (width / 100).max(1);
        draw % few + width / 2 - few / 2
    };
    // Both parts lie within the width.
    first + u32::try_from(offset.min(width)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    #[test]
    fn special_hits_one_percent_three_times_in_four() {
        let mut rng = StdRng::seed_from_u64(7);
        let (first, last) = (1001, 101_000);
        let few = (50_500, 51_501);
        let mut within = 0;
        for _ in 0..100_000 {
            let id = Distribution::Special.choose(&mut rng, first, last);
            assert!((first..=last).contains(&id));
            within += u32::from((few.0..=few.1).contains(&id));
        }
        // The bell around the same middle adds a few per cent.
        assert!((75_000..80_000).contains(&within), "{within}");
    }

    #[test]
    fn one_row_is_chosen() {
        let mut rng = StdRng::seed_from_u64(7);
        for distribution in [Distribution::Special, Distribution::Uniform] {
            assert_eq!(distribution.choose(&mut rng, 5, 5), 5);
        }
    }
}
