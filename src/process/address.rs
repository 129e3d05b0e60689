//! Addresses in the target's address space, which are never pointers of this process.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Size of a page on x86-64, bytes.
pub const PAGE: u64 = 4096;

/// Adds a run behind others in order of address; one that begins where the last one ends makes that longer.
pub(super) fn add_run<T: PartialEq>(runs: &mut Vec<Range<T>>, run: Range<T>) {
    match runs.last_mut() {
        Some(last) if last.end == run.start => last.end = run.end,
        _ => runs.push(run),
    }
}

/// An address in the target. Any value may come from a hostile target.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Address(pub u64);

impl Address {
    /// The null pointer.
    pub const NULL: Address = Address(0);

    /// Whether this is the null pointer.
    pub fn is_null(self) -> bool {
        self.0 == 0
    }

    /// The address `offset` bytes higher. Wraps, since the target chose the base; the next read refuses a wrapped
    /// address, as any other outside the target's regions.
    pub fn offset(self, offset: usize) -> Address {
        Address(self.0.wrapping_add(offset as u64))
    }

    /// The address `offset` bytes lower. Wraps, too.
    pub fn back(self, offset: usize) -> Address {
        Address(self.0.wrapping_sub(offset as u64))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}
