//! What stands in a collector's lists since some objects that are watched: no more can have been born since they were, and live.
//!
//! A watched object that seems to live may be another one in its place ([`crate::record::follow`]): where places are taken over at once, by
//! objects of which a few stay, most that seem to live are. Which ones, no look at a place can tell. But all that was born since the first of
//! those that are watched stands behind it, or in a younger list, and can be counted. What a collection has moved behind younger ones
//! stands there too, so that is a bound.
//!
//! Where more seem to live ([`crate::record::surplus`]), the lists' order tells which do: what was seen at one probe was born
//! at once and stands side by side. What took its place stands behind.

use rustc_hash::FxHashMap;

use crate::process::Address;
use crate::process::memory::Memory;
use crate::process::page_cache::Momentary;
use crate::python::reader::Reader;

use super::order::Order;
use super::watched::Watched;

/// The fewest probes that must have seen survivors for the first of these to stand near the beginning, and the last near the end.
const PROBES_MIN: usize = 10;

/// How many objects of each type stand there.
pub type Standing = FxHashMap<Address, f64>;

/// How many objects of each type stand in the lists of a lane that were born when its survivors were, and how far behind its place each of
/// these stands ([`Watched::behind`]). `None` where that is not known: few survive, or the lists could not be read whole so far. Reads
/// the type of each object that stands there.
pub fn count<M: Memory + ?Sized>(reader: &Reader<'_, M>, order: &Order, survivors: &mut [Watched]) -> Option<Standing> {
    let with_position = |object| {
        let object: &mut Watched = object;
        Some((order.position(object.birth.address)?, object))
    };
    let mut placed: Vec<((usize, u64), &mut Watched)> = survivors.iter_mut().filter_map(with_position).collect();
    placed.sort_by_key(|(_, object)| std::cmp::Reverse(object.tick));
    let probes = placed.chunk_by(|(_, a), (_, b)| a.tick == b.tick).count();
    if probes < PROBES_MIN {
        return None;
    }
    let first = placed.iter().map(|&(at, _)| at).min_by_key(|&(_, position)| position)?;
    let mut objects = order.since(first)?;
    let ranks: Vec<(u64, u64)> = placed
        .iter()
        .map(|&((_, position), ref object)| (object.tick, objects.partition_point(|&(at, _)| at < position) as u64))
        .collect();
    placed.iter_mut().zip(behind(&ranks)).for_each(|((_, object), behind)| object.behind = Some(behind));

    // What was born after the last probe, while we look a last time, is none of them.
    let last = ranks.chunk_by(|a, b| a.0 == b.0).next().into_iter().flatten().map(|&(_, rank)| rank).min();
    objects.truncate(usize::try_from(last?).ok()?.saturating_add(1));
    // Of what was born at random before the first of n and behind the last, there is about one part in n each.
    let each = 1.0 + 2.0 / probes as f64;
    objects.sort_unstable_by_key(|&(_, object)| object);
    let momentary = Momentary::new(reader.memory);
    let reader = Reader { memory: &momentary, layout: reader.layout };
    let mut standing = Standing::default();
    for (_, object) in objects {
        // What has died meanwhile does not count.
        let Ok(type_) = reader.pointer(object, reader.layout.object.ob_type) else { continue };
        *standing.entry(type_).or_default() += each;
    }
    Some(standing)
}

/// Of probes and ranks, last probe first: how far each stands behind the first of its probe and of later ones.
fn behind(objects: &[(u64, u64)]) -> Vec<u64> {
    let mut behind = Vec::with_capacity(objects.len());
    let mut first = u64::MAX;
    for probe in objects.chunk_by(|a, b| a.0 == b.0) {
        first = probe.iter().fold(first, |first, &(_, rank)| first.min(rank));
        behind.extend(probe.iter().map(|&(_, rank)| rank - first));
    }
    behind
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_compared_with_the_first_of_its_probe_and_of_later_ones() {
        let objects = [(9, 70), (9, 64), (8, 66), (8, 90), (3, 5), (3, 7)];
        assert_eq!(behind(&objects), vec![6, 0, 2, 26, 0, 2]);
        assert_eq!(behind(&[]), Vec::<u64>::new());
    }
}
