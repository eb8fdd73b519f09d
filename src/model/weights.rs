//! The weights of a model, by their place in it.

use std::sync::Arc;

use super::checkpoint::Checkpoint;
use super::config::Config;
use super::error::ModelError;
use super::tensor::Tensor;

/// A projection: y = W x + b.
#[derive(Clone, Debug)]
pub struct Linear {
    /// [N, K], row major.
    pub weight: Tensor,
    /// \[N\].
    pub bias: Option<Vec<f32>>,
}

/// One transformer layer. H: hidden size, I: intermediate size, D: head_dim.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Gain of the norm before attention, \[H\].
    pub input_norm: Vec<f32>,
    /// Queries, [heads * D, H].
    pub q: Linear,
    /// Keys, [kv_heads * D, H].
    pub k: Linear,
    /// Values, [kv_heads * D, H].
    pub v: Linear,
    /// Output of attention, [H, heads * D].
    pub o: Linear,
    /// Gain of the per-head norm of queries, \[D\].
    pub q_norm: Option<Vec<f32>>,
    /// Gain of the per-head norm of keys, \[D\].
    pub k_norm: Option<Vec<f32>>,
    /// Gain of the norm before the MLP, \[H\].
    pub post_norm: Vec<f32>,
    /// Gate, [I, H].
    pub gate: Linear,
    /// Up, [I, H].
    pub up: Linear,
    /// Down, [H, I].
    pub down: Linear,
}

impl Layer {
    /// The projections in the order in which a token meets them, with their names.
    pub fn projections(&self) -> [(&'static str, &Linear); 7] {
        [
            ("q", &self.q),
            ("k", &self.k),
            ("v", &self.v),
            ("o", &self.o),
            ("gate", &self.gate),
            ("up", &self.up),
            ("down", &self.down),
        ]
    }

    /// Bytes of the mapped projections.
    pub fn bytes(&self) -> usize {
        self.projections()
            .iter()
            .map(|(_, linear)| linear.weight.bytes().len())
            .sum()
    }

    fn load(checkpoint: &Checkpoint, config: &Config, layer: usize) -> Result<Layer, ModelError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (q_width, kv_width) = (config.q_width(), config.kv_width());
        let linear = |part: &str, rows, cols, bias| {
            let name = format!("model.layers.{layer}.{part}");
            let weight = checkpoint.tensor(&format!("{name}.weight"), &[rows, cols])?;
            let bias = match bias {
                true => Some(checkpoint.vector(&format!("{name}.bias"), rows)?),
                false => None,
            };
            Ok::<_, ModelError>(Linear { weight, bias })
        };
        let norm = |part: &str, width| {
            checkpoint.vector(&format!("model.layers.{layer}.{part}.weight"), width)
        };
        let head_norm = |part: &str| match config.qk_norm() {
            true => norm(part, config.head_dim).map(Some),
            false => Ok(None),
        };
        Ok(Layer {
            input_norm: norm("input_layernorm", hidden)?,
            q: linear("self_attn.q_proj", q_width, hidden, config.qkv_bias)?,
            k: linear("self_attn.k_proj", kv_width, hidden, config.qkv_bias)?,
            v: linear("self_attn.v_proj", kv_width, hidden, config.qkv_bias)?,
            o: linear("self_attn.o_proj", hidden, q_width, config.o_bias)?,
            q_norm: head_norm("self_attn.q_norm")?,
            k_norm: head_norm("self_attn.k_norm")?,
            post_norm: norm("post_attention_layernorm", hidden)?,
            gate: linear("mlp.gate_proj", inner, hidden, config.mlp_bias)?,
            up: linear("mlp.up_proj", inner, hidden, config.mlp_bias)?,
            down: linear("mlp.down_proj", hidden, inner, config.mlp_bias)?,
        })
    }
}

/// All weights of a model. V: vocabulary size, H: hidden size.
#[derive(Clone, Debug)]
pub struct Weights {
    /// Embedding, [V, H].
    pub embed: Tensor,
    /// Layers in order, shared with truncated copies of the model.
    pub layers: Vec<Arc<Layer>>,
    /// Gain of the final norm, \[H\].
    pub norm: Vec<f32>,
    /// LM head, [V, H]; the same bytes as `embed` when tied.
    pub head: Tensor,
}

impl Weights {
    pub(super) fn load(checkpoint: &Checkpoint, config: &Config) -> Result<Weights, ModelError> {
        let table = [config.vocab_size, config.hidden_size];
        let embed = checkpoint.tensor("model.embed_tokens.weight", &table)?;
        // As in transformers, a config that says tied wins over a stored head.
        let head = match config.tied {
            true => embed.clone(),
            false => checkpoint.tensor("lm_head.weight", &table)?,
        };
        Ok(Weights {
            embed,
            layers: (0..config.layers)
                .map(|layer| Layer::load(checkpoint, config, layer).map(Arc::new))
                .collect::<Result<_, _>>()?,
            norm: checkpoint.vector("model.norm.weight", config.hidden_size)?,
            head,
        })
    }

    /// Bytes of all distinct mapped tensors in use; a tied head counts once.
    /// Norms and biases, which are copied, do not count.
    pub fn bytes(&self) -> usize {
        let head = match self.head.same_bytes(&self.embed) {
            true => 0,
            false => self.head.bytes().len(),
        };
        let layers: usize = self.layers.iter().map(|layer| layer.bytes()).sum();
        self.embed.bytes().len() + layers + head
    }
}
