//! Kernels with one mistake each: it is caught and named. The mended ones run in kernels.rs.

mod common;
#[path = "common/nvcc.rs"]
mod nvcc;

use common::{Device, Param};
use softcuda::exec::{Launch, Overlap, Rule, Violation, code};
use softcuda::ptx::Module;

/// Runs the kernel `faults` with one of its mistakes.
fn fault(what: u32) -> Box<Violation> {
    let mut device = Device::tiny();
    device.options.patience = 1 << 20;
    let module = device.load(&nvcc::ptx("overlap", "sm_90", &[]));
    let data = device.empty(4 * 64);
    device.memory.write(data, &[0; 4 * 32]).expect("a write");
    device.memory.label(data, "data").expect("a label");
    let n = if what == 11 { 8 } else { 64 };
    let params = [Param::Ptr(data), Param::U32(n), Param::U32(what)];
    let mut grid = device.grid(&module, "faults", 2, 32, &params);
    // one block where the fault is in a block
    if !matches!(what, 6 | 8) {
        grid.grid = [1, 1, 1];
    }
    let violation = device.run(&[grid]).expect_err("a violation");
    assert!(violation.kernel.contains("faults"));
    let text = nvcc::ptx("overlap", "sm_90", &[]);
    assert!(violation.line > 0 && (violation.line as usize) < text.lines().count());
    let (file, line) = violation.location.clone().expect("a line of the source");
    if matches!(what, 8 | 14) {
        // inlined from a header of the toolkit
        return violation;
    }
    assert!(file.ends_with("overlap.cu"), "{file}");
    let source = include_str!("kernels/overlap.cu");
    let named = source.lines().nth(line as usize - 1).expect("a line");
    println!("{violation}\n    {named}");
    let expected = format!("what == {what}");
    assert!(
        named.contains(&expected) || matches!(what, 4 | 5 | 10 | 14),
        "{violation}: {named}"
    );
    violation
}

#[test]
fn every_kind_of_wrong_access_is_named() {
    for (what, rule, code) in [
        (0, Rule::OutOfBounds, code::ILLEGAL_ADDRESS),
        (1, Rule::Misaligned, code::MISALIGNED_ADDRESS),
        (2, Rule::Uninitialised, code::LAUNCH_FAILED),
        (3, Rule::OutOfBounds, code::ILLEGAL_ADDRESS),
        (4, Rule::Divergent, code::ILLEGAL_INSTRUCTION),
        (5, Rule::Deadlock, code::LAUNCH_TIMEOUT),
        (6, Rule::GlobalRace, code::LAUNCH_FAILED),
        (7, Rule::Trap, code::LAUNCH_FAILED),
        (8, Rule::GlobalRace, code::LAUNCH_FAILED),
        (9, Rule::OutOfBounds, code::ILLEGAL_ADDRESS),
        (10, Rule::Undefined, code::ILLEGAL_INSTRUCTION),
        (11, Rule::Uninitialised, code::LAUNCH_FAILED),
        (12, Rule::OutOfBounds, code::ILLEGAL_ADDRESS),
        (13, Rule::Trap, code::ASSERT),
    ] {
        let violation = fault(what);
        assert_eq!(
            (violation.rule, violation.code),
            (rule, code),
            "{what}: {violation}"
        );
        // accesses have an address, and all faults a place
        let access = !matches!(what, 4 | 5 | 7 | 10 | 13);
        assert!(
            !access || violation.address.is_some(),
            "{what}: {violation}"
        );
        assert!(
            violation.block[0] < 2 && violation.thread[0] < 32,
            "{violation}"
        );
        for part in ["faults", "PTX line", "block [", "thread ["] {
            assert!(violation.to_string().contains(part), "{violation}");
        }
    }
}

/// Lanes of a warp that wait for one that goes round elsewhere: whichever of the two is named.
#[test]
fn a_lane_that_does_not_come_is_missed() {
    let violation = fault(14);
    assert!(
        matches!(violation.rule, Rule::Divergent | Rule::Deadlock),
        "{violation}"
    );
    assert_eq!(violation.code, code::LAUNCH_TIMEOUT);
}

/// What caught the faults says nothing of the same kernel without them, whatever the order.
#[test]
fn the_mended_kernel_runs_clean_under_a_hundred_seeds() {
    let ptx = nvcc::ptx("overlap", "sm_90", &["MENDED"]);
    for seed in 0..100 {
        let mut device = Device::tiny();
        device.options.seed = seed;
        let module = device.load(&ptx);
        let data = device.upload(&[0u32; 64]);
        for what in 0..=14 {
            let params = [Param::Ptr(data), Param::U32(64), Param::U32(what)];
            let mut grid = device.grid(&module, "faults", 2, 32, &params);
            if !matches!(what, 6 | 8) {
                grid.grid = [1, 1, 1];
            }
            let result = device.run(&[grid]);
            assert!(
                result.is_ok(),
                "seed {seed}: {}",
                result.expect_err("it is")
            );
        }
    }
}

/// Freed memory is told from memory that never was.
#[test]
fn memory_that_was_freed_is_named() {
    let device = Device::tiny();
    let module = device.load(&nvcc::ptx("overlap", "sm_90", &["MENDED"]));
    let data = device.upload(&[0u32; 64]);
    device.memory.label(data, "old").expect("a label");
    let params = [Param::Ptr(data), Param::U32(64), Param::U32(0)];
    let grid = device.grid(&module, "faults", 1, 32, &params);
    device
        .run(std::slice::from_ref(&grid))
        .expect("no violation");
    device.memory.free(data).expect("it is there");
    let violation = device.run(&[grid]).expect_err("a violation");
    assert_eq!(
        (violation.rule, violation.code),
        (Rule::OutOfBounds, code::ILLEGAL_ADDRESS)
    );
    assert!(violation.message.contains("`old`"), "{violation}");
    assert!(violation.message.contains("freed before"), "{violation}");
}

/// A copy of another stream at the same time as a grid: the rows that a grid writes may not be
/// read, those that it reads not be written, and what it does not touch does not matter.
#[test]
fn transfers_beside_a_grid_race_with_what_it_touches() {
    use softcuda::exec::Transfer;
    let device = Device::tiny();
    let module = device.load(&nvcc::ptx("overlap", "sm_90", &[]));
    let (input, out) = (device.upload(&[0f32; 100]), device.upload(&[0f32; 100]));
    let params = [Param::Ptr(out), Param::Ptr(input), Param::U32(50)];
    let run = |address: u64, bytes: u64, writes: bool| {
        let mut grid = device.grid(&module, "step", 2, 32, &params);
        grid.transfers = vec![Transfer {
            address,
            bytes,
            writes,
            fill: false,
        }];
        device.run(&[grid])
    };
    for (address, writes, word) in [
        (input, true, "read here and written by a copy"),
        (out, true, "written here and written by a copy"),
        (out, false, "written here and read by a copy"),
    ] {
        let violation = run(address + 196, 8, writes).expect_err("a violation");
        assert_eq!(violation.rule, Rule::GlobalRace, "{violation}");
        assert!(violation.message.contains(word), "{violation}");
        assert_eq!(violation.address, Some(address + 196));
        assert_eq!(violation.block, [1, 0, 0]);
        let (file, _) = violation.location.expect("a line of the source");
        assert!(file.ends_with("overlap.cu"), "{file}");
    }
    run(input, 400, false).expect("both read");
    run(input + 200, 200, true).expect("elsewhere");
    run(out + 200, 200, true).expect("elsewhere");
}

#[test]
fn bytes_never_written_are_not_read() {
    let device = Device::tiny();
    let module = device.load(&nvcc::ptx("overlap", "sm_90", &[]));
    let data = device.empty(4 * 128);
    device.memory.write(data, &[0; 4 * 100]).expect("a write");
    let params = [Param::Ptr(data), Param::U32(128), Param::U32(3)];
    let grid = device.grid(&module, "faults", 1, 64, &params);
    let violation = device.run(&[grid]).expect_err("a violation");
    assert_eq!(violation.rule, Rule::Uninitialised);
    assert_eq!(violation.address, Some(data + 400));
    assert_eq!(violation.thread, [36, 0, 0]);
}

/// Whether a violation names everything: kernel, line of the PTX, a line of the source that
/// holds one of `lines`, block and thread that there are, and the address.
fn named(violation: &Violation, lines: &[&str]) {
    assert!(
        !violation.kernel.is_empty() && violation.line > 0,
        "{violation}"
    );
    let (file, line) = violation.location.as_ref().expect("a line of the source");
    let source = std::fs::read_to_string(file).expect("the source");
    let found = source.lines().nth(*line as usize - 1).expect("a line");
    assert!(
        lines.iter().any(|line| found.contains(line)),
        "{violation}: {found}"
    );
    assert!(violation.block[0] < 64 && violation.block[1..] == [0, 0]);
    assert!(violation.thread[0] < 256 && violation.thread[1..] == [0, 0]);
    assert!(violation.address.is_some_and(|a| a != 0), "{violation}");
    let said = violation.to_string();
    for part in [
        &violation.kernel,
        "PTX line",
        "block [",
        "thread [",
        "address 0x",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

/// Races are found whatever the order, and named.
fn every_seed(run: impl Fn(&mut Device) -> Box<Violation>, rule: Rule, lines: &[&str]) {
    for seed in 0..20 {
        let mut device = Device::tiny();
        device.options.seed = seed;
        let violation = run(&mut device);
        assert_eq!(violation.rule, rule, "seed {seed}: {violation}");
        if seed == 0 {
            println!("{violation}");
        }
        named(&violation, lines);
    }
}

fn last_block(device: &Device, module: &Module) -> Launch {
    let data = vec![1f32; 1000];
    let params = [
        Param::Ptr(device.empty(4)),
        Param::Ptr(device.empty(4 * 4)),
        Param::Ptr(device.upload(&[0u32])),
        Param::Ptr(device.upload(&data)),
        Param::U32(1000),
    ];
    device.grid(module, "sum_last_block", 4, 128, &params)
}

#[test]
fn a_missing_barrier_in_a_block_is_a_race() {
    let ptx = nvcc::ptx("reduce", "sm_80", &["FAULT_SHARED_RACE"]);
    every_seed(
        |device| {
            let module = device.load(&ptx);
            let grid = last_block(device, &module);
            device.run(&[grid]).expect_err("a violation")
        },
        Rule::SharedRace,
        &["partial[warp] = v", "sum += partial[w]"],
    );
}

#[test]
fn a_missing_fence_between_blocks_is_a_race() {
    let ptx = nvcc::ptx("reduce", "sm_80", &["FAULT_NO_FENCE"]);
    every_seed(
        |device| {
            let module = device.load(&ptx);
            let grid = last_block(device, &module);
            device.run(&[grid]).expect_err("a violation")
        },
        Rule::GlobalRace,
        &["partials[blockIdx.x] = v", "sum += partials[b]"],
    );
}

/// The kernel of `a_ticket_that_was_seen_orders_a_plain_store` with a mistake, and what is named.
fn ticket(device: &Device, fault: &str) -> Box<Violation> {
    let module = device.load(&nvcc::ptx("reduce", "sm_80", &[fault]));
    let (partials, counter) = (device.empty(4 * 40), device.upload(&[0u32]));
    device.memory.label(partials, "partials").expect("a label");
    device.memory.label(counter, "counter").expect("a label");
    let params = [
        Param::Ptr(device.empty(4)),
        Param::Ptr(partials),
        Param::Ptr(counter),
        Param::Ptr(device.upload(&vec![1f32; 1000])),
        Param::U32(1000),
    ];
    let grid = device.grid(&module, "sum_ticket", 40, 64, &params);
    device.run(&[grid]).expect_err("a violation")
}

/// Without the fence the ticket still orders the counter, and nothing else.
#[test]
fn a_ticket_without_a_fence_orders_nothing_else() {
    every_seed(
        |device| {
            let violation = ticket(device, "FAULT_NO_FENCE");
            assert!(violation.message.contains("`partials`"), "{violation}");
            violation
        },
        Rule::GlobalRace,
        &["partials[blockIdx.x] = v", "sum += partials[b]"],
    );
}

#[test]
fn a_counter_set_back_by_a_block_that_did_not_see_the_last_ticket_is_a_race() {
    every_seed(
        |device| {
            let violation = ticket(device, "FAULT_EARLY_RESET");
            assert!(violation.message.contains("`counter`"), "{violation}");
            violation
        },
        Rule::GlobalRace,
        // the atomic is a line of the toolkit's header
        &["*counter = 0", "AtomicAdd", "atomicInc", "AtomicInc"],
    );
}

#[test]
fn a_missing_barrier_of_the_grid_is_a_race() {
    let ptx = nvcc::ptx("reduce", "sm_80", &["FAULT_NO_BARRIER"]);
    every_seed(
        |device| {
            let module = device.load(&ptx);
            let slots = device.upload(&[1u32; 8]);
            let next = device.upload(&[1u32; 8]);
            let counter = device.upload(&[0u32]);
            let params = [
                Param::Ptr(slots),
                Param::Ptr(next),
                Param::Ptr(counter),
                Param::U32(3),
            ];
            let grid = device.grid(&module, "grid_rounds", 8, 32, &params);
            device.run(&[grid]).expect_err("a violation")
        },
        Rule::GlobalRace,
        &["sum += slots[b]", "next[blockIdx.x] = sum"],
    );
}

/// A fence hands over what is before it: not an atomic behind it.
#[test]
fn an_atomic_behind_the_fence_is_not_handed_over() {
    let ptx = nvcc::ptx("reduce", "sm_80", &["FAULT_LATE_ATOMIC"]);
    every_seed(
        |device| {
            let module = device.load(&ptx);
            let data = device.upload(&[2u32]);
            device.memory.label(data, "data").expect("a label");
            let flag = device.upload(&[0u32]);
            let params = [
                Param::Ptr(device.empty(4)),
                Param::Ptr(data),
                Param::Ptr(flag),
            ];
            let grid = device.grid(&module, "hand_over", 2, 32, &params);
            let violation = device.run(&[grid]).expect_err("a violation");
            assert!(violation.message.contains("`data`"), "{violation}");
            violation
        },
        Rule::GlobalRace,
        &["out[0] = *data", "AtomicAdd"],
    );
}

#[test]
fn what_is_handed_over_in_a_block_needs_fence_and_volatile_flag() {
    for (fault, lines) in [
        ("FAULT_NO_FENCE", ["data = in[0]", "out[0] = data"]),
        ("FAULT_PLAIN_FLAG", ["flag = 1", "&flag == 0"]),
    ] {
        let ptx = nvcc::ptx("reduce", "sm_80", &[fault]);
        every_seed(
            |device| {
                let module = device.load(&ptx);
                let params = [
                    Param::Ptr(device.empty(4)),
                    Param::Ptr(device.upload(&[9u32])),
                ];
                let grid = device.grid(&module, "hand_over_in_block", 1, 64, &params);
                device.run(&[grid]).expect_err("a violation")
            },
            Rule::SharedRace,
            &lines,
        );
    }
}

#[test]
fn a_count_set_back_by_a_warp_that_did_not_see_the_last_one_is_a_race() {
    let ptx = nvcc::ptx("reduce", "sm_80", &["FAULT_EARLY_RESET"]);
    every_seed(
        |device| {
            let module = device.load(&ptx);
            let params = [Param::Ptr(device.empty(4 * 2 * 160))];
            let grid = device.grid(&module, "last_warp", 1, 160, &params);
            device.run(&[grid]).expect_err("a violation")
        },
        Rule::SharedRace,
        &["count = 100", "AtomicAdd"],
    );
}

fn gemm(device: &Device, defines: &[&str]) -> Box<Violation> {
    let module = device.load(&nvcc::ptx("gemm", "sm_80", defines));
    let a = device.upload(&vec![0u16; 64 * 128]);
    let params = [
        Param::Ptr(device.empty(4 * 64 * 64)),
        Param::Ptr(a),
        Param::Ptr(a),
        Param::U32(64),
        Param::U32(64),
        Param::U32(128),
    ];
    let grid = device.grid(&module, "gemm", 1, 128, &params);
    device.run(&[grid]).expect_err("a violation")
}

#[test]
fn a_copy_that_was_not_waited_for_is_poison() {
    let device = Device::tiny();
    let violation = gemm(&device, &["FAULT_NO_WAIT"]);
    assert_eq!(violation.rule, Rule::Pending, "{violation}");
    // a line of the asm statement, or the one behind it
    named(&violation, &["ldmatrix", "shared_address(&"]);
}

#[test]
fn a_buffer_overwritten_while_it_is_read_is_found() {
    for seed in 0..20 {
        let mut device = Device::tiny();
        device.options.seed = seed;
        // by the order, a reader meets the copy while it goes on, or the race is seen at a barrier
        let violation = gemm(&device, &["FAULT_NO_SYNC"]);
        assert!(
            matches!(violation.rule, Rule::SharedRace | Rule::Pending),
            "{violation}"
        );
        named(
            &violation,
            &["ldmatrix", "shared_address(&", "cp.async.cg", "copy16("],
        );
    }
}

fn chain(device: &Device, defines: &[&str]) -> Box<Violation> {
    let module = device.load(&nvcc::ptx("overlap", "sm_90", defines));
    let input = device.upload(&vec![0f32; 1000]);
    let middle = device.upload(&vec![0f32; 1000]);
    let out = device.upload(&vec![0f32; 1000]);
    let params = |to, from| [Param::Ptr(to), Param::Ptr(from), Param::U32(1000)];
    let first = device.grid(&module, "step", 8, 128, &params(middle, input));
    let mut second = device.grid(&module, "step", 8, 128, &params(out, middle));
    second.programmatic = true;
    device.run(&[first, second]).expect_err("a violation")
}

#[test]
fn a_successor_that_does_not_wait_races_with_its_predecessor() {
    for overlap in [Overlap::Early, Overlap::Interleaved, Overlap::Late] {
        every_seed(
            |device| {
                device.options.overlap = overlap;
                chain(device, &["FAULT_NO_WAIT"])
            },
            Rule::GlobalRace,
            &["out[i] = in[i] + 1"],
        );
    }
}

/// A launch that writes, launches of `middle` that wait for their predecessor or do not, and one
/// that waits for the last of those and reads what the first wrote.
fn around(device: &Device, waits: &[bool], programmatic: bool) -> Result<(), Box<Violation>> {
    let load = |defines| device.load(&nvcc::ptx("overlap", "sm_90", defines));
    let (good, bad) = (load(&[]), load(&["FAULT_MIDDLE"]));
    let (input, data) = (device.upload(&vec![0f32; 1000]), device.empty(4000));
    let out = device.empty(4000);
    device.memory.label(data, "data").expect("a label");
    let n = Param::U32(1000);
    let step = |to, from| {
        device.grid(
            &good,
            "step",
            8,
            128,
            &[Param::Ptr(to), Param::Ptr(from), n],
        )
    };
    let mut chain = vec![step(data, input)];
    for &waits in waits {
        let params = [Param::Ptr(device.empty(4000)), n];
        let module = if waits { &good } else { &bad };
        chain.push(device.grid(module, "middle", 8, 128, &params));
    }
    chain.push(step(out, data));
    let count = chain.len();
    for (i, grid) in chain.iter_mut().enumerate() {
        grid.programmatic = i == count - 1 || i > 0 && programmatic;
    }
    device.run(&chain)?;
    assert_eq!(device.download::<f32>(out, 1000), vec![2f32; 1000]);
    Ok(())
}

#[test]
fn a_launch_between_that_does_not_wait_leaves_its_predecessor_unordered() {
    for waits in [
        &[false][..],
        &[true, false],
        &[false, true],
        &[false, true, true],
    ] {
        every_seed(
            |device| {
                let seed = device.options.seed as usize;
                device.options.overlap =
                    [Overlap::Early, Overlap::Interleaved, Overlap::Late][seed % 3];
                let violation = around(device, waits, true).expect_err("a violation");
                assert!(violation.message.contains("`data`"), "{violation}");
                violation
            },
            Rule::GlobalRace,
            &["out[i] = in[i] + 1"],
        );
    }
}

/// One thread that waits is enough for its whole grid, and so is not to overlap at all.
#[test]
fn launches_between_that_wait_hand_on_what_is_complete() {
    for seed in 0..100 {
        let mut device = Device::tiny();
        device.options.seed = seed;
        device.options.overlap =
            [Overlap::Early, Overlap::Interleaved, Overlap::Late][seed as usize % 3];
        around(&device, &[true], true).expect("no violation");
        around(&device, &[true, true, true], true).expect("no violation");
        around(&device, &[false, false], false).expect("no violation");
    }
}

#[test]
fn what_a_live_grid_writes_is_not_read_non_coherently() {
    every_seed(
        |device| chain(device, &["FAULT_NON_COHERENT"]),
        Rule::NonCoherent,
        &["__ldg", "ld.global.nc"],
    );
}

#[test]
fn limits_are_enforced() {
    let device = Device::tiny();
    let module = device.load(&nvcc::ptx("reduce", "sm_80", &[]));
    let good = last_block(&device, &module);
    let refuse = |change: &dyn Fn(&mut Launch)| {
        let mut grid = good.clone();
        change(&mut grid);
        let violation = device.run(&[grid]).expect_err("a violation");
        assert_eq!(violation.rule, Rule::Limit);
        violation.code
    };
    assert_eq!(refuse(&|g| g.block = [2048, 1, 1]), code::INVALID_VALUE);
    assert_eq!(refuse(&|g| g.grid = [0, 1, 1]), code::INVALID_VALUE);
    assert_eq!(
        refuse(&|g| g.dynamic_shared = 100 << 10),
        code::INVALID_VALUE
    );
    assert_eq!(refuse(&|g| g.params.truncate(4)), code::INVALID_VALUE);
    assert_eq!(
        refuse(&|g| {
            g.cooperative = true;
            g.grid = [1000, 1, 1];
        }),
        code::COOPERATIVE_LAUNCH_TOO_LARGE
    );
    let mut grid = good.clone();
    grid.dynamic_shared = 100 << 10;
    grid.dynamic_shared_limit = 100 << 10;
    device.run(&[grid]).expect("the kernel opted in");
}

#[test]
fn what_is_not_known_stops_the_loading_with_its_line() {
    let device = Device::tiny();
    for (text, what) in [
        ("frobnicate.b32 %t, %t;", "frobnicate"),
        ("add.rn.u32 %t, %t, %t;", "add.rn.u32"),
        ("ld.global.shiny.u32 %t, [%p0];", "shiny"),
        ("cvt.rn.s32.f64 %t, %a;", "cvt"),
        ("mov.u64 %t, %a;", "register"),
        ("wgmma.fence.sync.aligned;", "wgmma"),
        (
            "wmma.store.d.sync.aligned.row.m8n8k4.f32 [%p0], {%t};",
            "wmma",
        ),
        ("min.relu.u32 %t, %t, %t;", "min.relu.u32"),
        ("mad.wide.cc.u32 %a, %t, %t, %a;", "mad.wide.cc.u32"),
        ("vabsdiff4.s32.s32.s32 %t, %t, %t, %t;", "vabsdiff4"),
        ("mov.u32 %t, %envreg7;", "%envreg7"),
        ("mov.b64 {}, %a;", "mov"),
        ("ld.param.u64 %a, [k_param_0+8];", "parameters"),
        ("mbarrier %a;", "mbarrier"),
    ] {
        let ptx = common::kernel(1, "", &format!("{text}\n"));
        let error = Module::load(&ptx, device.model, &device.memory, None).expect_err(text);
        let line = ptx.lines().nth(error.line as usize - 1).expect("a line");
        assert_eq!(line, text, "{error}");
        assert_eq!(error.code, code::INVALID_PTX, "{error}");
        assert!(error.message.contains(what), "{error}");
    }
    let newer = common::kernel(1, "", "").replace("sm_90", "sm_100");
    let error = Module::load(&newer, device.model, &device.memory, None).expect_err("too new");
    assert_eq!(error.code, code::NO_BINARY_FOR_GPU);
}
