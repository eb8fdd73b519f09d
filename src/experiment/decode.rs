//! Rows over problems on several devices, in pieces that are kept.

use super::ExperimentError;
use super::lab::{Data, Lab, parallel};
use crate::eval::{self, Decoder, Evaluation, Prompting, Row};
use crate::statistics::{Interval, bootstrap};
use crate::task::{Grader, Task};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Problems of a piece: what is in a folder, whatever the number of workers.
const PIECE: usize = 50;
/// Most tokens of a response.
const MAX_TOKENS: usize = 160;
/// Draws of a bootstrap.
pub const RESAMPLES: usize = 2000;

/// What one row made of one problem, as far as comparisons need it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Whether the answer is right; a share where several judges answered.
    pub right: f64,
    /// Draft tokens kept.
    pub kept: usize,
    /// Of these, rescued by a judge rule.
    pub judged: usize,
    /// Target passes.
    pub passes: usize,
    /// Tokens committed.
    pub tokens: usize,
}

/// Decodes all problems in all rows; what is in `out` is not decoded again. For each row,
/// in order, what it made of each problem.
pub fn decode(
    lab: &Lab<'_>,
    data: &Data,
    rows: &[Row],
    out: &Path,
) -> Result<Vec<Vec<Tally>>, ExperimentError> {
    let grader = Grader::of(Task::WordProblems);
    let keys: Vec<String> = rows
        .iter()
        .map(|row| Ok(row.spec()?.key()))
        .collect::<Result<_, ExperimentError>>()?;
    let pieces: Vec<_> = data.problems.chunks(PIECE).collect();
    let of_pieces = parallel(lab.settings.workers, pieces.len(), &|i| {
        let evaluation = Evaluation {
            task: Task::WordProblems,
            data: data.digest.clone(),
            problems: pieces[i],
            rows,
            target: &lab.target,
            tokenizer: &lab.tokenizer,
            prompting: Prompting {
                chat: true,
                max_tokens: MAX_TOKENS,
                ..Prompting::default()
            },
            grader: &grader,
            seed: 0,
            perplexity: false,
            context: lab.context(),
        };
        let mut decoders = Vec::new();
        for drafter in eval::drafters(rows) {
            let device = lab.device(&lab.target, drafter.clone())?;
            decoders.push(Decoder { drafter, device });
        }
        let dir = out.join(format!("piece-{i:03}"));
        let results = eval::run(&evaluation, &mut decoders, Some(&dir), &mut || {})?;
        (lab.tell)(&format!("decoded piece {} of {}", i + 1, pieces.len()));
        keys.iter()
            .map(|key| {
                let of_row = pieces[i].iter().map(|problem| {
                    let outcome = results.get(problem.line, key);
                    let outcome = outcome.ok_or_else(|| ExperimentError::Input {
                        what: dir.display().to_string(),
                        found: format!("no outcome of problem {} in row {key}", problem.id),
                        expected: "one".to_owned(),
                    })?;
                    Ok(Tally {
                        right: f64::from(outcome.grade.right.unwrap_or(false)),
                        kept: outcome.stats.accepted(),
                        judged: outcome.stats.judged,
                        passes: outcome.stats.passes,
                        tokens: outcome.stats.tokens,
                    })
                });
                of_row.collect::<Result<Vec<Tally>, ExperimentError>>()
            })
            .collect::<Result<Vec<_>, ExperimentError>>()
    })?;
    let mut columns = vec![Vec::with_capacity(data.problems.len()); rows.len()];
    for piece in of_pieces {
        for (column, part) in columns.iter_mut().zip(piece) {
            column.extend(part);
        }
    }
    Ok(columns)
}

/// Several judges' columns as one: counts added, answers averaged, problem by problem.
pub fn pool(columns: &[&[Tally]]) -> Vec<Tally> {
    let problems = columns.first().map_or(0, |c| c.len());
    let sum = |i: usize| {
        let mut all = Tally::default();
        for column in columns {
            let one = column[i];
            all.right += one.right / columns.len() as f64;
            all.kept += one.kept;
            all.judged += one.judged;
            all.passes += one.passes;
            all.tokens += one.tokens;
        }
        all
    };
    (0..problems).map(sum).collect()
}

fn m(column: &[Tally], drawn: &[usize]) -> f64 {
    let (kept, passes) = drawn.iter().fold((0, 0), |(kept, passes), &i| {
        (kept + column[i].kept, passes + column[i].passes)
    });
    kept as f64 / passes as f64
}

/// m over all problems.
pub fn m_of_all(column: &[Tally]) -> f64 {
    m(column, &(0..column.len()).collect::<Vec<_>>())
}

/// The share of right answers.
pub fn right(column: &[Tally]) -> f64 {
    column.iter().map(|t| t.right).sum::<f64>() / column.len() as f64
}

/// Mean draft tokens kept per target pass.
pub fn mean_kept(column: &[Tally]) -> Interval {
    bootstrap(column.len(), RESAMPLES, 0, |drawn| m(column, drawn))
}

/// m of one over m of the other, both on the same problems.
pub fn m_ratio(column: &[Tally], other: &[Tally]) -> Interval {
    bootstrap(column.len(), RESAMPLES, 0, |drawn| {
        m(column, drawn) / m(other, drawn)
    })
}

/// Accuracy of one less that of the other, both on the same problems.
pub fn accuracy_difference(column: &[Tally], other: &[Tally]) -> Interval {
    bootstrap(column.len(), RESAMPLES, 0, |drawn| {
        let sum: f64 = drawn
            .iter()
            .map(|&i| column[i].right - other[i].right)
            .sum();
        sum / drawn.len() as f64
    })
}

/// Accuracy; for pooled columns the mean of the judges'.
pub fn accuracy(column: &[Tally]) -> Interval {
    bootstrap(column.len(), RESAMPLES, 0, |drawn| {
        let sum: f64 = drawn.iter().map(|&i| column[i].right).sum();
        sum / drawn.len() as f64
    })
}

/// Tokens committed per target pass.
pub fn tokens_per_pass(column: &[Tally]) -> f64 {
    let tokens: usize = column.iter().map(|t| t.tokens).sum();
    let passes: usize = column.iter().map(|t| t.passes).sum();
    tokens as f64 / passes as f64
}
