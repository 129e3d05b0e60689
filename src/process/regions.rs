//! The mapped regions of a target: lines of `/proc/PID/maps`, or segments of a core.

use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::address::Address;
use super::procfs::FileId;

/// The backing of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    /// No file: malloc, arenas, thread stacks, bss.
    Anonymous,
    /// The `brk` heap, `[heap]`.
    Heap,
    /// The main thread's stack, `[stack]`.
    Stack,
    /// A file, by its path in the target's mount namespace, without ` (deleted)`.
    File(PathBuf),
    /// `[vdso]`, `[vvar]` and similar.
    Kernel,
}

/// A mapping: an address range with one backing and one set of permissions.
#[derive(Clone, Debug)]
pub struct Region {
    /// First byte.
    pub start: Address,
    /// One past the last byte.
    pub end: Address,
    /// Whether the target may read it.
    pub readable: bool,
    /// Whether the target may write to it. Objects have reference counts, so they are in writable memory.
    pub writable: bool,
    /// Whether the mapping is shared with other processes.
    pub shared: bool,
    /// Offset in the file, in bytes.
    pub file_offset: u64,
    /// What stands behind it.
    pub backing: Backing,
    /// Device and inode of the file. `None` without a file, and in a core.
    pub file: Option<FileId>,
}

impl Region {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.end.0.saturating_sub(self.start.0)
    }

    /// Whether its length is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The file's path in the target's namespace, if it is file-backed.
    pub fn path(&self) -> Option<&Path> {
        match &self.backing {
            Backing::File(path) => Some(path),
            _ => None,
        }
    }
}

/// All regions of a target, in order of address, without overlaps. Clones share them: a copy of a target has its map.
#[derive(Clone, Debug, Default)]
pub struct RegionMap {
    regions: Arc<Vec<Region>>,
}

impl RegionMap {
    /// Sorts the regions by address. Of overlapping ones (in a damaged core) the later is dropped.
    pub fn new(mut regions: Vec<Region>) -> RegionMap {
        regions.retain(|region| region.start < region.end);
        regions.sort_by_key(|region| region.start);
        let mut end = Address::NULL;
        regions.retain(|region| {
            let keep = region.start >= end;
            if keep {
                end = region.end;
            }
            keep
        });
        RegionMap { regions: Arc::new(regions) }
    }

    /// Reads the regions of a live process.
    ///
    /// # Errors
    /// Those of the kernel: no such process, or no permission.
    pub fn of_process(pid: i32) -> std::io::Result<RegionMap> {
        Ok(RegionMap::parse(&std::fs::read(format!("/proc/{pid}/maps"))?))
    }

    /// Parses `/proc/PID/maps`, whose names may contain any bytes. Invalid lines are left out.
    pub fn parse(text: &[u8]) -> RegionMap {
        let mut regions = Vec::with_capacity(text.iter().filter(|&&byte| byte == b'\n').count());
        regions.extend(text.split(|&byte| byte == b'\n').filter_map(parse_line));
        RegionMap::new(regions)
    }

    /// All regions in order of address.
    pub fn iter(&self) -> std::slice::Iter<'_, Region> {
        self.regions.iter()
    }

    /// The region that contains `address`.
    pub fn find(&self, address: Address) -> Option<&Region> {
        let after = self.regions.partition_point(|region| region.start <= address);
        self.regions[..after].last().filter(|region| address < region.end)
    }

    /// The regions that overlap a range, in order of address.
    pub fn overlapping(&self, range: &Range<Address>) -> impl Iterator<Item = &Region> {
        let first = self.regions.partition_point(|region| region.end <= range.start);
        let end = range.end;
        self.regions[first..].iter().take_while(move |region| region.start < end)
    }

    /// Whether `length` bytes at `address` are in one readable region.
    pub fn contains(&self, address: Address, length: usize) -> bool {
        self.find(address)
            .is_some_and(|region| region.readable && (length as u64) <= region.end.0.saturating_sub(address.0))
    }
}

impl<'a> IntoIterator for &'a RegionMap {
    type Item = &'a Region;
    type IntoIter = std::slice::Iter<'a, Region>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Parses a line such as `7f12a000-7f12c000 r-xp 0001f000 08:01 1234    /usr/lib/x.so`. The name starts at the first
/// non-space byte after the inode and extends to the end of the line.
pub(super) fn parse_line(line: &[u8]) -> Option<Region> {
    let mut rest = line;
    let mut word = || {
        let end = rest.iter().position(|&byte| byte == b' ').unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        rest = behind.get(1..).unwrap_or_default();
        std::str::from_utf8(word).ok().filter(|word| !word.is_empty())
    };
    let (start, end) = word()?.split_once('-')?;
    let flags = word()?.as_bytes();
    let file_offset = u64::from_str_radix(word()?, 16).ok()?;
    let (major, minor) = word()?.split_once(':')?;
    let device = (u64::from_str_radix(major, 16).ok()?, u64::from_str_radix(minor, 16).ok()?);
    let inode = word()?.parse().ok()?;
    let name = rest.trim_ascii_start();
    Some(Region {
        start: Address(u64::from_str_radix(start, 16).ok()?),
        end: Address(u64::from_str_radix(end, 16).ok()?),
        readable: flags.first() == Some(&b'r'),
        writable: flags.get(1) == Some(&b'w'),
        shared: flags.get(3) == Some(&b's'),
        file_offset,
        backing: backing(Some(Path::new(OsStr::from_bytes(name))), inode),
        file: (inode != 0).then_some(FileId { device, inode }),
    })
}

fn backing(name: Option<&Path>, inode: u64) -> Backing {
    let Some(path) = name.filter(|name| !name.as_os_str().is_empty()) else {
        return Backing::Anonymous;
    };
    // A name that is not UTF-8 is a file's: the kernel's own names are ASCII.
    let Some(text) = path.to_str() else {
        let bytes = path.as_os_str().as_bytes();
        let bytes = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes);
        return Backing::File(PathBuf::from(OsStr::from_bytes(bytes)));
    };
    match text {
        "[heap]" => Backing::Heap,
        "[stack]" => Backing::Stack,
        // With CONFIG_ANON_VMA_NAME a process may name its anonymous memory.
        name if name.starts_with("[anon:") || name.starts_with("[anon_shmem:") => Backing::Anonymous,
        name if name.starts_with('[') && inode == 0 => Backing::Kernel,
        name => Backing::File(PathBuf::from(name.strip_suffix(" (deleted)").unwrap_or(name))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(start: u64, end: u64) -> Region {
        Region {
            start: Address(start),
            end: Address(end),
            readable: true,
            writable: true,
            shared: false,
            file_offset: 0,
            backing: Backing::Anonymous,
            file: None,
        }
    }

    #[test]
    fn an_address_is_found_in_its_region_and_nowhere_else() {
        let map = RegionMap::new(vec![region(0x3000, 0x4000), region(0x1000, 0x2000)]);
        assert!(map.find(Address(0xfff)).is_none());
        assert_eq!(map.find(Address(0x1000)).unwrap().start, Address(0x1000));
        assert_eq!(map.find(Address(0x1fff)).unwrap().start, Address(0x1000));
        assert!(map.find(Address(0x2000)).is_none());
        assert!(map.contains(Address(0x3ff8), 8));
        assert!(!map.contains(Address(0x3ff9), 8));
    }

    #[test]
    fn lines_of_maps_are_read_and_nonsense_is_left_out() {
        let text = b"00400000-00401000 r-xp 00001000 08:01 42    /a  b/py\xfcthon (deleted)\n\
                     7f00-8000 rw-s 00000000 00:00 0 \n9000-a000 ---p 00000000 00:00 0 [heap]\n\
                     ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n\
                     \nx\n1-2\n1-2 r\n-\nzz-2 r-xp 0 0:0 0 x\n5000-4000 rw-p 0 0:0 0\n\
                     1000-2000 r 0 0:0 99999999999999999999 x\n";
        let map = RegionMap::parse(text);
        let regions: Vec<&Region> = map.iter().collect();
        assert_eq!(regions.len(), 4, "{regions:?}");
        assert_eq!(regions[1].backing, Backing::Heap);
        assert_eq!(regions[2].path().unwrap().as_os_str().as_bytes(), b"/a  b/py\xfcthon");
        assert!(regions[0].shared && regions[0].writable && regions[0].start == Address(0x7f00));
        assert_eq!(regions[3].backing, Backing::Kernel);
    }

    #[test]
    fn overlapping_and_empty_regions_are_dropped() {
        let map = RegionMap::new(vec![region(0x1000, 0x3000), region(0x2000, 0x4000), region(0x5000, 0x5000)]);
        assert_eq!(map.iter().count(), 1);
    }

    #[test]
    fn names_say_what_stands_behind_a_region() {
        assert_eq!(backing(None, 0), Backing::Anonymous);
        assert_eq!(backing(Some(Path::new("[heap]")), 0), Backing::Heap);
        assert_eq!(backing(Some(Path::new("[anon:glibc]")), 0), Backing::Anonymous);
        assert_eq!(backing(Some(Path::new("[vdso]")), 0), Backing::Kernel);
        assert_eq!(backing(Some(Path::new("/x/python (deleted)")), 7), Backing::File("/x/python".into()));
    }
}
