//! Unpacks cores compressed with gzip or zstd, as `systemd-coredump` and `apport` store them.
//!
//! They are unpacked into an unnamed temporary file and not into memory, because a core is as large as the process was.
//! Blocks of zeros become holes, so that reserved memory takes no space.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};

use flate2::read::MultiGzDecoder;
use ruzstd::decoding::StreamingDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};

/// Upper bound on an unpacked core: 1 TiB, the memory of a large machine. A few bytes can claim to be more.
const SIZE_MAX: u64 = 1 << 40;
/// A core may fill one part in this many of the file system's free space.
const SPACE_SHARE: u64 = 2;
/// Minimum size of a hole, bytes.
const BLOCK: usize = 64 << 10;

/// The compression of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

impl Packing {
    /// Detects the compression from the first bytes of a file.
    pub fn of(magic: &[u8]) -> Option<Packing> {
        match magic {
            [0x1f, 0x8b, ..] => Some(Packing::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Packing::Zstd),
            _ => None,
        }
    }
}

/// Unpacks `packed` into a temporary file. `Ok((file, Some(error)))`: the packed file is truncated or damaged, and the
/// file holds the content before that.
///
/// # Errors
/// There is no room for it, or its beginning is invalid.
pub fn unpack(packed: File, packing: Packing) -> io::Result<(File, Option<io::Error>)> {
    let mut out = Holes { file: tempfile::tempfile()?, length: 0, written: 0, room: 0 };
    out.room = free_bytes(&out.file) / SPACE_SHARE;
    let mut input = BufReader::with_capacity(1 << 20, packed);
    let broken = match packing {
        Packing::Gzip => out.take(&mut MultiGzDecoder::new(&mut input))?,
        Packing::Zstd => loop {
            // A file may consist of several frames.
            match StreamingDecoder::new(&mut input) {
                Ok(mut frame) => match out.take(&mut frame)? {
                    None => {}
                    error => break error,
                },
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    io::copy(&mut (&mut input).take(length.into()), &mut io::sink())?;
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::MagicNumberReadError(_))) => {
                    break None;
                }
                Err(error) => break Some(io::Error::other(error)),
            }
        },
    };
    match broken {
        Some(error) if out.length == 0 => Err(error),
        broken => Ok((out.finish()?, broken)),
    }
}

fn free_bytes(file: &File) -> u64 {
    nix::sys::statvfs::fstatvfs(file).map_or(u64::MAX, |stat| stat.blocks_available() * stat.fragment_size())
}

/// A file that is written sequentially, with holes for zeros.
struct Holes {
    file: File,
    length: u64,
    written: u64,
    room: u64,
}

impl Holes {
    /// Writes everything that `from` returns. `Ok(Some)`: reading failed before the end.
    fn take(&mut self, from: &mut dyn Read) -> io::Result<Option<io::Error>> {
        let mut block = vec![0; BLOCK];
        loop {
            let mut filled = 0;
            let ended = loop {
                match from.read(&mut block[filled..]) {
                    Ok(0) => break Some(None),
                    Ok(read) => filled += read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => break Some(Some(error)),
                }
                if filled == BLOCK {
                    break None;
                }
            };
            self.push(&block[..filled])?;
            if let Some(error) = ended {
                return Ok(error);
            }
        }
    }

    fn push(&mut self, block: &[u8]) -> io::Result<()> {
        let length = block.len() as u64;
        self.length += length;
        if self.length > SIZE_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "unpacked it is larger than 1 TiB"));
        }
        if block.iter().all(|&byte| byte == 0) {
            self.file.seek(SeekFrom::Current(length as i64))?;
            return Ok(());
        }
        self.written += length;
        if self.written > self.room {
            let place = std::env::temp_dir();
            let text =
                format!("there is no room to unpack it in {} (TMPDIR selects another directory)", place.display());
            return Err(io::Error::new(io::ErrorKind::StorageFull, text));
        }
        self.file.write_all(block)
    }

    fn finish(self) -> io::Result<File> {
        self.file.set_len(self.length)?;
        Ok(self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    /// A file compressed by gzip, and the same twice with the second copy truncated.
    #[test]
    fn zeros_become_holes_and_a_cut_is_told() {
        let mut plain = vec![7u8; 3 * BLOCK];
        plain.resize(600 * BLOCK, 0);
        plain.extend([9; 10]);
        let mut packed = tempfile::tempfile().unwrap();
        let mut encoder = flate2::write::GzEncoder::new(&mut packed, flate2::Compression::fast());
        encoder.write_all(&plain).unwrap();
        encoder.finish().unwrap();
        let length = packed.stream_position().unwrap();
        packed.rewind().unwrap();
        let (mut file, broken) = unpack(packed.try_clone().unwrap(), Packing::Gzip).unwrap();
        assert!(broken.is_none());
        let mut unpacked = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut unpacked).unwrap();
        assert!(unpacked == plain);
        assert!(file.metadata().unwrap().blocks() * 512 < plain.len() as u64 / 2);

        packed.set_len(length - 12).unwrap();
        packed.rewind().unwrap();
        let (file, broken) = unpack(packed, Packing::Gzip).unwrap();
        assert!(broken.is_some() && file.metadata().unwrap().len() >= 3 * BLOCK as u64);
    }

    #[test]
    fn nonsense_is_refused() {
        for (packing, magic) in [(Packing::Gzip, &[0x1f, 0x8b][..]), (Packing::Zstd, &[0x28, 0xb5, 0x2f, 0xfd])] {
            assert_eq!(Packing::of(magic), Some(packing));
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&[magic, &[0xff; 100]].concat()).unwrap();
            file.rewind().unwrap();
            assert!(unpack(file, packing).is_err(), "{packing:?}");
        }
        assert_eq!(Packing::of(b"\x7fELF"), None);
        assert_eq!(Packing::of(b""), None);
    }
}
