//! What `gavel logits --device cuda` writes, against transformers in float32 and against the CPU
//! device that rounds where the kernels round.

use crate::common::{FIXTURES, edited_fixture, fixture};
use crate::process::on_softcuda;
use gavel::device::cpu::Cpu;
use gavel::device::cuda::Cuda;
use gavel::device::{Device, DeviceError, Logits, PassOutput, Request, Setup, Step, Want, prefill};
use gavel::draft::Drafter;
use gavel::model::Model;
use gavel::tree::{Shape, TokenTree};
use gavel::verify::{Policy, Rule, Sampling};
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

    /// A fixture's copy in `folder` whose residual stream is `stream` times as large and whose gains
    /// are `gain` times as large: powers of two, so that the law of the next token stays what it is,
    /// up to the epsilon of its norms.
    fn of_amplified(name: &str, folder: &Path, stream: f32, gain: f32) -> Case {
        let from = Case::of_fixture(name);
        let factor = |name: &str| {
            let of = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
            match name {
                _ if of(&["embed_tokens", "o_proj", "down_proj"]) => stream,
                _ if of(&["q_norm", "k_norm"]) => 1.0,
                _ if of(&["norm"]) => gain,
                _ if of(&["proj.weight", "lm_head"]) => 1.0 / gain,
                _ => 1.0,
            }
        };
        edited_fixture(name, folder, |name, values| {
            let factor = factor(name);
            values.iter_mut().for_each(|v| *v *= factor);
        });
        let dir = folder.to_owned();
        Case { dir, ..from }
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

    /// What the command writes on the CUDA device that this process finds, and what it says where it
    /// fails after that.
    fn on_cuda(&self) -> Result<File, (File, String)> {
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
        assert!(!said.contains("leak"), "{}: {said}", self.dir.display());
        assert!(out.exists(), "{}: {said}", self.dir.display());
        let file = File::read(&out);
        match output.status.success() {
            true => Ok(file),
            false => Err((file, said.into_owned())),
        }
    }

    /// Prompt and tree on a CPU device.
    fn on_cpu(&self, open: fn(&Setup) -> Result<Cpu, DeviceError>) -> [PassOutput; 2] {
        let mut device = self.open(open);
        let prompt = prefill(&mut device, &self.ids, &all()).expect("a pass");
        [prompt, device.pass(&self.tree(), &all()).expect("a pass")]
    }

    fn open(&self, open: fn(&Setup) -> Result<Cpu, DeviceError>) -> Cpu {
        open(&self.setup()).expect("a CPU device")
    }

    fn setup(&self) -> Setup {
        Setup {
            context: 250,
            target: Arc::new(Model::open(&self.dir).expect("a model")),
            drafter: Drafter::None,
            threads: 0,
        }
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

/// How far rows are apart, in standard deviations of the expected row.
#[derive(Clone, Copy, Debug)]
struct Distance {
    /// Root of the mean square over all rows.
    all: f64,
    /// Over the row where it is largest.
    row: f64,
    /// At the worst value.
    value: f64,
}

impl std::fmt::Display for Distance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Distance { all, row, value } = self;
        write!(
            f,
            "{all:.4} over all rows, {row:.4} in one, {value:.4} at one logit"
        )
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
    assert!(found.iter().chain(expected).all(|x| x.is_finite()));
    let rows = found.chunks(width).zip(expected.chunks(width));
    let rows: Vec<(f64, f64)> = rows
        .map(|(found, expected)| {
            let deviation = f64::from(deviation(expected));
            let apart = found.iter().zip(expected);
            let apart: Vec<f64> = apart
                .map(|(&x, &y)| f64::from((x - y).abs()) / deviation)
                .collect();
            let squares: f64 = apart.iter().map(|d| d * d).sum();
            let most = apart.iter().copied().fold(0.0, f64::max);
            (squares / width as f64, most)
        })
        .collect();
    let most = |of: fn(&(f64, f64)) -> f64| rows.iter().map(of).fold(0.0, f64::max);
    Distance {
        all: (rows.iter().map(|row| row.0).sum::<f64>() / rows.len() as f64).sqrt(),
        row: most(|row| row.0).sqrt(),
        value: most(|row| row.1),
    }
}

/// How far logits may be from the rounded computation, in the worst row: sums in another order fall on
/// the other side of a rounding here and there, the more often the more layers there are.
const OTHER_ROUNDINGS: f64 = 0.01;
/// After thirty layers, where the two have no rounding in common any more; over all rows it is
/// [`OTHER_ROUNDINGS`] there, too.
const OTHER_ROUNDINGS_OF_30_LAYERS: f64 = 0.0125;
/// How far rounding to f16 may take the logits of any row from float32. The checkpoints of
/// tests/fixtures have sharp attention on purpose; a wrong rotation, mask or norm moves them by 1.
const ROUNDING: f64 = 0.01;

/// Logits of the command against both computations, and greedy tokens.
fn check(case: &Case, name: &str, other_roundings: f64) {
    let found = case
        .on_cuda()
        .unwrap_or_else(|(_, said)| panic!("{name}: {said}"));
    let (exact, rounded) = (case.on_cpu(Cpu::open), case.on_cpu(Cpu::open_rounded));
    for (i, prefix) in ["", "tree_"].iter().enumerate() {
        let name = format!("{name} {prefix}logits");
        let logits = found.floats(&format!("{prefix}logits"));
        let width = exact[i].logits.len() / [case.ids.len(), case.tokens.len()][i];
        let to_exact = distance(&logits, &exact[i].logits, width);
        let to_rounded = distance(&logits, &rounded[i].logits, width);
        let rounding = distance(&rounded[i].logits, &exact[i].logits, width);
        println!(
            "{name}:\n  to float32 {to_exact}\n  to the rounded computation {to_rounded}\n  from there to float32 {rounding}"
        );
        assert!(to_exact.row < ROUNDING, "{name}: {to_exact}");
        assert!(to_rounded.all < OTHER_ROUNDINGS, "{name}: {to_rounded}");
        assert!(to_rounded.row < other_roundings, "{name}: {to_rounded}");
    }
    case.check_greedy(&found.ids("greedy"));
}

#[test]
fn logits_agree_with_float32_and_with_the_rounded_computation() {
    let test = "agreement::logits_agree_with_float32_and_with_the_rounded_computation";
    let said = on_softcuda(test, &[], || {
        let fixtures = FIXTURES.iter().map(|name| Case::of_fixture(name));
        let demo = ["demo/target", "demo/draft"].map(Case::of_demo);
        let small = fixtures.chain(demo).map(|case| (case, OTHER_ROUNDINGS));
        for (case, bound) in small.chain([(Case::of_smollm2(), OTHER_ROUNDINGS_OF_30_LAYERS)]) {
            check(&case, &case.dir.display().to_string(), bound);
        }
    });
    if let Some(said) = said {
        println!("{said}");
    }
}

/// f16 has five bits of exponent: src/device/range.rs sees to it that they are enough.
#[test]
fn logits_agree_whatever_the_size_of_the_residual_stream() {
    let test = "agreement::logits_agree_whatever_the_size_of_the_residual_stream";
    let said = on_softcuda(test, &[], || {
        // features of 140,000; of 0.1 at most, with gains of hundredths
        for (stream, gain) in [(2f32.powi(12), 1.0), (2f32.powi(-8), 2f32.powi(-6))] {
            for name in ["llama-mha", "qwen2-bias"] {
                let folder = tempfile::tempdir().expect("a folder");
                let case = Case::of_amplified(name, folder.path(), stream, gain);
                let name = format!("{name} times {stream}, gains times {gain}");
                check(&case, &name, OTHER_ROUNDINGS);
            }
        }
    });
    if let Some(said) = said {
        println!("{said}");
    }
}

#[test]
fn what_is_beyond_f16_is_said() {
    on_softcuda("agreement::what_is_beyond_f16_is_said", &[], || {
        let folder = tempfile::tempdir().expect("a folder");
        let case = Case::of_amplified("llama-mha", folder.path(), 2f32.powi(15), 1.0);
        let Err((file, said)) = case.on_cuda() else {
            panic!("logits of activations beyond f16");
        };
        // the logits are there to be looked at
        assert!(file.floats("logits").iter().any(|z| z.is_nan()));
        assert!(said.contains("--greedy"), "{said}");
        assert!(said.contains("is NaN, expected a finite number"), "{said}");

        let mut device = Cuda::open(&case.setup(), 0).expect("a device");
        let request = Request {
            prompt: case.ids.clone(),
            max_tokens: 5,
            stop_tokens: Vec::new(),
            seed: 1,
            sequence: 0,
        };
        device.start(&request).expect("a start");
        let plain = Step::new(Shape::NONE, Policy::new(Sampling::GREEDY, Rule::Chain));
        let ticket = device.enqueue(&plain).expect("a step");
        let said = device.read(ticket).expect_err("an error").to_string();
        assert!(said.contains("is NaN, expected a finite number"), "{said}");
        assert!(said.contains("activations are f16"), "{said}");
    });
}
