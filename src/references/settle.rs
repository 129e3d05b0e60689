//! Settles which words of opaque structs are references: reads them, has them judged by [`super::budget`], and keeps
//! the answer for whoever asks for an object's references.

use rustc_hash::FxHashMap;

use crate::heap::object_table::Objects;
use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt};
use crate::python::object_header::{self, Refcount};
use crate::python::type_flags as flag;
use crate::python::types::TypeTable;

use super::budget::{self, Rooms, WordCandidate};
use super::rules::{BODY_MAX, Rule};
use super::storage::Storage;
use super::{Label, Reads, References};

/// References that were settled, by the objects that own them.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    /// Addresses of the owners, ascending.
    owners: Vec<u64>,
    /// Where the references of each begin.
    starts: Vec<usize>,
    references: Vec<(u64, Label)>,
}

impl Settled {
    /// Adds a reference of the last owner, or of one behind it.
    fn push(&mut self, owner: Address, target: Address, label: Label) {
        if self.owners.last() != Some(&owner.0) {
            self.owners.push(owner.0);
            self.starts.push(self.references.len());
        }
        self.references.push((target.0, label));
    }

    /// The references of an object.
    pub fn of(&self, owner: Address) -> &[(u64, Label)] {
        let Ok(index) = self.owners.binary_search(&owner.0) else { return &[] };
        let end = self.starts.get(index + 1).copied().unwrap_or(self.references.len());
        self.starts.get(index).and_then(|&start| self.references.get(start..end)).unwrap_or_default()
    }
}

/// What is known of the references to each object before anything is settled.
pub struct Certain<'c> {
    /// The objects.
    pub objects: &'c Objects,
    /// Their types.
    pub types: &'c TypeTable,
    /// References to each object that are certain, by id.
    pub incoming: &'c [u32],
}

impl<M: Memory + ?Sized> References<'_, M> {
    /// Settles which words of opaque structs are references. From then on they are among the references of their
    /// owners, whoever asks. Returns them as ids of owner and target, by owner; nothing where it was done before.
    ///
    /// Reads the structs of all objects of opaque types, which are few as a rule.
    pub fn settle(&self, certain: &Certain<'_>) -> Vec<(u32, u32)> {
        if self.settled.get().is_some() {
            return Vec::new();
        }
        let mut settling = Settling::new(self, certain);
        settling.read_bodies();
        let mut found = settling.judge();
        found.sort_by_key(|&(candidate, _)| candidate.owner);
        let mut settled = Settled::default();
        let address = |id: u32| certain.objects.address(id as usize);
        found.iter().for_each(|&(word, label)| settled.push(address(word.owner), address(word.target), label));
        log::debug!("{} references of {} opaque objects", settled.references.len(), settled.owners.len());
        // Whoever was first has settled the same.
        let _ = self.settled.set(settled);
        found.iter().map(|&(word, _)| (word.owner, word.target)).collect()
    }

    /// What an opaque object refers to, as far as that is declared or settled.
    pub(super) fn opaque(&self, reads: &Reads, object: Address, rule: &Rule, visit: &mut impl FnMut(u64, Label)) {
        for &offset in &rule.declared {
            // C lets its own pointers refer to their object without owning it, but not those that it declares.
            if let Some(word) = self.word(reads, object, offset as usize).filter(|&word| word != 0) {
                visit(word, Label::Field(offset));
            }
        }
        let settled = self.settled.get().map_or(&[][..], |settled| settled.of(object));
        settled.iter().for_each(|&(target, label)| visit(target, label));
    }
}

/// One settlement.
struct Settling<'s, 'r, M: Memory + ?Sized> {
    references: &'s References<'r, M>,
    certain: &'s Certain<'s>,
    reads: Reads,
    rooms: Rooms,
    /// How many references to types are counted as certain and do not own.
    borrowed: FxHashMap<u32, u32>,
    groups: FxHashMap<(Address, u32), u32>,
    candidates: Vec<WordCandidate>,
    labels: Vec<Label>,
}

impl<'s, 'r, M: Memory + ?Sized> Settling<'s, 'r, M> {
    fn new(references: &'s References<'r, M>, certain: &'s Certain<'s>) -> Self {
        Settling {
            references,
            certain,
            reads: references.reads(),
            rooms: Rooms::default(),
            borrowed: borrowed(references, certain),
            groups: FxHashMap::default(),
            candidates: Vec::new(),
            labels: Vec::new(),
        }
    }

    /// Gathers the words of all opaque structs that are addresses of objects.
    fn read_bodies(&mut self) {
        let rules = &self.references.rules;
        let is_opaque: Vec<bool> =
            rules.iter().map(|rule| rule.storage == Storage::Opaque && !rule.opaque.is_empty()).collect();
        if !is_opaque.contains(&true) {
            return;
        }
        let objects = self.certain.objects;
        for id in 0..objects.len() {
            let type_index = objects.type_id(id).index();
            if is_opaque.get(type_index) == Some(&true)
                && let Some(rule) = rules.get(type_index)
            {
                self.read_body(id as u32, objects.address(id), rule);
            }
        }
    }

    fn read_body(&mut self, owner: u32, object: Address, rule: &Rule) {
        let references = self.references;
        let start = rule.opaque.start.next_multiple_of(8);
        let end = self.end_of_body(object, rule);
        let count = u64::from(end.saturating_sub(start)) / 8;
        let mut words: Vec<(u32, u32)> = Vec::new();
        let torn = self.reads.torn();
        references.for_each_word(&self.reads, object.offset(start as usize), count, &mut |index, word| {
            let offset = start + 8 * index as u32;
            let is_known = rule.skipped.contains(&offset) || rule.declared.contains(&offset) || word == object.0;
            if let Some(target) = self.certain.objects.find(word).filter(|_| !is_known) {
                words.push((offset, target));
            }
        });
        // An object whose memory goes away while it is read is judged by nothing.
        if self.reads.torn() > torn {
            return;
        }
        for (offset, target) in words {
            let (place, label) = match offset.checked_sub(rule.opaque.end) {
                None => (offset, Label::Field(offset)),
                // Items are alike.
                Some(behind) => {
                    let item = u32::try_from(rule.itemsize).unwrap_or(8).max(8);
                    (rule.opaque.end + behind % item, Label::Index(u64::from(behind / item)))
                }
            };
            let next = self.groups.len() as u32;
            let group = *self.groups.entry((rule.c_type, place)).or_insert(next);
            self.add(WordCandidate { owner, target, group }, label);
        }
    }

    /// One past the last byte of an object's struct, its items included.
    fn end_of_body(&self, object: Address, rule: &Rule) -> u32 {
        let basic = rule.opaque.end;
        if rule.itemsize == 0 || rule.basicsize > basic {
            return basic;
        }
        let size_at = self.references.layout.var_object.ob_size;
        let count = self.references.word(&self.reads, object, size_at).map_or(0, |size| (size as i64).unsigned_abs());
        let items = count.saturating_mul(rule.itemsize);
        basic.saturating_add(u32::try_from(items).unwrap_or(u32::MAX)).min(BODY_MAX as u32)
    }

    fn add(&mut self, candidate: WordCandidate, label: Label) {
        let target = candidate.target as usize;
        if self.rooms.left(candidate.target).is_none()
            && let Refcount::Count(count) = self.certain.objects.refcount(target)
            && !self.counts_elsewhere(self.certain.objects.address(target))
        {
            let incoming = self.certain.incoming.get(target).copied().unwrap_or(0);
            let owning = incoming.saturating_sub(self.borrowed.get(&candidate.target).copied().unwrap_or(0));
            self.rooms.set(candidate.target, count.saturating_sub(u64::from(owning)));
        }
        self.candidates.push(candidate);
        self.labels.push(label);
    }

    /// Whether an object's count leaves out references of frames and threads, as free-threaded builds count.
    fn counts_elsewhere(&self, object: Address) -> bool {
        let References { layout, memory, .. } = *self.references;
        let bits = layout.object.ob_gc_bits.map(|offset| memory.read_u8(object.offset(offset)));
        bits.is_some_and(|bits| bits.is_ok_and(object_header::is_deferred))
    }

    fn judge(&mut self) -> Vec<(WordCandidate, Label)> {
        let accepted = budget::accept(&self.candidates, &mut self.rooms);
        let word = |&index: &u32| Some((*self.candidates.get(index as usize)?, *self.labels.get(index as usize)?));
        accepted.iter().filter_map(word).collect()
    }
}

/// How many pointers to each object the rules of its referrers count, though they own nothing: a static type borrows
/// the base that it was written with.
fn borrowed<M: Memory + ?Sized>(references: &References<'_, M>, certain: &Certain<'_>) -> FxHashMap<u32, u32> {
    let offset = references.layout.type_object.tp_base;
    let mut borrowed = FxHashMap::default();
    for (_, info) in certain.types.iter().filter(|(_, info)| !info.has(flag::HEAPTYPE)) {
        let base = references.memory.read_u64(info.address.offset(offset)).unwrap_or(0);
        // The type itself may be no object: then nothing counts its pointers.
        if let (Some(_), Some(base)) = (certain.objects.find(info.address.0), certain.objects.find(base)) {
            *borrowed.entry(base).or_default() += 1;
        }
    }
    borrowed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_found_by_owner() {
        let mut settled = Settled::default();
        for (owner, target) in [(16, 100), (16, 200), (48, 300)] {
            settled.push(Address(owner), Address(target), Label::Field(24));
        }
        let targets = |owner: u64| settled.of(Address(owner)).iter().map(|(target, _)| *target).collect::<Vec<_>>();
        assert_eq!((targets(16), targets(32), targets(48)), (vec![100, 200], vec![], vec![300]));
    }
}
