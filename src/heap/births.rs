//! Which objects were born between two instants, and on which stack?
//!
//! Two facts make this possible without touching the target. The collector keeps its objects in lists in order of birth
//! (a new one is linked in at the tail of the youngest, `_PyObject_GC_TRACK`), so that what is new since a known object
//! stands behind it. And the frames of the thread that holds the lock can be read at the same instants. What was born in
//! a *window* between two [glances](super::glance) that found the same thread in the same frames was born there.
//!
//! # Why windows at instants of their own
//!
//! Giving all that is new since the last tick to the stack of now would sample *time*: a function that computes for 9 ms
//! after another one has allocated for 1 ms would be found running at nine ticks of ten, and get nine tenths of what the
//! other has allocated. What is looked at here is what is born in a window of fixed place and length. An instant is drawn
//! at random in each part of the recording (a stratum) before anything of it is known, so each birth is as likely to fall
//! into a window as any other of its stratum, whoever runs: the births of windows, each weighted by its stratum's time over
//! its window's, are an unbiased sample of all births (Horvitz and Thompson, *A generalization of sampling without
//! replacement from a finite universe*, 1952). Nothing that is found may decide when the next look comes: instants of a
//! probe are a fixed time apart, and those that come late come late for all.
//!
//! # Instants
//!
//! The window is a glance itself ([`instants`]): which frame is topmost, the newest object, the frames, the newest object
//! again, the topmost frame again, in one call of some microseconds. What was born in it was born on that stack, since the
//! same frame was topmost before and after. For that the target must run while we look, and so we keep off its processor
//! ([`crate::target::processors`]); where it does not run just then, nothing is born, which is no error.
//!
//! # Trains
//!
//! Where there is one processor only, the target stands still while we look, and nothing is ever born in an instant. For
//! that there are *trains* of longer windows, in which we sleep ([`train`]): what was born in one that found the same thread
//! in the same frames at both ends is taken to be born there. They also see more births to be remembered.
//!
//! # What is not seen
//!
//! An object that dies before its window's list is read (microseconds) is not counted, and so the figures are of
//! objects that live that long. A call that is shorter than a glance is hardly ever topmost at both its ends: what is born
//! in such calls has no stack, and is counted as such, or that of the caller, where the call fits between the ends of a glance. Objects that the collector does not track (str, bytes, int, float; tuples and dicts of
//! such, in some versions) are in no list. A window that ends while the collector runs, or whose list
//! changed too fast to be read, counts for time, not for births.
//!
//! Mirrors `gc_list_append`, `gc_list_merge` (`Python/gc.c`, until 3.12 `Modules/gcmodule.c`), v3.8 to v3.15.

use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::python::layout::Layout;
use crate::target::Address;
use crate::target::memory::{Memory, ReadError};

use super::glance::{Glance, Glancer, link};

/// Bytes read around an object of a list: others of its age and size lie beside it.
const PAGE: u64 = 4096;
/// Objects followed in one window; a tight loop makes some ten in a microsecond.
const BIRTHS_MAX: usize = 8192;
/// Objects of the time before that are known, so that one that is still there ends a walk.
const KNOWN: usize = 64;
/// Lists of a collector: generations.
const LISTS: usize = 3;
/// Tries to read a list that changes meanwhile.
const TRIES: usize = 3;
/// The longest window whose ends can agree. Longer ones are those in which the system gave the processor to others. What
/// is born in them counts, since where processors are few the target runs just when we do not.
const LENGTH_MAX: Duration = Duration::from_micros(160);
/// Objects born in an instant; in twenty microseconds a tight loop makes some two hundred.
const WITHIN_MAX: usize = 256;
/// Windows in one train.
const WINDOWS_MAX: usize = 1024;

/// A new object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Birth {
    /// Where it is.
    pub address: Address,
    /// Its type.
    pub type_: Address,
}

/// What happened in a window.
#[derive(Clone, Debug)]
pub enum Fate {
    /// These were born, oldest first.
    Births(Vec<Birth>),
    /// The list changed faster than it could be read.
    Torn,
    /// It ended while the collector ran, when lists cannot be read.
    Collected,
}

/// The time between two glances.
#[derive(Clone, Debug)]
pub struct Window {
    /// How it began.
    pub start: Glance,
    /// How it ended.
    pub end: Glance,
    /// What was born.
    pub fate: Fate,
}

impl Window {
    /// Whether we were kept waiting: in so long a time a thread may leave a function and come back to it.
    pub fn is_late(&self) -> bool {
        self.length() > LENGTH_MAX
    }

    /// How long it took.
    pub fn length(&self) -> Duration {
        self.end.at.saturating_duration_since(self.start.at)
    }
}

/// Reads windows one after another for as long as `length_wanted`, each at least `dwell` long; at least one. Empty where the
/// lists could not be read.
///
/// # Errors
/// Where the target cannot be read at all any more.
pub fn train<M: Memory + ?Sized>(
    glancer: &mut Glancer<'_, M>,
    length_wanted: Duration,
    dwell: Duration,
) -> Result<Vec<Window>, ReadError> {
    let began = Instant::now();
    let mut windows: Vec<Window> = Vec::new();
    let Some((mut start, mut known)) = base(glancer, &FxHashSet::default())? else { return Ok(windows) };
    loop {
        // Also where reading has taken that long: the target must be able to run.
        std::thread::sleep(dwell);
        let end = glancer.glance()?;
        let length = end.at.saturating_duration_since(start.at);
        let mut is_quiet = false;
        let fate = if start.collecting && end.collecting && start.collections == end.collections {
            is_quiet = true;
            Fate::Births(Vec::new())
        } else if end.collecting {
            Fate::Collected
        } else if start.tail == end.tail {
            is_quiet = true;
            Fate::Births(Vec::new())
        } else {
            // While the collector runs the youngest list is empty, and what is in it later was born later.
            let lists = if start.collecting { 1 } else { LISTS };
            match Walk::new(glancer, lists).back_to(end.tail, &known, BIRTHS_MAX)? {
                Some(nodes) => {
                    known = nodes.iter().map(|node| node.head).collect();
                    let new = nodes.iter().position(|node| !node.is_new).unwrap_or(nodes.len());
                    Fate::Births(nodes.iter().take(new).rev().map(|node| node.birth).collect())
                }
                None => Fate::Torn,
            }
        };
        log::trace!(
            "window of {length:?}: {}, tail {} {}, {:?} {}",
            match &fate {
                Fate::Births(births) => births.len().to_string(),
                Fate::Torn => "torn".into(),
                Fate::Collected => "collected".into(),
            },
            start.tail,
            end.tail,
            end.collections,
            end.collecting
        );
        let is_whole = matches!(fate, Fate::Births(_));
        windows.push(Window { start, end: end.clone(), fate });
        if began.elapsed() >= length_wanted || windows.len() >= WINDOWS_MAX {
            break;
        }
        if is_quiet {
            start = end;
            continue;
        }
        // Reading the list took a while: what was born meanwhile belongs to no window.
        if !is_whole {
            known.clear();
        }
        let Some((fresh, more)) = base(glancer, &known)? else { break };
        (start, known) = (fresh, more);
    }
    Ok(windows)
}

/// A glance, and what was born between its two looks at the list, where that can be told.
pub type Moment = (Glance, Option<Vec<Birth>>);

/// Makes `count` glances at instants that do not depend on what they find, `gap` apart: each with what was born between its
/// looks, where that can be told. Cheap: of a list only as much is read as is newer than the first look. Waits awake.
///
/// # Errors
/// Where the target cannot be read at all any more.
pub fn instants<M: Memory + ?Sized>(
    glancer: &mut Glancer<'_, M>,
    count: u32,
    gap: Duration,
) -> Result<Vec<Moment>, ReadError> {
    let began = Instant::now();
    // Long after the last one nothing that is guessed is right: this one learns what to guess.
    glancer.glance()?;
    let mut instants = Vec::new();
    for index in 1..=count {
        while began.elapsed() < gap * index {
            std::hint::spin_loop();
        }
        let glance = glancer.glance()?;
        // What stands behind the first look is known only where no collection came in between.
        let is_readable = glance.is_steady && glance.is_known() && (!glance.is_moving || glance.tail != glance.before);
        let is_quiet = !glance.collecting && !glance.was_collecting;
        let births = if is_readable && is_quiet { within(glancer, &glance)? } else { None };
        log::trace!(
            "instant of {:?}, {:?} between its looks: {:?} births, {}",
            glance.took,
            glance.between,
            births.as_ref().map(Vec::len),
            if glance.is_steady { "steady" } else { "not steady" }
        );
        instants.push((glance, births));
    }
    Ok(instants)
}

/// What was born between the two looks of a glance, oldest last. `None` where the object that was newest at first is gone.
fn within<M: Memory + ?Sized>(glancer: &Glancer<'_, M>, glance: &Glance) -> Result<Option<Vec<Birth>>, ReadError> {
    let head = glancer.lane.heads().first().copied().unwrap_or_default();
    let mut walk = Walk::new(glancer, 1);
    let mut births: Vec<Birth> = Vec::new();
    let (mut newer, mut at) = (head, glance.tail);
    while at != glance.before {
        let node = if at == head || births.len() >= WITHIN_MAX { None } else { walk.node(at)? };
        // Behind the newest one more have been born since.
        let Some((_, previous, type_)) = node.filter(|&(next, ..)| next == newer || births.is_empty()) else {
            return Ok(None);
        };
        births.push(Birth { address: at.offset(walk.layout.constants.gc_head_size), type_ });
        (newer, at) = (at, previous);
    }
    Ok(Some(births))
}

/// A glance, and what was alive at it, so far as a walk needs it. `known` shortens the walk.
fn base<M: Memory + ?Sized>(
    glancer: &mut Glancer<'_, M>,
    known: &FxHashSet<Address>,
) -> Result<Option<(Glance, FxHashSet<Address>)>, ReadError> {
    let nobody = FxHashSet::default();
    for attempt in 0..TRIES {
        let glance = glancer.glance()?;
        if glance.collecting {
            // It may take long; the time counts, and nothing is born meanwhile.
            return Ok(Some((glance, nobody)));
        }
        let (known, limit) = if attempt == 0 && !known.is_empty() { (known, BIRTHS_MAX) } else { (&nobody, KNOWN) };
        if let Some(nodes) = Walk::new(glancer, LISTS).back_to(glance.tail, known, limit)? {
            return Ok(Some((glance, nodes.iter().map(|node| node.head).collect())));
        }
    }
    Ok(None)
}

/// Sleeps until an instant. Never waits awake: where processors are few, that would keep the target from running, and
/// a window that it sleeps through shows nothing.
pub fn wait_until(instant: Instant) {
    loop {
        let left = instant.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left);
    }
}

/// Waits for an instant, the last of it awake.
pub fn wait_closely(instant: Instant) {
    /// What a sleep may take too long.
    const AWAKE: Duration = Duration::from_micros(60);
    if let Some(sleep) = instant.saturating_duration_since(Instant::now()).checked_sub(AWAKE) {
        std::thread::sleep(sleep);
    }
    while Instant::now() < instant {
        std::hint::spin_loop();
    }
}

/// An object met on a walk.
#[derive(Clone, Copy, Debug)]
struct Node {
    head: Address,
    birth: Birth,
    is_new: bool,
}

/// Walks lists backwards, from the newest object on, over one reading of each page.
struct Walk<'a, 'b, M: Memory + ?Sized> {
    glancer: &'b Glancer<'a, M>,
    layout: &'a Layout,
    /// How many lists are walked, from the youngest on.
    lists: usize,
    pages: FxHashMap<u64, Option<Box<[u8]>>>,
}

impl<'a, 'b, M: Memory + ?Sized> Walk<'a, 'b, M> {
    fn new(glancer: &'b Glancer<'a, M>, lists: usize) -> Self {
        Walk { glancer, layout: glancer.reader().layout, lists, pages: FxHashMap::default() }
    }

    /// From `tail` back to two known objects in a row and [`KNOWN`] objects beyond, or, where none is known, over `limit`
    /// objects. Newest first. `None` where the list could not be read in [`TRIES`].
    fn back_to(
        mut self,
        mut tail: Address,
        known: &FxHashSet<Address>,
        limit: usize,
    ) -> Result<Option<Vec<Node>>, ReadError> {
        for _ in 0..TRIES {
            if let Some(nodes) = self.walk(tail, known, limit)? {
                return Ok(Some(nodes));
            }
            self.pages.clear();
            let head = self.glancer.lane.heads().first().copied().unwrap_or_default();
            tail = self.glancer.reader().pointer(head, self.layout.gc_head.gc_prev)?;
            tail = Address(tail.0 & !crate::python::proof::GC_FLAG_BITS);
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
                let next = self.glancer.reader().pointer(head, self.layout.gc_head.gc_prev)?;
                (newer, at) = (head, Address(next.0 & !crate::python::proof::GC_FLAG_BITS));
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
            let address = at.offset(self.layout.constants.gc_head_size);
            nodes.push(Node { head: at, birth: Birth { address, type_ }, is_new: !is_known && old == 0 });
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
                let mut bytes = vec![0; PAGE as usize].into_boxed_slice();
                match glancer.reader().memory.read_exact_at(Address(page.wrapping_mul(PAGE)), &mut bytes) {
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

    /// Both links and the type of the object whose GC head is at `at`.
    fn node(&mut self, at: Address) -> Result<Option<(Address, Address, Address)>, ReadError> {
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
        let type_ = crate::target::memory::u64_at(wanted, layout.constants.gc_head_size + layout.object.ob_type);
        Ok(match (links, type_) {
            ((Some(next), Some(previous)), Some(type_)) if !next.is_null() && !previous.is_null() => {
                Some((next, previous, Address(type_)))
            }
            _ => None,
        })
    }
}
