//! Third part of the proof: checks classes made by Python code, their instances, and dict tables. Every interpreter has
//! some hundred of them before the program starts.
//!
//! A running target changes while it is read, and a class may be made in an unusual way, so a check passes if most
//! samples pass.

use rustc_hash::FxHashSet;

use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt, ReadError, u64_at};

use super::interpreter::Interpreter;
use super::layout::fields::Bits;
use super::proof_error::ProofError;
use super::proof_error::claim;
use super::reader::{KeysHeader, Reader};
use crate::python::type_flags as flag;

/// Number of classes, modules and dicts sampled.
const SAMPLES: usize = 48;
/// Below this number of classes, a check proves nothing.
const FEW: usize = 8;
/// Upper bound on an instance's inline values (`SHARED_KEYS_MAX_SIZE`, `Include/internal/pycore_dict.h`).
const INLINE_MAX: u8 = 30;
/// Largest interning state of a str: not interned, mortal, immortal, or static.
const INTERNED_MAX: u64 = 3;
/// Upper bound on the characters of a name.
const NAME_MAX: u64 = 4096;
/// Upper bound on a module's local reference count.
const LOCAL_MAX: u32 = 1 << 13;
/// Upper bound on a module's shared reference count.
const SHARED_MAX: u64 = 1 << 20;
/// Half of what deferred reference counting adds to the shared count (3.14+; see `object_header`).
const DEFERRED_MIN: i64 = i64::MAX / 16;
/// `_PyGC_BITS_TRACKED` (`Include/internal/pycore_gc.h`).
const GC_TRACKED: u8 = 1;
const GC_BITS: u8 = 0x7f;
/// `_PyGC_BITS_UNREACHABLE`.
const GC_UNREACHABLE: u8 = 4;
/// Lower bound on a thread descriptor's address. The descriptor of an ended thread may no longer be mapped.
const THREADS_MIN: u64 = 1 << 44;

/// Number of samples that passed and failed.
#[derive(Default)]
struct Ballot {
    held: usize,
    failed: usize,
}

impl Ballot {
    fn of(votes: impl Iterator<Item = bool>) -> Ballot {
        let mut ballot = Ballot::default();
        votes.for_each(|vote| if vote { ballot.held += 1 } else { ballot.failed += 1 });
        ballot
    }

    /// Passes if most samples passed or there were none.
    fn claim(&self, field: &'static str) -> Result<(), ProofError> {
        let Ballot { held, failed } = *self;
        claim(held > failed || failed == 0, field, || format!("{failed} of {} samples contradict it", held + failed))
    }
}

/// Checks the fields. `heap_types` are classes made at run time by Python or C code.
///
/// # Errors
/// The first field that fails.
pub fn prove<M: Memory + ?Sized>(
    reader: &Reader<'_, M>,
    main: &Interpreter,
    heap_types: &[Address],
) -> Result<(), ProofError> {
    let heap_types = &heap_types[..heap_types.len().min(SAMPLES)];
    struct_ends(reader, heap_types)?;
    dicts_of_types(reader, heap_types)?;
    cached_keys(reader, heap_types)?;
    let modules = modules(reader, main)?;
    let dicts: Vec<Address> = modules.iter().map(|module| module.dict).collect();
    tables(reader, &dicts)?;
    headers(reader, &modules)?;
    inline_values(reader, &modules)?;
    texts(reader, main)
}

/// The slot tables of a heap type follow the part shared with static types, and `tp_as_async` points to the first one.
fn struct_ends<M: Memory + ?Sized>(reader: &Reader<'_, M>, types: &[Address]) -> Result<(), ProofError> {
    let (own, whole) = (reader.layout.type_object.size, reader.layout.heap_type.size);
    let first_inside = |&type_: &Address| {
        let bytes = reader.memory.read_bytes(type_, whole as u64, whole, "type").ok()?;
        let inside = (type_.0 + 1)..(type_.0 + whole as u64);
        bytes.chunks_exact(8).filter_map(|word| u64_at(word, 0)).filter(|word| inside.contains(word)).min()
    };
    let votes = types.iter().filter_map(|type_| Some(first_inside(type_)? == type_.0 + own as u64));
    Ballot::of(votes).claim("PyTypeObject")
}

/// Each heap type has a dict of its own.
fn dicts_of_types<M: Memory + ?Sized>(reader: &Reader<'_, M>, types: &[Address]) -> Result<(), ProofError> {
    let dict = |type_: &Address| reader.pointer(*type_, reader.layout.type_object.tp_dict).ok();
    let votes = types.iter().filter_map(dict).map(|dict| reader.has_type_flag(dict, flag::DICT_SUBCLASS));
    Ballot::of(votes).claim("PyTypeObject.tp_dict")
}

/// The keys that a class caches for its instances are a table of names.
fn cached_keys<M: Memory + ?Sized>(reader: &Reader<'_, M>, types: &[Address]) -> Result<(), ProofError> {
    let offset = reader.layout.heap_type.ht_cached_keys;
    let votes = types.iter().filter_map(|&type_| {
        let keys = reader.pointer(type_, offset).ok()?;
        (!keys.is_null()).then(|| names_in(reader, keys).is_some())
    });
    let ballot = Ballot::of(votes);
    // An interpreter that is just starting has only a few classes, made by C.
    let classes = types.iter().filter(|&&type_| reader.is_python_class(type_)).count();
    claim(ballot.held > 0 || classes < FEW, "PyHeapTypeObject.ht_cached_keys", || "no class has any".to_owned())?;
    ballot.claim("PyHeapTypeObject.ht_cached_keys")
}

/// The names in a shared keys table. `None` if it is not one.
fn names_in<M: Memory + ?Sized>(reader: &Reader<'_, M>, keys: Address) -> Option<Vec<String>> {
    let layout = reader.layout;
    let mut bytes = [0; KeysHeader::BYTES];
    reader.memory.read_exact_at(keys, &mut bytes).ok()?;
    let header = KeysHeader::parse(&bytes, layout)?;
    let kind = layout.dict_keys.dk_kind.and_then(|at| bytes.get(at).copied());
    let is_split = match (&layout.constants.dict_keys_kind, kind) {
        (Some(kinds), Some(kind)) => i64::from(kind) == kinds.split,
        _ => true,
    };
    if !is_split || header.refcnt < 1 || header.nentries > header.capacity() || header.nentries > 1 << 10 {
        return None;
    }
    let (key_at, _) = header.key_and_value_offsets(layout);
    let first = keys.offset(header.entries_offset(layout) + key_at);
    let name = |index: u64| {
        let key = reader.pointer(first, index as usize * header.entry_size(layout)).ok()?;
        reader.string(key, NAME_MAX)
    };
    (0..header.nentries).map(name).collect()
}

/// An imported module.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    /// Its name in `sys.modules`.
    pub name: Address,
    /// The module object.
    pub object: Address,
    /// Its `__dict__`.
    pub dict: Address,
}

/// The first modules in `sys.modules`.
///
/// # Errors
/// They cannot be read.
pub fn modules<M: Memory + ?Sized>(reader: &Reader<'_, M>, main: &Interpreter) -> Result<Vec<Module>, ReadError> {
    let md_dict = reader.layout.module.md_dict;
    let entries = reader.dict_entries(main.modules)?;
    let found = entries.iter().filter(|entry| reader.is_a(entry.value, "module")).filter_map(|entry| {
        let dict = reader.pointer(entry.value, md_dict).ok()?;
        let module = Module { name: entry.key, object: entry.value, dict };
        reader.has_type_flag(dict, flag::DICT_SUBCLASS).then_some(module)
    });
    Ok(found.take(SAMPLES).collect())
}

/// The `__spec__` objects of modules, with the modules' names. Their class is made by Python code.
pub fn specifications<M: Memory + ?Sized>(reader: &Reader<'_, M>, modules: &[Module]) -> Vec<(Address, Address)> {
    // The key `__spec__` is normally one interned string; its text is compared once.
    let mut key = Address::NULL;
    let mut found = Vec::new();
    for module in modules {
        let entries = reader.dict_entries(module.dict).unwrap_or_default();
        let mut entry = entries.iter().find(|entry| entry.key == key);
        if key.is_null() {
            entry = entries.iter().find(|entry| reader.is_string(entry.key, "__spec__"));
            key = entry.map_or(Address::NULL, |entry| entry.key);
        }
        let is_instance = |object: Address| {
            let type_ = reader.type_of(object).unwrap_or_default();
            reader.type_flags(type_).is_ok_and(|flags| flags >> flag::HEAPTYPE & 1 == 1)
        };
        found.extend(entry.filter(|entry| is_instance(entry.value)).map(|entry| (module.name, entry.value)));
    }
    found
}

/// A module's dict does not share its keys, and its used and usable entries add up to its capacity.
fn tables<M: Memory + ?Sized>(reader: &Reader<'_, M>, dicts: &[Address]) -> Result<(), ProofError> {
    let header = |&dict: &Address| {
        let values = reader.pointer(dict, reader.layout.dict.ma_values).ok()?;
        let keys = reader.pointer(dict, reader.layout.dict.ma_keys).ok()?;
        KeysHeader::read(reader.memory, reader.layout, keys).ok().filter(|_| values.is_null())
    };
    let headers: Vec<KeysHeader> = dicts.iter().filter_map(header).collect();
    Ballot::of(headers.iter().map(|header| header.refcnt == 1)).claim("PyDictKeysObject.dk_refcnt")?;
    let adds_up = |header: &KeysHeader| header.usable + header.nentries == header.capacity();
    Ballot::of(headers.iter().map(adds_up)).claim("PyDictKeysObject.dk_usable")
}

/// Free-threaded headers: modules are tracked, owned by a thread, and have small counts.
fn headers<M: Memory + ?Sized>(reader: &Reader<'_, M>, modules: &[Module]) -> Result<(), ProofError> {
    let fields = &reader.layout.object;
    let (Some(tid), Some(mutex), Some(gc_bits)) = (fields.ob_tid, fields.ob_mutex, fields.ob_gc_bits) else {
        return Ok(());
    };
    let (Some(local), Some(shared)) = (fields.ob_ref_local, fields.ob_ref_shared) else { return Ok(()) };
    // The mutex and the GC bits are single bytes in the word of the local count.
    let beside = mutex + 1 == gc_bits && gc_bits < local && local - gc_bits < 4;
    claim(beside, "PyObject.ob_mutex", || format!("at {mutex}, ob_gc_bits at {gc_bits}, ob_ref_local at {local}"))?;
    let objects = || modules.iter().map(|module| module.object);
    let bits = |object: Address| reader.memory.read_u32(object.offset(gc_bits)).ok().map(|word| word as u8);
    // 3.13 makes modules immortal when the first thread starts, and no longer tracks them (`_Py_SetImmortal`).
    let is_immortal =
        |object: Address| reader.memory.read_u32(object.offset(local)).is_ok_and(|count| count == u32::MAX);
    let tracked = objects().filter_map(|object| {
        let bits = bits(object)?;
        Some(bits <= GC_BITS && (bits & GC_TRACKED != 0 || is_immortal(object)))
    });
    Ballot::of(tracked).claim("PyObject.ob_gc_bits")?;
    // During a collection the owner field holds the collector's count.
    let is_counted = |object: &Address| bits(*object).is_none_or(|bits| bits & GC_UNREACHABLE != 0);
    let owner = objects().filter(|object| !is_counted(object)).filter_map(|object| reader.pointer(object, tid).ok());
    let is_owner =
        |owner: Address| owner.is_null() || owner.0 >= THREADS_MIN || reader.memory.regions().contains(owner, 8);
    Ballot::of(owner.map(is_owner)).claim("PyObject.ob_tid")?;
    let counts = objects().filter_map(|object| reader.memory.read_u32(object.offset(local)).ok());
    let is_count = |count: u32| count < LOCAL_MAX || count == u32::MAX;
    Ballot::of(counts.map(is_count)).claim("PyObject.ob_ref_local")?;
    let counts = objects().filter_map(|object| reader.memory.read_i64(object.offset(shared)).ok());
    let is_count = |count: i64| (count >> 2).unsigned_abs() < SHARED_MAX || count >> 2 > DEFERRED_MIN;
    Ballot::of(counts.map(is_count)).claim("PyObject.ob_ref_shared")
}

/// Since 3.13 an instance's values follow it: a module's spec names the module there.
fn inline_values<M: Memory + ?Sized>(reader: &Reader<'_, M>, modules: &[Module]) -> Result<(), ProofError> {
    let layout = reader.layout;
    let Some(fields) = &layout.dict_values else { return Ok(()) };
    let (Some(capacity), Some(valid)) = (fields.capacity, fields.valid) else { return Ok(()) };
    let (mut places, mut capacities) = (Vec::new(), Vec::new());
    for (name, spec) in specifications(reader, modules) {
        let Ok(type_) = reader.type_of(spec) else { continue };
        let Ok(flags) = reader.type_flags(type_) else { continue };
        if flags >> flag::INLINE_VALUES & 1 == 0 || flags >> flag::HEAPTYPE & 1 == 0 {
            continue;
        }
        let Ok(keys) = reader.pointer(type_, layout.heap_type.ht_cached_keys) else { continue };
        let Some(names) = names_in(reader, keys) else { continue };
        let Some(index) = names.iter().position(|name| name == "name") else { continue };
        let basicsize = reader.memory.read_u64(type_.offset(layout.type_object.tp_basicsize)).unwrap_or(0);
        let values = spec.offset(usize::try_from(basicsize).unwrap_or(0).min(1 << 16));
        let byte = |offset: usize| reader.memory.read_u32(values.offset(offset)).ok().map(|word| word as u8);
        if byte(valid) != Some(1) {
            continue;
        }
        let found = reader.pointer(values, fields.values + 8 * index).unwrap_or_default();
        places.push(found == name || reader.string(found, NAME_MAX) == reader.string(name, NAME_MAX));
        capacities.push(byte(capacity).is_some_and(|capacity| (index as u8 + 1..=INLINE_MAX).contains(&capacity)));
    }
    Ballot::of(places.into_iter()).claim("PyDictValues.values")?;
    Ballot::of(capacities.into_iter()).claim("PyDictValues.capacity")
}

/// The three forms of str share a struct that grows. The ASCII header ends where ASCII text begins. The compact header
/// adds length and address of the UTF-8 copy (and until 3.11 the length of the wchar_t copy); other compact text begins
/// behind it. The third form adds a pointer to the text at its end. The names in `sys` have no `wchar_t` copies.
fn texts<M: Memory + ?Sized>(reader: &Reader<'_, M>, main: &Interpreter) -> Result<(), ProofError> {
    let (unicode, compact) = (&reader.layout.unicode, &reader.layout.compact_unicode);
    let ends = unicode.data + 8 == unicode.size && compact.size == unicode.data;
    claim(ends, "PyCompactUnicodeObject", || {
        format!("{} bytes, and the text's pointer at {} of {}", compact.size, unicode.data, unicode.size)
    })?;
    let utf8 = compact.size.checked_sub(if unicode.wstr_length.is_some() { 16 } else { 8 });
    let ends = Some(unicode.utf8) == utf8
        && unicode.utf8_length + 8 == unicode.utf8
        && unicode.utf8_length == reader.layout.ascii_unicode.size;
    claim(ends, "PyCompactUnicodeObject.utf8", || {
        format!("length at {}, pointer at {}, the end at {}", unicode.utf8_length, unicode.utf8, compact.size)
    })?;
    let (kind, is_compact, is_ascii) = (unicode.kind, unicode.compact, unicode.ascii);
    let are_packed = kind.byte == is_compact.byte
        && kind.byte == is_ascii.byte
        && (kind.bit + kind.width, is_compact.bit + 1) == (is_compact.bit, is_ascii.bit)
        && (is_compact.width, is_ascii.width) == (1, 1);
    claim(are_packed, "PyASCIIObject.state", || format!("kind {kind:?}, compact {is_compact:?}, ascii {is_ascii:?}"))?;
    let word = |name: Address, bits: Bits| reader.memory.read_u32(name.offset(bits.byte)).ok().map(u64::from);
    let names = reader.dict_entries(main.sysdict)?;
    let states = names.iter().take(SAMPLES).filter_map(|entry| {
        let state = |bits: Bits| word(entry.key, bits).map(|word| bits.of(word));
        Some(
            (state(kind)?, state(is_compact)?, state(is_ascii)?) == (1, 1, 1)
                && state(unicode.interned)? <= INTERNED_MAX,
        )
    });
    Ballot::of(states).claim("PyASCIIObject.state")?;
    let Some(wstr) = unicode.wstr else { return Ok(()) };
    let copies = names.iter().take(SAMPLES).filter_map(|entry| reader.pointer(entry.key, wstr).ok());
    Ballot::of(copies.map(Address::is_null)).claim("PyASCIIObject.wstr")
}

/// The objects found through weak references are types, and not all are the same.
///
/// # Errors
/// Fewer than half of `stated` are types.
pub fn prove_references<M: Memory + ?Sized>(
    reader: &Reader<'_, M>,
    referents: &[Address],
    stated: u64,
) -> Result<(), ProofError> {
    let is_type = |type_: &&Address| reader.has_type_flag(**type_, flag::TYPE_SUBCLASS);
    let found: FxHashSet<Address> = referents.iter().filter(is_type).copied().collect();
    claim(2 * found.len() as u64 > stated, "PyWeakReference.wr_object", || {
        format!("{} of {stated} subclasses of object are types", found.len())
    })
}
