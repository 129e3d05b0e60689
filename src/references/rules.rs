//! Which words of a type's instances own a reference? Worked out once per type, from its line of base types and the
//! members that it declares.

use std::ops::Range;

use rustc_hash::FxHashSet;

use crate::process::Address;
use crate::process::cache::CachedMemory;
use crate::process::memory::{Memory, MemoryExt};
use crate::python::interpreter::Python;
use crate::python::reader::Reader;
use crate::python::type_flags as flag;
use crate::python::types::{TypeInfo, TypeTable};

use super::BODY_MAX;
use super::names::{self, FieldName};
use super::shapes::Shape;

/// Base types followed from one type: `tp_base` of the deepest known hierarchies has some tens.
const BASES_MAX: usize = 512;
/// Members accepted in one table; a class has as many as it names in `__slots__`.
const MEMBERS_MAX: usize = 4096;
/// Kinds of members that are objects (`Include/descrobject.h`): `_Py_T_OBJECT`, `Py_T_OBJECT_EX`.
const MEMBER_OBJECT: u32 = 6;
/// See [`MEMBER_OBJECT`].
const MEMBER_OBJECT_EX: u32 = 16;

/// How the instances of a type keep references outside their body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// They keep none anywhere: numbers, strings.
    Leaf,
    /// They keep none outside.
    Plain,
    List,
    Tuple,
    Dict,
    OrderedDict,
    Set,
    Deque,
    /// Objects follow the fixed part.
    Items,
    /// Generators, coroutines, asynchronous generators.
    Generator,
    Frame,
    Code,
    Type,
    Module,
    Element,
    SimpleQueue,
    LruCache,
    /// A time zone is its last word, where it has one.
    TimeOfDay,
    /// What an iterator that was doubled read so far.
    TeePiece,
    NdArray,
}

/// A type's rule.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub type_: Address,
    /// Instances of heap types own their type.
    pub is_heap_type: bool,
    pub family: Family,
    /// Offsets of the body that is read word by word.
    pub body: Range<u32>,
    /// Of these, offsets of words that own nothing.
    pub skipped: Vec<u32>,
    /// Offsets of words whose lowest bit is a flag.
    pub tagged: Vec<u32>,
    pub basicsize: u32,
    pub itemsize: u64,
    /// Items that are there whatever the object's length says.
    pub items_min: u32,
    pub has_managed_dict: bool,
    pub has_inline_values: bool,
    /// `tp_dictoffset`, where it is meant as such.
    pub dict_offset: i64,
    pub names: Vec<(u32, FieldName)>,
}

impl Rule {
    /// What the word at an offset is called.
    pub fn name(&self, offset: u32) -> Option<FieldName> {
        self.names.iter().find(|(at, _)| *at == offset).map(|&(_, name)| name)
    }
}

/// Makes the rules of all types, by type id.
pub(crate) fn make<M: Memory + ?Sized>(memory: &M, python: &Python, types: &TypeTable) -> Vec<Rule> {
    let cached = CachedMemory::new(memory);
    let reader = Reader { memory: &cached, layout: &python.layout };
    types.iter().map(|(_, info)| rule(&reader, types, info)).collect()
}

fn rule<M: Memory + ?Sized>(reader: &Reader<'_, M>, types: &TypeTable, info: &TypeInfo) -> Rule {
    let layout = reader.layout;
    let bases = line_of_bases(reader, types, info);
    let basicsize = usize::try_from(info.basicsize).unwrap_or(0).min(BODY_MAX);
    // The C struct of its instances, before what Python classes add behind it.
    let c_size = bases.iter().find(|base| !base.is_python_class).map_or(0, |base| base.basicsize);
    let c_size = usize::try_from(c_size).unwrap_or(0).min(basicsize);
    let shape = bases
        .iter()
        .filter(|base| !base.is_python_class)
        .find_map(|base| Shape::of_type(layout, base, c_size, basicsize))
        .unwrap_or_else(|| Shape::plain(layout.object.size..basicsize));
    let word = |offset: usize| reader.memory.read_u64(info.address.offset(offset)).unwrap_or(0) as i64;
    let mut skipped = shape.skipped;
    if let Ok(offset @ 1..) = usize::try_from(word(layout.type_object.tp_weaklistoffset)) {
        skipped.push(offset);
    }
    let has_managed_dict = layout.constants.managed_dict_before.is_some() && info.has(flag::MANAGED_DICT);
    let dict_offset = if has_managed_dict { 0 } else { word(layout.type_object.tp_dictoffset) };
    let has_dict = has_managed_dict || dict_offset != 0;
    // Whatever is known of the struct: a later version may have put a dict where a word was free, as numpy's ufuncs did.
    skipped.retain(|&offset| dict_offset <= 0 || offset as i64 != dict_offset);
    let family = if has_dict && shape.family == Family::Leaf { Family::Plain } else { shape.family };
    let mut names: Vec<(u32, FieldName)> = bases.iter().flat_map(|base| members(reader, base)).collect();
    if let Ok(offset @ 1..) = u32::try_from(dict_offset) {
        names.insert(0, (offset, FieldName::Known("__dict__")));
    }
    names.extend(bases.iter().flat_map(|base| names::known(layout, &base.full_name())));
    let mut seen = FxHashSet::default();
    names.retain(|(offset, _)| seen.insert(*offset));
    let offsets = |offsets: Vec<usize>| offsets.into_iter().map(|offset| offset as u32).collect();
    Rule {
        type_: info.address,
        is_heap_type: info.has(flag::HEAPTYPE),
        family,
        body: shape.body.start as u32..shape.body.end.max(shape.body.start) as u32,
        skipped: offsets(skipped),
        tagged: offsets(shape.tagged),
        basicsize: basicsize as u32,
        itemsize: info.itemsize,
        items_min: if family == Family::Tuple { hidden_items(reader, info) } else { 0 },
        has_managed_dict,
        has_inline_values: info.has_inline_values,
        dict_offset,
        names,
    }
}

/// A type and its `tp_base`, that type's and so on.
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

/// Items of a struct sequence that its length leaves out: `n_fields` in the type's dict counts all.
fn hidden_items<M: Memory + ?Sized>(reader: &Reader<'_, M>, info: &TypeInfo) -> u32 {
    /// `os.stat_result`, the longest, has some twenty.
    const FIELDS_MAX: i64 = 256;
    if info.is_python_class || info.address.is_null() {
        return 0;
    }
    let dict = reader.pointer(info.address, reader.layout.type_object.tp_dict).unwrap_or_default();
    let count = reader.dict_get(dict, "n_fields").and_then(|count| reader.small_int(count));
    count.filter(|count| (0..=FIELDS_MAX).contains(count)).unwrap_or(0) as u32
}

/// The objects that a type declares as members: `__slots__` of a class, fields of a C struct.
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
