//! The command line: a file a subcommand.
//!
//! Text goes to standard output as it is made, everything else to standard error.
//! Exit codes: 0 done, 2 wrong usage or input, 1 anything else.

mod bench;
mod demo;
mod eval;
mod experiment;
mod generate;
mod info;
mod judge;
mod logits;
mod menu;
mod progress;
mod setup;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Latency-first inference for Llama and Qwen models, with judge decoding.
#[derive(Parser)]
#[command(name = "gavel", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Continue a prompt, plain, speculatively or judged
    Generate(generate::Args),
    /// Write logits and hidden states of given tokens, to compare with any other engine
    Logits(logits::Args),
    /// Train judges and see what they are
    Judge(judge::Args),
    /// Show what a model is and what memory it needs
    Info(info::Args),
    /// Compare ways to decode on a task: accuracy against draft tokens kept
    Eval(Box<eval::Args>),
    /// Latency of ways to decode, side by side: plain, chain, block, tree, judged
    Bench(Box<bench::Args>),
    /// What judges buy on the demo pair: experiments, each with its part of a report
    Experiment(experiment::Args),
    /// Answer word problems with every kind of decoding, side by side
    Demo(demo::Args),
}

/// Input or usage that no library error describes.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// A [`Usage`] error.
fn usage(message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Usage(message.into()))
}

pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Generate(args) => generate::run(&args),
        Command::Logits(args) => logits::run(&args),
        Command::Judge(args) => judge::run(&args),
        Command::Info(args) => info::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Experiment(args) => experiment::run(&args),
        Command::Demo(args) => demo::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gavel: {}", said(&error));
            ExitCode::from(if is_input(&error) { 2 } else { 1 })
        }
    }
}

/// An error and its causes, without those that the one before has said already.
fn said(error: &anyhow::Error) -> String {
    let mut said = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if said.is_empty() {
            said = cause;
        } else if !said.ends_with(&cause) {
            said += &format!(": {cause}");
        }
    }
    said
}

/// Whether the user's input or usage is at fault, rather than the machine.
fn is_input(error: &anyhow::Error) -> bool {
    use gavel::experiment::ExperimentError;
    use gavel::{bench, device, draft, engine, eval, judge, mine, model, task, tree, verify};
    error.chain().any(|cause| {
        cause.is::<Usage>()
            || cause.is::<model::ModelError>()
            || cause.is::<model::TokenizerError>()
            || cause.is::<model::ChatError>()
            || cause.is::<draft::DrafterError>()
            || cause.is::<engine::StepError>()
            || cause.is::<judge::JudgeError>()
            || cause.is::<judge::samples::SamplesError>()
            || cause.is::<judge::train::TrainError>()
            || cause.is::<tree::TreeError>()
            || cause.is::<tree::ShapeError>()
            || cause.is::<verify::PolicyError>()
            || cause.is::<verify::VerifyError>()
            || cause.is::<device::DeviceError>()
            || cause.is::<task::UnknownTask>()
            || cause.is::<task::TaskError>()
            || cause.is::<task::CheckError>()
            || cause.is::<task::SandboxError>()
            || cause
                .downcast_ref::<mine::MineError>()
                .is_some_and(mine::MineError::is_input)
            || cause.is::<eval::RowsError>()
            || cause.is::<bench::PromptError>()
            || cause.is::<bench::RecordError>()
            || cause.is::<bench::CompareError>()
            || cause.is::<bench::PictureError>()
            || matches!(cause.downcast_ref(), Some(ExperimentError::Input { .. }))
            || cause
                .downcast_ref::<eval::EvalError>()
                .is_some_and(eval::EvalError::is_input)
    })
}

/// Whoever read our output has seen enough (`gavel generate ... | head`).
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
