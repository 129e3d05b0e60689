//! Limits of 95 % confidence intervals: for sums whose error is about normal, for skewed ones, for what is rare.

/// Fewer sightings than this are rare: their spread says little.
pub const RARE: usize = 12;

/// The normal distribution's 97.5 % quantile.
const NORMAL: f64 = 1.959_964;

/// Garwood's upper 97.5 % limits of a Poisson mean of which 0, 1, 2, ... were seen: half the chi-square quantile of
/// 2 (n + 1) degrees of freedom (F. Garwood, *Fiducial limits for the Poisson distribution*, Biometrika 28, 1936).
const GARWOOD: [f64; RARE] =
    [3.689, 5.572, 7.225, 8.767, 10.242, 11.668, 13.059, 14.423, 15.763, 17.085, 18.390, 19.682];

/// The upper limit of how often something is to be expected that was seen so seldom.
pub fn rare(seen: usize) -> f64 {
    GARWOOD[seen.min(RARE - 1)]
}

/// The 97.5 % quantile of Student's t: the expansion of Abramowitz and Stegun, *Handbook*, 26.7.5; four digits from 5
/// degrees of freedom on, and two from 3 on.
pub fn student(degrees: f64) -> f64 {
    let x = NORMAL;
    let (x3, x5, x7, x9) = (x.powi(3), x.powi(5), x.powi(7), x.powi(9));
    x + (x3 + x) / (4.0 * degrees)
        + (5.0 * x5 + 16.0 * x3 + 3.0 * x) / (96.0 * degrees.powi(2))
        + (3.0 * x7 + 19.0 * x5 + 17.0 * x3 - 15.0 * x) / (384.0 * degrees.powi(3))
        + (79.0 * x9 + 776.0 * x7 + 1482.0 * x5 - 1920.0 * x3 - 945.0 * x) / (92_160.0 * degrees.powi(4))
}

/// How far the truth may lie below and above an estimate, in standard errors, where the error has this skewness and
/// Student's quantile is `t`: P. Hall's transformation of a t statistic (*On the removal of skewness by transformation*,
/// Journal of the Royal Statistical Society B 54, 1992), solved for the truth.
pub fn skewed(skewness: f64, t: f64) -> (f64, f64) {
    if skewness.abs() < 1e-6 {
        return (t, t);
    }
    let solve = |limit: f64| 3.0 / skewness * ((1.0 + skewness * (limit - skewness / 6.0)).cbrt() - 1.0);
    (solve(t).max(0.0), (-solve(-t)).max(0.0))
}

/// The limits of a sum of what few sightings stand for, each of them for at most `largest`: M. P. Fay and E. J. Feuer, *Confidence
/// intervals for directly standardized rates: a method based on the gamma distribution*, Statistics in Medicine 16,
/// 1997. Nothing seen is at most 3.7 times the largest.
pub fn weighted(value: f64, variance: f64, largest: f64) -> (f64, f64) {
    let gamma = |value: f64, variance: f64, z: f64| match value > 0.0 && variance > 0.0 {
        true => variance / (2.0 * value) * chi_square(2.0 * value * value / variance, z),
        false => value,
    };
    let low = gamma(value, variance, -NORMAL);
    let high = gamma(value + largest, variance + largest * largest, NORMAL);
    (low.min(value), high.max(value))
}

/// The quantile of chi-square that is the normal distribution's `z`: E. B. Wilson and M. M. Hilferty, *The distribution of
/// chi-square*, Proceedings of the National Academy of Sciences 17, 1931; within 2 % from 1 degree of freedom on for large ones.
fn chi_square(degrees: f64, z: f64) -> f64 {
    let ninth = 2.0 / (9.0 * degrees);
    degrees * (1.0 - ninth + z * ninth.sqrt()).max(0.0).powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_agree_with_tables() {
        for (degrees, expected) in [(5.0, 2.571), (9.0, 2.262), (19.0, 2.093), (23.0, 2.069), (1e9, 1.960)] {
            assert!((student(degrees) - expected).abs() < 1e-3, "{degrees}: {}", student(degrees));
        }
        assert!((student(3.0) - 3.182).abs() < 0.02);
    }

    /// Errors of sums of waiting times are skewed; 12 of them have a skewness of 2 / sqrt(12).
    #[test]
    fn skewed_limits_hold() {
        let mut rng = fastrand::Rng::with_seed(5);
        let (mut below, mut above) = (0, 0);
        const TIMES: usize = 20_000;
        for _ in 0..TIMES {
            let times: Vec<f64> = (0..12).map(|_| -rng.f64().max(1e-12).ln()).collect();
            let mean = times.iter().sum::<f64>() / 12.0;
            let moment = |power: i32| times.iter().map(|time| (time - mean).powi(power)).sum::<f64>() / 12.0;
            let error = (moment(2) / 11.0).sqrt();
            let (down, up) = skewed(moment(3) / moment(2).powf(1.5) / 12_f64.sqrt(), student(11.0));
            below += usize::from(1.0 < mean - down * error);
            above += usize::from(1.0 > mean + up * error);
        }
        // Without the transformation the truth lies above in 9 of 100.
        assert!(below < TIMES / 25 && above < TIMES / 18, "{below} {above}");
        assert_eq!(skewed(0.0, 2.0), (2.0, 2.0));
    }

    #[test]
    fn a_sum_of_equal_sightings_is_a_poisson_count() {
        for (seen, expected) in GARWOOD.iter().enumerate() {
            let (low, high) = weighted(seen as f64 * 7.0, seen as f64 * 49.0, 7.0);
            assert!((high / 7.0 / expected - 1.0).abs() < 0.02, "{seen}: {high}");
            assert!(low <= seen as f64 * 7.0 && low >= 0.0);
        }
        let (low, high) = weighted(1e6, 1e8, 1.0);
        assert!((low - 980_400.0).abs() < 300.0 && (high - 1_019_600.0).abs() < 300.0, "{low} {high}");
    }

    /// Few clusters of very different sizes: the truth is in 95 of 100 intervals, or more.
    #[test]
    fn weighted_limits_hold() {
        let mut rng = fastrand::Rng::with_seed(9);
        const TIMES: usize = 20_000;
        for mean in [0.5, 2.0, 6.0] {
            let mut missed = 0;
            for _ in 0..TIMES {
                let (mut value, mut variance, mut waited) = (0.0, 0.0, -rng.f64().max(1e-12).ln());
                while waited < mean {
                    let weight = 1.0 + 9.0 * rng.f64();
                    (value, variance) = (value + weight, variance + weight * weight);
                    waited -= rng.f64().max(1e-12).ln();
                }
                let (low, high) = weighted(value, variance, 10.0);
                missed += usize::from(!(low..=high).contains(&(5.5 * mean)));
            }
            assert!(missed < TIMES / 20, "{mean}: {missed}");
        }
    }
}
