//! What the passes of a model move, counted by softcuda on the device that it calls h100.

use crate::process::{softcuda, with_driver};
use crate::widths::{Fill, Widths};
use gavel::device::cuda::layout::{Order, cache_bytes, packed_bytes};
use gavel::device::cuda::{Cuda, Plans, plan::Chip};
use gavel::device::{Device, Logits, Setup, Want, prefill};
use gavel::draft::Drafter;
use gavel::model::{Config, Model};
use gavel::tree::TokenTree;
use softcuda::counts::{Counts, Traffic};
use softcuda::report::Report;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The chip whose counts are taken.
pub const H100: Chip = Chip {
    multiprocessors: 132,
    major: 9,
};

/// Passes of a model: prefill of all positions but one, then for each number of rows, ascending, a
/// chain that ends at the last position.
pub struct Passes<'a> {
    pub model: &'a Path,
    pub context: usize,
    pub rows: &'a [usize],
}

/// What [`Passes`] did.
pub struct Counted {
    pub config: Config,
    pub context: usize,
    /// The sweeps over the weights that filled the cache.
    pub prefill: Vec<Sweep>,
    /// A sweep for each number of rows.
    pub passes: Vec<Sweep>,
}

/// The launches of one sweep over the weights.
pub struct Sweep {
    pub rows: usize,
    pub launches: Vec<Counts>,
}

/// SmolLM2, as `make smollm2` leaves it.
pub fn smollm2() -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/smollm2-135m");
    assert!(dir.is_dir(), "{}: run `make smollm2`", dir.display());
    dir
}

/// [`count`] for a checkpoint of random weights, made for this.
pub fn count_random(
    test: &str,
    widths: &Widths,
    context: usize,
    rows: &[usize],
) -> Option<Counted> {
    let folder = tempfile::tempdir().expect("a folder");
    if !crate::process::is_child(test) {
        widths.write(folder.path(), Fill::Random);
    }
    let passes = Passes {
        model: folder.path(),
        context,
        rows,
    };
    count(test, &passes)
}

/// Runs passes in a process of their own, the test `test` once more; in that process gives nothing.
pub fn count(test: &str, passes: &Passes<'_>) -> Option<Counted> {
    let folder = tempfile::tempdir().expect("a folder");
    let report = folder.path().join("report.json");
    let words: Vec<String> = passes.rows.iter().map(usize::to_string).collect();
    let (rows, context) = (words.join(","), passes.context.to_string());
    let utf8 = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
    let env = [
        ("SOFTCUDA_DEVICE", "h100"),
        ("SOFTCUDA_REPORT", &*utf8(&report)),
        ("GAVEL_TEST_MODEL", &*utf8(passes.model)),
        ("GAVEL_TEST_CONTEXT", &*context),
        ("GAVEL_TEST_ROWS", &*rows),
    ];
    with_driver(test, |_| softcuda(), &env, run)?;
    let text = std::fs::read_to_string(&report).expect("a report");
    let report: Report = serde_json::from_str(&text).expect("a report");
    assert_eq!(report.process.violations, Vec::<String>::new());
    let mut sweeps: Vec<Sweep> = Vec::new();
    for launch in report.launches {
        if launch.kernel.starts_with("pack_") {
            continue;
        }
        if launch.kernel == "embed" {
            sweeps.push(Sweep {
                rows: launch.grid[0] as usize,
                launches: Vec::new(),
            });
        }
        let sweep = sweeps.last_mut().expect("a sweep starts with embed");
        sweep.launches.push(launch);
    }
    let passes_from = sweeps.len() - passes.rows.len();
    let of_passes = sweeps.split_off(passes_from);
    let found: Vec<usize> = of_passes.iter().map(|sweep| sweep.rows).collect();
    assert_eq!(found, passes.rows);
    Some(Counted {
        config: Model::open(passes.model).expect("a model").config,
        context: passes.context,
        prefill: sweeps,
        passes: of_passes,
    })
}

/// The passes, in the process that has softcuda for its driver.
fn run() {
    let env = |name: &str| std::env::var(name).expect("set by the parent");
    let context: usize = env("GAVEL_TEST_CONTEXT").parse().expect("a number");
    let setup = Setup {
        context,
        target: Arc::new(Model::open(Path::new(&env("GAVEL_TEST_MODEL"))).expect("a model")),
        drafter: Drafter::None,
        threads: 1,
    };
    let vocabulary = setup.target.config.vocab_size as u32;
    let tokens: Vec<u32> = (0..context as u32)
        .map(|i| (1000 + 7 * i) % vocabulary)
        .collect();
    let mut device = Cuda::open(&setup, 0).expect("a CUDA device");
    prefill(&mut device, &tokens[..context - 1], &Want::default()).expect("a prompt");
    let want = Want {
        logits: Logits::All,
        ..Want::default()
    };
    for rows in env("GAVEL_TEST_ROWS").split(',') {
        let rows: usize = rows.parse().expect("a number");
        device.rollback(context - rows);
        let chain = TokenTree::chain(&tokens[context - rows..]);
        device.pass(&chain, &want).expect("a pass");
    }
}

/// Bytes of a layer's four packed matrices, and of the head.
fn matrix_bytes(c: &Config) -> [usize; 5] {
    let plain = |rows| Order::Plain { rows };
    let qkv = Order::Qkv {
        heads: c.heads,
        kv_heads: c.kv_heads,
        head_dim: c.head_dim,
    };
    let gate_up = Order::GateUp {
        rows: c.intermediate_size,
    };
    [
        packed_bytes(qkv, c.hidden_size),
        packed_bytes(plain(c.hidden_size), c.q_width()),
        packed_bytes(gate_up, c.hidden_size),
        packed_bytes(plain(c.hidden_size), c.intermediate_size),
        packed_bytes(plain(c.vocab_size), c.hidden_size),
    ]
}

impl Sweep {
    /// Global traffic; embedding rows are counted apart.
    pub fn traffic(&self) -> Traffic {
        let mut sum = Traffic::default();
        for launch in &self.launches {
            for (label, traffic) in &launch.memory {
                if launch.kernel != "embed" || !["weights", "embedding"].contains(&&**label) {
                    sum.add(traffic);
                }
            }
        }
        sum
    }

    /// Launches of linear.
    pub fn linear(&self) -> impl Iterator<Item = &Counts> {
        let linear = |launch: &&Counts| launch.kernel.starts_with("linear");
        self.launches.iter().filter(linear)
    }

    /// Bytes of the sectors of the weights that linear touched.
    pub fn weight_bytes(&self) -> u64 {
        let of = |launch: &Counts| launch.memory.get("weights").map_or(0, |t| 32 * t.sectors);
        self.linear().map(of).sum()
    }
}

/// Tensor-core instructions of a launch.
pub fn mma(launch: &Counts) -> u64 {
    launch.mma.values().sum()
}

impl Counted {
    /// Bytes of the packed matrices of all layers, and of the head.
    pub fn packed_bytes(&self) -> (u64, u64) {
        let [qkv, o, gate_up, down, head] = matrix_bytes(&self.config);
        (
            (self.config.layers * (qkv + o + gate_up + down)) as u64,
            head as u64,
        )
    }

    /// The least that a pass of `rows` rows moves: weights, keys and values, logits, once.
    pub fn least_bytes(&self, rows: usize) -> u64 {
        let c = &self.config;
        let (layers, head) = self.packed_bytes();
        let cache = cache_bytes(c.layers, c.kv_heads, c.head_dim, self.context);
        layers + head + (cache + 4 * rows * c.vocab_size) as u64
    }

    /// Memory traffic (sectors unique within a launch, summed over launches) and L2 traffic (all
    /// sectors) of a pass, over the least.
    pub fn over_least(&self, pass: &Sweep) -> (f64, f64) {
        let (traffic, least) = (pass.traffic(), self.least_bytes(pass.rows) as f64);
        let over = |sectors: u64| (32 * sectors) as f64 / least;
        (over(traffic.unique_sectors), over(traffic.sectors))
    }

    /// Name of each launch of linear of a pass and its instructions other than mma per weight tile.
    pub fn instructions_per_tile(&self, pass: &Sweep) -> Vec<(&'static str, f64)> {
        let bytes = matrix_bytes(&self.config);
        let names = Plans::choose(&self.config, H100)
            .named()
            .map(|(name, _)| name);
        let matrices = (0..4 * self.config.layers).map(|i| i % 4).chain([4]);
        let of = |(launch, matrix): (&Counts, usize)| {
            let others = launch.warp_instructions - mma(launch);
            (names[matrix], others as f64 / (bytes[matrix] / 512) as f64)
        };
        pass.linear().zip(matrices).map(of).collect()
    }

    /// What no pass may do otherwise: weights' sectors exactly their packed size, an mma a tile and
    /// group of 8 rows, no bank conflict, five launches a layer and six.
    pub fn check(&self, name: &str) {
        let (layers, head) = self.packed_bytes();
        for sweep in self.prefill.iter().chain(&self.passes) {
            let filling = sweep.linear().count() == 4 * self.config.layers;
            let packed = if filling { layers } else { layers + head };
            let rows = sweep.rows;
            assert_eq!(sweep.weight_bytes(), packed, "{name}, {rows} rows");
            let found: u64 = sweep.linear().map(mma).sum();
            let expected = packed / 512 * rows.div_ceil(8) as u64;
            assert_eq!(found, expected, "mma of {name}, {rows} rows");
            for launch in &sweep.launches {
                assert_eq!(
                    launch.shared_conflicts, 0,
                    "{name}, {rows} rows: {}",
                    launch.kernel
                );
                assert!(
                    !launch.classes.contains_key("local"),
                    "{name}: {}",
                    launch.kernel
                );
            }
            let launches = sweep.launches.len();
            assert!(
                launches <= 5 * self.config.layers + 6,
                "{name}: {launches} launches"
            );
        }
    }

    /// Lines of a table, one a pass.
    pub fn table(&self, name: &str) -> String {
        let mut text = String::new();
        for pass in &self.passes {
            let (memory, l2) = self.over_least(pass);
            let instructions = self.instructions_per_tile(pass);
            let last = &instructions[instructions.len() - 5..];
            let each: Vec<String> = last.iter().map(|(n, i)| format!("{n} {i:.2}")).collect();
            text += &format!(
                "| {name} | {} | {memory:.3} | {l2:.3} | {} | {} |\n",
                pass.rows,
                pass.launches.len(),
                each.join(", "),
            );
        }
        text
    }
}
