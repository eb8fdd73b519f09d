//! Sampling with the production generator, and whether the samples follow a law.

use std::collections::BTreeMap;

use gavel::verify::{Chooser, Mass, Philox, Real, Remaining, Site, philox4x32};
use statrs::distribution::{ChiSquared, ContinuousCDF};

use crate::enumerate::{Counter, Joint, Pick};
use crate::toy::Case;

/// Sequences drawn per case.
pub const DRAWS: u32 = 200_000;

/// The production generator with parts of its counter left out.
#[derive(Clone, Copy)]
pub struct Seeded {
    pub philox: Philox,
    pub counter: Counter,
}

impl Seeded {
    fn word(&self, site: Site) -> u64 {
        let Philox {
            seed,
            sequence,
            step,
        } = self.philox;
        let [step, row, usage] = self.counter.of(step, site);
        let words = philox4x32(
            [sequence, step, row, usage],
            [seed as u32, (seed >> 32) as u32],
        );
        u64::from(words[1]) << 32 | u64::from(words[0])
    }
}

impl<T: Real> Chooser<T> for Seeded {
    fn accept(&mut self, site: Site, probability: T) -> bool {
        probability.admits(self.word(site))
    }

    fn draw(&mut self, site: Site, law: &Remaining<'_>) -> Option<u32> {
        law.draw(self.word(site))
    }

    fn draw_mass(&mut self, site: Site, mass: &Mass<T>) -> Option<u32> {
        mass.draw(self.word(site))
    }
}

impl Pick for Seeded {
    fn pick(&mut self, site: Site, weights: &[f64]) -> usize {
        let mut r = f64::uniform(self.word(site)) * weights.iter().sum::<f64>();
        for (option, &w) in weights.iter().enumerate() {
            if r < w {
                return option;
            }
            r -= w;
        }
        weights.iter().rposition(|&w| w > 0.0).unwrap()
    }
}

/// How often each sequence came up among [`DRAWS`], each by repeated steps.
pub fn sample(
    case: &Case,
    seed: u64,
    mut step: impl FnMut(&[u32], Philox) -> Vec<u32>,
) -> BTreeMap<Vec<u32>, u64> {
    let mut counts = BTreeMap::new();
    for sequence in 0..DRAWS {
        let mut tokens = Vec::new();
        let mut philox = Philox::new(seed, sequence);
        while tokens.len() < case.tokens() {
            let committed = step(&tokens, philox);
            tokens.extend(committed);
            philox.step += 1;
        }
        tokens.truncate(case.tokens());
        *counts.entry(tokens).or_default() += 1;
    }
    counts
}

/// The probability that samples of `law` lie further from it than `counts` do
/// (Pearson's chi-square; cells expected less than 5 times are pooled).
pub fn p_value(counts: &BTreeMap<Vec<u32>, u64>, law: &Joint) -> f64 {
    let draws = counts.values().sum::<u64>() as f64;
    let outside = counts.keys().any(|key| !law.contains_key(key));
    if outside {
        return 0.0; // an impossible sequence came up
    }
    let cells = law.iter().map(|(key, p)| {
        let found = counts.get(key).copied().unwrap_or(0);
        (found as f64, p * draws)
    });
    let (mut kept, rare): (Vec<_>, Vec<_>) = cells.partition(|&(_, expected)| expected >= 5.0);
    let pooled = rare.iter().fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
    match kept.iter_mut().min_by(|a, b| a.1.total_cmp(&b.1)) {
        // The pool itself may be too small: it joins the smallest cell.
        Some(least) if pooled.1 < 5.0 => {
            least.0 += pooled.0;
            least.1 += pooled.1;
        }
        _ => kept.push(pooled),
    }
    let statistic: f64 = kept.iter().map(|&(n, e)| (n - e) * (n - e) / e).sum();
    match kept.len() {
        0 | 1 => 1.0,
        cells => ChiSquared::new(cells as f64 - 1.0).unwrap().sf(statistic),
    }
}
