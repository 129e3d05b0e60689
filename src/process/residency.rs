//! Counts the resident bytes of any extent of a target, in time that does not depend on its length.
//!
//! `/proc/PID/pagemap` tells for each page whether it is resident or swapped out
//! (`Documentation/admin-guide/mm/pagemap.rst`): by PAGEMAP_SCAN if the kernel has it (Linux 6.7), which takes time
//! proportional to resident pages, otherwise by a word per page. Runs of such pages are stored with the running total
//! before each, so an extent takes two binary searches. RSS does not count the kernel's shared zero page, which a
//! program maps by reading memory that it has not written: such pages are left out. Without PAGEMAP_SCAN that needs
//! page frames, which the kernel shows to `CAP_SYS_ADMIN`.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use rustc_hash::FxHashMap;

use super::address::{Address, PAGE};
use super::procfs;
use super::resident;
use super::smaps::Mapping;

/// Number of pagemap entries read at a time: 64 MiB of memory.
const BATCH: usize = 16 << 10;
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FRAME: u64 = (1 << 55) - 1;

/// Which pages of a target are resident, and which are swapped out.
#[derive(Clone, Debug, Default)]
pub struct Residency {
    present: PageRuns,
    swapped: PageRuns,
}

/// Runs of pages in order of address, with the bytes of all runs before each.
#[derive(Clone, Debug, Default)]
struct PageRuns {
    runs: Vec<(Range<u64>, u64)>,
    total: u64,
}

impl PageRuns {
    fn push(&mut self, start: u64, end: u64) {
        match self.runs.last_mut() {
            Some((last, _)) if last.end == start => last.end = end,
            _ => self.runs.push((start..end, self.total)),
        }
        self.total += end - start;
    }

    /// Bytes of runs below `address`.
    fn below(&self, address: u64) -> u64 {
        let after = self.runs.partition_point(|(run, _)| run.start < address);
        self.runs[..after].last().map_or(0, |(run, before)| before + (address.min(run.end) - run.start))
    }

    fn of(&self, extent: &Range<Address>) -> u64 {
        self.below(extent.end.0).saturating_sub(self.below(extent.start.0))
    }
}

impl Residency {
    /// Reads the pages of a live process. Skips mappings that are neither resident nor swapped out.
    ///
    /// # Errors
    /// Those of the kernel: no such process, or no permission.
    pub fn of_process(pid: i32, mappings: &[Mapping]) -> io::Result<Residency> {
        let file = File::open(procfs::memory_file(pid, "pagemap"))?;
        if let Some(residency) = Residency::by_scan(&file, mappings)? {
            return Ok(residency);
        }
        Ok(Residency::read(mappings, |page, bytes| file.read_exact_at(bytes, page / PAGE * 8).is_ok()))
    }

    /// As [`Residency::of_process`], if the kernel has PAGEMAP_SCAN. `file` is the pagemap.
    ///
    /// # Errors
    /// As [`Residency::of_process`].
    pub fn by_scan(file: &File, mappings: &[Mapping]) -> io::Result<Option<Residency>> {
        match Residency::scanned(mappings, |pages, found| resident::scan(file, pages, found)) {
            Ok(residency) => Ok(Some(residency)),
            Err(error) if resident::is_no_scan(error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// For a core file: the pages that it holds were resident.
    pub fn of_ranges(ranges: impl Iterator<Item = Range<Address>>) -> Residency {
        let mut ranges: Vec<_> = ranges.collect();
        ranges.sort_by_key(|range| range.start);
        let mut residency = Residency::default();
        let mut end = 0;
        for range in ranges {
            let start = range.start.0.max(end);
            if start < range.end.0 {
                residency.present.push(start, range.end.0);
                end = range.end.0;
            }
        }
        residency
    }

    /// As [`Residency::of_process`]; `scan` passes on the runs of pages within a range, and whether they are swapped
    /// out.
    fn scanned(
        mappings: &[Mapping],
        mut scan: impl FnMut(&Range<u64>, &mut dyn FnMut(Range<u64>, bool)) -> Result<(), Errno>,
    ) -> Result<Residency, Errno> {
        let with_content: Vec<&Mapping> = mappings.iter().filter(|mapping| mapping.rss + mapping.swap > 0).collect();
        let (Some(first), Some(last)) = (with_content.first(), with_content.last()) else {
            return Ok(Residency::default());
        };
        let mut residency = Residency::default();
        let mut next = 0;
        scan(&(first.region.start.0..last.region.end.0), &mut |run, is_swapped| {
            // A run may be of several mappings, some of which are not counted, such as those of devices.
            while let Some(mapping) = with_content.get(next) {
                let part = run.start.max(mapping.region.start.0)..run.end.min(mapping.region.end.0);
                if !part.is_empty() && !is_swapped {
                    residency.present.push(part.start, part.end);
                } else if !part.is_empty() && mapping.swap > 0 {
                    // Pages marked by `MADV_GUARD_INSTALL` look swapped out, too.
                    residency.swapped.push(part.start, part.end);
                }
                if mapping.region.end.0 > run.end {
                    break;
                }
                next += 1;
            }
        })?;
        Ok(residency)
    }

    /// As [`Residency::of_process`]; `fill` reads entries from that of the page at an address on.
    fn read(mappings: &[Mapping], fill: impl Fn(u64, &mut [u8]) -> bool) -> Residency {
        let mut residency = Residency::default();
        let mut zeros = None;
        let mut bytes = vec![0; BATCH * 8];
        let mut words: Vec<u64> = Vec::new();
        for mapping in mappings.iter().filter(|mapping| mapping.rss + mapping.swap > 0) {
            words.clear();
            let (mut page, end) = (mapping.region.start.0 / PAGE * PAGE, mapping.region.end.0);
            let start = page;
            while page < end {
                let count = ((end - page).div_ceil(PAGE)).min(BATCH as u64);
                let bytes = &mut bytes[..count as usize * 8];
                if !fill(page, bytes) {
                    break;
                }
                words.extend(bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)));
                page += count * PAGE;
            }
            let present = words.iter().filter(|&&word| word & PRESENT != 0).count() as u64 * PAGE;
            if present > mapping.rss && zeros.is_none() {
                zeros = commonest_frame(&words);
            }
            for (index, word) in words.iter().enumerate() {
                let at = start + index as u64 * PAGE;
                if word & PRESENT != 0 {
                    // Only a mapping with more present pages than RSS counts can contain the zero page.
                    if present > mapping.rss && zeros.is_some_and(|zeros| word & FRAME == zeros) {
                        continue;
                    }
                    residency.present.push(at, at + PAGE);
                } else if word & SWAPPED != 0 && mapping.swap > 0 {
                    // Pages marked by `MADV_GUARD_INSTALL` look swapped out, too.
                    residency.swapped.push(at, at + PAGE);
                }
            }
        }
        residency
    }

    /// Resident bytes of the extent.
    pub fn resident(&self, extent: &Range<Address>) -> u64 {
        self.present.of(extent)
    }

    /// The resident pages in a row that contain an address; empty if it is not resident.
    pub fn run_around(&self, address: Address) -> Range<Address> {
        let after = self.present.runs.partition_point(|(run, _)| run.start <= address.0);
        let run = self.present.runs[..after].last().map(|(run, _)| run.clone());
        run.filter(|run| address.0 < run.end).map_or(address..address, |run| Address(run.start)..Address(run.end))
    }

    /// Swapped bytes of the extent.
    pub fn swapped(&self, extent: &Range<Address>) -> u64 {
        self.swapped.of(extent)
    }

    /// Total resident bytes.
    pub fn total(&self) -> u64 {
        self.present.total
    }
}

/// The page frame of most of these pages: the zero page, if one frame occurs more than once. `None` if the kernel hides
/// frames.
fn commonest_frame(words: &[u64]) -> Option<u64> {
    let mut counts: FxHashMap<u64, u64> = FxHashMap::default();
    for word in words.iter().filter(|&&word| word & PRESENT != 0) {
        *counts.entry(word & FRAME).or_default() += 1;
    }
    let (frame, count) = counts.into_iter().max_by_key(|&(frame, count)| (count, frame))?;
    (frame != 0 && count > 1).then_some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::smaps;

    fn extent(start: u64, end: u64) -> Range<Address> {
        Address(start)..Address(end)
    }

    fn mapping(start: u64, end: u64, rss: u64) -> Mapping {
        let line = format!("{start:x}-{end:x} rw-p 00000000 00:00 0 \nRss: {} kB\nSwap: 4 kB\n", rss / 1024);
        smaps::parse(line.as_bytes()).remove(0)
    }

    #[test]
    fn extents_are_measured_to_the_byte() {
        let words = |page: u64| match page / PAGE {
            1 | 2 | 4 => PRESENT | (page / PAGE + 10),
            5 => SWAPPED,
            _ => 0,
        };
        let fill = |start: u64, bytes: &mut [u8]| {
            for (index, word) in bytes.chunks_exact_mut(8).enumerate() {
                word.copy_from_slice(&words(start + index as u64 * PAGE).to_le_bytes());
            }
            true
        };
        let residency = Residency::read(&[mapping(0x1000, 0x8000, 3 * PAGE)], fill);
        assert_eq!(residency.total(), 3 * PAGE);
        assert_eq!(residency.resident(&extent(0x1000, 0x8000)), 3 * PAGE);
        assert_eq!(residency.resident(&extent(0x2ff0, 0x4010)), 0x20);
        assert_eq!(residency.resident(&extent(0, u64::MAX)), 3 * PAGE);
        assert_eq!(residency.resident(&extent(0x3000, 0x4000)), 0);
        assert_eq!(residency.swapped(&extent(0x5800, 0x9000)), 0x800);
        // Invalid extents have no bytes.
        assert_eq!(residency.resident(&extent(0x4000, 0x1000)), 0);
    }

    #[test]
    fn the_page_of_zeros_is_not_counted() {
        let fill = |_: u64, bytes: &mut [u8]| {
            for (index, word) in bytes.chunks_exact_mut(8).enumerate() {
                let frame = if index < 3 { 7 } else { 100 + index as u64 };
                word.copy_from_slice(&(PRESENT | frame).to_le_bytes());
            }
            true
        };
        let residency = Residency::read(&[mapping(0x1000, 0x6000, 2 * PAGE)], fill);
        assert_eq!(residency.total(), 2 * PAGE);
        assert_eq!(residency.resident(&extent(0x1000, 0x4000)), 0);
    }

    #[test]
    fn runs_of_a_scan_are_counted_where_the_kernel_counts_them() {
        // The second mapping has nothing that counts, the last one has pages in swap, and the one before it guards.
        let mut mappings = vec![mapping(0x1000, 0x3000, 2 * PAGE), mapping(0x3000, 0x4000, 0)];
        mappings.extend([mapping(0x4000, 0x7000, PAGE), mapping(0x9000, 0xb000, PAGE)]);
        mappings[1].swap = 0;
        mappings[2].swap = 0;
        let runs = [(0x1000..0x5000, false), (0x5000..0x6000, true), (0x9000..0xa000, false), (0xa000..0xb000, true)];
        let scanned = Residency::scanned(&mappings, |range, found| {
            assert_eq!(*range, 0x1000..0xb000);
            runs.iter().for_each(|(run, is_swapped)| found(run.clone(), *is_swapped));
            Ok(())
        });
        let residency = scanned.unwrap();
        assert_eq!(residency.total(), 4 * PAGE);
        assert_eq!(residency.resident(&extent(0x3000, 0x5000)), PAGE);
        assert_eq!(residency.swapped(&extent(0, u64::MAX)), PAGE);
        assert!(Residency::scanned(&mappings, |_, _| Err(Errno::ENOTTY)).is_err());
    }

    /// The pages of this process, as a scan and as words tell them: while other tests run, nearly the same.
    #[test]
    fn a_scan_and_words_agree_on_this_process() {
        let mut touched = vec![0u8; 8 << 20];
        touched.iter_mut().step_by(2 * PAGE as usize).for_each(|byte| *byte = 1);
        let file = File::open("/proc/self/pagemap").unwrap();
        let mappings = smaps::of_process(std::process::id() as i32).unwrap();
        let Ok(scanned) = Residency::scanned(&mappings, |pages, found| resident::scan(&file, pages, found)) else {
            return; // an older kernel
        };
        let read = Residency::read(&mappings, |page, bytes| file.read_exact_at(bytes, page / PAGE * 8).is_ok());
        let start = Address(touched.as_ptr() as u64);
        let extent = start..start.offset(touched.len());
        assert_eq!(scanned.resident(&extent), read.resident(&extent));
        assert!(scanned.total().abs_diff(read.total()) < 64 << 20, "{} {}", scanned.total(), read.total());
        drop(touched);
    }

    #[test]
    fn what_a_core_holds_is_resident_once() {
        let ranges = [extent(0x3000, 0x5000), extent(0x1000, 0x2000), extent(0x4000, 0x6000)];
        let residency = Residency::of_ranges(ranges.into_iter());
        assert_eq!(residency.total(), 0x4000);
        assert_eq!(residency.resident(&extent(0x1800, 0x4800)), 0x800 + 0x1800);
    }
}
