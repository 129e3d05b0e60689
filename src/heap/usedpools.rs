//! Does pymalloc's state lie where the layout says? Asked of the state itself, before its arenas are believed.
//!
//! Since 3.12 the state begins with a table of the pools that have free blocks, a ring for each size of blocks: a pool in
//! it leads back to the table, names its size, and lies in the arena that it names. A size of which there is no such pool
//! has a ring of nothing but its place in the table. The state also counts its arenas.
//!
//! Mirrors `Objects/obmalloc.c` (v3.12 to v3.15), `struct _obmalloc_pools` and `_obmalloc_mgmt`.

use rustc_hash::FxHashMap;

use crate::python::layout::Layout;
use crate::python::layout::allocators::Obmalloc;
use crate::python::proof::ProofError;
use crate::target::Address;
use crate::target::memory::{Memory, MemoryExt};

use super::arenas::Arena;

/// How much of what the state counts and what is found may be in motion: one, and a part of many.
const MOVING_PART: u64 = 64;
/// Slots that one thread may have been stopped at in the middle of a change.
const MOVING_SLOTS: u64 = 1;

/// What was read of one state.
pub(super) struct State<'a> {
    /// Where it is.
    pub(super) at: Address,
    /// Its arenas.
    pub(super) arenas: &'a [Arena],
    /// Those in memory that was not mapped yet when the target's mappings were read.
    pub(super) newer: &'a [Arena],
    /// Slots of its array that make no sense, the newer arenas included.
    pub(super) rejected: u64,
    /// Arenas whose counts of pools disagree.
    pub(super) odd: u64,
}

/// Holds the state against itself.
///
/// # Errors
/// The field that must be wrong, or unreadable memory. The target may have changed meanwhile.
pub(super) fn prove<M: Memory + ?Sized>(
    memory: &M,
    layout: &Layout,
    fields: &Obmalloc,
    state: &State<'_>,
) -> Result<(), ProofError> {
    let wrong = |field: &'static str, detail: String| Err(ProofError::Field { field, detail });
    let header = &layout.pool_header;
    let known = state.arenas.iter().chain(state.newer);
    let by_index: FxHashMap<u32, &Arena> = known.map(|arena| (arena.index, arena)).collect();
    let classes = layout.constants.pymalloc_max / layout.constants.pymalloc_alignment;
    let (mut rings, mut broken, mut at_home, mut astray) = (0, 0, 0, 0);
    for class in 0..classes {
        // The table's two words are taken for the links of a pool.
        let place = state.at.offset(fields.used + 16 * class).back(header.nextpool);
        let pool = memory.read_pointer(place.offset(header.nextpool))?;
        let is_ring = pool == place
            || pool.0.is_multiple_of(layout.constants.pool_size as u64)
                && memory.read_pointer(pool.offset(header.prevpool)).is_ok_and(|back| back == place)
                && memory.read_u32(pool.offset(header.szidx)).is_ok_and(|found| found as usize == class);
        if !is_ring {
            broken += 1;
            continue;
        }
        rings += 1;
        if pool != place {
            let index = memory.read_u32(pool.offset(header.arenaindex)).ok();
            match index.and_then(|index| by_index.get(&index)) {
                Some(arena) if arena.pools.contains(&pool) => at_home += 1,
                _ => astray += 1,
            }
        }
    }
    if broken > rings {
        return wrong("_obmalloc_state.pools", format!("{broken} of {classes} rings of pools are broken"));
    }
    if astray > at_home {
        return wrong("_obmalloc_state.mgmt.arenas", format!("{astray} pools lie in no arena, {at_home} do"));
    }
    let found = (state.arenas.len() + state.newer.len()) as u64;
    let stated = memory.read_u64(state.at.offset(fields.narenas_currently_allocated))?;
    if found.abs_diff(stated) > 1 + stated / MOVING_PART {
        return wrong("_obmalloc_state.mgmt.arenas", format!("{found} arenas, and the allocator counts {stated}"));
    }
    let (rejected, odd) = (state.rejected - state.newer.len() as u64, state.odd);
    if rejected > found.max(MOVING_SLOTS) || odd > (found / 2).max(MOVING_SLOTS) {
        return wrong(
            "arena_object",
            format!("of {found} slots {odd} contradict themselves, {rejected} make no sense"),
        );
    }
    Ok(())
}
