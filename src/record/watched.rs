//! An object that is watched from birth to the end.

use super::follow::Place;
use super::newest::Birth;
use super::stacks::Found;

/// In what a birth was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeenIn {
    /// Within a glance.
    Instants,
    /// Between two of a train.
    Windows,
}

/// An object that is watched.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Where it is, and its type.
    pub birth: Birth,
    /// The stack on which it was born.
    pub found: Option<Found>,
    /// In what its birth was seen.
    pub seen_in: SeenIn,
    /// In which window or instant of the probe or train.
    pub window: usize,
    /// The group of that.
    pub group: usize,
    /// How many births it stands for.
    pub weight: f64,
    /// Shallow bytes at the last look.
    pub bytes: u64,
    /// As above, at the first one.
    pub first_bytes: u64,
    /// What was seen at its place.
    pub place: Place,
    /// Whether it was out of sight for too long, when it was young, to be told from another one in its place
    /// ([`crate::record::batch`]).
    pub was_lost: bool,
    /// The probe after which it was born.
    pub tick: u64,
    /// How many collections had been noticed in its lane when it was born.
    pub(crate) epoch: u64,
    /// As above, of those that move all objects into the oldest list.
    pub(crate) promotions: u64,
    /// How many objects stand in the collector's lists at the end between the first that can have been born with it and it
    /// ([`crate::record::standing`]); `None`: it is in none of them, or that is not known.
    pub behind: Option<u64>,
    /// Whether it was in a list at the last look.
    pub(crate) is_tracked: bool,
    /// Which collector's it is.
    pub lane: usize,
}
