//! The library's front door: opens a target and gets answers from it.

pub mod copy;
pub mod graph;
pub mod open;
pub mod recording;
pub mod sample;
