//! Tokens as text, cut at stop strings.

use crate::model::TextStream;

/// Turns committed tokens into text that may be shown at once: never half a
/// character, and never the beginning of what may become a stop string.
pub struct TextOutput {
    stream: Option<TextStream>,
    stops: Vec<String>,
    withheld: String,
    stopped: bool,
}

/// Text that may be shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// The text.
    pub text: String,
    /// Whether a stop string came; nothing follows.
    pub stopped: bool,
}

impl TextOutput {
    /// `stops`: strings at which the text ends; they are not shown.
    pub fn new(stream: TextStream, stops: &[String]) -> Self {
        TextOutput {
            stream: Some(stream),
            stops: stops.iter().filter(|s| !s.is_empty()).cloned().collect(),
            withheld: String::new(),
            stopped: false,
        }
    }

    /// Takes the next token.
    pub fn push(&mut self, token: u32) -> Trimmed {
        let text = self
            .stream
            .as_mut()
            .and_then(|s| s.push(token))
            .unwrap_or_default();
        self.trim(&text, false)
    }

    /// What was withheld and can no longer become anything else.
    pub fn finish(&mut self) -> Trimmed {
        let text = self
            .stream
            .take()
            .map(TextStream::finish)
            .unwrap_or_default();
        self.trim(&text, true)
    }

    fn trim(&mut self, text: &str, last: bool) -> Trimmed {
        if self.stopped {
            return Trimmed {
                text: String::new(),
                stopped: true,
            };
        }
        self.withheld.push_str(text);
        let first = self
            .stops
            .iter()
            .filter_map(|s| self.withheld.find(s.as_str()))
            .min();
        if let Some(at) = first {
            self.stopped = true;
            self.withheld.truncate(at);
            return Trimmed {
                text: std::mem::take(&mut self.withheld),
                stopped: true,
            };
        }
        let keep = if last { 0 } else { self.pending() };
        let rest = self.withheld.split_off(self.withheld.len() - keep);
        Trimmed {
            text: std::mem::replace(&mut self.withheld, rest),
            stopped: false,
        }
    }

    /// Bytes at the end of the text that begin a stop string.
    fn pending(&self) -> usize {
        let begins = |stop: &String| {
            let most = stop.len().saturating_sub(1).min(self.withheld.len());
            let ends = (1..=most).rev();
            ends.into_iter()
                .find(|&n| self.withheld.as_bytes().ends_with(&stop.as_bytes()[..n]))
                .unwrap_or(0)
        };
        self.stops.iter().map(begins).max().unwrap_or(0)
    }
}
