//! Mining: labels for a judge without annotation (METHODS, "Making labels").
//!
//! A [`Miner`] takes one prompt after the other: the target answers it, the drafter reads
//! the answer along, and where its token differs from the target's there is a sample.
//! All substitutions of an answer share a prefix, so they are branches of token trees and
//! many of them are scored in one target pass, which yields their features too.
//!
//! [`run`] takes a file of prompts through a miner and keeps the samples in shards.

mod baseline;
mod read;
mod run;
mod trees;

pub use baseline::Baseline;
pub use read::Reader;
pub use run::{Item, Job, MineError, Summary, run};

use crate::device::{Device, DeviceError, Draw, Logits, Request, Step, Want, prefill};
use crate::engine::generate;
use crate::judge::samples::{Method, Prompt, Sample, Token};
use crate::judge::{Features, Layout, Tap};
use crate::model::Tokenizer;
use crate::task::{Answer, CheckError, Checker};
use crate::tree::{MAX_ROWS, Shape, TokenTree};
use crate::verify::{Guard, Policy, Rule, Sampling};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};
use trees::{Branch, Scores, Tail};

/// Drafted tokens of a step while the target answers: the lossless rule gives what plain
/// decoding would, sooner.
const GAMMA: usize = 8;
/// Rows of the first pass over an old answer's rest; each further one takes twice as many,
/// so that little is lost where the answers part early.
const DRAFT_ROWS: usize = 16;

/// What to mine.
#[derive(Clone, Debug)]
pub struct Options {
    /// How labels are made.
    pub method: Method,
    /// What the features are.
    pub features: Features,
    /// SelfJudge: suffix lengths N, ascending.
    pub suffixes: Vec<usize>,
    /// Substitutes per position.
    pub ranks: usize,
    /// Most tokens of an answer.
    pub max_tokens: usize,
    /// Most positions of prompt and answer together: the target's context.
    pub context: usize,
    /// Tokens at which an answer ends.
    pub stop_tokens: Vec<u32>,
    /// Tokens that no judge rule rescues: no samples are made of them, nor where the
    /// target's own token is one.
    pub guard: Guard,
    /// Finds final answers: needed by AutoJudge; with SelfJudge every substitution is then
    /// tried alone, whether it changes the final answer.
    pub checker: Option<Checker>,
    /// Measures one forward pass per substitution beside the trees.
    pub baseline: bool,
}

/// One answer's samples.
#[derive(Clone, Debug, Default)]
pub struct Mined {
    /// The mismatches.
    pub samples: Vec<Sample>,
    /// [samples, F]
    pub features: Vec<f32>,
}

/// Counts and times of a run.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Counts {
    /// Prompts answered.
    pub prompts: usize,
    /// Of these, dropped because their answer has no final answer to check (AutoJudge).
    pub unchecked: usize,
    /// Samples made.
    pub samples: usize,
    /// Target passes that scored them and took their features.
    pub passes: usize,
    /// Time of these passes, and of reading scores and features from them.
    #[serde(serialize_with = "seconds")]
    pub scoring: Duration,
    /// Time of the target's answers, those after a substitution included.
    #[serde(serialize_with = "seconds")]
    pub answering: Duration,
    /// Time of the drafter.
    #[serde(serialize_with = "seconds")]
    pub reading: Duration,
    /// One pass per substitution, where it was asked for.
    pub baseline: Option<Baseline>,
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

/// Why an answer could not be mined.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PromptError {
    /// A pass or a generation failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Two answers could not be compared.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// A feature, a score or a logit is no number.
    #[error("{what} at position {position} of the answer: found {found}, expected a finite number")]
    NotFinite {
        /// Which number.
        what: &'static str,
        /// Place in the answer, from 0.
        position: usize,
        /// What it is.
        found: f64,
    },
}

/// Target, drafter and tokenizer at work.
pub struct Miner<'a> {
    options: Options,
    tokenizer: &'a Tokenizer,
    /// The target, opened with the drafter.
    target: Box<dyn Device>,
    reader: Reader,
    step: Step,
    counts: Counts,
}

/// A response given by people, with the tokens that are wrong.
#[derive(Clone, Debug)]
pub struct Labelled {
    /// Its token ids.
    pub tokens: Vec<u32>,
    /// For each of them, whether it stands in a span that is wrong.
    pub wrong: Vec<bool>,
}

/// What the target said.
struct Answered {
    tokens: Vec<u32>,
    /// log P of each token that it said itself
    log_probabilities: Vec<f64>,
}

/// What target and drafter read last.
enum Read {
    /// Something else.
    Nothing,
    /// This prompt, and something behind it.
    Prompt,
    /// Prompt and answer, which the target gave with these log-probabilities.
    Answer(Vec<f64>),
}

impl<'a> Miner<'a> {
    /// `target` is a device with the drafter that `reader` reads with.
    pub fn new(
        options: Options,
        tokenizer: &'a Tokenizer,
        target: Box<dyn Device>,
        reader: Reader,
    ) -> Miner<'a> {
        let step = Step {
            draw: Draw::Top,
            log_probabilities: options.method == Method::SelfJudge,
            ..Step::new(
                Shape::Chain(GAMMA),
                Policy::new(Sampling::GREEDY, Rule::Chain),
            )
        };
        let counts = Counts {
            baseline: options.baseline.then(Baseline::default),
            ..Counts::default()
        };
        Miner {
            options,
            tokenizer,
            target,
            reader,
            step,
            counts,
        }
    }

    /// What was done so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Mines the answer to one prompt.
    pub fn mine(&mut self, name: &Prompt, prompt: &[u32]) -> Result<Mined, PromptError> {
        let answer = self.answer(prompt, &[])?;
        let mined = match self.options.method {
            Method::AutoJudge => self.search(name, prompt, answer.tokens)?,
            _ => self.substitute(name, prompt, answer)?,
        };
        self.counts.prompts += 1;
        self.counts.samples += mined.samples.len();
        Ok(mined)
    }

    /// Samples of a response that people have marked: every token of it.
    pub fn mine_labelled(
        &mut self,
        name: &Prompt,
        prompt: &[u32],
        response: &Labelled,
    ) -> Result<Mined, PromptError> {
        let tokens = &response.tokens;
        // each token hangs as a branch beside itself, and has the features of its row
        let branches = (0..tokens.len())
            .map(|t| Branch::new(t, tokens[t]))
            .collect();
        let scores = self.score(prompt, tokens, branches, Read::Nothing)?;
        let mut mined = Mined::default();
        for (branch, wrong) in scores.branches.iter().zip(&response.wrong) {
            let best = scores.best[branch.position];
            let mut sample = self.sample(name, branch, 1, best);
            if self.guards(&sample) {
                continue;
            }
            sample.acceptable = Some(!wrong);
            mined.samples.push(sample);
            mined.features.extend_from_slice(&branch.features);
        }
        self.counts.prompts += 1;
        self.counts.samples += mined.samples.len();
        Ok(mined)
    }

    /// The target goes on greedily after prompt and `before`.
    fn answer(&mut self, prompt: &[u32], before: &[u32]) -> Result<Answered, DeviceError> {
        let began = Instant::now();
        let mut answer = Answered {
            tokens: before.to_vec(),
            log_probabilities: Vec::new(),
        };
        let ended = before
            .last()
            .is_some_and(|t| self.options.stop_tokens.contains(t));
        // an answer that has filled the context is at its end too
        let full = !before.is_empty() && prompt.len() + before.len() >= self.options.context;
        if !ended && !full && before.len() < self.options.max_tokens {
            let request = Request {
                prompt: [prompt, before].concat(),
                max_tokens: self.options.max_tokens - before.len(),
                stop_tokens: self.options.stop_tokens.clone(),
                seed: 0,
                sequence: 0,
            };
            generate(self.target.as_mut(), &request, &self.step, |committed| {
                for token in committed {
                    let log = token.log_probability.map_or(f64::NAN, f64::from);
                    answer.tokens.push(token.token);
                    answer.log_probabilities.push(log);
                }
                ControlFlow::Continue(())
            })?;
        }
        self.counts.answering += began.elapsed();
        Ok(answer)
    }

    /// The answer with `token` at a position, as the target goes on after it. The old
    /// answer's rest serves as the draft: most substitutes change little of what follows.
    /// Up to the position the target's cache must hold nothing but prompt and answer.
    fn answer_with(
        &mut self,
        prompt: &[u32],
        answer: &[u32],
        position: usize,
        token: u32,
    ) -> Result<Vec<u32>, DeviceError> {
        let began = Instant::now();
        let mut all = [prompt, answer].concat();
        let at = prompt.len() + position;
        all[at] = token;
        let device = self.target.as_mut();
        device.rollback(at);
        let none = Want {
            logits: Logits::None,
            ..Want::default()
        };
        let read = device.committed();
        prefill(device, &all[read..at], &none)?;
        let (mut end, mut most) = (at + 1, DRAFT_ROWS);
        while end < all.len() {
            // the row before a position predicts it
            let rows = &all[end - 1..all.len().min(end + most) - 1];
            let output = device.pass(&TokenTree::chain(rows), &trees::want(&[]))?;
            let vocab_size = output.logits.len() / rows.len();
            let best = output.logits.chunks_exact(vocab_size).map(read::best);
            let agreed = best.zip(&all[end..]).take_while(|(a, b)| a == *b).count();
            end += agreed;
            if agreed < rows.len() {
                break;
            }
            device.commit(&(0..agreed).collect::<Vec<_>>());
            most = (2 * most).min(MAX_ROWS);
        }
        self.counts.answering += began.elapsed();
        Ok(self.answer(prompt, &all[prompt.len()..end])?.tokens)
    }

    /// What the drafter would say at each position of the answer from `from` on.
    fn read(
        &mut self,
        prompt: &[u32],
        answer: &[u32],
        from: usize,
    ) -> Result<Vec<Vec<u32>>, PromptError> {
        let began = Instant::now();
        let read = self.reader.read(prompt, answer, from, self.options.ranks);
        self.counts.reading += began.elapsed();
        read
    }

    /// SelfJudge: every mismatch of the answer is scored by the target's likelihoods.
    fn substitute(
        &mut self,
        name: &Prompt,
        prompt: &[u32],
        answered: Answered,
    ) -> Result<Mined, PromptError> {
        let answer = &answered.tokens[..];
        let mut branches = Vec::new();
        for (t, tokens) in self.read(prompt, answer, 0)?.into_iter().enumerate() {
            for (i, token) in tokens.into_iter().enumerate() {
                if token != answer[t] && !self.guarded(token) && !self.guarded(answer[t]) {
                    branches.push(Branch {
                        rank: i + 1,
                        ..Branch::new(t, token)
                    });
                }
            }
        }
        let read = Read::Answer(answered.log_probabilities);
        let scores = self.score(prompt, answer, branches, read)?;
        let original = self.final_answer(answer);
        let mut mined = Mined::default();
        for branch in &scores.branches {
            let t = branch.position;
            let mut sample = self.sample(name, branch, branch.rank, answer[t]);
            sample.prefix = Some(scores.prefix(branch, answer[t]) as f32);
            sample.suffix = self
                .options
                .suffixes
                .iter()
                .map(|&n| scores.suffix(branch, n) as f32)
                .collect();
            sample.after = Some(answer.len() - 1 - t);
            for &score in sample.prefix.iter().chain(&sample.suffix) {
                if !score.is_finite() {
                    return Err(not_finite("score", t, score));
                }
            }
            if let Some(original) = &original {
                // as far as the tail says what the target goes on with, it need not go on itself
                let agreed = &answer[t + 1..][..branch.agreed];
                let before = [&answer[..t], &[branch.token], agreed].concat();
                let changed = self.answer(prompt, &before)?.tokens;
                sample.changes_answer = Some(!self.keeps(original, &changed)?);
            }
            mined.samples.push(sample);
            mined.features.extend_from_slice(&branch.features);
        }
        Ok(mined)
    }

    /// AutoJudge's semi-greedy search (2504.20039): the drafter's token takes the place of
    /// the target's wherever the final answer stays as it was.
    fn search(
        &mut self,
        name: &Prompt,
        prompt: &[u32],
        answer: Vec<u32>,
    ) -> Result<Mined, PromptError> {
        let Some(original) = self.final_answer(&answer) else {
            self.counts.unchecked += 1;
            return Ok(Mined::default());
        };
        let mut current = answer;
        let mut found = Vec::new();
        let mut from = 0;
        while from < current.len() {
            let read = self.read(prompt, &current, from)?;
            let mismatch = read.iter().enumerate().find_map(|(i, tokens)| {
                let token = *tokens.first()?;
                (token != current[from + i]).then_some((from + i, token))
            });
            let Some((t, token)) = mismatch else { break };
            from = t + 1;
            if self.guarded(token) || self.guarded(current[t]) {
                continue;
            }
            let changed = self.answer_with(prompt, &current, t, token)?;
            let same = self.keeps(&original, &changed)?;
            found.push((Branch::new(t, token), current[t], same));
            match same {
                true => current = changed,
                // the cache is not to hold what is no part of the response
                false => self.target.rollback(prompt.len() + t),
            }
        }
        // what was replaced later stands behind: every prefix is one of the last response
        let branches = found.iter().map(|(branch, _, _)| branch.clone()).collect();
        let scores = self.score(prompt, &current, branches, Read::Prompt)?;
        let mut mined = Mined::default();
        for (branch, (_, target, same)) in scores.branches.iter().zip(&found) {
            let mut sample = self.sample(name, branch, 1, *target);
            sample.acceptable = Some(*same);
            mined.samples.push(sample);
            mined.features.extend_from_slice(&branch.features);
        }
        Ok(mined)
    }

    /// Scores and features of substitutions, as branches of token trees.
    fn score(
        &mut self,
        prompt: &[u32],
        answer: &[u32],
        mut branches: Vec<Branch>,
        read: Read,
    ) -> Result<Scores, PromptError> {
        let cached = !matches!(read, Read::Nothing);
        let longest = self.options.suffixes.last().copied().unwrap_or(0);
        if self.options.features.layout == Layout::DdDt
            && let Some(draft) = self.reader.device()
        {
            let began = Instant::now();
            let scored = trees::score(
                draft,
                prompt,
                answer,
                cached,
                branches,
                Tail(0),
                &[Tap::Final],
            );
            self.counts.reading += began.elapsed();
            branches = scored?.0.branches;
        }
        let began = Instant::now();
        let taps = &self.options.features.taps;
        let target = self.target.as_mut();
        let tail = Tail(longest);
        let (scores, passes) = match read {
            Read::Answer(trunk) => {
                trees::score_answered(target, prompt, answer, trunk, branches, tail, taps)?
            }
            _ => trees::score(target, prompt, answer, cached, branches, tail, taps)?,
        };
        self.counts.scoring += began.elapsed();
        self.counts.passes += passes;
        if let Some(position) = scores.trunk.iter().position(|log| log.is_nan()) {
            return Err(not_finite("log-likelihood", position, f32::NAN));
        }
        for branch in &scores.branches {
            if let Some(found) = branch.features.iter().find(|x| !x.is_finite()) {
                return Err(not_finite("feature", branch.position, *found));
            }
        }
        if let Some(baseline) = &mut self.counts.baseline {
            baseline.measure(target, prompt, answer, &scores, longest, taps)?;
        }
        Ok(scores)
    }

    fn sample(&self, name: &Prompt, branch: &Branch, rank: usize, target: u32) -> Sample {
        let token = |id| Token {
            id,
            text: self.tokenizer.decode(&[id], false),
        };
        Sample {
            prompt: name.clone(),
            position: branch.position,
            rank,
            draft: token(branch.token),
            target: token(target),
            prefix: None,
            suffix: Vec::new(),
            after: None,
            acceptable: None,
            changes_answer: None,
        }
    }

    fn guarded(&self, token: u32) -> bool {
        self.options.guard.contains(token)
    }

    fn guards(&self, sample: &Sample) -> bool {
        self.guarded(sample.draft.id) || self.guarded(sample.target.id)
    }

    fn final_answer(&self, answer: &[u32]) -> Option<Answer> {
        let checker = self.options.checker.as_ref()?;
        checker.answer(&self.tokenizer.decode(answer, true))
    }

    /// Whether a changed response has the original final answer.
    fn keeps(&self, original: &Answer, changed: &[u32]) -> Result<bool, CheckError> {
        match (&self.options.checker, self.final_answer(changed)) {
            (Some(checker), Some(answer)) => checker.same(original, &answer),
            _ => Ok(false),
        }
    }
}

fn not_finite(what: &'static str, position: usize, found: f32) -> PromptError {
    PromptError::NotFinite {
        what,
        position,
        found: found.into(),
    }
}
