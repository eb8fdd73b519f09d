//! Flags that several subcommands share, and what they turn into.

use super::usage;
use anyhow::Context;
use clap::Args;
use gavel::device::{Device, Draw, Place, Setup};
use gavel::draft::Drafter;
use gavel::engine::{DraftOptions, Gamma};
use gavel::judge::{At, Judge};
use gavel::model::{Model, Tokenizer};
use gavel::tree::Shape;
use gavel::verify::{Guard, Policy, Rule, Sampling};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Which model, on what.
#[derive(Args)]
pub struct ModelArgs {
    /// Directory as Hugging Face writes it, or a Hub id such as org/name
    #[arg(long, value_name = "DIR|ID")]
    pub model: String,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// Where it runs.
#[derive(Args)]
pub struct DeviceArgs {
    /// Most positions of a sequence [default: the smaller of 8192 and what the model was made for]
    #[arg(long, value_name = "N")]
    pub context: Option<usize>,
    /// cpu, or cuda[:INDEX]
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: String,
    /// Threads of the CPU device [default: all cores]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
}

/// What drafts, and how.
#[derive(Args)]
pub struct DraftArgs {
    /// What drafts: a model (DIR or ID), ngram, self:LAYERS, or none
    #[arg(
        long,
        default_value = "none",
        value_name = "DIR|ngram|self:LAYERS|none"
    )]
    pub draft: String,
    /// Draft a chain of this many tokens, or auto: as many as promise the most tokens a second, by
    /// the acceptance rate and the times measured on the way [default: 4]
    #[arg(long, value_name = "N|auto", conflicts_with = "tree")]
    pub gamma: Option<Gamma>,
    /// Draft a tree: children per level such as 4x2x2x1, or best:NODES[xDEPTH]
    #[arg(long, value_name = "SPEC")]
    pub tree: Option<Shape>,
    /// How a model drafter chooses children: sample from its law (chains), or the best (trees)
    #[arg(long, value_name = "sample|top")]
    pub draw: Option<Draw>,
    /// Temperature of the drafter [default: the target's]
    #[arg(long, value_name = "T")]
    pub draft_temperature: Option<f32>,
}

/// What is accepted.
#[derive(Args)]
pub struct PolicyArgs {
    /// chain, block, kl=D[,reverse], margin=R, typical[=EPS,ALPHA], threshold=T,
    /// sglang=SINGLE,ACCUMULATED, topk=K or synthetic=RATE
    #[arg(long, default_value = "chain", value_name = "RULE")]
    pub rule: Rule,
    /// A trained judge: its file
    #[arg(long, value_name = "FILE")]
    pub judge: Option<PathBuf>,
    /// The judge's threshold: an operating point f1, r90 or mid, budget=B for at most B expected
    /// harmful rescues per answer, or a number
    #[arg(long, default_value = "f1", value_name = "POINT|THETA")]
    pub at: At,
    /// Use a judge that was trained for another target (transfer experiments)
    #[arg(long)]
    pub allow_foreign_target: bool,
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

/// How the target samples, and what no rule may touch.
#[derive(Args, Clone)]
pub struct SamplingArgs {
    /// Tokens that a rule may not rescue beyond end-of-sequence and special ones: digits
    /// and token ids, comma-separated; or none, to guard nothing at all
    #[arg(
        long,
        default_value = "",
        value_name = "LIST|none",
        hide_default_value = true
    )]
    pub guard: String,
    /// Sampling temperature; 0 is greedy
    #[arg(long, default_value_t = 0.0, value_name = "T")]
    pub temperature: f32,
    /// Sample among the K best tokens; 0 is off
    #[arg(long, default_value_t = 0, value_name = "K")]
    pub top_k: usize,
    /// Sample among the best tokens that hold this share of the probability; 1 is off
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    pub top_p: f32,
    /// Seed of all random numbers
    #[arg(long, default_value_t = 0, value_name = "S")]
    pub seed: u64,
}

impl ModelArgs {
    /// Finds and opens the model.
    pub fn open(&self) -> anyhow::Result<Arc<Model>> {
        Ok(Arc::new(Model::open(&Model::locate(&self.model)?)?))
    }
}

impl DeviceArgs {
    pub fn context(&self, model: &Model) -> usize {
        self.context
            .unwrap_or_else(|| Setup::default_context(model))
    }

    /// Opens the device on which `target` and `drafter` run.
    pub fn open(&self, target: Arc<Model>, drafter: Drafter) -> anyhow::Result<Box<dyn Device>> {
        let setup = Setup {
            context: self.context(&target),
            target,
            drafter,
            threads: self.threads,
        };
        let place: Place = self
            .device
            .parse()
            .map_err(|e| usage(format!("--device {}: {e}", self.device)))?;
        Ok(place.open(&setup)?)
    }
}

impl DraftArgs {
    /// The drafter; a model is checked against the target's vocabulary.
    pub fn drafter(&self, target: &Arc<Model>) -> anyhow::Result<Drafter> {
        let explicit_shape = self.gamma.is_some() || self.tree.is_some();
        match self.draft.as_str() {
            "none" if explicit_shape => Err(usage(
                "--gamma and --tree need a drafter: --draft DIR, ngram or self:LAYERS",
            )),
            name => Ok(Drafter::open(name, target)?),
        }
    }

    /// The same without the drafter.
    pub fn options(&self) -> DraftOptions {
        DraftOptions {
            gamma: self.gamma,
            tree: self.tree.clone(),
            draw: self.draw,
            temperature: self.draft_temperature,
        }
    }
}

impl PolicyArgs {
    /// The judge, checked against the loaded models.
    pub fn judge(&self, target: &Model, drafter: &Drafter) -> anyhow::Result<Option<Arc<Judge>>> {
        let open = |path| Judge::open(path, target, drafter, self.allow_foreign_target);
        let judge = self.judge.as_deref().map(open).transpose()?;
        Ok(judge.map(Arc::new))
    }

    /// Sampling, rule and guard as one.
    pub fn policy(
        &self,
        judge: Option<&Judge>,
        target: &Model,
        tokenizer: &Tokenizer,
    ) -> anyhow::Result<Policy> {
        let sampling = self.sampling.sampling()?;
        let rule = match judge {
            Some(judge) => self.rule.with_judge(judge.theta(self.at)?)?,
            None => self.rule,
        };
        Ok(Policy {
            sampling,
            rule,
            guard: self.sampling.guard(target, tokenizer)?,
        })
    }
}

impl SamplingArgs {
    pub fn sampling(&self) -> anyhow::Result<Sampling> {
        let sampling = Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
        };
        sampling.check()?;
        Ok(sampling)
    }

    pub fn guard(&self, target: &Model, tokenizer: &Tokenizer) -> anyhow::Result<Guard> {
        gavel::engine::guard(&self.guard, target, tokenizer)
            .map_err(|e| usage(format!("--guard {e}")))
    }
}

/// Reads text that must be UTF-8, `-` from standard input.
pub fn read_text(name: &str) -> anyhow::Result<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    if name == "-" {
        std::io::stdin()
            .lock()
            .read_to_end(&mut bytes)
            .context("standard input")?;
    } else {
        bytes = std::fs::read(Path::new(name)).map_err(|e| usage(format!("{name}: {e}")))?;
    }
    String::from_utf8(bytes).map_err(|e| {
        let (at, name) = (
            e.utf8_error().valid_up_to(),
            if name == "-" { "standard input" } else { name },
        );
        usage(format!(
            "{name}: byte {at} (0x{:02x}) is not UTF-8, expected text",
            e.as_bytes()[at]
        ))
    })
}

/// Set by the first Ctrl-C; a second one ends the process.
pub fn on_interrupt() -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = flag.clone();
    ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::Relaxed) {
            gavel::output::exit(INTERRUPTED);
        }
    })
    .context("Ctrl-C")?;
    Ok(flag)
}

/// What a shell says of a command that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Ctrl-C ends the process, but not while a file is being written.
pub fn end_on_interrupt() -> anyhow::Result<()> {
    ctrlc::set_handler(|| gavel::output::exit(INTERRUPTED)).context("Ctrl-C")
}
