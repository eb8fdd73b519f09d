//! gavel inside other programs: the C interface, its header, its library, and the examples, which
//! are compiled with the compilers of this machine and run.

use gavel_c::*;
use std::ffi::{CStr, CString, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr::{null, null_mut};

#[allow(dead_code)]
#[path = "cuda/process.rs"]
mod process;

#[path = "../examples/embed.rs"]
mod embed;

/// A problem of the kind that the demo pair answers.
const QUESTION: &str = "Finn has 43 cards. Finn buys 24 more. How many cards does Finn have now?";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn demo(name: &str) -> String {
    let path = root().join("models/demo").join(name);
    path.to_str().expect("UTF-8").to_owned()
}

/// What cargo made of capi/archive.rs for this very run.
fn library(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let profile = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
    let library = profile.join("examples").join(name);
    assert!(
        library.is_file(),
        "expected {}: `cargo build --workspace --examples` makes it, and so does `cargo test --workspace`",
        library.display()
    );
    library
}

/// Runs a command that must succeed; what it printed to standard output, and to standard error.
fn run(command: &mut Command) -> (String, String) {
    let output = command.output();
    let output = output.unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}:\n{out}{err}");
    (out, err)
}

/// Whether a tool is there; says that a test does without it where not.
fn has(tool: &str) -> bool {
    let there = Command::new(tool).arg("--version").output().is_ok();
    if !there {
        eprintln!("skipped: there is no {tool} on this machine");
    }
    there
}

/// What the command line answers with the demo pair.
fn expected(args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gavel"));
    command.args([
        "generate",
        "--model",
        &demo("target"),
        "--draft",
        &demo("draft"),
    ]);
    command.args([
        "--gamma",
        "8",
        "--chat",
        "--max-tokens",
        "200",
        "--prompt",
        QUESTION,
    ]);
    let (text, _) = run(command.args(args));
    assert!(text.len() > 20, "{text}");
    text
}

/// What a release holds, from what was built for the tests.
fn release(out: &Path) -> PathBuf {
    let mut command = Command::new("python3");
    command
        .arg(root().join("scripts/dist.py"))
        .arg("--no-archive");
    command.args(["--executable", env!("CARGO_BIN_EXE_gavel"), "--library"]);
    command.arg(library("libgavel.a")).arg("--out").arg(out);
    let (said, _) = run(&mut command);
    assert!(
        said.contains("bin/gavel needs ") && said.contains("libc.so.6"),
        "{said}"
    );
    PathBuf::from(said.lines().last().expect("a folder"))
}

/// Compiles an example as its first lines say, with the flags of pkg-config or what it would say.
fn compile(compiler: &str, source: &str, release: &Path, out: &Path) -> PathBuf {
    let program = out.join(source.replace('.', "-"));
    let mut command = Command::new(compiler);
    command
        .args(["-Wall", "-Wextra", "-Werror", "-O1", "-o"])
        .arg(&program);
    command.arg(root().join("examples").join(source));
    let mut ask = Command::new("pkg-config");
    ask.env("PKG_CONFIG_PATH", release.join("lib/pkgconfig"));
    ask.args(["--cflags", "--static", "--libs", "gavel"]);
    let flags = match has("pkg-config") {
        true => run(&mut ask).0,
        false => format!(
            "-I{0}/include -L{0}/lib -lgavel -lgcc_s -lpthread -ldl -lm -lrt -lutil",
            release.display()
        ),
    };
    run(command.args(flags.split_whitespace()));
    program
}

#[test]
fn gavel_h_is_what_cbindgen_makes_of_the_sources() {
    let capi = root().join("capi");
    let config = cbindgen::Config::from_file(capi.join("cbindgen.toml")).expect("a configuration");
    let mut builder = cbindgen::Builder::new().with_config(config);
    for file in ["error", "options", "engine", "verifier"] {
        builder = builder.with_src(capi.join(format!("src/{file}.rs")));
    }
    let mut made = Vec::new();
    builder.generate().expect("a header").write(&mut made);
    let made = String::from_utf8(made).expect("UTF-8");
    let path = capi.join("include/gavel.h");
    if std::env::var_os("GAVEL_WRITE_HEADER").is_some() {
        std::fs::write(&path, &made).expect("gavel.h");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == made,
        "{} is not current: run `GAVEL_WRITE_HEADER=1 cargo test --test embedding gavel_h`",
        path.display()
    );
}

/// generate.c, built into this program, says what the command says.
fn generates(program: &Path) {
    let mut command = Command::new(program);
    command
        .args([demo("target"), demo("draft"), demo("judge.safetensors")])
        .arg(QUESTION);
    let (text, said) = run(&mut command);
    // as the command does, by the lossless rule and with the judge
    let [lossless, judged] = [
        expected(&[]),
        expected(&["--judge", &demo("judge.safetensors")]),
    ];
    let both = [lossless.trim_end(), judged.trim_end(), ""].join("\n");
    assert_eq!(text, both);
    assert_eq!(said.matches(" judged, ").count(), 2, "{said}");
    assert!(
        said.contains(" 0 judged, ") && said.contains(" on cpu"),
        "{said}"
    );
}

/// verifier.cpp, built into this program: an engine with a forward pass of its own, on the software
/// device, which it finds in `folder`.
fn verifies(program: &Path, folder: &Path) {
    let mut command = Command::new(program);
    command.arg(demo("judge.safetensors"));
    process::use_driver(&mut command, folder, &process::softcuda());
    let (text, _) = run(&mut command);
    assert!(text.contains("host and device agree"), "{text}");
    for none in [" 0 nodes", " 0 of them"] {
        assert!(!text.contains(none), "{text}");
    }
}

#[test]
fn programs_in_c_and_cpp_are_built_from_a_release_and_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let release = release(folder.path());
    generates(&compile("cc", "generate.c", &release, folder.path()));
    let program = compile("c++", "verifier.cpp", &release, folder.path());
    verifies(&program, folder.path());

    // the library starts where there is no driver, and says so
    let mut command = Command::new(&program);
    let output = command
        .env("LD_LIBRARY_PATH", folder.path().join("none"))
        .output();
    let output = output.expect("a process");
    if Path::new("/dev/nvidiactl").exists() {
        eprintln!("skipped: this machine has an NVIDIA driver");
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("no CUDA driver"), "{said}");
    }
}

#[test]
fn a_cmake_project_finds_the_release() {
    if !has("cmake") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let release = release(folder.path());
    let project = format!(
        "cmake_minimum_required(VERSION 3.16)\n\
         project(embedding C CXX)\n\
         find_package(gavel 0.1 REQUIRED)\n\
         add_executable(generate \"{examples}/generate.c\")\n\
         add_executable(verifier \"{examples}/verifier.cpp\")\n\
         target_link_libraries(generate gavel::gavel)\n\
         target_link_libraries(verifier gavel::gavel)\n",
        examples = root().join("examples").display()
    );
    std::fs::write(folder.path().join("CMakeLists.txt"), project).expect("a project");
    let build = folder.path().join("build");
    let mut configure = Command::new("cmake");
    configure.arg("-S").arg(folder.path()).arg("-B").arg(&build);
    run(configure.arg(format!("-DCMAKE_PREFIX_PATH={}", release.display())));
    run(Command::new("cmake").arg("--build").arg(&build));
    generates(&build.join("generate"));
    verifies(&build.join("verifier"), folder.path());
}

#[test]
fn a_python_program_generates_through_ctypes() {
    let mut command = Command::new("python3");
    command
        .arg(root().join("examples/generate.py"))
        .arg(library("libgavel.so"));
    command.args([demo("target"), demo("draft"), QUESTION.to_owned()]);
    let (text, said) = run(&mut command);
    assert_eq!(text, expected(&["--rule", "typical"]).trim_end());
    assert!(
        said.contains("aligned ") && said.contains("as expected: "),
        "{said}"
    );
}

#[test]
fn a_rust_program_generates() {
    let (target, draft) = (demo("target"), demo("draft"));
    let (answer, share) =
        embed::answer(target.as_ref(), draft.as_ref(), QUESTION).expect("an answer");
    assert_eq!(answer, expected(&["--rule", "typical"]).trim_end());
    assert!(share > 0.5, "{share}");
}

/// The last error of this thread.
fn last_error() -> String {
    // SAFETY: a string that ends with a zero, good until the next failure.
    let text = unsafe { CStr::from_ptr(gavel_last_error()) };
    text.to_str().expect("UTF-8").to_owned()
}

fn options(values: &[(&str, &str)]) -> *mut gavel_options {
    let options = gavel_options_new();
    for (name, value) in values {
        let [name, value] = [name, value].map(|text| CString::new(*text).expect("no zero"));
        // SAFETY: made above.
        let status = unsafe { gavel_options_set(options, name.as_ptr(), value.as_ptr()) };
        assert_eq!(status, GAVEL_OK, "{}", last_error());
    }
    options
}

fn open(values: &[(&str, &str)]) -> Result<*mut gavel_engine, (i32, String)> {
    let options = options(values);
    let mut engine = null_mut();
    // SAFETY: made above, and freed once.
    let status = unsafe {
        let status = gavel_engine_open(options, &mut engine);
        gavel_options_free(options);
        status
    };
    match status {
        GAVEL_OK => Ok(engine),
        _ => {
            assert!(engine.is_null());
            Err((status, last_error()))
        }
    }
}

#[test]
fn what_is_wrong_is_said_with_a_code_and_a_message() {
    let (target, draft) = (demo("target"), demo("draft"));
    type Values<'a> = &'a [(&'a str, &'a str)];
    let cases: [(Values<'_>, i32, &str); 8] = [
        (&[], GAVEL_INVALID, "'model' is not set"),
        (
            &[("model", "/no/such/folder")],
            GAVEL_FAILED,
            "/no/such/folder",
        ),
        (
            &[("model", target.as_str()), ("draft", "/no/such/folder")],
            GAVEL_FAILED,
            "/no/such/folder",
        ),
        (
            &[("model", target.as_str()), ("draft", "self:x")],
            GAVEL_INVALID,
            "'x' is no number of layers",
        ),
        (
            &[("model", target.as_str()), ("draft", "self:99")],
            GAVEL_INVALID,
            "cannot be cut to 99 layers",
        ),
        (
            &[("model", target.as_str()), ("device", "gpu")],
            GAVEL_INVALID,
            "expected cpu or cuda[:INDEX]",
        ),
        (
            &[("model", target.as_str()), ("context", "many")],
            GAVEL_INVALID,
            "option 'context' is 'many'",
        ),
        (
            &[("model", target.as_str()), ("context", "1000000000")],
            GAVEL_INVALID,
            "max_position_embeddings",
        ),
    ];
    for (values, code, message) in cases {
        let (status, said) = open(values).expect_err("refused");
        assert_eq!(status, code, "{said}");
        assert!(said.contains(message), "{said}");
    }
    // SAFETY: NULL is what these are about.
    unsafe {
        let options = gavel_options_new();
        let name = c"mdoel".as_ptr();
        assert_eq!(gavel_options_set(options, name, name), GAVEL_INVALID);
        assert!(last_error().contains("option 'mdoel' is unknown, expected one of model"));
        assert_eq!(gavel_options_set(options, null(), name), GAVEL_INVALID);
        assert_eq!(gavel_options_set(null_mut(), name, name), GAVEL_INVALID);
        assert_eq!(gavel_engine_open(options, null_mut()), GAVEL_INVALID);
        gavel_options_free(options);
        gavel_options_free(null_mut());
        gavel_engine_close(null_mut());
        let prompt = c"a".as_ptr();
        let status =
            gavel_engine_generate(null_mut(), null(), prompt, None, null_mut(), null_mut());
        assert_eq!(status, GAVEL_INVALID);
        assert!(last_error().contains("engine: found NULL"));
    }
    // the small model as the target, so that the pair's judge is another target's
    let engine = open(&[("model", &draft), ("draft", "ngram")]).expect("an engine");
    let judge = demo("judge.safetensors");
    let cases: [(Values<'_>, i32, &str); 11] = [
        (
            &[("device", "cpu")],
            GAVEL_INVALID,
            "option 'device' is the engine's",
        ),
        (
            &[("rule", "chian")],
            GAVEL_INVALID,
            "rule 'chian' is unknown",
        ),
        (
            &[("rule", "block"), ("tree", "2x1")],
            GAVEL_INVALID,
            "verifies chains, found the tree 2x1",
        ),
        (
            &[("judge", &judge)],
            GAVEL_INVALID,
            "the judge does not fit: width of the target",
        ),
        (
            &[("judge", "/no/judge")],
            GAVEL_FAILED,
            "/no/judge: cannot be read",
        ),
        (&[("gamma", "x")], GAVEL_INVALID, "option 'gamma' is 'x'"),
        (&[("gamma", "0")], GAVEL_INVALID, "0 is no number of nodes"),
        (
            &[("draw", "best")],
            GAVEL_INVALID,
            "'best': expected sample or top",
        ),
        (
            &[("guard", "400000")],
            GAVEL_INVALID,
            "option 'guard' has '400000'",
        ),
        (&[("chat", "yes")], GAVEL_INVALID, "expected 0 or 1"),
        (&[("top-p", "2")], GAVEL_INVALID, "top-p is 2"),
    ];
    for (values, code, message) in cases {
        let options = options(values);
        // SAFETY: made above.
        let status = unsafe {
            let prompt = c"a".as_ptr();
            let status =
                gavel_engine_generate(engine, options, prompt, None, null_mut(), null_mut());
            gavel_options_free(options);
            status
        };
        assert_eq!(status, code, "{values:?}: {}", last_error());
        assert!(
            last_error().contains(message),
            "{values:?}: {}",
            last_error()
        );
    }
    // another thread has failed at nothing
    std::thread::spawn(|| assert_eq!(last_error(), ""))
        .join()
        .expect("a thread");
    // SAFETY: opened above.
    unsafe { gavel_engine_close(engine) };
}

/// What a callback is told.
struct Told {
    engine: *mut gavel_engine,
    tokens: Vec<u32>,
    most: usize,
    text: String,
    busy: bool,
}

unsafe extern "C" fn take(piece: *const gavel_piece, user: *mut c_void) -> i32 {
    // SAFETY: `generate` passes a Told, and gavel a piece.
    let (piece, told) = unsafe { (&*piece, &mut *user.cast::<Told>()) };
    if piece.count > 0 {
        // SAFETY: so many tokens.
        let tokens = unsafe { std::slice::from_raw_parts(piece.tokens, piece.count) };
        told.tokens.extend_from_slice(tokens);
    }
    // SAFETY: ends with a zero.
    let text = unsafe { CStr::from_ptr(piece.text) }
        .to_str()
        .expect("UTF-8");
    assert_eq!(text.len(), piece.text_bytes);
    told.text += text;
    // SAFETY: an engine that is at work refuses.
    let again = unsafe {
        let prompt = c"again".as_ptr();
        gavel_engine_generate(told.engine, null(), prompt, None, null_mut(), null_mut())
    };
    told.busy |= again == GAVEL_BUSY;
    i32::from(told.tokens.len() >= told.most)
}

fn generate(engine: *mut gavel_engine, most: usize) -> (Told, gavel_stats) {
    let mut told = Told {
        engine,
        tokens: Vec::new(),
        most,
        text: String::new(),
        busy: false,
    };
    let mut stats = gavel_stats {
        size: size_of::<gavel_stats>(),
        ..gavel_stats::default()
    };
    let prompt = CString::new(QUESTION).expect("no zero");
    // SAFETY: an engine, and what `take` expects.
    let status = unsafe {
        let user = (&raw mut told).cast();
        gavel_engine_generate(
            engine,
            null(),
            prompt.as_ptr(),
            Some(take),
            user,
            &mut stats,
        )
    };
    assert_eq!(status, GAVEL_OK, "{}", last_error());
    (told, stats)
}

#[test]
fn engines_work_side_by_side_and_a_callback_ends_a_generation() {
    let (target, draft) = (demo("target"), demo("draft"));
    let common = [
        ("model", target.as_str()),
        ("chat", "1"),
        ("max-tokens", "60"),
        ("threads", "1"),
    ];
    let drafted = [
        common.as_slice(),
        &[("draft", draft.as_str()), ("gamma", "5")],
    ]
    .concat();
    let plain = [common.as_slice(), &[("draft", "none")]].concat();
    let whole = std::thread::scope(|scope| {
        let threads = [&drafted, &plain, &drafted].map(|values| {
            scope.spawn(move || {
                let engine = open(values).expect("an engine");
                let (told, stats) = generate(engine, usize::MAX);
                // SAFETY: opened above.
                unsafe { gavel_engine_close(engine) };
                assert!(told.busy);
                assert_eq!(told.tokens.len() as u64, stats.tokens);
                assert_eq!(
                    stats.tokens,
                    stats.aligned + stats.judged + stats.bonus + stats.residual
                );
                (told.tokens, told.text)
            })
        });
        threads.map(|thread| thread.join().expect("a thread"))
    });
    // greedy: the drafter changes nothing
    assert_eq!(whole[0], whole[1]);
    assert_eq!(whole[0], whole[2]);
    let engine = open(&drafted).expect("an engine");
    let (told, stats) = generate(engine, 10);
    assert_eq!(stats.finish, GAVEL_FINISH_CALLER);
    assert!((10..16).contains(&told.tokens.len()));
    assert!(whole[0].1.starts_with(&told.text) && whole[0].0.starts_with(&told.tokens));
    // and the engine is good for another
    let (told, _) = generate(engine, usize::MAX);
    assert_eq!(told.text, whole[0].1);
    // SAFETY: opened above.
    unsafe { gavel_engine_close(engine) };
}

#[test]
fn the_verifier_on_host_memory_refuses_what_it_cannot_use() {
    let logits = [0.0f32, 9.0, 1.0, 0.0].repeat(3);
    // SAFETY: all zero is what C begins with.
    let (mut tree, mut verdict): (gavel_tree, gavel_verdict) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    tree.nodes = 2;
    tree.token[..2].copy_from_slice(&[1, 2]);
    tree.parent[..2].copy_from_slice(&[-1, 0]);
    let mut random = gavel_random {
        seed: 1,
        sequence: 0,
        step: 0,
    };
    // SAFETY: as above.
    let mut sequence: gavel_sequence = unsafe { std::mem::zeroed() };
    sequence.size = size_of::<gavel_sequence>();
    sequence.tree = &tree;
    sequence.logits = logits.as_ptr();
    sequence.random = &mut random;
    sequence.verdict = &mut verdict;
    sequence.most_nodes = 2;
    sequence.vocabulary = 4;
    // SAFETY: all that it points to is here.
    let verify = |s: &gavel_sequence| unsafe { gavel_verify(null(), s, 1) };
    assert_eq!(verify(&sequence), GAVEL_OK);
    assert_eq!((verdict.error, verdict.length, verdict.next), (0, 1, 1));
    assert_eq!(
        verdict.reason[..2],
        [GAVEL_NODE_ALIGNED, GAVEL_NODE_REJECTED]
    );
    // the runner-up is rescued, and a guarded one is not
    sequence.rule = GAVEL_RULE_MARGIN;
    sequence.threshold = 0.1;
    assert_eq!(verify(&sequence), GAVEL_OK);
    assert_eq!((verdict.length, verdict.reason[1]), (2, GAVEL_NODE_JUDGED));
    let guard = [2];
    (sequence.guard, sequence.guard_count) = (guard.as_ptr(), 1);
    assert_eq!(verify(&sequence), GAVEL_OK);
    assert_eq!(
        (verdict.length, verdict.reason[1]),
        (1, GAVEL_NODE_REJECTED)
    );
    type Spoil = fn(&mut gavel_sequence);
    let spoils: [(Spoil, &str); 9] = [
        (|s| s.size = 8, "sequences[0].size is 8"),
        (|s| s.logits = null(), "logits is NULL"),
        (|s| s.verdict = null_mut(), "verdict is NULL"),
        (
            |s| s.most_nodes = 256,
            "most_nodes is 256, expected at most 255",
        ),
        (|s| s.rule = 12, "rule is 12"),
        (|s| s.threshold = 2.0, "margin is 2, expected 0 to 1"),
        (|s| s.rule = GAVEL_RULE_JUDGE, "needs scores, or a judge"),
        (|s| s.flags = GAVEL_SAMPLED_CHILDREN, "draft_logits is NULL"),
        (
            |s| s.logits_stride = 3,
            "logits_stride is 3, expected at least 4",
        ),
    ];
    sequence.threshold = 0.5;
    for (spoil, message) in spoils {
        let mut spoiled = sequence;
        spoil(&mut spoiled);
        assert_eq!(verify(&spoiled), GAVEL_INVALID);
        assert!(last_error().contains(message), "{}", last_error());
    }
    // data that is wrong is said by the verdict
    let mut wrong = tree;
    wrong.parent[1] = 1;
    sequence.tree = &wrong;
    assert_eq!(verify(&sequence), GAVEL_OK);
    assert_eq!((verdict.error, verdict.at), (GAVEL_VERDICT_TREE, 1));
}
