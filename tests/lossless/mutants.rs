//! Verification with a fault planted, to show that the proofs would find it.

use gavel::tree::TokenTree;
use gavel::verify::{Chooser, Law, Real, Site, Use};

use crate::enumerate::Pick;
use crate::toy::{Case, Growth, Proposal};

/// What is done otherwise than METHODS section 2 says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mutant {
    /// Nothing: a second implementation of the rule for sampled children.
    Control,
    /// Siblings are tested in the order of their draft probability.
    ChildrenSorted,
    /// Siblings are drawn with replacement, equal ones merged, and the rule for
    /// draws with replacement (q stays as it is) is applied.
    DuplicatesMerged,
    /// As before, but equal siblings stay: SpecInfer's own rule, and lossless.
    DuplicatesKept,
    /// After a rejection q loses the child and is not renormalised.
    DraftNotRenormalised,
    /// After a rejection p becomes max(p - q, 0) and is not renormalised.
    ResidualNotRenormalised,
}

/// One step with the fault; `case.growth` samples its children.
pub fn step<T: Real>(
    mutant: Mutant,
    case: &Case,
    context: &[u32],
    chooser: &mut (impl Chooser<T> + Pick),
) -> Vec<u32> {
    match mutant {
        Mutant::ChildrenSorted => {
            let sorted = sort_children(&case.propose(context, chooser));
            case.judge(context, &sorted, chooser).tokens(&sorted.tree)
        }
        Mutant::DuplicatesMerged | Mutant::DuplicatesKept => {
            let merge = mutant == Mutant::DuplicatesMerged;
            let proposal = propose_with_replacement(case, context, merge, chooser);
            walk(mutant, case, context, &proposal, chooser)
        }
        _ => {
            let proposal = case.propose(context, chooser);
            walk(mutant, case, context, &proposal, chooser)
        }
    }
}

/// The rule for sampled children, written out over plain vectors.
fn walk(
    mutant: Mutant,
    case: &Case,
    context: &[u32],
    proposal: &Proposal,
    chooser: &mut impl Pick,
) -> Vec<u32> {
    let tree = &proposal.tree;
    let vocab = case.target.vocab;
    let mut committed = Vec::new();
    let mut parent = None;
    'row: loop {
        let row = parent.map_or(0, |n: usize| n + 1);
        let seen = case.context_of(context, tree, parent);
        let mut p = vector(&case.target.law(&seen, &case.target_sampling), vocab);
        let mut q = vector(&proposal.q.as_ref().unwrap()[row], vocab);
        let mut usage = Use::Bonus;
        for child in tree.children(parent) {
            usage = Use::Residual;
            let x = tree.tokens()[child] as usize;
            let accepted = (p[x] / q[x]).min(1.0);
            let site = Site::node(child, Use::Accept);
            if chooser.pick(site, &[accepted, 1.0 - accepted]) == 0 {
                committed.push(x as u32);
                parent = Some(child);
                continue 'row;
            }
            let left: Vec<f64> = p.iter().zip(&q).map(|(p, q)| (p - q).max(0.0)).collect();
            let mass: f64 = left.iter().sum();
            if mass > 0.0 {
                p = match mutant {
                    Mutant::ResidualNotRenormalised => left,
                    _ => left.iter().map(|p| p / mass).collect(),
                };
            }
            match mutant {
                Mutant::DuplicatesMerged | Mutant::DuplicatesKept => {}
                Mutant::DraftNotRenormalised => q[x] = 0.0,
                _ => {
                    q[x] = 0.0;
                    let mass: f64 = q.iter().sum();
                    q.iter_mut().for_each(|q| *q /= mass);
                }
            }
        }
        committed.push(chooser.pick(Site::row(row, usage), &p) as u32);
        return committed;
    }
}

fn vector(law: &Law, vocab: usize) -> Vec<f64> {
    (0..vocab as u32).map(|id| law.probability(id)).collect()
}

fn sort_children(proposal: &Proposal) -> Proposal {
    let (old, laws) = (&proposal.tree, proposal.q.as_ref().unwrap());
    let mut tree = TokenTree::default();
    let mut q = vec![laws[0].clone()];
    let mut level = vec![(None, None)]; // (old node, new node)
    while !level.is_empty() {
        let mut below = Vec::new();
        for (from, to) in level {
            let law = &laws[from.map_or(0, |n: usize| n + 1)];
            let mut children: Vec<usize> = old.children(from).collect();
            children.sort_by_key(|&n| std::cmp::Reverse(law.weight(old.tokens()[n])));
            for n in children {
                below.push((Some(n), Some(tree.push(to, old.tokens()[n]))));
                q.push(laws[n + 1].clone());
            }
        }
        level = below;
    }
    Proposal { tree, q: Some(q) }
}

fn propose_with_replacement(
    case: &Case,
    context: &[u32],
    merge: bool,
    chooser: &mut impl Pick,
) -> Proposal {
    let Growth::Sampled(branching) = case.growth else {
        panic!("{case:?} does not sample its children");
    };
    let mut tree = TokenTree::default();
    let mut q = vec![Law::default()];
    let mut draws = 0;
    let mut level = vec![None];
    for &children in branching {
        let mut below = Vec::new();
        for parent in level {
            let seen = case.context_of(context, &tree, parent);
            let law = case.draft.law(&seen, &case.draft_sampling);
            for _ in 0..children {
                let site = Site::child(draws, 0);
                draws += 1;
                let token = chooser.pick(site, &vector(&law, case.draft.vocab)) as u32;
                let known = tree.children(parent).any(|n| tree.tokens()[n] == token);
                if !(merge && known) {
                    below.push(Some(tree.push(parent, token)));
                    q.push(Law::default());
                }
            }
            q[parent.map_or(0, |n: usize| n + 1)] = law;
        }
        level = below;
    }
    Proposal { tree, q: Some(q) }
}
