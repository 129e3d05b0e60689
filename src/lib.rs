//! heapsonde: reads the heap of a running CPython process from outside.

pub mod python;
pub mod target;
