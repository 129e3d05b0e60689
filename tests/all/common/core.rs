//! Cores of a stopped process: written by the tests as the kernel would, by gdb, and by the kernel.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

const PAGE: u64 = 4096;

/// A mapping, from `/proc/PID/smaps`.
struct Mapping {
    start: u64,
    end: u64,
    flags: u32,
    shared: bool,
    offset: u64,
    inode: u64,
    name: String,
    has_own_pages: bool,
}

impl Mapping {
    /// Bytes that the kernel writes with coredump_filter 0x33: private memory that was written, and of the rest the
    /// first page where an ELF header may be.
    fn dumped(&self) -> u64 {
        let is_file = self.inode != 0;
        match self.name.as_str() {
            "[vvar]" | "[vvar_vclock]" | "[vsyscall]" => 0,
            "[vdso]" => self.end - self.start,
            _ if self.flags & 4 == 0 => 0,
            _ if self.shared && is_file => 0,
            _ if !is_file || self.has_own_pages => self.end - self.start,
            _ if self.offset == 0 => PAGE,
            _ => 0,
        }
    }
}

fn mappings(pid: u32) -> Vec<Mapping> {
    // The kernel writes paths as the process sees them.
    let root = fs::read_link(format!("/proc/{pid}/root")).expect("the target is ours");
    let root = root.to_str().expect("it is text").trim_end_matches('/').to_owned();
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("the target is ours");
    let mut found: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [range, rights, offset, _, inode, name @ ..] if range.contains('-') => {
                let (start, end) = range.split_once('-').unwrap();
                let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
                let has = |right: char, bit: u32| if rights.contains(right) { bit } else { 0 };
                found.push(Mapping {
                    start: hex(start),
                    end: hex(end),
                    flags: has('r', 4) | has('w', 2) | has('x', 1),
                    shared: rights.contains('s'),
                    offset: hex(offset),
                    inode: inode.parse().unwrap(),
                    name: name.join(" ").strip_prefix(&root).unwrap_or_default().to_owned(),
                    has_own_pages: false,
                });
            }
            ["Anonymous:", amount, "kB"] => found.last_mut().unwrap().has_own_pages = *amount != "0",
            _ => {}
        }
    }
    found
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn note(kind: u32, body: &[u8]) -> Vec<u8> {
    let mut note = [5, body.len() as u32, kind].map(u32::to_le_bytes).concat();
    note.extend(b"CORE\0\0\0\0");
    note.extend(body);
    note.resize(note.len().next_multiple_of(4), 0);
    note
}

fn notes(pid: u32, mappings: &[Mapping]) -> Vec<u8> {
    let mut status = vec![0; 336];
    status[12..14].copy_from_slice(&6u16.to_le_bytes());
    status[32..36].copy_from_slice(&pid.to_le_bytes());
    let mut info = vec![0; 136];
    info[24..28].copy_from_slice(&pid.to_le_bytes());
    let mut command = fs::read(format!("/proc/{pid}/cmdline")).expect("the target is ours");
    command.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b' ');
    command.truncate(79);
    info[56..56 + command.len()].copy_from_slice(&command);
    let files: Vec<&Mapping> = mappings.iter().filter(|mapping| mapping.inode != 0).collect();
    let mut table = words(&[files.len() as u64, PAGE]);
    files.iter().for_each(|file| table.extend(words(&[file.start, file.end, file.offset / PAGE])));
    files.iter().for_each(|file| table.extend([file.name.as_bytes(), b"\0"].concat()));
    let auxv = fs::read(format!("/proc/{pid}/auxv")).expect("the target is ours");
    [note(1, &status), note(3, &info), note(6, &auxv), note(0x4649_4c45, &table)].concat()
}

fn program(kind: u32, flags: u32, values: [u64; 6]) -> Vec<u8> {
    [[kind, flags].map(u32::to_le_bytes).concat(), words(&values)].concat()
}

/// Writes the core of a process that stands still as the kernel would: what files have is left out.
pub fn craft(pid: u32, path: &Path) {
    let mappings = mappings(pid);
    let notes = notes(pid, &mappings);
    let count = mappings.len() as u64 + 1;
    let mut at = (64 + count * 56 + notes.len() as u64).next_multiple_of(PAGE);
    // Class, byte order, version; a core, of x86-64; entry, program headers, sections; flags; sizes and counts.
    let mut headers = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x04\0\x3e\0\x01\0\0\0".to_vec();
    headers.extend(words(&[0, 64, 0]));
    headers.extend([0u16, 0, 64, 56, count as u16, 0, 0, 0].map(u16::to_le_bytes).concat());
    headers.extend(program(4, 0, [64 + count * 56, 0, 0, notes.len() as u64, 0, 4]));
    let mut file = File::create(path).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut parts = Vec::new();
    for mapping in &mappings {
        let length = mapping.end - mapping.start;
        headers.extend(program(1, mapping.flags, [at, mapping.start, 0, mapping.dumped(), length, PAGE]));
        parts.push((at, mapping));
        at += mapping.dumped();
    }
    file.write_all(&headers).unwrap();
    file.write_all(&notes).unwrap();
    file.set_len(at).unwrap();
    for (at, mapping) in parts {
        let mut page = vec![0; PAGE as usize];
        for offset in (0..mapping.dumped()).step_by(PAGE as usize) {
            // A page past the end of a file cannot be read, and the kernel leaves a hole.
            if memory.read_exact_at(&mut page, mapping.start + offset).is_ok() && page.iter().any(|&byte| byte != 0) {
                file.write_all_at(&page, at + offset).unwrap();
            }
        }
    }
}

/// Lets gdb write the core of a process, and says what gdb could not read: gdb 13 leaves out all of a thread's stack
/// whose guard page is one of Linux 6.13's (MADV_GUARD_INSTALL, used by glibc 2.42). `Err`: there is no gdb, or it may
/// not.
pub fn gcore(pid: u32, path: &Path) -> Result<Option<String>, String> {
    let output = Command::new("gdb")
        .args(["--batch", "-nx", "-p", &pid.to_string(), "-ex"])
        .arg(format!("generate-core-file {}", path.display()))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("gdb: {error}"))?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    match path.metadata() {
        Ok(_) => Ok(said.lines().find(|line| line.contains("Memory read failed")).map(str::to_owned)),
        Err(_) => Err(said),
    }
}
