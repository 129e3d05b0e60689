//! A source of target memory: a live process or a core file.

use std::io;
use std::ops::Range;

use super::address::Address;
use super::core::file::Core;
use super::elf::{ElfFile, LoadedElf};
use super::live::Process;
use super::memory::{Memory, Piece, ReadError};
use super::regions::RegionMap;

/// A process or a core; everything above reads both the same way.
pub enum Source {
    /// A process.
    Live(Process),
    /// A core.
    Core(Box<Core>),
}

impl Source {
    /// The process id. For a core the id in its own namespace; 0 if it is not known.
    pub fn pid(&self) -> i32 {
        match self {
            Source::Live(process) => process.pid(),
            Source::Core(core) => core.pid(),
        }
    }

    /// Whether the program that was opened is still running; always true for a core.
    pub fn is_alive(&self) -> bool {
        match self {
            Source::Live(process) => process.is_alive(),
            Source::Core(_) => true,
        }
    }

    /// The core, if it is one.
    pub fn core(&self) -> Option<&Core> {
        match self {
            Source::Live(_) => None,
            Source::Core(core) => Some(core),
        }
    }

    /// The words of the command line; empty if they are not available.
    pub fn arguments(&self) -> Vec<String> {
        match self {
            Source::Live(process) => {
                remoteprocess::Process::new(process.thread()).and_then(|process| process.cmdline()).unwrap_or_default()
            }
            Source::Core(core) => core.arguments(),
        }
    }

    /// The file behind an ELF image, if it is available and the same.
    pub fn elf_file<M: Memory + ?Sized>(&self, memory: &M, elf: &LoadedElf) -> Option<ElfFile> {
        match self {
            Source::Live(process) => ElfFile::open(process.thread(), memory, elf).ok(),
            Source::Core(core) => core.elf_file(elf),
        }
    }

    /// Reads the region map again: a running target maps more memory. Does nothing for a core.
    ///
    /// # Errors
    /// As [`Process::open`].
    pub fn refresh(&mut self) -> io::Result<()> {
        match self {
            Source::Live(process) => process.refresh(),
            Source::Core(_) => Ok(()),
        }
    }
}

impl Memory for Source {
    fn read_exact_at(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        match self {
            Source::Live(process) => process.read_exact_at(address, buffer),
            Source::Core(core) => core.read_exact_at(address, buffer),
        }
    }

    fn regions(&self) -> &RegionMap {
        match self {
            Source::Live(process) => process.regions(),
            Source::Core(core) => core.regions(),
        }
    }

    fn read_pieces(&self, pieces: &mut [Piece<'_>]) -> Result<(), ReadError> {
        match self {
            Source::Live(process) => process.read_pieces(pieces),
            Source::Core(core) => core.read_pieces(pieces),
        }
    }

    fn read_at_once(&self, pieces: &mut [Piece<'_>]) -> Result<(), ReadError> {
        match self {
            Source::Live(process) => process.read_at_once(pieces),
            Source::Core(core) => core.read_at_once(pieces),
        }
    }

    fn resident(&self, range: Range<Address>) -> Vec<Range<Address>> {
        match self {
            Source::Live(process) => process.resident(range),
            Source::Core(core) => core.resident(range),
        }
    }
}
