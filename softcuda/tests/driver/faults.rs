//! What is found, what sticks, what is injected, and what is told at the end.

use crate::support::raw::*;
use crate::support::{PTX, on_softcuda};
use cudarc::driver::sys::{self, CUresult};
use std::ffi::c_char;
use std::ptr::null_mut;

#[test]
fn a_violation_is_named_and_sticks() {
    let ended = on_softcuda("faults::a_violation_is_named_and_sticks", &[], || {
        // SAFETY: memory lives until the end.
        unsafe {
            start();
            let module = module(PTX);
            let (beyond, add_to) = (function(module, "beyond"), function(module, "add"));
            let mut p = device(&[0; 40]);
            let mut n = 40i32;
            // an asynchronous error: the launch itself succeeds
            ok(launch(
                beyond,
                2,
                null_mut(),
                &mut [pointer(&mut p), pointer(&mut n)],
            ));
            let illegal = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
            assert_eq!(sys::cuCtxSynchronize(), illegal);
            // from now on everything fails
            assert_eq!(sys::cuCtxSynchronize(), illegal);
            assert_eq!(add(add_to, null_mut(), p, 1), illegal);
            let mut q = 0;
            assert_eq!(sys::cuMemAlloc_v2(&mut q, 4), illegal);
            assert_eq!(sys::cuMemFree_v2(p), illegal);
            // but not what asks nothing of the context
            assert_eq!(get(|v| sys::cuDriverGetVersion(v)), 13000);
            // a new context is whole
            ok(sys::cuDevicePrimaryCtxReset_v2(0));
            start();
            let p = device(&[1; 32]);
            assert_eq!(read(p, 1), [1]);
            ok(sys::cuMemFree_v2(p));
        }
    });
    if let Some(ended) = ended {
        // thread 8 of the second block is the 41st
        ended.says(&[
            "beyond",
            "kernels.cu:",
            "PTX line",
            "[1, 0, 0]",
            "[8, 0, 0]",
            "address",
        ]);
        ended.says(&["CUDA_ERROR_ILLEGAL_ADDRESS (700"]);
        // the first context's buffer could not be freed any more
        assert!(!ended.said.contains("leak"), "{}", ended.said);
    }
}

#[test]
fn chosen_calls_fail() {
    let env = [("SOFTCUDA_FAULT", "alloc:2,copy:3,launch:1")];
    let ended = on_softcuda("faults::chosen_calls_fail", &env, || {
        // SAFETY: memory lives until the end.
        unsafe {
            start();
            let add_to = function(module(PTX), "add");
            let p = device(&[1; 32]);
            let mut q = 0;
            let second = sys::cuMemAlloc_v2(&mut q, 4);
            assert_eq!(second, CUresult::CUDA_ERROR_OUT_OF_MEMORY);
            ok(sys::cuMemAlloc_v2(&mut q, 4));
            assert_eq!(read(p, 1), [1]);
            let mut host = 0i32;
            let third = sys::cuMemcpyDtoH_v2(pointer(&mut host), p, 4);
            assert_eq!(third, CUresult::CUDA_ERROR_UNKNOWN);
            assert_eq!(read(p, 1), [1]);
            let first = add(add_to, null_mut(), p, 1);
            assert_eq!(first, CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
            ok(add(add_to, null_mut(), p, 1));
            assert_eq!(read(p, 1), [2]);
            ok(sys::cuMemFree_v2(p));
            ok(sys::cuMemFree_v2(q));
        }
    });
    if let Some(ended) = ended {
        ended.says(&[
            "SOFTCUDA_FAULT: alloc 2 fails",
            "copy 3 fails",
            "launch 1 fails",
        ]);
        assert!(!ended.said.contains("leak"), "{}", ended.said);
    }
}

/// Whether calls of each kind fail, in the order in which they are made, under `SOFTCUDA_FAULT`.
unsafe fn kinds_of_calls() -> [(&'static str, Vec<CUresult>); 3] {
    // SAFETY: memory lives until the end; what failed is not used.
    unsafe {
        let stream = stream(false);
        let (mut p, mut pitch, mut pinned) = (0, 0, null_mut());
        let mut page = vec![0u8; 4096];
        let allocations = vec![
            sys::cuMemAlloc_v2(&mut p, 128),
            sys::cuMemAllocAsync(&mut p, 128, stream),
            sys::cuMemAllocPitch_v2(&mut p, &mut pitch, 100, 2, 4),
            sys::cuMemAllocManaged(&mut p, 128, 1),
            sys::cuMemHostAlloc(&mut pinned, 128, 0),
            sys::cuMemAllocHost_v2(&mut pinned, 128),
            sys::cuMemHostRegister_v2(page.as_mut_ptr().cast(), 4096, 0),
        ];
        let mut word = [0i32; 32];
        ok(sys::cuMemAlloc_v2(&mut p, 128));
        let host = word.as_mut_ptr().cast();
        let device = sys::CUmemorytype::CU_MEMORYTYPE_DEVICE;
        let mut boxes = boxes(device, device);
        (boxes.srcDevice, boxes.dstDevice) = (p, p + 64);
        (boxes.WidthInBytes, boxes.Height, boxes.Depth) = (4, 1, 1);
        let fill = sys::cuMemsetD32_v2(p, 1, 32); // is none of the copies
        assert_eq!(fill, CUresult::CUDA_SUCCESS);
        let copies = vec![
            sys::cuMemcpyHtoD_v2(p, host, 128),
            sys::cuMemcpyDtoH_v2(host, p, 128),
            sys::cuMemcpyDtoD_v2(p, p + 64, 64),
            sys::cuMemcpyHtoDAsync_v2(p, host, 128, stream),
            sys::cuMemcpyDtoHAsync_v2(host, p, 128, stream),
            sys::cuMemcpy(p, p + 64, 64),
            sys::cuMemcpy3D_v2(&boxes),
        ];
        ok(sys::cuCtxSynchronize()); // which orders the copies of two streams with the launches
        let add_to = function(module(PTX), "add");
        let graph = get(|g| sys::cuGraphCreate(g, 0));
        let exec = get(|exec| sys::cuGraphInstantiateWithFlags(exec, graph, 0));
        let (mut q, mut by, mut n) = (p, 1, 32);
        let mut arguments = [pointer(&mut q), pointer(&mut by), pointer(&mut n)];
        let cooperative = |arguments: *mut _| {
            sys::cuLaunchCooperativeKernel(add_to, 1, 1, 1, 32, 1, 1, 0, stream, arguments)
        };
        let launches = vec![
            add(add_to, stream, p, 1),
            sys::cuGraphLaunch(exec, stream),
            cooperative(arguments.as_mut_ptr()),
            add(add_to, stream, p, 1),
        ];
        ok(sys::cuStreamSynchronize(stream));
        [
            ("alloc", allocations),
            ("copy", copies),
            ("launch", launches),
        ]
    }
}

#[test]
fn any_call_of_a_kind_can_be_the_one_that_fails() {
    let codes = [
        ("alloc", 7, CUresult::CUDA_ERROR_OUT_OF_MEMORY),
        ("copy", 7, CUresult::CUDA_ERROR_UNKNOWN),
        ("launch", 4, CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES),
    ];
    for (kind, count, code) in codes {
        for chosen in 1..=count {
            let fault = format!("{kind}:{chosen}");
            let env = [
                ("SOFTCUDA_FAULT", fault.as_str()),
                ("SOFTCUDA_DEVICE", "tiny"),
            ];
            on_softcuda(
                "faults::any_call_of_a_kind_can_be_the_one_that_fails",
                &env,
                || {
                    if std::env::var("SOFTCUDA_FAULT").unwrap() != fault {
                        return; // another process of this loop
                    }
                    start();
                    // SAFETY: a context is current.
                    for (of, found) in unsafe { kinds_of_calls() } {
                        let expected = (1..).map(|i| match of == kind && i == chosen {
                            true => code,
                            false => CUresult::CUDA_SUCCESS,
                        });
                        let expected: Vec<_> = expected.take(found.len()).collect();
                        assert_eq!(found, expected, "{of} with {fault}");
                    }
                },
            );
        }
    }
}

/// An extension of softcuda, looked up as a program would.
unsafe fn extension<T: Copy>(name: &str) -> T {
    // SAFETY: the driver is loaded under this name, and the caller names the right type.
    unsafe {
        *libloading::Library::new("libcuda.so.1")
            .unwrap()
            .get::<T>(name.as_bytes())
            .unwrap()
    }
}

#[test]
fn a_process_chooses_its_next_failures() {
    let test = "faults::a_process_chooses_its_next_failures";
    let ended = on_softcuda(test, &[("SOFTCUDA_FAULT", "alloc:1")], || {
        // SAFETY: the extension has this signature.
        unsafe {
            start();
            let fault: unsafe extern "C" fn(*const c_char, u64) -> u32 = extension("softcudaFault");
            // whether each of the next three allocations fails
            let failing = || {
                [(); 3].map(|()| {
                    let mut p = 0;
                    match sys::cuMemAlloc_v2(&mut p, 4) {
                        CUresult::CUDA_SUCCESS => ok(sys::cuMemFree_v2(p)),
                        CUresult::CUDA_ERROR_OUT_OF_MEMORY => return true,
                        other => panic!("{other:?}"),
                    }
                    false
                })
            };
            assert_eq!(failing(), [true, false, false]);
            for (chosen, expected) in [
                (2, [false, true, false]),
                (1, [true, false, false]),
                (3, [false, false, true]),
                (0, [false; 3]),
            ] {
                assert_eq!(fault(c"alloc".as_ptr(), chosen), 0);
                assert_eq!(failing(), expected, "{chosen}");
            }
            assert_eq!(fault(c"event".as_ptr(), 1), 1);
        }
    });
    if let Some(ended) = ended {
        ended.says(&["alloc 2 fails", "event: expected alloc, launch, copy"]);
    }
}

#[test]
fn a_module_that_is_loaded_again_has_kernels_of_its_own() {
    let test = "faults::a_module_that_is_loaded_again_has_kernels_of_its_own";
    on_softcuda(test, &[], || {
        // one that places a variable, and one that places none, which is known the second time
        let (before, _) = PTX.split_once(".visible .entry count()").expect("a kernel");
        let without = before.replace(".global .align 4 .u32 counter = 5;", "");
        assert!(PTX.contains("counter") && !without.contains("counter"));
        start();
        for text in [PTX, &without] {
            // SAFETY: memory lives until the end.
            unsafe {
                let p = device(&[1; 32]);
                let first = module(text);
                ok(add(function(first, "add"), null_mut(), p, 1));
                let second = module(text);
                let add_to = function(second, "add");
                assert_ne!(add_to, function(first, "add"));
                ok(sys::cuModuleUnload(first));
                ok(add(add_to, null_mut(), p, 1));
                ok(sys::cuModuleUnload(second));
                let third = function(module(text), "add");
                ok(add(third, null_mut(), p, 1));
                assert_eq!(read(p, 1), [4]);
                ok(sys::cuMemFree_v2(p));
            }
        }
    });
}

#[test]
fn leaks_are_told_at_the_end_with_their_labels() {
    let test = "faults::leaks_are_told_at_the_end_with_their_labels";
    let ended = on_softcuda(test, &[], || {
        // SAFETY: the extension has this signature.
        unsafe {
            start();
            let label: unsafe extern "C" fn(u64, *const c_char) -> u32 = extension("softcudaLabel");
            let p = device(&[1; 25]);
            assert_eq!(label(p + 4, c"weights".as_ptr()), 0);
            assert_eq!(label(12345, c"nothing".as_ptr()), 1);
            let _pinned = get(|p| sys::cuMemHostAlloc(p, 64, 0));
        }
    });
    if let Some(ended) = ended {
        ended.says(&[
            "leak: 100 bytes `weights`",
            "from cuMemAlloc were never freed",
        ]);
        ended.says(&["leak: 64 bytes", "from cuMemHostAlloc"]);
    }
}

#[test]
fn the_report_counts_what_was_done() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("softcuda-report-{}.json", std::process::id()));
    let env = [
        ("SOFTCUDA_REPORT", path.to_str().unwrap()),
        ("SOFTCUDA_DEVICE", "tiny"),
    ];
    let ended = on_softcuda("faults::the_report_counts_what_was_done", &env, || {
        // SAFETY: memory lives until the end.
        unsafe {
            start();
            let label: unsafe extern "C" fn(u64, *const c_char) -> u32 = extension("softcudaLabel");
            let module = module(PTX);
            let (add_to, twice_of) = (function(module, "add"), function(module, "twice_plus_one"));
            let stream = stream(false);
            let p = device(&[1; 32]);
            assert_eq!(label(p, c"p".as_ptr()), 0);
            ok(add(add_to, stream, p, 1));
            ok(add(add_to, stream, p, 1));
            ok(sys::cuStreamBeginCapture_v2(
                stream,
                sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL,
            ));
            ok(twice(twice_of, stream, p));
            let graph = get(|g| sys::cuStreamEndCapture(stream, g));
            let exec = get(|e| sys::cuGraphInstantiateWithFlags(e, graph, 0));
            ok(sys::cuGraphLaunch(exec, stream));
            ok(sys::cuGraphLaunch(exec, stream));
            ok(sys::cuStreamSynchronize(stream));
            assert_eq!(read(p, 1), [15]);
            ok(sys::cuMemFree_v2(p));
        }
    });
    if ended.is_none() {
        return;
    }
    let text = std::fs::read_to_string(&path).unwrap();
    // the same as a table: two kernels with half of the bytes each, and an estimate that says so
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_softcuda"));
    command.arg("report").arg(&path).args(["--gpu", "h100"]);
    let table = crate::support::run(command, &[]);
    let _ = std::fs::remove_file(&path);
    assert!(table.success, "{}", table.said);
    for kernel in ["add", "twice_plus_one"] {
        let mut lines = table.said.lines();
        let line = lines.find(|line| line.starts_with(kernel)).expect(kernel);
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[1..5], ["2", "512", "B", "50.0"], "{line}");
        assert!(
            line.contains("100.0 %") && line.ends_with("launch"),
            "{line}"
        );
    }
    table.says(&[
        "estimate on h100",
        "estimated, not measured",
        "4 launches (2 graph launches)",
    ]);
    let report: softcuda::report::Report = serde_json::from_str(&text).unwrap();
    assert_eq!(report.device, "tiny");
    let process = &report.process;
    assert_eq!((process.launches, process.graph_launches), (4, 2));
    assert_eq!((process.allocations, process.peak_bytes), (1, 128));
    // the copy there, the copy back, and the stream
    assert_eq!(process.synchronisations, 3);
    let to_device = process.copies["host_to_device"];
    assert_eq!((to_device.count, to_device.bytes), (1, 128));
    let to_host = process.copies["device_to_host"];
    assert_eq!((to_host.count, to_host.bytes), (1, 4));
    assert!(process.leaks.is_empty() && process.violations.is_empty());
    assert_eq!(report.launches.len(), 4);
    let add = &report.kernels["add"];
    assert_eq!(add.launches, 2);
    let traffic = &add.counts.memory["p"];
    assert_eq!((traffic.bytes_read, traffic.bytes_written), (256, 256));
    // a warp reads four sectors and writes them: eight touches of four sectors, twice
    assert_eq!((traffic.sectors, traffic.unique_sectors), (16, 8));
    assert_eq!(add.counts.grid, [1, 1, 1]);
    assert_eq!(add.counts.block, [32, 1, 1]);
    assert!(report.table(None).contains("twice_plus_one"));
}

#[test]
fn copies_of_what_nothing_wrote_are_told() {
    let ended = on_softcuda("faults::copies_of_what_nothing_wrote_are_told", &[], || {
        // SAFETY: memory lives until the end.
        unsafe {
            start();
            let p = get(|p| sys::cuMemAlloc_v2(p, 128));
            ok(sys::cuMemsetD32_v2(p, 1, 31));
            read(p, 31);
            println!("before");
            read(p, 32);
            ok(sys::cuMemFree_v2(p));
        }
    });
    if let Some(ended) = ended {
        assert_eq!(
            ended.said.matches("which nothing has written").count(),
            1,
            "{}",
            ended.said
        );
    }
}

#[test]
fn the_command_runs_a_program_and_prints_its_report() {
    let command = env!("CARGO_BIN_EXE_softcuda");
    let run = |arguments: &[&str]| {
        let mut process = std::process::Command::new(command);
        process.args(arguments);
        crate::support::run(process, &[])
    };
    let found = run(&["path"]);
    assert!(found.success, "{}", found.said);
    let folder = std::path::Path::new(found.said.trim());
    for name in ["libcuda.so", "libcuda.so.1"] {
        assert!(folder.join(name).exists(), "{name}");
    }
    // a program sees the folder first
    let seen = run(&["run", "sh", "-c", "echo $LD_LIBRARY_PATH"]);
    assert!(seen.said.starts_with(found.said.trim()), "{}", seen.said);
    let missing = run(&["run", "/no/such/program"]);
    assert!(
        !missing.success && missing.said.contains("/no/such/program"),
        "{}",
        missing.said
    );

    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("softcuda-table-{}.json", std::process::id()));
    let name = path.to_str().unwrap();
    std::fs::write(
        &path,
        serde_json::to_string(&softcuda::report::Report::default()).unwrap(),
    )
    .unwrap();
    let printed = run(&["report", name, "--gpu", "h100"]);
    assert!(printed.success, "{}", printed.said);
    printed.says(&[
        "kernel",
        "sector eff.",
        "estimate on h100",
        "estimated, not measured",
    ]);
    run(&["report", name, "--gpu", "h1000"]).says(&["--gpu h1000: expected one of"]);
    std::fs::write(&path, "{").unwrap();
    let wrong = run(&["report", name]);
    assert!(!wrong.success, "{}", wrong.said);
    wrong.says(&[name, "expected what SOFTCUDA_REPORT writes"]);
    let _ = std::fs::remove_file(&path);
    assert!(!run(&["nonsense"]).success);
}

#[test]
fn a_program_in_c_is_linked_with_the_library() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("softcuda-c-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (source, program) = (folder.join("program.c"), folder.join("program"));
    std::fs::write(&source, C_PROGRAM).unwrap();
    let built = std::process::Command::new("cc")
        .arg("-o")
        .args([&program, &source])
        .arg(crate::support::library())
        .output()
        .expect("cc, with which Rust links");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let ended = crate::support::run(std::process::Command::new(&program), &[]);
    assert!(ended.success, "{}", ended.said);
    ended.says(&["softcuda H100"]);
    let _ = std::fs::remove_dir_all(&folder);
}

const C_PROGRAM: &str = r#"
#include <stdio.h>
int cuInit(unsigned);
int cuDeviceGetName(char *, int, int);
int main(void) {
    char name[64];
    if (cuInit(0) || cuDeviceGetName(name, sizeof name, 0)) return 1;
    return puts(name) < 0;
}
"#;
