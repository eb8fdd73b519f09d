//! Checkpoints with the widths of real models and random weights, cut in depth and vocabulary.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// The sizes of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct Widths {
    pub name: &'static str,
    pub model_type: &'static str,
    pub layers: usize,
    pub hidden: usize,
    pub inner: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocabulary: usize,
    pub tied: bool,
    pub qkv_bias: bool,
    pub rope_theta: f64,
}

/// One layer of 16, and a sixteenth of the vocabulary: the head has its true share.
pub const LLAMA_1B: Widths = Widths {
    name: "Llama-3.2-1B",
    model_type: "llama",
    layers: 1,
    hidden: 2048,
    inner: 8192,
    heads: 32,
    kv_heads: 8,
    head_dim: 64,
    vocabulary: 128_256 / 16,
    tied: true,
    qkv_bias: false,
    rope_theta: 500_000.0,
};

/// One layer of 32, and of the vocabulary as much.
pub const LLAMA_8B: Widths = Widths {
    name: "Llama-3.1-8B",
    hidden: 4096,
    inner: 14_336,
    head_dim: 128,
    vocabulary: 128_256 / 32,
    tied: false,
    ..LLAMA_1B
};

/// One layer of 28, and of the vocabulary as much.
pub const QWEN_7B: Widths = Widths {
    name: "Qwen2.5-7B",
    model_type: "qwen2",
    hidden: 3584,
    inner: 18_944,
    heads: 28,
    kv_heads: 4,
    head_dim: 128,
    vocabulary: 152_064 / 28,
    tied: false,
    qkv_bias: true,
    rope_theta: 1_000_000.0,
    ..LLAMA_1B
};

/// The whole model: 6.4 GB of weights, and 15 GB of keys and values at its longest context.
pub const LLAMA_3B: Widths = Widths {
    name: "Llama-3.2-3B",
    layers: 28,
    hidden: 3072,
    inner: 8192,
    heads: 24,
    head_dim: 128,
    vocabulary: 128_256,
    ..LLAMA_1B
};

/// The whole model: 141 GB of weights.
pub const LLAMA_70B: Widths = Widths {
    name: "Llama-3.1-70B",
    layers: 80,
    hidden: 8192,
    inner: 28_672,
    heads: 64,
    head_dim: 128,
    vocabulary: 128_256,
    tied: false,
    ..LLAMA_1B
};

/// What the weights hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Random numbers, in norms too.
    Random,
    /// Zeros, which the file system need not store.
    Nothing,
}

impl Widths {
    /// Writes config.json and model.safetensors, in bf16, into `folder`.
    pub fn write(&self, folder: &Path, fill: Fill) {
        let config = serde_json::json!({
            "architectures": [match self.model_type {
                "qwen2" => "Qwen2ForCausalLM",
                _ => "LlamaForCausalLM",
            }],
            "model_type": self.model_type,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-5,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tied,
            "eos_token_id": 2,
            "torch_dtype": "bfloat16",
        });
        std::fs::write(folder.join("config.json"), config.to_string()).expect("a file");

        let tensors = self.tensors();
        let mut header = serde_json::Map::new();
        let mut end = 0;
        for (name, shape) in &tensors {
            let start = end;
            end += 2 * shape.iter().product::<usize>();
            let entry = serde_json::json!({
                "dtype": "BF16", "shape": shape, "data_offsets": [start, end],
            });
            header.insert(name.clone(), entry);
        }
        let mut header = serde_json::Value::Object(header).to_string();
        // data starts at a multiple of eight bytes
        header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
        let file = File::create(folder.join("model.safetensors")).expect("a file");
        let mut to = BufWriter::with_capacity(1 << 20, file);
        to.write_all(&(header.len() as u64).to_le_bytes())
            .and_then(|()| to.write_all(header.as_bytes()))
            .expect("a header");
        match fill {
            Fill::Random => random_bf16(&mut to, end),
            Fill::Nothing => {
                let file = to.into_inner().expect("a header");
                let bytes = 8 + header.len() + end;
                file.set_len(bytes as u64).expect("a file with a hole");
                return;
            }
        }
        to.flush().expect("weights");
    }

    /// Names and shapes.
    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let (h, i) = (self.hidden, self.inner);
        let mut tensors = vec![(
            "model.embed_tokens.weight".to_owned(),
            vec![self.vocabulary, h],
        )];
        for layer in 0..self.layers {
            let mut put = |name: &str, shape: &[usize]| {
                tensors.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
            };
            put("input_layernorm.weight", &[h]);
            for (part, width) in [("q", q), ("k", kv), ("v", kv)] {
                put(&format!("self_attn.{part}_proj.weight"), &[width, h]);
                if self.qkv_bias {
                    put(&format!("self_attn.{part}_proj.bias"), &[width]);
                }
            }
            put("self_attn.o_proj.weight", &[h, q]);
            put("post_attention_layernorm.weight", &[h]);
            put("mlp.gate_proj.weight", &[i, h]);
            put("mlp.up_proj.weight", &[i, h]);
            put("mlp.down_proj.weight", &[h, i]);
        }
        tensors.push(("model.norm.weight".to_owned(), vec![h]));
        if !self.tied {
            tensors.push(("lm_head.weight".to_owned(), vec![self.vocabulary, h]));
        }
        tensors
    }
}

/// Random numbers of both signs between 2^-7 and 2^-5: a product of some thousand columns is of
/// the size of its input.
fn random_bf16(to: &mut impl Write, bytes: usize) {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut left = bytes;
    while left > 0 {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let four = state & 0x80ff_80ff_80ff_80ff | 0x3c00_3c00_3c00_3c00;
        let count = left.min(8);
        to.write_all(&four.to_le_bytes()[..count]).expect("weights");
        left -= count;
    }
}
