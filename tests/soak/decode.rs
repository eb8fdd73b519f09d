//! Engines of one process on threads of their own, each with requests drawn at random, some cut off.

use crate::common::{demo_draft, demo_target, root};
use gavel::device::cpu::Cpu;
use gavel::device::cuda::Cuda;
use gavel::device::{Device, Draw, Request, Setup, Step};
use gavel::draft::{Drafter, Ngram};
use gavel::engine::{Ended, generate};
use gavel::judge::{At, Judge};
use gavel::model::{ChatTemplate, Model, Tokenizer};
use gavel::tree::Shape;
use gavel::verify::{Policy, Rule, Sampling};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Engines that decode at the same time.
const ENGINES: usize = 4;
/// Requests between an engine's opening and its closing.
const REQUESTS: usize = 24;
/// For how long the soak runs, and so how much memory may grow between the second quarter of that
/// time and the last.
#[derive(Clone, Copy)]
pub enum Slack {
    /// Seconds: allocators have not come to rest.
    Short,
    /// Minutes.
    Long,
}

impl Slack {
    /// Requests that are kept, to be run once more when nothing else runs.
    fn kept(self) -> usize {
        match self {
            Slack::Short => 20,
            Slack::Long => 200,
        }
    }

    fn bytes(self, before: u64) -> u64 {
        match self {
            Slack::Short => before / 4,
            Slack::Long => before / 50 + (2 << 20),
        }
    }
}

/// What a request is, apart from the engine that it is given to.
#[derive(Clone)]
struct Asked {
    drafter: usize,
    request: Request,
    step: Step,
    /// Tokens after which the caller has enough.
    enough: Option<usize>,
}

/// A request and what came out.
struct Done {
    asked: Asked,
    tokens: Vec<u32>,
    ended: Ended,
}

struct World {
    target: Arc<Model>,
    drafters: Vec<(&'static str, Drafter)>,
    prompts: Vec<Vec<u32>>,
    judge: Arc<Judge>,
    theta: f32,
    cuda: bool,
}

impl World {
    fn open() -> World {
        let target = demo_target();
        let tokenizer = Tokenizer::open(&target.dir).unwrap();
        let template = ChatTemplate::open(&target.dir).unwrap().unwrap();
        let problems = std::fs::read_to_string(root().join("models/demo/problems.jsonl")).unwrap();
        let prompts = problems.lines().map(|line| {
            let problem: serde_json::Value = serde_json::from_str(line).unwrap();
            let question = problem["question"].as_str().unwrap();
            let text = template.ask(None, question).unwrap();
            tokenizer.encode(&text, false).unwrap()
        });
        let judge = Judge::read(&root().join("models/demo/judge.safetensors")).unwrap();
        let cuda = match std::env::var("SOAK_DEVICE").as_deref() {
            Err(_) | Ok("cpu") => false,
            Ok("cuda") => true,
            Ok(other) => panic!("SOAK_DEVICE={other}: expected cpu or cuda"),
        };
        World {
            drafters: vec![
                ("no drafter", Drafter::None),
                ("a model", Drafter::Model(demo_draft())),
                ("n-gram", Drafter::Ngram(Ngram::default())),
                ("own layers", Drafter::self_layers(&target, 2).unwrap()),
            ],
            prompts: prompts.collect(),
            theta: judge.theta(At::Budget(0.01)).unwrap(),
            judge: Arc::new(judge),
            target,
            cuda,
        }
    }

    fn engine(&self, drafter: usize, threads: usize) -> Box<dyn Device> {
        let setup = Setup {
            target: self.target.clone(),
            drafter: self.drafters[drafter].1.clone(),
            context: self.target.config.max_positions,
            threads,
        };
        match self.cuda {
            true => Box::new(Cuda::open(&setup, 0).unwrap()),
            false => Box::new(Cpu::open(&setup).unwrap()),
        }
    }

    fn draw(&self, random: &mut fastrand::Rng, drafter: usize) -> Asked {
        let shape: Shape = match drafter {
            0 => Shape::NONE,
            _ => match random.usize(0..10) {
                0..6 => Shape::Chain(random.usize(0..13)),
                at => ["4x2x2x1", "3x3", "2x1x1x1", "best:12x5"][at - 6]
                    .parse()
                    .unwrap(),
            },
        };
        let by_best = matches!(shape, Shape::BestFirst { .. });
        let has_law = self.drafters[drafter].1.model().is_some();
        let rule = loop {
            let rule = match random.usize(0..12) {
                0..3 => Rule::Chain,
                3 => Rule::Block,
                4 => Rule::Kl {
                    delta: 0.2,
                    reverse: random.bool(),
                },
                5 => Rule::Margin { ratio: 0.9 },
                6 => Rule::TYPICAL,
                7 => Rule::Threshold { t: 0.3 },
                8 => Rule::Sglang {
                    single: 0.7,
                    accumulated: 0.8,
                },
                9 => Rule::TopK { k: 2 },
                10 => Rule::Synthetic { rate: 0.6 },
                _ => Rule::Judge { theta: self.theta },
            };
            let fits = match rule {
                Rule::Block => shape.is_chain(),
                // CUDA keeps no logits of levels that are grown best-first
                Rule::Kl { .. } => has_law && !by_best,
                _ => true,
            };
            if fits {
                break rule;
            }
        };
        let sampling = match random.u32(0..4) {
            0..2 => Sampling::GREEDY,
            2 => Sampling {
                temperature: 0.8,
                top_k: 0,
                top_p: 1.0,
            },
            _ => Sampling {
                temperature: 1.1,
                top_k: 40,
                top_p: 0.9,
            },
        };
        let step = Step::new(shape, Policy::new(sampling, rule));
        Asked {
            drafter,
            request: Request {
                prompt: self.prompts[random.usize(..self.prompts.len())].clone(),
                max_tokens: random.usize(1..120),
                stop_tokens: self.target.generation.eos.clone(),
                seed: random.u64(..),
                sequence: random.u32(..),
            },
            step: Step {
                judge: matches!(rule, Rule::Judge { .. }).then(|| self.judge.clone()),
                draw: match random.u32(0..4) {
                    0 => Draw::Sampled,
                    1 => Draw::Top,
                    _ => step.draw,
                },
                log_probabilities: random.u32(0..4) == 0,
                ..step
            },
            enough: (random.u32(0..4) == 0).then(|| random.usize(1..60)),
        }
    }
}

fn answer(device: &mut dyn Device, asked: &Asked) -> Done {
    let mut tokens = 0;
    let made = generate(device, &asked.request, &asked.step, |committed| {
        tokens += committed.len();
        match asked.enough.is_some_and(|enough| tokens >= enough) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    let made = made.unwrap_or_else(|e| panic!("{}: {e}", asked.what()));
    Done {
        asked: asked.clone(),
        tokens: made.tokens,
        ended: made.ended,
    }
}

impl Asked {
    fn what(&self) -> String {
        let (step, request) = (&self.step, &self.request);
        format!(
            "drafter {}, shape {}, {}, {:?}, {:?}, seed {}, sequence {}, {} of {} tokens",
            self.drafter,
            step.shape,
            step.policy.rule,
            step.policy.sampling,
            step.draw,
            request.seed,
            request.sequence,
            self.enough.unwrap_or(request.max_tokens),
            request.max_tokens,
        )
    }
}

/// The same request on an engine that never saw another, to its end; what was cut off is its
/// beginning.
fn check(world: &World, done: &Done) {
    let whole = Asked {
        enough: None,
        ..done.asked.clone()
    };
    let alone = answer(world.engine(done.asked.drafter, 1).as_mut(), &whole);
    let what = done.asked.what();
    match done.ended {
        Ended::Device(_) => {
            assert_eq!(done.tokens, alone.tokens, "{what}");
            assert_eq!(done.ended, alone.ended, "{what}");
        }
        Ended::Caller => assert_eq!(done.tokens, alone.tokens[..done.tokens.len()], "{what}"),
    }
}

/// A line of /proc/self/status.
fn of_process(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn resident_bytes() -> Option<u64> {
    Some(1024 * of_process("VmRSS:")?)
}

fn median(values: &[u64]) -> u64 {
    let mut values = values.to_vec();
    values.sort_unstable();
    values[values.len() / 2]
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// What all engines did.
#[derive(Default)]
struct Counts {
    finished: AtomicUsize,
    cut_off: AtomicUsize,
    abandoned: AtomicUsize,
    tokens: AtomicUsize,
    opened: AtomicUsize,
}

/// One engine after the other on this thread, until the time is over.
fn work(
    world: &World,
    mut random: fastrand::Rng,
    until: Instant,
    slack: Slack,
    counts: &Counts,
    kept: &Mutex<Vec<Done>>,
    rules: &Mutex<BTreeMap<String, usize>>,
) {
    while Instant::now() < until {
        let drafter = random.usize(..world.drafters.len());
        let mut engine = world.engine(drafter, 1 + usize::from(random.u32(0..4) == 0));
        counts.opened.fetch_add(1, Ordering::Relaxed);
        for _ in 0..REQUESTS {
            if Instant::now() >= until {
                break;
            }
            let asked = world.draw(&mut random, drafter);
            if random.u32(0..16) == 0 {
                // steps in flight, and nobody reads them: the next request begins, or all is dropped
                engine.start(&asked.request).unwrap();
                let [first, _second] = [(), ()].map(|()| engine.enqueue(&asked.step).unwrap());
                if random.bool() {
                    engine.read(first).unwrap();
                }
                counts.abandoned.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let done = answer(engine.as_mut(), &asked);
            check(world, &done);
            counts
                .tokens
                .fetch_add(done.tokens.len(), Ordering::Relaxed);
            let count = match done.ended {
                Ended::Device(_) => &counts.finished,
                Ended::Caller => &counts.cut_off,
            };
            let before = count.fetch_add(1, Ordering::Relaxed);
            let name = asked.step.policy.rule.to_string();
            let name = name.split('=').next().unwrap_or_default().to_owned();
            *rules.lock().unwrap().entry(name).or_default() += 1;
            // a fixed number of them, so that keeping them is no growth
            let (most, kept) = (slack.kept(), &mut *kept.lock().unwrap());
            if kept.len() < most {
                kept.push(done);
            } else {
                let at = random.usize(..=before.max(most));
                if at < most {
                    kept[at] = done;
                }
            }
        }
    }
}

pub fn soak(time: Duration, slack: Slack) {
    let world = World::open();
    let seed = std::env::var("SOAK_SEED").map_or(1, |text| text.parse().expect("a number"));
    let mut random = fastrand::Rng::with_seed(seed);
    let began = Instant::now();
    let until = began + time;
    let (counts, kept) = (Counts::default(), Mutex::new(Vec::new()));
    let rules = Mutex::new(BTreeMap::new());
    let threads_before = of_process("Threads:");
    let mut resident = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..ENGINES {
            let random = random.fork();
            let (world, counts, kept, rules) = (&world, &counts, &kept, &rules);
            scope.spawn(move || work(world, random, until, slack, counts, kept, rules));
        }
        // as many samples however long it takes
        let every = time / 200;
        while Instant::now() + every < until {
            std::thread::sleep(every);
            resident.extend(resident_bytes());
        }
    });
    let kept = kept.into_inner().unwrap();
    assert!(!kept.is_empty(), "nothing was decoded in {time:?}");
    // nothing else runs now
    for done in &kept {
        check(&world, done);
    }
    let read = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    println!(
        "{:.0} s on {}, seed {seed}: {ENGINES} engines at a time, {} opened; {} requests finished, {} cut off, {} abandoned; {} tokens",
        began.elapsed().as_secs_f64(),
        if world.cuda { "cuda" } else { "cpu" },
        read(&counts.opened),
        read(&counts.finished),
        read(&counts.cut_off),
        read(&counts.abandoned),
        read(&counts.tokens),
    );
    println!("by rule: {:?}", rules.into_inner().unwrap());
    println!(
        "every output equals the same request on an engine of its own; {} of them once more with nothing beside",
        kept.len()
    );
    if resident.len() >= 8 {
        let quarter = resident.len() / 4;
        let (second, last) = (
            median(&resident[quarter..2 * quarter]),
            median(&resident[3 * quarter..]),
        );
        println!(
            "resident memory, MiB: {:.1} in the second quarter of the time, {:.1} in the last; {:.1} to {:.1} after the first",
            mib(second),
            mib(last),
            mib(*resident[quarter..].iter().min().unwrap()),
            mib(*resident[quarter..].iter().max().unwrap()),
        );
        assert!(
            last <= second + slack.bytes(second),
            "resident memory grew from {:.1} to {:.1} MiB",
            mib(second),
            mib(last)
        );
    }
    // engines end their threads; the other test of this program may have some of its own
    if let (Some(before), Some(after)) = (threads_before, of_process("Threads:")) {
        assert!(
            after <= before + 4,
            "{before} threads before, {after} after"
        );
    }
}
