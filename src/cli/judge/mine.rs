//! `gavel judge mine`: labels for a judge, without annotation.

use crate::cli::progress::Progress;
use crate::cli::setup::{ModelArgs, on_interrupt};
use crate::cli::usage;
use anyhow::Context;
use gavel::draft::{Drafter, Ngram};
use gavel::judge::samples::{Method, Prompt, Run};
use gavel::judge::{Features, Layout, Tap};
use gavel::mine::{self, Counts, Item, Job, Labelled, Miner, Options, Reader};
use gavel::model::{ChatTemplate, Model, Tokenizer};
use gavel::task::{Checker, Task};
use gavel::verify::Guard;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::Ordering;
use std::time::Instant;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// What drafts: a model (DIR or ID), ngram, or self:LAYERS
    #[arg(long, value_name = "DIR|ngram|self:LAYERS")]
    draft: String,
    /// Prompts, a JSON object a line: {prompt}, with --task its fields, with --method labels
    /// {prompt, response, wrong: [[start, end], ...]} in characters of the response
    #[arg(long, value_name = "FILE.jsonl")]
    prompts: PathBuf,
    /// How labels are made: by the target's likelihoods, by final answers, or by people
    #[arg(long, default_value = "selfjudge", value_name = "selfjudge|autojudge|labels", value_parser = method)]
    method: Method,
    /// The folder of the samples; a run that was interrupted goes on in it
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// SelfJudge: suffix lengths N to score with, comma-separated; several cost no more
    /// than the longest
    #[arg(
        long,
        value_name = "N,N,...",
        value_delimiter = ',',
        default_value = "20"
    )]
    suffix: Vec<usize>,
    /// SelfJudge: the drafter's K best at every position, for judging trees
    #[arg(long, value_name = "K", default_value_t = 1)]
    ranks: usize,
    /// Hidden states of the target to keep: final, or residual streams after so many layers
    #[arg(
        long,
        value_name = "TAP,TAP,...",
        value_delimiter = ',',
        default_value = "final"
    )]
    taps: Vec<Tap>,
    /// Whose hidden states: the target's (DT), or the drafter's and the target's (DD-DT)
    #[arg(long, value_name = "LAYOUT", default_value = "DT", value_parser = super::layout)]
    layout: Layout,
    /// What the prompts are problems of: gsm8k, math, mmlu, humaneval, summarize or
    /// word-problems; final answers are then checked
    #[arg(long, value_name = "TASK")]
    task: Option<Task>,
    /// How final answers are found and compared: hashes, gsm8k, boxed, choice or
    /// command=COMMAND [default: the task's]; with selfjudge, every substitution is then
    /// tried, whether it changes the answer
    #[arg(long, value_name = "CHECKER|none")]
    checker: Option<String>,
    /// Ask with plain prompts, for a base model, in place of the chat template
    #[arg(long)]
    no_chat: bool,
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_tokens: usize,
    /// Leave out this many prompts at the beginning
    #[arg(long, value_name = "N", default_value_t = 0)]
    offset: usize,
    /// Mine at most this many prompts [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Mine part I of N of the prompts, I from 1; the parts' folders are read as one
    #[arg(long, value_name = "I/N")]
    shard: Option<Part>,
    /// Also time one forward pass per substitution
    #[arg(long)]
    baseline: bool,
    /// Print what was done as one JSON object
    #[arg(long)]
    json: bool,
}

/// Part I of N.
#[derive(Clone, Copy, Debug)]
struct Part {
    which: usize,
    of: usize,
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Part, String> {
        let numbers = text.split_once('/').and_then(|(which, of)| {
            let (which, of) = (which.parse().ok()?, of.parse().ok()?);
            (1..=of).contains(&which).then_some(Part { which, of })
        });
        numbers.ok_or_else(|| "expected I/N with I from 1 to N, such as 2/8".to_owned())
    }
}

fn method(text: &str) -> Result<Method, String> {
    match text {
        "selfjudge" => Ok(Method::SelfJudge),
        "autojudge" => Ok(Method::AutoJudge),
        "labels" => Ok(Method::Labels),
        _ => Err("expected selfjudge, autojudge or labels".to_owned()),
    }
}

/// Longest suffix: a branch fits a pass beside its prompt's last token with room to spare.
const LONGEST_SUFFIX: usize = 256;
/// Most substitutes of a position.
const MOST_RANKS: usize = 64;

pub fn run(args: &Args) -> anyhow::Result<()> {
    let checker = checker(args)?;
    let suffixes = suffixes(args)?;
    let target = args.model.open()?;
    let tokenizer = Tokenizer::open(&target.dir)?;
    let drafter = drafter(&args.draft, &target)?;
    let (items, digest) = items(args, &target, &tokenizer)?;
    let features = features(args, &target, &drafter)?;
    let device = &args.model.device;
    let context = device.context(&target);
    check_lengths(args, &items, context)?;

    let mut settings = BTreeMap::new();
    let mut set = |name: &str, value: serde_json::Value| settings.insert(name.to_owned(), value);
    set("prompts", args.prompts.display().to_string().into());
    set("prompts_digest", digest.into());
    set("model", args.model.model.clone().into());
    set("draft", args.draft.clone().into());
    set("task", args.task.map(Task::name).into());
    set("checker", checker.as_ref().map(ToString::to_string).into());
    set("chat", (!args.no_chat).into());
    set("max_tokens", args.max_tokens.into());
    set("context", context.into());
    set(
        "shard",
        args.shard.map(|s| format!("{}/{}", s.which, s.of)).into(),
    );
    let run = Run {
        version: Run::VERSION,
        method: args.method,
        features: features.clone(),
        vocab_size: target.config.vocab_size,
        target_fingerprint: target.fingerprint().to_owned(),
        draft_fingerprint: drafter.model().map(|m| m.fingerprint().to_owned()),
        ranks: args.ranks,
        suffixes: suffixes.clone(),
        settings,
    };
    let options = Options {
        method: args.method,
        features,
        suffixes,
        ranks: args.ranks,
        max_tokens: args.max_tokens,
        context,
        stop_tokens: target.generation.eos.clone(),
        guard: gavel::engine::default_guard(&target, &tokenizer)
            .into_iter()
            .collect::<Guard>(),
        checker,
        baseline: args.baseline,
    };
    let reader = match &drafter {
        Drafter::Model(model) => {
            let of_draft = device.open(model.clone(), Drafter::None)?;
            Reader::model(of_draft, target.config.vocab_size)
        }
        _ => Reader::Ngram(Ngram::default()),
    };
    let mut miner = Miner::new(
        options,
        &tokenizer,
        device.open(target.clone(), drafter)?,
        reader,
    );

    let interrupted = on_interrupt()?;
    let began = Instant::now();
    let mut progress = Progress::new(items.len(), "prompts");
    let job = Job {
        run: &run,
        out: &args.out,
        items: &items,
    };
    let summary = mine::run(&mut miner, &job, &mut |_| {
        progress.advance(1);
        interrupted.load(Ordering::Relaxed)
    })?;
    drop(progress);
    report(
        args,
        miner.counts(),
        summary.before,
        began.elapsed().as_secs_f64(),
    )?;
    match summary.interrupted {
        true => Err(anyhow::anyhow!(
            "interrupted; the same command goes on where this one stopped"
        )),
        false => Ok(()),
    }
}

fn report(args: &Args, counts: &Counts, before: usize, seconds: f64) -> anyhow::Result<()> {
    let scoring = counts.scoring.as_secs_f64();
    let rate = |samples: usize, seconds: f64| samples as f64 / seconds;
    if args.json {
        let mut json = serde_json::to_value(counts).context("the report")?;
        json["seconds"] = seconds.into();
        json["prompts_before"] = before.into();
        println!("{json}");
        return Ok(());
    }
    let dir = args.out.display();
    if before > 0 {
        println!("{before} prompts were in {dir} already");
    }
    println!(
        "{} samples from {} prompts in {seconds:.1} s, {:.0} labels/s, in {dir}",
        counts.samples,
        counts.prompts,
        rate(counts.samples, seconds)
    );
    if counts.unchecked > 0 {
        println!(
            "{} answers had no final answer to check and were dropped",
            counts.unchecked
        );
    }
    if counts.samples == 0 {
        println!(
            "no mismatches were found: target and drafter agree everywhere, or nothing was left to mine"
        );
        return Ok(());
    }
    println!(
        "answers {:.1} s, drafter {:.1} s, scores and features {scoring:.1} s: {:.0} labels/s, {:.1} a pass",
        counts.answering.as_secs_f64(),
        counts.reading.as_secs_f64(),
        rate(counts.samples, scoring),
        counts.samples as f64 / counts.passes as f64
    );
    if let Some(b) = &counts.baseline {
        let trees = rate(counts.samples, scoring);
        for (what, passes, time) in [
            ("without a cached prefix", b.uncached_passes, b.uncached),
            ("with a cached prefix", b.cached_passes, b.cached),
        ] {
            let alone = rate(b.samples, time.as_secs_f64());
            println!(
                "one pass per substitution {what}: {alone:.0} labels/s of {} samples; trees are {:.1} x as fast in {:.1} x fewer passes",
                b.samples,
                trees / alone,
                (passes as f64 / b.samples as f64) / (counts.passes as f64 / counts.samples as f64)
            );
        }
        println!(
            "largest difference of a score: {:.1e} nats",
            b.largest_difference
        );
    }
    Ok(())
}

fn checker(args: &Args) -> anyhow::Result<Option<Checker>> {
    let checker = match args.checker.as_deref() {
        Some("none") => None,
        Some(name) => Some(
            name.parse::<Checker>()
                .map_err(|e| usage(format!("--checker: {e}")))?,
        ),
        None => args.task.and_then(Task::checker),
    };
    if args.method == Method::AutoJudge && checker.is_none() {
        return Err(usage(
            "--method autojudge compares final answers, found no way to: give --task or --checker",
        ));
    }
    if args.method != Method::SelfJudge && args.ranks != 1 {
        return Err(usage(format!(
            "--ranks {}: {} has one substitute per position; --ranks is for --method selfjudge",
            args.ranks, args.method
        )));
    }
    match args.method {
        Method::Labels => Ok(None),
        _ => Ok(checker),
    }
}

fn suffixes(args: &Args) -> anyhow::Result<Vec<usize>> {
    if args.method != Method::SelfJudge {
        return Ok(Vec::new());
    }
    let mut suffixes = args.suffix.clone();
    suffixes.sort_unstable();
    suffixes.dedup();
    if let Some(n) = suffixes.iter().find(|&&n| n > LONGEST_SUFFIX) {
        return Err(usage(format!(
            "--suffix {n}: expected at most {LONGEST_SUFFIX} tokens"
        )));
    }
    if !(1..=MOST_RANKS).contains(&args.ranks) {
        return Err(usage(format!(
            "--ranks {}: expected 1 to {MOST_RANKS}",
            args.ranks
        )));
    }
    Ok(suffixes)
}

fn drafter(name: &str, target: &Model) -> anyhow::Result<Drafter> {
    match name {
        "none" => Err(usage(
            "--draft none: mismatches need a drafter: a model, ngram or self:LAYERS",
        )),
        _ => Ok(Drafter::open(name, target)?),
    }
}

fn features(args: &Args, target: &Model, drafter: &Drafter) -> anyhow::Result<Features> {
    for (i, tap) in args.taps.iter().enumerate() {
        let layers = target.config.layers;
        if matches!(*tap, Tap::Layer(layer) if layer > layers) {
            return Err(usage(format!(
                "--taps {tap}: {} has {layers} layers",
                target.dir.display()
            )));
        }
        if args.taps[..i].contains(tap) {
            return Err(usage(format!("--taps: found {tap} twice")));
        }
    }
    Ok(Features {
        layout: args.layout,
        taps: args.taps.clone(),
        target_width: target.config.hidden_size,
        draft_width: match (args.layout, drafter.model()) {
            (Layout::Dt, _) => 0,
            (Layout::DdDt, Some(draft)) => draft.config.hidden_size,
            (Layout::DdDt, None) => {
                return Err(usage(
                    "--layout DD-DT reads the drafter's hidden states, and n-gram lookup has none",
                ));
            }
        },
    })
}

/// A line of the prompts file.
#[derive(serde::Deserialize)]
struct Line {
    prompt: String,
    response: Option<String>,
    #[serde(default)]
    wrong: Vec<(usize, usize)>,
}

/// The prompts to mine, and the digest of their file.
fn items(
    args: &Args,
    target: &Model,
    tokenizer: &Tokenizer,
) -> anyhow::Result<(Vec<Item>, String)> {
    let path = &args.prompts;
    let bytes = std::fs::read(path).map_err(|e| usage(format!("{}: {e}", path.display())))?;
    let template = match args.no_chat {
        true => None,
        false => Some(ChatTemplate::open(&target.dir)?.ok_or_else(|| {
            usage(format!(
                "{} has no chat template; --no-chat asks with plain prompts",
                target.dir.display()
            ))
        })?),
    };
    let encode = |text: &str| -> anyhow::Result<Vec<u32>> {
        Ok(match &template {
            // the template writes the special tokens itself
            Some(template) => tokenizer.encode(&template.ask(None, text)?, false)?,
            None => tokenizer.encode(text, true)?,
        })
    };
    let mut items = Vec::new();
    match args.task {
        Some(task) if args.method != Method::Labels => {
            for problem in task.parse(&bytes, path)? {
                let text = if args.no_chat {
                    &problem.plain
                } else {
                    &problem.prompt
                };
                items.push(Item {
                    prompt: Prompt::new(problem.line, text),
                    tokens: encode(text)?,
                    response: None,
                });
            }
        }
        _ => {
            for (line, text) in lines(&bytes, path)? {
                let fail = |e: String| usage(format!("{}, line {}: {e}", path.display(), line + 1));
                let row: Line = serde_json::from_str(&text).map_err(|e| fail(e.to_string()))?;
                let response = match (&row.response, args.method) {
                    (Some(response), Method::Labels) => {
                        let label = label(tokenizer, response, &row.wrong);
                        Some(label.map_err(|e| fail(e.to_string()))?)
                    }
                    (None, Method::Labels) => {
                        return Err(fail(
                            "found no response, expected one with its wrong spans".to_owned(),
                        ));
                    }
                    _ => None,
                };
                // the same prompt may have several responses
                let key = row.prompt.clone() + row.response.as_deref().unwrap_or("");
                items.push(Item {
                    prompt: Prompt::new(line, &key),
                    tokens: encode(&row.prompt)?,
                    response,
                });
            }
        }
    }
    let count = items.len();
    let limit = args.limit.unwrap_or(usize::MAX);
    let part = args.shard.unwrap_or(Part { which: 1, of: 1 });
    let items: Vec<Item> = items
        .into_iter()
        .skip(args.offset)
        .take(limit)
        .enumerate()
        .filter_map(|(i, item)| (i % part.of == part.which - 1).then_some(item))
        .collect();
    if items.is_empty() {
        return Err(usage(format!(
            "{}: {count} prompts, none of them in what --offset, --limit and --shard leave",
            path.display()
        )));
    }
    Ok((items, gavel::eval::digest(&bytes)))
}

/// The lines of a file that are not empty, with their numbers from 0.
fn lines(bytes: &[u8], path: &Path) -> anyhow::Result<Vec<(usize, String)>> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        usage(format!(
            "{}: byte {} is not UTF-8, expected text",
            path.display(),
            e.valid_up_to()
        ))
    })?;
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, l)| !l.trim().is_empty());
    Ok(lines.map(|(i, l)| (i, l.to_owned())).collect())
}

/// The tokens of a response; wrong are those that share a character with a wrong span.
fn label(
    tokenizer: &Tokenizer,
    response: &str,
    wrong: &[(usize, usize)],
) -> anyhow::Result<Labelled> {
    let length = response.chars().count();
    if let Some((start, end)) = wrong
        .iter()
        .find(|(start, end)| start >= end || *end > length)
    {
        return Err(usage(format!(
            "wrong span [{start}, {end}], expected start < end <= {length}, the characters of the response"
        )));
    }
    let (tokens, spans) = tokenizer.encode_with_spans(response)?;
    let is_wrong = |s: &Range<usize>| wrong.iter().any(|w| s.start < w.1 && w.0 < s.end);
    Ok(Labelled {
        wrong: spans.iter().map(is_wrong).collect(),
        tokens,
    })
}

/// Every prompt leaves room for an answer, and every response fits.
fn check_lengths(args: &Args, items: &[Item], context: usize) -> anyhow::Result<()> {
    for item in items {
        let response = item.response.as_ref().map_or(1, |r| r.tokens.len());
        let found = item.tokens.len() + response;
        if found > context {
            return Err(usage(format!(
                "{}, line {}: {found} tokens of prompt and answer, the context holds {context} (--context)",
                args.prompts.display(),
                item.prompt.line + 1
            )));
        }
    }
    Ok(())
}
