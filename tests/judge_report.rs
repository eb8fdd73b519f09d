//! The kept report of `make judge-report`: its judge, on its first test problems, does
//! today what the report says it did.

mod common;

use common::*;
use gavel::draft::Drafter;
use gavel::eval::{Menu, NamedJudge, digest};
use gavel::experiment::{BUDGET, Data, Kept, Lab, Settings, decode, within_budget};
use gavel::judge::{At, Judge};
use gavel::verify::Sampling;
use std::collections::HashSet;
use std::sync::Arc;

const PROBLEMS: usize = 200;

#[test]
fn the_kept_judge_answers_the_kept_problems_as_the_report_says() {
    let report = root().join("docs/judge-report");
    let text = std::fs::read_to_string(report.join("main-test.json")).unwrap();
    let kept: Kept = serde_json::from_str(&text).unwrap();
    let path = root().join("models/demo/judge.safetensors");
    let judge = Judge::read(&path).unwrap();
    assert_eq!(digest(&std::fs::read(&path).unwrap()), kept.judge);
    // its operating point is what its own validation curve says, not what was kept
    assert_eq!(within_budget(&judge, BUDGET), Some(kept.theta));

    let data = Data::read(&report.join("main-test.jsonl")).unwrap();
    assert_eq!(data.problems.len(), PROBLEMS);
    let examples = Data::read(&root().join("models/demo/problems.jsonl")).unwrap();
    let examples: HashSet<_> = examples.problems.iter().map(|p| &p.prompt).collect();
    assert!(data.problems.iter().all(|p| !examples.contains(&p.prompt)));

    let scratch = tempfile::tempdir().unwrap();
    let settings = Settings {
        dir: scratch.path().to_owned(),
        out: scratch.path().to_owned(),
        models: root().join("models/demo"),
        seeds: vec![1],
        prompts: 0,
        problems: PROBLEMS,
        workers: std::thread::available_parallelism().map_or(1, usize::from),
        python: "python3".to_owned(),
        commit: String::new(),
        date: String::new(),
    };
    let lab = Lab::open(&settings, &|_| {}).unwrap();
    judge.check(&lab.target, Some(&lab.draft), false).unwrap();
    let menu = Menu {
        drafters: vec![("draft".to_owned(), Drafter::Model(lab.draft.clone()))],
        gammas: vec![kept.gamma],
        trees: Vec::new(),
        judges: vec![NamedJudge {
            name: "selfjudge".to_owned(),
            judge: Arc::new(judge),
        }],
        thetas: vec![At::Theta(kept.theta)],
        draw: None,
        draft_sampling: Sampling::GREEDY,
        sampling: Sampling::GREEDY,
        guard: lab.guard(),
    };
    let rows = menu.rows(&["chain", "selfjudge"]).unwrap();
    let found = decode(&lab, &data, &rows, scratch.path()).unwrap();
    assert_eq!(kept.rows.len(), rows.len());
    for (found, kept) in found.iter().zip(&kept.rows) {
        assert_eq!(kept.tallies.len(), PROBLEMS);
        for (place, (found, kept_one)) in found.iter().zip(&kept.tallies).enumerate() {
            assert_eq!(found, kept_one, "{}, problem {}", kept.name, place + 1);
        }
    }
    // the judge does something: the two rows are not one
    assert_ne!(found[0], found[1]);
}
