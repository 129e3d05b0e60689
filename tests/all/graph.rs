//! Compares the graph of a real heap with slow reference implementations, and the two ways of building it with each
//! other.
//!
//! Dominators are compared with the data-flow equations that define them, and retained sizes with what becomes
//! unreachable when an object is removed, on each build except those on musl, for a small program. One in seven objects
//! is removed in turn.
//!
//!     cargo test --test all -- graph [NAME]    HEAPSONDE_ONLY=3.12,sid-3.14 selects, HEAPSONDE_BIN another tool

use crate::case::TestCase;
use crate::common;
use crate::common::interpreters::{self, Interpreter};
use crate::common::target::Target;
use crate::common::tool;
use heapsonde::graph::dominators::Dominator;
use heapsonde::graph::objects::ObjectGraph;
use heapsonde::graph::retained::Retained;
use heapsonde::graph::{ObjectId, reach};
use heapsonde::inspect::{self, CopyOptions, Heap};
use heapsonde::references::roots::RootKind;
use serde_json::Value;

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let mut cases = Vec::new();
    for interpreter in interpreters::find_and_say() {
        let (name, same, is_first) = (interpreter.name.clone(), interpreter.clone(), interpreter.is_first);
        cases.push(TestCase::new(format!("{name}/twins"), move || twins_agree(&same)).ignored_if(!is_first));
        let both_ways = move || both_ways_agree(&interpreter);
        cases.push(TestCase::new(format!("{name}/both-ways"), both_ways).ignored_if(!is_first));
    }
    cases
}

fn leaks(interpreter: &Interpreter) -> Result<Target, String> {
    Target::spawn(interpreter, &common::program("leaks.py"), &[], &[])
}

/// Hardly more than what every interpreter has: the slow twins take the square of it.
const LITTLE: &str = r"
import os
class Node:
    def __init__(self, before):
        self.before, self.both = before, [before, self]
    def __iter__(self):
        kept = {'self': self}
        yield kept
node = None
for _ in range(300):
    node = Node(node)
running = iter(node)
next(running)
os.write(1, b'ready %d\n' % os.getpid())
os.read(0, 1)
";

fn twins_agree(interpreter: &Interpreter) -> Result<(), String> {
    let target = Target::spawn(interpreter, LITTLE, &[], &[])?;
    let mut opened = inspect::Target::process(target.pid() as i32).map_err(|error| error.to_string())?;
    let compared = opened
        .heap(&CopyOptions::default(), |heap| Ok::<_, inspect::Error>(compare_with_twins(heap, &interpreter.name)));
    compared.map_err(|error| error.to_string())?.result
}

fn compare_with_twins(heap: &Heap<'_>, name: &str) -> Result<(), String> {
    let (graph, _) = heap.graph();
    // Where counts are deferred they are no less exact.
    let is_function = |id: ObjectId| heap.types.get(graph.type_id(id)).full_name() == "builtins.function";
    let functions = (0..graph.len() as u32).filter(|&id| is_function(ObjectId(id))).count();
    let native = graph.roots.iter().filter(|root| root.kind == RootKind::Native && is_function(root.object)).count();
    if functions < 500 || native * 100 > functions {
        return Err(format!("{native} of {functions} functions are held by native code"));
    }

    let dominators = graph.dominators();
    let slow = by_data_flow(&graph);
    for (id, expected) in slow.iter().enumerate() {
        let found = dominators.of(ObjectId(id as u32));
        if found != *expected {
            return Err(format!("object {id} of {}: {found:?}, by data flow {expected:?}", slow.len()));
        }
    }
    let retained = graph.retained(&dominators);
    let roots = graph.ownership().roots();
    let before = owned(&graph, roots, None);
    let ranked = (0..graph.len()).map(|id| graph.ownership().rank(ObjectId(id as u32)).is_some());
    if !before.iter().copied().eq(ranked) || before != reach::from(&graph.forward, &graph.root_objects()) {
        return Err("what owning references reach is not what is reachable".to_owned());
    }
    for id in (0..graph.len()).step_by(7) {
        let expected = without(&graph, roots, &before, id);
        if retained[id] != expected {
            return Err(format!("object {id}: {:?}, counted without it {expected:?}", retained[id]));
        }
    }
    tool::say(&format!(
        "{}: {} objects, {} references, {} reachable, {native} of {functions} functions held by native code",
        name,
        graph.len(),
        graph.forward.edge_count(),
        dominators.order().count()
    ));
    Ok(())
}

/// A node's dominators are itself and what dominates all that lead to it (Allen and Cocke, 1972): repeated until
/// nothing changes, on sets of bits. Nodes are visited as a search finds them, which is the only help it gets.
fn by_data_flow(graph: &ObjectGraph<'_>) -> Vec<Dominator> {
    let words = graph.len().div_ceil(64);
    let roots = graph.ownership().roots();
    let mut is_root = vec![false; graph.len()];
    roots.iter().for_each(|root| is_root[root.index()] = true);
    let reached = owned(graph, roots, None);
    let order: Vec<ObjectId> = graph.dominators().order().collect();
    let full = |reached: bool| if reached { vec![u64::MAX; words] } else { Vec::new() };
    let mut sets: Vec<Vec<u64>> = reached.iter().map(|&reached| full(reached)).collect();
    loop {
        let mut changed = false;
        for &node in &order {
            let mut next = vec![if is_root[node.index()] { 0 } else { u64::MAX }; words];
            for from in graph.reverse.targets(node).filter(|&from| reached[from.index()] && graph.owns(from, node)) {
                next.iter_mut().zip(&sets[from.index()]).for_each(|(word, other)| *word &= other);
            }
            next[node.index() / 64] |= 1 << (node.index() % 64);
            changed |= next != sets[node.index()];
            sets[node.index()] = next;
        }
        if !changed {
            break;
        }
    }
    let sizes: Vec<u32> = sets.iter().map(|set| set.iter().map(|word| word.count_ones()).sum()).collect();
    // Of the others that dominate a node, the immediate one has one dominator less than the node.
    let immediate = |node: usize| {
        let set = &sets[node];
        let others = (0..graph.len()).filter(|&other| set[other / 64] >> (other % 64) & 1 == 1 && other != node);
        others
            .max_by_key(|&other| sizes[other])
            .map_or(Dominator::Root, |other| Dominator::Object(ObjectId(other as u32)))
    };
    (0..graph.len()).map(|node| if reached[node] { immediate(node) } else { Dominator::Unreachable }).collect()
}

/// What the references that own reach from the roots; without one object, if one is given.
fn owned(graph: &ObjectGraph<'_>, roots: &[ObjectId], without: Option<usize>) -> Vec<bool> {
    let mut reached = vec![false; graph.len()];
    let mut open: Vec<ObjectId> = Vec::new();
    let mut enter = |object: ObjectId, open: &mut Vec<ObjectId>| {
        if Some(object.index()) != without && !std::mem::replace(&mut reached[object.index()], true) {
            open.push(object);
        }
    };
    roots.iter().for_each(|&root| enter(root, &mut open));
    while let Some(object) = open.pop() {
        graph.forward.targets(object).filter(|&to| graph.owns(object, to)).for_each(|to| enter(to, &mut open));
    }
    reached
}

/// What is lost with an object.
fn without(graph: &ObjectGraph<'_>, roots: &[ObjectId], before: &[bool], id: usize) -> Retained {
    if !before[id] {
        return Retained::default();
    }
    let reached = owned(graph, roots, Some(id));
    let is_lost = |other: &usize| before[*other] && (*other == id || !reached[*other]);
    (0..graph.len()).filter(is_lost).fold(Retained::default(), |sum, other| Retained {
        objects: sum.objects + 1,
        bytes: sum.bytes + graph.shallow(ObjectId(other as u32)),
    })
}

/// With a copy and in two passes over the process, which blocks: the same graph, the same retained sizes, the same
/// frames. The limit that leaves room for no copy is the tool's own figure.
fn both_ways_agree(interpreter: &Interpreter) -> Result<(), String> {
    let target = leaks(interpreter)?;
    let pid = target.pid().to_string();
    let refused = tool::run(&["histo", "--retained", "--max-memory", "1MiB", &pid])?;
    if refused.status.code() != Some(2) || !refused.stdout.is_empty() {
        return Err(format!("a limit of 1 MiB: {} {}", refused.status, refused.stderr));
    }
    // `... objects need 66.8 MiB to follow their references (76.2 MiB with a copy), and 1.00 MiB --max-memory allows`
    let needed = refused.stderr.split(" need ").nth(1).and_then(|rest| rest.split(" MiB").next());
    let needed: f64 = needed.and_then(|text| text.parse().ok()).ok_or_else(|| refused.stderr.clone())?;
    let limit = format!("{}MiB", needed + 0.2);
    let ask = |more: &[&str]| -> Result<Value, String> {
        let args = [&["histo", "--json", "--retained"], more, &[pid.as_str()]].concat();
        tool::run(&args)?.ok()?.json()
    };
    let (copied, streamed) = (ask(&[])?, ask(&["--max-memory", &limit])?);
    let way = |report: &Value| (report["graph"]["copied"].clone(), report["graph"]["consistent"].clone());
    if way(&copied) != (true.into(), true.into()) || way(&streamed) != (false.into(), false.into()) {
        return Err(format!("{:?}, with {limit} {:?}", way(&copied), way(&streamed)));
    }
    for key in ["objects", "references", "roots", "dropped_references", "torn_walks", "garbage", "held_by_native"] {
        if copied["graph"][key] != streamed["graph"][key] {
            return Err(format!("{key}: {} in a copy, {} in two passes", copied["graph"], streamed["graph"]));
        }
    }
    if copied["types"] != streamed["types"] || copied["totals"] != streamed["totals"] {
        return Err("the histograms differ".to_owned());
    }
    let draw = |more: &[&str]| -> Result<String, String> {
        Ok(tool::run(&[&["flamegraph", "-f", "folded"], more, &[pid.as_str()]].concat())?.ok()?.text())
    };
    if draw(&[])? != draw(&["--max-memory", &limit])? {
        return Err("the owners differ".to_owned());
    }
    Ok(())
}
