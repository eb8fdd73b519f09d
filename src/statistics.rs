//! Intervals by bootstrap, over groups that belong together (a prompt and all its tokens).

/// A statistic with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Interval {
    /// The statistic of the data themselves.
    pub value: f64,
    /// 2.5 % of the resampled statistics lie below.
    pub low: f64,
    /// 2.5 % of them lie above.
    pub high: f64,
}

/// The percentile bootstrap (Efron and Tibshirani 1993, chapter 13): `statistic` of all
/// groups 0..groups, and its interval over `resamples` draws of as many groups with
/// replacement. The statistic gets the indices of the groups drawn; give paired methods
/// the same indices for a paired difference. Draws whose statistic is NaN do not count.
pub fn bootstrap(
    groups: usize,
    resamples: usize,
    seed: u64,
    statistic: impl Fn(&[usize]) -> f64,
) -> Interval {
    let mut drawn: Vec<usize> = (0..groups).collect();
    let value = statistic(&drawn);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut values = Vec::with_capacity(resamples);
    for _ in 0..resamples {
        drawn.fill_with(|| random.usize(..groups.max(1)));
        values.push(statistic(&drawn));
    }
    values.retain(|v| !v.is_nan());
    values.sort_by(f64::total_cmp);
    Interval {
        value,
        low: quantile(&values, 0.025),
        high: quantile(&values, 0.975),
    }
}

/// A share of `trials` with Wilson's score interval at 95 % (Wilson 1927): it keeps its
/// coverage for few trials and for shares near 0 and 1. NaN without trials.
pub fn wilson(successes: usize, trials: usize) -> Interval {
    const Z: f64 = 1.959_963_984_540_054; // the normal quantile at 0.975
    let n = trials as f64;
    let share = successes as f64 / n;
    let middle = share + Z * Z / (2.0 * n);
    let half = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    Interval {
        value: share,
        low: ((middle - half) / scale).max(0.0),
        high: ((middle + half) / scale).min(1.0),
    }
}

/// The quantile of ascending values, interpolated linearly between neighbours
/// (Hyndman and Fan's type 7, numpy's default); NaN without values.
pub fn quantile(ascending: &[f64], share: f64) -> f64 {
    let Some(last) = ascending.len().checked_sub(1) else {
        return f64::NAN;
    };
    let place = share.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    ascending[below] + (ascending[above] - ascending[below]) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_numpys() {
        let values = [1.0, 2.0, 4.0, 8.0];
        for (share, expected) in [(0.0, 1.0), (0.5, 3.0), (0.9, 6.8), (1.0, 8.0)] {
            assert!(
                (quantile(&values, share) - expected).abs() < 1e-12,
                "{share}"
            );
        }
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn wilsons_interval_is_scipys() {
        // scipy 1.17: binomtest(k, n).proportion_ci(method="wilson")
        let table = [
            (0, 10, 0.0, 0.27753279986288926),
            (7, 10, 0.39677814746114526, 0.892208732593699),
            (2480, 2500, 0.9876750907113474, 0.9948152308438587),
        ];
        for (successes, trials, low, high) in table {
            let found = wilson(successes, trials);
            assert!((found.low - low).abs() < 1e-12, "{found:?}");
            assert!((found.high - high).abs() < 1e-12, "{found:?}");
        }
        assert!(wilson(0, 0).value.is_nan());
    }

    #[test]
    fn the_interval_of_a_mean_is_near_the_normal_one() {
        // 400 values of variance 1: the mean's standard error is 0.05
        let values: Vec<f64> = (0..400)
            .map(|i| if i % 2 == 0 { 1.0 } else { -1.0 })
            .collect();
        let mean = |drawn: &[usize]| drawn.iter().map(|&i| values[i]).sum::<f64>() / 400.0;
        let interval = bootstrap(400, 2000, 7, mean);
        assert_eq!(interval.value, 0.0);
        assert!((interval.low + 0.098).abs() < 0.015, "{interval:?}");
        assert!((interval.high - 0.098).abs() < 0.015, "{interval:?}");
    }
}
