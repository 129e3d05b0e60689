//! Are objects of the rarer kinds laid out as the layout says? What attaching cannot prove, because no object of the kind
//! need exist, is tried on the first ones that a census meets: their fields must agree with each other and with what
//! they point at.
//!
//! How one is tried says [`crate::heap::layout_check::object`]. A kind of which many objects contradict the layout would be counted wrongly: that is an
//! error, not a figure.

use crate::process::Address;
use crate::process::memory::Memory;
use crate::python::proof_error::ProofError;
use crate::python::types::TypeInfo;

use super::checked_struct::{CHECKED_STRUCTS, CheckedStruct};
use super::object::Trial;

/// Objects of a kind that are asked by one worker, until so many of them told anything.
const ASKED_MAX: u32 = 512;
const TOLD_MAX: u32 = 64;
/// One object may have been stopped in the middle of a change, or be none; some of many may.
const FAILED_MIN: u32 = 3;
const MINORITY_MIN: u32 = 8;
/// Objects of a kind that must have been refused before that alone says something.
const REFUSED_MIN: u32 = 16;
/// Of text, which is made everywhere and all the time, more.
const REFUSED_TEXTS_MIN: u32 = 64;

/// What became of the objects of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Votes {
    asked: u32,
    held: u32,
    failed: u32,
    /// Objects that were found, and blocks that name the kind's type but cannot be right.
    found: u32,
    refused: u32,
    /// Of the refused, objects that two fields in each other's place make perfect sense of.
    exchanged: u32,
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
            own.exchanged = own.exchanged.saturating_add(other.exchanged);
        }
    }

    /// A block names a type, but its body cannot be right. Most sets are the same with their two counts exchanged; the few
    /// that are not are refused, and so are asked why.
    pub(crate) fn refuse<M: Memory + ?Sized>(&mut self, trial: &Trial<'_, M>, info: &TypeInfo, address: Address) {
        let Some(kind) = CheckedStruct::of(info.rule) else { return };
        let votes = &mut self.votes[kind as usize];
        votes.refused = votes.refused.saturating_add(1);
        if kind == CheckedStruct::Set && votes.refused <= ASKED_MAX {
            votes.exchanged += u32::from(trial.is_exchanged_set(info, address) == Some(true));
        }
    }

    /// An object was found: tries it, if there were not enough of its kind yet. `bytes` gives the first of its own, where
    /// they are at hand; only text is asked for them.
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
        votes.found = votes.found.saturating_add(1);
        if votes.asked < ASKED_MAX && votes.held + votes.failed < TOLD_MAX {
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
            if refused >= few && refused > found {
                let detail = format!("{refused} of {} objects make no sense", found.saturating_add(refused));
                return Err(ProofError::Field { field, detail });
            }
        }
        Ok(())
    }
}
