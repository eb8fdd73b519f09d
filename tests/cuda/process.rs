//! Runs the body of a test in a process of its own, which finds a library of our choice as
//! `libcuda.so`.

use gavel::device::cuda::Gpu;
use std::ffi::{CString, c_char};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Tells the child which test it is.
const CHILD: &str = "GAVEL_TEST_CHILD";
/// What the child prints when its body has run to the end.
const DONE: &str = "the body ran to its end";

/// softcuda, which cargo built with this test.
pub fn softcuda() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let library = test.with_file_name("libsoftcuda.so");
    assert!(library.is_file(), "expected {}", library.display());
    library
}

/// A library that exports what `source` defines in C.
pub fn stub(folder: &Path, source: &str) -> PathBuf {
    let (code, library) = (folder.join("stub.c"), folder.join("stub.so"));
    std::fs::write(&code, source).expect("a file");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(&library);
    let status = compiler.arg(&code).status().expect("a C compiler");
    assert!(status.success());
    library
}

/// In the test itself: runs this very test again in a process that finds `library` as its driver,
/// with the variables `env` and no other `SOFTCUDA_` ones, and gives what that process said; it
/// must succeed. In that process: runs `body`, and gives nothing.
///
/// `test` is the path of the test in this crate.
pub fn with_driver(
    test: &str,
    library: impl FnOnce(&Path) -> PathBuf,
    env: &[(&str, &str)],
    body: impl FnOnce(),
) -> Option<String> {
    if is_child(test) {
        body();
        println!("{DONE}");
        return None;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let library = library(folder.path());
    let mut command = Command::new(std::env::current_exe().expect("the test's own path"));
    command.args(["--exact", test, "--include-ignored", "--nocapture"]);
    use_driver(&mut command, folder.path(), &library);
    command.env(CHILD, test).envs(env.iter().copied());
    let output = command.output().expect("a process");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.success() && said.contains(DONE),
        "{test} with {env:?}:\n{said}"
    );
    Some(said)
}

/// Lets a command find `library` as its driver, through links in `folder`: softcuda's tiny device
/// where `library` is softcuda.
pub fn use_driver(command: &mut Command, folder: &Path, library: &Path) {
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::os::unix::fs::symlink(library, folder.join(name)).expect("a link");
    }
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SOFTCUDA_")) {
        command.env_remove(name);
    }
    command
        .env("LD_LIBRARY_PATH", folder)
        .env("SOFTCUDA_DEVICE", "tiny");
}

/// Whether this is the process that runs the body of `test`.
pub fn is_child(test: &str) -> bool {
    std::env::var(CHILD).is_ok_and(|child| child == test)
}

/// In a process that runs on softcuda: of the calls of a kind (alloc, copy, launch) from now on, the
/// one of this number fails; 0 for none.
fn fault(kind: &str, number: u64) {
    type Fault = unsafe extern "C" fn(*const c_char, u64) -> u32;
    let kind = CString::new(kind).expect("no zeros");
    // SAFETY: this is the library that the process has loaded already, and softcuda.h's signature.
    let code = unsafe {
        let library = libloading::Library::new("libcuda.so.1").expect("softcuda");
        let fault = library.get::<Fault>("softcudaFault").expect("softcuda");
        fault(kind.as_ptr(), number)
    };
    assert_eq!(code, 0, "{kind:?}");
}

/// In a process that runs on softcuda: `run` with its first allocation failing, then with its second,
/// until it has no such call any more, and so with copies and launches. `error` gets the kind of call
/// and what `run` said of it. After each failure `run` must succeed, and `check` gets which call had
/// failed and what `run` gave. Nothing may be left on the device. Gives how many calls failed of each
/// kind.
pub fn every_failure<T, E: Display>(
    run: impl Fn() -> Result<T, E>,
    error: impl Fn(&str, &str),
    check: impl Fn(&str, T),
) -> [u64; 3] {
    let gpu = Gpu::open(0).expect("a device");
    let free = || gpu.free_bytes().expect("free memory");
    let before = free();
    ["alloc", "copy", "launch"].map(|kind| {
        let mut number = 0;
        loop {
            number += 1;
            fault(kind, number);
            let what = format!("{kind} {number}");
            let first = run();
            fault(kind, 0);
            match first {
                Err(said) => error(kind, &said.to_string()),
                Ok(found) => {
                    check(&what, found);
                    return number - 1;
                }
            }
            assert_eq!(free(), before, "{what}: memory is left on the device");
            match run() {
                Err(said) => panic!("after {what} failed: {said}"),
                Ok(found) => check(&what, found),
            }
            assert_eq!(free(), before, "{what}: memory is left on the device");
        }
    })
}

/// [`with_driver`] with softcuda.
pub fn on_softcuda(test: &str, env: &[(&str, &str)], body: impl FnOnce()) -> Option<String> {
    with_driver(test, |_| softcuda(), env, body)
}
