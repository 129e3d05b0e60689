//! Puts suspects into words, at the last look: chains, types, bounds.

use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::analysis::frames::{Frame, FrameKind, Frames};
use crate::analysis::inspectors::{self, Finding, State};
use crate::analysis::names::Names;
use crate::analysis::owners::Owners;
use crate::graph::ObjectId;
use crate::graph::objects::ObjectGraph;
use crate::process::memory::{Memory, MemoryExt};
use crate::python::reader::Reader;
use crate::references::Label;
use crate::references::notation::Spelled;
use crate::references::roots::RootKind;

use super::bounds::Bound;
use super::figures::Figures;
use super::owner_lines::OwnerLines;
use super::paths::{self, KEY, PathId};
use super::series::{Series, TypeGrowth, merged};
use super::suspects::{Suspect, SuspectKind};
use super::verdict::{Verdict, judge};

/// Looks from which on a suspect may be called sure.
pub const LOOKS_SURE: usize = 7;
/// Objects that refer to a container and are asked for its bound.
const USERS_MAX: usize = 8;
/// The share of a path's objects that must be under one set of keys for these to be named.
const NAMES_KEYS: f64 = 0.6;
/// Attributes of one object that are looked at for a bound.
const ATTRIBUTES_MAX: usize = 4096;

/// Something that grew, in words.
#[derive(Clone, Debug)]
pub struct GrowingOwner {
    /// What grew.
    pub kind: SuspectKind,
    /// How its growth looks.
    pub verdict: Verdict,
    /// Whether it is called a suspect for sure.
    pub is_sure: bool,
    /// The container, as a chain from its root.
    pub chain: String,
    /// The container's type.
    pub type_name: String,
    /// The type of what became more in it.
    pub growing_type: String,
    /// Where most of the growth is, as a chain, and the type there; `None` where that is what became more.
    pub deepest: Option<(String, String)>,
    /// How many there were at each look.
    pub counts: Figures,
    /// What they retained, in bytes.
    pub bytes: Figures,
    /// The types of all objects that are more now, most first.
    pub types: Vec<TypeGrowth>,
    /// What the program lets the container take at most.
    pub bound: Option<Bound>,
    /// What it would take at its bound, bytes, if that is more than the process may have.
    pub out_of_reach: Option<u64>,
    /// The lines on which its objects were made while they were looked at, and about how many; most first.
    pub made_in: Vec<(String, u64)>,
    /// What inspectors say of most of its objects, or of the container and its owners.
    pub findings: Vec<Finding>,
    /// Of what several share, who does.
    sharers: Vec<String>,
    /// Where it grows, and, if it is shared by parts of one owner, where that is.
    places: (PathId, Option<PathId>),
}

impl GrowingOwner {
    /// The figures whose growth tells: objects, or bytes where their number stays.
    pub fn telling(&self) -> &Figures {
        self.kind.telling(&self.counts, &self.bytes)
    }

    /// When its bound is reached, where its entries are counted.
    pub fn full_in(&self) -> Option<Duration> {
        let bound = self.bound.as_ref().filter(|_| self.kind == SuspectKind::Container)?;
        bound.full_in(&self.counts)
    }
}

/// What limits the growth of a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct GrowthLimits {
    /// How old it was at the first look.
    pub uptime: Option<Duration>,
    /// The most memory that it may have, bytes.
    pub memory: Option<u64>,
}

/// A look whose objects can still be read, with the path of each frame.
pub struct LastLook<'l, 'm, M: Memory + ?Sized, N: Memory + ?Sized> {
    /// The objects.
    pub graph: &'l ObjectGraph<'l>,
    /// Their names.
    pub names: &'l Names<'m, M>,
    /// The memory that they are in.
    pub reader: Reader<'l, N>,
    /// Their owners.
    pub owners: &'l Owners,
    /// The path of each frame of these.
    pub path_of: &'l [PathId],
    /// What the objects' fields say.
    pub state: &'l State<'l>,
}

/// Says what suspects are, and judges them, those that look like leaks first.
pub fn describe<M: Memory + ?Sized, N: Memory + ?Sized>(
    series: &Series,
    suspects: &[Suspect],
    last: &LastLook<'_, '_, M, N>,
    target: &GrowthLimits,
) -> Vec<GrowingOwner> {
    let frames = last.owners.frames();
    let mut frame_of: FxHashMap<PathId, u32> = FxHashMap::default();
    let mut objects_of: FxHashMap<PathId, u64> = FxHashMap::default();
    let mut steps_of: FxHashMap<PathId, &str> = FxHashMap::default();
    let mut is_of_several: FxHashSet<PathId> = FxHashSet::default();
    for (index, path) in (0..).zip(last.path_of) {
        let step = frames.frames.get(index as usize).map_or("", |frame| frame.step.as_str());
        if *steps_of.entry(*path).or_insert(step) != step {
            is_of_several.insert(*path);
        }
        let objects = |frame: u32| last.owners.own().get(frame as usize).map_or(0, |own| own.objects);
        *objects_of.entry(*path).or_default() += objects(index);
        let frame = frame_of.entry(*path).or_insert(index);
        if objects(*frame) < objects(index) {
            *frame = index;
        }
    }
    let mut suspect_of: FxHashMap<PathId, usize> = FxHashMap::default();
    for (index, suspect) in suspects.iter().enumerate() {
        suspect.growing.iter().for_each(|&path| _ = suspect_of.entry(path).or_insert(index));
    }
    let mut types = series.types(suspects.len(), |path| suspect_of.get(&path).copied());
    let container_of = |suspect: &Suspect| frame_of.get(&suspect.container).copied();
    let lines = OwnerLines::new(last.graph, last.owners, suspects.iter().filter_map(container_of));
    let bounds = bounds(last, &lines);
    let mut findings = findings(last, suspects, container_of, &suspect_of, &lines);
    let mut described: Vec<GrowingOwner> = suspects
        .iter()
        .zip(&mut types)
        .zip(&mut findings)
        .filter_map(|((suspect, types), findings)| {
            let frame = |path: PathId| frame_of.get(&path).copied();
            let container = frame(suspect.container)?;
            let growing = frame(suspect.growing[0])?;
            // The table of a container grows with its entries; a region has no bound.
            let bound = bounds.get(&container).cloned().filter(|_| suspect.kind != SuspectKind::Region);
            let is_bounded = |bound: &Bound| match suspect.kind {
                SuspectKind::Container => bound.explains(&suspect.counts),
                SuspectKind::Buffer | SuspectKind::Region => bound.explains_table(&suspect.bytes),
            };
            // A bound that takes more memory than there is ends no growth.
            let counted = bound.as_ref().filter(|_| suspect.kind == SuspectKind::Container);
            let when_full = counted.and_then(|bound| bound.bytes_when_full(&suspect.counts, &suspect.bytes));
            let out_of_reach = when_full.filter(|&full| target.memory.is_some_and(|memory| full > memory));
            let verdict = match &bound {
                Some(bound) if is_bounded(bound) && out_of_reach.is_none() => Verdict::Filling,
                _ => judge(suspect.telling(), target.uptime),
            };
            let is_named = !series.paths.is_unnamed(suspect.container);
            let is_sure = verdict == Verdict::Steady
                && is_named
                && suspect.kind != SuspectKind::Region
                && series.len() >= LOOKS_SURE;
            let deepest = frame(suspect.deepest).filter(|&deepest| deepest != growing && deepest != container);
            let chain_to = |path: PathId, frame: u32| {
                let own = last.owners.own().get(frame as usize).map_or(0, |own| own.objects) as f64;
                let is_most = own >= NAMES_KEYS * objects_of.get(&path).copied().unwrap_or(0) as f64;
                let is_of_several =
                    |frame: u32| last.path_of.get(frame as usize).is_some_and(|path| is_of_several.contains(path));
                chain(frames, frame, if is_most { Keys::Own } else { Keys::Any }, &is_of_several)
            };
            let type_of = |frame: u32| frames.frames.get(frame as usize).map(type_name).unwrap_or_default();
            Some(GrowingOwner {
                kind: suspect.kind,
                verdict,
                is_sure,
                chain: chain_to(suspect.container, container),
                type_name: type_of(container),
                growing_type: type_of(growing),
                deepest: deepest.map(|frame| (chain_to(suspect.deepest, frame), type_of(frame))),
                counts: suspect.counts.clone(),
                bytes: suspect.bytes.clone(),
                types: std::mem::take(types),
                bound,
                out_of_reach,
                made_in: Vec::new(),
                findings: std::mem::take(findings),
                sharers: sharers(frames, container),
                places: (suspect.container, common_owner(last, container)),
            })
        })
        .collect();
    fold_shared(&mut described);
    described.sort_by(|a, b| {
        let key = |owner: &GrowingOwner| owner.verdict.is_of_a_leak();
        key(b).cmp(&key(a)).then(b.bytes.growth().total_cmp(&a.bytes.growth()))
    });
    described
}

/// The owner whose parts share what is in a frame. `None` where others share it, or nobody.
fn common_owner<M: Memory + ?Sized, N: Memory + ?Sized>(last: &LastLook<'_, '_, M, N>, frame: u32) -> Option<PathId> {
    let frames = last.owners.frames();
    let (_, shared) = frames.upwards(frame).find(|(_, frame)| frame.kind == FrameKind::Shared)?;
    let owner = shared.parent.filter(|&owner| !frames.is_within_holder(owner))?;
    last.path_of.get(owner as usize).copied()
}

/// Who shares what is in a frame; nobody where it has one owner.
fn sharers(frames: &Frames, frame: u32) -> Vec<String> {
    let line = frames.line(frame);
    line.iter().rfind(|frame| frame.kind == FrameKind::Shared).map(|frame| frame.names.clone()).unwrap_or_default()
}

/// Counts what only suspects share, such as keys that a cache has in two tables, for the largest of these; what parts
/// of one share, such as a number that is a key and an attribute, for that one; what one with a bound shares, for that
/// one.
fn fold_shared(owners: &mut Vec<GrowingOwner>) {
    let is_part = |name: &str, chain: &str| {
        let behind = name.strip_prefix(chain).or_else(|| chain.strip_prefix(name));
        behind.is_some_and(|behind| behind.is_empty() || behind.starts_with(['.', '[', ',', '<']))
    };
    let alone: Vec<usize> = (0..owners.len()).filter(|&index| owners[index].sharers.is_empty()).collect();
    let mut folded: Vec<(usize, usize)> = Vec::new();
    for (index, shared) in owners.iter().enumerate().filter(|(_, owner)| !owner.sharers.is_empty()) {
        let growth = |&a: &usize, &b: &usize| owners[a].bytes.growth().total_cmp(&owners[b].bytes.growth());
        let largest =
            |name: &String| alone.iter().copied().filter(|&owner| is_part(name, &owners[owner].chain)).max_by(growth);
        let of_each: Vec<Option<usize>> = shared.sharers.iter().map(largest).collect();
        // There is no more of it than in the smallest of those who share it.
        let bounded = of_each.iter().flatten().copied().find(|&owner| owners[owner].verdict == Verdict::Filling);
        let all = || of_each.iter().copied().collect::<Option<Vec<usize>>>();
        let within = |&owner: &usize| shared.places.1 == Some(owners[owner].places.0);
        let common = alone.iter().copied().filter(within).max_by(growth);
        let into = bounded.or(common).or_else(|| all()?.into_iter().max_by(growth));
        folded.extend(into.map(|into| (index, into)));
    }
    for &(index, into) in folded.iter().rev() {
        let shared = owners[index].clone();
        let owner = &mut owners[into];
        owner.bytes.values.iter_mut().zip(&shared.bytes.values).for_each(|(sum, bytes)| {
            *sum = sum.saturating_add(*bytes);
        });
        owner.types = merged(std::mem::take(&mut owner.types), &shared.types);
    }
    let mut index = 0;
    owners.retain(|_| {
        index += 1;
        !folded.iter().any(|&(folded, _)| folded == index - 1)
    });
}

/// The type of what a frame stands for.
fn type_name(frame: &Frame) -> String {
    match (&frame.type_name, frame.root) {
        (Some(type_name), _) => type_name.clone(),
        (None, Some(RootKind::Module)) => "module".to_owned(),
        (None, _) => String::new(),
    }
}

/// How keys and numbers are written in a chain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keys {
    /// As those of this frame.
    Own,
    /// As any: frames with other keys have as much.
    Any,
}

/// A step that stands for others which differ in numbers.
fn general(step: &str) -> String {
    paths::without_numbers(step).replace(paths::GENERAL, "…")
}

/// A frame as a chain from its root; from what several share, where that is below it. `is_of_several`: whether frames
/// that are called otherwise count for the same path.
fn chain(frames: &Frames, frame: u32, keys: Keys, is_of_several: &dyn Fn(u32) -> bool) -> String {
    let mut line: Vec<(u32, &Frame)> = frames.upwards(frame).collect();
    line.reverse();
    let mut chain = String::new();
    for (index, &(number, frame)) in line.iter().enumerate() {
        match (frame.kind, frame.root) {
            (FrameKind::Shared, _) if keys == Keys::Any && is_of_several(number) => {
                frames.begin_shared(&mut chain, &Frame { step: general(&frame.step), ..frame.clone() });
            }
            (FrameKind::Shared, _) => frames.begin_shared(&mut chain, frame),
            (_, Some(RootKind::Native | RootKind::Immortal)) => {
                let held = line.get(index + 1).and_then(|(_, above)| above.type_name.as_deref()).unwrap_or("object");
                chain = format!("{held} {}", frame.step);
            }
            _ if keys == Keys::Any && frame.step.starts_with("['") => {
                if !chain.ends_with(KEY) {
                    chain.push_str(KEY);
                }
            }
            // One of many modules `plugin_17` stands for all.
            (_, Some(RootKind::Module)) if keys == Keys::Any && is_of_several(number) => {
                chain.push_str(&general(&frame.step));
            }
            _ => chain.push_str(&frame.step),
        }
    }
    chain
}

/// The bounds of containers, by their frames: an attribute of the container, of one of the owners below it or of one of
/// its users.
fn bounds<M: Memory + ?Sized, N: Memory + ?Sized>(
    last: &LastLook<'_, '_, M, N>,
    lines: &OwnerLines,
) -> FxHashMap<u32, Bound> {
    let bound = |container: u32| {
        let of_line = lines.objects(container).find_map(|object| bound_of(last, object));
        of_line.or_else(|| users(last, lines.object(container)?).into_iter().find_map(|user| bound_of(last, user)))
    };
    lines.containers().filter_map(|container| Some((container, bound(container)?))).collect()
}

/// What inspectors say of each suspect: of what grew, of its container and of the owners below that.
fn findings<M: Memory + ?Sized, N: Memory + ?Sized>(
    last: &LastLook<'_, '_, M, N>,
    suspects: &[Suspect],
    container_of: impl Fn(&Suspect) -> Option<u32>,
    suspect_of: &FxHashMap<PathId, usize>,
    lines: &OwnerLines,
) -> Vec<Vec<Finding>> {
    let mut asked: Vec<Vec<ObjectId>> = suspects
        .iter()
        .map(|suspect| container_of(suspect).into_iter().flat_map(|frame| lines.objects(frame)).collect())
        .collect();
    let frames = last.owners.frames();
    for object in (0..last.graph.len() as u32).map(ObjectId) {
        let path = frames.of(object).and_then(|frame| last.path_of.get(frame as usize));
        if let Some(&suspect) = path.and_then(|path| suspect_of.get(path)) {
            asked[suspect].push(object);
        }
    }
    let said = |objects: Vec<ObjectId>| {
        let mut found = inspectors::ask(last.state, objects.into_iter());
        found.retain(Finding::is_of_most);
        found
    };
    asked.into_iter().map(said).collect()
}

/// Objects that have something as an attribute, whoever owns it: Django's caches keep their entries in a dict of their
/// module.
fn users<M: Memory + ?Sized, N: Memory + ?Sized>(last: &LastLook<'_, '_, M, N>, object: ObjectId) -> Vec<ObjectId> {
    let LastLook { graph, names, .. } = last;
    let mut users = Vec::new();
    for from in graph.reverse.targets(object).take(USERS_MAX) {
        match graph.is_dict(from) {
            true => users.extend(graph.reverse.targets(from).take(USERS_MAX)),
            false => users.push(from),
        }
    }
    users.retain(|&user| !graph.is_dict(user) && !names.is_definition(user));
    users
}

/// The bound that an object states.
fn bound_of<M: Memory + ?Sized, N: Memory + ?Sized>(last: &LastLook<'_, '_, M, N>, object: ObjectId) -> Option<Bound> {
    let (names, layout) = (last.names, last.reader.layout);
    let address = names.address(object);
    let field = |offset: usize| last.reader.memory.read_i64(address.offset(offset)).ok();
    // -1: none.
    match names.type_name(object).as_str() {
        "collections.deque" => return Bound::of("maxlen", field(layout.deque.maxlen)?),
        "functools._lru_cache_wrapper" => return Bound::of("maxsize", field(layout.lru_cache.maxsize)?),
        _ => {}
    }
    let mut attributes: Vec<(ObjectId, String)> = Vec::new();
    let mut dicts = Vec::new();
    names.for_each(object, &mut |target, label| {
        // A container may have millions of items, and none of them is an attribute.
        if matches!(label, Label::Index(_) | Label::Value(_) | Label::Key | Label::Element) {
            return;
        }
        match names.spell(object, label) {
            Spelled::Namespace => dicts.push(target),
            Spelled::Attribute(name) if attributes.len() < ATTRIBUTES_MAX => attributes.push((target, name)),
            _ => {}
        }
    });
    for dict in dicts {
        names.for_each(dict, &mut |target, label| {
            if attributes.len() >= ATTRIBUTES_MAX {
                return;
            }
            if let Spelled::Text(name) | Spelled::CodeText(name) = names.spell(dict, label) {
                attributes.push((target, name));
            }
        });
    }
    attributes.into_iter().find_map(|(value, name)| {
        let at = names.address(value);
        let float = || {
            let is_float = names.type_name(value) == "builtins.float";
            let bits = is_float.then(|| last.reader.memory.read_u64(at.offset(layout.object.size)).ok()).flatten()?;
            Some(f64::from_bits(bits) as i64)
        };
        Bound::of(&name, last.reader.small_int(at).or_else(float)?)
    })
}
