//! A claim of a layout that did not hold, by the field's name.

use crate::process::memory::ReadError;

use super::version::Version;

/// A claim of a layout that did not hold.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// The runtime has no interpreter, or the interpreter no modules, yet.
    #[error("the interpreter is starting up")]
    StartingUp,
    /// The runtime is being taken down.
    #[error("the interpreter is shutting down")]
    Finalizing,
    /// The layout reads `sys.hexversion`, and it is another version's.
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
    /// A type of the target's says something else of its own instances.
    #[error("{type_name}.{what} is {found}, the layout says {expected}")]
    Said {
        /// The type.
        type_name: &'static str,
        /// Which of its words, or which member.
        what: String,
        /// What the type says.
        found: u64,
        /// What the layout says.
        expected: u64,
    },
    /// Something that must be readable is not.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl ProofError {
    /// How far a proof came before it failed: of several layouts, the one that came furthest is worth telling of.
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
