//! Answers: what the objects add up to.

pub mod estimate;
pub mod histogram;
pub mod owners;
pub mod why;
