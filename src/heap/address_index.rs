//! Maps addresses to objects: whether an object starts at an address, and its number.
//!
//! One bit per eight bytes of address space, in 1 MiB chunks that exist only where objects are, and with each word of
//! bits the number of objects before it. A lookup costs three reads. An object's number is its rank by address, so
//! numbers are dense and addresses need not be stored.
//!
//! The bitmap with running counts is Jacobson's rank structure ("Space-efficient static trees and graphs", FOCS 1989).

use crate::process::Address;

/// log2 of the bytes per bit: 8, the alignment of static objects, which is the weakest.
const GRANULE: u32 = 3;
/// log2 of a chunk's size: 1 MiB, as an arena.
const CHUNK: u32 = 20;
/// log2 of the address space that one leaf of the table covers; the table has 2^13 leaves for 47 bits.
const LEAF: u32 = 34;
/// Words of bits in a chunk.
const WORDS: usize = 1 << (CHUNK - GRANULE - 6);
/// Ranks between hints: some ten words of bits.
const HINT: u32 = 64;
/// User addresses have 47 bits.
const ADDRESS_BITS: u32 = 47;

/// Memory that an index takes for an address behind another one, bytes: that of a chunk and of a leaf, if it is in
/// another one.
pub fn memory_behind(before: u64, address: u64) -> u64 {
    let is_in_other = |size: u32| u64::from(before >> size != address >> size);
    is_in_other(CHUNK) * 12 * WORDS as u64 + is_in_other(LEAF) * (4 << (LEAF - CHUNK))
}

/// The addresses of all objects, with their ranks. Takes 24 KiB per mebibyte that holds an object.
#[derive(Debug, Default)]
pub struct ObjectIndex {
    leaves: Vec<Option<Box<[u32]>>>,
    /// In order of address, once the index is complete.
    chunks: Vec<IndexChunk>,
    /// For each rank that is a multiple of [`HINT`]: the position of its word, counted over all chunks.
    hints: Vec<u32>,
    len: u32,
}

#[derive(Debug)]
struct IndexChunk {
    number: u64,
    bits: Box<[u64]>,
    before: Box<[u32]>,
}

impl ObjectIndex {
    /// Builds an index from addresses in any order. Duplicates, addresses that are not a multiple of 8 or beyond 47
    /// bits, and everything past 2^32 - 2 objects are left out. Returns how many were left out.
    pub fn new(addresses: impl Iterator<Item = Address>) -> (ObjectIndex, u64) {
        let mut index = ObjectIndex { leaves: Vec::new(), chunks: Vec::new(), hints: Vec::new(), len: 0 };
        index.leaves.resize_with(1 << (ADDRESS_BITS - LEAF), || None);
        let left_out = addresses.map(|address| u64::from(!index.insert(address))).sum();
        index.count();
        (index, left_out)
    }

    /// Sets an address's bit. `false` if it is left out.
    #[inline]
    fn insert(&mut self, address: Address) -> bool {
        let is_sane = address.0.is_multiple_of(1 << GRANULE) && address.0 >> ADDRESS_BITS == 0;
        if !is_sane || self.len >= u32::MAX - 1 {
            return false;
        }
        let number = address.0 >> CHUNK;
        let leaf = self.leaves[(address.0 >> LEAF) as usize]
            .get_or_insert_with(|| vec![0; 1 << (LEAF - CHUNK)].into_boxed_slice());
        let slot = &mut leaf[(number as usize) & ((1 << (LEAF - CHUNK)) - 1)];
        if *slot == 0 {
            let (bits, before) = (vec![0; WORDS].into_boxed_slice(), vec![0; WORDS].into_boxed_slice());
            self.chunks.push(IndexChunk { number, bits, before });
            *slot = self.chunks.len() as u32;
        }
        let (word, bit) = place(address);
        let word = &mut self.chunks[*slot as usize - 1].bits[word];
        let is_new = *word >> bit & 1 == 0;
        *word |= 1 << bit;
        self.len += u32::from(is_new);
        is_new
    }

    /// Sorts the chunks and counts the objects before each word.
    fn count(&mut self) {
        self.chunks.sort_unstable_by_key(|chunk| chunk.number);
        let mut before = 0;
        for (index, chunk) in self.chunks.iter_mut().enumerate() {
            for (word, (slot, bits)) in chunk.before.iter_mut().zip(&chunk.bits).enumerate() {
                *slot = before;
                before += bits.count_ones();
                while (self.hints.len() as u32).saturating_mul(HINT) < before {
                    self.hints.push((index * WORDS + word) as u32);
                }
            }
            let leaf = self.leaves.get_mut((chunk.number >> (LEAF - CHUNK)) as usize).and_then(Option::as_mut);
            if let Some(leaf) = leaf {
                leaf[(chunk.number as usize) & ((1 << (LEAF - CHUNK)) - 1)] = index as u32 + 1;
            }
        }
    }

    /// Position of the object with this rank: chunk and word.
    fn word_of(&self, rank: u32) -> Option<(usize, usize)> {
        let mut at = *self.hints.get((rank / HINT) as usize)? as usize;
        // The word is the last one with at most `rank` objects before it.
        loop {
            let chunk = self.chunks.get(at / WORDS)?;
            let word = at % WORDS;
            if rank < *chunk.before.get(word)? + chunk.bits.get(word)?.count_ones() {
                return Some((at / WORDS, word));
            }
            at += 1;
        }
    }

    /// The address of the object with this rank. `None` if there are fewer.
    pub fn address(&self, rank: u32) -> Option<Address> {
        if rank >= self.len {
            return None;
        }
        let (chunk, word) = self.word_of(rank)?;
        let chunk = &self.chunks[chunk];
        let bit = ones(chunk.bits[word]).nth((rank - chunk.before[word]) as usize)?;
        Some(address_of(chunk.number, word, bit))
    }

    /// All addresses in ascending order, starting at this rank.
    pub fn addresses_from(&self, rank: u32) -> impl Iterator<Item = Address> + '_ {
        let start = if rank < self.len { self.word_of(rank) } else { None };
        let (first, first_word) = start.unwrap_or((self.chunks.len(), 0));
        let skip = self.chunks.get(first).map_or(0, |chunk| rank - chunk.before[first_word]);
        let words = self.chunks[first..].iter().enumerate().flat_map(move |(nth, chunk)| {
            let from = if nth == 0 { first_word } else { 0 };
            chunk.bits[from..].iter().enumerate().map(move |(word, &bits)| (chunk.number, from + word, bits))
        });
        words
            .flat_map(|(number, word, bits)| ones(bits).map(move |bit| address_of(number, word, bit)))
            .skip(skip as usize)
    }

    /// The rank of the object at this address. `None` if no object starts there.
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

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there are no objects.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Memory that the index takes, bytes.
    pub fn size_bytes(&self) -> u64 {
        let leaves = self.leaves.iter().flatten().count() * (4 << (LEAF - CHUNK));
        (leaves + self.leaves.len() * 16 + self.chunks.len() * WORDS * 12 + self.hints.len() * 4) as u64
    }
}

/// Word and bit of an address within its chunk.
#[inline(always)]
fn place(address: Address) -> (usize, u32) {
    let granule = (address.0 & ((1 << CHUNK) - 1)) >> GRANULE;
    ((granule >> 6) as usize, (granule & 63) as u32)
}

/// The address of a bit.
fn address_of(number: u64, word: usize, bit: u32) -> Address {
    Address(number << CHUNK | (word as u64 * 64 + u64::from(bit)) << GRANULE)
}

/// The positions of the set bits, ascending.
fn ones(mut bits: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = (bits != 0).then(|| bits.trailing_zeros())?;
        bits &= bits - 1;
        Some(bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_positions_in_order_of_address() {
        // Dense, sparse, and across words, chunks and leaves.
        let mut addresses: Vec<u64> = (0..200).map(|n| 0x10_0000 - 800 + 8 * n).collect();
        addresses.extend((0..500).map(|n| 0x7f00_0000_0000 + n * 4096 * 7 + 16));
        addresses.extend((1..40).map(|n| n << 40));
        addresses.sort_unstable();
        let (index, left_out) = ObjectIndex::new(addresses.iter().rev().copied().map(Address));
        assert_eq!((index.len(), left_out), (addresses.len(), 0));
        for (rank, &address) in addresses.iter().enumerate() {
            assert_eq!(index.find(address), Some(rank as u32), "{address:#x}");
            assert_eq!(index.find(address + 4), None);
            assert_eq!(index.address(rank as u32), Some(Address(address)));
        }
        assert_eq!(index.address(addresses.len() as u32), None);
        for from in [0, 1, 150, 201, addresses.len() - 1] {
            let found: Vec<u64> = index.addresses_from(from as u32).map(|address| address.0).collect();
            assert_eq!(found, addresses[from..]);
        }
        assert_eq!(ObjectIndex::new(std::iter::empty()).0.address(0), None);
        assert_eq!(index.find(addresses[0] - 8), None);
        assert_eq!(index.find(0x7f00_0000_0000), None);
        assert_eq!(index.find(u64::MAX), None);
    }

    #[test]
    fn nonsense_is_left_out_and_counted() {
        let addresses = [16, 16, 8, 20, 1 << 47, u64::MAX, 24].map(Address);
        let (index, left_out) = ObjectIndex::new(addresses.into_iter());
        assert_eq!((index.len(), left_out), (3, 4));
        assert_eq!((index.find(16), index.find(24), index.find(8)), (Some(1), Some(2), Some(0)));
    }
}
