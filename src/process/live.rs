//! Reads a live process: its memory by `/proc/PID/mem` or `process_vm_readv`, its identity from `/proc`.
//!
//! Reading changes nothing in the process:
//!
//! - `process_vm_readv` pins the pages that it reads (FOLL_PIN). Since Linux 5.19 a pinned page that is shared after a
//!   fork is unshared, which makes a copy (`gup_must_unshare`, `mm/gup.c`). A read of `/proc/PID/mem` (FOLL_GET) does
//!   not do that, so it is preferred; the system call is used if the file is refused.
//! - Reading a page that is not resident makes the kernel allocate and map one. So only resident pages are read: other
//!   private anonymous pages are zeros, and other file-backed pages are read from the file.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use read_process_memory::{CopyAddress, ProcessHandle};

use super::address::{self, Address, add_run};
use super::mapped_files::MappedFiles;
use super::memory::{Memory, Piece, ReadError};
use super::procfs;
use super::regions::{Backing, Region, RegionMap};
use super::resident::{NEAR, PageMap};

/// Maximum number of pieces per system call: the kernel's UIO_MAXIOV.
const PIECES_MAX: usize = 1024;

const PAGE: usize = address::PAGE as usize;

/// An address that no program maps (the first page stays unmapped), to ask for permission only.
const NOWHERE: usize = 8;

/// A method to read a process's memory. Both need the same permission (`ptrace_may_access`), but seccomp filters of
/// containers may refuse only the system call, and a user with CAP_SYS_PTRACE may be refused only the file, which
/// belongs to another user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The file `/proc/PID/mem`, one `pread` per piece.
    ProcMem,
    /// The system call, which takes many pieces at once.
    VmReadv,
}

impl Way {
    /// The other method.
    pub fn other(self) -> Way {
        match self {
            Way::VmReadv => Way::ProcMem,
            Way::ProcMem => Way::VmReadv,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Way::VmReadv => "process_vm_readv",
            Way::ProcMem => "/proc/PID/mem",
        }
    }

    /// Whether the kernel lets us read `pid` this way. Reads nothing.
    ///
    /// # Errors
    /// The kernel's answer: EPERM or EACCES (no permission), ENOSYS (no such call), ESRCH (no such process).
    pub fn probe(self, pid: i32) -> Result<(), Errno> {
        match self {
            Way::VmReadv => {
                let remote = [RemoteIoVec { base: NOWHERE, len: 1 }];
                match process_vm_readv(Pid::from_raw(pid), &mut [io::IoSliceMut::new(&mut [0])], &remote) {
                    // The permission is checked first, so a bad address means yes.
                    Ok(_) | Err(Errno::EFAULT) => Ok(()),
                    Err(error) => Err(error),
                }
            }
            Way::ProcMem => File::open(format!("/proc/{pid}/mem")).map(drop).map_err(errno),
        }
    }
}

/// A running process with readable memory. Reading never stops it.
///
/// The files in `/proc` are opened once and stay bound to the memory of the program that ran then. A process that
/// executes another program meanwhile is [`ReadError::Gone`]; the new program is never read as if it were the old one.
pub struct Process {
    pid: i32,
    /// A thread that has memory: the first one, unless it has exited while others run.
    thread: i32,
    /// `/proc/PID/mem`, if that method is used.
    mem: Option<File>,
    maps: File,
    pages: PageMap,
    files: MappedFiles,
    regions: RegionMap,
    /// The text of `/proc/PID/maps` that they are of.
    maps_text: Vec<u8>,
}

impl Process {
    /// Opens a process and reads its region map, but not its memory. It will be read through `/proc/PID/mem`, or with
    /// `process_vm_readv` if that is refused.
    ///
    /// # Errors
    /// Those of the kernel: no such process, or no permission. [`crate::process::gates`] tells which check failed.
    pub fn open(pid: i32) -> io::Result<Process> {
        Process::open_by(pid, Way::ProcMem)
    }

    /// As [`Process::open`], with a preferred method. The other one is used if the preferred one is refused and the
    /// other is not. If both are refused, each read is [`ReadError::Denied`].
    ///
    /// # Errors
    /// As [`Process::open`].
    pub fn open_by(pid: i32, preferred: Way) -> io::Result<Process> {
        let thread = procfs::thread_with_memory(pid);
        let folder = PathBuf::from(format!("/proc/{thread}"));
        let maps = File::open(folder.join("maps"))?;
        let maps_text = read_whole(&maps)?;
        let regions = RegionMap::parse(&maps_text);
        let way = match preferred.probe(thread) {
            Ok(()) => preferred,
            Err(refusal) => match preferred.other().probe(thread) {
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
            Way::ProcMem => Some(File::open(folder.join("mem"))?),
        };
        let pages = PageMap::open(&folder);
        Ok(Process { pid, thread, mem, maps, pages, files: MappedFiles::new(&folder), regions, maps_text })
    }

    /// The process id on this host.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// A thread that has memory: the process itself, unless its first thread has exited.
    pub fn thread(&self) -> i32 {
        self.thread
    }

    /// The method by which its memory is read.
    pub fn way(&self) -> Way {
        if self.mem.is_some() { Way::ProcMem } else { Way::VmReadv }
    }

    /// Whether the kernel lets us read the process by the selected method.
    ///
    /// # Errors
    /// As [`Way::probe`].
    pub fn probe(&self) -> Result<(), Errno> {
        self.way().probe(self.thread)
    }

    /// Whether the program that was opened is still running. `false` once it has exited or executed another program.
    pub fn is_alive(&self) -> bool {
        let mut byte = [0];
        match (&self.mem, self.regions.iter().find(|region| region.readable)) {
            (Some(mem), Some(region)) => !matches!(read_file(mem, region.start, &mut byte), Err(ReadError::Gone)),
            _ => self.pages.is_alive(),
        }
    }

    /// Reads the region map again: a running target maps more memory.
    ///
    /// # Errors
    /// As [`Process::open`].
    pub fn refresh(&mut self) -> io::Result<()> {
        // With tens of thousands of mappings reading the text costs as much as all else, and most looks find the same.
        if let Some(text) = read_if_changed(&self.maps, &self.maps_text)? {
            let regions = RegionMap::parse(&text);
            if regions.iter().next().is_none() {
                return Err(io::ErrorKind::NotFound.into());
            }
            (self.regions, self.maps_text) = (regions, text);
        }
        self.pages.forget();
        Ok(())
    }

    /// Reads resident pages.
    fn read_resident(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        if let Some(mem) = &self.mem {
            return read_file(mem, address, buffer);
        }
        let unreadable = ReadError::Unreadable { address, length: buffer.len() };
        let (Ok(handle), Ok(base)) = (ProcessHandle::try_from(self.thread), usize::try_from(address.0)) else {
            return Err(unreadable);
        };
        // The kernel copies at most 2 GiB minus a page.
        const CALL_MAX: usize = 1 << 30;
        for (index, piece) in buffer.chunks_mut(CALL_MAX).enumerate() {
            let read = handle.copy_address(base + index * CALL_MAX, piece);
            read.map_err(|error| refusal(errno(error)).unwrap_or_else(|| unreadable.clone()))?;
        }
        Ok(())
    }

    /// Reads pages that are not resident.
    fn read_absent(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        let unreadable = |at: Address, length| ReadError::Unreadable { address: at, length };
        let mut done = 0;
        while done < buffer.len() {
            let at = address.offset(done);
            let Some(region) = self.regions.find(at) else {
                // Mapped since the map was read, or not mapped: the kernel decides.
                return self.read_resident(at, &mut buffer[done..]);
            };
            let left = usize::try_from(region.end.0 - at.0).unwrap_or(usize::MAX);
            let piece = &mut buffer[done..];
            let length = piece.len().min(left);
            let piece = &mut piece[..length];
            match absent(region) {
                Absent::Nothing => return Err(unreadable(at, length)),
                Absent::Zeros if !self.pages.is_alive() => return Err(ReadError::Gone),
                Absent::Zeros => piece.fill(0),
                Absent::InFile => match self.files.read(region, at, piece) {
                    Some(Ok(())) => {}
                    Some(Err(_)) => return Err(unreadable(at, length)),
                    None => self.read_resident(at, piece)?,
                },
                Absent::AskTheKernel => self.read_resident(at, piece)?,
            }
            done += length;
        }
        Ok(())
    }
}

/// The content of a page that is not resident.
enum Absent {
    /// The target may not read it.
    Nothing,
    /// Zeros: it was never written.
    Zeros,
    /// The content of the file.
    InFile,
    /// Another process may have written it.
    AskTheKernel,
}

fn absent(region: &Region) -> Absent {
    match &region.backing {
        _ if !region.readable => Absent::Nothing,
        Backing::Anonymous | Backing::Heap | Backing::Stack if !region.shared => Absent::Zeros,
        Backing::File(_) => Absent::InFile,
        _ => Absent::AskTheKernel,
    }
}

impl Memory for Process {
    fn read_exact_at(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        if buffer.is_empty() {
            return Ok(());
        }
        let Some(end) = address.0.checked_add(buffer.len() as u64) else {
            return Err(ReadError::Unreadable { address, length: buffer.len() });
        };
        if self.pages.is_resident(address, buffer.len() as u64) {
            return self.read_resident(address, buffer);
        }
        let mut at = address;
        for run in self.pages.resident(address..Address(end)) {
            self.read_absent(at, part(buffer, address, at..run.start))?;
            self.read_resident(run.start, part(buffer, address, run.clone()))?;
            at = run.end;
        }
        self.read_absent(at, part(buffer, address, at..Address(end)))
    }

    fn regions(&self) -> &RegionMap {
        &self.regions
    }

    fn read_pieces(&self, pieces: &mut [Piece<'_>]) -> Result<(), ReadError> {
        let mut resident = Vec::with_capacity(pieces.len());
        for piece in pieces.iter_mut() {
            if !piece.buffer.is_empty() && self.pages.is_resident(piece.address, piece.buffer.len() as u64) {
                resident.push(piece);
                continue;
            }
            match self.read_exact_at(piece.address, piece.buffer) {
                Ok(()) => piece.filled = true,
                Err(error) if error.is_final() => return Err(error),
                Err(_) => piece.filled = false,
            }
        }
        if let Some(mem) = &self.mem {
            return read_pieces_of_file(mem, &mut resident);
        }
        read_runs(self.thread, &mut resident)
    }

    /// By one system call, unless that is refused.
    fn read_at_once(&self, pieces: &mut [Piece<'_>]) -> Result<(), ReadError> {
        match read_runs(self.thread, &mut pieces.iter_mut().collect::<Vec<_>>()) {
            Err(ReadError::Denied) => self.read_pieces(pieces),
            done => done,
        }
    }

    fn resident(&self, range: Range<Address>) -> Vec<Range<Address>> {
        let mut found: Vec<Range<Address>> = Vec::new();
        let mut add = |run: Range<Address>| add_run(&mut found, run);
        // Mappings side by side, to be asked for at once: a process may have tens of thousands of a page or two.
        let mut asked: Option<Range<Address>> = None;
        for region in self.regions.overlapping(&range) {
            let part = region.start.max(range.start)..region.end.min(range.end);
            let is_asked = matches!(absent(region), Absent::Zeros | Absent::Nothing);
            match &mut asked {
                Some(before) if is_asked && part.start.0.saturating_sub(before.end.0) <= NEAR => before.end = part.end,
                _ => {
                    asked.take().into_iter().flat_map(|before| self.pages.resident(before)).for_each(&mut add);
                    match is_asked {
                        true => asked = Some(part),
                        // The content of its pages is also elsewhere.
                        false => add(part),
                    }
                }
            }
        }
        asked.into_iter().flat_map(|before| self.pages.resident(before)).for_each(&mut add);
        found
    }
}

/// The part of `buffer`, which begins at `start`, for a range of addresses.
fn part(buffer: &mut [u8], start: Address, range: Range<Address>) -> &mut [u8] {
    let offset = |at: Address| usize::try_from(at.0.saturating_sub(start.0)).unwrap_or(usize::MAX);
    buffer.get_mut(offset(range.start)..offset(range.end)).unwrap_or_default()
}

/// All of a file of `/proc`, from its beginning.
fn read_whole(file: &File) -> io::Result<Vec<u8>> {
    use std::io::{Read, Seek};
    let mut file = file;
    let mut text = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut text)?;
    Ok(text)
}

/// The same, unless it is `before`, which is then not stored a second time.
fn read_if_changed(file: &File, before: &[u8]) -> io::Result<Option<Vec<u8>>> {
    use std::io::{Read, Seek};
    let mut file = file;
    let (mut bytes, mut same) = (vec![0; PAGE], 0);
    file.rewind()?;
    loop {
        let length = match file.read(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if length == 0 && same == before.len() {
            return Ok(None);
        }
        if length == 0 || !before[same..].starts_with(&bytes[..length]) {
            let mut text = [&before[..same], &bytes[..length]].concat();
            file.read_to_end(&mut text)?;
            return Ok(Some(text));
        }
        same += length;
    }
}

fn errno(error: io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}

/// What an error means for the process as a whole. `None` if it concerns only these bytes.
fn refusal(error: Errno) -> Option<ReadError> {
    match error {
        Errno::ESRCH => Some(ReadError::Gone),
        Errno::EPERM | Errno::EACCES | Errno::ENOSYS => Some(ReadError::Denied),
        _ => None,
    }
}

/// Reads from `/proc/PID/mem`, whose offsets are addresses. It ends only if the process has exited or executed another
/// program, since the file stays bound to the memory it was opened on.
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

/// Reads pieces from `/proc/PID/mem` in order of address. Pieces in the same page share one call, because a page costs
/// hardly more than a word.
fn read_pieces_of_file(mem: &File, pieces: &mut [&mut Piece<'_>]) -> Result<(), ReadError> {
    let page = |address: Address| address.0 / PAGE as u64;
    pieces.sort_by_key(|piece| piece.address);
    for group in pieces.chunk_by_mut(|first, second| page(first.address) == page(second.address)) {
        let start = group.first().map_or(Address::NULL, |piece| piece.address);
        let offset = |piece: &Piece<'_>| (piece.address.0 - start.0) as usize;
        let length = group.iter().map(|piece| offset(piece) + piece.buffer.len()).max().unwrap_or(0);
        let mut bytes = [0; PAGE];
        if group.len() > 1
            && let Some(bytes) = bytes.get_mut(..length)
        {
            let is_read = only_of_these_bytes(read_file(mem, start, bytes))?;
            for piece in group {
                let offset = offset(piece);
                piece.filled = is_read;
                if is_read {
                    piece.buffer.copy_from_slice(&bytes[offset..offset + piece.buffer.len()]);
                }
            }
            continue;
        }
        for piece in group {
            piece.filled = only_of_these_bytes(read_file(mem, piece.address, piece.buffer))?;
        }
    }
    Ok(())
}

/// Whether a read succeeded.
///
/// # Errors
/// It failed for the process as a whole.
fn only_of_these_bytes(read: Result<(), ReadError>) -> Result<bool, ReadError> {
    match read {
        Ok(()) => Ok(true),
        Err(error) if error.is_final() => Err(error),
        Err(_) => Ok(false),
    }
}

/// Reads pieces with `process_vm_readv`, as many at once as possible.
fn read_runs(pid: i32, pieces: &mut [&mut Piece<'_>]) -> Result<(), ReadError> {
    for batch in pieces.chunks_mut(PIECES_MAX) {
        let mut first = 0;
        while first < batch.len() {
            first += read_run(pid, &mut batch[first..])?;
        }
    }
    Ok(())
}

/// One system call for a run of pieces. Returns how many are done: the filled ones, and the one that failed, which is
/// marked as not filled. At least one, so that the caller's loop terminates.
fn read_run(pid: i32, pieces: &mut [&mut Piece<'_>]) -> Result<usize, ReadError> {
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
    fn a_text_is_read_again_only_if_it_has_changed() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let text: Vec<u8> = (0..3 * PAGE + 5).map(|at| at as u8).collect();
        std::fs::write(&path, &text).unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(read_if_changed(&file, &text).unwrap(), None);
        let mut other = text.clone();
        other[2 * PAGE] += 1;
        let longer = [&text[..], b"more"].concat();
        for before in [&[][..], &text[..PAGE], &text[..PAGE + 1], &text[..text.len() - 1], &other, &longer] {
            assert_eq!(read_if_changed(&file, before).unwrap().as_ref(), Some(&text));
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
