//! kernels/attention.cu: against softmax in f64, bit for bit between all ways to run a row, and its
//! traffic.

use crate::harness::{Device, Param};
use crate::ptx;
use half::bf16;
use softcuda::counts::Counts;
use softcuda::exec::{Accumulate, Options};
use softcuda::ptx::Module;

const MAX_ROWS: usize = 256;
const SPLIT: usize = 512;
const ADDERS: [Accumulate; 3] = [
    Accumulate::Sequential,
    Accumulate::Groups8,
    Accumulate::Groups16,
];

/// Row tiles of a block for which a head dimension has kernels.
fn row_warps(head_dim: usize) -> &'static [usize] {
    match head_dim {
        64 | 128 => &[1, 2, 4, 8],
        _ => &[2],
    }
}

/// Dynamic shared memory of a block, as `Shape::BYTES` has it.
fn shared_bytes(head_dim: usize, row_warps: usize) -> usize {
    let position_warps = 8 / row_warps;
    let own = (head_dim / 8).div_ceil(position_warps);
    let slots = match row_warps {
        1 => 0,
        _ if head_dim > 128 => 2,
        2 => 4,
        4 => 8,
        _ => 12,
    };
    let ring = position_warps * slots * head_dim * 32;
    let limit = match row_warps {
        _ if head_dim > 128 => 16 << 10,
        1 => 64 << 10,
        _ => 32 << 10,
    };
    let round = own.min(limit / (8 * 512 * position_warps));
    let exchange = if position_warps > 1 {
        8 * position_warps * round * 512
    } else {
        0
    };
    let q = row_warps * 16 * (head_dim * 2 + 16);
    let both = if head_dim > 128 {
        exchange + q
    } else {
        exchange.max(q)
    };
    ring + both + 8 * 16 * 8 + MAX_ROWS * 4
}

/// The widths of a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Layer {
    head_dim: usize,
    kv_heads: usize,
    group: usize,
}

/// The rows of a pass behind `committed` positions.
#[derive(Debug, Clone)]
struct Pass {
    committed: usize,
    /// What each row is: rows of two passes with the same name have the same q, key and value.
    names: Vec<u64>,
    parents: Vec<Option<usize>>,
    /// Whether rows are reached by paths; else the rows are a chain.
    paths: bool,
    /// What the positions hold that are committed.
    prefix: Vec<u64>,
}

fn named(node: usize) -> u64 {
    1 << 32 | node as u64
}

impl Pass {
    fn chain(committed: usize, rows: usize) -> Pass {
        Pass {
            committed,
            names: (0..rows).map(named).collect(),
            parents: (0..rows).map(|r| r.checked_sub(1)).collect(),
            paths: false,
            prefix: (0..committed as u64).collect(),
        }
    }

    /// A random tree, each node hung below one of the `back` nodes before it or the last position.
    fn tree(committed: usize, rows: usize, back: usize, seed: u64) -> Pass {
        let mut random = fastrand::Rng::with_seed(seed);
        let parent = |r: usize, random: &mut fastrand::Rng| {
            // the first node is a root; others are with the chance of one node
            let low = r.saturating_sub(back);
            let pick = random.usize(low..=r);
            pick.checked_sub(1).filter(|_| r > 0)
        };
        Pass {
            parents: (0..rows).map(|r| parent(r, &mut random)).collect(),
            paths: true,
            ..Pass::chain(committed, rows)
        }
    }

    /// The rows from the root to `row`.
    fn path(&self, row: usize) -> Vec<usize> {
        let mut path: Vec<usize> =
            std::iter::successors(Some(row), |&r| self.parents[r]).collect();
        path.reverse();
        path
    }

    fn position(&self, row: usize) -> usize {
        self.committed + self.path(row).len() - 1
    }

    /// What `row` sees, position by position.
    fn seen(&self, row: usize) -> Vec<u64> {
        let path = self.path(row);
        let own = path.iter().map(|&r| self.names[r]);
        self.prefix.iter().copied().chain(own).collect()
    }

    /// The pass of `rows` rows that ends with `row`, what comes before them being committed.
    fn plain(&self, row: usize, rows: usize) -> Pass {
        let seen = self.seen(row);
        let committed = seen.len() - rows;
        Pass {
            committed,
            names: seen[committed..].to_vec(),
            parents: (0..rows).map(|r| r.checked_sub(1)).collect(),
            paths: false,
            prefix: seen[..committed].to_vec(),
        }
    }
}

/// The vector of a thing with a name, in bf16: `kind` 0 is a key, 1 a value, from 2 on q.
fn vector(layer: Layer, kind: usize, head: usize, name: u64) -> Vec<bf16> {
    let seed = name
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add((kind * 64 + head) as u64)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mut random = fastrand::Rng::with_seed(seed);
    // queries of very different length: from flat to almost one-hot
    let scale = match kind {
        0 | 1 => 2.0,
        _ => [1.0, 4.0, 12.0][random.usize(0..3)],
    };
    (0..layer.head_dim)
        .map(|_| bf16::from_f32((random.f32() - 0.5) * scale))
        .collect()
}

/// Byte of an element of a head's keys and values (layout.cuh).
fn key_at(head_dim: usize, slot: usize, feature: usize) -> usize {
    let tile = (slot / 16 * (head_dim / 16) + feature / 16) * 512;
    let lane = slot % 8 * 4 + feature % 8 / 2;
    let register = slot % 16 / 8 * 2 + feature % 16 / 8;
    tile + lane * 16 + register * 4 + feature % 2 * 2
}
fn value_at(head_dim: usize, slot: usize, feature: usize) -> usize {
    let tile = (slot / 16 * (head_dim / 16) + feature / 16) * 512;
    let lane = feature % 8 * 4 + slot % 8 / 2;
    let register = feature % 16 / 8 * 2 + slot % 16 / 8;
    tile + lane * 16 + register * 4 + slot % 2 * 2
}

/// How a pass is run.
#[derive(Debug, Clone, Default)]
struct Way {
    /// Row tiles of a block; 0 takes what the number of rows asks for.
    row_warps: usize,
    /// Blocks; 0 takes one on every multiprocessor.
    grid: u32,
    /// What stale slots of the cache hold.
    stale: u64,
    options: Options,
}

/// Output of a pass: for every row [heads * head_dim], as bits.
struct Output {
    rows: Vec<Vec<u16>>,
    counts: Counts,
}

fn run(device: &mut Device, module: &Module, layer: Layer, pass: &Pass, way: &Way) -> Output {
    let Layer {
        head_dim,
        kv_heads,
        group,
    } = layer;
    let rows = pass.names.len();
    device.options = way.options.clone();
    let slots = pass.committed + rows;
    let tiles = slots.div_ceil(16) + 1;
    let head_bytes = tiles * head_dim * 32;
    let mut cache = [vec![0u16; kv_heads * head_bytes / 2], Vec::new()];
    cache[1] = cache[0].clone();
    for head in 0..kv_heads {
        for slot in 0..tiles * 16 {
            let name = match slot {
                s if s < pass.committed => pass.prefix[s],
                s if s < slots => pass.names[s - pass.committed],
                s => (2 + way.stale) << 40 | s as u64,
            };
            for (kind, at) in [key_at, value_at].iter().enumerate() {
                for (f, v) in vector(layer, kind, head, name).iter().enumerate() {
                    cache[kind][(head * head_bytes + at(head_dim, slot, f)) / 2] = v.to_bits();
                }
            }
        }
    }

    let heads = kv_heads * group;
    let mut words = vec![0i32; 4 + 3 * MAX_ROWS];
    let shared = pass.committed + if pass.paths { 0 } else { rows };
    words[..3].copy_from_slice(&[rows as i32, pass.committed as i32, shared as i32]);
    let mut path = Vec::new();
    for row in 0..rows {
        words[4 + MAX_ROWS + row] = pass.position(row) as i32;
        if pass.paths {
            words[4 + 2 * MAX_ROWS + row] = path.len() as i32;
            let slots = pass.path(row).into_iter().map(|r| pass.committed + r);
            path.extend(slots.map(|s| s as i32));
        }
    }

    let head_rows = MAX_ROWS * group;
    let q = device.empty("q", kv_heads * head_rows * head_dim * 2);
    for head in 0..heads {
        for row in 0..rows {
            let at = head / group * head_rows + row * group + head % group;
            let data: Vec<u16> = vector(layer, 2, head, pass.names[row])
                .iter()
                .map(|v| v.to_bits())
                .collect();
            let to = q + (at * head_dim * 2) as u64;
            device
                .memory
                .write(to, bytemuck::cast_slice(&data))
                .expect("a write");
        }
    }
    let row_tiles = (rows * group).div_ceil(16);
    let row_warps = match way.row_warps {
        0 => *row_warps(head_dim)
            .iter()
            .find(|&&w| w >= row_tiles)
            .unwrap_or(row_warps(head_dim).last().expect("a kernel")),
        w => w,
    };
    let groups = row_tiles.div_ceil(row_warps);
    let splits = (0..rows).map(|r| pass.position(r) / SPLIT + 1).max();
    let splits = splits.expect("rows");
    let pairs = (heads * head_dim).div_ceil(32);
    let out_bytes = rows.div_ceil(8) * pairs * 512;

    let cache_keys = device.upload("cache", &cache[0]);
    let cache_values = device.upload("cache", &cache[1]);
    let out = device.upload("out", &vec![0u8; out_bytes]);
    let rows_at = device.upload("rows", &words);
    let path_at = device.upload("rows", &path);
    let record = head_dim * 64 + 128;
    let partials = device.empty("partials", groups * kv_heads * splits * row_warps * record);
    let arrived = device.upload("arrived", &vec![0i32; groups * kv_heads]);
    let scale = std::f32::consts::LOG2_E / (head_dim as f32).sqrt();
    let params = [
        Param::Ptr(out),
        Param::Ptr(q),
        Param::Ptr(cache_keys),
        Param::Ptr(cache_values),
        Param::Ptr(rows_at),
        Param::Ptr(path_at),
        Param::Ptr(partials),
        Param::Ptr(arrived),
        Param::I32(kv_heads as i32),
        Param::I32(group as i32),
        Param::I32(tiles as i32),
        Param::I32(0),
        Param::I32(groups as i32),
        Param::F32(scale),
    ];
    let counts = device.run(
        module,
        &format!("attention_{head_dim}_{row_warps}"),
        match way.grid {
            0 => device.model.multiprocessors,
            n => n,
        },
        256,
        shared_bytes(head_dim, row_warps) as u32,
        &params,
    );
    let left: Vec<i32> = device.download(arrived, groups * kv_heads);
    assert!(left.iter().all(|&n| n == 0), "counters are back at zero");
    let bits: Vec<u16> = device.download(out, out_bytes / 2);
    for address in [
        q, cache_keys, cache_values, out, rows_at, path_at, partials, arrived,
    ] {
        device.memory.free(address).expect("free");
    }
    // B order: (group, pair, lane, {b0, b1} of the even k-tile, {b0, b1} of the odd one)
    let element = |row: usize, feature: usize| {
        let lane = row % 8 * 4 + feature % 8 / 2;
        let at = (row / 8 * pairs + feature / 32) * 256 + lane * 8;
        bits[at + feature % 32 / 16 * 4 + feature % 16 / 8 * 2 + feature % 2]
    };
    Output {
        rows: (0..rows)
            .map(|row| (0..heads * head_dim).map(|f| element(row, f)).collect())
            .collect(),
        counts,
    }
}

/// Attention of one head in f64, weights rounded to bf16 where the kernel rounds them: relative
/// to the largest score of the sub-split (64 positions) so far.
fn definition(layer: Layer, pass: &Pass, row: usize, head: usize) -> Vec<f64> {
    let kv_head = head / layer.group;
    let wide = |v: Vec<bf16>| v.iter().map(|x| x.to_f64()).collect::<Vec<f64>>();
    let q = wide(vector(layer, 2, head, pass.names[row]));
    let scale = std::f64::consts::LOG2_E / (layer.head_dim as f64).sqrt();
    let (mut top, mut sum, mut out) = (f64::NEG_INFINITY, 0.0, vec![0.0; layer.head_dim]);
    for part in pass.seen(row).chunks(64) {
        let (mut part_top, mut part_sum) = (f64::NEG_INFINITY, 0.0);
        let mut part_out = vec![0.0; layer.head_dim];
        for tile in part.chunks(16) {
            let score = |name: u64| {
                let k = wide(vector(layer, 0, kv_head, name));
                q.iter().zip(&k).map(|(a, b)| a * b).sum::<f64>() * scale
            };
            let scores: Vec<f64> = tile.iter().map(|&name| score(name)).collect();
            let most = scores.iter().copied().fold(part_top, f64::max);
            let keep = (part_top - most).exp2();
            part_sum *= keep;
            part_out.iter_mut().for_each(|o| *o *= keep);
            part_top = most;
            for (s, &name) in scores.iter().zip(tile) {
                let weight = (s - most).exp2();
                part_sum += weight;
                let rounded = bf16::from_f64(weight).to_f64();
                let v = wide(vector(layer, 1, kv_head, name));
                part_out
                    .iter_mut()
                    .zip(&v)
                    .for_each(|(o, v)| *o += rounded * v);
            }
        }
        let most = part_top.max(top);
        let (keep, add) = ((top - most).exp2(), (part_top - most).exp2());
        sum = sum * keep + part_sum * add;
        out.iter_mut()
            .zip(&part_out)
            .for_each(|(o, p)| *o = *o * keep + p * add);
        top = most;
    }
    out.iter().map(|o| o / sum).collect()
}

fn check_definition(layer: Layer, pass: &Pass, output: &Output, rows: &[usize], what: &str) {
    for &row in rows {
        for head in 0..layer.kv_heads * layer.group {
            let expected = definition(layer, pass, row, head);
            let found = &output.rows[row][head * layer.head_dim..][..layer.head_dim];
            for (f, (&bits, e)) in found.iter().zip(&expected).enumerate() {
                let found = bf16::from_bits(bits).to_f64();
                // half an ulp of bf16 for the output, a little for weights at the edge of rounding
                assert!(
                    (found - e).abs() <= e.abs() / 256.0 + 1e-3,
                    "{what}: row {row} head {head} feature {f}: found {found}, expected {e}"
                );
            }
        }
    }
}

#[test]
fn attention_is_softmax_of_q_k_times_v() {
    let mut random = fastrand::Rng::with_seed(5);
    let mut device = Device::tiny();
    let modules = ["compute_80", "compute_90"].map(|arch| device.load(&ptx::of("attention", arch)));
    let mut case = 0;
    for head_dim in [64, 128, 48] {
        for (i, rows) in [1, 2, 7, 8, 9, 33, 64, 200].into_iter().enumerate() {
            let contexts = [0, 15, 16, 17, 500, 513, 1500];
            let layer = Layer {
                head_dim,
                kv_heads: if rows > 33 { 1 } else { 2 },
                group: [1, 3, 4, 7][random.usize(0..4)],
            };
            for tree in [false, true] {
                case += 1;
                let committed = contexts[(case + i) % 7];
                let pass = match tree {
                    true => Pass::tree(committed, rows, [2, 8, 1000][case % 3], case as u64),
                    false => Pass::chain(committed, rows),
                };
                let way = Way {
                    options: Options {
                        seed: case as u64,
                        accumulate: ADDERS[case % 3],
                        approx_seed: Some(case as u64),
                        ..Options::default()
                    },
                    ..Way::default()
                };
                let output = run(&mut device, &modules[case % 2], layer, &pass, &way);
                let checked = [0, rows / 2, random.usize(0..rows), rows - 1];
                let what = format!("{layer:?} {rows} rows, {committed} committed, tree {tree}");
                check_definition(layer, &pass, &output, &checked, &what);
            }
        }
    }
}

#[test]
fn repro() {
    let mut device = Device::tiny();
    let module = device.load(&ptx::of("attention", "compute_80"));
    for case in 0..40 {
        let layer = Layer { head_dim: 64, kv_heads: 2, group: 1 };
        let way = Way { options: Options { seed: case, ..Options::default() }, ..Way::default() };
        eprintln!("case {case}");
        run(&mut device, &module, layer, &Pass::chain(600, 1), &way);
    }
}
