//! Token trees: what a drafter proposes and a target pass reads.

use std::fmt;
use std::str::FromStr;

/// Most rows of one pass, and nodes of a tree.
pub const MAX_ROWS: usize = 512;

/// A proposal: `tokens[n]` follows the tokens on the path to `parents[n]`.
///
/// Nodes are in topological order (a parent stands before its children) and
/// `-1` is the last committed token. A chain is the tree with one child per
/// node; plain decoding is the tree with no nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenTree {
    tokens: Vec<u32>,
    parents: Vec<i32>,
}

/// Why a list of tokens and parents is no token tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The two lists differ in length.
    #[error("a tree needs one parent per token, found {tokens} tokens and {parents} parents")]
    Lengths {
        /// Number of tokens.
        tokens: usize,
        /// Number of parents.
        parents: usize,
    },
    /// A node's parent stands at or after the node, or is below -1.
    #[error("node {node} has parent {parent}, expected -1 or a node before it (topological order)")]
    NotTopological {
        /// The node.
        node: usize,
        /// What was given as its parent.
        parent: i32,
    },
    /// More than [`MAX_ROWS`] nodes.
    #[error("a tree of {nodes} nodes, expected at most {MAX_ROWS}")]
    TooLarge {
        /// Number of nodes.
        nodes: usize,
    },
}

impl TokenTree {
    /// Checks that both lists are equally long and in topological order.
    pub fn new(tokens: Vec<u32>, parents: Vec<i32>) -> Result<Self, TreeError> {
        if tokens.len() != parents.len() {
            return Err(TreeError::Lengths {
                tokens: tokens.len(),
                parents: parents.len(),
            });
        }
        if tokens.len() > MAX_ROWS {
            return Err(TreeError::TooLarge {
                nodes: tokens.len(),
            });
        }
        for (node, &parent) in parents.iter().enumerate() {
            if parent < -1 || parent >= node as i32 {
                return Err(TreeError::NotTopological { node, parent });
            }
        }
        Ok(TokenTree { tokens, parents })
    }

    /// The tree in which every token follows the one before it.
    pub fn chain(tokens: &[u32]) -> Self {
        TokenTree {
            tokens: tokens.to_vec(),
            parents: (0..tokens.len()).map(|n| n as i32 - 1).collect(),
        }
    }

    /// Appends a child of `parent` (`None`: of the last committed token) and returns its node.
    ///
    /// # Panics
    /// If `parent` is not yet in the tree: growing a tree is the drafter's work, not input.
    pub fn push(&mut self, parent: Option<usize>, token: u32) -> usize {
        let node = self.tokens.len();
        assert!(parent.is_none_or(|p| p < node));
        self.tokens.push(token);
        self.parents.push(parent.map_or(-1, |p| p as i32));
        node
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether the tree has no nodes, as in plain decoding.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The tokens, node by node.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The parents, node by node; -1 is the last committed token.
    pub fn parents(&self) -> &[i32] {
        &self.parents
    }

    /// The parent of `node`, `None` where it is the last committed token.
    pub fn parent(&self, node: usize) -> Option<usize> {
        usize::try_from(self.parents[node]).ok()
    }

    /// The children of `parent` in the order in which they were drafted.
    pub fn children(&self, parent: Option<usize>) -> impl Iterator<Item = usize> + '_ {
        let wanted = parent.map_or(-1, |p| p as i32);
        let first = parent.map_or(0, |p| p + 1);
        (first..self.len()).filter(move |&n| self.parents[n] == wanted)
    }

    /// Nodes from the root to `node`, both included.
    pub fn path(&self, node: usize) -> Vec<usize> {
        let mut path: Vec<usize> = std::iter::successors(Some(node), |&n| self.parent(n)).collect();
        path.reverse();
        path
    }

    /// Depth of every node; a child of the last committed token has depth 1.
    pub fn depths(&self) -> Vec<usize> {
        let mut depths = vec![0; self.len()];
        for node in 0..self.len() {
            depths[node] = 1 + self.parent(node).map_or(0, |p| depths[p]);
        }
        depths
    }

    /// The position of every node. Root i, a node without a parent, follows the first `behind[i]`
    /// of the `committed` tokens; roots that `behind` does not reach follow all of them.
    pub fn positions(&self, behind: &[usize], committed: usize) -> Vec<usize> {
        let mut behind = behind.iter().copied();
        let mut positions = Vec::with_capacity(self.len());
        for node in 0..self.len() {
            positions.push(match self.parent(node) {
                Some(parent) => positions[parent] + 1,
                None => behind.next().unwrap_or(committed),
            });
        }
        positions
    }

    /// Whether every node but the last is the parent of the next.
    pub fn is_chain(&self) -> bool {
        self.parents
            .iter()
            .enumerate()
            .all(|(n, &p)| p == n as i32 - 1)
    }
}

/// The shape of the tree that a drafter is asked to grow.
///
/// It depends on nothing that the step draws, so that a device can prepare it.
/// Written as `8` (a chain), `4x2x2x1` (children per level) or `best:24x6`
/// (24 nodes, depth at most 6).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// A chain of `gamma` nodes; 0 is plain decoding.
    Chain(usize),
    /// `branching[d]` children for each node of depth d.
    Levels(Vec<usize>),
    /// The nodes of highest cumulative draft probability, up to a budget.
    BestFirst {
        /// Number of nodes.
        nodes: usize,
        /// Greatest depth of a node.
        depth: usize,
    },
}

/// Why a shape could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "tree shape '{spec}': {why}; expected GAMMA, children per level such as 4x2x2x1, or best:NODES[xDEPTH]"
)]
pub struct ShapeError {
    spec: String,
    why: String,
}

impl Shape {
    /// Plain decoding.
    pub const NONE: Shape = Shape::Chain(0);

    /// A chain of `gamma` nodes as a user asks for it, which is one that drafts.
    ///
    /// # Errors
    /// For 0, and for more than fit one pass.
    pub fn chain(gamma: usize) -> Result<Shape, ShapeError> {
        gamma.to_string().parse()
    }

    /// Depth of the tree, the gamma of a chain.
    pub fn depth(&self) -> usize {
        match self {
            Shape::Chain(gamma) => *gamma,
            Shape::Levels(branching) => branching.len(),
            Shape::BestFirst { depth, .. } => *depth,
        }
    }

    /// Number of nodes when nothing cuts the tree short.
    pub fn nodes(&self) -> usize {
        match self {
            Shape::Chain(gamma) => *gamma,
            Shape::Levels(branching) => branching
                .iter()
                .scan(1usize, |width, &b| {
                    *width = width.saturating_mul(b);
                    Some(*width)
                })
                .fold(0, usize::saturating_add),
            Shape::BestFirst { nodes, .. } => *nodes,
        }
    }

    /// Whether every node has at most one child by construction.
    pub fn is_chain(&self) -> bool {
        match self {
            Shape::Chain(_) => true,
            Shape::Levels(branching) => branching.iter().all(|&b| b == 1),
            Shape::BestFirst { .. } => false,
        }
    }

    /// The shape cut to `depth` levels, as near the end of the context.
    pub fn cut(&self, depth: usize) -> Shape {
        match self {
            Shape::Chain(gamma) => Shape::Chain((*gamma).min(depth)),
            Shape::Levels(b) => Shape::Levels(b[..b.len().min(depth)].to_vec()),
            Shape::BestFirst { nodes, depth: d } => Shape::BestFirst {
                nodes: *nodes,
                depth: (*d).min(depth),
            },
        }
    }
}

impl FromStr for Shape {
    type Err = ShapeError;

    fn from_str(spec: &str) -> Result<Self, ShapeError> {
        let fail = |why: String| ShapeError {
            spec: spec.to_owned(),
            why,
        };
        let number = |part: &str| match part.parse::<usize>() {
            Ok(0) => Err(fail("0 is no number of nodes".to_owned())),
            Ok(n) => Ok(n),
            Err(_) => Err(fail(format!("'{part}' is not a whole number"))),
        };
        let shape = if let Some(rest) = spec.strip_prefix("best:") {
            let (nodes, depth) = rest.split_once('x').unwrap_or((rest, "8"));
            Shape::BestFirst {
                nodes: number(nodes)?,
                depth: number(depth)?,
            }
        } else if spec.contains('x') {
            Shape::Levels(spec.split('x').map(number).collect::<Result<_, _>>()?)
        } else {
            Shape::Chain(number(spec)?)
        };
        // the last committed token takes a row of the same pass
        if shape.nodes() >= MAX_ROWS {
            return Err(fail(format!(
                "{} nodes, at most {} fit one pass",
                shape.nodes(),
                MAX_ROWS - 1
            )));
        }
        Ok(shape)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Chain(gamma) => write!(f, "{gamma}"),
            Shape::Levels(branching) => {
                let parts: Vec<String> = branching.iter().map(usize::to_string).collect();
                f.write_str(&parts.join("x"))
            }
            Shape::BestFirst { nodes, depth } => write!(f, "best:{nodes}x{depth}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_tree_is_accepted_exactly_when_parents_come_first(
            parents in proptest::collection::vec(-3i32..12, 0..12),
        ) {
            let topological = parents.iter().enumerate().all(|(n, &p)| p >= -1 && p < n as i32);
            let tree = TokenTree::new(vec![0; parents.len()], parents.clone());
            prop_assert_eq!(tree.is_ok(), topological);
            if let Ok(tree) = tree {
                let depths = tree.depths();
                for node in 0..tree.len() {
                    prop_assert_eq!(tree.path(node).len(), depths[node]);
                    prop_assert!(tree.children(tree.parent(node)).any(|n| n == node));
                }
            }
        }

        #[test]
        fn reading_a_shape_never_panics(spec in "\\PC{0,12}") {
            let _ = spec.parse::<Shape>();
        }
    }

    #[test]
    fn shapes_print_as_they_are_read() {
        for spec in ["8", "4x2x2x1", "best:24x6"] {
            assert_eq!(spec.parse::<Shape>().unwrap().to_string(), spec);
        }
        assert_eq!("4x2x2x1".parse::<Shape>().unwrap().nodes(), 4 + 8 + 16 + 16);
        for bad in [
            "",
            "0",
            "x",
            "4x",
            "4x0",
            "best:",
            "best:0",
            "9x9x9",
            "99999999999999999999",
        ] {
            assert!(bad.parse::<Shape>().is_err(), "{bad}");
        }
    }
}
