//! Level one: an engine. Open, generate, close.

use crate::error::{Error, GAVEL_BUSY, GAVEL_PANIC, gavel_status, given, guarded, place, text};
use crate::options::{Options, gavel_options};
use gavel::device::{Committed, Device, Finish, Place, Request, Setup, TokenReason};
use gavel::draft::Drafter;
use gavel::engine::{DraftOptions, Ended, Generation, Stats, Steps, TextOutput, generate, guard};
use gavel::judge::{At, Judge, JudgeError};
use gavel::model::{ChatTemplate, Model, Tokenizer};
use gavel::verify::{Policy, Rule, Sampling};
use std::ffi::{CString, c_char, c_void};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Duration;

/// Drafted, and accepted by the lossless rule.
pub const GAVEL_ALIGNED: i32 = 0;
/// Drafted, and rescued by a judge rule.
pub const GAVEL_JUDGED: i32 = 1;
/// The target's own, after a path to a leaf.
pub const GAVEL_BONUS: i32 = 2;
/// The target's own, after a rejection.
pub const GAVEL_RESIDUAL: i32 = 3;

/// A stop token was committed.
pub const GAVEL_FINISH_STOP: i32 = 0;
/// max-tokens are there.
pub const GAVEL_FINISH_LENGTH: i32 = 1;
/// The context is full.
pub const GAVEL_FINISH_CONTEXT: i32 = 2;
/// A stop string would have begun.
pub const GAVEL_FINISH_STOP_STRING: i32 = 3;
/// The callback had enough.
pub const GAVEL_FINISH_CALLER: i32 = 4;

/// A target with its drafter on a device, and one sequence. Used from any thread, by one at a time:
/// a second one gets GAVEL_BUSY. Engines do not share anything but the pages of mapped weights;
/// several may work at the same time.
pub struct gavel_engine {
    engine: Mutex<Engine>,
    device: CString,
}

struct Engine {
    target: Arc<Model>,
    tokenizer: Tokenizer,
    drafter: Drafter,
    device: Box<dyn Device>,
    options: Options,
    /// files, whether they may be foreign, and what was read from them
    judges: Vec<(PathBuf, bool, Arc<Judge>)>,
}

/// What one step of a generation added. Pointers are good until the callback returns. More members
/// may come at the end.
#[repr(C)]
pub struct gavel_piece {
    /// Text that may be shown: whole characters, in UTF-8, ending with a zero. It lags behind the
    /// tokens where a character, or what may become a stop string, is not complete; the last call
    /// has no tokens and what was held back.
    pub text: *const c_char,
    /// Its length in bytes, without the zero.
    pub text_bytes: usize,
    /// Token ids, `count` of them, a stop token included.
    pub tokens: *const u32,
    /// `count` numbers: why each is there: GAVEL_ALIGNED, GAVEL_JUDGED, GAVEL_BONUS, GAVEL_RESIDUAL.
    pub reasons: *const i32,
    /// `count` numbers: what a judge rule made of each; NaN where none was asked.
    pub acceptability: *const f32,
    /// Tokens.
    pub count: usize,
}

/// Takes a piece of a generation; a result other than 0 ends it. Called by the thread that
/// generates, once for each step and once at the end. It must return, and may not use the engine.
pub type gavel_callback =
    Option<unsafe extern "C" fn(piece: *const gavel_piece, user: *mut c_void) -> i32>;

/// What a generation took. `size` is the caller's sizeof(gavel_stats): no more is written.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct gavel_stats {
    /// sizeof(gavel_stats)
    pub size: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens added.
    pub tokens: u64,
    /// Target passes after the prompt: one a step.
    pub target_passes: u64,
    /// Nodes drafted.
    pub drafted: u64,
    /// Tokens by reason; aligned and judged are draft tokens kept: m is their sum over
    /// target_passes.
    pub aligned: u64,
    /// See aligned.
    pub judged: u64,
    /// See aligned.
    pub bonus: u64,
    /// See aligned.
    pub residual: u64,
    /// Why it ended: GAVEL_FINISH_*.
    pub finish: i32,
    /// Zero.
    pub reserved: i32,
    /// Seconds for the prompt.
    pub prefill_s: f64,
    /// Seconds from the call to the first token.
    pub first_token_s: f64,
    /// Seconds from the call to the last token.
    pub total_s: f64,
    /// Seconds of drafting; this and the next two by the device's own clock.
    pub draft_s: f64,
    /// Seconds of target passes.
    pub target_s: f64,
    /// Seconds of judging, verifying and committing.
    pub verify_s: f64,
}

/// Opens an engine. `options` are copied; those of a generation become the defaults of every
/// generation.
///
/// # Safety
/// `options` comes from gavel_options_new, `out` is a place for a pointer, NULL after a failure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gavel_engine_open(
    options: *const gavel_options,
    out: *mut *mut gavel_engine,
) -> gavel_status {
    guarded(|| {
        // SAFETY: the caller vouches for both.
        let (out, options) = unsafe { (place(out, "out")?, given(options, "options")?) };
        *out = std::ptr::null_mut();
        let engine = Engine::open(&options.options)?;
        let device = CString::new(engine.device.describe()).unwrap_or_default();
        *out = Box::into_raw(Box::new(gavel_engine {
            engine: Mutex::new(engine),
            device,
        }));
        Ok(())
    })
}

/// What the engine runs on, for people; good as long as the engine.
///
/// # Safety
/// `engine` comes from gavel_engine_open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gavel_engine_device(engine: *const gavel_engine) -> *const c_char {
    // SAFETY: the caller vouches for it.
    match unsafe { engine.as_ref() } {
        Some(engine) => engine.device.as_ptr(),
        None => c"".as_ptr(),
    }
}

/// Continues a prompt, UTF-8 that ends with a zero. `options`, NULL for none, go over those of the
/// engine. `callback` may be NULL, and so may `stats`.
///
/// # Safety
/// `engine` comes from gavel_engine_open, `options` from gavel_options_new; `callback` may be called
/// with `user`; `stats` is NULL or as large as its `size` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gavel_engine_generate(
    engine: *mut gavel_engine,
    options: *const gavel_options,
    prompt: *const c_char,
    callback: gavel_callback,
    user: *mut c_void,
    stats: *mut gavel_stats,
) -> gavel_status {
    guarded(|| {
        // SAFETY: the caller vouches for all of it.
        unsafe {
            let prompt = text(prompt, "prompt")?;
            let encode = |engine: &Engine, options: &Options| engine.encode(prompt, options);
            run(engine, options, encode, callback, user, stats)
        }
    })
}

/// As gavel_engine_generate, for a prompt of token ids.
///
/// # Safety
/// As of gavel_engine_generate; `tokens` holds `count` ids.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gavel_engine_generate_tokens(
    engine: *mut gavel_engine,
    options: *const gavel_options,
    tokens: *const u32,
    count: usize,
    callback: gavel_callback,
    user: *mut c_void,
    stats: *mut gavel_stats,
) -> gavel_status {
    guarded(|| {
        let tokens = match count {
            0 => &[],
            // SAFETY: the caller vouches for it.
            _ => unsafe { std::slice::from_raw_parts(given(tokens, "tokens")?, count) },
        };
        let encode = |_: &Engine, _: &Options| Ok(tokens.to_vec());
        // SAFETY: the caller vouches for all of it.
        unsafe { run(engine, options, encode, callback, user, stats) }
    })
}

/// Frees an engine; NULL is none.
///
/// # Safety
/// `engine` is NULL or comes from gavel_engine_open; no thread uses it, now or later.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gavel_engine_close(engine: *mut gavel_engine) {
    if !engine.is_null() {
        guarded(|| {
            // SAFETY: made by `gavel_engine_open`; the caller vouches that this is its end.
            drop(unsafe { Box::from_raw(engine) });
            Ok(())
        });
    }
}

/// # Safety
/// As of [`gavel_engine_generate`].
unsafe fn run(
    engine: *mut gavel_engine,
    options: *const gavel_options,
    encode: impl FnOnce(&Engine, &Options) -> Result<Vec<u32>, Error>,
    callback: gavel_callback,
    user: *mut c_void,
    stats: *mut gavel_stats,
) -> Result<(), Error> {
    // SAFETY: the caller vouches for it; a shared reference, as another thread may ask, too.
    let engine = unsafe { given(engine.cast_const(), "engine")? };
    let mut engine = match engine.engine.try_lock() {
        Ok(engine) => engine,
        Err(TryLockError::WouldBlock) => {
            return Err(Error {
                status: GAVEL_BUSY,
                message:
                    "the engine is at work, expected one thread at a time and none of its callbacks"
                        .to_owned(),
            });
        }
        Err(TryLockError::Poisoned(_)) => {
            return Err(Error {
                status: GAVEL_PANIC,
                message: "the engine came to a fault before, expected it to be closed".to_owned(),
            });
        }
    };
    let size = match stats.is_null() {
        true => None,
        // SAFETY: the caller vouches for it: the size comes first.
        false => Some(unsafe { stats.cast::<usize>().read_unaligned() }),
    };
    // SAFETY: the caller vouches for it.
    let options = match unsafe { options.as_ref() } {
        Some(options) => options.options.over(&engine.options)?,
        None => engine.options.clone(),
    };
    let prompt = encode(&engine, &options)?;
    let mut output = Output {
        callback,
        user,
        reasons: Vec::new(),
        acceptability: Vec::new(),
        tokens: Vec::new(),
    };
    let (generation, finish) = engine.generate(&options, prompt, &mut output)?;
    if let Some(size) = size {
        let all = counted(&generation.stats, finish, size);
        let bytes = size.min(size_of::<gavel_stats>());
        // SAFETY: the caller has room for `size` bytes.
        unsafe {
            std::ptr::from_ref(&all)
                .cast::<u8>()
                .copy_to(stats.cast(), bytes)
        };
    }
    Ok(())
}

fn counted(stats: &Stats, finish: i32, size: usize) -> gavel_stats {
    let seconds = |t: Duration| t.as_secs_f64();
    gavel_stats {
        size,
        prompt_tokens: stats.prompt_tokens as u64,
        tokens: stats.tokens as u64,
        target_passes: stats.passes as u64,
        drafted: stats.drafted as u64,
        aligned: stats.aligned as u64,
        judged: stats.judged as u64,
        bonus: stats.bonus as u64,
        residual: stats.residual as u64,
        finish,
        reserved: 0,
        prefill_s: seconds(stats.prefill),
        first_token_s: seconds(stats.first_token),
        total_s: seconds(stats.total),
        draft_s: seconds(stats.times.draft),
        target_s: seconds(stats.times.target),
        verify_s: seconds(stats.times.verify),
    }
}

/// Where the pieces of a generation go.
struct Output {
    callback: gavel_callback,
    user: *mut c_void,
    tokens: Vec<u32>,
    reasons: Vec<i32>,
    acceptability: Vec<f32>,
}

impl Output {
    /// Hands over a piece; whether the caller goes on.
    fn give(&mut self, text: String, committed: &[Committed]) -> bool {
        let Some(callback) = self.callback else {
            return true;
        };
        self.tokens.clear();
        self.tokens.extend(committed.iter().map(|c| c.token));
        let number = |c: &Committed| match c.reason {
            TokenReason::Aligned => GAVEL_ALIGNED,
            TokenReason::Judged => GAVEL_JUDGED,
            TokenReason::Bonus => GAVEL_BONUS,
            TokenReason::Residual => GAVEL_RESIDUAL,
        };
        self.reasons.clear();
        self.reasons.extend(committed.iter().map(number));
        self.acceptability.clear();
        let values = committed
            .iter()
            .map(|c| c.acceptability.unwrap_or(f32::NAN));
        self.acceptability.extend(values);
        let text_bytes = text.len();
        let mut text = text.into_bytes();
        text.push(0);
        let piece = gavel_piece {
            text: text.as_ptr().cast(),
            text_bytes,
            tokens: self.tokens.as_ptr(),
            reasons: self.reasons.as_ptr(),
            acceptability: self.acceptability.as_ptr(),
            count: committed.len(),
        };
        // SAFETY: the caller vouches for function and argument; the piece outlives the call.
        unsafe { callback(&piece, self.user) == 0 }
    }
}

impl Engine {
    fn open(options: &Options) -> Result<Engine, Error> {
        let model = options.get("model");
        let model = model.ok_or_else(|| Error::invalid("option 'model' is not set"))?;
        let at = Model::locate(model).map_err(Error::failed)?;
        let target = Arc::new(Model::open(&at).map_err(Error::failed)?);
        let tokenizer = Tokenizer::open(&target.dir).map_err(Error::failed)?;
        let drafter = Drafter::open(options.get("draft").unwrap_or("none"), &target)?;
        let context = options.parsed("context")?;
        let setup = Setup {
            context: context.unwrap_or_else(|| Setup::default_context(&target)),
            target: target.clone(),
            drafter: drafter.clone(),
            threads: options.parsed("threads")?.unwrap_or(0),
        };
        let device = options
            .parsed("device")?
            .unwrap_or(Place::Cpu)
            .open(&setup)?;
        Ok(Engine {
            target,
            tokenizer,
            drafter,
            device,
            options: options.clone(),
            judges: Vec::new(),
        })
    }

    fn encode(&self, prompt: &str, options: &Options) -> Result<Vec<u32>, Error> {
        let system = options.get("system");
        if !options.on("chat")? && system.is_none() {
            return self.tokenizer.encode(prompt, true).map_err(Error::failed);
        }
        let template = ChatTemplate::open(&self.target.dir).map_err(Error::failed)?;
        let template = template.ok_or_else(|| {
            Error::invalid(format!(
                "option 'chat': {} has no chat template",
                self.target.dir.display()
            ))
        })?;
        let text = template.ask(system, prompt).map_err(Error::failed)?;
        // the template writes the special tokens itself
        self.tokenizer.encode(&text, false).map_err(Error::failed)
    }

    fn generate(
        &mut self,
        options: &Options,
        prompt: Vec<u32>,
        output: &mut Output,
    ) -> Result<(Generation, i32), Error> {
        let mut steps = self.steps(options)?;
        let request = Request {
            prompt,
            max_tokens: options.parsed("max-tokens")?.unwrap_or(256),
            stop_tokens: match options.on("ignore-eos")? {
                true => Vec::new(),
                false => self.target.generation.eos.clone(),
            },
            seed: options.parsed("seed")?.unwrap_or(0),
            sequence: options.parsed("sequence")?.unwrap_or(0),
        };
        let mut text = TextOutput::new(self.tokenizer.stream(), options.all("stop"));
        let mut stopped = false;
        let on_tokens = |committed: &[Committed]| {
            let mut shown = String::new();
            for c in committed {
                if request.stop_tokens.contains(&c.token) || stopped {
                    break;
                }
                let trimmed = text.push(c.token);
                shown += &trimmed.text;
                stopped = trimmed.stopped;
            }
            match output.give(shown, committed) && !stopped {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        };
        let generation = generate(self.device.as_mut(), &request, steps.as_mut(), on_tokens)?;
        let rest = text.finish();
        output.give(rest.text, &[]);
        let finish = match generation.ended {
            _ if rest.stopped => GAVEL_FINISH_STOP_STRING,
            Ended::Caller => GAVEL_FINISH_CALLER,
            Ended::Device(Finish::Stop) => GAVEL_FINISH_STOP,
            Ended::Device(Finish::Length) => GAVEL_FINISH_LENGTH,
            Ended::Device(Finish::Context) => GAVEL_FINISH_CONTEXT,
        };
        Ok((generation, finish))
    }

    /// What decides the steps of a generation.
    fn steps(&mut self, options: &Options) -> Result<Box<dyn Steps>, Error> {
        let judge = self.judge(options)?;
        let mut rule: Rule = options.parsed("rule")?.unwrap_or_default();
        if let Some(judge) = &judge {
            let at = options.parsed("at")?.unwrap_or(At::F1);
            let theta = judge.theta(at).map_err(invalid)?;
            rule = rule.with_judge(theta).map_err(invalid)?;
        }
        let policy = Policy {
            sampling: Sampling {
                temperature: options.parsed("temperature")?.unwrap_or(0.0),
                top_k: options.parsed("top-k")?.unwrap_or(0),
                top_p: options.parsed("top-p")?.unwrap_or(1.0),
            },
            rule,
            guard: guard(
                options.get("guard").unwrap_or(""),
                &self.target,
                &self.tokenizer,
            )
            .map_err(|e| Error::invalid(format!("option 'guard' has {e}")))?,
        };
        let draft = DraftOptions {
            gamma: options.parsed("gamma")?,
            tree: options.parsed("tree")?,
            draw: options.parsed("draw")?,
            temperature: options.parsed("draft-temperature")?,
        };
        let step = draft.step(&self.drafter, policy, judge).map_err(invalid)?;
        Ok(draft.steps(step))
    }

    /// The judge that the options name, checked against the models.
    fn judge(&mut self, options: &Options) -> Result<Option<Arc<Judge>>, Error> {
        let Some(path) = options.get("judge").filter(|path| *path != "none") else {
            return Ok(None);
        };
        let (path, foreign) = (PathBuf::from(path), options.on("allow-foreign-target")?);
        let known = self
            .judges
            .iter()
            .find(|(p, f, _)| *p == path && *f == foreign);
        if let Some((.., judge)) = known {
            return Ok(Some(judge.clone()));
        }
        let judge = Judge::open(&path, &self.target, &self.drafter, foreign);
        let judge = Arc::new(judge.map_err(|e| match e {
            JudgeError::Unfit { .. } => invalid(e),
            _ => Error::failed(e),
        })?);
        self.judges.push((path, foreign, judge.clone()));
        Ok(Some(judge))
    }
}

fn invalid(error: impl std::fmt::Display) -> Error {
    Error::invalid(error.to_string())
}
