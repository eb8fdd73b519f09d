//! What is captured and replayed: passes whose numbers lie on the device, and what a capture needs.

use crate::common::{chain, fixture};
use crate::process::{on_softcuda, softcuda, with_driver};
use gavel::device::cuda::layout::{Best, MAX_PATH, Path, Rows};
use gavel::device::cuda::{Arg, Buffer, Event, Forward, Function, Gpu, Graph, Pinned};
use gavel::device::{DeviceError, Logits, Want};
use gavel::model::Model;
use gavel::tree::TokenTree;
use softcuda::counts::Counts;
use softcuda::report::Report;
use std::sync::Arc;
use std::sync::atomic::Ordering;

fn open() -> Arc<Gpu> {
    Gpu::open(0).expect("a device")
}

fn model(name: &str) -> Arc<Model> {
    Arc::new(Model::open(&fixture(name)).expect("a model"))
}

fn load(gpu: &Arc<Gpu>, name: &str) -> Forward {
    Forward::load(gpu, model(name), 200, None).expect("a model on the device")
}

/// Bits of the logits of a pass that the host arranges.
fn direct(forward: &mut Forward, tree: &TokenTree) -> Vec<Vec<u32>> {
    let want = Want {
        logits: Logits::All,
        ..Want::default()
    };
    let logits = forward.pass(tree, &[], &want).expect("a pass").logits;
    let rows = logits.chunks(logits.len() / tree.len());
    rows.map(|row| row.iter().map(|z| z.to_bits()).collect())
        .collect()
}

/// A forward pass that was captured once, and its commit.
struct Replayed {
    forward: Forward,
    pass: Graph,
    commit: Graph,
}

impl Replayed {
    fn new(gpu: &Arc<Gpu>, forward: Forward, most_rows: usize) -> Replayed {
        let pass = gpu.capture(|| forward.enqueue_pass(most_rows, true, None, 0));
        let commit = gpu.capture(|| forward.enqueue_commit());
        Replayed {
            forward,
            pass: pass.expect("a captured pass"),
            commit: commit.expect("a captured commit"),
        }
    }

    /// Replays the pass for these rows.
    fn pass(&self, rows: &Rows, paths: &[i32]) {
        self.forward.rows().write(0, &[*rows]).expect("a copy");
        if !paths.is_empty() {
            self.forward.paths().write(0, paths).expect("a copy");
        }
        // SAFETY: the model lives.
        unsafe { self.pass.launch() }.expect("a launch");
    }

    /// Bits of the logits in a row of the buffer.
    fn logits(&self, row: usize) -> Vec<u32> {
        let stride = self.forward.logits_stride();
        let logits = self.forward.logits().read::<u32>(4 * row * stride, stride);
        let mut logits = logits.expect("a copy");
        logits.truncate(self.forward.model.config.vocab_size);
        logits
    }

    fn commit(&self, base: usize, slots: &[usize]) {
        let mut path = Path {
            nodes: slots.len() as i32,
            base: base as i32,
            slot: [0; MAX_PATH],
        };
        for (to, slot) in path.slot.iter_mut().zip(slots) {
            *to = *slot as i32;
        }
        self.forward.path().write(0, &[path]).expect("a copy");
        // SAFETY: the model lives.
        unsafe { self.commit.launch() }.expect("a launch");
    }

    fn cache(&self) -> Vec<u8> {
        let cache = self.forward.cache();
        cache.read(0, cache.bytes()).expect("a copy")
    }
}

/// A root at position `len` with two children: its rows and paths.
fn fork(tokens: [i32; 3], len: i32) -> (Rows, Vec<i32>) {
    let mut rows = chain(&tokens, len as usize);
    rows.shared = len + 1;
    rows.position[2] = len + 1;
    rows.path_at[2] = 1;
    (rows, vec![len + 1, len + 2])
}

#[test]
fn a_replayed_pass_has_the_bits_of_one_that_the_host_arranges() {
    let test = "graph::a_replayed_pass_has_the_bits_of_one_that_the_host_arranges";
    on_softcuda(test, &[], || {
        for name in ["llama-odd", "qwen3-qknorm"] {
            let gpu = open();
            let mut forward = load(&gpu, name);
            let (model, weights) = (forward.model.clone(), forward.weights().clone());
            let other = Forward::load(&gpu, model, 200, Some(weights)).expect("its weights");
            let replayed = Replayed::new(&gpu, other, 16);
            let mut len = 0;
            for tokens in [&[3, 9, 11, 4, 8][..], &[7], &[1, 2, 3, 4, 5, 6, 7, 8, 9]] {
                let ids: Vec<u32> = tokens.iter().map(|&t: &i32| t as u32).collect();
                let expected = direct(&mut forward, &TokenTree::chain(&ids));
                forward
                    .commit(&(0..ids.len()).collect::<Vec<_>>())
                    .expect("a commit");
                replayed.pass(&chain(tokens, len), &[]);
                for (row, expected) in expected.iter().enumerate() {
                    assert!(replayed.logits(row) == *expected, "{name}: row {row}");
                }
                len += tokens.len();
                // what comes after the end of a sequence is launched anyway
                let before = replayed.cache();
                replayed.pass(&chain(&[], len), &[]);
                replayed.commit(len, &[]);
                assert!(
                    replayed.logits(0) == expected[0],
                    "{name}: no rows, but logits"
                );
                assert!(replayed.cache() == before, "{name}: no rows, but keys");
            }
            let tree = TokenTree::new(vec![5, 6, 7], vec![-1, 0, 0]).expect("a tree");
            let expected = direct(&mut forward, &tree);
            let (mut rows, paths) = fork([5, 6, 7], len as i32);
            // behind the logits of other levels
            rows.logits_at = 20;
            replayed.pass(&rows, &paths);
            for (row, expected) in expected.iter().enumerate() {
                assert!(replayed.logits(20 + row) == *expected, "{name}: node {row}");
            }
            forward.commit(&[0, 2]).expect("a commit");
            replayed.commit(len, &[len, len + 2]);
            len += 2;
            // a drafter that catches up
            let expected = direct(&mut forward, &TokenTree::chain(&[8, 9]));
            let mut rows = chain(&[8, 9], len);
            rows.logits_at = -1;
            replayed.pass(&rows, &[]);
            assert!(replayed.logits(0) == expected[1], "{name}: the second row");
            let parts = replayed.forward.best_parts();
            let bests: Vec<Best> = replayed.forward.bests().read(0, parts).expect("a copy");
            let best = bests.iter().map(|b| b.value).fold(f32::MIN, f32::max);
            let expected = expected[1].iter().map(|&z| f32::from_bits(z));
            assert_eq!(best, expected.fold(f32::MIN, f32::max), "{name}");
        }
    });
}

#[test]
fn a_model_shares_the_weights_of_a_deeper_one_and_of_no_other() {
    let test = "graph::a_model_shares_the_weights_of_a_deeper_one_and_of_no_other";
    on_softcuda(test, &[], || {
        let gpu = open();
        let deep = model("llama-odd");
        let shallow = Arc::new(deep.truncated(1).expect("fewer layers"));
        let target = Forward::load(&gpu, deep, 200, None).expect("the target");
        let weights = target.weights().clone();
        let free = gpu.free_bytes().expect("an answer");
        let mut shares = Forward::load(&gpu, shallow.clone(), 200, Some(weights.clone()))
            .expect("a drafter that shares");
        assert_eq!(shares.need.weights, 0);
        assert!(free - gpu.free_bytes().expect("an answer") < shares.need.total() + (1 << 20));
        let mut alone = Forward::load(&gpu, shallow, 200, None).expect("a drafter of its own");
        assert!(alone.need.weights > 0);
        let tree = TokenTree::chain(&[1, 2, 3, 4]);
        assert!(direct(&mut shares, &tree) == direct(&mut alone, &tree));
        let other = Forward::load(&gpu, model("llama-mha"), 200, Some(weights));
        match other.map(|_| ()) {
            Err(DeviceError::Draft(said)) => assert!(said.contains("cannot share"), "{said}"),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_pass_of_no_rows_reads_no_activations_and_writes_nothing() {
    let test = "graph::a_pass_of_no_rows_reads_no_activations_and_writes_nothing";
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().to_str().expect("a path in UTF-8").to_owned();
    const MOST: [usize; 4] = [1, 40, 64, 200];
    let body = || {
        let gpu = open();
        for most_rows in MOST {
            let replayed = Replayed::new(&gpu, load(&gpu, "qwen2-bias"), most_rows);
            replayed.pass(&chain(&[], 5), &[]);
            replayed.commit(5, &[]);
            gpu.wait(|| "passes of no rows".to_owned()).expect("passes");
        }
    };
    let env = [("SOFTCUDA_REPORT", &*path)];
    if with_driver(test, |_| softcuda(), &env, body).is_none() {
        return;
    }
    let text = std::fs::read_to_string(&path).expect("a report");
    let report: Report = serde_json::from_str(&text).expect("a report");
    let of_pass = |launch: &&Counts| !launch.kernel.starts_with("pack_");
    let launches: Vec<&Counts> = report.launches.iter().filter(of_pass).collect();
    let layers = model("qwen2-bias").config.layers;
    // embedding, layers, head, commit
    assert_eq!(launches.len(), MOST.len() * (5 * layers + 3));
    for launch in launches {
        for (label, traffic) in &launch.memory {
            assert_eq!(traffic.bytes_written, 0, "{}: {label}", launch.kernel);
            // weights are under way before a block knows that there is nothing to do
            let said = ["rows", "path", "weights"].contains(&&**label);
            assert!(
                said || traffic.bytes_read == 0,
                "{}: {label}",
                launch.kernel
            );
        }
    }
}

#[test]
fn what_fails_while_it_is_captured_leaves_the_stream_as_it_was() {
    let test = "graph::what_fails_while_it_is_captured_leaves_the_stream_as_it_was";
    let ended = on_softcuda(test, &[], || {
        let gpu = open();
        let mut forward = load(&gpu, "llama-odd");
        let tree = TokenTree::chain(&[1, 2, 3]);
        let expected = direct(&mut forward, &tree);
        let refused = |enqueue: &dyn Fn() -> Result<(), DeviceError>| {
            let error = gpu.capture(enqueue).map(|_| ()).expect_err("a refusal");
            error.to_string()
        };
        // a copy that waits
        let waits = refused(&|| {
            forward.enqueue_pass(8, true, None, 0)?;
            forward.rows().read::<i32>(0, 1).map(|_| ())
        });
        assert!(
            waits.contains("from rows") && waits.contains("CAPTURE"),
            "{waits}"
        );
        // the same where the error is swallowed
        let swallowed = refused(&|| {
            let _ = forward.rows().read::<i32>(0, 1);
            Ok(())
        });
        assert!(swallowed.contains("cuStreamEndCapture"), "{swallowed}");
        let own = refused(&|| Err(DeviceError::NotStarted));
        assert_eq!(own, DeviceError::NotStarted.to_string());
        assert!(direct(&mut forward, &tree) == expected);
        let replayed = Replayed::new(&gpu, forward, 8);
        replayed.pass(&chain(&[1, 2, 3], 0), &[]);
        assert!(replayed.logits(2) == expected[2]);
    });
    if let Some(said) = ended {
        assert!(!said.contains("leak"), "{said}");
    }
}

/// Packs sixteen rows of 32 ones: the kernel and its arguments.
fn pack(gpu: &Gpu) -> Function {
    gpu.function("pack", "pack_f16_rows", 0).expect("a kernel")
}

#[test]
fn a_kernel_writes_what_the_host_reads_where_it_lies() {
    let test = "graph::a_kernel_writes_what_the_host_reads_where_it_lies";
    let ended = on_softcuda(test, &[], || {
        let gpu = open();
        let ones = Buffer::of(&gpu, "ones", &[0x3c00u16; 512]).expect("memory");
        let ring = Pinned::new(&gpu, "ring", 1024).expect("pinned memory");
        let passed = Event::new(&gpu, false).expect("an event");
        let [first, last] = [(); 2].map(|()| Event::new(&gpu, true).expect("an event"));
        let args = [
            Arg::Ptr(ones.address()),
            Arg::Ptr(ring.address()),
            Arg::I32(1),
            Arg::I32(1),
        ];
        let what = || "writing to the ring".to_owned();
        let graph = gpu.capture(|| {
            first.record_in_graph(what)?;
            // SAFETY: the kernel's parameters; both places hold 1,024 bytes.
            unsafe { gpu.launch_together(pack(&gpu), [1, 1, 1], 256, 0, &args) }?;
            last.record_in_graph(what)
        });
        let graph = graph.expect("a graph");
        let words = ring.words();
        assert_eq!(words.len(), 256);
        for _ in 0..2 {
            assert!(words.iter().all(|word| word.load(Ordering::Acquire) == 0));
            // SAFETY: both places live.
            unsafe { graph.launch() }.expect("a launch");
            passed.record(what).expect("a mark");
            passed.wait(what).expect("an end");
            assert!(passed.done().expect("an answer"));
            let all = words.iter().map(|word| word.load(Ordering::Acquire));
            assert!(all.clone().all(|word| word == 0x3c00_3c00));
            last.wait(what).expect("an end");
            assert!(last.since(&first).is_ok());
            assert!(passed.since(&first).is_err(), "an event that is not timed");
            words
                .iter()
                .for_each(|word| word.store(0, Ordering::Release));
        }
    });
    if let Some(said) = ended {
        assert!(!said.contains("leak"), "{said}");
    }
}

#[test]
fn as_many_blocks_run_together_as_the_device_holds() {
    let test = "graph::as_many_blocks_run_together_as_the_device_holds";
    on_softcuda(test, &[], || {
        let gpu = open();
        let multiprocessors = gpu.properties().multiprocessors;
        let shared = gpu.properties().shared_bytes;
        let kernel = gpu
            .function("pack", "pack_f16_rows", shared)
            .expect("a kernel");
        let most = gpu.resident_blocks(kernel, 256, 0).expect("an answer");
        assert!((2..=8).contains(&most), "{most}");
        assert_eq!(
            gpu.resident_blocks(kernel, 256, shared).expect("an answer"),
            1
        );
        let ones = Buffer::of(&gpu, "ones", &[0x3c00u16; 512]).expect("memory");
        let packed = Buffer::zeroed(&gpu, "packed", 1024).expect("memory");
        let args = [
            Arg::Ptr(ones.address()),
            Arg::Ptr(packed.address()),
            Arg::I32(1),
            Arg::I32(1),
        ];
        // SAFETY: the kernel's parameters; blocks beyond the first have nothing to do.
        let launch = |blocks, shared| unsafe {
            gpu.launch_together(kernel, [blocks, 1, 1], 256, shared, &args)
        };
        launch(multiprocessors * most, 0).expect("a launch");
        launch(multiprocessors, shared).expect("a launch");
        assert_eq!(packed.read::<u16>(0, 512).expect("a copy"), [0x3c00; 512]);
        for (blocks, shared) in [
            (multiprocessors * most + 1, 0),
            (multiprocessors + 1, shared),
        ] {
            let error = launch(blocks, shared)
                .expect_err("too many blocks")
                .to_string();
            assert!(error.contains("COOPERATIVE_LAUNCH_TOO_LARGE"), "{error}");
            let captured = gpu.capture(|| launch(blocks, shared));
            assert!(captured.is_err());
        }
        launch(multiprocessors, 0).expect("a launch");
        gpu.wait(|| "packing".to_owned()).expect("an end");
    });
}
