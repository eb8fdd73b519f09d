//! What `gavel logits --device cuda` writes, against transformers in float32 and against the CPU
//! device that rounds where the kernels round.

use crate::common::{FIXTURES, fixture};
use crate::process::on_softcuda;
use gavel::device::cpu::Cpu;
use gavel::device::{Device, DeviceError, Logits, PassOutput, Setup, Want, prefill};
use gavel::draft::Drafter;
use gavel::model::Model;
use gavel::tree::TokenTree;
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// A file of tensors.
struct File(Vec<u8>);

impl File {
    fn read(path: &Path) -> File {
        File(std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    }
    fn words<const N: usize>(&self, name: &str) -> Vec<[u8; N]> {
        let file = SafeTensors::deserialize(&self.0).expect("safetensors");
        let tensor = file.tensor(name).expect("a tensor");
        tensor.data().as_chunks::<N>().0.to_vec()
    }
    fn floats(&self, name: &str) -> Vec<f32> {
        let words = self.words::<4>(name);
        words.into_iter().map(f32::from_le_bytes).collect()
    }
    fn ids(&self, name: &str) -> Vec<i64> {
        let words = self.words::<8>(name);
        words.into_iter().map(i64::from_le_bytes).collect()
    }
}

/// A prompt and a tree below its last token.
struct Case {
    dir: PathBuf,
    ids: Vec<u32>,
    tokens: Vec<u32>,
    parents: Vec<i32>,
    /// Tokens of greedy continuation.
    greedy: usize,
}

impl Case {
    fn of_fixture(name: &str) -> Case {
        let dir = fixture(name);
        let expected = File::read(&dir.join("expected.safetensors"));
        let unsigned = |name| expected.ids(name).iter().map(|&t| t as u32).collect();
        let signed = expected
            .ids("tree_parent")
            .iter()
            .map(|&p| p as i32)
            .collect();
        Case {
            ids: unsigned("input_ids"),
            tokens: unsigned("tree_ids"),
            parents: signed,
            greedy: 12,
            dir,
        }
    }

    /// A model under models/, and a small tree.
    fn of_model(name: &str, ids: Vec<u32>, greedy: usize) -> Case {
        let dir = root().join("models").join(name);
        assert!(dir.is_dir(), "{}: run `make smollm2`", dir.display());
        Case {
            ids,
            tokens: vec![40, 41, 42, 43, 44],
            parents: vec![-1, -1, 0, 0, 2],
            greedy,
            dir,
        }
    }

    /// Forty tokens of the demo pair's vocabulary.
    fn of_demo(name: &str) -> Case {
        let ids = (0..40).map(|i| 11 + 53 * i % 331).collect();
        Case::of_model(name, ids, 12)
    }

    /// A question in SmolLM2's chat template.
    fn of_smollm2() -> Case {
        let file = File::read(&root().join("tests/fixtures/smollm2-135m.json"));
        let cases: serde_json::Value = serde_json::from_slice(&file.0).expect("JSON");
        let ids = cases[0]["prompt_ids"].as_array().expect("a list").iter();
        let ids = ids.map(|id| id.as_u64().expect("an id") as u32).collect();
        Case::of_model("smollm2-135m", ids, 3)
    }

    fn tree(&self) -> TokenTree {
        TokenTree::new(self.tokens.clone(), self.parents.clone()).expect("a tree")
    }

    /// What the command writes on the CUDA device that this process finds.
    fn on_cuda(&self) -> File {
        let folder = tempfile::tempdir().expect("a folder");
        let (tree, out) = (
            folder.path().join("tree.json"),
            folder.path().join("out.safetensors"),
        );
        let text = format!(
            r#"{{"tokens": {:?}, "parents": {:?}}}"#,
            self.tokens, self.parents
        );
        std::fs::write(&tree, text).expect("a file");
        let ids: Vec<String> = self.ids.iter().map(u32::to_string).collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_gavel"));
        command
            .args(["logits", "--device", "cuda", "--context", "250", "--model"])
            .arg(&self.dir)
            .args([
                "--ids",
                &ids.join(","),
                "--greedy",
                &self.greedy.to_string(),
            ])
            .arg("--tree")
            .arg(&tree)
            .arg("--out")
            .arg(&out);
        let output = command.output().expect("a process");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", self.dir.display());
        assert!(!said.contains("leak"), "{}: {said}", self.dir.display());
        File::read(&out)
    }

    /// Prompt and tree on a CPU device.
    fn on_cpu(&self, open: fn(&Setup) -> Result<Cpu, DeviceError>) -> [PassOutput; 2] {
        let mut device = self.open(open);
        let prompt = prefill(&mut device, &self.ids, &all()).expect("a pass");
        [prompt, device.pass(&self.tree(), &all()).expect("a pass")]
    }

    fn open(&self, open: fn(&Setup) -> Result<Cpu, DeviceError>) -> Cpu {
        let setup = Setup {
            context: 250,
            target: Arc::new(Model::open(&self.dir).expect("a model")),
            drafter: Drafter::None,
            threads: 0,
        };
        open(&setup).expect("a CPU device")
    }

    /// Tokens are those of the float32 CPU device up to the first near tie, 0.05 standard
    /// deviations of the row.
    fn check_greedy(&self, tokens: &[i64]) {
        assert_eq!(tokens.len(), self.greedy);
        let mut device = self.open(Cpu::open);
        let want = Want {
            logits: Logits::Last,
            ..Want::default()
        };
        let mut before = self.ids.clone();
        for (place, &token) in tokens.iter().enumerate() {
            let logits = prefill(&mut device, &before, &want).expect("a pass").logits;
            let best = logits.iter().copied().fold(f32::MIN, f32::max);
            let gap = (best - logits[token as usize]) / deviation(&logits);
            if gap > 0.0 {
                let name = self.dir.display();
                println!("{name}: greedy token {place} is {gap} below the best");
                assert!(
                    gap < 0.05,
                    "{name}: greedy token {place} is {gap} below the best"
                );
                return;
            }
            before = vec![token as u32];
        }
    }
}

fn all() -> Want {
    Want {
        logits: Logits::All,
        hidden: true,
        taps: Vec::new(),
        ..Want::default()
    }
}

/// How far rows are apart, in standard deviations of the expected row, at the row where it is
/// largest.
#[derive(Clone, Copy, Debug, Default)]
struct Distance {
    /// Root of the mean square over the row.
    mean: f64,
    /// At the worst value.
    worst: f64,
}

impl std::fmt::Display for Distance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.4} (at worst {:.4})", self.mean, self.worst)
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn deviation(row: &[f32]) -> f32 {
    let n = row.len() as f64;
    let mean = row.iter().map(|&y| f64::from(y)).sum::<f64>() / n;
    let squares = row.iter().map(|&y| (f64::from(y) - mean).powi(2));
    (squares.sum::<f64>() / n).sqrt() as f32
}

fn distance(found: &[f32], expected: &[f32], width: usize) -> Distance {
    assert_eq!(found.len(), expected.len());
    let rows = found.chunks(width).zip(expected.chunks(width));
    rows.fold(Distance::default(), |most, (found, expected)| {
        let n = width as f64;
        let deviation = f64::from(deviation(expected));
        let apart = found.iter().zip(expected);
        let apart: Vec<f64> = apart.map(|(&x, &y)| f64::from((x - y).abs())).collect();
        let square = apart.iter().map(|d| d * d).sum::<f64>() / n;
        Distance {
            mean: most.mean.max(square.sqrt() / deviation),
            worst: most
                .worst
                .max(apart.iter().copied().fold(0.0, f64::max) / deviation),
        }
    })
}

/// How far logits may be from the rounded computation in the mean of a row: sums in another order
/// fall on the other side of a rounding here and there, the more often the more layers there are.
const OTHER_ROUNDINGS: f64 = 0.0125;
const OTHER_ROUNDINGS_OF_30_LAYERS: f64 = 0.08;
/// How far rounding may take the logits from float32 in the mean of a row. The checkpoints of
/// tests/fixtures have sharp attention on purpose; a wrong rotation, mask or norm moves them by 1.
const BF16_DISTANCE: f64 = 0.08;

#[test]
fn logits_agree_with_float32_and_with_the_rounded_computation() {
    let test = "agreement::logits_agree_with_float32_and_with_the_rounded_computation";
    let said = on_softcuda(test, &[], || {
        let fixtures = FIXTURES.iter().map(|name| Case::of_fixture(name));
        let demo = ["demo/target", "demo/draft"].map(Case::of_demo);
        let small = fixtures.chain(demo).map(|case| (case, OTHER_ROUNDINGS));
        for (case, bound) in small.chain([(Case::of_smollm2(), OTHER_ROUNDINGS_OF_30_LAYERS)]) {
            let found = case.on_cuda();
            let (exact, rounded) = (case.on_cpu(Cpu::open), case.on_cpu(Cpu::open_rounded));
            for (i, prefix) in ["", "tree_"].iter().enumerate() {
                let name = format!("{} {prefix}logits", case.dir.display());
                let logits = found.floats(&format!("{prefix}logits"));
                let width = exact[i].logits.len() / [case.ids.len(), case.tokens.len()][i];
                let to_exact = distance(&logits, &exact[i].logits, width);
                let to_rounded = distance(&logits, &rounded[i].logits, width);
                let rounding = distance(&rounded[i].logits, &exact[i].logits, width);
                println!(
                    "{name}: to float32 {to_exact}, to the rounded computation {to_rounded}, from there to float32 {rounding}"
                );
                assert!(to_exact.mean < BF16_DISTANCE, "{name}: {to_exact}");
                assert!(to_rounded.mean < bound, "{name}: {to_rounded}");
            }
            case.check_greedy(&found.ids("greedy"));
        }
    });
    if let Some(said) = said {
        println!("{said}");
    }
}
