//! All objects of a target as columns: 14 bytes per object, as a graph needs them.
//!
//! Addresses are not stored: an object's number is its rank in the [`ObjectIndex`], which returns the address.

use std::sync::atomic::Ordering;

use rayon::prelude::*;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::process::memory::Memory;
use crate::process::{Address, pages};
use crate::python::interpreter::Python;
use crate::python::types::TypeId;

use super::address_index::ObjectIndex;
use super::gc_lists;
use super::object::{Object, Sink};
use super::survey::ListCheck;
use crate::python::object_header::Refcount;

/// Objects per piece. A worker collects objects in pieces, so that growing moves nothing, and each piece is freed once
/// its objects are in their columns.
const PIECE: usize = 1 << 14;

/// Flag in the column of types: the object is immortal. No process has that many types.
const IMMORTAL: u32 = 1 << 31;
/// Flag in the column of types: the object is in one of the collector's lists.
const TRACKED: u32 = 1 << 30;
/// Marks a size or count that does not fit its column and is stored separately.
const LARGE: u32 = u32::MAX;

/// The objects found by one worker.
#[derive(Debug, Default)]
pub struct FoundObjects {
    pieces: Vec<Vec<Packed>>,
    large: Vec<Object>,
}

/// An object in 20 bytes: address in two halves, type, size, count and flags.
#[derive(Clone, Copy, Debug)]
struct Packed([u32; 5]);

impl Packed {
    fn address(self) -> Address {
        Address(u64::from(self.0[0]) | u64::from(self.0[1]) << 32)
    }
}

impl Sink for FoundObjects {
    fn object(&mut self, object: &Object) {
        let mut kind = object.type_id.0 & !(TRACKED | IMMORTAL);
        if object.tracked {
            kind |= TRACKED;
        }
        let size = u32::try_from(object.size).unwrap_or(LARGE);
        let (count, is_large) = match object.refcount {
            Refcount::Count(count) => u32::try_from(count).map_or((LARGE, true), |count| (count, count == LARGE)),
            Refcount::Immortal(count) => {
                kind |= IMMORTAL;
                (count, false)
            }
        };
        if size == LARGE || is_large {
            self.large.push(*object);
        }
        if self.pieces.last().is_none_or(|piece| piece.len() == PIECE) {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        let address = object.address.0;
        let packed = Packed([address as u32, (address >> 32) as u32, kind, size, count]);
        if let Some(piece) = self.pieces.last_mut() {
            piece.push(packed);
        }
    }
}

/// All objects, numbered by address.
#[derive(Debug, Default)]
pub struct Objects {
    index: ObjectIndex,
    types: Vec<u32>,
    sizes: Vec<u32>,
    counts: Vec<u32>,
    /// Objects whose size or count does not fit a column.
    large: FxHashMap<u32, Object>,
}

impl Objects {
    /// Combines what the workers found, freeing their memory piece by piece.
    pub fn new(found: Vec<FoundObjects>) -> Objects {
        let all = found.iter().flat_map(|found| found.pieces.iter().flatten());
        let (index, left_out) = ObjectIndex::new(all.map(|packed| packed.address()));
        if left_out > 0 {
            log::debug!("{left_out} objects left out: duplicates or invalid addresses");
        }
        let len = index.len();
        let [types, sizes, counts] = [(); 3].map(|()| pages::counters(len));
        let mut large = FxHashMap::default();
        let mut all_pieces = Vec::new();
        for FoundObjects { pieces, large: more } in found {
            all_pieces.extend(pieces);
            large.extend(more.into_iter().filter_map(|object| Some((index.find(object.address.0)?, object))));
        }
        all_pieces.into_par_iter().for_each(|piece| {
            for packed in piece {
                let Some(rank) = index.find(packed.address().0) else { continue };
                let Packed([_, _, kind, size, count]) = packed;
                for (column, value) in [(&types, kind), (&sizes, size), (&counts, count)] {
                    column[rank as usize].store(value, Ordering::Relaxed);
                }
            }
        });
        let [types, sizes, counts] = [types, sizes, counts].map(pages::counted);
        Objects { index, types, sizes, counts, large }
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.types.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.types.is_empty()
    }

    /// The number of the object at an address. `None` if no object starts there.
    #[inline(always)]
    pub fn find(&self, address: u64) -> Option<u32> {
        self.index.find(address)
    }

    /// The address of an object; null if there is no such number.
    pub fn address(&self, id: usize) -> Address {
        u32::try_from(id).ok().and_then(|id| self.index.address(id)).unwrap_or_default()
    }

    /// The type of an object; the first type if there is no such number.
    #[inline(always)]
    pub fn type_id(&self, id: usize) -> TypeId {
        TypeId(self.types.get(id).copied().unwrap_or(0) & !(TRACKED | IMMORTAL))
    }

    /// The shallow size of an object in bytes; 0 if there is no such number.
    #[inline(always)]
    pub fn size(&self, id: usize) -> u64 {
        match self.sizes.get(id) {
            Some(&LARGE) => self.large.get(&(id as u32)).map_or(u64::from(LARGE), |object| object.size),
            Some(&size) => u64::from(size),
            None => 0,
        }
    }

    /// The reference count of an object.
    pub fn refcount(&self, id: usize) -> Refcount {
        let count = self.counts.get(id).copied().unwrap_or(0);
        match count {
            _ if self.has_flag(id, IMMORTAL) => Refcount::Immortal(count),
            LARGE => self.large.get(&(id as u32)).map_or(Refcount::Count(u64::from(count)), |object| object.refcount),
            _ => Refcount::Count(u64::from(count)),
        }
    }

    fn has_flag(&self, id: usize, flag: u32) -> bool {
        self.types.get(id).is_some_and(|kind| kind & flag != 0)
    }

    /// All objects, in order of address.
    pub fn iter(&self) -> impl Iterator<Item = Object> + '_ {
        self.from(0).map(|(_, object)| object)
    }

    /// The number of the first object at or after an address, or the number of objects if there is none.
    pub fn first_from(&self, address: Address) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.address(middle) < address { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// The objects from a number on, with their numbers.
    pub fn from(&self, first: usize) -> impl Iterator<Item = (usize, Object)> + '_ {
        let start = u32::try_from(first).unwrap_or(u32::MAX);
        self.index.addresses_from(start).enumerate().map(move |(nth, address)| {
            let id = first + nth;
            (
                id,
                Object {
                    address,
                    type_id: self.type_id(id),
                    size: self.size(id),
                    refcount: self.refcount(id),
                    tracked: self.has_flag(id, TRACKED),
                },
            )
        })
    }

    /// Memory that the columns take, bytes.
    pub fn size_bytes(&self) -> u64 {
        self.index.size_bytes() + 12 * self.len() as u64 + 64 * self.large.len() as u64
    }

    /// Compares the objects with the collector's lists. For local memory. Takes one bit per object.
    pub fn check_lists<M: Memory + ?Sized>(&self, memory: &M, python: &Python) -> ListCheck {
        let mut met = vec![0u64; self.len().div_ceil(64)];
        let mut elsewhere: FxHashSet<Address> = FxHashSet::default();
        // A valid walk visits at most as many nodes as there are objects.
        let limit = 2 * self.len() as u64 + 1024;
        let listed = gc_lists::walk(memory, python, limit, |address| match self.find(address.0) {
            Some(id) if self.has_flag(id as usize, TRACKED) => {
                let word = &mut met[id as usize / 64];
                let is_new = *word >> (id % 64) & 1 == 0;
                *word |= 1 << (id % 64);
                is_new
            }
            _ => elsewhere.insert(address),
        });
        let in_both: u64 = met.iter().map(|word| u64::from(word.count_ones())).sum();
        let tracked = (0..self.len()).filter(|&id| self.has_flag(id, TRACKED)).count() as u64;
        ListCheck {
            listed: listed.objects,
            only_listed: elsewhere.len() as u64,
            only_in_blocks: tracked - in_both,
            broken_lists: listed.broken,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_comes_back_in_order() {
        let object = |n: u64| Object {
            address: Address(0x7000_0000_0000 + 48 * n),
            type_id: TypeId(n as u32 % 7),
            size: if n == 5 { u64::MAX / 3 } else { n },
            refcount: match n % 3 {
                0 => Refcount::Immortal(u32::MAX - (n % 2) as u32),
                1 => Refcount::Count(n),
                _ => Refcount::Count(u64::from(LARGE) - 1 + n % 4),
            },
            tracked: n.is_multiple_of(2),
        };
        let (mut one, mut two) = (FoundObjects::default(), FoundObjects::default());
        (0..40_000).rev().for_each(|n| if n % 5 == 0 { one.object(&object(n)) } else { two.object(&object(n)) });
        let objects = Objects::new(vec![one, two]);
        assert_eq!(objects.len(), 40_000);
        assert!(objects.iter().enumerate().all(|(n, found)| found == object(n as u64)));
        assert_eq!(objects.address(7), object(7).address);
        assert_eq!(objects.from(39_990).count(), 10);
        assert_eq!((objects.size(99_999), objects.address(99_999)), (0, Address::NULL));
        assert_eq!(std::mem::size_of::<Packed>(), 20);
    }
}
