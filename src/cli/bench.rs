//! `gavel bench`: latency of ways to decode, side by side.

use super::menu::{MenuArgs, items};
use super::progress::Progress;
use super::setup::{DeviceArgs, on_interrupt, read_text};
use super::usage;
use anyhow::{Context, bail};
use gavel::bench::{
    self, Bench, Mode, Prompt, PromptSpec, Record, Settings, compare, of_length, pictures,
    summarise,
};
use gavel::engine::{GAMMAS, Gamma};
use gavel::eval::{self, Decoder, Menu, Row};
use gavel::judge::At;
use gavel::model::{ChatTemplate, Model, Tokenizer};
use gavel::output::write_atomically;
use gavel::tree::Shape;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The pair that is benched where none is named.
const DEMO: &str = "models/demo";

#[derive(clap::Args)]
pub struct Args {
    /// Directory as Hugging Face writes it, or a Hub id [default: the demo pair with its judge]
    #[arg(long, value_name = "DIR|ID")]
    model: Option<String>,
    #[command(flatten)]
    menu: MenuArgs,
    /// Ways to decode, comma-separated: plain, tree, judge, a judge's name, chain, block, kl=D,
    /// margin=R, typical, threshold=T, sglang=SINGLE,ACCUMULATED, topk=K; behind each may stand
    /// @SHAPE or @tree. plain is always there [default: chain, block, tree, judge where --judge is]
    #[arg(long, value_name = "LIST")]
    rules: Vec<String>,
    /// Also keep drafts by a coin at these rates, comma-separated: latency apart from draft quality
    #[arg(long, value_name = "RATE", value_delimiter = ',')]
    synthetic: Vec<f32>,
    /// Lengths of drafted chains, comma-separated; auto is chosen step by step, among 0 and the
    /// others that are named, or else among 0 to 12
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "8")]
    gamma: Vec<Gamma>,
    /// Trees: children per level such as 4x2x2x1, or best:NODES[xDEPTH]; comma-separated
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "4x2x2x1"
    )]
    tree: Vec<Shape>,
    /// Where on their curves judges work, comma-separated: f1, r90, mid, budget=B or thresholds
    /// [default: f1; budget=0.01 for the demo pair]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    theta: Vec<At>,
    /// Prompts: {"kind": KIND, "prompt": TEXT} a line [default: built in, of five kinds; word
    /// problems for the demo pair]
    #[arg(long, value_name = "FILE.jsonl")]
    prompts: Option<PathBuf>,
    /// Only prompts of these kinds, comma-separated: question, code, summary, dialogue, arithmetic,
    /// or those of --prompts
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    kind: Vec<String>,
    /// At most this many prompts; the built-in kinds take turns
    #[arg(long, value_name = "N", default_value_t = 5)]
    limit: usize,
    /// Prompts of exactly these lengths in tokens, comma-separated: other prompts go before each
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        conflicts_with = "context"
    )]
    prompt_length: Vec<usize>,
    /// Decode where these many positions become full, comma-separated: the prompt fills what
    /// --max-tokens leaves
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    context: Vec<usize>,
    /// Most tokens of a run
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_tokens: usize,
    /// Go on after end-of-sequence tokens, so that all runs are of one length
    #[arg(long)]
    ignore_eos: bool,
    /// Plain prompts in place of the chat template
    #[arg(long)]
    no_chat: bool,
    /// Timed runs of each mode and prompt
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Runs of each mode before the first timed one
    #[arg(long, value_name = "N", default_value_t = 1)]
    warmup: usize,
    /// cpu, or cuda[:INDEX]
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    device: String,
    /// Threads of the CPU device [default: all cores]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    threads: usize,
    /// Keep bench.json, with every sample, and pictures in this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Accuracies to draw against speed: report.json of gavel eval
    #[arg(long, value_name = "FILE", requires = "out")]
    eval: Option<PathBuf>,
    /// Print what bench.json has instead of the tables
    #[arg(long)]
    json: bool,
    /// Say what changed between two benches beyond noise, and run nothing
    #[arg(long, num_args = 2, value_names = ["A.json", "B.json"])]
    compare: Vec<PathBuf>,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    if let [a, b] = &args.compare[..] {
        return show_comparison(args, a, b);
    }
    if args.max_tokens == 0 || args.rounds == 0 || args.limit == 0 {
        return Err(usage(format!(
            "--max-tokens {} --rounds {} --limit {}: expected at least 1 of each",
            args.max_tokens, args.rounds, args.limit
        )));
    }
    let (name, menu) = models(args)?;
    let target = Arc::new(Model::open(&Model::locate(&name)?)?);
    let tokenizer = Tokenizer::open(&target.dir)?;
    let modes = modes(args, &menu, &target, &tokenizer)?;
    let device = device(args, &target)?;
    let prompts = prompts(args, &target, &tokenizer, device.context(&target))?;

    let rows: Vec<Row> = modes.iter().map(|m| m.row.clone()).collect();
    let mut decoders = Vec::new();
    for drafter in eval::drafters(&rows) {
        decoders.push(Decoder {
            device: device.open(target.clone(), drafter.clone())?,
            drafter,
        });
    }
    let bench = Bench {
        modes: &modes,
        target: &target,
        prompts: &prompts,
        settings: Settings {
            rounds: args.rounds,
            warmup: args.warmup,
            max_tokens: args.max_tokens,
            ignore_eos: args.ignore_eos,
            context: device.context(&target),
            seed: args.menu.sampling.seed,
            sampling: args.menu.sampling.sampling()?.into(),
        },
        arguments: std::env::args().skip(1).collect(),
    };
    let flag = on_interrupt()?;
    let mut record = bench::begin(&bench, &decoders)?;
    let mut progress = Progress::new(record.runs_asked + args.warmup * modes.len(), "runs");
    let interrupted = || flag.load(Ordering::Relaxed);
    let ended = bench::run(
        &bench,
        &mut decoders,
        &mut record,
        &interrupted,
        &mut || {
            progress.advance(1);
        },
    );
    drop(progress);
    // whatever is there is kept and shown before anything fails
    show(args, &record)?;
    ended?;
    if !record.differences.is_empty() {
        bail!(
            "{} outputs differ where they must be the same; see DIFFERENT above, or differences in the JSON",
            record.differences.len()
        );
    }
    if record.was_interrupted() {
        bail!(
            "interrupted after {} of {} runs; the figures are those of these runs",
            record.samples.len(),
            record.runs_asked
        );
    }
    Ok(())
}

fn show_comparison(args: &Args, a: &Path, b: &Path) -> anyhow::Result<()> {
    let (first, second) = (Record::read(a)?, Record::read(b)?);
    let comparison = compare(&first, &second)?;
    let text = match args.json {
        true => serde_json::to_string(&comparison).context("the comparison")? + "\n",
        false => format!(
            "A {}\nB {}\n\n{}",
            a.display(),
            b.display(),
            comparison.text()
        ),
    };
    print(&text)
}

/// The target, and flags that name what goes with it: the demo pair's where none is named.
fn models(args: &Args) -> anyhow::Result<(String, MenuArgs)> {
    let mut menu = args.menu.clone();
    if let Some(name) = &args.model {
        return Ok((name.clone(), menu));
    }
    let dir = Path::new(DEMO);
    if !dir.join("target").is_dir() {
        return Err(usage(format!(
            "{DEMO}: found no target/, expected the demo pair; run from the project's folder or give --model"
        )));
    }
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let judge = dir.join("judge.safetensors");
    if menu.draft.is_empty() {
        menu.draft.push(path("draft"));
        if menu.judge.is_empty() && judge.is_file() {
            menu.judge
                .push(format!("selfjudge={}", path("judge.safetensors")));
        }
    }
    Ok((path("target"), menu))
}

/// What is benched, plain decoding first.
fn modes(
    args: &Args,
    menu: &MenuArgs,
    target: &Arc<Model>,
    tokenizer: &Tokenizer,
) -> anyhow::Result<Vec<Mode>> {
    let auto = args.gamma.contains(&Gamma::Auto);
    let mut fixed: Vec<usize> = Vec::new();
    for gamma in &args.gamma {
        if let Gamma::Fixed(gamma) = gamma
            && !fixed.contains(gamma)
        {
            fixed.push(*gamma);
        }
    }
    let thetas = match (&args.theta[..], &args.model) {
        ([], None) => vec![At::Budget(0.01)],
        ([], Some(_)) => vec![At::F1],
        (thetas, _) => thetas.to_vec(),
    };
    let choices = match fixed.is_empty() {
        true => GAMMAS.to_vec(),
        false => [&[0], &fixed[..]].concat(),
    };
    // rows from which to adapt are made for one length where none is asked for
    let gammas = match fixed.is_empty() {
        true => vec![4],
        false => fixed.clone(),
    };
    let menu: Menu = menu.menu(target, tokenizer, (&gammas, &args.tree, &thetas))?;
    let mut modes: Vec<Mode> = Vec::new();
    let rows = menu.rows(&rules(args, &menu))?;
    for row in &rows {
        let made_here = matches!(row.step.shape, Shape::Chain(gamma) if gammas.contains(&gamma));
        if !made_here || !fixed.is_empty() {
            modes.push(Mode::fixed(row.clone()));
        }
    }
    for row in rows.iter().filter(|_| auto) {
        if matches!(row.step.shape, Shape::Chain(gamma) if gammas.contains(&gamma)) {
            let mode = Mode::adaptive(row, &choices);
            if modes.iter().all(|m| m.row.name != mode.row.name) {
                modes.push(mode);
            }
        }
    }
    Ok(modes)
}

/// The list of rules, plain decoding first.
fn rules(args: &Args, menu: &Menu) -> Vec<String> {
    let mut rules = vec!["plain".to_owned()];
    match args.rules.is_empty() {
        false => rules.extend(args.rules.iter().flat_map(|list| items(list))),
        true if menu.drafters.is_empty() => {}
        true => {
            rules.extend(["chain", "block", "tree"].map(str::to_owned));
            if !menu.judges.is_empty() {
                rules.push("judge".to_owned());
            }
        }
    }
    rules.extend(
        args.synthetic
            .iter()
            .map(|rate| format!("synthetic={rate}")),
    );
    rules
}

/// A device whose context holds the longest of what is asked for.
fn device(args: &Args, target: &Model) -> anyhow::Result<DeviceArgs> {
    for &context in &args.context {
        if context <= args.max_tokens {
            return Err(usage(format!(
                "--context {context}: expected more than --max-tokens {}",
                args.max_tokens
            )));
        }
    }
    let mut device = DeviceArgs {
        context: args.context.iter().copied().max(),
        device: args.device.clone(),
        threads: args.threads,
    };
    let most = target.config.max_positions;
    let longest = args
        .prompt_length
        .iter()
        .max()
        .map_or(0, |l| l + args.max_tokens);
    if longest > most {
        return Err(usage(format!(
            "--prompt-length {}: with --max-tokens {} that makes {longest} positions, the model was made for {most}",
            longest - args.max_tokens,
            args.max_tokens
        )));
    }
    if longest > device.context(target) {
        device.context = Some(longest);
    }
    Ok(device)
}

/// What is decoded, tokens and all.
fn prompts(
    args: &Args,
    target: &Model,
    tokenizer: &Tokenizer,
    context: usize,
) -> anyhow::Result<Vec<(PromptSpec, Vec<u32>)>> {
    // the demo pair was made for word problems and knows nothing else
    let of_demo = Path::new(DEMO).join("problems.jsonl");
    let file = match &args.prompts {
        None if args.model.is_none() => Some(&of_demo),
        file => file.as_ref(),
    };
    let all = match file {
        Some(path) => {
            let name = path.to_string_lossy();
            Prompt::parse(&read_text(&name)?, &name)?
        }
        None => Prompt::built_in(),
    };
    let mut kinds: Vec<&str> = all.iter().map(|p| &*p.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    if let Some(unknown) = args.kind.iter().find(|k| !kinds.contains(&&***k)) {
        return Err(usage(format!(
            "--kind {unknown}: expected one of {}",
            kinds.join(", ")
        )));
    }
    let wanted = |p: &&Prompt| args.kind.is_empty() || args.kind.contains(&p.kind);
    let chosen: Vec<&Prompt> = all.iter().filter(wanted).take(args.limit).collect();
    if chosen.is_empty() {
        return Err(usage("--prompts: found no prompt, expected at least one"));
    }
    let template = match args.no_chat {
        true => None,
        false => ChatTemplate::open(&target.dir)?,
    };
    let mut ids = Vec::new();
    for prompt in &chosen {
        ids.push(match &template {
            Some(template) => {
                let text = template.ask(None, &prompt.prompt)?;
                tokenizer.encode(&text, false)?
            }
            None => tokenizer.encode(&prompt.prompt, true)?,
        });
    }
    let room = context.saturating_sub(args.max_tokens).max(1);
    let lengths: Vec<(String, Option<usize>)> = match (&args.prompt_length[..], &args.context[..]) {
        ([], []) => vec![(String::new(), None)],
        ([], contexts) => contexts
            .iter()
            .map(|c| (format!("context {c}"), Some(c - args.max_tokens)))
            .collect(),
        (lengths, _) => lengths
            .iter()
            .map(|l| (format!("prompt of {l}"), Some(*l)))
            .collect(),
    };
    let mut prompts = Vec::new();
    for (workload, length) in &lengths {
        for (place, prompt) in chosen.iter().enumerate() {
            let own = ids[place].len();
            if length.is_none() && own > room {
                eprintln!(
                    "gavel: prompt {place} ({}) has {own} tokens, its last {room} fit the context of {context} with --max-tokens {}",
                    prompt.kind, args.max_tokens
                );
            }
            let tokens = of_length(&ids, place, length.unwrap_or(own.min(room)));
            if tokens.is_empty() {
                return Err(usage(format!(
                    "--prompt-length {}: prompt {place} has no tokens, expected at least one",
                    length.unwrap_or(own)
                )));
            }
            let spec = PromptSpec::new(workload, &prompt.kind, &tokens);
            prompts.push((spec, tokens));
        }
    }
    Ok(prompts)
}

/// Files first: a terminal that goes away takes nothing with it.
fn show(args: &Args, record: &Record) -> anyhow::Result<()> {
    let summary = summarise(record);
    let mut json = serde_json::to_value(record).context("the record")?;
    json["summary"] = serde_json::to_value(&summary).context("the summary")?;
    let mut written = String::new();
    if let Some(dir) = &args.out {
        std::fs::create_dir_all(dir).with_context(|| format!("{}", dir.display()))?;
        let path = dir.join("bench.json");
        write_atomically(&path, |file| writeln!(file, "{json}"))?;
        written = format!("{}", path.display());
        for picture in pictures(record, &summary, args.eval.as_deref())? {
            let path = dir.join(picture.name);
            write_atomically(&path, |file| file.write_all(picture.svg.as_bytes()))?;
            written += &format!(", {}", path.display());
        }
        written += "\n";
    }
    match args.json {
        true => print(&format!("{json}\n")),
        false => print(&(summary.text(record) + &written)),
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .context("standard output")
}
