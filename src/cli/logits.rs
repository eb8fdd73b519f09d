//! `gavel logits`: what a model computes, for comparison with any other engine.

use super::progress::Progress;
use super::setup::{ModelArgs, end_on_interrupt, read_text};
use super::usage;
use anyhow::Context;
use gavel::device::{Device, Logits, PassOutput, Want};
use gavel::draft::Drafter;
use gavel::judge::Judge;
use gavel::output::write_atomically;
use gavel::tree::{MAX_ROWS, TokenTree};
use gavel::verify::{Law, Sampling};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Token ids: a comma-separated list, or a file with a JSON array
    #[arg(long, value_name = "FILE|LIST")]
    ids: String,
    /// A tree below the last id: a JSON file {"tokens": [...], "parents": [...]}
    #[arg(long, value_name = "FILE")]
    tree: Option<PathBuf>,
    /// Also write the residual stream after this many layers; may be given several times
    #[arg(long, value_name = "LAYER")]
    tap: Vec<usize>,
    /// Also write what a trained judge makes of every token: its acceptability, 0 to 1
    #[arg(long, value_name = "FILE")]
    judge: Option<PathBuf>,
    /// Also write N tokens of greedy continuation
    #[arg(long, default_value_t = 0, value_name = "N")]
    greedy: usize,
    /// Where to write
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
}

/// The tree file's format.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct TreeFile {
    tokens: Vec<u32>,
    parents: Vec<i32>,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    end_on_interrupt()?;
    let ids = read_ids(&args.ids)?;
    let tree = args.tree.as_ref().map(|path| read_tree(path)).transpose()?;
    let target = args.model.open()?;
    let (vocab_size, hidden_size) = (target.config.vocab_size, target.config.hidden_size);
    let open = |path| Judge::open(path, &target, &Drafter::None, false);
    let judge = args.judge.as_deref().map(open).transpose()?;
    let mut device = args.model.device.open(target, Drafter::None)?;
    let want = Want {
        logits: Logits::All,
        hidden: true,
        taps: args.tap.clone(),
        judge: judge.map(Arc::new),
    };
    let rows = ids.len() + tree.as_ref().map_or(0, TokenTree::len) + args.greedy;
    let mut progress = Progress::new(rows, "rows");

    let prompt = read_prompt(device.as_mut(), &ids, &want, &mut progress)?;
    let mut file = File::default();
    file.f32("logits", &prompt.logits, vocab_size);
    file.f32("last_hidden", &prompt.last_hidden, hidden_size);
    file.scores("scores", &prompt.scores);
    for (layer, rows) in &prompt.taps {
        file.f32(&format!("hidden_{layer}"), rows, hidden_size);
    }
    if let Some(tree) = &tree {
        let output = device.pass(
            tree,
            &Want {
                taps: Vec::new(),
                ..want
            },
        )?;
        progress.advance(tree.len());
        file.f32("tree_logits", &output.logits, vocab_size);
        file.f32("tree_last_hidden", &output.last_hidden, hidden_size);
        file.scores("tree_scores", &output.scores);
    }
    let mut done = Ok(());
    if args.greedy > 0 {
        let last = &prompt.logits[prompt.logits.len() - vocab_size..];
        match greedy(device.as_mut(), last, args.greedy, &mut progress) {
            Ok(tokens) => file.i64("greedy", &tokens),
            Err(error) => done = Err(error.context("--greedy (what came before is written)")),
        }
    }
    drop(progress);
    file.write(&args.out)?;
    done
}

fn read_prompt(
    device: &mut dyn Device,
    ids: &[u32],
    want: &Want,
    progress: &mut Progress,
) -> anyhow::Result<PassOutput> {
    let mut output = PassOutput::default();
    for chunk in ids.chunks(MAX_ROWS) {
        output.append(gavel::device::prefill(device, chunk, want)?);
        progress.advance(chunk.len());
    }
    Ok(output)
}

/// `count` tokens: the best of `logits`, then each the best after the ones before.
fn greedy(
    device: &mut dyn Device,
    logits: &[f32],
    count: usize,
    progress: &mut Progress,
) -> anyhow::Result<Vec<i64>> {
    let want = Want {
        logits: Logits::Last,
        ..Want::default()
    };
    let mut tokens = vec![argmax(logits)?];
    while tokens.len() < count {
        let next = gavel::device::prefill(device, &tokens[tokens.len() - 1..], &want)?;
        tokens.push(argmax(&next.logits)?);
        progress.advance(1);
    }
    Ok(tokens.into_iter().map(i64::from).collect())
}

/// The lowest id of the highest logit.
fn argmax(logits: &[f32]) -> anyhow::Result<u32> {
    let law = Law::new(logits, logits.len(), &Sampling::GREEDY)?;
    law.certain().context("a greedy law has one token")
}

fn read_ids(ids: &str) -> anyhow::Result<Vec<u32>> {
    let is_list = ids
        .bytes()
        .all(|b| b.is_ascii_digit() || b == b',' || b == b' ');
    let list: Vec<u32> = if is_list {
        let parse = |part: &str| {
            let part = part.trim();
            part.parse()
                .map_err(|_| usage(format!("--ids: '{part}' is no token id")))
        };
        ids.split(',').map(parse).collect::<anyhow::Result<_>>()?
    } else {
        serde_json::from_str(&read_text(ids)?)
            .map_err(|e| usage(format!("{ids}: {e}, expected a JSON array of token ids")))?
    };
    if list.is_empty() {
        return Err(usage("--ids: found no ids, expected at least one"));
    }
    Ok(list)
}

fn read_tree(path: &std::path::Path) -> anyhow::Result<TokenTree> {
    let name = path.display().to_string();
    let file: TreeFile = serde_json::from_str(&read_text(&name)?).map_err(|e| {
        usage(format!(
            "{name}: {e}, expected {{\"tokens\": [...], \"parents\": [...]}}"
        ))
    })?;
    TokenTree::new(file.tokens, file.parents).context(name)
}

/// The output file under construction.
#[derive(Default)]
struct File {
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

impl File {
    fn f32(&mut self, name: &str, rows: &[f32], width: usize) {
        let bytes = rows.iter().flat_map(|x| x.to_le_bytes()).collect();
        let shape = vec![rows.len() / width, width];
        self.tensors
            .insert(name.to_owned(), (Dtype::F32, shape, bytes));
    }

    /// One a row, where a judge was asked.
    fn scores(&mut self, name: &str, values: &[f32]) {
        if !values.is_empty() {
            let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            self.tensors
                .insert(name.to_owned(), (Dtype::F32, vec![values.len()], bytes));
        }
    }

    fn i64(&mut self, name: &str, values: &[i64]) {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.tensors
            .insert(name.to_owned(), (Dtype::I64, vec![values.len()], bytes));
    }

    fn write(&self, path: &std::path::Path) -> anyhow::Result<()> {
        let views = self.tensors.iter().map(|(name, (dtype, shape, bytes))| {
            Ok((name, TensorView::new(*dtype, shape.clone(), bytes)?))
        });
        let views: Vec<_> = views.collect::<Result<_, safetensors::SafeTensorError>>()?;
        let bytes = safetensors::serialize(views, None)?;
        Ok(write_atomically(path, |file| file.write_all(&bytes))?)
    }
}
