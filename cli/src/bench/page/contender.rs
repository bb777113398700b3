//! How a page shows its contenders: each in one colour, in bars, lines and legend.

use plotters::style::RGBColor;

use super::plot::{self, Bar, Line};
use crate::bench::spread::Spread;

/// One contender.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) name: String,
    pub(super) colour: RGBColor,
    /// Whether it is twinlog.
    pub(super) own: bool,
}

impl Shown {
    /// Twinlog in its colour, the others in theirs, in their order.
    pub(super) fn all<'a>(contenders: impl Iterator<Item = (&'a str, bool)>) -> Vec<Self> {
        let mut others = 0..;
        let shown = contenders.map(|(name, own)| Self {
            name: name.to_owned(),
            colour: if own {
                plot::OWN
            } else {
                plot::other(others.next().unwrap_or(0))
            },
            own,
        });
        shown.collect()
    }

    /// Its bar.
    pub(super) fn bar(&self, spread: Spread) -> Bar {
        Bar {
            name: self.name.clone(),
            colour: self.colour,
            spread,
        }
    }

    /// The line of one of its runs.
    pub(super) fn line(&self, points: Vec<(f64, f64)>) -> Line {
        Line {
            colour: self.colour,
            strong: self.own,
            points,
        }
    }
}

/// Names and colours, for below a plot.
pub(super) fn legend(shown: &[Shown]) -> Vec<(String, String)> {
    let mut legend: Vec<(String, String)> = Vec::new();
    for one in shown {
        let entry = (one.name.clone(), plot::html(one.colour));
        if !legend.contains(&entry) {
            legend.push(entry);
        }
    }
    legend
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contender_keeps_its_colour_and_is_named_once() {
        let shown = Shown::all([("native", false), ("twinlog", true), ("off", false)].into_iter());
        assert_eq!(shown[1].colour, plot::OWN);
        assert_ne!(shown[0].colour, shown[2].colour);
        let twice = Shown::all([("twinlog", true), ("twinlog", true)].into_iter());
        assert_eq!(legend(&twice).len(), 1);
        assert_eq!(legend(&shown).len(), 3);
    }
}
