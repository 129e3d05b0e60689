//! Finds the files whose content a core leaves out, and checks that they are the same files.
//!
//! A file is used if its build id equals the one in the core or, if the core lacks it, if its segments match the core's
//! mappings. Only ELF files are read: a core may name any path, and must not make us disclose other files.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::process::address::PAGE;
use crate::process::elf::{ElfFile, Likeness, LoadedElf};
use crate::process::memory::Memory;

use super::notes::MappedFile;

/// Reported for a file that is neither a program nor a library.
const NO_ELF: &str = "it is not an ELF file";

/// Where to look for files.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The program.
    pub executable: Option<PathBuf>,
    /// The root directory of the system that the core came from. `None`: this system.
    pub sysroot: Option<PathBuf>,
}

/// A file that replaces what a core left out.
#[derive(Debug)]
pub struct BackingFile {
    /// Its path in the core.
    pub path: PathBuf,
    /// Its path on this system.
    pub found: PathBuf,
    /// Whether its build id or headers equal those in the core; otherwise only its segments match.
    pub is_proved: bool,
    file: File,
    length: u64,
}

/// A file that could not be used.
#[derive(Clone, Debug)]
pub struct Missing {
    /// Its path in the core.
    pub path: PathBuf,
    /// The reason.
    pub why: String,
}

/// The files used for a core.
#[derive(Debug, Default)]
pub struct BackingFiles {
    files: Vec<BackingFile>,
}

impl BackingFiles {
    /// Finds the files that back `needed` mappings and reports missing ones. `dumped` is the content of the core
    /// itself.
    pub fn find<M: Memory + ?Sized>(
        dumped: &M,
        mapped: &[MappedFile],
        executable: Option<&Path>,
        places: &Places,
        needed: impl Fn(&[&MappedFile]) -> bool,
    ) -> (BackingFiles, Vec<Missing>) {
        let (mut files, mut missing): (Vec<BackingFile>, Vec<Missing>) = (Vec::new(), Vec::new());
        for mapping in mapped {
            let path = &mapping.path;
            let is_done = files.iter().any(|file| file.path == *path) || missing.iter().any(|file| file.path == *path);
            if is_done {
                continue;
            }
            let of_file: Vec<&MappedFile> = mapped.iter().filter(|other| other.path == *path).collect();
            if !needed(&of_file) {
                continue;
            }
            let (mut why, mut is_data) = (None, false);
            let found = candidates(path, executable, places).find_map(|candidate| {
                match open(dumped, &of_file, &candidate) {
                    Ok((file, length, is_proved)) => {
                        Some(BackingFile { path: path.clone(), found: candidate, is_proved, file, length })
                    }
                    // Mapped data such as locales: gdb does not record which mappings are code.
                    Err(error) if error == NO_ELF => {
                        is_data = true;
                        None
                    }
                    Err(error) => {
                        // The first failure is the most informative one.
                        why.get_or_insert(format!("{}: {error}", candidate.display()));
                        None
                    }
                }
            });
            match found {
                Some(file) => files.push(file),
                None if is_data && why.is_none() => {}
                None => missing.push(Missing { path: path.clone(), why: why.unwrap_or_default() }),
            }
        }
        (BackingFiles { files }, missing)
    }

    /// All files in order of address.
    pub fn files(&self) -> &[BackingFile] {
        &self.files
    }

    /// The index of a file.
    pub fn index(&self, path: &Path) -> Option<usize> {
        self.files.iter().position(|file| file.path == path)
    }

    /// Fills `buffer` from an offset in a file. The last page is padded with zeros, as in a mapping. `false` if nothing
    /// is there.
    pub fn read(&self, file: usize, offset: u64, buffer: &mut [u8]) -> bool {
        let Some(file) = self.files.get(file) else { return false };
        let end = offset.saturating_add(buffer.len() as u64);
        if end > file.length.next_multiple_of(PAGE) {
            return false;
        }
        let there = usize::try_from(file.length.saturating_sub(offset)).unwrap_or(usize::MAX).min(buffer.len());
        let (bytes, zeros) = buffer.split_at_mut(there);
        zeros.fill(0);
        file.file.read_exact_at(bytes, offset).is_ok()
    }
}

/// Paths where a file may be, best first. The given program replaces the started one and any with its name, because a
/// loader may have been started that loaded the program.
fn candidates(path: &Path, executable: Option<&Path>, places: &Places) -> impl Iterator<Item = PathBuf> {
    let given =
        places.executable.clone().filter(|given| executable == Some(path) || given.file_name() == path.file_name());
    let there = match &places.sysroot {
        // gdb writes paths as it sees them: for a container they may already include its root.
        Some(root) if path.starts_with(root) => path.to_owned(),
        Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
        None => path.to_owned(),
    };
    given.into_iter().chain(std::iter::once(there))
}

/// Opens a candidate. The flag tells whether it is proved to be the same file.
fn open<M: Memory + ?Sized>(dumped: &M, mapped: &[&MappedFile], path: &Path) -> Result<(File, u64, bool), String> {
    let elf = ElfFile::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => NO_ELF.to_owned(),
        _ => error.to_string(),
    })?;
    let stretches: Vec<_> = mapped.iter().map(|file| (file.range.clone(), file.offset)).collect();
    if !elf.lies_as(&stretches) {
        return Err("it is another build: its segments differ".to_owned());
    }
    let header = mapped.iter().find(|file| file.offset == 0);
    let loaded = header.and_then(|file| LoadedElf::at(dumped, file.range.start, &file.path));
    let likeness = loaded.map_or(Likeness::Unknown, |loaded| elf.likeness(dumped, &loaded));
    if likeness == Likeness::Other {
        return Err("it is another build: its build id or its headers differ".to_owned());
    }
    let file = File::open(path).map_err(|error| error.to_string())?;
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    Ok((file, length, likeness == Likeness::Same))
}
