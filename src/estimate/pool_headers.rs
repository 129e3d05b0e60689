//! Reads pool headers: phase 1 of a sample ([`crate::estimate::design`]).
//!
//! A header gives the size class of a pool and its blocks in use. One processor reads one in about a microsecond, so
//! those of 1 GiB of pools of 16 KiB take some 40 ms on two. As many as possible are read, since what they say is
//! exact. If there are more pools, or less time, the pools are divided into cells of neighbours, and the same number
//! of each cell is read at random: a stratified sample (Cochran, *Sampling Techniques*, 5).
//!
//! One of each cell is read first, while the types are still being read, to measure the speed; so a header may be
//! some milliseconds older than the blocks that are read of its pool. The others follow in one pass in order of
//! address. Per header that takes three quarters of the time of a pass that skips most pools, because the kernel
//! finds neighbours in one cache line of its page tables.

use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::allocator::pymalloc::pools::{Pool, PoolState};
use crate::heap::part::Part;
use crate::heap::plan::Plan;
use crate::process::Address;
use crate::process::memory::{Memory, Piece, ReadError};
use crate::python::layout::Layout;

/// Headers that are read, at most: those of 1 GiB of pools of 16 KiB.
pub const HEADERS_MAX: u64 = 1 << 16;
/// Headers of a cell that are read, at most.
const OF_CELL_MAX: u64 = 16;
/// Time per header in order of address, as a share of the time where most are skipped.
const IN_ORDER: f64 = 0.75;
/// The time limit may be exceeded by this factor if all headers are read then: they give the exact number of blocks
/// of each size, which without some of them is an estimate.
const ALL_TAKE: f64 = 1.3;
/// Bytes of pools that a census reads in the time of a header, and how much longer it takes for malloc's heaps.
const CENSUS: f64 = 2700.0;
const HEAP: f64 = 3.0;
/// Time per header if there are too few to measure it.
const USUAL: Duration = Duration::from_nanos(1500);
const FEW: usize = 64;
/// Bytes of a header that are read, `POOL_OVERHEAD` in `Objects/obmalloc.c`; and headers per call. The kernel takes
/// 1024; the bytes of these stay in the nearest cache.
pub(crate) const HEADER: usize = 48;
const HEADERS_AT_ONCE: usize = 128;

/// A decoded header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolHeader {
    /// Start of the pool.
    pub(crate) address: Address,
    /// Its state.
    pub(crate) state: PoolState,
}

/// How many headers are read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HeaderLimit {
    /// Read as many as possible until then; `None`: as many as the maximum allows.
    pub until: Option<Instant>,
    /// Read this many in any case, including the first ones.
    pub headers_min: u64,
}

/// The headers of one pool of each cell.
#[derive(Debug)]
pub struct FirstHeaders {
    slots: Slots,
    cells: Cells,
    /// By cell: the position of that pool in it.
    places: Vec<u64>,
    /// Their addresses, and their bytes if they could be read.
    headers: Vec<(Address, Option<[u8; HEADER]>)>,
    /// Time per header on one processor.
    each: Duration,
}

impl FirstHeaders {
    /// Reads them. At most `headers_max` headers will be read, later ones included.
    ///
    /// # Errors
    /// The target can no longer be read at all.
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
        let mut headers = Vec::with_capacity(wanted.len());
        let start = Instant::now();
        read_bytes(memory, &slots, &wanted, |address, bytes| headers.push((address, bytes.copied())))?;
        let count = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
        let each = if wanted.len() < FEW { USUAL } else { start.elapsed() / count };
        Ok(FirstHeaders { slots, cells, places, headers, each })
    }

    /// Estimates the time of a census from the time of these. Pools are shared by all processors; a malloc heap is
    /// read by one.
    pub fn census_takes(&self, plan: &Plan) -> Duration {
        let of_pools = |part: &Part| matches!(part, Part::Arena(_));
        let bytes = |part: &Part| part.len() as f64;
        let (pools, others): (Vec<&Part>, Vec<&Part>) = plan.parts.iter().partition(|part| of_pools(part));
        let shared =
            pools.into_iter().map(bytes).sum::<f64>() + HEAP * others.iter().map(|part| bytes(part)).sum::<f64>();
        let longest = HEAP * others.into_iter().map(bytes).fold(0.0, f64::max);
        self.bytes_take((shared / processors()).max(longest))
    }

    /// Estimates the time in which all processors read so many bytes of consecutive pools.
    pub fn pools_take(&self, bytes: u64) -> Duration {
        self.bytes_take(bytes as f64 / processors())
    }

    /// The same for one processor.
    fn bytes_take(&self, bytes: f64) -> Duration {
        Duration::try_from_secs_f64(self.each.as_secs_f64() * bytes / CENSUS).unwrap_or(Duration::MAX)
    }

    /// Reads more headers of each cell, as many as the limit allows. Returns all headers in order of address, and how
    /// many pools each of them represents.
    pub(crate) fn and_others<M: Memory + Sync + ?Sized>(
        self,
        memory: &M,
        layout: &Layout,
        limit: HeaderLimit,
        rng: &mut Rng,
    ) -> Result<(Vec<PoolHeader>, f64), ReadError> {
        let FirstHeaders { slots, cells, places, headers: first, each } = self;
        let others = cells.others(limit, each);
        let mut headers: Vec<PoolHeader> = Vec::with_capacity(((others + 1) * cells.count) as usize);
        headers.extend(first.iter().map(|(address, bytes)| decode(*address, bytes.as_ref(), layout)));
        if others > 0 {
            headers.extend(read_shared(memory, layout, &slots, &cells.draw(&places, others, slots.count, rng))?);
        }
        log::debug!(
            "headers: {} of each {} pools, {} in all, first {each:?} each",
            others + 1,
            cells.size,
            headers.len()
        );
        // Two sorted runs, which this merges.
        headers.sort_by_key(|header| header.address);
        Ok((headers, cells.size as f64 / (others + 1) as f64))
    }
}

/// Cells of neighbouring pools, of each of which some are read at random.
#[derive(Debug)]
struct Cells {
    count: u64,
    /// Pools per cell. The last cell may have fewer; then pools that do not exist may be drawn from it.
    size: u64,
}

impl Cells {
    fn new(slots: u64, headers_max: u64) -> Cells {
        let size = slots.div_ceil((headers_max / OF_CELL_MAX).max(1)).max(1);
        Cells { count: slots.div_ceil(size), size }
    }

    /// How many more of each cell to read, if one header takes `each`.
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

    /// Draws that many more of each cell, in order.
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

    /// The numbers of the pools at these positions of cells, without pools that do not exist.
    fn slots(&self, places: impl Iterator<Item = (u64, u64)>, slots: u64) -> Vec<u64> {
        places.map(|(cell, place)| cell * self.size + place).filter(|&slot| slot < slots).collect()
    }
}

/// How many processors read in parallel.
pub(crate) fn processors() -> f64 {
    rayon::current_num_threads().max(1) as f64
}

/// Reads the headers of these pools on all processors. The kernel takes most of the time, and works in parallel.
fn read_shared<M: Memory + Sync + ?Sized>(
    memory: &M,
    layout: &Layout,
    slots: &Slots,
    wanted: &[u64],
) -> Result<Vec<PoolHeader>, ReadError> {
    let share = wanted.len().div_ceil(processors() as usize).max(HEADERS_AT_ONCE);
    let some = |wanted: &[u64]| {
        let mut headers = Vec::with_capacity(wanted.len());
        read_bytes(memory, slots, wanted, |address, bytes| headers.push(decode(address, bytes, layout)))?;
        Ok(headers)
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

/// Reads the headers of these pools; passes on their addresses, and their bytes if they can be read.
fn read_bytes<M: Memory + ?Sized>(
    memory: &M,
    slots: &Slots,
    wanted: &[u64],
    mut take: impl FnMut(Address, Option<&[u8; HEADER]>),
) -> Result<(), ReadError> {
    let mut buffer = vec![[0_u8; HEADER]; HEADERS_AT_ONCE];
    let mut cursor = 0;
    for batch in wanted.chunks(HEADERS_AT_ONCE) {
        let mut pieces: Vec<Piece<'_>> = (batch.iter().zip(&mut buffer))
            .map(|(&slot, buffer)| Piece { address: slots.address(slot, &mut cursor), buffer, filled: false })
            .collect();
        memory.read_pieces(&mut pieces)?;
        let read: Vec<(Address, bool)> = pieces.iter().map(|piece| (piece.address, piece.filled)).collect();
        read.into_iter().zip(&buffer).for_each(|((address, filled), bytes)| take(address, filled.then_some(bytes)));
    }
    Ok(())
}

/// Decodes a header; a pool that can no longer be read is free.
fn decode(address: Address, bytes: Option<&[u8; HEADER]>, layout: &Layout) -> PoolHeader {
    PoolHeader { address, state: bytes.map_or(PoolState::Free, |bytes| Pool::read(bytes, layout)) }
}

/// All pools that were ever used, numbered in order of address.
#[derive(Debug)]
struct Slots {
    /// By arena: the number and address of its first pool.
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

    /// The address of a pool. Numbers must come in ascending order; `cursor` remembers the last arena.
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
    fn the_same_number_of_each_cell_is_read() {
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
    fn time_limits_the_number() {
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
