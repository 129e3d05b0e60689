//! Reads the notes of a core: which files were mapped where, the process, and where its stack began.
//!
//! Mirrors `fs/binfmt_elf.c` and `include/uapi/linux/elfcore.h` (Linux 6.1): `fill_files_note`, `elf_prpsinfo`,
//! `elf_prstatus`. gdb's `gcore` writes the same notes.

use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::process::address::Address;
use crate::process::elf;
use crate::process::memory::{u32_at, u64_at};

/// Types of notes (`elf.h`).
const NT_PRSTATUS: u32 = 1;
const NT_PRPSINFO: u32 = 3;
const NT_AUXV: u32 = 6;
const NT_FILE: u32 = 0x4649_4c45;
/// Upper bound on the files in `NT_FILE`: by default the kernel allows 65,530 mappings, and writes at most 4 MiB.
const FILES_MAX: u64 = 1 << 20;
/// Types of auxiliary vector entries (`elf.h`).
const AT_PHDR: u64 = 3;
const AT_BASE: u64 = 7;
const AT_RANDOM: u64 = 25;

/// A range of a file that was mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedFile {
    /// Its addresses.
    pub range: Range<Address>,
    /// Its offset in the file, bytes.
    pub offset: u64,
    /// Its path in the process's namespace, without ` (deleted)`.
    pub path: PathBuf,
}

/// What the notes contain. Missing parts are empty.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    /// The files, in order of address.
    pub files: Vec<MappedFile>,
    /// The process id in its own namespace.
    pub pid: Option<i32>,
    /// The first 80 bytes of its command line.
    pub command: String,
    /// Number of threads.
    pub threads: usize,
    /// The signal that ended it; 0 if none did.
    pub signal: u16,
    /// The auxiliary vector, as on the stack.
    pub auxv: Vec<u8>,
}

impl Notes {
    /// Adds the notes of a `PT_NOTE` segment, up to the first damaged one.
    pub fn add(&mut self, bytes: &[u8]) {
        for note in elf::notes(bytes).filter(|note| note.name == "CORE") {
            self.add_note(note.n_type, note.desc);
        }
    }

    fn add_note(&mut self, kind: u32, body: &[u8]) {
        match kind {
            NT_PRSTATUS => {
                if self.threads == 0 {
                    self.signal = body.get(12..14).map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
                }
                self.threads += 1;
            }
            NT_PRPSINFO => {
                self.pid = u32_at(body, 24).map(|pid| pid as i32);
                let arguments = body.get(56..).unwrap_or_default();
                let end = arguments.iter().position(|&byte| byte == 0).unwrap_or(arguments.len());
                self.command = String::from_utf8_lossy(&arguments[..end]).trim_end().to_owned();
            }
            NT_AUXV => self.auxv = body.to_vec(),
            NT_FILE => self.files = files(body).unwrap_or_default(),
            _ => {}
        }
    }

    /// An entry of the auxiliary vector.
    fn auxiliary(&self, kind: u64) -> Option<Address> {
        let entry = self.auxv.chunks_exact(16).find(|entry| u64_at(entry, 0) == Some(kind))?;
        u64_at(entry, 8).map(Address)
    }

    /// An address in the executable that was started.
    pub fn in_executable(&self) -> Option<Address> {
        self.auxiliary(AT_PHDR)
    }

    /// An address in the first thread's stack.
    pub fn in_stack(&self) -> Option<Address> {
        self.auxiliary(AT_RANDOM)
    }

    /// Whether the loader itself was started and loaded the program, which changes the address of the heap.
    pub fn is_started_by_loader(&self) -> bool {
        self.auxiliary(AT_BASE).is_none_or(Address::is_null)
    }
}

/// Decodes `NT_FILE`: count, page size; start, end and offset in pages for each; NUL-terminated names.
fn files(body: &[u8]) -> Option<Vec<MappedFile>> {
    let count = u64_at(body, 0).filter(|&count| count <= FILES_MAX)? as usize;
    let page = u64_at(body, 8)?;
    let mut names = body.get(16 + count.checked_mul(24)?..)?.split(|&byte| byte == 0);
    let mut found = Vec::new();
    for index in 0..count {
        let word = |word: usize| u64_at(body, 16 + index * 24 + word * 8);
        let (start, end, pages) = (word(0)?, word(1)?, word(2)?);
        let name = names.next()?;
        let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
        if let Some(offset) = pages.checked_mul(page)
            && start < end
            && !name.is_empty()
        {
            let path = PathBuf::from(OsStr::from_bytes(name));
            found.push(MappedFile { range: Address(start)..Address(end), offset, path });
        }
    }
    found.sort_by_key(|file| file.range.start);
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(kind: u32, body: &[u8]) -> Vec<u8> {
        let mut note = [5u32, body.len() as u32, kind].map(u32::to_le_bytes).concat();
        note.extend(b"CORE\0\0\0\0");
        note.extend(body);
        note.resize(note.len().next_multiple_of(4), 0);
        note
    }

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn files_process_and_stack_are_read() {
        let mut body = words(&[2, 4096, 0x5000, 0x6000, 3, 0x1000, 0x2000, 0]);
        body.extend(b"/b (deleted)\0/a\xff\0");
        let mut bytes = note(NT_FILE, &body);
        bytes.extend(note(NT_AUXV, &words(&[AT_PHDR, 0x1040, AT_RANDOM, 0x9000, AT_BASE, 0, 0, 0])));
        let mut info = vec![0; 136];
        info[24..28].copy_from_slice(&77u32.to_le_bytes());
        info[56..66].copy_from_slice(b"python x  ");
        bytes.extend(note(NT_PRPSINFO, &info));
        let mut notes = Notes::default();
        notes.add(&bytes);
        assert_eq!(notes.files[0].path.as_os_str().as_bytes(), b"/a\xff");
        assert_eq!((notes.files[1].offset, notes.files[1].path.to_str()), (3 * 4096, Some("/b")));
        assert_eq!((notes.pid, notes.command.as_str()), (Some(77), "python x"));
        assert_eq!((notes.in_executable(), notes.in_stack()), (Some(Address(0x1040)), Some(Address(0x9000))));
        assert!(notes.is_started_by_loader());
    }

    #[test]
    fn nonsense_is_left_out() {
        for body in [words(&[u64::MAX, 1]), words(&[2, 4096, 1, 2, 3]), words(&[1, u64::MAX, 0, 1, 9]), vec![1]] {
            let mut notes = Notes::default();
            notes.add(&note(NT_FILE, &body));
            assert!(notes.files.is_empty());
        }
        let mut notes = Notes::default();
        notes.add(&[0xff; 100]);
        notes.add(&note(NT_PRPSINFO, &[1; 10]));
        notes.add(&note(NT_AUXV, &[1; 10]));
        assert_eq!((notes.pid, notes.in_stack()), (None, None));
    }
}
