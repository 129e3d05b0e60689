//! Tests that estimates are honest: over many seeds, 95 of 100 intervals hold the truth.
//!
//! A target is read once into an image. A census of the image is the truth; then the image is sampled with one seed
//! after another, by the code that samples a process. Nothing here depends on time.
//!
//!     cargo test --test all -- estimate [NAME]    150 seeds, with bounds that chance exceeds once in a million runs
//!     cargo test --test all -- estimate [NAME] -- --ignored    1,000 seeds, with the intended bounds
//!
//! HEAPSONDE_SEEDS and HEAPSONDE_OBJECTS set the number of seeds and the size of the heap, HEAPSONDE_HEAP the random
//! heap.

use std::collections::HashMap;

use crate::case::TestCase;
use crate::common;
use crate::common::interpreters::{self, Interpreter};
use crate::common::target::Target;
use crate::common::{program, tool};
use fastrand::Rng;
use heapsonde::analysis::histogram::{Amount, Histogram, Row, SortKey, Tally};
use heapsonde::estimate::design::{Effort, SamplingFrame};
use heapsonde::estimate::estimator::{self, GroupBy};
use heapsonde::estimate::pool_headers::{FirstHeaders, HEADERS_MAX, HeaderLimit};
use heapsonde::heap::census::Progress;
use heapsonde::heap::classify::classifier::Classifier;
use heapsonde::inspect;
use heapsonde::process::copy;
use heapsonde::process::layered::Layered;
use libtest_mimic::Failed;
use serde_json::Value;

/// One heap and how it is sampled.
struct Case {
    name: &'static str,
    program: &'static str,
    args: &'static [&'static str],
    env: &'static [(&'static str, &'static str)],
    /// Bytes read beyond what is always read.
    bytes: u64,
    headers_max: u64,
}

const AGES: &str = "ages.py";
const RANDOM: &str = "random_heap.py";

const CASES: &[Case] = &[
    Case { name: "by-age", program: AGES, args: &[], env: &[], bytes: 12 << 20, headers_max: HEADERS_MAX },
    Case {
        name: "mixed",
        program: AGES,
        args: &["--mixed", "--large", "3000"],
        env: &[],
        bytes: 8 << 20,
        headers_max: HEADERS_MAX,
    },
    Case { name: "few-heads-mixed", program: AGES, args: &["--mixed"], env: &[], bytes: 6 << 20, headers_max: 1500 },
    Case { name: "huge", program: AGES, args: &["--huge", "60"], env: &[], bytes: 12 << 20, headers_max: HEADERS_MAX },
    Case {
        name: "malloc",
        program: AGES,
        args: &["--mixed"],
        env: &[("PYTHONMALLOC", "malloc")],
        bytes: 8 << 20,
        headers_max: HEADERS_MAX,
    },
    Case { name: "random-1", program: RANDOM, args: &["101"], env: &[], bytes: 12 << 20, headers_max: HEADERS_MAX },
    Case { name: "random-2", program: RANDOM, args: &["102"], env: &[], bytes: 12 << 20, headers_max: 2000 },
    Case { name: "random-3", program: RANDOM, args: &["103"], env: &[], bytes: 8 << 20, headers_max: HEADERS_MAX },
];

/// Between which the share must lie, of the intervals that rest on the spread of what was seen, that hold the truth.
/// Others are cautious: where next to all pools are as expected a sample is the same whether a few are not or none, so
/// an interval that holds where there are a few holds always where there are none. Of all together only the lower bound
/// is asked.
const COVERAGE: std::ops::RangeInclusive<f64> = 0.93..=0.97;
/// As above, for each type by itself, those for which there is only a limit as well. The aim is 0.93.
const COVERAGE_OF_ONE: f64 = 0.92;
/// Types of fewer objects are not asked for their objects, and types of a smaller share not for the mean of their
/// bytes.
const OBJECTS_MIN: u64 = 100;
const SHARE: f64 = 0.01;
/// What the mean of bytes may be beside the truth, beyond what chance does: a share of it, since a list's block does
/// not say how much of its last page is used; and standard errors of one estimate, since a ratio of sums is biased
/// (Cochran, 6.8).
const BIAS: f64 = 0.02;
const BIAS_OF_RATIO: f64 = 0.25;
/// How many standard errors a share may be beyond its bound: by chance one in a million is.
const ERRORS: f64 = 4.9;
/// Seeds in a run that takes seconds, and in one that is asked for.
const FEW: u64 = 150;
const MANY: u64 = 1000;

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let Some(interpreter) =
        interpreters::find_and_say().into_iter().rfind(|it| matches!(it.kind.as_str(), "default" | "chroot"))
    else {
        common::skipped("estimate", "no interpreter is here");
        return Vec::new();
    };
    let mut cases = Vec::new();
    for case in CASES {
        // `cargo test --test all -- estimate --ignored` takes a minute or two.
        for (seeds, ends) in [(FEW, ""), (MANY, "/1000")] {
            let (name, interpreter) = (format!("{}{ends}", case.name), interpreter.clone());
            cases.push(
                TestCase::new(name, move || intervals_hold_the_truth(&interpreter, case, seeds).map_err(Failed::from))
                    .ignored_if(seeds == MANY),
            );
        }
    }
    for (name, test) in OPTIONS {
        let interpreter = interpreter.clone();
        cases.push(TestCase::new(*name, move || test(&interpreter).map_err(Failed::from)));
    }
    cases
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
    above: u64,
    below: u64,
    bytes_held: u64,
    sum: f64,
    bytes_sum: f64,
    bytes_squares: f64,
    width: f64,
    error: f64,
}

fn intervals_hold_the_truth(interpreter: &Interpreter, case: &Case, seeds: u64) -> Result<(), String> {
    let objects = from_environment("HEAPSONDE_OBJECTS", 1_000_000).to_string();
    let heap = std::env::var("HEAPSONDE_HEAP").ok();
    let mut args: Vec<&str> = ["--objects", &objects].into_iter().chain(case.args.iter().copied()).collect();
    if let (RANDOM, Some(heap)) = (case.program, &heap) {
        args.truncate(2);
        args.push(heap);
    }
    // The same heap each time.
    let env: Vec<(&str, &str)> = case.env.iter().copied().chain([("PYTHONHASHSEED", "1")]).collect();
    let target = Target::spawn(interpreter, &program(case.program), &args, &env)?;
    let pid = i32::try_from(target.pid()).map_err(|e| e.to_string())?;
    let mut opened = inspect::Target::process(pid).map_err(|e| e.to_string())?;
    let survey = opened.survey().map_err(|e| e.to_string())?;
    let (source, python) = (&opened.source, opened.python());
    let ranges: Vec<_> = survey.plan.parts.iter().flat_map(heapsonde::heap::part::Part::ranges).collect();
    let copy = copy::copy_ranges(source, &ranges).map_err(|e| e.to_string())?;
    let memory = Layered::new(&copy.image, source);
    let types = opened.attached.types(&memory, &survey).map_err(|e| e.to_string())?;
    let census = survey.census(&memory, python, &types, &Progress::default(), || Tally::new(types.len()));
    let (tallies, _) = census.map_err(|e| e.to_string())?;
    let truth = Histogram::new(&types, &tallies, SortKey::Objects);
    let classifier = Classifier::new(&python.layout, python.version, &types, survey.debug_hooks);

    let seeds = from_environment("HEAPSONDE_SEEDS", seeds);
    let mut records: HashMap<String, Record> = HashMap::new();
    let mut total = Record::default();
    // Of each seed, intervals that rest on the spread of what was seen: how many hold the truth, of how many.
    let mut by_spread: Vec<(f64, f64)> = Vec::new();
    let mut share = 0.0;
    for seed in 0..seeds {
        let mut rng = Rng::with_seed(seed);
        let first = FirstHeaders::read(&memory, &python.layout, &survey.plan, case.headers_max, &mut rng);
        let first = first.map_err(|e| e.to_string())?;
        let frame = SamplingFrame::new(&memory, &classifier, &survey.plan, first, HeaderLimit::default(), &mut rng);
        let frame = frame.map_err(|e| e.to_string())?;
        let effort = Effort::Bytes(frame.fixed_bytes() + case.bytes);
        let sample = frame.draw(&memory, &classifier, effort, &mut rng).map_err(|e| e.to_string())?;
        share += sample.pools.1 as f64 / sample.pools.0.max(1.0) / seeds as f64;
        let estimate = estimator::histogram(&types, &sample, GroupBy::Type, SortKey::Objects);
        let found: HashMap<String, &Row> = estimate.rows.iter().map(|row| (row.label(), row)).collect();
        let (mut held, mut asked) = (0.0, 0.0);
        for row in &truth.rows {
            let record = records.entry(row.label()).or_default();
            if let Some(found) = found.get(&row.label()) {
                let interval = found.interval.ok_or("a sampled row has an interval")?;
                record.add(row.amount, found.amount, interval.low, interval.high);
                record.rare += u64::from(interval.is_upper_bound);
                let holds = (interval.low.objects..=interval.high.objects).contains(&row.amount.objects);
                if row.amount.objects >= OBJECTS_MIN && !interval.is_cautious && interval.low != interval.high {
                    asked += 1.0;
                    held += f64::from(u8::from(holds));
                }
            }
        }
        by_spread.push((held, asked));
        let interval = estimate.interval.ok_or("a sampled histogram has an interval")?;
        total.add(truth.total, estimate.total, interval.low, interval.high);
    }

    let mut lines = vec![format!("{}: {:.1} % of pools, {seeds} seeds", case.name, share * 100.0)];
    lines.push(format!(
        "{:>28} {:>9} {:>7} {:>6} {:>6} {:>7} {:>8} {:>8} {:>7} {:>7} {:>6}",
        "type", "objects", "covered", "below", "above", "bytes", "±%", "error%", "bias%", "bytes", "rare%"
    ));
    // What chance may do: seeds are independent of each other, the types of one seed are not.
    let slack_of_one = ERRORS * (COVERAGE_OF_ONE * (1.0 - COVERAGE_OF_ONE) / seeds as f64).sqrt();
    let asked: f64 = by_spread.iter().map(|seed| seed.1).sum();
    let share_of_spread = by_spread.iter().map(|seed| seed.0).sum::<f64>() / asked.max(1.0);
    let beside = by_spread.iter().map(|seed| (seed.0 - share_of_spread * seed.1).powi(2)).sum::<f64>().sqrt();
    let slack = if seeds < MANY { ERRORS * beside / asked.max(1.0) } else { 0.0 };
    let (mut sum, mut count, mut low) = (0.0, 0, Vec::new());
    let mut biased = Vec::new();
    let is_large = |amount: Amount| amount.bytes as f64 >= SHARE * truth.total.bytes as f64;
    let rows = truth.rows.iter().filter(|row| row.amount.objects >= OBJECTS_MIN || is_large(row.amount));
    for (label, amount, record) in rows
        .map(|row| (row.label(), row.amount, &records[&row.label()]))
        .chain(std::iter::once(("Total".to_owned(), truth.total, &total)))
    {
        let share = |part: u64| part as f64 / record.seen.max(1) as f64;
        let relative = |value: f64| value * 100.0 / record.seen.max(1) as f64 / amount.objects as f64;
        let bias = relative(record.sum) * record.seen as f64 / seeds as f64 - 100.0;
        let mean = record.bytes_sum / seeds as f64;
        let error = (record.bytes_squares / seeds as f64 - mean.powi(2)).max(0.0).sqrt();
        let bytes_bias = mean * 100.0 / amount.bytes as f64 - 100.0;
        let slack = BIAS * amount.bytes as f64 + error * (ERRORS / (seeds as f64).sqrt() + BIAS_OF_RATIO);
        if is_large(amount) && (mean - amount.bytes as f64).abs() > slack {
            biased.push(label.clone());
        }
        lines.push(format!(
            "{label:>28} {:>9} {:>7.1} {:>6.1} {:>6.1} {:>7.1} {:>8.3} {:>8.3} {:>7.2} {:>7.2} {:>6.1}",
            amount.objects,
            share(record.objects_held) * 100.0,
            share(record.below) * 100.0,
            share(record.above) * 100.0,
            share(record.bytes_held) * 100.0,
            relative(record.width),
            relative(record.error),
            bias,
            bytes_bias,
            share(record.rare) * 100.0,
        ));
        // What is read completely has no error.
        if record.error > 0.0 && amount.objects >= OBJECTS_MIN {
            // Those too rare for an interval have a limit instead.
            if record.rare == 0 {
                sum += share(record.objects_held);
                count += 1;
            }
            if share(record.objects_held) < COVERAGE_OF_ONE - slack_of_one {
                low.push(label);
            }
        }
    }
    let mean = sum / f64::from(count.max(1));
    lines.push(format!("mean coverage of {count} types: {:.1} %", mean * 100.0));
    let each = asked / seeds as f64;
    lines.push(format!("by spread, {each:.1} types of a seed: {:.1} %", share_of_spread * 100.0));
    tool::say(&lines.join("\n"));
    if mean < COVERAGE.start() - slack {
        return Err(format!("the intervals hold the truth in {:.1} % of {seeds} seeds", mean * 100.0));
    }
    if asked > 0.0 && !(COVERAGE.start() - slack..=COVERAGE.end() + slack).contains(&share_of_spread) {
        return Err(format!("intervals by spread hold the truth in {:.1} % of {seeds} seeds", share_of_spread * 100.0));
    }
    if !biased.is_empty() {
        return Err(format!("bytes of these types are biased: {biased:?}"));
    }
    if !low.is_empty() {
        return Err(format!("intervals of these types are too narrow: {low:?}"));
    }
    Ok(())
}

/// What the options of `histo --sample` promise.
type Test = fn(&Interpreter) -> Result<(), String>;
const OPTIONS: &[(&str, Test)] = &[
    ("a-limit-of-bytes-is-kept", a_limit_of_bytes),
    ("a-seed-draws-the-same-again", a_seed),
    ("an-error-is-reached", an_error),
    ("a-budget-is-said", a_budget),
    ("a-small-heap-is-read-whole", whole),
    ("nonsense-is-refused", nonsense),
];

/// An interpreter that was started and no more.
const RESTING: &str = r"
import os; os.write(1, b'ready %d\n' % os.getpid()); os.read(0, 1)
";

/// A heap of 300,000 objects that stands still, and its process's number.
fn standing(interpreter: &Interpreter) -> Result<(Target, String), String> {
    let target = Target::spawn(interpreter, &program("ages.py"), &["--objects", "300000"], &[])?;
    target.signal(nix::sys::signal::Signal::SIGSTOP);
    let pid = target.pid().to_string();
    Ok((target, pid))
}

fn sampled(pid: &str, options: &[&str]) -> Result<Value, String> {
    let args: Vec<&str> = ["histo", "--json", "--sample", pid].into_iter().chain(options.iter().copied()).collect();
    let report = tool::run(&args)?.ok()?.json()?;
    let rows = report["types"].as_array().ok_or("no types")?;
    let is_sample = report["basis"] == "sampled";
    for row in rows.iter().chain(std::iter::once(&report["totals"])).filter(|_| is_sample) {
        let of = |name: &str| row[name].as_u64().ok_or(format!("no {name} in {row}"));
        let (objects, bytes) = (of("objects")?, of("shallow_bytes")?);
        if !(of("low")?..=of("high")?).contains(&objects) || !(of("bytes_low")?..=of("bytes_high")?).contains(&bytes) {
            return Err(format!("an estimate beside its interval: {row}"));
        }
    }
    Ok(report)
}

fn a_limit_of_bytes(interpreter: &Interpreter) -> Result<(), String> {
    let (_target, pid) = standing(interpreter)?;
    for mebibytes in [8_u64, 12] {
        let limit = format!("{mebibytes}MiB");
        let report = sampled(&pid, &["--max-read", &limit, "--seed", "3"])?;
        let read = report["reading"]["read_bytes"].as_u64().ok_or("no bytes")?;
        if report["basis"] != "sampled" || read > mebibytes << 20 || read < mebibytes << 19 {
            return Err(format!("{limit}: {read} bytes read, {}", report["basis"]));
        }
    }
    Ok(())
}

fn a_seed(interpreter: &Interpreter) -> Result<(), String> {
    let (_target, pid) = standing(interpreter)?;
    let types = |seed: &str| Ok::<_, String>(sampled(&pid, &["--max-read", "8MiB", "--seed", seed])?["types"].clone());
    let first = types("7")?;
    if types("7")? != first {
        return Err("the same seed, another sample".into());
    }
    if types("8")? == first {
        return Err("another seed, the same sample".into());
    }
    Ok(())
}

fn an_error(interpreter: &Interpreter) -> Result<(), String> {
    let (_target, pid) = standing(interpreter)?;
    let report = sampled(&pid, &["--error", "2%", "--seed", "1"])?;
    if report["basis"] != "sampled" {
        return Ok(());
    }
    let total = report["totals"]["objects"].as_f64().ok_or("no total")?;
    for row in report["types"].as_array().ok_or("no types")? {
        let of = |name: &str| row[name].as_f64().unwrap_or(f64::NAN);
        if of("objects") > total * 0.01 && (of("high") - of("low")) / 2.0 > 0.02 * of("objects") {
            return Err(format!("known less well than to 2 %: {row}"));
        }
    }
    Ok(())
}

fn a_budget(interpreter: &Interpreter) -> Result<(), String> {
    // More than any machine reads in that time.
    let objects = ["--objects", "1500000"];
    let target = Target::spawn(interpreter, &program("ages.py"), &objects, &[])?;
    target.signal(nix::sys::signal::Signal::SIGSTOP);
    let pid = target.pid().to_string();
    // No time at all: what is least is read.
    let report = sampled(&pid, &["--budget", "5ms", "--seed", "1"])?;
    let of = |name: &str| report["sample"][name].as_f64().ok_or(format!("no {name}"));
    if report["basis"] != "sampled" || of("pools_read")? > 0.8 * of("pools")? || report["sample"]["seed"] != 1 {
        return Err(report["sample"].to_string());
    }
    let table = tool::run(&["histo", "--sample", "--budget", "5ms", &pid])?.ok()?.text();
    let basis = table.lines().find(|line| line.starts_with("basis: sampled, ")).ok_or(table.clone())?;
    if !basis.contains(" % of pools, ") || !table.contains(" ± ") || !table.contains("≤ ") {
        return Err(table);
    }
    // So does one whose blocks malloc gives, of which nothing says how fast pools are read.
    let malloc = [("PYTHONMALLOC", "malloc")];
    let of_malloc = Target::spawn(interpreter, &program("ages.py"), &objects, &malloc)?;
    of_malloc.signal(nix::sys::signal::Signal::SIGSTOP);
    let of_malloc = tool::run(&["histo", "--sample", "--budget", "5ms", &of_malloc.pid().to_string()])?.ok()?.text();
    if !of_malloc.contains(" % of bytes, ") {
        return Err(of_malloc);
    }
    let svg = tool::run(&["flamegraph", "--sample", "--budget", "5ms", "-o", "-", &pid])?.ok()?.text();
    if svg.contains("sampled, ") && svg.contains(" % of pools") {
        Ok(())
    } else {
        Err("no basis in the picture".into())
    }
}

/// What can be read completely is no estimate.
fn whole(interpreter: &Interpreter) -> Result<(), String> {
    let (_target, pid) = standing(interpreter)?;
    let report = sampled(&pid, &["--max-read", "1GiB"])?;
    is_census(&report, &pid)?;
    // Which the first guess of what fits a budget must not keep from.
    let resting = Target::spawn(interpreter, RESTING, &[], &[])?;
    resting.signal(nix::sys::signal::Signal::SIGSTOP);
    let pid = resting.pid().to_string();
    is_census(&sampled(&pid, &[])?, &pid)
}

fn is_census(report: &Value, pid: &str) -> Result<(), String> {
    let census = tool::run(&["histo", "--json", pid])?.ok()?.json()?;
    let rows = |report: &Value| report["types"].as_array().cloned().unwrap_or_default();
    let (estimated, counted) = (rows(report), rows(&census));
    let is_exact = estimated.len() == counted.len()
        && (estimated.iter().zip(&counted)).all(|(row, counted)| is_certain(row, counted))
        && is_certain(&report["totals"], &census["totals"]);
    if report["basis"] == "exact" && is_exact {
        return Ok(());
    }
    Err(format!("{} {} {}", report["basis"], report["totals"], census["totals"]))
}

/// Whether a row is the one that was counted, and its limits are what it says.
fn is_certain(row: &Value, counted: &Value) -> bool {
    let mut expected = counted.clone();
    for (limit, figure) in
        [("low", "objects"), ("high", "objects"), ("bytes_low", "shallow_bytes"), ("bytes_high", "shallow_bytes")]
    {
        expected[limit] = counted[figure].clone();
    }
    expected["is_upper_bound"] = false.into();
    expected["is_cautious"] = false.into();
    row["objects"].is_u64() && row["shallow_bytes"].is_u64() && *row == expected
}

fn nonsense(_: &Interpreter) -> Result<(), String> {
    for nonsense in [["--budget", "0"], ["--budget", "x"], ["--max-read", "0"], ["--error", "0%"], ["--error", "200%"]]
    {
        let run = tool::run(&["histo", "--sample", nonsense[0], nonsense[1], "1"])?;
        if run.status.code() != Some(2) || !run.stderr.contains(nonsense[0]) {
            return Err(format!("{nonsense:?}: {} {}", run.status, run.stderr));
        }
    }
    // Two ways to say how much.
    match tool::run(&["histo", "--sample", "--budget", "1s", "--error", "2%", "1"])?.status.code() {
        Some(2) => Ok(()),
        code => Err(format!("{code:?}")),
    }
}

impl Record {
    fn add(&mut self, truth: Amount, found: Amount, low: Amount, high: Amount) {
        self.seen += 1;
        self.objects_held += u64::from((low.objects..=high.objects).contains(&truth.objects));
        self.above += u64::from(truth.objects > high.objects);
        self.below += u64::from(truth.objects < low.objects);
        self.bytes_held += u64::from((low.bytes..=high.bytes).contains(&truth.bytes));
        self.sum += found.objects as f64;
        self.bytes_sum += found.bytes as f64;
        self.bytes_squares += (found.bytes as f64).powi(2);
        self.width += high.objects.saturating_sub(low.objects) as f64 / 2.0;
        self.error += found.objects.abs_diff(truth.objects) as f64;
    }
}
