//! `gavel generate`: continue a prompt.

use super::progress::waiting;
use super::setup::{DraftArgs, ModelArgs, PolicyArgs, on_interrupt, read_text};
use super::usage;
use anyhow::Context;
use gavel::device::Request;
use gavel::engine::{Ended, Gamma, TextOutput, generate};
use gavel::model::{ChatTemplate, Model, Tokenizer};
use std::io::Write;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    draft: DraftArgs,
    #[command(flatten)]
    policy: PolicyArgs,
    /// The prompt; - reads it from standard input
    #[arg(long, value_name = "TEXT|-")]
    prompt: String,
    /// Put the prompt into the model's chat template, as the user's message
    #[arg(long)]
    chat: bool,
    /// The system message that goes before it (implies --chat)
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Most tokens to generate
    #[arg(long, default_value_t = 256, value_name = "N")]
    max_tokens: usize,
    /// End the text where this string would begin; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Go on after end-of-sequence tokens
    #[arg(long)]
    ignore_eos: bool,
    /// Print what it took to standard error
    #[arg(long)]
    stats: bool,
    /// Print one JSON object with text, tokens and statistics instead of the text
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let target = args.model.open()?;
    let tokenizer = Tokenizer::open(&target.dir)?;
    let drafter = args.draft.drafter(&target)?;
    let judge = args.policy.judge(&target, &drafter)?;
    let policy = args.policy.policy(judge.as_deref(), &target, &tokenizer)?;
    let options = args.draft.options();
    let step = options.step(&drafter, policy, judge)?;
    let prompt = prompt_ids(args, &target, &tokenizer)?;
    let mut device = args.model.device.open(target.clone(), drafter)?;

    let request = Request {
        prompt,
        max_tokens: args.max_tokens,
        stop_tokens: if args.ignore_eos {
            Vec::new()
        } else {
            target.generation.eos.clone()
        },
        seed: args.policy.sampling.seed,
        sequence: 0,
    };
    let interrupted = on_interrupt()?;
    let mut steps = options.steps(step.clone());
    let mut output = TextOutput::new(tokenizer.stream(), &args.stop);
    let mut text = String::new();
    let mut show = |trimmed: &str| -> std::io::Result<()> {
        text.push_str(trimmed);
        if args.json || trimmed.is_empty() {
            return Ok(());
        }
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(trimmed.as_bytes())?;
        stdout.flush()
    };
    let mut shown = Ok(());
    let generation = {
        let on_tokens = |committed: &[gavel::device::Committed]| {
            for c in committed {
                if request.stop_tokens.contains(&c.token) {
                    break;
                }
                let trimmed = output.push(c.token);
                shown = show(&trimmed.text);
                if trimmed.stopped || shown.is_err() {
                    return ControlFlow::Break(());
                }
            }
            match interrupted.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        waiting_for_prompt(request.prompt.len(), || {
            generate(device.as_mut(), &request, steps.as_mut(), on_tokens)
        })?
    };
    shown.context("standard output")?;
    let rest = output.finish();
    show(&rest.text).context("standard output")?;

    if args.json {
        let finish = match generation.ended {
            _ if rest.stopped => "stop_string".to_owned(),
            Ended::Caller => "interrupted".to_owned(),
            Ended::Device(finish) => format!("{finish:?}").to_lowercase(),
        };
        let report = serde_json::json!({
            "text": text,
            "tokens": generation.tokens,
            "prompt_tokens": request.prompt,
            "finish": finish,
            "rule": step.policy.rule.to_string(),
            "shape": match options.gamma {
                Some(Gamma::Auto) => "auto".to_owned(),
                _ => step.shape.to_string(),
            },
            "device": device.describe(),
            "stats": generation.stats,
            "peak_memory_bytes": peak_memory(),
        });
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{report}").context("standard output")?;
    } else {
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout)
            .and_then(|()| stdout.flush())
            .context("standard output")?;
    }
    if args.stats {
        eprintln!("{}", generation.stats.table());
        if let Some(bytes) = peak_memory() {
            eprintln!("peak memory {}", indicatif::BinaryBytes(bytes));
        }
    }
    Ok(())
}

/// A long prompt is read in silence; its text then shows progress by itself.
fn waiting_for_prompt<T>(tokens: usize, work: impl FnOnce() -> T) -> T {
    if tokens < 256 {
        return work();
    }
    waiting(&format!("reading {tokens} tokens of prompt"), work)
}

fn prompt_ids(args: &Args, target: &Model, tokenizer: &Tokenizer) -> anyhow::Result<Vec<u32>> {
    let text = if args.prompt == "-" {
        read_text("-")?
    } else {
        args.prompt.clone()
    };
    if !args.chat && args.system.is_none() {
        return Ok(tokenizer.encode(&text, true)?);
    }
    let Some(template) = ChatTemplate::open(&target.dir)? else {
        return Err(usage(format!(
            "--chat: {} has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json)",
            target.dir.display()
        )));
    };
    // the template writes the special tokens itself
    Ok(tokenizer.encode(&template.ask(args.system.as_deref(), &text)?, false)?)
}

/// The most memory that this process ever held, mapped weights included; only Linux says.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}
