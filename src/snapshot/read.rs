//! Reads a snapshot: its histograms, by type and by holder, and the texts beside its rows.

use std::path::Path;

use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int64Type};
use parquet::file::reader::{FileReader, RowGroupReader};
use rayon::prelude::*;
use rustc_hash::FxHashMap;

use crate::analysis::histogram::{Amount, Histogram, Row, SortKey};
use crate::analysis::owners::{HeldTypes, holder_row};

use super::notes::{SavedType, TYPES_KEY};
use super::open::{SnapshotError, SnapshotFile};

/// Rows that are taken over at once.
const BATCH: usize = 1 << 14;
/// A larger object than this is damage: no process has so much memory.
pub(super) const SIZE_MAX: u64 = 1 << 47;

/// The numbers of rows to take over, one after the other, for all rows of a group.
pub(super) fn batches(group: &dyn RowGroupReader) -> impl Iterator<Item = usize> {
    let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
    (0..rows).step_by(BATCH).map(move |start| BATCH.min(rows - start))
}

/// What a snapshot says.
pub struct SavedHistograms {
    /// Objects and bytes by type.
    pub by_type: Histogram,
    /// Objects and bytes by holder.
    pub by_holder: Histogram,
    /// Bytes by holder and type.
    pub held: HeldTypes,
    /// The file.
    pub file: SnapshotFile,
}

impl SavedHistograms {
    /// Reads a file.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn read(path: &Path, sort: SortKey) -> Result<SavedHistograms, SnapshotError> {
        let file = SnapshotFile::open(path)?;
        let types: Vec<SavedType> = file.json(TYPES_KEY, "its list of types")?;
        let reader = &file.reader;
        let schema = reader.metadata().file_metadata().schema_descr();
        let index = |name: &str| (0..schema.num_columns()).find(|&index| schema.column(index).name() == name);
        let indices = [index("type"), index("size"), index("holder")];
        let [Some(type_index), Some(size_index), Some(holder_index)] = indices else {
            return Err(SnapshotError::Damaged("a column is missing"));
        };
        let groups = (0..reader.num_row_groups()).into_par_iter().with_max_len(1).map(|group| {
            let mut sums = RowSums::default();
            let group = reader.get_row_group(group)?;
            sums.add_group(&*group, type_index, size_index, holder_index)?;
            Ok(sums)
        });
        let mut sums = RowSums::default();
        for group in groups.collect::<Vec<Result<RowSums, SnapshotError>>>() {
            sums.add(group?)?;
        }
        let RowSums { by_type, by_holder, held, total } = sums;
        let held = by_name(&by_holder, &by_type, held);
        let (by_type, by_holder) = (by_type.amounts(), by_holder.amounts());
        let mut known: FxHashMap<String, Row> = types.iter().map(|type_| (type_.full_name(), type_.row())).collect();
        let mut rows = Vec::new();
        for (name, amount) in by_type {
            let row = known.remove(&name).ok_or(SnapshotError::Damaged("a type is not in its list"))?;
            rows.push(Row { amount, ..row });
        }
        let by_type = Histogram::of(rows, total, sort);
        let rows = by_holder.map(|(holder, amount)| holder_row(holder, amount)).collect();
        Ok(SavedHistograms { by_type, by_holder: Histogram::of(rows, total, sort), held, file })
    }
}

/// Objects and bytes of the rows so far.
#[derive(Default)]
struct RowSums {
    by_type: NamedSums,
    by_holder: NamedSums,
    /// Bytes by number of the holder and of the type.
    held: FxHashMap<(u32, u32), u64>,
    total: Amount,
}

/// Amounts by name; names are numbered.
#[derive(Default)]
struct NamedSums {
    numbers: FxHashMap<String, u32>,
    amounts: Vec<Amount>,
}

impl NamedSums {
    /// Adds to the amount of a name, and returns its number.
    fn add(&mut self, name: &ByteArray, amount: Amount) -> Result<u32, SnapshotError> {
        let name = std::str::from_utf8(name.data()).map_err(|_| SnapshotError::Damaged("a name is no text"))?;
        Ok(self.add_name(name, amount))
    }

    fn add_name(&mut self, name: &str, amount: Amount) -> u32 {
        let number = match self.numbers.get(name) {
            Some(&number) => number,
            None => {
                let number = self.amounts.len() as u32;
                self.numbers.insert(name.to_owned(), number);
                self.amounts.push(Amount::default());
                number
            }
        };
        self.amounts[number as usize].add(amount);
        number
    }

    /// Adds other sums, and returns the number here of each of their names.
    fn add_all(&mut self, others: NamedSums) -> FxHashMap<u32, u32> {
        let NamedSums { numbers, amounts } = others;
        let add = |(name, number): (String, u32)| (number, self.add_name(&name, amounts[number as usize]));
        numbers.into_iter().map(add).collect()
    }

    fn amounts(self) -> impl Iterator<Item = (String, Amount)> {
        let NamedSums { numbers, amounts } = self;
        numbers.into_iter().map(move |(name, number)| (name, amounts[number as usize]))
    }
}

/// The same by names.
fn by_name(holders: &NamedSums, types: &NamedSums, held: FxHashMap<(u32, u32), u64>) -> HeldTypes {
    let names = |sums: &NamedSums| -> FxHashMap<u32, String> {
        sums.numbers.iter().map(|(name, &number)| (number, name.clone())).collect()
    };
    let (holders, types) = (names(holders), names(types));
    let named = |((holder, type_), bytes)| Some(((holders.get(&holder)?.clone(), types.get(&type_)?.clone()), bytes));
    held.into_iter().filter_map(named).collect()
}

impl RowSums {
    fn add_group(
        &mut self,
        group: &dyn RowGroupReader,
        type_index: usize,
        size_index: usize,
        holder_index: usize,
    ) -> Result<(), SnapshotError> {
        const OTHER: SnapshotError = SnapshotError::Damaged("a column is of another type");
        let texts = |index: usize| match group.get_column_reader(index)? {
            ColumnReader::ByteArrayColumnReader(reader) => Ok(reader),
            _ => Err(OTHER),
        };
        let (mut types, mut holders) = (texts(type_index)?, texts(holder_index)?);
        let ColumnReader::Int64ColumnReader(mut sizes) = group.get_column_reader(size_index)? else {
            return Err(OTHER);
        };
        for count in batches(group) {
            let types = next::<ByteArrayType>(&mut types, count)?;
            let holders = next::<ByteArrayType>(&mut holders, count)?;
            let sizes = next::<Int64Type>(&mut sizes, count)?;
            for ((type_name, holder), size) in types.iter().zip(&holders).zip(sizes) {
                let bytes = u64::try_from(size).ok().filter(|&size| size <= SIZE_MAX);
                let bytes = bytes.ok_or(SnapshotError::Damaged("an object is too large"))?;
                let amount = Amount { objects: 1, bytes };
                self.total.add(amount);
                let type_ = self.by_type.add(type_name, amount)?;
                let holder = self.by_holder.add(holder, amount)?;
                let held = self.held.entry((holder, type_)).or_default();
                *held = held.saturating_add(bytes);
            }
            self.check_total()?;
        }
        Ok(())
    }

    /// Adds the sums of another group.
    fn add(&mut self, other: RowSums) -> Result<(), SnapshotError> {
        self.total.add(other.total);
        self.check_total()?;
        let (types, holders) = (self.by_type.add_all(other.by_type), self.by_holder.add_all(other.by_holder));
        for ((holder, type_), bytes) in other.held {
            if let (Some(&holder), Some(&type_)) = (holders.get(&holder), types.get(&type_)) {
                let held = self.held.entry((holder, type_)).or_default();
                *held = held.saturating_add(bytes);
            }
        }
        Ok(())
    }

    fn check_total(&self) -> Result<(), SnapshotError> {
        match self.total.bytes <= u64::MAX / 2 {
            true => Ok(()),
            false => Err(SnapshotError::Damaged("its objects are too large")),
        }
    }
}

/// The next values of a column, which has one in each row.
fn next<T: DataType>(reader: &mut ColumnReaderImpl<T>, count: usize) -> Result<Vec<T::T>, SnapshotError> {
    let mut values = Vec::with_capacity(count);
    while values.len() < count {
        let before = values.len();
        reader.read_records(count - before, None, None, &mut values)?;
        if values.len() <= before {
            return Err(SnapshotError::Damaged("a column ends early"));
        }
    }
    Ok(values)
}
