//! A live process: its memory by `process_vm_readv`, its identity from `/proc`.

use std::io;
use std::ops::Range;

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use read_process_memory::{CopyAddress, ProcessHandle};

use super::address::Address;
use super::memory::{Memory, Piece, ReadError};
use super::regions::RegionMap;
use super::resident;

/// Pieces per system call: the kernel's UIO_MAXIOV.
const PIECES_MAX: usize = 1024;

/// A running process whose memory we may read. Reading never stops it.
pub struct Process {
    pid: i32,
    handle: ProcessHandle,
    regions: RegionMap,
}

impl Process {
    /// Opens a process and reads its map of regions. Its memory is not touched yet.
    ///
    /// # Errors
    /// As the kernel says: no such process, or no permission. [`super::gates`] says which gate is shut.
    pub fn open(pid: i32) -> io::Result<Process> {
        let regions = RegionMap::of_process(pid)?;
        Ok(Process { pid, handle: ProcessHandle::try_from(pid)?, regions })
    }

    /// The process id, as this host sees it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Reads the map of regions again: a running target maps more as it goes.
    ///
    /// # Errors
    /// As [`Process::open`].
    pub fn refresh(&mut self) -> io::Result<()> {
        self.regions = RegionMap::of_process(self.pid)?;
        Ok(())
    }
}

impl Memory for Process {
    fn read_exact_at(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        let unreadable = ReadError::Unreadable { address, length: buffer.len() };
        let start = usize::try_from(address.0).map_err(|_| unreadable.clone())?;
        if start.checked_add(buffer.len()).is_none() {
            return Err(unreadable);
        }
        self.handle.copy_address(start, buffer).map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ESRCH) => ReadError::Gone,
            Some(Errno::EPERM | Errno::EACCES) => ReadError::Denied,
            _ => unreadable,
        })
    }

    fn regions(&self) -> &RegionMap {
        &self.regions
    }

    fn read_pieces(&self, pieces: &mut [Piece<'_>]) -> Result<(), ReadError> {
        for batch in pieces.chunks_mut(PIECES_MAX) {
            let mut first = 0;
            while first < batch.len() {
                first += read_run(self.pid, &mut batch[first..])?;
            }
        }
        Ok(())
    }

    fn resident(&self, range: Range<Address>) -> Vec<Range<Address>> {
        resident::of_process(self.pid, range)
    }
}

/// One system call for a run of pieces. Returns how many are settled: the filled ones, and the one that stopped the
/// call, which is marked as not filled. At least one, so that the caller's loop ends.
fn read_run(pid: i32, pieces: &mut [Piece<'_>]) -> Result<usize, ReadError> {
    let remote: Vec<RemoteIoVec> =
        pieces.iter().map(|piece| RemoteIoVec { base: piece.address.0 as usize, len: piece.buffer.len() }).collect();
    let result = {
        let mut local: Vec<io::IoSliceMut> = pieces.iter_mut().map(|piece| io::IoSliceMut::new(piece.buffer)).collect();
        process_vm_readv(Pid::from_raw(pid), &mut local, &remote)
    };
    let mut left = match result {
        Ok(bytes) => bytes,
        Err(Errno::ESRCH) => return Err(ReadError::Gone),
        Err(Errno::EPERM | Errno::EACCES) => return Err(ReadError::Denied),
        Err(_) => 0,
    };
    for (index, piece) in pieces.iter_mut().enumerate() {
        piece.filled = left >= piece.buffer.len();
        if !piece.filled {
            return Ok(index + 1);
        }
        left -= piece.buffer.len();
    }
    Ok(pieces.len())
}
