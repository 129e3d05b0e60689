//! Offsets of the fields of CPython's C structs, per version and build.
//!
//! Layouts are data. `tables/` holds one table per changed layout, written by `fixtures/layouts/generate.rs` from debug
//! information and never by hand. [`Layout::candidates`] selects tables, [`Layout::load`] reads one,
//! [`Layout::overlay`] applies what the interpreter publishes (`_Py_DebugOffsets`, 3.13+). A layout is a hypothesis
//! until the caller has proved it on the target.
//!
//! Invariants: the version ranges of tables for one build do not overlap, except for those of patched distributions; a
//! field that a version lacks is `None`, never 0; offsets are smaller than 2^24.

pub mod allocators;
pub mod constants;
pub mod containers;
pub mod debug_offsets;
pub mod fields;
pub mod frames;
pub mod gc;
pub mod interpreter;
pub mod objects;
pub mod select;

use std::collections::BTreeMap;

use serde::Deserialize;
use thiserror::Error;

pub use constants::Constants;
pub use debug_offsets::{Correction, DebugOffsets, Overlay};
use fields::{CStruct, WantedStruct};
pub use select::{Build, Candidate};

use super::version::Version;

/// Why a layout is not available.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// The published offsets are too short.
    #[error("published offsets are {found} bytes long, {expected} are needed")]
    PublishedTooShort {
        /// Their length in bytes.
        found: usize,
        /// The length needed.
        expected: usize,
    },
    /// The bytes do not start with the cookie.
    #[error("published offsets do not start with \"xdebugpy\" but with {found:#018x}")]
    PublishedCookie {
        /// The first eight bytes, as a little-endian number.
        found: u64,
    },
    /// The published version is not a Python version.
    #[error("published version {found:#x} is not a Python version")]
    PublishedVersion {
        /// The published value.
        found: u64,
    },
    /// No table gives the positions of this version's published offsets.
    #[error("published offsets of Python {version} are not known")]
    PublishedUnknown {
        /// The version.
        version: Version,
    },
    /// A flag is neither 0 nor 1.
    #[error("published {field} is {found}, neither 0 nor 1")]
    PublishedFlag {
        /// The flag's name.
        field: &'static str,
        /// The flag's value.
        found: u64,
    },
    /// An offset or size exceeds the limit.
    #[error("published {field} is {found}, larger than the limit of {limit}")]
    PublishedTooLarge {
        /// The offset's name.
        field: String,
        /// Its published value.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// A pointer's offset is not a multiple of 8.
    #[error("published {field} is {found}, not a multiple of 8")]
    PublishedMisaligned {
        /// The offset's name.
        field: String,
        /// Its published value.
        found: u64,
    },
}

/// Declares [`Layout`]: one member per C struct, with the names that the struct has had.
macro_rules! layout {
    ($( $(#[$meta:meta])* $member:ident : $ty:ty = $path:tt $(| $old:tt)* ),* $(,)?) => {
        /// All offsets of one version and build: one member per C struct, named in [`Layout::WANTED`].
        #[derive(Clone, Debug)]
        pub struct Layout {
            /// The table's name, as "3.13.18" or "3.14t".
            pub name: String,
            /// The table's build.
            pub build: Build,
            /// The source of the table.
            pub source: String,
            /// Sizes, masks and enumerators.
            pub constants: Constants,
            $(
                $(#[$meta])*
                #[doc = concat!("The C struct `", $path, "`.")]
                pub $member: $ty,
            )*
        }

        /// The structs in a table.
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Structs {
            $(
                #[serde(rename = $path $(, alias = $old)*)]
                $member: $ty,
            )*
        }

        impl Layout {
            /// Every C struct and field that this crate reads, for the program that generates the tables.
            pub const WANTED: &'static [WantedStruct] = &[$(
                WantedStruct {
                    name: stringify!($member),
                    names: &[$path $(, $old)*],
                    required: <$ty as CStruct>::REQUIRED,
                    fields: <$ty as CStruct>::FIELDS,
                },
            )*];

            fn from_table(table: Table) -> Layout {
                let Table { name, build, source, constants, structs, .. } = table;
                let Structs { $($member),* } = structs;
                Layout { name, build, source, constants, $($member),* }
            }

            /// The struct with this member name.
            pub fn c_struct(&self, member: &str) -> Option<&dyn Offsets> {
                match member {
                    $(stringify!($member) => Some(&self.$member),)*
                    _ => None,
                }
            }

            /// The struct with this member name, mutable.
            pub fn c_struct_mut(&mut self, member: &str) -> Option<&mut dyn Offsets> {
                match member {
                    $(stringify!($member) => Some(&mut self.$member),)*
                    _ => None,
                }
            }
        }
    };
}

/// Access to a struct's offsets by name.
pub trait Offsets {
    /// The offset of the field with this Rust name, `size` included; `None` where this version lacks it.
    fn get(&self, field: &str) -> Option<usize>;
    /// Sets it, if this version has it.
    fn set(&mut self, field: &str, offset: usize);
    /// The Rust names of the struct's fields, without `size`.
    fn names(&self) -> Vec<&'static str>;
}

impl<T: CStruct> Offsets for T {
    fn get(&self, field: &str) -> Option<usize> {
        self.offset(field)
    }
    fn set(&mut self, field: &str, offset: usize) {
        self.set_offset(field, offset);
    }
    fn names(&self) -> Vec<&'static str> {
        T::FIELDS.iter().map(|wanted| wanted.name).collect()
    }
}

layout! {
    object: objects::Object = "PyObject",
    var_object: objects::VarObject = "PyVarObject",
    type_object: objects::TypeObject = "PyTypeObject",
    heap_type: objects::HeapType = "PyHeapTypeObject",
    unicode: objects::Unicode = "PyUnicodeObject",
    ascii_unicode: objects::AsciiUnicode = "PyASCIIObject",
    compact_unicode: objects::CompactUnicode = "PyCompactUnicodeObject",
    long: objects::Long = "PyLongObject",
    float: objects::Float = "PyFloatObject",
    list: objects::List = "PyListObject",
    tuple: objects::Tuple = "PyTupleObject",
    bytes: objects::Bytes = "PyBytesObject",
    byte_array: objects::ByteArray = "PyByteArrayObject",
    slice: objects::Slice = "PySliceObject",
    cell: objects::Cell = "PyCellObject",
    function: objects::Function = "PyFunctionObject",
    method: objects::Method = "PyMethodObject",
    c_function: objects::CFunction = "PyCFunctionObject",
    c_method: Option<objects::CMethod> = "PyCMethodObject",
    module: objects::Module = "PyModuleObject",
    module_def: objects::ModuleDef = "PyModuleDef",
    weak_ref: objects::WeakRef = "PyWeakReference",
    base_exception: objects::BaseException = "PyBaseExceptionObject",
    traceback: objects::Traceback = "PyTracebackObject",
    descr: objects::Descr = "PyDescrObject",
    member_def: objects::MemberDef = "PyMemberDef",
    memory_view: objects::MemoryView = "PyMemoryViewObject",
    managed_buffer: objects::ManagedBuffer = "_PyManagedBufferObject",
    struct_sequence: objects::StructSequence = "PyStructSequence",
    context: objects::Context = "PyContext" | "_pycontextobject",
    context_var: objects::ContextVar = "PyContextVar" | "_pycontextvarobject",
    context_token: objects::ContextToken = "PyContextToken" | "_pycontexttokenobject",
    hamt: objects::Hamt = "PyHamtObject",
    hamt_array: objects::HamtArray = "PyHamtNode_Array",
    hamt_bitmap: objects::HamtBitmap = "PyHamtNode_Bitmap",
    hamt_collision: objects::HamtCollision = "PyHamtNode_Collision",
    dict: containers::Dict = "PyDictObject",
    dict_keys: containers::DictKeys = "PyDictKeysObject" | "_dictkeysobject",
    dict_key_entry: containers::DictKeyEntry = "PyDictKeyEntry",
    dict_unicode_entry: Option<containers::DictUnicodeEntry> = "PyDictUnicodeEntry",
    dict_values: Option<containers::DictValues> = "PyDictValues" | "_dictvalues",
    set: containers::Set = "PySetObject",
    set_entry: containers::SetEntry = "setentry",
    odict: containers::ODict = "PyODictObject" | "_odictobject",
    odict_node: containers::ODictNode = "_odictnode",
    deque: containers::Deque = "dequeobject",
    deque_block: containers::DequeBlock = "block" | "BLOCK",
    default_dict: containers::DefaultDict = "defdictobject",
    array: containers::Array = "arrayobject",
    array_descr: containers::ArrayDescr = "arraydescr",
    lru_cache: containers::LruCache = "lru_cache_object",
    lru_elem: containers::LruElem = "lru_list_elem",
    partial: containers::Partial = "partialobject",
    property: containers::Property = "propertyobject",
    mapping_proxy: containers::MappingProxy = "mappingproxyobject",
    super_object: containers::Super = "superobject",
    capsule: containers::Capsule = "PyCapsule",
    local: containers::Local = "localobject",
    simple_queue: containers::SimpleQueue = "simplequeueobject",
    element: containers::Element = "ElementObject",
    element_extra: containers::ElementExtra = "ElementObjectExtra",
    bytes_io: containers::BytesIo = "bytesio",
    buffered: containers::Buffered = "buffered",
    future: containers::Future = "FutureObj",
    task: containers::Task = "TaskObj",
    runtime: interpreter::Runtime = "_PyRuntimeState",
    interp: interpreter::Interp = "PyInterpreterState",
    atexit_callback: Option<interpreter::AtexitCallback> = "atexit_py_callback" | "atexit_callback",
    thread: interpreter::Thread = "PyThreadState",
    thread_impl: Option<interpreter::ThreadImpl> = "_PyThreadStateImpl",
    err_stack_item: interpreter::ErrStackItem = "_PyErr_StackItem",
    cframe: Option<interpreter::CFrame> = "_PyCFrame" | "CFrame",
    stack_chunk: Option<interpreter::StackChunk> = "_PyStackChunk",
    gil: interpreter::Gil = "_gil_runtime_state",
    llist_node: Option<interpreter::LlistNode> = "llist_node",
    types_state: Option<interpreter::TypesState> = "types_state",
    static_type: Option<interpreter::StaticType> = "managed_static_type_state" | "static_builtin_state",
    code: frames::Code = "PyCodeObject",
    frame: frames::Frame = "PyFrameObject",
    iframe: Option<frames::IFrame> = "_PyInterpreterFrame" | "_interpreter_frame" | "InterpreterFrame",
    generator: frames::Generator = "PyGenObject",
    coroutine: frames::Coroutine = "PyCoroObject",
    async_generator: frames::AsyncGenerator = "PyAsyncGenObject",
    async_gen_asend: frames::AsyncGenASend = "PyAsyncGenASend",
    gc_head: gc::GcHead = "PyGC_Head",
    gc: gc::GcState = "_gc_runtime_state",
    gc_generation: gc::GcGeneration = "gc_generation",
    gc_generation_stats: gc::GcGenerationStats = "gc_generation_stats",
    gc_stats: Option<gc::GcStats> = "gc_stats",
    pool_header: allocators::PoolHeader = "pool_header",
    arena_object: allocators::ArenaObject = "arena_object",
    obmalloc: Option<allocators::Obmalloc> = "_obmalloc_state",
    freelists: Option<allocators::Freelists> = "_Py_freelists" | "_Py_object_freelists",
    freelist: Option<allocators::Freelist> = "_Py_freelist",
    mi_heap: Option<allocators::MiHeap> = "mi_heap_t" | "mi_heap_s",
    mi_page_queue: Option<allocators::MiPageQueue> = "mi_page_queue_t" | "mi_page_queue_s",
    mi_page: Option<allocators::MiPage> = "mi_page_t" | "mi_page_s",
    mi_segment: Option<allocators::MiSegment> = "mi_segment_t" | "mi_segment_s",
    mi_tld: Option<allocators::MiTld> = "mi_tld_t" | "mi_tld_s",
    mimalloc_thread: Option<allocators::MimallocThread> = "_mimalloc_thread_state",
    mimalloc_interp: Option<allocators::MimallocInterp> = "_mimalloc_interp_state",
}

/// Positions of the values in a version's `_Py_DebugOffsets`, which come from debug information too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedShape {
    /// `sizeof(_Py_DebugOffsets)`.
    pub size: usize,
    /// Dotted C names and the position of each value.
    pub fields: BTreeMap<String, usize>,
}

/// A table as stored in `tables/`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    name: String,
    #[serde(rename = "from")]
    _from: String,
    #[serde(rename = "until")]
    _until: String,
    build: Build,
    source: String,
    constants: Constants,
    debug_offsets: Option<PublishedShape>,
    structs: Structs,
}
