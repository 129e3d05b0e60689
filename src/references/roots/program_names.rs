//! Finds which names of threads and tasks are the program's own.
//!
//! Python gives names of a form that can be told ([`identifier::is_of_thread`]). Any other is data, unless it stands in
//! the program's text: as it is, or but for the number at its end, as in `f"order-consumer-{number}"` and as
//! `ThreadPoolExecutor` numbers its threads.

use rustc_hash::FxHashSet;

use crate::heap::object_table::Objects;
use crate::process::memory::{Memory, MemoryExt};
use crate::python::identifier;
use crate::python::interpreter::Python;
use crate::python::reader::{NAME_LENGTH_MAX, Reader};
use crate::python::types::TypeTable;
use crate::references::References;

use super::tasks::task_types;
use super::threads::active_threads;

/// Names of threads and tasks that stand in the program's text, though they have not the form of Python's own.
pub(crate) fn program_names<M: Memory + ?Sized>(
    memory: &M,
    python: &Python,
    types: &TypeTable,
    references: &References<'_, M>,
    objects: &Objects,
) -> FxHashSet<String> {
    let reader = Reader { memory, layout: &python.layout };
    let reads = references.reads();
    let threads = python.interpreters.iter().flat_map(|interpreter| active_threads(&reader, interpreter));
    let of_threads = threads.filter_map(|entry| references.attribute(&reads, types, entry.value, "_name"));
    let kinds = task_types(types);
    let tasks = (0..objects.len()).filter(|&id| kinds.contains(&objects.type_id(id)));
    let of_tasks = tasks.filter_map(|id| reader.pointer(objects.address(id), python.layout.task.task_name).ok());
    let names = of_threads.chain(of_tasks).filter_map(|name| reader.string(name, NAME_LENGTH_MAX));
    let doubtful: FxHashSet<String> = names.filter(|name| !identifier::is_of_thread(name)).collect();
    if doubtful.is_empty() {
        return doubtful;
    }
    let texts: FxHashSet<&str> = doubtful.iter().flat_map(|name| texts_of(name)).collect();
    let lengths: FxHashSet<u64> = texts.iter().map(|text| text.chars().count() as u64).collect();
    let is_possible = |length: u64| lengths.contains(&length);
    let length = python.layout.unicode.length;
    let known = references.code_names(reader, objects, types);
    let known = known.addresses().filter(|text| memory.read_u64(text.offset(length)).is_ok_and(is_possible));
    let known: FxHashSet<String> = known.filter_map(|text| reader.string(text, NAME_LENGTH_MAX)).collect();
    let is_own = |name: &String| texts_of(name).into_iter().any(|text| known.contains(text));
    doubtful.into_iter().filter(is_own).collect()
}

/// The texts of which a name may be made: itself; without the number at its end; without what joins that number.
fn texts_of(name: &str) -> Vec<&str> {
    let unnumbered = name.trim_end_matches(|char: char| char.is_ascii_digit());
    let base = unnumbered.trim_end_matches(['-', '_']);
    let is_numbered = unnumbered.len() < name.len();
    let others = [unnumbered, base].into_iter().filter(|text| is_numbered && !text.is_empty());
    std::iter::once(name).chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_at_the_end_is_no_part_of_the_text() {
        assert_eq!(texts_of("order-consumer"), ["order-consumer"]);
        assert_eq!(texts_of("order-consumer-12"), ["order-consumer-12", "order-consumer-", "order-consumer"]);
        assert_eq!(texts_of("42"), ["42"]);
        assert_eq!(texts_of("-_"), ["-_"]);
    }
}
