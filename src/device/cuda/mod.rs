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
mod reading;
mod rows;
mod sizes;
mod step;
pub mod verifier;
pub mod verify;
mod weights;

pub use attention::{
    choose as choose_row_tiles, kernel as attention_kernel, row_tiles,
    shared_bytes as attention_shared_bytes,
};
pub use driver::{Arg, Function, Gpu, OLDEST_DRIVER, Properties};
pub use forward::{Forward, chip};
pub use graph::{Event, Graph};
pub use memory::{Buffer, Need, Pinned};
pub use plan::Plans;
pub use sizes::need;
pub use weights::{LayerWeights, Matrix, Norm, Weights};

use super::sequence::{Tickets, check_context, check_judge, check_pass, check_step};
use super::{
    Device, DeviceError, MemoryPlan, MiB, PassOutput, Reading, Request, Setup, Step, StepReport,
    Ticket, Want,
};
use crate::draft::Drafter;
use crate::tree::{MAX_ROWS, TokenTree};
use std::sync::Arc;
use step::{Drafting, Stepper};

/// Names of the embedded images, those of the files of kernels/; empty where the build had no nvcc.
pub fn images() -> impl Iterator<Item = &'static str> {
    image::IMAGES.iter().map(|image| image.name)
}

/// Positions that a draft model has; 0 where there is none.
fn draft_context(setup: &Setup) -> usize {
    let draft = setup.drafter.model();
    draft.map_or(0, |d| setup.context.min(d.config.max_positions))
}

/// Whether the draft model is the target's own first layers, which lie on the device once.
fn shares(setup: &Setup) -> bool {
    let draft = setup.drafter.model();
    draft.is_some_and(|d| d.dir == setup.target.dir)
}

/// What target, drafter and steps take of a GPU's memory.
pub fn needs(setup: &Setup, chip: plan::Chip) -> Need {
    let mut needed = need(&setup.target, setup.context + MAX_ROWS, chip, false);
    needed.workspace += step::bytes(setup.context);
    match setup.drafter.model() {
        None => needed,
        Some(draft) => {
            let positions = draft_context(setup) + MAX_ROWS;
            needed.and(need(draft, positions, chip, shares(setup)))
        }
    }
}

/// A target with its drafter on a GPU.
pub struct Cuda {
    gpu: Arc<Gpu>,
    target: Forward,
    drafting: Drafting,
    stepper: Stepper,
    context: usize,
    tickets: Tickets,
    /// Of a commit, which has nobody to tell; the next call that can fails with it.
    failed: Option<DeviceError>,
}

impl Cuda {
    /// Loads target and drafter onto GPU number `ordinal`, unless they do not fit.
    pub fn open(setup: &Setup, ordinal: usize) -> Result<Cuda, DeviceError> {
        check_context(setup)?;
        let gpu = Gpu::open(ordinal)?;
        let draft_context = draft_context(setup);
        let shares = shares(setup);
        needs(setup, chip(&gpu)).check(gpu.free_bytes()?, setup.context)?;
        let positions = setup.context + MAX_ROWS;
        let target = Forward::load(&gpu, setup.target.clone(), positions, None)?;
        let drafting = match &setup.drafter {
            Drafter::None => Drafting::None,
            Drafter::Ngram(ngram) => Drafting::Ngram(*ngram),
            Drafter::Model(model) => {
                let weights = shares.then(|| target.weights().clone());
                let positions = draft_context + MAX_ROWS;
                Drafting::Model(Box::new(Forward::load(
                    &gpu,
                    model.clone(),
                    positions,
                    weights,
                )?))
            }
        };
        Ok(Cuda {
            stepper: Stepper::new(&gpu, &target, &drafting, setup.context, draft_context)?,
            target,
            drafting,
            gpu,
            context: setup.context,
            tickets: Tickets::default(),
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

    /// Keeps an error of a call that cannot fail.
    fn note(&mut self, done: Result<(), DeviceError>) {
        if let Err(error) = done {
            self.failed.get_or_insert(error);
        }
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
        let mut need = self.target.need;
        if let Drafting::Model(draft) = &self.drafting {
            need = need.and(draft.need);
        }
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

    fn read_weights(&mut self) -> Result<Option<Reading>, DeviceError> {
        self.stepper.settle(&mut self.target)?;
        let passed = self
            .target
            .plans
            .named()
            .map(|(_, plan)| plan.weight_bytes());
        let layers = self.target.model.config.layers;
        let [of_layer @ .., head] = passed;
        let bytes = layers * of_layer.iter().sum::<usize>() + head;
        reading::read(&self.gpu, bytes).map(Some)
    }

    fn start(&mut self, request: &Request) -> Result<(), DeviceError> {
        self.tickets.forget();
        self.failed = None;
        self.stepper
            .start(request, &mut self.target, &mut self.drafting)
    }

    fn enqueue(&mut self, step: &Step) -> Result<Ticket, DeviceError> {
        let draft = match &self.drafting {
            Drafting::Model(draft) => Some(&*draft.model),
            _ => None,
        };
        check_step(step, &self.target.model, draft)?;
        self.stepper
            .enqueue(step, &mut self.target, &mut self.drafting)?;
        Ok(self.tickets.give())
    }

    fn read(&mut self, ticket: Ticket) -> Result<StepReport, DeviceError> {
        self.tickets.take(ticket)?;
        self.stepper.read(&mut self.target)
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
        self.stepper.settle(&mut self.target)?;
        let config = &self.target.model.config;
        check_pass(rows, behind, want, config, self.target.len, self.context)?;
        check_judge(want, &self.target.model)?;
        if rows.is_empty() {
            return Ok(PassOutput::default());
        }
        self.target.pass(rows, behind, want)
    }

    fn commit(&mut self, path: &[usize]) {
        let done = self
            .stepper
            .settle(&mut self.target)
            .and_then(|()| self.target.commit(path));
        self.note(done);
    }

    fn rollback(&mut self, len: usize) {
        let settled = self.stepper.settle(&mut self.target);
        self.note(settled);
        self.target.len = self.target.len.min(len);
    }

    fn committed(&self) -> usize {
        self.target.len
    }
}
