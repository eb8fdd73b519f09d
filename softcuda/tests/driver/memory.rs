//! Memory: allocations of every kind, copies in every direction, fills of every form.

use crate::support::raw::*;
use crate::support::{PTX, on_softcuda};
use cudarc::driver::sys::{self, CUresult};
use std::ffi::c_void;
use std::ptr::{null, null_mut};

#[test]
fn copies_and_fills_of_every_kind() {
    on_softcuda("memory::copies_and_fills_of_every_kind", &[], || {
        // SAFETY: the buffers are as long as the calls say.
        unsafe {
            start();
            let a = device(&[1, 2, 3, 4, 5, 6, 7, 8]);
            let b = device(&[0; 8]);
            ok(sys::cuMemcpyDtoD_v2(b + 4, a, 12));
            assert_eq!(read(b, 8), [0, 1, 2, 3, 0, 0, 0, 0]);
            ok(sys::cuMemcpy(b, a + 16, 8));
            assert_eq!(read(b, 3), [5, 6, 2]);
            let host = [9, 10];
            ok(sys::cuMemcpy(b, host.as_ptr() as u64, 8));
            assert_eq!(read(b, 3), [9, 10, 2]);
            ok(sys::cuMemsetD8_v2(b, 1, 4));
            ok(sys::cuMemsetD16_v2(b + 4, 2, 2));
            ok(sys::cuMemsetD32_v2(b + 8, 3, 2));
            assert_eq!(read(b, 4), [0x0101_0101, 0x0002_0002, 3, 3]);
            assert_eq!(
                sys::cuMemsetD32_v2(b + 2, 3, 1),
                CUresult::CUDA_ERROR_INVALID_VALUE
            );
            // a column of a matrix of 4 x 2
            let mut column = [0i32; 2];
            let copy = sys::CUDA_MEMCPY2D {
                srcXInBytes: 8,
                srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
                srcDevice: a,
                srcPitch: 16,
                dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_HOST,
                dstHost: column.as_mut_ptr().cast(),
                dstPitch: 4,
                WidthInBytes: 4,
                Height: 2,
                srcY: 0,
                srcHost: null(),
                srcArray: null_mut(),
                dstXInBytes: 0,
                dstY: 0,
                dstDevice: 0,
                dstArray: null_mut(),
            };
            ok(sys::cuMemcpy2D_v2(&copy));
            assert_eq!(column, [3, 7]);
            ok(sys::cuMemsetD2D32_v2(b, 16, 7, 1, 2));
            assert_eq!(read(b, 5), [7, 0x0002_0002, 3, 3, 7]);
            // beyond the end, nothing is copied
            let beyond = sys::cuMemcpyDtoD_v2(b, a + 16, 20);
            assert_eq!(beyond, CUresult::CUDA_ERROR_INVALID_VALUE);
            assert_eq!(sys::cuMemFree_v2(a + 4), CUresult::CUDA_ERROR_INVALID_VALUE);
            let (mut base, mut bytes) = (0, 0);
            ok(sys::cuMemGetAddressRange_v2(&mut base, &mut bytes, a + 5));
            assert_eq!((base, bytes), (a, 32));
            let (mut free, mut total) = (0, 0);
            ok(sys::cuMemGetInfo_v2(&mut free, &mut total));
            assert_eq!((total, total - free), (80 << 30, 64));
            let mut huge = 0;
            let refused = sys::cuMemAlloc_v2(&mut huge, 81 << 30);
            assert_eq!(refused, CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        }
    });
}

#[test]
fn host_memory_is_reached_from_the_device() {
    on_softcuda(
        "memory::host_memory_is_reached_from_the_device",
        &[],
        || {
            // SAFETY: the memory is read and written between synchronisations only.
            unsafe {
                start();
                let add_one = function(module(PTX), "add");
                let pinned: *mut c_void = get(|p| sys::cuMemHostAlloc(p, 128, 0));
                let data = std::slice::from_raw_parts_mut(pinned.cast::<i32>(), 32);
                data.fill(4);
                let address = get(|a| sys::cuMemHostGetDevicePointer_v2(a, pinned, 0));
                ok(add(add_one, null_mut(), address, 3));
                ok(sys::cuCtxSynchronize());
                assert_eq!(data, [7; 32]);
                ok(sys::cuMemFreeHost(pinned));

                let mut own = vec![1i32; 32];
                let start = own.as_mut_ptr().cast::<c_void>();
                ok(sys::cuMemHostRegister_v2(start, 128, 0));
                let twice = sys::cuMemHostRegister_v2(start, 128, 0);
                assert_eq!(twice, CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
                ok(add(add_one, null_mut(), start as u64, 3));
                ok(sys::cuCtxSynchronize());
                ok(sys::cuMemHostUnregister(start));
                let again = sys::cuMemHostUnregister(start);
                assert_eq!(again, CUresult::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
                assert_eq!(own, [4; 32]);

                let managed = get(|m| sys::cuMemAllocManaged(m, 128, 1));
                std::slice::from_raw_parts_mut(managed as *mut i32, 32).fill(2);
                ok(add(add_one, null_mut(), managed, 1));
                ok(sys::cuCtxSynchronize());
                assert_eq!(*(managed as *const i32), 3);
                ok(sys::cuMemFree_v2(managed));
            }
        },
    );
}

#[test]
fn pools_and_memory_in_the_order_of_streams() {
    let ended = on_softcuda(
        "memory::pools_and_memory_in_the_order_of_streams",
        &[],
        || {
            // SAFETY: memory is used between its allocation and its end.
            unsafe {
                start();
                let add_one = function(module(PTX), "add");
                let stream = stream(false);
                let p = get(|p| sys::cuMemAllocAsync(p, 128, stream));
                ok(sys::cuMemsetD32Async(p, 5, 32, stream));
                ok(add(add_one, stream, p, 2));
                let mut data = [0i32; 32];
                ok(sys::cuMemcpyDtoHAsync_v2(
                    data.as_mut_ptr().cast(),
                    p,
                    128,
                    stream,
                ));
                assert_eq!(data, [7; 32]);
                let pool = get(|pool| sys::cuDeviceGetDefaultMemPool(pool, 0));
                let used = || {
                    let which = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT;
                    let mut value = 0u64;
                    ok(sys::cuMemPoolGetAttribute(pool, which, pointer(&mut value)));
                    value
                };
                assert_eq!(used(), 128);
                ok(sys::cuMemFreeAsync(p, stream));
                assert_eq!(used(), 0);
                // It is gone for what comes after in the stream: an error that sticks.
                ok(add(add_one, stream, p, 2));
                let after = sys::cuStreamSynchronize(stream);
                assert_eq!(after, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
            }
        },
    );
    if let Some(ended) = ended {
        ended.says(&["freed before"]);
    }
}

/// Bytes that tell where they come from.
fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|i| (i * 7 + i / 251) as u8).collect()
}

fn bytes_at(address: u64, count: usize) -> Vec<u8> {
    let mut data = vec![0u8; count];
    // SAFETY: the vector is long enough.
    ok(unsafe { sys::cuMemcpyDtoH_v2(data.as_mut_ptr().cast(), address, count) });
    data
}

#[test]
fn fills_of_every_width_in_rows_and_boxes() {
    on_softcuda(
        "memory::fills_of_every_width_in_rows_and_boxes",
        &[],
        || {
            // SAFETY: the buffer is as long as the calls say.
            unsafe {
                start();
                let stream = stream(false);
                let p = get(|p| sys::cuMemAlloc_v2(p, 256));
                // what each fill leaves: (first byte, pitch, bytes of a row, rows, bytes of an element)
                type Call<'a> = Box<dyn Fn() -> CUresult + 'a>;
                let one = |element| [32, 0, 5 * element, 1, element];
                let rows = |element| [32, 48, 3 * element, 4, element];
                let value = 0x5a6b_7c8d_u32;
                let (byte, short) = (value as u8, value as u16);
                let calls: Vec<(Call, [usize; 5])> = vec![
                    (Box::new(|| sys::cuMemsetD8_v2(p + 32, byte, 5)), one(1)),
                    (Box::new(|| sys::cuMemsetD16_v2(p + 32, short, 5)), one(2)),
                    (Box::new(|| sys::cuMemsetD32_v2(p + 32, value, 5)), one(4)),
                    (
                        Box::new(|| sys::cuMemsetD8Async(p + 32, byte, 5, stream)),
                        one(1),
                    ),
                    (
                        Box::new(|| sys::cuMemsetD16Async(p + 32, short, 5, stream)),
                        one(2),
                    ),
                    (
                        Box::new(|| sys::cuMemsetD32Async(p + 32, value, 5, stream)),
                        one(4),
                    ),
                    (
                        Box::new(|| sys::cuMemsetD2D8_v2(p + 32, 48, byte, 3, 4)),
                        rows(1),
                    ),
                    (
                        Box::new(|| sys::cuMemsetD2D16_v2(p + 32, 48, short, 3, 4)),
                        rows(2),
                    ),
                    (
                        Box::new(|| sys::cuMemsetD2D32_v2(p + 32, 48, value, 3, 4)),
                        rows(4),
                    ),
                    (
                        Box::new(|| sys::cuMemsetD2D8Async(p + 32, 48, byte, 3, 4, stream)),
                        rows(1),
                    ),
                    (
                        Box::new(|| sys::cuMemsetD2D16Async(p + 32, 48, short, 3, 4, stream)),
                        rows(2),
                    ),
                    (
                        Box::new(|| sys::cuMemsetD2D32Async(p + 32, 48, value, 3, 4, stream)),
                        rows(4),
                    ),
                ];
                for (i, (call, [from, pitch, width, height, element])) in calls.iter().enumerate() {
                    let mut expected = pattern(256);
                    ok(sys::cuMemcpyHtoD_v2(p, expected.as_ptr().cast(), 256));
                    ok(call());
                    ok(sys::cuStreamSynchronize(stream));
                    for row in 0..*height {
                        for x in 0..*width {
                            expected[from + row * pitch + x] = value.to_le_bytes()[x % element];
                        }
                    }
                    assert_eq!(bytes_at(p, 256), expected, "fill {i}");
                }
                let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
                // misaligned, beyond the end, rows that lie in each other
                assert_eq!(sys::cuMemsetD16Async(p + 1, 0, 1, stream), invalid);
                assert_eq!(sys::cuMemsetD8_v2(p, 0, 257), invalid);
                assert_eq!(sys::cuMemsetD2D32_v2(p, 48, 0, 13, 2), invalid);
                assert_eq!(sys::cuMemsetD2D8_v2(p, 100, 0, 57, 3), invalid);
                ok(sys::cuMemsetD2D8_v2(p, 100, 0, 56, 3));
            }
        },
    );
}

/// One end of a copy of boxes: memory, bytes of a row and rows of a slice, and where the box is.
#[derive(Clone, Copy)]
struct End {
    kind: sys::CUmemorytype,
    address: u64,
    pitch: usize,
    rows: usize,
    at: [usize; 3],
}

const BOX: [usize; 3] = [5, 3, 2];

fn box_of(from: End, to: End) -> sys::CUDA_MEMCPY3D {
    let mut copy = boxes(from.kind, to.kind);
    let host = |end: End| std::ptr::without_provenance_mut::<c_void>(end.address as usize);
    (copy.srcHost, copy.srcDevice) = (host(from), from.address);
    (copy.dstHost, copy.dstDevice) = (host(to), to.address);
    (copy.srcPitch, copy.srcHeight) = (from.pitch, from.rows);
    (copy.dstPitch, copy.dstHeight) = (to.pitch, to.rows);
    [copy.srcXInBytes, copy.srcY, copy.srcZ] = from.at;
    [copy.dstXInBytes, copy.dstY, copy.dstZ] = to.at;
    [copy.WidthInBytes, copy.Height, copy.Depth] = BOX;
    copy
}

fn plane_of(copy: &sys::CUDA_MEMCPY3D) -> sys::CUDA_MEMCPY2D {
    sys::CUDA_MEMCPY2D {
        srcXInBytes: copy.srcXInBytes,
        srcY: copy.srcY,
        srcMemoryType: copy.srcMemoryType,
        srcHost: copy.srcHost,
        srcDevice: copy.srcDevice,
        srcArray: null_mut(),
        srcPitch: copy.srcPitch,
        dstXInBytes: copy.dstXInBytes,
        dstY: copy.dstY,
        dstMemoryType: copy.dstMemoryType,
        dstHost: copy.dstHost,
        dstDevice: copy.dstDevice,
        dstArray: null_mut(),
        dstPitch: copy.dstPitch,
        WidthInBytes: copy.WidthInBytes,
        Height: copy.Height,
    }
}

#[test]
fn boxes_are_copied_in_every_direction() {
    on_softcuda("memory::boxes_are_copied_in_every_direction", &[], || {
        use sys::CUmemorytype::*;
        // SAFETY: the buffers are as long as the boxes need.
        unsafe {
            start();
            let stream = stream(false);
            const BYTES: usize = 256;
            let source = pattern(BYTES);
            let device_source = get(|p| sys::cuMemAlloc_v2(p, BYTES));
            let device_target = get(|p| sys::cuMemAlloc_v2(p, BYTES));
            let pinned: *mut c_void = get(|p| sys::cuMemHostAlloc(p, BYTES, 0));
            let mut target = vec![0u8; BYTES];
            ok(sys::cuMemcpyHtoD_v2(
                device_source,
                source.as_ptr().cast(),
                BYTES,
            ));
            let sources = [
                (CU_MEMORYTYPE_HOST, source.as_ptr() as u64),
                (CU_MEMORYTYPE_DEVICE, device_source),
                (CU_MEMORYTYPE_UNIFIED, device_source),
            ];
            let targets = [
                (CU_MEMORYTYPE_HOST, target.as_mut_ptr() as u64),
                (CU_MEMORYTYPE_HOST, pinned as u64),
                (CU_MEMORYTYPE_DEVICE, device_target),
                (CU_MEMORYTYPE_UNIFIED, device_target),
                (CU_MEMORYTYPE_UNIFIED, pinned as u64),
            ];
            for (from_kind, from) in sources {
                for (to_kind, to) in targets {
                    let from = End {
                        kind: from_kind,
                        address: from,
                        pitch: 16,
                        rows: 5,
                        at: [2, 1, 1],
                    };
                    let to = End {
                        kind: to_kind,
                        address: to,
                        pitch: 11,
                        rows: 4,
                        at: [3, 1, 2],
                    };
                    let copy = box_of(from, to);
                    let plane = plane_of(&copy);
                    type Call<'a> = (usize, Box<dyn Fn() -> CUresult + 'a>);
                    let calls: [Call; 5] = [
                        (2, Box::new(|| sys::cuMemcpy3D_v2(&copy))),
                        (2, Box::new(|| sys::cuMemcpy3DAsync_v2(&copy, stream))),
                        (1, Box::new(|| sys::cuMemcpy2D_v2(&plane))),
                        (1, Box::new(|| sys::cuMemcpy2DUnaligned_v2(&plane))),
                        (1, Box::new(|| sys::cuMemcpy2DAsync_v2(&plane, stream))),
                    ];
                    for (i, (depth, call)) in calls.iter().enumerate() {
                        ok(sys::cuMemsetD8_v2(device_target, 0, BYTES));
                        ok(sys::cuCtxSynchronize());
                        std::ptr::write_bytes(target.as_mut_ptr(), 0, BYTES);
                        std::ptr::write_bytes(pinned.cast::<u8>(), 0, BYTES);
                        ok(call());
                        ok(sys::cuStreamSynchronize(stream));
                        let found = if to.address == device_target {
                            bytes_at(device_target, BYTES)
                        } else {
                            std::slice::from_raw_parts(to.address as *const u8, BYTES).to_vec()
                        };
                        let mut expected = vec![0; BYTES];
                        for z in 0..*depth {
                            for y in 0..BOX[1] {
                                for x in 0..BOX[0] {
                                    // a plane has no third axis
                                    let slice =
                                        |end: End| if *depth == 1 { 0 } else { end.at[2] + z };
                                    let place = |end: End| {
                                        let row = (slice(end) * end.rows) + end.at[1] + y;
                                        row * end.pitch + end.at[0] + x
                                    };
                                    expected[place(to)] = source[place(from)];
                                }
                            }
                        }
                        assert_eq!(found, expected, "{from_kind:?} to {to_kind:?}, call {i}");
                    }
                }
            }
            // a row that is longer than the distance to the next, a box beyond the end
            let end = |address, pitch| End {
                kind: CU_MEMORYTYPE_DEVICE,
                address,
                pitch,
                rows: 3,
                at: [0; 3],
            };
            let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
            let narrow = box_of(end(device_source, 4), end(device_target, 16));
            assert_eq!(sys::cuMemcpy3D_v2(&narrow), invalid);
            let far = box_of(end(device_source, 60), end(device_target, 16));
            assert_eq!(sys::cuMemcpy3D_v2(&far), invalid);
            let mut array = box_of(end(device_source, 16), end(device_target, 16));
            array.srcMemoryType = CU_MEMORYTYPE_ARRAY;
            assert_eq!(
                sys::cuMemcpy3D_v2(&array),
                CUresult::CUDA_ERROR_NOT_SUPPORTED
            );
        }
    });
}

#[test]
fn rows_are_copied_in_every_direction_beside_the_host() {
    on_softcuda(
        "memory::rows_are_copied_in_every_direction_beside_the_host",
        &[],
        || {
            // SAFETY: the buffers are as long as the calls say.
            unsafe {
                let context = start();
                let stream = stream(false);
                let (a, b) = (device(&[0; 8]), device(&[0; 8]));
                let pinned: *mut c_void = get(|p| sys::cuMemAllocHost_v2(p, 32));
                assert_eq!(get(|f| sys::cuMemHostGetFlags(f, pinned)) & 2, 2);
                let words = std::slice::from_raw_parts_mut(pinned.cast::<i32>(), 8);
                let host = [1i32, 2, 3, 4, 5, 6, 7, 8];
                ok(sys::cuMemcpyHtoDAsync_v2(
                    a,
                    host.as_ptr().cast(),
                    32,
                    stream,
                ));
                ok(sys::cuMemcpyDtoDAsync_v2(b + 4, a, 28, stream));
                ok(sys::cuMemcpyDtoHAsync_v2(pinned, b, 32, stream));
                ok(sys::cuStreamSynchronize(stream));
                assert_eq!(words, [0, 1, 2, 3, 4, 5, 6, 7]);
                // which side an address is on is known
                ok(sys::cuMemcpyAsync(a, pinned as u64, 16, stream));
                ok(sys::cuMemcpyAsync(a + 16, b, 16, stream));
                ok(sys::cuMemcpyAsync(pinned as u64, a, 32, stream));
                ok(sys::cuStreamSynchronize(stream));
                assert_eq!(words, [0, 1, 2, 3, 0, 1, 2, 3]);
                ok(sys::cuMemcpyPeer(b, context, a + 4, context, 8));
                assert_eq!(read(b, 2), [1, 2]);
                ok(sys::cuMemcpyPeerAsync(
                    b,
                    context,
                    a + 8,
                    context,
                    8,
                    stream,
                ));
                ok(sys::cuStreamSynchronize(stream));
                assert_eq!(read(b, 2), [2, 3]);
                ok(sys::cuMemFreeHost(pinned));
                // nothing is a copy, too
                ok(sys::cuMemcpyDtoD_v2(a, b, 0));
                let nowhere = sys::cuMemcpyHtoD_v2(a, null(), 4);
                assert_eq!(nowhere, CUresult::CUDA_ERROR_INVALID_VALUE);
            }
        },
    );
}

#[test]
fn pointers_tell_what_they_point_to() {
    on_softcuda("memory::pointers_tell_what_they_point_to", &[], || {
        use sys::CUpointer_attribute::*;
        // SAFETY: every answer has the type that its attribute names.
        unsafe {
            let context = start();
            let p = device(&[1; 10]);
            let pinned: *mut c_void = get(|p| sys::cuMemHostAlloc(p, 64, 0));
            let managed = get(|m| sys::cuMemAllocManaged(m, 64, 1));
            let int = |which, address| {
                let mut value = 99u32;
                ok(sys::cuPointerGetAttribute(
                    pointer(&mut value),
                    which,
                    address,
                ));
                value
            };
            let wide = |which, address| {
                let mut value = 99u64;
                ok(sys::cuPointerGetAttribute(
                    pointer(&mut value),
                    which,
                    address,
                ));
                value
            };
            for (address, base, kind, bytes) in [
                (p + 8, p, 2, 40),
                (pinned as u64 + 4, pinned as u64, 1, 64),
                (managed, managed, 2, 64),
            ] {
                assert_eq!(wide(CU_POINTER_ATTRIBUTE_CONTEXT, address), context as u64);
                assert_eq!(int(CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address), kind);
                assert_eq!(wide(CU_POINTER_ATTRIBUTE_DEVICE_POINTER, address), address);
                assert_eq!(wide(CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, address), base);
                assert_eq!(wide(CU_POINTER_ATTRIBUTE_RANGE_SIZE, address), bytes);
                assert_eq!(int(CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, address), 0);
            }
            assert_eq!(
                wide(CU_POINTER_ATTRIBUTE_HOST_POINTER, pinned as u64),
                pinned as u64
            );
            let mut value = 0u64;
            let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
            let host = CU_POINTER_ATTRIBUTE_HOST_POINTER;
            assert_eq!(
                sys::cuPointerGetAttribute(pointer(&mut value), host, p),
                invalid
            );
            assert_eq!(
                sys::cuPointerGetAttribute(pointer(&mut value), CU_POINTER_ATTRIBUTE_CONTEXT, 4),
                invalid
            );
            // several at a time: of a pointer that nobody knows all is zero
            let (mut kind, mut size) = (9u32, 9u64);
            let mut which = [
                CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
                CU_POINTER_ATTRIBUTE_RANGE_SIZE,
            ];
            let mut values = [pointer(&mut kind), pointer(&mut size)];
            ok(sys::cuPointerGetAttributes(
                2,
                which.as_mut_ptr(),
                values.as_mut_ptr(),
                managed,
            ));
            assert_eq!((kind, size), (2, 64));
            ok(sys::cuPointerGetAttributes(
                2,
                which.as_mut_ptr(),
                values.as_mut_ptr(),
                4,
            ));
            assert_eq!((kind, size), (0, 0));
            let (mut pitched, mut pitch) = (0, 0);
            ok(sys::cuMemAllocPitch_v2(&mut pitched, &mut pitch, 100, 3, 4));
            assert!(pitch >= 100 && pitch % 256 == 0, "{pitch}");
            ok(sys::cuMemsetD2D8_v2(pitched, pitch, 1, 100, 3));
            let refused = sys::cuMemAllocPitch_v2(&mut pitched, &mut pitch, 100, 3, 5);
            assert_eq!(refused, invalid);
        }
    });
}

#[test]
fn pools_of_the_program_are_made_used_and_given_up() {
    on_softcuda(
        "memory::pools_of_the_program_are_made_used_and_given_up",
        &[],
        || {
            use sys::CUmemPool_attribute::*;
            // SAFETY: memory is used between its allocation and its end.
            unsafe {
                start();
                let stream = stream(false);
                let mut props = std::mem::zeroed::<sys::CUmemPoolProps>();
                props.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
                props.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
                let pool = get(|pool| sys::cuMemPoolCreate(pool, &props));
                let default = get(|pool| sys::cuDeviceGetDefaultMemPool(pool, 0));
                assert_ne!(pool, default);
                let attribute = |pool, which| {
                    let mut value = 0u64;
                    ok(sys::cuMemPoolGetAttribute(pool, which, pointer(&mut value)));
                    value
                };
                let p = get(|p| sys::cuMemAllocFromPoolAsync(p, 100, pool, stream));
                assert_eq!(attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 100);
                assert_eq!(attribute(default, CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 0);
                // the pool of cuMemAllocAsync is the device's current one
                ok(sys::cuDeviceSetMemPool(0, pool));
                assert_eq!(get(|pool| sys::cuDeviceGetMemPool(pool, 0)), pool);
                let q = get(|q| sys::cuMemAllocAsync(q, 50, stream));
                assert_eq!(attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 150);
                ok(sys::cuMemsetD8Async(p, 3, 100, stream));
                ok(sys::cuMemsetD8Async(q, 4, 50, stream));
                ok(sys::cuStreamSynchronize(stream));
                assert_eq!(
                    (bytes_at(p, 100), bytes_at(q, 50)),
                    (vec![3; 100], vec![4; 50])
                );
                ok(sys::cuMemFreeAsync(q, stream));
                assert_eq!(attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 100);
                assert_eq!(attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH), 150);
                let mut zero = 0u64;
                ok(sys::cuMemPoolSetAttribute(
                    pool,
                    CU_MEMPOOL_ATTR_USED_MEM_HIGH,
                    pointer(&mut zero),
                ));
                assert_eq!(attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH), 100);
                let mut most = u64::MAX;
                ok(sys::cuMemPoolSetAttribute(
                    pool,
                    CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
                    pointer(&mut most),
                ));
                assert_eq!(attribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD), u64::MAX);
                ok(sys::cuMemPoolTrimTo(pool, 0));
                // a free that nothing in a stream is
                ok(sys::cuMemFree_v2(p));
                let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
                assert_eq!(sys::cuMemFreeAsync(p, stream), invalid);
                assert_eq!(sys::cuMemPoolDestroy(default), invalid);
                ok(sys::cuMemPoolDestroy(pool));
                assert_eq!(get(|pool| sys::cuDeviceGetMemPool(pool, 0)), default);
                let mut none = 0;
                let gone = sys::cuMemAllocFromPoolAsync(&mut none, 4, pool, stream);
                assert_eq!(gone, CUresult::CUDA_ERROR_INVALID_HANDLE);
                ok(sys::cuCtxSynchronize());
            }
        },
    );
}
