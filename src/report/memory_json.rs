//! Writes an account of memory as JSON. All amounts are bytes.

use std::io::{self, Write};

use serde::Serialize;

use crate::analysis::memory_account::{Account, RowKind, SizeClass};
use crate::analysis::memory_verdicts::Verdict;
use crate::analysis::native_memory::NativeMemory;
use crate::analysis::opaque_mappings::OpaqueMapping;
use crate::analysis::pins::{Pin, Pins};
use crate::heap::block_use::Use;
use crate::inspect::answer::{Problems, Reading, TargetSummary};
use crate::process::mapping_kind::MappingKind;

/// The document's version.
const SCHEMA_VERSION: u32 = 1;

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    target: &'a TargetSummary,
    reading: &'a Reading,
    rss: u64,
    pss: u64,
    uss: u64,
    swap: u64,
    rows: Vec<RowOut>,
    anonymous_mappings: Vec<MappingOut<'a>>,
    shared_mappings: Vec<MappingOut<'a>>,
    file_mappings: Vec<MappingOut<'a>>,
    pools: PoolsOut,
    trimmable: u64,
    threads: u64,
    ended_stacks: u64,
    native: Option<NativeOut<'a>>,
    pins: Option<PinsOut<'a>>,
    verdicts: Vec<VerdictOut<'a>>,
    problems: &'a Problems,
}

#[derive(Serialize)]
struct RowOut {
    row: &'static str,
    name: &'static str,
    group: &'static str,
    resident: i64,
    swapped: u64,
    mapped: u64,
    objects: u64,
    shallow_bytes: u64,
}

#[derive(Serialize)]
struct MappingOut<'a> {
    address: String,
    mapped: u64,
    resident: u64,
    name: &'a str,
    library: Option<&'a str>,
    users: Vec<UserOut<'a>>,
}

#[derive(Serialize)]
struct UserOut<'a> {
    name: &'a str,
    kind: &'static str,
    objects: u64,
    pointers: u64,
}

fn mapping_out(found: &OpaqueMapping) -> MappingOut<'_> {
    let users = found.users.iter().map(|user| UserOut {
        name: &user.name,
        kind: if user.is_type { "type" } else { "library" },
        objects: user.objects,
        pointers: user.pointers,
    });
    MappingOut {
        address: found.range.start.to_string(),
        mapped: found.range.end.0.saturating_sub(found.range.start.0),
        resident: found.resident,
        name: found.file_name(),
        library: (!found.library.is_empty()).then_some(found.library.as_str()),
        users: users.collect(),
    }
}

#[derive(Serialize)]
struct PoolsOut {
    in_use: u64,
    by_tenth_full: [u64; 10],
    sparse_bytes: u64,
    sparse_blocks: u64,
    size_classes: Vec<ClassOut>,
}

#[derive(Serialize)]
struct ClassOut {
    block_size: u32,
    pools: u64,
    used_bytes: u64,
    held_bytes: u64,
}

fn class_out(class: &SizeClass) -> ClassOut {
    let &SizeClass { block_size, pools, used_bytes, held_bytes } = class;
    ClassOut { block_size, pools, used_bytes, held_bytes }
}

#[derive(Serialize)]
struct NativeOut<'a> {
    owned_resident: u64,
    unowned_resident: u64,
    owners: Vec<OwnerOut<'a>>,
    unowned: Vec<UnownedOut<'a>>,
    blocks_left_out: u64,
}

#[derive(Serialize)]
struct OwnerOut<'a> {
    owner: &'a str,
    kind: &'static str,
    holders: u64,
    blocks: u64,
    resident: u64,
}

#[derive(Serialize)]
struct UnownedOut<'a> {
    size: u64,
    first_word: &'a str,
    roots: u64,
    blocks: u64,
    resident: u64,
}

fn native_out(native: &NativeMemory) -> NativeOut<'_> {
    let owners = native.owned.iter().map(|owned| OwnerOut {
        owner: &owned.owner,
        kind: if owned.is_type { "type" } else { "library" },
        holders: owned.holders,
        blocks: owned.blocks,
        resident: owned.resident,
    });
    let unowned = native.unowned.iter().map(|group| UnownedOut {
        size: group.size,
        first_word: &group.first_word,
        roots: group.roots,
        blocks: group.blocks,
        resident: group.resident,
    });
    NativeOut {
        owned_resident: native.resident.0,
        unowned_resident: native.resident.1,
        owners: owners.collect(),
        unowned: unowned.collect(),
        blocks_left_out: native.left_out,
    }
}

#[derive(Serialize)]
struct PinsOut<'a> {
    pools: Vec<PinOut<'a>>,
    islands: Vec<PinOut<'a>>,
}

#[derive(Serialize)]
struct PinOut<'a> {
    holder: &'a str,
    kind: &'static str,
    #[serde(rename = "type")]
    type_name: Option<&'a str>,
    objects: u64,
    buffers: u64,
    bytes: u64,
    pinned: u64,
}

fn pins_out(pins: &Pins) -> PinsOut<'_> {
    fn pin_out(pin: &Pin) -> PinOut<'_> {
        let kind = if pin.is_holder { "holder" } else { "blocks" };
        let type_name = (!pin.type_name.is_empty()).then_some(pin.type_name.as_str());
        let &Pin { objects, buffers, bytes, pinned, .. } = pin;
        PinOut { holder: &pin.holder, kind, type_name, objects, buffers, bytes, pinned }
    }
    PinsOut { pools: pins.pools.iter().map(pin_out).collect(), islands: pins.islands.iter().map(pin_out).collect() }
}

#[derive(Serialize)]
struct VerdictOut<'a> {
    cause: &'static str,
    bytes: u64,
    finding: &'a str,
    advice: &'a str,
}

/// What the document states besides the account.
pub struct About<'a> {
    /// The process.
    pub target: &'a TargetSummary,
    /// How it was read.
    pub reading: &'a Reading,
    /// What could not be read.
    pub problems: &'a Problems,
}

/// Writes the document.
///
/// # Errors
/// Errors of the writer.
pub fn write(out: &mut dyn Write, account: &Account, verdicts: &[Verdict], about: &About<'_>) -> io::Result<()> {
    let rows = account.rows.iter().map(|row| RowOut {
        row: key(row.kind),
        name: row.kind.name(),
        group: row.kind.group().name(),
        resident: row.resident,
        swapped: row.swapped,
        mapped: row.mapped,
        objects: row.objects,
        shallow_bytes: row.shallow_bytes,
    });
    let mappings = |kind: MappingKind| {
        let of_kind = account.mappings.iter().filter(move |found| found.kind == kind);
        of_kind.map(mapping_out).collect::<Vec<MappingOut<'_>>>()
    };
    let verdicts = verdicts.iter().map(|verdict| VerdictOut {
        cause: verdict.cause.name(),
        bytes: verdict.bytes,
        finding: &verdict.finding,
        advice: &verdict.advice,
    });
    let (threads, ended_stacks) = account.stacks;
    let document = Document {
        schema_version: SCHEMA_VERSION,
        target: about.target,
        reading: about.reading,
        rss: account.rollup.rss,
        pss: account.rollup.pss,
        uss: account.rollup.uss,
        swap: account.rollup.swap,
        rows: rows.collect(),
        anonymous_mappings: mappings(MappingKind::Anonymous),
        shared_mappings: mappings(MappingKind::Shared),
        file_mappings: mappings(MappingKind::File),
        pools: PoolsOut {
            in_use: account.fills.pools,
            by_tenth_full: account.fills.by_tenth,
            sparse_bytes: account.fills.sparse_bytes,
            sparse_blocks: account.fills.sparse_blocks,
            size_classes: account.size_classes.iter().map(class_out).collect(),
        },
        trimmable: account.trimmable,
        threads,
        ended_stacks,
        native: account.native.as_ref().map(native_out),
        pins: account.pins.as_ref().map(pins_out),
        verdicts: verdicts.collect(),
        problems: about.problems,
    };
    super::json::write_pretty(out, &document)
}

/// A row's name in JSON. It never changes.
fn key(kind: RowKind) -> &'static str {
    match kind {
        RowKind::Allocator(usage) => match usage {
            Use::PoolObject => "pymalloc_objects",
            Use::PoolRaw => "pymalloc_raw_blocks",
            Use::PoolFree => "pymalloc_free_blocks",
            Use::PoolUnused => "pymalloc_free_pools",
            Use::PoolOverhead => "pymalloc_overhead",
            Use::ArenaSlack => "pymalloc_arena_slack",
            Use::ChunkObject => "malloc_objects",
            Use::ChunkRaw => "malloc_in_use",
            Use::ChunkFree => "malloc_free",
            Use::ChunkCached => "malloc_cached",
            Use::Top => "malloc_top",
            Use::ChunkOverhead => "malloc_overhead",
            Use::MappedObject => "malloc_mapped_objects",
            Use::MappedRaw => "malloc_mapped_in_use",
            Use::PageObject => "mimalloc_objects",
            Use::PageRaw => "mimalloc_in_use",
            Use::PageFree => "mimalloc_free",
            Use::PageOverhead => "mimalloc_overhead",
            Use::GroupObject => "musl_objects",
            Use::GroupRaw => "musl_in_use",
            Use::GroupFree => "musl_free",
            Use::GroupOverhead => "musl_overhead",
            Use::StaticObject => "static_objects",
            Use::FoundObject => "found_objects",
            Use::Unknown => "not_walked",
        },
        RowKind::ChunkBuffers => "malloc_buffers",
        RowKind::MappedBuffers => "malloc_mapped_buffers",
        RowKind::PageBuffers => "mimalloc_buffers",
        RowKind::GroupBuffers => "musl_buffers",
        RowKind::FreeLists => "free_lists",
        RowKind::Frames => "frames",
        RowKind::Foreign(allocator) => allocator,
        RowKind::ThreadStacks => "thread_stacks",
        RowKind::EndedStacks => "ended_stacks",
        RowKind::MainStack => "main_stack",
        RowKind::LibraryData => "library_data",
        RowKind::LibraryText => "library_text",
        RowKind::MappedFiles => "mapped_files",
        RowKind::SharedMemory => "shared_memory",
        RowKind::Kernel => "kernel",
        RowKind::OtherAnonymous => "other_anonymous",
        RowKind::NotAccounted => "not_accounted",
    }
}
