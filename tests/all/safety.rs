//! Tests that no file is damaged, no data disclosed, and nothing left running or behind, however the tool ends.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use tempfile::TempDir;

use crate::case::{TestCase, cases};
use crate::common;
use crate::common::interpreters::{self, Interpreter};
use crate::common::target::Target;
use crate::common::tool::{self, Run, finish, heapsonde};
use crate::common::{DEADLINE, skipped};

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let mut cases = cases![
        a_planted_link_is_neither_followed_nor_replaced,
        what_is_written_is_ours_alone,
        pipes_and_descriptors_are_written_as_they_are,
        a_full_disk_is_an_error_and_leaves_nothing,
        what_sudo_writes_belongs_to_its_caller,
        signals_leave_no_file_and_no_process,
        a_program_ends_with_all_its_descendants,
        under_sudo_a_program_runs_as_its_caller,
        every_verb_takes_a_closed_pipe_for_success,
        too_little_address_space_is_refused_with_the_figure,
    ];
    let each = interpreters::find_and_say().into_iter().flat_map(|interpreter| {
        let other = interpreter.clone();
        let (hidden, odd) = (format!("hidden::{}", interpreter.name), format!("odd_names::{}", interpreter.name));
        [
            TestCase::new(hidden, move || names_that_are_data_are_hidden(&interpreter)),
            TestCase::new(odd, move || documents_are_well_formed(&other)),
        ]
    });
    cases.extend(each);
    cases
}

fn small(test: &str) -> Option<Target> {
    let Some(interpreter) = interpreters::any() else {
        skipped(test, "no interpreter found");
        return None;
    };
    Some(Target::spawn(&interpreter, common::SMALL, &[], &[]).expect("a small target starts"))
}

fn run(args: &[&str]) -> Run {
    tool::run(args).expect("the tool starts and ends")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("it is a folder");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("it can be listed").file_name();
    let mut names: Vec<String> = entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn a_planted_link_is_neither_followed_nor_replaced() {
    let Some(target) = small("planted links") else { return };
    let (folder, pid) = (TempDir::new().expect("a folder"), target.pid().to_string());
    let (out, precious) = (folder.path().join("out"), folder.path().join("precious"));
    fs::write(&precious, "precious").expect("it can be written");
    // At the name itself: to a file, to nothing, to a folder.
    for to in [precious.clone(), folder.path().join("nowhere"), folder.path().to_owned()] {
        symlink(&to, &out).expect("links can be made");
        for verb in ["histo", "dump", "flamegraph"] {
            let refused = run(&[verb, &pid, "-o", text(&out)]);
            assert_eq!(refused.status.code(), Some(2), "{verb}: {}", refused.stderr);
            assert!(refused.stderr.contains("--force"), "{}", refused.stderr);
        }
        run(&["histo", &pid, "-o", text(&out), "--force"]).ok().expect("it is replaced");
        assert!(!out.is_symlink() && out.is_file(), "the link itself is replaced");
        fs::remove_file(&out).expect("it is there");
        assert_eq!(names(folder.path()), ["precious"]);
        assert_eq!(fs::read_to_string(&precious).expect("it is there"), "precious");
    }
    // At names that depend on the tool's number, which can be guessed.
    let last: u32 = fs::read_to_string("/proc/loadavg")
        .expect("Linux says which number was last")
        .split_whitespace()
        .last()
        .and_then(|pid| pid.parse().ok())
        .expect("a number");
    let planted: Vec<PathBuf> = (last..last + 300).map(|pid| folder.path().join(format!("out.{pid}.part"))).collect();
    planted.iter().for_each(|link| symlink(&precious, link).expect("links can be made"));
    run(&["histo", &pid, "-o", text(&out)]).ok().expect("it is written");
    assert_eq!(fs::read_to_string(&precious).expect("it is there"), "precious");
    assert!(fs::read_to_string(&out).expect("it is there").contains("#objects"));
    assert!(planted.iter().all(|link| link.is_symlink()));
}

fn what_is_written_is_ours_alone() {
    let Some(target) = small("modes of files") else { return };
    let (folder, pid) = (TempDir::new().expect("a folder"), target.pid().to_string());
    let out = folder.path().join("out");
    run(&["flamegraph", &pid, "-f", "json", "-o", text(&out)]).ok().expect("it is written");
    assert_eq!(fs::metadata(&out).expect("it is there").permissions().mode() & 0o7777, 0o600);
    // Refused before the work: a folder that takes nothing, and before anything is started.
    let missing = folder.path().join("no/such/folder");
    let started = folder.path().join("started");
    let program = format!("open({:?}, 'w')", text(&started));
    let interpreter = interpreters::any().expect("the target was made with it");
    let mut command = heapsonde(&["histo", "-o", text(&missing), "--"]);
    command.args(&interpreter.command).args(["-c", &program]);
    let refused = finish(command).expect("it ends");
    assert!(refused.status.code() == Some(2) && refused.stderr.contains("cannot write"), "{}", refused.stderr);
    assert!(!started.exists(), "the program was started");
    assert_eq!(names(folder.path()), ["out"]);
}

fn pipes_and_descriptors_are_written_as_they_are() {
    let Some(target) = small("pipes") else { return };
    let (folder, pid) = (TempDir::new().expect("a folder"), target.pid().to_string());
    for name in ["/dev/stdout", "/dev/fd/1", "-"] {
        let run = run(&["histo", &pid, "-o", name]).ok().expect(name);
        assert!(run.text().contains("#objects"), "{name}: {}", run.text());
    }
    // Behind a descriptor may be a file: what is in it stays.
    let kept = folder.path().join("kept");
    fs::write(&kept, "before\n").expect("it can be written");
    let file = fs::File::options().append(true).open(&kept).expect("it is there");
    let mut command = heapsonde(&["histo", &pid, "-o", "/dev/stdout"]);
    assert!(command.stdout(file).stderr(Stdio::null()).status().expect("it starts").success());
    let written = fs::read_to_string(&kept).expect("it is there");
    assert!(written.starts_with("before\n") && written.contains("#objects"), "{written}");
    let pipe = folder.path().join("pipe");
    mkfifo(&pipe, Mode::S_IRWXU).expect("pipes can be made");
    let reader = {
        let pipe = pipe.clone();
        thread::spawn(move || fs::read_to_string(pipe).expect("a pipe can be read"))
    };
    run(&["histo", &pid, "-o", text(&pipe)]).ok().expect("a pipe is written");
    assert!(reader.join().expect("it does not panic").contains("#objects"));
    assert!(fs::metadata(&pipe).expect("it is there").file_type().is_fifo());
    run(&["histo", &pid, "-o", "/dev/null"]).ok().expect("a device is written");
}

#[expect(unsafe_code, reason = "what runs between fork and exec")]
fn a_full_disk_is_an_error_and_leaves_nothing() {
    use std::os::unix::process::CommandExt;
    let Some(target) = small("full disks") else { return };
    let (folder, pid) = (TempDir::new().expect("a folder"), target.pid().to_string());
    let out = folder.path().join("out");
    let mut command = heapsonde(&["dump", &pid, "-o", text(&out)]);
    // SAFETY: one system call, which is async-signal-safe.
    unsafe {
        use nix::sys::resource::{Resource, setrlimit};
        command.pre_exec(|| setrlimit(Resource::RLIMIT_FSIZE, 8192, 8192).map_err(std::io::Error::from));
    }
    let refused = finish(command).expect("it ends");
    assert_eq!(refused.status.code(), Some(2), "{}: {}", refused.status, refused.stderr);
    assert!(refused.stderr.contains("cannot write"), "{}", refused.stderr);
    assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).expect("a folder");
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "none", text(&disk)]).output();
    if !mount.is_ok_and(|output| output.status.success()) {
        return skipped("a small tmpfs", "it cannot be mounted");
    }
    let refused = run(&["dump", &pid, "-o", text(&disk.join("out"))]);
    let left = names(&disk);
    let unmounted = Command::new("umount").arg(&disk).status().expect("umount starts");
    assert!(unmounted.success());
    assert_eq!(refused.status.code(), Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("cannot write") && left.is_empty(), "{left:?}: {}", refused.stderr);
}

/// Somebody without an account.
const CALLER: &str = "54321";

fn what_sudo_writes_belongs_to_its_caller() {
    if !common::is_root() {
        return skipped("files under sudo", "we are not root");
    }
    let Some(target) = small("files under sudo") else { return };
    let (folder, pid) = (TempDir::new().expect("a folder"), target.pid().to_string());
    let out = folder.path().join("out");
    for force in [&[][..], &["--force"][..]] {
        let mut command = heapsonde(&["histo", &pid, "-o", text(&out)]);
        command.args(force).env("SUDO_UID", CALLER).env("SUDO_GID", CALLER);
        finish(command).and_then(Run::ok).expect("it is written");
        let metadata = fs::metadata(&out).expect("it is there");
        assert_eq!((metadata.uid().to_string(), metadata.gid().to_string()), (CALLER.to_owned(), CALLER.to_owned()));
    }
}

/// Starts descendants of each kind, says all numbers on stderr, and stands: a child, one in a session of its own, one
/// whose parents have ended, and one of these that has no environment.
const FAMILY: &str = r"
import os, sys, time
def stand():
    time.sleep(1000)
def start(*steps):
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        for step in steps: step()
        os.write(w, b'%d\n' % os.getpid())
        stand()
    return int(os.read(r, 20))
def orphan():
    if os.fork(): os._exit(0)
def bare():
    r, w = os.pipe()
    os.set_inheritable(w, True)
    os.execve(sys.executable, [sys.executable, '-c', 'import os, time; time.sleep(1000)'], {})
family = [os.getpid(), start(), start(os.setsid), start(os.setsid, orphan), start(orphan)]
keep = [[i] for i in range(5000)]
sys.stderr.write('user %d %d\n' % (os.getuid(), os.getgid()))
sys.stderr.write('family %s\n' % ' '.join(map(str, family))); sys.stderr.flush()
time.sleep(1000)
";

/// Runs a verb on the family; what it says of its users, and the members.
fn start_family(arguments: &[&str], environment: &[(&str, &str)]) -> Option<(Child, String, Vec<Pid>)> {
    let interpreter = interpreters::any()?;
    let mut command = heapsonde(arguments);
    command.arg("--").args(&interpreter.command).args(["-c", FAMILY]).envs(environment.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the tool starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
    let user = lines.find_map(|line| line.strip_prefix("user ").map(str::to_owned)).expect("it says who it is");
    let family = lines.find_map(|line| line.strip_prefix("family ").map(str::to_owned)).expect("it names its family");
    // The pipe is read on, or the tool would wait for it.
    thread::spawn(move || lines.for_each(drop));
    let pids = family.split(' ').map(|pid| Pid::from_raw(pid.parse().expect("a number"))).collect();
    Some((child, user, pids))
}

/// Waits until none of these is there any more.
fn assert_gone(pids: &[Pid], why: &str) {
    let end = Instant::now() + Duration::from_secs(10);
    let is_there = |pid: &&Pid| {
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        state.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
    };
    while let Some(pid) = pids.iter().find(is_there) {
        assert!(Instant::now() < end, "{why}: process {pid} lives on");
        thread::yield_now();
    }
}

fn wait(child: &mut Child) -> std::process::ExitStatus {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait().expect("it is ours") {
            return status;
        }
        assert!(Instant::now() < end, "the tool does not end");
        thread::yield_now();
    }
}

fn a_program_ends_with_all_its_descendants() {
    let folder = TempDir::new().expect("a folder");
    let out = folder.path().join("out");
    // At its end; after an error, since nothing fits into this device; and after a recording.
    let runs: [(&[&str], &Path, i32); 3] = [
        (&["histo"], &out, 0),
        (&["dump"], Path::new("/dev/full"), 2),
        (&["record", "-d", "1", "-f", "json", "--force"], &out, 0),
    ];
    for (arguments, out, code) in runs {
        let arguments = [arguments, &["-o", text(out)]].concat();
        let Some((mut child, _, family)) = start_family(&arguments, &[]) else {
            return skipped("descendants", "no interpreter found");
        };
        assert_eq!(wait(&mut child).code(), Some(code), "{arguments:?}");
        assert_gone(&family, &format!("{arguments:?}"));
    }
}

fn signals_leave_no_file_and_no_process() {
    let mut rng = fastrand::Rng::with_seed(7);
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        for verb in ["dump", "record"] {
            let folder = TempDir::new().expect("a folder");
            let out = folder.path().join("out");
            let started = start_family(&[verb, "-o", text(&out)], &[]);
            let Some((mut child, _, family)) = started else { return skipped("signals", "no interpreter found") };
            // An instant at random: so many turns of the scheduler.
            for _ in 0..rng.u32(..2000) {
                thread::yield_now();
            }
            kill(Pid::from_raw(child.id() as i32), signal).expect("it is ours");
            wait(&mut child);
            assert_gone(&family, &format!("{verb}, {signal}"));
            let left = names(folder.path());
            assert!(left.is_empty() || left == ["out"], "{verb}, {signal}: {left:?}");
        }
    }
}

fn under_sudo_a_program_runs_as_its_caller() {
    if !common::is_root() {
        return skipped("programs under sudo", "we are not root");
    }
    let caller = [("SUDO_UID", CALLER), ("SUDO_GID", CALLER)];
    for (arguments, user) in [(&["histo"][..], "54321 54321"), (&["histo", "--as-root"][..], "0 0")] {
        let readable = interpreters::any().is_some_and(|interpreter| interpreter.command[0].starts_with("/usr"));
        if user != "0 0" && !readable {
            skipped("programs under sudo", "the interpreter is not for everybody");
            continue;
        }
        let Some((mut child, said, family)) = start_family(arguments, &caller) else {
            return skipped("programs under sudo", "no interpreter found");
        };
        assert_eq!(said, user, "{arguments:?}");
        assert!(wait(&mut child).success());
        assert_gone(&family, "under sudo");
    }
}

fn every_verb_takes_a_closed_pipe_for_success() {
    let Some(target) = small("closed pipes") else { return };
    let pid = target.pid().to_string();
    let verbs: [&[&str]; 9] = [
        &["completions", "bash"],
        &["histo", &pid],
        &["histo", "--json", &pid],
        &["ps"],
        &["doctor", &pid],
        &["dump", &pid],
        &["why", &pid, "dict"],
        &["flamegraph", "-f", "folded", &pid],
        &["record", "-d", "0.5", "-f", "json", &pid],
    ];
    for verb in verbs {
        let (reader, writer) = std::io::pipe().expect("pipes can be made");
        drop(reader);
        let mut command = heapsonde(verb);
        let output = command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()).output().expect("it starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !stderr.contains("a bug in"), "{verb:?}: {}: {stderr}", output.status);
        // A closed stderr is no reason to fail, either.
        let (reader, writer) = std::io::pipe().expect("pipes can be made");
        drop(reader);
        let status = heapsonde(verb).stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer).status();
        assert!(status.expect("it starts").success(), "{verb:?} with a closed stderr");
    }
}

#[expect(unsafe_code, reason = "what runs between fork and exec")]
fn too_little_address_space_is_refused_with_the_figure() {
    use std::os::unix::process::CommandExt;
    const PROGRAM: &str = "import os; keep = [[i] for i in range(3_000_000)]; os.write(1, b'ready %d\\n' % os.getpid()); \
                           os.read(0, 1)";
    let Some(interpreter) = interpreters::any() else { return skipped("RLIMIT_AS", "no interpreter found") };
    let target = Target::spawn(&interpreter, PROGRAM, &[], &[]).expect("it starts");
    let mut command = heapsonde(&["why", &target.pid().to_string(), "dict"]);
    // SAFETY: one system call, which is async-signal-safe.
    unsafe {
        use nix::sys::resource::{Resource, setrlimit};
        command.pre_exec(|| setrlimit(Resource::RLIMIT_AS, 300 << 20, 300 << 20).map_err(std::io::Error::from));
    }
    let refused = finish(command).expect("it ends");
    assert_eq!(refused.status.code(), Some(2), "{}: {}", refused.status, refused.stderr);
    assert!(refused.stderr.contains("MiB") && refused.stderr.contains("may be used"), "{}", refused.stderr);
}

/// What is put together at run time is in no constant of the program.
const SECRET: &str = "alice smith@example.com";

/// Names of each kind that are data, beside such that are not.
const NAMES: &str = r"
import contextvars, os, sys, threading, types
class Held: pass
class Holder: pass
def many(): return [Held() for _ in range(200)]
secret = ' '.join(['alice', 'smith']) + '@example.com'
holder = Holder()
setattr(holder, secret, many())
holder.by_key = {secret: many(), 'orders': many(), ''.join(['or', 'der', 's of 1']): many()}
made = {''.join(['inv', 'oices']): many()}
def look_up(): return made['invoices']
variable = contextvars.ContextVar(''.join(['my', ' variable']))
by_variable = {''.join(['my', ' vari', 'able']): many()}
module = types.ModuleType(secret); module.held = many(); sys.modules[secret] = module
def stands(lock, ready):
    mine = many()
    ready.release()
    lock.acquire()
code = stands.__code__.replace(co_name=secret)
if hasattr(code, 'co_qualname'): code = code.replace(co_qualname=secret)
stands.__code__ = code
lock, ready = threading.Lock(), threading.Lock()
lock.acquire(); ready.acquire()
threading.Thread(target=stands, args=(lock, ready), name=secret, daemon=True).start()
threading.Thread(target=lock.acquire, name='Worker-1', daemon=True).start()
ready.acquire()
os.write(1, b'ready %d\n' % os.getpid())
os.read(0, 1)
";

fn names_that_are_data_are_hidden(interpreter: &Interpreter) -> Result<(), String> {
    // Until 3.7 code could not be replaced; the hashes of keys are what tells.
    let target = Target::spawn(interpreter, NAMES, &[SECRET], &[])?;
    let pid = target.pid().to_string();
    let verbs: [&[&str]; 6] = [
        &["why", &pid, "Held", "-n", "100"],
        &["why", "--json", &pid, "Held", "-n", "100"],
        &["flamegraph", "-f", "folded", &pid],
        &["flamegraph", "-f", "json", &pid],
        &["dump", "--references", "--labels", &pid],
        &["histo", "--by", "holder", "--json", &pid],
    ];
    for verb in verbs {
        let said = tool::run(verb)?.ok()?.text();
        if said.contains("alice") || said.contains("orders of 1") {
            let line = said.lines().find(|line| line.contains("alice") || line.contains("orders of 1"));
            return Err(format!("{verb:?} shows {line:?}"));
        }
    }
    // What programs were told is for eyes alone.
    let out = TempDir::new().map_err(|e| e.to_string())?;
    let file = out.path().join("out");
    tool::run(&["doctor", &pid, "-o", text(&file)])?.ok()?;
    let kept = fs::read_to_string(&file).map_err(|e| e.to_string())?;
    for said in [kept, tool::run(&["doctor", "--json", &pid])?.ok()?.text()] {
        // Behind a loader the program is the loader, and its script the interpreter.
        let is_cut = interpreter.kind == "loader" || said.contains(" -c …");
        if said.contains("alice") || !is_cut {
            return Err(format!("doctor says {said}"));
        }
    }
    let said = tool::run(&["doctor", &pid])?.ok()?.text();
    if !said.contains(SECRET) {
        return Err(format!("doctor hides the command line: {said}"));
    }
    let said = tool::run(verbs[0])?.ok()?.text();
    let shown = [
        "holder.__dict__['…']",
        "holder.by_key['…']",
        "holder.by_key['orders']",
        "made['invoices']",
        "by_variable['my variable']",
        "sys.modules['…'].held",
        "…() at ",
    ];
    if let Some(missing) = shown.iter().find(|shown| !said.contains(**shown)) {
        return Err(format!("{missing} is missing in {said}"));
    }
    // Chains of a shape are told by what they have in common; in JSON by one of them, too.
    let said = tool::run(&["why", "--json", &pid, "Held", "-n", "100", "--show-values"])?.ok()?.text();
    let shown = [
        "holder.__dict__['alice smith@example.com']".to_owned(),
        // Two keys have one shape; which of them is the example depends on where they lie.
        match said.contains("holder.by_key['orders of 1']") {
            true => "holder.by_key['orders of 1']".to_owned(),
            false => "holder.by_key['alice smith@example.com']".to_owned(),
        },
        format!("{SECRET}.held"),
        format!("{SECRET}() at "),
    ];
    match shown.iter().find(|shown| !said.contains(*shown)) {
        Some(missing) => Err(format!("--show-values does not show {missing}: {said}")),
        None => Ok(()),
    }
}

/// Types, attributes and functions under names that break terminals, lines, XML and JSON.
const ODD: &str = r"
import os, threading
odd = [chr(0xfffe), chr(0xffff), chr(0x1ffff), chr(0xd800), chr(0x202e) + 'x', chr(0x2066), chr(0x200f), chr(0x61c),
       chr(0x2028), chr(0x2029), chr(0x9b) + '31m', chr(27) + '[2J', 'a\nb 9', 'a;b',
       '<script>', ']]>', '&amp;', '\'', '\x22',
       '-->', chr(0x7f), chr(0xfdd0)]
kept = []
for name in odd:
    made = type('T', (), {})
    made.__qualname__ = 'T' + name
    made.__module__ = 'm' + name
    one = made()
    setattr(one, 'a' + name, [[1] for _ in range(300)])
    kept.append([one] + [made() for _ in range(300)])
    globals()['g' + name] = [[2] for _ in range(300)]
os.write(1, b'ready %d\n' % os.getpid())
os.read(0, 1)
";

/// Characters that must not reach a terminal, nor a document as they are.
fn is_unsafe(char: char) -> bool {
    char != '\n' && char.is_control()
        || matches!(u32::from(char), 0x61c | 0x200e..=0x200f | 0x2028..=0x202e | 0x2066..=0x2069)
        || u32::from(char) & 0xfffe == 0xfffe
}

fn documents_are_well_formed(interpreter: &Interpreter) -> Result<(), String> {
    let target = Target::spawn(interpreter, ODD, &[], &[])?;
    let pid = target.pid().to_string();
    let folder = TempDir::new().map_err(|e| e.to_string())?;
    let verbs: [&[&str]; 11] = [
        &["histo", &pid],
        &["histo", "--json", &pid],
        &["why", &pid, "list", "-n", "100", "--show-values"],
        &["why", "--json", &pid, "list", "-n", "100", "--show-values"],
        &["flamegraph", "-f", "folded", "--show-values", &pid],
        &["flamegraph", "-f", "json", "--show-values", &pid],
        &["flamegraph", "-f", "svg", "--show-values", "-o", "-", &pid],
        &["flamegraph", "-f", "svg", "--view", "types", "-o", "-", &pid],
        &["dump", &pid],
        &["dump", "--references", "--labels", "--show-values", &pid],
        &["ps", "--json"],
    ];
    for verb in verbs {
        let run = tool::run(verb)?.ok()?;
        let said = String::from_utf8(run.stdout).map_err(|e| format!("{verb:?}: {e}"))?;
        if let Some(char) = said.chars().chain(run.stderr.chars()).find(|&char| is_unsafe(char)) {
            return Err(format!("{verb:?} says {char:?}"));
        }
        if verb.contains(&"svg") {
            let path = folder.path().join("drawn.svg");
            fs::write(&path, &said).map_err(|e| e.to_string())?;
            let check = "import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])";
            let output =
                Command::new("python3").args(["-c", check, text(&path)]).output().map_err(|e| e.to_string())?;
            if !output.status.success() {
                return Err(format!("{verb:?}: {}", String::from_utf8_lossy(&output.stderr)));
            }
        } else if verb.contains(&"json") || verb.contains(&"--json") {
            serde_json::from_str::<serde_json::Value>(&said).map_err(|e| format!("{verb:?}: {e}"))?;
        } else if verb[0] == "dump" {
            for line in said.lines() {
                serde_json::from_str::<serde_json::Value>(line).map_err(|e| format!("{verb:?}: {e}: {line}"))?;
            }
        }
    }
    Ok(())
}
