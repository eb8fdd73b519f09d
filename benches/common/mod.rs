//! What several suites share.
#![allow(dead_code)] // each suite uses its own part

#[path = "../../tests/cuda/widths.rs"]
pub mod widths;

use criterion::Bencher;
use gavel::device::{Device, Place, Request, Setup, Step, StepReport, Want};
use gavel::draft::Drafter;
use gavel::model::Model;
use gavel::tree::{Shape, TokenTree};
use gavel::verify::{Policy, Rule, Sampling};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A folder below models/, or what to do about it.
pub fn models(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("models")
        .join(name);
    assert!(
        dir.is_dir(),
        "{} is missing: run `make smollm2`",
        dir.display()
    );
    dir
}

pub fn open(dir: &Path) -> Arc<Model> {
    Arc::new(Model::open(dir).expect("a readable model"))
}

pub fn smollm2() -> Arc<Model> {
    open(&models("smollm2-135m"))
}

pub fn device(target: &Arc<Model>, context: usize) -> Box<dyn Device> {
    with_drafter(target, Drafter::None, context)
}

/// The device that `GAVEL_BENCH_DEVICE` names, as `--device` does: `cpu`, which is the default, `cuda`
/// or `cuda:I`.
pub fn with_drafter(target: &Arc<Model>, drafter: Drafter, context: usize) -> Box<dyn Device> {
    let setup = Setup {
        target: target.clone(),
        drafter,
        context,
        threads: 0,
    };
    let named = std::env::var("GAVEL_BENCH_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    let place: Place = named
        .parse()
        .unwrap_or_else(|e| panic!("GAVEL_BENCH_DEVICE={named}: {e}"));
    place
        .open(&setup)
        .unwrap_or_else(|error| panic!("{named}: {error}"))
}

/// Times passes by the device's own clock.
pub fn pass(b: &mut Bencher<'_>, device: &mut dyn Device, tree: &TokenTree, want: &Want) {
    b.iter_custom(|times| {
        sums(times, || {
            let output = device.pass(tree, want).expect("a pass");
            black_box(output).time
        })
    });
}

/// A model of random weights; its files are gone with it.
pub struct Made {
    pub model: Arc<Model>,
    _folder: tempfile::TempDir,
}

/// A model of one layer as thin as it may be, and what `change` makes wide.
pub fn made(change: impl FnOnce(&mut widths::Widths)) -> Made {
    let mut widths = widths::Widths {
        name: "made",
        layers: 1,
        hidden: 64,
        inner: 64,
        heads: 1,
        kv_heads: 1,
        head_dim: 64,
        vocabulary: 64,
        tied: false,
        ..widths::LLAMA_1B
    };
    change(&mut widths);
    let folder = tempfile::tempdir().expect("a folder");
    widths.write(folder.path(), widths::Fill::Random);
    Made {
        model: open(folder.path()),
        _folder: folder,
    }
}

/// Greedy chains are sampled, greedy trees take the best children.
pub fn greedy(shape: Shape, rule: Rule) -> Step {
    Step::new(shape, Policy::new(Sampling::GREEDY, rule))
}

/// A sequence that is started anew whenever it ends, so that steps never run out.
pub struct Endless<'a> {
    device: &'a mut dyn Device,
    request: Request,
    running: bool,
}

impl<'a> Endless<'a> {
    pub fn new(device: &'a mut dyn Device, prompt: Vec<u32>, max_tokens: usize) -> Endless<'a> {
        Endless {
            device,
            request: Request {
                prompt,
                max_tokens,
                stop_tokens: Vec::new(),
                seed: 0,
                sequence: 0,
            },
            running: false,
        }
    }

    /// The next step's report. The first step of a sequence, in which a drafter reads the prompt,
    /// is taken beforehand.
    pub fn step(&mut self, step: &Step) -> StepReport {
        if !self.running {
            self.device
                .start(&self.request)
                .expect("a prompt that fits");
            let ticket = self.device.enqueue(step).expect("a step");
            self.device.read(ticket).expect("a step");
        }
        let ticket = self.device.enqueue(step).expect("a step");
        let report = self.device.read(ticket).expect("a step");
        self.running = report.finish.is_none();
        report
    }
}

/// The sum of so many times: what criterion wants of a device that times itself.
pub fn sums(times: u64, mut one: impl FnMut() -> Duration) -> Duration {
    (0..times).map(|_| one()).sum()
}
