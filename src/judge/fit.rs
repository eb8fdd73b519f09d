//! Whether a judge fits the models that are loaded.

use super::{Judge, JudgeError, Layout, Tap};
use crate::draft::Drafter;
use crate::model::Model;
use std::path::Path;

impl Judge {
    /// The judge of a file, for these models: [`Judge::read`], then [`Judge::check`].
    ///
    /// # Errors
    /// Those of reading; [`JudgeError::Unfit`], which names the file, where the judge does not fit.
    pub fn open(
        path: &Path,
        target: &Model,
        drafter: &Drafter,
        allow_foreign_target: bool,
    ) -> Result<Judge, JudgeError> {
        let judge = Judge::read(path)?;
        let draft = drafter.model().map(AsRef::as_ref);
        match judge.check(target, draft, allow_foreign_target) {
            Ok(()) => Ok(judge),
            Err(misfit) => Err(JudgeError::Unfit {
                path: path.to_owned(),
                misfit: Box::new(misfit),
            }),
        }
    }

    /// Refuses a judge whose layout, widths, taps, vocabulary or fingerprints are not
    /// those of the loaded models.
    ///
    /// With `allow_foreign_target`, vocabulary and fingerprints may differ (transfer
    /// experiments); widths and taps never may. A drafter without weights is `None`;
    /// one that is the target's own first layers is [`Model::truncated`].
    pub fn check(
        &self,
        target: &Model,
        draft: Option<&Model>,
        allow_foreign_target: bool,
    ) -> Result<(), JudgeError> {
        let features = &self.features;
        let width = target.config.hidden_size;
        if features.target_width != width {
            return Err(misfit(
                "width of the target",
                features.target_width,
                format!("{} has hidden_size {width}", target.dir.display()),
                "",
            ));
        }
        let layers = target.config.layers;
        for tap in &features.taps {
            if matches!(*tap, Tap::Layer(layer) if layer > layers) {
                return Err(misfit(
                    "tap",
                    format!("a tap after layer {tap}"),
                    format!("{} has {layers} layers", target.dir.display()),
                    "",
                ));
            }
        }
        if features.layout == Layout::DdDt {
            self.check_draft(draft, allow_foreign_target)?;
        }
        if allow_foreign_target {
            return Ok(());
        }
        if self.vocab_size != target.config.vocab_size {
            return Err(misfit(
                "vocabulary",
                format!("{} tokens", self.vocab_size),
                format!("{} has {}", target.dir.display(), target.config.vocab_size),
                FOREIGN,
            ));
        }
        if self.target_fingerprint != target.fingerprint() {
            return Err(misfit(
                "target",
                format!("fingerprint {}", self.target_fingerprint),
                format!("{} has {}", target.dir.display(), target.fingerprint()),
                FOREIGN,
            ));
        }
        Ok(())
    }

    fn check_draft(&self, draft: Option<&Model>, foreign: bool) -> Result<(), JudgeError> {
        let Some(draft) = draft else {
            return Err(misfit(
                "layout",
                "DD-DT, which reads the drafter's hidden state",
                "the drafter has none".to_owned(),
                "; give a draft model",
            ));
        };
        let width = draft.config.hidden_size;
        if self.features.draft_width != width {
            return Err(misfit(
                "width of the drafter",
                self.features.draft_width,
                format!("{} has hidden_size {width}", draft.dir.display()),
                "",
            ));
        }
        match &self.draft_fingerprint {
            Some(fingerprint) if fingerprint != draft.fingerprint() && !foreign => Err(misfit(
                "drafter",
                format!("fingerprint {fingerprint}"),
                format!("{} has {}", draft.dir.display(), draft.fingerprint()),
                FOREIGN,
            )),
            _ => Ok(()),
        }
    }
}

const FOREIGN: &str = "; --allow-foreign-target accepts it for an experiment";

fn misfit(
    what: &'static str,
    judge: impl ToString,
    model: String,
    advice: &'static str,
) -> JudgeError {
    JudgeError::Misfit {
        what,
        judge: judge.to_string(),
        model,
        advice,
    }
}
