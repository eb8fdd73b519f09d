//! Bad checkpoints are refused with what was found, what was expected and where.

use std::path::{Path, PathBuf};

use gavel::model::checkpoint::{Header, parse_index};
use gavel::model::{Config, GenerationConfig, Model};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// A copy of a fixture that may be spoiled.
fn copy(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture(name)).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap();
        if file != "expected.safetensors" {
            std::fs::copy(&path, folder.path().join(file)).unwrap();
        }
    }
    folder
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    edit(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

/// Splits a safetensors file into header and data.
fn split(file: &[u8]) -> (Value, Vec<u8>) {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header = serde_json::from_slice(&file[8..8 + length]).unwrap();
    (header, file[8 + length..].to_vec())
}

fn join(header: &str, data: &[u8]) -> Vec<u8> {
    [
        &(header.len() as u64).to_le_bytes(),
        header.as_bytes(),
        data,
    ]
    .concat()
}

/// The error of opening `folder`, which must be one line that has every part of `expected`.
fn assert_refused(folder: &Path, case: &str, expected: &[&str]) {
    let message = match Model::open(folder) {
        Ok(_) => panic!("{case}: opened"),
        Err(e) => e.to_string(),
    };
    for part in expected {
        assert!(message.contains(part), "{case}: no '{part}' in: {message}");
    }
    assert!(
        !message.contains('\n') && message.len() < 700,
        "{case}: {message}"
    );
}

#[test]
fn configs_that_are_absurd_or_not_supported_are_refused() {
    let absent = || Value::Null; // absent and null are the same
    #[rustfmt::skip]
    let table: Vec<(&str, &str, Value, &[&str])> = vec![
        ("llama-mha", "model_type", json!("mamba"), &["'model_type': found \"mamba\"", "one of llama, qwen2, qwen3"]),
        ("llama-mha", "model_type", json!(3), &["'model_type': found 3", "a string"]),
        ("llama-mha", "hidden_act", json!("gelu"), &["'hidden_act': found \"gelu\"", "expected silu"]),
        ("llama-mha", "vocab_size", absent(), &["'vocab_size': found nothing", "a whole number from 1"]),
        ("llama-mha", "vocab_size", json!(-320), &["found -320", "a whole number"]),
        ("llama-mha", "vocab_size", json!(1u64 << 60), &["found 1152921504606846976", "to 16777216"]),
        ("llama-mha", "vocab_size", json!(321), &["tensor 'model.embed_tokens.weight'", "found shape [320, 128]", "expected shape [321, 128]"]),
        ("llama-mha", "hidden_size", json!(0), &["'hidden_size': found 0"]),
        ("llama-mha", "hidden_size", json!(128.5), &["'hidden_size': found 128.5", "a whole number"]),
        ("llama-mha", "hidden_size", json!("128"), &["'hidden_size': found \"128\""]),
        ("llama-mha", "hidden_size", json!(u64::MAX), &["found 18446744073709551615", "to 131072"]),
        ("llama-mha", "intermediate_size", absent(), &["'intermediate_size': found nothing"]),
        ("llama-mha", "intermediate_size", json!(321), &["tensor 'model.layers.0.mlp.gate_proj.weight'", "expected shape [321, 128]"]),
        ("llama-mha", "num_hidden_layers", json!(0), &["'num_hidden_layers': found 0"]),
        ("llama-mha", "num_hidden_layers", json!(3), &["tensor 'model.layers.2.input_layernorm.weight'", "found no such tensor", "shape [128]"]),
        ("llama-mha", "num_hidden_layers", json!(1e9), &["'num_hidden_layers': found 1000000000.0"]),
        ("llama-mha", "num_attention_heads", absent(), &["'num_attention_heads': found nothing"]),
        ("llama-odd", "num_key_value_heads", json!(3), &["'num_key_value_heads': found 3", "a divisor of num_attention_heads, which is 4"]),
        ("llama-odd", "num_key_value_heads", json!(0), &["'num_key_value_heads': found 0"]),
        ("llama-odd", "num_key_value_heads", json!(8), &["'num_key_value_heads': found 8"]),
        ("llama-odd", "head_dim", json!(47), &["'head_dim': found 47", "an even number"]),
        ("llama-odd", "head_dim", json!(0), &["'head_dim': found 0"]),
        ("llama-odd", "head_dim", json!(4096), &["'head_dim': found 4096", "to 1024"]),
        ("qwen2-bias", "num_attention_heads", json!(6), &["'head_dim': found nothing", "hidden_size 128", "num_attention_heads 6"]),
        ("llama-mha", "max_position_embeddings", absent(), &["'max_position_embeddings': found nothing"]),
        ("llama-mha", "rms_norm_eps", json!(-1e-6), &["'rms_norm_eps': found -1e-6", "a number"]),
        ("llama-mha", "rms_norm_eps", json!("small"), &["'rms_norm_eps': found \"small\""]),
        ("llama-mha", "rope_theta", json!(0), &["'rope_theta': found 0"]),
        ("llama-mha", "rope_theta", json!(-10000.0), &["'rope_theta': found -10000.0"]),
        ("llama-mha", "rope_scaling", json!({"type": "linear", "factor": 2.0}), &["'rope_scaling.type': found \"linear\"", "default or llama3"]),
        ("llama-odd", "rope_parameters", json!({"rope_type": "yarn"}), &["'rope_parameters.rope_type': found \"yarn\""]),
        ("llama-odd", "rope_parameters", json!({"rope_type": 4}), &["'rope_parameters.rope_type': found 4", "a string"]),
        ("llama-odd", "rope_parameters", json!([1]), &["'rope_parameters': found [1]", "an object"]),
        ("llama-odd", "rope_parameters", json!({"full_attention": {"rope_type": "default"}}), &["one rope for all layers"]),
        ("llama-odd", "rope_parameters", json!({"rope_theta": 1e4, "partial_rotary_factor": 0.5}), &["partial_rotary_factor': found 0.5"]),
        ("llama-odd", "partial_rotary_factor", json!(0.25), &["'partial_rotary_factor': found 0.25"]),
        ("llama3-rope", "rope_scaling", json!({"rope_type": "llama3", "factor": 8.0}), &["'rope_scaling.low_freq_factor': found nothing"]),
        ("llama3-rope", "rope_scaling", json!({"rope_type": "llama3", "factor": 0.0}), &["'rope_scaling.factor': found 0.0"]),
        (
            "llama3-rope",
            "rope_scaling",
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}),
            &[
                "'rope_scaling.high_freq_factor': found 4.0",
                "more than low_freq_factor, which is 4",
            ],
        ),
        (
            "llama3-rope",
            "rope_scaling",
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}),
            &["original_max_position_embeddings': found nothing"],
        ),
        ("qwen2-bias", "layer_types", json!(["full_attention", "sliding_attention", "full_attention"]), &["'layer_types'", "sliding windows are not supported"]),
        ("llama-mha", "quantization_config", json!({"quant_method": "gptq"}), &["'quantization_config'", "bf16, f16 or f32"]),
        ("llama-mha", "tie_word_embeddings", json!("yes"), &["'tie_word_embeddings': found \"yes\"", "true or false"]),
        ("llama3-rope", "tie_word_embeddings", json!(false), &["tensor 'lm_head.weight'", "found no such tensor", "shape [320, 192]"]),
        ("llama-mha", "attention_bias", json!(true), &["tensor 'model.layers.0.self_attn.q_proj.bias'", "found no such tensor"]),
        ("llama-mha", "mlp_bias", json!(true), &["tensor 'model.layers.0.mlp.gate_proj.bias'"]),
        ("llama-mha", "eos_token_id", json!(320), &["'eos_token_id': found 320", "an id below vocab_size 320"]),
        ("llama-mha", "eos_token_id", json!([2, -1]), &["'eos_token_id': found [2,-1]"]),
        ("llama-mha", "eos_token_id", json!("</s>"), &["'eos_token_id': found \"</s>\""]),
        ("qwen2-bias", "model_type", json!("qwen3"), &["tensor 'model.layers.0.self_attn.q_proj.weight'", "[512, 128]"]),
    ];
    for (name, field, value, expected) in table {
        let folder = copy(name);
        let case = format!("{name} with {field} {value}");
        edit_json(&folder.path().join("config.json"), |config| {
            match value.is_null() {
                true => config.as_object_mut().unwrap().remove(field),
                false => config
                    .as_object_mut()
                    .unwrap()
                    .insert(field.to_owned(), value),
            };
        });
        assert_refused(folder.path(), &case, expected);
    }
    let folder = copy("qwen2-bias");
    edit_json(&folder.path().join("config.json"), |config| {
        config.as_object_mut().unwrap().remove("layer_types");
        config["use_sliding_window"] = true.into();
        config["sliding_window"] = 64.into();
        config["max_window_layers"] = 1.into();
    });
    assert_refused(
        folder.path(),
        "sliding window",
        &["'use_sliding_window': found true"],
    );
    // a window that no layer uses, as Qwen2.5 has it, is none
    edit_json(&folder.path().join("config.json"), |config| {
        config["max_window_layers"] = 28.into();
    });
    Model::open(folder.path()).unwrap();
}

#[test]
fn files_that_are_no_config_are_refused() {
    #[rustfmt::skip]
    let table: [(&str, &[&str]); 7] = [
        ("", &["config.json: found invalid JSON (EOF", "expected a JSON object"]),
        ("[1, 2]", &["config.json: found [1,2], expected a JSON object"]),
        ("{\"model_type\": \"llama\"", &["config.json: found invalid JSON (EOF"]),
        ("{\"vocab_size\": 1, \"vocab_size\": 2}", &["key 'vocab_size' twice"]),
        ("{}", &["'model_type': found nothing"]),
        ("{\"architectures\": [\"GPT2LMHeadModel\"]}", &["'architectures': found [\"GPT2LMHeadModel\"]"]),
        ("{\"a\": \"\u{1}\"}", &["invalid JSON (control character"]),
    ];
    for (text, expected) in table {
        let folder = copy("llama-mha");
        std::fs::write(folder.path().join("config.json"), text).unwrap();
        assert_refused(folder.path(), text, expected);
    }
    let folder = copy("llama-mha");
    let config = folder.path().join("config.json");
    std::fs::write(&config, b"{\"model_type\": \"\xff\"}").unwrap();
    assert_refused(
        folder.path(),
        "not UTF-8",
        &["config.json: found a byte that is not UTF-8 at 16, expected UTF-8 text"],
    );
    std::fs::write(&config, "[".repeat(100_000)).unwrap();
    assert_refused(
        folder.path(),
        "deep",
        &["invalid JSON (recursion limit exceeded"],
    );
    std::fs::remove_file(&config).unwrap();
    assert_refused(
        folder.path(),
        "absent",
        &["config.json: cannot be read: No such file"],
    );
    assert_refused(
        &folder.path().join("none"),
        "absent",
        &["none: found nothing, expected a directory"],
    );
    let file = folder.path().join("model.safetensors");
    assert_refused(
        &file,
        "a file",
        &["model.safetensors: found a file, expected a directory"],
    );
}

#[test]
fn generation_configs_are_checked_against_the_vocabulary() {
    let folder = copy("llama-mha");
    let path = folder.path().join("generation_config.json");
    std::fs::write(&path, r#"{"eos_token_id": [5, 320]}"#).unwrap();
    assert_refused(
        folder.path(),
        "eos",
        &[
            "generation_config.json",
            "found [5,320]",
            "below vocab_size 320",
        ],
    );
    std::fs::write(&path, "nonsense").unwrap();
    assert_refused(
        folder.path(),
        "no JSON",
        &["generation_config.json: found invalid JSON"],
    );
    // it has the last word; what it leaves out comes from config.json
    #[rustfmt::skip]
    let table: [(&str, &[u32]); 4] = [
        (r#"{"eos_token_id": [5, 6]}"#, &[5, 6]),
        (r#"{"eos_token_id": 7}"#, &[7]),
        (r#"{"eos_token_id": null}"#, &[2]),
        ("{}", &[2]),
    ];
    for (text, eos) in table {
        std::fs::write(&path, text).unwrap();
        assert_eq!(
            Model::open(folder.path()).unwrap().generation.eos,
            eos,
            "{text}"
        );
    }
    std::fs::remove_file(&path).unwrap();
    assert_eq!(Model::open(folder.path()).unwrap().generation.eos, [2]);
}

#[test]
fn headers_that_lie_are_refused() {
    let file = std::fs::read(fixture("llama-mha").join("model.safetensors")).unwrap();
    let (header, data) = split(&file);
    let size = data.len();
    let with = |edit: &dyn Fn(&mut Map<String, Value>)| {
        let mut header = header.clone();
        edit(header.as_object_mut().unwrap());
        join(&header.to_string(), &data)
    };
    let norm = "model.norm.weight";
    let offsets = |header: &Map<String, Value>, name: &str| {
        let offsets = &header[name]["data_offsets"];
        (offsets[0].as_u64().unwrap(), offsets[1].as_u64().unwrap())
    };
    let (first, last) = (
        offsets(header.as_object().unwrap(), "lm_head.weight"),
        offsets(header.as_object().unwrap(), norm),
    );
    assert_eq!(
        (first.0, last.1),
        (0, size as u64),
        "the places of both in the fixture"
    );
    let length = |n: u64| [&n.to_le_bytes(), &file[8..]].concat();
    let text = header.to_string();
    let doubled = format!(
        "{}, \"{norm}\": {}}}",
        text.trim_end_matches('}').to_owned() + "}",
        header[norm]
    );
    #[rustfmt::skip]
    let table: Vec<(&str, Vec<u8>, Vec<String>)> = vec![
        ("empty", vec![], vec!["a file of 0 bytes".into()]),
        ("seven bytes", file[..7].to_vec(), vec!["a file of 7 bytes".into(), "8 bytes of header length".into()]),
        ("cut in the header", file[..200].to_vec(), vec!["header length of".into(), "in a file of 200".into()]),
        (
            "cut in the data",
            file[..file.len() - 1].to_vec(),
            vec![
                format!("tensor '{norm}'"),
                format!("{}..{}", last.0, last.1),
                format!("within the {} bytes", size - 1),
            ],
        ),
        ("too long", [&file[..], &[0; 3]].concat(), vec![format!("found {} bytes of data, expected {size}", size + 3)]),
        ("header length 0", length(0), vec!["invalid header (EOF".into()]),
        ("header longer than the file", length(1 << 40), vec!["header length of 1099511627776 bytes".into()]),
        ("header length that overflows", length(u64::MAX), vec!["header length of 18446744073709551615 bytes".into()]),
        ("header not UTF-8", [&file[..8], &[0xff], &file[9..]].concat(), vec!["not UTF-8 at 0".into()]),
        ("header no JSON", join("{\"a\":", &data), vec!["invalid header ('a': EOF".into()]),
        ("header a list", join("[]", &data), vec!["invalid header (invalid type: sequence, expected an object of tensors".into()]),
        ("a tensor twice", join(&doubled, &data), vec![format!("'{norm}' stands twice")]),
        ("metadata twice", join(r#"{"__metadata__": {}, "__metadata__": {}}"#, &[]), vec!["'__metadata__' stands twice".into()]),
        ("a metadata key twice", join(r#"{"__metadata__": {"a": "1", "a": "2"}}"#, &[]), vec!["'a' stands twice".into()]),
        ("metadata of numbers", join(r#"{"__metadata__": {"a": 1}}"#, &[]), vec!["'__metadata__': invalid type: integer `1`, expected a string".into()]),
        ("no dtype", with(&|h| { h[norm].as_object_mut().unwrap().remove("dtype"); }), vec![format!("'{norm}': missing field `dtype`")]),
        ("an unknown dtype", with(&|h| h[norm]["dtype"] = "BF17".into()), vec![format!("'{norm}': unknown variant `BF17`")]),
        ("a negative dimension", with(&|h| h[norm]["shape"] = json!([-128])), vec![format!("'{norm}': invalid value: integer `-128`")]),
        ("a shape too large", with(&|h| h[norm]["shape"] = json!([129])), vec![format!("tensor '{norm}': found 256 bytes of data, expected 258 bytes for BF16 [129]")]),
        (
            "a shape that overflows",
            with(&|h| h[norm]["shape"] = json!([1u64 << 40, 1u64 << 40])),
            vec!["a shape that fits memory, not [1099511627776, 1099511627776]".into()],
        ),
        ("ends before it begins", with(&|h| h[norm]["data_offsets"] = json!([size, last.0])), vec![format!("tensor '{norm}': found data at bytes {size}..{}", last.0)]),
        ("beyond the file", with(&|h| h[norm]["data_offsets"] = json!([1u64 << 50, (1u64 << 50) + 256])), vec![format!("within the {size} bytes of data")]),
        (
            "near the end of numbers",
            with(&|h| {
                h[norm]["dtype"] = "U8".into();
                h[norm]["shape"] = json!([u64::MAX]);
                h[norm]["data_offsets"] = json!([0, u64::MAX]);
            }),
            vec![format!(
                "0..18446744073709551615, expected a range within the {size} bytes"
            )],
        ),
        (
            "overlapping",
            with(&|h| h[norm]["data_offsets"] = json!([0, 256])),
            vec![
                "found data from byte 0, expected data from byte 256".into(),
                "neither overlap nor leave holes".into(),
            ],
        ),
        ("a hole", with(&|h| { h.remove(norm); h.remove("lm_head.weight"); }), vec![format!("expected data from byte 0, where the tensor before it ends")]),
        ("trailing data that no tensor owns", with(&|h| { h.remove(norm); }), vec![format!("found {size} bytes of data, expected {}", last.0)]),
        ("half a byte", join(r#"{"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 2]}}"#, &[0, 0]), vec!["tensor 'a': found 2 bytes of data".into()]),
    ];
    let folder = copy("llama-mha");
    let path = folder.path().join("model.safetensors");
    for (case, bytes, mut expected) in table {
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, &bytes).unwrap();
        expected.push("model.safetensors: ".into());
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        assert_refused(folder.path(), case, &expected);
        assert!(Header::parse(&bytes, Path::new("x")).is_err(), "{case}");
    }
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    let file = std::fs::read(fixture("llama-mha").join("model.safetensors")).unwrap();
    let (header, data) = split(&file);
    let norm = "model.norm.weight";
    type Edit<'a> = &'a dyn Fn(&mut Value, &mut Vec<u8>);
    #[rustfmt::skip]
    let table: [(&str, Edit, &[&str]); 5] = [
        (
            "renamed",
            &|h, _| {
                let entry = h.as_object_mut().unwrap().remove(norm).unwrap();
                h["model.final_norm.weight"] = entry;
            },
            &[
                "model.safetensors: tensor 'model.norm.weight': found no such tensor, expected a tensor of shape [128]",
            ],
        ),
        ("an integer norm", &|h, _| h[norm]["dtype"] = "I16".into(), &["found type I16, expected type BF16, F16 or F32"]),
        (
            "transposed",
            &|h, _| h["model.layers.1.mlp.down_proj.weight"]["shape"] = json!([320, 128]),
            &[
                "tensor 'model.layers.1.mlp.down_proj.weight'",
                "found shape [320, 128], expected shape [128, 320] (from config.json)",
            ],
        ),
        ("a dimension more", &|h, _| h[norm]["shape"] = json!([128, 1]), &["found shape [128, 1], expected shape [128]"]),
        (
            "not a number",
            &|_, d| {
                let end = d.len();
                d[end - 2..].copy_from_slice(&[0xff, 0xff])
            },
            &["tensor 'model.norm.weight': found NaN at 127, expected finite numbers"],
        ),
    ];
    for (case, edit, expected) in table {
        let folder = copy("llama-mha");
        let (mut header, mut data) = (header.clone(), data.clone());
        edit(&mut header, &mut data);
        let path = folder.path().join("model.safetensors");
        std::fs::write(path, join(&header.to_string(), &data)).unwrap();
        assert_refused(folder.path(), case, expected);
    }
}

#[test]
fn tensors_that_nobody_asks_for_are_ignored() {
    let folder = copy("llama3-rope");
    let path = folder.path().join("model.safetensors");
    let (mut header, mut data) = split(&std::fs::read(&path).unwrap());
    let before = Model::open(folder.path()).unwrap();
    // as older checkpoints have them; a tied model does not read its head
    for (name, dtype, shape, bytes) in [
        (
            "model.layers.0.self_attn.rotary_emb.inv_freq",
            "F32",
            json!([32]),
            128,
        ),
        ("lm_head.weight", "I8", json!([5]), 5),
    ] {
        header[name] = json!({"dtype": dtype, "shape": shape, "data_offsets": [data.len(), data.len() + bytes]});
        data.extend(vec![1; bytes]);
    }
    std::fs::write(&path, join(&header.to_string(), &data)).unwrap();
    let after = Model::open(folder.path()).unwrap();
    assert!(after.weights.head.same_bytes(&after.weights.embed));
    assert_eq!(before.weights.bytes(), after.weights.bytes());
}

#[test]
fn data_need_not_be_aligned() {
    let folder = copy("llama-mha");
    let path = folder.path().join("model.safetensors");
    let before = Model::open(folder.path()).unwrap();
    let (header, data) = split(&std::fs::read(&path).unwrap());
    let mut text = header.to_string();
    while (8 + text.len()) % 2 == 0 {
        text.push(' ');
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, join(&text, &data)).unwrap();
    let after = Model::open(folder.path()).unwrap();
    assert_eq!(after.weights.embed.bytes().as_ptr() as usize % 2, 1);
    assert_eq!(before.fingerprint(), after.fingerprint());
}

#[test]
fn shards_and_their_index_are_checked() {
    let index = "model.safetensors.index.json";
    let norm = "model.norm.weight";
    type Spoil<'a> = &'a dyn Fn(&Path);
    #[rustfmt::skip]
    let table: [(&str, Spoil, &[&str]); 9] = [
        ("no JSON", &|d| std::fs::write(d.join(index), "{").unwrap(), &[index, "invalid JSON"]),
        ("no map", &|d| std::fs::write(d.join(index), "{}").unwrap(), &[index, "found no 'weight_map'"]),
        (
            "a map of numbers",
            &|d| edit_json(&d.join(index), |i| i["weight_map"][norm] = 3.into()),
            &[
                index,
                "tensor 'model.norm.weight': found 3, expected the name of a file beside the index",
            ],
        ),
        (
            "out of the directory",
            &|d| {
                edit_json(&d.join(index), |i| {
                    i["weight_map"][norm] = "../x.safetensors".into()
                })
            },
            &[
                "found \"../x.safetensors\"",
                "the name of a file beside the index",
            ],
        ),
        (
            "a shard that is not there",
            &|d| std::fs::remove_file(d.join("model-00003-of-00005.safetensors")).unwrap(),
            &[
                index,
                "found no file model-00003-of-00005.safetensors",
                "every shard",
            ],
        ),
        (
            "a shard without the tensor",
            &|d| {
                edit_json(&d.join(index), |i| {
                    i["weight_map"][norm] = "model-00001-of-00005.safetensors".into()
                })
            },
            &[
                "model-00001-of-00005.safetensors: tensor 'model.norm.weight': found no such tensor",
                "model.safetensors.index.json says",
            ],
        ),
        (
            "a tensor not in the index",
            &|d| {
                edit_json(&d.join(index), |i| {
                    i["weight_map"].as_object_mut().unwrap().remove(norm);
                })
            },
            &["model.safetensors.index.json: tensor 'model.norm.weight': found no such tensor"],
        ),
        (
            "a shard cut short",
            &|d| {
                let path = d.join("model-00005-of-00005.safetensors");
                let bytes = std::fs::read(&path).unwrap();
                std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
            },
            &[
                "model-00005-of-00005.safetensors: tensor '",
                "is it cut short?",
            ],
        ),
        (
            "another format",
            &|d| {
                std::fs::remove_file(d.join(index)).unwrap();
                for shard in 1..=5 {
                    std::fs::remove_file(d.join(format!("model-0000{shard}-of-00005.safetensors")))
                        .unwrap();
                }
                std::fs::write(d.join("pytorch_model.bin"), "x").unwrap();
            },
            &[
                "found neither weights nor index, but pytorch_model.bin",
                "expected model.safetensors or model.safetensors.index.json",
            ],
        ),
    ];
    for (case, spoil, expected) in table {
        let folder = copy("qwen3-qknorm");
        spoil(folder.path());
        assert_refused(folder.path(), case, expected);
    }
    let folder = copy("llama-mha");
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    assert_refused(folder.path(), "no weights", &["found no weights"]);
    std::fs::create_dir(folder.path().join("model.safetensors")).unwrap();
    assert_refused(
        folder.path(),
        "a directory",
        &["model.safetensors: found something that is no file"],
    );
}

#[test]
fn names_that_are_neither_directory_nor_hub_id_are_refused() {
    for name in [
        "",
        "no such model",
        "a/b/c",
        "/nowhere/at/all",
        "org/",
        "../nowhere-at-all",
        "org/na me",
        "org/..",
        "örg/x",
    ] {
        let message = Model::locate(name).unwrap_err().to_string();
        assert!(
            message.contains(&format!("model '{name}': no such directory")),
            "{message}"
        );
        assert!(message.contains("a Hub id such as org/name"), "{message}");
    }
    let directory = fixture("llama-mha");
    assert_eq!(
        Model::locate(directory.to_str().unwrap()).unwrap(),
        directory
    );
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-5i64..70).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z0-9_]{0,8}".prop_map(Value::from),
        proptest::sample::select(vec![
            "llama",
            "qwen2",
            "qwen3",
            "llama3",
            "default",
            "silu",
            "full_attention"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let key = proptest::sample::select(vec![
            "rope_type",
            "rope_theta",
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "original_max_position_embeddings",
            "x",
        ]);
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key, inner), 0..6)
                .prop_map(|pairs| pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_change_to_a_config_is_refused_or_sound(
        name in proptest::sample::select(vec!["llama-mha", "llama3-rope", "qwen2-bias", "qwen3-qknorm"]),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any_json()), 1..4),
    ) {
        let text = std::fs::read_to_string(fixture(name).join("config.json")).unwrap();
        let mut config: Map<String, Value> = serde_json::from_str(&text).unwrap();
        for (index, value) in changes {
            let keys: Vec<String> = config.keys().cloned().collect();
            config.insert(keys[index.index(keys.len())].clone(), value);
        }
        let text = Value::from(config).to_string();
        if let Ok(config) = Config::parse(&text, Path::new("config.json")) {
            prop_assert!(config.layers > 0 && config.vocab_size > 0 && config.head_dim % 2 == 0);
            prop_assert_eq!(config.heads % config.kv_heads, 0);
            prop_assert!(config.vocab_size.checked_mul(config.hidden_size).unwrap() < 1 << 48);
            prop_assert!(config.eos.iter().all(|&id| (id as usize) < config.vocab_size));
            let frequencies = config.rope.inverse_frequencies(config.head_dim);
            prop_assert!(frequencies.iter().all(|f| f.is_finite() && *f >= 0.0), "{:?}", config.rope);
            let _ = GenerationConfig::parse(&text, Path::new("generation_config.json"), &config);
        }
    }

    #[test]
    fn any_bytes_in_a_header_are_refused_or_sound(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<proptest::sample::Index>(),
        keep in 0u8..4,
    ) {
        let header = r#"{"__metadata__": {"format": "pt"},
            "a": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
            "b": {"dtype": "F32", "shape": [], "data_offsets": [12, 16]},
            "c": {"dtype": "F32", "shape": [0, 9], "data_offsets": [16, 16]}}"#;
        let mut file = join(header, &[7; 16]);
        Header::parse(&file, Path::new("x")).unwrap();
        for (index, byte) in changes {
            // digits more often than chance would have it
            let at = index.index(file.len());
            file[at] = if file[at].is_ascii_digit() { b'0' + byte % 10 } else { byte };
        }
        if keep == 0 {
            file.truncate(cut.index(file.len()));
        }
        if let Ok(header) = Header::parse(&file, Path::new("x")) {
            let mut covered = 0;
            for entry in header.tensors.values() {
                prop_assert!(entry.range.start <= entry.range.end && entry.range.end <= file.len());
                let bits = entry.shape.iter().product::<usize>() * entry.dtype.bitsize();
                prop_assert_eq!(entry.range.len() * 8, bits);
                covered += entry.range.len();
            }
            prop_assert!(covered <= file.len() - 8);
        }
    }

    #[test]
    fn any_index_is_refused_or_names_plain_files(text in "[{}\\[\\]\":,a-z./ ]{0,40}", value in any_json()) {
        for text in [format!(r#"{{"weight_map": {text}}}"#), json!({"weight_map": {"a": value}}).to_string(), text] {
            if let Ok(map) = parse_index(&text, Path::new("x")) {
                prop_assert!(map.values().all(|file| !file.contains('/') && file != ".."));
            }
        }
    }
}
