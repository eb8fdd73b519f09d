//! What functions tell of themselves, and how many blocks of them the device holds.

use crate::entry::*;
use crate::queries::text;
use crate::support::raw::*;
use crate::support::{PTX, on_softcuda};
use cudarc::driver::sys::{self, CUresult::*};
use std::ffi::{CString, c_char};
use std::ptr::{null, null_mut};

/// Offset and bytes of every parameter.
fn layout(
    count: usize,
    info: impl Fn(usize, *mut usize, *mut usize) -> sys::CUresult,
) -> Vec<(usize, usize)> {
    let of = |i| {
        let (mut offset, mut bytes) = (99, 99);
        ok(info(i, &mut offset, &mut bytes));
        (offset, bytes)
    };
    let found = (0..count).map(of).collect();
    assert_eq!(info(count, &mut 0, &mut 0), CUDA_ERROR_INVALID_VALUE);
    assert_eq!(info(0, null_mut(), &mut 0), CUDA_ERROR_INVALID_VALUE);
    ok(info(0, &mut 0, null_mut())); // the bytes are not always wanted
    found
}

#[test]
fn functions_tell_their_names_and_parameters() {
    on_softcuda(
        "functions::functions_tell_their_names_and_parameters",
        &[],
        || {
            // SAFETY: handles live until they are unloaded.
            unsafe {
                start();
                let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
                    .join("tests/driver/fixtures/kernels.ptx");
                let path = CString::new(path.to_str().expect("a path")).unwrap();
                let load = |library: *mut Handle, path: *const c_char| {
                    cuLibraryLoadFromFile(library, path, null(), null(), 0, null(), null(), 0)
                };
                let library = get(|library| load(library, path.as_ptr()));
                let missing = load(&mut 0, c"/no/such/file.ptx".as_ptr());
                assert_eq!(missing, CUDA_ERROR_FILE_NOT_FOUND);
                assert_eq!(load(&mut 0, null()), CUDA_ERROR_INVALID_VALUE);
                let image = include_bytes!("fixtures/plain.fatbin");
                let fat = get(|m| cuModuleLoadFatBinary(m, image.as_ptr().cast()));
                assert_eq!(
                    cuModuleLoadFatBinary(&mut 0, null()),
                    CUDA_ERROR_INVALID_VALUE
                );
                // all kernels, and as many as there is room for
                let count = get(|n| cuLibraryGetKernelCount(n, library));
                assert_eq!(count, 8);
                let mut kernels = vec![0; 9];
                ok(cuLibraryEnumerateKernels(kernels.as_mut_ptr(), 9, library));
                assert_eq!(kernels[8], 0);
                let mut names: Vec<String> = kernels[..8]
                    .iter()
                    .map(|&k| text(|name| cuKernelGetName(name, k)))
                    .collect();
                names.sort();
                let expected = [
                    "add",
                    "beyond",
                    "count",
                    "mixed",
                    "reverse",
                    "saxpy",
                    "small_blocks",
                    "twice_plus_one",
                ];
                assert_eq!(names, expected);
                // that of compute_90, which has two more
                assert_eq!(get(|n| cuModuleGetFunctionCount(n, fat)), 10);
                let mut two = [0; 3];
                ok(cuModuleEnumerateFunctions(two.as_mut_ptr(), 2, fat));
                assert!(two[0] != 0 && two[1] != 0 && two[2] == 0);
                let name = text(|name| cuFuncGetName(name, two[0]));
                assert_eq!(function(fat as *mut _, &name) as Handle, two[0]);

                let mixed =
                    get(|k| sys::cuLibraryGetKernel(k, library as *mut _, c"mixed".as_ptr()));
                let kernel = mixed as Handle;
                assert_eq!(get(|l| cuKernelGetLibrary(l, kernel)), library);
                let of_module = function(fat as *mut _, "mixed") as Handle;
                let none = cuKernelGetLibrary(&mut 0, of_module);
                assert_eq!(none, CUDA_ERROR_INVALID_HANDLE);
                // double *out, char a, {char, double, short} m, short b, double c
                let expected = [(0, 8), (8, 1), (16, 24), (40, 2), (48, 8)];
                assert_eq!(get(|n| cuKernelGetParamCount(kernel, n)), 5);
                let found = layout(5, |i, at, bytes| cuKernelGetParamInfo(kernel, i, at, bytes));
                assert_eq!(found, expected);
                assert_eq!(get(|n| cuFuncGetParamCount(of_module, n)), 5);
                let found = layout(5, |i, at, bytes| {
                    cuFuncGetParamInfo(of_module, i, at, bytes)
                });
                assert_eq!(found, expected);
                let nothing = function(fat as *mut _, "count") as Handle;
                assert_eq!(get(|n| cuFuncGetParamCount(nothing, n)), 0);

                // dynamic shared memory beyond what every launch may have is asked for
                const MOST_SHARED: u32 = 8;
                let attribute = |function: Handle| {
                    let which =
                        sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                    get(|v| sys::cuFuncGetAttribute(v, which, function as *mut _))
                };
                assert_eq!(attribute(of_module), 48 << 10);
                ok(cuFuncSetAttribute(of_module, MOST_SHARED, 100 << 10));
                ok(cuKernelSetAttribute(MOST_SHARED, 227 << 10, kernel, 0));
                assert_eq!(
                    (attribute(of_module), attribute(kernel)),
                    (100 << 10, 227 << 10)
                );
                for refused in [
                    cuFuncSetAttribute(of_module, MOST_SHARED, (227 << 10) + 1),
                    cuFuncSetAttribute(of_module, MOST_SHARED, -1),
                    cuFuncSetAttribute(of_module, 0, 64), // not one that can be set
                    cuKernelSetAttribute(MOST_SHARED, 1 << 20, kernel, 0),
                    cuFuncSetCacheConfig(of_module, 4),
                    cuKernelSetCacheConfig(kernel, 4, 0),
                    cuFuncSetSharedMemConfig(of_module, 3),
                ] {
                    assert_eq!(refused, CUDA_ERROR_INVALID_VALUE);
                }
                ok(cuFuncSetCacheConfig(of_module, 1));
                ok(cuKernelSetCacheConfig(kernel, 3, 0));
                ok(cuFuncSetSharedMemConfig(of_module, 2));
                assert_eq!(get(|state| cuFuncIsLoaded(state, of_module)), 1);
                ok(cuFuncLoad(of_module));
                ok(sys::cuModuleUnload(fat as *mut _));
                ok(sys::cuLibraryUnload(library as *mut _));
                for gone in [
                    cuModuleGetFunctionCount(&mut 0, fat),
                    cuModuleEnumerateFunctions(two.as_mut_ptr(), 2, fat),
                    cuLibraryGetKernelCount(&mut 0, library),
                    cuLibraryEnumerateKernels(two.as_mut_ptr(), 2, library),
                    cuKernelGetName(&mut null(), kernel),
                    cuKernelGetLibrary(&mut 0, kernel),
                    cuKernelGetParamCount(kernel, &mut 0),
                    cuKernelGetParamInfo(kernel, 0, &mut 0, null_mut()),
                    cuKernelSetAttribute(MOST_SHARED, 0, kernel, 0),
                    cuKernelSetCacheConfig(kernel, 0, 0),
                    cuFuncGetName(&mut null(), of_module),
                    cuFuncGetParamCount(of_module, &mut 0),
                    cuFuncGetParamInfo(of_module, 0, &mut 0, null_mut()),
                    cuFuncSetAttribute(of_module, MOST_SHARED, 0),
                    cuFuncSetCacheConfig(of_module, 0),
                    cuFuncSetSharedMemConfig(of_module, 0),
                    cuFuncIsLoaded(&mut 0, of_module),
                    cuFuncLoad(of_module),
                ] {
                    assert_eq!(gone, CUDA_ERROR_INVALID_HANDLE);
                }
            }
        },
    );
}

/// Dynamic shared memory of a block that has 64 bytes for each thread; it calls the driver.
unsafe extern "C" fn shared_of(threads: i32) -> usize {
    // SAFETY: a context is current.
    unsafe { ok(sys::cuCtxGetDevice(&mut 0)) };
    64 * threads as usize
}

#[test]
fn occupancy_is_what_the_limits_leave() {
    on_softcuda("functions::occupancy_is_what_the_limits_leave", &[], || {
        // SAFETY: handles live until the end.
        unsafe {
            start();
            let module = module(PTX);
            let add = function(module, "add") as Handle;
            let small = function(module, "small_blocks") as Handle;
            let blocks = |function, threads, shared| {
                let found = get(|n| {
                    cuOccupancyMaxActiveBlocksPerMultiprocessor(n, function, threads, shared)
                });
                for flags in [0, 1] {
                    let same = get(|n| {
                        cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
                            n, function, threads, shared, flags,
                        )
                    });
                    assert_eq!(same, found);
                }
                found
            };
            // 2048 threads, 32 blocks, 228 KiB of shared memory of which 1 KiB goes with each block
            assert_eq!(blocks(add, 1024, 0), 2);
            assert_eq!(blocks(add, 100, 0), 16);
            assert_eq!(blocks(add, 32, 0), 32);
            assert_eq!(blocks(add, 32, 56 << 10), 4);
            assert_eq!(blocks(add, 32, 57 << 10), 3);
            assert_eq!(blocks(add, 32, 227 << 10), 1);
            assert_eq!(blocks(add, 32, 228 << 10), 0);
            assert_eq!((blocks(small, 128, 0), blocks(small, 129, 0)), (16, 0));

            let potential = |function, of: Option<_>, shared, limit| {
                let (mut grid, mut block) = (0, 0);
                ok(cuOccupancyMaxPotentialBlockSize(
                    &mut grid, &mut block, function, of, shared, limit,
                ));
                let (mut same_grid, mut same_block) = (0, 0);
                ok(cuOccupancyMaxPotentialBlockSizeWithFlags(
                    &mut same_grid,
                    &mut same_block,
                    function,
                    of,
                    shared,
                    limit,
                    1,
                ));
                assert_eq!((grid, block), (same_grid, same_block));
                (grid, block)
            };
            assert_eq!(potential(add, None, 0, 0), (2 * 132, 1024));
            assert_eq!(potential(add, None, 0, 256), (8 * 132, 256));
            assert_eq!(potential(small, None, 0, 0), (16 * 132, 128));
            // shared memory for one block only
            assert_eq!(potential(add, None, 120 << 10, 0), (132, 1024));
            // 64 KiB for the largest block, three of which fit: 1024 and 1 KiB, 2048 at most
            assert_eq!(potential(add, Some(shared_of as _), 0, 0), (2 * 132, 1024));

            let config = |block, shared, attributes: &[Attribute]| Config {
                grid: [1000, 1, 1],
                block,
                shared,
                stream: 0,
                attributes: attributes.as_ptr(),
                count: attributes.len() as u32,
            };
            let cluster = |size| {
                let mut value = [0; 16];
                value[..3].copy_from_slice(&[size, 1, 1]);
                [Attribute {
                    id: 4,
                    pad: 0,
                    value,
                }]
            };
            let plain = config([64, 4, 1], 0, &[]);
            assert_eq!(
                get(|n| cuOccupancyMaxActiveClusters(n, add, &plain)),
                8 * 132
            );
            // of one block, which is the largest that there is
            let one = cluster(1);
            let plain = config([1024, 1, 1], 0, &one);
            assert_eq!(
                get(|n| cuOccupancyMaxActiveClusters(n, add, &plain)),
                2 * 132
            );
            assert_eq!(
                get(|n| cuOccupancyMaxPotentialClusterSize(n, add, &plain)),
                1
            );
            let two = cluster(2);
            let two = config([32, 1, 1], 0, &two);
            let huge = config([u32::MAX, 2, 1], 0, &[]);
            let none = config([0, 1, 1], 0, &[]);
            for (refused, code) in [
                (
                    cuOccupancyMaxActiveClusters(&mut 0, add, &two),
                    CUDA_ERROR_NOT_SUPPORTED,
                ),
                (
                    cuOccupancyMaxPotentialClusterSize(&mut 0, add, &two),
                    CUDA_ERROR_NOT_SUPPORTED,
                ),
                (
                    cuOccupancyMaxActiveClusters(&mut 0, add, &huge),
                    CUDA_ERROR_INVALID_VALUE,
                ),
                (
                    cuOccupancyMaxActiveClusters(&mut 0, add, &none),
                    CUDA_ERROR_INVALID_VALUE,
                ),
                (
                    cuOccupancyMaxActiveClusters(&mut 0, add, null()),
                    CUDA_ERROR_INVALID_VALUE,
                ),
                (
                    cuOccupancyMaxPotentialClusterSize(&mut 0, add, null()),
                    CUDA_ERROR_INVALID_VALUE,
                ),
                (
                    cuOccupancyMaxActiveClusters(&mut 0, 9, &plain),
                    CUDA_ERROR_INVALID_HANDLE,
                ),
                (
                    cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut 0, add, 0, 0),
                    CUDA_ERROR_INVALID_VALUE,
                ),
                (
                    cuOccupancyMaxActiveBlocksPerMultiprocessor(null_mut(), add, 1, 0),
                    CUDA_ERROR_INVALID_VALUE,
                ),
                (
                    cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(&mut 0, add, 1, 0, 2),
                    CUDA_ERROR_INVALID_VALUE,
                ),
                (
                    cuOccupancyMaxPotentialBlockSize(&mut 0, &mut 0, add, None, 0, -1),
                    CUDA_ERROR_INVALID_VALUE,
                ),
                (
                    cuOccupancyMaxPotentialBlockSizeWithFlags(&mut 0, &mut 0, add, None, 0, 0, 2),
                    CUDA_ERROR_INVALID_VALUE,
                ),
            ] {
                assert_eq!(refused, code);
            }
        }
    });
}
