//! A live process: its memory by `process_vm_readv` or `/proc/PID/mem`, its identity from `/proc`.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use super::address::Address;
use super::memory::{Memory, Piece, ReadError};
use super::regions::RegionMap;
use super::resident;

/// Pieces per system call: the kernel's UIO_MAXIOV.
const PIECES_MAX: usize = 1024;

/// An address that no program maps (the first page is kept free), for questions about permission alone.
const NOWHERE: usize = 8;

/// A way to a process's memory. The kernel asks the same of both (`ptrace_may_access`), but containers' seccomp
/// filters refuse the call alone, and a user with CAP_SYS_PTRACE is refused the file alone (it belongs to another).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The system call, which takes many pieces at once.
    VmReadv,
    /// The file, one `pread` for each piece.
    ProcMem,
}

impl Way {
    /// The other one.
    pub fn other(self) -> Way {
        match self {
            Way::VmReadv => Way::ProcMem,
            Way::ProcMem => Way::VmReadv,
        }
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Way::VmReadv => "process_vm_readv",
            Way::ProcMem => "/proc/PID/mem",
        }
    }

    /// Whether the kernel lets us read `pid` this way. Reads nothing.
    ///
    /// # Errors
    /// What the kernel answers: EPERM or EACCES (no permission), ENOSYS (no such call), ESRCH (no such process).
    pub fn probe(self, pid: i32) -> Result<(), Errno> {
        match self {
            Way::VmReadv => {
                let remote = [RemoteIoVec { base: NOWHERE, len: 1 }];
                match process_vm_readv(Pid::from_raw(pid), &mut [io::IoSliceMut::new(&mut [0])], &remote) {
                    // The permission is asked first: a bad address is a yes.
                    Ok(_) | Err(Errno::EFAULT) => Ok(()),
                    Err(error) => Err(error),
                }
            }
            Way::ProcMem => open_mem(pid).map(drop).map_err(errno),
        }
    }
}

/// A running process whose memory we may read. Reading never stops it.
pub struct Process {
    pid: i32,
    /// The open file, where that is the way.
    mem: Option<File>,
    regions: RegionMap,
}

impl Process {
    /// Opens a process and reads its map of regions. Its memory is not touched yet. It will be read by
    /// `process_vm_readv`, or by `/proc/PID/mem` where that is refused or missing.
    ///
    /// # Errors
    /// As the kernel says: no such process, or no permission. [`crate::process::gates`] says which gate is shut.
    pub fn open(pid: i32) -> io::Result<Process> {
        Process::open_by(pid, Way::VmReadv)
    }

    /// As [`Process::open`], the other way round with [`Way::ProcMem`]: the way given is taken where it is open, else
    /// the other one where that is. Where both are shut, each read is [`ReadError::Denied`].
    ///
    /// # Errors
    /// As [`Process::open`].
    pub fn open_by(pid: i32, preferred: Way) -> io::Result<Process> {
        let regions = RegionMap::of_process(pid)?;
        let way = match preferred.probe(pid) {
            Ok(()) => preferred,
            Err(refusal) => match preferred.other().probe(pid) {
                Ok(()) => {
                    let other = preferred.other().name();
                    log::debug!("{} is refused ({refusal}); process {pid} is read by {other}", preferred.name());
                    preferred.other()
                }
                Err(_) => Way::VmReadv,
            },
        };
        let mem = match way {
            Way::VmReadv => None,
            Way::ProcMem => Some(open_mem(pid)?),
        };
        Ok(Process { pid, mem, regions })
    }

    /// The process id, as this host sees it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// How its memory is read.
    pub fn way(&self) -> Way {
        if self.mem.is_some() { Way::ProcMem } else { Way::VmReadv }
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
        if buffer.is_empty() {
            return Ok(());
        }
        if address.0.checked_add(buffer.len() as u64).is_none() {
            return Err(unreadable);
        }
        if let Some(mem) = &self.mem {
            return read_file(mem, address, buffer);
        }
        let mut done = 0;
        while done < buffer.len() {
            let remote = [RemoteIoVec { base: address.0 as usize + done, len: buffer.len() - done }];
            let mut local = [io::IoSliceMut::new(&mut buffer[done..])];
            // A call that ends early met a page that is not there, or the kernel's 2 GiB: the next one tells.
            match process_vm_readv(Pid::from_raw(self.pid), &mut local, &remote) {
                Ok(0) => return Err(unreadable),
                Ok(read) => done += read,
                Err(error) => return Err(refusal(error).unwrap_or(unreadable)),
            }
        }
        Ok(())
    }

    fn regions(&self) -> &RegionMap {
        &self.regions
    }

    fn read_pieces(&self, pieces: &mut [Piece<'_>]) -> Result<(), ReadError> {
        if let Some(mem) = &self.mem {
            for piece in pieces {
                match read_file(mem, piece.address, piece.buffer) {
                    Ok(()) => piece.filled = true,
                    Err(error @ (ReadError::Gone | ReadError::Denied)) => return Err(error),
                    Err(_) => piece.filled = false,
                }
            }
            return Ok(());
        }
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

fn open_mem(pid: i32) -> io::Result<File> {
    File::open(format!("/proc/{pid}/mem"))
}

fn errno(error: io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}

/// What an error says of the process as a whole; `None`: only of these bytes.
fn refusal(error: Errno) -> Option<ReadError> {
    match error {
        Errno::ESRCH => Some(ReadError::Gone),
        Errno::EPERM | Errno::EACCES | Errno::ENOSYS => Some(ReadError::Denied),
        _ => None,
    }
}

/// Reads from `/proc/PID/mem`, whose offsets are addresses. Its end is met only when the process has exited, or has
/// become another program: the file stays with the memory that it was opened on.
fn read_file(mem: &File, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
    let unreadable = ReadError::Unreadable { address, length: buffer.len() };
    let mut done = 0;
    while done < buffer.len() {
        let Some(at) = address.0.checked_add(done as u64) else { return Err(unreadable) };
        match mem.read_at(&mut buffer[done..], at) {
            Ok(0) => return Err(ReadError::Gone),
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(refusal(errno(error)).unwrap_or(unreadable)),
        }
    }
    Ok(())
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
        Err(error) => match refusal(error) {
            Some(refusal) => return Err(refusal),
            None => 0,
        },
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::memory::MemoryExt;

    #[test]
    fn both_ways_read_the_same_and_fail_the_same() {
        let truth: Vec<u64> = (0..100_000).map(|word| word * 0x0101_0101).collect();
        let me = std::process::id() as i32;
        for way in [Way::VmReadv, Way::ProcMem] {
            assert_eq!(way.probe(me), Ok(()), "{way:?}");
            let process = Process::open_by(me, way).unwrap();
            assert_eq!(process.way(), way);
            let start = Address(truth.as_ptr() as u64);
            let mut bytes = vec![0; truth.len() * 8];
            process.read_exact_at(start, &mut bytes).unwrap();
            assert!(bytes.chunks_exact(8).zip(&truth).all(|(bytes, word)| *bytes == word.to_le_bytes()));
            for nowhere in [0, 8, 1 << 60, u64::MAX - 3, u64::MAX] {
                let error = process.read_u64(Address(nowhere)).unwrap_err();
                assert!(matches!(error, ReadError::Unreadable { .. }), "{way:?} {nowhere:x}: {error}");
            }
            let (mut a, mut b, mut c) = ([0; 8], [0; 8], [0; 8]);
            let mut pieces = [
                Piece { address: start, buffer: &mut a, filled: false },
                Piece { address: Address(8), buffer: &mut b, filled: true },
                Piece { address: start.offset(16), buffer: &mut c, filled: false },
            ];
            process.read_pieces(&mut pieces).unwrap();
            assert_eq!(pieces.each_ref().map(|piece| piece.filled), [true, false, true], "{way:?}");
            assert_eq!(u64::from_le_bytes(c), truth[2]);
        }
    }

    #[test]
    fn a_process_that_is_not_there_opens_neither_way() {
        for way in [Way::VmReadv, Way::ProcMem] {
            assert!(way.probe(1 << 30).is_err());
            assert!(Process::open_by(1 << 30, way).is_err());
        }
    }
}
