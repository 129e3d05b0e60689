//! Checks that a census finds objects that must exist. Every interpreter has modules and their specs, and `sys.modules`
//! gives their addresses independent of the heap's structure. The pools that contain them are read as in a census,
//! which must find them at exactly these addresses.
//!
//! A running target changes meanwhile, so most must be found, and several attempts are made.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::heap::classify::classifier::Classifier;
use crate::heap::object::Object;
use crate::heap::part::Part;
use crate::heap::plan::Plan;
use crate::heap::worker::Worker;
use crate::process::Address;
use crate::process::cache::CachedMemory;
use crate::process::memory::Memory;
use crate::python::heap_types;
use crate::python::interpreter::Python;
use crate::python::proof_error::ProofError;
use crate::python::reader::Reader;

/// Number of attempts.
const TRIES: usize = 4;
/// Below this number of objects, the check proves nothing.
const FEW: usize = 4;

/// Runs the check.
///
/// # Errors
/// Most objects are not found, or the target can no longer be read.
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
        // An interpreter that is finalizing or changing its modules proves nothing.
        let modules = match heap_types::modules(&reader, main) {
            Err(error) if error.is_final() => return Err(error.into()),
            modules => modules.unwrap_or_default(),
        };
        // Two kinds of objects, with different fronts.
        let known: Vec<Address> = modules.iter().map(|module| module.object).collect();
        let instances: Vec<Address> =
            heap_types::specifications(&reader, &modules).iter().map(|&(_, spec)| spec).collect();
        result = look(memory, classifier, plan, &known).and_then(|()| look(memory, classifier, plan, &instances));
        match result {
            Ok(()) => break,
            Err(ProofError::Read(error)) if error.is_final() => return Err(error.into()),
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
            // Other memory is scanned, or a block's start is not known.
            _ => {}
        }
    }
    let wrong = |detail: String| Err(ProofError::Field { field: "PyObject", detail });
    if lost > placed && lost > FEW {
        return wrong(format!("{lost} of {} modules are not in memory of a known structure", known.len()));
    }
    let mut worker = Worker::new(memory, classifier, Vec::<Object>::new());
    let bases: Vec<Address> = pools.keys().copied().collect();
    worker.read_pools(&bases)?;
    // One segment holds most of them.
    let fullest = segments.into_iter().max_by_key(|(index, objects)| (objects.len(), *index));
    if let Some((index, _)) = &fullest {
        worker.read_part(&plan.parts[*index])?;
    }
    let (found, counts) = worker.finish()?;
    if counts.unreadable_bytes > 0 {
        // A core may leave out any memory.
        return Ok(());
    }
    let found: FxHashSet<Address> = found.iter().map(|object| object.address).collect();
    let looked_for: Vec<Address> =
        pools.into_values().flatten().chain(fullest.into_iter().flat_map(|of| of.1)).collect();
    let missing = looked_for.iter().filter(|object| !found.contains(object)).count();
    if missing > FEW && 2 * missing > looked_for.len() {
        return wrong(format!("{missing} of {} modules were not found at their addresses", looked_for.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::pymalloc::arena::Arena;
    use crate::heap::testing::{FLOAT, START, image, layout, pool, types};
    use crate::python::types::TypeTable;
    use crate::python::version::Version;

    /// Objects in the pool.
    const COUNT: usize = 12;

    /// Looks for these objects in a pool of floats, of which the last `dead` are none any more.
    fn looked(known: impl Fn(u64) -> Vec<u64>, dead: usize) -> Result<(), ProofError> {
        let layout = layout();
        let table = TypeTable::of(types(&layout));
        let classifier = Classifier::new(&layout, Version::release(3, 12, 1), &table, false);
        let (alive, gone): ([u64; 4], [u64; 4]) = ([1, FLOAT, 0, 0], [0, 0, 0, 0]);
        let blocks: Vec<Option<&[u64]>> =
            (0..COUNT).map(|nth| Some(if nth < COUNT - dead { &alive[..] } else { &gone[..] })).collect();
        let bytes = pool(&layout, START, 32, &blocks);
        let range = Address(START)..Address(START).offset(bytes.len());
        let arena = Part::Arena(Arena { index: 0, range: range.clone(), pools: range });
        let plan = Plan { parts: vec![arena], unknown: Vec::new() };
        let first = START + layout.constants.pool_overhead as u64;
        let known: Vec<Address> = known(first).into_iter().map(Address).collect();
        look(&image(bytes), &classifier, &plan, &known)
    }

    fn all(first: u64) -> Vec<u64> {
        (0..COUNT as u64).map(|nth| first + 32 * nth).collect()
    }

    fn detail(result: Result<(), ProofError>) -> String {
        match result {
            Err(ProofError::Field { field: "PyObject", detail }) => detail,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn objects_at_their_addresses_are_found() {
        assert!(looked(all, 0).is_ok());
        // A running target may lose some meanwhile, but not most.
        assert!(looked(all, COUNT / 2).is_ok());
        assert_eq!(detail(looked(all, COUNT / 2 + 1)), "7 of 12 modules were not found at their addresses");
    }

    #[test]
    fn objects_that_a_census_finds_elsewhere_refute_the_layout() {
        // As with a wrong size of what is in front of an object.
        let shifted = |first| all(first).into_iter().map(|object| object + 16).collect();
        assert_eq!(detail(looked(shifted, 0)), "12 of 12 modules were not found at their addresses");
        // So few prove nothing.
        assert!(looked(|first| all(first + 16)[..FEW].to_vec(), 0).is_ok());
    }

    #[test]
    fn objects_outside_all_known_memory_refute_the_layout() {
        let far = |first: u64| all(first + (1 << 30));
        assert_eq!(detail(looked(far, 0)), "12 of 12 modules are not in memory of a known structure");
        // Half of them may be: builtin modules of some programs are.
        let half = |first: u64| [&all(first)[..6], &all(first + (1 << 30))[..6]].concat();
        assert!(looked(half, 0).is_ok());
        assert!(looked(|first| all(first + (1 << 30))[..FEW].to_vec(), 0).is_ok());
        assert!(looked(|_| Vec::new(), 0).is_ok());
    }
}
