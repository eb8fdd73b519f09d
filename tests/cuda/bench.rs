//! `gavel bench --device cuda`, all of it.

use crate::process::{softcuda, use_driver};
use serde_json::Value;
use std::process::Command;

#[test]
fn a_bench_has_the_devices_times_and_its_own_limit() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let mut command = Command::new(env!("CARGO_BIN_EXE_gavel"));
    command
        .args(["bench", "--device", "cuda", "--gamma", "2", "--tree", "2x2"])
        .args(["--limit", "2", "--rounds", "1", "--max-tokens", "6"])
        .arg("--out")
        .arg(&out)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    use_driver(&mut command, folder.path(), &softcuda());
    let output = command.output().expect("a process");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (table, said) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{table}\n{said}");
    // what softcuda finds it says there
    assert_eq!(said, "");
    for expected in [
        "cuda:0, softcuda tiny",
        "Same tokens as plain decoding: chain 2, block 2, tree 2x2.",
        "| selfjudge budget=0.01: ",
        "GB/s",
    ] {
        assert!(table.contains(expected), "{expected}: {table}");
    }

    let record = std::fs::read(out.join("bench.json")).expect("a record");
    let record: Value = serde_json::from_slice(&record).expect("a record");
    let reads = record["reads"].as_array().expect("reads");
    assert_eq!(reads.len(), 2, "{reads:?}");
    let column = |steps: &Value, name: &str| -> Vec<f64> {
        let column = steps[name].as_array().expect("a column");
        column.iter().map(|v| v.as_f64().expect("a time")).collect()
    };
    let samples = record["samples"].as_array().expect("samples");
    // plain, chain, block, tree and judge, for each prompt
    assert_eq!(samples.len(), 5 * 2);
    for sample in samples {
        let steps = &sample["steps"];
        assert_eq!(column(steps, "tokens").iter().sum::<f64>(), 6.0, "{sample}");
        // by the clock of the device, so that they are no parts of the host's time
        for name in ["target_ms", "verify_ms"] {
            assert!(column(steps, name).iter().all(|&ms| ms > 0.0), "{sample}");
        }
    }
    assert!(out.join("breakdown.svg").is_file());
}
