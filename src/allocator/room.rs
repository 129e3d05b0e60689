//! How much room a block gives to an object.

/// Alignment of malloc and pymalloc: blocks are multiples of this.
pub(crate) const ALIGNMENT: u64 = 16;
/// Bytes that malloc may give beyond the request: a remainder too small for a chunk of its own.
const MALLOC_SLACK: u64 = 32;

/// What is known about a block's length, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockRoom {
    /// A pymalloc block: the request was rounded up to it.
    Class(u64),
    /// A malloc chunk: the request was rounded up to it, with up to 32 bytes more.
    Chunk(u64),
    /// The exact request, from the debug header.
    Requested(u64),
    /// A mimalloc block: the request was rounded up to one of eight sizes per power of two.
    Bin(u64),
    /// Static data: at most this many bytes.
    AtMost(u64),
}

impl BlockRoom {
    /// Upper bound on the object's size.
    pub(crate) fn bytes(self) -> u64 {
        match self {
            BlockRoom::Class(room)
            | BlockRoom::Chunk(room)
            | BlockRoom::Requested(room)
            | BlockRoom::Bin(room)
            | BlockRoom::AtMost(room) => room,
        }
    }

    /// Whether this block can have been allocated for an object that needs `bytes`.
    #[inline(always)]
    pub(crate) fn fits(self, bytes: u64, is_fixed: bool) -> bool {
        match self {
            BlockRoom::Class(room) if is_fixed => bytes.next_multiple_of(ALIGNMENT) == room,
            BlockRoom::Chunk(room) if is_fixed => bytes <= room && room <= bytes + MALLOC_SLACK,
            BlockRoom::Requested(room) if is_fixed => bytes == room,
            BlockRoom::Bin(room) if is_fixed => bytes <= room && room <= bytes + bytes / 4 + ALIGNMENT,
            BlockRoom::Class(room)
            | BlockRoom::Chunk(room)
            | BlockRoom::Requested(room)
            | BlockRoom::Bin(room)
            | BlockRoom::AtMost(room) => bytes <= room,
        }
    }
}
