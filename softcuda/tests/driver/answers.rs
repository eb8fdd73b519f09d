//! What is asked of contexts, streams, functions and libraries; and which errors stay.

use crate::support::raw::*;
use crate::support::{PTX, on_softcuda};
use cudarc::driver::sys::{self, CUresult};
use std::ffi::CString;
use std::ptr::null_mut;

#[test]
fn contexts_and_streams_tell_how_they_were_made() {
    on_softcuda(
        "answers::contexts_and_streams_tell_how_they_were_made",
        &[],
        || {
            // SAFETY: handles are used as the interface says.
            unsafe {
                let primary = start();
                assert_eq!(get(|d| sys::cuCtxGetDevice(d)), 0);
                let (mut flags, mut active) = (9, 0);
                ok(sys::cuDevicePrimaryCtxGetState(0, &mut flags, &mut active));
                assert_eq!((flags, active), (0, 1));
                let other = get(|c| sys::cuCtxCreate_v2(c, 4, 0));
                assert_eq!(get(|f| sys::cuCtxGetFlags(f)) & 7, 4);
                let id = |context| get(|id| sys::cuCtxGetId(context, id));
                assert_ne!(id(primary), id(other));
                ok(sys::cuCtxDestroy_v2(other));
                let limit = sys::CUlimit::CU_LIMIT_STACK_SIZE;
                ok(sys::cuCtxSetLimit(limit, 4096));
                assert_eq!(get(|v| sys::cuCtxGetLimit(v, limit)), 4096);
                let (mut least, mut greatest) = (1, 1);
                ok(sys::cuCtxGetStreamPriorityRange(&mut least, &mut greatest));
                assert!(greatest < least, "{greatest} {least}");
                let stream = get(|s| sys::cuStreamCreateWithPriority(s, 1, greatest));
                assert_eq!(get(|f| sys::cuStreamGetFlags(stream, f)), 1);
                assert_eq!(get(|p| sys::cuStreamGetPriority(stream, p)), greatest);
                // a priority beyond the range is the last one within it
                let urgent = get(|s| sys::cuStreamCreateWithPriority(s, 0, greatest - 5));
                assert_eq!(get(|p| sys::cuStreamGetPriority(urgent, p)), greatest);
                assert_eq!(get(|c| sys::cuStreamGetCtx(stream, c)), primary);
                let of = |stream| get(|id| sys::cuStreamGetId(stream, id));
                assert_ne!(of(stream), of(urgent));
                let mut capturing = std::mem::zeroed();
                ok(sys::cuStreamIsCapturing(stream, &mut capturing));
                let none = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
                assert_eq!(capturing, none);
                assert_eq!(sys::cuStreamQuery(stream), CUresult::CUDA_SUCCESS);
            }
        },
    );
}

#[test]
fn libraries_and_their_kernels_are_launched() {
    on_softcuda(
        "answers::libraries_and_their_kernels_are_launched",
        &[],
        || {
            use sys::CUfunction_attribute::*;
            // SAFETY: handles and memory live until the end.
            unsafe {
                start();
                let text = CString::new(PTX).unwrap();
                let library = get(|library| {
                    let code = text.as_ptr().cast();
                    sys::cuLibraryLoadData(
                        library,
                        code,
                        null_mut(),
                        null_mut(),
                        0,
                        null_mut(),
                        null_mut(),
                        0,
                    )
                });
                let kernel = get(|k| sys::cuLibraryGetKernel(k, library, c"small_blocks".as_ptr()));
                let threads = get(|v| {
                    sys::cuKernelGetAttribute(v, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, kernel, 0)
                });
                assert_eq!(threads, 128);
                let (mut address, mut bytes) = (0, 0);
                ok(sys::cuLibraryGetGlobal(
                    &mut address,
                    &mut bytes,
                    library,
                    c"counter".as_ptr(),
                ));
                assert_eq!((read(address, 1), bytes), (vec![5], 4));
                let module = get(|m| sys::cuLibraryGetModule(m, library));
                function(module, "count");
                let function = get(|f| sys::cuKernelGetFunction(f, kernel));
                assert_eq!(get(|m| sys::cuFuncGetModule(m, function)), module);
                let mut p = device(&[0; 32]);
                ok(launch(function, 1, null_mut(), &mut [pointer(&mut p)]));
                assert_eq!(read(p, 32), [1; 32]);
                // a kernel handle is launched as a function is
                ok(sys::cuMemsetD32_v2(p, 0, 32));
                ok(launch(kernel.cast(), 1, null_mut(), &mut [pointer(&mut p)]));
                assert_eq!(read(p, 32), [1; 32]);
                let attribute = |which| get(|v| sys::cuFuncGetAttribute(v, which, function));
                assert_eq!(attribute(CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK), 128);
                assert_eq!(attribute(CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES), 0);
                assert_eq!(attribute(CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES), 0);
                assert_eq!(attribute(CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES), 0);
                assert_eq!(attribute(CU_FUNC_ATTRIBUTE_PTX_VERSION), 80);
                let fits =
                    get(|v| sys::cuOccupancyAvailableDynamicSMemPerBlock(v, function, 2, 128));
                assert!((48 << 10..=113 << 10).contains(&fits), "{fits}");
                ok(sys::cuLibraryUnload(library));
                let gone = sys::cuLibraryGetKernel(&mut null_mut(), library, c"count".as_ptr());
                assert_eq!(gone, CUresult::CUDA_ERROR_INVALID_HANDLE);
            }
        },
    );
}

/// A kernel with one parameter, a pointer, around `body`.
fn text(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p) {{\n\
         .reg .b64 %p;\n.reg .b32 %x;\n.reg .pred %q;\nld.param.u64 %p, [p];\n{body}\nret;\n}}\n"
    )
}

#[test]
fn errors_of_kernels_stay_until_the_context_goes() {
    let env = [("SOFTCUDA_PATIENCE", "100000")];
    on_softcuda(
        "answers::errors_of_kernels_stay_until_the_context_goes",
        &env,
        || {
            use CUresult::*;
            // SAFETY: handles and memory live until their context goes.
            unsafe {
                for (body, code) in [
                    ("st.global.u32 [%p+4096], 1;", CUDA_ERROR_ILLEGAL_ADDRESS),
                    ("st.global.u32 [%p+2], 1;", CUDA_ERROR_MISALIGNED_ADDRESS),
                    ("trap;", CUDA_ERROR_LAUNCH_FAILED),
                    (
                        "shfl.sync.idx.b32 %x, 1, 0, 31, 0xfffe;",
                        CUDA_ERROR_ILLEGAL_INSTRUCTION,
                    ),
                    (
                        "L:\nld.volatile.global.u32 %x, [%p];\nsetp.ne.u32 %q, %x, 77;\n@%q bra L;",
                        CUDA_ERROR_LAUNCH_TIMEOUT,
                    ),
                ] {
                    start();
                    let module = module(&text(body));
                    let kernel = function(module, "k");
                    let (stream, event) = (stream(false), event());
                    let mut p = device(&[0; 32]);
                    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
                    let graph = get(|g| sys::cuGraphCreate(g, 0));
                    let exec = get(|exec| sys::cuGraphInstantiateWithFlags(exec, graph, 0));
                    let image = CString::new(text("")).unwrap();
                    ok(launch(kernel, 1, stream, &mut [pointer(&mut p)]));
                    ok(sys::cuEventRecord(event, stream));
                    assert_eq!(sys::cuStreamSynchronize(stream), code, "{body}");
                    // whatever is asked from then on
                    let mut q = 0;
                    let mut word = 0i32;
                    for later in [
                        sys::cuStreamSynchronize(stream),
                        sys::cuStreamQuery(stream),
                        sys::cuEventQuery(event),
                        sys::cuEventSynchronize(event),
                        sys::cuCtxSynchronize(),
                        launch(kernel, 1, stream, &mut [pointer(&mut p)]),
                        sys::cuMemAlloc_v2(&mut q, 4),
                        sys::cuMemcpyDtoH_v2(pointer(&mut word), p, 4),
                        sys::cuMemsetD8_v2(p, 0, 4),
                        sys::cuMemFree_v2(p),
                        sys::cuModuleGetFunction(&mut null_mut(), module, c"k".as_ptr()),
                        sys::cuMemAllocAsync(&mut q, 4, stream),
                        sys::cuMemHostAlloc(&mut null_mut(), 4, 0),
                        sys::cuMemFreeAsync(p, stream),
                        sys::cuMemcpyHtoDAsync_v2(p, pointer(&mut word), 4, stream),
                        sys::cuMemsetD32Async(p, 0, 1, stream),
                        sys::cuMemGetInfo_v2(&mut 0, &mut 0),
                        sys::cuEventRecord(event, stream),
                        sys::cuStreamWaitEvent(stream, event, 0),
                        sys::cuStreamBeginCapture_v2(stream, mode),
                        sys::cuGraphInstantiateWithFlags(&mut null_mut(), graph, 0),
                        sys::cuGraphLaunch(exec, stream),
                        sys::cuStreamCreate(&mut null_mut(), 0),
                        sys::cuEventCreate(&mut null_mut(), 0),
                        sys::cuModuleLoadData(&mut null_mut(), image.as_ptr().cast()),
                    ] {
                        assert_eq!(later, code, "{body}");
                    }
                    ok(sys::cuDevicePrimaryCtxReset_v2(0));
                }
            }
        },
    );
}

#[test]
fn errors_of_calls_pass() {
    on_softcuda(
        "answers::errors_of_calls_pass",
        &[("SOFTCUDA_DEVICE", "tiny")],
        || {
            use CUresult::*;
            // SAFETY: what is wrong is refused.
            unsafe {
                start();
                let module = module(PTX);
                let (add_to, small) = (function(module, "add"), function(module, "small_blocks"));
                let stream = stream(false);
                let mut p = device(&[0; 32]);
                let mut q = 0;
                let mut image = null_mut();
                let wrong = CString::new(text("frobnicate;")).unwrap();
                let mut arguments = [pointer(&mut p)];
                let arguments = arguments.as_mut_ptr();
                let threads = |count, cooperative: bool, blocks| {
                    if cooperative {
                        return sys::cuLaunchCooperativeKernel(
                            small, blocks, 1, 1, count, 1, 1, 0, stream, arguments,
                        );
                    }
                    sys::cuLaunchKernel(
                        small,
                        blocks,
                        1,
                        1,
                        count,
                        1,
                        1,
                        0,
                        stream,
                        arguments,
                        null_mut(),
                    )
                };
                let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
                for (found, code) in [
                    (sys::cuMemAlloc_v2(&mut q, 0), CUDA_ERROR_INVALID_VALUE),
                    (
                        sys::cuMemAlloc_v2(&mut q, 1 << 40),
                        CUDA_ERROR_OUT_OF_MEMORY,
                    ),
                    (sys::cuMemFree_v2(p + 4), CUDA_ERROR_INVALID_VALUE),
                    (
                        sys::cuMemcpyDtoH_v2(null_mut(), p, 4),
                        CUDA_ERROR_INVALID_VALUE,
                    ),
                    (sys::cuMemsetD32_v2(p, 0, 33), CUDA_ERROR_INVALID_VALUE),
                    (
                        sys::cuModuleLoadData(&mut image, wrong.as_ptr().cast()),
                        CUDA_ERROR_INVALID_PTX,
                    ),
                    (
                        sys::cuModuleGetFunction(&mut null_mut(), module, c"no".as_ptr()),
                        CUDA_ERROR_NOT_FOUND,
                    ),
                    (
                        sys::cuStreamSynchronize(4 as *mut _),
                        CUDA_ERROR_INVALID_HANDLE,
                    ),
                    (threads(129, false, 1), CUDA_ERROR_INVALID_VALUE),
                    (threads(0, false, 1), CUDA_ERROR_INVALID_VALUE),
                    (
                        threads(128, true, 1000),
                        CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE,
                    ),
                    (
                        sys::cuStreamEndCapture(stream, &mut null_mut()),
                        CUDA_ERROR_ILLEGAL_STATE,
                    ),
                    (
                        sys::cuStreamBeginCapture_v2(null_mut(), mode),
                        CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
                    ),
                ] {
                    assert_eq!(found, code);
                }
                // and the context is as whole as before
                ok(sys::cuMemsetD32Async(p, 1, 32, stream));
                ok(add(add_to, stream, p, 1));
                ok(sys::cuStreamSynchronize(stream));
                assert_eq!(read(p, 32), [2; 32]);
            }
        },
    );
}
