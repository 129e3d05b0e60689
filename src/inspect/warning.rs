//! Warnings about a reading that succeeded.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;

/// A warning about a reading that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// Files with what the core left out were not found.
    MissingFiles {
        /// The first of them.
        path: PathBuf,
        /// Why it cannot be used.
        why: String,
        /// Number of further files.
        others: usize,
    },
    /// The end of the core is missing.
    CutOff {
        /// Bytes of memory that are missing.
        bytes: u64,
    },
    /// The process was already stopped by someone else, and stays stopped.
    WasStopped {
        /// The process.
        pid: i32,
    },
    /// The process could not be stopped, so it was read while it ran.
    CannotStop {
        /// The reason, including the process.
        why: String,
    },
    /// Copying would have stopped the process for longer than is allowed, so it was copied while it ran.
    NotStopped {
        /// How long a copy takes.
        expected: Duration,
        /// The maximum pause.
        max_pause: Duration,
    },
    /// Copying took longer than was allowed, so the process ran again before the copy was complete.
    StoppedTooShort {
        /// The maximum pause.
        max_pause: Duration,
    },
    /// A bug in heapsonde ended the observation; what was seen until then is told.
    EndedByBug,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::MissingFiles { path, why, others } => {
                let others = match others {
                    0 => String::new(),
                    count => format!(" and {count} more files"),
                };
                write!(f, "what the core left out of {}{others} is missing: {why}", path.display())
            }
            Warning::CutOff { bytes } => {
                write!(f, "the core is cut off: {} of memory are missing", ByteSize(*bytes))
            }
            Warning::WasStopped { pid } => {
                write!(f, "process {pid} was already stopped and is left stopped")
            }
            Warning::CannotStop { why } => write!(f, "{why}; it was read while it ran"),
            Warning::NotStopped { expected, max_pause } => write!(
                f,
                "copying would have stopped the process for about {}, longer than the maximum pause of {}: \
                 it was copied while it ran",
                in_ms(*expected),
                in_ms(*max_pause)
            ),
            Warning::StoppedTooShort { max_pause } => write!(
                f,
                "the copy took longer than the maximum pause of {}: the process ran during its last part",
                in_ms(*max_pause)
            ),
            Warning::EndedByBug => write!(f, "a bug in heapsonde ended it early; this is what was seen until then"),
        }
    }
}

fn in_ms(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
}
