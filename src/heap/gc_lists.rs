//! The collector's lists: a second way to the tracked objects, to check the first one by.
//!
//! Walked only where memory is local (a copy, a core): each step leads to a random place.
//!
//! Mirrors `Python/gc.c` (until 3.12 `Modules/gcmodule.c`).

use crate::process::Address;
use crate::process::memory::Memory;
use crate::python::gc_links::generation_heads;
use crate::python::gc_links::list_pointer;
use crate::python::interpreter::Python;
use crate::python::reader::Reader;

/// What a walk came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Objects that were met.
    pub objects: u64,
    /// Lists that broke off: a link that cannot be read, leads back to a node already met or to one that does not
    /// link back.
    pub broken: u64,
}

/// Walks all lists of all interpreters, at most `limit` objects. `insert` takes each object and says whether it is met
/// for the first time.
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

/// Walks one list; `false` where it broke off.
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
            // 3.8 has one collector for all interpreters, so a list may have been walked already.
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
