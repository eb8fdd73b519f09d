//! What a judge adds to the time of a pass on the CPU: the same generations with and
//! without one, in turn, in one process and on one thread.
//!
//! `cargo bench --bench judge` prints for the demo pair and for SmolLM2, with a linear and
//! with a two-layer judge, what comes on top of the chain rule's steps as a share of the
//! time of their target passes: the median over rounds, each round's two generations one
//! right after the other. On a machine that others use too, count instructions: each
//! generation alone is `-- --only PAIR HEAD` (HEAD: none, linear or two-layer), under
//! `valgrind --tool=callgrind`.
//!
//! The judges refuse every token, so all generations are the same, pass by pass.

use gavel::device::cpu::Cpu;
use gavel::device::{Device, Draw, Request, Setup, Step};
use gavel::draft::Drafter;
use gavel::judge::{Features, Head, Judge, MAX_WIDTH, Meaning};
use gavel::model::Model;
use gavel::tree::Shape;
use gavel::verify::{Policy, Rule, Sampling};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const GAMMA: usize = 8;
const HEADS: [&str; 3] = ["none", "linear", "two-layer"];

/// A target with its drafter, and how much of it is decoded.
struct Pair {
    name: &'static str,
    target: Arc<Model>,
    drafter: Drafter,
    tokens: usize,
    rounds: usize,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let short = arguments.iter().any(|a| a == "--test");
    let words: Vec<&str> = arguments
        .iter()
        .filter(|a| !a.starts_with('-'))
        .map(String::as_str)
        .collect();
    let only = arguments.iter().any(|a| a == "--only").then(|| {
        let [pair, head] = words[..] else {
            panic!(
                "--only: found {words:?}, expected a pair, demo or smollm2, and one of {HEADS:?}"
            );
        };
        (pair, head)
    });
    if only.is_none() {
        println!("on top of a step's target pass, {GAMMA} nodes       time       verify alone");
    }
    for pair in pairs()
        .iter()
        .filter(|p| only.is_none_or(|o| o.0 == p.name))
    {
        let mut device = Cpu::open(&Setup {
            context: 256,
            target: pair.target.clone(),
            drafter: pair.drafter.clone(),
            threads: 1,
        })
        .expect("a CPU device");
        if let Some((_, head)) = only {
            let times = generation(&mut device, pair, &step(&pair.target, head));
            println!("{} steps", times.steps);
            continue;
        }
        let rounds = if short { 1 } else { pair.rounds };
        for head in &HEADS[1..] {
            let without = step(&pair.target, "none");
            let with = step(&pair.target, head);
            let (mut all, mut verify) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                let base = generation(&mut device, pair, &without);
                let judged = generation(&mut device, pair, &with);
                assert_eq!(base.committed, judged.committed, "a judge that refuses all");
                let pass = base.target.as_secs_f64();
                let more = |a: Duration, b: Duration| (a.as_secs_f64() - b.as_secs_f64()) / pass;
                all.push(more(
                    judged.target + judged.verify,
                    base.target + base.verify,
                ));
                verify.push(more(judged.verify, base.verify));
            }
            println!(
                "{:8} {:10} {:14.2} % (quartiles {:.2} to {:.2}) {:8.2} %",
                pair.name,
                head,
                100.0 * quantile(&mut all, 0.5),
                100.0 * quantile(&mut all, 0.25),
                100.0 * quantile(&mut all, 0.75),
                100.0 * quantile(&mut verify, 0.5),
            );
        }
    }
}

fn pairs() -> Vec<Pair> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let open = |dir: &str| {
        let dir = root.join(dir);
        assert!(
            dir.is_dir(),
            "{} is missing: run `make smollm2`",
            dir.display()
        );
        Arc::new(Model::open(&dir).expect("a readable model"))
    };
    let smollm2 = open("smollm2-135m");
    vec![
        Pair {
            name: "demo",
            target: open("demo/target"),
            drafter: Drafter::Model(open("demo/draft")),
            tokens: 96,
            rounds: 300,
        },
        Pair {
            name: "smollm2",
            drafter: Drafter::self_layers(&smollm2, 8).expect("30 layers"),
            target: smollm2,
            tokens: 8,
            rounds: 20,
        },
    ]
}

/// The chain rule, or a judge that accepts nothing more.
fn step(target: &Model, head: &str) -> Step {
    let width = target.config.hidden_size;
    let weights = |count: usize| (0..count).map(|i| (i % 7) as f32 * 0.01 - 0.03).collect();
    let head = match head {
        "none" => None,
        "linear" => Some(Head::Linear {
            w: weights(width),
            b: -1e4,
        }),
        "two-layer" => Some(Head::TwoLayer {
            w1: weights(MAX_WIDTH * width),
            b1: vec![0.0; MAX_WIDTH],
            w2: weights(MAX_WIDTH),
            b2: -1e4,
        }),
        other => panic!("head: found {other}, expected one of {HEADS:?}"),
    };
    let rule = match head {
        None => Rule::Chain,
        Some(_) => Rule::Judge { theta: 0.5 },
    };
    Step {
        draw: Draw::Top,
        judge: head.map(|head| {
            Arc::new(Judge {
                head,
                meaning: Meaning::Acceptable,
                features: Features::final_hidden(width),
                vocab_size: target.config.vocab_size,
                target_fingerprint: target.fingerprint().to_owned(),
                draft_fingerprint: None,
                method: "made for the bench".into(),
                provenance: String::new(),
                operating_points: None,
                curve: Vec::new(),
            })
        }),
        ..Step::new(Shape::Chain(GAMMA), Policy::new(Sampling::GREEDY, rule))
    }
}

/// What a generation took, its prompt apart.
#[derive(Default)]
struct Times {
    steps: usize,
    target: Duration,
    verify: Duration,
    committed: Vec<u32>,
}

fn generation(device: &mut Cpu, pair: &Pair, step: &Step) -> Times {
    let request = Request {
        prompt: (5..37).collect(),
        max_tokens: pair.tokens,
        stop_tokens: Vec::new(),
        seed: 0,
        sequence: 0,
    };
    device.start(&request).expect("a prompt that fits");
    let mut times = Times::default();
    loop {
        let ticket = device.enqueue(step).expect("a step that fits");
        let report = device.read(ticket).expect("a step");
        times.steps += 1;
        times.target += report.times.target;
        times.verify += report.times.verify;
        times
            .committed
            .extend(report.committed.iter().map(|c| c.token));
        if report.finish.is_some() {
            return times;
        }
    }
}

fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(share * (values.len() - 1) as f64).round() as usize]
}
