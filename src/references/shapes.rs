//! Describes which words of C structs are references, for the types of CPython and its standard library.
//!
//! A type of the interpreter that is not listed here is read word by word, and every word that is the address of an
//! object counts as a reference. That is wrong for leftovers: memory that is not cleared for a new object still holds
//! earlier addresses in padding, behind short fields, and in arrays that are not full. So words that own nothing are
//! left out here, and words that own only sometimes have a [`Storage`] that decides. Types of extensions that are not
//! listed here are [`Storage::Opaque`].
//!
//! Mirrors the structs and the `tp_traverse` of each type, v3.8 to v3.15: `Objects/`, and for modules `Modules/`.

use std::ops::Range;

use crate::python::layout::Layout;
use crate::python::types::TypeInfo;

use super::storage::Storage;

/// The part of a type's rule that follows from one of its C base types.
pub(crate) struct BodyShape {
    pub storage: Storage,
    /// Offsets of the body that are read word by word.
    pub body: Range<usize>,
    /// Offsets within the body that own nothing.
    pub skipped: Vec<usize>,
    /// Offsets of words whose lowest bit is a flag.
    pub tagged: Vec<usize>,
}

/// Modules whose types hold no objects, only state of hash functions and random generators.
const WITHOUT_OBJECTS: [&str; 8] = ["_blake2", "_md5", "_sha1", "_sha256", "_sha512", "_sha2", "_sha3", "_random"];

/// `sizeof(z_stream)`, part of zlib's ABI.
const Z_STREAM: usize = 112;

impl BodyShape {
    /// Every word may be a reference.
    pub fn plain(body: Range<usize>) -> BodyShape {
        BodyShape { storage: Storage::Plain, body, skipped: Vec::new(), tagged: Vec::new() }
    }

    /// What Python classes append to a struct of unknown contents.
    pub fn opaque(behind: Range<usize>) -> BodyShape {
        BodyShape::of(Storage::Opaque, behind)
    }

    fn of(storage: Storage, body: Range<usize>) -> BodyShape {
        BodyShape { storage, ..BodyShape::plain(body) }
    }

    fn without(mut self, skipped: impl IntoIterator<Item = usize>) -> BodyShape {
        self.skipped.extend(skipped);
        self
    }

    /// Keeps only the words in `owned` of those before `end`.
    fn only(self, end: usize, owned: impl IntoIterator<Item = Option<usize>>) -> BodyShape {
        let owned: Vec<usize> = owned.into_iter().flatten().collect();
        let words = (self.body.start..end).step_by(8);
        self.without(words.filter(|offset| !owned.contains(offset)))
    }

    /// The shape that a C type gives to its instances and those of its subtypes, which have `basicsize` bytes, `c_size`
    /// of them from C. `None` for a type that adds only words of its own.
    pub fn of_type(layout: &Layout, base: &TypeInfo, c_size: usize, basicsize: usize) -> Option<BodyShape> {
        let name = base.full_name();
        let size = usize::try_from(base.basicsize).unwrap_or(0).min(basicsize);
        BodyShape::of_builtin(layout, &name, size, basicsize)
            .or_else(|| BodyShape::of_suspended(layout, &name, basicsize))
            .or_else(|| BodyShape::of_library(layout, &name, size, basicsize))
            .or_else(|| {
                // Numbers, whatever the subtype.
                let is_number =
                    matches!(name.as_str(), "numpy.number" | "numpy.bool" | "numpy.bool_" | "numpy.datetime64");
                let has_no_objects = is_number || WITHOUT_OBJECTS.contains(&base.module.as_str());
                has_no_objects.then(|| BodyShape::leaf(c_size, basicsize))
            })
    }

    /// Types of the interpreter. The type's own struct has `size` bytes.
    fn of_builtin(layout: &Layout, name: &str, size: usize, basicsize: usize) -> Option<BodyShape> {
        let header = layout.object.size;
        // What a subclass appends to the struct of its base.
        let behind = |size: usize| size.min(basicsize)..basicsize;
        let leaf = |size: usize| BodyShape::leaf(size, basicsize);
        Some(match name {
            "builtins.str" => leaf(layout.unicode.size),
            // The fields of an int or bytes subclass follow the items.
            "builtins.int" | "builtins.bytes" => leaf(basicsize),
            "builtins.float" => leaf(layout.float.size),
            "builtins.complex" => leaf(header + 16),
            "builtins.NoneType" | "builtins.ellipsis" | "builtins.NotImplementedType" => leaf(header),
            // Three numbers.
            "builtins.range_iterator" => leaf(size),
            // A capsule's pointers belong to C.
            "builtins.PyCapsule" => BodyShape::plain(behind(layout.capsule.size)),
            "builtins.list" => BodyShape::of(Storage::List, behind(layout.list.size)),
            "builtins.tuple" => BodyShape::of(Storage::Tuple, 0..0),
            "builtins.dict" | "builtins.frozendict" => BodyShape::of(Storage::Dict, behind(layout.dict.size)),
            "collections.OrderedDict" => BodyShape::of(Storage::OrderedDict, behind(layout.dict.size)),
            "builtins.set" | "builtins.frozenset" => BodyShape::of(Storage::Set, behind(layout.set.size)),
            "collections.deque" => BodyShape::of(Storage::Deque, behind(layout.deque.size)),
            "builtins.hamt_bitmap_node" | "builtins.hamt_collision_node" => {
                BodyShape::of(Storage::Hamt, header..header)
            }
            // The nodes on an iterator's path belong to the tree, which is its first word.
            "builtins.keys" | "builtins.values" | "builtins.items" => BodyShape::plain(header..header + 8),
            // Some words are never written, so its fields are read by name.
            "builtins.code" => BodyShape::of(Storage::Code, 0..0),
            "builtins.type" => BodyShape::of(Storage::Type, behind(layout.heap_type.size)),
            "builtins.module" => {
                let module = &layout.module;
                let skipped = [Some(module.md_state), module.md_def, module.md_token];
                BodyShape::of(Storage::Module, header..basicsize).without(skipped.into_iter().flatten())
            }
            // The version is a 32-bit field.
            "builtins.function" => {
                let function = &layout.function;
                BodyShape::plain(header..basicsize).without(function.func_version).without([function.vectorcall])
            }
            "builtins.traceback" => BodyShape::plain(header..basicsize).without([layout.traceback.tb_lasti]),
            // Whether it is starred is one byte; the word after it is a C pointer.
            "types.GenericAlias" => {
                BodyShape::plain(header..basicsize).only(size, [0, 8, 16].map(|offset| Some(header + offset)))
            }
            "builtins.weakref"
            | "weakref.ReferenceType"
            | "builtins.weakproxy"
            | "builtins.weakcallableproxy"
            | "weakref.ProxyType"
            | "weakref.CallableProxyType" => {
                let weak = &layout.weak_ref;
                BodyShape::plain(header..basicsize).without([weak.wr_object, weak.wr_prev, weak.wr_next, weak.hash])
            }
            "builtins.ContextVar" | "_contextvars.ContextVar" => {
                let var = &layout.context_var;
                BodyShape::plain(header..basicsize).only(size, [Some(var.var_name), Some(var.var_default)])
            }
            "builtins.Context" | "_contextvars.Context" => {
                let context = &layout.context;
                BodyShape::plain(header..basicsize).only(size, [Some(context.ctx_prev), Some(context.ctx_vars)])
            }
            // The buffer that it shares owns the exporting object.
            "builtins.memoryview" => BodyShape::plain(layout.memory_view.mbuf..layout.memory_view.mbuf + 8),
            "builtins.managedbuffer" => BodyShape::plain(layout.managed_buffer.obj..layout.managed_buffer.obj + 8),
            _ => return None,
        })
    }

    /// Frames, and the objects that keep one while it is suspended.
    fn of_suspended(layout: &Layout, name: &str, basicsize: usize) -> Option<BodyShape> {
        let header = layout.object.size;
        match name {
            "builtins.frame" => {
                let frame = &layout.frame;
                let end = frame._f_frame_data.or(frame.f_localsplus).unwrap_or(basicsize).min(basicsize);
                // The generator owns the frame and not the other way round; blocks that were left or never entered keep
                // stale contents.
                let owned = [
                    Some(frame.f_back),
                    frame.f_code,
                    frame.f_builtins,
                    frame.f_globals,
                    frame.f_locals,
                    Some(frame.f_trace),
                    frame.f_extra_locals,
                    frame.f_locals_cache,
                    frame.f_overwritten_fast_locals,
                ];
                Some(BodyShape::of(Storage::Frame, header..end).only(end, owned))
            }
            "builtins.generator" | "builtins.coroutine" | "builtins.async_generator" => {
                let (generator, exception) = (&layout.generator, &layout.err_stack_item);
                let end = generator.gi_iframe.unwrap_or(basicsize);
                // A coroutine's origin, or an asynchronous generator's finalizer: a plain generator never writes it.
                let origin = match name {
                    "builtins.coroutine" => layout.coroutine.cr_origin.or(layout.coroutine.cr_origin_or_finalizer),
                    "builtins.async_generator" => {
                        layout.async_generator.ag_finalizer.or(layout.async_generator.ag_origin_or_finalizer)
                    }
                    _ => None,
                };
                let in_exception = |field: usize| generator.gi_exc_state + field;
                let owned = [
                    generator.gi_frame,
                    generator.gi_code,
                    Some(generator.gi_name),
                    Some(generator.gi_qualname),
                    exception.exc_type.map(in_exception),
                    Some(in_exception(exception.exc_value)),
                    exception.exc_traceback.map(in_exception),
                    origin,
                ];
                Some(BodyShape::of(Storage::Generator, header..end).only(end, owned))
            }
            _ => None,
        }
    }

    /// Types of the standard library and of numpy.
    fn of_library(layout: &Layout, name: &str, size: usize, basicsize: usize) -> Option<BodyShape> {
        let header = layout.object.size;
        let leaf = |size: usize| BodyShape::leaf(size, basicsize);
        Some(match name {
            // It borrows the dict of a thread's local data (until 3.12), which the `threading.local` owns.
            "_thread._localdummy" => leaf(basicsize),
            "_thread.lock" | "_thread.RLock" | "decimal.Decimal" | "datetime.date" | "datetime.timedelta" => leaf(size),
            "datetime.datetime" | "datetime.time" => BodyShape::of(Storage::TimeOfDay, size..basicsize),
            "functools._lru_cache_wrapper" => {
                // The head of the ring of links.
                let root = layout.lru_cache.root;
                BodyShape::of(Storage::LruCache, header..basicsize)
                    .without((root..root + layout.lru_elem.size).step_by(8))
            }
            "functools._lru_list_elem" => {
                let elem = &layout.lru_elem;
                BodyShape::plain(header..basicsize).without([elem.prev, elem.next])
            }
            "_queue.SimpleQueue" => BodyShape::of(Storage::SimpleQueue, header..basicsize),
            "xml.etree.ElementTree.Element" => {
                let element = &layout.element;
                let mut shape = BodyShape::of(Storage::Element, header..basicsize);
                // A flag marks text that is still a list of pieces.
                shape.tagged = vec![element.text, element.tail];
                shape
            }
            // The source and the next piece; the items read so far follow.
            "itertools._tee_dataobject" => BodyShape::of(Storage::TeePiece, header..header + 24).without([header + 8]),
            // Three one-byte flags follow all other fields.
            "typing.TypeVar" | "typing.ParamSpec" => {
                BodyShape::plain(header..basicsize).without([size.saturating_sub(8)])
            }
            // The number is the first field.
            "itertools.count" => BodyShape::plain(header + 8..basicsize),
            "zlib.Compress" | "zlib.Decompress" => {
                let own = header + Z_STREAM;
                // A one-byte end flag follows two objects.
                BodyShape::plain(own.min(basicsize)..basicsize).without([own + 16])
            }
            "zlib._ZlibDecompressor" => BodyShape::plain((header + Z_STREAM).min(basicsize)..basicsize),
            // The C view of a value is not a reference: `b_base` and `b_objects` keep what it needs.
            "_ctypes._CData" => BodyShape::plain(header..basicsize).only(size, [Some(header + 16), Some(header + 48)]),
            // The object behind an argument, followed by its size.
            "_ctypes.CArgObject" | "builtins.CArgObject" => {
                BodyShape::plain(size.saturating_sub(16)..size.saturating_sub(8))
            }
            "numpy.ndarray" => BodyShape::of(Storage::NdArray, header..basicsize),
            "numpy.broadcast" => BodyShape::of(Storage::NdBroadcast, size..basicsize),
            // `PyArrayIterObject` (numpy/_core/include/numpy/ndarraytypes.h, 1.7 to 2.5): three numbers, five arrays
            // for 32 dimensions of which few are written, and the array.
            "numpy.flatiter" => BodyShape::plain(header..basicsize).only(size, [Some(header + (3 + 5 * 32) * 8)]),
            // `PyUFuncObject` (numpy/_core/include/numpy/ufuncobject.h, 1.22 to 2.4): obj, userloops, identity_value,
            // _loops; between them are numbers and words that are never written.
            "numpy.ufunc" => {
                let owned = [72, 80, 192, 208].map(|offset| Some(header + offset));
                BodyShape::plain(header..basicsize).only(size, owned)
            }
            // Most are made for one C loop, which writes few of their words; an object is there (`wrapped_meth`) only
            // if a ufunc holds it as well.
            "numpy._ArrayMethod" => leaf(size),
            _ => return None,
        })
    }

    /// A C struct of this size that owns nothing, and what classes append to it.
    fn leaf(size: usize, basicsize: usize) -> BodyShape {
        if size >= basicsize { BodyShape::of(Storage::Leaf, 0..0) } else { BodyShape::plain(size..basicsize) }
    }
}
