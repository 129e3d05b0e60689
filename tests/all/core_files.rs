//! Compares every verb on a core with the same verb on the process: cores by the kernel, by gdb, and by the tests
//! themselves (`common::core`), which work on every machine.
//!
//! The target builds the zoo and blocks, so that nothing changes between the reports.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use libtest_mimic::Failed;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::case::TestCase;
use crate::common::interpreters::{self, Interpreter};
use crate::common::target::Target;
use crate::common::{core, skipped, tool, zoo};

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let found = interpreters::find_and_say();
    // One whose files are where it says they are.
    let plain = found.iter().filter(|i| i.kind == "default").max_by_key(|i| i.version);
    let plain = plain.cloned();
    let mut cases = Vec::new();
    // At each landing: the kernel's cores of one of each minor version, lock and allocator, and of each kind of build,
    // as the tests write them. Those of gdb and of the kernel itself differ by who wrote them, not by the interpreter.
    let mut kinds = BTreeSet::new();
    for interpreter in found {
        let is_new_kind = kinds.insert(interpreter.kind.clone());
        // The process is read once, then its cores; the kernel's ends it.
        let all: &[Source] = &[Source::Crafted, Source::Gdb, Source::Kernel];
        let sources = if is_new_kind && interpreter.is_first { all } else { &all[..1] };
        let is_chosen = is_new_kind || interpreter.is_first;
        let name = interpreter.name.clone();
        let again = interpreter.clone();
        let crafted = TestCase::new(format!("{name}/cores"), move || cores_say_what_the_process_said(&again, sources));
        let others = move || cores_say_what_the_process_said(&interpreter, &all[1..]);
        cases.push(crafted.ignored_if(!is_chosen));
        if sources.len() < all.len() {
            cases.push(TestCase::new(format!("{name}/cores of others"), others).ignored_if(true));
        }
    }
    type Test = fn(&Interpreter) -> Result<(), Failed>;
    let others: [(&str, Test); 6] = [
        ("packed cores", packed_cores_are_read),
        ("cut cores", cut_cores_say_what_is_missing),
        ("damaged cores", damaged_cores_are_survived),
        ("foreign files", foreign_files_are_refused),
        ("files of a core", the_files_of_a_core_are_checked),
        ("options", options_of_processes_are_refused),
    ];
    for (name, test) in others {
        match plain.clone() {
            Some(interpreter) => cases.push(TestCase::new(name, move || test(&interpreter))),
            None => skipped(name, "no interpreter"),
        }
    }
    cases
}

#[derive(Clone, Copy, Debug)]
enum Source {
    Crafted,
    Gdb,
    Kernel,
}

impl Source {
    fn can_be_had(self, interpreter: &Interpreter) -> Result<(), String> {
        match self {
            Source::Crafted => Ok(()),
            Source::Gdb if Command::new("gdb").arg("--version").output().is_err() => Err("no gdb".into()),
            // It writes all of the gigabyte that a free-threaded build reserves.
            Source::Gdb if !interpreter.has_gil() => Err("gdb writes reserved memory out".into()),
            Source::Gdb => Ok(()),
            Source::Kernel if interpreter.command[0].ends_with("chroot") => {
                Err("the kernel writes it in the other root".into())
            }
            Source::Kernel => match fs::read_to_string("/proc/sys/kernel/core_pattern") {
                Ok(pattern) if pattern.trim() == "core" => Ok(()),
                Ok(pattern) => Err(format!("cores go elsewhere: {}", pattern.trim())),
                Err(error) => Err(error.to_string()),
            },
        }
    }

    /// Writes the core of a target, which it may end. Says what the writer could not read.
    fn write(self, target: &mut Target, path: &Path) -> Result<Option<String>, String> {
        match self {
            Source::Crafted => core::craft(target.pid(), path),
            Source::Gdb => return core::gcore(target.pid(), path),
            Source::Kernel => {
                target.signal(Signal::SIGABRT);
                target.wait()?;
                let folder = path.parent().expect("it is in a folder");
                // The kernel adds the process id where the system is set so.
                let named = fs::read_dir(folder).map_err(|error| error.to_string())?.flatten();
                let found = named
                    .map(|entry| entry.path())
                    .find(|entry| entry.file_name().is_some_and(|name| name.to_string_lossy().starts_with("core")));
                fs::rename(found.ok_or("the kernel wrote no core")?, path).map_err(|error| error.to_string())?;
            }
        }
        Ok(None)
    }
}

/// A target with the zoo in it that stands still, in a folder of its own where it may leave a core.
#[expect(unsafe_code, reason = "what runs between fork and exec")]
fn stand(interpreter: &Interpreter, scale: &str) -> Result<(tempfile::TempDir, Target), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut command = interpreter.command();
    command.arg("-c").arg(zoo()).args(["--scale", scale, "--seed", "11"]).current_dir(folder.path());
    // SAFETY: between fork and exec only setrlimit is called, which is async-signal-safe and allocates nothing.
    unsafe {
        command.pre_exec(|| setrlimit(Resource::RLIMIT_CORE, 1 << 34, 1 << 34).map_err(std::io::Error::from));
    }
    let mut target = Target::start(command)?;
    let line = target.read_line()?;
    match line.starts_with("ready ") {
        true => target.wait_until_blocked().map(|()| (folder, target)),
        false => Err(line),
    }
}

/// The reports, but for what cannot be the same.
#[derive(PartialEq)]
struct Reports {
    dump: Vec<u8>,
    folded: Vec<u8>,
    svg: Vec<u8>,
    table: String,
    document: Value,
    owners: Vec<u8>,
    references: Vec<u8>,
    why: Value,
}

impl Reports {
    fn of(target: &[&str], with_graph: bool) -> Result<Reports, String> {
        let pause: &[&str] = if target[0] == "--core" { &[] } else { &["--pause"] };
        let run = |verb: &[&str]| tool::run(&[verb, target].concat())?.ok();
        let paused = |verb: &[&str]| run(&[verb, pause].concat());
        let table = paused(&["histo"])?.text();
        // The second line has the bytes and the time it took. A core has only the pages that are not in files and hold
        // anything, so what counts pages differs: RSS, and memory of unknown structure. Lists are compared in copies
        // alone, and of cores only small ones are copied.
        let is_of_pages =
            |line: &str| ["RSS ", "Not searched: ", "Scanned: ", "Checked: "].iter().any(|word| line.starts_with(word));
        let lines = table.lines().enumerate().filter(|(at, line)| *at != 1 && !is_of_pages(line));
        let table = lines.map(|(_, line)| line).collect::<Vec<_>>().join("\n");
        let mut document = paused(&["histo", "--json"])?.json()?;
        let reading = document["reading"].as_object_mut().ok_or("no reading")?;
        let differing = ["read_bytes", "read_seconds", "paused_seconds", "from_core", "memory"];
        differing.iter().for_each(|key| drop(reading.remove(*key)));
        let problems = document["problems"].as_object_mut().ok_or("no problems")?;
        ["unsearched_bytes", "searched_bytes"].iter().for_each(|key| drop(problems.remove(*key)));
        for key in ["only_in_lists", "only_in_blocks", "broken_lists"] {
            match problems.remove(key).and_then(|count| count.as_u64()) {
                None | Some(0) => {}
                Some(count) => return Err(format!("{key}: {count}")),
            }
        }
        let graph = |verb: &[&str]| if with_graph { paused(verb).map(|run| run.stdout) } else { Ok(Vec::new()) };
        let why = || tool::run(&[&["why", "-j"][..], target, &["__main__.Plain"], pause].concat())?.ok();
        Ok(Reports {
            dump: paused(&["dump"])?.stdout,
            folded: paused(&["flamegraph", "--view", "types", "-f", "folded"])?.stdout,
            svg: paused(&["flamegraph", "--view", "types", "-o", "-"])?.stdout,
            table,
            document,
            owners: graph(&["flamegraph", "--view", "owners", "-f", "folded"])?,
            references: graph(&["dump", "--references"])?,
            why: if with_graph { answer(why()?.json()?)? } else { Value::Null },
        })
    }

    /// Which of them differ.
    fn differences(&self, other: &Reports) -> Vec<&'static str> {
        let same = [
            ("dump", self.dump == other.dump),
            ("folded", self.folded == other.folded),
            ("svg", self.svg == other.svg),
            ("table", self.table == other.table),
            ("document", self.document == other.document),
            ("owners", self.owners == other.owners),
            ("references", self.references == other.references),
            ("why", self.why == other.why),
        ];
        same.iter().filter(|(_, same)| !same).map(|(name, _)| *name).collect()
    }
}

/// What `why` answers, without how it was read. An answer without a chain proves nothing.
fn answer(mut document: Value) -> Result<Value, String> {
    let object = document.as_object_mut().ok_or("no document")?;
    object.remove("reading");
    match document["chains"].as_array() {
        Some(chains) if !chains.is_empty() => Ok(document),
        _ => Err(format!("no chain: {document}")),
    }
}

fn cores_say_what_the_process_said(interpreter: &Interpreter, sources: &[Source]) -> Result<(), Failed> {
    let (folder, mut target) = stand(interpreter, "0.05")?;
    let with_graph = interpreter.has_gil();
    let live = Reports::of(&[&target.pid().to_string()], with_graph)?;
    for &source in sources {
        let what = format!("{}: a core {source:?}", interpreter.name);
        match source.can_be_had(interpreter) {
            Ok(()) => a_core_says_the_same(interpreter, source, &mut target, folder.path(), &live)
                .map_err(|why| format!("{what}: {why}"))?,
            Err(why) => skipped(&what, &why),
        }
    }
    Ok(())
}

fn a_core_says_the_same(
    interpreter: &Interpreter,
    source: Source,
    target: &mut Target,
    folder: &Path,
    live: &Reports,
) -> Result<(), String> {
    let path = folder.join("the.core");
    let mut excused: &[&str] = &[];
    if let Some(why) = source.write(target, &path)? {
        // Frames on a stack are roots: what the graph says of them is excused, all the rest must agree.
        skipped(&format!("{}: owners in a core of gdb's, and why", interpreter.name), &why);
        excused = &["owners", "why"];
    }
    let text = path.to_str().expect("it is text");
    // What a container has mapped is below its root.
    let root = match interpreter.command[0].ends_with("chroot") {
        true => interpreter.command[1].clone(),
        false => "/".into(),
    };
    let of_core = Reports::of(&["--core", text, "--sysroot", &root], interpreter.has_gil())?;
    let mut differences = live.differences(&of_core);
    differences.retain(|what| !excused.contains(what));
    if !differences.is_empty() || live.dump.is_empty() {
        return Err(format!("the core differs in {differences:?}"));
    }
    let document: Value = tool::run(&["doctor", "-j", "--core", text, "--sysroot", &root])?.ok()?.json()?;
    if document["readable"] != true {
        return Err(document.to_string());
    }
    fs::remove_file(&path).map_err(|error| error.to_string())
}

/// A crafted core of a small zoo, and its path.
fn crafted(interpreter: &Interpreter) -> Result<(tempfile::TempDir, String, Target), String> {
    let (folder, mut target) = stand(interpreter, "0.05")?;
    let path = folder.path().join("the.core");
    Source::Crafted.write(&mut target, &path)?;
    let path = path.to_str().expect("it is text").to_owned();
    Ok((folder, path, target))
}

fn packed_cores_are_read(interpreter: &Interpreter) -> Result<(), Failed> {
    let (folder, path, _target) = crafted(interpreter)?;
    let plain = tool::run(&["dump", "--core", &path])?.ok()?.stdout;
    for (program, extension) in [("gzip", "gz"), ("zstd", "zst")] {
        let packed = folder.path().join(format!("packed.{extension}"));
        let Ok(output) = Command::new(program).args(["-1", "-c", &path]).output() else {
            skipped(program, "it is not here");
            continue;
        };
        fs::write(&packed, &output.stdout)?;
        let packed = packed.to_str().expect("it is text");
        if tool::run(&["dump", "--core", packed])?.ok()?.stdout != plain {
            return Err(format!("{program}: another dump").into());
        }
        // What was cut off says so, and what is there is read, or refused in words.
        fs::write(packed, &output.stdout[..output.stdout.len() / 2])?;
        let run = tool::run(&["histo", "--core", packed])?;
        if !run.stderr.contains("compressed and damaged") || !matches!(run.status.code(), Some(0 | 2)) {
            return Err(format!("{program}, cut: {} {}", run.status, run.stderr).into());
        }
        fs::write(packed, &output.stdout[..3])?;
        let run = tool::run(&["histo", "--core", packed])?;
        if run.status.code() != Some(2) {
            return Err(format!("{program}, of three bytes: {} {}", run.status, run.stderr).into());
        }
    }
    Ok(())
}

fn cut_cores_say_what_is_missing(interpreter: &Interpreter) -> Result<(), Failed> {
    let (_folder, path, _target) = crafted(interpreter)?;
    let objects = |run: &tool::Run| run.json().map(|document| document["totals"]["objects"].as_u64().unwrap_or(0));
    let whole = objects(&tool::run(&["histo", "-j", "--core", &path])?.ok()?)?;
    let file = fs::File::options().write(true).open(&path)?;
    let all = file.metadata()?.len();
    let mut partial = 0;
    // The program's own memory lies at both ends of a core: the nearer the cut is to the end, the more can be told.
    let mut cuts: Vec<u64> = (0..20).map(|n| all * n / 20).chain((12..24).map(|power| all - (1 << power))).collect();
    cuts.sort_unstable();
    for length in cuts.into_iter().rev() {
        file.set_len(length)?;
        let run = tool::run(&["histo", "-j", "--core", &path])?;
        match run.status.code() {
            Some(0) => {
                let missing = run.json()?["problems"]["missing_bytes"].as_u64();
                if missing == Some(0) || objects(&run)? > whole || !run.stderr.contains("cut off") {
                    return Err(format!("{length}: {missing:?} missing, {} {}", objects(&run)?, run.stderr).into());
                }
                partial += 1;
            }
            Some(2) if run.stderr.starts_with("heapsonde: ") || run.stderr.contains("cut off") => {}
            _ => return Err(format!("{length} bytes: {} {}", run.status, run.stderr).into()),
        }
    }
    match partial {
        0 => Err("no cut core was read in part".into()),
        _ => Ok(()),
    }
}

fn damaged_cores_are_survived(interpreter: &Interpreter) -> Result<(), Failed> {
    let (_folder, path, _target) = crafted(interpreter)?;
    let file = fs::File::options().read(true).write(true).open(&path)?;
    let length = file.metadata()?.len();
    let mut rng = fastrand::Rng::with_seed(20);
    for round in 0..40 {
        // Headers and notes; in odd rounds all of it.
        let end = if round % 2 == 0 { 64 << 10 } else { length };
        let mut undamaged = Vec::new();
        for _ in 0..(1 << (round % 8)) {
            let at = rng.u64(..end - 8);
            let values = [0, 1, u64::MAX, 1 << 63, 0x1000, rng.u64(..)];
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, at)?;
            undamaged.push((at, bytes));
            file.write_all_at(&values[rng.usize(..values.len())].to_le_bytes(), at)?;
        }
        let run = tool::run(&["histo", "--core", &path])?;
        // The last first, since they may overlap.
        for (at, bytes) in undamaged.into_iter().rev() {
            file.write_all_at(&bytes, at)?;
        }
        if !matches!(run.status.code(), Some(0 | 2)) || run.stderr.contains("panicked") {
            return Err(format!("round {round}: {} {}", run.status, run.stderr).into());
        }
    }
    Ok(())
}

fn foreign_files_are_refused(interpreter: &Interpreter) -> Result<(), Failed> {
    let (folder, path, _target) = crafted(interpreter)?;
    let mut command = Command::new("sh");
    command.args(["-c", "echo ready; read line"]);
    let mut shell = Target::start(command)?;
    // Before, it may be in the loader still.
    shell.read_line()?;
    let of_shell = folder.path().join("shell.core");
    core::craft(shell.pid(), &of_shell);
    let whole = fs::read(&path)?;
    let with = |at: usize, value: u8| {
        let mut bytes = whole[..1 << 16].to_vec();
        bytes[at] = value;
        bytes
    };
    let cases: [(&str, Vec<u8>, &str); 8] = [
        ("empty", Vec::new(), "is empty"),
        (
            "text",
            b"no core at all, but some text of more than sixty-four bytes, so that it fills a header".to_vec(),
            "not an ELF file",
        ),
        ("program", fs::read("/bin/true")?, "not a core"),
        ("bits", with(4, 1), "32-bit"),
        ("machine", with(18, 183), "another processor"),
        ("order", with(5, 2), "another processor"),
        ("headers", whole[..70].to_vec(), "cut off"),
        ("shell", fs::read(&of_shell)?, "no CPython"),
    ];
    for (name, bytes, says) in cases {
        let file = folder.path().join(name);
        fs::write(&file, bytes)?;
        let file = file.to_str().expect("it is text");
        for verb in [&["histo"][..], &["dump"], &["flamegraph", "-o", "-"], &["why", "dict"], &["doctor"]] {
            let run = tool::run(&[verb, &["--core", file]].concat())?;
            let said = format!("{}{}", run.stderr, run.text());
            if run.status.code() != Some(2) || !said.contains(says) {
                return Err(format!("{verb:?} of {name}: {} {said}", run.status).into());
            }
        }
    }
    for file in ["/dev/zero", "/", "/nowhere"] {
        if tool::run(&["histo", "--core", file])?.status.code() != Some(2) {
            return Err(file.into());
        }
    }
    Ok(())
}

fn the_files_of_a_core_are_checked(interpreter: &Interpreter) -> Result<(), Failed> {
    let (folder, path, target) = crafted(interpreter)?;
    let plain = tool::run(&["dump", "--core", &path])?.ok()?.stdout;
    let nowhere = folder.path().join("nowhere");
    fs::create_dir(&nowhere)?;
    let nowhere = nowhere.to_str().expect("it is text");
    let run = tool::run(&["histo", "--core", &path, "--sysroot", nowhere])?;
    // Without any file there are no names of static types: an answer in part, or an error that says what is needed.
    let is_told = run.stderr.contains("is missing") || run.stderr.contains("the core needs");
    if !is_told || run.status.code() == Some(2) && !run.stderr.contains("--exe FILE or --sysroot DIR") {
        return Err(format!("{} {}", run.status, run.stderr).into());
    }
    // All files moved below another root.
    let root = folder.path().join("root");
    let maps = fs::read_to_string(format!("/proc/{}/maps", target.pid()))?;
    for file in maps.lines().filter_map(|line| line.split_once('/')).map(|(_, path)| path) {
        if !Path::new("/").join(file).is_file() {
            continue;
        }
        let to = root.join(file);
        fs::create_dir_all(to.parent().expect("it has one"))?;
        fs::copy(format!("/{file}"), &to)?;
    }
    let root = root.to_str().expect("it is text");
    if tool::run(&["dump", "--core", &path, "--sysroot", root])?.ok()?.stdout != plain {
        return Err("below another root there is another answer".into());
    }
    let exe = fs::read_link(format!("/proc/{}/exe", target.pid()))?;
    let exe = exe.to_str().expect("it is text");
    if tool::run(&["dump", "--core", &path, "--exe", exe])?.ok()?.stdout != plain {
        return Err("with its own program there is another answer".into());
    }
    // Another program is refused; one that took the place of the right one is not used.
    let run = tool::run(&["dump", "--core", &path, "--exe", "/bin/true"])?;
    if run.status.code() != Some(2) || !run.stderr.contains("not the program of this core") {
        return Err(format!("{} {}", run.status, run.stderr).into());
    }
    let replaced = format!("{root}{exe}");
    let mut bytes = fs::read(&replaced)?;
    let note = bytes.windows(4).position(|four| four == b"GNU\0").ok_or("a program without a note")?;
    bytes[note + 4..note + 24].iter_mut().for_each(|byte| *byte ^= 0xff);
    fs::remove_file(&replaced)?;
    fs::write(&replaced, bytes)?;
    let run = tool::run(&["histo", "--core", &path, "--sysroot", root])?;
    if !run.stderr.contains("another build") {
        return Err(format!("{} {}", run.status, run.stderr).into());
    }
    Ok(())
}

fn options_of_processes_are_refused(interpreter: &Interpreter) -> Result<(), Failed> {
    let (_folder, path, _target) = crafted(interpreter)?;
    let refused: [&[&str]; 8] = [
        &["histo", "--core", &path, "1"],
        &["histo", "--core", &path, "--pause"],
        &["histo", "--core", &path, "-s"],
        &["flamegraph", "--core", &path, "-s"],
        &["dump", "--core", &path, "-p", "1"],
        &["histo", "--exe", "/bin/true", "1"],
        &["ps", "--core", &path],
        &["why", "--core", &path, "1", "dict"],
    ];
    for arguments in refused {
        let run = tool::run(arguments)?;
        if run.status.code() != Some(2) || run.stderr.is_empty() {
            return Err(format!("{arguments:?}: {} {}", run.status, run.stderr).into());
        }
    }
    let retained = tool::run(&["histo", "--retained", "-n", "3", "--core", &path])?.ok()?.text();
    if !retained.contains("#retained") || !retained.contains("from a core") {
        return Err(retained.into());
    }
    let sampled = tool::run(&["histo", "--sample", "--seed", "1", "--core", &path])?.ok()?.text();
    if !sampled.contains("from a core") {
        return Err(sampled.into());
    }
    Ok(())
}
