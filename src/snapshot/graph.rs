//! Reads a snapshot with its references: the objects, the graph, the names of references.
//!
//! A file is as hostile as a process: no number in it is an index or a size before it was compared with what there is.

use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{BoolType, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::file::reader::{FileReader, RowGroupReader};
use parquet::schema::parser::parse_message_type;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::analysis::inspectors::FoundStates;
use crate::analysis::labelled::{EdgeLabels, Labelled};
use crate::graph::ObjectId;
use crate::graph::csr::Csr;
use crate::graph::objects::{GraphRoot, ObjectGraph};
use crate::heap::address_index;
use crate::heap::object::{Object, Sink};
use crate::heap::object_table::{FoundObjects, Objects};
use crate::process::Address;
use crate::python::object_header::Refcount;
use crate::python::types::TypeTable;
use crate::references::roots::RootKind;

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
        let (rows, edges) = sizes(file)?;
        room.check(rows, edges, 0)?;
        let types: Vec<SavedType> = file.json(TYPES_KEY, "its list of types")?;
        let mut states = FoundStates::default();
        types.iter().for_each(|type_| states.add_type(type_.asked_by.iter().map(String::as_str)));
        let types = TypeTable::of(types.iter().map(SavedType::info).collect());
        let (labels, is_lookup) = labels(file)?;
        let forward = Csr::with_nodes(usize::try_from(rows).unwrap_or(0));
        let (found, native, lookups) = Default::default();
        let mut rows =
            RowsRead { types: &types, is_lookup, rows, found, forward, labels, native, lookups, states, last: 0 };
        let (mut bytes, mut index) = (0u64, 0u64);
        for group in 0..metadata.num_row_groups() {
            let group = file.reader.get_row_group(group)?;
            rows.objects(&*group, &mut bytes, &mut index)?;
            room.check(rows.rows, edges, index)?;
            rows.references(&*group)?;
        }
        let RowsRead { found, forward, labels, native, lookups, states, rows, .. } = rows;
        let objects = Objects::new(vec![found]);
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

/// The number of objects and of references in a file, as it states it.
fn sizes(file: &SnapshotFile) -> Result<(u64, u64), SnapshotError> {
    let metadata = file.reader.metadata();
    let edges = metadata.file_metadata().schema_descr().num_columns().checked_sub(LISTS);
    let (mut rows, mut references) = (0u64, 0u64);
    for group in metadata.row_groups() {
        let of_group = edges.and_then(|edges| group.columns().get(edges)).map(|column| column.num_values());
        let both = (u64::try_from(group.num_rows()), of_group.map(u64::try_from));
        let (Ok(more), Some(Ok(more_references))) = both else {
            return Err(SnapshotError::Damaged("the number of its objects"));
        };
        rows = rows.saturating_add(more);
        references = references.saturating_add(more_references);
    }
    match rows <= OBJECTS_MAX {
        true => Ok((rows, references)),
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
struct RowsRead<'t> {
    types: &'t TypeTable,
    is_lookup: Vec<bool>,
    rows: u64,
    found: FoundObjects,
    forward: Csr,
    labels: EdgeLabels,
    native: FxHashMap<u32, u32>,
    lookups: FxHashSet<(u32, u32)>,
    states: FoundStates,
    last: u64,
}

const TOO_SHORT: SnapshotError = SnapshotError::Damaged("a column ends early");

impl RowsRead<'_> {
    /// The objects of a group. Adds their bytes, and those of an index of their addresses.
    fn objects(&mut self, group: &dyn RowGroupReader, bytes: &mut u64, index: &mut u64) -> Result<(), SnapshotError> {
        let mut addresses = Values::<Int64Type>::of(group, "address")?;
        let mut type_addresses = Values::<Int64Type>::of(group, "type_address")?;
        let mut sizes = Values::<Int64Type>::of(group, "size")?;
        let mut counts = Values::<Int64Type>::of(group, "refcount")?;
        let mut immortal = Values::<Int32Type>::of(group, "immortal")?;
        let mut tracked = Values::<BoolType>::of(group, "tracked")?;
        let mut native = Values::<Int32Type>::of(group, "native")?;
        let mut states = Values::<ByteArrayType>::of(group, "state")?;
        let mut row = self.forward.len() as u32;
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
                if address <= self.last {
                    return Err(SnapshotError::Damaged("its objects are not in order"));
                }
                *index = index.saturating_add(address_index::memory_behind(self.last, address));
                self.last = address;
                let type_id = self.types.find(type_addresses.required(at)? as u64);
                let type_id = type_id.ok_or(SnapshotError::Damaged("a type is not in its list"))?;
                let size = sizes.required(at)? as u64;
                *bytes = bytes.saturating_add(size);
                if size > SIZE_MAX || *bytes > u64::MAX / 2 {
                    return Err(SnapshotError::Damaged("its objects are too large"));
                }
                let refcount = match (counts.optional(at), immortal.optional(at)) {
                    (Some(count), None) => Refcount::Count(count as u64),
                    (None, Some(word)) => Refcount::Immortal(word as u32),
                    _ => return Err(SnapshotError::Damaged("a reference count")),
                };
                if let Some(excess) = native.optional(at) {
                    self.native.insert(row, excess as u32);
                }
                if let Some(text) = states.optional(at) {
                    let text = std::str::from_utf8(text.data()).map_err(|_| SnapshotError::Damaged("a state"))?;
                    self.states.add(ObjectId(row), text);
                }
                let tracked = tracked.required(at)?;
                self.found.object(&Object { address: Address(address), type_id, size, refcount, tracked });
                row += 1;
            }
        }
        Ok(())
    }

    /// The references of a group.
    fn references(&mut self, group: &dyn RowGroupReader) -> Result<(), SnapshotError> {
        let mut targets = Lists::<Int32Type>::of(group, "references", false)?;
        let mut numbers = Lists::<Int32Type>::of(group, "labels", false)?;
        let mut items = Lists::<Int64Type>::of(group, "items", true)?;
        for count in batches(group) {
            targets.next(count)?;
            numbers.next(count)?;
            items.next(count)?;
            for _ in 0..count {
                let row = self.forward.len() as u32;
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
                        Some(true) => _ = self.lookups.insert((row, target)),
                        Some(false) => {}
                        None => return Err(SnapshotError::Damaged("a reference without a label")),
                    }
                    self.forward.push(ObjectId(target));
                    self.labels.numbers.push(number);
                }
                if let Some(places) = items.row() {
                    if places.len() > numbers.len() {
                        return Err(SnapshotError::Damaged("the places of items"));
                    }
                    self.labels.items.insert(row, places.iter().map(|&place| place as u64).collect());
                }
                self.forward.close_row();
            }
        }
        Ok(())
    }
}

/// The reader of a column of a group, by the first part of its name.
fn column<T: DataType>(group: &dyn RowGroupReader, name: &str) -> Result<ColumnReaderImpl<T>, SnapshotError> {
    let columns = group.metadata().columns();
    let is_it = |index: &usize| columns[*index].column_path().parts().first().is_some_and(|first| first == name);
    let index = (0..columns.len()).find(is_it).ok_or(SnapshotError::Damaged("a column is missing"))?;
    let of_other_type = SnapshotError::Damaged("a column is of another type");
    if columns[index].column_type() != T::get_physical_type() {
        return Err(of_other_type);
    }
    let reader: ColumnReader = group.get_column_reader(index)?;
    T::get_column_reader(reader).ok_or(of_other_type)
}

/// A column with at most one value in each row.
struct Values<T: DataType> {
    reader: ColumnReaderImpl<T>,
    is_optional: bool,
    values: Vec<T::T>,
    levels: Vec<i16>,
    /// Values of a row of an optional column are found by counting.
    met: usize,
}

impl<T: DataType> Values<T> {
    fn of(group: &dyn RowGroupReader, name: &str) -> Result<Values<T>, SnapshotError> {
        let is_optional = matches!(name, "refcount" | "immortal" | "native" | "state");
        let reader = column::<T>(group, name)?;
        Ok(Values { reader, is_optional, values: Vec::new(), levels: Vec::new(), met: 0 })
    }

    /// Takes over the next rows.
    fn next(&mut self, count: usize) -> Result<(), SnapshotError> {
        self.values.clear();
        self.levels.clear();
        self.met = 0;
        let mut rows = 0;
        while rows < count {
            let levels = self.is_optional.then_some(&mut self.levels);
            let (more, ..) = self.reader.read_records(count - rows, levels, None, &mut self.values)?;
            if more == 0 {
                return Err(TOO_SHORT);
            }
            rows += more;
        }
        Ok(())
    }

    fn required(&self, at: usize) -> Result<T::T, SnapshotError> {
        self.values.get(at).cloned().ok_or(TOO_SHORT)
    }

    /// The value of the next row of an optional column; rows are asked for in order.
    fn optional(&mut self, at: usize) -> Option<T::T> {
        if self.levels.get(at).copied().unwrap_or(0) == 0 {
            return None;
        }
        let value = self.values.get(self.met).cloned();
        self.met += 1;
        value
    }
}

/// A column with a list in each row; an optional one may have none.
struct Lists<T: DataType> {
    reader: ColumnReaderImpl<T>,
    /// The level of a list without elements.
    empty: i16,
    values: Vec<T::T>,
    levels: Vec<i16>,
    repeats: Vec<i16>,
    /// How many levels and values were handed out.
    met: (usize, usize),
}

impl<T: DataType> Lists<T> {
    fn of(group: &dyn RowGroupReader, name: &str, is_optional: bool) -> Result<Lists<T>, SnapshotError> {
        let (reader, empty) = (column::<T>(group, name)?, i16::from(is_optional));
        let (values, levels, repeats) = Default::default();
        Ok(Lists { reader, empty, values, levels, repeats, met: (0, 0) })
    }

    /// Takes over the next rows.
    fn next(&mut self, count: usize) -> Result<(), SnapshotError> {
        self.values.clear();
        self.levels.clear();
        self.repeats.clear();
        self.met = (0, 0);
        let mut rows = 0;
        while rows < count {
            let (levels, repeats) = (Some(&mut self.levels), Some(&mut self.repeats));
            let (more, ..) = self.reader.read_records(count - rows, levels, repeats, &mut self.values)?;
            if more == 0 {
                return Err(TOO_SHORT);
            }
            rows += more;
        }
        Ok(())
    }

    /// The list of the next row.
    fn row(&mut self) -> Option<&[T::T]> {
        let (level, value) = self.met;
        let rest = self.repeats.get(level + 1..).unwrap_or_default();
        let length = 1 + rest.iter().take_while(|&&repeat| repeat > 0).count();
        let levels = self.levels.get(level..level + length)?;
        let filled = levels.iter().filter(|&&level| level > self.empty).count();
        self.met = (level + length, value + filled);
        let is_none = levels.first().is_some_and(|&level| level < self.empty);
        if is_none { None } else { self.values.get(value..value + filled) }
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
