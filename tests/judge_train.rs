//! Training: what scikit-learn finds, the same on every run; what cannot be trained is
//! refused by name.

mod common;

use common::*;
use gavel::judge::samples::{Method, Prompt, Run, Sample, Shard, Token};
use gavel::judge::train::{
    ClassWeights, HeadKind, Options, Part, Ranking, Shares, Tau, Trained, score, train,
};
use gavel::judge::{Features, Judge, Layout, Meaning, Tap};
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

fn run(method: Method, width: usize) -> Run {
    Run {
        version: Run::VERSION,
        method,
        features: Features::final_hidden(width),
        vocab_size: 320,
        target_fingerprint: "f00d".into(),
        draft_fingerprint: Some("beef".into()),
        ranks: 1,
        suffixes: match method {
            Method::SelfJudge => vec![0, 5, 20],
            _ => Vec::new(),
        },
        settings: BTreeMap::new(),
    }
}

fn sample(prompt: Prompt) -> Sample {
    let token = |id| Token {
        id,
        text: String::new(),
    };
    Sample {
        prompt,
        position: 0,
        rank: 1,
        draft: token(5),
        target: token(6),
        prefix: None,
        suffix: Vec::new(),
        after: None,
        acceptable: None,
        changes_answer: None,
    }
}

/// Samples as SelfJudge and AutoJudge mine them, both labels with noise around one linear
/// truth: `prompts` prompts, the first of every ten without mismatches, up to 4 in others.
fn mined(run: &Run, prompts: usize, seed: u64) -> Shard {
    let mut random = fastrand::Rng::with_seed(seed);
    let width = run.features.len();
    let mut shard = Shard::default();
    for line in 0..prompts {
        let prompt = Prompt::new(line, &format!("{seed}, prompt {line}"));
        shard.prompts.push(prompt.clone());
        for position in 0..if line % 10 == 0 { 0 } else { 1 + line % 4 } {
            let row: Vec<f32> = (0..width)
                .map(|i| random.f32() * (1 + i % 3) as f32)
                .collect();
            let truth = row[0] - row[1] + 0.5 * row[2] - 0.5;
            let mut noise = || random.f32() + random.f32() - 1.0;
            let prefix = truth + noise();
            let mut one = sample(prompt.clone());
            one.position = position;
            if run.method == Method::SelfJudge {
                one.prefix = Some(prefix);
                one.suffix = vec![0.0, 2.0 * truth + noise(), 5.0 * truth + noise()];
                one.after = Some(30);
            } else {
                one.acceptable = Some(truth + noise() > 0.0);
            }
            one.changes_answer = Some(truth + 0.5 * noise() < -0.3);
            shard.samples.push(one);
            shard.features.extend(row);
        }
    }
    shard
}

fn options() -> Options {
    Options {
        c: vec![0.01, 1.0],
        resamples: 200,
        ..Options::default()
    }
}

fn trained(run: &Run, shard: &Shard, options: &Options) -> Trained {
    train(run, shard, options, &mut |_| {}).unwrap()
}

/// Samples of this part.
fn rows(shard: &Shard, options: &Options, part: Part) -> Vec<usize> {
    let of = |i: &usize| {
        let key = &shard.samples[*i].prompt.key;
        options.shares.part(key, options.seed) == part
    };
    (0..shard.samples.len()).filter(of).collect()
}

#[test]
fn scores_and_areas_are_scikit_learns() {
    let bytes = std::fs::read(root().join("tests/fixtures/scikit-learn.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let f32s = |name: &str| -> Vec<f32> {
        let data = file.tensor(name).unwrap().data().as_chunks::<4>().0;
        data.iter().map(|&b| f32::from_le_bytes(b)).collect()
    };
    let f64s = |name: &str| -> Vec<f64> {
        let data = file.tensor(name).unwrap().data().as_chunks::<8>().0;
        data.iter().map(|&b| f64::from_le_bytes(b)).collect()
    };
    let width = file.tensor("x").unwrap().shape()[1];
    // what was fitted to becomes the training part, what was not the validation part
    let mut shard = Shard::default();
    let mut line = 0;
    for (x, y, part) in [
        ("x", "y", Part::Train),
        ("x_new", "y_new", Part::Validation),
    ] {
        for &unacceptable in file.tensor(y).unwrap().data() {
            let prompt = loop {
                line += 1;
                let prompt = Prompt::new(line, &line.to_string());
                if Shares::default().part(&prompt.key, 0) == part {
                    break prompt;
                }
            };
            shard.prompts.push(prompt.clone());
            shard.samples.push(Sample {
                acceptable: Some(unacceptable == 0),
                ..sample(prompt)
            });
        }
        shard.features.extend(f32s(x));
    }
    let new: Vec<usize> = (f32s("x").len() / width..shard.samples.len()).collect();
    let (scores, areas, best) = (f64s("scores"), f64s("auroc"), f64s("best_f1"));
    let mut worst: f64 = 0.0;
    for (k, case) in f64s("cases").chunks(2).enumerate() {
        let options = Options {
            c: vec![case[0]],
            class_weights: match case[1] {
                0.0 => ClassWeights::Balanced,
                1.0 => ClassWeights::Plain,
                weight => ClassWeights::Unacceptable(weight),
            },
            ..options()
        };
        for (method, meaning) in [
            (Method::AutoJudge, Meaning::Important),
            (Method::Labels, Meaning::Acceptable),
        ] {
            let run = run(method, width);
            let trained = trained(&run, &shard, &options);
            assert_eq!(trained.judge.meaning, meaning);
            assert!(trained.report.grid[0].converged, "{case:?}");
            let found = score(&trained.judge, &run, &shard, &new).unwrap();
            for (i, &acceptable) in found.iter().enumerate() {
                let difference = 1.0 - f64::from(acceptable) - scores[k * new.len() + i];
                worst = worst.max(difference.abs());
                assert!(
                    difference.abs() < 1e-3,
                    "{case:?} {method}, row {i}: {difference}"
                );
            }
            let report = &trained.report.validation;
            assert!((report.auroc.value - areas[k]).abs() < 1e-4, "{case:?}");
            let f1 = &report.points[0].at;
            for (found, &expected) in [f1.f1, f1.precision, f1.recall].iter().zip(&best[3 * k..]) {
                assert!((found - expected).abs() < 1e-9, "{case:?}: {f1:?}");
            }
        }
    }
    println!("largest difference of a score: {worst:.1e}");
}

#[test]
fn tau_is_the_lowest_that_one_in_ten_changed_answers_reaches() {
    let run = run(Method::SelfJudge, 4);
    let shard = mined(&run, 3000, 1);
    for (suffix, normalise) in [(None, false), (Some(0), false), (Some(5), true)] {
        let options = Options {
            suffix,
            normalise,
            ..options()
        };
        let report = trained(&run, &shard, &options).report;
        assert_eq!(report.suffix, Some(suffix.unwrap_or(20)));
        let tau = report.tau.unwrap();
        let which = [0, 5, 20].iter().position(|&n| Some(n) == report.suffix);
        let scores: Vec<f32> = rows(&shard, &options, Part::Tau)
            .into_iter()
            .map(|i| &shard.samples[i])
            .filter(|s| s.changes_answer == Some(true))
            .map(|s| s.score(&run, which.unwrap(), normalise).unwrap())
            .collect();
        let reaching = |tau: f32| scores.iter().filter(|&&s| s >= tau).count() as f64;
        let tenth = 0.1 * scores.len() as f64;
        assert!(scores.len() > 50 && tau.changing == scores.len());
        assert!(reaching(tau.value) <= tenth);
        let lower = scores.iter().copied().filter(|&s| s < tau.value);
        assert!(reaching(lower.reduce(f32::max).unwrap()) > tenth);
        assert_eq!(tau.changing_accepted as f64, reaching(tau.value));
        // the labels follow from it
        let acceptable = (0..shard.samples.len())
            .filter(|&i| {
                let score = shard.samples[i].score(&run, which.unwrap(), normalise);
                score.unwrap() >= tau.value
            })
            .count();
        let counted: usize = report.parts.iter().map(|p| p.acceptable).sum();
        assert_eq!(acceptable, counted);
    }
    let value = |tau| {
        let options = Options { tau, ..options() };
        trained(&run, &shard, &options).report.tau.unwrap().value
    };
    assert_eq!(value(Tau::Value(-0.5)), -0.5);
    assert!(value(Tau::Quantile(0.25)) < value(Tau::Quantile(0.75)));
    // noise is symmetric around a change at truth -.3, in scores at about 6 times that
    assert!(
        (value(Tau::Youden) + 1.8).abs() < 1.0,
        "{}",
        value(Tau::Youden)
    );
}

#[test]
fn operating_points_are_what_counting_finds() {
    let run = run(Method::SelfJudge, 4);
    let shard = mined(&run, 2000, 2);
    let options = options();
    let trained = trained(&run, &shard, &options);
    let (judge, report) = (&trained.judge, &trained.report);
    let tau = report.tau.as_ref().unwrap().value;
    let of = rows(&shard, &options, Part::Validation);
    let scored: Vec<(f32, bool)> = of
        .iter()
        .zip(score(judge, &run, &shard, &of).unwrap())
        .map(|(&i, score)| (score, shard.samples[i].score(&run, 2, false).unwrap() < tau))
        .collect();
    let answers = shard
        .prompts
        .iter()
        .filter(|p| options.shares.part(&p.key, 0) == Part::Validation)
        .count();
    assert!(shard.prompts.len() / 20 < answers && answers > report.validation.points.len());
    let count = |theta: f32| {
        let number =
            |f: &dyn Fn(&(f32, bool)) -> bool| scored.iter().filter(|s| f(s)).count() as f64;
        let refused = number(&|&(score, _)| score < theta);
        let rightly = number(&|&(score, bad)| score < theta && bad);
        let bad = number(&|&(_, bad)| bad);
        let precision = if refused == 0.0 {
            1.0
        } else {
            rightly / refused
        };
        (precision, rightly / bad, (bad - rightly) / answers as f64)
    };
    let f1_of = |theta: f32| {
        let (precision, recall, _) = count(theta);
        2.0 * precision * recall / (precision + recall)
    };
    let points = judge.operating_points.unwrap();
    for point in judge
        .curve
        .iter()
        .chain([&points.f1, &points.r90, &points.mid])
    {
        let (precision, recall, harmful) = count(point.theta);
        assert!((f64::from(point.precision) - precision).abs() < 1e-6);
        assert!((f64::from(point.recall) - recall).abs() < 1e-6);
        assert!((f64::from(point.harmful_per_answer) - harmful).abs() < 1e-6);
    }
    let thetas = || scored.iter().map(|&(score, _)| score);
    assert!(thetas().all(|theta| f1_of(theta) <= f1_of(points.f1.theta) + 1e-12));
    assert!(points.r90.recall >= 0.9);
    let less = thetas().filter(|&t| t < points.r90.theta).reduce(f32::max);
    assert!(less.is_none_or(|theta| count(theta).1 < 0.9));
    // this is easy enough to learn, and the common label can be foreseen
    let test = report.test.as_ref().unwrap();
    assert!(test.auroc.value > 0.9 && test.auroc.low < test.auroc.value);
    let common = report.common.unwrap();
    assert!(
        common.auroc.value > 0.8 && common.auroc.high < 1.0,
        "{common:?}"
    );
    let checked = rows(&shard, &options, Part::Test).len();
    assert_eq!(common.changing + common.keeping, checked);
}

#[test]
fn equal_input_gives_equal_judges_on_any_number_of_threads() {
    let run = run(Method::SelfJudge, 40);
    let shard = mined(&run, 800, 3);
    for head in [HeadKind::Linear, HeadKind::TwoLayer(8)] {
        let bytes = |threads: usize, seed: u64| {
            let options = Options {
                head,
                seed,
                ..options()
            };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let trained = pool.unwrap().install(|| trained(&run, &shard, &options));
            let report = serde_json::to_string(&trained.report).unwrap();
            (trained.judge.to_bytes().unwrap(), report)
        };
        assert_eq!(bytes(1, 5), bytes(3, 5), "{head}");
        assert_ne!(bytes(1, 5), bytes(1, 6), "{head}");
    }
}

#[test]
fn a_judge_of_some_features_is_one_mined_with_these_alone() {
    let all = Run {
        features: Features {
            layout: Layout::DdDt,
            taps: vec![Tap::Layer(1), Tap::Final, Tap::Layer(3)],
            target_width: 4,
            draft_width: 3,
        },
        ..run(Method::AutoJudge, 4)
    };
    let shard = mined(&all, 800, 4);
    let subset = |layout, taps: &[Tap], columns: Vec<usize>| {
        let options = Options {
            layout: Some(layout),
            taps: Some(taps.to_vec()),
            ..options()
        };
        let part = trained(&all, &shard, &options);
        let pick = |row: &[f32]| -> Vec<f32> { columns.iter().map(|&c| row[c]).collect() };
        let alone = Shard {
            features: shard.features.chunks(15).flat_map(pick).collect(),
            ..shard.clone()
        };
        let run = Run {
            features: part.judge.features.clone(),
            ..all.clone()
        };
        assert_eq!(part.judge, trained(&run, &alone, &self::options()).judge);
        let rows = [0, 5];
        assert_eq!(
            score(&part.judge, &all, &shard, &rows).unwrap(),
            score(&part.judge, &run, &alone, &rows).unwrap()
        );
    };
    subset(Layout::Dt, &[Tap::Final], (7..11).collect());
    subset(
        Layout::Dt,
        &[Tap::Layer(3), Tap::Layer(1)],
        (11..15).chain(3..7).collect(),
    );
    subset(Layout::DdDt, &[Tap::Layer(1)], (0..7).collect());
}

#[test]
fn limits_shorten_training_and_nothing_else() {
    let run = run(Method::AutoJudge, 4);
    let shard = mined(&run, 1500, 5);
    let parts = |samples, prompts| {
        let options = Options {
            max_samples: samples,
            max_prompts: prompts,
            ..options()
        };
        trained(&run, &shard, &options).report.parts
    };
    let whole = parts(None, None);
    for (samples, prompts) in [(Some(200), None), (None, Some(100)), (Some(50), Some(100))] {
        let limited = parts(samples, prompts);
        assert_eq!(limited[1..], whole[1..]);
        let train = &limited[0];
        assert!(train.prompts <= prompts.unwrap_or(usize::MAX));
        match (samples, prompts) {
            (Some(samples), _) => assert_eq!(train.samples, samples),
            (None, Some(prompts)) => assert_eq!(train.prompts, prompts),
            _ => {}
        }
    }
    assert_eq!(parts(Some(usize::MAX), Some(1 << 40)), whole);
}

#[test]
fn judges_of_one_split_are_compared_pairwise() {
    let run = run(Method::SelfJudge, 4);
    let shard = mined(&run, 1500, 6);
    let of = |suffix| {
        let options = Options {
            suffix: Some(suffix),
            ..options()
        };
        trained(&run, &shard, &options)
    };
    let (short, long) = (of(0), of(20));
    let prompts = short.report.parts[3].prompts;
    let difference = long.common.auroc_difference(&short.common, prompts, 200, 1);
    let expected = long.common.auroc() - short.common.auroc();
    assert!((difference.value - expected).abs() < 1e-12);
    // pairs differ less than either is uncertain
    let wide = long.report.common.unwrap().auroc;
    assert!(difference.high - difference.low < wide.high - wide.low);
}

#[test]
fn what_cannot_be_trained_is_refused_by_name() {
    let selfjudge = run(Method::SelfJudge, 4);
    let autojudge = run(Method::AutoJudge, 4);
    let (of_self, of_auto) = (mined(&selfjudge, 400, 7), mined(&autojudge, 400, 7));
    let changed = |change: &dyn Fn(&mut Sample)| {
        let mut shard = of_self.clone();
        shard.samples.iter_mut().for_each(change);
        shard
    };
    let no_samples = Shard {
        prompts: of_self.prompts.clone(),
        ..Shard::default()
    };
    let mut short = of_self.clone();
    short.features.pop();
    let mut without_label = of_auto.clone();
    without_label.samples[3].acceptable = None;
    let mut one_class = of_auto.clone();
    let seed = options();
    for i in rows(&one_class, &seed, Part::Validation) {
        one_class.samples[i].acceptable = Some(true);
    }
    let with = |change: &dyn Fn(&mut Options)| {
        let mut options = options();
        change(&mut options);
        options
    };
    let plain = options();
    let cases: Vec<(&Run, Shard, Options, &str)> = vec![
        (
            &selfjudge,
            Shard::default(),
            plain.clone(),
            "samples: found no mismatches in the answers to 0 prompts",
        ),
        (
            &selfjudge,
            no_samples,
            plain.clone(),
            "no mismatches in the answers to 400 prompts, expected some; mine more",
        ),
        (
            &selfjudge,
            short,
            plain.clone(),
            "features: found 3679 values for 920 samples, expected 4",
        ),
        (
            &selfjudge,
            changed(&|s| s.prefix = None),
            plain.clone(),
            "score of sample 0 (prompt of line 1, position 0, rank 1): found none",
        ),
        (
            &selfjudge,
            changed(&|s| s.prefix = Some(f32::NAN)),
            plain.clone(),
            "found NaN, expected a number",
        ),
        (
            &selfjudge,
            changed(&|s| s.changes_answer = None),
            plain.clone(),
            "tau: found no substitution that changes the final answer among the",
        ),
        (
            &selfjudge,
            changed(&|s| s.changes_answer = Some(true)),
            with(&|o| o.tau = Tau::Youden),
            "and 0 that keep it in the tau part",
        ),
        (
            &selfjudge,
            of_self.clone(),
            with(&|o| o.tau = Tau::Value(1e9)),
            "the train part: found",
        ),
        (
            &selfjudge,
            of_self.clone(),
            with(&|o| o.tau = Tau::Value(1e9)),
            "0 acceptable and",
        ),
        (
            &selfjudge,
            of_self.clone(),
            with(&|o| o.suffix = Some(7)),
            "suffix: found 7, expected one of those mined, [0, 5, 20]",
        ),
        (
            &selfjudge,
            of_self.clone(),
            with(&|o| o.shares = Shares([0.5, 0.5, 0.0, 0.0])),
            "split: found [0.5, 0.5, 0.0, 0.0], expected four shares",
        ),
        (
            &selfjudge,
            of_self.clone(),
            with(&|o| o.shares = Shares([0.7, 0.0, 0.3, 0.0])),
            "among the 0 samples of the tau part",
        ),
        (
            &selfjudge,
            of_self.clone(),
            with(&|o| o.c = vec![1.0, f64::NAN]),
            "C: found [1.0, NaN]",
        ),
        (
            &selfjudge,
            of_self.clone(),
            with(&|o| o.c.clear()),
            "C: found []",
        ),
        (
            &selfjudge,
            of_self.clone(),
            with(&|o| o.head = HeadKind::TwoLayer(65)),
            "width: found 65, expected 1 to 64",
        ),
        (
            &selfjudge,
            of_self.clone(),
            with(&|o| o.max_samples = Some(0)),
            "the train part: found 0 samples of 0 prompts",
        ),
        (
            &selfjudge,
            of_self.clone(),
            with(&|o| o.layout = Some(Layout::DdDt)),
            "layout: found DD-DT, expected DT",
        ),
        (
            &selfjudge,
            of_self.clone(),
            with(&|o| o.taps = Some(vec![Tap::Layer(9)])),
            "tap: found 9, expected one of those mined, final",
        ),
        (
            &selfjudge,
            of_self.clone(),
            with(&|o| o.taps = Some(Vec::new())),
            "taps: found none",
        ),
        (
            &autojudge,
            without_label,
            plain.clone(),
            "label of sample 3 (prompt of line 2, position 1, rank 1)",
        ),
        (
            &autojudge,
            one_class,
            plain.clone(),
            "the validation part: found",
        ),
        (
            &autojudge,
            of_auto.clone(),
            with(&|o| o.suffix = Some(0)),
            "mined by autojudge",
        ),
        (
            &autojudge,
            of_auto.clone(),
            with(&|o| o.normalise = true),
            "mined by autojudge",
        ),
    ];
    for (run, shard, options, expected) in cases {
        let result = train(run, &shard, &options, &mut |_| {});
        let error = result.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(expected), "{expected}: '{error}'");
    }
    for bad in ["0.5,0.5", "1,-1,1,0", "a,b,c,d", "0.6,0.2,0.3,0.3"] {
        assert!(bad.parse::<Shares>().is_err(), "{bad}");
    }
    for bad in ["quantile=2", "quantile=", "NaN", "best"] {
        assert!(bad.parse::<Tau>().is_err(), "{bad}");
    }
    for bad in ["two-layer=0", "two-layer=65", "deep"] {
        assert!(bad.parse::<HeadKind>().is_err(), "{bad}");
    }
}

#[test]
fn an_empty_test_part_is_no_fault() {
    let run = run(Method::AutoJudge, 4);
    let shard = mined(&run, 600, 8);
    let options = Options {
        shares: Shares([0.7, 0.0, 0.3, 0.0]),
        ..options()
    };
    let trained = trained(&run, &shard, &options);
    assert!(trained.report.test.is_none() && trained.report.common.is_none());
    assert_eq!(trained.test.len(), 0);
    assert_eq!(trained.report.parts[3].prompts, 0);
    assert!(Ranking::default().is_empty());
}

// the command

fn gavel(args: &[&str], code: i32) -> (String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_gavel"))
        .args(args)
        .current_dir(root())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{args:?}\n{out}\n{err}");
    (out, err)
}

/// A run for the demo target on disk, in two shards.
fn write_mined(dir: &Path, prompts: usize) -> Run {
    let target = demo_target();
    let run = Run {
        features: Features::final_hidden(target.config.hidden_size),
        vocab_size: target.config.vocab_size,
        target_fingerprint: target.fingerprint().to_owned(),
        draft_fingerprint: Some(demo_draft().fingerprint().to_owned()),
        ..self::run(Method::SelfJudge, 1)
    };
    run.begin(dir).unwrap();
    for number in 0..2 {
        let shard = mined(&run, prompts / 2, 10 + number as u64);
        shard.write(dir, number).unwrap();
    }
    run
}

#[test]
fn the_command_writes_a_judge_its_curves_and_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let mined = folder.path().join("mined");
    write_mined(&mined, 900);
    let out = folder.path().join("judge.safetensors");
    let (mined, file) = (mined.to_str().unwrap(), out.to_str().unwrap());
    let args = [
        "judge",
        "train",
        mined,
        "--out",
        file,
        "--c",
        "0.001,0.01",
        "--suffix",
        "5",
    ];
    let (table, _) = gavel(&args, 0);
    for expected in [
        "labels of selfjudge, N = 5; linear judge",
        "tau ",
        "answer changes",
        "1e-3",
        "validation, f1",
        "test, r90",
        "AUROC, validation",
        "harmful per answer",
    ] {
        assert!(table.contains(expected), "{expected}\n{table}");
    }
    let judge = Judge::read(&out).unwrap();
    judge.check(&demo_target(), None, false).unwrap();
    assert!(
        judge.method.starts_with("selfjudge, N = 5, tau = "),
        "{}",
        judge.method
    );
    assert!(judge.provenance.contains(mined) && judge.provenance.contains("seed 0"));

    let json = std::fs::read_to_string(folder.path().join("judge.safetensors.curve.json")).unwrap();
    let curves: gavel::judge::train::Curves = serde_json::from_str(&json).unwrap();
    assert_eq!(curves.validation.len(), judge.curve.len());
    assert_eq!(curves.report.suffix, Some(5));
    let picture =
        std::fs::read_to_string(folder.path().join("judge.safetensors.curve.svg")).unwrap();
    for expected in [
        "ROC",
        "recall",
        "precision",
        "chance",
        "test, answer changes, AUROC 0.",
    ] {
        assert!(picture.contains(expected), "{expected}");
    }
    // and again, byte for byte
    let first = std::fs::read(&out).unwrap();
    gavel(&args, 0);
    assert_eq!(std::fs::read(&out).unwrap(), first);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4);

    let (report, _) = gavel(&[&args[..], &["--json"]].concat(), 0);
    let report: gavel::judge::train::Report = serde_json::from_str(&report).unwrap();
    assert_eq!(report, curves.report);

    let (text, _) = gavel(&["judge", "info", file], 0);
    for expected in [
        "linear",
        "selfjudge, N = 5",
        mined,
        "f1 ",
        "r90",
        "mid",
        "after the final norm",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    let draft = ["--draft", "models/demo/draft"];
    let with =
        |model: &'static str| [&["judge", "info", file, "--model", model], &draft[..]].concat();
    let (text, _) = gavel(&with("models/demo/target"), 0);
    assert!(text.contains("models/demo/target: yes"), "{text}");
    let (text, error) = gavel(&["judge", "info", file, "--model", "models/demo/draft"], 2);
    assert!(text.contains("models/demo/draft: no"), "{text}");
    assert!(
        error.contains("the judge does not fit: width of the target"),
        "{error}"
    );
}

#[test]
fn the_command_names_what_it_cannot_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (mined, other, out) = (path("mined"), path("other"), path("judge"));
    let run = write_mined(Path::new(&mined), 300);
    let foreign = Run {
        target_fingerprint: "another".into(),
        ..run
    };
    foreign.begin(Path::new(&other)).unwrap();
    let cases: &[(&[&str], &str)] = &[
        (&[&path("none")], "none"),
        (&[&mined, &other], "do not belong together: target"),
        (&[&other], "no mismatches in the answers to 0 prompts"),
        (&[&mined, "--tau", "worst"], "auto, youden, quantile=Q"),
        (&[&mined, "--tau", "-1e9"], "the train part"),
        (&[&mined, "--split", "1,1,1,1"], "add up to 1"),
        (&[&mined, "--head", "two-layer=99"], "1 to 64"),
        (&[&mined, "--taps", "3"], "one of those mined, final"),
        (&[&mined, "--c", "0"], "numbers above 0"),
    ];
    for (args, expected) in cases {
        let args = [&["judge", "train", "--out", &out], *args].concat();
        let (_, error) = gavel(&args, 2);
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(!Path::new(&out).exists());
    }
    let nowhere = path("nowhere/judge");
    let (_, error) = gavel(&["judge", "train", &mined, "--out", &nowhere], 2);
    assert!(error.contains("found no such folder"), "{error}");
    let (_, error) = gavel(&["judge", "info", "models/demo/target/config.json"], 2);
    assert!(error.contains("config.json"), "{error}");
}
