//! Reads file pages that a process has mapped but not touched from the file, not through the process.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashMap;

use super::address::{Address, PAGE};
use super::elf;
use super::procfs::FileId;
use super::regions::Region;

/// Upper bound on open files. Further files are read through the process.
const FILES_MAX: usize = 512;

/// The files that a process has mapped, opened on demand.
pub struct MappedFiles {
    folder: PathBuf,
    opened: Mutex<FxHashMap<FileId, Option<Arc<File>>>>,
}

impl MappedFiles {
    /// For the process with this directory in `/proc`. Opens nothing yet.
    pub fn new(folder: &Path) -> MappedFiles {
        MappedFiles { folder: folder.to_owned(), opened: Mutex::default() }
    }

    /// Reads from the file behind a region at an address in it; the rest of its last page is zeros. `None` if the file
    /// is not available.
    ///
    /// # Errors
    /// The file ends earlier or cannot be read.
    pub fn read(&self, region: &Region, address: Address, buffer: &mut [u8]) -> Option<io::Result<()>> {
        let file = self.file(region)?;
        let offset = address.0.checked_sub(region.start.0)?.checked_add(region.file_offset)?;
        Some(read_mapped(&file, offset, buffer))
    }

    fn file(&self, region: &Region) -> Option<Arc<File>> {
        let id = region.file?;
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if opened.len() >= FILES_MAX && !opened.contains_key(&id) {
            return None;
        }
        opened.entry(id).or_insert_with(|| self.open(region, id).map(Arc::new)).clone()
    }

    /// Opens the mapping's own file if permitted, otherwise the file at its path, if it is the same one.
    fn open(&self, region: &Region, id: FileId) -> Option<File> {
        let mapping = format!("map_files/{:x}-{:x}", region.start.0, region.end.0);
        let inside = region.path().map(|path| path.strip_prefix("/").unwrap_or(path));
        let path = inside.map(|inside| self.folder.join("root").join(inside));
        let by_mapping = elf::open_file(&self.folder.join(mapping)).ok();
        by_mapping.or_else(|| elf::open_file(&path?).ok().filter(|file| id_of(file) == Some(id)))
    }
}

fn id_of(file: &File) -> Option<FileId> {
    let metadata = file.metadata().ok()?;
    let device = (nix::sys::stat::major(metadata.dev()), nix::sys::stat::minor(metadata.dev()));
    Some(FileId { device, inode: metadata.ino() })
}

/// Reads as a mapping would show it.
fn read_mapped(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        let at = offset.checked_add(done as u64).ok_or(io::ErrorKind::InvalidInput)?;
        match file.read_at(&mut buffer[done..], at) {
            Ok(0) => {
                let end = file.metadata()?.len().next_multiple_of(PAGE);
                let wanted = at.saturating_add((buffer.len() - done) as u64);
                if wanted > end {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                buffer[done..].fill(0);
                return Ok(());
            }
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::regions::{Backing, RegionMap};

    #[test]
    fn a_mapping_shows_zeros_behind_the_end_of_its_file_and_nothing_beyond_that_page() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &[7; 5000]).unwrap();
        let mut bytes = [1; 16];
        read_mapped(&file, 4992, &mut bytes).unwrap();
        assert_eq!(bytes, [7, 7, 7, 7, 7, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0]);
        read_mapped(&file, 8176, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 16]);
        assert!(read_mapped(&file, 8177, &mut bytes).is_err() && read_mapped(&file, u64::MAX, &mut bytes).is_err());
    }

    #[test]
    fn our_own_program_is_read_from_its_file() {
        let folder = Path::new("/proc/self");
        let regions = RegionMap::of_process(std::process::id() as i32).unwrap();
        let region = regions.iter().find(|region| region.file_offset == 0 && region.path().is_some()).unwrap();
        let files = MappedFiles::new(folder);
        let mut bytes = [0; 4];
        files.read(region, region.start, &mut bytes).unwrap().unwrap();
        assert_eq!(&bytes, b"\x7fELF");
        // Another file at the same path is not read. (Root opens the mapping itself.)
        let other = FileId { inode: 1, ..region.file.unwrap() };
        let nowhere = Region { start: Address(0), file: Some(other), ..region.clone() };
        assert!(files.read(&nowhere, Address(0), &mut bytes).is_none());
        let memfd = Region { backing: Backing::File("/memfd:x".into()), file: None, ..region.clone() };
        assert!(files.read(&memfd, region.start, &mut bytes).is_none());
    }
}
