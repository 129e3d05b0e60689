//! What was seen in each unit of a sample, by type.

use rustc_hash::FxHashMap;

use crate::heap::object::{Amount, Object, Sink};

use super::large_blocks::{HEAVY, LargeObject};
use super::sample::CERTAIN;

/// Counts by type and unit.
pub(crate) struct UnitTally {
    /// The unit of each pool, by its number.
    pub(crate) pools: FxHashMap<u64, u32>,
    pub(crate) pool_size: u64,
    /// The unit of what is in no such pool.
    pub(crate) elsewhere: u32,
    /// The pool and unit that the last object was in, and what was seen there since.
    pub(crate) last: (u64, u32),
    pub(crate) here: Vec<(u32, Amount)>,
    pub(crate) seen: Vec<(u32, u32, Amount)>,
    pub(crate) certain: FxHashMap<u32, Amount>,
    /// Objects whose bytes are told apart later.
    pub(crate) heavy: Vec<LargeObject>,
}

impl UnitTally {
    /// What is in no pool belongs to `unit` from now on.
    pub(crate) fn turn_to(&mut self, unit: u32) {
        self.put_down();
        (self.elsewhere, self.last) = (unit, (u64::MAX, unit));
    }

    pub(crate) fn put_down(&mut self) {
        let unit = self.last.1;
        for (type_id, amount) in self.here.drain(..) {
            match unit {
                CERTAIN => self.certain.entry(type_id).or_default().add(amount),
                unit => self.seen.push((type_id, unit, amount)),
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
                self.put_down();
            }
            self.last = (pool, unit);
        }
        let (type_id, mut amount) = (object.type_id.index() as u32, Amount { objects: 1, bytes: object.size });
        if object.size > HEAVY {
            self.heavy.push(LargeObject { address: object.address, type_id, size: object.size, unit: self.last.1 });
            amount.bytes = 0;
        }
        match self.here.iter_mut().find(|(id, _)| *id == type_id) {
            Some((_, sum)) => sum.add(amount),
            None => self.here.push((type_id, amount)),
        }
    }
}
