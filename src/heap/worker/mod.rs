//! A census worker: reads parts of memory, classifies blocks, completes sizes and passes objects to a sink.

pub mod chunks;
pub mod conservative;
pub mod mimalloc;
pub mod musl;
pub mod pools;

use std::ops::Range;

use crate::allocator::page_chains::PageChains;
use crate::process::cache::CachedMemory;
use crate::process::copy::resident_bytes;
use crate::process::memory::{Memory, Piece, ReadError, u64_at};
use crate::process::regions::Region;
use crate::process::{Address, MemoryExt};
use crate::python::deferred::Deferred;
use crate::python::gc_links;
use crate::python::measure::Size;
use crate::python::object_header::{LOWEST_ADDRESS, Refcount, USER_SPACE};
use crate::python::reader::{KeysHeader, dict_size};
use crate::python::sizes::SizeRule;
use crate::python::types::TypeId;

use super::classify::classifier::{BlockVerdict, Classifier, LiveObject};
use super::classify::statics;
use super::layout_check::object::Trial;
use super::layout_check::votes::Trials;
use super::object::{Object, Sink};
use super::part::Part;

/// Bytes of a heap that are read at a time.
pub(crate) const WINDOW: usize = 1 << 20;
/// Number of sizes waiting for completion: 20,000 take about 2 MiB.
const PENDING_MAX: usize = 20_000;
/// What allocators align blocks to.
const ALIGNMENT: u64 = 16;
/// Blocks of which the kernel is asked how much is in memory: glibc maps those of twice the size by themselves.
const LARGE_BLOCK: u64 = 64 << 10;
/// Number of times that a pool is read again if it changed while it was read.
pub(crate) const POOL_RETRIES: usize = 3;
/// Gap between two needed ranges that is read rather than skipped, bytes.
const GAP: u64 = 512;
/// Longest run of needed ranges read at once, bytes.
const RUN_MAX: u64 = 64 << 10;

/// Bytes of blocks in use, by what a census found in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockBytes {
    /// Of blocks that hold an object, and of all blocks of pymalloc's pools.
    pub with_object: u64,
    /// Of other blocks in use.
    pub without_object: u64,
    /// Shallow bytes of objects outside the blocks that hold them: items and tables in blocks of their own, unless
    /// those are in pools, and objects that are in no known block. Rounded up to what allocators align blocks to.
    pub elsewhere: u64,
    /// Shallow bytes of objects in the data of the program and its libraries.
    pub shallow_static: u64,
}

impl BlockBytes {
    fn add(&mut self, other: &BlockBytes) {
        self.with_object = self.with_object.saturating_add(other.with_object);
        self.without_object = self.without_object.saturating_add(other.without_object);
        self.elsewhere = self.elsewhere.saturating_add(other.elsewhere);
        self.shallow_static = self.shallow_static.saturating_add(other.shallow_static);
    }
}

/// The counts of a census besides the objects. Reports show all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Objects passed on.
    pub objects: u64,
    /// Pools in use, or mimalloc pages.
    pub pools: u64,
    /// Used blocks according to the pools.
    pub blocks_in_use: u64,
    /// Bytes of blocks.
    pub bytes: BlockBytes,
    /// Pools whose header, count and free chain disagreed in every attempt.
    pub torn_pools: u64,
    /// Pools that changed in every attempt, whose blocks were classified one by one.
    pub moving_pools: u64,
    /// Of these two, pools that were identical in two consecutive reads: nothing changed them.
    pub contradicting_pools: u64,
    /// Whether mimalloc pages agree with the layout.
    pub page_chains: PageChains,
    /// Objects whose size could not be completed: what they point to is gone or invalid.
    pub torn_objects: u64,
    /// Blocks with a type and a count whose body cannot be right.
    pub implausible_blocks: u64,
    /// Bytes that should be readable but were not.
    pub unreadable_bytes: u64,
    /// Bytes of malloc heaps in which no sequence of chunks was found.
    pub unparsed_bytes: u64,
    /// Bytes of unknown structure that were scanned.
    pub scanned_bytes: u64,
    /// Objects found by scanning.
    pub scanned_objects: u64,
    /// Whether rarer objects agree with the layout.
    pub trials: Trials,
}

impl Counts {
    /// Adds the counts of another worker.
    pub fn add(&mut self, other: &Counts) {
        self.objects += other.objects;
        self.pools += other.pools;
        self.blocks_in_use += other.blocks_in_use;
        self.bytes.add(&other.bytes);
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

/// A worker. It keeps two buffers and a list of pending sizes, independent of the target's size.
pub struct Worker<'a, M: Memory + ?Sized, S: Sink> {
    pub(crate) memory: &'a M,
    cached: CachedMemory<'a, M>,
    pub(crate) classifier: &'a Classifier<'a>,
    sink: S,
    pub(crate) counts: Counts,
    pub(crate) window: Vec<u8>,
    pending: Vec<Pending>,
    scratch: Vec<u8>,
    room: CountedRoom,
    /// Upper bound on an object's size: all writable memory of the target.
    size_max: u64,
}

/// How much of an object's size is counted with the block that holds it.
#[derive(Clone, Copy, Debug, Default)]
struct CountedRoom {
    /// The block's bytes.
    block: u64,
    /// What is not in the block is in blocks that are counted as well, if it is no larger.
    counted: u64,
}

impl CountedRoom {
    /// Bytes of an object of `size` that are not counted with blocks.
    #[inline(always)]
    fn beyond(self, size: u64) -> u64 {
        match size.saturating_sub(self.block) {
            beyond if beyond > self.counted => beyond.next_multiple_of(ALIGNMENT),
            _ => 0,
        }
    }
}

/// An object whose size needs another read.
struct Pending {
    address: Address,
    length: usize,
    object: Object,
    room: CountedRoom,
    deferred: Deferred,
}

/// The window that is being processed.
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
    /// Makes a worker that passes objects to `sink`.
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
            room: CountedRoom::default(),
            size_max: memory.regions().iter().filter(|region| region.writable).map(Region::len).sum(),
        }
    }

    /// Reads one part.
    ///
    /// # Errors
    /// The target can no longer be read at all.
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

    /// Number of objects found so far, including those with pending sizes.
    pub fn found(&self) -> u64 {
        self.counts.objects + self.pending.len() as u64
    }

    /// Completes pending sizes and returns the sink, which then has all objects read so far.
    ///
    /// # Errors
    /// As [`Worker::read_part`].
    pub fn settle(&mut self) -> Result<&mut S, ReadError> {
        self.complete_pending()?;
        Ok(&mut self.sink)
    }

    /// Completes pending sizes and returns the sink and the counts.
    ///
    /// # Errors
    /// As [`Worker::read_part`].
    pub fn finish(mut self) -> Result<(S, Counts), ReadError> {
        self.complete_pending()?;
        Ok((self.sink, self.counts))
    }

    /// Runs `work` on the bytes at `start`, which are local or read into the window.
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
            Err(error) if error.is_final() => Err(error),
            Err(_) => {
                self.counts.unreadable_bytes += length as u64;
                Ok(())
            }
        };
        self.window = buffer;
        result
    }

    /// Whether the target still has these bytes of its copy.
    pub(crate) fn is_as_before(&self, address: Address, bytes: &[u8]) -> bool {
        let mut now = vec![0; bytes.len()];
        self.memory.read_now(address, &mut now).is_ok() && now == bytes
    }

    #[inline(always)]
    pub(crate) fn judge(&mut self, verdict: BlockVerdict, window: Window<'_>) -> Result<(), ReadError> {
        match verdict {
            BlockVerdict::NoObject => Ok(()),
            BlockVerdict::Implausible(block) => {
                self.counts.implausible_blocks += 1;
                if block.may_hold_one {
                    let trial = Trial::new(self.memory, self.classifier, self.size_max);
                    self.counts.trials.refuse(&trial, self.classifier.types().get(block.type_id), block.address);
                }
                Ok(())
            }
            BlockVerdict::Object(found) => self.hand_on(&found, window),
        }
    }

    /// Passes an object on, now or once its size is known.
    #[inline(always)]
    pub(crate) fn hand_on(&mut self, found: &LiveObject, window: Window<'_>) -> Result<(), ReadError> {
        let &LiveObject { address, type_id, refcount, tracked, measured } = found;
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

    /// Passes on a dict whose keys are in the window; otherwise queues it.
    #[inline(always)]
    pub(crate) fn tell_dict(
        &mut self,
        dict: &Object,
        keys: Address,
        split: bool,
        window: Window<'_>,
    ) -> Result<(), ReadError> {
        let base = dict.size;
        let header = window.get(keys, KeysHeader::BYTES);
        match header.and_then(|header| dict_size(header, self.classifier.layout(), base, split)) {
            Some(size) => {
                self.tell(&Object { size, ..*dict });
                Ok(())
            }
            None => self.size_later(*dict, Deferred::DictKeys { keys, base, split }, window),
        }
    }

    /// Completes a size from the window; otherwise queues the object until a batch is read.
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
        self.pending.push(Pending { address: at, length, object, room: self.room, deferred });
        if self.pending.len() >= PENDING_MAX { self.complete_pending() } else { Ok(()) }
    }

    /// Passes an object of known size to the sink, unless the size exceeds the upper bound.
    #[inline(always)]
    pub(crate) fn tell(&mut self, object: &Object) {
        if object.size > self.size_max {
            log::trace!("torn: {object:?}");
            self.counts.torn_objects += 1;
            return;
        }
        self.counts.objects += 1;
        let beyond = self.room.beyond(object.size);
        if beyond > 0 && !self.has_buffer_object(object.type_id) {
            self.counts.bytes.elsewhere = self.counts.bytes.elsewhere.saturating_add(beyond);
        }
        self.sink.object(object);
    }

    /// Whether what an object of this type has outside its block is another object, which is counted by itself.
    fn has_buffer_object(&self, type_id: TypeId) -> bool {
        match self.classifier.types().get(type_id).rule {
            SizeRule::BytesIo => true,
            SizeRule::ByteArray => self.classifier.layout().byte_array.ob_bytes_object.is_some(),
            _ => false,
        }
    }

    /// Counts a block in use: of a large one, only what is in memory. The objects told of next are in this block.
    pub(crate) fn count_block(&mut self, start: Address, length: u64, verdict: &BlockVerdict) {
        self.room = CountedRoom { block: length, counted: 0 };
        let range = start..Address(start.0.saturating_add(length));
        let is_large = length >= LARGE_BLOCK;
        let bytes = if is_large { resident_bytes(self.memory, std::slice::from_ref(&range)) } else { length };
        let sum = match verdict {
            BlockVerdict::Object(_) => &mut self.counts.bytes.with_object,
            _ => &mut self.counts.bytes.without_object,
        };
        *sum = sum.saturating_add(bytes);
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

    /// Completes the pending sizes, reading in order of address and joining near ranges.
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
                self.room = wait.room;
                if piece.filled {
                    let offset = (wait.address.0 - run.start.0) as usize;
                    self.complete(&wait.object, &wait.deferred, &piece.buffer[offset..offset + wait.length]);
                } else {
                    // If one range of a run is unreadable, each is read separately.
                    match self.memory.read_bytes(wait.address, wait.length as u64, RUN_MAX as usize, "deferred size") {
                        Ok(bytes) => self.complete(&wait.object, &wait.deferred, &bytes),
                        Err(error) if error.is_final() => return Err(error),
                        Err(_) => self.counts.torn_objects += 1,
                    }
                }
            }
        }
        pending.clear();
        (self.pending, self.scratch) = (pending, buffer);
        Ok(())
    }

    /// Whether a count could also be an address: static data of a program that is not relocated has low addresses.
    fn is_address(&self, refcount: Refcount) -> bool {
        matches!(refcount, Refcount::Count(count)
            if count >= LOWEST_ADDRESS && count % 8 == 0 && self.memory.regions().contains(Address(count), 8))
    }

    /// Whether a count, taken as an address, points to an object: then the block is an array of references, such as a
    /// list's items, and the word behind it is left over from an earlier object.
    fn names_object(&self, refcount: Refcount) -> bool {
        let Refcount::Count(count) = refcount else { return false };
        let type_ = self.cached.read_u64(Address(count).offset(self.classifier.layout().object.ob_type));
        type_.is_ok_and(|type_| self.classifier.types().find(type_).is_some())
    }

    /// Whether the GC list that an object claims to be in leads back to it. Asked of the few objects whose own bytes
    /// are not enough evidence: tables of C data are full of pointers and small numbers.
    pub(crate) fn is_linked(&self, object: Address) -> bool {
        gc_links::is_linked(&self.cached, self.classifier.layout(), object)
    }

    fn read_statics(&mut self, start: Address, end: Address) -> Result<(), ReadError> {
        let Ok(length) = usize::try_from(end.0 - start.0) else { return Ok(()) };
        // Data is read in one piece of at most some megabytes, so that no object is split.
        self.with_bytes(start, length.min(STATICS_MAX), |worker, window| {
            let mut result = Ok(());
            let (classifier, before) = (worker.classifier, std::mem::take(&mut worker.counts.bytes.elsewhere));
            worker.room = CountedRoom::default();
            statics::for_each(classifier, window.start, window.bytes, |found| {
                let accepted = result.is_ok() && (!found.tracked || worker.is_linked(found.address));
                if accepted {
                    result = worker.hand_on(&found, window);
                }
                accepted
            });
            worker.counts.bytes.shallow_static += std::mem::replace(&mut worker.counts.bytes.elsewhere, before);
            result
        })
    }
}

/// Upper bound on a file's writable data that is searched, bytes. Python's own has 1 MiB, the largest extension modules
/// some tens.
const STATICS_MAX: usize = 64 << 20;

/// The verdict on a block of which only its own bytes tell whether it is in use. Where an object without a front has
/// its count, a free block has a link into the same pool; behind a front, the count of a dead object is zero.
pub(crate) fn alone(verdict: BlockVerdict, at: Address, block: &[u8], pool: &Range<Address>) -> BlockVerdict {
    let address = match &verdict {
        BlockVerdict::NoObject => return verdict,
        BlockVerdict::Implausible(block) => block.address,
        BlockVerdict::Object(found) => found.address,
    };
    let is_link = u64_at(block, 0).is_some_and(|word| pool.contains(&Address(word)));
    if address == at && is_link { BlockVerdict::NoObject } else { verdict }
}

pub(crate) fn only_fatal(error: ReadError) -> Result<(), ReadError> {
    match error {
        error if error.is_final() => Err(error),
        _ => Ok(()),
    }
}

/// Ranges to read that are near each other.
struct ReadRun {
    start: Address,
    length: usize,
    members: Range<usize>,
}

/// Joins sorted ranges into runs.
fn runs(pending: &[Pending]) -> Vec<ReadRun> {
    let mut runs: Vec<ReadRun> = Vec::new();
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
        runs.push(ReadRun { start: wait.address, length: wait.length, members: index..index + 1 });
    }
    runs
}
