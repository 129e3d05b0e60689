//! Ends the tool at random instants of each verb that stops a process or writes a file: the process is never left
//! stopped or traced, and no file is left but a whole one under its name.
//!
//! A few at each landing; 200 kills and 60 signals with `--ignored`. `HEAPSONDE_SEED` repeats the instants of a run.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::case::TestCase;
use crate::common::interpreters;
use crate::common::skipped;
use crate::common::target::Target;
use crate::common::tool::heapsonde;

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let case = |name: &str, kills: usize, signals: usize| {
        TestCase::new(format!("{name}/{kills} kills, {signals} signals"), move || ended_at_random(kills, signals))
    };
    vec![case("few", 14, 7), case("many", 200, 60).ignored_if(true)]
}

/// Some objects, in two threads; it answers a line with a line, which proves that it runs.
const PROGRAM: &str = r"
import os, threading
class Held:
    def __init__(self, i): self.i = [i, str(i)]
held = [Held(i) for i in range(20000)]
lock = threading.Lock()
lock.acquire()
threading.Thread(target=lock.acquire, daemon=True).start()
os.write(1, b'ready %d\n' % os.getpid())
while os.read(0, 1): os.write(1, b'runs\n')
";

/// Verbs that stop the process or write a file, and whether they write one, which `OUT` stands for.
const VERBS: [&[&str]; 8] = [
    &["histo", "--pause", "PID"],
    &["why", "PID", "Held"],
    &["memory", "--pause", "PID"],
    &["flamegraph", "-o", "OUT", "PID"],
    &["dump", "--references", "-o", "OUT", "PID"],
    &["dump", "-f", "heapsnapshot", "-o", "OUT", "PID"],
    &["snapshot", "-o", "OUT", "PID"],
    &["record", "-d", "0.4", "-o", "OUT", "PID"],
];

/// How a file of each verb begins and ends when it is whole.
fn is_whole(verb: &str, bytes: &[u8]) -> bool {
    let (start, end): (&[u8], &[u8]) = match verb {
        "flamegraph" | "record" => (b"<?xml", b"</svg>"),
        "snapshot" => (b"PAR1", b"PAR1"),
        // A line of JSON for each object, or one document.
        _ => (b"{", b"}"),
    };
    bytes.starts_with(start) && bytes.trim_ascii_end().ends_with(end)
}

fn start(verb: &[&str], pid: u32, out: &Path) -> Child {
    let (pid, out) = (pid.to_string(), out.display().to_string());
    let words: Vec<&str> = verb
        .iter()
        .map(|word| match *word {
            "PID" => &pid,
            "OUT" => &out,
            word => word,
        })
        .collect();
    let mut command = heapsonde(&words);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().expect("the tool starts")
}

/// Waits for its end: how it ended, and what it said.
fn end(mut child: Child) -> (ExitStatus, String) {
    let mut said = String::new();
    let _ = child.stderr.take().expect("piped").read_to_string(&mut said);
    (child.wait().expect("it is ours"), said)
}

/// Threads of a process that are stopped or traced.
fn held_threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it is there").flatten();
    let status = tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    let is_held = |text: &String| {
        text.lines().any(|line| line.starts_with("State:\tT") || line.starts_with("State:\tt"))
            || !text.lines().any(|line| line == "TracerPid:\t0")
    };
    status.filter(is_held).collect()
}

fn ended_at_random(kills: usize, signals: usize) -> Result<(), String> {
    let Some(interpreter) = interpreters::any() else {
        skipped("endings at random", "no interpreter found");
        return Ok(());
    };
    let seed = std::env::var("HEAPSONDE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..1 << 32));
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut target = Target::spawn(&interpreter, PROGRAM, &[], &[])?;
    let folder = TempDir::new().map_err(|e| e.to_string())?;
    let out = folder.path().join("out");
    // How long each takes here, when nothing ends it.
    let mut lengths = Vec::new();
    for verb in VERBS {
        let began = Instant::now();
        let (status, said) = end(start(verb, target.pid(), &out));
        lengths.push(began.elapsed());
        if !status.success() || verb.contains(&"OUT") && !is_whole(verb[0], &fs::read(&out).unwrap_or_default()) {
            return Err(format!("{verb:?} by itself: {status}: {said}"));
        }
        let _ = fs::remove_file(&out);
    }
    // Their mixture is drawn, so that each run of a few has others.
    let ending = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
    let mut all: Vec<Signal> = vec![Signal::SIGKILL; kills];
    all.extend((0..signals).map(|number| ending[number % ending.len()]));
    rng.shuffle(&mut all);
    let mut hit = 0;
    for (number, signal) in all.into_iter().enumerate() {
        let index = (number + seed as usize) % VERBS.len();
        let (verb, at) = (VERBS[index], lengths[index].mul_f64(rng.f64()));
        let why = || format!("seed {seed}, {number}: {signal} to {verb:?} after {at:?}");
        let child = start(verb, target.pid(), &out);
        until(Instant::now() + at);
        kill(Pid::from_raw(child.id() as i32), signal).expect("it is ours and not reaped");
        let (status, said) = end(child);
        hit += usize::from(!status.success());
        if !(status.success() || status_signal(status) == Some(signal as i32)) || said.contains("a bug in") {
            return Err(format!("{}: {status}: {said}", why()));
        }
        let held = held_threads(target.pid());
        if !held.is_empty() {
            return Err(format!("{}: {held:?}", why()));
        }
        target.write(b"x").and_then(|()| target.read_line()).map_err(|e| format!("{}: {e}", why()))?;
        let left: Vec<_> = fs::read_dir(folder.path()).map_err(|e| e.to_string())?.flatten().collect();
        for entry in left {
            if entry.file_name() != "out" || !is_whole(verb[0], &fs::read(&out).unwrap_or_default()) {
                return Err(format!("{}: {:?} is left", why(), entry.path()));
            }
            fs::remove_file(&out).map_err(|e| e.to_string())?;
        }
    }
    // Otherwise it says nothing: the instants would all be after the end.
    match hit * 2 >= kills {
        true => Ok(()),
        false => Err(format!("seed {seed}: of {kills} kills and {signals} signals only {hit} met a run")),
    }
}

fn status_signal(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

/// Lets others run until then: instants are what is drawn here.
fn until(instant: Instant) {
    while let Some(left) = instant.checked_duration_since(Instant::now()).filter(|left| *left > Duration::ZERO) {
        match left > Duration::from_millis(2) {
            true => std::thread::park_timeout(left - Duration::from_millis(1)),
            false => std::thread::yield_now(),
        }
    }
}
