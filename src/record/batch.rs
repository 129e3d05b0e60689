//! What was born at one time, and is followed together: was it in sight all the time?
//!
//! An object that died and another one in its place are told apart only by looks that come close enough ([`crate::record::follow`]).
//! What is born at one instant lies side by side, dies together as a rule, and its places are taken together: where nobody
//! looked just then, all of it passes for alive. Looks are late where the system gives our processor to others, or something
//! else was to be read. In a program whose functions take over each other's places, nearly all that passed for alive was of
//! such gaps, of 0.1 to 1.5 milliseconds; regular looks, 10 to 30 microseconds apart, missed next to nothing.
//!
//! So a batch that was out of sight too long for its age is *lost*: neither what of it seems to live is believed, nor what has
//! died. Our clock alone decides that, also where nothing is left to be looked at: else what died at once would count always,
//! and what lives only where nothing came in between. Where reading takes so long that nearly all of a stack's batches are lost (a
//! slow machine, a very deep stack), they are better than nothing ([`crate::record::allocations`]).

use std::time::{Duration, Instant};

use super::watched::Watched;

/// From one look to the next, at first.
const STEP: Duration = Duration::from_micros(5);
/// Later, that part of the age.
const STEPS_OF_AGE: u32 = 20;
/// How long it may be out of sight, at first: to read what was born, or names, takes that long at times.
const SIGHT: Duration = Duration::from_micros(80);
/// Later, that part of the age.
const SIGHT_OF_AGE: u32 = 3;
/// From this age on it may be out of sight for as long as the system gives a processor to others at once. Where processors are few
/// that comes every few milliseconds, and nearly nothing would be left.
const GROWN: Duration = Duration::from_millis(1);
const SLICE: Duration = Duration::from_millis(5);

/// Objects that were born at one probe or in one train, in one lane.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Those whose places are looked at.
    pub objects: Vec<Watched>,
    /// Those whose places had been taken by others of the batch before anybody looked.
    pub dead: Vec<Watched>,
    born: Instant,
    looked: Instant,
    is_lost: bool,
}

impl Batch {
    /// Objects that are in sight since an instant.
    pub fn new(objects: Vec<Watched>, born: Instant) -> Batch {
        Batch { objects, dead: Vec::new(), born, looked: born, is_lost: false }
    }

    /// When it is to be looked at again: after microseconds, and later after a part of its age.
    pub fn next_look(&self) -> Instant {
        self.looked + STEP.max(self.age(self.looked) / STEPS_OF_AGE)
    }

    /// It is looked at, whether something is left of it or not.
    pub fn look(&mut self, at: Instant) {
        if !self.is_lost && self.is_lost(at) {
            log::trace!("out of sight for {:?} at {:?}", at - self.looked, self.looked - self.born);
            self.is_lost = true;
        }
        self.looked = at;
    }

    /// Whether it was out of sight for too long, where the next look is now.
    pub fn is_lost(&self, now: Instant) -> bool {
        let age = self.age(self.looked);
        let limit = if age < GROWN { SIGHT.max(age / SIGHT_OF_AGE) } else { SLICE };
        self.is_lost || now.saturating_duration_since(self.looked) > limit
    }

    /// How old it is.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.born)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_out_of_sight_too_long_for_its_age_is_lost() {
        let born = Instant::now();
        let after = |looks: &[u64], now: u64| {
            let mut batch = Batch::new(Vec::new(), born);
            looks.iter().for_each(|&at| batch.look(born + Duration::from_micros(at)));
            batch.is_lost(born + Duration::from_micros(now))
        };
        assert!(!after(&[], 80) && after(&[], 81));
        assert!(!after(&[20, 70, 130], 210) && after(&[20, 70, 130], 211));
        // A third of 600 microseconds.
        let each: Vec<u64> = (1..=12).map(|look| 50 * look).collect();
        assert!(!after(&each, 800) && after(&each, 801));
        let each: Vec<u64> = (1..=20).map(|look| 50 * look).collect();
        assert!(!after(&each, 6000) && after(&each, 6001));
        // It stays lost.
        assert!(after(&[81, 110, 120], 130));
    }

    #[test]
    fn looks_come_later_and_later_and_lose_nothing() {
        let born = Instant::now();
        let mut batch = Batch::new(Vec::new(), born);
        let mut looks = 0;
        while batch.age(batch.looked) < Duration::from_millis(10) {
            batch.look(batch.next_look());
            looks += 1;
        }
        assert!((100..200).contains(&looks) && !batch.is_lost(batch.next_look()), "{looks}");
    }
}
