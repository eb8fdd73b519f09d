//! kernels/kv.cu

use crate::common::{Arg, Device, LEVELS, ROWS, SEEDS};
use bytemuck::Zeroable;
use gavel::device::cuda::layout::{MAX_PATH, Path, capacity};

#[derive(Clone, Copy, Debug)]
struct Shape {
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
}

const SHAPES: [Shape; 4] = [
    Shape {
        layers: 2,
        kv_heads: 2,
        head_dim: 48,
    },
    Shape {
        layers: 1,
        kv_heads: 3,
        head_dim: 64,
    },
    Shape {
        layers: 2,
        kv_heads: 1,
        head_dim: 128,
    },
    Shape {
        layers: 1,
        kv_heads: 1,
        head_dim: 144,
    },
];

/// Where an element lies, counted in elements, as layout.cuh's comment says it.
fn at(shape: Shape, capacity: usize, of: (usize, usize, usize), slot: usize, f: usize) -> usize {
    let (layer, kind, head) = of;
    let head = (layer * 2 + kind) * shape.kv_heads + head;
    let tile = (slot / 16 * (shape.head_dim / 16) + f / 16) * 256;
    let (s, f) = (slot % 16, f % 16);
    let within = match kind {
        // keys: lane 4 g + t: {features 2t, 2t+1, 2t+8, 2t+9} of slot g, then of slot 8 + g
        0 => (4 * (s % 8) + f % 8 / 2) * 8 + s / 8 * 4 + f / 8 * 2 + f % 2,
        // values: the same with slots and features in each other's place
        _ => (4 * (f % 8) + s % 8 / 2) * 8 + f / 8 * 4 + s / 8 * 2 + s % 2,
    };
    head * capacity * shape.head_dim + tile + within
}

fn check(shape: Shape, base: usize, slots: &[usize], level: u32, seed: u64) {
    let Shape {
        layers,
        kv_heads,
        head_dim,
    } = shape;
    let capacity = capacity(slots.last().map_or(base, |slot| slot + 1).max(1));
    let count = layers * 2 * kv_heads * capacity * head_dim;
    // elements that differ from their neighbours
    let before: Vec<u16> = (0..count).map(|i| (i * 40503 % 65521) as u16).collect();
    let device = Device::new("kv", level, seed);
    let cache = device.upload("cache", &before);
    let mut path = Path::zeroed();
    path.nodes = slots.len() as i32;
    path.base = base as i32;
    for (to, &slot) in path.slot.iter_mut().zip(slots) {
        *to = slot as i32;
    }
    let path = device.upload("path", &[path]);
    let args = [
        Arg::Ptr(cache),
        Arg::Ptr(path),
        Arg::I32(capacity as i32),
        Arg::I32(head_dim as i32),
    ];
    let grid = [kv_heads, 2 * layers, head_dim.div_ceil(128)];
    let counts = device.run(device.grid("kv_commit", grid, 128, 0, &args));

    let mut expected = before;
    for layer in 0..layers {
        for kind in 0..2 {
            for head in 0..kv_heads {
                for (node, &slot) in slots.iter().enumerate() {
                    for f in 0..head_dim {
                        let of = (layer, kind, head);
                        let from = expected[at(shape, capacity, of, slot, f)];
                        expected[at(shape, capacity, of, base + node, f)] = from;
                    }
                }
            }
        }
    }
    assert!(
        device.read::<u16>(cache, count) == expected,
        "{shape:?} {base} {slots:?}"
    );
    let moving = slots
        .iter()
        .enumerate()
        .filter(|(i, slot)| base + i != **slot);
    let bytes = (moving.count() * layers * 2 * kv_heads * head_dim * 2) as u64;
    let traffic = counts.memory.get("cache").cloned().unwrap_or_default();
    assert_eq!((traffic.bytes_read, traffic.bytes_written), (bytes, bytes));
}

#[test]
fn a_path_moves_to_the_committed_positions() {
    let mut random = fastrand::Rng::with_seed(3);
    for level in LEVELS {
        for rows in ROWS {
            for seed in 0..SEEDS {
                let base = random.usize(0..40);
                let mut slots = vec![base];
                // the root stays where it is; the rest are some of the rows, ascending
                slots.extend((1..rows).filter(|_| random.u8(0..3) == 0).map(|r| base + r));
                let shape = SHAPES[seed as usize % SHAPES.len()];
                check(shape, base, &slots, level, seed);
            }
        }
    }
}

#[test]
fn a_whole_chain_stays_and_an_empty_path_does_nothing() {
    for level in LEVELS {
        for shape in SHAPES {
            check(shape, 5, &(5..64).collect::<Vec<_>>(), level, 1);
            check(shape, 5, &[], level, 2);
        }
    }
}

#[test]
fn the_longest_path_moves_by_one_slot() {
    for level in LEVELS {
        for seed in 0..SEEDS {
            let slots: Vec<usize> = (0..MAX_PATH).map(|i| 8 + i).collect();
            check(SHAPES[seed as usize % 2], 7, &slots, level, seed);
        }
    }
}
