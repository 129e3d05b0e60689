//! Reads the resident bytes of each mapping from `/proc/PID/smaps`.
//!
//! Mirrors the kernel's `Documentation/filesystems/proc.rst`, *smaps*. All amounts are bytes.

use std::fs::File;
use std::io::{self, BufRead, BufReader};

use serde::{Deserialize, Serialize};

use super::procfs;
use super::regions::{self, Region};

/// A mapping and its resident bytes.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// The mapping.
    pub region: Region,
    /// The name that the kernel shows; empty for anonymous memory.
    pub name: String,
    /// Resident.
    pub rss: u64,
    /// Resident and not file-backed: written to since it was mapped, or anonymous from the start.
    pub anonymous: u64,
    /// Resident, mapped only by this process, and written to.
    pub private_dirty: u64,
    /// Resident, mapped only by this process, and unchanged.
    pub private_clean: u64,
    /// Swapped out.
    pub swap: u64,
}

/// The sums over all mappings, from `/proc/PID/smaps_rollup`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollup {
    /// Resident set size.
    pub rss: u64,
    /// Proportional set size: a page that n processes map counts as a page divided by n.
    pub pss: u64,
    /// Unique set size: pages that only this process maps.
    pub uss: u64,
    /// Resident pages that are not file-backed.
    pub anonymous: u64,
    /// Swapped out.
    pub swap: u64,
}

impl Rollup {
    /// Reads the sums of a live process. The kernel walks its page tables: about 1 ms per 100 MiB.
    ///
    /// # Errors
    /// Those of the kernel: no such process, or no permission.
    pub fn of_process(pid: i32) -> io::Result<Rollup> {
        Ok(Rollup::parse(&std::fs::read(procfs::memory_file(pid, "smaps_rollup"))?))
    }

    /// Reads the text of `/proc/PID/smaps_rollup`.
    pub fn parse(text: &[u8]) -> Rollup {
        let mut rollup = Rollup::default();
        for line in text.split(|&byte| byte == b'\n') {
            match field(line) {
                Some(("Rss", bytes)) => rollup.rss = bytes,
                Some(("Pss", bytes)) => rollup.pss = bytes,
                Some(("Private_Clean" | "Private_Dirty", bytes)) => rollup.uss = rollup.uss.saturating_add(bytes),
                Some(("Anonymous", bytes)) => rollup.anonymous = bytes,
                Some(("Swap", bytes)) => rollup.swap = bytes,
                _ => {}
            }
        }
        rollup
    }
}

/// Reads the mappings of a live process, in order of address. The text, 700 bytes per mapping, is not kept.
///
/// # Errors
/// Those of the kernel: no such process, or no permission.
pub fn of_process(pid: i32) -> io::Result<Vec<Mapping>> {
    read(BufReader::with_capacity(BUFFER, File::open(procfs::memory_file(pid, "smaps"))?))
}

/// Bytes read at a time; the kernel gives a page or two.
const BUFFER: usize = 64 << 10;

/// Parses `/proc/PID/smaps`: for each mapping its line of `maps`, then a line per amount.
pub fn parse(text: &[u8]) -> Vec<Mapping> {
    // Reading from memory does not fail.
    read(text).unwrap_or_default()
}

fn read(mut text: impl BufRead) -> io::Result<Vec<Mapping>> {
    let mut found: Vec<Mapping> = Vec::new();
    let mut line = Vec::new();
    while text.read_until(b'\n', &mut line)? > 0 {
        match found.last_mut() {
            _ if !line.first().is_some_and(u8::is_ascii_uppercase) => {
                found.extend(mapping(line.strip_suffix(b"\n").unwrap_or(&line)))
            }
            Some(mapping) => add_amount(mapping, &line),
            None => {}
        }
        line.clear();
    }
    Ok(found)
}

/// A mapping by its line of `maps`, without amounts.
fn mapping(line: &[u8]) -> Option<Mapping> {
    let region = regions::parse_line(line)?;
    let (rss, anonymous, private_dirty, private_clean, swap) = (0, 0, 0, 0, 0);
    Some(Mapping { region, name: name_of(line), rss, anonymous, private_dirty, private_clean, swap })
}

/// Takes the amount of a line, if it is one of ours. There are 24 lines per mapping, so most are told by four bytes or
/// by their end: amounts are 0 to begin with.
fn add_amount(mapping: &mut Mapping, line: &[u8]) {
    if !matches!(line.get(..4), Some(b"Rss:" | b"Anon" | b"Priv" | b"Swap")) || line.ends_with(b" 0 kB\n") {
        return;
    }
    match field(line) {
        Some(("Rss", bytes)) => mapping.rss = bytes,
        Some(("Anonymous", bytes)) => mapping.anonymous = bytes,
        Some(("Private_Dirty", bytes)) => mapping.private_dirty = bytes,
        Some(("Private_Clean", bytes)) => mapping.private_clean = bytes,
        Some(("Swap", bytes)) => mapping.swap = bytes,
        _ => {}
    }
}

/// Parses a line such as `Rss:       1234 kB`, whose key begins with a capital letter. A line of `maps` begins with an
/// address.
fn field(line: &[u8]) -> Option<(&str, u64)> {
    if !line.first()?.is_ascii_uppercase() {
        return None;
    }
    let (key, rest) = line.split_at(line.iter().position(|&byte| byte == b':')?);
    let digits = rest[1..].trim_ascii().strip_suffix(b"kB")?.trim_ascii_end();
    let kibibytes = std::str::from_utf8(digits).ok()?.parse::<u64>().ok()?;
    let key = std::str::from_utf8(key).ok().filter(|key| !key.contains(' '))?;
    Some((key, kibibytes.saturating_mul(1024)))
}

/// The sixth word of a line of `maps`, to the end of the line.
fn name_of(line: &[u8]) -> String {
    let mut rest = line;
    for _ in 0..5 {
        rest = rest.trim_ascii_start();
        rest = rest.iter().position(|&byte| byte == b' ').map_or(&[], |end| &rest[end..]);
    }
    String::from_utf8_lossy(rest.trim_ascii_start()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::regions::Backing;

    const TEXT: &[u8] = b"5581e0c00000-5581e0c21000 rw-p 00000000 00:00 0                          [heap]\n\
        Size:                132 kB\nRss:                 100 kB\nPss:                  60 kB\n\
        Shared_Clean:          0 kB\nPrivate_Clean:         4 kB\nPrivate_Dirty:        56 kB\n\
        Anonymous:            96 kB\nSwap:                  8 kB\nVmFlags: rd wr mr mw me ac\n\
        7f0000000000-7f0000001000 r--p 00000000 08:01 42   /usr/lib/a: b.so\nRss:   4 kB\n";

    #[test]
    fn amounts_belong_to_the_mapping_above_them() {
        let found = parse(TEXT);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].region.backing, Backing::Heap);
        let amounts = [found[0].rss, found[0].anonymous, found[0].private_dirty, found[0].private_clean, found[0].swap];
        assert_eq!(amounts.map(|bytes| bytes / 1024), [100, 96, 56, 4, 8]);
        assert_eq!((found[1].name.as_str(), found[1].rss), ("/usr/lib/a: b.so", 4096));
    }

    #[test]
    fn nonsense_is_left_out() {
        assert!(parse(b"Rss: 12 kB\nx\n\n:\nRss: -1 kB\n").is_empty());
        assert_eq!(
            Rollup::parse(b"Rss: 99999999999999999999 kB\nPss: 1 kB"),
            Rollup { pss: 1024, ..Rollup::default() }
        );
    }

    #[test]
    fn the_sums_of_this_process_agree_with_its_rollup() {
        let pid = std::process::id() as i32;
        let rollup = Rollup::of_process(pid).unwrap();
        let sum: u64 = of_process(pid).unwrap().iter().map(|mapping| mapping.rss).sum();
        // Other tests in this process allocate meanwhile.
        assert!(rollup.rss.abs_diff(sum) < 64 << 20, "{rollup:?} {sum}");
        assert!(rollup.uss <= rollup.rss && rollup.pss <= rollup.rss);
    }
}
