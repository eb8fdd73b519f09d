//! kernels/attention.cu: against softmax in f64, bit for bit between all ways to run a row, and its
//! traffic.

use crate::common::{Arg, Device, LEVELS};
use gavel::device::cuda::layout::MAX_ROWS;
use gavel::device::cuda::{attention_shared_bytes, choose_row_tiles, row_tiles};
use half::f16;
use softcuda::counts::Counts;
use softcuda::exec::{Accumulate, Options};

const SPLIT: usize = 512;
const ADDERS: [Accumulate; 3] = [
    Accumulate::Sequential,
    Accumulate::Groups8,
    Accumulate::Groups16,
];

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
        let mut path: Vec<usize> = std::iter::successors(Some(row), |&r| self.parents[r]).collect();
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

/// The vector of a thing with a name, in f16: `kind` 0 is a key, 1 a value, from 2 on q.
fn vector(layer: Layer, kind: usize, head: usize, name: u64) -> Vec<f16> {
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
        .map(|_| f16::from_f32((random.f32() - 0.5) * scale))
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
    row_tiles: usize,
    /// Blocks; 0 takes one on every multiprocessor.
    grid: u32,
    /// What stale slots of the cache hold.
    stale: u64,
    options: Options,
}

/// Output of a pass: for every row [heads * head_dim], as bits.
#[derive(Clone)]
struct Output {
    rows: Vec<Vec<u16>>,
    counts: Counts,
}

fn run(device: &mut Device, layer: Layer, pass: &Pass, way: &Way) -> Output {
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
    let tiles_of_rows = (rows * group).div_ceil(16);
    let row_tiles = match way.row_tiles {
        0 => {
            let shared = device.model.shared_per_block_optin as usize;
            choose_row_tiles(head_dim, tiles_of_rows, shared, (1, 0)).expect("a kernel")
        }
        n => n,
    };
    let groups = tiles_of_rows.div_ceil(row_tiles);
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
    let partials = device.empty("partials", groups * kv_heads * splits * row_tiles * record);
    // a group may be cut in two
    let arrived = device.upload("arrived", &vec![0i32; 2 * groups * kv_heads]);
    let scale = std::f32::consts::LOG2_E / (head_dim as f32).sqrt();
    let params = [
        Arg::Ptr(out),
        Arg::Ptr(q),
        Arg::Ptr(cache_keys),
        Arg::Ptr(cache_values),
        Arg::Ptr(rows_at),
        Arg::Ptr(path_at),
        Arg::Ptr(partials),
        Arg::Ptr(arrived),
        Arg::I32(kv_heads as i32),
        Arg::I32(group as i32),
        Arg::I32(tiles as i32),
        Arg::I32(0),
        Arg::I32(groups as i32),
        Arg::F32(scale),
    ];
    let blocks = match way.grid {
        0 => device.model.multiprocessors,
        n => n,
    };
    let counts = device.run(device.grid(
        &format!("attention_{head_dim}_{row_tiles}"),
        [blocks as usize, 1, 1],
        256,
        attention_shared_bytes(head_dim, row_tiles),
        &params,
    ));
    let left: Vec<i32> = device.read(arrived, 2 * groups * kv_heads);
    assert!(left.iter().all(|&n| n == 0), "counters are back at zero");
    let bits: Vec<u16> = device.read(out, out_bytes / 2);
    for address in [
        q,
        cache_keys,
        cache_values,
        out,
        rows_at,
        path_at,
        partials,
        arrived,
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

/// Attention of one head in f64, weights rounded to f16 where the kernel rounds them: relative
/// to the largest score of the sub-split (64 positions) so far.
fn definition(layer: Layer, pass: &Pass, row: usize, head: usize) -> Vec<f64> {
    let kv_head = head / layer.group;
    let wide = |v: Vec<f16>| v.iter().map(|x| x.to_f64()).collect::<Vec<f64>>();
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
                let rounded = f16::from_f64(weight).to_f64();
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
                let found = f16::from_bits(bits).to_f64();
                // half an ulp of f16 for the output, a little for weights at the edge of rounding
                assert!(
                    (found - e).abs() <= e.abs() / 2048.0 + 2e-4,
                    "{what}: row {row} head {head} feature {f}: found {found}, expected {e}"
                );
            }
        }
    }
}

#[test]
fn attention_is_softmax_of_q_k_times_v() {
    let mut random = fastrand::Rng::with_seed(5);
    let mut devices = LEVELS.map(|level| Device::new("attention", level, 0));
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
                let output = run(&mut devices[case % 2], layer, &pass, &way);
                let checked = [0, rows / 2, random.usize(0..rows), rows - 1];
                let what = format!("{layer:?} {rows} rows, {committed} committed, tree {tree}");
                check_definition(layer, &pass, &output, &checked, &what);
            }
        }
    }
}

/// Shapes and passes on which all ways to run a row are compared.
fn passes() -> Vec<(Layer, Pass)> {
    let layer = |head_dim, kv_heads, group| Layer {
        head_dim,
        kv_heads,
        group,
    };
    vec![
        // the tree crosses the edge of a split, and a row's heads that of a tile
        (layer(128, 1, 3), Pass::tree(505, 23, 3, 1)),
        (layer(64, 2, 4), Pass::tree(500, 40, 2, 2)),
        (layer(64, 1, 7), Pass::tree(1100, 20, 1000, 3)),
        (layer(128, 2, 1), Pass::tree(30, 70, 5, 4)),
        (layer(128, 1, 4), Pass::tree(0, 17, 4, 5)),
        (layer(128, 1, 4), Pass::tree(490, 36, 3, 7)),
        (layer(48, 1, 4), Pass::tree(510, 9, 4, 6)),
    ]
}

fn same(a: &[u16], b: &[u16], what: &str) {
    let different = a.iter().zip(b).filter(|(a, b)| a != b).count();
    assert!(
        a.len() == b.len() && different == 0,
        "{what}: {different} of {} differ",
        a.len()
    );
}

#[test]
fn a_row_has_the_same_bits_alone_in_a_chain_and_in_a_tree_on_any_grid() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut devices = LEVELS.map(|level| Device::new("attention", level, 0));
    for (i, (layer, tree)) in passes().into_iter().enumerate() {
        let device = &mut devices[i % 2];
        for accumulate in ADDERS {
            let options = Options {
                accumulate,
                approx_seed: Some(i as u64),
                ..Options::default()
            };
            let way = Way {
                options,
                ..Way::default()
            };
            let rows = tree.names.len();
            let first = run(device, layer, &tree, &way);
            check_definition(layer, &tree, &first, &[0, rows - 1], &format!("{layer:?}"));
            // 16 row tiles whole, and cut in two for many blocks
            let ways = [(1, 1), (2, 7), (4, 3), (8, 64), (16, 1), (16, 64)];
            let known = row_tiles(layer.head_dim);
            let ways = ways.into_iter().filter(|(n, _)| known.contains(n));
            for (j, (row_tiles, grid)) in ways.enumerate() {
                let way = Way {
                    row_tiles,
                    grid,
                    stale: 1 + j as u64,
                    ..way.clone()
                };
                let again = run(device, layer, &tree, &way);
                for row in 0..rows {
                    let what = format!("{layer:?} {way:?} row {row}");
                    same(&first.rows[row], &again.rows[row], &what);
                }
                // the path to a row as a chain, and the row alone
                let row = random.usize(0..rows);
                let depth = tree.path(row).len();
                for chain in [1, 2, depth, depth + 5] {
                    let chain = chain.min(tree.position(row) + 1);
                    let plain = tree.plain(row, chain);
                    let alone = run(device, layer, &plain, &way);
                    let what = format!("{layer:?} {way:?} row {row} in a chain of {chain}");
                    same(&first.rows[row], alone.rows.last().expect("a row"), &what);
                }
            }
        }
    }
}

#[test]
fn orders_of_warps_and_blocks_move_no_bit() {
    let mut devices = LEVELS.map(|level| Device::new("attention", level, 0));
    for (i, (layer, tree)) in passes().into_iter().enumerate().take(4) {
        let device = &mut devices[i % 2];
        let known = row_tiles(layer.head_dim);
        let mut first: Option<Output> = None;
        for seed in 0..20 {
            let way = Way {
                row_tiles: known[seed % known.len()],
                grid: [4, 8, 5][seed % 3],
                stale: seed as u64,
                options: Options {
                    seed: seed as u64,
                    ..Options::default()
                },
            };
            let found = run(device, layer, &tree, &way);
            let first = first.get_or_insert_with(|| found.clone());
            for row in 0..tree.names.len() {
                let what = format!("{layer:?} {way:?} row {row}");
                same(&first.rows[row], &found.rows[row], &what);
            }
        }
    }
}

#[test]
fn seldom_head_dimensions_and_wide_groups_work() {
    let mut device = Device::new("attention", 80, 0);
    for (i, head_dim) in [16, 32, 80, 96, 112, 160].into_iter().enumerate() {
        let layer = Layer {
            head_dim,
            kv_heads: 1,
            group: [2, 16, 3, 20, 5, 1][i],
        };
        let tree = Pass::tree(500, 19, 3, i as u64);
        let found = run(&mut device, layer, &tree, &Way::default());
        check_definition(layer, &tree, &found, &[0, 9, 18], &format!("{layer:?}"));
        for row in [0, 9, 18] {
            let plain = tree.plain(row, 1);
            let alone = run(&mut device, layer, &plain, &Way::default());
            same(
                &found.rows[row],
                &alone.rows[0],
                &format!("{layer:?} {row}"),
            );
        }
    }
}

/// Of the device whose budget is checked, an H100.
const MULTIPROCESSORS: u32 = 132;

/// What a pass of a chain may cost: (rows, context), times the cache is read.
fn check_budget(layer: Layer, rows: usize, context: usize) -> Counts {
    let mut device = Device::new("attention", 80, 0);
    let pass = Pass::chain(context - rows, rows);
    let way = Way {
        grid: MULTIPROCESSORS,
        ..Way::default()
    };
    let Output { counts, .. } = run(&mut device, layer, &pass, &way);
    let row_tiles = (rows * layer.group).div_ceil(16);
    let splits = context.div_ceil(SPLIT);
    // 16 row tiles share what they read, unless there is a block for each half of them
    let items = row_tiles.div_ceil(16) * layer.kv_heads * splits;
    let together = if 2 * items <= MULTIPROCESSORS as usize {
        8
    } else {
        16
    };
    let groups = row_tiles.div_ceil(together);
    let width = layer.head_dim * layer.kv_heads;
    let traffic = |label: &str| counts.memory.get(label).cloned().unwrap_or_default();

    // keys and values
    let cache = traffic("cache");
    let once = (context.next_multiple_of(16) * width * 4 / 32) as u64;
    assert_eq!(cache.unique_sectors, once, "{rows} rows, {context}");
    // the first group of rows may not see the last positions
    assert!(
        cache.sectors <= groups as u64 * once,
        "{rows} rows, {context}"
    );
    assert_eq!(cache.bytes_read, cache.sectors * 32);
    // q by every split
    let q = traffic("q");
    assert!(q.bytes_read <= (rows * layer.group * width * 2 * splits) as u64);
    assert_eq!(q.sectors * 32, q.bytes_read);
    let out = traffic("out");
    assert_eq!(out.bytes_written, (rows * layer.group * width * 2) as u64);
    // a partial is written and read where there is more than one split
    let partials = traffic("partials");
    let records = (row_tiles * layer.kv_heads * splits * (layer.head_dim * 64 + 128)) as u64;
    let records = if splits > 1 { records } else { 0 };
    assert_eq!(partials.bytes_written, records);
    assert!(partials.unique_sectors * 32 <= records);
    assert_eq!(counts.shared_conflicts, 0, "{rows} rows, {context}");
    assert!(!counts.classes.contains_key("local"));
    // two mma for keys and two for values, a tile of 16 features and positions
    let mma: u64 = counts.mma.values().sum();
    let most = row_tiles * layer.kv_heads * context.div_ceil(16) * layer.head_dim / 4;
    assert!(mma <= most as u64, "{mma} mma, expected at most {most}");
    println!(
        "{rows} rows, context {context}: cache {} sectors ({} different), q {}, out {}, partials \
         {} written {} read, {} instructions, {} mma, {} divergent, longest warp {}",
        cache.sectors,
        cache.unique_sectors,
        q.sectors,
        out.sectors,
        partials.bytes_written,
        partials.bytes_read,
        counts.warp_instructions,
        mma,
        counts.divergent_branches,
        counts.longest_warp,
    );
    counts
}

#[test]
fn the_cache_is_read_once_without_bank_conflicts() {
    let layer = Layer {
        head_dim: 128,
        kv_heads: 8,
        group: 4,
    };
    for (rows, contexts) in [(1, [512, 1024]), (8, [512, 2048]), (64, [512, 1024])] {
        let [few, many] = contexts.map(|context| check_budget(layer, rows, context));
        // of each 16 positions and row tile, folds and partials included
        let tiles =
            (contexts[1] - contexts[0]) / 16 * layer.kv_heads * (rows * layer.group).div_ceil(16);
        let each = (many.warp_instructions - few.warp_instructions) / tiles as u64;
        println!("{each} instructions per tile");
    }
    let layer = Layer {
        head_dim: 64,
        ..layer
    };
    for rows in [1, 4, 13, 64] {
        check_budget(layer, rows, 600);
    }
}

#[test]
#[ignore = "minutes; prints counts"]
fn long_contexts_stay_within_the_budget() {
    let layer = Layer {
        head_dim: 128,
        kv_heads: 8,
        group: 4,
    };
    for (rows, context) in [(1, 8192), (8, 8192), (64, 8192), (8, 32768), (64, 32768)] {
        check_budget(layer, rows, context);
    }
}
