//! 32-bit floats against the host: arithmetic, comparisons, conversions.

mod common;

use common::apply::*;

#[test]
fn f32_arithmetic_rounds_once_and_gives_the_canonical_nan() {
    let rows = pairs(&f32_bits());
    let f = f32_of;
    check("add.rn.f32", &[4, 4, 4], &rows, |r| {
        canonical(f(r[0]) + f(r[1]))
    });
    check("sub.f32", &[4, 4, 4], &rows, |r| {
        canonical(f(r[0]) - f(r[1]))
    });
    check("mul.rn.f32", &[4, 4, 4], &rows, |r| {
        canonical(f(r[0]) * f(r[1]))
    });
    check("div.rn.f32", &[4, 4, 4], &rows, |r| {
        canonical(f(r[0]) / f(r[1]))
    });
    check("fma.rn.f32", &[4, 4, 4, 4], &triples(&f32_bits()), |r| {
        canonical(f(r[0]).mul_add(f(r[1]), f(r[2])))
    });
    let single: Vec<Vec<u64>> = f32_bits().iter().map(|&v| vec![v]).collect();
    check("sqrt.rn.f32", &[4, 4], &single, |r| {
        canonical(f(r[0]).sqrt())
    });
    check("rcp.rn.f32", &[4, 4], &single, |r| canonical(1.0 / f(r[0])));
    check("neg.f32", &[4, 4], &single, |r| canonical(-f(r[0])));
    check("abs.f32", &[4, 4], &single, |r| canonical(f(r[0]).abs()));
}

#[test]
fn ftz_flushes_operands_and_results_and_sat_clamps() {
    let rows = pairs(&f32_bits());
    let z = |x: f32| {
        if x.is_subnormal() {
            0f32.copysign(x)
        } else {
            x
        }
    };
    let f = |b| z(f32_of(b));
    check("add.ftz.f32", &[4, 4, 4], &rows, |r| {
        canonical(z(f(r[0]) + f(r[1])))
    });
    check("mul.ftz.f32", &[4, 4, 4], &rows, |r| {
        canonical(z(f(r[0]) * f(r[1])))
    });
    let sat = |x: f32| {
        if x.is_nan() {
            0
        } else {
            u64::from((x.clamp(0.0, 1.0) + 0.0).to_bits())
        }
    };
    check("add.sat.f32", &[4, 4, 4], &rows, |r| {
        sat(f32_of(r[0]) + f32_of(r[1]))
    });
    check(
        "fma.rn.ftz.sat.f32",
        &[4, 4, 4, 4],
        &triples(&f32_bits()),
        |r| sat(z(f(r[0]).mul_add(f(r[1]), f(r[2])))),
    );
}

/// Exact sums and products of f32 are sums of at most two f64; the direction is found by
/// comparing the rounded value with the exact one.
#[test]
fn directed_rounding_of_f32_brackets_the_exact_result() {
    let rows = pairs(&f32_bits());
    for (op, exact) in [
        ("mul", (|a, b| a * b) as fn(f64, f64) -> f64),
        // f64 addition of f32 numbers whose exponents are near is exact
        ("add", |a, b| a + b),
    ] {
        let near = |r: &[u64]| {
            let (a, b) = (f32_of(r[0]), f32_of(r[1]));
            op == "mul" || a.abs() > 1e-10 && a.abs() < 1e5 && b.abs() > 1e-10 && b.abs() < 1e5
        };
        let rows: Vec<_> = rows.iter().filter(|r| near(r)).cloned().collect();
        let down = apply(&format!("{op}.rm.f32"), &[4, 4, 4], &rows);
        let up = apply(&format!("{op}.rp.f32"), &[4, 4, 4], &rows);
        let zero = apply(&format!("{op}.rz.f32"), &[4, 4, 4], &rows);
        for (i, row) in rows.iter().enumerate() {
            let e = exact(f64::from(f32_of(row[0])), f64::from(f32_of(row[1])));
            let (d, u, z) = (f32_of(down[i]), f32_of(up[i]), f32_of(zero[i]));
            if e.is_nan() {
                assert!(d.is_nan() && u.is_nan() && z.is_nan());
                continue;
            }
            assert!(f64::from(d) <= e && e <= f64::from(u), "{op} {row:x?}");
            assert!(d == u || d.next_up() == u, "{op} {row:x?}: {d:e} {u:e}");
            let towards = if e > 0.0 { d } else { u };
            assert_eq!(z, towards, "{op} {row:x?}");
        }
    }
}

#[test]
fn minimum_and_maximum_prefer_numbers_and_order_zeros() {
    let rows = pairs(&f32_bits());
    let less = |a: f32, b: f32| a < b || a == b && a.is_sign_negative();
    check("min.f32", &[4, 4, 4], &rows, |r| {
        let (a, b) = (f32_of(r[0]), f32_of(r[1]));
        canonical(if b.is_nan() || less(a, b) { a } else { b })
    });
    check("max.f32", &[4, 4, 4], &rows, |r| {
        let (a, b) = (f32_of(r[0]), f32_of(r[1]));
        canonical(if b.is_nan() || !a.is_nan() && !less(a, b) {
            a
        } else {
            b
        })
    });
    check("max.NaN.f32", &[4, 4, 4], &rows, |r| {
        let (a, b) = (f32_of(r[0]), f32_of(r[1]));
        if a.is_nan() || b.is_nan() {
            return 0x7fff_ffff;
        }
        canonical(if less(a, b) { b } else { a })
    });
}

fn single() -> Vec<Vec<u64>> {
    f32_bits().iter().map(|&v| vec![v]).collect()
}

/// Where the exact result lies of a float: below, at or above it.
type Side = fn(&[u64], f32) -> std::cmp::Ordering;

/// Quotients, roots, sums and fused sums in every direction, judged by the sign of an exact
/// difference: what is rounded down is the last float not above, what is rounded up the first not
/// below.
#[test]
fn directed_results_of_f32_are_the_neighbours_of_the_exact_one() {
    let wide = |bits: u64| f64::from(f32_of(bits));
    // products of two floats are exact in f64, unless they are denormal there; so is a sum of two
    // numbers of which the parts are compared apart
    let compare = |a: f64, b: f64| a.partial_cmp(&b).expect("numbers");
    let rcp: Side = |r, x| {
        // 1 against x a, for a > 0
        let (a, x) = (f64::from(f32_of(r[0])), f64::from(x));
        let order = 1f64.partial_cmp(&(x * a)).expect("numbers");
        if a < 0.0 { order.reverse() } else { order }
    };
    let div: Side = |r, x| {
        let (a, b, x) = (
            f64::from(f32_of(r[0])),
            f64::from(f32_of(r[1])),
            f64::from(x),
        );
        let order = a.partial_cmp(&(x * b)).expect("numbers");
        if b < 0.0 { order.reverse() } else { order }
    };
    let sqrt: Side = |r, x| {
        let (a, x) = (f64::from(f32_of(r[0])), f64::from(x));
        a.partial_cmp(&(x * x)).expect("numbers")
    };
    let normal = |v: u64| f32_of(v).is_normal();
    let ones: Vec<Vec<u64>> = single().into_iter().filter(|r| normal(r[0])).collect();
    let positive: Vec<Vec<u64>> = ones
        .iter()
        .filter(|r| f32_of(r[0]) > 0.0)
        .cloned()
        .collect();
    let two: Vec<Vec<u64>> = pairs(&f32_bits())
        .into_iter()
        .filter(|r| normal(r[0]) && normal(r[1]))
        .collect();
    for (op, rows, side) in [
        ("rcp", &ones, rcp),
        ("sqrt", &positive, sqrt),
        ("div", &two, div),
    ] {
        let types = vec![4; 1 + rows[0].len()];
        let run = |mode: &str| apply(&format!("{op}.{mode}.f32"), &types, rows);
        let (down, up, zero, near) = (run("rm"), run("rp"), run("rz"), run("rn"));
        for (i, row) in rows.iter().enumerate() {
            let (d, u) = (f32_of(down[i]), f32_of(up[i]));
            let what = || format!("{op} {row:x?}: {d:e} {u:e}");
            assert!(d == u || d.next_up() == u, "{}", what());
            if d.is_finite() {
                assert!(side(row, d).is_ge(), "{}", what());
                assert!(d == u || side(row, d).is_gt(), "{}", what());
            }
            if u.is_finite() {
                assert!(side(row, u).is_le(), "{}", what());
            }
            let towards = if d.is_sign_positive() { d } else { u };
            assert_eq!(f32_of(zero[i]).to_bits(), towards.to_bits(), "{}", what());
            assert!(near[i] == down[i] || near[i] == up[i], "{}", what());
        }
    }
    // a - b and a b + c, where f64 holds them exactly
    let modest = |v: u64| (1e-3..1e3).contains(&f32_of(v).abs());
    let mut values: Vec<u64> = f32_bits().into_iter().filter(|&v| modest(v)).collect();
    values.extend([0, 1 << 31]);
    for (op, count) in [("sub", 2), ("fma", 3)] {
        let rows = if count == 2 {
            pairs(&values)
        } else {
            triples(&values)
        };
        let exact = |r: &[u64]| match count {
            2 => wide(r[0]) - wide(r[1]),
            _ => wide(r[0]) * wide(r[1]) + wide(r[2]),
        };
        // bits of both terms lie within the 53 of the sum
        let rows: Vec<Vec<u64>> = rows
            .into_iter()
            .filter(|r| {
                let e = exact(r);
                let (a, c) = match count {
                    2 => (wide(r[0]), -wide(r[1])),
                    _ => (wide(r[0]) * wide(r[1]), wide(r[2])),
                };
                e - a == c && e - c == a
            })
            .collect();
        assert!(rows.len() > 300, "{op}: {}", rows.len());
        let types = vec![4; 1 + count];
        let run = |mode: &str| apply(&format!("{op}.{mode}.f32"), &types, &rows);
        let (down, up, zero) = (run("rm"), run("rp"), run("rz"));
        for (i, row) in rows.iter().enumerate() {
            let (d, u, e) = (f32_of(down[i]), f32_of(up[i]), exact(row));
            let what = || format!("{op} {row:x?}: {d:e} {u:e}, exactly {e:e}");
            assert!(
                compare(d.into(), e).is_le() && compare(u.into(), e).is_ge(),
                "{}",
                what()
            );
            let least = d == u || d.next_up() == u;
            assert!(least, "{}", what());
            if e == 0.0 {
                // an exact zero of terms that are none is -0 when rounded down
                let zeros = match count {
                    2 => row.iter().all(|&v| f32_of(v) == 0.0),
                    _ => f32_of(row[2]) == 0.0,
                };
                assert!(
                    zeros || d.is_sign_negative() && u.is_sign_positive(),
                    "{}",
                    what()
                );
                continue;
            }
            let towards = if e > 0.0 { d } else { u };
            assert_eq!(f32_of(zero[i]).to_bits(), towards.to_bits(), "{}", what());
        }
    }
}

#[test]
fn denormals_of_f32_are_flushed_in_every_operation() {
    let flush = |bits: u64| {
        if f32_of(bits).is_subnormal() {
            bits & 0x8000_0000
        } else {
            bits
        }
    };
    for (op, count) in [
        ("sub.ftz", 2),
        ("sub.rm.ftz", 2),
        ("mul.rp.ftz", 2),
        ("div.rn.ftz", 2),
        ("div.rz.ftz", 2),
        ("min.ftz", 2),
        ("max.ftz", 2),
        ("max.ftz.NaN", 2),
        ("fma.rn.ftz", 3),
        ("fma.rz.ftz", 3),
        ("sqrt.rn.ftz", 1),
        ("rcp.rp.ftz", 1),
        ("abs.ftz", 1),
        ("neg.ftz", 1),
    ] {
        let rows = match count {
            1 => single(),
            2 => pairs(&f32_bits()[..60]),
            _ => triples(&f32_bits()[..60]),
        };
        let flushed: Vec<Vec<u64>> = rows
            .iter()
            .map(|r| r.iter().map(|&v| flush(v)).collect())
            .collect();
        let types = vec![4; 1 + count];
        let plain = apply(&format!("{}.f32", op.replace(".ftz", "")), &types, &flushed);
        let found = apply(&format!("{op}.f32"), &types, &rows);
        for i in 0..rows.len() {
            assert_eq!(found[i], flush(plain[i]), "{op} {:x?}", rows[i]);
        }
    }
}
