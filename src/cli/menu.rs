//! Flags from which several ways to decode are made, for commands that compare them.

use super::setup::SamplingArgs;
use super::usage;
use anyhow::Context;
use gavel::device::Draw;
use gavel::draft::Drafter;
use gavel::engine::DraftOptions;
use gavel::eval::{Menu, NamedJudge};
use gavel::judge::{At, Judge};
use gavel::model::{Model, Tokenizer};
use gavel::tree::Shape;
use std::path::PathBuf;
use std::sync::Arc;

/// What means something else in a list of rules.
const RESERVED: [&str; 13] = [
    "plain",
    "tree",
    "judge",
    "chain",
    "block",
    "kl",
    "reverse",
    "margin",
    "typical",
    "threshold",
    "sglang",
    "topk",
    "synthetic",
];

/// What drafts, what judges, and how the target samples.
#[derive(clap::Args, Clone)]
pub struct MenuArgs {
    /// What drafts: a model (DIR or ID), ngram or self:LAYERS; may be given several times
    #[arg(long, value_name = "DIR|ngram|self:LAYERS")]
    pub draft: Vec<String>,
    /// A trained judge, and the name to call it by; may be given several times
    #[arg(long, value_name = "NAME=FILE")]
    pub judge: Vec<String>,
    /// How a model drafter chooses children: sample from its law (chains), or the best (trees)
    #[arg(long, value_name = "sample|top")]
    pub draw: Option<Draw>,
    /// Temperature of the drafter [default: the target's]
    #[arg(long, value_name = "T")]
    pub draft_temperature: Option<f32>,
    /// Use judges that were trained for another target (transfer experiments)
    #[arg(long)]
    pub allow_foreign_target: bool,
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

impl MenuArgs {
    /// The ways to decode that these flags and the lists of lengths, trees and thresholds
    /// allow.
    pub fn menu(
        &self,
        target: &Arc<Model>,
        tokenizer: &Tokenizer,
        (gammas, trees, thetas): (&[usize], &[Shape], &[At]),
    ) -> anyhow::Result<Menu> {
        let sampling = self.sampling.sampling()?;
        let options = DraftOptions {
            draw: self.draw,
            temperature: self.draft_temperature,
            ..DraftOptions::default()
        };
        let mut drafters: Vec<(String, Drafter)> = Vec::new();
        for name in &self.draft {
            drafters.push((name.clone(), Drafter::open(name, target)?));
        }
        for &gamma in gammas {
            Shape::chain(gamma).with_context(|| format!("--gamma {gamma}"))?;
        }
        let mut judges: Vec<NamedJudge> = Vec::new();
        for item in &self.judge {
            let (name, path) = named(item)?;
            if RESERVED.contains(&&*name) || judges.iter().any(|j| j.name == name) {
                return Err(usage(format!(
                    "--judge {item}: the name '{name}' is taken, expected another (NAME=FILE)"
                )));
            }
            let mut judge = None;
            // a judge must fit every drafter whose nodes it scores
            for (_, drafter) in &drafters {
                let opened = Judge::open(&path, target, drafter, self.allow_foreign_target);
                judge = Some(Arc::new(opened.with_context(|| format!("--judge {item}"))?));
            }
            let judge = judge.ok_or_else(|| {
                usage(format!(
                    "--judge {item}: found no drafter, expected one (--draft)"
                ))
            })?;
            judges.push(NamedJudge { name, judge });
        }
        Ok(Menu {
            drafters,
            gammas: gammas.to_vec(),
            trees: trees.to_vec(),
            judges,
            thetas: thetas.to_vec(),
            draw: options.draw,
            draft_sampling: options.sampling(sampling)?,
            sampling,
            guard: self.sampling.guard(target, tokenizer)?,
        })
    }
}

/// A judge's name and file: `NAME=FILE`, or a file that is called by its stem.
fn named(item: &str) -> anyhow::Result<(String, PathBuf)> {
    if let Some((name, file)) = item.split_once('=') {
        if name.is_empty() || file.is_empty() || name.contains(['@', ',', '/']) {
            return Err(usage(format!(
                "--judge {item}: expected NAME=FILE, the name without '@', ',' and '/'"
            )));
        }
        return Ok((name.to_owned(), file.into()));
    }
    let path = PathBuf::from(item);
    let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned());
    let name = stem.filter(|s| !s.contains(['@', ',']));
    let name = name.ok_or_else(|| usage(format!("--judge {item}: expected NAME=FILE")))?;
    Ok((name, path))
}

/// The items of a list: a comma ends one where a name follows; the values of a rule, such as
/// those of `sglang=0.9,0.8`, stay together.
pub fn items(list: &str) -> Vec<String> {
    let mut items: Vec<String> = Vec::new();
    for part in list.split(',') {
        // the last value of a rule may have its shape behind it
        let value = part.split('@').next().unwrap_or_default().trim();
        let continues = value == "reverse" || value.parse::<f64>().is_ok();
        match items.last_mut() {
            Some(last) if continues => last.extend([",", part]),
            _ => items.push(part.to_owned()),
        }
    }
    items.retain(|i| !i.trim().is_empty());
    items
}

#[cfg(test)]
mod tests {
    use super::items;

    #[test]
    fn a_list_of_rules_keeps_the_values_of_a_rule_together() {
        let table: [(&str, &[&str]); 6] = [
            ("plain,chain", &["plain", "chain"]),
            ("sglang=0.9,0.8,chain", &["sglang=0.9,0.8", "chain"]),
            ("kl=0.5,reverse,tree", &["kl=0.5,reverse", "tree"]),
            ("kl=0.5,reverse@4x2,block", &["kl=0.5,reverse@4x2", "block"]),
            (
                "typical=0.1,0.2@12,mine=f1",
                &["typical=0.1,0.2@12", "mine=f1"],
            ),
            ("chain,,", &["chain"]),
        ];
        for (list, expected) in table {
            assert_eq!(items(list), expected, "{list}");
        }
    }
}
