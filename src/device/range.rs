//! Activations in f16, as the CUDA kernels keep them and the rounded computation of the CPU device
//! mimics them.
//!
//! f16 has eleven significant bits, bf16 eight, at the same price: what rounding takes from the
//! logits is an eighth. But f16 ends at 65,504, and single features of the residual stream grow to
//! thousands of times a typical one ("massive activations", arXiv 2402.17762). So what is unbounded,
//! x * gain and silu(gate) * up, is kept times a power of two, which the product that reads it undoes.

/// What silu(gate) * up is multiplied by, and x * gain besides the gain's own size: up to half a
/// million fits, and what is 2^-10 or more has all eleven bits.
pub(super) const HEADROOM: f32 = 1.0 / 16.0;

/// What x * gain is multiplied by: the power of two that brings the root of gain's mean square between
/// 1 and 2, times [`HEADROOM`]. Gains of first layers may be hundredths.
pub(super) fn gain_scale(gain: &[f32]) -> f32 {
    let squares = gain.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>();
    let size = (squares / gain.len() as f64).sqrt();
    // of gains that are all zero, or not numbers, nothing is asked
    let exponent = match size > 0.0 && size.is_finite() {
        true => (-size.log2().floor()).clamp(-64.0, 64.0),
        false => 0.0,
    };
    (exponent as f32).exp2() * HEADROOM
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gains_scale_is_the_power_of_two_that_brings_it_to_one_and_headroom() {
        let of = |size: f32| gain_scale(&[size, -size]);
        assert_eq!(of(1.0), HEADROOM);
        assert_eq!(of(1.9), HEADROOM);
        assert_eq!(of(2.0), HEADROOM / 2.0);
        assert_eq!(of(0.02), HEADROOM * 64.0);
        assert_eq!(of(0.0), HEADROOM);
        assert_eq!(of(f32::NAN), HEADROOM);
        assert_eq!(of(f32::MAX), HEADROOM * 2f32.powi(-64));
    }
}
