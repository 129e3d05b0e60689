//! The newest objects of a collector's lists.
//!
//! The collector links a new object in at the tail of its youngest list, so what is newer than a known object stands behind it. The
//! list changes while it is read, most of all at its end, where objects come and go. From there one can walk
//! back ([`Walk`]) as long as the newest object stands still, and from objects that were known to be there forward
//! ([`Newest`]), which loses but the last ones where they come and go faster than they can be read.
//!
//! Mirrors `gc_list_append`, `gc_list_merge` (`Python/gc.c`, until 3.12 `Modules/gcmodule.c`), v3.8 to v3.15.

use std::collections::hash_map::Entry;
use std::time::Instant;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::process::Address;
use crate::process::memory::{Memory, ReadError, u64_at};
use crate::python::gc_links::GC_FLAG_BITS;
use crate::python::layout::Layout;

use super::glance::{Glancer, PAGE, link};

/// Objects followed in one walk; a tight loop makes some ten in a microsecond.
pub const BIRTHS_MAX: usize = 8192;
/// Objects of the time before that are known, so that one that is still there ends a walk.
pub const KNOWN: usize = 64;
/// The same where there is little time: so many are read one by one, and up to so many by the page, which stand behind them: where the
/// newest are gone after some microseconds, some of these live on.
const NEWEST: usize = 4;
const OLDER: usize = 24;
/// Tries to read these.
const ATTEMPTS: usize = 6;
/// Lists of a collector: generations.
pub const LISTS: usize = 3;
/// Tries to read a list that changes meanwhile.
pub const TRIES: usize = 3;
/// Times that a walk may find that the list has changed before it.
const CHANGES_MAX: usize = 64;

/// A new object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Birth {
    /// Where it is.
    pub address: Address,
    /// Its type.
    pub type_: Address,
}

/// What stood at the end of the youngest list at an instant.
#[derive(Clone, Debug)]
pub struct Newest {
    /// The instant.
    pub at: Instant,
    /// The collector's counters then.
    pub collections: [u32; 2],
    /// GC heads, newest first; then that of the list, where it has no more.
    heads: Vec<Address>,
}

impl Newest {
    /// What stands there now: some objects. The newest are read one by one, since the target is about to write what lies beside them,
    /// and would have to wait for that.
    ///
    /// # Errors
    /// Where the target cannot be read at all any more.
    pub fn read<M: Memory + ?Sized>(glancer: &Glancer<'_, M>) -> Result<Newest, ReadError> {
        let list = glancer.lane.heads().first().copied().unwrap_or_default();
        let mut found = Newest { at: Instant::now(), collections: [0; 2], heads: Vec::new() };
        for attempt in 0..ATTEMPTS {
            let state = glancer.state()?;
            let mut heads = Vec::new();
            let mut read_at = Instant::now();
            let (mut newer, mut at) = (list, state.tail);
            // Behind the newest one more may have been born.
            let is_linked = |next: Address, newer: Address| next == newer || newer == list;
            while attempt == 0 && heads.len() < NEWEST && at != list {
                let links = glancer.links(at)?.filter(|&(next, _)| is_linked(next, newer));
                let Some((_, previous)) = links else { break };
                heads.push(at);
                (newer, at) = (at, previous);
            }
            if attempt > 0 || heads.len() == NEWEST {
                let mut walk = Walk::new(glancer, 1);
                while heads.len() < OLDER && at != list {
                    let node = walk.node(at)?.filter(|&(next, ..)| is_linked(next, newer));
                    let Some((_, previous, _)) = node else { break };
                    heads.push(at);
                    (newer, at) = (at, previous);
                }
                if attempt > 0 {
                    read_at = walk.read_at;
                }
            }
            if at == list {
                heads.push(list);
            }
            if heads.len() > found.heads.len() {
                found = Newest { at: read_at, collections: state.collections, heads };
            }
            if found.heads.len() > NEWEST || at == list {
                break;
            }
        }
        Ok(found)
    }

    /// What was born since, oldest first, and until when that was read. `None` where none of the known objects is there any more, or
    /// the list changes too fast.
    ///
    /// # Errors
    /// Where the target cannot be read at all any more.
    pub fn births<M: Memory + ?Sized>(
        &self,
        glancer: &Glancer<'_, M>,
    ) -> Result<Option<(Vec<Birth>, Instant)>, ReadError> {
        let list = glancer.lane.heads().first().copied().unwrap_or_default();
        let mut walk = Walk::new(glancer, 1);
        // One that stands behind the same object as before is the same one.
        let mut start = self.heads.last().copied().filter(|&last| last == list);
        for pair in self.heads.windows(2) {
            if walk.node(pair[0])?.is_some_and(|(_, previous, _)| previous == pair[1]) {
                start = Some(pair[0]);
                break;
            }
        }
        let Some(start) = start else { return Ok(None) };
        let (mut births, mut heads) = (Vec::new(), vec![start]);
        let (mut changes, mut here) = (0, 0);
        while let Some(&at) = heads.last().filter(|_| births.len() < BIRTHS_MAX && changes < CHANGES_MAX) {
            let next = walk.next(at)?;
            if next == Some(list) {
                return Ok(Some((births, walk.read_at)));
            }
            let found = next.map_or(Ok(None), |next| walk.node(next))?.filter(|&(_, previous, _)| previous == at);
            if let (Some(next), Some((_, _, type_))) = (next, found) {
                births.push(walk.birth(next, type_));
                heads.push(next);
                here = 0;
                continue;
            }
            // Something is gone by now: what stood there, or this one itself. Where the former happens again and again this is
            // the end of what stays.
            (changes, here) = (changes + 1, here + 1);
            if here > TRIES {
                return Ok(next.map(|_| (births, walk.read_at)));
            }
            walk.forget();
            if heads.len() > 1
                && walk.node(at)?.is_none_or(|(_, previous, _)| Some(&previous) != heads.iter().nth_back(1))
            {
                births.pop();
                heads.pop();
            }
        }
        Ok(None)
    }
}

/// An object met on a walk.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    /// Its GC head.
    pub head: Address,
    /// Itself.
    pub birth: Birth,
    /// Whether it was not known before.
    pub is_new: bool,
}

/// Walks lists backwards, from the newest object on, over one reading of each page.
pub struct Walk<'a, 'b, M: Memory + ?Sized> {
    glancer: &'b Glancer<'a, M>,
    layout: &'a Layout,
    /// How many lists are walked, from the youngest on.
    lists: usize,
    pages: FxHashMap<u64, Option<Box<[u8]>>>,
    /// When one was read last.
    pub read_at: Instant,
    /// Whether what the last glance has read is taken before anything is read anew.
    is_after_glance: bool,
}

impl<'a, 'b, M: Memory + ?Sized> Walk<'a, 'b, M> {
    /// That has read nothing yet, of so many lists.
    pub fn new(glancer: &'b Glancer<'a, M>, lists: usize) -> Self {
        Walk {
            glancer,
            layout: glancer.reader().layout,
            lists,
            pages: FxHashMap::default(),
            read_at: Instant::now(),
            is_after_glance: false,
        }
    }

    /// The same, soon after a glance: what it has read of these pages is as good.
    pub fn after_glance(glancer: &'b Glancer<'a, M>, lists: usize) -> Self {
        Walk { is_after_glance: true, ..Walk::new(glancer, lists) }
    }

    /// From `tail` back to two known objects in a row and [`KNOWN`] objects beyond, or, where none is known, over `limit`
    /// objects. Newest first. `None` where the list could not be read in [`TRIES`].
    ///
    /// # Errors
    /// Where the target cannot be read at all any more.
    pub fn back_to(
        mut self,
        mut tail: Address,
        known: &FxHashSet<Address>,
        limit: usize,
    ) -> Result<Option<Vec<Node>>, ReadError> {
        for _ in 0..TRIES {
            if let Some(nodes) = self.walk(tail, known, limit)? {
                return Ok(Some(nodes));
            }
            self.forget();
            tail = self.tail_of(self.glancer.lane.heads().first().copied().unwrap_or_default())?;
        }
        Ok(None)
    }

    fn walk(
        &mut self,
        tail: Address,
        known: &FxHashSet<Address>,
        limit: usize,
    ) -> Result<Option<Vec<Node>>, ReadError> {
        let heads = self.glancer.lane.heads().to_vec();
        let mut list = 0;
        let (mut newer, mut at) = (heads.first().copied().unwrap_or_default(), tail);
        let mut met: FxHashSet<Address> = FxHashSet::from_iter([newer]);
        let mut nodes: Vec<Node> = Vec::new();
        let mut old = 0;
        while nodes.len() < limit {
            if heads.get(list) == Some(&at) {
                // The end of this list: what is older stands at the tail of the next one.
                list += 1;
                let Some(&head) = heads.get(list).filter(|_| list < self.lists) else { break };
                (newer, at) = (head, self.tail_of(head)?);
                met.insert(head);
                continue;
            }
            // Two known objects in a row are enough; the others only serve the next walk.
            let give_up = |nodes: Vec<Node>| Ok((old > 1).then_some(nodes));
            let Some((next, previous, type_)) = self.node(at)? else { return give_up(nodes) };
            // What stood between this object and the newer one may have died since; what leads elsewhere is another object
            // by now. Behind the first one newer ones have been born.
            let is_linked = next == newer || met.contains(&next) || nodes.is_empty();
            if !is_linked || !type_.0.is_multiple_of(8) || type_.is_null() || !met.insert(at) {
                return give_up(nodes);
            }
            let is_known = known.contains(&at) && (old > 0 || known.contains(&previous) || heads.contains(&previous));
            nodes.push(Node { head: at, birth: self.birth(at, type_), is_new: !is_known && old == 0 });
            if is_known || old > 0 {
                old += 1;
                if old >= KNOWN.min(known.len()) {
                    break;
                }
            }
            (newer, at) = (at, previous);
        }
        // A walk that ends at the limit has not met what it looked for.
        let met_known = known.is_empty() || old > 0;
        Ok(met_known.then_some(nodes))
    }

    /// Copies out of one page, reading it first if need be. `false` where it cannot be read.
    fn copy(&mut self, page: u64, within: usize, piece: &mut [u8]) -> Result<bool, ReadError> {
        if piece.is_empty() {
            return Ok(true);
        }
        let glancer = self.glancer;
        let bytes = match self.pages.entry(page) {
            Entry::Occupied(bytes) => bytes.into_mut(),
            Entry::Vacant(slot) => {
                let address = Address(page.wrapping_mul(PAGE));
                let known = glancer.page_of_newest(address).filter(|_| self.is_after_glance);
                let mut bytes = known.map_or_else(|| vec![0; PAGE as usize].into_boxed_slice(), Box::from);
                let read =
                    if known.is_some() { Ok(()) } else { glancer.reader().memory.read_exact_at(address, &mut bytes) };
                self.read_at = Instant::now();
                match read {
                    Ok(()) => slot.insert(Some(bytes)),
                    Err(error @ (ReadError::Gone | ReadError::Denied)) => return Err(error),
                    Err(_) => slot.insert(None),
                }
            }
        };
        let Some(bytes) = bytes.as_ref().and_then(|bytes| bytes.get(within..within + piece.len())) else {
            return Ok(false);
        };
        piece.copy_from_slice(bytes);
        Ok(true)
    }

    /// The object whose GC head is at `at`.
    pub fn birth(&self, at: Address, type_: Address) -> Birth {
        Birth { address: at.offset(self.layout.constants.gc_head_size), type_ }
    }

    /// The newest object of a list, as it is now.
    fn tail_of(&self, list: Address) -> Result<Address, ReadError> {
        let tail = self.glancer.reader().pointer(list, self.layout.gc_head.gc_prev)?;
        Ok(Address(tail.0 & !GC_FLAG_BITS))
    }

    /// Reads anew what is read next.
    fn forget(&mut self) {
        self.is_after_glance = false;
        self.pages.clear();
    }

    /// What stands behind the GC head at `at`, which may be that of a list.
    fn next(&mut self, at: Address) -> Result<Option<Address>, ReadError> {
        let mut word = [0; 8];
        let at = at.offset(self.layout.gc_head.gc_next);
        // A word does not cross pages.
        let is_read = self.copy(at.0 / PAGE, (at.0 % PAGE) as usize, &mut word)?;
        Ok(Some(Address(u64::from_le_bytes(word) & !GC_FLAG_BITS)).filter(|next| is_read && !next.is_null()))
    }

    /// Both links and the type of the object whose GC head is at `at`: next, previous, type.
    ///
    /// # Errors
    /// Where the target cannot be read at all any more.
    pub fn node(&mut self, at: Address) -> Result<Option<(Address, Address, Address)>, ReadError> {
        let layout = self.layout;
        let length = layout.constants.gc_head_size + layout.object.ob_type + 8;
        let mut bytes = [0; 64];
        let Some(wanted) = bytes.get_mut(..length) else { return Ok(None) };
        let (page, within) = (at.0 / PAGE, (at.0 % PAGE) as usize);
        let first = wanted.len().min(PAGE as usize - within);
        let (front, back) = wanted.split_at_mut(first);
        if !self.copy(page, within, front)? || !self.copy(page.wrapping_add(1), 0, back)? {
            return Ok(None);
        }
        let links = (link(wanted, layout.gc_head.gc_next), link(wanted, layout.gc_head.gc_prev));
        let type_ = u64_at(wanted, layout.constants.gc_head_size + layout.object.ob_type);
        Ok(match (links, type_) {
            ((Some(next), Some(previous)), Some(type_)) if !next.is_null() && !previous.is_null() => {
                Some((next, previous, Address(type_)))
            }
            _ => None,
        })
    }
}
