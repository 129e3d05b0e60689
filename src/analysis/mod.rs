//! Answers: what the objects add up to.

pub mod allocations;
mod calibrate;
pub mod estimate;
mod expansion;
mod figure;
pub mod frames;
pub mod histogram;
mod intervals;
pub mod jackknife;
pub mod names;
mod odd;
pub mod owners;
pub mod profile;
mod sighted;
pub mod steps;
pub mod surplus;
pub mod threads;
pub mod why;
