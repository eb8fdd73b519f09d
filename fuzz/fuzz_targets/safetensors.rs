#![no_main]
//! Weight file headers and the index of shards.

use std::path::Path;

use gavel::model::checkpoint::{Header, parse_index};
use libfuzzer_sys::fuzz_target;

mod patch;

const HEADER: &[u8] = br#"{"__metadata__": {"format": "pt"},
"a": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
"b": {"dtype": "F32", "shape": [], "data_offsets": [12, 16]},
"c": {"dtype": "F64", "shape": [0, 9], "data_offsets": [16, 16]}}"#;

const INDEX: &[u8] = br#"{"metadata": {"total_size": 16}, "weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#;

fn file(header: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, &[7; 16]].concat()
}

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else {
        return;
    };
    let bytes = match mode % 5 {
        0 => data.to_vec(),
        1 => file(data),
        2 => patch::patched(&file(HEADER), data),
        3 => file(&patch::patched(HEADER, data)),
        _ => {
            let index = patch::patched(INDEX, data);
            for text in [
                String::from_utf8_lossy(&index),
                String::from_utf8_lossy(data),
            ] {
                if let Ok(map) = parse_index(&text, Path::new("index")) {
                    assert!(map.values().all(|f| !f.contains(['/', '\\']) && f != ".."));
                }
            }
            return;
        }
    };
    match Header::parse(&bytes, Path::new("model.safetensors")) {
        Ok(header) => {
            let mut covered = 0;
            for entry in header.tensors.values() {
                let data = &bytes[entry.range.clone()];
                let elements: usize = entry.shape.iter().product();
                assert_eq!(data.len() * 8, elements * entry.dtype.bitsize());
                covered += data.len();
            }
            assert!(covered + 8 <= bytes.len());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
