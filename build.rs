//! Compiles kernels/*.cu with nvcc and writes images.rs, which embeds the results.
//!
//! Each file gives one uncompressed fat binary with machine code for every architecture of
//! [`FAMILIES`] and PTX for newer ones. OUT_DIR keeps besides, for tests and the curious:
//! `NAME.compute_XX.ptx`, the text of each PTX, and `NAME.resources`, what ptxas said of registers,
//! spills and shared memory.
//!
//! `GAVEL_CUDA_ARCHS` (such as `80,90`) narrows the list, for quick builds. Without nvcc the crate
//! builds without images, and `--device cuda` explains.

use std::collections::BTreeSet;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Architectures compiled from the same PTX: its number, those of the machine code, and whether
/// the PTX goes into the image, for devices that are newer than all of the family.
const FAMILIES: [(u32, &[u32], bool); 4] = [
    (80, &[80, 86, 89], true),
    (90, &[90], true),
    (100, &[100], false),
    (120, &[120], true),
];

/// Oldest CUDA toolkit that knows all of them.
const OLDEST_NVCC: &str = "12.8";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    println!("cargo::rerun-if-env-changed=GAVEL_CUDA_ARCHS");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    if let Err(message) = build(&root, &out) {
        // cargo shows standard error of a failed script as it is
        eprintln!("{message}");
        std::process::exit(1);
    }
}

fn build(root: &Path, out: &Path) -> Result<(), String> {
    let sources = sources(&root.join("kernels"))?;
    let mut names = Vec::new();
    match find_nvcc(root)? {
        None => println!(
            "cargo::warning=no nvcc: gavel is built without CUDA. For CUDA run \
             `export CUDA_HOME=$(scripts/get_nvcc.py)` and build again"
        ),
        Some(nvcc) => {
            println!("cargo::rerun-if-changed={}", nvcc.display());
            let compiler = Compiler::new(nvcc, out)?;
            compiler.all(&sources)?;
            names = sources.iter().map(|source| stem(source)).collect();
        }
    }
    let mut text = String::from(
        "/// One a file of kernels/, in the order of their names; none where the build had no nvcc.\n\
         pub(crate) static IMAGES: &[Image] = &[\n",
    );
    for name in names {
        let _ = writeln!(
            text,
            "    Image {{ name: {name:?}, fatbin: &Aligned(*include_bytes!({:?})) }},",
            out.join(format!("{name}.fatbin"))
        );
    }
    text.push_str("];\n");
    write(&out.join("images.rs"), &text)
}

fn stem(source: &Path) -> String {
    source
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The .cu files of `folder`, sorted.
fn sources(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let wrong = |e| format!("{}: {e}", folder.display());
    let mut sources = Vec::new();
    for entry in fs::read_dir(folder).map_err(wrong)? {
        let path = entry.map_err(wrong)?.path();
        if path.extension().is_some_and(|e| e == "cu") {
            sources.push(path);
        }
    }
    sources.sort();
    Ok(sources)
}

/// nvcc of CUDA_HOME, of PATH, of /usr/local/cuda, or what scripts/get_nvcc.py installed.
fn find_nvcc(root: &Path) -> Result<Option<PathBuf>, String> {
    if let Some(home) = env::var_os("CUDA_HOME").filter(|home| !home.is_empty()) {
        let nvcc = Path::new(&home).join("bin/nvcc");
        return match nvcc.is_file() {
            true => Ok(Some(nvcc)),
            false => Err(format!(
                "CUDA_HOME is {}, and there is no {}: unset it, or let it name a CUDA toolkit",
                Path::new(&home).display(),
                nvcc.display()
            )),
        };
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|folder| folder.join("nvcc"));
    let own = fs::read_dir(root.join(".cuda")).into_iter().flatten();
    let mut own: Vec<PathBuf> = own
        .filter_map(|entry| Some(entry.ok()?.path().join("nvidia/cu13/bin/nvcc")))
        .collect();
    own.sort();
    let found = on_path
        .chain([PathBuf::from("/usr/local/cuda/bin/nvcc")])
        .chain(own.into_iter().rev())
        .find(|nvcc| nvcc.is_file());
    Ok(found)
}

struct Compiler<'a> {
    nvcc: PathBuf,
    /// What `nvcc --version` says.
    version: String,
    /// `-gencode` arguments.
    targets: Vec<String>,
    out: &'a Path,
}

impl Compiler<'_> {
    fn new(nvcc: PathBuf, out: &Path) -> Result<Compiler<'_>, String> {
        let output = Command::new(&nvcc).arg("--version").output();
        let output = output.map_err(|e| format!("{}: {e}", nvcc.display()))?;
        let version = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            return Err(format!(
                "{} --version failed:\n{version}{}",
                nvcc.display(),
                String::from_utf8_lossy(&output.stderr)
            ));
        }
        Ok(Compiler {
            nvcc,
            version,
            targets: targets()?,
            out,
        })
    }

    /// Compiles `sources`, as many at a time as cargo allows.
    fn all(&self, sources: &[PathBuf]) -> Result<(), String> {
        let jobs = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok());
        let jobs: usize = jobs.unwrap_or(2).clamp(1, sources.len().max(1));
        let next = AtomicUsize::new(0);
        let work = || {
            let mut results = Vec::new();
            while let Some(source) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
                results.push(self.one(source));
            }
            results
        };
        let results: Vec<Result<(), String>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().expect("a worker does not panic"))
                .collect()
        });
        let errors: Vec<String> = results.into_iter().filter_map(Result::err).collect();
        match errors.is_empty() {
            true => Ok(()),
            false => Err(errors.join("\n")),
        }
    }

    /// Compiles `source`, unless the last build did from the same inputs.
    fn one(&self, source: &Path) -> Result<(), String> {
        let name = stem(source);
        let fatbin = self.out.join(format!("{name}.fatbin"));
        let keep = self.out.join(format!("{name}.keep"));
        let mut command = Command::new(&self.nvcc);
        command.args([
            "-fatbin",
            "-std=c++17",
            "-O3",
            "-lineinfo",
            "-fmad=false",
            "-diag-suppress=128",
            "-Xptxas",
            "-v",
        ]);
        command.args(["--no-compress", "--threads", "2", "--keep", "--keep-dir"]);
        command.arg(&keep).args(&self.targets);
        command.arg("-o").arg(&fatbin).arg(source);

        let mut inputs = format!("{}\n{command:?}\n", self.version);
        let mut files = BTreeSet::new();
        collect(source, &mut files)?;
        for file in &files {
            inputs.push_str(&read(file)?);
        }
        let stamp = self.out.join(format!("{name}.inputs"));
        if fs::read_to_string(&stamp).is_ok_and(|old| old == inputs) {
            return Ok(());
        }
        // a build that is stopped on the way leaves no stamp
        let _ = fs::remove_file(&stamp);
        let _ = fs::remove_dir_all(&keep);
        fs::create_dir_all(&keep).map_err(|e| format!("{}: {e}", keep.display()))?;
        let output = command
            .output()
            .map_err(|e| format!("{}: {e}", self.nvcc.display()))?;
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        if !output.status.success() {
            return Err(format!(
                "nvcc ({}) failed on {} (expected CUDA {OLDEST_NVCC} or newer; GAVEL_CUDA_ARCHS \
                 names the architectures to build for):\n{said}",
                self.nvcc.display(),
                source.display()
            ));
        }
        for line in said.lines().filter(|line| line.contains("warning")) {
            println!("cargo::warning={line}");
        }
        write(&self.out.join(format!("{name}.resources")), &said)?;
        for (ptx, ..) in FAMILIES {
            // with one target alone nvcc leaves the architecture out of the name
            let to = self.out.join(format!("{name}.compute_{ptx}.ptx"));
            let _ = fs::remove_file(&to);
            let only = keep.join(format!("{name}.ptx"));
            let text = fs::read_to_string(keep.join(format!("{name}.compute_{ptx}.ptx")))
                .or_else(|_| fs::read_to_string(only));
            if let Ok(text) = text
                && text.contains(&format!(".target sm_{ptx}"))
            {
                write(&to, &text)?;
            }
        }
        let _ = fs::remove_dir_all(&keep);
        write(&stamp, &inputs)
    }
}

/// The `-gencode` arguments, narrowed by GAVEL_CUDA_ARCHS.
fn targets() -> Result<Vec<String>, String> {
    let known = || FAMILIES.iter().flat_map(|(_, codes, _)| codes.iter());
    let asked = env::var("GAVEL_CUDA_ARCHS").unwrap_or_default();
    let mut chosen = BTreeSet::new();
    for arch in asked.split(',').map(str::trim).filter(|a| !a.is_empty()) {
        let number = known().find(|code| code.to_string() == arch);
        chosen.insert(*number.ok_or_else(|| {
            let known: Vec<String> = known().map(u32::to_string).collect();
            format!(
                "GAVEL_CUDA_ARCHS={asked}: found `{arch}`, expected some of {}, with commas \
                 between them",
                known.join(", ")
            )
        })?);
    }
    let mut targets = Vec::new();
    for (ptx, codes, embed) in FAMILIES {
        let mut of_family: Vec<String> = codes
            .iter()
            .filter(|code| chosen.is_empty() || chosen.contains(code))
            .map(|code| format!("sm_{code}"))
            .collect();
        if of_family.is_empty() {
            continue;
        }
        if embed {
            of_family.push(format!("compute_{ptx}"));
        }
        targets.push("-gencode".to_owned());
        targets.push(format!("arch=compute_{ptx},code=[{}]", of_family.join(",")));
    }
    Ok(targets)
}

/// `file` and all that it includes from its own folder.
fn collect(file: &Path, files: &mut BTreeSet<PathBuf>) -> Result<(), String> {
    if !files.insert(file.to_owned()) {
        return Ok(());
    }
    let folder = file.parent().unwrap_or(Path::new("."));
    for line in read(file)?.lines() {
        let included = line
            .trim_start()
            .strip_prefix("#include \"")
            .and_then(|rest| rest.split_once('"'))
            .map(|(name, _)| folder.join(name));
        if let Some(path) = included.filter(|path| path.is_file()) {
            collect(&path, files)?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}
