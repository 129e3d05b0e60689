//! Reads the links and heads of the garbage collector's lists.
//!
//! Mirrors `Include/internal/pycore_gc.h` (v3.8 to v3.15).

use crate::process::Address;
use crate::process::memory::{Memory, ReadError};

use super::interpreter::Interpreter;
use super::layout::Layout;
use super::proof_error::{ProofError, claim};
use super::reader::Reader;

/// Number of generations.
pub const GENERATIONS: usize = 3;

/// Flag bits in `_gc_next` and `_gc_prev` (`Include/internal/pycore_gc.h`). Only two: in some releases list heads are
/// at addresses that are 4 modulo 8.
const GC_FLAG_BITS: u64 = 3;

/// Where a word of a GC head links to, without the flag bits. Null in an object that is in no list.
#[inline(always)]
pub fn link(word: u64) -> Address {
    Address(word & !GC_FLAG_BITS)
}

/// Reads a link of a GC list, without its flag bits.
///
/// # Errors
/// Those of the memory.
pub fn list_pointer<M: Memory + ?Sized>(
    reader: &Reader<'_, M>,
    node: Address,
    offset: usize,
) -> Result<Address, ReadError> {
    Ok(link(reader.pointer(node, offset)?.0))
}

/// The list heads of an interpreter: three generations, youngest first, then the permanent generation.
///
/// If the version has `generation0`, which points to the youngest head, the position is derived from it, because the
/// offset of the table moved within 3.13.
///
/// # Errors
/// The pointer cannot be read or points outside the collector's state.
pub fn generation_heads<M: Memory + ?Sized>(
    reader: &Reader<'_, M>,
    interpreter: &Interpreter,
) -> Result<Vec<Address>, ProofError> {
    let (gc, layout) = (interpreter.gc, reader.layout);
    // Free-threaded builds keep no lists and do not set the pointer.
    let has_lists = layout.constants.gc_head_size > 0;
    let first = match (layout.gc.generation0, layout.gc.generations.or(layout.gc.young)) {
        (Some(pointer), _) if has_lists => reader.pointer(gc, pointer)?,
        (_, Some(offset)) => gc.offset(offset),
        (_, None) => return Ok(Vec::new()),
    };
    let within = first >= gc && first < gc.offset(layout.gc.size) && first.0 % 4 == 0;
    claim(within, "_gc_runtime_state.generation0", || format!("{first} is outside the collector's state at {gc}"))?;
    let mut heads: Vec<Address> =
        (0..GENERATIONS).map(|index| first.offset(index * layout.gc_generation.size)).collect();
    heads.push(gc.offset(layout.gc.permanent_generation));
    Ok(heads)
}

/// Whether the GC list that an object claims to be in leads onwards and back to it. Always `true` in builds without
/// lists.
pub fn is_linked<M: Memory + ?Sized>(memory: &M, layout: &Layout, object: Address) -> bool {
    if layout.constants.gc_head_size == 0 {
        return true;
    }
    let head = object.back(layout.constants.gc_head_size);
    let reader = Reader { memory, layout };
    let next = list_pointer(&reader, head, layout.gc_head.gc_next);
    next.and_then(|next| list_pointer(&reader, next, layout.gc_head.gc_prev)).is_ok_and(|back| back == head)
}
