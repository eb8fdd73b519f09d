//! The PTX of the kernels.

/// PTX of kernels/`name`.cu for `arch` (`compute_80`, `compute_90`).
pub fn of(name: &str, arch: &str) -> String {
    crate::common::built(&format!("{name}.{arch}.ptx"))
}
