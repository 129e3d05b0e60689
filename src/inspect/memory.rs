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
use crate::analysis::native_memory;
use crate::analysis::object_buffers::{self, BufferHolder};
use crate::analysis::owners::Owners;
use crate::analysis::part_rows::{PartRows, RowSink};
use crate::analysis::pins::{self, Occupants, Pins, Sites};
use crate::analysis::raw_blocks::{self, Blocks, Both};
use crate::heap::block_use::{BlockWalk, Use};
use crate::heap::object::Object;
use crate::heap::part::Part;
use crate::heap::survey::Survey;
use crate::process::Address;
use crate::process::elf::ElfFile;
use crate::process::layered::Layered;
use crate::process::memory::{Memory, MemoryExt};
use crate::process::{symbol_name, thread_stacks};
use crate::python::interpreter::Python;
use crate::python::reader::Reader;
use crate::python::stack;
use crate::python::types::TypeTable;

use super::answer::Inspected;
use super::census::COPY_SMALL;
use super::copy::{CopyOptions, Heap, Snapshot};
use super::error::Error;
use super::footprint::Footprint;
use super::open::{Read, Target};

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
        let first = |target: &Target, start: Instant, copied: &Snapshot| target.rows(native, start, copied);
        let mut answer = self.heap_unless(&options, first, |heap| account_of(heap, native, None))?;
        self.name_symbols(&mut answer.result);
        Ok(answer)
    }

    /// The account, counted part by part: `None` if owners are wanted as well, which take the table of all objects.
    fn rows(
        &self,
        native: NativeOwners,
        start: Instant,
        copied: &Snapshot,
    ) -> Result<Option<Inspected<Account>>, Error> {
        let Snapshot { survey, copy, total, read_mode, footprint } = copied;
        let footprint = footprint.as_ref().ok_or(Error::NoFootprint)?;
        let memory = Layered::new(&copy.image, &self.source).of_one_instant(read_mode.is_consistent);
        let python = self.python();
        let types = self.attached.types(&memory, survey)?;
        let statics = survey.plan.statics();
        let rows = part_rows(&memory, python, survey, &types, footprint, &statics);
        let (sinks, mut outcome) = self.observed(survey.plan.total_bytes(), |progress| match *total <= COPY_SMALL {
            true => survey.checked_census(&memory, python, &types, progress, || rows.sink(&survey.plan)),
            false => survey.census(&memory, python, &types, progress, || rows.sink(&survey.plan)),
        })?;
        outcome.counts.unreadable_bytes += copy.unreadable_bytes;
        let builder = rows.finish(sinks.into_iter().map(RowSink::sums));
        let account = finished(builder, &memory, python, footprint, &statics);
        if wants(&account, native).any() {
            return Ok(None);
        }
        let (paused, warnings, mappings) = (read_mode.paused, Vec::new(), Some(footprint.mappings.clone()));
        let read = Read { survey, types: &types, outcome, bytes: *total, start, paused, warnings, mappings };
        Ok(Some(self.inspected(read, || account)))
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
    let start = Instant::now();
    let rows = part_rows(memory, python, survey, types, footprint, &statics);
    let builder = rows.finish([rows.of_table(&survey.plan, objects)]);
    log::debug!("blocks visited in {:?}", start.elapsed());
    let mut account = finished(builder, memory, python, footprint, &statics);
    let wanted = wants(&account, native);
    if !wanted.any() {
        return account;
    }
    let mut blocks = Blocks::default();
    let mut sites = Sites::new(&footprint.residency);
    rows.walk.parts(&survey.plan, objects, &mut Both(&mut blocks, &mut sites));
    let (buffers, holders) = take_buffers(heap, &mut blocks);
    blocks.take(&free_lists::find(&rows.entries, &blocks));
    if wanted.pins {
        let mut buffers: Vec<_> = buffers.into_iter().map(|(range, _)| range).zip(holders).collect();
        buffers.sort_by_key(|(range, _)| range.start);
        let mut others = blocks.ranges().to_vec();
        others.sort_by_key(|range| range.start);
        account.pins = Some(pins(heap, &sites, &buffers, &others, owners));
    }
    if wanted.native {
        let blocks = (blocks, raw_blocks::marks(survey.debug_hooks));
        let residency = &footprint.residency;
        let mappings = &mut account.mappings;
        account.native = Some(native_memory::owners(memory, types, objects, blocks, residency, &statics, mappings));
    }
    account
}

/// What counting rows takes.
fn part_rows<'a, M: Memory + Sync + ?Sized>(
    memory: &'a M,
    python: &'a Python,
    survey: &Survey,
    types: &'a TypeTable,
    footprint: &'a Footprint,
    statics: &[Range<Address>],
) -> PartRows<'a, M> {
    let arenas = glibc_arena::find(memory, statics);
    log::debug!("{} malloc arenas, {} mappings", arenas.len(), footprint.mappings.len());
    PartRows {
        memory,
        walk: BlockWalk::new(memory, &python.layout, &survey.plan, &arenas),
        entries: free_lists::Entries::new(memory, (&python.layout, python.version), types, survey.debug_hooks),
        types,
        residency: &footprint.residency,
        has_debug_hooks: survey.debug_hooks,
    }
}

/// The account with stacks and mappings, without owners.
fn finished<M: Memory + Sync + ?Sized>(
    builder: Builder<'_>,
    memory: &M,
    python: &Python,
    footprint: &Footprint,
    statics: &[Range<Address>],
) -> Account {
    // A thread's `struct pthread` is at the top of its stack, and its address is glibc's thread id.
    let reader = Reader { memory, layout: &python.layout };
    let threads = python.interpreters.iter().flat_map(|interpreter| stack::threads(&reader, interpreter));
    let mut inside = footprint.stack_pointers.clone();
    inside.extend(threads.filter_map(|thread| {
        let id = memory.read_pointer(thread.address.offset(python.layout.thread.thread_id)).ok()?;
        (!id.is_null()).then_some(id)
    }));
    let stacks = thread_stacks::find(memory, &inside);
    let frames = python.interpreters.iter().flat_map(|interpreter| stack::frame_blocks(&reader, interpreter));
    let frames: Vec<Range<Address>> = frames.collect();
    let mut account = builder.finish(footprint.rollup, &footprint.mappings, &frames, &stacks);
    mapping_owners::attribute(memory, &mut account, statics);
    account
}

/// Which owners are wanted.
#[derive(Clone, Copy)]
struct OwnersWanted {
    pins: bool,
    native: bool,
}

impl OwnersWanted {
    fn any(self) -> bool {
        self.pins || self.native
    }
}

fn wants(account: &Account, native: NativeOwners) -> OwnersWanted {
    OwnersWanted {
        pins: native != NativeOwners::Never && memory_verdicts::has_much_pinned(account),
        native: match native {
            NativeOwners::Never => false,
            NativeOwners::WhereItMatters => {
                memory_verdicts::has_much_native(account) || memory_verdicts::has_much_mapped(account)
            }
            NativeOwners::Always => true,
        },
    }
}

/// Takes the buffers of objects out of `blocks`, and returns them with the numbers of their objects.
fn take_buffers(heap: &Heap<'_>, blocks: &mut Blocks) -> (Vec<(Range<Address>, Use)>, Vec<u32>) {
    let holder = |(id, object): (usize, Object)| BufferHolder::of(heap.types.get(object.type_id), &object, id as u32);
    let holders: Vec<BufferHolder> = heap.objects.from(0).filter_map(holder).collect();
    let found = object_buffers::find(heap.memory, &holders, blocks, heap.survey.debug_hooks);
    let (numbers, holders): (Vec<usize>, Vec<u32>) = found.into_iter().unzip();
    (blocks.take(&numbers), holders)
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
