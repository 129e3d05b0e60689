//! Unit tests of the reader of ELF files.

use super::*;
use crate::process::live::Process;

#[test]
fn the_file_that_is_mapped_is_told_from_one_that_replaced_it() {
    let me = std::process::id() as i32;
    let memory = Process::open(me).unwrap();
    let exe = std::env::current_exe().unwrap();
    let elf = LoadedElf::find(&memory, |path| path == exe).unwrap();
    let file = ElfFile::open(me, &memory, &elf).unwrap();
    let (_, id) = ElfFile::open_path(&exe).unwrap();
    assert!(file.is_mapped(&memory, &elf, id, Some(id)));
    // Another build has another build id; a file with other headers is another file.
    let damaged = |at: usize| {
        let mut bytes = file.bytes.clone();
        bytes[at] ^= 1;
        ElfFile { bytes }.is_mapped(&memory, &elf, id, Some(id))
    };
    let is_build_id = |(range, _): &(Range<usize>, u64)| has_build_id(&file.bytes[range.clone()]);
    let (note, _) = file.note_ranges().find(is_build_id).expect("the linker gives tests a build id");
    assert!(!damaged(note.end - 1) && !damaged(24));
    for bytes in [vec![], ELFMAG.to_vec(), vec![0xff; 100], file.bytes[..100].to_vec()] {
        assert!(!ElfFile { bytes }.is_mapped(&memory, &elf, id, Some(id)));
    }
}

#[test]
fn sections_are_found_by_name_and_damage_is_none() {
    let exe = std::env::current_exe().unwrap();
    let (file, _) = ElfFile::open_path(&exe).unwrap();
    assert!(file.section(".text").is_some_and(|text| text.size > 4096) && has_section(&exe, ".text"));
    assert!(file.section(".tex").is_none() && !has_section(&exe, ".text.x"));
    assert!(!has_section(Path::new("/dev/zero"), ".text") && !has_section(Path::new("/nowhere"), ".text"));
    let with = |at: usize, word: u16| {
        let mut bytes = file.bytes.clone();
        bytes[at..at + 2].copy_from_slice(&word.to_le_bytes());
        ElfFile { bytes }.section(".text")
    };
    // Offset of the table, size of a header, their number, index of the names.
    for (at, word) in [(40, 0xffff), (46, 0xffff), (58, 32), (60, 0), (60, 0xffff), (62, 0xffff), (62, 0), (0, 0)] {
        assert_eq!(with(at, word), None, "{at} {word:#x}");
    }
    assert!(ElfFile { bytes: file.bytes[..file.bytes.len() - 1].to_vec() }.section(".text").is_none());
    assert!(ElfFile { bytes: Vec::new() }.section(".text").is_none());
}

#[test]
fn notes_of_nonsense_hold_no_build_id() {
    assert!(has_build_id(b"\x04\0\0\0\x01\0\0\0\x03\0\0\0GNU\0x\0\0\0"));
    assert!(!has_build_id(b"\x04\0\0\0\x00\0\0\0\x03\0\0\0GNU\0"));
    assert!(!has_build_id(&[0xff; 64]) && !has_build_id(b""));
}
