//! Draft length chosen while decoding: the gamma that promises the most tokens a second.
//!
//! With acceptance rate a, a step that drafts g tokens is expected to commit
//!
//! > E(g) = 1 + a + a^2 + ... + a^g = (1 - a^(g+1)) / (1 - a)
//!
//! of them (Leviathan et al. 2211.17192, equation 1), and takes T (g c + 1), where T is the time of
//! a step without a draft and c that of one more drafted token relative to it (ibid., theorem 3.8).
//! The gamma chosen maximises E(g) / (g c + 1). Both unknowns are measured on the way: a from the
//! nodes that verification kept and refused, T and c from the line of least squares through the
//! median times of steps against the nodes that they drafted. So c holds what a drafted token
//! really costs here, its own row in the target pass included, which is nothing where the pass
//! waits for memory and much where it does not.
//!
//! What was seen is forgotten little by little, towards a hopeful acceptance rate: a text that
//! drafts did not suit is tried again now and then.
//!
//! A lossless rule commits tokens of the same law whatever gamma is, so greedy output does not
//! change, and neither does the law of sampled output: a choice depends on what was committed
//! before and on times, never on what is drawn next. Which tokens a seed gives does depend on
//! gamma, so a sampled output is not repeated by its seed.

use super::Steps;
use crate::device::{Step, StepReport, TokenReason};
use crate::tree::Shape;
use std::collections::VecDeque;
use std::sync::Arc;

/// Draft lengths to choose from where a user names none; 0 is plain decoding.
pub const GAMMAS: [usize; 8] = [0, 1, 2, 3, 4, 6, 8, 12];

/// What a draft that was verified a step ago still counts, so that the acceptance rate is that of
/// the last 30 or so tokens of the text.
const MEMORY_OF_TEXT: f64 = 1.0 - 1.0 / 32.0;
/// What the acceptance rate of one text counts in the next.
const MEMORY_OF_ANOTHER_TEXT: f64 = 0.25;
/// What it still counts after a step without a draft, in which nothing is learnt.
const MEMORY_IDLE: f64 = 1.0 - 1.0 / 128.0;
/// What stands for nodes kept and refused before any was drafted.
const HOPE: (f64, f64) = (1.5, 0.5);
/// How many steps' times are remembered: costs change with the context, which is slowly.
const TIMES: usize = 128;
/// Every how many steps another gamma than the best is tried, twice in a row, or else the costs of
/// other gammas would be forgotten.
const PROBE: usize = 32;

/// Chooses gamma among given ones, step by step: the one that promises the most tokens a second, by
/// the acceptance rate and the times measured on the way.
#[derive(Clone, Debug)]
pub struct AdaptiveGamma {
    /// One step a gamma, ascending.
    steps: Vec<Step>,
    acceptance: Acceptance,
    costs: Costs,
    /// Steps given out.
    asked: usize,
    /// Whether the next report is the first of its sequence: a drafter then reads the prompt.
    first: bool,
    /// Whether the step before drafted nothing: a drafter then catches up in the next.
    idle: bool,
}

impl AdaptiveGamma {
    /// Chooses among `gammas` for steps that are like `step` but for their shape. There is always
    /// something to choose: an empty list is that of `[0]`.
    pub fn new(step: &Step, gammas: &[usize]) -> AdaptiveGamma {
        let mut gammas = gammas.to_vec();
        gammas.sort_unstable();
        gammas.dedup();
        if gammas.is_empty() {
            gammas.push(0);
        }
        let steps = gammas.iter().map(|&gamma| Step {
            shape: Shape::Chain(gamma),
            policy: Arc::clone(&step.policy),
            ..step.clone()
        });
        AdaptiveGamma {
            steps: steps.collect(),
            acceptance: Acceptance::default(),
            costs: Costs::default(),
            asked: 0,
            first: true,
            idle: false,
        }
    }

    /// The acceptance rate at present.
    pub fn acceptance(&self) -> f64 {
        self.acceptance.rate()
    }

    /// The relative cost c of a drafted token at present; absent before it was measured.
    pub fn relative_cost(&self) -> Option<f64> {
        let (base, slope) = self.costs.line?;
        Some(slope / base)
    }

    /// The place of the step to take.
    fn choose(&self) -> usize {
        let last = self.steps.len() - 1;
        let Some(c) = self.relative_cost() else {
            // a line needs two points: the longest draft and the shortest by turns, twice each as
            // the first of a sequence does not count
            return match self.asked % 4 {
                0 | 1 => last,
                _ => 0,
            };
        };
        let a = self.acceptance();
        let mut best = 0;
        for place in 1..self.steps.len() {
            if promise(a, c, self.gamma(place)) > promise(a, c, self.gamma(best)) {
                best = place;
            }
        }
        if self.asked % PROBE > 1 {
            return best;
        }
        // a neighbour, the one below and the one above by turns
        match (self.asked / PROBE).is_multiple_of(2) {
            true if best > 0 => best - 1,
            false if best == last => last.saturating_sub(1),
            _ => (best + 1).min(last),
        }
    }

    fn gamma(&self, place: usize) -> usize {
        self.steps[place].shape.depth()
    }
}

impl Steps for AdaptiveGamma {
    fn start(&mut self) {
        self.first = true;
        self.acceptance.fade(MEMORY_OF_ANOTHER_TEXT);
    }

    fn next(&mut self) -> &Step {
        let place = self.choose();
        self.asked += 1;
        &self.steps[place]
    }

    fn done(&mut self, report: &StepReport) {
        if report.committed.is_empty() {
            return;
        }
        self.acceptance.add(report);
        let times = report.times;
        let seconds = (times.draft + times.target + times.verify).as_secs_f64();
        let first = std::mem::take(&mut self.first);
        let before = std::mem::replace(&mut self.idle, report.nodes == 0);
        let catches_up = before && report.nodes > 0;
        if !first && !catches_up && seconds > 0.0 {
            self.costs.add(report.nodes, seconds);
        }
    }
}

/// Tokens a step relative to its time: E(g) / (g c + 1).
fn promise(acceptance: f64, relative_cost: f64, gamma: usize) -> f64 {
    expected_tokens(acceptance, gamma) / (gamma as f64 * relative_cost + 1.0)
}

/// Tokens that a step with a chain of `gamma` nodes is expected to commit where each node is
/// accepted with probability `acceptance` once the ones before it are (Leviathan et al. 2211.17192,
/// equation 1).
///
/// ```
/// use gavel::engine::expected_tokens;
///
/// assert_eq!(expected_tokens(0.5, 2), 1.75);
/// assert_eq!(expected_tokens(1.0, 4), 5.0);
/// ```
pub fn expected_tokens(acceptance: f64, gamma: usize) -> f64 {
    // summed, not divided: the closed form is 0/0 at a rate of 1
    let powers = std::iter::successors(Some(1.0), |power| Some(power * acceptance));
    powers.take(gamma + 1).sum()
}

/// Kept and refused nodes, older ones counting less. A node behind a refused one was not tried.
#[derive(Clone, Debug, Default)]
struct Acceptance {
    kept: f64,
    refused: f64,
}

impl Acceptance {
    fn add(&mut self, report: &StepReport) {
        if report.nodes == 0 {
            self.fade(MEMORY_IDLE);
            return;
        }
        let is = |reasons: &[TokenReason]| {
            let found = report.committed.iter();
            found.filter(|c| reasons.contains(&c.reason)).count() as f64
        };
        self.fade(MEMORY_OF_TEXT);
        self.kept += is(&[TokenReason::Aligned, TokenReason::Judged]);
        self.refused += is(&[TokenReason::Residual]);
    }

    fn fade(&mut self, share: f64) {
        self.kept *= share;
        self.refused *= share;
    }

    fn rate(&self) -> f64 {
        let (kept, refused) = (self.kept + HOPE.0, self.refused + HOPE.1);
        kept / (kept + refused)
    }
}

/// What the last steps took by the nodes that they drafted.
#[derive(Clone, Debug, Default)]
struct Costs {
    times: VecDeque<(usize, f64)>,
    /// Seconds of a step without a draft, and of one more node; absent before steps of different
    /// lengths were seen.
    line: Option<(f64, f64)>,
}

impl Costs {
    fn add(&mut self, nodes: usize, seconds: f64) {
        if self.times.len() == TIMES {
            self.times.pop_front();
        }
        self.times.push_back((nodes, seconds));
        self.line = self.fit();
    }

    /// The line of least squares through the median of each length, which a step that was
    /// interrupted does not move; each median counts as often as the length was seen.
    fn fit(&self) -> Option<(f64, f64)> {
        let mut sorted: Vec<(usize, f64)> = self.times.iter().copied().collect();
        sorted.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let (mut n, mut x, mut y, mut xx, mut xy) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for of_length in sorted.chunk_by(|a, b| a.0 == b.0) {
            let (nodes, median) = of_length[of_length.len() / 2];
            let (weight, nodes) = (of_length.len() as f64, nodes as f64);
            n += weight;
            x += weight * nodes;
            y += weight * median;
            xx += weight * nodes * nodes;
            xy += weight * nodes * median;
        }
        let (x, y) = (x / n, y / n);
        let spread = xx / n - x * x;
        if spread.is_nan() || spread < 1e-9 {
            return None;
        }
        // neither a drafted token nor a step is free, whatever noise says
        let slope = ((xy / n - x * y) / spread).max(0.0);
        let base = (y - slope * x).max(0.05 * y);
        (base > 0.0).then_some((base, slope))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Committed, StepTimes};
    use crate::verify::{Policy, Rule, Sampling};
    use std::time::Duration;

    fn step() -> Step {
        Step::new(Shape::Chain(1), Policy::new(Sampling::GREEDY, Rule::Chain))
    }

    /// A device that accepts each node with a probability and takes base + nodes * each.
    struct Simulated {
        acceptance: f64,
        base: f64,
        each: f64,
        /// Times are multiplied by 1 / noise to noise.
        noise: f64,
        random: fastrand::Rng,
    }

    impl Simulated {
        fn new(acceptance: f64, each: f64, noise: f64) -> Simulated {
            Simulated {
                acceptance,
                base: 1e-3,
                each: each * 1e-3,
                noise,
                random: fastrand::Rng::with_seed(3),
            }
        }

        fn run(&mut self, gamma: usize) -> StepReport {
            let kept = (0..gamma)
                .take_while(|_| self.random.f64() < self.acceptance)
                .count();
            let last = match kept == gamma {
                true => TokenReason::Bonus,
                false => TokenReason::Residual,
            };
            let reasons = std::iter::repeat_n(TokenReason::Aligned, kept).chain([last]);
            let factor = self.noise.powf(2.0 * self.random.f64() - 1.0);
            // one step in sixteen is interrupted
            let spike = if self.random.u8(..16) == 0 { 20.0 } else { 1.0 };
            let seconds = (self.base + self.each * gamma as f64) * factor * spike;
            StepReport {
                committed: reasons
                    .map(|reason| Committed {
                        token: 0,
                        reason,
                        acceptability: None,
                        log_probability: None,
                    })
                    .collect(),
                nodes: gamma,
                depth: gamma,
                finish: None,
                times: StepTimes {
                    target: Duration::from_secs_f64(seconds),
                    ..StepTimes::default()
                },
            }
        }

        /// How often each gamma is chosen in `steps` of them, two in flight.
        fn decode(&mut self, chooser: &mut AdaptiveGamma, steps: usize) -> Vec<(usize, usize)> {
            let mut counts: Vec<(usize, usize)> = (0..chooser.steps.len())
                .map(|place| (chooser.gamma(place), 0))
                .collect();
            let mut in_flight = std::collections::VecDeque::new();
            for _ in 0..steps {
                while in_flight.len() < 2 {
                    in_flight.push_back(chooser.next().shape.depth());
                }
                if let Some(gamma) = in_flight.pop_front() {
                    counts
                        .iter_mut()
                        .filter(|c| c.0 == gamma)
                        .for_each(|c| c.1 += 1);
                    chooser.done(&self.run(gamma));
                }
            }
            counts
        }
    }

    fn most(counts: &[(usize, usize)]) -> usize {
        counts.iter().max_by_key(|c| c.1).map_or(0, |c| c.0)
    }

    #[test]
    fn expected_tokens_are_those_of_the_closed_form() {
        for a in [0.0, 0.3, 0.8, 0.99] {
            for gamma in 0..20 {
                let closed = (1.0 - f64::powi(a, gamma as i32 + 1)) / (1.0 - a);
                assert!((expected_tokens(a, gamma) - closed).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn the_gamma_of_the_formula_is_found_under_noise() {
        // acceptance rate, cost of a drafted token relative to a step
        for (a, c) in [
            (0.9, 0.05),
            (0.8, 0.1),
            (0.6, 0.05),
            (0.5, 0.3),
            (0.2, 0.5),
            (0.98, 0.01),
        ] {
            let mut device = Simulated::new(a, c, 1.2);
            let mut chooser = AdaptiveGamma::new(&step(), &GAMMAS);
            device.decode(&mut chooser, 200);
            let counts = device.decode(&mut chooser, 400);
            let rate = |gamma: usize| promise(a, c, gamma);
            let best = GAMMAS.iter().copied().map(rate).fold(0.0, f64::max);
            let found: f64 = counts.iter().map(|&(g, n)| n as f64 * rate(g)).sum();
            assert!(
                found / 400.0 > 0.95 * best,
                "a {a} c {c}: {counts:?}, {:.3} of {best:.3}",
                found / 400.0
            );
        }
    }

    #[test]
    fn another_text_is_noticed() {
        let mut chooser = AdaptiveGamma::new(&step(), &GAMMAS);
        let mut easy = Simulated::new(0.95, 0.1, 1.1);
        assert!(most(&easy.decode(&mut chooser, 200)) >= 8);
        chooser.start();
        let mut hard = Simulated::new(0.3, 0.1, 1.1);
        hard.decode(&mut chooser, 40);
        assert!(most(&hard.decode(&mut chooser, 100)) <= 2);
        // and back, from where little is drafted
        let mut useless = Simulated::new(0.0, 0.1, 1.1);
        useless.decode(&mut chooser, 100);
        assert_eq!(most(&useless.decode(&mut chooser, 100)), 0);
        easy.decode(&mut chooser, 400);
        assert!(most(&easy.decode(&mut chooser, 100)) >= 8);
    }

    #[test]
    fn interruptions_do_not_change_the_choice() {
        let mut chooser = AdaptiveGamma::new(&step(), &[1, 4, 8]);
        let mut device = Simulated::new(0.9, 0.05, 1.05);
        device.decode(&mut chooser, 100);
        let mut hit = device.run(8);
        hit.times.target = Duration::from_secs(10);
        chooser.done(&hit);
        assert_eq!(most(&device.decode(&mut chooser, 32)), 8);
    }

    #[test]
    fn one_gamma_or_none_is_no_choice() {
        for (gammas, only) in [(&[4][..], 4), (&[], 0), (&[2, 2], 2)] {
            let mut chooser = AdaptiveGamma::new(&step(), gammas);
            let counts = Simulated::new(0.5, 0.1, 1.0).decode(&mut chooser, 40);
            assert_eq!(counts, [(only, 40)]);
        }
    }

    #[test]
    fn a_stop_token_in_an_accepted_path_refuses_nothing() {
        let mut acceptance = Acceptance::default();
        let mut report = Simulated::new(1.0, 0.1, 1.0).run(4);
        report.committed.truncate(2);
        acceptance.add(&report);
        assert_eq!((acceptance.kept, acceptance.refused), (2.0, 0.0));
    }
}
