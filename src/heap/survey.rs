//! Everything a census needs to know of a target before it starts, and the census itself.

use rustc_hash::FxHashSet;

use crate::allocator::pymalloc::arena::Arenas;
use crate::allocator::pymalloc::arenas::{self};
use crate::process::Address;
use crate::process::cache::CachedMemory;
use crate::process::elf::LoadedElf;
use crate::process::memory::{Memory, Now};
use crate::python::interpreter::Python;
use crate::python::proof_error::ProofError;
use crate::python::reader::Reader;
use crate::python::stack;
use crate::python::types::TypeTable;

use super::census::{self, Progress};
use super::classify::classifier::Classifier;
use super::classify::freelists;
use super::layout_check::known_objects;
use super::object::{Object, Sink};
use super::plan::Plan;
use super::worker::Counts;
use super::{debug_hooks, gc_lists};

/// Where a target keeps its objects.
#[derive(Debug)]
pub struct Survey {
    /// pymalloc's arenas.
    pub arenas: Arenas,
    /// All memory that may hold objects.
    pub plan: Plan,
    /// Whether blocks carry the debug hooks' mark.
    pub debug_hooks: bool,
}

/// A census's counts, and how far the ways of finding objects agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What the workers counted.
    pub counts: Counts,
    /// How the collector's lists compare, where they were walked.
    pub lists: Option<ListCheck>,
}

/// The collector's lists against the blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListCheck {
    /// Objects in the lists.
    pub listed: u64,
    /// Of these, in no block that was read as an object.
    pub only_listed: u64,
    /// Objects that say they are tracked and are in no list.
    pub only_in_blocks: u64,
    /// Lists that broke off.
    pub broken_lists: u64,
}

impl Survey {
    /// Finds arenas, heaps and data. Costs milliseconds, or one read per page of memory of unknown structure.
    ///
    /// # Errors
    /// Where the target cannot be read, or what is found contradicts the layout.
    pub fn new<M: Memory + ?Sized>(memory: &M, python: &Python, elfs: &[LoadedElf]) -> Result<Survey, ProofError> {
        let cached = CachedMemory::new(memory);
        let mut arenas = arenas::find(&cached, python)?;
        log::debug!("arenas found");
        let plan = Plan::new(memory, python, &arenas, elfs);
        if plan.has_segments() && python.layout.object.ob_ref_shared.is_none() {
            // Under PYTHONMALLOC=mimalloc `sys.getallocatedblocks` counts the asking thread's blocks only.
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

    /// Hands every live object to a sink.
    ///
    /// # Errors
    /// Where the target cannot be read at all any more, and where what was found contradicts the layout.
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

    /// What tells objects from other blocks, proved on objects that must exist.
    ///
    /// # Errors
    /// Where the target cannot be read at all any more, and where such objects are not found.
    pub fn proved_classifier<'a, M: Memory + ?Sized>(
        &self,
        memory: &M,
        python: &'a Python,
        types: &'a TypeTable,
    ) -> Result<Classifier<'a>, ProofError> {
        let mut classifier = Classifier::new(&python.layout, python.version, types, self.debug_hooks);
        classifier.dead = freelists::ambiguous(&CachedMemory::new(memory), python, &self.plan);
        known_objects::prove(memory, python, &classifier, &self.plan)?;
        Ok(classifier)
    }

    /// Whether what a census found agrees with the layout.
    ///
    /// # Errors
    /// Where more contradicts it than agrees with it: the figures would be wrong.
    fn judge<M: Memory + ?Sized>(&self, memory: &M, python: &Python, counts: &Counts) -> Result<(), ProofError> {
        self.judge_sample(memory, python, counts, counts.pools as f64)
    }

    /// The same for a sample, from which `pools` pools in use were estimated.
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
        /// Pools that are too few to say anything.
        const FEW: u64 = 8;
        let wrong = |detail: String| Err(ProofError::Field { field: "pool_header", detail });
        let (odd, sound) = (counts.contradicting_pools, counts.pools.saturating_sub(counts.moving_pools));
        if odd > FEW && odd > sound {
            return wrong(format!("{odd} pools contradict themselves, {sound} do not"));
        }
        let (found, stated) = (pools as u64 + counts.torn_pools, self.arenas.pools_in_use);
        // What a core left out is not found.
        if stated > FEW && found < stated / 2 && counts.unreadable_bytes == 0 {
            // A heap may have shrunk in the meantime.
            let now = arenas::find(&CachedMemory::new(&Now(memory)), python).map_or(0, |arenas| arenas.pools_in_use);
            if found < now / 2 {
                return wrong(format!("{found} pools in use, and their arenas count {stated}, later {now}"));
            }
        }
        let reader = Reader { memory, layout: &python.layout };
        let threads = || python.interpreters.iter().map(|interpreter| stack::threads(&reader, interpreter).len()).sum();
        counts.page_chains.judge(threads)?;
        counts.trials.judge()
    }

    /// As [`Survey::census`], for memory that is local: walks the collector's lists as well and compares.
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
        // No target has more objects than bytes read by the smallest object's size; a damaged list ends there.
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
                log::debug!("in the collector's lists only: {address}");
            }
            for address in found.iter().filter(|address| !met.contains(address)).take(20) {
                log::debug!("tracked and in no list: {address}");
            }
        }
        Ok((sinks.into_iter().map(|tracked| tracked.sink).collect(), outcome))
    }
}

/// A sink that remembers which objects were tracked.
struct Tracked<S> {
    sink: S,
    addresses: Vec<Address>,
}

impl<S: Sink> Sink for Tracked<S> {
    fn object(&mut self, object: &Object) {
        if object.tracked {
            self.addresses.push(object.address);
        }
        self.sink.object(object);
    }
}
