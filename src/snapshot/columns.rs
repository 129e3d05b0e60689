//! Takes over columns of a group of rows, some rows at a time.

use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::DataType;
use parquet::file::reader::RowGroupReader;

use super::open::SnapshotError;

const TOO_SHORT: SnapshotError = SnapshotError::Damaged("a column ends early");

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
pub(super) struct Values<T: DataType> {
    reader: ColumnReaderImpl<T>,
    is_optional: bool,
    values: Vec<T::T>,
    levels: Vec<i16>,
    /// Values of a row of an optional column are found by counting.
    met: usize,
}

impl<T: DataType> Values<T> {
    pub(super) fn of(group: &dyn RowGroupReader, name: &str) -> Result<Values<T>, SnapshotError> {
        let is_optional = matches!(name, "refcount" | "immortal" | "native" | "state");
        let reader = column::<T>(group, name)?;
        Ok(Values { reader, is_optional, values: Vec::new(), levels: Vec::new(), met: 0 })
    }

    /// Takes over the next rows.
    pub(super) fn next(&mut self, count: usize) -> Result<(), SnapshotError> {
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

    pub(super) fn required(&self, at: usize) -> Result<T::T, SnapshotError> {
        self.values.get(at).cloned().ok_or(TOO_SHORT)
    }

    /// The value of the next row of an optional column; rows are asked for in order.
    pub(super) fn optional(&mut self, at: usize) -> Option<T::T> {
        if self.levels.get(at).copied().unwrap_or(0) == 0 {
            return None;
        }
        let value = self.values.get(self.met).cloned();
        self.met += 1;
        value
    }
}

/// A column with a list in each row; an optional one may have none.
pub(super) struct Lists<T: DataType> {
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
    pub(super) fn of(group: &dyn RowGroupReader, name: &str, is_optional: bool) -> Result<Lists<T>, SnapshotError> {
        let (reader, empty) = (column::<T>(group, name)?, i16::from(is_optional));
        let (values, levels, repeats) = Default::default();
        Ok(Lists { reader, empty, values, levels, repeats, met: (0, 0) })
    }

    /// Takes over the next rows.
    pub(super) fn next(&mut self, count: usize) -> Result<(), SnapshotError> {
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
    pub(super) fn row(&mut self) -> Option<&[T::T]> {
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
