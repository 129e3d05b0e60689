//! The blocks of mimalloc pages: all objects of a free-threaded build, and of a default build under
//! `PYTHONMALLOC=mimalloc`.
//!
//! mimalloc takes memory in segments, aligned to 32 MiB. A segment starts with a header and a row of slots, one per
//! slice of 64 KiB. The first slot of a run of slices is the header of a page, which is divided into blocks of one
//! size. Segments are found by this structure and not through threads, so those of ended threads are found as well. The
//! free blocks of a page are in three chains, and the page stores their number, so every page can be checked.
//!
//! Mirrors `Include/internal/mimalloc/mimalloc/types.h` and `Objects/mimalloc/segment.c` (v3.13.5 to v3.15.2, two
//! versions of mimalloc).

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt, u32_at, u64_at};
use crate::python::layout::Layout;
use crate::python::layout::allocators::{MiPage, MiSegment, MimallocShape};

/// Alignment of segments, and the size of all except huge ones (`MI_SEGMENT_SIZE`).
pub const SEGMENT: u64 = 32 << 20;
/// `MI_SEGMENT_SLICE_SIZE`.
const SLICE: u64 = 64 << 10;
/// Upper bound on a segment, which may hold one huge block: 1 TiB, the memory of a large machine.
const HUGE_MAX: u64 = 1 << 40;
/// `MI_SLICES_PER_SEGMENT`.
const SLICES_MAX: u64 = 512;
/// From this size on `xblock_size` does not hold the block size (`MI_HUGE_BLOCK_SIZE`).
const HUGE_BLOCK: u64 = 2 << 30;
/// The low bits of `xthread_free` are not part of the pointer (`mi_delayed_t`).
const DELAYED_BITS: u64 = 3;
/// Upper bound on the blocks of a page: `capacity` has 16 bits.
const BLOCKS_MAX: usize = 1 << 16;
/// Bytes read of a block larger than this: the object's header and fixed fields. The rest is items.
pub const PREFIX: u64 = 16 << 10;

/// The heap of a thread that a page belongs to (`Include/internal/pycore_mimalloc.h`). A default build has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Raw memory.
    Memory,
    /// Objects that are not tracked by the collector.
    Object,
    /// Objects of GC types.
    Collected,
    /// Objects of GC types with a dict or weak references in front.
    CollectedBehindFront,
}

impl Kind {
    fn of_tag(tag: u8) -> Option<Kind> {
        Some(match tag {
            0 => Kind::Memory,
            1 => Kind::Object,
            2 => Kind::Collected,
            3 => Kind::CollectedBehindFront,
            _ => return None,
        })
    }
}

/// A segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSegment {
    /// Its addresses.
    pub range: Range<Address>,
    /// Resident parts that are to be read.
    pub pieces: Vec<Range<Address>>,
    /// Bytes of its header and slots.
    pub head: usize,
    /// Offsets of the header and slots.
    pub shape: Arc<MimallocShape>,
}

/// A page in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Offset of its slot from the segment's start.
    pub slot: usize,
    /// Address of its first block.
    pub start: Address,
    /// Size of a block, bytes.
    pub block_size: u64,
    /// Number of blocks that were carved.
    pub capacity: usize,
    /// Number of used blocks, including those freed by other threads.
    pub used: usize,
    /// The heap that it belongs to.
    pub kind: Kind,
    free: u64,
    local_free: u64,
    thread_free: u64,
    /// In debug builds: the keys that links are encoded with (`MI_ENCODE_FREELIST`), and the encoding of a null link.
    keys: Option<([u64; 2], u64)>,
}

/// The fields that start the chains of a page's free blocks.
pub const CHAINS: [&str; 3] = ["mi_page.free", "mi_page.local_free", "mi_page.xthread_free"];

/// The free blocks of a page, one bit each.
pub struct FreeBlocks {
    bits: Vec<u64>,
    /// Number freed by the owner or never used.
    pub count: usize,
    /// Number freed by other threads, which the page still counts as used.
    pub by_others: usize,
    /// Whether the number equals the page's own count exactly.
    pub agrees: bool,
}

impl FreeBlocks {
    /// No free block among so many.
    pub fn none_of(capacity: usize) -> FreeBlocks {
        FreeBlocks { bits: vec![0; capacity.div_ceil(64)], count: 0, by_others: 0, agrees: false }
    }

    /// Whether block `index` is free.
    #[inline(always)]
    pub fn contains(&self, index: usize) -> bool {
        self.bits.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }
}

/// By how much a page's count may differ from its chains: not at all, or by the one block that its owner was allocating
/// or freeing when it was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tolerance {
    /// The counts agree.
    Exact,
    /// They may differ by one block.
    OneBlock,
}

/// Finds the segments that begin in `resident`, the resident parts of writable anonymous memory, in order. A segment
/// may consist of several mappings, because unused parts may be inaccessible.
pub fn find<M: Memory + ?Sized>(memory: &M, layout: &Layout, resident: &[Range<Address>]) -> Vec<PageSegment> {
    let shapes = layout.mimalloc_shapes().into_iter().map(Arc::new);
    // Offsets of another mimalloc version find no segments, or fewer.
    let found = shapes.map(|shape| find_shaped(memory, &shape, resident)).enumerate();
    found.max_by_key(|(index, found)| (found.len(), Reverse(*index))).map(|(_, found)| found).unwrap_or_default()
}

fn find_shaped<M: Memory + ?Sized>(
    memory: &M,
    shape: &Arc<MimallocShape>,
    resident: &[Range<Address>],
) -> Vec<PageSegment> {
    let mut found: Vec<(u64, PageSegment)> = Vec::new();
    let mut from = 0;
    for piece in resident {
        let mut at = piece.start.0.max(from).next_multiple_of(SEGMENT);
        while at < piece.end.0 {
            let read = read_segment(memory, shape, Address(at), resident);
            let end = read.as_ref().map_or(at, |(_, segment)| segment.range.end.0 - 1);
            at = (end / SEGMENT + 1).saturating_mul(SEGMENT);
            found.extend(read);
        }
        from = from.max(at);
    }
    // The cookie is the segment's address mixed with a random number of the process.
    let mut votes: FxHashMap<u64, usize> = FxHashMap::default();
    found.iter().for_each(|(secret, _)| *votes.entry(*secret).or_default() += 1);
    let Some((&secret, _)) = votes.iter().max_by_key(|&(&secret, &votes)| (votes, secret)) else { return Vec::new() };
    found.into_iter().filter(|(of, _)| *of == secret).map(|(_, segment)| segment).collect()
}

/// Reads the segment at `address`, if there is one, and the number that its cookie is mixed with.
fn read_segment<M: Memory + ?Sized>(
    memory: &M,
    shape: &Arc<MimallocShape>,
    address: Address,
    resident: &[Range<Address>],
) -> Option<(u64, PageSegment)> {
    let (fields, page) = (&shape.segment, &shape.page);
    let head = head_bytes(fields, page);
    let bytes = memory.read_bytes(address, head as u64, 2 * SLICE as usize, "mimalloc segment").ok()?;
    let word = |offset: usize| u64_at(&bytes, offset);
    let (slices, info) = (word(fields.segment_slices)?, word(fields.segment_info_slices)?);
    let length = slices.checked_mul(SLICE).filter(|&length| length <= HUGE_MAX)?;
    let end = Address(address.0.checked_add(length)?);
    let is_huge = slices > SLICES_MAX;
    let sane = info > 0
        && info < slices
        && info == (fields.size as u64).div_ceil(SLICE)
        && word(fields.slice_entries)? == slices.min(SLICES_MAX)
        && u64::from(u32_at(&bytes, fields.slices + page.slice_count)?) == info;
    if !sane {
        return None;
    }
    let range = address..end;
    let mut pieces = within(resident, &range);
    if is_huge {
        // One page with one block: its data is not read.
        pieces = within(&pieces, &(address..Address(address.0 + (info + 1) * SLICE)));
    }
    Some((word(fields.cookie)? ^ address.0, PageSegment { range, pieces, head, shape: Arc::clone(shape) }))
}

/// Bytes of a segment's header and all its slots.
fn head_bytes(segment: &MiSegment, page: &MiPage) -> usize {
    (segment.slices + (SLICES_MAX as usize + 1) * page.size).min(2 * SLICE as usize)
}

/// The parts of `pieces`, which are in order and not empty, within `range`.
pub fn within(pieces: &[Range<Address>], range: &Range<Address>) -> Vec<Range<Address>> {
    if range.is_empty() {
        return Vec::new();
    }
    let first = pieces.partition_point(|piece| piece.end <= range.start);
    pieces[first..]
        .iter()
        .take_while(|piece| piece.start < range.end)
        .map(|piece| piece.start.max(range.start)..piece.end.min(range.end))
        .collect()
}

/// The pages in use of the segment whose header and slots are `head`, and the offsets of invalid slots.
///
/// Each slot is examined separately. Following pages by their lengths would be shorter, but the slots of a running
/// target are from slightly different instants. A single outdated length would lead into free slices, whose slots are
/// stale, and skip pages from there on.
pub fn pages(segment: &PageSegment, head: &[u8]) -> (Vec<Page>, Vec<usize>) {
    let (mut found, mut broken) = (Vec::new(), Vec::new());
    let (fields, page) = (&segment.shape.segment, &segment.shape.page);
    let word = |offset: usize| u64_at(head, offset).unwrap_or(0);
    let (info, entries) = (word(fields.segment_info_slices), word(fields.slice_entries).min(SLICES_MAX));
    for index in info..entries {
        let slot = fields.slices + index as usize * page.size;
        match Page::read(segment, head, slot) {
            Ok(Some(page)) => found.push(page),
            Ok(None) => {}
            Err(Nonsense) => broken.push(slot),
        }
    }
    (found, broken)
}

/// An invalid slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonsense;

impl Page {
    /// Reads the slot at offset `slot` of a segment's header. `None` if the slices are free or no block is in use.
    ///
    /// # Errors
    /// [`Nonsense`] if it cannot be the slot of a page.
    pub fn read(segment: &PageSegment, head: &[u8], slot: usize) -> Result<Option<Page>, Nonsense> {
        Page::decode(segment, head, slot).unwrap_or(Err(Nonsense))
    }

    fn decode(segment: &PageSegment, head: &[u8], slot: usize) -> Option<Result<Option<Page>, Nonsense>> {
        let (fields, of_segment) = (&segment.shape.page, &segment.shape.segment);
        let bytes = head.get(slot..slot.checked_add(fields.size)?)?;
        let index = slot.checked_sub(of_segment.slices)? / fields.size;
        // The other slots of a page never count used blocks.
        let is_first = u32_at(bytes, fields.slice_offset)? == 0;
        let span = u64::from(u32_at(bytes, fields.slice_count)?) * SLICE;
        let first = segment.range.start.0.checked_add(index as u64 * SLICE)?;
        let half =
            |offset: usize| Some(usize::from(u16::from_le_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?)));
        let block_size = match (fields.block_size, fields.xblock_size) {
            (Some(offset), _) => u64_at(bytes, offset)?,
            (None, Some(offset)) => match u64::from(u32_at(bytes, offset)?) {
                HUGE_BLOCK.. => span,
                size => size,
            },
            (None, None) => return None,
        };
        // In 3.13 `used` has 32 bits, as the block size; since then 16.
        let used = if fields.block_size.is_some() { half(fields.used)? } else { u32_at(bytes, fields.used)? as usize };
        let capacity = half(fields.capacity)?;
        if block_size == 0 || used == 0 {
            return Some(Ok(None));
        }
        let start = match fields.page_start {
            Some(offset) => u64_at(bytes, offset)?,
            // `_mi_segment_page_start_from_slice`.
            None => first.checked_add(match block_size {
                ..8 => 0,
                8..=64 => 3 * block_size,
                65..=512 => block_size,
                _ => 0,
            })?,
        };
        let tag = match (fields.heap_tag, fields.tag) {
            (Some(offset), _) => *bytes.get(offset)?,
            (None, Some(bits)) => bits.of(u64::from(u32_at(bytes, bits.byte)?)) as u8,
            (None, None) => 0,
        };
        let length = (capacity as u64).checked_mul(block_size)?;
        let end = first.checked_add(span)?;
        let sane = block_size % 8 == 0
            && is_first
            && start >= first
            && start.checked_add(length)? <= end
            && end <= segment.range.end.0
            && used <= capacity
            && capacity < BLOCKS_MAX;
        let Some(kind) = Kind::of_tag(tag).filter(|_| sane) else { return Some(Err(Nonsense)) };
        // Debug builds keep two keys before the chain of other threads.
        let before_keys = fields.page_start.unwrap_or(fields.local_free) + 8;
        let keys = if fields.xthread_free == before_keys + 16 {
            let none = segment.range.start.0.checked_add(slot as u64)?;
            Some(([u64_at(bytes, before_keys)?, u64_at(bytes, before_keys + 8)?], none))
        } else {
            None
        };
        Some(Ok(Some(Page {
            slot,
            start: Address(start),
            block_size,
            capacity,
            used,
            kind,
            free: u64_at(bytes, fields.free)?,
            local_free: u64_at(bytes, fields.local_free)?,
            thread_free: u64_at(bytes, fields.xthread_free)? & !DELAYED_BITS,
            keys,
        })))
    }

    /// Which of its [`CHAINS`] are not empty.
    pub fn chains(&self) -> [bool; CHAINS.len()] {
        [self.free, self.local_free, self.thread_free].map(|first| first != 0)
    }

    /// Bytes read of each block.
    pub fn stride(&self) -> usize {
        self.block_size.min(PREFIX) as usize
    }

    /// Address of block `index`.
    pub fn block(&self, index: usize) -> Address {
        Address(self.start.0 + index as u64 * self.block_size)
    }

    /// Walks the chains of free blocks. `bytes` holds [`Page::stride`] bytes of each block. `None` if a chain leaves
    /// the page, visits a block twice or disagrees with the count: the page changed while it was read.
    pub fn free_blocks(&self, bytes: &[u8], tolerance: Tolerance) -> Option<FreeBlocks> {
        let mut free = FreeBlocks::none_of(self.capacity);
        self.walk(self.free, bytes, &mut free)?;
        self.walk(self.local_free, bytes, &mut free)?;
        free.count = free.by_others;
        free.by_others = 0;
        self.walk(self.thread_free, bytes, &mut free)?;
        let (stated, found) = (self.capacity - self.used, free.count);
        free.agrees = stated == found;
        let is_near = match tolerance {
            Tolerance::Exact => free.agrees,
            Tolerance::OneBlock => stated.abs_diff(found) <= 1,
        };
        (is_near && free.by_others <= self.used).then_some(free)
    }

    /// Blocks whose first word links to a block of the same page, for a page that changes faster than it can be read.
    /// In a free-threaded build that word of an object is a thread id or a field in front of it, so these are the free
    /// ones; in others it may also be the link of a GC head. The last block of a chain has a null link.
    pub fn linked_blocks(&self, bytes: &[u8]) -> FreeBlocks {
        let mut free = FreeBlocks::none_of(self.capacity);
        for index in 0..self.capacity {
            let link = u64_at(bytes, index * self.stride()).map(|word| self.link(word));
            let offset = link.and_then(|link| link.checked_sub(self.start.0));
            let is_block =
                |offset: u64| offset.is_multiple_of(self.block_size) && offset / self.block_size < self.capacity as u64;
            if offset.is_some_and(is_block) {
                free.bits[index / 64] |= 1 << (index % 64);
                free.count += 1;
            }
        }
        free
    }

    /// Walks one chain and counts each visited block in `by_others`.
    fn walk(&self, first: u64, bytes: &[u8], free: &mut FreeBlocks) -> Option<()> {
        let mut next = first;
        while next != 0 {
            let offset = next.checked_sub(self.start.0)?;
            let index = usize::try_from(offset / self.block_size).ok()?;
            if offset % self.block_size != 0 || index >= self.capacity || free.contains(index) {
                return None;
            }
            free.bits[index / 64] |= 1 << (index % 64);
            free.by_others += 1;
            next = self.link(u64_at(bytes, index * self.stride())?);
        }
        Some(())
    }

    /// Decodes a link (`mi_ptr_decode`).
    fn link(&self, word: u64) -> u64 {
        let Some((keys, none)) = self.keys else { return word };
        let link = word.wrapping_sub(keys[0]).rotate_right((keys[0] % 64) as u32) ^ keys[1];
        if link == none { 0 } else { link }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::image::{Image, Segment as Bytes};
    use crate::python::layout::{Build, Candidate};

    const START: u64 = 4 * SEGMENT;
    const BLOCK: u64 = 1024;

    fn layout(name: &str) -> Layout {
        let candidate = Candidate::all().iter().find(|candidate| candidate.name == name).unwrap();
        assert_ne!(candidate.build, Build::Debug);
        Layout::load(candidate)
    }

    /// A segment of three slices: header; a page of four blocks (the second and third free, in two chains); free.
    struct Made {
        layout: Layout,
        bytes: Vec<u8>,
        slot: usize,
    }

    impl Made {
        fn new(name: &str) -> Made {
            let layout = layout(name);
            let (segment, page) = (layout.mi_segment.clone().unwrap(), layout.mi_page.clone().unwrap());
            let slot = segment.slices + page.size;
            let mut made = Made { layout, bytes: vec![0; 3 * SLICE as usize], slot };
            made.word(segment.cookie, START ^ 0x1234_5678_9abc);
            made.word(segment.segment_slices, 3);
            made.word(segment.segment_info_slices, 1);
            made.word(segment.slice_entries, 3);
            made.half(segment.slices + page.slice_count, 1);
            made.half(slot + page.slice_count, 1);
            made.half(slot + page.slice_count + page.size, 1);
            made.half(slot + page.capacity, 4);
            made.half(slot + page.used, 2);
            match (page.block_size, page.xblock_size) {
                (Some(offset), _) => made.word(slot + offset, BLOCK),
                (None, offset) => made.half(slot + offset.unwrap(), BLOCK as u16),
            }
            if let Some(offset) = page.page_start {
                made.word(slot + offset, START + SLICE);
            }
            made.word(slot + page.free, START + SLICE + BLOCK);
            made.word(slot + page.local_free, START + SLICE + 2 * BLOCK);
            made
        }

        fn word(&mut self, offset: usize, word: u64) {
            self.bytes[offset..offset + 8].copy_from_slice(&word.to_le_bytes());
        }

        fn half(&mut self, offset: usize, half: u16) {
            self.bytes[offset..offset + 2].copy_from_slice(&half.to_le_bytes());
        }

        fn segments(&self) -> Vec<PageSegment> {
            let image = Image::of_segments(vec![Bytes { start: Address(START), bytes: self.bytes.clone() }]);
            let range = Address(START)..Address(START + self.bytes.len() as u64);
            find_shaped(&image, &self.layout.mimalloc_shapes().swap_remove(0).into(), std::slice::from_ref(&range))
        }

        fn pages(&self) -> (Vec<Page>, Vec<usize>) {
            let segments = self.segments();
            assert_eq!(segments.len(), 1);
            pages(&segments[0], &self.bytes[..segments[0].head])
        }

        fn blocks(&self) -> &[u8] {
            &self.bytes[SLICE as usize..][..4 * BLOCK as usize]
        }
    }

    const NAMES: [&str; 4] = ["3.13.5t", "3.14.10t", "3.15.2t", "3.13.0"];

    #[test]
    fn a_page_tells_its_free_blocks_from_those_in_use() {
        for name in NAMES {
            let made = Made::new(name);
            let (pages, broken) = made.pages();
            assert_eq!((pages.len(), broken), (1, vec![]), "{name}");
            assert_eq!((pages[0].start, pages[0].block_size), (Address(START + SLICE), BLOCK), "{name}");
            let free = pages[0].free_blocks(made.blocks(), Tolerance::Exact).unwrap();
            assert_eq!((0..4).map(|index| free.contains(index)).collect::<Vec<_>>(), [false, true, true, false]);
            assert!(!free.contains(usize::MAX));
        }
    }

    #[test]
    fn a_page_is_found_whatever_the_slots_before_it_say() {
        for name in NAMES {
            let page = layout(name).mi_page.unwrap();
            for count in [0, 2, u16::MAX] {
                let mut made = Made::new(name);
                let first = made.slot;
                // The page is the second one; the free one before it claims to be longer.
                let slot: Vec<u8> = made.bytes[first..first + page.size].to_vec();
                made.bytes[first..first + page.size].fill(0);
                made.bytes[first + page.size..first + 2 * page.size].copy_from_slice(&slot);
                made.half(first + page.slice_count, count);
                if let Some(offset) = page.page_start {
                    made.word(first + page.size + offset, START + 2 * SLICE);
                }
                let (pages, broken) = made.pages();
                assert_eq!((pages.len(), broken), (1, vec![]), "{name} {count}");
                assert_eq!(pages[0].start, Address(START + 2 * SLICE));
            }
        }
    }

    #[test]
    fn segments_tell_which_mimalloc_they_are_of() {
        // 3.14.8 and 3.15.0 have the mimalloc of 3.13, while their tables are those of later releases.
        for (name, table) in [("3.13.0", "3.15.2"), ("3.13.5t", "3.14.10t"), ("3.15.2", "3.13.0")] {
            let made = Made::new(name);
            let image = Image::of_segments(vec![Bytes { start: Address(START), bytes: made.bytes.clone() }]);
            let range = Address(START)..Address(START + made.bytes.len() as u64);
            let segments = find(&image, &layout(table), std::slice::from_ref(&range));
            assert_eq!(segments.len(), 1);
            assert_eq!(segments[0].shape.page, made.layout.mi_page.clone().unwrap());
        }
    }

    #[test]
    fn chains_that_turn_back_or_lead_out_are_refused() {
        for name in NAMES {
            let page = layout(name).mi_page.unwrap();
            // A cycle, a link into the middle of a block, past the end, before the start, elsewhere.
            for link in [START + SLICE + BLOCK, START + SLICE + 8, START + 2 * SLICE, START, u64::MAX] {
                let mut made = Made::new(name);
                made.word((SLICE + BLOCK) as usize, link);
                let (pages, _) = made.pages();
                assert!(pages[0].free_blocks(made.blocks(), Tolerance::OneBlock).is_none(), "{name} {link:#x}");
                // Memory that is too short.
                assert!(pages[0].free_blocks(&made.blocks()[..9], Tolerance::OneBlock).is_none());
            }
            let mut made = Made::new(name);
            made.half(made.slot + page.used, 3);
            let (pages, _) = made.pages();
            assert!(pages[0].free_blocks(made.blocks(), Tolerance::Exact).is_none());
            assert!(!pages[0].free_blocks(made.blocks(), Tolerance::OneBlock).unwrap().agrees);
        }
    }

    #[test]
    fn absurd_sizes_and_counts_are_counted_as_broken() {
        for name in NAMES {
            let page = layout(name).mi_page.unwrap();
            let broken = |change: &dyn Fn(&mut Made)| {
                let mut made = Made::new(name);
                change(&mut made);
                let (pages, broken) = made.pages();
                assert!(pages.is_empty(), "{name}");
                broken.len()
            };
            assert_eq!(broken(&|made| made.half(made.slot + page.capacity, u16::MAX)), 1);
            assert_eq!(broken(&|made| made.half(made.slot + page.used, 9)), 1);
            assert_eq!(broken(&|made| made.half(made.slot + page.slice_count, 0)), 1);
            assert_eq!(broken(&|made| made.half(made.slot + page.slice_offset, 96)), 1);
            let size_at = page.block_size.or(page.xblock_size).unwrap();
            assert_eq!(broken(&|made| made.half(made.slot + size_at, 1025)), 1);
            assert_eq!(broken(&|made| made.bytes[made.slot + size_at + 3] = 0x7f), 1);
            if let Some(start) = page.page_start {
                for wrong in [0, START, u64::MAX] {
                    assert_eq!(broken(&|made| made.word(made.slot + start, wrong)), 1);
                }
            }
            // An impossible block size, or no used block: not a page.
            assert_eq!(broken(&|made| made.half(made.slot + page.used, 0)), 0);
        }
    }

    #[test]
    fn what_only_resembles_a_segment_is_none() {
        for name in NAMES {
            let segment = layout(name).mi_segment.unwrap();
            for (offset, word) in [
                (segment.segment_slices, u64::MAX),
                (segment.segment_slices, 1),
                (segment.segment_info_slices, 0),
                (segment.segment_info_slices, 2),
                (segment.slice_entries, 513),
            ] {
                let mut made = Made::new(name);
                made.word(offset, word);
                assert_eq!(made.segments(), []);
            }
        }
    }
}
