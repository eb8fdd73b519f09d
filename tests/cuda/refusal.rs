//! What `gavel --device cuda` refuses, as a user meets it.

use crate::process::{softcuda, use_driver};
use crate::widths::{Fill, LLAMA_3B, LLAMA_70B, Widths};
use gavel::device::Setup;
use gavel::device::cuda::{needs, plan::Chip};
use gavel::draft::Drafter;
use gavel::model::Model;
use softcuda::report::Report;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

/// `gavel logits --device cuda` of a model that lies in `folder`, on a software device.
fn logits(folder: &Path, driver: &Path, device: &str, context: usize) -> Output {
    let links = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_gavel"));
    use_driver(&mut command, links.path(), driver);
    let file = |name: &str| folder.join(name).into_os_string();
    command
        .args(["logits", "--ids", "1,2", "--device", "cuda", "--context"])
        .arg(context.to_string())
        .args(["--model".into(), folder.as_os_str().to_owned()])
        .args(["--out".into(), file("logits.safetensors")])
        .env("SOFTCUDA_DEVICE", device)
        .env("SOFTCUDA_REPORT", file("report.json"))
        .output()
        .expect("gavel")
}

fn mib(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn what_does_not_fit_is_refused_with_both_figures_before_anything_is_loaded() {
    let h100 = Chip {
        multiprocessors: 132,
        major: 9,
    };
    let tiny = Chip {
        multiprocessors: 4,
        major: 9,
    };
    let cases: [(Widths, &str, Chip, usize, usize); 2] = [
        // the model, and the context
        (LLAMA_70B, "h100", h100, 80 << 30, 1024),
        (LLAMA_3B, "tiny", tiny, 8 << 30, 131_072),
    ];
    for (widths, device, chip, free, context) in cases {
        let folder = tempfile::tempdir().expect("a folder");
        widths.write(folder.path(), Fill::Nothing);
        let output = logits(folder.path(), &softcuda(), device, context);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{}: {said}", widths.name);
        let setup = Setup {
            target: Arc::new(Model::open(folder.path()).expect("a model")),
            drafter: Drafter::None,
            context,
            threads: 1,
        };
        let need = needs(&setup, chip);
        assert!(
            need.weights < free || context == 1024,
            "the context alone is too much"
        );
        for part in [
            format!("{} of free memory", mib(free)),
            format!("{} are needed", mib(need.total())),
            format!("{} for weights", mib(need.weights)),
            format!(
                "{} for the KV cache at a context of {context}",
                mib(need.kv)
            ),
        ] {
            assert!(
                said.contains(&part),
                "{}: expected `{part}` in: {said}",
                widths.name
            );
        }
        let report = std::fs::read_to_string(folder.path().join("report.json")).expect("a report");
        let report: Report = serde_json::from_str(&report).expect("a report");
        let process = report.process;
        assert_eq!(
            (process.allocations, process.launches, process.copies.len()),
            (0, 0, 0)
        );
        assert!(!folder.path().join("logits.safetensors").exists());
    }
}

#[test]
fn a_machine_without_a_driver_is_told_what_is_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    LLAMA_3B.write(folder.path(), Fill::Nothing);
    let none = folder.path().join("no library");
    std::fs::write(&none, "not a library").expect("a file");
    let output = logits(folder.path(), &none, "tiny", 1024);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for part in ["no NVIDIA driver", "libcuda.so.1", "13.0 (580)"] {
        assert!(said.contains(part), "expected `{part}` in: {said}");
    }
}
