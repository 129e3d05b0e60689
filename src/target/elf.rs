//! What the ELF files mapped into a target say: where they are loaded, what they export, where their data lies.
//!
//! Everything that the loader maps is read from the target's memory, not from a file: a deleted, replaced or
//! container-bound file makes no difference. Only `.symtab` and the section headers, which are never mapped, come
//! from the file, through `/proc/PID/exe` or `/proc/PID/root`.

use std::ops::Range;
use std::path::{Path, PathBuf};

use goblin::elf::dynamic::{DT_GNU_HASH, DT_HASH, DT_STRTAB, DT_SYMTAB};
use goblin::elf::header::{EI_CLASS, ELFCLASS32, ELFMAG, ET_DYN, ET_EXEC};
use goblin::elf::program_header::{PF_W, PF_X, PT_DYNAMIC, PT_LOAD};

use super::address::Address;
use super::memory::{Memory, MemoryExt, u32_at, u64_at};

/// Size of an ELF64 header and of one program header (`elf.h`).
const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: usize = 56;
/// Program headers accepted: real files have about 12.
const PROGRAM_HEADERS_MAX: u16 = 256;
/// Dynamic entries accepted: real files have about 40.
const DYNAMIC_ENTRIES_MAX: u64 = 1024;
/// Symbols accepted in one hash chain. A libpython exports about 2,500 symbols in 1,000 chains.
const CHAIN_MAX: u32 = 1 << 16;
/// Size of an ELF64 symbol.
const SYMBOL_SIZE: u64 = 24;
const PAGE: u64 = 4096;
/// Largest file read whole for its section headers; a debug build of libpython has 40 MiB.
const FILE_SIZE_MAX: u64 = 1 << 30;

/// One loadable segment.
#[derive(Clone, Debug)]
pub struct LoadSegment {
    /// Where it lies in the target, bss included.
    pub range: Range<Address>,
    /// Whether the target may write it.
    pub writable: bool,
    /// Whether it is code.
    pub executable: bool,
}

/// An ELF file as the loader placed it in the target.
#[derive(Clone, Debug)]
pub struct LoadedElf {
    /// Its path in the target's mount namespace.
    pub path: PathBuf,
    /// What to add to an address of the file to get one of the target.
    pub bias: u64,
    /// The loadable segments, in file order.
    pub segments: Vec<LoadSegment>,
    dynamic: Option<Address>,
}

/// A symbol found in a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Where it stands in the target.
    pub address: Address,
    /// Its size in bytes as the file states it; may be 0.
    pub size: u64,
}

impl LoadedElf {
    /// All ELF files of a target, in order of address. Mappings that are not ELF files, or whose headers make no
    /// sense, are left out.
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

    fn at<M: Memory + ?Sized>(memory: &M, start: Address, path: &Path) -> Option<LoadedElf> {
        let mut header = [0; HEADER_SIZE];
        memory.read_exact_at(start, &mut header).ok()?;
        if !header.starts_with(ELFMAG) || header[EI_CLASS] == ELFCLASS32 {
            return None;
        }
        let half = |offset: usize| u16::from_le_bytes([header[offset], header[offset + 1]]);
        let (kind, count) = (half(16), half(56));
        if !(kind == ET_DYN || kind == ET_EXEC)
            || count > PROGRAM_HEADERS_MAX
            || half(54) as usize != PROGRAM_HEADER_SIZE
        {
            return None;
        }
        let table = start.offset(usize::try_from(u64_at(&header, 32)?).ok()?);
        let bytes =
            memory.read_bytes(table, u64::from(count) * PROGRAM_HEADER_SIZE as u64, 1 << 16, "program headers").ok()?;
        let headers: Vec<ProgramHeader> =
            bytes.chunks_exact(PROGRAM_HEADER_SIZE).filter_map(ProgramHeader::parse).collect();
        let first = headers.iter().find(|header| header.kind == PT_LOAD && header.offset / PAGE == 0)?;
        let bias = if kind == ET_EXEC { 0 } else { start.0.wrapping_sub(first.address / PAGE * PAGE) };
        let place = |header: &ProgramHeader| Address(header.address.wrapping_add(bias));
        Some(LoadedElf {
            path: path.to_owned(),
            bias,
            segments: headers
                .iter()
                .filter(|header| header.kind == PT_LOAD)
                .map(|header| LoadSegment {
                    range: place(header)..Address(place(header).0.saturating_add(header.memory_size)),
                    writable: header.flags & PF_W != 0,
                    executable: header.flags & PF_X != 0,
                })
                .collect(),
            dynamic: headers.iter().find(|header| header.kind == PT_DYNAMIC).map(place),
        })
    }

    /// Data and bss as the target may write them: the writable segments, cut to what is mapped writable now (the
    /// loader takes write permission from relocated read-only data).
    pub fn writable_ranges<M: Memory + ?Sized>(&self, memory: &M) -> Vec<Range<Address>> {
        let mut ranges = Vec::new();
        for segment in self.segments.iter().filter(|segment| segment.writable) {
            for region in memory.regions().iter().filter(|region| region.writable && region.readable) {
                let start = segment.range.start.max(region.start);
                let end = segment.range.end.min(region.end);
                if start < end {
                    ranges.push(start..end);
                }
            }
        }
        ranges
    }

    /// The address range from the first segment to the end of the last.
    pub fn span(&self) -> Range<Address> {
        let start = self.segments.iter().map(|segment| segment.range.start).min().unwrap_or_default();
        let end = self.segments.iter().map(|segment| segment.range.end).max().unwrap_or_default();
        start..end
    }

    /// An exported, defined symbol, looked up in the mapped hash table as the loader would.
    pub fn dynamic_symbol<M: Memory + ?Sized>(&self, memory: &M, name: &str) -> Option<Symbol> {
        let tables = DynamicTables::read(memory, self)?;
        let index = match tables.gnu_hash {
            Some(table) => tables.find_by_gnu_hash(memory, table, name),
            None => tables.find_by_hash(memory, tables.hash?, name),
        }?;
        let symbol = tables.symbol(memory, index)?;
        Some(Symbol { address: Address(symbol.value.wrapping_add(self.bias)), size: symbol.size })
    }
}

struct ProgramHeader {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    memory_size: u64,
}

impl ProgramHeader {
    fn parse(bytes: &[u8]) -> Option<ProgramHeader> {
        Some(ProgramHeader {
            kind: u32_at(bytes, 0)?,
            flags: u32_at(bytes, 4)?,
            offset: u64_at(bytes, 8)?,
            address: u64_at(bytes, 16)?,
            memory_size: u64_at(bytes, 40)?,
        })
    }
}

struct DynamicTables {
    symbols: Address,
    strings: Address,
    gnu_hash: Option<Address>,
    hash: Option<Address>,
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
        // glibc relocates these pointers in place, musl leaves them as in the file.
        let place = |value: u64| if value >= lowest.0 { Address(value) } else { Address(value.wrapping_add(elf.bias)) };
        let (mut symbols, mut strings, mut gnu_hash, mut hash) = (None, None, None, None);
        for index in 0..DYNAMIC_ENTRIES_MAX {
            let entry = Address(start.0.checked_add(index * 16)?);
            let (tag, value) = (memory.read_u64(entry).ok()?, memory.read_u64(entry.offset(8)).ok()?);
            match tag {
                0 => break,
                DT_SYMTAB => symbols = Some(place(value)),
                DT_STRTAB => strings = Some(place(value)),
                DT_GNU_HASH => gnu_hash = Some(place(value)),
                DT_HASH => hash = Some(place(value)),
                _ => {}
            }
        }
        Some(DynamicTables { symbols: symbols?, strings: strings?, gnu_hash, hash })
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

    /// Whether symbol `index` is defined here and bears that name.
    fn is<M: Memory + ?Sized>(&self, memory: &M, index: u32, name: &str) -> bool {
        self.symbol(memory, index).is_some_and(|symbol| {
            symbol.section != 0
                && memory
                    .read_c_string(self.strings.offset(symbol.name as usize), name.len() + 1)
                    .is_ok_and(|found| found == name)
        })
    }

    /// The layout of `.gnu.hash`: bucket count, first hashed symbol, bloom words, shift; bloom; buckets; chains.
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

    /// The layout of `.hash`: bucket count, chain count; buckets; chains.
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

/// What only the file tells: local symbols and sections.
pub struct ElfFile {
    bytes: Vec<u8>,
}

impl ElfFile {
    /// Reads the file behind a loaded ELF: the target's own executable through `/proc/PID/exe` (which works when it
    /// was deleted), everything else through `/proc/PID/root` (which works when the target lives in a container).
    ///
    /// # Errors
    /// As the file system says; a file of another kind or of absurd size is `InvalidData`.
    pub fn open(pid: i32, elf: &LoadedElf) -> std::io::Result<ElfFile> {
        let exe = PathBuf::from(format!("/proc/{pid}/exe"));
        let named = std::fs::read_link(&exe)?;
        let named = named.to_string_lossy();
        let is_exe = Path::new(named.strip_suffix(" (deleted)").unwrap_or(&named)) == elf.path;
        let path = if is_exe {
            exe
        } else {
            let inside = elf.path.strip_prefix("/").unwrap_or(&elf.path);
            Path::new(&format!("/proc/{pid}/root")).join(inside)
        };
        let metadata = std::fs::metadata(&path)?;
        if !metadata.is_file() || metadata.len() > FILE_SIZE_MAX {
            return Err(std::io::Error::from(std::io::ErrorKind::InvalidData));
        }
        Ok(ElfFile { bytes: std::fs::read(&path)? })
    }

    /// A symbol of `.symtab` or `.dynsym`, at its address in the file; add the bias of the loaded one.
    pub fn symbol(&self, name: &str) -> Option<Symbol> {
        let elf = goblin::elf::Elf::parse(&self.bytes).ok()?;
        let in_table = |symbols: &goblin::elf::Symtab<'_>, names: &goblin::strtab::Strtab<'_>| {
            symbols
                .iter()
                .find(|symbol| symbol.st_shndx != 0 && names.get_at(symbol.st_name) == Some(name))
                .map(|symbol| Symbol { address: Address(symbol.st_value), size: symbol.st_size })
        };
        in_table(&elf.syms, &elf.strtab).or_else(|| in_table(&elf.dynsyms, &elf.dynstrtab))
    }

    /// A section, at its address in the file; add the bias of the loaded one.
    pub fn section(&self, name: &str) -> Option<Symbol> {
        let elf = goblin::elf::Elf::parse(&self.bytes).ok()?;
        elf.section_headers
            .iter()
            .find(|section| elf.shdr_strtab.get_at(section.sh_name) == Some(name))
            .map(|section| Symbol { address: Address(section.sh_addr), size: section.sh_size })
    }
}

/// Whether the file at `path` is a 32-bit ELF. `None` where it cannot be read or is no ELF.
pub fn is_32_bit(path: &Path) -> Option<bool> {
    use std::io::Read;
    let mut header = [0; 16];
    std::fs::File::open(path).ok()?.read_exact(&mut header).ok()?;
    header.starts_with(ELFMAG).then(|| header[EI_CLASS] == ELFCLASS32)
}
