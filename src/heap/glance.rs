//! What is an interpreter doing right now, and which object was born last? One reading of a few microseconds.
//!
//! A *lane* is a collector with the lock that guards it: the main interpreter's, or a sub-interpreter's with its own. A
//! *glance* reads, in one system call as a rule, the lane's lock (who holds it), the holder's topmost frames and the
//! collector's state (the newest object, whether it collects). What will be needed is guessed from the glance before: the
//! same holder, frames about the same place. A wrong guess costs further calls, never a wrong answer.
//!
//! Mirrors `_gil_runtime_state` (`Include/internal/pycore_gil.h`), `_gc_runtime_state` (`Include/internal/pycore_gc.h`,
//! since 3.14 `pycore_interp_structs.h`) and what [`crate::python::stack`] does, v3.8 to v3.15.

use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::python::attach::{Interpreter, Python};
use crate::python::layout::Layout;
use crate::python::proof::{GC_FLAG_BITS, generation_heads};
use crate::python::reader::Reader;
use crate::python::stack::{self, Frame};
use crate::target::Address;
use crate::target::memory::{Memory, MemoryExt, Piece, ReadError, u64_at};
use crate::target::regions::RegionMap;

/// Frames compared between two glances; those below have not moved where these have not.
pub const SHALLOW: usize = 40;
/// Bytes read below and above the topmost frame: some 25 frames, and room for a few calls more.
const BELOW: u64 = 3072;
const ABOVE: u64 = 1024;
/// Frame objects guessed, until 3.10.
const GUESSED: usize = 12;
/// Bytes of a block of the thread's stack of frames (`DATA_STACK_CHUNK_SIZE`, `Python/pystate.c`).
const CHUNK: u64 = 16 << 10;

/// The longest reading whose two looks at the newest object are one instant. It is a matter of our clock alone, so leaving
/// out longer ones favours no function.
const INSTANT_MAX: Duration = Duration::from_micros(20);

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
    /// The lanes of a Python: one for each collector.
    pub fn all<M: Memory + ?Sized>(reader: &Reader<'_, M>, python: &Python) -> Vec<Lane> {
        let mut lanes: Vec<Lane> = Vec::new();
        for interpreter in &python.interpreters {
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

    /// The heads of its lists, youngest first.
    pub fn heads(&self) -> &[Address] {
        &self.heads
    }
}

/// One reading.
#[derive(Clone, Debug)]
pub struct Glance {
    /// When it was made.
    pub at: Instant,
    /// How long the reading took.
    pub took: Duration,
    /// The newest object's GC head; the list's own head where it is empty.
    pub tail: Address,
    /// The same a microsecond before, just before the frames were read.
    pub before: Address,
    /// Whether the same frame was topmost just after that, and all of it took an instant.
    pub is_steady: bool,
    /// Whether the collector runs.
    pub collecting: bool,
    /// Counters that each collection changes.
    pub collections: [u32; 2],
    /// The thread that holds the lock; null where nobody does.
    pub holder: Address,
    /// Whether the holder's objects go into this lane's lists.
    pub is_own: bool,
    /// The holder's frames, topmost first, at most [`SHALLOW`].
    pub frames: Vec<Frame>,
    /// The frame below those.
    pub rest: Address,
}

impl Glance {
    /// Whether two glances found the same thread in the same frames, whatever the line.
    pub fn agrees(&self, other: &Glance) -> bool {
        let same = |(a, b): (&Frame, &Frame)| a.address == b.address && a.code == b.code;
        self.is_known()
            && self.holder == other.holder
            && self.rest == other.rest
            && self.frames.len() == other.frames.len()
            && self.frames.iter().zip(&other.frames).all(same)
    }

    /// Births per microsecond, of so many in its own time.
    pub fn rate(&self, births: usize) -> f64 {
        births as f64 / (self.took.as_secs_f64() * 1e6).max(0.1)
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
    pieces: Vec<Prepared>,
    /// First instructions of code objects seen.
    codes: FxHashMap<Address, Address>,
}

/// What the next glance will need.
#[derive(Default)]
struct Guess {
    thread: Address,
    cframe: Address,
    frames: Vec<(Address, usize)>,
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

impl<M: Memory + ?Sized> Memory for Beside<'_, M> {
    fn read_exact_at(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        for piece in self.pieces.iter().filter(|piece| piece.filled) {
            let at = address.0.checked_sub(piece.address.0).and_then(|at| usize::try_from(at).ok());
            let Some(at) = at else { continue };
            if let Some(bytes) = at.checked_add(buffer.len()).and_then(|end| piece.bytes.get(at..end)) {
                buffer.copy_from_slice(bytes);
                return Ok(());
            }
        }
        self.memory.read_exact_at(address, buffer)
    }

    fn regions(&self) -> &RegionMap {
        self.memory.regions()
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
            pieces: Vec::new(),
            codes,
        }
    }

    /// The memory read with the target's layout.
    pub fn reader(&self) -> Reader<'a, M> {
        Reader { memory: self.memory, layout: self.layout }
    }

    /// Reads.
    ///
    /// # Errors
    /// Where the target cannot be read at all any more, or its collector's state is gone.
    pub fn glance(&mut self) -> Result<Glance, ReadError> {
        let began = Instant::now();
        let last = self.prepare()?;
        let at = Instant::now();
        let layout = self.layout;
        let beside = Beside { memory: self.memory, pieces: self.pieces.get(1..=last).unwrap_or_default() };
        let reader = Reader { memory: &beside, layout };
        let head = *self.lane.heads.first().unwrap_or(&Address::NULL);
        let first = self.pieces.first().filter(|piece| piece.filled);
        let before = first.and_then(|piece| link(&piece.bytes, layout.gc_head.gc_prev)).unwrap_or_default();
        let tail = Address(beside.read_u64(head.offset(layout.gc_head.gc_prev))? & !GC_FLAG_BITS);
        let count = |index: usize| {
            let head = self.lane.heads.get(index).copied().unwrap_or_default();
            beside.read_u32(head.offset(layout.gc_generation.count))
        };
        let collections = [count(1)?, count(2)?];
        let collecting = beside.read_u32(self.lane.interpreter.gc.offset(layout.gc.collecting))? != 0;
        let locked = beside.read_u32(self.lane.gil.offset(layout.gil.locked))? == 1;
        let holder = if locked { reader.pointer(self.lane.gil, layout.gil.last_holder)? } else { Address::NULL };
        let took = at.duration_since(began);
        let mut glance = Glance {
            at,
            took,
            tail,
            before,
            is_steady: false,
            collecting,
            collections,
            holder,
            is_own: false,
            frames: Vec::with_capacity(SHALLOW),
            rest: Address::NULL,
        };
        if holder.is_null() {
            return Ok(glance);
        }
        // The holder may have ended since: then its state cannot be read, and nothing is known.
        let Ok(interpreter) = reader.pointer(holder, layout.thread.interp) else { return Ok(glance) };
        glance.is_own = self.lane.serves_all || interpreter == self.lane.interpreter.address;
        let mut next = stack::top(&reader, holder).unwrap_or_default();
        // Where we lost the processor in the middle, functions may have returned and been called again.
        glance.is_steady = took <= INSTANT_MAX && self.guess.thread == holder && self.top_after(last) == Some(next);
        let mut bytes = vec![0; stack::bytes_of_frame(layout)];
        let mut places: Vec<Address> = Vec::new();
        let mut steps = 0;
        while !next.is_null() && glance.frames.len() < SHALLOW && steps < 2 * SHALLOW {
            steps += 1;
            if beside.read_exact_at(next, &mut bytes).is_err() {
                break;
            }
            let codes = std::cell::RefCell::new(&mut self.codes);
            let first = |code: Address| {
                if let Some(&first) = codes.borrow().get(&code) {
                    return Some(first);
                }
                let first = stack::first_instruction(&reader, next, code)?;
                codes.borrow_mut().insert(code, first);
                Some(first)
            };
            let Some((frame, previous)) = stack::parse(layout, next, &bytes, &first) else { break };
            places.push(next);
            glance.frames.extend(frame);
            next = previous;
        }
        glance.rest = next;
        let cframe = match (layout.thread.current_frame, layout.thread.cframe) {
            (None, Some(offset)) if layout.iframe.is_some() => reader.pointer(holder, offset).unwrap_or_default(),
            _ => Address::NULL,
        };
        let chunk = layout.thread.datastack_chunk.and_then(|offset| reader.pointer(holder, offset).ok());
        self.guess = Guess { thread: holder, cframe, frames: guess_frames(layout, &places, chunk) };
        Ok(glance)
    }

    /// The topmost frame as it was read last, behind the piece at `last`.
    fn top_after(&self, last: usize) -> Option<Address> {
        let word = |piece: usize, offset: usize| {
            let piece = self.pieces.get(piece).filter(|piece| piece.filled)?;
            u64_at(&piece.bytes, offset).map(Address)
        };
        let thread = &self.layout.thread;
        match (&self.layout.iframe, thread.current_frame, thread.cframe, &self.layout.cframe) {
            (Some(_), Some(offset), _, _) => word(last + 1, offset),
            (Some(_), None, Some(offset), Some(cframe)) => {
                (word(last + 1, offset)? == self.guess.cframe).then(|| word(last + 2, cframe.current_frame))?
            }
            _ => word(last + 1, thread.frame?),
        }
    }

    /// Reads all that is guessed in one call: the newest object, the lock and the frames, the collector, and then once
    /// more which frame is topmost. The kernel copies in that order. Returns which piece is the collector's.
    fn prepare(&mut self) -> Result<usize, ReadError> {
        let layout = self.layout;
        let thread = &layout.thread;
        let thread_bytes =
            [thread.frame, thread.cframe, thread.current_frame, thread.datastack_chunk, Some(thread.interp)]
                .into_iter()
                .flatten()
                .max()
                .unwrap_or(0)
                + 8;
        let head = *self.lane.heads.first().unwrap_or(&Address::NULL);
        let mut wanted = vec![(head, layout.gc_head.gc_prev + 8)];
        wanted.push((self.lane.gil, layout.gil.locked.max(layout.gil.last_holder) + 8));
        if !self.guess.thread.is_null() {
            wanted.push((self.guess.thread, thread_bytes));
        }
        if let (false, Some(cframe)) = (self.guess.cframe.is_null(), &layout.cframe) {
            wanted.push((self.guess.cframe, cframe.current_frame + 8));
        }
        wanted.extend(&self.guess.frames);
        wanted.push((self.lane.interpreter.gc, layout.gc.size));
        let last = wanted.len() - 1;
        if !self.guess.thread.is_null() {
            wanted.push((self.guess.thread, thread_bytes));
            if let (false, Some(cframe)) = (self.guess.cframe.is_null(), &layout.cframe) {
                wanted.push((self.guess.cframe, cframe.current_frame + 8));
            }
        }
        self.pieces.resize_with(wanted.len(), || Prepared { address: Address::NULL, bytes: Vec::new(), filled: false });
        for (prepared, (address, length)) in self.pieces.iter_mut().zip(wanted) {
            prepared.address = address;
            prepared.bytes.resize(length, 0);
        }
        let mut pieces: Vec<Piece<'_>> = self
            .pieces
            .iter_mut()
            .map(|prepared| Piece { address: prepared.address, buffer: &mut prepared.bytes, filled: false })
            .collect();
        self.memory.read_pieces(&mut pieces)?;
        let filled: Vec<bool> = pieces.iter().map(|piece| piece.filled).collect();
        self.pieces.iter_mut().zip(filled).for_each(|(prepared, filled)| prepared.filled = filled);
        Ok(last)
    }
}

/// Where the frames of the next glance will lie: about where these lie.
fn guess_frames(layout: &Layout, places: &[Address], chunk: Option<Address>) -> Vec<(Address, usize)> {
    if layout.iframe.is_none() {
        let length = stack::bytes_of_frame(layout);
        return places.iter().take(GUESSED).map(|&address| (address, length)).collect();
    }
    let mut guessed = Vec::new();
    let Some(&top) = places.first() else { return guessed };
    let (mut start, mut end) = (top.0.saturating_sub(BELOW), top.0.saturating_add(ABOVE));
    match chunk {
        Some(chunk) if (chunk.0..chunk.0.saturating_add(CHUNK)).contains(&top.0) => {
            (start, end) = (start.max(chunk.0), end.min(chunk.0.saturating_add(CHUNK)));
        }
        // A generator's frame lies in the generator; its caller's among the thread's.
        _ => {
            (start, end) = (top.0, top.0.saturating_add(stack::bytes_of_frame(layout) as u64));
            if let (Some(chunk), Some(caller)) = (chunk, places.get(1))
                && (chunk.0..chunk.0.saturating_add(CHUNK)).contains(&caller.0)
            {
                let from = caller.0.saturating_sub(BELOW).max(chunk.0);
                let until = caller.0.saturating_add(ABOVE).min(chunk.0.saturating_add(CHUNK));
                guessed.push((Address(from), (until - from) as usize));
            }
        }
    }
    guessed.push((Address(start), end.saturating_sub(start) as usize));
    guessed
}

/// The flag bits cleared from the word at `offset`.
pub(super) fn link(bytes: &[u8], offset: usize) -> Option<Address> {
    u64_at(bytes, offset).map(|word| Address(word & !GC_FLAG_BITS))
}
