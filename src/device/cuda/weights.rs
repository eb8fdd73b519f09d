//! Weights on their way from the mapped file to the device, in fragment order.
//!
//! The host puts the rows of a matrix in packed order into one of two pinned buffers, while the
//! device copies the other to its staging buffer and packs from there. So host memory stays small,
//! whatever the model, and the file is read once.

use super::super::DeviceError;
use super::super::range::gain_scale;
use super::driver::{Arg, Function, Gpu, check};
use super::graph::Event;
use super::layout::{Order, PAIR, TILE, packed_bytes, pairs};
use super::memory::{Buffer, Pinned};
use crate::model::{Config, Dtype, Linear, Model, Tensor};
use cudarc::driver::sys;
use std::sync::Arc;

/// Bytes of each pinned buffer, where sixteen rows are not longer.
const STAGING_BYTES: usize = 8 << 20;
/// Matrices and vectors start at multiples of this many bytes.
const ALIGN: usize = 256;

/// A packed matrix on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Address of its first tile.
    pub address: u64,
    /// Which rows it holds, and in which order.
    pub order: Order,
    /// Columns, K.
    pub columns: usize,
}

impl Matrix {
    /// Rows of tiles.
    pub fn tiles(&self) -> usize {
        self.order.tiles()
    }

    /// Pairs of tiles in a row of tiles.
    pub fn pairs(&self) -> usize {
        pairs(self.columns)
    }

    /// Its bytes.
    pub fn bytes(&self) -> usize {
        packed_bytes(self.order, self.columns)
    }
}

/// The gain of a norm, as the products that follow it take it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Address of gain * scale, \[H\].
    pub gain: u64,
    /// A power of two (`gain_scale` in src/device/range.rs).
    pub scale: f32,
}

/// One layer. Vectors are addresses of f32; biases lie in packed order, one for every row of the
/// packed matrix, padding included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerWeights {
    /// The norm before attention.
    pub input_norm: Norm,
    /// q, k and v.
    pub qkv: Matrix,
    /// Their biases.
    pub qkv_bias: Option<u64>,
    /// Gain of the per-head norm of queries, \[head_dim\].
    pub q_norm: Option<u64>,
    /// Gain of the per-head norm of keys, \[head_dim\].
    pub k_norm: Option<u64>,
    /// Output of attention.
    pub o: Matrix,
    /// Its bias.
    pub o_bias: Option<u64>,
    /// The norm before the MLP.
    pub post_norm: Norm,
    /// Gate and up.
    pub gate_up: Matrix,
    /// Their biases.
    pub gate_up_bias: Option<u64>,
    /// Down.
    pub down: Matrix,
    /// Its bias.
    pub down_bias: Option<u64>,
}

/// All weights of a model on the device.
pub struct Weights {
    /// Layers in order.
    pub layers: Vec<LayerWeights>,
    /// Embedding \[V, H\]; the LM head itself where the model is tied.
    pub embed: Matrix,
    /// The final norm.
    pub norm: Norm,
    /// LM head \[V, H\].
    pub head: Matrix,
    /// The allocations that all of these lie in.
    buffers: Vec<Buffer>,
}

/// The matrices of a layer in the order in which a token meets them: parts and order.
fn matrices(model: &Model, layer: usize) -> [(Vec<&Linear>, Order); 4] {
    let (c, w) = (&model.config, &model.weights.layers[layer]);
    let qkv = Order::Qkv {
        heads: c.heads,
        kv_heads: c.kv_heads,
        head_dim: c.head_dim,
    };
    let hidden = Order::Plain {
        rows: c.hidden_size,
    };
    let gate_up = Order::GateUp {
        rows: c.intermediate_size,
    };
    [
        (vec![&w.q, &w.k, &w.v], qkv),
        (vec![&w.o], hidden),
        (vec![&w.gate, &w.up], gate_up),
        (vec![&w.down], hidden),
    ]
}

/// Rows of the embedding, and of the LM head.
fn table(config: &Config) -> Order {
    Order::Plain {
        rows: config.vocab_size,
    }
}

fn tied(model: &Model) -> bool {
    model.weights.head.same_bytes(&model.weights.embed)
}

/// Where the next `bytes` of an allocation that holds `used` start, which then holds them, too.
fn place(used: &mut usize, bytes: usize) -> usize {
    let at = used.next_multiple_of(ALIGN);
    *used = at + bytes;
    at
}

/// Sizes of the allocations.
struct Sizes {
    weights: usize,
    embed: usize,
    vectors: usize,
    /// sixteen rows of the widest matrix in f32
    sixteen_rows: usize,
}

fn sizes(model: &Model) -> Sizes {
    let c = &model.config;
    let sixteen_rows = |columns: usize| TILE * pairs(columns) * PAIR * 4;
    let mut sizes = Sizes {
        weights: 0,
        embed: 0,
        vectors: 0,
        sixteen_rows: sixteen_rows(c.hidden_size),
    };
    for (index, layer) in model.weights.layers.iter().enumerate() {
        for (parts, order) in matrices(model, index) {
            let columns = parts[0].weight.cols();
            place(&mut sizes.weights, packed_bytes(order, columns));
            if parts.iter().any(|part| part.bias.is_some()) {
                place(&mut sizes.vectors, 4 * TILE * order.tiles());
            }
            sizes.sixteen_rows = sizes.sixteen_rows.max(sixteen_rows(columns));
        }
        let norms = [
            Some(&layer.input_norm),
            layer.q_norm.as_ref(),
            layer.k_norm.as_ref(),
            Some(&layer.post_norm),
        ];
        for norm in norms.into_iter().flatten() {
            place(&mut sizes.vectors, 4 * norm.len());
        }
    }
    let table = packed_bytes(table(c), c.hidden_size);
    place(&mut sizes.weights, table);
    if !tied(model) {
        sizes.embed = table;
    }
    place(&mut sizes.vectors, 4 * model.weights.norm.len());
    sizes
}

/// Bytes of device memory that the weights of `model` take.
pub(super) fn weight_bytes(model: &Model) -> usize {
    let sizes = sizes(model);
    sizes.weights + sizes.embed + sizes.vectors
}

impl Weights {
    /// Loads all weights of `model` and waits until they are there.
    ///
    /// # Errors
    /// [`DeviceError::Shape`] where a width is not a multiple of 16; [`DeviceError::Cuda`], with
    /// the name of the tensor under way. What was allocated is freed.
    pub fn load(gpu: &Arc<Gpu>, model: &Model) -> Result<Weights, DeviceError> {
        Weights::load_through(gpu, model, STAGING_BYTES)
    }

    /// As [`Weights::load`], through buffers of `staging_bytes`, or of sixteen rows where those are
    /// longer.
    pub fn load_through(
        gpu: &Arc<Gpu>,
        model: &Model,
        staging_bytes: usize,
    ) -> Result<Weights, DeviceError> {
        check_shapes(model)?;
        let (c, w, sizes) = (&model.config, &model.weights, sizes(model));
        let mut packer = Packer::new(gpu, staging_bytes.max(sizes.sixteen_rows))?;
        let mut weights = Region::new(gpu, "weights", sizes.weights)?;
        let mut vectors = Vectors {
            region: Region::new(gpu, "vectors", sizes.vectors)?,
            data: Vec::new(),
        };
        let mut layers = Vec::with_capacity(w.layers.len());
        for (index, layer) in w.layers.iter().enumerate() {
            let [qkv, o, gate_up, down] = matrices(model, index);
            let mut load = |(parts, order): &(Vec<&Linear>, Order)| {
                let tensors: Vec<&Tensor> = parts.iter().map(|part| &part.weight).collect();
                let matrix = weights.matrix(&mut packer, &tensors, *order)?;
                Ok::<_, DeviceError>((matrix, vectors.biases(parts, *order)))
            };
            let ((qkv, qkv_bias), (o, o_bias)) = (load(&qkv)?, load(&o)?);
            let ((gate_up, gate_up_bias), (down, down_bias)) = (load(&gate_up)?, load(&down)?);
            layers.push(LayerWeights {
                input_norm: vectors.norm(&layer.input_norm),
                qkv,
                qkv_bias,
                q_norm: layer.q_norm.as_ref().map(|norm| vectors.put(norm)),
                k_norm: layer.k_norm.as_ref().map(|norm| vectors.put(norm)),
                o,
                o_bias,
                post_norm: vectors.norm(&layer.post_norm),
                gate_up,
                gate_up_bias,
                down,
                down_bias,
            });
        }
        let norm = vectors.norm(&w.norm);
        let head = weights.matrix(&mut packer, &[&w.head], table(c))?;
        let mut buffers = Vec::new();
        let embed = match tied(model) {
            true => head,
            false => {
                let mut region = Region::new(gpu, "embedding", sizes.embed)?;
                let embed = region.matrix(&mut packer, &[&w.embed], table(c))?;
                buffers.push(region.buffer);
                embed
            }
        };
        vectors.region.buffer.write(0, &vectors.data)?;
        gpu.wait(|| format!("loading the weights of {}", model.dir.display()))?;
        buffers.extend([weights.buffer, vectors.region.buffer]);
        Ok(Weights {
            layers,
            embed,
            norm,
            head,
            buffers,
        })
    }

    /// Checks that they serve `model`: the first layers of the model that they are of.
    ///
    /// # Errors
    /// [`DeviceError::Draft`] where they have fewer layers or other shapes.
    pub fn check(&self, model: &Model) -> Result<(), DeviceError> {
        let c = &model.config;
        let of_layer = |(index, layer): (usize, &LayerWeights)| {
            let found = [layer.qkv, layer.o, layer.gate_up, layer.down];
            let expected = matrices(model, index);
            let same = |(found, (parts, order)): (&Matrix, &(Vec<&Linear>, Order))| {
                found.order == *order && found.columns == parts[0].weight.cols()
            };
            found.iter().zip(&expected).all(same)
        };
        let table = |m: &Matrix| m.order == table(c) && m.columns == c.hidden_size;
        let layers = self.layers.len();
        let same = layers >= c.layers
            && table(&self.head)
            && table(&self.embed)
            && self.layers[..c.layers].iter().enumerate().all(of_layer);
        match same {
            true => Ok(()),
            false => Err(DeviceError::Draft(format!(
                "{} with {} layers cannot share the weights of a model of {layers} layers: expected \
                 its first layers",
                model.dir.display(),
                c.layers
            ))),
        }
    }

    /// Bytes of device memory that loading `model` takes besides, until it is loaded.
    pub fn staging_bytes(model: &Model) -> usize {
        STAGING_BYTES.max(sizes(model).sixteen_rows)
    }

    /// Copies `count` elements from an address that lies in one of these matrices or vectors.
    pub fn read<T: bytemuck::Pod>(
        &self,
        address: u64,
        count: usize,
    ) -> Result<Vec<T>, DeviceError> {
        let holder = self
            .buffers
            .iter()
            .find(|b| (b.address()..b.address() + b.bytes() as u64).contains(&address));
        match holder {
            Some(buffer) => buffer.read((address - buffer.address()) as usize, count),
            None => Err(DeviceError::Cuda {
                doing: "reading weights".to_owned(),
                call: "cuMemcpyDtoHAsync",
                said: format!("found the address {address:#x}, expected one of theirs"),
            }),
        }
    }

    /// Bytes of device memory that they take.
    pub fn bytes(&self) -> usize {
        self.buffers.iter().map(Buffer::bytes).sum()
    }
}

/// Widths that the kernels take.
fn check_shapes(model: &Model) -> Result<(), DeviceError> {
    let c = &model.config;
    let widths = [
        ("hidden_size", c.hidden_size),
        ("intermediate_size", c.intermediate_size),
        ("head_dim", c.head_dim),
    ];
    match widths.into_iter().find(|(_, width)| width % TILE != 0) {
        None => Ok(()),
        Some((name, found)) => Err(DeviceError::Shape {
            path: model.dir.clone(),
            name,
            found,
            expected: "a multiple of 16",
        }),
    }
}

/// An allocation that is handed out from its beginning.
struct Region {
    buffer: Buffer,
    used: usize,
}

impl Region {
    fn new(gpu: &Arc<Gpu>, label: &'static str, bytes: usize) -> Result<Region, DeviceError> {
        Ok(Region {
            buffer: Buffer::new(gpu, label, bytes)?,
            used: 0,
        })
    }

    /// The next piece.
    fn take(&mut self, bytes: usize) -> u64 {
        self.buffer.address() + place(&mut self.used, bytes) as u64
    }

    /// Packs a matrix of one or more parts here.
    fn matrix(
        &mut self,
        packer: &mut Packer,
        parts: &[&Tensor],
        order: Order,
    ) -> Result<Matrix, DeviceError> {
        let columns = parts[0].cols();
        let matrix = Matrix {
            address: self.take(packed_bytes(order, columns)),
            order,
            columns,
        };
        debug_assert!(self.used <= self.buffer.bytes());
        packer.pack(parts, &matrix)?;
        Ok(matrix)
    }
}

/// Norms and biases, gathered on the host and copied at the end.
struct Vectors {
    region: Region,
    data: Vec<f32>,
}

impl Vectors {
    fn put(&mut self, values: &[f32]) -> u64 {
        let address = self.region.take(4 * values.len());
        let at = (address - self.region.buffer.address()) as usize / 4;
        self.data.resize(at, 0.0);
        self.data.extend_from_slice(values);
        address
    }

    fn norm(&mut self, gain: &[f32]) -> Norm {
        let scale = gain_scale(gain);
        let scaled: Vec<f32> = gain.iter().map(|g| g * scale).collect();
        Norm {
            gain: self.put(&scaled),
            scale,
        }
    }

    /// The biases of a packed matrix, where any part has one.
    fn biases(&mut self, parts: &[&Linear], order: Order) -> Option<u64> {
        if parts.iter().all(|part| part.bias.is_none()) {
            return None;
        }
        let bias = |at| {
            let (part, row) = order.source(at)?;
            parts[part].bias.as_ref().map(|bias| bias[row])
        };
        let values: Vec<f32> = (0..order.tiles() * TILE)
            .map(|at| bias(at).unwrap_or(0.0))
            .collect();
        Some(self.put(&values))
    }
}

/// Brings matrices to the device and packs them.
struct Packer {
    gpu: Arc<Gpu>,
    pinned: [Pinned; 2],
    /// When the copy from each of them is done.
    copied: [Event; 2],
    /// Which one is filled next.
    next: usize,
    staging: Buffer,
    /// For bf16, f16 and f32.
    kernels: [Function; 3],
}

impl Packer {
    fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Packer, DeviceError> {
        let pinned = || Pinned::new(gpu, "pinned staging", bytes);
        Ok(Packer {
            gpu: gpu.clone(),
            pinned: [pinned()?, pinned()?],
            copied: [Event::new(gpu, false)?, Event::new(gpu, false)?],
            next: 0,
            staging: Buffer::new(gpu, "staging", bytes)?,
            kernels: [
                gpu.function("pack", "pack_bf16_rows", 0)?,
                gpu.function("pack", "pack_f16_rows", 0)?,
                gpu.function("pack", "pack_f32_rows", 0)?,
            ],
        })
    }

    /// Enqueues the packing of `parts`, all as wide as `matrix`, which they make up.
    fn pack(&mut self, parts: &[&Tensor], matrix: &Matrix) -> Result<(), DeviceError> {
        let first = parts[0];
        let doing = || format!("loading {}", first.name());
        // parts of several types meet in f32, which holds them all
        let dtype = match parts.iter().all(|part| part.dtype == first.dtype) {
            true => first.dtype,
            false => Dtype::F32,
        };
        let row_bytes = matrix.pairs() * PAIR * dtype.size();
        let tiles_at_once = self.staging.bytes() / (TILE * row_bytes);
        let kernel = self.kernels[match dtype {
            Dtype::Bf16 => 0,
            Dtype::F16 => 1,
            Dtype::F32 => 2,
        }];
        let mut tile = 0;
        while tile < matrix.tiles() {
            let tiles = tiles_at_once.min(matrix.tiles() - tile);
            let bytes = tiles * TILE * row_bytes;
            let slot = self.next;
            self.next = 1 - slot;
            self.copied[slot].wait(doing)?;
            // SAFETY: the copy from it, the only one, has been waited for.
            let to = unsafe { self.pinned[slot].bytes_mut() };
            let rows = to[..bytes].chunks_exact_mut(row_bytes);
            for (at, row) in rows.enumerate() {
                let filled = match matrix.order.source(tile * TILE + at) {
                    Some((part, index)) => copy_row(parts[part], index, dtype, row),
                    None => 0,
                };
                row[filled..].fill(0);
            }
            self.gpu.bind(doing)?;
            // SAFETY: both are at least `bytes` long, and live until the stream is done.
            let code = unsafe {
                sys::cuMemcpyHtoDAsync_v2(
                    self.staging.address(),
                    self.pinned[slot].start().cast(),
                    bytes,
                    self.gpu.stream(),
                )
            };
            check(code, "cuMemcpyHtoDAsync", doing)?;
            self.copied[slot].record(doing)?;
            let units = tiles * matrix.pairs();
            let to = matrix.address + (tile * matrix.pairs() * PAIR * TILE * 2) as u64;
            let args = [
                Arg::Ptr(self.staging.address()),
                Arg::Ptr(to),
                Arg::I32(matrix.pairs() as i32),
                Arg::I32(units as i32),
            ];
            let grid = [units.div_ceil(8), 1, 1];
            // SAFETY: the kernel's parameters; it reads the rows that were copied and writes
            // `units` pairs of tiles, which lie in the matrix.
            unsafe { self.gpu.launch(kernel, grid, 256, 0, &args) }
                .map_err(|error| about(error, doing))?;
            tile += tiles;
        }
        Ok(())
    }
}

/// Copies a row to the beginning of `to`, widened where `dtype` is not the tensor's own; gives the
/// bytes that it takes there.
fn copy_row(tensor: &Tensor, index: usize, dtype: Dtype, to: &mut [u8]) -> usize {
    let columns = tensor.cols();
    let bytes = columns * tensor.dtype.size();
    let from = &tensor.bytes()[index * bytes..][..bytes];
    if tensor.dtype == dtype {
        to[..bytes].copy_from_slice(from);
        return bytes;
    }
    debug_assert!(dtype == Dtype::F32 && tensor.dtype != Dtype::F32);
    for (to, &two) in to.as_chunks_mut::<4>().0.iter_mut().zip(from.as_chunks().0) {
        let value = match tensor.dtype {
            Dtype::F16 => half::f16::from_le_bytes(two).to_f32(),
            _ => half::bf16::from_le_bytes(two).to_f32(),
        };
        *to = value.to_le_bytes();
    }
    columns * dtype.size()
}

/// Says of an error what the call was part of.
fn about(error: DeviceError, doing: impl Fn() -> String) -> DeviceError {
    match error {
        DeviceError::Cuda {
            doing: inner,
            call,
            said,
        } => DeviceError::Cuda {
            doing: format!("{}: {inner}", doing()),
            call,
            said,
        },
        other => other,
    }
}
