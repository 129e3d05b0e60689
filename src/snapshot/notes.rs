//! Names of the columns of a snapshot, and of the texts beside them.

use serde::{Deserialize, Serialize};

use crate::analysis::histogram::{Amount, Row};
use crate::process::Address;
use crate::python::sizes::{Basis, SizeRule};
use crate::python::types::TypeInfo;

/// The version of the format.
pub const VERSION: &str = "2";
/// The version without references, of which only histograms can be read.
pub const WITHOUT_REFERENCES: &str = "1";
/// The text that says the version; without it a file is no snapshot.
pub const VERSION_KEY: &str = "heapsonde.schema_version";
/// The text with the types, a list of [`SavedType`] as JSON.
pub const TYPES_KEY: &str = "heapsonde.types";
/// The text with the roots that have names, by kind: a list of [`SavedRoot`] as JSON.
pub const ROOTS_KEY: &str = "heapsonde.roots";
/// The text with the labels of references, as JSON a list of lists of words; see [`super::words`].
pub const LABELS_KEY: &str = "heapsonde.labels";
/// What texts of reports are called that are shown with the figures.
pub const PREFIX: &str = "heapsonde.";

/// The message type of the rows.
pub const SCHEMA: &str = "message heap {
    required int32 id (INTEGER(32, false));
    required int64 address (INTEGER(64, false));
    required binary type (STRING);
    required int64 type_address (INTEGER(64, false));
    required int64 size (INTEGER(64, false));
    optional int64 refcount (INTEGER(64, false));
    optional int32 immortal (INTEGER(32, false));
    required boolean tracked;
    optional binary root (STRING);
    optional int32 native (INTEGER(32, false));
    required binary holder (STRING);
    optional binary path (STRING);
    optional int32 owner (INTEGER(32, false));
    required int64 retained (INTEGER(64, false));
    optional binary state (STRING);
    required group references (LIST) {
        repeated group list {
            required int32 element (INTEGER(32, false));
        }
    }
    required group labels (LIST) {
        repeated group list {
            required int32 element (INTEGER(32, false));
        }
    }
    optional group items (LIST) {
        repeated group list {
            required int64 element (INTEGER(64, false));
        }
    }
}";
/// Columns of numbers of which neighbours are close to each other.
pub const CLOSE: [&[&str]; 6] = [
    &["id"],
    &["address"],
    &["owner"],
    &["references", "list", "element"],
    &["labels", "list", "element"],
    &["items", "list", "element"],
];

/// A type as it is saved: a name with dots alone does not say where the module ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedType {
    /// Its module.
    pub module: String,
    /// Its name in it.
    pub name: String,
    /// Whether sizes of its objects are lower bounds.
    pub is_lower_bound: bool,
    /// Where it was. 0 in files of version 1.
    #[serde(default)]
    pub address: u64,
    /// `tp_flags`.
    #[serde(default)]
    pub flags: u64,
    /// Whether a class statement made it.
    #[serde(default)]
    pub is_python_class: bool,
    /// The inspectors that ask its instances, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asked_by: Vec<String>,
}

/// A root with a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedRoot {
    /// The object.
    pub id: u32,
    /// The name of the kind of root.
    pub kind: String,
    /// Whether the object is the namespace of what the name names.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_namespace: bool,
    /// Its name.
    pub name: String,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl SavedType {
    /// A type as it is saved, with the names of the inspectors that ask its instances.
    pub fn of(info: &TypeInfo, asked_by: Vec<&str>) -> SavedType {
        SavedType {
            module: info.module.clone(),
            name: info.qualname.clone(),
            is_lower_bound: info.basis == Basis::LowerBound,
            address: info.address.0,
            flags: info.flags,
            is_python_class: info.is_python_class,
            asked_by: asked_by.into_iter().map(str::to_owned).collect(),
        }
    }

    /// The type, as far as answers from a graph need it.
    pub fn info(&self) -> TypeInfo {
        TypeInfo {
            address: Address(self.address),
            module: self.module.clone(),
            qualname: self.name.clone(),
            basicsize: 0,
            itemsize: 0,
            flags: self.flags,
            front: 0,
            gc_head: 0,
            has_inline_values: false,
            rule: SizeRule::Default,
            basis: self.basis(),
            decides_on_head: false,
            is_str_itself: false,
            is_python_class: self.is_python_class,
            has_own_allocator: false,
        }
    }

    fn basis(&self) -> Basis {
        if self.is_lower_bound { Basis::LowerBound } else { Basis::Exact }
    }

    /// Its name in the column `type`.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.module, self.name)
    }

    /// A row of a histogram, still without objects.
    pub fn row(&self) -> Row {
        let basis = self.basis();
        let (module, name) = (self.module.clone(), Some(self.name.clone()));
        Row { module, name, amount: Amount::default(), basis, interval: None, retained: None }
    }
}
