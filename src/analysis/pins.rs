//! Finds who pins free memory: survivors in pools that are nearly empty, and chunks that lie between large holes.
//!
//! pymalloc returns an arena once all its pools are free; glibc's malloc returns what is above the last chunk in use.
//! So one small block keeps its pool, and a chunk above a hole keeps the hole. The free bytes of a sparse pool, and its
//! part of its arena's free pools, are divided among the pool's blocks; a hole is divided by size among the chunks of
//! the island above it, up to the next hole. A buffer counts for its object. Objects are grouped by their owner.

use std::ops::Range;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::graph::ObjectId;
use crate::heap::block_use::{Extent, PoolFill, Use, Visit};
use crate::heap::object_table::Objects;
use crate::process::Address;
use crate::process::residency::Residency;
use crate::python::types::{TypeId, TypeTable};

use super::owners::{GARBAGE, Owners};
use super::thousands::grouped;

/// Share of used blocks below which a pool is sparse.
pub const SPARSE: f64 = 0.1;
/// Holes smaller than this are not asked about: a program has many in use.
pub const HOLE_MIN: u64 = 32 << 10;
/// Number of holders that are kept, those first that pin the most.
const PINS_MAX: usize = 16;

/// What one holder's objects pin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The holder, or what the blocks are if no object has them.
    pub holder: String,
    /// Whether objects under a holder pin; otherwise blocks without an object.
    pub is_holder: bool,
    /// The type with the most bytes of these objects; empty if there is none.
    pub type_name: String,
    /// Number of objects or blocks.
    pub objects: u64,
    /// Number of buffers of objects that lie elsewhere.
    #[serde(default)]
    pub buffers: u64,
    /// Their bytes in these pools or chunks.
    pub bytes: u64,
    /// Bytes of free memory that they pin.
    pub pinned: u64,
}

impl Pin {
    /// `29,998 objects (1.22 MiB) under __main__.KEPT pin 253 MiB`. `size` formats bytes.
    pub fn sentence(&self, size: impl Fn(u64) -> String) -> String {
        let count = grouped(self.objects);
        let Pin { holder, bytes, pinned, .. } = self;
        let objects = match (self.objects, self.buffers) {
            (_, 0) => format!("{count} objects"),
            (0, buffers) => format!("{} buffers of objects", grouped(buffers)),
            (_, buffers) => format!("{count} objects and {} buffers of objects", grouped(buffers)),
        };
        let what = match self.is_holder {
            true if holder.starts_with("shared by ") => format!("{objects} ({}) {holder}", size(*bytes)),
            true => format!("{objects} ({}) under {holder}", size(*bytes)),
            false => format!("{count} {holder} without a Python object ({})", size(*bytes)),
        };
        format!("{what} pin {}", size(*pinned))
    }
}

/// Who pins free memory, largest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pins {
    /// In sparse pools of pymalloc.
    pub pools: Vec<Pin>,
    /// Between holes of glibc's malloc.
    pub islands: Vec<Pin>,
}

/// Collects the places where free memory may be pinned.
#[derive(Debug)]
pub struct Sites<'a> {
    residency: &'a Residency,
    pools: Vec<PoolFill>,
    /// Pools without a used block, with their resident bytes.
    unused: Vec<(Address, u64)>,
    islands: Vec<Island>,
    /// Whether the last chunks belong to the last island.
    is_open: bool,
    end: Address,
}

/// Chunks above a hole, up to the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Island {
    range: Range<Address>,
    /// Resident bytes of the hole.
    hole: u64,
}

impl<'a> Sites<'a> {
    /// None yet.
    pub fn new(residency: &'a Residency) -> Sites<'a> {
        let (pools, unused, islands) = Default::default();
        Sites { residency, pools, unused, islands, is_open: false, end: Address::NULL }
    }
}

impl Visit for Sites<'_> {
    fn extent(&mut self, extent: &Extent) {
        let range = &extent.range;
        let length = range.end.0.saturating_sub(range.start.0);
        let is_chunk = match extent.usage {
            Use::PoolUnused => {
                self.unused.push((range.start, self.residency.resident(range)));
                return;
            }
            Use::ChunkFree | Use::ChunkCached | Use::ChunkObject | Use::ChunkRaw | Use::ChunkOverhead => true,
            _ => false,
        };
        self.is_open &= is_chunk && range.start == self.end;
        self.end = range.end;
        if extent.usage == Use::ChunkFree && length >= HOLE_MIN {
            self.islands.push(Island { range: range.end..range.end, hole: self.residency.resident(range) });
            self.is_open = true;
        } else if let Some(island) = self.islands.last_mut().filter(|_| self.is_open) {
            island.range.end = range.end;
        }
    }

    fn pool(&mut self, pool: PoolFill) {
        self.pools.push(pool);
    }
}

/// What is known of the blocks in these places. Ranges are in order of address.
pub struct Occupants<'a> {
    /// All objects.
    pub objects: &'a Objects,
    /// Their types.
    pub types: &'a TypeTable,
    /// Who owns them.
    pub owners: &'a Owners,
    /// Blocks that are buffers of objects, and whose.
    pub buffers: &'a [(Range<Address>, u32)],
    /// Blocks without an object.
    pub others: &'a [Range<Address>],
}

/// Who pins free memory in these places. `arenas` are pymalloc's, in order of address.
pub fn find<'a>(
    sites: &Sites<'_>,
    arenas: impl Iterator<Item = &'a Range<Address>>,
    occupants: &Occupants<'_>,
) -> Pins {
    let mut pools = PinSums::default();
    for arena in arenas {
        let unused: u64 = within(&sites.unused, arena, |(at, _)| *at).iter().map(|(_, resident)| resident).sum();
        let inside = within(&sites.pools, arena, |pool| pool.address);
        let share = unused / (inside.len() as u64).max(1);
        for pool in inside.iter().filter(|pool| f64::from(pool.in_use) / f64::from(pool.capacity.max(1)) < SPARSE) {
            let held = u64::from(pool.block_size) * u64::from(pool.capacity);
            let free = held.saturating_sub(u64::from(pool.block_size) * u64::from(pool.in_use));
            let range = pool.address..Address(pool.address.0.saturating_add(held));
            pools.divide(&range, free.saturating_add(share), Some(u64::from(pool.block_size)), occupants);
        }
    }
    let mut islands = PinSums::default();
    for island in &sites.islands {
        islands.divide(&island.range, island.hole, None, occupants);
    }
    Pins { pools: pools.named(occupants), islands: islands.named(occupants) }
}

/// The part of a list in order of address that begins in a range.
fn within<'l, T>(list: &'l [T], range: &Range<Address>, address: impl Fn(&T) -> Address) -> &'l [T] {
    let first = list.partition_point(|it| address(it) < range.start);
    let end = list.partition_point(|it| address(it) < range.end);
    list.get(first..end).unwrap_or_default()
}

/// Who has a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Holder {
    /// A frame of the owners.
    Frame(u32),
    /// Nobody: it is garbage.
    Garbage,
    /// Not an object: a block of so many bytes.
    Block(u64),
}

#[derive(Default)]
struct PinSums {
    of: FxHashMap<(Holder, Option<TypeId>), Pin>,
    /// The blocks of the place at hand: whose, of which type, their bytes, and whether an object begins in it.
    met: Vec<(Holder, Option<TypeId>, u64, bool)>,
}

impl PinSums {
    /// Divides `free` bytes among the blocks in a range, by their size: `block_size`, if all have the same.
    fn divide(&mut self, range: &Range<Address>, free: u64, block_size: Option<u64>, occupants: &Occupants<'_>) {
        let Occupants { objects, types, owners, buffers, others } = *occupants;
        let holder = |id: u32| owners.frames().of(ObjectId(id)).map_or(Holder::Garbage, Holder::Frame);
        self.met.clear();
        for (id, object) in objects.from(objects.first_from(range.start)) {
            if object.address >= range.end {
                break;
            }
            let info = types.get(object.type_id);
            // What a getsizeof counts elsewhere is a buffer.
            let inside = if info.itemsize == 0 && !info.is_str_itself { info.basicsize } else { object.size };
            let size = block_size.unwrap_or(inside.saturating_add(info.front as u64));
            self.met.push((holder(id as u32), Some(object.type_id), size, true));
        }
        for (block, id) in within(buffers, range, |(block, _)| block.start) {
            let type_id = objects.type_id(*id as usize);
            self.met.push((holder(*id), Some(type_id), block.end.0.saturating_sub(block.start.0), false));
        }
        for block in within(others, range, |block| block.start) {
            let size = block.end.0.saturating_sub(block.start.0);
            self.met.push((Holder::Block(size), None, size, true));
        }
        let all: u128 = self.met.iter().map(|(.., size, _)| u128::from(*size)).sum();
        for &(holder, type_id, size, begins) in &self.met {
            let pin = self.of.entry((holder, type_id)).or_default();
            pin.objects += u64::from(begins);
            pin.buffers += u64::from(!begins);
            pin.bytes = pin.bytes.saturating_add(size);
            let part = u128::from(free) * u128::from(size) / all.max(1);
            pin.pinned = pin.pinned.saturating_add(u64::try_from(part).unwrap_or(u64::MAX));
        }
    }

    /// The sums by name, largest first.
    fn named(self, occupants: &Occupants<'_>) -> Vec<Pin> {
        let name = |holder: Holder| match holder {
            Holder::Frame(frame) => occupants.owners.frames().holder(frame),
            Holder::Garbage => GARBAGE.to_owned(),
            Holder::Block(size) => format!("blocks of {size} bytes"),
        };
        let mut names: FxHashMap<Holder, String> = FxHashMap::default();
        let mut pins: FxHashMap<String, (Pin, u64)> = FxHashMap::default();
        for ((holder, type_id), sum) in self.of {
            let text = names.entry(holder).or_insert_with(|| name(holder));
            let (pin, most) = pins.entry(text.clone()).or_default();
            let type_name = type_id.map(|id| occupants.types.get(id).full_name()).unwrap_or_default();
            if (sum.bytes, &pin.type_name) > (*most, &type_name) || pin.type_name.is_empty() {
                (*most, pin.type_name) = (sum.bytes, type_name);
            }
            pin.is_holder = !matches!(holder, Holder::Block(_));
            pin.objects += sum.objects;
            pin.buffers += sum.buffers;
            pin.bytes = pin.bytes.saturating_add(sum.bytes);
            pin.pinned = pin.pinned.saturating_add(sum.pinned);
        }
        let mut pins: Vec<Pin> = pins.into_iter().map(|(holder, (pin, _))| Pin { holder, ..pin }).collect();
        pins.sort_by(|a, b| b.pinned.cmp(&a.pinned).then_with(|| a.holder.cmp(&b.holder)));
        pins.truncate(PINS_MAX);
        pins
    }
}
