//! Finds the pages of a live process that have content. An allocator may reserve a gigabyte and use a hundredth of it:
//! memory that was never touched is zero, and reading it would make the kernel map pages into the target.
//!
//! The pagemap is opened once and queried in bulk: by PAGEMAP_SCAN if the kernel has it (Linux 6.7), which takes time
//! proportional to resident pages; otherwise by reading one word per page. Results are cached, one bit per page, so
//! that small reads need no further query.
//!
//! Mirrors the kernel's `Documentation/admin-guide/mm/pagemap.rst` and `include/uapi/linux/fs.h`.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use nix::errno::Errno;
use rustc_hash::FxHashMap;

use super::address::{Address, PAGE, add_run};

/// Number of pages whose bits are stored together: one page table, 2 MiB.
const BLOCK_PAGES: u64 = 512;
/// Number of words read at a time without PAGEMAP_SCAN: 64 MiB of memory.
const BATCH: usize = 16 << 10;
/// Bits of a pagemap word: the page is in memory or in swap.
const PRESENT: u64 = 0b11 << 62;
/// Number of runs that one scan returns: 24 KiB.
const RUNS: usize = 1024;
/// The same for a short range.
const RUNS_FEW: usize = 16;
/// Number of blocks after which the cache is emptied: 128 GiB of memory in some 6 MiB.
const BLOCKS_MAX: usize = 1 << 16;

/// Gap between two ranges that are better asked for at once, bytes: to walk an empty page table takes less time than a
/// system call.
pub const NEAR: u64 = BLOCK_PAGES * PAGE;

/// The bits of one block.
type PageBits = [u64; (BLOCK_PAGES / 64) as usize];

/// The pagemap of a process.
pub struct PageMap {
    /// `None` if it may not be opened: then every page may have content.
    file: Option<File>,
    scans: AtomicBool,
    known: RwLock<FxHashMap<u64, PageBits>>,
}

impl PageMap {
    /// For the process or thread with this directory in `/proc`.
    pub fn open(folder: &Path) -> PageMap {
        let file = File::open(folder.join("pagemap"));
        if let Err(error) = &file {
            log::debug!("resident pages are not known: {error}");
        }
        PageMap { file: file.ok(), scans: AtomicBool::new(true), known: RwLock::default() }
    }

    /// Clears the cache.
    pub fn forget(&self) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The parts of `range`, in whole pages cut to it, that are in memory or in swap now. All of it if the kernel does
    /// not tell.
    pub fn resident(&self, range: Range<Address>) -> Vec<Range<Address>> {
        if range.start >= range.end || self.is_resident(range.start, range.end.0 - range.start.0) {
            return vec![range];
        }
        self.ask(&range)
    }

    /// Whether all pages of this range are known to have content from earlier queries. Makes no query.
    pub fn is_resident(&self, address: Address, length: u64) -> bool {
        if self.file.is_none() {
            return true;
        }
        let Some(last) = address.0.checked_add(length.max(1) - 1) else { return false };
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut page = address.0 / PAGE;
        let last = last / PAGE;
        while page <= last {
            let Some(bits) = known.get(&(page / BLOCK_PAGES)) else { return false };
            let end = last.min(page / BLOCK_PAGES * BLOCK_PAGES + BLOCK_PAGES - 1);
            if !(page..=end).all(|page| bit(bits, page)) {
                return false;
            }
            page = end + 1;
        }
        true
    }

    /// Whether the memory this was opened on still belongs to a program: it ends when the process exits or executes
    /// another program. `true` if that is not known.
    pub fn is_alive(&self) -> bool {
        // A scan of memory that is gone finds nothing, while a read returns the end of the file.
        self.file.as_ref().is_none_or(|file| file.read_at(&mut [0; 8], 0).is_ok_and(|length| length > 0))
    }

    /// Queries the kernel and caches the result.
    fn ask(&self, range: &Range<Address>) -> Vec<Range<Address>> {
        let Some(file) = &self.file else { return vec![range.clone()] };
        let pages =
            range.start.0 / PAGE * PAGE..range.end.0.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX / PAGE * PAGE);
        let mut found = Vec::new();
        let is_scanned = self.scans.load(Ordering::Relaxed)
            && match scan(file, &pages, |run, _| add_run(&mut found, run)) {
                Ok(()) => true,
                Err(error) => {
                    self.scans.store(!is_no_scan(error), Ordering::Relaxed);
                    false
                }
            };
        if !is_scanned {
            found.clear();
            let fill = |page: u64, bytes: &mut [u8]| file.read_exact_at(bytes, page / PAGE * 8).is_ok();
            if !read_words(&pages, fill, |run| add_run(&mut found, run)) {
                return vec![range.clone()];
            }
        }
        if found.is_empty() && !self.is_alive() {
            return vec![range.clone()];
        }
        self.keep(&found);
        let cut = |run: Range<u64>| Address(run.start.max(range.start.0))..Address(run.end.min(range.end.0));
        found.into_iter().map(cut).collect()
    }

    fn keep(&self, runs: &[Range<u64>]) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for run in runs {
            let (mut page, end) = (run.start / PAGE, run.end / PAGE);
            while page < end {
                if known.len() >= BLOCKS_MAX {
                    known.clear();
                }
                let bits = known.entry(page / BLOCK_PAGES).or_default();
                let stop = end.min(page / BLOCK_PAGES * BLOCK_PAGES + BLOCK_PAGES);
                (page..stop).for_each(|page| bits[(page % BLOCK_PAGES / 64) as usize] |= 1 << (page % 64));
                page = stop;
            }
        }
    }
}

fn bit(bits: &PageBits, page: u64) -> bool {
    bits[(page % BLOCK_PAGES / 64) as usize] >> (page % 64) & 1 == 1
}

/// `struct page_region` of Linux.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg` of Linux.
#[repr(C)]
#[derive(Default)]
struct ScanArguments {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    answers: u64,
    answers_max: u64,
    pages_max: u64,
    inverted: u64,
    all_of: u64,
    any_of: u64,
    returned: u64,
}

nix::ioctl_readwrite!(
    /// PAGEMAP_SCAN.
    pagemap_scan,
    b'f',
    16,
    ScanArguments
);

/// Whether an error of [`scan`] means that there is no such call: before Linux 6.7, and where filters of some
/// containers refuse it.
pub(super) fn is_no_scan(error: Errno) -> bool {
    matches!(error, Errno::ENOTTY | Errno::EINVAL | Errno::EPERM | Errno::ENOSYS)
}

/// Passes on the runs in `pages` that are in memory or in swap, as found by PAGEMAP_SCAN, and whether they are swapped
/// out. Pages of which the target has only read zeros (the kernel's zero page) have no content.
pub(super) fn scan(file: &File, pages: &Range<u64>, found: impl FnMut(Range<u64>, bool)) -> Result<(), Errno> {
    // A process may have tens of thousands of mappings of a page or two, each of which is asked for by itself.
    match pages.end.saturating_sub(pages.start) / PAGE <= RUNS_FEW as u64 {
        true => scan_with(&mut [PageRegion::default(); RUNS_FEW], file, pages, found),
        false => scan_with(&mut [PageRegion::default(); RUNS], file, pages, found),
    }
}

fn scan_with(
    answers: &mut [PageRegion],
    file: &File,
    pages: &Range<u64>,
    mut found: impl FnMut(Range<u64>, bool),
) -> Result<(), Errno> {
    const IS_PRESENT: u64 = 1 << 3;
    const IS_SWAPPED: u64 = 1 << 4;
    const IS_ZEROS: u64 = 1 << 5;
    let mut start = pages.start;
    while start < pages.end {
        let mut arguments = ScanArguments {
            size: size_of::<ScanArguments>() as u64,
            start,
            end: pages.end,
            answers: answers.as_mut_ptr() as u64,
            answers_max: answers.len() as u64,
            inverted: IS_ZEROS,
            all_of: IS_ZEROS,
            any_of: IS_PRESENT | IS_SWAPPED,
            returned: IS_PRESENT | IS_SWAPPED,
            ..ScanArguments::default()
        };
        // SAFETY: the kernel writes at most `answers_max` entries to `answers`, which live until the call returns, and
        // into `arguments`, whose size it was told.
        let count = unsafe { pagemap_scan(file.as_raw_fd(), &raw mut arguments) }?;
        let count = usize::try_from(count).unwrap_or(0);
        answers.iter().take(count).for_each(|run| found(run.start..run.end, run.categories & IS_SWAPPED != 0));
        if arguments.walk_end <= start {
            break;
        }
        start = arguments.walk_end;
    }
    Ok(())
}

/// The same with one word per page; `fill` reads words from that of the page at an address on. `false` if that fails.
fn read_words(pages: &Range<u64>, fill: impl Fn(u64, &mut [u8]) -> bool, mut found: impl FnMut(Range<u64>)) -> bool {
    let mut words = vec![0; BATCH * 8];
    let mut page = pages.start;
    while page < pages.end {
        let count = ((pages.end - page) / PAGE).min(BATCH as u64);
        let words = &mut words[..count as usize * 8];
        if !fill(page, words) {
            return false;
        }
        for (index, word) in words.chunks_exact(8).enumerate() {
            let at = page + index as u64 * PAGE;
            if word.try_into().is_ok_and(|word| u64::from_le_bytes(word) & PRESENT != 0) {
                found(at..at + PAGE);
            }
        }
        page += count * PAGE;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_pages_that_are_there_are_joined() {
        let present = |page: u64| matches!(page / PAGE, 1 | 2 | 5);
        let fill = |start: u64, bytes: &mut [u8]| {
            for (index, word) in bytes.chunks_exact_mut(8).enumerate() {
                let word_of = if present(start + index as u64 * PAGE) { 1u64 << 63 } else { 0 };
                word.copy_from_slice(&word_of.to_le_bytes());
            }
            true
        };
        let mut found = Vec::new();
        assert!(read_words(&(0x1000..0x6000), fill, |run| add_run(&mut found, run)));
        assert_eq!(found, [0x1000..0x3000, 0x5000..0x6000]);
        assert!(!read_words(&(0x1000..0x2000), |_, _| false, |_| {}));
    }

    #[test]
    fn what_this_process_has_touched_is_resident_and_what_it_has_not_is_not() {
        let map = PageMap::open(Path::new("/proc/self"));
        // Memory in a mapping of its own; every second page of the first half is touched.
        let mut bytes = vec![0u8; 64 << 20];
        let first = bytes.as_ptr().align_offset(PAGE as usize);
        let start = Address(bytes.as_ptr() as u64 + first as u64);
        let pages = 64;
        for page in (0..pages).step_by(2) {
            bytes[first + page * PAGE as usize] = 1;
        }
        let at = |page: usize| start.offset(page * PAGE as usize);
        let expected: Vec<_> = (0..pages).step_by(2).map(|page| at(page)..at(page + 1)).collect();
        for scans in [true, false] {
            map.forget();
            map.scans.store(scans, Ordering::Relaxed);
            assert!(!map.is_resident(at(0), 1));
            assert_eq!(map.resident(at(0)..at(pages)), expected, "{scans}");
            assert!(map.is_resident(at(2), PAGE) && !map.is_resident(at(2), PAGE + 1));
            // Cut to the requested range.
            let within = at(2).offset(8)..at(3).offset(8);
            assert_eq!(map.resident(within), [at(2).offset(8)..at(3)]);
        }
        let nowhere = PageMap::open(Path::new("/nowhere"));
        assert!(nowhere.is_resident(at(1), PAGE));
        assert_eq!(nowhere.resident(at(0)..at(2)), [at(0)..at(2)]);
    }
}
