//! Counts objects by type and by unit of a sample.

use rustc_hash::FxHashMap;

use crate::heap::object::{Amount, Object, Sink};

use super::large_blocks::{LARGE, LargeObject};
use super::sample::CERTAIN;

/// Counts by type and unit.
pub(crate) struct UnitTally {
    /// The unit of each pool, by its number.
    pub(crate) pools: FxHashMap<u64, u32>,
    pub(crate) pool_size: u64,
    /// The unit of objects outside these pools.
    pub(crate) elsewhere: u32,
    /// Pool and unit of the last object, and the counts of that unit that are not yet filed.
    pub(crate) last: (u64, u32),
    pub(crate) here: Vec<(u32, Amount)>,
    pub(crate) observed: Vec<(u32, u32, Amount)>,
    pub(crate) certain: FxHashMap<u32, Amount>,
    /// Large objects, whose bytes are attributed later.
    pub(crate) large: Vec<LargeObject>,
}

impl UnitTally {
    /// Counts objects outside pools in `unit` from now on.
    pub(crate) fn turn_to(&mut self, unit: u32) {
        self.file();
        (self.elsewhere, self.last) = (unit, (u64::MAX, unit));
    }

    /// Files the counts of the last unit.
    pub(crate) fn file(&mut self) {
        let unit = self.last.1;
        for (type_id, amount) in self.here.drain(..) {
            match unit {
                CERTAIN => self.certain.entry(type_id).or_default().add(amount),
                unit => self.observed.push((type_id, unit, amount)),
            }
        }
    }
}

impl Sink for UnitTally {
    fn object(&mut self, object: &Object) {
        let pool = object.address.0 / self.pool_size;
        if pool != self.last.0 {
            let unit = self.pools.get(&pool).copied().unwrap_or(self.elsewhere);
            if unit != self.last.1 {
                self.file();
            }
            self.last = (pool, unit);
        }
        let (type_id, mut amount) = (object.type_id.index() as u32, Amount { objects: 1, bytes: object.size });
        if object.size > LARGE {
            self.large.push(LargeObject { address: object.address, type_id, size: object.size, unit: self.last.1 });
            amount.bytes = 0;
        }
        match self.here.iter_mut().find(|(id, _)| *id == type_id) {
            Some((_, sum)) => sum.add(amount),
            None => self.here.push((type_id, amount)),
        }
    }
}
