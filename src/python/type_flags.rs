//! Bits of `tp_flags` (`Include/object.h`, v3.8 to v3.15).
//!
//! Bits below 9 mean something else in older versions: use them only if the layout has the feature.

/// Per-interpreter parts of the type are in the interpreter's state (3.12+).
pub const STATIC_BUILTIN: u32 = 1;
/// Instances have inline values (3.13+).
pub const INLINE_VALUES: u32 = 2;
/// Weak references are before the object (3.12+).
pub const MANAGED_WEAKREF: u32 = 3;
/// The dict is before the object (3.11+).
pub const MANAGED_DICT: u32 = 4;
/// The type was made at run time.
pub const HEAPTYPE: u32 = 9;
/// `PyType_Ready` has finished.
pub const READY: u32 = 12;
/// Instances have a GC head.
pub const HAVE_GC: u32 = 14;
/// Subtypes of int.
pub const LONG_SUBCLASS: u32 = 24;
/// Of list.
pub const LIST_SUBCLASS: u32 = 25;
/// Of tuple.
pub const TUPLE_SUBCLASS: u32 = 26;
/// Of bytes.
pub const BYTES_SUBCLASS: u32 = 27;
/// Of str.
pub const UNICODE_SUBCLASS: u32 = 28;
/// Of dict.
pub const DICT_SUBCLASS: u32 = 29;
/// Of BaseException.
pub const BASE_EXC_SUBCLASS: u32 = 30;
/// Of type: the type is a metatype.
pub const TYPE_SUBCLASS: u32 = 31;
