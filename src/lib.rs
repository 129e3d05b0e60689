//! heapsonde: reads the heap of a running CPython process from outside.

pub mod analysis;
pub mod cli;
pub mod graph;
pub mod heap;
pub mod python;
pub mod report;
pub mod target;
