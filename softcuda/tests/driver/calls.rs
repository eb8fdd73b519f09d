//! Calls and what they answer: contexts, handles, attributes, modules, launches.

use crate::support::raw::*;
use crate::support::{PTX, on_softcuda};
use cudarc::driver::sys::{self, CUresult};
use std::ffi::{CStr, CString, c_void};
use std::ptr::{null, null_mut};

#[test]
fn nothing_works_before_init() {
    on_softcuda("calls::nothing_works_before_init", &[], || {
        // SAFETY: the calls refuse.
        unsafe {
            let mut count = 0;
            let early = sys::cuDeviceGetCount(&mut count);
            assert_eq!(early, CUresult::CUDA_ERROR_NOT_INITIALIZED);
            assert_eq!(get(|v| sys::cuDriverGetVersion(v)), 13000);
            assert_eq!(sys::cuInit(1), CUresult::CUDA_ERROR_INVALID_VALUE);
            ok(sys::cuInit(0));
            assert_eq!(get(|c| sys::cuDeviceGetCount(c)), 1);
            let mut device = 0;
            assert_eq!(
                sys::cuDeviceGet(&mut device, 1),
                CUresult::CUDA_ERROR_INVALID_DEVICE
            );
            let mut address = 0;
            let homeless = sys::cuMemAlloc_v2(&mut address, 4);
            assert_eq!(homeless, CUresult::CUDA_ERROR_INVALID_CONTEXT);
        }
    });
}

#[test]
fn settings_that_mean_nothing_are_refused() {
    let test = "calls::settings_that_mean_nothing_are_refused";
    let ended = on_softcuda(test, &[("SOFTCUDA_DEVICE", "h200")], || {
        // SAFETY: the call refuses.
        let refused = unsafe { sys::cuInit(0) };
        assert_eq!(refused, CUresult::CUDA_ERROR_INVALID_VALUE);
    });
    if let Some(ended) = ended {
        ended.says(&["SOFTCUDA_DEVICE=h200: expected tiny, a100, h100, b200"]);
    }
}

#[test]
fn devices_are_chosen_by_name() {
    use sys::CUdevice_attribute::*;
    for (name, capability, multiprocessors, shared) in [
        ("tiny", (9, 0), 4, 227),
        ("a100", (8, 0), 108, 163),
        ("h100", (9, 0), 132, 227),
        ("b200", (10, 0), 148, 227),
    ] {
        on_softcuda(
            "calls::devices_are_chosen_by_name",
            &[("SOFTCUDA_DEVICE", name)],
            || {
                if std::env::var("SOFTCUDA_DEVICE").unwrap() != name {
                    return;
                }
                // SAFETY: the pointers are valid.
                unsafe {
                    ok(sys::cuInit(0));
                    let get = |which| get(|v| sys::cuDeviceGetAttribute(v, which, 0));
                    assert_eq!(
                        get(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
                        capability.0
                    );
                    assert_eq!(
                        get(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
                        capability.1
                    );
                    assert_eq!(
                        get(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT),
                        multiprocessors
                    );
                    let optin = get(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
                    assert_eq!(optin, shared << 10);
                    assert_eq!(get(CU_DEVICE_ATTRIBUTE_WARP_SIZE), 32);
                    assert_eq!(get(CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH), 1);
                    let mut text = [1; 8];
                    ok(sys::cuDeviceGetName(text.as_mut_ptr(), 8, 0));
                    // cut to what fits, with its zero
                    assert_eq!(CStr::from_ptr(text.as_ptr()).to_str().unwrap(), "softcud");
                }
            },
        );
    }
}

#[test]
fn contexts_are_stacked_and_end() {
    on_softcuda("calls::contexts_are_stacked_and_end", &[], || {
        // SAFETY: handles are used as the interface says, or refused.
        unsafe {
            let primary = start();
            let other = get(|c| sys::cuCtxCreate_v2(c, 0, 0));
            assert_eq!(get(|c| sys::cuCtxGetCurrent(c)), other);
            let stream = stream(true);
            let leaked = device(&[1, 2, 3]);
            assert_eq!(get(|c| sys::cuCtxPopCurrent_v2(c)), other);
            assert_eq!(get(|c| sys::cuCtxGetCurrent(c)), primary);
            ok(sys::cuCtxPushCurrent_v2(other));
            ok(sys::cuCtxDestroy_v2(other));
            assert_eq!(get(|c| sys::cuCtxGetCurrent(c)), primary);
            // its stream and its memory went with it
            let gone = sys::cuStreamSynchronize(stream);
            assert_eq!(gone, CUresult::CUDA_ERROR_INVALID_HANDLE);
            let mut data = [0; 3];
            let gone = sys::cuMemcpyDtoH_v2(data.as_mut_ptr().cast(), leaked, 12);
            assert_eq!(gone, CUresult::CUDA_ERROR_INVALID_VALUE);
            assert_eq!(
                sys::cuCtxSetCurrent(other),
                CUresult::CUDA_ERROR_INVALID_CONTEXT
            );
            // the primary one is counted
            let again = get(|c| sys::cuDevicePrimaryCtxRetain(c, 0));
            assert_eq!(again, primary);
            ok(sys::cuDevicePrimaryCtxRelease_v2(0));
            ok(sys::cuCtxSynchronize());
            ok(sys::cuDevicePrimaryCtxRelease_v2(0));
            assert_eq!(
                sys::cuCtxSynchronize(),
                CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
            );
        }
    });
}

#[test]
fn destroyed_handles_are_told() {
    let ended = on_softcuda("calls::destroyed_handles_are_told", &[], || {
        // SAFETY: what is destroyed is refused, not used.
        unsafe {
            start();
            let (stream, event) = (stream(false), event());
            let module = module(PTX);
            let function = function(module, "add");
            ok(sys::cuStreamDestroy_v2(stream));
            ok(sys::cuEventDestroy_v2(event));
            ok(sys::cuModuleUnload(module));
            let invalid = CUresult::CUDA_ERROR_INVALID_HANDLE;
            assert_eq!(sys::cuStreamSynchronize(stream), invalid);
            assert_eq!(sys::cuEventSynchronize(event), invalid);
            assert_eq!(sys::cuModuleUnload(module), invalid);
            assert_eq!(add(function, null_mut(), 0, 1), invalid);
            assert_eq!(sys::cuStreamDestroy_v2(stream), invalid);
            // what never was a handle
            assert_eq!(sys::cuStreamSynchronize(0x1234 as *mut _), invalid);
            let p = device(&[1]);
            ok(sys::cuMemFree_v2(p));
            assert_eq!(sys::cuMemFree_v2(p), CUresult::CUDA_ERROR_INVALID_VALUE);
        }
    });
    if let Some(ended) = ended {
        ended.says(&[
            "a stream that was destroyed before",
            "an event that was destroyed before",
        ]);
        ended.says(&[
            "a module that was destroyed",
            "a function that was destroyed",
            "were freed",
        ]);
    }
}

#[test]
fn modules_come_as_text_and_as_fat_binaries() {
    let ended = on_softcuda(
        "calls::modules_come_as_text_and_as_fat_binaries",
        &[],
        || {
            // SAFETY: the images are whole, or refused by their headers.
            unsafe {
                start();
                for image in [
                    &include_bytes!("fixtures/plain.fatbin")[..],
                    include_bytes!("fixtures/lz4.fatbin"),
                    include_bytes!("fixtures/zstd.fatbin"),
                ] {
                    let module = get(|m| sys::cuModuleLoadData(m, image.as_ptr().cast()));
                    // there for sm_90 only: the newest PTX that the device runs was taken
                    function(module, "second");
                    ok(sys::cuModuleUnload(module));
                }
                let load = |image: &[u8]| {
                    let mut module = null_mut();
                    sys::cuModuleLoadData(&mut module, image.as_ptr().cast())
                };
                let no_binary = CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU;
                assert_eq!(load(include_bytes!("fixtures/code.cubin")), no_binary);
                assert_eq!(load(include_bytes!("fixtures/code.fatbin")), no_binary);
                assert_eq!(load(b"no image\0"), CUresult::CUDA_ERROR_INVALID_IMAGE);

                let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"))
                    .join(format!("softcuda-{}.ptx", std::process::id()));
                std::fs::write(&path, PTX).unwrap();
                let name = CString::new(path.to_str().unwrap()).unwrap();
                let module = get(|m| sys::cuModuleLoad(m, name.as_ptr()));
                std::fs::remove_file(&path).unwrap();
                function(module, "add");
                let mut none = null_mut();
                let missing = sys::cuModuleGetFunction(&mut none, module, c"sub".as_ptr());
                assert_eq!(missing, CUresult::CUDA_ERROR_NOT_FOUND);
                let (mut address, mut bytes) = (0, 0);
                ok(sys::cuModuleGetGlobal_v2(
                    &mut address,
                    &mut bytes,
                    module,
                    c"counter".as_ptr(),
                ));
                assert_eq!((read(address, 1), bytes), (vec![5], 4));
                let mut none = null_mut();
                let missing = sys::cuModuleLoad(&mut none, c"/no/such/file".as_ptr());
                assert_eq!(missing, CUresult::CUDA_ERROR_FILE_NOT_FOUND);
            }
        },
    );
    if let Some(ended) = ended {
        ended.says(&[
            "the fat binary holds sm_90",
            "no kernel `sub`",
            "/no/such/file",
        ]);
    }
}

#[test]
fn wrong_ptx_is_refused_with_its_line() {
    let ended = on_softcuda("calls::wrong_ptx_is_refused_with_its_line", &[], || {
        let wrong = PTX.replacen("fma.rn.f32", "fma.up.f32", 1);
        let text = CString::new(wrong).unwrap();
        let mut log = [1 as std::ffi::c_char; 200];
        // SAFETY: the text ends with a zero, the log is as long as it says.
        unsafe {
            start();
            let mut options = [
                sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
                sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
            ];
            let mut values = [log.as_mut_ptr().cast::<c_void>(), log.len() as *mut c_void];
            let mut module = null_mut();
            let code = sys::cuModuleLoadDataEx(
                &mut module,
                text.as_ptr().cast(),
                2,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            );
            assert_eq!(code, CUresult::CUDA_ERROR_INVALID_PTX);
            let log = CStr::from_ptr(log.as_ptr()).to_str().unwrap();
            assert!(log.contains("fma") && log.contains("line"), "{log}");
        }
    });
    if let Some(ended) = ended {
        let line = 1 + PTX[..PTX.find("fma.rn.f32").unwrap()].matches('\n').count();
        ended.says(&[&format!("line {line}")]);
    }
}

#[test]
fn parameters_are_passed_one_by_one_or_as_a_block() {
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Mixed {
        a: i8,
        b: f64,
        c: i16,
    }
    #[repr(C)]
    struct Block {
        out: u64,
        a: i8,
        m: Mixed,
        b: i16,
        c: f64,
    }
    on_softcuda(
        "calls::parameters_are_passed_one_by_one_or_as_a_block",
        &[],
        || {
            // SAFETY: the arguments are those of the kernel.
            unsafe {
                start();
                let mixed = function(module(PTX), "mixed");
                let out = get(|a| sys::cuMemAlloc_v2(a, 48));
                let result = || {
                    let mut data = [0f64; 6];
                    ok(sys::cuMemcpyDtoH_v2(data.as_mut_ptr().cast(), out, 48));
                    data
                };
                let m = Mixed {
                    a: -2,
                    b: 0.5,
                    c: -300,
                };
                let mut block = Block {
                    out,
                    a: -1,
                    m,
                    b: 1000,
                    c: -7.25,
                };
                let mut arguments = [
                    pointer(&mut block.out),
                    pointer(&mut block.a),
                    pointer(&mut block.m),
                    pointer(&mut block.b),
                    pointer(&mut block.c),
                ];
                ok(launch(mixed, 1, null_mut(), &mut arguments));
                assert_eq!(result(), [-1.0, -2.0, 0.5, -300.0, 1000.0, -7.25]);

                block.c = 11.0;
                let mut as_bytes = |mut bytes: usize| {
                    let mut extra = [
                        std::ptr::without_provenance_mut(1),
                        pointer(&mut block),
                        std::ptr::without_provenance_mut(2),
                        pointer(&mut bytes),
                        null_mut(),
                    ];
                    let extra = extra.as_mut_ptr();
                    sys::cuLaunchKernel(mixed, 1, 1, 1, 32, 1, 1, 0, null_mut(), null_mut(), extra)
                };
                ok(as_bytes(std::mem::size_of::<Block>()));
                assert_eq!(result()[5], 11.0);
                assert_eq!(as_bytes(20), CUresult::CUDA_ERROR_INVALID_VALUE);
            }
        },
    );
}

#[test]
fn limits_of_a_launch_are_kept() {
    let ended = on_softcuda(
        "calls::limits_of_a_launch_are_kept",
        &[("SOFTCUDA_DEVICE", "tiny")],
        || {
            // SAFETY: refused launches read no arguments.
            unsafe {
                start();
                let module = module(PTX);
                let (small, reverse) = (
                    function(module, "small_blocks"),
                    function(module, "reverse"),
                );
                let mut p = get(|a| sys::cuMemAlloc_v2(a, 4096));
                let mut arguments = [pointer(&mut p)];
                let mut launch = |function, grid: [u32; 3], block: [u32; 3], shared| {
                    let [gx, gy, gz] = grid;
                    let [bx, by, bz] = block;
                    let arguments = arguments.as_mut_ptr();
                    sys::cuLaunchKernel(
                        function,
                        gx,
                        gy,
                        gz,
                        bx,
                        by,
                        bz,
                        shared,
                        null_mut(),
                        arguments,
                        null_mut(),
                    )
                };
                let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
                assert_eq!(launch(reverse, [0, 1, 1], [32, 1, 1], 0), invalid);
                assert_eq!(launch(reverse, [1, 65536, 1], [32, 1, 1], 0), invalid);
                assert_eq!(launch(reverse, [1, 1, 1], [32, 33, 1], 0), invalid);
                assert_eq!(launch(reverse, [1, 1, 1], [1, 1, 65], 0), invalid);
                assert_eq!(launch(reverse, [1, 1, 1], [32, 1, 1], 49153), invalid);
                assert_eq!(launch(small, [1, 1, 1], [129, 1, 1], 0), invalid);
                assert_eq!(
                    launch(small, [1, 1, 1], [128, 1, 1], 0),
                    CUresult::CUDA_SUCCESS
                );
                // 4 multiprocessors with 16 blocks of 128 threads each
                let mut cooperative = |blocks| {
                    let arguments = arguments.as_mut_ptr();
                    sys::cuLaunchCooperativeKernel(
                        small,
                        blocks,
                        1,
                        1,
                        128,
                        1,
                        1,
                        0,
                        null_mut(),
                        arguments,
                    )
                };
                let too_large = CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
                assert_eq!(cooperative(65), too_large);
                assert_eq!(cooperative(1), CUresult::CUDA_SUCCESS);
                ok(sys::cuCtxSynchronize());
            }
        },
    );
    if let Some(ended) = ended {
        ended.says(&[
            "it was built for 128",
            "65 blocks in a cooperative launch, 64 fit",
        ]);
    }
}

#[test]
fn registers_of_a_resource_report_limit_launches() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("softcuda-resources-{}", std::process::id()));
    let report = "ptxas info    : 0 bytes gmem\n\
        ptxas info    : Compiling entry function 'reverse' for 'sm_90'\n\
        ptxas info    : Function properties for reverse\n    \
        0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
        ptxas info    : Used 168 registers, used 1 barriers\n";
    std::fs::write(&path, report).unwrap();
    let env = [("SOFTCUDA_RESOURCES", path.to_str().unwrap())];
    on_softcuda(
        "calls::registers_of_a_resource_report_limit_launches",
        &env,
        || {
            // SAFETY: the launch is refused.
            unsafe {
                start();
                let reverse = function(module(PTX), "reverse");
                let which = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_NUM_REGS;
                assert_eq!(get(|v| sys::cuFuncGetAttribute(v, which, reverse)), 168);
                let mut p = 0u64;
                let mut arguments = [pointer(&mut p)];
                let code = sys::cuLaunchKernel(
                    reverse,
                    1,
                    1,
                    1,
                    512,
                    1,
                    1,
                    0,
                    null_mut(),
                    arguments.as_mut_ptr(),
                    null_mut(),
                );
                assert_eq!(code, CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
            }
        },
    );
    let _ = std::fs::remove_file(&path);
}

#[test]
fn attributes_of_a_launch() {
    use sys::CUlaunchAttributeID::*;
    let ended = on_softcuda(
        "calls::attributes_of_a_launch",
        &[("SOFTCUDA_DEVICE", "tiny")],
        || {
            // SAFETY: attributes and arguments are those that the interface asks for.
            unsafe {
                start();
                let add_one = function(module(PTX), "add");
                let mut p = device(&[0; 32]);
                let (mut by, mut n) = (1i32, 32i32);
                let mut arguments = [pointer(&mut p), pointer(&mut by), pointer(&mut n)];
                let mut launch = |blocks, id, set: &dyn Fn(&mut sys::CUlaunchAttributeValue)| {
                    let mut attribute = std::mem::zeroed::<sys::CUlaunchAttribute>();
                    attribute.id = id;
                    set(&mut attribute.value);
                    let mut config = std::mem::zeroed::<sys::CUlaunchConfig>();
                    (config.gridDimX, config.gridDimY, config.gridDimZ) = (blocks, 1, 1);
                    (config.blockDimX, config.blockDimY, config.blockDimZ) = (32, 1, 1);
                    (config.attrs, config.numAttrs) = (&mut attribute, 1);
                    sys::cuLaunchKernelEx(&config, add_one, arguments.as_mut_ptr(), null_mut())
                };
                // first, as nothing is before it that it would have to wait for
                ok(launch(
                    1,
                    CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                    &|v| {
                        v.programmaticStreamSerializationAllowed = 1;
                    },
                ));
                ok(launch(1, CU_LAUNCH_ATTRIBUTE_PRIORITY, &|v| {
                    v.priority = -1
                }));
                ok(launch(1, CU_LAUNCH_ATTRIBUTE_COOPERATIVE, &|v| {
                    v.cooperative = 1
                }));
                let too_large = launch(1000, CU_LAUNCH_ATTRIBUTE_COOPERATIVE, &|v| {
                    v.cooperative = 1
                });
                assert_eq!(too_large, CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
                let cluster = |x| {
                    move |v: &mut sys::CUlaunchAttributeValue| {
                        (v.clusterDim.x, v.clusterDim.y, v.clusterDim.z) = (x, 1, 1);
                    }
                };
                ok(launch(
                    1,
                    CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
                    &cluster(1),
                ));
                let clusters = launch(2, CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, &cluster(2));
                assert_eq!(clusters, CUresult::CUDA_ERROR_NOT_SUPPORTED);
                assert_eq!(read(p, 32), [4; 32]);
            }
        },
    );
    if let Some(ended) = ended {
        ended.says(&["clusters of [2, 1, 1] blocks are not supported"]);
    }
}

#[test]
fn symbols_are_found_by_their_plain_names() {
    on_softcuda("calls::symbols_are_found_by_their_plain_names", &[], || {
        // SAFETY: the address is compared, not called.
        unsafe {
            ok(sys::cuInit(0));
            let find = |name: &CStr, version| {
                let mut address = null_mut();
                let mut status = std::mem::zeroed();
                let code =
                    sys::cuGetProcAddress_v2(name.as_ptr(), &mut address, version, 0, &mut status);
                ok(code);
                address.cast_const()
            };
            let library = libloading::Library::new("libcuda.so.1").unwrap();
            let exported = |name: &str| *library.get::<*const c_void>(name.as_bytes()).unwrap();
            assert_eq!(find(c"cuMemAlloc", 12000), exported("cuMemAlloc_v2"));
            assert_eq!(
                find(c"cuCtxSynchronize", 12000),
                exported("cuCtxSynchronize")
            );
            assert_eq!(find(c"cuNothing", 12000), null());
        }
    });
}
