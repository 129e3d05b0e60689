//! Finds `_PyRuntime`, the variable from which everything else in a CPython process is reached.
//!
//! There are three methods, cheapest first: the exported symbol, looked up in mapped memory as the loader does; the
//! section `.PyRuntime` (3.10+) or the local symbol in the file; and a bounded scan of the writable data of the
//! executable and its libraries. The result is a candidate; [`super::proof`] decides.

use std::fmt;
use std::path::Path;

use crate::process::Address;
use crate::process::elf::{self, ElfFile, LoadedElf};
use crate::process::memory::{Memory, MemoryExt, u64_at};

use super::layout::Layout;
use super::layout::select::Candidate;
use super::version::Version;

/// The first bytes of `_PyRuntime` since 3.13 (`Include/internal/pycore_debug_offsets.h`, `_Py_Debug_Cookie`).
pub const COOKIE: [u8; 8] = *b"xdebugpy";

/// Upper bound on the data scanned per file, bytes. Python's own data is below 2 MiB.
const SCAN_MAX: u64 = 64 << 20;

/// How the runtime was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundBy {
    /// The exported symbol.
    DynamicSymbol,
    /// The symbol in the file's `.symtab`.
    LocalSymbol,
    /// The section.
    Section,
    /// A scan of writable data.
    Scan,
}

impl fmt::Display for FoundBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FoundBy::DynamicSymbol => "by the exported symbol _PyRuntime",
            FoundBy::LocalSymbol => "by the symbol _PyRuntime in the file",
            FoundBy::Section => "by the section .PyRuntime",
            FoundBy::Scan => "by a scan of writable data",
        })
    }
}

/// Whether an executable contains an interpreter (3.10+), even if renamed and stripped. Takes three short reads of the
/// file.
pub fn is_in(executable: &Path) -> bool {
    elf::has_section(executable, ".PyRuntime")
}

/// A candidate address of `_PyRuntime`.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// Its address.
    pub address: Address,
    /// How it was found.
    pub way: FoundBy,
    /// The ELF image that contains it.
    pub elf: LoadedElf,
}

impl Runtime {
    /// The version as the interpreter states it in `Py_Version` (3.11+), if that symbol is exported.
    pub fn version_symbol<M: Memory + ?Sized>(&self, memory: &M) -> Option<Version> {
        let symbol = self.elf.dynamic_symbol(memory, "Py_Version")?;
        Version::from_hex(memory.read_u64(symbol.address).ok()?)
    }
}

/// Finds the runtime, or all candidates. `open` opens the file behind an ELF image, if it is available. Takes
/// microseconds if the symbol is exported; otherwise reads the data of a few files.
pub fn find<M: Memory + ?Sized>(
    memory: &M,
    elfs: &[LoadedElf],
    open: &dyn Fn(&LoadedElf) -> Option<ElfFile>,
) -> Vec<Runtime> {
    let exported: Vec<Runtime> = elfs
        .iter()
        .filter_map(|elf| {
            let symbol = elf.dynamic_symbol(memory, "_PyRuntime")?;
            Some(Runtime { address: symbol.address, way: FoundBy::DynamicSymbol, elf: elf.clone() })
        })
        .collect();
    if !exported.is_empty() {
        return exported;
    }
    let likely: Vec<&LoadedElf> =
        elfs.iter().enumerate().filter(|(index, elf)| *index == 0 || names_python(elf)).map(|(_, elf)| elf).collect();
    let in_files: Vec<Runtime> = likely
        .iter()
        .filter_map(|elf| {
            let file = open(elf)?;
            // The section contains nothing else, and finding it does not need a pass over all symbols.
            let (found, way) = match file.section(".PyRuntime") {
                Some(section) => (section, FoundBy::Section),
                None => (file.symbol("_PyRuntime")?, FoundBy::LocalSymbol),
            };
            let address = Address(found.address.0.wrapping_add(elf.bias));
            Some(Runtime { address, way, elf: (*elf).clone() })
        })
        .collect();
    if !in_files.is_empty() {
        return in_files;
    }
    likely.iter().flat_map(|elf| scan(memory, elf)).collect()
}

/// Whether the file's name suggests Python. Only decides where to look first.
fn names_python(elf: &LoadedElf) -> bool {
    elf.path.file_name().is_some_and(|name| name.to_string_lossy().contains("python"))
}

/// Searches for the cookie (3.13+), then for an older runtime: two equal, consecutive pointers `interpreters.head` and
/// `.main` to an interpreter whose first thread points back to it.
fn scan<M: Memory + ?Sized>(memory: &M, elf: &LoadedElf) -> Vec<Runtime> {
    let mut found = Vec::new();
    let older = layouts_without_cookie();
    for range in elf.writable_ranges(memory) {
        let length = (range.end.0 - range.start.0).min(SCAN_MAX) as usize;
        let mut bytes = vec![0; length];
        if memory.read_exact_at(range.start, &mut bytes).is_err() {
            continue;
        }
        for offset in (0..length.saturating_sub(8)).step_by(8) {
            let address = range.start.offset(offset);
            let claims = bytes[offset..].starts_with(&COOKIE)
                || older.iter().any(|layout| looks_like_runtime(memory, layout, &bytes[offset..]));
            if claims {
                found.push(Runtime { address, way: FoundBy::Scan, elf: elf.clone() });
            }
        }
    }
    found
}

fn layouts_without_cookie() -> Vec<Layout> {
    Candidate::all().iter().filter(|candidate| !candidate.from.publishes_offsets()).map(Layout::load).collect()
}

fn looks_like_runtime<M: Memory + ?Sized>(memory: &M, layout: &Layout, bytes: &[u8]) -> bool {
    let runtime = &layout.runtime;
    let Some(head) = u64_at(bytes, runtime.interpreters_head).filter(|&head| head != 0 && head % 8 == 0) else {
        return false;
    };
    if u64_at(bytes, runtime.interpreters_main) != Some(head) || !memory.regions().contains(Address(head), 8) {
        return false;
    }
    let thread = memory.read_pointer(Address(head).offset(layout.interp.threads_head));
    thread
        .and_then(|thread| memory.read_pointer(thread.offset(layout.thread.interp)))
        .is_ok_and(|back| back == Address(head))
}
