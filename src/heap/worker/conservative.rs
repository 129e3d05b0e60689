//! Scans memory of unknown structure for objects: that of a malloc other than glibc's.
//!
//! pymalloc's pools hold most objects; those over 512 bytes come from malloc. If malloc is jemalloc, tcmalloc or musl's
//! old one, its memory is scanned at every multiple of 16 for a known type, a plausible count, GC links that lead back,
//! and a plausible body. Freed memory keeps its bytes in such allocators, so an object that was moved may be found
//! twice. That is why a scan is used only where no structure is known.

use std::ops::Range;

use crate::heap::classify::classifier::BlockVerdict;
use crate::heap::object::Sink;
use crate::process::Address;
use crate::process::memory::{Memory, ReadError};

use super::{CountedRoom, WINDOW, Window, Worker};

/// Alignment of malloc.
const ALIGNMENT: usize = 16;
/// Bytes needed to classify an object; types are the largest with about 1,000.
const LOOK: usize = 4096;
/// Bytes needed before an object: debug header, pre-header, GC head.
const FRONT: usize = 64;
impl<M: Memory + ?Sized, S: Sink> Worker<'_, M, S> {
    /// Scans memory of unknown structure, one window at a time.
    pub(crate) fn read_unstructured(&mut self, range: &Range<Address>) -> Result<(), ReadError> {
        let limit = self.memory.regions().find(range.start).map_or(range.end, |region| region.end).max(range.end);
        let mut at = Address(range.start.0.next_multiple_of(ALIGNMENT as u64));
        let mut inside = at;
        while at < range.end {
            let start = at.back(FRONT).max(range.start);
            let length = ((range.end.0 - start.0) as usize).min(WINDOW);
            let from = at;
            self.with_bytes(start, length, |worker, window| {
                at = worker.scan_window(window, at, &mut inside, limit, window.start.offset(length) >= range.end)?;
                Ok(())
            })?;
            if at <= from {
                // Unreadable: skip this window.
                at = start.offset(length.max(FRONT + ALIGNMENT));
            }
        }
        self.counts.scanned_bytes += range.end.0 - range.start.0;
        Ok(())
    }

    /// Scans a window from `at` on and returns where to continue. The object found last extends to `inside`; no object
    /// starts within another. But a tracked object is certainly alive, so if one is found inside, the enclosing one is
    /// the remains of a dead object.
    fn scan_window(
        &mut self,
        window: Window<'_>,
        mut at: Address,
        inside: &mut Address,
        limit: Address,
        is_last: bool,
    ) -> Result<Address, ReadError> {
        let end = window.start.offset(window.bytes.len());
        let header = self.classifier.layout().object.size as u64;
        while at.0 + header <= end.0 {
            if !is_last && end.0 - at.0 < LOOK as u64 && at > window.start.offset(FRONT) {
                return Ok(at);
            }
            let offset = (at.0 - window.start.0) as usize;
            let mut step = ALIGNMENT as u64;
            let verdict = self.classifier.scanned_object(at, window.bytes, offset, limit.0 - at.0);
            if let BlockVerdict::Object(found) = verdict
                && (if found.tracked { self.is_linked(at) } else { at >= *inside })
            {
                *inside = Address(at.0.saturating_add(found.measured.extent.max(header)));
                step = header.next_multiple_of(ALIGNMENT as u64);
                self.counts.scanned_objects += 1;
                self.room = CountedRoom::default();
                self.hand_on(&found, window)?;
            }
            at = Address(at.0.saturating_add(step));
        }
        Ok(if is_last { at.max(end) } else { at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::classify::classifier::Classifier;
    use crate::heap::object::Object;
    use crate::heap::part::Part;
    use crate::process::image::{Image, Segment};
    use crate::python::layout::{Candidate, Layout};
    use crate::python::sizes::{Basis, SizeRule};
    use crate::python::type_flags as flag;
    use crate::python::types::{TypeInfo, TypeTable};
    use crate::python::version::Version;

    const START: u64 = 0x7f00_0000_0000;
    const FLOAT: u64 = 0x7f11_0000_0000;
    const CELL: u64 = 0x7f11_0000_1000;
    const ROW: u64 = 0x7f11_0000_2000;

    fn type_info(address: u64, flags: u64, front: usize) -> TypeInfo {
        TypeInfo {
            address: Address(address),
            module: "builtins".to_owned(),
            qualname: "x".to_owned(),
            basicsize: 24,
            itemsize: 0,
            flags,
            front,
            gc_head: front,
            has_inline_values: false,
            rule: SizeRule::Default,
            basis: Basis::Exact,
            decides_on_head: false,
            is_str_itself: false,
            is_python_class: false,
            has_own_allocator: false,
        }
    }

    /// What a scan finds in `words` at [`START`].
    fn scanned(words: &[u64]) -> Vec<u64> {
        let candidate = Candidate::all().iter().find(|candidate| candidate.name == "3.13.0").unwrap();
        let layout = Layout::load(candidate);
        let row = TypeInfo { itemsize: 8, ..type_info(ROW, 0, 0) };
        let types = TypeTable::of(vec![type_info(FLOAT, 0, 0), type_info(CELL, 1 << flag::HAVE_GC, 16), row]);
        let classifier = Classifier::new(&layout, Version::release(3, 13, 0), &types, false);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let range = Address(START)..Address(START + bytes.len() as u64);
        let image = Image::of_segments(vec![Segment { start: range.start, bytes }]);
        let mut worker = Worker::new(&image, &classifier, Vec::<Object>::new());
        worker.read_part(&Part::Unstructured(range)).unwrap();
        let (objects, counts) = worker.finish().unwrap();
        assert_eq!(counts.scanned_objects, objects.len() as u64);
        assert_eq!(counts.scanned_bytes, 8 * words.len() as u64);
        objects.iter().map(|object| (object.address.0 - START) / 8).collect()
    }

    #[test]
    fn objects_are_found_where_malloc_puts_them_and_only_alive() {
        // Alive; dead; a pointer in place of a count; alive, but not aligned as malloc does.
        assert_eq!(scanned(&[1, FLOAT, 0, 0, 0, FLOAT, 0, 0, START, FLOAT, 0, 0, 0, 1, FLOAT, 0]), [0]);
        // Cut off at the end of the memory.
        assert_eq!(scanned(&[0, 0, 1, FLOAT]), Vec::<u64>::new());
        assert_eq!(scanned(&[1]), Vec::<u64>::new());
        assert_eq!(scanned(&[]), Vec::<u64>::new());
    }

    #[test]
    fn a_collected_object_must_be_linked_both_ways_or_not_at_all() {
        // Untracked.
        assert_eq!(scanned(&[0, 0, 1, CELL, 0, 0]), [2]);
        // Two objects linked with each other.
        let (first, second) = (START, START + 48);
        let linked = [second, second, 1, CELL, 0, 0, first, first, 1, CELL, 0, 0];
        assert_eq!(scanned(&linked), [2, 8]);
        // The second leads elsewhere, and nowhere.
        for wrong in [second, 0x1000, u64::MAX] {
            let mut broken = linked;
            broken[7] = wrong;
            assert!(!scanned(&broken).contains(&2), "{wrong:#x}");
        }
    }

    #[test]
    fn within_an_object_there_is_none_unless_the_collector_knows_it() {
        // A row of 20 items that contains what looks like a float, then two objects linked with each other.
        let mut words = vec![1, ROW, 20, 0, 1, FLOAT, 0, 0];
        let (first, second) = (START + 64, START + 112);
        words.extend([second, second, 1, CELL, 0, 0, first, first, 1, CELL, 0, 0]);
        words.extend([0; 12]);
        assert_eq!(scanned(&words), [0, 10, 16]);
        // Untracked, they prove nothing.
        [8, 9, 14, 15].iter().for_each(|&link| words[link] = 0);
        assert_eq!(scanned(&words), [0]);
    }

    #[test]
    fn objects_across_windows_are_found_once() {
        let mut words = vec![0; 2 * WINDOW / 8 + 64];
        let places = [0, WINDOW / 8 - 512, WINDOW / 8 - 4, WINDOW / 8 - 2, WINDOW / 8 + 2, words.len() - 4];
        let places: Vec<usize> = places.into_iter().map(|place| place / 4 * 4).collect();
        for &place in &places {
            (words[place], words[place + 1]) = (1, FLOAT);
        }
        let mut expected: Vec<u64> = places.iter().map(|&place| place as u64).collect();
        expected.dedup();
        assert_eq!(scanned(&words), expected);
    }
}
