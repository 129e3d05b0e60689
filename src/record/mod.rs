//! Who allocates what survives: objects born in short observation windows, by Python stack.
//!
#![doc = include_str!("ACCURACY.md")]

pub mod allocations;
pub mod batch;
pub mod births;
pub mod counters;
pub mod follow;
pub mod glance;
pub mod newest;
pub mod order;
pub mod profile;
pub mod recorder;
pub(crate) mod sighted;
pub mod stacks;
pub mod standing;
pub mod surplus;
pub mod threads;
pub mod watched;
pub mod watcher;
