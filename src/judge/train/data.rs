//! From mined samples to what a head is fitted to: parts, labels, standardised features.

use super::{Part, Shares, Tau, TauReport, TrainError, wrong};
use crate::judge::samples::{Method, Run, Shard};
use crate::judge::{Features, Layout, Tap};
use crate::statistics::quantile;
use rayon::prelude::*;
use std::ops::Range;

/// Rows that one task works on. Partial sums are added in the order of these blocks, so
/// that results do not depend on the number of threads; their number is bounded, so that
/// the partial sums stay small beside the data.
pub(super) fn block(rows: usize) -> usize {
    rows.div_ceil(64).max(256)
}

impl Shares {
    /// The part of the prompt with this key: the same for a given seed, whatever else was
    /// mined.
    pub fn part(&self, key: &str, seed: u64) -> Part {
        let mut place = fraction("split", key, seed) * self.0.iter().sum::<f64>();
        for (part, share) in Part::ALL.into_iter().zip(self.0) {
            if place < share {
                return part;
            }
            place -= share;
        }
        Part::Train
    }
}

/// A number from 0 to 1 that depends on all of these.
pub(super) fn fraction(purpose: &str, key: &str, seed: u64) -> f64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(purpose.as_bytes());
    hasher.update(&seed.to_le_bytes());
    hasher.update(key.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    (u64::from_le_bytes(first) >> 11) as f64 / (1u64 << 53) as f64
}

/// The suffix that scores are taken with, an index of [`Run::suffixes`].
pub(super) fn suffix(run: &Run, asked: Option<usize>) -> Result<Option<usize>, TrainError> {
    let find = |n| run.suffixes.iter().position(|&s| s == n);
    if run.method != Method::SelfJudge {
        return match asked {
            None => Ok(None),
            Some(n) => Err(wrong(
                "suffix",
                n,
                format!("none: the samples were mined by {}", run.method),
            )),
        };
    }
    let mined = || wrong("suffix", "no suffix mined", "at least one");
    match asked {
        Some(n) => match find(n) {
            Some(at) => Ok(Some(at)),
            None => Err(wrong(
                "suffix",
                n,
                format!("one of those mined, {:?}", run.suffixes),
            )),
        },
        None => {
            let largest = (0..run.suffixes.len()).max_by_key(|&i| run.suffixes[i]);
            Ok(Some(find(20).or(largest).ok_or_else(mined)?))
        }
    }
}

/// SelfJudge's scores of all samples.
pub(super) fn scores(
    run: &Run,
    shard: &Shard,
    suffix: usize,
    normalise: bool,
) -> Result<Vec<f32>, TrainError> {
    let score = |(i, sample): (usize, &crate::judge::samples::Sample)| match sample
        .score(run, suffix, normalise)
    {
        Some(score) if !score.is_nan() => Ok(score),
        found => Err(wrong(
            format!("score of sample {}", place(shard, i)),
            found.map_or("none".to_owned(), |s| s.to_string()),
            "a number, as selfjudge mines it",
        )),
    };
    shard.samples.iter().enumerate().map(score).collect()
}

/// A sample's place, for people.
fn place(shard: &Shard, i: usize) -> String {
    let sample = &shard.samples[i];
    format!(
        "{i} (prompt of line {}, position {}, rank {})",
        sample.prompt.line, sample.position, sample.rank
    )
}

/// Labels that were mined: whether each sample is acceptable.
pub(super) fn mined_labels(run: &Run, shard: &Shard) -> Result<Vec<bool>, TrainError> {
    let label = |(i, sample): (usize, &crate::judge::samples::Sample)| {
        sample.acceptable.ok_or_else(|| {
            wrong(
                format!("label of sample {}", place(shard, i)),
                "none",
                format!("true or false, as {} mines it", run.method),
            )
        })
    };
    shard.samples.iter().enumerate().map(label).collect()
}

/// The threshold of SelfJudge's scores, from the samples `rows` of the tau part.
pub(super) fn tau(
    rule: Tau,
    scores: &[f32],
    shard: &Shard,
    rows: &[usize],
) -> Result<TauReport, TrainError> {
    let changing = |&&i: &&usize| shard.samples[i].changes_answer == Some(true);
    let keeping = |&&i: &&usize| shard.samples[i].changes_answer == Some(false);
    let sorted = |filter: &dyn Fn(&&usize) -> bool| -> Vec<f32> {
        let mut of: Vec<f32> = rows.iter().filter(filter).map(|&i| scores[i]).collect();
        of.sort_by(f32::total_cmp);
        of
    };
    let (changed, kept) = (sorted(&changing), sorted(&keeping));
    let advice = "mine with a checker of final answers, mine more prompts, give the tau part \
                  a larger share, or set --tau quantile=Q or a number";
    let value = match rule {
        Tau::Value(value) => value,
        Tau::Quantile(share) => {
            let all: Vec<f64> = sorted(&|_| true).into_iter().map(f64::from).collect();
            if all.is_empty() {
                return Err(wrong(
                    "tau",
                    "no samples in the tau part",
                    format!("samples whose quantile {share} it is"),
                ));
            }
            quantile(&all, share) as f32
        }
        Tau::Auto => {
            if changed.is_empty() {
                return Err(wrong(
                    "tau",
                    format!(
                        "no substitution that changes the final answer among the {} samples of the tau part",
                        rows.len()
                    ),
                    format!("some to bound; {advice}"),
                ));
            }
            // so many may be as good as tau; the next one lies just below it
            let allowed = changed.len() / 10;
            changed[changed.len() - 1 - allowed].next_up()
        }
        Tau::Youden => {
            if changed.is_empty() || kept.is_empty() {
                return Err(wrong(
                    "tau",
                    format!(
                        "{} substitutions that change the final answer and {} that keep it in the tau part",
                        changed.len(),
                        kept.len()
                    ),
                    format!("some of both; {advice}"),
                ));
            }
            youden(&changed, &kept)
        }
    };
    if !value.is_finite() {
        return Err(wrong("tau", value, "a finite number"));
    }
    let at_least = |of: &[f32]| of.iter().filter(|&&s| s >= value).count();
    Ok(TauReport {
        value,
        rule: rule.to_string(),
        changing: changed.len(),
        changing_accepted: at_least(&changed),
        keeping: kept.len(),
        keeping_accepted: at_least(&kept),
    })
}

/// The threshold with the largest difference between the share of `kept` and the share of
/// `changed` that reach it; among equal ones the highest. Both ascending.
fn youden(changed: &[f32], kept: &[f32]) -> f32 {
    let reaching = |of: &[f32], tau: f32| {
        let below = of.partition_point(|&s| s < tau);
        (of.len() - below) as f64 / of.len() as f64
    };
    let j = |tau: f32| reaching(kept, tau) - reaching(changed, tau);
    // between two scores the difference does not change: kept scores are candidates enough
    let best = kept.iter().copied().max_by(|&a, &b| j(a).total_cmp(&j(b)));
    best.unwrap_or(f32::INFINITY)
}

/// Where in a mined row the features that a judge reads lie.
pub(super) fn columns(
    mined: &Features,
    layout: Option<Layout>,
    taps: Option<&[Tap]>,
) -> Result<(Features, Vec<Range<usize>>), TrainError> {
    let layout = layout.unwrap_or(mined.layout);
    let taps = taps.unwrap_or(&mined.taps);
    let mut ranges = Vec::new();
    let mut draft_width = 0;
    if layout == Layout::DdDt {
        if mined.layout != Layout::DdDt {
            return Err(wrong("layout", layout, "DT, as it was mined"));
        }
        draft_width = mined.draft_width;
        ranges.push(0..draft_width);
    }
    let mined_taps: Vec<String> = mined.taps.iter().map(Tap::to_string).collect();
    for (i, tap) in taps.iter().enumerate() {
        let Some(at) = mined.taps.iter().position(|t| t == tap) else {
            let expected = format!("one of those mined, {}", mined_taps.join(", "));
            return Err(wrong("tap", tap, expected));
        };
        if taps[..i].contains(tap) {
            return Err(wrong("tap", format!("{tap} twice"), "each tap once"));
        }
        let start = mined.draft_width + at * mined.target_width;
        ranges.push(start..start + mined.target_width);
    }
    if taps.is_empty() {
        return Err(wrong("taps", "none", "at least one"));
    }
    let features = Features {
        layout,
        taps: taps.to_vec(),
        target_width: mined.target_width,
        draft_width,
    };
    Ok((features, ranges))
}

/// Mined features, of which some columns are read.
pub(super) struct Source<'a> {
    /// [samples, width]
    pub values: &'a [f32],
    pub width: usize,
    pub columns: Vec<Range<usize>>,
}

impl Source<'_> {
    /// The features of sample `i`, one after the other in `row`.
    pub fn read(&self, i: usize, row: &mut Vec<f32>) {
        row.clear();
        let whole = &self.values[i * self.width..][..self.width];
        for columns in &self.columns {
            row.extend_from_slice(&whole[columns.clone()]);
        }
    }

    pub fn features(&self) -> usize {
        self.columns.iter().map(|c| c.len()).sum()
    }
}

/// Mean and standard deviation of every feature.
pub(super) struct Standard {
    pub mean: Vec<f32>,
    /// 0 where the feature is constant.
    pub std: Vec<f32>,
}

/// Standardised features.
pub(super) struct Matrix {
    pub features: usize,
    /// [rows, features]
    pub values: Vec<f32>,
}

impl Standard {
    /// Of the samples `rows`, at least one; the deviation divides by their number, as in
    /// scikit-learn's StandardScaler.
    pub fn fit(source: &Source, rows: &[usize]) -> Standard {
        let features = source.features();
        let mut first = Vec::new();
        source.read(rows[0], &mut first);
        // Differences from the first row: constant features have sums of exactly 0.
        let sums_of = |rows: &[usize]| {
            let mut sums = vec![(0.0f64, 0.0f64); features];
            let mut row = Vec::new();
            for &i in rows {
                source.read(i, &mut row);
                for ((sum, &x), &x0) in sums.iter_mut().zip(&row).zip(&first) {
                    let d = f64::from(x) - f64::from(x0);
                    sum.0 += d;
                    sum.1 += d * d;
                }
            }
            sums
        };
        let parts: Vec<_> = rows.par_chunks(block(rows.len())).map(sums_of).collect();
        let mut total = vec![(0.0, 0.0); features];
        for part in parts {
            for (t, p) in total.iter_mut().zip(part) {
                t.0 += p.0;
                t.1 += p.1;
            }
        }
        let n = rows.len() as f64;
        let (mut mean, mut std) = (Vec::new(), Vec::new());
        for (&(sum, squares), &x0) in total.iter().zip(&first) {
            let shift = sum / n;
            let m = f64::from(x0) + shift;
            let deviation = (squares / n - shift * shift).max(0.0).sqrt();
            mean.push(m as f32);
            // What varies by less than the rounding of float32 says nothing.
            let noise = (f64::from(f32::EPSILON) * m.abs()).max(1e-30);
            std.push(if deviation > noise {
                deviation as f32
            } else {
                0.0
            });
        }
        Standard { mean, std }
    }

    /// The standardised features of the samples `rows`.
    pub fn apply(&self, source: &Source, rows: &[usize]) -> Matrix {
        let features = source.features();
        let mut values = vec![0.0; rows.len() * features];
        // in float64, where differences of large features do not overflow
        let scale = |std: f32| if std == 0.0 { 1.0 } else { f64::from(std) };
        values
            .par_chunks_mut(features)
            .zip(rows)
            .for_each_init(Vec::new, |row, (out, &i)| {
                source.read(i, row);
                for (((out, &x), &mean), &std) in out
                    .iter_mut()
                    .zip(row.iter())
                    .zip(&self.mean)
                    .zip(&self.std)
                {
                    *out = ((f64::from(x) - f64::from(mean)) / scale(std)) as f32;
                }
            });
        Matrix { features, values }
    }
}

impl Matrix {
    pub fn rows(&self) -> usize {
        self.values.len() / self.features
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_features_and_large_means_are_standardised_safely() {
        let n = 1000;
        let values: Vec<f32> = (0..n)
            .flat_map(|i| {
                [
                    7.3,
                    3000.0 + (i % 10) as f32,
                    -0.1,
                    (i % 2) as f32 * 1e-20,
                    if i == 0 { f32::MIN } else { f32::MAX },
                ]
            })
            .collect();
        let source = Source {
            values: &values,
            width: 5,
            columns: vec![0..2, 3..5],
        };
        let rows: Vec<usize> = (0..n).collect();
        let standard = Standard::fit(&source, &rows);
        assert_eq!((standard.std[0], standard.mean[0]), (0.0, 7.3));
        assert!((standard.std[1] - 8.25f32.sqrt()).abs() < 1e-5);
        assert!((standard.mean[1] - 3004.5).abs() < 1e-3);
        assert!((standard.std[2] / 5e-21 - 1.0).abs() < 1e-5);
        let matrix = standard.apply(&source, &rows[..2]);
        assert_eq!((matrix.rows(), matrix.values[0]), (2, 0.0));
        assert!((matrix.values[6] - 1.0).abs() < 1e-5, "{:?}", matrix.values);
        // one of a thousand: 999 / sqrt(999) deviations below the mean
        assert!(
            (matrix.values[3] + 31.607).abs() < 1e-2,
            "{:?}",
            matrix.values
        );
    }

    #[test]
    fn youden_takes_the_highest_of_the_best_thresholds() {
        let changed = [-5.0, -3.0, -1.0, 2.0];
        let kept = [-2.0, 0.0, 0.0, 3.0, 4.0];
        // -2: 1 - 2/4; 0: 4/5 - 1/4 = .55; 3: 2/5
        assert_eq!(youden(&changed, &kept), 0.0);
    }

    #[test]
    fn shares_are_kept_and_a_prompt_stays_in_its_part() {
        let shares = Shares([0.5, 0.2, 0.2, 0.1]);
        let keys: Vec<String> = (0..20_000).map(|i| format!("{i:016x}")).collect();
        for (part, share) in Part::ALL.into_iter().zip(shares.0) {
            let count = keys.iter().filter(|k| shares.part(k, 3) == part).count();
            let found = count as f64 / keys.len() as f64;
            assert!((found - share).abs() < 0.015, "{part}: {found}");
        }
        let moved = keys
            .iter()
            .filter(|k| shares.part(k, 3) != shares.part(k, 4));
        assert!(moved.count() > 10_000);
        // nothing falls into a part without a share
        let shares = Shares([0.8, 0.0, 0.2, 0.0]);
        for key in &keys {
            assert!(matches!(
                shares.part(key, 1),
                Part::Train | Part::Validation
            ));
        }
    }
}
