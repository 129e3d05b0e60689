//! The C structs whose objects are checked against the layout.

use crate::python::sizes::SizeRule;

/// The structs that are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CheckedStruct {
    Text,
    Set,
    ByteArray,
    Deque,
    OrderedDict,
    Array,
    Buffered,
    Code,
    Frame,
    Generator,
    BytesIo,
    Type,
}

/// All of them, in declaration order.
pub(crate) const CHECKED_STRUCTS: [CheckedStruct; CheckedStruct::Type as usize + 1] = [
    CheckedStruct::Text,
    CheckedStruct::Set,
    CheckedStruct::ByteArray,
    CheckedStruct::Deque,
    CheckedStruct::OrderedDict,
    CheckedStruct::Array,
    CheckedStruct::Buffered,
    CheckedStruct::Code,
    CheckedStruct::Frame,
    CheckedStruct::Generator,
    CheckedStruct::BytesIo,
    CheckedStruct::Type,
];

impl CheckedStruct {
    pub(crate) fn of(rule: SizeRule) -> Option<CheckedStruct> {
        Some(match rule {
            SizeRule::Str => CheckedStruct::Text,
            SizeRule::Set => CheckedStruct::Set,
            SizeRule::ByteArray => CheckedStruct::ByteArray,
            SizeRule::Deque => CheckedStruct::Deque,
            SizeRule::OrderedDict => CheckedStruct::OrderedDict,
            SizeRule::Array => CheckedStruct::Array,
            SizeRule::Buffered => CheckedStruct::Buffered,
            SizeRule::Code => CheckedStruct::Code,
            SizeRule::Frame => CheckedStruct::Frame,
            SizeRule::Generator => CheckedStruct::Generator,
            SizeRule::BytesIo => CheckedStruct::BytesIo,
            SizeRule::Type | SizeRule::CtypesType => CheckedStruct::Type,
            _ => return None,
        })
    }

    /// CPython's name for the struct.
    pub(crate) fn name(self) -> &'static str {
        match self {
            CheckedStruct::Text => "PyCompactUnicodeObject",
            CheckedStruct::Set => "PySetObject",
            CheckedStruct::ByteArray => "PyByteArrayObject",
            CheckedStruct::Deque => "dequeobject",
            CheckedStruct::OrderedDict => "PyODictObject",
            CheckedStruct::Array => "arrayobject",
            CheckedStruct::Buffered => "buffered",
            CheckedStruct::Code => "PyCodeObject",
            CheckedStruct::Frame => "PyFrameObject",
            CheckedStruct::Generator => "PyGenObject",
            CheckedStruct::BytesIo => "bytesio",
            CheckedStruct::Type => "PyHeapTypeObject",
        }
    }
}
