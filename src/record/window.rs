//! A window of close looks at a collector, and one walk at its end: which objects were made in it that still live, and
//! on which stacks.
//!
//! Nothing is walked while the window lasts. Each time that the tail has moved, its address and the stack of the same
//! look are noted. The walk at the end finds what is still in the lists. An object that was the tail at a look less
//! than [`MARK_MAX`] after the look before is a *mark*: its stack is known, and that of all made within
//! [`TOGETHER_MAX`] before. What stands between two marks of one stack, less than [`BETWEEN_MAX`] apart, was made with
//! them. All else has no stack.
//!
//! While nobody holds the lock, only that and the tail are read. While a thread holds it, each look reads its stack,
//! too, so that the stack is as old as the tail. A thread that has let go of the lock waits, in another function
//! perhaps than the one that made the object, so the stack of the look before counts if it held the lock then.

use std::thread;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::process::Address;
use crate::process::memory::{Memory, Piece, ReadError, u32_at, u64_at};
use crate::python::gc_links::link;
use crate::python::reader::Reader;

use super::list_walk::{Anchors, ListNode, WalkEnd, walk};
use super::look::{Looker, RunningStack, Tail};
use super::stacks::{StackId, Stacks};

/// The longest time from the start of one look to the end of the next within which an object was born whose stack is
/// that of the latter. A call of a Python function that makes an object takes a third of a microsecond or more, so this
/// is some tens of calls; in programs with known truth the stack was right for 99 % of marks in bursts.
pub const MARK_MAX: Duration = Duration::from_micros(30);
/// The longest time between two looks that found the same functions in which no other function is thought to have run:
/// five times as long.
const BETWEEN_MAX: Duration = Duration::from_micros(150);
/// The longest time in which all that was made is taken to be made where the last of it was: functions that run for
/// less are mixed up anyway.
const TOGETHER_MAX: Duration = Duration::from_micros(10);
/// Objects from before the window that can end the walk: more than a collection's young list, so that some are left.
const ANCHORS: usize = 1024;
/// Objects walked over at most: a tight loop makes ten in a microsecond, and a window of a busy program takes 10 ms.
const NODES_MAX: usize = 1 << 17;
/// Looks noted in a window at most; then it ends. One takes three microseconds.
const NOTED_MAX: usize = 1 << 16;
/// Objects found last that are looked at again with each look, and looks among which they are: what takes the place of
/// another object takes that of one that has died lately. They are read in one call, of a microsecond.
const RECENT_MAX: usize = 16;
const RECENT_LOOKS: usize = 256;
/// Looks in a row at a free lock before we sleep: who lets go of it for an instant takes it again within microseconds.
const IDLE_MIN: u32 = 4;
/// Bytes read of an object and its GC head for that.
const HEADER_MAX: usize = 64;
/// Tries to walk lists that change.
const TRIES: usize = 4;
/// Between tries: a collection of young objects takes less.
const BETWEEN_TRIES: Duration = Duration::from_millis(1);

/// An object that was made in a window and lived at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Birth {
    /// The object.
    pub node: ListNode,
    /// Where.
    pub stack: StackId,
    /// Whether it was seen itself; otherwise it stands between two that were.
    pub is_mark: bool,
}

/// What a window found.
#[derive(Debug, Default)]
pub struct WatchedWindow {
    /// Objects with a stack, oldest first.
    pub births: Vec<Birth>,
    /// Objects without one.
    pub without_stack: u64,
    /// Looks taken.
    pub looks: u64,
    /// Looks that found the same thread at work as the look before, and of these, those that found it in other
    /// functions.
    pub pairs: u64,
    /// See `pairs`.
    pub changes: u64,
    /// Looks that found a new object, and of these, those whose stack could not be read.
    pub moves: u64,
    /// See `moves`.
    pub torn_stacks: u64,
    /// Whether the lists changed too fast to be walked at its end.
    pub is_torn: bool,
    /// How long it lasted.
    pub length: Duration,
    /// Whether we slept while nobody held the lock.
    pub has_naps: bool,
}

/// A look that found a new object at the tail.
#[derive(Clone, Copy, Debug)]
struct NotedLook {
    /// Null once it has died.
    head: Address,
    /// When the look before began, and when this one ended.
    before: Instant,
    after: Instant,
    /// Index of its stack.
    stack: Option<usize>,
    /// Whether the look before had found a new object, too.
    is_next: bool,
}

/// Stacks of a window.
#[derive(Default)]
struct MetStacks {
    all: Vec<RunningStack>,
    index: FxHashMap<RunningStack, usize>,
}

/// Looks for so long, and walks. With `nap`, we sleep for so long while nobody holds the lock: a wake-up costs as much
/// as twenty looks, and what was made before it has no stack, but nearly all of the time can be watched. Where we do
/// not run apart from the target (one processor), we let it run between any two looks.
///
/// # Errors
/// Where the target cannot be read at all any more.
pub fn watch<M: Memory + ?Sized>(
    reader: &Reader<'_, M>,
    looker: &mut Looker,
    stacks: &mut Stacks,
    length: Duration,
    nap: Option<Duration>,
    is_apart: bool,
) -> Result<WatchedWindow, ReadError> {
    looker.forget();
    let before = walk(reader, &looker.lane, &Anchors::default(), ANCHORS)?;
    let anchors = before.map_or_else(Anchors::default, |walked| Anchors::new(&walked.nodes));
    let mut window = WatchedWindow { has_naps: nap.is_some(), ..WatchedWindow::default() };
    let (mut noted, mut met) = (Vec::new(), MetStacks::default());
    let began = Instant::now();
    let mut before = began;
    let heads = looker.lane.heads;
    let mut newest = looker.poll(reader)?.head;
    let mut has_moved = false;
    let mut last_running: Option<RunningStack> = None;
    let mut idle = 0;
    let mut is_active = false;
    while noted.len() < NOTED_MAX {
        let start = Instant::now();
        if start.duration_since(began) >= length {
            break;
        }
        window.looks += 1;
        let is_still = |tail: &Tail| tail.is_collecting || tail.head == newest || tail.head == heads[0];
        // While Python code runs, or where something was just made, more is likely to be.
        let polled =
            if is_active { None } else { Some(looker.poll(reader)?).filter(|tail| is_still(tail) && !tail.is_locked) };
        let is_polled = polled.is_some();
        let (tail, running) = match polled {
            Some(tail) => (tail, None),
            None => looker.look(reader)?,
        };
        let has_stayed = is_still(&tail);
        if let (Some(last), Some(now)) = (&last_running, running.as_ref().filter(|_| tail.is_locked))
            && last.thread == now.thread
        {
            window.pairs += 1;
            window.changes +=
                u64::from(!last.frames.iter().map(|frame| frame.code).eq(now.frames.iter().map(|frame| frame.code)));
        }
        if !has_stayed {
            window.moves += 1;
            let after = Instant::now();
            // A thread that has let go of the lock waits; what it did is where it was before.
            let earlier = last_running.take().filter(|earlier| {
                !tail.is_locked && running.as_ref().is_none_or(|running| running.thread == earlier.thread)
            });
            let made_by = earlier.or_else(|| running.clone());
            window.torn_stacks += u64::from(made_by.is_none());
            let stack = made_by.map(|running| met.add(running));
            noted.push(NotedLook { head: tail.head, before, after, stack, is_next: has_moved });
        }
        if !is_polled {
            forget_dead(reader, &mut noted)?;
        }
        has_moved = !has_stayed;
        is_active = tail.is_locked || has_moved;
        last_running = running.filter(|_| tail.is_locked);
        newest = tail.head;
        idle = if is_active { 0 } else { idle + 1 };
        match nap.filter(|_| idle >= IDLE_MIN) {
            Some(nap) => thread::sleep(nap.min(length.saturating_sub(began.elapsed()))),
            None if !is_apart => thread::yield_now(),
            None => {}
        }
        before = start;
    }
    window.length = began.elapsed();
    let mut walked = None;
    for _ in 0..TRIES {
        walked = walk(reader, &looker.lane, &anchors, NODES_MAX)?;
        if walked.is_some() {
            break;
        }
        thread::sleep(BETWEEN_TRIES);
    }
    let Some(walked) = walked else {
        window.is_torn = true;
        return Ok(window);
    };
    let interpreter = looker.lane.interpreter.id;
    let ids: Vec<Option<StackId>> = met.all.iter().map(|running| stacks.find(reader, interpreter, running)).collect();
    let marked = marked(&noted, &ids, stacks);
    settle(&mut window, &walked.nodes, walked.end == WalkEnd::Anchors, &marked, stacks);
    Ok(window)
}

/// Forgets objects that have died meanwhile: another one of the same type may take the place and not be seen. Nothing
/// refers to what has died, or the collector does not track it any more.
fn forget_dead<M: Memory + ?Sized>(reader: &Reader<'_, M>, noted: &mut [NotedLook]) -> Result<(), ReadError> {
    let layout = reader.layout;
    let (next, count) = (layout.gc_head.gc_next, layout.constants.gc_head_size + layout.object.ob_refcnt.unwrap_or(0));
    let length = (next.max(count) + 8).min(HEADER_MAX);
    let living = noted.iter_mut().rev().take(RECENT_LOOKS).filter(|noted| !noted.head.is_null()).take(RECENT_MAX);
    let mut living: Vec<&mut NotedLook> = living.collect();
    let mut bytes = [[0; HEADER_MAX]; RECENT_MAX];
    let pieces = living.iter().zip(&mut bytes);
    let piece = |(noted, bytes): (&&mut NotedLook, _)| Piece { address: noted.head, buffer: bytes, filled: false };
    let mut pieces: Vec<Piece<'_>> =
        pieces.filter_map(|(noted, bytes)| Some(piece((noted, bytes.get_mut(..length)?)))).collect();
    reader.memory.read_at_once(&mut pieces)?;
    for (noted, bytes) in living.iter_mut().zip(&bytes) {
        let is_untracked = u64_at(bytes, next).is_some_and(|next| link(next).is_null());
        if is_untracked || u32_at(bytes, count) == Some(0) {
            noted.head = Address::NULL;
        }
    }
    Ok(())
}

impl MetStacks {
    fn add(&mut self, running: RunningStack) -> usize {
        let next = self.all.len();
        let index = *self.index.entry(running.clone()).or_insert(next);
        if index == next {
            self.all.push(running);
        }
        index
    }
}

/// A look that found a new object: which, when the look before began and this one ended, and the stack if it is known.
#[derive(Clone, Copy, Debug)]
struct Marked {
    head: Address,
    before: Instant,
    after: Instant,
    stack: Option<StackId>,
}

/// Of which looks the stack is that on which the object was made.
fn marked(noted: &[NotedLook], ids: &[Option<StackId>], stacks: &Stacks) -> Vec<Marked> {
    let id = |noted: &NotedLook| ids.get(noted.stack?).copied().flatten();
    let mut last: Option<NotedLook> = None;
    let mut mark = |this: &'_ NotedLook| {
        let NotedLook { head, before, after, is_next, .. } = *this;
        let same = |last: &NotedLook| match (id(last), id(this)) {
            (Some(last), Some(this)) => stacks.have_same_functions(last, this),
            _ => false,
        };
        let is_between =
            last.is_some_and(|last| is_next && after.duration_since(last.before) < BETWEEN_MAX && same(&last));
        let is_known = after.duration_since(before) < MARK_MAX || is_between;
        last = Some(*this);
        Marked { head, before, after, stack: id(this).filter(|_| is_known) }
    };
    noted.iter().map(&mut mark).collect()
}

/// Gives each of the objects, newest first, the stack of the look that found it.
fn settle(window: &mut WatchedWindow, nodes: &[ListNode], is_whole: bool, looks: &[Marked], stacks: &Stacks) {
    // The last look that found it: what was found there before has died.
    let latest: FxHashMap<Address, usize> = looks.iter().map(|look| look.head).zip(0..).collect();
    let oldest_first = nodes.iter().enumerate().rev();
    let found = oldest_first.filter_map(|(place, node)| Some((place, *latest.get(&node.head)?)));
    // What was found again in the wrong order is another object in the same place.
    let found = in_order(&found.collect::<Vec<_>>());
    let mut older: Option<usize> = None;
    let mut seen_to = nodes.len();
    let mut is_known = is_whole;
    for (place, look) in found {
        let (Some(this), Some(&node)) = (looks.get(look), nodes.get(place)) else { continue };
        let between = nodes.get(place + 1..seen_to).unwrap_or_default();
        // Before the first one there may be objects from before the window, unless all of these are known.
        if is_known {
            match between_stack(looks, older, this, stacks) {
                Some(stack) => {
                    window.births.extend(between.iter().rev().map(|&node| Birth { node, stack, is_mark: false }));
                }
                None => window.without_stack += between.len() as u64,
            }
        }
        match this.stack {
            Some(stack) => window.births.push(Birth { node, stack, is_mark: true }),
            None => window.without_stack += 1,
        }
        older = Some(look);
        is_known = true;
        seen_to = place;
    }
    window.without_stack += if is_known { seen_to as u64 } else { 0 };
}

/// The stack of what stands between the object of look `older` and that of `this`. It was made after the look before
/// the one that followed `older`: with the object of `this`, if that is not long ago, or with both if these agree.
fn between_stack(looks: &[Marked], older: Option<usize>, this: &Marked, stacks: &Stacks) -> Option<StackId> {
    let first = looks.get(older.map_or(0, |older| older + 1))?;
    if this.after.duration_since(first.before) < TOGETHER_MAX {
        return this.stack;
    }
    let older = looks.get(older?)?;
    let is_short = this.after.duration_since(older.before) < BETWEEN_MAX;
    let (of_older, stack) = (older.stack?, this.stack?);
    (is_short && stacks.have_same_functions(of_older, stack)).then_some(stack)
}

/// The longest part of a sequence of pairs in which the second numbers rise. (Fredman, *On computing the length of
/// longest increasing subsequences*, 1975.)
fn in_order(pairs: &[(usize, usize)]) -> Vec<(usize, usize)> {
    // The index that ends the best sequence of each length, and the one before each index.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(pairs.len());
    for (index, &(_, value)) in pairs.iter().enumerate() {
        let length = ends.partition_point(|&end| pairs[end].1 < value);
        before.push(length.checked_sub(1).map(|last| ends[last]));
        match ends.get_mut(length) {
            Some(end) => *end = index,
            None => ends.push(index),
        }
    }
    let mut chosen = Vec::with_capacity(ends.len());
    let mut at = ends.last().copied();
    while let Some(index) = at {
        chosen.push(pairs[index]);
        at = before[index];
    }
    chosen.reverse();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::stacks::CallStack;

    const TYPE: Address = Address(8);

    fn node(number: u64) -> ListNode {
        ListNode { head: Address(number * 64), type_: TYPE }
    }

    /// Looks that found an object: which, how many microseconds after the start the look before began and this ended.
    fn births(nodes: &[u64], is_whole: bool, looks: &[(u64, u64, u64, Option<StackId>)]) -> (Vec<(u64, StackId)>, u64) {
        let start = Instant::now();
        let at = |micros: u64| start + Duration::from_micros(micros);
        let marked = |&(number, before, after, stack): &(u64, u64, u64, Option<StackId>)| Marked {
            head: node(number).head,
            before: at(before),
            after: at(after),
            stack,
        };
        let looks: Vec<Marked> = looks.iter().map(marked).collect();
        let nodes: Vec<ListNode> = nodes.iter().map(|&number| node(number)).collect();
        let mut window = WatchedWindow::default();
        let mut stacks = Stacks::default();
        let stack = |function| CallStack { interpreter: 0, thread: 1, frames: vec![(function, 1)] };
        stacks.stacks = (0..10).map(stack).collect();
        settle(&mut window, &nodes, is_whole, &looks, &stacks);
        (window.births.iter().map(|birth| (birth.node.head.0 / 64, birth.stack)).collect(), window.without_stack)
    }

    #[test]
    fn what_was_made_between_two_looks_is_known_if_they_are_close() {
        // Newest first: 2 was made in the four microseconds before 3 was seen.
        assert_eq!(births(&[3, 2, 1], true, &[(1, 0, 4, Some(7)), (3, 4, 8, Some(8))]).0, [(1, 7), (2, 8), (3, 8)]);
        // Not where that is long, unless both stacks agree.
        let far = [(1, 0, 4, Some(7)), (3, 80, 100, Some(8))];
        assert_eq!(births(&[3, 2, 1], true, &far), (vec![(1, 7), (3, 8)], 1));
        let agree = [(1, 0, 4, Some(7)), (3, 80, 100, Some(7))];
        assert_eq!(births(&[3, 2, 1], true, &agree).0, [(1, 7), (2, 7), (3, 7)]);
        let too_far = [(1, 0, 4, Some(7)), (3, 180, 200, Some(7))];
        assert_eq!(births(&[3, 2, 1], true, &too_far).0, [(1, 7), (3, 7)]);
    }

    #[test]
    fn what_died_is_left_out_and_what_has_no_stack_is_counted() {
        // 2 has died, so 3 may have been made long before 4.
        let looks = [(1, 0, 4, Some(7)), (2, 4, 8, Some(8)), (4, 50, 54, Some(9))];
        assert_eq!(births(&[4, 3, 1], true, &looks), (vec![(1, 7), (4, 9)], 1));
        // Behind the last one, and a look without a stack.
        assert_eq!(births(&[5, 4, 1], true, &[(1, 0, 4, Some(7)), (4, 4, 8, None)]), (vec![(1, 7)], 2));
        // What is older than the first one seen may be from before the window.
        let (found, without) = births(&[4, 3], false, &[(4, 50, 54, Some(7))]);
        assert_eq!((found, without), (vec![(4, 7)], 0));
        // Another object in the place of 1, which was seen before 2.
        let looks = [(1, 0, 4, Some(7)), (2, 40, 44, Some(8)), (3, 44, 48, Some(8))];
        assert_eq!(births(&[1, 3, 2], true, &looks), (vec![(2, 8), (3, 8)], 1));
    }
}
