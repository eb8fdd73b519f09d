//! One forward pass per substitution, to see what the trees save.

use super::trees::{Scores, append_features, want};
use crate::device::{Device, DeviceError, Logits, PassOutput, Want, prefill};
use crate::judge::Tap;
use crate::tree::{MAX_ROWS, TokenTree};
use crate::verify::LogSoftmax;
use std::time::{Duration, Instant};

/// Substitutions of an answer that are scored one by one: enough to time them, few enough
/// that a run with the baseline takes about as long as one without.
const SAMPLES: usize = 8;

/// What one pass per substitution takes, in the same run.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Baseline {
    /// Substitutions scored so.
    pub samples: usize,
    /// Their passes when every pass reads prompt and answer anew.
    pub uncached_passes: usize,
    /// Time of these.
    #[serde(serialize_with = "super::seconds")]
    pub uncached: Duration,
    /// Their passes when the prefix is cached, that of the prefix not counted.
    pub cached_passes: usize,
    /// Time of these, that of the prefix included.
    #[serde(serialize_with = "super::seconds")]
    pub cached: Duration,
    /// The largest difference of a score from the tree's, in nats.
    pub largest_difference: f64,
}

impl Baseline {
    /// Scores up to eight substitutions one by one, both ways.
    pub(super) fn measure(
        &mut self,
        device: &mut dyn Device,
        prompt: &[u32],
        answer: &[u32],
        scores: &Scores,
        longest: usize,
        taps: &[Tap],
    ) -> Result<(), DeviceError> {
        let step = scores.branches.len().div_ceil(SAMPLES).max(1);
        let chosen: Vec<_> = scores.branches.iter().step_by(step).collect();
        let rows_of = |t: usize, token: u32| -> Vec<u32> {
            let end = (t + longest.max(1)).min(answer.len());
            [&[token], &answer[(t + 1).min(end)..end]].concat()
        };
        for branch in &chosen {
            let t = branch.position;
            let began = Instant::now();
            let rows = rows_of(t, branch.token);
            let all = [prompt, &answer[..t], &rows].concat();
            device.rollback(0);
            // the row before the substitute predicts it
            let from = all.len() - rows.len() - 1;
            let (output, passes) = tail_of(device, &all, from, taps)?;
            let score = read(
                &output,
                rows.len() + 1,
                branch.token,
                &answer[t + 1..],
                longest,
                taps,
            );
            self.uncached += began.elapsed();
            self.uncached_passes += passes;
            let expected = branch.own + branch.tail.iter().sum::<f64>();
            self.largest_difference = self.largest_difference.max((score - expected).abs());
        }
        let began = Instant::now();
        device.rollback(0);
        let all = [prompt, answer].concat();
        prefill(device, &all[..all.len() - 1], &want(&[]))?;
        // from the last to the first: what stands before stays in the cache
        for branch in chosen.iter().rev() {
            let t = branch.position;
            device.rollback(prompt.len() + t);
            let rows = rows_of(t, branch.token);
            let output = device.pass(&TokenTree::chain(&rows), &want(taps))?;
            let vocab_size = output.logits.len() / rows.len();
            for (row, &token) in output.logits.chunks(vocab_size).zip(&answer[t + 1..]) {
                std::hint::black_box(LogSoftmax::of(row).log(token));
            }
            append_features(&mut Vec::new(), &output, rows.len(), 0, taps);
            self.cached_passes += 1;
        }
        self.cached += began.elapsed();
        self.samples += chosen.len();
        device.rollback(0);
        Ok(())
    }
}

/// Reads everything; logits and features from row `from` on. Also the number of passes.
fn tail_of(
    device: &mut dyn Device,
    all: &[u32],
    from: usize,
    taps: &[Tap],
) -> Result<(PassOutput, usize), DeviceError> {
    if all.len() <= MAX_ROWS {
        // one pass, as the method without trees would make it
        let mut output = device.pass(&TokenTree::chain(all), &want(taps))?;
        let keep = |rows: &mut Vec<f32>| {
            let width = rows.len() / all.len();
            rows.drain(..from * width);
        };
        keep(&mut output.logits);
        keep(&mut output.last_hidden);
        output.taps.iter_mut().for_each(|(_, rows)| keep(rows));
        return Ok((output, 1));
    }
    let none = Want {
        logits: Logits::None,
        ..Want::default()
    };
    prefill(device, &all[..from], &none)?;
    let output = device.pass(&TokenTree::chain(&all[from..]), &want(taps))?;
    Ok((output, from.div_ceil(MAX_ROWS) + 1))
}

/// log P of the substitute and of what follows it.
fn read(
    output: &PassOutput,
    rows: usize,
    token: u32,
    after: &[u32],
    longest: usize,
    taps: &[Tap],
) -> f64 {
    let vocab_size = output.logits.len() / rows;
    let mut laws = output.logits.chunks(vocab_size).map(LogSoftmax::of);
    let own = laws.next().map_or(f64::NAN, |law| law.log(token));
    let tail = laws.zip(after).take(longest.max(1));
    append_features(&mut Vec::new(), output, rows, 1, taps);
    own + tail.map(|(law, &token)| law.log(token)).sum::<f64>()
}
