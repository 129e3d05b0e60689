//! Reads a core file: the memory of a process as written by the kernel or by gdb's `gcore`.
//!
//! A core is an ELF file whose `PT_LOAD` segments are the mappings and whose notes describe them. Memory that is
//! available in a file (code, constants, unwritten data) is left out; it is read from that file after checking that it
//! is the same one ([`crate::process::core::backing`]). The core is read and not mapped, so that truncating it
//! meanwhile causes an error instead of a signal.
//!
//! Mirrors `fs/binfmt_elf.c`, `fs/coredump.c` (Linux 6.1), and `gdb/gcore.c` (13).

use std::fs::File;
use std::io::{self, Read, Seek};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use goblin::elf::ProgramHeader;
use goblin::elf::program_header::{PF_R, PF_X, PT_LOAD, PT_NOTE};
use nix::unistd::{Whence, lseek};

use crate::process::address::{Address, PAGE, add_run};
use crate::process::elf::{ElfFile, LoadedElf, open_file};
use crate::process::memory::{Memory, MemoryExt, ReadError, u64_at};
use crate::process::regions::{Backing, Region, RegionMap};

use super::backing::{BackingFile, BackingFiles, Missing, Places};
use super::headers::{Headers, ReadAt};
use super::notes::{MappedFile, Notes};
use super::unpack::{self, Packing};

/// Upper bound on notes, bytes. A thread takes some 3 KiB with AVX-512.
const NOTES_MAX: u64 = 256 << 20;
/// Maximum distance from the executable's end to the heap (`arch_randomize_brk`: 1 GiB since 6.9).
const HEAP_DISTANCE: u64 = 1 << 30;
/// Where the heap is if the loader itself was started (`ELF_ET_DYN_BASE`).
const HEAP_OF_LOADER: u64 = 0x5555_5555_4000;
/// Bytes of stack searched for the arguments, from the random bytes downwards; the environment's pointers are in
/// between.
const STACK_LOOK: u64 = 4 << 20;
/// Upper bounds: number of arguments, bytes of one, bytes of all.
const ARGUMENTS_MAX: usize = 4096;
const ARGUMENT_LENGTH_MAX: usize = 64 << 10;
const ARGUMENTS_LENGTH_MAX: usize = 2 << 20;

/// Why a core cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CoreError {
    /// The file cannot be read.
    #[error("cannot read the core {path}: {source}", path = path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// The error of the file system or of unpacking.
        source: io::Error,
    },
    /// The file is not a usable core.
    #[error("{path} is {what}", path = path.display())]
    Foreign {
        /// Its path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The given program is not the one in the core.
    #[error(
        "{path} is not the program of this core ({executable})",
        path = path.display(),
        executable = executable.display()
    )]
    OtherProgram {
        /// The file given.
        path: PathBuf,
        /// The program that the core names.
        executable: PathBuf,
    },
}

/// A mapping, or a part of one with one backing.
#[derive(Debug)]
struct Piece {
    range: Range<Address>,
    /// Its bytes in the core file, as far as they exist.
    dumped: Range<u64>,
    /// The file with the remaining bytes, by index, and the offset of this piece in it.
    backing: Option<(usize, u64)>,
    /// Whether it may hold code, according to the core.
    executable: bool,
    /// What of it has content, once somebody asked.
    content: OnceLock<Vec<Range<Address>>>,
}

impl Piece {
    fn is_incomplete(&self) -> bool {
        self.dumped.end - self.dumped.start < self.range.end.0 - self.range.start.0
    }

    /// The pages of it in the file that are not all zeros. A piece may claim more memory than the file can hold.
    fn content(&self, file: &File) -> Vec<Range<Address>> {
        let length = self.range.end.0.saturating_sub(self.range.start.0);
        let Range { start, end } = self.dumped.start..self.dumped.end.min(self.dumped.start.saturating_add(length));
        let threads = processors_for(end.saturating_sub(start) / SHARE_MIN);
        let share = end.saturating_sub(start).div_ceil(threads).next_multiple_of(PAGE);
        let pages = std::thread::scope(|scope| {
            let shares = (0..threads).map(|nth| {
                let part = start.saturating_add(nth * share)..start.saturating_add((nth + 1) * share).min(end);
                scope.spawn(move || pages_with_data(file, part))
            });
            let shares: Vec<_> = shares.collect();
            shares
                .into_iter()
                .flat_map(|share| share.join().unwrap_or_else(|bug| std::panic::resume_unwind(bug)))
                .collect::<Vec<_>>()
        });
        let mut found: Vec<Range<Address>> = Vec::new();
        for page in pages {
            let place = |offset: u64| Address(self.range.start.0 + (offset - start));
            add_run(&mut found, place(page.start)..place(page.end));
        }
        found
    }
}

/// What a core should hold, or needs, but lacks.
#[derive(Clone, Debug, Default)]
pub struct Gaps {
    /// Bytes that the headers describe but that are beyond the end of the file.
    pub cut_off: u64,
    /// Bytes of writable memory in no file, of a kind of which the core holds nothing: it was excluded
    /// (`/proc/PID/coredump_filter`).
    pub left_out: u64,
    /// Bytes of mappings that the core lacks although it holds similar ones: the kernel leaves out pages that were
    /// never written, and those the process excluded (MADV_DONTDUMP). They are treated as unreadable, not as zeros.
    pub untouched: u64,
    /// Files that are needed and could not be used.
    pub files: Vec<Missing>,
}

/// An open core file.
pub struct Core {
    path: PathBuf,
    file: File,
    notes: Notes,
    pieces: Vec<Piece>,
    regions: RegionMap,
    backing: BackingFiles,
    gaps: Gaps,
}

impl Core {
    /// Opens a core, compressed or not. `places` tells where to look for the files that it needs. Takes milliseconds;
    /// unpacking takes disk space of the core's size.
    ///
    /// # Errors
    /// [`CoreError`].
    pub fn open(path: &Path, places: &Places) -> Result<Core, CoreError> {
        let at = |source| CoreError::File { path: path.to_owned(), source };
        let mut file = open_file(path).map_err(at)?;
        let mut magic = [0; 4];
        let read = file.read_at(&mut magic, 0).map_err(at)?;
        if let Some(packing) = Packing::of(&magic[..read]) {
            file.rewind().map_err(at)?;
            let (unpacked, broken) = unpack::unpack(file, packing).map_err(at)?;
            if let Some(error) = broken {
                log::warn!("{} is compressed and damaged; only its beginning is read: {error}", path.display());
            }
            file = unpacked;
        }
        let headers = Headers::read(&file).map_err(at)?;
        let headers = headers.map_err(|what| CoreError::Foreign { path: path.to_owned(), what })?;
        let length = file.metadata().map_err(at)?.len();
        let mut core = Core {
            path: path.to_owned(),
            file,
            notes: Notes::default(),
            pieces: Vec::new(),
            regions: RegionMap::default(),
            backing: BackingFiles::default(),
            gaps: Gaps::default(),
        };
        core.read_notes(&headers);
        core.lay_out(&headers, length);
        core.find_files(places)?;
        log::debug!(
            "core of process {:?}: {} pieces, {} mapped files, {} threads, signal {}",
            core.notes.pid,
            core.pieces.len(),
            core.notes.files.len(),
            core.notes.threads,
            core.notes.signal
        );
        Ok(core)
    }

    /// The path of the core file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The process id in its own namespace; 0 if the core does not state it.
    pub fn pid(&self) -> i32 {
        self.notes.pid.unwrap_or(0)
    }

    /// The number of mappings and threads, and the signal that ended the process (0: none).
    pub fn describe(&self) -> String {
        let (mappings, threads) = (self.pieces.len(), self.notes.threads);
        match self.notes.signal {
            0 => format!("{mappings} mappings, {threads} threads"),
            signal => format!("{mappings} mappings, {threads} threads, ended by signal {signal}"),
        }
    }

    /// What it should hold but lacks.
    pub fn gaps(&self) -> &Gaps {
        &self.gaps
    }

    /// The files used for what was left out.
    pub fn files(&self) -> &[BackingFile] {
        self.backing.files()
    }

    /// The words of the command line from the stack; if they are not found, those of the first 80 bytes that the kernel
    /// recorded.
    pub fn arguments(&self) -> Vec<String> {
        self.arguments_on_stack()
            .filter(|arguments| !arguments.is_empty())
            .unwrap_or_else(|| self.notes.command.split_whitespace().map(str::to_owned).collect())
    }

    /// The file behind a mapped ELF image, if it was found.
    pub fn elf_file(&self, elf: &LoadedElf) -> Option<ElfFile> {
        let file = self.backing.files().iter().find(|file| file.path == elf.path)?;
        ElfFile::read(&file.found).ok()
    }

    /// Reads the notes of each segment as far as the file contains them.
    fn read_notes(&mut self, headers: &Headers) {
        for header in headers.programs.iter().filter(|header| header.p_type == PT_NOTE) {
            let mut bytes = Vec::new();
            let mut part = ReadAt { file: &self.file, at: header.p_offset };
            // An incomplete note is left out.
            let _ = (&mut part).take(header.p_filesz.min(NOTES_MAX)).read_to_end(&mut bytes);
            self.notes.add(&bytes);
        }
    }

    /// Builds pieces and regions from segments and mapped files.
    fn lay_out(&mut self, headers: &Headers, length: u64) {
        let mut regions = Vec::new();
        let mut has_anonymous = false;
        let mut loads: Vec<&ProgramHeader> =
            headers.programs.iter().filter(|header| header.p_type == PT_LOAD).collect();
        loads.sort_by_key(|header| header.p_vaddr);
        let mut end = 0;
        let mut add = |core: &mut Core, header: &ProgramHeader, range: Range<u64>, file: Option<&MappedFile>| {
            let skipped = range.start - header.p_vaddr;
            let stated = header.p_filesz.saturating_sub(skipped).min(range.end - range.start);
            let first = header.p_offset.saturating_add(skipped);
            let there = length.saturating_sub(first).min(stated);
            core.gaps.cut_off += stated - there;
            let is_anonymous = file.is_none() && header.is_write();
            if is_anonymous {
                core.gaps.untouched += range.end - range.start - stated;
                has_anonymous |= stated > 0;
            }
            core.pieces.push(Piece {
                range: Address(range.start)..Address(range.end),
                dumped: first..first.saturating_add(there),
                backing: None,
                executable: header.is_executable(),
                content: OnceLock::new(),
            });
            regions.push(Region {
                start: Address(range.start),
                end: Address(range.end),
                readable: header.is_read() && !(is_anonymous && stated == 0),
                writable: header.is_write(),
                shared: false,
                file_offset: file.map_or(0, |file| file.offset.saturating_add(range.start - file.range.start.0)),
                backing: file.map_or(Backing::Anonymous, |file| Backing::File(file.path.clone())),
                file: None,
            });
        };
        let files = std::mem::take(&mut self.notes.files);
        for header in loads {
            let limit = header.p_vaddr.saturating_add(header.p_memsz);
            // In a damaged core mappings may overlap.
            let mut at = header.p_vaddr.max(end);
            let first = files.partition_point(|file| file.range.end.0 <= at);
            for file in files[first..].iter().take_while(|file| file.range.start.0 < limit) {
                if at < file.range.start.0 {
                    add(self, header, at..file.range.start.0, None);
                    at = file.range.start.0;
                }
                let stop = file.range.end.0.min(limit);
                if at < stop {
                    add(self, header, at..stop, Some(file));
                    at = stop;
                }
            }
            if at < limit {
                add(self, header, at..limit, None);
            }
            end = end.max(limit);
        }
        // Some writers leave out segments that are only in files.
        let nothing = |address: u64| ProgramHeader {
            p_type: PT_LOAD,
            p_flags: PF_R | PF_X,
            p_vaddr: address,
            p_offset: 0,
            p_paddr: 0,
            p_filesz: 0,
            p_memsz: 0,
            p_align: PAGE,
        };
        let known: Vec<Range<Address>> = self.pieces.iter().map(|piece| piece.range.clone()).collect();
        for file in &files {
            let after = known.partition_point(|range| range.end <= file.range.start);
            if known.get(after).is_none_or(|range| range.start >= file.range.end) {
                add(self, &nothing(file.range.start.0), file.range.start.0..file.range.end.0, Some(file));
            }
        }
        if !has_anonymous {
            self.gaps.left_out = std::mem::take(&mut self.gaps.untouched);
        }
        self.notes.files = files;
        self.pieces.sort_by_key(|piece| piece.range.start);
        self.name_stack_and_heap(&mut regions);
        self.regions = RegionMap::new(regions);
    }

    /// Names the stack and the heap, which a core does not mark; the auxiliary vector helps to find them.
    fn name_stack_and_heap(&self, regions: &mut [Region]) {
        regions.sort_by_key(|region| region.start);
        if let Some(stack) = self.notes.in_stack()
            && let Some(region) = regions.iter_mut().find(|region| region.start <= stack && stack < region.end)
        {
            region.backing = Backing::Stack;
        }
        let Some(executable) = self.notes.in_executable() else { return };
        let end = if self.notes.is_started_by_loader() {
            let is_program = self.elf_at(executable, regions).is_some_and(|end| end < Address(HEAP_OF_LOADER));
            // A static program is started without a loader, too, and is not relocated.
            if is_program { self.elf_at(executable, regions) } else { Some(Address(HEAP_OF_LOADER)) }
        } else {
            self.elf_at(executable, regions)
        };
        let Some(end) = end else { return };
        let limit = Address(end.0.saturating_add(HEAP_DISTANCE));
        // The first anonymous memory that ends behind it. Without randomization it begins in the program's last page.
        let heap = regions
            .iter_mut()
            .filter(|region| region.backing == Backing::Anonymous && region.writable)
            .find(|region| region.end > end && region.start <= limit);
        if let Some(heap) = heap {
            heap.backing = Backing::Heap;
        }
    }

    /// The page-aligned end of the program that contains `address`.
    fn elf_at(&self, address: Address, regions: &[Region]) -> Option<Address> {
        let path = regions.iter().find(|region| region.start <= address && address < region.end)?.path()?;
        let first = regions.iter().find(|region| region.path() == Some(path) && region.file_offset == 0)?;
        // The program's header may be missing; then the end of its last mapping is a good approximation.
        let by_header = LoadedElf::at(&Dumped(self), first.start, path).map(|elf| elf.span().end.0);
        let last = regions.iter().rev().find(|region| region.path() == Some(path))?.end.0;
        Some(Address(by_header.unwrap_or(last).max(last).checked_next_multiple_of(PAGE)?))
    }

    fn find_files(&mut self, places: &Places) -> Result<(), CoreError> {
        let executable = self
            .notes
            .in_executable()
            .and_then(|address| self.notes.files.iter().find(|file| file.range.contains(&address)))
            .map(|file| file.path.clone());
        let pieces = |file: &MappedFile| {
            let first = self.pieces.partition_point(|piece| piece.range.end <= file.range.start);
            let after = self.pieces.partition_point(|piece| piece.range.start < file.range.end);
            self.pieces[first..after.max(first)].iter()
        };
        // Programs and libraries have code; other files (locales, for example) are not needed.
        let needed = |mapped: &[&MappedFile]| {
            let of_file = || mapped.iter().flat_map(|file| pieces(file));
            of_file().any(|piece| piece.executable) && of_file().any(Piece::is_incomplete)
        };
        let (backing, missing) =
            BackingFiles::find(&Dumped(self), &self.notes.files, executable.as_deref(), places, needed);
        if let Some(path) = &places.executable
            && !backing.files().iter().any(|file| file.found == *path)
        {
            let (path, executable) = (path.clone(), executable.unwrap_or_else(|| "of unknown name".into()));
            return Err(CoreError::OtherProgram { path, executable });
        }
        for piece in &mut self.pieces {
            let after = self.notes.files.partition_point(|file| file.range.start <= piece.range.start);
            let file = self.notes.files[..after].last().filter(|file| piece.range.start < file.range.end);
            piece.backing = file.and_then(|file| {
                Some((backing.index(&file.path)?, file.offset.saturating_add(piece.range.start.0 - file.range.start.0)))
            });
        }
        self.backing = backing;
        self.gaps.files = missing;
        Ok(())
    }

    fn piece(&self, address: Address) -> Option<&Piece> {
        let after = self.pieces.partition_point(|piece| piece.range.start <= address);
        self.pieces[..after].last().filter(|piece| address < piece.range.end)
    }

    /// Fills `buffer` from the core, and from files if it left something out and `with_files` is set.
    fn fill(&self, address: Address, buffer: &mut [u8], with_files: bool) -> Result<(), ReadError> {
        let unreadable = ReadError::Unreadable { address, length: buffer.len() };
        let mut done = 0;
        while done < buffer.len() {
            let at = address.0.checked_add(done as u64).map(Address);
            let Some((at, piece)) = at.and_then(|at| Some((at, self.piece(at)?))) else { return Err(unreadable) };
            let within = at.0 - piece.range.start.0;
            let dumped = piece.dumped.end - piece.dumped.start;
            let rest = &mut buffer[done..];
            let (length, read) = if within < dumped {
                let length = rest.len().min((dumped - within) as usize);
                (length, self.file.read_exact_at(&mut rest[..length], piece.dumped.start + within).is_ok())
            } else {
                let length = rest.len().min((piece.range.end.0 - at.0) as usize);
                let (Some((file, offset)), true) = (piece.backing, with_files) else { return Err(unreadable) };
                (length, self.backing.read(file, offset.saturating_add(within), &mut rest[..length]))
            };
            if !read {
                return Err(unreadable);
            }
            done += length;
        }
        Ok(())
    }

    /// The arguments as the kernel placed them on the stack: count, pointers, null; environment pointers, null;
    /// auxiliary vector. The position of the last leads to the first.
    fn arguments_on_stack(&self) -> Option<Vec<String>> {
        let top = self.notes.in_stack()?;
        let region = self.regions.find(top)?;
        let start = region.start.0.max(top.0.saturating_sub(STACK_LOOK)).next_multiple_of(8);
        let bytes = self.read_bytes(Address(start), top.0 - start, STACK_LOOK as usize, "stack").ok()?;
        let words: Vec<u64> = bytes.chunks_exact(8).filter_map(|word| u64_at(word, 0)).collect();
        let known: Vec<u64> = self.notes.auxv.chunks_exact(8).take(4).filter_map(|word| u64_at(word, 0)).collect();
        let vector = words.windows(known.len().max(1)).rposition(|words| words == known)?;
        let mut at = vector.checked_sub(2)?;
        while *words.get(at)? != 0 {
            at = at.checked_sub(1)?;
        }
        // At the null after the arguments; the count precedes the first one.
        let end = at;
        let count = (1..=ARGUMENTS_MAX).find(|&count| {
            end.checked_sub(count + 1).and_then(|at| words.get(at)).is_some_and(|&word| word == count as u64)
        })?;
        let pointers = words.get(end - count..end)?;
        let (first, last) = (*pointers.first()?, *pointers.last()?);
        let last = self.read_c_string(Address(last), ARGUMENT_LENGTH_MAX).ok()?.len() as u64 + last;
        let start = self.first_argument(first).unwrap_or(first);
        let text = self.read_bytes(Address(start), last.checked_sub(start)?, ARGUMENTS_LENGTH_MAX, "arguments").ok()?;
        Some(text.split(|&byte| byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect())
    }

    /// Start of the command line that the kernel recorded, at or before the first word that the program sees: a loader
    /// that was started itself removes its own words.
    fn first_argument(&self, seen: u64) -> Option<u64> {
        let noted: Vec<u8> = self.notes.command.bytes().collect();
        let from = self.regions.find(Address(seen))?.start.0.max(seen.saturating_sub(ARGUMENT_LENGTH_MAX as u64));
        let length = seen - from + noted.len() as u64;
        let text = self.read_bytes(Address(from), length, 2 * ARGUMENT_LENGTH_MAX, "arguments").ok()?;
        let is_it =
            |bytes: &[u8]| bytes.iter().zip(&noted).all(|(&byte, &noted)| byte == noted || byte == 0 && noted == b' ');
        let at = text.windows(noted.len().max(1)).rposition(is_it).filter(|_| !noted.is_empty())?;
        Some(from + at as u64)
    }
}

impl Memory for Core {
    fn read_exact_at(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.fill(address, buffer, true)
    }

    fn regions(&self) -> &RegionMap {
        &self.regions
    }

    /// What the core lacks, holes of its file, and pages of zeros are not resident. The first question for a mapping
    /// reads it.
    fn resident(&self, range: Range<Address>) -> Vec<Range<Address>> {
        let mut found: Vec<Range<Address>> = Vec::new();
        let first = self.pieces.partition_point(|piece| piece.range.end <= range.start);
        for piece in self.pieces[first..].iter().take_while(|piece| piece.range.start < range.end) {
            let content = piece.content.get_or_init(|| piece.content(&self.file));
            let first = content.partition_point(|run| run.end <= range.start);
            for run in content[first..].iter().take_while(|run| run.start < range.end) {
                add_run(&mut found, run.start.max(range.start)..run.end.min(range.end));
            }
        }
        found
    }
}

/// Only the content of the core itself, with which files are compared.
pub struct Dumped<'a>(&'a Core);

impl Memory for Dumped<'_> {
    fn read_exact_at(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.0.fill(address, buffer, false)
    }

    fn regions(&self) -> &RegionMap {
        &self.0.regions
    }
}

/// Bytes of a file below which a thread of its own gains nothing.
const SHARE_MIN: u64 = 8 << 20;

/// As many threads as there are processors, but no more than `shares`.
fn processors_for(shares: u64) -> u64 {
    std::thread::available_parallelism().map_or(1, |count| count.get() as u64).min(shares).max(1)
}

/// The pages in a part of a file that are not all zeros, in order.
fn pages_with_data(file: &File, part: Range<u64>) -> Vec<Range<u64>> {
    let mut found: Vec<Range<u64>> = Vec::new();
    let mut bytes = vec![0; 1 << 20];
    let mut at = part.start;
    while at < part.end {
        // If the file system does not report holes, everything is data.
        let data = match lseek(file.as_fd(), at as i64, Whence::SeekData) {
            Ok(data) => data as u64,
            Err(nix::errno::Errno::ENXIO) => break,
            Err(_) => at,
        };
        // Pages are relative to memory, not to the file.
        at = data.saturating_sub((data.saturating_sub(part.start)) % PAGE).max(at);
        if at >= part.end {
            break;
        }
        let length = (part.end - at).min(bytes.len() as u64);
        let block = &mut bytes[..length as usize];
        if file.read_exact_at(block, at).is_err() {
            break;
        }
        for (index, page) in block.chunks(PAGE as usize).enumerate() {
            if page.iter().any(|&byte| byte != 0) {
                let start = at + index as u64 * PAGE;
                add_run(&mut found, start..start + page.len() as u64);
            }
        }
        at += length;
    }
    found
}
