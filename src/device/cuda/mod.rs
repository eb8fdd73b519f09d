//! The CUDA device: hand-written kernels, driver API only.
//!
//! The kernels are in kernels/, compiled and embedded by build.rs ([`images`] says of which files).
//! [`Gpu`] is a device with its context, stream and kernels; [`Buffer`] is memory on it.

mod attention;
mod driver;
mod forward;
mod graph;
mod image;
mod judge;
pub mod layout;
pub mod linear;
mod memory;
pub mod plan;
mod sizes;
pub mod verify;
mod weights;

pub use attention::{
    kernel as attention_kernel, row_warps, shared_bytes as attention_shared_bytes,
};
pub use driver::{Arg, Function, Gpu, OLDEST_DRIVER, Properties};
pub use forward::{Forward, chip};
pub use graph::{Event, Graph};
pub use memory::{Buffer, Need, Pinned};
pub use plan::Plans;
pub use sizes::{STEP_ROWS, need};
pub use weights::{LayerWeights, Matrix, Weights};

use super::sequence::{
    Queue, Sequence, check_context, check_judge, check_pass, check_prompt, rooted,
};
use super::{
    Device, DeviceError, Logits, MemoryPlan, MiB, PassOutput, Request, Setup, Step, StepReport,
    StepTimes, Ticket, Want,
};
use crate::draft::Drafter;
use crate::tree::{MAX_ROWS, TokenTree};
use crate::verify::{Inputs, Philox, Rows, verify};
use std::sync::Arc;
use std::time::Instant;

/// Names of the embedded images, those of the files of kernels/; empty where the build had no nvcc.
pub fn images() -> impl Iterator<Item = &'static str> {
    image::IMAGES.iter().map(|image| image.name)
}

/// A target on a GPU. It decodes plainly: nothing drafts on this device yet.
pub struct Cuda {
    gpu: Arc<Gpu>,
    target: Forward,
    context: usize,
    sequence: Option<Sequence>,
    queue: Queue,
    /// Of a commit, which has nobody to tell; the next call that can fails with it.
    failed: Option<DeviceError>,
}

impl Cuda {
    /// Loads the target onto GPU number `ordinal`, unless it does not fit.
    pub fn open(setup: &Setup, ordinal: usize) -> Result<Cuda, DeviceError> {
        check_context(setup)?;
        if !matches!(setup.drafter, Drafter::None) {
            return Err(DeviceError::Draft(
                "drafting on the CUDA device is not there yet, it decodes plainly; use --draft none or --device cpu"
                    .to_owned(),
            ));
        }
        let gpu = Gpu::open(ordinal)?;
        let positions = setup.context + MAX_ROWS;
        need(&setup.target, positions, chip(&gpu), false)
            .check(gpu.free_bytes()?, setup.context)?;
        Ok(Cuda {
            target: Forward::load(&gpu, setup.target.clone(), positions, None)?,
            gpu,
            context: setup.context,
            sequence: None,
            queue: Queue::default(),
            failed: None,
        })
    }

    /// How each matrix of the target is cut.
    pub fn plans(&self) -> Plans {
        self.target.plans
    }

    /// What the target takes of the GPU's memory.
    pub fn need(&self) -> Need {
        self.target.need
    }

    fn vocab_size(&self) -> usize {
        self.target.model.config.vocab_size
    }

    fn commit_rows(&mut self, path: &[usize]) {
        if let Err(error) = self.target.commit(path) {
            self.failed.get_or_insert(error);
        }
    }

    fn step(&mut self, step: &Step) -> Result<StepReport, DeviceError> {
        let Some(sequence) = &self.sequence else {
            return Err(DeviceError::NotStarted);
        };
        if sequence.finish.is_some() {
            return Ok(StepReport {
                finish: sequence.finish,
                ..StepReport::default()
            });
        }
        let request = &sequence.request;
        let mut philox = Philox::new(request.seed, request.sequence).at_step(sequence.step);
        let began = Instant::now();
        let tree = TokenTree::default();
        let rows = rooted(sequence.tokens[sequence.tokens.len() - 1], &tree);
        let want = Want {
            logits: Logits::All,
            ..Want::default()
        };
        let pass = self.pass(&rows, &want)?;
        let passed = Instant::now();
        let target =
            Rows::new(&pass.logits, self.vocab_size()).expect("the pass returns whole rows");
        let inputs = Inputs {
            tree: &tree,
            target,
            q: None,
            r: None,
            scores: None,
        };
        let verdict = verify::<f32, _>(&inputs, &step.policy, &mut philox)?;
        self.commit_rows(&[0]);
        let context = self.context;
        let sequence = self.sequence.as_mut().ok_or(DeviceError::NotStarted)?;
        Ok(StepReport {
            committed: sequence.take_in(
                &tree,
                &verdict,
                step.log_probabilities.then_some(target),
                context,
            ),
            finish: sequence.finish,
            times: StepTimes {
                target: passed - began,
                verify: passed.elapsed(),
                ..StepTimes::default()
            },
            ..StepReport::default()
        })
    }
}

impl Device for Cuda {
    fn describe(&self) -> String {
        let p = self.gpu.properties();
        let (major, minor) = p.capability;
        format!(
            "cuda:{}, {}, compute capability {major}.{minor}, {} multiprocessors",
            p.ordinal, p.name, p.multiprocessors
        )
    }

    fn memory(&self) -> MemoryPlan {
        let need = self.target.need;
        MemoryPlan {
            weights: need.weights,
            kv: need.kv,
        }
    }

    fn details(&self) -> Vec<(String, String)> {
        let chip = chip(&self.gpu);
        let mut details = vec![(
            "workspace".to_owned(),
            MiB(self.target.need.workspace).to_string(),
        )];
        if let Ok(free) = self.gpu.free_bytes() {
            details.push(("free".to_owned(), MiB(free).to_string()));
        }
        for (name, plan) in self.target.plans.named() {
            let cut = format!(
                "{} x {} tiles in {} blocks of {} x {} warps, {:.0} KiB under way a multiprocessor, {:.1} % of the time uneven",
                plan.row_tiles,
                2 * plan.pairs,
                plan.workers,
                plan.block_tiles,
                plan.warps_k,
                plan.bytes_in_flight(chip) as f64 / 1024.0,
                100.0 * plan.tail_waste(chip),
            );
            details.push((name.to_owned(), cut));
        }
        details
    }

    fn start(&mut self, request: &Request) -> Result<(), DeviceError> {
        self.sequence = None;
        self.queue.clear();
        self.failed = None;
        let config = &self.target.model.config;
        let before = check_prompt(&request.prompt, config, self.context)?;
        self.target.len = 0;
        super::prefill(self, before, &Want::default())?;
        self.sequence = Some(Sequence::new(request));
        Ok(())
    }

    fn enqueue(&mut self, step: &Step) -> Result<Ticket, DeviceError> {
        Ok(self.queue.push(step))
    }

    fn read(&mut self, ticket: Ticket) -> Result<StepReport, DeviceError> {
        let step = self.queue.pop(ticket)?;
        self.step(&step)
    }

    fn pass_behind(
        &mut self,
        rows: &TokenTree,
        behind: &[usize],
        want: &Want,
    ) -> Result<PassOutput, DeviceError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let config = &self.target.model.config;
        check_pass(rows, behind, want, config, self.target.len, self.context)?;
        check_judge(want, &self.target.model)?;
        if rows.is_empty() {
            return Ok(PassOutput::default());
        }
        self.target.pass(rows, behind, want)
    }

    fn commit(&mut self, path: &[usize]) {
        self.commit_rows(path);
    }

    fn rollback(&mut self, len: usize) {
        self.target.len = self.target.len.min(len);
    }

    fn committed(&self) -> usize {
        self.target.len
    }
}
