//! Reads damaged memory as if it were a process's.
//!
//! What a real target wrote to its memory is copied once and then damaged by a seeded generator: single bits flipped,
//! words made very large, pointers redirected to other pointers' targets or to themselves (cycles), runs of bytes
//! zeroed, pages removed. In every case attaching, a census and following references must end without a panic, within a
//! multiple of the bytes that the undamaged memory takes, and invalid data must be counted.
//!
//!     cargo test --test all -- damage [NAME]    HEAPSONDE_ONLY=3.12,3.14 selects versions

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::case::TestCase;
use crate::common;
use crate::common::interpreters::{self, Interpreter};
use crate::common::target::Target;
use heapsonde::analysis::histogram::{Histogram, SortKey, Tally};
use heapsonde::heap::census::Progress;
use heapsonde::heap::object::Object;
use heapsonde::heap::survey::Outcome;
use heapsonde::inspect::attached::Attached;
use heapsonde::process::Address;
use heapsonde::process::copy::copy_ranges;
use heapsonde::process::elf::ElfFile;
use heapsonde::process::freeze::Freeze;
use heapsonde::process::image::{Image, Placed};
use heapsonde::process::live::Process;
use heapsonde::process::memory::{Memory, ReadError};
use heapsonde::process::regions::RegionMap;
use heapsonde::python::attach::AttachError;
use heapsonde::python::proof_error::ProofError;
use heapsonde::references::References;
use libtest_mimic::Failed;

/// Damaged memory may take so many times the bytes that undamaged memory takes, all of whose pages are searched. A page
/// that contradicts itself is read four times (`POOL_RETRIES` in src/heap/worker); the collector's lists and free lists
/// are tried again, too, as much as all else together.
const BUDGET: u64 = 5;
/// `DEFAULT_MMAP_MAX` of glibc (malloc/malloc.c), by which its counts are found.
const LIMIT_OF_COUNTS: u32 = 65536;
const SEEDS: u64 = 4;
const PAGE: usize = 4096;

/// How memory is spoiled, and how often: once in so many bytes.
const KINDS: &[(&str, Spoil, usize)] = &[
    ("one bit in 64 KiB", turn_a_bit, 64 << 10),
    ("one bit in 512 bytes", turn_a_bit, 512),
    ("an absurd number in 4 KiB", absurd_number, 4 << 10),
    ("an absurd number in 128 bytes", absurd_number, 128),
    ("a bent pointer in 4 KiB", bend_a_pointer, 4 << 10),
    ("a bent pointer in 128 bytes", bend_a_pointer, 128),
    ("a run of zeros in 16 KiB", zero_a_run, 16 << 10),
    ("a page missing in 64 KiB", lose_a_page, 64 << 10),
];

/// Spoils the bytes, which begin at this address, at about this offset. The page there, if it is to be lost.
type Spoil = fn(&mut [u8], Address, usize, &mut fastrand::Rng) -> Option<usize>;

fn turn_a_bit(bytes: &mut [u8], _: Address, at: usize, random: &mut fastrand::Rng) -> Option<usize> {
    bytes[at] ^= 1 << random.u8(..8);
    None
}

fn absurd_number(bytes: &mut [u8], _: Address, at: usize, random: &mut fastrand::Rng) -> Option<usize> {
    const NUMBERS: [u64; 8] =
        [u64::MAX, 1 << 63, i64::MAX as u64, (1 << 47) - 8, 1 << 40, 1 << 32, u32::MAX as u64, 0x7fff_ffff];
    put(bytes, at, NUMBERS[random.usize(..NUMBERS.len())]);
    None
}

/// Makes the next pointer point at itself, or where another one nearby points.
fn bend_a_pointer(bytes: &mut [u8], start: Address, at: usize, random: &mut fastrand::Rng) -> Option<usize> {
    let pointers: Vec<usize> = (at & !7..bytes.len().min(at + PAGE).saturating_sub(7))
        .step_by(8)
        .filter(|&at| word(bytes, at).is_some_and(|word| word >> 47 == 0 && word > 1 << 22 && word % 8 == 0))
        .collect();
    let &bent = pointers.first()?;
    let itself = start.0 + bent as u64;
    let other = word(bytes, pointers[random.usize(..pointers.len())])?;
    put(bytes, bent, if random.bool() { itself } else { other });
    None
}

fn zero_a_run(bytes: &mut [u8], _: Address, at: usize, random: &mut fastrand::Rng) -> Option<usize> {
    let end = bytes.len().min(at + random.usize(1..256));
    bytes[at..end].fill(0);
    None
}

fn lose_a_page(_: &mut [u8], _: Address, at: usize, _: &mut fastrand::Rng) -> Option<usize> {
    Some(at & !(PAGE - 1))
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn put(bytes: &mut [u8], at: usize, word: u64) {
    let at = at & !7;
    if let Some(bytes) = bytes.get_mut(at..at + 8) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
}

/// Spoils a range of memory; the offsets of the pages that it loses.
type Damage<'a> = dyn FnMut(&mut [u8], Address) -> Vec<usize> + 'a;

/// Memory that counts what is read of it, and is gone once that is too much.
struct Budgeted<'a, M: Memory> {
    memory: &'a M,
    read: AtomicU64,
    budget: u64,
}

impl<'a, M: Memory> Budgeted<'a, M> {
    fn new(memory: &'a M, budget: u64) -> Self {
        Budgeted { memory, read: AtomicU64::new(0), budget }
    }

    fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }
}

impl<M: Memory> Memory for Budgeted<'_, M> {
    fn read_exact_at(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        // A read costs something however short it is.
        let cost = buffer.len().max(64) as u64;
        if self.read.fetch_add(cost, Ordering::Relaxed) > self.budget {
            return Err(ReadError::Gone);
        }
        self.memory.read_exact_at(address, buffer)
    }

    fn regions(&self) -> &RegionMap {
        self.memory.regions()
    }
}

/// What one reading came to.
#[derive(Debug, Default)]
struct Reading {
    read: u64,
    objects: u64,
    problems: u64,
    references: u64,
}

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let mut cases = Vec::new();
    for interpreter in interpreters::find_and_say() {
        for (case, environment) in [("default", None), ("malloc", Some(("PYTHONMALLOC", "malloc")))] {
            let environment: Vec<(&str, &str)> = environment.into_iter().collect();
            if !environment.is_empty() && !interpreter.has_gil() {
                continue;
            }
            let (interpreter, is_first) = (interpreter.clone(), interpreter.is_first);
            cases.push(
                TestCase::new(format!("{}/{case}", interpreter.name), move || {
                    damaged_memory_is_read_to_an_end(&interpreter, &environment).map_err(Failed::from)
                })
                .ignored_if(!is_first),
            );
        }
    }
    cases
}

/// A few thousand objects of every shape that the layouts know.
const PROGRAM: &str = r"
import array, asyncio, collections, functools, os, re, sys, threading, weakref

class Plain:
    def __init__(self, i):
        self.name, self.edges, self.odd = 'node %d \u20ac' % i, [i, str(i)], {i: (i,) * 3}

class Slots:
    __slots__ = 'a', 'b'

def generate(n):
    local = [n]
    yield from local
    yield local

def fail(n):
    try:
        raise ValueError(n)
    except ValueError as error:
        return error

nodes = [Plain(i) for i in range(800)]
kept = [generate(i) for i in range(50)] + [fail(i) for i in range(50)] + [Slots() for _ in range(100)]
[next(one) for one in kept[:50]]
kept += [collections.deque(range(i)) for i in range(50)] + [collections.OrderedDict({i: i}) for i in range(50)]
kept += [set(range(i)) for i in range(50)] + [array.array('d', range(i)) for i in range(20)] + [b'x' * 4000] * 3
kept += [weakref.ref(node) for node in nodes] + [2 ** (i * 40) for i in range(50)] + [bytearray(i) for i in range(50)]
kept += [functools.partial(generate, i) for i in range(50)] + [type('T%d' % i, (Plain,), {}) for i in range(20)]
nodes[0].cycle = nodes
threading.Thread(target=threading.Lock().acquire, daemon=True).start()
os.write(1, b'ready %d\n' % os.getpid())
os.read(0, 1)
";

fn damaged_memory_is_read_to_an_end(interpreter: &Interpreter, environment: &[(&str, &str)]) -> Result<(), String> {
    let target = Target::spawn(interpreter, PROGRAM, &[], environment)?;
    let _stands_still = Freeze::new(target.pid() as i32).map_err(|e| e.to_string())?;
    let process = Process::open(target.pid() as i32).map_err(|e| e.to_string())?;
    let writable: Vec<Range<Address>> = process
        .regions()
        .iter()
        .filter(|region| region.readable && region.writable)
        .map(|region| region.start..region.end)
        .collect();
    let Written { runs, zeros } = Written::copy(&process, &writable)?;
    let image = |spoil: &mut Damage<'_>| {
        let (mut buffers, mut placed) = (Vec::new(), Vec::new());
        for (start, bytes) in &runs {
            let mut bytes = bytes.clone();
            let lost = spoil(&mut bytes, *start);
            placed.extend(without(bytes.len(), *start, lost).map(|run| Placed { buffer: buffers.len(), ..run }));
            buffers.push(bytes);
        }
        Image::of_buffers(buffers, placed, zeros.clone(), process.regions().clone())
    };
    let whole = image(&mut |_, _| Vec::new());
    let memory = Above { image: &whole, below: &process, writable: &writable };
    let clean_attached = attach(&memory, target.pid()).map_err(|e| e.to_string())?;
    let clean = read(&memory, &clean_attached, u64::MAX, target.pid())?;
    if clean.objects < 5000 || clean.references < 5000 {
        return Err(format!("the undamaged memory already reads as {clean:?}"));
    }
    common::tool::say(&format!("  undamaged: {clean:?}"));
    // Damage hides malloc's counts, by which the search for its mapped chunks ends early.
    let is_of_libc = |start: Address| {
        let path = process.regions().find(start).and_then(|region| region.path());
        path.and_then(Path::file_name).is_some_and(|name| name.to_string_lossy().starts_with("libc"))
    };
    let without_counts = image(&mut |bytes, start| {
        let words =
            bytes.chunks_exact_mut(4).filter(|word| is_of_libc(start) && **word == LIMIT_OF_COUNTS.to_le_bytes());
        words.for_each(|word| word.copy_from_slice(&[0; 4]));
        Vec::new()
    });
    let memory = Above { image: &without_counts, below: &process, writable: &writable };
    let whole_search = read(&memory, &clean_attached, u64::MAX, target.pid())?.read;
    for &(kind, spoil, every) in KINDS {
        let (mut attached, mut problems, mut most) = (0, 0, 0);
        for seed in 0..SEEDS {
            let mut random = fastrand::Rng::with_seed(seed);
            let spoiled = image(&mut |bytes, start| {
                // Runs may be shorter than the distance: then some of them are spoiled.
                let times = (bytes.len() + random.usize(..every)) / every;
                let mut at = || random.usize(..bytes.len().max(1));
                let places: Vec<usize> = (0..times).map(|_| at()).collect();
                places.into_iter().filter_map(|at| spoil(bytes, start, at, &mut random)).collect()
            });
            let memory = Above { image: &spoiled, below: &process, writable: &writable };
            // What a proof of the spoiled memory says is one matter, what is read with the right layout another.
            attached += u64::from(attach(&memory, target.pid()).is_ok());
            let reading = read(&memory, &clean_attached, whole_search * BUDGET, target.pid())
                .map_err(|error| format!("{kind}, seed {seed}: {error}"))?;
            problems += reading.problems;
            most = most.max(reading.read);
        }
        if problems == 0 && every <= 4 << 10 {
            return Err(format!("{kind}: nothing was counted as a problem in {SEEDS} readings"));
        }
        let share = most as f64 / whole_search as f64;
        common::tool::say(&format!(
            "  {kind}: {attached} of {SEEDS} proved, {problems} problems counted, at most {share:.2} times the bytes read"
        ));
    }
    Ok(())
}

/// Writable memory: what was ever written to, and the ranges that were not and read as zeros. A build without the lock
/// reserves a gigabyte, nearly all of it of the second kind.
struct Written {
    runs: Vec<(Address, Vec<u8>)>,
    zeros: Vec<Range<Address>>,
}

impl Written {
    fn copy(process: &Process, writable: &[Range<Address>]) -> Result<Written, String> {
        let copied = copy_ranges(process, writable).map_err(|e| e.to_string())?.image;
        let mut written = Written { runs: Vec::new(), zeros: Vec::new() };
        for range in writable {
            let mut from = range.start;
            for run in process.resident(range.clone()).into_iter().chain([range.end..range.end]) {
                if from < run.start {
                    written.zeros.push(from..run.start);
                }
                from = run.end;
                let mut bytes = vec![0; (run.end.0 - run.start.0) as usize];
                if !bytes.is_empty() && copied.read_exact_at(run.start, &mut bytes).is_ok() {
                    written.runs.push((run.start, bytes));
                }
            }
        }
        Ok(written)
    }
}

/// The runs of a buffer between the pages that it loses.
fn without(length: usize, start: Address, mut lost: Vec<usize>) -> impl Iterator<Item = Placed> {
    lost.sort_unstable();
    lost.push(length);
    let mut from = 0;
    lost.into_iter().filter_map(move |page| {
        let first = from;
        from = first.max(page + PAGE);
        (page > first).then(|| Placed { start: start.offset(first), length: page - first, buffer: 0, offset: first })
    })
}

/// Spoiled memory above the read-only memory of the process: what was copied and then lost is lost.
struct Above<'a> {
    image: &'a Image,
    below: &'a Process,
    writable: &'a [Range<Address>],
}

impl Memory for Above<'_> {
    fn read_exact_at(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        let end = address.0.saturating_add(buffer.len() as u64);
        if self.writable.iter().any(|range| range.start.0 < end && address < range.end) {
            return self.image.read_exact_at(address, buffer);
        }
        self.below.read_exact_at(address, buffer)
    }

    fn regions(&self) -> &RegionMap {
        self.below.regions()
    }

    fn resident(&self, range: Range<Address>) -> Vec<Range<Address>> {
        self.below.resident(range)
    }
}

fn attach(memory: &Above<'_>, pid: u32) -> Result<Attached, AttachError> {
    Attached::new(memory, &|cached, elf| ElfFile::open(pid as i32, cached, elf).ok())
}

/// A census and the references of all that it found. Gone in the middle is one thing that it may end with; more reads
/// than the budget, or a sum that does not add up, are errors.
fn read(memory: &Above<'_>, clean: &Attached, budget: u64, pid: u32) -> Result<Reading, String> {
    let memory = Budgeted::new(memory, budget);
    let mut reading = Reading::default();
    let result = census(&memory, clean, &mut reading);
    reading.read = memory.read();
    match result {
        _ if reading.read > budget => Err(format!("process {pid}: more than {budget} bytes were read: {reading:?}")),
        Ok(()) => Ok(reading),
        Err(ProofError::Read(ReadError::Gone | ReadError::Denied)) => {
            Err(format!("process {pid}: gone, though nothing was: {reading:?}"))
        }
        // That the spoiled memory has no types or no heap is a fair answer.
        Err(error) => {
            log::debug!("{error}");
            reading.problems += 1;
            Ok(reading)
        }
    }
}

fn census<M: Memory + Sync>(memory: &M, clean: &Attached, reading: &mut Reading) -> Result<(), ProofError> {
    let survey = clean.survey(memory)?;
    let types = clean.types(memory, &survey)?;
    let python = &clean.python;
    let progress = Progress::default();
    let (tallies, outcome) = survey.checked_census(memory, python, &types, &progress, || Tally::new(types.len()))?;
    let histogram = Histogram::new(&types, &tallies, SortKey::Bytes);
    let sum: u64 = histogram.rows.iter().map(|row| row.amount.objects).sum();
    assert_eq!((sum, sum), (histogram.total.objects, outcome.counts.objects), "the sums add up");
    reading.objects = sum;
    reading.problems = problems(&outcome) + survey.arenas.rejected + types.rejected;
    if python.layout.object.ob_ref_shared.is_some() {
        reading.references = u64::MAX;
        return Ok(());
    }
    let (found, _) = survey.census(memory, python, &types, &progress, Vec::<Object>::new)?;
    let references = References::new(memory, python, &types, survey.plan.total_bytes());
    let reads = references.reads();
    for object in found.iter().flatten() {
        references.for_each(&reads, object.address, object.type_id, &mut |_, _| reading.references += 1);
    }
    reading.problems += reads.torn();
    Ok(())
}

fn problems(outcome: &Outcome) -> u64 {
    let counts = &outcome.counts;
    let lists = outcome.lists.map_or(0, |lists| lists.broken_lists + lists.only_listed + lists.only_in_blocks);
    counts.torn_pools + counts.torn_objects + counts.implausible_blocks + counts.unreadable_bytes + lists
}
