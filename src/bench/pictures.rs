//! A bench in pictures.

use super::{Line, Record, Summary};
use crate::plot::{Bars, Plot, PlotError, Point, Series, bars_svg, svg};
use crate::statistics::Interval;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// A picture and what its file is called.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Such as `breakdown.svg`.
    pub name: &'static str,
    /// SVG.
    pub svg: String,
}

/// Why there are no such pictures.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PictureError {
    /// One could not be drawn.
    #[error(transparent)]
    Plot(#[from] PlotError),
    /// The file with accuracies is none.
    #[error("{}: {why}; expected report.json as `gavel eval --out` writes it", path.display())]
    Eval {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It has nothing that was benched.
    #[error(
        "{}: found accuracies of {found}; expected some of what was benched: {expected} (the same rule, shape, draft, judge and sampling)",
        path.display()
    )]
    Nothing {
        /// The file.
        path: PathBuf,
        /// Names in it.
        found: String,
        /// Names of the modes.
        expected: String,
    },
}

/// The pictures that a record has the data for: time per token against gamma, where time goes, and
/// with the report of an evaluation accuracy against speed.
pub fn pictures(
    record: &Record,
    summary: &Summary,
    eval: Option<&Path>,
) -> Result<Vec<Picture>, PictureError> {
    let mut found = Vec::new();
    let plots: Vec<Plot> = record
        .workloads()
        .iter()
        .filter_map(|workload| against_gamma(record, summary, workload))
        .collect();
    if !plots.is_empty() {
        found.push(Picture {
            name: "time-per-token.svg",
            svg: svg(&plots)?,
        });
    }
    if !summary.lines.is_empty() {
        found.push(Picture {
            name: "breakdown.svg",
            svg: bars_svg(&breakdown(summary))?,
        });
    }
    if let Some(path) = eval {
        found.push(Picture {
            name: "accuracy-speed.svg",
            svg: svg(&[accuracy_against_speed(record, summary, path)?])?,
        });
    }
    Ok(found)
}

/// Mean time per token against gamma, a line a rule; what has no gamma of its own is a level line.
fn against_gamma(record: &Record, summary: &Summary, workload: &str) -> Option<Plot> {
    let lines = || summary.lines.iter().filter(|l| l.workload == workload);
    let mut gammas: Vec<usize> = lines().filter_map(|l| record.modes[l.mode].gamma).collect();
    gammas.sort_unstable();
    gammas.dedup();
    if gammas.len() < 2 {
        return None;
    }
    let mut series: Vec<Series> = Vec::new();
    for line in lines() {
        let mode = &record.modes[line.mode];
        let Some(place) = gammas.iter().position(|&g| Some(g) == mode.gamma) else {
            continue;
        };
        let point = point(place as f64, line.mean_token_ms);
        match series.iter_mut().find(|s| s.name == mode.series) {
            Some(series) => series.points.push(point),
            None => series.push(Series::marked(mode.series.clone(), vec![point])),
        }
    }
    for series in &mut series {
        series.points.sort_by(|a, b| a.x.total_cmp(&b.x));
    }
    let last = gammas.len() as f64 - 1.0;
    for line in lines().filter(|l| record.modes[l.mode].gamma.is_none()) {
        let ends = [-0.4, last + 0.4].map(|x| (x, line.mean_token_ms.value));
        let mut level = Series::line(line.name.clone(), ends);
        level.line = crate::plot::Line::Dashed;
        series.push(level);
    }
    Some(Plot {
        title: match workload {
            "" => "time per output token".to_owned(),
            workload => format!("time per output token, {workload}"),
        },
        x: "gamma: drafted tokens".to_owned(),
        y: "ms per token, mean of runs".to_owned(),
        x_names: gammas.iter().map(usize::to_string).collect(),
        series,
        ..Plot::default()
    })
}

fn point(x: f64, y: Interval) -> Point {
    Point {
        x,
        y: y.value,
        error: Some((y.low, y.high)),
    }
}

fn breakdown(summary: &Summary) -> Bars {
    let lines = &summary.lines;
    let part = |name: &str, of: fn(&Line) -> f64| (name.to_owned(), lines.iter().map(of).collect());
    Bars {
        title: "where the time of a token goes".to_owned(),
        x: "ms per output token after the first step".to_owned(),
        names: lines
            .iter()
            .map(|l| match &*l.workload {
                "" => l.name.clone(),
                workload => format!("{workload}, {}", l.name),
            })
            .collect(),
        parts: vec![
            part("target pass", |l| l.parts.target),
            part("draft", |l| l.parts.draft),
            part("verify", |l| l.parts.verify),
            part("host", |l| l.parts.host),
        ],
    }
}

/// What of a report of `gavel eval` is read.
#[derive(Deserialize)]
struct Report {
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    name: String,
    key: String,
    accuracy: Option<Interval>,
}

/// Accuracy against speed over plain decoding, of what was both evaluated and benched.
fn accuracy_against_speed(
    record: &Record,
    summary: &Summary,
    path: &Path,
) -> Result<Plot, PictureError> {
    let fail = |why: String| PictureError::Eval {
        path: path.to_owned(),
        why,
    };
    let bytes = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
    let report: Report = serde_json::from_slice(&bytes).map_err(|e| fail(e.to_string()))?;
    let mut series: Vec<Series> = Vec::new();
    for line in &summary.lines {
        let mode = &record.modes[line.mode];
        let same = |r: &&Row| r.key == mode.key;
        let Some(row) = report.rows.iter().find(same) else {
            continue;
        };
        let (Some(accuracy), Some(speed)) = (row.accuracy, speed(line, mode.is_plain())) else {
            continue;
        };
        let point = point(speed, accuracy);
        match series.iter_mut().find(|s| s.name == mode.series) {
            Some(series) => series.points.push(point),
            None => series.push(Series::marked(mode.series.clone(), vec![point])),
        }
    }
    if series.is_empty() {
        let names = |names: &mut dyn Iterator<Item = &String>| {
            let names: Vec<&str> = names.map(|n| &**n).collect();
            names.join(", ")
        };
        return Err(PictureError::Nothing {
            path: path.to_owned(),
            found: names(&mut report.rows.iter().map(|r| &r.name)),
            expected: names(&mut record.modes.iter().map(|m| &m.name)),
        });
    }
    for series in &mut series {
        series.points.sort_by(|a, b| a.x.total_cmp(&b.x));
    }
    Ok(Plot {
        title: "accuracy against speed".to_owned(),
        x: "times the speed of plain decoding, per output token".to_owned(),
        y: "accuracy".to_owned(),
        series,
        ..Plot::default()
    })
}

fn speed(line: &Line, is_plain: bool) -> Option<f64> {
    match is_plain {
        true => Some(1.0),
        false => line.speedup.map(|s| s.value),
    }
}
