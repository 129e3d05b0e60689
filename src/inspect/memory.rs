//! Accounts for the resident memory of a target: objects, free memory, native memory, files.

use crate::allocator::glibc_arena;
use crate::analysis::free_lists;
use crate::analysis::memory_account::{Account, Builder};
use crate::analysis::memory_verdicts;
use crate::analysis::native_memory::{self, Blocks, Both};
use crate::analysis::object_buffers;
use crate::heap::block_use;
use crate::process::memory::MemoryExt;
use crate::process::thread_stacks;
use crate::python::reader::Reader;
use crate::python::stack;

use super::answer::Inspected;
use super::copy::{CopyOptions, Heap};
use super::error::Error;
use super::footprint::Footprint;
use super::open::Target;

/// Whether to find the owners of native memory, which takes longer than everything else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NativeOwners {
    /// Do not.
    Never,
    /// Only if there is so much that a verdict mentions it.
    #[default]
    WhereItMatters,
    /// Always.
    Always,
}

impl Target {
    /// Accounts for the target's resident memory. Stops it while it is copied, as far as `options` allow.
    ///
    /// # Errors
    /// As [`Target::heap`].
    pub fn memory(&mut self, options: &CopyOptions, native: NativeOwners) -> Result<Inspected<Account>, Error> {
        let options = CopyOptions { with_footprint: true, ..*options };
        self.heap(&options, |heap| account_of(heap, native))
    }
}

/// The account of a heap that was copied with [`CopyOptions::with_footprint`].
///
/// # Errors
/// [`Error::NoFootprint`]: the kernel's figures are not known, as of a core.
pub fn account_of(heap: &Heap<'_>, native: NativeOwners) -> Result<Account, Error> {
    let footprint = heap.footprint.ok_or(Error::NoFootprint)?;
    Ok(account(heap, footprint, native))
}

/// Visits all blocks, then all mappings.
fn account(heap: &Heap<'_>, footprint: &Footprint, native: NativeOwners) -> Account {
    let Heap { memory, python, objects, survey, .. } = *heap;
    let statics = survey.plan.statics();
    let arenas = glibc_arena::find(memory, &statics);
    log::debug!("{} malloc arenas, {} mappings", arenas.len(), footprint.mappings.len());
    let mut builder = Builder::new(&footprint.residency);
    let mut blocks = Blocks::default();
    let mut both = Both(&mut builder, &mut blocks);
    block_use::visit(memory, &python.layout, &survey.plan, &arenas, objects, &mut both);
    let buffers = object_buffers::find(memory, heap.types, objects, &blocks, survey.debug_hooks);
    builder.buffers(&blocks.take(&buffers));
    let rules = (&python.layout, python.version);
    let free_lists = free_lists::find(memory, rules, heap.types, &blocks, survey.debug_hooks);
    builder.free_lists(&blocks.take(&free_lists));
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
    let is_wanted = match native {
        NativeOwners::Never => false,
        NativeOwners::WhereItMatters => memory_verdicts::has_much_native(&account),
        NativeOwners::Always => true,
    };
    if is_wanted {
        let blocks = (blocks, native_memory::marks(survey.debug_hooks));
        let owners = native_memory::owners(memory, heap.types, objects, blocks, &footprint.residency, &statics);
        account.native = Some(owners);
    }
    account
}
