//! How well scores tell acceptable tokens from unacceptable ones. Positive: unacceptable.

use crate::judge::{CurvePoint, OperatingPoints};
use crate::statistics::{Interval, bootstrap};
use serde::{Deserialize, Serialize};

/// Scored samples in ascending order of score.
#[derive(Clone, Debug, Default)]
pub struct Ranking {
    scores: Vec<f32>,
    /// Whether it is unacceptable.
    positive: Vec<bool>,
    /// The prompt it belongs to.
    group: Vec<usize>,
}

/// What a threshold does: METHODS, "Training and operating points".
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct At {
    /// A token is rescued when its score is at least this.
    pub theta: f32,
    /// Of the tokens not rescued, the share that is unacceptable; 1 where all are rescued.
    pub precision: f64,
    /// Of the unacceptable tokens, the share that is not rescued.
    pub recall: f64,
    /// Harmonic mean of precision and recall.
    pub f1: f64,
    /// Of the acceptable tokens, the share that is not rescued: the false positive rate.
    pub refused: f64,
    /// Unacceptable tokens rescued.
    pub harmful: usize,
}

impl Ranking {
    /// Sorts samples: the probability that each is acceptable, whether it is unacceptable,
    /// and the number of the prompt it belongs to, from 0. All of one length.
    pub fn new(scores: &[f32], positive: &[bool], group: &[usize]) -> Ranking {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        Ranking {
            scores: order.iter().map(|&i| scores[i]).collect(),
            positive: order.iter().map(|&i| positive[i]).collect(),
            group: order.iter().map(|&i| group[i]).collect(),
        }
    }

    /// How many samples there are.
    pub fn len(&self) -> usize {
        self.scores.len()
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.scores.is_empty()
    }

    /// Number of unacceptable samples.
    pub fn positives(&self) -> usize {
        self.positive.iter().filter(|&&p| p).count()
    }

    /// Whether both classes are there.
    pub fn has_both(&self) -> bool {
        (1..self.len()).contains(&self.positives())
    }

    /// Area under the ROC curve: the chance that an unacceptable token scores below an
    /// acceptable one, ties counted half; NaN where a class is absent.
    pub fn auroc(&self) -> f64 {
        self.weighted_auroc(|_| 1.0)
    }

    /// The same with each sample counted as often as `weight` says of its prompt.
    pub(crate) fn weighted_auroc(&self, weight: impl Fn(usize) -> f64) -> f64 {
        let (mut below, mut pairs, mut negatives) = (0.0, 0.0, 0.0);
        for tie in self.ties() {
            let (mut p, mut n) = (0.0, 0.0);
            for i in tie {
                let w = weight(self.group[i]);
                if self.positive[i] { p += w } else { n += w }
            }
            // these acceptable ones lie above all unacceptable ones so far, and beside p
            pairs += n * (below + 0.5 * p);
            below += p;
            negatives += n;
        }
        pairs / (below * negatives)
    }

    /// [`Ranking::auroc`] with its interval over draws of the `groups` prompts.
    pub fn auroc_interval(&self, groups: usize, resamples: usize, seed: u64) -> Interval {
        bootstrap(groups, resamples, seed, |drawn| {
            let counts = counts(groups, drawn);
            self.weighted_auroc(|group| counts.get(group).copied().unwrap_or(0.0))
        })
    }

    /// AUROC of this ranking less that of another of the same prompts, paired by prompt.
    pub fn auroc_difference(
        &self,
        other: &Ranking,
        groups: usize,
        resamples: usize,
        seed: u64,
    ) -> Interval {
        bootstrap(groups, resamples, seed, |drawn| {
            let counts = counts(groups, drawn);
            let weight = |group: usize| counts.get(group).copied().unwrap_or(0.0);
            self.weighted_auroc(weight) - other.weighted_auroc(weight)
        })
    }

    /// Runs of equal scores, ascending.
    fn ties(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        let mut start = 0;
        self.scores.chunk_by(|a, b| a == b).map(move |tie| {
            let range = start..start + tie.len();
            start = range.end;
            range
        })
    }

    /// What each threshold that makes a difference does, ascending: every score that there
    /// is, and one above them all where 1 leaves room for it.
    pub fn curve(&self) -> Vec<At> {
        let total = self.positives();
        let (mut positives, mut points) = (0, Vec::new());
        for tie in self.ties() {
            points.push(self.point(self.scores[tie.start], tie.start, positives, total));
            positives += tie.map(|i| usize::from(self.positive[i])).sum::<usize>();
        }
        if let Some(&last) = self.scores.last()
            && last < 1.0
        {
            points.push(self.point(last.next_up(), self.len(), positives, total));
        }
        points
    }

    /// What this threshold does.
    pub fn at(&self, theta: f32) -> At {
        let flagged = self.scores.partition_point(|&s| s < theta);
        let positives = self.positive[..flagged].iter().filter(|&&p| p).count();
        self.point(theta, flagged, positives, self.positives())
    }

    /// The point at which `flagged` samples, `positives` of them unacceptable, lie below.
    fn point(&self, theta: f32, flagged: usize, positives: usize, total: usize) -> At {
        let share = |part: usize, of: usize, none: f64| match of {
            0 => none,
            _ => part as f64 / of as f64,
        };
        At {
            theta,
            precision: share(positives, flagged, 1.0),
            recall: share(positives, total, 1.0),
            f1: share(2 * positives, flagged + total, 0.0),
            refused: share(flagged - positives, self.len() - total, 0.0),
            harmful: total - positives,
        }
    }
}

fn counts(groups: usize, drawn: &[usize]) -> Vec<f64> {
    let mut counts = vec![0.0; groups];
    for &group in drawn {
        counts[group] += 1.0;
    }
    counts
}

impl At {
    /// As a judge stores it, for `answers` validated ones.
    pub fn stored(&self, answers: usize) -> CurvePoint {
        CurvePoint {
            theta: self.theta,
            precision: self.precision as f32,
            recall: self.recall as f32,
            harmful_per_answer: (self.harmful as f64 / answers.max(1) as f64) as f32,
        }
    }
}

/// f1, r90 and mid on the validation curve; `None` where there are no points.
///
/// Among thresholds of equal F1 the most restrictive is taken. Scores of exactly 1 can not
/// be refused by any threshold: should recall not reach 0.9 for that, r90 is the most
/// restrictive threshold there is.
pub fn operating_points(ranking: &Ranking, curve: &[At]) -> Option<[At; 3]> {
    let f1 = *curve.iter().max_by(|a, b| a.f1.total_cmp(&b.f1))?;
    let r90 = *curve.iter().find(|p| p.recall >= 0.9).or(curve.last())?;
    let logit = |theta: f32| {
        let p = f64::from(theta).clamp(1e-7, 1.0 - 1e-7);
        (p / (1.0 - p)).ln()
    };
    let mid = match f1.theta == r90.theta {
        true => f1,
        false => {
            let middle = (logit(f1.theta) + logit(r90.theta)) / 2.0;
            ranking.at((1.0 / (1.0 + (-middle).exp())) as f32)
        }
    };
    Some([f1, r90, mid])
}

/// The three as a judge stores them.
pub fn stored(points: &[At; 3], answers: usize) -> OperatingPoints {
    let [f1, r90, mid] = points.map(|p| p.stored(answers));
    OperatingPoints { f1, r90, mid }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auroc_counts_ties_half() {
        // unacceptable at .1 .3 .5, acceptable at .3 .5 .7: of nine pairs 6 right, 2 tied
        let scores = [0.1, 0.3, 0.5, 0.3, 0.5, 0.7];
        let positive = [true, true, true, false, false, false];
        let ranking = Ranking::new(&scores, &positive, &[0, 1, 2, 0, 1, 2]);
        assert!((ranking.auroc() - 7.0 / 9.0).abs() < 1e-12);
        let interval = ranking.auroc_interval(3, 500, 1);
        assert!(interval.low <= interval.value && interval.value < interval.high);
        let none = ranking.auroc_difference(&ranking, 3, 100, 1);
        assert_eq!((none.value, none.low, none.high), (0.0, 0.0, 0.0));
        let one_class = Ranking::new(&[0.5], &[true], &[0]);
        assert!(one_class.auroc().is_nan() && !one_class.has_both());
    }

    #[test]
    fn a_prompt_drawn_twice_counts_as_its_samples_twice() {
        let (scores, positive) = ([0.2, 0.4, 0.3, 0.9], [true, false, true, true]);
        let once = Ranking::new(&scores, &positive, &[0, 0, 1, 1]);
        let twice = Ranking::new(
            &[0.2, 0.4, 0.2, 0.4, 0.3, 0.9],
            &[true, false, true, false, true, true],
            &[0; 6],
        );
        assert_eq!(once.weighted_auroc(|g| [2.0, 1.0][g]), twice.auroc());
    }

    #[test]
    fn every_threshold_says_what_it_does() {
        let scores = [0.1, 0.2, 0.2, 0.8];
        let positive = [true, true, false, false];
        let ranking = Ranking::new(&scores, &positive, &[0; 4]);
        let curve = ranking.curve();
        let seen: Vec<_> = curve
            .iter()
            .map(|p| (p.theta, p.precision, p.recall, p.refused, p.harmful))
            .collect();
        let expected = [
            (0.1, 1.0, 0.0, 0.0, 2),
            (0.2, 1.0, 0.5, 0.0, 1),
            (0.8, 2.0 / 3.0, 1.0, 0.5, 0),
            (0.8f32.next_up(), 0.5, 1.0, 1.0, 0),
        ];
        assert_eq!(seen, expected);
        for point in &curve {
            assert_eq!(ranking.at(point.theta), *point);
        }
        let [f1, r90, mid] = operating_points(&ranking, &curve).unwrap();
        assert_eq!((f1.theta, r90.theta, mid.theta), (0.8, 0.8, 0.8));
        assert_eq!(stored(&[f1, r90, mid], 4).f1.harmful_per_answer, 0.0);
        assert_eq!(curve[1].stored(4).harmful_per_answer, 0.25);
    }

    #[test]
    fn mid_lies_between_the_two_in_logits() {
        // F1 is best at .5 (8 of 9 flagged rightly); recall of .9 needs .9
        let mut scores = vec![0.25; 8];
        scores.extend([0.8, 0.8, 0.5, 0.6, 0.7, 0.9, 0.9]);
        let positive: Vec<bool> = (0..15).map(|i| i < 10).collect();
        let ranking = Ranking::new(&scores, &positive, &[0; 15]);
        let [f1, r90, mid] = operating_points(&ranking, &ranking.curve()).unwrap();
        assert_eq!((f1.theta, r90.theta), (0.5, 0.9));
        // logits 0 and ln 9: in the middle ln 3
        assert!((mid.theta - 0.75).abs() < 1e-6, "{mid:?}");
        assert_eq!((mid.recall, mid.harmful), (0.8, 2));
    }

    #[test]
    fn scores_at_the_ends_have_operating_points_too() {
        let ranking = Ranking::new(&[0.0, 0.0, 1.0, 1.0], &[true, false, true, false], &[0; 4]);
        let curve = ranking.curve();
        let [f1, r90, mid] = operating_points(&ranking, &curve).unwrap();
        for point in [f1, r90, mid] {
            assert!((0.0..=1.0).contains(&point.theta), "{point:?}");
        }
        assert_eq!(r90.theta, 1.0);
        assert!(operating_points(&Ranking::default(), &[]).is_none());
    }
}
