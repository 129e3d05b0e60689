//! Escapes characters in names that would affect a terminal, a line or a document.
//!
//! Names come from the target and may be any text. Control characters control terminals, bidirectional controls and
//! line separators reorder or split what is shown (Unicode UAX #9, *Trojan Source*), and noncharacters are not allowed
//! in XML.

/// Whether a character is escaped by its number.
pub fn is_unsafe(char: char) -> bool {
    char.is_control()
        // Marks, embeddings, overrides and isolates of the bidirectional algorithm.
        || matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        // Separators of lines and paragraphs.
        || matches!(char, '\u{2028}' | '\u{2029}')
        // The byte order mark is invisible.
        || char == '\u{feff}'
        || is_noncharacter(char)
}

/// Whether a code point is a Unicode noncharacter: the last two of each plane, and 32 others.
fn is_noncharacter(char: char) -> bool {
    u32::from(char) & 0xfffe == 0xfffe || matches!(char, '\u{fdd0}'..='\u{fdef}')
}

/// A name that is safe on a terminal, in a line and (once markup is escaped) in XML.
pub fn printable(name: &str) -> String {
    let mut printable = String::with_capacity(name.len());
    for char in name.chars() {
        match is_unsafe(char) {
            true => printable.extend(char.escape_default()),
            false => printable.push(char),
        }
    }
    printable
}

/// Lines of a text, each printable, with their line breaks.
pub fn printable_lines(text: &str) -> String {
    text.lines().map(|line| printable(line) + "\n").collect()
}

/// A text as XML holds it, in attributes as well.
pub fn xml(text: &str) -> String {
    printable(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unsafe_is_shown_by_its_number() {
        assert_eq!(printable("a\x1b[31m\n"), "a\\u{1b}[31m\\n");
        assert_eq!(printable("\u{202e}RLO\u{2066}\u{200f}\u{61c}"), "\\u{202e}RLO\\u{2066}\\u{200f}\\u{61c}");
        assert_eq!(printable("\u{2028}\u{2029}"), "\\u{2028}\\u{2029}");
        assert_eq!(printable("\u{fffe}\u{ffff}\u{1fffe}\u{fdd0}"), "\\u{fffe}\\u{ffff}\\u{1fffe}\\u{fdd0}");
        assert_eq!(printable("a\u{feff}b"), "a\\u{feff}b");
        assert_eq!(printable("\u{9b}31m\u{7f}"), "\\u{9b}31m\\u{7f}");
        for name in ["Generic[int, str]", "名前", "e\u{301}", "\u{200d}", "…"] {
            assert_eq!(printable(name), name);
        }
    }
}
