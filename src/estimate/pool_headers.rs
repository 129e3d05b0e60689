//! The heads of pools: phase 1 of a sample ([`crate::estimate::design`]).
//!
//! A head says in 48 bytes which size class a pool has and how many of its blocks are in use. The first blocks follow it and cost
//! next to nothing more: where all of them are of one type, most of the pool is. A processor reads one in about a
//! microsecond, so those of 1 GiB of pools of 16 KiB take some 40 ms on two processors: as many as can be are read, since what
//! they tell is exact. Where there are more pools, or less time, cells of neighbours are cut, and of each cell so many pools are
//! looked at, at random: a stratified sample (Cochran, *Sampling Techniques*, 5).
//!
//! One of each cell is read first, which tells how fast that goes, and needs no types: they are learned meanwhile. So a head may
//! be some milliseconds older than the blocks that are read of its pool. The others follow in one pass in order of address, which
//! takes three quarters of the time, for each, of a pass that skips most pools: the kernel finds neighbours in one line of its
//! tables.

use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::allocator::pymalloc::pools::{Pool, PoolState};
use crate::heap::part::Part;
use crate::heap::plan::Plan;
use crate::process::Address;
use crate::process::memory::{Memory, Piece, ReadError, u64_at};
use crate::python::layout::Layout;
use crate::python::types::{TypeId, TypeTable};

/// Heads that are read at most: 1 GiB of pools of 16 KiB.
pub const HEADERS_MAX: u64 = 1 << 16;
/// Of a cell so many are read at most.
const OF_CELL_MAX: u64 = 16;
/// What a head takes in order of address, as a share of what it takes where most are skipped.
const IN_ORDER: f64 = 0.75;
/// A time that is over by this part for all heads is better than one that is kept without some of them: they say how many
/// blocks there are of each size, and without some of them that is an estimate.
const ALL_TAKE: f64 = 1.3;
/// Bytes of pools of which a census takes as long as a head; and how much longer it takes for what malloc gives.
const CENSUS: f64 = 2700.0;
const HEAP: f64 = 3.0;
/// How long a head takes where there are too few to measure it.
const USUAL: Duration = Duration::from_nanos(1500);
const FEW: usize = 64;
/// Bytes of a pool that are read, and heads per call. The kernel takes 1024; the bytes of these stay in the nearest cache.
pub(crate) const HEAD: usize = 256;
const HEADS_AT_ONCE: usize = 128;
/// First blocks whose types are remembered.
const FIRST_BLOCKS: usize = 6;
/// Bytes of a block in which the type of an object stands: behind hooks, two words in front of the GC head, and that.
const BEGINNING: usize = 64;

/// What was read of a pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolHeader {
    /// Where the pool starts.
    pub(crate) address: Address,
    /// What its head says.
    pub(crate) state: PoolState,
    /// What its first blocks are.
    pub(crate) beginning: Beginning,
}

/// What the first blocks of a pool are. They are read on their own, so this tells of what follows and is no count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Beginning {
    types: [Option<TypeId>; FIRST_BLOCKS],
    /// How many of them were looked at.
    blocks: usize,
}

impl Beginning {
    /// Of a pool that begins with blocks of these types, as many as are remembered.
    pub(crate) fn of(types: impl Iterator<Item = Option<TypeId>>) -> Beginning {
        let mut beginning = Beginning::default();
        for (place, id) in beginning.types.iter_mut().zip(types) {
            *place = id;
            beginning.blocks += 1;
        }
        beginning
    }

    /// Of each block that was looked at, its type, if it has one.
    pub(crate) fn types(&self) -> &[Option<TypeId>] {
        self.types.get(..self.blocks).unwrap_or_default()
    }
}

/// How many heads are read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HeaderLimit {
    /// As many as are read until then; without it, all that there is room for.
    pub until: Option<Instant>,
    /// So many in any case, the first ones among them.
    pub headers_min: u64,
}

/// The heads of one pool of each cell. What its blocks are is not yet said.
#[derive(Debug)]
pub struct FirstHeaders {
    slots: Slots,
    cells: Cells,
    /// Of each cell, the place of that pool in it.
    places: Vec<u64>,
    /// Where they are, and their bytes, if they could be read.
    heads: Vec<(Address, Option<[u8; HEAD]>)>,
    /// How long one took on one processor.
    each: Duration,
}

impl FirstHeaders {
    /// Reads them. `headers_max`: no more heads are to be read, these and others.
    ///
    /// # Errors
    /// Where the target cannot be read at all any more.
    pub fn read<M: Memory + ?Sized>(
        memory: &M,
        layout: &Layout,
        plan: &Plan,
        headers_max: u64,
        rng: &mut Rng,
    ) -> Result<FirstHeaders, ReadError> {
        let slots = Slots::of(plan, layout.constants.pool_size as u64);
        let cells = Cells::new(slots.count, headers_max);
        let places: Vec<u64> = (0..cells.count).map(|_| rng.u64(..cells.size)).collect();
        let wanted: Vec<u64> = cells.slots((0..).zip(&places).map(|(cell, &place)| (cell, place)), slots.count);
        let mut heads = Vec::with_capacity(wanted.len());
        let start = Instant::now();
        read_bytes(memory, &slots, &wanted, |address, bytes| heads.push((address, bytes.copied())))?;
        let count = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
        let each = if wanted.len() < FEW { USUAL } else { start.elapsed() / count };
        Ok(FirstHeaders { slots, cells, places, heads, each })
    }

    /// How long a census takes, to judge by these: pools are shared by all processors, a heap of malloc's is read by one.
    pub fn census_takes(&self, plan: &Plan) -> Duration {
        let of_pools = |part: &Part| matches!(part, Part::Arena(_));
        let bytes = |part: &Part| part.len() as f64;
        let (pools, others): (Vec<&Part>, Vec<&Part>) = plan.parts.iter().partition(|part| of_pools(part));
        let shared =
            pools.into_iter().map(bytes).sum::<f64>() + HEAP * others.iter().map(|part| bytes(part)).sum::<f64>();
        let longest = HEAP * others.into_iter().map(bytes).fold(0.0, f64::max);
        self.bytes_take((shared / processors()).max(longest))
    }

    /// How long all processors take for so many bytes of pools in a row, to judge by these.
    pub fn pools_take(&self, bytes: u64) -> Duration {
        self.bytes_take(bytes as f64 / processors())
    }

    /// How long one takes for them.
    fn bytes_take(&self, bytes: f64) -> Duration {
        Duration::try_from_secs_f64(self.each.as_secs_f64() * bytes / CENSUS).unwrap_or(Duration::MAX)
    }

    /// Reads others of each cell, as many as are allowed. Returns all heads in order of address, and how many pools each of
    /// them stands for.
    pub(crate) fn and_others<M: Memory + Sync + ?Sized>(
        self,
        memory: &M,
        layout: &Layout,
        types: &TypeTable,
        limit: HeaderLimit,
        rng: &mut Rng,
    ) -> Result<(Vec<PoolHeader>, f64), ReadError> {
        let FirstHeaders { slots, cells, places, heads: first, each } = self;
        let decoder = Decoder { layout, types };
        let others = cells.others(limit, each);
        let mut heads: Vec<PoolHeader> = Vec::with_capacity(((others + 1) * cells.count) as usize);
        heads.extend(first.iter().map(|(address, bytes)| decoder.head(*address, bytes.as_ref())));
        if others > 0 {
            heads.extend(shared_heads(memory, &decoder, &slots, &cells.draw(&places, others, slots.count, rng))?);
        }
        log::debug!("heads of {} in {} pools, {} in all, first in {each:?} each", others + 1, cells.size, heads.len());
        // Two runs in order, which this sort merges.
        heads.sort_by_key(|head| head.address);
        Ok((heads, cells.size as f64 / (others + 1) as f64))
    }
}

/// Neighbours of which some are looked at, at random.
#[derive(Debug)]
struct Cells {
    count: u64,
    /// Pools of a cell. The last one may have fewer; then those that are not there may be chosen.
    size: u64,
}

impl Cells {
    fn new(slots: u64, headers_max: u64) -> Cells {
        let size = slots.div_ceil((headers_max / OF_CELL_MAX).max(1)).max(1);
        Cells { count: slots.div_ceil(size), size }
    }

    /// How many others of each cell are read, where one took so long.
    fn others(&self, limit: HeaderLimit, each: Duration) -> u64 {
        let most = self.size.min(OF_CELL_MAX) - 1;
        let Some(until) = limit.until else { return most };
        let left = until.saturating_duration_since(Instant::now()).as_secs_f64();
        let in_time = left * processors() / (each.as_secs_f64() * IN_ORDER).max(1e-9) / self.count.max(1) as f64;
        let least = (limit.headers_min as f64 / self.count.max(1) as f64).ceil() - 1.0;
        let wanted = in_time.max(least);
        let is_all = most + 1 == self.size;
        if is_all && most as f64 <= wanted * ALL_TAKE { most } else { most.min(wanted as u64) }
    }

    /// So many others of each cell, at random, in order.
    fn draw(&self, places: &[u64], others: u64, slots: u64, rng: &mut Rng) -> Vec<u64> {
        let mut drawn = Vec::with_capacity((others * self.count) as usize);
        let mut taken: Vec<u64> = Vec::with_capacity(OF_CELL_MAX as usize);
        for (cell, &first) in (0..).zip(places) {
            taken.clear();
            if others + 1 == self.size {
                taken.extend((0..self.size).filter(|&place| place != first));
            }
            while (taken.len() as u64) < others {
                let place = rng.u64(..self.size);
                if place != first && !taken.contains(&place) {
                    taken.push(place);
                }
            }
            taken.sort_unstable();
            drawn.extend(taken.iter().map(|&place| (cell, place)));
        }
        self.slots(drawn.into_iter(), slots)
    }

    /// The numbers of pools at these places of cells, as far as there are any.
    fn slots(&self, places: impl Iterator<Item = (u64, u64)>, slots: u64) -> Vec<u64> {
        places.map(|(cell, place)| cell * self.size + place).filter(|&slot| slot < slots).collect()
    }
}

/// How many processors read at once.
pub(crate) fn processors() -> f64 {
    rayon::current_num_threads().max(1) as f64
}

/// The heads of these pools, by all processors: the kernel spends most of the time, and can do that on several.
fn shared_heads<M: Memory + Sync + ?Sized>(
    memory: &M,
    decoder: &Decoder<'_>,
    slots: &Slots,
    wanted: &[u64],
) -> Result<Vec<PoolHeader>, ReadError> {
    let share = wanted.len().div_ceil(processors() as usize).max(HEADS_AT_ONCE);
    let some = |wanted: &[u64]| {
        let mut heads = Vec::with_capacity(wanted.len());
        read_bytes(memory, slots, wanted, |address, bytes| heads.push(decoder.head(address, bytes)))?;
        Ok(heads)
    };
    std::thread::scope(|scope| {
        let shares = wanted.chunks(share);
        let handles: Vec<_> = shares.map(|wanted| scope.spawn(move || some(wanted))).collect();
        let mut all = Vec::with_capacity(wanted.len());
        for handle in handles {
            all.extend(handle.join().expect("a reader does not panic")?);
        }
        Ok(all)
    })
}

/// Reads the heads of these pools: where they are, and their bytes, if they can be read.
fn read_bytes<M: Memory + ?Sized>(
    memory: &M,
    slots: &Slots,
    wanted: &[u64],
    mut take: impl FnMut(Address, Option<&[u8; HEAD]>),
) -> Result<(), ReadError> {
    let mut buffer = vec![[0_u8; HEAD]; HEADS_AT_ONCE];
    let mut cursor = 0;
    for batch in wanted.chunks(HEADS_AT_ONCE) {
        let mut pieces: Vec<Piece<'_>> = (batch.iter().zip(&mut buffer))
            .map(|(&slot, buffer)| Piece { address: slots.address(slot, &mut cursor), buffer, filled: false })
            .collect();
        memory.read_pieces(&mut pieces)?;
        let read: Vec<(Address, bool)> = pieces.iter().map(|piece| (piece.address, piece.filled)).collect();
        read.into_iter().zip(&buffer).for_each(|((address, filled), bytes)| take(address, filled.then_some(bytes)));
    }
    Ok(())
}

/// What is needed to say what a head says.
struct Decoder<'a> {
    layout: &'a Layout,
    types: &'a TypeTable,
}

impl Decoder<'_> {
    /// One that cannot be read any more is free.
    fn head(&self, address: Address, bytes: Option<&[u8; HEAD]>) -> PoolHeader {
        let Some(bytes) = bytes else {
            return PoolHeader { address, state: PoolState::Free, beginning: Beginning::default() };
        };
        let state = Pool::read(bytes, self.layout);
        let beginning = match &state {
            PoolState::InUse(pool) => beginning(bytes, address, pool, self.layout, self.types),
            _ => Beginning::default(),
        };
        PoolHeader { address, state, beginning }
    }
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
#[derive(Debug)]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_cell_as_many_are_read() {
        let mut rng = Rng::with_seed(5);
        for (slots, headers_max) in [(1000, 160), (1003, 160), (1000, 320), (40, 1 << 16), (9, 0), (0, 160)] {
            let cells = Cells::new(slots, headers_max);
            assert!(cells.count * OF_CELL_MAX.min(cells.size) <= headers_max.max(cells.count) + OF_CELL_MAX);
            let most = cells.others(HeaderLimit::default(), Duration::ZERO);
            for others in [0, most / 2, most] {
                let places: Vec<u64> = (0..cells.count).map(|_| rng.u64(..cells.size)).collect();
                let mut numbers = cells.slots((0..).zip(&places).map(|(cell, &place)| (cell, place)), slots);
                let drawn = cells.draw(&places, others, slots, &mut rng);
                assert!(drawn.is_sorted());
                numbers.extend(drawn);
                numbers.sort_unstable();
                let read = numbers.len();
                numbers.dedup();
                assert_eq!(numbers.len(), read, "one was read twice");
                assert!(numbers.last().is_none_or(|&last| last < slots));
                for whole in 0..slots / cells.size {
                    let of_cell = numbers.iter().filter(|&&number| number / cells.size == whole).count();
                    assert_eq!(of_cell as u64, others + 1);
                }
            }
        }
    }

    #[test]
    fn time_says_how_many() {
        let cells = Cells::new(1 << 20, 1 << 16);
        let others = |milliseconds, headers_min| {
            let until = Some(Instant::now() + Duration::from_millis(milliseconds));
            cells.others(HeaderLimit { until, headers_min }, Duration::from_millis(1))
        };
        assert_eq!((others(0, 0), others(0, 1 << 15)), (0, 7));
        assert_eq!(others(1_000_000_000, 0), 15);
        // All of few, even if that takes a little longer.
        let few = Cells::new(1 << 14, 1 << 16);
        let others = |headers_min| {
            few.others(HeaderLimit { until: Some(Instant::now()), headers_min }, Duration::from_millis(1))
        };
        assert_eq!((others(13_000), others(12_000), others(8_000)), (3, 2, 1));
    }
}
