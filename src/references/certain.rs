//! The number of certain references to each object, and the number still to be found.

use rustc_hash::FxHashMap;

use crate::heap::object_table::Objects;
use crate::process::memory::{Memory, MemoryExt};
use crate::python::layout::Layout;
use crate::python::object_header::{self, Refcount};
use crate::python::type_flags as flag;
use crate::python::types::TypeTable;

/// The objects of a target, and the number of certain references to each.
pub struct Certain<'c> {
    /// The objects.
    pub objects: &'c Objects,
    /// Their types.
    pub types: &'c TypeTable,
    /// Number of certain references to each object, by id.
    pub incoming: &'c [u32],
}

impl Certain<'_> {
    /// Number of references to an object that have not been found. `None` if its count is not known: it is immortal,
    /// its count leaves out references from frames and threads (free-threaded builds), or it is a shared value such as
    /// `None` (counted until 3.11, from C as well as from Python).
    pub(crate) fn room<M: Memory + ?Sized>(
        &self,
        memory: &M,
        layout: &Layout,
        borrowed: &FxHashMap<u32, u32>,
        target: u32,
    ) -> Option<u64> {
        let Refcount::Count(count) = self.objects.refcount(target as usize) else { return None };
        if self.is_for_all(layout, target) {
            return None;
        }
        let object = self.objects.address(target as usize);
        let bits = layout.object.ob_gc_bits.map(|offset| memory.read_u8(object.offset(offset)));
        if bits.is_some_and(|bits| bits.is_ok_and(object_header::is_deferred)) {
            return None;
        }
        let incoming = self.incoming.get(target as usize).copied().unwrap_or(0);
        let owning = incoming.saturating_sub(borrowed.get(&target).copied().unwrap_or(0));
        Some(count.saturating_sub(u64::from(owning)))
    }

    /// Whether an object is a value of which there is a single instance: `None`, a small int, a string of at most one
    /// character. Larger ints are excluded by size only.
    pub(crate) fn is_for_all(&self, layout: &Layout, target: u32) -> bool {
        let info = self.types.get(self.objects.type_id(target as usize));
        info.module == "builtins"
            && match info.qualname.as_str() {
                "NoneType" | "bool" | "ellipsis" | "int" => true,
                // A header, the characters and a zero, which a bytes object's size includes.
                "str" => self.objects.size(target as usize) <= layout.ascii_unicode.size as u64 + 2,
                "bytes" => self.objects.size(target as usize) <= info.basicsize + 1,
                _ => false,
            }
    }

    /// Number of pointers to each object that count as certain but own nothing: a static type borrows the base it was
    /// compiled with.
    pub(crate) fn borrowed<M: Memory + ?Sized>(&self, memory: &M, layout: &Layout) -> FxHashMap<u32, u32> {
        let offset = layout.type_object.tp_base;
        let mut borrowed = FxHashMap::default();
        for (_, info) in self.types.iter().filter(|(_, info)| !info.has(flag::HEAPTYPE)) {
            let base = memory.read_u64(info.address.offset(offset)).unwrap_or(0);
            // If the type itself is not a known object, its pointers were not counted.
            if let (Some(_), Some(base)) = (self.objects.find(info.address.0), self.objects.find(base)) {
                *borrowed.entry(base).or_default() += 1;
            }
        }
        borrowed
    }
}
