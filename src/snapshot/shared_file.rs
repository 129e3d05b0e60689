//! A file that several threads read, each at a place of its own: the handles that `File` clones share one position.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

/// An open file and its length.
pub struct SharedFile {
    file: Arc<File>,
    length: u64,
}

impl SharedFile {
    /// Takes a file over.
    ///
    /// # Errors
    /// Its length cannot be asked for.
    pub fn new(file: File) -> io::Result<SharedFile> {
        let length = file.metadata()?.len();
        Ok(SharedFile { file: Arc::new(file), length })
    }
}

impl Length for SharedFile {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for SharedFile {
    type T = BufReader<FileReading>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(BufReader::new(FileReading { file: Arc::clone(&self.file), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        // A damaged file may ask for more than there is.
        let end = start.checked_add(length as u64).filter(|&end| end <= self.length);
        end.ok_or_else(|| ParquetError::EOF(format!("no {length} bytes at {start}")))?;
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }
}

/// Reads a file from one place on.
pub struct FileReading {
    file: Arc<File>,
    at: u64,
}

impl Read for FileReading {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(bytes, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn readers_do_not_move_each_other_and_none_reads_past_the_end() {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(b"0123456789").expect("written");
        let shared = SharedFile::new(file).expect("a length");
        let (mut one, mut other) = (shared.get_read(2).expect("a reader"), shared.get_read(7).expect("a reader"));
        let next = |reader: &mut BufReader<FileReading>| reader.by_ref().bytes().next().and_then(io::Result::ok);
        assert_eq!((next(&mut one), next(&mut other), next(&mut one)), (Some(b'2'), Some(b'7'), Some(b'3')));
        assert_eq!(shared.get_bytes(8, 2).expect("bytes"), &b"89"[..]);
        for (start, length) in [(8, 3), (0, usize::MAX), (u64::MAX, 1)] {
            assert!(shared.get_bytes(start, length).is_err(), "{length} bytes at {start}");
        }
    }
}
