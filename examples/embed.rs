//! gavel inside another Rust program: open two models, decode, look at every token.
//!
//! `cargo run --release --example embed -- models/demo/target models/demo/draft "PROMPT"`

use gavel::device::{Committed, Device, Request, Setup, Step, TokenReason, cpu::Cpu};
use gavel::draft::Drafter;
use gavel::engine::{TextOutput, generate};
use gavel::model::{ChatTemplate, Model, Tokenizer};
use gavel::tree::Shape;
use gavel::verify::{Policy, Rule, Sampling};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// An answer, and what share of its tokens the drafter supplied.
pub fn answer(
    target: &Path,
    draft: &Path,
    question: &str,
) -> Result<(String, f64), Box<dyn std::error::Error>> {
    let target = Arc::new(Model::open(target)?);
    let draft = Arc::new(Model::open(draft)?);
    let tokenizer = Tokenizer::open(&target.dir)?;
    let template = ChatTemplate::open(&target.dir)?.ok_or("the model has no chat template")?;
    let text = template.ask(None, question)?;

    let mut device = Cpu::open(&Setup {
        context: target.config.max_positions.min(1024),
        drafter: Drafter::Model(draft),
        target: target.clone(),
        threads: 0,
    })?;
    // chains of eight, and the typical test as a second chance
    let step = Step::new(
        Shape::Chain(8),
        Policy {
            guard: target.generation.eos.iter().copied().collect(),
            ..Policy::new(Sampling::GREEDY, Rule::TYPICAL)
        },
    );
    let request = Request {
        prompt: tokenizer.encode(&text, false)?,
        max_tokens: 200,
        stop_tokens: target.generation.eos.clone(),
        seed: 0,
        sequence: 0,
    };

    let mut output = TextOutput::new(tokenizer.stream(), &[]);
    let (mut answer, mut drafted) = (String::new(), 0);
    let on_tokens = |committed: &[Committed]| {
        for c in committed {
            drafted += usize::from(matches!(
                c.reason,
                TokenReason::Aligned | TokenReason::Judged
            ));
            if !request.stop_tokens.contains(&c.token) {
                answer += &output.push(c.token).text;
            }
        }
        ControlFlow::Continue(())
    };
    let generation = generate(&mut device as &mut dyn Device, &request, step, on_tokens)?;
    answer += &output.finish().text;
    Ok((answer, drafted as f64 / generation.stats.tokens as f64))
}

#[allow(dead_code)] // the test that includes this file has a main of its own
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [target, draft, question] = args.as_slice() else {
        return Err("expected MODEL DRAFT PROMPT".into());
    };
    let (answer, share) = answer(target.as_ref(), draft.as_ref(), question)?;
    println!("{answer}");
    eprintln!("{:.0} % of the tokens were drafted", 100.0 * share);
    Ok(())
}
