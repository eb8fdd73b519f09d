//! The judge file: what is written is read, what does not fit is refused.

use std::path::{Path, PathBuf};

use gavel::judge::{
    At, CurvePoint, Features, Head, Judge, JudgeError, Layout, MAX_WIDTH, Meaning, OperatingPoint,
    OperatingPoints, Tap, gelu,
};
use gavel::model::Model;
use proptest::prelude::*;
use serde_json::{Value, json};

fn demo(name: &str) -> Model {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("models/demo")
        .join(name);
    Model::open(&path).unwrap()
}

fn point(theta: f32) -> OperatingPoint {
    OperatingPoint {
        theta,
        precision: 0.5,
        recall: 0.9,
        harmful_per_answer: 0.25,
    }
}

fn harmful(theta: f32, harmful_per_answer: f32) -> OperatingPoint {
    OperatingPoint {
        harmful_per_answer,
        ..point(theta)
    }
}

fn linear() -> Judge {
    Judge {
        head: Head::Linear {
            w: vec![0.5, -1.0, 2.0],
            b: 0.25,
        },
        meaning: Meaning::Acceptable,
        features: Features::final_hidden(3),
        vocab_size: 512,
        target_fingerprint: "f00d".into(),
        draft_fingerprint: None,
        method: "SelfJudge, N = 20".into(),
        provenance: "made \"by hand\" \n for tests".into(),
        operating_points: Some(OperatingPoints {
            f1: point(0.5),
            r90: point(0.8),
            mid: point(2.0 / 3.0),
        }),
        curve: vec![harmful(0.1, 2.0), point(0.5), harmful(0.8, 0.125)],
    }
}

fn two_layer() -> Judge {
    Judge {
        head: Head::TwoLayer {
            w1: vec![1.0, 0.0, -1.0, 0.5, 0.5, 0.5, 0.0, 2.0, 0.0, 0.0, 0.0, 1.0],
            b1: vec![0.1, -0.2],
            w2: vec![1.5, -0.5],
            b2: 0.3,
        },
        meaning: Meaning::Important,
        features: Features {
            layout: Layout::DdDt,
            taps: vec![Tap::Layer(2), Tap::Final],
            target_width: 2,
            draft_width: 2,
        },
        draft_fingerprint: Some("beef".into()),
        operating_points: None,
        curve: Vec::new(),
        ..linear()
    }
}

#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("judge.safetensors");
    for judge in [linear(), two_layer()] {
        judge.write(&path).unwrap();
        assert_eq!(Judge::read(&path).unwrap(), judge);
        assert_eq!(
            judge.to_bytes().unwrap(),
            std::fs::read(&path).unwrap(),
            "bit for bit"
        );
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1);
}

#[test]
fn a_judge_that_cannot_be_written_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("judge.safetensors");
    let mut broken = linear();
    broken.vocab_size = 0;
    assert!(matches!(
        broken.write(&path),
        Err(JudgeError::Invalid { .. })
    ));
    assert!(!path.exists());
    if cfg!(target_os = "linux") {
        let error = linear().write(Path::new("/dev/full")).unwrap_err();
        assert!(
            matches!(&error, JudgeError::Output(e) if e.is_disk_full()),
            "{error}"
        );
        assert!(
            error
                .to_string()
                .contains("/dev/full: cannot be written: No space left"),
            "{error}"
        );
    }
}

#[test]
fn scores_are_probabilities_that_a_token_is_acceptable() {
    let judge = linear();
    // 0.5 * 1 - 1 * 2 + 2 * 0.5 + 0.25 = -0.25
    let expected = 1.0 / (1.0 + 0.25f64.exp());
    assert!((f64::from(judge.score(&[1.0, 2.0, 0.5])) - expected).abs() < 1e-7);
    let important = Judge {
        meaning: Meaning::Important,
        ..judge.clone()
    };
    let sum = judge.score(&[1.0, 2.0, 0.5]) + important.score(&[1.0, 2.0, 0.5]);
    assert!((sum - 1.0).abs() < 1e-6);
    // far out it is 0 or 1, never NaN
    assert_eq!(judge.score(&[0.0, 1e30, 0.0]), 0.0);
    assert_eq!(judge.score(&[0.0, -1e30, 0.0]), 1.0);

    let judge = two_layer();
    let f = [0.5f32, 1.0, -0.5, 0.25, 2.0, 4.0];
    // rows of W1 are [1, 0, -1, .5, .5, .5] and [0, 2, 0, 0, 0, 1]
    let hidden = [0.5 + 0.5 + 0.125 + 1.0 + 2.0 + 0.1, 2.0 + 4.0 - 0.2];
    let logit = 1.5 * gelu(hidden[0]) - 0.5 * gelu(hidden[1]) + 0.3;
    let expected = 1.0 - 1.0 / (1.0 + (-logit).exp());
    assert!((f64::from(judge.score(&f)) - expected).abs() < 1e-6);
}

/// Of `torch.nn.functional.gelu(x, approximate="tanh")`.
#[test]
fn gelu_has_its_known_values() {
    for (x, expected) in [
        (0.0, 0.0),
        (1.0, 0.841_191_990_6),
        (-1.0, -0.158_808_009_4),
        (3.0, 2.996_362_607_9),
        (-10.0, 0.0),
        (10.0, 10.0),
    ] {
        assert!((gelu(x) - expected).abs() < 1e-9, "{x}: {}", gelu(x));
    }
}

#[test]
fn folding_is_standardising() {
    let (mean, std) = ([1.0, -2.0, 0.5], [2.0, 0.5, 0.0]);
    for judge in [
        linear(),
        Judge {
            features: Features::final_hidden(3),
            head: Head::TwoLayer {
                w1: vec![1.0, -0.5, 0.25, 0.0, 2.0, 1.0],
                b1: vec![0.5, -0.5],
                w2: vec![1.0, 0.75],
                b2: -0.1,
            },
            ..linear()
        },
    ] {
        let mut folded = judge.clone();
        folded.fold(&mean, &std).unwrap();
        for x in [[0.0, 0.0, 0.0], [1.0, -2.0, 0.5], [3.0, 1.0, -1.0]] {
            let standardised = [(x[0] - 1.0) / 2.0, (x[1] + 2.0) / 0.5, x[2] - 0.5];
            assert!((folded.score(&x) - judge.score(&standardised)).abs() < 1e-6);
        }
    }
    let mut judge = linear();
    for (mean, std) in [
        (&[0.0; 2][..], &[1.0; 3][..]),
        (&[0.0; 3], &[1.0, 1.0, -1.0]),
        (&[0.0, f32::NAN, 0.0], &[1.0; 3]),
        (&[0.0; 3], &[1.0, 1.0, f32::INFINITY]),
        (&[1e30; 3], &[1e-30; 3]),
    ] {
        assert!(judge.fold(mean, std).is_err());
        assert_eq!(judge, linear(), "a failed fold changes nothing");
    }
}

#[test]
fn thresholds_are_chosen_by_name_or_number() {
    let judge = linear();
    for (at, theta) in [
        ("f1", 0.5),
        ("r90", 0.8),
        ("mid", 2.0 / 3.0),
        ("budget=1e9", 0.1),
        ("budget=0.25", 0.5),
        ("budget=0.2", 0.8),
        ("budget=0", 0.8),
        ("0.75", 0.75),
        ("0", 0.0),
        ("1", 1.0),
    ] {
        assert_eq!(judge.theta(at.parse().unwrap()).unwrap(), theta, "{at}");
    }
    for at in [
        "",
        "F1",
        "1.5",
        "-0.1",
        "NaN",
        "r95",
        "budget=",
        "budget=-1",
        "budget=inf",
    ] {
        let message = at.parse::<At>().unwrap_err().to_string();
        assert!(
            message.contains(&format!("'{at}': expected f1, r90, mid, budget=B")),
            "{message}"
        );
    }
    let message = two_layer().theta(At::R90).unwrap_err().to_string();
    assert!(message.contains("no operating point 'r90'"), "{message}");
    let message = two_layer().theta(At::Budget(0.1)).unwrap_err().to_string();
    assert!(message.contains("no operating point 'budget'"), "{message}");
}

#[test]
fn a_judge_must_fit_the_loaded_models() {
    let (target, draft) = (demo("target"), demo("draft"));
    let fitting = Judge {
        head: Head::Linear {
            w: vec![0.0; 256],
            b: 0.0,
        },
        features: Features::final_hidden(256),
        vocab_size: 512,
        target_fingerprint: target.fingerprint().to_owned(),
        ..linear()
    };
    fitting.check(&target, None, false).unwrap();
    fitting.check(&target, Some(&draft), false).unwrap();
    let both = Judge {
        head: Head::Linear {
            w: vec![0.0; 128 + 2 * 256],
            b: 0.0,
        },
        features: Features {
            layout: Layout::DdDt,
            taps: vec![Tap::Final, Tap::Layer(4)],
            target_width: 256,
            draft_width: 128,
        },
        draft_fingerprint: Some(draft.fingerprint().to_owned()),
        ..fitting.clone()
    };
    both.to_bytes().unwrap();
    both.check(&target, Some(&draft), false).unwrap();

    let taps = |taps: Vec<Tap>| Features {
        taps,
        ..fitting.features.clone()
    };
    let dir = |model: &Model| model.dir.display().to_string();
    let (target_dir, draft_dir) = (dir(&target), dir(&draft));
    // judge, foreign target allowed, drafter loaded, parts of the message (none: it fits)
    #[rustfmt::skip]
    let table: Vec<(Judge, bool, bool, Vec<&str>)> = vec![
        (
            Judge {
                features: Features::final_hidden(576),
                ..fitting.clone()
            },
            true,
            true,
            vec![
                "width of the target: the judge has 576",
                &target_dir,
                "has hidden_size 256",
            ],
        ),
        (Judge { features: taps(vec![Tap::Layer(5)]),..fitting.clone() }, true, true, vec!["the judge has a tap after layer 5", "has 4 layers"]),
        (Judge { vocab_size: 513,..fitting.clone() }, false, true, vec!["vocabulary: the judge has 513 tokens", &target_dir, "has 512", "--allow-foreign-target"]),
        (Judge { vocab_size: 513,..fitting.clone() }, true, true, vec![]),
        (
            Judge {
                target_fingerprint: "f00d".into(),
                ..fitting.clone()
            },
            false,
            true,
            vec![
                "target: the judge has fingerprint f00d",
                target.fingerprint(),
                "--allow-foreign-target",
            ],
        ),
        (Judge { target_fingerprint: "f00d".into(),..fitting.clone() }, true, true, vec![]),
        (both.clone(), false, false, vec!["layout: the judge has DD-DT", "the drafter has none", "give a draft model"]),
        (
            Judge {
                features: Features {
                    draft_width: 64,
                    ..both.features.clone()
                },
                ..both.clone()
            },
            true,
            true,
            vec![
                "width of the drafter: the judge has 64",
                &draft_dir,
                "has hidden_size 128",
            ],
        ),
        (Judge { draft_fingerprint: Some("beef".into()),..both.clone() }, false, true, vec!["drafter: the judge has fingerprint beef", draft.fingerprint()]),
        (Judge { draft_fingerprint: Some("beef".into()),..both.clone() }, true, true, vec![]),
        (Judge { draft_fingerprint: Some("beef".into()),..fitting.clone() }, false, true, vec![]),
    ];
    for (judge, foreign, drafter, parts) in table {
        let result = judge.check(&target, drafter.then_some(&draft), foreign);
        let message = result.map_or_else(|e| e.to_string(), |()| String::new());
        assert_eq!(message.is_empty(), parts.is_empty(), "{message}");
        for part in parts {
            assert!(message.contains(part), "no '{part}' in: {message}");
        }
    }
    // a drafter that is the target's own first layers is another model than the target
    let own = target.truncated(2).unwrap();
    assert!(fitting.check(&own, None, false).is_err());
}

#[test]
fn parts_that_do_not_agree_are_refused() {
    #[rustfmt::skip]
    let table: Vec<(&str, Judge, &str)> = vec![
        ("w too short", Judge { head: Head::Linear { w: vec![1.0; 2], b: 0.0, },..linear() }, "w: found 2 values, expected 3"),
        ("w NaN", Judge { head: Head::Linear { w: vec![1.0, f32::NAN, 0.0], b: 0.0, },..linear() }, "w: found NaN at 1, expected finite"),
        ("b infinite", Judge { head: Head::Linear { w: vec![1.0; 3], b: f32::INFINITY, },..linear() }, "b: found inf at 0"),
        ("no taps", Judge { features: Features { taps: vec![],..linear().features },..linear() }, "taps: found [], expected at least one"),
        ("a tap twice", Judge { features: Features { taps: vec![Tap::Final, Tap::Final],..linear().features },..linear() }, "taps: found [final, final]"),
        ("width 0", Judge { features: Features::final_hidden(0),..linear() }, "target width 0"),
        ("width absurd", Judge { features: Features::final_hidden(usize::MAX),..linear() }, "widths up to 131072"),
        ("DT with a drafter", Judge { features: Features { draft_width: 4,..linear().features },..linear() }, "draft width: found 4 with layout DT"),
        ("DD-DT without", Judge { features: Features { layout: Layout::DdDt,..linear().features },..linear() }, "draft width: found 0 with layout DD-DT"),
        ("no fingerprint", Judge { target_fingerprint: String::new(),..linear() }, "target_fingerprint: found nothing"),
        (
            "too wide",
            Judge {
                head: Head::TwoLayer {
                    w1: vec![0.0; 3 * 65],
                    b1: vec![0.0; 65],
                    w2: vec![0.0; MAX_WIDTH + 1],
                    b2: 0.0,
                },
                ..linear()
            },
            "w2: found width 65, expected a width from 1 to 64",
        ),
        ("no width", Judge { head: Head::TwoLayer { w1: vec![], b1: vec![], w2: vec![], b2: 0.0, },..linear() }, "w2: found width 0"),
        ("w1 too short", Judge { head: Head::TwoLayer { w1: vec![0.0; 5], b1: vec![0.0; 2], w2: vec![0.0; 2], b2: 0.0, },..linear() }, "w1: found 5 values, expected 6"),
        (
            "theta above 1",
            Judge {
                operating_points: Some(OperatingPoints {
                    f1: point(1.5),
                    r90: point(0.0),
                    mid: point(0.0),
                }),
                ..linear()
            },
            "operating point f1: found OperatingPoint { theta: 1.5",
        ),
        ("harm below 0", Judge { curve: vec![CurvePoint { harmful_per_answer: -1.0,..point(0.5) }],..linear() }, "curve, point 0: found"),
        ("precision NaN", Judge { curve: vec![CurvePoint { precision: f32::NAN,..point(0.5) }],..linear() }, "precision: NaN"),
        ("curve not ascending", Judge { curve: vec![point(0.5), point(0.4)],..linear() }, "curve, point 1: found theta 0.4 after 0.5"),
    ];
    for (case, judge, expected) in table {
        let message = judge.to_bytes().unwrap_err().to_string();
        assert!(message.contains(expected), "{case}: {message}");
    }
}

/// Splits a judge file into its description and its data, and puts both together again.
fn edit(judge: &Judge, change: impl FnOnce(&mut Value, &mut Value)) -> Vec<u8> {
    let file = judge.to_bytes().unwrap();
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    let text = header["__metadata__"]["gavel_judge"].as_str().unwrap();
    let mut description: Value = serde_json::from_str(text).unwrap();
    change(&mut header, &mut description);
    if header.pointer("/__metadata__/gavel_judge").is_some() {
        header["__metadata__"]["gavel_judge"] = description.to_string().into();
    }
    let header = header.to_string();
    let length = (header.len() as u64).to_le_bytes();
    [
        &length[..],
        header.as_bytes(),
        &file[8 + length_of(&file)..],
    ]
    .concat()
}

fn length_of(file: &[u8]) -> usize {
    u64::from_le_bytes(file[..8].try_into().unwrap()) as usize
}

#[test]
fn files_that_are_no_judge_are_refused() {
    let j = linear();
    #[rustfmt::skip]
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "judge.safetensors: found a file of 0 bytes"),
        ("cut", j.to_bytes().unwrap()[..400].to_vec(), "judge.safetensors: found a header length"),
        ("a model", std::fs::read(demo("draft").dir.join("model.safetensors")).unwrap(), "metadata: found no key 'gavel_judge'"),
        ("no metadata", edit(&j, |h, _| { h.as_object_mut().unwrap().remove("__metadata__"); }), "metadata: found no key"),
        ("another version", edit(&j, |_, d| { d["version"] = 2.into(); d["new"] = 1.into(); }), "version: found 2, expected 1"),
        ("no version", edit(&j, |_, d| *d = json!({})), "missing field `version`"),
        ("no JSON", edit(&j, |_, d| *d = "}".into()), "gavel_judge: found invalid type"),
        ("another kind", edit(&j, |_, d| d["kind"] = "cubic".into()), "unknown variant `cubic`"),
        ("another layout", edit(&j, |_, d| d["features"]["layout"] = "TD".into()), "unknown variant `TD`"),
        ("another tap", edit(&j, |_, d| d["features"]["taps"] = json!(["first"])), "tap 'first': expected 'final' or a number of layers from 1"),
        ("tap 0", edit(&j, |_, d| d["features"]["taps"] = json!(["0"])), "tap '0'"),
        ("a field more", edit(&j, |_, d| d["bias"] = 1.into()), "unknown field `bias`"),
        ("a negative width", edit(&j, |_, d| d["features"]["target_width"] = json!(-3)), "invalid value: integer `-3`"),
        ("another width", edit(&j, |_, d| d["features"]["target_width"] = 4.into()), "w: found 3 values, expected 4, as the features ask for"),
        ("a kind that lies", edit(&j, |_, d| d["kind"] = "two-layer".into()), "w1: found no such tensor"),
        ("a tensor renamed", edit(&j, |h, _| { let w = h.as_object_mut().unwrap().remove("w").unwrap(); h["v"] = w; }), "w: found no such tensor"),
        ("another dtype", edit(&j, |h, _| { h["w"]["dtype"] = "I32".into(); }), "w: found I32 [3], expected F32 with 1 dimensions"),
        ("two biases", edit(&two_layer(), |h, _| { let b = h["b1"].clone(); let c = h["b2"].clone(); h["b2"] = b; h["b1"] = c; }), "b2: found 2 values, expected 1"),
        ("a matrix on its side", edit(&two_layer(), |h, _| h["w1"]["shape"] = json!([6, 2])), "w1: found [6, 2], expected [2, 6]"),
        ("a narrow curve", edit(&j, |h, _| h["curve"]["shape"] = json!([4, 3])), "curve: found [4, 3], expected [points, 4]"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("judge.safetensors");
    for (case, bytes, expected) in table {
        std::fs::write(&path, bytes).unwrap();
        let message = Judge::read(&path).unwrap_err().to_string();
        assert!(message.contains(expected), "{case}: {message}");
        assert!(message.contains("judge.safetensors: "), "{case}: {message}");
    }
    let message = Judge::read(folder.path()).unwrap_err().to_string();
    assert!(
        message.contains("file: found no file, expected a judge file"),
        "{message}"
    );
    let message = Judge::read(&folder.path().join("none"))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("none: cannot be read: No such file"),
        "{message}"
    );
    std::fs::File::create(&path)
        .unwrap()
        .set_len(1 << 33)
        .unwrap();
    let message = Judge::read(&path).unwrap_err().to_string();
    assert!(
        message.contains("found 8589934592 bytes, expected a judge file of at most"),
        "{message}"
    );
}

prop_compose! {
    fn any_point()(theta in 0.0f32..=1.0, precision in 0.0f32..=1.0, recall in 0.0f32..=1.0, harmful_per_answer in 0.0f32..50.0) -> OperatingPoint {
        OperatingPoint { theta, precision, recall, harmful_per_answer }
    }
}

prop_compose! {
    fn any_judge()(
        target_width in 1usize..6,
        draft_width in 0usize..4,
        layers in proptest::collection::btree_set(1usize..40, 0..3),
        width in 0usize..5,
    )(
        w in proptest::collection::vec(-1e6f32..1e6, (layers.len() + 1) * target_width * width.max(1) + draft_width * width.max(1)),
        hidden in proptest::collection::vec(-1e3f32..1e3, 2 * width),
        b in -1e3f32..1e3,
        important in any::<bool>(),
        texts in proptest::collection::vec("\\PC{0,12}", 3),
        points in proptest::option::of((any_point(), any_point(), any_point())),
        mut curve in proptest::collection::vec(any_point(), 0..5),
        vocab_size in 1usize..200_000,
        (layers, target_width, draft_width, width) in Just((layers, target_width, draft_width, width)),
    ) -> Judge {
        curve.sort_by(|a, b| a.theta.total_cmp(&b.theta));
        Judge {
            head: match width {
                0 => Head::Linear { w, b },
                _ => Head::TwoLayer { w1: w, b1: hidden[..width].to_vec(), w2: hidden[width..].to_vec(), b2: b },
            },
            meaning: if important { Meaning::Important } else { Meaning::Acceptable },
            features: Features {
                layout: if draft_width > 0 { Layout::DdDt } else { Layout::Dt },
                taps: layers.into_iter().map(Tap::Layer).chain([Tap::Final]).collect(),
                target_width,
                draft_width,
            },
            vocab_size,
            target_fingerprint: format!("t{}", texts[0]),
            draft_fingerprint: (draft_width > 0).then(|| texts[1].clone()),
            method: texts[1].clone(),
            provenance: texts[2].clone(),
            operating_points: points.map(|(f1, r90, mid)| OperatingPoints { f1, r90, mid }),
            curve,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_judge_survives_its_file(judge in any_judge()) {
        let bytes = judge.to_bytes().unwrap();
        prop_assert_eq!(Judge::parse(&bytes, Path::new("j")).unwrap(), judge);
    }

    #[test]
    fn any_bytes_are_refused_or_a_sound_judge(
        judge in any_judge(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut bytes = judge.to_bytes().unwrap();
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = if bytes[at].is_ascii_digit() { b'0' + byte % 10 } else { byte };
        }
        if let Ok(judge) = Judge::parse(&bytes, Path::new("j")) {
            let score = judge.score(&vec![1.0; judge.features.len()]);
            prop_assert!((0.0..=1.0).contains(&score));
            judge.to_bytes().unwrap();
        }
    }
}
