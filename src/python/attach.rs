//! Attaches to a Python: finds the runtime, reads the version, selects a layout and proves it.

use std::collections::BTreeSet;
use std::path::Path;

use crate::process::ReadError;
use crate::process::elf::{ElfFile, LoadedElf};
use crate::process::memory::{Memory, MemoryExt};
use crate::process::regions::Region;

use super::interpreter::Python;
use super::layout::select::Candidate;
use super::layout::{Build, Correction, DebugOffsets, Layout, LayoutError};
use super::proof::{self, Proved};
use super::proof_error::ProofError;
use super::reader::Reader;
use super::recognize;
use super::runtime::{self, Runtime};
use super::version::Version;

/// Upper bound on the bytes of `_Py_DebugOffsets` that are read; 3.15's has 888.
const DEBUG_OFFSETS_MAX: usize = 2048;

/// Why no Python could be found in a target.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// Nothing in the process looks like CPython.
    #[error("no CPython interpreter was found in it")]
    NotPython,
    /// Another Python implementation, such as PyPy.
    #[error("it runs {0}, not CPython")]
    OtherImplementation(&'static str),
    /// The interpreter is not initialized yet.
    #[error("its Python is still starting up")]
    StartingUp,
    /// The interpreter is being finalized.
    #[error("its Python is shutting down")]
    Finalizing,
    /// A version without a layout table.
    #[error("it runs Python {0}, which is not supported (3.8 to 3.15 are)")]
    UnknownVersion(Version),
    /// The interpreter states no version, and no layout fits.
    #[error("its CPython is not supported: it states no version, and no layout from 3.8 on fits")]
    Unsupported {
        /// The field that failed in the closest layout.
        source: ProofError,
    },
    /// The version is known, but no layout could be proved.
    #[error("the layout {table} does not fit this Python{version}: {source}")]
    NotProved {
        /// Name of the closest layout table.
        table: String,
        /// The version with a leading space, as " 3.12.1"; empty if unknown.
        version: String,
        /// The field that failed.
        source: ProofError,
    },
    /// The published offsets are invalid.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The target cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl AttachError {
    /// Whether a running target that changes between two reads may be all that is wrong. A dict that was read in the
    /// middle of a change lacks what only one of an interpreter that starts may lack.
    pub fn may_be_of_a_change(&self) -> bool {
        use AttachError::{Layout, NotProved, Read, StartingUp, Unsupported};
        let is_of_proof = matches!(self, NotProved { .. } | Unsupported { .. } | StartingUp);
        is_of_proof || matches!(self, Layout(_) | Read(ReadError::Unreadable { .. }))
    }
}

/// Finds the Python in a target and proves its layout. `open` opens the file behind a mapped ELF image, if it is
/// available. Takes milliseconds.
///
/// # Errors
/// [`AttachError`] says what is missing.
pub fn attach<M: Memory + ?Sized>(
    memory: &M,
    elfs: &[LoadedElf],
    open: &dyn Fn(&LoadedElf) -> Option<ElfFile>,
) -> Result<Python, AttachError> {
    attach_with(memory, elfs, open, &|_, candidates| candidates.iter().map(Layout::load).collect())
}

/// As [`attach`], but `load` makes the layouts to try from the target's version (if it states one) and the candidate
/// tables. Tests use it to pass wrong tables.
///
/// # Errors
/// As [`attach`].
pub fn attach_with<M: Memory + ?Sized>(
    memory: &M,
    elfs: &[LoadedElf],
    open: &dyn Fn(&LoadedElf) -> Option<ElfFile>,
    load: &Load<'_>,
) -> Result<Python, AttachError> {
    if let Some(name) = other_implementation(elfs) {
        return Err(AttachError::OtherImplementation(name));
    }
    let mut error = AttachError::NotPython;
    for runtime in runtime::find(memory, elfs, open) {
        log::debug!("_PyRuntime at {} in {}, found {}", runtime.address, runtime.elf.path.display(), runtime.way);
        match attach_at(memory, &runtime, load) {
            Ok(python) => return Ok(python),
            Err(next) => error = next,
        }
    }
    match error {
        AttachError::NotPython if is_being_loaded(memory, elfs) => Err(AttachError::StartingUp),
        error => Err(error),
    }
}

/// Whether the program is not whole yet: after `exec` only itself and the loader are mapped, then its libraries, one by
/// one, of which an interpreter's is missing.
fn is_being_loaded<M: Memory + ?Sized>(memory: &M, elfs: &[LoadedElf]) -> bool {
    // What glibc's loader loads needs glibc; musl's loader is the library itself.
    let is_loader = |path: &&Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("ld-linux") || name.starts_with("ld-2.")
    };
    let files: BTreeSet<&Path> = memory.regions().iter().filter_map(Region::path).collect();
    if files.len() <= 2 && files.iter().any(is_loader) {
        return true;
    }
    // It may be mapped by another name than it is needed by, where that is a link.
    let is_library = |path: &Path| {
        let name = path.file_name().unwrap_or_default();
        name.as_encoded_bytes().starts_with(b"lib") && recognize::is_interpreter(path)
    };
    let mut needed = elfs.iter().flat_map(|elf| elf.needed(memory));
    !elfs.iter().any(|elf| is_library(&elf.path)) && needed.any(|name| is_library(Path::new(&name)))
}

fn other_implementation(elfs: &[LoadedElf]) -> Option<&'static str> {
    let named = |part: &str| {
        elfs.iter().any(|elf| elf.path.file_name().is_some_and(|name| name.to_string_lossy().contains(part)))
    };
    named("libpypy").then_some("PyPy").or_else(|| named("graalpy").then_some("GraalPy")).or_else(|| {
        let exe = elfs.first()?.path.file_name()?.to_string_lossy();
        exe.starts_with("pypy").then_some("PyPy")
    })
}

/// Makes the layouts to try from the version, if known, and the candidate tables.
pub type Load<'a> = dyn Fn(Option<Version>, &[Candidate]) -> Vec<Layout> + 'a;

/// What is known about the version before a layout is proved.
struct Known {
    version: Option<Version>,
    published: Option<DebugOffsets>,
}

fn attach_at<M: Memory + ?Sized>(memory: &M, runtime: &Runtime, load: &Load<'_>) -> Result<Python, AttachError> {
    let known = learn(memory, runtime)?;
    let candidates = candidates(&known);
    if candidates.is_empty() {
        return Err(match known.version {
            Some(version) => AttachError::UnknownVersion(version),
            None => AttachError::NotPython,
        });
    }
    let mut furthest: Option<(usize, AttachError)> = None;
    let mut layouts: Vec<(Layout, Vec<Correction>)> = load(known.version, &candidates)
        .into_iter()
        .map(|mut layout| {
            let overlay = known.published.as_ref().map(|published| layout.overlay(published));
            (layout, overlay.map_or_else(Vec::new, |overlay| overlay.corrected))
        })
        .collect();
    // Published offsets correct only part of a table: on a debug build, a corrected default table would pass the proof
    // and still have wrong fields. So the table that needs the fewest corrections is tried first.
    layouts.sort_by_key(|(_, corrections)| corrections.len());
    let minor = |version: Version| (version.major, version.minor);
    let is_known = |version| candidates.iter().any(|candidate| minor(candidate.from) == minor(version));
    for (layout, corrections) in layouts {
        let proved = proof::prove(&Reader { memory, layout: &layout }, runtime.address, known.version);
        match proved {
            Ok(Proved { version, interpreters, type_type, object_type }) => {
                log::debug!("Python {version}, layout {} proved, {} corrections", layout.name, corrections.len());
                for correction in &corrections {
                    log::debug!("published offset differs from the table: {correction:?}");
                }
                let build = layout.build;
                let runtime = runtime.clone();
                return Ok(Python {
                    version,
                    build,
                    layout,
                    runtime,
                    interpreters,
                    type_type,
                    object_type,
                    corrections,
                });
            }
            Err(ProofError::Read(error)) if error.is_final() => return Err(error.into()),
            Err(source) => {
                log::debug!("layout {} not proved: {source}", layout.name);
                // Another table fits this version, and says why it does not.
                if matches!(&source, ProofError::OtherVersion(version) if is_known(*version)) {
                    continue;
                }
                let depth = source.depth();
                if furthest.as_ref().is_none_or(|&(furthest, _)| depth > furthest) {
                    furthest = Some((depth, refusal(&known, &layout, source)));
                }
            }
        }
    }
    Err(furthest.map_or(AttachError::NotPython, |(_, error)| error))
}

/// Turns a failed proof into an error for the user.
fn refusal(known: &Known, layout: &Layout, source: ProofError) -> AttachError {
    let depth = source.depth();
    match source {
        ProofError::StartingUp => AttachError::StartingUp,
        ProofError::Finalizing => AttachError::Finalizing,
        ProofError::OtherVersion(version) => AttachError::UnknownVersion(version),
        source if known.version.is_none() && depth < 3 => AttachError::Unsupported { source },
        source => {
            let version = known.version.map_or(String::new(), |version| format!(" {version}"));
            AttachError::NotProved { table: layout.name.clone(), version, source }
        }
    }
}

/// Reads what the interpreter states: published offsets (3.13+) or `Py_Version` (3.11+).
fn learn<M: Memory + ?Sized>(memory: &M, runtime: &Runtime) -> Result<Known, AttachError> {
    let mut cookie = [0; 8];
    memory.read_exact_at(runtime.address, &mut cookie)?;
    if cookie != runtime::COOKIE {
        return Ok(Known { version: runtime.version_symbol(memory), published: None });
    }
    // The version follows the cookie, so that an unknown version can be named.
    let version = memory.read_u64(runtime.address.offset(8)).ok().and_then(Version::from_hex);
    let room = memory.regions().find(runtime.address).map_or(0, |region| region.end.0 - runtime.address.0);
    let length = usize::try_from(room).unwrap_or(0).min(DEBUG_OFFSETS_MAX);
    let bytes = memory.read_bytes(runtime.address, length as u64, DEBUG_OFFSETS_MAX, "published offsets")?;
    match DebugOffsets::parse(&bytes) {
        Ok(published) => Ok(Known { version, published: Some(published) }),
        Err(LayoutError::PublishedUnknown { version }) => Err(AttachError::UnknownVersion(version)),
        Err(error) => Err(error.into()),
    }
}

/// Candidate tables, best first. Before 3.13, debug builds change layouts without stating it, so both kinds are tried.
/// If the interpreter states no version (3.10 and older, or stripped), all tables without published offsets are tried,
/// and `sys.hexversion` decides.
fn candidates(known: &Known) -> Vec<Candidate> {
    let builds = match &known.published {
        Some(published) if published.free_threaded() => [Build::FreeThreaded, Build::DebugFreeThreaded],
        _ => [Build::Default, Build::Debug],
    };
    match known.version {
        Some(version) => builds.iter().flat_map(|&build| Layout::candidates(version, build)).collect(),
        None => {
            let silent = |candidate: &&Candidate| !candidate.from.publishes_offsets();
            let mut all: Vec<Candidate> = Candidate::all().iter().filter(silent).copied().collect();
            all.sort_by_key(|candidate| std::cmp::Reverse((candidate.build == Build::Default, candidate.from)));
            all
        }
    }
}
