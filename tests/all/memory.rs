//! The account of memory against the kernel, glibc and pymalloc, which the target asks about itself.
//!
//! `fixtures/programs/memory_shapes.py` takes known amounts of each kind of memory. The tool reads it while it waits;
//! then the target says what `mallinfo2` and `sys._debugmallocstats` say, and calls `malloc_trim`; the kernel says what
//! that gave back.

use serde_json::Value;

use crate::case::TestCase;
use crate::common::interpreters::{self, Interpreter};
use crate::common::target::Target;
use crate::common::{core, skipped, tool};

/// Bytes of the bytearray of `buffers` in memory_shapes.py.
const BYTEARRAY: u64 = 12 << 20;
/// What the question itself takes: a few objects, a file's buffer, a list for the statistics.
const ASKING: u64 = 128 << 10;
/// A row may be off by this share of what is in it: known bytes have headers, and the last page of a block is shared.
const TOLERANCE: f64 = 0.02;

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let mut cases = Vec::new();
    for interpreter in interpreters::find().interpreters {
        let name = interpreter.name.clone();
        let again = interpreter.clone();
        cases.push(TestCase::new(format!("{name}/adds_up"), move || adds_up(&interpreter)));
        if again.is_first {
            cases.push(TestCase::new(format!("{name}/plain"), move || plain(&again)));
        }
    }
    let Some(interpreter) = interpreters::any() else { return cases };
    for (shape, row, cause) in SHAPES {
        let interpreter = interpreter.clone();
        cases.push(TestCase::new(format!("shapes/{shape}"), move || known_bytes(&interpreter, shape, row, cause)));
    }
    let of_symbols = interpreter.clone();
    cases.push(TestCase::new("symbols", move || lost_objects_have_their_class(&of_symbols)));
    let small = interpreter.clone();
    cases.push(TestCase::new("line_of_a_small_heap", move || line_of_a_small_heap(&small)));
    let of_core = interpreter.clone();
    cases.push(TestCase::new("core", move || a_core_says_what_the_process_says(&of_core)));
    for (library, allocator) in MALLOCS {
        let interpreter = interpreter.clone();
        cases.push(TestCase::new(format!("mallocs/{allocator}"), move || {
            another_malloc(&interpreter, library, allocator)
        }));
    }
    for (shape, pins) in PINS {
        let interpreter = interpreter.clone();
        cases.push(TestCase::new(format!("pins/{shape}"), move || survivors_are_named(&interpreter, shape, &pins)));
    }
    cases
}

/// A shape, the rows that its bytes are in, and what is said of it.
const SHAPES: [(&str, &[&str], Option<&str>); 6] = [
    ("native", &["malloc_in_use"], Some("native_memory")),
    ("private", &["other_anonymous"], None),
    ("shared", &["shared_memory"], None),
    ("file", &["mapped_files"], None),
    ("freed", &["malloc_free", "malloc_top"], None),
    ("threads", &[], None),
];

/// Replacements of malloc: the library's file, and the row of its memory.
const MALLOCS: [(&str, &str); 2] = [("libjemalloc.so.2", "jemalloc"), ("libtcmalloc_minimal.so.4", "tcmalloc")];

/// Survivors of memory_shapes.py that pin free memory.
struct Survivors {
    cause: &'static str,
    /// Where they lie, and the row of the free memory that they pin.
    places: &'static str,
    row: &'static str,
    holder: &'static str,
    objects: i64,
}

const PINS: [(&str, Survivors); 2] = [
    (
        "fragments",
        Survivors {
            cause: "fragmentation",
            places: "pools",
            row: "pymalloc_free_blocks",
            holder: "__main__.kept",
            objects: 10_000,
        },
    ),
    (
        "islands",
        Survivors {
            cause: "freed_not_returned",
            places: "islands",
            row: "malloc_free",
            holder: "__main__.islands",
            objects: 768,
        },
    ),
];

/// What the tool says, and what the target says. The target is asked first: the question takes and frees
/// buffers, after which it only waits.
fn account(interpreter: &Interpreter, shapes: &[&str]) -> Result<(Value, Value), String> {
    account_with(interpreter, shapes, &[])
}

/// The same in this environment.
fn account_with(
    interpreter: &Interpreter,
    shapes: &[&str],
    environment: &[(&str, &str)],
) -> Result<(Value, Value), String> {
    let program = include_str!("../../fixtures/programs/memory_shapes.py");
    let mut target = Target::spawn(interpreter, program, shapes, environment)?;
    target.write(b"\n")?;
    let mut truth: Value = serde_json::from_str(&target.read_line()?).map_err(|error| error.to_string())?;
    target.wait_until_blocked()?;
    let first = rss(&target)?;
    let pid = target.pid().to_string();
    let mut command = vec!["memory", "--json", "--pause", &pid];
    // Buffers are told from native memory.
    command.extend(shapes.contains(&"buffers").then_some("--native"));
    let account = tool::run(&command)?.ok()?.json()?;
    let then = rss(&target)?;
    truth["line"] =
        tool::run(&["histo", "--json", &target.pid().to_string()])?.ok()?.json()?["reading"]["memory"].take();
    target.write(b"\n")?;
    let is_trimmed = target.read_line()? != "trimmed None";
    // Pages of files that the tool reads may become the target's.
    truth["rss"] = then.into();
    truth["grown"] = then.saturating_sub(first).into();
    truth["trimmed"] = if is_trimmed { then.saturating_sub(rss(&target)?).into() } else { Value::Null };
    Ok((account, truth))
}

/// RSS as the kernel sums it up.
fn rss(target: &Target) -> Result<u64, String> {
    let path = format!("/proc/{}/smaps_rollup", target.pid());
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).ok_or("no Rss")?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse().map_err(|_| line.to_owned())?;
    Ok(kibibytes << 10)
}

/// The sum of a figure over rows.
fn rows(account: &Value, names: &[&str], figure: &str) -> i64 {
    let rows = account["rows"].as_array().into_iter().flatten();
    rows.filter(|row| names.iter().any(|name| row["row"] == *name)).filter_map(|row| row[figure].as_i64()).sum()
}

fn near(what: &str, found: i64, expected: u64, tolerance: u64) -> Result<(), String> {
    let off = found.abs_diff(expected.cast_signed());
    if off <= tolerance { Ok(()) } else { Err(format!("{what}: {found}, and the target says {expected}")) }
}

/// Everything at once, on every interpreter: rows add up to RSS, and each allocator agrees.
fn adds_up(interpreter: &Interpreter) -> Result<(), String> {
    let shapes = ["objects", "fragments", "freed", "native", "private", "threads", "free_lists"];
    let (account, truth) = account(interpreter, &shapes)?;
    let all: i64 = account["rows"].as_array().into_iter().flatten().filter_map(|row| row["resident"].as_i64()).sum();
    let rss = account["rss"].as_u64().ok_or("no rss")?;
    near("rows", all, rss, 0)?;
    near("RSS", rss.cast_signed(), truth["rss"].as_u64().ok_or("no rss")?, truth["grown"].as_u64().unwrap_or(0))?;
    near("what is not accounted for", rows(&account, &["not_accounted"], "resident"), 0, rss / 100)?;
    for row in account["rows"].as_array().into_iter().flatten().filter(|row| row["row"] != "not_accounted") {
        if row["resident"].as_i64().is_none_or(|bytes| bytes < 0) {
            return Err(format!("a row has less than nothing: {row}"));
        }
    }
    one_line(&account, &truth["line"])?;
    free_lists(interpreter, &account, &truth["pymalloc"])?;
    let in_use = rows(&account, &["pymalloc_objects", "pymalloc_raw_blocks", "free_lists"], "mapped");
    if let Some(expected) = truth["pymalloc"]["bytes in allocated blocks"].as_u64() {
        near("pymalloc's blocks in use", in_use, expected, ASKING)?;
        let classes = account["pools"]["size_classes"].as_array().ok_or("no size classes")?;
        let used: u64 = classes.iter().filter_map(|class| class["used_bytes"].as_u64()).sum();
        near("pymalloc's blocks in use by size", used.cast_signed(), expected, ASKING)?;
    }
    // Blocks that were never handed out are available for it, and overhead here.
    let statistics = ["bytes in available blocks", "bytes lost to pool headers", "bytes lost to quantization"];
    let expected: Option<u64> = statistics.iter().map(|name| truth["pymalloc"][name].as_u64()).sum();
    if let Some(expected) = expected {
        let found = rows(&account, &["pymalloc_free_blocks", "pymalloc_overhead"], "mapped");
        near("pymalloc's free blocks and overhead", found, expected, ASKING)?;
    }
    let Some(free) = truth["malloc"]["fordblks"].as_u64() else { return Ok(()) };
    let not_walked = rows(&account, &["not_walked"], "mapped");
    let found = rows(&account, &["malloc_free", "malloc_top"], "mapped") + not_walked;
    // Fast bins count as free for glibc, and headers of free chunks do.
    let slack = ASKING + rows(&account, &["malloc_cached"], "mapped").cast_unsigned() + free / 50;
    near("malloc's free bytes", found, free, slack)?;
    let mappings = ["malloc_mapped_objects", "malloc_mapped_in_use", "malloc_mapped_buffers"];
    let mapped = rows(&account, &mappings, "mapped");
    near("malloc's mappings", mapped, truth["malloc"]["hblkhd"].as_u64().ok_or("no hblkhd")?, ASKING)?;
    let Some(trimmed) = truth["trimmed"].as_u64() else { return Ok(()) };
    near("what malloc_trim gives back", account["trimmable"].as_i64().unwrap_or(0), trimmed, ASKING + trimmed / 20)
}

/// The interpreter says how many objects of which size each of its free lists has.
fn free_lists(interpreter: &Interpreter, account: &Value, statistics: &Value) -> Result<(), String> {
    let minor = interpreter.version.1;
    // Since 3.15 the size that it prints has the collector's head in it.
    let front = if interpreter.kind == "free-threaded" || minor >= 15 { 0 } else { 16 };
    // A size and two pads of the debug hooks (`Objects/obmalloc.c`).
    let marks = if interpreter.kind == "debug" { 24 } else { 0 };
    let mut expected = 0;
    for (name, bytes) in statistics.as_object().into_iter().flatten() {
        let Some(rest) = name.split_once("free ").map(|(_, rest)| rest) else { continue };
        let Some((type_, size)) = rest.split_once(" * ") else { continue };
        let size: u64 = size.split(' ').next().and_then(|size| size.parse().ok()).ok_or(name.as_str())?;
        let front = if type_.contains("Float") { 0 } else { front };
        // Tables are no objects; until 3.13 floats have the next one in place of their type.
        if type_.contains("Keys") || type_.contains("Float") && minor < 14 || size == 0 {
            continue;
        }
        expected += bytes.as_u64().unwrap_or(0) / size * (size + front + marks).next_multiple_of(16);
    }
    // Size classes of mimalloc are up to an eighth too large.
    let rounding = if rows(account, &["mimalloc_objects"], "mapped") > 0 { expected / 8 } else { 0 };
    // Until 3.10 each code object that ran keeps a frame as well (`co_zombieframe`), which no list has.
    let frames = if minor <= 10 { 2 * ASKING } else { 0 };
    near("free lists", rows(account, &["free_lists"], "mapped"), expected, ASKING / 4 + rounding + frames)
}

/// The sum of a figure over the rows of a group.
fn rows_in(account: &Value, group: &str, figure: &str) -> i64 {
    let rows = account["rows"].as_array().into_iter().flatten().filter(|row| row["group"] == group);
    rows.filter_map(|row| row[figure].as_i64()).sum()
}

/// The line in the head of other reports says what the account says in its groups.
fn one_line(account: &Value, line: &Value) -> Result<(), String> {
    let rss = line["rss"].as_u64().ok_or("no line on memory")?;
    let group = |names: &[&str]| -> i64 { names.iter().map(|name| rows_in(account, name, "resident")).sum() };
    let groups: [(&str, &[&str]); 5] = [
        ("objects", &["objects"]),
        ("allocator_free", &["allocator free"]),
        ("native", &["native", "stacks"]),
        ("files", &["files"]),
        ("shared", &["shared"]),
    ];
    // A census does not tell dead objects in mimalloc's pages from other blocks without an object.
    let in_pages = rows(account, &["mimalloc_objects"], "resident") > 0;
    let dead = if in_pages { rows(account, &["free_lists"], "resident").cast_unsigned() } else { 0 };
    for (part, names) in groups {
        near(part, line[part].as_i64().ok_or(part)?, group(names).cast_unsigned(), rss / 50 + dead)?;
    }
    let sum: u64 = groups.iter().filter_map(|(part, _)| line[part].as_u64()).sum();
    near("the parts of the line", sum.cast_signed(), rss, 0)
}

/// A small heap is copied, but of a block that malloc maps only its head: what was never touched of it is not free
/// memory that is missing. pymalloc and glibc say how much is free.
fn line_of_a_small_heap(interpreter: &Interpreter) -> Result<(), String> {
    let (account, truth) = account(interpreter, &["untouched"])?;
    let pymalloc = ["bytes in available blocks", "bytes lost to pool headers", "bytes lost to quantization"];
    let of_pymalloc: Option<u64> = pymalloc.iter().map(|name| truth["pymalloc"][name].as_u64()).sum();
    let (of_pymalloc, of_malloc) = (of_pymalloc.unwrap_or(0), truth["malloc"]["fordblks"].as_u64().unwrap_or(0));
    let free = truth["line"]["allocator_free"].as_i64().ok_or("no free memory in the line")?;
    // Blocks that were never handed out are free, and most of them were never touched.
    let of_rows = |figure: &str| rows_in(&account, "allocator free", figure);
    let untouched = (of_rows("mapped") - of_rows("resident")).cast_unsigned();
    // A census takes what thread caches hold for blocks in use.
    let cached = rows(&account, &["malloc_cached"], "resident").cast_unsigned();
    near("free memory in the line", free, (of_pymalloc + of_malloc).saturating_sub(untouched), cached + ASKING / 4)?;
    near("free memory in the account", of_rows("resident"), free.cast_unsigned(), cached + ASKING / 4)
}

/// Objects with buffers of all kinds, and threads: nothing stands out, and each buffer is its object's.
fn plain(interpreter: &Interpreter) -> Result<(), String> {
    let shapes = ["objects", "buffers", "threads"];
    let (without, _) = account(interpreter, &["objects", "threads"])?;
    let (with, _) = account(interpreter, &shapes)?;
    let verdicts = with["verdicts"].as_array().ok_or("no verdicts")?;
    if !verdicts.is_empty() {
        return Err(format!("something stands out in a plain program: {verdicts:?}"));
    }
    let native = ["malloc_in_use", "malloc_mapped_in_use", "mimalloc_in_use", "musl_in_use", "other_anonymous"];
    let (before, after) = (rows(&without, &native, "resident"), rows(&with, &native, "resident"));
    near("native memory beside buffers", after, before.cast_unsigned(), ASKING)?;
    // Nor do their tables and items in pymalloc's pools pass for native memory that they hold.
    let owners = with["native"]["owners"].as_array().ok_or("no native owners")?;
    let built_in = |owner: &&Value| {
        let name = owner["owner"].as_str().unwrap_or_default();
        ["dict", "list", "set", "bytearray"].iter().any(|type_| name.strip_prefix("builtins.") == Some(type_))
    };
    let held: u64 = owners.iter().filter(built_in).filter_map(|owner| owner["resident"].as_u64()).sum();
    near("native memory of dicts, lists, sets and bytearrays", held.cast_signed(), 0, ASKING)?;
    // What getsizeof says of these objects is in rows of objects. It does not count what the debug hooks put around
    // each block: a size, two pads and a serial number (`Objects/obmalloc.c`).
    let marks = if interpreter.kind == "debug" { 32 } else { 0 };
    let shallow = |account: &Value| -> i64 {
        let rows = account["rows"].as_array().into_iter().flatten();
        rows.map(|row| row["shallow_bytes"].as_i64().unwrap_or(0) + row["objects"].as_i64().unwrap_or(0) * marks).sum()
    };
    let objects = ["pymalloc_objects", "pymalloc_raw_blocks", "malloc_objects", "malloc_mapped_objects"];
    let buffers = ["malloc_buffers", "malloc_mapped_buffers", "mimalloc_objects", "mimalloc_buffers"];
    let of_musl = ["musl_objects", "musl_buffers"];
    let objects: Vec<&str> = objects.into_iter().chain(buffers).chain(of_musl).collect();
    let more = rows(&with, &objects, "resident") - rows(&without, &objects, "resident");
    // Since 3.15 a bytearray's bytes are a bytes object of its own, and getsizeof counts them for both
    // (`Objects/bytearrayobject.c`).
    let counted_twice = if interpreter.version.1 >= 15 { BYTEARRAY } else { 0 };
    let expected = (shallow(&with) - shallow(&without)).cast_unsigned() - counted_twice;
    near("objects and their buffers", more, expected, expected / 10)
}

/// Of one kind of memory a known amount, which is in its row.
fn known_bytes(interpreter: &Interpreter, shape: &str, names: &[&str], cause: Option<&str>) -> Result<(), String> {
    let (without, _) = account(interpreter, &[])?;
    let (with, truth) = account(interpreter, &[shape])?;
    if shape == "threads" {
        let threads = |account: &Value| account["threads"].as_u64().unwrap_or(0);
        return near("threads", (threads(&with) - threads(&without)).cast_signed(), 8, 0);
    }
    let size = truth["size"].as_u64().ok_or("no size")?;
    let grown = |names: &[&str], figure: &str| rows(&with, names, figure) - rows(&without, names, figure);
    if shape == "freed" && !interpreter.has_gil() {
        return freed_to_mimalloc(&grown, size);
    }
    let more = grown(names, "resident");
    near(shape, more, size, (size as f64 * TOLERANCE) as u64)?;
    let causes: Vec<&str> =
        with["verdicts"].as_array().into_iter().flatten().filter_map(|it| it["cause"].as_str()).collect();
    match cause {
        Some(cause) if !causes.contains(&cause) => Err(format!("{cause} is not among {causes:?}")),
        _ => Ok(()),
    }
}

/// mimalloc keeps the pages of freed blocks, or has given them back already: its delay runs out while it is read
/// (`mi_option_purge_delay`). They are free or unused in any case.
fn freed_to_mimalloc(grown: &dyn Fn(&[&str], &str) -> i64, size: u64) -> Result<(), String> {
    let used = grown(&["mimalloc_objects", "mimalloc_buffers", "mimalloc_in_use"], "mapped");
    // The 384 small blocks that stay.
    near("mimalloc's blocks in use", used, 384 * 640, ASKING)?;
    let free = ["mimalloc_free", "mimalloc_overhead"];
    let (mapped, resident) = (grown(&free, "mapped"), grown(&free, "resident"));
    if mapped < size.cast_signed() / 10 * 9 {
        return Err(format!("mimalloc's free memory: {mapped} more, and {size} were freed"));
    }
    // A page of mimalloc has a header, and a rest that no block fits into.
    let most = (size + size / 8).cast_signed();
    if resident <= most { Ok(()) } else { Err(format!("{resident} bytes more are resident, and {size} were freed")) }
}

/// The holder of the survivors comes first, and pins what is free around them. A few lie elsewhere: in places that were
/// free before.
fn survivors_are_named(interpreter: &Interpreter, shape: &str, survivors: &Survivors) -> Result<(), String> {
    if !interpreter.has_gil() || interpreter.kind.starts_with("musl") {
        skipped(&interpreter.name, "it has no chunks of glibc");
        return Ok(());
    }
    let (account, _) = account(interpreter, &[shape])?;
    let first = &account["pins"][survivors.places][0];
    let figure = |name: &str| first[name].as_i64().ok_or_else(|| format!("no {name} in {first}"));
    if first["holder"] != survivors.holder || first["kind"] != "holder" || first["type"] != "builtins.bytes" {
        return Err(format!("the survivors are not those who pin: {}", account["pins"]));
    }
    near("survivors", figure("objects")?, survivors.objects.cast_unsigned(), survivors.objects.cast_unsigned() / 20)?;
    let free = rows(&account, &[survivors.row], "resident").cast_unsigned();
    near("what they pin", figure("pinned")?, free, free / 20)?;
    let verdicts = account["verdicts"].as_array().into_iter().flatten();
    let found: Vec<&Value> = verdicts.filter(|verdict| verdict["cause"] == survivors.cause).collect();
    let says = |verdict: &&Value| verdict["finding"].as_str().is_some_and(|it| it.contains(survivors.holder));
    if found.iter().any(says) { Ok(()) } else { Err(format!("the verdict does not name them: {found:?}")) }
}

/// The account of a core against that of the same process. The kernel writes into a core what the process has written,
/// and neither files nor its figures; all else is there.
fn a_core_says_what_the_process_says(interpreter: &Interpreter) -> Result<(), String> {
    let program = include_str!("../../fixtures/programs/memory_shapes.py");
    let shapes = ["objects", "fragments", "freed", "native", "private", "free_lists"];
    let mut target = Target::spawn(interpreter, program, &shapes, &[])?;
    target.write(b"\n")?;
    target.read_line()?;
    target.wait_until_blocked()?;
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let path = folder.path().join("core");
    let live = tool::run(&["memory", "--json", "--pause", &target.pid().to_string()])?.ok()?.json()?;
    core::craft(target.pid(), &path);
    let core = tool::run(&["memory", "--json", "--core", path.to_str().ok_or("no text")?])?.ok()?.json()?;
    let names = |account: &Value| -> Vec<String> {
        let rows = account["rows"].as_array().into_iter().flatten();
        rows.filter_map(|row| row["row"].as_str().map(str::to_owned)).collect()
    };
    // Of files a core has what was written; of the stack and of the data of libraries, whole mappings.
    let of_files = ["library_text", "library_data", "mapped_files", "main_stack", "kernel", "not_accounted"];
    let mut compared = 0;
    for name in names(&live).iter().chain(&names(&core)).filter(|name| !of_files.contains(&name.as_str())) {
        let of = |account: &Value, figure: &str| rows(account, &[name], figure);
        near(name, of(&core, "objects"), of(&live, "objects").cast_unsigned(), 0)?;
        let (mapped, expected) = (of(&core, "mapped"), of(&live, "mapped").cast_unsigned());
        near(&format!("{name}, mapped"), mapped, expected, ASKING)?;
        // A core does not tell a page of zeros from one that was never written; mimalloc has such among unused ones.
        let (resident, expected) = (of(&core, "resident"), of(&live, "resident"));
        let is_unused = ["mimalloc_overhead", "mimalloc_free"].contains(&name.as_str());
        if !(is_unused && resident < expected) {
            near(&format!("{name}, resident"), resident, expected.cast_unsigned(), ASKING)?;
        }
        compared += 1;
    }
    let all: i64 = rows(&core, &names(&core).iter().map(String::as_str).collect::<Vec<_>>(), "resident");
    near("rows of the core", all, core["rss"].as_u64().ok_or("no rss")?, 0)?;
    if compared < 16 { Err(format!("only {compared} rows were compared")) } else { Ok(()) }
}

/// Blocks of C++ that nothing points to have the name of their class.
fn lost_objects_have_their_class(interpreter: &Interpreter) -> Result<(), String> {
    let has_library = std::process::Command::new("ldconfig").arg("-p").output();
    if !has_library.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("libstdc++.so.6")) {
        skipped("symbols", "no libstdc++");
        return Ok(());
    }
    let (account, truth) = account(interpreter, &["symbols"])?;
    let first = &account["native"]["unowned"][0];
    if first["first_word"] != "vtable for std::exception" {
        return Err(format!("they are called otherwise: {first}"));
    }
    let expected = truth["size"].as_u64().ok_or("no size")? / 1008;
    near("objects", first["roots"].as_i64().ok_or("no number")?, expected, expected / 100)
}

/// The allocator says how much memory it has; a mapping of somebody else's is not its own.
fn another_malloc(interpreter: &Interpreter, library: &str, allocator: &str) -> Result<(), String> {
    let Some(path) = interpreters::malloc_library(library) else {
        skipped(allocator, "tests/interpreters.sh has not fetched mallocs");
        return Ok(());
    };
    let path = path.to_str().ok_or("no text")?;
    let environment = [("LD_PRELOAD", path)];
    if let Err(why) = interpreter.starts_with(&environment) {
        skipped(&interpreter.name, &why);
        return Ok(());
    }
    let shapes = ["objects", "native", "private", "threads"];
    let (account, truth) = account_with(interpreter, &shapes, &environment)?;
    let bound = |index: usize| truth["other_malloc"][index].as_i64().ok_or("it does not say what it has");
    let (least, most) = (bound(0)?, bound(1)?);
    // Python objects in its memory are counted as such.
    let found = rows(&account, &[allocator, "found_objects"], "resident");
    let asking = ASKING.cast_signed();
    if found < least - asking || found > most + asking {
        return Err(format!("{allocator} has {least} to {most} bytes, and {found} were found"));
    }
    let size = truth["size"].as_u64().ok_or("no size")?;
    near("what is not its own", rows(&account, &["other_anonymous"], "resident"), size, size / 20)?;
    let all: i64 = account["rows"].as_array().into_iter().flatten().filter_map(|row| row["resident"].as_i64()).sum();
    near("rows", all, account["rss"].as_u64().ok_or("no rss")?, 0)
}
