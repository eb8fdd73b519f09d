//! Every outcome of every random decision, with its probability.

use std::collections::{BTreeMap, HashMap};

use gavel::verify::{Chooser, Mass, Real, Remaining, Sampling, Site};

use crate::toy::{Case, Toy};

/// Which parts of (step, row, use) make up a random number's counter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counter {
    pub step: bool,
    pub row: bool,
    pub usage: bool,
}

impl Counter {
    pub const WHOLE: Counter = Counter {
        step: true,
        row: true,
        usage: true,
    };

    pub fn of(&self, step: u32, site: Site) -> [u32; 3] {
        [
            if self.step { step } else { 0 },
            if self.row { site.row } else { 0 },
            if self.usage { site.what() } else { 0 },
        ]
    }
}

/// Options of a decision in the order in which a random number in [0, 1) meets
/// them: accept before reject, tokens ascending.
pub trait Pick {
    fn pick(&mut self, site: Site, weights: &[f64]) -> usize;
}

/// Follows a script of decisions, and says which script comes next.
///
/// A counter stands for one number, uniform in [0, 1): what has been decided
/// by it confines it to an interval, and a second decision by the same counter
/// divides only what is left. Where no counter is met twice, that is the plain
/// product of probabilities.
pub struct Enumeration {
    script: Vec<(usize, usize)>, // (option taken, options open)
    at: usize,
    counter: Counter,
    numbers: HashMap<[u32; 3], (f64, f64)>,
    pub step: u32,
    pub weight: f64,
    pub reused: bool,
}

impl Enumeration {
    /// Calls `run` once for each outcome; `weight` is then its probability.
    pub fn each(counter: Counter, mut run: impl FnMut(&mut Enumeration)) {
        let mut all = Enumeration {
            script: Vec::new(),
            at: 0,
            counter,
            numbers: HashMap::new(),
            step: 0,
            weight: 1.0,
            reused: false,
        };
        loop {
            all.at = 0;
            all.step = 0;
            all.weight = 1.0;
            all.numbers.clear();
            run(&mut all);
            all.script.truncate(all.at);
            while all
                .script
                .last()
                .is_some_and(|&(taken, open)| taken + 1 == open)
            {
                all.script.pop();
            }
            match all.script.last_mut() {
                Some((taken, _)) => *taken += 1,
                None => return,
            }
        }
    }
}

impl Pick for Enumeration {
    fn pick(&mut self, site: Site, weights: &[f64]) -> usize {
        let total: f64 = weights.iter().sum();
        let key = self.counter.of(self.step, site);
        let known = self.numbers.get(&key).copied();
        self.reused |= known.is_some();
        let (low, high) = known.unwrap_or((0.0, 1.0));
        // (option, probability given what is known, what is known then)
        let mut options = Vec::with_capacity(weights.len());
        let mut sum = 0.0;
        for (option, &w) in weights.iter().enumerate() {
            let (from, to) = (sum / total, (sum + w) / total);
            sum += w;
            let (from, to) = (from.max(low), to.min(high));
            if w > 0.0 && to - from > 1e-15 {
                let p = match known {
                    Some(_) => (to - from) / (high - low),
                    None => w / total,
                };
                options.push((option, p, (from, to)));
            }
        }
        if self.at == self.script.len() {
            self.script.push((0, options.len()));
        }
        let (option, p, left) = options[self.script[self.at].0];
        self.at += 1;
        self.weight *= p;
        self.numbers.insert(key, left);
        option
    }
}

impl Chooser<f64> for Enumeration {
    fn accept(&mut self, site: Site, probability: f64) -> bool {
        assert!(!probability.is_nan());
        let p = probability.clamp(0.0, 1.0);
        self.pick(site, &[p, 1.0 - p]) == 0
    }

    fn draw(&mut self, site: Site, law: &Remaining<'_>) -> Option<u32> {
        let (ids, weights): (Vec<u32>, Vec<f64>) =
            law.support().map(|(id, w)| (id, w as f64)).unzip();
        (!ids.is_empty()).then(|| ids[self.pick(site, &weights)])
    }

    fn draw_mass(&mut self, site: Site, mass: &Mass<f64>) -> Option<u32> {
        let (ids, weights): (Vec<u32>, Vec<f64>) = mass.support().unzip();
        (!ids.is_empty()).then(|| ids[self.pick(site, &weights)])
    }
}

/// Probabilities of token sequences.
pub type Joint = BTreeMap<Vec<u32>, f64>;

/// The law of the next `length` tokens when the target is sampled plainly.
pub fn plain(target: &Toy, sampling: &Sampling, length: usize) -> Joint {
    let mut joint = Joint::from([(Vec::new(), 1.0)]);
    for _ in 0..length {
        let mut longer = Joint::new();
        for (context, weight) in joint {
            let law = target.law(&context, sampling);
            for (token, _) in law.support() {
                let sequence = context.iter().copied().chain([token]).collect();
                longer.insert(sequence, weight * f64::from_law(&law, token));
            }
        }
        joint = longer;
    }
    joint
}

trait FromLaw {
    fn from_law(law: &gavel::verify::Law, token: u32) -> Self;
}

impl FromLaw for f64 {
    /// The law's own integers, without its division.
    fn from_law(law: &gavel::verify::Law, token: u32) -> f64 {
        law.weight(token) as f64 / law.support().map(|(_, w)| w).sum::<u64>() as f64
    }
}

/// A step of decoding: commits at least one token.
pub type StepOf<'a> = dyn FnMut(&[u32], &mut Enumeration) -> Vec<u32> + 'a;

/// The law of the next tokens under repeated steps, each enumerated on its own.
///
/// Steps share no number (that, [`entangled`] proves), so a step's outcomes
/// depend on nothing but its context and are enumerated once for each.
pub fn stepwise(case: &Case, step: &mut StepOf<'_>) -> Joint {
    let length = case.tokens();
    let memory = case.target.memory.max(case.draft.memory);
    let mut known: HashMap<Vec<u32>, Joint> = HashMap::new();
    let mut open = Joint::from([(Vec::new(), 1.0)]);
    let mut joint = Joint::new();
    while let Some((context, weight)) = open.pop_first() {
        let recent = context[context.len().saturating_sub(memory)..].to_vec();
        let outcomes = known.entry(recent).or_insert_with(|| {
            let mut outcomes = Joint::new();
            Enumeration::each(Counter::WHOLE, |all| {
                let committed = step(&context, all);
                assert!(!all.reused, "{case:?} used a counter twice");
                *outcomes.entry(committed).or_default() += all.weight;
            });
            outcomes
        });
        for (committed, p) in outcomes {
            let mut sequence = context.clone();
            sequence.extend_from_slice(committed);
            sequence.truncate(length);
            let to = if sequence.len() == length {
                &mut joint
            } else {
                &mut open
            };
            *to.entry(sequence).or_default() += weight * *p;
        }
    }
    joint
}

/// The law of the next tokens under repeated steps, all enumerated together:
/// a counter met again in a later step is the same number.
pub fn entangled(case: &Case, counter: Counter, step: &mut StepOf<'_>) -> Joint {
    let mut joint = Joint::new();
    Enumeration::each(counter, |all| {
        let mut sequence = Vec::new();
        while sequence.len() < case.tokens() {
            let committed = step(&sequence, all);
            sequence.extend(committed);
            all.step += 1;
        }
        assert!(
            counter != Counter::WHOLE || !all.reused,
            "{case:?} used a counter twice"
        );
        sequence.truncate(case.tokens());
        *joint.entry(sequence).or_default() += all.weight;
    });
    joint
}

/// The largest difference between two laws.
pub fn distance(a: &Joint, b: &Joint) -> f64 {
    let at = |joint: &Joint, key| joint.get(key).copied().unwrap_or(0.0);
    let keys = a.keys().chain(b.keys());
    keys.map(|key| (at(a, key) - at(b, key)).abs())
        .fold(0.0, f64::max)
}

/// The whole case, by the production verifier.
pub fn production<T: Real>(case: &Case) -> impl FnMut(&[u32], &mut Enumeration) -> Vec<u32> + '_
where
    Enumeration: Chooser<T>,
{
    |context, all| case.step::<T>(context, all)
}
