//! Writes a heap as Chrome's DevTools read it: a `.heapsnapshot` (V8, `src/profiler/heap-snapshot-generator.cc`).
//!
//! Every object is a node of type `object` whose name is its type. No node has V8's type `string`, whose name would be
//! the value. References are edges of type `element` if they have a number, else `property`. Named roots hang on the
//! root node; those of other kinds, and garbage, on nodes under `(GC roots)`.

use std::io::{self, Write};

use rustc_hash::FxHashSet;
use serde_json::json;

use crate::graph::ObjectId;
use crate::heap::object_table::Objects;
use crate::process::Address;
use crate::python::types::{TypeInfo, TypeTable};

use super::escape::printable;
use super::json;
use super::string_table::StringTable;

/// Fields of a node and of an edge.
const NODE_FIELDS: [&str; 7] = ["type", "name", "id", "self_size", "edge_count", "trace_node_id", "detachedness"];
const EDGE_FIELDS: [&str; 3] = ["type", "name_or_index", "to_node"];
/// Types of nodes and edges, in V8's order.
const NODE_TYPES: [&str; 15] = [
    "hidden",
    "array",
    "string",
    "object",
    "code",
    "closure",
    "regexp",
    "number",
    "native",
    "synthetic",
    "concatenated string",
    "sliced string",
    "symbol",
    "bigint",
    "object shape",
];
const EDGE_TYPES: [&str; 7] = ["context", "element", "property", "internal", "hidden", "shortcut", "weak"];
/// Positions in these lists.
const OBJECT: u32 = 3;
const SYNTHETIC: u32 = 9;
const ELEMENT: u32 = 1;
const PROPERTY: u32 = 2;
/// The name under which DevTools look for the roots.
const GC_ROOTS: &str = "(GC roots)";

/// How a reference is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EdgeName {
    /// By its number.
    Index(u64),
    /// By a name.
    Name(String),
}

/// A reference in the file's words.
#[derive(Clone, Copy, Debug)]
struct Edge {
    to: u32,
    kind: u32,
    name_or_index: u32,
}

/// The references of all objects, and what holds objects from outside. Takes 12 bytes per reference.
#[derive(Debug, Default)]
pub struct Edges {
    strings: StringTable,
    edges: Vec<Edge>,
    /// The end of each object's references among all.
    ends: Vec<usize>,
    /// Roots with a name of their own.
    named: Vec<Edge>,
    /// Other roots, by what holds them.
    groups: Vec<(u32, Vec<Edge>)>,
}

impl Edges {
    /// Adds a reference of the next object.
    pub fn push(&mut self, to: ObjectId, name: &EdgeName) {
        let (kind, name_or_index) = match name {
            EdgeName::Index(index) => (ELEMENT, u32::try_from(*index).unwrap_or(u32::MAX)),
            EdgeName::Name(name) => (PROPERTY, self.strings.index(name)),
        };
        self.edges.push(Edge { to: to.0, kind, name_or_index });
    }

    /// Ends the references of an object. To be called for each object, by id.
    pub fn close(&mut self) {
        self.ends.push(self.edges.len());
    }

    /// Adds a root that has a name.
    pub fn push_root(&mut self, to: ObjectId, name: &str) {
        let name_or_index = self.strings.index(name);
        self.named.push(Edge { to: to.0, kind: PROPERTY, name_or_index });
    }

    /// Adds a root without a name to a group.
    pub fn push_to_group(&mut self, group: &str, to: ObjectId) {
        let name = self.strings.index(group);
        let index = self.groups.iter().position(|(other, _)| *other == name).unwrap_or_else(|| {
            self.groups.push((name, Vec::new()));
            self.groups.len() - 1
        });
        let edges = &mut self.groups[index].1;
        edges.push(Edge { to: to.0, kind: ELEMENT, name_or_index: edges.len() as u32 });
    }

    fn of(&self, id: usize) -> &[Edge] {
        let start = id.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.edges[start..self.ends[id]]
    }
}

/// Writes the file.
///
/// # Errors
/// Errors of the writer, and more objects than the format can number.
pub fn write(out: &mut dyn Write, objects: &Objects, types: &TypeTable, mut edges: Edges) -> io::Result<()> {
    let field_count = NODE_FIELDS.len() as u32;
    let empty = edges.strings.index("");
    let gc_roots = edges.strings.index(GC_ROOTS);
    let names = |strings: &mut StringTable| -> Vec<u32> {
        types.iter().map(|(_, info): (_, &TypeInfo)| strings.index(&info.full_name())).collect()
    };
    let type_names = names(&mut edges.strings);
    // The root, `(GC roots)`, and its groups; then the objects.
    let first = 2 + edges.groups.len() as u32;
    let nodes = u64::from(first) + objects.len() as u64;
    if nodes * u64::from(field_count) > u64::from(u32::MAX) || edges.ends.len() != objects.len() {
        return Err(io::Error::other("too many objects for the format"));
    }
    let grouped: usize = edges.groups.iter().map(|(_, members)| members.len()).sum();
    let edge_count = 1 + edges.named.len() + edges.groups.len() + grouped + edges.edges.len();
    out.write_all(b"{\"snapshot\":")?;
    json::write(out, &head(nodes, edge_count))?;

    out.write_all(b",\n\"nodes\":[")?;
    let mut ids = Ids::default();
    let node = |kind: u32, name: u32, id: u32, size: u64, edges: usize, out: &mut dyn Write| {
        let comma = if id == Ids::FIRST { "" } else { "," };
        writeln!(out, "{comma}{kind},{name},{id},{size},{edges},0,0")
    };
    node(SYNTHETIC, empty, ids.next(), 0, 1 + edges.named.len(), out)?;
    node(SYNTHETIC, gc_roots, ids.next(), 0, edges.groups.len(), out)?;
    for (name, members) in &edges.groups {
        node(SYNTHETIC, *name, ids.next(), 0, members.len(), out)?;
    }
    for (id, object) in objects.from(0) {
        let name = type_names[object.type_id.index()];
        node(OBJECT, name, ids.of(object.address), object.size, edges.of(id).len(), out)?;
    }

    out.write_all(b"],\n\"edges\":[")?;
    write!(out, "{ELEMENT},1,{field_count}")?;
    let edge = |edge: &Edge, out: &mut dyn Write| {
        let to = (edge.to + first) * field_count;
        write!(out, "\n,{},{},{to}", edge.kind, edge.name_or_index)
    };
    edges.named.iter().try_for_each(|named| edge(named, out))?;
    for (group, (index, _)) in (2..).zip(edges.groups.iter().enumerate()) {
        write!(out, "\n,{ELEMENT},{},{}", index + 1, group * field_count)?;
    }
    let members = edges.groups.iter().flat_map(|(_, members)| members);
    members.chain(&edges.edges).try_for_each(|member| edge(member, out))?;

    out.write_all(
        b"],\n\"trace_function_infos\":[],\"trace_tree\":[],\"samples\":[],\"locations\":[],\n\"strings\":[",
    )?;
    for (index, string) in edges.strings.list().iter().enumerate() {
        out.write_all(if index == 0 { b"" } else { b",\n" })?;
        json::write(out, &printable(string))?;
    }
    out.write_all(b"]}\n")
}

/// The description of the format that stands at the beginning.
fn head(nodes: u64, edges: usize) -> serde_json::Value {
    let number = "number";
    json!({
        "meta": {
            "node_fields": NODE_FIELDS,
            "node_types": [NODE_TYPES, "string", number, number, number, number, number],
            "edge_fields": EDGE_FIELDS,
            "edge_types": [EDGE_TYPES, "string_or_number", "node"],
            "trace_function_info_fields": ["function_id", "name", "script_name", "script_id", "line", "column"],
            "trace_node_fields": ["id", "function_info_index", "count", "size", "children"],
            "sample_fields": ["timestamp_us", "last_assigned_id"],
            "location_fields": ["object_index", "script_id", "line", "column"],
        },
        "node_count": nodes,
        "edge_count": edges,
        "trace_function_count": 0,
    })
}

/// Numbers of nodes, by which DevTools compare files: odd, and of 32 bits. That of an object follows from its address,
/// so an object that stays has the same in a later file, unless two objects are a multiple of 32 GiB apart.
#[derive(Default)]
struct Ids {
    given: FxHashSet<u32>,
    last: Option<u32>,
}

impl Ids {
    const FIRST: u32 = 1;

    /// The number of a node that is no object.
    fn next(&mut self) -> u32 {
        let next = self.last.map_or(Ids::FIRST, |last| last + 2);
        self.last = Some(next);
        self.given.insert(next);
        next
    }

    fn of(&mut self, address: Address) -> u32 {
        let mut id = ((address.0 >> 4) as u32) << 1 | 1;
        // Ends, since there are fewer objects than numbers.
        while !self.given.insert(id) {
            id = id.wrapping_add(2);
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_follow_from_addresses() {
        let mut ids = Ids::default();
        assert_eq!((ids.next(), ids.next()), (1, 3));
        let far = 0x7f00_1234_5670;
        assert_eq!(ids.of(Address(far)), ((far >> 4) as u32) << 1 | 1);
        assert_eq!(ids.of(Address(far + (1 << 35))), (((far >> 4) as u32) << 1 | 1) + 2);
        assert_eq!(ids.of(Address(0)), 5, "1 and 3 are given");
    }
}
