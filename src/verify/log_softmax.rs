//! Logarithms of probabilities, for what is reported rather than decided.

use super::math::exp;

/// A row of logits with what turns them into logarithms of probabilities.
pub struct LogSoftmax<'a> {
    logits: &'a [f32],
    /// log of the sum of exp(logit)
    normaliser: f64,
    argmax: u32,
}

impl<'a> LogSoftmax<'a> {
    /// Of a row that is not empty; a NaN in it makes every logarithm NaN.
    pub fn of(logits: &'a [f32]) -> LogSoftmax<'a> {
        // in lanes, so that the compiler can take several at a time
        let (chunks, rest) = logits.as_chunks::<16>();
        let mut lanes = [f32::NEG_INFINITY; 16];
        for chunk in chunks {
            for (most, &logit) in lanes.iter_mut().zip(chunk) {
                *most = if logit > *most { logit } else { *most };
            }
        }
        let all = lanes.iter().chain(rest).copied();
        let most = all.fold(f32::NEG_INFINITY, f32::max);
        let argmax = logits.iter().position(|&z| z == most).unwrap_or(0);
        // f32 within runs of 256: the error stays below 1e-6 of the sum, at half the time
        let mut sum = 0f64;
        for run in logits.chunks(256) {
            let (chunks, rest) = run.as_chunks::<16>();
            let mut lanes = [0f32; 16];
            for chunk in chunks {
                for (sum, &logit) in lanes.iter_mut().zip(chunk) {
                    *sum += exp(logit - most);
                }
            }
            let rest = rest.iter().map(|&logit| exp(logit - most));
            sum += f64::from(lanes.into_iter().chain(rest).sum::<f32>());
        }
        LogSoftmax {
            logits,
            normaliser: f64::from(most) + sum.ln(),
            argmax: argmax as u32,
        }
    }

    /// The first of the largest logits.
    pub fn argmax(&self) -> u32 {
        self.argmax
    }

    /// log P(token)
    ///
    /// # Panics
    /// If the row has no such token.
    pub fn log(&self, token: u32) -> f64 {
        f64::from(self.logits[token as usize]) - self.normaliser
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_right_at_any_length_and_keeps_nan() {
        for len in [1, 15, 16, 17, 300, 513] {
            let logits: Vec<f32> = (0..len).map(|i| ((i * 37) % 101) as f32 / 7.0).collect();
            let row = LogSoftmax::of(&logits);
            let sum: f64 = logits.iter().map(|&z| f64::from(z).exp()).sum();
            for (token, &z) in logits.iter().enumerate() {
                let expected = f64::from(z) - sum.ln();
                assert!((row.log(token as u32) - expected).abs() < 1e-6);
            }
            let most = logits.iter().copied().fold(f32::MIN, f32::max);
            let first = logits.iter().position(|&z| z == most).unwrap();
            assert_eq!(row.argmax() as usize, first);
        }
        let spoilt = LogSoftmax::of(&[0.5, f32::NAN, 2.0]);
        assert_eq!(spoilt.argmax(), 2);
        assert!(spoilt.log(0).is_nan());
    }
}
