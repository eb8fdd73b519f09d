//! `tokenizer.json`: text to ids and back, whole or as it is generated.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::json::clip;

/// Why a tokenizer could not be read or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file is absent or no tokenizer.
    #[error("{}: found {found}, expected a tokenizer as the crate tokenizers writes it", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What is there instead.
        found: String,
    },
    /// A text has no encoding.
    #[error("{}: cannot encode {bytes} bytes of text: {why}", path.display())]
    Encode {
        /// The tokenizer's file.
        path: PathBuf,
        /// Length of the text.
        bytes: usize,
        /// What the tokenizer says.
        why: String,
    },
    /// Two models do not share a vocabulary.
    #[error(
        "token {id} is {ours:?} in {} but {theirs:?} in {}, expected the same token for every id that both have",
        our_path.display(), their_path.display()
    )]
    Differ {
        /// The first id that differs.
        id: u32,
        /// Its token here.
        ours: String,
        /// Its token there.
        theirs: String,
        /// The tokenizer here.
        our_path: PathBuf,
        /// The tokenizer there.
        their_path: PathBuf,
    },
}

/// A tokenizer; cloning shares it.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    path: Arc<Path>,
    /// Ids of special tokens, ascending.
    special: Arc<[u32]>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({})", self.path.display())
    }
}

impl Tokenizer {
    /// Reads `tokenizer.json` in `dir`. Truncation and padding are switched off, as
    /// transformers does.
    pub fn open(dir: &Path) -> Result<Tokenizer, TokenizerError> {
        let path = dir.join("tokenizer.json");
        let wrong = |found: String| TokenizerError::Read {
            path: path.clone(),
            found: clip(&found),
        };
        let bytes = std::fs::read(&path).map_err(|e| wrong(e.to_string()))?;
        // The crate panics where merges and continuing_subword_prefix contradict each other.
        let parse = || tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| e.to_string());
        let mut inner = std::panic::catch_unwind(parse)
            .unwrap_or_else(|_| Err("merges that contradict the vocabulary".to_owned()))
            .map_err(wrong)?;
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|e| wrong(e.to_string()))?;
        let mut special: Vec<u32> = inner
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special)
            .map(|(id, _)| id)
            .collect();
        special.sort_unstable();
        Ok(Tokenizer {
            inner: Arc::new(inner),
            path: path.into(),
            special: special.into(),
        })
    }

    /// The ids of `text`; with `add_special`, what the tokenizer puts around it.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TokenizerError> {
        match self.inner.encode_fast(text, add_special) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(e) => Err(self.no_encoding(text, &*e)),
        }
    }

    /// The ids of `text` without anything around it, each with the characters
    /// start..end of the text that it stands for.
    pub fn encode_with_spans(
        &self,
        text: &str,
    ) -> Result<(Vec<u32>, Vec<Range<usize>>), TokenizerError> {
        match self.inner.encode_char_offsets(text, false) {
            Ok(encoding) => {
                let spans = encoding.get_offsets().iter();
                let spans = spans.map(|&(start, end)| start..end).collect();
                Ok((encoding.get_ids().to_vec(), spans))
            }
            Err(e) => Err(self.no_encoding(text, &*e)),
        }
    }

    fn no_encoding(&self, text: &str, why: &dyn std::error::Error) -> TokenizerError {
        TokenizerError::Encode {
            path: self.path.to_path_buf(),
            bytes: text.len(),
            why: why.to_string(),
        }
    }

    /// The text of `ids`. Ids without a token (padding of the vocabulary) have none;
    /// bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        self.inner.decode(ids, skip_special).unwrap_or_else(|_| {
            // the decoder refuses: the bare tokens are the best that is left
            ids.iter().filter_map(|&id| self.token(id)).collect()
        })
    }

    /// An incremental decoder that leaves out special tokens.
    pub fn stream(&self) -> TextStream {
        TextStream {
            tokenizer: self.clone(),
            ids: Vec::new(),
            read: 0,
            shown_bytes: 0,
        }
    }

    /// The token of an id as the vocabulary spells it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token as the vocabulary spells it.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Number of tokens, added ones included.
    pub fn len(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Whether the vocabulary is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ids of all special tokens, ascending.
    pub fn special_ids(&self) -> &[u32] {
        &self.special
    }

    /// Whether `id` is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.binary_search(&id).is_ok()
    }

    /// Checks that every id that both vocabularies have is the same token in both.
    pub fn agrees_with(&self, other: &Tokenizer) -> Result<(), TokenizerError> {
        let differing = self
            .inner
            .get_vocab(true)
            .into_iter()
            .filter_map(|(ours, id)| Some((id, ours, other.token(id)?)))
            .filter(|(_, ours, theirs)| ours != theirs)
            .min_by_key(|(id, ..)| *id);
        match differing {
            None => Ok(()),
            Some((id, ours, theirs)) => Err(TokenizerError::Differ {
                id,
                ours,
                theirs,
                our_path: self.path.to_path_buf(),
                their_path: other.path.to_path_buf(),
            }),
        }
    }
}

/// Text as it is generated, never half a character.
///
/// A token may end inside a character; its text is withheld until the character is whole.
#[derive(Clone, Debug)]
pub struct TextStream {
    tokenizer: Tokenizer,
    /// A few tokens already shown, then those withheld.
    ids: Vec<u32>,
    /// How many of `ids` are shown: the context in which the others are decoded, since
    /// some decoders treat the first token of a text in a way of its own.
    read: usize,
    /// Bytes of the text of `ids` that are shown.
    shown_bytes: usize,
}

/// Tokens withheld at most; more than this without a whole character are no characters.
const MOST_WITHHELD: usize = 16;

impl TextStream {
    /// Takes the next token and returns the text that it completes, if any.
    pub fn push(&mut self, id: u32) -> Option<String> {
        if self.tokenizer.is_special(id) || self.tokenizer.token(id).is_none() {
            return None; // has no text, and decoding others goes as if it were not there
        }
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids, true);
        let hopeless = self.ids.len() - self.read > MOST_WITHHELD;
        let whole = match hopeless {
            false if text.ends_with(char::REPLACEMENT_CHARACTER) => return None,
            false => &text,
            // only the last three bytes can still begin a character
            true => without_trailing(&text, 3),
        };
        let new = Some(from_byte(whole, self.shown_bytes))
            .filter(|new| !new.is_empty())?
            .to_owned();
        if whole.len() == text.len() {
            self.ids.drain(..self.read);
            self.read = self.ids.len();
            self.shown_bytes = self.tokenizer.decode(&self.ids, true).len();
        } else {
            self.shown_bytes = whole.len();
        }
        Some(new)
    }

    /// What is still withheld, with U+FFFD for characters that never became whole.
    pub fn finish(self) -> String {
        let text = self.tokenizer.decode(&self.ids, true);
        from_byte(&text, self.shown_bytes).to_owned()
    }
}

/// `text` from the first character that begins at `start` or after it.
fn from_byte(text: &str, start: usize) -> &str {
    (start..text.len())
        .find_map(|at| text.get(at..))
        .unwrap_or_default()
}

/// `text` without up to `most` U+FFFD at its end.
fn without_trailing(text: &str, most: usize) -> &str {
    let mut rest = text;
    for _ in 0..most {
        match rest.strip_suffix(char::REPLACEMENT_CHARACTER) {
            Some(shorter) => rest = shorter,
            None => break,
        }
    }
    rest
}
