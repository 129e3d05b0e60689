//! Bounds that a program sets itself: the size of a cache, the length of a deque, the life of an entry.

use std::time::Duration;

use serde::Serialize;

use super::figures::Figures;

/// Names of attributes that bound how many entries a container takes, without underscores.
const SIZES: [&str; 9] =
    ["maxsize", "maxlen", "capacity", "maxentries", "maxitems", "maxlength", "maxcount", "sizelimit", "maxkeys"];
/// Names of attributes that say for how many seconds an entry lives.
const LIVES: [&str; 3] = ["ttl", "timetolive", "expireafter"];
/// Bytes that an entry takes in a table at most: an OrderedDict that has just doubled has 24 of a dict's entry and 4 of
/// its index three times over, 8 of its own index and 56 of a link.
const TABLE_ENTRY_MAX: u64 = 200;
/// How much longer entries may be there than they are to live: they are dropped at the next access.
const LIFE_SLACK: f64 = 1.25;

/// A bound that was read from a container.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bound {
    /// The attribute that says it.
    pub name: String,
    /// What is bounded.
    pub kind: BoundKind,
    /// Entries, or seconds.
    pub limit: u64,
}

/// What a bound is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BoundKind {
    /// How many entries there may be.
    Entries,
    /// For how many seconds an entry stays.
    Seconds,
}

impl Bound {
    /// What an attribute of this name and value bounds. Bounds of 0 and less mean none.
    pub fn of(name: &str, value: i64) -> Option<Bound> {
        let limit = u64::try_from(value).ok().filter(|&limit| limit > 0)?;
        // `_Cache__maxsize`: a private name has its class's before it.
        let plain = name.trim_start_matches('_');
        let plain = plain.rsplit_once("__").map_or(plain, |(_, plain)| plain);
        let plain: String = plain.chars().filter(|&char| char != '_').collect::<String>().to_lowercase();
        let kind = match plain.as_str() {
            plain if SIZES.contains(&plain) => BoundKind::Entries,
            plain if LIVES.contains(&plain) => BoundKind::Seconds,
            _ => return None,
        };
        Some(Bound { name: name.to_owned(), kind, limit })
    }

    /// Whether it lets its container grow as it did, and will end that.
    pub fn explains(&self, counts: &Figures) -> bool {
        match self.kind {
            BoundKind::Entries => counts.values.last().is_some_and(|&count| count <= self.limit),
            BoundKind::Seconds => {
                let window = counts.window();
                let life = Duration::try_from_secs_f64(self.limit as f64 * LIFE_SLACK).unwrap_or(Duration::MAX);
                counts.age().is_some_and(|age| age.saturating_add(window) < life)
            }
        }
    }

    /// Whether it lets a table take these bytes: what is counted is the table, not its entries.
    pub fn explains_table(&self, bytes: &Figures) -> bool {
        match self.kind {
            BoundKind::Entries => {
                bytes.values.last().is_some_and(|&bytes| bytes <= self.limit.saturating_mul(TABLE_ENTRY_MAX))
            }
            BoundKind::Seconds => self.explains(bytes),
        }
    }

    /// Bytes of as many entries as it allows, as large as those that are there.
    pub fn bytes_when_full(&self, counts: &Figures, bytes: &Figures) -> Option<u64> {
        let (&count, &bytes) = (counts.values.last().filter(|&&count| count > 0)?, bytes.values.last()?);
        (self.kind == BoundKind::Entries).then(|| (bytes as f64 / count as f64 * self.limit as f64) as u64)
    }

    /// When it is reached, at the rate of the last look.
    pub fn full_in(&self, counts: &Figures) -> Option<Duration> {
        let (&count, rate) = (counts.values.last()?, counts.rate());
        let left = match self.kind {
            BoundKind::Entries => (rate > 0.0).then(|| self.limit.saturating_sub(count) as f64 / rate)?,
            BoundKind::Seconds => {
                let age = counts.age()?.saturating_add(counts.window());
                (self.limit as f64 - age.as_secs_f64()).max(0.0)
            }
        };
        Duration::try_from_secs_f64(left).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_have_names() {
        for name in ["maxsize", "_maxsize", "_Cache__maxsize", "max_entries", "MAX_ENTRIES", "maxlen", "capacity"] {
            assert_eq!(Bound::of(name, 10).map(|bound| bound.kind), Some(BoundKind::Entries), "{name}");
        }
        assert_eq!(Bound::of("_TTLCache__ttl", 60).map(|bound| bound.kind), Some(BoundKind::Seconds));
        for (name, value) in [("maxsize", 0), ("maxsize", -1), ("size", 10), ("__class__", 10), ("", 10)] {
            assert_eq!(Bound::of(name, value), None, "{name}");
        }
    }

    #[test]
    fn a_bound_explains_growth_below_it() {
        let at = (0..4).map(|look| Duration::from_secs(20 * look)).collect();
        let counts = Figures { at, values: vec![1000, 2000, 3000, 4000] };
        let bound = |name: &str, limit| Bound::of(name, limit).expect("it is one");
        assert!(bound("maxsize", 4500).explains(&counts));
        assert_eq!(bound("maxsize", 4500).full_in(&counts), Some(Duration::from_secs(10)));
        assert!(!bound("maxsize", 3999).explains(&counts));
        let bytes = Figures { values: vec![100_000, 200_000, 300_000, 400_000], ..counts.clone() };
        assert_eq!(bound("maxsize", 1 << 40).bytes_when_full(&counts, &bytes), Some(100 << 40));
        assert_eq!(bound("ttl", 90).bytes_when_full(&counts, &bytes), None);
        assert!(bound("maxsize", 20).explains_table(&counts) && !bound("maxsize", 19).explains_table(&counts));
        // It has grown for 80 s.
        assert!(bound("ttl", 90).explains(&counts));
        assert!(!bound("ttl", 50).explains(&counts));
    }
}
