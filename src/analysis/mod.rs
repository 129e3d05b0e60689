//! Answers: what the objects add up to.

pub mod histogram;
pub mod why;
