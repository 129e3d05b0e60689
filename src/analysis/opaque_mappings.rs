//! Memory of mappings that no allocator explains (anonymous, shared, of files), and which objects point there.
//!
//! An object uses a mapping if a word of its C struct, or of a native block that belongs to it, points into it: an
//! `mmap.mmap`, an array over one, a library's object whose data is in a pool of that library. That is no exclusive
//! ownership: a pool has many users.

use std::cmp::Reverse;
use std::ops::Range;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::process::Address;
use crate::process::mapping_kind::MappingKind;

use super::range_index::RangeIndex;

/// Pairs of a mapping and who points there that are kept.
const PAIRS_MAX: usize = 1 << 18;
/// Users of a mapping that are kept, most objects first.
const USERS_MAX: usize = 8;
/// Types whose objects show memory of others: they come after those.
const VIEWS: [&str; 3] = ["builtins.memoryview", "builtins.managedbuffer", "numpy.ndarray"];

/// Numbers of a 32-bit field that are too small to be the lower half of an address by chance: counts, flags, versions
/// (`func_version` of `PyFunctionObject`, Include/cpython/funcobject.h).
const SMALL_NUMBERS: u32 = 1 << 20;

/// A mapping that no allocator explains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpaqueMapping {
    /// Its addresses.
    pub range: Range<Address>,
    /// What it is: anonymous, shared, of a file, or the heap of `brk` in which no chunks of glibc were found.
    pub kind: MappingKind,
    /// Its name, if the kernel or the program gave it one.
    pub name: String,
    /// Resident bytes that are in no other row.
    pub resident: u64,
    /// Bytes of address space that are in no other row.
    pub mapped: u64,
    /// The allocator or library that it belongs to; empty if none is known.
    pub library: String,
    /// Who points there, most objects first; empty if nobody was looked for.
    pub users: Vec<MappingUser>,
}

impl OpaqueMapping {
    /// The last part of its name: a path may say more than a reader should know. Shared memory without a file has
    /// none; the kernel calls it `/dev/zero (deleted)` (`shmem_zero_setup`, `mm/shmem.c`).
    pub fn file_name(&self) -> &str {
        if self.name.starts_with("/dev/zero") { "" } else { self.name.rsplit('/').next().unwrap_or_default() }
    }
}

/// Objects of a type, or a library, that point into a mapping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappingUser {
    /// The name of the type or library.
    pub name: String,
    /// Whether it is a type.
    pub is_type: bool,
    /// Number of objects whose C struct points there.
    pub objects: u64,
    /// Number of pointers in native blocks that belong to objects of the type, or in data and blocks of the library.
    pub pointers: u64,
}

impl MappingUser {
    /// `30 mmap.mmap`, `native memory of polars.DataFrame`, `data of libarrow.so`.
    pub fn text(&self) -> String {
        match self {
            MappingUser { is_type: false, name, .. } => format!("data of {name}"),
            MappingUser { objects: 0, name, .. } => format!("native memory of {name}"),
            MappingUser { objects, name, .. } => format!("{} {name}", super::thousands::grouped(*objects)),
        }
    }
}

/// Mappings that are alike: of one kind and name, used by the same type first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappingGroup {
    /// The largest of them.
    pub first: OpaqueMapping,
    /// How many there are.
    pub count: u64,
    /// Their resident bytes, and their address space.
    pub resident: u64,
    /// See `resident`.
    pub mapped: u64,
    /// Who points there, most objects first.
    pub users: Vec<MappingUser>,
}

/// Groups mappings that are alike, most resident bytes first.
pub fn groups(mappings: &[OpaqueMapping]) -> Vec<MappingGroup> {
    type Alike<'a> = (MappingKind, &'a str, &'a str, Option<&'a str>, usize);
    let mut groups: FxHashMap<Alike<'_>, MappingGroup> = FxHashMap::default();
    for (index, mapping) in mappings.iter().enumerate() {
        let user = mapping.users.first().map(|user| user.name.as_str());
        // Those of which nothing is known are told one by one.
        let alone = if user.is_none() && mapping.name.is_empty() { index } else { usize::MAX };
        let group = groups.entry((mapping.kind, &mapping.name, &mapping.library, user, alone)).or_insert_with(|| {
            MappingGroup { first: mapping.clone(), count: 0, resident: 0, mapped: 0, users: Vec::new() }
        });
        group.count += 1;
        group.resident = group.resident.saturating_add(mapping.resident);
        group.mapped = group.mapped.saturating_add(mapping.range.end.0.saturating_sub(mapping.range.start.0));
        if mapping.resident > group.first.resident {
            group.first = mapping.clone();
        }
        for user in &mapping.users {
            match group.users.iter_mut().find(|known| (&known.name, known.is_type) == (&user.name, user.is_type)) {
                Some(known) => {
                    known.objects = known.objects.saturating_add(user.objects);
                    known.pointers = known.pointers.saturating_add(user.pointers);
                }
                None => group.users.push(user.clone()),
            }
        }
    }
    let mut groups: Vec<MappingGroup> = groups.into_values().collect();
    for group in &mut groups {
        sort(&mut group.users);
    }
    groups.sort_by_key(|group| (Reverse(group.resident), group.first.range.start));
    groups
}

fn sort(users: &mut [MappingUser]) {
    users.sort_by(|a, b| {
        let rank = |user: &MappingUser| (!user.is_type, user.objects == 0, VIEWS.contains(&user.name.as_str()));
        let amount = |user: &MappingUser| Reverse((user.objects, user.pointers));
        rank(a).cmp(&rank(b)).then_with(|| amount(a).cmp(&amount(b))).then_with(|| a.name.cmp(&b.name))
    });
}

/// Who points into some mappings, while words are passed.
#[derive(Debug)]
pub(super) struct MappingUsers<O> {
    /// Their places in the list that was given.
    mappings: RangeIndex<usize>,
    met: FxHashMap<(usize, O), Pointers>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Pointers {
    objects: u64,
    /// The object that was counted last.
    last: Address,
    others: u64,
}

impl<O: Copy + Eq + std::hash::Hash> MappingUsers<O> {
    pub(super) fn new(mappings: &[OpaqueMapping]) -> MappingUsers<O> {
        let ranges = mappings.iter().map(|mapping| mapping.range.clone()).zip(0..);
        MappingUsers { mappings: RangeIndex::new(ranges), met: FxHashMap::default() }
    }

    /// Notes a word of `object`, or of another part of what `owner` has.
    #[inline]
    pub(super) fn note(&mut self, word: u64, owner: O, object: Option<Address>) {
        let Some((range, place)) = self.mappings.around(word) else { return };
        if word != range.start && is_beside_half_a_pointer(word) {
            return;
        }
        if self.met.len() >= PAIRS_MAX && !self.met.contains_key(&(*place, owner)) {
            return;
        }
        let pointers = self.met.entry((*place, owner)).or_default();
        match object {
            Some(object) if object != pointers.last => {
                (pointers.objects, pointers.last) = (pointers.objects + 1, object)
            }
            Some(_) => {}
            None => pointers.others += 1,
        }
    }

    /// Gives each mapping its users. `name` names an owner, and says whether it is a type.
    pub(super) fn tell(self, mappings: &mut [OpaqueMapping], name: impl Fn(O) -> (String, bool)) {
        for ((place, owner), Pointers { objects, others, .. }) in self.met {
            let (name, is_type) = name(owner);
            if let Some(mapping) = mappings.get_mut(place) {
                mapping.users.push(MappingUser { name, is_type, objects, pointers: others });
            }
        }
        for mapping in mappings {
            sort(&mut mapping.users);
            mapping.users.truncate(USERS_MAX);
        }
    }
}

/// Whether a word may be a small number of 32 bits beside padding, in which the upper half of an older pointer is left:
/// together they point into the mapping that crosses a multiple of 4 GiB, if there is one.
fn is_beside_half_a_pointer(word: u64) -> bool {
    (word as u32).cast_signed().unsigned_abs() < SMALL_NUMBERS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Far from a multiple of 4 GiB.
    const BASE: u64 = 0x7f12_3450_0000;

    fn mapping(start: u64, resident: u64) -> OpaqueMapping {
        OpaqueMapping {
            range: Address(BASE + start)..Address(BASE + start + 0x1000),
            kind: MappingKind::Shared,
            name: String::new(),
            resident,
            mapped: 0x1000,
            library: String::new(),
            users: Vec::new(),
        }
    }

    #[test]
    fn mappings_with_the_same_user_are_one_group_and_views_come_last() {
        let mut mappings = vec![mapping(0x9000, 10), mapping(0x1000, 30), mapping(0x5000, 20)];
        let mut watched: MappingUsers<u32> = MappingUsers::new(&mappings);
        // 1 is an mmap, 2 a view of it, 3 a library.
        for (word, owner, object) in [
            (0x1000, 2, Some(0x10)),
            (0x1008, 2, Some(0x10)),
            (0x1000, 2, Some(0x18)),
            (0x1000, 1, Some(0x20)),
            (0x9fff, 1, Some(0x30)),
            (0xa000, 1, Some(0x30)),
            (0x4fff, 1, Some(0x40)),
            (0x9000, 3, None),
        ] {
            watched.note(BASE + word, owner, object.map(Address));
        }
        watched.tell(&mut mappings, |owner| match owner {
            1 => ("mmap.mmap".to_owned(), true),
            2 => ("builtins.memoryview".to_owned(), true),
            _ => ("libx.so".to_owned(), false),
        });
        let groups = groups(&mappings);
        let texts = |group: &MappingGroup| group.users.iter().map(MappingUser::text).collect::<Vec<_>>();
        assert_eq!((groups[0].count, groups[0].resident, groups[0].first.resident), (2, 40, 30));
        assert_eq!(texts(&groups[0]), ["2 mmap.mmap", "2 builtins.memoryview", "data of libx.so"]);
        assert_eq!((groups[1].count, groups[1].resident, texts(&groups[1])), (1, 20, Vec::new()));
    }

    #[test]
    fn small_numbers_beside_half_a_pointer_use_nothing() {
        let crossing = OpaqueMapping { range: Address(0x7f26_ff00_0000)..Address(0x7f27_0100_0000), ..mapping(0, 1) };
        let aligned = OpaqueMapping { range: Address(0x7f28_0000_0000)..Address(0x7f28_0100_0000), ..mapping(0, 1) };
        let mut mappings = [crossing, aligned];
        let mut watched: MappingUsers<u32> = MappingUsers::new(&mappings);
        // A version, -1, and pointers: into the first, to its start, to the start of the second.
        for (word, owner) in [
            (0x7f27_0000_1234, 1),
            (0x7f26_ffff_ffff, 1),
            (0x7f27_0080_0000, 2),
            (0x7f26_ff00_0000, 2),
            (0x7f28_0000_0000, 2),
        ] {
            watched.note(word, owner, Some(Address(word & 0xff)));
        }
        watched.tell(&mut mappings, |owner| (owner.to_string(), true));
        for mapping in &mappings {
            assert_eq!(mapping.users.iter().map(|user| user.name.as_str()).collect::<Vec<_>>(), ["2"]);
        }
    }
}
