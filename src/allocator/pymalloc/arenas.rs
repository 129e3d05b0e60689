//! Finds pymalloc's arenas.
//!
//! Since 3.12 the interpreter's state leads to them. Before, `arenas` is a static variable whose symbol is stripped
//! from most builds. It is found by its structure: it points to an array of `arena_object`, each of which names a
//! mapped arena whose pools repeat the array's index. That is sufficient proof without a symbol.
//!
//! Mirrors `Objects/obmalloc.c` (v3.8 to v3.15), `struct arena_object`.

use std::time::Duration;

use rustc_hash::FxHashSet;

use crate::allocator::glibc;
use crate::process::Address;
use crate::process::elf::LoadedElf;
use crate::process::memory::{Memory, MemoryExt, Piece, ReadError, u32_at, u64_at};
use crate::python::interpreter::Python;
use crate::python::layout::Layout;
use crate::python::layout::allocators::Obmalloc;
use crate::python::proof;
use crate::python::proof_error::ProofError;
use crate::python::reader::Reader;

use super::arena::{Arena, Arenas};
use super::{header_scan, state_proof};

/// Upper bound on the arena slots: 1 MiB each, so 16 TiB of arenas.
const ARENAS_MAX: u64 = 1 << 24;
/// Upper bound on the bss scanned for the array's pointer, bytes.
const SCAN_MAX: usize = 64 << 20;
/// Initial number of slots (`INITIAL_ARENA_OBJECTS`); the array grows by doubling.
const INITIAL_ARENAS: u64 = 16;
/// Number of pointers whose targets are read with one call.
const ASKED_AT_ONCE: usize = 512;
/// Number of attempts to read a state that contradicts itself: a running target changes it.
const TRIES: usize = 50;
/// Number of attempts for an array with many slots, which may be large or claim to be.
const TRIES_OF_MANY: usize = 3;
const MANY_SLOTS: u64 = 1 << 17;
/// Pause between the later attempts.
const PAUSE: Duration = Duration::from_micros(500);

/// Finds all arenas of all interpreters. An interpreter that uses another allocator has none.
///
/// # Errors
/// The allocator's state contradicts the layout in every attempt.
pub fn find<M: Memory + ?Sized>(memory: &M, python: &Python) -> Result<Arenas, ProofError> {
    let mut found = Arenas::default();
    let layout = &python.layout;
    // Free-threaded builds use mimalloc.
    let is_in_use = layout.object.ob_ref_shared.is_none();
    if let (Some(state), Some(offset)) = (&layout.obmalloc, layout.interp.obmalloc) {
        let mut seen = Vec::new();
        for interpreter in python.interpreters.iter().filter(|_| is_in_use) {
            let field = interpreter.address.offset(offset);
            let at = if python.version.obmalloc_is_pointer() { memory.read_pointer(field) } else { Ok(field) };
            // A build without pymalloc has none.
            if at.as_ref().is_ok_and(|at| at.is_null() || seen.contains(at)) {
                continue;
            }
            seen.extend(at.as_ref().ok());
            let reader = Reader { memory, layout };
            match at.map_err(ProofError::from).and_then(|at| read_state(memory, layout, state, at)) {
                Ok(arenas) => found.join(arenas),
                Err(_) if proof::is_not_up(&reader, python.runtime.address, interpreter.address) => {}
                Err(error) => return Err(error),
            }
        }
    } else if let Some((array, slots)) = search(memory, layout, &python.runtime.elf) {
        read_array(memory, layout, array, slots, &mut found);
    } else {
        log::debug!("no array of arenas found; searching for pools");
        found.arenas = header_scan::find(memory, layout);
    }
    found.arenas.sort_by_key(|arena| arena.range.start);
    found.arenas.dedup_by_key(|arena| arena.range.start);
    Ok(found)
}

/// Reads the state at `at`, and again if it contradicts itself.
fn read_state<M: Memory + ?Sized>(
    memory: &M,
    layout: &Layout,
    fields: &Obmalloc,
    at: Address,
) -> Result<Arenas, ProofError> {
    let (mut attempt, mut slots_read) = (1, 0);
    loop {
        let mut found = Arenas::default();
        let array = memory.read_pointer(at.offset(fields.arenas)).unwrap_or_default();
        let slots = memory.read_u32(at.offset(fields.maxarenas)).unwrap_or(0);
        read_array(memory, layout, array, u64::from(slots), &mut found);
        slots_read += u64::from(slots);
        let tries = if slots_read > MANY_SLOTS { TRIES_OF_MANY } else { TRIES };
        found.raw_blocks = memory.read_u64(at.offset(fields.raw_allocated_blocks)).ok();
        match state_proof::prove(memory, layout, fields, at, &found) {
            Ok(()) => return Ok(found),
            // Memory that a core leaves out proves nothing.
            Err(ProofError::Read(ReadError::Unreadable { .. })) if memory.regions().contains(at, fields.size) => {
                return Ok(found);
            }
            Err(error) if attempt >= tries || matches!(error, ProofError::Read(_)) => return Err(error),
            Err(_) => {
                if attempt > TRIES / 2 {
                    std::thread::sleep(PAUSE);
                }
                attempt += 1;
                memory.forget();
            }
        }
    }
}

/// Reads an array of `arena_object`. Counts used slots that are invalid.
fn read_array<M: Memory + ?Sized>(memory: &M, layout: &Layout, array: Address, slots: u64, found: &mut Arenas) {
    if array.is_null() || slots > ARENAS_MAX {
        found.rejected += u64::from(!array.is_null());
        return;
    }
    let size = layout.arena_object.size;
    // The array is one malloc block and so within one region, which bounds the count.
    let room = memory.regions().find(array).map_or(0, |region| (region.end.0 - array.0) / size as u64);
    if slots > room {
        found.rejected += slots - room;
    }
    let slots = slots.min(room);
    // In pieces: a large process has a million arenas.
    const PIECE: u64 = 4096;
    for first in (0..slots).step_by(PIECE as usize) {
        let count = PIECE.min(slots - first);
        let at = array.offset(first as usize * size);
        let Ok(bytes) = memory.read_bytes(at, count * size as u64, PIECE as usize * size, "arenas") else {
            found.rejected += count;
            continue;
        };
        for (index, slot) in bytes.chunks_exact(size).enumerate() {
            match read_slot(layout, (first + index as u64) as u32, slot) {
                ArenaSlot::Unused => {}
                ArenaSlot::Arena(arena)
                    if memory.regions().contains(arena.range.start, layout.constants.arena_size) =>
                {
                    match pools_in_use(layout, &arena, slot) {
                        Some(pools) => found.pools_in_use += pools,
                        None => found.odd += 1,
                    }
                    found.arenas.push(arena);
                }
                ArenaSlot::Arena(arena) => {
                    found.rejected += 1;
                    found.newer.push(arena);
                }
                ArenaSlot::Nonsense => found.rejected += 1,
            }
        }
    }
}

enum ArenaSlot {
    Unused,
    Arena(Arena),
    Nonsense,
}

fn read_slot(layout: &Layout, index: u32, slot: &[u8]) -> ArenaSlot {
    let fields = &layout.arena_object;
    let word = |offset: usize| u64_at(slot, offset).unwrap_or(0);
    let (address, pool_address) = (word(fields.address), word(fields.pool_address));
    if address == 0 {
        return ArenaSlot::Unused;
    }
    let (arena_size, pool_size) = (layout.constants.arena_size as u64, layout.constants.pool_size as u64);
    let (Some(end), Some(first)) = (address.checked_add(arena_size), address.checked_next_multiple_of(pool_size))
    else {
        return ArenaSlot::Nonsense;
    };
    let total = u64::from(u32_at(slot, fields.ntotalpools).unwrap_or(u32::MAX));
    let sane = address % 4096 == 0
        && (first..=end).contains(&pool_address)
        && pool_address % pool_size == 0
        // One pool fewer if the arena is not aligned to pools.
        && total == arena_size / pool_size - u64::from(first != address);
    if !sane {
        return ArenaSlot::Nonsense;
    }
    // The last pool that fits: an arena that is not aligned to pools ends with a piece that holds none.
    let pools = Address(first)..Address(pool_address.min(first + total * pool_size));
    ArenaSlot::Arena(Arena { index, range: Address(address)..Address(end), pools })
}

/// Number of pools in use according to the arena's slot: all except those never carved and those in the free list.
/// `None` if the slot contradicts itself because it is changing.
fn pools_in_use(layout: &Layout, arena: &Arena, slot: &[u8]) -> Option<u64> {
    let fields = &layout.arena_object;
    let total = u64::from(u32_at(slot, fields.ntotalpools)?);
    let free = u64::from(u32_at(slot, fields.nfreepools)?);
    let listed = Address(u64_at(slot, fields.freepools)?);
    let carved = (arena.pools.end.0 - arena.pools.start.0) / layout.constants.pool_size as u64;
    let in_list = free.checked_sub(total.checked_sub(carved)?)?;
    let is_listed = if listed.is_null() { in_list == 0 } else { in_list > 0 && arena.pools.contains(&listed) };
    (is_listed && free <= total).then(|| total - free)
}

/// Finds `arenas` by structure in the data of the file that holds `_PyRuntime`. Returns the array and its slots.
fn search<M: Memory + ?Sized>(memory: &M, layout: &Layout, elf: &LoadedElf) -> Option<(Address, u64)> {
    let first_slots = INITIAL_ARENAS as usize * layout.arena_object.size;
    let data = elf.writable_ranges(memory);
    for range in &data {
        let length = usize::try_from(range.end.0 - range.start.0).ok()?.min(SCAN_MAX);
        let Ok(bytes) = memory.read_bytes(range.start, length as u64, SCAN_MAX, "data") else { continue };
        let words = bytes.chunks_exact(8).filter_map(|word| u64_at(word, 0));
        let is_writable = |array: Address| memory.regions().find(array).is_some_and(|region| region.writable);
        let mut seen = FxHashSet::default();
        let mut candidates: Vec<Address> = words
            .filter(|&word| word != 0 && word % 16 == 0)
            .map(Address)
            .filter(|&word| seen.insert(word) && is_writable(word))
            .collect();
        // Most pointers in data point to data; the array is a malloc block, which is seldom there.
        candidates.sort_by_key(|candidate| data.iter().any(|range| range.contains(candidate)));
        for batch in candidates.chunks(ASKED_AT_ONCE) {
            let mut buffers = vec![0; batch.len() * first_slots];
            let places = batch.iter().zip(buffers.chunks_exact_mut(first_slots));
            let mut pieces: Vec<Piece<'_>> =
                places.map(|(&address, buffer)| Piece { address, buffer, filled: false }).collect();
            memory.read_pieces(&mut pieces).ok()?;
            let mut filled = pieces.iter().filter(|piece| piece.filled);
            if let Some(array) = filled.find(|piece| is_arena_array(memory, layout, piece.buffer)) {
                return Some((array.address, slots_of(memory, layout, array.address)));
            }
        }
    }
    None
}

/// Whether these first slots are arenas whose first pool repeats their index.
fn is_arena_array<M: Memory + ?Sized>(memory: &M, layout: &Layout, slots: &[u8]) -> bool {
    let mut arenas = 0;
    for (index, slot) in slots.chunks_exact(layout.arena_object.size).enumerate() {
        match read_slot(layout, index as u32, slot) {
            ArenaSlot::Unused => {}
            ArenaSlot::Arena(arena) => {
                // An arena without a carved pool proves nothing.
                if !arena.pools.is_empty() {
                    let header = &layout.pool_header;
                    let of_pool = memory.read_u32(arena.pools.start.offset(header.arenaindex));
                    if of_pool.ok() != Some(index as u32) {
                        return false;
                    }
                    arenas += 1;
                }
            }
            ArenaSlot::Nonsense => return false,
        }
    }
    arenas > 0
}

/// Number of slots. The array's length is a static variable, too; but the array grows by doubling only, so it is the
/// largest doubling in which used slots are valid. A few may be invalid while the target allocates and frees arenas.
/// Memory after the array may look valid as well, zeros in particular, so the size of malloc's chunk is an upper bound
/// if it is known.
fn slots_of<M: Memory + ?Sized>(memory: &M, layout: &Layout, array: Address) -> u64 {
    let mut slots = INITIAL_ARENAS;
    let most = slots_of_chunk(memory, layout, array).unwrap_or(ARENAS_MAX);
    while slots < most {
        let size = layout.arena_object.size as u64;
        let at = Address(array.0.saturating_add(slots * size));
        let Ok(bytes) = memory.read_bytes(at, slots * size, (slots * size) as usize, "arenas") else { break };
        /// Number of slots that may be read in the middle of a change.
        const MOVING: usize = 2;
        /// Number of slots whose first pool is checked, out of many: each is in a different page.
        const ASKED: u64 = 64;
        let every = (slots / ASKED).max(1) as usize;
        let mut insane = 0;
        let mut asked: Vec<(u32, Address)> = Vec::new();
        for (index, slot) in bytes.chunks_exact(size as usize).enumerate() {
            match linked_slot(memory, layout, slots as u32 + index as u32, slot) {
                ArenaSlot::Nonsense => insane += 1,
                ArenaSlot::Arena(arena) if index % every == 0 && !arena.pools.is_empty() => {
                    asked.push((arena.index, arena.pools.start));
                }
                ArenaSlot::Arena(_) | ArenaSlot::Unused => {}
            }
        }
        if insane + strangers(memory, layout, &asked) > MOVING {
            break;
        }
        slots *= 2;
    }
    slots
}

/// Number of slots for which the array's malloc chunk was made. `None` if it is not a glibc chunk or has a debug
/// header.
fn slots_of_chunk<M: Memory + ?Sized>(memory: &M, layout: &Layout, array: Address) -> Option<u64> {
    let size_word = memory.read_u64(Address(array.0.checked_sub(8)?)).ok()?;
    let doubled = std::iter::successors(Some(INITIAL_ARENAS), |slots| Some(slots * 2));
    let mut possible = doubled.take_while(|&slots| slots <= ARENAS_MAX);
    possible.find(|slots| glibc::may_be_for(size_word, slots * layout.arena_object.size as u64))
}

/// How many of these arenas, given as index and first pool, have a first pool that does not name them.
fn strangers<M: Memory + ?Sized>(memory: &M, layout: &Layout, arenas: &[(u32, Address)]) -> usize {
    let offset = layout.pool_header.arenaindex;
    let mut indices = vec![[0; 4]; arenas.len()];
    let mut pieces: Vec<Piece<'_>> = arenas
        .iter()
        .zip(&mut indices)
        .map(|(&(_, pool), buffer)| Piece { address: pool.offset(offset), buffer, filled: false })
        .collect();
    if memory.read_pieces(&mut pieces).is_err() {
        return arenas.len();
    }
    let says = |piece: &Piece<'_>| if piece.filled { u32_at(piece.buffer, 0) } else { None };
    pieces.iter().zip(arenas).filter(|(piece, (index, _))| says(piece) != Some(*index)).count()
}

/// Checks that an unused slot is as `new_arena` leaves it: linked to another slot, or zero.
fn linked_slot<M: Memory + ?Sized>(memory: &M, layout: &Layout, index: u32, slot: &[u8]) -> ArenaSlot {
    let is_link = |next: u64| {
        next == 0 || next.is_multiple_of(16) && memory.regions().contains(Address(next), layout.arena_object.size)
    };
    match read_slot(layout, index, slot) {
        ArenaSlot::Unused if !u64_at(slot, layout.arena_object.nextarena).is_some_and(is_link) => ArenaSlot::Nonsense,
        slot => slot,
    }
}
