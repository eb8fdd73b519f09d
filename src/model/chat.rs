//! Chat templates: a conversation as the text that a model was trained to continue.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Kwargs, Object, Value};
use minijinja::{Environment, Error, ErrorKind, context};
use serde::{Deserialize, Serialize};

use super::json::clip;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A turn of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message {
            role: role.into(),
            content: content.into(),
        }
    }
}

/// A message as a template sees it: a mapping whose keys have an order, as in Python.
impl Object for Message {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "role" => Some(Value::from(self.role.as_str())),
            "content" => Some(Value::from(self.content.as_str())),
            _ => None,
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&["role", "content"])
    }
}

/// Why a chat template could not be read or rendered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// A file is not readable or not what it should be.
    #[error("{}: found {found}, expected {expected}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What is there.
        found: String,
        /// What belongs there.
        expected: String,
    },
    /// The template is not one, or refuses the conversation.
    #[error("{}: chat template: {why}", path.display())]
    Template {
        /// The file that holds the template.
        path: PathBuf,
        /// What the template engine, or the template itself, says.
        why: String,
    },
}

/// A model's chat template, rendered as transformers renders it.
pub struct ChatTemplate {
    environment: Environment<'static>,
    path: PathBuf,
    /// `bos_token`, `eos_token` and their like.
    special_tokens: BTreeMap<&'static str, String>,
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChatTemplate({})", self.path.display())
    }
}

const NAME: &str = "chat";

/// The most text that a template may make, in bytes.
const MOST_TEXT_BYTES: usize = 64 << 20;

impl ChatTemplate {
    /// Reads `chat_template.jinja` in `dir`, or else the `chat_template` of
    /// `tokenizer_config.json`: a string, or a list of which the one named `default`
    /// counts. `None` where the model has no template.
    pub fn open(dir: &Path) -> Result<Option<ChatTemplate>, ChatError> {
        let read = |name: &str| {
            let path = dir.join(name);
            if !path.exists() {
                return Ok(None);
            }
            match std::fs::read(&path).map(String::from_utf8) {
                Ok(Ok(text)) => Ok(Some((path, text))),
                Ok(Err(_)) => Err(wrong(&path, "bytes that are not UTF-8", "UTF-8 text")),
                Err(e) => Err(wrong(&path, &e.to_string(), "a readable file")),
            }
        };
        let config = read("tokenizer_config.json")?;
        let jinja = read("chat_template.jinja")?;
        let config = config
            .as_ref()
            .map(|(path, text)| (path.as_path(), text.as_str()));
        match jinja {
            Some((path, text)) => ChatTemplate::parse(config, Some((&path, &text))),
            None => ChatTemplate::parse(config, None),
        }
    }

    /// As [`ChatTemplate::open`], from the two files' paths and texts.
    pub fn parse(
        tokenizer_config: Option<(&Path, &str)>,
        jinja: Option<(&Path, &str)>,
    ) -> Result<Option<ChatTemplate>, ChatError> {
        let config = match tokenizer_config {
            None => serde_json::Value::Null,
            Some((path, text)) => serde_json::from_str(text)
                .map_err(|e| wrong(path, &format!("invalid JSON ({e})"), "a JSON object"))?,
        };
        let (path, source) = match (jinja, tokenizer_config) {
            (Some((path, text)), _) => (path, text),
            (None, Some((path, _))) => match template_of(&config, path)? {
                Some(text) => (path, text),
                None => return Ok(None),
            },
            (None, None) => return Ok(None),
        };
        let mut environment = environment();
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(|e| refused(path, &e))?;
        Ok(Some(ChatTemplate {
            environment,
            path: path.to_owned(),
            special_tokens: special_tokens(&config),
        }))
    }

    /// The text of a question, up to where the answer begins; see [`ChatTemplate::render`].
    pub fn ask(&self, system: Option<&str>, question: &str) -> Result<String, ChatError> {
        let system = system.map(|text| Message::new("system", text));
        let messages = system.into_iter().chain([Message::new("user", question)]);
        self.render(&messages.collect::<Vec<_>>(), true)
    }

    /// The text of a conversation; with `add_generation_prompt` it ends where the
    /// assistant's next turn begins.
    ///
    /// The template puts special tokens where they belong: encode the text without adding any.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, ChatError> {
        let refused = |e| refused(&self.path, &e);
        let messages: Value = messages.iter().cloned().map(Value::from_object).collect();
        let special = Value::from(self.special_tokens.clone());
        let variables = context! {
            messages,
            add_generation_prompt,
            tools => (),
            documents => (),
            ..special
        };
        let template = self.environment.get_template(NAME).map_err(refused)?;
        let mut text = Limited(Vec::new());
        template
            .render_captured_to(variables, &mut text)
            .map_err(refused)?;
        // minijinja writes strings only
        Ok(String::from_utf8_lossy(&text.0).into_owned())
    }
}

fn wrong(path: &Path, found: &str, expected: &str) -> ChatError {
    ChatError::Read {
        path: path.to_owned(),
        found: found.to_owned(),
        expected: expected.to_owned(),
    }
}

/// What minijinja says with all its causes, of which the last says most.
fn refused(path: &Path, error: &Error) -> ChatError {
    let mut why = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        why = format!("{why}: {error}");
        cause = error.source();
    }
    ChatError::Template {
        path: path.to_owned(),
        why,
    }
}

fn template_of<'a>(
    config: &'a serde_json::Value,
    path: &Path,
) -> Result<Option<&'a str>, ChatError> {
    use serde_json::Value as Json;
    let expected =
        "a chat_template that is a string, or a list of {name, template} with a 'default'";
    match config.get("chat_template") {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(text)) => Ok(Some(text)),
        Some(Json::Array(list)) => {
            let default = list
                .iter()
                .find(|t| t.get("name").and_then(Json::as_str) == Some("default"));
            match default
                .and_then(|t| t.get("template"))
                .and_then(Json::as_str)
            {
                Some(text) => Ok(Some(text)),
                None => {
                    let names: Vec<String> = list
                        .iter()
                        .map(|t| {
                            t.get("name")
                                .map_or("one without name".into(), Json::to_string)
                        })
                        .collect();
                    Err(wrong(
                        path,
                        &clip(&format!("templates {}", names.join(", "))),
                        expected,
                    ))
                }
            }
        }
        Some(other) => Err(wrong(path, &super::json::show(other), expected)),
    }
}

fn special_tokens(config: &serde_json::Value) -> BTreeMap<&'static str, String> {
    const NAMES: [&str; 7] = [
        "bos_token",
        "eos_token",
        "unk_token",
        "sep_token",
        "pad_token",
        "cls_token",
        "mask_token",
    ];
    NAMES
        .into_iter()
        .filter_map(|name| {
            let value = config.get(name)?;
            let token = value.as_str().or_else(|| value.get("content")?.as_str())?;
            Some((name, token.to_owned()))
        })
        .collect()
}

/// The environment that transformers sets up for chat templates (`chat_template_utils.py`).
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    if let Ok(syntax) = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
    {
        environment.set_syntax(syntax);
    }
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| {
        Err::<(), _>(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: String| {
        strftime(&format, SystemTime::now())
    });
    environment.add_filter("tojson", to_json);
    environment
}

/// transformers marks the assistant's turns with `{% generation %}` for training; they change no text.
fn without_generation_tags(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag)) = rest.split_once("{%") {
        let Some((tag, after)) = tag.split_once("%}") else {
            break;
        };
        let plain = match tag.trim_matches(['-', '+']).trim() {
            "generation" => tag.replace("generation", "if true"),
            "endgeneration" => tag.replace("endgeneration", "endif"),
            _ => tag.to_owned(),
        };
        text.extend([before, "{%", &plain, "%}"]);
        rest = after;
    }
    text + rest
}

/// Python's `json.dumps`, with `ensure_ascii` off unless asked for.
fn to_json(value: &Value, indent: Option<Value>, options: Kwargs) -> Result<String, Error> {
    let named: Option<Value> = options.get("indent")?;
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    let indent = match indent.or(named) {
        Some(indent) if usize::try_from(indent.clone()).is_ok_and(|n| n > 64) => {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "an indent above 64",
            ));
        }
        indent => indent,
    };
    let json =
        minijinja::filters::tojson(value, indent, Kwargs::from_iter(None::<(String, Value)>))?;
    let mut text = String::new();
    let mut rest = json.as_str().unwrap_or_default();
    // minijinja escapes what would matter inside HTML; a chat is no HTML.
    while let Some(at) = rest.find(|c: char| c == '\\' || (ascii == Some(true) && !c.is_ascii())) {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        const HTML: [(&str, char); 4] = [
            ("\\u003c", '<'),
            ("\\u003e", '>'),
            ("\\u0026", '&'),
            ("\\u0027", '\''),
        ];
        if let Some((escape, plain)) = HTML.iter().find(|(escape, _)| rest.starts_with(escape)) {
            text.push(*plain);
            rest = &rest[escape.len()..];
            continue;
        }
        let mut characters = rest.chars();
        match characters.next() {
            Some('\\') => text.extend(['\\'].into_iter().chain(characters.next())),
            Some(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    text.push_str(&format!("\\u{unit:04x}"));
                }
            }
            None => {}
        }
        rest = characters.as_str();
    }
    Ok(text + rest)
}

/// Refuses to grow beyond [`MOST_TEXT_BYTES`].
struct Limited(Vec<u8>);

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MOST_TEXT_BYTES {
            return Err(io::Error::other(format!(
                "more than {MOST_TEXT_BYTES} bytes of text"
            )));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The directives of C's `strftime` that templates use, in UTC; others stay as they are.
fn strftime(format: &str, time: SystemTime) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = [
        "Thursday",
        "Friday",
        "Saturday",
        "Sunday",
        "Monday",
        "Tuesday",
        "Wednesday",
    ];
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    // Civil date from a day count (Howard Hinnant, chrono-Compatible Low-Level Date Algorithms).
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = (march_month + 2) % 12;
    let year = era * 400 + year_of_era + u64::from(month < 2);

    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(c) = characters.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        match characters.next() {
            Some('d') => text += &format!("{day:02}"),
            Some('m') => text += &format!("{:02}", month + 1),
            Some('y') => text += &format!("{:02}", year % 100),
            Some('Y') => text += &year.to_string(),
            Some('b') => text += &MONTHS[month as usize][..3],
            Some('B') => text += MONTHS[month as usize],
            Some('a') => text += &DAYS[(days % 7) as usize][..3],
            Some('A') => text += DAYS[(days % 7) as usize],
            Some('H') => text += &format!("{hour:02}"),
            Some('I') => text += &format!("{:02}", (hour + 11) % 12 + 1),
            Some('p') => text += if hour < 12 { "AM" } else { "PM" },
            Some('M') => text += &format!("{minute:02}"),
            Some('S') => text += &format!("{second:02}"),
            Some('%') => text.push('%'),
            Some(other) => text.extend(['%', other]),
            None => text.push('%'),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Against `date -u -d @SECONDS`.
    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (
                0,
                "Thu Thursday 01 Jan January 1970 70 01 00:00:00 12 AM 100%",
            ),
            (
                951_782_400,
                "Tue Tuesday 29 Feb February 2000 00 02 00:00:00 12 AM 100%",
            ),
            (
                1_721_998_799,
                "Fri Friday 26 Jul July 2024 24 07 12:59:59 12 PM 100%",
            ),
            (
                4_107_542_399,
                "Sun Sunday 28 Feb February 2100 00 02 23:59:59 11 PM 100%",
            ),
            (
                4_107_542_400,
                "Mon Monday 01 Mar March 2100 00 03 00:00:00 12 AM 100%",
            ),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            let text = strftime("%a %A %d %b %B %Y %y %m %H:%M:%S %I %p 100%%", time);
            assert_eq!(text, expected, "{seconds}");
        }
        assert_eq!(strftime("%q é %", UNIX_EPOCH), "%q é %");
    }
}
