//! `cp.async`: widths, parts, groups, and lanes that go their own ways.

mod common;

use common::{Device, Param, kernel};
use softcuda::exec::{Rule, Violation};

/// Runs a warp on 512 bytes of input; `%s` is the target of each lane, `%a` its source, both 16
/// bytes apart, `%q` whether it is below 16. Each lane gives the 16 bytes of `result`, loaded
/// from shared memory.
fn warp(body: &str, result: &str) -> Result<Vec<u8>, Box<Violation>> {
    let device = Device::tiny();
    let declarations = ".reg .b32 %s, %x, %m, %f<4>;\n.reg .b64 %b;\n.reg .pred %q, %r;\n\
        .shared .align 16 .b8 tile[1024];";
    let text = format!(
        "mov.u32 %s, tile;\nmad.lo.u32 %s, %t, 16, %s;\nmad.lo.u64 %a, %t64, 16, %p1;\n\
         setp.lt.u32 %q, %t, 16;\n{body}\n\
         mad.lo.u64 %a, %t64, 16, %p0;\n{result}\nst.global.v4.b32 [%a], {{%f0, %f1, %f2, %f3}};"
    );
    let module = device.load(&kernel(2, declarations, &text));
    let out = device.upload(&[0u8; 512]);
    let input = device.upload(&input());
    let grid = device.grid(&module, "k", 1, 32, &[Param::Ptr(out), Param::Ptr(input)]);
    device.run(&[grid])?;
    Ok(device.download(out, 512))
}

fn input() -> Vec<u8> {
    (0..512u32).map(|i| (i * 89 + 7) as u8).collect()
}

const LOAD: &str = "ld.shared.v4.b32 {%f0, %f1, %f2, %f3}, [%s];";

#[test]
fn copies_of_every_width_arrive_wherever_lanes_send_them() {
    for turned in [0, 1, 5, 16, 31] {
        // one copy of 16 bytes, two of 8, four of 4, in any order of the lanes
        let to =
            format!("xor.b32 %x, %t, {turned};\nmov.u32 %s, tile;\nmad.lo.u32 %s, %x, 16, %s;\n");
        for (op, bytes) in [
            ("cp.async.cg.shared.global", 16),
            ("cp.async.ca.shared.global", 16),
            ("cp.async.ca.shared.global.L2::128B", 8),
            ("cp.async.ca.shared.global", 4),
        ] {
            let mut body = to.clone();
            for at in (0..16).step_by(bytes) {
                body += &format!("{op} [%s+{at}], [%a+{at}], {bytes};\n");
            }
            body +=
                "cp.async.wait_all;\nbar.sync 0;\nmov.u32 %s, tile;\nmad.lo.u32 %s, %t, 16, %s;";
            let found = warp(&body, LOAD).expect("no violation");
            for (i, found) in found.chunks(16).enumerate() {
                let from = (i ^ turned) * 16;
                assert_eq!(
                    found,
                    &input()[from..from + 16],
                    "{op} {bytes} {turned} lane {i}"
                );
            }
        }
    }
}

#[test]
fn the_rest_of_a_part_is_zero_and_nothing_is_read_for_it() {
    // lane i copies i bytes at most 16; beyond them the source need not exist
    let body = "min.u32 %m, %t, 16;\nsetp.eq.u32 %r, %m, 0;\n@%r mov.u64 %a, 16;\n\
        cp.async.cg.shared.global [%s], [%a], 16, %m;\ncp.async.commit_group;\n\
        cp.async.wait_group 0;";
    let found = warp(body, LOAD).expect("no violation");
    for (lane, found) in found.chunks(16).enumerate() {
        let mut expected = input()[lane * 16..lane * 16 + 16].to_vec();
        expected[lane.min(16)..].fill(0);
        assert_eq!(found, expected, "lane {lane}");
    }
    // a predicate takes the source away, address and all
    let body = "@%q mov.u64 %a, 16;\ncp.async.cg.shared.global [%s], [%a], 16, %q;\n\
        cp.async.wait_all;";
    let found = warp(body, LOAD).expect("no violation");
    assert_eq!(found[..256], [0; 256]);
    assert_eq!(found[256..], input()[256..]);
    let body = "mov.u32 %m, 17;\ncp.async.cg.shared.global [%s], [%a], 16, %m;";
    let violation = warp(body, "").expect_err("17 of 16 bytes");
    assert_eq!(violation.rule, Rule::Undefined);
}

#[test]
fn only_what_was_waited_for_may_be_read() {
    let two = "cp.async.cg.shared.global [%s], [%a], 16;\ncp.async.commit_group;\n\
        cp.async.cg.shared.global [%s+512], [%a], 16;\ncp.async.commit_group;\n";
    let second = LOAD.replace("[%s]", "[%s+512]");
    // `place`: of the first wrong byte, in units of what a lane copies
    let pending_at = |body: &str, result: &str, thread: u32, place: u64| {
        let violation = warp(body, result).expect_err(body);
        assert_eq!(violation.rule, Rule::Pending, "{violation}");
        assert_eq!(violation.thread, [thread, 0, 0], "{violation}");
        let second = u64::from(result.contains("+512")) * 512;
        let byte = 1024 + second + place * 16;
        assert_eq!(violation.address, Some(byte), "{violation}");
    };
    let pending = |body: &str, result: &str, thread: u32| {
        pending_at(body, result, thread, thread.into());
    };
    // all groups but the last one, or all
    let body = format!("{two}cp.async.wait_group 1;");
    assert_eq!(warp(&body, LOAD).expect("no violation"), input());
    pending(&body, &second, 0);
    let body = format!("{two}cp.async.wait_group 0;");
    assert_eq!(warp(&body, &second).expect("no violation"), input());
    pending(&format!("{two}cp.async.wait_group 2;"), LOAD, 0);
    // a copy in no group is waited for by `wait_all` alone
    let one = "cp.async.cg.shared.global [%s], [%a], 16;\n";
    pending(&format!("{one}cp.async.wait_group 0;"), LOAD, 0);
    let body = format!("{one}cp.async.wait_all;");
    assert_eq!(warp(&body, LOAD).expect("no violation"), input());
    // some lanes wait, or commit, and the others do not: the first half of one copy is over
    for part in [
        "@%q cp.async.wait_all;",
        "@%q cp.async.commit_group;\ncp.async.wait_group 0;",
        "cp.async.commit_group;\n@!%q cp.async.commit_group;\n@!%q bra L;\ncp.async.wait_group 0;\nL:",
    ] {
        let body = format!("{one}{part}");
        pending(&body, LOAD, 16);
        let half = format!(
            "mov.u32 %f0, 0;\nmov.u32 %f1, 0;\nmov.u32 %f2, 0;\nmov.u32 %f3, 0;\n@%q {LOAD}"
        );
        let found = warp(&body, &half).expect("no violation");
        assert_eq!(found[..256], input()[..256], "{part}");
        // and the rest when the others wait, too
        let body = format!("{body}\ncp.async.wait_all;");
        assert_eq!(warp(&body, LOAD).expect("no violation"), input(), "{part}");
    }
    // the target must not be written meanwhile, by a store or by another copy
    pending(&format!("{one}st.shared.u32 [%s], %t;"), "", 0);
    pending(&format!("{one}{one}"), "", 0);
    let body = "and.b32 %x, %t, 15;\nmov.u32 %s, tile;\nmad.lo.u32 %s, %x, 16, %s;\n";
    pending_at(&format!("{body}{one}"), "", 16, 0);
}

#[test]
fn wrong_addresses_are_named_by_their_lane() {
    for (body, rule, thread) in [
        // the last eight lanes are beyond the memory of the block
        ("add.u32 %s, %s, 640;", Rule::OutOfBounds, 24),
        // beyond the source
        ("add.u64 %a, %a, 256;", Rule::OutOfBounds, 16),
        (
            "setp.eq.u32 %r, %t, 9;\n@%r add.u32 %s, %s, 8;",
            Rule::Misaligned,
            9,
        ),
        (
            "setp.eq.u32 %r, %t, 9;\n@%r add.u64 %a, %a, 8;",
            Rule::Misaligned,
            9,
        ),
    ] {
        let body = format!("{body}\ncp.async.cg.shared.global [%s], [%a], 16;\ncp.async.wait_all;");
        let violation = warp(&body, "").expect_err(&body);
        assert_eq!(
            (violation.rule, violation.thread),
            (rule, [thread, 0, 0]),
            "{violation}"
        );
    }
}
