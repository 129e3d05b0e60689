//! `why`: shows what keeps an object, or the objects of a type, alive.

use std::collections::BTreeMap;
use std::io::{self, Write};

use anyhow::{Result, bail};
use serde::Serialize;

use crate::analysis::inspectors::Finding;
use crate::analysis::native_holders::{self, NativeHolders, Searched};
use crate::analysis::owners::Owner;
use crate::analysis::why::{self, Answer, ChainGroup, Question};
use crate::graph::objects::ObjectGraph;
use crate::graph::{ObjectId, joint};
use crate::inspect::answer::{Reading, TargetSummary};
use crate::inspect::any::{AnyHeap, AnyTarget};
use crate::inspect::family::read_each;
use crate::inspect::graph::GraphSummary;
use crate::inspect::{Error, Target};
use crate::references::roots::RootKind;
use crate::report::escape::printable;
use crate::report::histogram_json::SCHEMA_VERSION;
use crate::report::why_family::{self, MemberHolder, MemberHolders};
use crate::report::{self, finding, json, summary, units};

use super::args::{View, Why};
use super::notes;
use super::output::Destination;
use super::values::{HeapPlace, place};
use super::{flamegraph, target};

#[derive(Serialize)]
struct WhyDocument<'a> {
    schema_version: u32,
    target: &'a TargetSummary,
    reading: &'a Reading,
    #[serde(flatten)]
    found: &'a Found,
}

#[derive(Serialize)]
struct Found {
    query: String,
    objects: u64,
    shallow_bytes: u64,
    retained_bytes: u64,
    /// Objects that no root (or nothing of `--from-type`) reaches.
    garbage_objects: u64,
    too_deep_objects: u64,
    chains: Vec<Chain>,
    /// Groups beyond `--top`.
    more_chains: u64,
    /// What inspectors say of these objects.
    findings: Vec<Finding>,
    graph: GraphSummary,
}

#[derive(Serialize)]
struct OwnersDocument<'a> {
    schema_version: u32,
    target: &'a TargetSummary,
    reading: &'a Reading,
    #[serde(flatten)]
    found: &'a FoundOwners,
}

#[derive(Serialize)]
struct FoundOwners {
    objects: u64,
    shallow_bytes: u64,
    owners: Vec<FoundOwner>,
    /// What inspectors say of many objects of the heap.
    findings: Vec<Finding>,
    graph: GraphSummary,
}

#[derive(Serialize)]
struct FoundOwner {
    holder: String,
    objects: u64,
    shallow_bytes: u64,
    /// The path to the largest part.
    chain: String,
}

#[derive(Serialize)]
struct Chain {
    chain: String,
    shape: String,
    root_kind: &'static str,
    objects: u64,
    shallow_bytes: u64,
    steps: usize,
    example: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    also_held_by: Vec<Other>,
    /// Where the references of native code come from.
    #[serde(skip_serializing_if = "Option::is_none")]
    native: Option<Native>,
}

/// Where references come from that only native code has.
#[derive(Serialize)]
struct Native {
    refcount: u64,
    found: u64,
    examined: u64,
    lost: u64,
    places: Vec<PlaceOfReference>,
    searched_all: bool,
}

#[derive(Serialize)]
struct PlaceOfReference {
    place: String,
    objects: u64,
}

impl Native {
    fn of(holders: NativeHolders) -> Native {
        let NativeHolders { refcount, found, examined, lost, places, is_complete } = holders;
        let places = places.into_iter().map(|(place, objects)| PlaceOfReference { place, objects }).collect();
        Native { refcount, found, examined, lost, places, searched_all: is_complete }
    }

    /// `reference count 2, of which 1 was found; the reference is lost: ...`.
    fn sentence(&self) -> String {
        /// Places named.
        const SHOWN: usize = 3;
        let of = |objects: u64| match (objects, self.examined) {
            (_, 1) => String::new(),
            (objects, examined) => format!(" ({objects} of {examined} examined)"),
        };
        let mut parts = vec![format!("reference count {}, found {}", self.refcount, self.found)];
        if self.lost > 0 {
            let scope = if self.searched_all { "" } else { " that was searched" };
            let lost = "the reference is lost: no pointer to it in the process's memory";
            parts.push(format!("{lost}{scope}{}", of(self.lost)));
        }
        let places = self.places.iter().take(SHOWN);
        parts.extend(places.map(|it| format!("in {}{}", printable(&it.place), of(it.objects))));
        parts.join("; ")
    }
}

/// Another holder of a chain's objects.
#[derive(Serialize)]
struct Other {
    shape: String,
    objects: u64,
}

/// Takes a copy, builds the graph, prints the chains.
pub fn run(options: &Why) -> Result<()> {
    let destination = Destination::new(&options.output, || None)?;
    let (place, what) = words(options)?;
    let mut target: AnyTarget = match (place, &options.core.core) {
        (Some(HeapPlace::File(_)), _) if options.subprocesses => {
            bail!("a snapshot is of one process: leave out --subprocesses")
        }
        (Some(HeapPlace::File(path)), _) => target::open_snapshot(&path, &options.following)?,
        (Some(HeapPlace::Process(pid)), _) if options.subprocesses => {
            return run_family(options, pid, what, &destination);
        }
        (Some(HeapPlace::Process(pid)), _) => target::observed(Target::process(pid)?).into(),
        (None, Some(path)) => target::open_core(path, &options.core)?.into(),
        (None, None) => bail!("no target: give a PID, a snapshot or --core FILE"),
    };
    let about_target = target.summary();
    let copy_options = options.stopping.for_references(&options.following);
    let Some(what) = what else {
        let answer = target::said(target.heap(&copy_options, |heap| anyhow::Ok(owners(options.top, heap)))?);
        let found = &answer.result;
        return destination.write(|out| {
            if options.json {
                let (target, reading) = (&about_target, &answer.reading);
                let document = OwnersDocument { schema_version: SCHEMA_VERSION, target, reading, found };
                serde_json::to_writer_pretty(&mut *out, &document)?;
                return writeln!(out);
            }
            summary::write_head(out, &about_target, &answer.reading)?;
            writeln!(out, "\nThe largest owners:\n")?;
            for owner in &found.owners {
                let (objects, bytes) = (units::count(owner.objects), units::bytes(owner.shallow_bytes));
                let share = units::percent(owner.shallow_bytes, found.shallow_bytes);
                writeln!(out, "{objects:>12} {bytes:>12} {share:>6} %  {}", printable(&owner.holder))?;
                writeln!(out, "{:>12} {:>12} {:>8}    {}", "", "", "", printable(&owner.chain))?;
            }
            write_findings(out, &found.findings)?;
            writeln!(out)?;
            report::graph::write(out, &found.graph)
        });
    };
    let answer = target::said(target.heap(&copy_options, |heap| answer(options, options.top, what, heap))?);
    let found = &answer.result;
    destination.write(|out| {
        if options.json {
            let document =
                WhyDocument { schema_version: SCHEMA_VERSION, target: &about_target, reading: &answer.reading, found };
            return json::write_pretty(out, &document);
        }
        summary::write_head(out, &about_target, &answer.reading)?;
        writeln!(
            out,
            "\n{}: {}, {} (shallow), {} retained\n",
            printable(&found.query),
            units::objects(found.objects),
            units::bytes(found.shallow_bytes),
            units::bytes(found.retained_bytes),
        )?;
        for chain in &found.chains {
            let text = if chain.objects > 1 { &chain.shape } else { &chain.chain };
            let bytes = units::bytes(chain.shallow_bytes);
            writeln!(out, "{:>12} {bytes:>12}  {}", units::count(chain.objects), printable(text))?;
            for other in &chain.also_held_by {
                let (shape, objects) = (printable(&other.shape), units::count(other.objects));
                writeln!(out, "{:>12} {:>12}    also held by {shape}: {objects}", "", "")?;
            }
            if let Some(native) = &chain.native {
                writeln!(out, "{:>12} {:>12}    {}", "", "", native.sentence())?;
            }
        }
        let line = |out: &mut dyn Write, objects: u64, text: &str| match objects {
            0 => Ok(()),
            objects => writeln!(out, "{:>12} {:>12}  {text}", units::count(objects), ""),
        };
        let unreached = match options.from_type {
            Some(_) => "not reached from there",
            None => "garbage awaiting collection",
        };
        line(out, found.garbage_objects, unreached)?;
        line(out, found.too_deep_objects, "with chains longer than --max-depth")?;
        if found.more_chains > 0 {
            writeln!(out, "{:>12} {:>12}  more shapes of chains (-n)", units::count(found.more_chains), "")?;
        }
        write_findings(out, &found.findings)?;
        writeln!(out)?;
        report::graph::write(out, &found.graph)
    })?;
    let is_native = |chain: &Chain| chain.root_kind == RootKind::Native.name();
    if matches!(target, AnyTarget::Saved(_)) && found.chains.iter().any(is_native) {
        writeln!(notes::out(), "Where native code keeps its references is not in a snapshot; ask the process.")?;
    }
    Ok(summary::write_problems(&mut notes::out(), &answer.problems, &answer.reading)?)
}

/// A line for each thing that inspectors found.
fn write_findings(out: &mut dyn Write, findings: &[Finding]) -> io::Result<()> {
    if !findings.is_empty() {
        writeln!(out, "\nTheir state:")?;
    }
    findings.iter().try_for_each(|found| writeln!(out, "  {}\n    {}", finding::fact(found), found.advice))
}

/// A line for each process of a family.
fn run_family(options: &Why, root: i32, what: Option<&str>, destination: &Destination) -> Result<()> {
    /// Holders that are compared between processes.
    const COMPARED: usize = 100;
    if what.is_some_and(|what| what.starts_with("0x")) {
        bail!("an address is one process's: give a type, or leave out --subprocesses");
    }
    let copy_options = options.stopping.for_references(&options.following);
    let mut missing = None;
    let (members, unread) = read_each(root, |pid| {
        let mut target = Target::process(pid)?;
        let found = target::said(target.heap(&copy_options, |heap| {
            let heap = AnyHeap::Read(heap);
            let Some(what) = what else { return Ok(of_owners(&owners(COMPARED, heap))) };
            // A worker may not have imported the type yet.
            let asked = answer(options, COMPARED, what, heap).map(|found| of_chains(&found));
            Ok::<_, Error>(asked.unwrap_or_else(|error| {
                missing = Some(error);
                MemberHolders::default()
            }))
        })?);
        Ok(MemberHolders { pid, ..found.result })
    })?;
    match missing {
        Some(error) if members.iter().all(|member| member.objects == 0) => Err(error),
        _ => destination.write(|out| why_family::write(out, &members, &unread)),
    }
}

fn of_owners(found: &FoundOwners) -> MemberHolders {
    let holder = |owner: &FoundOwner| MemberHolder {
        name: owner.holder.clone(),
        objects: owner.objects,
        bytes: owner.shallow_bytes,
    };
    let holders = found.owners.iter().map(holder).collect();
    MemberHolders { pid: 0, objects: found.objects, bytes: found.shallow_bytes, holders }
}

fn of_chains(found: &Found) -> MemberHolders {
    let holder =
        |chain: &Chain| MemberHolder { name: chain.shape.clone(), objects: chain.objects, bytes: chain.shallow_bytes };
    let holders = found.chains.iter().map(holder).collect();
    MemberHolders { pid: 0, objects: found.objects, bytes: found.shallow_bytes, holders }
}

/// The process or snapshot, if given, and the address or type.
fn words(options: &Why) -> Result<(Option<HeapPlace>, Option<&str>)> {
    let process = options.pid_option.map(HeapPlace::Process);
    match (options.words.as_slice(), process, &options.core.core) {
        ([], Some(process), None) => Ok((Some(process), None)),
        ([], None, Some(_)) => Ok((None, None)),
        ([what], Some(process), None) => Ok((Some(process), Some(what))),
        ([what], None, Some(_)) => Ok((None, Some(what))),
        ([of, what], None, None) => match place(of) {
            Ok(of) => Ok((Some(of), Some(what))),
            Err(_) => bail!("{of:?} is not a process id, and no snapshot of this name exists"),
        },
        ([of], None, None) => match place(of) {
            Ok(of) => Ok((Some(of), None)),
            Err(_) => bail!(
                "{of:?} is neither a process id nor a file that exists; give one before an address or a type, such as: \
                 heapsonde why 4711 dict"
            ),
        },
        _ => bail!("give one process or core, and one address or type"),
    }
}

fn answer(options: &Why, top: usize, what: &str, heap: AnyHeap<'_>) -> Result<Found> {
    let targets = targets(what, heap)?;
    let from = options.from_type.as_deref().map_or(Ok(Vec::new()), |name| of_type(name, heap))?;
    let (graph, summary) = heap.graph();
    let mut is_other = vec![true; graph.len()];
    targets.iter().for_each(|target| is_other[target.index()] = false);
    let is_target = |object: ObjectId| !is_other[object.index()];
    let retained = joint::of_set(&graph.forward, &graph.root_objects(), is_target, |object| graph.shallow(object));
    let (objects, shallow_bytes) = (targets.len() as u64, targets.iter().map(|&target| graph.shallow(target)).sum());
    let findings = heap.findings(targets.iter().copied());
    let question =
        Question { targets, from, max_depth: options.max_depth, show_values: options.following.show_values, top };
    let answer = heap.named(|names, steps| why::chains(&graph, names, steps, &question));
    let Answer { groups, unreached, too_deep, more_groups } = answer;
    let mut natives = native_holders(heap, &graph, &groups);
    let chains = groups.into_iter().enumerate().map(|(index, group)| Chain {
        native: natives.remove(&index).map(Native::of),
        chain: group.chain,
        shape: group.shape,
        root_kind: group.kind.map_or("type", |kind| kind.name()),
        objects: group.objects,
        shallow_bytes: group.bytes,
        steps: group.steps,
        example: heap.objects().address(group.example.index()).to_string(),
        also_held_by: group
            .also_held_by
            .into_iter()
            .map(|other| Other { shape: other.shape, objects: other.objects })
            .collect(),
    });
    Ok(Found {
        query: what.to_owned(),
        objects,
        shallow_bytes,
        retained_bytes: retained.bytes,
        garbage_objects: unreached,
        too_deep_objects: too_deep,
        chains: chains.collect(),
        more_chains: more_groups,
        findings,
        graph: summary,
    })
}

/// Where the references come from that hold the largest groups of those that only native code holds, by their number.
fn native_holders(heap: AnyHeap<'_>, graph: &ObjectGraph<'_>, groups: &[ChainGroup]) -> BTreeMap<usize, NativeHolders> {
    /// Groups that are examined.
    const GROUPS_MAX: usize = 8;
    let is_native = |group: &ChainGroup| group.kind == Some(RootKind::Native);
    let (numbers, roots): (Vec<usize>, Vec<Vec<ObjectId>>) = groups
        .iter()
        .enumerate()
        .filter(|(_, group)| is_native(group))
        .filter_map(|(number, group)| Some((number, native_holders::alike(graph, group.root?))))
        .take(GROUPS_MAX)
        .unzip();
    // A snapshot does not have the memory in which they may be.
    let AnyHeap::Read(heap) = heap else { return BTreeMap::new() };
    if roots.is_empty() {
        return BTreeMap::new();
    }
    let searched = Searched {
        memory: heap.memory,
        python: heap.python,
        types: heap.types,
        graph,
        plan: &heap.survey.plan,
        has_debug_hooks: heap.survey.debug_hooks,
    };
    numbers.into_iter().zip(native_holders::find(&searched, &roots)).collect()
}

/// The largest owners of the heap.
fn owners(top: usize, heap: AnyHeap<'_>) -> FoundOwners {
    let (graph, summary) = heap.graph();
    let (total, largest) = flamegraph::owners(heap, &graph, View::Owners).largest(top);
    let owner = |owner: Owner| FoundOwner {
        holder: owner.holder,
        objects: owner.amount.objects,
        shallow_bytes: owner.amount.bytes,
        chain: owner.chain,
    };
    let owners = largest.into_iter().map(owner).collect();
    let mut findings = heap.findings((0..graph.len() as u32).map(ObjectId));
    findings.retain(Finding::is_of_many);
    FoundOwners { objects: total.objects, shallow_bytes: total.bytes, owners, findings, graph: summary }
}

/// The objects that the query names.
fn targets(what: &str, heap: AnyHeap<'_>) -> Result<Vec<ObjectId>> {
    if let Some(digits) = what.strip_prefix("0x") {
        let Ok(address) = u64::from_str_radix(digits, 16) else { bail!("{what:?} is not an address") };
        let Some(id) = heap.objects().find(address) else { bail!("no object is at {what}") };
        return Ok(vec![ObjectId(id)]);
    }
    of_type(what, heap)
}

/// The objects of all types with this name.
fn of_type(name: &str, heap: AnyHeap<'_>) -> Result<Vec<ObjectId>> {
    let wanted: Vec<bool> =
        heap.types().iter().map(|(_, info)| info.full_name() == name || info.qualname == name).collect();
    if !wanted.contains(&true) {
        bail!("no type is called {name:?}{}", nearest(name, heap));
    }
    let is_wanted = |id: usize| wanted.get(heap.objects().type_id(id).index()) == Some(&true);
    Ok((0..heap.objects().len()).filter(|&id| is_wanted(id)).map(|id| ObjectId(id as u32)).collect())
}

/// Similar names: `; did you mean app.Order or store.Order?`.
fn nearest(name: &str, heap: AnyHeap<'_>) -> String {
    /// Minimum similarity of suggestions, the same as clap uses for subcommands.
    const LIKE_MIN: f64 = 0.7;
    const SHOWN: usize = 3;
    let wanted = name.to_lowercase();
    let mut near: Vec<(f64, String)> = Vec::new();
    for (_, info) in heap.types().iter() {
        let (full, own) = (info.full_name(), info.qualname.to_lowercase());
        let contains = if own.contains(&wanted) { 1.0 } else { 0.0 };
        let like = strsim::jaro(&wanted, &own).max(strsim::jaro(&wanted, &full.to_lowercase())).max(contains);
        if like > LIKE_MIN {
            near.push((like, full));
        }
    }
    near.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    near.dedup_by(|a, b| a.1 == b.1);
    let names: Vec<String> = near.into_iter().take(SHOWN).map(|(_, name)| name).collect();
    if names.is_empty() { String::new() } else { format!("; did you mean {}?", names.join(" or ")) }
}
