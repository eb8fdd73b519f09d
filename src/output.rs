//! s
pub fn write_atomically(
    p: &std::path::Path,
    w: impl FnOnce(&mut std::fs::File) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut f = std::fs::File::create(p)?;
    w(&mut f)
}
