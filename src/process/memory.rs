//! Traits for reading bytes of a target: a live process, a copy, a core, or a test's array.
//!
//! Invariant: a failed read is an error with address and length, never zeros; there is no partial success. Everything
//! above is generic over [`Memory`], so the same code runs on every kind of target.

use std::ops::{ControlFlow, Range};

use super::address::Address;
use super::regions::RegionMap;

/// A failed read.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No bytes are there: unmapped, a guard page, or unmapped since the map was read.
    #[error("cannot read {length} bytes at {address}")]
    Unreadable {
        /// First requested address.
        address: Address,
        /// Number of bytes requested.
        length: usize,
    },
    /// The process is gone.
    #[error("the process exited while it was read")]
    Gone,
    /// The kernel denies reading the process.
    #[error("no permission to read the memory of the process")]
    Denied,
    /// A length or count in the target exceeds the limit.
    #[error("{what} at {address} claims {found}, more than the limit of {limit}")]
    TooLarge {
        /// What was to be read.
        what: &'static str,
        /// Its address.
        address: Address,
        /// The value in the target.
        found: u64,
        /// The limit.
        limit: u64,
    },
}

impl ReadError {
    /// Whether no read of this target can succeed any more: the process is gone, or access is denied.
    pub fn is_final(&self) -> bool {
        matches!(self, ReadError::Gone | ReadError::Denied)
    }
}

/// One piece of a batched read.
#[derive(Debug)]
pub struct Piece<'a> {
    /// First address in the target.
    pub address: Address,
    /// Filled completely, or unchanged if the read fails.
    pub buffer: &'a mut [u8],
    /// Whether the read succeeded; set by [`Memory::read_pieces`].
    pub filled: bool,
}

/// The memory of a target.
pub trait Memory {
    /// Fills `buffer` from `address`.
    ///
    /// # Errors
    /// [`ReadError`]; the content of `buffer` is then unspecified and must not be used.
    fn read_exact_at(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError>;

    /// The mapped regions, in order of address.
    fn regions(&self) -> &RegionMap;

    /// Fills many pieces with as few system calls as possible, and marks those that were filled.
    ///
    /// # Errors
    /// Only if the target can no longer be read at all ([`ReadError::Gone`], [`ReadError::Denied`]).
    fn read_pieces(&self, pieces: &mut [Piece<'_>]) -> Result<(), ReadError> {
        for piece in pieces {
            match self.read_exact_at(piece.address, piece.buffer) {
                Ok(()) => piece.filled = true,
                Err(error) if error.is_final() => return Err(error),
                Err(_) => piece.filled = false,
            }
        }
        Ok(())
    }

    /// As [`Memory::read_pieces`], in this order and as close together as possible, for what the target itself writes
    /// all the time: in a process it may unshare pages that have not been written since a fork.
    ///
    /// # Errors
    /// As [`Memory::read_pieces`].
    fn read_at_once(&self, pieces: &mut [Piece<'_>]) -> Result<(), ReadError> {
        self.read_pieces(pieces)
    }

    /// As [`Memory::read_exact_at`], bypassing caches, and copies of a process that ran: the target's current bytes.
    ///
    /// # Errors
    /// As [`Memory::read_exact_at`].
    fn read_now(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.read_exact_at(address, buffer)
    }

    /// Clears caches, so that the next read returns the current bytes. Does nothing without a cache.
    fn forget(&self) {}

    /// The bytes themselves if they are in our own memory (a copy). `None` otherwise.
    fn local(&self, _address: Address, _length: usize) -> Option<&[u8]> {
        None
    }

    /// The resident parts of `range`, in order, as far as known. Mapped memory that is left out was never written and
    /// is zero; unmapped memory may be left out, too.
    fn resident(&self, range: Range<Address>) -> Vec<Range<Address>> {
        vec![range]
    }
}

/// The current state of the target, bypassing copies: the parts of a running target's copy are from different instants.
pub struct Now<'a, M: Memory + ?Sized>(pub &'a M);

impl<M: Memory + ?Sized> Memory for Now<'_, M> {
    fn read_exact_at(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.0.read_now(address, buffer)
    }

    fn regions(&self) -> &RegionMap {
        self.0.regions()
    }
}

/// Typed reads. Every value read is untrusted.
pub trait MemoryExt: Memory {
    /// A little-endian `u64`.
    fn read_u64(&self, address: Address) -> Result<u64, ReadError> {
        let mut bytes = [0; 8];
        self.read_exact_at(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// A little-endian `i64`.
    fn read_i64(&self, address: Address) -> Result<i64, ReadError> {
        self.read_u64(address).map(|value| value as i64)
    }

    /// A little-endian `u32`.
    fn read_u32(&self, address: Address) -> Result<u32, ReadError> {
        let mut bytes = [0; 4];
        self.read_exact_at(address, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// A little-endian `i32`.
    fn read_i32(&self, address: Address) -> Result<i32, ReadError> {
        self.read_u32(address).map(|value| value as i32)
    }

    /// One byte.
    fn read_u8(&self, address: Address) -> Result<u8, ReadError> {
        let mut bytes = [0];
        self.read_exact_at(address, &mut bytes)?;
        Ok(bytes[0])
    }

    /// A pointer, which may be null or wild.
    fn read_pointer(&self, address: Address) -> Result<Address, ReadError> {
        self.read_u64(address).map(Address)
    }

    /// Reads `length` bytes. `limit` bounds the allocation, whatever the target claims.
    fn read_bytes(
        &self,
        address: Address,
        length: u64,
        limit: usize,
        what: &'static str,
    ) -> Result<Vec<u8>, ReadError> {
        match usize::try_from(length) {
            Ok(length) if length <= limit => {
                let mut bytes = vec![0; length];
                self.read_exact_at(address, &mut bytes)?;
                Ok(bytes)
            }
            _ => Err(ReadError::TooLarge { what, address, found: length, limit: limit as u64 }),
        }
    }

    /// The bytes themselves if they are in our own memory, otherwise read into `buffer`. `None` if they cannot be read.
    fn bytes_at<'b>(&'b self, address: Address, length: usize, buffer: &'b mut Vec<u8>) -> Option<&'b [u8]> {
        if let Some(bytes) = self.local(address, length) {
            return Some(bytes);
        }
        buffer.resize(length, 0);
        self.read_exact_at(address, buffer).ok()?;
        Some(buffer)
    }

    /// Calls `each` with the address and the value of every aligned word of a range, until it breaks. What cannot be
    /// read is left out, 64 KiB at a time.
    fn each_word(
        &self,
        range: Range<Address>,
        mut each: impl FnMut(Address, u64) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        const STEP: u64 = 64 << 10;
        let mut buffer = Vec::new();
        let Some(first) = range.start.0.checked_next_multiple_of(8) else { return ControlFlow::Continue(()) };
        let mut at = Address(first);
        while at < range.end {
            let length = (range.end.0 - at.0).min(STEP) as usize;
            let bytes = self.bytes_at(at, length, &mut buffer).unwrap_or_default();
            for (index, word) in bytes.as_chunks().0.iter().enumerate() {
                each(at.offset(index * 8), u64::from_le_bytes(*word))?;
            }
            at = at.offset(length);
        }
        ControlFlow::Continue(())
    }

    /// Reads a NUL-terminated string of at most `limit` bytes, cut at the limit. Invalid UTF-8 is replaced.
    fn read_c_string(&self, address: Address, limit: usize) -> Result<String, ReadError> {
        // Pieces end at multiples of 64, so that no read extends into a page without any of the string.
        const STEP: u64 = 64;
        let mut bytes = Vec::new();
        let mut at = address;
        while bytes.len() < limit {
            let step = (STEP - at.0 % STEP) as usize;
            let mut piece = [0; STEP as usize];
            let piece = &mut piece[..step.min(limit - bytes.len())];
            self.read_exact_at(at, piece)?;
            if let Some(end) = piece.iter().position(|&byte| byte == 0) {
                bytes.extend_from_slice(&piece[..end]);
                break;
            }
            bytes.extend_from_slice(piece);
            at = at.offset(piece.len());
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl<M: Memory + ?Sized> MemoryExt for M {}

/// The little-endian `u64` at `offset` of `bytes`, or `None` past its end.
#[inline(always)]
pub fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    let end = offset.checked_add(8)?;
    Some(u64::from_le_bytes(bytes.get(offset..end)?.try_into().ok()?))
}

/// The little-endian `u32` at `offset` of `bytes`, or `None` past its end.
#[inline(always)]
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let end = offset.checked_add(4)?;
    Some(u32::from_le_bytes(bytes.get(offset..end)?.try_into().ok()?))
}
