//! Substitutions of one answer as branches of token trees.
//!
//! ```text
//! prompt - y_0 - y_1 - y_2 - y_3 ...        the trunk: the answer as it is
//!                  \     \
//!                   \     x̂_3 - y_4 - y_5   what follows is read as if it had followed x̂_3
//!                    x̂_2 - y_3 - y_4
//! ```
//!
//! One pass takes as many branches as [`MAX_ROWS`] has room for; the next one goes on where
//! the trunk stands. Rows do not depend on their company, so neither does any score.

use crate::device::{Device, DeviceError, Logits, PassOutput, Want, prefill};
use crate::judge::Tap;
use crate::tree::{MAX_ROWS, TokenTree};
use crate::verify::LogSoftmax;
use std::ops::Range;

/// How many tokens after the substitute are scored.
#[derive(Clone, Copy)]
pub(super) struct Tail(pub usize);

/// One substitution.
#[derive(Clone, Debug)]
pub(super) struct Branch {
    /// t: place in the answer.
    pub position: usize,
    /// x̂_t.
    pub token: u32,
    /// Which of the drafter's best it is, from 1.
    pub rank: usize,
    /// What a judge reads at x̂_t: the drafter's part first, where there is one.
    pub features: Vec<f32>,
    /// log P(x̂_t | y_<t).
    pub own: f64,
    /// log P(y_{t+j} | y_<t, x̂_t, y_{t+1..t+j-1}) for j = 1, 2, ...
    pub tail: Vec<f64>,
    /// Tokens after x̂_t that the target, going on greedily, has in common with the answer,
    /// as far as the tail reaches.
    pub agreed: usize,
}

impl Branch {
    pub fn new(position: usize, token: u32) -> Branch {
        Branch {
            position,
            token,
            rank: 1,
            features: Vec::new(),
            own: f64::NAN,
            tail: Vec::new(),
            agreed: 0,
        }
    }

    /// Rows of its own: x̂_t, then what is needed to predict the last token of the tail.
    fn rows(&self, answer: &[u32], tail: Tail) -> usize {
        tail.0.min(answer.len() - 1 - self.position).max(1)
    }

    /// Reads its own `rows` of a pass of `all` rows.
    fn take(
        &mut self,
        output: &PassOutput,
        all: usize,
        rows: Range<usize>,
        after: &[u32],
        taps: &[Tap],
    ) {
        let width = output.logits.len() / all;
        let logits = output.logits[rows.start * width..rows.end * width].chunks_exact(width);
        let laws = logits.map(LogSoftmax::of).zip(after);
        let (tail, agrees): (Vec<f64>, Vec<bool>) = laws
            .map(|(law, &token)| (law.log(token), law.argmax() == token))
            .unzip();
        self.tail = tail;
        self.agreed = agrees.iter().take_while(|&&agrees| agrees).count();
        append_features(&mut self.features, output, all, rows.start, taps);
    }
}

/// What the passes said.
pub(super) struct Scores {
    pub branches: Vec<Branch>,
    /// log P(y_t | y_<t) for every t.
    pub trunk: Vec<f64>,
    /// The most probable token at every t.
    pub best: Vec<u32>,
}

impl Scores {
    /// log P(x̂_t | y_<t) - log P(y_t | y_<t)
    pub fn prefix(&self, branch: &Branch, answered: u32) -> f64 {
        match branch.token == answered {
            true => 0.0,
            false => branch.own - self.trunk[branch.position],
        }
    }

    /// The sum over j = 1..n of what x̂_t does to log P(y_{t+j}).
    pub fn suffix(&self, branch: &Branch, n: usize) -> f64 {
        let trunk = &self.trunk[branch.position + 1..];
        let terms = branch.tail.iter().zip(trunk).take(n);
        terms.map(|(with, without)| with - without).sum()
    }
}

/// Rows of one pass.
struct Window {
    rows: TokenTree,
    /// Row that predicts y_from.
    root: usize,
    /// Positions of the trunk whose prediction is read here.
    trunk: Range<usize>,
    /// First row of each branch, in their order.
    first: Vec<usize>,
    /// Position with which the next pass begins: the last one read here once more, where
    /// not all of its branches found room.
    next: usize,
}

/// Scores the branches, positions ascending; also the number of passes. `taps` are appended
/// to each branch's features. With `cached`, the device has read this prompt last; it
/// forgets what came behind it.
pub(super) fn score(
    device: &mut dyn Device,
    prompt: &[u32],
    answer: &[u32],
    cached: bool,
    branches: Vec<Branch>,
    tail: Tail,
    taps: &[Tap],
) -> Result<(Scores, usize), DeviceError> {
    let Some((last, before)) = prompt.split_last() else {
        return Err(DeviceError::EmptyPrompt);
    };
    let mut scores = Scores {
        trunk: vec![f64::NAN; answer.len()],
        best: vec![0; answer.len()],
        branches,
    };
    device.rollback(if cached { before.len() } else { 0 });
    let unread = &prompt[device.committed().min(before.len())..];
    let mut passes = 0;
    let mut lead = vec![*last];
    if unread.len() + tail.0 + MAX_ROWS / 4 <= MAX_ROWS {
        // what is left of the prompt rides along in the first pass
        lead = unread.to_vec();
    } else {
        prefill(device, &unread[..unread.len() - 1], &Want::default())?;
        passes += (unread.len() - 1).div_ceil(MAX_ROWS);
    }
    let want = want(taps);
    let (mut from, mut next) = (0, 0);
    while from < answer.len() {
        let window = window(&lead, answer, from, &scores.branches[next..], tail);
        let output = device.pass(&window.rows, &want)?;
        passes += 1;
        take(&window, &output, answer, &mut scores, next, taps);
        // all before the row that predicts the next position; that row leads the next pass
        let kept = lead.len() - 1 + window.next - from;
        device.commit(&(0..kept).collect::<Vec<_>>());
        next += window.first.len();
        from = window.next;
        lead = vec![if from == 0 { *last } else { answer[from - 1] }];
    }
    Ok((scores, passes))
}

/// As [`score`], where the device has just made this answer and said what it gives each token:
/// `trunk`, log P(y_t | y_<t). All but the last token is in its cache, and branches hang there.
///
/// ```text
/// prompt - y_0 - y_1 - y_2 - y_3 ...    in the cache
///              \     \
///               \     y_1 - x̂_2 - y_3   y_1 once more, to predict x̂_2
///                y_0 - x̂_1 - y_2
/// ```
pub(super) fn score_answered(
    device: &mut dyn Device,
    prompt: &[u32],
    answer: &[u32],
    trunk: Vec<f64>,
    branches: Vec<Branch>,
    tail: Tail,
    taps: &[Tap],
) -> Result<(Scores, usize), DeviceError> {
    let mut scores = Scores {
        trunk,
        best: answer.to_vec(),
        branches,
    };
    let want = want(taps);
    let (mut next, mut passes) = (0, 0);
    while next < scores.branches.len() {
        let (mut rows, mut behind, mut leads) = (TokenTree::default(), Vec::new(), Vec::new());
        let first = next;
        // branches of one position share the row that predicts them
        let mut lead = None;
        for branch in &scores.branches[first..] {
            let t = branch.position;
            let shares = lead.filter(|&(position, _)| position == t);
            let size = branch.rows(answer, tail) + usize::from(shares.is_none());
            if rows.len() + size > MAX_ROWS {
                break;
            }
            let (_, row) = *lead.insert(shares.unwrap_or_else(|| {
                behind.push(prompt.len() + t - 1);
                let before = match t {
                    0 => prompt[prompt.len() - 1],
                    _ => answer[t - 1],
                };
                (t, rows.push(None, before))
            }));
            let mut last = rows.push(Some(row), branch.token);
            leads.push((row, last));
            for j in 1..branch.rows(answer, tail) {
                last = rows.push(Some(last), answer[t + j]);
            }
            next += 1;
        }
        let output = device.pass_behind(&rows, &behind, &want)?;
        passes += 1;
        let width = output.logits.len() / rows.len();
        for (branch, (lead, row)) in scores.branches[first..next].iter_mut().zip(leads) {
            let t = branch.position;
            let logits = &output.logits[lead * width..][..width];
            branch.own = LogSoftmax::of(logits).log(branch.token);
            let size = branch.rows(answer, tail);
            branch.take(&output, rows.len(), row..row + size, &answer[t + 1..], taps);
        }
    }
    Ok((scores, passes))
}

/// What a pass is asked for.
pub(super) fn want(taps: &[Tap]) -> Want {
    Want {
        logits: Logits::All,
        hidden: taps.contains(&Tap::Final),
        taps: taps
            .iter()
            .filter_map(|tap| match tap {
                Tap::Final => None,
                Tap::Layer(layer) => Some(*layer),
            })
            .collect(),
        ..Want::default()
    }
}

/// As much of the trunk, with its branches, as fits one pass. One branch always fits beside
/// the row that leads.
fn window(lead: &[u32], answer: &[u32], from: usize, branches: &[Branch], tail: Tail) -> Window {
    let (mut taken, mut rows) = (0, lead.len());
    let (mut read, mut next) = (from, from);
    'trunk: for t in from..answer.len() {
        // y_{t-1} is a row of its own but for the first position, which the lead predicts
        let trunk_row = usize::from(t > from);
        if rows + trunk_row > MAX_ROWS {
            break;
        }
        let mut here = branches[taken..].iter().take_while(|b| b.position == t);
        let mut added = trunk_row;
        read = t + 1;
        for branch in &mut here {
            let size = branch.rows(answer, tail);
            if rows + added + size > MAX_ROWS {
                break 'trunk;
            }
            rows += added + size;
            added = 0;
            taken += 1;
        }
        rows += added;
        next = t + 1;
    }
    let mut tree = TokenTree::chain(lead);
    let root = lead.len() - 1;
    for t in from + 1..read {
        tree.push(Some(root + t - 1 - from), answer[t - 1]);
    }
    let mut first = Vec::with_capacity(taken);
    for branch in &branches[..taken] {
        let t = branch.position;
        let mut row = tree.push(Some(root + t - from), branch.token);
        first.push(row);
        for j in 1..branch.rows(answer, tail) {
            row = tree.push(Some(row), answer[t + j]);
        }
    }
    Window {
        rows: tree,
        root,
        trunk: from..read,
        first,
        next,
    }
}

/// Reads a pass.
fn take(
    window: &Window,
    output: &PassOutput,
    answer: &[u32],
    scores: &mut Scores,
    skipped: usize,
    taps: &[Tap],
) {
    let rows = window.rows.len();
    let vocab_size = output.logits.len() / rows;
    let logits = |row: usize| &output.logits[row * vocab_size..][..vocab_size];
    let laws: Vec<LogSoftmax<'_>> = window
        .trunk
        .clone()
        .map(|t| LogSoftmax::of(logits(window.root + t - window.trunk.start)))
        .collect();
    for (law, t) in laws.iter().zip(window.trunk.clone()) {
        scores.trunk[t] = law.log(answer[t]);
        scores.best[t] = law.argmax();
    }
    for (i, &row) in window.first.iter().enumerate() {
        let branch = &mut scores.branches[skipped + i];
        let t = branch.position;
        branch.own = laws[t - window.trunk.start].log(branch.token);
        let end = window.first.get(i + 1).copied().unwrap_or(rows);
        branch.take(output, rows, row..end, &answer[t + 1..], taps);
    }
}

/// Appends what a judge with these taps reads at a row.
pub(super) fn append_features(
    features: &mut Vec<f32>,
    output: &PassOutput,
    rows: usize,
    row: usize,
    taps: &[Tap],
) {
    for tap in taps {
        let of = match tap {
            Tap::Final => Some(&output.last_hidden),
            Tap::Layer(layer) => output
                .taps
                .iter()
                .find(|(l, _)| l == layer)
                .map(|(_, rows)| rows),
        };
        if let Some(of) = of {
            let width = of.len() / rows;
            features.extend_from_slice(&of[row * width..][..width]);
        }
    }
}
