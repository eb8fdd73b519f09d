//! Loads and stores of every width and space, scopes and orders, special registers, and the counts
//! of all that.

mod common;

use common::{Device, Param, kernel};
use softcuda::counts::Counts;
use softcuda::exec::{Rule, Violation, code};

/// Runs one block of 32 lanes; `%d` of each is what it gives. `module` stands before the kernel.
fn lanes(module: &str, declarations: &str, body: &str) -> Vec<u32> {
    let device = Device::tiny();
    let declarations = format!(".reg .b32 %d, %x, %y;\n.reg .b64 %w;\n{declarations}");
    let body = format!("{body}\nmad.lo.u64 %a, %t64, 4, %p0;\nst.global.b32 [%a], %d;");
    let text = kernel(1, &declarations, &body);
    let text = text.replace(".visible .entry", &format!("{module}\n.visible .entry"));
    let module = device.load(&text);
    let out = device.empty(4 * 32);
    let grid = device.grid(&module, "k", 1, 32, &[Param::Ptr(out)]);
    device.run(&[grid]).expect("no violation");
    device.download(out, 32)
}

#[test]
fn every_width_is_extended_as_its_type_says() {
    let data: Vec<u8> = (0..512u32).map(|i| (i * 151 + 13) as u8).collect();
    for (ty, bytes, signed) in [
        ("u8", 1, false),
        ("s8", 1, true),
        ("b8", 1, false),
        ("u16", 2, false),
        ("s16", 2, true),
        ("u32", 4, false),
        ("s32", 4, true),
        ("f32", 4, false),
        ("u64", 8, false),
        ("b64", 8, false),
        ("f64", 8, false),
    ] {
        for count in [1usize, 2, 4] {
            if bytes * count > 16 {
                continue;
            }
            for space in ["global", "shared", "local"] {
                // registers may be wider than what is loaded
                let (register, wide) = match (ty, bytes) {
                    ("u8" | "s8" | "b8", _) => ("b32", 4),
                    ("f32", _) => ("b32", 4),
                    (_, 2) => ("b32", 4),
                    (_, 8) => ("b64", 8),
                    _ => ("b32", 4),
                };
                let device = Device::tiny();
                let vector = if count > 1 {
                    format!(".v{count}")
                } else {
                    String::new()
                };
                let list = |count: usize| {
                    let names: Vec<String> = (0..count).map(|i| format!("%v{i}")).collect();
                    match count {
                        1 => names[0].clone(),
                        _ => format!("{{{}}}", names.join(", ")),
                    }
                };
                let each = bytes * count;
                let mut body = format!("mad.lo.u64 %a, %t64, {each}, %p1;\n");
                if space != "global" {
                    // first to the other space, byte by byte
                    let place = if space == "shared" { "buffer" } else { "stack" };
                    body += &format!("mov.u64 %bb, {place};\n");
                    if space == "shared" {
                        body += &format!("mad.lo.u64 %bb, %t64, {each}, %bb;\n");
                    }
                    for i in 0..each {
                        body +=
                            &format!("ld.global.u8 %x, [%a+{i}];\nst.{space}.u8 [%bb+{i}], %x;\n");
                    }
                    body += "mov.u64 %a, %bb;\n";
                }
                body += &format!("ld.{space}{vector}.{ty} {}, [%a];\n", list(count));
                body += &format!("mad.lo.u64 %a, %t64, {}, %p0;\n", wide * count);
                for i in 0..count {
                    body += &format!("st.global.{register} [%a+{}], %v{i};\n", i * wide);
                }
                // and back as it was loaded
                body += &format!(
                    "mad.lo.u64 %a, %t64, {each}, %p2;\nst.global{vector}.{ty} [%a], {};\n",
                    list(count)
                );
                let declarations = format!(
                    ".reg .{register} %v<4>;\n.reg .b32 %x;\n.shared .align 16 .b8 buffer[512];\n\
                     .local .align 16 .b8 stack[16];"
                );
                let module = device.load(&kernel(3, &declarations, &body));
                let out = device.empty((32 * wide * count) as u64);
                let again = device.empty((32 * each) as u64);
                let input = device.upload(&data);
                let params = [Param::Ptr(out), Param::Ptr(input), Param::Ptr(again)];
                let grid = device.grid(&module, "k", 1, 32, &params);
                device.run(&[grid]).expect("no violation");
                let found: Vec<u8> = device.download(out, 32 * wide * count);
                for (i, found) in found.chunks(wide).enumerate() {
                    let from = &data[i * bytes..(i + 1) * bytes];
                    let fill = if signed && from[bytes - 1] > 127 {
                        255
                    } else {
                        0
                    };
                    let mut expected = from.to_vec();
                    expected.resize(wide, fill);
                    assert_eq!(found, expected, "ld.{space}{vector}.{ty} element {i}");
                }
                let stored: Vec<u8> = device.download(again, 32 * each);
                assert_eq!(stored, data[..32 * each], "st.global{vector}.{ty}");
            }
        }
    }
}

#[test]
fn hints_for_caches_change_no_value() {
    let device = Device::tiny();
    let data: Vec<u32> = (0..32).map(|i| i * 77 + 5).collect();
    for (load, store) in [
        ("ld.global.ca.b32", "st.global.wb.b32"),
        ("ld.global.cg.b32", "st.global.cg.b32"),
        ("ld.global.cs.b32", "st.global.cs.b32"),
        ("ld.global.lu.b32", "st.global.wt.b32"),
        ("ld.global.cv.b32", "st.volatile.global.b32"),
        ("ld.volatile.global.b32", "st.relaxed.gpu.global.b32"),
        ("ld.global.nc.b32", "st.release.gpu.global.b32"),
        (
            "ld.global.L1::evict_last.b32",
            "st.global.L1::no_allocate.b32",
        ),
        ("ld.global.nc.L1::no_allocate.L2::128B.b32", "st.global.b32"),
        ("ld.acquire.sys.global.b32", "st.relaxed.sys.global.b32"),
        ("ld.b32", "st.b32"),
    ] {
        let body = format!(
            "mad.lo.u64 %a, %t64, 4, %p1;\nprefetch.global.L2 [%a];\n{load} %x, [%a];\n\
             mad.lo.u64 %a, %t64, 4, %p0;\n{store} [%a], %x;"
        );
        let module = device.load(&kernel(2, ".reg .b32 %x;", &body));
        let (out, input) = (device.empty(128), device.upload(&data));
        let params = [Param::Ptr(out), Param::Ptr(input)];
        let grid = device.grid(&module, "k", 1, 32, &params);
        device.run(&[grid]).expect("no violation");
        assert_eq!(device.download::<u32>(out, 32), data, "{load} {store}");
    }
}

#[test]
fn constants_parameters_and_the_stack_are_read() {
    let module = ".const .align 4 .b32 table[4] = {10, 20, 30, 40};\n\
        .const .align 4 .f32 half = 0f3F000000;\n.global .align 4 .u32 start[2] = {7, 9};";
    let body = "and.b32 %x, %t, 3;\nmov.u64 %w, table;\nmad.wide.u32 %w, %x, 4, %w;\n\
        ld.const.u32 %d, [%w];\nld.const.u32 %x, [table+12];\nadd.u32 %d, %d, %x;\n\
        ld.const.f32 %x, [half];\nshr.u32 %x, %x, 24;\nadd.u32 %d, %d, %x;\n\
        ld.global.u32 %x, [start+4];\nadd.u32 %d, %d, %x;\n\
        cvta.const.u64 %w, %w;\nld.u32 %x, [%w];\nadd.u32 %d, %d, %x;";
    let found = lanes(module, "", body);
    for (i, found) in found.into_iter().enumerate() {
        let own = 10 * (i as u32 % 4 + 1);
        assert_eq!(found, own + 40 + 0x3f + 9 + own);
    }
    // each lane has a stack of its own, reached by its address or by a generic one
    let stack = ".local .align 16 .b8 stack[64];";
    let body = "and.b32 %x, %t, 15;\nmov.u64 %w, stack;\nmad.wide.u32 %w, %x, 4, %w;\n\
        st.local.u32 [stack], 0;\nst.local.u32 [%w], %t;\nst.local.u8 [%w+1], 1;\n\
        cvta.local.u64 %w, %w;\nld.u32 %d, [%w];";
    let found = lanes("", stack, body);
    assert_eq!(found, (0..32).map(|i| i + 256).collect::<Vec<u32>>());

    // a struct by value
    let text = ".version 9.0\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 out, \
        .param .align 8 .b8 s[24], .param .u16 small, .param .f64 last) {\n.reg .b64 %p, %w, %v;\n\
        .reg .b32 %x, %y, %z;\n.reg .b16 %h;\nld.param.u64 %p, [out];\n\
        ld.param.v2.u32 {%x, %y}, [s];\nld.param.u64 %w, [s+8];\nld.param.s8 %z, [s+17];\n\
        ld.param.u16 %h, [small];\nld.param.b64 %v, [last];\nst.global.v2.u32 [%p], {%x, %y};\n\
        st.global.u64 [%p+8], %w;\nst.global.u32 [%p+16], %z;\nst.global.u16 [%p+20], %h;\n\
        st.global.u16 [%p+22], %h;\nst.global.b64 [%p+24], %v;\nret;\n}\n";
    let device = Device::tiny();
    let module = device.load(text);
    let out = device.empty(32);
    let kernel = module.kernel("k").expect("the kernel").clone();
    let offsets: Vec<u32> = kernel.params.iter().map(|p| p.offset).collect();
    assert_eq!(offsets, [0, 8, 32, 40]);
    assert_eq!(kernel.param_bytes, 48);
    let mut params = out.to_le_bytes().to_vec();
    params.extend((0..24u8).map(|i| i + 100 + u8::from(i == 17) * 100));
    params.extend(4321u16.to_le_bytes());
    params.resize(40, 0);
    params.extend(2.5f64.to_le_bytes());
    let mut grid = device.grid(&device.load(&common::kernel(0, "", "")), "k", 1, 1, &[]);
    (grid.kernel, grid.params) = (kernel, params.clone());
    device.run(&[grid]).expect("no violation");
    let found: Vec<u8> = device.download(out, 32);
    assert_eq!(found[..16], params[8..24]);
    assert_eq!(found[16..20], i32::from(217u8 as i8).to_le_bytes());
    assert_eq!(found[20..22], 4321u16.to_le_bytes());
    assert_eq!(found[24..], 2.5f64.to_le_bytes());
}

#[test]
fn special_registers_tell_where_a_thread_is() {
    let device = Device::tiny();
    let mut names: Vec<String> = Vec::new();
    for register in ["tid", "ntid", "ctaid", "nctaid"] {
        names.extend(["x", "y", "z"].map(|axis| format!("%{register}.{axis}")));
    }
    names.extend(
        [
            "laneid",
            "warpid",
            "nwarpid",
            "smid",
            "nsmid",
            "dynamic_smem_size",
            "total_smem_size",
            "cluster_ctarank",
            "cluster_nctarank",
            "cluster_ctaid.x",
            "cluster_nctaid.y",
            "clusterid.x",
            "nclusterid.x",
        ]
        .map(|name| format!("%{name}")),
    );
    names.extend(["eq", "lt", "le", "gt", "ge"].map(|name| format!("%lanemask_{name}")));
    names.push("WARP_SZ".to_owned());
    let mut body = "mov.u32 %x, 0;\n".to_owned();
    for (number, size) in [
        ("%ctaid.z", "%nctaid.z"),
        ("%ctaid.y", "%nctaid.y"),
        ("%ctaid.x", "%nctaid.x"),
        ("%tid.z", "%ntid.z"),
        ("%tid.y", "%ntid.y"),
        ("%tid.x", "%ntid.x"),
    ] {
        body +=
            &format!("mov.u32 %y, {size};\nmov.u32 %z, {number};\nmad.lo.u32 %x, %x, %y, %z;\n");
    }
    body += &format!("mad.wide.u32 %a, %x, {}, %p0;\n", 4 * names.len());
    for (i, name) in names.iter().enumerate() {
        body += &format!("mov.u32 %y, {name};\nst.global.u32 [%a+{}], %y;\n", 4 * i);
    }
    body += "mov.u64 %w, %clock64;\nmov.u64 %v, %clock64;\nsetp.gt.u64 %q, %v, %w;\n@!%q trap;";
    let declarations = ".reg .b32 %x, %y, %z;\n.reg .b64 %w, %v;\n.reg .pred %q;\n\
        .extern .shared .align 16 .b8 dynamic[];";
    let text = kernel(1, declarations, &body)
        .replace("%q;\n.extern .shared .align 16 .b8 dynamic[];", "%q;");
    let module = device.load(&text);
    let (blocks, threads) = ([3u32, 2, 2], [5u32, 4, 3]);
    let count = (12 * 60 * names.len()) as u64;
    let out = device.empty(4 * count);
    let mut grid = device.grid(&module, "k", 1, 1, &[Param::Ptr(out)]);
    (grid.grid, grid.block, grid.dynamic_shared) = (blocks, threads, 48);
    device.run(&[grid]).expect("no violation");
    let found: Vec<u32> = device.download(out, count as usize);
    for (thread, found) in found.chunks(names.len()).enumerate() {
        let (block, thread) = (thread as u32 / 60, thread as u32 % 60);
        let place = |i: u32, sizes: [u32; 3]| {
            [
                i % sizes[0],
                i / sizes[0] % sizes[1],
                i / sizes[0] / sizes[1],
            ]
        };
        assert_eq!(found[..3], place(thread, threads));
        assert_eq!(found[3..6], threads);
        assert_eq!(found[6..9], place(block, blocks));
        assert_eq!(found[9..12], blocks);
        let lane = thread % 32;
        // warps of a multiprocessor at most, not of the block
        assert_eq!(found[12..15], [lane, thread / 32, 64]);
        assert!(
            found[15] < 4 && found[16] == 4,
            "one of four multiprocessors"
        );
        assert_eq!(found[17..19], [48, 48]);
        // every block is a cluster
        assert_eq!(found[19..25], [0, 1, 0, 1, found[6], found[9]]);
        let below = (1u32 << lane) - 1;
        let equal = 1 << lane;
        let expected = [equal, below, below | equal, !(below | equal), !below];
        assert_eq!(found[25..30], expected);
        assert_eq!(found[30], 32);
    }
}

#[test]
fn clocks_go_on_and_have_two_halves() {
    let clocks = ["%clock64", "%globaltimer"];
    for (whole, low, high) in [
        (clocks[0], "%clock", "%clock_hi"),
        (clocks[1], "%globaltimer_lo", "%globaltimer_hi"),
    ] {
        let body = format!(
            "mov.u64 %w, {whole};\nmov.u32 %x, {low};\nmov.u32 %y, {high};\nmov.u64 %v, {whole};\n\
             setp.lt.u64 %q, %w, %v;\nselp.b32 %d, 1, 0, %q;\n\
             mov.b64 %u, {{%x, %y}};\nsetp.le.u64 %q, %w, %u;\n@%q add.u32 %d, %d, 2;\n\
             setp.ge.u64 %q, %v, %u;\n@%q add.u32 %d, %d, 4;"
        );
        let found = lanes("", ".reg .b64 %v, %u;\n.reg .pred %q;", &body);
        assert_eq!(found, [7; 32], "{whole}");
    }
}

#[test]
fn dynamic_shared_memory_lies_behind_the_static_and_ends_where_it_ends() {
    let device = Device::tiny();
    let text = kernel(
        1,
        ".reg .b32 %x;\n.reg .b64 %w;\n.shared .align 4 .b8 fixed[20];",
        "mov.u64 %w, dynamic;\nmad.lo.u64 %w, %t64, 16, %w;\nst.shared.u32 [%w], %t;\n\
         st.shared.u32 [%w+12], %t;\nbar.sync 0;\nld.shared.u32 %x, [%w+12];\n\
         mad.lo.u64 %a, %t64, 4, %p0;\nst.global.u32 [%a], %x;\n\
         mov.u64 %w, fixed;\nst.shared.u32 [fixed+16], 1;",
    )
    .replace(
        ".visible .entry",
        ".extern .shared .align 16 .b8 dynamic[];\n.visible .entry",
    );
    let module = device.load(&text);
    let out = device.empty(4 * 32);
    let mut grid = device.grid(&module, "k", 1, 32, &[Param::Ptr(out)]);
    assert_eq!(grid.kernel.static_shared, 20);
    grid.dynamic_shared = 32 * 16;
    let counts = device
        .run(std::slice::from_ref(&grid))
        .expect("no violation");
    assert_eq!(
        (counts[0].static_shared, counts[0].dynamic_shared),
        (20, 512)
    );
    assert_eq!(
        device.download::<u32>(out, 32),
        (0..32).collect::<Vec<u32>>()
    );
    // the last lane's last word is beyond it
    grid.dynamic_shared -= 4;
    let violation = device.run(&[grid]).expect_err("a violation");
    assert_eq!(
        (violation.rule, violation.code, violation.thread),
        (Rule::OutOfBounds, code::ILLEGAL_ADDRESS, [31, 0, 0])
    );
}

/// Block 0 writes a word and raises a flag; block 1 waits for the flag and reads the word.
fn handed_over(raise: &str, wait: &str, seed: u64) -> Result<Vec<Counts>, Box<Violation>> {
    let mut device = Device::tiny();
    device.options.seed = seed;
    let body = format!(
        "setp.eq.u32 %q, %c, 0;\n@%q bra W;\nL:\n{wait}\nsetp.eq.u32 %q, %x, 0;\n@%q bra L;\nAFTER\n\
         ld.global.u32 %y, [%p0];\nst.global.u32 [%p0+8], %y;\nbra E;\n\
         W:\nst.global.u32 [%p0], 42;\n{raise}\nE:"
    );
    // what follows the loop stands behind a bar
    let (wait, after) = wait.split_once('|').unwrap_or((wait, ""));
    let body = body
        .replace(&format!("{wait}|{after}"), wait)
        .replace("AFTER", after);
    let module = device.load(&kernel(1, ".reg .b32 %x, %y;\n.reg .pred %q;", &body));
    let words = device.upload(&[0u32; 3]);
    let grid = device.grid(&module, "k", 2, 1, &[Param::Ptr(words)]);
    let result = device.run(&[grid]);
    if result.is_ok() {
        assert_eq!(device.download::<u32>(words, 3)[2], 42);
    }
    result
}

#[test]
fn scopes_say_among_whom_an_order_holds() {
    let flag = "[%p0+4]";
    let relaxed = |scope: &str| format!("ld.relaxed.{scope}.global.u32 %x, {flag};");
    for seed in 0..25 {
        for (raise, wait) in [
            (
                format!("fence.acq_rel.gpu;\nst.relaxed.gpu.global.u32 {flag}, 1;"),
                format!("{}|fence.acq_rel.gpu;", relaxed("gpu")),
            ),
            (
                format!("membar.gl;\nst.volatile.global.u32 {flag}, 1;"),
                format!("ld.volatile.global.u32 %x, {flag};|membar.gl;"),
            ),
            (
                format!("fence.sc.sys;\nred.relaxed.sys.global.add.u32 {flag}, 1;"),
                format!("{}|fence.sc.sys;", relaxed("sys")),
            ),
            (
                format!("st.release.gpu.global.u32 {flag}, 1;"),
                format!("ld.acquire.gpu.global.u32 %x, {flag};"),
            ),
            (
                format!("red.release.gpu.global.or.b32 {flag}, 1;"),
                format!("atom.acquire.gpu.global.or.b32 %x, {flag}, 0;"),
            ),
            (
                format!("atom.acq_rel.gpu.global.exch.b32 %x, {flag}, 1;"),
                format!("atom.acq_rel.gpu.global.cas.b32 %x, {flag}, 5, 6;"),
            ),
        ] {
            let result = handed_over(&raise, &wait, seed);
            assert!(
                result.is_ok(),
                "{raise} {wait} seed {seed}: {}",
                result.expect_err("it is")
            );
        }
        for (raise, wait) in [
            // no fence on one side
            (
                format!("st.relaxed.gpu.global.u32 {flag}, 1;"),
                format!("ld.acquire.gpu.global.u32 %x, {flag};"),
            ),
            (
                format!("st.release.gpu.global.u32 {flag}, 1;"),
                relaxed("gpu"),
            ),
            // a fence, or the flag, of the block only
            (
                format!("fence.acq_rel.cta;\nst.relaxed.gpu.global.u32 {flag}, 1;"),
                format!("{}|fence.acq_rel.gpu;", relaxed("gpu")),
            ),
            (
                format!("membar.gl;\nst.relaxed.gpu.global.u32 {flag}, 1;"),
                format!("{}|membar.cta;", relaxed("gpu")),
            ),
            (
                format!("st.release.cta.global.u32 {flag}, 1;"),
                format!("ld.acquire.gpu.global.u32 %x, {flag};"),
            ),
            (
                format!("st.release.gpu.global.u32 {flag}, 1;"),
                format!("ld.acquire.cta.global.u32 %x, {flag};"),
            ),
            (
                format!("red.release.cta.global.or.b32 {flag}, 1;"),
                format!("atom.acquire.gpu.global.or.b32 %x, {flag}, 0;"),
            ),
            // a plain flag is a race by itself
            (
                format!("membar.gl;\nst.global.u32 {flag}, 1;"),
                format!("ld.volatile.global.u32 %x, {flag};|membar.gl;"),
            ),
        ] {
            let violation = handed_over(&raise, &wait, seed).expect_err("a race");
            assert_eq!(
                violation.rule,
                Rule::GlobalRace,
                "{raise} {wait}: {violation}"
            );
        }
    }
}

/// Counts of one block of `threads` on the H100.
fn counts(threads: u32, declarations: &str, body: &str) -> Counts {
    let device = Device::named("h100");
    let module = device.load(&kernel(1, declarations, body));
    let data = device.upload(&vec![0u32; 4096]);
    device.memory.label(data, "data").expect("a label");
    let grid = device.grid(&module, "k", 1, threads, &[Param::Ptr(data)]);
    device.run(&[grid]).expect("no violation").remove(0)
}

#[test]
fn instructions_are_counted_by_class() {
    let declarations = ".reg .b32 %x, %y;\n.reg .b16 %h;\n.reg .f64 %e;\n.reg .b64 %w;\n.reg .pred %q;\n\
        .shared .align 16 .b8 s[512];\n.local .align 8 .b8 l[8];";
    let before = "mov.u32 %x, 0;\nmov.b16 %h, 0;\nmov.f64 %e, 0d0000000000000000;\n";
    let nothing = counts(64, declarations, before);
    let body = "add.u32 %x, %x, 1;\nxor.b32 %x, %x, 2;\nadd.f32 %x, %x, %x;\nfma.rn.f32 %x, %x, %x, %x;\n\
        mul.f32 %x, %x, %x;\nadd.f64 %e, %e, %e;\nadd.rn.f16 %h, %h, %h;\nadd.rn.f16 %h, %h, %h;\n\
        cvt.rn.f32.s32 %x, %x;\nex2.approx.ftz.f32 %x, %x;\nst.local.u32 [l], %x;\nld.local.u32 %x, [l];\n\
        ld.global.u32 %x, [%p0];\nld.global.u32 %y, [%p0+4];\nprefetch.global.L2 [%p0];\n\
        red.global.add.u32 [%p0+256], 1;\nshfl.sync.bfly.b32 %x, %x, 1, 31, -1;\n\
        bar.sync 0;\nmembar.gl;\nmov.u64 %w, s;\nmad.lo.u64 %w, %t64, 4, %w;\nst.shared.u32 [%w], %x;\n\
        ld.shared.u32 %x, [%w];\n";
    let all = counts(64, declarations, &format!("{before}{body}"));
    let more = |class: &str| {
        let of = |c: &Counts| c.classes.get(class).copied().unwrap_or(0);
        of(&all) - of(&nothing)
    };
    // two warps
    for (class, times) in [
        ("integer", 3),
        ("f32", 3),
        ("f64", 1),
        ("half", 2),
        ("convert", 1),
        ("special", 1),
        ("local", 2),
        ("atomic", 1),
        ("shuffle", 1),
        ("barrier", 1),
        ("fence", 1),
        ("shared", 2),
    ] {
        assert_eq!(more(class), 2 * times, "{class}");
    }
    let sum: u64 = all.classes.values().sum();
    assert_eq!(sum, all.warp_instructions);
    assert_eq!(all.warp_instructions - nothing.warp_instructions, 2 * 23);
    assert_eq!((all.barriers, nothing.barriers), (2, 0));
    assert_eq!(all.shared_wavefronts, 4);
    assert_eq!(all.longest_warp * 2, all.warp_instructions);
}

#[test]
fn sectors_divergence_and_the_longest_warp_are_counted() {
    let load = |body: &str, threads| {
        let counts = counts(threads, ".reg .b32 %x, %y;\n.reg .pred %q;", body);
        let traffic = counts.memory["data"].clone();
        (traffic.bytes_read, traffic.sectors, traffic.unique_sectors)
    };
    // four warps read the same 128 bytes
    let body = "and.b32 %x, %t, 31;\nmad.wide.u32 %a, %x, 4, %p0;\nld.global.u32 %x, [%a];";
    assert_eq!(load(body, 128), (512, 16, 4));
    // one word of each sector
    let body = "mad.lo.u64 %a, %t64, 32, %p0;\nld.global.u32 %x, [%a];";
    assert_eq!(load(body, 32), (128, 32, 32));
    // half a sector behind the start of one
    let body = "mad.lo.u64 %a, %t64, 4, %p0;\nld.global.u32 %x, [%a+16];";
    assert_eq!(load(body, 32), (128, 5, 5));
    // one word for all
    assert_eq!(load("ld.global.u32 %x, [%p0+64];", 32), (128, 1, 1));
    // half the lanes
    let body = "setp.lt.u32 %q, %t, 16;\nmad.lo.u64 %a, %t64, 4, %p0;\n@%q ld.global.u32 %x, [%a];";
    assert_eq!(load(body, 32), (64, 2, 2));
    // two lanes to a sector, backwards
    let body = "mul.lo.u64 %a, %t64, 16;\nsub.u64 %a, 1024, %a;\nadd.u64 %a, %a, %p0;\n\
        ld.global.u32 %x, [%a];";
    assert_eq!(load(body, 32), (128, 17, 17));

    let branch = |body: &str, threads| counts(threads, ".reg .b32 %x, %y;\n.reg .pred %q;", body);
    // lanes part in each warp; warps part from each other without a cost
    let body = "and.b32 %x, %t, 1;\nsetp.eq.u32 %q, %x, 0;\n@%q bra A;\nadd.u32 %x, %x, 1;\nA:";
    assert_eq!(branch(body, 96).divergent_branches, 3);
    let body = "setp.lt.u32 %q, %t, 32;\n@%q bra A;\nadd.u32 %x, %t, 1;\nA:";
    assert_eq!(branch(body, 96).divergent_branches, 0);
    // warp i goes round i + 1 times: three more instructions each time
    let body = "shr.u32 %x, %t, 5;\nL:\nsub.s32 %x, %x, 1;\nsetp.ge.s32 %q, %x, 0;\n@%q bra L;";
    let (one, four) = (branch(body, 32), branch(body, 128));
    assert_eq!(one.longest_warp, one.warp_instructions);
    assert_eq!(four.longest_warp, one.longest_warp + 9);
    assert_eq!(
        four.warp_instructions,
        4 * one.longest_warp + 3 * (1 + 2 + 3)
    );
}

#[test]
fn the_global_timer_is_one_clock_for_all_blocks_and_launches() {
    let device = Device::tiny();
    // each block's first thread: the time, its two halves, and the time again
    let body = "mov.u64 %w, %globaltimer;\nmov.u32 %x, %globaltimer_lo;\n\
        mov.u32 %y, %globaltimer_hi;\nmov.u64 %v, %globaltimer;\nmov.u32 %z, %ctaid.x;\n\
        mad.wide.u32 %a, %z, 32, %p0;\nst.global.v2.u64 [%a], {%w, %v};\n\
        st.global.v2.u32 [%a+16], {%x, %y};";
    let declarations = ".reg .b32 %x, %y, %z;\n.reg .b64 %w, %v;";
    let module = device.load(&kernel(1, declarations, body));
    let began = std::time::Instant::now();
    let (mut earliest, mut last) = (u64::MAX, 0);
    for _ in 0..3 {
        let out = device.empty(8 * 32);
        let grid = device.grid(&module, "k", 8, 1, &[Param::Ptr(out)]);
        device.run(&[grid]).expect("no violation");
        let mut latest = 0;
        for block in 0..8 {
            let at = out + 32 * block;
            let [first, second] = device.download::<u64>(at, 2)[..] else {
                panic!("two times");
            };
            let [low, high] = device.download::<u32>(at + 16, 2)[..] else {
                panic!("two halves");
            };
            let between = u64::from(high) << 32 | u64::from(low);
            assert!(last < first && first <= between && between <= second);
            earliest = earliest.min(first);
            latest = latest.max(second);
        }
        last = latest;
    }
    // nanoseconds
    assert!(u128::from(last - earliest) <= began.elapsed().as_nanos());
}
