//! ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004), as Google's `rouge-score` computes them
//! without stemming: the default of Hugging Face's `evaluate`.

use std::collections::HashMap;

/// F1 of the overlaps of a summary with a reference, 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Rouge {
    /// Of words.
    pub rouge_1: f64,
    /// Of pairs of neighbouring words.
    pub rouge_2: f64,
    /// Of the longest common subsequence of words, the texts taken as one sentence each.
    pub rouge_l: f64,
}

/// All three of `text` against `reference`.
pub fn rouge(reference: &str, text: &str) -> Rouge {
    let (reference, text) = (words(reference), words(text));
    Rouge {
        rouge_1: overlap(&reference, &text, 1),
        rouge_2: overlap(&reference, &text, 2),
        rouge_l: subsequence(&reference, &text),
    }
}

/// ROUGE-L alone.
pub fn rouge_l(reference: &str, text: &str) -> f64 {
    subsequence(&words(reference), &words(text))
}

/// Runs of ASCII letters and digits, in lower case; all else separates.
fn words(text: &str) -> Vec<String> {
    text.to_lowercase()
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|w| !w.is_empty())
        .map(str::to_owned)
        .collect()
}

fn overlap(reference: &[String], text: &[String], n: usize) -> f64 {
    let mut counts: HashMap<&[String], usize> = HashMap::new();
    for gram in reference.windows(n) {
        *counts.entry(gram).or_default() += 1;
    }
    let mut common = 0;
    for gram in text.windows(n) {
        if let Some(left) = counts.get_mut(gram).filter(|left| **left > 0) {
            *left -= 1;
            common += 1;
        }
    }
    let grams = |words: &[String]| (words.len() + 1).saturating_sub(n);
    f1(common, grams(reference), grams(text))
}

fn subsequence(reference: &[String], text: &[String]) -> f64 {
    // one row of the table at a time: best[j] is the longest of what was read and text[..j]
    let mut best = vec![0usize; text.len() + 1];
    for word in reference {
        let mut diagonal = 0;
        for (j, other) in text.iter().enumerate() {
            let above = best[j + 1];
            best[j + 1] = match word == other {
                true => diagonal + 1,
                false => above.max(best[j]),
            };
            diagonal = above;
        }
    }
    f1(best[text.len()], reference.len(), text.len())
}

/// 2 precision recall / (precision + recall); 0 where nothing is common.
fn f1(common: usize, reference: usize, text: usize) -> f64 {
    if common == 0 {
        return 0.0;
    }
    2.0 * common as f64 / (reference + text) as f64
}
