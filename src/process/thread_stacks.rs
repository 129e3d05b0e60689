//! Where the stacks of threads are, those of threads that have ended included.
//!
//! glibc maps a stack with a guard below it that may not be touched, and keeps `struct pthread` at its top, which names
//! where the whole block begins and how long it is (`stackblock`, `stackblock_size`; `nptl/descr.h`). Since the offset of
//! these fields differs between versions, they are searched for: the address of the guard, followed by a length that
//! fits. A mapping may reach beyond the stack, so the mapping's end says nothing. Stacks of ended threads are kept for the
//! next ones (`nptl/allocatestack.c`, 40 MiB by default).

use std::fs;
use std::ops::Range;

use super::address::Address;
use super::memory::{Memory, u64_at};
use super::regions::{Backing, Region};

/// The least stack: `PTHREAD_STACK_MIN`.
const STACK_MIN: u64 = 16 << 10;
/// The largest believed: what `ulimit -s` is set to by those who set it high.
const STACK_MAX: u64 = 1 << 30;
/// Bytes in memory that are searched of one mapping.
const SEARCH_MAX: u64 = 16 << 20;
const PAGE: u64 = 4096;

/// The stack of a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// All of it, the guard included.
    pub range: Range<Address>,
    /// Whether a thread runs on it.
    pub is_in_use: bool,
}

/// The stack pointers of a process's threads, as far as the kernel tells: not of threads that run just now.
pub fn stack_pointers(pid: i32) -> Vec<Address> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let pointer = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("syscall")).ok()?;
        // The number of the call, six arguments, the stack pointer, the instruction pointer.
        let pointer = text.split_whitespace().rev().nth(1)?;
        u64::from_str_radix(pointer.strip_prefix("0x")?, 16).ok().map(Address)
    };
    tasks.filter_map(pointer).collect()
}

/// Finds the stacks of threads; that of the main thread is none of them. `inside` are addresses of which each lies in the
/// stack of a thread that runs: stack pointers, or `struct pthread`s.
pub fn find<M: Memory + ?Sized>(memory: &M, inside: &[Address]) -> Vec<Stack> {
    let regions: Vec<&Region> = memory.regions().iter().collect();
    let mut found = Vec::new();
    for pair in regions.windows(2) {
        let [guard, region] = pair else { continue };
        let is_stack = guard.end == region.start
            && !guard.readable
            && !guard.writable
            && region.readable
            && region.writable
            && !region.shared
            && region.backing == Backing::Anonymous;
        if let Some(range) = is_stack.then(|| block(memory, guard, region)).flatten() {
            let is_in_use = inside.iter().any(|address| range.contains(address));
            found.push(Stack { range, is_in_use });
        }
    }
    found
}

/// The block that begins with the guard, as a word in the region says.
fn block<M: Memory + ?Sized>(memory: &M, guard: &Region, region: &Region) -> Option<Range<Address>> {
    let mut left = SEARCH_MAX;
    // It is at the top of the stack, which is nearer to the end of the mapping than to its start.
    for piece in memory.resident(region.start..region.end).into_iter().rev() {
        let length = piece.end.0.saturating_sub(piece.start.0).min(left);
        left -= length;
        let start = Address(piece.end.0 - length);
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        if memory.read_exact_at(start, &mut bytes).is_ok() {
            for offset in (0..bytes.len().saturating_sub(8)).step_by(8).rev() {
                if u64_at(&bytes, offset) != Some(guard.start.0) {
                    continue;
                }
                let size = u64_at(&bytes, offset + 8).filter(|size| (STACK_MIN..=STACK_MAX).contains(size));
                let end = size.filter(|size| size.is_multiple_of(PAGE)).map(|size| Address(guard.start.0 + size));
                // The word lies in the stack that it describes.
                if let Some(end) = end.filter(|&end| start.offset(offset) < end && end <= region.end) {
                    return Some(guard.start..end);
                }
            }
        }
        if left == 0 {
            break;
        }
    }
    None
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
