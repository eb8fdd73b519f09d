//! `scripts/get_nvcc.py`: a toolkit of the user's own comes first.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder with a `bin/nvcc` that runs, or one that does not.
fn toolkit(name: &str, runs: bool) -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("toolkit-{name}-{}", std::process::id()));
    std::fs::create_dir_all(home.join("bin")).expect("a folder");
    let nvcc = home.join("bin/nvcc");
    let status = if runs { 0 } else { 1 };
    std::fs::write(&nvcc, format!("#!/bin/sh\nexit {status}\n")).expect("a script");
    std::fs::set_permissions(&nvcc, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    home.canonicalize().expect("its path")
}

fn get_nvcc(cuda_home: Option<&Path>, first_on_path: Option<&Path>) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/get_nvcc.py");
    let mut command = Command::new("python3");
    command.arg(script).env_remove("CUDA_HOME");
    if let Some(home) = cuda_home {
        command.env("CUDA_HOME", home);
    }
    if let Some(home) = first_on_path {
        let path = std::env::var("PATH").expect("a path");
        command.env("PATH", format!("{}:{path}", home.join("bin").display()));
    }
    command.output().expect("python3")
}

#[test]
fn a_toolkit_of_the_users_own_comes_first() {
    let (named, on_path) = (toolkit("named", true), toolkit("on-path", true));
    for (home, path, expected) in [
        (Some(&named), Some(&on_path), &named),
        (None, Some(&on_path), &on_path),
    ] {
        let output = get_nvcc(home.map(PathBuf::as_path), path.map(PathBuf::as_path));
        let found = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(Path::new(found.trim()), expected);
    }
    // one that does not run is told, not passed over
    let broken = toolkit("broken", false);
    let output = get_nvcc(Some(&broken), Some(&on_path));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{output:?}");
    assert!(
        said.contains("CUDA_HOME") && said.contains("does not run"),
        "{said}"
    );
    for home in [named, on_path, broken] {
        let _ = std::fs::remove_dir_all(home);
    }
}
