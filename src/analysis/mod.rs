//! Answers: what the objects add up to.

pub mod allocations;
pub mod estimate;
pub mod histogram;
pub mod owners;
pub mod profile;
pub mod why;
