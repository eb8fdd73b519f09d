//! Final answers: where they stand in a response, and when two are the same.

use super::sandbox::{Ended, run_with_limit};
use regex::Regex;
use std::fmt;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

/// Finds the final answer of a response and compares it with another's.
///
/// Read and written as on the command line: `hashes`, `gsm8k`, `boxed`, `choice`,
/// `command=COMMAND`. Numbers compare as numbers: `$1,000`, `1000` and `1000.0` are the same.
///
/// ```
/// use gavel::task::Checker;
///
/// let checker: Checker = "gsm8k".parse()?;
/// let a = checker.answer("That makes 3 * 350 = 1050.\n#### 1,050").unwrap();
/// let b = checker.answer("So she pays $1050.00 in all.").unwrap();
/// assert!(checker.same(&a, &b)?);
/// # Ok::<(), gavel::task::CheckError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checker {
    /// The number after the last `####`, and nothing else.
    Hashes,
    /// As [`Checker::Hashes`]; without it the number after the last "answer is" (AutoJudge's
    /// code takes what follows "the final answer is"), and without that the last number, as
    /// the filter `flexible-extract` of lm-evaluation-harness does.
    Gsm8k,
    /// What the last `\boxed{...}` or `\fbox{...}` holds, braces balanced. Spellings that
    /// Hendrycks et al. (2103.03874) take for equal are equal: spacing, `\left`, `\dfrac`,
    /// units, degrees, dollars and percent, `x = ` before the value, a/b and `\frac{a}{b}`.
    Boxed,
    /// A letter from A to D: after "answer is", else after "answer:", else the last letter
    /// that stands alone; the order of MMLU-Pro's evaluation (2406.01574).
    Choice,
    /// A user's command decides. The whole response is the answer; to compare two, the
    /// command is run by `sh -c` with `{"a": ..., "b": ...}` on its standard input, in an
    /// evaluation the reference as `a` and the response as `b`, in mining the original
    /// response and the changed one. It exits with 0 for the same, 1 for different.
    Command {
        /// The command.
        command: String,
        /// The longest that one comparison may take.
        timeout: Duration,
    },
}

/// A command may take this long where nothing else is said.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A final answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Answer {
    text: String,
    /// The form in which answers are compared.
    normal: String,
}

impl Answer {
    /// As it stood in the response.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why two answers could not be compared, or there is no such checker.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// Not the name of a checker.
    #[error("checker '{found}': expected hashes, gsm8k, boxed, choice or command=COMMAND")]
    Unknown {
        /// What was given.
        found: String,
    },
    /// The command could not be run.
    #[error("checker command '{command}': {source}")]
    Run {
        /// The command.
        command: String,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The command did not say "same" or "different".
    #[error("checker command '{command}': {found}, expected exit code 0 (same) or 1 (different)")]
    Command {
        /// The command.
        command: String,
        /// How it ended, with what it wrote to standard error.
        found: String,
    },
}

impl FromStr for Checker {
    type Err = CheckError;

    fn from_str(text: &str) -> Result<Checker, CheckError> {
        match text {
            "hashes" => Ok(Checker::Hashes),
            "gsm8k" => Ok(Checker::Gsm8k),
            "boxed" => Ok(Checker::Boxed),
            "choice" => Ok(Checker::Choice),
            _ => match text.strip_prefix("command=").map(str::trim) {
                Some(command) if !command.is_empty() => Ok(Checker::Command {
                    command: command.to_owned(),
                    timeout: TIMEOUT,
                }),
                _ => Err(CheckError::Unknown {
                    found: text.chars().take(80).collect(),
                }),
            },
        }
    }
}

impl fmt::Display for Checker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Checker::Hashes => f.write_str("hashes"),
            Checker::Gsm8k => f.write_str("gsm8k"),
            Checker::Boxed => f.write_str("boxed"),
            Checker::Choice => f.write_str("choice"),
            Checker::Command { command, .. } => write!(f, "command={command}"),
        }
    }
}

impl Checker {
    /// The same checker; a command is given this long for a comparison.
    pub fn with_timeout(mut self, limit: Duration) -> Checker {
        if let Checker::Command { timeout, .. } = &mut self {
            *timeout = limit;
        }
        self
    }

    /// The final answer of a response; `None` where there is none.
    pub fn answer(&self, response: &str) -> Option<Answer> {
        match self {
            Checker::Hashes => number_after_hashes(response),
            Checker::Gsm8k => number_after_hashes(response)
                .or_else(|| number_after_phrase(response))
                .or_else(|| numbers(response).last()),
            Checker::Boxed => {
                let text = last_boxed(response)?.trim();
                (!text.is_empty()).then(|| Answer {
                    text: text.to_owned(),
                    normal: normalise(text),
                })
            }
            Checker::Choice => choice(response).map(|letter| Answer {
                text: letter.to_owned(),
                normal: letter.to_owned(),
            }),
            Checker::Command { .. } => {
                let text = response.trim();
                (!text.is_empty()).then(|| Answer {
                    text: text.to_owned(),
                    normal: text.to_owned(),
                })
            }
        }
    }

    /// Whether two answers that this checker found are the same.
    ///
    /// # Errors
    /// Only [`Checker::Command`] fails: when the command cannot be run, takes too long, or
    /// ends with another code than 0 or 1.
    pub fn same(&self, a: &Answer, b: &Answer) -> Result<bool, CheckError> {
        match self {
            Checker::Command { command, timeout } => ask(command, *timeout, a, b),
            _ => Ok(a.normal == b.normal),
        }
    }
}

fn ask(command: &str, timeout: Duration, a: &Answer, b: &Answer) -> Result<bool, CheckError> {
    let input = serde_json::json!({"a": a.text, "b": b.text}).to_string();
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).stdout(Stdio::null());
    let output =
        run_with_limit(shell, input.as_bytes(), timeout).map_err(|source| CheckError::Run {
            command: command.to_owned(),
            source,
        })?;
    let found = match output.ended {
        Ended::Exit(0) => return Ok(true),
        Ended::Exit(1) => return Ok(false),
        Ended::Exit(code) => format!("exit code {code}"),
        Ended::Signal => "ended by a signal".to_owned(),
        Ended::TimedOut => format!("no result after {} s", timeout.as_secs_f64()),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rfind(|l| !l.trim().is_empty());
    Err(CheckError::Command {
        command: command.to_owned(),
        found: match last {
            Some(line) => format!(
                "{found} ({})",
                line.trim().chars().take(200).collect::<String>()
            ),
            None => found,
        },
    })
}

/// Digits with separators and a fraction; the sign is looked for by [`numbers`].
static NUMBER: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?:[0-9]{1,3}(?:,[0-9]{2,3})*,[0-9]{3}|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+")
        .expect("a regular expression")
});

/// Every number of a text, first to last.
fn numbers(text: &str) -> impl Iterator<Item = Answer> + '_ {
    NUMBER.find_iter(text).map(|found| {
        let before = text[..found.start()].trim_end_matches(['$', '€', '£']);
        let unsigned = before.trim_end_matches(['-', '\u{2212}']);
        // "20-4" and "(5)-4" subtract, "= -4" is negative
        let negative = unsigned.len() < before.len()
            && !unsigned.ends_with(|c: char| c.is_alphanumeric() || c == ')');
        let sign = if negative { "-" } else { "" };
        Answer {
            text: format!("{sign}{}", found.as_str()),
            normal: canonical(negative, found.as_str()),
        }
    })
}

/// A decimal number in its one form: no separators, no zeros that say nothing.
fn canonical(negative: bool, digits: &str) -> String {
    let digits = digits.replace(',', "");
    let (whole, fraction) = digits.split_once('.').unwrap_or((&digits, ""));
    let (whole, fraction) = (
        whole.trim_start_matches('0'),
        fraction.trim_end_matches('0'),
    );
    let whole = if whole.is_empty() { "0" } else { whole };
    let sign = match negative && (whole != "0" || !fraction.is_empty()) {
        true => "-",
        false => "",
    };
    match fraction {
        "" => format!("{sign}{whole}"),
        _ => format!("{sign}{whole}.{fraction}"),
    }
}

/// The number after the last `####` that has one right behind it: chat models head
/// paragraphs with `####` too.
fn number_after_hashes(text: &str) -> Option<Answer> {
    text.rmatch_indices("####").find_map(|(at, hashes)| {
        let line = text[at + hashes.len()..].lines().next()?;
        let first_word = line.find(char::is_alphanumeric)?;
        let number = NUMBER.find(line)?;
        // a fraction without a whole part begins with its point
        if number.start() > first_word || number.end() <= first_word {
            return None;
        }
        numbers(line).next()
    })
}

fn number_after_phrase(text: &str) -> Option<Answer> {
    static PHRASE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?i)\banswer(?:\s+is\b|:)").expect("a regular expression"));
    let last = PHRASE.find_iter(text).last()?;
    let rest = &text[last.end()..];
    // the sentence ends with the paragraph
    let paragraph = rest.trim_start().split("\n\n").next()?;
    numbers(paragraph).next()
}

/// What the last `\boxed` or `\fbox` holds; `None` where its braces do not close.
fn last_boxed(text: &str) -> Option<&str> {
    let start = text.rfind("\\boxed").max(text.rfind("\\fbox"))?;
    let rest = text[start..].trim_start_matches(|c: char| c == '\\' || c.is_ascii_alphabetic());
    let Some(inner) = rest.trim_start().strip_prefix('{') else {
        // "\boxed 5", up to the end of the formula
        return Some(rest.split(['$', '\n']).next().unwrap_or(rest).trim());
    };
    let (mut depth, mut escaped) = (1usize, false);
    for (at, c) in inner.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&inner[..at]);
        }
    }
    None
}

/// The form in which boxed answers are compared; see [`Checker::Boxed`].
fn normalise(text: &str) -> String {
    static UNITS: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\\(?:text|mbox)\{ .*$").expect("a regular expression"));
    static WRAPPED: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"^\\(?:text|mathrm|textbf|mathbf|textit)\{([^{}]*)\}$")
            .expect("a regular expression")
    });
    let mut text = text.replace('\n', "").replace("\\!", "");
    for (from, to) in [
        ("\\\\", "\\"),
        ("\\tfrac", "\\frac"),
        ("\\dfrac", "\\frac"),
        ("\\left", ""),
        ("\\right", ""),
        ("^{\\circ}", ""),
        ("^\\circ", ""),
        ("\\$", ""),
        ("$", ""),
        ("\\%", ""),
        ("%", ""),
        ("\\,", ""),
        ("\\;", ""),
        ("\\ ", ""),
    ] {
        text = text.replace(from, to);
    }
    let text = UNITS.replace(&text, "");
    let mut text = text
        .trim()
        .trim_end_matches('.')
        .replace(" .", " 0.")
        .replace("{.", "{0.");
    if let Some((name, value)) = text.split_once('=')
        && name.trim().chars().count() <= 2
        && !value.contains('=')
    {
        text = value.trim().to_owned();
    }
    if let Some(inner) = WRAPPED.captures(&text).map(|c| c[1].to_owned()) {
        text = inner;
    }
    let text = braced(&braced(&text.replace(' ', ""), "\\sqrt", 1), "\\frac", 2);
    if let Some(number) = whole_number(&text) {
        return match number.as_str() {
            "0.5" => "\\frac{1}{2}".to_owned(),
            _ => number,
        };
    }
    let plain = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
    match text.split_once('/') {
        Some((a, b)) if plain(a.trim_start_matches('-')) && plain(b) => {
            format!("\\frac{{{a}}}{{{b}}}")
        }
        _ => text,
    }
}

/// The canonical form of a text that is one number and nothing more.
fn whole_number(text: &str) -> Option<String> {
    let digits = text.trim_start_matches(['-', '\u{2212}', '+']);
    let found = NUMBER.find(digits)?;
    let negative = text.starts_with(['-', '\u{2212}']);
    (found.start() == 0 && found.end() == digits.len()).then(|| canonical(negative, digits))
}

/// Braces around one-character arguments of a macro: `\frac12` and `\sqrt3` spelt out.
fn braced(text: &str, name: &str, arguments: usize) -> String {
    let mut parts = text.split(name);
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        result.push_str(name);
        let mut rest = part;
        for _ in 0..arguments {
            match rest.chars().next() {
                Some(c) if c.is_alphanumeric() => {
                    result.push_str(&format!("{{{c}}}"));
                    rest = &rest[c.len_utf8()..];
                }
                Some('{') => {
                    let end = closing(rest).unwrap_or(rest.len());
                    result.push_str(&rest[..end]);
                    rest = &rest[end..];
                }
                _ => break,
            }
        }
        result.push_str(rest);
    }
    result
}

/// Where the brace that opens `text` closes: the byte after it.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some(at + 1);
        }
    }
    None
}

fn choice(text: &str) -> Option<&str> {
    // between the words and the letter: brackets, Markdown's stars, \boxed{ and \text{
    static PHRASES: LazyLock<[Regex; 3]> = LazyLock::new(|| {
        let open = r"[\s(\[*$]*(?:\\boxed\{)?(?:\\text(?:bf)?\{)?[(\[]*";
        [
            format!(r"(?i:answer\s+is:?){open}([A-D])\b"),
            format!(r"(?i:answer:){open}([A-D])\b"),
            format!(r"\\boxed\{{{open}([A-D])\b"),
        ]
        .map(|pattern| Regex::new(&pattern).expect("a regular expression"))
    });
    static ALONE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\b[A-D]\b").expect("a regular expression"));
    let said = PHRASES.iter().find_map(|phrase| {
        let last = phrase.captures_iter(text).last()?;
        Some(last.get(1)?.as_str())
    });
    said.or_else(|| Some(ALONE.find_iter(text).last()?.as_str()))
}
