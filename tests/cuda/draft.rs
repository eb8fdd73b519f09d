//! kernels/draft.cu against its definition: a tree grown level by level, its laws and its draws.

use crate::common::{Arg, Device, LEVELS};
use crate::verify::{logits, upload_rows};
use bytemuck::Zeroable;
use gavel::device::cuda::layout::Best;
use gavel::device::cuda::verify::{
    Growing, Law, Level, MAX_NODES, Sampling, Stream, Teams, order_key,
};
use gavel::tree::TokenTree;
use gavel::verify::{self as reference, Philox, Remaining, Site};
use softcuda::exec::launch;

/// The best `count` tokens, best first, of equals the lowest id first.
fn best(row: &[f32], count: usize) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..row.len() as u32).collect();
    ids.sort_by(|&a, &b| {
        let (x, y) = (row[a as usize], row[b as usize]);
        y.partial_cmp(&x).expect("no NaN").then(a.cmp(&b))
    });
    ids.truncate(count);
    ids
}

/// The tree that a drafter of these logits grows, and the laws of its rows.
fn grow(
    rows: &[f32],
    width: usize,
    branching: &[usize],
    sampling: Option<&reference::Sampling>,
    philox: &Philox,
) -> (TokenTree, Vec<reference::Law>) {
    let mut tree = TokenTree::default();
    let mut laws = Vec::new();
    let mut level = vec![None];
    for &children in branching {
        let mut below = Vec::new();
        for &parent in &level {
            let row = parent.map_or(0, |n: usize| n + 1);
            let z = &rows[row * width..][..width];
            let chosen = match sampling {
                None => best(z, children),
                Some(sampling) => {
                    let law = reference::Law::new(z, width, sampling).expect("a law");
                    let mut left = Remaining::new(&law);
                    let mut drawn = Vec::new();
                    while drawn.len() < children
                        && let Some(token) = left.draw(philox.word(Site::child(row, drawn.len())))
                    {
                        left.remove(token);
                        drawn.push(token);
                    }
                    laws.push(law);
                    drawn
                }
            };
            below.extend(chosen.into_iter().map(|t| Some(tree.push(parent, t))));
        }
        level = below;
    }
    (tree, laws)
}

/// Whether two laws give every token the same weight.
fn same(law: &Law, expected: &reference::Law, z: &[f32]) -> bool {
    let kept = |id: usize| {
        let key = order_key(z[id]);
        key > law.key || (key == law.key && id as i32 <= law.id)
    };
    let whole = |id: usize| match law.only {
        only if only >= 0 => only as usize == id,
        _ => kept(id) && reference::math::exp((z[id] - law.max) / law.temperature) > 2e-12,
    };
    let near = |id: usize| expected.weight(id as u32) > 2;
    law.total == expected.total() && (0..z.len()).all(|id| !near(id) || whole(id))
}

/// What a test varies.
struct Setting {
    width: usize,
    branching: &'static [usize],
    /// None: the best children.
    sampling: Option<reference::Sampling>,
    /// Levels that there is room for.
    depth: usize,
    /// Bests of parts of the rows are given.
    parts: usize,
    teams: usize,
}

fn check(setting: &Setting, level: u32, seed: u64) {
    let Setting {
        width, branching, ..
    } = *setting;
    let mut random = fastrand::Rng::with_seed(seed);
    let most: usize = branching
        .iter()
        .scan(1, |rows, b| {
            *rows *= b;
            Some(*rows)
        })
        .sum();
    let rows: Vec<f32> = (0..=most)
        .flat_map(|_| logits(&mut random, width))
        .collect();
    let philox = Philox::new(random.u64(..), 3).at_step(5);
    let cut = &branching[..branching.len().min(setting.depth)];
    let (tree, laws) = grow(&rows, width, cut, setting.sampling.as_ref(), &philox);

    let device = Device::new("draft", level, seed);
    let mut growing = Growing::zeroed();
    growing.rows = 1;
    growing.depth = setting.depth as i32;
    growing.failed_row = -1;
    let growing = device.upload("growing", &[growing]);
    let stride = width.next_multiple_of(8);
    let at = upload_rows(&device, "logits", &rows, width, stride);
    let bests = (setting.parts > 0).then(|| {
        let of_row = rows.chunks(width).flat_map(|row| {
            let part = width.div_ceil(setting.parts);
            (0..setting.parts).map(move |p| best_of(row, p * part, (p + 1) * part))
        });
        device.upload("best", &of_row.collect::<Vec<Best>>())
    });
    let stream = device.upload(
        "stream",
        &[Stream {
            seed: philox.seed,
            sequence: philox.sequence,
            step: philox.step,
        }],
    );
    let laws_at = device.empty("laws", size_of::<Law>() * (MAX_NODES + 1));
    let chosen = device.empty("chosen", 4 * (MAX_NODES + 1) * (MAX_NODES + 1));
    let sms = device.model.multiprocessors as usize;
    let teams = Teams::of(setting.teams, width, sms, 96 << 10);
    let workspace = device.upload("workspace", &vec![0u8; teams.teams * teams.workspace]);
    for (depth, &children) in branching.iter().enumerate() {
        let level = device.upload(
            "level",
            &[Level {
                growing,
                logits: at,
                best: bests.unwrap_or(0),
                laws: match setting.sampling {
                    Some(_) => laws_at,
                    None => 0,
                },
                stream,
                chosen,
                chosen_score: 0,
                keep: 0,
                last: 0,
                sequence: 0,
                draft_rows: 0,
                draft_paths: 0,
                rows: 0,
                paths: 0,
                sampling: Sampling::of(&setting.sampling.unwrap_or_default()),
                width: width as i32,
                stride: stride as i32,
                parts: setting.parts as i32,
                depth: depth as i32,
                children: children as i32,
            }],
        );
        let args = [
            Arg::Ptr(level),
            Arg::I32(teams.size as i32),
            Arg::Ptr(workspace),
            Arg::Ptr(teams.workspace as u64),
            Arg::I32(teams.slots as i32),
        ];
        let blocks = [teams.blocks(), 1, 1];
        let mut grid = device.grid("draft", blocks, 256, teams.shared_bytes(), &args);
        grid.cooperative = true;
        if let Err(violation) = launch(&device.memory, device.model, &device.options, &[grid]) {
            panic!("seed {seed}: {violation}");
        }
    }
    let found: Growing = device.read(growing, 1)[0];
    let nodes = found.tree.nodes as usize;
    let what = format!("{branching:?} of {width}, seed {seed}");
    let tokens: Vec<i32> = tree.tokens().iter().map(|&t| t as i32).collect();
    assert_eq!(&found.tree.token[..nodes], &tokens[..], "{what}");
    assert_eq!(&found.tree.parent[..nodes], tree.parents(), "{what}");
    assert_eq!((found.failed_row, found.arrived), (-1, 0), "{what}");
    let device_laws: Vec<Law> = match laws.len() {
        0 => Vec::new(),
        some => device.read(laws_at, some),
    };
    for (row, (law, expected)) in device_laws.iter().zip(&laws).enumerate() {
        let z = &rows[row * width..][..width];
        assert!(
            same(law, expected, z),
            "{what}, row {row}: {law:?}, expected {expected:?}"
        );
    }
}

/// The best two of a part of a row.
fn best_of(row: &[f32], from: usize, to: usize) -> Best {
    let mut ids: Vec<usize> = (from.min(row.len())..to.min(row.len())).collect();
    ids.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
    let at = |i: usize| match ids.get(i) {
        Some(&id) => (row[id], id as i32),
        None => (f32::NEG_INFINITY, i32::MAX),
    };
    let ((value, token), (second, second_token)) = (at(0), at(1));
    Best {
        value,
        token,
        second,
        second_token,
    }
}

#[test]
fn trees_are_drafted_as_by_the_reference() {
    const SHAPES: [&[usize]; 5] = [&[1, 1, 1, 1], &[4, 2, 2, 1], &[1], &[7, 3], &[2, 2, 2]];
    let sampling = |temperature, top_k, top_p| reference::Sampling {
        temperature,
        top_k,
        top_p,
    };
    let samplings = [
        None,
        Some(reference::Sampling::at(1.0)),
        None,
        Some(sampling(0.7, 3, 1.0)),
        Some(sampling(1.3, 0, 0.8)),
        Some(reference::Sampling::GREEDY),
        Some(sampling(0.9, 40, 0.6)),
    ];
    for seed in 0..140 {
        let setting = Setting {
            width: [3, 40, 300, 2048, 129, 1000][seed as usize % 6],
            branching: SHAPES[seed as usize % 5],
            sampling: samplings[seed as usize % 7],
            depth: [9, 9, 2, 9, 0][seed as usize / 7 % 5],
            parts: [0, 1, 5][seed as usize % 3],
            teams: [1, 2, 4][seed as usize / 3 % 3],
        };
        check(&setting, LEVELS[seed as usize % 2], seed);
    }
}

#[test]
fn large_vocabularies_are_drafted_as_by_the_reference() {
    for (seed, sampling) in [
        None,
        Some(reference::Sampling::at(1.0)),
        Some(reference::Sampling {
            temperature: 0.8,
            top_k: 50,
            top_p: 0.9,
        }),
    ]
    .into_iter()
    .enumerate()
    {
        let setting = Setting {
            width: [128_256, 151_936, 32_000][seed],
            branching: &[3, 1],
            sampling,
            depth: 9,
            parts: 0,
            teams: 1,
        };
        check(&setting, LEVELS[seed % 2], seed as u64);
    }
}
