//! What tells one model from another without reading all of it.

use blake3::Hasher;

use super::config::RopeScaling;
use super::weights::Linear;
use super::{Config, Model, Tensor};

/// Bytes of each sample.
const SAMPLE_BYTES: usize = 4096;
/// Samples of a tensor, evenly spaced, the first and last bytes among them.
const SAMPLES: usize = 4;

pub(super) fn of(model: &Model) -> String {
    let mut hasher = Hasher::new();
    text(&mut hasher, "gavel model 1");
    text(&mut hasher, &canonical(&model.config));
    let weights = &model.weights;
    tensor(&mut hasher, &weights.embed);
    for layer in &weights.layers {
        vector(&mut hasher, "input_norm", Some(&layer.input_norm));
        for (name, linear) in layer.projections() {
            let Linear { weight, bias } = linear;
            tensor(&mut hasher, weight);
            vector(&mut hasher, name, bias.as_deref());
        }
        vector(&mut hasher, "q_norm", layer.q_norm.as_deref());
        vector(&mut hasher, "k_norm", layer.k_norm.as_deref());
        vector(&mut hasher, "post_norm", Some(&layer.post_norm));
    }
    vector(&mut hasher, "norm", Some(&weights.norm));
    tensor(&mut hasher, &weights.head);
    hasher.finalize().to_hex().to_string()
}

/// The fields that computing depends on; constants by their bits.
fn canonical(config: &Config) -> String {
    let Config {
        architecture,
        vocab_size,
        hidden_size,
        intermediate_size,
        layers,
        heads,
        kv_heads,
        head_dim,
        rms_norm_eps,
        rope,
        // neither changes a logit
        max_positions: _,
        eos: _,
        tied,
        qkv_bias,
        o_bias,
        mlp_bias,
    } = config;
    let scaling = match rope.scaling {
        RopeScaling::None => "default".to_owned(),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_positions,
        } => format!(
            "llama3 {:x} {:x} {:x} {original_max_positions}",
            factor.to_bits(),
            low_freq_factor.to_bits(),
            high_freq_factor.to_bits()
        ),
    };
    format!(
        "{} {vocab_size} {hidden_size} {intermediate_size} {layers} {heads} {kv_heads} {head_dim} \
         {:x} {:x} {scaling} {tied} {qkv_bias} {o_bias} {mlp_bias}",
        architecture.model_type(),
        rms_norm_eps.to_bits(),
        rope.theta.to_bits(),
    )
}

// Every part is preceded by its length, so that no two models run together to the same bytes.

fn text(hasher: &mut Hasher, text: &str) {
    hasher.update(&(text.len() as u64).to_le_bytes());
    hasher.update(text.as_bytes());
}

fn vector(hasher: &mut Hasher, name: &str, values: Option<&[f32]>) {
    text(hasher, name);
    let values = values.unwrap_or_default();
    hasher.update(&(values.len() as u64).to_le_bytes());
    for value in values {
        hasher.update(&value.to_le_bytes());
    }
}

fn tensor(hasher: &mut Hasher, tensor: &Tensor) {
    text(hasher, tensor.name());
    text(hasher, tensor.dtype.name());
    text(hasher, &format!("{:?}", tensor.shape));
    let bytes = tensor.bytes();
    if bytes.len() <= SAMPLES * SAMPLE_BYTES {
        hasher.update(bytes);
        return;
    }
    let last = bytes.len() - SAMPLE_BYTES;
    for sample in 0..SAMPLES {
        let start = (last as u128 * sample as u128 / (SAMPLES - 1) as u128) as usize;
        hasher.update(&bytes[start..start + SAMPLE_BYTES]);
    }
}
