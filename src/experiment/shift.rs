//! Domain shift: judge and threshold from one kind of problems, used on another.

use super::lab::{Data, Lab};
use super::price::{BUDGET, within_budget};
use super::report::{Part, bounds, table};
use super::{ExperimentError, decode::RESAMPLES};
use crate::judge::samples::{Method, Run, Shard};
use crate::judge::train::{Options, Part as Split, Shares, Trained, score};
use crate::plot::{Plot, Point, Series};
use crate::statistics::{Interval, bootstrap};
use serde::Serialize;
use std::collections::{HashMap, HashSet};

/// Kinds of problems, told apart by their questions.
const KINDS: [&str; 2] = ["sums", "products"];

/// 1 where something is multiplied: "grows 3 times", "3 times as many".
fn kind(question: &str) -> usize {
    usize::from(question.contains(" times"))
}

/// From which kind, to which, at which point.
type Place = (usize, usize, usize);
/// The seeds' thresholds, and what came of each test prompt.
type Found = (Vec<f32>, Vec<Rescues>);

/// What a threshold does to the samples of one test prompt.
#[derive(Clone, Copy, Default)]
struct Rescues {
    changing: usize,
    changing_rescued: usize,
    keeping: usize,
    keeping_rescued: usize,
}

#[derive(Clone, Debug, Serialize)]
struct Line {
    /// Judge and threshold come from problems of this kind.
    from: &'static str,
    /// Used on test prompts of this kind.
    to: &'static str,
    /// `chosen` or `r90`.
    point: &'static str,
    thetas: Vec<f32>,
    prompts: usize,
    /// Substitutions rescued that change the final answer, per answer.
    harmful_per_answer: Interval,
    /// Of the substitutions that change the answer, the share refused.
    recall: Interval,
    /// Of the substitutions that keep the answer, the share rescued.
    rescued: Interval,
}

pub fn run(lab: &Lab<'_>) -> Result<Part, ExperimentError> {
    lab.mine_all(Method::SelfJudge)?;
    let mut found: HashMap<Place, Found> = HashMap::new();
    for &seed in &lab.settings.seeds {
        let (run, shard) = lab.mined(seed, Method::SelfJudge)?;
        let data = Data::read(&lab.prompts(seed)?)?;
        let kinds: HashMap<usize, usize> = data
            .problems
            .iter()
            .map(|p| (p.line, kind(&p.prompt)))
            .collect();
        let shards = [0, 1].map(|k| of_kind(&shard, &run, &kinds, k));
        for (from, shard) in shards.iter().enumerate() {
            (lab.tell)(&format!("seed {seed}: training on {}", KINDS[from]));
            let samples = (run.clone(), shard.clone());
            let trained = lab.train(seed, &samples, Options::default())?;
            for (point, theta) in thetas(&trained).into_iter().enumerate() {
                for (to, shard) in shards.iter().enumerate() {
                    let rescues = rescues(&trained, theta, &run, shard, seed)?;
                    let (thetas, all) = found.entry((from, to, point)).or_default();
                    thetas.push(theta);
                    all.extend(rescues);
                }
            }
        }
    }
    let mut lines = Vec::new();
    for (point, name) in ["chosen", "r90"].into_iter().enumerate() {
        for to in 0..KINDS.len() {
            for from in [to, 1 - to] {
                if let Some((thetas, all)) = found.get(&(from, to, point)) {
                    lines.push(line(from, to, name, thetas, all));
                }
            }
        }
    }
    Ok(part(&lines))
}

/// The chosen point and r90, both of the judge's own kind.
fn thetas(trained: &Trained) -> Vec<f32> {
    let chosen = within_budget(&trained.judge, BUDGET).unwrap_or(1.0);
    let r90 = trained.judge.operating_points.map_or(1.0, |p| p.r90.theta);
    vec![chosen, r90]
}

/// The prompts of one kind with their samples.
fn of_kind(shard: &Shard, run: &Run, kinds: &HashMap<usize, usize>, kind: usize) -> Shard {
    let width = run.features.len();
    let mut part = Shard::default();
    let fits = |line: usize| kinds.get(&line) == Some(&kind);
    part.prompts = shard
        .prompts
        .iter()
        .filter(|p| fits(p.line))
        .cloned()
        .collect();
    for (i, sample) in shard.samples.iter().enumerate() {
        if fits(sample.prompt.line) {
            part.samples.push(sample.clone());
            part.features
                .extend_from_slice(&shard.features[i * width..][..width]);
        }
    }
    part
}

/// For every test prompt of a shard, what the threshold does; the division is training's.
fn rescues(
    trained: &Trained,
    theta: f32,
    run: &Run,
    shard: &Shard,
    seed: u64,
) -> Result<Vec<Rescues>, ExperimentError> {
    let shares = Shares::default();
    let mut seen = HashSet::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for prompt in &shard.prompts {
        if shares.part(&prompt.key, seed) == Split::Test && seen.insert(&prompt.key) {
            places.insert(&prompt.key, places.len());
        }
    }
    let rows: Vec<usize> = (0..shard.samples.len())
        .filter(|&i| places.contains_key(shard.samples[i].prompt.key.as_str()))
        .collect();
    let scores = score(&trained.judge, run, shard, &rows)?;
    let mut all = vec![Rescues::default(); places.len()];
    for (&i, &score) in rows.iter().zip(&scores) {
        let sample = &shard.samples[i];
        let one = &mut all[places[sample.prompt.key.as_str()]];
        let rescued = usize::from(score >= theta);
        match sample.changes_answer {
            Some(true) => {
                one.changing += 1;
                one.changing_rescued += rescued;
            }
            Some(false) => {
                one.keeping += 1;
                one.keeping_rescued += rescued;
            }
            None => {}
        }
    }
    Ok(all)
}

fn line(from: usize, to: usize, point: &'static str, thetas: &[f32], all: &[Rescues]) -> Line {
    let ratio = |above: fn(&Rescues) -> usize, below: fn(&Rescues) -> usize| {
        bootstrap(all.len(), RESAMPLES, 0, |drawn| {
            let (a, b) = drawn.iter().fold((0, 0), |(a, b), &i| {
                (a + above(&all[i]), b + below(&all[i]))
            });
            a as f64 / b as f64
        })
    };
    Line {
        from: KINDS[from],
        to: KINDS[to],
        point,
        thetas: thetas.to_vec(),
        prompts: all.len(),
        harmful_per_answer: ratio(|r| r.changing_rescued, |_| 1),
        recall: ratio(|r| r.changing - r.changing_rescued, |r| r.changing),
        rescued: ratio(|r| r.keeping_rescued, |r| r.keeping),
    }
}

fn part(lines: &[Line]) -> Part {
    let mut text = format!(
        "Word problems with sums and differences alone against those that multiply, told apart by their questions. Judge and threshold come from the training and validation prompts of one kind and are used on the test prompts of the same and of the other; the label is whether a substitution alone changes the final answer. *chosen*: at most {BUDGET} expected harmful rescues per answer on the judge's validation curve. Resampled by prompt, seeds together.\n\n"
    );
    let head = [
        "used on",
        "chosen on",
        "point",
        "test prompts",
        "changing rescued per answer",
        "changing refused, share",
        "keeping rescued, share",
    ];
    let rows = lines.iter().map(|l| {
        vec![
            l.to.to_owned(),
            l.from.to_owned(),
            l.point.to_owned(),
            l.prompts.to_string(),
            bounds(l.harmful_per_answer, 4),
            bounds(l.recall, 3),
            bounds(l.rescued, 3),
        ]
    });
    text += &table(&head, rows.collect());
    let points = ["chosen", "r90"];
    let series = points.iter().enumerate().map(|(number, point)| {
        let of_point = lines.iter().filter(|l| l.point == *point).enumerate();
        let points = of_point.map(|(place, l)| Point {
            // beside each other: their bars may overlap
            x: place as f64 + 0.2 * (number as f64 - 0.5),
            y: l.harmful_per_answer.value,
            error: Some((l.harmful_per_answer.low, l.harmful_per_answer.high)),
        });
        let mut series = Series::marked(*point, points.collect());
        series.line = crate::plot::Line::None;
        series
    });
    let names = lines.iter().filter(|l| l.point == points[0]);
    Part {
        figures: serde_json::json!({ "lines": lines }),
        plots: vec![Plot {
            title: "Domain shift".to_owned(),
            x: "chosen on, then used on".to_owned(),
            y: "answer-changing rescues per answer".to_owned(),
            x_names: names.map(|l| format!("{}, {}", l.from, l.to)).collect(),
            series: series.collect(),
            ..Plot::default()
        }],
        title: "Domain shift",
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::kind;

    #[test]
    fn a_question_that_multiplies_is_told_from_one_that_does_not() {
        assert_eq!(
            kind("Ana has 4 pens. Then the number of pens grows 3 times. How"),
            1
        );
        assert_eq!(kind("Ana wins, and now has 2 times as many."), 1);
        assert_eq!(kind("Ana has 4 pens. Ana buys 3 more."), 0);
    }
}
