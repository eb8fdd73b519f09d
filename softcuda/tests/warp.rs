//! What lanes and warps do together: shuffles, votes, matrices, barriers, divergence.

mod common;

use common::{Device, Param, kernel};
use softcuda::exec::Accumulate;

/// Runs one block of `threads` over `body`; `%p0` is the output of one 32-bit word per thread, `%d`
/// what is stored there, `%p1` the input.
fn block(threads: u32, declarations: &str, body: &str, input: &[u32]) -> Vec<u32> {
    let device = Device::tiny();
    block_on(&device, threads, declarations, body, input)
}

fn block_on(
    device: &Device,
    threads: u32,
    declarations: &str,
    body: &str,
    input: &[u32],
) -> Vec<u32> {
    let declarations = format!(".reg .b32 %d, %x, %y, %z;\n.reg .pred %q, %r;\n{declarations}");
    let text = format!(
        "mad.lo.u64 %a, %t64, 4, %p1;\nld.global.b32 %x, [%a];\n{body}\n\
         mad.lo.u64 %a, %t64, 4, %p0;\nst.global.b32 [%a], %d;"
    );
    let module = device.load(&kernel(2, &declarations, &text));
    let out = device.empty(4 * u64::from(threads));
    let input = device.upload(input);
    let grid = device.grid(
        &module,
        "k",
        1,
        threads,
        &[Param::Ptr(out), Param::Ptr(input)],
    );
    device.run(&[grid]).expect("no violation");
    device.download(out, threads as usize)
}

fn numbers(count: u32) -> Vec<u32> {
    (0..count).map(|i| i.wrapping_mul(2_654_435_761)).collect()
}

#[test]
fn shuffles_follow_the_manuals_formula() {
    let x = numbers(32);
    for (mode, b, c) in [
        ("up", 3, 0),
        ("up", 1, 0x1800),
        ("down", 5, 31),
        ("down", 2, 0x181f),
        ("bfly", 16, 31),
        ("bfly", 7, 0x1807),
        ("idx", 9, 31),
        ("idx", 2, 0x1c1f),
        ("idx", 30, 15),
    ] {
        let body = format!(
            "shfl.sync.{mode}.b32 %d|%q, %x, {b}, {c}, -1;\n@!%q xor.b32 %d, %d, 0xffffffff;"
        );
        let found = block(32, "", &body, &x);
        for lane in 0..32u32 {
            let (segment, clamp) = (c >> 8 & 31, c & 31);
            let most = (lane & segment) | (clamp & !segment);
            let (j, ok) = match mode {
                "up" => {
                    let j = lane as i32 - b;
                    (j as u32, j >= most as i32)
                }
                "down" => (lane + b as u32, lane + b as u32 <= most),
                "bfly" => (lane ^ b as u32, lane ^ b as u32 <= most),
                _ => {
                    let j = (lane & segment) | (b as u32 & !segment);
                    (j, j <= most)
                }
            };
            let expected = if ok { x[j as usize] } else { !x[lane as usize] };
            assert_eq!(
                found[lane as usize], expected,
                "{mode} {b} {c:#x} lane {lane}"
            );
        }
    }
}

#[test]
fn votes_matches_and_reductions_see_the_members() {
    let x: Vec<u32> = (0..32).map(|i| i / 3).collect();
    let bits = |f: &dyn Fn(u32) -> bool| {
        (0..32)
            .filter(|&i| f(x[i as usize]))
            .fold(0u32, |m, i| m | 1 << i)
    };
    let found = block(
        32,
        "",
        "setp.gt.u32 %q, %x, 4;\nvote.sync.ballot.b32 %d, %q, -1;",
        &x,
    );
    assert_eq!(found, vec![bits(&|v| v > 4); 32]);
    let found = block(32, "", "match.any.sync.b32 %d, %x, -1;", &x);
    for (i, found) in found.iter().enumerate() {
        assert_eq!(*found, bits(&|v| v == x[i]));
    }
    // half of the warp apart from the other
    let body = "setp.lt.u32 %q, %t, 16;\n@%q bra A;\nredux.sync.add.u32 %d, %x, 0xffff0000;\nbra B;\n\
                A:\nredux.sync.max.u32 %d, %x, 0x0000ffff;\nB:";
    let found = block(32, "", body, &x);
    let sum: u32 = x[16..].iter().sum();
    for (i, found) in found.iter().enumerate() {
        assert_eq!(*found, if i < 16 { x[15] } else { sum });
    }
    let body = "setp.gt.u32 %q, %x, 3;\nvote.sync.all.pred %r, %q, -1;\nselp.b32 %d, 1, 0, %r;\n\
                vote.sync.any.pred %r, %q, -1;\n@%r add.u32 %d, %d, 2;";
    assert_eq!(block(32, "", body, &x), vec![2; 32]);
    let found = block(32, "", "redux.sync.min.s32 %d, %x, -1;", &numbers(32));
    let least = numbers(32).iter().map(|&v| v as i32).min();
    assert_eq!(found, vec![least.expect("32 of them") as u32; 32]);
}

#[test]
fn lanes_that_part_meet_again() {
    // each lane loops its own number of times; all 32 take part in the vote behind the loop
    let body = "mov.u32 %d, 0;\nL:\nsetp.ge.u32 %q, %d, %t;\n@%q bra E;\nadd.u32 %d, %d, 1;\nbra L;\n\
                E:\nactivemask.b32 %y;\nxor.b32 %y, %y, 0xffffffff;\nadd.u32 %d, %d, %y;";
    assert_eq!(block(32, "", body, &[0; 32]), (0..32).collect::<Vec<_>>());
    // lanes wait for each other at shuffles in different places of the code
    let body = "and.b32 %y, %t, 1;\nsetp.eq.u32 %q, %y, 0;\n@%q bra A;\nbar.warp.sync -1;\n\
                mov.u32 %d, 7;\nbra B;\nA:\nbar.warp.sync -1;\nmov.u32 %d, 9;\nB:";
    let found = block(32, "", body, &[0; 32]);
    assert_eq!(
        found,
        (0..32)
            .map(|i| if i % 2 == 0 { 9 } else { 7 })
            .collect::<Vec<_>>()
    );
    // a lane holds a lock that its neighbours spin for: needs lanes that are scheduled apart
    let body = "mov.u32 %d, 0;\nmov.u64 %bb, lock;\nL:\natom.shared.cas.b32 %y, [lock], 0, 1;\n\
                setp.ne.u32 %q, %y, 0;\n@%q bra L;\nld.volatile.shared.u32 %z, [count];\n\
                add.u32 %z, %z, 1;\nst.volatile.shared.u32 [count], %z;\nmembar.cta;\n\
                atom.shared.exch.b32 %y, [lock], 0;\nbar.warp.sync -1;\nbar.sync 0;\nld.shared.u32 %d, [count];";
    let declarations = ".shared .align 4 .u32 lock, count;";
    let init = format!(
        "setp.eq.u32 %q, %t, 0;\n@%q st.shared.u32 [lock], 0;\n@%q st.shared.u32 [count], 0;\n\
         bar.sync 0;\n{body}"
    );
    assert_eq!(block(64, declarations, &init, &[0; 64]), vec![64; 64]);
}

#[test]
fn device_functions_are_called() {
    let device = Device::tiny();
    let text = ".version 9.0\n.target sm_80\n.address_size 64\n\
        .func (.param .b32 r) twice(.param .b32 a) {\n.reg .b32 %x;\nld.param.u32 %x, [a];\n\
        add.u32 %x, %x, %x;\nst.param.b32 [r], %x;\nret;\n}\n\
        .visible .entry k(.param .u64 out) {\n.reg .b64 %p;\n.reg .b32 %t, %d;\n.reg .pred %q;\n\
        ld.param.u64 %p, [out];\nmov.u32 %t, %tid.x;\nmad.wide.u32 %p, %t, 4, %p;\nmov.u32 %d, %t;\n\
        setp.gt.u32 %q, %t, 9;\n@%q bra S;\n\
        { .param .b32 a0; .param .b32 r0;\nst.param.b32 [a0+0], %d;\n\
        call.uni (r0), twice, (a0);\nld.param.b32 %d, [r0+0];\n}\n\
        { .param .b32 a0; .param .b32 r0;\nst.param.b32 [a0+0], %d;\n\
        call.uni (r0), twice, (a0);\nld.param.b32 %d, [r0+0];\n}\n\
        S:\nst.global.u32 [%p], %d;\nret;\n}\n";
    let module = device.load(text);
    let out = device.empty(4 * 32);
    let grid = device.grid(&module, "k", 1, 32, &[Param::Ptr(out)]);
    device.run(&[grid]).expect("no violation");
    let expected: Vec<u32> = (0..32).map(|i| if i > 9 { i } else { 4 * i }).collect();
    assert_eq!(device.download::<u32>(out, 32), expected);
}

/// Tables of the manual, "Matrix fragments for mma.m16n8k16 with floating point type": rows and
/// columns of each element of a lane.
mod tables {
    pub fn a16(lane: usize, i: usize) -> (usize, usize) {
        let (group, thread) = (lane >> 2, lane % 4);
        let row = if i < 2 || (4..6).contains(&i) {
            group
        } else {
            group + 8
        };
        let column = thread * 2 + (i & 1) + if i < 4 { 0 } else { 8 };
        (row, column)
    }
    pub fn b16(lane: usize, i: usize) -> (usize, usize) {
        let row = lane % 4 * 2 + (i & 1) + if i < 2 { 0 } else { 8 };
        (row, lane >> 2)
    }
    pub fn c(lane: usize, i: usize) -> (usize, usize) {
        (
            (lane >> 2) + if i < 2 { 0 } else { 8 },
            lane % 4 * 2 + (i & 1),
        )
    }
    /// m16n8k8 with tf32.
    pub fn a_tf32(lane: usize, i: usize) -> (usize, usize) {
        let (group, thread) = (lane >> 2, lane % 4);
        let row = if i == 0 || i == 2 { group } else { group + 8 };
        (row, if i < 2 { thread } else { thread + 4 })
    }
    pub fn b_tf32(lane: usize, i: usize) -> (usize, usize) {
        (lane % 4 + if i == 0 { 0 } else { 4 }, lane >> 2)
    }
    /// m16n8k32 with 8-bit elements.
    pub fn a8(lane: usize, i: usize) -> (usize, usize) {
        let (group, thread) = (lane >> 2, lane % 4);
        let row = if i < 4 || (8..12).contains(&i) {
            group
        } else {
            group + 8
        };
        (row, thread * 4 + (i & 3) + if i < 8 { 0 } else { 16 })
    }
    pub fn b8(lane: usize, i: usize) -> (usize, usize) {
        (
            lane % 4 * 4 + (i & 3) + if i < 4 { 0 } else { 16 },
            lane >> 2,
        )
    }
}

type Place = fn(usize, usize) -> (usize, usize);

/// Runs one `mma` on small integers; the result must be the product.
fn product(
    op: &str,
    k: usize,
    bits: usize,
    encode: &dyn Fn(i32) -> u32,
    places: (Place, Place),
    integer: bool,
) {
    let each = 32 / bits;
    let (na, nb) = (16 * k / each / 32, 8 * k / each / 32);
    let a = |r: usize, c: usize| ((r * 7 + c * 3) % 5) as i32 - 2;
    let b = |r: usize, c: usize| ((r * 2 + c * 5) % 7) as i32 - 3;
    let start = |r: usize, c: usize| (r * 8 + c) as i32;
    let mut input = Vec::new();
    for lane in 0..32 {
        for (count, place, value) in [
            (na, places.0, &a as &dyn Fn(usize, usize) -> i32),
            (nb, places.1, &b),
        ] {
            for register in 0..count {
                let word = (0..each).fold(0u32, |w, i| {
                    let (row, column) = place(lane, register * each + i);
                    w | encode(value(row, column)) << (bits * i)
                });
                input.push(word);
            }
        }
        for i in 0..4 {
            let (row, column) = tables::c(lane, i);
            let value = start(row, column);
            input.push(if integer {
                value as u32
            } else {
                (value as f32).to_bits()
            });
        }
    }
    let words = na + nb + 4;
    let list = |name: &str, count: usize| {
        let names: Vec<String> = (0..count).map(|i| format!("%{name}{i}")).collect();
        format!("{{{}}}", names.join(", "))
    };
    let mut body = format!("mad.lo.u64 %a, %t64, {}, %p1;\n", 4 * words);
    let names: Vec<String> = (0..na)
        .map(|i| format!("%fa{i}"))
        .chain((0..nb).map(|i| format!("%fb{i}")))
        .chain((0..4).map(|i| format!("%fc{i}")))
        .collect();
    for (i, name) in names.iter().enumerate() {
        body += &format!("ld.global.b32 {name}, [%a+{}];\n", 4 * i);
    }
    body += &format!(
        "{op} {}, {}, {}, {};\nmad.lo.u64 %a, %t64, 16, %p0;\nst.global.v4.b32 [%a], {};\n",
        list("fc", 4),
        list("fa", na),
        list("fb", nb),
        list("fc", 4),
        list("fc", 4)
    );
    let text = kernel(2, ".reg .b32 %fa<4>, %fb<2>, %fc<4>;", &body);
    for model in [
        Accumulate::Sequential,
        Accumulate::Groups8,
        Accumulate::Groups16,
    ] {
        let mut device = Device::tiny();
        device.options.accumulate = model;
        let module = device.load(&text);
        let out = device.empty(16 * 32);
        let data = device.upload(&input);
        let grid = device.grid(&module, "k", 1, 32, &[Param::Ptr(out), Param::Ptr(data)]);
        device.run(&[grid]).expect("no violation");
        let found: Vec<u32> = device.download(out, 128);
        for lane in 0..32 {
            for i in 0..4 {
                let (row, column) = tables::c(lane, i);
                let sum: i32 = (0..k).map(|j| a(row, j) * b(j, column)).sum();
                let expected = sum + start(row, column);
                let bits = if integer {
                    expected as u32
                } else {
                    (expected as f32).to_bits()
                };
                assert_eq!(
                    found[4 * lane + i],
                    bits,
                    "{op} {model:?} row {row} column {column}"
                );
            }
        }
    }
}

#[test]
fn fragments_lie_as_the_manual_says() {
    let bf16 = |v: i32| half::bf16::from_f32(v as f32).to_bits().into();
    let f16 = |v: i32| half::f16::from_f32(v as f32).to_bits().into();
    let s8 = |v: i32| v as u8 as u32;
    let e5m2 = |v: i32| u32::from((half::f16::from_f32(v as f32).to_bits() >> 8) as u8);
    let e4m3 = |v: i32| match v.abs() {
        0 => 0,
        1 => 0x38,
        2 => 0x40,
        _ => 0x44,
    } | u32::from(v < 0) << 7;
    let tf32 = |v: i32| (v as f32).to_bits();
    let sixteen: (Place, Place) = (tables::a16, tables::b16);
    let eight: (Place, Place) = (tables::a8, tables::b8);
    let mma = "mma.sync.aligned";
    product(
        &format!("{mma}.m16n8k16.row.col.f32.bf16.bf16.f32"),
        16,
        16,
        &bf16,
        sixteen,
        false,
    );
    product(
        &format!("{mma}.m16n8k16.row.col.f32.f16.f16.f32"),
        16,
        16,
        &f16,
        sixteen,
        false,
    );
    product(
        &format!("{mma}.m16n8k8.row.col.f32.bf16.bf16.f32"),
        8,
        16,
        &bf16,
        sixteen,
        false,
    );
    let tf: (Place, Place) = (tables::a_tf32, tables::b_tf32);
    product(
        &format!("{mma}.m16n8k8.row.col.f32.tf32.tf32.f32"),
        8,
        32,
        &tf32,
        tf,
        false,
    );
    product(
        &format!("{mma}.m16n8k32.row.col.s32.s8.s8.s32"),
        32,
        8,
        &s8,
        eight,
        true,
    );
    product(
        &format!("{mma}.m16n8k16.row.col.s32.s8.s8.s32"),
        16,
        8,
        &s8,
        eight,
        true,
    );
    product(
        &format!("{mma}.m16n8k32.row.col.f32.e4m3.e4m3.f32"),
        32,
        8,
        &e4m3,
        eight,
        false,
    );
    product(
        &format!("{mma}.m16n8k32.row.col.f32.e5m2.e5m2.f32"),
        32,
        8,
        &e5m2,
        eight,
        false,
    );
}

#[test]
fn ldmatrix_and_stmatrix_give_each_lane_its_neighbours() {
    for transposed in [false, true] {
        let trans = if transposed { ".trans" } else { "" };
        // 4 matrices of 8 rows of 16 bytes; lane i gives the address of row i
        let declarations = ".shared .align 16 .b8 tile[1024];\n.reg .b32 %f<4>, %s;\n.reg .b16 %h;";
        let body = format!(
            "mov.u32 %s, tile;\nmad.lo.u32 %s, %t, 16, %s;\nmad.lo.u64 %a, %t64, 16, %p1;\n\
             ld.global.v4.b32 {{%f0, %f1, %f2, %f3}}, [%a];\n\
             st.shared.v4.b32 [%s], {{%f0, %f1, %f2, %f3}};\nbar.sync 0;\n\
             ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%f0, %f1, %f2, %f3}}, [%s];\n\
             mad.lo.u64 %a, %t64, 16, %p0;\nst.global.v4.b32 [%a], {{%f0, %f1, %f2, %f3}};\n\
             stmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 [%s+512], {{%f0, %f1, %f2, %f3}};\n\
             bar.sync 0;\nld.shared.v4.b32 {{%f0, %f1, %f2, %f3}}, [%s+512];\n\
             st.global.v4.b32 [%a+512], {{%f0, %f1, %f2, %f3}};"
        );
        let device = Device::tiny();
        let module = device.load(&kernel(2, declarations, &body));
        let data: Vec<u16> = (0..256).collect();
        let input = device.upload(&data);
        let out = device.empty(1024);
        let grid = device.grid(&module, "k", 1, 32, &[Param::Ptr(out), Param::Ptr(input)]);
        let counts = device.run(&[grid]).expect("no violation");
        let found: Vec<u16> = device.download(out, 512);
        for lane in 0..32usize {
            for matrix in 0..4 {
                for half in 0..2 {
                    let (row, column) = (lane / 4, lane % 4 * 2 + half);
                    let (row, column) = if transposed {
                        (column, row)
                    } else {
                        (row, column)
                    };
                    let expected = matrix * 64 + row * 8 + column;
                    assert_eq!(found[lane * 8 + matrix * 2 + half], expected as u16);
                }
            }
        }
        // stored again, the matrices are what they were
        assert_eq!(&found[256..], &data[..]);
        assert_eq!(counts[0].shared_conflicts, 0);
    }
}

#[test]
fn truncation_models_differ_where_they_should() {
    // 2^24 + sixteen products of 1: one by one each is lost to rounding; aligned in groups with
    // the sum they are not
    let run = |model: Accumulate| {
        let mut device = Device::tiny();
        device.options.accumulate = model;
        let body = "mov.b32 %d, 0f4B800000;\nmov.b32 %y, 0x3f803f80;\n\
                    mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%d, %z, %w, %v}, \
                    {%y, %y, %y, %y}, {%y, %y}, {%d, %d, %d, %d};";
        let found = block_on(&device, 32, ".reg .b32 %w, %v;", body, &[0; 32]);
        f32::from_bits(found[0])
    };
    assert_eq!(run(Accumulate::Sequential), 16_777_216.0);
    assert_eq!(run(Accumulate::Groups8), 16_777_232.0);
    assert_eq!(run(Accumulate::Groups16), 16_777_232.0);
}

#[test]
fn barriers_of_some_warps_and_mbarriers_order_shared_memory() {
    // the second warp waits for the first at barrier 1; the third passes by
    let declarations = ".shared .align 8 .b8 box[256];\n.reg .b32 %s;\n.reg .b64 %w;";
    let body = "mov.u32 %d, 0;\nmov.u32 %s, box;\nand.b32 %y, %t, 31;\nmad.lo.u32 %s, %y, 4, %s;\n\
                shr.u32 %z, %t, 5;\nsetp.eq.u32 %q, %z, 0;\n@%q bra W;\nsetp.eq.u32 %q, %z, 1;\n\
                @!%q bra E;\nbar.sync 1, 64;\nld.shared.b32 %d, [%s];\nbra E;\n\
                W:\nst.shared.b32 [%s], %t;\nbar.arrive 1, 64;\nE:";
    let found = block(96, declarations, body, &[0; 96]);
    for (i, found) in found.iter().enumerate() {
        assert_eq!(
            *found as usize,
            if (32..64).contains(&i) { i - 32 } else { 0 }
        );
    }
    // an mbarrier of 32 arrivals carries the same order
    let body = "mov.u32 %d, 0;\nmov.u32 %s, box;\nand.b32 %y, %t, 31;\nmad.lo.u32 %s, %y, 4, %s;\n\
                setp.eq.u32 %q, %t, 0;\n@%q mbarrier.init.shared.b64 [box+128], 32;\nbar.sync 0;\n\
                shr.u32 %z, %t, 5;\nsetp.eq.u32 %q, %z, 0;\n@%q bra W;\n\
                L:\nmbarrier.test_wait.parity.shared.b64 %r, [box+128], 0;\n@!%r bra L;\n\
                ld.shared.b32 %d, [%s];\nbra E;\n\
                W:\nst.shared.b32 [%s], %t;\nmbarrier.arrive.shared.b64 %w, [box+128];\nE:";
    let found = block(64, declarations, body, &[0; 64]);
    for (i, found) in found.iter().enumerate() {
        assert_eq!(*found as usize, i.saturating_sub(32));
    }
    // bar.red counts over the block
    let body = "and.b32 %y, %t, 3;\nsetp.eq.u32 %q, %y, 0;\nbar.red.popc.u32 %d, 0, %q;";
    assert_eq!(block(96, "", body, &[0; 96]), vec![24; 96]);
}
