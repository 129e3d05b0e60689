//! Reads code objects: name, file, and the line of each instruction.
//!
//! There are three formats of line tables: pairs of deltas (`co_lnotab`, until 3.9), pairs that may have no line (3.10)
//! and the location table (3.11+). The fields of the layout tell which one applies. A table is decoded once per code
//! object into ranges of instructions.
//!
//! Mirrors `PyCode_Addr2Line` (`Objects/codeobject.c`), v3.8 to v3.15, `Objects/lnotab_notes.txt` (until 3.10) and
//! `Objects/locations.md` (3.11, later `InternalDocs/code_objects.md`).

use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt};

use super::layout::Layout;
use super::reader::{NAME_LENGTH_MAX, Reader};

/// Upper bound on a line table, bytes. The largest generated functions have some hundred thousand lines.
const TABLE_MAX: usize = 16 << 20;

/// The metadata of a code object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Code {
    /// `co_qualname` (3.11+) or `co_name`: until 3.10 a code object does not know its class.
    pub name: String,
    /// `co_filename`.
    pub file: String,
    /// `co_firstlineno`.
    pub first_line: u32,
    lines: Vec<Range>,
}

/// Instructions of one line: from byte `start` to the start of the next range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    start: u32,
    line: Option<u32>,
}

impl Code {
    /// Reads the code object at `address`. `None` if its fields make no sense. The caller has checked that the object's
    /// type is `code`. If the line table cannot be read, only the first line is known.
    pub fn read<M: Memory + ?Sized>(reader: &Reader<'_, M>, address: Address) -> Option<Code> {
        let code = &reader.layout.code;
        let text = |offset: usize| reader.string(reader.pointer(address, offset).ok()?, NAME_LENGTH_MAX);
        let name = text(code.co_qualname.unwrap_or(code.co_name))?;
        let file = text(code.co_filename)?;
        let first_line = reader.memory.read_u32(address.offset(code.co_firstlineno)).ok()?;
        let table = code.co_linetable.or(code.co_lnotab).and_then(|offset| {
            let bytes = reader.pointer(address, offset).ok()?;
            let length = reader.memory.read_u64(bytes.offset(reader.layout.var_object.ob_size)).ok()?;
            reader.memory.read_bytes(bytes.offset(reader.layout.bytes.ob_sval), length, TABLE_MAX, "line table").ok()
        });
        let lines = decode(reader.layout, &table.unwrap_or_default(), first_line);
        Some(Code { name, file, first_line, lines })
    }

    /// The line of the instruction at this byte offset; a negative offset means before the first one. `None` for
    /// instructions without a line.
    pub fn line(&self, instruction: i64) -> Option<u32> {
        let Ok(at) = u32::try_from(instruction) else { return Some(self.first_line) };
        let after = self.lines.partition_point(|range| range.start <= at);
        match after.checked_sub(1).and_then(|index| self.lines.get(index)) {
            Some(range) => range.line,
            None => Some(self.first_line),
        }
    }

    /// As [`Code::line`], with the function's first line as fallback.
    pub fn line_or_first(&self, instruction: i64) -> u32 {
        self.line(instruction).unwrap_or(self.first_line)
    }

    /// Whether it is what 3.12 has beneath the frames that C calls (`_Py_MakeShimCode`, Objects/codeobject.c), and
    /// no function of a program: its name is none that a definition could have.
    pub fn is_shim(&self) -> bool {
        self.name == "<shim>" && self.file == self.name
    }

    /// The file's name without its directories.
    pub fn file_name(&self) -> &str {
        self.file.rsplit('/').next().unwrap_or(&self.file)
    }
}

/// Decodes the table in the format that the layout implies.
fn decode(layout: &Layout, table: &[u8], first_line: u32) -> Vec<Range> {
    match (layout.code.co_lnotab, layout.code.co_code_adaptive) {
        (Some(_), _) => pairs_of_lnotab(table, first_line),
        (None, None) => pairs_of_linetable(table, first_line),
        (None, Some(_)) => locations(table, first_line),
    }
}

/// Converts a line number of the target. `None` if it is out of range.
fn line_number(line: i64) -> Option<u32> {
    u32::try_from(line).ok()
}

/// Until 3.9: pairs of (step in bytes, step in lines); a line applies from its byte on.
fn pairs_of_lnotab(table: &[u8], first_line: u32) -> Vec<Range> {
    let (mut start, mut line) = (0u32, i64::from(first_line));
    let mut ranges = vec![Range { start, line: line_number(line) }];
    for pair in table.chunks_exact(2) {
        start = start.saturating_add(u32::from(pair[0]));
        line += i64::from(pair[1] as i8);
        push(&mut ranges, start, line_number(line));
    }
    ranges
}

/// 3.10: pairs of (length in bytes, step in lines), with the step applied first; -128 means no line.
fn pairs_of_linetable(table: &[u8], first_line: u32) -> Vec<Range> {
    const NO_LINE: i8 = -128;
    let (mut start, mut line) = (0u32, i64::from(first_line));
    let mut ranges = Vec::new();
    for pair in table.chunks_exact(2) {
        let step = pair[1] as i8;
        if step != NO_LINE {
            line += i64::from(step);
        }
        push(&mut ranges, start, if step == NO_LINE { None } else { line_number(line) });
        start = start.saturating_add(u32::from(pair[0]));
    }
    ranges
}

/// 3.11+: each entry starts with a byte whose top bit is set; it holds a kind and a length in two-byte units.
fn locations(table: &[u8], first_line: u32) -> Vec<Range> {
    const NONE: u8 = 15;
    const LONG: u8 = 14;
    const NO_COLUMNS: u8 = 13;
    const ONE_LINE: std::ops::RangeInclusive<u8> = 10..=12;
    let (mut start, mut line) = (0u32, i64::from(first_line));
    let mut ranges = Vec::new();
    for (at, &byte) in table.iter().enumerate().filter(|&(_, &byte)| byte & 0x80 != 0) {
        let (kind, units) = (byte >> 3 & 15, u32::from(byte & 7) + 1);
        let step = match kind {
            LONG | NO_COLUMNS => signed_varint(table.get(at + 1..).unwrap_or_default()),
            kind if ONE_LINE.contains(&kind) => i64::from(kind - ONE_LINE.start()),
            _ => 0,
        };
        line = line.saturating_add(step);
        push(&mut ranges, start, if kind == NONE { None } else { line_number(line) });
        start = start.saturating_add(2 * units);
    }
    ranges
}

/// Signed varint: six bits per byte, lowest first; bit 6 means that more follow; the lowest bit is the sign.
fn signed_varint(bytes: &[u8]) -> i64 {
    let mut value = 0u64;
    for (index, &byte) in bytes.iter().take(8).enumerate() {
        value |= u64::from(byte & 63) << (6 * index);
        if byte & 64 == 0 {
            break;
        }
    }
    let magnitude = (value >> 1) as i64;
    if value & 1 == 1 { -magnitude } else { magnitude }
}

/// Appends a range. An empty range is replaced by the one that follows it.
fn push(ranges: &mut Vec<Range>, start: u32, line: Option<u32>) {
    match ranges.last_mut() {
        Some(last) if last.start == start => last.line = line,
        Some(last) if last.line == line => {}
        _ => ranges.push(Range { start, line }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: Vec<Range>, at: &[i64]) -> Vec<Option<u32>> {
        let code = Code { first_line: 10, lines, ..Code::default() };
        at.iter().map(|&at| code.line(at)).collect()
    }

    #[test]
    fn each_kind_of_table_gives_its_lines() {
        // As `dis.findlinestarts` decodes this table: byte 0 is line 10, byte 6 line 12, byte 10 line 11.
        let old = pairs_of_lnotab(&[0, 0, 6, 2, 4, 0xFF], 10);
        assert_eq!(lines(old, &[-1, 0, 5, 6, 9, 10, 99]), [10, 10, 10, 12, 12, 11, 11].map(Some));
        let of_310 = pairs_of_linetable(&[6, 0, 4, 2, 2, 0x80, 4, 0xFF], 10);
        assert_eq!(lines(of_310, &[0, 6, 10, 12]), [Some(10), Some(12), None, Some(11)]);
        // Short form (2 units), one line on (1 unit), none (1 unit), no columns with a step of -1 (3 units), long with
        // 70.
        let table =
            [0x80 | 1, 0, 0x80 | 11 << 3, 0, 0, 0x80 | 15 << 3, 0x80 | 13 << 3 | 2, 3, 0x80 | 14 << 3, 76, 2, 0, 1, 1];
        assert_eq!(
            lines(locations(&table, 10), &[-2, 0, 2, 4, 6, 8, 12, 14]),
            [Some(10), Some(10), Some(10), Some(11), None, Some(10), Some(10), Some(80)]
        );
    }

    #[test]
    fn rubbish_is_decoded_to_something() {
        for seed in 0..200u64 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let table: Vec<u8> = (0..rng.usize(0..300)).map(|_| rng.u8(..)).collect();
            let first_line = rng.u32(..);
            for decode in [pairs_of_lnotab, pairs_of_linetable, locations] {
                let code = Code { first_line, lines: decode(&table, first_line), ..Code::default() };
                assert!(code.lines.windows(2).all(|pair| pair[0].start < pair[1].start));
                code.line(rng.i64(..));
            }
        }
    }
}
