//! Checks rarer objects against the layout. Attaching cannot prove these structs, because no such object need exist. So
//! the first ones that a census meets are checked: their fields must agree with each other and with what they point to.
//!
//! [`crate::heap::layout_check::object`] checks single objects. If many objects of a struct contradict the layout, they
//! would be counted wrongly: that is an error, not a figure.

use crate::process::Address;
use crate::process::memory::Memory;
use crate::python::proof_error::ProofError;
use crate::python::types::TypeInfo;

use super::checked_struct::{CHECKED_STRUCTS, CheckedStruct};
use super::object::Trial;

/// Number of conclusive checks per struct and worker.
const ASKED_MAX: u32 = 512;
const TOLD_MAX: u32 = 64;
/// Number of refused blocks that one worker checks. Each check takes two reads.
const REFUSED_ASKED_MAX: u32 = 4096;
/// Objects within this many bytes were usually made by the same code. Only some of each neighborhood are counted, so
/// that one part of a program that damages objects, or makes unusual ones, does not outvote the rest.
const NEIGHBORHOOD: u64 = 16 << 10;
const NEIGHBORS_MAX: u32 = 8;
const TRIED_NEIGHBORS_MAX: u32 = 16;
/// If at least this many objects agree in every field and hardly any does not, refused blocks are taken as damaged: no
/// wrong layout agrees with so many objects.
const CONFIRMED_MIN: u32 = 8;
const CONFIRMED_PART: u32 = 8;
/// Number of failures that count: one object may have been stopped in the middle of a change, or be no object.
const FAILED_MIN: u32 = 3;
const MINORITY_MIN: u32 = 8;
/// Number of contradicting blocks that suffice for an error.
const REFUSED_MIN: u32 = 8;
/// The same for text, which is created everywhere and all the time.
const REFUSED_TEXTS_MIN: u32 = 16;

/// Votes on one struct.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Votes {
    asked: u32,
    held: u32,
    failed: u32,
    /// Objects found and blocks that contradict the layout, with a limit per neighborhood.
    found: u32,
    refused: u32,
    /// Number of refused blocks that were checked.
    refused_asked: u32,
    /// The neighborhood of the last object, and how many in it were found, refused and checked.
    neighborhood: u64,
    found_here: u32,
    refused_here: u32,
    tried_here: u32,
    /// Of the refused, those that make sense with two fields exchanged.
    exchanged: u32,
}

impl Votes {
    /// Moves to the neighborhood of an address.
    fn turn_to(&mut self, address: Address) {
        let neighborhood = address.0 / NEIGHBORHOOD;
        if neighborhood != self.neighborhood {
            self.neighborhood = neighborhood;
            (self.found_here, self.refused_here, self.tried_here) = (0, 0, 0);
        }
    }
}

/// Whether another object of this neighborhood counts.
fn counts(here: &mut u32, most: u32) -> bool {
    *here += u32::from(*here <= most);
    *here <= most
}

/// The votes on every struct.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trials {
    votes: [Votes; CHECKED_STRUCTS.len()],
}

impl Trials {
    /// Adds the votes of another worker.
    pub fn add(&mut self, other: &Trials) {
        for (own, other) in self.votes.iter_mut().zip(&other.votes) {
            own.asked = own.asked.saturating_add(other.asked);
            own.held = own.held.saturating_add(other.held);
            own.failed = own.failed.saturating_add(other.failed);
            own.found = own.found.saturating_add(other.found);
            own.refused = own.refused.saturating_add(other.refused);
            own.refused_asked = own.refused_asked.saturating_add(other.refused_asked);
            own.exchanged = own.exchanged.saturating_add(other.exchanged);
        }
    }

    /// Records a block that names a type and could hold such an object, but has an impossible body. Most sets look the
    /// same with their two counts exchanged; the few that do not are refused and therefore checked.
    pub(crate) fn refuse<M: Memory + ?Sized>(&mut self, trial: &Trial<'_, M>, info: &TypeInfo, address: Address) {
        let Some(kind) = CheckedStruct::of(info.rule) else { return };
        let votes = &mut self.votes[kind as usize];
        votes.turn_to(address);
        if votes.refused_here >= NEIGHBORS_MAX || votes.refused_asked >= REFUSED_ASKED_MAX {
            return;
        }
        votes.refused_asked += 1;
        if !trial.speaks_against(kind, info, address) {
            return;
        }
        votes.refused_here += 1;
        votes.refused += 1;
        if kind == CheckedStruct::Set {
            votes.exchanged += u32::from(trial.is_exchanged_set(info, address) == Some(true));
        }
    }

    /// Records an object, and checks it if more are needed. `bytes` returns its first bytes if they are at hand; only
    /// text needs them.
    #[inline]
    pub(crate) fn meet<'w, M: Memory + ?Sized>(
        &mut self,
        trial: &Trial<'_, M>,
        info: &TypeInfo,
        address: Address,
        bytes: impl FnOnce() -> Option<&'w [u8]>,
    ) {
        let Some(kind) = CheckedStruct::of(info.rule) else { return };
        let votes = &mut self.votes[kind as usize];
        if kind == CheckedStruct::Text && bytes().and_then(|bytes| trial.is_ascii(bytes)) != Some(false) {
            return;
        }
        votes.turn_to(address);
        votes.found = votes.found.saturating_add(u32::from(counts(&mut votes.found_here, NEIGHBORS_MAX)));
        let is_wanted = votes.asked < ASKED_MAX && votes.held + votes.failed < TOLD_MAX;
        if is_wanted && counts(&mut votes.tried_here, TRIED_NEIGHBORS_MAX) {
            votes.asked += 1;
            match trial.of(kind, info, address) {
                Some(true) => votes.held += 1,
                Some(false) => votes.failed += 1,
                None => {}
            }
        }
    }

    /// Evaluates the votes.
    ///
    /// # Errors
    /// The first struct for which more objects contradict the layout than agree.
    pub fn judge(&self) -> Result<(), ProofError> {
        for kind in CHECKED_STRUCTS {
            let Votes { held, failed, found, refused, exchanged, .. } = self.votes[kind as usize];
            let field = kind.name();
            if failed >= FAILED_MIN && failed > held || failed >= MINORITY_MIN && failed > held / 2 {
                let detail = format!("{failed} of {} objects contradict it", held + failed);
                return Err(ProofError::Field { field, detail });
            }
            if exchanged > 0 {
                let detail = format!("{exchanged} objects make sense only with two fields exchanged");
                return Err(ProofError::Field { field, detail });
            }
            let few = if kind == CheckedStruct::Text { REFUSED_TEXTS_MIN } else { REFUSED_MIN };
            let is_confirmed = held >= CONFIRMED_MIN && failed <= held / CONFIRMED_PART;
            if refused >= few && refused > found && !is_confirmed {
                let detail = format!("{refused} of {} objects make no sense", found.saturating_add(refused));
                return Err(ProofError::Field { field, detail });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::classify::classifier::Classifier;
    use crate::heap::testing::{SET, START, image, layout, put, types};
    use crate::python::types::TypeTable;
    use crate::python::version::Version;

    /// Bytes from one set to the next; two neighborhoods hold eight sets.
    const STRIDE: usize = 4096;

    /// The result for linked or unlinked sets in a row, of which the first `broken` have more used than filled slots.
    fn judged(sets: usize, broken: usize, is_linked: bool) -> (Votes, Result<(), ProofError>) {
        let layout = layout();
        let table = TypeTable::of(types(&layout));
        let classifier = Classifier::new(&layout, Version::release(3, 12, 1), &table, false);
        let mut bytes = vec![0; sets * STRIDE];
        let at = |index: usize| (index % sets) * STRIDE;
        for index in 0..sets {
            let object = at(index) + 16;
            let link = |to: usize| if is_linked { START + at(to) as u64 } else { 0 };
            put(&mut bytes, at(index), link(index + 1));
            put(&mut bytes, at(index) + 8, link(index + sets - 1));
            put(&mut bytes, object, 1);
            put(&mut bytes, object + layout.object.ob_type, SET);
            put(&mut bytes, object + layout.set.used, if index < broken { 3 } else { 0 });
            put(&mut bytes, object + layout.set.mask, 7);
            put(&mut bytes, object + layout.set.table, START + (object + layout.set.smalltable) as u64);
        }
        let image = image(bytes);
        let trial = Trial::new(&image, &classifier, 1 << 40);
        let info = table.get(table.find(SET).unwrap());
        let mut trials = Trials::default();
        for index in 0..sets {
            let object = Address(START).offset(at(index) + 16);
            match index < broken {
                true => trials.refuse(&trial, info, object),
                false => trials.meet(&trial, info, object, || None),
            }
        }
        (trials.votes[CheckedStruct::Set as usize], trials.judge())
    }

    #[test]
    fn a_layout_is_refused_where_most_objects_contradict_it() {
        let (votes, verdict) = judged(40, 34, true);
        assert_eq!((votes.refused, votes.found, votes.held), (34, 6, 6));
        assert!(matches!(verdict, Err(ProofError::Field { field: "PySetObject", .. })));
        assert!(judged(40, 10, true).1.is_ok());
        // Sets that agree in every field cannot do so by chance.
        let (votes, verdict) = judged(40, 30, true);
        assert_eq!((votes.refused, votes.found, votes.held), (30, 10, 10));
        assert!(verdict.is_ok());
        // Too few to decide.
        assert!(judged(7, 7, true).1.is_ok());
    }

    #[test]
    fn a_block_that_is_no_object_for_certain_has_no_vote() {
        let (votes, verdict) = judged(40, 30, false);
        assert_eq!((votes.refused, votes.found), (0, 10));
        assert!(verdict.is_ok());
    }

    #[test]
    fn neighbors_speak_with_few_voices() {
        let mut votes = Votes::default();
        let mut counted = 0;
        for index in 0..1000 {
            votes.turn_to(Address(START + index * 64));
            counted += u64::from(counts(&mut votes.found_here, NEIGHBORS_MAX));
        }
        let neighborhoods = (1000 * 64u64).div_ceil(NEIGHBORHOOD);
        assert_eq!(counted, neighborhoods * u64::from(NEIGHBORS_MAX));
    }
}
