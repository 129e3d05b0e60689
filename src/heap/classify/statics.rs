//! Finds objects that no allocator made: static types, `None`, small ints and identifiers in the data of the
//! executable, libpython and extension modules.
//!
//! They are aligned to 8, as C aligns structs of pointers. Only data that is writable is searched, because every object
//! has a count that may be written.

use crate::process::Address;

use super::classifier::{BlockVerdict, Classifier, LiveObject};

/// Alignment of a static object.
const ALIGNMENT: usize = 8;
/// Size of the smallest object, a header.
const HEADER: usize = 16;

/// Finds static objects in `bytes`, the writable data at `start`. The bytes of an object that `visit` accepts are not
/// searched again.
pub fn for_each(classifier: &Classifier<'_>, start: Address, bytes: &[u8], mut visit: impl FnMut(LiveObject) -> bool) {
    let mut offset = 0;
    while offset + HEADER <= bytes.len() {
        match classifier.static_object(start.offset(offset), bytes, offset) {
            BlockVerdict::Object(found) => {
                let length = usize::try_from(found.measured.extent).unwrap_or(HEADER).max(HEADER);
                let step = if visit(found) { length.next_multiple_of(ALIGNMENT) } else { ALIGNMENT };
                offset = offset.saturating_add(step);
            }
            BlockVerdict::NoObject | BlockVerdict::Implausible(..) => offset += ALIGNMENT,
        }
    }
}
