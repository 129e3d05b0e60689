//! A *lane* is a collector with the lock that guards it: the main interpreter's, or a sub-interpreter's with its own.
//!
//! Mirrors `_gil_runtime_state` (`Include/internal/pycore_gil.h`) and `_gc_runtime_state`
//! (`Include/internal/pycore_gc.h`, since 3.14 `pycore_interp_structs.h`), v3.8 to v3.15.

use crate::process::Address;
use crate::process::memory::Memory;
use crate::python::gc_links::{GENERATIONS, generation_heads};
use crate::python::interpreter::{Interpreter, Python};
use crate::python::reader::Reader;

/// A collector and the lock that guards it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// The interpreter; the main one where a collector serves all (3.8).
    pub interpreter: Interpreter,
    /// Whether other interpreters' objects are in the same lists.
    pub serves_all: bool,
    /// The lock, `_gil_runtime_state`.
    pub gil: Address,
    /// The heads of its lists, youngest first.
    pub heads: [Address; GENERATIONS],
}

impl Lane {
    /// The lanes of a Python's interpreters: one for each collector. None in free-threaded builds, which have neither
    /// lists nor, as a rule, a lock.
    pub fn all<M: Memory + ?Sized>(reader: &Reader<'_, M>, python: &Python, interpreters: &[Interpreter]) -> Vec<Lane> {
        let layout = reader.layout;
        let mut lanes: Vec<Lane> = Vec::new();
        if layout.constants.gc_head_size == 0 {
            return lanes;
        }
        for interpreter in interpreters {
            if lanes.iter().any(|lane| lane.interpreter.gc == interpreter.gc) {
                continue;
            }
            let gil = match (layout.runtime.ceval_gil, layout.interp.ceval_gil) {
                (Some(offset), _) => Some(python.runtime.address.offset(offset)),
                (None, Some(offset)) => reader.pointer(interpreter.address, offset).ok(),
                (None, None) => None,
            };
            let heads = generation_heads(reader, interpreter).unwrap_or_default();
            let (Some(gil), Some(&heads)) = (gil, heads.first_chunk()) else { continue };
            lanes.push(Lane { interpreter: *interpreter, serves_all: layout.interp.gc.is_none(), gil, heads });
        }
        lanes
    }
}
