//! What a judge's quality depends on: labels, amount of data, kind of head.

use super::decode::{Tally, accuracy_difference, decode, m_ratio, pool};
use super::lab::{Lab, SUFFIXES};
use super::price::{self, BUDGET, judged, menu, within_budget};
use super::report::{Part, bounds, points, table};
use super::{ExperimentError, decode::RESAMPLES};
use crate::judge::samples::Method;
use crate::judge::train::{HeadKind, Options, Part as Split, Ranking, Shares, Trained};
use crate::plot::{Plot, Point, Series};
use crate::statistics::{Interval, bootstrap};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::Arc;

/// Test problems that are decoded with each judge, where m is asked for.
const PROBLEMS: usize = 500;
const GAMMA: usize = 8;
/// Training prompts; the last takes all there are.
const SIZES: [usize; 5] = [50, 100, 200, 400, usize::MAX];

/// One way to train.
struct Variant {
    name: String,
    x: f64,
    options: Options,
}

/// A comparison of ways to train.
struct Comparison {
    title: &'static str,
    /// What varies.
    axis: &'static str,
    variants: Vec<Variant>,
    /// The variant that the others are compared with.
    reference: usize,
    /// Whether test problems are decoded with each judge.
    decodes: bool,
}

#[derive(Clone, Debug, Serialize)]
struct Line {
    name: String,
    x: f64,
    training_prompts: Vec<usize>,
    training_samples: Vec<usize>,
    taus: Vec<Option<f32>>,
    cs: Vec<f64>,
    auroc: Interval,
    auroc_of_seeds: Vec<f64>,
    difference: Interval,
    difference_of_seeds: Vec<Interval>,
    thetas: Vec<Option<f32>>,
    m_ratio: Option<Interval>,
    accuracy_difference: Option<Interval>,
}

pub fn suffix(lab: &Lab<'_>) -> Result<Part, ExperimentError> {
    let variant = |&n: &usize| Variant {
        name: format!("N = {n}"),
        x: n as f64,
        options: Options {
            suffix: Some(n),
            ..Options::default()
        },
    };
    let mut part = compare(
        lab,
        &Comparison {
            title: "Suffix length of SelfJudge's labels",
            axis: "N: suffix tokens",
            variants: SUFFIXES.iter().map(variant).collect(),
            reference: SUFFIXES.iter().position(|&n| n == 20).unwrap_or(0),
            decodes: false,
        },
    )?;
    let scores = of_scores(lab)?;
    part.text += "\nThe scores that the labels are made of, on the same prompts; N = 0 is the ratio of two probabilities of one pass, for which nothing is trained.\n\n";
    let rows = scores
        .iter()
        .map(|(n, auroc)| vec![format!("N = {n}"), bounds(*auroc, 4)]);
    part.text += &table(&["score", "AUROC"], rows.collect());
    if let Some(fields) = part.figures.as_object_mut() {
        fields.insert("scores".into(), serde_json::json!(scores));
    }
    Ok(part)
}

pub fn data(lab: &Lab<'_>) -> Result<Part, ExperimentError> {
    let variant = |&size: &usize| Variant {
        name: match size {
            usize::MAX => "all".to_owned(),
            size => format!("{size} prompts"),
        },
        x: size as f64,
        options: Options {
            max_prompts: Some(size),
            ..Options::default()
        },
    };
    compare(
        lab,
        &Comparison {
            title: "Amount of training data",
            axis: "training prompts",
            variants: SIZES.iter().map(variant).collect(),
            reference: SIZES.len() - 1,
            decodes: true,
        },
    )
}

pub fn two_layer(lab: &Lab<'_>) -> Result<Part, ExperimentError> {
    let variant = |(x, head): (usize, HeadKind)| Variant {
        name: head.to_string(),
        x: x as f64,
        options: Options {
            head,
            ..Options::default()
        },
    };
    let heads = [
        (1, HeadKind::Linear),
        (16, HeadKind::TwoLayer(16)),
        (64, HeadKind::TwoLayer(64)),
    ];
    compare(
        lab,
        &Comparison {
            title: "Linear and two-layer judges",
            axis: "width (1: linear)",
            variants: heads.into_iter().map(variant).collect(),
            reference: 0,
            decodes: true,
        },
    )
}

/// Test prompts of a training.
fn prompts(trained: &Trained, part: Split) -> usize {
    let found = trained.report.parts.iter().find(|p| p.part == part);
    found.map_or(0, |p| p.prompts)
}

/// A ranking of samples of one seed's test prompts, and how many prompts these are.
type Ranked<'a> = (&'a Ranking, usize);

/// The trained judges' rankings on the common label.
fn common(trained: &[Trained]) -> Vec<Ranked<'_>> {
    let seeds = trained.iter();
    seeds
        .map(|t| (&t.common, prompts(t, Split::Test)))
        .collect()
}

/// The mean over seeds of the AUROC on the common label, or of its difference to other
/// rankings'; resampled by prompt, all seeds' test prompts together.
fn auroc(seeds: &[Ranked<'_>], other: Option<&[Ranked<'_>]>) -> Interval {
    let prompts: usize = seeds.iter().map(|(_, size)| size).sum();
    bootstrap(prompts, RESAMPLES, 0, |drawn| {
        let mut counts = vec![0.0; prompts];
        for &i in drawn {
            counts[i] += 1.0;
        }
        let (mut sum, mut first) = (0.0, 0);
        for (seed, (ranking, size)) in seeds.iter().enumerate() {
            let weight = |group: usize| counts.get(first + group).copied().unwrap_or(0.0);
            sum += ranking.weighted_auroc(weight);
            if let Some(other) = other {
                sum -= other[seed].0.weighted_auroc(weight);
            }
            first += size;
        }
        sum / seeds.len() as f64
    })
}

/// How well SelfJudge's scores themselves tell on the common label, for each N: what a judge
/// learns from, and what it would reach if it learned it whole.
fn of_scores(lab: &Lab<'_>) -> Result<Vec<(usize, Interval)>, ExperimentError> {
    let mut rankings: Vec<Vec<(Ranking, usize)>> = SUFFIXES.iter().map(|_| Vec::new()).collect();
    for &seed in &lab.settings.seeds {
        let (run, shard) = lab.mined(seed, Method::SelfJudge)?;
        let mut groups: HashMap<&str, usize> = HashMap::new();
        for prompt in &shard.prompts {
            if Shares::default().part(&prompt.key, seed) == Split::Test {
                let next = groups.len();
                groups.entry(&prompt.key).or_insert(next);
            }
        }
        for (n, rankings) in SUFFIXES.iter().zip(&mut rankings) {
            let place = run.suffixes.iter().position(|s| s == n);
            let (mut scores, mut changes, mut group) = (Vec::new(), Vec::new(), Vec::new());
            for sample in &shard.samples {
                let suffix = place.and_then(|place| sample.suffix.get(place));
                if let Some(&of) = groups.get(sample.prompt.key.as_str())
                    && let (Some(prefix), Some(suffix)) = (sample.prefix, suffix)
                    && let Some(changed) = sample.changes_answer
                {
                    scores.push(prefix + suffix);
                    changes.push(changed);
                    group.push(of);
                }
            }
            rankings.push((Ranking::new(&scores, &changes, &group), groups.len()));
        }
    }
    let of_suffix = SUFFIXES.iter().zip(&rankings).map(|(&n, seeds)| {
        let seeds: Vec<Ranked<'_>> = seeds.iter().map(|(r, size)| (r, *size)).collect();
        (n, auroc(&seeds, None))
    });
    Ok(of_suffix.collect())
}

fn compare(lab: &Lab<'_>, comparison: &Comparison) -> Result<Part, ExperimentError> {
    lab.mine_all(Method::SelfJudge)?;
    let mut trained: Vec<Vec<Trained>> = comparison.variants.iter().map(|_| Vec::new()).collect();
    for &seed in &lab.settings.seeds {
        let samples = lab.mined(seed, Method::SelfJudge)?;
        for (variant, trained) in comparison.variants.iter().zip(&mut trained) {
            (lab.tell)(&format!("seed {seed}: training, {}", variant.name));
            trained.push(lab.train(seed, &samples, variant.options.clone())?);
        }
    }
    let decoded = match comparison.decodes {
        true => Some(decoded(lab, &trained)?),
        false => None,
    };
    let reference = &trained[comparison.reference];
    let mut lines = Vec::new();
    for (i, (variant, of_variant)) in comparison.variants.iter().zip(&trained).enumerate() {
        let each = of_variant.iter().zip(reference).zip(&lab.settings.seeds);
        let mean_prompts = of_variant
            .iter()
            .map(|t| prompts(t, Split::Train))
            .sum::<usize>() as f64
            / of_variant.len().max(1) as f64;
        lines.push(Line {
            name: variant.name.clone(),
            // what was asked for may be more than there is
            x: match variant.options.max_prompts {
                Some(_) => mean_prompts,
                None => variant.x,
            },
            training_prompts: of_variant
                .iter()
                .map(|t| prompts(t, Split::Train))
                .collect(),
            training_samples: of_variant
                .iter()
                .map(|t| t.report.parts[0].samples)
                .collect(),
            taus: of_variant
                .iter()
                .map(|t| t.report.tau.as_ref().map(|tau| tau.value))
                .collect(),
            cs: of_variant.iter().map(|t| t.report.c).collect(),
            auroc: auroc(&common(of_variant), None),
            auroc_of_seeds: of_variant.iter().map(|t| t.common.auroc()).collect(),
            difference: auroc(&common(of_variant), Some(&common(reference))),
            difference_of_seeds: each
                .map(|((mine, other), &seed)| {
                    let groups = prompts(mine, Split::Test);
                    mine.common
                        .auroc_difference(&other.common, groups, RESAMPLES, seed)
                })
                .collect(),
            thetas: of_variant
                .iter()
                .map(|t| within_budget(&t.judge, BUDGET))
                .collect(),
            m_ratio: decoded.as_ref().map(|d| d[i].0),
            accuracy_difference: decoded.as_ref().map(|d| d[i].1),
        });
    }
    Ok(part(comparison, &lines))
}

/// For each variant m over the chain's, and accuracy less plain decoding's, at the chosen
/// points on the first test problems.
fn decoded(
    lab: &Lab<'_>,
    trained: &[Vec<Trained>],
) -> Result<Vec<(Interval, Interval)>, ExperimentError> {
    let mut test = lab.test()?;
    test.problems.truncate(PROBLEMS);
    let mut rows = menu(lab, vec![GAMMA], Vec::new()).rows(&["plain", "chain"])?;
    for (i, of_variant) in trained.iter().enumerate() {
        for (trained, seed) in of_variant.iter().zip(&lab.settings.seeds) {
            let judge = Arc::new(trained.judge.clone());
            let theta = within_budget(&judge, BUDGET).unwrap_or(1.0);
            rows.push(judged(lab, &format!("{i}-{seed}"), &judge, theta, GAMMA)?);
        }
    }
    let columns = decode(lab, &test, &rows, &price::decoded(lab.settings))?;
    let (plain, chain) = (&columns[0], &columns[1]);
    let seeds = lab.settings.seeds.len();
    let figures = columns[2..].chunks(seeds).map(|of_variant| {
        let of_rows: Vec<&[Tally]> = of_variant.iter().map(Vec::as_slice).collect();
        let pooled = pool(&of_rows);
        (m_ratio(&pooled, chain), accuracy_difference(&pooled, plain))
    });
    Ok(figures.collect())
}

fn part(comparison: &Comparison, lines: &[Line]) -> Part {
    let reference = &comparison.variants[comparison.reference].name;
    let mut text = format!(
        "AUROC on one test label: does the substitution alone change the final answer? Means over seeds, resampled by prompt; differences to {reference} are paired. tau is fitted for each judge.\n\n"
    );
    let mut head = vec!["judge", "training prompts", "AUROC", "difference"];
    if comparison.decodes {
        head.extend(["m over chain's", "accuracy less plain's, points"]);
    }
    let rows = lines.iter().map(|l| {
        let mean = l.training_prompts.iter().sum::<usize>() / l.training_prompts.len().max(1);
        let mut row = vec![
            l.name.clone(),
            mean.to_string(),
            bounds(l.auroc, 4),
            match l.name == *reference {
                true => String::new(),
                false => bounds(l.difference, 4),
            },
        ];
        if comparison.decodes {
            row.push(l.m_ratio.map_or(String::new(), |r| bounds(r, 3)));
            row.push(
                l.accuracy_difference
                    .map_or(String::new(), |d| points(d, 2)),
            );
        }
        row
    });
    text += &table(&head, rows.collect());
    if comparison.decodes {
        text += &format!(
            "\nm and accuracy: the first {PROBLEMS} test problems (all, where there are fewer), gamma {GAMMA}, each judge at its chosen point (at most {BUDGET} expected harmful rescues per answer on its validation curve).\n"
        );
    }
    let marked = |name: &str, of: &dyn Fn(&Line) -> Option<Interval>| {
        let points = lines.iter().filter_map(|l| {
            let i = of(l)?;
            Some(Point {
                x: l.x,
                y: i.value,
                error: Some((i.low, i.high)),
            })
        });
        Series::marked(name, points.collect())
    };
    let panel = |y: &str, series: Series| Plot {
        title: comparison.title.to_owned(),
        x: comparison.axis.to_owned(),
        y: y.to_owned(),
        series: vec![series],
        ..Plot::default()
    };
    let mut plots = vec![panel(
        "AUROC, answer changes",
        marked("", &|l| Some(l.auroc)),
    )];
    if comparison.decodes {
        plots.push(panel("m over chain's", marked("", &|l| l.m_ratio)));
    }
    Part {
        figures: serde_json::json!({ "reference": reference, "lines": lines }),
        plots,
        title: comparison.title,
        text,
    }
}
