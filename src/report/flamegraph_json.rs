//! Writes the frames of a flame graph as JSON, for programs that draw their own.

use std::io::{self, Write};

use serde::Serialize;

use crate::analysis::owners::Node;
use crate::inspect::answer::{Problems, TargetSummary};
use crate::inspect::graph::GraphSummary;

use super::histogram_json::SCHEMA_VERSION;
use super::json;

/// What a document states besides its frames.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct About<'a> {
    /// The process; of a family, the first one.
    pub target: &'a TargetSummary,
    /// `owners`, `paths` or `types`.
    pub view: &'static str,
    /// `exact` or `sampled`.
    pub basis: &'static str,
    /// Figures of the graph, if one was built.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graph: Option<&'a GraphSummary>,
    /// What could not be read.
    pub problems: &'a Problems,
}

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    #[serde(flatten)]
    about: &'a About<'a>,
    root: FrameEntry<'a>,
}

#[derive(Serialize)]
struct FrameEntry<'a> {
    name: &'a str,
    /// With its descendants.
    objects: u64,
    shallow_bytes: u64,
    /// Without its descendants.
    own_objects: u64,
    own_shallow_bytes: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    children: Vec<FrameEntry<'a>>,
}

impl<'a> From<&'a Node> for FrameEntry<'a> {
    fn from(node: &'a Node) -> FrameEntry<'a> {
        FrameEntry {
            name: &node.name,
            objects: node.total.objects,
            shallow_bytes: node.total.bytes,
            own_objects: node.own.objects,
            own_shallow_bytes: node.own.bytes,
            children: node.children.iter().map(FrameEntry::from).collect(),
        }
    }
}

/// Writes the document and a newline.
///
/// # Errors
/// Errors of the writer.
pub fn write(out: &mut dyn Write, root: &Node, about: &About<'_>) -> io::Result<()> {
    json::write_pretty(out, &Document { schema_version: SCHEMA_VERSION, about, root: root.into() })
}
