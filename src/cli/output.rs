//! Where a report goes: standard output, or a file that is whole or not there.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::OFlag;
use nix::unistd::geteuid;

use super::args;
use super::new_file::NewFile;
use crate::process::sudo;

/// The destination of a report.
pub enum Destination {
    /// Standard output.
    Stdout,
    /// A pipe or a device, written as it is.
    Special(PathBuf),
    /// A file; whether it may take the place of another.
    File(PathBuf, Existing),
}

/// What becomes of what has the name of a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and the new file is refused.
    Stays,
    /// It is replaced.
    Goes,
}

impl Destination {
    /// What was typed, or `default`: a file's name, or nothing for standard output. Before anything is read, a name is
    /// refused that is taken (by a link as well), unless forced; and a folder that takes no file.
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
        // What a link points to is of no interest: a report is never written through one.
        if let Ok(metadata) = path.symlink_metadata() {
            let kind = metadata.file_type();
            if kind.is_dir() {
                bail!("{} is a folder", path.display());
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

    /// The name of the file that is written.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Destination::File(path, _) => Some(path),
            Destination::Stdout | Destination::Special(_) => None,
        }
    }

    /// Runs `write` on the destination. A file gets its name when it is whole.
    pub fn write(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        let cannot = |path: &Path| format!("cannot write {}", path.display());
        match self {
            Destination::Stdout => buffered(io::stdout().lock(), write).map_err(anyhow::Error::from),
            Destination::Special(path) => write_special(path, write).with_context(|| cannot(path)),
            Destination::File(path, existing) => {
                write_file(path, *existing, write).map_err(|error| match (error.kind(), existing) {
                    (io::ErrorKind::AlreadyExists, Existing::Stays) => {
                        anyhow::anyhow!("{} has come to be meanwhile; --force overwrites it", path.display())
                    }
                    _ => anyhow::Error::new(error).context(cannot(path)),
                })
            }
        }
    }
}

/// Whether a name is that of a file that we have open: `/dev/fd/3`.
fn is_descriptor(path: &Path) -> bool {
    let number = ["/dev/fd/", "/proc/self/fd/"].iter().find_map(|folder| path.to_str()?.strip_prefix(folder));
    path == Path::new("/dev/stderr") || number.is_some_and(|number| number.parse::<u32>().is_ok())
}

/// Whether a pipe of this owner is one that we were meant to write to, and not one that somebody left for us to find.
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
    // Behind a descriptor may be a file with something in it.
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

/// The default file of a verb: `VERB-NAME-PID-TIME.EXT` in the current directory, the time as in RFC 3339 (UTC).
pub fn default_file(verb: &str, name: &str, pid: i32, extension: &str) -> PathBuf {
    let safe: String =
        name.chars().map(|char| if char.is_alphanumeric() || "._-".contains(char) { char } else { '_' }).collect();
    PathBuf::from(format!("{verb}-{safe}-{pid}-{}.{extension}", utc_now()))
}

/// The time now as `2026-01-31T12:34:56Z`.
fn utc_now() -> String {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).to_string()
}

/// Whether an error is that the reader of our output has gone: not an error of ours.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe))
}
