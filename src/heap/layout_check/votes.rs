//! Are objects of the rarer kinds laid out as the layout says? What attaching cannot prove, because no object of the
//! kind need exist, is tried on the first ones that a census meets: their fields must agree with each other and with
//! what they point at.
//!
//! How one is tried says [`crate::heap::layout_check::object`]. A kind of which many objects contradict the layout
//! would be counted wrongly: that is an error, not a figure.

use crate::process::Address;
use crate::process::memory::Memory;
use crate::python::proof_error::ProofError;
use crate::python::types::TypeInfo;

use super::checked_struct::{CHECKED_STRUCTS, CheckedStruct};
use super::object::Trial;

/// Objects of one struct that one worker asks, until so many of them told anything.
const ASKED_MAX: u32 = 512;
const TOLD_MAX: u32 = 64;
/// Blocks that one worker asks whether they speak against the layout. Each takes two reads.
const REFUSED_ASKED_MAX: u32 = 4096;
/// Objects in memory of this many bytes were made by the same code, as a rule, so that some of them speak for all: what
/// one part of a program damaged, or makes in an odd way, does not outvote what all others made.
const NEIGHBORHOOD: u64 = 16 << 10;
const NEIGHBORS_MAX: u32 = 8;
const TRIED_NEIGHBORS_MAX: u32 = 16;
/// So many objects that were tried and agree with the layout in all, and hardly any that does not, are proof that what
/// was refused was damaged: no wrong layout makes sense of them.
const CONFIRMED_MIN: u32 = 8;
const CONFIRMED_PART: u32 = 8;
/// One object may have been stopped in the middle of a change, or be none; some of many may.
const FAILED_MIN: u32 = 3;
const MINORITY_MIN: u32 = 8;
/// Blocks that must speak against the layout before that alone says something.
const REFUSED_MIN: u32 = 8;
/// Of text, which is made everywhere and all the time, more.
const REFUSED_TEXTS_MIN: u32 = 16;

/// What became of the objects of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Votes {
    asked: u32,
    held: u32,
    failed: u32,
    /// Objects that were found, and blocks that speak against the layout; of each neighborhood no more than some.
    found: u32,
    refused: u32,
    /// Blocks that were asked whether they do.
    refused_asked: u32,
    /// The neighborhood of the last object, and how many of it were found, refused and tried.
    neighborhood: u64,
    found_here: u32,
    refused_here: u32,
    tried_here: u32,
    /// Of the refused, objects that two fields in each other's place make perfect sense of.
    exchanged: u32,
}

impl Votes {
    /// Turns to the neighborhood of an address.
    fn turn_to(&mut self, address: Address) {
        let neighborhood = address.0 / NEIGHBORHOOD;
        if neighborhood != self.neighborhood {
            self.neighborhood = neighborhood;
            (self.found_here, self.refused_here, self.tried_here) = (0, 0, 0);
        }
    }
}

/// Whether one more of a neighborhood counts.
fn counts(here: &mut u32, most: u32) -> bool {
    *here += u32::from(*here <= most);
    *here <= most
}

/// What became of the objects of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trials {
    votes: [Votes; CHECKED_STRUCTS.len()],
}

impl Trials {
    /// Adds another worker's.
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

    /// A block names a type and could hold an object of it, but its body cannot be right. Most sets are the same with
    /// their two counts exchanged; the few that are not are refused, and so are asked why.
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

    /// An object was found: tries it, if there were not enough of its kind yet. `bytes` gives the first of its own,
    /// where they are at hand; only text is asked for them.
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

    /// The layout holds for most objects of each kind.
    ///
    /// # Errors
    /// The first kind for which it does not.
    pub fn judge(&self) -> Result<(), ProofError> {
        for kind in CHECKED_STRUCTS {
            let Votes { held, failed, found, refused, exchanged, .. } = self.votes[kind as usize];
            let field = kind.name();
            if failed >= FAILED_MIN && failed > held || failed >= MINORITY_MIN && failed > held / 2 {
                let detail = format!("{failed} of {} objects contradict it", held + failed);
                return Err(ProofError::Field { field, detail });
            }
            if exchanged > 0 {
                let detail = format!("objects that make sense only with two of its fields exchanged: {exchanged}");
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

    /// Bytes from one set to the next; two neighborhoods hold eight.
    const STRIDE: usize = 4096;

    /// What is made of sets in a row that are linked with each other: the first `broken` of them count more slots in
    /// use than were ever filled.
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
        // Those that agree in all cannot do so by chance.
        let (votes, verdict) = judged(40, 30, true);
        assert_eq!((votes.refused, votes.found, votes.held), (30, 10, 10));
        assert!(verdict.is_ok());
        // Too few to say anything.
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
