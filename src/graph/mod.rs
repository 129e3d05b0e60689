//! The graph of objects: who refers to whom, who holds what. Only [`link`], which makes it, reads target memory.

pub mod csr;
pub mod dominators;
pub mod joint;
pub mod link;
pub mod objects;
pub mod ownership;
pub mod reach;
pub mod retained;

/// Index of an object: its rank by address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub u32);

impl ObjectId {
    /// As an index.
    #[inline(always)]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}
