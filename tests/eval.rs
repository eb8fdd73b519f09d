//! Evaluation on the demo pair: rows that agree, results that survive, refusals.

mod common;

use common::*;
use gavel::device::cpu::Cpu;
use gavel::draft::{Drafter, Ngram};
use gavel::engine::Stats;
use gavel::eval::{
    self, Decoder, EvalError, Evaluation, Menu, NamedJudge, Outcome, Prompting, Report, Results,
    Row, negative_log_likelihood,
};
use gavel::judge::{At, Features, Head, Judge, Meaning};
use gavel::model::{Model, Tokenizer};
use gavel::task::{Grader, Problem, Task};
use gavel::verify::{Guard, Sampling};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

const PROBLEMS: usize = 6;

/// The demo pair with everything an evaluation takes.
struct Pair {
    target: Arc<Model>,
    tokenizer: Tokenizer,
    problems: Vec<Problem>,
    grader: Grader,
}

impl Pair {
    fn open() -> Pair {
        let target = demo_target();
        let mut problems = Task::WordProblems.read(&data()).unwrap();
        problems.truncate(PROBLEMS);
        Pair {
            tokenizer: Tokenizer::open(&target.dir).unwrap(),
            target,
            problems,
            grader: Grader::of(Task::WordProblems),
        }
    }

    fn menu(&self) -> Menu {
        Menu {
            drafters: vec![("draft".into(), Drafter::Model(demo_draft()))],
            gammas: vec![8],
            trees: vec!["3x2x1".parse().unwrap()],
            judges: vec![self.judge("strict", -100.0), self.judge("lax", 100.0)],
            thetas: vec![At::Theta(0.5)],
            draw: None,
            draft_sampling: Sampling::GREEDY,
            sampling: Sampling::GREEDY,
            guard: Guard::NONE,
        }
    }

    /// A judge with one score for every token.
    fn judge(&self, name: &str, logit: f32) -> NamedJudge {
        let width = self.target.config.hidden_size;
        let judge = Judge {
            head: Head::Linear {
                w: vec![0.0; width],
                b: logit,
            },
            meaning: Meaning::Acceptable,
            features: Features::final_hidden(width),
            vocab_size: self.target.config.vocab_size,
            target_fingerprint: self.target.fingerprint().to_owned(),
            draft_fingerprint: None,
            method: format!("always {logit}"),
            provenance: String::new(),
            operating_points: None,
            curve: Vec::new(),
        };
        NamedJudge {
            name: name.to_owned(),
            judge: Arc::new(judge),
        }
    }

    fn rows(&self, items: &[&str]) -> Vec<Row> {
        self.menu().rows(items).unwrap()
    }

    fn evaluation<'a>(&'a self, rows: &'a [Row]) -> Evaluation<'a> {
        Evaluation {
            task: Task::WordProblems,
            data: "digest".into(),
            problems: &self.problems,
            rows,
            target: &self.target,
            tokenizer: &self.tokenizer,
            prompting: Prompting {
                chat: true,
                max_tokens: 160,
                ..Prompting::default()
            },
            grader: &self.grader,
            seed: 0,
            perplexity: false,
            context: 512,
        }
    }

    fn decoders(&self, rows: &[Row]) -> Vec<Decoder> {
        let open = |drafter: Drafter| {
            let mut setup = setup(self.target.clone(), drafter.clone());
            setup.context = 512;
            Decoder {
                device: Box::new(Cpu::open(&setup).unwrap()),
                drafter,
            }
        };
        eval::drafters(rows).into_iter().map(open).collect()
    }

    fn run(&self, evaluation: &Evaluation<'_>, out: Option<&Path>) -> Results {
        let mut decoders = self.decoders(evaluation.rows);
        eval::run(evaluation, &mut decoders, out, &mut || {}).unwrap()
    }

    fn report(&self, items: &[&str]) -> (Report, Results) {
        let rows = self.rows(items);
        let evaluation = self.evaluation(&rows);
        let results = self.run(&evaluation, None);
        (eval::summarise(&evaluation, &results).unwrap(), results)
    }
}

fn data() -> PathBuf {
    root().join("models/demo/problems.jsonl")
}

#[test]
fn lossless_rows_answer_as_plain_decoding_does_and_judged_rows_keep_more() {
    let pair = Pair::open();
    let items = [
        "plain", "chain", "block", "tree", "chain@3", "strict", "lax", "lax@tree", "kl=0",
    ];
    let (report, results) = pair.report(&items);
    assert_eq!(report.problems, PROBLEMS);
    let row = |name: &str| {
        report
            .rows
            .iter()
            .find(|r| r.name == name)
            .unwrap_or_else(|| panic!("{name}"))
    };
    let plain = row("plain");
    assert_eq!((plain.m.value, plain.block_efficiency), (0.0, 1.0));
    assert!(plain.accuracy_difference.is_none() && plain.baseline.is_none());
    // nothing is accepted by them beyond what the lossless rule accepts
    for name in [
        "chain 8",
        "block 8",
        "tree 3x2x1",
        "chain 3",
        "strict 0.5 8",
        "kl=0 8",
    ] {
        let row = row(name);
        assert_eq!(row.agreement.unwrap().exact, 1.0, "{name}");
        assert_eq!(row.agreement.unwrap().rouge_l, 1.0, "{name}");
        assert_eq!(row.accuracy, plain.accuracy, "{name}");
        assert_eq!(row.accuracy_difference.unwrap().low, 0.0, "{name}");
        assert_eq!(row.shares.judged, 0.0, "{name}");
        assert!(
            row.m.value > 0.5 && row.m.low <= row.m.value && row.m.value <= row.m.high,
            "{name}: {:?}",
            row.m
        );
        for problem in &pair.problems {
            let outcome = results.get(problem.line, &row.key).unwrap();
            assert_eq!((outcome.same_as_plain, &outcome.text), (Some(true), &None));
        }
    }
    assert!(row("chain 8").baseline.is_none());
    for (name, baseline) in [
        ("strict 0.5 8", "chain 8"),
        ("chain 3", "chain 8"),
        ("lax 0.5 tree 3x2x1", "tree 3x2x1"),
    ] {
        assert_eq!(row(name).baseline.as_deref(), Some(baseline), "{name}");
    }
    assert_eq!(row("strict 0.5 8").m_ratio.unwrap().value, 1.0);
    // what accepts everything keeps whole chains and says nothing of its own
    let lax = row("lax 0.5 8");
    assert!(
        lax.m.value > 6.0 && lax.m_ratio.unwrap().low > 1.2,
        "{:?}",
        lax.m_ratio
    );
    assert!(
        lax.shares.judged > 0.05 && lax.shares.residual < 0.01,
        "{:?}",
        lax.shares
    );
    let agreement = lax.agreement.unwrap();
    assert!(
        agreement.exact < 0.5 && agreement.rouge_l < 0.95,
        "{agreement:?}"
    );
    // judged text is graded as it is, not as plain's
    let judged = results.get(0, &lax.key).unwrap();
    assert!(judged.text.as_ref().unwrap().contains("####"));

    // the report's figures are those of the outcomes
    let mut stats = Stats::default();
    let mut right = 0;
    for problem in &pair.problems {
        let outcome = results.get(problem.line, &lax.key).unwrap();
        stats += &outcome.stats;
        right += usize::from(outcome.grade.right.unwrap());
    }
    assert_eq!(lax.m.value, stats.m());
    assert_eq!(lax.accuracy.unwrap().value, right as f64 / PROBLEMS as f64);
    let table = report.table();
    for name in items.iter().zip(&report.rows).map(|(_, r)| &r.name) {
        assert!(table.contains(name), "{table}");
    }
    let plot = report.plot();
    let lax = plot.series.iter().find(|s| s.name == "lax").unwrap();
    assert_eq!(lax.points.len(), 1);
    let chain = plot.series.iter().find(|s| s.name == "chain").unwrap();
    assert_eq!(chain.points.len(), 2);
    assert!(chain.points[0].x <= chain.points[1].x);
}

/// What must not depend on when it was computed.
fn timeless(outcome: &Outcome) -> Outcome {
    let mut outcome = outcome.clone();
    outcome.stats.prefill = Default::default();
    outcome.stats.first_token = Default::default();
    outcome.stats.total = Default::default();
    outcome.stats.times = Default::default();
    outcome
}

fn read(path: &Path) -> Vec<Outcome> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

#[test]
fn a_run_that_was_cut_off_goes_on_and_ends_the_same() {
    let pair = Pair::open();
    let rows = pair.rows(&["plain", "chain", "lax", "tree"]);
    let evaluation = pair.evaluation(&rows);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.jsonl");
    let whole = pair.run(&evaluation, Some(folder.path()));
    assert_eq!(whole.len(), 4 * PROBLEMS);
    let bytes = std::fs::read(&path).unwrap();
    let written = read(&path);
    assert_eq!(written.len(), 4 * PROBLEMS);
    // problem by problem, plain first
    assert_eq!(
        written.iter().map(|o| o.problem).collect::<Vec<_>>(),
        (0..PROBLEMS).flat_map(|p| [p; 4]).collect::<Vec<_>>()
    );

    // complete: nothing is computed, nothing changes
    pair.run(&evaluation, Some(folder.path()));
    assert_eq!(std::fs::read(&path).unwrap(), bytes);

    let line = |n: usize| {
        bytes
            .split_inclusive(|&b| b == b'\n')
            .take(n)
            .map(<[u8]>::len)
            .sum::<usize>()
    };
    // in the middle of a line, behind its last brace, between lines, behind plain of a problem, at the beginning
    for cut in [line(7) + 40, line(6) - 1, line(10), line(9), 3, 0] {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let results = pair.run(&evaluation, Some(folder.path()));
        let resumed = read(&path);
        assert_eq!(resumed.len(), written.len(), "cut at {cut}");
        for (found, expected) in resumed.iter().zip(&written) {
            assert_eq!(timeless(found), timeless(expected), "cut at {cut}");
        }
        assert_eq!(results.len(), written.len());
    }
}

#[test]
fn more_rows_and_more_problems_continue_what_is_there() {
    let mut pair = Pair::open();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.jsonl");
    let all = std::mem::take(&mut pair.problems);
    pair.problems = all[1..3].to_vec();
    let first = pair.rows(&["chain", "plain"]);
    pair.run(&pair.evaluation(&first), Some(folder.path()));
    let before = std::fs::read(&path).unwrap();
    assert_eq!(read(&path).len(), 4);

    pair.problems = all[..4].to_vec();
    // the same row under two names is computed once
    let mut second = pair.rows(&["plain", "kl=0.5", "lax", "lax=0.4"]);
    let mut twin = second[1].clone();
    twin.name = "twin".into();
    second.push(twin);
    let evaluation = pair.evaluation(&second);
    let results = pair.run(&evaluation, Some(folder.path()));
    let after = std::fs::read(&path).unwrap();
    assert!(after.starts_with(&before));
    assert_eq!(read(&path).len(), 4 + 2 + 3 * 4);
    let report = eval::summarise(&evaluation, &results).unwrap();
    assert_eq!((report.problems, report.rows.len()), (4, 5));
    assert_eq!(report.rows[1].m, report.rows[4].m);
    assert!(
        report.rows[1].baseline.is_none(),
        "there is no chain in this run"
    );
    // every line's row is explained
    let run: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("run.json")).unwrap()).unwrap();
    let keys: Vec<&str> = run["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["key"].as_str().unwrap())
        .collect();
    assert!(read(&path).iter().all(|o| keys.contains(&&*o.row)));
}

#[test]
fn another_run_is_not_continued() {
    let pair = Pair::open();
    let rows = pair.rows(&["plain"]);
    let folder = tempfile::tempdir().unwrap();
    let refused = |evaluation: &Evaluation<'_>| {
        let mut decoders = pair.decoders(&rows);
        let error =
            eval::run(evaluation, &mut decoders, Some(folder.path()), &mut || {}).unwrap_err();
        assert!(error.is_input());
        error.to_string()
    };
    pair.run(&pair.evaluation(&rows), Some(folder.path()));
    let bytes = std::fs::read(folder.path().join("results.jsonl")).unwrap();
    let message = refused(&Evaluation {
        seed: 7,
        ..pair.evaluation(&rows)
    });
    assert!(
        message.contains("holds results with seed 0, this run has 7"),
        "{message}"
    );
    let message = refused(&Evaluation {
        data: "other".into(),
        ..pair.evaluation(&rows)
    });
    assert!(
        message.contains("holds results with data \"digest\", this run has \"other\""),
        "{message}"
    );
    let message = refused(&Evaluation {
        perplexity: true,
        ..pair.evaluation(&rows)
    });
    assert!(
        message.contains("perplexity false, this run has true"),
        "{message}"
    );
    let draft = demo_draft();
    let message = refused(&Evaluation {
        target: &draft,
        ..pair.evaluation(&rows)
    });
    assert!(message.contains("holds results with target"), "{message}");

    let path = folder.path().join("results.jsonl");
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "nothing is lost");
    std::fs::write(&path, [b"{\"problem\": 0}\n", &bytes[..]].concat()).unwrap();
    let message = refused(&pair.evaluation(&rows));
    assert!(
        message.contains("results.jsonl: found in line 1 missing field"),
        "{message}"
    );
    std::fs::remove_file(folder.path().join("run.json")).unwrap();
    let message = refused(&pair.evaluation(&rows));
    assert!(
        message.contains("results.jsonl without run.json"),
        "{message}"
    );
}

#[test]
fn the_likelihood_of_a_response_is_that_of_single_passes() {
    let pair = Pair::open();
    let rows = pair.rows(&["plain", "chain", "lax"]);
    let evaluation = Evaluation {
        perplexity: true,
        ..pair.evaluation(&rows)
    };
    let results = pair.run(&evaluation, None);
    let report = eval::summarise(&evaluation, &results).unwrap();
    let [plain, chain, lax] = &report.rows[..] else {
        panic!()
    };
    assert_eq!(plain.perplexity, chain.perplexity);
    // a greedy response is likelier than one that takes what the draft says
    assert!(
        1.0 < plain.perplexity.unwrap() && plain.perplexity < lax.perplexity,
        "{:?} {:?}",
        plain.perplexity,
        lax.perplexity
    );

    let device = &mut pair.decoders(&rows)[0].device;
    let prompt = pair
        .tokenizer
        .encode("<|user|>Ana has 3 apples.", false)
        .unwrap();
    // longer than what is scored at once
    let response: Vec<u32> = (0..150).map(|i| 5 + i % 40).collect();
    for count in [0, 1, 63, 64, 65, 128, 150] {
        let found = negative_log_likelihood(device.as_mut(), &prompt, &response[..count]).unwrap();
        let mut expected = 0.0;
        let mut text = prompt.clone();
        for &token in &response[..count] {
            let want = gavel::device::Want {
                logits: gavel::device::Logits::Last,
                ..Default::default()
            };
            device.rollback(0);
            let row = gavel::device::prefill(device.as_mut(), &text, &want)
                .unwrap()
                .logits;
            let sum: f64 = row.iter().map(|&z| f64::from(z).exp()).sum();
            expected += sum.ln() - f64::from(row[token as usize]);
            text.push(token);
        }
        assert!(
            (found - expected).abs() < 1e-3,
            "{count}: {found} for {expected}"
        );
    }
}

#[test]
fn lists_of_rules_become_rows_or_say_why_not() {
    let pair = Pair::open();
    let mut menu = pair.menu();
    menu.gammas = vec![4, 8];
    menu.thetas = vec![At::Theta(0.3), At::Theta(0.7)];
    let names = |items: &[&str]| -> Vec<String> {
        menu.rows(items)
            .unwrap()
            .into_iter()
            .map(|r| r.name)
            .collect()
    };
    assert_eq!(names(&["plain", "plain"]), ["plain"]);
    assert_eq!(names(&["chain", "chain@4"]), ["chain 4", "chain 8"]);
    assert_eq!(names(&["tree"]), ["tree 3x2x1"]);
    assert_eq!(names(&["kl=0.5,reverse@12"]), ["kl=0.5,reverse 12"]);
    assert_eq!(names(&["margin=0.9@tree"]), ["margin=0.9 tree 3x2x1"]);
    assert_eq!(
        names(&["lax"]),
        ["lax 0.3 4", "lax 0.7 4", "lax 0.3 8", "lax 0.7 8"]
    );
    assert_eq!(names(&["lax=0.9@best:4x2"]), ["lax 0.9 tree best:4x2"]);
    assert_eq!(names(&["judge@4"]).len(), 4);
    let refused = |menu: &Menu, item: &str, expected: &str| {
        let error = match menu.rows(&[item]) {
            Ok(rows) => panic!("{item}: {} rows", rows.len()),
            Err(error) => error.to_string(),
        };
        assert!(error.contains(expected), "{item}: {error}");
    };
    refused(
        &menu,
        "nonsense",
        "rule 'nonsense': no rule and no judge of this name; expected plain, tree, judge, strict, lax, chain,",
    );
    refused(&menu, "kl=-1", "0 or more");
    refused(
        &menu,
        "lax=f1",
        "judge 'lax': the judge stores no operating point 'f1'",
    );
    refused(&menu, "lax=2", "expected f1, r90, mid, budget=B");
    refused(
        &menu,
        "block@tree",
        "block verifies chains, found the shape 3x2x1",
    );
    refused(&menu, "chain@0x1", "rule 'chain@0x1': tree shape '0x1'");
    menu.trees.clear();
    refused(&menu, "tree", "found no tree");
    menu.judges.clear();
    refused(&menu, "judge", "found no judge");
    menu.drafters = vec![("ngram".into(), Drafter::Ngram(Ngram::default()))];
    refused(
        &menu,
        "kl=0.5",
        "KL compares with the drafter's own distribution",
    );
    menu.drafters.push((
        "self:2".into(),
        Drafter::self_layers(&pair.target, 2).unwrap(),
    ));
    assert_eq!(menu.rows(&["chain@4"]).unwrap()[1].name, "chain 4, self:2");
    menu.drafters.clear();
    refused(&menu, "chain", "found no drafter");
    assert!(menu.rows::<&str>(&[]).is_err());
}

#[test]
fn problems_that_do_not_fit_and_rows_without_a_device_are_refused() {
    let mut pair = Pair::open();
    let rows = pair.rows(&["plain", "chain"]);
    let refused = |evaluation: &Evaluation<'_>, decoders: &mut [Decoder]| -> EvalError {
        eval::run(evaluation, decoders, None, &mut || {}).unwrap_err()
    };
    let mut decoders = pair.decoders(&rows[..1]);
    let error = refused(&pair.evaluation(&rows), &mut decoders).to_string();
    assert!(
        error.contains("row 'chain 8': found no device with its drafter"),
        "{error}"
    );

    let twice = [rows[0].clone(), rows[0].clone()];
    let error = refused(&pair.evaluation(&twice), &mut decoders).to_string();
    assert!(error.contains("two rows are called 'plain'"), "{error}");

    pair.problems[3].prompt = "apples ".repeat(600);
    let error = refused(&pair.evaluation(&rows[..1]), &mut decoders).to_string();
    assert!(
        error.contains("problem 4 (line 4): its prompt has"),
        "{error}"
    );
    assert!(error.contains("the context holds 512"), "{error}");
}

fn gavel(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_gavel"))
        .arg("eval")
        .args(args)
        .current_dir(root())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

const DEMO: [&str; 6] = [
    "--model",
    "models/demo/target",
    "--draft",
    "models/demo/draft",
    "--data",
    "models/demo/problems.jsonl",
];

#[test]
fn the_command_writes_table_report_and_plot() {
    let pair = Pair::open();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let judge = path("lax.safetensors");
    pair.judge("lax", 100.0).judge.write(&judge).unwrap();
    let (judge, out) = (format!("mine={}", judge.display()), path("out"));
    let args = [
        &DEMO[..],
        &[
            "--task",
            "word-problems",
            "--limit",
            "4",
            "--offset",
            "2",
            "--rules",
            "chain,sglang=0.9,0.8",
            "--rules",
            "judge",
        ],
        &[
            "--judge",
            &judge,
            "--theta",
            "0.25,0.5",
            "--gamma",
            "4",
            "--out",
            out.to_str().unwrap(),
        ],
    ]
    .concat();
    let (code, stdout, stderr) = gavel(&args);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        stdout.starts_with("word-problems, 4 problems, seed 0, cpu"),
        "{stdout}"
    );
    for name in [
        "| plain",
        "| chain 4",
        "| sglang=0.9,0.8 4",
        "| mine 0.25 4",
        "| mine 0.5 4",
    ] {
        assert!(stdout.contains(name), "{stdout}");
    }
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    let report: serde_json::Value = serde_json::from_str(&read("report.json")).unwrap();
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 5);
    assert_eq!(rows[3]["rule"], "judge=0.25");
    assert_eq!(rows[3]["judge"]["method"], "always 100");
    assert_eq!(rows[3]["draft"], demo_draft().fingerprint());
    assert_eq!(report["target"]["fingerprint"], pair.target.fingerprint());
    assert!(read("accuracy.svg").starts_with("<svg"));
    assert_eq!(read("results.jsonl").lines().count(), 4 * 5);

    // again as JSON: nothing is computed twice, times of the first run included
    let (code, stdout, stderr) = gavel(&[&args[..], &["--json"]].concat());
    assert_eq!(code, Some(0), "{stderr}");
    let again: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(again, report);
}

#[test]
fn a_base_model_is_asked_plainly_and_stopped_at_the_next_problem() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let common = [
        &DEMO[..],
        &[
            "--task",
            "word-problems",
            "--limit",
            "3",
            "--no-chat",
            "--max-tokens",
            "40",
        ],
    ]
    .concat();
    let (code, _, stderr) = gavel(&[&common[..], &["--stop", "so", "--out", out]].concat());
    assert_eq!(code, Some(0), "{stderr}");
    let outcomes = read(&folder.path().join("results.jsonl"));
    assert!(
        outcomes.iter().any(|o| o.finish == "stop_string"),
        "{outcomes:?}"
    );
    for outcome in &outcomes {
        // chains commit tokens behind the string; they are no part of the response
        assert_ne!(outcome.same_as_plain, Some(false));
        assert!(
            outcome.text.as_ref().is_none_or(|t| !t.contains("so")),
            "{outcome:?}"
        );
    }
}

#[test]
fn wrong_input_ends_with_code_2_and_says_what_was_expected() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let bad = file("bad.jsonl", "{\"question\": \"x\"}\n");
    let boxed = file("boxed.jsonl", "{\"problem\": \"x\", \"answer\": \"7\"}\n");
    let model = &DEMO[..4];
    let table: Vec<(Vec<&str>, &str)> = vec![
        (
            vec!["--task", "gsm9k", "--data", "x"],
            "expected gsm8k, math",
        ),
        (
            vec!["--task", "gsm8k", "--data", "no/file"],
            "no/file: No such file",
        ),
        (
            vec!["--task", "gsm8k", "--data", &bad],
            "bad.jsonl, line 1: gsm8k: found the fields 'question', expected a field 'answer'",
        ),
        (
            vec![
                "--task",
                "word-problems",
                "--data",
                DEMO[5],
                "--offset",
                "500",
            ],
            "has 500 problems",
        ),
        (
            vec![
                "--task",
                "word-problems",
                "--data",
                DEMO[5],
                "--rules",
                "cain",
            ],
            "no rule and no judge of this name",
        ),
        (
            vec![
                "--task",
                "word-problems",
                "--data",
                DEMO[5],
                "--rules",
                "judge",
            ],
            "found no judge",
        ),
        (
            vec!["--task", "word-problems", "--data", DEMO[5], "--gamma", "0"],
            "--gamma 0",
        ),
        (
            vec![
                "--task",
                "word-problems",
                "--data",
                DEMO[5],
                "--judge",
                "kl=x",
            ],
            "the name 'kl' is taken",
        ),
        (
            vec![
                "--task",
                "word-problems",
                "--data",
                DEMO[5],
                "--judge",
                "a=no/judge",
            ],
            "no/judge",
        ),
        (
            vec![
                "--task",
                "word-problems",
                "--data",
                DEMO[5],
                "--checker",
                "number",
            ],
            "expected hashes, gsm8k, boxed",
        ),
        (
            vec![
                "--task",
                "word-problems",
                "--data",
                DEMO[5],
                "--checker",
                "boxed",
            ],
            "the checker boxed finds no final answer",
        ),
        (
            vec![
                "--task",
                "word-problems",
                "--data",
                DEMO[5],
                "--check-timeout",
                "0",
            ],
            "--check-timeout 0",
        ),
        (
            vec!["--task", "math", "--data", &boxed, "--context", "20"],
            "the context holds 20",
        ),
        (
            vec![
                "--task",
                "word-problems",
                "--data",
                DEMO[5],
                "--theta",
                "f2",
            ],
            "expected f1, r90, mid",
        ),
    ];
    for (args, expected) in table {
        let (code, _, stderr) = gavel(&[model, &args[..]].concat());
        assert_eq!(code, Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(expected), "{args:?}: {stderr}");
    }
}
