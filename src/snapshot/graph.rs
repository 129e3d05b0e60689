//! Reads a snapshot with its references: the objects, the graph, the names of references.
//!
//! A file is as hostile as a process: no number in it is an index or a size before it was compared with what there is.

use parquet::data_type::{BoolType, ByteArray, ByteArrayType, Int32Type, Int64Type};
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::{FileReader, RowGroupReader};
use parquet::schema::parser::parse_message_type;
use rayon::prelude::*;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::analysis::inspectors::FoundStates;
use crate::analysis::labelled::{EdgeLabels, Labelled};
use crate::graph::ObjectId;
use crate::graph::csr::Csr;
use crate::graph::objects::{GraphRoot, ObjectGraph};
use crate::heap::address_index;
use crate::heap::object::{Object, Sink};
use crate::heap::object_table::{FoundObjects, Objects};
use crate::process::{Address, pages};
use crate::python::object_header::Refcount;
use crate::python::types::TypeTable;
use crate::references::roots::RootKind;

use super::columns::{Lists, Values};
use super::notes::{LABELS_KEY, ROOTS_KEY, SCHEMA, SavedRoot, SavedType, TYPES_KEY};
use super::open::{SnapshotError, SnapshotFile};
use super::read::{SIZE_MAX, batches};
use super::words;

/// Memory for an object, with the largest analysis of the graph, and for a reference in both directions with its
/// label, bytes.
const BYTES_PER_OBJECT: u64 = 68;
const BYTES_PER_EDGE: u64 = 12;
/// Bytes of memory for a byte of a file, at most. A heap of equal numbers packs into some tenths of a byte for each,
/// which take 600 times as much when they are read; what takes far more is made to.
const EXPANSION_MAX: u64 = 4096;
/// Objects of a file at most: their numbers are those of a graph.
const OBJECTS_MAX: u64 = u32::MAX as u64 - 2;

/// What a snapshot says of objects and references.
pub struct SavedObjects {
    /// The types.
    pub types: TypeTable,
    /// The objects; their numbers are those in the file.
    pub objects: Objects,
    forward: Csr,
    labels: EdgeLabels,
    named: Vec<GraphRoot>,
    native: FxHashMap<u32, u32>,
    lookups: FxHashSet<(u32, u32)>,
    states: FoundStates,
}

/// A graph that was read from a file.
pub struct SavedGraph<'a> {
    /// The types.
    pub types: &'a TypeTable,
    /// The graph of the objects.
    pub graph: ObjectGraph<'a>,
    /// Which objects are in a state that inspectors look for.
    pub states: FoundStates,
    labels: EdgeLabels,
}

impl SavedGraph<'_> {
    /// The references with their labels.
    pub fn labelled(&self) -> Labelled<'_> {
        Labelled { forward: &self.graph.forward, labels: &self.labels }
    }
}

impl SavedObjects {
    /// Reads a file, with at most `limit` bytes of memory.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn read(file: &SnapshotFile, limit: u64) -> Result<SavedObjects, SnapshotError> {
        if !file.has_references() {
            return Err(SnapshotError::NoReferences);
        }
        let metadata = file.reader.metadata();
        if *metadata.file_metadata().schema() != parse_message_type(SCHEMA)? {
            return Err(SnapshotError::Damaged("its columns"));
        }
        let room = FileRoom { limit, length: file.length };
        let FileSizes { rows, edges, at_once } = sizes(file)?;
        // What was read of a group and is not in the graph yet is there twice.
        let counted = edges.saturating_add(at_once);
        room.check(rows, counted, 0)?;
        let types: Vec<SavedType> = file.json(TYPES_KEY, "its list of types")?;
        let mut states = FoundStates::default();
        types.iter().for_each(|type_| states.add_type(type_.asked_by.iter().map(String::as_str)));
        let types = TypeTable::of(types.iter().map(SavedType::info).collect());
        let (labels, is_lookup) = labels(file)?;
        let mut read = RowsRead::new(rows, edges, labels, states);
        let groups = GroupReader { types: &types, is_lookup: &is_lookup, rows };
        // As many groups at once as there are threads; their rows follow each other.
        let mut next = 0u32;
        let start_of = |group: &RowGroupMetaData| {
            let start = next;
            next = next.saturating_add(u32::try_from(group.num_rows()).unwrap_or(u32::MAX));
            start
        };
        let starts: Vec<u32> = metadata.row_groups().iter().map(start_of).collect();
        let starts: Vec<(usize, u32)> = starts.into_iter().enumerate().collect();
        for some in starts.chunks(rayon::current_num_threads().max(1)) {
            let opened: Vec<Box<dyn RowGroupReader + '_>> =
                some.iter().map(|&(number, _)| file.reader.get_row_group(number)).collect::<Result<_, _>>()?;
            let objects =
                opened.par_iter().zip(some).with_max_len(1).map(|(group, &(_, start))| groups.objects(&**group, start));
            for objects in objects.collect::<Vec<_>>() {
                read.add_objects(objects?)?;
            }
            room.check(rows, counted, read.index)?;
            let references = opened
                .par_iter()
                .zip(some)
                .with_max_len(1)
                .map(|(group, &(_, start))| groups.references(&**group, start));
            for references in references.collect::<Vec<_>>() {
                read.add_references(references?);
            }
        }
        let RowsRead { found, forward, labels, native, lookups, states, .. } = read;
        let objects = Objects::new(found);
        if objects.len() as u64 != rows || forward.len() != objects.len() {
            return Err(SnapshotError::Damaged("an address"));
        }
        let roots: Vec<SavedRoot> = file.json(ROOTS_KEY, "its roots")?;
        let named: Option<Vec<GraphRoot>> = roots.iter().map(|root| named_root(root, rows)).collect();
        let named = named.ok_or(SnapshotError::Damaged("a root"))?;
        Ok(SavedObjects { types, objects, forward, labels, named, native, lookups, states })
    }

    /// Links the objects and passes their graph to `work`.
    pub fn link<R>(self, work: impl FnOnce(&SavedGraph<'_>) -> R) -> R {
        let SavedObjects { types, objects, forward, labels, named, native, lookups, states } = self;
        let excess = |object: ObjectId| native.get(&object.0).copied().unwrap_or(0);
        let graph = ObjectGraph::of_rows(&objects, &types, forward, named, excess, lookups);
        work(&SavedGraph { types: &types, graph, states, labels })
    }
}

/// The labels of references, still without references, and which of them are of lookups.
fn labels(file: &SnapshotFile) -> Result<(EdgeLabels, Vec<bool>), SnapshotError> {
    let texts: Vec<Vec<String>> = file.json(LABELS_KEY, "its labels of references")?;
    let (mut labels, mut is_lookup) = (EdgeLabels::default(), Vec::new());
    for texts in texts {
        let (start, mut any) = (labels.words.len() as u32, false);
        for text in texts {
            let (word, is_lookup) = words::read(&text).ok_or(SnapshotError::Damaged("a label of a reference"))?;
            labels.words.push(word);
            any |= is_lookup;
        }
        labels.labels.push(start..labels.words.len() as u32);
        is_lookup.push(any);
    }
    Ok((labels, is_lookup))
}

fn named_root(root: &SavedRoot, rows: u64) -> Option<GraphRoot> {
    let kind = RootKind::ALL.into_iter().find(|kind| kind.name() == root.kind)?;
    let is_one = u64::from(root.id) < rows && !matches!(kind, RootKind::Native | RootKind::Immortal);
    is_one.then(|| GraphRoot::named(ObjectId(root.id), kind, root.is_namespace, &root.name))
}

/// How much is in a file, as it states it.
struct FileSizes {
    rows: u64,
    edges: u64,
    /// References of the groups that are read at once, at most.
    at_once: u64,
}

fn sizes(file: &SnapshotFile) -> Result<FileSizes, SnapshotError> {
    let metadata = file.reader.metadata();
    let column = metadata.file_metadata().schema_descr().num_columns().checked_sub(LISTS);
    let (mut rows, mut edges, mut most) = (0u64, 0u64, 0u64);
    for group in metadata.row_groups() {
        let of_group = column.and_then(|column| group.columns().get(column)).map(|column| column.num_values());
        let both = (u64::try_from(group.num_rows()), of_group.map(u64::try_from));
        let (Ok(more), Some(Ok(more_edges))) = both else {
            return Err(SnapshotError::Damaged("the number of its objects"));
        };
        rows = rows.saturating_add(more);
        edges = edges.saturating_add(more_edges);
        most = most.max(more_edges);
    }
    match rows <= OBJECTS_MAX {
        true => {
            let threads = rayon::current_num_threads() as u64;
            Ok(FileSizes { rows, edges, at_once: edges.min(most.saturating_mul(threads)) })
        }
        false => Err(SnapshotError::Damaged("the number of its objects")),
    }
}

/// Columns at the end that are lists.
const LISTS: usize = 3;

/// The memory that may be used.
struct FileRoom {
    limit: u64,
    length: u64,
}

impl FileRoom {
    /// Whether so many objects and references, and an index of so many bytes, fit.
    fn check(&self, objects: u64, edges: u64, index: u64) -> Result<(), SnapshotError> {
        let objects = objects.saturating_mul(BYTES_PER_OBJECT);
        let needed = objects.saturating_add(edges.saturating_mul(BYTES_PER_EDGE)).saturating_add(index);
        if needed > self.length.saturating_mul(EXPANSION_MAX) {
            return Err(SnapshotError::Damaged("it is too small for what it says that it has"));
        }
        if needed > self.limit {
            return Err(SnapshotError::NoRoom { needed, limit: self.limit });
        }
        Ok(())
    }
}

/// What was read so far.
struct RowsRead {
    found: Vec<FoundObjects>,
    forward: Csr,
    labels: EdgeLabels,
    native: FxHashMap<u32, u32>,
    lookups: FxHashSet<(u32, u32)>,
    states: FoundStates,
    /// The last address.
    last: u64,
    /// Bytes of the objects.
    bytes: u64,
    /// Bytes of an index of their addresses.
    index: u64,
}

/// The objects of a group.
struct GroupObjects {
    found: FoundObjects,
    /// The first and the last address.
    ends: Option<(u64, u64)>,
    native: Vec<(u32, u32)>,
    states: Vec<(u32, ByteArray)>,
    bytes: u64,
    index: u64,
}

/// The references of a group.
struct GroupReferences {
    forward: Csr,
    numbers: Vec<u32>,
    items: Vec<(u32, Box<[u64]>)>,
    lookups: Vec<(u32, u32)>,
}

impl RowsRead {
    fn new(rows: u64, edges: u64, mut labels: EdgeLabels, states: FoundStates) -> RowsRead {
        let (found, native, lookups) = Default::default();
        let edges = usize::try_from(edges).unwrap_or(0);
        let mut forward = Csr::with_nodes(usize::try_from(rows).unwrap_or(0));
        forward.reserve(edges);
        labels.numbers = pages::with_capacity(edges);
        RowsRead { found, forward, labels, native, lookups, states, last: 0, bytes: 0, index: 0 }
    }

    /// Adds the objects of the next group.
    fn add_objects(&mut self, group: GroupObjects) -> Result<(), SnapshotError> {
        if let Some((first, last)) = group.ends {
            if first <= self.last {
                return Err(OUT_OF_ORDER);
            }
            self.index = self.index.saturating_add(address_index::memory_behind(self.last, first));
            self.last = last;
        }
        self.index = self.index.saturating_add(group.index);
        self.bytes = self.bytes.saturating_add(group.bytes);
        if self.bytes > BYTES_MAX {
            return Err(TOO_LARGE);
        }
        self.native.extend(group.native);
        for (row, text) in group.states {
            let text = std::str::from_utf8(text.data()).map_err(|_| SnapshotError::Damaged("a state"))?;
            self.states.add(ObjectId(row), text);
        }
        self.found.push(group.found);
        Ok(())
    }

    /// Adds the references of the next group.
    fn add_references(&mut self, group: GroupReferences) {
        self.forward.append(group.forward);
        self.labels.numbers.extend(group.numbers);
        self.labels.items.extend(group.items);
        self.lookups.extend(group.lookups);
    }
}

const OUT_OF_ORDER: SnapshotError = SnapshotError::Damaged("its objects are not in order");
const TOO_LARGE: SnapshotError = SnapshotError::Damaged("its objects are too large");
/// All objects together are not larger than this.
const BYTES_MAX: u64 = u64::MAX / 2;

/// Reads groups; what they say of others is checked when they are put together.
struct GroupReader<'t> {
    types: &'t TypeTable,
    is_lookup: &'t [bool],
    rows: u64,
}

impl GroupReader<'_> {
    /// The objects of a group, whose first row is `row`.
    fn objects(&self, group: &dyn RowGroupReader, mut row: u32) -> Result<GroupObjects, SnapshotError> {
        let mut addresses = Values::<Int64Type>::of(group, "address")?;
        let mut type_addresses = Values::<Int64Type>::of(group, "type_address")?;
        let mut sizes = Values::<Int64Type>::of(group, "size")?;
        let mut counts = Values::<Int64Type>::of(group, "refcount")?;
        let mut immortal = Values::<Int32Type>::of(group, "immortal")?;
        let mut tracked = Values::<BoolType>::of(group, "tracked")?;
        let mut native = Values::<Int32Type>::of(group, "native")?;
        let mut states = Values::<ByteArrayType>::of(group, "state")?;
        let (found, of_native, of_states) = Default::default();
        let mut read = GroupObjects { found, ends: None, native: of_native, states: of_states, bytes: 0, index: 0 };
        for count in batches(group) {
            addresses.next(count)?;
            type_addresses.next(count)?;
            sizes.next(count)?;
            counts.next(count)?;
            immortal.next(count)?;
            tracked.next(count)?;
            native.next(count)?;
            states.next(count)?;
            for at in 0..count {
                let address = addresses.required(at)? as u64;
                let (first, last) = read.ends.unwrap_or((address, address));
                if read.ends.is_some() {
                    if address <= last {
                        return Err(OUT_OF_ORDER);
                    }
                    read.index = read.index.saturating_add(address_index::memory_behind(last, address));
                }
                read.ends = Some((first, address));
                let type_id = self.types.find(type_addresses.required(at)? as u64);
                let type_id = type_id.ok_or(SnapshotError::Damaged("a type is not in its list"))?;
                let size = sizes.required(at)? as u64;
                read.bytes = read.bytes.saturating_add(size);
                if size > SIZE_MAX || read.bytes > BYTES_MAX {
                    return Err(TOO_LARGE);
                }
                let refcount = match (counts.optional(at), immortal.optional(at)) {
                    (Some(count), None) => Refcount::Count(count as u64),
                    (None, Some(word)) => Refcount::Immortal(word as u32),
                    _ => return Err(SnapshotError::Damaged("a reference count")),
                };
                if let Some(excess) = native.optional(at) {
                    read.native.push((row, excess as u32));
                }
                if let Some(text) = states.optional(at) {
                    read.states.push((row, text));
                }
                let tracked = tracked.required(at)?;
                read.found.object(&Object { address: Address(address), type_id, size, refcount, tracked });
                row = row.saturating_add(1);
            }
        }
        Ok(read)
    }

    /// The references of a group, whose first row is `row`.
    fn references(&self, group: &dyn RowGroupReader, mut row: u32) -> Result<GroupReferences, SnapshotError> {
        let mut targets = Lists::<Int32Type>::of(group, "references", false)?;
        let mut numbers = Lists::<Int32Type>::of(group, "labels", false)?;
        let mut items = Lists::<Int64Type>::of(group, "items", true)?;
        let forward = Csr::with_nodes(usize::try_from(group.metadata().num_rows()).unwrap_or(0));
        let mut read = GroupReferences { forward, numbers: Vec::new(), items: Vec::new(), lookups: Vec::new() };
        for count in batches(group) {
            targets.next(count)?;
            numbers.next(count)?;
            items.next(count)?;
            for _ in 0..count {
                let (targets, numbers) = (targets.row().unwrap_or_default(), numbers.row().unwrap_or_default());
                if targets.len() != numbers.len() {
                    return Err(SnapshotError::Damaged("a reference without a label"));
                }
                for (&target, &number) in targets.iter().zip(numbers) {
                    let (target, number) = (target as u32, number as u32);
                    if u64::from(target) >= self.rows {
                        return Err(SnapshotError::Damaged("a reference to no object"));
                    }
                    match self.is_lookup.get(number as usize) {
                        Some(true) => read.lookups.push((row, target)),
                        Some(false) => {}
                        None => return Err(SnapshotError::Damaged("a reference without a label")),
                    }
                    read.forward.push(ObjectId(target));
                    read.numbers.push(number);
                }
                if let Some(places) = items.row() {
                    if places.len() > numbers.len() {
                        return Err(SnapshotError::Damaged("the places of items"));
                    }
                    read.items.push((row, places.iter().map(|&place| place as u64).collect()));
                }
                read.forward.close_row();
                row = row.saturating_add(1);
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_cannot_ask_for_more_memory_than_it_can_fill_or_there_is() {
        let room = FileRoom { limit: 1 << 30, length: 1 << 16 };
        assert!(room.check(100_000, 200_000, 1 << 20).is_ok());
        let damaged = |check: Result<(), SnapshotError>| matches!(check, Err(SnapshotError::Damaged(_)));
        assert!(damaged(room.check(OBJECTS_MAX, 0, 0)));
        assert!(damaged(room.check(0, u64::MAX, 0)));
        assert!(damaged(room.check(1, 1, u64::MAX)));
        let large = FileRoom { limit: 1 << 30, length: 1 << 30 };
        assert!(matches!(large.check(1 << 24, 1 << 24, 0), Err(SnapshotError::NoRoom { .. })));
    }

    #[test]
    fn roots_of_no_object_and_of_no_kind_are_damage() {
        let root = |id, kind: &str| SavedRoot { id, kind: kind.to_owned(), is_namespace: true, name: "app".to_owned() };
        assert_eq!(named_root(&root(7, "module"), 8).map(|root| root.object), Some(ObjectId(7)));
        for wrong in [root(8, "module"), root(7, "native"), root(7, "immortal"), root(7, "tree")] {
            assert_eq!(named_root(&wrong, 8), None);
        }
    }
}
