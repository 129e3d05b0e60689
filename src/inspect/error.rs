//! Why a target could not be opened or read.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use bytesize::ByteSize;

use crate::process::ReadError;
use crate::process::core::file::CoreError;
use crate::process::freeze::FreezeError;
use crate::process::gates::Gate;
use crate::python::attach::AttachError;
use crate::python::proof_error::ProofError;
use crate::snapshot::open::SnapshotError;

/// Why a target could not be opened or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel does not let us read the process, or there is none.
    #[error("{}", gate.explain(*pid).0)]
    Refused {
        /// The process.
        pid: i32,
        /// What refuses it.
        gate: Gate,
    },
    /// The process runs a 32-bit program.
    #[error("process {pid} is a 32-bit program; heapsonde reads 64-bit CPython only")]
    ThirtyTwoBit {
        /// The process.
        pid: i32,
    },
    /// No Python was found in the process, or its layout was not proved.
    #[error("cannot read process {pid}: {error}")]
    NotAttached {
        /// The process.
        pid: i32,
        /// Why. Its message includes its own sources.
        error: Box<AttachError>,
    },
    /// The process exited while it was read.
    #[error("process {pid} exited while it was read")]
    Exited {
        /// The process.
        pid: i32,
    },
    /// The process executed another program while it was read.
    #[error("process {pid} became another program while it was read (it called exec)")]
    Replaced {
        /// The process.
        pid: i32,
    },
    /// What was read of the process contradicts the layout, or cannot be read.
    #[error("cannot read process {pid}: {error}")]
    Unreadable {
        /// The process.
        pid: i32,
        /// Why.
        error: Box<Error>,
    },
    /// Neither a control group nor the host tells how much memory the process may have.
    #[error("how much memory process {pid} may have is not known")]
    NoMemoryLimit {
        /// The process.
        pid: i32,
    },
    /// `--sysroot` is no directory.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// The core file cannot be read.
    #[error(transparent)]
    Core(#[from] CoreError),
    /// No Python was found in the core, or its layout was not proved.
    #[error("cannot read the core {}: {error}", path.display())]
    CoreNotAttached {
        /// The core file.
        path: PathBuf,
        /// Files that the core needs but that were not found.
        missing: Vec<PathBuf>,
        /// Why. Its message includes its own sources.
        error: Box<AttachError>,
    },
    /// The program cannot be started.
    #[error("cannot start {program:?}: {error}")]
    NotStarted {
        /// The program.
        program: String,
        /// The error of the operating system.
        error: io::Error,
    },
    /// The started program ended before its Python could be read.
    #[error("{program:?} ended ({status}) before its Python could be read")]
    Ended {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// Whether a Python was running by then.
        was_up: bool,
    },
    /// The started program is not a Python that can be read.
    #[error("{program:?} did not start a Python: {error}")]
    NoPythonStarted {
        /// The program.
        program: String,
        /// Why its process could not be read.
        error: Box<Error>,
    },
    /// No descendant is a Python either.
    #[error("no Python runs in process {root} or its descendants")]
    NoFamily {
        /// The process at the top.
        root: i32,
    },
    /// The state of a started program is not available.
    #[error("cannot wait for the program: {0}")]
    Wait(io::Error),
    /// The process cannot be stopped.
    #[error(transparent)]
    Freeze(#[from] FreezeError),
    /// What was read contradicts the layout.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// The target can no longer be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// There is too little memory to follow references.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// The thread that copied the process failed.
    #[error("the copying thread failed")]
    CopyFailed,
    /// The kernel does not report how much memory the target uses.
    #[error("cannot read /proc/PID/smaps and pagemap of the target")]
    NoFootprint,
    /// A snapshot cannot be read.
    #[error("cannot read {} as a snapshot: {error}", path.display())]
    Snapshot {
        /// The file.
        path: PathBuf,
        /// Why.
        error: SnapshotError,
    },
    /// A snapshot is without the kernel's figures.
    #[error("the snapshot has no account of memory: it is of a core, or the kernel did not tell")]
    NoSavedAccount,
    /// Growth was asked of a snapshot.
    #[error("a snapshot does not change: growth is of a process that runs")]
    DoesNotChange,
    /// A core is not running, so it cannot be recorded.
    #[error("a core does not run")]
    NotRunning,
    /// What grew cannot be told.
    #[error("only {looks} looks at the whole heap could be compared; give it more time (--for)")]
    TooFewLooks {
        /// Looks of one quality.
        looks: usize,
    },
}

impl Error {
    /// Why no Python could be attached to, if that is the error.
    pub fn attach_error(&self) -> Option<&AttachError> {
        match self {
            Error::NotAttached { error, .. } | Error::CoreNotAttached { error, .. } => Some(error),
            Error::NoPythonStarted { error, .. } => error.attach_error(),
            _ => None,
        }
    }

    /// The version of a Python that could not be read, if known.
    pub fn version(&self) -> Option<String> {
        match self.attach_error()? {
            AttachError::UnknownVersion(version) => Some(version.to_string()),
            AttachError::NotProved { version, .. } => {
                Some(version.trim().to_owned()).filter(|version| !version.is_empty())
            }
            _ => None,
        }
    }
}

/// There is too little memory to follow references.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{}{objects} objects need {} to follow their references{}, and {} {}",
    if *.is_estimate { "about " } else { "" },
    ByteSize(*.graph_bytes),
    .with_copy_bytes.map_or(String::new(), |bytes| format!(" ({} with a copy)", ByteSize(bytes))),
    ByteSize(*.limit_bytes),
    if *.is_users_limit { "is the limit" } else { "may be used, three quarters of what is available here" },
)]
pub struct NoRoom {
    /// Number of objects.
    pub objects: u64,
    /// Whether this number is an estimate.
    pub is_estimate: bool,
    /// Memory for their graph, bytes.
    pub graph_bytes: u64,
    /// The same with a copy of the target, if one was considered, bytes.
    pub with_copy_bytes: Option<u64>,
    /// The memory that may be used, bytes.
    pub limit_bytes: u64,
    /// Whether this is the user's limit, or what the host has available.
    pub is_users_limit: bool,
    /// Whether two passes over the process itself would fit.
    pub(crate) fits_without_copy: bool,
}
