//! Rows from what a user names: `plain`, `chain`, `tree`, `kl=0.5`, a judge at `f1`.

use super::Row;
use crate::device::{Draw, Step};
use crate::draft::Drafter;
use crate::judge::{At, Judge, JudgeError};
use crate::tree::{Shape, ShapeError};
use crate::verify::{Guard, Policy, PolicyError, Rule, Sampling};
use std::sync::Arc;

/// What rows are made of.
///
/// An item of a list of rules is one of
/// - `plain`: no drafting;
/// - `tree`: the lossless rule on each of [`Menu::trees`];
/// - a rule of [`Rule`] such as `chain`, `block`, `kl=0.5` or `sglang=0.9,0.8`;
/// - `judge`: every judge at each of [`Menu::thetas`];
/// - a judge's name: that judge at each of them, or `NAME=THETA` at one.
///
/// All but the first two draft a chain of each of [`Menu::gammas`]; `@tree` behind an item
/// drafts each of [`Menu::trees`] instead, `@SHAPE` that shape.
#[derive(Clone)]
pub struct Menu {
    /// What drafts, with names; rows are made for each.
    pub drafters: Vec<(String, Drafter)>,
    /// Lengths of chains.
    pub gammas: Vec<usize>,
    /// Shapes of trees.
    pub trees: Vec<Shape>,
    /// Trained judges.
    pub judges: Vec<NamedJudge>,
    /// Where on their curves judges work.
    pub thetas: Vec<At>,
    /// How drafters choose children; absent: sampled in chains, the best in trees.
    pub draw: Option<Draw>,
    /// The law from which a drafter samples.
    pub draft_sampling: Sampling,
    /// The target's sampling.
    pub sampling: Sampling,
    /// What lossy rules may not touch.
    pub guard: Guard,
}

/// A judge with the name that rows call it by.
#[derive(Clone)]
pub struct NamedJudge {
    /// The name.
    pub name: String,
    /// The judge; whether it fits the models is checked before.
    pub judge: Arc<Judge>,
}

/// Why there are no such rows.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RowsError {
    /// Neither a rule nor a judge's name.
    #[error(
        "rule '{item}': {why}; expected plain, tree, judge, {judges}chain, block, kl=D, margin=R, typical, threshold=T, sglang=SINGLE,ACCUMULATED, topk=K or synthetic=RATE"
    )]
    Item {
        /// What was given.
        item: String,
        /// What is wrong with it.
        why: String,
        /// Names of the judges, each with a comma behind it.
        judges: String,
    },
    /// The item asks for what the menu does not have.
    #[error("rule '{item}': {why}")]
    Missing {
        /// What was given.
        item: String,
        /// What is not there.
        why: String,
    },
    /// A rule's parameter out of range.
    #[error("rule '{item}': {source}")]
    Policy {
        /// What was given.
        item: String,
        /// What is wrong.
        source: PolicyError,
    },
    /// A judge without the operating point asked for.
    #[error("judge '{name}': {source}")]
    Judge {
        /// Its name.
        name: String,
        /// What is wrong.
        source: Box<JudgeError>,
    },
    /// A shape that is none.
    #[error("rule '{item}': {source}")]
    Shape {
        /// What was given.
        item: String,
        /// What is wrong.
        source: ShapeError,
    },
    /// There is nothing to do.
    #[error("no rows: found no rule, expected at least one")]
    Empty,
}

/// What an item of the list decodes by.
enum Decoding {
    Rule(Rule),
    Judge(NamedJudge, At, f32),
}

impl Menu {
    /// The rows of a list of rules, in its order, each once.
    pub fn rows<S: AsRef<str>>(&self, items: &[S]) -> Result<Vec<Row>, RowsError> {
        let mut rows: Vec<Row> = Vec::new();
        for item in items {
            for row in self.item(item.as_ref().trim())? {
                if rows.iter().all(|r| r.name != row.name) {
                    rows.push(row);
                }
            }
        }
        match rows.is_empty() {
            true => Err(RowsError::Empty),
            false => Ok(rows),
        }
    }

    fn item(&self, item: &str) -> Result<Vec<Row>, RowsError> {
        let missing = |why: &str| RowsError::Missing {
            item: item.to_owned(),
            why: why.to_owned(),
        };
        if item == "plain" {
            return Ok(vec![self.plain()]);
        }
        let (name, at) = match item.split_once('@') {
            Some((name, at)) => (name, Some(at)),
            None if item == "tree" => ("chain", Some("tree")),
            None => (item, None),
        };
        let shapes = match at {
            None if self.gammas.is_empty() => return Err(missing("found no gamma for its chain")),
            None => self.gammas.iter().map(|&g| Shape::Chain(g)).collect(),
            Some("tree") if self.trees.is_empty() => {
                return Err(missing("found no tree, expected its shape (--tree)"));
            }
            Some("tree") => self.trees.clone(),
            Some(shape) => vec![shape.parse().map_err(|source| RowsError::Shape {
                item: item.to_owned(),
                source,
            })?],
        };
        let decodings = self.decodings(item, name)?;
        let drafts = self
            .drafters
            .iter()
            .filter(|(_, d)| !matches!(d, Drafter::None));
        let drafts: Vec<_> = drafts.collect();
        if drafts.is_empty() {
            return Err(missing("found no drafter, expected one (--draft)"));
        }
        let mut rows = Vec::new();
        for (draft_name, drafter) in &drafts {
            for shape in &shapes {
                for decoding in &decodings {
                    let suffix = match drafts.len() {
                        1 => String::new(),
                        _ => format!(", {draft_name}"),
                    };
                    rows.push(self.row(item, decoding, shape, drafter, &suffix)?);
                }
            }
        }
        Ok(rows)
    }

    fn plain(&self) -> Row {
        Row {
            name: "plain".to_owned(),
            series: "plain".to_owned(),
            drafter: Drafter::None,
            step: Step::new(Shape::NONE, Policy::new(self.sampling, Rule::Chain)),
        }
    }

    fn decodings(&self, item: &str, name: &str) -> Result<Vec<Decoding>, RowsError> {
        let at = |judge: &NamedJudge, at: At| {
            let theta = judge.judge.theta(at).map_err(|e| judge_error(judge, e))?;
            Ok(Decoding::Judge(judge.clone(), at, theta))
        };
        let all = |judge| self.thetas.iter().map(move |&theta| at(judge, theta));
        if name == "judge" {
            if self.judges.is_empty() {
                return Err(RowsError::Missing {
                    item: item.to_owned(),
                    why: "found no judge, expected one (--judge NAME=FILE)".to_owned(),
                });
            }
            return self.judges.iter().flat_map(all).collect();
        }
        let (base, value) = match name.split_once('=') {
            Some((base, value)) => (base, Some(value)),
            None => (name, None),
        };
        if let Some(judge) = self.judges.iter().find(|j| j.name == base) {
            return match value {
                None => all(judge).collect(),
                Some(value) => {
                    let theta = value.parse().map_err(|e| judge_error(judge, e))?;
                    Ok(vec![at(judge, theta)?])
                }
            };
        }
        match name.parse::<Rule>() {
            Ok(rule) => Ok(vec![Decoding::Rule(rule)]),
            Err(PolicyError::Spec { .. }) => Err(RowsError::Item {
                item: item.to_owned(),
                why: "no rule and no judge of this name".to_owned(),
                judges: self
                    .judges
                    .iter()
                    .map(|j| format!("{}, ", j.name))
                    .collect(),
            }),
            Err(source) => Err(RowsError::Policy {
                item: item.to_owned(),
                source,
            }),
        }
    }

    fn row(
        &self,
        item: &str,
        decoding: &Decoding,
        shape: &Shape,
        drafter: &Drafter,
        suffix: &str,
    ) -> Result<Row, RowsError> {
        let missing = |why: String| RowsError::Missing {
            item: item.to_owned(),
            why,
        };
        if shape.depth() == 0 {
            return Err(missing(
                "a shape without nodes; plain decoding is 'plain'".to_owned(),
            ));
        }
        let tree = if shape.is_chain() { "" } else { "tree " };
        let (rule, judge, name, series) = match decoding {
            Decoding::Rule(Rule::Chain) if !shape.is_chain() => {
                (Rule::Chain, None, "tree".to_owned(), "tree".to_owned())
            }
            Decoding::Rule(rule) => {
                let text = rule.to_string();
                let series = text.split('=').next().unwrap_or_default();
                (
                    *rule,
                    None,
                    format!("{text} {}", tree.trim_end()).trim_end().to_owned(),
                    format!("{tree}{series}"),
                )
            }
            Decoding::Judge(judge, at, theta) => {
                let point = match at {
                    At::F1 => format!("f1={theta:.4}"),
                    At::R90 => format!("r90={theta:.4}"),
                    At::Mid => format!("mid={theta:.4}"),
                    At::Budget(budget) => format!("budget={budget}: {theta:.4}"),
                    At::Theta(theta) => theta.to_string(),
                };
                let rule = Rule::Judge { theta: *theta };
                (
                    rule,
                    Some(judge.judge.clone()),
                    format!("{} {point} {}", judge.name, tree.trim_end())
                        .trim_end()
                        .to_owned(),
                    format!("{tree}{}", judge.name),
                )
            }
        };
        if rule == Rule::Block && !shape.is_chain() {
            return Err(missing(format!(
                "block verifies chains, found the shape {shape}"
            )));
        }
        if rule.needs_r() && drafter.model().is_none() {
            return Err(missing(
                "KL compares with the drafter's own distribution; this drafter has none, a model has"
                    .to_owned(),
            ));
        }
        let policy = Policy {
            sampling: self.sampling,
            rule,
            guard: self.guard.clone(),
        };
        let step = Step::new(shape.clone(), policy);
        Ok(Row {
            name: format!("{name} {shape}{suffix}"),
            series: format!("{series}{suffix}"),
            drafter: drafter.clone(),
            step: Step {
                draw: self.draw.unwrap_or(step.draw),
                draft_sampling: self.draft_sampling,
                judge,
                ..step
            },
        })
    }
}

fn judge_error(judge: &NamedJudge, error: JudgeError) -> RowsError {
    RowsError::Judge {
        name: judge.name.clone(),
        source: Box::new(error),
    }
}
