//! Matrix instructions: fragments as the tables of the PTX manual give them, and the arithmetic of
//! tensor cores in several models.

use super::Accumulate;
use super::float::*;
use super::lanes::{LANES, Regs, Value, wide};
use super::ops::{Element, Mma};

/// Element (`row`, `column`) of an 8x8 matrix of halves held by a warp: lane 4 row + column / 2
/// holds two neighbours of a row.
pub(super) fn element_of_matrix(
    values: &[u32; LANES],
    row: usize,
    column: usize,
    transposed: bool,
) -> u16 {
    let (row, column) = if transposed {
        (column, row)
    } else {
        (row, column)
    };
    (values[4 * row + column / 2] >> (16 * (column % 2))) as u16
}

/// The reverse: what each lane holds of the matrix of `rows`.
pub(super) fn matrix_to_lanes(rows: &[[u16; 8]; 8], transposed: bool) -> [u32; LANES] {
    std::array::from_fn(|lane| {
        let (row, column) = (lane / 4, lane % 4 * 2);
        let at = |r: usize, c: usize| u32::from(if transposed { rows[c][r] } else { rows[r][c] });
        at(row, column) | at(row, column + 1) << 16
    })
}

pub(super) fn transpose(regs: &mut Regs, d: u16, a: u16) {
    let values = u32::get(regs, a);
    let rows =
        std::array::from_fn(|r| std::array::from_fn(|c| element_of_matrix(&values, r, c, false)));
    u32::put(regs, d, &matrix_to_lanes(&rows, true), u32::MAX);
}

/// D = A B + C for the whole warp. A is 16 x k by rows, B is k x 8 by columns.
pub(super) fn run(regs: &mut Regs, mma: &Mma, accumulate: Accumulate) {
    let common = (mma.k, mma.c_type, mma.d_type) == (16, Element::F32, Element::F32);
    match mma.a_type {
        Element::S8 | Element::U8 => integer(regs, mma),
        Element::F16 | Element::Bf16 if common && accumulate == Accumulate::Sequential => {
            halves(regs, mma);
        }
        _ => float(regs, mma, accumulate),
    }
}

/// Elements of a register.
#[inline(always)]
fn per_register(ty: Element) -> usize {
    match ty {
        Element::Tf32 | Element::F32 | Element::S32 => 1,
        Element::F16 | Element::Bf16 => 2,
        _ => 4,
    }
}

/// Row and column of A of element `i` of register `r` of a lane: registers go first down by 8
/// rows, then right by half of k.
#[inline(always)]
fn place_a(lane: usize, r: usize, i: usize, each: usize) -> (usize, usize) {
    let row = lane / 4 + 8 * (r % 2);
    let column = lane % 4 * each + i + 4 * each * (r / 2);
    (row, column)
}

/// Row (along k) and column of B.
#[inline(always)]
fn place_b(lane: usize, r: usize, i: usize, each: usize) -> (usize, usize) {
    (lane % 4 * each + i + 4 * each * r, lane / 4)
}

/// Row and column of element `i` of C and D.
#[inline(always)]
fn place_c(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2)
}

/// The 256 values of an 8-bit format.
fn table(format: Format) -> &'static [f32; 256] {
    use std::sync::LazyLock;
    static E4: LazyLock<[f32; 256]> =
        LazyLock::new(|| std::array::from_fn(|i| Format::E4M3.value(i as u32) as f32));
    static E5: LazyLock<[f32; 256]> =
        LazyLock::new(|| std::array::from_fn(|i| Format::E5M2.value(i as u32) as f32));
    if format == Format::E4M3 { &E4 } else { &E5 }
}

const K: usize = 32;

/// A by rows; B by rows along k, so that eight columns lie side by side.
type MatrixA = [[f32; K]; 16];
type MatrixB = [[f32; 8]; K];

#[inline(always)]
fn fill_a(a: &mut MatrixA, values: &[u32; LANES], r: usize, each: usize, f: impl Fn(u32) -> f32) {
    let bits = 32 / each;
    for (lane, value) in values.iter().enumerate() {
        for i in 0..each {
            let (row, column) = place_a(lane, r, i, each);
            a[row % 16][column % K] = f(value >> (bits * i));
        }
    }
}

#[inline(always)]
fn fill_b(b: &mut MatrixB, values: &[u32; LANES], r: usize, each: usize, f: impl Fn(u32) -> f32) {
    let bits = 32 / each;
    for (lane, value) in values.iter().enumerate() {
        for i in 0..each {
            let (row, column) = place_b(lane, r, i, each);
            b[row % K][column % 8] = f(value >> (bits * i));
        }
    }
}

macro_rules! fill {
    ($fill:ident, $into:expr, $values:expr, $r:expr, $ty:expr) => {
        match $ty {
            Element::F16 => $fill($into, $values, $r, 2, |v| f16_to_f32(v as u16)),
            Element::Bf16 => $fill($into, $values, $r, 2, |v| f32::from_bits(v << 16)),
            // the low 13 bits are not looked at
            Element::Tf32 => $fill($into, $values, $r, 1, |v| f32::from_bits(v & !0x1fff)),
            Element::E4m3 => {
                let table = table(Format::E4M3);
                $fill($into, $values, $r, 4, |v| table[(v & 0xff) as usize]);
            }
            _ => {
                let table = table(Format::E5M2);
                $fill($into, $values, $r, 4, |v| table[(v & 0xff) as usize]);
            }
        }
    };
}

wide! {
/// `m16n8k16` of 16-bit formats with sums in f32, of which models are made: a register of A or B is an
/// 8x8 matrix by rows, or by columns for B, four lanes to a row.
fn halves(regs: &mut Regs, mma: &Mma) {
    let half = mma.a_type == Element::F16;
    let values: [[[f32; LANES]; 2]; 4] = [0, 1, 2, 3].map(|i| widened(regs, mma.a[i], half));
    let columns: [[[f32; LANES]; 2]; 2] = [0, 1].map(|i| widened(regs, mma.b[i], half));
    let old: [[f32; LANES]; 4] = [0, 1, 2, 3].map(|i| f32::get(regs, mma.c[i]));
    let mut b = [[0f32; 8]; 16];
    for right in 0..2 {
        for pair in 0..4 {
            for column in 0..8 {
                for part in 0..2 {
                    b[8 * right + 2 * pair + part][column] = columns[right][part][4 * column + pair];
                }
            }
        }
    }
    let mut new = [[0f32; LANES]; 4];
    for upper in 0..2 {
        let mut sums = [[0f32; 8]; 8];
        for row in 0..8 {
            for pair in 0..4 {
                sums[row][2 * pair] = old[2 * upper][4 * row + pair];
                sums[row][2 * pair + 1] = old[2 * upper + 1][4 * row + pair];
            }
        }
        for right in 0..2 {
            let a = &values[2 * right + upper];
            for pair in 0..4 {
                // eight rows side by side: sums of a row wait for each other
                for part in 0..2 {
                    let line = b[8 * right + 2 * pair + part];
                    for row in 0..8 {
                        let x = a[part][4 * row + pair];
                        for column in 0..8 {
                            sums[row][column] = x.mul_add(line[column], sums[row][column]);
                        }
                    }
                }
            }
        }
        for row in 0..8 {
            for pair in 0..4 {
                new[2 * upper][4 * row + pair] = canon(sums[row][2 * pair]);
                new[2 * upper + 1][4 * row + pair] = canon(sums[row][2 * pair + 1]);
            }
        }
    }
    for i in 0..4 {
        f32::put(regs, mma.d[i], &new[i], u32::MAX);
    }
}
}

/// The lower and the upper elements of a register of two.
#[inline(always)]
fn widened(regs: &Regs, register: u16, half: bool) -> [[f32; LANES]; 2] {
    let words = regs.rows[register as usize].0;
    if half {
        [
            words.map(|word| f16_of((word & 0x7fff) << 13, (word & 0x8000) << 16)),
            words.map(|word| f16_of(word >> 3 & 0x0fff_e000, word & 0x8000_0000)),
        ]
    } else {
        [
            words.map(|word| f32::from_bits(word << 16)),
            words.map(|word| f32::from_bits(word & 0xffff_0000)),
        ]
    }
}

wide! {
fn float(regs: &mut Regs, mma: &Mma, accumulate: Accumulate) {
    let k = mma.k;
    let mut a = [[0f32; K]; 16];
    let mut b = [[0f32; 8]; K];
    for r in 0..16 * k / per_register(mma.a_type) / 32 {
        let values = u32::get(regs, mma.a[r]);
        fill!(fill_a, &mut a, &values, r, mma.a_type);
    }
    for r in 0..8 * k / per_register(mma.b_type) / 32 {
        let values = u32::get(regs, mma.b[r]);
        fill!(fill_b, &mut b, &values, r, mma.b_type);
    }
    let mut c = [[0f32; 8]; 16];
    for_c(regs, mma, &mut c);
    match accumulate {
        Accumulate::Sequential => sequential(&a, &b, &mut c, k),
        Accumulate::Groups8 => Grouped::new(mma, 8, 24).run(&a, &b, &mut c, k),
        Accumulate::Groups16 => Grouped::new(mma, 16, 25).run(&a, &b, &mut c, k),
    }
    if mma.d_type == Element::F16 {
        for r in 0..2 {
            let mut values = [0; LANES];
            for (lane, value) in values.iter_mut().enumerate() {
                for i in 0..2 {
                    let (row, column) = place_c(lane, 2 * r + i);
                    *value |= u32::from(f32_to_f16(c[row][column])) << (16 * i);
                }
            }
            u32::put(regs, mma.d[r], &values, u32::MAX);
        }
    } else {
        for i in 0..4 {
            let mut values = [0f32; LANES];
            for (lane, value) in values.iter_mut().enumerate() {
                let (row, column) = place_c(lane, i);
                *value = canon(c[row % 16][column % 8]);
            }
            f32::put(regs, mma.d[i], &values, u32::MAX);
        }
    }
}
}

#[inline(always)]
fn for_c(regs: &Regs, mma: &Mma, c: &mut [[f32; 8]; 16]) {
    if mma.c_type == Element::F16 {
        for r in 0..2 {
            let values = u32::get(regs, mma.c[r]);
            for (lane, value) in values.iter().enumerate() {
                for i in 0..2 {
                    let (row, column) = place_c(lane, 2 * r + i);
                    c[row][column] = f16_to_f32((value >> (16 * i)) as u16);
                }
            }
        }
    } else {
        for i in 0..4 {
            let values = f32::get(regs, mma.c[i]);
            for (lane, value) in values.iter().enumerate() {
                let (row, column) = place_c(lane, i);
                c[row][column] = *value;
            }
        }
    }
}

/// Products of narrow formats are exact in f32, so one rounding is that of the sum.
#[inline(always)]
fn sequential(a: &MatrixA, b: &MatrixB, c: &mut [[f32; 8]; 16], k: usize) {
    for row in 0..16 {
        let mut sum = c[row];
        for i in 0..k.min(K) {
            let x = a[row][i];
            for j in 0..8 {
                sum[j] = x.mul_add(b[i][j], sum[j]);
            }
        }
        c[row] = sum;
    }
}

/// A sum of groups, as bit-exact models of tensor cores have it (arXiv 2511.10909).
#[derive(Clone, Copy)]
struct Grouped {
    /// Products of a group.
    group: usize,
    /// Bits below the largest exponent that are kept.
    kept: i32,
    /// The least exponents of A and B: denormals have them, too.
    least: [i32; 2],
    /// Sums are halves: rounded to nearest, and not cut off, behind each group.
    half: bool,
}

impl Grouped {
    fn new(mma: &Mma, group: usize, kept: i32) -> Grouped {
        let least = |ty| match ty {
            Element::F16 | Element::E5m2 => -14,
            Element::E4m3 => -6,
            _ => -126,
        };
        Grouped {
            group,
            kept,
            least: [least(mma.a_type), least(mma.b_type)],
            half: mma.d_type == Element::F16,
        }
    }

    /// C += A B. Eight columns side by side, but for halves and what is not finite.
    #[inline(always)]
    fn run(self, a: &MatrixA, b: &MatrixB, c: &mut [[f32; 8]; 16], k: usize) {
        let finite = |values: &[f32]| values.iter().all(|x| x.is_finite());
        let plain = !self.half
            && a.iter().all(|row| finite(&row[..k]))
            && b[..k].iter().all(|row| finite(row));
        let [least_a, least_b] = self.least;
        let exponents_a = a.map(|row| row.map(|x| exponent(x, least_a)));
        let exponents_b = b.map(|row| row.map(|x| exponent(x, least_b)));
        let wide_b = b.map(|row| row.map(f64::from));
        for row in 0..16 {
            for start in (0..k).step_by(self.group) {
                let group = start..(start + self.group).min(k);
                let before = c[row];
                let products =
                    |column: usize| group.clone().map(move |i| (a[row][i], b[i][column]));
                if !(plain && finite(&before)) {
                    c[row] = std::array::from_fn(|j| self.sum(before[j], products(j)));
                    continue;
                }
                let mut most = before.map(|c| exponent(c, LEAST));
                for i in group.clone() {
                    for j in 0..8 {
                        most[j] = most[j].max(exponents_a[row][i] + exponents_b[i][j]);
                    }
                }
                let scale = most.map(|most| power(self.kept - most));
                // whole numbers below 2^33, exact in f64; zeros are positive from the first on
                let mut sums = [0f64; 8];
                for j in 0..8 {
                    sums[j] += (f64::from(before[j]) * scale[j]).trunc();
                }
                for i in group.clone() {
                    let x = f64::from(a[row][i]);
                    for j in 0..8 {
                        sums[j] += (x * wide_b[i][j] * scale[j]).trunc();
                    }
                }
                for j in 0..8 {
                    c[row][j] = cut(sums[j] * power(most[j] - self.kept));
                }
                // whether zero is negative
                for j in 0..8 {
                    if c[row][j] == 0.0 && before[j].is_sign_negative() {
                        c[row][j] = self.sum(before[j], products(j));
                    }
                }
            }
        }
    }

    /// Products are aligned with the accumulator to the largest exponent, cut off, and added
    /// exactly. The exponent of a product is the sum of those of its factors.
    fn sum(self, c: f32, products: impl Iterator<Item = (f32, f32)> + Clone) -> f32 {
        // exact in f64: 24 bits at most on either side
        let terms = || {
            let product = |(x, y)| f64::from(x) * f64::from(y);
            products.clone().map(product).chain([f64::from(c)])
        };
        if terms().any(|t| !t.is_finite()) {
            let sum: f64 = terms().sum();
            return canon(sum as f32);
        }
        if terms().all(|t| t == 0.0) {
            // negative only if all are
            let negative = terms().all(|t| t.is_sign_negative());
            return if negative { -0.0 } else { 0.0 };
        }
        let [a, b] = self.least;
        let most = products
            .clone()
            .map(|(x, y)| exponent(x, a) + exponent(y, b))
            .fold(exponent(c, if self.half { -14 } else { LEAST }), i32::max);
        // one unit of the sum
        let unit = most - self.kept;
        let sum: i64 = terms().map(|t| (t * power(-unit)) as i64).sum();
        let exact = sum as f64 * power(unit);
        if self.half {
            return f16_to_f32(Format::F16.round(exact, Round::Rn, false) as u16);
        }
        // cut off towards zero, but what is beyond the range is infinite
        if exact.abs() >= power(128) {
            return f32::INFINITY.copysign(exact as f32);
        }
        f32::from_bits(Format::F32.round(exact, Round::Rz, false))
    }
}

/// The least exponent of f32, and that of zero.
const LEAST: i32 = -126;

#[inline(always)]
fn exponent(x: f32, least: i32) -> i32 {
    let own = (x.to_bits() >> 23 & 0xff) as i32 - 127;
    if x == 0.0 { LEAST } else { own.max(least) }
}

#[inline(always)]
fn power(e: i32) -> f64 {
    f64::from_bits(((1023 + e) as u64) << 52)
}

/// `x` cut off to an f32 towards zero; infinite beyond the range.
#[inline(always)]
fn cut(x: f64) -> f32 {
    let normal = f64::from_bits(x.to_bits() & !((1 << 29) - 1));
    let denormal = (x * power(149)).trunc() * power(-149);
    // exact: to nearest has nothing to decide
    (if x.abs() < power(LEAST) {
        denormal
    } else {
        normal
    }) as f32
}

fn integer(regs: &mut Regs, mma: &Mma) {
    let k = mma.k;
    let mut a = [[0i32; K]; 16];
    let mut b = [[0i32; 8]; K];
    let byte = |ty: Element, value: u32, i: usize| {
        let byte = (value >> (8 * i)) as u8;
        if ty == Element::S8 {
            i32::from(byte as i8)
        } else {
            i32::from(byte)
        }
    };
    for r in 0..16 * k / 4 / 32 {
        let values = u32::get(regs, mma.a[r]);
        for (lane, value) in values.iter().enumerate() {
            for i in 0..4 {
                let (row, column) = place_a(lane, r, i, 4);
                a[row][column] = byte(mma.a_type, *value, i);
            }
        }
    }
    for r in 0..8 * k / 4 / 32 {
        let values = u32::get(regs, mma.b[r]);
        for (lane, value) in values.iter().enumerate() {
            for i in 0..4 {
                let (row, column) = place_b(lane, r, i, 4);
                b[row][column] = byte(mma.b_type, *value, i);
            }
        }
    }
    let c: [[i32; LANES]; 4] = std::array::from_fn(|i| i32::get(regs, mma.c[i]));
    for i in 0..4 {
        let values = std::array::from_fn(|lane| {
            let (row, column) = place_c(lane, i);
            let sum: i64 = (0..k).map(|j| i64::from(a[row][j] * b[j][column])).sum();
            let sum = sum + i64::from(c[i][lane]);
            if mma.satfinite {
                sum.clamp(i32::MIN.into(), i32::MAX.into()) as i32
            } else {
                sum as i32
            }
        });
        i32::put(regs, mma.d[i], &values, u32::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Numbers of a narrow format: most alike in size, some at the ends of the range, zeros of both
    /// signs, and seldom infinity or NaN.
    fn narrow(bits: u32, kind: u32) -> f32 {
        let sign = bits & 0x8000_0000;
        let fraction = bits & 0x007f_0000;
        let exponent = match kind % 64 {
            0 => 0xff,
            1..6 => 0xfe - (bits & 3),
            6..12 => bits & 3,
            12..20 => return f32::from_bits(sign),
            20..30 => bits & 0xff,
            _ => 120 + (bits & 15),
        };
        f32::from_bits(sign | exponent << 23 | fraction)
    }

    proptest! {
        #[test]
        fn columns_side_by_side_are_those_one_by_one(
            bits in prop::collection::vec((any::<u32>(), any::<u32>()), 16 * K + 8 * K + 128),
            (group, kept) in prop::sample::select(vec![(8, 24), (16, 25)]),
            least in prop::sample::select(vec![-126, -14, -6]),
            // whether infinities and NaN are left out, which make all of a product go one by one
            tame in 0u32..2,
        ) {
            let grouped = Grouped { group, kept, least: [least, least], half: false };
            let mut numbers = bits.iter().map(|&(bits, kind)| narrow(bits, match kind % 64 {
                0 if tame == 1 => 1,
                kind => kind,
            }));
            let mut next = || numbers.next().expect("enough");
            let a: MatrixA = std::array::from_fn(|_| std::array::from_fn(|_| next()));
            let b: MatrixB = std::array::from_fn(|_| std::array::from_fn(|_| next()));
            let c: [[f32; 8]; 16] = std::array::from_fn(|_| std::array::from_fn(|_| next()));
            for k in [8, 16, 32] {
                let mut found = c;
                grouped.run(&a, &b, &mut found, k);
                for row in 0..16 {
                    for column in 0..8 {
                        let mut expected = c[row][column];
                        for start in (0..k).step_by(group) {
                            let of_group = start..(start + group).min(k);
                            let products = of_group.map(|i| (a[row][i], b[i][column]));
                            expected = grouped.sum(expected, products);
                        }
                        let found = found[row][column];
                        prop_assert_eq!(found.to_bits(), expected.to_bits(), "{} {}", found, expected);
                    }
                }
            }
        }
    }
}
