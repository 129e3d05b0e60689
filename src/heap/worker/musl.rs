//! Reads the groups of musl's malloc: an area, its metas, and the used blocks of their groups.

use crate::allocator::musl::{AREA, Area, Block, GroupSlot, META, Nonsense, SlotGroup, metas};
use crate::allocator::room::BlockRoom;
use crate::heap::object::Sink;
use crate::process::memory::{Memory, ReadError};

use super::{POOL_RETRIES, Window, Worker, only_fatal};

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
            let mut tries = 0;
            while !self.read_group(SlotGroup::read(at, &again))? {
                if tries == POOL_RETRIES || memory.local(at, META).is_some() {
                    self.counts.torn_pools += 1;
                    break;
                }
                tries += 1;
                memory.read_exact_at(at, &mut again).or_else(only_fatal)?;
            }
        }
        Ok(())
    }

    /// Reads a group and classifies its blocks. `false`, and nothing is reported, if it does not match its meta.
    fn read_group(&mut self, group: Result<Option<SlotGroup>, Nonsense>) -> Result<bool, ReadError> {
        let group = match group {
            Ok(Some(group)) => group,
            Ok(None) => return Ok(true),
            Err(Nonsense) => return Ok(false),
        };
        let Ok(wanted) = usize::try_from(group.wanted()) else { return Ok(false) };
        if wanted == 0 {
            return Ok(true);
        }
        if let Some(bytes) = self.memory.local(group.start, wanted) {
            return self.judge_group(&group, bytes);
        }
        let mut buffer = vec![0; wanted];
        match self.memory.read_exact_at(group.start, &mut buffer) {
            Ok(()) => self.judge_group(&group, &buffer),
            Err(error) => only_fatal(error).map(|()| false),
        }
    }

    fn judge_group(&mut self, group: &SlotGroup, bytes: &[u8]) -> Result<bool, ReadError> {
        if !group.is_proved(bytes) {
            return Ok(false);
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
        Ok(true)
    }
}
