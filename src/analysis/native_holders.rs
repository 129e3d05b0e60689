//! Finds where the references to objects come from that only native code holds: a search of memory for their address.
//!
//! A place counts if it is in use and is not one of the references that were found: native blocks, the data of
//! libraries, stacks, words of objects whose structure is unknown. Free memory and dead objects on free lists hold
//! stale addresses and do not count. If there is no place, the reference is lost: some code incremented the count and
//! forgot it. A pointer that is stored changed (tagged, compressed, on a device) is not found either.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::allocator::glibc_arena;
use crate::graph::ObjectId;
use crate::graph::objects::ObjectGraph;
use crate::heap::block_use::{self, Extent, Use, Visit};
use crate::heap::object_table::Objects;
use crate::heap::plan::Plan;
use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt, u64_at};
use crate::python::interpreter::Python;
use crate::python::object_header::Refcount;
use crate::python::reader::Reader;
use crate::python::types::TypeTable;
use crate::references::roots::RootKind;

use super::free_lists;
use super::native_memory::file_name;
use super::raw_blocks::{Blocks, Both};

/// Objects of a group that are looked for: they are alike.
const EXAMINED_MAX: usize = 32;
/// Places that are kept, and bytes that are searched.
const PLACES_MAX: usize = 1 << 20;
const SEARCH_MAX: u64 = 64 << 30;
/// Referrers of an object, and bytes of the struct of one, that may lead to a place.
const REFERRERS_MAX: usize = 64;
const STRUCT_MAX: u64 = 4096;
/// Length of a module's name.
const NAME_MAX: u64 = 200;

/// Where references to the objects of a group come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NativeHolders {
    /// The reference count of the first of them.
    pub refcount: u64,
    /// Of these references, how many were found.
    pub found: u64,
    /// Number of objects that were looked for.
    pub examined: u64,
    /// Number of them whose address is nowhere else.
    pub lost: u64,
    /// The places of the others, and how many objects each kind of place has; most first.
    pub places: Vec<(String, u64)>,
    /// Whether all memory was searched.
    pub is_complete: bool,
}

/// What is searched.
pub struct Searched<'a, M: Memory + ?Sized> {
    /// A copy of the memory.
    pub memory: &'a M,
    /// The Python in it.
    pub python: &'a Python,
    /// Its types.
    pub types: &'a TypeTable,
    /// The references between its objects.
    pub graph: &'a ObjectGraph<'a>,
    /// Where its memory is.
    pub plan: &'a Plan,
    /// Whether blocks have debug headers.
    pub has_debug_hooks: bool,
}

/// Objects like this one that only native code holds, and this one first. Empty if it is not held so.
pub fn alike(graph: &ObjectGraph<'_>, object: ObjectId) -> Vec<ObjectId> {
    let type_id = graph.type_id(object);
    let roots = graph.roots.iter().filter(|root| root.kind == RootKind::Native).map(|root| root.object);
    let others = roots.filter(|&other| other != object && graph.type_id(other) == type_id);
    std::iter::once(object).chain(others).take(EXAMINED_MAX).collect()
}

/// Searches for the objects of several groups at once.
pub fn find<M: Memory + Sync + ?Sized>(searched: &Searched<'_, M>, groups: &[Vec<ObjectId>]) -> Vec<NativeHolders> {
    let Searched { memory, python, types, graph, plan, has_debug_hooks } = *searched;
    let objects = graph.objects;
    let all: FxHashMap<u64, u32> = groups.iter().flatten().map(|id| (objects.address(id.index()).0, id.0)).collect();
    let statics = plan.statics();
    let mut ranges = plan.ranges_for_references(memory);
    ranges.extend(plan.unknown.iter().cloned());
    ranges.sort_by_key(|range| range.start);
    let (places, is_complete) = scan(memory, &ranges, &all.keys().copied().collect());
    let mut places: Vec<(Address, u32)> =
        places.into_iter().filter_map(|(at, word)| Some((at, *all.get(&word)?))).collect();
    places.sort_unstable();
    places.dedup();
    let (mut within, mut blocks) = (Surroundings::new(&places), Blocks::default());
    let arenas = glibc_arena::find(memory, &statics);
    let mut both = Both(&mut within, &mut blocks);
    block_use::visit(memory, &python.layout, plan, &arenas, objects, &mut both);
    let rules = (&python.layout, python.version);
    let dead = free_lists::find(&free_lists::Entries::new(memory, rules, types, has_debug_hooks), &blocks);
    let mut dead: Vec<Address> = dead.iter().filter_map(|&it| blocks.ranges().get(it)).map(|it| it.start).collect();
    dead.sort_unstable();
    // Who points to the blocks that the addresses are in.
    let starts = within.of.iter().flatten().filter(|(_, usage)| usage.is_raw());
    let starts: FxHashSet<u64> = starts.flat_map(|(range, usage)| [data_of(range, *usage).0, range.start.0]).collect();
    let mut pointers: FxHashMap<u64, Vec<Address>> = FxHashMap::default();
    for (at, word) in scan(memory, &ranges, &starts).0 {
        pointers.entry(word).or_default().push(at);
    }
    let asked = Asked { searched, statics: &statics, dead: &dead, pointers: &pointers };
    let mut of_object: FxHashMap<u32, Vec<String>> = FxHashMap::default();
    let mut explained: FxHashMap<u32, u64> = FxHashMap::default();
    for ((at, target), surrounding) in places.iter().zip(&within.of) {
        match asked.judge(*at, ObjectId(*target), surrounding.as_ref()) {
            Place::Found => *explained.entry(*target).or_default() += 1,
            Place::Stale => {}
            Place::Other(name) => of_object.entry(*target).or_default().push(name),
        }
    }
    groups.iter().map(|group| told(graph, group, &of_object, &explained, is_complete)).collect()
}

fn told(
    graph: &ObjectGraph<'_>,
    group: &[ObjectId],
    of_object: &FxHashMap<u32, Vec<String>>,
    explained: &FxHashMap<u32, u64>,
    is_complete: bool,
) -> NativeHolders {
    let mut holders = NativeHolders { is_complete, ..NativeHolders::default() };
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for (index, &object) in group.iter().enumerate() {
        let excess = graph.roots.iter().find(|root| root.object == object && root.kind == RootKind::Native);
        let Refcount::Count(refcount) = graph.objects.refcount(object.index()) else { continue };
        let found = refcount.saturating_sub(excess.map_or(0, |root| u64::from(root.excess)));
        if index == 0 {
            (holders.refcount, holders.found) = (refcount, found);
        }
        holders.examined += 1;
        let mut names: Vec<&str> = of_object.get(&object.0).into_iter().flatten().map(String::as_str).collect();
        // References that were found in blocks to which their owner has no pointer to the start.
        let left = found.saturating_sub(explained.get(&object.0).copied().unwrap_or(0));
        names.sort_by_key(|name| !name.starts_with(NATIVE_BLOCK));
        let names = names.get(usize::try_from(left).unwrap_or(usize::MAX).min(names.len())..).unwrap_or_default();
        // What stands in a stack may be stale, so a certain place is told alone.
        let is_certain = names.iter().any(|name| *name != UNKNOWN);
        let mut names: Vec<&str> = names.iter().copied().filter(|name| !is_certain || *name != UNKNOWN).collect();
        names.sort_unstable();
        names.dedup();
        holders.lost += u64::from(names.is_empty());
        names.into_iter().for_each(|name| *sums.entry(name).or_default() += 1);
    }
    holders.places = sums.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
    holders.places.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    holders
}

const NATIVE_BLOCK: &str = "a native block of ";
const UNKNOWN: &str = "a stack or other memory of unknown structure";

/// What a place is.
enum Place {
    /// A reference that the graph has.
    Found,
    /// Memory that is not in use.
    Stale,
    /// A reference that it does not have, and from where.
    Other(String),
}

struct Asked<'a, M: Memory + ?Sized> {
    searched: &'a Searched<'a, M>,
    statics: &'a [Range<Address>],
    /// Dead objects, by the start of their block.
    dead: &'a [Address],
    /// Where the start of a block stands.
    pointers: &'a FxHashMap<u64, Vec<Address>>,
}

impl<M: Memory + Sync + ?Sized> Asked<'_, M> {
    fn judge(&self, at: Address, target: ObjectId, surrounding: Option<&(Range<Address>, Use)>) -> Place {
        match surrounding {
            Some((range, usage)) if usage.is_raw() => self.of_block(range, *usage, target),
            Some((_, usage)) if holds_object(*usage) => match self.object_around(at) {
                Some(object) if object == target => Place::Stale,
                Some(object) => match self.refers(object, target) {
                    true => Place::Found,
                    false => Place::Other(format!("a word of a {}", self.type_name(object))),
                },
                None => Place::Stale,
            },
            Some(_) => Place::Stale,
            None => Place::Other(match self.library_at(at) {
                Some(library) => format!("data of {library}"),
                None => UNKNOWN.to_owned(),
            }),
        }
    }

    /// What a native block is, by who has a pointer to it.
    fn of_block(&self, range: &Range<Address>, usage: Use, target: ObjectId) -> Place {
        if self.dead.binary_search(&range.start).is_ok() {
            return Place::Stale;
        }
        let graph = self.searched.graph;
        let referrers = graph.reverse.targets(target).take(REFERRERS_MAX);
        if referrers.into_iter().any(|referrer| self.points_into(referrer, range)) {
            return Place::Found;
        }
        let data = data_of(range, usage);
        let pointers = [data, range.start].into_iter().filter_map(|start| self.pointers.get(&start.0)).flatten();
        let mut library = None;
        for &at in pointers {
            if let Some(object) = self.object_around(at) {
                return Place::Other(match self.module_name(object) {
                    Some(name) => format!("the state of module {name}"),
                    None => format!("native memory of a {}", self.type_name(object)),
                });
            }
            library = library.or_else(|| self.library_at(at));
        }
        Place::Other(match library {
            Some(library) => format!("memory to which data of {library} points"),
            None => format!("{NATIVE_BLOCK}{} bytes", range.end.0.saturating_sub(data.0)),
        })
    }

    /// The library in whose data an address lies.
    fn library_at(&self, at: Address) -> Option<String> {
        let range = self.statics.iter().find(|range| range.contains(&at))?;
        file_name(self.searched.memory, range.start)
    }

    fn points_into(&self, referrer: ObjectId, range: &Range<Address>) -> bool {
        let Searched { memory, types, graph, .. } = *self.searched;
        let info = types.get(graph.type_id(referrer));
        let front = info.front as u64;
        let start = Address(graph.objects.address(referrer.index()).0.saturating_sub(front));
        let mut bytes = vec![0; front.saturating_add(info.basicsize.min(STRUCT_MAX)) as usize];
        let words = |bytes: &[u8]| {
            (0..bytes.len() / 8).any(|it| u64_at(bytes, it * 8).is_some_and(|word| range.contains(&Address(word))))
        };
        memory.read_exact_at(start, &mut bytes).is_ok() && words(&bytes)
    }

    fn refers(&self, from: ObjectId, to: ObjectId) -> bool {
        self.searched.graph.reverse.targets(to).any(|referrer| referrer == from)
    }

    /// The object that begins before an address, and does not end before it.
    fn object_around(&self, at: Address) -> Option<ObjectId> {
        let objects: &Objects = self.searched.graph.objects;
        let id = objects.first_from(at.offset(1)).checked_sub(1)?;
        let info = self.searched.types.get(objects.type_id(id));
        let length = objects.size(id).max(info.basicsize);
        (at.0 < objects.address(id).0.saturating_add(length)).then_some(ObjectId(id as u32))
    }

    fn type_name(&self, object: ObjectId) -> String {
        self.searched.types.get(self.searched.graph.type_id(object)).full_name()
    }

    fn module_name(&self, object: ObjectId) -> Option<String> {
        let Searched { memory, python, graph, .. } = *self.searched;
        let reader = Reader { memory, layout: &python.layout };
        let address = graph.objects.address(object.index());
        let dict = reader.is_a(address, "module").then(|| reader.pointer(address, python.layout.module.md_dict).ok());
        reader.string(reader.dict_get(dict??, "__name__")?, NAME_MAX)
    }
}

/// In an mmapped chunk, the data that malloc returned follows the header.
fn data_of(range: &Range<Address>, usage: Use) -> Address {
    if usage == Use::MappedRaw { range.start.offset(16) } else { range.start }
}

fn holds_object(usage: Use) -> bool {
    matches!(
        usage,
        Use::PoolObject
            | Use::ChunkObject
            | Use::MappedObject
            | Use::PageObject
            | Use::GroupObject
            | Use::StaticObject
            | Use::FoundObject
    )
}

/// The extent around each place, of places in order of address.
struct Surroundings<'p> {
    places: &'p [(Address, u32)],
    of: Vec<Option<(Range<Address>, Use)>>,
}

impl Surroundings<'_> {
    fn new(places: &[(Address, u32)]) -> Surroundings<'_> {
        Surroundings { places, of: vec![None; places.len()] }
    }
}

impl Visit for Surroundings<'_> {
    fn extent(&mut self, extent: &Extent) {
        let first = self.places.partition_point(|(at, _)| *at < extent.range.start);
        for index in first..self.places.len() {
            if self.places[index].0 >= extent.range.end {
                return;
            }
            self.of[index] = Some((extent.range.clone(), extent.usage));
        }
    }
}

/// Where one of these words stands, and which, and whether all of the memory was searched.
fn scan<M: Memory + Sync + ?Sized>(
    memory: &M,
    ranges: &[Range<Address>],
    wanted: &FxHashSet<u64>,
) -> (Vec<(Address, u64)>, bool) {
    let low = wanted.iter().min().copied().unwrap_or(u64::MAX);
    let high = wanted.iter().max().copied().unwrap_or(0);
    let (mut found, mut left) = (Vec::new(), SEARCH_MAX);
    for range in ranges.iter().flat_map(|range| memory.resident(range.clone())) {
        let length = range.end.0.saturating_sub(range.start.0);
        let end = Address(range.start.0.saturating_add(length.min(left)));
        left -= length.min(left);
        let searched = memory.each_word(range.start..end, |at, word| {
            if word >= low && word <= high && wanted.contains(&word) {
                if found.len() >= PLACES_MAX {
                    return ControlFlow::Break(());
                }
                found.push((at, word));
            }
            ControlFlow::Continue(())
        });
        if searched.is_break() || end < range.end {
            return (found, false);
        }
    }
    (found, true)
}
