//! How fast these threads read the weights, and do nothing else with them: what a pass of one row
//! can at best be.

use super::team::Team;
use crate::device::Reading;
use crate::model::Model;
use std::hint::black_box;
use std::time::Instant;

/// Bytes that one thread reads in one go: long enough for the prefetcher.
const PART_BYTES: usize = 256 << 10;

/// Reads every byte of a one-row pass once: the projections of all layers, and the head.
pub(super) fn read_weights(team: &Team, model: &Model) -> Reading {
    let weights = &model.weights;
    let layers = weights.layers.iter().flat_map(|l| l.projections());
    let tensors = layers
        .map(|(_, l)| l.weight.bytes())
        .chain([weights.head.bytes()]);
    let parts: Vec<&[u8]> = tensors.flat_map(|t| t.chunks(PART_BYTES)).collect();
    let began = Instant::now();
    team.each(parts.len(), team.share(parts.len()), |some| {
        for part in some {
            black_box(sum(parts[part]));
        }
    });
    Reading {
        bytes: parts.iter().map(|p| p.len()).sum(),
        time: began.elapsed(),
    }
}

/// Eight independent sums, so that nothing but memory limits it.
fn sum(bytes: &[u8]) -> u64 {
    let mut sums = [0u64; 8];
    let (chunks, rest) = bytes.as_chunks::<64>();
    for chunk in chunks {
        for (s, word) in sums.iter_mut().zip(chunk.as_chunks::<8>().0) {
            *s = s.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    let rest = rest.iter().map(|&b| u64::from(b));
    sums.into_iter().chain(rest).fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_read() {
        for length in [0, 1, 63, 64, 65, 200] {
            let mut bytes = vec![0u8; length];
            let before = sum(&bytes);
            for place in 0..length {
                bytes[place] = 1;
                assert_ne!(sum(&bytes), before, "{place} of {length}");
                bytes[place] = 0;
            }
        }
    }
}
