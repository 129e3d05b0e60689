//! `why`: shows what keeps an object, or the objects of a type, alive.

use std::io::Write;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::analysis::edges::Steps;
use crate::analysis::names::Names;
use crate::analysis::why::{self, Answer, Question};
use crate::graph::{ObjectId, joint};
use crate::inspect::answer::{Reading, TargetSummary};
use crate::inspect::graph::GraphSummary;
use crate::inspect::{Heap, Target};
use crate::process::cache::CachedMemory;
use crate::report::escape::printable;
use crate::report::histogram_json::SCHEMA_VERSION;
use crate::report::{self, json, summary, units};

use super::args::Why;
use super::output::Destination;
use super::target;

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
    /// Objects that no root reaches, or nothing of `--from-type`.
    garbage_objects: u64,
    too_deep_objects: u64,
    chains: Vec<Chain>,
    /// Groups beyond `--top`.
    more_chains: u64,
    graph: GraphSummary,
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
}

/// Takes a copy, builds the graph, prints the chains.
pub fn run(options: &Why) -> Result<()> {
    let destination = Destination::new(&options.output, || None)?;
    let (pid, what) = words(options)?;
    let mut target = match (pid, &options.core.core) {
        (None, Some(path)) => target::open_core(path, &options.core)?,
        (pid, _) => target::observed(Target::process(pid.unwrap_or(0))?),
    };
    let about_target = target.summary();
    let copy_options = options.stopping.for_references(&options.following);
    let answer = target::said(target.heap(&copy_options, |heap| answer(options, what, heap))?);
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
        line(out, found.too_deep_objects, "by longer chains than --max-depth")?;
        if found.more_chains > 0 {
            writeln!(out, "{:>12} {:>12}  more shapes of chains (-n)", units::count(found.more_chains), "")?;
        }
        writeln!(out)?;
        report::graph::write(out, &found.graph)
    })?;
    Ok(summary::write_problems(&mut std::io::stderr().lock(), &answer.problems)?)
}

/// The PID, if one was typed, and the address or type.
fn words(options: &Why) -> Result<(Option<i32>, &str)> {
    match (options.words.as_slice(), options.pid_option, &options.core.core) {
        ([what], Some(pid), None) => Ok((Some(pid), what)),
        ([what], None, Some(_)) => Ok((None, what)),
        ([pid, what], None, None) => match pid.parse() {
            Ok(pid) => Ok((Some(pid), what)),
            Err(_) => bail!("{pid:?} is not a process id"),
        },
        ([_], None, None) => bail!("no object: give a PID and an address or a type, such as: heapsonde why 4711 dict"),
        _ => bail!("give one process or core, and one address or type"),
    }
}

fn answer(options: &Why, what: &str, heap: &Heap<'_>) -> Result<Found> {
    let targets = targets(what, heap)?;
    let from = options.from_type.as_deref().map_or(Ok(Vec::new()), |name| of_type(name, heap))?;
    let (graph, summary) = heap.graph();
    let mut is_other = vec![true; graph.len()];
    targets.iter().for_each(|target| is_other[target.index()] = false);
    let is_target = |object: ObjectId| !is_other[object.index()];
    let retained = joint::of_set(&graph.forward, &graph.root_objects(), is_target, |object| graph.shallow(object));
    let cached = CachedMemory::new(heap.memory);
    let references = heap.references.over(&cached);
    let names = Names::new(&cached, heap.objects, heap.types, &references);
    let steps = Steps::new(heap.memory, heap.objects, heap.references);
    let (objects, shallow_bytes) = (targets.len() as u64, targets.iter().map(|&target| graph.shallow(target)).sum());
    let question = Question {
        targets,
        from,
        max_depth: options.max_depth,
        show_values: options.following.show_values,
        referrers: options.top,
    };
    let Answer { groups, unreached, too_deep } = why::chains(&graph, &names, &steps, &question);
    let more_chains = groups.len().saturating_sub(options.top) as u64;
    let chains = groups.into_iter().take(options.top).map(|group| Chain {
        chain: group.chain,
        shape: group.shape,
        root_kind: group.kind.map_or("type", |kind| kind.name()),
        objects: group.objects,
        shallow_bytes: group.bytes,
        steps: group.steps,
        example: heap.objects.address(group.example.index()).to_string(),
    });
    Ok(Found {
        query: what.to_owned(),
        objects,
        shallow_bytes,
        retained_bytes: retained.bytes,
        garbage_objects: unreached,
        too_deep_objects: too_deep,
        chains: chains.collect(),
        more_chains,
        graph: summary,
    })
}

/// The objects that were asked for.
fn targets(what: &str, heap: &Heap<'_>) -> Result<Vec<ObjectId>> {
    if let Some(digits) = what.strip_prefix("0x") {
        let Ok(address) = u64::from_str_radix(digits, 16) else { bail!("{what:?} is not an address") };
        let Some(id) = heap.objects.find(address) else { bail!("no object is at {what}") };
        return Ok(vec![ObjectId(id)]);
    }
    of_type(what, heap)
}

/// The objects of the types of this name.
fn of_type(name: &str, heap: &Heap<'_>) -> Result<Vec<ObjectId>> {
    let wanted: Vec<bool> =
        heap.types.iter().map(|(_, info)| info.full_name() == name || info.qualname == name).collect();
    if !wanted.contains(&true) {
        bail!("no type is called {name:?}");
    }
    let is_wanted = |id: usize| wanted.get(heap.objects.type_id(id).index()) == Some(&true);
    Ok((0..heap.objects.len()).filter(|&id| is_wanted(id)).map(|id| ObjectId(id as u32)).collect())
}
