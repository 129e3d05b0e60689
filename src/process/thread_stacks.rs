//! Finds the stacks of threads, including those of ended threads.
//!
//! glibc maps a stack with a guard at its lower end (a mapping of its own; since 2.42 pages marked by
//! `MADV_GUARD_INSTALL`, so that adjacent stacks share a mapping) and `struct pthread` at its top. This struct begins
//! with a pointer to itself, which is repeated (`tcbhead_t`), and stores the start and length of the whole block
//! (`stackblock`, `stackblock_size`; `nptl/descr.h`) at an offset that differs between versions and is searched for.
//! Stacks of ended threads are kept for reuse (`nptl/allocatestack.c`, 40 MiB by default).

use std::fs;
use std::ops::Range;

use rayon::prelude::*;

use super::address::{Address, PAGE};
use super::memory::{Memory, MemoryExt, u64_at};
use super::regions::{Backing, Region};

/// Minimum size of a stack: `PTHREAD_STACK_MIN`.
const STACK_MIN: u64 = 16 << 10;
/// Upper bound on a stack: a high `ulimit -s`.
const STACK_MAX: u64 = 1 << 30;
/// Upper bound on the resident bytes searched in a mapping, from its end.
const SEARCH_MAX: u64 = 64 << 20;
/// Bytes that are searched at a time.
const WINDOW: u64 = 64 << 10;
/// Alignment of `struct pthread` (`TCB_ALIGNMENT`), offset of its second self pointer, and bytes of it that are
/// searched.
const ALIGNMENT: u64 = 64;
const SELF: usize = 16;
const DESCRIPTOR: usize = 2304;

/// A thread's stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// Its addresses, including the guard.
    pub range: Range<Address>,
    /// Whether a running thread uses it.
    pub is_in_use: bool,
}

/// The stack pointers of a process's threads, except of those on a processor, for which the kernel does not tell.
pub fn stack_pointers(pid: i32) -> Vec<Address> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let pointer = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("syscall")).ok()?;
        // System call number, six arguments, stack pointer, instruction pointer.
        let pointer = text.split_whitespace().rev().nth(1)?;
        u64::from_str_radix(pointer.strip_prefix("0x")?, 16).ok().map(Address)
    };
    tasks.filter_map(pointer).collect()
}

/// Finds the stacks of threads, except the main thread's. `inside` are addresses in the stacks of running threads:
/// stack pointers, or addresses of `struct pthread`.
pub fn find<M: Memory + Sync + ?Sized>(memory: &M, inside: &[Address]) -> Vec<Stack> {
    let mut inside = inside.to_vec();
    inside.sort_unstable();
    let mut guard: Option<&Region> = None;
    let mut searched = Vec::new();
    for region in memory.regions() {
        let below = guard.filter(|guard| guard.end == region.start);
        guard = (!region.readable && !region.writable).then_some(region);
        let may_be = region.readable
            && region.writable
            && !region.shared
            && region.backing == Backing::Anonymous
            && region.len() >= STACK_MIN;
        if may_be {
            searched.push((below.map_or(region.start, |guard| guard.start), region));
        }
    }
    let found = searched.into_par_iter().flat_map_iter(|(first, region)| blocks(memory, first, region));
    let stack = |range: Range<Address>| {
        let first = inside.partition_point(|&address| address < range.start);
        let is_in_use = inside.get(first).is_some_and(|address| range.contains(address));
        Stack { range, is_in_use }
    };
    found.map(stack).collect()
}

/// The stacks in a region, lowest first. The lowest may begin in the guard below it, at `first`.
fn blocks<M: Memory + ?Sized>(memory: &M, first: Address, region: &Region) -> Vec<Range<Address>> {
    let mut found: Vec<Range<Address>> = Vec::new();
    let mut left = SEARCH_MAX;
    let mut buffer = Vec::new();
    for piece in memory.resident(region.start..region.end).into_iter().rev() {
        let least = piece.end.0.saturating_sub(left).max(piece.start.0);
        left -= piece.end.0.saturating_sub(least);
        let mut end = piece.end.0;
        while end > least {
            let start = least.max(end.saturating_sub(1) / WINDOW * WINDOW);
            let mut heads = Vec::new();
            match memory.bytes_at(Address(start), (end - start) as usize, &mut buffer) {
                Some(bytes) => heads.extend(self_pointers(Address(start), bytes)),
                // Guards marked within a mapping look resident.
                None => {
                    for page in (start..end).step_by(PAGE as usize) {
                        let bytes = memory.bytes_at(Address(page), PAGE.min(end - page) as usize, &mut buffer);
                        heads.extend(bytes.into_iter().flat_map(|bytes| self_pointers(Address(page), bytes)));
                    }
                }
            }
            for at in heads.into_iter().rev() {
                let length = (piece.end.0 - at.0).min(DESCRIPTOR as u64) as usize;
                let Some(bytes) = memory.bytes_at(at, length, &mut buffer) else { continue };
                if let Some(range) = block(bytes, at, first..region.end)
                    && found.last().is_none_or(|above| range.end <= above.start)
                {
                    found.push(range);
                }
            }
            end = start;
        }
    }
    found.reverse();
    found
}

/// Where in these bytes, which lie at `start`, a `struct pthread` may begin, lowest first: it points to itself twice.
fn self_pointers(start: Address, bytes: &[u8]) -> impl Iterator<Item = Address> {
    let first = (start.0.next_multiple_of(ALIGNMENT) - start.0) as usize;
    let offsets = (first..bytes.len()).step_by(ALIGNMENT as usize);
    let at = move |offset: usize| start.offset(offset);
    let is_head = move |&offset: &usize| {
        u64_at(bytes, offset) == Some(at(offset).0) && u64_at(bytes, offset + SELF) == Some(at(offset).0)
    };
    offsets.filter(is_head).map(at)
}

/// The block that the `struct pthread` at `at`, with these bytes, says it is in.
fn block(bytes: &[u8], at: Address, within: Range<Address>) -> Option<Range<Address>> {
    (0..DESCRIPTOR.min(bytes.len())).step_by(8).find_map(|offset| {
        let (start, size) = (u64_at(bytes, offset)?, u64_at(bytes, offset + 8)?);
        let end = start.checked_add(size)?;
        let is_block = (STACK_MIN..=STACK_MAX).contains(&size)
            && size.is_multiple_of(PAGE)
            && start.is_multiple_of(PAGE)
            && start >= within.start.0
            && end <= within.end.0
            && (start..end).contains(&at.0);
        is_block.then_some(Address(start)..Address(end))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::live::Process;

    #[test]
    fn the_stacks_of_this_process_are_found_while_their_threads_run() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let (end, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let local = 0u64;
            sender.send(std::ptr::from_ref(&local) as u64).unwrap();
            let _ = wait.recv();
        });
        let inside = Address(receiver.recv().unwrap());
        let memory = Process::open(std::process::id() as i32).unwrap();
        let found = find(&memory, &[inside]);
        let own = found.iter().find(|stack| stack.range.contains(&inside));
        assert!(own.is_some_and(|stack| stack.is_in_use), "{inside} is in none of {found:?}");
        drop(end);
        thread.join().unwrap();
    }
}
