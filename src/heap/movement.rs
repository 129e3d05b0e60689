//! What moved while a target was read that did not stand still.
//!
//! A census of a running target reads one place after another, so what it counts was never there at one moment: it
//! misses what moves to where it has been, and counts twice what moves to where it will be. What it finds in some
//! places is noted (strips of memory, chosen by a hash of their address, so that it costs a comparison for each
//! object), and once it is done these are read again. By how much the count of a type in each strip has changed tells
//! how it flows. A flow along the order of reading adds up: the error is then at most the largest sum of the changes in
//! the first strips, for however many of them. Changes without order add up as their squares do.

use std::ops::Range;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::process::Address;
use crate::python::types::TypeId;

use super::object::{Object, Sink};

/// Bytes of a strip: a page of mimalloc's, four pools.
const STRIP: u64 = 64 << 10;
/// Bytes from a strip's edge within which an object is told by its address: a block that begins in one strip may hold
/// an object of the next, behind a mark of the debug hooks, a GC head and a pre-header.
pub(crate) const EDGE: u64 = 64;
/// Bytes that are read again. What is smaller is read again as a whole, which takes some 10 ms.
const READ_AGAIN: u64 = 24 << 20;
/// On average a place is read again after half of the time between the first reading of all and the last: what flows
/// in all of it is twice what was seen.
const WHOLE_TIME: f64 = 2.0;
/// Changes of which a log tells.
const TOLD: usize = 20;
/// Standard errors that a bound leaves room for: 95 of 100 truths lie within two.
const ERRORS: f64 = 2.0;

/// Which strips of memory are read twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strips {
    /// The largest hash of a strip that is.
    limit: u64,
}

impl Strips {
    /// Of so many bytes, all or a sample.
    pub fn of(bytes: u64) -> Strips {
        let share = READ_AGAIN as f64 / bytes.max(1) as f64;
        Strips { limit: if share >= 1.0 { u64::MAX } else { (share * u64::MAX as f64) as u64 } }
    }

    /// Whether these are all.
    pub fn are_all(self) -> bool {
        self.limit == u64::MAX
    }

    /// The share of memory that is read twice.
    pub fn share(self) -> f64 {
        self.limit as f64 / u64::MAX as f64
    }

    /// Whether an address is in one of them. Neighbors are spread evenly.
    #[inline(always)]
    pub fn contains(self, address: Address) -> bool {
        /// 2^64 divided by the golden ratio.
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        (address.0 / STRIP).wrapping_mul(SPREAD) <= self.limit
    }

    /// What of a range is in them.
    pub fn within(self, range: &Range<Address>) -> impl Iterator<Item = Range<Address>> + use<> {
        let range = range.clone();
        let numbers = range.start.0 / STRIP..range.end.0.div_ceil(STRIP);
        numbers.map(|number| Address(number * STRIP)).filter(move |&start| self.contains(start)).map(move |start| {
            let end = start.0.saturating_add(STRIP).min(range.end.0);
            start.max(range.start)..Address(end)
        })
    }
}

/// What was met in the strips: objects by strip and type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Met {
    counts: FxHashMap<(u64, TypeId), i64>,
    /// Those at a strip's edge, which may be met with two strips.
    at_edges: FxHashSet<(Address, TypeId)>,
}

impl Met {
    /// Notes an object in a strip.
    fn note(&mut self, address: Address, type_id: TypeId) {
        if (EDGE..STRIP - EDGE).contains(&(address.0 % STRIP)) {
            *self.counts.entry((address.0 / STRIP, type_id)).or_default() += 1;
        } else {
            self.at_edges.insert((address, type_id));
        }
    }

    /// Adds what another thread met.
    pub(crate) fn plus(mut self, other: Met) -> Met {
        // The larger table stays where it is.
        let (mut most, least) = match self.counts.len() >= other.counts.len() {
            true => (self.counts, other.counts),
            false => (other.counts, self.counts),
        };
        least.into_iter().for_each(|(place, count)| *most.entry(place).or_default() += count);
        self.at_edges.extend(other.at_edges);
        Met { counts: most, ..self }
    }

    /// Objects by strip and type.
    fn counts(self) -> FxHashMap<(u64, TypeId), i64> {
        let Met { mut counts, at_edges } = self;
        for (address, type_id) in at_edges {
            *counts.entry((address.0 / STRIP, type_id)).or_default() += 1;
        }
        counts
    }
}

/// A sink that notes what it meets in some strips.
pub(crate) struct Noted<'r, S> {
    /// Where all objects go.
    pub sink: S,
    /// The strips, if any.
    pub strips: Option<Strips>,
    /// What is read only once, in order of address: nothing there is noted.
    pub except: &'r [Range<Address>],
    /// What was met in the strips.
    pub met: Met,
}

impl<S: Sink> Sink for Noted<'_, S> {
    #[inline]
    fn object(&mut self, object: &Object) {
        if self.strips.is_some_and(|strips| strips.contains(object.address)) && self.is_read_twice(object.address) {
            self.met.note(object.address, object.type_id);
        }
        self.sink.object(object);
    }
}

impl<S> Noted<'_, S> {
    fn is_read_twice(&self, address: Address) -> bool {
        let index = self.except.partition_point(|range| range.start <= address);
        !index.checked_sub(1).and_then(|index| self.except.get(index)).is_some_and(|range| range.contains(&address))
    }
}

/// By how much counts may be off, since objects moved while they were counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Movement {
    /// Of all objects.
    pub total: u64,
    /// By type, where anything moved.
    pub by_type: FxHashMap<TypeId, u64>,
}

impl Movement {
    /// From two readings of some strips.
    pub fn between(first: Met, second: Met, strips: Strips) -> Movement {
        let mut changes = second.counts();
        first.counts().into_iter().for_each(|(place, count)| *changes.entry(place).or_default() -= count);
        let mut changes: Vec<_> = changes.into_iter().filter(|&(_, change)| change != 0).collect();
        changes.sort_unstable_by_key(|&(place, _)| place);
        for ((strip, type_id), change) in changes.iter().take(TOLD) {
            log::debug!("{change:+} objects of type {} in the strip at {:#x}", type_id.0, strip * STRIP);
        }
        let mut all = Flow::default();
        let mut flows: FxHashMap<TypeId, Flow> = FxHashMap::default();
        for strip in changes.chunk_by(|((a, _), _), ((b, _), _)| a == b) {
            strip.iter().for_each(|&((_, type_id), change)| flows.entry(type_id).or_default().add(change));
            all.add(strip.iter().map(|(_, change)| change).sum());
        }
        let by_type = flows.into_iter().map(|(type_id, flow)| (type_id, flow.bound(strips))).collect();
        Movement { total: all.bound(strips), by_type }
    }
}

/// How counts changed from strip to strip, in order of address, which is about that of reading.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    sum: i64,
    /// The largest sum on the way, without its sign.
    largest: u64,
    squares: f64,
}

impl Flow {
    fn add(&mut self, change: i64) {
        self.sum += change;
        self.largest = self.largest.max(self.sum.unsigned_abs());
        self.squares += (change * change) as f64;
    }

    /// The bound for all strips.
    fn bound(self, strips: Strips) -> u64 {
        let seen = WHOLE_TIME * self.largest as f64 + ERRORS * self.squares.sqrt();
        (seen / strips.share()).ceil() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::object_header::Refcount;

    fn met(objects: impl Iterator<Item = (u64, u32)>) -> Met {
        let mut met = Met::default();
        objects.for_each(|(address, type_id)| met.note(Address(address), TypeId(type_id)));
        met
    }

    #[test]
    fn what_flows_from_strip_to_strip_adds_up() {
        let all = Strips::of(1 << 20);
        assert!(all.are_all());
        let strip =
            |number: u64, objects: u64, type_id: u32| (0..objects).map(move |nth| (number * STRIP + 16 * nth, type_id));
        // Type 0 flows: the first two strips lose ten each, the last two gain as many. Type 1 stands still.
        let first = || (0..4).flat_map(|number| strip(number, 20, 0)).chain(strip(5, 7, 1));
        let second = (0..4).flat_map(|number| strip(number, if number < 2 { 10 } else { 30 }, 0)).chain(strip(5, 7, 1));
        let movement = Movement::between(met(first()), met(second), all);
        // Twice twenty, and two standard errors of four tens.
        assert_eq!((movement.total, movement.by_type.len(), movement.by_type[&TypeId(0)]), (80, 1, 80));
        assert_eq!(Movement::between(met(first()), met(first()), all), Movement::default());
        // What lies where two strips meet is met with both.
        assert_eq!(Movement::between(met(first()), met(first()).plus(met(strip(5, 4, 1))), all), Movement::default());
    }

    #[test]
    fn data_is_read_once_and_not_noted() {
        struct Nowhere;
        impl Sink for Nowhere {
            fn object(&mut self, _: &Object) {}
        }
        let except = [Address(5 * STRIP + 256)..Address(5 * STRIP + 272)];
        let strips = Some(Strips::of(1));
        let mut noted = Noted { sink: Nowhere, strips, except: &except, met: Met::default() };
        for address in [0, 240, 256, 272] {
            let address = Address(5 * STRIP + address);
            let refcount = Refcount::Count(1);
            noted.object(&Object { address, type_id: TypeId::default(), size: 16, refcount, tracked: false });
        }
        let counts = noted.met.counts();
        assert_eq!(counts, FxHashMap::from_iter([((5, TypeId::default()), 3)]));
    }

    #[test]
    fn a_sample_of_strips_is_scaled_up() {
        let strips = Strips::of(READ_AGAIN * 8);
        let range = Address(7 * STRIP + 5)..Address(8007 * STRIP);
        let drawn: Vec<Range<Address>> = strips.within(&range).collect();
        assert!((990..=1010).contains(&drawn.len()), "{}", drawn.len());
        assert!(drawn.iter().all(|strip| strip.start >= range.start && strip.end <= range.end));
        // In each strip one object of three went.
        let in_strips = |objects: u64| {
            let all = (7..8007).flat_map(|strip| (1..=objects).map(move |nth| (strip * STRIP + 16 * nth, 0)));
            met(all.filter(|&(address, _)| strips.contains(Address(address))))
        };
        let movement = Movement::between(in_strips(3), in_strips(2), strips);
        assert!((16_000..17_000).contains(&movement.total), "{}", movement.total);
    }
}
