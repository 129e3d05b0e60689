//! Interprets an account of memory: rules with thresholds, and advice for each.
//!
//! The thresholds separated twelve programs with known causes (memory freed but not returned, arenas pinned by
//! survivors, buffers of C extensions, pools of other allocators, stacks of many threads) from plain, web, numpy and
//! threaded programs, none of which gets a verdict.

use std::borrow::Cow;

use crate::heap::block_use::Use;
use crate::heap::foreign_malloc;
use crate::process::mapping_kind::MappingKind;

use super::memory_account::{Account, RowKind};
use super::opaque_mappings::{self, MappingGroup};
use super::pins::Pin;
use super::thousands::grouped;

/// Share of RSS, and number of bytes, from which a rule applies. Below 32 MiB nobody searches for memory.
const SHARE: f64 = 0.25;
const BYTES_MIN: i64 = 32 << 20;
/// The same for native memory without an owner, which indicates a leak long before it reaches a quarter.
const NATIVE_SHARE: f64 = 0.10;
const NATIVE_MIN: i64 = 5 << 20;
/// Share of sparse pools from which a heap counts as fragmented.
const SPARSE_POOLS: f64 = 0.5;

/// The cause of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// malloc keeps freed memory.
    FreedNotReturned,
    /// Few surviving blocks pin pymalloc's arenas.
    Fragmentation,
    /// malloc memory is in use without a Python object.
    NativeMemory,
    /// Objects or libraries own memory of malloc that `sys.getsizeof` does not count.
    NativeBuffers,
    /// Memory of an allocator that replaces the C library's.
    OtherMalloc,
    /// Anonymous mappings of unknown structure.
    AnonymousMappings,
    /// Stacks of threads.
    ThreadStacks,
    /// Memory shared with other processes.
    SharedMemory,
    /// Pages of mapped files that are not programs or libraries.
    MappedFiles,
    /// A large part is swapped out.
    Swap,
}

/// A verdict: the cause, its resident bytes, a finding and advice, one sentence each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The cause.
    pub cause: Cause,
    /// Resident bytes concerned.
    pub bytes: u64,
    /// What was observed.
    pub finding: String,
    /// What to do.
    pub advice: Cow<'static, str>,
}

impl Cause {
    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Cause::FreedNotReturned => "freed_not_returned",
            Cause::Fragmentation => "fragmentation",
            Cause::NativeMemory => "native_memory",
            Cause::NativeBuffers => "native_buffers",
            Cause::OtherMalloc => "other_malloc",
            Cause::AnonymousMappings => "anonymous_mappings",
            Cause::ThreadStacks => "thread_stacks",
            Cause::SharedMemory => "shared_memory",
            Cause::MappedFiles => "mapped_files",
            Cause::Swap => "swap",
        }
    }
}

/// Uses that are native memory.
const NATIVE: [Use; 4] = [Use::ChunkRaw, Use::MappedRaw, Use::PageRaw, Use::GroupRaw];

/// Whether there is enough native memory that its owners matter.
pub fn has_much_native(account: &Account) -> bool {
    let native: i64 = NATIVE.iter().map(|&usage| account.resident(RowKind::Allocator(usage))).sum();
    native >= NATIVE_MIN && native as f64 >= NATIVE_SHARE * account.rollup.rss.max(1) as f64
}

/// Rows of mappings that no allocator explains.
const MAPPED: [RowKind; 3] = [RowKind::OtherAnonymous, RowKind::SharedMemory, RowKind::MappedFiles];

/// Whether there is so much in mappings that no allocator explains that it matters who uses them.
pub fn has_much_mapped(account: &Account) -> bool {
    MAPPED.iter().any(|&kind| is_large(account, account.resident(kind)))
}

/// Uses that are free memory of malloc, and of pymalloc.
const FREED: [Use; 3] = [Use::ChunkFree, Use::ChunkCached, Use::Top];
const UNUSED: [Use; 4] = [Use::PoolFree, Use::PoolUnused, Use::PoolOverhead, Use::ArenaSlack];

fn sum(account: &Account, uses: &[Use]) -> i64 {
    uses.iter().map(|&usage| account.resident(RowKind::Allocator(usage))).sum()
}

fn is_large(account: &Account, bytes: i64) -> bool {
    bytes >= BYTES_MIN && bytes as f64 >= SHARE * account.rollup.rss.max(1) as f64
}

fn is_fragmented(account: &Account) -> bool {
    let sparse = account.fills.by_tenth[0];
    is_large(account, sum(account, &UNUSED)) && sparse as f64 >= SPARSE_POOLS * account.fills.pools as f64
}

/// Whether there is so much free memory that it matters who pins it.
pub fn has_much_pinned(account: &Account) -> bool {
    is_fragmented(account) || is_large(account, sum(account, &FREED))
}

/// What the largest of those who pin pins, behind a finding.
fn largest_pin(pins: Option<&[Pin]>, size: &impl Fn(u64) -> String) -> String {
    pins.and_then(<[Pin]>::first).map_or_else(String::new, |pin| format!("; {}", pin.sentence(size)))
}

/// The verdicts on an account, largest first; empty if nothing stands out. `size` formats bytes.
pub fn of(account: &Account, size: impl Fn(u64) -> String) -> Vec<Verdict> {
    let rss = account.rollup.rss.max(1) as f64;
    let sum = |uses: &[Use]| sum(account, uses);
    let is_large = |bytes: i64| is_large(account, bytes);
    let bytes = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
    let percent = |bytes: i64| format!("{:.0} % of RSS", 100.0 * bytes as f64 / rss);
    let mut found = VerdictList::default();

    let freed = sum(&FREED);
    if is_large(freed) {
        found.add(
            Cause::FreedNotReturned,
            freed,
            format!(
                "{} ({}) is free memory that malloc keeps; malloc_trim(0) would give back {}{}",
                size(bytes(freed)),
                percent(freed),
                size(account.trimmable),
                largest_pin(account.pins.as_ref().map(|pins| pins.islands.as_slice()), &size)
            ),
            "It is not a leak of objects: set MALLOC_TRIM_THRESHOLD_ and MALLOC_ARENA_MAX, call malloc_trim(0) after a \
             peak, or use another malloc (jemalloc).",
        );
    }
    let unused = sum(&UNUSED);
    let fills = &account.fills;
    let sparse = fills.by_tenth[0];
    if is_fragmented(account) {
        found.add(
            Cause::Fragmentation,
            unused,
            format!(
                "{} ({}) of pymalloc's arenas is free, but {} of {} pools are less than 10 % full: \
                 {} blocks keep {}{}",
                size(bytes(unused)),
                percent(unused),
                grouped(sparse),
                grouped(fills.pools),
                grouped(fills.sparse_blocks),
                size(fills.sparse_bytes),
                largest_pin(account.pins.as_ref().map(|pins| pins.pools.as_slice()), &size)
            ),
            "A few long-lived objects were made among many short-lived ones: make them before the peak, or run the \
             peak in a process of its own.",
        );
    }
    if has_much_native(account) {
        add_native(account, sum(&NATIVE), &size, &mut found);
    }
    for row in &account.rows {
        if let RowKind::Foreign(allocator) = row.kind
            && is_large(row.resident)
        {
            found.add(
                Cause::OtherMalloc,
                row.resident,
                format!("{} ({}) is {allocator}'s, in use or free", size(bytes(row.resident)), percent(row.resident)),
                "Its structures are not read. Ask it: malloc_stats_print(0, 0, 0) of jemalloc, MALLOCSTATS=1 of \
                 tcmalloc; jemalloc gives back more with MALLOC_CONF=dirty_decay_ms:0.",
            );
        }
    }
    let groups = opaque_mappings::groups(&account.mappings);
    let is_of = |kind: MappingKind| move |group: &&MappingGroup| group.first.kind == kind;
    let anonymous = account.resident(RowKind::OtherAnonymous);
    if is_large(anonymous) {
        let of_others = |group: &&MappingGroup| foreign_malloc::allocator_of(&group.first.library).is_none();
        let largest = groups.iter().filter(is_of(MappingKind::Anonymous)).find(of_others);
        let largest = largest.map_or_else(String::new, |group| {
            let name = match (group.first.file_name(), group.first.library.as_str()) {
                ("", "") => String::new(),
                ("", library) => format!(", to which data of {library} points,"),
                (name, _) => format!(" {name}"),
            };
            let has = if group.count == 1 { "has" } else { "have" };
            let used = group.users.first().map_or_else(String::new, |user| format!(", used by {}", user.text()));
            format!("; the largest{name} {has} {}{used}", size(group.resident))
        });
        found.add(
            Cause::AnonymousMappings,
            anonymous,
            format!("{} ({}) is in anonymous mappings{largest}", size(bytes(anonymous)), percent(anonymous)),
            "A library maps memory of its own: an allocator that it brings (pyarrow, jemalloc, torch), a compiler's \
             code. Ask the library what is in use.",
        );
    }
    let stacks = account.resident(RowKind::ThreadStacks) + account.resident(RowKind::EndedStacks);
    if is_large(stacks) {
        let (running, ended) = account.stacks;
        found.add(
            Cause::ThreadStacks,
            stacks,
            format!(
                "{} ({}) is stacks: {running} running threads, {ended} ended ones",
                size(bytes(stacks)),
                percent(stacks)
            ),
            "Bound the number of threads (a pool), or set a smaller stack (threading.stack_size).",
        );
    }
    for (row, kind, cause, what, advice) in [
        (
            RowKind::SharedMemory,
            MappingKind::Shared,
            Cause::SharedMemory,
            "shared memory",
            "It counts once for all processes that map it: compare PSS. It is mmap.mmap without a file, /dev/shm, \
             multiprocessing.shared_memory.",
        ),
        (
            RowKind::MappedFiles,
            MappingKind::File,
            Cause::MappedFiles,
            "pages of mapped files",
            "The kernel takes back what was not written to when it needs memory: this is no leak.",
        ),
    ] {
        let resident = account.resident(row);
        if is_large(resident) {
            let most = groups.iter().find(is_of(kind)).map_or_else(String::new, |group| {
                let user =
                    group.users.first().map(|user| format!("; {} use {} of it", user.text(), size(group.resident)));
                user.unwrap_or_default()
            });
            found.add(
                cause,
                resident,
                format!("{} ({}) is {what}{most}", size(bytes(resident)), percent(resident)),
                advice,
            );
        }
    }
    let swap = account.rollup.swap.cast_signed();
    if swap >= BYTES_MIN && swap as f64 >= SHARE * rss {
        found.add(
            Cause::Swap,
            swap,
            format!("{} is swapped out: RSS shows only a part", size(account.rollup.swap)),
            "Judge growth by RSS and swap together.",
        );
    }
    found.0.sort_by_key(|verdict| std::cmp::Reverse(verdict.bytes));
    found.0
}

/// The verdicts so far.
#[derive(Default)]
struct VerdictList(Vec<Verdict>);

impl VerdictList {
    fn add(&mut self, cause: Cause, bytes: i64, finding: String, advice: impl Into<Cow<'static, str>>) {
        let bytes = u64::try_from(bytes).unwrap_or(0);
        self.0.push(Verdict { cause, bytes, finding, advice: advice.into() });
    }
}

/// Adds verdicts on native memory: one for what objects own, one for the rest.
fn add_native(account: &Account, native: i64, size: &impl Fn(u64) -> String, found: &mut VerdictList) {
    let rss = account.rollup.rss.max(1) as f64;
    let Some(owners) = &account.native else {
        let finding = format!("{} of malloc is in use without a Python object in it", size(native.unsigned_abs()));
        return found.add(Cause::NativeMemory, native, finding, "memory --native says whose it is.");
    };
    let (owned, unowned) = (owners.resident.0.cast_signed(), owners.resident.1.cast_signed());
    if unowned >= NATIVE_MIN && unowned as f64 >= NATIVE_SHARE * rss {
        let largest = owners.unowned.first().map_or_else(String::new, |first| {
            let name = match first.first_word.as_str() {
                "" => String::new(),
                word => format!(" that begin with {word}"),
            };
            let (bytes, roots) = (size(first.resident), grouped(first.roots));
            format!("; the largest group has {bytes}: {roots} blocks of {} bytes{name}", first.size)
        });
        found.add(
            Cause::NativeMemory,
            unowned,
            format!(
                "{} ({:.0} % of RSS) of malloc is in use, and no object or library's data points to it{largest}",
                size(unowned.unsigned_abs()),
                100.0 * unowned as f64 / rss
            ),
            "Memory that C code allocated and lost or keeps out of sight: a leak in an extension, or its own tables.",
        );
    }
    if owned < BYTES_MIN || (owned as f64) < SHARE * rss {
        return;
    }
    let Some(first) = owners.owned.first() else { return };
    let (holders, advice) = if first.is_type {
        (
            format!("{} of {}", grouped(first.holders), first.owner),
            format!("See who holds these objects: heapsonde why PID {}.", first.owner).into(),
        )
    } else {
        let advice = "The library keeps this memory: look for its caches and their limits.";
        (format!("data of {}", first.owner), Cow::from(advice))
    };
    found.add(
        Cause::NativeBuffers,
        owned,
        format!(
            "{} ({:.0} % of RSS) of malloc belongs to objects and libraries beyond what sys.getsizeof counts; the \
             largest owner, {holders}, has {} in {} blocks",
            size(owned.unsigned_abs()),
            100.0 * owned as f64 / rss,
            size(first.resident),
            grouped(first.blocks)
        ),
        advice,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::memory_account::{PoolFills, Row};
    use crate::process::smaps::Rollup;

    fn account(rss: u64, rows: &[(RowKind, i64)]) -> Account {
        let row = |&(kind, mebibytes): &(RowKind, i64)| Row {
            kind,
            resident: mebibytes << 20,
            swapped: 0,
            mapped: 0,
            objects: 0,
            shallow_bytes: 0,
        };
        Account {
            rollup: Rollup { rss: rss << 20, ..Rollup::default() },
            rows: rows.iter().map(row).collect(),
            mappings: Vec::new(),
            fills: PoolFills::default(),
            size_classes: Vec::new(),
            trimmable: 0,
            stacks: (0, 0),
            native: None,
            pins: None,
        }
    }

    fn causes(account: &Account) -> Vec<Cause> {
        of(account, |bytes| format!("{bytes} B")).iter().map(|verdict| verdict.cause).collect()
    }

    #[test]
    fn each_rule_speaks_from_its_threshold_on() {
        let free = RowKind::Allocator(Use::ChunkFree);
        assert_eq!(causes(&account(128, &[(free, 32)])), [Cause::FreedNotReturned]);
        assert_eq!(causes(&account(129, &[(free, 32)])), []);
        assert_eq!(causes(&account(100, &[(free, 31)])), []);
        let raw = RowKind::Allocator(Use::ChunkRaw);
        assert_eq!(causes(&account(50, &[(raw, 5)])), [Cause::NativeMemory]);
        assert_eq!(causes(&account(51, &[(raw, 5)])), []);
        assert_eq!(causes(&account(40, &[(raw, 4)])), []);
        assert_eq!(
            causes(&account(100, &[(RowKind::OtherAnonymous, 40), (RowKind::ThreadStacks, 50)])),
            [Cause::ThreadStacks, Cause::AnonymousMappings]
        );
    }

    #[test]
    fn free_blocks_are_fragmentation_only_where_pools_are_sparse() {
        let mut account = account(200, &[(RowKind::Allocator(Use::PoolFree), 150)]);
        account.fills = PoolFills { pools: 100, by_tenth: [49, 51, 0, 0, 0, 0, 0, 0, 0, 0], ..PoolFills::default() };
        assert_eq!(causes(&account), []);
        account.fills.by_tenth[0] = 50;
        assert_eq!(causes(&account), [Cause::Fragmentation]);
    }
}
