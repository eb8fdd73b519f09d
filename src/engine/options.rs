//! What a step drafts, as users say it.

use super::{AdaptiveGamma, GAMMAS, Steps};
use crate::device::{Draw, Step};
use crate::draft::Drafter;
use crate::judge::Judge;
use crate::tree::{Shape, ShapeError};
use crate::verify::{Policy, PolicyError, Rule, Sampling};
use std::str::FromStr;
use std::sync::Arc;

/// The length of chains where nobody names one.
const DEFAULT_GAMMA: usize = 4;

/// The length of chains: a number of tokens, or `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gamma {
    /// So many tokens.
    Fixed(usize),
    /// Chosen step by step, among [`GAMMAS`].
    Auto,
}

/// What is no length of chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither a number of tokens nor auto")]
pub struct UnknownGamma;

impl FromStr for Gamma {
    type Err = UnknownGamma;

    fn from_str(text: &str) -> Result<Gamma, UnknownGamma> {
        match text {
            "auto" => Ok(Gamma::Auto),
            _ => text.parse().map(Gamma::Fixed).map_err(|_| UnknownGamma),
        }
    }
}

/// How to draft, as far as a user says so.
#[derive(Clone, Debug, Default)]
pub struct DraftOptions {
    /// A chain of this length; of 4 where there is no tree either.
    pub gamma: Option<Gamma>,
    /// A tree; goes before a chain.
    pub tree: Option<Shape>,
    /// How a model drafter chooses children; see [`Step::new`].
    pub draw: Option<Draw>,
    /// Temperature of the drafter; the target's where there is none.
    pub temperature: Option<f32>,
}

/// Why there is no such step.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum StepError {
    /// A chain of no nodes or too many.
    #[error("gamma: {0}")]
    Shape(#[from] ShapeError),
    /// A parameter of a sampling or a rule is out of range.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Block verification of a tree.
    #[error("rule 'block' verifies chains, found the tree {0}; expected gamma")]
    BlockTree(Shape),
}

impl DraftOptions {
    /// The step that a run repeats.
    ///
    /// # Errors
    /// A length or a parameter out of range, and rule `block` with a tree.
    pub fn step(
        &self,
        drafter: &Drafter,
        policy: Policy,
        judge: Option<Arc<Judge>>,
    ) -> Result<Step, StepError> {
        policy.check()?;
        let shape = match (&self.tree, self.gamma) {
            _ if matches!(drafter, Drafter::None) => Shape::NONE,
            (Some(tree), _) => tree.clone(),
            (None, Some(Gamma::Fixed(gamma))) => Shape::chain(gamma)?,
            (None, Some(Gamma::Auto) | None) => Shape::Chain(DEFAULT_GAMMA),
        };
        if policy.rule == Rule::Block && !shape.is_chain() {
            return Err(StepError::BlockTree(shape));
        }
        let draft_sampling = self.sampling(policy.sampling)?;
        let step = Step::new(shape, policy);
        Ok(Step {
            draw: self.draw.unwrap_or(step.draw),
            draft_sampling,
            judge,
            ..step
        })
    }

    /// The law from which a sampling drafter draws, where the target samples like this.
    ///
    /// # Errors
    /// A temperature out of range.
    pub fn sampling(&self, target: Sampling) -> Result<Sampling, PolicyError> {
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(target.temperature),
            ..target
        };
        sampling.check()?;
        Ok(sampling)
    }

    /// What decides the steps: one of [`DraftOptions::step`] that is repeated, or a chooser of gamma.
    pub fn steps(&self, step: Step) -> Box<dyn Steps> {
        match (self.gamma, &self.tree) {
            (Some(Gamma::Auto), None) if step.shape != Shape::NONE => {
                Box::new(AdaptiveGamma::new(&step, &GAMMAS))
            }
            _ => Box::new(step),
        }
    }
}
