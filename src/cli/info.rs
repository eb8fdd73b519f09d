//! `gavel info`: what a model is and what it needs.

use super::setup::{DraftArgs, ModelArgs};
use gavel::draft::Drafter;
use gavel::model::{ChatTemplate, Model, Tokenizer};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    draft: DraftArgs,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let target = args.model.open()?;
    let drafter = args.draft.drafter(&target)?;
    println!("target");
    describe(&target)?;
    if let Drafter::Model(draft) = &drafter {
        println!("draft");
        describe(draft)?;
    }
    let context = args.model.device.context(&target);
    let device = args.model.device.open(target, drafter)?;
    let memory = device.memory();
    println!("device        {}", device.describe());
    println!("weights       {}", bytes(memory.weights));
    println!("kv cache      {} for {context} positions", bytes(memory.kv));
    for (name, value) in device.details() {
        println!("{name:<13} {value}");
    }
    Ok(())
}

fn describe(model: &Model) -> anyhow::Result<()> {
    let c = &model.config;
    println!("  directory   {}", model.dir.display());
    println!(
        "  model       {}, {} layers, hidden {}, intermediate {}",
        c.architecture.model_type(),
        c.layers,
        c.hidden_size,
        c.intermediate_size
    );
    println!(
        "  attention   {} heads, {} kv heads of {}",
        c.heads, c.kv_heads, c.head_dim
    );
    println!(
        "  vocabulary  {}, {} head",
        c.vocab_size,
        if c.tied { "tied" } else { "own" }
    );
    println!("  positions   {}", c.max_positions);
    let weights = &model.weights;
    println!(
        "  weights     {} in {}",
        bytes(weights.bytes()),
        weights.embed.dtype.name()
    );
    println!("  ends with   {:?}", model.generation.eos);
    println!("  fingerprint {}", model.fingerprint());
    let tokenizer = Tokenizer::open(&model.dir)?;
    let template = match ChatTemplate::open(&model.dir)? {
        Some(_) => "with",
        None => "without",
    };
    println!(
        "  tokenizer   {} tokens, {template} chat template",
        tokenizer.len()
    );
    Ok(())
}

fn bytes(n: usize) -> String {
    format!("{}", indicatif::BinaryBytes(n as u64))
}
