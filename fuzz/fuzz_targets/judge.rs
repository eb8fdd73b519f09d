#![no_main]
//! Judge files.

use std::path::Path;
use std::sync::LazyLock;

use gavel::judge::{Features, Head, Judge, Layout, Meaning, OperatingPoint, OperatingPoints, Tap};
use libfuzzer_sys::fuzz_target;

mod patch;

static VALID: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    let point = OperatingPoint {
        theta: 0.5,
        precision: 0.5,
        recall: 0.75,
        harmful_per_answer: 0.25,
    };
    let linear = Judge {
        head: Head::Linear {
            w: vec![0.5, -1.0],
            b: 0.25,
        },
        meaning: Meaning::Acceptable,
        features: Features::final_hidden(2),
        vocab_size: 512,
        target_fingerprint: "f00d".to_owned(),
        draft_fingerprint: None,
        method: "by hand".to_owned(),
        provenance: String::new(),
        operating_points: Some(OperatingPoints {
            f1: point,
            r90: point,
            mid: point,
        }),
        curve: vec![point],
    };
    let two_layer = Judge {
        head: Head::TwoLayer {
            w1: vec![0.5; 6],
            b1: vec![0.0; 2],
            w2: vec![1.0; 2],
            b2: 0.0,
        },
        features: Features {
            layout: Layout::DdDt,
            taps: vec![Tap::Final, Tap::Layer(1)],
            target_width: 1,
            draft_width: 1,
        },
        ..linear.clone()
    };
    [linear, two_layer].map(|judge| judge.to_bytes().expect("a valid judge"))
});

/// The JSON within the JSON, found by the fuzzer only by chance, is patched by itself.
fn with_description(valid: &[u8], patches: &[u8]) -> Option<Vec<u8>> {
    let length = u64::from_le_bytes(valid[..8].try_into().ok()?) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&valid[8..8 + length]).ok()?;
    let description = header["__metadata__"]["gavel_judge"].as_str()?;
    let description = patch::patched(description.as_bytes(), patches);
    header["__metadata__"]["gavel_judge"] = String::from_utf8_lossy(&description).into();
    let header = header.to_string();
    let length = (header.len() as u64).to_le_bytes();
    Some(
        [
            &length,
            header.as_bytes(),
            &valid[8 + valid_header(valid)..],
        ]
        .concat(),
    )
}

fn valid_header(valid: &[u8]) -> usize {
    valid[..8]
        .iter()
        .rev()
        .fold(0, |n, &b| n << 8 | usize::from(b))
}

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else {
        return;
    };
    let valid = &VALID[usize::from(mode & 1)];
    let bytes = match mode >> 1 & 3 {
        0 => data.to_vec(),
        1 => patch::patched(valid, data),
        _ => with_description(valid, data).expect("a valid judge"),
    };
    match Judge::parse(&bytes, Path::new("judge.safetensors")) {
        Ok(judge) => {
            let score = judge.score(&vec![1.0; judge.features.len()]);
            assert!((0.0..=1.0).contains(&score));
            let again = judge.to_bytes().expect("what was read can be written");
            assert_eq!(
                Judge::parse(&again, Path::new("again")).expect("and read"),
                judge
            );
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
