//! Finds `atexit` callbacks.
//!
//! Mirrors `Modules/atexitmodule.c` and `Include/internal/pycore_atexit.h`, v3.8 to v3.15: an array of pointers to
//! structs, in the module's state until 3.9 and in the interpreter until 3.13; then a list.

use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt};
use crate::python::interpreter::Interpreter;

use super::{Finder, RootKind};

/// Upper bound on callbacks. Programs have some tens, or as many as the requests that they served.
const CALLBACKS_MAX: usize = 1 << 24;

impl<M: Memory + ?Sized> Finder<'_, M> {
    pub(crate) fn exit(&mut self, interpreter: &Interpreter) {
        let (layout, at) = (self.reader.layout, interpreter.address);
        let (array, count) = match (layout.interp.atexit_callbacks, layout.interp.atexit_ncallbacks) {
            (Some(callbacks), Some(count)) => (self.pointer(at, callbacks), at.offset(count)),
            (Some(_), None) => {
                return self.add_field(at, layout.interp.atexit_callbacks, RootKind::Interpreter, "atexit callbacks");
            }
            (None, _) => {
                let Some(module) = layout.interp.pyexitmodule.map(|offset| self.pointer(at, offset)) else { return };
                let Some(state) = Some(module).filter(|module| !module.is_null()) else { return };
                let state = self.pointer(state, layout.module.md_state);
                (self.pointer(state, 0), state.offset(8))
            }
        };
        let count = self.reader.memory.read_u32(count).map_or(0, |count| count as usize);
        if array.is_null() || count == 0 {
            return;
        }
        if count > CALLBACKS_MAX || !self.reader.memory.regions().contains(array, 8 * count) {
            self.found.cut += 1;
            return;
        }
        for index in 0..count {
            let callback = self.pointer(array, 8 * index);
            if callback.is_null() {
                continue;
            }
            // func, args and kwargs, in each version.
            for field in 0..3 {
                let object: Address = self.pointer(callback, 8 * field);
                self.add(object, RootKind::Interpreter, format!("atexit callbacks[{index}]"), true);
            }
        }
    }
}
