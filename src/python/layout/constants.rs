//! Constants of a layout that are not offsets: sizes, masks, enumerators.

use serde::Deserialize;

/// Sizes, masks and enumerators for one version and build.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constants {
    /// Bytes of the `PyGC_Head` before a GC object; 0 in free-threaded builds.
    pub gc_head_size: usize,
    /// Bytes of the pre-header before the GC head (before the object in free-threaded builds) of types with a managed
    /// dict or managed weak references; 0 before 3.11.
    pub preheader_size: usize,
    /// Distance from the managed dict's pointer to the object, since 3.11.
    pub managed_dict_before: Option<usize>,
    /// Distance from the weak reference list to the object, since 3.12.
    pub managed_weakref_before: Option<usize>,
    /// Distance from the pointer to the values to the object, in 3.11 only.
    pub managed_values_before: Option<usize>,
    /// pymalloc: size of an arena, bytes.
    pub arena_size: usize,
    /// pymalloc: size of a pool, bytes.
    pub pool_size: usize,
    /// pymalloc: size of a pool header, bytes, rounded up to the alignment.
    pub pool_overhead: usize,
    /// pymalloc: the alignment of blocks, and the step of size classes.
    pub pymalloc_alignment: usize,
    /// pymalloc: size of the largest block.
    pub pymalloc_max: usize,
    /// Tag bits of a reference on a frame's stack (`Py_TAG_BITS`); 0 before 3.14.
    pub stackref_tag_mask: u64,
    /// The word on a frame's stack that means NULL.
    pub stackref_null: u64,
    /// `PyGenObject.gi_frame_state`, since 3.10; coroutines and asynchronous generators have the same.
    pub frame_state: Option<FrameState>,
    /// `_PyInterpreterFrame.owner`, since 3.11.
    pub frame_owner: Option<FrameOwner>,
    /// `PyDictKeysObject.dk_kind`, since 3.11.
    pub dict_keys_kind: Option<DictKeysKind>,
}

/// `enum _framestate`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrameState {
    /// `FRAME_CREATED`.
    pub created: i64,
    /// `FRAME_SUSPENDED`.
    pub suspended: i64,
    /// `FRAME_SUSPENDED_YIELD_FROM`, since 3.13.
    pub suspended_yield_from: Option<i64>,
    /// `FRAME_SUSPENDED_YIELD_FROM_LOCKED`, since 3.15.
    pub suspended_yield_from_locked: Option<i64>,
    /// `FRAME_EXECUTING`.
    pub executing: i64,
    /// `FRAME_COMPLETED` (in 3.10 `FRAME_RETURNED`), until 3.14.
    pub completed: Option<i64>,
    /// `FRAME_CLEARED`: the frame owns nothing.
    pub cleared: i64,
}

/// `enum _frameowner`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrameOwner {
    /// `FRAME_OWNED_BY_THREAD`.
    pub thread: i64,
    /// `FRAME_OWNED_BY_GENERATOR`.
    pub generator: i64,
    /// `FRAME_OWNED_BY_FRAME_OBJECT`.
    pub frame_object: i64,
    /// `FRAME_OWNED_BY_INTERPRETER`, since 3.14.
    pub interpreter: Option<i64>,
    /// `FRAME_OWNED_BY_CSTACK`, 3.12 to 3.14.
    pub cstack: Option<i64>,
}

/// `enum DictKeysKind`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DictKeysKind {
    /// `DICT_KEYS_GENERAL`: entries of three words.
    pub general: i64,
    /// `DICT_KEYS_UNICODE`: entries of two words.
    pub unicode: i64,
    /// `DICT_KEYS_SPLIT`: entries of two words, values elsewhere.
    pub split: i64,
}
