//! The loop: enqueue, read, stop.

mod adaptive;
mod guard;
mod options;
mod stats;
mod text;

pub use adaptive::{AdaptiveGamma, GAMMAS, expected_tokens};
pub use guard::{UnknownGuard, default_guard, guard};
pub use options::{DraftOptions, Gamma, StepError, UnknownGamma};
pub use stats::Stats;
pub use text::{TextOutput, Trimmed};

use crate::device::{Committed, Device, DeviceError, Finish, Request, Step, StepReport};
use std::ops::ControlFlow;
use std::time::Instant;

/// Steps in flight: the device works on one while the host looks at the one before.
const IN_FLIGHT: usize = 2;

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The device reached a stop token or a limit.
    Device(Finish),
    /// The caller had enough: a stop string, Ctrl-C.
    Caller,
}

/// A finished generation.
#[derive(Clone, Debug)]
pub struct Generation {
    /// What was added to the prompt, a stop token included.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub ended: Ended,
    /// What it took.
    pub stats: Stats,
}

/// What decides the steps of a generation: a [`Step`] that is repeated, or [`AdaptiveGamma`].
pub trait Steps {
    /// A sequence begins.
    fn start(&mut self) {}

    /// The step to enqueue next. Steps before it may be in flight still.
    fn next(&mut self) -> &Step;

    /// What a step did, in the order of the steps.
    fn done(&mut self, _report: &StepReport) {}
}

impl Steps for Step {
    fn next(&mut self) -> &Step {
        self
    }
}

impl Steps for &Step {
    fn next(&mut self) -> &Step {
        self
    }
}

impl<S: Steps + ?Sized> Steps for &mut S {
    fn start(&mut self) {
        (**self).start();
    }

    fn next(&mut self) -> &Step {
        (**self).next()
    }

    fn done(&mut self, report: &StepReport) {
        (**self).done(report);
    }
}

/// Decodes one sequence. `on_tokens` sees what each step committed, as soon as it is
/// known, and may end the sequence.
pub fn generate(
    device: &mut dyn Device,
    request: &Request,
    mut steps: impl Steps,
    mut on_tokens: impl FnMut(&[Committed]) -> ControlFlow<()>,
) -> Result<Generation, DeviceError> {
    let began = Instant::now();
    device.start(request)?;
    steps.start();
    let mut stats = Stats::new(request.prompt.len(), began.elapsed());
    let mut tokens = Vec::new();
    let mut tickets = std::collections::VecDeque::new();
    let ended = loop {
        while tickets.len() < IN_FLIGHT {
            tickets.push_back(device.enqueue(steps.next())?);
        }
        let Some(ticket) = tickets.pop_front() else {
            unreachable!("a ticket was just queued");
        };
        let report = device.read(ticket)?;
        stats.add(&report, began.elapsed());
        steps.done(&report);
        tokens.extend(report.committed.iter().map(|c| c.token));
        let flow = on_tokens(&report.committed);
        if let Some(finish) = report.finish {
            break Ended::Device(finish);
        }
        if flow.is_break() {
            break Ended::Caller;
        }
    };
    // what is still in flight does nothing after the end, or is forgotten by the next start
    if matches!(ended, Ended::Device(_)) {
        for ticket in tickets {
            device.read(ticket)?;
        }
    }
    Ok(Generation {
        tokens,
        ended,
        stats,
    })
}
