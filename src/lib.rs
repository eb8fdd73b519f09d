//! gavel: latency-first inference for Llama and Qwen models, with judge decoding
//! fused into the target pass.
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
//! - [`bench`]: their latency, side by side
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
