//! Second part of the proof: checks fields on objects that every interpreter has and whose values are known, because an
//! error there would give wrong numbers.
//!
//! A running target changes meanwhile. So only what cannot change is checked on single objects; elsewhere one agreeing
//! object of many suffices.

use crate::process::Address;
use crate::process::memory::Memory;

use super::heap_types;
use super::interpreter::Interpreter;
use super::proof_error::ProofError;
use super::proof_error::claim;
use super::reader::Reader;
use super::types::static_type_state;
use crate::python::type_flags as flag;

/// Number of types sampled, of the hundreds that derive from `object`.
const TYPES_MAX: usize = 512;
/// Number of attempts to read something that may be changing.
const TRIES: usize = 50;
/// Upper bound on the allocated items of a list in `sys`.
const ALLOCATED_MAX: u64 = 1 << 32;
/// Upper bound on a type's name, bytes.
const NAME_MAX: u64 = 4096;
/// Upper bound on the slots of a set; `sys.stdlib_module_names` has 1,024.
const SLOTS_MAX: u64 = 1 << 16;

/// Checks the fields.
///
/// # Errors
/// The first field that fails.
pub fn prove<M: Memory + ?Sized>(
    reader: &Reader<'_, M>,
    main: &Interpreter,
    type_type: Address,
    object_type: Address,
) -> Result<(), ProofError> {
    let dict_type = reader.type_of(main.sysdict)?;
    counts(reader, main)?;
    for type_ in [dict_type, type_type] {
        line_of_bases(reader, type_, object_type)?;
    }
    item_sizes(reader, dict_type, object_type)?;
    allocators(reader, &[type_type, object_type])?;
    own_names(reader, main, dict_type)?;
    subclasses(reader, main, type_type, object_type)?;
    entries(reader, main)?;
    lists(reader, main)?;
    names(reader, main)
}

/// Checks that a reference count is not an address.
fn counts<M: Memory + ?Sized>(reader: &Reader<'_, M>, main: &Interpreter) -> Result<(), ProofError> {
    let object = &reader.layout.object;
    let Some(offset) = object.ob_refcnt else { return Ok(()) };
    let count = reader.pointer(main.sysdict, offset)?;
    claim(reader.memory.regions().find(count).is_none(), "PyObject.ob_refcnt", || format!("{count}, an address"))
}

/// Checks that a type's MRO starts with the type and ends with `object`.
fn line_of_bases<M: Memory + ?Sized>(
    reader: &Reader<'_, M>,
    type_: Address,
    object_type: Address,
) -> Result<(), ProofError> {
    let mro = reader.pointer(type_, reader.layout.type_object.tp_mro)?;
    let bases = reader.tuple_items(mro);
    let holds = bases.first() == Some(&type_) && bases.last() == Some(&object_type);
    claim(holds, "PyTypeObject.tp_mro", || format!("the bases of {type_} are {bases:?}"))
}

/// Checks that a tuple's items are pointers and that dict and object have none.
fn item_sizes<M: Memory + ?Sized>(
    reader: &Reader<'_, M>,
    dict_type: Address,
    object_type: Address,
) -> Result<(), ProofError> {
    let fields = &reader.layout.type_object;
    let tuple_type = reader.type_of(reader.pointer(dict_type, fields.tp_mro)?)?;
    for (type_, size) in [(tuple_type, 8), (dict_type, 0), (object_type, 0)] {
        let found = reader.pointer(type_, fields.tp_itemsize)?.0;
        claim(found == size, "PyTypeObject.tp_itemsize", || format!("{found} of {type_}, not {size}"))?;
    }
    let found = reader.pointer(object_type, fields.tp_basicsize)?.0;
    let size = reader.layout.object.size as u64;
    claim(found == size, "PyObject", || format!("object.__basicsize__ is {found}, the layout says {size}"))
}

/// Checks that `type` allocates as `object` does (`PyType_GenericAlloc`) and has a different constructor.
fn allocators<M: Memory + ?Sized>(reader: &Reader<'_, M>, types: &[Address]) -> Result<(), ProofError> {
    let offset = reader.layout.type_object.tp_alloc;
    let found: Vec<Address> = types.iter().map(|&type_| reader.pointer(type_, offset)).collect::<Result<_, _>>()?;
    let same = found.iter().all(|alloc| !alloc.is_null() && Some(alloc) == found.first());
    claim(same, "PyTypeObject.tp_alloc", || format!("{found:?}"))
}

/// Checks that the dict of `dict` holds its methods.
fn own_names<M: Memory + ?Sized>(
    reader: &Reader<'_, M>,
    main: &Interpreter,
    dict_type: Address,
) -> Result<(), ProofError> {
    let own = match static_type_state(reader, dict_type, main) {
        Some((own, _)) => own,
        None => reader.pointer(dict_type, reader.layout.type_object.tp_dict)?,
    };
    let holds = !own.is_null()
        && reader
            .dict_entries(own)
            .is_ok_and(|entries| entries.iter().any(|entry| reader.is_string(entry.key, "fromkeys")));
    claim(holds, "PyTypeObject.tp_dict", || format!("{own} has no dict.fromkeys"))
}

/// Checks that the subclasses of `object` are types whose base is `object`, and that those made by Python have names.
fn subclasses<M: Memory + ?Sized>(
    reader: &Reader<'_, M>,
    main: &Interpreter,
    type_type: Address,
    object_type: Address,
) -> Result<(), ProofError> {
    let layout = reader.layout;
    let dict = match static_type_state(reader, object_type, main) {
        Some((_, subclasses)) => subclasses,
        None => reader.pointer(object_type, layout.type_object.tp_subclasses)?,
    };
    let entries = reader.dict_entries(dict).unwrap_or_default();
    let referents: Vec<Address> = entries
        .iter()
        .take(TYPES_MAX)
        .filter_map(|entry| reader.pointer(entry.value, layout.weak_ref.wr_object).ok())
        .collect();
    let types: Vec<Address> = referents
        .iter()
        .copied()
        .filter(|&type_| reader.type_of(type_).is_ok_and(|meta| meta == type_type))
        .filter(|&type_| reader.pointer(type_, layout.type_object.tp_base).is_ok_and(|base| base == object_type))
        .collect();
    claim(!types.is_empty(), "PyTypeObject.tp_subclasses", || format!("{dict} leads to no type derived from object"))?;
    let stated = reader.pointer(dict, layout.dict.ma_used)?.0.min(TYPES_MAX as u64);
    heap_types::prove_references(reader, &referents, stated)?;
    let is_heap = |&&type_: &&Address| reader.type_flags(type_).is_ok_and(|flags| flags >> flag::HEAPTYPE & 1 == 1);
    let heap_types: Vec<Address> = types.iter().filter(is_heap).copied().collect();
    let is_named = |offset: usize| {
        let name = |&type_: &Address| {
            let name = reader.pointer(type_, offset).ok()?;
            reader.string(name, NAME_MAX).filter(|name| !name.is_empty())
        };
        heap_types.is_empty() || heap_types.iter().any(|type_| name(type_).is_some())
    };
    claim(is_named(layout.heap_type.ht_qualname), "PyHeapTypeObject.ht_qualname", || "no type has one".to_owned())?;
    claim(is_named(layout.heap_type.ht_name), "PyHeapTypeObject.ht_name", || "no type has one".to_owned())?;
    heap_types::prove(reader, main, &heap_types)
}

/// Checks that `sys.__dict__` has as many entries as it states.
fn entries<M: Memory + ?Sized>(reader: &Reader<'_, M>, main: &Interpreter) -> Result<(), ProofError> {
    let (mut stated, mut found) = (0, 0);
    for _ in 0..TRIES {
        stated = reader.pointer(main.sysdict, reader.layout.dict.ma_used)?.0;
        found = reader.dict_entries(main.sysdict)?.len() as u64;
        if stated == found {
            return Ok(());
        }
        reader.memory.forget();
    }
    claim(false, "PyDictObject.ma_used", || format!("it is {stated}, but sys.__dict__ has {found} entries"))
}

/// Checks that lists in `sys` do not hold more than their capacity.
fn lists<M: Memory + ?Sized>(reader: &Reader<'_, M>, main: &Interpreter) -> Result<(), ProofError> {
    let mut wrong = None;
    for _ in 0..TRIES {
        wrong = None;
        for name in ["path", "argv", "meta_path", "path_hooks", "warnoptions"] {
            let Some(list) = reader.dict_get(main.sysdict, name) else { continue };
            if reader.is_a(list, "list") {
                let size = reader.pointer(list, reader.layout.var_object.ob_size)?.0;
                let allocated = reader.pointer(list, reader.layout.list.allocated)?.0;
                let items = reader.pointer(list, reader.layout.list.ob_item)?;
                if size > allocated || allocated > ALLOCATED_MAX || items.is_null() != (allocated == 0) {
                    wrong = Some((name, size, allocated));
                }
            }
        }
        if wrong.is_none() {
            return Ok(());
        }
        reader.memory.forget();
    }
    claim(wrong.is_none(), "PyListObject.allocated", || format!("{wrong:?} (name, size, room)"))
}

/// Checks that the frozenset of standard library modules (3.10+) has as many keys as it states.
fn names<M: Memory + ?Sized>(reader: &Reader<'_, M>, main: &Interpreter) -> Result<(), ProofError> {
    let Some(set) = reader.dict_get(main.sysdict, "stdlib_module_names") else { return Ok(()) };
    if !reader.is_a(set, "frozenset") {
        return Ok(());
    }
    let layout = reader.layout;
    let word = |offset: usize| reader.pointer(set, offset).map(|word| word.0);
    let (fill, used, mask) = (word(layout.set.fill)?, word(layout.set.used)?, word(layout.set.mask)?);
    let sane = used <= fill && fill <= mask && mask < SLOTS_MAX && (mask + 1).is_power_of_two();
    claim(sane, "PySetObject.mask", || format!("{used} used, {fill} filled, mask {mask}"))?;
    let table = reader.pointer(set, layout.set.table)?;
    let mut keys = 0;
    for slot in 0..=mask {
        let entry = table.offset(slot as usize * layout.set_entry.stride());
        let key = reader.pointer(entry, layout.set_entry.key)?;
        if !key.is_null() && reader.string(key, NAME_MAX).is_some() {
            keys += 1;
        }
    }
    claim(keys == used, "setentry", || format!("{keys} strings found, the set counts {used}"))
}
