//! Finds dead objects that the interpreter keeps on free lists for reuse.
//!
//! Most are recognizable: their count is 0 or (3.14+) a pointer to the next one, which cannot be a count. Only in a
//! program that is not relocated and takes small blocks from malloc can such a pointer look like a count; in that case
//! the lists are walked.
//!
//! Mirrors `Include/internal/pycore_freelist_state.h` (v3.14.0), `struct _Py_freelists`: an array of list heads.

use rustc_hash::FxHashSet;

use crate::heap::part::Part;
use crate::heap::plan::Plan;
use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt};
use crate::python::interpreter::Python;
use crate::python::layout::allocators::Freelist;

/// Upper bound on the entries of a list; the interpreter's own limits are at most 2,000.
const LIST_MAX: u64 = 1 << 16;
/// Addresses below this look like counts.
const LOW: u64 = 1 << 32;
/// Number of attempts to read a list that the running target changes.
const TRIES: usize = 8;

/// Addresses of dead objects that look alive. Empty for nearly every target.
pub fn ambiguous<M: Memory + ?Sized>(memory: &M, python: &Python, plan: &Plan) -> FxHashSet<Address> {
    let layout = &python.layout;
    let is_low = plan.parts.iter().any(|part| match part {
        Part::Heap(_) | Part::Groups(_) => part.ranges().iter().any(|range| range.start.0 < LOW),
        _ => false,
    });
    let (Some(list), Some(lists), Some(offset)) = (&layout.freelist, &layout.freelists, layout.interp.freelists) else {
        return FxHashSet::default();
    };
    let mut dead = FxHashSet::default();
    if !is_low {
        return dead;
    }
    for interpreter in &python.interpreters {
        let first = interpreter.address.offset(offset);
        for at in (0..lists.size).step_by(list.size).map(|index| first.offset(index)) {
            for _ in 0..TRIES {
                if let Some(listed) = listed(memory, list, at) {
                    dead.extend(listed);
                    break;
                }
                memory.forget();
            }
        }
    }
    dead
}

/// The entries of the list whose head is at `at`. `None` if their number differs from the list's own count: it is
/// changing, or is not a list.
fn listed<M: Memory + ?Sized>(memory: &M, list: &Freelist, at: Address) -> Option<Vec<Address>> {
    let mut node = memory.read_pointer(at.offset(list.freelist)).ok()?;
    let count = memory.read_u64(at.offset(list.count)).ok().filter(|&count| count <= LIST_MAX)?;
    let mut listed = Vec::new();
    while !node.is_null() && listed.len() as u64 <= count {
        listed.push(node);
        node = memory.read_pointer(node).unwrap_or_default();
    }
    (listed.len() as u64 == count).then_some(listed)
}
