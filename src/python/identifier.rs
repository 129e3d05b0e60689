//! Distinguishes names that come from source code from names that a program computes.
//!
//! Python accepts any string as the name of an attribute, a module, a function, a thread or a task. Names that could
//! appear in source code are identifiers. Anything else may be personal data or a token, and is hidden as other values
//! are. Python's rule is in the language reference, *Identifiers and keywords*.

/// Shown in place of a name that is data.
pub const HIDDEN: &str = "…";

/// Names in angle brackets that the compiler gives to anonymous code (`Python/compile.c`, `Python/symtable.c`).
const OF_COMPILER: [&str; 8] =
    ["<lambda>", "<locals>", "<module>", "<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>", "<string>"];
/// Prefixes of such names that end in an identifier (3.12+); `<cell line: 1>` is a notebook cell.
const OF_COMPILER_BEFORE: [&str; 2] = ["<generic parameters of ", "<cell line: "];

/// Whether a name is an identifier: `str.isidentifier`.
pub fn is_identifier(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|first| first == '_' || unicode_ident::is_xid_start(first))
        && chars.all(unicode_ident::is_xid_continue)
}

/// Whether a name consists of identifiers joined by dots, as module names do.
pub fn is_dotted(name: &str) -> bool {
    name.split('.').all(is_identifier)
}

/// Whether a name is that of a function or other code: `Class.method`, `handle.<locals>.<lambda>`.
pub fn is_of_code(name: &str) -> bool {
    let is_part = |part: &str| is_identifier(part) || is_of_compiler(part);
    name.split('.').all(is_part)
}

fn is_of_compiler(part: &str) -> bool {
    let rest = OF_COMPILER_BEFORE.iter().find_map(|before| part.strip_prefix(before)?.strip_suffix('>'));
    OF_COMPILER.contains(&part) || rest.is_some_and(|rest| rest.chars().all(unicode_ident::is_xid_continue))
}

/// Whether a name has the form that Python gives to threads and tasks: an identifier, then a number and the function's
/// name: `MainThread`, `Thread-3 (handle)`, `Task-12`, `ThreadPoolExecutor-0_1`.
pub fn is_of_thread(name: &str) -> bool {
    let (name, function) = match name.strip_suffix(')').and_then(|name| name.split_once(" (")) {
        Some((name, function)) => (name, Some(function)),
        None => (name, None),
    };
    let base = name.trim_end_matches(|char: char| char.is_ascii_digit() || char == '-' || char == '_');
    // A name that is only underscores leaves an empty base.
    (is_identifier(base) || is_identifier(name)) && function.is_none_or(is_of_code)
}

/// The name of code for reports: the name itself, or [`HIDDEN`] if it is data.
pub fn shown_of_code(name: &str, show_values: bool) -> &str {
    if show_values || is_of_code(name) { name } else { HIDDEN }
}

/// Quotes a string in Python's notation, with single quotes.
pub fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('\'');
    for char in text.chars() {
        match char {
            '"' => quoted.push(char),
            char => quoted.extend(char.escape_debug()),
        }
    }
    quoted.push('\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_source_text_are_identifiers() {
        for name in ["x", "_", "__init__", "été", "名前", "a1"] {
            assert!(is_identifier(name), "{name}");
        }
        for name in ["", "1a", "a b", "a-b", "a.b", "a@b", "a\u{202e}b", "<x>"] {
            assert!(!is_identifier(name), "{name}");
        }
        assert!(is_dotted("app.server") && !is_dotted("app.") && !is_dotted("app.user@example"));
    }

    #[test]
    fn code_may_have_names_of_the_compiler() {
        for name in ["handle", "Class.method", "f.<locals>.<lambda>", "<module>", "<generic parameters of f>"] {
            assert!(is_of_code(name), "{name}");
        }
        for name in ["<script>", "handler of alice", "f.<locals>.a b", "<generic parameters of a b>", ""] {
            assert!(!is_of_code(name), "{name}");
        }
    }

    #[test]
    fn threads_and_tasks_may_be_numbered() {
        for name in ["MainThread", "Thread-3 (handle)", "Thread-1", "Task-12", "ThreadPoolExecutor-0_1", "asyncio_0"] {
            assert!(is_of_thread(name), "{name}");
        }
        for name in ["alice@example.com", "worker for alice", "user-alice-1", "-1", "", "Thread-3 (a b)"] {
            assert!(!is_of_thread(name), "{name}");
        }
    }

    #[test]
    fn strings_are_quoted_as_python_does() {
        assert_eq!(quoted("a\"b"), "'a\"b'");
        assert_eq!(quoted("it's\n"), "'it\\'s\\n'");
    }
}
