//! What is an interpreter doing right now, and which object was born last? One reading of a few microseconds.
//!
//! A *lane* is a collector with the lock that guards it: the main interpreter's, or a sub-interpreter's with its own. A
//! *glance* reads, in four or five system calls, the collector's state (the newest object, whether it collects); what stands
//! behind that object, and the topmost frame; the collector's state again; then the lane's lock (who holds it) and the
//! other frames. What will be needed is guessed from the glance before: the same holder, frames about the same places. A wrong
//! guess costs further calls, never a wrong answer.
//!
//! Looks at the collector are the first that their calls read, so from the start of the one to the start of the other it is as long
//! as from look to look, whatever is read after them. Within one call that time can only be guessed.
//! Little is read between them: frames are what the target is writing, and it waits for each line of its cache that we
//! take. With four kilobytes of frames between the looks it allocated a quarter less in that time than it does otherwise. But the
//! topmost one is read between them: after them it would be the next function's too often, and its place may be that function's
//! by then. A third look comes as soon as can be, with the rest and the page on which the newest objects are: those that live for ten
//! microseconds would be gone soon after, and few of them were still there at the second look.
//!
//! Mirrors `_gil_runtime_state` (`Include/internal/pycore_gil.h`), `_gc_runtime_state` (`Include/internal/pycore_gc.h`,
//! since 3.14 `pycore_interp_structs.h`) and what [`crate::python::stack`] does, v3.8 to v3.15.

use std::slice::SliceIndex;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt, Piece, ReadError, u64_at};
use crate::process::regions::RegionMap;
use crate::python::gc_links::GC_FLAG_BITS;
use crate::python::gc_links::generation_heads;
use crate::python::interpreter::Interpreter;
use crate::python::interpreter::Python;
use crate::python::layout::Layout;
use crate::python::reader::Reader;
use crate::python::stack::{self, StackFrame};

/// Frames compared between two glances; those below have not moved where these have not.
pub const SHALLOW: usize = 40;
/// Bytes read below and above the topmost frame: some 25 frames, and room for a few calls more.
const BELOW: u64 = 3072;
const ABOVE: u64 = 1024;
/// Bytes read with the topmost frame: those of the one that called it.
const CALLER: u64 = 320;
/// Frames guessed.
const GUESSED: usize = 12;
/// Places at which frames lay in earlier glances: those that are no part of the thread's own stack (all of them until 3.10, later
/// generators') lie there again when the same functions run.
const REMEMBERED: usize = 8;
/// Bytes of a block of the thread's stack of frames (`DATA_STACK_CHUNK_SIZE`, `Python/pystate.c`).
const CHUNK: u64 = 16 << 10;

/// Bytes that are read around an object: others of its age and size lie beside it.
pub(crate) const PAGE: u64 = 4096;
/// The page on which the newest object lies, and the one after it: most that is born in some microseconds lies there.
const NEWEST: usize = 2;

/// How long the target is left alone on either side of what is read between the looks: a call takes about as long. Each line of its
/// cache that is taken costs it a tenth of a microsecond or two, so the time is not to be too short either.
const DWELL: Duration = Duration::from_nanos(1400);
/// The longest time between two looks that is one instant, and until the frames are read as well. It is a matter of our clock
/// alone, so leaving out longer ones favours no function. Frames on many pages take some twenty microseconds.
const BETWEEN_MAX: Duration = Duration::from_micros(20);
const INSTANT_MAX: Duration = Duration::from_micros(80);

/// Frames that a glance finds whatever it costs; further ones only where they lie beside these. What is below is found when
/// there is time for it.
const DEEP: usize = 4;

/// A collector and the lock that guards it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// The interpreter; the main one where a collector serves all (3.8).
    pub interpreter: Interpreter,
    /// Whether other interpreters' objects are in the same lists.
    pub serves_all: bool,
    gil: Address,
    /// Its lists, youngest first.
    heads: Vec<Address>,
}

impl Lane {
    /// The lanes of a Python's interpreters: one for each collector.
    pub fn all<M: Memory + ?Sized>(reader: &Reader<'_, M>, python: &Python, interpreters: &[Interpreter]) -> Vec<Lane> {
        let mut lanes: Vec<Lane> = Vec::new();
        for interpreter in interpreters {
            if lanes.iter().any(|lane| lane.interpreter.gc == interpreter.gc) {
                continue;
            }
            let gil = match (reader.layout.runtime.ceval_gil, reader.layout.interp.ceval_gil) {
                (Some(offset), _) => Some(python.runtime.address.offset(offset)),
                (None, Some(offset)) => reader.pointer(interpreter.address, offset).ok(),
                (None, None) => None,
            };
            let heads = generation_heads(reader, interpreter).unwrap_or_default();
            let (Some(gil), 3..) = (gil, heads.len()) else { continue };
            let serves_all = reader.layout.interp.gc.is_none();
            lanes.push(Lane { interpreter: *interpreter, serves_all, gil, heads: heads[..3].to_vec() });
        }
        lanes
    }

    /// Whether it is of this interpreter, and not of another one in the same place.
    pub fn is_of(&self, interpreter: &Interpreter) -> bool {
        self.interpreter.gc == interpreter.gc && (self.serves_all || self.interpreter.id == interpreter.id)
    }

    /// The heads of its lists, youngest first.
    pub fn heads(&self) -> &[Address] {
        &self.heads
    }
}

/// The time from the second look to a third one, which comes as soon as can be.
#[derive(Clone, Copy, Debug)]
pub struct Further {
    /// The newest object's GC head at the third look.
    pub tail: Address,
    /// How long it was.
    pub between: Duration,
    /// As [`Glance::is_moving`].
    pub is_moving: bool,
    /// As [`Glance::more`].
    pub more: i32,
    /// Whether the collector ran or had run.
    pub is_collected: bool,
}

/// One reading.
#[derive(Clone, Debug)]
pub struct Glance {
    /// When it was made.
    pub at: Instant,
    /// The newest object's GC head; the list's own head where it is empty.
    pub tail: Address,
    /// The same some microseconds before, at the first look.
    pub before: Address,
    /// What stood behind that one then; `None` where it was gone before this was read.
    pub older: Option<Address>,
    /// How long it was from the one look to the other.
    pub between: Duration,
    /// How long it was from the first look until the frames were read.
    took: Duration,
    /// Whether the collector runs.
    pub collecting: bool,
    /// Counters that each collection changes.
    pub collections: [u32; 2],
    /// Whether the collector ran at the first look.
    pub was_collecting: bool,
    /// Whether the newest object was another one at the second look, or others had been allocated or freed, or the collector had
    /// begun or run.
    pub is_moving: bool,
    /// What followed.
    pub further: Further,
    /// How many more of the collector's objects there were at the second look, tracked or not.
    pub more: i32,
    /// The thread that holds the lock; null where nobody does.
    pub holder: Address,
    /// Whether the holder's objects go into this lane's lists.
    pub is_own: bool,
    /// The holder's frames, topmost first, at most [`SHALLOW`].
    pub frames: Vec<StackFrame>,
    /// The frame below those.
    pub rest: Address,
}

impl Glance {
    /// Whether two glances found the same thread in the same frames, whatever the line. One may have looked deeper than the
    /// other.
    pub fn agrees(&self, other: &Glance) -> bool {
        let same = |(a, b): (&StackFrame, &StackFrame)| a.address == b.address && a.code == b.code;
        let below = |glance: &Glance, depth: usize| glance.frames.get(depth).map_or(glance.rest, |frame| frame.address);
        let depth = self.frames.len().min(other.frames.len());
        self.is_known()
            && other.is_known()
            && self.holder == other.holder
            && self.frames.iter().zip(&other.frames).all(same)
            && below(self, depth) == below(other, depth)
    }

    /// Whether we were kept from looking in time: what was seen is not of one instant.
    pub fn is_late(&self) -> bool {
        self.between > BETWEEN_MAX || self.took > INSTANT_MAX
    }

    /// Whether it saw Python code run in this lane.
    pub fn is_known(&self) -> bool {
        !self.holder.is_null() && self.is_own && !self.frames.is_empty()
    }
}

/// Makes glances at one lane.
pub struct Glancer<'a, M: Memory + ?Sized> {
    memory: &'a M,
    layout: &'a Layout,
    /// The lane.
    pub lane: Lane,
    guess: Guess,
    /// Where frames lay, latest first.
    places: Vec<Address>,
    pieces: Vec<Prepared>,
    /// From which of them on these are the pages of what is newest.
    newest: usize,
    /// First instructions of code objects seen.
    codes: FxHashMap<Address, Address>,
}

/// What the next glance will need.
#[derive(Default)]
struct Guess {
    thread: Address,
    cframe: Address,
    frames: Vec<(Address, usize)>,
    /// The block of the thread's own frames.
    chunk: Option<Address>,
}

impl Guess {
    /// From where on to read so that the frame that called the one at `top` is read with it, as a rule. Where many functions call one, it
    /// is that which tells whose call this is, and another one may lie there some microseconds later.
    fn start_of(&self, layout: &Layout, top: Address) -> Address {
        let chunk = self.chunk.filter(|chunk| top >= *chunk && top.0 - chunk.0 < CHUNK && layout.iframe.is_some());
        chunk.map_or(top, |chunk| Address(top.0.saturating_sub(CALLER).max(chunk.0)))
    }
}

struct Prepared {
    address: Address,
    bytes: Vec<u8>,
    filled: bool,
}

/// Reads from what was prepared, and from the target where that does not do.
struct Beside<'a, M: Memory + ?Sized> {
    memory: &'a M,
    pieces: &'a [Prepared],
}

impl<M: Memory + ?Sized> Beside<'_, M> {
    fn prepared(&self, address: Address, length: usize) -> Option<&[u8]> {
        self.pieces.iter().filter(|piece| piece.filled).find_map(|piece| {
            let at = usize::try_from(address.0.checked_sub(piece.address.0)?).ok()?;
            piece.bytes.get(at..at.checked_add(length)?)
        })
    }
}

impl<M: Memory + ?Sized> Memory for Beside<'_, M> {
    fn read_exact_at(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        if let Some(bytes) = self.prepared(address, buffer.len()) {
            buffer.copy_from_slice(bytes);
            return Ok(());
        }
        self.memory.read_exact_at(address, buffer)
    }

    fn regions(&self) -> &RegionMap {
        self.memory.regions()
    }
}

/// Reads from one piece only.
struct Only<'a, M: Memory + ?Sized> {
    memory: &'a M,
    piece: Option<&'a Prepared>,
}

impl<M: Memory + ?Sized> Memory for Only<'_, M> {
    fn read_exact_at(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        let found = self.piece.filter(|piece| piece.filled).and_then(|piece| {
            let at = usize::try_from(address.0.checked_sub(piece.address.0)?).ok()?;
            piece.bytes.get(at..at.checked_add(buffer.len())?)
        });
        let length = buffer.len();
        buffer.copy_from_slice(found.ok_or(ReadError::Unreadable { address, length })?);
        Ok(())
    }

    fn regions(&self) -> &RegionMap {
        self.memory.regions()
    }
}

/// What a look at the collector tells.
#[derive(Clone, Copy, Debug)]
pub struct State {
    /// The newest object's GC head; the list's own head where it is empty.
    pub tail: Address,
    /// Objects of the collector's that were allocated less those that were freed, since the last collection.
    pub allocated: i32,
    /// Counters that each collection changes.
    pub collections: [u32; 2],
    /// Whether it runs.
    pub collecting: bool,
}

impl State {
    fn of<N: Memory>(layout: &Layout, lane: &Lane, memory: &N) -> Result<State, ReadError> {
        let head = |index: usize| lane.heads.get(index).copied().unwrap_or_default();
        let count = |index: usize| memory.read_u32(head(index).offset(layout.gc_generation.count));
        Ok(State {
            tail: Address(memory.read_u64(head(0).offset(layout.gc_head.gc_prev))? & !GC_FLAG_BITS),
            allocated: memory.read_i32(head(0).offset(layout.gc_generation.count))?,
            collections: [count(1)?, count(2)?],
            collecting: memory.read_u32(lane.interpreter.gc.offset(layout.gc.collecting))? != 0,
        })
    }

    /// Whether something was born or died, or the collector began, until it was like that. The newest object may be another one in the
    /// same place.
    fn is_moving_to(&self, later: &State) -> bool {
        let has_begun = later.collecting || self.collections != later.collections;
        has_begun || self.tail != later.tail || self.allocated != later.allocated
    }
}

impl<'a, M: Memory + ?Sized> Glancer<'a, M> {
    /// A glancer that has not seen anything yet.
    pub fn new(reader: Reader<'a, M>, lane: Lane) -> Self {
        let codes = FxHashMap::default();
        Glancer {
            memory: reader.memory,
            layout: reader.layout,
            lane,
            guess: Guess::default(),
            places: Vec::new(),
            pieces: Vec::new(),
            newest: 0,
            codes,
        }
    }

    /// The memory read with the target's layout.
    pub fn reader(&self) -> Reader<'a, M> {
        Reader { memory: self.memory, layout: self.layout }
    }

    /// The collector's state alone.
    ///
    /// # Errors
    /// As for [`Glancer::glance`].
    pub fn state(&self) -> Result<State, ReadError> {
        let bytes = vec![0; self.layout.gc.size];
        let mut look = [Prepared { address: self.lane.interpreter.gc, bytes, filled: false }];
        read_all(self.memory, &mut look)?;
        State::of(self.layout, &self.lane, &Only { memory: self.memory, piece: look.first() })
    }

    /// Learns which frame is topmost now: that a glance soon after needs one call less.
    ///
    /// # Errors
    /// Where the target cannot be read at all any more.
    pub fn aim(&mut self) -> Result<(), ReadError> {
        let Some(word) = self.words_of_top().last() else { return Ok(()) };
        match self.memory.read_u64(word).map(Address) {
            Ok(top) => self.places = remember(&[top], &self.places, GUESSED + REMEMBERED),
            Err(error @ (ReadError::Gone | ReadError::Denied)) => return Err(error),
            Err(_) => {}
        }
        Ok(())
    }

    /// The words that tell which frame is topmost, as guessed: the last one says it.
    fn words_of_top(&self) -> impl Iterator<Item = Address> + Clone {
        let Guess { thread, cframe, .. } = self.guess;
        let layout = &self.layout.thread;
        let of_thread = match self.layout.iframe {
            Some(_) => layout.current_frame.or(layout.cframe),
            None => layout.frame,
        };
        let of_thread = of_thread.filter(|_| !thread.is_null()).map(|offset| thread.offset(offset));
        let of_cframe = self.layout.cframe.as_ref().filter(|_| !cframe.is_null());
        of_thread.into_iter().chain(of_cframe.map(|layout| cframe.offset(layout.current_frame)))
    }

    /// The collector's state in one of the pieces.
    fn state_in(&self, index: usize) -> Result<State, ReadError> {
        State::of(self.layout, &self.lane, &Only { memory: self.memory, piece: self.pieces.get(index) })
    }

    /// Both links of a GC head, next and previous. `None` where it is not in a list.
    ///
    /// # Errors
    /// Where the target cannot be read at all any more.
    pub fn links(&self, head: Address) -> Result<Option<(Address, Address)>, ReadError> {
        let gc_head = &self.layout.gc_head;
        let mut bytes = [0; 16];
        match self.memory.read_exact_at(head, &mut bytes) {
            Ok(()) => {}
            Err(error @ (ReadError::Gone | ReadError::Denied)) => return Err(error),
            Err(_) => return Ok(None),
        }
        let links = (link(&bytes, gc_head.gc_next), link(&bytes, gc_head.gc_prev));
        let (Some(next), Some(previous)) = links else { return Ok(None) };
        Ok((!next.is_null() && !previous.is_null()).then_some((next, previous)))
    }

    /// Reads.
    ///
    /// # Errors
    /// Where the target cannot be read at all any more, or its collector's state is gone.
    pub fn glance(&mut self) -> Result<Glance, ReadError> {
        let (topmost, second) = self.prepare();
        let looked = self.read(..1)?;
        let has_looked = Instant::now();
        let layout = self.layout;
        let first = self.state_in(0)?;
        if let Some(newest) = self.pieces.get_mut(1) {
            newest.address = first.tail;
        }
        spin_until(has_looked + DWELL);
        self.read(1..=topmost)?;
        if let Some([word, frame]) = self.pieces.get_mut(topmost - 1..=topmost) {
            let top = u64_at(&word.bytes, 0).filter(|_| word.filled && !self.guess.thread.is_null()).map(Address);
            let needed = top.map(|top| (top, self.guess.start_of(layout, top)));
            if let Some((top, start)) = needed.filter(|&(_, start)| start != frame.address) {
                frame.address = start;
                frame.bytes.resize((top.0 - start.0) as usize + stack::bytes_of_frame(layout), 0);
                self.read(topmost..=topmost)?;
            }
        }
        spin_until(has_looked + DWELL * 3);
        let at = self.read(second..=second)?;
        let newest = self.pieces.get(1).filter(|newest| newest.filled);
        let older = newest.and_then(|newest| link(&newest.bytes, layout.gc_head.gc_prev));
        let after = second + 1;
        let second = self.state_in(second)?;
        let page = Address(second.tail.0 & !(PAGE - 1));
        for (index, piece) in self.pieces.get_mut(self.newest..).unwrap_or_default().iter_mut().enumerate() {
            piece.address = page.offset(index * PAGE as usize);
        }
        let third_at = self.read(after..)?;
        let third = self.state_in(after)?;
        let took = looked.elapsed();
        let pieces = self.pieces.get(1..).unwrap_or_default();
        let beside = Beside { memory: self.memory, pieces };
        let reader = Reader { memory: &beside, layout };
        let State { tail, collections, collecting, .. } = second;
        let more = second.allocated.saturating_sub(first.allocated);
        let is_moving = first.is_moving_to(&second);
        let further = Further {
            tail: third.tail,
            between: third_at.duration_since(at),
            is_moving: second.is_moving_to(&third),
            more: third.allocated.saturating_sub(second.allocated),
            is_collected: collecting || third.collecting || third.collections != collections,
        };
        let locked = beside.read_u32(self.lane.gil.offset(layout.gil.locked))? == 1;
        let holder = if locked { reader.pointer(self.lane.gil, layout.gil.last_holder)? } else { Address::NULL };
        let mut glance = Glance {
            at,
            tail,
            before: first.tail,
            older,
            between: at.duration_since(looked),
            took,
            collecting,
            collections,
            was_collecting: first.collecting,
            is_moving,
            further,
            more,
            holder,
            is_own: false,
            frames: Vec::new(),
            rest: Address::NULL,
        };
        if holder.is_null() {
            return Ok(glance);
        }
        // The holder may have ended since: then its state cannot be read, and nothing is known.
        let Ok(interpreter) = reader.pointer(holder, layout.thread.interp) else { return Ok(glance) };
        glance.is_own = self.lane.serves_all || interpreter == self.lane.interpreter.address;
        let top = stack::top(&reader, holder).unwrap_or_default();
        let later = Beside { memory: self.memory, pieces: self.pieces.get(after..).unwrap_or_default() };
        let mut now = stack::top(&Reader { memory: &later, layout }, holder).unwrap_or_default();
        let mut stack = walk(&beside, layout, &mut self.codes, top);
        if stack.places.len() < 2 && stack.rest.is_null() && now != top {
            // A frame that has returned has nothing below it any more: what it returned to is topmost now.
            let below = walk(&beside, layout, &mut self.codes, now);
            if !below.places.contains(&top) {
                stack.add(below);
            }
        }
        // Frames that were not prepared may have changed since.
        let mut has_fallen = stack.has_fallen || self.guess.thread != holder;
        if let Some((top, anew)) = has_fallen.then(|| walk_anew(self.memory, layout, &mut self.codes, holder)).flatten()
        {
            (now, has_fallen, stack) = (top, anew.has_fallen, anew);
        }
        if has_fallen && stack::top(&Reader { memory: self.memory, layout }, holder).ok() != Some(now) {
            // These are frames of several moments.
            stack.frames.clear();
        }
        let Walked { frames, places, rest, .. } = stack;
        (glance.frames, glance.rest) = (frames, rest);
        let cframe = match (layout.thread.current_frame, layout.thread.cframe) {
            (None, Some(offset)) if layout.iframe.is_some() => reader.pointer(holder, offset).unwrap_or_default(),
            _ => Address::NULL,
        };
        let chunk = layout.thread.datastack_chunk.and_then(|offset| reader.pointer(holder, offset).ok());
        if self.guess.thread != holder {
            self.places.clear();
        }
        let now = places.get(..GUESSED).unwrap_or(&places);
        self.places = remember(now, &self.places, GUESSED + REMEMBERED);
        self.guess =
            Guess { thread: holder, cframe, frames: guess_frames(layout, &self.places, now.len(), chunk), chunk };
        Ok(glance)
    }

    /// What is guessed to be needed, in the order in which it is to be read: the collector; the newest object and which frame is
    /// topmost; that frame; the collector again; the collector once more, the lock, the same of the thread again, the frames, and the
    /// pages of what is newest. The indices of
    /// the topmost frame and of the second look.
    fn prepare(&mut self) -> (usize, usize) {
        let layout = self.layout;
        let thread = &layout.thread;
        let thread_bytes =
            [thread.frame, thread.cframe, thread.current_frame, thread.datastack_chunk, Some(thread.interp)]
                .into_iter()
                .flatten()
                .max()
                .unwrap_or(0)
                + 8;
        let look = (self.lane.interpreter.gc, layout.gc.size);
        let gil = (self.lane.gil, layout.gil.locked.max(layout.gil.last_holder) + 8);
        // Where the newest object is, the first look tells.
        let (mut wanted, mut after) = (vec![look, (Address::NULL, layout.constants.gc_head_size)], vec![gil]);
        let Guess { thread: holder, frames, .. } = &self.guess;
        if !holder.is_null() {
            let words = self.words_of_top().map(|word| (word, 8));
            after.push((*holder, thread_bytes));
            // The first of them is the thread's.
            after.extend(words.clone().skip(1));
            wanted.extend(words);
        }
        after.extend(frames);
        let topmost = wanted.len();
        let top = self.places.first().copied().unwrap_or_default();
        let start = self.guess.start_of(layout, top);
        wanted.push((start, (top.0 - start.0) as usize + stack::bytes_of_frame(layout)));
        let second = wanted.len();
        wanted.push(look);
        wanted.push(look);
        wanted.extend(after);
        self.newest = wanted.len();
        wanted.extend([(Address::NULL, PAGE as usize); NEWEST]);
        self.pieces.resize_with(wanted.len(), || Prepared { address: Address::NULL, bytes: Vec::new(), filled: false });
        for (prepared, (address, length)) in self.pieces.iter_mut().zip(wanted) {
            prepared.address = address;
            prepared.bytes.resize(length, 0);
        }
        (topmost, second)
    }

    /// A page that was read with the third look of the last glance, as it was then.
    pub fn page_of_newest(&self, page: Address) -> Option<&[u8]> {
        let pieces = self.pieces.get(self.newest..).unwrap_or_default();
        pieces.iter().find(|piece| piece.filled && piece.address == page).map(|piece| piece.bytes.as_slice())
    }

    /// Reads some of what was prepared in one call. When that began.
    fn read(&mut self, which: impl SliceIndex<[Prepared], Output = [Prepared]>) -> Result<Instant, ReadError> {
        let prepared = self.pieces.get_mut(which).unwrap_or_default();
        let start = Instant::now();
        read_all(self.memory, prepared)?;
        Ok(start)
    }
}

/// A thread's frames.
#[derive(Default)]
struct Walked {
    frames: Vec<StackFrame>,
    /// Where they lie, with those of C code.
    places: Vec<Address>,
    /// The frame below them.
    rest: Address,
    /// Whether some were not prepared.
    has_fallen: bool,
}

impl Walked {
    /// Puts other frames below.
    fn add(&mut self, below: Walked) {
        self.frames.extend(below.frames);
        self.places.extend(below.places);
        self.rest = below.rest;
        self.has_fallen |= below.has_fallen;
    }
}

/// The frames from `next` on.
fn walk<M: Memory + ?Sized>(
    beside: &Beside<'_, M>,
    layout: &Layout,
    codes: &mut FxHashMap<Address, Address>,
    mut next: Address,
) -> Walked {
    let mut walked = Walked::default();
    let mut bytes = vec![0; stack::bytes_of_frame(layout)];
    let mut steps = 0;
    while !next.is_null() && walked.frames.len() < SHALLOW && steps < 2 * SHALLOW {
        steps += 1;
        if beside.prepared(next, bytes.len()).is_none() {
            if walked.frames.len() >= DEEP {
                break;
            }
            walked.has_fallen = true;
        }
        if beside.read_exact_at(next, &mut bytes).is_err() {
            break;
        }
        let codes = std::cell::RefCell::new(&mut *codes);
        let first = |code: Address| {
            if let Some(&first) = codes.borrow().get(&code) {
                return Some(first);
            }
            let first = stack::first_instruction(&Reader { memory: beside.memory, layout }, next, code)?;
            codes.borrow_mut().insert(code, first);
            Some(first)
        };
        let Some((frame, previous)) = stack::parse(layout, next, &bytes, &first) else { break };
        walked.places.push(next);
        walked.frames.extend(frame);
        next = previous;
    }
    walked.rest = next;
    walked
}

/// The topmost frame of a thread that was not expected, or is not where it was, and the frames from there on: about the topmost one all is
/// read at once, some microseconds after the looks. Where threads take turns, as those of a server do, that is how most are found: of frames
/// that are read one by one the topmost has changed before the last is read. `None` until 3.10, where they lie apart.
fn walk_anew<M: Memory + ?Sized>(
    memory: &M,
    layout: &Layout,
    codes: &mut FxHashMap<Address, Address>,
    holder: Address,
) -> Option<(Address, Walked)> {
    layout.iframe.as_ref()?;
    let reader = Reader { memory, layout };
    let chunk = layout.thread.datastack_chunk.and_then(|offset| reader.pointer(holder, offset).ok());
    let top = stack::top(&reader, holder).ok()?;
    let guessed = guess_frames(layout, &[top], 1, chunk).into_iter();
    let mut pieces: Vec<Prepared> =
        guessed.map(|(address, length)| Prepared { address, bytes: vec![0; length], filled: false }).collect();
    read_all(memory, &mut pieces).ok()?;
    let beside = Beside { memory, pieces: &pieces };
    Some((top, walk(&beside, layout, codes, top)))
}

/// Reads what was prepared in one call. The kernel copies in that order.
fn read_all<M: Memory + ?Sized>(memory: &M, prepared: &mut [Prepared]) -> Result<(), ReadError> {
    let mut pieces: Vec<Piece<'_>> = prepared
        .iter_mut()
        .map(|prepared| Piece { address: prepared.address, buffer: &mut prepared.bytes, filled: false })
        .collect();
    memory.read_pieces(&mut pieces)?;
    let filled: Vec<bool> = pieces.iter().map(|piece| piece.filled).collect();
    prepared.iter_mut().zip(filled).for_each(|(prepared, filled)| prepared.filled = filled);
    Ok(())
}

/// Waits awake.
pub(crate) fn spin_until(instant: Instant) {
    while Instant::now() < instant {
        std::hint::spin_loop();
    }
}

/// The places of a glance, and behind them those of earlier ones.
fn remember(now: &[Address], before: &[Address], most: usize) -> Vec<Address> {
    let others = before.iter().filter(|place| !now.contains(place));
    now.iter().chain(others).take(most).copied().collect()
}

/// Where the frames of the next glance will lie: about where these lie, of which the first `now` are those of the last one.
fn guess_frames(layout: &Layout, places: &[Address], now: usize, chunk: Option<Address>) -> Vec<(Address, usize)> {
    if layout.iframe.is_none() {
        let length = stack::bytes_of_frame(layout);
        return places.iter().map(|&address| (address, length)).collect();
    }
    let mut guessed: Vec<(Address, usize)> = Vec::new();
    let length = stack::bytes_of_frame(layout);
    let is_in = |at: Address, start: u64, end: u64| at.0 >= start && at.0.saturating_add(length as u64) <= end;
    for (index, &place) in places.iter().enumerate() {
        if guessed.iter().any(|&(start, bytes)| is_in(place, start.0, start.0.saturating_add(bytes as u64))) {
            continue;
        }
        let chunk = chunk.map(|chunk| (chunk.0, chunk.0.saturating_add(CHUNK)));
        match chunk.filter(|&(start, end)| is_in(place, start, end)) {
            Some(_) if index >= now => {}
            // The first of the thread's own, about which the others lie.
            Some((start, end)) => {
                let from = place.0.saturating_sub(BELOW).max(start);
                let until = place.0.saturating_add(ABOVE).min(end);
                guessed.push((Address(from), until.saturating_sub(from) as usize));
            }
            // A generator's frame lies in the generator.
            None => guessed.push((place, length)),
        }
    }
    guessed
}

/// The flag bits cleared from the word at `offset`.
pub(crate) fn link(bytes: &[u8], offset: usize) -> Option<Address> {
    u64_at(bytes, offset).map(|word| Address(word & !GC_FLAG_BITS))
}
