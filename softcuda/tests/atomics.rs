//! Atomics and reductions of every operation, type and space.

mod common;

use common::apply::{canonical, f32_bits, integers, suffix};
use common::{Device, Param, kernel};

#[test]
fn atomics_give_old_values_and_lose_nothing() {
    for (op, start, value, fold) in [
        ("add.u32", 5u32, "3", (|a, b| a + b) as fn(u32, u32) -> u32),
        ("max.s32", 0x8000_0000, "7", |a, b| {
            (a as i32).max(b as i32) as u32
        }),
        ("min.u32", 9, "4", u32::min),
        ("and.b32", 0xff, "0x0f", |a, b| a & b),
        ("xor.b32", 1, "2", |a, b| a ^ b),
        ("exch.b32", 1, "8", |_, b| b),
        ("inc.u32", 0, "9", |a, b| if a >= b { 0 } else { a + 1 }),
        (
            "dec.u32",
            3,
            "5",
            |a, b| if a == 0 || a > b { b } else { a - 1 },
        ),
    ] {
        let device = Device::tiny();
        let body = format!(
            "atom.global.{op} %d, [%p1], {value};\nmad.lo.u64 %a, %t64, 4, %p0;\n\
             st.global.b32 [%a], %d;"
        );
        let module = device.load(&kernel(2, ".reg .b32 %d;", &body));
        let cell = device.upload(&[start]);
        let out = device.empty(4 * 256);
        let grid = device.grid(&module, "k", 4, 64, &[Param::Ptr(out), Param::Ptr(cell)]);
        device.run(&[grid]).expect("no violation");
        let operand = value
            .strip_prefix("0x")
            .map_or_else(|| value.parse(), |v| u32::from_str_radix(v, 16))
            .expect("a number");
        let mut olds: Vec<u32> = device.download(out, 256);
        let (mut expected, mut now) = (Vec::new(), start);
        for _ in 0..256 {
            expected.push(now);
            now = fold(now, operand);
        }
        olds.sort_unstable();
        expected.sort_unstable();
        assert_eq!(olds, expected, "{op}");
        assert_eq!(device.download::<u32>(cell, 1), [now], "{op}");
    }
    // packed halves and f32 in red
    let device = Device::tiny();
    let module = device.load(&kernel(
        1,
        ".reg .b32 %d;",
        "mov.b32 %d, 0x3c003f80;\nred.global.add.noftz.bf16x2 [%p0], 0x3f803f80;\n\
         red.global.add.f32 [%p0+4], 0f3F000000;",
    ));
    let cell = device.upload(&[0u32, 0]);
    let grid = device.grid(&module, "k", 1, 64, &[Param::Ptr(cell)]);
    device.run(&[grid]).expect("no violation");
    let found: Vec<u32> = device.download(cell, 2);
    let bf16 = u32::from(half::bf16::from_f32(64.0).to_bits());
    assert_eq!(found, [bf16 << 16 | bf16, 32f32.to_bits()]);
}

/// Rows of (start, operand, second operand): what is left, one cell for each thread.
type Fold = fn(u64, u64, u64) -> u64;

/// Runs `op` as `atom` and `red` in each space, every thread on a cell of its own; what was there
/// and what is left must be what `fold` says.
fn check(op: &str, ty: &str, rows: &[[u64; 3]], fold: impl Fn(&str, &[u64; 3]) -> u64) {
    let bytes = match ty {
        "b16" | "f16" | "bf16" => 2,
        "u64" | "s64" | "b64" | "f64" => 8,
        _ => 4,
    };
    let third = if op == "cas" { ", %z" } else { "" };
    let noftz = if matches!(ty, "f16" | "bf16" | "f16x2" | "bf16x2") {
        ".noftz"
    } else {
        ""
    };
    let b = suffix(bytes);
    let pack = |i: usize| -> Vec<u8> {
        let parts = rows.iter().map(|r| r[i].to_le_bytes());
        parts.flat_map(|p| p.into_iter().take(bytes)).collect()
    };
    let number = |data: &[u8]| {
        let mut all = [0; 8];
        all[..bytes].copy_from_slice(data);
        u64::from_le_bytes(all)
    };
    for space in ["global", "shared", ""] {
        for reduction in [false, true] {
            if reduction && matches!(op, "exch" | "cas") {
                continue;
            }
            let dot = if space.is_empty() { "" } else { "." };
            let name = if reduction { "red" } else { "atom" };
            let old = if reduction { "" } else { "%old, " };
            let cell = if space == "shared" { "%bb" } else { "%a" };
            let declarations = format!(
                ".reg .{b} %old, %y, %z, %x;\n.shared .align 8 .b8 cells[8192];\n.reg .b64 %w;"
            );
            let body = format!(
                "mov.{b} %old, 0;\nmul.lo.u64 %w, %t64, {bytes};\nadd.u64 %a, %w, %p2;\nld.global.{b} %y, [%a];\n\
                 add.u64 %a, %w, %p3;\nld.global.{b} %z, [%a];\nadd.u64 %a, %w, %p1;\n\
                 mov.u64 %bb, cells;\nadd.u64 %bb, %bb, %w;\nld.global.{b} %x, [%a];\nst.shared.{b} [%bb], %x;\n\
                 {name}{dot}{space}.{op}{noftz}.{ty} {old}[{cell}], %y{third};\n\
                 ld.shared.{b} %x, [%bb];\nadd.u64 %w, %w, %p0;\nst.global.{b} [%w], %old;\n\
                 setp.ne.u64 %q, %bb, {cell};\n@!%q st.global.{b} [%a], %x;"
            );
            let device = Device::tiny();
            let module = device.load(&kernel(
                4,
                &format!("{declarations}\n.reg .pred %q;"),
                &body,
            ));
            let olds = device.empty((rows.len() * bytes) as u64);
            let cells = device.upload(&pack(0));
            let params = [
                olds,
                cells,
                device.upload(&pack(1)),
                device.upload(&pack(2)),
            ];
            let grid = device.grid(&module, "k", 1, rows.len() as u32, &params.map(Param::Ptr));
            device.run(&[grid]).expect("no violation");
            let olds: Vec<u8> = device.download(olds, rows.len() * bytes);
            let cells: Vec<u8> = device.download(cells, rows.len() * bytes);
            for (i, row) in rows.iter().enumerate() {
                let at = bytes * i..bytes * (i + 1);
                let what = format!("{name}{dot}{space}.{op}.{ty} {row:x?}");
                let start = if reduction {
                    0
                } else {
                    number(&row[0].to_le_bytes()[..bytes])
                };
                assert_eq!(number(&olds[at.clone()]), start, "{what}");
                let left = number(&fold(space, row).to_le_bytes()[..bytes]);
                assert_eq!(number(&cells[at]), left, "{what}");
            }
        }
    }
}

fn rows(values: &[u64]) -> Vec<[u64; 3]> {
    let count = values.len();
    let mut rows: Vec<[u64; 3]> = (0..800)
        .map(|i| {
            [
                values[i % count],
                values[i * 7 / count % count],
                values[(i * 5 + 3) % count],
            ]
        })
        .collect();
    // where a comparison holds
    rows.extend(values.iter().map(|&v| [v, v, !v]));
    rows
}

#[test]
fn every_operation_on_integers_in_every_space() {
    let rows = rows(&integers());
    let folds: [(&str, &[&str], Fold); 16] = [
        ("add", &["u32", "s32", "u64"], |a, b, _| a.wrapping_add(b)),
        ("and", &["b32", "b64"], |a, b, _| a & b),
        ("or", &["b32", "b64"], |a, b, _| a | b),
        ("xor", &["b32", "b64"], |a, b, _| a ^ b),
        ("exch", &["b32", "b64"], |_, b, _| b),
        ("min", &["u32"], |a, b, _| (a as u32).min(b as u32).into()),
        ("max", &["u32"], |a, b, _| (a as u32).max(b as u32).into()),
        ("min", &["s32"], |a, b, _| (a as i32).min(b as i32) as u64),
        ("max", &["s32"], |a, b, _| (a as i32).max(b as i32) as u64),
        ("min", &["u64"], |a, b, _| a.min(b)),
        ("max", &["u64"], |a, b, _| a.max(b)),
        ("min", &["s64"], |a, b, _| (a as i64).min(b as i64) as u64),
        ("max", &["s64"], |a, b, _| (a as i64).max(b as i64) as u64),
        ("cas", &["b64"], |a, b, c| if a == b { c } else { a }),
        ("inc", &["u32"], |a, b, _| {
            let (a, b) = (a as u32, b as u32);
            u64::from(if a >= b { 0 } else { a + 1 })
        }),
        ("dec", &["u32"], |a, b, _| {
            let (a, b) = (a as u32, b as u32);
            u64::from(if a == 0 || a > b { b } else { a - 1 })
        }),
    ];
    for (op, types, fold) in folds {
        for ty in types {
            check(op, ty, &rows, |_, r| fold(r[0], r[1], r[2]));
        }
    }
    check("cas", "b32", &rows, |_, [a, b, c]| {
        if *a as u32 == *b as u32 { *c } else { *a }
    });
    check("cas", "b16", &rows, |_, [a, b, c]| {
        if *a as u16 == *b as u16 { *c } else { *a }
    });
}

#[test]
fn sums_of_floats_in_every_space() {
    let rows32 = rows(&f32_bits());
    check("add", "f32", &rows32, |space, r| {
        // the manual: denormals are flushed in global memory, and kept in shared memory
        let fix = |x: f32| {
            if x.is_subnormal() && space != "shared" {
                0f32.copysign(x)
            } else {
                x
            }
        };
        let of = |bits: u64| fix(f32::from_bits(bits as u32));
        canonical(fix(of(r[0]) + of(r[1])))
    });
    let number = |bits: &u64| !f32::from_bits(*bits as u32).is_nan();
    let doubles: Vec<u64> = f32_bits()
        .iter()
        .filter(|v| number(v))
        .map(|v| f64::from(f32::from_bits(*v as u32)).to_bits())
        .filter(|v| f64::from_bits(*v).is_finite())
        .chain([1, f64::MAX.to_bits(), f64::MIN_POSITIVE.to_bits() | 1 << 63])
        .collect();
    check("add", "f64", &rows(&doubles), |_, r| {
        (f64::from_bits(r[0]) + f64::from_bits(r[1])).to_bits()
    });
    let halves: Vec<u64> = (0..0x10000)
        .step_by(1237)
        .chain([0x7c00, 0x7f80, 0xffff, 1, 0x8001])
        .collect();
    let half = |a: u64, b: u64| {
        let sum = half::f16::from_bits(a as u16).to_f32() + half::f16::from_bits(b as u16).to_f32();
        if sum.is_nan() {
            0x7fff
        } else {
            u64::from(half::f16::from_f32(sum).to_bits())
        }
    };
    let brain = |a: u64, b: u64| {
        let sum =
            half::bf16::from_bits(a as u16).to_f32() + half::bf16::from_bits(b as u16).to_f32();
        if sum.is_nan() {
            0x7fff
        } else {
            u64::from(half::bf16::from_f32(sum).to_bits())
        }
    };
    type Sum<'a> = &'a dyn Fn(u64, u64) -> u64;
    for (ty, sum) in [("f16", &half as Sum), ("bf16", &brain)] {
        check("add", ty, &rows(&halves), |_, r| sum(r[0], r[1]));
        let two: Vec<[u64; 3]> = rows(&halves)
            .iter()
            .map(|r| [r[0] << 16 | r[2] & 0xffff, r[1] << 16 | r[0], 0])
            .collect();
        check("add", &format!("{ty}x2"), &two, |_, r| {
            let part = |v: u64, i: u32| v >> i & 0xffff;
            let each = |i: u32| sum(part(r[0], i), part(r[1], i));
            each(0) | each(16) << 16
        });
    }
}

#[test]
fn what_no_atomic_does_is_refused() {
    let device = Device::tiny();
    for text in [
        "atom.global.add.s64 %w, [%p0], %w;",
        "atom.global.min.f32 %x, [%p0], %x;",
        "atom.global.add.f16x2 %x, [%p0], %x;",
        "atom.global.inc.s32 %x, [%p0], %x;",
        "red.global.exch.b32 [%p0], %x;",
        "red.global.cas.b32 [%p0], %x, %x;",
        "atom.local.add.u32 %x, [%p0], %x;",
    ] {
        let ptx = kernel(1, ".reg .b32 %x;\n.reg .b64 %w;", text);
        let error = softcuda::ptx::Module::load(&ptx, device.model, &device.memory, None);
        assert!(
            error.expect_err(text).message.contains("no instruction"),
            "{text}"
        );
    }
}
