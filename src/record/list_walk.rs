//! Walks the lists of a collector backwards, from the newest object on.
//!
//! The collector links a new object in at the tail of its youngest list and merges a list into the next older one as a
//! whole, so what was born later stands closer to the tail of the youngest list. The lists change while they are read,
//! most of all at that end. An object whose neighbour does not lead back to it has lost that neighbour since: the walk
//! returns to the last object that is still linked, and reads on from there.
//!
//! Mirrors `gc_list_append` and `gc_list_merge` (`Python/gc.c`, until 3.12 `Modules/gcmodule.c`), v3.8 to v3.15.

use rustc_hash::FxHashMap;

use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt, ReadError, u64_at};
use crate::process::page_cache::Momentary;
use crate::python::gc_links::{GENERATIONS, link, list_pointer};
use crate::python::reader::Reader;

use super::lane::Lane;

/// Known objects that end a walk, in unchanged order. Two in a row may be new ones in the places of two old ones, since
/// an allocator gives places back in the order in which it got them.
const RUN: u32 = 12;
/// Times that a walk may lose its way and return. What is newest is lost most often, and a walk leaves it within
/// microseconds.
const RETURNS_MAX: u32 = 64;
/// Bytes that are read of an object: its GC head, and its type.
const NODE_MAX: usize = 64;

/// An object met on a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListNode {
    /// Its GC head.
    pub head: Address,
    /// Its type.
    pub type_: Address,
}

/// Objects that were there before, in the order of the lists.
#[derive(Debug, Default)]
pub struct Anchors {
    ranks: FxHashMap<Address, u32>,
}

impl Anchors {
    /// From objects, newest first.
    pub fn new(nodes: &[ListNode]) -> Anchors {
        Anchors { ranks: nodes.iter().map(|node| node.head).zip(0..).collect() }
    }
}

/// What ended a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkEnd {
    /// The anchors: what was met is all that is newer.
    Anchors,
    /// The end of all lists.
    Lists,
    /// The limit.
    Limit,
}

/// What a walk found.
#[derive(Debug, PartialEq, Eq)]
pub struct Walked {
    /// Objects, newest first, without the anchors that ended the walk.
    pub nodes: Vec<ListNode>,
    /// What ended it.
    pub end: WalkEnd,
}

/// The links and the type of an object.
#[derive(Clone, Copy)]
struct Linked {
    next: Address,
    previous: Address,
    type_: Address,
}

/// Walks from the newest object back to the anchors, over at most `limit` objects. `None` where the lists change too
/// fast.
///
/// # Errors
/// Where the target cannot be read at all any more.
pub fn walk<M: Memory + ?Sized>(
    reader: &Reader<'_, M>,
    lane: &Lane,
    anchors: &Anchors,
    limit: usize,
) -> Result<Option<Walked>, ReadError> {
    let pages = Momentary::new(reader.memory);
    let walker = Walker { reader: Reader { memory: &pages, layout: reader.layout }, lane };
    match walker.walk(anchors, limit) {
        Ok(walked) => Ok(walked),
        Err(error) if error.is_final() => Err(error),
        Err(_) => Ok(None),
    }
}

struct Walker<'a, M: Memory + ?Sized> {
    reader: Reader<'a, M>,
    lane: &'a Lane,
}

/// An object, and in which list it stands.
type PlacedNode = (ListNode, usize);

impl<M: Memory + ?Sized> Walker<'_, M> {
    fn walk(&self, anchors: &Anchors, limit: usize) -> Result<Option<Walked>, ReadError> {
        let mut met: Vec<PlacedNode> = Vec::new();
        let (mut list, mut newer) = (0, self.lane.heads[0]);
        let mut at = self.tail(list)?;
        let (mut run, mut last_rank, mut returns) = (0, None, 0);
        while met.len() < limit {
            // What was in one list when the walk began may have been merged into the next one meanwhile.
            if let Some(ended) = self.lane.heads.iter().position(|&head| head == at) {
                list = ended.max(list) + 1;
                let Some(&head) = self.lane.heads.get(list) else {
                    return Ok(Some(walked(met, WalkEnd::Lists, 0)));
                };
                (newer, at) = (head, self.tail(list)?);
                continue;
            }
            let is_first = newer == self.lane.heads[list];
            let node = self.linked(at).filter(|node| {
                // Behind the tail another object may have been born since.
                let leads_on =
                    node.next == newer || is_first && self.linked(node.next).is_some_and(|it| it.previous == at);
                leads_on && !node.type_.is_null() && node.type_.0.is_multiple_of(8)
            });
            let Some(node) = node else {
                returns += 1;
                if returns > RETURNS_MAX {
                    return Ok(None);
                }
                self.reader.memory.forget();
                // While the collector runs, it keeps other things in the links.
                let collecting = self.lane.interpreter.gc.offset(self.reader.layout.gc.collecting);
                if self.reader.memory.read_u32(collecting)? != 0 {
                    return Ok(None);
                }
                (list, newer, at) = self.last_linked(&mut met)?;
                (run, last_rank) = (0, None);
                continue;
            };
            met.push((ListNode { head: at, type_: node.type_ }, list));
            let rank = anchors.ranks.get(&at).copied();
            run = match (rank, last_rank) {
                (Some(rank), Some(last)) if rank > last => run + 1,
                (Some(_), _) => 1,
                (None, _) => 0,
            };
            last_rank = rank;
            if run >= RUN {
                return Ok(Some(walked(met, WalkEnd::Anchors, run)));
            }
            (newer, at) = (at, node.previous);
        }
        Ok(Some(walked(met, WalkEnd::Limit, 0)))
    }

    /// Takes back what is no longer linked. Where to go on: the list, the object there, and the one before it.
    fn last_linked(&self, met: &mut Vec<PlacedNode>) -> Result<(usize, Address, Address), ReadError> {
        while let Some(&(node, list)) = met.last() {
            let before = met.len().checked_sub(2).and_then(|index| met.get(index));
            let newer = before.filter(|(_, of)| *of == list).map(|(newer, _)| newer.head);
            // Those that begin a list may have got a newer neighbour.
            if let Some(linked) = self.linked(node.head)
                && newer.is_none_or(|newer| newer == linked.next)
            {
                return Ok((list, node.head, linked.previous));
            }
            met.pop();
        }
        Ok((0, self.lane.heads[0], self.tail(0)?))
    }

    fn tail(&self, list: usize) -> Result<Address, ReadError> {
        debug_assert!(list < GENERATIONS);
        list_pointer(&self.reader, self.lane.heads[list], self.reader.layout.gc_head.gc_prev)
    }

    /// `None` where it is in no list.
    fn linked(&self, head: Address) -> Option<Linked> {
        let layout = self.reader.layout;
        let type_at = layout.constants.gc_head_size + layout.object.ob_type;
        let mut bytes = [0; NODE_MAX];
        let bytes = bytes.get_mut(..type_at + 8)?;
        self.reader.memory.read_exact_at(head, bytes).ok()?;
        let linked = Linked {
            next: link(u64_at(bytes, layout.gc_head.gc_next)?),
            previous: link(u64_at(bytes, layout.gc_head.gc_prev)?),
            type_: Address(u64_at(bytes, type_at)?),
        };
        (!linked.next.is_null() && !linked.previous.is_null()).then_some(linked)
    }
}

/// Without the anchors that ended the walk.
fn walked(met: Vec<PlacedNode>, end: WalkEnd, run: u32) -> Walked {
    let mut nodes: Vec<ListNode> = met.into_iter().map(|(node, _)| node).collect();
    nodes.truncate(nodes.len().saturating_sub(run as usize));
    Walked { nodes, end }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::image::{Image, Segment};
    use crate::python::interpreter::Interpreter;
    use crate::python::layout::{Build, Layout};
    use crate::python::version::Version;

    const GC: u64 = 0x10_0000;
    const OBJECTS: u64 = 0x20_0000;
    const TYPE: u64 = 0x30_0000;

    fn layout() -> Layout {
        Layout::load(&Layout::candidates(Version::release(3, 12, 1), Build::Default)[0])
    }

    /// An image of three lists of objects, each oldest first; what `change` does to the links.
    fn image(lists: [&[u64]; 3], change: impl Fn(&mut Vec<(u64, u64)>)) -> (Image, Lane) {
        let heads = [0, 24, 48].map(|offset| Address(GC + offset));
        let mut words: Vec<(u64, u64)> = vec![(GC + 1000, 0)];
        for (list, head) in lists.iter().zip(heads) {
            let all: Vec<u64> = [head.0].into_iter().chain(list.iter().map(|n| OBJECTS + 64 * n)).collect();
            for (index, &at) in all.iter().enumerate() {
                let around = |step: usize| all[(index + step) % all.len()];
                words.extend([(at, around(1)), (at + 8, around(all.len() - 1))]);
                words.extend((index > 0).then_some((at + 24, TYPE)));
            }
        }
        change(&mut words);
        let last = words.iter().map(|word| word.0).max().unwrap() + 64;
        let mut segments = vec![
            (GC, vec![0; 4096]),
            (OBJECTS, vec![0; (last.max(OBJECTS) - OBJECTS).next_multiple_of(4096) as usize]),
        ];
        for (at, word) in words {
            let (start, bytes) = segments.iter_mut().rev().find(|segment| at >= segment.0).unwrap();
            let at = (at - *start) as usize;
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        let segment = |(start, bytes)| Segment { start: Address(start), bytes };
        let interpreter = Interpreter {
            address: Address(GC),
            id: 0,
            gc: Address(GC),
            sysdict: Address::NULL,
            modules: Address::NULL,
            builtins: Address::NULL,
        };
        let lane = Lane { interpreter, serves_all: false, gil: Address(GC), heads };
        (Image::of_segments(segments.into_iter().map(segment).collect()), lane)
    }

    fn walked(lists: [&[u64]; 3], anchors: &Anchors, change: impl Fn(&mut Vec<(u64, u64)>)) -> Option<Walked> {
        let (image, lane) = image(lists, change);
        walk(&Reader { memory: &image, layout: &layout() }, &lane, anchors, 10_000).unwrap()
    }

    fn numbers(walked: &Walked) -> Vec<u64> {
        walked.nodes.iter().map(|node| (node.head.0 - OBJECTS) / 64).collect()
    }

    #[test]
    fn what_is_newer_than_the_anchors_is_found_in_all_lists() {
        let old: Vec<u64> = (100..200).collect();
        let nodes: Vec<ListNode> =
            old.iter().rev().map(|n| ListNode { head: Address(OBJECTS + 64 * n), type_: Address(TYPE) }).collect();
        let anchors = Anchors::new(&nodes);
        let middle: Vec<u64> = old.iter().copied().chain([1, 2]).collect();
        let found = walked([&[5, 6], &[3, 4], &middle], &anchors, |_| ()).unwrap();
        assert_eq!((numbers(&found), found.end), (vec![6, 5, 4, 3, 2, 1], WalkEnd::Anchors));
        // In another order these are new objects in the places of old ones.
        let turned: Vec<u64> = old.iter().rev().copied().chain([1]).collect();
        assert_eq!(walked([&[], &[], &turned], &anchors, |_| ()).unwrap().end, WalkEnd::Lists);
    }

    #[test]
    fn lists_that_lie_end() {
        let all: Vec<u64> = (0..1000).collect();
        let none = Anchors::default();
        // Each object leads to a random other one, or to nowhere.
        for seed in 0..50 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let links: Vec<(usize, u64)> = (0..300)
                .map(|_| (rng.usize(..4000), [GC + 24, 0, OBJECTS, u64::MAX, OBJECTS + 640][rng.usize(..5)]))
                .collect();
            let change = |words: &mut Vec<(u64, u64)>| {
                let count = words.len();
                links.iter().for_each(|&(index, value)| words[index % count].1 = value);
            };
            let found = walked([&all, &[], &[]], &none, change);
            assert!(found.is_none_or(|found| found.nodes.len() <= 10_000));
        }
        // A collection keeps counts in the links.
        let collecting = layout().gc.collecting as u64;
        let change = |words: &mut Vec<(u64, u64)>| {
            words.push((OBJECTS + 64 * 500 + 8, 77));
            words.push((GC + collecting, 1));
        };
        assert_eq!(walked([&all, &[], &[]], &none, change), None);
    }
}
