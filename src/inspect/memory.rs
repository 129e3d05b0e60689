//! Accounts for the resident memory of a target: objects, free memory, native memory, files.

use std::ops::Range;
use std::time::Instant;

use rustc_hash::FxHashMap;

use crate::allocator::glibc_arena;
use crate::analysis::draw::Tree;
use crate::analysis::free_lists;
use crate::analysis::mapping_owners;
use crate::analysis::memory_account::{Account, Builder};
use crate::analysis::memory_verdicts;
use crate::analysis::native_memory::{self, Blocks, Both};
use crate::analysis::object_buffers;
use crate::analysis::owners::Owners;
use crate::analysis::pins::{self, Occupants, Pins, Sites};
use crate::heap::block_use::{self, Extent, PoolFill, Use, Visit};
use crate::heap::part::Part;
use crate::process::Address;
use crate::process::elf::ElfFile;
use crate::process::memory::{Memory, MemoryExt};
use crate::process::{symbol_name, thread_stacks};
use crate::python::reader::Reader;
use crate::python::stack;

use super::answer::Inspected;
use super::copy::{CopyOptions, Heap};
use super::error::Error;
use super::footprint::Footprint;
use super::open::Target;

/// Whether to find the owners of native memory and of what pins free memory, which takes longer than everything else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NativeOwners {
    /// Do not.
    Never,
    /// Only if there is so much that a verdict mentions it.
    #[default]
    WhereItMatters,
    /// Those of native memory always, the others where it matters.
    Always,
}

impl Target {
    /// Accounts for the target's resident memory. Stops it while it is copied, as far as `options` allow.
    ///
    /// # Errors
    /// As [`Target::heap`].
    pub fn memory(&mut self, options: &CopyOptions, native: NativeOwners) -> Result<Inspected<Account>, Error> {
        let options = CopyOptions { with_footprint: true, ..*options };
        let mut answer = self.heap(&options, |heap| account_of(heap, native, None))?;
        self.name_symbols(&mut answer.result);
        Ok(answer)
    }

    /// Names the groups of native blocks by the symbol that their first word points to, where the library's file has
    /// one.
    pub fn name_symbols(&self, account: &mut Account) {
        let mut files: FxHashMap<Address, Option<ElfFile>> = FxHashMap::default();
        for group in account.native.iter_mut().flat_map(|native| &mut native.unowned) {
            let Some(elf) = self.attached.elfs.iter().find(|elf| elf.span().contains(&group.word)) else { continue };
            let file = files.entry(elf.header).or_insert_with(|| self.source.elf_file(&self.source, elf));
            let symbol = file.as_ref().and_then(|file| file.symbol_at(group.word.0.wrapping_sub(elf.bias)));
            if let Some((name, offset)) = symbol {
                // The first two words of a table are no functions, and objects point behind them.
                let is_table = name.starts_with("_ZTV") && offset == TABLE_HEAD;
                let behind = if offset == 0 || is_table { String::new() } else { format!("+{offset:#x}") };
                group.first_word = format!("{}{behind}", symbol_name::readable(&name));
            }
        }
    }
}

/// Bytes before the functions in a table of virtual functions (Itanium C++ ABI, 2.5.2).
const TABLE_HEAD: u64 = 16;

/// The account of a heap that was copied with [`CopyOptions::with_footprint`]. `owners`: those of its objects, where
/// they are known.
///
/// # Errors
/// [`Error::NoFootprint`]: the kernel's figures are not known, as of a core.
pub fn account_of(heap: &Heap<'_>, native: NativeOwners, owners: Option<&Owners>) -> Result<Account, Error> {
    let footprint = heap.footprint.ok_or(Error::NoFootprint)?;
    Ok(account(heap, footprint, native, owners))
}

/// Visits all blocks, then all mappings. What is only for owners is read where owners are wanted: a heap has more
/// blocks without an object in its pools than everywhere else.
fn account(heap: &Heap<'_>, footprint: &Footprint, native: NativeOwners, owners: Option<&Owners>) -> Account {
    let Heap { memory, python, objects, survey, types, .. } = *heap;
    let statics = survey.plan.statics();
    let arenas = glibc_arena::find(memory, &statics);
    log::debug!("{} malloc arenas, {} mappings", arenas.len(), footprint.mappings.len());
    let start = Instant::now();
    let entries = free_lists::Entries::new(memory, (&python.layout, python.version), types, survey.debug_hooks);
    let mut outside = Blocks::outside_pools();
    let mut rows = Rows { builder: Builder::new(&footprint.residency), entries: &entries };
    block_use::visit(memory, &python.layout, &survey.plan, &arenas, objects, &mut Both(&mut rows, &mut outside));
    let mut builder = rows.builder;
    let visited = start.elapsed();
    builder.buffers(&take_buffers(heap, &mut outside).0);
    builder.free_lists(&outside.take(&free_lists::find(&entries, &outside)));
    log::debug!("blocks visited in {visited:?}, with buffers {:?}", start.elapsed());
    // A thread's `struct pthread` is at the top of its stack, and its address is glibc's thread id.
    let reader = Reader { memory, layout: &python.layout };
    let threads = python.interpreters.iter().flat_map(|interpreter| stack::threads(&reader, interpreter));
    let mut inside = footprint.stack_pointers.clone();
    inside.extend(threads.filter_map(|thread| {
        let id = memory.read_pointer(thread.address.offset(python.layout.thread.thread_id)).ok()?;
        (!id.is_null()).then_some(id)
    }));
    let stacks = thread_stacks::find(memory, &inside);
    let mut account = builder.finish(footprint.rollup, &footprint.mappings, &stacks);
    mapping_owners::attribute(memory, &mut account, &statics);
    let of_pins = native != NativeOwners::Never && memory_verdicts::has_much_pinned(&account);
    let of_native = match native {
        NativeOwners::Never => false,
        NativeOwners::WhereItMatters => memory_verdicts::has_much_native(&account),
        NativeOwners::Always => true,
    };
    if !of_pins && !of_native {
        return account;
    }
    let mut blocks = Blocks::default();
    let mut sites = Sites::new(&footprint.residency);
    block_use::visit(memory, &python.layout, &survey.plan, &arenas, objects, &mut Both(&mut blocks, &mut sites));
    let (buffers, holders) = take_buffers(heap, &mut blocks);
    blocks.take(&free_lists::find(&entries, &blocks));
    if of_pins {
        let mut buffers: Vec<_> = buffers.into_iter().map(|(range, _)| range).zip(holders).collect();
        buffers.sort_by_key(|(range, _)| range.start);
        let mut others = blocks.ranges().to_vec();
        others.sort_by_key(|range| range.start);
        account.pins = Some(pins(heap, &sites, &buffers, &others, owners));
    }
    if of_native {
        let blocks = (blocks, native_memory::marks(survey.debug_hooks));
        account.native = Some(native_memory::owners(memory, types, objects, blocks, &footprint.residency, &statics));
    }
    account
}

/// Takes the buffers of objects out of `blocks`, and returns them with the numbers of their objects.
fn take_buffers(heap: &Heap<'_>, blocks: &mut Blocks) -> (Vec<(Range<Address>, Use)>, Vec<u32>) {
    let found = object_buffers::find(heap.memory, heap.types, heap.objects, blocks, heap.survey.debug_hooks);
    let (numbers, holders): (Vec<usize>, Vec<u32>) = found.into_iter().unzip();
    (blocks.take(&numbers), holders)
}

/// Adds extents to an account; in pools, it knows the entries of free lists.
struct Rows<'a, M: Memory + ?Sized> {
    builder: Builder<'a>,
    entries: &'a free_lists::Entries<'a, M>,
}

impl<M: Memory + ?Sized> Visit for Rows<'_, M> {
    fn extent(&mut self, extent: &Extent) {
        match extent.usage == Use::PoolRaw && self.entries.is_entry(&extent.range, extent.usage) {
            true => self.builder.free_list_entry(extent),
            false => self.builder.extent(extent),
        }
    }

    fn pool(&mut self, pool: PoolFill) {
        self.builder.pool(pool);
    }
}

/// Who pins free memory. This needs the owners of all objects.
fn pins(
    heap: &Heap<'_>,
    sites: &Sites<'_>,
    buffers: &[(Range<Address>, u32)],
    others: &[Range<Address>],
    owners: Option<&Owners>,
) -> Pins {
    let start = Instant::now();
    let arenas = heap.survey.plan.parts.iter().filter_map(|part| match part {
        Part::Arena(arena) => Some(&arena.range),
        _ => None,
    });
    let of = |owners: &Owners| {
        let occupants = Occupants { objects: heap.objects, types: heap.types, owners, buffers, others };
        pins::find(sites, arenas, &occupants)
    };
    let pins = match owners {
        Some(owners) => of(owners),
        None => {
            let graph = heap.graph_alone();
            of(&heap.owners(&graph, Tree::Owners(&graph.dominators())))
        }
    };
    log::debug!("who pins free memory took {:?}", start.elapsed());
    pins
}
