//! Pictures of curves: SVG text, the same for the same data.
//!
//! ```
//! use gavel::plot::{Plot, Point, Series, svg};
//!
//! let points = [(1.0, 0.90), (2.0, 0.87)].map(|(x, y)| Point { x, y, error: Some((y - 0.02, y + 0.02)) });
//! let plot = Plot {
//!     title: "accuracy against m".into(),
//!     x: "m".into(),
//!     y: "accuracy".into(),
//!     series: vec![Series::marked("SelfJudge", points.to_vec())],
//!     ..Plot::default()
//! };
//! assert!(svg(&[plot]).unwrap().starts_with("<svg"));
//! ```

mod bars;

pub use bars::{Bars, bars_svg};

use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;

/// Width and height of one plot in pixels.
const SIZE: (u32, u32) = (720, 480);
/// Height of a legend's line.
const LEGEND_LINE: i32 = 22;
/// Okabe and Ito's colours without yellow: told apart by colour-blind readers too.
pub(crate) const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

/// Axes, and the series drawn between them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plot {
    /// Above the axes.
    pub title: String,
    /// Name of the horizontal axis, with its unit.
    pub x: String,
    /// Name of the vertical axis, with its unit.
    pub y: String,
    /// From where to where the horizontal axis goes; fitted to the points where absent.
    pub x_range: Option<(f64, f64)>,
    /// The same of the vertical axis.
    pub y_range: Option<(f64, f64)>,
    /// Names of the places 0, 1, 2, ... on the horizontal axis, which then has no numbers.
    pub x_names: Vec<String>,
    /// Drawn in order, each in a colour of its own (after seven they repeat, with open marks).
    pub series: Vec<Series>,
}

/// Points that belong together.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// What the legend says; without a name it is not in the legend.
    pub name: String,
    /// In the order in which the line joins them.
    pub points: Vec<Point>,
    /// How they are joined.
    pub line: Line,
    /// Whether each point has a mark.
    pub marks: bool,
}

/// A point; what is not finite is not drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Horizontal.
    pub x: f64,
    /// Vertical.
    pub y: f64,
    /// An error bar from the one y to the other.
    pub error: Option<(f64, f64)>,
}

/// What joins the points of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Nothing.
    None,
    /// A line.
    Solid,
    /// A broken line.
    Dashed,
}

/// Why a picture could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("plot '{title}' cannot be drawn: {why}")]
pub struct PlotError {
    /// Its title.
    pub title: String,
    /// What the plotting library says.
    pub why: String,
}

impl Series {
    /// A line without marks, for curves of many points.
    pub fn line(name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Series {
        let point = |(x, y)| Point { x, y, error: None };
        Series {
            name: name.into(),
            points: points.into_iter().map(point).collect(),
            line: Line::Solid,
            marks: false,
        }
    }

    /// A line with a mark at each point, for few points that were measured.
    pub fn marked(name: impl Into<String>, points: Vec<Point>) -> Series {
        Series {
            name: name.into(),
            points,
            line: Line::Solid,
            marks: true,
        }
    }
}

/// The plots side by side as one SVG document.
pub fn svg(plots: &[Plot]) -> Result<String, PlotError> {
    let mut text = String::new();
    let count = plots.len().max(1);
    {
        let size = (SIZE.0 * count as u32, SIZE.1);
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        let fail = |title: &str, e: &dyn std::fmt::Display| PlotError {
            title: title.to_owned(),
            why: e.to_string(),
        };
        root.fill(&WHITE).map_err(|e| fail("", &e))?;
        for (area, plot) in root.split_evenly((1, count)).iter().zip(plots) {
            draw(area, plot).map_err(|e| fail(&plot.title, &*e))?;
        }
        root.present().map_err(|e| fail("", &e))?;
    }
    Ok(text)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn draw(area: &Area, plot: &Plot) -> Result<(), Box<dyn std::error::Error>> {
    let finite = |p: &&Point| p.x.is_finite() && p.y.is_finite();
    let points = || {
        plot.series
            .iter()
            .flat_map(|s| s.points.iter())
            .filter(finite)
    };
    let ends = |p: &Point| {
        let (low, high) = p.error.unwrap_or((p.y, p.y));
        [p.y, low, high]
    };
    let given = |range: Option<(f64, f64)>| range.filter(|(low, high)| low < high);
    let x = match plot.x_names.len() {
        0 => given(plot.x_range).unwrap_or_else(|| spread(points().map(|p| p.x))),
        places => (-0.5, places as f64 - 0.5),
    };
    let y = given(plot.y_range).unwrap_or_else(|| spread(points().flat_map(ends)));
    // the legend stands beside the axes: between them it would hide something
    let (width, _) = area.dim_in_pixel();
    let longest = plot.series.iter().map(|s| s.name.chars().count()).max();
    let legend = match longest.unwrap_or(0) {
        0 => 0,
        longest => 48 + 8 * longest as u32,
    };
    let (axes, beside) = area.split_horizontally(width.saturating_sub(legend));
    let mut chart = ChartBuilder::on(&axes)
        .caption(&plot.title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(60)
        .build_cartesian_2d(x.0..x.1, y.0..y.1)?;
    let name = |x: &f64| {
        let place = x.round();
        let named = (x - place).abs() < 1e-6 && place >= 0.0;
        let name = plot.x_names.get(place as usize).filter(|_| named);
        name.cloned().unwrap_or_default()
    };
    let mut mesh = chart.configure_mesh();
    mesh.x_desc(&plot.x)
        .y_desc(&plot.y)
        .axis_desc_style(("sans-serif", 16))
        .label_style(("sans-serif", 14))
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12));
    if !plot.x_names.is_empty() {
        mesh.x_labels(plot.x_names.len() + 1)
            .x_label_formatter(&name)
            .disable_x_mesh();
    }
    mesh.draw()?;
    let mut place_in_legend = 24;
    for (number, series) in plot.series.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let mark = match number < COLOURS.len() {
            true => colour.filled(),
            false => colour.stroke_width(2),
        };
        let style = colour.stroke_width(2);
        let points: Vec<&Point> = series.points.iter().filter(finite).collect();
        let joined: Vec<(f64, f64)> = points.iter().map(|p| (p.x, p.y)).collect();
        match series.line {
            Line::None => {}
            Line::Solid => {
                chart.draw_series(LineSeries::new(joined.clone(), style))?;
            }
            Line::Dashed => {
                chart.draw_series(DashedLineSeries::new(joined.clone(), 6, 5, style))?;
            }
        }
        let bars = points.iter().filter_map(|p| {
            let (low, high) = p.error?;
            let whole = low.is_finite() && high.is_finite();
            whole.then(|| ErrorBar::new_vertical(p.x, low, p.y, high, colour.stroke_width(1), 8))
        });
        chart.draw_series(bars)?;
        if series.marks {
            chart.draw_series(joined.iter().map(|&at| Circle::new(at, 3, mark)))?;
        }
        if !series.name.is_empty() {
            let at = place_in_legend + LEGEND_LINE / 2;
            let ends = [(4, at), (30, at)];
            match series.line {
                Line::None => {}
                Line::Solid => beside.draw(&PathElement::new(ends, style))?,
                Line::Dashed => beside.draw(&DashedPathElement::new(ends, 6, 5, style))?,
            }
            if series.marks {
                beside.draw(&Circle::new((17, at), 3, mark))?;
            }
            let text = ("sans-serif", 14).into_font();
            beside.draw(&Text::new(series.name.clone(), (36, at - 7), text))?;
            place_in_legend += LEGEND_LINE;
        }
    }
    Ok(())
}

/// From the smallest value to the largest with a little air; an axis has a length even
/// where all values are one, or where there are none.
fn spread(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .filter(|v| v.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
            (low.min(v), high.max(v))
        });
    if low > high {
        return (0.0, 1.0);
    }
    let air = match high - low {
        range if range > 0.0 => 0.05 * range,
        _ => (0.05 * high.abs()).max(0.05),
    };
    (low - air, high + air)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(series: Vec<Series>) -> Plot {
        Plot {
            title: "accuracy < 1 & \"more\"".into(),
            x: "m".into(),
            y: "accuracy".into(),
            y_range: Some((0.0, 1.0)),
            series,
            ..Plot::default()
        }
    }

    fn measured(values: &[(f64, f64)]) -> Vec<Point> {
        let point = |&(x, y): &(f64, f64)| Point {
            x,
            y,
            error: Some((y - 0.01, y + 0.01)),
        };
        values.iter().map(point).collect()
    }

    #[test]
    fn a_plot_shows_titles_legend_lines_marks_and_error_bars() {
        let mut dashed = Series::line("chance", [(0.0, 0.5), (4.0, 0.9)]);
        dashed.line = Line::Dashed;
        let judged = measured(&[(1.0, 0.9), (2.0, 0.8), (3.0, 0.5)]);
        let one = plot(vec![Series::marked("judge", judged.clone()), dashed]);
        let text = svg(std::slice::from_ref(&one)).unwrap();
        for expected in [
            "judge",
            "chance",
            "accuracy &lt; 1 &amp; &quot;more",
            "#0072B2",
            "#D55E00",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        // a mark a point and one in the legend, and the ring that plotters gives each error bar
        assert_eq!(text.matches("<circle").count(), 3 + 1 + 3);
        let bars = |plot: &Plot| {
            svg(std::slice::from_ref(plot))
                .unwrap()
                .matches("<line")
                .count()
        };
        let without: Vec<Point> = judged.iter().map(|&p| Point { error: None, ..p }).collect();
        let bare = plot(vec![
            Series::marked("judge", without),
            one.series[1].clone(),
        ]);
        assert_eq!(bars(&one), bars(&bare) + 3 * 3);
        // the same data, the same picture; two plots are wider than one
        assert_eq!(text, svg(std::slice::from_ref(&one)).unwrap());
        assert!(svg(&[one.clone(), one]).unwrap().contains("width=\"1440\""));
    }

    #[test]
    fn values_without_a_range_are_drawn_all_the_same() {
        let one = plot(vec![Series::marked("judge", measured(&[(2.0, 0.0)]))]);
        assert_eq!(svg(&[one]).unwrap().matches("<circle").count(), 3);
        let none = plot(vec![Series::line("nothing", [])]);
        assert!(svg(&[none]).unwrap().contains("nothing"));
        let odd = [(f64::NAN, 1.0), (1.0, f64::INFINITY), (1.0, 2.0)];
        let odd = plot(vec![Series::marked("odd", measured(&odd))]);
        assert_eq!(svg(&[odd]).unwrap().matches("<circle").count(), 3);
        assert!(svg(&[]).unwrap().contains("</svg>"));
    }

    #[test]
    fn places_have_names_in_place_of_numbers() {
        let mut one = plot(vec![Series::marked(
            "judge",
            measured(&[(0.0, 0.5), (1.0, 0.7)]),
        )]);
        one.x_names = ["first", "second"].map(str::to_owned).into();
        let text = svg(std::slice::from_ref(&one)).unwrap();
        assert_eq!(text.matches("\nfirst\n").count(), 1, "{text}");
        assert_eq!(text.matches("\nsecond\n").count(), 1, "{text}");
    }

    #[test]
    fn the_legend_hides_nothing() {
        // points in every corner
        let corners = [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)];
        let text = svg(&[plot(vec![Series::marked("judge", measured(&corners))])]).unwrap();
        let number = |line: &str, name: &str| -> f64 {
            let (_, rest) = line.split_once(&format!(" {name}=\"")).unwrap();
            rest.split('"').next().unwrap().parse().unwrap()
        };
        let circles: Vec<f64> = text
            .lines()
            .filter(|l| l.starts_with("<circle"))
            .map(|l| number(l, "cx"))
            .collect();
        let in_legend = circles.iter().copied().fold(0.0, f64::max);
        assert_eq!(circles.iter().filter(|&&x| x == in_legend).count(), 1);
        assert!(
            circles
                .iter()
                .all(|&x| x == in_legend || x + 20.0 < in_legend)
        );
    }
}
