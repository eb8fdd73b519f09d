//! build.rs as a user meets it: without nvcc, with wrong architectures, with a kernel that is wrong.
//! It builds a crate that holds it, the file that embeds what it made, and one kernel.

use crate::toolkit::tool;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const KERNEL: &str = "extern \"C\" __global__ void one(int* to) { *to = 1; }\n";

/// The crate, in a folder of its own.
fn crate_of_one_kernel() -> TempDir {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    for name in ["kernels", "src", "empty"] {
        std::fs::create_dir(at(name)).expect("a folder");
    }
    for (from, to) in [
        ("build.rs", "build.rs"),
        ("src/device/cuda/image.rs", "src/image.rs"),
    ] {
        std::fs::copy(root.join(from), at(to)).expect("a copy");
    }
    let manifest =
        "[package]\nname = \"one\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n";
    let main = "mod image;\n\
        fn main() {\n\
            for image in image::IMAGES { println!(\"{}: {} bytes\", image.name, image.fatbin.0.len()); }\n\
            println!(\"{} images\", image::IMAGES.len());\n\
        }\n";
    for (name, text) in [
        ("Cargo.toml", manifest),
        ("src/main.rs", main),
        ("kernels/one.cu", KERNEL),
    ] {
        std::fs::write(at(name), text).expect("a file");
    }
    folder
}

/// `cargo run` in the crate: whether it succeeded, standard output, standard error.
fn run(folder: &Path, env: &[(&str, &str)]) -> (bool, String, String) {
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["run", "--offline"])
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", folder.join("target"))
        .env_remove("CUDA_HOME")
        .env_remove("GAVEL_CUDA_ARCHS")
        .envs(env.iter().copied());
    let output = command.output().expect("cargo");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.success(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "expected `{part}` in: {text}");
    }
}

/// A PATH with what rustc needs, and no nvcc.
fn path_without_nvcc(folder: &Path) -> String {
    let bin = folder.join("bin");
    std::fs::create_dir(&bin).expect("a folder");
    let rustc = Command::new(env!("CARGO"))
        .args(["rustc", "--help"])
        .output();
    assert!(rustc.expect("cargo").status.success());
    let all = std::env::var_os("PATH").expect("a PATH");
    for name in ["cc", "ld", "as", "rustc"] {
        let found = std::env::split_paths(&all)
            .map(|f| f.join(name))
            .find(|f| f.is_file());
        if let Some(found) = found {
            std::os::unix::fs::symlink(found, bin.join(name)).expect("a link");
        }
    }
    utf8(&bin).to_owned()
}

#[test]
fn without_nvcc_the_build_says_so_once_and_goes_on() {
    if Path::new("/usr/local/cuda/bin/nvcc").is_file() {
        println!("not tried: this machine has a CUDA toolkit where every build finds it");
        return;
    }
    let folder = crate_of_one_kernel();
    let path = path_without_nvcc(folder.path());
    let (ok, out, err) = run(folder.path(), &[("PATH", &path)]);
    assert!(ok, "{err}");
    says(&out, &["0 images"]);
    let said = err.matches("no nvcc: gavel is built without CUDA").count();
    assert_eq!(said, 1, "{err}");
    says(&err, &["export CUDA_HOME=$(scripts/get_nvcc.py)"]);
}

#[test]
fn a_cuda_home_without_nvcc_is_said() {
    let folder = crate_of_one_kernel();
    let empty = folder.path().join("empty");
    let (ok, _, err) = run(folder.path(), &[("CUDA_HOME", utf8(&empty))]);
    assert!(!ok, "{err}");
    let nvcc = empty.join("bin/nvcc");
    says(
        &err,
        &[
            &format!("CUDA_HOME is {}", utf8(&empty)),
            utf8(&nvcc),
            "unset it",
        ],
    );
}

#[test]
fn wrong_architectures_and_kernels_are_said_and_mended_ones_build() {
    let folder = crate_of_one_kernel();
    let nvcc = tool("nvcc");
    let home = nvcc
        .parent()
        .and_then(Path::parent)
        .expect("bin of a toolkit");
    let home = ("CUDA_HOME", utf8(home));
    for (archs, wrong) in [("75", "75"), ("80,sm_90", "sm_90"), ("80 90", "80 90")] {
        let (ok, _, err) = run(folder.path(), &[home, ("GAVEL_CUDA_ARCHS", archs)]);
        assert!(!ok, "{err}");
        let found = format!("GAVEL_CUDA_ARCHS={archs}: found `{wrong}`");
        says(&err, &[&found, "expected some of 80, 86, 89, 90, 100, 120"]);
        assert!(!err.contains("panicked"), "{err}");
    }

    let env = [home, ("GAVEL_CUDA_ARCHS", "80")];
    let kernel = folder.path().join("kernels/one.cu");
    std::fs::write(&kernel, KERNEL.replace("= 1", "= 1 +")).expect("a file");
    let (ok, _, err) = run(folder.path(), &env);
    assert!(!ok, "{err}");
    // who failed on what, and the compiler's own words with file and line
    says(
        &err,
        &[
            "nvcc (",
            "failed on",
            "kernels/one.cu",
            "one.cu(1): error: expected an expression",
        ],
    );
    assert!(!err.contains("panicked"), "{err}");

    std::fs::write(&kernel, KERNEL).expect("a file");
    let (ok, out, err) = run(folder.path(), &env);
    assert!(ok, "{err}");
    says(&out, &["one: ", "1 images"]);
}
