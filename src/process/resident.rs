//! Which pages of a live process hold anything? An allocator may reserve a gigabyte and use a hundredth of it; what it
//! has not touched holds nothing, and reading it would make the kernel map pages into the target.
//!
//! Mirrors the kernel's `Documentation/admin-guide/mm/pagemap.rst`: a word for each page.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::address::Address;

const PAGE: u64 = 4096;
/// Words read at a time: those of 64 MiB.
const BATCH: usize = 16 << 10;
/// The page is in memory, or in swap.
const PRESENT: u64 = 0b11 << 62;

/// The parts of `range`, in whole pages, that are in memory or in swap. All of it where the kernel does not tell.
pub fn of_process(pid: i32, range: Range<Address>) -> Vec<Range<Address>> {
    let Ok(file) = File::open(format!("/proc/{pid}/pagemap")) else { return vec![range] };
    read(&range, |page, bytes| file.read_exact_at(bytes, page / PAGE * 8).is_ok())
}

/// As [`of_process`], with `fill` to read the words from that of the page at an address on.
fn read(range: &Range<Address>, fill: impl Fn(u64, &mut [u8]) -> bool) -> Vec<Range<Address>> {
    let mut found: Vec<Range<Address>> = Vec::new();
    let mut words = vec![0; BATCH * 8];
    let mut page = range.start.0 / PAGE * PAGE;
    while page < range.end.0 {
        let count = ((range.end.0 - page).div_ceil(PAGE)).min(BATCH as u64);
        let words = &mut words[..count as usize * 8];
        if !fill(page, words) {
            // Not told: everything from here on may be there.
            add(&mut found, page, range.end.0, range);
            return found;
        }
        for (index, word) in words.chunks_exact(8).enumerate() {
            let at = page + index as u64 * PAGE;
            if word.try_into().is_ok_and(|word| u64::from_le_bytes(word) & PRESENT != 0) {
                add(&mut found, at, at + PAGE, range);
            }
        }
        page += count * PAGE;
    }
    found
}

fn add(found: &mut Vec<Range<Address>>, start: u64, end: u64, within: &Range<Address>) {
    let (start, end) = (start.max(within.start.0), end.min(within.end.0));
    match found.last_mut() {
        Some(last) if last.end.0 == start => last.end = Address(end),
        _ => found.push(Address(start)..Address(end)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_are_there_are_joined_and_cut_to_the_range() {
        let present = |page: u64| matches!(page / PAGE, 1 | 2 | 5);
        let fill = |start: u64, bytes: &mut [u8]| {
            for (index, word) in bytes.chunks_exact_mut(8).enumerate() {
                let word_of = if present(start + index as u64 * PAGE) { 1u64 << 63 } else { 0 };
                word.copy_from_slice(&word_of.to_le_bytes());
            }
            true
        };
        let range = Address(0x1800)..Address(0x5800);
        let expected = [Address(0x1800)..Address(0x3000), Address(0x5000)..Address(0x5800)];
        assert_eq!(read(&range, fill), expected);
        assert_eq!(read(&range, |_, _| false), std::slice::from_ref(&range));
    }

    #[test]
    fn what_this_process_has_touched_is_resident() {
        let bytes = vec![1u8; 1 << 16];
        let start = Address(bytes.as_ptr() as u64);
        let range = start..start.offset(bytes.len());
        assert_eq!(of_process(std::process::id() as i32, range.clone()), [range]);
    }
}
