//! Reads the ELF headers of a core file, and tells what a file is if it is not a core.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use goblin::elf::header::{EI_CLASS, EI_DATA, ELFCLASS32, ELFDATA2LSB, ELFMAG, EM_X86_64, ET_CORE};
use goblin::elf::program_header::PT_LOAD;
use goblin::elf::{Elf, ProgramHeader, SectionHeader};

use crate::process::elf::{CONTEXT, HEADER_SIZE, PROGRAM_HEADER_SIZE};

/// A count of program headers that means: the count is in the first section header (`PN_XNUM`).
const COUNT_ELSEWHERE: u64 = 0xffff;
/// Upper bound on program headers; by default the kernel allows a process 65,530 mappings.
const PROGRAM_HEADERS_MAX: u64 = 1 << 22;

/// Reported for a core whose program headers are invalid.
const INVALID: &str = "damaged: its program headers are invalid";

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
        let other = "of another processor; heapsonde reads cores of Linux x86-64";
        if header[EI_DATA] != ELFDATA2LSB {
            return Ok(Err(other));
        }
        let Ok(header) = Elf::parse_header(&header) else { return Ok(Err(INVALID)) };
        if header.e_machine != EM_X86_64 {
            return Ok(Err(other));
        }
        if header.e_type != ET_CORE {
            return Ok(Err("a program or library, not a core"));
        }
        let mut count = u64::from(header.e_phnum);
        if count == COUNT_ELSEWHERE {
            let mut section = [0; 64];
            if file.read_exact_at(&mut section, header.e_shoff).is_err() {
                return Ok(Err("cut off: the number of its segments is at its end, which is missing"));
            }
            let section = SectionHeader::parse_from(&section, 0, 1, CONTEXT);
            count = section.ok().and_then(|sections| Some(u64::from(sections.first()?.sh_info))).unwrap_or(0);
        }
        if usize::from(header.e_phentsize) != PROGRAM_HEADER_SIZE || count == 0 || count > PROGRAM_HEADERS_MAX {
            return Ok(Err(INVALID));
        }
        let mut bytes = Vec::new();
        ReadAt { file, at: header.e_phoff }.take(count * PROGRAM_HEADER_SIZE as u64).read_to_end(&mut bytes)?;
        // In a truncated file, those that are there.
        let programs = ProgramHeader::parse(&bytes, 0, bytes.len() / PROGRAM_HEADER_SIZE, CONTEXT).unwrap_or_default();
        if !programs.iter().any(|program| program.p_type == PT_LOAD) {
            return Ok(Err("cut off before its memory begins"));
        }
        Ok(Ok(Headers { programs }))
    }
}
