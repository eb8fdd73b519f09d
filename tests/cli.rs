//! The command as a user meets it: output, exit codes, messages.

mod common;

use common::*;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn gavel(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gavel"))
        .args(args)
        .current_dir(root())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs and expects an exit code; returns (standard output, standard error).
fn expect(code: i32, args: &[&str]) -> (String, String) {
    let output = gavel(args);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(
        output.status.code(),
        Some(code),
        "gavel {args:?}\n{out}\n{err}"
    );
    (out, err)
}

const TARGET: &str = "models/demo/target";
const DRAFT: &str = "models/demo/draft";
const PROMPT: &str = "Finn has 43 cards. Finn buys 24 more. Then Finn gets 6 more cards. Finn loses 4 of them. Cleo gives Finn 37 cards. How many cards does Finn have now?";

#[test]
fn generate_prints_text_and_nothing_else_to_standard_output() {
    let plain = expect(
        0,
        &["generate", "--model", TARGET, "--chat", "--prompt", PROMPT],
    );
    assert!(plain.0.contains("#### 106"), "{}", plain.0);
    assert_eq!(plain.1, "");
    for draft in [
        vec!["--draft", DRAFT, "--gamma", "6"],
        vec!["--draft", DRAFT, "--tree", "3x2x1"],
        vec!["--draft", DRAFT, "--tree", "best:8x4", "--stats"],
        vec!["--draft", "self:2"],
        vec!["--draft", "ngram", "--rule", "block"],
    ] {
        let args = [
            vec!["generate", "--model", TARGET, "--chat", "--prompt", PROMPT],
            draft,
        ]
        .concat();
        assert_eq!(expect(0, &args).0, plain.0, "{args:?}");
    }
}

#[test]
fn generate_reads_standard_input_and_stops_at_a_string() {
    let run = |input: &[u8]| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_gavel"))
            .args([
                "generate", "--model", TARGET, "--chat", "--prompt", "-", "--stop", "####",
            ])
            .current_dir(root())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input).unwrap();
        child.wait_with_output().unwrap()
    };
    let output = run(PROMPT.as_bytes());
    assert!(output.status.success());
    let shown = text(&output.stdout);
    assert!(shown.contains("106") && !shown.contains('#'), "{shown}");

    let output = run(b"Ana has \xff apples");
    assert_eq!(output.status.code(), Some(2));
    let message = text(&output.stderr);
    assert!(
        message.contains("standard input: byte 8 (0xff) is not UTF-8"),
        "{message}"
    );
}

#[test]
fn json_holds_text_tokens_and_statistics() {
    let args = [
        "generate", "--model", TARGET, "--chat", "--prompt", PROMPT, "--json",
    ];
    let args = [&args[..], &["--draft", DRAFT, "--gamma", "8"]].concat();
    let report: serde_json::Value = serde_json::from_str(&expect(0, &args).0).unwrap();
    assert_eq!(report["finish"], "stop");
    let stats = &report["stats"];
    let count = |name: &str| stats[name].as_u64().unwrap();
    assert_eq!(
        count("tokens") as usize,
        report["tokens"].as_array().unwrap().len()
    );
    let by_reason = ["aligned", "judged", "bonus", "residual"].map(count);
    assert_eq!(by_reason.iter().sum::<u64>(), count("tokens"));
    let m = (count("aligned") + count("judged")) as f64 / count("target_passes") as f64;
    assert!((stats["m"].as_f64().unwrap() - m).abs() < 1e-12);
    let kept: u64 = stats["kept_by_position"]
        .as_array()
        .unwrap()
        .iter()
        .map(|k| k.as_u64().unwrap())
        .sum();
    assert_eq!(kept, count("aligned") + count("judged"));
}

#[test]
fn logits_writes_what_the_fixture_expects() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for name in FIXTURES {
        let expected = Expected::read(name);
        let model = fixture(name);
        let (ids, tree, out) = (path("ids.json"), path("tree.json"), path("out.safetensors"));
        std::fs::write(
            &ids,
            serde_json::to_string(&expected.ids("input_ids")).unwrap(),
        )
        .unwrap();
        let nodes =
            serde_json::json!({"tokens": expected.ids("tree_ids"), "parents": expected.parents()});
        std::fs::write(&tree, nodes.to_string()).unwrap();
        let tap = expected.tap().to_string();
        let model = model.to_str().unwrap();
        let args = [
            "logits", "--model", model, "--ids", &ids, "--tree", &tree, "--tap", &tap,
        ];
        expect(0, &[&args[..], &["--greedy", "24", "--out", &out]].concat());
        let bytes = std::fs::read(&out).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |name: &str| tensors.tensor(name).unwrap();
        for key in [
            "logits",
            "last_hidden",
            &format!("hidden_{tap}"),
            "tree_logits",
        ] {
            let width = tensor(key).shape()[1];
            let error = worst_row(&f32s(tensor(key).data()), &expected.f32(key), width);
            assert!(error < 2e-3, "{name}: {key} is off by {error}");
        }
        assert_eq!(
            tensor("tree_last_hidden").shape()[0],
            expected.parents().len()
        );
        let greedy = tensor("greedy").data().as_chunks::<8>().0.iter();
        let greedy: Vec<u32> = greedy.map(|&b| i64::from_le_bytes(b) as u32).collect();
        assert_eq!(greedy, expected.ids("greedy"), "{name}");
    }
}

#[test]
fn logits_writes_what_a_judge_makes_of_every_token() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let tree = folder.path().join("tree.json");
    std::fs::write(&tree, r#"{"tokens": [7, 8], "parents": [-1, -1]}"#).unwrap();
    let judge = "models/demo/judge.safetensors";
    let paths = [tree.to_str().unwrap(), out.to_str().unwrap()];
    let rest = ["--judge", judge, "--tree", paths[0], "--out", paths[1]];
    let args = ["logits", "--model", TARGET, "--ids", "11,64,117,170"];
    expect(0, &[&args[..], &rest].concat());
    let bytes = std::fs::read(&out).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let values = |name: &str| f32s(tensors.tensor(name).unwrap().data());
    let judge = gavel::judge::Judge::read(&root().join(judge)).unwrap();
    for (scores, hidden, rows) in [
        ("scores", "last_hidden", 4),
        ("tree_scores", "tree_last_hidden", 2),
    ] {
        let hidden = values(hidden);
        let expected: Vec<f32> = hidden
            .chunks(hidden.len() / rows)
            .map(|features| judge.score(features))
            .collect();
        assert_eq!(values(scores), expected);
    }
    // a judge of another target
    let model = fixture("llama-mha");
    let args = ["logits", "--model", model.to_str().unwrap(), "--ids", "1"];
    let (_, err) = expect(2, &[&args[..], &rest].concat());
    assert!(err.contains("the judge does not fit"), "{err}");
}

#[test]
fn wrong_usage_and_input_end_with_code_2_and_say_what_was_expected() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| -> String {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let fixture = fixture("llama-mha").to_str().unwrap().to_owned();
    let out = folder
        .path()
        .join("out.safetensors")
        .to_str()
        .unwrap()
        .to_owned();
    let not_a_tree = file("tree.json", r#"{"tokens": [4, 5], "parents": [1, -1]}"#);
    let uneven = file("uneven.json", r#"{"tokens": [4, 5], "parents": [-1]}"#);
    let not_ids = file("ids.json", r#"["one"]"#);
    let long = ["apples "; 600].concat();
    let generate = ["generate", "--model", TARGET, "--prompt", "Q"];
    let logits = ["logits", "--model", &fixture, "--out", &out];
    let with = |first: &[&str], rest: &[&str]| -> Vec<String> {
        [first, rest]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect()
    };
    let table: Vec<(Vec<String>, &str)> = vec![
        (
            with(&generate, &["--draft", DRAFT, "--gamma", "0"]),
            "0 is no number of nodes",
        ),
        (
            with(&generate, &["--draft", DRAFT, "--tree", "4x0"]),
            "expected GAMMA, children per level",
        ),
        (
            with(&generate, &["--draft", DRAFT, "--tree", "30x30"]),
            "at most 511 fit one pass",
        ),
        (with(&generate, &["--gamma", "4"]), "need a drafter"),
        (with(&generate, &["--draft", "self:9"]), "4"),
        (
            with(&generate, &["--draft", "self:x"]),
            "'x' is no number of layers",
        ),
        (
            with(&generate, &["--draft", "ngram", "--rule", "kl=0.1"]),
            "this drafter has none",
        ),
        (
            with(
                &generate,
                &["--draft", "ngram", "--tree", "2x2", "--rule", "block"],
            ),
            "verifies chains",
        ),
        (with(&generate, &["--rule", "kl=x"]), "kl=D"),
        (with(&generate, &["--rule", "threshold=2"]), "0 to 1"),
        (with(&generate, &["--temperature=-1"]), "temperature"),
        (
            with(&generate, &["--top-p", "0", "--temperature", "1"]),
            "top-p is 0",
        ),
        (
            with(&generate, &["--guard", "99999"]),
            "a token id below 512",
        ),
        (with(&generate, &["--context", "100000"]), "1 to 512"),
        (
            with(&generate, &["--device", "tpu"]),
            "expected cpu or cuda",
        ),
        (
            with(&generate, &["--judge", "nowhere.safetensors"]),
            "nowhere.safetensors",
        ),
        (with(&generate, &["--judge", &not_ids]), "ids.json"),
        (
            with(&["generate", "--model", TARGET, "--prompt"], &[&long]),
            "the context holds 512",
        ),
        (
            with(&["generate", "--model", TARGET, "--prompt"], &[""]),
            "no tokens",
        ),
        (
            with(&["generate", "--model", "nowhere", "--prompt"], &["Q"]),
            "nowhere",
        ),
        (
            with(&["generate", "--model", &fixture, "--prompt"], &["Q"]),
            "tokenizer.json",
        ),
        (
            with(
                &[
                    "generate", "--model", TARGET, "--draft", &fixture, "--prompt",
                ],
                &["Q"],
            ),
            "tokenizer.json",
        ),
        (with(&logits, &["--ids", "1,2,x"]), "x"),
        (with(&logits, &["--ids", "1,,2"]), "'' is no token id"),
        (with(&logits, &["--ids", "1,320"]), "token 320 at place 1"),
        (
            with(&logits, &["--ids", &not_ids]),
            "expected a JSON array of token ids",
        ),
        (
            with(&logits, &["--ids", "1", "--tree", &not_a_tree]),
            "node 0 has parent 1",
        ),
        (
            with(&logits, &["--ids", "1", "--tree", &uneven]),
            "2 tokens and 1 parents",
        ),
        (
            with(&logits, &["--ids", "1", "--tap", "3"]),
            "the model has 2 layers",
        ),
        (
            with(&["demo", "--models"], &["nowhere"]),
            "expected the demo pair",
        ),
        (with(&["demo", "--problems"], &["0"]), "--problems 0"),
    ];
    for (args, expected) in table {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let (shown, message) = expect(2, &args);
        assert!(message.contains(expected), "gavel {args:?}: {message}");
        assert!(!message.contains("panicked"), "{message}");
        assert!(message.matches("(os error").count() < 2, "{message}");
        assert_eq!(shown, "", "gavel {args:?}");
    }
    assert!(!Path::new(&out).exists(), "a failed run left a file");
}

#[test]
fn a_full_disk_ends_with_code_1_and_leaves_no_file() {
    let fixture = fixture("llama-mha").to_str().unwrap().to_owned();
    let args = [
        "logits",
        "--model",
        &fixture,
        "--ids",
        "1,2,3",
        "--out",
        "/dev/full",
    ];
    let (_, message) = expect(1, &args);
    assert!(message.contains("/dev/full"), "{message}");
}

#[test]
fn a_file_size_limit_leaves_no_partial_file() {
    // the limit stands in for a disk that fills up while the file is written
    let folder = tempfile::tempdir().unwrap();
    let out: PathBuf = folder.path().join("out.safetensors");
    let ids = vec!["1"; 200].join(",");
    let command = format!(
        "trap '' XFSZ; ulimit -f 64; exec '{}' logits --model '{}' --ids {ids} --out '{}'",
        env!("CARGO_BIN_EXE_gavel"),
        fixture("llama-mha").display(),
        out.display()
    );
    let output = Command::new("sh").args(["-c", &command]).output().unwrap();
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("out.safetensors"), "{message}");
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        0,
        "something was left behind"
    );
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_cleanly_with_the_statistics_so_far() {
    let child = Command::new(env!("CARGO_BIN_EXE_gavel"))
        .args([
            "generate",
            "--model",
            "models/smollm2-135m",
            "--prompt",
            "Once upon a time",
        ])
        .args([
            "--max-tokens",
            "8000",
            "--ignore-eos",
            "--stats",
            "--threads",
            "1",
        ])
        .current_dir(root())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_secs(3));
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let output = child.wait_with_output().unwrap();
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{message}");
    assert!(message.contains("target passes: m 0.00"), "{message}");
    assert!(!output.stdout.is_empty() && output.stdout.ends_with(b"\n"));
}

#[test]
fn info_names_what_it_found() {
    let (shown, _) = expect(0, &["info", "--model", TARGET, "--draft", DRAFT]);
    for part in [
        "llama, 4 layers",
        "qwen2, 2 layers",
        "in BF16",
        "fingerprint",
        "kv cache",
        "cpu, ",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}
