//! `softcuda run PROGRAM ...` runs a program on the software driver; `softcuda report FILE` prints
//! what it counted; `softcuda path` prints the folder in which the driver lies.

use softcuda::device::Model;
use softcuda::report::Report;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const USAGE: &str = "usage:
  softcuda run PROGRAM [ARGUMENT]...     run a program on the software driver
  softcuda path                          print the folder that holds libcuda.so, for LD_LIBRARY_PATH
  softcuda report FILE [--gpu NAME]      print what SOFTCUDA_REPORT=FILE counted, sorted by bytes;
                                         --gpu tiny|a100|h100|b200 adds an estimate of the time";

/// The two names under which programs look for the driver.
const NAMES: [&str; 2] = ["libcuda.so", "libcuda.so.1"];

/// A folder with links of both names to the library, beside it.
fn library_folder() -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|e| format!("this program's own path: {e}"))?;
    let beside = program.parent().unwrap_or(Path::new("."));
    // `cargo build` puts it beside this program, `cargo test` into deps: the newest is meant
    let candidates = ["libsoftcuda.so", "deps/libsoftcuda.so"].map(|name| beside.join(name));
    let built = |path: &&PathBuf| path.metadata().and_then(|data| data.modified()).ok();
    let newest = candidates
        .iter()
        .filter(|path| path.is_file())
        .max_by_key(built);
    let Some(library) = newest else {
        return Err(format!(
            "expected {} (cargo build -p softcuda)",
            candidates[0].display()
        ));
    };
    let folder = beside.join("softcuda-lib");
    let wrong = |e: std::io::Error| format!("{}: {e}", folder.display());
    std::fs::create_dir_all(&folder).map_err(wrong)?;
    for name in NAMES {
        let link = folder.join(name);
        if std::fs::read_link(&link).is_ok_and(|target| target == *library) {
            continue;
        }
        // made beside its place and renamed: another process may be doing the same
        let made = folder.join(format!(".{name}.{}", std::process::id()));
        let _ = std::fs::remove_file(&made);
        std::os::unix::fs::symlink(library, &made).map_err(wrong)?;
        std::fs::rename(&made, &link).map_err(wrong)?;
    }
    Ok(folder)
}

/// Becomes the program; comes back only when it cannot be started.
fn run(program: &str, arguments: &[String]) -> Result<(), String> {
    let mut paths = vec![library_folder()?];
    if let Some(others) = std::env::var_os("LD_LIBRARY_PATH") {
        paths.extend(std::env::split_paths(&others));
    }
    let paths = std::env::join_paths(paths).map_err(|e| format!("LD_LIBRARY_PATH: {e}"))?;
    let error = Command::new(program)
        .args(arguments)
        .env("LD_LIBRARY_PATH", paths)
        .exec();
    Err(format!("{program}: {error}"))
}

fn report(file: &str, gpu: Option<&str>) -> Result<(), String> {
    let model = match gpu {
        None => None,
        Some(name) => Some(Model::named(name).ok_or_else(|| {
            let names: Vec<_> = Model::all().iter().map(|model| model.name).collect();
            format!("--gpu {name}: expected one of {}", names.join(", "))
        })?),
    };
    let text = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
    let report: Report = serde_json::from_str(&text)
        .map_err(|e| format!("{file}: expected what SOFTCUDA_REPORT writes: {e}"))?;
    // A closed pipe (`| head`) is no error.
    let _ = std::io::stdout().write_all(report.table(model).as_bytes());
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["run", program, ..] => run(program, &arguments[2..]),
        ["path"] => library_folder().map(|folder| println!("{}", folder.display())),
        ["report", file] => report(file, None),
        ["report", file, "--gpu", gpu] | ["report", "--gpu", gpu, file] => report(file, Some(gpu)),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("softcuda: {message}");
            ExitCode::FAILURE
        }
    }
}
