//! One worker of a census: reads a part of memory, judges its blocks, completes sizes, hands objects on, forgets.

pub mod conservative;
pub mod mimalloc;

use crate::allocator::glibc::{self, Chunk, Heap, Row};
use crate::allocator::pymalloc::arenas::Arena;
use crate::allocator::pymalloc::pools::{Pool, PoolState};
use crate::process::cache::CachedMemory;
use crate::process::memory::{Memory, Piece, ReadError, u64_at};
use crate::process::regions::Region;
use crate::process::{Address, MemoryExt};
use crate::python::deferred::{self, Deferred};
use crate::python::measure::Size;
use crate::python::proof::GC_FLAG_BITS;
use crate::python::reader::KeysHeader;

use super::classify::classifier::{Classifier, Found, LOWEST_ADDRESS, Room, Verdict};
use super::classify::fast_path::{Finds, Quick};
use super::classify::statics;
use super::layout_check::object::Trial;
use super::layout_check::votes::Trials;
use super::object::{Object, Refcount, Sink, USER_SPACE};
use super::plan::{MAPPED_PREFIX, Part};
use super::worker::mimalloc::PageChains;

/// Bytes of pools read at a time: what stays in the second-level cache until it has been judged. A multiple of every
/// pool size.
const POOLS_WINDOW: usize = 1024 << 10;
/// Bytes of a heap of chunks read at a time.
pub(crate) const WINDOW: usize = 1 << 20;
/// Sizes that wait to be completed: 20,000 take about 2 MiB.
const PENDING_MAX: usize = 20_000;
/// Pools that one system call reads.
const POOLS_AT_ONCE: usize = 16;
/// Bytes read behind a window of a heap, so that the last chunk that starts in it can be judged.
const LOOK_AHEAD: u64 = 4 << 10;
/// Bytes read before it: what looks like a row of chunks may begin with a number, but its second chunk is a true one.
const LOOK_BACK: u64 = 2 << 10;
/// Both together.
pub(crate) const MARGIN: u64 = LOOK_BACK + LOOK_AHEAD;
/// How often a pool that changed while it was read is read again.
pub(crate) const POOL_RETRIES: usize = 3;
/// Bytes between two wanted places that are read along rather than skipped.
const GAP: u64 = 512;
/// Longest run of wanted places that is read as one.
const RUN_MAX: u64 = 64 << 10;

/// What a census counted beside the objects. All of it is shown under the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Objects handed on.
    pub objects: u64,
    /// Pools in use, or mimalloc's pages.
    pub pools: u64,
    /// Blocks in use in them, as the pools count.
    pub blocks_in_use: u64,
    /// Pools whose head, count and chain of free blocks disagreed, however often they were read.
    pub torn_pools: u64,
    /// Pools that changed as fast, and whose blocks were judged one by one.
    pub moving_pools: u64,
    /// Of these two, pools that were the same in two reads one after the other: nothing changed them.
    pub contradicting_pools: u64,
    /// Whether mimalloc's pages agree with the layout.
    pub page_chains: PageChains,
    /// Objects whose size could not be completed: what they point at is gone or makes no sense.
    pub torn_objects: u64,
    /// Blocks that name a type and a count, but whose body cannot be right.
    pub implausible_blocks: u64,
    /// Bytes that should have been readable and were not.
    pub unreadable_bytes: u64,
    /// Bytes of malloc heaps in which no row of chunks was found.
    pub unparsed_bytes: u64,
    /// Bytes of unknown structure that were searched for objects.
    pub scanned_bytes: u64,
    /// Objects found in them.
    pub scanned_objects: u64,
    /// Whether objects of the rarer kinds agree with the layout.
    pub trials: Trials,
}

impl Counts {
    /// Adds another worker's.
    pub fn add(&mut self, other: &Counts) {
        self.objects += other.objects;
        self.pools += other.pools;
        self.blocks_in_use += other.blocks_in_use;
        self.torn_pools += other.torn_pools;
        self.moving_pools += other.moving_pools;
        self.contradicting_pools += other.contradicting_pools;
        self.page_chains.add(&other.page_chains);
        self.torn_objects += other.torn_objects;
        self.implausible_blocks += other.implausible_blocks;
        self.unreadable_bytes += other.unreadable_bytes;
        self.unparsed_bytes += other.unparsed_bytes;
        self.scanned_bytes += other.scanned_bytes;
        self.scanned_objects += other.scanned_objects;
        self.trials.add(&other.trials);
    }
}

/// A worker. It keeps two buffers and a list of sizes to complete, whatever the size of the target.
pub struct Worker<'a, M: Memory + ?Sized, S: Sink> {
    pub(crate) memory: &'a M,
    cached: CachedMemory<'a, M>,
    pub(crate) classifier: &'a Classifier<'a>,
    sink: S,
    pub(crate) counts: Counts,
    window: Vec<u8>,
    pending: Vec<Pending>,
    scratch: Vec<u8>,
    /// No object is larger than all memory that the target may write.
    size_max: u64,
}

/// An object whose size waits for a read.
struct Pending {
    address: Address,
    length: usize,
    object: Object,
    deferred: Deferred,
}

/// Memory at hand: the window being worked on.
#[derive(Clone, Copy)]
pub(crate) struct Window<'b> {
    pub(crate) start: Address,
    pub(crate) bytes: &'b [u8],
}

impl<'b> Window<'b> {
    pub(crate) fn get(&self, address: Address, length: usize) -> Option<&'b [u8]> {
        let offset = usize::try_from(address.0.checked_sub(self.start.0)?).ok()?;
        self.bytes.get(offset..offset.checked_add(length)?)
    }
}

impl<'a, M: Memory + ?Sized, S: Sink> Worker<'a, M, S> {
    /// A worker that hands its objects to `sink`.
    pub fn new(memory: &'a M, classifier: &'a Classifier<'a>, sink: S) -> Self {
        Worker {
            memory,
            cached: CachedMemory::new(memory),
            classifier,
            sink,
            counts: Counts::default(),
            window: vec![0; WINDOW],
            pending: Vec::new(),
            scratch: Vec::new(),
            size_max: memory.regions().iter().filter(|region| region.writable).map(Region::len).sum(),
        }
    }

    /// Reads one part.
    ///
    /// # Errors
    /// Only where the target cannot be read at all any more.
    pub fn read_part(&mut self, part: &Part) -> Result<(), ReadError> {
        match part {
            Part::Arena(arena) => self.read_arena(arena),
            Part::Heap(heap) => self.read_heap(heap),
            Part::Mapped(chunk) => self.read_mapped(*chunk),
            Part::Statics(range) => self.read_statics(range.start, range.end),
            Part::Segment(segment) => self.read_segment(segment),
            Part::Groups(area) => self.read_area(area),
            Part::Unstructured(range) => self.read_unstructured(range),
        }
    }

    /// Reads single pools, of which [`POOLS_AT_ONCE`] share a system call.
    ///
    /// # Errors
    /// As [`Worker::read_part`].
    pub fn read_pools(&mut self, pools: &[Address]) -> Result<(), ReadError> {
        let pool_size = self.classifier.layout().constants.pool_size;
        let mut buffer = std::mem::take(&mut self.window);
        buffer.resize(buffer.len().max(POOLS_AT_ONCE * pool_size), 0);
        let mut result = Ok(());
        for batch in pools.chunks(POOLS_AT_ONCE) {
            result = self.read_pool_batch(batch, &mut buffer[..batch.len() * pool_size]);
            if result.is_err() {
                break;
            }
        }
        self.window = buffer;
        result
    }

    fn read_pool_batch(&mut self, pools: &[Address], buffer: &mut [u8]) -> Result<(), ReadError> {
        let (memory, pool_size) = (self.memory, self.classifier.layout().constants.pool_size);
        let mut pieces: Vec<Piece<'_>> = pools
            .iter()
            .zip(buffer.chunks_exact_mut(pool_size))
            .map(|(&address, buffer)| Piece { address, buffer, filled: false })
            .collect();
        let is_local = pools.iter().all(|&pool| memory.local(pool, pool_size).is_some());
        if !is_local {
            memory.read_pieces(&mut pieces)?;
        }
        for piece in &pieces {
            let start = piece.address;
            match memory.local(start, pool_size) {
                Some(bytes) => self.read_pool(start, bytes, Window { start, bytes })?,
                None if piece.filled => self.read_pool(start, piece.buffer, Window { start, bytes: piece.buffer })?,
                None => self.counts.unreadable_bytes += pool_size as u64,
            }
        }
        Ok(())
    }

    /// Reads the chunks of a heap that start in `range`. Where its first one starts is found by looking for a row of
    /// chunks from some way before it on, unless the heap starts there.
    ///
    /// # Errors
    /// As [`Worker::read_part`].
    pub fn read_heap_window(&mut self, heap: &Heap, range: std::ops::Range<Address>) -> Result<(), ReadError> {
        let start = Address(range.start.0.saturating_sub(LOOK_BACK).max(heap.range.start.0));
        let length = (range.end.0 - start.0 + LOOK_AHEAD).min(heap.range.end.0 - start.0) as usize;
        self.with_bytes(start, length, |worker, window| {
            let memory = worker.memory;
            let word = |at: Address| match window.get(at, 8) {
                Some(bytes) => u64_at(bytes, 0),
                None => memory.read_u64(at).ok(),
            };
            let row = Row { heap, word: &word };
            let mut at = start;
            if at != heap.range.start {
                at = row.first_in(start..range.end).unwrap_or(range.end);
            }
            while at < range.start {
                match word(at.offset(8)).and_then(|word| heap.chunk(at, word)) {
                    Some(chunk) if chunk.end() < range.start || chunk.size < LOOK_BACK => at = chunk.end(),
                    // What leads so far may be a number.
                    _ => at = row.first_in(range.clone()).unwrap_or(range.end),
                }
            }
            while at < range.end {
                let Some(chunk) = word(at.offset(8)).and_then(|word| heap.chunk(at, word)) else {
                    at = row.first_in(at.offset(16)..range.end).unwrap_or(range.end);
                    continue;
                };
                if chunk.end() >= heap.range.end {
                    break;
                }
                if word(chunk.end().offset(8)).is_some_and(glibc::says_previous_in_use) {
                    worker.judge_chunk(heap, chunk, window)?;
                }
                at = chunk.end();
            }
            Ok(())
        })
    }

    /// Objects found so far, those whose sizes wait included.
    pub fn found(&self) -> u64 {
        self.counts.objects + self.pending.len() as u64
    }

    /// Completes the sizes that wait, and gives access to the sink: what it got so far is all that was read so far.
    ///
    /// # Errors
    /// As [`Worker::read_part`].
    pub fn settle(&mut self) -> Result<&mut S, ReadError> {
        self.complete_pending()?;
        Ok(&mut self.sink)
    }

    /// Completes the sizes that wait, and gives back the sink and the counts.
    ///
    /// # Errors
    /// As [`Worker::read_part`].
    pub fn finish(mut self) -> Result<(S, Counts), ReadError> {
        self.complete_pending()?;
        Ok((self.sink, self.counts))
    }

    /// Runs `work` on the bytes at `start`, which are local already or read into the window.
    pub(crate) fn with_bytes(
        &mut self,
        start: Address,
        length: usize,
        work: impl FnOnce(&mut Self, Window<'_>) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        let memory = self.memory;
        if let Some(bytes) = memory.local(start, length) {
            return work(self, Window { start, bytes });
        }
        let mut buffer = std::mem::take(&mut self.window);
        if buffer.len() < length {
            buffer.resize(length, 0);
        }
        let result = match memory.read_exact_at(start, &mut buffer[..length]) {
            Ok(()) => work(self, Window { start, bytes: &buffer[..length] }),
            Err(error @ (ReadError::Gone | ReadError::Denied)) => Err(error),
            Err(_) => {
                self.counts.unreadable_bytes += length as u64;
                Ok(())
            }
        };
        self.window = buffer;
        result
    }

    fn read_arena(&mut self, arena: &Arena) -> Result<(), ReadError> {
        let pool_size = self.classifier.layout().constants.pool_size;
        let mut at = arena.pools.start;
        while at < arena.pools.end {
            let length = ((arena.pools.end.0 - at.0) as usize).min(POOLS_WINDOW);
            self.with_bytes(at, length, |worker, window| {
                for (index, bytes) in window.bytes.chunks_exact(pool_size).enumerate() {
                    worker.read_pool(window.start.offset(index * pool_size), bytes, window)?;
                }
                Ok(())
            })?;
            at = at.offset(length);
        }
        Ok(())
    }

    /// Reads one pool. A pool that contradicts itself was changed while it was read; it is read again by itself.
    fn read_pool(&mut self, address: Address, bytes: &[u8], window: Window<'_>) -> Result<(), ReadError> {
        if self.judge_pool(address, bytes, window)? {
            return Ok(());
        }
        let stands_still = if self.memory.local(address, bytes.len()).is_some() {
            self.is_as_before(address, bytes)
        } else {
            let (mut before, mut again) = (bytes.to_vec(), vec![0; bytes.len()]);
            for _ in 0..POOL_RETRIES {
                self.memory.read_exact_at(address, &mut again).or_else(only_fatal)?;
                if self.judge_pool(address, &again, window)? {
                    return Ok(());
                }
                std::mem::swap(&mut again, &mut before);
            }
            again == before
        };
        self.counts.torn_pools += 1;
        self.counts.contradicting_pools += u64::from(stands_still);
        Ok(())
    }

    /// Whether the target still has these bytes of a copy of it.
    pub(crate) fn is_as_before(&self, address: Address, bytes: &[u8]) -> bool {
        let mut now = vec![0; bytes.len()];
        self.memory.read_now(address, &mut now).is_ok() && now == bytes
    }

    /// Judges all blocks of a pool in use. `false`, and nothing done, where the pool contradicts itself.
    fn judge_pool(&mut self, address: Address, bytes: &[u8], window: Window<'_>) -> Result<bool, ReadError> {
        let pool = match Pool::read(bytes, self.classifier.layout()) {
            PoolState::Free => return Ok(true),
            PoolState::Broken => return Ok(false),
            PoolState::InUse(pool) => pool,
        };
        let Some(free) = pool.free_blocks(address, bytes) else { return Ok(false) };
        self.counts.pools += 1;
        self.counts.blocks_in_use += u64::from(pool.in_use);
        let room = Room::Class(pool.block_size as u64);
        let classifier = self.classifier;
        let quick_way = classifier.quick_way();
        let mut hands = Hands { worker: self, window, result: Ok(()) };
        for index in 0..pool.carved {
            if free.contains(index) {
                continue;
            }
            let offset = pool.first + index * pool.block_size;
            let at = address.offset(offset);
            let quick = match quick_way {
                Some(way) => way.quick(at, bytes, offset, pool.block_size, &mut hands),
                None => Quick::Unknown,
            };
            if quick == Quick::Told {
                continue;
            }
            let Some(block) = bytes.get(offset..offset + pool.block_size) else { break };
            let verdict = match quick {
                Quick::Told | Quick::Nothing => Verdict::NoObject,
                Quick::Typed(type_id) => classifier.typed(at, block, room, type_id),
                Quick::Unknown => classifier.block(at, block, room),
            };
            hands.worker.judge(verdict, window)?;
        }
        hands.result?;
        Ok(true)
    }

    #[inline(always)]
    pub(crate) fn judge(&mut self, verdict: Verdict, window: Window<'_>) -> Result<(), ReadError> {
        match verdict {
            Verdict::NoObject => Ok(()),
            Verdict::Implausible(type_id, address) => {
                self.counts.implausible_blocks += 1;
                let trial = Trial::new(self.memory, self.classifier, self.size_max);
                self.counts.trials.refuse(&trial, self.classifier.types().get(type_id), address);
                Ok(())
            }
            Verdict::Object(found) => self.hand_on(&found, window),
        }
    }

    /// Hands an object on, at once or once its size is known.
    #[inline(always)]
    pub(crate) fn hand_on(&mut self, found: &Found, window: Window<'_>) -> Result<(), ReadError> {
        let &Found { address, type_id, refcount, tracked, measured } = found;
        if self.is_address(refcount) && (self.names_object(refcount) || tracked && !self.is_linked(address)) {
            self.counts.implausible_blocks += 1;
            return Ok(());
        }
        let info = self.classifier.types().get(type_id);
        let trial = Trial::new(self.memory, self.classifier, self.size_max);
        let header = || window.get(address, self.classifier.layout().ascii_unicode.size);
        self.counts.trials.meet(&trial, info, address, header);
        let object = |size| Object { address, type_id, size, refcount, tracked };
        let deferred = match measured.size {
            Size::Known(size) => {
                self.tell(&object(size));
                return Ok(());
            }
            Size::Deferred(deferred) => deferred,
        };
        self.size_later(object(0), deferred, window)
    }

    /// Hands a dict on whose keys are in the window, or keeps it for later.
    #[inline(always)]
    fn tell_dict(&mut self, dict: &Object, keys: Address, split: bool, window: Window<'_>) -> Result<(), ReadError> {
        let base = dict.size;
        let header = window.get(keys, KeysHeader::BYTES);
        match header.and_then(|header| deferred::dict_size(header, self.classifier.layout(), base, split)) {
            Some(size) => {
                self.tell(&Object { size, ..*dict });
                Ok(())
            }
            None => self.size_later(*dict, Deferred::DictKeys { keys, base, split }, window),
        }
    }

    /// Completes a size from the window, or keeps the object until a batch is read.
    fn size_later(&mut self, object: Object, deferred: Deferred, window: Window<'_>) -> Result<(), ReadError> {
        let (at, length) = deferred.first_read(self.classifier.layout());
        if let Some(bytes) = window.get(at, length).or_else(|| self.memory.local(at, length)) {
            self.complete(&object, &deferred, bytes);
            return Ok(());
        }
        if at.0 >= USER_SPACE {
            self.counts.torn_objects += 1;
            return Ok(());
        }
        self.pending.push(Pending { address: at, length, object, deferred });
        if self.pending.len() >= PENDING_MAX { self.complete_pending() } else { Ok(()) }
    }

    /// Hands an object whose size is known to the sink, unless it is larger than any can be.
    #[inline(always)]
    fn tell(&mut self, object: &Object) {
        if object.size > self.size_max {
            log::trace!("torn: {object:?}");
            self.counts.torn_objects += 1;
            return;
        }
        self.counts.objects += 1;
        self.sink.object(object);
    }

    fn complete(&mut self, object: &Object, deferred: &Deferred, bytes: &[u8]) {
        match deferred.complete(bytes, self.classifier.layout(), &self.cached) {
            Some(size) => self.tell(&Object { size, ..*object }),
            None => {
                log::trace!("torn: {object:?} {deferred:?}");
                self.counts.torn_objects += 1;
            }
        }
    }

    /// Completes the sizes that wait, reading what they need in order of address, near places together.
    fn complete_pending(&mut self) -> Result<(), ReadError> {
        let mut pending = std::mem::take(&mut self.pending);
        pending.sort_unstable_by_key(|pending| (pending.address, pending.length));
        let runs = runs(&pending);
        let mut buffer = std::mem::take(&mut self.scratch);
        buffer.resize(runs.iter().map(|run| run.length).sum(), 0);
        let mut pieces = Vec::with_capacity(runs.len());
        let mut rest = buffer.as_mut_slice();
        for run in &runs {
            let (piece, after) = rest.split_at_mut(run.length);
            pieces.push(Piece { address: run.start, buffer: piece, filled: false });
            rest = after;
        }
        self.memory.read_pieces(&mut pieces)?;
        for (run, piece) in runs.iter().zip(&pieces) {
            for wait in &pending[run.members.clone()] {
                if piece.filled {
                    let offset = (wait.address.0 - run.start.0) as usize;
                    self.complete(&wait.object, &wait.deferred, &piece.buffer[offset..offset + wait.length]);
                } else {
                    // One place of the run is not readable; each is tried by itself.
                    match self.memory.read_bytes(wait.address, wait.length as u64, RUN_MAX as usize, "deferred size") {
                        Ok(bytes) => self.complete(&wait.object, &wait.deferred, &bytes),
                        Err(error @ (ReadError::Gone | ReadError::Denied)) => return Err(error),
                        Err(_) => self.counts.torn_objects += 1,
                    }
                }
            }
        }
        pending.clear();
        (self.pending, self.scratch) = (pending, buffer);
        Ok(())
    }

    /// Walks a row of chunks, a window at a time. Where the row breaks, the target has changed it under our hands:
    /// it is picked up again at the next place where chunks follow one another.
    fn read_heap(&mut self, heap: &Heap) -> Result<(), ReadError> {
        let mut at = heap.range.start;
        while at.0 + glibc::HEADER <= heap.range.end.0 {
            let length = ((heap.range.end.0 - at.0) as usize).min(WINDOW);
            let start = at;
            self.with_bytes(start, length, |worker, window| {
                at = worker.read_chunks(heap, window)?;
                Ok(())
            })?;
            if at <= start {
                // Unreadable: past this window.
                at = start.offset(length);
            }
        }
        Ok(())
    }

    /// Walks the chunks of a window; returns where to go on.
    fn read_chunks(&mut self, heap: &Heap, window: Window<'_>) -> Result<Address, ReadError> {
        let mut at = window.start;
        let end = window.start.offset(window.bytes.len());
        while let Some(word) = window.get(at.offset(8), 8).and_then(|bytes| u64_at(bytes, 0)) {
            let Some(chunk) = heap.chunk(at, word) else {
                let rest = &window.bytes[(at.0 - window.start.0) as usize..];
                let next = heap.resync(at.offset(16), rest.get(16..).unwrap_or_default()).unwrap_or(end);
                // What ends a heap: the fence behind the last chunk of a thread's arena.
                if heap.range.end.0 - at.0 > 64 {
                    self.counts.unparsed_bytes += next.0 - at.0;
                }
                at = next;
                continue;
            };
            if chunk.end() >= heap.range.end {
                // The top chunk: never handed out.
                return Ok(heap.range.end);
            }
            let next = match window.get(chunk.end().offset(8), 8) {
                Some(bytes) => u64_at(bytes, 0),
                None if at != window.start && chunk.size < WINDOW as u64 => return Ok(at),
                None => self.memory.read_u64(chunk.end().offset(8)).ok(),
            };
            if next.is_some_and(glibc::says_previous_in_use) {
                self.judge_chunk(heap, chunk, window)?;
            }
            at = chunk.end();
        }
        Ok(at.max(window.start.offset(16)))
    }

    fn judge_chunk(&mut self, heap: &Heap, chunk: Chunk, window: Window<'_>) -> Result<(), ReadError> {
        let offset = (chunk.data().0 - window.start.0) as usize;
        let Some(data) = window.bytes.get(offset..) else { return Ok(()) };
        let usable = usize::try_from(chunk.usable()).unwrap_or(usize::MAX);
        let data = &data[..usable.min(data.len())];
        let verdict = self.classifier.block(chunk.data(), data, Room::Chunk(chunk.usable()));
        if let Verdict::Object(Found { address, refcount: Refcount::Count(count), .. }) = verdict
            && address == chunk.data()
            && chunk.is_in_fast_bin(count, &heap.range)
        {
            return Ok(());
        }
        self.judge(verdict, window)
    }

    fn read_mapped(&mut self, chunk: Chunk) -> Result<(), ReadError> {
        let length = chunk.size.min(MAPPED_PREFIX) as usize;
        self.with_bytes(chunk.address, length, |worker, window| {
            let data = window.bytes.get(glibc::HEADER as usize..).unwrap_or_default();
            // The mapping was rounded up to pages, so the room says little.
            let verdict = worker.classifier.block(chunk.data(), data, Room::AtMost(chunk.size - glibc::HEADER));
            worker.judge(verdict, window)
        })
    }

    /// Whether a count could as well be an address: in a program that is not relocated, static data lies so low.
    fn is_address(&self, refcount: Refcount) -> bool {
        matches!(refcount, Refcount::Count(count)
            if count >= LOWEST_ADDRESS && count % 8 == 0 && self.memory.regions().contains(Address(count), 8))
    }

    /// Whether an object stands where a count points, if it is an address: then the block is a row of references, such
    /// as a list's items, in which the word behind is left over from an object that was there before.
    fn names_object(&self, refcount: Refcount) -> bool {
        let Refcount::Count(count) = refcount else { return false };
        let type_ = self.cached.read_u64(Address(count).offset(self.classifier.layout().object.ob_type));
        type_.is_ok_and(|type_| self.classifier.types().find(type_).is_some())
    }

    /// Whether the collector's list that an object claims to be in leads back to it. Asked of the few objects that
    /// need more proof than their own bytes: tables of C data are full of pointers and small numbers.
    pub(crate) fn is_linked(&self, object: Address) -> bool {
        let layout = self.classifier.layout();
        if layout.constants.gc_head_size == 0 {
            return true;
        }
        let head = object.back(layout.constants.gc_head_size);
        let link = |node: Address, offset: usize| {
            self.cached.read_u64(node.offset(offset)).map(|word| Address(word & !GC_FLAG_BITS))
        };
        let next = link(head, layout.gc_head.gc_next);
        next.and_then(|next| link(next, layout.gc_head.gc_prev)).is_ok_and(|back| back == head)
    }

    fn read_statics(&mut self, start: Address, end: Address) -> Result<(), ReadError> {
        let Ok(length) = usize::try_from(end.0 - start.0) else { return Ok(()) };
        // Data is read whole, at most some megabytes, so that no object is cut in two.
        self.with_bytes(start, length.min(STATICS_MAX), |worker, window| {
            let mut result = Ok(());
            let classifier = worker.classifier;
            statics::for_each(classifier, window.start, window.bytes, |found| {
                let accepted = result.is_ok() && (!found.tracked || worker.is_linked(found.address));
                if accepted {
                    result = worker.hand_on(&found, window);
                }
                accepted
            });
            result
        })
    }
}

/// Hands on what the short way finds in a pool.
struct Hands<'w, 'a, 'b, M: Memory + ?Sized, S: Sink> {
    worker: &'w mut Worker<'a, M, S>,
    window: Window<'b>,
    result: Result<(), ReadError>,
}

impl<M: Memory + ?Sized, S: Sink> Finds for Hands<'_, '_, '_, M, S> {
    #[inline(always)]
    fn object(&mut self, object: Object) {
        self.worker.tell(&object);
    }

    #[inline(always)]
    fn dict(&mut self, dict: Object, keys: Address, split: bool) {
        if let Err(error) = self.worker.tell_dict(&dict, keys, split, self.window) {
            self.result = Err(error);
        }
    }
}

/// Bytes of one file's writable data that are searched. Python's own has 1 MiB; that of the largest extension
/// modules some tens.
const STATICS_MAX: usize = 64 << 20;

pub(crate) fn only_fatal(error: ReadError) -> Result<(), ReadError> {
    match error {
        ReadError::Gone | ReadError::Denied => Err(error),
        _ => Ok(()),
    }
}

/// Places to read that lie near each other.
struct Run {
    start: Address,
    length: usize,
    members: std::ops::Range<usize>,
}

/// Joins sorted places into runs.
fn runs(pending: &[Pending]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (index, wait) in pending.iter().enumerate() {
        let end = wait.address.0.saturating_add(wait.length as u64);
        if let Some(run) = runs.last_mut() {
            let run_end = run.start.0.saturating_add(run.length as u64);
            let joined = end.max(run_end) - run.start.0;
            if wait.address.0 <= run_end.saturating_add(GAP) && joined <= RUN_MAX {
                run.length = joined as usize;
                run.members.end = index + 1;
                continue;
            }
        }
        runs.push(Run { start: wait.address, length: wait.length, members: index..index + 1 });
    }
    runs
}
