//! Reads the ELF headers of a core file, and tells what a file is if it is not a core.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use goblin::elf::header::{EI_CLASS, EI_DATA, ELFCLASS32, ELFDATA2LSB, ELFMAG, EM_X86_64, ET_CORE};
use goblin::elf::program_header::{PF_W, PT_LOAD};

use crate::process::memory::{u32_at, u64_at};

const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: usize = 56;
/// A count of program headers that means: the count is in the first section header (`PN_XNUM`).
const COUNT_ELSEWHERE: u64 = 0xffff;
/// Upper bound on program headers; by default the kernel allows a process 65,530 mappings.
const PROGRAM_HEADERS_MAX: u64 = 1 << 22;

/// Reads a file sequentially from an offset, without moving its position.
pub(super) struct ReadAt<'a> {
    pub(super) file: &'a File,
    pub(super) at: u64,
}

impl Read for ReadAt<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at = self.at.saturating_add(read as u64);
        Ok(read)
    }
}

/// A segment as described by its header.
pub(super) struct ProgramHeader {
    pub(super) kind: u32,
    pub(super) flags: u32,
    pub(super) offset: u64,
    pub(super) address: u64,
    pub(super) file_size: u64,
    pub(super) memory_size: u64,
}

impl ProgramHeader {
    pub(super) fn is_writable(&self) -> bool {
        self.flags & PF_W != 0
    }
}

/// The headers of a core.
pub(super) struct Headers {
    pub(super) programs: Vec<ProgramHeader>,
}

impl Headers {
    /// Reads the headers of a core. The inner error tells what the file is instead.
    pub(super) fn read(file: &File) -> io::Result<Result<Headers, &'static str>> {
        let mut header = [0; HEADER_SIZE];
        let mut filled = 0;
        while filled < header.len() {
            match file.read_at(&mut header[filled..], filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        let half = |offset: usize| u16::from_le_bytes([header[offset], header[offset + 1]]);
        if filled == 0 {
            return Ok(Err("empty"));
        }
        if !header.starts_with(ELFMAG) {
            return Ok(Err(
                "not a core: it is not an ELF file (gzip and zstd cores are unpacked, other packings are not)",
            ));
        }
        if filled < HEADER_SIZE {
            return Ok(Err("cut off within its header"));
        }
        if header[EI_CLASS] == ELFCLASS32 {
            return Ok(Err("of a 32-bit program; heapsonde reads cores of 64-bit ones"));
        }
        if header[EI_DATA] != ELFDATA2LSB || half(18) != EM_X86_64 {
            return Ok(Err("of another processor; heapsonde reads cores of Linux x86-64"));
        }
        if half(16) != ET_CORE {
            return Ok(Err("a program or library, not a core"));
        }
        let table = u64_at(&header, 32).unwrap_or(0);
        let mut count = u64::from(half(56));
        if count == COUNT_ELSEWHERE {
            let mut section = [0; 64];
            let at = u64_at(&header, 40).unwrap_or(0);
            if file.read_exact_at(&mut section, at).is_err() {
                return Ok(Err("cut off: the number of its segments is at its end, which is missing"));
            }
            count = u64::from(u32_at(&section, 44).unwrap_or(0));
        }
        if usize::from(half(54)) != PROGRAM_HEADER_SIZE || count == 0 || count > PROGRAM_HEADERS_MAX {
            return Ok(Err("damaged: its program headers are invalid"));
        }
        let mut bytes = Vec::new();
        ReadAt { file, at: table }.take(count * PROGRAM_HEADER_SIZE as u64).read_to_end(&mut bytes)?;
        let programs: Vec<ProgramHeader> = bytes
            .chunks_exact(PROGRAM_HEADER_SIZE)
            .filter_map(|bytes| {
                Some(ProgramHeader {
                    kind: u32_at(bytes, 0)?,
                    flags: u32_at(bytes, 4)?,
                    offset: u64_at(bytes, 8)?,
                    address: u64_at(bytes, 16)?,
                    file_size: u64_at(bytes, 32)?,
                    memory_size: u64_at(bytes, 40)?,
                })
            })
            .collect();
        if !programs.iter().any(|program| program.kind == PT_LOAD) {
            return Ok(Err("cut off before its memory begins"));
        }
        Ok(Ok(Headers { programs }))
    }
}
