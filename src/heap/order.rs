//! In which order do the collector's lists hold objects now?
//!
//! Read backwards, newest first, from a process that runs: the youngest list changes while it is read, the others only
//! when the collector runs or an old object dies. A walk that meets a change starts again from the last object that is
//! still linked as it was, and ends where it no longer can.
//!
//! The order is that of birth but for one thing: a collection puts an object behind its whole batch if it meets it
//! before the objects that hold it (`move_unreachable`, `Python/gc.c`). So positions are compared batch by batch.

use rustc_hash::FxHashMap;

use crate::python::proof::GC_FLAG_BITS;
use crate::python::reader::Reader;
use crate::target::Address;
use crate::target::cache::CachedMemory;
use crate::target::memory::Memory;

use super::glance::Lane;

/// Times that a walk may start again.
const RESTARTS_MAX: usize = 200;

/// Positions in the lists: the higher, the younger.
#[derive(Debug, Default)]
pub struct Order {
    positions: FxHashMap<Address, (usize, u64)>,
    /// Lists, youngest first, that were read whole.
    whole: Vec<bool>,
}

impl Order {
    /// Reads the order of the youngest `limit` objects of a lane.
    pub fn read<M: Memory + ?Sized>(reader: &Reader<'_, M>, lane: &Lane, limit: usize) -> Order {
        let cached = CachedMemory::new(reader.memory);
        let reader = Reader { memory: &cached, layout: reader.layout };
        let mut order = Order::default();
        for (list, &head) in lane.heads().iter().enumerate() {
            let mut restarts = 0;
            let mut newer = head;
            let mut at = previous(&reader, head);
            while let Some(node) = at.filter(|&node| node != head) {
                let object = node.offset(reader.layout.constants.gc_head_size);
                let next =
                    reader.pointer(node, reader.layout.gc_head.gc_next).map(|next| Address(next.0 & !GC_FLAG_BITS));
                let is_linked = next.is_ok_and(|next| next == newer);
                if !is_linked {
                    restarts += 1;
                    cached.forget();
                    let again = previous(&reader, newer);
                    if restarts > RESTARTS_MAX || again.is_none() {
                        break;
                    }
                    // What stood between was born or died meanwhile; the same answer twice is another list's.
                    if again == at && restarts > RESTARTS_MAX / 2 {
                        break;
                    }
                    at = again;
                    continue;
                }
                let position = u64::MAX - order.positions.len() as u64;
                if order.positions.len() >= limit || order.positions.insert(object, (list, position)).is_some() {
                    break;
                }
                newer = node;
                at = previous(&reader, node);
            }
            order.whole.push(at == Some(head));
        }
        order
    }

    /// In which list an object stands, the youngest being 0, and where: the higher, the younger.
    pub fn position(&self, object: Address) -> Option<(usize, u64)> {
        self.positions.get(&object).copied()
    }

    /// Whether all lists but the youngest were read whole: what is in none of them is in the youngest.
    pub fn has_all_old(&self) -> bool {
        self.whole.len() > 1 && self.whole.iter().skip(1).all(|&whole| whole)
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

fn previous<M: Memory + ?Sized>(reader: &Reader<'_, M>, node: Address) -> Option<Address> {
    let previous = reader.pointer(node, reader.layout.gc_head.gc_prev).ok()?;
    Some(Address(previous.0 & !GC_FLAG_BITS)).filter(|previous| !previous.is_null())
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
