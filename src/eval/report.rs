//! What the outcomes say: one line a row, differences paired by problem.

use super::store::{Outcome, Results};
use super::{Evaluation, ModelSpec, Row, Spec};
use crate::draft::Drafter;
use crate::engine::Stats;
use crate::judge::JudgeError;
use crate::plot::{COLOURS, Line, Plot, Point, Series};
use crate::statistics::{Interval, bootstrap, wilson};
use crate::task::Task;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

/// Draws of the bootstrap.
const RESAMPLES: usize = 4000;

/// A whole evaluation in figures.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What the problems are.
    pub task: Task,
    /// Digest of the file they come from.
    pub data: String,
    /// How many problems every row answered.
    pub problems: usize,
    /// The model that answers.
    pub target: ModelSpec,
    /// Key of all random numbers.
    pub seed: u64,
    /// Most tokens of a response.
    pub max_tokens: usize,
    /// One entry a row, in the rows' order.
    pub rows: Vec<RowReport>,
}

/// One row in figures. Intervals are 95 %; those of differences and ratios are percentile
/// bootstraps over problems, both rows drawing the same ones.
#[derive(Clone, Debug, Serialize)]
pub struct RowReport {
    /// What the row is called.
    pub name: String,
    /// Which line of the plot it belongs to.
    pub series: String,
    /// What names its outcomes in `results.jsonl`.
    pub key: String,
    /// What it does.
    #[serde(flatten)]
    pub spec: Spec,
    /// Where the drafter was, if it is a model.
    pub draft_dir: Option<String>,
    /// Share of right responses, with Wilson's interval; absent for summaries.
    pub accuracy: Option<Interval>,
    /// Accuracy less plain decoding's.
    pub accuracy_difference: Option<Interval>,
    /// Mean ROUGE-1, -2 and -L against the reference; summaries only.
    pub rouge: Option<[Interval; 3]>,
    /// ROUGE-L less plain decoding's.
    pub rouge_l_difference: Option<Interval>,
    /// Mean draft tokens kept per target pass.
    pub m: Interval,
    /// m over the baseline's.
    pub m_ratio: Option<Interval>,
    /// The lossless row that m is compared with: the same drafter's of the same shape, or
    /// else its first chain.
    pub baseline: Option<String>,
    /// Tokens committed per target pass.
    pub block_efficiency: f64,
    /// Target passes per committed token.
    pub passes_per_token: f64,
    /// Committed tokens per second of decoding.
    pub tokens_per_second: f64,
    /// Tokens by reason.
    pub shares: Shares,
    /// How near the responses are to plain decoding's; absent without a plain row.
    pub agreement: Option<Agreement>,
    /// Perplexity of the responses under the target; absent where not asked for.
    pub perplexity: Option<f64>,
    /// Sums over all problems.
    pub stats: Stats,
}

/// Shares of the committed tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Shares {
    /// Drafted, and accepted by the lossless rule.
    pub aligned: f64,
    /// Drafted, and rescued by a judge rule.
    pub judged: f64,
    /// The target's own after a fully accepted path.
    pub bonus: f64,
    /// The target's own after a rejection.
    pub residual: f64,
}

/// Likeness to the responses of plain decoding.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// Share of responses with the same tokens.
    pub exact: f64,
    /// Mean ROUGE-L, 1 where the tokens are the same.
    pub rouge_l: f64,
}

/// What one row made of all problems.
struct Column<'a> {
    row: &'a Row,
    key: String,
    spec: Spec,
    outcomes: Vec<&'a Outcome>,
}

/// Compares the rows over the problems that every one of them has answered.
///
/// # Errors
/// Where a judge has no digest.
pub fn summarise(evaluation: &Evaluation<'_>, results: &Results) -> Result<Report, JudgeError> {
    let mut columns = Vec::new();
    for row in evaluation.rows {
        let spec = row.spec()?;
        columns.push((row, spec.key(), spec));
    }
    let answered: Vec<usize> = evaluation
        .problems
        .iter()
        .map(|p| p.line)
        .filter(|&line| {
            columns
                .iter()
                .all(|(_, key, _)| results.get(line, key).is_some())
        })
        .collect();
    let columns: Vec<Column<'_>> = columns
        .into_iter()
        .map(|(row, key, spec)| Column {
            outcomes: answered
                .iter()
                .filter_map(|&line| results.get(line, &key))
                .collect(),
            row,
            key,
            spec,
        })
        .collect();
    let plain = columns.iter().find(|c| c.row.is_plain());
    let rows = columns
        .iter()
        .map(|c| row_report(c, plain, baseline(c, &columns)));
    Ok(Report {
        task: evaluation.task,
        data: evaluation.data.clone(),
        problems: answered.len(),
        target: ModelSpec::from(evaluation.target),
        seed: evaluation.seed,
        max_tokens: evaluation.prompting.max_tokens,
        rows: rows.collect(),
    })
}

/// The lossless row that m is compared with; none for the first chain itself.
fn baseline<'c, 'a>(column: &Column<'a>, columns: &'c [Column<'a>]) -> Option<&'c Column<'a>> {
    if column.row.is_plain() {
        return None;
    }
    let candidates = columns.iter().filter(|c| {
        c.spec.rule == "chain" && !c.row.is_plain() && c.spec.draft == column.spec.draft
    });
    let candidates: Vec<_> = candidates.collect();
    let same_shape = candidates
        .iter()
        .find(|c| c.spec.shape == column.spec.shape && c.key != column.key);
    let chain = candidates.iter().find(|c| c.row.step.shape.is_chain());
    let found = same_shape.or(chain).copied()?;
    (found.key != column.key).then_some(found)
}

fn row_report(
    column: &Column<'_>,
    plain: Option<&Column<'_>>,
    baseline: Option<&Column<'_>>,
) -> RowReport {
    let outcomes = &column.outcomes;
    let count = outcomes.len();
    let mut stats = Stats::default();
    for outcome in outcomes {
        stats += &outcome.stats;
    }
    let other = plain.filter(|p| p.key != column.key);
    let right = |c: &Column<'_>| -> Option<Vec<f64>> {
        c.outcomes
            .iter()
            .map(|o| o.grade.right.map(f64::from))
            .collect()
    };
    let rouge =
        |c: &Column<'_>, which: fn(&crate::task::rouge::Rouge) -> f64| -> Option<Vec<f64>> {
            c.outcomes
                .iter()
                .map(|o| o.grade.rouge.as_ref().map(which))
                .collect()
        };
    let accuracy = right(column).map(|r| wilson(r.iter().filter(|&&x| x == 1.0).count(), count));
    let difference = |mine: Option<Vec<f64>>, theirs: Option<Vec<f64>>| {
        let (mine, theirs) = (mine?, theirs?);
        let differences: Vec<f64> = mine.iter().zip(&theirs).map(|(a, b)| a - b).collect();
        Some(mean(&differences))
    };
    let m = |c: &Column<'_>| -> Vec<(f64, f64)> {
        let parts = |o: &&Outcome| (o.stats.accepted() as f64, o.stats.passes as f64);
        c.outcomes.iter().map(parts).collect()
    };
    let mine = m(column);
    let m_ratio = baseline.map(|b| {
        let theirs = m(b);
        bootstrap(count, RESAMPLES, 0, |drawn| {
            ratio(&mine, drawn) / ratio(&theirs, drawn)
        })
    });
    let share = |tokens: usize| tokens as f64 / stats.tokens.max(1) as f64;
    let agreement = plain.and_then(|_| {
        let same = outcomes
            .iter()
            .filter(|o| o.same_as_plain != Some(false))
            .count();
        let likeness: f64 = outcomes
            .iter()
            .map(|o| o.plain_rouge_l.unwrap_or(1.0))
            .sum();
        (count > 0).then(|| Agreement {
            exact: same as f64 / count as f64,
            rouge_l: likeness / count as f64,
        })
    });
    let nll: Option<Vec<(f64, usize)>> = outcomes
        .iter()
        .map(|o| Some((o.nll?, o.nll_tokens?)))
        .collect();
    let perplexity = nll.filter(|n| !n.is_empty()).map(|nll| {
        let sum: f64 = nll.iter().map(|n| n.0).sum();
        let tokens: usize = nll.iter().map(|n| n.1).sum();
        (sum / tokens as f64).exp()
    });
    let has_rouge = outcomes.iter().any(|o| o.grade.rouge.is_some());
    RowReport {
        name: column.row.name.clone(),
        series: column.row.series.clone(),
        key: column.key.clone(),
        spec: column.spec.clone(),
        draft_dir: match &column.row.drafter {
            Drafter::Model(model) => Some(model.dir.display().to_string()),
            _ => None,
        },
        accuracy: accuracy.filter(|_| count > 0),
        accuracy_difference: other.and_then(|p| difference(right(column), right(p))),
        rouge: has_rouge
            .then(|| {
                Some([
                    mean(&rouge(column, |r| r.rouge_1)?),
                    mean(&rouge(column, |r| r.rouge_2)?),
                    mean(&rouge(column, |r| r.rouge_l)?),
                ])
            })
            .flatten(),
        rouge_l_difference: other
            .filter(|_| has_rouge)
            .and_then(|p| difference(rouge(column, |r| r.rouge_l), rouge(p, |r| r.rouge_l))),
        m: bootstrap(count, RESAMPLES, 0, |drawn| ratio(&mine, drawn)),
        m_ratio,
        baseline: baseline.map(|b| b.row.name.clone()),
        block_efficiency: stats.block_efficiency(),
        passes_per_token: stats.passes_per_token(),
        tokens_per_second: stats.tokens_per_second(),
        shares: Shares {
            aligned: share(stats.aligned),
            judged: share(stats.judged),
            bonus: share(stats.bonus),
            residual: share(stats.residual),
        },
        agreement,
        perplexity,
        stats,
    }
}

/// The mean over problems, with its bootstrap interval.
fn mean(values: &[f64]) -> Interval {
    bootstrap(values.len(), RESAMPLES, 0, |drawn| {
        drawn.iter().map(|&i| values[i]).sum::<f64>() / drawn.len() as f64
    })
}

/// The ratio of sums over the problems drawn.
fn ratio(parts: &[(f64, f64)], drawn: &[usize]) -> f64 {
    let (above, below) = drawn
        .iter()
        .fold((0.0, 0.0), |(a, b), &i| (a + parts[i].0, b + parts[i].1));
    above / below
}

impl Report {
    /// Whether responses are scored by their likeness to a summary.
    fn scores_summaries(&self) -> bool {
        self.rows.iter().any(|r| r.rouge.is_some())
    }

    /// The report as people read it: a table in Markdown.
    pub fn table(&self) -> String {
        let summaries = self.scores_summaries();
        let perplexity = self.rows.iter().any(|r| r.perplexity.is_some());
        let mut head = vec!["decoding"];
        match summaries {
            true => head.extend(["ROUGE-1", "ROUGE-2", "ROUGE-L", "less plain's"]),
            false => head.extend(["right, %", "less plain's"]),
        }
        head.extend([
            "m",
            "over chain's",
            "tokens/pass",
            "passes/token",
            "aligned, judged, bonus, residual, %",
            "tokens/s",
            "as plain, %",
            "ROUGE-L to plain",
        ]);
        if perplexity {
            head.push("perplexity");
        }
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header(&head);
        for row in &self.rows {
            let mut cells = vec![row.name.clone()];
            match (&row.rouge, summaries) {
                (Some(rouge), true) => {
                    cells.extend(rouge.iter().map(|r| format!("{:.4}", r.value)));
                    cells.push(optional(row.rouge_l_difference, |d| signed(d, 1.0, 4)));
                }
                (None, true) => cells.extend(vec![String::new(); 4]),
                (_, false) => {
                    cells.push(optional(row.accuracy, |a| {
                        let [value, low, high] = [a.value, a.low, a.high].map(|x| 100.0 * x);
                        format!("{value:.1} ({low:.1} to {high:.1})")
                    }));
                    cells.push(optional(row.accuracy_difference, |d| signed(d, 100.0, 1)));
                }
            }
            cells.push(format!("{:.2}", row.m.value));
            cells.push(optional(row.m_ratio, |r| {
                format!("{:.2} ({:.2} to {:.2})", r.value, r.low, r.high)
            }));
            cells.push(format!("{:.2}", row.block_efficiency));
            cells.push(format!("{:.3}", row.passes_per_token));
            let Shares {
                aligned,
                judged,
                bonus,
                residual,
            } = row.shares;
            let [a, j, b, r] = [aligned, judged, bonus, residual].map(|x| 100.0 * x);
            cells.push(format!("{a:.1} {j:.1} {b:.1} {r:.1}"));
            cells.push(format!("{:.0}", row.tokens_per_second));
            cells.push(optional(row.agreement, |a| {
                format!("{:.1}", 100.0 * a.exact)
            }));
            cells.push(optional(row.agreement, |a| format!("{:.3}", a.rouge_l)));
            if perplexity {
                cells.push(optional(row.perplexity, |p| format!("{p:.3}")));
            }
            table.add_row(cells);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }

    /// Accuracy (ROUGE-L for summaries) against m, a line a rule.
    pub fn plot(&self) -> Plot {
        let summaries = self.scores_summaries();
        let mut series: Vec<Series> = Vec::new();
        for row in &self.rows {
            let y = match summaries {
                true => row.rouge.map(|r| r[2]),
                false => row.accuracy,
            };
            let Some(y) = y else {
                continue;
            };
            let point = Point {
                x: row.m.value,
                y: y.value,
                error: Some((y.low, y.high)),
            };
            match series.iter_mut().find(|s| s.name == row.series) {
                Some(series) => series.points.push(point),
                None => series.push(Series::marked(row.series.clone(), vec![point])),
            }
        }
        for (place, series) in series.iter_mut().enumerate() {
            // colours repeat
            if place >= COLOURS.len() {
                series.line = Line::Dashed;
            }
            series.points.sort_by(|a, b| a.x.total_cmp(&b.x));
        }
        Plot {
            title: format!("{}, {} problems", self.task, self.problems),
            x: "m: draft tokens kept per target pass".to_owned(),
            y: match summaries {
                true => "ROUGE-L".to_owned(),
                false => "accuracy".to_owned(),
            },
            series,
            ..Plot::default()
        }
    }
}

fn optional<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(String::new, show)
}

/// A difference with its interval.
fn signed(d: Interval, scale: f64, digits: usize) -> String {
    let show = |x: f64| format!("{:+.digits$}", scale * x);
    format!("{} ({} to {})", show(d.value), show(d.low), show(d.high))
}
