//! Does a series of figures grow like a leak?

use std::time::Duration;

use serde::Serialize;

use super::figures::Figures;

/// The share of one step in all growth from which on it is a burst.
const BURST: f64 = 0.6;
/// The rate of the last half against the first, below which growth slows down.
const SLOWING: f64 = 0.7;
/// How much the rates of steps may vary: their standard deviation against their mean.
const UNSTEADY: f64 = 0.35;
/// How young growth is, against the process, that began recently.
const RECENT: f64 = 0.25;

/// What the growth of something looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It grew at each look, at one rate, and has done so for long.
    Steady,
    /// It grew, but at rates that vary.
    Unsteady,
    /// It grows more and more slowly: it warms up.
    Slowing,
    /// Most of the growth came in one step.
    Burst,
    /// The program has set a bound, which is not reached yet.
    Filling,
    /// It is far younger than the process: it may be a batch.
    Recent,
}

impl Verdict {
    /// Whether it grows like a leak.
    pub fn is_of_a_leak(self) -> bool {
        matches!(self, Verdict::Steady | Verdict::Unsteady)
    }

    /// What it means, for people.
    pub fn sentence(self) -> &'static str {
        match self {
            Verdict::Steady => "steady: grew at each look",
            Verdict::Unsteady => "unsteady: its rate varies",
            Verdict::Slowing => "slowing: grows less and less",
            Verdict::Burst => "a burst: most of it came in one step",
            Verdict::Filling => "filling: it has a bound",
            Verdict::Recent => "began recently",
        }
    }
}

/// What growth without a bound looks like. `uptime`: how old the process was at the first look.
pub fn judge(figures: &Figures, uptime: Option<Duration>) -> Verdict {
    let steps = figures.values.windows(2).map(|pair| pair[1] as f64 - pair[0] as f64);
    let (largest, rates) = (steps.fold(0.0, f64::max), figures.rates());
    // Of two steps, one is always most of it.
    if rates.len() > 2 && largest > BURST * figures.growth() {
        return Verdict::Burst;
    }
    let mean = |rates: &[f64]| rates.iter().sum::<f64>() / rates.len().max(1) as f64;
    let half = rates.len() / 2;
    let (first, last) = (mean(&rates[..half]), mean(&rates[rates.len() - half..]));
    if half > 0 && last < SLOWING * first {
        return Verdict::Slowing;
    }
    let began_recently = uptime.zip(figures.age()).is_some_and(|(uptime, age)| {
        let window = figures.window();
        age < uptime.mul_f64(RECENT) && uptime - age > window
    });
    if began_recently {
        return Verdict::Recent;
    }
    let all = mean(&rates);
    let variance = rates.iter().map(|rate| (rate - all).powi(2)).sum::<f64>() / rates.len().max(1) as f64;
    if variance.sqrt() > UNSTEADY * all { Verdict::Unsteady } else { Verdict::Steady }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(values: &[u64]) -> Figures {
        let at = (0..values.len() as u64).map(|look| Duration::from_secs(10 * look)).collect();
        Figures { at, values: values.to_vec() }
    }

    const OLD: Option<Duration> = Some(Duration::from_secs(40));

    #[test]
    fn growth_has_shapes() {
        let cases: [(&[u64], Verdict); 5] = [
            (&[1000, 1100, 1205, 1300, 1398, 1502, 1600], Verdict::Steady),
            (&[1000, 1010, 1020, 1900, 1910, 1920, 1930], Verdict::Burst),
            (&[1000, 1400, 1700, 1900, 2000, 2060, 2080], Verdict::Slowing),
            (&[1000, 1010, 1200, 1220, 1400, 1410, 1600], Verdict::Unsteady),
            (&[1000, 1100, 1200, 1300, 1400, 1500], Verdict::Steady),
        ];
        for (values, verdict) in &cases {
            assert_eq!(judge(&figures(values), OLD), *verdict, "{values:?}");
        }
    }

    #[test]
    fn a_batch_is_younger_than_its_process() {
        let batch = figures(&[50, 150, 250, 350, 450, 550, 650]);
        assert_eq!(batch.age(), Some(Duration::from_secs(5)));
        assert_eq!(judge(&batch, Some(Duration::from_secs(3600))), Verdict::Recent);
        assert_eq!(judge(&batch, Some(Duration::from_secs(10))), Verdict::Steady);
        assert_eq!(judge(&batch, None), Verdict::Steady);
    }
}
