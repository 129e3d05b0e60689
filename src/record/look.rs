//! What stands at the tail of a collector's youngest list now, and on which stack is Python code running?
//!
//! The collector links each new object in at that tail, so a tail that has moved is a birth. The thread is the one that
//! held the lock last, whether it still holds it or not: a program that goes to sleep has released it by the time that
//! the birth is seen. The time from one look to the next bounds how long ago that was; judging it is the caller's.
//!
//! A chain of frames that leads to the root of its thread is whole. A suspended coroutine's frame has no caller, so it
//! ends a chain that looks whole; it is told by the root, which is compared with the thread's last one.
//!
//! Mirrors `gc_list_append` (`Python/gc.c`, until 3.12 `Modules/gcmodule.c`) and what [`crate::python::stack`] does,
//! v3.8 to v3.15.

use rustc_hash::FxHashMap;

use crate::process::Address;
use crate::process::memory::{Memory, Piece, ReadError, u32_at, u64_at};
use crate::process::regions::RegionMap;
use crate::python::gc_links::link;
use crate::python::layout::Layout;
use crate::python::reader::Reader;
use crate::python::stack::{self, StackFrame};

use super::lane::Lane;

/// Bytes that are read of a thread's own frames at once, which lie side by side since 3.11: some thirty frames.
const BLOCK: u64 = 4096;
/// Of these, above the topmost frame: calls begin between two looks.
const ABOVE: u64 = 1024;
/// Bytes of the collector's state, and of the lock's, at most.
const STATE_MAX: usize = 1024;
const LOCK_MAX: usize = 64;
/// Frames read at each look. Those below are read once while the first of them stays where it is, on the same
/// instruction: it waits for a call, and so do they.
const SHALLOW: usize = 24;
/// Frames kept of one stack: the deepest that a person can read. Deeper ones lose those at the root.
const DEPTH_MAX: usize = 4096;
/// Bytes read of a thread's state at most; all needed fields are below.
const THREAD_MAX: usize = 1024;
/// Tries to read a chain that leads to the thread's root.
const TRIES: usize = 3;
/// Code objects and deep chains remembered at most; then all are forgotten, as code may be freed.
const REMEMBERED_MAX: usize = 1 << 16;

/// The tail of the youngest list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The newest object's GC head; the list's own head where the list is empty.
    pub head: Address,
    /// Whether a collection is under way.
    pub is_collecting: bool,
    /// Whether a thread holds the lock.
    pub is_locked: bool,
}

/// The stack of the thread that held the lock last.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RunningStack {
    /// `PyThreadState *`.
    pub thread: Address,
    /// Its frames, topmost first, down to its root.
    pub frames: Vec<StackFrame>,
}

/// Looks at one lane.
#[derive(Debug)]
pub struct Looker {
    /// The lane.
    pub lane: Lane,
    guess: Guess,
    /// First instructions of code objects; `None` for what is not code.
    codes: FxHashMap<Address, Option<Address>>,
    /// Frames below the first [`SHALLOW`] ones, by the first of them.
    below: FxHashMap<StackFrame, Vec<StackFrame>>,
    /// The frame below each shim of C code, which lies apart: by its address and the frame above it.
    shims: FxHashMap<(Address, Address), Address>,
    /// The lowest frame of each thread.
    roots: FxHashMap<Address, Address>,
}

/// What the next look will need.
#[derive(Clone, Copy, Debug, Default)]
struct Guess {
    thread: Address,
    /// Where the topmost frame's address is, in 3.11 and 3.12.
    cframe: Address,
    /// Where its frames are.
    block: Address,
}

/// Bytes that were read.
struct ReadPart {
    start: Address,
    bytes: Vec<u8>,
}

/// A memory of which some parts were read at once.
struct Parts<'a, M: Memory + ?Sized> {
    memory: &'a M,
    parts: Vec<ReadPart>,
}

impl<M: Memory + ?Sized> Parts<'_, M> {
    fn find(&self, address: Address, length: usize) -> Option<&[u8]> {
        self.parts.iter().find_map(|part| {
            let at = usize::try_from(address.0.checked_sub(part.start.0)?).ok()?;
            part.bytes.get(at..at.checked_add(length)?)
        })
    }

    /// Reads so many bytes, unless they are here. Of frames in `chunk`, the block of the thread's own, those below are
    /// read with it. A frame outside belongs to a generator and lies alone.
    fn cover(&mut self, address: Address, length: usize, chunk: Option<(Address, Address)>) -> Result<(), ReadError> {
        if self.find(address, length).is_some() {
            return Ok(());
        }
        // What was read while it changed leads anywhere.
        let end = address.0.checked_add(length as u64).map(Address);
        let Some(end) = end else { return Err(ReadError::Unreadable { address, length }) };
        let start = match chunk.filter(|&(first, last)| address >= first && end <= last) {
            Some((first, _)) => Address(end.0.saturating_sub(BLOCK)).max(first),
            None => address,
        };
        let mut bytes = vec![0; (end.0 - start.0) as usize];
        self.memory.read_exact_at(start, &mut bytes)?;
        self.parts.push(ReadPart { start, bytes });
        Ok(())
    }
}

impl<M: Memory + ?Sized> Memory for Parts<'_, M> {
    fn read_exact_at(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        match self.find(address, buffer.len()) {
            Some(bytes) => buffer.copy_from_slice(bytes),
            None => return self.memory.read_exact_at(address, buffer),
        }
        Ok(())
    }

    fn regions(&self) -> &RegionMap {
        self.memory.regions()
    }
}

impl Looker {
    /// A looker that has not seen anything yet.
    pub fn new(lane: Lane) -> Looker {
        let (guess, codes, below, shims, roots) = Default::default();
        Looker { lane, guess, codes, below, shims, roots }
    }

    /// Forgets what may not hold from one window to the next: code and threads end, and others take their places.
    pub fn forget(&mut self) {
        self.below.clear();
        self.shims.clear();
        self.roots.clear();
        if self.codes.len() > REMEMBERED_MAX {
            self.codes.clear();
        }
    }

    /// The tail alone.
    ///
    /// # Errors
    /// Where the target cannot be read at all any more, or its collector's state is gone.
    pub fn poll<M: Memory + ?Sized>(&self, reader: &Reader<'_, M>) -> Result<Tail, ReadError> {
        let (start, length) = self.state(reader.layout);
        let (mut state, mut lock) = ([0; STATE_MAX], [0; LOCK_MAX]);
        let unreadable = ReadError::Unreadable { address: start, length };
        let (Some(state), Some(lock)) = (state.get_mut(..length), lock.get_mut(..bytes_of_lock(reader.layout))) else {
            return Err(unreadable);
        };
        let piece = |(address, buffer)| Piece { address, buffer, filled: false };
        let mut pieces = [(start, &mut *state), (self.lane.gil, &mut *lock)].map(piece);
        reader.memory.read_at_once(&mut pieces)?;
        if pieces.iter().any(|piece| !piece.filled) {
            return Err(unreadable);
        }
        Ok(self.tail_in(reader.layout, start, state, lock))
    }

    /// The tail, and the stack of the thread that held the lock last, by one system call where the thread and the place
    /// of its frames are as they were. The stack is `None` where no Python code runs, its chain of frames is torn, or
    /// the thread belongs to another collector.
    ///
    /// # Errors
    /// Where the target cannot be read at all any more, or its collector's state is gone.
    pub fn look<M: Memory + ?Sized>(
        &mut self,
        reader: &Reader<'_, M>,
    ) -> Result<(Tail, Option<RunningStack>), ReadError> {
        let (memory, layout) = (reader.memory, reader.layout);
        let (start, length) = self.state(layout);
        let Guess { thread, cframe, block } = self.guess;
        // The kernel copies in this order. What is new at the tail was made since the tail was read the last time: the
        // stack is to be from between the two, not from after them. A null address would end the call.
        let guessed = [(thread, bytes_of_thread(layout)), (cframe, 8), (block, BLOCK as usize)];
        let guessed = guessed.into_iter().filter(|(address, _)| !address.is_null());
        let wanted = std::iter::once((self.lane.gil, bytes_of_lock(layout))).chain(guessed).chain([(start, length)]);
        let mut parts: Vec<ReadPart> =
            wanted.map(|(start, length)| ReadPart { start, bytes: vec![0; length.min(BLOCK as usize)] }).collect();
        let filled: Vec<bool> = {
            let pieces = parts.iter_mut();
            let mut pieces: Vec<Piece<'_>> =
                pieces.map(|part| Piece { address: part.start, buffer: &mut part.bytes, filled: false }).collect();
            memory.read_at_once(&mut pieces)?;
            pieces.iter().map(|piece| piece.filled).collect()
        };
        let unreadable = ReadError::Unreadable { address: start, length };
        let (Some(lock), Some(state)) = (parts.first(), parts.last()) else { return Err(unreadable) };
        if filled.first() != Some(&true) || filled.last() != Some(&true) {
            return Err(unreadable);
        }
        let tail = self.tail_in(layout, start, &state.bytes, &lock.bytes);
        let mut is_filled = filled.into_iter();
        parts.retain(|_| is_filled.next().unwrap_or(false));
        let mut block = Parts { memory, parts };
        let mut before = None;
        for attempt in 0..TRIES {
            if attempt > 0 {
                block.parts.clear();
            }
            let running = match self.chain(layout, &mut block) {
                Ok(running) => running,
                Err(error) if error.is_final() => return Err(error),
                Err(_) => None,
            };
            let Some(running) = running else { continue };
            let Some(root) = running.frames.last().map(|frame| frame.address) else { continue };
            // Another root than the last time is believed once it is met twice.
            if self.roots.get(&running.thread).is_none_or(|&known| known == root) || before == Some(root) {
                self.roots.insert(running.thread, root);
                return Ok((tail, Some(running)));
            }
            before = Some(root);
        }
        Ok((tail, None))
    }

    /// Where the collector's state is: the newest object, and whether it collects.
    fn state(&self, layout: &Layout) -> (Address, usize) {
        let last = self.lane.heads[0].offset(layout.gc_head.gc_prev);
        let collecting = self.lane.interpreter.gc.offset(layout.gc.collecting);
        let (start, end) = (last.min(collecting), last.max(collecting).offset(8));
        (start, usize::try_from(end.0.saturating_sub(start.0)).unwrap_or(usize::MAX))
    }

    fn tail_in(&self, layout: &Layout, start: Address, bytes: &[u8], lock: &[u8]) -> Tail {
        let word = |at: Address| u64_at(bytes, at.0.saturating_sub(start.0) as usize).unwrap_or(0);
        let head = link(word(self.lane.heads[0].offset(layout.gc_head.gc_prev)));
        let collecting = self.lane.interpreter.gc.offset(layout.gc.collecting);
        let is_locked = u32_at(lock, layout.gil.locked).is_some_and(|locked| locked == 1);
        Tail { head, is_collecting: word(collecting) as u32 != 0, is_locked }
    }

    fn chain<M: Memory + ?Sized>(
        &mut self,
        layout: &Layout,
        parts: &mut Parts<'_, M>,
    ) -> Result<Option<RunningStack>, ReadError> {
        let thread = Reader { memory: &*parts, layout }.pointer(self.lane.gil, layout.gil.last_holder)?;
        if thread.is_null() {
            return Ok(None);
        }
        parts.cover(thread, bytes_of_thread(layout), None)?;
        let state = Reader { memory: &*parts, layout };
        if !self.lane.serves_all && state.pointer(thread, layout.thread.interp)? != self.lane.interpreter.address {
            return Ok(None);
        }
        let top = stack::top(&state, thread)?;
        let cframe = match (layout.thread.current_frame, layout.thread.cframe, &layout.iframe) {
            (None, Some(offset), Some(_)) => state.pointer(thread, offset)?,
            _ => Address::NULL,
        };
        let chunk = match (layout.thread.datastack_chunk, layout.thread.datastack_limit, &layout.iframe) {
            (Some(chunk), Some(limit), Some(_)) => Some((state.pointer(thread, chunk)?, state.pointer(thread, limit)?)),
            _ => None,
        };
        // Calls that return and begin move the topmost frame a little.
        let block = chunk.filter(|&(start, end)| top >= start && top < end).map(|(start, end)| {
            let highest = end.0.saturating_sub(BLOCK);
            Address((top.0.saturating_add(ABOVE)).saturating_sub(BLOCK).min(highest).max(start.0))
        });
        self.guess = Guess { thread, cframe, block: block.unwrap_or_default() };
        let frames = self.frames_from(layout, parts, top, chunk);
        Ok(frames.filter(|frames| !frames.is_empty()).map(|frames| RunningStack { thread, frames }))
    }

    /// The frames from `top` to the root. `None` where one cannot be read.
    fn frames_from<M: Memory + ?Sized>(
        &mut self,
        layout: &Layout,
        parts: &mut Parts<'_, M>,
        top: Address,
        chunk: Option<(Address, Address)>,
    ) -> Option<Vec<StackFrame>> {
        let length = stack::bytes_of_frame(layout);
        let mut bytes = vec![0; length];
        let (mut frames, mut next, mut steps): (Vec<StackFrame>, _, _) = (Vec::new(), top, 0);
        while !next.is_null() && frames.len() < DEPTH_MAX {
            steps += 1;
            if steps > 2 * DEPTH_MAX {
                return None;
            }
            let above = frames.last().map_or(Address::NULL, |frame| frame.address);
            if let Some(&below) = self.shims.get(&(next, above)) {
                next = below;
                continue;
            }
            parts.cover(next, length, chunk).ok()?;
            parts.read_exact_at(next, &mut bytes).ok()?;
            let reader = &Reader { memory: parts.memory, layout };
            let codes = std::cell::RefCell::new(&mut self.codes);
            let first = |code: Address| {
                let known = codes.borrow().get(&code).copied();
                known.unwrap_or_else(|| {
                    let first = stack::first_instruction(reader, next, code);
                    codes.borrow_mut().insert(code, first);
                    first
                })
            };
            let (frame, previous) = stack::parse(layout, next, &bytes, &first)?;
            if let Some(frame) = frame {
                if frames.len() == SHALLOW
                    && let Some(below) = self.below.get(&frame)
                {
                    frames.extend(below);
                    return Some(frames);
                }
                // Until 3.10 a frame is an object that names its code; what is not code is another object by now.
                if layout.iframe.is_none() && !self.is_code(reader, frame.code) {
                    return None;
                }
                frames.push(frame);
            } else if self.shims.len() < REMEMBERED_MAX && chunk.is_some_and(|(start, end)| next < start || next > end)
            {
                self.shims.insert((next, above), previous);
            }
            next = previous;
        }
        if let Some(&first) = frames.get(SHALLOW)
            && self.below.len() < REMEMBERED_MAX
        {
            self.below.insert(first, frames[SHALLOW..].to_vec());
        }
        Some(frames)
    }

    fn is_code<M: Memory + ?Sized>(&mut self, reader: &Reader<'_, M>, code: Address) -> bool {
        let is_code = || (!code.is_null() && reader.is_a(code, "code")).then_some(code);
        self.codes.entry(code).or_insert_with(is_code).is_some()
    }
}

/// Bytes of a lock that are needed.
fn bytes_of_lock(layout: &Layout) -> usize {
    layout.gil.last_holder.max(layout.gil.locked).saturating_add(8).min(LOCK_MAX)
}

/// Bytes of a thread's state that are needed.
fn bytes_of_thread(layout: &Layout) -> usize {
    let thread = &layout.thread;
    let fields = [thread.frame, thread.cframe, thread.current_frame, thread.datastack_chunk, thread.datastack_limit];
    (fields.into_iter().flatten().chain([thread.interp]).max().unwrap_or(0) + 8).min(THREAD_MAX)
}
