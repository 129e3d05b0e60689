//! What objects own that the collector does not track, and so no look can see: strings, numbers, and tuples and dicts
//! that hold nothing else. Their references are followed while the target runs.

use fastrand::Rng;

use crate::process::Address;
use crate::process::memory::{Memory, u64_at};
use crate::process::page_cache::Momentary;
use crate::process::source::Source;
use crate::python::gc_links::list_pointer;
use crate::python::interpreter::Python;
use crate::python::object_header::{Refcount, RefcountRule, refcount_word};
use crate::python::reader::Reader;
use crate::python::types::{TypeId, TypeTable};
use crate::record::newborns::Newborn;
use crate::record::shares::NewbornOwner;
use crate::references::References;

/// Owners that are asked: what one in ten of them owns is known to a tenth of itself.
const OWNERS_MAX: usize = 4000;
/// Objects of one owner: the pages of a large answer, and less than a second for all owners.
const OWNED_MAX: usize = 1000;
/// References read of one owner.
const REFERENCES_MAX: usize = 10 * OWNED_MAX;
/// Bytes of an object's header at most.
const HEADER_MAX: usize = 64;

/// Finds objects of one owner.
struct UntrackedSearch<'a, M: Memory + ?Sized> {
    memory: &'a M,
    python: &'a Python,
    types: &'a TypeTable,
    rule: RefcountRule,
}

/// What some of these newborns own. `bytes` is the size of the memory that may hold objects.
pub(super) fn owned(
    source: &Source,
    python: &Python,
    types: &TypeTable,
    bytes: u64,
    newborns: &[Newborn],
    rng: &mut Rng,
) -> Vec<NewbornOwner> {
    let pages = Momentary::new(source);
    let references = References::new(source, python, types, bytes);
    let references = references.over(&pages);
    let reads = references.reads();
    let rule = RefcountRule::of(&python.layout, python.version);
    let search = UntrackedSearch { memory: &pages, python, types, rule };
    let asked = rng.choose_multiple(newborns.iter(), OWNERS_MAX.min(newborns.len()));
    let of = |newborn: &Newborn| {
        let mut owned = Vec::new();
        let mut left = REFERENCES_MAX;
        let address = newborn.birth.node.head.offset(python.layout.constants.gc_head_size);
        let mut open: Vec<(Address, TypeId, f64)> = Vec::new();
        open.extend(types.find(newborn.birth.node.type_.0).map(|type_id| (address, type_id, 1.0)));
        while let Some((object, type_id, share)) = open.pop() {
            references.for_each(&reads, object, type_id, &mut |word, _| {
                if left == 0 || owned.len() >= OWNED_MAX {
                    return;
                }
                left -= 1;
                if let Some((type_id, held)) = search.untracked(Address(word)) {
                    let share = share / held as f64;
                    owned.push((types.get(type_id).address, share));
                    if !references.is_leaf(type_id) {
                        open.push((Address(word), type_id, share));
                    }
                }
            });
        }
        NewbornOwner { newborn: *newborn, owned }
    };
    asked.into_iter().map(of).collect()
}

impl<M: Memory + ?Sized> UntrackedSearch<'_, M> {
    /// The type of an object that the collector does not track, and how many references there are to it. `None` for
    /// what is no such object, or never freed.
    fn untracked(&self, object: Address) -> Option<(TypeId, u64)> {
        let layout = &self.python.layout;
        let mut bytes = [0; HEADER_MAX];
        let bytes = bytes.get_mut(..layout.object.ob_type + 8)?;
        self.memory.read_exact_at(object, bytes).ok()?;
        let type_id = self.types.find(u64_at(bytes, layout.object.ob_type)?)?;
        let Refcount::Count(held) = self.rule.decode(refcount_word(layout, bytes)?)? else { return None };
        let info = self.types.get(type_id);
        if info.is_gc() {
            let head = Address(object.0.checked_sub(info.gc_head as u64)?);
            let reader = Reader { memory: self.memory, layout };
            if !list_pointer(&reader, head, layout.gc_head.gc_next).ok()?.is_null() {
                return None;
            }
        }
        Some((type_id, held))
    }
}
