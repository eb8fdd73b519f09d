//! Tasks with known answers: problems from JSONL files, and what tells a right response.
//!
//! [`Checker`]s find and compare final answers; evaluation compares a response with the
//! reference, mining a changed response with the original one.

mod answer;
mod grade;
mod problems;
pub mod rouge;
mod sandbox;

pub use answer::{Answer, CheckError, Checker};
pub use grade::{Grade, GradeError, Grader};
pub use problems::{Problem, Reference, TaskError};
pub use sandbox::{Limits, Sandbox, SandboxError, Verdict};

use std::fmt;
use std::str::FromStr;

/// What the problems of a data file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Grade school mathematics (2110.14168): `{question, answer}`, the answer ending in `#### N`.
    Gsm8k,
    /// Competition mathematics (2103.03874): `{problem, solution}` with the answer boxed in
    /// the solution, or in a field `answer`.
    Math,
    /// Multiple choice (2009.03300): `{question, choices, answer}`, the answer's index or letter.
    Mmlu,
    /// Python functions with tests (2107.03374): `{task_id, prompt, entry_point, test}`.
    #[serde(rename = "humaneval")]
    HumanEval,
    /// Summaries of news (1704.04368): `{article, highlights}`.
    Summarize,
    /// What `models/demo` was trained on: as GSM8K, the question alone being the prompt.
    WordProblems,
}

impl Task {
    /// Every task.
    pub const ALL: [Task; 6] = [
        Task::Gsm8k,
        Task::Math,
        Task::Mmlu,
        Task::HumanEval,
        Task::Summarize,
        Task::WordProblems,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Task::Gsm8k => "gsm8k",
            Task::Math => "math",
            Task::Mmlu => "mmlu",
            Task::HumanEval => "humaneval",
            Task::Summarize => "summarize",
            Task::WordProblems => "word-problems",
        }
    }

    /// How the task's final answers are found and compared; `None` where a response is
    /// tested or scored as a whole.
    pub fn checker(self) -> Option<Checker> {
        match self {
            Task::Gsm8k => Some(Checker::Gsm8k),
            Task::Math => Some(Checker::Boxed),
            Task::Mmlu => Some(Checker::Choice),
            Task::WordProblems => Some(Checker::Hashes),
            Task::HumanEval | Task::Summarize => None,
        }
    }

    /// Strings at which the continuation of a plain prompt ends: where a base model begins
    /// the next problem. For HumanEval they are those of its paper, section 3.
    pub fn stops(self) -> &'static [&'static str] {
        match self {
            Task::Gsm8k | Task::Math | Task::Mmlu | Task::WordProblems => &["\nQuestion:"],
            Task::HumanEval => &["\nclass", "\ndef", "\n#", "\nif", "\nprint"],
            Task::Summarize => &["\nArticle:"],
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No task of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("task '{0}': expected gsm8k, math, mmlu, humaneval, summarize or word-problems")]
pub struct UnknownTask(String);

impl FromStr for Task {
    type Err = UnknownTask;

    fn from_str(name: &str) -> Result<Task, UnknownTask> {
        let found = Task::ALL.into_iter().find(|t| t.name() == name);
        found.ok_or_else(|| UnknownTask(name.chars().take(80).collect()))
    }
}
