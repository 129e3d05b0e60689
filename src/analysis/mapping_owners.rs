//! Finds whose anonymous mappings are: an allocator's that replaces the C library's, or a library's that points there.
//!
//! The data of an allocator's library leads into its first mappings: arenas, spans, tables of pages. What it maps later
//! stands in their descriptors (`edata_t.e_addr` of jemalloc), so a mapping on whose first page a word of such a
//! mapping points is its as well. Of other libraries only a pointer to the start of a mapping counts: the data of many
//! points into what malloc gave them.

use std::ops::{ControlFlow, Range};

use crate::heap::foreign_malloc;
use crate::process::Address;
use crate::process::address::PAGE;
use crate::process::mapping_kind::MappingKind;
use crate::process::memory::{Memory, MemoryExt};

use super::memory_account::{Account, Row, RowKind};
use super::native_memory::file_name;
use super::opaque_mappings::OpaqueMapping;
use super::range_index::RangeIndex;

/// Bytes of an allocator's mappings that are searched for others. Descriptors take a hundredth of what they describe.
const SEARCH_MAX: u64 = 512 << 20;
/// Bytes of a library's data that are searched.
const DATA_MAX: u64 = 64 << 20;

/// Sets the libraries that own anonymous mappings, and counts those of allocators in rows of their own. `data` is that
/// of the program's files. `memory` should be a copy.
pub fn attribute<M: Memory + ?Sized>(memory: &M, account: &mut Account, data: &[Range<Address>]) {
    let mut owners = Mappings::new(&account.mappings);
    for range in data {
        let Some(name) = file_name(memory, range.start) else { continue };
        let allocator = foreign_malloc::allocator_of(&name);
        let end = Address(range.end.0.min(range.start.0.saturating_add(DATA_MAX)));
        each_word(memory, range.start..end, |word| match (owners.around(word), allocator) {
            (Some((_, place)), Some(allocator)) => owners.of[place] = Some(MappingOwner::Allocator(allocator)),
            (Some((start, place)), None) if start == word && owners.of[place].is_none() => {
                owners.of[place] = Some(MappingOwner::Library(name.clone()));
            }
            _ => {}
        });
    }
    let first: Vec<(Range<Address>, &'static str)> = (owners.anonymous.iter())
        .filter_map(|(range, place)| match owners.of[*place] {
            Some(MappingOwner::Allocator(allocator)) => Some((Address(range.start)..Address(range.end), allocator)),
            _ => None,
        })
        .collect();
    let mut left = SEARCH_MAX;
    for (range, allocator) in first {
        for piece in memory.resident(range) {
            let length = piece.end.0.saturating_sub(piece.start.0).min(left);
            left -= length;
            each_word(memory, piece.start..piece.start.offset(length as usize), |word| {
                if let Some((start, place)) = owners.around(word)
                    && word / PAGE == start / PAGE
                    && !matches!(owners.of[place], Some(MappingOwner::Allocator(_)))
                {
                    owners.of[place] = Some(MappingOwner::Allocator(allocator));
                }
            });
        }
    }
    for (mapping, owner) in account.mappings.iter_mut().zip(owners.of) {
        match owner {
            Some(MappingOwner::Library(library)) => mapping.library = library,
            Some(MappingOwner::Allocator(allocator)) => {
                mapping.library = allocator.to_owned();
                let from =
                    if mapping.kind == MappingKind::Heap { RowKind::NOT_WALKED } else { RowKind::OtherAnonymous };
                move_row(&mut account.rows, from, RowKind::Foreign(allocator), (mapping.resident, mapping.mapped));
            }
            None => {}
        }
    }
    account.mappings.retain(|mapping| mapping.kind != MappingKind::Heap);
    account.sort_rows();
}

/// Whose a mapping is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum MappingOwner {
    /// An allocator, by its name.
    Allocator(&'static str),
    /// A library whose data points to its start.
    Library(String),
}

/// Anonymous mappings, and whose all mappings are, by their place in the list that was given.
struct Mappings {
    anonymous: RangeIndex<usize>,
    of: Vec<Option<MappingOwner>>,
}

impl Mappings {
    fn new(mappings: &[OpaqueMapping]) -> Mappings {
        let is_anonymous = |kind: MappingKind| matches!(kind, MappingKind::Anonymous | MappingKind::Heap);
        let anonymous = mappings.iter().zip(0..).filter(|(mapping, _)| is_anonymous(mapping.kind));
        let anonymous = RangeIndex::new(anonymous.map(|(mapping, place)| (mapping.range.clone(), place)));
        Mappings { anonymous, of: vec![None; mappings.len()] }
    }

    /// Where the mapping begins that an address lies in, and its place.
    fn around(&self, address: u64) -> Option<(u64, usize)> {
        self.anonymous.around(address).map(|(range, place)| (range.start, *place))
    }
}

/// Calls `each` with every word of a range.
fn each_word<M: Memory + ?Sized>(memory: &M, range: Range<Address>, mut each: impl FnMut(u64)) {
    _ = memory.each_word(range, |_, word| {
        each(word);
        ControlFlow::Continue(())
    });
}

fn move_row(rows: &mut Vec<Row>, from: RowKind, to: RowKind, (resident, mapped): (u64, u64)) {
    let Some(row) = rows.iter_mut().find(|row| row.kind == from) else { return };
    let resident = resident.cast_signed();
    row.resident -= resident;
    row.mapped = row.mapped.saturating_sub(mapped);
    match rows.iter_mut().find(|row| row.kind == to) {
        Some(row) => (row.resident, row.mapped) = (row.resident + resident, row.mapped + mapped),
        None => rows.push(Row { kind: to, resident, swapped: 0, mapped, objects: 0, shallow_bytes: 0 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::memory_account::{PoolFills, SizeClass};
    use crate::process::image::{Image, Segment};
    use crate::process::regions::{Backing, Region, RegionMap};
    use crate::process::smaps::Rollup;

    const DATA: u64 = 0x10_0000;
    const FIRST: u64 = 0x20_0000;
    const SECOND: u64 = 0x30_0000;
    const OTHER: u64 = 0x40_0000;

    fn attributed(library: &str, words: &[(u64, u64)]) -> Account {
        let segment = |start: u64| Segment { start: Address(start), bytes: vec![0; 2 * PAGE as usize] };
        let mut segments: Vec<Segment> = [DATA, FIRST, SECOND, OTHER].map(segment).into();
        for &(at, word) in words {
            let segment = segments.iter_mut().rfind(|segment| segment.start.0 <= at).expect("it is in one");
            let offset = (at - segment.start.0) as usize;
            segment.bytes[offset..offset + 8].copy_from_slice(&word.to_le_bytes());
        }
        let region = |segment: &Segment| Region {
            start: segment.start,
            end: segment.start.offset(segment.bytes.len()),
            readable: true,
            writable: true,
            shared: false,
            file_offset: 0,
            backing: if segment.start.0 == DATA { Backing::File(library.into()) } else { Backing::Anonymous },
            file: None,
        };
        let regions = RegionMap::new(segments.iter().map(region).collect());
        let image = Image::new(segments, regions);
        let mappings = [FIRST, SECOND, OTHER].map(|start| OpaqueMapping {
            range: Address(start)..Address(start + 2 * PAGE),
            kind: MappingKind::Anonymous,
            name: String::new(),
            resident: 2 * PAGE,
            mapped: 2 * PAGE,
            library: String::new(),
            users: Vec::new(),
        });
        let resident = 6 * PAGE.cast_signed();
        let row =
            Row { kind: RowKind::OtherAnonymous, resident, swapped: 0, mapped: 6 * PAGE, objects: 0, shallow_bytes: 0 };
        let mut account = Account {
            rollup: Rollup::default(),
            rows: vec![row],
            mappings: mappings.into(),
            fills: PoolFills::default(),
            size_classes: Vec::<SizeClass>::new(),
            trimmable: 0,
            stacks: (0, 0),
            native: None,
            pins: None,
        };
        attribute(&image, &mut account, &[Address(DATA)..Address(DATA + 2 * PAGE)]);
        account
    }

    fn libraries(account: &Account) -> Vec<&str> {
        account.mappings.iter().map(|mapping| mapping.library.as_str()).collect()
    }

    #[test]
    fn mappings_of_an_allocator_are_found_from_its_data_and_from_its_descriptors() {
        let jemalloc = RowKind::Foreign("jemalloc");
        let account = attributed("/usr/lib/libjemalloc.so.2", &[(DATA + 64, FIRST + 640), (FIRST + 8, SECOND + 64)]);
        assert_eq!(libraries(&account), ["jemalloc", "jemalloc", ""]);
        assert_eq!(account.resident(jemalloc), 4 * PAGE.cast_signed());
        assert_eq!(account.resident(RowKind::OtherAnonymous), 2 * PAGE.cast_signed());
        // Not into the middle of another, and no further.
        let account = attributed("/usr/lib/libjemalloc.so.2", &[(DATA, FIRST), (FIRST, SECOND + PAGE)]);
        assert_eq!(libraries(&account), ["jemalloc", "", ""]);
        let chain = [(DATA, FIRST), (FIRST, SECOND), (SECOND, OTHER)];
        assert_eq!(libraries(&attributed("/usr/lib/libjemalloc.so.2", &chain)), ["jemalloc", "jemalloc", ""]);
    }

    #[test]
    fn another_library_is_named_if_its_data_points_to_the_start() {
        let account = attributed("/opt/libarrow.so", &[(DATA, FIRST), (DATA + 8, SECOND + 8), (FIRST, OTHER)]);
        assert_eq!(libraries(&account), ["libarrow.so", "", ""]);
        assert_eq!(account.resident(RowKind::OtherAnonymous), 6 * PAGE.cast_signed());
    }
}
