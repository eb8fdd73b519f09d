//! Programs of the CUDA toolkit that tests run.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A program of the toolkit, looked for where build.rs looks for nvcc.
pub fn tool(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let home = std::env::var_os("CUDA_HOME").filter(|home| !home.is_empty());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = std::fs::read_dir(root.join(".cuda")).into_iter().flatten();
    let mut own: Vec<PathBuf> = own
        .filter_map(|entry| Some(entry.ok()?.path().join("nvidia/cu13/bin")))
        .collect();
    own.sort();
    let mut folders: Vec<PathBuf> = home
        .into_iter()
        .map(|h| Path::new(&h).join("bin"))
        .collect();
    folders.extend(std::env::split_paths(&path));
    folders.push(PathBuf::from("/usr/local/cuda/bin"));
    folders.extend(own.into_iter().rev());
    let found = folders
        .iter()
        .map(|f| f.join(name))
        .find(|tool| tool.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "no {name} in CUDA_HOME/bin, on PATH or in /usr/local/cuda/bin: run \
             `export CUDA_HOME=$(scripts/get_nvcc.py)`, which installs it"
        )
    })
}

/// An instruction of machine code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub address: u64,
    /// Such as `!P0`; none where it is always executed.
    pub predicate: Option<String>,
    /// With its modifiers, such as `LDG.E.NA.128`.
    pub opcode: String,
    pub operands: Vec<String>,
}

impl Instruction {
    /// A line of `cuobjdump -sass`: `/*2a00*/ @P0 LDS.128 R52, [R83+0x200] ;` and its encoding.
    fn parse(line: &str) -> Option<Instruction> {
        let (address, rest) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
        let address = u64::from_str_radix(address, 16).ok()?;
        let text = rest.split_once(';')?.0.trim();
        let (predicate, text) = match text.strip_prefix('@') {
            Some(guarded) => {
                let (predicate, text) = guarded.split_once(' ')?;
                (Some(predicate.to_owned()), text.trim_start())
            }
            None => (None, text),
        };
        let (opcode, operands) = text.split_once(' ').unwrap_or((text, ""));
        let operands = operands.split(',').map(|o| o.trim().to_owned());
        Some(Instruction {
            address,
            predicate,
            opcode: opcode.to_owned(),
            operands: operands.filter(|o| !o.is_empty()).collect(),
        })
    }

    /// Whether it is a tensor-core product.
    pub fn is_mma(&self) -> bool {
        self.opcode.starts_with("HMMA")
    }

    /// Whether it loads 16 bytes a lane from global memory.
    pub fn is_wide_load(&self) -> bool {
        self.opcode.starts_with("LDG.") && self.opcode.split('.').any(|part| part == "128")
    }

    /// Where a branch goes.
    fn goes_to(&self) -> Option<u64> {
        let target = self.operands.last()?.strip_prefix("0x")?;
        let target = u64::from_str_radix(target, 16).ok()?;
        self.opcode.starts_with("BRA").then_some(target)
    }
}

/// The machine code of one kernel of kernels/`file`.cu for sm_`arch`, as build.rs left it.
pub fn disassemble(file: &str, arch: u32, kernel: &str) -> Vec<Instruction> {
    let fatbin = Path::new(env!("OUT_DIR")).join(format!("{file}.fatbin"));
    let cuobjdump = tool("cuobjdump");
    // cuobjdump starts nvdisasm
    let beside = tool("nvdisasm");
    let folder = beside.parent().expect("a folder").to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([folder].into_iter().chain(std::env::split_paths(&path)));
    let output = Command::new(&cuobjdump)
        .env("PATH", path.expect("a path"))
        .args(["-sass", "-arch", &format!("sm_{arch}"), "-fun", kernel])
        .arg(&fatbin)
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", cuobjdump.display()));
    let text = String::from_utf8_lossy(&output.stdout);
    let code: Vec<Instruction> = text.lines().filter_map(Instruction::parse).collect();
    assert!(
        output.status.success() && !code.is_empty(),
        "{} found no {kernel} for sm_{arch} in {}:\n{text}{}",
        cuobjdump.display(),
        fatbin.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    code
}

/// The loops of a kernel that hold no other, in order of their places.
pub fn inner_loops(code: &[Instruction]) -> Vec<&[Instruction]> {
    let loops: Vec<(u64, u64)> = code
        .iter()
        .filter_map(|last| Some((last.goes_to()?, last.address)))
        .filter(|(first, last)| first <= last)
        .collect();
    let inner = loops.iter().filter(|(first, last)| {
        let within = |l: &&(u64, u64)| l.0 >= *first && l.1 <= *last;
        loops.iter().filter(within).count() == 1
    });
    inner
        .map(|(first, last)| {
            let at = |address| code.partition_point(|i| i.address < address);
            &code[at(*first)..at(*last + 1)]
        })
        .collect()
}

/// Pieces of a kernel that are left only at their end and entered only at their beginning.
pub fn basic_blocks(code: &[Instruction]) -> Vec<&[Instruction]> {
    let mut cuts: Vec<usize> = vec![0, code.len()];
    for (at, instruction) in code.iter().enumerate() {
        if let Some(target) = instruction.goes_to() {
            cuts.push(at + 1);
            cuts.push(code.partition_point(|i| i.address < target));
        }
    }
    cuts.sort_unstable();
    cuts.dedup();
    cuts.windows(2).map(|cut| &code[cut[0]..cut[1]]).collect()
}
