//! Atomics on vectors and on 128 bits, and the loads, stores and moves of 128 bits.

mod common;
#[path = "common/nvcc.rs"]
mod nvcc;

use common::{Device, Param, kernel};
use half::{bf16, f16};
use softcuda::exec::{Rule, code};

/// Halves at which rules change.
const HALVES: [u16; 16] = [
    0, 0x8000, 1, 0x8001, 0x3c00, 0xbc00, 0x3f80, 0xbf80, 0x7bff, 0x7c00, 0xfc00, 0x7e01, 0x7f7f,
    0x7f80, 0xff81, 0x4248,
];

/// `op` on two halves, computed in f32.
fn halves(op: &str, brain: bool, a: u16, b: u16) -> u16 {
    let wide = |v: u16| {
        if brain {
            bf16::from_bits(v).to_f32()
        } else {
            f16::from_bits(v).to_f32()
        }
    };
    let (x, y) = (wide(a), wide(b));
    if op == "add" {
        let sum = x + y;
        return match (sum.is_nan(), brain) {
            (true, _) => 0x7fff,
            (_, true) => bf16::from_f32(sum).to_bits(),
            (_, false) => f16::from_f32(sum).to_bits(),
        };
    }
    if x.is_nan() && y.is_nan() {
        return 0x7fff;
    }
    // a number wins over NaN, and -0 is below +0
    let below = x < y || x == y && x.is_sign_negative();
    let first = y.is_nan() || !x.is_nan() && below == (op == "min");
    if first || !y.is_nan() && x.to_bits() == y.to_bits() {
        a
    } else {
        b
    }
}

/// What an element of type `ty` becomes.
fn element(op: &str, ty: &str, old: u32, b: u32) -> u32 {
    let two = |brain| {
        let part = |v: u32, i: u32| (v >> (16 * i)) as u16;
        let of = |i| u32::from(halves(op, brain, part(old, i), part(b, i)));
        of(0) | of(1) << 16
    };
    match ty {
        "f32" => {
            let flushed = |x: f32| {
                if x.is_subnormal() {
                    0f32.copysign(x)
                } else {
                    x
                }
            };
            let sum = flushed(f32::from_bits(old)) + flushed(f32::from_bits(b));
            if sum.is_nan() {
                0x7fff_ffff
            } else {
                flushed(sum).to_bits()
            }
        }
        "f16" => halves(op, false, old as u16, b as u16).into(),
        "bf16" => halves(op, true, old as u16, b as u16).into(),
        "f16x2" => two(false),
        _ => two(true),
    }
}

/// Registers `%{prefix}0...` in braces.
fn braces(prefix: &str, count: usize) -> String {
    let names: Vec<String> = (0..count).map(|i| format!("%{prefix}{i}")).collect();
    format!("{{{}}}", names.join(", "))
}

/// One vector for each thread, and what is left of it and given back, element by element.
#[test]
fn every_vector_changes_as_its_elements_would() {
    let floats = [
        0f32,
        -0.0,
        1.5,
        -2.25,
        1e-39,
        -1e-39,
        3e38,
        3.4e38,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        1e-20,
        16_777_216.0,
    ];
    for (ty, bytes, counts, ops) in [
        ("f32", 4, &[2, 4][..], &["add"][..]),
        ("f16", 2, &[2, 4, 8], &["add", "min", "max"]),
        ("bf16", 2, &[2, 4, 8], &["add", "min", "max"]),
        ("f16x2", 4, &[2, 4], &["add", "min", "max"]),
        ("bf16x2", 4, &[2, 4], &["add", "min", "max"]),
    ] {
        for (&count, &op) in counts
            .iter()
            .flat_map(|c| ops.iter().map(move |op| (c, op)))
        {
            let lanes = 200;
            let bits = |i: usize| match ty {
                "f32" => floats[i % floats.len()].to_bits(),
                "f16" | "bf16" => HALVES[i % 16].into(),
                _ => u32::from(HALVES[i % 16]) | u32::from(HALVES[i / 5 % 16]) << 16,
            };
            let all = lanes * count;
            let start: Vec<u32> = (0..all).map(bits).collect();
            let operand: Vec<u32> = (0..all).map(|i| bits(i / 3 + i * 7 + 5)).collect();
            let pack = |values: &[u32]| -> Vec<u8> {
                let parts = values.iter().map(|v| v.to_le_bytes());
                parts.flat_map(|v| v.into_iter().take(bytes)).collect()
            };
            let unpack = |data: Vec<u8>| -> Vec<u32> {
                let number = |part: &[u8]| {
                    let mut all = [0; 4];
                    all[..bytes].copy_from_slice(part);
                    u32::from_le_bytes(all)
                };
                data.chunks(bytes).map(number).collect()
            };
            let noftz = if ty == "f32" { "" } else { ".noftz" };
            let b = ["b16", "b32"][bytes / 4];
            for (name, space) in [
                ("atom", ".global"),
                ("atom", ""),
                ("red", ".global"),
                ("red", ""),
            ] {
                let mut body = format!(
                    "mul.lo.u64 %w, %t64, {};\nadd.u64 %a, %w, %p2;\n",
                    bytes * count
                );
                for i in 0..count {
                    body += &format!(
                        "ld.global.{b} %y{i}, [%a+{}];\nmov.{b} %o{i}, 0;\n",
                        i * bytes
                    );
                }
                let old = if name == "red" {
                    String::new()
                } else {
                    format!("{}, ", braces("o", count))
                };
                let vector = braces("y", count);
                body += &format!(
                    "add.u64 %a, %w, %p1;\n{name}{space}.{op}{noftz}.v{count}.{ty} {old}[%a], {vector};\n\
                     add.u64 %a, %w, %p0;\n"
                );
                for i in 0..count {
                    body += &format!("st.global.{b} [%a+{}], %o{i};\n", i * bytes);
                }
                let declarations = format!(".reg .b64 %w;\n.reg .{b} %y<{count}>, %o<{count}>;");
                let device = Device::tiny();
                let module = device.load(&kernel(3, &declarations, &body));
                let olds = device.empty((all * bytes) as u64);
                let cells = device.upload(&pack(&start));
                let params = [olds, cells, device.upload(&pack(&operand))].map(Param::Ptr);
                let grid = device.grid(&module, "k", 1, lanes as u32, &params);
                let counts = device.run(&[grid]).expect("no violation");
                let what = format!("{name}{space}.{op}.v{count}.{ty}");
                let left = unpack(device.download(cells, all * bytes));
                let given = unpack(device.download(olds, all * bytes));
                for i in 0..all {
                    let expected = element(op, ty, start[i], operand[i]);
                    assert_eq!(
                        left[i], expected,
                        "{what}: {:x} and {:x} are {expected:x}, not {:x}",
                        start[i], operand[i], left[i]
                    );
                    let old = if name == "red" { 0 } else { start[i] };
                    assert_eq!(given[i], old, "{what}");
                }
                // one instruction of each of the 7 warps, of all the bytes
                assert_eq!(counts[0].classes["atomic"], 7, "{what}");
                assert_eq!(counts[0].traffic().bytes_atomic, (all * bytes) as u64);
            }
        }
    }
}

/// Blocks that add to the same vector, with elements that are not wanted, and to single elements
/// of it: nothing is lost, and nothing races.
#[test]
fn vectors_and_their_elements_add_up() {
    for seed in 0..20 {
        let mut device = Device::tiny();
        device.options.seed = seed;
        let module = device.load(&kernel(
            1,
            ".reg .f32 %f;\n.reg .b64 %w;",
            "red.global.add.v4.f32 [%p0], {0f3f800000, 0f40000000, 0f40400000, 0f40800000};\n\
             red.relaxed.gpu.global.v2.f32.add [%p0+8], {0f41200000, 0f41a00000};\n\
             mov.u64 %w, 0;\n\
             atom.global.add.L2::cache_hint.v4.f32 {_, %f, _, _}, [%p0], \
             {0f3f000000, 0f00000000, 0f3f000000, 0f00000000}, %w;\n\
             atom.add.v2.f32 _, [%p0], {0f00000000, 0f3f800000};\n\
             red.global.add.f32 [%p0+12], 0f3f000000;",
        ));
        let cell = device.upload(&[0f32; 4]);
        let grid = device.grid(&module, "k", 8, 96, &[Param::Ptr(cell)]);
        let counts = device.run(&[grid]).expect("no violation");
        let n = 8.0 * 96.0;
        let expected = [1.5 * n, 3.0 * n, 13.5 * n, 24.5 * n];
        assert_eq!(device.download::<f32>(cell, 4), expected);
        assert_eq!(
            counts[0].traffic().bytes_atomic,
            8 * 96 * (16 + 8 + 16 + 8 + 4)
        );
        // every one of the 24 warps touches one sector five times
        assert_eq!(counts[0].traffic().sectors, 24 * 5);
        assert_eq!(counts[0].traffic().unique_sectors, 1);
    }
}

/// A vector is aligned as a whole, lies in one allocation, was written before, and is in global
/// memory.
#[test]
fn vectors_out_of_place_are_named() {
    let run = |offset: u64, floats: usize, written: usize| {
        let device = Device::tiny();
        let module = device.load(&kernel(
            1,
            "",
            "red.global.add.v4.f32 [%p0], {0f3f800000, 0f3f800000, 0f3f800000, 0f3f800000};",
        ));
        let cell = device.empty(4 * floats as u64);
        device
            .memory
            .write(cell, &vec![0; 4 * written])
            .expect("a write");
        let grid = device.grid(&module, "k", 1, 1, &[Param::Ptr(cell + offset)]);
        let found = device.run(&[grid]).expect_err("a violation");
        (found.rule, found.code, found.address.map(|a| a - cell))
    };
    let (outside, misaligned) = (code::ILLEGAL_ADDRESS, code::MISALIGNED_ADDRESS);
    assert_eq!(run(8, 8, 8), (Rule::Misaligned, misaligned, Some(8)));
    assert_eq!(run(16, 6, 6), (Rule::OutOfBounds, outside, Some(16)));
    let unwritten = (Rule::Uninitialised, code::LAUNCH_FAILED, Some(28));
    assert_eq!(run(16, 8, 7), unwritten);
    // by a generic address: ptxas cannot see it
    let device = Device::tiny();
    let module = device.load(&kernel(
        0,
        ".shared .align 16 .b8 cells[16];",
        "mov.u64 %a, cells;\ncvta.shared.u64 %a, %a;\nred.add.v2.f32 [%a], {0f3f800000, 0f3f800000};",
    ));
    let grid = device.grid(&module, "k", 1, 1, &[]);
    let violation = device.run(&[grid]).expect_err("a violation");
    assert_eq!(violation.rule, Rule::OutOfBounds, "{violation}");
    assert_eq!(violation.code, code::INVALID_ADDRESS_SPACE, "{violation}");
    assert!(
        violation.message.contains("vector in shared memory"),
        "{violation}"
    );
}

/// Runs the kernel on two blocks, block 0 one way and block 1 the other, under several seeds;
/// gives how many of them raced.
fn races(declarations: &str, first: &str, second: &str) -> usize {
    let body = format!(
        "setp.ne.u32 %q, %c, 0;\n@%q bra OTHER;\n{first}\nbra END;\nOTHER:\n{second}\nEND:"
    );
    let text = kernel(1, &format!(".reg .pred %q, %r;\n{declarations}"), &body);
    let run = |seed: u64| {
        let mut device = Device::tiny();
        device.options.seed = seed;
        let module = device.load(&text);
        let cells = device.upload(&[0u32; 16]);
        let grid = device.grid(&module, "k", 2, 1, &[Param::Ptr(cells)]);
        match device.run(&[grid]) {
            Ok(_) => false,
            Err(violation) => {
                assert_eq!(violation.rule, Rule::GlobalRace, "{violation}");
                true
            }
        }
    };
    (0..20).filter(|&seed| run(seed)).count()
}

#[test]
fn wide_atomics_race_with_plain_accesses_only() {
    let vector = "red.global.add.v4.f32 [%p0], {0f3f800000, 0f3f800000, 0f3f800000, 0f3f800000};";
    let registers = ".reg .b32 %x;\n.reg .b64 %lo, %hi;\n.reg .b128 %u, %v;";
    let whole = "mov.b64 %lo, 1;\nmov.b128 %u, {%lo, %lo};\natom.global.exch.b128 %v, [%p0], %u;";
    for wide in [vector, whole] {
        // the last element alone
        assert_eq!(races(registers, wide, "st.global.b32 [%p0+12], 0;"), 20);
        assert_eq!(races(registers, wide, "ld.global.b32 %x, [%p0+12];"), 20);
        assert_eq!(races(registers, wide, "ld.global.b32 %x, [%p0+16];"), 0);
        assert_eq!(races(registers, wide, wide), 0);
        let narrow = wide.replace("global.", "global.cta.");
        let found = races(registers, &narrow, &narrow);
        assert_eq!(found, 20, "of too narrow a scope");
    }
    assert_eq!(
        races(registers, vector, "red.global.add.f32 [%p0+8], 0f3f800000;"),
        0
    );
    assert_eq!(
        races(registers, whole, "ld.relaxed.gpu.global.b128 %u, [%p0];"),
        0
    );
    assert_eq!(races(registers, whole, "ld.global.b128 %u, [%p0];"), 20);
}

/// A value of 128 bits that is published orders what was written before it.
#[test]
fn what_is_handed_over_by_128_bits_needs_release_and_acquire() {
    let registers = ".reg .b32 %x;\n.reg .b64 %lo, %hi;\n.reg .b128 %u;";
    let text = |store: &str, load: &str| {
        let first = format!(
            "st.global.b32 [%p0+32], 7;\nmov.b64 %lo, 1;\nmov.b128 %u, {{%lo, %lo}};\n{store} [%p0], %u;"
        );
        let second = format!(
            "AGAIN:\n{load} %u, [%p0];\nmov.b128 {{%lo, %hi}}, %u;\nsetp.eq.u64 %r, %hi, 0;\n\
             @%r bra AGAIN;\nld.global.b32 %x, [%p0+32];"
        );
        races(registers, &first, &second)
    };
    assert_eq!(text("st.release.gpu.b128", "ld.acquire.gpu.b128"), 0);
    assert_eq!(text("st.relaxed.gpu.b128", "ld.acquire.gpu.b128"), 20);
    assert_eq!(text("st.release.gpu.b128", "ld.relaxed.gpu.b128"), 20);
}

/// `exch` and `cas` in every space, against the host; moves from and to halves and quarters.
#[test]
fn exchanges_of_128_bits_in_every_space() {
    let values: Vec<u128> = (0..64u128)
        .map(|i| {
            [
                0,
                u128::MAX,
                1 << 64,
                u128::from(u64::MAX),
                1,
                0x0123_4567_89ab_cdef << 60,
            ][i as usize % 6]
        })
        .collect();
    for space in [".global", "", ".shared"] {
        for cas in [false, true] {
            // operands come by halves, results go by quarters
            let half = |at: &str, name: &str| {
                format!(
                    "ld.global.b64 %lo, [{at}];\nld.global.b64 %hi, [{at}+8];\nmov.b128 %{name}, {{%lo, %hi}};\n"
                )
            };
            let mut body = "mul.lo.u64 %w, %t64, 16;\n".to_owned();
            for (pointer, name) in [(1, "x"), (2, "y"), (3, "z")] {
                body += &format!("add.u64 %a, %w, %p{pointer};\n{}", half("%a", name));
            }
            body += "mov.u64 %bb, cells;\nadd.u64 %bb, %bb, %w;\nst.shared.b128 [%bb], %x;\n\
                     add.u64 %a, %w, %p1;\n";
            let (cell, back) = if space == ".shared" {
                ("%bb", "ld.shared.b128 %left, [%bb];")
            } else {
                ("%a", "ld.global.b128 %left, [%a];")
            };
            let op = if cas { "cas" } else { "exch" };
            let third = if cas { ", %z" } else { "" };
            body += &format!(
                "atom{space}.{op}.b128 %old, [{cell}], %y{third};\n{back}\nst.global.b128 [%a], %left;\n\
                 mov.b128 {{%r0, %r1, %r2, %r3}}, %old;\nmov.b128 %copy, {{%r0, %r1, %r2, %r3}};\n\
                 mov.b128 %other, %copy;\nadd.u64 %a, %w, %p0;\nst.global.b128 [%a], %other;"
            );
            let declarations = ".reg .b64 %w, %lo, %hi;\n.reg .b32 %r<4>;\n\
                                .reg .b128 %x, %y, %z, %old, %left, %copy, %other;\n\
                                .shared .align 16 .b8 cells[1024];";
            let device = Device::tiny();
            let module = device.load(&kernel(4, declarations, &body));
            let upload = |of: &dyn Fn(usize) -> u128| {
                let data: Vec<u128> = (0..64).map(of).collect();
                device.upload(&data)
            };
            let (olds, cells) = (device.empty(16 * 64), upload(&|i| values[i]));
            let expected = |i: usize| {
                if i.is_multiple_of(3) {
                    values[i]
                } else {
                    values[(i + 1) % 64]
                }
            };
            let put = |i: usize| values[i] ^ (i as u128) << 70 ^ 5;
            let params = [olds, cells, upload(&expected), upload(&put)].map(Param::Ptr);
            let grid = device.grid(&module, "k", 1, 64, &params);
            let counts = device.run(&[grid]).expect("no violation");
            let left: Vec<u128> = device.download(cells, 64);
            assert_eq!(device.download::<u128>(olds, 64), values, "{space}.{op}");
            for i in 0..64 {
                let result = match (cas, values[i] == expected(i)) {
                    (true, true) => put(i),
                    (true, false) => values[i],
                    (false, _) => expected(i),
                };
                assert_eq!(left[i], result, "{space}.{op} {i}");
            }
            assert_eq!(counts[0].classes["atomic"], 2);
            let global = if space == ".shared" { 0 } else { 64 * 16 };
            assert_eq!(counts[0].traffic().bytes_atomic, global);
        }
    }
}

/// Both halves change as one: threads of many blocks count in both halves by compare and swap,
/// and read pairs that belong together.
#[test]
fn counters_of_128_bits_lose_nothing_and_are_never_torn() {
    let ptx = nvcc::ptx("wide", "sm_90", &[]);
    for seed in 0..20 {
        let mut device = Device::tiny();
        device.options.seed = seed;
        let module = device.load(&ptx);
        let (cell, torn) = (device.upload(&[0u64, 1000]), device.upload(&[0u32]));
        let params = [Param::Ptr(cell), Param::Ptr(torn)];
        let grid = device.grid(&module, "count_pairs", 6, 64, &params);
        device.run(&[grid]).expect("no violation");
        assert_eq!(device.download::<u64>(cell, 2), [384, 1000 + 2 * 384]);
        assert_eq!(device.download::<u32>(torn, 1), [0]);
    }
}

/// What `atomicAdd` of vectors and 16-byte `atomicExch` in CUDA C++ become.
#[test]
fn vectors_of_the_language_are_added() {
    let device = Device::tiny();
    let module = device.load(&nvcc::ptx("wide", "sm_90", &[]));
    let (four, two) = (device.upload(&[1f32; 4]), device.upload(&[2f32; 2]));
    let (swap, olds) = (device.upload(&[[3u64, 4]]), device.empty(16 * 32));
    let params = [four, two, swap, olds].map(Param::Ptr);
    let grid = device.grid(&module, "add_vectors", 1, 32, &params);
    device.run(&[grid]).expect("no violation");
    assert_eq!(device.download::<f32>(four, 4), [33.0, 65.0, 97.0, 129.0]);
    assert_eq!(
        device.download::<f32>(two, 2),
        [2.0 + 3.0 * 32.0, 2.0 + 1.5 * 32.0]
    );
    // each value was put there once and taken once
    let mut all: Vec<[u64; 2]> = device.download(olds, 32);
    all.extend(device.download::<[u64; 2]>(swap, 1));
    all.sort_unstable();
    let mut expected: Vec<[u64; 2]> = (0..32).map(|i| [100 + i, 200 + i]).collect();
    expected.insert(0, [3, 4]);
    assert_eq!(all, expected);
}

/// What ptxas refuses, and what is for devices of compute capability 9.0.
#[test]
fn what_no_wide_atomic_does_is_refused() {
    let device = Device::tiny();
    let load = |target: &str, text: &str| {
        let declarations = ".reg .f32 %f<8>;\n.reg .b32 %x<8>;\n.reg .b16 %h<8>;\n.reg .b64 %w;\n\
                            .reg .b128 %q<3>;\n.shared .align 16 .b8 s[64];";
        let text = kernel(1, declarations, text).replace("sm_90", target);
        softcuda::ptx::Module::load(&text, device.model, &device.memory, None)
    };
    for text in [
        "red.global.add.v8.f32 [%p0], {%f0,%f1,%f2,%f3,%f4,%f5,%f6,%f7};",
        "red.shared.add.v2.f32 [s], {%f0,%f1};",
        "red.global.add.noftz.v8.f16x2 [%p0], {%x0,%x1,%x2,%x3,%x4,%x5,%x6,%x7};",
        "red.global.add.v2.f16x2 [%p0], {%x0,%x1};",
        "red.global.min.v2.f32 [%p0], {%f0,%f1};",
        "red.global.min.noftz.f16x2 [%p0], %x0;",
        "red.global.add.v2.u32 [%p0], {%x0,%x1};",
        "red.global.add.v2.f32 [%p0], {%f0,%f1,%f2};",
        "red.global.add.v2.f32 [%p0], %f0;",
        "atom.global.add.v2.f32 {%f0}, [%p0], {%f0,%f1};",
        "atom.global.exch.v2.b32 {%x2,%x3}, [%p0], {%x0,%x1};",
        "atom.global.add.f32 %f0, [%p0], {%f0,%f1};",
        "atom.global.and.b128 %q0, [%p0], %q1;",
        "atom.global.exch.b128 %w, [%p0], %q1;",
        "atom.global.exch.b128 %q0, [%p0], %w;",
        "atom.global.exch.b64 %w, [%p0], %q1;",
        "ld.global.v2.b128 {%q0,%q1}, [%p0];",
        "ld.global.b64 %q0, [%p0];",
        "ld.global.b32 %q0, [%p0];",
        "ld.global.b128 %w, [%p0];",
        "ld.param.b128 %q0, [k_param_0];",
        "st.global.b32 [%p0], %q0;",
        "mov.b128 %q0, %w;",
        "mov.b128 %q0, 1;",
        "mov.b128 %q0, %clock64;",
        "mov.b128 %q0, {%w, %x0};",
        "mov.b32 %x0, %q0;",
        "add.u32 %x0, %q0, %q1;",
        "st.global.b32 [%q0], %x0;",
    ] {
        assert!(load("sm_90", text).is_err(), "{text}");
    }
    for text in [
        "red.global.add.v2.f32 [%p0], {%f0,%f1};",
        "atom.global.exch.b128 %q0, [%p0], %q1;",
        "atom.shared.cas.b128 %q0, [s], %q1, %q2;",
    ] {
        load("sm_90", text).expect(text);
        assert!(load("sm_80", text).is_err(), "{text}");
    }
    // and what has no such limit
    for text in [
        "mov.b64 %w, 0;\nmov.b128 %q0, {%w, %w};\nst.global.b128 [%p0], %q0;",
        "ld.relaxed.gpu.b128 %q0, [%p0];\nmov.b128 {_, %w}, %q0;",
        "ld.global.nc.b128 %q0, [%p0];\nmov.b128 %q1, %q0;",
    ] {
        load("sm_80", text).expect(text);
    }
}
