//! The files whose bytes a core leaves out: where they are here, and whether they are the same ones.
//!
//! A file is used where its build id is the one in the core; where the core does not hold that, where its segments lie
//! as the core's mappings do. Only ELF files are read: a core names any path it likes, and might be made to let us read
//! another's secrets aloud.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::process::elf::{ElfFile, Likeness, LoadedElf};
use crate::process::memory::Memory;

use super::notes::MappedFile;

/// What is said of a file that is no program and no library.
const NO_ELF: &str = "it is not an ELF file";

/// Where files are looked for.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The program itself.
    pub executable: Option<PathBuf>,
    /// The root of the system that the core came from; `None`: this one.
    pub sysroot: Option<PathBuf>,
}

/// A file that stands in for what a core left out.
#[derive(Debug)]
pub struct BackingFile {
    /// Its path in the core.
    pub path: PathBuf,
    /// Where it is here.
    pub found: PathBuf,
    /// Whether its build id, or its headers, are those in the core; else only its segments' places are.
    pub is_proved: bool,
    file: File,
    length: u64,
}

/// A file that could not be used.
#[derive(Clone, Debug)]
pub struct Missing {
    /// Its path in the core.
    pub path: PathBuf,
    /// Why.
    pub why: String,
}

/// The files of a core.
#[derive(Debug, Default)]
pub struct BackingFiles {
    files: Vec<BackingFile>,
}

impl BackingFiles {
    /// Finds the files of whose mappings something is `needed`. Says which are missing. `dumped` is what the core
    /// itself holds.
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
                    // Mapped data, of locales say: gdb does not note which mappings are code.
                    Err(error) if error == NO_ELF => {
                        is_data = true;
                        None
                    }
                    Err(error) => {
                        // What is wrong with the first one says most.
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

    /// In order of address.
    pub fn files(&self) -> &[BackingFile] {
        &self.files
    }

    /// The number of a file.
    pub fn index(&self, path: &Path) -> Option<usize> {
        self.files.iter().position(|file| file.path == path)
    }

    /// Fills `buffer` from a place in a file. The last page is filled up with zeros, as a mapping's is. `false`: there
    /// is nothing.
    pub fn read(&self, file: usize, offset: u64, buffer: &mut [u8]) -> bool {
        const PAGE: u64 = 4096;
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

/// Where a file may be, best first. The program that was given stands in for the one that was started, and for any of
/// its name: a loader may have been started, and the program by it.
fn candidates(path: &Path, executable: Option<&Path>, places: &Places) -> impl Iterator<Item = PathBuf> {
    let given =
        places.executable.clone().filter(|given| executable == Some(path) || given.file_name() == path.file_name());
    let there = match &places.sysroot {
        // gdb writes paths as it sees them itself: those of a container may have its root in front already.
        Some(root) if path.starts_with(root) => path.to_owned(),
        Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
        None => path.to_owned(),
    };
    given.into_iter().chain(std::iter::once(there))
}

/// Opens a candidate. The flag: whether it is proved to be the same file.
fn open<M: Memory + ?Sized>(dumped: &M, mapped: &[&MappedFile], path: &Path) -> Result<(File, u64, bool), String> {
    let elf = ElfFile::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => NO_ELF.to_owned(),
        _ => error.to_string(),
    })?;
    let stretches: Vec<_> = mapped.iter().map(|file| (file.range.clone(), file.offset)).collect();
    if !elf.lies_as(&stretches) {
        return Err("it is another build: its segments lie otherwise".to_owned());
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
