//! Mining: scores, features and labels are what a plain computation, written here once more,
//! finds; what was interrupted goes on; bad input is refused by name.

mod common;

use common::*;
use gavel::device::cpu::Cpu;
use gavel::device::{Device, Logits, PassOutput, Setup, Want, prefill};
use gavel::draft::{Drafter, Ngram};
use gavel::judge::samples::{self, Method, Prompt, Run, Sample, Shard, shards};
use gavel::judge::{Features, Layout, Tap};
use gavel::mine::{self, Item, Job, Labelled, Mined, Miner, Options, Reader};
use gavel::model::{ChatTemplate, Model, Tokenizer};
use gavel::task::Checker;
use gavel::tree::{Shape, TokenTree};
use gavel::verify::Guard;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Target, drafter and what both are asked.
struct Bench {
    target: Arc<Model>,
    drafter: Drafter,
    context: usize,
    tokenizer: Tokenizer,
    options: Options,
}

fn bench(target: Arc<Model>, drafter: Drafter, layout: Layout, taps: &[Tap]) -> Bench {
    let tokenizer = Tokenizer::open(&target.dir).unwrap();
    let mut guard = target.generation.eos.clone();
    guard.extend(tokenizer.special_ids());
    let context = target.config.max_positions;
    Bench {
        options: Options {
            method: Method::SelfJudge,
            features: Features {
                layout,
                taps: taps.to_vec(),
                target_width: target.config.hidden_size,
                draft_width: match layout {
                    Layout::Dt => 0,
                    Layout::DdDt => drafter.model().unwrap().config.hidden_size,
                },
            },
            suffixes: vec![0, 5, 20],
            ranks: 1,
            max_tokens: 120,
            context,
            stop_tokens: target.generation.eos.clone(),
            guard: guard.into_iter().collect::<Guard>(),
            checker: None,
            baseline: false,
        },
        target,
        drafter,
        context,
        tokenizer,
    }
}

impl Bench {
    fn demo() -> Bench {
        let draft = Drafter::Model(demo_draft());
        bench(demo_target(), draft, Layout::Dt, &[Tap::Final])
    }

    fn device(&self, model: &Arc<Model>, drafter: Drafter) -> Cpu {
        Cpu::open(&Setup {
            target: model.clone(),
            drafter,
            context: self.context,
            threads: 1,
        })
        .unwrap()
    }

    fn miner(&self) -> Miner<'_> {
        let reader = match &self.drafter {
            Drafter::Model(model) => Reader::model(
                Box::new(self.device(model, Drafter::None)),
                self.target.config.vocab_size,
            ),
            _ => Reader::Ngram(Ngram::default()),
        };
        let target = self.device(&self.target, self.drafter.clone());
        Miner::new(
            self.options.clone(),
            &self.tokenizer,
            Box::new(target),
            reader,
        )
    }

    fn plain(&self) -> Plain {
        let draft = self.drafter.model();
        Plain {
            target: self.device(&self.target, Drafter::None),
            draft: draft.map(|model| self.device(model, Drafter::None)),
        }
    }

    /// The features of the last token of a sequence.
    fn features(&self, plain: &mut Plain, ids: &[u32]) -> Vec<f32> {
        let mut features = Vec::new();
        if self.options.features.layout == Layout::DdDt {
            let draft = plain.draft.as_mut().unwrap();
            let width = self.options.features.draft_width;
            let rows = chain(draft, ids, &[]).last_hidden;
            features.extend_from_slice(&rows[rows.len() - width..]);
        }
        let width = self.options.features.target_width;
        let taps = &self.options.features.taps;
        let output = chain(&mut plain.target, ids, taps);
        for tap in taps {
            let rows = match tap {
                Tap::Final => &output.last_hidden,
                Tap::Layer(layer) => &output.taps.iter().find(|(l, _)| l == layer).unwrap().1,
            };
            features.extend_from_slice(&rows[rows.len() - width..]);
        }
        features
    }

    /// Greedy decoding, one token a pass.
    fn greedy(&self, plain: &mut Plain, prompt: &[u32], before: &[u32]) -> Vec<u32> {
        let device = &mut plain.target;
        let mut answer = before.to_vec();
        let all = [prompt, before].concat();
        device.rollback(0);
        prefill(device, &all[..all.len() - 1], &Want::default()).unwrap();
        let mut last = all[all.len() - 1];
        let ended = |answer: &[u32]| {
            answer.len() >= self.options.max_tokens
                || prompt.len() + answer.len() >= self.context
                || answer
                    .last()
                    .is_some_and(|t| self.options.stop_tokens.contains(t))
        };
        while !ended(&answer) {
            let want = Want {
                logits: Logits::Last,
                ..Want::default()
            };
            last = argmax(&prefill(device, &[last], &want).unwrap().logits);
            answer.push(last);
        }
        answer
    }

    /// The drafter's best tokens after each of `ids` from row `from` on.
    fn drafted(&self, plain: &mut Plain, ids: &[u32], from: usize) -> Vec<Vec<u32>> {
        let ranks = self.options.ranks;
        match plain.draft.as_mut() {
            None => {
                let next = |end| Ngram::default().propose(&ids[..end], &Shape::Levels(vec![ranks]));
                (from..ids.len())
                    .map(|end| next(end).tokens().to_vec())
                    .collect()
            }
            Some(draft) => {
                let logits = chain(draft, ids, &[]).logits;
                let rows = logits.chunks(logits.len() / ids.len());
                let best = |row: &[f32]| {
                    let mut ids: Vec<u32> = (0..row.len() as u32).collect();
                    ids.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]));
                    ids.truncate(ranks);
                    ids
                };
                rows.skip(from - 1)
                    .take(ids.len() - from)
                    .map(best)
                    .collect()
            }
        }
    }

    fn guarded(&self, token: u32) -> bool {
        self.options.guard.contains(token)
    }

    fn prompt(&self, text: &str) -> Vec<u32> {
        let template = ChatTemplate::open(&self.target.dir).unwrap().unwrap();
        let text = template.ask(None, text).unwrap();
        self.tokenizer.encode(&text, false).unwrap()
    }

    fn final_answer(&self, answer: &[u32]) -> Option<gavel::task::Answer> {
        let text = self.tokenizer.decode(answer, true);
        self.options.checker.as_ref().unwrap().answer(&text)
    }
}

/// Devices that read one sequence at a time.
struct Plain {
    target: Cpu,
    draft: Option<Cpu>,
}

/// Every row of one sequence.
fn chain(device: &mut Cpu, ids: &[u32], taps: &[Tap]) -> PassOutput {
    let layers = taps.iter().filter_map(|tap| match tap {
        Tap::Final => None,
        Tap::Layer(layer) => Some(*layer),
    });
    let want = Want {
        logits: Logits::All,
        hidden: true,
        taps: layers.collect(),
        ..Want::default()
    };
    device.rollback(0);
    prefill(device, ids, &want).unwrap()
}

/// log P of each token of a sequence given those before it; none for the first.
fn log_likelihoods(device: &mut Cpu, ids: &[u32]) -> Vec<f64> {
    let logits = chain(device, ids, &[]).logits;
    let rows = logits.chunks(logits.len() / ids.len());
    let of = |(row, &next): (&[f32], &u32)| {
        let most = f64::from(row.iter().copied().fold(f32::MIN, f32::max));
        let sum: f64 = row.iter().map(|&z| (f64::from(z) - most).exp()).sum();
        f64::from(row[next as usize]) - most - sum.ln()
    };
    rows.zip(&ids[1..]).map(of).collect()
}

fn problems(count: usize) -> Vec<String> {
    let text = std::fs::read_to_string(root().join("models/demo/problems.jsonl")).unwrap();
    let question = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        value["question"].as_str().unwrap().to_owned()
    };
    text.lines().take(count).map(question).collect()
}

/// A copy of one of the demo pair that may be changed.
fn copy(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(root().join("models/demo").join(name)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

/// A copy that takes longer prompts than one pass does.
fn stretched(name: &str) -> TempDir {
    let folder = copy(name);
    let path = folder.path().join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let long = text.replace(
        "\"max_position_embeddings\": 512",
        "\"max_position_embeddings\": 2048",
    );
    assert_ne!(text, long);
    std::fs::write(path, long).unwrap();
    folder
}

/// Scores and features of one in `every` samples, and which samples there are.
fn check_scores(what: &str, bench: &Bench, prompt: &[u32], mined: &Mined, every: usize) {
    let plain = &mut bench.plain();
    let answer = bench.greedy(plain, prompt, &[]);
    let all = [prompt, &answer].concat();
    let mut expected = Vec::new();
    for (t, best) in bench.drafted(plain, &all, prompt.len()).iter().enumerate() {
        for (i, &token) in best.iter().enumerate() {
            if token != answer[t] && !bench.guarded(token) && !bench.guarded(answer[t]) {
                expected.push((t, i + 1, token, answer[t]));
            }
        }
    }
    let found: Vec<_> = mined
        .samples
        .iter()
        .map(|s| (s.position, s.rank, s.draft.id, s.target.id))
        .collect();
    assert_eq!(found, expected, "{what}");
    assert!(!found.is_empty(), "{what}");

    let width = bench.options.features.len();
    assert_eq!(mined.features.len(), found.len() * width, "{what}");
    let unchanged = log_likelihoods(&mut plain.target, &all);
    let at = |t: usize| prompt.len() + t - 1;
    for (sample, features) in mined
        .samples
        .iter()
        .zip(mined.features.chunks(width))
        .step_by(every)
    {
        let t = sample.position;
        let mut changed = all.clone();
        changed[prompt.len() + t] = sample.draft.id;
        let with = log_likelihoods(&mut plain.target, &changed);
        let prefix = with[at(t)] - unchanged[at(t)];
        let near = |found: f32, expected: f64| (f64::from(found) - expected).abs() < 1e-4;
        assert!(
            near(sample.prefix.unwrap(), prefix),
            "{what} {sample:?}: {prefix}"
        );
        assert_eq!(sample.suffix.len(), bench.options.suffixes.len());
        for (&n, &found) in bench.options.suffixes.iter().zip(&sample.suffix) {
            let end = (at(t) + 1 + n).min(with.len());
            let suffix: f64 = (at(t) + 1..end).map(|i| with[i] - unchanged[i]).sum();
            assert!(near(found, suffix), "{what} N = {n} {sample:?}: {suffix}");
        }
        assert_eq!(sample.after, Some(answer.len() - 1 - t), "{what}");
        let there = bench.features(plain, &changed[..=prompt.len() + t]);
        assert!(
            bits(features) == bits(&there),
            "{what} features of {sample:?}"
        );
    }
}

fn name(line: usize) -> Prompt {
    Prompt::new(line, &line.to_string())
}

#[test]
fn scores_and_features_are_those_of_one_sequence_at_a_time() {
    let texts = problems(3);
    let model = || Drafter::Model(demo_draft());
    let own = Drafter::self_layers(&demo_target(), 2).unwrap();
    // drafter, layout, taps, ranks, suffixes
    type Case = (&'static str, Drafter, Layout, Vec<Tap>, usize, Vec<usize>);
    let cases: Vec<Case> = vec![
        (
            "model",
            model(),
            Layout::Dt,
            vec![Tap::Final],
            1,
            vec![0, 5, 20],
        ),
        (
            "more branches than a pass takes",
            model(),
            Layout::DdDt,
            vec![Tap::Layer(2), Tap::Final],
            8,
            vec![1, 50],
        ),
        (
            "ngram",
            Drafter::Ngram(Ngram::default()),
            Layout::Dt,
            vec![Tap::Layer(1)],
            2,
            vec![20],
        ),
        ("self:2", own, Layout::DdDt, vec![Tap::Layer(4)], 3, vec![0]),
    ];
    for (what, drafter, layout, taps, ranks, suffixes) in cases {
        let mut bench = bench(demo_target(), drafter, layout, &taps);
        bench.options.ranks = ranks;
        bench.options.suffixes = suffixes;
        let mut miner = bench.miner();
        // one after the other: what a prompt leaves in the caches does not touch the next
        for (line, text) in texts.iter().take(2).enumerate() {
            let prompt = bench.prompt(text);
            let passes = miner.counts().passes;
            let mined = miner.mine(&name(line), &prompt).unwrap();
            let passes = miner.counts().passes - passes;
            check_scores(what, &bench, &prompt, &mined, mined.samples.len() / 10 + 1);
            assert!(passes == 1 || ranks > 1, "{what}: {passes} passes");
            assert!(passes > 5 || ranks < 8, "{what}: {passes} passes");
        }
    }
}

#[test]
fn prompts_longer_than_a_pass_are_mined() {
    let (target, draft) = (stretched("target"), stretched("draft"));
    let draft = Drafter::Model(open(draft.path()));
    let mut bench = bench(open(target.path()), draft, Layout::DdDt, &[Tap::Final]);
    bench.options.ranks = 2;
    bench.options.max_tokens = 60;
    let text = problems(30).join(" ");
    let prompt = bench.prompt(&text);
    assert!(prompt.len() > 520, "{}", prompt.len());
    let mut miner = bench.miner();
    for line in 0..2 {
        let prompt = &prompt[line..];
        let mined = miner.mine(&name(line), prompt).unwrap();
        check_scores("long", &bench, prompt, &mined, mined.samples.len() / 4 + 1);
    }
}

#[test]
fn changed_answers_are_those_of_plain_decoding() {
    let mut bench = Bench::demo();
    bench.options.checker = Some(Checker::Hashes);
    let mut seen = [0, 0];
    let mut plain = bench.plain();
    // the second time the answers run into the end of the context
    for (texts, room) in [(problems(3), None), (problems(1), Some(30))] {
        for (line, text) in texts.iter().enumerate() {
            let prompt = bench.prompt(text);
            if let Some(room) = room {
                bench.context = prompt.len() + room;
                bench.options.context = bench.context;
                // every number in a response is an answer
                bench.options.checker = Some(Checker::Gsm8k);
                plain = bench.plain();
            }
            let mined = bench.miner().mine(&name(line), &prompt).unwrap();
            let answer = bench.greedy(&mut plain, &prompt, &[]);
            let original = bench.final_answer(&answer);
            assert!(original.is_some());
            assert_eq!(answer.len(), room.unwrap_or(answer.len()));
            for sample in &mined.samples {
                let before = [&answer[..sample.position], &[sample.draft.id]].concat();
                let changed = bench.greedy(&mut plain, &prompt, &before);
                let changes = bench.final_answer(&changed) != original;
                assert_eq!(sample.changes_answer, Some(changes), "{sample:?}");
                seen[usize::from(changes)] += 1;
            }
        }
    }
    assert!(seen[0] > 5 && seen[1] > 1, "{seen:?}");
}

#[test]
fn the_search_is_autojudges() {
    let mut seen = [0, 0];
    for (layout, count) in [(Layout::Dt, 1), (Layout::DdDt, 2)] {
        let draft = Drafter::Model(demo_draft());
        let mut bench = bench(demo_target(), draft, layout, &[Tap::Final]);
        bench.options.method = Method::AutoJudge;
        bench.options.suffixes = Vec::new();
        bench.options.checker = Some(Checker::Hashes);
        let (mut miner, plain) = (bench.miner(), &mut bench.plain());
        for (line, text) in problems(count).iter().enumerate() {
            let prompt = bench.prompt(text);
            let mined = miner.mine(&name(line), &prompt).unwrap();
            // 2504.20039, algorithm 1
            let mut response = bench.greedy(plain, &prompt, &[]);
            let original = bench.final_answer(&response).unwrap();
            let mut expected = Vec::new();
            let mut t = 0;
            while t < response.len() {
                let all = [&prompt[..], &response].concat();
                let token = bench.drafted(plain, &all, prompt.len() + t)[0][0];
                if token != response[t] && !bench.guarded(token) && !bench.guarded(response[t]) {
                    let put = [&response[..t], &[token]].concat();
                    let changed = bench.greedy(plain, &prompt, &put);
                    let same = bench.final_answer(&changed).as_ref() == Some(&original);
                    let features = bench.features(plain, &[&prompt[..], &put].concat());
                    expected.push((t, token, response[t], same, bits(&features)));
                    if same {
                        response = changed;
                    }
                    seen[usize::from(same)] += 1;
                }
                t += 1;
            }
            let width = bench.options.features.len();
            let rows = mined.features.chunks(width).map(bits);
            let found: Vec<_> = mined
                .samples
                .iter()
                .zip(rows)
                .map(|(s, f)| {
                    (
                        s.position,
                        s.draft.id,
                        s.target.id,
                        s.acceptable.unwrap(),
                        f,
                    )
                })
                .collect();
            assert!(found == expected, "{layout} problem {line}");
            assert!(mined.samples.iter().all(|s| s.prefix.is_none()));
        }
        // an answer without a final answer is dropped, and counted
        bench.options.max_tokens = 5;
        let mut miner = bench.miner();
        let prompt = bench.prompt(&problems(1)[0]);
        assert!(miner.mine(&name(0), &prompt).unwrap().samples.is_empty());
        assert_eq!(miner.counts().unchecked, 1);
    }
    assert!(seen[0] > 0 && seen[1] > 5, "{seen:?}");
}

#[test]
fn responses_that_people_marked_keep_every_token() {
    let taps = [Tap::Layer(3), Tap::Final];
    let draft = Drafter::Model(demo_draft());
    let mut bench = bench(demo_target(), draft, Layout::DdDt, &taps);
    bench.options.method = Method::Labels;
    bench.options.suffixes = Vec::new();
    let prompt = bench.prompt(&problems(1)[0]);
    let tokens = bench
        .tokenizer
        .encode(" First 43 + 24 = 66.", false)
        .unwrap();
    let wrong: Vec<bool> = (0..tokens.len()).map(|t| t % 3 == 1).collect();
    let response = Labelled {
        tokens: tokens.clone(),
        wrong: wrong.clone(),
    };
    let mined = bench
        .miner()
        .mine_labelled(&name(0), &prompt, &response)
        .unwrap();
    assert_eq!(mined.samples.len(), tokens.len());
    let plain = &mut bench.plain();
    let all = [&prompt[..], &tokens].concat();
    let logits = chain(&mut plain.target, &all, &[]).logits;
    let vocab_size = logits.len() / all.len();
    for (t, sample) in mined.samples.iter().enumerate() {
        assert_eq!((sample.position, sample.draft.id), (t, tokens[t]));
        assert_eq!(sample.acceptable, Some(!wrong[t]));
        let row = prompt.len() + t - 1;
        let best = argmax(&logits[row * vocab_size..][..vocab_size]);
        assert_eq!(sample.target.id, best);
        let width = bench.options.features.len();
        let features = bench.features(plain, &all[..=prompt.len() + t]);
        assert!(bits(&mined.features[t * width..][..width]) == bits(&features));
    }
}

/// A run of the library over the first problems, short answers.
fn run_of(bench: &Bench) -> Run {
    Run {
        version: Run::VERSION,
        method: bench.options.method,
        features: bench.options.features.clone(),
        vocab_size: bench.target.config.vocab_size,
        target_fingerprint: bench.target.fingerprint().to_owned(),
        draft_fingerprint: bench.drafter.model().map(|m| m.fingerprint().to_owned()),
        ranks: bench.options.ranks,
        suffixes: bench.options.suffixes.clone(),
        settings: BTreeMap::new(),
    }
}

fn read(dir: &Path) -> Shard {
    samples::read(&[dir.to_owned()]).unwrap().1
}

#[test]
fn a_run_that_was_interrupted_ends_as_one_that_was_not() {
    let mut bench = Bench::demo();
    bench.options.max_tokens = 20;
    let items: Vec<Item> = problems(7)
        .iter()
        .enumerate()
        .map(|(line, text)| Item {
            prompt: Prompt::new(line, text),
            tokens: bench.prompt(text),
            response: None,
        })
        .collect();
    let run = run_of(&bench);
    let mine_into = |out: &Path, stop_after: usize| {
        let mut left = stop_after;
        let job = Job {
            run: &run,
            out,
            items: &items,
        };
        mine::run(&mut bench.miner(), &job, &mut |_| {
            left -= 1;
            left == 0
        })
        .unwrap()
    };
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let summary = mine_into(whole.path(), 100);
    assert!(!summary.interrupted && summary.before == 0);
    assert!(mine_into(parts.path(), 3).interrupted);
    assert_eq!(read(parts.path()).prompts.len(), 3);
    assert!(mine_into(parts.path(), 5).interrupted);
    // the machine failed between the two files of a shard
    let numbers = shards(parts.path()).unwrap();
    assert_eq!(numbers, [0, 1]);
    std::fs::remove_file(parts.path().join("shard-000001.safetensors")).unwrap();
    let summary = mine_into(parts.path(), 100);
    assert!(!summary.interrupted && summary.before == 3);
    let expected = read(whole.path());
    assert!(expected.samples.len() > 7);
    assert_eq!(read(parts.path()), expected);
    assert_eq!(mine_into(parts.path(), 100).before, 7);
    assert_eq!(read(parts.path()), expected);
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gavel"));
    command.args(["judge", "mine", "--threads", "1"]);
    command.args(args).current_dir(root());
    command
}

/// Runs and expects an exit code; returns (standard output, standard error).
fn expect(code: i32, args: &[&str]) -> (String, String) {
    said(code, command(args).output().unwrap(), args)
}

fn said(code: i32, output: Output, args: &[&str]) -> (String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(code), "{args:?}\n{out}\n{err}");
    (out, err)
}

const PAIR: [&str; 4] = [
    "--model",
    "models/demo/target",
    "--draft",
    "models/demo/draft",
];

/// A file of prompts.
fn prompts_file(folder: &Path, prompts: &[String]) -> PathBuf {
    let path = folder.join("prompts.jsonl");
    let lines: String = prompts
        .iter()
        .map(|p| serde_json::json!({ "prompt": p }).to_string() + "\n")
        .collect();
    std::fs::write(&path, lines).unwrap();
    path
}

/// Samples with their features, in the order of the file.
fn sorted(dirs: &[PathBuf]) -> Vec<(Sample, Vec<u32>)> {
    let (run, shard) = samples::read(dirs).unwrap();
    let rows = shard.features.chunks(run.features.len()).map(bits);
    let mut all: Vec<_> = shard.samples.into_iter().zip(rows).collect();
    all.sort_by_key(|(s, _)| (s.prompt.line, s.position, s.rank));
    all
}

#[test]
fn killed_runs_go_on_and_parts_make_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let prompts = prompts_file(folder.path(), &problems(130));
    let dir = |name: &str| folder.path().join(name);
    let args = |out: &str| -> Vec<String> {
        let mut args: Vec<String> = PAIR.map(str::to_owned).to_vec();
        args.extend(["--max-tokens", "6", "--suffix", "0,5", "--prompts"].map(str::to_owned));
        args.push(prompts.to_str().unwrap().to_owned());
        args.extend(["--out".to_owned(), dir(out).to_str().unwrap().to_owned()]);
        args
    };
    let strs = |args: &[String]| -> Vec<String> { args.to_vec() };
    let go = |args: &[String]| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        expect(0, &args)
    };
    go(&args("whole"));
    let whole = sorted(&[dir("whole")]);
    assert!(whole.len() > 100, "{}", whole.len());

    let killed = args("killed");
    let mut child = command(&killed.iter().map(String::as_str).collect::<Vec<_>>())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while !dir("killed").join("shard-000000.safetensors").exists() {
        assert!(began.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let mined = read(&dir("killed")).prompts.len();
    assert!((64..130).contains(&mined), "{mined} prompts before the end");
    let (out, _) = go(&strs(&killed));
    assert!(out.contains(&format!("{mined} prompts were in")), "{out}");
    assert!(sorted(&[dir("killed")]) == whole);

    let parts = ["1/3", "2/3", "3/3"].map(|part| {
        let name = part.replace('/', "-");
        let mut args = args(&name);
        args.extend(["--shard".to_owned(), part.to_owned()]);
        go(&args);
        dir(&name)
    });
    assert!(parts.iter().all(|part| !read(part).prompts.is_empty()));
    assert!(sorted(&parts) == whole);
}

#[test]
fn spans_that_people_marked_become_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("labels.jsonl");
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let out = path("out");
    // characters, not bytes: two of them have several
    let response = "é 43 + 24 = 66. Thén 43 cards";
    let wrong = [[12, 14], [16, 20]];
    let line = serde_json::json!({"prompt": "How many?", "response": response, "wrong": wrong});
    std::fs::write(&file, format!("{line}\n")).unwrap();
    let args = [
        &PAIR[..],
        &["--method", "labels", "--no-chat", "--layout", "DD-DT"],
        &["--prompts", file.to_str().unwrap(), "--out", &out],
    ]
    .concat();
    expect(0, &args);
    let shard = read(&folder.path().join("out"));
    let tokenizer = Tokenizer::open(&root().join("models/demo/target")).unwrap();
    let ids: Vec<u32> = shard.samples.iter().map(|s| s.draft.id).collect();
    assert_eq!(tokenizer.decode(&ids, false), response);
    // the text up to a token and up to the next give its characters
    for (t, sample) in shard.samples.iter().enumerate() {
        let whole = |text: &str| text.trim_end_matches('\u{fffd}').chars().count();
        let start = whole(&tokenizer.decode(&ids[..t], false));
        let end = whole(&tokenizer.decode(&ids[..=t], false)).max(start + 1);
        let bad = wrong.iter().any(|&[a, b]| start < b && a < end);
        assert_eq!(sample.acceptable, Some(!bad), "{sample:?} {start}..{end}");
    }
    let bad = |s: &&Sample| s.acceptable == Some(false);
    assert!(shard.samples.iter().filter(bad).count() >= 2);
}

/// Puts NaN where a checkpoint embeds a token. Its head, which shared the embedding, gets the
/// sound one: only prompts with that token are spoilt.
fn spoil(dir: &Path, token: u32) {
    let path = dir.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let (mut header, mut data): (serde_json::Value, _) = (
        serde_json::from_slice(&bytes[8..8 + length]).unwrap(),
        bytes[8 + length..].to_vec(),
    );
    let mut entry = header["model.embed_tokens.weight"].clone();
    assert_eq!(entry["dtype"], "BF16");
    let width = entry["shape"][1].as_u64().unwrap() as usize;
    let offset = |i: usize| entry["data_offsets"][i].as_u64().unwrap() as usize;
    let (start, end) = (offset(0), offset(1));
    let head = data[start..end].to_vec();
    entry["data_offsets"] = serde_json::json!([data.len(), data.len() + head.len()]);
    header["lm_head.weight"] = entry;
    data.extend(head);
    let at = start + 2 * width * token as usize;
    data[at..at + 2].copy_from_slice(&0x7fc0u16.to_le_bytes());
    let header = header.to_string();
    let length = (header.len() as u64).to_le_bytes();
    std::fs::write(path, [&length, header.as_bytes(), &data].concat()).unwrap();
    let config = dir.join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let untied = text.replace(
        "\"tie_word_embeddings\": true",
        "\"tie_word_embeddings\": false",
    );
    assert_ne!(text, untied);
    std::fs::write(config, untied).unwrap();
}

#[test]
fn numbers_that_are_none_end_a_run_and_keep_what_was_mined() {
    let folder = tempfile::tempdir().unwrap();
    let mut texts = problems(3);
    texts[2] += " @";
    let prompts = prompts_file(folder.path(), &texts);
    let out = folder.path().join("out");
    let tokenizer = Tokenizer::open(&root().join("models/demo/draft")).unwrap();
    let token = *tokenizer.encode(&texts[2], false).unwrap().last().unwrap();
    assert!(
        texts[..2]
            .iter()
            .all(|t| !tokenizer.encode(t, false).unwrap().contains(&token))
    );
    let draft = copy("draft");
    spoil(draft.path(), token);
    let args = |model: &str, draft: &str, layout: &str, out: &Path| {
        let args = ["--model", model, "--draft", draft, "--layout", layout];
        let args = args.map(str::to_owned).to_vec();
        let rest = [
            "--prompts",
            prompts.to_str().unwrap(),
            "--out",
            out.to_str().unwrap(),
        ];
        let args = [args, rest.map(str::to_owned).to_vec()].concat();
        expect(2, &args.iter().map(String::as_str).collect::<Vec<_>>()).1
    };
    let error = args(PAIR[1], draft.path().to_str().unwrap(), "DD-DT", &out);
    for part in [
        "line 3",
        "logit of the drafter",
        "found NaN, expected a finite number",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let kept = read(&out);
    assert_eq!(kept.prompts.len(), 2);
    assert!(!kept.samples.is_empty());

    let target = copy("target");
    spoil(target.path(), token);
    let error = args(
        target.path().to_str().unwrap(),
        PAIR[3],
        "DT",
        &folder.path().join("2"),
    );
    assert!(
        error.contains("line 3") && error.contains("is NaN"),
        "{error}"
    );
}

#[test]
fn bad_input_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let prompts = prompts_file(folder.path(), &problems(2));
    let prompts = prompts.to_str().unwrap();
    let out = folder.path().join("out").to_str().unwrap().to_owned();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let no_json = write("no.jsonl", "{\"prompt\": \"a\"}\n\n{\"prompt\": 3}\n");
    let empty = write("empty.jsonl", "\n");
    let labels = write(
        "labels.jsonl",
        "{\"prompt\": \"a\", \"response\": \"abc\", \"wrong\": [[2, 4]]}\n",
    );
    let binary = folder.path().join("binary.jsonl");
    std::fs::write(&binary, b"{\"prompt\": \"\xff\"}").unwrap();
    let long = write(
        "long.jsonl",
        &format!("{{\"prompt\": \"{}\"}}\n", problems(40).join(" ")),
    );
    type Case<'a> = (&'a [&'a str], &'a [&'a str]);
    let cases: &[Case] = &[
        (
            &["--prompts", &no_json],
            &["no.jsonl, line 3", "expected a string"],
        ),
        (&["--prompts", &empty], &["empty.jsonl: 0 prompts"]),
        (
            &["--prompts", binary.to_str().unwrap()],
            &["binary.jsonl: byte 12 is not UTF-8"],
        ),
        (&["--prompts", "none.jsonl"], &["none.jsonl"]),
        (
            &["--prompts", &long],
            &["long.jsonl, line 1", "the context holds 512"],
        ),
        (
            &["--prompts", prompts, "--context", "20"],
            &["line 1", "the context holds 20"],
        ),
        (
            &["--prompts", prompts, "--method", "labels"],
            &["prompts.jsonl, line 1", "no response"],
        ),
        (
            &["--prompts", &labels, "--method", "labels"],
            &["labels.jsonl, line 1", "[2, 4]", "<= 3"],
        ),
        (
            &[
                "--prompts",
                prompts,
                "--method",
                "autojudge",
                "--checker",
                "hashes",
                "--ranks",
                "2",
            ],
            &["--ranks 2", "autojudge"],
        ),
        (
            &["--prompts", &labels, "--method", "labels", "--ranks", "2"],
            &["--ranks 2", "labels"],
        ),
        (
            &["--prompts", prompts, "--ranks", "0"],
            &["--ranks 0", "1 to 64"],
        ),
        (
            &["--prompts", prompts, "--method", "autojudge"],
            &["--task or --checker"],
        ),
        (
            &["--prompts", prompts, "--suffix", "257"],
            &["--suffix 257", "at most 256"],
        ),
        (
            &["--prompts", prompts, "--taps", "5"],
            &["--taps 5", "has 4 layers"],
        ),
        (
            &["--prompts", prompts, "--taps", "final,final"],
            &["final twice"],
        ),
        (
            &["--prompts", prompts, "--shard", "3/2"],
            &["I from 1 to N"],
        ),
        (
            &["--prompts", prompts, "--offset", "2"],
            &["2 prompts, none of them"],
        ),
    ];
    for (args, expected) in cases {
        let all = [&PAIR[..], args, &["--out", &out]].concat();
        let (_, error) = expect(2, &all);
        for part in *expected {
            assert!(error.contains(part), "{args:?}: {part}: {error}");
        }
        assert!(!Path::new(&out).exists(), "{args:?}");
    }
    let target = ["--model", PAIR[1], "--prompts", prompts, "--out", &out];
    for (draft, layout, expected) in [
        ("ngram", "DD-DT", "n-gram lookup has none"),
        ("none", "DT", "mismatches need a drafter"),
        ("self:x", "DT", "'x' is no number of layers"),
    ] {
        let args = [&target[..], &["--draft", draft, "--layout", layout]].concat();
        let (_, error) = expect(2, &args);
        assert!(error.contains(expected), "{error}");
    }

    // a target that drafts for itself never errs: said, and refused in training
    let same = folder.path().join("same");
    let small = ["--prompts", prompts, "--max-tokens", "8"];
    let args = [
        &[
            "--model",
            PAIR[1],
            "--draft",
            PAIR[1],
            "--out",
            same.to_str().unwrap(),
        ],
        &small[..],
    ]
    .concat();
    assert!(expect(0, &args).0.contains("no mismatches were found"));
    let train = |dirs: &[&str]| {
        let out = folder.path().join("judge");
        let mut command = Command::new(env!("CARGO_BIN_EXE_gavel"));
        command.args(["judge", "train"]).args(dirs).arg("--out");
        said(2, command.arg(&out).output().unwrap(), dirs).1
    };
    let error = train(&[same.to_str().unwrap()]);
    assert!(error.contains("no mismatches"), "{error}");

    // another run in the same folder, and runs of different models in one training
    let into = ["--out", &out];
    let args = [&PAIR[..], &small, &into].concat();
    expect(0, &args);
    let before = read(Path::new(&out));
    let (_, error) = expect(2, &[&args[..], &["--suffix", "0,3"]].concat());
    assert!(
        error.contains("run.json: suffixes: found [20], expected [0, 3]"),
        "{error}"
    );
    let mut other = args.clone();
    other[7] = "9";
    let (_, error) = expect(2, &other);
    assert!(error.contains("max_tokens: found 8, expected 9"), "{error}");
    assert_eq!(read(Path::new(&out)), before);
    let error = train(&[&out, same.to_str().unwrap()]);
    assert!(error.contains("do not belong together: drafter"), "{error}");
}

#[test]
#[cfg(unix)]
fn two_runs_do_not_share_a_folder() {
    let bench = Bench::demo();
    let folder = tempfile::tempdir().unwrap();
    let text = &problems(1)[0];
    let items = [Item {
        prompt: Prompt::new(0, text),
        tokens: bench.prompt(text),
        response: None,
    }];
    let run = run_of(&bench);
    let job = Job {
        run: &run,
        out: folder.path(),
        items: &items,
    };
    let mut inner = None;
    mine::run(&mut bench.miner(), &job, &mut |_| {
        inner = Some(mine::run(&mut bench.miner(), &job, &mut |_| false));
        false
    })
    .unwrap();
    let error = inner.unwrap().unwrap_err().to_string();
    assert!(
        error.contains("another run is mining into this folder"),
        "{error}"
    );
    // the lock goes with its holder
    mine::run(&mut bench.miner(), &job, &mut |_| false).unwrap();
    let rows = TokenTree::chain(&items[0].tokens);
    assert!(rows.len() > 1 && read(folder.path()).prompts.len() == 1);
}
