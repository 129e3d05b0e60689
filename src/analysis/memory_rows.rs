//! The rows of an account of memory, and the groups of its one-line form: names, and which row is in which group.

use serde::{Deserialize, Serialize};

use crate::heap::block_use::Use;
use crate::heap::foreign_malloc;

/// A name that this program has: serde would borrow a `&'static str` from what it reads.
type StaticName = &'static str;

/// The subject of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RowKind {
    /// Memory of an allocator.
    Allocator(Use),
    /// What objects have in blocks of their own, and `sys.getsizeof` counts as theirs: in chunks of malloc,
    ChunkBuffers,
    /// in mappings of malloc,
    MappedBuffers,
    /// in pages of mimalloc,
    PageBuffers,
    /// in groups of musl's malloc.
    GroupBuffers,
    /// Dead objects on free lists, which the interpreter or an extension keeps for reuse.
    FreeLists,
    /// Frames of Python functions that run: blocks that each thread has for them, since 3.11.
    Frames,
    /// Memory of an allocator that replaces the C library's, by the allocator's name.
    #[serde(deserialize_with = "foreign_malloc::known_name")]
    Foreign(StaticName),
    /// Stacks of running threads.
    ThreadStacks,
    /// Stacks that glibc keeps after their threads have ended.
    EndedStacks,
    /// The stack of the main thread.
    MainStack,
    /// Pages of the program and its libraries that this process has written to.
    LibraryData,
    /// Pages of the program and its libraries that are unchanged from the file.
    LibraryText,
    /// Pages of other mapped files.
    MappedFiles,
    /// Memory shared with other processes: `/dev/shm`, memfd, System V, anonymous.
    SharedMemory,
    /// Pages that the kernel maps: vdso.
    Kernel,
    /// Anonymous memory of unknown structure.
    OtherAnonymous,
    /// RSS minus all other rows.
    NotAccounted,
}

impl RowKind {
    /// Memory of an allocator that could not be walked.
    pub const NOT_WALKED: RowKind = RowKind::Allocator(Use::Unknown);

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            RowKind::Allocator(usage) => match usage {
                Use::PoolObject => "Python objects in pymalloc",
                Use::PoolRaw => "pymalloc: blocks of objects (keys, items) and C code",
                Use::PoolFree => "pymalloc: free blocks",
                Use::PoolUnused => "pymalloc: free pools",
                Use::PoolOverhead => "pymalloc: pool headers and unused room",
                Use::ArenaSlack => "pymalloc: arenas' unused ends",
                Use::ChunkObject => "Python objects in malloc",
                Use::ChunkRaw => "malloc: in use, no Python object",
                Use::ChunkFree => "malloc: free chunks",
                Use::ChunkCached => "malloc: free, in thread caches and fast bins",
                Use::Top => "malloc: free at the top of arenas",
                Use::ChunkOverhead => "malloc: headers",
                Use::MappedObject => "Python objects in mappings of malloc",
                Use::MappedRaw => "malloc: mappings in use, no Python object",
                Use::PageObject => "Python objects in mimalloc",
                Use::PageRaw => "mimalloc: in use, no Python object",
                Use::PageFree => "mimalloc: free blocks",
                Use::PageOverhead => "mimalloc: segment heads and unused pages",
                Use::GroupObject => "Python objects in musl's malloc",
                Use::GroupRaw => "musl's malloc: in use, no Python object",
                Use::GroupFree => "musl's malloc: free slots",
                Use::GroupOverhead => "musl's malloc: headers",
                Use::StaticObject => "Python objects in program data",
                Use::FoundObject => "Python objects in memory of unknown structure",
                Use::Unknown => "allocators: not walked",
            },
            RowKind::ChunkBuffers => "buffers of Python objects (items, tables, arrays) in malloc",
            RowKind::MappedBuffers => "buffers of Python objects in mappings of malloc",
            RowKind::PageBuffers => "buffers of Python objects in mimalloc",
            RowKind::GroupBuffers => "buffers of Python objects in musl's malloc",
            RowKind::FreeLists => "Python's free lists: dead objects kept for reuse",
            RowKind::Frames => "frames of Python functions",
            RowKind::Foreign(allocator) => foreign_malloc::row_name(allocator),
            RowKind::ThreadStacks => "thread stacks",
            RowKind::EndedStacks => "stacks of ended threads, kept by glibc",
            RowKind::MainStack => "main stack",
            RowKind::LibraryData => "program and libraries: data",
            RowKind::LibraryText => "program and libraries: code, as in the file",
            RowKind::MappedFiles => "mapped files",
            RowKind::SharedMemory => "shared memory",
            RowKind::Kernel => "kernel (vdso)",
            RowKind::OtherAnonymous => "other anonymous mappings",
            RowKind::NotAccounted => "not accounted for",
        }
    }

    /// The group of the one-line account that the row belongs to.
    pub fn group(self) -> Group {
        match self {
            RowKind::Allocator(usage) => match usage {
                Use::PoolObject
                | Use::PoolRaw
                | Use::ChunkObject
                | Use::MappedObject
                | Use::PageObject
                | Use::GroupObject
                | Use::StaticObject
                | Use::FoundObject => Group::Objects,
                Use::PoolFree
                | Use::PoolUnused
                | Use::PoolOverhead
                | Use::ArenaSlack
                | Use::ChunkFree
                | Use::ChunkCached
                | Use::Top
                | Use::PageFree
                | Use::GroupFree
                | Use::PageOverhead => Group::AllocatorFree,
                // Headers belong to the chunks, most of which are in use.
                Use::ChunkRaw
                | Use::ChunkOverhead
                | Use::MappedRaw
                | Use::PageRaw
                | Use::GroupRaw
                | Use::GroupOverhead
                | Use::Unknown => Group::Native,
            },
            RowKind::ChunkBuffers
            | RowKind::MappedBuffers
            | RowKind::PageBuffers
            | RowKind::GroupBuffers
            | RowKind::FreeLists => Group::Objects,
            RowKind::ThreadStacks | RowKind::EndedStacks | RowKind::MainStack => Group::Stacks,
            RowKind::LibraryData | RowKind::LibraryText | RowKind::MappedFiles | RowKind::Kernel => Group::Files,
            RowKind::SharedMemory => Group::Shared,
            RowKind::Frames | RowKind::Foreign(_) | RowKind::OtherAnonymous => Group::Native,
            RowKind::NotAccounted => Group::NotAccounted,
        }
    }
}

/// The groups of the one-line account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Python objects and their small blocks, with dead objects that are kept for reuse.
    Objects,
    /// Memory that allocators hold but do not use.
    AllocatorFree,
    /// Memory in use without a Python object.
    Native,
    /// Stacks.
    Stacks,
    /// Programs, libraries and other files.
    Files,
    /// Shared memory.
    Shared,
    /// Memory that no row explains.
    NotAccounted,
}

impl Group {
    /// All groups, in the order in which reports show them.
    pub const ALL: [Group; 7] = [
        Group::Objects,
        Group::AllocatorFree,
        Group::Native,
        Group::Stacks,
        Group::Files,
        Group::Shared,
        Group::NotAccounted,
    ];

    /// The name in the one-line account.
    pub fn name(self) -> &'static str {
        match self {
            Group::Objects => "objects",
            Group::AllocatorFree => "allocator free",
            Group::Native => "native",
            Group::Stacks => "stacks",
            Group::Files => "files",
            Group::Shared => "shared",
            Group::NotAccounted => "not accounted for",
        }
    }
}
