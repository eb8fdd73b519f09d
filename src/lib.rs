//! gavel: latency-first inference for Llama and Qwen models, with judge decoding
//! fused into the target pass.
//!
//! A *drafter* proposes a chain or a tree of tokens, one pass of the *target* reads all of it, and a
//! *rule* decides what stays. [`device::Device`] holds a target, its drafter and one sequence, and
//! does all of that in one [`device::Step`]; [`engine::generate`] is the loop over steps.
//!
//! ```
//! use gavel::device::{Request, Setup, Step, cpu::Cpu};
//! use gavel::draft::Drafter;
//! use gavel::engine::generate;
//! use gavel::model::{ChatTemplate, Model, Tokenizer};
//! use gavel::tree::Shape;
//! use gavel::verify::{Policy, Rule, Sampling};
//! use std::{ops::ControlFlow, path::Path, sync::Arc};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let target = Arc::new(Model::open(Path::new("models/demo/target"))?);
//! let draft = Arc::new(Model::open(Path::new("models/demo/draft"))?);
//! let tokenizer = Tokenizer::open(&target.dir)?;
//! let template = ChatTemplate::open(&target.dir)?.ok_or("no chat template")?;
//! let question = "Finn has 43 cards. Finn buys 24 more. How many cards does Finn have now?";
//! let text = template.ask(None, question)?;
//!
//! let mut device = Cpu::open(&Setup {
//!     target: target.clone(),
//!     drafter: Drafter::Model(draft),
//!     context: 256,
//!     threads: 0,
//! })?;
//! let request = Request {
//!     prompt: tokenizer.encode(&text, false)?,
//!     max_tokens: 64,
//!     stop_tokens: target.generation.eos.clone(),
//!     seed: 0,
//!     sequence: 0,
//! };
//! // chains of eight, greedy; the lossless rule, and then one that lets harmless differences pass
//! let step = |rule| Step::new(Shape::Chain(8), Policy::new(Sampling::GREEDY, rule));
//! for rule in [Rule::Chain, Rule::TYPICAL] {
//!     let made = generate(&mut device, &request, &step(rule), |_| ControlFlow::Continue(()))?;
//!     println!("{rule}: m {:.2}, {:?}", made.stats.m(), made.ended);
//!     assert!(made.stats.m() > 1.0); // draft tokens kept per target pass
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Where to go from there:
//!
//! - another device: [`device::cuda::Cuda::open`] in place of [`device::cpu::Cpu::open`]
//! - trees, n-gram lookup, the target's own layers: [`tree::Shape`], [`draft::Drafter`]; all of it by
//!   the names that users know: [`draft::Drafter::open`], [`engine::DraftOptions`]
//! - what is accepted: [`verify::Rule`]; a trained judge: [`judge::Judge::open`] and
//!   [`verify::Rule::with_judge`], set as [`device::Step::judge`]
//! - text as it is made, and stop strings: [`engine::TextOutput`]; draft lengths chosen on the way:
//!   [`engine::AdaptiveGamma`]
//! - an engine with a pass of its own: [`verify::verify`] takes rows of logits and knows no model
//! - logits and hidden states of any tokens: [`device::Device::pass`]
//!
//! What is exact, how a step works, and how to measure it is in the repository's `docs/`.
//!
//! Data flows down this list and never back up:
//!
//! - [`model`]: a checkpoint on disk, read and checked
//! - [`tree`]: token trees, what a drafter proposes
//! - [`draft`]: what proposes
//! - [`verify`]: which proposals are accepted, the lossless and the judge rules
//! - [`judge`]: the judge file
//! - [`device`]: where passes and steps run
//! - [`engine`]: the loop over steps
//! - [`task`]: problems with known answers, and graders
//! - [`mine`]: labels for a judge, made from prompts alone
//! - [`plot`]: pictures of curves
//! - [`eval`]: ways to decode, compared on a task
//! - [`mod@bench`]: their latency, side by side
//! - [`experiment`]: what judges buy on the demo pair

pub mod bench;
pub mod device;
pub mod draft;
pub mod engine;
pub mod eval;
pub mod experiment;
pub mod judge;
pub mod mine;
pub mod model;
pub mod output;
pub mod plot;
pub mod statistics;
pub mod task;
pub mod tree;
pub mod verify;
