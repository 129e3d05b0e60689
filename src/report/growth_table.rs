//! What grew, for people: at most 25 lines.

use std::io::{self, Write};
use std::time::Duration;

use crate::analysis::garbage::TypeOfGarbage;
use crate::analysis::growth::bounds::{Bound, BoundKind};
use crate::analysis::growth::describe::{GrowingOwner, LOOKS_SURE};
use crate::analysis::growth::figures::Figures;
use crate::analysis::growth::growing_garbage::GrowingGarbage;
use crate::analysis::growth::series::TypeGrowth;
use crate::analysis::growth::suspects::SuspectKind;
use crate::analysis::growth::verdict::Verdict;
use crate::inspect::growth::Growth;

use super::escape::printable;
use super::{finding, units};

/// Suspects that are shown, and others that grew.
const SUSPECTS_SHOWN: usize = 3;
const OTHERS_SHOWN: usize = 3;
/// Types in a row.
const TYPES_SHOWN: usize = 4;
/// What inspectors say of a suspect.
const FINDINGS_SHOWN: usize = 1;
/// Lines that make what grows.
const LINES_SHOWN: usize = 2;
/// Characters of a line that two things share.
const LINE_SHOWN: usize = 100;
/// Characters of a chain.
const CHAIN_SHOWN: usize = 160;

/// Writes what grew in the program of this name.
///
/// # Errors
/// Errors of the writer.
pub fn write(out: &mut dyn Write, name: &str, growth: &Growth) -> io::Result<()> {
    writeln!(
        out,
        "{}  {}, {}   heap {}   RSS {}",
        printable(name),
        growth.times(),
        seconds(growth.duration),
        change(&growth.heap_bytes),
        units::signed_bytes(growth.rss_bytes.growth()),
    )?;
    let (suspects, others): (Vec<&GrowingOwner>, Vec<&GrowingOwner>) =
        growth.owners.iter().partition(|owner| owner.verdict.is_of_a_leak());
    for (number, owner) in (1..).zip(suspects.iter().take(SUSPECTS_SHOWN)) {
        suspect(out, number, owner, growth)?;
    }
    if let Some(grown) = &growth.growing_garbage {
        garbage(out, grown)?;
    }
    let is_garbage = growth.growing_garbage.as_ref().is_some_and(GrowingGarbage::is_leak);
    let more = suspects.len().saturating_sub(SUSPECTS_SHOWN);
    let end = match (suspects.len(), more) {
        (0, _) if is_garbage => "No other suspect.".to_owned(),
        (0, _) if growth.looks == 0 => "Nothing grew: no type has more objects or bytes than at first.".to_owned(),
        (0, _) => "No suspect: nothing grew at each look as a leak does.".to_owned(),
        (_, 0) => "No other suspect.".to_owned(),
        (_, more) => format!("{more} more suspects, smaller than these (--json has them)."),
    };
    if !others.is_empty() {
        writeln!(out, "Grew, but not as a leak does:")?;
        for owner in others.iter().take(OTHERS_SHOWN) {
            other(out, owner)?;
        }
        let more = others.len().saturating_sub(OTHERS_SHOWN);
        if more > 0 {
            writeln!(out, "   and {more} more (--json has them)")?;
        }
    }
    if growth.left_out > 0 {
        writeln!(out, "{} more grew less than all of these.", units::count(growth.left_out))?;
    }
    if growth.looks > 0 {
        let garbage = &growth.garbage.values;
        let count = |value: Option<&u64>| units::count(value.copied().unwrap_or(0));
        let collector = match growth.is_collector_on {
            Some(true) => " (collector on)",
            Some(false) => " (collector off)",
            None => "",
        };
        let (before, after) = (count(garbage.first()), count(garbage.last()));
        writeln!(out, "{end}  Garbage: {before} -> {after} objects{collector}")?;
    } else {
        writeln!(out, "{end}")?;
    }
    if !growth.unexplained.is_empty() {
        writeln!(out, "Elsewhere: {}", types(&growth.unexplained))?;
    }
    if suspects.is_empty() {
        writeln!(
            out,
            "The slowest growth that would have been seen: {} objects/s. To see less, look for longer (--for).",
            rate(growth.least_rate)
        )?;
    }
    memory(out, growth)?;
    if let Some(why) = &growth.not_recorded {
        writeln!(out, "No lines are named: {why}.")?;
    }
    if let Some(pause) = growth.longest_pause {
        writeln!(out, "The process was stopped for {} at most.", units::duration(pause))?;
    }
    if growth.unused > 0 {
        let (looks, were) = if growth.unused == 1 { ("look", "was") } else { ("looks", "were") };
        writeln!(out, "{} {looks} failed or saw less than the others, and {were} not used.", growth.unused)?;
    }
    Ok(())
}

/// Up to five lines on one suspect.
fn suspect(out: &mut dyn Write, number: usize, owner: &GrowingOwner, growth: &Growth) -> io::Result<()> {
    let rate = match owner.kind {
        SuspectKind::Container => format!("{:+} objects/s", Rounded(owner.counts.rate())),
        SuspectKind::Buffer | SuspectKind::Region => format!("{}/s", units::signed_bytes(owner.bytes.rate())),
    };
    let doubt = match owner.is_sure {
        true => String::new(),
        false if owner.kind == SuspectKind::Region => "; not sure: it grew at no place in particular".to_owned(),
        false if growth.looks < LOOKS_SURE => format!("; not sure: {} looks only", growth.looks),
        false if owner.verdict == Verdict::Steady => "; not sure: nothing that has a name holds it".to_owned(),
        false => "; not sure".to_owned(),
    };
    writeln!(
        out,
        "{number}  {}  {rate}  {}{doubt}",
        units::signed_bytes(owner.bytes.growth()),
        owner.verdict.sentence()
    )?;
    let from_to = match owner.kind {
        SuspectKind::Container => format!("{} {}", from_to(&owner.counts), plural(&owner.growing_type)),
        SuspectKind::Buffer | SuspectKind::Region => change(&owner.bytes),
    };
    writeln!(out, "   {}   {}  {from_to}", chain(&owner.chain), printable(&owner.type_name))?;
    if let Some((deepest, type_name)) = &owner.deepest {
        writeln!(out, "   mostly in {}   {}", chain(deepest), printable(type_name))?;
    }
    let others: Vec<TypeGrowth> =
        owner.types.iter().filter(|grown| grown.name != owner.growing_type && grown.objects() > 0).cloned().collect();
    let with_it = if others.is_empty() { String::new() } else { format!("   with it: {}", types(&others)) };
    let made_in: Vec<String> = owner.made_in.iter().take(LINES_SHOWN).map(|(line, _)| printable(line)).collect();
    let made_in = if made_in.is_empty() { String::new() } else { format!("   made in: {}", made_in.join(", ")) };
    match with_it.len() + made_in.len() {
        0 => {}
        1..=LINE_SHOWN => writeln!(out, "{with_it}{made_in}")?,
        _ => [with_it, made_in].iter().filter(|line| !line.is_empty()).try_for_each(|line| writeln!(out, "{line}"))?,
    }
    if let (Some(bound), Some(bytes)) = (&owner.bound, owner.out_of_reach) {
        let (name, limit, bytes) = (printable(&bound.name), units::count(bound.limit), units::bytes(bytes));
        writeln!(
            out,
            "   its {name} of {limit} is out of reach: it would take {bytes}, more than the process may have"
        )?;
    }
    owner.findings.iter().take(FINDINGS_SHOWN).try_for_each(|it| writeln!(out, "   {}", finding::sentence(it)))
}

/// Up to four lines on garbage that grew.
fn garbage(out: &mut dyn Write, grown: &GrowingGarbage) -> io::Result<()> {
    let why = match (grown.is_kept, grown.is_leak()) {
        (true, true) => "the collector is off (gc.disable, or a threshold of 0): only gc.collect() frees it",
        (true, false) => "the collector is off, but it did not grow as a leak does",
        (false, _) => "the collector has not come to it yet; it frees it in a collection of all generations",
    };
    let (growth, objects) = (units::signed_bytes(grown.bytes.growth()), from_to(&grown.objects));
    writeln!(out, "Garbage  {growth}  {objects} objects that only cycles hold: {why}")?;
    let of_type = |it: &TypeOfGarbage| format!("{} {}", units::count(it.objects), printable(&it.name));
    let named: Vec<String> = grown.what.types.iter().take(TYPES_SHOWN).map(of_type).collect();
    writeln!(out, "   {}", named.join(", "))?;
    if let Some(ring) = grown.what.rings.first() {
        let rings = if grown.what.ring_count == ring.count { "all cycles" } else { "most cycles" };
        writeln!(out, "   {rings}: {} ({})", printable(&ring.path), units::count(ring.count))?;
    }
    let made_in: Vec<String> = grown.made_in.iter().take(LINES_SHOWN).map(|(line, _)| printable(line)).collect();
    if made_in.is_empty() { Ok(()) } else { writeln!(out, "   made in: {}", made_in.join(", ")) }
}

/// Whether the growth of resident memory is not in Python's objects, and where it is.
fn memory(out: &mut dyn Write, growth: &Growth) -> io::Result<()> {
    if !growth.is_elsewhere() {
        return Ok(());
    }
    let (rss, heap) = (growth.rss_bytes.growth(), growth.heap_bytes.growth());
    let grown = growth.memory.iter().filter(|(_, before, after)| after > before).take(3);
    let rows: Vec<String> = grown
        .map(|&(name, before, after)| format!("{name} {}", units::signed_bytes((after - before) as f64)))
        .collect();
    let where_ = if rows.is_empty() { "see heapsonde memory PID".to_owned() } else { rows.join(", ") };
    let (rss, heap) = (units::signed_bytes(rss), units::signed_bytes(heap));
    writeln!(out, "Not in Python objects: RSS {rss}, objects {heap}. {where_}")?;
    let Some(largest) = growth.native.first() else { return Ok(()) };
    let (bytes, name) = (units::bytes(largest.resident), printable(&largest.owner));
    let owner = match largest.is_type {
        true => format!("{} {name}", units::count(largest.holders)),
        false => format!("the data of {name}"),
    };
    writeln!(out, "Most native memory belongs to {owner}: {bytes} at the last look (heapsonde memory lists all)")
}

/// One line on what grew otherwise.
fn other(out: &mut dyn Write, owner: &GrowingOwner) -> io::Result<()> {
    let figures = owner.telling();
    let what = match (&owner.bound, owner.verdict) {
        (Some(bound), Verdict::Filling) => filling(bound, owner.full_in()),
        (_, Verdict::Recent) => match figures.age() {
            Some(age) => format!("began some {} ago", seconds(age.saturating_add(figures.window()))),
            None => Verdict::Recent.sentence().to_owned(),
        },
        (_, verdict) => verdict.sentence().to_owned(),
    };
    let figures = match owner.kind {
        SuspectKind::Container => format!("{} {}", from_to(figures), plural(&owner.growing_type)),
        _ => change(figures),
    };
    writeln!(out, "   {}   {figures}: {what}", chain(&owner.chain))
}

/// `filling: maxsize 4,000, full in about 15 s`.
fn filling(bound: &Bound, full_in: Option<Duration>) -> String {
    let name = printable(bound.name.trim_start_matches('_').rsplit("__").next().unwrap_or_default());
    let limit = match bound.kind {
        BoundKind::Entries => units::count(bound.limit),
        BoundKind::Seconds => format!("{} s", bound.limit),
    };
    match full_in {
        Some(left) => format!("filling: {name} {limit}, full in about {}", seconds(left)),
        None => format!("filling: {name} {limit}"),
    }
}

/// `60,816 dict, 30,408 tuple`.
fn types(types: &[TypeGrowth]) -> String {
    let shown = types.iter().take(TYPES_SHOWN);
    let shown: Vec<String> = shown
        .map(|grown| format!("{} {}", units::count(grown.objects().unsigned_abs()), printable(&grown.name)))
        .collect();
    let more = types.len().saturating_sub(TYPES_SHOWN);
    if more > 0 { format!("{} and {more} more types", shown.join(", ")) } else { shown.join(", ") }
}

/// `25,620 -> 56,028`.
fn from_to(figures: &Figures) -> String {
    let count = |value: Option<&u64>| units::count(value.copied().unwrap_or(0));
    format!("{} -> {}", count(figures.values.first()), count(figures.values.last()))
}

/// `18.1 MiB -> 31.8 MiB (+13.7 MiB)`.
fn change(bytes: &Figures) -> String {
    let size = |value: Option<&u64>| units::bytes(value.copied().unwrap_or(0));
    format!("{} -> {} ({})", size(bytes.values.first()), size(bytes.values.last()), units::signed_bytes(bytes.growth()))
}

fn seconds(duration: Duration) -> String {
    match duration.as_secs_f64() {
        seconds if seconds < 10.0 => format!("{seconds:.1} s"),
        seconds if seconds < 600.0 => format!("{seconds:.0} s"),
        seconds if seconds < 36_000.0 => format!("{:.0} min", seconds / 60.0),
        seconds => format!("{:.0} h", seconds / 3600.0),
    }
}

/// A rate with as many digits as say something.
struct Rounded(f64);

impl std::fmt::Display for Rounded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = match (self.0 < 0.0, f.sign_plus()) {
            (true, _) => "-",
            (false, true) => "+",
            (false, false) => "",
        };
        write!(f, "{sign}{}", rate(self.0.abs()))
    }
}

fn rate(rate: f64) -> String {
    match rate {
        rate if rate < 1.0 => format!("{rate:.2}"),
        rate if rate < 10.0 => format!("{rate:.1}"),
        rate => units::count(rate.round() as u64),
    }
}

/// A type of several objects.
fn plural(type_name: &str) -> String {
    if type_name.is_empty() { "objects".to_owned() } else { printable(type_name) }
}

/// A chain that fits on a line or two: its beginning and its end.
fn chain(chain: &str) -> String {
    let chain = printable(chain);
    let characters: Vec<char> = chain.chars().collect();
    if characters.len() <= CHAIN_SHOWN {
        return chain;
    }
    let (half, end) = (CHAIN_SHOWN / 2, characters.len() - CHAIN_SHOWN / 2);
    format!("{} … {}", characters[..half].iter().collect::<String>(), characters[end..].iter().collect::<String>())
}
