//! In which order do the collector's lists hold objects now?
//!
//! Read from both ends of each list, from a process that runs: the old end hardly changes, the young one does with each
//! collection, and where it is busiest neither walk may get through. A walk that meets a change goes back to the last
//! object that is still linked as it was, and ends where it no longer can; what it did not reach is not known.
//!
//! A collection moves a list behind an older one, and a walk that is in it then goes on there. So what was met before the
//! head of another list is not of this one, and of a list that can be moved nothing is known before its own end was met.
//! The oldest list stays. While a collection runs it takes objects out of the list and puts them back elsewhere, so a walk
//! says nothing of a list that was collected meanwhile.
//!
//! The order is that of birth but for one thing: a collection puts an object behind its whole batch if it meets it
//! before the objects that hold it (`move_unreachable`, `Python/gc.c`). So positions are compared batch by batch. The
//! incremental collector of 3.14.0 to 3.14.4 takes old objects up again with each batch of new ones, and its lists tell no
//! order at all.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt};
use crate::process::page_cache::Momentary;
use crate::python::gc_links::GC_FLAG_BITS;
use crate::python::reader::Reader;

use super::counters::Counters;
use super::glance::Lane;

/// Times that a walk may go back.
const RESTARTS_MAX: usize = 2000;
/// Objects that it may go back to.
const TRAIL_MAX: usize = 4096;
/// How long a walk may take.
const WALK_MAX: Duration = Duration::from_millis(2000);
/// For how long a list that was collected meanwhile is read again: a million objects take half a second.
const AGAIN_MAX: Duration = Duration::from_millis(2000);
/// Positions of one list: far more than there are objects.
const OF_LIST: u64 = 1 << 48;

/// Positions in the lists: the higher, the younger.
#[derive(Debug, Default)]
pub struct Order {
    positions: FxHashMap<Address, (usize, u64)>,
    /// Lists, youngest first, that were read whole.
    whole: Vec<bool>,
}

/// Which way a walk goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    FromOldest,
    FromYoungest,
}

impl Order {
    /// Reads the order of at most `limit` objects of a lane.
    pub fn read<M: Memory + ?Sized>(reader: &Reader<'_, M>, lane: &Lane, limit: usize) -> Order {
        let momentary = Momentary::new(reader.memory);
        let reader = Reader { memory: &momentary, layout: reader.layout };
        let mut order = Order::default();
        if reader.layout.gc.visited_space.is_some() {
            return order;
        }
        for list in 0..lane.heads().len() {
            let is_whole = order.read_list(&reader, lane, list, limit);
            order.whole.push(is_whole);
        }
        order
    }

    /// Whether the whole list was read.
    fn read_list<M: Memory + ?Sized>(
        &mut self,
        reader: &Reader<'_, Momentary<'_, M>>,
        lane: &Lane,
        list: usize,
        limit: usize,
    ) -> bool {
        let walk = |order: &mut Order| {
            order.walk(reader, lane.heads(), list, Way::FromYoungest, limit)
                || order.walk(reader, lane.heads(), list, Way::FromOldest, limit)
        };
        if list == 0 {
            // It is collected all the time; what is moved from it is found in the next.
            return walk(self);
        }
        let began = Instant::now();
        while let Some(before) = collections(reader, lane, list) {
            let is_whole = walk(self);
            if collections(reader, lane, list) == Some(before) {
                return is_whole;
            }
            if began.elapsed() > AGAIN_MAX {
                // What was met stands where it was met, if not where it stood before.
                break;
            }
            self.positions.retain(|_, &mut (of, _)| of != list);
        }
        false
    }

    /// Whether it met the other end, or the walk that came from there.
    fn walk<M: Memory + ?Sized>(
        &mut self,
        reader: &Reader<'_, Momentary<'_, M>>,
        heads: &[Address],
        list: usize,
        way: Way,
        limit: usize,
    ) -> bool {
        let links = &reader.layout.gc_head;
        let (onward, back) = match way {
            Way::FromOldest => (links.gc_next, links.gc_prev),
            Way::FromYoungest => (links.gc_prev, links.gc_next),
        };
        let follow = |node: Address, offset: usize| {
            let link = Address(reader.pointer(node, offset).ok()?.0 & !GC_FLAG_BITS);
            (!link.is_null()).then_some(link)
        };
        let Some(&head) = heads.get(list) else { return false };
        let can_be_moved = list + 1 < heads.len();
        let base = (heads.len() - list) as u64 * OF_LIST;
        let began = Instant::now();
        let mut trail = VecDeque::from([head]);
        let mut met: Vec<Address> = Vec::new();
        let (mut restarts, mut failed_at) = (0, None);
        // Old objects may be met twice after going back, so steps are counted, not objects.
        for step in 1..=limit as u64 {
            let Some(&anchor) = trail.back() else { break };
            let node = follow(anchor, onward);
            if node == Some(head) && failed_at.is_none_or(|failed| failed != anchor) {
                return true;
            }
            let linked = node.filter(|node| !heads.contains(node) && follow(*node, back) == Some(anchor));
            let Some(node) = linked else {
                restarts += 1;
                reader.memory.forget();
                if restarts > RESTARTS_MAX || began.elapsed() > WALK_MAX {
                    break;
                }
                if node.is_some_and(|node| node != head && heads.contains(&node)) {
                    self.forget(&mut met);
                    trail = VecDeque::from([head]);
                    failed_at = None;
                    continue;
                }
                // Twice at the same place: it is no longer in this list.
                if failed_at.replace(anchor) == Some(anchor) && trail.len() > 1 {
                    trail.pop_back();
                }
                continue;
            };
            let position = match way {
                Way::FromOldest => base + step,
                Way::FromYoungest => base + OF_LIST - 1 - step,
            };
            let object = node.offset(reader.layout.constants.gc_head_size);
            match self.positions.entry(object) {
                // The walk from the other end has been here.
                Entry::Occupied(seen) if way == Way::FromOldest && seen.get().1 > base + OF_LIST / 2 => return true,
                Entry::Occupied(_) => {}
                Entry::Vacant(place) => {
                    place.insert((list, position));
                    met.push(object);
                }
            }
            trail.push_back(node);
            if trail.len() > TRAIL_MAX {
                trail.pop_front();
            }
        }
        if can_be_moved {
            self.forget(&mut met);
        }
        false
    }

    fn forget(&mut self, objects: &mut Vec<Address>) {
        for object in objects.drain(..) {
            self.positions.remove(&object);
        }
    }

    /// In which list an object stands, the youngest being 0, and where: the higher, the younger.
    pub fn position(&self, object: Address) -> Option<(usize, u64)> {
        self.positions.get(&object).copied()
    }

    /// Where all that stands from some object on stands, oldest first. `None` where some of that was not read.
    pub fn since(&self, first: (usize, u64)) -> Option<Vec<(u64, Address)>> {
        let (list, position) = first;
        let is_read = |younger: usize| self.whole.get(younger) == Some(&true);
        // What the walk from the youngest has met is without a gap.
        let is_near = position % OF_LIST > OF_LIST / 2;
        if !(0..list).all(is_read) || !is_read(list) && !is_near {
            return None;
        }
        let here = self.positions.iter().filter(|(_, at)| at.1 >= position);
        let mut objects: Vec<(u64, Address)> = here.map(|(&object, at)| (at.1, object)).collect();
        objects.sort_unstable();
        Some(objects)
    }

    /// Whether all lists but the youngest were read whole: what is in none of them is in the youngest.
    pub fn has_all_old(&self) -> bool {
        self.whole.len() > 1 && self.whole.iter().skip(1).all(|&whole| whole)
    }

    /// Whether the oldest list was read whole: what is not in it is in a younger one.
    pub fn has_oldest(&self) -> bool {
        self.whole.len() > 1 && self.whole.last() == Some(&true)
    }

    /// How many objects were read.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }
}

/// How often a list has been collected, alone and with older ones, read while no collection runs. `None` where it cannot be
/// read.
fn collections<M: Memory + ?Sized>(
    reader: &Reader<'_, Momentary<'_, M>>,
    lane: &Lane,
    list: usize,
) -> Option<Vec<u64>> {
    wait_for_collector(reader, lane);
    let counters = Counters::read(reader, lane).ok()?;
    Some(counters.collections.get(list..)?.to_vec())
}

/// Waits for the end of a collection, a second at most: while it runs the lists' links are used otherwise.
fn wait_for_collector<M: Memory + ?Sized>(reader: &Reader<'_, Momentary<'_, M>>, lane: &Lane) {
    const STEP: Duration = Duration::from_millis(1);
    let collecting = || {
        reader.memory.forget();
        reader.memory.read_u32(lane.interpreter.gc.offset(reader.layout.gc.collecting))
    };
    let mut tries = 1000;
    while tries > 0 && collecting().is_ok_and(|collecting| collecting != 0) {
        std::thread::sleep(STEP);
        tries -= 1;
    }
}

/// Of items in order of position, the longest sequence whose keys do not fall: indices into `keys`. Patience sorting
/// (Fredman, 1975), in n log n.
pub fn longest_rising(keys: &[u64]) -> Vec<usize> {
    let mut piles: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(keys.len());
    for (index, &key) in keys.iter().enumerate() {
        let pile = piles.partition_point(|&top| keys[top] <= key);
        before.push(pile.checked_sub(1).map(|pile| piles[pile]));
        if pile == piles.len() {
            piles.push(index);
        } else {
            piles[pile] = index;
        }
    }
    let mut rising = Vec::with_capacity(piles.len());
    let mut at = piles.last().copied();
    while let Some(index) = at {
        rising.push(index);
        at = before[index];
    }
    rising.reverse();
    rising
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_out_of_order_is_left_out() {
        assert_eq!(longest_rising(&[]), Vec::<usize>::new());
        assert_eq!(longest_rising(&[1, 1, 9, 2, 2, 3, 0, 4]), vec![0, 1, 3, 4, 5, 7]);
        assert_eq!(longest_rising(&[5, 4, 3]).len(), 1);
    }
}
