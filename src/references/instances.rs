//! Follows the attributes of instances: dicts and values before, inside or after an object.
//!
//! Mirrors `PyObject_VisitManagedDict` (`Objects/dictobject.c`, v3.13 to v3.15), `_PyObject_VisitInstanceAttributes`
//! (v3.11, v3.12), and `_PyObject_GetDictPtr` (`Objects/object.c`) for negative `tp_dictoffset`.

use crate::process::Address;
use crate::process::memory::Memory;
use crate::python::reader::Reader;
use crate::python::type_flags as flag;
use crate::python::types::TypeTable;

use super::{Label, Reads, References, Subject};

/// Upper bound on the names that a type shares with its instances: at most 30 (`SHARED_KEYS_MAX_SIZE`), and 254 in any
/// version.
const SHARED_MAX: u64 = 254;

impl<M: Memory + ?Sized> References<'_, M> {
    /// The value of an instance's attribute by name: of its dict, its values or a slot. `None` if the object's type is
    /// unknown.
    pub fn attribute(&self, reads: &Reads, types: &TypeTable, object: Address, name: &str) -> Option<Address> {
        let reader = Reader { memory: self.memory, layout: self.layout };
        let type_ = reader.type_of(object).ok()?;
        let type_id = types.find(type_.0)?;
        let is_named = |offset| self.field_name(type_id, offset).is_some_and(|(field, _)| field == name);
        let (mut value, mut dict) = (None, None);
        self.for_each(reads, object, type_id, &mut |word, label| match label {
            Label::SharedAttribute(index) if value.is_none() => {
                let found = self.shared_name(type_, index);
                value = found.filter(|&found| reader.is_string(found, name)).map(|_| Address(word));
            }
            Label::Dict => dict = Some(Address(word)),
            Label::Field(offset) if value.is_none() && is_named(offset) => value = Some(Address(word)),
            // Until 3.10 the dict is an ordinary field.
            Label::Field(_) if reader.has_type_flag(Address(word), flag::DICT_SUBCLASS) => dict = Some(Address(word)),
            _ => {}
        });
        value.or_else(|| reader.dict_get(dict?, name))
    }

    pub(super) fn managed_dict(&self, reads: &Reads, subject: &Subject<'_>, visit: &mut impl FnMut(u64, Label)) {
        let constants = &self.layout.constants;
        let Some(before) = constants.managed_dict_before else { return };
        let Some(dict) = self.word(reads, subject.address.back(before), 0) else { return };
        if let Some(before) = constants.managed_values_before {
            // 3.11: two words before the object, for values or a dict.
            match self.word(reads, subject.address.back(before), 0) {
                Some(0) => {}
                Some(values) => return self.values(reads, subject, Address(values), visit),
                None => return,
            }
        } else if dict & 1 == 1 && !subject.rule.has_inline_values {
            // 3.12: one word, whose lowest bit tells which.
            return self.values(reads, subject, Address(dict.wrapping_add(1)), visit);
        }
        if subject.rule.has_inline_values
            && let Some(layout) = &self.layout.dict_values
        {
            let values = subject.address.offset(subject.rule.basicsize as usize);
            let valid = layout.valid.and_then(|offset| self.byte(reads, values, offset));
            let capacity = layout.capacity.and_then(|offset| self.byte(reads, values, offset));
            if let (Some(1..), Some(capacity)) = (valid, capacity) {
                self.value_words(reads, values.offset(layout.values), u64::from(capacity), visit);
            }
        }
        if dict != 0 {
            visit(dict, Label::Dict);
        }
    }

    /// The values behind a pointer (3.11 and 3.12): one for each name of the type.
    fn values(&self, reads: &Reads, subject: &Subject<'_>, values: Address, visit: &mut impl FnMut(u64, Label)) {
        let Some(keys) = self.word(reads, subject.type_, self.layout.heap_type.ht_cached_keys) else { return };
        let Some(count) = self.shared_key_count(reads, Address(keys)) else { return };
        let first = values.offset(self.layout.dict_values.as_ref().map_or(0, |layout| layout.values));
        self.value_words(reads, first, count, visit);
    }

    fn value_words(&self, reads: &Reads, first: Address, count: u64, visit: &mut impl FnMut(u64, Label)) {
        self.for_each_word(reads, first, count.min(SHARED_MAX), &mut |index, word| {
            if word != 0 {
                visit(word, Label::SharedAttribute(index as u32));
            }
        });
    }

    /// The dict of an instance of variable size, which follows its items (until 3.11).
    pub(super) fn dict_behind(&self, reads: &Reads, subject: &Subject<'_>, visit: &mut impl FnMut(u64, Label)) {
        let rule = subject.rule;
        let Some(size) = self.word(reads, subject.address, self.layout.var_object.ob_size) else { return };
        let items = (size as i64).unsigned_abs().checked_mul(rule.itemsize);
        let end = items.and_then(|items| items.checked_add(u64::from(rule.basicsize)));
        let end = end.and_then(|end| end.checked_next_multiple_of(8));
        let at = end.and_then(|end| end.checked_add_signed(rule.dict_offset)).and_then(|at| usize::try_from(at).ok());
        let Some(at) = at else { return reads.tear() };
        match self.word(reads, subject.address, at) {
            Some(dict) if dict != 0 => visit(dict, Label::Dict),
            _ => {}
        }
    }
}
