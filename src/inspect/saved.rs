//! Opens a snapshot, as [`open`](super::open) opens a process, and says what is saved beside its objects.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::analysis::histogram::{Histogram, SortKey};
use crate::analysis::memory_account::Account;
use crate::process::host;
use crate::snapshot::graph::{SavedGraph, SavedObjects};
use crate::snapshot::open::{SnapshotError, SnapshotFile};
use crate::snapshot::read::SavedHistograms;

use super::answer::{AllocatorSummary, Inspected, Problems, Reading, TargetSummary};
use super::error::Error;
use super::graph::GraphSummary;

/// The name of the text with [`SavedAnswer`] as JSON.
pub const ANSWER: &str = "answer";
/// The name of the text with the account of memory as JSON; there is none of a core.
pub const MEMORY: &str = "memory";

/// What accompanies the objects of a snapshot.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedAnswer {
    /// The process.
    pub target: TargetSummary,
    /// A short name for it.
    pub name: String,
    /// How it was read.
    pub reading: Reading,
    /// What could not be read.
    pub problems: Problems,
    /// Figures of the allocator.
    pub allocator: AllocatorSummary,
    /// Figures of the graph.
    pub graph: GraphSummary,
}

/// A snapshot.
pub struct SavedTarget {
    path: PathBuf,
    file: SnapshotFile,
    answer: SavedAnswer,
}

/// The heap of a snapshot.
pub struct SavedHeap<'a> {
    /// Its objects, and their references.
    pub graph: &'a SavedGraph<'a>,
    /// Figures of the graph.
    pub summary: &'a GraphSummary,
    target: &'a SavedTarget,
}

impl SavedTarget {
    /// Opens a file.
    ///
    /// # Errors
    /// [`Error::Snapshot`].
    pub fn open(path: &Path) -> Result<SavedTarget, Error> {
        let of_path = |error| Error::Snapshot { path: path.to_owned(), error };
        let file = SnapshotFile::open(path).map_err(of_path)?;
        if !file.has_references() {
            return Err(of_path(SnapshotError::NoReferences));
        }
        let damaged = |_| of_path(SnapshotError::Damaged("how it was read"));
        let answer = serde_json::from_str(file.note(ANSWER)).map_err(damaged)?;
        Ok(SavedTarget { path: path.to_owned(), file, answer })
    }

    /// The process that it is of.
    pub fn summary(&self) -> &TargetSummary {
        &self.answer.target
    }

    /// A short name for the process.
    pub fn name(&self) -> &str {
        &self.answer.name
    }

    /// What accompanies its objects.
    pub fn answer(&self) -> &SavedAnswer {
        &self.answer
    }

    fn failed(&self, error: SnapshotError) -> Error {
        Error::Snapshot { path: self.path.clone(), error }
    }

    fn inspected<R>(&self, result: R) -> Inspected<R> {
        let SavedAnswer { reading, problems, allocator, .. } = self.answer;
        Inspected { result, reading, problems, allocator, warnings: Vec::new() }
    }

    /// Reads the objects and their references with at most so much memory (by default three quarters of what is
    /// available), and passes them to `work`.
    ///
    /// # Errors
    /// [`Error::Snapshot`], and those of `work`.
    pub fn heap<R, E: From<Error>>(
        &self,
        max_memory: Option<u64>,
        work: impl FnOnce(&SavedHeap<'_>) -> Result<R, E>,
    ) -> Result<Inspected<R>, E> {
        let available = host::available_bytes().map_or(u64::MAX, |available| available / 4 * 3);
        let limit = max_memory.map_or(available, |limit| limit.min(available));
        let objects = SavedObjects::read(&self.file, limit).map_err(|error| self.failed(error))?;
        let (summary, target) = (&self.answer.graph, self);
        objects.link(|graph| work(&SavedHeap { graph, summary, target })).map(|result| self.inspected(result))
    }

    /// Objects and bytes by type.
    ///
    /// # Errors
    /// [`Error::Snapshot`].
    pub fn histogram(&self, sort: SortKey) -> Result<Inspected<Histogram>, Error> {
        let saved = SavedHistograms::read(&self.path, sort).map_err(|error| self.failed(error))?;
        Ok(self.inspected(saved.by_type))
    }

    /// The account of the process's memory.
    ///
    /// # Errors
    /// [`Error::NoSavedAccount`], [`Error::Snapshot`].
    pub fn memory(&self) -> Result<Inspected<Account>, Error> {
        self.account().map(|account| self.inspected(account))
    }

    fn account(&self) -> Result<Account, Error> {
        match self.file.note(MEMORY) {
            "" => Err(Error::NoSavedAccount),
            text => serde_json::from_str(text).map_err(|_| self.failed(SnapshotError::Damaged("its account"))),
        }
    }
}

impl SavedHeap<'_> {
    /// The account of the process's memory.
    ///
    /// # Errors
    /// [`Error::NoSavedAccount`], [`Error::Snapshot`].
    pub fn account(&self) -> Result<Account, Error> {
        self.target.account()
    }
}
