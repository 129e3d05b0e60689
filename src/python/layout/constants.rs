//! Numbers that are not offsets: sizes of the allocator, masks, enumerators.

use serde::Deserialize;

/// Sizes, masks and enumerators of one version and build.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constants {
    /// Bytes in front of a collected object that its `PyGC_Head` takes; 0 in free-threaded builds.
    pub gc_head_size: usize,
    /// Bytes in front of the GC head (in front of the object in free-threaded builds) that a type with a managed
    /// dict or weak references adds; 0 before 3.11.
    pub preheader_size: usize,
    /// How far before the object its managed dict's pointer lies, since 3.11.
    pub managed_dict_before: Option<usize>,
    /// How far before the object the list of its weak references lies, since 3.12.
    pub managed_weakref_before: Option<usize>,
    /// How far before the object the pointer to its values lies, in 3.11 only.
    pub managed_values_before: Option<usize>,
    /// pymalloc: bytes of an arena.
    pub arena_size: usize,
    /// pymalloc: bytes of a pool.
    pub pool_size: usize,
    /// pymalloc: bytes of a pool's head, rounded up to the alignment.
    pub pool_overhead: usize,
    /// pymalloc: the alignment of blocks, and the step of size classes.
    pub pymalloc_alignment: usize,
    /// pymalloc: the largest block.
    pub pymalloc_max: usize,
    /// Bits that a reference on a frame's stack carries beside the pointer (`Py_TAG_BITS`); 0 before 3.14.
    pub stackref_tag_mask: u64,
    /// The word on a frame's stack that means NULL.
    pub stackref_null: u64,
    /// `PyGenObject.gi_frame_state` and its kin, since 3.10.
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
    /// `FRAME_CLEARED`: it owns nothing any more.
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
