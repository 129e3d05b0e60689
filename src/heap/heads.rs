//! The heads of pools: phase 1 of a sample ([`super::sampling`]).
//!
//! A head says in 48 bytes which size class a pool has and how many of its blocks are in use. The first blocks follow it and cost
//! next to nothing more: where all of them are of one type, most of the pool is. A processor reads one in about a
//! microsecond, so those of 1 GiB of pools of 16 KiB take some 30 ms on two processors: as many as can be are read, since what
//! they tell is exact. Where there are more pools, or less time, cells of neighbours are cut, and of each cell so many pools are
//! looked at, at random: a stratified sample (Cochran, *Sampling Techniques*, 5).

use std::time::Instant;

use fastrand::Rng;

use crate::python::layout::Layout;
use crate::python::types::{TypeId, TypeTable};
use crate::target::Address;
use crate::target::memory::{Memory, Piece, ReadError, u64_at};

use super::plan::{Part, Plan};
use super::pools::{Pool, PoolState};

/// Heads that are read at most: 1 GiB of pools of 16 KiB.
pub const HEADS_MAX: u64 = 1 << 16;
/// They are read in as many passes over the address space, so that the phase can end when its time is over.
const PASSES: u64 = 8;
/// Bytes of a pool that are read, and heads per call; the kernel takes 1024.
pub(super) const HEAD: usize = 256;
const HEADS_AT_ONCE: usize = 1024;
/// First blocks whose types are remembered.
const FIRST_BLOCKS: usize = 6;
/// Bytes of a block in which the type of an object stands: behind hooks, two words in front of the GC head, and that.
const BEGINNING: usize = 64;

/// What was read of a pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    /// Where the pool starts.
    pub(super) address: Address,
    /// What its head says.
    pub(super) state: PoolState,
    /// What its first blocks are.
    pub(super) beginning: Beginning,
}

/// What the first blocks of a pool are. They are read on their own, so this tells of what follows and is no count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Beginning {
    types: [Option<TypeId>; FIRST_BLOCKS],
    /// How many of them were looked at.
    blocks: usize,
}

impl Beginning {
    /// Of a pool that begins with blocks of these types, as many as are remembered.
    pub(super) fn of(types: impl Iterator<Item = Option<TypeId>>) -> Beginning {
        let mut beginning = Beginning::default();
        for (place, id) in beginning.types.iter_mut().zip(types) {
            *place = id;
            beginning.blocks += 1;
        }
        beginning
    }

    /// Of each block that was looked at, its type, if it has one.
    pub(super) fn types(&self) -> &[Option<TypeId>] {
        self.types.get(..self.blocks).unwrap_or_default()
    }
}

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
    types: &TypeTable,
    plan: &Plan,
    limit: Limit,
    rng: &mut Rng,
) -> Result<(Vec<Head>, f64), ReadError> {
    let slots = Slots::of(plan, layout.constants.pool_size as u64);
    let cells = Cells::new(slots.count, limit.heads_max, rng);
    let mut heads: Vec<Head> = Vec::new();
    let mut passes = 0;
    for wanted in &cells.passes {
        let start = Instant::now();
        heads.extend(shared_heads(memory, layout, types, &slots, wanted)?);
        passes += 1;
        // The next pass takes as long as this one.
        if passes >= limit.passes_min && limit.until.is_some_and(|until| Instant::now() + start.elapsed() > until) {
            break;
        }
    }
    log::debug!("heads of {passes} in {} pools, {} in all", cells.size, heads.len());
    // Passes are runs in order, which this sort merges.
    heads.sort_by_key(|head| head.address);
    Ok((heads, cells.size as f64 / f64::from(passes.max(1) as u32)))
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

/// As [`some_heads`], by all processors: the kernel spends most of the time, and can do that on several.
fn shared_heads<M: Memory + Sync + ?Sized>(
    memory: &M,
    layout: &Layout,
    types: &TypeTable,
    slots: &Slots,
    wanted: &[u64],
) -> Result<Vec<Head>, ReadError> {
    let share = wanted.len().div_ceil(rayon::current_num_threads().max(1)).max(HEADS_AT_ONCE);
    std::thread::scope(|scope| {
        let shares = wanted.chunks(share);
        let handles: Vec<_> =
            shares.map(|wanted| scope.spawn(move || some_heads(memory, layout, types, slots, wanted))).collect();
        let mut all = Vec::with_capacity(wanted.len());
        for handle in handles {
            all.extend(handle.join().expect("a reader does not panic")?);
        }
        Ok(all)
    })
}

/// The heads of these pools. One that cannot be read any more is free.
fn some_heads<M: Memory + ?Sized>(
    memory: &M,
    layout: &Layout,
    types: &TypeTable,
    slots: &Slots,
    wanted: &[u64],
) -> Result<Vec<Head>, ReadError> {
    let mut heads = Vec::with_capacity(wanted.len());
    let mut buffer = vec![[0_u8; HEAD]; HEADS_AT_ONCE];
    let mut cursor = 0;
    for batch in wanted.chunks(HEADS_AT_ONCE) {
        let mut pieces: Vec<Piece<'_>> = batch
            .iter()
            .zip(&mut buffer)
            .map(|(&slot, buffer)| Piece { address: slots.address(slot, &mut cursor), buffer, filled: false })
            .collect();
        memory.read_pieces(&mut pieces)?;
        heads.extend(pieces.iter().map(|piece| {
            let bytes = if piece.filled { &*piece.buffer } else { &[] };
            let state = if piece.filled { Pool::read(bytes, layout) } else { PoolState::Free };
            let beginning = match &state {
                PoolState::InUse(pool) => beginning(bytes, piece.address, pool, layout, types),
                _ => Beginning::default(),
            };
            Head { address: piece.address, state, beginning }
        }));
    }
    Ok(heads)
}

/// What the blocks are that were read. A type follows a count of references, and what is in front of that is of an even number
/// of words. Of what was freed the count is 0, or there is the next free block of the pool.
fn beginning(bytes: &[u8], address: Address, pool: &Pool, layout: &Layout, types: &TypeTable) -> Beginning {
    let (ob_refcnt, ob_type) = (layout.object.ob_refcnt.unwrap_or_default(), layout.object.ob_type);
    let in_pool = address.0..address.0.saturating_add(layout.constants.pool_size as u64);
    let type_of = |block: &[u8]| {
        let mut places = (ob_type..BEGINNING).step_by(16);
        let (place, id) = places.find_map(|place| Some((place, types.find(u64_at(block, place)?)?)))?;
        let count = u64_at(block, place - ob_type + ob_refcnt)?;
        // From 3.14 on there are flags beside it.
        (count as u32 != 0 && !in_pool.contains(&count)).then_some(id)
    };
    let blocks = bytes.get(pool.first..).unwrap_or_default().chunks(pool.block_size.max(1)).take(pool.carved);
    // The last one may be cut off.
    let least = BEGINNING.min(pool.block_size);
    Beginning::of(blocks.filter(|block| block.len() >= least).map(type_of))
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
