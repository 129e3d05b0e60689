//! Tests the command line: refusals and their messages, what a command leaves behind, the format of each output.
//!
//! Refusals end with exit code 2, an empty stdout and one sentence on stderr. A test of a verb that this build does not
//! have is skipped with a message.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;

use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::case::{TestCase, cases};
use crate::common;
use crate::common::interpreters;
use crate::common::target::Target;
use crate::common::tool::{self, Run, finish, has_verb, heapsonde};
use crate::common::{DEADLINE, copy_program, skipped};

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let mut cases = cases![
        refusals_name_the_next_command,
        a_process_that_does_not_exist_is_refused,
        garbage_among_the_arguments_is_refused,
        help_and_version_are_printed_to_stdout,
        a_process_that_is_not_python_is_refused,
        a_zombie_is_refused,
        a_python_that_is_not_read_is_refused_by_its_version,
        a_process_of_somebody_else_is_refused_with_advice,
        a_stopped_process_is_read_and_stays_stopped,
        a_paused_process_runs_on,
        an_output_that_cannot_be_written_is_refused,
        an_output_that_exists_is_kept_without_force,
        a_closed_pipe_is_success,
        a_command_ends_with_us_unless_it_is_kept,
        a_command_that_is_no_python_is_refused,
        the_histogram_as_json_keeps_to_its_schema,
        the_top_of_the_histogram_keeps_the_totals_of_all,
        a_histogram_by_module_sums_its_types,
        folded_stacks_are_deterministic_and_add_up,
        the_flame_graph_is_deterministic_and_well_formed,
        the_checker_of_xml_finds_what_is_wrong,
        colours_and_bars_stay_on_terminals,
    ];
    let slow = TestCase::of("a_command_that_starts_no_python_is_refused", a_command_that_starts_no_python_is_refused);
    cases.push(slow.ignored_if(true));
    cases
}

/// A target, or a visible skip where no interpreter is here or the tool lacks a verb.
fn small(test: &str, verbs: &[&str]) -> Option<Target> {
    if let Some(missing) = verbs.iter().find(|verb| !has_verb(verb)) {
        skipped(test, &format!("this heapsonde has no `{missing}`"));
        return None;
    }
    let Some(interpreter) = interpreters::any() else {
        skipped(test, "no interpreter found");
        return None;
    };
    Some(Target::spawn(&interpreter, common::SMALL, &[], &[]).expect("a small target starts"))
}

fn run(args: &[&str]) -> Run {
    tool::run(args).expect("the tool starts and ends")
}

/// Runs what must be refused.
#[track_caller]
fn refused(args: &[&str], says: &[&str]) -> Run {
    judge_refusal(run(args), &format!("{args:?}"), says)
}

#[track_caller]
fn judge_refusal(run: Run, what: &str, says: &[&str]) -> Run {
    let stderr = run.stderr.to_lowercase();
    assert_eq!(run.status.code(), Some(2), "{what}: {stderr}");
    assert!(run.stdout.is_empty(), "{what} writes {:?}", run.text());
    assert!(stderr.split_whitespace().count() >= 3, "{what} says only {stderr:?}");
    assert!(!stderr.contains("panicked") && !stderr.contains("backtrace"), "{what}: {stderr}");
    let answers = says.is_empty() || says.iter().any(|word| stderr.contains(&word.to_lowercase()));
    assert!(answers, "{what} says nothing of {says:?}: {stderr}");
    run
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// Verbs that take a target and exist.
fn verbs() -> Vec<&'static str> {
    ["histo", "dump", "flamegraph"].into_iter().filter(|verb| has_verb(verb)).collect()
}

/// Each refusal is a sentence of one line and the command to try next; no other verb says less.
fn refusals_name_the_next_command() {
    let zombie = Command::new("true").spawn().expect("true starts");
    let id = Id::Pid(Pid::from_raw(zombie.id() as i32));
    waitid(id, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).expect("it ends, and stays a zombie");
    // A process of its own: that of the tests has Pythons below it.
    let folder = TempDir::new().expect("a temporary folder");
    let other = Target::start(Command::new(sleeper(&folder, 64))).expect("it starts");
    for pid in ["2147483647".to_owned(), zombie.id().to_string(), other.pid().to_string()] {
        for verb in verbs() {
            let run = refused(&[verb, &pid], &[]);
            let lines: Vec<&str> = run.stderr.lines().collect();
            assert_eq!(lines.len(), 2, "{}", run.stderr);
            assert!(lines[0].starts_with("heapsonde: ") && lines[0].contains(&pid), "{}", run.stderr);
            assert_eq!(lines[1], "  try: list the Python processes here: heapsonde ps");
        }
        let doctor = run(&["doctor", "--json", &pid]);
        assert_eq!(doctor.status.code(), Some(2), "{}", doctor.stderr);
        let report = doctor.json().expect("a document");
        assert!(report["readable"] == false && report["problem"].is_string(), "{report}");
        assert_eq!(report["remedy"], "list the Python processes here: heapsonde ps");
    }
    let mut zombie = zombie;
    zombie.wait().expect("it is ours");
}

fn a_process_that_does_not_exist_is_refused() {
    let limit = fs::read_to_string("/proc/sys/kernel/pid_max").expect("Linux has a largest PID");
    for verb in verbs() {
        // The largest PID plus one, and one that no kernel ever gives.
        refused(&[verb, limit.trim()], &["no such process", "no process", "does not exist", "not running"]);
        refused(&[verb, "2147483647"], &["no such process", "no process", "does not exist", "not running"]);
    }
}

fn garbage_among_the_arguments_is_refused() {
    let wrong: &[&[&str]] = &[
        &["frobnicate"],
        &["--no-such-option"],
        &["histo"],
        &["histo", "abc"],
        &["histo", "-1"],
        &["histo", "0"],
        &["histo", "99999999999999999999"],
        &["histo", "1", "2"],
        &["histo", "1", "-n", "many"],
        &["histo", "1", "--by", "colour"],
        &["flamegraph", "1", "-f", "bmp"],
        &["dump", "1", "-f", "bmp"],
        &["histo", "--pid", "1", "1"],
        &["histo", "--"],
        &["histo", "/no/such/snapshot"],
    ];
    let is_missing = |verb: &str| ["histo", "dump", "flamegraph"].contains(&verb) && !has_verb(verb);
    wrong.iter().filter(|args| !is_missing(args[0])).for_each(|args| drop(refused(args, &[])));
}

fn help_and_version_are_printed_to_stdout() {
    for args in [&["--help"][..], &["--version"], &["histo", "--help"]] {
        let run = run(args);
        assert!(run.status.success() && !run.stdout.is_empty() && run.stderr.is_empty(), "{args:?}: {}", run.stderr);
    }
}

/// An executable of one segment that sleeps for ever: made here, byte by byte, so no compiler is needed.
fn sleeper(folder: &TempDir, bits: u32) -> std::path::PathBuf {
    let base: u32 = 0x40_0000;
    let mut elf = vec![0x7F, b'E', b'L', b'F', if bits == 64 { 2 } else { 1 }, 1, 1];
    elf.resize(16, 0);
    elf.extend([2, 0, if bits == 64 { 62 } else { 3 }, 0, 1, 0, 0, 0]); // ET_EXEC; x86-64 or 386; version 1
    let word = |n: u32| if bits == 64 { u64::from(n).to_le_bytes().to_vec() } else { n.to_le_bytes().to_vec() };
    let (header, program_header): (u32, u32) = if bits == 64 { (64, 56) } else { (52, 32) };
    elf.extend([word(base + header + program_header), word(header), word(0)].concat()); // entry, phoff, shoff
    elf.extend([0, 0, 0, 0, header as u8, 0, program_header as u8, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    let size = header + program_header + 16;
    let flags = 5_u32.to_le_bytes(); // readable, executable
    elf.extend(1_u32.to_le_bytes()); // PT_LOAD
    if bits == 64 {
        elf.extend(flags);
        elf.extend([word(0), word(base), word(base), word(size), word(size), word(0x1000)].concat());
        elf.extend([0xB8, 34, 0, 0, 0, 0x0F, 0x05, 0xEB, 0xF7]); // again: mov eax, 34 (pause); syscall; jmp again
    } else {
        elf.extend([word(0), word(base), word(base), word(size), word(size)].concat());
        elf.extend(flags);
        elf.extend(word(0x1000));
        elf.extend([0xB8, 29, 0, 0, 0, 0xCD, 0x80, 0xEB, 0xF7]); // again: mov eax, 29 (pause); int 0x80; jmp again
    }
    elf.resize(size as usize, 0);
    let path = folder.path().join(format!("sleeper{bits}"));
    let written = folder.path().join("written");
    fs::write(&written, elf).expect("a temporary folder takes files");
    copy_program(&written, &path);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    path
}

fn a_process_that_is_not_python_is_refused() {
    let folder = TempDir::new().expect("a temporary folder");
    for bits in [64, 32] {
        match Target::start(Command::new(sleeper(&folder, bits))) {
            Ok(target) => {
                for verb in verbs() {
                    refused(&[verb, &target.pid().to_string()], &["python", "32-bit"]);
                }
            }
            Err(why) => skipped(&format!("a program of {bits} bits"), &why),
        }
    }
    let mut sleep = Command::new("sleep");
    sleep.arg("1000");
    let target = Target::start(sleep).expect("sleep starts");
    for verb in verbs() {
        refused(&[verb, &target.pid().to_string()], &["python"]);
        refused(&[verb, &std::process::id().to_string()], &["python"]);
    }
}

fn a_zombie_is_refused() {
    let mut child = Command::new("true").spawn().expect("true starts");
    let id = Id::Pid(Pid::from_raw(child.id() as i32));
    waitid(id, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).expect("it ends, and stays a zombie");
    for verb in verbs() {
        refused(&[verb, &child.id().to_string()], &["zombie", "exited", "ended", "no longer"]);
    }
    child.wait().expect("it is ours");
}

fn a_python_that_is_not_read_is_refused_by_its_version() {
    let blocked = "import os, sys; os.write(1, ('ready %d\\n' % os.getpid()).encode()); os.read(0, 1)";
    let old = interpreters::too_old();
    if old.is_empty() {
        skipped("versions that are too old", "none found");
    }
    for (version, path) in old {
        let mut command = Command::new(path);
        command.args(["-c", blocked]);
        let mut target = Target::start(command).expect("an old interpreter starts");
        target.read_line().expect("an old interpreter says ready");
        let minor = version.rsplit_once('.').map_or(version.as_str(), |(minor, _)| minor);
        for verb in verbs() {
            refused(&[verb, &target.pid().to_string()], &[minor, "not supported", "not cpython"]);
        }
    }
    let mut pypy = Command::new("pypy3");
    pypy.args(["-c", blocked]);
    match Target::start(pypy) {
        Ok(mut target) => {
            target.read_line().expect("PyPy says ready");
            for verb in verbs() {
                refused(&[verb, &target.pid().to_string()], &["pypy", "not cpython"]);
            }
        }
        Err(why) => skipped("PyPy", &why),
    }
}

fn a_process_of_somebody_else_is_refused_with_advice() {
    let Some(target) = small("permissions", &["histo"]) else { return };
    // Nobody's own copy: the folder that cargo builds into may be closed to others.
    let folder = TempDir::new().expect("a temporary folder");
    let copy = folder.path().join("heapsonde");
    copy_program(tool::binary(), &copy);
    for path in [folder.path(), &copy] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("they are ours");
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy)
        .args(["histo", &target.pid().to_string()]);
    match fs::metadata("/proc/self").expect("proc is mounted").uid() == 0 {
        true => {
            let run = finish(command).expect("setpriv starts");
            judge_refusal(run, "another user", &["permission", "sudo", "not permitted", "root"]);
        }
        false => skipped("permissions", "only root can become somebody else"),
    }
}

fn a_stopped_process_is_read_and_stays_stopped() {
    let Some(target) = small("a stopped process", &["histo"]) else { return };
    target.signal(Signal::SIGSTOP);
    let id = Id::Pid(Pid::from_raw(target.pid() as i32));
    waitid(id, WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT).expect("it stops");
    for pause in [&[][..], &["--pause"]] {
        let pid = target.pid().to_string();
        let run = run(&[&["histo", "--json", &pid], pause].concat());
        assert!(run.status.success(), "{}", run.stderr);
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
        let state = stat.rsplit_once(')').expect("stat has a name").1.trim_start().chars().next();
        assert_eq!(state, Some('T'), "after {pause:?}");
    }
}

fn a_paused_process_runs_on() {
    let Some(mut target) = small("--pause", &["histo"]) else { return };
    let run = run(&["histo", "--pause", &target.pid().to_string()]);
    assert!(run.status.success(), "{}", run.stderr);
    assert!(run.stderr.to_lowercase().contains("paused") || run.text().to_lowercase().contains("paused"));
    target.write(b"\n").expect("it still reads");
    assert!(target.read_line().is_err(), "it went on and ended");
}

fn an_output_that_cannot_be_written_is_refused() {
    for verb in verbs() {
        let Some(target) = small("unwritable output", &[verb]) else { return };
        let pid = target.pid().to_string();
        refused(&[verb, &pid, "-o", "/no/such/folder/out"], &["/no/such/folder"]);
        refused(&[verb, &pid, "-o", "/"], &["/"]);
    }
}

fn an_output_that_exists_is_kept_without_force() {
    for verb in verbs() {
        let Some(target) = small("an existing output", &[verb]) else { return };
        let (pid, folder) = (target.pid().to_string(), TempDir::new().expect("a temporary folder"));
        let path = folder.path().join("precious");
        fs::write(&path, "precious").expect("a temporary folder takes files");
        refused(&[verb, &pid, "-o", text(&path)], &["--force", "exists"]);
        assert_eq!(fs::read_to_string(&path).expect("it is there"), "precious");
        let run = run(&[verb, &pid, "-o", text(&path), "--force"]);
        assert!(run.status.success(), "{}", run.stderr);
        let written = fs::read_to_string(&path).expect("it is there");
        assert!(written.len() > 100 && !written.starts_with("precious"), "{written:?}");
        assert_eq!(fs::read_dir(&folder).expect("it is a folder").count(), 1, "no temporary file stays");
    }
}

fn a_closed_pipe_is_success() {
    let Some(target) = small("a closed pipe", &["dump"]) else { return };
    let mut command = heapsonde(&["dump", "-f", "ndjson", &target.pid().to_string()]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the tool starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("it writes");
    assert!(line.starts_with('{'), "{line:?}");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
}

/// A program that says its PID on stderr, which it shares with the tool, and then stands.
const SAYS_ITS_PID: &str = "import os, sys, signal; sys.stderr.write('child %d\\n' % os.getpid()); sys.stderr.flush(); \
                            os.write(1, b'x') and signal.pause()";

fn a_command_ends_with_us_unless_it_is_kept() {
    let Some(target) = small("-- COMMAND", &["histo"]) else { return };
    drop(target);
    let interpreter = interpreters::any().expect("the target above was made with it");
    for keep in [false, true] {
        let mut command = heapsonde(&["histo", "--json"]);
        command.args(keep.then_some("--keep")).arg("--").args(&interpreter.command).args(["-c", SAYS_ITS_PID]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the tool starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let mut stdout = child.stdout.take().expect("piped");
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            // Where the child lives on, it holds this pipe: its PID tells enough. Else the pipe ends with both.
            let mut said = None;
            while let Some(Ok(line)) = lines.next() {
                said = line.strip_prefix("child ").and_then(|pid| pid.parse::<i32>().ok()).or(said);
                if keep && said.is_some() {
                    break;
                }
            }
            let _ = sender.send((said, lines));
        });
        let output = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stdout.read_to_end(&mut text);
            text
        });
        let status = child.wait().expect("it ends");
        assert!(status.success(), "keep {keep}: {status}");
        let said = receiver.recv_timeout(DEADLINE);
        let (pid, _lines) = said.unwrap_or_else(|_| panic!("keep {keep}: the command lives on, or says nothing"));
        if let (true, Some(pid)) = (keep, pid) {
            let pid = Pid::from_raw(pid);
            nix::sys::signal::kill(pid, None).expect("the command lives on");
            nix::sys::signal::kill(pid, Signal::SIGKILL).expect("it is ours");
        }
        let text = output.join().expect("the reader does not panic");
        assert!(text.windows(15).any(|w| w == b"\"schema_version"), "keep {keep}: {}", String::from_utf8_lossy(&text));
    }
}

fn a_command_that_is_no_python_is_refused() {
    for verb in verbs() {
        refused(&[verb, "--", "/no/such/program"], &["/no/such/program"]);
        refused(&[verb, "--", "true"], &["python", "ended", "exited"]);
    }
}

/// It may start one later, so this takes half a minute. That the limit ends the wait is tested in `inspect`.
fn a_command_that_starts_no_python_is_refused() {
    refused(&["histo", "--", "sleep", "1000"], &["python"]);
}

fn the_histogram_as_json_keeps_to_its_schema() {
    let Some(target) = small("histo --json", &["histo"]) else { return };
    let run = run(&["histo", "--json", "--pause", &target.pid().to_string()]);
    let report = run.json().expect("a document");
    assert_eq!(report["basis"], "exact");
    assert!(report["target"].is_object() && report["problems"].is_object(), "{report}");
    let rows = report["types"].as_array().expect("types");
    let mut before = None;
    for row in rows {
        let (name, module) = (row["name"].as_str().expect("name"), row["module"].as_str().expect("module"));
        assert_eq!(row["type"].as_str().expect("type"), format!("{module}.{name}"));
        assert!(row["objects"].as_u64().expect("objects") > 0);
        let bytes = row["shallow_bytes"].as_u64().expect("shallow_bytes");
        assert!(row.get("retained_bytes").is_some_and(|r| r.is_null() || r.is_u64()), "{row}");
        assert!(before.is_none_or(|before| before >= bytes), "rows are sorted by bytes");
        before = Some(bytes);
    }
    let sum = |key: &str| rows.iter().map(|row| row[key].as_u64().expect("a number")).sum::<u64>();
    assert_eq!(report["totals"]["objects"], Value::from(sum("objects")));
    assert_eq!(report["totals"]["shallow_bytes"], Value::from(sum("shallow_bytes")));
    let count = |name: &str| rows.iter().find(|row| row["type"] == name).map(|row| row["objects"].clone());
    assert_eq!(count("__main__.Node"), Some(1000.into()));
    assert_eq!(count("a;b.semi;colon"), Some(50.into()));
}

fn the_top_of_the_histogram_keeps_the_totals_of_all() {
    let Some(target) = small("histo -n", &["histo"]) else { return };
    let pid = target.pid().to_string();
    let all = run(&["histo", "--json", "--pause", &pid]).json().expect("a document");
    let top = run(&["histo", "--json", "--pause", "-n", "3", &pid]).json().expect("a document");
    assert_eq!(top["types"].as_array().map(Vec::len), Some(3));
    assert_eq!(top["types"].as_array(), all["types"].as_array().map(|rows| rows[..3].to_vec()).as_ref());
    assert_eq!(top["totals"], all["totals"]);
    // As in jmap's table, a row begins with its rank and a colon.
    let ranks = |text: &str| {
        let rank = |line: &&str| line.trim_start().split_once(':').is_some_and(|(rank, _)| rank.parse::<u32>().is_ok());
        text.lines().filter(rank).count()
    };
    let table = run(&["histo", "--pause", "-n", "3", &pid]).text();
    assert_eq!(ranks(&table), 3, "{table}");
    let whole = run(&["histo", "--pause", &pid]).text();
    assert!(whole.contains("__main__.Node") && ranks(&whole) > 3, "{whole}");
}

fn a_histogram_by_module_sums_its_types() {
    let Some(target) = small("histo --by", &["histo"]) else { return };
    let pid = target.pid().to_string();
    let by_type = run(&["histo", "--json", "--pause", &pid]).json().expect("a document");
    let by_module = run(&["histo", "--json", "--pause", "--by", "module", &pid]).json().expect("a document");
    assert_eq!(by_module["totals"], by_type["totals"]);
    let table = run(&["histo", "--pause", "--by", "module", &pid]).text();
    assert!(table.contains("builtins") && table.contains("__main__") && !table.contains("__main__.Node"), "{table}");
}

/// Whether a text is one well-formed element: tags that close what they opened, attributes in quotes.
fn well_formed(xml: &str) -> Result<(), String> {
    let mut open: Vec<&str> = Vec::new();
    let (mut rest, mut roots) = (xml, 0);
    while let Some((before, tag)) = rest.split_once('<') {
        if open.is_empty() && !before.trim().is_empty() {
            return Err(format!("text outside: {before:?}"));
        }
        let skip = |end: &str| tag.split_once(end).map(|(_, rest)| rest);
        if let Some(after) = [("?", "?>"), ("!--", "-->"), ("![CDATA[", "]]>"), ("!DOCTYPE", ">")]
            .iter()
            .find(|(start, _)| tag.starts_with(start))
            .map(|(_, end)| skip(end))
        {
            rest = after.ok_or("an instruction without an end")?;
            continue;
        }
        let (inside, after) = tag.split_once('>').ok_or("a tag without an end")?;
        if inside.matches('"').count() % 2 == 1 {
            return Err(format!("quotes of {inside:?}"));
        }
        let name = inside.trim_matches('/').split_whitespace().next().unwrap_or("");
        if inside.starts_with('/') {
            if open.pop() != Some(name) {
                return Err(format!("</{name}> closes something else"));
            }
        } else if !inside.ends_with('/') {
            roots += usize::from(open.is_empty());
            open.push(name);
        }
        rest = after;
    }
    match open.is_empty() && roots == 1 && rest.trim().is_empty() {
        true => Ok(()),
        false => Err(format!("{roots} roots, open at the end: {open:?}")),
    }
}

fn folded_stacks_are_deterministic_and_add_up() {
    let Some(target) = small("flamegraph -f folded", &["flamegraph", "histo"]) else { return };
    let (pid, folder) = (target.pid().to_string(), TempDir::new().expect("a temporary folder"));
    let totals = run(&["histo", "--json", "--pause", &pid]).json().expect("a document")["totals"].clone();
    for (weight, key) in [("bytes", "shallow_bytes"), ("objects", "objects")] {
        let draw = |name: &str| {
            let path = folder.path().join(format!("{weight}-{name}"));
            let view = [
                "flamegraph",
                "--pause",
                "--view",
                "types",
                "--weight",
                weight,
                "-f",
                "folded",
                &pid,
                "-o",
                text(&path),
            ];
            let run = run(&view);
            assert!(run.status.success(), "{}", run.stderr);
            fs::read_to_string(&path).expect("it was written")
        };
        let (one, two) = (draw("one"), draw("two"));
        assert_eq!(one, two, "the target stood still");
        let mut sum = 0;
        for line in one.lines() {
            let (frames, n) = line.rsplit_once(' ').expect("a line is `a;b;c N`");
            assert!(!frames.is_empty() && frames.split(';').all(|frame| !frame.is_empty()), "{line:?}");
            sum += n.parse::<u64>().expect("a line ends with a number");
        }
        assert_eq!(Value::from(sum), totals[key], "the flame graph shows all that the histogram counts");
        assert!(one.contains("Node") && !one.contains("semi;colon"), "a `;` within a name is escaped");
    }
}

fn the_flame_graph_is_deterministic_and_well_formed() {
    let Some(target) = small("flamegraph", &["flamegraph"]) else { return };
    let (pid, folder) = (target.pid().to_string(), TempDir::new().expect("a temporary folder"));
    let draw = |name: &str| {
        let path = folder.path().join(name);
        let run = run(&["flamegraph", "--pause", "--view", "types", &pid, "-o", text(&path)]);
        assert!(run.status.success() && run.stdout.is_empty(), "{}", run.stderr);
        fs::read_to_string(&path).expect("it was written")
    };
    let (one, two) = (draw("one.svg"), draw("two.svg"));
    assert_eq!(one, two, "the target stood still");
    well_formed(&one).expect("an SVG is XML");
    assert!(one.contains("<svg") && one.contains("Node") && one.len() < 10_000_000);
}

fn the_checker_of_xml_finds_what_is_wrong() {
    well_formed("<?xml version=\"1.0\"?><!-- c --><a b=\"c\"><d/><![CDATA[ <x> ]]>t</a>\n").expect("it is well-formed");
    for wrong in ["", "<a>", "<a></b>", "<a/><b></b>x", "<a b=\"c></a>", "<a></a><b></b>"] {
        assert!(well_formed(wrong).is_err(), "{wrong}");
    }
}

fn colours_and_bars_stay_on_terminals() {
    let Some(target) = small("plain text", &["histo"]) else { return };
    let run = run(&["histo", "-n", "5", &target.pid().to_string()]);
    assert!(run.status.success(), "{}", run.stderr);
    assert!(!run.stdout.contains(&0x1B) && !run.stderr.contains('\u{1b}') && !run.stderr.contains('\r'));
    std::io::stdout().flush().expect("stdout is open");
}
