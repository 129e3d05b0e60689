//! Objects that no allocator made: static types, `None`, small ints and identifiers in the data of the executable,
//! of libpython and of extension modules.
//!
//! They are aligned as C aligns structs of pointers: to 8. Only data that is writable now is searched, since every
//! object has a count that somebody may write.

use crate::process::Address;

use super::classifier::{BlockVerdict, Classifier, LiveObject};

/// Alignment of a static object.
const ALIGNMENT: usize = 8;
/// The smallest object: a header.
const HEADER: usize = 16;

/// Finds the static objects in `bytes`, the writable data at `start`. The bytes of an object that `visit` accepts are
/// not searched again: what lies in it is a part of it.
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
