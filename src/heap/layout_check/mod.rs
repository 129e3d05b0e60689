//! Does what is read agree with the layout? Checks of single objects, votes over many, and objects that must exist.

pub(crate) mod checked_struct;
pub(crate) mod known_objects;
pub mod object;
pub mod votes;
