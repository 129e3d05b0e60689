//! Checks that pymalloc's state is where the layout says, before its arenas are used.
//!
//! Since 3.12 the state begins with a table of pools that have free blocks, one ring per size class. A pool in a ring
//! leads back to the table, states its size class, and is in the arena that it names. A size class without such pools
//! has a ring that contains only its table entry. The state also counts its arenas.
//!
//! Mirrors `Objects/obmalloc.c` (v3.12 to v3.15), `struct _obmalloc_pools` and `_obmalloc_mgmt`.

use rustc_hash::FxHashMap;

use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt};
use crate::python::layout::Layout;
use crate::python::layout::allocators::Obmalloc;
use crate::python::proof_error::ProofError;

use super::arena::{Arena, Arenas};

/// Allowed difference between the state's counts and what is found in a running target: one, plus a 64th.
const MOVING_PART: u64 = 64;
/// Number of slots that one thread may have been changing when it was stopped.
const MOVING_SLOTS: u64 = 1;

/// Checks the state at `at` against the arenas found through its array.
///
/// # Errors
/// The field that must be wrong, or unreadable memory. The target may have changed meanwhile.
pub(crate) fn prove<M: Memory + ?Sized>(
    memory: &M,
    layout: &Layout,
    fields: &Obmalloc,
    at: Address,
    found: &Arenas,
) -> Result<(), ProofError> {
    let wrong = |field: &'static str, detail: String| Err(ProofError::Field { field, detail });
    let header = &layout.pool_header;
    let known = found.arenas.iter().chain(&found.newer);
    let by_index: FxHashMap<u32, &Arena> = known.map(|arena| (arena.index, arena)).collect();
    let classes = layout.constants.pymalloc_max / layout.constants.pymalloc_alignment;
    let (mut rings, mut broken, mut at_home, mut astray) = (0, 0, 0, 0);
    for class in 0..classes {
        // The table's two words have the place of a pool's links.
        let place = at.offset(fields.used + 16 * class).back(header.nextpool);
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
        return wrong("_obmalloc_state.mgmt.arenas", format!("{astray} pools are in no arena, {at_home} are"));
    }
    let count = (found.arenas.len() + found.newer.len()) as u64;
    let stated = memory.read_u64(at.offset(fields.narenas_currently_allocated))?;
    if count.abs_diff(stated) > 1 + stated / MOVING_PART {
        return wrong("_obmalloc_state.mgmt.arenas", format!("{count} arenas found, the allocator counts {stated}"));
    }
    let (rejected, odd) = (found.rejected - found.newer.len() as u64, found.odd);
    if rejected > count.max(MOVING_SLOTS) || odd > (count / 2).max(MOVING_SLOTS) {
        return wrong(
            "arena_object",
            format!("of {count} slots {odd} contradict themselves and {rejected} are invalid"),
        );
    }
    Ok(())
}
