#![no_main]
//! `config.json` and `generation_config.json`.

use std::path::Path;

use gavel::model::{Config, GenerationConfig};
use libfuzzer_sys::fuzz_target;

mod patch;

const VALID: [&[u8]; 3] = [
    include_bytes!("../../tests/fixtures/llama3-rope/config.json"),
    include_bytes!("../../tests/fixtures/llama-odd/config.json"),
    include_bytes!("../../tests/fixtures/qwen2-bias/config.json"),
];

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else {
        return;
    };
    let bytes = match VALID.get(usize::from(mode) % 4) {
        Some(valid) => patch::patched(valid, data),
        None => data.to_vec(),
    };
    let text = String::from_utf8_lossy(&bytes);
    match Config::parse(&text, Path::new("config.json")) {
        Ok(config) => {
            assert!(config.head_dim % 2 == 0 && config.heads % config.kv_heads == 0);
            assert!(config.vocab_size * config.hidden_size < 1 << 48);
            let frequencies = config.rope.inverse_frequencies(config.head_dim);
            assert!(frequencies.iter().all(|f| f.is_finite()));
            if let Ok(generation) = GenerationConfig::parse(&text, Path::new("g"), &config) {
                assert!(
                    generation
                        .eos
                        .iter()
                        .all(|&id| (id as usize) < config.vocab_size)
                );
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
