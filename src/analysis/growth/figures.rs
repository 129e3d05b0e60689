//! Figures of one thing over time.

use std::time::Duration;

/// Looks from which on one step may miss the growth.
const LOOKS_FOR_A_MISS: usize = 7;

/// Figures of one thing, a time and a value for each look.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// When, since the first look.
    pub at: Vec<Duration>,
    /// How many, or how large.
    pub values: Vec<u64>,
}

impl Figures {
    /// From the first look to the last; negative where it shrank.
    pub fn growth(&self) -> f64 {
        match (self.values.first(), self.values.last()) {
            (Some(&first), Some(&last)) => last as f64 - first as f64,
            _ => 0.0,
        }
    }

    /// The time from the first look to the last.
    pub fn window(&self) -> Duration {
        self.at.last().copied().unwrap_or_default()
    }

    /// Per second.
    pub fn rate(&self) -> f64 {
        let seconds = |at: Option<&Duration>| at.map_or(0.0, Duration::as_secs_f64);
        let seconds = seconds(self.at.last()) - seconds(self.at.first());
        if seconds > 0.0 { self.growth() / seconds } else { 0.0 }
    }

    /// Of each step, per second.
    pub fn rates(&self) -> Vec<f64> {
        let at: Vec<f64> = self.at.iter().map(Duration::as_secs_f64).collect();
        let steps = at.windows(2).zip(self.values.windows(2));
        steps.map(|(at, values)| (values[1] as f64 - values[0] as f64) / (at[1] - at[0]).max(1e-3)).collect()
    }

    /// Whether it rose at each look; from seven looks on, one step may miss.
    pub fn rises(&self) -> bool {
        rises(&self.values)
    }

    /// How old the growth is, as if it had always been at this rate.
    pub fn age(&self) -> Option<Duration> {
        let (first, rate) = (*self.values.first()? as f64, self.rate());
        (rate > 0.0).then(|| Duration::try_from_secs_f64(first / rate).ok()).flatten()
    }
}

/// Whether values rise from each to the next; from seven on, one step may miss.
pub fn rises(values: &[u64]) -> bool {
    let misses = values.windows(2).filter(|pair| pair[1] <= pair[0]).count();
    let is_longer = values.last() > values.first();
    values.len() > 1 && is_longer && misses <= usize::from(values.len() >= LOOKS_FOR_A_MISS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_step_of_six_may_miss() {
        assert!(rises(&[1, 2, 3, 4]));
        assert!(!rises(&[1, 2, 2, 4]));
        assert!(rises(&[1, 2, 2, 4, 5, 6, 7]));
        assert!(!rises(&[1, 2, 2, 4, 4, 6, 7]));
        assert!(!rises(&[7, 8, 9, 10, 11, 12, 5]));
        assert!(!rises(&[7]));
    }
}
