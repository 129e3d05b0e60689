//! The error of a failed layout check, with the field's name.

use crate::process::memory::ReadError;

use super::version::Version;

/// A failed check of a layout.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// The runtime has no interpreter yet, or the interpreter has no modules yet.
    #[error("the interpreter is starting up")]
    StartingUp,
    /// The runtime is being finalized.
    #[error("the interpreter is shutting down")]
    Finalizing,
    /// `sys.hexversion` is another version than the layout's.
    #[error("it is Python {0}")]
    OtherVersion(Version),
    /// A field does not hold what it must.
    #[error("{field} is wrong: {detail}")]
    Field {
        /// The C struct and field.
        field: &'static str,
        /// What was found.
        detail: String,
    },
    /// A type of the target states a different size or offset for its instances.
    #[error("{type_name}.{what} is {found}, the layout says {expected}")]
    Said {
        /// The type.
        type_name: &'static str,
        /// The attribute or member that differs.
        what: String,
        /// The value in the target.
        found: u64,
        /// The value in the layout.
        expected: u64,
    },
    /// A read that must succeed failed.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl ProofError {
    /// How far the proof got. Of several failed layouts, the one that got furthest is reported.
    pub fn depth(&self) -> usize {
        match self {
            ProofError::Read(_) => 0,
            ProofError::Field { field, .. } if field.starts_with("PyInterpreterState") => 0,
            ProofError::Field { field, .. } if field.starts_with("_PyRuntimeState") => 0,
            ProofError::StartingUp => 1,
            ProofError::Field { field, .. } if field.starts_with("PyObject") => 1,
            ProofError::Field { field, .. } if field.starts_with("PyTypeObject") => 1,
            ProofError::OtherVersion(_) => 2,
            ProofError::Field { field, .. } if field.starts_with("PyDictObject") => 2,
            ProofError::Field { .. } | ProofError::Said { .. } => 3,
            ProofError::Finalizing => 4,
        }
    }
}

pub(crate) fn claim(holds: bool, field: &'static str, detail: impl FnOnce() -> String) -> Result<(), ProofError> {
    if holds { Ok(()) } else { Err(ProofError::Field { field, detail: detail() }) }
}
