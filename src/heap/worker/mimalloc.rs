//! Reads a mimalloc segment: the header first, then page by page.
//!
//! If a page's chains and its count disagree, it changed while it was read; its header and blocks are read again. Pages
//! that were never written are not read but taken as zeros.

use std::ops::Range;

use crate::allocator::debug_header::DebugHeader;
use crate::allocator::mimalloc::{self, FreeBlocks, Kind, Page, PageSegment, Tolerance};
use crate::allocator::room::BlockRoom;
use crate::heap::classify::classifier::BlockVerdict;
use crate::heap::object::Sink;
use crate::process::memory::{Memory, Now, Piece, ReadError};
use crate::process::{Address, PAGE};

use super::{POOL_RETRIES, Window, Worker, only_fatal};

/// The bytes of a page's blocks.
enum PageBlocks<'a> {
    Local(&'a [u8]),
    Read(Vec<u8>),
}

impl<M: Memory + ?Sized, S: Sink> Worker<'_, M, S> {
    /// Reads a segment.
    pub(crate) fn read_segment(&mut self, segment: &PageSegment) -> Result<(), ReadError> {
        self.read_some_pages(segment, |_| true)
    }

    /// Reads those pages of a segment whose blocks lie in a range that is wanted.
    pub(crate) fn read_some_pages(
        &mut self,
        segment: &PageSegment,
        is_wanted: impl Fn(&Range<Address>) -> bool,
    ) -> Result<(), ReadError> {
        let mut head = vec![0; segment.head];
        match read_head(self.memory, segment, &mut head) {
            Ok(()) => {}
            Err(error) => {
                self.counts.unreadable_bytes += segment.head as u64;
                return only_fatal(error);
            }
        }
        let (mut pages, broken) = mimalloc::pages(segment, &head);
        for slot in broken {
            let mut again = head.clone();
            let page = self.read_slot_again(segment, slot, &mut again)?;
            let has_changed = again != head || !self.is_as_before(segment.range.start, &again);
            match page {
                Ok(page) => pages.extend(page),
                Err(mimalloc::Nonsense) => {
                    self.counts.torn_pools += 1;
                    self.counts.contradicting_pools += u64::from(!has_changed);
                }
            }
        }
        let range = |page: &Page| page.start..page.block(page.capacity);
        for page in pages.into_iter().filter(|page| is_wanted(&range(page))) {
            self.read_page(segment, page, &mut head)?;
        }
        Ok(())
    }

    /// Reads a page's header again until it is valid.
    fn read_slot_again(
        &self,
        segment: &PageSegment,
        slot: usize,
        head: &mut [u8],
    ) -> Result<Result<Option<Page>, mimalloc::Nonsense>, ReadError> {
        let is_local = self.memory.local(segment.range.start, 8).is_some();
        for _ in 0..POOL_RETRIES {
            match read_head(&Now(self.memory), segment, head) {
                Ok(()) => {}
                // A process that is gone by now has been copied all the same.
                Err(_) if is_local => break,
                Err(error) => only_fatal(error)?,
            }
            if let Ok(page) = Page::read(segment, head, slot) {
                return Ok(Ok(page));
            }
        }
        Ok(Err(mimalloc::Nonsense))
    }

    fn read_page(&mut self, segment: &PageSegment, mut page: Page, head: &mut [u8]) -> Result<(), ReadError> {
        let memory = self.memory;
        let blocks = blocks(memory, segment, &page)?;
        let bytes = match &blocks {
            Some(PageBlocks::Local(bytes)) => bytes,
            Some(PageBlocks::Read(bytes)) => bytes.as_slice(),
            // Unreadable at this time: no block can be classified.
            None => &[],
        };
        if !bytes.is_empty()
            && let Some(free) = page.free_blocks(bytes, Tolerance::Exact)
        {
            return self.judge_page(&page, &free, bytes, None);
        }
        let is_local = memory.local(segment.range.start, 8).is_some();
        // Then threads run in parallel, and several may be between two steps.
        let has_ids = self.classifier.layout().object.ob_ref_shared.is_some();
        let mut stands_still = false;
        if is_local {
            // It does not change any more; its thread was stopped between two steps.
            if !bytes.is_empty()
                && let Some(free) = page.free_blocks(bytes, Tolerance::OneBlock)
            {
                let stands_still = self.is_as_before(page.start, bytes) && self.is_as_before(segment.range.start, head);
                self.counts.page_chains.unbalanced += u64::from(stands_still);
                return self.judge_page(&page, &free, bytes, None);
            }
            stands_still = !bytes.is_empty()
                && self.is_as_before(page.start, bytes)
                && self.is_as_before(segment.range.start, head);
            if !bytes.is_empty() && (!stands_still || has_ids) {
                return self.judge_moving(&page, stands_still, bytes);
            }
        } else {
            let mut before = (head.to_vec(), bytes.to_vec());
            for retry in 1..=POOL_RETRIES {
                stands_still = false;
                read_head(memory, segment, head).or_else(only_fatal)?;
                match Page::read(segment, head, page.slot) {
                    Ok(Some(again)) => page = again,
                    Ok(None) => return Ok(()),
                    Err(mimalloc::Nonsense) => continue,
                }
                let Some(again) = self.read_blocks(&page)? else {
                    // The header, read anew, still has blocks where nothing can be read: no further attempt helps.
                    if before.1.is_empty() {
                        break;
                    }
                    before.1.clear();
                    continue;
                };
                let tolerance = if retry == POOL_RETRIES { Tolerance::OneBlock } else { Tolerance::Exact };
                stands_still = before.0 == head && before.1 == again;
                if let Some(free) = page.free_blocks(&again, tolerance) {
                    self.counts.page_chains.unbalanced += u64::from(stands_still && !free.agrees);
                    return self.judge_page(&page, &free, &again, None);
                }
                // It changes faster than it is read.
                if retry == POOL_RETRIES && (!stands_still || has_ids) {
                    return self.judge_moving(&page, stands_still, &again);
                }
                before = (head.to_vec(), again);
            }
        }
        self.counts.torn_pools += 1;
        self.contradicts(&page, stands_still);
        Ok(())
    }

    /// Judges a page whose numbers do not add up by its blocks alone: its threads changed it meanwhile, or were stopped
    /// between two steps. In free-threaded builds a link marks a free block; in others an object with a GC head begins
    /// with a link as well.
    fn judge_moving(&mut self, page: &Page, stands_still: bool, bytes: &[u8]) -> Result<(), ReadError> {
        self.counts.moving_pools += 1;
        self.contradicts(page, stands_still);
        let linked = page.linked_blocks(bytes);
        match self.classifier.layout().object.ob_ref_shared {
            Some(_) => self.judge_page(page, &linked, bytes, None),
            None => self.judge_page(page, &FreeBlocks::none_of(page.capacity), bytes, Some(&linked)),
        }
    }

    /// Counts a page that no attempt could read consistently.
    fn contradicts(&mut self, page: &Page, stands_still: bool) {
        self.counts.contradicting_pools += u64::from(stands_still);
        if stands_still {
            self.counts.page_chains.refute(page);
        }
    }

    /// Reads the current blocks of a page. `None` if that fails.
    fn read_blocks(&self, page: &Page) -> Result<Option<Vec<u8>>, ReadError> {
        let mut bytes = vec![0; page.capacity * page.stride()];
        if page.stride() as u64 == page.block_size {
            let read = self.memory.read_exact_at(page.start, &mut bytes);
            return read.map(|()| Some(bytes)).or_else(|error| only_fatal(error).map(|()| None));
        }
        let mut pieces: Vec<Piece<'_>> = bytes
            .chunks_exact_mut(page.stride())
            .enumerate()
            .map(|(index, buffer)| Piece { address: page.block(index), buffer, filled: false })
            .collect();
        self.memory.read_pieces(&mut pieces)?;
        let all = pieces.iter().all(|piece| piece.filled);
        Ok(all.then_some(bytes))
    }

    /// Classifies the blocks of a page in use. A block in `linked` that begins with an object is free as well.
    fn judge_page(
        &mut self,
        page: &Page,
        free: &FreeBlocks,
        bytes: &[u8],
        linked: Option<&FreeBlocks>,
    ) -> Result<(), ReadError> {
        self.counts.pools += 1;
        self.counts.blocks_in_use += page.used as u64;
        if free.agrees {
            self.counts.page_chains.confirm(page);
        }
        let classifier = self.classifier;
        let window =
            Window { start: page.start, bytes: if page.stride() as u64 == page.block_size { bytes } else { &[] } };
        for (index, block) in bytes.chunks_exact(page.stride()).take(page.capacity).enumerate() {
            if free.contains(index) {
                continue;
            }
            let at = page.block(index);
            let verdict = classifier.block(at, block, BlockRoom::Bin(page.block_size));
            let is_linked = linked.is_some_and(|linked| linked.contains(index));
            let verdict = match verdict {
                BlockVerdict::Object(found) if is_linked && found.address == at => BlockVerdict::NoObject,
                BlockVerdict::Implausible(block) if is_linked && block.address == at => BlockVerdict::NoObject,
                BlockVerdict::Object(found) if !self.may_be_in(page.kind, at, found.address) => BlockVerdict::NoObject,
                BlockVerdict::Implausible(block) if !self.may_be_in(page.kind, at, block.address) => {
                    BlockVerdict::NoObject
                }
                verdict => verdict,
            };
            self.count_block(at, page.block_size, &verdict);
            self.judge(verdict, window)?;
        }
        Ok(())
    }

    /// Whether an object at `object` can be in the block at `block` of such a page. In a default build all pages are of
    /// one kind.
    fn may_be_in(&self, kind: Kind, block: Address, object: Address) -> bool {
        let layout = self.classifier.layout();
        if layout.object.ob_ref_shared.is_none() {
            return true;
        }
        let mark = if self.classifier.debug_hooks { DebugHeader::SIZE } else { 0 };
        match kind {
            // An extension may allocate a type from memory that is not for objects.
            Kind::Memory => self.classifier.types().find(object.0).is_some(),
            Kind::Object | Kind::Collected => object == block.offset(mark),
            Kind::CollectedBehindFront => object == block.offset(mark + layout.constants.preheader_size),
        }
    }
}

/// Reads a segment's header, which has the headers of all its pages. Where it was never written it is not read, but
/// zeros: a copy has only what was, and one read of all would be of the process, which has gone on.
fn read_head<M: Memory + ?Sized>(memory: &M, segment: &PageSegment, head: &mut [u8]) -> Result<(), ReadError> {
    let start = segment.range.start;
    head.fill(0);
    for piece in mimalloc::within(&segment.pieces, &(start..start.offset(head.len()))) {
        let (from, to) = ((piece.start.0 - start.0) as usize, (piece.end.0 - start.0) as usize);
        memory.read_exact_at(piece.start, &mut head[from..to])?;
    }
    Ok(())
}

/// The blocks of a page, or the first bytes of each large one: from local memory, or read as far as they were written.
/// `None` if a part cannot be read.
fn blocks<'m, M: Memory + ?Sized>(
    memory: &'m M,
    segment: &PageSegment,
    page: &Page,
) -> Result<Option<PageBlocks<'m>>, ReadError> {
    let stride = page.stride();
    let is_whole = stride as u64 == page.block_size;
    if is_whole && let Some(bytes) = memory.local(page.start, page.capacity * stride) {
        return Ok(Some(PageBlocks::Local(bytes)));
    }
    let mut bytes = vec![0; page.capacity * stride];
    // Carving a block writes to its start, so every page with small blocks was written, even if the kernel reports
    // otherwise while it migrates pages.
    if is_whole && page.block_size <= PAGE {
        return match memory.read_exact_at(page.start, &mut bytes) {
            Ok(()) => Ok(Some(PageBlocks::Read(bytes))),
            Err(error) => only_fatal(error).map(|()| None),
        };
    }
    let fill = |start: Address, into: &mut [u8]| -> Result<(), ReadError> {
        for piece in mimalloc::within(&segment.pieces, &(start..start.offset(into.len()))) {
            let (from, to) = ((piece.start.0 - start.0) as usize, (piece.end.0 - start.0) as usize);
            memory.read_exact_at(piece.start, &mut into[from..to])?;
        }
        Ok(())
    };
    let filled = if is_whole {
        fill(page.start, &mut bytes)
    } else {
        let blocks = bytes.chunks_exact_mut(stride).enumerate();
        blocks.into_iter().try_for_each(|(index, block)| fill(page.block(index), block))
    };
    match filled {
        Ok(()) => Ok(Some(PageBlocks::Read(bytes))),
        Err(error) => only_fatal(error).map(|()| None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::classify::classifier::Classifier;
    use crate::heap::object::Object;
    use crate::heap::testing::{Changing, FLOAT, START, image, put, types};
    use crate::heap::worker::Counts;
    use crate::process::layered::Layered;
    use crate::python::layout::{Candidate, Layout};
    use crate::python::types::TypeTable;
    use crate::python::version::Version;

    /// `MI_SEGMENT_SLICE_SIZE`.
    const SLICE: usize = 64 << 10;
    /// Bytes of a block: pages of smaller ones begin further in.
    const BLOCK: usize = 1024;

    fn layout() -> Layout {
        let candidate = Candidate::all().iter().find(|candidate| candidate.name == "3.13.0").unwrap();
        Layout::load(candidate)
    }

    /// The offset of a page's header in a segment whose second slice is that page.
    fn slot(layout: &Layout) -> usize {
        layout.mi_segment.as_ref().unwrap().slices + layout.mi_page.as_ref().unwrap().size
    }

    fn half(bytes: &mut [u8], offset: usize, half: u16) {
        bytes[offset..offset + 2].copy_from_slice(&half.to_le_bytes());
    }

    /// A segment of two slices: its header, and a page with a float, two free blocks that were floats, and a block
    /// without an object.
    fn made(layout: &Layout) -> Vec<u8> {
        let (segment, page) = (layout.mi_segment.clone().unwrap(), layout.mi_page.clone().unwrap());
        let (mut bytes, slot) = (vec![0; 2 * SLICE], slot(layout));
        put(&mut bytes, segment.cookie, START ^ 0x1234_5678_9abc);
        put(&mut bytes, segment.segment_slices, 2);
        put(&mut bytes, segment.segment_info_slices, 1);
        put(&mut bytes, segment.slice_entries, 2);
        half(&mut bytes, segment.slices + page.slice_count, 1);
        half(&mut bytes, slot + page.slice_count, 1);
        half(&mut bytes, slot + page.capacity, 4);
        half(&mut bytes, slot + page.used, 2);
        half(&mut bytes, slot + page.xblock_size.unwrap(), BLOCK as u16);
        let start = START + SLICE as u64;
        put(&mut bytes, slot + page.free, start + BLOCK as u64);
        put(&mut bytes, slot + page.local_free, start + 2 * BLOCK as u64);
        for block in 0..3 {
            put(&mut bytes, SLICE + BLOCK * block, u64::from(block == 0));
            put(&mut bytes, SLICE + BLOCK * block + 8, FLOAT);
        }
        bytes
    }

    /// The offsets of the objects that a worker finds in the page. The segment is found in `made`.
    fn read(memory: &impl Memory) -> (Vec<u64>, Counts) {
        let layout = layout();
        let table = TypeTable::of(types(&layout));
        let classifier = Classifier::new(&layout, Version::release(3, 13, 0), &table, false);
        let range = Address(START)..Address(START + 2 * SLICE as u64);
        let segments = mimalloc::find(&image(made(&layout)), &layout, std::slice::from_ref(&range));
        assert_eq!(segments.len(), 1);
        let mut worker = Worker::new(memory, &classifier, Vec::<Object>::new());
        worker.read_segment(&segments[0]).unwrap();
        let (objects, counts) = worker.finish().unwrap();
        (objects.iter().map(|object| object.address.0 - START - SLICE as u64).collect(), counts)
    }

    #[test]
    fn objects_are_in_used_blocks_and_other_blocks_are_counted() {
        let (objects, counts) = read(&image(made(&layout())));
        assert_eq!(objects, [0]);
        assert_eq!((counts.pools, counts.blocks_in_use, counts.torn_pools), (1, 2, 0));
        assert_eq!((counts.bytes.with_object, counts.bytes.without_object), (1024, 1024));
    }

    #[test]
    fn a_thread_stopped_between_two_steps_leaves_one_block_too_many() {
        let layout = layout();
        let used = slot(&layout) + layout.mi_page.as_ref().unwrap().used;
        let mut bytes = made(&layout);
        half(&mut bytes, used, 3);
        let (objects, counts) = read(&image(bytes.clone()));
        assert_eq!((objects, counts.torn_pools, counts.page_chains.unbalanced), (vec![0], 0, 1));
        // Two blocks too many are no state between two steps.
        half(&mut bytes, used, 4);
        let (objects, counts) = read(&image(bytes));
        assert_eq!((objects, counts.torn_pools, counts.contradicting_pools), (vec![], 1, 1));
    }

    #[test]
    fn a_page_that_contradicts_itself_is_counted_and_not_believed() {
        let layout = layout();
        let slot = slot(&layout);
        // Its chain leads out of it.
        let mut bytes = made(&layout);
        put(&mut bytes, SLICE + BLOCK, START);
        let (objects, counts) = read(&image(bytes));
        assert_eq!((objects, counts.torn_pools, counts.contradicting_pools), (vec![], 1, 1));
        // More used blocks than it has.
        let mut bytes = made(&layout);
        half(&mut bytes, slot + layout.mi_page.as_ref().unwrap().used, 9);
        let (objects, counts) = read(&image(bytes));
        assert_eq!((objects, counts.torn_pools, counts.contradicting_pools), (vec![], 1, 1));
        // A header that cannot be read.
        let (objects, counts) = read(&image(vec![0; 8]));
        assert_eq!((objects, counts.unreadable_bytes > 0), (vec![], true));
    }

    #[test]
    fn a_page_that_cannot_be_read_is_tried_twice() {
        let layout = layout();
        // The header alone, in memory that is not local.
        let head = made(&layout)[..SLICE].to_vec();
        let memory = Changing::new(head.clone(), head, 0);
        let (objects, counts) = read(&memory);
        assert_eq!((objects, counts.torn_pools, counts.contradicting_pools), (vec![], 1, 0));
        assert_eq!(memory.failed(), 2);
    }

    #[test]
    fn a_page_of_a_copy_that_changed_is_judged_by_its_blocks() {
        let layout = layout();
        // Its chain leads from a block that is free to one that is in use.
        let mut torn = made(&layout);
        put(&mut torn, SLICE + BLOCK, START + SLICE as u64);
        let (copy, now) = (image(torn.clone()), image(made(&layout)));
        let (objects, counts) = read(&Layered::new(&copy, &now));
        assert_eq!((objects, counts.moving_pools, counts.torn_pools), (vec![0], 1, 0));
        let (objects, counts) = read(&Layered::new(&copy, &now).of_one_instant(true));
        assert_eq!((objects, counts.torn_pools, counts.contradicting_pools), (vec![], 1, 1));
        // A header that is invalid in the copy is read again.
        let mut torn = made(&layout);
        half(&mut torn, slot(&layout) + layout.mi_page.as_ref().unwrap().used, 9);
        let (objects, counts) = read(&Layered::new(&image(torn), &now));
        assert_eq!((objects, counts.torn_pools), (vec![0], 0));
    }

    #[test]
    fn a_page_that_changes_is_read_again() {
        let layout = layout();
        let mut torn = made(&layout);
        put(&mut torn, SLICE + BLOCK, START);
        // The header, then the blocks; then both again with each retry.
        for (reads, torn_pools) in [(2, 0), (2 * POOL_RETRIES, 0), (2 + 2 * POOL_RETRIES, 1)] {
            let (objects, counts) = read(&Changing::new(torn.clone(), made(&layout), reads));
            assert_eq!((objects.len(), counts.torn_pools), (1 - torn_pools as usize, torn_pools), "{reads}");
            assert_eq!(counts.contradicting_pools, torn_pools);
        }
    }
}
