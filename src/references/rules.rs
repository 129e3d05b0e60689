//! Decides which words of a type's instances own references. Computed once per type, from its chain of base types and
//! the members that it declares.

use std::ops::Range;
use std::path::Path;

use rustc_hash::FxHashSet;

use crate::process::Address;
use crate::process::cache::CachedMemory;
use crate::process::memory::{Memory, MemoryExt};
use crate::python::interpreter::Python;
use crate::python::reader::{NAME_LENGTH_MAX, Reader};
use crate::python::type_flags as flag;
use crate::python::types::{TypeInfo, TypeTable};

use super::names::{self, FieldName};
use super::shapes::BodyShape;
use super::storage::Storage;

/// Upper bound on the bytes of an object's body that are read word by word. The largest C structs of known extensions
/// have some thousand bytes; numpy's metatypes have fewer than two thousand.
pub(crate) const BODY_MAX: usize = 1 << 16;

/// Modules linked into every interpreter (`Modules/Setup.bootstrap.in`, `PyImport_Inittab` of `Modules/config.c.in`,
/// 3.8 to 3.15), by the names in their types. [`BodyShape`] leaves out the words of their structs that own nothing, so
/// all others are references.
const INTERPRETERS_OWN: [&str; 31] = [
    "_abc",
    "_ast",
    "_codecs",
    "_collections",
    "_contextvars",
    "_functools",
    "_imp",
    "_io",
    "_operator",
    "_signal",
    "_sre",
    "_stat",
    "_symtable",
    "_thread",
    "_tracemalloc",
    "_typing",
    "_warnings",
    "_weakref",
    "ast",
    "builtins",
    "collections",
    "functools",
    "itertools",
    "operator",
    "posix",
    "re",
    "string.templatelib",
    "sys",
    "types",
    "typing",
    "weakref",
];

/// Upper bound on the chain of base types; the deepest known hierarchies have some tens.
const BASES_MAX: usize = 512;
/// Upper bound on the members of a type; a class has one per name in `__slots__`.
const MEMBERS_MAX: usize = 4096;
/// Types of members that are objects (`Include/descrobject.h`): `_Py_T_OBJECT`, `Py_T_OBJECT_EX`.
const MEMBER_OBJECT: u32 = 6;
/// See [`MEMBER_OBJECT`].
const MEMBER_OBJECT_EX: u32 = 16;

/// The rule of a type.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub type_: Address,
    /// Instances of heap types own their type.
    pub is_heap_type: bool,
    pub storage: Storage,
    /// Offsets of the body that are read word by word.
    pub body: Range<u32>,
    /// Offsets within the body that own nothing.
    pub skipped: Vec<u32>,
    /// Offsets of words whose lowest bit is a flag.
    pub tagged: Vec<u32>,
    /// For [`Storage::Opaque`]: the C struct, whose words may or may not be references.
    pub opaque: Range<u32>,
    /// Offsets within it that are known to own an object: the attribute dict and fields of the standard library's
    /// structs. A declared member may be borrowed (`sqlite3.Connection.Error`).
    pub owned: Vec<u32>,
    /// The C type that the struct belongs to.
    pub c_type: Address,
    pub basicsize: u32,
    pub itemsize: u64,
    /// Minimum number of items, whatever the object's length says.
    pub items_min: u32,
    pub has_managed_dict: bool,
    pub has_inline_values: bool,
    /// `tp_dictoffset`, if it is a plain offset.
    pub dict_offset: i64,
    pub names: Vec<(u32, FieldName)>,
    /// Offsets of words that are lookups.
    pub lookups: Vec<u32>,
}

impl Rule {
    /// The name of the word at an offset.
    pub fn name(&self, offset: u32) -> Option<FieldName> {
        self.names.iter().find(|(at, _)| *at == offset).map(|&(_, name)| name)
    }
}

/// Makes the rules of all types, by type id.
pub(crate) fn make<M: Memory + ?Sized>(memory: &M, python: &Python, types: &TypeTable) -> Vec<Rule> {
    let cached = CachedMemory::new(memory);
    let reader = Reader { memory: &cached, layout: &python.layout };
    let image = types.find(python.object_type.0).and_then(|object| image_of(&reader, types.get(object)));
    types.iter().map(|(_, info)| rule(&reader, types, info, image)).collect()
}

/// The file that contains a type's code.
fn image_of<'m, M: Memory + ?Sized>(reader: &Reader<'m, M>, info: &TypeInfo) -> Option<&'m Path> {
    let code = reader.pointer(info.address, reader.layout.type_object.tp_dealloc).ok()?;
    reader.memory.regions().find(code)?.path()
}

/// Whether a type's struct is the interpreter's own. `image` is the file that contains its code, if known.
fn is_interpreters_own<M: Memory + ?Sized>(reader: &Reader<'_, M>, info: &TypeInfo, image: Option<&Path>) -> bool {
    // A type of an extension may have the name of a builtin, since the module's name may be missing.
    INTERPRETERS_OWN.contains(&info.module.as_str()) && (image.is_none() || image_of(reader, info) == image)
}

fn rule<M: Memory + ?Sized>(reader: &Reader<'_, M>, types: &TypeTable, info: &TypeInfo, image: Option<&Path>) -> Rule {
    let layout = reader.layout;
    let bases = line_of_bases(reader, types, info);
    let basicsize = usize::try_from(info.basicsize).unwrap_or(0).min(BODY_MAX);
    // The C struct of its instances, without what Python classes append.
    let c_type = bases.iter().find(|base| !base.is_python_class);
    let c_size = usize::try_from(c_type.map_or(0, |base| base.basicsize)).unwrap_or(0).min(basicsize);
    let known = bases
        .iter()
        .filter(|base| !base.is_python_class)
        .find_map(|base| BodyShape::of_type(layout, base, c_size, basicsize));
    let is_opaque = known.is_none() && c_type.is_some_and(|base| !is_interpreters_own(reader, base, image));
    let opaque = if is_opaque { layout.object.size.min(c_size)..c_size } else { 0..0 };
    let shape = known.unwrap_or_else(|| match is_opaque {
        true => BodyShape::opaque(c_size..basicsize),
        false => BodyShape::plain(layout.object.size..basicsize),
    });
    let word = |offset: usize| reader.memory.read_u64(info.address.offset(offset)).unwrap_or(0) as i64;
    let mut skipped = shape.skipped;
    if let Ok(offset @ 1..) = usize::try_from(word(layout.type_object.tp_weaklistoffset)) {
        skipped.push(offset);
    }
    let has_managed_dict = layout.constants.managed_dict_before.is_some() && info.has(flag::MANAGED_DICT);
    let dict_offset = if has_managed_dict { 0 } else { word(layout.type_object.tp_dictoffset) };
    let has_dict = has_managed_dict || dict_offset != 0;
    // Regardless of what is known of the struct: a later version may have placed a dict in a word that was unused, as
    // numpy's ufuncs did.
    skipped.retain(|&offset| dict_offset <= 0 || offset as i64 != dict_offset);
    let storage = if has_dict && shape.storage == Storage::Leaf { Storage::Plain } else { shape.storage };
    let mut names: Vec<(u32, FieldName)> = bases.iter().flat_map(|base| members(reader, base)).collect();
    if let Ok(offset @ 1..) = u32::try_from(dict_offset) {
        names.insert(0, (offset, FieldName::Known("__dict__")));
    }
    let known_names = bases.iter().flat_map(|base| names::known(layout, &base.full_name()));
    let known_names: Vec<(u32, FieldName)> = known_names.collect();
    let owned = known_names.iter().map(|&(offset, _)| offset).chain(u32::try_from(dict_offset).ok());
    let owned: Vec<u32> = owned.filter(|&offset| offset > 0).collect();
    names.extend(known_names);
    let mut seen = FxHashSet::default();
    names.retain(|(offset, _)| seen.insert(*offset));
    let lookups = match bases.iter().any(|base| LOOK_UP.contains(&base.full_name().as_str())) {
        true => names.iter().filter(|(_, name)| is_lookup(reader, *name)).map(|(offset, _)| *offset).collect(),
        false => Vec::new(),
    };
    let offsets = |offsets: Vec<usize>| offsets.into_iter().map(|offset| offset as u32).collect();
    let opaque = opaque.start as u32..opaque.end as u32;
    let owned = owned.into_iter().filter(|offset| opaque.contains(offset)).collect();
    Rule {
        type_: info.address,
        is_heap_type: info.has(flag::HEAPTYPE),
        storage,
        body: shape.body.start as u32..shape.body.end.max(shape.body.start) as u32,
        skipped: offsets(skipped),
        tagged: offsets(shape.tagged),
        opaque,
        owned,
        c_type: c_type.map_or(Address::NULL, |base| base.address),
        basicsize: basicsize as u32,
        itemsize: info.itemsize,
        items_min: if storage == Storage::Tuple { hidden_items(reader, info) } else { 0 },
        has_managed_dict,
        has_inline_values: info.has_inline_values,
        dict_offset,
        names,
        lookups,
    }
}

/// Types whose instances refer to namespaces that they do not own.
const LOOK_UP: [&str; 2] = ["builtins.function", "builtins.frame"];

/// Whether a field is used for name lookup, or is the calling frame.
fn is_lookup<M: Memory + ?Sized>(reader: &Reader<'_, M>, name: FieldName) -> bool {
    const NAMES: [&str; 5] = ["__globals__", "__builtins__", "f_globals", "f_builtins", "f_back"];
    match name {
        FieldName::Known(name) | FieldName::Detail(name) => NAMES.contains(&name),
        FieldName::Declared(name) => {
            let name = reader.memory.read_c_string(name, NAME_LENGTH_MAX as usize);
            name.is_ok_and(|name| NAMES.contains(&name.as_str()))
        }
    }
}

/// A type and its chain of `tp_base`.
fn line_of_bases<'t, M: Memory + ?Sized>(
    reader: &Reader<'_, M>,
    types: &'t TypeTable,
    info: &'t TypeInfo,
) -> Vec<&'t TypeInfo> {
    let mut bases = vec![info];
    let mut at = info;
    while bases.len() < BASES_MAX {
        let base = reader.pointer(at.address, reader.layout.type_object.tp_base).unwrap_or_default();
        let Some(id) = types.find(base.0) else { break };
        at = types.get(id);
        bases.push(at);
    }
    bases
}

/// Number of items of a struct sequence that its length leaves out: `n_fields` in the type's dict counts all.
fn hidden_items<M: Memory + ?Sized>(reader: &Reader<'_, M>, info: &TypeInfo) -> u32 {
    /// Upper bound on the fields; `os.stat_result`, the longest, has some twenty.
    const FIELDS_MAX: i64 = 256;
    if info.is_python_class || info.address.is_null() {
        return 0;
    }
    let dict = reader.pointer(info.address, reader.layout.type_object.tp_dict).unwrap_or_default();
    let count = reader.dict_get(dict, "n_fields").and_then(|count| reader.small_int(count));
    count.filter(|count| (0..=FIELDS_MAX).contains(count)).unwrap_or(0) as u32
}

/// The object members that a type declares: `__slots__` of a class, fields of a C struct.
fn members<M: Memory + ?Sized>(reader: &Reader<'_, M>, info: &TypeInfo) -> Vec<(u32, FieldName)> {
    let table = reader.pointer(info.address, reader.layout.type_object.tp_members).unwrap_or_default();
    let mut found = Vec::new();
    for index in 0..MEMBERS_MAX {
        let Ok(Some(member)) = reader.member(table, index) else { break };
        if let (MEMBER_OBJECT | MEMBER_OBJECT_EX, Ok(offset)) = (member.kind, u32::try_from(member.offset)) {
            found.push((offset, FieldName::Declared(member.name)));
        }
    }
    found
}
