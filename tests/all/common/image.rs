//! A copy of the target's writable memory, and a judge of objects that the target did not report.
//!
//! The oracle reports what the collector reaches. An object that only C code holds is alive, too; so an address that
//! the tool reports and the target does not is not necessarily false. Independent evidence decides:
//!
//! - its type must be a type that the target reported, or one whose own type is;
//! - its reference count must be plausible, and not above the number of words in memory that hold its address, or of
//!   words that point to its text (C code that keeps a string forever, as numpy does its documentation, keeps only
//!   that);
//! - under `PYTHONMALLOC=debug` (and in debug builds) the debug header and trailer of the block must be intact: the
//!   object domain, the forbidden bytes before and after, and a request that is large enough. A freed block has lost
//!   them; a part of a block never had them.
//!
//! Limits: a dead block on a free list of CPython passes the check of debug headers, but not that of the reference
//! count; a raw block that begins with a small number and a type's address passes if something points to it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use super::truth::{Truth, TypeTruth};

const PAGE: u64 = 4096;
/// More unreadable pages in a row than this are no guard of a stack.
const MOST_GUARDS: usize = 256;

struct Region {
    start: u64,
    bytes: Vec<u8>,
    /// Data of an executable or library, its .bss included: no allocator marks there.
    is_file: bool,
}

/// The writable memory of a process at one moment. Take it while the target is blocked.
pub struct Image {
    regions: Vec<Region>,
}

impl Image {
    /// Copies what is resident, and of files all: an anonymous page that was never touched reads as zero, one of a
    /// file as the file.
    pub fn capture(pid: u32) -> Result<Image, String> {
        let of = |what: &str| format!("/proc/{pid}/{what}");
        let open = |what: &str| File::open(of(what)).map_err(|e| format!("{}: {e}", of(what)));
        let maps = fs::read_to_string(of("maps")).map_err(|e| format!("{}: {e}", of("maps")))?;
        let (memory, pagemap) = (open("mem")?, open("pagemap")?);
        let mut image = Image { regions: Vec::new() };
        for line in maps.lines() {
            let mut fields = line.split_whitespace();
            let (Some(range), Some(permissions)) = (fields.next(), fields.next()) else { continue };
            let path = fields.nth(3).unwrap_or("");
            let bounds = range.split_once('-').map(|(a, b)| (u64::from_str_radix(a, 16), u64::from_str_radix(b, 16)));
            let Some((Ok(start), Ok(end))) = bounds else { return Err(format!("a line of maps: {line:?}")) };
            if !permissions.starts_with("rw") {
                continue;
            }
            let mut bytes = vec![0; (end - start) as usize];
            let mut entries = vec![0; bytes.len() / PAGE as usize * 8];
            pagemap.read_exact_at(&mut entries, start / PAGE * 8).map_err(|e| format!("pagemap: {e}"))?;
            // Present or swapped: bits 63 and 62 (Documentation/admin-guide/mm/pagemap.rst). What a file holds is
            // there all the same.
            let is_file = path.starts_with('/');
            let present = |page: usize| is_file || entries[page * 8 + 7] & 0xC0 != 0;
            let pages = entries.len() / 8;
            let mut page = 0;
            while page < pages {
                let first = page;
                while page < pages && present(page) == present(first) {
                    page += 1;
                }
                let read = |bytes: &mut [u8], pages: std::ops::Range<usize>| {
                    let range = pages.start * PAGE as usize..pages.end * PAGE as usize;
                    memory.read_exact_at(&mut bytes[range.clone()], start + range.start as u64)
                };
                if present(first) && read(&mut bytes, first..page).is_err() {
                    // The stacks of threads hold guard pages that maps does not show (glibc 2.42, MADV_GUARD_INSTALL).
                    let unreadable = (first..page).filter(|p| read(&mut bytes, *p..p + 1).is_err()).count();
                    if unreadable == page - first && unreadable > MOST_GUARDS {
                        return Err(format!("{unreadable} pages cannot be read: {line:?}"));
                    }
                }
            }
            image.regions.push(Region { start, bytes, is_file });
        }
        image.regions.sort_by_key(|region| region.start);
        // What follows the data of a library without a gap is its .bss: static as well, though of no file.
        for i in 1..image.regions.len() {
            let before = &image.regions[i - 1];
            let follows = before.is_file && before.start + before.bytes.len() as u64 == image.regions[i].start;
            image.regions[i].is_file |= follows;
        }
        Ok(image)
    }

    /// All writable memory, in bytes.
    pub fn size(&self) -> u64 {
        self.regions.iter().map(|region| region.bytes.len() as u64).sum()
    }

    fn region(&self, address: u64) -> Option<&Region> {
        let after = self.regions.partition_point(|region| region.start <= address);
        let region = self.regions.get(after.checked_sub(1)?)?;
        (address - region.start < region.bytes.len() as u64).then_some(region)
    }

    /// Bytes at an address, if all of them lie in one writable region.
    pub fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
        let region = self.region(address)?;
        let at = (address - region.start) as usize;
        region.bytes.get(at..at.checked_add(length)?)
    }

    /// The word at an address.
    pub fn word(&self, address: u64) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(address, 8)?.try_into().ok()?))
    }

    /// How many words hold each of these addresses. The low two bits are ignored: CPython keeps tags there since 3.14.
    fn count_words(&self, addresses: &[u64]) -> HashMap<u64, u64> {
        let mut counts: HashMap<u64, u64> = addresses.iter().map(|a| (*a, 0)).collect();
        let (Some(low), Some(high)) = (addresses.iter().min(), addresses.iter().max()) else { return counts };
        // A filter of one bit per hashed address spares most of the look-ups in a map.
        let slot = |address: u64| (address >> 3).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44;
        let mut filter = vec![false; 1 << 20];
        addresses.iter().for_each(|a| filter[slot(*a) as usize] = true);
        for region in &self.regions {
            for word in region.bytes.as_chunks::<8>().0 {
                let address = u64::from_le_bytes(*word) & !3;
                if address >= *low && address <= *high && filter[slot(address) as usize] {
                    counts.entry(address).and_modify(|n| *n += 1);
                }
            }
        }
        counts
    }
}

/// Decides whether there is a live object at an address.
pub struct Judge<'a> {
    image: &'a Image,
    truth: &'a Truth,
    has_marks: bool,
    words: HashMap<u64, u64>,
}

/// Where the text of a bytes object (GIL, FT) or string (ASCII, then others; 3.12+, before; FT) lies within it.
const TEXTS: [u64; 5] = [32, 40, 48, 56, 72];

/// In front of an object: nothing, a GC head, a pre-header, both; and both for a 3.11 with its wider pre-header.
const FRONTS: [u64; 4] = [0, 16, 32, 48];

impl<'a> Judge<'a> {
    /// `addresses` are all that will be asked for; `has_marks` says that the target runs with the debug allocator.
    pub fn new(image: &'a Image, truth: &'a Truth, has_marks: bool, addresses: &[u64]) -> Judge<'a> {
        let texts = addresses.iter().flat_map(|a| TEXTS.map(|text| a.wrapping_add(text)));
        let all: Vec<u64> = addresses.iter().copied().chain(texts).collect();
        Judge { image, truth, has_marks, words: image.count_words(&all) }
    }

    /// How many words refer to an object, or to its text if it has one.
    fn references(&self, address: u64, known: Option<&TypeTruth>) -> u64 {
        let words = |address: u64| self.words.get(&address).copied().unwrap_or(0);
        let is_text =
            known.is_some_and(|k| k.sizeof_owner == "builtins.str" || k.name.as_deref() == Some("builtins.bytes"));
        let texts = if is_text { TEXTS.iter().map(|text| words(address.wrapping_add(*text))).sum() } else { 0 };
        words(address) + texts
    }

    /// Why there can be no live object at this address; `None` where all witnesses agree that there is one.
    pub fn objection(&self, address: u64) -> Option<&'static str> {
        let free_threaded = self.truth.build == "free-threaded";
        let type_at = |object: u64| self.image.word(object.wrapping_add(if free_threaded { 24 } else { 8 }));
        let Some(type_address) = type_at(address) else { return Some("not in writable memory") };
        let known = self.truth.type_at(type_address);
        // A type of a sub-interpreter is not told of, but its own type, or that one's, is: `type` is everybody's.
        let is_metatype = |t: Option<u64>| t.and_then(|t| self.truth.type_at(t)).is_some_and(|t| t.is_metatype);
        let metatype = type_at(type_address);
        if known.is_none() && !is_metatype(metatype) && !is_metatype(metatype.and_then(type_at)) {
            return Some("its type is no type");
        }
        let Some(refcount) = self.refcount(address) else { return Some("impossible reference count") };
        let words = self.references(address, known);
        if refcount == RefCount::Mortal(0) {
            return Some("no references: dead, perhaps on a free list");
        }
        // A few references may be in registers only, or in memory that is not writable.
        const UNSEEN: u64 = 8;
        if matches!(refcount, RefCount::Mortal(n) if n > words + UNSEEN) {
            return Some("more references than words that hold its address");
        }
        // C code can leak an object, and then nothing does; there are a few dozen of those, so that is no excuse for
        // many.
        if refcount != RefCount::Immortal && words == 0 {
            return Some("nothing points at it");
        }
        (self.has_marks && !self.is_static(address)).then(|| self.marks(address, known)).flatten()
    }

    fn is_static(&self, address: u64) -> bool {
        self.image.region(address).is_some_and(|region| region.is_file)
    }

    fn refcount(&self, address: u64) -> Option<RefCount> {
        let head = self.image.word(address)?;
        if self.truth.build == "free-threaded" {
            let (low, shared) =
                (self.image.word(address.wrapping_add(8))?, self.image.word(address.wrapping_add(16))? as i64);
            let local = low >> 32;
            if local == u64::from(u32::MAX) {
                return Some(RefCount::Immortal);
            }
            // No owner, no count, and not one of the flags that say where else a count is kept: it was freed
            // (`_Py_MergeZeroLocalRefcount`, `Objects/object.c`, v3.13).
            if head == 0 && local == 0 && shared == 0 {
                return Some(RefCount::Mortal(0));
            }
            // The counts of types, code and modules' dictionaries are kept per thread: any is possible.
            let sum = local as i64 + (shared >> 2);
            return Some(if sum > 0 { RefCount::Mortal(sum as u64) } else { RefCount::Unknown });
        }
        let low = head as u32;
        match self.truth.minor() {
            // What was frozen into the executable starts at 999,999,999 (3.11, Tools/scripts/deepfreeze.py). Only
            // there, and not far from it: below an executable at a fixed address the heap can begin at such a number,
            // and then a pointer looks like a count.
            11 if self.is_static(address) && (999_900_000..1_010_000_000).contains(&head) => Some(RefCount::Immortal),
            ..=11 => (head < 1 << 31).then_some(RefCount::Mortal(head)),
            // Extensions built for 3.11 or older count whole words: immortal objects go from 2^32 - 1 on.
            12 | 13 if head >> 32 == 1 && low < 1 << 28 => Some(RefCount::Immortal),
            12 | 13 if head >> 32 != 0 => None,
            // A word of overflow, a word of flags of which four are in use.
            14.. if head >> 32 & 0xFFFF != 0 || head >> 48 > 15 => None,
            _ if (low as i32) < 0 => Some(RefCount::Immortal),
            _ => Some(RefCount::Mortal(low.into())),
        }
    }

    /// The marks of `_PyMem_DebugRawAlloc`: request (8, big-endian), domain, 7 × 0xFD, data, 8 × 0xFD.
    fn marks(&self, address: u64, known: Option<&TypeTruth>) -> Option<&'static str> {
        let mut reason = "no marks of the debug allocator";
        for front in FRONTS {
            let Some(head) = self.image.bytes(address.wrapping_sub(front + 16), 16) else { continue };
            if head[9..] != [0xFD; 7] {
                continue;
            }
            let request = u64::from_be_bytes(head[..8].try_into().expect("8 bytes"));
            let end = address.wrapping_sub(front).checked_add(request);
            let tail = end.and_then(|end| self.image.bytes(end, 8));
            // numpy takes its iterators and the classes of its dtypes from the other domain.
            let numpy = || known.and_then(|k| k.name.as_ref()).is_some_and(|name| name.starts_with("numpy."));
            if head[8] != b'o' && !(head[8] == b'm' && numpy()) {
                reason = "a block of another domain";
            } else if tail != Some(&[0xFD; 8]) {
                reason = "the tail mark is gone";
            } else if request < front + known.map_or(16, smallest) {
                reason = "the block is too small for its type";
            } else {
                return None;
            }
        }
        Some(reason)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum RefCount {
    Mortal(u64),
    Immortal,
    Unknown,
}

/// The least that an object of a type occupies. Strings and ints are shorter than their types' basic size says, and
/// dates and times without a zone as well.
fn smallest(known: &TypeTruth) -> u64 {
    let short = matches!(known.sizeof_owner.as_str(), "builtins.str" | "builtins.int")
        || known.name.as_ref().is_some_and(|name| name.starts_with("datetime."));
    if short { known.basicsize.min(28) } else { known.basicsize }
}
