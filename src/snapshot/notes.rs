//! Names of the columns of a snapshot, and of the texts beside them.

use serde::{Deserialize, Serialize};

use crate::analysis::histogram::{Amount, Row};
use crate::python::sizes::Basis;

/// The version of the format.
pub const VERSION: &str = "1";
/// The text that says the version; without it a file is no snapshot.
pub const VERSION_KEY: &str = "heapsonde.schema_version";
/// The text with the types, a list of [`SavedType`] as JSON.
pub const TYPES_KEY: &str = "heapsonde.types";
/// What texts of reports are called that are shown with the figures.
pub const PREFIX: &str = "heapsonde.";

/// The message type of the rows.
pub const SCHEMA: &str = "message heap {
    required int32 id (INTEGER(32, false));
    required int64 address (INTEGER(64, false));
    required binary type (STRING);
    required int64 size (INTEGER(64, false));
    optional int64 refcount (INTEGER(64, false));
    required boolean tracked;
    required binary holder (STRING);
    optional binary path (STRING);
    optional int32 owner (INTEGER(32, false));
    required int64 retained (INTEGER(64, false));
}";
/// Columns that are numbers in ascending order or nearly so.
pub const ASCENDING: [&str; 2] = ["id", "address"];

/// A type as it is saved: a name with dots alone does not say where the module ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedType {
    /// Its module.
    pub module: String,
    /// Its name in it.
    pub name: String,
    /// Whether sizes of its objects are lower bounds.
    pub is_lower_bound: bool,
}

impl SavedType {
    /// Its name in the column `type`.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.module, self.name)
    }

    /// A row of a histogram, still without objects.
    pub fn row(&self) -> Row {
        let basis = if self.is_lower_bound { Basis::LowerBound } else { Basis::Exact };
        let (module, name) = (self.module.clone(), Some(self.name.clone()));
        Row { module, name, amount: Amount::default(), basis, interval: None, retained: None }
    }
}
