//! Writes JSON that is safe on a terminal: characters for which [`escape::is_unsafe`] holds are escaped by number,
//! which does not change the document.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};

use super::escape;

/// Writes a value on one line, without a newline.
///
/// # Errors
/// Errors of the writer.
pub fn write(out: &mut dyn Write, value: &(impl Serialize + ?Sized)) -> io::Result<()> {
    Ok(value.serialize(&mut Serializer::with_formatter(out, Safe(CompactFormatter)))?)
}

/// Writes a value with line breaks and indentation, and a newline.
///
/// # Errors
/// Errors of the writer.
pub fn write_pretty(out: &mut dyn Write, value: &(impl Serialize + ?Sized)) -> io::Result<()> {
    value.serialize(&mut Serializer::with_formatter(&mut *out, Safe(PrettyFormatter::new())))?;
    writeln!(out)
}

/// A formatter that escapes more characters than JSON requires.
struct Safe<F>(F);

/// Forwards methods to the inner formatter.
macro_rules! inner {
    ($($method:ident $(($argument:ident: $type:ty))?),* $(,)?) => {$(
        fn $method<W: ?Sized + Write>(&mut self, writer: &mut W $(, $argument: $type)?) -> io::Result<()> {
            self.0.$method(writer $(, $argument)?)
        }
    )*};
}

impl<F: Formatter> Formatter for Safe<F> {
    inner! {
        begin_array, end_array, begin_array_value(first: bool), end_array_value,
        begin_object, end_object, begin_object_key(first: bool), end_object_key, begin_object_value, end_object_value,
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, char)) = rest.char_indices().find(|&(_, char)| escape::is_unsafe(char)) {
            writer.write_all(&rest.as_bytes()[..at])?;
            let mut units = [0; 2];
            char.encode_utf16(&mut units).iter().try_for_each(|unit| write!(writer, "\\u{unit:04x}"))?;
            rest = &rest[at + char.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_safe_and_the_same() {
        let value =
            serde_json::json!({"k\u{202e}": ["a\u{2028}b", "\u{fffe}\u{1ffff}\u{7f}\u{9b}", "\x1b\"é", 1.5, null]});
        for write in [|out: &mut Vec<u8>, value| write(out, value), |out: &mut Vec<u8>, value| write_pretty(out, value)]
        {
            let mut out = Vec::new();
            write(&mut out, &value).unwrap();
            let text = String::from_utf8(out.clone()).unwrap();
            assert!(!text.chars().any(|char| char != '\n' && escape::is_unsafe(char)), "{text:?}");
            assert!(text.contains('é'), "{text}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
        }
    }
}
