//! Writes stacks as a processed profile, which profiler.firefox.com and its command line read.
//!
//! The format (firefox-devtools/profiler, `src/types/profile.ts`) is tables of columns; a stack is a frame and the
//! stack that it extends. Clients upgrade older versions of it. It has no type for counts: objects are samples.

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use rustc_hash::FxHashMap;
use serde_json::{Value, json};

use super::escape::printable;
use super::folded::{self, Weight};
use super::stack_set::{ProfileFrame, StackSet};
use super::string_table::StringTable;

/// How names of such files end.
pub const EXTENSION: &str = "firefox.json";

/// The first version in which all threads share their tables (`processed-profile-versioning.ts`).
const FORMAT: u32 = 60;

/// The version of Firefox's own format, which every profile has to name. Firefox wrote 30 when `FORMAT` was current.
const GECKO_FORMAT: u32 = 30;

/// What a profile states besides its stacks.
#[derive(Clone, Debug)]
pub struct About {
    /// When the process was read.
    pub time: SystemTime,
    /// What stacks weigh.
    pub weight: Weight,
    /// What was profiled, as a title.
    pub title: String,
    /// The process.
    pub pid: i32,
}

/// Writes the stacks that weigh something, a thread for each of theirs.
///
/// # Errors
/// Errors of the writer.
pub fn write(out: &mut dyn Write, set: &StackSet, about: &About) -> io::Result<()> {
    let title = printable(&about.title);
    let mut stacks = StackTable::default();
    let mut threads: Vec<(&str, Samples)> = Vec::new();
    for stack in &set.stacks {
        let amount = folded::amount_of(stack.amount, about.weight);
        if amount == 0 {
            continue;
        }
        let leaf = stack.frames.iter().fold(None, |prefix, &frame| Some(stacks.index(prefix, frame)));
        if threads.last().is_none_or(|thread| thread.0 != stack.thread) {
            threads.push((&stack.thread, Samples::default()));
        }
        if let Some((_, samples)) = threads.last_mut() {
            samples.push(leaf, amount);
        }
    }
    if threads.is_empty() {
        // Clients refuse a profile without a thread.
        threads.push(("", Samples::default()));
    }
    let mut strings = StringTable::default();
    let tables = Tables::of(&set.frames, &mut strings);
    let stack_table = json!({"frame": stacks.frame, "prefix": stacks.prefix, "length": stacks.frame.len()});
    let shared = json!({
        "stackTable": stack_table,
        "frameTable": tables.frames,
        "funcTable": tables.functions,
        "sources": tables.sources,
        "resourceTable": {"type": [], "lib": [], "name": [], "host": [], "length": 0},
        "nativeSymbols": {"libIndex": [], "address": [], "name": [], "functionSize": [], "length": 0},
        "stringArray": strings.list(),
    });
    let threads: Vec<Value> = threads
        .into_iter()
        .enumerate()
        .map(|(number, (name, samples))| {
            let name = if name.is_empty() { &title } else { name };
            thread(number, name, about, samples)
        })
        .collect();
    let milliseconds = about.time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let mut meta = json!({
        "preprocessedProfileVersion": FORMAT,
        "version": GECKO_FORMAT,
        "product": title,
        "importedFrom": concat!("heapsonde ", env!("CARGO_PKG_VERSION")),
        "startTime": milliseconds,
        "interval": 1,
        "processType": 0,
        "stackwalk": 1,
        "categories": [{"name": "Other", "color": "grey", "subcategories": ["Other"]}],
        "markerSchema": [],
        "symbolicationNotSupported": true,
        "usesOnlyOneStackType": true,
        "sourceCodeIsNotOnSearchfox": true,
        "keepProfileThreadOrder": true,
    });
    if about.weight == Weight::Bytes {
        // As in profiles of a file's size: the axis of time counts bytes.
        meta["sampleUnits"] = json!({"time": "bytes", "eventDelay": "ms", "threadCPUDelta": "ns"});
    }
    super::json::write(out, &json!({"meta": meta, "libs": [], "shared": shared, "threads": threads}))?;
    writeln!(out)
}

fn thread(number: usize, name: &str, about: &About, samples: Samples) -> Value {
    let weight_type = match about.weight {
        Weight::Bytes => "bytes",
        Weight::Objects => "samples",
    };
    json!({
        "name": name,
        "isMainThread": number == 0,
        "pid": about.pid.to_string(),
        "tid": number,
        "processType": "default",
        "processStartupTime": 0,
        "processShutdownTime": null,
        "registerTime": 0,
        "unregisterTime": null,
        "pausedRanges": [],
        "samples": {
            "length": samples.stack.len(),
            "stack": samples.stack,
            "time": samples.start,
            "weight": samples.weight,
            "weightType": weight_type,
        },
        "markers": {"data": [], "name": [], "startTime": [], "endTime": [], "phase": [], "category": [], "length": 0},
    })
}

/// The samples of a thread. Each starts where the one before it ends, so that the chart by time shows their widths.
#[derive(Debug, Default)]
struct Samples {
    stack: Vec<Option<u32>>,
    start: Vec<u64>,
    weight: Vec<u64>,
    end: u64,
}

impl Samples {
    fn push(&mut self, stack: Option<u32>, weight: u64) {
        self.stack.push(stack);
        self.start.push(self.end);
        self.weight.push(weight);
        self.end = self.end.saturating_add(weight);
    }
}

/// Stacks as a tree: each has a frame and the stack of its caller.
#[derive(Debug, Default)]
struct StackTable {
    frame: Vec<u32>,
    prefix: Vec<Option<u32>>,
    index: FxHashMap<(Option<u32>, u32), u32>,
}

impl StackTable {
    fn index(&mut self, prefix: Option<u32>, frame: u32) -> u32 {
        let next = self.frame.len() as u32;
        *self.index.entry((prefix, frame)).or_insert_with(|| {
            self.frame.push(frame);
            self.prefix.push(prefix);
            next
        })
    }
}

/// The tables of frames, of the functions that they are in, and of the files that these are in.
struct Tables {
    frames: Value,
    functions: Value,
    sources: Value,
}

impl Tables {
    fn of(frames: &[ProfileFrame], strings: &mut StringTable) -> Tables {
        let mut files = StringTable::default();
        let mut known: FxHashMap<(&str, &str), usize> = FxHashMap::default();
        let (mut names, mut sources): (Vec<u32>, Vec<Option<u32>>) = (Vec::new(), Vec::new());
        let mut functions: Vec<usize> = Vec::with_capacity(frames.len());
        for frame in frames {
            let function = *known.entry((&frame.name, &frame.file)).or_insert_with(|| {
                names.push(strings.index(&frame.name));
                sources.push((!frame.file.is_empty()).then(|| files.index(&frame.file)));
                names.len() - 1
            });
            functions.push(function);
        }
        let lines: Vec<Option<u32>> = frames.iter().map(|frame| (frame.line > 0).then_some(frame.line)).collect();
        let file_names: Vec<u32> = files.list().iter().map(|file| strings.index(file)).collect();
        let (length, count) = (frames.len(), names.len());
        Tables {
            frames: json!({
                "func": functions, "line": lines, "column": vec![Value::Null; length],
                "address": vec![-1; length], "inlineDepth": vec![0; length], "category": vec![0; length],
                "subcategory": vec![0; length], "nativeSymbol": vec![Value::Null; length],
                "innerWindowID": vec![0; length], "length": length,
            }),
            functions: json!({
                "name": names, "source": sources, "isJS": vec![false; count], "relevantForJS": vec![false; count],
                "resource": vec![-1; count], "lineNumber": vec![Value::Null; count],
                "columnNumber": vec![Value::Null; count], "length": count,
            }),
            sources: json!({
                "id": vec![Value::Null; file_names.len()], "length": file_names.len(), "filename": file_names,
            }),
        }
    }
}
