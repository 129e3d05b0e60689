//! What is read: a process that lives, or the core that it left.

use std::io;
use std::ops::Range;

use super::address::Address;
use super::core::file::Core;
use super::elf::{ElfFile, LoadedElf};
use super::live::Process;
use super::memory::{Memory, Piece, ReadError};
use super::regions::RegionMap;

/// A target of either kind. Everything above reads it the same way.
pub enum Source {
    /// A process.
    Live(Process),
    /// A core.
    Core(Box<Core>),
}

impl Source {
    /// The process id. That of a core is what the process itself saw; 0 where it is not known.
    pub fn pid(&self) -> i32 {
        match self {
            Source::Live(process) => process.pid(),
            Source::Core(core) => core.pid(),
        }
    }

    /// Whether the program that was opened is still there; a core always is.
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

    /// The words of the command line; none where they cannot be had.
    pub fn arguments(&self) -> Vec<String> {
        match self {
            Source::Live(process) => {
                remoteprocess::Process::new(process.thread()).and_then(|process| process.cmdline()).unwrap_or_default()
            }
            Source::Core(core) => core.arguments(),
        }
    }

    /// The file behind a mapped ELF, where it can be had and is the same one.
    pub fn elf_file<M: Memory + ?Sized>(&self, memory: &M, elf: &LoadedElf) -> Option<ElfFile> {
        match self {
            Source::Live(process) => ElfFile::open(process.thread(), memory, elf).ok(),
            Source::Core(core) => core.elf_file(elf),
        }
    }

    /// Reads the map of regions again: a running target maps more as it goes. Nothing for a core.
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

    fn resident(&self, range: Range<Address>) -> Vec<Range<Address>> {
        match self {
            Source::Live(process) => process.resident(range),
            Source::Core(core) => core.resident(range),
        }
    }
}
