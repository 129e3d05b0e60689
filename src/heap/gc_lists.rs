//! Walks the garbage collector's lists, as a check on the tracked objects found in blocks.
//!
//! Only used if memory is local (a copy, a core), because each step reads a random address.
//!
//! Mirrors `Python/gc.c` (until 3.12 `Modules/gcmodule.c`).

use crate::process::Address;
use crate::process::memory::Memory;
use crate::python::gc_links::generation_heads;
use crate::python::gc_links::list_pointer;
use crate::python::interpreter::Python;
use crate::python::reader::Reader;

/// The result of a walk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Number of objects visited.
    pub objects: u64,
    /// Number of broken lists: a link cannot be read, leads to a node already visited, or to one that does not link
    /// back.
    pub broken: u64,
}

/// Walks all lists of all interpreters, at most `limit` objects. `insert` receives each object and returns whether it
/// is new.
pub fn walk<M: Memory + ?Sized>(
    memory: &M,
    python: &Python,
    limit: u64,
    mut insert: impl FnMut(Address) -> bool,
) -> Listed {
    let reader = Reader { memory, layout: &python.layout };
    let mut listed = Listed::default();
    for interpreter in &python.interpreters {
        let Ok(heads) = generation_heads(&reader, interpreter) else {
            listed.broken += 1;
            continue;
        };
        for head in heads {
            if !walk_one(&reader, head, limit, &mut listed.objects, &mut insert) {
                listed.broken += 1;
            }
        }
    }
    listed
}

/// Walks one list. `false` if it is broken.
fn walk_one<M: Memory + ?Sized>(
    reader: &Reader<'_, M>,
    head: Address,
    limit: u64,
    met: &mut u64,
    insert: &mut impl FnMut(Address) -> bool,
) -> bool {
    let fields = &reader.layout.gc_head;
    let Ok(mut node) = list_pointer(reader, head, fields.gc_next) else { return false };
    let mut is_first = true;
    while node != head {
        if *met >= limit {
            return false;
        }
        if !insert(node.offset(reader.layout.constants.gc_head_size)) {
            // 3.8 has one collector for all interpreters, so the list may have been walked already.
            return is_first;
        }
        is_first = false;
        *met += 1;
        match list_pointer(reader, node, fields.gc_next) {
            Ok(next) if !next.is_null() => node = next,
            _ => return false,
        }
    }
    true
}
