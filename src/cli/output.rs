//! Where a report goes: standard output, or a file that is whole or not there.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::args;

/// The destination of a report.
pub enum Destination {
    /// Standard output.
    Stdout,
    /// A file.
    File(PathBuf),
}

impl Destination {
    /// What was typed, or `default`. Refuses a file that exists, before anything is read, unless forced.
    pub fn new(output: &args::Output, default: impl FnOnce() -> Destination) -> Result<Destination> {
        let destination = match &output.output {
            Some(path) if path == Path::new("-") => Destination::Stdout,
            Some(path) => Destination::File(path.clone()),
            None => default(),
        };
        if let Destination::File(path) = &destination
            && !output.force
            && path.symlink_metadata().is_ok_and(|metadata| metadata.is_file())
        {
            bail!("{} exists; --force overwrites it", path.display());
        }
        Ok(destination)
    }

    /// Runs `write` on the destination. A file is written beside its place and moved there when it is whole.
    pub fn write(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        match self {
            Destination::Stdout => {
                let mut out = BufWriter::new(io::stdout().lock());
                write(&mut out)?;
                Ok(out.flush()?)
            }
            Destination::File(path) => {
                write_file(path, write).with_context(|| format!("cannot write {}", path.display()))
            }
        }
    }
}

fn write_file(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    if path.symlink_metadata().is_ok_and(|metadata| !metadata.is_file()) {
        // A device or a pipe is written as it is.
        let mut out = BufWriter::new(File::options().write(true).open(path)?);
        write(&mut out)?;
        return out.flush();
    }
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let result = File::create(&part).and_then(|file| {
        let mut out = BufWriter::new(file);
        write(&mut out)?;
        out.flush()?;
        fs::rename(&part, path)
    });
    if result.is_err() {
        // The part may never have come to be.
        let _ = fs::remove_file(&part);
    }
    result
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
