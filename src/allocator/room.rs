//! How much room a block gives to the object in it.

/// Malloc's granularity and pymalloc's: blocks are multiples of this.
pub(crate) const ALIGNMENT: u64 = 16;
/// What malloc may give beyond the request: the rest of a chunk that is too small to be one itself.
const MALLOC_SLACK: u64 = 32;

/// What is known of a block's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockRoom {
    /// A pymalloc block: the request was rounded up to it.
    Class(u64),
    /// A malloc chunk: the request was rounded up to it, and up to 32 bytes more.
    Chunk(u64),
    /// The request itself, as the debug hooks keep it.
    Requested(u64),
    /// A block of mimalloc's: the request was rounded up to one of eight sizes between powers of two.
    Bin(u64),
    /// Static data: at most so much.
    AtMost(u64),
}

impl BlockRoom {
    /// Bytes that there are, at most.
    pub(crate) fn bytes(self) -> u64 {
        match self {
            BlockRoom::Class(room)
            | BlockRoom::Chunk(room)
            | BlockRoom::Requested(room)
            | BlockRoom::Bin(room)
            | BlockRoom::AtMost(room) => room,
        }
    }

    /// Whether an object that needs `bytes` can be what this block was made for.
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
