//! The header that the debug hooks put before each block (`PYTHONMALLOC=debug`, debug builds).
//!
//! Mirrors `_PyMem_DebugRawAlloc`, `Objects/obmalloc.c` (v3.8 to v3.15).

use crate::process::memory::u32_at;

/// A debug header: size, domain, padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DebugHeader {
    /// Bytes requested by the caller.
    pub requested: u64,
    /// `'o'` for objects, `'m'` for memory, `'r'` for raw memory.
    pub domain: u8,
}

impl DebugHeader {
    /// Bytes of the header; the caller's block follows.
    pub const SIZE: usize = 16;
    /// The padding byte since 3.8 (`PYMEM_FORBIDDENBYTE`).
    const FORBIDDEN: u8 = 0xfd;

    /// Reads the debug header at the start of a block, if there is one.
    #[inline]
    pub fn read(block: &[u8]) -> Option<DebugHeader> {
        let mark = block.get(..DebugHeader::SIZE)?;
        if mark[9..].iter().any(|&byte| byte != DebugHeader::FORBIDDEN) || !matches!(mark[8], b'o' | b'm' | b'r') {
            return None;
        }
        let requested = u64::from(u32::from_be_bytes([mark[0], mark[1], mark[2], mark[3]])) << 32
            | u64::from(u32_at(mark, 4)?.swap_bytes());
        Some(DebugHeader { requested, domain: mark[8] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debug_mark_tells_size_and_domain() {
        let mut block = vec![0, 0, 0, 0, 0, 0, 1, 2, b'o'];
        block.extend([0xfd; 7]);
        assert_eq!(DebugHeader::read(&block), Some(DebugHeader { requested: 0x102, domain: b'o' }));
        block[12] = 0;
        assert_eq!(DebugHeader::read(&block), None);
        assert_eq!(DebugHeader::read(&block[..9]), None);
    }
}
