//! kernels/ngram.cu against src/draft/ngram.rs: the tree, and the target's rows for it.

use crate::common::{Arg, Device, LEVELS};
use bytemuck::Zeroable;
use gavel::device::cuda::layout::{MAX_ROWS, Rows};
use gavel::device::cuda::verify::{Growing, Lookup, MAX_DEPTH, Sequence};
use gavel::draft::Ngram;
use gavel::tree::Shape;
use softcuda::exec::launch;

/// Looks up what followed in `history`, with room for `depth` levels; the number of nodes.
fn check(history: &[u32], shape: &Shape, depth: usize, level: u32, seed: u64) -> usize {
    let ngram = Ngram::default();
    let tree = ngram.propose(history, &shape.cut(depth));

    let device = Device::new("ngram", level, seed);
    let mut growing = Growing::zeroed();
    growing.depth = depth as i32;
    let growing = device.upload("growing", &[growing]);
    let mut sequence = Sequence::zeroed();
    sequence.length = history.len() as i32;
    sequence.history = device.upload("history", history);
    let rows = device.upload("rows", &[Rows::zeroed()]);
    let paths = device.upload("paths", &[0i32; MAX_ROWS * (MAX_DEPTH + 1)]);
    let mut lookup = Lookup::zeroed();
    lookup.sequence = device.upload("sequence", &[sequence]);
    lookup.growing = growing;
    lookup.rows = rows;
    lookup.paths = paths;
    (lookup.shortest, lookup.longest) = (ngram.shortest as i32, ngram.longest as i32);
    lookup.depth = shape.depth() as i32;
    match shape {
        Shape::Chain(_) => lookup.children.fill(1),
        Shape::Levels(levels) => {
            for (to, &children) in lookup.children.iter_mut().zip(levels) {
                *to = children as i32;
            }
        }
        Shape::BestFirst { nodes, .. } => lookup.most = *nodes as i32,
    }
    let lookup = device.upload("lookup", &[lookup]);
    let grid = device.grid("ngram", [1, 1, 1], 512, 0, &[Arg::Ptr(lookup)]);
    if let Err(violation) = launch(&device.memory, device.model, &device.options, &[grid]) {
        panic!("seed {seed}: {violation}");
    }

    let what = format!("{shape}, room for {depth} levels, seed {seed}");
    let found: Growing = device.read(growing, 1)[0];
    let nodes = found.tree.nodes as usize;
    let tokens: Vec<i32> = tree.tokens().iter().map(|&t| t as i32).collect();
    assert_eq!(&found.tree.token[..nodes], &tokens[..], "{what}");
    assert_eq!(&found.tree.parent[..nodes], tree.parents(), "{what}");

    // the root and the nodes, each with the slots of its own branch
    let found: Rows = device.read(rows, 1)[0];
    let (length, base) = (history.len(), history.len() as i32 - 1);
    assert_eq!((found.rows, found.base), (1 + nodes as i32, base), "{what}");
    assert_eq!(found.token[0], history[length - 1] as i32, "{what}");
    assert_eq!(&found.token[1..][..nodes], &tokens[..], "{what}");
    let slots: Vec<i32> = device.read(paths, MAX_ROWS * (MAX_DEPTH + 1));
    for (node, depth) in tree.depths().into_iter().enumerate() {
        assert_eq!(found.position[node + 1], base + depth as i32, "{what}");
        if !tree.is_chain() {
            let branch: Vec<i32> = tree
                .path(node)
                .iter()
                .map(|&n| (length + n) as i32)
                .collect();
            let at = found.path_at[node + 1] as usize;
            assert_eq!(slots[at..][..depth], branch, "{what}, node {node}");
        }
    }
    nodes
}

#[test]
fn trees_of_any_size_are_those_of_the_reference() {
    const SHAPES: [&str; 8] = [
        "1",
        "9",
        "63",
        "2x2x1",
        "4x4x4x2",
        "8x4x2x1x1",
        "best:24x6",
        "best:255x20",
    ];
    let mut most = 0;
    for seed in 0..64 {
        let mut random = fastrand::Rng::with_seed(seed);
        // few letters repeat themselves soon, many seldom
        let letters = [2, 3, 5, 40][seed as usize % 4];
        let length = random.usize(1..600);
        let history: Vec<u32> = (0..length).map(|_| random.u32(0..letters)).collect();
        let shape = SHAPES[seed as usize / 4 % 8].parse().expect("a shape");
        let depth = if random.bool() {
            MAX_DEPTH
        } else {
            random.usize(1..9)
        };
        most = most.max(check(
            &history,
            &shape,
            depth,
            LEVELS[seed as usize % 2],
            seed,
        ));
    }
    assert!(most > 200, "{most} nodes");
}
