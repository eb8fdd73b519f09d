//! A software device with the kernels of one file of kernels/.

use bytemuck::{Pod, Zeroable};
use gavel::device::cuda::layout::{GROUP, PAIR, Rows, TILE, activation_bytes, pairs};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use softcuda::counts::Counts;
use softcuda::device::Model;
use softcuda::exec::{Launch, Options, launch};
use softcuda::memory::Memory;
use softcuda::ptx::Module;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Levels of PTX that are executed: compute_80 and compute_90.
pub const LEVELS: [u32; 2] = [80, 90];
/// Orders of execution that each case is run in.
pub const SEEDS: u64 = 20;
/// Rows of a pass, below, at and above the edges of groups and tiles.
pub const ROWS: [usize; 8] = [1, 2, 7, 8, 9, 33, 64, 256];

/// Checkpoints of tests/fixtures: every attention layout, biases, QK-norm, tied and untied heads.
pub const FIXTURES: [&str; 5] = [
    "llama-mha",
    "llama-odd",
    "llama3-rope",
    "qwen2-bias",
    "qwen3-qknorm",
];

/// The folder of a checkpoint.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// Writes a copy of a checkpoint of tests/fixtures into `folder`: `edit` is given each tensor's name
/// and its values, row major, and the copy is in bf16 as the checkpoint is.
pub fn edited_fixture(name: &str, folder: &Path, edit: impl Fn(&str, &mut [f32])) {
    let from = fixture(name);
    for name in ["config.json", "generation_config.json"] {
        std::fs::copy(from.join(name), folder.join(name)).expect("a copy");
    }
    let bytes = std::fs::read(from.join("model.safetensors")).expect("weights");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let edited = tensors.tensors().into_iter().map(|(name, tensor)| {
        assert_eq!(tensor.dtype(), Dtype::BF16, "{name}");
        let values = tensor.data().as_chunks().0.iter();
        let mut values: Vec<f32> = values
            .map(|&two| bf16::from_le_bytes(two).to_f32())
            .collect();
        edit(&name, &mut values);
        let data = values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes());
        let data: Vec<u8> = data.collect();
        (name, tensor.shape().to_vec(), data)
    });
    let edited: Vec<_> = edited.collect();
    let views = edited.iter().map(|(name, shape, data)| {
        let view = TensorView::new(Dtype::BF16, shape.clone(), data).expect("a tensor");
        (name.as_str(), view)
    });
    let file = safetensors::serialize(views, None).expect("a file");
    std::fs::write(folder.join("model.safetensors"), file).expect("a file");
}

/// What build.rs keeps beside the images.
pub fn built(name: &str) -> String {
    let path = Path::new(env!("OUT_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!(
            "{}: {error}: these tests need a build with nvcc for architectures 80 and 90",
            path.display()
        )
    })
}

/// What ptxas said of the kernels of a file, for one architecture.
pub fn resources(file: &str, arch: u32) -> String {
    let all = built(&format!("{file}.resources"));
    let mut ours = false;
    let of_arch = all.lines().filter(|line| {
        if line.contains("Compiling entry function") {
            ours = line.contains(&format!("'sm_{arch}'"));
        }
        ours
    });
    of_arch.flat_map(|line| [line, "\n"]).collect()
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Arg<'a> {
    Bytes(&'a [u8]),
    Ptr(u64),
    I32(i32),
    F32(f32),
}

/// A device with memory of its own.
pub struct Device {
    pub model: &'static Model,
    pub memory: Memory,
    pub options: Options,
    pub module: Module,
}

impl Device {
    /// The small device that executes the PTX of kernels/`file`.cu for compute_`level`.
    pub fn new(file: &str, level: u32, seed: u64) -> Device {
        Device::named("tiny", file, level, seed)
    }

    /// The device that softcuda calls `model`.
    pub fn named(model: &str, file: &str, level: u32, seed: u64) -> Device {
        let model = Model::named(model).expect("a model");
        let memory = Memory::new(model.memory_bytes);
        let ptx = built(&format!("{file}.compute_{level}.ptx"));
        let resources = resources(file, level);
        let module = match Module::load(&ptx, model, &memory, Some(&resources)) {
            Ok(module) => module,
            Err(error) => panic!("{file}, compute_{level}: {error} at line {}", error.line),
        };
        Device {
            model,
            memory,
            options: Options {
                seed,
                ..Options::default()
            },
            module,
        }
    }

    /// An allocation that holds `data`.
    pub fn upload<T: Pod>(&self, label: &str, data: &[T]) -> u64 {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        let address = self.empty(label, bytes.len());
        self.memory.write(address, bytes).expect("a write");
        address
    }

    /// An allocation that nothing was written to.
    pub fn empty(&self, label: &str, bytes: usize) -> u64 {
        let address = self.memory.alloc(bytes.max(1) as u64, 256).expect("memory");
        self.memory.label(address, label).expect("a label");
        address
    }

    /// What an allocation holds.
    pub fn read<T: Pod>(&self, address: u64, count: usize) -> Vec<T> {
        let mut data = vec![T::zeroed(); count];
        let bytes = bytemuck::cast_slice_mut(&mut data);
        self.memory.read(address, bytes).expect("a read");
        data
    }

    /// A grid of `kernel`, for [`launch`].
    pub fn grid(
        &self,
        kernel: &str,
        grid: [usize; 3],
        block: usize,
        dynamic_shared: usize,
        args: &[Arg<'_>],
    ) -> Launch {
        let kernel = self.module.kernel(kernel).expect("the kernel");
        assert_eq!(kernel.params.len(), args.len(), "of {}", kernel.name);
        let mut params = vec![0; kernel.param_bytes as usize];
        for (place, arg) in kernel.params.iter().zip(args) {
            let bytes = match *arg {
                Arg::Bytes(v) => v.to_vec(),
                Arg::Ptr(v) => v.to_le_bytes().to_vec(),
                Arg::I32(v) => v.to_le_bytes().to_vec(),
                Arg::F32(v) => v.to_le_bytes().to_vec(),
            };
            assert_eq!(bytes.len(), place.bytes as usize, "of {}", place.name);
            params[place.offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        Launch {
            kernel: Arc::clone(kernel),
            grid: grid.map(|n| n as u32),
            block: [block as u32, 1, 1],
            dynamic_shared: dynamic_shared as u32,
            dynamic_shared_limit: dynamic_shared as u32,
            params,
            cooperative: false,
            programmatic: false,
            concurrent: false,
            transfers: Vec::new(),
        }
    }

    /// Runs one grid: no violation, no bank conflict.
    pub fn run(&self, grid: Launch) -> Counts {
        let run = launch(&self.memory, self.model, &self.options, &[grid]);
        let counts = match run {
            Ok(mut counts) => counts.remove(0),
            Err(violation) => panic!("seed {}: {violation}", self.options.seed),
        };
        assert_eq!(counts.shared_conflicts, 0, "{}", counts.kernel);
        counts
    }
}

/// Checks the traffic to one allocation: bytes read and written, every sector touched once.
#[track_caller]
pub fn moved_once(counts: &Counts, label: &str, read: usize, written: usize) {
    let traffic = &counts.memory[label];
    let found = (traffic.bytes_read, traffic.bytes_written);
    assert_eq!(found, (read as u64, written as u64), "bytes of {label}");
    let sectors = ((read + written) as u64).div_ceil(32);
    assert_eq!(traffic.sectors, sectors, "sectors of {label}");
    assert_eq!(traffic.unique_sectors, sectors, "unique sectors of {label}");
}

/// Numbers of a normal size, of both signs.
pub fn numbers(random: &mut fastrand::Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| random.f32() * 4.0 - 2.0).collect()
}

/// A pass of a chain after `base` positions.
pub fn chain(tokens: &[i32], base: usize) -> Rows {
    let mut rows = Rows::zeroed();
    rows.rows = tokens.len() as i32;
    rows.base = base as i32;
    rows.shared = rows.base + rows.rows;
    rows.token[..tokens.len()].copy_from_slice(tokens);
    for (row, position) in rows.position.iter_mut().enumerate().take(tokens.len()) {
        *position = (base + row) as i32;
    }
    rows
}

/// A matrix of rows of tiles and pairs of them, in fragment order; `element` gives f16 bits.
pub fn fragments(tiles: usize, pairs: usize, element: impl Fn(usize, usize) -> u16) -> Vec<u16> {
    let mut packed = Vec::with_capacity(tiles * TILE * pairs * PAIR);
    for tile in 0..tiles {
        for k in 0..2 * pairs {
            for lane in 0..32 {
                let (g, t) = (lane / 4, lane % 4);
                for (row, column) in [
                    (g, 2 * t),
                    (g + 8, 2 * t),
                    (g, 2 * t + 8),
                    (g + 8, 2 * t + 8),
                ] {
                    let (row, column) = (tile * TILE + row, k * TILE + column);
                    packed.push(element(row, column));
                    packed.push(element(row, column + 1));
                }
            }
        }
    }
    packed
}

/// Activations `[rows, columns]` in B order; what no row has is zero.
pub fn b_order(rows: usize, columns: usize, element: impl Fn(usize, usize) -> u16) -> Vec<u16> {
    let mut all = vec![0; activation_bytes(rows, columns) / 2];
    let groups = rows.div_ceil(GROUP);
    let mut at = 0;
    for group in 0..groups {
        for pair in 0..pairs(columns) {
            for lane in 0..32 {
                let (row, t) = (group * GROUP + lane / 4, lane % 4);
                for first in [2 * t, 2 * t + 8, 2 * t + 16, 2 * t + 24] {
                    for column in [pair * PAIR + first, pair * PAIR + first + 1] {
                        if row < rows && column < columns {
                            all[at] = element(row, column);
                        }
                        at += 1;
                    }
                }
            }
        }
    }
    all
}

/// Bits of a float rounded to f16.
pub fn round(value: f32) -> u16 {
    f16::from_f32(value).to_bits()
}

/// A block's sum of one value a thread, in the order of kernels/reduce.cuh.
pub fn block_sum(of_thread: &[f32]) -> f32 {
    let mut warps = of_thread.chunks(32).map(|lanes| {
        let mut lanes = lanes.to_vec();
        for offset in [16, 8, 4, 2, 1] {
            lanes = (0..32).map(|l| lanes[l] + lanes[l ^ offset]).collect();
        }
        lanes[0]
    });
    let first = warps.next().expect("a warp");
    warps.fold(first, |sum, warp| sum + warp)
}

/// Bits, so that all floats compare.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}
