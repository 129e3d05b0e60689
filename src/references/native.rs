//! Follows references of types, modules, and C structs with pointers to structures of their own.
//!
//! Mirrors `type_traverse` (`Objects/typeobject.c`), `module_traverse` (`Objects/moduleobject.c`),
//! `element_gc_traverse` (`Modules/_elementtree.c`), `simplequeue_traverse` (`Modules/_queuemodule.c`), `time_dealloc`
//! (`Modules/_datetimemodule.c`), `teedataobject_traverse` (`Modules/itertoolsmodule.c`), v3.8 to v3.15.

use crate::process::Address;
use crate::process::memory::Memory;
use crate::python::reader::Reader;
use crate::python::type_flags as flag;
use crate::python::types::static_type_state;

use super::{Label, Reads, References, Subject};

/// Upper bound on the bytes read of a module's state. The largest in the standard library is below 8 KiB.
const STATE_MAX: u64 = 1 << 20;
/// Upper bound on the children of an XML element.
const CHILDREN_MAX: u64 = 1 << 32;

impl<M: Memory + ?Sized> References<'_, M> {
    pub(super) fn type_references(&self, reads: &Reads, object: Address, visit: &mut impl FnMut(u64, Label)) {
        let (layout, heap) = (&self.layout.type_object, &self.layout.heap_type);
        let Some(flags) = self.word(reads, object, layout.tp_flags) else { return };
        let mut field = |offset: usize| {
            if let Some(word) = self.word(reads, object, offset).filter(|&word| word != 0) {
                visit(word, Label::Field(offset as u32));
            }
        };
        for offset in [layout.tp_dict, layout.tp_bases, layout.tp_mro, layout.tp_cache, layout.tp_base] {
            field(offset);
        }
        let is_heap_type = flags >> flag::HEAPTYPE & 1 == 1;
        if is_heap_type {
            let fields = [Some(heap.ht_name), Some(heap.ht_slots), Some(heap.ht_qualname), heap.ht_module];
            fields.into_iter().flatten().for_each(&mut field);
        }
        // A dict of weak references: the type owns the dict, but not the types in it. Since 3.12 it is an index in
        // static types, whose dicts belong to each interpreter.
        if self.layout.static_type.is_none() || flags >> flag::STATIC_BUILTIN & 1 == 0 {
            field(layout.tp_subclasses);
        } else {
            let reader = Reader { memory: self.memory, layout: self.layout };
            for interpreter in &self.python.interpreters {
                let Some((dict, subclasses)) = static_type_state(&reader, object, interpreter) else { continue };
                for (word, offset) in [(dict, layout.tp_dict), (subclasses, layout.tp_subclasses)] {
                    if !word.is_null() {
                        visit(word.0, Label::Field(offset as u32));
                    }
                }
            }
        }
        if is_heap_type && let Some(keys) = self.word(reads, object, heap.ht_cached_keys).filter(|&keys| keys != 0) {
            self.shared_keys(reads, Address(keys), visit);
        }
    }

    pub(super) fn module_state(&self, reads: &Reads, object: Address, visit: &mut impl FnMut(u64, Label)) {
        let layout = &self.layout.module;
        let Some(state) = self.word(reads, object, layout.md_state).filter(|&state| state != 0) else { return };
        let size = match (layout.md_state_size, layout.md_def) {
            (Some(offset), _) => self.word(reads, object, offset),
            (None, Some(offset)) => self
                .word(reads, object, offset)
                .filter(|&definition| definition != 0)
                .and_then(|definition| self.word(reads, Address(definition), self.layout.module_def.m_size)),
            (None, None) => None,
        };
        let Some(size) = size.filter(|&size| size <= STATE_MAX) else { return };
        // A module that is in its own state is borrowed there: it would never die.
        self.for_each_word(reads, Address(state), size / 8, &mut |_, word| {
            if word != 0 && word != object.0 {
                visit(word, Label::ModuleState);
            }
        });
    }

    pub(super) fn element(&self, reads: &Reads, object: Address, visit: &mut impl FnMut(u64, Label)) {
        let (element, extra) = (&self.layout.element, &self.layout.element_extra);
        let Some(at) = self.word(reads, object, element.extra).filter(|&at| at != 0).map(Address) else { return };
        let attrib = self.word(reads, at, extra.attrib);
        let (Some(attrib), Some(length)) = (attrib, self.word(reads, at, extra.length)) else { return };
        let Some(children) = self.word(reads, at, extra.children) else { return };
        if attrib != 0 {
            visit(attrib, Label::Named("attrib"));
        }
        self.index_words(reads, Address(children), length.min(CHILDREN_MAX), visit);
    }

    /// The links of a cache: a ring that starts and ends at the cache, which owns each link in addition to the dict
    /// (`lru_cache_append_link`, `Modules/_functoolsmodule.c`).
    pub(super) fn lru_cache(&self, reads: &Reads, object: Address, visit: &mut impl FnMut(u64, Label)) {
        let root = object.offset(self.layout.lru_cache.root);
        let mut link = self.word(reads, root, self.layout.lru_elem.next).unwrap_or(0);
        // A broken ring may close without the cache. A mark that moves on at each power of two detects that (R. P.
        // Brent, An improved Monte Carlo factorization algorithm, BIT 20, 1980).
        let (mut mark, mut steps) = (link, 0u64);
        // An unbounded cache has no ring.
        while link != 0 && link != root.0 {
            if !reads.spend(1) {
                return reads.tear();
            }
            visit(link, Label::Named("root"));
            link = self.word(reads, Address(link), self.layout.lru_elem.next).unwrap_or(0);
            if link == mark {
                return reads.tear();
            }
            steps += 1;
            if steps.is_power_of_two() {
                mark = link;
            }
        }
    }

    /// Since 3.13 a ring buffer of references; before, a list in the body.
    pub(super) fn simple_queue(&self, reads: &Reads, object: Address, visit: &mut impl FnMut(u64, Label)) {
        let queue = &self.layout.simple_queue;
        let (Some(items), Some(capacity)) = (queue.ring_items, queue.ring_items_cap) else { return };
        let items = self.word(reads, object, items);
        let (Some(items), Some(capacity)) = (items, self.word(reads, object, capacity)) else { return };
        self.index_words(reads, Address(items), capacity, visit);
    }

    /// The time zone. A time without one is shorter than its type states (`_PyDateTime_BaseDateTime`).
    pub(super) fn time_of_day(&self, reads: &Reads, subject: &Subject<'_>, visit: &mut impl FnMut(u64, Label)) {
        // `hastzinfo` follows the header and the hash.
        let has_zone = self.byte(reads, subject.address, self.layout.object.size + 8);
        let Some(offset) = subject.rule.body.start.checked_sub(8).filter(|_| has_zone == Some(1)) else { return };
        if let Some(zone) = self.word(reads, subject.address, offset as usize).filter(|&zone| zone != 0) {
            visit(zone, Label::Named("tzinfo"));
        }
    }

    /// The items read so far by one piece of an `itertools.tee` iterator, as many as it counts.
    pub(super) fn tee_piece(&self, reads: &Reads, subject: &Subject<'_>, visit: &mut impl FnMut(u64, Label)) {
        // `teedataobject`: the source, two 32-bit numbers, the next piece, and the array up to the end.
        let header = self.layout.object.size as u32;
        let values = header + 24;
        let room = u64::from(subject.rule.basicsize.saturating_sub(values)) / 8;
        let Some(count) = self.word(reads, subject.address, header as usize + 8) else { return };
        self.index_words(reads, subject.address.offset(values as usize), u64::from(count as u32).min(room), visit);
    }

    /// The items of a numpy object array that owns contiguous data.
    pub(super) fn ndarray(&self, reads: &Reads, object: Address, visit: &mut impl FnMut(u64, Label)) {
        // `PyArrayObject_fields` (numpy/core/include/numpy/ndarraytypes.h, 1.7 to 2.4), after the header: data, nd,
        // dimensions, strides, base, descr, flags. A descr's kind follows its `typeobj`.
        const OWNS_DATA: u64 = 4;
        const DIMENSIONS_MAX: u64 = 64;
        let header = self.layout.object.size;
        let mut words = [0; 7];
        let mut count = 0;
        self.for_each_word(reads, object.offset(header), words.len() as u64, &mut |index, word| {
            words[index as usize] = word;
            count += 1;
        });
        let [data, dimensions_count, dimensions, _strides, _base, descr, flags] = words;
        if count < words.len() || flags & OWNS_DATA == 0 || descr == 0 {
            return;
        }
        if self.byte(reads, Address(descr), header + 8) != Some(b'O') {
            return;
        }
        let mut items = 1u64;
        let dimensions_count = u64::from(dimensions_count as u32).min(DIMENSIONS_MAX);
        self.for_each_word(reads, Address(dimensions), dimensions_count, &mut |_, length| {
            items = items.saturating_mul(length);
        });
        self.index_words(reads, Address(data), items, visit);
    }

    /// The iterators of a `numpy.broadcast`. `PyArrayMultiIterObject` (numpy/_core/include/numpy/ndarraytypes.h, 1.7 to
    /// 2.5), after the header: their number, size, index, number of dimensions, 32 dimensions, room for 32 iterators,
    /// or 64 since 2.0.
    pub(super) fn ndbroadcast(&self, reads: &Reads, subject: &Subject<'_>, visit: &mut impl FnMut(u64, Label)) {
        let header = self.layout.object.size;
        let iterators = header + (4 + 32) * 8;
        let room = u64::from(subject.rule.body.start).saturating_sub(iterators as u64) / 8;
        let Some(count) = self.word(reads, subject.address, header) else { return };
        let count = u64::from(count as u32).min(room);
        self.index_words(reads, subject.address.offset(iterators), count, visit);
    }
}
