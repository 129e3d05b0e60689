//! `why`: what holds an object, or the objects of a type.

use anyhow::{Result, bail};
use serde::Serialize;

use crate::analysis::why::{self, Answer};
use crate::graph::ObjectId;
use crate::heap::spelling::Speller;
use crate::report::histogram_json::SCHEMA_VERSION;
use crate::report::histogram_table::printable;
use crate::report::units;

use super::args::{self, Why};
use super::graph;
use super::open::{self, Collected};
use super::output::Destination;

#[derive(Serialize)]
struct Document {
    schema_version: u32,
    query: String,
    objects: u64,
    shallow_bytes: u64,
    retained_bytes: u64,
    garbage_objects: u64,
    chains: Vec<Chain>,
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
    let destination = Destination::new(&options.output, || Destination::Stdout)?;
    let (pid, what) = words(options)?;
    let target = args::Target {
        pid,
        pid_option: None,
        core: options.core.clone(),
        command: Vec::new(),
        keep: false,
        after: None,
        pause: !options.nonblocking && pid.is_some(),
        nonblocking: options.nonblocking,
    };
    let taken = open::open(&target)?.collect(|collected| answer(options, what, collected))?;
    let document = &taken.collected;
    destination.write(|out| {
        if options.json {
            serde_json::to_writer_pretty(&mut *out, document)?;
            return writeln!(out);
        }
        writeln!(
            out,
            "{}: {} objects, {} (shallow), {} retained",
            printable(&document.query),
            units::count(document.objects),
            units::bytes(document.shallow_bytes),
            units::bytes(document.retained_bytes),
        )?;
        for chain in &document.chains {
            let text = if chain.objects > 1 { &chain.shape } else { &chain.chain };
            let bytes = units::bytes(chain.shallow_bytes);
            writeln!(out, "{:>12} {bytes:>12}  {}", units::count(chain.objects), printable(text))?;
        }
        if document.garbage_objects > 0 {
            writeln!(out, "{:>12}  garbage awaiting collection", units::count(document.garbage_objects))?;
        }
        Ok(())
    })?;
    Ok(taken.problems.write(&mut std::io::stderr().lock())?)
}

/// The process, and what is asked of it.
fn words(options: &Why) -> Result<(Option<i32>, &str)> {
    match (options.words.as_slice(), options.pid_option, &options.core.core) {
        ([what], Some(pid), None) => Ok((Some(pid), what)),
        ([what], None, Some(_)) => Ok((None, what)),
        ([pid, what], None, None) => match pid.parse() {
            Ok(pid) => Ok((Some(pid), what)),
            Err(_) => bail!("{pid:?} is not a process id"),
        },
        ([_], None, None) => bail!("which object? Give a PID and an address or a type, such as: why 4711 dict"),
        _ => bail!("one process or core, please, and one address or type"),
    }
}

fn answer(options: &Why, what: &str, collected: &Collected<'_>) -> Result<Document> {
    let targets = targets(what, collected)?;
    let graph = graph::build(collected);
    let dominators = graph.dominators();
    let retained = graph.retained(&dominators);
    let is_target: rustc_hash::FxHashSet<ObjectId> = targets.iter().copied().collect();
    let sums =
        crate::graph::retained::by_kind(&dominators, &retained, 1, |object| usize::from(!is_target.contains(&object)));
    let speller = Speller::new(collected.memory, collected.references);
    let object = |id: ObjectId| &collected.objects[id.index()];
    let Answer { groups, garbage } = why::chains(
        &graph,
        &targets,
        options.show_values,
        options.top,
        |from, to| {
            let from = object(from);
            speller.spell(from.address, from.type_id, collected.types.get(from.type_id).address, object(to).address)
        },
        |id| collected.types.get(object(id).type_id).full_name(),
    );
    Ok(Document {
        schema_version: SCHEMA_VERSION,
        query: what.to_owned(),
        objects: targets.len() as u64,
        shallow_bytes: targets.iter().map(|&target| object(target).size).sum(),
        retained_bytes: sums[0].bytes,
        garbage_objects: garbage,
        chains: groups
            .into_iter()
            .take(options.top)
            .map(|group| Chain {
                chain: group.chain,
                shape: group.shape,
                root_kind: group.kind.name(),
                objects: group.objects,
                shallow_bytes: group.bytes,
                steps: group.steps,
                example: object(group.example).address.to_string(),
            })
            .collect(),
    })
}

/// The objects that were asked for.
fn targets(what: &str, collected: &Collected<'_>) -> Result<Vec<ObjectId>> {
    if let Some(digits) = what.strip_prefix("0x") {
        let Ok(address) = u64::from_str_radix(digits, 16) else { bail!("{what:?} is not an address") };
        let Some(id) = collected.index.find(address) else { bail!("no object is at {what}") };
        return Ok(vec![ObjectId(id)]);
    }
    let wanted: Vec<bool> =
        collected.types.iter().map(|(_, info)| info.full_name() == what || info.qualname == what).collect();
    if !wanted.contains(&true) {
        bail!("no type is called {what:?}");
    }
    let is_wanted = |id: usize| wanted.get(collected.objects[id].type_id.index()) == Some(&true);
    Ok((0..collected.objects.len()).filter(|&id| is_wanted(id)).map(|id| ObjectId(id as u32)).collect())
}
