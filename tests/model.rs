//! Checkpoints as Hugging Face writes them open, and say what they are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gavel::model::{Architecture, Config, Dtype, Model, ModelError, Rope, RopeScaling, Tensor};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures").join(name)
}

fn demo(name: &str) -> PathBuf {
    root().join("models/demo").join(name)
}

const FIXTURES: [&str; 5] = [
    "llama-mha",
    "llama-odd",
    "llama3-rope",
    "qwen2-bias",
    "qwen3-qknorm",
];

#[test]
fn every_fixture_opens_as_its_generator_made_it() {
    let specs: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(fixture("configs.json")).unwrap()).unwrap();
    for name in FIXTURES {
        let model = Model::open(&fixture(name)).unwrap();
        let (config, spec) = (&model.config, &specs[name]["config"]);
        let size = |field: &str| spec[field].as_u64().map(|n| n as usize);
        assert_eq!(
            config.architecture.model_type(),
            specs[name]["kind"],
            "{name}"
        );
        assert_eq!(Some(config.vocab_size), size("vocab_size"), "{name}");
        assert_eq!(Some(config.hidden_size), size("hidden_size"), "{name}");
        assert_eq!(
            Some(config.intermediate_size),
            size("intermediate_size"),
            "{name}"
        );
        assert_eq!(Some(config.layers), size("num_hidden_layers"), "{name}");
        assert_eq!(Some(config.heads), size("num_attention_heads"), "{name}");
        assert_eq!(Some(config.kv_heads), size("num_key_value_heads"), "{name}");
        assert_eq!(
            Some(config.max_positions),
            size("max_position_embeddings"),
            "{name}"
        );
        let head_dim = size("head_dim").unwrap_or(config.hidden_size / config.heads);
        assert_eq!(config.head_dim, head_dim, "{name}");
        assert_eq!(config.tied, spec["tie_word_embeddings"] == true, "{name}");

        let layer = &model.weights.layers[config.layers - 1];
        let (q_width, hidden) = (config.heads * head_dim, config.hidden_size);
        assert_eq!(layer.q.weight.shape, [q_width, hidden], "{name}");
        assert_eq!(layer.o.weight.shape, [hidden, q_width], "{name}");
        assert_eq!(layer.k.weight.rows(), config.kv_heads * head_dim, "{name}");
        assert_eq!(layer.down.weight.cols(), config.intermediate_size, "{name}");
        assert_eq!(layer.q.weight.dtype, Dtype::Bf16, "{name}");
        assert_eq!(layer.q.weight.bytes().len(), 2 * q_width * hidden, "{name}");
        assert_eq!(layer.input_norm.len(), hidden, "{name}");
        assert_eq!(
            model.weights.head.shape,
            [config.vocab_size, hidden],
            "{name}"
        );
        assert_eq!(
            model.weights.head.same_bytes(&model.weights.embed),
            config.tied,
            "{name}"
        );
    }
}

#[test]
fn biases_and_head_norms_are_where_the_architecture_has_them() {
    let table = [
        ("llama-mha", false, false, false),
        ("llama-odd", true, true, false),
        ("qwen2-bias", true, false, false),
        ("qwen3-qknorm", false, false, true),
    ];
    for (name, qkv_bias, o_bias, qk_norm) in table {
        let model = Model::open(&fixture(name)).unwrap();
        for layer in &model.weights.layers {
            for linear in [&layer.q, &layer.k, &layer.v] {
                let length = linear.bias.as_ref().map(Vec::len);
                assert_eq!(length, qkv_bias.then(|| linear.weight.rows()), "{name}");
            }
            assert_eq!(layer.o.bias.is_some(), o_bias, "{name}");
            assert!(
                layer.gate.bias.is_none() && layer.down.bias.is_none(),
                "{name}"
            );
            let width = qk_norm.then_some(model.config.head_dim);
            assert_eq!(layer.q_norm.as_ref().map(Vec::len), width, "{name}");
            assert_eq!(layer.k_norm.as_ref().map(Vec::len), width, "{name}");
        }
    }
}

#[test]
fn end_of_sequence_is_a_number_a_list_or_nothing() {
    let table: [(&str, &[u32]); 3] = [
        ("llama-mha", &[2]),
        ("llama3-rope", &[2, 5, 7]),
        ("qwen2-bias", &[]),
    ];
    for (name, eos) in table {
        let model = Model::open(&fixture(name)).unwrap();
        assert_eq!(model.generation.eos, eos, "{name}");
        assert_eq!(model.config.eos, eos, "{name}");
    }
}

#[test]
fn the_demo_pair_opens() {
    let target = Model::open(&demo("target")).unwrap();
    let draft = Model::open(&demo("draft")).unwrap();
    assert_eq!(target.config.architecture, Architecture::Llama);
    assert_eq!(draft.config.architecture, Architecture::Qwen2);
    assert_ne!(target.fingerprint(), draft.fingerprint());
}

#[test]
fn bytes_count_every_mapped_tensor_once() {
    for name in FIXTURES {
        let model = Model::open(&fixture(name)).unwrap();
        let weights = &model.weights;
        let size = |t: &Tensor| t.shape.iter().product::<usize>() * 2;
        let mut expected = size(&weights.embed);
        for layer in &weights.layers {
            for linear in [
                &layer.q,
                &layer.k,
                &layer.v,
                &layer.o,
                &layer.gate,
                &layer.up,
                &layer.down,
            ] {
                expected += size(&linear.weight);
            }
        }
        if !model.config.tied {
            expected += size(&weights.head);
        }
        assert_eq!(weights.bytes(), expected, "{name}");
    }
}

#[test]
fn a_truncated_model_shares_its_layers() {
    let model = Model::open(&demo("target")).unwrap();
    let cut = model.truncated(2).unwrap();
    assert_eq!((cut.config.layers, cut.weights.layers.len()), (2, 2));
    assert!(Arc::ptr_eq(
        &cut.weights.layers[1],
        &model.weights.layers[1]
    ));
    assert!(cut.weights.embed.same_bytes(&model.weights.embed));
    assert_ne!(cut.fingerprint(), model.fingerprint());
    assert_eq!(
        model.truncated(4).unwrap().fingerprint(),
        model.fingerprint()
    );
    for layers in [0, 5] {
        let error = model.truncated(layers).unwrap_err();
        assert!(matches!(error, ModelError::Layers { .. }));
        assert!(
            error
                .to_string()
                .contains(&format!("{layers} layers, expected 1 to 4")),
            "{error}"
        );
    }
}

#[test]
fn a_fingerprint_is_of_the_weights_and_not_of_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let source = fixture("llama-mha");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(source.join(file), folder.path().join(file)).unwrap();
    }
    let first = Model::open(&source).unwrap().fingerprint().to_owned();
    assert_eq!(Model::open(folder.path()).unwrap().fingerprint(), first);

    // one bit of the last norm, and one bit of a sampled byte of a matrix
    let weights = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    let model = Model::open(folder.path()).unwrap();
    let matrix = model.weights.layers[1].down.weight.bytes();
    let start = matrix.as_ptr() as usize - model.weights.embed.bytes().as_ptr() as usize;
    let embed = bytes
        .windows(64)
        .position(|w| w == &model.weights.embed.bytes()[..64])
        .unwrap();
    drop(model);
    for at in [embed.wrapping_add(start), bytes.len() - 2] {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        // replaced, not edited: the old file may still be mapped
        std::fs::remove_file(&weights).unwrap();
        std::fs::write(&weights, &changed).unwrap();
        assert_ne!(
            Model::open(folder.path()).unwrap().fingerprint(),
            first,
            "byte {at}"
        );
    }
}

#[test]
fn every_stored_type_is_read() {
    // 1.5, -2, 0.25 in each type
    let table: [(safetensors::Dtype, Vec<u8>); 3] = [
        (
            safetensors::Dtype::BF16,
            vec![0xc0, 0x3f, 0x00, 0xc0, 0x80, 0x3e],
        ),
        (
            safetensors::Dtype::F16,
            vec![0x00, 0x3e, 0x00, 0xc0, 0x00, 0x34],
        ),
        (
            safetensors::Dtype::F32,
            [1.5f32, -2.0, 0.25]
                .iter()
                .flat_map(|x| x.to_le_bytes())
                .collect(),
        ),
    ];
    for (dtype, gain) in table {
        let folder = tempfile::tempdir().unwrap();
        let one_layer = r#"{"model_type": "llama", "vocab_size": 1, "hidden_size": 3, "intermediate_size": 1,
            "num_hidden_layers": 1, "num_attention_heads": 1, "head_dim": 2, "max_position_embeddings": 8,
            "tie_word_embeddings": true}"#;
        std::fs::write(folder.path().join("config.json"), one_layer).unwrap();
        let width = gain.len() / 3;
        let zeros = vec![0; 6 * width];
        let shapes: [(&str, &[usize]); 11] = [
            ("embed_tokens.weight", &[1, 3]),
            ("norm.weight", &[3]),
            ("layers.0.input_layernorm.weight", &[3]),
            ("layers.0.post_attention_layernorm.weight", &[3]),
            ("layers.0.self_attn.q_proj.weight", &[2, 3]),
            ("layers.0.self_attn.k_proj.weight", &[2, 3]),
            ("layers.0.self_attn.v_proj.weight", &[2, 3]),
            ("layers.0.self_attn.o_proj.weight", &[3, 2]),
            ("layers.0.mlp.gate_proj.weight", &[1, 3]),
            ("layers.0.mlp.up_proj.weight", &[1, 3]),
            ("layers.0.mlp.down_proj.weight", &[3, 1]),
        ];
        let tensors = shapes.map(|(name, shape)| {
            let bytes = match name {
                "norm.weight" => &gain[..],
                _ => &zeros[..shape.iter().product::<usize>() * width],
            };
            let view = safetensors::tensor::TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
            (format!("model.{name}"), view)
        });
        let bytes = safetensors::serialize(tensors, None).unwrap();
        std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
        let model = Model::open(folder.path()).unwrap();
        assert_eq!(model.weights.norm, [1.5, -2.0, 0.25], "{dtype:?}");
        assert_eq!(model.weights.embed.dtype.size(), width, "{dtype:?}");
    }
}

#[test]
fn both_dialects_of_config_say_the_same() {
    let new = r#"{"model_type": "llama", "vocab_size": 9, "hidden_size": 64, "intermediate_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-05, "dtype": "bfloat16",
        "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}}"#;
    let old = r#"{"architectures": ["LlamaForCausalLM"], "vocab_size": 9, "hidden_size": 64,
        "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-05, "torch_dtype": "bfloat16",
        "rope_theta": 500000.0, "rope_scaling": {"type": "llama3", "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}}"#;
    let path = Path::new("config.json");
    let new = Config::parse(new, path).unwrap();
    assert_eq!(new, Config::parse(old, path).unwrap());
    assert_eq!(new.head_dim, 16);
    assert!(matches!(
        new.rope.scaling,
        RopeScaling::Llama3 { factor: 8.0, .. }
    ));
}

/// Computed with numpy in float32, after `modeling_rope_utils.py` of transformers 5.
#[test]
fn rotary_frequencies_are_those_of_transformers() {
    let llama3 = |original_max_positions| Rope {
        theta: 500_000.0,
        scaling: RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions,
        },
    };
    let default = |theta| Rope {
        theta,
        scaling: RopeScaling::None,
    };
    #[rustfmt::skip]
    let table: [(Rope, usize, &[f32]); 3] = [
        (default(10_000.0), 48, &[
            1.0, 6.8129206e-01, 4.641589e-01, 3.1622776e-01, 2.1544345e-01, 1.4677992e-01, 1e-01, 6.812921e-02,
            4.6415884e-02, 3.162278e-02, 2.1544348e-02, 1.4677992e-02, 1e-02, 6.8129194e-03, 4.6415897e-03,
            3.1622779e-03, 2.1544343e-03, 1.4677995e-03, 1e-03, 6.812919e-04, 4.6415895e-04, 3.162278e-04,
            2.1544342e-04, 1.4677996e-04,
        ]),
        // the fixture llama3-rope: all three bands within 32 pairs
        (llama3(64), 64, &[
            1.0, 6.636013e-01, 4.4036663e-01, 2.0500097e-01, 7.940301e-02, 2.7751394e-02, 1.0674638e-02,
            7.0837024e-03, 4.700754e-03, 3.119426e-03, 2.070055e-03, 1.3736911e-03, 9.1158313e-04, 6.0492766e-04,
            4.0143076e-04, 2.6638995e-04, 1.7677668e-04, 1.1730923e-04, 7.7846555e-05, 5.165907e-05,
            3.4281024e-05, 2.2748929e-05, 1.5096218e-05, 1.0017869e-05, 6.6478697e-06, 4.4115345e-06,
            2.9274997e-06, 1.9426925e-06, 1.2891732e-06, 8.554969e-07, 5.677088e-07, 3.7673226e-07,
        ]),
        // Llama 3.1 8B
        (llama3(8192), 128, &[
            1.0, 8.146172e-01, 6.636013e-01, 5.40581e-01, 4.4036663e-01, 3.5873023e-01, 2.9222783e-01,
            2.3805381e-01, 1.9392276e-01, 1.5797281e-01, 1.2868738e-01, 1.0483095e-01, 8.53971e-02, 6.956595e-02,
            5.666962e-02, 4.616405e-02, 3.760603e-02, 3.063452e-02, 2.4955409e-02, 2.0329105e-02, 1.656044e-02,
            1.349042e-02, 1.0989529e-02, 8.952259e-03, 7.292665e-03, 5.9407307e-03, 4.8394212e-03, 3.942276e-03,
            3.211446e-03, 2.1665706e-03, 1.3718937e-03, 8.5675146e-04, 5.24846e-04, 3.1269365e-04, 1.7850779e-04,
            9.556212e-05, 7.7846555e-05, 6.3415144e-05, 5.165907e-05, 4.2082367e-05, 3.4281024e-05, 2.792591e-05,
            2.2748929e-05, 1.853167e-05, 1.5096218e-05, 1.2297639e-05, 1.0017869e-05, 8.160728e-06, 6.6478697e-06,
            5.4154693e-06, 4.4115345e-06, 3.5937119e-06, 2.9274997e-06, 2.3847917e-06, 1.9426925e-06,
            1.5825508e-06, 1.2891732e-06, 1.0501826e-06, 8.554969e-07, 6.9690253e-07, 5.677088e-07, 4.6246538e-07,
            3.7673226e-07, 3.068926e-07,
        ]),
    ];
    for (rope, head_dim, expected) in table {
        let found = rope.inverse_frequencies(head_dim);
        assert_eq!(found.len(), expected.len());
        for (pair, (found, expected)) in found.iter().zip(expected).enumerate() {
            // the power differs by a last bit between libraries
            let difference = (found - expected).abs() / expected;
            assert!(
                difference < 4e-7,
                "{rope:?} pair {pair}: {found:e} for {expected:e}"
            );
        }
    }
}
