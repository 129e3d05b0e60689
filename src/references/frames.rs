//! Follows references of frames, generators, coroutines and code.
//!
//! Mirrors `gen_traverse` (`Objects/genobject.c`), `frame_traverse` (`Objects/frameobject.c`) and `_PyFrame_Traverse`
//! (`Python/frame.c`), v3.8 to v3.15. A running frame belongs to its thread, not to the frame object that represents
//! it.

use crate::process::Address;
use crate::process::memory::{Memory, u32_at};
use crate::python::identifier::{self, HIDDEN};
use crate::python::reader::{NAME_LENGTH_MAX, Reader};
use crate::python::types::TypeId;

use super::storage::Storage;
use super::{Label, Reads, References, Subject};

/// Upper bound on the slots of a frame: locals and stack.
const SLOTS_MAX: u64 = 1 << 20;

impl<M: Memory + ?Sized> References<'_, M> {
    pub(super) fn generator(&self, reads: &Reads, object: Address, visit: &mut impl FnMut(u64, Label)) {
        let generator = &self.layout.generator;
        let (Some(frame), Some(state)) = (generator.gi_iframe, generator.gi_frame_state) else { return };
        let (Some(state), Some(states)) = (self.byte(reads, object, state), &self.layout.constants.frame_state) else {
            return;
        };
        let frame = object.offset(frame);
        if i64::from(state as i8) != states.cleared {
            self.interpreter_frame(reads, frame, visit);
        } else if self.layout.constants.stackref_tag_mask != 0 {
            // Since 3.14 a finished generator keeps its code.
            self.executable(reads, frame, visit);
        }
    }

    pub(super) fn frame(&self, reads: &Reads, object: Address, visit: &mut impl FnMut(u64, Label)) {
        let layout = &self.layout.frame;
        if let (Some(f_frame), Some(iframe), Some(owners)) =
            (layout.f_frame, &self.layout.iframe, &self.layout.constants.frame_owner)
        {
            let Some(frame) = self.word(reads, object, f_frame).map(Address) else { return };
            match self.byte(reads, frame, iframe.owner) {
                Some(owner) if i64::from(owner) == owners.frame_object => self.interpreter_frame(reads, frame, visit),
                _ => return,
            }
            return;
        }
        self.old_frame(reads, object, visit);
    }

    /// Until 3.10: locals, cells and free variables, then the stack, after the fixed part.
    fn old_frame(&self, reads: &Reads, object: Address, visit: &mut impl FnMut(u64, Label)) {
        let layout = &self.layout.frame;
        let (Some(locals), Some(valuestack)) = (layout.f_localsplus, layout.f_valuestack) else { return };
        let Some(stack) = self.word(reads, object, valuestack) else { return };
        let first = object.offset(locals);
        let Some(slots) = stack.checked_sub(first.0).map(|bytes| bytes / 8).filter(|&slots| slots <= SLOTS_MAX) else {
            return reads.tear();
        };
        self.for_each_word(reads, first, slots, &mut |index, word| {
            if word != 0 {
                visit(word, Label::Local(index as u32));
            }
        });
        let depth = match (layout.f_stacktop, layout.f_stackdepth) {
            (Some(offset), _) => {
                self.word(reads, object, offset).and_then(|top| top.checked_sub(stack)).unwrap_or(0) / 8
            }
            (None, Some(offset)) => {
                self.word(reads, object, offset).map_or(0, |depth| u64::try_from(depth as i32).unwrap_or(0))
            }
            (None, None) => 0,
        };
        self.stack_words(reads, Address(stack), depth.min(SLOTS_MAX), visit);
    }

    fn stack_words(&self, reads: &Reads, start: Address, count: u64, visit: &mut impl FnMut(u64, Label)) {
        self.for_each_word(reads, start, count, &mut |_, word| self.stack_reference(word, Label::Stack, visit));
    }

    /// A word of a frame. Since 3.14 it may be tagged: a borrowed reference, an integer, or NULL.
    fn stack_reference(&self, word: u64, label: Label, visit: &mut impl FnMut(u64, Label)) {
        let constants = &self.layout.constants;
        let mask = constants.stackref_tag_mask;
        if mask == 0 || word & mask == 0 {
            if word != 0 {
                visit(word, label);
            }
        } else if word != constants.stackref_null && word & mask != mask {
            // A deferred reference: its origin keeps the object alive, and the collector attributes it to this frame,
            // too.
            visit(word & !mask, label);
        }
    }

    fn executable(&self, reads: &Reads, frame: Address, visit: &mut impl FnMut(u64, Label)) -> Option<Address> {
        let word = self.word(reads, frame, self.layout.iframe.as_ref()?.executable)?;
        self.stack_reference(word, Label::Named("f_code"), visit);
        Some(Address(word & !self.layout.constants.stackref_tag_mask))
    }

    /// The references owned by an interpreter frame (3.11+).
    pub(super) fn interpreter_frame(&self, reads: &Reads, frame: Address, visit: &mut impl FnMut(u64, Label)) {
        let Some(layout) = &self.layout.iframe else { return };
        let Some(code) = self.executable(reads, frame, visit) else { return };
        for offset in [layout.f_func, layout.f_funcobj].into_iter().flatten() {
            if let Some(word) = self.word(reads, frame, offset) {
                self.stack_reference(word, Label::Named("f_func"), visit);
            }
        }
        for (offset, name) in [(layout.f_locals, "f_locals"), (layout.frame_obj, "f_frame")] {
            if let Some(word) = self.word(reads, frame, offset).filter(|&word| word != 0) {
                visit(word, Label::Named(name));
            }
        }
        let Some(locals) = self.locals_of(reads, code) else { return };
        let first = frame.offset(layout.localsplus);
        self.for_each_word(reads, first, locals, &mut |index, word| {
            self.stack_reference(word, Label::Local(index as u32), visit);
        });
        let top = match (layout.stackpointer, layout.stacktop) {
            (Some(offset), _) => self
                .word(reads, frame, offset)
                .and_then(|pointer| pointer.checked_sub(first.0))
                .map_or(0, |bytes| bytes / 8),
            (None, Some(offset)) => self.stacktop(reads, frame, offset),
            (None, None) => 0,
        };
        if let Some(depth) = top.checked_sub(locals).filter(|&depth| depth > 0 && depth <= SLOTS_MAX) {
            self.stack_words(reads, first.offset(8 * locals as usize), depth, visit);
        }
    }

    /// Number of slots in use; -1 while the frame is running.
    fn stacktop(&self, reads: &Reads, frame: Address, offset: usize) -> u64 {
        let mut bytes = [0; 4];
        if self.memory.read_exact_at(frame.offset(offset), &mut bytes).is_err() {
            reads.tear();
        }
        u32_at(&bytes, 0).and_then(|top| u64::try_from(top as i32).ok()).unwrap_or(0)
    }

    /// Locals, cells and free variables of a code object (3.11+).
    fn locals_of(&self, reads: &Reads, code: Address) -> Option<u64> {
        let mut bytes = [0; 4];
        let offset = self.layout.code.co_nlocalsplus?;
        if code.is_null() || self.memory.read_exact_at(code.offset(offset), &mut bytes).is_err() {
            reads.tear();
            return None;
        }
        Some(u64::from(u32::from_le_bytes(bytes))).filter(|&locals| locals <= SLOTS_MAX)
    }

    /// The fields of a code object, and since 3.12 a separate struct of objects made on demand (`_PyCoCached`).
    pub(super) fn code(&self, reads: &Reads, subject: &Subject<'_>, visit: &mut impl FnMut(u64, Label)) {
        /// `_co_code`, `_co_varnames`, `_co_cellvars`, `_co_freevars`, as Python shows them.
        const CACHED: [&str; 4] = ["co_code", "co_varnames", "co_cellvars", "co_freevars"];
        let object = subject.address;
        for &(offset, _) in &subject.rule.names {
            if let Some(word) = self.word(reads, object, offset as usize).filter(|&word| word != 0) {
                visit(word, Label::Field(offset));
            }
        }
        let Some(offset) = self.layout.code._co_cached else { return };
        match self.word(reads, object, offset) {
            Some(cached) if cached != 0 => {
                self.for_each_word(reads, Address(cached), CACHED.len() as u64, &mut |index, word| {
                    visit(word, Label::Named(CACHED.get(index as usize).copied().unwrap_or_default()));
                });
            }
            _ => {}
        }
    }

    /// The name of a local variable of a frame object, a generator or a coroutine.
    pub fn local_name(&self, object: Address, type_id: TypeId, index: u32) -> Option<String> {
        let reader = Reader { memory: self.memory, layout: self.layout };
        let pointer = |base: Address, offset: usize| reader.pointer(base, offset).ok().filter(|at| !at.is_null());
        let (frame, generator) = (&self.layout.frame, &self.layout.generator);
        let running = match self.rules.get(type_id.index())?.storage {
            Storage::Generator => generator.gi_iframe.map(|offset| object.offset(offset)),
            Storage::Frame => frame.f_frame.and_then(|offset| pointer(object, offset)),
            _ => return None,
        };
        let code = match (running, &self.layout.iframe, frame.f_code) {
            (Some(running), Some(layout), _) => {
                Address(pointer(running, layout.executable)?.0 & !self.layout.constants.stackref_tag_mask)
            }
            (None, _, Some(offset)) => pointer(object, offset)?,
            _ => return None,
        };
        self.name_of_local(code, index)
    }

    /// The name of the n-th local variable of a code object; cells and free variables are included.
    pub fn name_of_local(&self, code: Address, index: u32) -> Option<String> {
        let reader = Reader { memory: self.memory, layout: self.layout };
        let layout = &self.layout.code;
        // Since 3.11 one tuple; before, one tuple per kind of variable.
        let tuples = match layout.co_localsplusnames {
            Some(offset) => vec![offset],
            None => [layout.co_varnames, layout.co_cellvars, layout.co_freevars].into_iter().flatten().collect(),
        };
        let names = tuples.into_iter().filter_map(|offset| reader.pointer(code, offset).ok());
        self.shown(reader.item_of_tuples(names, u64::from(index))?)
    }

    /// The name of the n-th of the free variables of a code object, which has this many of them.
    pub fn name_of_free(&self, code: Address, count: u64, index: u64) -> Option<String> {
        let reader = Reader { memory: self.memory, layout: self.layout };
        let layout = &self.layout.code;
        let names = reader.pointer(code, layout.co_localsplusnames.or(layout.co_freevars)?).ok()?;
        // They come last.
        let before = reader.tuple_length(names)?.checked_sub(count)?;
        self.shown(reader.item_of_tuples(std::iter::once(names), before.checked_add(index)?)?)
    }

    /// The name of a variable, as far as it comes from source code.
    fn shown(&self, name: Address) -> Option<String> {
        let reader = Reader { memory: self.memory, layout: self.layout };
        let name = reader.string(name, NAME_LENGTH_MAX)?;
        // `.0` is the compiler's name for the iterator of a comprehension.
        let is_shown = self.shows_values || name == ".0" || identifier::is_identifier(&name);
        Some(if is_shown { name } else { HIDDEN.to_owned() })
    }
}
