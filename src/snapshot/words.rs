//! The words for references, as a file has them: a text for each way in which an object refers to another.
//!
//! | text | the reference is |
//! | --- | --- |
//! | `attribute NAME` | an attribute among an object's own values |
//! | `field NAME` | a slot, or a field of a C struct |
//! | `name NAME` | a value in a namespace, by its name |
//! | `code TEXT` | a value under a key that stands in the program's text |
//! | `text`, `data` | a value under another str, or under another key: which one is not saved |
//! | `key`, `element`, `item` | a key, an element of a set, an item of a sequence |
//! | `variable NAME`, `thread NAME` | a value under a `ContextVar`; a thread's values in a `threading.local` |
//! | `closure`, `cell NAME` | the cells of a function's variables; what the cell of a variable has |
//! | `namespace`, `detail NAME` | a dict of attributes; a detail of how something is kept |
//! | `local NAME`, `stack` | a variable of a frame, a value on its stack |
//! | `module state`, `native TYPE`, `offset N` | kept by C code |
//! | `unknown` | not read again |
//!
//! Before that stands `uses `, if the reference looks something up and does not own it. An object that another one has
//! in several ways, one behind the other (as a key and its value), has several words.

use crate::analysis::labelled::{Word, WordKind};
use crate::python::identifier;
use crate::references::Label;
use crate::references::notation::{Spelled, beginning};

/// Of references that only look something up.
const USES: &str = "uses ";

/// The word for a reference that was not read.
pub const UNKNOWN: &str = "unknown";
/// The word for an item of a sequence.
pub const ITEM: &str = "item";
/// The word for a key.
pub const KEY: &str = "key";

/// The word for a reference that is a lookup.
pub fn lookup(word: &str) -> String {
    [USES, word].concat()
}

/// The word for a label and the way in which it is written. `in_namespace`: whether it is of a reference from a
/// namespace. Names that are data are left out.
pub fn word(label: Label, spelled: &Spelled, in_namespace: bool) -> String {
    let is_shared = matches!(label, Label::SharedAttribute(_));
    let with = |what: &str, name: &str| format!("{what} {name}");
    match spelled {
        Spelled::Namespace => "namespace".to_owned(),
        Spelled::Attribute(name) => with(if is_shared { "attribute" } else { "field" }, name),
        Spelled::AttributeData(_) => "attribute".to_owned(),
        Spelled::Text(name) if in_namespace && identifier::is_identifier(name) => with("name", name),
        Spelled::Text(_) => "text".to_owned(),
        Spelled::CodeText(text) if identifier::is_identifier(text) => with("code", text),
        Spelled::CodeText(text) => with("code", &beginning(text)),
        Spelled::Data(_) => "data".to_owned(),
        Spelled::ContextVar(name) => with("variable", &beginning(name)),
        Spelled::ThreadLocals(name) => with("thread", name),
        Spelled::Detail(name) => with("detail", name),
        Spelled::Closure => "closure".to_owned(),
        Spelled::Cell(name) => with("cell", name),
        Spelled::Index(_) => ITEM.to_owned(),
        Spelled::Local(name) => with("local", name),
        Spelled::Native(name) => with("native", name),
        Spelled::Offset(offset) => with("offset", &offset.to_string()),
        Spelled::Other(_) => match label {
            Label::Key => KEY,
            Label::Element => "element",
            Label::Local(_) => "local",
            Label::Stack => "stack",
            Label::ModuleState => "module state",
            _ => UNKNOWN,
        }
        .to_owned(),
    }
}

/// What a word says, and whether the reference is a lookup. `None` of a text that is no word.
pub fn read(text: &str) -> Option<(Word, bool)> {
    let (text, is_lookup) = text.strip_prefix(USES).map_or((text, false), |rest| (rest, true));
    let (what, name) = text.split_once(' ').map_or((text, None), |(what, name)| (what, Some(name.to_owned())));
    let (kind, spelled) = match (what, name) {
        (UNKNOWN, None) => (WordKind::Unknown, Spelled::Other("?")),
        (KEY, None) => (WordKind::Key, Spelled::KEY),
        (ITEM, None) => (WordKind::Item, Spelled::Index(0)),
        ("namespace", None) => (WordKind::Field, Spelled::Namespace),
        ("attribute", Some(name)) => (WordKind::Attribute, Spelled::Attribute(name)),
        ("attribute", None) => (WordKind::Attribute, Spelled::AttributeData(String::new())),
        ("field", Some(name)) => (WordKind::Field, Spelled::Attribute(name)),
        ("name", Some(name)) => (WordKind::Value, Spelled::Text(name)),
        ("text", None) => (WordKind::Value, Spelled::Text(String::new())),
        ("code", Some(name)) => (WordKind::Value, Spelled::CodeText(name)),
        ("data", None) => (WordKind::Value, Spelled::Data(None)),
        ("variable", Some(name)) => (WordKind::Value, Spelled::ContextVar(name)),
        ("thread", Some(name)) => (WordKind::Value, Spelled::ThreadLocals(name)),
        ("detail", Some(name)) => (WordKind::Field, Spelled::Detail(name)),
        ("closure", None) => (WordKind::Field, Spelled::Closure),
        ("cell", Some(name)) => (WordKind::Field, Spelled::Cell(name)),
        ("element", None) => (WordKind::Field, Spelled::ELEMENT),
        ("local", Some(name)) => (WordKind::Field, Spelled::Local(name)),
        ("local", None) => (WordKind::Field, Spelled::SOME_LOCAL),
        ("stack", None) => (WordKind::Field, Spelled::STACK),
        ("module", Some(name)) if name == "state" => (WordKind::Field, Spelled::MODULE_STATE),
        ("native", Some(name)) => (WordKind::Field, Spelled::Native(name)),
        ("offset", Some(offset)) => (WordKind::Field, Spelled::Offset(offset.parse().ok()?)),
        _ => return None,
    };
    Some((Word { kind, spelled }, is_lookup))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Address;

    #[test]
    fn words_come_back_without_data() {
        let value = Label::Value(Address(8));
        let text = |text: &str| Spelled::Text(text.to_owned());
        for (label, spelled, in_namespace, expected) in [
            (Label::SharedAttribute(3), Spelled::Attribute("user".to_owned()), false, "attribute user"),
            (Label::Field(16), Spelled::Attribute("__code__".to_owned()), false, "field __code__"),
            (Label::SharedAttribute(3), Spelled::AttributeData("a b".to_owned()), false, "attribute"),
            (value, text("secret"), false, "text"),
            (value, text("secret"), true, "name secret"),
            (value, text("a b"), true, "text"),
            (value, Spelled::CodeText("uses code".to_owned()), false, "code uses code"),
            (value, Spelled::Data(Some("7".to_owned())), false, "data"),
            (value, Spelled::ThreadLocals("thread MainThread".to_owned()), false, "thread thread MainThread"),
            (Label::Key, Spelled::KEY, false, "key"),
            (Label::Element, Spelled::ELEMENT, false, "element"),
            (Label::Local(2), Spelled::SOME_LOCAL, false, "local"),
            (Label::Local(2), Spelled::Local("rows".to_owned()), false, "local rows"),
            (Label::ModuleState, Spelled::MODULE_STATE, false, "module state"),
            (Label::Native, Spelled::Native("app.Pool".to_owned()), false, "native app.Pool"),
            (Label::Field(24), Spelled::Offset(24), false, "offset 24"),
            (Label::Dict, Spelled::Namespace, false, "namespace"),
            (Label::Field(64), Spelled::Closure, false, "closure"),
            (Label::Field(16), Spelled::Cell("cache".to_owned()), false, "cell cache"),
        ] {
            let written = word(label, &spelled, in_namespace);
            assert_eq!(written, expected);
            for (written, is_lookup) in [(written.clone(), false), (lookup(&written), true)] {
                let (read, was_lookup) = read(&written).expect("a word");
                assert_eq!(was_lookup, is_lookup);
                // What is written is the same, as far as it is shown.
                for in_namespace in [in_namespace, false] {
                    let (read, spelled) = (read.spelled.write(in_namespace, false), spelled.write(in_namespace, false));
                    assert_eq!(read, spelled, "{expected}");
                }
            }
        }
        for wrong in ["", "names a", "name", "item 3", "module", "offset x", "uses ", "uses uses key"] {
            assert!(read(wrong).is_none(), "{wrong}");
        }
    }
}
