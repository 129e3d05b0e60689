//! Reads the groups of musl's malloc: an area, its metas, and the used blocks of their groups.

use crate::allocator::musl::{AREA, Area, Block, GroupSlot, META, Nonsense, SlotGroup, metas};
use crate::allocator::room::BlockRoom;
use crate::heap::object::Sink;
use crate::process::memory::{Memory, Now, ReadError};

use super::{POOL_RETRIES, Window, Worker, only_fatal};

/// What reading a group came to.
#[derive(PartialEq)]
enum Attempt {
    /// Its blocks are classified.
    Done,
    /// It does not match its meta.
    Contradiction,
    /// It cannot be read.
    Unreadable,
}

impl<M: Memory + ?Sized, S: Sink> Worker<'_, M, S> {
    /// Reads the groups of an area. A meta that contradicts itself or its group changed while it was read; it is read
    /// again.
    pub(crate) fn read_area(&mut self, area: &Area) -> Result<(), ReadError> {
        let memory = self.memory;
        let mut bytes = [0; AREA as usize];
        if let Err(error) = memory.read_exact_at(area.address, &mut bytes) {
            self.counts.unreadable_bytes += AREA;
            return only_fatal(error);
        }
        for (at, meta) in metas(area.address, &bytes) {
            let mut again = [0; META];
            again.copy_from_slice(meta);
            let (mut tries, mut was_unreadable) = (0, false);
            let is_local = memory.local(at, META).is_some();
            loop {
                let group = SlotGroup::read(at, &again);
                let attempt = match tries {
                    0 => self.read_group(memory, group)?,
                    // Parts of a copy of a process that ran are from different instants.
                    _ => self.read_group(&Now(memory), group)?,
                };
                if attempt == Attempt::Done {
                    break;
                }
                let is_unreadable = attempt == Attempt::Unreadable;
                let is_last = tries == POOL_RETRIES || is_unreadable && was_unreadable;
                if is_last {
                    self.counts.torn_pools += 1;
                    break;
                }
                (tries, was_unreadable) = (tries + 1, is_unreadable);
                if let Err(error) = memory.read_now(at, &mut again) {
                    self.counts.torn_pools += 1;
                    // A process that is gone by now has been copied all the same.
                    if !is_local {
                        only_fatal(error)?;
                    }
                    break;
                }
            }
        }
        Ok(())
    }

    /// Reads a group and classifies its blocks. Nothing is reported unless it is done.
    fn read_group<N: Memory + ?Sized>(
        &mut self,
        memory: &N,
        group: Result<Option<SlotGroup>, Nonsense>,
    ) -> Result<Attempt, ReadError> {
        let group = match group {
            Ok(Some(group)) => group,
            Ok(None) => return Ok(Attempt::Done),
            Err(Nonsense) => return Ok(Attempt::Contradiction),
        };
        let Ok(wanted) = usize::try_from(group.wanted()) else { return Ok(Attempt::Contradiction) };
        if wanted == 0 {
            return Ok(Attempt::Done);
        }
        if let Some(bytes) = memory.local(group.start, wanted) {
            return self.judge_group(&group, bytes);
        }
        let mut buffer = vec![0; wanted];
        match memory.read_exact_at(group.start, &mut buffer) {
            Ok(()) => self.judge_group(&group, &buffer),
            // Of a copy it does not matter what became of the process.
            Err(_) if self.memory.local(group.start, 1).is_some() => Ok(Attempt::Unreadable),
            Err(error) => only_fatal(error).map(|()| Attempt::Unreadable),
        }
    }

    fn judge_group(&mut self, group: &SlotGroup, bytes: &[u8]) -> Result<Attempt, ReadError> {
        if !group.is_proved(bytes) {
            return Ok(Attempt::Contradiction);
        }
        let (classifier, window) = (self.classifier, Window { start: group.start, bytes });
        for slot in group.slots(bytes) {
            match slot {
                GroupSlot::Nothing => {}
                GroupSlot::Torn => self.counts.unparsed_bytes += group.stride,
                GroupSlot::Block(Block { offset, room }) => {
                    let behind = bytes.get(offset..).unwrap_or_default();
                    let data = match room {
                        BlockRoom::Requested(asked) => &behind[..behind.len().min(usize::try_from(asked).unwrap_or(0))],
                        _ => behind,
                    };
                    let at = group.start.offset(offset);
                    let verdict = classifier.block(at, data, room);
                    self.count_block(at, group.stride, &verdict);
                    self.judge(verdict, window)?;
                }
            }
        }
        Ok(Attempt::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::classify::classifier::Classifier;
    use crate::heap::object::Object;
    use crate::heap::testing::{Changing, FLOAT, START, image, layout, put, types};
    use crate::heap::worker::Counts;
    use crate::process::Address;
    use crate::python::types::TypeTable;
    use crate::python::version::Version;

    /// Offset of the group behind its area, and of its first slot. Slots have 32 bytes.
    const GROUP: usize = AREA as usize;
    const FIRST: usize = GROUP + 16;
    /// Offset of the first meta in an area (`struct meta_area`).
    const FIRST_META: usize = 24;
    /// Four slots of 32 bytes (class 1), of which the second was freed and the fourth was never used.
    const MASKS: u64 = 1 << 3 | (1 << 1) << 32;

    /// An area with a group: a float, a dead float, a block without an object, and an unused slot.
    fn made() -> Vec<u8> {
        let mut bytes = vec![0; 2 * AREA as usize];
        put(&mut bytes, FIRST_META + 16, START + GROUP as u64);
        put(&mut bytes, FIRST_META + 24, MASKS);
        put(&mut bytes, FIRST_META + 32, 3 | 1 << 6);
        put(&mut bytes, GROUP, START + FIRST_META as u64);
        for slot in 0..3 {
            let at = FIRST + 32 * slot;
            // The number, 4 unused bytes, and the distance to the group.
            bytes[at - 3] = slot as u8 | 4 << 5;
            bytes[at - 2..at].copy_from_slice(&(2 * slot as u16).to_le_bytes());
        }
        for slot in 0..2 {
            put(&mut bytes, FIRST + 32 * slot, 1);
            put(&mut bytes, FIRST + 32 * slot + 8, FLOAT);
        }
        bytes
    }

    /// The offsets of the objects in the slots that a worker finds.
    fn read(memory: &impl Memory) -> (Vec<u64>, Counts) {
        let layout = layout();
        let table = TypeTable::of(types(&layout));
        let classifier = Classifier::new(&layout, Version::release(3, 12, 1), &table, false);
        let mut worker = Worker::new(memory, &classifier, Vec::<Object>::new());
        worker.read_area(&Area { address: Address(START), ..Area::default() }).unwrap();
        let (objects, counts) = worker.finish().unwrap();
        (objects.iter().map(|object| object.address.0 - START - FIRST as u64).collect(), counts)
    }

    #[test]
    fn objects_are_in_used_slots_and_other_blocks_are_counted() {
        let (objects, counts) = read(&image(made()));
        assert_eq!((objects, counts.torn_pools, counts.unparsed_bytes), (vec![0], 0, 0));
        assert_eq!((counts.bytes.with_object, counts.bytes.without_object), (32, 32));
        // With the freed slot in use again, its object lives.
        let mut bytes = made();
        put(&mut bytes, FIRST_META + 24, 1 << 3);
        assert_eq!(read(&image(bytes)).0, [0, 32]);
        // A slot whose header has the number of another.
        let mut bytes = made();
        bytes[FIRST - 3] = 1 | 4 << 5;
        let (objects, counts) = read(&image(bytes));
        assert_eq!((objects, counts.unparsed_bytes), (vec![], 32));
    }

    #[test]
    fn a_group_that_contradicts_its_meta_is_counted_and_not_believed() {
        // The group is another meta's; both masks have a slot; the group cannot be read.
        for (offset, word) in [(GROUP, START), (FIRST_META + 24, 1 | 1 << 32), (FIRST_META + 16, START + 4 * AREA)] {
            let mut bytes = made();
            put(&mut bytes, offset, word);
            let (objects, counts) = read(&image(bytes));
            assert_eq!((objects, counts.torn_pools), (vec![], 1), "{offset} {word:#x}");
        }
        let (objects, counts) = read(&image(made()[..AREA as usize - 8].to_vec()));
        assert_eq!((objects, counts.unreadable_bytes), (vec![], AREA));
    }

    #[test]
    fn a_group_that_cannot_be_read_is_tried_twice() {
        let area = made()[..AREA as usize].to_vec();
        let memory = Changing::new(area.clone(), area, 0);
        let (objects, counts) = read(&memory);
        assert_eq!((objects, counts.torn_pools), (vec![], 1));
        assert_eq!(memory.failed(), 2);
    }

    #[test]
    fn a_meta_that_changes_is_read_again() {
        let mut torn = made();
        put(&mut torn, FIRST_META + 24, 1 | 1 << 32);
        // The first read is of the area.
        for (reads, torn_pools) in [(1, 0), (1 + POOL_RETRIES, 1)] {
            let (objects, counts) = read(&Changing::new(torn.clone(), made(), reads));
            assert_eq!((objects.len(), counts.torn_pools), (1 - torn_pools as usize, torn_pools), "{reads}");
        }
    }
}
