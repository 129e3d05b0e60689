//! Which words of a C struct are references? What CPython's own types and those of its library give to their instances.
//!
//! A type of the interpreter that is not named here is read word by word, and a word that is the address of an object
//! counts as a reference. That is wrong for what is there by chance: memory that is not cleared for a new object still
//! holds the addresses that it held before, wherever the object has a gap, a number of less than a word, or an array
//! that is not full. So what owns nothing is left out here, and what is owned only sometimes has a [`Storage`] that
//! knows when. Types of extensions that are not named here are [`Storage::Opaque`].
//!
//! Mirrors the structs and the `tp_traverse` of each, v3.8 to v3.15: `Objects/`, and for modules `Modules/`.

use std::ops::Range;

use crate::python::layout::Layout;
use crate::python::types::TypeInfo;

use super::storage::Storage;

/// The part of a type's rule that follows from a C type among its bases.
pub(crate) struct BodyShape {
    pub storage: Storage,
    /// Offsets of the body that is read word by word.
    pub body: Range<usize>,
    /// Of these, offsets of words that own nothing.
    pub skipped: Vec<usize>,
    /// Offsets of words whose lowest bit is a flag.
    pub tagged: Vec<usize>,
}

/// Modules whose types keep no objects, but the states of hash functions and random numbers.
const WITHOUT_OBJECTS: [&str; 8] = ["_blake2", "_md5", "_sha1", "_sha256", "_sha512", "_sha2", "_sha3", "_random"];

/// `sizeof(z_stream)`, part of zlib's ABI.
const Z_STREAM: usize = 112;

impl BodyShape {
    /// Every word may be a reference.
    pub fn plain(body: Range<usize>) -> BodyShape {
        BodyShape { storage: Storage::Plain, body, skipped: Vec::new(), tagged: Vec::new() }
    }

    /// What Python classes add behind a struct of which nothing is known.
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

    /// Of the words before `end`, only those in `owned`.
    fn only(self, end: usize, owned: impl IntoIterator<Item = Option<usize>>) -> BodyShape {
        let owned: Vec<usize> = owned.into_iter().flatten().collect();
        let words = (self.body.start..end).step_by(8);
        self.without(words.filter(|offset| !owned.contains(offset)))
    }

    /// The shape that a C type gives to its instances and to those of its subtypes, which have `basicsize` bytes, and
    /// `c_size` of them from C. `None` for a type that adds nothing but words of its own.
    pub fn of_type(layout: &Layout, base: &TypeInfo, c_size: usize, basicsize: usize) -> Option<BodyShape> {
        let name = base.full_name();
        let size = usize::try_from(base.basicsize).unwrap_or(0).min(basicsize);
        BodyShape::of_builtin(layout, &name, size, basicsize)
            .or_else(|| BodyShape::of_suspended(layout, &name, basicsize))
            .or_else(|| BodyShape::of_library(layout, &name, size, basicsize))
            .or_else(|| {
                // Numbers, whichever subtype they are of.
                let is_number =
                    matches!(name.as_str(), "numpy.number" | "numpy.bool" | "numpy.bool_" | "numpy.datetime64");
                let has_no_objects = is_number || WITHOUT_OBJECTS.contains(&base.module.as_str());
                has_no_objects.then(|| BodyShape::leaf(c_size, basicsize))
            })
    }

    /// Types of the interpreter itself. A type's own struct has `size` bytes.
    fn of_builtin(layout: &Layout, name: &str, size: usize, basicsize: usize) -> Option<BodyShape> {
        let header = layout.object.size;
        // What a subclass adds behind the struct of its base.
        let behind = |size: usize| size.min(basicsize)..basicsize;
        let leaf = |size: usize| BodyShape::leaf(size, basicsize);
        Some(match name {
            "builtins.str" => leaf(layout.unicode.size),
            // What an int or bytes has of its own lies behind its items.
            "builtins.int" | "builtins.bytes" => leaf(basicsize),
            "builtins.float" => leaf(layout.float.size),
            "builtins.complex" => leaf(header + 16),
            "builtins.NoneType" | "builtins.ellipsis" | "builtins.NotImplementedType" => leaf(header),
            // Three numbers.
            "builtins.range_iterator" => leaf(size),
            // A capsule's pointers are C's.
            "builtins.PyCapsule" => BodyShape::plain(behind(layout.capsule.size)),
            "builtins.list" => BodyShape::of(Storage::List, behind(layout.list.size)),
            "builtins.tuple" => BodyShape::of(Storage::Tuple, 0..0),
            "builtins.dict" | "builtins.frozendict" => BodyShape::of(Storage::Dict, behind(layout.dict.size)),
            "collections.OrderedDict" => BodyShape::of(Storage::OrderedDict, behind(layout.dict.size)),
            "builtins.set" | "builtins.frozenset" => BodyShape::of(Storage::Set, behind(layout.set.size)),
            "collections.deque" => BodyShape::of(Storage::Deque, behind(layout.deque.size)),
            "builtins.hamt_bitmap_node" | "builtins.hamt_collision_node" => {
                BodyShape::of(Storage::Items, header..header)
            }
            // The nodes on the way of an iterator belong to the tree, which is its first word.
            "builtins.keys" | "builtins.values" | "builtins.items" => BodyShape::plain(header..header + 8),
            // It has words that are never written, so its fields are read by name.
            "builtins.code" => BodyShape::of(Storage::Code, 0..0),
            "builtins.type" => BodyShape::of(Storage::Type, behind(layout.heap_type.size)),
            "builtins.module" => {
                let module = &layout.module;
                let skipped = [Some(module.md_state), module.md_def, module.md_token];
                BodyShape::of(Storage::Module, header..basicsize).without(skipped.into_iter().flatten())
            }
            // The version is half a word.
            "builtins.function" => {
                let function = &layout.function;
                BodyShape::plain(header..basicsize).without(function.func_version).without([function.vectorcall])
            }
            "builtins.traceback" => BodyShape::plain(header..basicsize).without([layout.traceback.tb_lasti]),
            // Whether it is starred is one byte, and the word behind it is C's.
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
            // The buffer that it shares owns what it shows.
            "builtins.memoryview" => BodyShape::plain(layout.memory_view.mbuf..layout.memory_view.mbuf + 8),
            "builtins.managedbuffer" => BodyShape::plain(layout.managed_buffer.obj..layout.managed_buffer.obj + 8),
            _ => return None,
        })
    }

    /// Frames, and what keeps one while it is suspended.
    fn of_suspended(layout: &Layout, name: &str, basicsize: usize) -> Option<BodyShape> {
        let header = layout.object.size;
        match name {
            "builtins.frame" => {
                let frame = &layout.frame;
                let end = frame._f_frame_data.or(frame.f_localsplus).unwrap_or(basicsize).min(basicsize);
                // The generator of a frame owns the frame and not the other way round; blocks that were left, and those
                // that were never entered, keep what the memory held before.
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
                // What started a coroutine, or what ends an asynchronous generator: a plain one never writes it.
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

    /// Types of the library, and of numpy.
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
                // Text that is still in pieces is marked so.
                shape.tagged = vec![element.text, element.tail];
                shape
            }
            // The source, and the next piece; what was read so far lies behind.
            "itertools._tee_dataobject" => BodyShape::of(Storage::TeePiece, header..header + 24).without([header + 8]),
            // Three flags of a byte each are behind all others.
            "typing.TypeVar" | "typing.ParamSpec" => {
                BodyShape::plain(header..basicsize).without([size.saturating_sub(8)])
            }
            // The number is in front.
            "itertools.count" => BodyShape::plain(header + 8..basicsize),
            "zlib.Compress" | "zlib.Decompress" => {
                let own = header + Z_STREAM;
                // Whether the end was met is one byte, behind two objects.
                BodyShape::plain(own.min(basicsize)..basicsize).without([own + 16])
            }
            "zlib._ZlibDecompressor" => BodyShape::plain((header + Z_STREAM).min(basicsize)..basicsize),
            // What C sees of a value is no reference: `b_base` and `b_objects` keep what it needs.
            "_ctypes._CData" => BodyShape::plain(header..basicsize).only(size, [Some(header + 16), Some(header + 48)]),
            // The object behind an argument, and its size.
            "_ctypes.CArgObject" | "builtins.CArgObject" => {
                BodyShape::plain(size.saturating_sub(16)..size.saturating_sub(8))
            }
            "numpy.ndarray" => BodyShape::of(Storage::NdArray, header..basicsize),
            // `PyUFuncObject` (numpy/_core/include/numpy/ufuncobject.h, 1.22 to 2.4): obj, userloops, identity_value,
            // _loops; among them are numbers and words that are never written.
            "numpy.ufunc" => {
                let owned = [72, 80, 192, 208].map(|offset| Some(header + offset));
                BodyShape::plain(header..basicsize).only(size, owned)
            }
            // Most are made for one loop of C, which writes few of its words; an object is there (`wrapped_meth`) only
            // where a ufunc has it as well.
            "numpy._ArrayMethod" => leaf(size),
            _ => return None,
        })
    }

    /// A C struct of so many bytes that owns nothing, and what classes add to it.
    fn leaf(size: usize, basicsize: usize) -> BodyShape {
        if size >= basicsize { BodyShape::of(Storage::Leaf, 0..0) } else { BodyShape::plain(size..basicsize) }
    }
}
