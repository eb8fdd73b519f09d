//! What a warp knows of other blocks: clocks by block, and grids that are complete.
//!
//! Every fence publishes all of it, and in a chain of fences and atomics the n-th knows of n blocks.
//! So it is a tree whose nodes are shared: what is published costs the path to what changed, and
//! parts that two sides share are compared by their addresses alone.

use std::ops::Range;
use std::sync::Arc;

/// Most warps of a block.
pub(super) const WARPS: usize = 32;

/// Clocks of the warps of a block. 0 means that nothing is known of a warp: its own begin at 1.
pub(super) type Clocks = [u32; WARPS];

pub(super) fn merge_clocks(into: &mut Clocks, from: &Clocks) {
    for (a, b) in into.iter_mut().zip(from) {
        *a = (*a).max(*b);
    }
}

fn clocks_cover(a: &Clocks, b: &Clocks) -> bool {
    a.iter().zip(b).all(|(a, b)| a >= b)
}

/// Children of a node, and blocks of a leaf.
const FAN: u32 = 16;

/// A node of height h has the blocks of one range of `FAN`^(h + 1).
#[derive(Debug, Clone)]
enum Node {
    Leaf([Option<Arc<Clocks>>; FAN as usize]),
    Inner([Option<Arc<Node>>; FAN as usize]),
}

impl Node {
    fn empty(height: u32) -> Node {
        if height == 0 {
            Node::Leaf(Default::default())
        } else {
            Node::Inner(Default::default())
        }
    }

    fn covers(&self, other: &Node) -> bool {
        fn all<T>(
            a: &[Option<Arc<T>>],
            b: &[Option<Arc<T>>],
            covers: impl Fn(&T, &T) -> bool,
        ) -> bool {
            a.iter().zip(b).all(|(a, b)| match (a, b) {
                (_, None) => true,
                (None, Some(_)) => false,
                (Some(a), Some(b)) => Arc::ptr_eq(a, b) || covers(a, b),
            })
        }
        match (self, other) {
            (Node::Leaf(a), Node::Leaf(b)) => all(a, b, clocks_cover),
            (Node::Inner(a), Node::Inner(b)) => all(a, b, Node::covers),
            // both have the height that they were raised to
            _ => false,
        }
    }

    /// Takes what `other`, of the same height, knows beyond this. Where one of the two knows all
    /// that the other does, its node is kept.
    fn merge(&mut self, other: &Node) {
        fn each<T: Clone>(
            into: &mut [Option<Arc<T>>],
            from: &[Option<Arc<T>>],
            covers: impl Fn(&T, &T) -> bool,
            merge: impl Fn(&mut T, &T),
        ) {
            for (a, b) in into.iter_mut().zip(from) {
                let Some(other) = b else { continue };
                match a {
                    None => *a = b.clone(),
                    Some(own) if Arc::ptr_eq(own, other) || covers(own, other) => {}
                    Some(own) if covers(other, own) => *a = b.clone(),
                    Some(own) => merge(Arc::make_mut(own), other),
                }
            }
        }
        match (self, other) {
            (Node::Leaf(a), Node::Leaf(b)) => each(a, b, clocks_cover, merge_clocks),
            (Node::Inner(a), Node::Inner(b)) => each(a, b, Node::covers, Node::merge),
            _ => {}
        }
    }
}

/// What is known of other blocks: clocks by block, and grids that are complete.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    root: Option<Arc<Node>>,
    height: u32,
    /// Grids before this one of the list are complete.
    pub complete_below: usize,
    /// And so are these, though not all before them: where one ended that did not wait for its
    /// predecessor.
    complete: Vec<Range<usize>>,
}

impl Known {
    /// Clocks of a block, if anything is known of it.
    pub fn block(&self, block: u32) -> Option<&Clocks> {
        let mut node = self.root.as_deref()?;
        let mut height = self.height;
        if u64::from(block) >= u64::from(FAN).pow(height + 1) {
            return None;
        }
        loop {
            let child = (block / FAN.pow(height) % FAN) as usize;
            match node {
                Node::Leaf(blocks) => return blocks[child].as_deref(),
                Node::Inner(nodes) => node = nodes[child].as_deref()?,
            }
            height -= 1;
        }
    }

    /// What is known of a block grows by `clocks`.
    pub fn add(&mut self, block: u32, clocks: &Clocks) {
        while u64::from(block) >= u64::from(FAN).pow(self.height + 1) {
            self.raise();
        }
        let mut height = self.height;
        let mut node = self
            .root
            .get_or_insert_with(|| Arc::new(Node::empty(height)));
        loop {
            let child = (block / FAN.pow(height) % FAN) as usize;
            match Arc::make_mut(node) {
                Node::Leaf(blocks) => {
                    match &mut blocks[child] {
                        Some(own) if clocks_cover(own, clocks) => {}
                        Some(own) => merge_clocks(Arc::make_mut(own), clocks),
                        none => *none = Some(Arc::new(*clocks)),
                    }
                    return;
                }
                Node::Inner(nodes) => {
                    height -= 1;
                    node = nodes[child].get_or_insert_with(|| Arc::new(Node::empty(height)));
                }
            }
        }
    }

    /// A root above the root.
    fn raise(&mut self) {
        self.height += 1;
        if let Some(old) = self.root.take() {
            let mut nodes: [Option<Arc<Node>>; FAN as usize] = Default::default();
            nodes[0] = Some(old);
            self.root = Some(Arc::new(Node::Inner(nodes)));
        }
    }

    fn raised(&self, height: u32) -> Known {
        let mut known = self.clone();
        while known.height < height {
            known.raise();
        }
        known
    }

    /// Whether a grid is complete.
    pub fn is_complete(&self, grid: usize) -> bool {
        grid < self.complete_below || self.complete.iter().any(|range| range.contains(&grid))
    }

    /// Whether all of `grids` are known to be complete, by what was learned of them together.
    pub fn covers_grids(&self, grids: &Range<usize>) -> bool {
        let own = |range: &Range<usize>| range.start <= grids.start && grids.end <= range.end;
        grids.end <= self.complete_below || self.complete.iter().any(own)
    }

    /// Learns that `grids` are complete.
    pub fn complete(&mut self, grids: &Range<usize>) {
        if self.covers_grids(grids) {
            return;
        }
        if grids.start <= self.complete_below {
            self.complete_below = grids.end;
        } else {
            self.complete.push(grids.clone());
        }
    }

    pub fn covers(&self, other: &Known) -> bool {
        if self.complete_below < other.complete_below
            || !other.complete.iter().all(|grids| self.covers_grids(grids))
        {
            return false;
        }
        let height = self.height.max(other.height);
        if self.height != other.height {
            return self.raised(height).covers(&other.raised(height));
        }
        match (&self.root, &other.root) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a.covers(b),
        }
    }

    pub fn merge(&mut self, other: &Known) {
        self.complete(&(0..other.complete_below));
        for grids in &other.complete {
            self.complete(grids);
        }
        while self.height < other.height {
            self.raise();
        }
        if self.height != other.height {
            return self.merge(&other.raised(self.height));
        }
        match (&mut self.root, &other.root) {
            (_, None) => {}
            (none @ None, Some(_)) => *none = other.root.clone(),
            (Some(own), Some(from)) if Arc::ptr_eq(own, from) || own.covers(from) => {}
            (Some(own), Some(from)) if from.covers(own) => *own = from.clone(),
            (Some(own), Some(from)) => Arc::make_mut(own).merge(from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Blocks close together and far apart, so that roots of several heights meet.
    fn block() -> impl Strategy<Value = u32> {
        prop_oneof![
            0..40u32,
            250..260u32,
            4090..4100u32,
            Just(u32::MAX),
            any::<u32>()
        ]
    }

    fn plain(entries: &[(u32, usize, u32)]) -> BTreeMap<u32, Clocks> {
        let mut map = BTreeMap::new();
        for &(block, warp, clock) in entries {
            let clocks = map.entry(block).or_insert([0; WARPS]);
            clocks[warp] = clock.max(clocks[warp]);
        }
        map
    }

    fn tree(entries: &[(u32, usize, u32)]) -> Known {
        let mut known = Known::default();
        for &(block, warp, clock) in entries {
            let mut clocks = [0; WARPS];
            clocks[warp] = clock;
            known.add(block, &clocks);
        }
        known
    }

    proptest! {
        /// What is known of grids is a set that grows, however it was learned.
        #[test]
        fn grids_are_a_set(
            a in prop::collection::vec((0..12usize, 0..5usize), 0..8),
            b in prop::collection::vec((0..12usize, 0..5usize), 0..8),
        ) {
            let learned = |list: &[(usize, usize)]| {
                let mut known = Known::default();
                for &(start, count) in list {
                    known.complete(&(start..start + count));
                }
                known
            };
            let holds = |list: &[(usize, usize)], grid| {
                list.iter().any(|&(start, count)| (start..start + count).contains(&grid))
            };
            let (of_a, mut of_b) = (learned(&a), learned(&b));
            for grid in 0..20 {
                prop_assert_eq!(of_a.is_complete(grid), holds(&a, grid));
                prop_assert!(!of_a.covers(&of_b) || !of_b.is_complete(grid) || of_a.is_complete(grid));
            }
            of_b.merge(&of_a);
            prop_assert!(of_b.covers(&of_a));
            for grid in 0..20 {
                prop_assert_eq!(of_b.is_complete(grid), holds(&a, grid) || holds(&b, grid));
            }
        }

        /// The tree knows what a plain map of blocks does, whatever its parts share.
        #[test]
        fn known_is_a_map(
            a in prop::collection::vec((block(), 0..WARPS, 1..5u32), 0..40),
            b in prop::collection::vec((block(), 0..WARPS, 1..5u32), 0..40),
        ) {
            let both: Vec<_> = a.iter().chain(&b).copied().collect();
            let (of_a, mut of_b) = (tree(&a), tree(&b));
            let (sum, plain_b) = (plain(&both), plain(&b));
            let b_covers = a.iter().all(|&(block, warp, clock)| {
                plain_b.get(&block).is_some_and(|clocks| clocks[warp] >= clock)
            });
            prop_assert_eq!(of_b.covers(&of_a), b_covers);
            let old = of_b.clone();
            of_b.merge(&of_a);
            prop_assert!(of_b.covers(&of_a) && of_b.covers(&old));
            for &(block, _, _) in &both {
                prop_assert_eq!(of_b.block(block), sum.get(&block));
                prop_assert_eq!(old.block(block), plain_b.get(&block));
            }
            let joined = tree(&both);
            prop_assert!(joined.covers(&of_b) && of_b.covers(&joined));
            // what is shared is compared by address: the same once more
            of_b.merge(&old);
            prop_assert!(joined.covers(&of_b) && of_b.covers(&joined));
        }
    }
}
