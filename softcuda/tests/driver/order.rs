//! The order in which work is done, and when.

use crate::support::raw::*;
use crate::support::{PTX, PTX_90, on_softcuda};
use cudarc::driver::sys::{self, CUresult};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

/// Seeds under which what is ordered must come out the same.
const SEEDS: [&str; 4] = ["0", "1", "2", "99"];

fn under_seeds(test: &str, body: fn()) {
    for seed in SEEDS {
        on_softcuda(
            test,
            &[("SOFTCUDA_SEED", seed), ("SOFTCUDA_DEVICE", "tiny")],
            || {
                if std::env::var("SOFTCUDA_SEED").unwrap() == seed {
                    body();
                }
            },
        );
    }
}

#[test]
fn work_waits_until_it_is_waited_for() {
    on_softcuda("order::work_waits_until_it_is_waited_for", &[], || {
        // SAFETY: the pinned memory is read between synchronisations.
        unsafe {
            start();
            let (one, two) = (stream(false), stream(false));
            let p = device(&[1; 32]);
            let pinned: *mut c_void = get(|p| sys::cuMemHostAlloc(p, 128, 0));
            let seen = || pinned.cast::<i32>().read_volatile();
            ok(sys::cuMemcpyDtoHAsync_v2(pinned, p, 128, one));
            // another stream's work says nothing of this one's
            ok(sys::cuMemsetD32Async(p, 2, 32, two));
            let event = event();
            ok(sys::cuEventRecord(event, two));
            assert_eq!(seen(), 0);
            ok(sys::cuStreamSynchronize(one));
            assert_eq!(seen(), 1);
            assert_eq!(sys::cuEventQuery(event), CUresult::CUDA_ERROR_NOT_READY);
            while sys::cuEventQuery(event) != CUresult::CUDA_SUCCESS {}
            ok(sys::cuStreamQuery(two));
            assert_eq!(read(p, 1), [2]);
        }
    });
}

#[test]
fn a_program_that_polls_memory_sees_it_change() {
    on_softcuda(
        "order::a_program_that_polls_memory_sees_it_change",
        &[],
        || {
            // SAFETY: the pinned memory is polled as programs do.
            unsafe {
                start();
                let stream = stream(false);
                let pinned: *mut c_void = get(|p| sys::cuMemHostAlloc(p, 4, 0));
                let p = device(&[9]);
                ok(sys::cuMemcpyDtoHAsync_v2(pinned, p, 4, stream));
                let begun = Instant::now();
                while pinned.cast::<i32>().read_volatile() != 9 {
                    assert!(
                        begun.elapsed() < Duration::from_secs(20),
                        "the device never went on"
                    );
                    std::hint::spin_loop();
                }
            }
        },
    );
}

#[test]
fn events_order_streams() {
    under_seeds("order::events_order_streams", || {
        // SAFETY: handles and memory live until the end.
        unsafe {
            start();
            let module = module(PTX);
            let (add_to, twice_of) = (function(module, "add"), function(module, "twice_plus_one"));
            let (one, two) = (stream(false), stream(false));
            let (there, back) = (event(), event());
            let p = device(&[0; 32]);
            let mut expected = 0;
            for by in 1..6 {
                ok(add(add_to, one, p, by));
                ok(sys::cuEventRecord(there, one));
                ok(sys::cuStreamWaitEvent(two, there, 0));
                ok(twice(twice_of, two, p));
                ok(sys::cuEventRecord(back, two));
                ok(sys::cuStreamWaitEvent(one, back, 0));
                expected = (expected + by) * 2 + 1;
            }
            ok(sys::cuStreamSynchronize(one));
            assert_eq!(read(p, 32), [expected; 32]);
        }
    });
}

#[test]
fn the_legacy_stream_and_blocking_streams_wait_for_each_other() {
    under_seeds(
        "order::the_legacy_stream_and_blocking_streams_wait_for_each_other",
        || {
            // SAFETY: handles and memory live until the end.
            unsafe {
                start();
                let module = module(PTX);
                let (add_to, twice_of) =
                    (function(module, "add"), function(module, "twice_plus_one"));
                let blocking = stream(true);
                let per_thread = 2 as sys::CUstream;
                let p = device(&[0; 32]);
                let mut expected = 0;
                for by in 1..6 {
                    ok(add(add_to, blocking, p, by));
                    ok(twice(twice_of, null_mut(), p));
                    ok(add(add_to, per_thread, p, by));
                    ok(twice(twice_of, null_mut(), p));
                    expected = ((expected + by) * 2 + 1 + by) * 2 + 1;
                }
                ok(sys::cuStreamSynchronize(null_mut()));
                assert_eq!(read(p, 32), [expected; 32]);
            }
        },
    );
}

static CALLS: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(data: *mut c_void) {
    // no call of the driver is permitted here
    // SAFETY: the call refuses.
    let refused = unsafe { sys::cuCtxSynchronize() };
    assert_eq!(refused, CUresult::CUDA_ERROR_NOT_PERMITTED);
    // SAFETY: the test gives pinned memory that the copy before has filled.
    let seen = unsafe { data.cast::<i32>().read_volatile() };
    CALLS.store(seen, Ordering::SeqCst);
}

#[test]
fn host_functions_are_called_in_order() {
    under_seeds("order::host_functions_are_called_in_order", || {
        // SAFETY: the memory lives until the end.
        unsafe {
            start();
            let stream = stream(false);
            let pinned: *mut c_void = get(|p| sys::cuMemHostAlloc(p, 4, 0));
            for value in 1..10 {
                let p = device(&[value]);
                ok(sys::cuMemcpyDtoHAsync_v2(pinned, p, 4, stream));
                ok(sys::cuLaunchHostFunc(stream, Some(note), pinned));
                ok(sys::cuStreamSynchronize(stream));
                assert_eq!(CALLS.load(Ordering::SeqCst), value);
            }
        }
    });
}

#[test]
fn times_of_events_grow() {
    on_softcuda("order::times_of_events_grow", &[], || {
        // SAFETY: handles live until the end.
        unsafe {
            start();
            let stream = stream(false);
            let (a, b) = (event(), event());
            let mut ms = 0.0;
            let never = sys::cuEventElapsedTime(&mut ms, a, b);
            assert_eq!(never, CUresult::CUDA_ERROR_INVALID_HANDLE);
            ok(sys::cuEventQuery(a));
            ok(sys::cuEventRecord(a, stream));
            extern "C" fn sleep(_: *mut c_void) {
                std::thread::sleep(Duration::from_millis(20));
            }
            ok(sys::cuLaunchHostFunc(stream, Some(sleep), null_mut()));
            ok(sys::cuEventRecord(b, stream));
            let early = sys::cuEventElapsedTime(&mut ms, a, b);
            assert_eq!(early, CUresult::CUDA_ERROR_NOT_READY);
            ok(sys::cuEventSynchronize(b));
            ok(sys::cuEventElapsedTime(&mut ms, a, b));
            assert!((20.0..20e3).contains(&ms), "{ms} ms");
        }
    });
}

/// Launches `kernel` with programmatic stream serialisation.
unsafe fn programmatic(
    kernel: sys::CUfunction,
    stream: sys::CUstream,
    arguments: &mut [*mut c_void],
) {
    // SAFETY: all-zero values are valid for both structures; the caller gives the arguments.
    unsafe {
        let mut attribute = std::mem::zeroed::<sys::CUlaunchAttribute>();
        attribute.id =
            sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        attribute.value.programmaticStreamSerializationAllowed = 1;
        let mut config = std::mem::zeroed::<sys::CUlaunchConfig>();
        (config.gridDimX, config.gridDimY, config.gridDimZ) = (1, 1, 1);
        (config.blockDimX, config.blockDimY, config.blockDimZ) = (32, 1, 1);
        (config.hStream, config.attrs, config.numAttrs) = (stream, &mut attribute, 1);
        ok(sys::cuLaunchKernelEx(
            &config,
            kernel,
            arguments.as_mut_ptr(),
            null_mut(),
        ));
    }
}

#[test]
fn programmatic_successors_see_what_they_wait_for() {
    for overlap in ["early", "interleaved", "late"] {
        let env = [("SOFTCUDA_OVERLAP", overlap), ("SOFTCUDA_SEED", "3")];
        on_softcuda(
            "order::programmatic_successors_see_what_they_wait_for",
            &env,
            || {
                // SAFETY: memory lives until the end; the arguments are those of the kernels.
                unsafe {
                    start();
                    let module = module(PTX_90);
                    let (first, second) = (function(module, "first"), function(module, "second"));
                    let stream = stream(false);
                    let (mut p, mut q) = (device(&[0; 32]), device(&[0; 32]));
                    ok(launch(first, 1, stream, &mut [pointer(&mut p)]));
                    programmatic(second, stream, &mut [pointer(&mut q), pointer(&mut p)]);
                    ok(sys::cuStreamSynchronize(stream));
                    assert_eq!(read(q, 32), [8; 32]);
                }
            },
        );
    }
}

#[test]
fn a_programmatic_successor_that_does_not_wait_is_found() {
    // `second` with its wait taken out
    let ptx = PTX_90.replace("griddepcontrol.wait;", "");
    assert_ne!(ptx, PTX_90);
    let test = "order::a_programmatic_successor_that_does_not_wait_is_found";
    let ended = on_softcuda(test, &[("SOFTCUDA_OVERLAP", "interleaved")], || {
        // SAFETY: as above.
        unsafe {
            start();
            let module = module(&ptx);
            let (first, second) = (function(module, "first"), function(module, "second"));
            let stream = stream(false);
            let (mut p, mut q) = (device(&[0; 32]), device(&[0; 32]));
            ok(launch(first, 1, stream, &mut [pointer(&mut p)]));
            programmatic(second, stream, &mut [pointer(&mut q), pointer(&mut p)]);
            assert_ne!(sys::cuStreamSynchronize(stream), CUresult::CUDA_SUCCESS);
        }
    });
    if let Some(ended) = ended {
        ended.says(&["GlobalRace"]);
    }
}

#[test]
fn launches_of_two_streams_that_nothing_orders_race() {
    let test = "order::launches_of_two_streams_that_nothing_orders_race";
    let ended = on_softcuda(test, &[], || {
        // SAFETY: as above.
        unsafe {
            start();
            let add_to = function(module(PTX), "add");
            let (one, two) = (stream(false), stream(false));
            let p = device(&[0; 32]);
            ok(add(add_to, one, p, 1));
            ok(add(add_to, two, p, 2));
            assert_ne!(sys::cuCtxSynchronize(), CUresult::CUDA_SUCCESS);
        }
    });
    if let Some(ended) = ended {
        ended.says(&["GlobalRace"]);
    }
}

/// A copy or a fill of one stream and a launch of another that touch the same bytes, whichever is
/// done first.
#[test]
fn copies_and_launches_of_two_streams_that_nothing_orders_race() {
    let test = "order::copies_and_launches_of_two_streams_that_nothing_orders_race";
    // bits: a copy, or a fill; whether the launch comes first; a seed other than 0
    for case in 0..8 {
        let number = case.to_string();
        let seed = if case & 4 == 0 { "0" } else { "4" };
        let env = [("TRANSFER_CASE", number.as_str()), ("SOFTCUDA_SEED", seed)];
        let ended = on_softcuda(test, &env, || {
            let case: u32 = std::env::var("TRANSFER_CASE").unwrap().parse().unwrap();
            // SAFETY: memory and handles live until the end.
            unsafe {
                start();
                let add_to = function(module(PTX), "add");
                let (one, two) = (stream(false), stream(false));
                let p = device(&[0; 32]);
                let pinned: *mut c_void = get(|p| sys::cuMemHostAlloc(p, 16, 0));
                let transfer = || match case & 1 {
                    0 => ok(sys::cuMemsetD32Async(p + 64, 1, 4, two)),
                    _ => ok(sys::cuMemcpyDtoHAsync_v2(pinned, p + 64, 16, two)),
                };
                if case & 2 == 0 {
                    transfer();
                }
                ok(add(add_to, one, p, 1));
                if case & 2 != 0 {
                    transfer();
                }
                assert_ne!(sys::cuCtxSynchronize(), CUresult::CUDA_SUCCESS);
            }
        });
        let Some(ended) = ended else { return };
        let word = ["written by a fill", "read by a copy"][case & 1];
        ended.says(&["GlobalRace", word, "of another stream"]);
    }
}

/// A small generator of choices, the same in every run.
struct Choices(u64);

impl Choices {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }
}

/// Programs of kernels, copies and fills on several streams, where an event orders whatever
/// touches the same buffer, come out as if everything ran in order of submission.
#[test]
fn what_events_order_comes_out_as_if_it_ran_in_order() {
    under_seeds(
        "order::what_events_order_comes_out_as_if_it_ran_in_order",
        || {
            const BUFFERS: usize = 5;
            // SAFETY: handles and memory live until the end.
            unsafe {
                start();
                let module = module(PTX);
                let (add_to, twice_of) =
                    (function(module, "add"), function(module, "twice_plus_one"));
                let streams = [
                    stream(false),
                    stream(false),
                    stream(true),
                    2 as sys::CUstream,
                ];
                let buffers: [u64; BUFFERS] = std::array::from_fn(|i| device(&[i as i32; 32]));
                let mut expected: [i32; BUFFERS] = std::array::from_fn(|i| i as i32);
                // the event that the last use of each buffer ends with
                let mut last: [Option<sys::CUevent>; BUFFERS] = [None; BUFFERS];
                let mut choices = Choices(7);
                for _ in 0..300 {
                    let stream = streams[choices.below(streams.len())];
                    let (a, b) = (choices.below(BUFFERS), choices.below(BUFFERS));
                    for used in [a, b] {
                        if let Some(event) = last[used] {
                            ok(sys::cuStreamWaitEvent(stream, event, 0));
                        }
                    }
                    match choices.below(4) {
                        0 => {
                            ok(add(add_to, stream, buffers[a], b as i32));
                            expected[a] = expected[a].wrapping_add(b as i32);
                        }
                        1 => {
                            ok(twice(twice_of, stream, buffers[a]));
                            expected[a] = expected[a].wrapping_mul(2).wrapping_add(1);
                        }
                        2 if a != b => {
                            ok(sys::cuMemcpyDtoDAsync_v2(
                                buffers[a], buffers[b], 128, stream,
                            ));
                            expected[a] = expected[b];
                        }
                        _ => {
                            ok(sys::cuMemsetD32Async(buffers[a], b as u32, 32, stream));
                            expected[a] = b as i32;
                        }
                    }
                    let event = event();
                    ok(sys::cuEventRecord(event, stream));
                    (last[a], last[b]) = (Some(event), Some(event));
                }
                ok(sys::cuCtxSynchronize());
                for (buffer, expected) in buffers.into_iter().zip(expected) {
                    assert_eq!(read(buffer, 32), [expected; 32]);
                }
            }
        },
    );
}

#[test]
fn a_host_function_that_waits_for_the_program_holds_nobody_up() {
    use std::sync::atomic::AtomicBool;
    static GO: AtomicBool = AtomicBool::new(false);
    extern "C" fn wait(_: *mut c_void) {
        while !GO.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    under_seeds(
        "order::a_host_function_that_waits_for_the_program_holds_nobody_up",
        || {
            // SAFETY: handles and memory live until the end.
            unsafe {
                start();
                let add_to = function(module(PTX), "add");
                let (held, free) = (stream(false), stream(false));
                let p = device(&[0; 32]);
                ok(sys::cuLaunchHostFunc(held, Some(wait), null_mut()));
                ok(sys::cuMemsetD32Async(p, 9, 32, held));
                // long enough for the device to begin by itself
                std::thread::sleep(Duration::from_millis(30));
                let q = device(&[0; 32]);
                ok(add(add_to, free, q, 3));
                ok(sys::cuStreamSynchronize(free));
                assert_eq!(sys::cuStreamQuery(held), CUresult::CUDA_ERROR_NOT_READY);
                GO.store(true, Ordering::SeqCst);
                ok(sys::cuStreamSynchronize(held));
                assert_eq!((read(p, 1), read(q, 1)), (vec![9], vec![3]));
            }
        },
    );
}

#[test]
fn threads_that_submit_wait_and_pause_all_come_to_an_end() {
    let test = "order::threads_that_submit_wait_and_pause_all_come_to_an_end";
    on_softcuda(
        test,
        &[("SOFTCUDA_DEVICE", "tiny"), ("SOFTCUDA_SEED", "5")],
        || {
            let context = start() as usize;
            let add_to = function(module(PTX), "add") as usize;
            let threads: Vec<_> = (0..4u64)
                .map(|thread| {
                    std::thread::spawn(move || {
                        // SAFETY: the context lives until the end.
                        unsafe {
                            ok(sys::cuCtxSetCurrent(context as sys::CUcontext));
                            let stream = stream(false);
                            let add_to = add_to as sys::CUfunction;
                            let p = get(|p| sys::cuMemAlloc_v2(p, 128));
                            ok(sys::cuMemsetD32Async(p, 0, 32, stream));
                            let (mut choices, mut expected) = (Choices(thread), 0);
                            let event = event();
                            for _ in 0..100 {
                                ok(add(add_to, stream, p, 1));
                                expected += 1;
                                match choices.below(6) {
                                    0 => ok(sys::cuStreamSynchronize(stream)),
                                    1 => {
                                        ok(sys::cuEventRecord(event, stream));
                                        ok(sys::cuEventSynchronize(event));
                                    }
                                    2 => {
                                        while sys::cuStreamQuery(stream) != CUresult::CUDA_SUCCESS {
                                        }
                                    }
                                    3 => std::thread::sleep(Duration::from_millis(3)),
                                    _ => {}
                                }
                            }
                            let mut data = [0i32; 32];
                            let target = data.as_mut_ptr().cast();
                            ok(sys::cuMemcpyDtoHAsync_v2(target, p, 128, stream));
                            assert_eq!(data, [expected; 32]);
                            ok(sys::cuMemFree_v2(p));
                        }
                    })
                })
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
        },
    );
}

#[test]
fn what_waits_behind_an_error_is_never_done() {
    let ended = on_softcuda(
        "order::what_waits_behind_an_error_is_never_done",
        &[],
        || {
            // SAFETY: handles and memory live until the end.
            unsafe {
                start();
                let beyond = function(module(PTX), "beyond");
                let (one, two) = (stream(false), stream(false));
                let pinned: *mut c_void = get(|p| sys::cuMemHostAlloc(p, 4, 0));
                let (mut p, mut n) = (device(&[0; 32]), 32i32);
                let event = event();
                ok(launch(
                    beyond,
                    2,
                    one,
                    &mut [pointer(&mut p), pointer(&mut n)],
                ));
                ok(sys::cuLaunchHostFunc(one, Some(note), pinned));
                ok(sys::cuEventRecord(event, one));
                ok(sys::cuStreamWaitEvent(two, event, 0));
                ok(sys::cuMemsetD32Async(p, 1, 32, two));
                // nobody waits for ever, whatever is asked
                let illegal = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
                assert_eq!(sys::cuStreamSynchronize(two), illegal);
                assert_eq!(sys::cuStreamQuery(one), illegal);
                assert_eq!(sys::cuEventQuery(event), illegal);
                assert_eq!(sys::cuEventSynchronize(event), illegal);
                assert_eq!(CALLS.load(Ordering::SeqCst), 0);
            }
        },
    );
    if let Some(ended) = ended {
        ended.says(&["OutOfBounds"]);
    }
}
