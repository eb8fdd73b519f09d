//! Programs that use cudarc's safe interface, as its users write them.

use crate::support::{PTX, on_softcuda};
use cudarc::driver::{CudaContext, CudaEvent, LaunchConfig, PushKernelArg, sys};
use cudarc::nvrtc::Ptx;
use std::sync::Arc;

const N: usize = 1000;

#[test]
fn memory_modules_launches_streams_and_events() {
    let test = "safe::memory_modules_launches_streams_and_events";
    let ended = on_softcuda(test, &[("SOFTCUDA_DEVICE", "tiny")], || {
        let context = CudaContext::new(0).unwrap();
        assert_eq!(CudaContext::device_count().unwrap(), 1);
        assert!(context.name().unwrap().contains("tiny"));
        assert_eq!(context.compute_capability().unwrap(), (9, 0));
        let sms = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        assert_eq!(context.attribute(sms).unwrap(), 4);
        assert_eq!(context.total_mem().unwrap(), 8 << 30);

        let stream = context.default_stream();
        let module = context.load_module(Ptx::from_src(PTX)).unwrap();
        let saxpy = module.load_function("saxpy").unwrap();
        let x: Vec<f32> = (0..N).map(|i| i as f32).collect();
        let y: Vec<f32> = (0..N).map(|i| 0.5 * i as f32).collect();
        let x_device = stream.clone_htod(&x).unwrap();
        let mut y_device = stream.clone_htod(&y).unwrap();
        let timing = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let before = stream.record_event(timing).unwrap();
        let (a, n) = (3.0f32, N as i32);
        let mut launch = stream.launch_builder(&saxpy);
        launch.arg(&mut y_device).arg(&x_device).arg(&a).arg(&n);
        // SAFETY: the arguments are those of the kernel.
        unsafe { launch.launch(LaunchConfig::for_num_elems(N as u32)) }.unwrap();
        let after = stream.record_event(timing).unwrap();
        let result = stream.clone_dtoh(&y_device).unwrap();
        stream.synchronize().unwrap();
        let expected: Vec<f32> = (0..N).map(|i| 3.5 * i as f32).collect();
        assert_eq!(result, expected);
        let elapsed = before.elapsed_ms(&after).unwrap();
        assert!((0.0..60e3).contains(&elapsed), "{elapsed} ms");

        // work on three streams, joined by events
        let add = module.load_function("add").unwrap();
        let twice = module.load_function("twice_plus_one").unwrap();
        let (one, two) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let mut p = one.alloc_zeros::<i32>(N).unwrap();
        let config = LaunchConfig::for_num_elems(N as u32);
        let by = 5i32;
        // SAFETY: as above; the joins order the streams.
        unsafe {
            one.launch_builder(&add)
                .arg(&mut p)
                .arg(&by)
                .arg(&n)
                .launch(config)
                .unwrap();
            two.join(&one).unwrap();
            two.launch_builder(&twice)
                .arg(&mut p)
                .arg(&n)
                .launch(config)
                .unwrap();
            one.join(&two).unwrap();
            one.launch_builder(&add)
                .arg(&mut p)
                .arg(&by)
                .arg(&n)
                .launch(config)
                .unwrap();
        }
        assert_eq!(one.clone_dtoh(&p).unwrap(), vec![16; N]);

        // the device's own copies, views and fills
        let mut q = two.clone_dtod(&p).unwrap();
        two.memset_zeros(&mut q.slice_mut(10..20)).unwrap();
        let q = two.clone_dtoh(&q).unwrap();
        assert_eq!((q[9], q[10], q[19], q[20]), (16, 0, 0, 16));
        let mut counter = module.get_global("counter", &stream).unwrap();
        let mut counter = {
            // SAFETY: the variable is one int.
            unsafe { counter.transmute_mut::<i32>(1) }.unwrap()
        };
        assert_eq!(stream.clone_dtoh(&counter).unwrap(), [5]);
        stream.memcpy_htod(&[8], &mut counter).unwrap();
        let count = module.load_function("count").unwrap();
        let blocks = LaunchConfig {
            grid_dim: (7, 1, 1),
            block_dim: (64, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the kernel has no arguments.
        unsafe { stream.launch_builder(&count).launch(blocks) }.unwrap();
        assert_eq!(stream.clone_dtoh(&counter).unwrap(), [15]);
    });
    if let Some(ended) = ended {
        assert!(!ended.said.contains("softcuda:"), "{}", ended.said);
    }
}

fn is_done(event: &CudaEvent) -> bool {
    event.is_complete()
}

#[test]
fn pinned_memory_and_copies_beside_the_host() {
    on_softcuda(
        "safe::pinned_memory_and_copies_beside_the_host",
        &[],
        || {
            let context = CudaContext::new(0).unwrap();
            let stream = context.new_stream().unwrap();
            // SAFETY: all of it is written below, before it is read.
            let mut pinned = unsafe { context.alloc_pinned::<i32>(N) }.unwrap();
            for (i, value) in pinned.as_mut_slice().unwrap().iter_mut().enumerate() {
                *value = i as i32;
            }
            let mut device = stream.alloc_zeros::<i32>(N).unwrap();
            stream.memcpy_htod(&pinned, &mut device).unwrap();
            let copied = stream.record_event(None).unwrap();
            while !is_done(&copied) {}
            // SAFETY: all of it is overwritten by the copy.
            let mut back = unsafe { context.alloc_pinned::<i32>(N) }.unwrap();
            stream.memcpy_dtoh(&device, &mut back).unwrap();
            stream.synchronize().unwrap();
            assert_eq!(back.as_slice().unwrap(), (0..N as i32).collect::<Vec<_>>());

            // an asynchronous copy out of pageable memory takes the bytes as they were
            let mut host = vec![1i32; N];
            stream.memcpy_htod(&host, &mut device).unwrap();
            host.fill(2);
            assert_eq!(stream.clone_dtoh(&device).unwrap(), vec![1; N]);
        },
    );
}

#[test]
fn a_graph_is_captured_and_replayed() {
    let test = "safe::a_graph_is_captured_and_replayed";
    let ended = on_softcuda(test, &[("SOFTCUDA_DEVICE", "tiny")], || {
        let context = CudaContext::new(0).unwrap();
        // SAFETY: everything below runs on one stream.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().unwrap();
        let module = context.load_module(Ptx::from_src(PTX)).unwrap();
        let add = module.load_function("add").unwrap();
        let twice = module.load_function("twice_plus_one").unwrap();
        let mut p = stream.alloc_zeros::<i32>(N).unwrap();
        let mut copy = stream.clone_htod(&vec![-1i32; N]).unwrap();
        let config = LaunchConfig::for_num_elems(N as u32);
        let (by, n) = (1i32, N as i32);
        stream
            .begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .unwrap();
        let active = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE;
        assert_eq!(stream.capture_status().unwrap(), active);
        // SAFETY: the arguments are those of the kernels.
        unsafe {
            stream
                .launch_builder(&add)
                .arg(&mut p)
                .arg(&by)
                .arg(&n)
                .launch(config)
                .unwrap();
            stream
                .launch_builder(&twice)
                .arg(&mut p)
                .arg(&n)
                .launch(config)
                .unwrap();
        }
        stream.memcpy_dtod(&p, &mut copy).unwrap();
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags).unwrap().unwrap();
        graph.upload().unwrap();
        // nothing ran while it was captured
        assert_eq!(stream.clone_dtoh(&p).unwrap(), vec![0; N]);
        assert_eq!(stream.clone_dtoh(&copy).unwrap(), vec![-1; N]);
        for expected in [3, 9, 21] {
            graph.launch().unwrap();
            stream.synchronize().unwrap();
            assert_eq!(stream.clone_dtoh(&copy).unwrap(), vec![expected; N]);
        }
    });
    if let Some(ended) = ended {
        assert!(!ended.said.contains("softcuda:"), "{}", ended.said);
    }
}

#[test]
fn occupancy_and_attributes_of_functions() {
    on_softcuda("safe::occupancy_and_attributes_of_functions", &[], || {
        use sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as DYNAMIC;
        let context = CudaContext::new(0).unwrap();
        let fat = include_bytes!("fixtures/zstd.fatbin").to_vec();
        let module = context.load_module(Ptx::from_binary(fat)).unwrap();
        let reverse = module.load_function("reverse").unwrap();
        // what ptxas needed for sm_90, from the machine code beside the PTX
        assert_eq!(reverse.num_regs().unwrap(), 10);
        assert_eq!(
            module.load_function("mixed").unwrap().num_regs().unwrap(),
            18
        );
        assert_eq!(reverse.max_threads_per_block().unwrap(), 1024);
        assert_eq!(reverse.ptx_version().unwrap(), 90);
        assert_eq!(reverse.shared_size_bytes().unwrap(), 0);
        let small = module.load_function("small_blocks").unwrap();
        assert_eq!(small.max_threads_per_block().unwrap(), 128);
        let blocks = |threads, shared| {
            reverse
                .occupancy_max_active_blocks_per_multiprocessor(threads, shared, None)
                .unwrap()
        };
        assert_eq!((blocks(1024, 0), blocks(256, 0), blocks(32, 0)), (2, 8, 32));
        assert_eq!(
            (
                blocks(64, 48 << 10),
                blocks(64, 227 << 10),
                blocks(64, 228 << 10)
            ),
            (4, 1, 0)
        );
        extern "C" fn none(_threads: i32) -> usize {
            0
        }
        let (grid, block) = reverse
            .occupancy_max_potential_block_size(none, 0, 0, None)
            .unwrap();
        assert_eq!((grid, block), (2 * 132, 1024));

        // more dynamic shared memory than 48 KiB must be asked for
        let stream = context.default_stream();
        let mut p = stream.clone_htod(&(0..64).collect::<Vec<i32>>()).unwrap();
        let config = LaunchConfig {
            grid_dim: (1, 1, 1),
            block_dim: (64, 1, 1),
            shared_mem_bytes: 60 << 10,
        };
        // SAFETY: the argument is that of the kernel.
        let refused = unsafe { stream.launch_builder(&reverse).arg(&mut p).launch(config) };
        assert_eq!(
            refused.unwrap_err().0,
            sys::CUresult::CUDA_ERROR_INVALID_VALUE
        );
        reverse.set_attribute(DYNAMIC, 60 << 10).unwrap();
        // SAFETY: as above.
        unsafe { stream.launch_builder(&reverse).arg(&mut p).launch(config) }.unwrap();
        assert_eq!(
            stream.clone_dtoh(&p).unwrap(),
            (0..64).rev().collect::<Vec<i32>>()
        );
        assert!(reverse.set_attribute(DYNAMIC, 228 << 10).is_err());
    });
}

#[test]
fn threads_share_a_context() {
    on_softcuda(
        "safe::threads_share_a_context",
        &[("SOFTCUDA_DEVICE", "tiny")],
        || {
            let context = CudaContext::new(0).unwrap();
            let module = context.load_module(Ptx::from_src(PTX)).unwrap();
            let add = Arc::new(module.load_function("add").unwrap());
            std::thread::scope(|scope| {
                for by in 1..5 {
                    let (context, add) = (context.clone(), add.clone());
                    scope.spawn(move || {
                        context.bind_to_thread().unwrap();
                        let stream = context.new_stream().unwrap();
                        let mut p = stream.alloc_zeros::<i32>(N).unwrap();
                        let n = N as i32;
                        for _ in 0..10 {
                            let config = LaunchConfig::for_num_elems(N as u32);
                            let mut launch = stream.launch_builder(&add);
                            // SAFETY: the arguments are those of the kernel.
                            unsafe { launch.arg(&mut p).arg(&by).arg(&n).launch(config) }.unwrap();
                        }
                        assert_eq!(stream.clone_dtoh(&p).unwrap(), vec![10 * by; N]);
                    });
                }
            });
        },
    );
}
