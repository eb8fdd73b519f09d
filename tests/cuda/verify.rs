//! kernels/verify.cu against the scalar reference: the same path, reasons, acceptabilities and next
//! token, given the same inputs and seed.

use crate::common::{Arg, Device, LEVELS};
use bytemuck::Zeroable;
use gavel::device::cuda::layout::Best;
use gavel::device::cuda::verify::{
    Choice, Law, MAX_NODES, Policy, Stream, Teams, Tree, USES, Verdict, Verification, order_key,
};
use gavel::tree::TokenTree;
use gavel::verify::{self as reference, Inputs, NextReason, Philox, Remaining, Rows, Rule, Site};
use softcuda::counts::Counts;
use softcuda::exec::launch;

const NEVER: f32 = f32::NEG_INFINITY;

/// All that one verification reads.
pub struct Case {
    pub tree: TokenTree,
    pub vocabulary: usize,
    /// [nodes + 1, vocabulary]
    pub target: Vec<f32>,
    pub drafter_vocabulary: usize,
    /// [nodes + 1, drafter_vocabulary]
    pub drafter: Option<Vec<f32>>,
    pub laws: Option<Vec<reference::Law>>,
    /// By which the laws were made.
    pub draft_sampling: reference::Sampling,
    /// Decisions made in place of random numbers: [nodes + 1, uses].
    pub script: Option<Vec<Choice>>,
    pub scores: Option<Vec<f32>>,
    pub policy: reference::Policy,
    pub philox: Philox,
}

impl Case {
    fn inputs(&self) -> Inputs<'_> {
        let drafter = self.drafter.as_deref();
        Inputs {
            tree: &self.tree,
            target: Rows::new(&self.target, self.vocabulary).expect("whole rows"),
            q: self.laws.as_deref(),
            r: drafter.map(|rows| Rows::new(rows, self.drafter_vocabulary).expect("whole rows")),
            scores: self.scores.as_deref(),
        }
    }

    fn expected(&self) -> Result<reference::Verdict, reference::VerifyError> {
        reference::verify::<f32, _>(&self.inputs(), &self.policy, &mut self.philox.clone())
    }

    /// A law of a row of the drafter as the kernels hold it.
    fn law(&self, row: usize) -> Law {
        let laws = self.laws.as_deref().expect("laws");
        let drafter = self.drafter.as_deref().expect("logits");
        let logits = &drafter[row * self.drafter_vocabulary..];
        let logits = &logits[..self.drafter_vocabulary.min(self.vocabulary)];
        device_law(&laws[row], logits, self.draft_sampling.temperature)
    }
}

/// A law of a row as the kernels hold it, from its support.
fn device_law(law: &reference::Law, logits: &[f32], temperature: f32) -> Law {
    let mut all = Law::zeroed();
    all.only = law.certain().map_or(-1, |token| token as i32);
    all.total = law.total();
    all.temperature = temperature;
    all.max = logits.iter().copied().fold(NEVER, f32::max);
    let last = law
        .support()
        .map(|(id, _)| (order_key(logits[id as usize]), id))
        .min_by_key(|&(key, id)| (key, std::cmp::Reverse(id)));
    (all.key, all.id) = last.map_or((u32::MAX, -1), |(key, id)| (key, id as i32));
    all
}

/// Logits in which ties, zeros and sharp laws are common.
pub fn logits(random: &mut fastrand::Rng, width: usize) -> Vec<f32> {
    let mut row: Vec<f32> = match random.u32(0..6) {
        0 => (0..width).map(|_| random.u32(0..4) as f32 * 0.5).collect(),
        1 => (0..width)
            .map(|_| match random.u32(0..3) {
                0 => NEVER,
                _ => random.f32() * 3.0,
            })
            .collect(),
        2 => vec![NEVER; width],
        3 => (0..width).map(|_| random.f32() * 40.0 - 20.0).collect(),
        _ => (0..width).map(|_| random.f32() * 6.0 - 2.0).collect(),
    };
    let peak = random.usize(0..width);
    row[peak] = match random.u32(0..3) {
        0 => 2.0,
        1 => 9.0,
        _ => row[peak].max(0.5),
    };
    row
}

fn sampling(random: &mut fastrand::Rng) -> reference::Sampling {
    reference::Sampling {
        temperature: [0.0, 0.7, 1.0, 1.6][random.usize(0..4)],
        top_k: [0, 0, 1, 3, 40][random.usize(0..5)],
        top_p: [1.0, 1.0, 0.5, 0.9, 0.05][random.usize(0..5)],
    }
}

fn rule(random: &mut fastrand::Rng) -> Rule {
    match random.u32(0..12) {
        0..3 => Rule::Chain,
        3 => Rule::Block,
        4 => Rule::Judge { theta: 0.6 },
        5 => Rule::Kl {
            delta: [0.5, 2.0, f32::INFINITY][random.usize(0..3)],
            reverse: random.bool(),
        },
        6 => Rule::Margin { ratio: 0.6 },
        7 => Rule::TYPICAL,
        8 => Rule::Threshold { t: 0.05 },
        9 => Rule::Sglang {
            single: 0.2,
            accumulated: 0.5,
        },
        10 => Rule::TopK {
            k: random.usize(1..6),
        },
        _ => Rule::Synthetic { rate: 0.6 },
    }
}

/// A random case over a vocabulary; half of the trees are sampled from the drafter's laws.
pub fn case(random: &mut fastrand::Rng, vocabulary: usize, nodes: usize) -> Case {
    let drafter_vocabulary = match random.u32(0..6) {
        0 => vocabulary.saturating_sub(random.usize(1..40)).max(1),
        1 => vocabulary + random.usize(1..40),
        _ => vocabulary,
    };
    let shared = vocabulary.min(drafter_vocabulary);
    let rule = rule(random);
    let sampled = random.bool();
    let philox = Philox::new(random.u64(..), random.u32(..)).at_step(random.u32(..9));
    let target_sampling = sampling(random);
    let draft_sampling = sampling(random);
    let mut tree = TokenTree::default();
    let mut drafter: Vec<f32> = Vec::new();
    let mut target: Vec<f32> = Vec::new();
    let mut laws: Vec<reference::Law> = Vec::new();
    let chain = rule == Rule::Block || random.bool();
    let mut row = 0;
    while row <= tree.len() {
        let of_drafter = logits(random, drafter_vocabulary);
        let mut of_target = logits(random, vocabulary);
        if random.bool() {
            // near the drafter's, so that children are accepted
            for (z, &other) in of_target.iter_mut().zip(&of_drafter) {
                *z = other + (random.f32() - 0.5) * 0.5;
            }
            if of_target.iter().all(|z| z.is_infinite()) {
                of_target[0] = 1.0;
            }
        }
        if of_drafter[..shared].iter().all(|z| z.is_infinite()) {
            drafter.extend(vec![0.25; drafter_vocabulary]);
        } else {
            drafter.extend(of_drafter);
        }
        target.extend(of_target);
        let own = &drafter[row * drafter_vocabulary..][..shared];
        let law = reference::Law::new(own, shared, &draft_sampling).expect("a law");
        let room = nodes - tree.len();
        let children = match chain {
            true => 1,
            false => random.usize(0..4),
        };
        let parent = row.checked_sub(1);
        let mut rest = Remaining::new(&law);
        for place in 0..children.min(room) {
            let token = match sampled {
                true => match rest.draw(philox.word(Site::child(row, place))) {
                    Some(token) => {
                        rest.remove(token);
                        token
                    }
                    None => break,
                },
                // siblings are distinct, but for the odd one
                false => match random.u32(0..20) {
                    0 => random.u32(..shared as u32),
                    _ => ((random.u32(..4) as usize * 4 + place) % shared) as u32,
                },
            };
            tree.push(parent, token);
        }
        laws.push(match sampled {
            true => law,
            false => reference::Law::default(),
        });
        row += 1;
    }
    let scores = (rule == Rule::Judge { theta: 0.6 }).then(|| {
        (0..tree.len())
            .map(|_| random.u32(..9) as f32 / 8.0)
            .collect()
    });
    let guard = match random.u32(0..3) {
        0 => (0..random.u32(..4)).map(|_| random.u32(..12)).collect(),
        _ => reference::Guard::NONE,
    };
    Case {
        vocabulary,
        target,
        drafter_vocabulary,
        drafter: Some(drafter),
        laws: sampled.then_some(laws),
        draft_sampling,
        script: None,
        scores,
        policy: reference::Policy {
            sampling: target_sampling,
            rule,
            guard,
        },
        philox,
        tree,
    }
}

/// The two best logits of each row, as the LM head leaves them, in parts of `PART` tokens.
fn bests(rows: &[f32], width: usize) -> (Vec<Best>, usize) {
    const PART: usize = 2048;
    let none = Best {
        value: NEVER,
        token: i32::MAX,
        second: NEVER,
        second_token: i32::MAX,
    };
    let part = |(first, logits): (usize, &[f32])| {
        let mut best = none;
        for (id, &z) in logits.iter().enumerate() {
            let token = (first * PART + id) as i32;
            if z > best.value || best.token == i32::MAX {
                (best.second, best.second_token) = (best.value, best.token);
                (best.value, best.token) = (z, token);
            } else if z > best.second || best.second_token == i32::MAX {
                (best.second, best.second_token) = (z, token);
            }
        }
        best
    };
    let of_row = |row: &[f32]| row.chunks(PART).enumerate().map(part).collect::<Vec<_>>();
    (
        rows.chunks(width).flat_map(of_row).collect(),
        width.div_ceil(PART),
    )
}

/// A batch of cases in device memory.
pub struct Batch {
    pub device: Device,
    pub verifications: Vec<Verification>,
    verdicts: Vec<u64>,
    pub vocabulary: usize,
}

impl Batch {
    pub fn new<'a>(device: Device, cases: impl IntoIterator<Item = &'a Case>) -> Batch {
        let mut verifications = Vec::new();
        let mut verdicts = Vec::new();
        let mut vocabulary = 1;
        for case in cases {
            vocabulary = vocabulary.max(case.vocabulary);
            let rows = case.tree.len() + 1;
            let stride = case.vocabulary.next_multiple_of(8);
            let drafter_stride = case.drafter_vocabulary.next_multiple_of(8);
            let verdict = device.empty("verdict", size_of::<Verdict>());
            let laws = case.laws.as_ref().map(|_| {
                let laws: Vec<Law> = (0..rows).map(|row| case.law(row)).collect();
                device.upload("laws", &laws)
            });
            let guard: Vec<i32> = case
                .policy
                .guard
                .tokens()
                .iter()
                .map(|&t| t as i32)
                .collect();
            let padded = |rows: &[f32], width: usize, stride: usize, label| {
                upload_rows(&device, label, rows, width, stride)
            };
            let drafter = case.drafter.as_ref();
            verifications.push(Verification {
                tree: device.upload("tree", &[Tree::of(&case.tree).expect("fits")]),
                target: padded(&case.target, case.vocabulary, stride, "target"),
                best: 0,
                drafter: drafter.map_or(0, |rows| {
                    padded(rows, case.drafter_vocabulary, drafter_stride, "drafter")
                }),
                drafter_best: 0,
                laws: laws.unwrap_or(0),
                scores: case
                    .scores
                    .as_ref()
                    .map_or(0, |s| device.upload("scores", s)),
                scoring: 0,
                commit: 0,
                stream: device.upload(
                    "stream",
                    &[Stream {
                        seed: case.philox.seed,
                        sequence: case.philox.sequence,
                        step: case.philox.step,
                    }],
                ),
                script: case
                    .script
                    .as_ref()
                    .map_or(0, |s| device.upload("script", s)),
                verdict,
                policy: Policy::of(&case.policy, device.upload("guard", &guard)),
                vocabulary: case.vocabulary as i32,
                target_stride: stride as i32,
                parts: 0,
                drafter_vocabulary: case.drafter_vocabulary as i32,
                drafter_stride: drafter_stride as i32,
                drafter_parts: 0,
            });
            verdicts.push(verdict);
        }
        Batch {
            device,
            verifications,
            verdicts,
            vocabulary,
        }
    }

    /// One launch for all of them.
    pub fn run(&self, teams: Teams) -> (Vec<Verdict>, Counts) {
        let workspace = vec![0u8; teams.teams * teams.workspace];
        let args = [
            Arg::Ptr(self.device.upload("sequences", &self.verifications)),
            Arg::I32(self.verifications.len() as i32),
            Arg::I32(teams.size as i32),
            Arg::Ptr(self.device.upload("workspace", &workspace)),
            Arg::Ptr(teams.workspace as u64),
            Arg::I32(teams.slots as i32),
        ];
        let mut grid = self.device.grid(
            "verify",
            [teams.blocks(), 1, 1],
            256,
            teams.shared_bytes(),
            &args,
        );
        grid.cooperative = true;
        let memory = &self.device.memory;
        let counts = match launch(memory, self.device.model, &self.device.options, &[grid]) {
            Ok(mut counts) => counts.remove(0),
            Err(violation) => panic!("seed {}: {violation}", self.device.options.seed),
        };
        let verdicts = self.verdicts.iter();
        let verdicts = verdicts.map(|&at| self.device.read(at, 1)[0]).collect();
        (verdicts, counts)
    }

    /// The scripts with the probabilities that the kernel gave each decision.
    pub fn scripts(&self, rows: impl Iterator<Item = usize>) -> Vec<Vec<Choice>> {
        let all = self.verifications.iter().zip(rows);
        all.map(|(v, rows)| self.device.read(v.script, rows * USES))
            .collect()
    }

    /// A launch with as many blocks as the device has multiprocessors.
    pub fn teams(&self) -> Teams {
        Teams::of(
            self.verifications.len(),
            self.vocabulary,
            self.device.model.multiprocessors as usize,
            96 << 10,
        )
    }
}

/// Rows of a stride; what lies between them was never written.
pub fn upload_rows(device: &Device, label: &str, rows: &[f32], width: usize, stride: usize) -> u64 {
    let count = rows.len() / width;
    let address = device.empty(label, 4 * stride * count);
    for (row, logits) in rows.chunks(width).enumerate() {
        let bytes = bytemuck::cast_slice(logits);
        let to = address + (4 * stride * row) as u64;
        device.memory.write(to, bytes).expect("a write");
    }
    address
}

#[track_caller]
pub fn check(case: &Case, found: &Verdict, what: &str) {
    let expected = match case.expected() {
        Ok(expected) => expected,
        Err(error) => {
            assert_ne!(found.error, 0, "{what}: expected {error}, found {found:?}");
            return;
        }
    };
    let nodes = case.tree.len();
    let describe = || {
        format!(
            "{what}: {} of {:?}, {:?}, expected {expected:?}, found path {:?}, reasons {:?}, next {}, acceptability {:?}, error {} at {}",
            case.policy.rule,
            case.tree,
            case.policy,
            &found.path[..(found.length.max(0) as usize).min(MAX_NODES)],
            &found.reason[..nodes],
            found.next,
            &found.acceptability[..nodes],
            found.error,
            found.at,
        )
    };
    assert_eq!(found.error, 0, "{}", describe());
    let path: Vec<usize> = found.path[..found.length as usize]
        .iter()
        .map(|&n| n as usize)
        .collect();
    let reasons: Vec<i32> = expected.reasons.iter().map(|&r| r as i32).collect();
    let bits = |all: &[f32]| -> Vec<u32> {
        // one NaN is as good as another
        all.iter()
            .map(|a| if a.is_nan() { 0x7fc0_0000 } else { a.to_bits() })
            .collect()
    };
    assert_eq!(path, expected.path, "{}", describe());
    assert_eq!(&found.reason[..nodes], &reasons[..], "{}", describe());
    assert_eq!(found.next, expected.next as i32, "{}", describe());
    let residual = i32::from(expected.next_reason == NextReason::Residual);
    assert_eq!(found.residual, residual, "{}", describe());
    assert_eq!(
        bits(&found.acceptability[..nodes]),
        bits(&expected.acceptability),
        "{}",
        describe()
    );
}

#[test]
fn small_vocabularies_are_verified_as_by_the_reference() {
    const TOGETHER: usize = 50;
    const ROUNDS: usize = 100;
    let mut random = fastrand::Rng::with_seed(8);
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    for round in 0..ROUNDS {
        let most = [3, 40, 300, 2048][round % 4];
        let cases: Vec<Case> = (0..TOGETHER)
            .map(|_| {
                let vocabulary = random.usize(1..=most);
                let nodes = random.usize(0..14);
                case(&mut random, vocabulary, nodes)
            })
            .collect();
        // teams of one block, of two, and all blocks for one sequence after the other
        let (teams, shared) =
            [(4, 96 << 10), (2, 96 << 10), (1, [0, 96 << 10][round % 2])][round % 3];
        let verdicts = cases.chunks(12 * teams).flat_map(|cases| {
            let device = Device::new("verify", LEVELS[round / 4 % 2], round as u64);
            let batch = Batch::new(device, cases);
            batch.run(Teams::of(teams, batch.vocabulary, 4, shared)).0
        });
        for (i, (case, verdict)) in cases.iter().zip(verdicts).enumerate() {
            check(case, &verdict, &format!("round {round}, case {i}"));
            let name = case.policy.rule.to_string();
            let name = name.split('=').next().unwrap_or_default().to_owned();
            let judged = verdict.reason[..case.tree.len()].contains(&1);
            *seen
                .entry(format!("{name}{}", if judged { ", rescued" } else { "" }))
                .or_default() += 1;
        }
    }
    // every rule was there, and every lossy one rescued something
    for rule in [
        "judge",
        "kl",
        "margin",
        "typical",
        "threshold",
        "sglang",
        "topk",
        "synthetic",
    ] {
        assert!(
            seen.get(&format!("{rule}, rescued"))
                .is_some_and(|&n| n >= 10),
            "{seen:?}"
        );
    }
    for rule in ["chain", "block"] {
        assert!(seen.get(rule).is_some_and(|&n| n >= 100), "{seen:?}");
    }
}

#[test]
fn large_vocabularies_are_verified_as_by_the_reference() {
    let mut random = fastrand::Rng::with_seed(9);
    for round in 0..40 {
        let vocabulary = [128_256, 151_936][round % 2];
        let nodes = random.usize(1..6);
        let case = case(&mut random, vocabulary, nodes);
        let device = Device::new("verify", LEVELS[round / 2 % 2], round as u64);
        let cases = [case];
        let batch = Batch::new(device, &cases);
        let (verdicts, _) = batch.run(batch.teams());
        check(&cases[0], &verdicts[0], &format!("case {round}"));
    }
}

/// Rows of logits that verify reads beside the head's parts: greedy lossless rules and margin none, all
/// others each visited row of p, and of q or R, once where they need it; block reads one of them twice.
/// Every warp looks up single logits of a row besides, up to three for each of its children, a sector
/// each time.
#[test]
fn a_rule_reads_the_rows_that_it_needs() {
    const VOCABULARY: usize = 32_768;
    let mut random = fastrand::Rng::with_seed(10);
    let mut seen = std::collections::BTreeMap::<String, [f64; 2]>::new();
    for round in 0..90 {
        let nodes = random.usize(1..6);
        let mut case = case(&mut random, VOCABULARY, nodes);
        if case.drafter_vocabulary != VOCABULARY {
            continue;
        }
        case.policy.sampling.temperature = [0.0, 0.8][round % 2];
        let device = Device::new("verify", LEVELS[round % 2], round as u64);
        let cases = [case];
        let mut batch = Batch::new(device, &cases);
        let [case] = &cases;
        let drafter = case.drafter.as_deref().expect("logits");
        let (best, parts) = bests(&case.target, VOCABULARY);
        let (drafter_best, drafter_parts) = bests(drafter, VOCABULARY);
        let device = &batch.device;
        let best = device.upload("best", &best);
        let drafter_best = device.upload("drafter best", &drafter_best);
        let v = &mut batch.verifications[0];
        (v.best, v.parts) = (best, parts as i32);
        (v.drafter_best, v.drafter_parts) = (drafter_best, drafter_parts as i32);
        let (verdicts, counts) = batch.run(batch.teams());
        check(case, &verdicts[0], &format!("case {round}"));
        let rule = case.policy.rule;
        let visited = match rule {
            // and one to which it goes back
            Rule::Block => case.tree.len() + 2,
            _ => verdicts[0].length as usize + 1,
        };
        let greedy = case.policy.sampling.temperature == 0.0;
        let sectors = |label: &str| counts.memory.get(label).map_or(0, |t| t.sectors as usize);
        let lookups = 3 * (case.tree.len() + 1) * batch.teams().blocks() * 8;
        let whole = |rows: usize| rows * VOCABULARY / 8;
        let what = format!("case {round}: {rule}, {:?}", case.policy.sampling);
        let p = match rule {
            _ if !greedy => whole(visited),
            Rule::Kl { .. } | Rule::Typical { .. } | Rule::Threshold { .. } | Rule::TopK { .. } => {
                whole(visited)
            }
            _ => 0,
        };
        if greedy && matches!(rule, Rule::Chain | Rule::Margin { .. }) {
            assert_eq!(sectors("target"), 0, "{what}");
        }
        assert!(
            sectors("target") <= p + lookups,
            "{what}: {}",
            sectors("target")
        );
        // R is the row that q is made of
        let q = match rule {
            Rule::Kl { .. } => whole(2 * visited),
            _ => whole(visited),
        };
        assert!(
            sectors("drafter") <= q + lookups,
            "{what}: {}",
            sectors("drafter")
        );
        let name = rule.to_string();
        let name = name.split('=').next().unwrap_or_default();
        let how = if greedy { "greedy" } else { "sampled" };
        let most = seen.entry(format!("{name}, {how}")).or_default();
        for (most, label) in most.iter_mut().zip(["target", "drafter"]) {
            *most = most.max(sectors(label) as f64 / whole(visited) as f64);
        }
    }
    for (rule, [p, q]) in &seen {
        println!("{rule}: rows of p {p:.3}, of the drafter {q:.3}");
    }
    assert!(seen.len() >= 16, "{seen:?}");
}

#[test]
fn every_multiprocessor_works_on_a_row() {
    // chunks of 128 tokens go to the blocks of a team in turn
    for vocabulary in [32_000, 49_152, 128_256, 151_936] {
        for multiprocessors in [108, 132, 148] {
            let teams = Teams::of(1, vocabulary, multiprocessors, 96 << 10);
            assert_eq!(teams.blocks(), multiprocessors);
            assert!(vocabulary / 128 >= teams.size);
        }
    }
}
