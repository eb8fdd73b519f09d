//! The verifier on host memory: the reference of `gavel::verify`.

use crate::error::Error;
use crate::verifier::{
    Checked, GAVEL_ADVANCE_STEP, GAVEL_VERDICT_DRAFTER_LOGITS, GAVEL_VERDICT_NOT_DRAWN,
    GAVEL_VERDICT_OK, GAVEL_VERDICT_SCORE, GAVEL_VERDICT_TARGET_LOGITS, GAVEL_VERDICT_TREE,
    gavel_judge, gavel_tree, gavel_verdict,
};
use gavel::tree::TokenTree;
use gavel::verify::{self, Inputs, Law, NextReason, Philox, Rows, Rule, Verdict, VerifyError};
use std::slice;

/// Verifies one sequence.
///
/// # Safety
/// What the sequence points to is host memory, as large as it says.
pub(crate) unsafe fn verify(
    checked: &Checked<'_>,
    judge: Option<&gavel_judge>,
) -> Result<(), Error> {
    let s = checked.sequence;
    // SAFETY: the caller vouches for both; `Checked` has refused NULL.
    let (random, to) = unsafe { (&mut *s.random, &mut *s.verdict) };
    let philox = Philox {
        seed: random.seed,
        sequence: random.sequence,
        step: random.step,
    };
    if s.flags & GAVEL_ADVANCE_STEP != 0 {
        random.step = random.step.wrapping_add(1);
    }
    // SAFETY: the caller vouches for it.
    let tree = match unsafe { s.tree.as_ref() } {
        None => TokenTree::default(),
        Some(tree) => match token_tree(tree, checked) {
            Ok(tree) => tree,
            Err(at) => return refuse(to, GAVEL_VERDICT_TREE, at),
        },
    };
    // SAFETY: the caller vouches for rows of these strides.
    let found = unsafe { decide(&tree, checked, judge, philox) };
    match found {
        Ok(verdict) => {
            write(&verdict, tree.len(), to);
            Ok(())
        }
        Err(VerifyError::Logits { whose, row, .. }) => match whose {
            "target" => refuse(to, GAVEL_VERDICT_TARGET_LOGITS, row as i32),
            _ => refuse(to, GAVEL_VERDICT_DRAFTER_LOGITS, row as i32),
        },
        Err(VerifyError::NotDrawn { node, .. }) => refuse(to, GAVEL_VERDICT_NOT_DRAWN, node as i32),
        Err(VerifyError::Score { node }) => refuse(to, GAVEL_VERDICT_SCORE, node as i32),
        // `Checked` has refused the others
        Err(other) => Err(Error::invalid(other.to_string())),
    }
}

/// The tree, or the first node that is wrong, or how many nodes there are where that is wrong.
fn token_tree(tree: &gavel_tree, checked: &Checked<'_>) -> Result<TokenTree, i32> {
    let s = checked.sequence;
    let nodes = match usize::try_from(tree.nodes) {
        Ok(nodes) if nodes <= s.most_nodes as usize => nodes,
        _ => return Err(tree.nodes),
    };
    let is_block = checked.policy.rule == Rule::Block;
    for n in 0..nodes {
        let (token, parent, node) = (tree.token[n], tree.parent[n], n as i32);
        let least = if is_block { node - 1 } else { -1 };
        if token < 0 || token as u32 >= s.vocabulary || parent < least || parent >= node {
            return Err(node);
        }
    }
    let tokens = tree.token[..nodes].iter().map(|&token| token as u32);
    TokenTree::new(tokens.collect(), tree.parent[..nodes].to_vec()).map_err(|_| tree.nodes)
}

/// # Safety
/// As of [`verify`].
unsafe fn decide(
    tree: &TokenTree,
    checked: &Checked<'_>,
    judge: Option<&gavel_judge>,
    mut philox: Philox,
) -> Result<Verdict, VerifyError> {
    let s = checked.sequence;
    let rows = tree.len() + 1;
    let (width, draft_width) = (s.vocabulary as usize, s.draft_vocabulary as usize);
    // SAFETY: the caller vouches for so many rows.
    let target = unsafe { packed(s.logits, rows, width, checked.stride) };
    let drafter = match checked.samples || checked.policy.rule.needs_r() {
        // SAFETY: as above.
        true => unsafe { packed(s.draft_logits, rows, draft_width, checked.draft_stride) },
        false => Vec::new(),
    };
    let laws = match checked.samples {
        true => Some(laws(tree, &drafter, width, draft_width, checked)?),
        false => None,
    };
    let scores = match (checked.policy.rule, judge) {
        (Rule::Judge { .. }, _) if !s.scores.is_null() => {
            // SAFETY: as above.
            Some(unsafe { slice::from_raw_parts(s.scores, tree.len()) }.to_vec())
        }
        (Rule::Judge { .. }, Some(judge)) => {
            let score = |node: usize| {
                let mut features = Vec::new();
                for (part, &width) in judge.widths.iter().enumerate().filter(|(_, w)| **w > 0) {
                    let stride = checked.hidden_stride[part];
                    // SAFETY: as above, of so many values each.
                    let row = unsafe {
                        slice::from_raw_parts(s.hidden[part].add((node + 1) * stride), width)
                    };
                    features.extend_from_slice(row);
                }
                judge.judge.score(&features)
            };
            Some((0..tree.len()).map(score).collect())
        }
        _ => None,
    };
    let row_error = |what| VerifyError::Missing {
        rule: checked.policy.rule,
        what,
    };
    let inputs = Inputs {
        tree,
        target: Rows::new(&target, width).ok_or(row_error("logits"))?,
        q: laws.as_deref(),
        r: Rows::new(&drafter, draft_width.max(1)).filter(|rows| !rows.is_empty()),
        scores: scores.as_deref(),
    };
    // SAFETY: as above.
    let policy = unsafe { checked.guarded_policy() };
    verify::verify::<f32, _>(&inputs, &policy, &mut philox)
}

/// Rows without what lies between them.
///
/// # Safety
/// There are `rows` of `width` values, `stride` values from one to the next.
unsafe fn packed(from: *const f32, rows: usize, width: usize, stride: usize) -> Vec<f32> {
    let mut all = Vec::with_capacity(rows * width);
    for row in 0..rows {
        // SAFETY: the caller vouches for it.
        all.extend_from_slice(unsafe { slice::from_raw_parts(from.add(row * stride), width) });
    }
    all
}

/// The law of every row that has children.
fn laws(
    tree: &TokenTree,
    drafter: &[f32],
    width: usize,
    draft_width: usize,
    checked: &Checked<'_>,
) -> Result<Vec<Law>, VerifyError> {
    let shared = width.min(draft_width);
    let mut laws = vec![Law::default(); tree.len() + 1];
    for (row, law) in laws.iter_mut().enumerate() {
        if tree.children(row.checked_sub(1)).next().is_some() {
            let logits = &drafter[row * draft_width..][..shared];
            *law = Law::new(logits, shared, &checked.draft_sampling).map_err(|source| {
                VerifyError::Logits {
                    whose: "drafter",
                    row,
                    source,
                }
            })?;
        }
    }
    Ok(laws)
}

fn refuse(to: &mut gavel_verdict, error: i32, at: i32) -> Result<(), Error> {
    to.error = error;
    to.at = at;
    to.length = 0;
    to.next = -1;
    to.residual = 0;
    Ok(())
}

fn write(verdict: &Verdict, nodes: usize, to: &mut gavel_verdict) {
    to.error = GAVEL_VERDICT_OK;
    to.at = 0;
    to.length = verdict.path.len() as i32;
    to.next = verdict.next as i32;
    to.residual = i32::from(verdict.next_reason == NextReason::Residual);
    for (to, &node) in to.path.iter_mut().zip(&verdict.path) {
        *to = node as i32;
    }
    for n in 0..nodes {
        // Aligned, Judged, Rejected, Unvisited: GAVEL_NODE_*
        to.reason[n] = verdict.reasons[n] as i32;
        to.acceptability[n] = verdict.acceptability[n];
    }
}
