//! Every shape and type of `mma` against a computation of its own: products and sums as integers of
//! 128 bits, rounded where the model of the tensor core rounds.

mod common;

use common::{Device, Param, kernel};
use softcuda::exec::Accumulate;

/// Bits of fixed-point numbers behind the point.
const POINT: i32 = 80;

/// A binary format: bits of the fraction and of the exponent, of which the bias follows.
#[derive(Clone, Copy, PartialEq)]
struct Narrow {
    name: &'static str,
    /// Bits of an element in a register.
    bits: usize,
    fraction: i32,
    exponent: i32,
}

const F16: Narrow = narrow("f16", 16, 10, 5);
const BF16: Narrow = narrow("bf16", 16, 7, 8);
const TF32: Narrow = narrow("tf32", 32, 10, 8);
const E4M3: Narrow = narrow("e4m3", 8, 3, 4);
const E5M2: Narrow = narrow("e5m2", 8, 2, 5);

const fn narrow(name: &'static str, bits: usize, fraction: i32, exponent: i32) -> Narrow {
    Narrow {
        name,
        bits,
        fraction,
        exponent,
    }
}

impl Narrow {
    /// A number between 2^-6 and 2^7, or zero: its bits in a register, and its value.
    fn any(self, random: &mut impl FnMut() -> u64) -> (u32, f64) {
        if random().is_multiple_of(16) {
            return (0, 0.0);
        }
        let negative = random() % 2;
        let e = (random() % 13) as i32 - 6;
        let m = random() & ((1 << self.fraction) - 1);
        let value = (1.0 + m as f64 / 2f64.powi(self.fraction)) * 2f64.powi(e);
        if self == TF32 {
            // the bits below the tenth of the fraction are not looked at
            let bits = (value as f32).to_bits() | (random() & 0x1fff) as u32;
            let sign = (negative as u32) << 31;
            return (bits | sign, if negative == 1 { -value } else { value });
        }
        let bias = (1 << (self.exponent - 1)) - 1;
        let bits = (negative << (self.fraction + self.exponent))
            | ((e + bias) as u64) << self.fraction
            | m;
        (bits as u32, if negative == 1 { -value } else { value })
    }
}

fn randoms(seed: u64) -> impl FnMut() -> u64 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x >> 20
    }
}

/// Tables of the manual: row and column of element `i` of a lane. Registers of A go down by eight
/// rows, then to the right.
fn place_a(lane: usize, i: usize, each: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    let (register, part) = (i / each, i % each);
    let row = if register % 2 == 0 { group } else { group + 8 };
    let right = if register < 2 { 0 } else { 4 * each };
    (row, thread * each + part + right)
}

fn place_b(lane: usize, i: usize, each: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    (thread * each + i % each + 4 * each * (i / each), group)
}

fn place_c(lane: usize, i: usize) -> (usize, usize) {
    let row = (lane >> 2) + if i < 2 { 0 } else { 8 };
    (row, lane % 4 * 2 + (i & 1))
}

/// Runs one `mma` of a warp on the registers of each lane, and gives those of the result.
fn run(
    op: &str,
    model: Accumulate,
    (na, nb, nc, nd): (usize, usize, usize, usize),
    input: &[u32],
) -> Vec<u32> {
    let list = |name: &str, count: usize| {
        let names: Vec<String> = (0..count).map(|i| format!("%{name}{i}")).collect();
        format!("{{{}}}", names.join(", "))
    };
    let words = na + nb + nc;
    let mut body = format!("mad.lo.u64 %a, %t64, {}, %p1;\n", 4 * words);
    let names = [("fa", na), ("fb", nb), ("fc", nc)];
    let registers = names
        .iter()
        .flat_map(|(name, count)| (0..*count).map(move |i| format!("%{name}{i}")));
    for (i, register) in registers.enumerate() {
        body += &format!("ld.global.b32 {register}, [%a+{}];\n", 4 * i);
    }
    body += &format!(
        "{op} {}, {}, {}, {};\nmad.lo.u64 %a, %t64, {}, %p0;\n",
        list("fd", nd),
        list("fa", na),
        list("fb", nb),
        list("fc", nc),
        4 * nd
    );
    for i in 0..nd {
        body += &format!("st.global.b32 [%a+{}], %fd{i};\n", 4 * i);
    }
    let text = kernel(2, ".reg .b32 %fa<4>, %fb<2>, %fc<4>, %fd<4>;", &body);
    let mut device = Device::tiny();
    device.options.accumulate = model;
    let module = device.load(&text);
    let out = device.empty(4 * 32 * nd as u64);
    let data = device.upload(input);
    let grid = device.grid(&module, "k", 1, 32, &[Param::Ptr(out), Param::Ptr(data)]);
    device.run(&[grid]).expect("no violation");
    device.download(out, 32 * nd)
}

/// Registers of the lanes: `words` for each, of `each` elements that `element` gives.
fn pack(each: usize, words: usize, element: impl Fn(usize) -> u32) -> Vec<u32> {
    let bits = 32 / each;
    (0..words)
        .map(|w| (0..each).fold(0, |word, i| word | element(w * each + i) << (bits * i)))
        .collect()
}

fn fixed(x: f64) -> i128 {
    let scaled = x * 2f64.powi(POINT);
    assert!(scaled.abs() < 2f64.powi(126) && scaled.fract() == 0.0);
    // powers of two move the point and round nothing
    scaled as i128
}

/// A fixed-point number with `bits` significant ones and none below 2^`least`, to nearest or cut
/// off.
fn rounded(x: i128, bits: i32, least: i32, nearest: bool) -> f32 {
    let magnitude = x.unsigned_abs();
    let top = 128 - magnitude.leading_zeros() as i32;
    let drop = (top - bits).max(POINT + least).max(0);
    let (mut kept, rest) = (magnitude >> drop, magnitude & ((1 << drop) - 1));
    if nearest && drop > 0 {
        let half = 1u128 << (drop - 1);
        kept += u128::from(rest > half || rest == half && kept & 1 == 1);
    }
    let value = kept as f64 * 2f64.powi(drop - POINT);
    (if x < 0 { -value } else { value }) as f32
}

/// One element of the result, in f32. `halves`: sums are rounded to f16.
fn expected(model: Accumulate, c: f64, factors: &[(f64, f64)], halves: bool) -> f32 {
    let to_half = |x: i128| rounded(x, 11, -24, true);
    let (group, bits) = match model {
        Accumulate::Sequential => {
            let sum = factors.iter().fold(c as f32, |sum, (a, b)| {
                rounded(fixed(sum.into()) + fixed(a * b), 24, -149, true)
            });
            return if halves {
                to_half(fixed(sum.into()))
            } else {
                sum
            };
        }
        Accumulate::Groups8 => (8, 24),
        Accumulate::Groups16 => (16, 25),
    };
    // that of zero is the least one
    let exponent = |x: f64| {
        if x == 0.0 {
            -126
        } else {
            x.abs().log2().floor() as i32
        }
    };
    let mut sum = c as f32;
    for factors in factors.chunks(group) {
        let mut terms: Vec<i128> = factors.iter().map(|(a, b)| fixed(a * b)).collect();
        terms.push(fixed(sum.into()));
        // the largest exponent, those of factors added up, and as many places below it
        let most = factors.iter().map(|&(a, b)| exponent(a) + exponent(b));
        let most = most.fold(exponent(sum.into()), i32::max);
        let low = (POINT + most - bits).max(0);
        let cut = |t: i128| (t.abs() >> low << low) * t.signum();
        let total = terms.into_iter().map(cut).sum();
        sum = if halves {
            to_half(total)
        } else {
            rounded(total, 24, -149, false)
        };
    }
    sum
}

const MODELS: [Accumulate; 3] = [
    Accumulate::Sequential,
    Accumulate::Groups8,
    Accumulate::Groups16,
];

/// `mma.m16n8k{k}` of two formats with sums in f32 or f16, on numbers by chance.
fn floats(k: usize, a: Narrow, b: Narrow, sums: &str) {
    let op = format!(
        "mma.sync.aligned.m16n8k{k}.row.col.{sums}.{}.{}.{sums}",
        a.name, b.name
    );
    let each = 32 / a.bits;
    let (na, nb) = (16 * k / each / 32, 8 * k / each / 32);
    let halves = sums == "f16";
    let nc = if halves { 2 } else { 4 };
    for seed in 0..6 {
        let mut random = randoms(seed + 1);
        let left: Vec<Vec<_>> = (0..16)
            .map(|_| (0..k).map(|_| a.any(&mut random)).collect())
            .collect();
        let right: Vec<Vec<_>> = (0..k)
            .map(|_| (0..8).map(|_| b.any(&mut random)).collect())
            .collect();
        let start: Vec<Vec<(u32, f64)>> = (0..16)
            .map(|_| {
                let mut one = || {
                    if halves {
                        return F16.any(&mut random);
                    }
                    let m = (random() as i32 % (1 << 24)) as f32;
                    let v = m / 2f32.powi((random() % 16) as i32 + 8);
                    (v.to_bits(), v.into())
                };
                (0..8).map(|_| one()).collect()
            })
            .collect();
        let mut input = Vec::new();
        for lane in 0..32 {
            input.extend(pack(each, na, |i| {
                let (row, column) = place_a(lane, i, each);
                left[row][column].0
            }));
            input.extend(pack(each, nb, |i| {
                let (row, column) = place_b(lane, i, each);
                right[row][column].0
            }));
            input.extend(pack(4 / nc, nc, |i| {
                let (row, column) = place_c(lane, i);
                start[row][column].0
            }));
        }
        for model in MODELS {
            let found = run(&op, model, (na, nb, nc, nc), &input);
            for lane in 0..32 {
                for i in 0..4 {
                    let (row, column) = place_c(lane, i);
                    let factors: Vec<(f64, f64)> = (0..k)
                        .map(|j| (left[row][j].1, right[j][column].1))
                        .collect();
                    let sum = expected(model, start[row][column].1, &factors, halves);
                    let (found, sum_bits) = if halves {
                        let word = found[2 * lane + i / 2] >> (16 * (i % 2));
                        (word & 0xffff, half::f16::from_f32(sum).to_bits().into())
                    } else {
                        (found[4 * lane + i], sum.to_bits())
                    };
                    // cancellation to zero has no sign to speak of in the integers
                    assert!(
                        found == sum_bits || sum == 0.0 && found << 1 == 0,
                        "{op} {model:?} row {row} column {column}: {found:#x} for {sum:e}"
                    );
                    // and no model is far from the exact sum
                    let exact = factors.iter().map(|(a, b)| a * b).sum::<f64>();
                    let exact = exact + start[row][column].1;
                    let terms = factors.iter().map(|(a, b)| (a * b).abs()).sum::<f64>();
                    let scale = terms + start[row][column].1.abs();
                    let bound = 2f64.powi(if halves { -9 } else { -19 }) * scale;
                    assert!((f64::from(sum) - exact).abs() <= bound, "{sum:e} {exact:e}");
                }
            }
        }
    }
}

#[test]
fn halves_with_sums_in_single_precision() {
    for k in [8, 16] {
        floats(k, F16, F16, "f32");
        floats(k, BF16, BF16, "f32");
    }
}

#[test]
fn halves_with_sums_in_halves() {
    for k in [8, 16] {
        floats(k, F16, F16, "f16");
    }
}

#[test]
fn tf32_in_both_depths() {
    for k in [4, 8] {
        floats(k, TF32, TF32, "f32");
    }
}

#[test]
fn eight_bit_floats_in_all_pairs() {
    for k in [16, 32] {
        for (a, b) in [(E4M3, E4M3), (E4M3, E5M2), (E5M2, E4M3), (E5M2, E5M2)] {
            floats(k, a, b, "f32");
            floats(k, a, b, "f16");
        }
    }
}

/// Sums that are cut off stay finite below 2^128, where those to nearest do not, and are infinite
/// from there on. `products`: of column 0 of A with row 0 of B, and of column 1 with row 1.
#[test]
fn sums_beyond_the_range_are_infinite() {
    let op = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32";
    let (inf, most) = (f32::INFINITY, f32::MAX);
    let two = |e: i32| 2f32.powi(e);
    for (c, products, sequential, grouped) in [
        // 2^128 - 2^103, half way between the largest number and 2^128
        (most, [[two(60), two(43)], [0.0, 0.0]], inf, most),
        (most, [[two(60), two(44)], [0.0, 0.0]], inf, inf),
        (most, [[two(60), two(67)], [0.0, 0.0]], inf, inf),
        (0.0, [[two(64), two(64)], [0.0, 0.0]], inf, inf),
        // one after the other overflows, together they do not
        (most, [[two(60), two(60)], [two(60), -two(60)]], inf, most),
        (0.0, [[two(127), 0.0], [0.0, two(127)]], 0.0, 0.0),
        (inf, [[two(127), -two(127)], [0.0, 0.0]], inf, inf),
    ] {
        for sign in [1.0, -1.0] {
            let bits = |x: f32| x.to_bits() >> 16;
            let mut input = Vec::new();
            for lane in 0..32 {
                input.extend(pack(2, 4, |i| match place_a(lane, i, 2) {
                    (_, column @ 0..2) => bits(sign * products[column][0]),
                    _ => 0,
                }));
                input.extend(pack(2, 2, |i| match place_b(lane, i, 2) {
                    (row @ 0..2, _) => bits(products[row][1]),
                    _ => 0,
                }));
                input.extend([(sign * c).to_bits(); 4]);
            }
            for model in MODELS {
                let expected = match model {
                    Accumulate::Sequential => sequential,
                    _ => grouped,
                };
                for found in run(op, model, (4, 2, 4, 4), &input) {
                    let found = f32::from_bits(found);
                    assert_eq!(found, sign * expected, "{model:?} {c:e} {products:?}");
                }
            }
        }
    }
}

#[test]
fn eight_bit_integers_wrap_or_saturate() {
    for k in [16usize, 32] {
        for (a, b) in [("s8", "s8"), ("s8", "u8"), ("u8", "s8"), ("u8", "u8")] {
            for saturate in [false, true] {
                let finite = if saturate { ".satfinite" } else { "" };
                let op = format!("mma.sync.aligned.m16n8k{k}.row.col{finite}.s32.{a}.{b}.s32");
                let (na, nb) = (k / 8, k / 16);
                let mut random = randoms(k as u64);
                let value = |ty: &str, byte: u8| match ty {
                    "s8" => i64::from(byte as i8),
                    _ => i64::from(byte),
                };
                let left: Vec<Vec<u8>> = (0..16)
                    .map(|_| (0..k).map(|_| random() as u8).collect())
                    .collect();
                let right: Vec<Vec<u8>> = (0..k)
                    .map(|_| (0..8).map(|_| random() as u8).collect())
                    .collect();
                // sums at both ends of the range, and between
                let start = |row: usize, column: usize| match (row + column) % 3 {
                    0 => i32::MAX - 5,
                    1 => i32::MIN + 5,
                    _ => (row * 8 + column) as i32,
                };
                let mut input = Vec::new();
                for lane in 0..32 {
                    input.extend(pack(4, na, |i| {
                        let (row, column) = place_a(lane, i, 4);
                        left[row][column].into()
                    }));
                    input.extend(pack(4, nb, |i| {
                        let (row, column) = place_b(lane, i, 4);
                        right[row][column].into()
                    }));
                    input.extend(pack(1, 4, |i| {
                        let (row, column) = place_c(lane, i);
                        start(row, column) as u32
                    }));
                }
                let found = run(&op, Accumulate::Sequential, (na, nb, 4, 4), &input);
                for lane in 0..32 {
                    for i in 0..4 {
                        let (row, column) = place_c(lane, i);
                        let sum: i64 = (0..k)
                            .map(|j| value(a, left[row][j]) * value(b, right[j][column]))
                            .sum();
                        let sum = sum + i64::from(start(row, column));
                        let expected = if saturate {
                            sum.clamp(i32::MIN.into(), i32::MAX.into()) as i32
                        } else {
                            sum as i32
                        };
                        assert_eq!(found[4 * lane + i] as i32, expected, "{op}");
                    }
                }
            }
        }
    }
}

/// What the first row and column hold when `a` and `b` stand at their first places and `c` is
/// added.
fn corner(op: &str, model: Accumulate, a: [u32; 2], b: [u32; 2], c: u32) -> u32 {
    // registers of lane 0: two elements of the first row, two of the first column
    let halves = op.ends_with(".f16");
    let nc = if halves { 2 } else { 4 };
    let mut input = vec![0; 32 * (6 + nc)];
    input[0] = a[0] | a[1] << 16;
    input[4] = b[0] | b[1] << 16;
    input[6] = c;
    let found = run(op, model, (4, 2, nc, nc), &input)[0];
    if halves { found & 0xffff } else { found }
}

#[test]
fn infinities_nan_and_denormals_pass_through() {
    let op = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32";
    let single = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32";
    let half = "mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16";
    let (infinity, nan) = (f32::INFINITY.to_bits(), 0x7fff_ffff);
    for model in MODELS {
        let bf16 = |a, b, c: f32| corner(op, model, a, b, c.to_bits());
        assert_eq!(bf16([0x7f80, 0], [0x3f80, 0], 1.0), infinity, "{model:?}");
        assert_eq!(bf16([0x7f80, 0], [0xbf80, 0], 1.0), infinity | 1 << 31);
        assert_eq!(bf16([0x7f80, 0], [0, 0], 1.0), nan, "infinity by zero");
        assert_eq!(bf16([0x7f80, 0xff80], [0x3f80, 0x3f80], 1.0), nan);
        assert_eq!(bf16([0x7f81, 0], [0x3f80, 0], 1.0), nan);
        assert_eq!(bf16([0, 0], [0, 0], f32::NAN), nan);
        assert_eq!(bf16([0, 0], [0, 0], f32::NEG_INFINITY), infinity | 1 << 31);
        // the least bf16, 2^-133, by 2^100
        assert_eq!(
            bf16([1, 0], [0x7180, 0], 0.0),
            2f32.powi(-33).to_bits(),
            "{model:?}"
        );
        // products cancel: +0; -0 is what is left of nothing but -0
        assert_eq!(bf16([0x3f80, 0xbf80], [0x3f80, 0x3f80], 0.0), 0);
        assert_eq!(bf16([0, 0], [0, 0], -0.0), 0, "-0 and zeros that are +0");
        let f16 = |a, b, c: f32| corner(single, model, a, b, c.to_bits());
        // the least half, 2^-24, and its square
        assert_eq!(f16([1, 0], [0x3c00, 0], 0.0), 2f32.powi(-24).to_bits());
        assert_eq!(f16([1, 0], [1, 0], 0.0), 2f32.powi(-48).to_bits());
        // denormals of f32 are kept in the sum
        assert_eq!(f16([0, 0], [0, 0], f32::from_bits(3)), 3, "{model:?}");
        let halves = |a, b, c| corner(half, model, a, b, c);
        assert_eq!(halves([0x7bff, 0x7bff], [0x3c00, 0x3c00], 0), 0x7c00);
        assert_eq!(halves([0xfbff, 0xfbff], [0x3c00, 0x3c00], 0), 0xfc00);
        assert_eq!(halves([1, 0], [0x3c00, 0], 2), 3, "denormal halves");
        assert_eq!(halves([0x7c00, 0], [0, 0], 0), 0x7fff);
        assert_eq!(halves([0, 0], [0, 0], 0xfc00), 0xfc00);
        // rounded once: 2048 + 1 + 1 is 2050 only if the sum is wider than the result
        assert_eq!(halves([0x3c00, 0x3c00], [0x3c00, 0x3c00], 0x6800), 0x6801);
    }
}

#[test]
fn shapes_that_do_not_exist_are_refused() {
    let device = Device::tiny();
    for (op, registers) in [
        // sums of one type, the result of another
        ("m16n8k16.row.col.f32.f16.f16.f16", (4, 2, 2, 4)),
        ("m16n8k8.row.col.f16.f16.f16.f32", (2, 1, 4, 2)),
        ("m16n8k16.row.col.f16.bf16.bf16.f16", (4, 2, 2, 2)),
        ("m16n8k32.row.col.f32.f16.f16.f32", (4, 2, 4, 4)),
        ("m16n8k16.row.row.f32.f16.f16.f32", (4, 2, 4, 4)),
        ("m16n8k16.row.col.f32.f16.bf16.f32", (4, 2, 4, 4)),
        ("m16n8k16.row.col.satfinite.f32.f16.f16.f32", (4, 2, 4, 4)),
    ] {
        let list = |count: usize| {
            let names: Vec<String> = (0..count).map(|i| format!("%f{i}")).collect();
            format!("{{{}}}", names.join(", "))
        };
        let (na, nb, nc, nd) = registers;
        let text = format!(
            "mma.sync.aligned.{op} {}, {}, {}, {};",
            list(nd),
            list(na),
            list(nb),
            list(nc)
        );
        let ptx = kernel(0, ".reg .b32 %f<4>;", &text);
        let loaded = softcuda::ptx::Module::load(&ptx, device.model, &device.memory, None);
        let error = loaded.err().unwrap_or_else(|| panic!("{op} is taken"));
        assert_eq!(ptx.lines().nth(error.line as usize - 1), Some(&text[..]));
    }
}
