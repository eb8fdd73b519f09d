//! 64-bit floats against the host, and in every direction of rounding against exact integers.

mod common;

use common::apply::*;
use std::cmp::Ordering;

/// Magnitude of a finite number: an integer, and the power of two that it is multiplied by.
fn split(x: f64) -> (u128, i32) {
    let bits = x.to_bits();
    let e = (bits >> 52 & 0x7ff) as i32;
    let f = u128::from(bits & ((1 << 52) - 1));
    if e == 0 {
        (f, -1074)
    } else {
        (f | 1 << 52, e - 1075)
    }
}

fn product(a: (u128, i32), b: (u128, i32)) -> (u128, i32) {
    (a.0 * b.0, a.1 + b.1)
}

/// Compares two magnitudes exactly.
fn compare(a: (u128, i32), b: (u128, i32)) -> Ordering {
    match (a.0, b.0) {
        (0, 0) => return Ordering::Equal,
        (0, _) => return Ordering::Less,
        (_, 0) => return Ordering::Greater,
        _ => {}
    }
    // both with their top bit at the top
    let top = |(f, e): (u128, i32)| {
        let shift = f.leading_zeros();
        (e - shift as i32, f << shift)
    };
    top(a).cmp(&top(b))
}

fn values() -> Vec<u64> {
    let mut values: Vec<f64> = vec![
        0.0,
        1.0,
        1.5,
        3.0,
        0.1,
        7.0,
        f64::MIN_POSITIVE,
        f64::from_bits(1),
        f64::from_bits(0x000f_ffff_ffff_ffff),
        f64::MAX,
        f64::INFINITY,
        1e-300,
        1e300,
        1.0 + f64::EPSILON,
        2.0 - f64::EPSILON,
        4e-320,
    ];
    values.extend(values.clone().iter().map(|v| -v));
    values.push(f64::NAN);
    let mut bits: Vec<u64> = values.iter().map(|v| v.to_bits()).collect();
    let mut x = 88_172_645_463_325_252u64;
    for _ in 0..30 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bits.push(x);
        bits.push(x >> 12 | 0x3ff0_0000_0000_0000);
    }
    bits
}

/// Checks what an operation gives in each direction. `near` is the host's result, rounded to
/// nearest; `side` compares a magnitude with that of the exact result, where it is finite.
fn check_directions(op: &str, types: &[usize], rows: &[Vec<u64>], exact: &dyn Fn(&[u64]) -> Exact) {
    let run = |mode: &str| apply(&op.replace('*', mode), types, rows);
    let (near, down, up, zero) = (run("rn"), run("rm"), run("rp"), run("rz"));
    let f = f64::from_bits;
    for (i, row) in rows.iter().enumerate() {
        let (n, d, u, z) = (f(near[i]), f(down[i]), f(up[i]), f(zero[i]));
        let name = || format!("{op} {row:x?}: {n:e} {d:e} {u:e} {z:e}");
        let Exact { nearest, side } = exact(row);
        assert!(
            n.to_bits() == nearest.to_bits() || n.is_nan() && nearest.is_nan(),
            "{}",
            name()
        );
        let Some(side) = side else {
            // exact: infinities, zeros, no number
            for v in [d, u, z] {
                assert!(v == nearest || v.is_nan() && nearest.is_nan(), "{}", name());
            }
            continue;
        };
        let negative = n.is_sign_negative();
        let (inner, outer) = if negative { (u, d) } else { (d, u) };
        assert_eq!(z.to_bits(), inner.to_bits(), "{}", name());
        assert_eq!(inner.is_sign_negative(), negative, "{}", name());
        assert!(inner.is_finite(), "{}", name());
        match side(split(inner)) {
            Ordering::Equal => assert_eq!(inner, outer, "{}", name()),
            Ordering::Greater => panic!("{}", name()),
            Ordering::Less => {
                assert_eq!(inner.abs().next_up(), outer.abs(), "{}", name());
                if outer.is_finite() {
                    assert_eq!(side(split(outer)), Ordering::Greater, "{}", name());
                }
            }
        }
    }
}

type Side = Box<dyn Fn((u128, i32)) -> Ordering>;

struct Exact {
    nearest: f64,
    side: Option<Side>,
}

#[test]
fn quotients_are_the_neighbours_of_the_exact_one() {
    let f = f64::from_bits;
    check_directions("div.*.f64", &[8, 8, 8], &pairs(&values()), &|r| {
        let (a, b) = (f(r[0]), f(r[1]));
        let plain = a != 0.0 && b != 0.0 && a.is_finite() && b.is_finite();
        // q against a / b is q b against a
        let side = move |q| compare(product(q, split(b)), split(a));
        Exact {
            nearest: a / b,
            side: plain.then(|| Box::new(side) as Side),
        }
    });
    let single: Vec<Vec<u64>> = values().iter().map(|&v| vec![v]).collect();
    check_directions("rcp.*.f64", &[8, 8], &single, &|r| {
        let b = f(r[0]);
        let side = move |q| compare(product(q, split(b)), split(1.0));
        Exact {
            nearest: 1.0 / b,
            side: (b != 0.0 && b.is_finite()).then(|| Box::new(side) as Side),
        }
    });
}

#[test]
fn products_and_roots_are_the_neighbours_of_the_exact_ones() {
    let f = f64::from_bits;
    check_directions("mul.*.f64", &[8, 8, 8], &pairs(&values()), &|r| {
        let (a, b) = (f(r[0]), f(r[1]));
        let plain = a != 0.0 && b != 0.0 && a.is_finite() && b.is_finite();
        let side = move |q| compare(q, product(split(a), split(b)));
        Exact {
            nearest: a * b,
            side: plain.then(|| Box::new(side) as Side),
        }
    });
    let single: Vec<Vec<u64>> = values().iter().map(|&v| vec![v]).collect();
    check_directions("sqrt.*.f64", &[8, 8], &single, &|r| {
        let a = f(r[0]);
        let side = move |q| compare(product(q, q), split(a));
        Exact {
            nearest: a.sqrt(),
            side: (a > 0.0 && a.is_finite()).then(|| Box::new(side) as Side),
        }
    });
}

/// Numbers between 1 and 2, and addends near their products: sums are integers of 128 bits times
/// 2^-119.
#[test]
fn fused_sums_are_the_neighbours_of_the_exact_one() {
    let f = f64::from_bits;
    let one = |v: u64| v >> 12 | 0x3ff0_0000_0000_0000;
    let mut rows = Vec::new();
    for row in triples(&values()) {
        let (a, b) = (one(row[0]), one(row[1]));
        for e in [-67, -66, -60, -52, -51, -50, -40, -33] {
            // a significand times 2^(e - 52), of either sign
            let c = f(one(row[2])) * 2f64.powi(e);
            rows.push(vec![a, b, c.to_bits()]);
            rows.push(vec![a, b, (-c).to_bits()]);
        }
        // one that takes the product away but for its last bits
        rows.push(vec![a, b, (-(f(a) * f(b))).to_bits()]);
    }
    let scaled = |x: f64| -> i128 {
        let (m, e) = split(x);
        let shift = e + 119;
        let m = if shift >= 0 {
            m << shift
        } else {
            assert_eq!(m & ((1 << -shift) - 1), 0, "{x:e}");
            m >> -shift
        };
        if x < 0.0 { -(m as i128) } else { m as i128 }
    };
    let results: Vec<Vec<u64>> = ["rn", "rm", "rp", "rz"]
        .iter()
        .map(|mode| apply(&format!("fma.{mode}.f64"), &[8, 8, 8, 8], &rows))
        .collect();
    for (i, row) in rows.iter().enumerate() {
        let (a, b, c) = (f(row[0]), f(row[1]), f(row[2]));
        let exact = (split(a).0 * split(b).0 << 15) as i128 + scaled(c);
        let [n, d, u, z] = [0, 1, 2, 3].map(|m: usize| f(results[m][i]));
        let name = || format!("{a:e} {b:e} {c:e}: {n:e} {d:e} {u:e} {z:e}");
        assert_eq!(n, a.mul_add(b, c), "{}", name());
        if exact == 0 {
            assert!(
                d == 0.0 && d.is_sign_negative() && u.to_bits() == 0,
                "{}",
                name()
            );
            continue;
        }
        assert!(scaled(d) <= exact && exact <= scaled(u), "{}", name());
        assert!(
            d == u && scaled(d) == exact || d.next_up() == u,
            "{}",
            name()
        );
        assert_eq!(z, if exact > 0 { d } else { u }, "{}", name());
    }
    let special = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        f64::INFINITY,
        f64::NAN,
        f64::MAX,
        5e-324,
    ];
    let rows = triples(&special.map(f64::to_bits));
    for mode in ["rz", "rm", "rp"] {
        let found = apply(&format!("fma.{mode}.f64"), &[8, 8, 8, 8], &rows);
        for (row, found) in rows.iter().zip(found) {
            let (a, b, c, found) = (f(row[0]), f(row[1]), f(row[2]), f(found));
            let near = a.mul_add(b, c);
            let name = || format!("{mode} {a:e} {b:e} {c:e}: {found:e}");
            if near.is_nan() || !a.is_finite() || !b.is_finite() || !c.is_finite() {
                assert!(
                    found.is_nan() && near.is_nan() || found == near,
                    "{}",
                    name()
                );
            } else if near == 0.0 && (a == 0.0 || b == 0.0) {
                // zeros of both signs add to the one that the direction asks for
                let product = a.is_sign_negative() != b.is_sign_negative();
                let negative = if product == c.is_sign_negative() {
                    product
                } else {
                    mode == "rm"
                };
                assert!(
                    found == 0.0 && found.is_sign_negative() == negative,
                    "{}",
                    name()
                );
            }
        }
    }
}

#[test]
fn gross_approximations_keep_twenty_bits() {
    let single: Vec<Vec<u64>> = values().iter().map(|&v| vec![v]).collect();
    let f = f64::from_bits;
    type Function = fn(f64) -> f64;
    let ops: [(&str, Function); 2] = [
        ("rcp.approx.ftz.f64", |x| 1.0 / x),
        ("rsqrt.approx.ftz.f64", |x| 1.0 / x.sqrt()),
    ];
    for (op, exact) in ops {
        for (row, found) in single.iter().zip(apply(op, &[8, 8], &single)) {
            let x = f(row[0]);
            let flushed = if x.is_subnormal() {
                0f64.copysign(x)
            } else {
                x
            };
            let e = exact(flushed);
            let found_value = f(found);
            assert_eq!(found & 0xffff_ffff, 0, "{op} {x:e}");
            if e.is_nan() {
                assert!(found_value.is_nan(), "{op} {x:e}");
            } else if e.is_infinite() || e == 0.0 {
                assert_eq!(found_value.to_bits(), e.to_bits(), "{op} {x:e}");
            } else if e.is_normal() {
                let error = ((found_value - e) / e).abs();
                assert!(error < 2f64.powi(-18), "{op} {x:e}: {error:e}");
            }
        }
    }
}

#[test]
fn double_precision_is_the_hosts_and_directed_products_bracket() {
    let mut values: Vec<u64> = f32_values()
        .iter()
        .map(|v| f64::from(*v).to_bits())
        .collect();
    values.extend([
        1,
        f64::MIN_POSITIVE.to_bits(),
        f64::MAX.to_bits(),
        0x000f_ffff_ffff_ffff,
    ]);
    let values: Vec<u64> = values
        .into_iter()
        .filter(|v| !f64::from_bits(*v).is_nan())
        .collect();
    let rows = pairs(&values);
    let f = f64::from_bits;
    let same = |x: f64, found: u64| x.is_nan() && f(found).is_nan() || x.to_bits() == found;
    for (op, exact) in [
        ("add.rn.f64", (|a, b| a + b) as fn(f64, f64) -> f64),
        ("mul.rn.f64", |a, b| a * b),
        ("div.rn.f64", |a, b| a / b),
    ] {
        for (row, found) in rows.iter().zip(apply(op, &[8, 8, 8], &rows)) {
            let e = exact(f(row[0]), f(row[1]));
            assert!(same(e, found), "{op} {row:x?} {found:x}");
        }
    }
    for op in ["add", "mul"] {
        let near = apply(&format!("{op}.rn.f64"), &[8, 8, 8], &rows);
        let down = apply(&format!("{op}.rm.f64"), &[8, 8, 8], &rows);
        let up = apply(&format!("{op}.rp.f64"), &[8, 8, 8], &rows);
        for i in 0..rows.len() {
            let (n, d, u) = (f(near[i]), f(down[i]), f(up[i]));
            if n.is_nan() {
                continue;
            }
            assert!(d <= n && n <= u, "{op} {:x?}", rows[i]);
            assert!(
                d == u || d.next_up() == u,
                "{op} {:x?} {d:e} {u:e}",
                rows[i]
            );
        }
    }
}

#[test]
fn signs_and_extremes_of_f64() {
    let values: Vec<u64> = f32_values()
        .iter()
        .take(60)
        .map(|v| f64::from(*v).to_bits())
        .chain([1, 1 << 63 | 1, f64::MAX.to_bits(), f64::NAN.to_bits()])
        .collect();
    let rows = pairs(&values);
    let f = f64::from_bits;
    let is_nan = |v: u64| f(v).is_nan();
    for (op, greater) in [("min", false), ("max", true)] {
        let found = apply(&format!("{op}.f64"), &[8, 8, 8], &rows);
        for (r, found) in rows.iter().zip(found) {
            let expected = match (is_nan(r[0]), is_nan(r[1])) {
                (true, true) => {
                    assert!(is_nan(found), "{op} {r:x?}");
                    continue;
                }
                (true, false) => r[1],
                (false, true) => r[0],
                // total order puts -0 below +0
                _ if f(r[0]).total_cmp(&f(r[1])).is_ge() == greater => r[0],
                _ => r[1],
            };
            assert_eq!(found, expected, "{op} {r:x?}");
        }
    }
    check("abs.f64", &[8, 8], &rows, |r| r[0] & (u64::MAX >> 1));
    check("neg.f64", &[8, 8], &rows, |r| r[0] ^ 1 << 63);
    check("copysign.f64", &[8, 8, 8], &rows, |r| {
        r[1] & (u64::MAX >> 1) | r[0] & 1 << 63
    });
}
