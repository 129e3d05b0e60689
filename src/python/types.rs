//! Collects all types of a target from the interpreter's registry: `tp_subclasses`, starting at `object`.
//!
//! Every ready type is in the list of its bases (`add_subclass`, `Objects/typeobject.c`), heap types as well as static
//! types of extensions. A few static types of C modules are used without being made ready; they are found in the
//! modules' data. So the table is complete: a block whose second word is not in it is not an object. The bytes before
//! an instance and the size rule are worked out here, once per type, so that a census only looks them up.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt, Now, ReadError, u64_at};

use super::address_table::{AddressFilter, AddressTable, FilterBits, hash};
use super::interpreter::Interpreter;
use super::interpreter::Python;
use super::layout::Layout;
use super::object_header::LOWEST_ADDRESS;
use super::proof_error::ProofError;
use super::reader::{NAME_LENGTH_MAX, Reader};
use super::sizes::{Basis, SizeRule};
use super::{type_flags as flag, type_metadata};

/// Upper bound on the number of types. A large Django site has some 30,000.
const TYPES_MAX: usize = 4 << 20;
/// Upper bound on a file's writable data searched for types, bytes; see [`crate::heap::classify::statics`].
const DATA_MAX: u64 = 64 << 20;
/// Upper bound on `tp_basicsize` and `tp_itemsize`.
const SIZE_MAX: u64 = 1 << 30;

/// Number of attempts to find the state of a static type.
const STATE_TRIES: usize = 20;
/// Number of times that a registry of subclasses is read again if it changed while it was read.
const REGISTRY_TRIES: usize = 3;
/// Pause between two attempts.
const STATE_PAUSE: Duration = Duration::from_millis(1);

/// Index of a type in a [`TypeTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TypeId(pub u32);

impl TypeId {
    /// The id as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A type and the shape of its instances.
#[derive(Clone, Debug)]
pub struct TypeInfo {
    /// Address of the type object.
    pub address: Address,
    /// `__module__`.
    pub module: String,
    /// `__qualname__`.
    pub qualname: String,
    /// `tp_basicsize`, bytes.
    pub basicsize: u64,
    /// `tp_itemsize`, bytes.
    pub itemsize: u64,
    /// `tp_flags`; see [`flag`].
    pub flags: u64,
    /// Bytes before an instance: pre-header and GC head. For a metatype: before heap types; static types are not
    /// allocated and have none.
    pub front: usize,
    /// The GC head's part of `front`.
    pub gc_head: usize,
    /// Whether inline values follow `tp_basicsize` (3.13+).
    pub has_inline_values: bool,
    /// The rule by which instances are sized.
    pub rule: SizeRule,
    /// Whether the size is exact or a lower bound.
    pub basis: Basis,
    /// Whether the type's own code decides per instance if `sys.getsizeof` counts the GC head (greenlets, until 3.10).
    /// Sizes are then lower bounds without the head.
    pub decides_on_head: bool,
    /// Whether it is `str` itself, not a subclass. Only `str` itself has compact strings.
    pub is_str_itself: bool,
    /// Whether a class statement made it, not C code.
    pub is_python_class: bool,
    /// Whether `tp_alloc` differs from `object`'s, so that the type decides how much it allocates. A `datetime.time`
    /// without time zone is shorter than its `tp_basicsize`.
    pub has_own_allocator: bool,
}

impl TypeInfo {
    /// `module.qualname`.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.module, self.qualname)
    }

    /// Whether a bit of `tp_flags` is set; see [`flag`].
    #[inline(always)]
    pub fn has(&self, bit: u32) -> bool {
        self.flags >> bit & 1 == 1
    }

    /// Whether instances have a GC head, unless they are static.
    #[inline(always)]
    pub fn is_gc(&self) -> bool {
        self.gc_head != 0
    }
}

/// All types of a target.
#[derive(Debug, Default)]
pub struct TypeTable {
    types: Vec<TypeInfo>,
    ids: AddressTable<TypeId>,
    filter: FilterBits,
    type_type: Address,
    /// Number of types that could not be read or were invalid.
    pub rejected: u64,
}

impl TypeTable {
    /// Finds all types of all interpreters. `data` is the writable data of the target's ELF files. Takes milliseconds
    /// for a thousand types.
    ///
    /// # Errors
    /// The target cannot be read at all, or what types state contradicts the layout. Single bad types are counted in
    /// [`TypeTable::rejected`].
    pub fn build<M: Memory + ?Sized>(
        memory: &M,
        python: &Python,
        data: &[Range<Address>],
    ) -> Result<TypeTable, ProofError> {
        let reader = Reader { memory, layout: &python.layout };
        let mut builder = TableBuilder {
            reader,
            python,
            table: TypeTable { type_type: python.type_type, ..TypeTable::default() },
            raw: Vec::new(),
            seen: FxHashSet::default(),
            well_known: WellKnown::default(),
            generic_alloc: None,
            with_state: 0,
            without_state: Vec::new(),
        };
        for interpreter in &python.interpreters {
            builder.collect(interpreter);
        }
        for range in data {
            builder.collect_static(range);
        }
        builder.prove_states(data)?;
        builder.finish()?;
        Ok(builder.table)
    }

    /// A filter that rejects nearly all words that are not a type's address.
    pub fn filter(&self) -> AddressFilter<'_> {
        self.filter.filter()
    }

    /// Looks up a type by address.
    #[inline(always)]
    pub fn find(&self, address: u64) -> Option<TypeId> {
        let hash = hash(address);
        self.filter.filter().passes(hash).then(|| self.ids.find(address, hash).copied())?
    }

    /// The type with this id.
    #[inline(always)]
    pub fn get(&self, id: TypeId) -> &TypeInfo {
        &self.types[id.index()]
    }

    /// All types with their ids.
    pub fn iter(&self) -> impl Iterator<Item = (TypeId, &TypeInfo)> {
        self.types.iter().enumerate().map(|(index, info)| (TypeId(index as u32), info))
    }

    /// Address of the type `type`.
    pub fn type_type(&self) -> Address {
        self.type_type
    }

    /// Number of types.
    pub fn len(&self) -> usize {
        self.types.len()
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.types.is_empty()
    }

    /// Makes a table from types, for tests.
    pub fn of(types: Vec<TypeInfo>) -> TypeTable {
        let mut table = TypeTable { types, ..TypeTable::default() };
        table.index_addresses();
        table
    }

    fn index_addresses(&mut self) {
        let ids = self.types.iter().enumerate().map(|(id, info)| (info.address.0, TypeId(id as u32)));
        self.ids = AddressTable::new(ids);
        self.filter = FilterBits::new(self.types.iter().map(|info| info.address.0));
    }
}

/// What is read of a type before related types are known.
struct RawType {
    address: Address,
    interpreter: Interpreter,
    basicsize: u64,
    itemsize: u64,
    flags: u64,
    mro: Vec<Address>,
    dict: Address,
    tp_alloc: Address,
    tp_is_gc: Address,
}

struct TableBuilder<'a, M: Memory + ?Sized> {
    reader: Reader<'a, M>,
    python: &'a Python,
    table: TypeTable,
    raw: Vec<RawType>,
    seen: FxHashSet<Address>,
    well_known: WellKnown,
    generic_alloc: Option<Address>,
    /// Static types of extensions whose state belongs to the interpreter: how many had it, and which had none.
    with_state: usize,
    without_state: Vec<(Address, Interpreter)>,
}

/// The key strings looked up in type dicts. Comparing addresses avoids reading every key. A text can have several
/// addresses if the interpreter was finalized and initialized again, or has sub-interpreters: static types keep their
/// keys.
#[derive(Default)]
struct WellKnown {
    sizeof: FxHashSet<Address>,
    module: FxHashSet<Address>,
}

impl<M: Memory + ?Sized> TableBuilder<'_, M> {
    /// Walks the registry of one interpreter, breadth first.
    fn collect(&mut self, interpreter: &Interpreter) {
        let mut queue = VecDeque::from([self.python.object_type]);
        let mut visited = FxHashSet::default();
        while let Some(type_) = queue.pop_front() {
            if !visited.insert(type_) {
                continue;
            }
            if visited.len() > TYPES_MAX {
                self.table.rejected += 1;
                continue;
            }
            match self.read_type(type_, interpreter, true) {
                Some(raw) => {
                    if self.seen.insert(type_) {
                        self.note_state(&raw);
                        self.raw.push(raw);
                    }
                    queue.extend(self.subclasses(type_, interpreter));
                }
                None => self.table.rejected += 1,
            }
        }
    }

    /// Finds static types outside the registry: objects in data whose type is `type` and whose name is plausible.
    fn collect_static(&mut self, range: &Range<Address>) {
        let Some(main) = self.python.interpreters.first() else { return };
        let length = (range.end.0 - range.start.0).min(DATA_MAX);
        let Ok(bytes) = self.reader.memory.read_bytes(range.start, length, DATA_MAX as usize, "data") else { return };
        let ob_type = self.reader.layout.object.ob_type;
        for offset in (0..(bytes.len() + 1).saturating_sub(self.reader.layout.type_object.size)).step_by(8) {
            if u64_at(&bytes, offset + ob_type) != Some(self.python.type_type.0) {
                continue;
            }
            let type_ = range.start.offset(offset);
            if self.seen.contains(&type_) || !self.is_unready_type(type_) {
                continue;
            }
            if let Some(raw) = self.read_type(type_, main, false) {
                self.seen.insert(type_);
                self.raw.push(raw);
            }
        }
    }

    /// Whether there is a static type that was never made ready: it has a C name, a plausible size and a reference
    /// count.
    fn is_unready_type(&self, type_: Address) -> bool {
        let name = self.reader.type_name(type_).unwrap_or_default();
        let is_name = |char: char| char.is_alphanumeric() || matches!(char, '_' | '.' | '-' | ' ' | '<' | '>');
        let layout = &self.reader.layout.type_object;
        let basicsize = self.reader.memory.read_u64(type_.offset(layout.tp_basicsize)).unwrap_or(0);
        let flags = self.reader.type_flags(type_).unwrap_or(u64::MAX);
        !name.is_empty()
            && name.chars().all(is_name)
            && basicsize >= self.reader.layout.object.size as u64
            && flags >> flag::HEAPTYPE & 1 == 0
            && flags >> flag::READY & 1 == 0
    }

    fn read_type(&self, type_: Address, interpreter: &Interpreter, must_be_ready: bool) -> Option<RawType> {
        let layout = &self.reader.layout.type_object;
        let mut bytes = vec![0; layout.size];
        self.reader.memory.read_exact_at(type_, &mut bytes).ok()?;
        let word = |offset: usize| u64_at(&bytes, offset);
        let flags = word(layout.tp_flags)?;
        let (basicsize, itemsize) = (word(layout.tp_basicsize)?, word(layout.tp_itemsize)?);
        let metatype = Address(word(self.reader.layout.object.ob_type)?);
        let is_type = metatype == self.python.type_type
            || self.reader.type_flags(metatype).is_ok_and(|flags| flags >> flag::TYPE_SUBCLASS & 1 == 1);
        if !is_type || (must_be_ready && flags >> flag::READY & 1 == 0) || basicsize > SIZE_MAX || itemsize > SIZE_MAX {
            return None;
        }
        let mut dict = Address(word(layout.tp_dict)?);
        if dict.is_null() {
            dict = self.static_type_state(type_, interpreter).map_or(Address::NULL, |(dict, _)| dict);
        }
        let mut mro = self.reader.tuple_items(Address(word(layout.tp_mro)?));
        if mro.is_empty() {
            mro = vec![type_, self.python.object_type];
        }
        let tp_alloc = Address(word(layout.tp_alloc)?);
        let tp_is_gc = Address(word(layout.tp_is_gc)?);
        let interpreter = *interpreter;
        Some(RawType { address: type_, interpreter, basicsize, itemsize, flags, mro, dict, tp_alloc, tp_is_gc })
    }

    /// `tp_dict` and `tp_subclasses` of a static builtin type. Since 3.12 they are in the interpreter's state, and
    /// `tp_subclasses` holds the index of the entry (`Objects/typeobject.c`, `managed_static_type_get`).
    fn static_type_state(&self, type_: Address, interpreter: &Interpreter) -> Option<(Address, Address)> {
        static_type_state(&self.reader, type_, interpreter)
    }

    /// The direct subclasses. What is missing here is missing everywhere, so a registry that contradicts itself is read
    /// again: from the process where the copy is of one that ran, since types come and go there.
    fn subclasses(&mut self, type_: Address, interpreter: &Interpreter) -> Vec<Address> {
        let Reader { memory, layout } = self.reader;
        let mut found = match registered(&self.reader, type_, interpreter) {
            Ok(found) => return found,
            Err(partial) => partial,
        };
        for _ in 0..REGISTRY_TRIES {
            match registered(&Reader { memory: &Now(memory), layout }, type_, interpreter) {
                Ok(whole) => return whole,
                Err(partial) => found.extend(partial),
            }
        }
        self.table.rejected += 1;
        found
    }

    /// Records whether the state of an extension's static type was found.
    fn note_state(&mut self, raw: &RawType) {
        let Some(state) = &self.reader.layout.types_state else { return };
        let Some(extensions) = state.for_extensions else { return };
        let of = |array| static_type_state_in(&self.reader, raw.address, &raw.interpreter, array);
        if raw.flags >> flag::STATIC_BUILTIN & 1 == 0 || of(state.builtins).is_some() {
        } else if of(extensions).is_some() {
            self.with_state += 1;
        } else {
            self.without_state.push((raw.address, raw.interpreter));
        }
    }

    /// Checks that static types of extensions have their state at the layout's offset. A type that is being made may
    /// not have one yet. Types outside the files' data are ignored: a class that was just freed may look like one.
    fn prove_states(&mut self, data: &[Range<Address>]) -> Result<(), ProofError> {
        let mut missing = std::mem::take(&mut self.without_state);
        missing.retain(|(type_, _)| data.iter().any(|range| range.contains(type_)));
        for _ in 0..STATE_TRIES {
            let without = missing
                .iter()
                .filter(|(type_, interpreter)| self.static_type_state(*type_, interpreter).is_none())
                .count();
            if without <= self.with_state + missing.len() - without {
                return Ok(());
            }
            std::thread::sleep(STATE_PAUSE);
            self.reader.memory.forget();
        }
        let detail = format!("{} static types of extensions have no state", missing.len());
        Err(ProofError::Field { field: "types_state.for_extensions", detail })
    }

    /// Computes names, sizes of the front and size rules once all types are known.
    ///
    /// # Errors
    /// What types state contradicts the layout.
    fn finish(&mut self) -> Result<(), ProofError> {
        let raw = std::mem::take(&mut self.raw);
        self.well_known = self.learn_well_known(&raw);
        self.generic_alloc = raw.iter().find(|raw| raw.address == self.python.object_type).map(|raw| raw.tp_alloc);
        let by_address: FxHashMap<Address, usize> =
            raw.iter().enumerate().map(|(index, raw)| (raw.address, index)).collect();
        let own: Vec<OwnNames> = raw.iter().map(|raw| self.own_names(raw)).collect();
        let tp_names: Vec<String> =
            raw.iter().map(|raw| self.reader.type_name(raw.address).unwrap_or_default()).collect();
        let segments = &self.python.runtime.elf.segments;
        let is_cpythons = |(index, raw): &(usize, &RawType)| {
            let is_static = segments.iter().any(|segment| segment.range.contains(&raw.address));
            !own[*index].is_python_class && type_metadata::is_of(&tp_names[*index], is_static)
        };
        for (index, raw) in raw.iter().enumerate().filter(is_cpythons) {
            match type_metadata::prove(&self.reader, raw.address, &tp_names[index]) {
                // Memory that a core leaves out proves nothing.
                Ok(()) | Err(ProofError::Read(ReadError::Unreadable { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        self.table.types = raw
            .iter()
            .enumerate()
            .map(|(index, raw)| {
                let definers =
                    raw.mro.iter().filter_map(|base| by_address.get(base)).filter(|&&base| own[base].has_sizeof);
                let definers = definers.map(|&base| (tp_names[base].as_str(), own[base].is_python_class));
                let names = raw.mro.iter().filter_map(|base| by_address.get(base)).map(|&base| tp_names[base].as_str());
                let (rule, basis) = SizeRule::choose(definers, names);
                self.describe(raw, &own[index], &tp_names[index], rule, basis)
            })
            .collect();
        self.table.index_addresses();
        Ok(())
    }

    fn describe(&self, raw: &RawType, own: &OwnNames, tp_name: &str, rule: SizeRule, basis: Basis) -> TypeInfo {
        let is_heap = raw.flags >> flag::HEAPTYPE & 1 == 1;
        let (module, qualname) = if is_heap {
            let qualname = self.reader.pointer(raw.address, self.reader.layout.heap_type.ht_qualname).ok();
            let qualname = qualname.and_then(|name| self.reader.string(name, NAME_LENGTH_MAX));
            // If `__module__` is computed on demand, as in Cython, the C name contains the module.
            let of_c = || tp_name.rsplit_once('.').map_or("?", |(module, _)| module).to_owned();
            (own.module.clone().unwrap_or_else(of_c), qualname.unwrap_or_else(|| tp_name.to_owned()))
        } else {
            match tp_name.rsplit_once('.') {
                Some((module, name)) => (module.to_owned(), name.to_owned()),
                None => ("builtins".to_owned(), tp_name.to_owned()),
            }
        };
        let (front, gc_head) = front_of(self.reader.layout, raw.flags);
        let decides_on_head = self.python.version.getsizeof_asks_tp_is_gc()
            && !raw.tp_is_gc.is_null()
            && raw.flags >> flag::TYPE_SUBCLASS & 1 == 0
            && gc_head > 0;
        TypeInfo {
            address: raw.address,
            module,
            qualname,
            basicsize: raw.basicsize,
            itemsize: raw.itemsize,
            flags: raw.flags,
            front,
            gc_head,
            has_inline_values: is_heap
                && raw.flags >> flag::INLINE_VALUES & 1 == 1
                && self.reader.layout.dict_values.as_ref().is_some_and(|values| values.valid.is_some()),
            rule,
            basis: if decides_on_head { Basis::LowerBound } else { basis },
            decides_on_head,
            is_str_itself: raw.flags >> flag::UNICODE_SUBCLASS & 1 == 1
                && raw.mro == [raw.address, self.python.object_type],
            is_python_class: own.is_python_class,
            has_own_allocator: !raw.tp_alloc.is_null()
                && self.generic_alloc.is_some_and(|generic| generic != raw.tp_alloc),
        }
    }

    /// Names from a type's own dict.
    fn own_names(&self, raw: &RawType) -> OwnNames {
        let entries = self.reader.dict_entries(raw.dict).unwrap_or_default();
        let known = &self.well_known;
        let by_address = entries.iter().find(|entry| known.module.contains(&entry.key));
        // For keys that were never interned, compare the text.
        let by_text = || entries.iter().find(|entry| self.reader.is_string(entry.key, "__module__"));
        let module = by_address.or_else(by_text).and_then(|entry| self.reader.string(entry.value, NAME_LENGTH_MAX));
        let has_sizeof = entries.iter().any(|entry| known.sizeof.contains(&entry.key));
        OwnNames { module, has_sizeof, is_python_class: self.is_python_class(raw) }
    }

    fn is_python_class(&self, raw: &RawType) -> bool {
        raw.flags >> flag::HEAPTYPE & 1 == 1 && self.reader.is_python_class(raw.address)
    }

    /// Reads the keys in the dicts of types made by C, each string once, and of some classes.
    fn learn_well_known(&self, raw: &[RawType]) -> WellKnown {
        /// Number of classes per interpreter whose dicts are searched for the key `__module__`.
        const CLASSES: usize = 64;
        let mut known = WellKnown::default();
        let mut read: FxHashSet<Address> = FxHashSet::default();
        let mut classes: FxHashMap<i64, usize> = FxHashMap::default();
        for raw in raw {
            if self.is_python_class(raw) {
                let classes = classes.entry(raw.interpreter.id).or_default();
                *classes += 1;
                if *classes > CLASSES {
                    continue;
                }
            }
            for entry in self.reader.dict_entries(raw.dict).unwrap_or_default() {
                if !read.insert(entry.key) {
                    continue;
                }
                if self.reader.is_string(entry.key, "__sizeof__") {
                    known.sizeof.insert(entry.key);
                } else if self.reader.is_string(entry.key, "__module__") {
                    known.module.insert(entry.key);
                }
            }
        }
        known
    }
}

/// Names from a type's own dict and C name.
struct OwnNames {
    module: Option<String>,
    has_sizeof: bool,
    is_python_class: bool,
}

/// The direct subclasses of a type, as far as they are known: the referents of the weak references in `tp_subclasses`.
///
/// # Errors
/// What is found in a dict that does not have as many entries as it says.
fn registered<M: Memory + ?Sized>(
    reader: &Reader<'_, M>,
    type_: Address,
    interpreter: &Interpreter,
) -> Result<Vec<Address>, Vec<Address>> {
    let layout = reader.layout;
    let dict = match static_type_state(reader, type_, interpreter) {
        Some((_, subclasses)) => subclasses,
        None => reader.pointer(type_, layout.type_object.tp_subclasses).unwrap_or_default(),
    };
    // Or an index, where the state of a static type is not known.
    if dict.0 < LOWEST_ADDRESS {
        return Ok(Vec::new());
    }
    if !reader.has_type_flag(dict, flag::DICT_SUBCLASS) {
        return Err(Vec::new());
    }
    let used = reader.memory.read_u64(dict.offset(layout.dict.ma_used));
    let Ok(entries) = reader.dict_entries(dict) else { return Err(Vec::new()) };
    let is_whole = used.is_ok_and(|used| used == entries.len() as u64);
    let referent = |weakref| reader.pointer(weakref, layout.weak_ref.wr_object).ok();
    let referents = entries.into_iter().filter_map(|entry| referent(entry.value));
    let found = referents.filter(|type_| type_.0 % 8 == 0 && !type_.is_null()).collect();
    if is_whole { Ok(found) } else { Err(found) }
}

/// `tp_dict` and `tp_subclasses` of a static builtin type (3.12+), from the interpreter's state. `None` for types that
/// store them themselves.
pub fn static_type_state<M: Memory + ?Sized>(
    reader: &Reader<'_, M>,
    type_: Address,
    interpreter: &Interpreter,
) -> Option<(Address, Address)> {
    let state = reader.layout.types_state.as_ref()?;
    let arrays = [Some(state.builtins), state.for_extensions];
    arrays.into_iter().flatten().find_map(|array| static_type_state_in(reader, type_, interpreter, array))
}

/// As [`static_type_state`], but only in the array at this offset of the interpreter's types.
fn static_type_state_in<M: Memory + ?Sized>(
    reader: &Reader<'_, M>,
    type_: Address,
    interpreter: &Interpreter,
    array: usize,
) -> Option<(Address, Address)> {
    let layout = reader.layout;
    let entry = layout.static_type.as_ref()?;
    let types = interpreter.address.offset(layout.interp.types?);
    if reader.type_flags(type_).ok()? >> flag::STATIC_BUILTIN & 1 == 0 {
        return None;
    }
    let index = reader.pointer(type_, layout.type_object.tp_subclasses).ok()?.0.checked_sub(1)?;
    // There are about 200 static builtin types.
    let offset = usize::try_from(index).ok().filter(|&index| index < 1 << 12)?.checked_mul(entry.size)?;
    let at = types.offset(array).offset(offset);
    let is_its = reader.pointer(at, entry.type_).ok()? == type_;
    is_its.then(|| Some((reader.pointer(at, entry.tp_dict).ok()?, reader.pointer(at, entry.tp_subclasses).ok()?)))?
}

/// Bytes before an instance of a type with these flags: total and GC head.
fn front_of(layout: &Layout, flags: u64) -> (usize, usize) {
    let has = |bit: u32| flags >> bit & 1 == 1;
    let gc_head = if has(flag::HAVE_GC) { layout.constants.gc_head_size } else { 0 };
    let managed = (layout.constants.managed_dict_before.is_some() && has(flag::MANAGED_DICT))
        || (layout.constants.managed_weakref_before.is_some() && has(flag::MANAGED_WEAKREF));
    (gc_head + if managed { layout.constants.preheader_size } else { 0 }, gc_head)
}
