//! Data files: a JSON object a line, with the fields under which the data are published.

use super::{Checker, Task};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// One problem of a data file.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Its own `task_id`, `unique_id` or `id`, else its line.
    pub id: String,
    /// Its line in the file, from 0: what names it for sure.
    pub line: usize,
    /// The user's message for a chat model.
    pub prompt: String,
    /// The text that a base model continues.
    pub plain: String,
    /// What is right.
    pub reference: Reference,
}

/// What a response is measured by.
#[derive(Clone, Debug, PartialEq)]
pub enum Reference {
    /// A text in which a [`Checker`] finds the right answer.
    Answer(String),
    /// A function that must pass tests.
    Code {
        /// The beginning of the program: imports, helpers, signature and docstring.
        prompt: String,
        /// Name of the function.
        entry_point: String,
        /// Defines `check(candidate)`.
        test: String,
    },
    /// A summary by people.
    Summary(String),
}

/// Why a data file is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A line is no problem of the task.
    #[error("{}, line {line}: {task}: found {found}, expected {expected}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What was to be read.
        task: Task,
        /// What is there.
        found: String,
        /// What belongs there.
        expected: String,
    },
    /// There is not one problem in it.
    #[error("{}: found no line with a problem, expected a JSON object a line", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

impl Task {
    /// Reads a data file; blank lines are skipped.
    pub fn read(self, path: &Path) -> Result<Vec<Problem>, TaskError> {
        let fail = |source| TaskError::Read {
            path: path.to_owned(),
            source,
        };
        self.parse(&std::fs::read(path).map_err(fail)?, path)
    }

    /// As [`Task::read`], from the bytes of a file; errors name `path`.
    pub fn parse(self, bytes: &[u8], path: &Path) -> Result<Vec<Problem>, TaskError> {
        let mut problems = Vec::new();
        for (line, bytes) in bytes.split(|&b| b == b'\n').enumerate() {
            if bytes.trim_ascii().is_empty() {
                continue;
            }
            let wrong = |Wrong { found, expected }| TaskError::Line {
                path: path.to_owned(),
                line: line + 1,
                task: self,
                found,
                expected,
            };
            problems.push(self.problem(bytes, line).map_err(wrong)?);
        }
        if problems.is_empty() {
            return Err(TaskError::Empty {
                path: path.to_owned(),
            });
        }
        Ok(problems)
    }

    fn problem(self, bytes: &[u8], line: usize) -> Result<Problem, Wrong> {
        let fields = match serde_json::from_slice(bytes) {
            Ok(Value::Object(fields)) => fields,
            Ok(other) => return Err(Wrong::new(kind(&other), "a JSON object")),
            Err(e) => return Err(Wrong::new(format!("invalid JSON ({e})"), "a JSON object")),
        };
        let text = |name| text(&fields, name);
        let id = ["task_id", "unique_id", "id"]
            .iter()
            .find_map(|name| match fields.get(*name)? {
                Value::String(id) => Some(id.clone()),
                Value::Number(id) => Some(id.to_string()),
                _ => None,
            })
            .unwrap_or_else(|| (line + 1).to_string());
        let (prompt, plain, reference) = match self {
            Task::WordProblems => {
                let question = text("question")?;
                let reference =
                    checked(Checker::Hashes, text("answer")?, "'answer' with '#### N'")?;
                (
                    question.to_owned(),
                    question_and_answer(question),
                    reference,
                )
            }
            Task::Gsm8k => {
                let question = text("question")?;
                let reference =
                    checked(Checker::Hashes, text("answer")?, "'answer' with '#### N'")?;
                let prompt = format!(
                    "{question}\n\nReason step by step. End with the final answer on a line of its own, in the form #### N."
                );
                (prompt, question_and_answer(question), reference)
            }
            Task::Math => {
                let problem = text("problem")?;
                let reference = match fields.get("answer") {
                    Some(Value::String(answer)) => format!("\\boxed{{{answer}}}"),
                    Some(Value::Number(answer)) => format!("\\boxed{{{answer}}}"),
                    Some(other) => {
                        return Err(Wrong::new(
                            format!("{} as 'answer'", kind(other)),
                            "text or a number",
                        ));
                    }
                    None => text("solution")?.to_owned(),
                };
                let expected = "'answer', or 'solution' with \\boxed{...}";
                let reference = checked(Checker::Boxed, &reference, expected)?;
                // as Qwen2.5-Math asks (2409.12122)
                let prompt = format!(
                    "{problem}\n\nPlease reason step by step, and put your final answer within \\boxed{{}}."
                );
                (prompt, question_and_answer(problem), reference)
            }
            Task::Mmlu => {
                let question = choices(&fields)?;
                let letter = letter(&fields)?;
                let prompt = format!(
                    "{question}\n\nThink step by step. End with a line of the form: Answer: LETTER."
                );
                let plain = question_and_answer(&question);
                (prompt, plain, Reference::Answer(letter.to_string()))
            }
            Task::HumanEval => {
                let code = text("prompt")?;
                let reference = Reference::Code {
                    prompt: code.to_owned(),
                    entry_point: text("entry_point")?.to_owned(),
                    test: text("test")?.to_owned(),
                };
                let prompt = format!(
                    "Complete this Python function. Reply with the whole function in one code block.\n\n```python\n{}\n```",
                    code.trim_end()
                );
                (prompt, code.to_owned(), reference)
            }
            Task::Summarize => {
                let article = text("article")?;
                let reference = Reference::Summary(text("highlights")?.to_owned());
                let prompt = format!(
                    "Summarize this article in three or four sentences. Reply with the summary alone.\n\n{article}"
                );
                (prompt, format!("Article: {article}\nSummary:"), reference)
            }
        };
        Ok(Problem {
            id,
            line,
            prompt,
            plain,
            reference,
        })
    }
}

/// What is wrong with a line; the caller says where.
struct Wrong {
    found: String,
    expected: String,
}

impl Wrong {
    fn new(found: impl Into<String>, expected: impl Into<String>) -> Wrong {
        Wrong {
            found: found.into(),
            expected: expected.into(),
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn field<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a Value, Wrong> {
    fields.get(name).ok_or_else(|| {
        let names: Vec<&str> = fields.keys().map(String::as_str).take(12).collect();
        Wrong::new(
            format!("the fields '{}'", names.join("', '")),
            format!("a field '{name}'"),
        )
    })
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a str, Wrong> {
    match field(fields, name)? {
        Value::String(text) => Ok(text),
        other => Err(Wrong::new(format!("{} as '{name}'", kind(other)), "text")),
    }
}

/// A reference in which the task's answer can be found.
fn checked(checker: Checker, text: &str, expected: &str) -> Result<Reference, Wrong> {
    if checker.answer(text).is_none() {
        let end = text.char_indices().rev().nth(59).map_or(0, |(at, _)| at);
        return Err(Wrong::new(
            format!("no answer in '{}'", &text[end..]),
            expected,
        ));
    }
    Ok(Reference::Answer(text.to_owned()))
}

fn question_and_answer(question: &str) -> String {
    format!("Question: {question}\nAnswer:")
}

/// The question with its choices, lettered.
fn choices(fields: &Map<String, Value>) -> Result<String, Wrong> {
    let mut question = text(fields, "question")?.trim_end().to_owned();
    let expected = "a list of four texts";
    let choices = match field(fields, "choices")? {
        Value::Array(choices) if choices.len() == 4 => choices,
        Value::Array(choices) => {
            return Err(Wrong::new(format!("{} 'choices'", choices.len()), expected));
        }
        other => {
            return Err(Wrong::new(
                format!("{} as 'choices'", kind(other)),
                expected,
            ));
        }
    };
    for (letter, choice) in ('A'..='D').zip(choices) {
        let Value::String(choice) = choice else {
            return Err(Wrong::new(
                format!("{} among 'choices'", kind(choice)),
                expected,
            ));
        };
        question.push_str(&format!("\n{letter}. {choice}"));
    }
    Ok(question)
}

/// The right choice, given as an index from 0 or a letter.
fn letter(fields: &Map<String, Value>) -> Result<char, Wrong> {
    let answer = field(fields, "answer")?;
    let index = match answer {
        Value::Number(index) => index.as_u64(),
        Value::String(text) => match text.trim() {
            "A" => Some(0),
            "B" => Some(1),
            "C" => Some(2),
            "D" => Some(3),
            digits => digits.parse().ok(),
        },
        _ => None,
    };
    match index {
        Some(index @ 0..4) => Ok(char::from(b'A' + index as u8)),
        _ => Err(Wrong::new(
            format!("'answer' {answer}"),
            "an index from 0 to 3 or a letter from A to D",
        )),
    }
}
