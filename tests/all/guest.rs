//! Tests the effect on the target: reading changes nothing in a process and its family, stops nothing for longer than
//! allowed, and takes time and memory in proportion to resident, not mapped, memory.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use heapsonde::process::ReadError;
use heapsonde::process::live::Process;
use heapsonde::process::memory::Memory;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use crate::case::{TestCase, cases};
use crate::common::DEADLINE;
use crate::common::interpreters::{self, Interpreter};
use crate::common::skipped;
use crate::common::target::Target;
use crate::common::tool::{self, Run};

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let mut cases = cases![
        a_family_is_the_same_before_and_after_every_verb,
        a_heap_of_holes_costs_what_is_resident,
        a_thread_that_cannot_stop_is_not_waited_for,
        one_that_becomes_another_program_is_gone,
        one_whose_first_thread_has_exited_is_read,
        a_huge_mapping_costs_what_was_touched,
        many_mappings_take_as_long_as_few,
        many_mappings_take_as_much_memory_as_few,
        many_mappings_take_no_read_each,
        what_is_resident_of_many_mappings_is_as_the_kernel_counts_it,
        verbs_that_stop_a_process_say_for_how_long,
    ];
    for threads in [2000, 8000] {
        let case = TestCase::new(format!("the_longest_stop_is_as_allowed/{threads}"), move || {
            the_longest_stop_is_as_allowed(threads)
        });
        cases.push(case.ignored_if(threads > 2000));
    }
    cases
}

/// A parent and three children that share its heap. Each waits for its input's end, and touches nothing meanwhile.
const FAMILY: &str = r"
import gc, os
data = [{'number': i, 'text': 'x%d' % i} for i in range(40000)]
gc.collect()
gc.freeze()
gc.disable()
reader, writer = os.pipe()
settled, settle = os.pipe()
children = []
for _ in range(3):
    child = os.fork()
    if child == 0:
        os.close(writer)
        # What a child writes to is its own from then on: it has done so before it is looked at.
        os.write(settle, b'x')
        os.read(reader, 1)
        os._exit(0)
    children.append(child)
for _ in children:
    os.read(settled, 1)
os.write(1, b'ready %d\n' % os.getpid())
os.write(1, b'%s\n' % ' '.join(map(str, children)).encode())
os.read(0, 1)
";

/// Memory of malloc's that was used and given back but for a little in each 64 KiB, so that the heap is large and has
/// few pages.
const HOLES: &str = r"
import ctypes, os, sys
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
large = []
for _ in range(int(sys.argv[1]) << 4):
    large.append(libc.malloc(65000))
    libc.malloc(24)
for block in large:
    libc.free(block)
libc.malloc_trim(0)
class Held: pass
held = Held()
os.write(1, b'ready %d\n' % os.getpid())
os.read(0, 1)
";

/// A mapping of so many GiB, of which one page is touched.
const SPARSE: &str = r"
import ctypes, os, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
PRIVATE_ANONYMOUS_NORESERVE = 0x4022
size = int(sys.argv[1]) << 30
if size:
    address = libc.mmap(None, size, 3, PRIVATE_ANONYMOUS_NORESERVE, -1, 0)
    assert address != ctypes.c_void_p(-1).value
    ctypes.memset(address + size // 2, 1, 4096)
class Held: pass
held = Held()
os.write(1, b'ready %d\n' % os.getpid())
os.read(0, 1)
";

/// So many pages, of which every second one is touched: in mappings of a page each, which differ in what may be done
/// with them, or in one. Beside them 8 MiB that are shared.
const MAPPINGS: &str = r"
import ctypes, os, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
PAGE, PRIVATE_ANONYMOUS, READ, READ_WRITE, FAILED = 4096, 0x22, 1, 3, 2 ** 64 - 1
pages = int(sys.argv[2])
SHARED, SHARED_ANONYMOUS = 8 << 20, 0x21
ctypes.memset(libc.mmap(None, SHARED, READ_WRITE, SHARED_ANONYMOUS, -1, 0), 1, SHARED)
if sys.argv[1] == 'many':
    for page in range(pages):
        start = libc.mmap(None, PAGE, READ_WRITE if page % 2 else READ, PRIVATE_ANONYMOUS, -1, 0)
        assert start != FAILED
        if page % 2: ctypes.memset(start, 1, 8)
else:
    start = libc.mmap(None, pages * PAGE, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0)
    for page in range(1, pages, 2): ctypes.memset(start + page * PAGE, 1, 8)
class Held: pass
held = Held()
os.write(1, b'ready %d\n' % os.getpid())
os.read(0, 1)
";

/// So many threads that wait, objects, and a thread that looks at the clock: at each byte it says what its longest step
/// was since the last one.
const CLOCK: &str = r"
import os, sys, threading, time
threading.stack_size(128 << 10)
wait = threading.Event()
class Held: pass
held = Held()
heap = [[number] for number in range(int(sys.argv[2]))]
for _ in range(int(sys.argv[1])): threading.Thread(target=wait.wait, daemon=True).start()
longest = 0
def watch():
    global longest
    last = time.monotonic()
    while True:
        time.sleep(.001)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
threading.Thread(target=watch, daemon=True).start()
os.write(1, b'ready %d\n' % os.getpid())
while os.read(0, 1):
    os.write(1, b'%f\n' % longest)
    longest = 0
";

/// Starts a program while its own child is not done with the preparations: the starting thread waits in the kernel, and
/// nothing can interrupt it. Another one waits for input.
const VFORK: &str = r"
import os, sys, threading
class Held: pass
held = Held()
threading.Thread(target=os.read, args=(0, 1), daemon=True).start()
os.write(1, b'ready %d\n' % os.getpid())
opens = [(os.POSIX_SPAWN_OPEN, 5, sys.argv[1], os.O_RDONLY, 0)]
os.posix_spawn('/bin/true', ['true'], {}, file_actions=opens)
os.read(0, 1)
";

/// Becomes another program of the same kind at each line.
const EXEC: &str = r"
import os, sys
os.write(1, b'ready %d\n' % os.getpid())
if os.read(0, 1):
    os.execv(sys.executable, [sys.executable, '-c', sys.argv[1], sys.argv[1]])
";

/// Its first thread exits by itself, and Python runs on in another.
const NO_LEADER: &str = r"
import ctypes, os, threading, time
class Held: pass
held = [Held() for _ in range(7)]
def work():
    path = '/proc/%d/stat' % os.getpid()
    while open(path).read().rsplit(')', 1)[1].split()[0] != 'Z':
        pass
    os.write(1, b'ready %d\n' % os.getpid())
    os.read(0, 1)
threading.Thread(target=work).start()
EXIT = 60
ctypes.CDLL(None).syscall(EXIT, 0)
";

fn run(args: &[&str]) -> Run {
    tool::run(args).expect("the tool starts and ends").ok().expect("it succeeds")
}

/// One interpreter that is linked to glibc, and has `fork`; a visible skip where there is none.
fn one(what: &str) -> Option<Interpreter> {
    let is_plain = |i: &Interpreter| i.command.len() == 1 && i.kind == "default";
    let found = interpreters::find().interpreters.into_iter().find(is_plain);
    if found.is_none() {
        skipped(what, "no such interpreter here");
    }
    found
}

/// What the kernel counts for a process, in KiB: nothing of it may grow.
#[derive(Clone, Debug, PartialEq)]
struct Footprint {
    pid: u32,
    /// Shares of anonymous pages; pages of its own; resident pages; tables of pages.
    figures: [(&'static str, u64); 4],
}

impl Footprint {
    /// Whether any figure is larger afterwards. The kernel may take back pages of files at any time.
    fn has_grown_to(&self, after: &Footprint) -> bool {
        self.figures.iter().zip(&after.figures).any(|((_, before), (_, after))| after > before)
    }
}

fn footprint(pid: u32) -> Option<Footprint> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |text: &str, name: &'static str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some((name, line.trim().trim_end_matches("kB").trim().parse().ok()?))
    };
    let figures = [
        field(&rollup, "Pss_Anon")?,
        field(&rollup, "Private_Dirty")?,
        field(&rollup, "Rss")?,
        field(&status, "VmPTE")?,
    ];
    Some(Footprint { pid, figures })
}

fn a_family_is_the_same_before_and_after_every_verb() {
    let Some(interpreter) = one("a family that shares its heap") else { return };
    let mut parent = Target::spawn(&interpreter, FAMILY, &[], &[]).expect("it starts");
    let children: Vec<u32> =
        parent.read_line().expect("it names its children").split(' ').map(|pid| pid.parse().expect("a PID")).collect();
    let family: Vec<u32> = std::iter::once(parent.pid()).chain(children.iter().copied()).collect();
    let look = || family.iter().map(|&pid| footprint(pid)).collect::<Option<Vec<Footprint>>>();
    let folder = TempDir::new().expect("a temporary folder");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (root, child) = (parent.pid().to_string(), children[1].to_string());
    let (svg, json, rates) = (file("x.svg"), file("x.ndjson"), file("y.svg"));
    let verbs: [&[&str]; 10] = [
        &["ps"],
        &["doctor", &child],
        &["histo", &child],
        &["histo", "--pause", &child],
        &["histo", &child, "--sample"],
        &["histo", "-s", &root],
        &["why", &child, "dict"],
        &["flamegraph", "-o", &svg, &child],
        &["dump", "-o", &json, &child],
        &["record", "-d", "1", "-o", &rates, &child],
    ];
    let Some(mut before) = look() else { return skipped("the footprint of a family", "no smaps_rollup here") };
    for verb in verbs {
        run(verb);
        let after = look().expect("they are all there");
        for (before, after) in before.iter().zip(&after) {
            assert!(!before.has_grown_to(after), "{verb:?}: {before:?} became {after:?}");
        }
        before = after;
    }
}

/// The most memory that a run of the tool with `-v` says it had.
fn peak_mib(run: &Run) -> f64 {
    let said = run.stderr.rsplit("took at most ").next().and_then(|rest| rest.split(" bytes of memory").next());
    let bytes: f64 = said.and_then(|said| said.parse().ok()).expect("-v says how much memory it took");
    bytes / f64::from(1 << 20)
}

fn a_heap_of_holes_costs_what_is_resident() {
    let Some(interpreter) = one("a heap of holes") else { return };
    let peaks = ["0", "2048"].map(|mib| {
        let target = Target::spawn(&interpreter, HOLES, &[mib], &[]).expect("it starts");
        let before = footprint(target.pid());
        let run = run(&["-v", "why", &target.pid().to_string(), "Held"]);
        assert!(run.text().contains("Held"), "{}", run.text());
        let after = footprint(target.pid());
        let grew = before.iter().zip(&after).any(|(before, after)| before.has_grown_to(after));
        assert!(!grew && after.is_some() == before.is_some(), "{before:?} became {after:?}");
        let resident = before.map_or(0, |before| before.figures[2].1 / 1024);
        (peak_mib(&run), resident as f64)
    });
    let [(plain, plain_resident), (holes, holes_resident)] = peaks;
    // A copy of what is resident, and as much again for tables of it.
    let allowed = plain + 2.0 * (holes_resident - plain_resident);
    assert!(holes <= allowed, "{holes} MiB for {holes_resident} MiB; {plain} MiB for {plain_resident} MiB");
}

fn a_huge_mapping_costs_what_was_touched() {
    let Some(interpreter) = one("a mapping of 16 TiB") else { return };
    let (mut times, mut peaks) = (Vec::new(), Vec::new());
    for gib in ["0", "16384"] {
        let Ok(target) = Target::spawn(&interpreter, SPARSE, &[gib], &[]) else {
            return skipped("a mapping of 16 TiB", "this machine gives no such address space");
        };
        let pid = target.pid().to_string();
        times.push([&["histo", &pid][..], &["memory", &pid]].map(ticks));
        peaks.push([&["-v", "why", &pid, "Held"][..], &["-v", "memory", &pid]].map(|verb| peak_mib(&run(verb))));
    }
    for verb in 0..2 {
        assert!(times[1][verb] <= times[0][verb] * 3, "{times:?} hundredths of a second");
        assert!(peaks[1][verb] <= peaks[0][verb] * 1.5, "{peaks:?} MiB");
    }
}

/// A target with so many mappings, and one with the same memory in few.
fn many_and_few() -> Option<(Target, Target)> {
    let interpreter = one("60,000 mappings")?;
    let start = |how: &str| Target::spawn(&interpreter, MAPPINGS, &[how, "60000"], &[]);
    let few = start("few").expect("it starts");
    match start("many") {
        Ok(many) => Some((many, few)),
        Err(_) => {
            skipped("60,000 mappings", "this machine gives fewer (max_map_count)");
            None
        }
    }
}

fn many_mappings_take_as_long_as_few() {
    let Some((many, few)) = many_and_few() else { return };
    let (many, few) = (many.pid().to_string(), few.pid().to_string());
    // What the kernel takes to tell of so many mappings, which it does several times over, is not ours.
    let of_text = ticks_of(&["cat", &format!("/proc/{many}/smaps")]);
    for verb in [&["histo"][..], &["why", "Held"], &["memory"]] {
        let with = |pid| [&verb[..1], &[pid], &verb[1..]].concat();
        let (least, time) = (ticks(&with(&few)), ticks(&with(&many)));
        assert!(time <= least * 3 + of_text, "{verb:?}: {time} for many, {least} for few, {of_text} for their text");
    }
}

/// Pages that may begin a chunk of malloc are read one by one, but not where malloc counts no further chunk.
fn many_mappings_take_no_read_each() {
    const WHAT: &str = "reads of 60,000 mappings";
    // Since 2.43 the counts agree with the chunks only until one is freed.
    let minor = tool::finish(command(&["getconf", "GNU_LIBC_VERSION"]))
        .ok()
        .and_then(|run| run.text().trim().strip_prefix("glibc 2.").and_then(|minor| minor.parse::<u32>().ok()));
    if minor.is_none_or(|minor| minor > 42) {
        return skipped(WHAT, "malloc is not glibc's, or of 2.43 or later");
    }
    if !Path::new("/proc/self/io").exists() {
        return skipped(WHAT, "the kernel does not count reads");
    }
    let Some((many, few)) = many_and_few() else { return };
    let ordinary = Target::spawn(&one(WHAT).expect("there is one"), MAPPINGS, &["few", "60"], &[]).expect("it starts");
    let reads = |target: &Target| reads_of(&[&tool::binary(), "histo", &target.pid().to_string()]);
    let (of_many, of_few, least) = (reads(&many), reads(&few), reads(&ordinary));
    let of_text = reads_of(&["cat", &format!("/proc/{}/maps", many.pid())]);
    assert!(of_few <= 2 * least, "{of_few} reads of pages in one mapping, {least} of an ordinary target");
    // The text of the mappings is read when the process is opened, and again when it is surveyed.
    assert!(
        of_many <= 2 * least + 3 * of_text,
        "{of_many} reads, {least} of an ordinary target, {of_text} of the text"
    );
}

fn what_is_resident_of_many_mappings_is_as_the_kernel_counts_it() {
    let Some((many, few)) = many_and_few() else { return };
    for target in [many, few] {
        let Some(kernels) = footprint(target.pid()) else { return skipped("RSS", "no smaps_rollup here") };
        let report = run(&["histo", "--json", &target.pid().to_string()]).json().expect("a document");
        let line = &report["reading"]["memory"];
        assert_eq!(line["rss"].as_u64(), Some(kernels.figures[2].1 << 10), "{line}");
        assert_eq!(line["shared"], 8 << 20, "{line}");
        // Beside shared memory and files there is what was touched, and the interpreter's own.
        let touched = 60000 / 2 * 4096;
        assert!(
            line["native"].as_u64().is_some_and(|native| (touched..touched + (16 << 20)).contains(&native)),
            "{line}"
        );
    }
}

fn many_mappings_take_as_much_memory_as_few() {
    let Some((many, few)) = many_and_few() else { return };
    let (many, few) = (many.pid().to_string(), few.pid().to_string());
    // A mapping takes some hundred bytes of ours, and its text, 700 bytes, is not kept.
    for verb in [&["-v", "why", &many, "Held"][..], &["-v", "memory", &many]] {
        let of_few: Vec<&str> = verb.iter().map(|&word| if word == many { &few } else { word }).collect();
        let (peak, least) = (peak_mib(&run(verb)), peak_mib(&run(&of_few)));
        assert!(peak <= least + 48.0, "{verb:?}: {peak} MiB, and {least} MiB for few mappings");
    }
}

/// The processor's time that a run of the tool takes, in the kernel and in itself, in hundredths of a second: other
/// programs of this machine do not count.
fn ticks(args: &[&str]) -> u64 {
    ticks_of(&[&[tool::binary().as_str()], args].concat())
}

/// The read system calls of a program.
fn reads_of(program: &[&str]) -> u64 {
    let io = told_by_shell("io", program);
    io.lines().find_map(|line| line.strip_prefix("syscr: ")?.parse().ok()).expect("a count")
}

/// A file of `/proc` of a shell that ran a program: it tells what children took, too.
fn told_by_shell(file: &str, program: &[&str]) -> String {
    let script = format!("\"$@\" > /dev/null && while read -r line; do echo \"$line\"; done < /proc/$$/{file}");
    let shell = command(&[&["sh", "-c", &script, "sh"], program].concat());
    tool::finish(shell).expect("it ends").ok().expect("it succeeds").text()
}

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

fn ticks_of(program: &[&str]) -> u64 {
    let stat = told_by_shell("stat", program);
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    let tick = |index: usize| fields[index].parse::<u64>().expect("a number");
    tick(13) + tick(14)
}

/// The longest step of the clock while a verb reads a process, in seconds, and the run.
fn longest_step(clock: &mut Target, verb: &[&str]) -> Result<(f64, Run), String> {
    clock.write(b"x")?;
    clock.read_line()?;
    let run = run(verb);
    clock.write(b"x")?;
    Ok((clock.read_line()?.parse().map_err(|e| format!("{e}"))?, run))
}

/// The longest pause that a verb tells of, in seconds.
fn told_pause(run: &Run) -> Option<f64> {
    let told = run.text() + &run.stderr;
    let pauses = told.match_indices("paused for ").filter_map(|(at, words)| {
        let mut words = told[at + words.len()..].split(|char: char| char.is_whitespace() || ",;)".contains(char));
        let number: f64 = words.next()?.parse().ok()?;
        let unit = words.next()?;
        let units = [("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)];
        units.into_iter().find(|(name, _)| *name == unit).map(|(_, seconds)| number * seconds)
    });
    pauses.reduce(f64::max)
}

/// What is told is how long the process stood: it is measured by a thread of its own.
fn verbs_that_stop_a_process_say_for_how_long() {
    const ALLOWED: f64 = 0.5;
    let Some(interpreter) = one("verbs that stop a process") else { return };
    let mut target = Target::spawn(&interpreter, CLOCK, &["3", "300000"], &[]).expect("it starts");
    let folder = TempDir::new().expect("a temporary folder");
    let (pid, out) = (target.pid().to_string(), folder.path().join("out").display().to_string());
    let verbs: [&[&str]; 9] = [
        &["histo", "--pause", &pid],
        &["histo", "--pause", "--sample", &pid],
        &["histo", "--pause", "--retained", &pid],
        &["why", "--pause", &pid, "Held"],
        &["flamegraph", "--pause", "--force", "-o", &out, &pid],
        &["flamegraph", "--pause", "--view", "types", "--force", "-o", &out, &pid],
        &["dump", "--pause", "--force", "-o", &out, &pid],
        &["dump", "--pause", "--references", "--force", "-o", &out, &pid],
        &["memory", "--pause", &pid],
    ];
    for verb in verbs {
        // How long the thread waits for a processor while it is read, and not stopped.
        let running: Vec<&str> =
            verb.iter().map(|&word| if word == "--pause" { "--nonblocking" } else { word }).collect();
        let (unstopped, _) = longest_step(&mut target, &running).expect("it answers");
        let (stopped, run) = longest_step(&mut target, verb).expect("it answers");
        let told = told_pause(&run).unwrap_or_else(|| panic!("{verb:?}: {}{}", run.text(), run.stderr));
        assert!(
            stopped <= told + 2.0 * unstopped && told <= ALLOWED,
            "{verb:?}: {stopped} s, and {told} s are told; {unstopped} s without a stop"
        );
    }
}

/// The longest stop as a thread of the process sees it, on this machine and with what else runs there.
fn the_longest_stop_is_as_allowed(threads: u32) -> Result<(), String> {
    const ALLOWED: f64 = 0.5;
    let Some(interpreter) = one("a process with thousands of threads") else { return Ok(()) };
    let mut target = Target::spawn(&interpreter, CLOCK, &[&threads.to_string(), "0"], &[])?;
    let pid = target.pid().to_string();
    let folder = TempDir::new().map_err(|e| e.to_string())?;
    let out = folder.path().join("out").display().to_string();
    let verbs: [&[&str]; 4] = [
        &["why", &pid, "Held"],
        &["flamegraph", "--view", "owners", "--force", "-o", &out, &pid],
        &["memory", &pid],
        &["dump", "--references", "--force", "-o", &out, &pid],
    ];
    for verb in verbs {
        let (unstopped, _) = longest_step(&mut target, &[verb, &["--nonblocking"]].concat())?;
        let (stopped, _) = longest_step(&mut target, verb)?;
        if stopped > ALLOWED + 2.0 * unstopped {
            return Err(format!("{verb:?}: {stopped} s, and {unstopped} s without a stop"));
        }
    }
    Ok(())
}

fn a_thread_that_cannot_stop_is_not_waited_for() {
    let Some(interpreter) = one("a thread that cannot stop") else { return };
    let folder = TempDir::new().expect("a temporary folder");
    let pipe = folder.path().join("pipe");
    mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR).expect("a temporary folder takes pipes");
    let target = Target::spawn(&interpreter, VFORK, &[&pipe.display().to_string()], &[]).expect("it starts");
    let states = || -> Vec<(char, i32)> {
        let threads = fs::read_dir(format!("/proc/{}/task", target.pid())).expect("it is there").flatten();
        let status = threads.filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
        let field = |status: &str, name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name).map(|rest| rest.trim().to_owned()));
            line.unwrap_or_default()
        };
        status
            .map(|status| {
                let tracer = field(&status, "TracerPid:").parse().unwrap_or(-1);
                (field(&status, "State:").chars().next().unwrap_or('?'), tracer)
            })
            .collect()
    };
    let end = Instant::now() + DEADLINE;
    while !states().iter().any(|&(state, _)| state == 'D') {
        assert!(Instant::now() < end, "it does not wait in the kernel: {:?}", states());
        std::thread::yield_now();
    }
    let pid = target.pid().to_string();
    for options in [&["why", "--max-pause", "100ms", &pid, "Held"][..], &["histo", "-n", "1000", "--pause", &pid]] {
        let run = run(options);
        assert!(run.stderr.contains("did not stop within"), "{}", run.stderr);
        assert!(run.stderr.contains("it was read while it ran"), "{}", run.stderr);
        assert!(run.text().contains("Held"), "{}", run.text());
        let states = states();
        assert!(states.iter().all(|&(state, tracer)| matches!(state, 'S' | 'D' | 'R') && tracer == 0), "{states:?}");
    }
    // The child goes on when its pipe is opened.
    drop(fs::File::options().write(true).open(&pipe));
}

fn one_that_becomes_another_program_is_gone() {
    let Some(interpreter) = one("a program that executes another") else { return };
    let mut target = Target::spawn(&interpreter, EXEC, &[EXEC], &[]).expect("it starts");
    let process = Process::open(target.pid() as i32).expect("it may be read");
    let region = process.regions().iter().find(|region| region.writable && region.readable).expect("it has data");
    let (start, mut word) = (region.start, [0; 8]);
    process.read_exact_at(start, &mut word).expect("it is there");
    assert!(process.is_alive());
    target.write(b"x").expect("it listens");
    assert!(target.read_line().expect("the next one is ready").starts_with("ready "));
    assert!(!process.is_alive());
    let absent = process.regions().iter().filter(|region| region.readable).map(|region| region.start);
    for address in absent.chain([start]) {
        let read = process.read_exact_at(address, &mut word);
        assert!(matches!(read, Ok(()) | Err(ReadError::Gone)), "{address}: {read:?}");
    }
    assert!(matches!(process.read_exact_at(start, &mut word), Err(ReadError::Gone)));
}

fn one_whose_first_thread_has_exited_is_read() {
    let Some(interpreter) = one("a process whose first thread has exited") else { return };
    let target = Target::spawn(&interpreter, NO_LEADER, &[], &[]).expect("it starts");
    let stat = fs::read_to_string(format!("/proc/{}/stat", target.pid())).expect("it is there");
    assert!(stat.contains(") Z "), "{stat}");
    let pid = target.pid().to_string();
    for pause in [&[][..], &["--pause"]] {
        let run = run(&[&["histo", "-n", "1000", &pid], pause].concat());
        let row = run.text().lines().find(|line| line.ends_with("__main__.Held")).map(str::to_owned);
        assert!(row.is_some_and(|row| row.split_whitespace().any(|word| word == "7")), "{}", run.text());
    }
    // What the kernel counts is that of its other threads.
    let memory = run(&["histo", "--json", &pid]).json().expect("a document")["reading"]["memory"].clone();
    assert!(memory["rss"].as_u64().is_some_and(|rss| rss > 1 << 20), "{memory}");
    run(&["memory", &pid]);
    let listed = run(&["ps"]).text();
    assert!(listed.lines().any(|line| line.trim_start().starts_with(&format!("{pid} "))), "{listed}");
    assert!(run(&["doctor", &pid]).text().starts_with(&format!("Process {pid}: {}", interpreter.command[0])));
    assert!(Path::new(&format!("/proc/{pid}")).exists());
}
