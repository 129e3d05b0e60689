//! Writes every object as a line of JSON.

use std::io::{self, Write};

use serde::Serialize;
use serde::ser::SerializeStruct;

use crate::heap::object::Object;
use crate::process::Address;
use crate::python::object_header::Refcount;
use crate::python::sizes::Basis;
use crate::python::types::{TypeInfo, TypeTable};

use super::json;

#[derive(Serialize)]
struct Line<'a, 'b> {
    address: Hex,
    #[serde(rename = "type")]
    type_: &'a str,
    type_address: Hex,
    shallow_size: u64,
    tracked: bool,
    refcount: u64,
    #[serde(skip_serializing_if = "is_false")]
    immortal: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_basis: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    references: Option<&'b [Reference]>,
}

/// An object that another one refers to, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The object.
    pub address: Address,
    /// The reference's label, if requested.
    pub label: Option<String>,
}

impl Serialize for Reference {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(label) = &self.label else { return Hex(self.address).serialize(serializer) };
        let mut both = serializer.serialize_struct("Reference", 2)?;
        both.serialize_field("address", &Hex(self.address))?;
        both.serialize_field("label", label)?;
        both.end()
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

/// An address as `"0x7f..."`.
struct Hex(Address);

impl Serialize for Hex {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // By hand, since a dump has millions of them: the digits from the last to the first.
        let (mut text, mut at, mut rest) = ([b'0'; 18], 18, self.0.0);
        loop {
            at -= 1;
            text[at] = b"0123456789abcdef"[(rest & 15) as usize];
            rest >>= 4;
            if rest == 0 {
                break;
            }
        }
        text[at - 1] = b'x';
        serializer.serialize_str(std::str::from_utf8(&text[at - 2..]).unwrap_or_default())
    }
}

/// Writes objects of one target. Type names are formatted once.
pub struct Writer {
    types: Vec<TypeWords>,
}

struct TypeWords {
    name: String,
    address: Address,
    basis: Basis,
}

impl Writer {
    /// A writer for a target with these types.
    pub fn new(types: &TypeTable) -> Writer {
        let words = |info: &TypeInfo| TypeWords { name: info.full_name(), address: info.address, basis: info.basis };
        Writer { types: types.iter().map(|(_, info)| words(info)).collect() }
    }

    /// Writes one object, with its references if requested, and a newline.
    ///
    /// # Errors
    /// Errors of the writer.
    pub fn write(&self, out: &mut dyn Write, object: &Object, references: Option<&[Reference]>) -> io::Result<()> {
        let words = &self.types[object.type_id.index()];
        let (refcount, immortal) = match object.refcount {
            Refcount::Count(count) => (count, false),
            Refcount::Immortal(count) => (u64::from(count), true),
        };
        let line = Line {
            address: Hex(object.address),
            type_: &words.name,
            type_address: Hex(words.address),
            shallow_size: object.size,
            tracked: object.tracked,
            refcount,
            immortal,
            size_basis: (words.basis == Basis::LowerBound).then_some("lower-bound"),
            references,
        };
        json::write(out, &line)?;
        out.write_all(b"\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_everywhere() {
        for address in [0, 1, 0xf0, 0x7f75_9ac2_1dc0, u64::MAX] {
            let written = serde_json::to_string(&Hex(Address(address))).expect("a string");
            assert_eq!(written, format!("\"{}\"", Address(address)));
        }
    }
}
