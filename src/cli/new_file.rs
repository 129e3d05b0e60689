//! A new file that appears under its name only when it is complete.
//!
//! If the file system supports `O_TMPFILE` (open(2)), the file has no name until then, so nothing is left behind
//! however we end. Otherwise it has a random name in the same directory, is created with `O_EXCL`, and is removed when
//! a signal ends us. Links are never followed: the new file takes a free name or replaces what has it.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::libc;
use nix::unistd::{fchown, linkat};
use tempfile::{Builder, NamedTempFile, TempPath};

use crate::process::signals::{self, Guard};
use crate::process::sudo;

/// Reports may contain data that other users must not read.
const MODE: u32 = 0o600;

/// A file being written.
pub struct NewFile<'p> {
    path: &'p Path,
    file: File,
    /// Its temporary name, if it needs one.
    name: Option<(TempPath, Guard)>,
}

impl<'p> NewFile<'p> {
    /// Starts a file that will be named `path`. Under `sudo` it belongs to the user who called sudo.
    ///
    /// # Errors
    /// If no file can be created in the directory.
    pub fn create(path: &'p Path) -> io::Result<NewFile<'p>> {
        path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let (file, name) = match nameless(folder(path))? {
            Some(file) => (file, None),
            None => {
                let (file, name) = builder().tempfile_in(folder(path))?.into_parts();
                let guard = remove_at_end(&name);
                (file, Some((name, guard)))
            }
        };
        if let Some(caller) = sudo::caller() {
            fchown(&file, Some(caller.user), Some(caller.group))?;
        }
        Ok(NewFile { path, file, name })
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file its name; with `force`, replaces an existing one.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] if the name is taken and `force` is not set; errors of the file system.
    pub fn finish(self, force: bool) -> io::Result<()> {
        // A full disk may be reported only now.
        self.file.sync_data()?;
        let NewFile { path, file, name } = self;
        match (name, force) {
            (Some((name, _guard)), true) => Ok(name.persist(path)?),
            (Some((name, _guard)), false) => Ok(name.persist_noclobber(path)?),
            (None, false) => link(&file, path),
            (None, true) => {
                // To replace a file by rename, the new file needs a name first.
                let named: NamedTempFile<()> = builder().make_in(folder(path), |name| link(&file, name))?;
                let name = named.into_temp_path();
                let _guard = remove_at_end(&name);
                Ok(name.persist(path)?)
            }
        }
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn builder() -> Builder<'static, 'static> {
    let mut builder = Builder::new();
    builder.prefix(".heapsonde-");
    builder
}

/// Creates a file without a name; `None` if the file system does not support that.
fn nameless(folder: &Path) -> io::Result<Option<File>> {
    /// What open(2) returns on a file system or a kernel without `O_TMPFILE`.
    const UNKNOWN: [i32; 3] = [libc::EOPNOTSUPP, libc::EISDIR, libc::EINVAL];
    // With `O_EXCL` it could not be linked later.
    let flags = OFlag::O_TMPFILE.bits();
    let file = match File::options().write(true).mode(MODE).custom_flags(flags).open(folder) {
        Ok(file) => file,
        Err(error) if error.raw_os_error().is_some_and(|code| UNKNOWN.contains(&code)) => return Ok(None),
        Err(error) => return Err(error),
    };
    // It is linked by way of `/proc`.
    Ok(Path::new(&descriptor(&file)).symlink_metadata().is_ok().then_some(file))
}

fn descriptor(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn link(file: &File, path: &Path) -> io::Result<()> {
    let from = descriptor(file);
    Ok(linkat(AT_FDCWD, from.as_str(), AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW)?)
}

fn remove_at_end(name: &Path) -> Guard {
    let name = name.to_owned();
    signals::undo_at_end(move || {
        // It may have its final name by now.
        let _ = fs::remove_file(name);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_file_comes_to_be_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let new = NewFile::create(&path).unwrap();
        write!(new.file(), "half").unwrap();
        assert!(!path.exists());
        drop(new);
        assert!(names(folder.path()).is_empty());
        let new = NewFile::create(&path).unwrap();
        write!(new.file(), "whole").unwrap();
        new.finish(false).unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap(), names(folder.path()).len()), ("whole".to_owned(), 1));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, MODE);
    }

    #[test]
    fn what_has_the_name_is_replaced_only_by_force() {
        let folder = tempfile::tempdir().unwrap();
        let (path, precious) = (folder.path().join("out"), folder.path().join("precious"));
        fs::write(&precious, "precious").unwrap();
        symlink(&precious, &path).unwrap();
        let error = NewFile::create(&path).unwrap().finish(false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        NewFile::create(&path).unwrap().finish(true).unwrap();
        assert!(!path.is_symlink() && path.is_file(), "the link itself is replaced");
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
        assert_eq!(names(folder.path()).len(), 2);
    }
}
