//! `gavel bench`: what it prints and keeps, what it checks, what it says of two files.

mod common;

use common::*;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

fn gavel(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gavel"));
    command.args(args).current_dir(root());
    command
}

/// Runs and expects an exit code; returns (standard output, standard error).
fn expect(code: i32, args: &[&str]) -> (String, String) {
    let output = gavel(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(
        output.status.code(),
        Some(code),
        "gavel {args:?}\n{out}\n{err}"
    );
    (out, err)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The demo pair, little of it.
const SHORT: [&str; 9] = [
    "bench",
    "--limit",
    "2",
    "--rounds",
    "2",
    "--max-tokens",
    "24",
    "--threads",
    "1",
];

fn short<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&SHORT[..], more].concat()
}

#[test]
fn a_bench_keeps_every_sample_checks_outputs_and_draws() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let more = ["--gamma", "2,4,auto", "--synthetic", "0.5", "--out", dir];
    let (out, err) = expect(0, &short(&more));
    assert_eq!(err, "");
    for expected in [
        "| plain ",
        "| block 4 ",
        "| tree 4x2x2x1 ",
        "| chain auto ",
        "synthetic=0.5 2",
        "selfjudge budget=0.01: ",
    ] {
        assert!(out.contains(expected), "{expected}: {out}");
    }
    assert!(out.contains("Same tokens as plain decoding: chain 2, chain 4, block 2, block 4, tree 4x2x2x1, chain auto, block auto."), "{out}");

    let record = json(&folder.path().join("bench.json"));
    let count = |name: &str| record[name].as_array().unwrap().len();
    // plain, the tree, and four rules at two gammas and auto
    assert_eq!(count("modes"), 2 + 4 * 3);
    assert_eq!(count("samples"), 14 * 2 * 2);
    assert_eq!(count("reads"), 2 * 2);
    assert_eq!(count("differences"), 0);
    for sample in record["samples"].as_array().unwrap() {
        let steps = &sample["steps"];
        let column = |name: &str| -> Vec<f64> {
            let column = steps[name].as_array().unwrap();
            column.iter().map(|v| v.as_f64().unwrap()).collect()
        };
        assert_eq!(column("tokens").iter().sum::<f64>(), 24.0, "{sample}");
        // phases are parts of the time from one arrival to the next
        let (all, draft, target, verify) = (
            column("ms"),
            column("draft_ms"),
            column("target_ms"),
            column("verify_ms"),
        );
        for step in 0..all.len() {
            let parts = draft[step] + target[step] + verify[step];
            assert!(
                parts > 0.0 && parts <= all[step] + 1e-3,
                "step {step} of {sample}"
            );
        }
    }
    let plain = &record["summary"]["lines"][0];
    assert_eq!(plain["block_efficiency"], 1.0);
    assert_eq!(plain["speedup"], Value::Null);
    let efficiency = |name: &str| {
        let lines = record["summary"]["lines"].as_array().unwrap();
        let line = lines.iter().find(|l| l["name"] == name).unwrap();
        line["block_efficiency"].as_f64().unwrap()
    };
    assert!(efficiency("chain 4") > efficiency("chain 2"));
    assert!(efficiency("chain 2") > 1.5);

    for (name, words) in [
        (
            "time-per-token.svg",
            ["chain auto", "gamma: drafted tokens"],
        ),
        ("breakdown.svg", ["target pass", "tree 4x2x2x1"]),
    ] {
        let svg = std::fs::read_to_string(folder.path().join(name)).unwrap();
        for word in words {
            assert!(svg.contains(word), "{name}: {word}");
        }
    }
}

#[test]
fn sweeps_make_prompts_of_the_lengths_asked_for() {
    let (out, _) = expect(
        0,
        &short(&["--rules", "chain", "--prompt-length", "16,200", "--json"]),
    );
    let record: Value = serde_json::from_str(&out).unwrap();
    let prompts: Vec<(&str, u64)> = record["prompts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| {
            (
                p["workload"].as_str().unwrap(),
                p["tokens"].as_u64().unwrap(),
            )
        })
        .collect();
    let expected = [
        ("prompt of 16", 16),
        ("prompt of 16", 16),
        ("prompt of 200", 200),
        ("prompt of 200", 200),
    ];
    assert_eq!(prompts, expected);
    assert_eq!(record["summary"]["lines"].as_array().unwrap().len(), 2 * 2);

    let (out, _) = expect(
        0,
        &short(&["--rules", "tree", "--context", "64,512", "--json"]),
    );
    let record: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(record["settings"]["context"], 512);
    let lengths: Vec<u64> = record["prompts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["tokens"].as_u64().unwrap())
        .collect();
    assert_eq!(lengths, [40, 40, 488, 488]);
}

#[test]
fn sampled_runs_repeat_and_other_drafters_are_benched_side_by_side() {
    let more = [
        "--model",
        "models/demo/target",
        "--draft",
        "ngram",
        "--draft",
        "self:1",
        "--kind",
        "arithmetic,code",
        "--temperature",
        "0.8",
        "--json",
    ];
    let (out, _) = expect(0, &short(&more));
    let record: Value = serde_json::from_str(&out).unwrap();
    let names: Vec<&str> = record["modes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["name"].as_str().unwrap())
        .collect();
    assert_eq!(names[0], "plain");
    assert!(
        names.contains(&"chain 8, ngram") && names.contains(&"block 8, self:1"),
        "{names:?}"
    );
    assert_eq!(record["prompts"][0]["kind"], "code");
    assert_eq!(record["differences"].as_array().unwrap().len(), 0);
}

/// A record with other times: those of a mode multiplied, round by round with a little noise.
fn changed(record: &Value, factor: impl Fn(&str, u64) -> f64, of_reads: f64) -> Value {
    let mut record = record.clone();
    let names: Vec<String> = record["modes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["name"].as_str().unwrap().to_owned())
        .collect();
    let noise = |round: u64| 1.0 + 0.002 * ((round * 7) % 5) as f64;
    for sample in record["samples"].as_array_mut().unwrap() {
        let round = sample["round"].as_u64().unwrap();
        let name = &names[sample["mode"].as_u64().unwrap() as usize];
        let by = factor(name, round) * noise(round);
        for ms in sample["steps"]["ms"].as_array_mut().unwrap() {
            *ms = by.into();
        }
    }
    for read in record["reads"].as_array_mut().unwrap() {
        read["ms"] = (of_reads * noise(read["round"].as_u64().unwrap())).into();
    }
    record
}

#[test]
fn a_comparison_says_what_changed_beyond_noise_and_what_the_machine_did() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (out, _) = expect(
        0,
        &[
            "bench",
            "--limit",
            "2",
            "--rounds",
            "5",
            "--max-tokens",
            "16",
            "--rules",
            "chain,block",
            "--json",
        ],
    );
    let record: Value = serde_json::from_str(&out).unwrap();
    let write =
        |name: &str, record: &Value| std::fs::write(path(name), record.to_string()).unwrap();
    write("a.json", &changed(&record, |_, _| 1.0, 1.0));
    write("same.json", &changed(&record, |_, _| 1.0005, 1.0));
    let one = |name: &str, _| match name {
        "chain 8" => 1.1,
        "block 8" => 0.9,
        _ => 1.0,
    };
    write("one.json", &changed(&record, one, 1.0));
    write("machine.json", &changed(&record, |_, _| 1.3, 1.3));
    let verdicts = |a: &str, b: &str| -> Vec<(String, String)> {
        let (out, _) = expect(0, &["bench", "--json", "--compare", &path(a), &path(b)]);
        let found: Value = serde_json::from_str(&out).unwrap();
        let changes = found["changes"].as_array().unwrap();
        let of_tokens = changes.iter().filter(|c| c["what"] == "ms/token");
        let text = |c: &Value, name: &str| c[name].as_str().unwrap().to_owned();
        of_tokens
            .map(|c| (text(c, "name"), text(c, "verdict")))
            .collect()
    };
    let pairs = |list: [&str; 3]| -> Vec<(String, String)> {
        let names = ["plain", "chain 8", "block 8"];
        names
            .iter()
            .zip(list)
            .map(|(n, v)| (n.to_string(), v.to_owned()))
            .collect()
    };
    assert_eq!(verdicts("a.json", "same.json"), pairs(["noise"; 3]));
    assert_eq!(
        verdicts("a.json", "one.json"),
        pairs(["noise", "slower", "faster"])
    );
    assert_eq!(verdicts("a.json", "machine.json"), pairs(["machine"; 3]));

    let (out, _) = expect(
        0,
        &["bench", "--compare", &path("a.json"), &path("one.json")],
    );
    assert!(out.contains("SLOWER") && out.contains("Welch's t"), "{out}");
    // other outputs and other prompts are no noise
    let mut other = record.clone();
    other["samples"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .for_each(|s| s["output"] = "0".into());
    write("other.json", &other);
    let (out, _) = expect(
        0,
        &["bench", "--compare", &path("a.json"), &path("other.json")],
    );
    assert!(out.contains("2 differ"), "{out}");
    other["prompts"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .for_each(|p| p["digest"] = "0".into());
    write("none.json", &other);
    let (_, err) = expect(
        2,
        &["bench", "--compare", &path("a.json"), &path("none.json")],
    );
    assert!(err.contains("no prompt that both files have"), "{err}");
}

#[test]
fn accuracies_are_drawn_against_speed() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (to_eval, to_bench, other) = (path("eval"), path("bench"), path("other.json"));
    let demo = [
        "--draft",
        "models/demo/draft",
        "--judge",
        "mine=models/demo/judge.safetensors",
        "--gamma",
        "4",
        "--threads",
        "1",
    ];
    let problems = [
        "--task",
        "word-problems",
        "--data",
        "models/demo/problems.jsonl",
        "--limit",
        "6",
        "--out",
    ];
    let eval = [
        &["eval", "--model", "models/demo/target", "--theta", "f1"],
        &demo[..],
        &problems,
        &[&*to_eval],
    ]
    .concat();
    expect(0, &eval);
    let report = path("eval/report.json");
    let bench = [
        &[
            "bench",
            "--model",
            "models/demo/target",
            "--limit",
            "1",
            "--rounds",
            "1",
            "--max-tokens",
            "16",
        ],
        &demo[..],
        &["--out", &to_bench, "--eval", &report],
    ]
    .concat();
    expect(0, &bench);
    let svg = std::fs::read_to_string(path("bench/accuracy-speed.svg")).unwrap();
    for name in ["plain", "chain", "mine"] {
        assert!(svg.contains(&format!("\n{name}\n")), "{name}");
    }
    // of another gamma nothing but plain decoding is known
    std::fs::write(&other, "{\"rows\": []}").unwrap();
    let wrong = [&bench[..bench.len() - 1], &[&*other]].concat();
    let (_, err) = expect(2, &wrong);
    assert!(err.contains("expected some of what was benched"), "{err}");
    // what was measured is there all the same
    assert!(json(Path::new(&path("bench/bench.json")))["samples"].is_array());
}

#[test]
fn wrong_usage_says_what_was_expected() {
    let record = root().join("Cargo.toml");
    let record = record.to_str().unwrap();
    for (args, expected) in [
        (vec!["--kind", "poem"], "--kind poem: expected one of"),
        (
            vec!["--context", "24"],
            "--context 24: expected more than --max-tokens 24",
        ),
        (
            vec!["--prompt-length", "489"],
            "that makes 513 positions, the model was made for 512",
        ),
        (
            vec!["--gamma", "many"],
            "neither a number of tokens nor auto",
        ),
        (vec!["--rules", "chains"], "rule 'chains'"),
        (vec!["--prompts", record], "expected {\"prompt\": TEXT}"),
        (
            vec!["--compare", record, record],
            "expected what `gavel bench --json`",
        ),
        (vec!["--eval", record], "--out"),
    ] {
        let (_, err) = expect(2, &short(&args));
        assert!(err.contains(expected), "{args:?}: {err}");
    }
    let (_, err) = expect(2, &["bench", "--rounds", "0"]);
    assert!(err.contains("--rounds 0"), "{err}");
}

#[test]
#[cfg(unix)]
fn an_interrupted_bench_keeps_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let child = gavel(&[
        "bench",
        "--rules",
        "chain",
        "--rounds",
        "100000",
        "--max-tokens",
        "16",
        "--out",
        dir,
    ])
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    std::thread::sleep(std::time::Duration::from_secs(3));
    let kill = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(kill.success());
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("interrupted after "), "{err}");
    let record = json(&folder.path().join("bench.json"));
    assert!(!record["samples"].as_array().unwrap().is_empty());
    let files: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert!(
        files
            .iter()
            .all(|f| !f.to_string_lossy().ends_with(".part")),
        "{files:?}"
    );
}

#[test]
fn generate_with_gamma_auto_gives_the_same_text() {
    let args = [
        "generate",
        "--model",
        "models/demo/target",
        "--prompt",
        "Finn has 43 cards. Finn buys 24 more. How many cards does Finn have now?",
        "--chat",
    ];
    let plain = expect(0, &args).0;
    for draft in ["models/demo/draft", "ngram"] {
        let auto = [&args[..], &["--draft", draft, "--gamma", "auto"]].concat();
        assert_eq!(expect(0, &auto).0, plain, "{draft}");
    }
    let json = [
        &args[..],
        &["--draft", "ngram", "--gamma", "auto", "--json"],
    ]
    .concat();
    let report: Value = serde_json::from_str(&expect(0, &json).0).unwrap();
    assert_eq!(report["shape"], "auto");
}
