//! Reads the ELF images mapped into a target: where they are loaded, what they export, where their data is.
//!
//! Everything that the loader maps is read from the target's memory and not from a file, so deleted, replaced or
//! containerized files make no difference. Only `.symtab` and the section headers, which are never mapped, come from
//! the file, through `/proc/PID/exe` or `/proc/PID/root`.
//!
//! goblin decodes headers, notes and tables of files. It cannot decode the dynamic section, hash tables and symbols of
//! an image in memory: it expects the layout of a file, and the loader has relocated their pointers.

use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use goblin::container::{Container, Ctx, Endian};
use goblin::elf::dynamic::{DT_GNU_HASH, DT_HASH, DT_NEEDED, DT_STRTAB, DT_SYMTAB};
use goblin::elf::header::{EI_CLASS, EI_DATA, ELFCLASS64, ELFDATA2LSB, ELFMAG, ET_DYN, ET_EXEC};
use goblin::elf::note::{NT_GNU_BUILD_ID, NoteDataIterator};
use goblin::elf::program_header::{PT_DYNAMIC, PT_LOAD, PT_NOTE};
use goblin::elf::{Elf, Header, ProgramHeader, SectionHeader};

use super::address::{Address, PAGE};
use super::memory::{Memory, MemoryExt, u32_at, u64_at};
use super::procfs::{self, FileId};
use super::regions::Region;

/// Sizes of an ELF64 header, a program header and a section header (`elf.h`).
pub(super) const HEADER_SIZE: usize = 64;
pub(super) const PROGRAM_HEADER_SIZE: usize = 56;
const SECTION_HEADER_SIZE: usize = 64;
/// How goblin decodes the structs of 64-bit little-endian files.
pub(super) const CONTEXT: Ctx = Ctx { container: Container::Big, le: Endian::Little };
/// Upper bound on program headers; real files have about 12.
const PROGRAM_HEADERS_MAX: u16 = 256;
/// Upper bound on dynamic entries; real files have about 40.
const DYNAMIC_ENTRIES_MAX: u64 = 1024;
/// Upper bound on the symbols of a hash chain. A libpython exports about 2,500 symbols in 1,000 chains.
const CHAIN_MAX: u32 = 1 << 16;
/// Size of an ELF64 symbol.
const SYMBOL_SIZE: u64 = 24;
/// Upper bound on notes, bytes; real ones have about 100.
const NOTES_MAX: usize = 1 << 16;
/// Upper bound on a file that is read completely; a debug build of libpython has 40 MiB.
const FILE_SIZE_MAX: u64 = 1 << 30;

/// A loadable segment.
#[derive(Clone, Debug)]
pub struct LoadSegment {
    /// Its addresses in the target, including bss.
    pub range: Range<Address>,
    /// Whether the target may write to it.
    pub writable: bool,
    /// Whether it is code.
    pub executable: bool,
}

/// An ELF image in the target.
#[derive(Clone, Debug)]
pub struct LoadedElf {
    /// Its path in the target's mount namespace.
    pub path: PathBuf,
    /// Address of its header.
    pub header: Address,
    /// Difference between addresses in the target and in the file.
    pub bias: u64,
    /// The loadable segments, in file order.
    pub segments: Vec<LoadSegment>,
    dynamic: Option<Address>,
}

/// A symbol found in a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Its address in the target.
    pub address: Address,
    /// Its size in bytes according to the file; may be 0.
    pub size: u64,
}

impl LoadedElf {
    /// All ELF images of a target, in order of address. Mappings that are not ELF files, or have invalid headers, are
    /// left out.
    pub fn all<M: Memory + ?Sized>(memory: &M) -> Vec<LoadedElf> {
        let mut found: Vec<LoadedElf> = Vec::new();
        for region in memory.regions() {
            let Some(path) = region.path().filter(|_| region.file_offset == 0 && region.readable) else { continue };
            if let Some(elf) = LoadedElf::at(memory, region.start, path)
                && !found.iter().any(|other| other.path == elf.path && other.bias == elf.bias)
            {
                found.push(elf);
            }
        }
        found
    }

    /// The one with the lowest address whose path `wanted` accepts, of those that [`LoadedElf::all`] finds.
    pub fn find<M: Memory + ?Sized>(memory: &M, wanted: impl Fn(&Path) -> bool) -> Option<LoadedElf> {
        let begins = |region: &&Region| region.file_offset == 0 && region.readable;
        memory.regions().iter().filter(begins).find_map(|region| {
            let path = region.path().filter(|path| wanted(path))?;
            LoadedElf::at(memory, region.start, path)
        })
    }

    /// The image whose header is mapped at `start`, if there is one.
    pub fn at<M: Memory + ?Sized>(memory: &M, start: Address, path: &Path) -> Option<LoadedElf> {
        let mut header = [0; HEADER_SIZE];
        memory.read_exact_at(start, &mut header).ok()?;
        let header = header_of(&header)?;
        let (kind, count) = (header.e_type, header.e_phnum);
        if !(kind == ET_DYN || kind == ET_EXEC)
            || count > PROGRAM_HEADERS_MAX
            || usize::from(header.e_phentsize) != PROGRAM_HEADER_SIZE
        {
            return None;
        }
        let table = start.offset(usize::try_from(header.e_phoff).ok()?);
        let bytes =
            memory.read_bytes(table, u64::from(count) * PROGRAM_HEADER_SIZE as u64, 1 << 16, "program headers").ok()?;
        let headers = ProgramHeader::parse(&bytes, 0, usize::from(count), CONTEXT).ok()?;
        let first = headers.iter().find(|header| header.p_type == PT_LOAD && header.p_offset / PAGE == 0)?;
        let bias = if kind == ET_EXEC { 0 } else { start.0.wrapping_sub(first.p_vaddr / PAGE * PAGE) };
        let place = |header: &ProgramHeader| Address(header.p_vaddr.wrapping_add(bias));
        Some(LoadedElf {
            path: path.to_owned(),
            header: start,
            bias,
            segments: headers
                .iter()
                .filter(|header| header.p_type == PT_LOAD)
                .map(|header| LoadSegment {
                    range: place(header)..Address(place(header).0.saturating_add(header.p_memsz)),
                    writable: header.is_write(),
                    executable: header.is_executable(),
                })
                .collect(),
            dynamic: headers.iter().find(|header| header.p_type == PT_DYNAMIC).map(place),
        })
    }

    /// Data and bss: the writable segments, cut to what is mapped writable now (the loader makes relocated read-only
    /// data read-only). Data and bss are two mappings of one segment, and are returned in one piece.
    pub fn writable_ranges<M: Memory + ?Sized>(&self, memory: &M) -> Vec<Range<Address>> {
        let mut ranges: Vec<Range<Address>> = Vec::new();
        for segment in self.segments.iter().filter(|segment| segment.writable) {
            let mapped = memory.regions().overlapping(&segment.range);
            for region in mapped.filter(|region| region.writable && region.readable) {
                let start = segment.range.start.max(region.start);
                let end = segment.range.end.min(region.end);
                match ranges.last_mut() {
                    _ if start >= end => {}
                    Some(before) if before.end == start => before.end = end,
                    _ => ranges.push(start..end),
                }
            }
        }
        ranges
    }

    /// The address range from the first to the last segment.
    pub fn span(&self) -> Range<Address> {
        let start = self.segments.iter().map(|segment| segment.range.start).min().unwrap_or_default();
        let end = self.segments.iter().map(|segment| segment.range.end).max().unwrap_or_default();
        start..end
    }

    /// An exported, defined symbol, looked up in the mapped hash table as the loader does.
    pub fn dynamic_symbol<M: Memory + ?Sized>(&self, memory: &M, name: &str) -> Option<Symbol> {
        let tables = DynamicTables::read(memory, self)?;
        let index = match tables.gnu_hash {
            Some(table) => tables.find_by_gnu_hash(memory, table, name),
            None => tables.find_by_hash(memory, tables.hash?, name),
        }?;
        let symbol = tables.symbol(memory, index)?;
        Some(Symbol { address: Address(symbol.value.wrapping_add(self.bias)), size: symbol.size })
    }

    /// The names of the libraries that the loader maps for it (`DT_NEEDED`); those that can be read.
    pub fn needed<M: Memory + ?Sized>(&self, memory: &M) -> Vec<String> {
        /// The longest name of a file (NAME_MAX).
        const NAME_MAX: usize = 255;
        let Some(tables) = DynamicTables::read(memory, self) else { return Vec::new() };
        let names = tables.needed.iter().filter_map(|&offset| tables.strings.0.checked_add(offset));
        names.filter_map(|name| memory.read_c_string(Address(name), NAME_MAX).ok()).collect()
    }
}

/// The ELF header at the start of `bytes`. `None` if it is not that of a 64-bit little-endian file.
fn header_of(bytes: &[u8]) -> Option<Header> {
    let is_known = bytes.starts_with(ELFMAG)
        && bytes.get(EI_CLASS) == Some(&ELFCLASS64)
        && bytes.get(EI_DATA) == Some(&ELFDATA2LSB);
    Elf::parse_header(bytes).ok().filter(|_| is_known)
}

struct DynamicTables {
    symbols: Address,
    strings: Address,
    gnu_hash: Option<Address>,
    hash: Option<Address>,
    /// Where in the strings the names of needed libraries stand.
    needed: Vec<u64>,
}

struct RawSymbol {
    name: u32,
    section: u16,
    value: u64,
    size: u64,
}

impl DynamicTables {
    fn read<M: Memory + ?Sized>(memory: &M, elf: &LoadedElf) -> Option<DynamicTables> {
        let start = elf.dynamic?;
        let lowest = elf.span().start;
        // glibc relocates these pointers in place; musl leaves them as in the file.
        let place = |value: u64| if value >= lowest.0 { Address(value) } else { Address(value.wrapping_add(elf.bias)) };
        let (mut symbols, mut strings, mut gnu_hash, mut hash) = (None, None, None, None);
        let mut needed = Vec::new();
        for index in 0..DYNAMIC_ENTRIES_MAX {
            let entry = Address(start.0.checked_add(index * 16)?);
            let (tag, value) = (memory.read_u64(entry).ok()?, memory.read_u64(entry.offset(8)).ok()?);
            match tag {
                0 => break,
                DT_SYMTAB => symbols = Some(place(value)),
                DT_STRTAB => strings = Some(place(value)),
                DT_GNU_HASH => gnu_hash = Some(place(value)),
                DT_HASH => hash = Some(place(value)),
                DT_NEEDED => needed.push(value),
                _ => {}
            }
        }
        Some(DynamicTables { symbols: symbols?, strings: strings?, gnu_hash, hash, needed })
    }

    fn symbol<M: Memory + ?Sized>(&self, memory: &M, index: u32) -> Option<RawSymbol> {
        let mut bytes = [0; SYMBOL_SIZE as usize];
        let address = self.symbols.0.checked_add(u64::from(index) * SYMBOL_SIZE)?;
        memory.read_exact_at(Address(address), &mut bytes).ok()?;
        Some(RawSymbol {
            name: u32_at(&bytes, 0)?,
            section: u16::from_le_bytes([bytes[6], bytes[7]]),
            value: u64_at(&bytes, 8)?,
            size: u64_at(&bytes, 16)?,
        })
    }

    /// Whether symbol `index` is defined and has this name.
    fn is<M: Memory + ?Sized>(&self, memory: &M, index: u32, name: &str) -> bool {
        self.symbol(memory, index).is_some_and(|symbol| {
            symbol.section != 0
                && memory
                    .read_c_string(self.strings.offset(symbol.name as usize), name.len() + 1)
                    .is_ok_and(|found| found == name)
        })
    }

    /// Looks up a name in `.gnu.hash`: bucket count, first hashed symbol, bloom words, shift; bloom; buckets; chains.
    fn find_by_gnu_hash<M: Memory + ?Sized>(&self, memory: &M, table: Address, name: &str) -> Option<u32> {
        let wanted = name.bytes().fold(5381u32, |hash, byte| hash.wrapping_mul(33).wrapping_add(u32::from(byte)));
        let (buckets, first) = (memory.read_u32(table).ok()?, memory.read_u32(table.offset(4)).ok()?);
        let bloom_words = memory.read_u32(table.offset(8)).ok()?;
        if buckets == 0 {
            return None;
        }
        let bucket_table = table.0.checked_add(16 + u64::from(bloom_words) * 8)?;
        let bucket = bucket_table + u64::from(wanted % buckets) * 4;
        let chains = bucket_table.checked_add(u64::from(buckets) * 4)?;
        let start = memory.read_u32(Address(bucket)).ok()?;
        if start < first {
            return None;
        }
        for step in 0..CHAIN_MAX {
            let index = start.checked_add(step)?;
            let hash = memory.read_u32(Address(chains + u64::from(index - first) * 4)).ok()?;
            if hash | 1 == wanted | 1 && self.is(memory, index, name) {
                return Some(index);
            }
            if hash & 1 == 1 {
                break;
            }
        }
        None
    }

    /// Looks up a name in `.hash`: bucket count, chain count; buckets; chains.
    fn find_by_hash<M: Memory + ?Sized>(&self, memory: &M, table: Address, name: &str) -> Option<u32> {
        let wanted = name.bytes().fold(0u32, |hash, byte| {
            let hash = (hash << 4).wrapping_add(u32::from(byte));
            let high = hash & 0xf000_0000;
            (hash ^ (high >> 24)) & !high
        });
        let (buckets, chains) = (memory.read_u32(table).ok()?, memory.read_u32(table.offset(4)).ok()?);
        if buckets == 0 {
            return None;
        }
        let word = |index: u64| memory.read_u32(Address(table.0.checked_add(8 + index * 4)?)).ok();
        let mut index = word(u64::from(wanted % buckets))?;
        for _ in 0..chains.min(CHAIN_MAX) {
            if index == 0 {
                return None;
            }
            if self.is(memory, index, name) {
                return Some(index);
            }
            index = word(u64::from(buckets) + u64::from(index))?;
        }
        None
    }
}

/// Bytes of an ELF header and the program headers, which follow it in every file that a linker made.
fn headers_length(bytes: &[u8]) -> Option<usize> {
    let header = header_of(bytes)?;
    let end = header.e_phoff.checked_add(u64::from(header.e_phnum) * PROGRAM_HEADER_SIZE as u64)?;
    // patchelf moves the program headers; then only the ELF header is compared.
    Some(if end <= PAGE { end as usize } else { HEADER_SIZE })
}

/// The notes in `data`, up to the first damaged one.
pub(super) fn notes(data: &[u8]) -> impl Iterator<Item = goblin::elf::note::Note<'_>> {
    NoteDataIterator { data, size: data.len(), offset: 0, ctx: (4, CONTEXT) }.map_while(Result::ok)
}

/// Whether these notes contain a build id.
fn has_build_id(data: &[u8]) -> bool {
    notes(data).any(|note| note.n_type == NT_GNU_BUILD_ID && note.name == "GNU" && !note.desc.is_empty())
}

/// Why the file behind an ELF image is not available.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file cannot be read.
    #[error("cannot read the file {path} of the process: {source}", path = path.display())]
    File {
        /// Its path in the target's namespace.
        path: PathBuf,
        /// The error of the file system.
        source: std::io::Error,
    },
    /// The path leads to another file now: the original was deleted or upgraded since the process started.
    #[error("the file {path} is not the one that the process has mapped, and is not used", path = path.display())]
    Replaced {
        /// Its path in the target's namespace.
        path: PathBuf,
    },
}

/// Whether a file is the one that was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likeness {
    /// The build ids are equal.
    Same,
    /// It is another file.
    Other,
    /// The headers are equal and there is no build id, or the headers cannot be read.
    Unknown,
}

/// An ELF file with what is not mapped: local symbols and sections.
pub struct ElfFile {
    bytes: Vec<u8>,
}

impl ElfFile {
    /// Reads the file behind an ELF image: the target's executable through `/proc/PID/exe` (also if deleted), others
    /// through `/proc/PID/root` (also in a container) or `/proc/PID/map_files` (also if deleted; root only). A file
    /// that replaced it since is not used: see [`OpenError::Replaced`].
    ///
    /// # Errors
    /// No file can be read, or none is the mapped one.
    pub fn open<M: Memory + ?Sized>(pid: i32, memory: &M, elf: &LoadedElf) -> Result<ElfFile, OpenError> {
        let mapped = procfs::mapped_file(pid, elf.header.0);
        let exe = procfs::exe(pid).is_some_and(|exe| exe == elf.path);
        let inside = elf.path.strip_prefix("/").unwrap_or(&elf.path);
        let paths = [
            exe.then(|| PathBuf::from(format!("/proc/{pid}/exe"))),
            Some(Path::new(&format!("/proc/{pid}/root")).join(inside)),
            mapped.as_ref().map(|(_, range)| PathBuf::from(format!("/proc/{pid}/map_files/{range}"))),
        ];
        let mut error = None;
        for path in paths.into_iter().flatten() {
            match ElfFile::open_path(&path) {
                Ok((file, id)) if file.is_mapped(memory, elf, id, mapped.as_ref().map(|(id, _)| *id)) => {
                    return Ok(file);
                }
                Ok(_) => error = Some(OpenError::Replaced { path: elf.path.clone() }),
                // That another file is there is more informative than a further failure.
                Err(source) => _ = error.get_or_insert(OpenError::File { path: elf.path.clone(), source }),
            }
        }
        let error = error.unwrap_or(OpenError::Replaced { path: elf.path.clone() });
        log::debug!("{error}");
        Err(error)
    }

    /// Reads any ELF file of this machine.
    ///
    /// # Errors
    /// Those of the file system; `InvalidData` if it is not a 64-bit ELF file.
    pub fn read(path: &Path) -> std::io::Result<ElfFile> {
        let (file, _) = ElfFile::open_path(path)?;
        if header_of(&file.bytes).is_some() { Ok(file) } else { Err(std::io::ErrorKind::InvalidData.into()) }
    }

    fn open_path(path: &Path) -> std::io::Result<(ElfFile, FileId)> {
        let file = open_file(path)?;
        let metadata = file.metadata()?;
        if metadata.len() > FILE_SIZE_MAX {
            return Err(std::io::Error::from(std::io::ErrorKind::InvalidData));
        }
        let mut bytes = Vec::new();
        file.take(FILE_SIZE_MAX).read_to_end(&mut bytes)?;
        let device = (nix::sys::stat::major(metadata.dev()), nix::sys::stat::minor(metadata.dev()));
        Ok((ElfFile { bytes }, FileId { device, inode: metadata.ino() }))
    }

    /// Whether this file is the mapped one. Its headers must equal those in memory; then the build id decides, or if
    /// there is none, device and inode. (The device alone is not enough: overlay file systems and btrfs report
    /// different devices in `/proc/PID/maps` and `stat`.)
    fn is_mapped<M: Memory + ?Sized>(&self, memory: &M, elf: &LoadedElf, id: FileId, mapped: Option<FileId>) -> bool {
        match self.likeness(memory, elf) {
            Likeness::Same => true,
            Likeness::Other => false,
            Likeness::Unknown => mapped == Some(id),
        }
    }

    /// Whether this file is the one that `elf` was loaded from, judging by headers and build id.
    pub fn likeness<M: Memory + ?Sized>(&self, memory: &M, elf: &LoadedElf) -> Likeness {
        let Some(headers) = headers_length(&self.bytes).and_then(|length| self.bytes.get(..length)) else {
            return Likeness::Other;
        };
        let mut in_memory = vec![0; headers.len()];
        match memory.read_exact_at(elf.header, &mut in_memory) {
            Ok(()) if in_memory != headers => return Likeness::Other,
            Ok(()) => {}
            Err(_) => return Likeness::Unknown,
        }
        let mut likeness = Likeness::Unknown;
        for (range, address) in self.note_ranges() {
            let Some(notes) = self.bytes.get(range) else { return Likeness::Other };
            let mut in_memory = vec![0; notes.len()];
            match memory.read_exact_at(Address(address.wrapping_add(elf.bias)), &mut in_memory) {
                Ok(()) if in_memory != notes => return Likeness::Other,
                Ok(()) if has_build_id(notes) => likeness = Likeness::Same,
                _ => {}
            }
        }
        likeness
    }

    /// Whether these memory ranges, each with its file offset, can be mappings of this file: each is in a loadable
    /// segment, and all have the same bias.
    pub fn lies_as(&self, stretches: &[(Range<Address>, u64)]) -> bool {
        let loads: Vec<ProgramHeader> = self.program_headers().filter(|header| header.p_type == PT_LOAD).collect();
        let biases = |range: &Range<Address>, offset: u64| -> Vec<u64> {
            let holds = |load: &&ProgramHeader| {
                let start = load.p_offset / PAGE * PAGE;
                let end = load.p_offset.checked_add(load.p_memsz).and_then(|end| end.checked_next_multiple_of(PAGE));
                start <= offset && end.is_some_and(|end| offset < end)
            };
            let bias = |load: &ProgramHeader| {
                (range.start.0.wrapping_sub(offset)).wrapping_sub(load.p_vaddr.wrapping_sub(load.p_offset))
            };
            // The loader maps the whole file first and the segments over it, so parts between two segments may remain.
            loads.first().into_iter().chain(loads.iter().filter(holds)).map(bias).collect()
        };
        let Some((first, rest)) = stretches.split_first() else { return false };
        let of_first = biases(&first.0, first.1);
        of_first.into_iter().any(|bias| rest.iter().all(|(range, offset)| biases(range, *offset).contains(&bias)))
    }

    fn program_headers(&self) -> impl Iterator<Item = ProgramHeader> {
        let table = || {
            let header = header_of(&self.bytes)?;
            let start = usize::try_from(header.e_phoff).ok()?;
            ProgramHeader::parse(&self.bytes, start, usize::from(header.e_phnum), CONTEXT).ok()
        };
        table().unwrap_or_default().into_iter()
    }

    /// The note segments, which nobody writes to: range in the file, and address.
    fn note_ranges(&self) -> impl Iterator<Item = (Range<usize>, u64)> {
        self.program_headers().filter(|header| header.p_type == PT_NOTE).filter_map(|header| {
            let start = usize::try_from(header.p_offset).ok()?;
            let end = start.checked_add(usize::try_from(header.p_memsz).ok().filter(|&size| size <= NOTES_MAX)?)?;
            Some((start..end, header.p_vaddr))
        })
    }

    /// A symbol of `.symtab` or `.dynsym` at its address in the file; add the image's bias.
    pub fn symbol(&self, name: &str) -> Option<Symbol> {
        let elf = Elf::parse(&self.bytes).ok()?;
        let in_table = |symbols: &goblin::elf::Symtab<'_>, names: &goblin::strtab::Strtab<'_>| {
            symbols
                .iter()
                .find(|symbol| symbol.st_shndx != 0 && names.get_at(symbol.st_name) == Some(name))
                .map(|symbol| Symbol { address: Address(symbol.st_value), size: symbol.st_size })
        };
        in_table(&elf.syms, &elf.strtab).or_else(|| in_table(&elf.dynsyms, &elf.dynstrtab))
    }

    /// The name of the symbol of `.symtab` or `.dynsym` in which an address of the file lies, and the offset in it.
    pub fn symbol_at(&self, address: u64) -> Option<(String, u64)> {
        let elf = Elf::parse(&self.bytes).ok()?;
        let in_table = |symbols: &goblin::elf::Symtab<'_>, names: &goblin::strtab::Strtab<'_>| {
            let symbol = symbols.iter().find(|symbol| {
                symbol.st_shndx != 0 && address.checked_sub(symbol.st_value).is_some_and(|at| at < symbol.st_size)
            })?;
            Some((names.get_at(symbol.st_name)?.to_owned(), address - symbol.st_value))
        };
        in_table(&elf.syms, &elf.strtab).or_else(|| in_table(&elf.dynsyms, &elf.dynstrtab))
    }

    /// A section at its address in the file; add the image's bias.
    pub fn section(&self, name: &str) -> Option<Symbol> {
        find_section(name, &|offset, length| {
            let start = usize::try_from(offset).ok()?;
            Some(self.bytes.get(start..start.checked_add(length)?)?.to_vec())
        })
    }
}

/// Whether the ELF file at `path` has a section with this name. Takes three short reads, whatever the file's size.
pub fn has_section(path: &Path, name: &str) -> bool {
    let Ok(file) = open_file(path) else { return false };
    let read = |offset: u64, length: usize| {
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset).ok().map(|()| bytes)
    };
    find_section(name, &read).is_some()
}

/// Finds a section by name in a file. `read` returns bytes at an offset.
fn find_section(name: &str, read: &dyn Fn(u64, usize) -> Option<Vec<u8>>) -> Option<Symbol> {
    /// Upper bound on section names, bytes; real files have some hundred.
    const NAMES_MAX: u64 = 1 << 20;
    let header = header_of(&read(0, HEADER_SIZE)?)?;
    let count = usize::from(header.e_shnum);
    if usize::from(header.e_shentsize) != SECTION_HEADER_SIZE || count == 0 {
        return None;
    }
    let table = read(header.e_shoff, count * SECTION_HEADER_SIZE)?;
    let sections = SectionHeader::parse_from(&table, 0, count, CONTEXT).ok()?;
    let names = sections.get(usize::from(header.e_shstrndx))?;
    let names = read(names.sh_offset, usize::try_from(names.sh_size.min(NAMES_MAX)).ok()?)?;
    let is_wanted = |section: &&SectionHeader| {
        let rest = names.get(section.sh_name..).and_then(|rest| rest.strip_prefix(name.as_bytes()));
        rest.is_some_and(|rest| rest.first() == Some(&0))
    };
    let section = sections.iter().find(is_wanted)?;
    Some(Symbol { address: Address(section.sh_addr), size: section.sh_size })
}

/// Opens a regular file. The path may be the choice of a target, so opening does not block on a pipe.
///
/// # Errors
/// Those of the file system; `InvalidInput` if it is not a regular file.
pub fn open_file(path: &Path) -> std::io::Result<std::fs::File> {
    let file = std::fs::File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is not a regular file")),
    }
}

/// Whether the file at `path` is a 32-bit ELF file. `None` if it cannot be read or is not ELF.
pub fn is_32_bit(path: &Path) -> Option<bool> {
    let mut header = [0; 16];
    std::fs::File::open(path).ok()?.read_exact(&mut header).ok()?;
    header.starts_with(ELFMAG).then(|| header[EI_CLASS] != ELFCLASS64)
}

#[cfg(test)]
#[path = "elf_tests.rs"]
mod tests;
