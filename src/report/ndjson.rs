//! Writes every object as a line of JSON.

use crate::heap::object::Object;
use crate::process::Address;
use crate::python::object_header::Refcount;
use crate::python::sizes::Basis;
use crate::python::types::{TypeInfo, TypeTable};

use super::json;

/// An object that another one refers to, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The object.
    pub address: Address,
    /// The reference's label, if requested.
    pub label: Option<String>,
}

/// Writes objects of one target. A dump has millions of lines: what is the same for all objects of a type is made once,
/// and numbers are written digit by digit into the text.
pub struct Writer {
    types: Vec<TypeWords>,
}

/// The words that all objects of a type have, from the type's name to the size, and behind the count.
struct TypeWords {
    before: Vec<u8>,
    after: &'static [u8],
}

impl TypeWords {
    fn of(info: &TypeInfo) -> TypeWords {
        let mut before = b"\",\"type\":".to_vec();
        push_string(&mut before, &info.full_name());
        before.extend(b",\"type_address\":\"");
        push_address(&mut before, info.address);
        before.extend(b"\",\"shallow_size\":");
        let after: &[u8] = if info.basis == Basis::LowerBound { b",\"size_basis\":\"lower-bound\"" } else { b"" };
        TypeWords { before, after }
    }
}

impl Writer {
    /// A writer for a target with these types.
    pub fn new(types: &TypeTable) -> Writer {
        Writer { types: types.iter().map(|(_, info)| TypeWords::of(info)).collect() }
    }

    /// Adds the line of one object, with its references if requested, and a newline.
    pub fn push(&self, text: &mut Vec<u8>, object: &Object, references: Option<&[Reference]>) {
        let words = &self.types[object.type_id.index()];
        let (refcount, immortal): (u64, &[u8]) = match object.refcount {
            Refcount::Count(count) => (count, b""),
            Refcount::Immortal(count) => (u64::from(count), b",\"immortal\":true"),
        };
        text.extend(b"{\"address\":\"");
        push_address(text, object.address);
        text.extend(&words.before);
        push_number(text, object.size);
        let tracked: &[u8] = if object.tracked { b"true" } else { b"false" };
        text.extend(b",\"tracked\":");
        text.extend(tracked);
        text.extend(b",\"refcount\":");
        push_number(text, refcount);
        text.extend(immortal);
        text.extend(words.after);
        if let Some(references) = references {
            text.extend(b",\"references\":[");
            for (nth, reference) in references.iter().enumerate() {
                if nth > 0 {
                    text.push(b',');
                }
                push_reference(text, reference);
            }
            text.push(b']');
        }
        text.extend(b"}\n");
    }
}

fn push_reference(text: &mut Vec<u8>, reference: &Reference) {
    match &reference.label {
        None => {
            text.push(b'"');
            push_address(text, reference.address);
            text.push(b'"');
        }
        Some(label) => {
            text.extend(b"{\"address\":\"");
            push_address(text, reference.address);
            text.extend(b"\",\"label\":");
            push_string(text, label);
            text.push(b'}');
        }
    }
}

/// A string that is safe on a terminal.
fn push_string(text: &mut Vec<u8>, string: &str) {
    json::write(text, string).expect("a text in memory takes all that is written");
}

/// An address as `0x7f...`.
fn push_address(text: &mut Vec<u8>, address: Address) {
    let (mut digits, mut at, mut rest) = ([0; 18], 18, address.0);
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[(rest & 15) as usize];
        rest >>= 4;
        if rest == 0 {
            break;
        }
    }
    digits[at - 2..at].copy_from_slice(b"0x");
    text.extend(&digits[at - 2..]);
}

/// A number in decimal.
fn push_number(text: &mut Vec<u8>, number: u64) {
    let (mut digits, mut at, mut rest) = ([0; 20], 20, number);
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    text.extend(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::testing::{layout, types};
    use crate::python::types::TypeId;
    use serde_json::{Value, json};

    #[test]
    fn numbers_are_written_as_everywhere() {
        for number in [0, 1, 9, 10, 0xf0, 0x7f75_9ac2_1dc0, u64::MAX] {
            let (mut address, mut decimal) = (Vec::new(), Vec::new());
            push_address(&mut address, Address(number));
            push_number(&mut decimal, number);
            assert_eq!(address, Address(number).to_string().as_bytes());
            assert_eq!(decimal, number.to_string().as_bytes());
        }
    }

    #[test]
    fn a_line_is_a_document() {
        let writer = Writer::new(&TypeTable::of(types(&layout())));
        let object = Object {
            address: Address(0x7f00_0000_1000),
            type_id: TypeId(0),
            size: 56,
            refcount: Refcount::Immortal(7),
            tracked: true,
        };
        let reference = |label: Option<&str>| Reference { address: Address(16), label: label.map(str::to_owned) };
        let mut text = Vec::new();
        writer.push(&mut text, &object, Some(&[reference(None), reference(Some("a\"\u{1b}"))]));
        assert_eq!(text.iter().filter(|&&byte| byte == b'\n' || byte == 0x1b).count(), 1);
        let line: Value = serde_json::from_slice(&text).expect("a document");
        assert_eq!(line["address"], "0x7f0000001000");
        assert_eq!((&line["shallow_size"], &line["refcount"]), (&json!(56), &json!(7)));
        assert_eq!((&line["tracked"], &line["immortal"]), (&json!(true), &json!(true)));
        assert_eq!(line["references"], json!(["0x10", {"address": "0x10", "label": "a\"\u{1b}"}]));
        text.clear();
        writer.push(&mut text, &Object { refcount: Refcount::Count(1), tracked: false, ..object }, None);
        let line: Value = serde_json::from_slice(&text).expect("a document");
        assert_eq!((line.get("immortal"), line.get("references"), &line["tracked"]), (None, None, &json!(false)));
    }
}
