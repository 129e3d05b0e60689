//! Checks that memory agrees with the layout: single objects, votes over many, and objects that must exist.

pub(crate) mod checked_struct;
pub(crate) mod known_objects;
pub mod object;
pub mod votes;
