//! What a pass of SmolLM2 moves, counted on the device that softcuda calls h100.

use crate::process::{softcuda, with_driver};
use gavel::device::cuda::Cuda;
use gavel::device::cuda::layout::{Order, packed_bytes};
use gavel::device::{Device, Logits, Setup, Want};
use gavel::draft::Drafter;
use gavel::model::{Config, Model};
use gavel::tree::TokenTree;
use softcuda::report::Report;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn smollm2() -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/smollm2-135m");
    assert!(dir.is_dir(), "{}: run `make smollm2`", dir.display());
    dir
}

/// Bytes of the packed matrices that a pass reads.
fn matrices(c: &Config) -> usize {
    let plain = |rows| Order::Plain { rows };
    let qkv = Order::Qkv {
        heads: c.heads,
        kv_heads: c.kv_heads,
        head_dim: c.head_dim,
    };
    let gate_up = Order::GateUp {
        rows: c.intermediate_size,
    };
    let layer = packed_bytes(qkv, c.hidden_size)
        + packed_bytes(plain(c.hidden_size), c.q_width())
        + packed_bytes(gate_up, c.hidden_size)
        + packed_bytes(plain(c.hidden_size), c.intermediate_size);
    c.layers * layer + packed_bytes(plain(c.vocab_size), c.hidden_size)
}

#[test]
fn a_pass_reads_the_weights_once_and_little_else() {
    let test = "economy::a_pass_reads_the_weights_once_and_little_else";
    let file = std::env::temp_dir().join(format!("gavel-economy-{}.json", std::process::id()));
    let path = file.to_str().expect("a path in UTF-8").to_owned();
    // memory traffic over the least there could be: SmolLM2's row of the budget
    for (rows, most) in [(1u64, 1.10), (8, 1.10), (64, 1.60)] {
        let count = rows.to_string();
        let env = [
            ("SOFTCUDA_DEVICE", "h100"),
            ("SOFTCUDA_REPORT", &*path),
            ("GAVEL_TEST_ROWS", &*count),
        ];
        let said = with_driver(
            test,
            |_| softcuda(),
            &env,
            || {
                let rows = std::env::var("GAVEL_TEST_ROWS").expect("set above");
                let rows: u32 = rows.parse().expect("a number");
                let setup = Setup {
                    context: 128,
                    target: Arc::new(Model::open(&smollm2()).expect("a model")),
                    drafter: Drafter::None,
                    threads: 1,
                };
                let mut device = Cuda::open(&setup, 0).expect("a CUDA device");
                let tokens: Vec<u32> = (0..rows).map(|i| 1000 + 7 * i).collect();
                let want = Want {
                    logits: Logits::All,
                    ..Want::default()
                };
                device
                    .pass(&TokenTree::chain(&tokens), &want)
                    .expect("a pass");
            },
        );
        if said.is_none() {
            return;
        }
        let text = std::fs::read_to_string(&file).expect("a report");
        let report: Report = serde_json::from_str(&text).expect("a report");
        let c = Model::open(&smollm2()).expect("a model").config;
        let pass: Vec<_> = report
            .launches
            .iter()
            .filter(|l| !l.kernel.starts_with("pack_"))
            .collect();
        assert!(pass.len() <= 5 * c.layers + 6, "{} launches", pass.len());
        let (mut weights, mut mma, mut unique, mut all) = (0, 0, 0, 0);
        for launch in &pass {
            assert_eq!(launch.shared_conflicts, 0, "{}", launch.kernel);
            let traffic = launch.traffic();
            // rows of the embedding are counted apart
            if launch.kernel != "embed" {
                weights += launch.memory.get("weights").map_or(0, |t| t.sectors);
                unique += traffic.unique_sectors * 32;
                all += traffic.sectors * 32;
            }
            if launch.kernel.starts_with("linear") {
                mma += launch.mma.values().sum::<u64>();
            }
        }
        let packed = matrices(&c) as u64;
        assert_eq!(weights * 32, packed, "every byte of the weights once");
        assert_eq!(
            mma,
            packed / 512 * rows.div_ceil(8),
            "one mma a tile and group"
        );
        let logits = rows * c.vocab_size as u64 * 4;
        let kv = rows * (c.layers * 2 * c.kv_width() * 2) as u64;
        let least = (packed + logits + kv) as f64;
        println!(
            "{rows} rows: {} launches, memory {:.3}, L2 {:.3} of the least",
            pass.len(),
            unique as f64 / least,
            all as f64 / least
        );
        assert!(unique as f64 / least <= most, "{rows} rows");
    }
    let _ = std::fs::remove_file(&file);
}
