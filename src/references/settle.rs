//! Settles which words of opaque structs are references, and keeps the result of [`super::search`] for later queries.

use crate::process::Address;
use crate::process::memory::Memory;

use super::certain::Certain;
use super::rules::Rule;
use super::search::ReferenceSearch;
use super::{Label, Reads, References};

/// Settled references, by the objects that own them.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    /// Addresses of the owners, ascending.
    owners: Vec<u64>,
    /// Start of each owner's references.
    starts: Vec<usize>,
    references: Vec<(u64, Label)>,
}

impl Settled {
    /// Adds a reference of the last owner or of one with a higher address.
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

impl<M: Memory + ?Sized> References<'_, M> {
    /// Settles which words of opaque structs are references; from then on they are part of their owners' references.
    /// Returns them as pairs of owner and target ids, by owner; empty if they were settled before.
    ///
    /// Reads the structs of all objects of opaque types, which are usually few, and the native memory behind them.
    pub fn settle(&self, certain: &Certain<'_>) -> Vec<(u32, u32)> {
        if self.settled.get().is_some() {
            return Vec::new();
        }
        let mut found = ReferenceSearch::new(self, certain).run();
        found.sort_by_key(|&(candidate, _)| candidate.owner);
        let mut settled = Settled::default();
        let address = |id: u32| certain.objects.address(id as usize);
        found.iter().for_each(|&(word, label)| settled.push(address(word.owner), address(word.target), label));
        log::debug!("{} references of {} opaque objects", settled.references.len(), settled.owners.len());
        // If another thread was first, it settled the same references.
        let _ = self.settled.set(settled);
        found.iter().map(|&(word, _)| (word.owner, word.target)).collect()
    }

    /// The references of an opaque object, as far as they are known or settled.
    pub(super) fn opaque(&self, reads: &Reads, object: Address, rule: &Rule, visit: &mut impl FnMut(u64, Label)) {
        for &offset in &rule.owned {
            // C may hold borrowed pointers to its own object, but not in these words.
            if let Some(word) = self.word(reads, object, offset as usize).filter(|&word| word != 0) {
                visit(word, Label::Field(offset));
            }
        }
        let settled = self.settled.get().map_or(&[][..], |settled| settled.of(object));
        settled.iter().for_each(|&(target, label)| visit(target, label));
    }
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
