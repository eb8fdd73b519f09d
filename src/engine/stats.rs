//! What a generation took, in the terms of the field.

use crate::device::{StepReport, StepTimes, TokenReason};
use serde::{Deserialize, Serialize};
use std::ops::AddAssign;
use std::time::Duration;

/// Counts and times of one generation, or of several added up.
///
/// m and block efficiency are ratios of sums; nothing after an end-of-sequence token
/// counts, and prompts' passes are no target passes of decoding.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Tokens of the prompts.
    pub prompt_tokens: usize,
    /// Tokens committed.
    pub tokens: usize,
    /// Target passes after the prompt: one a step.
    pub passes: usize,
    /// Nodes drafted.
    pub drafted: usize,
    /// Drafted tokens kept because the lossless rule accepts them.
    pub aligned: usize,
    /// Drafted tokens kept because a judge rule rescued them.
    pub judged: usize,
    /// The target's own tokens after a fully accepted path.
    pub bonus: usize,
    /// The target's own tokens after a rejection.
    pub residual: usize,
    /// Steps whose deepest possible node was accepted: gamma cut them off.
    pub cut_off: usize,
    /// Per depth, from 1: steps whose tree was that deep, and steps that kept a node there.
    pub by_position: Vec<(usize, usize)>,
    /// Time of the prompt's passes.
    pub prefill: Duration,
    /// From the request to the first token.
    pub first_token: Duration,
    /// From the request to the last token.
    pub total: Duration,
    /// Time of the steps by phase.
    pub times: StepTimes,
}

impl Stats {
    pub(super) fn new(prompt_tokens: usize, prefill: Duration) -> Stats {
        Stats {
            prompt_tokens,
            prefill,
            total: prefill,
            ..Stats::default()
        }
    }

    pub(super) fn add(&mut self, report: &StepReport, elapsed: Duration) {
        if report.committed.is_empty() {
            return;
        }
        if self.passes == 0 {
            self.first_token = elapsed;
        }
        self.passes += 1;
        self.total = elapsed;
        self.tokens += report.committed.len();
        self.drafted += report.nodes;
        let mut kept = 0;
        for committed in &report.committed {
            let count = match committed.reason {
                TokenReason::Aligned => &mut self.aligned,
                TokenReason::Judged => &mut self.judged,
                TokenReason::Bonus => &mut self.bonus,
                TokenReason::Residual => &mut self.residual,
            };
            *count += 1;
            let drafted = matches!(committed.reason, TokenReason::Aligned | TokenReason::Judged);
            kept += usize::from(drafted);
        }
        if self.by_position.len() < report.depth {
            self.by_position.resize(report.depth, (0, 0));
        }
        for (depth, (reached, accepted)) in self.by_position.iter_mut().enumerate() {
            *reached += usize::from(depth < report.depth);
            *accepted += usize::from(depth < kept);
        }
        self.cut_off += usize::from(report.depth > 0 && kept == report.depth);
        self.times.draft += report.times.draft;
        self.times.target += report.times.target;
        self.times.verify += report.times.verify;
    }

    /// Draft tokens kept.
    pub fn accepted(&self) -> usize {
        self.aligned + self.judged
    }

    /// m: mean draft tokens kept per target pass.
    pub fn m(&self) -> f64 {
        ratio(self.accepted(), self.passes)
    }

    /// Tokens committed per target pass.
    pub fn block_efficiency(&self) -> f64 {
        ratio(self.tokens, self.passes)
    }

    /// Target passes per committed token.
    pub fn passes_per_token(&self) -> f64 {
        ratio(self.passes, self.tokens)
    }

    /// Committed tokens per second of decoding, the prompt's time left out.
    pub fn tokens_per_second(&self) -> f64 {
        let decoding = self.total.saturating_sub(self.prefill).as_secs_f64();
        if decoding > 0.0 {
            self.tokens as f64 / decoding
        } else {
            0.0
        }
    }

    /// Time of decoding that is in no phase of a step.
    pub fn host(&self) -> Duration {
        let phases = self.times.draft + self.times.target + self.times.verify;
        self.total.saturating_sub(self.prefill + phases)
    }

    /// The report as people read it, a few short lines.
    pub fn table(&self) -> String {
        let percent = |n: usize| 100.0 * ratio(n, self.tokens);
        let ms = |t: Duration| 1e3 * t.as_secs_f64();
        let positions: Vec<String> = self
            .by_position
            .iter()
            .map(|&(reached, kept)| format!("{:.0}%", 100.0 * ratio(kept, reached)))
            .collect();
        let mut lines = vec![
            format!(
                "{} tokens in {} target passes: m {:.2}, block efficiency {:.2}",
                self.tokens,
                self.passes,
                self.m(),
                self.block_efficiency()
            ),
            format!(
                "tokens by reason: aligned {:.1}%, judged {:.1}%, bonus {:.1}%, residual {:.1}%",
                percent(self.aligned),
                percent(self.judged),
                percent(self.bonus),
                percent(self.residual)
            ),
        ];
        if !positions.is_empty() {
            lines.push(format!(
                "kept by position: {}; {} of {} steps cut off by gamma",
                positions.join(" "),
                self.cut_off,
                self.passes
            ));
        }
        lines.push(format!(
            "{:.1} tokens/s; first token after {:.1} ms (prompt of {}: {:.1} ms)",
            self.tokens_per_second(),
            ms(self.first_token),
            self.prompt_tokens,
            ms(self.prefill)
        ));
        lines.push(format!(
            "decoding: draft {:.1} ms, target {:.1} ms, verify {:.1} ms, host {:.1} ms",
            ms(self.times.draft),
            ms(self.times.target),
            ms(self.times.verify),
            ms(self.host())
        ));
        lines.join("\n")
    }
}

impl AddAssign<&Stats> for Stats {
    fn add_assign(&mut self, other: &Stats) {
        self.prompt_tokens += other.prompt_tokens;
        self.tokens += other.tokens;
        self.passes += other.passes;
        self.drafted += other.drafted;
        self.aligned += other.aligned;
        self.judged += other.judged;
        self.bonus += other.bonus;
        self.residual += other.residual;
        self.cut_off += other.cut_off;
        if self.by_position.len() < other.by_position.len() {
            self.by_position.resize(other.by_position.len(), (0, 0));
        }
        for (mine, theirs) in self.by_position.iter_mut().zip(&other.by_position) {
            mine.0 += theirs.0;
            mine.1 += theirs.1;
        }
        self.prefill += other.prefill;
        self.first_token += other.first_token;
        self.total += other.total;
        self.times.draft += other.times.draft;
        self.times.target += other.times.target;
        self.times.verify += other.times.verify;
    }
}

/// As in `--json`: counts, ratios, and times in milliseconds.
impl Serialize for Stats {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let ms = |t: Duration| 1e3 * t.as_secs_f64();
        let mut s = serializer.serialize_struct("Stats", 21)?;
        s.serialize_field("prompt_tokens", &self.prompt_tokens)?;
        s.serialize_field("tokens", &self.tokens)?;
        s.serialize_field("target_passes", &self.passes)?;
        s.serialize_field("drafted", &self.drafted)?;
        s.serialize_field("m", &self.m())?;
        s.serialize_field("block_efficiency", &self.block_efficiency())?;
        s.serialize_field("passes_per_token", &self.passes_per_token())?;
        s.serialize_field("aligned", &self.aligned)?;
        s.serialize_field("judged", &self.judged)?;
        s.serialize_field("bonus", &self.bonus)?;
        s.serialize_field("residual", &self.residual)?;
        s.serialize_field("cut_off", &self.cut_off)?;
        let reached: Vec<usize> = self.by_position.iter().map(|p| p.0).collect();
        let kept: Vec<usize> = self.by_position.iter().map(|p| p.1).collect();
        s.serialize_field("steps_by_position", &reached)?;
        s.serialize_field("kept_by_position", &kept)?;
        s.serialize_field("tokens_per_second", &self.tokens_per_second())?;
        s.serialize_field("first_token_ms", &ms(self.first_token))?;
        s.serialize_field("prefill_ms", &ms(self.prefill))?;
        s.serialize_field("draft_ms", &ms(self.times.draft))?;
        s.serialize_field("target_ms", &ms(self.times.target))?;
        s.serialize_field("verify_ms", &ms(self.times.verify))?;
        s.serialize_field("total_ms", &ms(self.total))?;
        s.end()
    }
}

/// Reads what was written: ratios follow from the counts and are not read.
impl<'de> Deserialize<'de> for Stats {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Stats, D::Error> {
        #[derive(Deserialize)]
        struct Written {
            prompt_tokens: usize,
            tokens: usize,
            target_passes: usize,
            drafted: usize,
            aligned: usize,
            judged: usize,
            bonus: usize,
            residual: usize,
            cut_off: usize,
            steps_by_position: Vec<usize>,
            kept_by_position: Vec<usize>,
            first_token_ms: f64,
            prefill_ms: f64,
            draft_ms: f64,
            target_ms: f64,
            verify_ms: f64,
            total_ms: f64,
        }
        let written = Written::deserialize(deserializer)?;
        let time = |ms: f64| {
            Duration::try_from_secs_f64(ms / 1e3)
                .map_err(|e| serde::de::Error::custom(format!("a time of {ms} ms: {e}")))
        };
        let kept = written.kept_by_position;
        Ok(Stats {
            prompt_tokens: written.prompt_tokens,
            tokens: written.tokens,
            passes: written.target_passes,
            drafted: written.drafted,
            aligned: written.aligned,
            judged: written.judged,
            bonus: written.bonus,
            residual: written.residual,
            cut_off: written.cut_off,
            by_position: written.steps_by_position.into_iter().zip(kept).collect(),
            prefill: time(written.prefill_ms)?,
            first_token: time(written.first_token_ms)?,
            total: time(written.total_ms)?,
            times: StepTimes {
                draft: time(written.draft_ms)?,
                target: time(written.target_ms)?,
                verify: time(written.verify_ms)?,
            },
        })
    }
}

fn ratio(a: usize, b: usize) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}
