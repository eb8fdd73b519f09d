//! Whole decoding steps on the device: what they commit, what they cost, and how they fail.

use crate::common::{FIXTURES, fixture};
use crate::judge::judge_of_both;
use crate::process::{every_failure, is_child, on_softcuda, softcuda, with_driver};
use gavel::device::cpu::Cpu;
use gavel::device::cuda::{Cuda, Gpu};
use gavel::device::{
    Committed, Device, DeviceError, Draw, Finish, Logits, Request, Setup, Step, TokenReason, Want,
};
use gavel::draft::{Drafter, Ngram};
use gavel::judge::{At, Judge, Tap};
use gavel::model::Model;
use gavel::tree::{Shape, TokenTree};
use gavel::verify::{LogSoftmax, Policy, Rule, Sampling};
use softcuda::report::Report;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const CONTEXT: usize = 120;

fn demo(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("models/demo")
        .join(name)
}

fn open(dir: &Path) -> Arc<Model> {
    Arc::new(Model::open(dir).expect("a model"))
}

fn setup(target: &Arc<Model>, drafter: Drafter, context: usize) -> Setup {
    Setup {
        context,
        target: target.clone(),
        drafter,
        threads: 1,
    }
}

fn device(target: &Arc<Model>, drafter: Drafter) -> Cuda {
    Cuda::open(&setup(target, drafter, CONTEXT), 0).expect("a CUDA device")
}

fn own_layers(target: &Model, layers: usize) -> Drafter {
    Drafter::self_layers(target, layers).expect("so many layers")
}

/// Greedy, lossless, with log-probabilities.
fn greedy(shape: &str) -> Step {
    let shape: Shape = match shape {
        "0" => Shape::NONE,
        shape => shape.parse().expect("a shape"),
    };
    Step {
        log_probabilities: true,
        ..Step::new(shape, Policy::new(Sampling::GREEDY, Rule::Chain))
    }
}

fn request(prompt: &[u32], max_tokens: usize) -> Request {
    Request {
        prompt: prompt.to_vec(),
        max_tokens,
        stop_tokens: Vec::new(),
        seed: 11,
        sequence: 2,
    }
}

/// Decodes to the end, two steps in flight, as many ways to step in turn as there are.
fn decode(
    device: &mut dyn Device,
    request: &Request,
    steps: &[Step],
) -> Result<(Vec<Committed>, Finish), DeviceError> {
    device.start(request)?;
    let mut steps = steps.iter().cycle();
    let mut next = || steps.next().expect("a step");
    let mut committed = Vec::new();
    let (began, mut phases) = (Instant::now(), Duration::ZERO);
    let mut ahead = device.enqueue(next())?;
    loop {
        let after = device.enqueue(next())?;
        let report = device.read(ahead)?;
        assert!(report.committed.len() <= report.depth + 1);
        committed.extend(report.committed);
        // by the device's own clock
        let times = report.times;
        assert!(!times.target.is_zero() && !times.verify.is_zero());
        assert!(report.nodes == 0 || !times.draft.is_zero());
        phases += times.draft + times.target + times.verify;
        if let Some(finish) = report.finish {
            assert!(phases <= began.elapsed());
            // a step after the end says so once more
            let after = device.read(after)?;
            assert_eq!((after.committed.len(), after.finish), (0, Some(finish)));
            return Ok((committed, finish));
        }
        ahead = after;
    }
}

fn tokens(committed: &[Committed]) -> Vec<u32> {
    committed.iter().map(|c| c.token).collect()
}

/// What a token is, and the bits of its log-probability.
fn exact(committed: &[Committed]) -> Vec<(u32, u32)> {
    let bits = |c: &Committed| c.log_probability.expect("was asked for").to_bits();
    committed.iter().map(|c| (c.token, bits(c))).collect()
}

/// Bits of the logits after the last token.
fn last_logits(device: &mut dyn Device, last: u32) -> Vec<u32> {
    let want = Want {
        logits: Logits::Last,
        ..Want::default()
    };
    let output = device.pass(&TokenTree::chain(&[last]), &want);
    let logits = output.expect("a pass").logits;
    logits.iter().map(|z| z.to_bits()).collect()
}

/// A prompt in which prompt lookup finds something.
fn prompt(vocabulary: usize) -> Vec<u32> {
    (0..21)
        .map(|i| (i % 6 * 37 + 5) % vocabulary as u32)
        .collect()
}

/// On the fixtures that the environment names.
fn speculation_on_fixtures() {
    let names = std::env::var("GAVEL_TEST_FIXTURES").expect("set by the parent");
    for name in names.split(',') {
        let target = open(&fixture(name));
        let prompt = prompt(target.config.vocab_size);
        let mut plain = device(&target, Drafter::None);
        let request = request(&prompt, 24);
        let (committed, finish) =
            decode(&mut plain, &request, &[greedy("0")]).expect("plain decoding");
        let expected = exact(&committed);
        let last = last_logits(&mut plain, committed[23].token);
        assert_eq!((expected.len(), finish), (24, Finish::Length));
        drop(plain);
        let layers = target.config.layers;
        let drafters: [(&str, Drafter); 2] = [
            ("ngram", Drafter::Ngram(Ngram::default())),
            ("self", own_layers(&target, layers - 1)),
        ];
        for (what, drafter) in drafters {
            let mut device = device(&target, drafter);
            // shapes alone, then in turn, plain steps among them
            let mut shapes = vec!["1", "5", "2x2x1", "best:6x3"];
            // trees of hundreds of nodes take a while
            if name == "llama-odd" {
                shapes.extend(["4x4x4x2", "best:85x3"]);
            }
            let mut ways: Vec<Vec<Step>> = shapes.iter().map(|s| vec![greedy(s)]).collect();
            ways.push(["3", "0", "0", "2x2", "1"].map(greedy).into());
            for way in ways {
                let shapes: Vec<String> = way.iter().map(|s| s.shape.to_string()).collect();
                let said = format!("{name}, {what}, {shapes:?}");
                let (committed, finish) = decode(&mut device, &request, &way).expect("a run");
                assert_eq!(exact(&committed), expected, "{said}");
                assert_eq!(finish, Finish::Length, "{said}");
                let logits = last_logits(&mut device, committed[23].token);
                assert_eq!(logits, last, "{said}");
            }
        }
    }
}

#[test]
fn greedy_speculation_has_the_bits_of_plain_decoding() {
    let test = "step::greedy_speculation_has_the_bits_of_plain_decoding";
    let runs = [
        ("llama-odd", "0", "sequential", "early"),
        ("qwen3-qknorm", "5", "groups8", "late"),
        ("qwen2-bias", "23", "groups16", "interleaved"),
    ];
    for (fixture, seed, mma, overlap) in runs {
        let env = [
            ("GAVEL_TEST_FIXTURES", fixture),
            ("SOFTCUDA_SEED", seed),
            ("SOFTCUDA_MMA", mma),
            ("SOFTCUDA_OVERLAP", overlap),
        ];
        if with_driver(test, |_| softcuda(), &env, speculation_on_fixtures).is_none() {
            return;
        }
    }
}

#[test]
#[ignore = "minutes; `make test-long`"]
fn greedy_speculation_has_the_bits_of_plain_decoding_everywhere() {
    let test = "step::greedy_speculation_has_the_bits_of_plain_decoding_everywhere";
    let fixtures = FIXTURES.join(",");
    let mut orders = Vec::new();
    for mma in ["sequential", "groups8", "groups16"] {
        for overlap in ["early", "interleaved", "late"] {
            for seed in ["0", "1", "2", "3"] {
                orders.push([
                    ("GAVEL_TEST_FIXTURES", &*fixtures),
                    ("SOFTCUDA_SEED", seed),
                    ("SOFTCUDA_MMA", mma),
                    ("SOFTCUDA_OVERLAP", overlap),
                ]);
            }
        }
    }
    if is_child(test) {
        on_softcuda(test, &[], speculation_on_fixtures);
        return;
    }
    // an order a process, one for each processor at a time
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..processors {
            scope.spawn(|| {
                while let Some(order) = orders.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let began = Instant::now();
                    on_softcuda(test, order, speculation_on_fixtures);
                    let [.., seed, mma, overlap] = order.map(|(_, value)| value);
                    let took = began.elapsed().as_secs();
                    println!("seed {seed}, mma {mma}, overlap {overlap}: {took} s");
                }
            });
        }
    });
}

/// SmolLM2 with both of its drafters against plain decoding, `tokens` of it after a prompt of `prompt`:
/// the shapes that prompt lookup and its own layers draft.
fn smollm2_pair(prompt: usize, tokens: usize, shapes: [&[&str]; 2]) {
    let target = open(&crate::counting::smollm2());
    let prompt: Vec<u32> = (0..prompt as u32).map(|i| 900 + i % 7 * 31).collect();
    let request = request(&prompt, tokens);
    let mut expected = None;
    let drafters = [Drafter::Ngram(Ngram::default()), own_layers(&target, 8)];
    for (drafter, shapes) in drafters.into_iter().zip(shapes) {
        let mut device = device(&target, drafter);
        let mut decode = |shape| decode(&mut device, &request, &[greedy(shape)]).expect("a run");
        let expected = expected.get_or_insert_with(|| exact(&decode("0").0));
        for shape in shapes {
            assert_eq!(exact(&decode(shape).0), *expected, "{shape}");
        }
    }
}

#[test]
fn smollm2_decodes_with_its_drafters() {
    let test = "step::smollm2_decodes_with_its_drafters";
    with_driver(
        test,
        |_| softcuda(),
        &[],
        || smollm2_pair(16, 5, [&["4"], &["2x2"]]),
    );
}

#[test]
#[ignore = "minutes; `make test-long`"]
fn smollm2_decodes_with_its_drafters_for_longer() {
    let test = "step::smollm2_decodes_with_its_drafters_for_longer";
    let shapes: &[&str] = &["4", "2x2", "best:6x3"];
    with_driver(
        test,
        |_| softcuda(),
        &[],
        || smollm2_pair(24, 10, [shapes, shapes]),
    );
}

#[test]
#[ignore = "minutes; `make test-long`"]
fn thousands_of_generations_leave_memory_as_it_was() {
    let test = "step::thousands_of_generations_leave_memory_as_it_was";
    with_driver(test, |_| softcuda(), &[], || many(3000));
}

/// The demo pair on both devices: every rule, chains and trees, greedy and sampled.
fn demo_pair() {
    let target = open(&demo("target"));
    let judge = Arc::new(Judge::read(&demo("judge.safetensors")).expect("a judge"));
    let theta = judge.theta(At::Mid).expect("an operating point");
    let warm = Sampling {
        temperature: 0.9,
        top_k: 30,
        top_p: 0.95,
    };
    let prompt: Vec<u32> = vec![1, 50, 37, 300, 301, 45, 320, 18, 77, 290, 36];
    let request = request(&prompt, 16);
    let ways: Vec<(&str, Rule, Sampling, Draw)> = vec![
        ("4", Rule::Chain, Sampling::GREEDY, Draw::Sampled),
        ("2x2x1", Rule::Chain, Sampling::GREEDY, Draw::Top),
        ("best:9x4", Rule::Chain, Sampling::GREEDY, Draw::Top),
        ("best:9x4", Rule::TYPICAL, warm, Draw::Top),
        ("best:85x3", Rule::Chain, Sampling::GREEDY, Draw::Top),
        ("6x6x5", Rule::Chain, warm, Draw::Sampled),
        ("4", Rule::Chain, warm, Draw::Sampled),
        ("3x2x1", Rule::Chain, warm, Draw::Sampled),
        ("5", Rule::Block, warm, Draw::Sampled),
        ("5", Rule::Block, Sampling::GREEDY, Draw::Sampled),
        ("5", Rule::Judge { theta }, Sampling::GREEDY, Draw::Sampled),
        ("2x2x1", Rule::Judge { theta }, warm, Draw::Top),
        (
            "5",
            Rule::Kl {
                delta: 0.5,
                reverse: false,
            },
            Sampling::GREEDY,
            Draw::Sampled,
        ),
        (
            "5",
            Rule::Margin { ratio: 0.5 },
            Sampling::GREEDY,
            Draw::Sampled,
        ),
        ("5", Rule::TYPICAL, warm, Draw::Sampled),
        (
            "5",
            Rule::Threshold { t: 0.2 },
            Sampling::GREEDY,
            Draw::Sampled,
        ),
        ("2x2", Rule::TopK { k: 3 }, Sampling::GREEDY, Draw::Top),
        (
            "5",
            Rule::Sglang {
                single: 0.6,
                accumulated: 0.8,
            },
            warm,
            Draw::Sampled,
        ),
        (
            "5",
            Rule::Synthetic { rate: 0.7 },
            Sampling::GREEDY,
            Draw::Sampled,
        ),
    ];
    // random judges: two layers, two places, both models
    let draft = open(&demo("draft"));
    let both = [Tap::Layer(2), Tap::Final];
    let judges = [
        judge_of_both(&target, None, &both, 7, 2),
        judge_of_both(&target, Some(&draft), &[Tap::Final], 0, 4),
        judge_of_both(&target, Some(&draft), &both, 16, 6),
    ];
    let theta = 0.5;
    let mut ways: Vec<_> = ways.into_iter().map(|way| (way, judge.clone())).collect();
    for (judge, shape) in judges.into_iter().zip(["4", "4", "2x2x1"]) {
        let rule = Rule::Judge { theta };
        ways.push(((shape, rule, Sampling::GREEDY, Draw::Top), judge));
    }
    let drafter = || Drafter::Model(draft.clone());
    let mut cpu = Cpu::open(&setup(&target, drafter(), CONTEXT)).expect("a CPU device");
    let mut cuda = device(&target, drafter());
    let mut judged = 0;
    for ((shape, rule, sampling, draw), judge) in ways {
        let step = Step {
            draw,
            judge: rule.needs_scores().then(|| judge.clone()),
            log_probabilities: true,
            ..Step::new(shape.parse().expect("a shape"), Policy::new(sampling, rule))
        };
        let said = format!("{shape}, {rule}, temperature {}", sampling.temperature);
        let (of_cpu, end) = decode(&mut cpu, &request, std::slice::from_ref(&step)).expect("a run");
        let (of_cuda, end_too) = decode(&mut cuda, &request, &[step]).expect("a run");
        assert_eq!(tokens(&of_cuda), tokens(&of_cpu), "{said}");
        assert_eq!(end_too, end, "{said}");
        for (a, b) in of_cuda.iter().zip(&of_cpu) {
            assert_eq!(a.reason, b.reason, "{said}");
            assert_eq!(
                a.acceptability.is_some(),
                b.acceptability.is_some(),
                "{said}"
            );
            let near = |a: Option<f32>, b: Option<f32>, most: f32| {
                a.zip(b).is_none_or(|(a, b)| (a - b).abs() <= most)
            };
            assert!(
                near(a.acceptability, b.acceptability, 0.05),
                "{said}: {a:?} {b:?}"
            );
            assert!(
                near(a.log_probability, b.log_probability, 0.1),
                "{said}: {a:?} {b:?}"
            );
            judged += usize::from(a.reason == TokenReason::Judged);
        }
    }
    assert!(judged > 5, "{judged} tokens were judged");
}

#[test]
fn the_demo_pair_decodes_as_on_the_cpu_under_every_rule() {
    let test = "step::the_demo_pair_decodes_as_on_the_cpu_under_every_rule";
    with_driver(test, |_| softcuda(), &[], demo_pair);
}

fn ends() {
    let target = open(&fixture(FIXTURES[1]));
    let prompt = prompt(target.config.vocab_size);
    let mut device = device(&target, own_layers(&target, 1));
    let whole = decode(&mut device, &request(&prompt, 40), &[greedy("0")]).expect("a run");
    let whole = tokens(&whole.0);
    let step = [greedy("6")];
    for most in [0, 1, 2, 5, 6, 7] {
        device.start(&request(&prompt, most)).expect("a start");
        let (found, finish) = match most {
            0 => {
                let ticket = device.enqueue(&step[0]).expect("a step");
                let report = device.read(ticket).expect("a report");
                (report.committed, report.finish.expect("an end"))
            }
            _ => decode(&mut device, &request(&prompt, most), &step).expect("a run"),
        };
        assert_eq!(
            (tokens(&found), finish),
            (whole[..most].to_vec(), Finish::Length)
        );
    }
    // a token of the answer ends it where it comes first
    for at in [0, 3, 9] {
        let first = whole
            .iter()
            .position(|&t| t == whole[at])
            .expect("it is there");
        let stopped = Request {
            stop_tokens: vec![299, whole[at]],
            ..request(&prompt, 40)
        };
        let (found, finish) = decode(&mut device, &stopped, &step).expect("a run");
        let expected = match whole[..first].contains(&299) {
            true => continue,
            false => &whole[..=first],
        };
        assert_eq!((&tokens(&found)[..], finish), (expected, Finish::Stop));
    }
    // to the last position of the context
    let (found, finish) = decode(&mut device, &request(&prompt, 1000), &step).expect("a run");
    assert_eq!(
        (found.len(), finish),
        (CONTEXT - prompt.len(), Finish::Context)
    );
    assert_eq!(tokens(&found)[..40], whole);

    // what is said of a token is what the target's logits say
    let want = Want {
        logits: Logits::All,
        ..Want::default()
    };
    device.rollback(0);
    let all = [&prompt[..], &whole[..8]].concat();
    let logits = device
        .pass(&TokenTree::chain(&all), &want)
        .expect("a pass")
        .logits;
    let rows: Vec<&[f32]> = logits.chunks_exact(target.config.vocab_size).collect();
    for (i, committed) in found[..8].iter().enumerate() {
        let expected = LogSoftmax::of(rows[prompt.len() + i - 1]).log(committed.token) as f32;
        let said = committed.log_probability.expect("was asked for");
        assert!(
            (said - expected).abs() < 1e-5,
            "token {i}: {said}, {expected}"
        );
    }
}

#[test]
fn a_sequence_ends_where_it_must() {
    with_driver(
        "step::a_sequence_ends_where_it_must",
        |_| softcuda(),
        &[],
        ends,
    );
}

/// What a run of some tokens did.
fn counted(test: &str, drafter: &str, shape: &str, max_tokens: usize) -> Option<Report> {
    let folder = tempfile::tempdir().expect("a folder");
    let report = folder.path().join("report.json");
    let most = max_tokens.to_string();
    let env = [
        ("SOFTCUDA_REPORT", report.to_str().expect("a path in UTF-8")),
        ("GAVEL_TEST_DRAFTER", drafter),
        ("GAVEL_TEST_SHAPE", shape),
        ("GAVEL_TEST_TOKENS", &*most),
    ];
    let run = || {
        let env = |name: &str| std::env::var(name).expect("set by the parent");
        let target = open(&fixture("llama-odd"));
        let drafter = match &*env("GAVEL_TEST_DRAFTER") {
            "ngram" => Drafter::Ngram(Ngram::default()),
            _ => own_layers(&target, 1),
        };
        let mut device = device(&target, drafter);
        let most = env("GAVEL_TEST_TOKENS").parse().expect("a number");
        let request = request(&prompt(target.config.vocab_size), most);
        let step = Step {
            log_probabilities: false,
            ..greedy(&env("GAVEL_TEST_SHAPE"))
        };
        decode(&mut device, &request, &[step]).expect("a run");
    };
    with_driver(test, |_| softcuda(), &env, run)?;
    let text = std::fs::read_to_string(&report).expect("a report");
    Some(serde_json::from_str(&text).expect("a report"))
}

#[test]
fn a_step_is_one_launch_and_leaves_the_host_alone() {
    let test = "step::a_step_is_one_launch_and_leaves_the_host_alone";
    for (drafter, shape, passes, beyond) in [("self", "3", 4, 3 + 3), ("ngram", "2x2", 1, 1 + 2)] {
        let (Some(short), Some(long)) = (
            counted(test, drafter, shape, 8),
            counted(test, drafter, shape, 24),
        ) else {
            return;
        };
        let what = format!("{drafter}, {shape}");
        let verified = |r: &Report| r.kernels["verify"].launches;
        let steps = verified(&long) - verified(&short);
        assert!(steps > 0, "{what}");
        let [p, q] = [&short.process, &long.process];
        assert_eq!(p.violations.len() + q.violations.len(), 0, "{what}");
        // a step: one graph launch, one wait of the host, no copy, no allocation
        assert_eq!(q.graph_launches - p.graph_launches, steps, "{what}");
        assert_eq!(q.synchronisations - p.synchronisations, steps, "{what}");
        assert_eq!(q.copies, p.copies, "{what}");
        assert_eq!((q.fills, q.allocations), (p.fills, p.allocations), "{what}");
        // what the host is told
        let told = &long.kernels["verify"].counts.memory["reports"];
        let bytes = told.bytes_written as usize / verified(&long) as usize;
        assert!(bytes <= 1024, "{what}: {bytes} bytes a step");
        // greedy decoding reads the parts of the LM head, and no logits
        let verify = &long.kernels["verify"].counts.memory;
        assert!(verify["best logits"].bytes_read > 0, "{what}");
        let logits = verify.get("logits").map_or(0, |t| t.bytes_read);
        assert_eq!(logits, 0, "{what}");
        // launches beyond those of passes, each of which begins with embed
        let of = |r: &Report, kernel: &str| r.kernels.get(kernel).map_or(0, |k| k.launches);
        let more = |kernel: &str| of(&long, kernel) - of(&short, kernel);
        assert_eq!(more("embed"), passes * steps, "{what}");
        let extra = ["verify", "draft", "ngram", "kv_commit"].map(more);
        assert_eq!(
            extra.iter().sum::<u64>(),
            beyond * steps,
            "{what}: {extra:?}"
        );
    }
}

#[test]
fn every_failure_of_a_run_is_said_and_the_next_one_is_whole() {
    let test = "step::every_failure_of_a_run_is_said_and_the_next_one_is_whole";
    let said = on_softcuda(test, &[], || {
        let target = open(&fixture("llama-odd"));
        let request = request(&prompt(target.config.vocab_size), 6);
        let run = || {
            let setup = setup(&target, own_layers(&target, 1), CONTEXT);
            let mut device = Cuda::open(&setup, 0)?;
            decode(&mut device, &request, &[greedy("2")])
        };
        let whole = exact(&run().expect("a run").0);
        let calls = every_failure(
            run,
            |kind, error| println!("{kind}: {error}"),
            |what, (committed, _)| assert_eq!(exact(&committed), whole, "after {what}"),
        );
        println!("{calls:?} calls of each kind");
        assert!(calls.iter().all(|&n| n > 5), "{calls:?}");
    });
    if let Some(said) = said {
        assert!(!said.contains("leak"), "{said}");
    }
}

/// Short generations, some of which nobody waits for.
fn many(count: usize) {
    let target = open(&fixture("llama-odd"));
    let prompt = prompt(target.config.vocab_size);
    let mut random = fastrand::Rng::with_seed(3);
    let gpu = Gpu::open(0).expect("a GPU");
    let free = |gpu: &Arc<Gpu>| gpu.free_bytes().expect("free memory");
    let before = free(&gpu);
    for round in 0..2 {
        let mut device = device(&target, own_layers(&target, 1));
        let steps = ["2", "2x2", "0"].map(greedy);
        let alone = decode(&mut device, &request(&prompt, 6), &steps)
            .expect("a run")
            .0;
        let loaded = free(&gpu);
        for i in 0..count / 2 {
            let request = request(&prompt, 6);
            device.start(&request).expect("a start");
            let mut tickets = Vec::new();
            for _ in 0..random.usize(0..4) {
                tickets.push(device.enqueue(&steps[0]).expect("a step"));
            }
            for ticket in tickets.into_iter().take(random.usize(0..4)) {
                device.read(ticket).expect("a report");
            }
            if i % 10 == 0 {
                let again = decode(&mut device, &request, &steps).expect("a run").0;
                assert_eq!(exact(&again), exact(&alone), "round {round}, run {i}");
            }
        }
        assert_eq!(free(&gpu), loaded, "round {round}");
        drop(device);
        assert_eq!(free(&gpu), before, "round {round}");
    }
}

#[test]
fn a_hundred_generations_and_cancellations_leave_memory_as_it_was() {
    let test = "step::a_hundred_generations_and_cancellations_leave_memory_as_it_was";
    with_driver(test, |_| softcuda(), &[], || many(100));
}

#[test]
fn a_step_that_cannot_be_is_refused() {
    let body = || {
        let target = open(&fixture("llama-odd"));
        let mut device = device(&target, own_layers(&target, 1));
        let refused = |device: &mut Cuda, step: &Step| {
            let error = device.enqueue(step).expect_err("a refusal");
            error.to_string()
        };
        let said = refused(&mut device, &greedy("2"));
        assert!(said.contains("before a sequence was started"), "{said}");
        device.start(&request(&[1, 2, 3], 5)).expect("a start");
        for (step, part) in [
            (greedy("16x16"), "a tree of 272 nodes, expected at most 255"),
            (greedy("70"), "70 tokens on one path, expected at most 63"),
            (
                Step {
                    policy: Arc::new(Policy::new(Sampling::GREEDY, Rule::Block)),
                    ..greedy("2x2")
                },
                "verifies chains",
            ),
            (
                Step {
                    policy: Arc::new(Policy::new(Sampling::GREEDY, Rule::Judge { theta: 0.5 })),
                    ..greedy("2")
                },
                "needs a judge's scores",
            ),
        ] {
            let said = refused(&mut device, &step);
            assert!(said.contains(part), "{said}");
        }
        let ticket = device.enqueue(&greedy("2")).expect("a step");
        assert_eq!(device.read(ticket).expect("a report").depth, 2);
    };
    with_driver(
        "step::a_step_that_cannot_be_is_refused",
        |_| softcuda(),
        &[],
        body,
    );
}
