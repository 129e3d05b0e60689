//! Reads pymalloc's pools: whole arenas a window at a time, or single pools.

use crate::allocator::pymalloc::arena::Arena;
use crate::allocator::pymalloc::pools::{FreeBlocks, Pool, PoolState};
use crate::allocator::room::BlockRoom;
use crate::heap::classify::classifier::BlockVerdict;
use crate::heap::classify::fast_path::{Finds, Quick};
use crate::heap::object::{Object, Sink};
use crate::process::Address;
use crate::process::memory::{Memory, Piece, ReadError};

use super::{CountedRoom, POOL_RETRIES, Window, Worker, alone, only_fatal};

/// Bytes of pools read at a time, so that they stay in the L2 cache until classified. A multiple of every pool size.
const POOLS_WINDOW: usize = 1024 << 10;
/// Number of pools read by one system call.
const POOLS_AT_ONCE: usize = 16;

impl<M: Memory + ?Sized, S: Sink> Worker<'_, M, S> {
    /// Reads single pools, [`POOLS_AT_ONCE`] per system call.
    ///
    /// # Errors
    /// As [`Worker::read_part`].
    pub fn read_pools(&mut self, pools: &[Address]) -> Result<(), ReadError> {
        let pool_size = self.classifier.layout().constants.pool_size;
        let mut buffer = std::mem::take(&mut self.window);
        buffer.resize(buffer.len().max(POOLS_AT_ONCE * pool_size), 0);
        let mut result = Ok(());
        for batch in pools.chunks(POOLS_AT_ONCE) {
            result = self.read_pool_batch(batch, &mut buffer[..batch.len() * pool_size]);
            if result.is_err() {
                break;
            }
        }
        self.window = buffer;
        result
    }

    fn read_pool_batch(&mut self, pools: &[Address], buffer: &mut [u8]) -> Result<(), ReadError> {
        let (memory, pool_size) = (self.memory, self.classifier.layout().constants.pool_size);
        let mut pieces: Vec<Piece<'_>> = pools
            .iter()
            .zip(buffer.chunks_exact_mut(pool_size))
            .map(|(&address, buffer)| Piece { address, buffer, filled: false })
            .collect();
        let is_local = pools.iter().all(|&pool| memory.local(pool, pool_size).is_some());
        if !is_local {
            memory.read_pieces(&mut pieces)?;
        }
        for piece in &pieces {
            let start = piece.address;
            match memory.local(start, pool_size) {
                Some(bytes) => self.read_pool(start, bytes, Window { start, bytes })?,
                None if piece.filled => self.read_pool(start, piece.buffer, Window { start, bytes: piece.buffer })?,
                None => self.counts.unreadable_bytes += pool_size as u64,
            }
        }
        Ok(())
    }

    pub(crate) fn read_arena(&mut self, arena: &Arena) -> Result<(), ReadError> {
        let pool_size = self.classifier.layout().constants.pool_size;
        let mut at = arena.pools.start;
        while at < arena.pools.end {
            let length = ((arena.pools.end.0 - at.0) as usize).min(POOLS_WINDOW);
            self.with_bytes(at, length, |worker, window| {
                for (index, bytes) in window.bytes.chunks_exact(pool_size).enumerate() {
                    worker.read_pool(window.start.offset(index * pool_size), bytes, window)?;
                }
                Ok(())
            })?;
            at = at.offset(length);
        }
        Ok(())
    }

    /// Reads one pool. If it contradicts itself, it changed while it was read, and is read again by itself: from the
    /// process where the copy is of one that ran, since parts of such a copy are from different instants.
    fn read_pool(&mut self, address: Address, bytes: &[u8], window: Window<'_>) -> Result<(), ReadError> {
        if self.judge_pool(address, bytes, window, Trust::Agreement)? {
            return Ok(());
        }
        let is_local = self.memory.local(address, bytes.len()).is_some();
        let (mut newest, mut again) = (bytes.to_vec(), vec![0; bytes.len()]);
        let mut stands_still = false;
        for _ in 0..POOL_RETRIES {
            if let Err(error) = self.memory.read_now(address, &mut again) {
                // A process that is gone by now has been copied all the same.
                if !is_local {
                    only_fatal(error)?;
                }
                stands_still = false;
                break;
            }
            let window = Window { start: address, bytes: &again };
            if self.judge_pool(address, &again, window, Trust::Agreement)? {
                return Ok(());
            }
            stands_still = again == newest;
            std::mem::swap(&mut again, &mut newest);
        }
        let trust = if stands_still { Trust::Rest } else { Trust::Blocks };
        if self.judge_pool(address, &newest, Window { start: address, bytes: &newest }, trust)? {
            return Ok(());
        }
        self.counts.torn_pools += 1;
        self.counts.contradicting_pools += u64::from(stands_still);
        Ok(())
    }

    /// Classifies all blocks of a pool in use. `false`, and nothing is reported, if the pool contradicts itself.
    fn judge_pool(
        &mut self,
        address: Address,
        bytes: &[u8],
        window: Window<'_>,
        trust: Trust,
    ) -> Result<bool, ReadError> {
        let pool = match Pool::read(bytes, self.classifier.layout()) {
            PoolState::Free => return Ok(true),
            PoolState::Broken => return Ok(false),
            PoolState::InUse(pool) => pool,
        };
        let free = match trust {
            Trust::Agreement => pool.free_blocks(address, bytes),
            Trust::Rest => pool.free_blocks_at_rest(address, bytes),
            Trust::Blocks => Some(FreeBlocks::default()),
        };
        let Some(free) = free else { return Ok(false) };
        self.counts.pools += 1;
        self.counts.blocks_in_use += u64::from(pool.in_use);
        self.counts.bytes.with_object += u64::from(pool.in_use) * pool.block_size as u64;
        let room = BlockRoom::Class(pool.block_size as u64);
        self.room = CountedRoom {
            block: pool.block_size as u64,
            counted: self.classifier.layout().constants.pymalloc_max as u64,
        };
        let classifier = self.classifier;
        if trust == Trust::Blocks {
            self.counts.moving_pools += 1;
            for index in 0..pool.carved {
                let offset = pool.first + index * pool.block_size;
                let Some(block) = bytes.get(offset..offset + pool.block_size) else { break };
                let (at, pool) = (address.offset(offset), address..address.offset(bytes.len()));
                self.judge(alone(classifier.block(at, block, room), at, block, &pool), window)?;
            }
            return Ok(true);
        }
        let quick_way = classifier.quick_way();
        let mut hands = Hands { worker: self, window, result: Ok(()) };
        for index in 0..pool.carved {
            if free.contains(index) {
                continue;
            }
            let offset = pool.first + index * pool.block_size;
            let at = address.offset(offset);
            let quick = match quick_way {
                Some(way) => way.quick(at, bytes, offset, pool.block_size, &mut hands),
                None => Quick::Unknown,
            };
            if quick == Quick::Told {
                continue;
            }
            let Some(block) = bytes.get(offset..offset + pool.block_size) else { break };
            let verdict = match quick {
                Quick::Told | Quick::Nothing => BlockVerdict::NoObject,
                Quick::Typed(type_id) => classifier.typed(at, block, room, type_id),
                Quick::Unknown => classifier.block(at, block, room),
            };
            hands.worker.judge(verdict, window)?;
        }
        hands.result?;
        Ok(true)
    }
}

/// What tells free blocks of a pool from those in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// The free chain, which agrees with the count.
    Agreement,
    /// The same, but for what the allocator leaves between two instructions.
    Rest,
    /// Each block by itself: the pool changes faster than it is read.
    Blocks,
}

/// Passes on what the fast path finds in a pool.
struct Hands<'w, 'a, 'b, M: Memory + ?Sized, S: Sink> {
    worker: &'w mut Worker<'a, M, S>,
    window: Window<'b>,
    result: Result<(), ReadError>,
}

impl<M: Memory + ?Sized, S: Sink> Finds for Hands<'_, '_, '_, M, S> {
    #[inline(always)]
    fn object(&mut self, object: Object) {
        self.worker.tell(&object);
    }

    #[inline(always)]
    fn dict(&mut self, dict: Object, keys: Address, split: bool) {
        if let Err(error) = self.worker.tell_dict(&dict, keys, split, self.window) {
            self.result = Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::classify::classifier::Classifier;
    use crate::heap::part::Part;
    use crate::heap::testing::{Changing, FLOAT, LIST, START, image, layout, pool, put, types};
    use crate::heap::worker::Counts;
    use crate::process::layered::Layered;
    use crate::python::layout::Layout;
    use crate::python::types::TypeTable;
    use crate::python::version::Version;

    /// The objects that a worker finds in the pools, read as an arena and one by one, which must agree.
    fn read(layout: &Layout, bytes: Vec<u8>) -> (Vec<Object>, Counts) {
        let table = TypeTable::of(types(layout));
        let classifier = Classifier::new(layout, Version::release(3, 12, 1), &table, false);
        let pool_size = layout.constants.pool_size;
        let pools: Vec<Address> =
            (0..bytes.len() / pool_size).map(|nth| Address(START).offset(nth * pool_size)).collect();
        let range = Address(START)..Address(START).offset(bytes.len());
        let image = image(bytes);
        let mut worker = Worker::new(&image, &classifier, Vec::new());
        worker.read_part(&Part::Arena(Arena { index: 0, range: range.clone(), pools: range })).unwrap();
        let whole = worker.finish().unwrap();
        let mut worker = Worker::new(&image, &classifier, Vec::new());
        worker.read_pools(&pools).unwrap();
        assert_eq!(worker.finish().unwrap(), whole);
        whole
    }

    #[test]
    fn objects_in_use_are_found_and_free_and_raw_blocks_are_not() {
        let layout = layout();
        let float: &[u64] = &[2, FLOAT, 0, 0];
        let raw: &[u64] = &[START, START, 1, 2];
        let (objects, counts) = read(&layout, pool(&layout, START, 32, &[Some(float), None, Some(raw), Some(float)]));
        let first = START + layout.constants.pool_overhead as u64;
        let found: Vec<(u64, u64)> = objects.iter().map(|object| (object.address.0 - first, object.size)).collect();
        assert_eq!(found, [(0, 24), (96, 24)]);
        assert_eq!((counts.objects, counts.pools, counts.blocks_in_use, counts.implausible_blocks), (2, 1, 3, 0));
    }

    #[test]
    fn a_list_counts_its_items_and_a_body_that_cannot_be_right_is_counted_aside() {
        let layout = layout();
        let list = |size: u64, allocated: u64| [0, 0, 1, LIST, size, START, allocated, 0];
        let (whole, torn) = (list(3, 4), list(5, 4));
        let (objects, counts) = read(&layout, pool(&layout, START, 64, &[Some(&whole), Some(&torn)]));
        assert_eq!(objects.iter().map(|object| object.size).collect::<Vec<_>>(), [16 + 40 + 8 * 4]);
        assert_eq!((counts.objects, counts.implausible_blocks), (1, 1));
    }

    #[test]
    fn a_pool_whose_thread_was_stopped_in_the_allocator_is_read() {
        let layout = layout();
        let float: &[u64] = &[2, FLOAT, 0, 0];
        let size = layout.constants.pool_size;
        // One block is counted already, and still the first of the chain.
        let mut bytes = pool(&layout, START, 32, &[Some(float), None]);
        put(&mut bytes, layout.pool_header.ref_count, 2);
        // One was just carved, and what follows it is not written yet.
        let second = START + size as u64;
        let mut carved = pool(&layout, second, 32, &[Some(float), None]);
        put(&mut carved, layout.constants.pool_overhead + 32, FLOAT);
        bytes.extend(carved);
        let (objects, counts) = read(&layout, bytes);
        assert_eq!(objects.len(), 2);
        assert_eq!((counts.pools, counts.torn_pools, counts.contradicting_pools), (2, 0, 0));
    }

    /// The objects of the pool at [`START`], by their offset in it.
    fn read_one<M: Memory>(layout: &Layout, memory: &M) -> (Vec<u64>, Counts) {
        let table = TypeTable::of(types(layout));
        let classifier = Classifier::new(layout, Version::release(3, 12, 1), &table, false);
        let mut worker = Worker::new(memory, &classifier, Vec::<Object>::new());
        worker.read_pools(&[Address(START)]).unwrap();
        let (objects, counts) = worker.finish().unwrap();
        (objects.iter().map(|object| object.address.0 - START).collect(), counts)
    }

    /// A pool with two floats that live and one that died, whose chain of free blocks goes on to `link`.
    fn with_link(layout: &Layout, link: u64) -> Vec<u8> {
        let float: &[u64] = &[2, FLOAT, 0, 0];
        let mut bytes = pool(layout, START, 32, &[Some(float), None, Some(float)]);
        put(&mut bytes, layout.constants.pool_overhead + 32, link);
        put(&mut bytes, layout.constants.pool_overhead + 32 + 8, FLOAT);
        bytes
    }

    #[test]
    fn a_pool_of_a_copy_is_read_again_from_the_process_if_it_ran() {
        let layout = layout();
        let first = layout.constants.pool_overhead as u64;
        let (copy, now) = (image(with_link(&layout, START + first)), image(with_link(&layout, 0)));
        let (objects, counts) = read_one(&layout, &Layered::new(&copy, &now));
        assert_eq!((objects, counts.torn_pools, counts.moving_pools), (vec![first, first + 64], 0, 0));
        // What a process does that stood still while it was copied says nothing of the copy.
        let (objects, counts) = read_one(&layout, &Layered::new(&copy, &now).of_one_instant(true));
        assert_eq!((objects, counts.torn_pools, counts.contradicting_pools), (vec![], 1, 1));
    }

    #[test]
    fn a_pool_that_changes_with_each_reading_is_judged_by_its_blocks() {
        let layout = layout();
        let first = layout.constants.pool_overhead as u64;
        let links = [START + first, START + first + 64];
        let [before, after] = links.map(|link| with_link(&layout, link));
        let (objects, counts) = read_one(&layout, &Changing::new(before, after, POOL_RETRIES));
        assert_eq!((objects, counts.objects), (vec![first, first + 64], 2));
        assert_eq!((counts.pools, counts.moving_pools, counts.torn_pools, counts.contradicting_pools), (1, 1, 0, 0));
    }

    #[test]
    fn a_pool_that_contradicts_itself_is_counted_and_not_believed() {
        let layout = layout();
        let float: &[u64] = &[2, FLOAT, 0, 0];
        let size = layout.constants.pool_size;
        let mut bytes = pool(&layout, START, 32, &[Some(float), None]);
        bytes.extend(pool(&layout, START + size as u64, 32, &[Some(float), None]));
        // Its free chain leads into the other pool.
        put(&mut bytes, layout.pool_header.freeblock, START + size as u64 + 48);
        let (objects, counts) = read(&layout, bytes);
        assert_eq!(objects.len(), 1);
        assert_eq!((counts.pools, counts.torn_pools, counts.contradicting_pools), (1, 1, 1));
    }
}
