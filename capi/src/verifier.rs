//! Level two: the verifier alone, for an engine with a forward pass of its own.

use crate::error::{Error, gavel_status, given, guarded, place, text};
use crate::host;
use gavel::device::cuda::verifier::{ADVANCES, Ask, PARTS, SAMPLED, Verifier, part_widths};
use gavel::device::cuda::verify as device;
use gavel::judge::{At, Judge};
use gavel::verify::{Guard, Policy, Rule, Sampling};
use std::ffi::{c_char, c_void};

/// Nodes of a tree at most.
pub const GAVEL_MAX_NODES: usize = 255;
/// Hidden states of a token that a judge reads at most.
pub const GAVEL_MAX_PARTS: usize = 3;
/// Tokens of a vocabulary at most.
pub const GAVEL_MAX_VOCABULARY: u32 = 1 << 23;

/// Lossless: chains and trees.
pub const GAVEL_RULE_CHAIN: i32 = 0;
/// Lossless block verification of a chain.
pub const GAVEL_RULE_BLOCK: i32 = 1;
/// A judge's score reaches `threshold`.
pub const GAVEL_RULE_JUDGE: i32 = 2;
/// KL(target, drafter) is below `threshold` nats; with `k` = 1, KL(drafter, target).
pub const GAVEL_RULE_KL: i32 = 3;
/// The runner-up's raw logit over the best one's reaches `threshold`.
pub const GAVEL_RULE_MARGIN: i32 = 4;
/// P is above min(`threshold`, `second` * exp(-H)).
pub const GAVEL_RULE_TYPICAL: i32 = 5;
/// P reaches `threshold`.
pub const GAVEL_RULE_THRESHOLD: i32 = 6;
/// SGLang's pair: `threshold` for one token, `second` for what accumulates.
pub const GAVEL_RULE_SGLANG: i32 = 7;
/// Among the target's `k` best.
pub const GAVEL_RULE_TOPK: i32 = 8;
/// A coin with probability `threshold`.
pub const GAVEL_RULE_SYNTHETIC: i32 = 9;

/// The children of every node were drawn from the law of `draft_logits` under `draft_sampling`,
/// without replacement and in the order of their nodes. Without it they are distinct tokens that a
/// deterministic drafter chose.
pub const GAVEL_SAMPLED_CHILDREN: u32 = 1;
/// Adds 1 to `random->step` once it is read, so that what is replayed never uses a number twice.
pub const GAVEL_ADVANCE_STEP: u32 = 2;

/// Accepted by the lossless rule.
pub const GAVEL_NODE_ALIGNED: i32 = 0;
/// Accepted by a lossy rule where the lossless one would not have.
pub const GAVEL_NODE_JUDGED: i32 = 1;
/// Tested and not accepted.
pub const GAVEL_NODE_REJECTED: i32 = 2;
/// Not looked at.
pub const GAVEL_NODE_UNVISITED: i32 = 3;

/// Verified.
pub const GAVEL_VERDICT_OK: i32 = 0;
/// Row `at` of the target's logits has a NaN, +infinity, or nothing but -infinity.
pub const GAVEL_VERDICT_TARGET_LOGITS: i32 = 1;
/// Row `at` of the drafter's logits has.
pub const GAVEL_VERDICT_DRAFTER_LOGITS: i32 = 2;
/// Node `at` cannot have been drawn as GAVEL_SAMPLED_CHILDREN says.
pub const GAVEL_VERDICT_NOT_DRAWN: i32 = 3;
/// The score of node `at` is NaN.
pub const GAVEL_VERDICT_SCORE: i32 = 4;
/// Node `at` has a parent that is not before it (block: that is not the node before), or a token
/// outside the vocabulary; or the tree has `at` nodes, fewer than 0 or more than `most_nodes`.
pub const GAVEL_VERDICT_TREE: i32 = 5;

/// A proposal, read when the verification runs. Row 0 of logits and hidden states belongs to the
/// last committed token, row n + 1 to node n.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gavel_tree {
    /// How many.
    pub nodes: i32,
    /// Their tokens.
    pub token: [i32; GAVEL_MAX_NODES],
    /// Their parents, each before its children; -1 is the last committed token. Children of one
    /// parent stand in the order in which they were drafted.
    pub parent: [i32; GAVEL_MAX_NODES],
    /// Zero.
    pub reserved: i32,
}

/// Where the random numbers of a verification come from: no number is used twice as long as the
/// three differ. Read when the verification runs.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gavel_random {
    /// The user's.
    pub seed: u64,
    /// Which of the seed's sequences.
    pub sequence: u32,
    /// Steps of the sequence so far.
    pub step: u32,
}

/// What a verification came to. Of the arrays, `length` and `nodes` elements are written.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gavel_verdict {
    /// GAVEL_VERDICT_*; other than 0, nothing but `at` holds.
    pub error: i32,
    /// Which row or node is wrong.
    pub at: i32,
    /// Nodes accepted.
    pub length: i32,
    /// The target's own token after them.
    pub next: i32,
    /// 1: drawn after a rejection; 0: a bonus, after a node without children.
    pub residual: i32,
    /// The accepted nodes, root first.
    pub path: [i32; GAVEL_MAX_NODES],
    /// GAVEL_NODE_* of every node.
    pub reason: [i32; GAVEL_MAX_NODES],
    /// What the rule made of every node; NaN where it was not asked. Larger is better.
    pub acceptability: [f32; GAVEL_MAX_NODES],
}

/// A sampling law: temperature, then top-k, then top-p; all zero is greedy.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct gavel_sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// How many of the best tokens stay; 0 keeps all.
    pub top_k: u32,
    /// The best tokens stay until they hold this share; 0 and 1 keep all.
    pub top_p: f32,
}

/// One sequence to be verified. The struct itself is read during the call; what it points to, when
/// the verification runs: host memory for gavel_verify, device memory for gavel_verifier_enqueue. All
/// of it is float32, row major. Members that are not needed are zero.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gavel_sequence {
    /// sizeof(gavel_sequence)
    pub size: usize,
    /// The proposal; NULL proposes nothing.
    pub tree: *const gavel_tree,
    /// [most_nodes + 1, logits_stride] the target's raw logits.
    pub logits: *const f32,
    /// [most_nodes + 1, draft_stride] the drafter's raw logits, or logarithms of its probabilities:
    /// after the token of each row, so that row 0 is what the first nodes were drafted from. Read by
    /// GAVEL_RULE_KL and with GAVEL_SAMPLED_CHILDREN, at rows with children.
    pub draft_logits: *const f32,
    /// [most_nodes + 1, hidden_stride] each: the hidden states that a judge reads, in the order of
    /// gavel_judge_widths. The target's "final" one is the one after its last norm.
    pub hidden: [*const f32; GAVEL_MAX_PARTS],
    /// Scores of nodes, `most_nodes` of them, in place of `hidden`.
    pub scores: *const f32,
    /// Where random numbers come from.
    pub random: *mut gavel_random,
    /// Tokens, `guard_count` of them, ascending, that no lossy rule lets in or overrides: end of sequence and
    /// special ones, as a rule.
    pub guard: *const i32,
    /// Where the result goes.
    pub verdict: *mut gavel_verdict,
    /// Nodes that the tree may have, at most GAVEL_MAX_NODES.
    pub most_nodes: u32,
    /// Ids of the target.
    pub vocabulary: u32,
    /// Floats from row to row; 0 is `vocabulary`. Multiples of 4, on 16-byte boundaries, are read
    /// fastest.
    pub logits_stride: u32,
    /// Ids of the drafter; both share theirs from 0 on.
    pub draft_vocabulary: u32,
    /// As logits_stride.
    pub draft_stride: u32,
    /// As logits_stride, for each of `hidden`; 0 is the judge's width.
    pub hidden_stride: [u32; GAVEL_MAX_PARTS],
    /// See guard.
    pub guard_count: u32,
    /// GAVEL_SAMPLED_CHILDREN, GAVEL_ADVANCE_STEP.
    pub flags: u32,
    /// GAVEL_RULE_*.
    pub rule: i32,
    /// See the rule.
    pub threshold: f32,
    /// See the rule.
    pub second: f32,
    /// See the rule.
    pub k: u32,
    /// The target's.
    pub sampling: gavel_sampling,
    /// What the drafter drew with, where children are sampled.
    pub draft_sampling: gavel_sampling,
}

/// Bytes of the first gavel_sequence that there was.
const FIRST_SIZE: usize = size_of::<gavel_sequence>();

const _: () = assert!(size_of::<gavel_tree>() == size_of::<device::Tree>());
const _: () = assert!(size_of::<gavel_verdict>() == size_of::<device::Verdict>());
const _: () = assert!(size_of::<gavel_random>() == size_of::<device::Stream>());
const _: () = assert!(GAVEL_MAX_NODES == device::MAX_NODES && GAVEL_MAX_PARTS == PARTS);

/// A judge, from its file. Does not change: used from any thread, by any number at a time.
pub struct gavel_judge {
    pub(crate) judge: Judge,
    pub(crate) widths: [usize; PARTS],
}

/// The verifier's kernels in one CUDA context. Does not change: used from any thread in which that
/// context is current, by any number at a time.
pub struct gavel_verifier {
    verifier: Verifier,
    widths: [usize; PARTS],
}

/// Reads a judge's file.
///
/// # Safety
/// `path` ends with a zero, `out` is a place for a pointer, NULL after a failure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gavel_judge_open(
    path: *const c_char,
    out: *mut *mut gavel_judge,
) -> gavel_status {
    guarded(|| {
        // SAFETY: the caller vouches for both.
        let (out, path) = unsafe { (place(out, "out")?, text(path, "path")?) };
        *out = std::ptr::null_mut();
        let judge = Judge::read(path.as_ref()).map_err(Error::failed)?;
        let widths = part_widths(&judge)?;
        *out = Box::into_raw(Box::new(gavel_judge { judge, widths }));
        Ok(())
    })
}

/// The threshold of one of the judge's operating points: "f1", "r90", "mid" or "budget=B".
///
/// # Safety
/// `judge` comes from gavel_judge_open, `at` ends with a zero, `theta` is a place for a float.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gavel_judge_theta(
    judge: *const gavel_judge,
    at: *const c_char,
    theta: *mut f32,
) -> gavel_status {
    guarded(|| {
        // SAFETY: the caller vouches for all three.
        let (judge, at, theta) = unsafe {
            (
                given(judge, "judge")?,
                text(at, "at")?,
                place(theta, "theta")?,
            )
        };
        let wrong = |e: gavel::judge::JudgeError| Error::invalid(e.to_string());
        let at: At = at.parse().map_err(wrong)?;
        *theta = judge.judge.theta(at).map_err(wrong)?;
        Ok(())
    })
}

/// The widths of the hidden states that a judge reads, in the order in which gavel_sequence has them;
/// 0 after the last. With two models the drafter's comes first, after its last norm; then the target's,
/// in the order of the judge's taps (`gavel judge info` shows them).
///
/// # Safety
/// `judge` comes from gavel_judge_open, `widths` is a place for GAVEL_MAX_PARTS numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gavel_judge_widths(
    judge: *const gavel_judge,
    widths: *mut u32,
) -> gavel_status {
    guarded(|| {
        // SAFETY: the caller vouches for both.
        unsafe {
            let judge = given(judge, "judge")?;
            let to = place(widths.cast::<[u32; PARTS]>(), "widths")?;
            *to = judge.widths.map(|width| width as u32);
        }
        Ok(())
    })
}

/// Frees a judge; NULL is none. Verifiers that were created with it have their own copy.
///
/// # Safety
/// `judge` is NULL or comes from gavel_judge_open, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gavel_judge_close(judge: *mut gavel_judge) {
    if !judge.is_null() {
        guarded(|| {
            // SAFETY: made by `gavel_judge_open`; the caller vouches that this is its end.
            drop(unsafe { Box::from_raw(judge) });
            Ok(())
        });
    }
}

/// Verifies sequences in host memory, on the calling thread: the reference, decision by decision equal
/// to gavel_verifier_enqueue. What is wrong with a sequence's contents is said by its verdict.
///
/// # Safety
/// `judge` is NULL or comes from gavel_judge_open; `sequences` holds `count` structs as large as the
/// first one's `size` says, and what they point to is as large as they say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gavel_verify(
    judge: *const gavel_judge,
    sequences: *const gavel_sequence,
    count: usize,
) -> gavel_status {
    guarded(|| {
        // SAFETY: the caller vouches for both.
        let (judge, all) = unsafe { (judge.as_ref(), read(sequences, count)?) };
        let widths = judge.map(|judge| judge.widths);
        let checked: Result<Vec<_>, _> = (all.iter().enumerate())
            .map(|(i, sequence)| Checked::new(i, sequence, widths))
            .collect();
        for checked in checked? {
            // SAFETY: the caller vouches for what a sequence points to.
            unsafe { host::verify(&checked, judge)? };
        }
        Ok(())
    })
}

/// Loads the verifier's kernels into the CUDA context that is current, and the weights of a judge,
/// NULL for none. At most `most_multiprocessors` are occupied by a verification; 0 is all of them.
/// Allocates and copies: call it before anything is captured.
///
/// # Safety
/// `judge` is NULL or comes from gavel_judge_open, `out` is a place for a pointer, NULL after a failure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gavel_verifier_create(
    judge: *const gavel_judge,
    most_multiprocessors: u32,
    out: *mut *mut gavel_verifier,
) -> gavel_status {
    guarded(|| {
        // SAFETY: the caller vouches for both.
        let (out, judge) = unsafe { (place(out, "out")?, judge.as_ref()) };
        *out = std::ptr::null_mut();
        let most = most_multiprocessors as usize;
        let verifier = Verifier::new(judge.map(|judge| &judge.judge), most)?;
        let widths = judge.map_or([0; PARTS], |judge| judge.widths);
        *out = Box::into_raw(Box::new(gavel_verifier { verifier, widths }));
        Ok(())
    })
}

/// Bytes of device memory that a verification of up to `sequences` sequences of up to `vocabulary`
/// tokens works in.
///
/// # Safety
/// `verifier` comes from gavel_verifier_create, `bytes` is a place for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gavel_verifier_workspace(
    verifier: *const gavel_verifier,
    sequences: usize,
    vocabulary: u32,
    bytes: *mut usize,
) -> gavel_status {
    guarded(|| {
        // SAFETY: the caller vouches for both.
        let (verifier, bytes) = unsafe { (given(verifier, "verifier")?, place(bytes, "bytes")?) };
        if sequences > MOST_SEQUENCES || vocabulary > GAVEL_MAX_VOCABULARY {
            return Err(Error::invalid(format!(
                "found {sequences} sequences of {vocabulary} tokens, expected at most {MOST_SEQUENCES} of {GAVEL_MAX_VOCABULARY}"
            )));
        }
        *bytes = verifier
            .verifier
            .workspace_bytes(sequences, vocabulary as usize);
        Ok(())
    })
}

/// Sequences of one call at most.
const MOST_SEQUENCES: usize = 4096;

/// Enqueues the verification of sequences in device memory on a stream (a CUstream, or cudaStream_t) of
/// the verifier's context, which must be current: kernel launches, and nothing else. The stream may be
/// capturing; see docs/c-interface.md for what a replay reads anew. The workspace is device memory that
/// starts at a multiple of 256; it needs no contents, and launches that may overlap need one each.
///
/// # Safety
/// `verifier` comes from gavel_verifier_create; `sequences` holds `count` structs as large as the first
/// one's `size` says. What they point to, and the workspace, is as large as is said and lives until the
/// launches are done, every time that they run.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gavel_verifier_enqueue(
    verifier: *const gavel_verifier,
    sequences: *const gavel_sequence,
    count: usize,
    workspace: *mut c_void,
    workspace_bytes: usize,
    stream: *mut c_void,
) -> gavel_status {
    guarded(|| {
        // SAFETY: the caller vouches for both.
        let (verifier, all) = unsafe { (given(verifier, "verifier")?, read(sequences, count)?) };
        let widths = verifier.verifier.has_judge().then_some(verifier.widths);
        let asks: Result<Vec<Ask>, Error> = (all.iter().enumerate())
            .map(|(i, sequence)| Ok(Checked::new(i, sequence, widths)?.ask()))
            .collect();
        // SAFETY: the caller vouches for stream and memory.
        unsafe {
            let at = workspace as u64;
            verifier
                .verifier
                .enqueue(&asks?, at, workspace_bytes, stream.cast())?;
        }
        Ok(())
    })
}

/// Frees a verifier; NULL is none. Its launches must be done, and graphs that hold them are not
/// launched again.
///
/// # Safety
/// `verifier` is NULL or comes from gavel_verifier_create, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gavel_verifier_destroy(verifier: *mut gavel_verifier) {
    if !verifier.is_null() {
        guarded(|| {
            // SAFETY: made by `gavel_verifier_create`; the caller vouches that this is its end.
            drop(unsafe { Box::from_raw(verifier) });
            Ok(())
        });
    }
}

/// The sequences of a call, whatever the header that the caller was compiled with.
///
/// # Safety
/// `sequences` holds `count` structs as large as the first one's `size` says.
unsafe fn read(
    sequences: *const gavel_sequence,
    count: usize,
) -> Result<Vec<gavel_sequence>, Error> {
    if count == 0 {
        return Ok(Vec::new());
    }
    if count > MOST_SEQUENCES {
        return Err(Error::invalid(format!(
            "found {count} sequences, expected at most {MOST_SEQUENCES}"
        )));
    }
    // SAFETY: the caller vouches for the first one; `size` is its first member.
    let size = unsafe { *given(sequences.cast::<usize>(), "sequences")? };
    if !(FIRST_SIZE..=size_of::<gavel_sequence>()).contains(&size) {
        return Err(Error::invalid(format!(
            "sequences[0].size is {size}, expected sizeof(gavel_sequence): {FIRST_SIZE} to {} (a larger one is of a newer gavel.h)",
            size_of::<gavel_sequence>()
        )));
    }
    let one = |i: usize| {
        // SAFETY: all zero is a sequence; the caller has `size` bytes for each.
        unsafe {
            let mut sequence: gavel_sequence = std::mem::zeroed();
            let from = sequences.cast::<u8>().add(i * size);
            from.copy_to(std::ptr::from_mut(&mut sequence).cast(), size);
            sequence
        }
    };
    Ok((0..count).map(one).collect())
}

/// A sequence whose members make sense.
pub(crate) struct Checked<'a> {
    pub sequence: &'a gavel_sequence,
    pub policy: Policy,
    pub draft_sampling: Sampling,
    pub stride: usize,
    pub draft_stride: usize,
    pub hidden_stride: [usize; PARTS],
    pub samples: bool,
}

impl<'a> Checked<'a> {
    /// `widths`: of the parts that the judge reads, where there is one.
    fn new(
        index: usize,
        s: &'a gavel_sequence,
        widths: Option<[usize; PARTS]>,
    ) -> Result<Checked<'a>, Error> {
        let wrong = |what: String| Error::invalid(format!("sequences[{index}]: {what}"));
        let needs = |there: bool, what: &str, why: &str| match there {
            true => Ok(()),
            false => Err(wrong(format!(
                "{what} is NULL or 0, expected one for {why}"
            ))),
        };
        let stride = |name: &str, found: u32, width: u32| match found {
            0 => Ok(width as usize),
            _ if found >= width && found <= i32::MAX as u32 => Ok(found as usize),
            _ => Err(wrong(format!(
                "{name} is {found}, expected at least {width}"
            ))),
        };
        if s.most_nodes as usize > GAVEL_MAX_NODES {
            return Err(wrong(format!(
                "most_nodes is {}, expected at most {GAVEL_MAX_NODES}",
                s.most_nodes
            )));
        }
        for (name, width) in [
            ("vocabulary", s.vocabulary),
            ("draft_vocabulary", s.draft_vocabulary),
        ] {
            if width > GAVEL_MAX_VOCABULARY {
                let expected = format!("expected at most {GAVEL_MAX_VOCABULARY}");
                return Err(wrong(format!("{name} is {width}, {expected}")));
            }
        }
        needs(s.vocabulary > 0, "vocabulary", "every sequence")?;
        needs(!s.logits.is_null(), "logits", "every sequence")?;
        needs(!s.random.is_null(), "random", "every sequence")?;
        needs(!s.verdict.is_null(), "verdict", "every sequence")?;
        needs(
            s.guard_count == 0 || !s.guard.is_null(),
            "guard",
            "guard_count",
        )?;
        if s.guard_count > GAVEL_MAX_VOCABULARY {
            return Err(wrong(format!("guard_count is {}", s.guard_count)));
        }
        let known = GAVEL_SAMPLED_CHILDREN | GAVEL_ADVANCE_STEP;
        if s.flags & !known != 0 {
            return Err(wrong(format!(
                "flags are {:#x}, expected of {known:#x}",
                s.flags
            )));
        }
        let (a, b, k) = (s.threshold, s.second, s.k as usize);
        let rule = match s.rule {
            GAVEL_RULE_CHAIN => Rule::Chain,
            GAVEL_RULE_BLOCK => Rule::Block,
            GAVEL_RULE_JUDGE => Rule::Judge { theta: a },
            GAVEL_RULE_KL if k > 1 => {
                return Err(wrong(format!(
                    "k is {k}, expected 0 or 1 for GAVEL_RULE_KL"
                )));
            }
            GAVEL_RULE_KL => Rule::Kl {
                delta: a,
                reverse: k == 1,
            },
            GAVEL_RULE_MARGIN => Rule::Margin { ratio: a },
            GAVEL_RULE_TYPICAL => Rule::Typical { eps: a, alpha: b },
            GAVEL_RULE_THRESHOLD => Rule::Threshold { t: a },
            GAVEL_RULE_SGLANG => Rule::Sglang {
                single: a,
                accumulated: b,
            },
            GAVEL_RULE_TOPK => Rule::TopK { k },
            GAVEL_RULE_SYNTHETIC => Rule::Synthetic { rate: a },
            other => return Err(wrong(format!("rule is {other}, expected GAVEL_RULE_*"))),
        };
        let policy = Policy::new(sampling(&s.sampling), rule);
        let draft_sampling = sampling(&s.draft_sampling);
        policy.check().map_err(|e| wrong(e.to_string()))?;
        draft_sampling
            .check()
            .map_err(|e| wrong(format!("draft_sampling: {e}")))?;
        let samples = s.flags & GAVEL_SAMPLED_CHILDREN != 0;
        if samples || rule.needs_r() {
            let why = if samples {
                "GAVEL_SAMPLED_CHILDREN"
            } else {
                "GAVEL_RULE_KL"
            };
            needs(!s.draft_logits.is_null(), "draft_logits", why)?;
            needs(s.draft_vocabulary > 0, "draft_vocabulary", why)?;
        }
        let mut hidden_stride = [0; PARTS];
        if rule.needs_scores() && s.scores.is_null() {
            let Some(widths) = widths else {
                let what = "GAVEL_RULE_JUDGE needs scores, or a judge and hidden states";
                return Err(wrong(what.to_owned()));
            };
            for (part, &width) in widths.iter().enumerate().filter(|(_, width)| **width > 0) {
                let why = format!("a judge that reads {width} values there");
                needs(!s.hidden[part].is_null(), &format!("hidden[{part}]"), &why)?;
                hidden_stride[part] = stride("hidden_stride", s.hidden_stride[part], width as u32)?;
            }
        }
        Ok(Checked {
            sequence: s,
            policy,
            draft_sampling,
            stride: stride("logits_stride", s.logits_stride, s.vocabulary)?,
            draft_stride: stride("draft_stride", s.draft_stride, s.draft_vocabulary)?,
            hidden_stride,
            samples,
        })
    }

    /// The same for the device.
    fn ask(&self) -> Ask {
        let s = self.sequence;
        let mut policy = device::Policy::of(&self.policy, s.guard as u64);
        policy.guards = s.guard_count as i32;
        let drafts = self.samples || self.policy.rule.needs_r();
        Ask {
            tree: s.tree as u64,
            target: s.logits as u64,
            drafter: if drafts { s.draft_logits as u64 } else { 0 },
            hidden: s.hidden.map(|part| part as u64),
            scores: s.scores as u64,
            stream: s.random as u64,
            verdict: s.verdict as u64,
            policy,
            draft_sampling: device::Sampling::of(&self.draft_sampling),
            vocabulary: s.vocabulary as i32,
            target_stride: self.stride as i32,
            drafter_vocabulary: s.draft_vocabulary as i32,
            drafter_stride: self.draft_stride as i32,
            hidden_stride: self.hidden_stride.map(|stride| stride as i32),
            most_nodes: s.most_nodes as i32,
            flags: match self.samples {
                true => SAMPLED,
                false => 0,
            } | match s.flags & GAVEL_ADVANCE_STEP {
                0 => 0,
                _ => ADVANCES,
            },
        }
    }

    /// The policy with a guard that lies in host memory.
    ///
    /// # Safety
    /// The guard is `guard_count` numbers in host memory.
    pub unsafe fn guarded_policy(&self) -> Policy {
        let guard: Guard = match self.sequence.guard_count {
            0 => Guard::NONE,
            // SAFETY: the caller vouches for it; `new` has refused NULL.
            count => unsafe { std::slice::from_raw_parts(self.sequence.guard, count as usize) }
                .iter()
                .filter_map(|&token| u32::try_from(token).ok())
                .collect(),
        };
        Policy {
            guard,
            ..self.policy.clone()
        }
    }
}

fn sampling(s: &gavel_sampling) -> Sampling {
    Sampling {
        temperature: s.temperature,
        top_k: s.top_k as usize,
        top_p: if s.top_p == 0.0 { 1.0 } else { s.top_p },
    }
}
