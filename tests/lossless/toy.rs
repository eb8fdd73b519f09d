//! Small language models given by a hash of the context, and drafting from them.

use gavel::tree::TokenTree;
use gavel::verify::{
    Chooser, Inputs, Law, Policy, Real, Remaining, Rows, Rule, Sampling, Site, Verdict, verify,
};

/// A model over `vocab` tokens whose logits depend on the last `memory` tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Toy {
    pub vocab: usize,
    pub memory: usize,
    pub seed: u64,
    pub palette: &'static [f32],
}

/// Logits that make ties and zeros (-inf) common.
pub const ROUGH: &[f32] = &[f32::NEG_INFINITY, -1.0, 0.0, 0.5, 0.5, 1.25];
/// Logits that are all finite and mostly distinct.
pub const SMOOTH: &[f32] = &[-1.5, -0.75, -0.25, 0.0, 0.375, 0.75, 1.0, 1.5];

pub const fn cut(temperature: f32, top_k: usize, top_p: f32) -> Sampling {
    Sampling {
        temperature,
        top_k,
        top_p,
    }
}

/// The target's and the drafter's: truncation on neither side, on either, on both; one side greedy.
pub const SAMPLINGS: [(Sampling, Sampling); 7] = [
    (Sampling::at(1.0), Sampling::at(1.0)),
    (Sampling::at(0.7), Sampling::at(1.4)),
    (cut(1.0, 2, 1.0), Sampling::at(1.0)),
    (Sampling::at(1.0), cut(0.8, 2, 1.0)),
    (cut(1.0, 0, 0.7), cut(0.9, 3, 0.8)),
    (Sampling::GREEDY, Sampling::at(1.0)),
    (Sampling::at(1.0), Sampling::GREEDY),
];

impl Toy {
    /// The tokens that the logits after `context` depend on.
    pub fn recent<'c>(&self, context: &'c [u32]) -> &'c [u32] {
        &context[context.len().saturating_sub(self.memory)..]
    }

    pub fn logits(&self, context: &[u32]) -> Vec<f32> {
        let mut state = self.seed;
        for &token in self.recent(context) {
            state = mix(state ^ u64::from(token + 1));
        }
        let mut logits: Vec<f32> = (0..self.vocab)
            .map(|id| {
                let pick = mix(state ^ (id as u64 + 101) << 8) as usize;
                self.palette[pick % self.palette.len()]
            })
            .collect();
        if logits.iter().all(|z| z.is_infinite()) {
            logits[mix(state) as usize % self.vocab] = 0.0;
        }
        logits
    }

    pub fn law(&self, context: &[u32], sampling: &Sampling) -> Law {
        Law::new(&self.logits(context), self.vocab, sampling).unwrap()
    }
}

/// SplitMix64's finaliser.
pub fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// How a proposal is grown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Growth {
    /// Children sampled without replacement, `branching[d]` per node of depth d; 1, 1, .. is a chain.
    Sampled(&'static [usize]),
    /// The best children, `branching[d]` per node of depth d.
    Best(&'static [usize]),
    /// The nodes of highest cumulative draft probability.
    BestFirst { nodes: usize, depth: usize },
}

impl Growth {
    pub fn depth(&self) -> usize {
        match self {
            Growth::Sampled(branching) | Growth::Best(branching) => branching.len(),
            Growth::BestFirst { depth, .. } => *depth,
        }
    }
}

/// A target, a drafter and how the one verifies the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Case {
    pub target: Toy,
    pub draft: Toy,
    pub target_sampling: Sampling,
    pub draft_sampling: Sampling,
    pub growth: Growth,
    pub rule: Rule,
}

/// A proposal with what verification needs to know about it.
pub struct Proposal {
    pub tree: TokenTree,
    pub q: Option<Vec<Law>>, // [N + 1]
}

impl Case {
    /// Length of the sequences whose joint law is compared.
    pub fn tokens(&self) -> usize {
        self.growth.depth() + 2
    }

    /// The context followed by the tokens on the path to `node`.
    pub fn context_of(&self, context: &[u32], tree: &TokenTree, node: Option<usize>) -> Vec<u32> {
        let path = node.map_or(Vec::new(), |n| tree.path(n));
        let drafted = path.into_iter().map(|n| tree.tokens()[n]);
        context.iter().copied().chain(drafted).collect()
    }

    pub fn propose<T: Real>(&self, context: &[u32], chooser: &mut impl Chooser<T>) -> Proposal {
        let mut tree = TokenTree::default();
        match self.growth {
            Growth::Sampled(branching) => {
                let mut q = vec![Law::default()];
                let mut level = vec![None];
                for &children in branching {
                    let mut below = Vec::new();
                    for parent in level {
                        let seen = self.context_of(context, &tree, parent);
                        let law = self.draft.law(&seen, &self.draft_sampling);
                        let mut rest = Remaining::new(&law);
                        for place in 0..children {
                            let site = Site::child(parent.map_or(0, |n| n + 1), place);
                            let Some(token) = chooser.draw(site, &rest) else {
                                break;
                            };
                            rest.remove(token);
                            below.push(Some(tree.push(parent, token)));
                            q.push(Law::default());
                        }
                        q[parent.map_or(0, |n| n + 1)] = law;
                    }
                    level = below;
                }
                Proposal { tree, q: Some(q) }
            }
            Growth::Best(branching) => {
                let mut level = vec![None];
                for &children in branching {
                    let mut below = Vec::new();
                    for parent in level {
                        let seen = self.context_of(context, &tree, parent);
                        for token in best(&self.draft.logits(&seen), children) {
                            below.push(Some(tree.push(parent, token)));
                        }
                    }
                    level = below;
                }
                Proposal { tree, q: None }
            }
            Growth::BestFirst { nodes, depth } => {
                // (cumulative probability, parent, token, depth)
                let mut open: Vec<(f64, Option<usize>, u32, usize)> = Vec::new();
                let grow = |tree: &TokenTree, node: Option<usize>, p: f64, at: usize| {
                    let mut opened = Vec::new();
                    if at < depth {
                        let seen = self.context_of(context, tree, node);
                        let law = self.draft.law(&seen, &Sampling::at(1.0));
                        for (token, _) in law.support() {
                            opened.push((p * law.probability::<f64>(token), node, token, at + 1));
                        }
                    }
                    opened
                };
                open.extend(grow(&tree, None, 1.0, 0));
                while tree.len() < nodes && !open.is_empty() {
                    let ranked = open.iter().enumerate();
                    let (next, _) = ranked
                        .max_by(|a, b| a.1.0.total_cmp(&b.1.0).then(b.0.cmp(&a.0)))
                        .unwrap();
                    let (p, parent, token, at) = open.remove(next);
                    let node = tree.push(parent, token);
                    open.extend(grow(&tree, Some(node), p, at));
                }
                Proposal { tree, q: None }
            }
        }
    }

    /// The target's raw logits at every row of a tree, [N + 1, V].
    pub fn target_rows(&self, context: &[u32], tree: &TokenTree) -> Vec<f32> {
        let nodes = [None].into_iter().chain((0..tree.len()).map(Some));
        nodes
            .flat_map(|node| self.target.logits(&self.context_of(context, tree, node)))
            .collect()
    }

    pub fn judge<T: Real>(
        &self,
        context: &[u32],
        proposal: &Proposal,
        chooser: &mut impl Chooser<T>,
    ) -> Verdict {
        let rows = self.target_rows(context, &proposal.tree);
        let inputs = Inputs {
            tree: &proposal.tree,
            target: Rows::new(&rows, self.target.vocab).unwrap(),
            q: proposal.q.as_deref(),
            r: None,
            scores: None,
        };
        let policy = Policy::new(self.target_sampling, self.rule);
        verify(&inputs, &policy, chooser).unwrap()
    }

    /// One step: the tokens that it commits.
    pub fn step<T: Real>(&self, context: &[u32], chooser: &mut impl Chooser<T>) -> Vec<u32> {
        let proposal = self.propose(context, chooser);
        self.judge(context, &proposal, chooser)
            .tokens(&proposal.tree)
    }
}

/// The ids of the `count` highest finite logits, best first.
fn best(logits: &[f32], count: usize) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    ids.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
    ids.retain(|&id| logits[id as usize].is_finite());
    ids.truncate(count);
    ids
}
