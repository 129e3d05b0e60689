//! Reads the threads of an interpreter and the frames of each thread.
//!
//! Until 3.10 frames are objects linked by `f_back`. Since 3.11 they are in the thread's stack of chunks and in
//! generators, linked by `previous`, with shims for C code in between. A running target changes all of this: an invalid
//! value ends the walk, and the caller compares two readings if that matters.
//!
//! Mirrors `PyThreadState` (`Include/cpython/pystate.h`) and `_PyInterpreterFrame` (`Include/internal/pycore_frame.h`,
//! since 3.14 `pycore_interpframe_structs.h`), v3.8 to v3.15.

use std::ops::Range;

use rustc_hash::FxHashSet;

use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt, ReadError, u32_at, u64_at};

use super::interpreter::Interpreter;
use super::layout::Layout;
use super::reader::Reader;

/// Upper bound on the threads of an interpreter: Linux has no more (`PID_MAX_LIMIT`).
pub const THREADS_MAX: usize = 1 << 22;
/// Upper bound on the frames of a thread: a program may set any recursion limit, and since 3.11 it needs no C stack.
pub const FRAMES_MAX: usize = 1 << 22;
/// Upper bound on the bytes read of a frame; all needed fields are below.
const FRAME_MAX: usize = 512;

/// A thread of an interpreter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread {
    /// `PyThreadState *`.
    pub address: Address,
    /// The kernel's thread id since 3.11; before, the value of `pthread_self`.
    pub id: u64,
    /// Whether `id` is the kernel's thread id.
    pub is_native_id: bool,
}

/// A frame that is running or waiting for a call to return.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StackFrame {
    /// `PyFrameObject *`, since 3.11 `_PyInterpreterFrame *`.
    pub address: Address,
    /// Its code object.
    pub code: Address,
    /// Byte offset of the current instruction; negative before the first.
    pub instruction: i64,
}

/// The threads of an interpreter, newest first, up to the first one that cannot be read.
pub fn threads<M: Memory + ?Sized>(reader: &Reader<'_, M>, interpreter: &Interpreter) -> Vec<Thread> {
    let layout = &reader.layout.thread;
    let mut next = reader.pointer(interpreter.address, reader.layout.interp.threads_head).unwrap_or_default();
    let mut seen = FxHashSet::default();
    let mut threads = Vec::new();
    while !next.is_null() && threads.len() < THREADS_MAX && seen.insert(next) {
        let address = next;
        if reader.pointer(address, layout.interp).ok() != Some(interpreter.address) {
            break;
        }
        let id = reader.memory.read_u64(address.offset(layout.native_thread_id.unwrap_or(layout.thread_id)));
        let is_native_id = layout.native_thread_id.is_some();
        threads.push(Thread { address, id: id.unwrap_or(0), is_native_id });
        next = reader.pointer(address, layout.next).unwrap_or_default();
    }
    threads
}

/// The blocks in which an interpreter's threads have their frames, since 3.11 (`_PyStackChunk` of
/// `Include/cpython/pystate.h`): the one in use, and those below it.
pub fn frame_blocks<M: Memory + ?Sized>(reader: &Reader<'_, M>, interpreter: &Interpreter) -> Vec<Range<Address>> {
    /// A block: the one below, its size, and how much of it is in use (`previous`, `size`, `top`).
    const SIZE: usize = 8;
    /// One has room for a hundred frames or more.
    const BLOCKS_MAX: usize = 1 << 16;
    let Some(offset) = reader.layout.thread.datastack_chunk else { return Vec::new() };
    let mut blocks = Vec::new();
    for thread in threads(reader, interpreter) {
        let mut next = reader.pointer(thread.address, offset).unwrap_or_default();
        while !next.is_null() && blocks.len() < BLOCKS_MAX {
            let size = reader.memory.read_u64(next.offset(SIZE)).unwrap_or(0);
            let region = reader.memory.regions().find(next);
            let end = next.0.checked_add(size).filter(|&end| region.is_some_and(|region| end <= region.end.0));
            let Some(end) = end.filter(|_| size > 0) else { break };
            blocks.push(next..Address(end));
            next = reader.pointer(next, 0).unwrap_or_default();
        }
    }
    blocks
}

/// The topmost frame of a thread; null if it runs no Python code.
///
/// # Errors
/// Those of the memory.
pub fn top<M: Memory + ?Sized>(reader: &Reader<'_, M>, thread: Address) -> Result<Address, ReadError> {
    let layout = reader.layout;
    match (layout.iframe.is_some(), layout.thread.current_frame, layout.thread.cframe, &layout.cframe) {
        (true, Some(offset), _, _) => reader.pointer(thread, offset),
        (true, None, Some(offset), Some(cframe)) => {
            let at = reader.pointer(thread, offset)?;
            if at.is_null() { Ok(at) } else { reader.pointer(at, cframe.current_frame) }
        }
        _ => layout.thread.frame.map_or(Ok(Address::NULL), |offset| reader.pointer(thread, offset)),
    }
}

/// The frames from `top` on, topmost first, at most `limit`, without C shims. The walk ends early if the thread changes
/// its stack meanwhile. Also returns where to continue: null at the end or after a failed read, a frame where a bound
/// or a circle ended it.
pub fn frames_from<M: Memory + ?Sized>(
    reader: &Reader<'_, M>,
    top: Address,
    limit: usize,
) -> (Vec<StackFrame>, Address) {
    let (mut next, mut frames) = (top, Vec::new());
    // Ends a walk in a circle: one frame is remembered, for twice as many steps each time (Brent's algorithm).
    let (mut remembered, mut steps, mut renewed) = (Address::NULL, 0, 1);
    while !next.is_null() && frames.len() < limit && next != remembered && steps < FRAMES_MAX {
        if steps == renewed {
            (remembered, renewed) = (next, 2 * renewed);
        }
        steps += 1;
        let Some((frame, previous)) = read(reader, next) else { return (frames, Address::NULL) };
        frames.extend(frame);
        next = previous;
    }
    (frames, next)
}

/// Reads the frame at an address and the address of its caller. The frame is `None` for a shim. `None` if it cannot be
/// read.
pub fn read<M: Memory + ?Sized>(reader: &Reader<'_, M>, address: Address) -> Option<(Option<StackFrame>, Address)> {
    let mut bytes = [0; FRAME_MAX];
    let wanted = bytes.get_mut(..bytes_of_frame(reader.layout))?;
    reader.memory.read_exact_at(address, wanted).ok()?;
    parse(reader.layout, address, wanted, &|code| first_instruction(reader, address, code))
}

/// Number of bytes of a frame that [`parse`] needs.
pub fn bytes_of_frame(layout: &Layout) -> usize {
    let fields = match &layout.iframe {
        Some(frame) => [frame.owner, frame.previous, frame.localsplus, frame.executable],
        None => [layout.frame.f_lasti.unwrap_or(0), layout.frame.f_back, layout.frame.f_lineno, 0],
    };
    (fields.into_iter().max().unwrap_or(0) + 8).min(FRAME_MAX)
}

/// Decodes a frame. `instructions` gives the address of a code object's first instruction.
pub fn parse(
    layout: &Layout,
    address: Address,
    bytes: &[u8],
    instructions: &dyn Fn(Address) -> Option<Address>,
) -> Option<(Option<StackFrame>, Address)> {
    let word = |offset: usize| u64_at(bytes, offset);
    let Some(iframe) = &layout.iframe else {
        let code = Address(word(layout.frame.f_code?)?);
        // 3.10 counts instructions; earlier versions count bytes.
        let unit = if layout.code.co_linetable.is_some() { 2 } else { 1 };
        let instruction = i64::from(u32_at(bytes, layout.frame.f_lasti?)? as i32) * unit;
        return Some((Some(StackFrame { address, code, instruction }), Address(word(layout.frame.f_back)?)));
    };
    let previous = Address(word(iframe.previous)?);
    let owner = i64::from(*bytes.get(iframe.owner)?);
    let owners = layout.constants.frame_owner.as_ref()?;
    let code = Address(word(iframe.executable)? & !layout.constants.stackref_tag_mask);
    let is_shim = Some(owner) == owners.interpreter || Some(owner) == owners.cstack;
    let at = word(iframe.instr_ptr.or(iframe.prev_instr)?)?;
    if is_shim || code.is_null() || !code.0.is_multiple_of(8) {
        return Some((None, previous));
    }
    // An object that is not code (None in a shim of 3.13) has no instructions.
    let Some(first) = instructions(code) else { return Some((None, previous)) };
    let instruction = at.wrapping_sub(first.0) as i64;
    Some((Some(StackFrame { address, code, instruction }), previous))
}

/// Start of a code object's instructions, as frames refer to it. In free-threaded builds each thread may have its own
/// copy. `None` if the object is not code.
pub fn first_instruction<M: Memory + ?Sized>(reader: &Reader<'_, M>, frame: Address, code: Address) -> Option<Address> {
    /// Upper bound on the copies, one per thread.
    const COPIES_MAX: u64 = 1 << 16;
    let layout = reader.layout;
    let adaptive = layout.code.co_code_adaptive?;
    // There is no flag bit for code.
    reader.is_a(code, "code").then_some(())?;
    let own = code.offset(adaptive);
    let (Some(tlbc_index), Some(co_tlbc)) =
        (layout.iframe.as_ref().and_then(|frame| frame.tlbc_index), layout.code.co_tlbc)
    else {
        return Some(own);
    };
    let index = reader.memory.read_u32(frame.offset(tlbc_index)).ok()?;
    let array = reader.pointer(code, co_tlbc).ok()?;
    if index == 0 || array.is_null() {
        return Some(own);
    }
    let size = reader.memory.read_u64(array).ok()?;
    (u64::from(index) < size && size < COPIES_MAX).then_some(())?;
    reader.pointer(array, 8 + 8 * index as usize).ok()
}
