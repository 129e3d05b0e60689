//! Hash table from type addresses to values, and a bit filter that rejects nearly all other words.

/// Hash of an address (Fibonacci hashing). Addresses are multiples of 8, so their low bits carry no information.
#[inline(always)]
pub fn hash(address: u64) -> u64 {
    (address >> 3).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Map keyed by non-zero addresses. It uses open addressing and is at most a quarter full, so that the first probe
/// rejects nearly every word that is not a type.
#[derive(Debug)]
pub struct AddressTable<V> {
    slots: Vec<(u64, V)>,
    shift: u32,
}

impl<V: Copy + Default> AddressTable<V> {
    /// Builds the table. If an address occurs more than once, the last entry wins.
    pub fn new(entries: impl ExactSizeIterator<Item = (u64, V)>) -> AddressTable<V> {
        let capacity = (entries.len().max(16) * 4).next_power_of_two();
        let slots = vec![(0, V::default()); capacity];
        let mut table = AddressTable { slots, shift: 64 - capacity.trailing_zeros() };
        for (address, value) in entries.filter(|&(address, _)| address != 0) {
            let mut slot = (hash(address) >> table.shift) as usize;
            while table.slots[slot].0 != 0 && table.slots[slot].0 != address {
                slot = (slot + 1) & (capacity - 1);
            }
            table.slots[slot] = (address, value);
        }
        table
    }

    /// Looks up an address by its [`hash`].
    #[inline(always)]
    pub fn find(&self, address: u64, hash: u64) -> Option<&V> {
        let mut slot = (hash >> self.shift) as usize;
        loop {
            let (key, value) = self.slots.get(slot)?;
            if *key == address && address != 0 {
                return Some(value);
            }
            if *key == 0 {
                return None;
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }
}

impl<V: Copy + Default> Default for AddressTable<V> {
    fn default() -> AddressTable<V> {
        AddressTable::new(std::iter::empty())
    }
}

/// Size of the filter in bits, a power of two: 8 KiB. With a thousand types, 1.5 % of other words pass.
const FILTER_BITS: u32 = 16;

/// Bit set with one bit per hash in use. It fits into the L1 cache; the table does not.
#[derive(Debug)]
pub struct FilterBits(Box<[u64; 1 << (FILTER_BITS - 6)]>);

impl FilterBits {
    /// Builds a filter that accepts these addresses.
    pub fn new(addresses: impl Iterator<Item = u64>) -> FilterBits {
        let mut bits = Box::new([0; 1 << (FILTER_BITS - 6)]);
        for address in addresses {
            let bit = hash(address) >> (64 - FILTER_BITS);
            bits[(bit / 64) as usize] |= 1 << (bit % 64);
        }
        FilterBits(bits)
    }

    /// A borrowed view for lookups.
    pub fn filter(&self) -> AddressFilter<'_> {
        AddressFilter { bits: &self.0 }
    }
}

impl Default for FilterBits {
    fn default() -> FilterBits {
        FilterBits::new(std::iter::empty())
    }
}

/// Rejects most words that are not a type's address, in a few instructions.
#[derive(Clone, Copy, Debug)]
pub struct AddressFilter<'a> {
    bits: &'a [u64; 1 << (FILTER_BITS - 6)],
}

impl AddressFilter<'_> {
    /// Whether there may be a type at an address with this [`hash`]. False positives: about 1 %.
    #[inline(always)]
    pub fn passes(&self, hash: u64) -> bool {
        let bit = hash >> (64 - FILTER_BITS);
        self.bits[(bit / 64) as usize] >> (bit % 64) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_finds_what_is_in_it_and_nothing_else() {
        let addresses: Vec<u64> = (1..1000).map(|n| n * 936).collect();
        let table = AddressTable::new(addresses.iter().map(|&address| (address, address * 3)));
        let bits = FilterBits::new(addresses.iter().copied());
        let find = |address: u64| table.find(address, hash(address)).copied();
        for &address in &addresses {
            assert_eq!(find(address), Some(address * 3));
            assert!(bits.filter().passes(hash(address)));
            assert_eq!(find(address + 8), None);
        }
        assert_eq!(find(0), None);
        assert_eq!(AddressTable::<u32>::default().find(8, hash(8)), None);
        let passing = (1..10_000u64).filter(|n| bits.filter().passes(hash(n * 8 + (1 << 40)))).count();
        assert!(passing < 400, "{passing} of 10,000 pass");
    }
}
