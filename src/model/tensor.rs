//! A tensor in a mapped file.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use half::{bf16, f16};

use super::checkpoint::{Entry, Mapping};

/// The element types that gavel computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
    /// IEEE single precision.
    F32,
}

impl Dtype {
    pub(super) fn of(dtype: safetensors::Dtype) -> Option<Dtype> {
        match dtype {
            safetensors::Dtype::BF16 => Some(Dtype::Bf16),
            safetensors::Dtype::F16 => Some(Dtype::F16),
            safetensors::Dtype::F32 => Some(Dtype::F32),
            _ => None,
        }
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Dtype::Bf16 | Dtype::F16 => 2,
            Dtype::F32 => 4,
        }
    }

    /// The name that safetensors gives it.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::Bf16 => "BF16",
            Dtype::F16 => "F16",
            Dtype::F32 => "F32",
        }
    }
}

/// A tensor in a mapped weight file: cheap to clone, the bytes stay where they are.
#[derive(Clone)]
pub struct Tensor {
    /// Element type.
    pub dtype: Dtype,
    /// Shape, row major.
    pub shape: Vec<usize>,
    name: Arc<str>,
    range: std::ops::Range<usize>,
    mapping: Arc<Mapping>,
}

impl Tensor {
    /// `entry` is one of the checked header of `mapping`.
    pub(super) fn new(name: &str, dtype: Dtype, entry: Entry, mapping: Arc<Mapping>) -> Tensor {
        Tensor {
            dtype,
            shape: entry.shape,
            name: name.into(),
            range: entry.range,
            mapping,
        }
    }

    /// Name in the weight file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The weight file.
    pub fn path(&self) -> &Path {
        self.mapping.path()
    }

    /// The elements, little-endian. Files need not align them to anything.
    pub fn bytes(&self) -> &[u8] {
        &self.mapping.bytes()[self.range.clone()]
    }

    /// Whether both are the same bytes of the same mapping, as tied weights are.
    pub fn same_bytes(&self, other: &Tensor) -> bool {
        Arc::ptr_eq(&self.mapping, &other.mapping) && self.range == other.range
    }

    /// Length of the first dimension; N of a projection [N, K].
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Product of the other dimensions; K of a projection [N, K].
    pub fn cols(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// A copy in float32: for norms and biases.
    pub fn to_f32(&self) -> Vec<f32> {
        let (pairs, _) = self.bytes().as_chunks::<2>();
        match self.dtype {
            Dtype::Bf16 => pairs
                .iter()
                .map(|&b| bf16::from_le_bytes(b).to_f32())
                .collect(),
            Dtype::F16 => pairs
                .iter()
                .map(|&b| f16::from_le_bytes(b).to_f32())
                .collect(),
            Dtype::F32 => {
                let (quads, _) = self.bytes().as_chunks::<4>();
                quads.iter().map(|&b| f32::from_le_bytes(b)).collect()
            }
        }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:?}", self.name, self.dtype.name(), self.shape)
    }
}
