//! Plots as SVG.

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::super::spread::Spread;

const WIDTH: u32 = 900;
const HEIGHT: u32 = 360;
const INK: RGBColor = RGBColor(0x1c, 0x23, 0x30);
const QUIET: RGBColor = RGBColor(0x5c, 0x66, 0x75);
const GRID: RGBColor = RGBColor(0xe6, 0xea, 0xef);
/// Twinlog's colour.
pub(super) const OWN: RGBColor = RGBColor(0x1b, 0x66, 0xc9);
/// The others', in their order.
const OTHERS: [RGBColor; 6] = [
    RGBColor(0xd9, 0x5f, 0x0e),
    RGBColor(0xe8, 0x9c, 0x2c),
    RGBColor(0x8a, 0x6d, 0x3b),
    RGBColor(0x7a, 0x85, 0x94),
    RGBColor(0xa8, 0x3f, 0x5d),
    RGBColor(0x4f, 0x8a, 0x5b),
];
const FONT: &str = "sans-serif";

/// The colour of contender `index` among those that are not twinlog.
pub(super) fn other(index: usize) -> RGBColor {
    OTHERS[index % OTHERS.len()]
}

/// As HTML writes it.
pub(super) fn html(colour: RGBColor) -> String {
    format!("#{:02x}{:02x}{:02x}", colour.0, colour.1, colour.2)
}

/// One line of a plot.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) colour: RGBColor,
    pub(super) strong: bool,
    pub(super) points: Vec<(f64, f64)>,
}

/// What stands at the axes.
pub(super) struct Axes<'a> {
    pub(super) x: &'a str,
    pub(super) y: &'a str,
    /// Whether the vertical axis is logarithmic.
    pub(super) log: bool,
    /// About how many places of the horizontal axis are named.
    pub(super) ticks: usize,
    /// What is written at a place of the horizontal axis.
    pub(super) x_label: &'a dyn Fn(&f64) -> String,
    /// What is written at a place of the vertical axis.
    pub(super) y_label: &'a dyn Fn(&f64) -> String,
}

fn drawing<T>(
    height: u32,
    draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, Shift>) -> Result<T, String>,
) -> anyhow::Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        draw(&area).map_err(|error| anyhow!(error))?;
        area.present().map_err(|error| anyhow!("{error}"))?;
    }
    // The page gives it the width that it has.
    Ok(svg.replacen(
        &format!("width=\"{WIDTH}\" height=\"{height}\" "),
        "role=\"img\" ",
        1,
    ))
}

/// Lines over time, or over anything else that has an order.
pub(super) fn lines(lines: &[Line], axes: &Axes<'_>) -> anyhow::Result<String> {
    let points = || lines.iter().flat_map(|line| line.points.iter());
    let x_most = points().map(|(x, _)| *x).fold(0.0, f64::max).max(1e-9);
    let y_most = points().map(|(_, y)| *y).fold(0.0, f64::max).max(1e-9);
    let y_least = points()
        .map(|(_, y)| *y)
        .filter(|y| *y > 0.0)
        .fold(y_most, f64::min);
    drawing(HEIGHT, |area| {
        let mut builder = ChartBuilder::on(area);
        builder
            .margin_top(12)
            .margin_right(24)
            .x_label_area_size(46)
            .y_label_area_size(78);
        if axes.log {
            let range = (y_least / 1.5..y_most * 1.5).log_scale();
            let chart = builder
                .build_cartesian_2d(0.0..x_most, range)
                .map_err(|error| error.to_string())?;
            draw_lines(chart, lines, axes, Some(y_least))
        } else {
            let chart = builder
                .build_cartesian_2d(0.0..x_most, 0.0..y_most * 1.06)
                .map_err(|error| error.to_string())?;
            draw_lines(chart, lines, axes, None)
        }
    })
}

fn draw_lines<Y>(
    mut chart: ChartContext<
        '_,
        SVGBackend<'_>,
        Cartesian2d<plotters::coord::types::RangedCoordf64, Y>,
    >,
    lines: &[Line],
    axes: &Axes<'_>,
    least: Option<f64>,
) -> Result<(), String>
where
    Y: plotters::coord::ranged1d::Ranged<ValueType = f64>
        + plotters::coord::ranged1d::ValueFormatter<f64>,
{
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .x_labels(axes.ticks)
        .y_labels(7)
        .x_desc(axes.x)
        .y_desc(axes.y)
        .x_label_formatter(&axes.x_label)
        .y_label_formatter(&axes.y_label)
        .label_style((FONT, 13).into_font().color(&QUIET))
        .axis_desc_style((FONT, 14).into_font().color(&QUIET))
        .draw()
        .map_err(|error| error.to_string())?;
    // Twinlog's lines come last, above the others.
    let mut order: Vec<&Line> = lines.iter().collect();
    order.sort_by_key(|line| line.strong);
    for line in order {
        let style = line.colour.stroke_width(if line.strong { 3 } else { 2 });
        let points = line
            .points
            .iter()
            .map(|(x, y)| (*x, least.map_or(*y, |least| y.max(least))));
        chart
            .draw_series(LineSeries::new(points, style))
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// One bar: its name, its colour, how long it is.
#[derive(Debug)]
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) colour: RGBColor,
    pub(super) spread: Spread,
}

/// Horizontal bars of medians with their ranges.
pub(super) fn bars(bars: &[Bar], show: &dyn Fn(f64) -> String) -> anyhow::Result<String> {
    const ROW: i32 = 34;
    const LEFT: i32 = 170;
    const RIGHT: i32 = 150;
    let most = bars
        .iter()
        .map(|bar| bar.spread.max)
        .fold(0.0, f64::max)
        .max(1e-9);
    let rows = i32::try_from(bars.len()).unwrap_or(0);
    let width = f64::from(i32::try_from(WIDTH).unwrap_or(0) - LEFT - RIGHT);
    let at = |value: f64| LEFT + (value / most * width).round() as i32;
    let height = u32::try_from(rows * ROW + 12).unwrap_or(1);
    drawing(height, |area| {
        let text = |colour: &RGBColor| (FONT, 15).into_font().color(colour);
        for (row, bar) in (0..rows).zip(bars) {
            let top = 6 + row * ROW;
            let middle = top + ROW / 2;
            let spread = &bar.spread;
            let draw = || {
                area.draw(&plotters::element::Text::new(
                    bar.name.clone(),
                    (0, middle - 8),
                    text(&INK),
                ))?;
                area.draw(&Rectangle::new(
                    [(LEFT, top + 5), (at(spread.median), top + ROW - 5)],
                    bar.colour.filled(),
                ))?;
                if spread.max > spread.min {
                    let (from, to) = (at(spread.min), at(spread.max));
                    for line in [
                        vec![(from, middle), (to, middle)],
                        vec![(from, middle - 4), (from, middle + 4)],
                        vec![(to, middle - 4), (to, middle + 4)],
                    ] {
                        area.draw(&PathElement::new(line, INK.stroke_width(1)))?;
                    }
                }
                area.draw(&plotters::element::Text::new(
                    show(spread.median),
                    (at(spread.max) + 10, middle - 8),
                    text(&INK),
                ))
            };
            draw().map_err(|error| error.to_string())?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plots_are_svg_that_fits_its_page() {
        let line = Line {
            colour: OWN,
            strong: true,
            points: vec![(0.0, 0.0), (1.0, 5.0)],
        };
        let label = |value: &f64| format!("{value:.1}");
        for log in [false, true] {
            let axes = Axes {
                x: "seconds",
                y: "transactions",
                log,
                ticks: 5,
                x_label: &label,
                y_label: &label,
            };
            let svg = lines(std::slice::from_ref(&line), &axes).unwrap();
            assert!(svg.starts_with("<svg role=\"img\""), "{svg}");
            assert!(svg.contains("polyline") && svg.contains("seconds"));
        }
        let bar = Bar {
            name: "twinlog".into(),
            colour: OWN,
            spread: Spread::of([1.0, 2.0]).unwrap(),
        };
        let svg = bars(&[bar], &|value| format!("{value:.1} s")).unwrap();
        assert!(svg.contains("1.5 s"), "{svg}");
    }

    #[test]
    fn nothing_measured_is_no_panic() {
        let label = |value: &f64| value.to_string();
        let axes = Axes {
            x: "",
            y: "",
            log: true,
            ticks: 5,
            x_label: &label,
            y_label: &label,
        };
        assert!(lines(&[], &axes).is_ok());
        assert!(bars(&[], &|value| value.to_string()).is_ok());
    }
}
