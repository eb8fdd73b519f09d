//! The PTX of the kernels.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, PoisonError};

/// The compiler of `CUDA_HOME`, or what the project's script finds or installs.
static NVCC: LazyLock<PathBuf> = LazyLock::new(|| {
    if let Some(home) = std::env::var_os("CUDA_HOME") {
        return PathBuf::from(home).join("bin/nvcc");
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/get_nvcc.py");
    let output = Command::new("python3")
        .arg(&script)
        .output()
        .expect("python3");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}: {text}", script.display());
    let home = String::from_utf8(output.stdout).expect("a path");
    PathBuf::from(home.trim()).join("bin/nvcc")
});

/// What was compiled before.
static DONE: LazyLock<Mutex<HashMap<String, String>>> = LazyLock::new(Mutex::default);

/// PTX of kernels/`name`.cu for `arch` (`compute_80`, `compute_90`).
pub fn of(name: &str, arch: &str) -> String {
    let key = format!("{name}-{arch}");
    // one compilation at a time: tests that want the same share it
    let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(text) = done.get(&key) {
        return text.clone();
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("kernels/{name}.cu"));
    let out =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{key}-{}.ptx", std::process::id()));
    let mut command = Command::new(&*NVCC);
    command.args(["-ptx", "-std=c++17", "-O3", "-lineinfo", "-arch", arch]);
    command.arg("-o").arg(&out).arg(&source);
    let output = command.output().expect("nvcc runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    let text = std::fs::read_to_string(&out).expect("the PTX");
    std::fs::remove_file(&out).expect("the PTX is ours");
    done.insert(key, text.clone());
    text
}
