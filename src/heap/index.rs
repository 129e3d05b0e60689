//! Is there an object at this address, and which one?
//!
//! One bit per eight bytes of address space, in chunks of a mebibyte that exist only where objects are, and beside
//! each word of bits the number of objects before it. So the answer costs three reads, and an object's number is its
//! rank by address: the numbers are dense and nobody needs to keep the addresses to find them.
//!
//! The bitmap with running counts is Jacobson's rank structure ("Space-efficient static trees and graphs", FOCS 1989).

use crate::target::Address;

/// Bytes of address space that one bit stands for: the alignment of static objects, the weakest there is.
const GRANULE: u32 = 3;
/// Bits of an address below a chunk's number: chunks are of 1 MiB, as arenas are.
const CHUNK: u32 = 20;
/// Bits of an address that chunks in one leaf of the table share; the table has 2^13 leaves for 47 bits.
const LEAF: u32 = 34;
/// Words of bits in a chunk.
const WORDS: usize = 1 << (CHUNK - GRANULE - 6);
/// User addresses have 47 bits.
const ADDRESS_BITS: u32 = 47;

/// The set of all objects' addresses, with their ranks. 24 KiB for each mebibyte that holds an object.
#[derive(Debug, Default)]
pub struct ObjectIndex {
    leaves: Vec<Option<Box<[u32]>>>,
    chunks: Vec<Chunk>,
    len: u32,
}

#[derive(Debug)]
struct Chunk {
    number: u64,
    bits: Box<[u64]>,
    before: Box<[u32]>,
}

impl ObjectIndex {
    /// An index of addresses in ascending order. Those that are out of order, not aligned to 8 or beyond 47 bits are
    /// left out, and so is everything past 2^32 - 2 objects: returns how many were left out.
    pub fn new(sorted: impl Iterator<Item = Address>) -> (ObjectIndex, u64) {
        let mut index = ObjectIndex { leaves: Vec::new(), chunks: Vec::new(), len: 0 };
        index.leaves.resize_with(1 << (ADDRESS_BITS - LEAF), || None);
        let (mut last, mut left_out) = (None, 0);
        for address in sorted {
            let sane = address.0 % (1 << GRANULE) == 0 && address.0 >> ADDRESS_BITS == 0 && last < Some(address);
            if !sane || index.len >= u32::MAX - 1 {
                left_out += 1;
                continue;
            }
            last = Some(address);
            index.push(address);
        }
        (index, left_out)
    }

    fn push(&mut self, address: Address) {
        let number = address.0 >> CHUNK;
        if self.chunks.last().is_none_or(|chunk| chunk.number != number) {
            let leaf = self.leaves[(address.0 >> LEAF) as usize]
                .get_or_insert_with(|| vec![0; 1 << (LEAF - CHUNK)].into_boxed_slice());
            self.chunks.push(Chunk {
                number,
                bits: vec![0; WORDS].into_boxed_slice(),
                before: vec![self.len; WORDS].into_boxed_slice(),
            });
            leaf[(number as usize) & ((1 << (LEAF - CHUNK)) - 1)] = self.chunks.len() as u32;
        }
        let Some(chunk) = self.chunks.last_mut() else { return };
        let (word, bit) = place(address);
        chunk.bits[word] |= 1 << bit;
        self.len += 1;
        // Addresses ascend, so everything behind this word is still to come.
        if let Some(before) = chunk.before.get_mut(word + 1) {
            *before = self.len;
        }
        if bit_is_first(chunk.bits[word], bit) {
            chunk.before[word] = self.len - 1;
        }
    }

    /// The rank of the object at this address; `None` where no object starts.
    #[inline(always)]
    pub fn find(&self, address: u64) -> Option<u32> {
        let leaf = self.leaves.get((address >> LEAF) as usize)?.as_ref()?;
        let chunk = leaf[(address >> CHUNK) as usize & ((1 << (LEAF - CHUNK)) - 1)];
        let chunk = self.chunks.get((chunk as usize).wrapping_sub(1))?;
        let (word, bit) = place(Address(address));
        let bits = chunk.bits[word];
        let found = bits >> bit & 1 == 1 && address & ((1 << GRANULE) - 1) == 0;
        found.then(|| chunk.before[word] + (bits & ((1 << bit) - 1)).count_ones())
    }

    /// How many objects.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that the index takes.
    pub fn size_bytes(&self) -> u64 {
        let leaves = self.leaves.iter().flatten().count() * (4 << (LEAF - CHUNK));
        (leaves + self.leaves.len() * 16 + self.chunks.len() * WORDS * 12) as u64
    }
}

/// Word and bit of an address in its chunk.
#[inline(always)]
fn place(address: Address) -> (usize, u32) {
    let granule = (address.0 & ((1 << CHUNK) - 1)) >> GRANULE;
    ((granule >> 6) as usize, (granule & 63) as u32)
}

/// Whether no lower bit is set.
fn bit_is_first(bits: u64, bit: u32) -> bool {
    bits & ((1 << bit) - 1) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_positions_in_order_of_address() {
        // Dense, sparse, across words, chunks and leaves.
        let mut addresses: Vec<u64> = (0..200).map(|n| 0x10_0000 - 800 + 8 * n).collect();
        addresses.extend((0..500).map(|n| 0x7f00_0000_0000 + n * 4096 * 7 + 16));
        addresses.extend((1..40).map(|n| n << 40));
        addresses.sort_unstable();
        let (index, left_out) = ObjectIndex::new(addresses.iter().copied().map(Address));
        assert_eq!((index.len(), left_out), (addresses.len(), 0));
        for (rank, &address) in addresses.iter().enumerate() {
            assert_eq!(index.find(address), Some(rank as u32), "{address:#x}");
            assert_eq!(index.find(address + 4), None);
        }
        assert_eq!(index.find(addresses[0] - 8), None);
        assert_eq!(index.find(0x7f00_0000_0000), None);
        assert_eq!(index.find(u64::MAX), None);
    }

    #[test]
    fn nonsense_is_left_out_and_counted() {
        let addresses = [16, 16, 8, 20, 1 << 47, u64::MAX, 24].map(Address);
        let (index, left_out) = ObjectIndex::new(addresses.into_iter());
        assert_eq!((index.len(), left_out), (2, 5));
        assert_eq!((index.find(16), index.find(24), index.find(8)), (Some(0), Some(1), None));
    }
}
