//! A patch release that moved fields is detected, not believed: with a table that is wrong on purpose, the histogram is
//! the right one, or there is an error.
//!
//! Each offset of each C struct of the table is moved by 8 bytes either way, neighbours change places, bitfields and
//! sizes are wrong, and the table of every other version and build is put in the place of the right one. The target
//! stands still meanwhile.
//!
//! At each landing each field is wrong once on each build, in one of three ways: further on, further before, or in
//! its neighbour's place. The ways take turns, so that a field of three minor versions in a row is wrong in each way on
//! one of them. `--ignored` tries all ways on all builds (`moved`, `swapped`). Bitfields, sizes and the tables of other
//! versions are all tried at each landing.
//!
//! A sample is held to the same: drawn with the same seed, it is the one that the right layout
//! draws, or where a wrong layout finds the pools in another way, its intervals hold the truth; else there is an error.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::case::TestCase;
use crate::common::interpreters::{self, Interpreter};
use crate::common::skipped;
use crate::common::target::Target;
use heapsonde::analysis::histogram::{Histogram, Row, SortKey};
use heapsonde::estimate::estimator::GroupBy;
use heapsonde::inspect::{self, Accuracy, Budget, Pause, SampleOptions};
use heapsonde::python::layout::fields::Bits;
use heapsonde::python::layout::{Candidate, Layout};
use libtest_mimic::Failed;

/// What is wrong, believed, and cannot be known from outside, each with the reason: nothing. What is named here would
/// be said aloud in each run, and nothing else may be believed.
const UNDECIDABLE: &[(&str, &str)] = &[];

/// Some of everything that is counted.
const PROGRAM: &str = r"
import array, collections, io, json, os, threading, weakref
class Plain:
    def __init__(self, i): self.i = i
class Slots:
    __slots__ = ('a', '__weakref__')
kept = [Plain(i) for i in range(100)], [Slots() for _ in range(100)], [{i: str(i)} for i in range(100)]
kept += [set(range(i)) for i in range(50)], [list(range(i)) for i in range(50)], [tuple(range(i)) for i in range(50)]
kept += [b'x' * i for i in range(900)], [bytearray(i) for i in range(50)], ['\u20ac' * i for i in range(50)]
kept += [collections.deque(range(i)) for i in range(50)],
kept += [collections.OrderedDict.fromkeys(range(i)) for i in range(50)],
kept += [array.array('q', range(i)) for i in range(50)], [1 << i for i in range(500)], [float(i) for i in range(100)]
kept += [(lambda: i) for i in range(50)], [(x for x in kept) for _ in range(50)], [weakref.ref(Plain) for _ in range(5)]
kept += [collections.defaultdict(list, {i: []}) for i in range(50)], [Plain(0).__init__ for _ in range(50)]
# One block freed among others of its size, some of them by another thread.
holes = [[bytes(n) for _ in range(5)] for n in range(600, 8000, 300)]
gone = [row.pop(2) for row in holes[::3]] and [row.pop(1) for row in holes[1::3]]; del gone
other = threading.Thread(target=lambda: [row.pop(0) for row in holes[2::3]]); other.start(); other.join()
os.write(1, b'ready %d\n' % os.getpid()); os.read(0, 1)
";

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    // One of each minor version, and one without the lock.
    let mut chosen: BTreeMap<(u8, bool), Interpreter> = BTreeMap::new();
    for interpreter in interpreters::find_and_say() {
        chosen.entry((interpreter.version.1, interpreter.has_gil())).or_insert(interpreter);
    }
    let mut cases = Vec::new();
    for interpreter in chosen.into_values() {
        let tests: [(&str, Test, bool); 6] = [
            ("fields", fields, true),
            ("moved", moved, false),
            ("swapped", swapped, false),
            ("bits", bits, true),
            ("sizes", sizes, true),
            ("exchanged", exchanged, true),
        ];
        for (name, test, at_each_landing) in tests {
            let of = interpreter.clone();
            let case = TestCase::new(format!("{}/{name}", of.name), move || test(&of));
            cases.push(case.ignored_if(!at_each_landing));
        }
        let of = interpreter.clone();
        cases.push(TestCase::new(format!("{}/proofs", of.name), move || proofs(&of)));
        cases.push(TestCase::new(format!("{}/published", interpreter.name), move || published(&interpreter)));
    }
    cases
}

type Test = fn(&Interpreter) -> Result<(), Failed>;
type Rows = BTreeMap<String, (u64, u64)>;

/// As [`Rows`], with the limits of the objects.
type EstimatedRows = BTreeMap<String, ((u64, u64), (u64, u64))>;

/// A sample's rows, and the most objects that a type without a row may have.
#[derive(PartialEq)]
struct Estimates {
    rows: EstimatedRows,
    unseen: u64,
}

/// A target that stands still, its layout, and what is right.
struct Stand {
    target: Target,
    layout: Layout,
    right: Answers,
}

/// What a census finds, and what a sample estimates. `None`: an error.
#[derive(PartialEq)]
struct Answers {
    census: Option<Rows>,
    sample: Option<Estimates>,
    /// Whether nothing was left out of the sample.
    is_exact: bool,
}

impl Stand {
    fn new(interpreter: &Interpreter) -> Result<Stand, String> {
        let target = Target::spawn_blocked(interpreter, PROGRAM, &[], &[])?;
        let mut opened = inspect::Target::process(target.pid() as i32).map_err(|error| error.to_string())?;
        let (layout, right) = (opened.python().layout.clone(), answers(&mut opened));
        // mimalloc's pages are always read whole.
        let has_pools = layout.object.ob_ref_shared.is_none();
        let stand = match right {
            Answers { is_exact: true, .. } if has_pools => Err("nothing was left out of the sample".to_owned()),
            Answers { census: Some(_), sample: Some(_), .. } => Ok(Stand { target, layout, right }),
            _ => Err("the right layout gives no answers".to_owned()),
        }?;
        match stand.right.sample.as_ref().and_then(|sample| stand.what_is_wrong_in(sample)) {
            Some(rows) => Err(format!("the right layout's own sample is wrong in {rows}")),
            None => Ok(stand),
        }
    }

    fn open(&self, layout: &Layout) -> Result<inspect::Target, inspect::Error> {
        inspect::Target::process_with_layouts(self.target.pid() as i32, &|_, _| vec![layout.clone()])
    }

    /// What comes of a wrong layout: nothing but errors, or the right rows. Else which row is wrong.
    fn verdict(&self, layout: &Layout) -> Verdict {
        let Ok(mut opened) = self.open(layout) else { return Verdict::Refused };
        let answers = answers(&mut opened);
        let census = differences(answers.census.as_ref(), self.right.census.as_ref());
        let sample = answers.sample.as_ref().and_then(|sample| self.what_is_wrong_in(sample));
        match (census, sample) {
            (None, None) if answers.census.is_some() && answers.sample.is_some() => Verdict::Right,
            (None, None) => Verdict::Refused,
            (Some(rows), _) => Verdict::Wrong(rows),
            (None, Some(rows)) => Verdict::Wrong(format!("in the sample {rows}")),
        }
    }
}

impl Stand {
    /// The first types whose intervals do not hold the truth, where these are more than chance explains.
    fn what_is_wrong_in(&self, sample: &Estimates) -> Option<String> {
        /// Types with fewer objects may be in no pool that was drawn.
        const OBJECTS_MIN: u64 = 20;
        let truth = self.right.census.iter().flatten().filter(|(_, amount)| amount.0 >= OBJECTS_MIN);
        let (mut asked, mut missed) = (0.0, Vec::new());
        for (name, &(objects, _)) in truth {
            asked += 1.0;
            let (low, high) = sample.rows.get(name).map_or((0, sample.unseen), |&(_, limits)| limits);
            if !(low..=high).contains(&objects) {
                missed.push(name.clone());
            }
        }
        // Of 95 % intervals, with three standard deviations of a binomial count.
        let by_chance = asked * 0.05 + 3.0 * (asked * 0.05_f64 * 0.95).sqrt();
        (missed.len() as f64 > by_chance).then(|| missed[..missed.len().min(3)].join(", "))
    }
}

enum Verdict {
    Refused,
    Right,
    Wrong(String),
}

/// The first rows that are wrong; nothing of an error.
fn differences(rows: Option<&Rows>, right: Option<&Rows>) -> Option<String> {
    let (rows, right) = (rows?, right?);
    let names: Vec<String> =
        right.keys().chain(rows.keys()).filter(|&name| rows.get(name) != right.get(name)).take(3).cloned().collect();
    (!names.is_empty()).then(|| names.join(", "))
}

fn answers(opened: &mut inspect::Target) -> Answers {
    /// So few bytes that only as many pools are drawn as always are.
    const BUDGET: Budget = Budget::Bytes(1);
    let rows = |histogram: &Histogram| {
        histogram.rows.iter().map(|row| (row.label(), (row.amount.objects, row.amount.bytes))).collect()
    };
    let estimates = |histogram: &Histogram| {
        let estimate = |row: &Row| {
            let limits = row.interval.unwrap_or_default();
            (row.label(), ((row.amount.objects, row.amount.bytes), (limits.low.objects, limits.high.objects)))
        };
        Estimates { rows: histogram.rows.iter().map(estimate).collect(), unseen: histogram.unseen.unwrap_or_default() }
    };
    let sort = SortKey::Bytes;
    let options = SampleOptions { budget: BUDGET, seed: Some(1), by: GroupBy::Type, sort, pause: Pause::Never };
    let sample = opened.sample(&options).ok();
    Answers {
        is_exact: sample.as_ref().is_some_and(|(_, accuracy)| *accuracy == Accuracy::Exact),
        sample: sample.map(|(answer, _)| estimates(&answer.result)),
        // Stopped: it is not read twice to see what moves, since nothing does.
        census: opened.histogram(Pause::Always, sort).ok().map(|answer| rows(&answer.result)),
    }
}

/// A wrong layout, and what is wrong about it.
type Wrong = (String, Layout);

/// Tries each wrong layout on a target of its own.
fn try_all(interpreter: &Interpreter, make: impl Fn(&Layout) -> Vec<Wrong>) -> Result<(), Failed> {
    let stand = Stand::new(interpreter)?;
    let (mut believed, mut refused, mut known) = (Vec::new(), 0, Vec::new());
    let wrong = make(&stand.layout);
    for (what, layout) in &wrong {
        match stand.verdict(layout) {
            Verdict::Right => {}
            Verdict::Refused => refused += 1,
            Verdict::Wrong(rows) => match UNDECIDABLE.iter().find(|(field, _)| what.split(' ').next() == Some(field)) {
                Some((_, why)) => known.push(format!("{what} ({why})")),
                None => believed.push(format!("{what}: {rows}")),
            },
        }
    }
    if !known.is_empty() {
        skipped(&format!("{}: wrong and believed", interpreter.name), &known.join(", "));
    }
    if believed.is_empty() {
        return Ok(());
    }
    let mut text = format!("{} wrong layouts: {refused} refused, {} believed\n", wrong.len(), believed.len());
    believed.iter().for_each(|what| writeln!(text, "    {what}").expect("a String takes any text"));
    Err(text.into())
}

/// The fields of a struct of a layout that this version has, and where they lie.
fn fields_of(layout: &Layout, name: &str) -> Vec<(&'static str, usize)> {
    let Some(fields) = layout.c_struct(name) else { return Vec::new() };
    let with_offset = |field| fields.get(field).map(|offset| (field, offset));
    fields.names().into_iter().filter_map(with_offset).collect()
}

/// A layout with other offsets of one struct's fields.
fn with(layout: &Layout, name: &str, offsets: &[(&str, usize)]) -> Layout {
    let mut layout = layout.clone();
    let fields = layout.c_struct_mut(name).expect("it is there");
    offsets.iter().for_each(|&(field, offset)| fields.set(field, offset));
    layout
}

/// How a field is wrong: 8 bytes further on, 8 bytes before, and with its next neighbour in each other's place.
type Ways = [Option<Wrong>; 3];

/// The wrong layouts of each field that any version has, in an order that is the same for all; none of a field that
/// this version lacks.
fn wrong_fields(layout: &Layout) -> Vec<Ways> {
    let mut wrong: Vec<Ways> = Vec::new();
    for name in Layout::WANTED.iter().map(|wanted| wanted.name) {
        let Some(all) = layout.c_struct(name) else { continue };
        let mut fields = fields_of(layout, name);
        fields.sort_by_key(|&(_, offset)| offset);
        let swapped = |field: &str, offset: usize| {
            let at = fields.iter().position(|&(name, _)| name == field)?;
            let &(next, behind) = fields.get(at + 1).filter(|&&(_, behind)| behind != offset)?;
            Some((format!("{name}.{field} and {next}"), with(layout, name, &[(field, behind), (next, offset)])))
        };
        for field in all.names().into_iter().chain(["size"]) {
            let Some(offset) = all.get(field) else {
                wrong.push(Ways::default());
                continue;
            };
            let moved = |to: usize| (format!("{name}.{field} {offset} -> {to}"), with(layout, name, &[(field, to)]));
            wrong.push([offset.checked_add(8).map(moved), offset.checked_sub(8).map(moved), swapped(field, offset)]);
        }
    }
    wrong
}

/// Each field wrong in one way, the next way with each field and minor version. Where a field cannot be wrong in that
/// way, it is in another.
fn fields(interpreter: &Interpreter) -> Result<(), Failed> {
    let minor = usize::from(interpreter.version.1);
    let in_turn = |(index, mut ways): (usize, Ways)| {
        let count = ways.len();
        ways.rotate_left((index + minor) % count);
        ways.into_iter().flatten().next()
    };
    try_all(interpreter, |layout| wrong_fields(layout).into_iter().enumerate().filter_map(in_turn).collect())
}

/// Each field 8 bytes further on, and 8 bytes before.
fn moved(interpreter: &Interpreter) -> Result<(), Failed> {
    let both = |[further, before, _]: Ways| [further, before];
    try_all(interpreter, |layout| wrong_fields(layout).into_iter().flat_map(both).flatten().collect())
}

/// Each two neighbours in each other's place.
fn swapped(interpreter: &Interpreter) -> Result<(), Failed> {
    let last = |[_, _, swapped]: Ways| swapped;
    try_all(interpreter, |layout| wrong_fields(layout).into_iter().filter_map(last).collect())
}

/// Bitfields a bit further on and before, wider and narrower, and a byte further on.
fn bits(interpreter: &Interpreter) -> Result<(), Failed> {
    let others = |bits: Bits| {
        let Bits { byte, bit, width } = bits;
        let other = |byte, bit, width| Bits { byte, bit, width };
        [
            Some(other(byte + 1, bit, width)),
            Some(other(byte, bit + 1, width)),
            bit.checked_sub(1).map(|bit| other(byte, bit, width)),
            Some(other(byte, bit, width + 1)),
            width.checked_sub(1).filter(|&width| width > 0).map(|width| other(byte, bit, width)),
        ]
    };
    type Place = (&'static str, fn(&mut Layout) -> Option<&mut Bits>);
    let places: &[Place] = &[
        ("unicode.interned", |layout| Some(&mut layout.unicode.interned)),
        ("unicode.kind", |layout| Some(&mut layout.unicode.kind)),
        ("unicode.compact", |layout| Some(&mut layout.unicode.compact)),
        ("unicode.ascii", |layout| Some(&mut layout.unicode.ascii)),
        ("unicode.ready", |layout| layout.unicode.ready.as_mut()),
        ("unicode.statically_allocated", |layout| layout.unicode.statically_allocated.as_mut()),
        ("mi_page.is_committed", |layout| layout.mi_page.as_mut().map(|page| &mut page.is_committed)),
        ("mi_page.tag", |layout| layout.mi_page.as_mut().and_then(|page| page.tag.as_mut())),
        ("mi_page.use_qsbr", |layout| layout.mi_page.as_mut().map(|page| &mut page.use_qsbr)),
    ];
    try_all(interpreter, |layout| {
        let mut wrong = Vec::new();
        for (name, place) in places {
            let mut layout = layout.clone();
            let Some(right) = place(&mut layout).copied() else { continue };
            for bits in others(right).into_iter().flatten() {
                *place(&mut layout).expect("it is there") = bits;
                wrong.push((format!("{name} {right:?} -> {bits:?}"), layout.clone()));
            }
        }
        wrong
    })
}

/// Sizes and other numbers: twice and half as large, and a word more and less.
fn sizes(interpreter: &Interpreter) -> Result<(), Failed> {
    type Place = (&'static str, fn(&mut Layout) -> Option<&mut usize>);
    let places: &[Place] = &[
        ("gc_head_size", |layout| Some(&mut layout.constants.gc_head_size)),
        ("preheader_size", |layout| Some(&mut layout.constants.preheader_size)),
        ("managed_dict_before", |layout| layout.constants.managed_dict_before.as_mut()),
        ("managed_weakref_before", |layout| layout.constants.managed_weakref_before.as_mut()),
        ("managed_values_before", |layout| layout.constants.managed_values_before.as_mut()),
        ("arena_size", |layout| Some(&mut layout.constants.arena_size)),
        ("pool_size", |layout| Some(&mut layout.constants.pool_size)),
        ("pool_overhead", |layout| Some(&mut layout.constants.pool_overhead)),
        ("pymalloc_alignment", |layout| Some(&mut layout.constants.pymalloc_alignment)),
        ("pymalloc_max", |layout| Some(&mut layout.constants.pymalloc_max)),
    ];
    try_all(interpreter, |layout| {
        let mut wrong = Vec::new();
        for (name, place) in places {
            let mut layout = layout.clone();
            let Some(right) = place(&mut layout).copied() else { continue };
            let others =
                [right * 2, right / 2, right + 8, right.saturating_sub(8), right + 16, right.saturating_sub(16)];
            for number in others.into_iter().filter(|&number| number != right) {
                *place(&mut layout).expect("it is there") = number;
                wrong.push((format!("{name} {right} -> {number}"), layout.clone()));
            }
        }
        for mask in (0..4).filter(|&mask| mask != layout.constants.stackref_tag_mask) {
            let mut layout = layout.clone();
            layout.constants.stackref_tag_mask = mask;
            wrong.push((format!("stackref_tag_mask {mask}"), layout));
        }
        for step in [1, -1] {
            let mut layout = layout.clone();
            let Some(kinds) = layout.constants.dict_keys_kind.as_mut() else { continue };
            (kinds.general, kinds.unicode, kinds.split) =
                (kinds.general + step, kinds.unicode + step, kinds.split + step);
            wrong.push((format!("dict_keys_kind by {step}"), layout));
        }
        wrong
    })
}

/// The tables of other versions.
fn exchanged(interpreter: &Interpreter) -> Result<(), Failed> {
    try_all(interpreter, |_| {
        Candidate::all().iter().map(|candidate| (candidate.name.to_owned(), Layout::load(candidate))).collect()
    })
}

/// A sample makes the proofs that a census makes beyond attaching: with fields that only these try, both are refused.
fn proofs(interpreter: &Interpreter) -> Result<(), Failed> {
    let stand = Stand::new(interpreter)?;
    let layout = &stand.layout;
    let mut wrong: Vec<(&str, Layout)> = Vec::new();
    // Objects that must exist are looked for behind their GC heads.
    let mut shifted = layout.clone();
    shifted.constants.gc_head_size += 16;
    wrong.push(("known objects", shifted));
    for (field, offset) in fields_of(layout, "pool_header") {
        wrong.push(("pools", with(layout, "pool_header", &[(field, offset + 8)])));
    }
    let mut refused: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    for (proof, layout) in &wrong {
        let Ok(mut opened) = stand.open(layout) else { continue };
        let answers = answers(&mut opened);
        if answers.census.is_none() {
            let (by_census, by_sample) = refused.entry(proof).or_default();
            *by_census += 1;
            *by_sample += u32::from(answers.sample.is_none());
        }
    }
    // mimalloc's pages are not drawn. Votes are left out: so small a sample may meet too few objects for one.
    let proofs: &[&str] =
        if layout.object.ob_ref_shared.is_none() { &["known objects", "pools"] } else { &["known objects"] };
    for proof in proofs {
        let (by_census, by_sample) = refused.get(proof).copied().unwrap_or_default();
        if by_census == 0 || by_sample == 0 {
            return Err(format!("{proof}: a census refuses {by_census} layouts, a sample {by_sample} of them").into());
        }
    }
    Ok(())
}

/// Where the interpreter publishes offsets, they mend a table, and it is told which.
fn published(interpreter: &Interpreter) -> Result<(), Failed> {
    let stand = Stand::new(interpreter)?;
    if interpreter.version.1 < 13 {
        return Ok(());
    }
    for (group, field) in [("interp", "modules"), ("type_object", "tp_flags"), ("dict", "ma_keys"), ("list", "ob_item")]
    {
        let mut layout = stand.layout.clone();
        let fields = layout.c_struct_mut(group).expect("it is there");
        let offset = fields.get(field).ok_or("no such field")?;
        fields.set(field, offset + 8);
        let mut opened = stand.open(&layout).map_err(|error| error.to_string())?;
        if opened.python().corrections.len() != 1 || answers(&mut opened) != stand.right {
            return Err(format!("{group}.{field}: {:?}", opened.python().corrections).into());
        }
    }
    Ok(())
}
