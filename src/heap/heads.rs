//! The heads of pools: phase 1 of a sample ([`super::sampling`]).
//!
//! A head says in 48 bytes which size class a pool has and how many of its blocks are in use. A processor reads one in about a
//! microsecond, so those of 1 GiB of pools of 16 KiB take some 30 ms on two processors: as many as can be are read, since what
//! they tell is exact. Where there are more pools, or less time, cells of neighbours are cut, and of each cell so many pools are
//! looked at, at random: a stratified sample (Cochran, *Sampling Techniques*, 5).

use std::time::Instant;

use fastrand::Rng;

use crate::python::layout::Layout;
use crate::target::Address;
use crate::target::memory::{Memory, Piece, ReadError};

use super::plan::{Part, Plan};
use super::pools::{Pool, PoolState};

/// Heads that are read at most: 1 GiB of pools of 16 KiB.
pub const HEADS_MAX: u64 = 1 << 16;
/// They are read in as many passes over the address space, so that the phase can end when its time is over.
const PASSES: u64 = 8;
/// Bytes of a pool's head that are read, and heads per call; the kernel takes 1024.
pub(super) const HEAD: usize = 48;
const HEADS_AT_ONCE: usize = 1024;

/// How many heads are read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// At most so many.
    pub heads_max: u64,
    /// No further pass begins that would not end until then.
    pub until: Option<Instant>,
    /// Eighths of `heads_max` that are read in any case; one at least.
    pub passes_min: usize,
}

impl Limit {
    /// So many, whatever the time.
    pub fn count(heads_max: u64) -> Limit {
        Limit { heads_max, until: None, passes_min: 1 }
    }
}

/// Reads the heads of pools: in order of address, and how many pools each of them stands for.
pub(super) fn read<M: Memory + Sync + ?Sized>(
    memory: &M,
    layout: &Layout,
    plan: &Plan,
    limit: Limit,
    rng: &mut Rng,
) -> Result<(Vec<(Address, PoolState)>, f64), ReadError> {
    let slots = Slots::of(plan, layout.constants.pool_size as u64);
    let cells = Cells::new(slots.count, limit.heads_max, rng);
    let mut states: Vec<(Address, PoolState)> = Vec::new();
    let mut passes = 0;
    for wanted in &cells.passes {
        let start = Instant::now();
        states.extend(shared_states(memory, layout, &slots, wanted)?);
        passes += 1;
        // The next pass takes as long as this one.
        if passes >= limit.passes_min && limit.until.is_some_and(|until| Instant::now() + start.elapsed() > until) {
            break;
        }
    }
    log::debug!("heads of {passes} in {} pools, {} in all", cells.size, states.len());
    // Passes are runs in order, which this sort merges.
    states.sort_by_key(|&(address, _)| address);
    Ok((states, cells.size as f64 / f64::from(passes.max(1) as u32)))
}

/// Which heads are read, in passes.
struct Cells {
    /// Neighbours of which each pass reads one at random that no pass before it has read.
    size: u64,
    /// Numbers of pools, in order.
    passes: Vec<Vec<u64>>,
}

impl Cells {
    fn new(count: u64, heads_max: u64, rng: &mut Rng) -> Cells {
        let size = count.div_ceil((heads_max / PASSES).max(1)).max(1);
        let number = size.min(PASSES) as usize;
        let mut passes = vec![Vec::with_capacity(count.div_ceil(size) as usize); number];
        let mut taken = Vec::with_capacity(number);
        for cell in 0..count.div_ceil(size) {
            taken.clear();
            for pass in &mut passes {
                let offset = loop {
                    let offset = rng.u64(..size);
                    if !taken.contains(&offset) {
                        break offset;
                    }
                };
                taken.push(offset);
                // The last cell may have fewer than its size, and then those that are not there may be chosen.
                let slot = cell * size + offset;
                if slot < count {
                    pass.push(slot);
                }
            }
        }
        Cells { size, passes }
    }
}

/// As [`states`], by all processors: the kernel spends most of the time, and can do that on several.
fn shared_states<M: Memory + Sync + ?Sized>(
    memory: &M,
    layout: &Layout,
    slots: &Slots,
    wanted: &[u64],
) -> Result<Vec<(Address, PoolState)>, ReadError> {
    let share = wanted.len().div_ceil(rayon::current_num_threads().max(1)).max(HEADS_AT_ONCE);
    std::thread::scope(|scope| {
        let shares = wanted.chunks(share);
        let handles: Vec<_> = shares.map(|wanted| scope.spawn(move || states(memory, layout, slots, wanted))).collect();
        let mut all = Vec::with_capacity(wanted.len());
        for handle in handles {
            all.extend(handle.join().expect("a reader does not panic")?);
        }
        Ok(all)
    })
}

/// The heads of these pools. One that cannot be read any more is free.
fn states<M: Memory + ?Sized>(
    memory: &M,
    layout: &Layout,
    slots: &Slots,
    wanted: &[u64],
) -> Result<Vec<(Address, PoolState)>, ReadError> {
    let mut states = Vec::with_capacity(wanted.len());
    let mut buffer = vec![[0_u8; HEAD]; HEADS_AT_ONCE];
    let mut cursor = 0;
    for batch in wanted.chunks(HEADS_AT_ONCE) {
        let mut pieces: Vec<Piece<'_>> = batch
            .iter()
            .zip(&mut buffer)
            .map(|(&slot, buffer)| Piece { address: slots.address(slot, &mut cursor), buffer, filled: false })
            .collect();
        memory.read_pieces(&mut pieces)?;
        states.extend(pieces.iter().map(|piece| {
            let state = if piece.filled { Pool::read(piece.buffer, layout) } else { PoolState::Free };
            (piece.address, state)
        }));
    }
    Ok(states)
}

/// All pools that were ever used, numbered in order of address.
struct Slots {
    /// First number of an arena, and its first pool.
    arenas: Vec<(u64, Address)>,
    count: u64,
    pool_size: u64,
}

impl Slots {
    fn of(plan: &Plan, pool_size: u64) -> Slots {
        let mut slots = Slots { arenas: Vec::new(), count: 0, pool_size };
        for part in &plan.parts {
            let Part::Arena(arena) = part else { continue };
            slots.arenas.push((slots.count, arena.pools.start));
            slots.count += (arena.pools.end.0 - arena.pools.start.0) / pool_size;
        }
        slots
    }

    /// The pool of a number; numbers are asked for in order, and `cursor` remembers where the last one was.
    fn address(&self, number: u64, cursor: &mut usize) -> Address {
        while self.arenas.get(*cursor + 1).is_some_and(|&(first, _)| first <= number) {
            *cursor += 1;
        }
        let (first, start) = self.arenas[*cursor];
        Address(start.0 + (number - first) * self.pool_size)
    }
}
