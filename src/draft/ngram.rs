//! Prompt lookup: the text so far as its own draft.

use crate::tree::{Shape, TokenTree};

/// Proposes what followed the last `n` tokens where they stood before, for the
/// largest n in `shortest..=longest` that is found; of several places the latest.
///
/// The idea is Saxena's prompt lookup decoding (2023). It reads the prompt and
/// what was generated, and has no probabilities: its children are deterministic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ngram {
    /// Fewest tokens that must agree.
    pub shortest: usize,
    /// Most tokens that are compared.
    pub longest: usize,
}

impl Default for Ngram {
    fn default() -> Self {
        Ngram {
            shortest: 1,
            longest: 4,
        }
    }
}

impl Ngram {
    /// Proposes at most what `shape` has room for. A tree takes in one continuation
    /// after the other, longer agreement and later places first; common beginnings
    /// share nodes, and a node has no more children than its level allows.
    pub fn propose(&self, history: &[u32], shape: &Shape) -> TokenTree {
        let mut tree = TokenTree::default();
        let mut depths: Vec<usize> = Vec::new();
        for place in self.places(history) {
            let mut parent = None;
            for (level, &token) in history[place..].iter().take(shape.depth()).enumerate() {
                let found = tree.children(parent).find(|&n| tree.tokens()[n] == token);
                if let Some(node) = found {
                    parent = Some(node);
                    continue;
                }
                let (children, budget) = match shape {
                    Shape::Chain(gamma) => (1, *gamma),
                    Shape::Levels(branching) => (branching[level], shape.nodes()),
                    Shape::BestFirst { nodes, .. } => (*nodes, *nodes),
                };
                if tree.children(parent).count() >= children || tree.len() >= budget {
                    break;
                }
                parent = Some(tree.push(parent, token));
                depths.push(level + 1);
            }
            if tree.len() >= shape.nodes() || shape.is_chain() {
                break;
            }
        }
        tree
    }

    /// Where continuations begin, best first, no place twice.
    fn places(&self, history: &[u32]) -> Vec<usize> {
        const MOST: usize = 32;
        let mut places = Vec::new();
        let longest = self.longest.min(history.len().saturating_sub(1));
        for n in (self.shortest.max(1)..=longest).rev() {
            let key = &history[history.len() - n..];
            // the places before the last occurrence, which is the key itself
            for at in (0..history.len() - n).rev() {
                if places.len() == MOST {
                    return places;
                }
                if &history[at..at + n] == key && !places.contains(&(at + n)) {
                    places.push(at + n);
                }
            }
        }
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn propose(history: &[u32], shape: &str) -> (Vec<u32>, Vec<i32>) {
        let tree = Ngram::default().propose(history, &shape.parse().unwrap());
        (tree.tokens().to_vec(), tree.parents().to_vec())
    }

    #[test]
    fn a_chain_follows_the_longest_and_latest_agreement() {
        // 1 2 stood before twice; the later place was followed by 5
        assert_eq!(propose(&[1, 2, 3, 4, 1, 2, 5, 6, 1, 2], "3").0, [5, 6, 1]);
        // 9 2 stood once, which is longer than 2 alone
        assert_eq!(propose(&[9, 2, 3, 4, 1, 2, 5, 9, 2], "2").0, [3, 4]);
        // nothing before, nothing proposed
        assert!(propose(&[1, 2, 3], "4").0.is_empty());
        assert!(propose(&[], "4").0.is_empty());
    }

    #[test]
    fn a_continuation_may_run_into_the_key_itself() {
        assert_eq!(propose(&[7, 7, 7], "3").0, [7]);
    }

    #[test]
    fn a_tree_takes_several_continuations_and_shares_their_beginnings() {
        let history = [1, 2, 3, 9, 1, 2, 4, 9, 1, 2, 3, 8, 1, 2];
        let (tokens, parents) = propose(&history, "2x2");
        assert_eq!(tokens, [3, 8, 4, 9, 9]);
        assert_eq!(parents, [-1, 0, -1, 2, 0]);
    }
}
