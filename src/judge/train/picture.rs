//! The curves of a trained judge, as numbers and as a picture.

use super::curve::{At, Ranking};
use super::{Report, Trained};
use crate::plot::{self, Line, Plot, PlotError, Point, Series};
use serde::{Deserialize, Serialize};

/// What `gavel judge train` writes beside the judge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curves {
    /// Everything that was chosen and measured.
    pub report: Report,
    /// What every threshold does on the validation part.
    pub validation: Vec<At>,
    /// On the test part.
    pub test: Vec<At>,
    /// On the test part against the common label: unacceptable is what changes the answer.
    pub common: Vec<At>,
}

impl Curves {
    /// The curves of a judge that was just trained.
    pub fn of(trained: &Trained) -> Curves {
        let curve = |ranking: &Ranking| match ranking.has_both() {
            true => ranking.curve(),
            false => Vec::new(),
        };
        Curves {
            report: trained.report.clone(),
            validation: curve(&trained.validation),
            test: curve(&trained.test),
            common: curve(&trained.common),
        }
    }

    /// ROC and precision-recall side by side. Positive: unacceptable.
    pub fn svg(&self) -> Result<String, PlotError> {
        let roc = |p: &At| (p.refused, p.recall);
        let recall = |p: &At| (p.recall, p.precision);
        let mut chance = Series::line("chance", [(0.0, 0.0), (1.0, 1.0)]);
        chance.line = Line::Dashed;
        let mut left = self.panel(
            "ROC",
            "acceptable tokens refused",
            "unacceptable tokens refused",
            roc,
        );
        left.series.push(chance);
        let right = self.panel(
            "Precision and recall of unacceptable tokens",
            "recall",
            "precision",
            recall,
        );
        plot::svg(&[left, right])
    }

    fn panel(&self, title: &str, x: &str, y: &str, place: impl Fn(&At) -> (f64, f64)) -> Plot {
        let area = |value: f64| format!("AUROC {value:.3}");
        let mut series = vec![Series::line(
            format!("validation, {}", area(self.report.validation.auroc.value)),
            visible(self.validation.iter().map(&place)),
        )];
        if let Some(test) = &self.report.test {
            series.push(Series::line(
                format!("test, {}", area(test.auroc.value)),
                visible(self.test.iter().map(&place)),
            ));
        }
        if let Some(common) = &self.report.common {
            series.push(Series::line(
                format!("test, answer changes, {}", area(common.auroc.value)),
                visible(self.common.iter().map(&place)),
            ));
        }
        let points = self.report.validation.points.iter().map(|point| {
            let (x, y) = place(&point.at);
            Point { x, y, error: None }
        });
        series.push(Series {
            name: "f1, r90 and mid".to_owned(),
            points: points.collect(),
            line: Line::None,
            marks: true,
        });
        Plot {
            title: title.to_owned(),
            x: x.to_owned(),
            y: y.to_owned(),
            x_range: Some((0.0, 1.0)),
            y_range: Some((0.0, 1.0)),
            series,
            ..Plot::default()
        }
    }
}

/// Without the points that lie less than a fifth of a pixel beside the one before.
fn visible(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let mut kept: Vec<(f64, f64)> = Vec::new();
    let mut last = None;
    for point in points {
        last = Some(point);
        let far = |&(x, y): &(f64, f64)| (x - point.0).hypot(y - point.1) > 5e-4;
        if kept.last().is_none_or(far) {
            kept.push(point);
        }
    }
    kept.extend(last.filter(|end| kept.last() != Some(end)));
    kept
}
