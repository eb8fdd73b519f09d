//! Whether a response is right.

use super::rouge::{Rouge, rouge};
use super::{CheckError, Checker, Problem, Reference, Sandbox, SandboxError, Task, Verdict};
use serde::{Deserialize, Serialize};

/// What measures responses.
#[derive(Clone, Debug, Default)]
pub struct Grader {
    /// Finds and compares final answers.
    pub checker: Option<Checker>,
    /// Runs programs; [`Task::HumanEval`] needs one.
    pub sandbox: Option<Sandbox>,
}

/// How a response did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grade {
    /// Whether it is right, where that is a question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub right: Option<bool>,
    /// The final answer that was found in it, or how its program failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// Its likeness to the reference summary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rouge: Option<Rouge>,
}

/// Why a response could not be graded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GradeError {
    /// Answers could not be compared.
    #[error("problem {id}: {source}")]
    Check {
        /// The problem.
        id: String,
        /// Why.
        source: CheckError,
    },
    /// A program could not be run.
    #[error("problem {id}: {source}")]
    Sandbox {
        /// The problem.
        id: String,
        /// Why.
        source: SandboxError,
    },
    /// The checker finds nothing in the reference itself.
    #[error("problem {id}: the checker {checker} finds no final answer in the reference")]
    Reference {
        /// The problem.
        id: String,
        /// The checker.
        checker: String,
    },
    /// The problems need what the grader does not have.
    #[error("problem {id}: found no {missing}, and its task needs one")]
    Missing {
        /// The problem.
        id: String,
        /// What is not there.
        missing: &'static str,
    },
}

impl Grader {
    /// The task's own checker; no sandbox.
    pub fn of(task: Task) -> Grader {
        Grader {
            checker: task.checker(),
            sandbox: None,
        }
    }

    /// Measures one response.
    pub fn grade(&self, problem: &Problem, response: &str) -> Result<Grade, GradeError> {
        let id = || problem.id.clone();
        let missing = |missing| GradeError::Missing { id: id(), missing };
        match &problem.reference {
            Reference::Answer(reference) => {
                let checker = self.checker.as_ref().ok_or_else(|| missing("checker"))?;
                let Some(expected) = checker.answer(reference) else {
                    return Err(GradeError::Reference {
                        id: id(),
                        checker: checker.to_string(),
                    });
                };
                let found = checker.answer(response);
                let right = match &found {
                    Some(found) => checker.same(&expected, found),
                    None => Ok(false),
                };
                Ok(Grade {
                    right: Some(right.map_err(|source| GradeError::Check { id: id(), source })?),
                    // a command's answer is the whole response, which is kept anyway
                    answer: found
                        .filter(|_| !matches!(checker, Checker::Command { .. }))
                        .map(|a| a.text().to_owned()),
                    rouge: None,
                })
            }
            Reference::Code {
                prompt,
                entry_point,
                test,
            } => {
                let sandbox = self.sandbox.as_ref().ok_or_else(|| missing("sandbox"))?;
                let code = program(prompt, entry_point, test, response);
                let verdict = sandbox
                    .run(&code)
                    .map_err(|source| GradeError::Sandbox { id: id(), source })?;
                Ok(Grade {
                    right: Some(verdict == Verdict::Passed),
                    answer: match verdict {
                        Verdict::Passed => None,
                        Verdict::Failed(why) => Some(why),
                        Verdict::TimedOut => Some("out of time".to_owned()),
                    },
                    rouge: None,
                })
            }
            Reference::Summary(reference) => Ok(Grade {
                right: None,
                answer: None,
                rouge: Some(rouge(reference, response)),
            }),
        }
    }
}

/// The response as a program that runs the tests.
///
/// A whole function, alone or in a code block, is defined after the prompt, whose imports
/// and helpers it may use; anything else continues the prompt.
fn program(prompt: &str, entry_point: &str, test: &str, response: &str) -> String {
    let defines = |code: &str| code.contains(&format!("def {entry_point}("));
    let blocks = code_blocks(response);
    let whole = blocks
        .iter()
        .rfind(|block| defines(block))
        .or(blocks.first())
        .copied();
    let code = match whole {
        Some(block) if defines(block) => format!("{prompt}\n\n{block}"),
        Some(block) => format!("{prompt}{block}"),
        None if defines(response) => format!("{prompt}\n\n{response}"),
        None => format!("{prompt}{response}"),
    };
    format!("{code}\n\n{test}\n\ncheck({entry_point})\n")
}

/// What stands between fences; the last block may lack its end.
fn code_blocks(text: &str) -> Vec<&str> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("```") {
        // the rest of the line names the language
        let Some(line_end) = rest[start..].find('\n') else {
            break;
        };
        let body = &rest[start + line_end + 1..];
        let end = body.find("```").unwrap_or(body.len());
        blocks.push(&body[..end]);
        rest = body.get(end + 3..).unwrap_or_default();
    }
    blocks
}
