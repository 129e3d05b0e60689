//! Finds the frames of suspended greenlets.
//!
//! A greenlet (gevent, eventlet, SQLAlchemy's asyncio bridge) that is not running keeps its topmost frame in a C++
//! object, which no list of CPython's includes. A running greenlet has no frame there: its frames are its thread's. The
//! offset of the frame in that object is not assumed: the object is recognized by its pointer back to the greenlet, and
//! the frame by its type.
//!
//! Mirrors `PyGreenlet` (`src/greenlet/greenlet.h`) and `greenlet::Greenlet` (`src/greenlet/TGreenlet.hpp`), greenlet
//! 2.0 to 3.5; until 1.1 the frame was in the `PyGreenlet` itself.

use rustc_hash::FxHashSet;

use crate::heap::object_table::Objects;
use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt, u64_at};
use crate::python::interpreter::Python;
use crate::python::reader::Reader;
use crate::python::types::{TypeId, TypeInfo, TypeTable};
use crate::references::References;

use super::{Finder, FoundRoots, RootKind};

/// Upper bound on the chain of base types.
const BASES_MAX: usize = 64;
/// Bytes of a greenlet's C++ object that are searched for the frame: it follows the exception state, the arguments and
/// the stack, at byte 120 at most (3.8). Every such object has at least this size.
const STATE_BYTES: usize = 160;
/// The pointer back is the object's first word, or the second after a virtual table pointer.
const SELF_WORDS: usize = 2;
/// Bytes of a greenlet that are searched; in every version until 1.1 its body is shorter.
const BODY_MAX: u64 = 256;

/// Finds the frames of greenlets that are not running.
pub fn greenlets<M: Memory + ?Sized>(
    memory: &M,
    python: &Python,
    types: &TypeTable,
    references: &References<'_, M>,
    objects: &Objects,
) -> FoundRoots {
    let mut finder = Finder::new(Reader { memory, layout: &python.layout }, types, references);
    let Some(kinds) = Kinds::find(&finder) else { return FoundRoots::default() };
    let is_greenlet = |id: &usize| kinds.greenlets.contains(&objects.type_id(*id));
    let greenlets = (0..objects.len()).filter(is_greenlet);
    for (index, id) in greenlets.enumerate() {
        let size = objects.size(id).min(BODY_MAX);
        if let Some(frame) = finder.top_frame(objects, &kinds, objects.address(id), size) {
            finder.greenlet(frame, &format!("greenlet {}", index + 1));
        }
    }
    finder.found
}

/// The types involved.
struct Kinds {
    greenlets: FxHashSet<TypeId>,
    frame: TypeId,
}

impl Kinds {
    /// `None` if the program has no greenlets.
    fn find<M: Memory + ?Sized>(finder: &Finder<'_, M>) -> Option<Kinds> {
        let is_base = |info: &TypeInfo| info.full_name() == "greenlet.greenlet";
        let bases = finder.types.iter().filter(|(_, info)| is_base(info)).map(|(_, info)| info.address);
        let bases: FxHashSet<Address> = bases.collect();
        if bases.is_empty() {
            return None;
        }
        let tp_base = finder.reader.layout.type_object.tp_base;
        let descends = |address: Address| {
            let next = |at: &Address| Some(finder.pointer(*at, tp_base)).filter(|base| !base.is_null());
            std::iter::successors(Some(address), next).take(BASES_MAX).any(|at| bases.contains(&at))
        };
        let greenlets = finder.types.iter().filter(|(_, info)| descends(info.address)).map(|(id, _)| id).collect();
        let frame = finder.types.iter().find(|(_, info)| info.full_name() == "builtins.frame");
        Some(Kinds { greenlets, frame: frame?.0 })
    }
}

impl<M: Memory + ?Sized> Finder<'_, M> {
    /// The frame object at the top of a greenlet's stack. `None` if it is running, has not started or has ended.
    fn top_frame(&self, objects: &Objects, kinds: &Kinds, greenlet: Address, size: u64) -> Option<Address> {
        let memory = self.reader.memory;
        let is_frame =
            |word: &Address| objects.find(word.0).is_some_and(|id| objects.type_id(id as usize) == kinds.frame);
        let words = |bytes: &[u8]| -> Vec<Address> {
            (0..bytes.len() / 8).filter_map(|index| u64_at(bytes, 8 * index)).map(Address).collect()
        };
        let body = words(&memory.read_bytes(greenlet, size, BODY_MAX as usize, "greenlet").ok()?);
        if let Some(frame) = body.iter().copied().find(is_frame) {
            return Some(frame);
        }
        body.into_iter().filter(|word| word.0.is_multiple_of(8) && !word.is_null()).find_map(|word| {
            let state = words(&memory.read_bytes(word, STATE_BYTES as u64, STATE_BYTES, "greenlet").ok()?);
            let is_own = state.iter().take(SELF_WORDS).any(|&back| back == greenlet);
            if is_own { state.into_iter().find(is_frame) } else { None }
        })
    }

    fn greenlet(&mut self, top: Address, name: &str) {
        let layout = self.reader.layout;
        let (Some(f_frame), Some(iframe)) = (layout.frame.f_frame, &layout.iframe) else {
            // The topmost frame object belongs to the greenlet, each other one to the frame above it.
            for (index, frame) in self.frames_from(top).into_iter().enumerate() {
                let function = format!("{name}, {}", self.place(frame));
                self.add(frame.address, RootKind::Frame, function, index == 0);
            }
            return;
        };
        let first = self.pointer(top, f_frame);
        // The interpreter frame must point back to the frame object, unless it has ended.
        if first.is_null() || self.pointer(first, iframe.frame_obj) != top {
            return;
        }
        let frames = self.frames_from(first);
        for (index, frame) in frames.into_iter().enumerate() {
            let function = format!("{name}, {}", self.place(frame));
            if index == 0 {
                // The greenlet's own reference.
                self.add(top, RootKind::Frame, function.clone(), true);
            }
            self.interpreter_frame(frame, &function);
        }
    }
}
