//! Decodes an object's header and the GC head before it: reference count and GC links.
//!
//! Mirrors `Include/object.h`, `Include/refcount.h` and `Include/internal/pycore_gc.h` (v3.8 to v3.15).

use crate::process::memory::{u32_at, u64_at};

use super::gc_links::link;
use super::layout::Layout;
use super::version::Version;

/// Load address of a program that is not relocated; no lower address is mapped.
pub const LOWEST_ADDRESS: u64 = 0x40_0000;

/// A reference count as stored in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refcount {
    /// This many references.
    Count(u64),
    /// The object is never freed (3.12+); holds the header's raw value.
    Immortal(u32),
}

/// How to decode the reference count of a version, and which values are invalid (`Include/refcount.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefcountRule {
    /// Until 3.11: a signed word.
    Word,
    /// 3.12 and 3.13: 32 bits, negative as such for an immortal object; the upper half is 0, or 1 where an old
    /// extension counted an immortal object.
    Half,
    /// 3.14+: 32 bits of count, 16 bits of overflow that are 0, and flags, of which at most four are in use.
    Split,
    /// Free-threaded: a local count of the owning thread and a shared count of all others.
    Shared,
}

/// Known flags of a 3.14+ header (`Include/refcount.h`): immortal, legacy, static, and one of debug builds.
const HEADER_FLAGS_MAX: u64 = 0xf;
/// Upper bound on a reference count: that many pointers would fill 32 GiB. It also excludes pointers, which dead
/// objects have in place of a count.
const COUNT_MAX: u64 = 1 << 32;

/// Extensions built for the stable ABI of 3.11 or older count whole words: 3.12 and 3.13 start immortal objects at
/// 2^32 - 1 (`_Py_IMMORTAL_REFCNT`, `Include/object.h`), so that one more reference makes the upper half 1, and counts
/// in the lower half go on from 0 (`None` under protobuf). More are not believed.
const WRAPPED_MAX: u32 = 1 << 28;

impl RefcountRule {
    /// The rule for a version.
    pub fn of(layout: &Layout, version: Version) -> RefcountRule {
        if layout.object.ob_ref_shared.is_some() {
            RefcountRule::Shared
        } else if layout.object.ob_overflow.is_some() {
            RefcountRule::Split
        } else if version.has_immortal_objects() {
            RefcountRule::Half
        } else {
            RefcountRule::Word
        }
    }

    /// Decodes the count of a live object. `None` for a value that cannot be one: 0 (dead), a pointer, garbage.
    #[inline(always)]
    pub fn decode(self, word: u64) -> Option<Refcount> {
        let low = word as u32;
        match self {
            RefcountRule::Word => (word != 0 && word < COUNT_MAX).then_some(Refcount::Count(word)),
            RefcountRule::Half if word >> 32 == 1 && low < WRAPPED_MAX => Some(Refcount::Immortal(low)),
            RefcountRule::Half | RefcountRule::Split if low == 0 => None,
            // Two words: [`SharedHeader`] decodes them.
            RefcountRule::Shared => None,
            RefcountRule::Half => (word >> 32 == 0).then(|| Self::half(low)),
            RefcountRule::Split => {
                let (overflow, flags) = (word >> 32 & 0xffff, word >> 48);
                (overflow == 0 && flags <= HEADER_FLAGS_MAX).then(|| Self::half(low))
            }
        }
    }

    fn half(low: u32) -> Refcount {
        if (low as i32) < 0 { Refcount::Immortal(low) } else { Refcount::Count(u64::from(low)) }
    }
}

/// What the GC head of an object says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GcHead {
    /// The object is in one of the collector's lists.
    Tracked,
    /// The object is in no list.
    Untracked,
    /// The two words are not a GC head.
    Implausible,
}

/// End of user addresses: 47 bits.
pub(crate) const USER_SPACE: u64 = 1 << 47;

impl GcHead {
    /// Decodes the GC head at the start of `bytes`.
    #[inline(always)]
    pub fn read(bytes: &[u8], next_offset: usize, prev_offset: usize) -> GcHead {
        let (Some(next), Some(prev)) = (u64_at(bytes, next_offset), u64_at(bytes, prev_offset)) else {
            return GcHead::Implausible;
        };
        GcHead::of(next, prev)
    }

    /// Decodes the two words of a GC head.
    #[inline(always)]
    pub fn of(next: u64, prev: u64) -> GcHead {
        let pointer = |word: u64| {
            let address = link(word).0;
            address != 0 && address < USER_SPACE
        };
        match (next, prev) {
            // An untracked object keeps at most the flag for a finalized object.
            (0, 0..=3) => GcHead::Untracked,
            // During a collection `_gc_prev` holds a count instead of a pointer.
            _ if pointer(next) && prev != 0 => GcHead::Tracked,
            _ => GcHead::Implausible,
        }
    }
}

/// The header of a live object in a free-threaded build (`Include/object.h`, `Include/refcount.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedHeader {
    /// The sum of the local and the shared count.
    pub refcount: Refcount,
    /// `_PyGC_BITS_TRACKED`.
    pub tracked: bool,
}

/// Added to the shared count of an object with deferred counting (3.14+, `_Py_REF_DEFERRED`). In 3.13 the local count
/// is one too high instead (`_PyObject_SetDeferredRefcount`, `Objects/object.c`).
const REF_DEFERRED: i64 = i64::MAX / 8;
/// Largest value of `_PyMutex`, which uses two bits.
const MUTEX_MAX: u8 = 3;
/// The flags in `ob_ref_shared`, and one of their values: another thread has let go of the last reference, and the
/// object waits, with one more reference, in a queue until the thread that owns it frees it (`_Py_DecRefSharedDebug`,
/// `Objects/object.c`, and `Python/brc.c`, v3.13). A thread that only waits never does.
const REF_FLAGS: u64 = 3;
const REF_QUEUED: u64 = 2;
/// Known bits of `ob_gc_bits` (`Include/internal/pycore_gc.h`).
const GC_BITS: u8 = 0x7f;
/// `_PyGC_BITS_TRACKED`.
const GC_TRACKED: u8 = 1;
/// `_PyGC_BITS_UNREACHABLE`: set during a collection in each object that is not known to be reachable yet; meanwhile
/// `ob_tid` holds the collector's count (`Python/gc_free_threading.c`, `gc_decref`).
const GC_UNREACHABLE: u8 = 4;
/// `_PyGC_BITS_DEFERRED`: references from frames and other threads are not counted here, so a live object may have a
/// count of 0. The collector frees it.
const GC_DEFERRED: u8 = 0x40;

/// Whether `ob_gc_bits` mark an object with deferred counting.
pub fn is_deferred(gc_bits: u8) -> bool {
    gc_bits & GC_DEFERRED != 0
}

impl SharedHeader {
    /// Decodes the header at the start of `object`. `None` if it cannot be a live object's.
    #[inline(always)]
    pub fn read(layout: &Layout, object: &[u8]) -> Option<SharedHeader> {
        let fields = &layout.object;
        let owner = u64_at(object, fields.ob_tid?)?;
        let (local, shared) = (u32_at(object, fields.ob_ref_local?)?, u64_at(object, fields.ob_ref_shared?)? as i64);
        let (mutex, gc_bits) = (*object.get(fields.ob_mutex?)?, *object.get(fields.ob_gc_bits?)?);
        // 3.14 has flags where 3.13 has padding.
        let flags_at = fields.ob_tid? + 8;
        let flags = u16::from_le_bytes([*object.get(flags_at)?, *object.get(flags_at + 1)?]);
        // During a collection this field counts references from outside; it is negative until all are seen.
        let is_counting = gc_bits & GC_UNREACHABLE != 0 && owner.wrapping_neg() < COUNT_MAX;
        let sane = (owner < USER_SPACE || is_counting)
            && mutex <= MUTEX_MAX
            && gc_bits <= GC_BITS
            && u64::from(flags) <= HEADER_FLAGS_MAX;
        if !sane {
            return None;
        }
        let tracked = gc_bits & GC_TRACKED != 0;
        if local == u32::MAX {
            return Some(SharedHeader { refcount: Refcount::Immortal(local), tracked });
        }
        let is_deferred = is_deferred(gc_bits);
        let mut others = shared >> 2;
        if others > REF_DEFERRED / 2 {
            others -= REF_DEFERRED;
        } else if is_deferred {
            others -= 1;
        }
        let count = i64::from(local).checked_add(others)?;
        let count = if is_deferred { count.max(0) as u64 } else { u64::try_from(count).ok()? };
        if count >= COUNT_MAX || (count == 0 && !is_deferred) {
            return None;
        }
        // The queue's reference keeps it only until its owner runs again. Deferred counts are the collector's.
        let is_queued = shared as u64 & REF_FLAGS == REF_QUEUED && !is_deferred;
        let count = count.saturating_sub(u64::from(is_queued));
        Some(SharedHeader { refcount: Refcount::Count(count), tracked })
    }
}

/// The first word of an object's header, where the reference count is.
#[inline(always)]
pub fn refcount_word(layout: &Layout, object: &[u8]) -> Option<u64> {
    u64_at(object, layout.object.ob_refcnt?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::layout::Candidate;

    #[test]
    fn counts_of_the_dead_and_pointers_are_refused() {
        for rule in [RefcountRule::Word, RefcountRule::Half, RefcountRule::Split] {
            assert_eq!(rule.decode(0), None);
            assert_eq!(rule.decode(1), Some(Refcount::Count(1)));
            assert_eq!(rule.decode(0x7f12_3456_7890), None);
        }
        assert_eq!(RefcountRule::Half.decode(0xffff_ffff), Some(Refcount::Immortal(u32::MAX)));
        assert_eq!(RefcountRule::Split.decode(0x0005_0000_c000_0000), Some(Refcount::Immortal(0xc000_0000)));
        assert_eq!(RefcountRule::Split.decode(0x0010_0000_c000_0000), None);
        assert_eq!(RefcountRule::Word.decode(u64::MAX), None);
        // An immortal object that an old extension counted.
        assert_eq!(RefcountRule::Half.decode(0x1_0000_0000), Some(Refcount::Immortal(0)));
        assert_eq!(RefcountRule::Half.decode(0x1_0000_0005), Some(Refcount::Immortal(5)));
        assert_eq!([0x2_0000_0005, 0x1_7fff_0000].map(|word| RefcountRule::Half.decode(word)), [None, None]);
    }

    #[test]
    fn an_object_is_alive_while_the_collector_counts_in_it() {
        let candidate = Candidate::all().iter().find(|candidate| candidate.name == "3.13.5t").unwrap();
        let layout = Layout::load(candidate);
        let header = |owner: u64, bits: u8| {
            let mut bytes = vec![0; layout.object.size];
            bytes[..8].copy_from_slice(&owner.to_le_bytes());
            bytes[layout.object.ob_gc_bits.unwrap()] = bits;
            bytes[layout.object.ob_ref_local.unwrap()] = 1;
            SharedHeader::read(&layout, &bytes).map(|header| header.tracked)
        };
        assert_eq!(header(0x7f00_0000_0000, GC_TRACKED), Some(true));
        for counted in [0, 1, -1, -1000i64] {
            assert_eq!(header(counted as u64, GC_TRACKED | GC_UNREACHABLE), Some(true), "{counted}");
        }
        for wrong in [-1, i64::MIN] {
            assert_eq!(header(wrong as u64, GC_TRACKED), None, "{wrong}");
        }
        assert_eq!(header(1 << 63, GC_TRACKED | GC_UNREACHABLE), None);
    }

    #[test]
    fn the_queue_of_the_owner_is_no_holder() {
        let candidate = Candidate::all().iter().find(|candidate| candidate.name == "3.13.5t").unwrap();
        let layout = Layout::load(candidate);
        let count = |local: u32, shared: i64| {
            let mut bytes = vec![0; layout.object.size];
            let (of_owner, of_others) = (layout.object.ob_ref_local.unwrap(), layout.object.ob_ref_shared.unwrap());
            bytes[of_owner..of_owner + 4].copy_from_slice(&local.to_le_bytes());
            bytes[of_others..of_others + 8].copy_from_slice(&shared.to_le_bytes());
            SharedHeader::read(&layout, &bytes).map(|header| header.refcount)
        };
        assert_eq!(count(1, 2), Some(Refcount::Count(0)));
        assert_eq!(count(3, -2 << 2 | 2), Some(Refcount::Count(0)));
        assert_eq!(count(2, 1 << 2 | 2), Some(Refcount::Count(2)));
        // Freed, merged or not.
        assert_eq!([count(0, 0), count(0, 3), count(0, 2)], [None; 3]);
        assert_eq!([count(1, 0), count(0, 1 << 2 | 3)], [Some(Refcount::Count(1)); 2]);
    }
}
