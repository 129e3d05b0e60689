//! One line on the resident memory of a process, which every report has in its head: how much of it is objects.
//!
//! It takes what a census counts in any case, the kernel's map of pages and `smaps`; the account of all rows is
//! [`memory_account`](super::memory_account). Its parts add up to RSS.

use serde::{Deserialize, Serialize};

use crate::heap::worker::BlockBytes;
use crate::process::mapping_kind::MappingKind;
use crate::process::residency::Residency;
use crate::process::smaps::Mapping;

/// Below so many bytes that are no objects nobody looks for memory: an interpreter with its libraries takes half of it.
const OTHERS_MIN: u64 = 32 << 20;

/// Resident bytes of a process by what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryLine {
    /// All of it.
    pub rss: u64,
    /// Python objects with their buffers, and the small blocks that pymalloc hands out.
    pub objects: u64,
    /// What allocators have and do not use. `None` where only a part of the heap was read: it is in `native` then.
    pub allocator_free: Option<u64>,
    /// Other private memory of no file: of C code, stacks, other allocators.
    pub native: u64,
    /// The program, its libraries and other files.
    pub files: u64,
    /// Memory shared with other processes.
    pub shared: u64,
}

impl MemoryLine {
    /// Of all mappings. `owned` is what is resident of memory that belongs to an allocator.
    pub fn of(mappings: &[Mapping], owned: &Residency, blocks: &BlockBytes) -> MemoryLine {
        let mut line = MemoryLine::default();
        for (index, mapping) in mappings.iter().enumerate() {
            let before = index.checked_sub(1).and_then(|index| mappings.get(index));
            line.rss = line.rss.saturating_add(mapping.rss);
            match MappingKind::of(mapping, before) {
                MappingKind::Shared => line.shared += mapping.rss,
                MappingKind::Library | MappingKind::File | MappingKind::Kernel => line.files += mapping.rss,
                // What an allocator maps right behind a library becomes one mapping with the library's data.
                MappingKind::LibraryBss => {
                    let owned = owned.resident(&(mapping.region.start..mapping.region.end)).min(mapping.rss);
                    line.files += mapping.rss - owned;
                    line.native += owned;
                }
                MappingKind::Stack | MappingKind::Heap | MappingKind::Anonymous => line.native += mapping.rss,
            }
        }
        // What changed between two looks must not make the sum wrong.
        let owned = owned.total().min(line.native);
        let inside = blocks.with_object.min(owned);
        let free = owned - inside - blocks.without_object.min(owned - inside);
        line.native -= inside + free;
        // Items and tables in blocks of their own, and what was found in memory of no known allocator.
        let outside = blocks.elsewhere.min(line.native);
        line.native -= outside;
        let in_data = blocks.shallow_static.min(line.files);
        line.files -= in_data;
        line.objects = inside + outside + in_data;
        line.allocator_free = Some(free);
        line
    }

    /// The same where objects take about `objects` bytes, by a sample.
    pub fn estimated(self, objects: u64) -> MemoryLine {
        let others = self.objects.saturating_add(self.allocator_free.unwrap_or(0)).saturating_add(self.native);
        let objects = objects.min(others);
        MemoryLine { objects, allocator_free: None, native: others - objects, ..self }
    }

    /// The sum of two.
    pub fn plus(&self, other: &MemoryLine) -> MemoryLine {
        let free = |line: &MemoryLine| line.allocator_free;
        MemoryLine {
            rss: self.rss.saturating_add(other.rss),
            objects: self.objects.saturating_add(other.objects),
            allocator_free: free(self).zip(free(other)).map(|(a, b)| a.saturating_add(b)),
            native: self.native.saturating_add(other.native),
            files: self.files.saturating_add(other.files),
            shared: self.shared.saturating_add(other.shared),
        }
    }

    /// Whether objects are less than half of it, and the rest is enough to ask for.
    pub fn is_mostly_other(&self) -> bool {
        let others = self.rss.saturating_sub(self.objects);
        others > self.objects && others >= OTHERS_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Address, smaps};

    const MAPS: &str = "1000-9000 rw-p 00000000 00:00 0 [heap]\nRss: 1000 kB\n\
        10000-12000 r-xp 00000000 08:01 7 /usr/lib/x.so\nRss: 200 kB\n\
        20000-30000 rw-p 00000000 00:00 0 \nRss: 3000 kB\n\
        40000-41000 rw-s 00000000 00:01 9 /dev/shm/x\nRss: 40 kB\n";

    fn line(owned: u64, with_object: u64, without_object: u64, elsewhere: u64, shallow_static: u64) -> [u64; 5] {
        let blocks = BlockBytes {
            with_object: with_object << 10,
            without_object: without_object << 10,
            elsewhere: elsewhere << 10,
            shallow_static: shallow_static << 10,
        };
        let owned = Residency::of_ranges(std::iter::once(Address(0)..Address(owned << 10)));
        let line = MemoryLine::of(&smaps::parse(MAPS.as_bytes()), &owned, &blocks);
        let parts = [line.objects, line.allocator_free.unwrap(), line.native, line.files, line.shared];
        assert_eq!((line.rss, parts.iter().sum()), (4240 << 10, 4240 << 10));
        let guess = line.estimated(700 << 10);
        assert_eq!(guess.objects + guess.native + guess.files + guess.shared, line.rss);
        parts.map(|bytes| bytes >> 10)
    }

    #[test]
    fn parts_add_up_whatever_was_counted() {
        assert_eq!(line(2000, 500, 300, 0, 0), [500, 1200, 2300, 200, 40]);
        // Of the blocks without an object, 100 hold items; ten objects are in a library's data.
        assert_eq!(line(2000, 500, 300, 100, 10), [610, 1200, 2200, 190, 40]);
        // Counts of a heap that shrank meanwhile, and sizes that were never touched.
        assert_eq!(line(u64::MAX >> 10, 9000, 9000, u64::MAX >> 10, 0), [4000, 0, 0, 200, 40]);
        assert_eq!(line(0, 0, 0, 0, 0), [0, 0, 4000, 200, 40]);
    }

    #[test]
    fn objects_that_are_less_than_half_are_told_of_large_processes() {
        let of = |mebibytes: u64, objects: u64| MemoryLine {
            rss: mebibytes << 20,
            objects: objects << 20,
            ..MemoryLine::default()
        };
        assert!(of(100, 49).is_mostly_other() && !of(100, 50).is_mostly_other() && !of(32, 1).is_mostly_other());
    }
}
