//! One worker of a census: reads a part of memory, judges its blocks, completes sizes, hands objects on, forgets.

pub mod chunks;
pub mod conservative;
pub mod mimalloc;
pub mod musl;
pub mod pools;

use crate::allocator::page_chains::PageChains;
use crate::process::cache::CachedMemory;
use crate::process::memory::{Memory, Piece, ReadError};
use crate::process::regions::Region;
use crate::process::{Address, MemoryExt};
use crate::python::deferred::{self, Deferred};
use crate::python::gc_links;
use crate::python::measure::Size;
use crate::python::object_header::{LOWEST_ADDRESS, Refcount, USER_SPACE};
use crate::python::reader::KeysHeader;

use super::classify::classifier::{BlockVerdict, Classifier, LiveObject};
use super::classify::statics;
use super::layout_check::object::Trial;
use super::layout_check::votes::Trials;
use super::object::{Object, Sink};
use super::part::Part;

/// Bytes of a heap of chunks read at a time.
pub(crate) const WINDOW: usize = 1 << 20;
/// Sizes that wait to be completed: 20,000 take about 2 MiB.
const PENDING_MAX: usize = 20_000;
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
    pub(crate) window: Vec<u8>,
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

    /// Whether the target still has these bytes of a copy of it.
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

    /// Hands an object on, at once or once its size is known.
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

    /// Hands a dict on whose keys are in the window, or keeps it for later.
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
    pub(crate) fn tell(&mut self, object: &Object) {
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
        gc_links::is_linked(&self.cached, self.classifier.layout(), object)
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
struct ReadRun {
    start: Address,
    length: usize,
    members: std::ops::Range<usize>,
}

/// Joins sorted places into runs.
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
