//! Where a report goes: standard output, or a file that appears only when it is complete.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::OFlag;
use nix::unistd::geteuid;

use super::args;
use super::new_file::NewFile;
use crate::process::sudo;

/// Where a report goes.
pub enum Destination {
    /// Standard output.
    Stdout,
    /// A pipe or a device, opened and written.
    Special(PathBuf),
    /// A file, and whether it may replace another.
    File(PathBuf, Existing),
}

/// What happens to an existing file of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It is kept, and writing fails.
    Stays,
    /// It is replaced.
    Goes,
}

impl Destination {
    /// Checks `output` before anything is started, where the name of the target and so the default are not known yet.
    pub fn check(output: &args::Output) -> Result<()> {
        Destination::new(output, || None).map(drop)
    }

    /// A second file beside a report, if it is wanted. `--force` replaces both.
    pub fn beside(path: Option<&PathBuf>, output: &args::Output) -> Result<Option<Destination>> {
        let other = |path: &PathBuf| args::Output { output: Some(path.clone()), force: output.force };
        path.map(|path| Destination::new(&other(path), || None)).transpose()
    }

    /// The destination named by `output`, or `default`: a path, or `None` for standard output. Checked before the
    /// target is read: without `--force` the path must not exist (not even as a link), and its directory must be
    /// writable.
    pub fn new(output: &args::Output, default: impl FnOnce() -> Option<PathBuf>) -> Result<Destination> {
        let path = match &output.output {
            Some(path) if path == Path::new("-") || path == Path::new("/dev/stdout") => return Ok(Destination::Stdout),
            Some(path) => path.clone(),
            None => match default() {
                Some(path) => path,
                None => return Ok(Destination::Stdout),
            },
        };
        if is_descriptor(&path) {
            return Ok(Destination::Special(path));
        }
        // The target of a link does not matter: a report is never written through a link.
        if let Ok(metadata) = path.symlink_metadata() {
            let kind = metadata.file_type();
            if kind.is_dir() {
                bail!("{} is a directory", path.display());
            }
            if kind.is_char_device() || kind.is_fifo() && (output.force || is_ours(metadata.uid())) {
                return Ok(Destination::Special(path));
            }
            if !output.force {
                bail!("{} exists; --force overwrites it", path.display());
            }
        }
        NewFile::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Destination::File(path, if output.force { Existing::Goes } else { Existing::Stays }))
    }

    /// The path of the file.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Destination::File(path, _) => Some(path),
            Destination::Stdout | Destination::Special(_) => None,
        }
    }

    /// Whether what is written is kept: in a file, or in one that standard output leads to.
    pub fn is_kept(&self) -> bool {
        match self {
            Destination::Stdout => io::stdout().as_fd().try_clone_to_owned().is_ok_and(|stdout| {
                let metadata = File::from(stdout).metadata();
                metadata.is_ok_and(|metadata| metadata.is_file())
            }),
            Destination::Special(_) | Destination::File(..) => true,
        }
    }

    /// Runs `write` on the destination. A file appears under its name only when it is complete.
    pub fn write(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        let cannot = |path: &Path| format!("cannot write {}", path.display());
        match self {
            Destination::Stdout => buffered(io::stdout().lock(), write).map_err(anyhow::Error::from),
            Destination::Special(path) => write_special(path, write).with_context(|| cannot(path)),
            Destination::File(path, existing) => {
                write_file(path, *existing, write).map_err(|error| match (error.kind(), existing) {
                    (io::ErrorKind::AlreadyExists, Existing::Stays) => {
                        anyhow::anyhow!("{} was created in the meantime; --force overwrites it", path.display())
                    }
                    _ => anyhow::Error::new(error).context(cannot(path)),
                })
            }
        }
    }
}

/// Whether a path names one of our open file descriptors, such as `/dev/fd/3`.
fn is_descriptor(path: &Path) -> bool {
    let number = ["/dev/fd/", "/proc/self/fd/"].iter().find_map(|folder| path.to_str()?.strip_prefix(folder));
    path == Path::new("/dev/stderr") || number.is_some_and(|number| number.parse::<u32>().is_ok())
}

/// Whether we may write to a pipe of this owner: another user may have planted it.
fn is_ours(owner: u32) -> bool {
    owner == geteuid().as_raw() || sudo::caller().is_some_and(|caller| owner == caller.user.as_raw())
}

fn buffered(to: impl Write, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::new(to);
    write(&mut out)?;
    out.flush()
}

fn write_special(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut options = File::options();
    // The descriptor may refer to a file with content.
    options.append(true);
    if !is_descriptor(path) {
        options.custom_flags(OFlag::O_NOFOLLOW.bits());
    }
    let file = options.open(path)?;
    let kind = file.metadata()?.file_type();
    if !is_descriptor(path) && !kind.is_fifo() && !kind.is_char_device() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    buffered(file, write)
}

fn write_file(path: &Path, existing: Existing, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let new = NewFile::create(path)?;
    buffered(new.file(), write)?;
    new.finish(existing == Existing::Goes)
}

/// The default file of a verb: `VERB-NAME-PID-TIME.EXT` in the current directory, with the time in RFC 3339 (UTC).
pub fn default_file(verb: &str, name: &str, pid: i32, extension: &str) -> PathBuf {
    PathBuf::from(format!("{verb}-{}-{pid}-{}.{extension}", safe_name(name), utc_now()))
}

/// The name of a program as a part of a file's name.
pub fn safe_name(name: &str) -> String {
    name.chars().map(|char| if char.is_alphanumeric() || "._-".contains(char) { char } else { '_' }).collect()
}

/// The current time, as `2026-01-31T12:34:56Z`.
fn utc_now() -> String {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).to_string()
}

/// Whether the reader of our output has closed it, which is not an error.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe))
}
