//! What is decoded: prompts of several kinds, because how much of a draft is kept depends on the
//! text.

use serde::Deserialize;

/// The prompts that come with gavel: questions, code, summaries, dialogue and arithmetic.
const BUILT_IN: &str = include_str!("prompts.jsonl");

/// A prompt before it becomes tokens.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Prompt {
    /// What sort of text it asks for; prompts of a kind are reported together.
    #[serde(default = "unnamed")]
    pub kind: String,
    /// The user's message; files of problems call it a question.
    #[serde(alias = "question")]
    pub prompt: String,
}

/// A line that is no prompt.
#[derive(Debug, thiserror::Error)]
#[error(
    "{name}, line {line}: {why}; expected {{\"prompt\": TEXT}} in every line, with \"kind\" if it has one"
)]
pub struct PromptError {
    /// The file.
    pub name: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

fn unnamed() -> String {
    "prompt".to_owned()
}

impl Prompt {
    /// The built-in prompts, three of a kind, kinds taking turns: the first five are one of each.
    pub fn built_in() -> Vec<Prompt> {
        let all = Prompt::parse(BUILT_IN, "the built-in prompts");
        by_turns(all.unwrap_or_else(|e| unreachable!("tested: {e}")))
    }

    /// Prompts from JSON lines; empty lines are skipped.
    ///
    /// # Errors
    /// A line that is not such an object, or whose prompt is empty.
    pub fn parse(text: &str, name: &str) -> Result<Vec<Prompt>, PromptError> {
        let mut prompts = Vec::new();
        let lines = text.lines().enumerate();
        for (number, line) in lines.filter(|(_, l)| !l.trim().is_empty()) {
            let fail = |why: String| PromptError {
                name: name.to_owned(),
                line: number + 1,
                why,
            };
            let prompt: Prompt = serde_json::from_str(line).map_err(|e| fail(e.to_string()))?;
            if prompt.prompt.is_empty() {
                return Err(fail("the prompt is empty".to_owned()));
            }
            prompts.push(prompt);
        }
        Ok(prompts)
    }
}

/// One of each kind, then the second of each, and so on.
fn by_turns(prompts: Vec<Prompt>) -> Vec<Prompt> {
    let mut seen = std::collections::HashMap::<String, usize>::new();
    let mut ranked: Vec<(usize, Prompt)> = Vec::new();
    for prompt in prompts {
        let rank = seen.entry(prompt.kind.clone()).or_default();
        *rank += 1;
        ranked.push((*rank, prompt));
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, prompt)| prompt).collect()
}

/// A prompt of exactly `length` tokens that ends as `all[which]` does: the other prompts stand
/// before it, as often as it takes, cut at the front. Empty only where all prompts are.
pub fn of_length(all: &[Vec<u32>], which: usize, length: usize) -> Vec<u32> {
    let count = all.len();
    if all.iter().all(Vec::is_empty) {
        return Vec::new();
    }
    // from the back: the prompt itself, the one before it, and round again
    let places = (0..).map(|back| (which + count - back % count) % count);
    let mut backwards: Vec<u32> = places
        .flat_map(|place| all[place].iter().rev().copied())
        .take(length)
        .collect();
    backwards.reverse();
    backwards
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_prompts_are_of_five_kinds_three_times() {
        let prompts = Prompt::built_in();
        let kinds: Vec<&str> = prompts.iter().map(|p| &*p.kind).collect();
        let five = ["question", "code", "summary", "dialogue", "arithmetic"];
        assert_eq!(kinds, [five, five, five].concat());
        let mut texts: Vec<&str> = prompts.iter().map(|p| &*p.prompt).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), 15);
    }

    #[test]
    fn a_line_that_is_no_prompt_is_named() {
        for bad in ["{}", "[]", "{\"prompt\": 3}", "{\"prompt\": \"\"}", "hello"] {
            let text = format!("{{\"prompt\": \"a\"}}\n\n{bad}\n");
            let error = Prompt::parse(&text, "mine.jsonl").unwrap_err().to_string();
            assert!(error.starts_with("mine.jsonl, line 3: "), "{error}");
        }
        let fine = Prompt::parse("{\"prompt\": \"a\"}\n", "mine.jsonl").unwrap();
        assert_eq!(fine[0].kind, "prompt");
    }

    #[test]
    fn a_prompt_of_a_length_ends_as_the_prompt_does() {
        let all = vec![vec![1, 2, 3], vec![4, 5], vec![]];
        for (which, length, expected) in [
            (0, 2, vec![2, 3]),
            (0, 3, vec![1, 2, 3]),
            (0, 6, vec![3, 4, 5, 1, 2, 3]),
            (1, 7, vec![4, 5, 1, 2, 3, 4, 5]),
            (2, 1, vec![5]),
        ] {
            assert_eq!(of_length(&all, which, length), expected, "{which} {length}");
        }
        assert!(of_length(&[vec![]], 0, 5).is_empty());
    }
}
