//! The groups of musl's malloc (mallocng), which hold objects over 512 bytes in a process on musl, and all objects of
//! one that runs without pymalloc.
//!
//! A group is a row of slots of one size. Which of them are used is stored in its `meta`, which is with about a hundred
//! others in an area of one page. An area begins with a secret word of the process. Areas are found by their structure
//! and through each other; a meta is accepted if its group points back to it. A slot holds a used block if neither mask
//! of the meta contains it, and if the header before the block repeats the slot's number and the distance to the group.
//! The header also gives the requested size in bytes. Groups of small slots are inside slots of larger ones.
//!
//! Mirrors `src/malloc/mallocng/meta.h`, `malloc.c`, `free.c` and `aligned_alloc.c` (musl 1.2.1 to 1.2.5).

use std::ops::Range;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::process::memory::{Memory, MemoryExt, Piece, u32_at, u64_at};
use crate::process::{Address, PAGE};

use super::room::BlockRoom;

/// Size and alignment of an area, bytes.
pub(crate) const AREA: u64 = 4096;
/// `struct meta_area`: check, next, number of slots.
const AREA_HEAD: usize = 24;
/// `struct meta`: previous, next, group, two masks, and a word of bit fields.
pub(crate) const META: usize = 40;
/// Number of metas in an area.
const METAS: usize = (AREA as usize - AREA_HEAD) / META;
/// `UNIT`: malloc's alignment; also the size of a group's header.
const UNIT: u64 = 16;
/// `IB`: bytes of the header before a block; they are the last bytes of the previous slot.
const HEADER: usize = 4;
/// Upper bound on a mapping: 1 TiB, the memory of a large machine.
const MAPPING_MAX: u64 = 1 << 40;
/// Bytes read of an mmapped slot: the block may begin up to a page after the slot's start.
const PREFIX: u64 = 2 * PAGE;
/// Upper bound on a group of more than one slot: 32 of the largest class, bytes.
const GROUP_MAX: usize = UNIT as usize + 32 * SIZE_CLASSES[47] as usize * UNIT as usize;
/// Upper bound on areas: 16 million groups.
const AREAS_MAX: usize = 1 << 18;

/// `size_classes`, in units.
const SIZE_CLASSES: [u16; 48] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 18, 20, 25, 31, 36, 42, 50, 63, 72, 84, 102, 127, 146, 170, 204, 255, 292,
    340, 409, 511, 584, 682, 818, 1023, 1169, 1364, 1637, 2047, 2340, 2730, 3276, 4095, 4680, 5460, 6552, 8191,
];
/// The class of a mapping that is too large for every class.
const NO_CLASS: u64 = 63;

/// Value of a header's three high bits if the number of unused bytes is stored at the end of the slot.
const LEFT_OVER_IS_BEHIND: u8 = 5;
const IS_GROUP: u8 = 6;
/// The header at a slot's start if its block begins further in.
const BEGINS_FURTHER_IN: u8 = 7 << 5;

/// An area, and the memory of the groups that its metas describe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Area {
    /// Its address.
    pub address: Address,
    /// What a census reads: the area, and its groups up to the last slot that was ever allocated. A group within
    /// another group's slot belongs to that one. Of an mmapped slot only the first bytes.
    pub pieces: Vec<Range<Address>>,
    /// The same with all bytes of mmapped slots.
    pub whole: Vec<Range<Address>>,
}

/// A group as described by its meta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotGroup {
    meta: Address,
    /// Its address.
    pub start: Address,
    slots: u64,
    pub(crate) stride: u64,
    /// Free slots, one bit each: `avail_mask` and `freed_mask`.
    free: u32,
    /// Whether it is a single mmapped slot.
    is_mapping: bool,
}

/// A used block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its offset from the group's start.
    pub offset: usize,
    /// Number of bytes requested.
    pub room: BlockRoom,
}

/// The content of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupSlot {
    /// The slot is free or holds a group.
    Nothing,
    /// A used block.
    Block(Block),
    /// Its header contradicts its meta: it is being allocated or freed.
    Torn,
}

/// A meta that contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonsense;

impl SlotGroup {
    /// Reads the meta at `address`. `None` if it describes no group.
    ///
    /// # Errors
    /// [`Nonsense`] if it cannot be a meta.
    pub fn read(address: Address, meta: &[u8]) -> Result<Option<SlotGroup>, Nonsense> {
        let word = |offset: usize| u64_at(meta, offset).ok_or(Nonsense);
        let mask = |offset: usize| u32_at(meta, offset).ok_or(Nonsense);
        let (start, avail, freed, numbers) = (word(16)?, mask(24)?, mask(28)?, word(32)?);
        if start == 0 {
            return Ok(None);
        }
        let (last, class, pages) = (numbers & 31, numbers >> 6 & 63, numbers >> 12);
        let is_mapping = last == 0 && pages > 0;
        let of_class = usize::try_from(class).ok().and_then(|class| SIZE_CLASSES.get(class));
        let stride = match of_class {
            _ if is_mapping => pages.checked_mul(PAGE).filter(|&length| length <= MAPPING_MAX).ok_or(Nonsense)? - UNIT,
            Some(&units) => u64::from(units) * UNIT,
            None => return Err(Nonsense),
        };
        let slots = last + 1;
        let sane = start % UNIT == 0
            && (of_class.is_some() || class == NO_CLASS)
            && avail & freed == 0
            && u64::from(avail | freed) >> slots == 0
            && start.checked_add(UNIT + slots * stride).is_some();
        sane.then_some(Some(SlotGroup {
            meta: address,
            start: Address(start),
            slots,
            stride,
            free: avail | freed,
            is_mapping,
        }))
        .ok_or(Nonsense)
    }

    /// Bytes of its first `slots` slots, including the group's header and the header of each slot.
    fn length(&self, slots: u64) -> u64 {
        UNIT + slots.min(self.slots) * self.stride
    }

    /// Bytes needed to classify its used slots; 0 if there are none.
    pub(crate) fn wanted(&self) -> u64 {
        let in_use = (0..self.slots).rev().find(|slot| self.free >> slot & 1 == 0);
        let whole = in_use.map_or(0, |last| self.length(last + 1));
        if self.is_mapping { whole.min(PREFIX) } else { whole }
    }

    /// Whether the group's header, at the start of `bytes`, points back to the meta.
    pub(crate) fn is_proved(&self, bytes: &[u8]) -> bool {
        u64_at(bytes, 0) == Some(self.meta.0)
    }

    /// All slots in order. `bytes` starts at the group's start.
    pub fn slots<'b>(&self, bytes: &'b [u8]) -> impl Iterator<Item = GroupSlot> + use<'b> {
        let group = *self;
        (0..group.slots).map(move |index| {
            if group.free >> index & 1 == 1 {
                GroupSlot::Nothing
            } else {
                group.slot(index, bytes).unwrap_or(GroupSlot::Torn)
            }
        })
    }

    fn slot(&self, index: u64, bytes: &[u8]) -> Option<GroupSlot> {
        let start = usize::try_from(UNIT + index * self.stride).ok()?;
        let end = start.checked_add(usize::try_from(self.stride).ok()?)?.checked_sub(HEADER)?;
        let flags = |block: usize| bytes.get(block.checked_sub(3)?).copied();
        let units = |block: usize| Some(usize::from(u16::from_le_bytes(bytes.get(block - 2..block)?.try_into().ok()?)));
        let block = match flags(start)? {
            BEGINS_FURTHER_IN => start + units(start)? * UNIT as usize,
            _ => start,
        };
        let long_way = *bytes.get(block - HEADER)? != 0;
        let way_back = if long_way { u32_at(bytes, block - 8)? as usize } else { units(block)? };
        let (number, kind) = (u64::from(flags(block)? & 31), flags(block)? >> 5);
        if number != index || way_back != (block - UNIT as usize) / UNIT as usize || block > end {
            return None;
        }
        let left_over = match kind {
            0..LEFT_OVER_IS_BEHIND => Some(usize::from(kind)),
            // Beyond the bytes read of a mapping.
            LEFT_OVER_IS_BEHIND if end > bytes.len() => None,
            LEFT_OVER_IS_BEHIND => Some(u32_at(bytes, end - 4)? as usize),
            IS_GROUP => return Some(GroupSlot::Nothing),
            _ => return None,
        };
        let room = match left_over {
            Some(left_over) => BlockRoom::Requested((end - block).checked_sub(left_over)? as u64),
            None => BlockRoom::AtMost((end - block) as u64),
        };
        Some(GroupSlot::Block(Block { offset: block, room }))
    }
}

/// What the bytes from a block's start, or a free slot's, to the slot's end are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotUse {
    /// A free slot.
    Free,
    /// A used block.
    Block,
    /// A slot whose header contradicts its meta.
    Torn,
}

impl SlotGroup {
    /// All slots but those that hold a group, in order, each up to the next one.
    fn extents<M: Memory + ?Sized>(&self, memory: &M) -> Vec<(Range<Address>, SlotUse)> {
        let bytes = memory.read_bytes(self.start, self.wanted(), GROUP_MAX, "group").unwrap_or_default();
        let of = |(index, slot): (u64, GroupSlot)| {
            let start = self.start.0.checked_add(UNIT + index * self.stride)?;
            let end = Address(start.checked_add(self.stride)?);
            match slot {
                GroupSlot::Nothing if self.free >> index & 1 == 1 => Some((Address(start)..end, SlotUse::Free)),
                GroupSlot::Nothing => None,
                GroupSlot::Block(block) => Some((self.start.offset(block.offset)..end, SlotUse::Block)),
                GroupSlot::Torn => Some((Address(start)..end, SlotUse::Torn)),
            }
        };
        (0..).zip(self.slots(&bytes)).filter_map(of).collect()
    }
}

/// The groups of all areas that point back to their meta, in order of address.
pub fn groups<'a, M: Memory + ?Sized>(memory: &M, areas: impl Iterator<Item = &'a Area>) -> Vec<SlotGroup> {
    let mut found = Vec::new();
    for area in areas {
        let Ok(bytes) = memory.read_bytes(area.address, AREA, AREA as usize, "meta area") else { continue };
        let is_proved = |group: &SlotGroup| memory.read_u64(group.start).is_ok_and(|meta| meta == group.meta.0);
        found.extend(described_groups(area.address, &bytes).filter(is_proved));
    }
    found.sort_unstable_by_key(|group| group.start);
    found
}

/// What a range of an area's memory ([`Area::whole`]) is used for, in order of address and without overlaps. `groups`
/// are those of all areas: a group may be inside a slot of another area's. What is in no slot are headers.
pub fn slots_within<M: Memory + ?Sized>(
    memory: &M,
    groups: &[SlotGroup],
    range: &Range<Address>,
) -> Vec<(Range<Address>, SlotUse)> {
    let inside = groups.get(groups.partition_point(|group| group.start < range.start)..).unwrap_or_default();
    let inside = inside.iter().take_while(|group| group.start < range.end);
    let mut slots: Vec<_> = inside.flat_map(|group| group.extents(memory)).collect();
    slots.sort_by_key(|(slot, _)| slot.start);
    let mut from = range.start;
    slots.retain_mut(|(slot, _)| {
        slot.end = slot.end.min(range.end);
        let is_next = slot.start >= from && slot.start < slot.end;
        from = if is_next { slot.end } else { from };
        is_next
    });
    slots
}

/// The metas in the area whose bytes are `area`, with their addresses.
pub(crate) fn metas(address: Address, area: &[u8]) -> impl Iterator<Item = (Address, &[u8])> {
    let metas = area.get(AREA_HEAD..).unwrap_or_default().chunks_exact(META).take(METAS);
    metas.enumerate().map(move |(index, meta)| (address.offset(AREA_HEAD + index * META), meta))
}

/// The groups that the metas in the area describe; those of metas that contradict themselves are left out.
fn described_groups(address: Address, area: &[u8]) -> impl Iterator<Item = SlotGroup> {
    metas(address, area).filter_map(|(at, meta)| SlotGroup::read(at, meta).ok().flatten())
}

/// Finds all areas. `heaps` and `anonymous` are the resident parts of the `brk` heap and of private anonymous memory;
/// areas are in the `brk` heap as long as it could grow. Empty if malloc is a different one.
pub fn find<M: Memory + ?Sized>(memory: &M, heaps: &[Range<Address>], anonymous: &[Range<Address>]) -> Vec<Area> {
    for ranges in [heaps, anonymous] {
        let mut by_check: FxHashMap<u64, Vec<Address>> = FxHashMap::default();
        for (check, address) in ranges.iter().flat_map(|range| candidates(memory, range)) {
            by_check.entry(check).or_default().push(address);
        }
        let known = by_check.into_iter().map(|(check, first)| described(memory, check, first));
        // Most groups are confirmed by the secret of the process.
        let best = known.max_by_key(|areas| (areas.iter().map(|area| area.1.len()).sum::<usize>(), areas.len()));
        if let Some(areas) = best.filter(|areas| areas.iter().any(|(_, groups)| !groups.is_empty())) {
            return with_pieces(areas);
        }
    }
    Vec::new()
}

/// Places that may be an area, with their first words.
fn candidates<M: Memory + ?Sized>(memory: &M, range: &Range<Address>) -> Vec<(u64, Address)> {
    /// Number of headers, one page apart, read at a time.
    const BATCH: u64 = 512;
    let mut found = Vec::new();
    let mut page = range.start.0.next_multiple_of(AREA);
    while page < range.end.0 {
        let count = ((range.end.0 - page) / AREA).clamp(1, BATCH);
        let places: Vec<Address> = (0..count).map(|index| Address(page + index * AREA)).collect();
        let heads = read_all(memory, &places, AREA_HEAD);
        found.extend(heads.into_iter().zip(&places).filter_map(|(head, &place)| Some((check_of(&head?)?, place))));
        page += count * AREA;
    }
    found
}

/// The first word of an area. `None` if it cannot be one.
fn check_of(head: &[u8]) -> Option<u64> {
    let (check, next, slots) = (u64_at(head, 0)?, u64_at(head, 8)?, u32_at(head, 16)?);
    (check != 0 && next % AREA == 0 && slots as usize == METAS).then_some(check)
}

/// Reads `length` bytes at each place. `None` for places that cannot be read.
fn read_all<M: Memory + ?Sized>(memory: &M, places: &[Address], length: usize) -> Vec<Option<Vec<u8>>> {
    let mut buffers = vec![vec![0; length]; places.len()];
    let mut pieces: Vec<Piece<'_>> =
        places.iter().zip(&mut buffers).map(|(&address, buffer)| Piece { address, buffer, filled: false }).collect();
    let read = memory.read_pieces(&mut pieces);
    let filled: Vec<bool> = pieces.iter().map(|piece| piece.filled && read.is_ok()).collect();
    buffers.into_iter().zip(filled).map(|(buffer, filled)| filled.then_some(buffer)).collect()
}

/// A group that points back to its meta, and how many of its slots were ever allocated.
type ProvedGroup = (SlotGroup, u64);

/// The areas that begin with `check`: those at `first` and those they lead to, each with its groups.
fn described<M: Memory + ?Sized>(memory: &M, check: u64, first: Vec<Address>) -> Vec<(Address, Vec<ProvedGroup>)> {
    let mut seen: FxHashSet<Address> = first.iter().copied().collect();
    let mut open = first;
    let mut areas = Vec::new();
    while let Some(address) = open.pop() {
        let Ok(bytes) = memory.read_bytes(address, AREA, AREA as usize, "meta area") else { continue };
        if check_of(&bytes) != Some(check) {
            continue;
        }
        if let Some(next) = u64_at(&bytes, 8).map(Address)
            && !next.is_null()
            && seen.len() < AREAS_MAX
            && seen.insert(next)
        {
            open.push(next);
        }
        let groups: Vec<SlotGroup> = described_groups(address, &bytes).collect();
        let starts: Vec<Address> = groups.iter().map(|group| group.start).collect();
        let heads = read_all(memory, &starts, UNIT as usize).into_iter().zip(groups);
        let proved = heads.filter_map(|(head, group)| {
            let head = head.filter(|head| group.is_proved(head))?;
            Some((group, u64::from(head.get(8)? & 31) + 1))
        });
        areas.push((address, proved.collect()));
    }
    areas.sort_unstable_by_key(|area| area.0);
    areas
}

/// Decides which area each range of memory belongs to: a group within another one's slot belongs to the outer one.
fn with_pieces(areas: Vec<(Address, Vec<ProvedGroup>)>) -> Vec<Area> {
    let mut all: Vec<(Range<Address>, u64, usize)> = Vec::new();
    let mut found = Vec::new();
    for (index, (address, groups)) in areas.into_iter().enumerate() {
        let own = address..Address(address.0 + AREA);
        found.push(Area { address, pieces: vec![own.clone()], whole: vec![own] });
        all.extend(groups.into_iter().map(|(group, handed_out)| {
            let whole = group.length(handed_out);
            let read = if group.is_mapping { whole.min(PREFIX) } else { whole };
            (group.start..Address(group.start.0 + whole), read, index)
        }));
    }
    // Of two that begin at the same address, the outer one comes first.
    all.sort_unstable_by_key(|(range, ..)| (range.start, std::cmp::Reverse(range.end)));
    let mut end = Address::NULL;
    for (range, read, index) in all {
        if range.start < end {
            continue;
        }
        end = range.end;
        if let Some(area) = found.get_mut(index) {
            area.pieces.push(range.start..Address(range.start.0 + read));
            area.whole.push(range);
        }
    }
    found
}

/// Passes the first bytes of used blocks of an area to `each`, until it returns `false`.
pub fn sample<M: Memory + ?Sized>(memory: &M, area: &Area, mut each: impl FnMut(&[u8]) -> bool) {
    /// Bytes of a group that are sampled.
    const LOOK: u64 = 64 << 10;
    let Ok(bytes) = memory.read_bytes(area.address, AREA, AREA as usize, "meta area") else { return };
    for group in described_groups(area.address, &bytes) {
        let wanted = group.wanted().min(LOOK);
        let Ok(bytes) = memory.read_bytes(group.start, wanted, LOOK as usize, "group") else { continue };
        if !group.is_proved(&bytes) {
            continue;
        }
        for slot in group.slots(&bytes) {
            if let GroupSlot::Block(block) = slot
                && !each(&bytes[block.offset.min(bytes.len())..])
            {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::image::{Image, Segment};

    const HEAP: u64 = 0x40_0000;
    const MAPPING: u64 = 0x7f00_0000_0000;
    const CHECK: u64 = 0x1234_5678_9abc_def0;

    /// An area with a group of six slots of 48 bytes and one with a single slot, and their memory.
    struct Made {
        area: Vec<u8>,
        group: Vec<u8>,
    }

    fn put(bytes: &mut [u8], offset: usize, word: u64) {
        bytes[offset..offset + 8].copy_from_slice(&word.to_le_bytes());
    }

    fn meta(area: &mut [u8], index: usize, group: u64, masks: [u32; 2], numbers: u64) {
        let at = AREA_HEAD + index * META;
        put(area, at + 16, group);
        put(area, at + 24, u64::from(masks[0]) | u64::from(masks[1]) << 32);
        put(area, at + 32, numbers);
    }

    /// Writes the header before `block`; its distance to the group is in units from the first slot.
    fn header(group: &mut [u8], block: usize, flags: u8, way_back: u16) {
        group[block - 4] = 0;
        group[block - 3] = flags;
        group[block - 2..block].copy_from_slice(&way_back.to_le_bytes());
    }

    impl Made {
        fn new() -> Made {
            let (mut area, mut group) = (vec![0; AREA as usize], vec![0; 8192]);
            put(&mut area, 0, CHECK);
            put(&mut area, 16, METAS as u64);
            // Slots 4 (never used) and 1 (freed) are free; the last of six is 5, the class of 48 bytes 2.
            meta(&mut area, 0, MAPPING, [1 << 4, 1 << 1], 5 | 1 << 5 | 2 << 6 | 2 << 12);
            meta(&mut area, 2, MAPPING + 4096, [0, 0], 1 << 5 | NO_CLASS << 6 | 1 << 12);
            put(&mut group, 0, HEAP + AREA_HEAD as u64);
            group[8] = 4;
            let slot = |index: usize| 16 + 48 * index;
            header(&mut group, slot(0), 4 << 5, 0);
            header(&mut group, slot(1), 255, 0);
            // Begins one unit in; the slot's last bytes state that 7 bytes are unused.
            header(&mut group, slot(2), BEGINS_FURTHER_IN, 1);
            header(&mut group, slot(2) + 16, 2 | LEFT_OVER_IS_BEHIND << 5, 7);
            group[slot(3) - 8..slot(3) - 4].copy_from_slice(&7u32.to_le_bytes());
            header(&mut group, slot(3), 3 | IS_GROUP << 5, 9);
            // Its number is that of another slot.
            header(&mut group, slot(5), 4, 15);
            put(&mut group, 4096, HEAP + (AREA_HEAD + 2 * META) as u64);
            header(&mut group, 4096 + 16, 1, 0);
            header(&mut group, 4096 + 16, LEFT_OVER_IS_BEHIND << 5, 0);
            group[8192 - 8..8192 - 4].copy_from_slice(&100u32.to_le_bytes());
            Made { area, group }
        }

        fn image(&self) -> Image {
            let segments = [(HEAP, self.area.clone()), (MAPPING, self.group.clone())];
            Image::of_segments(segments.map(|(start, bytes)| Segment { start: Address(start), bytes }).into())
        }

        fn find(&self) -> Vec<Area> {
            let range = |start: u64, length: u64| Address(start)..Address(start + length);
            find(&self.image(), &[range(HEAP, AREA)], &[range(MAPPING, 8192)])
        }

        fn group(&self, index: usize) -> Result<Option<SlotGroup>, Nonsense> {
            let at = AREA_HEAD + index * META;
            SlotGroup::read(Address(HEAP).offset(at), &self.area[at..at + META])
        }
    }

    #[test]
    fn only_slots_in_use_hold_blocks_and_these_tell_what_was_asked_for() {
        let made = Made::new();
        let group = made.group(0).unwrap().unwrap();
        let block = |offset, asked| GroupSlot::Block(Block { offset, room: BlockRoom::Requested(asked) });
        let expected = [
            block(16, 40),
            GroupSlot::Nothing,
            block(128, 21),
            GroupSlot::Nothing,
            GroupSlot::Nothing,
            GroupSlot::Torn,
        ];
        assert_eq!(group.slots(&made.group).collect::<Vec<_>>(), expected);
        assert_eq!(group.wanted(), 16 + 6 * 48);
        let single = made.group(2).unwrap().unwrap();
        assert_eq!(single.slots(&made.group[4096..]).collect::<Vec<_>>(), [block(16, 4096 - 16 - 4 - 100)]);
        // Of a larger one the end may not be at hand.
        let unknown = GroupSlot::Block(Block { offset: 16, room: BlockRoom::AtMost(4096 - 16 - 4) });
        assert_eq!(single.slots(&made.group[4096..6000]).collect::<Vec<_>>(), [unknown]);
        assert_eq!(made.group(1), Ok(None));
    }

    #[test]
    fn areas_are_found_with_their_groups() {
        let areas = Made::new().find();
        let range = |start: u64, end: u64| Address(start)..Address(end);
        let pieces = vec![
            range(HEAP, HEAP + AREA),
            range(MAPPING, MAPPING + 16 + 5 * 48),
            range(MAPPING + 4096, MAPPING + 8192),
        ];
        assert_eq!(areas, [Area { address: Address(HEAP), whole: pieces.clone(), pieces }]);
    }

    #[test]
    fn what_only_resembles_an_area_is_none() {
        for (offset, word) in [(0, 0), (8, 1), (16, 100), (16, u64::MAX)] {
            let mut made = Made::new();
            put(&mut made.area, offset, word);
            assert_eq!(made.find(), [], "{offset} {word:#x}");
        }
        // No group points back.
        let mut made = Made::new();
        put(&mut made.group, 0, HEAP);
        put(&mut made.group, 4096, HEAP);
        assert_eq!(made.find(), []);
        // An unmapped next area, and one that leads back: each area is read once.
        for next in [HEAP, HEAP + AREA, MAPPING, 0xffff_ffff_ffff_f000] {
            let mut made = Made::new();
            put(&mut made.area, 8, next);
            assert_eq!(made.find().len(), 1);
        }
    }

    #[test]
    fn a_meta_that_contradicts_itself_is_nonsense() {
        let group = MAPPING;
        for (start, masks, numbers) in [
            (group + 8, [0, 0], 1),
            (group, [1, 1], 1),
            (group, [0, 4], 1),
            (group, [0, 0], 48 << 6),
            (group, [0, 0], NO_CLASS << 6),
            (group, [0, 0], 1 | NO_CLASS << 6 | 1 << 12),
            (group, [0, 0], u64::MAX << 12),
            (u64::MAX - 15, [0, 0], 1),
        ] {
            let mut made = Made::new();
            meta(&mut made.area, 0, start, masks, numbers);
            assert_eq!(made.group(0), Err(Nonsense), "{start:#x} {masks:?} {numbers:#x}");
        }
        // All slots of the largest class, none of them used.
        let mut made = Made::new();
        meta(&mut made.area, 0, group, [u32::MAX, 0], 31 | 47 << 6);
        assert_eq!(made.group(0).unwrap().unwrap().wanted(), 0);
        // Arbitrary bytes cause no panic.
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..10_000 {
            let bytes: Vec<u8> = (0..4096).map(|_| random.u8(..)).collect();
            let mut numbers = random.u64(..);
            numbers >>= random.u32(0..63);
            meta(&mut made.area, 0, group, [0, 0], numbers);
            if let Ok(Some(group)) = made.group(0) {
                assert_eq!(group.slots(&bytes[..random.usize(..4096)]).count() as u64, group.slots);
            }
        }
    }
}
