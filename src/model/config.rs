//! `config.json` and `generation_config.json`, in the dialects of transformers 4 and 5.

use std::path::Path;

use serde_json::Value;

use super::error::{ModelError, read_text};
use super::json::{Fields, parse_object};

/// The families of models that gavel runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// Llama 2, 3, 3.1, 3.2 and models of the same build, such as SmolLM2.
    Llama,
    /// Qwen2 and Qwen2.5: biases on q, k and v.
    Qwen2,
    /// Qwen3: q and k normalised per head, `head_dim` apart from hidden / heads.
    Qwen3,
}

impl Architecture {
    const KNOWN: [(Architecture, &'static str, &'static str); 3] = [
        (Architecture::Llama, "llama", "LlamaForCausalLM"),
        (Architecture::Qwen2, "qwen2", "Qwen2ForCausalLM"),
        (Architecture::Qwen3, "qwen3", "Qwen3ForCausalLM"),
    ];

    /// What `model_type` says of it.
    pub fn model_type(self) -> &'static str {
        match self {
            Architecture::Llama => "llama",
            Architecture::Qwen2 => "qwen2",
            Architecture::Qwen3 => "qwen3",
        }
    }
}

/// Shapes and constants of a model.
///
/// Every size is checked against an upper limit on reading, so that the bytes of any
/// tensor, and of a KV cache over all positions, fit 64 bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Family.
    pub architecture: Architecture,
    /// V, rows of the embedding; padded vocabularies count their padding.
    pub vocab_size: usize,
    /// H, width of the residual stream.
    pub hidden_size: usize,
    /// I, width of the MLP.
    pub intermediate_size: usize,
    /// Number of transformer layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head, even.
    pub head_dim: usize,
    /// Epsilon of every RMS norm.
    pub rms_norm_eps: f32,
    /// Rotary embedding.
    pub rope: Rope,
    /// Positions the model was made for.
    pub max_positions: usize,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Whether the q, k and v projections have biases.
    pub qkv_bias: bool,
    /// Whether the output projection of attention has a bias.
    pub o_bias: bool,
    /// Whether gate, up and down projections have biases.
    pub mlp_bias: bool,
    /// End-of-sequence ids of `config.json`; [`GenerationConfig`] has the last word.
    pub eos: Vec<u32>,
}

/// Rotary position embedding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// What stretches it.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are stretched to contexts longer than those first trained on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all: rope type `default`.
    None,
    /// Rope type `llama3`, of Llama 3.1 and 3.2.
    Llama3 {
        /// Long wavelengths are stretched by this.
        factor: f64,
        /// Wavelengths above original / this are long.
        low_freq_factor: f64,
        /// Wavelengths below original / this stay as they are.
        high_freq_factor: f64,
        /// Context length of the original training.
        original_max_positions: usize,
    },
}

impl Rope {
    /// Radians per position for each of the `head_dim / 2` rotated pairs.
    ///
    /// As transformers computes them (`modeling_rope_utils.py`): float32
    /// throughout, scalar / tensor being reciprocal times scalar; only the
    /// power is taken in float64 and rounded once.
    pub fn inverse_frequencies(&self, head_dim: usize) -> Vec<f32> {
        let plain = (0..head_dim / 2).map(|pair| {
            let exponent = (2 * pair) as f32 / head_dim as f32;
            1.0 / self.theta.powf(f64::from(exponent)) as f32
        });
        match self.scaling {
            RopeScaling::None => plain.collect(),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_positions,
            } => {
                let original = original_max_positions as f64;
                let longest = (original / low) as f32;
                let shortest = (original / high) as f32;
                let stretch = |frequency: f32| {
                    let wavelength = (1.0 / frequency) * std::f64::consts::TAU as f32;
                    if wavelength > longest {
                        frequency / factor as f32
                    } else if wavelength < shortest {
                        frequency
                    } else {
                        let smooth = ((1.0 / wavelength) * original as f32 - low as f32)
                            / (high - low) as f32;
                        (1.0 - smooth) * frequency / factor as f32 + smooth * frequency
                    }
                };
                plain.map(stretch).collect()
            }
        }
    }
}

// Upper limits: several times the largest models of these families, and small
// enough that no product of sizes overflows.
const MAX_VOCAB: usize = 1 << 24;
const MAX_HIDDEN: usize = 1 << 17;
const MAX_INTERMEDIATE: usize = 1 << 20;
const MAX_LAYERS: usize = 1 << 10;
const MAX_HEADS: usize = 1 << 10;
const MAX_HEAD_DIM: usize = 1 << 10;
const MAX_POSITIONS: usize = 1 << 27;

impl Config {
    /// Reads and checks `config.json` in `dir`.
    pub fn read(dir: &Path) -> Result<Config, ModelError> {
        let path = dir.join("config.json");
        Config::parse(&read_text(&path)?, &path)
    }

    /// Checks the text of a `config.json`; errors name `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Config, ModelError> {
        let object = parse_object(text, path)?;
        let fields = Fields::new(path, "", &object);
        let architecture = architecture(&fields)?;
        refuse_what_is_not_supported(&fields)?;

        let vocab_size = fields.size("vocab_size", 1..=MAX_VOCAB)?;
        let hidden_size = fields.size("hidden_size", 1..=MAX_HIDDEN)?;
        let intermediate_size = fields.size("intermediate_size", 1..=MAX_INTERMEDIATE)?;
        let layers = fields.size("num_hidden_layers", 1..=MAX_LAYERS)?;
        let heads = fields.size("num_attention_heads", 1..=MAX_HEADS)?;
        let kv_heads = fields
            .optional_size("num_key_value_heads", 1..=MAX_HEADS)?
            .unwrap_or(heads);
        if heads % kv_heads != 0 {
            return Err(fields.wrong(
                "num_key_value_heads",
                format!("a divisor of num_attention_heads, which is {heads}"),
            ));
        }
        let head_dim = match fields.optional_size("head_dim", 2..=MAX_HEAD_DIM)? {
            Some(head_dim) => head_dim,
            // the default of transformers' Qwen3Config
            None if architecture == Architecture::Qwen3 => 128,
            None if hidden_size % heads == 0 && hidden_size / heads <= MAX_HEAD_DIM => {
                hidden_size / heads
            }
            None => {
                return Err(fields.wrong(
                    "head_dim",
                    format!(
                        "an even number up to {MAX_HEAD_DIM}, as hidden_size {hidden_size} over \
                         num_attention_heads {heads} gives none"
                    ),
                ));
            }
        };
        if head_dim % 2 != 0 {
            return Err(fields.wrong(
                "head_dim",
                format!("an even number (hidden_size / num_attention_heads where absent), here {head_dim}"),
            ));
        }
        let max_positions = fields.size("max_position_embeddings", 1..=MAX_POSITIONS)?;
        let rms_norm_eps = fields
            .optional_number("rms_norm_eps", 0.0..=1.0)?
            .unwrap_or(1e-6) as f32;
        let attention_bias = match architecture {
            Architecture::Qwen2 => false,
            _ => fields.flag("attention_bias")?.unwrap_or(false),
        };
        refuse_sliding_window(&fields, layers)?;
        Ok(Config {
            architecture,
            vocab_size,
            hidden_size,
            intermediate_size,
            layers,
            heads,
            kv_heads,
            head_dim,
            rms_norm_eps,
            rope: rope(&fields)?,
            max_positions,
            tied: fields.flag("tie_word_embeddings")?.unwrap_or(false),
            qkv_bias: attention_bias || architecture == Architecture::Qwen2,
            o_bias: attention_bias,
            mlp_bias: architecture == Architecture::Llama
                && fields.flag("mlp_bias")?.unwrap_or(false),
            eos: eos_ids(&fields, vocab_size)?,
        })
    }

    /// Whether q and k are normalised per head before rotation.
    pub fn qk_norm(&self) -> bool {
        self.architecture == Architecture::Qwen3
    }

    /// Width of all query heads together.
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key heads together, and of all value heads.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

fn architecture(fields: &Fields) -> Result<Architecture, ModelError> {
    let known = |name: Option<&str>, class: bool| {
        Architecture::KNOWN
            .iter()
            .find(|(_, kind, class_name)| name == Some(if class { class_name } else { kind }))
            .map(|(architecture, ..)| *architecture)
    };
    let expected = || {
        let kinds: Vec<&str> = Architecture::KNOWN.iter().map(|k| k.1).collect();
        format!("one of {}", kinds.join(", "))
    };
    if let Some(kind) = fields.string("model_type")? {
        return known(Some(kind), false).ok_or_else(|| fields.wrong("model_type", expected()));
    }
    // Old checkpoints name the class alone.
    let classes = fields.get("architectures");
    let class = classes.and_then(|c| c.get(0)).and_then(Value::as_str);
    known(class, true).ok_or_else(|| match classes {
        Some(_) => fields.wrong(
            "architectures",
            "LlamaForCausalLM, Qwen2ForCausalLM or Qwen3ForCausalLM",
        ),
        None => fields.wrong("model_type", expected()),
    })
}

fn refuse_what_is_not_supported(fields: &Fields) -> Result<(), ModelError> {
    if !matches!(fields.string("hidden_act")?, None | Some("silu" | "swish")) {
        return Err(fields.wrong("hidden_act", "silu"));
    }
    if fields.get("quantization_config").is_some() {
        return Err(fields.wrong(
            "quantization_config",
            "no quantisation: weights in bf16, f16 or f32",
        ));
    }
    if let Some(part) = fields.optional_number("partial_rotary_factor", 0.0..=1.0)?
        && part != 1.0
    {
        return Err(fields.wrong("partial_rotary_factor", "1 (whole heads are rotated)"));
    }
    Ok(())
}

fn refuse_sliding_window(fields: &Fields, layers: usize) -> Result<(), ModelError> {
    let expected = "full attention in every layer (sliding windows are not supported)";
    if let Some(types) = fields.get("layer_types") {
        let full = types
            .as_array()
            .is_some_and(|types| types.iter().all(|t| t == "full_attention"));
        return if full {
            Ok(())
        } else {
            Err(fields.wrong("layer_types", expected))
        };
    }
    let first_windowed = fields
        .optional_size("max_window_layers", 0..=usize::MAX)?
        .unwrap_or(0);
    if fields.flag("use_sliding_window")?.unwrap_or(false)
        && fields.get("sliding_window").is_some()
        && first_windowed < layers
    {
        return Err(fields.wrong("use_sliding_window", expected));
    }
    Ok(())
}

/// transformers 4 has `rope_theta` and `rope_scaling`, transformers 5 has both in `rope_parameters`.
fn rope(fields: &Fields) -> Result<Rope, ModelError> {
    const THETA: std::ops::RangeInclusive<f64> = 1.0..=1e12;
    // as transformers 5 does: `rope_scaling` counts where it says anything
    let name = match fields.get("rope_scaling") {
        Some(Value::Object(empty)) if empty.is_empty() => "rope_parameters",
        Some(_) => "rope_scaling",
        None => "rope_parameters",
    };
    let theta = fields.optional_number("rope_theta", THETA)?;
    let Some(object) = fields.object(name)? else {
        return Ok(Rope {
            theta: theta.unwrap_or(10_000.0),
            scaling: RopeScaling::None,
        });
    };
    let inner = Fields::new(fields.path(), name, object);
    let theta = inner
        .optional_number("rope_theta", THETA)?
        .or(theta)
        .unwrap_or(10_000.0);
    if let Some(part) = inner.optional_number("partial_rotary_factor", 0.0..=1.0)?
        && part != 1.0
    {
        return Err(inner.wrong("partial_rotary_factor", "1 (whole heads are rotated)"));
    }
    let key = if inner.get("rope_type").is_some() {
        "rope_type"
    } else {
        "type"
    };
    let scaling = match inner.string(key)? {
        None if object.values().any(Value::is_object) => {
            return Err(fields.wrong(name, "one rope for all layers"));
        }
        None | Some("default") => RopeScaling::None,
        Some("llama3") => {
            let factor = inner.number("factor", 1.0..=1e6)?;
            let low = inner.number("low_freq_factor", 1e-6..=1e6)?;
            let high = inner.number("high_freq_factor", 1e-6..=1e6)?;
            // as float32, in which they are used
            if high as f32 - low as f32 <= 0.0 {
                return Err(inner.wrong(
                    "high_freq_factor",
                    format!("more than low_freq_factor, which is {low}"),
                ));
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_positions: inner
                    .size("original_max_position_embeddings", 1..=MAX_POSITIONS)?,
            }
        }
        Some(_) => return Err(inner.wrong(key, "default or llama3")),
    };
    Ok(Rope { theta, scaling })
}

/// End-of-sequence ids: a number, a list, null or nothing.
fn eos_ids(fields: &Fields, vocab_size: usize) -> Result<Vec<u32>, ModelError> {
    let id = |value: &Value| {
        value
            .as_u64()
            .filter(|&id| id < vocab_size as u64)
            .and_then(|id| u32::try_from(id).ok())
    };
    let ids = match fields.get("eos_token_id") {
        None => Some(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(id).collect(),
        Some(value) => id(value).map(|id| vec![id]),
    };
    ids.ok_or_else(|| {
        fields.wrong(
            "eos_token_id",
            format!("an id below vocab_size {vocab_size}, a list of such ids, or null"),
        )
    })
}

/// What `generation_config.json` says: where answers end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GenerationConfig {
    /// Ids that end an answer, in the order of the file; may be empty.
    pub eos: Vec<u32>,
}

impl GenerationConfig {
    /// Reads `generation_config.json` in `dir` where there is one; what it leaves out
    /// comes from `config`.
    pub fn read(dir: &Path, config: &Config) -> Result<GenerationConfig, ModelError> {
        let path = dir.join("generation_config.json");
        if !path.exists() {
            return Ok(GenerationConfig {
                eos: config.eos.clone(),
            });
        }
        GenerationConfig::parse(&read_text(&path)?, &path, config)
    }

    /// Checks the text of a `generation_config.json`; errors name `path`.
    pub fn parse(text: &str, path: &Path, config: &Config) -> Result<Self, ModelError> {
        let object = parse_object(text, path)?;
        let eos = eos_ids(&Fields::new(path, "", &object), config.vocab_size)?;
        Ok(GenerationConfig {
            eos: if eos.is_empty() {
                config.eos.clone()
            } else {
                eos
            },
        })
    }
}
