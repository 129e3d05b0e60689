//! Which pages of a process are its own, and which it shares with others since a fork.
//!
//! Bit 56 of a word of `/proc/PID/pagemap` says that a page is mapped by this process only
//! (`Documentation/admin-guide/mm/pagemap.rst`, since Linux 4.2). It needs no privilege beyond reading the file.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::address::{Address, PAGE};
use super::procfs;

/// Words read at a time: those of 64 MiB.
const BATCH: u64 = 16 << 10;
const PRESENT: u64 = 1 << 63;
const EXCLUSIVE: u64 = 1 << 56;

/// The resident pages of some ranges, as ranges in order of address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sharing {
    /// Mapped by this process only.
    pub private: Vec<Range<Address>>,
    /// Mapped by others as well.
    pub shared: Vec<Range<Address>>,
}

impl Sharing {
    /// Reads the pages of these ranges, which are in order of address and do not overlap.
    ///
    /// # Errors
    /// The kernel refuses: no such process, or no permission.
    pub fn of_process(pid: i32, ranges: &[Range<Address>]) -> io::Result<Sharing> {
        let file = File::open(procfs::memory_file(pid, "pagemap"))?;
        let mut sharing = Sharing::default();
        let mut bytes = vec![0; BATCH as usize * 8];
        for range in ranges {
            let (mut page, end) = (range.start.0 / PAGE, range.end.0.div_ceil(PAGE));
            while page < end {
                let count = (end - page).min(BATCH);
                let bytes = &mut bytes[..count as usize * 8];
                file.read_exact_at(bytes, page * 8)?;
                sharing.add(page, bytes);
                page += count;
            }
        }
        Ok(sharing)
    }

    /// Adds pages from number `page` on by their words.
    fn add(&mut self, page: u64, words: &[u8]) {
        for (number, word) in (page..).zip(words.as_chunks().0) {
            let word = u64::from_le_bytes(*word);
            if word & PRESENT == 0 {
                continue;
            }
            let runs = if word & EXCLUSIVE != 0 { &mut self.private } else { &mut self.shared };
            let (start, end) = (Address(number * PAGE), Address(number * PAGE + PAGE));
            match runs.last_mut() {
                // Two ranges may lie in one page.
                Some(last) if last.end > start => {}
                Some(last) if last.end == start => last.end = end,
                _ => runs.push(start..end),
            }
        }
    }
}

/// Total length of these ranges, bytes.
pub fn bytes(ranges: &[Range<Address>]) -> u64 {
    ranges.iter().map(|range| range.end.0.saturating_sub(range.start.0)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_told_apart_and_joined() {
        let words = [PRESENT | EXCLUSIVE, PRESENT | EXCLUSIVE, PRESENT, 0, EXCLUSIVE, PRESENT | EXCLUSIVE];
        let bytes: Vec<u8> = words.iter().flat_map(|word: &u64| word.to_le_bytes()).collect();
        let mut sharing = Sharing::default();
        sharing.add(16, &bytes);
        // The last page once more.
        sharing.add(21, &bytes[40..]);
        let range = |start: u64, end: u64| Address(start)..Address(end);
        assert_eq!(sharing.private, [range(0x10000, 0x12000), range(0x15000, 0x16000)]);
        assert_eq!(sharing.shared, [range(0x12000, 0x13000)]);
        assert_eq!(super::bytes(&sharing.private), 3 * PAGE);
    }
}
