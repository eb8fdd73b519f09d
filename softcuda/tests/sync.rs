//! What warps and blocks do that few kernels need: address spaces, branch tables, elections,
//! matrices between lanes, the operations of mbarriers.

mod common;

use common::{Device, Param, kernel};
use softcuda::exec::{Overlap, Rule, Violation, code};

/// Runs one block of `threads` over `body`; `%d` goes to the output, `%x` is 5 times the thread.
fn block(threads: u32, declarations: &str, body: &str) -> Result<Vec<u32>, Box<Violation>> {
    let device = Device::tiny();
    let declarations =
        format!(".reg .b32 %d, %x, %y, %z;\n.reg .b64 %w, %v;\n.reg .pred %q, %r;\n{declarations}");
    let text = format!(
        "mul.lo.u32 %x, %t, 5;\n{body}\nmad.lo.u64 %a, %t64, 4, %p0;\nst.global.b32 [%a], %d;"
    );
    let module = device.load(&kernel(1, &declarations, &text));
    let out = device.empty(4 * u64::from(threads));
    let grid = device.grid(&module, "k", 1, threads, &[Param::Ptr(out)]);
    device.run(&[grid])?;
    Ok(device.download(out, threads as usize))
}

fn lanes(f: impl Fn(u32) -> u32) -> Vec<u32> {
    (0..32).map(f).collect()
}

#[test]
fn addresses_tell_their_space() {
    let declarations = ".shared .align 4 .b8 s[64];\n.local .align 4 .b8 l[64];";
    let body = "mov.u32 %d, 0;\n\
        mov.u64 %w, s;\ncvta.shared.u64 %w, %w;\nisspacep.shared %q, %w;\n@%q or.b32 %d, %d, 1;\n\
        isspacep.global %q, %w;\n@%q or.b32 %d, %d, 2;\nisspacep.shared::cta %q, %w;\n@%q or.b32 %d, %d, 4;\n\
        mov.u64 %w, l;\ncvta.local.u64 %w, %w;\nisspacep.local %q, %w;\n@%q or.b32 %d, %d, 8;\n\
        isspacep.shared %q, %w;\n@%q or.b32 %d, %d, 16;\n\
        cvta.global.u64 %w, %p0;\nisspacep.global %q, %w;\n@%q or.b32 %d, %d, 32;\n\
        isspacep.local %q, %w;\n@%q or.b32 %d, %d, 64;";
    assert_eq!(
        block(32, declarations, body).expect("no violation"),
        lanes(|_| 1 | 4 | 8 | 32)
    );
    // each lane its own space
    let body = "mov.u64 %w, s;\ncvta.shared.u64 %w, %w;\nsetp.lt.u32 %q, %t, 9;\n\
        selp.b64 %w, %w, %p0, %q;\nisspacep.shared %r, %w;\nselp.b32 %d, 1, 0, %r;";
    assert_eq!(
        block(32, declarations, body).expect("no violation"),
        lanes(|i| u32::from(i < 9))
    );
}

#[test]
fn a_table_of_branches_parts_lanes_and_they_meet_again() {
    let body = "mov.u32 %d, 0;\nand.b32 %y, %t, 3;\nT: .branchtargets A, B, C, D;\nbrx.idx %y, T;\n\
        A:\nadd.u32 %d, %d, 10;\nbra E;\nB:\nadd.u32 %d, %d, 20;\nbra E;\n\
        C:\nadd.u32 %d, %d, 30;\nD:\nadd.u32 %d, %d, 40;\n\
        E:\nredux.sync.add.u32 %z, %d, -1;\nactivemask.b32 %x;\nmad.lo.u32 %d, %z, 1000, %d;\n\
        add.u32 %x, %x, 1;\nadd.u32 %d, %d, %x;";
    let each = |i: u32| [10, 20, 70, 40][i as usize % 4];
    let sum: u32 = (0..32).map(each).sum();
    assert_eq!(
        block(32, "", body).expect("no violation"),
        lanes(|i| sum * 1000 + each(i))
    );
    // under a guard some lanes go on instead
    let body = "mov.u32 %d, 1;\nmov.u32 %y, 0;\nsetp.gt.u32 %q, %t, 20;\nT: .branchtargets A;\n\
        @%q brx.idx %y, T;\nmov.u32 %d, 2;\nA:\nbar.warp.sync -1;";
    assert_eq!(
        block(32, "", body).expect("no violation"),
        lanes(|i| if i > 20 { 1 } else { 2 })
    );
    let body = "mov.u32 %d, 1;\nT: .branchtargets A, B;\nbrx.idx %t, T;\nA:\nmov.u32 %d, 2;\nB:";
    let violation = block(32, "", body).expect_err("a violation");
    assert_eq!(violation.rule, Rule::Undefined, "{violation}");
    assert_eq!(violation.thread, [2, 0, 0]);
}

#[test]
fn one_lane_is_elected() {
    let body = "elect.sync %y|%q, 0xffff;\nselp.b32 %d, 100, 0, %q;\nadd.u32 %d, %d, %y;";
    let halves = format!("setp.lt.u32 %r, %t, 16;\nmov.u32 %d, 7;\n@!%r bra E;\n{body}\nE:");
    // the leader is the lowest member; every member learns who it is
    assert_eq!(
        block(32, "", &halves).expect("no violation"),
        lanes(|i| match i {
            0 => 100,
            1..16 => 0,
            _ => 7,
        })
    );
    let body = "mov.u32 %d, 0;\nsetp.gt.u32 %r, %t, 4;\n@!%r bra E;\nelect.sync %y|%q, 0xffffffe0;\n\
        selp.b32 %d, 100, %y, %q;\nE:";
    assert_eq!(
        block(32, "", body).expect("no violation"),
        lanes(|i| match i {
            0..5 => 0,
            5 => 100,
            _ => 5,
        })
    );
}

#[test]
fn votes_and_matches_of_all() {
    let body = "setp.lt.u32 %q, %t, 32;\nvote.sync.uni.pred %r, %q, -1;\nselp.b32 %d, 1, 0, %r;\n\
        setp.lt.u32 %q, %t, 9;\nvote.sync.uni.pred %r, %q, -1;\n@%r or.b32 %d, %d, 2;\n\
        vote.sync.uni.pred %r, !%q, 0x1ff;\n@%r or.b32 %d, %d, 4;";
    // the last one only by lanes that are its members
    let body = body.replace(
        "vote.sync.uni.pred %r, !%q, 0x1ff;\n@%r or",
        "@!%q bra E;\nvote.sync.uni.pred %r, !%q, 0x1ff;\n@%r or",
    ) + "\nE:";
    assert_eq!(
        block(32, "", &body).expect("no violation"),
        lanes(|i| if i < 9 { 5 } else { 1 })
    );
    let body = "match.all.sync.b32 %y|%q, %x, -1;\nselp.b32 %d, %y, 1, %q;\nmov.u32 %x, 3;\n\
        match.all.sync.b32 %y|%q, %x, -1;\n@%q add.u32 %d, %d, %y;\n@%q add.u32 %d, %d, 1;";
    assert_eq!(block(32, "", body).expect("no violation"), lanes(|_| 1));
    let body = "cvt.u64.u32 %w, %t;\nshr.u64 %w, %w, 4;\nshl.b64 %w, %w, 40;\n\
        match.any.sync.b64 %d, %w, -1;";
    assert_eq!(
        block(32, "", body).expect("no violation"),
        lanes(|i| if i < 16 { 0xffff } else { 0xffff_0000 })
    );
}

/// A lane holds elements (row, 2 column) and (row, 2 column + 1) of an 8x8 matrix, its row the
/// lane / 4 and the pair of columns the lane % 4, by the manual's table for `ldmatrix`.
fn element(lane: u32, half: u32) -> (u32, u32) {
    (lane / 4, lane % 4 * 2 + half)
}

#[test]
fn movmatrix_transposes_between_lanes() {
    // element (r, c) is 8 r + c
    let body = "shl.b32 %y, %t, 1;\nadd.u32 %z, %y, 1;\nshl.b32 %z, %z, 16;\nor.b32 %y, %y, %z;\n\
        movmatrix.sync.aligned.m8n8.trans.b16 %d, %y;";
    let found = block(32, "", body).expect("no violation");
    for lane in 0..32 {
        for half in 0..2 {
            let (row, column) = element(lane, half);
            let value = found[lane as usize] >> (16 * half) & 0xffff;
            assert_eq!(value, 8 * column + row, "lane {lane}");
        }
    }
    let violation = block(16, "", body).expect_err("a violation");
    assert_eq!(violation.rule, Rule::Divergent, "{violation}");
}

#[test]
fn matrices_of_fewer_rows_are_loaded_and_stored() {
    for (count, list) in [(1, "{%f0}"), (2, "{%f0, %f1}")] {
        for transposed in [false, true] {
            let trans = if transposed { ".trans" } else { "" };
            // rows of 48 bytes, each with its number and column; only the first lanes give addresses
            let declarations =
                ".shared .align 16 .b8 tile[1536];\n.reg .b32 %f<2>, %s;\n.reg .b16 %h;";
            let body = format!(
                "mov.u32 %s, tile;\nmad.lo.u32 %s, %t, 48, %s;\nshl.b32 %y, %t, 8;\ncvt.u16.u32 %h, %y;\n\
                 st.shared.b16 [%s], %h;\nadd.u16 %h, %h, 1;\nst.shared.b16 [%s+2], %h;\n\
                 add.u16 %h, %h, 1;\nst.shared.b16 [%s+4], %h;\nadd.u16 %h, %h, 1;\nst.shared.b16 [%s+6], %h;\n\
                 add.u16 %h, %h, 1;\nst.shared.b16 [%s+8], %h;\nadd.u16 %h, %h, 1;\nst.shared.b16 [%s+10], %h;\n\
                 add.u16 %h, %h, 1;\nst.shared.b16 [%s+12], %h;\nadd.u16 %h, %h, 1;\nst.shared.b16 [%s+14], %h;\n\
                 bar.sync 0;\nldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {list}, [%s];\n\
                 bar.sync 0;\nstmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 [%s+16], {list};\n\
                 bar.sync 0;\nmov.u32 %d, %f{};\nsetp.ge.u32 %q, %t, {};\n@%q bra E;\n\
                 ld.shared.b32 %y, [%s+4];\nld.shared.b32 %z, [%s+20];\nsetp.ne.u32 %r, %y, %z;\n\
                 @%r mov.u32 %d, 0xffffffff;\nE:",
                count - 1,
                8 * count,
            );
            let found = block(32, declarations, &body).expect("no violation");
            for lane in 0..32 {
                for half in 0..2 {
                    let (row, column) = element(lane, half);
                    let (row, column) = if transposed {
                        (column, row)
                    } else {
                        (row, column)
                    };
                    let expected = (row + 8 * (count - 1)) << 8 | column;
                    let value = found[lane as usize] >> (16 * half) & 0xffff;
                    assert_eq!(value, expected, "x{count}{trans} lane {lane}");
                }
            }
        }
    }
}

#[test]
fn mbarriers_count_arrivals_and_bytes() {
    let declarations = ".shared .align 8 .b64 bar;\n.reg .b32 %n;";
    // one thread plays all parts: phases turn when nothing is missing
    let body = "mov.u32 %d, 0;\nsetp.ne.u32 %q, %t, 0;\n@%q bra E;\n\
        mbarrier.init.shared::cta.b64 [bar], 3;\n\
        mbarrier.arrive.shared::cta.b64 %w, [bar];\nmbarrier.pending_count.b64 %n, %w;\n\
        mov.u32 %d, %n;\n\
        mbarrier.test_wait.shared.b64 %r, [bar], %w;\n@%r or.b32 %d, %d, 16;\n\
        mbarrier.arrive.shared::cta.b64 _, [bar], 2;\n\
        mbarrier.test_wait.shared.b64 %r, [bar], %w;\n@%r or.b32 %d, %d, 32;\n\
        mbarrier.test_wait.parity.shared.b64 %r, [bar], 0;\n@%r or.b32 %d, %d, 64;\n\
        mbarrier.test_wait.parity.shared.b64 %r, [bar], 1;\n@!%r or.b32 %d, %d, 128;\n\
        mbarrier.arrive.expect_tx.shared.b64 %w, [bar], 48;\n\
        mbarrier.arrive.shared.b64 _, [bar], 2;\n\
        mbarrier.try_wait.parity.shared.b64 %r, [bar], 1, 1000;\n@!%r or.b32 %d, %d, 256;\n\
        mbarrier.complete_tx.relaxed.cta.shared.b64 [bar], 48;\n\
        mbarrier.try_wait.parity.shared.b64 %r, [bar], 1;\n@%r or.b32 %d, %d, 512;\n\
        mbarrier.arrive_drop.shared.b64 _, [bar];\nmbarrier.arrive.shared.b64 _, [bar], 2;\n\
        mbarrier.arrive.shared.b64 %w, [bar];\nmbarrier.arrive.shared.b64 _, [bar];\n\
        mbarrier.test_wait.shared.b64 %r, [bar], %w;\n@%r or.b32 %d, %d, 1024;\n\
        mbarrier.inval.shared.b64 [bar];\nE:";
    let found = block(32, declarations, body).expect("no violation");
    assert_eq!(found[0], 3 | 32 | 64 | 128 | 256 | 512 | 1024);
    for (what, text) in [
        (
            "arrivals",
            "mbarrier.init.shared.b64 [bar], 1;\nmbarrier.arrive.shared.b64 _, [bar], 2;",
        ),
        (
            "not initialised",
            "st.shared.b64 [bar], 5;\nmbarrier.arrive.shared.b64 _, [bar];",
        ),
        ("of 0 arrivals", "mbarrier.init.shared.b64 [bar], 0;"),
    ] {
        let body = format!("mov.u32 %d, 0;\nsetp.ne.u32 %q, %t, 0;\n@%q bra E;\n{text}\nE:");
        let violation = block(32, declarations, &body).expect_err(what);
        assert_eq!(
            (violation.rule, violation.code),
            (Rule::Undefined, code::ILLEGAL_INSTRUCTION),
            "{violation}"
        );
        assert!(violation.message.contains(what), "{violation}");
    }
}

/// A thread's copies arrive at an mbarrier for it; whoever waits there may read them.
#[test]
fn copies_arrive_at_mbarriers() {
    for (arrive, count) in [("", 64), (".noinc", 32)] {
        let device = Device::tiny();
        let declarations = ".shared .align 16 .b8 box[512];\n.shared .align 8 .b64 bar;\n\
            .reg .b32 %d, %s, %y;\n.reg .b64 %w;\n.reg .pred %q, %r;";
        // the first warp copies, the second one reads. Without .noinc the arrival is counted in
        // by the copy itself, and the thread arrives beside it.
        let own = if arrive.is_empty() {
            "mbarrier.arrive.shared.b64 _, [bar];\n"
        } else {
            ""
        };
        let body = format!(
            "mov.u32 %d, 0;\nmov.u32 %s, box;\nand.b32 %y, %t, 31;\nmad.lo.u32 %s, %y, 16, %s;\n\
             setp.eq.u32 %q, %t, 0;\n@%q mbarrier.init.shared.b64 [bar], 32;\nbar.sync 0;\n\
             setp.ge.u32 %q, %t, 32;\n@%q bra W;\nmad.lo.u64 %a, %t64, 16, %p1;\n\
             cp.async.cg.shared.global [%s], [%a], 16;\n\
             cp.async.mbarrier.arrive{arrive}.shared.b64 [bar];\n{own}bra E;\n\
             W:\nmbarrier.test_wait.parity.shared.b64 %r, [bar], 0;\n@!%r bra W;\n\
             ld.shared.b32 %d, [%s+4];\nE:\nmad.lo.u64 %a, %t64, 4, %p0;\nst.global.b32 [%a], %d;"
        );
        let module = device.load(&kernel(2, declarations, &body));
        let out = device.empty(4 * 64);
        let data = device.upload(&(0..128).collect::<Vec<u32>>());
        let grid = device.grid(&module, "k", 1, 64, &[Param::Ptr(out), Param::Ptr(data)]);
        device.run(&[grid]).expect("no violation");
        let found: Vec<u32> = device.download(out, 64);
        for i in 0..32 {
            assert_eq!(found[32 + i] as usize, 4 * i + 1, "{count}");
        }
    }
}

#[test]
fn reductions_of_a_warp_in_every_operation() {
    let x = |i: u32| i.wrapping_mul(2_654_435_761).rotate_left(i) | 3;
    let values =
        "mul.lo.u32 %x, %t, 2654435761;\nshf.l.wrap.b32 %x, %x, %x, %t;\nor.b32 %x, %x, 3;\n";
    type Fold = fn(u32, u32) -> u32;
    let folds: [(&str, Fold); 9] = [
        ("add.u32", u32::wrapping_add),
        ("add.s32", u32::wrapping_add),
        ("min.u32", u32::min),
        ("max.u32", u32::max),
        ("min.s32", |a, b| (a as i32).min(b as i32) as u32),
        ("max.s32", |a, b| (a as i32).max(b as i32) as u32),
        ("and.b32", |a, b| a & b),
        ("or.b32", |a, b| a | b),
        ("xor.b32", |a, b| a ^ b),
    ];
    for (op, fold) in folds {
        // members are the lanes whose number has an even second bit
        let members = 0x3333_3333u32;
        let body = format!(
            "{values}mov.u32 %d, 0;\nand.b32 %y, %t, 2;\nsetp.ne.u32 %q, %y, 0;\n@%q bra E;\n\
             redux.sync.{op} %d, %x, {members};\nE:"
        );
        let is_member = |i: u32| members >> i & 1 == 1;
        let all = (0..32).filter(|&i| is_member(i)).map(x).reduce(fold);
        let expected = lanes(|i| if is_member(i) { all.unwrap_or(0) } else { 0 });
        assert_eq!(
            block(32, "", &body).expect("no violation"),
            expected,
            "{op}"
        );
    }
}

#[test]
fn barriers_reduce_predicates_of_their_threads() {
    for (op, some, every) in [("and", 0, 1), ("or", 1, 1)] {
        for (limit, expected) in [(1, some), (200, every), (0, 0)] {
            let body = format!(
                "setp.lt.u32 %q, %t, {limit};\nbarrier.cta.red.{op}.pred %r, 0, %q;\nselp.b32 %d, 1, 0, %r;"
            );
            let found = block(96, "", &body).expect("no violation");
            assert_eq!(found, vec![expected; 96], "{op} {limit}");
        }
        // the negation of a predicate, at a barrier of two warps out of three
        let body = format!(
            "mov.u32 %d, 7;\nsetp.ge.u32 %q, %t, 64;\n@%q bra E;\nsetp.ge.u32 %q, %t, 1;\n\
             bar.red.{op}.pred %r, 3, 64, !%q;\nselp.b32 %d, 1, 0, %r;\nE:"
        );
        let found = block(96, "", &body).expect("no violation");
        assert_eq!(found[..64], vec![some; 64], "{op}");
        assert_eq!(found[64..], [7; 32], "{op}");
    }
}

/// A warp that sleeps until another one has raised a flag: sleeping holds nobody up, and counts.
#[test]
fn a_warp_sleeps_while_it_waits() {
    let declarations = ".shared .align 4 .u32 flag;";
    let body = "setp.ne.u32 %q, %t, 0;\n@!%q st.shared.u32 [flag], 0;\nbar.sync 0;\nmov.u32 %d, 1;\n\
        setp.ge.u32 %q, %t, 32;\n@%q bra W;\n\
        L:\nnanosleep.u32 100;\nnanosleep.u32 %x;\nld.volatile.shared.u32 %y, [flag];\nsetp.eq.u32 %r, %y, 0;\n@%r bra L;\n\
        mov.u32 %d, %y;\nbra E;\n\
        W:\nmov.u32 %y, 50;\nM:\nsub.u32 %y, %y, 1;\nsetp.ne.u32 %r, %y, 0;\n@%r bra M;\n\
        st.volatile.shared.u32 [flag], 9;\nE:";
    let found = block(64, declarations, body).expect("no violation");
    assert_eq!(found, [[9; 32], [1; 32]].concat());
    // nobody raises it: found, not slept through
    let mut device = Device::tiny();
    device.options.patience = 1 << 16;
    let body = "L:\nnanosleep.u32 1000;\nld.volatile.global.u32 %t, [%p0];\nsetp.eq.u32 %q, %t, 0;\n@%q bra L;";
    let module = device.load(&kernel(1, ".reg .pred %q;", body));
    let flag = device.upload(&[0u32]);
    let grid = device.grid(&module, "k", 1, 32, &[Param::Ptr(flag)]);
    let violation = device.run(&[grid]).expect_err("a violation");
    assert_eq!(
        (violation.rule, violation.code),
        (Rule::Deadlock, code::LAUNCH_TIMEOUT)
    );
}

/// What moves no data and waits for nobody: each form is known, and no other.
#[test]
fn hints_are_taken_and_wrong_ones_refused() {
    let body = "mov.u32 %d, 4;\nprefetch.global.L1 [%p0];\nprefetch.global.L2 [%p0+64];\nprefetch.L1 [%p0];\n\
        prefetch.global.L2::evict_last [%p0];\nprefetch.global.L2::evict_normal [%p0];\nprefetchu.L1 [%p0];\n\
        prefetch.local.L1 [l];\nprefetch.global.L2 [4096];\npmevent 3;\npmevent.mask 7;\n\
        createpolicy.fractional.L2::evict_last.b64 %w, 0f3F800000;\n\
        st.global.L2::cache_hint.b32 [%p0], %d, %w;";
    let found = block(1, ".local .align 4 .b8 l[4];", body).expect("no violation");
    assert_eq!(found, [4]);
    let device = Device::tiny();
    for text in [
        "nanosleep.b32 1;",
        "nanosleep.u32 1, 2;",
        "nanosleep.u32;",
        "prefetch.global.L3 [%p0];",
        "prefetch.global.L2 %p0;",
        "prefetch.global.L2;",
        "pmevent 70000;",
        "griddepcontrol.go;",
        "createpolicy.fractional.L2::evict_last.b32 %t, 1.0;",
        "activemask.b64 %a;",
        "elect %t|%q, -1;",
        "redux.sync.add.f32 %t, %t, -1;",
        "vote.sync.most.pred %q, %q, -1;",
        "membar.warp;",
        "fence.gpu.twice;",
        "bar.sync;",
    ] {
        let ptx = kernel(1, ".reg .pred %q;", text);
        let error = softcuda::ptx::Module::load(&ptx, device.model, &device.memory, None);
        let error = error.expect_err(text);
        let line = ptx.lines().nth(error.line as usize - 1);
        assert_eq!(line, Some(text), "{error}");
    }
}

/// A successor looks at memory before and after it waits for its predecessor.
const CHAIN: &str = ".version 9.0\n.target sm_90\n.address_size 64\n\
    .visible .entry first(.param .u64 p) {\n.reg .b64 %p;\n.reg .b32 %x;\n.reg .pred %q;\n\
    ld.param.u64 %p, [p];\nTRIGGER\nmov.u32 %x, 40;\nL:\nsub.u32 %x, %x, 1;\nsetp.ne.u32 %q, %x, 0;\n@%q bra L;\n\
    st.relaxed.gpu.global.u32 [%p], 1;\nret;\n}\n\
    .visible .entry second(.param .u64 p, .param .u64 q) {\n.reg .b64 %p, %q;\n.reg .b32 %x, %y;\n\
    ld.param.u64 %p, [p];\nld.param.u64 %q, [q];\nld.relaxed.gpu.global.u32 %x, [%p];\n\
    griddepcontrol.wait;\nld.global.u32 %y, [%p];\nst.global.u32 [%q], %x;\nst.global.u32 [%q+4], %y;\nret;\n}\n";

#[test]
fn a_successor_begins_early_in_between_or_late() {
    // one thread of the host, so that the order is the seed's alone
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let pool = pool.expect("a pool");
    let before = |trigger: &str, overlap: Overlap, seed: u64| {
        let mut device = Device::tiny();
        (device.options.overlap, device.options.seed) = (overlap, seed);
        let module = device.load(&CHAIN.replace("TRIGGER", trigger));
        let (flag, seen) = (device.upload(&[0u32]), device.empty(8));
        let first = device.grid(&module, "first", 1, 1, &[Param::Ptr(flag)]);
        let mut second = device.grid(&module, "second", 1, 1, &[flag, seen].map(Param::Ptr));
        second.programmatic = true;
        let chain = [first, second];
        pool.install(|| device.run(&chain)).expect("no violation");
        let seen: Vec<u32> = device.download(seen, 2);
        assert_eq!(seen[1], 1, "what was waited for is seen");
        seen[0]
    };
    let trigger = "griddepcontrol.launch_dependents;";
    let mut between = [0; 2];
    for seed in 0..40 {
        assert_eq!(before(trigger, Overlap::Early, seed), 0, "seed {seed}");
        assert_eq!(before(trigger, Overlap::Late, seed), 1, "seed {seed}");
        between[before(trigger, Overlap::Interleaved, seed) as usize] += 1;
        // without a word of the predecessor, its successor begins when it is complete
        for overlap in [Overlap::Early, Overlap::Interleaved, Overlap::Late] {
            assert_eq!(before("", overlap, seed), 1, "seed {seed}");
        }
    }
    assert!(between[0] > 0 && between[1] > 0, "{between:?}");
}
