//! The PTX of the kernels, as the build script left it.

use std::path::Path;

/// PTX of kernels/`name`.cu for `arch` (`compute_80`, `compute_90`).
pub fn of(name: &str, arch: &str) -> String {
    let file = Path::new(env!("OUT_DIR")).join(format!("{name}.{arch}.ptx"));
    std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}
