//! The evaluation itself: every row answers every problem, problem by problem.

use super::store::{NamedSpec, Outcome, Results, RunFile, StoreError};
use super::{ModelSpec, Row, Spec, digest, draft_name, same_drafter};
use crate::device::{Device, DeviceError, Finish, Logits, Request, Want, prefill};
use crate::draft::Drafter;
use crate::engine::{Ended, TextOutput, generate};
use crate::judge::JudgeError;
use crate::model::{ChatError, ChatTemplate, Model, Tokenizer, TokenizerError};
use crate::task::{GradeError, Grader, Problem, Task, rouge};
use crate::tree::TokenTree;
use std::ops::ControlFlow;
use std::path::Path;

/// What is evaluated, and how.
pub struct Evaluation<'a> {
    /// What the problems are.
    pub task: Task,
    /// Digest of the file they come from: [`digest`] of its bytes.
    pub data: String,
    /// The problems to answer.
    pub problems: &'a [Problem],
    /// The ways to decode. A plain one is what the others are compared with.
    pub rows: &'a [Row],
    /// The model that answers.
    pub target: &'a Model,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// How it is asked.
    pub prompting: Prompting,
    /// Tells right from wrong.
    pub grader: &'a Grader,
    /// Key of all random numbers; the problem's line is the sequence.
    pub seed: u64,
    /// Whether to compute the likelihood of each response under the target.
    pub perplexity: bool,
    /// Positions of the devices' contexts.
    pub context: usize,
}

/// How problems become prompts, and where responses end.
#[derive(Clone, Debug, Default)]
pub struct Prompting {
    /// The target's chat template; absent: plain prompts for a base model.
    pub chat: bool,
    /// A system message for the template.
    pub system: Option<String>,
    /// Strings at which a response ends.
    pub stops: Vec<String>,
    /// Most tokens of a response.
    pub max_tokens: usize,
}

/// A device with the drafter that it was opened with.
pub struct Decoder {
    /// The drafter.
    pub drafter: Drafter,
    /// The device.
    pub device: Box<dyn Device>,
}

/// Why an evaluation could not be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// Two rows of one name.
    #[error("two rows are called '{name}', expected distinct names")]
    Name {
        /// The name.
        name: String,
    },
    /// No device has the row's drafter.
    #[error("row '{row}': found no device with its drafter {draft}")]
    Decoder {
        /// The row.
        row: String,
        /// What drafts for it.
        draft: String,
    },
    /// A judge without a digest, or one that does not fit.
    #[error("row '{row}': {source}")]
    Judge {
        /// The row.
        row: String,
        /// What is wrong.
        source: Box<JudgeError>,
    },
    /// The target has no chat template.
    #[error(
        "{dir}: found no chat template (chat_template.jinja, or chat_template in tokenizer_config.json); --no-chat asks with plain prompts"
    )]
    NoTemplate {
        /// Its folder.
        dir: String,
    },
    /// The chat template failed.
    #[error("problem {id}: {source}")]
    Chat {
        /// The problem.
        id: String,
        /// Why.
        source: ChatError,
    },
    /// The chat template cannot be read.
    #[error(transparent)]
    Template(#[from] ChatError),
    /// The prompt cannot be encoded.
    #[error("problem {id}: {source}")]
    Tokenizer {
        /// The problem.
        id: String,
        /// Why.
        source: Box<TokenizerError>,
    },
    /// The prompt leaves no room for an answer.
    #[error(
        "problem {id} (line {line}): its prompt has {found} tokens, the context holds {context} and one must be left for an answer (--context)"
    )]
    TooLong {
        /// The problem.
        id: String,
        /// Its line, from 1.
        line: usize,
        /// Tokens of its prompt.
        found: usize,
        /// Positions of the context.
        context: usize,
    },
    /// Decoding failed.
    #[error("problem {id}, row '{row}': {source}")]
    Device {
        /// The problem.
        id: String,
        /// The row.
        row: String,
        /// Why.
        source: DeviceError,
    },
    /// Grading failed.
    #[error(transparent)]
    Grade(#[from] GradeError),
    /// Results could not be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl EvalError {
    /// Whether settings or data are at fault, rather than the machine.
    pub fn is_input(&self) -> bool {
        match self {
            EvalError::Store(error) => {
                !matches!(error, StoreError::Io { .. } | StoreError::Output(_))
            }
            _ => true,
        }
    }
}

/// A row with what names it in files.
struct Named<'a> {
    row: &'a Row,
    key: String,
    spec: Spec,
}

/// Answers every problem in every row, problem by problem, and grades the responses.
///
/// With a folder, each outcome is appended to `results.jsonl` as soon as it is there, and
/// those that are there already are not made again: neither by a run that was interrupted
/// nor by one with other rows or problems of the same file. Rows that decode alike are
/// computed once. `progress` is called after every problem.
pub fn run(
    evaluation: &Evaluation<'_>,
    decoders: &mut [Decoder],
    out: Option<&Path>,
    progress: &mut dyn FnMut(),
) -> Result<Results, EvalError> {
    let rows = named(evaluation, decoders)?;
    let prompts = prompts(evaluation)?;
    let mut results = match out {
        None => Results::in_memory(),
        Some(dir) => Results::open(dir, run_file(evaluation, &rows))?,
    };
    // plain decoding first: the others are compared with it
    let mut order: Vec<&Named<'_>> = Vec::new();
    for row in rows.iter().filter(|r| r.row.is_plain()).chain(&rows) {
        if order.iter().all(|o| o.key != row.key) {
            order.push(row);
        }
    }
    let plain = order
        .first()
        .filter(|r| r.row.is_plain())
        .map(|r| r.key.clone());
    for (problem, prompt) in evaluation.problems.iter().zip(&prompts) {
        for named in &order {
            if results.get(problem.line, &named.key).is_none() {
                let before: Vec<&Outcome> = order
                    .iter()
                    .filter_map(|o| results.get(problem.line, &o.key))
                    .collect();
                let plain = plain
                    .as_ref()
                    .and_then(|key| results.get(problem.line, key));
                let place = decoder(named.row, decoders)?;
                let device = decoders[place].device.as_mut();
                let outcome = answer(evaluation, device, problem, prompt, named, plain, &before)?;
                results.add(outcome)?;
            }
        }
        progress();
    }
    Ok(results)
}

fn named<'a>(
    evaluation: &Evaluation<'a>,
    decoders: &[Decoder],
) -> Result<Vec<Named<'a>>, EvalError> {
    let mut named: Vec<Named<'a>> = Vec::new();
    for row in evaluation.rows {
        if named.iter().any(|n| n.row.name == row.name) {
            return Err(EvalError::Name {
                name: row.name.clone(),
            });
        }
        let spec = row.spec().map_err(|source| EvalError::Judge {
            row: row.name.clone(),
            source: Box::new(source),
        })?;
        decoder(row, decoders)?;
        named.push(Named {
            row,
            key: spec.key(),
            spec,
        });
    }
    Ok(named)
}

/// Which decoder runs a row; a plain one runs anywhere.
fn decoder(row: &Row, decoders: &[Decoder]) -> Result<usize, EvalError> {
    let fits = |d: &Decoder| row.is_plain() || same_drafter(&d.drafter, &row.drafter);
    let found = decoders.iter().position(fits);
    found.ok_or_else(|| EvalError::Decoder {
        row: row.name.clone(),
        draft: draft_name(&row.drafter),
    })
}

fn run_file(evaluation: &Evaluation<'_>, rows: &[Named<'_>]) -> RunFile {
    let Prompting {
        chat,
        system,
        stops,
        max_tokens,
    } = evaluation.prompting.clone();
    let target = ModelSpec::from(evaluation.target);
    RunFile {
        chat,
        system,
        stops,
        max_tokens,
        stop_tokens: evaluation.target.generation.eos.clone(),
        context: evaluation.context,
        checker: evaluation.grader.checker.as_ref().map(ToString::to_string),
        seed: evaluation.seed,
        perplexity: evaluation.perplexity,
        rows: rows
            .iter()
            .map(|named| NamedSpec {
                key: named.key.clone(),
                name: named.row.name.clone(),
                spec: named.spec.clone(),
            })
            .collect(),
        ..RunFile::new(evaluation.task, evaluation.data.clone(), target)
    }
}

/// The prompt of every problem as tokens, each short enough.
fn prompts(evaluation: &Evaluation<'_>) -> Result<Vec<Vec<u32>>, EvalError> {
    let prompting = &evaluation.prompting;
    let template = match prompting.chat {
        true => Some(ChatTemplate::open(&evaluation.target.dir)?.ok_or_else(|| {
            EvalError::NoTemplate {
                dir: evaluation.target.dir.display().to_string(),
            }
        })?),
        false => None,
    };
    let ids = |problem: &Problem| {
        let id = || problem.id.clone();
        let ids = match &template {
            Some(template) => {
                let text = template
                    .ask(prompting.system.as_deref(), &problem.prompt)
                    .map_err(|source| EvalError::Chat { id: id(), source })?;
                // the template writes the special tokens itself
                evaluation.tokenizer.encode(&text, false)
            }
            None => evaluation.tokenizer.encode(&problem.plain, true),
        };
        let ids = ids.map_err(|source| EvalError::Tokenizer {
            id: id(),
            source: Box::new(source),
        })?;
        if ids.len() >= evaluation.context {
            return Err(EvalError::TooLong {
                id: id(),
                line: problem.line + 1,
                found: ids.len(),
                context: evaluation.context,
            });
        }
        Ok(ids)
    };
    evaluation.problems.iter().map(ids).collect()
}

/// One response with all that is known of it. `before`: this problem's other outcomes;
/// what they know of the same tokens is not found out again.
fn answer(
    evaluation: &Evaluation<'_>,
    device: &mut dyn Device,
    problem: &Problem,
    prompt: &[u32],
    named: &Named<'_>,
    plain: Option<&Outcome>,
    before: &[&Outcome],
) -> Result<Outcome, EvalError> {
    let failed = |source| EvalError::Device {
        id: problem.id.clone(),
        row: named.row.name.clone(),
        source,
    };
    let request = Request {
        prompt: prompt.to_vec(),
        max_tokens: evaluation.prompting.max_tokens,
        stop_tokens: evaluation.target.generation.eos.clone(),
        seed: evaluation.seed,
        sequence: problem.line as u32,
    };
    let mut output = TextOutput::new(evaluation.tokenizer.stream(), &evaluation.prompting.stops);
    let (mut text, mut length, mut stopped) = (String::new(), 0, false);
    let generation = generate(device, &request, &named.row.step, |committed| {
        for c in committed {
            length += 1;
            if !request.stop_tokens.contains(&c.token) {
                let trimmed = output.push(c.token);
                text.push_str(&trimmed.text);
                stopped = trimmed.stopped;
            }
            // what a step committed behind a stop string is no part of the response
            if stopped {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })
    .map_err(failed)?;
    let rest = output.finish();
    text.push_str(&rest.text);
    let tokens = &generation.tokens[..length.min(generation.tokens.len())];
    let bytes: Vec<u8> = tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
    let key = digest(&bytes);

    let known = before.iter().find(|o| o.tokens == key);
    let grade = match known {
        Some(known) => known.grade.clone(),
        None => evaluation.grader.grade(problem, &text)?,
    };
    let nll = match known.and_then(|k| k.nll) {
        _ if !evaluation.perplexity => None,
        Some(nll) => Some(nll),
        None => Some(negative_log_likelihood(device, prompt, tokens).map_err(failed)?),
    };
    let same_as_plain = plain.map(|plain| plain.tokens == key);
    Ok(Outcome {
        problem: problem.line,
        row: named.key.clone(),
        plain_rouge_l: plain.map(|plain| match (plain.tokens == key, &plain.text) {
            (false, Some(expected)) => rouge::rouge_l(expected, &text),
            _ => 1.0,
        }),
        text: (same_as_plain != Some(true)).then_some(text),
        same_as_plain,
        nll_tokens: nll.map(|_| tokens.len()),
        nll,
        tokens: key,
        finish: match generation.ended {
            _ if stopped || rest.stopped => "stop_string",
            Ended::Device(Finish::Stop) => "stop",
            Ended::Device(Finish::Length) => "length",
            Ended::Device(Finish::Context) => "context",
            Ended::Caller => "stop_string",
        }
        .to_owned(),
        grade,
        stats: generation.stats,
    })
}

/// Rows of a pass whose logits are read at once: a vocabulary of 150,000 makes them 40 MB.
const SCORED_ROWS: usize = 64;

/// -log P(response | prompt) under the target, temperature 1 and nothing truncated, in nats,
/// summed over the tokens of the response. Leaves the device without a sequence.
///
/// The prompt has at least one token.
pub fn negative_log_likelihood(
    device: &mut dyn Device,
    prompt: &[u32],
    response: &[u32],
) -> Result<f64, DeviceError> {
    let Some((last, before)) = prompt.split_last() else {
        return Err(DeviceError::EmptyPrompt);
    };
    device.rollback(0);
    prefill(device, before, &Want::default())?;
    let want = Want {
        logits: Logits::All,
        ..Want::default()
    };
    let mut sum = 0.0;
    // the token before each token of the response predicts it
    let inputs: Vec<u32> = [*last].iter().chain(response).copied().collect();
    for (inputs, outputs) in inputs.chunks(SCORED_ROWS).zip(response.chunks(SCORED_ROWS)) {
        let inputs = &inputs[..outputs.len()];
        let output = device.pass(&TokenTree::chain(inputs), &want)?;
        let width = output.logits.len() / inputs.len();
        for (row, &token) in output.logits.chunks(width).zip(outputs) {
            sum -= log_probability(row, token);
        }
        device.commit(&(0..inputs.len()).collect::<Vec<_>>());
    }
    device.rollback(0);
    Ok(sum)
}

fn log_probability(logits: &[f32], token: u32) -> f64 {
    let most = logits.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    let sum: f64 = logits.iter().map(|&z| f64::from(z - most).exp()).sum();
    f64::from(logits[token as usize] - most) - sum.ln()
}
