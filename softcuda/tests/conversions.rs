//! Conversions between all types, against exact values on the host.

mod common;

use common::apply::*;
use std::cmp::Ordering;

/// A binary floating-point format.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Float {
    name: &'static str,
    fraction: u32,
    exponent: u32,
}

const F16: Float = Float {
    name: "f16",
    fraction: 10,
    exponent: 5,
};
const BF16: Float = Float {
    name: "bf16",
    fraction: 7,
    exponent: 8,
};
const F32: Float = Float {
    name: "f32",
    fraction: 23,
    exponent: 8,
};
const F64: Float = Float {
    name: "f64",
    fraction: 52,
    exponent: 11,
};
const FLOATS: [Float; 4] = [F16, BF16, F32, F64];

impl Float {
    fn bytes(self) -> usize {
        (1 + self.fraction as usize + self.exponent as usize) / 8
    }

    fn infinity(self) -> u64 {
        ((1 << self.exponent) - 1) << self.fraction
    }

    fn sign(self) -> u64 {
        1 << (self.fraction + self.exponent)
    }

    fn nan(self) -> u64 {
        match self.bytes() {
            2 => 0x7fff,
            4 => 0x7fff_ffff,
            _ => f64::NAN.to_bits(),
        }
    }

    /// Magnitude of a pattern without its sign; that of infinity is the next power of two.
    fn magnitude(self, bits: u64) -> f64 {
        if self.fraction == 52 && bits < self.infinity() {
            return f64::from_bits(bits);
        }
        let (e, f) = (bits >> self.fraction, bits & ((1 << self.fraction) - 1));
        let bias = (1 << (self.exponent - 1)) - 1;
        let unit = 2f64.powi(e.max(1) as i32 - bias - self.fraction as i32);
        let implied = u64::from(e > 0) << self.fraction;
        (f | implied) as f64 * unit
    }

    fn value(self, bits: u64) -> f64 {
        let magnitude = bits & (self.sign() - 1);
        let x = match magnitude.cmp(&self.infinity()) {
            Ordering::Greater => f64::NAN,
            Ordering::Equal => f64::INFINITY,
            Ordering::Less => self.magnitude(magnitude),
        };
        if bits & self.sign() != 0 { -x } else { x }
    }

    /// Patterns where rules change, and some between.
    fn values(self) -> Vec<u64> {
        let mut values: Vec<u64> = match self.bytes() {
            2 => (0..=0xffff).step_by(7).collect(),
            4 => f32_bits(),
            _ => f32_bits()
                .iter()
                .flat_map(|&b| {
                    let near = f64::from(f32_of(b)).to_bits();
                    // halfway to the next f32, and on either side of that
                    [0, 1 << 28, (1 << 28) - 1, (1 << 28) + 1].map(|more| near.wrapping_add(more))
                })
                .collect(),
        };
        let one = (self.infinity() >> 1) & self.infinity();
        values.extend([
            0,
            1,
            one,
            self.infinity() - 1,
            self.infinity(),
            self.infinity() + 1,
        ]);
        // halves of small integers, and the ends of every integer type
        for x in [
            0.5,
            1.5,
            2.5,
            127.5,
            128.0,
            255.5,
            256.0,
            32767.5,
            65535.5,
            2f64.powi(31),
        ] {
            values.push(self.round(Exact::Float(x), "rn"));
        }
        for e in [31, 32, 63, 64] {
            let end = self.round(Exact::Float(2f64.powi(e)), "rn");
            values.extend([end - 1, end]);
        }
        let negative: Vec<u64> = values.iter().map(|v| v ^ self.sign()).collect();
        values.extend(negative);
        values
    }

    /// The neighbour of `x` that the direction asks for, found by bisection over all patterns.
    fn round(self, x: Exact, mode: &str) -> u64 {
        if x.is_nan() {
            return self.nan();
        }
        let (negative, x) = x.split();
        let sign = if negative { self.sign() } else { 0 };
        if x == Exact::Float(f64::INFINITY) {
            return sign | self.infinity();
        }
        // the largest finite pattern that is not above x
        let (mut low, mut high) = (0, self.infinity());
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if x.compare(self.magnitude(middle)) == Ordering::Less {
                high = middle;
            } else {
                low = middle;
            }
        }
        if x.compare(self.magnitude(low)) == Ordering::Equal {
            return sign | low;
        }
        let up = match mode {
            "rz" => false,
            "rm" => negative,
            "rp" => !negative,
            _ => match x.half_way(self.magnitude(low), self.magnitude(high)) {
                Ordering::Less => false,
                Ordering::Equal => low & 1 == 1,
                Ordering::Greater => true,
            },
        };
        sign | if up { high } else { low }
    }
}

/// A number that an instruction converts.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Exact {
    Float(f64),
    Int(i128),
}

impl Exact {
    fn is_nan(self) -> bool {
        matches!(self, Exact::Float(x) if x.is_nan())
    }

    fn split(self) -> (bool, Exact) {
        match self {
            Exact::Float(x) => (x.is_sign_negative(), Exact::Float(x.abs())),
            Exact::Int(n) => (n < 0, Exact::Int(n.abs())),
        }
    }

    fn compare(self, other: f64) -> Ordering {
        match self {
            Exact::Float(x) => x.total_cmp(&other),
            Exact::Int(n) => n
                .cmp(&(other.floor() as i128))
                .then(other.floor().total_cmp(&other)),
        }
    }

    /// On which side of the middle of its neighbours it lies. Where an integer is no float of
    /// the format, both neighbours are integers.
    fn half_way(self, low: f64, high: f64) -> Ordering {
        match self {
            Exact::Float(x) => x.total_cmp(&(low + (high - low) / 2.0)),
            Exact::Int(n) => (2 * n).cmp(&(low as i128 + high as i128)),
        }
    }
}

const INTEGERS: [(&str, u32, bool); 8] = [
    ("u8", 8, false),
    ("s8", 8, true),
    ("u16", 16, false),
    ("s16", 16, true),
    ("u32", 32, false),
    ("s32", 32, true),
    ("u64", 64, false),
    ("s64", 64, true),
];

type Integer = (&'static str, u32, bool);

/// Bytes of the register of an integer.
fn register((_, bits, _): Integer) -> usize {
    (bits as usize / 8).max(2)
}

fn number((_, bits, signed): Integer, value: u64) -> i128 {
    let left = 64 - bits;
    if signed {
        i128::from((value << left) as i64 >> left)
    } else {
        i128::from(value << left >> left)
    }
}

fn range((_, bits, signed): Integer) -> (i128, i128) {
    if signed {
        (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    } else {
        (0, (1 << bits) - 1)
    }
}

/// A result of an integer type, extended to its register.
fn stored(ty: Integer, value: i128) -> u64 {
    let bits = 8 * register(ty) as u32;
    number(ty, value as u64) as u64 & (u64::MAX >> (64 - bits))
}

fn rows(values: &[u64]) -> Vec<Vec<u64>> {
    values.iter().map(|&v| vec![v]).collect()
}

#[test]
fn integers_are_cut_or_clamped_and_extended() {
    let rows = rows(&integers());
    for to in INTEGERS {
        for from in INTEGERS {
            let types = [register(to), register(from)];
            let plain = format!("cvt.{}.{}", to.0, from.0);
            check(&plain, &types, &rows, |r| stored(to, number(from, r[0])));
            let clamped = format!("cvt.sat.{}.{}", to.0, from.0);
            check(&clamped, &types, &rows, |r| {
                let (least, most) = range(to);
                stored(to, number(from, r[0]).clamp(least, most))
            });
        }
    }
}

#[test]
fn floats_become_the_integer_that_the_direction_asks_for() {
    for from in FLOATS {
        let rows = rows(&from.values());
        for to in INTEGERS {
            for mode in ["rni", "rzi", "rmi", "rpi"] {
                let op = format!("cvt.{mode}.{}.{}", to.0, from.name);
                check(&op, &[register(to), from.bytes()], &rows, |r| {
                    let x = from.value(r[0]);
                    if x.is_nan() {
                        // the manual's rule: zero, but the top bit where f64 or 64 bits take part
                        let top = from == F64 || to.1 == 64;
                        return if top { stored(to, 1 << (to.1 - 1)) } else { 0 };
                    }
                    let whole = match mode {
                        "rni" => x.round_ties_even(),
                        "rzi" => x.trunc(),
                        "rmi" => x.floor(),
                        _ => x.ceil(),
                    };
                    let (least, most) = range(to);
                    stored(to, (whole as i128).clamp(least, most))
                });
            }
        }
    }
}

#[test]
fn integers_become_the_float_that_the_direction_asks_for() {
    let mut values = integers();
    // halfway between floats, and on either side
    for bits in [9, 12, 25, 54] {
        for shift in [0, 3, 7] {
            let tie = ((1u64 << bits) | 1) << shift;
            values.extend([
                tie,
                tie + 1,
                tie - 1,
                tie + (2 << shift),
                tie.wrapping_neg(),
            ]);
        }
    }
    let rows = rows(&values);
    for to in FLOATS {
        for from in INTEGERS {
            for mode in ["rn", "rz", "rm", "rp"] {
                let op = format!("cvt.{mode}.{}.{}", to.name, from.0);
                check(&op, &[to.bytes(), register(from)], &rows, |r| {
                    to.round(Exact::Int(number(from, r[0])), mode)
                });
            }
        }
    }
}

#[test]
fn floats_become_the_float_that_the_direction_asks_for() {
    for from in FLOATS {
        let rows = rows(&from.values());
        for to in FLOATS {
            let modes = match (to == from, to.bytes() > from.bytes()) {
                (true, _) => &["rni", "rzi", "rmi", "rpi"][..],
                (_, true) => &[""],
                _ => &["rn", "rz", "rm", "rp"],
            };
            for mode in modes {
                let dot = if mode.is_empty() { "" } else { "." };
                let op = format!("cvt{dot}{mode}.{}.{}", to.name, from.name);
                let found = apply(&op, &[to.bytes(), from.bytes()], &rows);
                for (row, found) in rows.iter().zip(found) {
                    let x = from.value(row[0]);
                    let x = match *mode {
                        "rni" => x.round_ties_even(),
                        "rzi" => x.trunc(),
                        "rmi" => x.floor(),
                        "rpi" => x.ceil(),
                        _ => x,
                    };
                    let expected = to.round(Exact::Float(x), mode);
                    // NaN of f64 keep what they carry
                    let nan = to == F64 && x.is_nan() && f64::from_bits(found).is_nan();
                    assert!(
                        nan || found == expected,
                        "{op} of {:#x}: {found:#x}, expected {expected:#x}",
                        row[0]
                    );
                }
            }
        }
    }
}

#[test]
fn results_are_clamped_to_one_made_positive_or_kept_finite() {
    let rows = rows(&f32_bits());
    for to in [F16, BF16] {
        for mode in ["rn", "rz"] {
            let name = to.name;
            let positive = |x: f64| if x <= 0.0 { 0.0 } else { x };
            check(
                &format!("cvt.{mode}.relu.{name}.f32"),
                &[2, 4],
                &rows,
                |r| to.round(Exact::Float(positive(F32.value(r[0]))), mode),
            );
            let finite = |bits: u64| {
                let sign = bits & to.sign();
                match (bits & (to.sign() - 1)).cmp(&to.infinity()) {
                    Ordering::Equal => sign | (to.infinity() - 1),
                    _ => bits,
                }
            };
            check(
                &format!("cvt.{mode}.satfinite.{name}.f32"),
                &[2, 4],
                &rows,
                |r| finite(to.round(Exact::Float(F32.value(r[0])), mode)),
            );
            let two = pairs(&f32_bits()[..40]);
            for (what, relu) in [("", false), (".relu", true)] {
                let op = format!("cvt.{mode}{what}.{name}x2.f32");
                check(&op, &[4, 4, 4], &two, |r| {
                    let one = |bits: u64| {
                        let x = F32.value(bits);
                        to.round(Exact::Float(if relu { positive(x) } else { x }), mode)
                    };
                    one(r[0]) << 16 | one(r[1])
                });
            }
        }
    }
    let unit = |x: f64| {
        if x.is_nan() {
            0.0
        } else {
            x.clamp(0.0, 1.0) + 0.0
        }
    };
    for from in FLOATS {
        let rows: Vec<Vec<u64>> = from.values().iter().map(|&v| vec![v]).collect();
        for to in [F16, F32, F64] {
            if to == from || to.bytes() > from.bytes() {
                let op = format!("cvt.sat.{}.{}", to.name, from.name);
                check(&op, &[to.bytes(), from.bytes()], &rows, |r| {
                    to.round(Exact::Float(unit(from.value(r[0]))), "rn")
                });
            } else {
                for mode in ["rn", "rz", "rm", "rp"] {
                    let op = format!("cvt.{mode}.sat.{}.{}", to.name, from.name);
                    check(&op, &[to.bytes(), from.bytes()], &rows, |r| {
                        to.round(Exact::Float(unit(from.value(r[0]))), mode)
                    });
                }
            }
        }
    }
}

#[test]
fn denormals_of_f32_are_flushed_where_it_is_said() {
    let flush = |bits: u64| {
        if bits & 0x7f80_0000 == 0 {
            bits & 0x8000_0000
        } else {
            bits
        }
    };
    let rows32 = rows(&f32_bits());
    for mode in ["rn", "rz", "rm", "rp"] {
        check(&format!("cvt.{mode}.ftz.f16.f32"), &[2, 4], &rows32, |r| {
            F16.round(Exact::Float(F32.value(flush(r[0]))), mode)
        });
        let rows64 = rows(&F64.values());
        check(&format!("cvt.{mode}.ftz.f32.f64"), &[4, 8], &rows64, |r| {
            flush(F32.round(Exact::Float(F64.value(r[0])), mode))
        });
    }
    check("cvt.rpi.ftz.s32.f32", &[4, 4], &rows32, |r| {
        u64::from(F32.value(flush(r[0])).ceil() as i32 as u32)
    });
    check("cvt.rpi.ftz.f32.f32", &[4, 4], &rows32, |r| {
        F32.round(Exact::Float(F32.value(flush(r[0])).ceil()), "rn")
    });
}

/// 19 bits of f32: to the nearest, ties away from zero or to even, or cut off.
#[test]
fn tf32_is_rounded_in_each_way() {
    let tf32 = Float {
        name: "tf32",
        fraction: 10,
        exponent: 8,
    };
    let rows = rows(&f32_bits());
    for mode in ["rna", "rn", "rz"] {
        for what in ["", ".relu"] {
            let op = format!("cvt.{mode}{what}.tf32.f32");
            if (mode, what) == ("rna", ".relu") {
                continue;
            }
            check(&op, &[4, 4], &rows, |r| {
                let x = F32.value(r[0]);
                let x = if what == ".relu" && x <= 0.0 { 0.0 } else { x };
                if x.is_nan() {
                    return 0x7fff_ffff;
                }
                let mut bits = tf32.round(Exact::Float(x), mode);
                let cut = tf32.round(Exact::Float(x), "rz");
                if mode == "rna" && bits == cut && x.is_finite() {
                    // a tie that went to the even one below
                    let (low, high) = (
                        tf32.magnitude(cut & 0x3ffff),
                        tf32.magnitude((cut & 0x3ffff) + 1),
                    );
                    if x.abs() != low && x.abs() == low + (high - low) / 2.0 {
                        bits += 1;
                    }
                }
                bits << 13
            });
        }
    }
}

/// e4m3 and e5m2 by search: the nearest of all 8-bit numbers, ties to the even one.
#[test]
fn eight_bit_floats_are_the_nearest() {
    let value = |bits: u64, e5: bool| -> f64 {
        let (e, m, bias) = if e5 {
            (bits >> 2 & 31, bits & 3, 15)
        } else {
            (bits >> 3 & 15, bits & 7, 7)
        };
        let scale = if e5 { 4.0 } else { 8.0 };
        let m = m as f64 / scale;
        let magnitude = if e == 0 {
            m * 2f64.powi(1 - bias)
        } else {
            (1.0 + m) * 2f64.powi(e as i32 - bias)
        };
        if bits & 0x80 != 0 {
            -magnitude
        } else {
            magnitude
        }
    };
    let rows = pairs(&f32_bits());
    for e5 in [false, true] {
        let largest = if e5 { 0x7bu64 } else { 0x7e };
        let nearest = |bits: u64| -> u64 {
            let x = f32_of(bits);
            if x.is_nan() {
                return 0x7f;
            }
            let sign = u64::from(x.is_sign_negative()) << 7;
            let x = f64::from(x.abs()).min(value(largest, e5));
            let best = (0..=largest).min_by(|&a, &b| {
                let (da, db) = ((value(a, e5) - x).abs(), (value(b, e5) - x).abs());
                da.total_cmp(&db).then((a & 1).cmp(&(b & 1)))
            });
            best.unwrap_or(0) | sign
        };
        let name = if e5 { "e5m2x2" } else { "e4m3x2" };
        let op = format!("cvt.rn.satfinite.{name}.f32");
        check(&op, &[2, 4, 4], &rows, |r| {
            nearest(r[0]) << 8 | nearest(r[1])
        });
        let all: Vec<Vec<u64>> = (0..=0xffff).map(|v| vec![v]).collect();
        check(&format!("cvt.rn.f16x2.{name}"), &[4, 2], &all, |r| {
            let half = |b: u64| {
                let magnitude = b & 0x7f;
                let nan = if e5 {
                    magnitude > 0x7c
                } else {
                    magnitude == 0x7f
                };
                if nan {
                    return 0x7fff;
                }
                if e5 && magnitude == 0x7c {
                    return 0x7c00 | (b & 0x80) << 8;
                }
                u64::from(half::f16::from_f64(value(b, e5)).to_bits())
            };
            half(r[0] >> 8) << 16 | half(r[0] & 0xff)
        });
    }
}
