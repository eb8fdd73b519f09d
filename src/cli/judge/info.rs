//! `gavel judge info`: what a judge is, where it came from and what it fits.

use super::figure;
use crate::cli::usage;
use anyhow::Context;
use gavel::draft::Drafter;
use gavel::judge::{Head, Judge, Layout, Meaning, OperatingPoint, Tap};
use gavel::model::Model;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// The judge file
    #[arg(value_name = "FILE")]
    judge: PathBuf,
    /// A target: whether the judge fits it (exit code 2 if not)
    #[arg(long, value_name = "DIR|ID")]
    model: Option<String>,
    /// What drafts for it: a model (DIR or ID), ngram, self:LAYERS, or none
    #[arg(
        long,
        default_value = "none",
        value_name = "DIR|ngram|self:LAYERS|none",
        requires = "model"
    )]
    draft: String,
    /// Let vocabulary and fingerprints differ (transfer experiments)
    #[arg(long, requires = "model")]
    allow_foreign_target: bool,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let judge = Judge::read(&args.judge)?;
    describe(&judge);
    let Some(name) = &args.model else {
        return Ok(());
    };
    let target = Model::open(&Model::locate(name)?)?;
    let drafter = Drafter::open(&args.draft, &target)?;
    let result = judge.check(
        &target,
        drafter.model().map(AsRef::as_ref),
        args.allow_foreign_target,
    );
    let yes = if result.is_ok() { "yes" } else { "no" };
    println!("fits          {}: {yes}", target.dir.display());
    result
        .map_err(|e| match args.draft.as_str() {
            "none" if judge.features.layout == Layout::DdDt => {
                usage(format!("{e}; --draft names it"))
            }
            _ => e.into(),
        })
        .with_context(|| args.judge.display().to_string())
}

fn describe(judge: &Judge) {
    let features = &judge.features;
    let head = match &judge.head {
        Head::Linear { .. } => "linear".to_owned(),
        Head::TwoLayer { w2, .. } => format!("two layers, width {}", w2.len()),
    };
    let meaning = match judge.meaning {
        Meaning::Acceptable => "the probability that a token is acceptable",
        Meaning::Important => "the probability that a token is important; acceptable is the rest",
    };
    let taps: Vec<String> = features
        .taps
        .iter()
        .map(|tap| match tap {
            Tap::Final => "after the final norm".to_owned(),
            Tap::Layer(layer) => format!("after layer {layer}"),
        })
        .collect();
    println!("judge         {head}; {meaning}");
    println!("method        {}", judge.method);
    println!("provenance    {}", judge.provenance);
    println!(
        "features      {}, {} in all: {}target {} of width {}",
        features.layout,
        features.len(),
        match features.layout {
            Layout::Dt => String::new(),
            Layout::DdDt => format!(
                "drafter after the final norm of width {}, ",
                features.draft_width
            ),
        },
        taps.join(" and "),
        features.target_width
    );
    println!("vocabulary    {} tokens", judge.vocab_size);
    println!("target        fingerprint {}", judge.target_fingerprint);
    match &judge.draft_fingerprint {
        Some(fingerprint) => println!("drafter       fingerprint {fingerprint}"),
        None => println!("drafter       without weights"),
    }
    match &judge.operating_points {
        None => println!("thresholds    none stored: it was not validated"),
        Some(points) => {
            let points = [("f1", points.f1), ("r90", points.r90), ("mid", points.mid)];
            for (i, (name, point)) in points.into_iter().enumerate() {
                let label = if i == 0 { "thresholds" } else { "" };
                println!("{label:<13} {}", threshold(name, &point));
            }
        }
    }
    println!("curve         {} points", judge.curve.len());
}

fn threshold(name: &str, point: &OperatingPoint) -> String {
    format!(
        "{name:<4} theta {:.4}, precision {}, recall {}, {} harmful rescues per answer",
        point.theta,
        figure(f64::from(point.precision)),
        figure(f64::from(point.recall)),
        figure(f64::from(point.harmful_per_answer))
    )
}
