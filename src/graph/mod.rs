//! The graph of objects: references, reachability, dominators. Only [`link`], which builds it, reads target memory.

pub mod csr;
pub mod dominators;
pub mod joint;
pub mod link;
pub mod objects;
pub mod ownership;
pub mod reach;
pub mod retained;
pub mod rings;

/// Number of an object: its rank by address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub u32);

impl ObjectId {
    /// The id as an index.
    #[inline(always)]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}
