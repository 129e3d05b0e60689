//! Opens a snapshot: the file, and the texts beside its rows.

use std::fs::File;
use std::io;
use std::path::Path;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, Length, SerializedFileReader};
use rustc_hash::FxHashMap;
use serde::de::DeserializeOwned;

use super::notes::{PREFIX, VERSION, VERSION_KEY, WITHOUT_REFERENCES};
use super::shared_file::SharedFile;

/// Why a file cannot be read as a snapshot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// It cannot be opened.
    #[error(transparent)]
    File(#[from] io::Error),
    /// It is no Parquet file, or a damaged one.
    #[error(transparent)]
    Format(#[from] ParquetError),
    /// It is a Parquet file of something else.
    #[error("it is a Parquet file, but no snapshot of heapsonde")]
    Foreign,
    /// Another version wrote it.
    #[error("it has version {0} of the format; this heapsonde reads versions {WITHOUT_REFERENCES} and {VERSION}")]
    Version(String),
    /// It was written without references.
    #[error("an older heapsonde wrote it, without references: histo and diff read it, other verbs need a new one")]
    NoReferences,
    /// It needs more memory than there is.
    #[error("its objects need {needed} bytes of memory, and {limit} may be used")]
    NoRoom {
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that may be used.
        limit: u64,
    },
    /// What it says cannot be.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
}

/// A snapshot that is open.
pub struct SnapshotFile {
    pub(super) reader: SerializedFileReader<SharedFile>,
    /// Bytes of the file.
    pub(super) length: u64,
    notes: FxHashMap<String, String>,
}

impl SnapshotFile {
    /// Opens a file and reads the texts in it.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn open(path: &Path) -> Result<SnapshotFile, SnapshotError> {
        let file = File::open(path)?;
        let file = SharedFile::new(file)?;
        let length = file.len();
        let reader = SerializedFileReader::new(file)?;
        let pairs = reader.metadata().file_metadata().key_value_metadata().into_iter().flatten();
        let notes: FxHashMap<String, String> =
            pairs.filter_map(|pair| Some((pair.key.clone(), pair.value.clone()?))).collect();
        match notes.get(VERSION_KEY).map(String::as_str) {
            Some(VERSION | WITHOUT_REFERENCES) => Ok(SnapshotFile { reader, length, notes }),
            Some(other) => Err(SnapshotError::Version(other.to_owned())),
            None => Err(SnapshotError::Foreign),
        }
    }

    /// Whether it has the references between its objects.
    pub fn has_references(&self) -> bool {
        self.notes.get(VERSION_KEY).is_some_and(|version| version == VERSION)
    }

    /// A text beside the rows; empty where there is none of this name.
    pub fn note(&self, name: &str) -> &str {
        self.notes.get(&format!("{PREFIX}{name}")).map_or("", String::as_str)
    }

    /// What a text says as JSON; `damage` names it.
    pub(super) fn json<T: DeserializeOwned>(&self, key: &str, damage: &'static str) -> Result<T, SnapshotError> {
        let text = self.notes.get(key).map_or("", String::as_str);
        serde_json::from_str(text).map_err(|_| SnapshotError::Damaged(damage))
    }
}
