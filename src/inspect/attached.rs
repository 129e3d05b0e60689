//! A proved interpreter in some memory, from which every answer starts.
//!
//! This file alone knows the order: mapped ELF images, the interpreter and its proved layout, the survey of where
//! objects may be, the types.

use crate::heap::survey::Survey;
use crate::process::cache::CachedMemory;
use crate::process::elf::{ElfFile, LoadedElf};
use crate::process::memory::Memory;
use crate::python::attach::{self, AttachError, Load};
use crate::python::interpreter::Python;
use crate::python::layout::Layout;
use crate::python::proof_error::ProofError;
use crate::python::types::TypeTable;

/// A proved interpreter and the mapped ELF images.
#[derive(Debug)]
pub struct Attached {
    /// The mapped ELF files, in order of address.
    pub elfs: Vec<LoadedElf>,
    /// The interpreter, its layout proved.
    pub python: Python,
}

/// Opens the file behind an ELF image, if it is available and the same.
pub type OpenElf<'a, M> = dyn Fn(&CachedMemory<'_, M>, &LoadedElf) -> Option<ElfFile> + 'a;

impl Attached {
    /// Finds and proves the Python in some memory. Takes milliseconds.
    ///
    /// # Errors
    /// [`AttachError`]: no CPython, one of an unknown version, one whose layout is not proved, unreadable memory.
    pub fn new<M: Memory + ?Sized>(memory: &M, open: &OpenElf<'_, M>) -> Result<Attached, AttachError> {
        Attached::with_layouts(memory, open, &|_, candidates| candidates.iter().map(Layout::load).collect())
    }

    /// As [`Attached::new`], with layouts made by `load`. Tests use it to pass wrong layouts.
    ///
    /// # Errors
    /// As [`Attached::new`].
    pub fn with_layouts<M: Memory + ?Sized>(
        memory: &M,
        open: &OpenElf<'_, M>,
        load: &Load<'_>,
    ) -> Result<Attached, AttachError> {
        let cached = CachedMemory::new(memory);
        let elfs = LoadedElf::all(&cached);
        let python = attach::attach_with(&cached, &elfs, &|elf| open(&cached, elf), load)?;
        log::debug!("attached with {} reads", cached.reads());
        Ok(Attached { elfs, python })
    }

    /// Finds the memory that may hold objects. Takes milliseconds, or one read per page of memory of unknown structure.
    ///
    /// # Errors
    /// The memory cannot be read, or what is found contradicts the layout.
    pub fn survey<M: Memory + ?Sized>(&self, memory: &M) -> Result<Survey, ProofError> {
        Survey::new(memory, &self.python, &self.elfs)
    }

    /// Reads the types.
    ///
    /// # Errors
    /// The memory cannot be read, or what is found contradicts the layout.
    pub fn types<M: Memory + ?Sized>(&self, memory: &M, survey: &Survey) -> Result<TypeTable, ProofError> {
        TypeTable::build(&CachedMemory::new(memory), &self.python, &survey.plan.statics())
    }
}
