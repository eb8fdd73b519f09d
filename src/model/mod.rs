//! Models on disk: `config.json`, safetensors, tokenizer and chat template. No device here.
//!
//! ```no_run
//! use gavel::model::Model;
//!
//! let dir = Model::locate("HuggingFaceTB/SmolLM2-135M-Instruct")?;
//! let model = Model::open(&dir)?;
//! println!("{} layers, {} bytes", model.config.layers, model.weights.bytes());
//! # Ok::<(), gavel::model::ModelError>(())
//! ```

pub mod chat;
pub mod checkpoint;
pub mod config;
mod error;
mod fingerprint;
mod hub;
mod json;
mod tensor;
pub mod tokenizer;
mod weights;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

pub use chat::{ChatError, ChatTemplate, Message};
pub use config::{Architecture, Config, GenerationConfig, Rope, RopeScaling};
pub use error::ModelError;
pub use tensor::{Dtype, Tensor};
pub use tokenizer::{TextStream, Tokenizer, TokenizerError};
pub use weights::{Layer, Linear, Weights};

use checkpoint::Checkpoint;

/// A model: its configuration and its weights, mapped from disk.
///
/// Cloning shares the mapping.
#[derive(Clone, Debug)]
pub struct Model {
    /// Shapes and constants.
    pub config: Config,
    /// Every tensor, present and of the right shape.
    pub weights: Weights,
    /// Where answers end.
    pub generation: GenerationConfig,
    /// The directory it came from.
    pub dir: PathBuf,
    fingerprint: Arc<OnceLock<String>>,
}

impl Model {
    /// Opens a directory as Hugging Face writes them: maps the weights and checks that
    /// every tensor is there, in the shape that `config.json` asks for.
    pub fn open(dir: &Path) -> Result<Model, ModelError> {
        if !dir.is_dir() {
            return Err(ModelError::file(
                dir,
                match dir.exists() {
                    true => "a file",
                    false => "nothing",
                },
                "a directory with config.json and safetensors",
            ));
        }
        let config = Config::read(dir)?;
        let generation = GenerationConfig::read(dir, &config)?;
        let weights = Weights::load(&Checkpoint::open(dir)?, &config)?;
        Ok(Model {
            config,
            weights,
            generation,
            dir: dir.to_owned(),
            fingerprint: Arc::default(),
        })
    }

    /// The directory of a model: `name` itself, or where the Hub's cache keeps `org/name`,
    /// downloaded first if need be.
    ///
    /// `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` mean what
    /// they mean to Hugging Face's own tools. A progress bar is shown where standard error
    /// is a terminal.
    pub fn locate(name: &str) -> Result<PathBuf, ModelError> {
        hub::locate(name)
    }

    /// The first `layers` layers under the same final norm and head, weights shared.
    pub fn truncated(&self, layers: usize) -> Result<Model, ModelError> {
        if layers == 0 || layers > self.config.layers {
            return Err(ModelError::Layers {
                dir: self.dir.clone(),
                asked: layers,
                layers: self.config.layers,
            });
        }
        Ok(Model {
            config: Config {
                layers,
                ..self.config.clone()
            },
            weights: Weights {
                layers: self.weights.layers[..layers].to_vec(),
                ..self.weights.clone()
            },
            generation: self.generation.clone(),
            dir: self.dir.clone(),
            fingerprint: Arc::default(),
        })
    }

    /// What tells this model from others, 64 hexadecimal digits: blake3 over the
    /// configuration that computing depends on, over name, type, shape and a sample of
    /// every matrix (its first, last and two middle 4,096 bytes), and over all norms and
    /// biases. Computed when first asked for; cheap for any size of model.
    pub fn fingerprint(&self) -> &str {
        self.fingerprint.get_or_init(|| fingerprint::of(self))
    }
}
