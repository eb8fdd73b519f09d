//! PTX text to tokens.

use super::LoadError;

/// A token and the line it stands on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Token<'a> {
    pub kind: Kind<'a>,
    pub line: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind<'a> {
    /// A name, an opcode with its modifiers, or a directive with its dot.
    Word(&'a str),
    /// An integer without its sign.
    Int(u64),
    /// `0f...` or a decimal fraction: bits of a 32-bit float, or of a 64-bit one.
    Float32(u32),
    Float64(u64),
    /// The text between quotation marks.
    Text(&'a str),
    Punct(u8),
}

pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, LoadError> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::with_capacity(bytes.len() / 4);
    let (mut at, mut line) = (0, 1u32);
    let is_word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b'%' | b'.');
    while let Some(&b) = bytes.get(at) {
        let start = at;
        let kind = match b {
            b'\n' => {
                line += 1;
                at += 1;
                continue;
            }
            b' ' | b'\t' | b'\r' | 0 => {
                at += 1;
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                while bytes.get(at).is_some_and(|&b| b != b'\n') {
                    at += 1;
                }
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                let rest = &text[at + 2..];
                let length = rest
                    .find("*/")
                    .ok_or_else(|| LoadError::syntax(line, "a comment that does not end"))?;
                line += rest[..length].matches('\n').count() as u32;
                at += length + 4;
                continue;
            }
            b'"' => {
                let length = text[at + 1..]
                    .find('"')
                    .ok_or_else(|| LoadError::syntax(line, "a text that does not end"))?;
                at += length + 2;
                let inner = &text[start + 1..at - 1];
                line += inner.matches('\n').count() as u32;
                Kind::Text(inner)
            }
            b'0'..=b'9' => {
                while bytes.get(at).is_some_and(|&b| is_word(b) && b != b'%') {
                    // an exponent may carry a sign
                    at += 1;
                }
                let word = &text[start..at];
                number(word).ok_or_else(|| {
                    LoadError::syntax(line, format!("`{word}`, which is no number"))
                })?
            }
            _ if is_word(b) => {
                at += 1;
                while let Some(&b) = bytes.get(at) {
                    // `.reg.b32` are two directives, `add.s32` is one opcode
                    if is_word(b) && !(b == b'.' && bytes[start] == b'.') {
                        at += 1;
                    } else if b == b':' && bytes.get(at + 1) == Some(&b':') {
                        at += 2;
                    } else {
                        break;
                    }
                }
                Kind::Word(&text[start..at])
            }
            b'{' | b'}' | b'[' | b']' | b'(' | b')' | b',' | b';' | b':' | b'|' | b'!' | b'@'
            | b'+' | b'-' | b'<' | b'>' | b'=' | b'~' | b'*' | b'/' => {
                at += 1;
                Kind::Punct(b)
            }
            _ => {
                let found = text[at..].chars().next().unwrap_or(' ');
                return Err(LoadError::syntax(line, format!("the character {found:?}")));
            }
        };
        tokens.push(Token { kind, line });
    }
    Ok(tokens)
}

fn number(word: &str) -> Option<Kind<'_>> {
    let hex = |digits: &str| u64::from_str_radix(digits, 16).ok();
    if let Some(digits) = word.strip_prefix("0f").or(word.strip_prefix("0F")) {
        return Some(Kind::Float32(u32::try_from(hex(digits)?).ok()?));
    }
    if let Some(digits) = word.strip_prefix("0d").or(word.strip_prefix("0D")) {
        return Some(Kind::Float64(hex(digits)?));
    }
    let integer = word.strip_suffix('U').unwrap_or(word);
    if let Some(digits) = integer.strip_prefix("0x").or(integer.strip_prefix("0X")) {
        return Some(Kind::Int(hex(digits)?));
    }
    if let Some(digits) = integer.strip_prefix("0b").or(integer.strip_prefix("0B")) {
        return Some(Kind::Int(u64::from_str_radix(digits, 2).ok()?));
    }
    if integer.bytes().all(|b| b.is_ascii_digit()) {
        if integer.len() > 1 && integer.starts_with('0') {
            return Some(Kind::Int(u64::from_str_radix(integer, 8).ok()?));
        }
        return Some(Kind::Int(integer.parse().ok()?));
    }
    Some(Kind::Float64(word.parse::<f64>().ok()?.to_bits()))
}
