//! Bars made of parts, one beside the other: where something goes, case by case.

use super::{COLOURS, LEGEND_LINE, PlotError, SIZE};
use plotters::prelude::*;

/// Horizontal bars.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bars {
    /// Above the axes.
    pub title: String,
    /// Name of the horizontal axis, with its unit.
    pub x: String,
    /// Names of the bars, from the top.
    pub names: Vec<String>,
    /// What a bar is made of, from the left: a name for the legend, and a length for each bar;
    /// lengths that are negative or no numbers count as none.
    pub parts: Vec<(String, Vec<f64>)>,
}

/// The bars as an SVG document.
pub fn bars_svg(bars: &Bars) -> Result<String, PlotError> {
    let mut text = String::new();
    draw(bars, &mut text).map_err(|e| PlotError {
        title: bars.title.clone(),
        why: e.to_string(),
    })?;
    Ok(text)
}

fn draw(bars: &Bars, text: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    const BAR: u32 = 34;
    let count = bars.names.len();
    let longest = |names: &mut dyn Iterator<Item = &String>| -> u32 {
        names.map(|n| n.chars().count() as u32).max().unwrap_or(0)
    };
    let of_names = 24 + 8 * longest(&mut bars.names.iter());
    let of_legend = 48 + 8 * longest(&mut bars.parts.iter().map(|p| &p.0));
    let size = (SIZE.0 + of_names, 130 + BAR * count.max(4) as u32);
    let length = |part: &(String, Vec<f64>), bar: usize| {
        let length = part.1.get(bar).copied().unwrap_or(0.0);
        if length.is_finite() {
            length.max(0.0)
        } else {
            0.0
        }
    };
    let whole = |bar: usize| -> f64 { bars.parts.iter().map(|p| length(p, bar)).sum() };
    let most = (0..count).map(whole).fold(0.0, f64::max);
    let most = if most > 0.0 { 1.05 * most } else { 1.0 };

    let root = SVGBackend::with_string(text, size).into_drawing_area();
    root.fill(&WHITE)?;
    let (axes, beside) = root.split_horizontally(size.0 - of_legend);
    // the first bar is the highest
    let middle = |bar: usize| (count - bar) as f64 - 0.5;
    let mut chart = ChartBuilder::on(&axes)
        .caption(&bars.title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(of_names)
        .build_cartesian_2d(0.0..most, 0.0..count.max(1) as f64)?;
    chart
        .configure_mesh()
        .x_desc(&bars.x)
        .axis_desc_style(("sans-serif", 16))
        .label_style(("sans-serif", 14))
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .disable_y_mesh()
        .y_labels(0)
        .draw()?;
    let mut from = vec![0.0; count];
    for (number, part) in bars.parts.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let rectangles = (0..count).map(|bar| {
            let to = from[bar] + length(part, bar);
            let corners = [(from[bar], middle(bar) - 0.35), (to, middle(bar) + 0.35)];
            Rectangle::new(corners, colour.filled())
        });
        chart.draw_series(rectangles)?;
        for (bar, from) in from.iter_mut().enumerate() {
            *from += length(part, bar);
        }
        let top = 24 + LEGEND_LINE * number as i32;
        beside.draw(&Rectangle::new(
            [(4, top + 4), (30, top + 18)],
            colour.filled(),
        ))?;
        let font = ("sans-serif", 14).into_font();
        beside.draw(&Text::new(part.0.clone(), (36, top + 4), font))?;
    }
    for (bar, name) in bars.names.iter().enumerate() {
        let (x, y) = chart.backend_coord(&(0.0, middle(bar)));
        let style = TextStyle::from(("sans-serif", 14).into_font()).pos(
            plotters::style::text_anchor::Pos::new(
                plotters::style::text_anchor::HPos::Right,
                plotters::style::text_anchor::VPos::Center,
            ),
        );
        root.draw(&Text::new(name.clone(), (x - 10, y), style))?;
    }
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_show_every_name_and_part_and_parts_lie_end_to_end() {
        let bars = Bars {
            title: "time".into(),
            x: "ms".into(),
            names: vec!["plain".into(), "chain <8>".into()],
            parts: vec![
                ("draft".into(), vec![0.0, 1.0]),
                ("target".into(), vec![4.0, 2.0]),
                ("odd".into(), vec![f64::NAN, -1.0]),
            ],
        };
        let text = bars_svg(&bars).unwrap();
        for name in ["plain", "chain &lt;8&gt;", "draft", "target", "odd"] {
            assert!(text.contains(name), "{name}: {text}");
        }
        let number = |line: &str, name: &str| -> i64 {
            let (_, rest) = line.split_once(&format!(" {name}=\"")).unwrap();
            rest.split('"').next().unwrap().parse().unwrap()
        };
        // the target's part of the second bar begins where the draft's ends and is twice as long
        let of = |colour: &str| -> Vec<(i64, i64)> {
            let lines = text
                .lines()
                .filter(|l| l.starts_with("<rect") && l.contains(colour));
            lines
                .map(|l| (number(l, "x"), number(l, "width")))
                .collect()
        };
        let (draft, target) = (of("#0072B2"), of("#D55E00"));
        assert!(
            (draft[1].0 + draft[1].1 - target[1].0).abs() <= 1,
            "{draft:?} {target:?}"
        );
        assert!(
            (2 * draft[1].1 - target[1].1).abs() <= 2,
            "{draft:?} {target:?}"
        );
        assert!(bars_svg(&Bars::default()).unwrap().contains("</svg>"));
    }
}
