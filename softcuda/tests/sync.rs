//! What warps and blocks do that few kernels need: address spaces, branch tables, elections,
//! matrices between lanes, the operations of mbarriers.

mod common;

use common::{Device, Param, kernel};
use softcuda::exec::{Rule, Violation, code};

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
