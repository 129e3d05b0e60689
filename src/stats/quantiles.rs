//! Quantiles and limits of 95 % confidence intervals: for sums with normal errors, for skewed ones, for rare events.

use statrs::distribution::{ChiSquared, ContinuousCDF, Normal, StudentsT};

/// With fewer observations than this an event is rare: their spread says little.
pub const RARE: usize = 12;

/// The quantile that ends a two-sided 95 % interval.
pub const CONFIDENCE: f64 = 0.975;

/// Beyond these degrees of freedom the normal distribution is used: it differs from the others by less than 0.01 %, and
/// `statrs` takes long there, or errs.
const DEGREES_MAX: f64 = 1e5;

/// The upper limit of a Poisson mean of which `seen` events were observed: half the chi-square quantile of 2 (n + 1)
/// degrees of freedom (F. Garwood, *Fiducial limits for the Poisson distribution*, Biometrika 28, 1936).
pub fn poisson_upper(seen: usize, confidence: f64) -> f64 {
    chi_square(2.0 * (seen as f64 + 1.0), confidence) / 2.0
}

/// The 97.5 % quantile of Student's t.
pub fn student(degrees: f64) -> f64 {
    let t = StudentsT::new(0.0, 1.0, degrees.min(DEGREES_MAX));
    t.map_or_else(|_| normal(CONFIDENCE), |t| t.inverse_cdf(CONFIDENCE))
}

fn normal(confidence: f64) -> f64 {
    Normal::standard().inverse_cdf(confidence)
}

/// A quantile of chi-square; 0 if there are no degrees of freedom.
fn chi_square(degrees: f64, confidence: f64) -> f64 {
    if degrees > DEGREES_MAX {
        return degrees + normal(confidence) * (2.0 * degrees).sqrt();
    }
    ChiSquared::new(degrees).map_or(0.0, |chi_square| chi_square.inverse_cdf(confidence))
}

/// Limits below and above an estimate, in standard errors, for an error of this skewness and Student's quantile `t`:
/// P. Hall's transformation of a t statistic (*On the removal of skewness by transformation*, Journal of the Royal
/// Statistical Society B 54, 1992), solved for the true value.
pub fn skewed(skewness: f64, t: f64) -> (f64, f64) {
    if skewness.abs() < 1e-6 {
        return (t, t);
    }
    let solve = |limit: f64| 3.0 / skewness * ((1.0 + skewness * (limit - skewness / 6.0)).cbrt() - 1.0);
    (solve(t).max(0.0), (-solve(-t)).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The normal distribution's 97.5 % quantile.
    const NORMAL: f64 = 1.959_964;
    /// Garwood's upper limits of a Poisson mean of which 0, 1, 2, ... were seen, from his table.
    const GARWOOD: [f64; 12] =
        [3.689, 5.572, 7.225, 8.767, 10.242, 11.668, 13.059, 14.423, 15.763, 17.085, 18.390, 19.682];

    #[test]
    fn quantiles_agree_with_tables() {
        for (degrees, expected) in [(5.0, 2.571), (9.0, 2.262), (19.0, 2.093), (23.0, 2.069), (1e9, 1.960)] {
            assert!((student(degrees) - expected).abs() < 1e-3, "{degrees}: {}", student(degrees));
        }
        assert!((student(3.0) - 3.182).abs() < 1e-3);
        for (seen, expected) in GARWOOD.iter().enumerate() {
            assert!((poisson_upper(seen, CONFIDENCE) - expected).abs() < 1e-3, "{seen}");
        }
        // Both sides of the limit beyond which the normal distribution is used.
        for degrees in [DEGREES_MAX * 0.999, DEGREES_MAX * 1.001] {
            let expected = degrees + NORMAL * (2.0 * degrees).sqrt();
            assert!((chi_square(degrees, CONFIDENCE) / expected - 1.0).abs() < 1e-4, "{degrees}");
            assert!((student(degrees) - NORMAL).abs() < 1e-3, "{degrees}");
        }
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
}
