//! Does a census find what must be there? Modules and their specifications exist in every interpreter, and where they
//! are is known without the heap's structure: from `sys.modules`. So the pools in which they lie are read as a census
//! reads them, and it must find them at just these addresses.
//!
//! A running target changes meanwhile, so that most must be found, and it is tried again.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::heap::classify::classifier::Classifier;
use crate::heap::object::Object;
use crate::heap::part::Part;
use crate::heap::plan::Plan;
use crate::heap::worker::Worker;
use crate::process::Address;
use crate::process::cache::CachedMemory;
use crate::process::memory::{Memory, ReadError};
use crate::python::heap_types;
use crate::python::interpreter::Python;
use crate::python::proof_error::ProofError;
use crate::python::reader::Reader;

/// How often it is tried.
const TRIES: usize = 4;
/// Objects that are too few to say anything.
const FEW: usize = 4;

/// Looks for them.
///
/// # Errors
/// Where most are not found, and where the target cannot be read any more.
pub(crate) fn prove<M: Memory + ?Sized>(
    memory: &M,
    python: &Python,
    classifier: &Classifier<'_>,
    plan: &Plan,
) -> Result<(), ProofError> {
    let Some(main) = python.interpreters.first() else { return Ok(()) };
    let mut result = Ok(());
    for _ in 0..TRIES {
        let cached = CachedMemory::new(memory);
        let reader = Reader { memory: &cached, layout: &python.layout };
        // What is taken down, or changes just now, says nothing.
        let modules = match heap_types::modules(&reader, main) {
            Err(error @ (ReadError::Gone | ReadError::Denied)) => return Err(error.into()),
            modules => modules.unwrap_or_default(),
        };
        // Two kinds of objects: what lies in front of them differs.
        let known: Vec<Address> = modules.iter().map(|module| module.object).collect();
        let instances: Vec<Address> =
            heap_types::specifications(&reader, &modules).iter().map(|&(_, spec)| spec).collect();
        result = look(memory, classifier, plan, &known).and_then(|()| look(memory, classifier, plan, &instances));
        match result {
            Err(ProofError::Read(ReadError::Gone | ReadError::Denied)) | Ok(()) => break,
            Err(_) => {}
        }
    }
    result
}

fn look<M: Memory + ?Sized>(
    memory: &M,
    classifier: &Classifier<'_>,
    plan: &Plan,
    known: &[Address],
) -> Result<(), ProofError> {
    let pool_size = classifier.layout().constants.pool_size as u64;
    let (mut pools, mut lost, mut placed) = (FxHashMap::<Address, Vec<Address>>::default(), 0, 0);
    let mut segments = FxHashMap::<usize, Vec<Address>>::default();
    for &object in known {
        let is_in = |part: &Part| part.ranges().iter().any(|range| range.contains(&object));
        let Some(index) = plan.parts.iter().position(is_in) else {
            lost += 1;
            continue;
        };
        placed += 1;
        match &plan.parts[index] {
            Part::Arena(arena) => {
                let pool = arena.pools.start.0 + (object.0 - arena.pools.start.0) / pool_size * pool_size;
                pools.entry(Address(pool)).or_default().push(object);
            }
            Part::Segment(_) => segments.entry(index).or_default().push(object),
            // Other memory is searched, or begins where the object's block need not.
            _ => {}
        }
    }
    let wrong = |detail: String| Err(ProofError::Field { field: "PyObject", detail });
    if lost > placed && lost > FEW {
        return wrong(format!("{lost} of {} modules lie in no memory of a known structure", known.len()));
    }
    let mut worker = Worker::new(memory, classifier, Vec::<Object>::new());
    let bases: Vec<Address> = pools.keys().copied().collect();
    worker.read_pools(&bases)?;
    // One segment holds most.
    let fullest = segments.into_iter().max_by_key(|(index, objects)| (objects.len(), *index));
    if let Some((index, _)) = &fullest {
        worker.read_part(&plan.parts[*index])?;
    }
    let (found, counts) = worker.finish()?;
    if counts.unreadable_bytes > 0 {
        // A core leaves out what it likes.
        return Ok(());
    }
    let found: FxHashSet<Address> = found.iter().map(|object| object.address).collect();
    let looked_for: Vec<Address> =
        pools.into_values().flatten().chain(fullest.into_iter().flat_map(|of| of.1)).collect();
    let missing = looked_for.iter().filter(|object| !found.contains(object)).count();
    if missing > FEW && 2 * missing > looked_for.len() {
        return wrong(format!("{missing} of {} modules are not found where they are", looked_for.len()));
    }
    Ok(())
}
