//! `gavel eval`: ways to decode, compared on a task.

use super::menu::{MenuArgs, items};
use super::progress::Progress;
use super::setup::{ModelArgs, end_on_interrupt};
use super::usage;
use anyhow::Context;
use gavel::eval::{self, Decoder, Evaluation, Prompting, Report};
use gavel::judge::At;
use gavel::model::Tokenizer;
use gavel::output::write_atomically;
use gavel::plot::svg;
use gavel::task::{Checker, Grader, Limits, Problem, Sandbox, Task};
use gavel::tree::Shape;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(clap::Args)]
pub struct Args {
    /// gsm8k, math, mmlu, humaneval, summarize or word-problems
    #[arg(long, value_name = "TASK")]
    task: Task,
    /// The problems: a JSON object a line, with the fields under which the task is published
    #[arg(long, value_name = "FILE.jsonl")]
    data: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    menu: MenuArgs,
    /// Ways to decode, comma-separated: plain, tree, judge, a judge's name, chain, block,
    /// kl=D, margin=R, typical, threshold=T, sglang=SINGLE,ACCUMULATED, topk=K; behind each
    /// may stand @SHAPE or @tree. plain is always there [default: chain, tree where --tree
    /// is given, judge where --judge is]
    #[arg(long, value_name = "LIST")]
    rules: Vec<String>,
    /// Where on their curves judges work, comma-separated: f1, r90, mid, budget=B
    /// (at most B expected harmful rescues per answer) or thresholds
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "f1")]
    theta: Vec<At>,
    /// Lengths of drafted chains, comma-separated
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "8")]
    gamma: Vec<usize>,
    /// Trees for the items that say so: children per level such as 4x2x2x1, or
    /// best:NODES[xDEPTH]; comma-separated
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    tree: Vec<Shape>,
    /// Leave out this many problems at the beginning
    #[arg(long, value_name = "N", default_value_t = 0)]
    offset: usize,
    /// Answer at most this many problems [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Most tokens of a response [default: 160 for word-problems, 256 for summarize, 1024
    /// for math, 512 for the others]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Ask with plain prompts, for a base model, in place of the chat template
    #[arg(long)]
    no_chat: bool,
    /// A system message for the chat template
    #[arg(long, value_name = "TEXT", conflicts_with = "no_chat")]
    system: Option<String>,
    /// End a response where this string would begin; may be given several times [default:
    /// none with the chat template, where the next problem would begin without]
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// How final answers are found and compared: hashes, gsm8k, boxed, choice or
    /// command=COMMAND [default: the task's]
    #[arg(long, value_name = "CHECKER")]
    checker: Option<Checker>,
    /// Seconds that a program or a checker's command may take
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    check_timeout: f64,
    /// The interpreter of humaneval's programs
    #[arg(long, value_name = "PYTHON", default_value = "python3")]
    python: String,
    /// Run programs that a model wrote with limits of time and memory alone, where the
    /// system does not isolate them
    #[arg(long)]
    unsafe_code: bool,
    /// Also compute the perplexity of every response under the target
    #[arg(long)]
    perplexity: bool,
    /// Keep results, report and plot in this folder; what is there already is not computed again
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the report as one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    end_on_interrupt()?;
    let (problems, data) = problems(args)?;
    let grader = grader(args)?;
    let target = args.model.open()?;
    let tokenizer = Tokenizer::open(&target.dir)?;
    let menu = args
        .menu
        .menu(&target, &tokenizer, (&args.gamma, &args.tree, &args.theta))?;
    let rows = menu.rows(&rules(args))?;
    let mut decoders = Vec::new();
    for drafter in eval::drafters(&rows) {
        decoders.push(Decoder {
            device: args.model.device.open(target.clone(), drafter.clone())?,
            drafter,
        });
    }
    let stops: Vec<&str> = match args.stop.is_empty() {
        true if args.no_chat => args.task.stops().to_vec(),
        _ => args.stop.iter().map(String::as_str).collect(),
    };
    let evaluation = Evaluation {
        task: args.task,
        data,
        problems: &problems,
        rows: &rows,
        target: &target,
        tokenizer: &tokenizer,
        prompting: Prompting {
            chat: !args.no_chat,
            system: args.system.clone(),
            stops: stops.into_iter().map(str::to_owned).collect(),
            max_tokens: args.max_tokens.unwrap_or(match args.task {
                Task::WordProblems => 160,
                Task::Summarize => 256,
                Task::Math => 1024,
                Task::Gsm8k | Task::Mmlu | Task::HumanEval => 512,
            }),
        },
        grader: &grader,
        seed: args.menu.sampling.seed,
        perplexity: args.perplexity,
        context: args.model.device.context(&target),
    };
    let mut progress = Progress::new(problems.len(), "problems");
    let results = eval::run(&evaluation, &mut decoders, args.out.as_deref(), &mut || {
        progress.advance(1);
    })?;
    drop(progress);
    let report = eval::summarise(&evaluation, &results)?;
    if let Some(dir) = &args.out {
        keep(&report, dir)?;
    }
    if args.json {
        println!("{}", serde_json::to_string(&report).context("the report")?);
        return Ok(());
    }
    println!(
        "{}, {} problems, seed {}, {}",
        args.task,
        report.problems,
        report.seed,
        decoders[0].device.describe()
    );
    println!("{}", report.table());
    println!("Intervals in brackets are 95 %; differences and ratios are paired by problem.");
    println!("m: draft tokens kept per target pass; tokens/pass is the block efficiency.");
    if let Some(dir) = &args.out {
        println!("{0}/report.json, {0}/accuracy.svg", dir.display());
    }
    Ok(())
}

/// Report and plot, beside the results.
fn keep(report: &Report, dir: &Path) -> anyhow::Result<()> {
    let json = serde_json::to_string_pretty(report).context("the report")?;
    write_atomically(&dir.join("report.json"), |file| writeln!(file, "{json}"))?;
    let picture = svg(&[report.plot()])?;
    write_atomically(&dir.join("accuracy.svg"), |file| {
        file.write_all(picture.as_bytes())
    })?;
    Ok(())
}

/// The problems to answer, and the digest of their file.
fn problems(args: &Args) -> anyhow::Result<(Vec<Problem>, String)> {
    let bytes =
        std::fs::read(&args.data).map_err(|e| usage(format!("{}: {e}", args.data.display())))?;
    let all = args.task.parse(&bytes, &args.data)?;
    let count = all.len();
    let limit = args.limit.unwrap_or(usize::MAX);
    let problems: Vec<Problem> = all.into_iter().skip(args.offset).take(limit).collect();
    if problems.is_empty() {
        return Err(usage(format!(
            "--offset {} --limit {}: {} has {count} problems, expected at least one of them",
            args.offset,
            args.limit.map_or("all".to_owned(), |l| l.to_string()),
            args.data.display()
        )));
    }
    Ok((problems, eval::digest(&bytes)))
}

fn grader(args: &Args) -> anyhow::Result<Grader> {
    let limit = Duration::try_from_secs_f64(args.check_timeout)
        .ok()
        .filter(|limit| !limit.is_zero())
        .ok_or_else(|| {
            usage(format!(
                "--check-timeout {}: expected seconds, more than 0",
                args.check_timeout
            ))
        })?;
    let own = args.task.checker();
    if args.checker.is_some() && own.is_none() {
        return Err(usage(format!(
            "--checker: responses of {} are not compared by a final answer",
            args.task
        )));
    }
    let limits = Limits {
        time: limit,
        ..Limits::default()
    };
    Ok(Grader {
        checker: args.checker.clone().or(own).map(|c| c.with_timeout(limit)),
        sandbox: match args.task {
            Task::HumanEval => Some(Sandbox::open(&args.python, limits, args.unsafe_code)?),
            _ => None,
        },
    })
}

/// The list of rules, plain decoding first.
fn rules(args: &Args) -> Vec<String> {
    let mut rules = vec!["plain".to_owned()];
    if args.rules.is_empty() {
        if !args.menu.draft.is_empty() {
            rules.push("chain".to_owned());
        }
        if !args.tree.is_empty() {
            rules.push("tree".to_owned());
        }
        if !args.menu.judge.is_empty() {
            rules.push("judge".to_owned());
        }
    }
    rules.extend(args.rules.iter().flat_map(|list| items(list)));
    rules
}
