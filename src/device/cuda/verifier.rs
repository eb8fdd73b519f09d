//! The verifier alone, for an engine with a forward pass of its own: its context, its stream, its
//! logits. See kernels/verifier.cu for what is enqueued.

use super::driver::{
    Arg, Driver, Function, OLDEST_CAPABILITY, check, cooperative, function_of, launch_on, load,
    properties,
};
use super::image::IMAGES;
use super::verify::{
    Law, MAX_NODES, Policy, Sampling, Stream, THREADS, Teams, Tree, Verification, dynamic_shared,
};
use crate::device::DeviceError;
use crate::judge::{Head, Judge, Layout, Meaning};
use bytemuck::{Pod, Zeroable};
use cudarc::driver::sys;
use std::ptr::null_mut;

/// Parts that a judge's features may have: the drafter's hidden states, and the target's in two
/// places.
pub const PARTS: usize = 3;
/// [`Ask::flags`]: the children of every node were drawn from the drafter's law.
pub const SAMPLED: i32 = 1;
/// [`Ask::flags`]: every launch takes the next step's random numbers.
pub const ADVANCES: i32 = 2;
/// Sequences that one launch describes.
const ASKS: usize = 16;
/// Threads that sum the products of one of a judge's units.
const LANES: usize = 16;
/// What the parts of a workspace start at multiples of.
const ALIGNMENT: usize = 256;

/// What a sequence asks; addresses of device memory, 0 where there is nothing. See `Ask` of
/// verifier.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[allow(missing_docs)] // said in verifier.cu
pub struct Ask {
    pub tree: u64,
    pub target: u64,
    pub drafter: u64,
    pub hidden: [u64; PARTS],
    pub scores: u64,
    pub stream: u64,
    pub verdict: u64,
    pub policy: Policy,
    pub draft_sampling: Sampling,
    pub vocabulary: i32,
    pub target_stride: i32,
    pub drafter_vocabulary: i32,
    pub drafter_stride: i32,
    pub hidden_stride: [i32; PARTS],
    pub most_nodes: i32,
    pub flags: i32,
}

/// Parts of the workspace, see verifier.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct Places {
    verifications: u64,
    asked: u64,
    trees: u64,
    streams: u64,
    laws: u64,
    scores: u64,
    teams: u64,
    team_bytes: u64,
    team_count: i32,
    reserved: i32,
}

/// A judge on the device, see verifier.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct DeviceHead {
    weights: u64,
    bias: u64,
    width: [i32; PARTS],
    units: i32,
    last_bias: f32,
    is_two_layer: i32,
    is_importance: i32,
    reserved: i32,
}

const _: () = assert!(size_of::<Ask>() == 160, "as in verifier.cu");
const _: () = assert!(size_of::<Places>() == 9 * 8, "as in verifier.cu");
const _: () = assert!(size_of::<DeviceHead>() == 6 * 8, "as in verifier.cu");

/// The widths of the parts of a judge's features, in their order; 0 after the last.
///
/// # Errors
/// [`DeviceError::Judge`] where there are more than [`PARTS`].
pub fn part_widths(judge: &Judge) -> Result<[usize; PARTS], DeviceError> {
    let features = &judge.features;
    let drafter = (features.layout == Layout::DdDt).then_some(features.draft_width);
    let target = features.taps.iter().map(|_| features.target_width);
    let all: Vec<usize> = drafter.into_iter().chain(target).collect();
    let mut widths = [0; PARTS];
    match widths.get_mut(..all.len()) {
        Some(to) => to.copy_from_slice(&all),
        None => {
            return Err(DeviceError::Judge(format!(
                "the judge reads {} hidden states of a token, expected at most {PARTS}",
                all.len()
            )));
        }
    }
    Ok(widths)
}

/// The kernels of the verifier in one context, and the judge that it asks.
pub struct Verifier {
    context: sys::CUcontext,
    modules: Vec<sys::CUmodule>,
    describe: Function,
    judge: Function,
    laws: Function,
    verify: Function,
    blocks: usize,
    dynamic_shared: usize,
    head: Option<DeviceHead>,
    /// the judge's weights and biases; 0 where there is none
    memory: u64,
}

// SAFETY: handles that the driver takes from every thread in which their context is current, which
// every method asks for or sees to.
unsafe impl Send for Verifier {}
// SAFETY: no field changes between `new` and `drop`, and the driver locks what its calls share.
unsafe impl Sync for Verifier {}

/// How a workspace is divided.
struct Division {
    places: Places,
    teams: Teams,
    bytes: usize,
}

impl Verifier {
    /// Loads the kernels into the context that is current for this thread, and a judge's weights
    /// beside them: the only device memory that is allocated here. `most_blocks` bounds the
    /// multiprocessors that a verification occupies; 0 takes all.
    ///
    /// # Errors
    /// [`DeviceError::NoCuda`] where there is no driver or an older one than
    /// [`super::OLDEST_DRIVER`], no context is current, or its device has a compute capability
    /// below 8.0; [`DeviceError::Judge`] for a judge of more than [`PARTS`] parts;
    /// [`DeviceError::Cuda`] where a call failed.
    pub fn new(judge: Option<&Judge>, most_blocks: usize) -> Result<Verifier, DeviceError> {
        Driver::find()?;
        let doing = || "loading the verifier".to_owned();
        let context = current(doing)?;
        let mut device = 0;
        // SAFETY: a place for an integer.
        let code = unsafe { sys::cuCtxGetDevice(&mut device) };
        check(code, "cuCtxGetDevice", doing)?;
        // SAFETY: the device of a context exists.
        let properties = unsafe { properties(usize::try_from(device).unwrap_or(0), device) }?;
        if properties.capability < OLDEST_CAPABILITY {
            let (major, minor) = properties.capability;
            return Err(DeviceError::NoCuda(format!(
                "{} has compute capability {major}.{minor}, expected 8.0 or newer",
                properties.name
            )));
        }
        let mut modules = Modules(Vec::new());
        let files = ["verifier", "verify"];
        for file in files {
            let image = IMAGES.iter().find(|image| image.name == file);
            let image = image.ok_or_else(|| {
                DeviceError::NoCuda(format!("this build has no kernels of {file}.cu"))
            })?;
            modules.0.push(load(image)?);
        }
        let dynamic_shared = dynamic_shared(properties.shared_bytes);
        let of = |module: usize, name, shared| {
            // SAFETY: loaded above, in the context that is current.
            unsafe { function_of(modules.0[module], files[module], name, shared) }
        };
        let (describe, score) = (of(0, "describe", 0)?, of(0, "judge", 0)?);
        let laws = of(0, "laws", dynamic_shared)?;
        let verify = of(1, "verify", dynamic_shared)?;
        let all = properties.multiprocessors;
        let mut verifier = Verifier {
            context,
            modules: std::mem::take(&mut modules.0),
            describe,
            judge: score,
            laws,
            verify,
            blocks: if most_blocks == 0 {
                all
            } else {
                most_blocks.min(all)
            },
            dynamic_shared,
            head: None,
            memory: 0,
        };
        if let Some(judge) = judge {
            verifier.bring(judge)?;
        }
        Ok(verifier)
    }

    /// Brings a judge to the device; what was allocated is freed with this.
    fn bring(&mut self, judge: &Judge) -> Result<(), DeviceError> {
        let widths = part_widths(judge)?;
        let (matrix, bias, last_bias) = match &judge.head {
            Head::Linear { w, b } => (w, vec![*b], 0.0),
            Head::TwoLayer { w1, b1, w2, b2 } => (w1, [&b1[..], &w2[..]].concat(), *b2),
        };
        let all: Vec<f32> = matrix.iter().chain(&bias).copied().collect();
        let bytes: &[u8] = bytemuck::cast_slice(&all);
        let doing = || format!("bringing a judge of {} bytes to the device", bytes.len());
        // SAFETY: a place for an address, then a copy to all that was allocated there.
        unsafe {
            let code = sys::cuMemAlloc_v2(&mut self.memory, bytes.len());
            check(code, "cuMemAlloc", doing)?;
            let code = sys::cuMemcpyHtoD_v2(self.memory, bytes.as_ptr().cast(), bytes.len());
            check(code, "cuMemcpyHtoD", doing)?;
            // a copy from pageable memory may return before it has arrived
            let code = sys::cuStreamSynchronize(null_mut());
            check(code, "cuStreamSynchronize", doing)?;
        }
        self.head = Some(DeviceHead {
            weights: self.memory,
            bias: self.memory + 4 * matrix.len() as u64,
            width: widths.map(|width| width as i32),
            units: judge.head.width() as i32,
            last_bias,
            is_two_layer: i32::from(matches!(judge.head, Head::TwoLayer { .. })),
            is_importance: i32::from(judge.meaning == Meaning::Important),
            reserved: 0,
        });
        Ok(())
    }

    /// Whether it has a judge of its own.
    pub fn has_judge(&self) -> bool {
        self.head.is_some()
    }

    /// Bytes of device memory that verifications of up to `sequences` sequences of up to
    /// `vocabulary` tokens work in.
    pub fn workspace_bytes(&self, sequences: usize, vocabulary: usize) -> usize {
        let all = 1..=sequences.max(1);
        let bytes = all.map(|n| self.divide(0, n, vocabulary).bytes);
        bytes.max().unwrap_or(0)
    }

    fn divide(&self, workspace: u64, sequences: usize, vocabulary: usize) -> Division {
        let teams = Teams::of(sequences, vocabulary, self.blocks, self.dynamic_shared);
        let mut bytes = 0;
        let mut take = |size: usize| {
            let at = workspace + bytes as u64;
            bytes += size.next_multiple_of(ALIGNMENT);
            at
        };
        let places = Places {
            verifications: take(sequences * size_of::<Verification>()),
            asked: take(sequences * size_of::<Ask>()),
            trees: take(sequences * size_of::<Tree>()),
            streams: take(sequences * size_of::<Stream>()),
            laws: take(sequences * (MAX_NODES + 1) * size_of::<Law>()),
            scores: take(sequences * (MAX_NODES + 1) * size_of::<f32>()),
            teams: take(teams.teams * teams.workspace),
            team_bytes: teams.workspace as u64,
            team_count: teams.teams as i32,
            reserved: 0,
        };
        Division {
            places,
            teams,
            bytes,
        }
    }

    /// Enqueues the verification of some sequences: at most one launch for 16 of them, and three
    /// more. Nothing is allocated, copied or waited for, so that a stream that is being captured
    /// takes it. `workspace` needs no initial contents, and is free again when the launches are
    /// done.
    ///
    /// # Errors
    /// [`DeviceError::Cuda`] where another context is current, the workspace is smaller than
    /// [`Verifier::workspace_bytes`] or no multiple of 256, or a launch failed;
    /// [`DeviceError::Judge`] where a sequence asks for a judge and there is none.
    ///
    /// # Safety
    /// `stream` is one of the context's, or null. What `asks` and `workspace` name is device memory
    /// of the sizes that verifier.cu states, and lives until the launches are done, every time that
    /// they run; launches that may overlap have workspaces of their own.
    pub unsafe fn enqueue(
        &self,
        asks: &[Ask],
        workspace: u64,
        bytes: usize,
        stream: sys::CUstream,
    ) -> Result<(), DeviceError> {
        let doing = || format!("enqueuing the verification of {} sequences", asks.len());
        let refused = |said: String| DeviceError::Cuda {
            doing: doing(),
            call: "the verifier",
            said,
        };
        if asks.is_empty() {
            return Ok(());
        }
        if current(doing)? != self.context {
            return Err(refused(
                "found another context current than the one it was created in".to_owned(),
            ));
        }
        let vocabulary = asks.iter().map(|a| a.vocabulary.max(1) as usize).max();
        let division = self.divide(workspace, asks.len(), vocabulary.unwrap_or(1));
        if bytes < division.bytes || !workspace.is_multiple_of(ALIGNMENT as u64) {
            return Err(refused(format!(
                "found a workspace of {bytes} bytes at {workspace:#x}, expected {} bytes at a multiple of {ALIGNMENT}",
                division.bytes
            )));
        }
        let scored = |a: &&Ask| a.policy.rule == JUDGE && a.scores == 0;
        let most_scored = asks.iter().filter(scored).map(|a| a.most_nodes).max();
        let most_scored = usize::try_from(most_scored.unwrap_or(0)).unwrap_or(0);
        if most_scored > 0 && self.head.is_none() {
            return Err(DeviceError::Judge(
                "rule 'judge': found neither scores nor a judge in the verifier".to_owned(),
            ));
        }
        let places = Arg::Bytes(bytemuck::bytes_of(&division.places));
        for (i, some) in asks.chunks(ASKS).enumerate() {
            let mut all = [Ask::zeroed(); ASKS];
            all[..some.len()].copy_from_slice(some);
            let args = [
                Arg::Bytes(bytemuck::cast_slice(&all)),
                places,
                Arg::I32((i * ASKS) as i32),
            ];
            let grid = [some.len(), 1, 1];
            // SAFETY: the parameters of `describe`; the caller vouches for what they name.
            unsafe { launch_on(stream, self.describe, grid, THREADS, 0, &args, &mut [])? };
        }
        if let Some(head) = self.head.as_ref().filter(|_| most_scored > 0) {
            let args = [places, Arg::Bytes(bytemuck::bytes_of(head))];
            let block = (LANES * head.units as usize)
                .next_multiple_of(32)
                .min(THREADS);
            let grid = [most_scored, asks.len(), 1];
            // SAFETY: as above, of `judge`.
            unsafe { launch_on(stream, self.judge, grid, block, 0, &args, &mut [])? };
        }
        let teams = division.teams;
        let numbers = [asks.len(), teams.size, teams.slots].map(|n| Arg::I32(n as i32));
        let [count, size, slots] = numbers;
        let grid = [teams.blocks(), 1, 1];
        let together = |function, args: &[Arg<'_>]| {
            let (shared, attributes) = (teams.shared_bytes(), &mut [cooperative()]);
            // SAFETY: as above, of `laws` and `verify`.
            unsafe { launch_on(stream, function, grid, THREADS, shared, args, attributes) }
        };
        if asks.iter().any(|a| a.flags & SAMPLED != 0) {
            together(self.laws, &[places, count, size, slots])?;
        }
        together(
            self.verify,
            &[
                Arg::Ptr(division.places.verifications),
                count,
                size,
                Arg::Ptr(division.places.teams),
                Arg::Ptr(teams.workspace as u64),
                slots,
            ],
        )
    }
}

/// `Policy::JUDGE` of step.cuh.
const JUDGE: i32 = 2;

/// The context that is current for this thread.
fn current(doing: impl Fn() -> String) -> Result<sys::CUcontext, DeviceError> {
    let mut context = null_mut();
    // SAFETY: a place for a context.
    let code = unsafe { sys::cuCtxGetCurrent(&mut context) };
    check(code, "cuCtxGetCurrent", &doing)?;
    match context.is_null() {
        true => Err(DeviceError::NoCuda(format!(
            "{}: no CUDA context is current for this thread",
            doing()
        ))),
        false => Ok(context),
    }
}

/// Unloads what was loaded where loading the rest fails.
struct Modules(Vec<sys::CUmodule>);

impl Drop for Modules {
    fn drop(&mut self) {
        for &module in &self.0 {
            // SAFETY: loaded in the context that is current, unloaded once.
            let _ = unsafe { sys::cuModuleUnload(module) };
        }
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        // errors have nobody to go to; a context that is gone has taken all of it along
        // SAFETY: the handles are those that `new` got, given back once, in their context.
        unsafe {
            if sys::cuCtxPushCurrent_v2(self.context) != sys::CUresult::CUDA_SUCCESS {
                return;
            }
            if self.memory != 0 {
                let _ = sys::cuMemFree_v2(self.memory);
            }
            for &module in &self.modules {
                let _ = sys::cuModuleUnload(module);
            }
            let mut context = null_mut();
            let _ = sys::cuCtxPopCurrent_v2(&mut context);
        }
    }
}
