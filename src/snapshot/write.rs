//! Writes a snapshot, a column of a million objects at a time.

use std::io::{self, Write};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use parquet::basic::{Compression, Encoding};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;

use crate::analysis::owners::{GARBAGE, Owners};
use crate::graph::ObjectId;
use crate::graph::dominators::{Dominator, Dominators};
use crate::graph::objects::ObjectGraph;
use crate::graph::retained::Retained;
use crate::python::object_header::Refcount;
use crate::python::sizes::Basis;
use crate::python::types::{TypeInfo, TypeTable};

use super::notes::{ASCENDING, PREFIX, SCHEMA, SavedType, TYPES_KEY, VERSION, VERSION_KEY};

/// Rows of a group. Readers take a group at a time, in parallel.
const GROUP: usize = 1 << 20;
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
        for column in ASCENDING.map(ColumnPath::from) {
            properties = properties
                .set_column_dictionary_enabled(column.clone(), false)
                .set_column_encoding(column, Encoding::DELTA_BINARY_PACKED);
        }
        let buffer = PendingBytes::default();
        let schema = Arc::new(parse_message_type(SCHEMA).map_err(io::Error::other)?);
        let writer = SerializedFileWriter::new(buffer.clone(), schema, Arc::new(properties.build()));
        Ok(SnapshotWriter { buffer, writer: writer.map_err(io::Error::other)? })
    }

    /// Writes the objects of a heap, a column at a time.
    ///
    /// # Errors
    /// Errors of the writer.
    pub fn objects(&mut self, out: &mut dyn Write, heap: &LinkedHeap<'_>) -> io::Result<()> {
        let texts = Texts::new(heap);
        for start in (0..heap.graph.len()).step_by(GROUP) {
            let rows = start..heap.graph.len().min(start + GROUP);
            let mut group = self.writer.next_row_group().map_err(io::Error::other)?;
            for column in COLUMNS {
                column(&mut group, heap, &texts, rows.clone()).map_err(io::Error::other)?;
                self.buffer.drain(out)?;
            }
            group.close().map_err(io::Error::other)?;
        }
        let types: Vec<SavedType> = heap.types.iter().map(|(_, info)| saved(info)).collect();
        let types = KeyValue::new(TYPES_KEY.to_owned(), serde_json::to_string(&types)?);
        self.writer.append_key_value_metadata(types);
        Ok(())
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

fn saved(info: &TypeInfo) -> SavedType {
    let (module, name) = (info.module.clone(), info.qualname.clone());
    SavedType { module, name, is_lower_bound: info.basis == Basis::LowerBound }
}

/// Texts that many rows have.
struct Texts {
    types: Vec<ByteArray>,
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
        Texts {
            types: heap.types.iter().map(|(_, info)| ByteArray::from(saved(info).full_name().as_str())).collect(),
            holders: of_frames(&|frame| frames.holder(frame)),
            paths: of_frames(&|frame| heap.owners.path(frame)),
            garbage: ByteArray::from(GARBAGE),
        }
    }
}

type RowGroup<'g> = SerializedRowGroupWriter<'g, PendingBytes>;
type Column = fn(&mut RowGroup<'_>, &LinkedHeap<'_>, &Texts, Range<usize>) -> Result<()>;

/// The columns, in the order of [`SCHEMA`].
const COLUMNS: [Column; 10] = [
    |group, _, _, rows| required::<Int32Type>(group, rows, |row| row as i32),
    |group, heap, _, rows| required::<Int64Type>(group, rows, |row| heap.graph.objects.address(row).0 as i64),
    |group, heap, texts, rows| {
        required::<ByteArrayType>(group, rows, |row| text(&texts.types, heap.graph.objects.type_id(row).index()))
    },
    |group, heap, _, rows| required::<Int64Type>(group, rows, |row| heap.graph.objects.size(row) as i64),
    |group, heap, _, rows| {
        column::<Int64Type>(group, rows, true, |row| match heap.graph.objects.refcount(row) {
            Refcount::Count(count) => Some(count as i64),
            Refcount::Immortal(_) => None,
        })
    },
    |group, heap, _, rows| {
        let mut objects = heap.graph.objects.iter().skip(rows.start);
        required::<BoolType>(group, rows, |_| objects.next().is_some_and(|object| object.tracked))
    },
    |group, heap, texts, rows| {
        required::<ByteArrayType>(group, rows, |row| match heap.owners.frames().of(ObjectId(row as u32)) {
            Some(frame) => text(&texts.holders, frame as usize),
            None => texts.garbage.clone(),
        })
    },
    |group, heap, texts, rows| {
        column::<ByteArrayType>(group, rows, true, |row| {
            Some(text(&texts.paths, heap.owners.frames().of(ObjectId(row as u32))? as usize))
        })
    },
    |group, heap, _, rows| {
        column::<Int32Type>(group, rows, true, |row| match heap.dominators.of(ObjectId(row as u32)) {
            Dominator::Object(above) => Some(above.0 as i32),
            Dominator::Root | Dominator::Unreachable => None,
        })
    },
    |group, heap, _, rows| {
        required::<Int64Type>(group, rows, |row| heap.retained.get(row).map_or(0, |retained| retained.bytes) as i64)
    },
];

fn text(texts: &[ByteArray], index: usize) -> ByteArray {
    texts.get(index).cloned().unwrap_or_default()
}

fn required<T: DataType>(
    group: &mut RowGroup<'_>,
    rows: Range<usize>,
    mut value: impl FnMut(usize) -> T::T,
) -> Result<()> {
    column::<T>(group, rows, false, |row| Some(value(row)))
}

/// Writes the next column of a group.
fn column<T: DataType>(
    group: &mut RowGroup<'_>,
    rows: Range<usize>,
    is_optional: bool,
    mut value: impl FnMut(usize) -> Option<T::T>,
) -> Result<()> {
    let Some(mut column) = group.next_column()? else {
        return Err(ParquetError::General("more columns than the schema has".to_owned()));
    };
    let (mut values, mut levels): (Vec<T::T>, Vec<i16>) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
    for start in rows.clone().step_by(BATCH) {
        values.clear();
        levels.clear();
        for row in start..rows.end.min(start + BATCH) {
            let value = value(row);
            levels.push(i16::from(value.is_some()));
            values.extend(value);
        }
        column.typed::<T>().write_batch(&values, is_optional.then_some(levels.as_slice()), None)?;
    }
    column.close()
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
