//! linear.cu against its scalar definition.

use crate::common::{Arg, Device, LEVELS, b_order, fragments, round};
use bytemuck::Zeroable;
use gavel::device::cuda::layout::{Best, MAX_ROWS, Order, Rows};
use gavel::device::cuda::linear::{Epilogue, Linear, kernel};
use gavel::device::cuda::plan::{Chip, Follows, Plan};
use half::f16;
use softcuda::counts::Counts;
use softcuda::exec::Accumulate;

const EPS: f32 = 1e-5;
/// Positions of the rotary table, and slots of the cache.
const POSITIONS: usize = 512;

/// What a case is about.
#[derive(Clone, Copy, Debug)]
struct Case {
    order: Order,
    columns: usize,
    epilogue: Epilogue,
    bias: bool,
    head_norm: bool,
    judge: bool,
    /// rows of the matrix that differ: row i is row i % distinct
    distinct: usize,
    /// the row of the matrix that holds a NaN
    broken: Option<usize>,
    logits_at: i32,
    /// rows that the launch is made for, where the pass has fewer
    bucket: usize,
}

impl Case {
    fn plain(rows: usize, columns: usize, epilogue: Epilogue) -> Case {
        Case {
            order: Order::Plain { rows },
            columns,
            epilogue,
            bias: false,
            head_norm: false,
            judge: false,
            distinct: usize::MAX,
            broken: None,
            logits_at: 0,
            bucket: 1,
        }
    }

    fn qkv(heads: usize, kv_heads: usize, head_dim: usize, columns: usize) -> Case {
        Case {
            order: Order::Qkv {
                heads,
                kv_heads,
                head_dim,
            },
            ..Case::plain(0, columns, Epilogue::Qkv)
        }
    }

    fn gate_up(rows: usize, columns: usize) -> Case {
        Case {
            order: Order::GateUp { rows },
            ..Case::plain(0, columns, Epilogue::SwiGlu)
        }
    }

    fn plan(&self, chip: Chip) -> Plan {
        let follows = match (self.epilogue, self.order) {
            (Epilogue::Residual, _) => Follows::Squares,
            (_, Order::Qkv { head_dim, .. }) if self.head_norm => Follows::HeadNorm {
                tiles: head_dim / 16,
            },
            _ => Follows::Nothing,
        };
        Plan::choose(self.order.tiles(), self.columns, follows, chip)
    }
}

/// What the kernels multiply products and silu(gate) * up by.
const INPUT_SCALE: f32 = 0.5;
const OUT_SCALE: f32 = 0.25;

/// Numbers that differ from place to place, about -1 to 1.
fn noise(seed: u64, at: usize) -> f32 {
    let mut x =
        (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed.wrapping_mul(0xd1b5_4a32_d192_ed03);
    x ^= x >> 29;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 32;
    (x >> 40) as f32 / (1 << 23) as f32 - 1.0
}

/// Rounded to f16 and back.
fn rounded(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

/// The matrix in packed order: row r of tile i is `[16 i + r]`.
fn packed_rows(case: &Case) -> Vec<Vec<f32>> {
    let scale = 2.0 / (case.columns as f32).sqrt();
    (0..case.order.tiles() * 16)
        .map(|at| match case.order.source(at) {
            None => vec![0.0; case.columns],
            Some((_, row)) if case.broken == Some(row) => vec![f32::NAN; case.columns],
            Some((part, row)) => (0..case.columns)
                .map(|k| {
                    let at = row % case.distinct * case.columns + k;
                    rounded(scale * noise(11 + part as u64, at))
                })
                .collect(),
        })
        .collect()
}

/// Index of row `row`'s feature `k` in activations in B order.
fn activation_at(columns: usize, row: usize, k: usize) -> usize {
    let pairs = columns.div_ceil(32);
    let lane = row % 8 * 4 + k % 8 / 2;
    ((row / 8 * pairs + k / 32) * 32 + lane) * 8 + k % 32 / 16 * 4 + k % 16 / 8 * 2 + k % 2
}

/// Everything in memory after a launch.
struct Ran {
    counts: Counts,
    x: Vec<f32>,
    out: Vec<f16>,
    squares: Vec<f32>,
    dots: Vec<f32>,
    q: Vec<f16>,
    keys: Vec<f16>,
    values: Vec<f16>,
    logits: Vec<f32>,
    best: Vec<Best>,
}

/// Inputs, as functions of their place.
fn input(row: usize, columns: usize, k: usize) -> f32 {
    rounded(noise(3, row * columns + k))
}
fn square_part(part: usize, row: usize) -> f32 {
    4.0 + noise(5, part * 1000 + row)
}
const PARTS: usize = 3;

fn scale_of(case: &Case, row: usize) -> f32 {
    let sum: f32 = (0..PARTS).map(|p| square_part(p, row)).sum();
    1.0 / (sum / case.columns as f32 + EPS).sqrt()
}

fn angle(position: usize, i: usize) -> (f32, f32) {
    let turn = position as f32 * 0.37f32.powi(i as i32);
    (turn.cos(), turn.sin())
}

/// Runs a case for the rows of the pass with these positions.
fn run(
    device: &Device,
    case: &Case,
    chip: Chip,
    rows: usize,
    identity: impl Fn(usize) -> usize,
) -> Ran {
    let plan = case.plan(chip);
    let bucket = rows.max(case.bucket);
    let shape = plan.shape(bucket);
    let matrix = packed_rows(case);
    let weights = fragments(plan.row_tiles, plan.pairs, |row, k| {
        round(matrix[row].get(k).copied().unwrap_or(0.0))
    });
    let activations = b_order(rows, case.columns, |r, k| {
        round(input(identity(r), case.columns, k))
    });
    let mut pass = Rows::zeroed();
    pass.rows = rows as i32;
    pass.base = 19;
    pass.logits_at = case.logits_at;
    let logit_rows = rows + case.logits_at.max(0) as usize;
    let mut squares = vec![0.0; PARTS * MAX_ROWS];
    for r in 0..rows {
        pass.position[r] = 7 + identity(r) as i32;
        for p in 0..PARTS {
            squares[p * MAX_ROWS + r] = square_part(p, identity(r));
        }
    }
    let width = match case.epilogue {
        Epilogue::SwiGlu => case.order.tiles() * 8,
        _ => case.order.tiles() * 16,
    };
    let x: Vec<f32> = (0..rows * width)
        .map(|at| noise(17, identity(at / width) * width + at % width))
        .collect();
    let out_pairs = width.div_ceil(32);
    let group_rows = rows.next_multiple_of(8);
    let zeros = |bytes: usize| vec![0u8; bytes];
    let gain: Vec<f32> = (0..width).map(|f| 1.0 + 0.3 * noise(23, f)).collect();
    let judge: Vec<f32> = (0..width).map(|f| noise(29, f)).collect();
    let bias: Vec<f32> = (0..plan.row_tiles * 16)
        .map(|at| packed_bias(case, at))
        .collect();
    let (heads, kv_heads, dim) = match case.order {
        Order::Qkv {
            heads,
            kv_heads,
            head_dim,
        } => (heads, kv_heads, head_dim),
        _ => (0, 1, 16),
    };
    let angles: Vec<f32> = (0..POSITIONS * dim / 2)
        .flat_map(|at| {
            let (cos, sin) = angle(at / (dim / 2), at % (dim / 2));
            [cos, sin]
        })
        .collect();
    let vocabulary = match case.order {
        Order::Plain { rows } => rows,
        _ => 0,
    };
    let stride = vocabulary.next_multiple_of(8);
    let p = Linear {
        weights: device.upload("weights", &weights),
        input: device.upload("activations", &activations),
        partials: device.empty("partials", plan.partial_buffer_bytes(bucket)),
        counters: device.upload("counters", &vec![0u32; plan.row_tiles]),
        rows: device.upload("rows", &[pass]),
        input_squares: match case.epilogue {
            Epilogue::Residual => 0,
            _ => device.upload("squares", &squares),
        },
        bias: if case.bias {
            device.upload("bias", &bias)
        } else {
            0
        },
        x: device.upload("x", &x),
        gain: device.upload("gain", &gain),
        out: device.upload("out", &zeros(group_rows * out_pairs * 64)),
        squares: device.upload("squares out", &zeros(plan.parts() * MAX_ROWS * 4)),
        judge: if case.judge {
            device.upload("judge", &judge)
        } else {
            0
        },
        dots: device.upload("dots", &zeros(plan.parts() * MAX_ROWS * 4)),
        q: device.upload("q", &zeros(heads * MAX_ROWS * dim * 2)),
        keys: device.upload("cache", &zeros(kv_heads * POSITIONS * dim * 2)),
        values: device.upload("cache", &zeros(kv_heads * POSITIONS * dim * 2)),
        angles: device.upload("angles", &angles),
        q_gain: if case.head_norm {
            device.upload("gain", &gain[..dim])
        } else {
            0
        },
        k_gain: if case.head_norm {
            device.upload("gain", &gain[dim..2 * dim])
        } else {
            0
        },
        head_bytes: (POSITIONS * dim * 2) as u64,
        logits: device.upload("logits", &zeros(logit_rows * stride * 4)),
        best: device.upload(
            "best",
            &zeros(logit_rows * plan.parts() * size_of::<Best>()),
        ),
        input_parts: PARTS as i32,
        inverse_width: 1.0 / case.columns as f32,
        eps: EPS,
        input_scale: INPUT_SCALE,
        out_scale: OUT_SCALE,
        width: width as i32,
        out_pairs: out_pairs as i32,
        heads: heads as i32,
        kv_heads: kv_heads as i32,
        group: (heads / kv_heads) as i32,
        head_dim: dim as i32,
        vocabulary: vocabulary as i32,
        logits_stride: stride as i32,
        ..Linear::of(&plan, case.epilogue)
    };
    let grid = device.grid(
        kernel(&plan, &shape),
        [plan.workers, 1, 1],
        shape.threads,
        shape.shared_bytes,
        &[Arg::Bytes(bytemuck::bytes_of(&p))],
    );
    let counts = device.run(grid);
    assert!(
        device
            .read::<u32>(p.counters, plan.row_tiles)
            .iter()
            .all(|&n| n == 0),
        "counters are zero again"
    );
    Ran {
        counts,
        x: device.read(p.x, rows * width),
        out: device
            .read::<u16>(p.out, group_rows * out_pairs * 32)
            .into_iter()
            .map(f16::from_bits)
            .collect(),
        squares: device.read(p.squares, plan.parts() * MAX_ROWS),
        dots: device.read(p.dots, plan.parts() * MAX_ROWS),
        q: device
            .read::<u16>(p.q, heads * MAX_ROWS * dim)
            .into_iter()
            .map(f16::from_bits)
            .collect(),
        keys: device
            .read::<u16>(p.keys, kv_heads * POSITIONS * dim)
            .into_iter()
            .map(f16::from_bits)
            .collect(),
        values: device
            .read::<u16>(p.values, kv_heads * POSITIONS * dim)
            .into_iter()
            .map(f16::from_bits)
            .collect(),
        logits: device.read(p.logits, logit_rows * stride),
        best: device.read(p.best, logit_rows * plan.parts()),
    }
}

fn packed_bias(case: &Case, at: usize) -> f32 {
    match case.order.source(at) {
        Some((part, row)) => 0.5 * noise(31 + part as u64, row),
        None => 0.0,
    }
}

/// y of a packed row in f64.
fn product(case: &Case, matrix: &[Vec<f32>], row: usize, at: usize) -> f64 {
    let y: f64 = matrix[at]
        .iter()
        .enumerate()
        .map(|(k, &w)| f64::from(w) * f64::from(input(row, case.columns, k)))
        .sum();
    let scale = match case.epilogue {
        Epilogue::Residual => 1.0,
        _ => f64::from(scale_of(case, row)),
    };
    y * scale * f64::from(INPUT_SCALE)
        + f64::from(if case.bias {
            packed_bias(case, at)
        } else {
            0.0
        })
}

#[track_caller]
fn near(found: f32, expected: f64, tolerance: f64, what: &str) {
    let error = (f64::from(found) - expected).abs();
    assert!(
        error <= tolerance * (1.0 + expected.abs()) || found.is_nan() && expected.is_nan(),
        "{what}: found {found}, expected {expected}"
    );
}

/// f16's half ulp, and what sums in f32 add to it.
const F16: f64 = 1.0 / 2048.0;

fn compare(case: &Case, plan: &Plan, rows: usize, ran: &Ran) {
    let matrix = packed_rows(case);
    let tiles = plan.row_tiles;
    for row in 0..rows {
        let y: Vec<f64> = (0..tiles * 16)
            .map(|at| product(case, &matrix, row, at))
            .collect();
        match case.epilogue {
            Epilogue::Residual => {
                let width = tiles * 16;
                let mut part_squares = vec![0.0; plan.parts()];
                let mut part_dots = vec![0.0; plan.parts()];
                for f in 0..width {
                    let x = f64::from(noise(17, row * width + f)) + y[f];
                    near(ran.x[row * width + f], x, 1e-5, "x");
                    let gain = f64::from(1.0 + 0.3 * noise(23, f));
                    near(
                        ran.out[activation_at(width, row, f)].to_f32(),
                        x * gain,
                        F16,
                        "next input",
                    );
                    part_squares[f / 16 / plan.part_tiles] += x * x;
                    part_dots[f / 16 / plan.part_tiles] += x * f64::from(noise(29, f));
                }
                for part in 0..plan.parts() {
                    near(
                        ran.squares[part * MAX_ROWS + row],
                        part_squares[part],
                        1e-4,
                        "squares",
                    );
                    if case.judge {
                        near(
                            ran.dots[part * MAX_ROWS + row],
                            part_dots[part],
                            1e-4,
                            "dots",
                        );
                    }
                }
            }
            Epilogue::SwiGlu => {
                for f in 0..tiles * 8 {
                    let (gate, up) = (y[f / 8 * 16 + f % 8], y[f / 8 * 16 + 8 + f % 8]);
                    let expected = gate / (1.0 + (-gate).exp()) * up * f64::from(OUT_SCALE);
                    near(
                        ran.out[activation_at(tiles * 8, row, f)].to_f32(),
                        expected,
                        F16,
                        "swiglu",
                    );
                }
            }
            Epilogue::Qkv => compare_qkv(case, row, &y, ran),
            Epilogue::Logits => {
                let Order::Plain { rows: vocabulary } = case.order else {
                    unreachable!("logits are plain")
                };
                let stride = vocabulary.next_multiple_of(8);
                let Some(at) = row.checked_add_signed(case.logits_at as isize) else {
                    continue;
                };
                let logits = &ran.logits[at * stride..][..vocabulary];
                for (found, expected) in logits.iter().zip(&y) {
                    near(*found, *expected, 1e-5, "logits");
                }
                let bests = &ran.best[at * plan.parts()..][..plan.parts()];
                for (part, found) in bests.iter().enumerate() {
                    let first = part * plan.part_tiles * 16;
                    let value = |i: usize| match logits[i].is_nan() {
                        true => f32::INFINITY,
                        false => logits[i],
                    };
                    let mut order: Vec<usize> =
                        (first..vocabulary.min(first + plan.part_tiles * 16)).collect();
                    order.sort_by(|&a, &b| value(b).total_cmp(&value(a)).then(a.cmp(&b)));
                    let second = order.get(1);
                    let expected = Best {
                        value: value(order[0]),
                        token: order[0] as i32,
                        second: second.map_or(f32::NEG_INFINITY, |&i| value(i)),
                        second_token: second.map_or(i32::MAX, |&i| i as i32),
                    };
                    assert_eq!(*found, expected, "best of part {part}");
                }
            }
        }
    }
}

fn compare_qkv(case: &Case, row: usize, y: &[f64], ran: &Ran) {
    let Order::Qkv {
        heads,
        kv_heads,
        head_dim: dim,
    } = case.order
    else {
        unreachable!("qkv's order")
    };
    let width = case.order.tiles() * 16;
    let gain = |f: usize| f64::from(1.0 + 0.3 * noise(23, f));
    let (position, slot, half) = (7 + row, 19 + row, dim / 2);
    for head in 0..heads + 2 * kv_heads {
        // natural order
        let mut v = vec![0.0; dim];
        for at in head * dim..(head + 1) * dim {
            let (_, source) = case.order.source(at).expect("no padding in qkv");
            v[source % dim] = y[at];
        }
        assert!(width >= dim);
        let part = usize::from(head >= heads) + usize::from(head >= heads + kv_heads);
        if case.head_norm && part < 2 {
            let mean: f64 = v.iter().map(|x| x * x).sum::<f64>() / dim as f64;
            for (f, x) in v.iter_mut().enumerate() {
                *x *= gain(part * dim + f) / (mean + f64::from(EPS)).sqrt();
            }
        }
        if part < 2 {
            for i in 0..half {
                let (cos, sin) = angle(position, i);
                let (cos, sin) = (f64::from(cos), f64::from(sin));
                let (a, b) = (v[i], v[i + half]);
                v[i] = a * cos - b * sin;
                v[i + half] = b * cos + a * sin;
            }
        }
        for (f, &expected) in v.iter().enumerate() {
            let group = heads / kv_heads;
            let found = match part {
                0 => ran.q[((head / group * MAX_ROWS + row) * group + head % group) * dim + f],
                1 => ran.keys[(head - heads) * POSITIONS * dim + key_at(dim, slot, f)],
                _ => {
                    ran.values[(head - heads - kv_heads) * POSITIONS * dim + value_at(dim, slot, f)]
                }
            };
            near(found.to_f32(), expected, F16, "qkv");
        }
    }
}

/// layout.cuh's, in elements.
fn key_at(dim: usize, s: usize, f: usize) -> usize {
    ((s / 16 * (dim / 16) + f / 16) * 32 + s % 8 * 4 + f % 8 / 2) * 8
        + s % 16 / 8 * 4
        + f % 16 / 8 * 2
        + f % 2
}
fn value_at(dim: usize, s: usize, f: usize) -> usize {
    ((s / 16 * (dim / 16) + f / 16) * 32 + f % 8 * 4 + s % 8 / 2) * 8
        + f % 16 / 8 * 4
        + s % 16 / 8 * 2
        + s % 2
}

fn chip(multiprocessors: usize) -> Chip {
    Chip {
        multiprocessors,
        major: 9,
    }
}

/// Shapes that do not divide evenly; each kind of epilogue; narrow and wide enough for every cut.
fn cases() -> Vec<Case> {
    vec![
        Case::plain(208, 336, Epilogue::Residual),
        Case {
            bias: true,
            judge: true,
            ..Case::plain(1152, 208, Epilogue::Residual)
        },
        Case::gate_up(336, 208),
        Case {
            bias: true,
            ..Case::gate_up(1000, 64)
        },
        Case::qkv(9, 3, 64, 192),
        Case {
            bias: true,
            ..Case::qkv(4, 2, 48, 208)
        },
        Case {
            head_norm: true,
            ..Case::qkv(4, 1, 128, 128)
        },
        Case::plain(301, 208, Epilogue::Logits),
        Case::plain(2500, 64, Epilogue::Logits),
    ]
}

#[test]
fn products_and_epilogues_equal_their_definition() {
    for level in LEVELS {
        for (i, case) in cases().iter().enumerate() {
            for (j, rows) in [1, 2, 7, 8, 9, 33, 64, 200].into_iter().enumerate() {
                if (i + j) % 2 != usize::from(level == 90) {
                    continue;
                }
                let device = Device::new("linear", level, (i * 10 + j) as u64);
                let ran = run(&device, case, chip(4), rows, |r| r);
                compare(case, &case.plan(chip(4)), rows, &ran);
                assert_eq!(ran.counts.shared_conflicts, 0, "{case:?}, {rows} rows");
            }
        }
    }
}

/// All bits that a row left behind.
fn bits_of(case: &Case, plan: &Plan, ran: &Ran, row: usize, rows: usize) -> Vec<u32> {
    let mut bits = Vec::new();
    match case.epilogue {
        Epilogue::Residual | Epilogue::SwiGlu => {
            let width = match case.epilogue {
                Epilogue::SwiGlu => plan.row_tiles * 8,
                _ => plan.row_tiles * 16,
            };
            for f in 0..width {
                bits.push(u32::from(ran.out[activation_at(width, row, f)].to_bits()));
                if case.epilogue == Epilogue::Residual {
                    bits.push(ran.x[row * width + f].to_bits());
                }
            }
            if case.epilogue == Epilogue::Residual {
                for part in 0..plan.parts() {
                    bits.push(ran.squares[part * MAX_ROWS + row].to_bits());
                    bits.push(ran.dots[part * MAX_ROWS + row].to_bits());
                }
            }
        }
        Epilogue::Qkv => {
            let Order::Qkv {
                heads,
                kv_heads,
                head_dim: dim,
            } = case.order
            else {
                unreachable!("qkv's order")
            };
            let group = heads / kv_heads;
            for f in 0..dim {
                for head in 0..heads {
                    bits.push(u32::from(
                        ran.q[((head / group * MAX_ROWS + row) * group + head % group) * dim + f]
                            .to_bits(),
                    ));
                }
                for head in 0..kv_heads {
                    let at = head * POSITIONS * dim;
                    bits.push(u32::from(ran.keys[at + key_at(dim, 19 + row, f)].to_bits()));
                    bits.push(u32::from(
                        ran.values[at + value_at(dim, 19 + row, f)].to_bits(),
                    ));
                }
            }
        }
        Epilogue::Logits => {
            let stride = ran.logits.len() / rows;
            bits.extend(
                ran.logits[row * stride..][..stride]
                    .iter()
                    .map(|z| z.to_bits()),
            );
        }
    }
    bits
}

#[test]
fn the_best_two_of_a_part_are_the_lowest_ids_of_their_values() {
    let logits = |vocabulary, columns| Case::plain(vocabulary, columns, Epilogue::Logits);
    // the last token is alone in its part
    let alone = logits(257, 208);
    assert_eq!(alone.plan(chip(4)).part_tiles, 1);
    let cases = [
        Case {
            distinct: 1,
            ..alone
        },
        Case {
            distinct: 3,
            ..logits(301, 208)
        },
        Case {
            distinct: 40,
            ..logits(2500, 64)
        },
        Case {
            broken: Some(133),
            ..logits(2500, 64)
        },
        Case {
            distinct: 7,
            broken: Some(256),
            ..alone
        },
    ];
    for level in LEVELS {
        for case in &cases {
            for rows in [1, 9] {
                let device = Device::new("linear", level, rows as u64);
                let ran = run(&device, case, chip(4), rows, |r| r);
                compare(case, &case.plan(chip(4)), rows, &ran);
            }
        }
    }
}

#[test]
fn logits_go_where_the_pass_says() {
    for (rows, logits_at) in [(2, -1), (9, 5), (3, 13), (12, -9)] {
        let case = Case {
            logits_at,
            ..Case::plain(301, 208, Epilogue::Logits)
        };
        let plan = case.plan(chip(4));
        let ran = run(&Device::new("linear", 80, 3), &case, chip(4), rows, |r| r);
        compare(&case, &plan, rows, &ran);
        // rows of the buffer that no row of the pass has
        let before = logits_at.max(0) as usize;
        let after = rows.checked_add_signed(logits_at as isize).expect("rows");
        let stride = ran.logits.len() / (rows + before);
        let others = (0..rows + before).filter(|at| *at < before || *at >= after);
        for at in others {
            let logits = &ran.logits[at * stride..][..stride];
            assert!(logits.iter().all(|&z| z == 0.0), "logits {at}");
            let best = &ran.best[at * plan.parts()..][..plan.parts()];
            assert!(best.iter().all(|b| *b == Best::zeroed()), "bests {at}");
        }
    }
}

#[test]
fn a_launch_for_more_rows_than_there_are_leaves_the_same_bits_and_for_none_nothing() {
    for case in cases() {
        let plan = case.plan(chip(4));
        let alone = run(&Device::new("linear", 90, 0), &case, chip(4), 3, |r| r);
        for bucket in [8, 16, 32, 64, 200] {
            let case = Case { bucket, ..case };
            let device = Device::new("linear", 90, bucket as u64);
            let ran = run(&device, &case, chip(4), 3, |r| r);
            for row in 0..3 {
                let same =
                    bits_of(&case, &plan, &ran, row, 3) == bits_of(&case, &plan, &alone, row, 3);
                assert!(same, "{case:?}: row {row}");
            }
            let none = run(&device, &case, chip(4), 0, |r| r).counts;
            for (label, traffic) in &none.memory {
                let moved = traffic.bytes_read + traffic.bytes_written;
                // what each warp has under way before it knows: four pairs of tiles at most
                let most = match &**label {
                    "rows" => 4 * plan.workers * plan.shape(bucket).threads,
                    "weights" => 4 * 1024 * plan.workers * plan.shape(bucket).threads / 32,
                    _ => 0,
                };
                assert!(moved <= most as u64, "{case:?}: {label}: {moved} of {most}");
            }
            assert!(none.mma.is_empty(), "{case:?}");
        }
    }
}

#[test]
fn a_rows_bits_do_not_depend_on_its_company() {
    let models = [
        Accumulate::Sequential,
        Accumulate::Groups8,
        Accumulate::Groups16,
    ];
    for (i, case) in cases().iter().enumerate() {
        let plan = case.plan(chip(4));
        let mut device = Device::new("linear", 80, 0);
        device.options.accumulate = models[i % 3];
        let alone = run(&device, case, chip(4), 1, |_| 5);
        let expected = bits_of(case, &plan, &alone, 0, 1);
        for rows in [8, 13, 32, 64, 150] {
            device.options.seed += 1;
            let among = run(&device, case, chip(4), rows, |r| r);
            // slots differ, so the row is looked up where it is now
            assert!(
                bits_of(case, &plan, &among, 5, rows) == expected,
                "{case:?}: row 5 of {rows}"
            );
        }
    }
}
