//! Inputs near a valid file.

/// `base` with patches: each three bytes of `patches` are a place, high byte first, and
/// the byte that goes there. A place beyond the end cuts the file by that much.
pub fn patched(base: &[u8], patches: &[u8]) -> Vec<u8> {
    let mut file = base.to_vec();
    for patch in patches.chunks_exact(3) {
        let place = usize::from(patch[0]) << 8 | usize::from(patch[1]);
        match file.get_mut(place) {
            Some(byte) => *byte = patch[2],
            None => file.truncate(file.len() - file.len().min((place - file.len()) & 0xff)),
        }
    }
    file
}
