//! Surveys a target before a census, and runs the census.

use std::ops::Range;

use rustc_hash::FxHashSet;

use crate::allocator::pymalloc::arena::Arenas;
use crate::allocator::pymalloc::arenas::{self};
use crate::process::Address;
use crate::process::cache::CachedMemory;
use crate::process::elf::LoadedElf;
use crate::process::memory::{Memory, Now, ReadError};
use crate::python::interpreter::Python;
use crate::python::proof_error::ProofError;
use crate::python::reader::Reader;
use crate::python::stack;
use crate::python::types::TypeTable;

use super::census::{self, Progress};
use super::classify::classifier::Classifier;
use super::classify::freelists;
use super::layout_check::known_objects;
use super::movement::{Met, Movement, Strips};
use super::object::{Object, Sink};
use super::part::Part;
use super::plan::Plan;
use super::worker::Counts;
use super::{debug_hooks, gc_lists, second_reading};

/// Where a target keeps its objects.
#[derive(Debug)]
pub struct Survey {
    /// pymalloc's arenas.
    pub arenas: Arenas,
    /// All memory that may hold objects.
    pub plan: Plan,
    /// Whether blocks have debug headers.
    pub debug_hooks: bool,
}

/// The counts of a census, and how far the methods of finding objects agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What the workers counted.
    pub counts: Counts,
    /// Comparison with the collector's lists, if they were walked.
    pub lists: Option<ListCheck>,
}

/// Comparison of the collector's lists with the blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListCheck {
    /// Number of objects in the lists.
    pub listed: u64,
    /// Of these, objects that no block holds.
    pub only_listed: u64,
    /// Objects flagged as tracked that are in no list.
    pub only_in_blocks: u64,
    /// Number of broken lists.
    pub broken_lists: u64,
}

impl Survey {
    /// Finds arenas, heaps and static data. Takes milliseconds, or one read per page of memory of unknown structure.
    ///
    /// # Errors
    /// The target cannot be read, or what is found contradicts the layout.
    pub fn new<M: Memory + ?Sized>(memory: &M, python: &Python, elfs: &[LoadedElf]) -> Result<Survey, ProofError> {
        let cached = CachedMemory::new(memory);
        let mut arenas = arenas::find(&cached, python)?;
        log::debug!("arenas found");
        let plan = Plan::new(memory, python, &arenas, elfs);
        if plan.has_segments() && python.layout.object.ob_ref_shared.is_none() {
            // Under PYTHONMALLOC=mimalloc `sys.getallocatedblocks` counts only the calling thread's blocks.
            arenas.raw_blocks = None;
        }
        log::debug!("planned");
        let debug_hooks = debug_hooks::are_on(&cached, &python.layout, &arenas, &plan);
        log::debug!(
            "{} arenas ({} slots rejected), {} parts with {} bytes, debug hooks {}",
            arenas.arenas.len(),
            arenas.rejected,
            plan.parts.len(),
            plan.total_bytes(),
            if debug_hooks { "on" } else { "off" },
        );
        Ok(Survey { arenas, plan, debug_hooks })
    }

    /// Passes every live object to a sink.
    ///
    /// # Errors
    /// The target can no longer be read, or what was found contradicts the layout.
    pub fn census<M, S>(
        &self,
        memory: &M,
        python: &Python,
        types: &TypeTable,
        progress: &Progress,
        sink: impl Fn() -> S + Sync,
    ) -> Result<(Vec<S>, Outcome), ProofError>
    where
        M: Memory + Sync + ?Sized,
        S: Sink,
    {
        let classifier = self.proved_classifier(memory, python, types)?;
        let (sinks, counts) = census::run(memory, &classifier, &self.plan.parts, progress, sink)?;
        self.judge(memory, python, &counts)?;
        Ok((sinks, Outcome { counts, lists: None }))
    }

    /// What a second reading leaves out, in order of address.
    pub(crate) fn read_once(&self) -> Vec<Range<Address>> {
        let once = self.plan.parts.iter().filter(|part| !second_reading::is_read_twice(part));
        let mut once: Vec<Range<Address>> = once.flat_map(Part::ranges).collect();
        once.sort_by_key(|range| range.start);
        once
    }

    /// Reads some strips again that a census has read, and tells what moved meanwhile: `first` is what it met there.
    ///
    /// # Errors
    /// Where the target cannot be read at all any more.
    pub fn movement<M: Memory + Sync + ?Sized>(
        &self,
        memory: &M,
        python: &Python,
        types: &TypeTable,
        first: Met,
        strips: Strips,
    ) -> Result<Movement, ReadError> {
        let classifier = self.classifier(memory, python, types);
        let second = second_reading::read(memory, &classifier, &self.plan.parts, strips)?;
        Ok(Movement::between(first, second, strips))
    }

    /// What tells objects from other blocks, proved on objects that must exist.
    ///
    /// # Errors
    /// The target can no longer be read, or these objects are not found.
    pub fn proved_classifier<'a, M: Memory + ?Sized>(
        &self,
        memory: &M,
        python: &'a Python,
        types: &'a TypeTable,
    ) -> Result<Classifier<'a>, ProofError> {
        let classifier = self.classifier(memory, python, types);
        known_objects::prove(memory, python, &classifier, &self.plan)?;
        Ok(classifier)
    }

    fn classifier<'a, M: Memory + ?Sized>(
        &self,
        memory: &M,
        python: &'a Python,
        types: &'a TypeTable,
    ) -> Classifier<'a> {
        let mut classifier = Classifier::new(&python.layout, python.version, types, self.debug_hooks);
        classifier.dead = freelists::ambiguous(&CachedMemory::new(memory), python, &self.plan);
        classifier
    }

    /// Checks that what a census found agrees with the layout.
    ///
    /// # Errors
    /// More contradicts the layout than agrees with it: the figures would be wrong.
    fn judge<M: Memory + ?Sized>(&self, memory: &M, python: &Python, counts: &Counts) -> Result<(), ProofError> {
        self.judge_sample(memory, python, counts, counts.pools as f64)
    }

    /// The same for a sample from an estimated number of `pools` pools in use.
    ///
    /// # Errors
    /// As for a census.
    pub fn judge_sample<M: Memory + ?Sized>(
        &self,
        memory: &M,
        python: &Python,
        counts: &Counts,
        pools: f64,
    ) -> Result<(), ProofError> {
        /// Below this number of pools, the check proves nothing.
        const FEW: u64 = 8;
        let wrong = |detail: String| Err(ProofError::Field { field: "pool_header", detail });
        let (odd, sound) = (counts.contradicting_pools, counts.pools.saturating_sub(counts.moving_pools));
        if odd > FEW && odd > sound {
            return wrong(format!("{odd} pools contradict themselves, {sound} do not"));
        }
        let (found, stated) = (pools as u64 + counts.torn_pools, self.arenas.pools_in_use);
        // Memory that a core leaves out is not found.
        if stated > FEW && found < stated / 2 && counts.unreadable_bytes == 0 {
            // The heap may have shrunk meanwhile.
            let now = arenas::find(&CachedMemory::new(&Now(memory)), python).map_or(0, |arenas| arenas.pools_in_use);
            if found < now / 2 {
                return wrong(format!("{found} pools in use found, but the arenas count {stated}, and later {now}"));
            }
        }
        let reader = Reader { memory, layout: &python.layout };
        let threads = || python.interpreters.iter().map(|interpreter| stack::threads(&reader, interpreter).len()).sum();
        counts.page_chains.judge(threads)?;
        counts.trials.judge()
    }

    /// As [`Survey::census`], for local memory: also walks the collector's lists and compares.
    ///
    /// # Errors
    /// As [`Survey::census`].
    pub fn checked_census<M, S>(
        &self,
        memory: &M,
        python: &Python,
        types: &TypeTable,
        progress: &Progress,
        sink: impl Fn() -> S + Sync,
    ) -> Result<(Vec<S>, Outcome), ProofError>
    where
        M: Memory + Sync + ?Sized,
        S: Sink,
    {
        // Free-threaded builds have no lists.
        if python.layout.object.ob_ref_shared.is_some() {
            return self.census(memory, python, types, progress, sink);
        }
        let with_tracked = || Tracked { sink: sink(), addresses: Vec::new() };
        let (sinks, mut outcome) = self.census(memory, python, types, progress, with_tracked)?;
        // A target has at most as many objects as bytes read divided by the smallest size; a damaged list ends there.
        let mut met: FxHashSet<Address> = FxHashSet::default();
        let listed = gc_lists::walk(memory, python, self.plan.total_bytes() / 16, |address| met.insert(address));
        let tracked = || sinks.iter().flat_map(|sink| &sink.addresses);
        let in_both = tracked().filter(|address| met.contains(address)).count() as u64;
        outcome.lists = Some(ListCheck {
            listed: listed.objects,
            only_listed: listed.objects - in_both,
            only_in_blocks: tracked().count() as u64 - in_both,
            broken_lists: listed.broken,
        });
        if log::log_enabled!(log::Level::Debug) {
            let found: FxHashSet<Address> = tracked().copied().collect();
            for address in met.iter().filter(|address| !found.contains(address)).take(20) {
                log::debug!("only in the collector's lists: {address}");
            }
            for address in found.iter().filter(|address| !met.contains(address)).take(20) {
                log::debug!("tracked but in no list: {address}");
            }
        }
        Ok((sinks.into_iter().map(|tracked| tracked.sink).collect(), outcome))
    }
}

/// A sink that records which objects are tracked.
struct Tracked<S> {
    sink: S,
    addresses: Vec<Address>,
}

impl<S: Sink> Sink for Tracked<S> {
    const BY_PART: bool = S::BY_PART;

    fn object(&mut self, object: &Object) {
        if object.tracked {
            self.addresses.push(object.address);
        }
        self.sink.object(object);
    }

    fn end_of_part(&mut self, part: &Part) {
        self.sink.end_of_part(part);
    }
}
