//! Reads the resident bytes of each mapping from `/proc/PID/smaps`.
//!
//! Mirrors the kernel's `Documentation/filesystems/proc.rst`, *smaps*. All amounts are bytes.

use std::io;

use serde::{Deserialize, Serialize};

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
        Ok(Rollup::parse(&std::fs::read(format!("/proc/{pid}/smaps_rollup"))?))
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

/// Reads the mappings of a live process, in order of address.
///
/// # Errors
/// Those of the kernel: no such process, or no permission.
pub fn of_process(pid: i32) -> io::Result<Vec<Mapping>> {
    Ok(parse(&std::fs::read(format!("/proc/{pid}/smaps"))?))
}

/// Parses `/proc/PID/smaps`: for each mapping its line of `maps`, then a line per amount.
pub fn parse(text: &[u8]) -> Vec<Mapping> {
    let mut found: Vec<Mapping> = Vec::new();
    for line in text.split(|&byte| byte == b'\n') {
        if let Some((key, bytes)) = field(line) {
            let Some(mapping) = found.last_mut() else { continue };
            match key {
                "Rss" => mapping.rss = bytes,
                "Anonymous" => mapping.anonymous = bytes,
                "Private_Dirty" => mapping.private_dirty = bytes,
                "Private_Clean" => mapping.private_clean = bytes,
                "Swap" => mapping.swap = bytes,
                _ => {}
            }
        } else if let Some(region) = regions::parse_line(line) {
            found.push(Mapping {
                region,
                name: name_of(line),
                rss: 0,
                anonymous: 0,
                private_dirty: 0,
                private_clean: 0,
                swap: 0,
            });
        }
    }
    found
}

/// Parses a line such as `Rss:       1234 kB`, whose key begins with a capital letter. A line of `maps` begins with an
/// address.
fn field(line: &[u8]) -> Option<(&str, u64)> {
    if !line.first()?.is_ascii_uppercase() {
        return None;
    }
    let text = std::str::from_utf8(line).ok()?;
    let (key, rest) = text.split_once(':')?;
    let kibibytes = rest.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?;
    (!key.contains(' ')).then_some((key, kibibytes.saturating_mul(1024)))
}

/// The sixth word of a line of `maps`, to the end of the line.
fn name_of(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut rest = text.as_ref();
    for _ in 0..5 {
        rest = rest.trim_start().split_once(' ').map_or("", |(_, rest)| rest);
    }
    rest.trim_start().to_owned()
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
