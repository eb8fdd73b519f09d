//! Training a judge from mined samples (METHODS, "Training and operating points").
//!
//! [`train`] takes samples in memory, so that experiments can call it many times:
//!
//! ```no_run
//! use gavel::judge::{samples, train};
//!
//! let (run, mined) = samples::read(&["mined".into()])?;
//! let options = train::Options { suffix: Some(0), ..train::Options::default() };
//! let trained = train::train(&run, &mined, &options, &mut |_| {})?;
//! println!("AUROC {}", trained.report.validation.auroc.value);
//! trained.judge.write("judge.safetensors".as_ref())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The result depends on samples and options alone, not on the number of threads. Memory
//! holds the samples and a standardised copy of those trained and validated on, in float32:
//! for 69,000 samples of 4,096 features 1.9 GiB in all. Two cores fit the eight values of C
//! to these in two to three minutes (`cargo bench --bench train`).

mod curve;
mod data;
mod logistic;
mod picture;
mod report;
mod two_layer;

use super::samples::{Method, Run, Shard};
use super::{Features, Head, Judge, JudgeError, Layout, MAX_WIDTH, Meaning, Tap};
use data::{Matrix, Source, Standard};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

pub use curve::{At, Ranking};
pub use picture::Curves;
pub use report::{Common, GridPoint, Operating, PartReport, Quality, Report, TauReport};

/// What to train, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// SelfJudge: which of the mined suffix lengths; without, 20 or else the largest.
    pub suffix: Option<usize>,
    /// SelfJudge: divide scores by their number of terms.
    pub normalise: bool,
    /// SelfJudge: the score from which a substitution is acceptable.
    pub tau: Tau,
    /// The kind of head.
    pub head: HeadKind,
    /// Inverse strengths of the L2 penalty to choose from, scikit-learn's C.
    pub c: Vec<f64>,
    /// How prompts are divided.
    pub shares: Shares,
    /// Of the division, of the two-layer head and of intervals.
    pub seed: u64,
    /// Read less than was mined: this layout.
    pub layout: Option<Layout>,
    /// Read less than was mined: these taps, in this order.
    pub taps: Option<Vec<Tap>>,
    /// Train on so many samples at most. Which, the seed says, prompt by prompt; a larger
    /// number adds to a smaller one's. The other parts are whole.
    pub max_samples: Option<usize>,
    /// Train on so many prompts at most.
    pub max_prompts: Option<usize>,
    /// Weights of the classes in the loss.
    pub class_weights: ClassWeights,
    /// Draws of the bootstrap behind each interval.
    pub resamples: usize,
    /// Put before what [`Judge::provenance`] says by itself.
    pub provenance: String,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            suffix: None,
            normalise: false,
            tau: Tau::Auto,
            head: HeadKind::Linear,
            c: (-6..=1).map(|e| 10f64.powi(e)).collect(),
            shares: Shares::default(),
            seed: 0,
            layout: None,
            taps: None,
            max_samples: None,
            max_prompts: None,
            class_weights: ClassWeights::Plain,
            resamples: 1000,
            provenance: String::new(),
        }
    }
}

/// How SelfJudge's threshold of scores is chosen (METHODS, "Making labels").
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tau {
    /// The lowest that at most one in ten reaches of the tau part's substitutions that
    /// change the final answer.
    Auto,
    /// Youden's J on the tau part: the largest difference between the share of answers
    /// kept that reaches it and the share of answers changed that does.
    Youden,
    /// This quantile of the tau part's scores.
    Quantile(f64),
    /// This score.
    Value(f32),
}

/// The kind of head to train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadKind {
    /// Logistic regression.
    Linear,
    /// A hidden layer of this width, 1 to [`MAX_WIDTH`].
    TwoLayer(usize),
}

/// Weights of the two classes in the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ClassWeights {
    /// All samples weigh 1.
    Plain,
    /// Both classes weigh the same: samples / (2 samples of the class), as in scikit-learn.
    Balanced,
    /// An unacceptable token weighs this much, an acceptable one 1.
    Unacceptable(f64),
}

/// Shares of the prompts that go to training, tau, validation and test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shares(pub [f64; 4]);

impl Default for Shares {
    fn default() -> Shares {
        Shares([0.6, 0.1, 0.15, 0.15])
    }
}

/// One of the four disjoint sets of prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The head is fitted to it.
    Train,
    /// tau is chosen on it.
    Tau,
    /// C and the operating points are chosen on it.
    Validation,
    /// Nothing is chosen on it.
    Test,
}

impl Part {
    /// All of them, in the order of [`Shares`].
    pub const ALL: [Part; 4] = [Part::Train, Part::Tau, Part::Validation, Part::Test];
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Train => "train",
            Part::Tau => "tau",
            Part::Validation => "validation",
            Part::Test => "test",
        })
    }
}

/// Why a judge could not be trained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The samples or the options do not allow it.
    #[error("training: {what}: found {found}, expected {expected}")]
    Input {
        /// Which part.
        what: String,
        /// What is there.
        found: String,
        /// What belongs there, or what may help.
        expected: String,
    },
    /// What came out is no judge.
    #[error(transparent)]
    Judge(#[from] JudgeError),
    /// The optimiser gave up.
    #[error("training: C = {c}: the optimiser failed: {why}")]
    Optimiser {
        /// Inverse strength of the penalty.
        c: f64,
        /// What it says.
        why: String,
    },
}

fn wrong(what: impl ToString, found: impl ToString, expected: impl ToString) -> TrainError {
    TrainError::Input {
        what: what.to_string(),
        found: found.to_string(),
        expected: expected.to_string(),
    }
}

impl FromStr for Tau {
    type Err = TrainError;

    fn from_str(text: &str) -> Result<Tau, TrainError> {
        let quantile = text.strip_prefix("quantile=").map(str::parse);
        match (text, quantile, text.parse()) {
            ("auto", ..) => Ok(Tau::Auto),
            ("youden", ..) => Ok(Tau::Youden),
            (_, Some(Ok(share)), _) if (0.0..=1.0).contains(&share) => Ok(Tau::Quantile(share)),
            (_, None, Ok(value)) if f32::is_finite(value) => Ok(Tau::Value(value)),
            _ => Err(wrong(
                "tau",
                format!("'{text}'"),
                "auto, youden, quantile=Q with Q from 0 to 1, or a number",
            )),
        }
    }
}

impl fmt::Display for Tau {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tau::Auto => f.write_str("auto"),
            Tau::Youden => f.write_str("youden"),
            Tau::Quantile(share) => write!(f, "quantile={share}"),
            Tau::Value(value) => write!(f, "{value}"),
        }
    }
}

impl FromStr for HeadKind {
    type Err = TrainError;

    fn from_str(text: &str) -> Result<HeadKind, TrainError> {
        let width = text.strip_prefix("two-layer=").map(str::parse);
        match (text, width) {
            ("linear", _) => Ok(HeadKind::Linear),
            ("two-layer", _) => Ok(HeadKind::TwoLayer(MAX_WIDTH)),
            (_, Some(Ok(width))) if (1..=MAX_WIDTH).contains(&width) => {
                Ok(HeadKind::TwoLayer(width))
            }
            _ => Err(wrong(
                "head",
                format!("'{text}'"),
                format!("linear or two-layer[=WIDTH] with a width from 1 to {MAX_WIDTH}"),
            )),
        }
    }
}

impl fmt::Display for HeadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeadKind::Linear => f.write_str("linear"),
            HeadKind::TwoLayer(width) => write!(f, "two-layer={width}"),
        }
    }
}

impl FromStr for ClassWeights {
    type Err = TrainError;

    fn from_str(text: &str) -> Result<ClassWeights, TrainError> {
        match (text, text.parse()) {
            ("plain", _) => Ok(ClassWeights::Plain),
            ("balanced", _) => Ok(ClassWeights::Balanced),
            (_, Ok(weight)) if f64::is_finite(weight) && weight > 0.0 => {
                Ok(ClassWeights::Unacceptable(weight))
            }
            _ => Err(wrong(
                "class weights",
                format!("'{text}'"),
                "plain, balanced, or the weight of unacceptable tokens, a number above 0",
            )),
        }
    }
}

impl fmt::Display for ClassWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClassWeights::Plain => f.write_str("plain"),
            ClassWeights::Balanced => f.write_str("balanced"),
            ClassWeights::Unacceptable(weight) => write!(f, "{weight}"),
        }
    }
}

impl FromStr for Shares {
    type Err = TrainError;

    fn from_str(text: &str) -> Result<Shares, TrainError> {
        let numbers: Result<Vec<f64>, _> = text.split(',').map(|n| n.trim().parse()).collect();
        match numbers.ok().and_then(|n| <[f64; 4]>::try_from(n).ok()) {
            Some(shares) => {
                let shares = Shares(shares);
                shares.check()?;
                Ok(shares)
            }
            None => Err(wrong("split", format!("'{text}'"), SHARES)),
        }
    }
}

const SHARES: &str = "four shares TRAIN,TAU,VALIDATION,TEST that add up to 1, none below 0, \
                      training and validation above 0";

impl Shares {
    fn check(&self) -> Result<(), TrainError> {
        let [train, tau, validation, test] = self.0;
        let sum = train + tau + validation + test;
        let sound = (sum - 1.0).abs() < 1e-6 && train > 0.0 && validation > 0.0;
        match sound && tau >= 0.0 && test >= 0.0 {
            true => Ok(()),
            false => Err(wrong("split", format!("{:?}", self.0), SHARES)),
        }
    }
}

impl Options {
    fn check(&self, method: Method) -> Result<(), TrainError> {
        self.shares.check()?;
        if self.c.is_empty() || self.c.iter().any(|c| !(c.is_finite() && *c > 0.0)) {
            let found = format!("{:?}", self.c);
            return Err(wrong("C", found, "numbers above 0, at least one"));
        }
        if let HeadKind::TwoLayer(width) = self.head
            && !(1..=MAX_WIDTH).contains(&width)
        {
            return Err(wrong("width", width, format!("1 to {MAX_WIDTH}")));
        }
        if let ClassWeights::Unacceptable(weight) = self.class_weights
            && !(weight.is_finite() && weight > 0.0)
        {
            return Err(wrong("class weight", weight, "a number above 0"));
        }
        if method != Method::SelfJudge && (self.tau != Tau::Auto || self.normalise) {
            return Err(wrong(
                "options",
                "tau or normalise",
                format!("neither: labels mined by {method} stand as they are"),
            ));
        }
        Ok(())
    }
}

/// A judge and what is known of it.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The judge, standardisation folded in, with operating points and curve.
    pub judge: Judge,
    /// In figures.
    pub report: Report,
    /// The validation part, labelled as in training.
    pub validation: Ranking,
    /// The test part, labelled as in training. Groups of this ranking and of `common` are
    /// numbers of the test part's prompts, the same for every training with these shares
    /// and this seed on these samples: judges can be compared pairwise.
    pub test: Ranking,
    /// The samples of the test part whose answers were checked, labelled by whether the
    /// answer changes: the label on which all methods are compared.
    pub common: Ranking,
}

/// The samples of a part.
#[derive(Default)]
struct Rows {
    rows: Vec<usize>,
    /// The prompt of each.
    groups: Vec<usize>,
    /// Number of prompts, those without samples too.
    prompts: usize,
}

/// Trains a judge on `samples` of `run`. `on_fit` is told of every C that has been tried.
///
/// # Errors
///
/// When the samples or the options do not allow it: no samples, one class only in training
/// or validation, scores or labels that were not mined, widths that do not fit.
pub fn train(
    run: &Run,
    samples: &Shard,
    options: &Options,
    on_fit: &mut dyn FnMut(&GridPoint),
) -> Result<Trained, TrainError> {
    options.check(run.method)?;
    let source = check(run, samples)?;
    let (features, columns) =
        data::columns(&run.features, options.layout, options.taps.as_deref())?;
    let source = Source { columns, ..source };
    let parts = split(samples, options);
    let [train, tau_part, validation, test] = &parts;

    let suffix = data::suffix(run, options.suffix)?;
    let (acceptable, tau) = match suffix {
        Some(which) => {
            let scores = data::scores(run, samples, which, options.normalise)?;
            let tau = data::tau(options.tau, &scores, samples, &tau_part.rows)?;
            let reach = scores.iter().map(|&s| s >= tau.value).collect();
            (reach, Some(tau))
        }
        None => (data::mined_labels(run, samples)?, None),
    };
    let part_reports: Vec<PartReport> = Part::ALL
        .iter()
        .zip(&parts)
        .map(|(&part, rows)| PartReport::of(part, rows.prompts, &rows.rows, samples, &acceptable))
        .collect();
    for at in [0, 2] {
        both_classes(&part_reports[at], tau.as_ref())?;
    }

    let standard = Standard::fit(&source, &train.rows);
    let meaning = match run.method {
        Method::AutoJudge => Meaning::Important,
        Method::SelfJudge | Method::Labels => Meaning::Acceptable,
    };
    let fitting = Fitting {
        rows: standard.apply(&source, &train.rows),
        labels: of(&train.rows, |i| {
            acceptable[i] == (meaning == Meaning::Acceptable)
        }),
        weights: weights(options.class_weights, &train.rows, &acceptable),
        validation: standard.apply(&source, &validation.rows),
        validation_labels: of(&validation.rows, |i| {
            acceptable[i] == (meaning == Meaning::Acceptable)
        }),
    };
    let (head, grid, c) = fitting.search(options, on_fit)?;
    // the largest things in memory are not needed any more
    drop(fitting);

    let n = suffix.map(|which| run.suffixes[which]);
    let mut judge = Judge {
        head,
        meaning,
        features: features.clone(),
        vocab_size: run.vocab_size,
        target_fingerprint: run.target_fingerprint.clone(),
        draft_fingerprint: run.draft_fingerprint.clone(),
        method: method_text(run.method, n, tau.as_ref(), options, c),
        provenance: provenance(options, &part_reports),
        operating_points: None,
        curve: Vec::new(),
    };
    judge.fold(&standard.mean, &standard.std)?;

    // From here on with the judge as it is stored, on features as they are mined.
    let rank = |rows: &Rows, unacceptable: &dyn Fn(usize) -> bool| {
        let scores = score_rows(&judge, &source, &rows.rows);
        let labels: Vec<bool> = rows.rows.iter().map(|&i| unacceptable(i)).collect();
        Ranking::new(&scores, &labels, &rows.groups)
    };
    let by_label = |i: usize| !acceptable[i];
    let on_validation = rank(validation, &by_label);
    let on_test = rank(test, &by_label);
    let changes = |i: usize| samples.samples[i].changes_answer;
    let checked = test.filter(|i| changes(i).is_some());
    let on_common = rank(&checked, &|i| changes(i) == Some(true));

    let curve = on_validation.curve();
    let points = curve::operating_points(&on_validation, &curve)
        .ok_or_else(|| wrong("validation", "no samples", "samples of both classes"))?;
    judge.operating_points = Some(curve::stored(&points, validation.prompts));
    judge.curve = curve.iter().map(|p| p.stored(validation.prompts)).collect();
    let quality =
        |ranking: &Ranking, rows: &Rows| Quality::of(ranking, rows.prompts, &points, options);
    let report = Report {
        method: run.method,
        suffix: n,
        normalise: options.normalise,
        tau,
        head: options.head.to_string(),
        features,
        class_weights: options.class_weights.to_string(),
        seed: options.seed,
        parts: part_reports,
        grid,
        c,
        validation: quality(&on_validation, validation),
        test: on_test.has_both().then(|| quality(&on_test, test)),
        common: on_common
            .has_both()
            .then(|| Common::of(&on_common, test.prompts, options)),
    };
    Ok(Trained {
        judge,
        report,
        validation: on_validation,
        test: on_test,
        common: on_common,
    })
}

/// The probabilities that samples `rows` of a run are acceptable, by a judge that may have
/// been trained on other samples: its layout and taps must be among those mined.
pub fn score(
    judge: &Judge,
    run: &Run,
    samples: &Shard,
    rows: &[usize],
) -> Result<Vec<f32>, TrainError> {
    let source = check(run, samples)?;
    let asked = &judge.features;
    let (found, columns) = data::columns(&run.features, Some(asked.layout), Some(&asked.taps))?;
    if found != *asked {
        let text = |f: &Features| {
            format!(
                "width {} of the target and {} of the drafter",
                f.target_width, f.draft_width
            )
        };
        return Err(wrong("features", text(&found), text(asked)));
    }
    if let Some(row) = rows.iter().find(|&&row| row >= samples.samples.len()) {
        let expected = format!("a sample below {}", samples.samples.len());
        return Err(wrong("row", row, expected));
    }
    Ok(score_rows(judge, &Source { columns, ..source }, rows))
}

fn score_rows(judge: &Judge, source: &Source, rows: &[usize]) -> Vec<f32> {
    rows.par_iter()
        .map_init(Vec::new, |row, &i| {
            source.read(i, row);
            judge.score(row)
        })
        .collect()
}

/// The samples' features, if there are any and they have the width that the run states.
fn check<'a>(run: &Run, samples: &'a Shard) -> Result<Source<'a>, TrainError> {
    let width = run.features.len();
    let count = samples.samples.len();
    if count == 0 {
        return Err(wrong(
            "samples",
            format!(
                "no mismatches in the answers to {} prompts",
                samples.prompts.len()
            ),
            "some; mine more prompts, or with a drafter that differs more from the target",
        ));
    }
    if width == 0 || samples.features.len() != count.saturating_mul(width) {
        return Err(wrong(
            "features",
            format!("{} values for {count} samples", samples.features.len()),
            format!("{width} for each sample"),
        ));
    }
    Ok(Source {
        values: &samples.features,
        width,
        columns: Vec::new(),
    })
}

/// Divides samples by prompt, and limits the training part.
fn split(samples: &Shard, options: &Options) -> [Rows; 4] {
    let mut parts: [Rows; 4] = Default::default();
    let mut place: HashMap<&str, (usize, usize)> = HashMap::new();
    let answered = samples.prompts.iter();
    for prompt in answered.chain(samples.samples.iter().map(|s| &s.prompt)) {
        place.entry(&prompt.key).or_insert_with(|| {
            let part = options.shares.part(&prompt.key, options.seed) as usize;
            parts[part].prompts += 1;
            (part, parts[part].prompts - 1)
        });
    }
    for (i, sample) in samples.samples.iter().enumerate() {
        let (part, group) = place[sample.prompt.key.as_str()];
        parts[part].rows.push(i);
        parts[part].groups.push(group);
    }
    if options.max_samples.is_some() || options.max_prompts.is_some() {
        let train = Part::Train as usize;
        let mut keys = vec![""; parts[train].prompts];
        for (key, (part, group)) in &place {
            if *part == train {
                keys[*group] = key;
            }
        }
        parts[train].limit(&keys, options);
    }
    parts
}

impl Rows {
    /// Keeps the first prompts in an order that key and seed give.
    fn limit(&mut self, keys: &[&str], options: &Options) {
        let order_of = |key: &str| data::fraction("limit", key, options.seed);
        let mut order: Vec<(f64, usize)> = keys
            .iter()
            .enumerate()
            .map(|(group, key)| (order_of(key), group))
            .collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut of_group = vec![Vec::new(); self.prompts];
        for (&row, &group) in self.rows.iter().zip(&self.groups) {
            of_group[group].push(row);
        }
        let samples = options.max_samples.unwrap_or(usize::MAX);
        let prompts = options.max_prompts.unwrap_or(usize::MAX);
        *self = Rows::default();
        for (_, group) in order.into_iter().take(prompts) {
            if self.rows.len() >= samples {
                break;
            }
            let room = samples - self.rows.len();
            for &row in of_group[group].iter().take(room) {
                self.rows.push(row);
                self.groups.push(self.prompts);
            }
            self.prompts += 1;
        }
    }

    fn filter(&self, keep: impl Fn(usize) -> bool) -> Rows {
        let kept = self
            .rows
            .iter()
            .zip(&self.groups)
            .filter(|&(&i, _)| keep(i));
        let (rows, groups) = kept.unzip();
        Rows {
            rows,
            groups,
            prompts: self.prompts,
        }
    }
}

fn of<T>(rows: &[usize], value: impl Fn(usize) -> T) -> Vec<T> {
    rows.iter().map(|&i| value(i)).collect()
}

fn both_classes(part: &PartReport, tau: Option<&TauReport>) -> Result<(), TrainError> {
    if part.acceptable > 0 && part.unacceptable > 0 {
        return Ok(());
    }
    let labelled = match tau {
        Some(tau) => format!(", labelled with tau = {} ({})", tau.value, tau.rule),
        None => String::new(),
    };
    Err(wrong(
        format!("the {} part", part.part),
        format!(
            "{} samples of {} prompts, {} acceptable and {} unacceptable{labelled}",
            part.samples, part.prompts, part.acceptable, part.unacceptable
        ),
        "samples of both classes; mine more prompts, give the part a larger share, or choose another tau",
    ))
}

fn weights(rule: ClassWeights, rows: &[usize], acceptable: &[bool]) -> Vec<f64> {
    let count = |class: bool| rows.iter().filter(|&&i| acceptable[i] == class).count();
    let balanced = |class| rows.len() as f64 / (2.0 * count(class) as f64);
    let (good, bad) = match rule {
        ClassWeights::Plain => (1.0, 1.0),
        ClassWeights::Balanced => (balanced(true), balanced(false)),
        ClassWeights::Unacceptable(weight) => (1.0, weight),
    };
    of(rows, |i| if acceptable[i] { good } else { bad })
}

/// What heads are fitted to and chosen by, standardised.
struct Fitting {
    rows: Matrix,
    /// What the sigmoid is to be.
    labels: Vec<bool>,
    weights: Vec<f64>,
    validation: Matrix,
    validation_labels: Vec<bool>,
}

impl Fitting {
    /// The head, of standardised features, whose C has the highest validation AUROC, the
    /// smallest C among equals; what was tried; that C.
    fn search(
        &self,
        options: &Options,
        on_fit: &mut dyn FnMut(&GridPoint),
    ) -> Result<(Head, Vec<GridPoint>, f64), TrainError> {
        let mut cs = options.c.clone();
        cs.sort_by(f64::total_cmp);
        cs.dedup();
        let mut best: Option<(f64, f64, Head)> = None;
        let mut grid = Vec::new();
        // Each C starts from the weights of the one before.
        let mut start = vec![0.0; self.rows.features + 1];
        for c in cs {
            let (head, logits, iterations, converged) = match options.head {
                HeadKind::Linear => self.linear(c, &mut start)?,
                HeadKind::TwoLayer(width) => self.two_layer(c, width, options.seed),
            };
            // Which class is called positive does not change the area.
            let negative: Vec<bool> = self.validation_labels.iter().map(|l| !l).collect();
            let groups = vec![0; negative.len()];
            let auroc = Ranking::new(&logits, &negative, &groups).auroc();
            let point = GridPoint {
                c,
                auroc,
                iterations,
                converged,
            };
            on_fit(&point);
            grid.push(point);
            if best.as_ref().is_none_or(|(highest, ..)| auroc > *highest) {
                best = Some((auroc, c, head));
            }
        }
        let (_, c, head) = best.ok_or_else(|| wrong("C", "none", "at least one"))?;
        Ok((head, grid, c))
    }

    #[allow(clippy::type_complexity)] // head, validation logits, iterations, converged
    fn linear(
        &self,
        c: f64,
        start: &mut Vec<f64>,
    ) -> Result<(Head, Vec<f32>, u64, bool), TrainError> {
        let problem = logistic::Problem {
            rows: &self.rows,
            labels: &self.labels,
            weights: &self.weights,
            c,
        };
        let fitted = problem
            .solve(start.clone())
            .map_err(|e| TrainError::Optimiser {
                c,
                why: e.to_string(),
            })?;
        start.clone_from(&fitted.parameters);
        let logits = logistic::logits(&self.validation, &fitted.parameters);
        let (w, b) = fitted.parameters.split_at(self.rows.features);
        let head = Head::Linear {
            w: w.iter().map(|&w| w as f32).collect(),
            b: b[0] as f32,
        };
        Ok((head, logits, fitted.iterations, fitted.converged))
    }

    fn two_layer(&self, c: f64, width: usize, seed: u64) -> (Head, Vec<f32>, u64, bool) {
        let problem = two_layer::Problem {
            rows: &self.rows,
            labels: &self.labels,
            weights: &self.weights,
            c,
            width,
            seed,
        };
        let fitted = problem.solve(&self.validation, &self.validation_labels);
        let logits = fitted.head.logits(&self.validation);
        let two_layer::TwoLayer { w1, b1, w2, b2 } = fitted.head;
        let head = Head::TwoLayer {
            w1: w1.into_iter().collect(),
            b1: b1.to_vec(),
            w2: w2.to_vec(),
            b2: b2[0],
        };
        (head, logits, fitted.epochs as u64, fitted.settled)
    }
}

fn method_text(
    method: Method,
    suffix: Option<usize>,
    tau: Option<&TauReport>,
    options: &Options,
    c: f64,
) -> String {
    let mut text = method.to_string();
    if let (Some(n), Some(tau)) = (suffix, tau) {
        let normalised = if options.normalise { " normalised" } else { "" };
        text += &format!(", N = {n}{normalised}, tau = {} ({})", tau.value, tau.rule);
    }
    text += &format!(", {}, C = {c}", options.head);
    if options.class_weights != ClassWeights::Plain {
        text += &format!(", class weights {}", options.class_weights);
    }
    text
}

fn provenance(options: &Options, parts: &[PartReport]) -> String {
    let counts: Vec<String> = parts
        .iter()
        .map(|p| format!("{} {} of {}", p.part, p.samples, p.prompts))
        .collect();
    let mut text = options.provenance.trim().to_owned();
    if !text.is_empty() {
        text.push_str("; ");
    }
    text + &format!(
        "samples of prompts: {}; seed {}; gavel {}",
        counts.join(", "),
        options.seed,
        env!("CARGO_PKG_VERSION")
    )
}
