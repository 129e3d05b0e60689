//! Writes a snapshot, a column of a million objects at a time.

use std::io::{self, Write};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use parquet::basic::{Compression, Encoding, Type as PhysicalType};
use parquet::column::writer::{ColumnCloseResult, ColumnWriter, get_column_writer, get_typed_column_writer_mut};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedFileWriter, SerializedPageWriter, TrackedWrite};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::{ColumnPath, Type};
use rayon::prelude::*;
use rustc_hash::FxHashMap;

use crate::analysis::inspectors::FoundStates;
use crate::analysis::owners::{GARBAGE, Owners};
use crate::graph::ObjectId;
use crate::graph::csr::Csr;
use crate::graph::dominators::{Dominator, Dominators};
use crate::graph::objects::ObjectGraph;
use crate::graph::retained::Retained;
use crate::python::object_header::Refcount;
use crate::python::types::TypeTable;
use crate::references::roots::RootKind;

use super::labels::{RowWords, WordsOfRows};
use super::notes::{
    CLOSE, LABELS_KEY, PREFIX, ROOTS_KEY, SCHEMA, SavedRoot, SavedType, TYPES_KEY, VERSION, VERSION_KEY,
};

/// Rows of a group. Readers take a group at a time, in parallel; the writer has the columns of one in memory.
const GROUP: usize = 1 << 19;
/// References of a group, unless one object has more.
const EDGES_MAX: usize = 1 << 21;
/// Rows that are handed over at once.
const BATCH: usize = 1 << 14;
/// A column with more bytes of different texts than this is written without a dictionary.
const DICTIONARY_MAX: usize = 16 << 20;

/// A heap with what was found out about it.
pub struct LinkedHeap<'h> {
    /// Its types.
    pub types: &'h TypeTable,
    /// Its objects.
    pub graph: &'h ObjectGraph<'h>,
    /// Who owns them.
    pub owners: &'h Owners,
    /// Their dominators.
    pub dominators: &'h Dominators,
    /// What each retains.
    pub retained: &'h [Retained],
    /// Which are in a state that inspectors look for.
    pub states: &'h FoundStates,
}

/// A snapshot that is being written.
pub struct SnapshotWriter {
    buffer: PendingBytes,
    writer: SerializedFileWriter<PendingBytes>,
}

impl SnapshotWriter {
    /// Begins a file.
    ///
    /// # Errors
    /// None that the caller could cause.
    pub fn new() -> io::Result<SnapshotWriter> {
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by(format!("heapsonde {}", env!("CARGO_PKG_VERSION")))
            .set_dictionary_page_size_limit(DICTIONARY_MAX);
        for column in CLOSE.map(|path| ColumnPath::new(path.iter().map(|part| (*part).to_owned()).collect())) {
            properties = properties
                .set_column_dictionary_enabled(column.clone(), false)
                .set_column_encoding(column, Encoding::DELTA_BINARY_PACKED);
        }
        let schema = Arc::new(parse_message_type(SCHEMA).map_err(io::Error::other)?);
        // Which text of a group is the first in alphabetical order helps no reader, and compares every row's.
        let is_text =
            |field: &&Arc<Type>| field.is_primitive() && field.get_physical_type() == PhysicalType::BYTE_ARRAY;
        for column in schema.get_fields().iter().filter(is_text) {
            let path = ColumnPath::from(column.name());
            properties = properties.set_column_statistics_enabled(path, EnabledStatistics::None);
        }
        let buffer = PendingBytes::default();
        let writer = SerializedFileWriter::new(buffer.clone(), schema, Arc::new(properties.build()));
        Ok(SnapshotWriter { buffer, writer: writer.map_err(io::Error::other)? })
    }

    /// Writes the objects of a heap, a column at a time.
    ///
    /// # Errors
    /// Errors of the writer.
    pub fn objects(&mut self, out: &mut dyn Write, heap: &LinkedHeap<'_>, words: &dyn WordsOfRows) -> io::Result<()> {
        let texts = Texts::new(heap);
        let mut numbers = WordNumbers::default();
        let mut start = 0;
        while start < heap.graph.len() {
            let rows = start..end_of_group(&heap.graph.forward, start);
            start = rows.end;
            let pieces = words.rows(rows.clone());
            let columns = self.encoded(heap, &texts, rows, &pieces, &mut numbers).map_err(io::Error::other)?;
            let mut group = self.writer.next_row_group().map_err(io::Error::other)?;
            for (bytes, closed) in columns {
                group.append_column(&bytes, closed).map_err(io::Error::other)?;
                self.buffer.drain(out)?;
            }
            group.close().map_err(io::Error::other)?;
            self.buffer.drain(out)?;
        }
        let types: Vec<SavedType> =
            heap.types.iter().map(|(type_id, info)| SavedType::of(info, heap.states.asked_by(type_id))).collect();
        self.text(TYPES_KEY, serde_json::to_string(&types)?);
        self.text(LABELS_KEY, serde_json::to_string(&numbers.texts(&words.texts()))?);
        let named = heap.graph.roots.iter().filter(|root| !matches!(root.kind, RootKind::Native | RootKind::Immortal));
        let roots: Vec<SavedRoot> = named
            .map(|root| SavedRoot {
                id: root.object.0,
                kind: root.kind.name().to_owned(),
                is_namespace: root.is_namespace,
                name: root.full_name().to_owned(),
            })
            .collect();
        self.text(ROOTS_KEY, serde_json::to_string(&roots)?);
        Ok(())
    }

    /// The columns of a group, each encoded by a thread: they take a few bytes for each row.
    fn encoded(
        &self,
        heap: &LinkedHeap<'_>,
        texts: &Texts,
        rows: Range<usize>,
        pieces: &[RowWords],
        numbers: &mut WordNumbers,
    ) -> Result<Vec<(Bytes, ColumnCloseResult)>> {
        // In this order, whichever thread comes first.
        let labels = pieces.iter().flat_map(|piece| &piece.numbers);
        let labels: Vec<i32> = labels.map(|&number| numbers.of(number) as i32).collect();
        let lists = Lists { forward: &heap.graph.forward, labels: &labels, pieces };
        let (schema, properties) = (self.writer.schema_descr(), self.writer.properties());
        let encoded = (0..schema.num_columns()).into_par_iter().with_max_len(1).map(|index| {
            let mut bytes = TrackedWrite::new(Vec::new());
            let pages = Box::new(SerializedPageWriter::new(&mut bytes));
            let mut writer = get_column_writer(schema.column(index), Arc::clone(properties), pages);
            match COLUMNS.get(index) {
                Some(column) => column(&mut writer, heap, texts, rows.clone())?,
                None => lists.write(&mut writer, index - COLUMNS.len(), rows.clone())?,
            }
            let closed = writer.close()?;
            Ok((Bytes::from(bytes.into_inner()?), closed))
        });
        encoded.collect()
    }

    fn text(&mut self, key: &str, text: String) {
        self.writer.append_key_value_metadata(KeyValue::new(key.to_owned(), text));
    }

    /// Ends the file, with texts beside its rows, by name.
    ///
    /// # Errors
    /// Errors of the writer.
    pub fn finish(mut self, out: &mut dyn Write, notes: &[(&str, String)]) -> io::Result<()> {
        self.writer.append_key_value_metadata(KeyValue::new(VERSION_KEY.to_owned(), VERSION.to_owned()));
        for (key, text) in notes {
            self.writer.append_key_value_metadata(KeyValue::new(format!("{PREFIX}{key}"), text.clone()));
        }
        self.writer.close().map_err(io::Error::other)?;
        self.buffer.drain(out)
    }
}

/// Where a group ends that begins at a row: it has at most so many rows, and as few more references as may be.
fn end_of_group(forward: &Csr, start: usize) -> usize {
    let limit = forward.len().min(start + GROUP);
    let first = forward.range(start).start;
    (start + 1..limit).find(|&end| forward.range(end).end - first > EDGES_MAX).unwrap_or(limit)
}

/// Numbers of labels in the order in which they occur, whichever thread met them first.
#[derive(Default)]
struct WordNumbers {
    /// By the number that the reading threads gave; [`u32::MAX`] of labels that have not occurred.
    of: Vec<u32>,
    count: u32,
}

impl WordNumbers {
    fn of(&mut self, number: u32) -> u32 {
        let index = number as usize;
        if index >= self.of.len() {
            self.of.resize(index + 1, u32::MAX);
        }
        if self.of[index] == u32::MAX {
            self.of[index] = self.count;
            self.count += 1;
        }
        self.of[index]
    }

    /// The labels in their order, each as its words.
    fn texts<'t>(&self, texts: &'t [Vec<String>]) -> Vec<&'t [String]> {
        let mut ordered: Vec<&[String]> = vec![&[]; self.count as usize];
        for (&number, words) in self.of.iter().zip(texts) {
            ordered.get_mut(number as usize).into_iter().for_each(|slot| *slot = words);
        }
        ordered
    }
}

/// The columns of references, their words and the places of items, of a group.
struct Lists<'l> {
    forward: &'l Csr,
    /// The numbers of words of the group's references.
    labels: &'l [i32],
    pieces: &'l [RowWords],
}

impl Lists<'_> {
    /// Writes one of them, by its place behind the other columns.
    fn write(&self, writer: &mut ColumnWriter<'_>, which: usize, rows: Range<usize>) -> Result<()> {
        let first = self.forward.range(rows.start).start;
        match which {
            0 => list_column::<Int32Type, _>(writer, rows, false, |row| {
                Some(self.forward.row(row).iter().map(|&target| target as i32))
            }),
            1 => list_column::<Int32Type, _>(writer, rows, false, |row| {
                let range = self.forward.range(row);
                Some(self.labels.get(range.start - first..range.end - first).unwrap_or_default().iter().copied())
            }),
            2 => {
                let mut items = self.pieces.iter().flat_map(|piece| &piece.items).peekable();
                list_column::<Int64Type, _>(writer, rows, true, |row| {
                    let (_, places) = items.next_if(|(id, _)| *id as usize == row)?;
                    Some(places.iter().map(|&place| place as i64))
                })
            }
            _ => Err(ParquetError::General("the schema has more columns".to_owned())),
        }
    }
}

/// Writes a column that has a list in each row; an optional one may have none.
fn list_column<T: DataType, V: Iterator<Item = T::T>>(
    writer: &mut ColumnWriter<'_>,
    rows: Range<usize>,
    is_optional: bool,
    mut list: impl FnMut(usize) -> Option<V>,
) -> Result<()> {
    let column = get_typed_column_writer_mut::<T>(writer);
    let empty = i16::from(is_optional);
    let (mut values, mut levels, mut repeats): (Vec<T::T>, Vec<i16>, Vec<i16>) = Default::default();
    let last = rows.end.saturating_sub(1);
    for row in rows {
        let (before, list) = (values.len(), list(row));
        let level = if list.is_some() { empty } else { 0 };
        values.extend(list.into_iter().flatten());
        let count = values.len() - before;
        repeats.push(0);
        if count == 0 {
            levels.push(level);
        } else {
            repeats.resize(repeats.len() + count - 1, 1);
            levels.resize(repeats.len(), level + 1);
        }
        if levels.len() >= BATCH || row == last {
            column.write_batch(&values, Some(&levels), Some(&repeats))?;
            values.clear();
            levels.clear();
            repeats.clear();
        }
    }
    Ok(())
}

/// Texts that many rows have.
struct Texts {
    types: Vec<ByteArray>,
    addresses: Vec<i64>,
    /// The first root of each object that is one.
    roots: FxHashMap<u32, RootKind>,
    /// References that only native code explains.
    native: FxHashMap<u32, u32>,
    holders: Vec<ByteArray>,
    paths: Vec<ByteArray>,
    garbage: ByteArray,
}

impl Texts {
    fn new(heap: &LinkedHeap<'_>) -> Texts {
        let frames = heap.owners.frames();
        let of_frames = |text: &dyn Fn(u32) -> String| {
            (0..frames.frames.len() as u32).map(|frame| ByteArray::from(text(frame).as_str())).collect()
        };
        let mut roots = FxHashMap::default();
        heap.graph.roots.iter().for_each(|root| _ = roots.entry(root.object.0).or_insert(root.kind));
        let native = heap.graph.roots.iter().filter(|root| root.kind == RootKind::Native);
        Texts {
            types: heap.types.iter().map(|(_, info)| ByteArray::from(info.full_name().as_str())).collect(),
            addresses: heap.types.iter().map(|(_, info)| info.address.0 as i64).collect(),
            native: native.map(|root| (root.object.0, root.excess)).collect(),
            roots,
            holders: of_frames(&|frame| frames.holder(frame)),
            paths: of_frames(&|frame| heap.owners.path(frame)),
            garbage: ByteArray::from(GARBAGE),
        }
    }
}

type Column = fn(&mut ColumnWriter<'_>, &LinkedHeap<'_>, &Texts, Range<usize>) -> Result<()>;

/// The columns but for lists, in the order of [`SCHEMA`].
const COLUMNS: [Column; 15] = [
    |writer, _, _, rows| required::<Int32Type>(writer, rows, |row| row as i32),
    |writer, heap, _, rows| {
        let mut objects = heap.graph.objects.from(rows.start);
        required::<Int64Type>(writer, rows, |_| objects.next().map_or(0, |(_, object)| object.address.0 as i64))
    },
    |writer, heap, texts, rows| {
        required::<ByteArrayType>(writer, rows, |row| text(&texts.types, heap.graph.objects.type_id(row).index()))
    },
    |writer, heap, texts, rows| {
        let address = |row| texts.addresses.get(heap.graph.objects.type_id(row).index()).copied().unwrap_or(0);
        required::<Int64Type>(writer, rows, address)
    },
    |writer, heap, _, rows| required::<Int64Type>(writer, rows, |row| heap.graph.objects.size(row) as i64),
    |writer, heap, _, rows| {
        column::<Int64Type>(writer, rows, true, |row| match heap.graph.objects.refcount(row) {
            Refcount::Count(count) => Some(count as i64),
            Refcount::Immortal(_) => None,
        })
    },
    |writer, heap, _, rows| {
        column::<Int32Type>(writer, rows, true, |row| match heap.graph.objects.refcount(row) {
            Refcount::Count(_) => None,
            Refcount::Immortal(word) => Some(word as i32),
        })
    },
    |writer, heap, _, rows| {
        let mut objects = heap.graph.objects.from(rows.start);
        required::<BoolType>(writer, rows, |_| objects.next().is_some_and(|(_, object)| object.tracked))
    },
    |writer, _, texts, rows| {
        column::<ByteArrayType>(writer, rows, true, |row| Some(texts.roots.get(&(row as u32))?.name().into()))
    },
    |writer, _, texts, rows| {
        column::<Int32Type>(writer, rows, true, |row| Some(*texts.native.get(&(row as u32))? as i32))
    },
    |writer, heap, texts, rows| {
        required::<ByteArrayType>(writer, rows, |row| match heap.owners.frames().of(ObjectId(row as u32)) {
            Some(frame) => text(&texts.holders, frame as usize),
            None => texts.garbage.clone(),
        })
    },
    |writer, heap, texts, rows| {
        column::<ByteArrayType>(writer, rows, true, |row| {
            Some(text(&texts.paths, heap.owners.frames().of(ObjectId(row as u32))? as usize))
        })
    },
    |writer, heap, _, rows| {
        column::<Int32Type>(writer, rows, true, |row| match heap.dominators.of(ObjectId(row as u32)) {
            Dominator::Object(above) => Some(above.0 as i32),
            Dominator::Root | Dominator::Unreachable => None,
        })
    },
    |writer, heap, _, rows| {
        required::<Int64Type>(writer, rows, |row| heap.retained.get(row).map_or(0, |retained| retained.bytes) as i64)
    },
    |writer, heap, _, rows| {
        column::<ByteArrayType>(writer, rows, true, |row| Some(heap.states.text(ObjectId(row as u32))?.as_str().into()))
    },
];

fn text(texts: &[ByteArray], index: usize) -> ByteArray {
    texts.get(index).cloned().unwrap_or_default()
}

fn required<T: DataType>(
    writer: &mut ColumnWriter<'_>,
    rows: Range<usize>,
    mut value: impl FnMut(usize) -> T::T,
) -> Result<()> {
    column::<T>(writer, rows, false, |row| Some(value(row)))
}

/// Writes a column.
fn column<T: DataType>(
    writer: &mut ColumnWriter<'_>,
    rows: Range<usize>,
    is_optional: bool,
    mut value: impl FnMut(usize) -> Option<T::T>,
) -> Result<()> {
    let column = get_typed_column_writer_mut::<T>(writer);
    let (mut values, mut levels): (Vec<T::T>, Vec<i16>) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
    for start in rows.clone().step_by(BATCH) {
        values.clear();
        levels.clear();
        for row in start..rows.end.min(start + BATCH) {
            let value = value(row);
            levels.push(i16::from(value.is_some()));
            values.extend(value);
        }
        column.write_batch(&values, is_optional.then_some(levels.as_slice()), None)?;
    }
    Ok(())
}

/// What was written and is not in the file yet: the writer of the format wants one that threads may share.
#[derive(Clone, Default)]
struct PendingBytes(Arc<Mutex<Vec<u8>>>);

impl PendingBytes {
    fn drain(&self, out: &mut dyn Write) -> io::Result<()> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        out.write_all(&bytes)
    }
}

impl Write for PendingBytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
