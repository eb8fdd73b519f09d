//! A model that drafts: it grows a token tree level by level, one pass a level.

use super::forward::Forward;
use super::team::Team;
use crate::device::{DeviceError, Draw, Logits, Step, Want};
use crate::model::Model;
use crate::tree::{MAX_ROWS, Shape, TokenTree};
use crate::verify::{Law, Philox, Remaining, Rows, Rule, Site, math};
use std::sync::Arc;

/// A proposal with what verification needs to know about it.
#[derive(Default)]
pub(super) struct Draft {
    pub tree: TokenTree,
    /// The law of each row's children, [N+1], when they were sampled.
    pub q: Option<Vec<Law>>,
    /// The drafter's logits [N+1, logits_width], when the rule reads them; leaves have zeros.
    logits: Option<Vec<f32>>,
    logits_width: usize,
    /// The drafter's final hidden state of every node [N, hidden_width], when the judge reads it.
    hidden: Option<Vec<f32>>,
    hidden_width: usize,
}

impl Draft {
    /// Distinct children that no law was asked for.
    pub fn deterministic(tree: TokenTree) -> Draft {
        Draft {
            tree,
            ..Draft::default()
        }
    }

    pub fn logits(&self) -> Option<Rows<'_>> {
        let rows = self.logits.as_ref()?;
        Rows::new(rows, self.logits_width)
    }

    pub fn hidden(&self, node: usize) -> Option<&[f32]> {
        let rows = self.hidden.as_ref()?;
        Some(&rows[node * self.hidden_width..][..self.hidden_width])
    }
}

/// A drafting model with its own KV cache.
pub(super) struct ModelDrafter {
    forward: Forward,
    /// Row of the drafter's last tree that holds each node of the proposal.
    rows: Vec<Option<usize>>,
}

/// What a step asks of a drafting model.
pub(super) struct Ask<'a> {
    /// Everything committed so far.
    pub tokens: &'a [u32],
    /// The step's shape, cut to what fits.
    pub shape: Shape,
    pub step: &'a Step,
    /// Vocabulary of the target.
    pub vocab_size: usize,
    /// Whether the judge reads this model's hidden states.
    pub wants_hidden: bool,
    /// Where draws come from.
    pub philox: Philox,
}

/// The tree while it grows: every node ever drafted, the first `passed` of them
/// with keys and values behind the committed ones.
struct Growing {
    tree: TokenTree,
    passed: usize,
    /// Whether the passes return hidden states.
    wants_hidden: bool,
    /// Logits of the last committed token (index 0) and of the passed rows.
    logits: Vec<Vec<f32>>,
    hidden: Vec<f32>,
}

impl ModelDrafter {
    pub fn new(model: Arc<Model>, context: usize) -> ModelDrafter {
        let context = context.min(model.config.max_positions);
        ModelDrafter {
            forward: Forward::new(model, context + MAX_ROWS),
            rows: Vec::new(),
        }
    }

    pub fn forward(&self) -> &Forward {
        &self.forward
    }

    /// Forgets the sequence before.
    pub fn restart(&mut self) {
        self.forward.cache.len = 0;
    }

    /// Drafts below the last committed token.
    pub fn propose(&mut self, team: &Team, ask: &Ask<'_>) -> Result<Draft, DeviceError> {
        let Ask { tokens, step, .. } = *ask;
        self.rows.clear();
        // a drafter made for a shorter context falls silent where its positions end
        let room = self.forward.model.config.max_positions;
        let shape = ask.shape.cut(room.saturating_sub(tokens.len()));
        if shape.nodes() == 0 || shape.depth() == 0 {
            return Ok(Draft::default());
        }
        let width = ask.vocab_size.min(self.forward.model.config.vocab_size);
        let mut growing = Growing {
            logits: vec![self.catch_up(team, tokens)],
            tree: TokenTree::default(),
            passed: 0,
            wants_hidden: ask.wants_hidden,
            hidden: Vec::new(),
        };
        let (mut q, mut scores) = (None, None);
        match shape {
            Shape::BestFirst { nodes, depth } => {
                scores = Some((
                    self.best_first(team, &mut growing, nodes, depth, width),
                    nodes,
                ));
            }
            Shape::Levels(branching) => {
                q = self.levels(team, &mut growing, &branching, ask, width)?;
            }
            Shape::Chain(gamma) => {
                q = self.levels(team, &mut growing, &vec![1; gamma], ask, width)?;
            }
        }
        if growing.wants_hidden {
            self.pass(team, &mut growing);
        }
        Ok(self.finish(growing, scores, q, &step.policy.rule, width))
    }

    /// Reads what was committed since the last step; returns the last token's logits.
    fn catch_up(&mut self, team: &Team, tokens: &[u32]) -> Vec<f32> {
        let mut logits = Vec::new();
        let missing = &tokens[self.forward.cache.len..];
        for chunk in missing.chunks(MAX_ROWS) {
            let want = Want {
                logits: Logits::Last,
                ..Want::default()
            };
            let base = self.forward.cache.len;
            logits = self
                .forward
                .pass(team, &TokenTree::chain(chunk), &[], 0, &want)
                .logits;
            let slots: Vec<usize> = (base..base + chunk.len()).collect();
            self.forward.cache.commit(&slots);
        }
        logits
    }

    /// Runs the nodes that were added since the last pass.
    fn pass(&mut self, team: &Team, growing: &mut Growing) {
        let first = growing.passed;
        if first == growing.tree.len() {
            return;
        }
        let want = Want {
            logits: Logits::All,
            hidden: growing.wants_hidden,
            taps: Vec::new(),
            ..Want::default()
        };
        let output = self.forward.pass(team, &growing.tree, &[], first, &want);
        let width = self.forward.model.config.vocab_size;
        growing
            .logits
            .extend(output.logits.chunks_exact(width).map(<[f32]>::to_vec));
        growing.hidden.extend(output.last_hidden);
        growing.passed = growing.tree.len();
    }

    /// `branching[level]` children for every node of a level.
    fn levels(
        &mut self,
        team: &Team,
        growing: &mut Growing,
        branching: &[usize],
        ask: &Ask<'_>,
        width: usize,
    ) -> Result<Option<Vec<Law>>, DeviceError> {
        let mut laws = (ask.step.draw == Draw::Sampled).then(Vec::new);
        let mut level = vec![None];
        for (depth, &children) in branching.iter().enumerate() {
            let mut next = Vec::new();
            for &parent in &level {
                let logits = &growing.logits[parent.map_or(0, |p: usize| p + 1)];
                let chosen = match &mut laws {
                    None => best(&logits[..width], children),
                    Some(laws) => {
                        let law = Law::new(logits, width, &ask.step.draft_sampling)
                            .map_err(|e| DeviceError::Draft(format!("drafter: {e}")))?;
                        let row = parent.map_or(0, |p: usize| p + 1);
                        let chosen = draw_children(&law, children, row, &ask.philox);
                        // levels are numbered in order, so laws stand at their rows
                        laws.push(law);
                        chosen
                    }
                };
                next.extend(
                    chosen
                        .into_iter()
                        .map(|t| Some(growing.tree.push(parent, t))),
                );
            }
            level = next;
            // the deepest nodes are not read unless someone asks for them
            if depth + 1 < branching.len() {
                self.pass(team, growing);
            }
        }
        if let Some(laws) = &mut laws {
            laws.resize(growing.tree.len() + 1, Law::default());
        }
        Ok(laws)
    }

    /// The `nodes` nodes of highest cumulative probability among those of depth `depth` or less.
    ///
    /// A node's cumulative probability is at most its parent's, so a node that has
    /// dropped out of the best never returns: each level takes one pass over the nodes
    /// that are among the best so far.
    fn best_first(
        &mut self,
        team: &Team,
        growing: &mut Growing,
        nodes: usize,
        depth: usize,
        width: usize,
    ) -> Vec<f32> {
        // cumulative log-probability of every node ever drafted
        let mut scores: Vec<f32> = Vec::new();
        let mut level = vec![None];
        for at in 1..=depth {
            for &parent in &level {
                let logits = &growing.logits[parent.map_or(0, |p: usize| p + 1)][..width];
                let above = parent.map_or(0.0, |p| scores[p]);
                let normaliser = log_sum_exp(logits);
                for token in best(logits, nodes) {
                    growing.tree.push(parent, token);
                    scores.push(above + (logits[token as usize] - normaliser));
                }
            }
            self.keep_best(growing, &mut scores, nodes);
            level = (growing.passed..growing.tree.len()).map(Some).collect();
            // beyond the rows that a cache has room for, the best so far are the answer
            if at == depth || level.is_empty() || growing.tree.len() > MAX_ROWS {
                break;
            }
            self.pass(team, growing);
        }
        scores
    }

    /// Drops all but the `nodes` best of the nodes that were never passed, counting the
    /// passed ones as rivals.
    fn keep_best(&self, growing: &mut Growing, scores: &mut Vec<f32>, nodes: usize) {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        // stable: of equals the earlier node stays
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        order.truncate(nodes);
        let mut stays = vec![false; scores.len()];
        order.iter().for_each(|&n| stays[n] = true);
        let mut tree = TokenTree::default();
        let mut kept = Vec::new();
        for node in 0..growing.tree.len() {
            if node < growing.passed || stays[node] {
                tree.push(growing.tree.parent(node), growing.tree.tokens()[node]);
                kept.push(scores[node]);
            }
        }
        growing.tree = tree;
        *scores = kept;
    }

    /// Takes the proposal out of everything that was drafted.
    fn finish(
        &mut self,
        growing: Growing,
        scores: Option<(Vec<f32>, usize)>,
        q: Option<Vec<Law>>,
        rule: &Rule,
        width: usize,
    ) -> Draft {
        let mut chosen: Vec<usize> = (0..growing.tree.len()).collect();
        if let Some((scores, nodes)) = scores {
            chosen.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            chosen.truncate(nodes);
            chosen.sort_unstable();
        }
        let mut tree = TokenTree::default();
        let mut place = vec![usize::MAX; growing.tree.len()];
        for &node in &chosen {
            let parent = growing.tree.parent(node).map(|p| place[p]);
            place[node] = tree.push(parent, growing.tree.tokens()[node]);
        }
        self.rows = chosen
            .iter()
            .map(|&n| (n < growing.passed).then_some(n))
            .collect();
        let logits = rule.needs_r().then(|| {
            let mut all = growing.logits[0][..width].to_vec();
            for row in &self.rows {
                match row {
                    Some(row) => all.extend_from_slice(&growing.logits[row + 1][..width]),
                    None => all.resize(all.len() + width, 0.0),
                }
            }
            all
        });
        let hidden_width = self.forward.model.config.hidden_size;
        let hidden = (!growing.hidden.is_empty()).then(|| {
            let rows = chosen
                .iter()
                .map(|n| &growing.hidden[n * hidden_width..][..hidden_width]);
            rows.flatten().copied().collect()
        });
        Draft {
            tree,
            q,
            logits,
            logits_width: width,
            hidden,
            hidden_width,
        }
    }

    /// Keeps the accepted nodes that have keys and values; the others are read again as
    /// committed tokens.
    pub fn commit(&mut self, path: &[usize]) {
        let base = self.forward.cache.len;
        let slots: Vec<usize> = path
            .iter()
            .map_while(|&node| self.rows[node].map(|row| base + row))
            .collect();
        self.forward.cache.commit(&slots);
        self.rows.clear();
    }
}

/// Children of a row drawn from its law without replacement, in the order of the draws.
fn draw_children(law: &Law, children: usize, row: usize, philox: &Philox) -> Vec<u32> {
    let mut left = Remaining::new(law);
    let mut drawn = Vec::with_capacity(children);
    for place in 0..children {
        let Some(token) = left.draw(philox.word(Site::child(row, place))) else {
            break;
        };
        left.remove(token);
        drawn.push(token);
    }
    drawn
}

/// The `count` tokens of highest logit, best first, of equals the lowest id first.
fn best(logits: &[f32], count: usize) -> Vec<u32> {
    let mut best: Vec<(f32, u32)> = Vec::with_capacity(count + 1);
    let mut bar = f32::NEG_INFINITY;
    for (id, &z) in logits.iter().enumerate() {
        if best.len() < count || z > bar {
            let at = best.partition_point(|&(other, _)| other >= z);
            best.insert(at, (z, id as u32));
            best.truncate(count);
            if best.len() == count {
                bar = best[count - 1].0;
            }
        }
    }
    best.into_iter().map(|(_, id)| id).collect()
}

fn log_sum_exp(logits: &[f32]) -> f32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    max + math::ln(math::sum_over(logits, |z| math::exp(z - max)))
}

#[cfg(test)]
mod tests {
    use super::best;

    #[test]
    fn the_best_tokens_are_sorted_and_ties_go_to_the_lowest_id() {
        assert_eq!(best(&[1.0, 3.0, 2.0, 3.0, 0.0], 3), [1, 3, 2]);
        assert_eq!(best(&[1.0, 1.0, 1.0], 2), [0, 1]);
        assert_eq!(best(&[5.0], 4), [0]);
    }
}
