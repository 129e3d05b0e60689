//! Estimates keep what they promise: over many seeds, the 95 % interval holds the truth in 95 of 100.
//!
//! A target is read once into an image. A census of the image is the truth; then the image is sampled with one seed
//! after another, by the code that samples a process. Nothing here is measured in time.
//!
//!     cargo test --test estimate [NAME]          HEAPSONDE_SEEDS=100 is quicker; HEAPSONDE_OBJECTS sets the heap's size

mod common;

use std::collections::HashMap;

use fastrand::Rng;
use libtest_mimic::{Arguments, Failed, Trial};

use common::interpreters::{self, Interpreter};
use common::program;
use common::target::Target;
use heapsonde::analysis::estimate::{self, By};
use heapsonde::analysis::histogram::{Amount, Histogram, Row, SortKey, Tally};
use heapsonde::heap::census::Progress;
use heapsonde::heap::classify::Classifier;
use heapsonde::heap::sampling::{Effort, Frame, HEADS_MAX};
use heapsonde::heap::survey::Survey;
use heapsonde::python::attach;
use heapsonde::python::types::TypeTable;
use heapsonde::target::cache::CachedMemory;
use heapsonde::target::copy;
use heapsonde::target::elf::{ElfFile, LoadedElf};
use heapsonde::target::layered::Layered;
use heapsonde::target::process::Process;

/// One heap and how it is sampled.
struct Case {
    name: &'static str,
    args: &'static [&'static str],
    env: &'static [(&'static str, &'static str)],
    /// Bytes read beyond what is always read.
    bytes: u64,
    heads_max: u64,
}

const CASES: &[Case] = &[
    Case { name: "by-age", args: &[], env: &[], bytes: 12 << 20, heads_max: HEADS_MAX },
    Case { name: "mixed", args: &["--mixed", "--large", "3000"], env: &[], bytes: 8 << 20, heads_max: HEADS_MAX },
    Case { name: "few-heads-mixed", args: &["--mixed"], env: &[], bytes: 6 << 20, heads_max: 1500 },
    Case {
        name: "malloc",
        args: &["--mixed"],
        env: &[("PYTHONMALLOC", "malloc")],
        bytes: 8 << 20,
        heads_max: HEADS_MAX,
    },
];

/// Between which the share of seeds must lie whose interval holds the truth, on average over the types of a heap.
const COVERAGE: std::ops::RangeInclusive<f64> = 0.93..=0.97;
/// As above, for each type: what holds today, so that it gets no worse. The aim is 0.93. Short of it are types that differ
/// most in the pools of the interpreter's start, of which few are drawn (`str`, `bytes` and `tuple`, 84 to 91 %), and
/// totals of objects, whose interval is a 2,000th of them (81 to 91 %).
const COVERAGE_OF_ONE: f64 = 0.75;

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(1));
    let Some(interpreter) = interpreters::find_and_say().into_iter().rfind(Interpreter::has_gil) else {
        common::skipped("estimate", "no interpreter is here");
        libtest_mimic::run(&arguments, Vec::new()).exit();
    };
    let trials = CASES.iter().map(|case| {
        let interpreter = interpreter.clone();
        // Minutes each, and single types do not reach 93 % yet: `cargo test --test estimate -- --ignored`.
        Trial::test(case.name, move || intervals_hold_the_truth(&interpreter, case).map_err(Failed::from))
            .with_ignored_flag(true)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// What the seeds said of one type.
#[derive(Default)]
struct Record {
    seen: u64,
    rare: u64,
    objects_held: u64,
    bytes_held: u64,
    sum: f64,
    width: f64,
    error: f64,
}

fn intervals_hold_the_truth(interpreter: &Interpreter, case: &Case) -> Result<(), String> {
    let objects = from_environment("HEAPSONDE_OBJECTS", 1_000_000).to_string();
    let args: Vec<&str> = ["--objects", &objects].into_iter().chain(case.args.iter().copied()).collect();
    let target = Target::spawn(interpreter, &program("ages.py"), &args, case.env)?;
    let pid = i32::try_from(target.pid()).map_err(|e| e.to_string())?;
    let process = Process::open(pid).map_err(|e| e.to_string())?;
    let cached = CachedMemory::new(&process);
    let elfs = LoadedElf::all(&cached);
    let open_file = |elf: &LoadedElf| ElfFile::open(pid, &process, elf).ok();
    let python = attach::attach(&cached, &elfs, &open_file).map_err(|e| e.to_string())?;
    let survey = Survey::new(&process, &python, &elfs);
    let ranges: Vec<_> = survey.plan.parts.iter().flat_map(heapsonde::heap::plan::Part::ranges).collect();
    let copy = copy::copy_ranges(&process, &ranges).map_err(|e| e.to_string())?;
    let memory = Layered::new(&copy.image, &process);
    let types = TypeTable::build(&CachedMemory::new(&memory), &python, &survey.plan.statics());
    let types = types.map_err(|e| e.to_string())?;
    let census = survey.census(&memory, &python, &types, &Progress::default(), || Tally::new(types.len()));
    let (tallies, _) = census.map_err(|e| e.to_string())?;
    let truth = Histogram::new(&types, &tallies, SortKey::Objects);
    let classifier = Classifier::new(&python.layout, python.version, &types, survey.debug_hooks);

    let seeds = from_environment("HEAPSONDE_SEEDS", 1000);
    let mut records: HashMap<String, Record> = HashMap::new();
    let mut total = Record::default();
    let mut share = 0.0;
    for seed in 0..seeds {
        let mut rng = Rng::with_seed(seed);
        let frame = Frame::new(&memory, &python.layout, &survey.plan, case.heads_max, &mut rng);
        let frame = frame.map_err(|e| e.to_string())?;
        let effort = Effort::Bytes(frame.fixed_bytes() + case.bytes);
        let sample = frame.draw(&memory, &classifier, effort, &mut rng).map_err(|e| e.to_string())?;
        share += sample.pools.1 as f64 / sample.pools.0 / seeds as f64;
        let estimate = estimate::histogram(&types, &sample, By::Type, SortKey::Objects);
        let found: HashMap<String, &Row> = estimate.rows.iter().map(|row| (row.label(), row)).collect();
        for row in &truth.rows {
            let record = records.entry(row.label()).or_default();
            if let Some(found) = found.get(&row.label()) {
                let interval = found.interval.ok_or("a sampled row has an interval")?;
                record.add(row.amount, found.amount, interval.low, interval.high);
                record.rare += u64::from(interval.is_upper_bound);
            }
        }
        let interval = estimate.interval.ok_or("a sampled histogram has an interval")?;
        total.add(truth.total, estimate.total, interval.low, interval.high);
    }

    let mut lines = vec![format!("{}: {:.1} % of pools, {seeds} seeds", case.name, share * 100.0)];
    lines.push(format!(
        "{:>28} {:>9} {:>7} {:>7} {:>7} {:>7} {:>7} {:>6}",
        "type", "objects", "covered", "bytes", "±%", "error%", "bias%", "rare%"
    ));
    let (mut sum, mut count, mut low) = (0.0, 0, Vec::new());
    let rows = truth.rows.iter().filter(|row| row.amount.objects >= 100);
    for (label, amount, record) in rows
        .map(|row| (row.label(), row.amount, &records[&row.label()]))
        .chain(std::iter::once(("Total".to_owned(), truth.total, &total)))
    {
        let share = |part: u64| part as f64 / record.seen.max(1) as f64;
        let relative = |value: f64| value * 100.0 / record.seen.max(1) as f64 / amount.objects as f64;
        let bias = relative(record.sum) * record.seen as f64 / seeds as f64 - 100.0;
        lines.push(format!(
            "{label:>28} {:>9} {:>7.1} {:>7.1} {:>7.2} {:>7.2} {:>7.2} {:>6.1}",
            amount.objects,
            share(record.objects_held) * 100.0,
            share(record.bytes_held) * 100.0,
            relative(record.width),
            relative(record.error),
            bias,
            share(record.rare) * 100.0,
        ));
        // Types that are read completely have no error, and those too rare for an interval have a limit instead.
        if record.error > 0.0 && record.rare == 0 {
            sum += share(record.objects_held);
            count += 1;
            if share(record.objects_held) < COVERAGE_OF_ONE {
                low.push(label);
            }
        }
    }
    let mean = sum / f64::from(count.max(1));
    lines.push(format!("mean coverage of {count} types: {:.1} %", mean * 100.0));
    common::tool::say(&lines.join("\n"));
    if !COVERAGE.contains(&mean) {
        return Err(format!("the intervals hold the truth in {:.1} % of {seeds} seeds", mean * 100.0));
    }
    if !low.is_empty() {
        return Err(format!("intervals of these types are too narrow: {low:?}"));
    }
    Ok(())
}

impl Record {
    fn add(&mut self, truth: Amount, found: Amount, low: Amount, high: Amount) {
        self.seen += 1;
        self.objects_held += u64::from((low.objects..=high.objects).contains(&truth.objects));
        self.bytes_held += u64::from((low.bytes..=high.bytes).contains(&truth.bytes));
        self.sum += found.objects as f64;
        self.width += high.objects.saturating_sub(low.objects) as f64 / 2.0;
        self.error += found.objects.abs_diff(truth.objects) as f64;
    }
}
