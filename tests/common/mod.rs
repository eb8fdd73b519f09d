//! What several integration tests share.
#![allow(dead_code)] // each test binary uses its own part

use gavel::device::Setup;
use gavel::device::cpu::Cpu;
use gavel::draft::Drafter;
use gavel::model::Model;
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub const FIXTURES: [&str; 5] = [
    "llama-mha",
    "llama-odd",
    "llama3-rope",
    "qwen2-bias",
    "qwen3-qknorm",
];

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures").join(name)
}

pub fn open(dir: &Path) -> Arc<Model> {
    Arc::new(Model::open(dir).unwrap())
}

pub fn demo_target() -> Arc<Model> {
    open(&root().join("models/demo/target"))
}

pub fn demo_draft() -> Arc<Model> {
    open(&root().join("models/demo/draft"))
}

/// The converted checkpoint, or why a test cannot run.
pub fn smollm2() -> Arc<Model> {
    let dir = root().join("models/smollm2-135m");
    assert!(
        dir.is_dir(),
        "{} is missing: run `make smollm2`, which fetches it",
        dir.display()
    );
    open(&dir)
}

pub fn setup(target: Arc<Model>, drafter: Drafter) -> Setup {
    Setup {
        context: target.config.max_positions.min(1024),
        target,
        drafter,
        threads: 2,
    }
}

pub fn cpu(target: &Arc<Model>) -> Cpu {
    Cpu::open(&setup(target.clone(), Drafter::None)).unwrap()
}

/// What transformers computed for a fixture.
pub struct Expected(Vec<u8>);

impl Expected {
    pub fn read(name: &str) -> Expected {
        Expected(std::fs::read(fixture(name).join("expected.safetensors")).unwrap())
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).unwrap()
    }

    pub fn f32(&self, name: &str) -> Vec<f32> {
        f32s(self.tensors().tensor(name).unwrap().data())
    }

    pub fn ids(&self, name: &str) -> Vec<u32> {
        let tensors = self.tensors();
        let data = tensors.tensor(name).unwrap().data().to_vec();
        data.as_chunks::<8>()
            .0
            .iter()
            .map(|&b| i64::from_le_bytes(b) as u32)
            .collect()
    }

    pub fn parents(&self) -> Vec<i32> {
        self.ids("tree_parent")
            .into_iter()
            .map(|p| p as i32)
            .collect()
    }

    /// The layer of the tensor `hidden_LAYER`.
    pub fn tap(&self) -> usize {
        let tensors = self.tensors();
        let layer = tensors
            .names()
            .into_iter()
            .find_map(|n| n.strip_prefix("hidden_").map(str::to_owned));
        layer.unwrap().parse().unwrap()
    }
}

pub fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|&b| f32::from_le_bytes(b))
        .collect()
}

pub fn argmax(row: &[f32]) -> u32 {
    let mut best = 0;
    for (id, &z) in row.iter().enumerate() {
        if z > row[best] {
            best = id;
        }
    }
    best as u32
}

/// Largest distance of two rows relative to the expected row's standard deviation.
pub fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let n = expected.len() as f64;
    let mean = expected.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let variance = expected
        .iter()
        .map(|&x| (f64::from(x) - mean).powi(2))
        .sum::<f64>()
        / n;
    let worst = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    worst / variance.sqrt() as f32
}

/// The worst row of [`relative_error`].
pub fn worst_row(found: &[f32], expected: &[f32], width: usize) -> f32 {
    assert_eq!(found.len(), expected.len());
    let rows = found.chunks(width).zip(expected.chunks(width));
    rows.map(|(f, e)| relative_error(f, e)).fold(0.0, f32::max)
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}
