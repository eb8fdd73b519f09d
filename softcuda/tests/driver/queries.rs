//! What is asked of devices, contexts, streams, events, pools and managed memory, by entry points
//! that no binding of cudarc's safe interface reaches.

use crate::entry::*;
use crate::support::on_softcuda;
use crate::support::raw::*;
use cudarc::driver::sys::{self, CUresult::*};
use std::ffi::{CStr, c_char, c_void};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A text that the driver keeps.
pub fn text(find: impl FnOnce(*mut *const c_char) -> sys::CUresult) -> String {
    // SAFETY: it ends with a zero, and stays.
    unsafe { CStr::from_ptr(get(find)) }
        .to_str()
        .expect("a text")
        .to_owned()
}

#[test]
fn the_device_says_what_it_is() {
    on_softcuda("queries::the_device_says_what_it_is", &[], || {
        // SAFETY: buffers are as long as is said.
        unsafe {
            let mut count = 0;
            assert_eq!(
                cuDeviceTotalMem_v2(&mut count, 0),
                CUDA_ERROR_NOT_INITIALIZED
            );
            ok(sys::cuInit(0));
            let (mut major, mut minor) = (0, 0);
            ok(cuDeviceComputeCapability(&mut major, &mut minor, 0));
            assert_eq!((major, minor), (9, 0));
            let total = get(|bytes| cuDeviceTotalMem_v2(bytes, 0));
            assert_eq!(total, 80 << 30);
            let uuid = get(|uuid| cuDeviceGetUuid_v2(uuid, 0));
            assert_eq!(uuid, get(|uuid| cuDeviceGetUuid(uuid, 0)));
            assert_ne!(uuid, [0; 16]);
            // where it sits, and the device that sits there
            let mut place = [1 as c_char; 13];
            ok(cuDeviceGetPCIBusId(place.as_mut_ptr(), 13, 0));
            assert_eq!(CStr::from_ptr(place.as_ptr()), c"0000:00:00.0");
            for form in [c"0000:00:00.0", c"0000:00:00", c"00:00.0"] {
                let mut device = 9;
                ok(cuDeviceGetByPCIBusId(&mut device, form.as_ptr()));
                assert_eq!(device, 0);
            }
            let elsewhere = cuDeviceGetByPCIBusId(&mut 0, c"0000:01:00.0".as_ptr());
            assert_eq!(elsewhere, CUDA_ERROR_INVALID_DEVICE);
            assert_eq!(
                cuDeviceGetByPCIBusId(&mut 0, null()),
                CUDA_ERROR_INVALID_VALUE
            );
            // a text is cut off to what there is room for, and always ends
            let mut short = [1 as c_char; 5];
            ok(cuDeviceGetPCIBusId(short.as_mut_ptr(), 5, 0));
            assert_eq!(CStr::from_ptr(short.as_ptr()), c"0000");
            let no_room = cuDeviceGetPCIBusId(short.as_mut_ptr(), 0, 0);
            assert_eq!(no_room, CUDA_ERROR_INVALID_VALUE);
            let properties = get(|p| cuDeviceGetProperties(p, 0));
            let expected = [
                1024,
                1024,
                1024,
                64,
                i32::MAX,
                65535,
                65535,
                48 << 10,
                64 << 10,
                32,
            ];
            assert_eq!(properties[..10], expected);
            assert_eq!(get(|can| cuDeviceCanAccessPeer(can, 0, 0)), 0);
            assert_eq!(get(|v| cuDeviceGetExecAffinitySupport(v, 0, 0)), 0);
            let no_kind = cuDeviceGetExecAffinitySupport(&mut 0, 1, 0);
            assert_eq!(no_kind, CUDA_ERROR_INVALID_VALUE);
            // there is one device
            for refused in [
                cuDeviceComputeCapability(&mut major, &mut minor, 1),
                cuDeviceTotalMem_v2(&mut count, 1),
                cuDeviceGetUuid(&mut [0; 16], 1),
                cuDeviceGetUuid_v2(&mut [0; 16], -1),
                cuDeviceGetPCIBusId(place.as_mut_ptr(), 13, 1),
                cuDeviceGetProperties(&mut [0; 14], 1),
                cuDeviceCanAccessPeer(&mut 0, 0, 1),
                cuDeviceGetExecAffinitySupport(&mut 0, 0, 1),
                cuDevicePrimaryCtxSetFlags_v2(1, 0),
            ] {
                assert_eq!(refused, CUDA_ERROR_INVALID_DEVICE);
            }
            // and nothing is written nowhere
            for refused in [
                cuDeviceComputeCapability(null_mut(), &mut minor, 0),
                cuDeviceTotalMem_v2(null_mut(), 0),
                cuDeviceGetUuid_v2(null_mut(), 0),
                cuDeviceGetPCIBusId(null_mut(), 13, 0),
                cuDeviceGetProperties(null_mut(), 0),
            ] {
                assert_eq!(refused, CUDA_ERROR_INVALID_VALUE);
            }
            // eager: what is loaded is compiled
            assert_eq!(get(|mode| cuModuleGetLoadingMode(mode)), 1);
            ok(cuProfilerStart());
            ok(cuProfilerStop());
            assert_eq!(
                text(|name| cuGetErrorName(700, name)),
                "CUDA_ERROR_ILLEGAL_ADDRESS"
            );
            let said = text(|said| cuGetErrorString(2, said));
            assert_eq!(said, "out of memory");
            let mut name = c"".as_ptr();
            assert_eq!(cuGetErrorName(12345, &mut name), CUDA_ERROR_INVALID_VALUE);
            assert!(name.is_null());
            let mut name = c"".as_ptr();
            assert_eq!(cuGetErrorString(12345, &mut name), CUDA_ERROR_INVALID_VALUE);
            assert!(name.is_null());
            // an entry point by its name, and one that there is not
            let found = get(|at| cuGetProcAddress(c"cuDriverGetVersion".as_ptr(), at, 12000, 0));
            let version: unsafe extern "C" fn(*mut i32) -> sys::CUresult =
                std::mem::transmute(found);
            assert_eq!(get(|v| version(v)), 13000);
            let mut at = 9;
            let missing = cuGetProcAddress(c"cuNothing".as_ptr(), &mut at, 12000, 0);
            assert_eq!((missing, at), (CUDA_ERROR_NOT_FOUND, 0));
        }
    });
}

#[test]
fn contexts_are_made_and_asked_by_every_version() {
    on_softcuda(
        "queries::contexts_are_made_and_asked_by_every_version",
        &[],
        || {
            // SAFETY: handles are used as the interface says.
            unsafe {
                let primary = start() as Handle;
                let third = get(|c| cuCtxCreate_v3(c, null_mut(), 0, 1, 0));
                assert_eq!(get(|f| sys::cuCtxGetFlags(f)) & 7, 1);
                let fourth = get(|c| cuCtxCreate_v4(c, null(), 2, 0));
                ok(sys::cuCtxDestroy_v2(fourth as *mut _));
                let fourth = get(|c| cuCtxCreate_v4(c, &[0; 3], 0, 0));
                assert!(primary != third && third != fourth);
                for (refused, code) in [
                    (
                        cuCtxCreate_v3(&mut 0, null_mut(), 1, 0, 0),
                        CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY,
                    ),
                    (
                        cuCtxCreate_v3(&mut 0, null_mut(), 0, 5, 0),
                        CUDA_ERROR_INVALID_VALUE,
                    ),
                    (
                        cuCtxCreate_v3(&mut 0, null_mut(), 0, 0, 1),
                        CUDA_ERROR_INVALID_DEVICE,
                    ),
                    (
                        cuCtxCreate_v4(&mut 0, &[1, 0, 0], 0, 0),
                        CUDA_ERROR_NOT_SUPPORTED,
                    ),
                    (
                        cuCtxCreate_v4(null_mut(), null(), 0, 0),
                        CUDA_ERROR_INVALID_VALUE,
                    ),
                    (cuCtxSetFlags(7), CUDA_ERROR_INVALID_VALUE),
                    (
                        cuDevicePrimaryCtxSetFlags_v2(0, 7),
                        CUDA_ERROR_INVALID_VALUE,
                    ),
                    (cuCtxSetCacheConfig(4), CUDA_ERROR_INVALID_VALUE),
                    (cuCtxSetSharedMemConfig(3), CUDA_ERROR_INVALID_VALUE),
                ] {
                    assert_eq!(refused, code);
                }
                ok(cuCtxSetFlags(4));
                assert_eq!(get(|f| sys::cuCtxGetFlags(f)) & 7, 4);
                ok(cuDevicePrimaryCtxSetFlags_v2(0, 2));
                let (mut flags, mut active) = (9, 9);
                ok(sys::cuDevicePrimaryCtxGetState(0, &mut flags, &mut active));
                assert_eq!((flags, active), (2, 1));
                // what changes no result is taken, and not kept
                ok(cuCtxSetCacheConfig(1));
                ok(cuCtxSetSharedMemConfig(2));
                ok(cuCtxResetPersistingL2Cache());
                assert_eq!(get(|c| cuCtxGetCacheConfig(c)), 0);
                assert_eq!(get(|c| cuCtxGetSharedMemConfig(c)), 1);
                for context in [0, primary, third] {
                    assert_eq!(get(|v| cuCtxGetApiVersion(context, v)), 3020);
                    assert_eq!(get(|d| cuCtxGetDevice_v2(d, context)), 0);
                    ok(cuCtxSynchronize_v2(context));
                }
                ok(sys::cuCtxDestroy_v2(fourth as *mut _));
                for (gone, code) in [
                    (
                        cuCtxGetApiVersion(fourth, &mut 0),
                        CUDA_ERROR_INVALID_CONTEXT,
                    ),
                    (
                        cuCtxGetDevice_v2(&mut 0, fourth),
                        CUDA_ERROR_INVALID_CONTEXT,
                    ),
                    (cuCtxSynchronize_v2(fourth), CUDA_ERROR_CONTEXT_IS_DESTROYED),
                ] {
                    assert_eq!(gone, code);
                }
                while sys::cuCtxPopCurrent_v2(&mut null_mut()) == CUDA_SUCCESS {}
                for nowhere in [
                    cuCtxGetDevice_v2(&mut 0, 0),
                    cuCtxGetApiVersion(0, &mut 0),
                    cuCtxSynchronize_v2(0),
                    cuCtxSetFlags(0),
                    cuCtxSetCacheConfig(0),
                    cuCtxGetCacheConfig(&mut 0),
                    cuCtxSetSharedMemConfig(0),
                    cuCtxGetSharedMemConfig(&mut 0),
                    cuCtxResetPersistingL2Cache(),
                ] {
                    assert_eq!(nowhere, CUDA_ERROR_INVALID_CONTEXT);
                }
            }
        },
    );
}

#[test]
fn managed_memory_takes_advice() {
    on_softcuda("queries::managed_memory_takes_advice", &[], || {
        // SAFETY: memory lives until the end.
        unsafe {
            start();
            let (stream, plain) = (stream(false), device(&[0; 32]));
            let s = stream as Handle;
            let managed = get(|p| sys::cuMemAllocManaged(p, 256, 1));
            let place = |kind, id| Location { kind, id };
            // to a device and the host, by both versions; whatever is said, results stay
            ok(sys::cuMemsetD32_v2(managed, 5, 64));
            for advice in 1..=6 {
                ok(cuMemAdvise(managed, 256, advice, 0));
                ok(cuMemAdvise(managed + 64, 64, advice, -1));
                ok(cuMemAdvise_v2(managed, 256, advice, place(1, 0)));
                ok(cuMemAdvise_v2(managed, 256, advice, place(2, 0)));
            }
            ok(cuMemPrefetchAsync(managed, 256, 0, s));
            ok(cuMemPrefetchAsync(managed + 128, 128, -1, s));
            ok(cuMemPrefetchAsync_v2(managed, 256, place(3, 0), 0, s));
            ok(cuStreamAttachMemAsync(s, managed, 0, 4));
            ok(cuStreamAttachMemAsync(s, managed, 256, 1));
            ok(sys::cuCtxSynchronize());
            assert_eq!(read(managed, 64), [5; 64]);
            let yes = 1u32;
            ok(cuPointerSetAttribute((&raw const yes).cast(), 6, plain));
            for (i, (refused, code)) in [
                (cuMemAdvise(plain, 128, 1, 0), CUDA_ERROR_INVALID_VALUE),
                (cuMemAdvise(managed, 257, 1, 0), CUDA_ERROR_INVALID_VALUE),
                (cuMemAdvise(managed, 0, 1, 0), CUDA_ERROR_INVALID_VALUE),
                (cuMemAdvise(managed, 256, 7, 0), CUDA_ERROR_INVALID_VALUE),
                (cuMemAdvise(managed, 256, 3, 1), CUDA_ERROR_INVALID_DEVICE),
                (
                    cuMemAdvise_v2(managed, 256, 5, place(1, 1)),
                    CUDA_ERROR_INVALID_DEVICE,
                ),
                (
                    cuMemAdvise_v2(managed, 256, 5, place(9, 0)),
                    CUDA_ERROR_INVALID_VALUE,
                ),
                (
                    cuMemAdvise_v2(plain, 128, 5, place(1, 0)),
                    CUDA_ERROR_INVALID_VALUE,
                ),
                (
                    cuMemPrefetchAsync(plain, 128, 0, s),
                    CUDA_ERROR_INVALID_VALUE,
                ),
                (
                    cuMemPrefetchAsync(managed + 8, 256, 0, s),
                    CUDA_ERROR_INVALID_VALUE,
                ),
                (
                    cuMemPrefetchAsync(managed, 256, 1, s),
                    CUDA_ERROR_INVALID_DEVICE,
                ),
                (
                    cuMemPrefetchAsync(managed, 256, 0, 4),
                    CUDA_ERROR_INVALID_HANDLE,
                ),
                (
                    cuMemPrefetchAsync_v2(managed, 256, place(1, 0), 1, s),
                    CUDA_ERROR_INVALID_VALUE,
                ),
                (
                    cuMemPrefetchAsync_v2(managed, 256, place(0, 0), 0, s),
                    CUDA_ERROR_INVALID_VALUE,
                ),
                (
                    cuStreamAttachMemAsync(s, plain, 0, 4),
                    CUDA_ERROR_INVALID_VALUE,
                ),
                (
                    cuStreamAttachMemAsync(s, managed, 128, 4),
                    CUDA_ERROR_INVALID_VALUE,
                ),
                (
                    cuStreamAttachMemAsync(s, managed, 0, 3),
                    CUDA_ERROR_INVALID_VALUE,
                ),
                (
                    cuPointerSetAttribute(null(), 6, plain),
                    CUDA_ERROR_INVALID_VALUE,
                ),
                (
                    cuPointerSetAttribute((&raw const yes).cast(), 7, plain),
                    CUDA_ERROR_INVALID_VALUE,
                ),
                (
                    cuPointerSetAttribute((&raw const yes).cast(), 6, 64),
                    CUDA_ERROR_INVALID_VALUE,
                ),
            ]
            .into_iter()
            .enumerate()
            {
                assert_eq!(refused, code, "{i}");
            }
            // none of it belongs in a capture
            let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
            for call in 0..3 {
                ok(sys::cuStreamBeginCapture_v2(stream, mode));
                let spoiled = match call {
                    0 => cuMemPrefetchAsync(managed, 256, 0, s),
                    1 => cuMemPrefetchAsync_v2(managed, 256, place(1, 0), 0, s),
                    _ => cuStreamAttachMemAsync(s, managed, 0, 4),
                };
                assert_eq!(spoiled, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
                let ended = sys::cuStreamEndCapture(stream, &mut null_mut());
                assert_eq!(ended, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
            }
        }
    });
}

#[test]
fn pools_are_found_by_their_place() {
    on_softcuda("queries::pools_are_found_by_their_place", &[], || {
        // SAFETY: handles live until the end.
        unsafe {
            start();
            let default = get(|p| sys::cuDeviceGetDefaultMemPool(p, 0)) as Handle;
            let (here, there, host) = (
                Location { kind: 1, id: 0 },
                Location { kind: 1, id: 1 },
                Location { kind: 2, id: 0 },
            );
            assert_eq!(get(|p| cuMemGetDefaultMemPool(p, &here, 1)), default);
            assert_eq!(get(|p| cuMemGetMemPool(p, &here, 1)), default);
            assert_eq!(get(|flags| cuMemPoolGetAccess(flags, default, &here)), 3);
            let access = |location, flags| Access { location, flags };
            ok(cuMemPoolSetAccess(default, &access(here, 3), 1));
            ok(cuMemPoolSetAccess(default, null(), 0));
            for (i, (refused, code)) in [
                (
                    cuMemGetDefaultMemPool(&mut 0, &there, 1),
                    CUDA_ERROR_INVALID_DEVICE,
                ),
                (
                    cuMemGetDefaultMemPool(&mut 0, &host, 1),
                    CUDA_ERROR_NOT_SUPPORTED,
                ),
                (
                    cuMemGetDefaultMemPool(&mut 0, null(), 1),
                    CUDA_ERROR_INVALID_VALUE,
                ),
                (
                    cuMemGetMemPool(&mut 0, &there, 1),
                    CUDA_ERROR_INVALID_DEVICE,
                ),
                (cuMemGetMemPool(&mut 0, &here, 2), CUDA_ERROR_NOT_SUPPORTED),
                (
                    cuMemGetMemPool(null_mut(), &here, 1),
                    CUDA_ERROR_INVALID_VALUE,
                ),
                (
                    cuMemPoolGetAccess(&mut 0, default, &there),
                    CUDA_ERROR_INVALID_DEVICE,
                ),
                (
                    cuMemPoolGetAccess(&mut 0, 9, &here),
                    CUDA_ERROR_INVALID_HANDLE,
                ),
                (
                    cuMemPoolSetAccess(default, &access(there, 3), 1),
                    CUDA_ERROR_INVALID_DEVICE,
                ),
                // the device of a pool keeps what it may
                (
                    cuMemPoolSetAccess(default, &access(here, 0), 1),
                    CUDA_ERROR_INVALID_VALUE,
                ),
                (
                    cuMemPoolSetAccess(default, null(), 1),
                    CUDA_ERROR_INVALID_VALUE,
                ),
                (cuMemPoolSetAccess(9, null(), 0), CUDA_ERROR_INVALID_HANDLE),
            ]
            .into_iter()
            .enumerate()
            {
                assert_eq!(refused, code, "{i}");
            }
        }
    });
}

static CALLED: AtomicUsize = AtomicUsize::new(0);

/// Adds what `data` counts.
extern "C" fn call(data: *mut c_void) {
    CALLED.fetch_add(data as usize, Ordering::SeqCst);
}

#[test]
fn streams_and_events_answer_every_version() {
    on_softcuda(
        "queries::streams_and_events_answer_every_version",
        &[],
        || {
            // SAFETY: handles live until they are destroyed.
            unsafe {
                let context = start() as Handle;
                let (stream, first, second) = (stream(false), event(), event());
                let (s, from, to) = (stream as Handle, first as Handle, second as Handle);
                assert_eq!(get(|d| cuStreamGetDevice(s, d)), 0);
                let mut green = 9;
                assert_eq!(
                    (get(|c| cuStreamGetCtx_v2(s, c, &mut green)), green),
                    (context, 0)
                );
                assert_eq!(get(|c| cuStreamGetCtx_v2(s, c, null_mut())), context);
                ok(cuEventRecordWithFlags(from, s, 0));
                let seven = std::ptr::without_provenance_mut(7);
                ok(cuLaunchHostFunc_v2(s, Some(call), seven, 0));
                ok(cuEventRecordWithFlags(to, s, 0));
                ok(sys::cuStreamSynchronize(stream));
                assert_eq!(CALLED.load(Ordering::SeqCst), 7);
                let between = get(|ms| cuEventElapsedTime_v2(ms, from, to));
                assert!((0.0..60_000.0).contains(&between), "{between}");
                assert_eq!(get(|ms| cuEventElapsedTime_v2(ms, from, from)), 0.0);
                let never = event() as Handle;
                for (i, (refused, code)) in [
                    (
                        cuLaunchHostFunc_v2(s, None, null_mut(), 0),
                        CUDA_ERROR_INVALID_VALUE,
                    ),
                    (
                        cuLaunchHostFunc_v2(9, Some(call), null_mut(), 0),
                        CUDA_ERROR_INVALID_HANDLE,
                    ),
                    (cuEventRecordWithFlags(from, s, 2), CUDA_ERROR_INVALID_VALUE),
                    (cuEventRecordWithFlags(9, s, 0), CUDA_ERROR_INVALID_HANDLE),
                    (
                        cuEventElapsedTime_v2(&mut 0.0, from, never),
                        CUDA_ERROR_INVALID_HANDLE,
                    ),
                    (
                        cuEventElapsedTime_v2(null_mut(), from, to),
                        CUDA_ERROR_INVALID_VALUE,
                    ),
                    (cuStreamGetDevice(9, &mut 0), CUDA_ERROR_INVALID_HANDLE),
                    (cuStreamGetDevice(s, null_mut()), CUDA_ERROR_INVALID_VALUE),
                    (
                        cuStreamGetCtx_v2(9, &mut 0, null_mut()),
                        CUDA_ERROR_INVALID_HANDLE,
                    ),
                ]
                .into_iter()
                .enumerate()
                {
                    assert_eq!(refused, code, "{i}");
                }
                // in a capture: a node that records, or what the next node comes after
                let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
                ok(sys::cuStreamBeginCapture_v2(stream, mode));
                ok(cuEventRecordWithFlags(never, s, 1));
                ok(cuEventRecordWithFlags(from, s, 0));
                let graph = get(|g| sys::cuStreamEndCapture(stream, g));
                assert_eq!(get(|n| sys::cuGraphGetNodes(graph, null_mut(), n)), 1);
                let captured = cuEventElapsedTime_v2(&mut 0.0, from, to);
                assert_eq!(captured, CUDA_ERROR_CAPTURED_EVENT);
                let exec = get(|exec| sys::cuGraphInstantiateWithFlags(exec, graph, 0));
                ok(sys::cuGraphLaunch(exec, stream));
                ok(sys::cuStreamSynchronize(stream));
                assert!(get(|ms| cuEventElapsedTime_v2(ms, to, never)) >= 0.0);
            }
        },
    );
}
