//! Interprets an account of memory: rules with thresholds, and advice for each.
//!
//! The thresholds separated twelve programs with known causes (memory freed but not returned, arenas pinned by
//! survivors, buffers of C extensions, pools of other allocators, stacks of many threads) from plain, web, numpy and
//! threaded programs, none of which gets a verdict.

use crate::heap::block_use::Use;
use crate::heap::foreign_malloc;

use super::memory_account::{Account, Anonymous, RowKind};
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
    pub advice: &'static str,
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
    let mut found = Vec::new();
    let mut add = |cause: Cause, amount: i64, finding: String, advice: &'static str| {
        found.push(Verdict { cause, bytes: bytes(amount), finding, advice });
    };

    let freed = sum(&FREED);
    if is_large(freed) {
        add(
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
        add(
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
        add_native(account, sum(&NATIVE), &size, &mut add);
    }
    for row in &account.rows {
        if let RowKind::Foreign(allocator) = row.kind
            && is_large(row.resident)
        {
            add(
                Cause::OtherMalloc,
                row.resident,
                format!("{} ({}) is {allocator}'s, in use or free", size(bytes(row.resident)), percent(row.resident)),
                "Its structures are not read. Ask it: malloc_stats_print(0, 0, 0) of jemalloc, MALLOCSTATS=1 of \
                 tcmalloc; jemalloc gives back more with MALLOC_CONF=dirty_decay_ms:0.",
            );
        }
    }
    let anonymous = account.resident(RowKind::OtherAnonymous);
    if is_large(anonymous) {
        let of_others = |found: &&Anonymous| foreign_malloc::allocator_of(&found.library).is_none();
        let largest = account.anonymous.iter().find(of_others).map_or_else(String::new, |largest| {
            let name = match (largest.name.as_str(), largest.library.as_str()) {
                ("", "") => String::new(),
                ("", library) => format!(", to which data of {library} points,"),
                (name, _) => format!(" {name}"),
            };
            format!("; the largest{name} has {}", size(largest.resident))
        });
        add(
            Cause::AnonymousMappings,
            anonymous,
            format!("{} ({}) is in anonymous mappings{largest}", size(bytes(anonymous)), percent(anonymous)),
            "A library maps memory of its own: an allocator that it brings (pyarrow, jemalloc, torch), mmap objects, a \
             compiler's code.",
        );
    }
    let stacks = account.resident(RowKind::ThreadStacks) + account.resident(RowKind::EndedStacks);
    if is_large(stacks) {
        let (running, ended) = account.stacks;
        add(
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
    let shared = account.resident(RowKind::SharedMemory);
    if is_large(shared) {
        add(
            Cause::SharedMemory,
            shared,
            format!("{} ({}) is shared memory", size(bytes(shared)), percent(shared)),
            "It counts once for all processes that map it: compare PSS. Look at /dev/shm and \
             multiprocessing.shared_memory.",
        );
    }
    let swap = account.rollup.swap.cast_signed();
    if swap >= BYTES_MIN && swap as f64 >= SHARE * rss {
        add(
            Cause::Swap,
            swap,
            format!("{} is swapped out: RSS shows only a part", size(account.rollup.swap)),
            "Judge growth by RSS and swap together.",
        );
    }
    found.sort_by_key(|verdict| std::cmp::Reverse(verdict.bytes));
    found
}

/// Adds verdicts on native memory: one for what objects own, one for the rest.
fn add_native(
    account: &Account,
    native: i64,
    size: &impl Fn(u64) -> String,
    add: &mut impl FnMut(Cause, i64, String, &'static str),
) {
    let rss = account.rollup.rss.max(1) as f64;
    let Some(owners) = &account.native else {
        let finding = format!("{} of malloc is in use without a Python object in it", size(native.unsigned_abs()));
        return add(Cause::NativeMemory, native, finding, "memory --native says whose it is.");
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
        add(
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
        (format!("{} of {}", grouped(first.holders), first.owner), "See who holds these objects: why PID TYPE.")
    } else {
        (format!("data of {}", first.owner), "The library keeps this memory: look for its caches and their limits.")
    };
    add(
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
            anonymous: Vec::new(),
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
