//! `gavel demo`: every kind of decoding side by side on the pair in `models/demo`.

use super::progress::Progress;
use super::setup::DeviceArgs;
use super::usage;
use anyhow::Context;
use comfy_table::{CellAlignment, Table, presets};
use gavel::device::{Device, Request, Step};
use gavel::draft::Drafter;
use gavel::engine::{Stats, generate};
use gavel::judge::{At, Judge};
use gavel::model::{ChatTemplate, Model, Tokenizer};
use gavel::tree::Shape;
use gavel::verify::{Policy, Rule, Sampling};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(clap::Args)]
pub struct Args {
    /// The folder with target/, draft/, problems.jsonl and, if there is one, judge.safetensors
    #[arg(long, default_value = "models/demo", value_name = "DIR")]
    models: PathBuf,
    /// How many problems to answer
    #[arg(long, default_value_t = 100, value_name = "N")]
    problems: usize,
    /// The judge's threshold: an operating point f1, r90 or mid, budget=B for at most B expected
    /// harmful rescues per answer, or a number
    #[arg(long, default_value = "budget=0.01", value_name = "POINT|THETA")]
    at: At,
    /// Draft length of the chains
    #[arg(long, default_value_t = 8, value_name = "N")]
    gamma: usize,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

/// One line of problems.jsonl.
#[derive(serde::Deserialize)]
struct Problem {
    question: String,
    answer: String,
}

/// One way to decode, with what it achieved so far.
struct Contender {
    name: String,
    step: Step,
    right: usize,
    stats: Stats,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    if !args.models.join("target").is_dir() {
        return Err(usage(format!(
            "{}: found no target/, expected the demo pair; run from the project's folder or give --models",
            args.models.display()
        )));
    }
    let target = Arc::new(Model::open(&args.models.join("target"))?);
    let tokenizer = Tokenizer::open(&target.dir)?;
    let drafter = Drafter::open(&args.models.join("draft").to_string_lossy(), &target)?;
    let problems = read_problems(&args.models.join("problems.jsonl"), args.problems)?;
    let prompts = prompts(&target, &tokenizer, &problems)?;
    let judge = judge(&args.models, &target, &drafter, args.at)?;
    let mut device = args.device.open(target.clone(), drafter)?;
    let mut contenders = contenders(args.gamma, judge, &target, &tokenizer);

    let mut progress = Progress::new(problems.len(), "problems");
    for (problem, prompt) in problems.iter().zip(&prompts) {
        for contender in &mut contenders {
            answer(
                device.as_mut(),
                &target,
                &tokenizer,
                problem,
                prompt,
                contender,
            )?;
        }
        progress.advance(1);
    }
    drop(progress);
    report(args, device.as_ref(), problems.len(), &contenders);
    Ok(())
}

/// The judge of the pair, where it has one, with its threshold.
fn judge(
    models: &Path,
    target: &Model,
    drafter: &Drafter,
    at: At,
) -> anyhow::Result<Option<(Arc<Judge>, Rule)>> {
    let path = models.join("judge.safetensors");
    if !path.is_file() {
        return Ok(None);
    }
    let judge = Arc::new(Judge::open(&path, target, drafter, false)?);
    let rule = Rule::Chain.with_judge(judge.theta(at)?)?;
    Ok(Some((judge, rule)))
}

fn contenders(
    gamma: usize,
    judge: Option<(Arc<Judge>, Rule)>,
    target: &Model,
    tokenizer: &Tokenizer,
) -> Vec<Contender> {
    let chain = Shape::Chain(gamma);
    let tree = Shape::Levels(vec![4, 2, 2, 1]);
    let mut rows = vec![
        ("plain", Shape::NONE, Rule::Chain, None),
        ("chain", chain.clone(), Rule::Chain, None),
        ("tree", tree, Rule::Chain, None),
    ];
    if let Some((judge, rule)) = judge {
        rows.push(("judge", chain.clone(), rule, Some(judge)));
    }
    let kl = Rule::Kl {
        delta: 0.5,
        reverse: false,
    };
    rows.push(("KL", chain.clone(), kl, None));
    rows.push(("margin", chain, Rule::Margin { ratio: 0.9 }, None));
    rows.into_iter()
        .map(|(name, shape, rule, judge)| Contender {
            name: match (shape.depth(), rule) {
                (0, _) => name.to_owned(),
                (_, Rule::Chain) => format!("{name} {shape}"),
                (_, Rule::Judge { theta }) => format!("chain {shape}, judge {theta:.4}"),
                _ => format!("chain {shape}, {rule}"),
            },
            step: Step {
                judge,
                ..Step::new(
                    shape,
                    Policy {
                        sampling: Sampling::GREEDY,
                        rule,
                        guard: gavel::engine::default_guard(target, tokenizer)
                            .into_iter()
                            .collect(),
                    },
                )
            },
            right: 0,
            stats: Stats::default(),
        })
        .collect()
}

fn answer(
    device: &mut dyn Device,
    target: &Model,
    tokenizer: &Tokenizer,
    problem: &Problem,
    prompt: &[u32],
    contender: &mut Contender,
) -> anyhow::Result<()> {
    let request = Request {
        prompt: prompt.to_vec(),
        max_tokens: 160,
        stop_tokens: target.generation.eos.clone(),
        seed: 0,
        sequence: 0,
    };
    let done = generate(device, &request, &contender.step, |_| {
        ControlFlow::Continue(())
    })?;
    let text = tokenizer.decode(&done.tokens, true);
    contender.right += usize::from(final_answer(&text) == final_answer(&problem.answer));
    contender.stats += &done.stats;
    Ok(())
}

/// What stands after the last `####`.
fn final_answer(text: &str) -> Option<&str> {
    text.rsplit_once("####").map(|(_, answer)| answer.trim())
}

fn report(args: &Args, device: &dyn Device, problems: usize, contenders: &[Contender]) {
    if args.json {
        let rows: Vec<_> = contenders
            .iter()
            .map(|c| serde_json::json!({"name": c.name, "right": c.right, "problems": problems, "stats": c.stats}))
            .collect();
        println!(
            "{}",
            serde_json::json!({"device": device.describe(), "rows": rows})
        );
        return;
    }
    println!("{problems} word problems, greedy, {}", device.describe());
    let mut table = Table::new();
    table.load_style(presets::ASCII_HORIZONTAL_ONLY);
    let head = [
        "decoding",
        "right",
        "m",
        "tokens per pass",
        "passes per token",
        "tokens/s",
    ];
    table.set_header(head);
    for c in contenders {
        table.add_row([
            c.name.clone(),
            format!("{:.1}%", 100.0 * c.right as f64 / problems as f64),
            format!("{:.2}", c.stats.m()),
            format!("{:.2}", c.stats.block_efficiency()),
            format!("{:.3}", c.stats.passes_per_token()),
            format!("{:.0}", c.stats.tokens_per_second()),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
    println!("m: draft tokens kept per target pass; tokens per pass is the block efficiency.");
    println!(
        "plain, chain and tree give the same tokens; the judged rows trade accuracy for speed."
    );
}

fn read_problems(path: &Path, count: usize) -> anyhow::Result<Vec<Problem>> {
    let name = path.display();
    let text = super::setup::read_text(&path.to_string_lossy())?;
    let problems: Vec<Problem> = text
        .lines()
        .take(count)
        .enumerate()
        .map(|(i, line)| {
            serde_json::from_str(line).map_err(|e| usage(format!("{name}, line {}: {e}", i + 1)))
        })
        .collect::<anyhow::Result<_>>()?;
    if problems.len() < count.max(1) {
        return Err(usage(format!(
            "--problems {count}: {name} has {} of them, expected 1 to that many",
            text.lines().count()
        )));
    }
    Ok(problems)
}

fn prompts(
    target: &Model,
    tokenizer: &Tokenizer,
    problems: &[Problem],
) -> anyhow::Result<Vec<Vec<u32>>> {
    let template = ChatTemplate::open(&target.dir)?
        .with_context(|| format!("{} has no chat template", target.dir.display()))?;
    problems
        .iter()
        .map(|problem| {
            let text = template.ask(None, &problem.question)?;
            Ok(tokenizer.encode(&text, false)?)
        })
        .collect()
}
